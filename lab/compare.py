#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Run an existing test suite on the unpatched and on the patched kernel.

What counts is that the verdicts are the same, not what they are: a test that
fails on both has nothing to do with the series. Those that differ are run again
on both kernels. It is a difference if no verdict of the patched kernel is one that
the unpatched has shown in any run. Tests that the series adds are named, and have
to pass on the patched kernel.
"""

import argparse
import re
import subprocess
import time

import machine as lab

MACHINES = ("qemu-base", "qemu")
LIMIT = 120
RETRIES = 2
# Tests leave files in their folder, and some want O_DIRECT on a real file system.
PREPARE = "mkfs.ext4 -q -F /dev/nvme0n1 && mount /dev/nvme0n1 /mnt && chmod 1777 /mnt"
VERDICTS = {0: "pass", 77: "skip"}


def liburing_tests():
    """Build liburing's suite: (names, those that the series adds)."""
    lab.build_liburing()
    tree = lab.BUILD / "liburing"
    lab.step("BUILD", "liburing/test", ["make", f"-j{lab.JOBS}", "-C", "test"],
             lab.LOG / "build-liburing-tests.log", cwd=tree)
    folder = tree / "test"
    names = sorted(path.name[:-2] for path in folder.glob("*.t"))
    added = subprocess.run(["git", "-C", str(tree), "diff", "--name-only", "--diff-filter=A",
                            "base..work", "--", "test"], check=True,
                           stdout=subprocess.PIPE).stdout.decode().split()
    added = {re.sub(r"^test/(.*)\.c$", r"\1", name) for name in added}
    # what runtests.sh leaves out of a plain run as well
    return [name for name in names if not name.startswith("syzlang")], added


def start(machine):
    guest = lab.Guest(machine)
    guest.boot(lab.default_options(smp=2))
    end, _, status = guest.job(PREPARE, 60, "repo", lambda kind, data: None)
    if end != "exit" or status:
        guest.remove()
        raise lab.Failed(f"{machine}: no file system for the tests ({end} {status})")
    return guest


def run_one(guest, name, out):
    """The verdict of one test, and whether the machine can go on."""
    program = lab.BUILD / "liburing" / "test" / f"{name}.t"
    log = []

    def sink(kind, data):
        log.append(data.decode(errors="replace"))

    before = time.monotonic()
    try:
        end, _, status = guest.job(f"cd /mnt && {program}", LIMIT, "repo", sink)
    except lab.Died:
        end, status = "died", 1
    text = "".join(log)
    out.write(f"==== {name}: {end} {status}, {time.monotonic() - before:.1f}s\n{text}\n")
    out.flush()
    if lab.splat(text):
        return "splat", False
    if end == "exit":
        return VERDICTS.get(status, "fail"), True
    return {"timeout": "timeout"}.get(end, end), end == "timeout"


def run_suite(machine, names):
    """name -> verdict. The machine is booted once, and again if a test takes it down."""
    verdicts = {}
    lab.adopt_orphans()
    lab.build_init()
    lab.LOG.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    guest = None
    with open(lab.LOG / f"compare-{machine}.log", "a", encoding="utf-8") as out:
        try:
            for number, name in enumerate(names, 1):
                if not guest:
                    guest = start(machine)
                verdicts[name], alive = run_one(guest, name, out)
                if verdicts[name] not in ("pass", "skip"):
                    lab.say(f"  {verdicts[name]:<8}{machine:<11} {name}")
                if number % 32 == 0:
                    lab.say(f"  RUN     {machine:<11} {number} of {len(names)}, "
                            f"{time.monotonic() - begin:.0f}s")
                if not alive:
                    guest.remove()
                    guest = None
        finally:
            if guest:
                guest.remove()
    counts = {}
    for verdict in verdicts.values():
        counts[verdict] = counts.get(verdict, 0) + 1
    summary = ", ".join(f"{counts[key]} {key}" for key in sorted(counts))
    lab.say(f"  RUN     {machine:<11} {summary}, {time.monotonic() - begin:.0f}s")
    return verdicts


def compare(names, added):
    """Run all on both kernels, what differs again, and say what does."""
    seen = {}
    for machine in MACHINES:
        seen[machine] = {name: [verdict] for name, verdict in run_suite(machine, names).items()}
    base, now = (seen[machine] for machine in MACHINES)

    def differing():
        # one that doesn't come out the same each time on the unpatched kernel shows nothing
        return [name for name in names
                if name not in added and not set(base[name]) & set(now[name])]

    def failing():
        return [name for name in names if name in added and "pass" not in now[name]]

    for _ in range(RETRIES):
        again = differing() + failing()
        if not again:
            break
        lab.say(f"  AGAIN   {' '.join(again)}")
        for machine in MACHINES:
            for name, verdict in run_suite(machine, again).items():
                seen[machine][name].append(verdict)
    differ, bad_new = differing(), failing()
    same = [name for name in names if name not in added and name not in differ]
    for name in same:
        if set(base[name] + now[name]) <= {"pass", "skip"}:
            continue
        lab.say(f"  NOTE    {name}: {', '.join(base[name])} on unpatched, "
                f"{', '.join(now[name])} on patched")
    for name in differ:
        lab.say(f"  DIFFERS {name}: {', '.join(base[name])} on unpatched, "
                f"{', '.join(now[name])} on patched")
    for name in bad_new:
        lab.say(f"  NEW     {name}: {', '.join(now[name])}")
    lab.say(f"{len(same)} same, {len(differ)} differ, {len(added & set(names))} new of which "
            f"{len(bad_new)} do not pass")
    return 1 if differ or bad_new or not same else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=["liburing"])
    parser.add_argument("names", nargs="*", help="only these tests")
    args = parser.parse_args()
    for machine in MACHINES:
        lab.build(machine)
        (lab.LOG / f"compare-{machine}.log").unlink(missing_ok=True)
    names, added = liburing_tests()
    if args.names:
        names = [name for name in names if name in args.names]
    return compare(names, added)


if __name__ == "__main__":
    lab.program("compare", main)
