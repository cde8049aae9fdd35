#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Run the tests of lab/tests.d in the machines that they need.

Each machine is booted once; as many run beside each other as there are CPUs. The
lists in the folder "all" are for --all only. A line of a list is

    NAME  MACHINES  SECONDS  KIND  ARGUMENT

MACHINES is a comma-separated list; the test runs in each of them. KIND says
what the argument is and what counts as one test:

    kselftest  a kselftest program; each test that it reports is NAME.test
    kunit      a KUnit suite that is built in; each case is NAME.case
    liburing   a program of liburing's test folder; its exit status decides
    command    a shell command, run in the repo; its exit status decides

Arguments of a program that are drive:SERIAL:NSID:PARTITION become the name of that,
see lab/guest/drive, and NAME=VALUE in front of a kselftest its environment.

Exit status 77 (or 4, kselftest's) is a skip. With CI=true a test that every
machine skips is a failure: not every machine has all, but one must have it.
"""

import argparse
import contextlib
import fnmatch
import itertools
import multiprocessing
import multiprocessing.connection
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import demo
import machine as lab

LISTS = lab.ROOT / "lab" / "tests.d"
BAD_LIST = lab.ROOT / "lab" / "selftest" / "machine.list"
KINDS = ("kselftest", "kunit", "liburing", "command")
VERDICT = re.compile(r"^(not )?ok \d+ ?(?:- )?([^#]*?)\s*(?:#\s*(.*))?$")
SKIP_STATUS = (4, 77)
# DMA_API_DEBUG turns itself off when an allocation of its own fails: tests of this name
# may do that to it, and are the last of their machine
FAIL_NTH = "fail_nth"
OUT_OF_MEMORY = re.compile(r"DMA-API: cacheline tracking ENOMEM")
KUNIT = "/sys/kernel/debug/kunit"


def read_lists(paths):
    entries = []
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            where = f"{path.relative_to(lab.ROOT)}:{number}"
            fields = line.split(None, 4)
            if len(fields) != 5 or fields[3] not in KINDS or not fields[2].isdigit():
                raise lab.Failed(f"{where}: want NAME MACHINES SECONDS KIND ARGUMENT")
            name, machines, limit, kind, argument = fields
            for wanted in machines.split(","):
                if wanted not in lab.MACHINES:
                    raise lab.Failed(f"{where}: no machine {wanted}")
                entries.append({"name": name, "machine": wanted, "timeout": int(limit),
                                "kind": kind, "arg": argument, "cases": None})
    return entries


def matches(name, pattern):
    """A pattern names a test, or everything below it."""
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, pattern + ".*")


def selected(entry, pattern):
    """Whether the entry, or some of the cases that only it knows, may match."""
    if not pattern or matches(entry["name"], pattern):
        return True
    if entry["kind"] not in ("kselftest", "kunit"):
        return False
    parts = pattern.split(".")
    for number in range(1, len(parts)):
        if fnmatch.fnmatchcase(entry["name"], ".".join(parts[:number])):
            entry["cases"] = pattern
            return True
    return False


def quoted(words):
    """Words for the shell, which asks for the names of drives."""
    script = shlex.quote(str(lab.ROOT / "lab" / "guest" / "drive"))
    return " ".join(f'{word[:at]}"$({script} {shlex.join(word[at:].split(":")[1:])})"'
                    if (at := word.find("drive:")) >= 0 else shlex.quote(word)
                    for word in words)


def command_of(entry):
    """(shell command, folder) of an entry."""
    arg = entry["arg"]
    if entry["kind"] == "kunit":
        run = shlex.quote(f"{KUNIT}/{arg}")
        return (f"[ -e {run}/run ] || {{ echo no KUnit suite {shlex.quote(arg)} >&2; exit 1; }}; "
                f"echo run > {run}/run && cat {run}/results", "repo")
    if entry["kind"] == "liburing":
        name, *rest = shlex.split(arg)
        program = str(lab.BUILD / "liburing" / "test" / f"{name}.t")
        return "exec " + quoted([program] + rest) + " 2>&1", "scratch"
    if entry["kind"] == "kselftest":
        words = shlex.split(arg)
        env = list(itertools.takewhile(lambda word: "=" in word, words))
        path, *rest = words[len(env):]
        last = (entry["cases"] or "*").rpartition(".")[2]
        if not re.search(r"[*?[]", last):
            # whichever of the three it names
            rest += ["-f", last, "-v", last, "-t", last]
        return "exec env " + quoted(env + [str(lab.ROOT / path)] + rest) + " 2>&1", "scratch"
    return arg, "repo"


class Results:
    """Counts, prints and keeps the verdicts of a machine, or of all."""

    def __init__(self, machine=""):
        self.machine = machine
        self.count = {"ok": 0, "not ok": 0, "skip": 0}
        self.ktap = []
        self.reasons = {}
        self.passed = set()
        self.skipped = {}

    def add(self, name, verdict, took, reason="", detail=(), log=None):
        if verdict == "skip":
            self.skipped[name] = reason
        if verdict == "ok":
            self.passed.add(name)
        self.count[verdict] += 1
        self.reasons[name] = reason if verdict == "not ok" else ""
        lines = [f"  {verdict:<7} {self.machine:<12} {name:<48} {took:6.1f}s"]
        if reason:
            lines[0] += f"  {reason}"
        if verdict == "not ok":
            lines += ["            " + text for text in list(detail)[:lab.SPLAT_LINES]]
            if log:
                lines.append(f"            log: {log.relative_to(lab.ROOT)}")
        # all at once, as another machine may want to say something
        lab.say("\n".join(lines))
        number = len(self.ktap) + 1
        tail = f" # SKIP {reason}" if verdict == "skip" else f" # {reason}" if reason else ""
        word = "not ok" if verdict == "not ok" else "ok"
        self.ktap.append(f"{word} {number} {name}{tail}")

    def merge(self, other):
        """Take over the verdicts of a machine; a failure anywhere is one."""
        for verdict, number in other.count.items():
            self.count[verdict] += number
        for name, reason in other.reasons.items():
            self.reasons[name] = self.reasons.get(name) or reason
        self.passed |= other.passed
        self.skipped |= other.skipped

    def forbid_skips(self):
        """A test that ran nowhere has shown nothing."""
        for name, reason in self.skipped.items():
            if name not in self.passed:
                self.count["skip"] -= 1
                self.add(name, "not ok", 0, f"no machine runs it: {reason}")

    def write_ktap(self, path):
        head = ["KTAP version 1", f"1..{len(self.ktap)}"]
        path.write_text("\n".join(head + self.ktap) + "\n")
        self.ktap = []


class Reader:
    """What an entry says while it runs, turned into verdicts as they come."""

    def __init__(self, entry, results, log):
        self.entry = entry
        self.results = results
        self.path = log
        self.file = open(log, "w", encoding="utf-8")
        self.partial = ""
        self.kernel = ""
        self.recent = []
        self.cases = 0
        self.failed = 0
        self.complaints = 0
        self.planned = None
        self.since = time.monotonic()

    def sink(self, kind, data):
        text = data.decode(errors="replace")
        self.file.write(text)
        self.file.flush()
        if kind == "log":
            self.kernel += text
            return
        *lines, self.partial = (self.partial + text).split("\n")
        for line in lines:
            self.line(line)

    def line(self, line):
        self.recent.append(line)
        if self.entry["kind"] not in ("kselftest", "kunit"):
            return
        # KUnit's cases stand one level in; their parameters, deeper, are not counted
        indent = 4 if self.entry["kind"] == "kunit" else 0
        if len(line) - len(line.lstrip(" ")) != indent:
            return
        plan = re.match(r"^1\.\.(\d+)", line[indent:])
        if plan:
            self.planned = int(plan[1])
            self.recent = []
        found = VERDICT.match(line[indent:])
        if found:
            self.verdict(found)

    def verdict(self, found):
        took = time.monotonic() - self.since
        name = f"{self.entry['name']}.{found[2]}"
        comment = found[3] or ""
        reason, verdict, detail = "", "ok", self.recent[:-1]
        complaint = self.complaint()
        if found[1]:
            verdict, reason = "not ok", "failed"
        elif comment.upper().startswith("SKIP"):
            verdict, reason = "skip", comment[4:].strip() or "no reason given"
        if complaint:
            verdict, reason, detail = "not ok", "kernel report", complaint
            self.complaints += 1
        self.cases += 1
        self.failed += verdict == "not ok"
        if not self.entry["cases"] or matches(name, self.entry["cases"]):
            self.results.add(name, verdict, took, reason, detail, self.path)
        self.kernel, self.recent, self.since = "", [], time.monotonic()

    def complaint(self):
        """What the kernel reports; that it ran out of memory is what a fail_nth test is for."""
        text = self.kernel
        if self.entry["name"].endswith(FAIL_NTH):
            text = "\n".join(l for l in text.splitlines() if not OUT_OF_MEMORY.search(l))
        return lab.splat(text)

    def finish(self, end, took, status, died=None):
        """The verdict on the entry itself."""
        if self.partial:
            self.line(self.partial)
        self.file.close()
        complaint = self.complaint()
        reason, detail = "", self.recent[-lab.SPLAT_LINES:]
        if died:
            reason, detail = f"died: {died[0]}", died[1]
        elif complaint:
            reason, detail = "kernel report", complaint
            self.complaints += 1
        elif end == "timeout":
            reason = f"timeout after {self.entry['timeout']} s"
        elif end == "stuck":
            reason = "stuck: it cannot be killed"
        elif end == "signal":
            reason = f"signal {status}"
        nested = self.entry["kind"] in ("kselftest", "kunit")
        if nested and not reason:
            if status in SKIP_STATUS and not self.cases:
                self.results.add(self.entry["name"], "skip", took, " ".join(self.recent[-1:]))
                return
            if self.entry["cases"] and self.planned == 0 and not status:
                return
            if self.cases != (self.planned or 0) or not self.cases:
                reason = f"{self.cases} of {self.planned or 0} tests reported, status {status}"
            elif status and not self.failed:
                reason = f"exit status {status}"
            else:
                return
        if not nested and not reason and status in SKIP_STATUS:
            self.results.add(self.entry["name"], "skip", took,
                             self.recent[-1] if self.recent else "no reason given")
            return
        if not reason and status:
            reason = f"exit status {status}"
        self.results.add(self.entry["name"], "not ok" if reason else "ok", took, reason,
                         detail, self.path)


def share():
    """How many processes there are for each CPU of the host, so that nothing but a hang is late."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def run_entry(guest, entry, results, folder):
    """Returns whether the machine can go on.

    It cannot after a kernel report: lockdep, for one, is off from then on.
    """
    log = folder / (entry["name"] + ".log")
    entry = dict(entry, timeout=round(entry["timeout"] * share()))
    reader = Reader(entry, results, log)
    command, where = command_of(entry)
    begin = time.monotonic()
    before = len(guest.console_text())
    try:
        end, took, status = guest.job(command, entry["timeout"], where, reader.sink)
    except lab.Died as err:
        guest.stop()
        text = guest.console_text()[before:]
        detail = lab.splat(text) or text.splitlines()[-lab.SPLAT_LINES:]
        reader.finish("died", time.monotonic() - begin, 1, (str(err), detail))
        return False
    reader.finish(end, took, status)
    return end != "stuck" and not reader.complaints


def check_leaks(guest, results, folder):
    begin = time.monotonic()
    text = guest.leaks()
    if text is None:
        return
    log = folder / "kmemleak.log"
    log.write_text(text)
    found = lab.splat(text)
    results.add(f"{guest.machine}.kmemleak", "not ok" if found else "ok",
                time.monotonic() - begin, "leaks" if found else "", found or (), log)


def run_machine(name, entries, results):
    folder = lab.LOG / "test" / name
    folder.mkdir(parents=True, exist_ok=True)
    left = sorted(entries, key=lambda entry: entry["name"].endswith(FAIL_NTH))
    begin = time.monotonic()
    boots = 0
    while left:
        boots += 1
        try:
            with lab.booted(name, lab.default_options()) as guest:
                lab.say(f"  BOOT    {name}, in {guest.boot_seconds:.1f}s")
                found = lab.splat(guest.boot_log)
                if found:
                    results.add(f"{name}.boot", "not ok", guest.boot_seconds, "kernel report",
                                found)
                alive = True
                while left and alive:
                    alive = run_entry(guest, left.pop(0), results, folder)
                if alive and lab.MACHINES[name]["debug"]:
                    check_leaks(guest, results, folder)
        except lab.Died as err:
            text = (lab.LOG / f"{name}.console.log").read_text(errors="replace")
            results.add(f"{name}.boot", "not ok", time.monotonic() - begin, str(err),
                        lab.splat(text) or text.splitlines()[-lab.SPLAT_LINES:],
                        lab.LOG / f"{name}.console.log")
            break
    results.write_ktap(lab.LOG / f"{name}.ktap")
    again = f", {boots} boots" if boots > 1 else ""
    lab.say(f"  RESULT  {name}: {lab.seconds(time.monotonic() - begin)}{again}")


def machine_process(name, entries, pipe):
    """What runs a machine's tests in a process of its own."""
    lab.die_with_parent()
    results = Results(name)
    # Ctrl-C reaches the parent as well, which says all that there is to say
    with contextlib.suppress(KeyboardInterrupt):
        try:
            run_machine(name, entries, results)
        except lab.Failed as err:
            results.add(f"{name}.runner", "not ok", 0, str(err))
        pipe.send(results)


def run_all(entries, results):
    """As many machines at once as there are CPUs: most tests keep one busy."""
    waiting = [(name, mine) for name in lab.MACHINES
               if (mine := [entry for entry in entries if entry["machine"] == name])]
    # whoever has most to do is not to be the last that all wait for
    waiting.sort(key=lambda work: -sum(entry["timeout"] for entry in work[1]))
    running = {}
    while waiting or running:
        while waiting and len(running) < len(os.sched_getaffinity(0)):
            name, mine = waiting.pop(0)
            ours, theirs = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.Process(target=machine_process, args=(name, mine, theirs),
                                              daemon=True)
            process.start()
            theirs.close()
            running[ours] = name, process
        for pipe in multiprocessing.connection.wait(running):
            name, process = running.pop(pipe)
            try:
                results.merge(pipe.recv())
            except EOFError:
                results.add(f"{name}.runner", "not ok", 0, "ended before its tests had")
            pipe.close()
            process.join()


def check_selftest(entries, results):
    """Every known-bad test must have failed, and for the reason that its name says."""
    wrong = [f"{entry['name']}: {results.reasons.get(entry['name']) or 'passed'}"
             for entry in entries
             if not results.reasons.get(entry["name"], "").startswith(entry["name"].split(".")[0])]
    for text in wrong:
        lab.say(f"  the runner did not notice: {text}")
    lab.say(f"{len(entries) - len(wrong)} of {len(entries)} known-bad tests noticed")
    return 1 if wrong or not entries else 0


@contextlib.contextmanager
def busy_host(number):
    """Whoever runs the tests may have other work beside them."""
    others = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(number)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def build_for(entries):
    folders = set()
    for name, spec in lab.MACHINES.items():
        if spec["folder"] not in folders and any(e["machine"] == name for e in entries):
            folders.add(spec["folder"])
            lab.build(name)
    lab.build_init()
    if any("build/user/selftests/" in entry["arg"] for entry in entries):
        lab.build_selftests()
    names = sorted({shlex.split(entry["arg"])[0] for entry in entries
                    if entry["kind"] == "liburing"})
    if names:
        lab.build_liburing(names)
    ublk = any("lab/guest/ublk " in entry["arg"] for entry in entries)
    if ublk:
        lab.build_ublk()
    if ublk or any("build/fio/" in entry["arg"] for entry in entries):
        lab.build_fio()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="?", help="a glob over test names")
    parser.add_argument("--machine", action="append", choices=lab.MACHINES,
                        help="only these machines")
    parser.add_argument("--no-build", action="store_true", help="take what is built")
    parser.add_argument("--all", action="store_true",
                        help="also what takes too long for each change")
    parser.add_argument("--load", type=int, default=0, metavar="N",
                        help="with so many processes beside them that only compute")
    parser.add_argument("--selftest", action="store_true",
                        help="known-bad tests: the runner must notice each")
    options = parser.parse_args()
    paths = [BAD_LIST] if options.selftest else sorted(LISTS.glob("*.list"))
    if options.all:
        paths += sorted(LISTS.glob("all/*.list"))
    entries = [entry for entry in read_lists(paths) if selected(entry, options.pattern)
               and (not options.machine or entry["machine"] in options.machine)]
    if not entries:
        raise lab.Failed(f"no test matches {options.pattern or 'at all'}")
    if not options.no_build:
        build_for(entries)
        # nobody else would notice that they don't compile any more
        if not options.pattern:
            demo.build_programs()
    results = Results()
    with busy_host(options.load):
        run_all(entries, results)
    if options.selftest:
        return check_selftest(entries, results)
    if os.environ.get("CI") == "true":
        results.forbid_skips()
    count = results.count
    ran = any(name.partition(".")[0] not in lab.MACHINES for name in results.reasons)
    if not ran:
        lab.say(f"no test matches {options.pattern}")
    lab.say(f"{count['ok']} passed, {count['not ok']} failed, {count['skip']} skipped")
    return 1 if count["not ok"] or not ran else 0


if __name__ == "__main__":
    lab.program("lab", main)
