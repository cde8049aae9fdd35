#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Run an existing test suite on the unpatched and on the patched kernel.

What counts is that the verdicts are the same, not what they are: a test that
fails on both has nothing to do with the series. Those that differ are run again
on both kernels. It is a difference if no verdict of the patched kernel is one that
the unpatched has shown in any run. Tests that the series adds are named, and have
to pass on the patched kernel.

The suites are liburing's, and that of the kernel's ublk driver. Of the latter each
kernel runs its own, as one of the tests asks whether the server knows all that the
driver does. The patched one does it a second time, with a server that uses fused
commands wherever it can.
"""

import argparse
import re
import shutil
import subprocess
import time

import machine as lab

MACHINES = ("qemu-base", "qemu")
RETRIES = 2
# Tests leave files in their folder, and some want O_DIRECT on a real file system.
PREPARE = "mkfs.ext4 -q -F /dev/nvme0n1 && mount /dev/nvme0n1 /mnt && chmod 1777 /mnt"
VERDICTS = {0: "pass", 4: "skip", 77: "skip"}
KUBLK_FUSED = lab.ROOT / "lab" / "guest" / "kublk-fused"


class Suite:
    """Tests, and how they are run: on the unpatched kernel, then on the patched one."""

    def __init__(self, names, added, limit, prepare, runs):
        self.names = names
        self.added = added
        # seconds that one may take
        self.limit = limit
        self.prepare = prepare
        # what a run is called: the machine, and the command for the name of a test
        self.runs = runs

    def select(self, names):
        if names:
            self.names = [name for name in self.names if name in names]


def liburing_suite():
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
    names = [name for name in names if not name.startswith("syzlang")]
    command = f"cd /mnt && {folder}/{{}}.t"
    return Suite(names, added, 120, PREPARE, {machine: (machine, command) for machine in MACHINES})


def ublk_suite():
    lab.build_fio()
    lab.build_ublk()
    lab.build_ublk("base/linux", "ublk-base")
    installed = lab.BUILD / "user" / "selftests"
    names = sorted(path.stem.removeprefix("test_")
                   for path in (installed / "ublk-base").glob("test_*_*.sh"))
    # the same tests, and a server that knows of fused commands
    shutil.rmtree(installed / "ublk-fused", ignore_errors=True)
    shutil.copytree(installed / "ublk", installed / "ublk-fused")
    (installed / "ublk-fused" / "kublk").rename(installed / "ublk-fused" / "kublk.real")
    shutil.copy(KUBLK_FUSED, installed / "ublk-fused" / "kublk")
    before, now = MACHINES
    return Suite(names, set(), 900, "true", {
        before: (before, "lab/guest/ublk {} ublk-base"),
        now: (now, "lab/guest/ublk {}"),
        f"{now}, fused": (now, "lab/guest/ublk {} ublk-fused")})


SUITES = {"liburing": liburing_suite, "ublk": ublk_suite}


def start(machine, prepare):
    guest = lab.Guest(machine)
    guest.boot(lab.default_options(smp=2))
    end, _, status = guest.job(prepare, 60, "repo", lambda kind, data: None)
    if end != "exit" or status:
        guest.remove()
        raise lab.Failed(f"{machine}: not ready for the tests ({end} {status})")
    return guest


def run_one(guest, name, command, limit, out):
    """The verdict of one test, and whether the machine can go on."""
    log = []

    def sink(kind, data):
        log.append(data.decode(errors="replace"))

    before = time.monotonic()
    try:
        end, _, status = guest.job(command.format(name), limit, "repo", sink)
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


def log_of(run):
    return lab.LOG / f"compare-{run.replace(', ', '-')}.log"


def run_suite(suite, run, names):
    """name -> verdict. The machine is booted once, and again if a test takes it down."""
    verdicts = {}
    machine, command = suite.runs[run]
    lab.adopt_orphans()
    lab.build_init()
    lab.LOG.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    guest = None
    with open(log_of(run), "a", encoding="utf-8") as out:
        try:
            for number, name in enumerate(names, 1):
                if not guest:
                    guest = start(machine, suite.prepare)
                verdicts[name], alive = run_one(guest, name, command, suite.limit, out)
                if verdicts[name] not in ("pass", "skip"):
                    lab.say(f"  {verdicts[name]:<8}{run:<11} {name}")
                if number % 32 == 0:
                    lab.say(f"  RUN     {run:<11} {number} of {len(names)}, "
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
    lab.say(f"  RUN     {run:<11} {summary}, {time.monotonic() - begin:.0f}s")
    return verdicts


def compare(suite):
    """Run all on both kernels, what differs again, and say what does."""
    seen = {}
    for run in suite.runs:
        seen[run] = {name: [verdict]
                     for name, verdict in run_suite(suite, run, suite.names).items()}
    before, *after = suite.runs

    def differing():
        # one that doesn't come out the same each time on the unpatched kernel shows nothing
        return [name for name in suite.names if name not in suite.added and
                not all(set(seen[before][name]) & set(seen[run][name]) for run in after)]

    def failing():
        return [name for name in suite.names if name in suite.added and
                not all("pass" in seen[run][name] for run in after)]

    def told(name):
        return "; ".join(f"{', '.join(seen[run][name])} on {run}" for run in suite.runs)

    for _ in range(RETRIES):
        again = differing() + failing()
        if not again:
            break
        lab.say(f"  AGAIN   {' '.join(again)}")
        for run in suite.runs:
            for name, verdict in run_suite(suite, run, again).items():
                seen[run][name].append(verdict)
    differ, bad_new = differing(), failing()
    same = [name for name in suite.names if name not in suite.added and name not in differ]
    for name in same:
        if not {verdict for run in suite.runs for verdict in seen[run][name]} <= {"pass", "skip"}:
            lab.say(f"  NOTE    {name}: {told(name)}")
    for name in differ:
        lab.say(f"  DIFFERS {name}: {told(name)}")
    for name in bad_new:
        lab.say(f"  NEW     {name}: {told(name)}")
    lab.say(f"{len(same)} same, {len(differ)} differ, "
            f"{len(suite.added & set(suite.names))} new of which {len(bad_new)} do not pass")
    return 1 if differ or bad_new or not same else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("names", nargs="*", help="only these tests")
    args = parser.parse_args()
    for machine in MACHINES:
        lab.build(machine)
    suite = SUITES[args.suite]()
    suite.select(args.names)
    for run in suite.runs:
        log_of(run).unlink(missing_ok=True)
    return compare(suite)


if __name__ == "__main__":
    lab.program("compare", main)
