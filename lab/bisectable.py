# SPDX-License-Identifier: GPL-2.0
"""Build every commit of the kernel series, with its options on and with each one off.

Called as `lab/series.py linux bisectable`. Each commit builds the folders that
it touches, with W=1; the last one builds the whole kernel. FULL=1 builds the
whole kernel at every commit. What was built once is not built again.
"""

import hashlib
import os
import re
import shutil
import subprocess

import machine

PLACE = machine.BUILD / "bisect"
TREE = PLACE / "tree"
# Everything that the lab can turn on, so that the series' own options can be on as well.
CONFIG = "qemu-debug"
# Folders whose files go into no kernel object.
NO_OBJECTS = ("Documentation", "tools", "scripts", "LICENSES", "samples", "usr")


def git(*words):
    done = subprocess.run(["git", "-C", str(TREE), *words], check=False, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise machine.Failed(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout


def go_to(commit):
    """Move the working tree; only files that differ are written."""
    main = machine.BUILD / "linux"
    # a broken link to build/linux would make git look at the repo around it
    if not (TREE / ".git").exists() or machine.git(TREE, "rev-parse", "HEAD") is None:
        shutil.rmtree(TREE, ignore_errors=True)
        machine.git(main, "worktree", "prune")
        machine.say("  TREE    build/bisect/tree")
        if machine.git(main, "worktree", "add", "--detach", str(TREE), commit) is None:
            raise machine.Failed("cannot check out build/bisect/tree")
    git("checkout", "-q", "--detach", "--force", commit)


def options(base, commit):
    """The Kconfig symbols that the series has brought by this commit."""
    diff = git("diff", base, commit, "--", "*Kconfig*")
    return re.findall(r"^\+(?:menu)?config (\w+)$", diff, re.M)


def folders(commit):
    """What to build to see whether a commit compiles."""
    found = set()
    for path in git("diff-tree", "--no-commit-id", "--name-only", "-r", commit).split("\n"):
        top = path.split("/")[0]
        if path.startswith("include/"):
            found.add("io_uring/")
        elif "/" in path and top not in NO_OBJECTS and re.search(r"\.[chS]$|/(Makefile|Kconfig)$",
                                                                 path):
            found.add(os.path.dirname(path) + "/")
    return sorted(found)


def make(folder):
    argv = ["make", "-C", str(TREE), f"O={folder}", "ARCH=x86_64", "LOCALVERSION="]
    if shutil.which("ccache"):
        argv += ["CC=ccache gcc", "HOSTCC=ccache gcc"]
    return argv


def configure(variant, wanted):
    """Write the variant's .config; return it as text and the options that Kconfig refused."""
    folder = PLACE / variant
    folder.mkdir(parents=True, exist_ok=True)
    lines = [l for l in machine.fragments(CONFIG).splitlines()
             if l.split("=")[0][len("CONFIG_"):] not in wanted]
    lines += [f"CONFIG_{name}={value}" for name, value in wanted.items()]
    (folder / ".lab-wanted").write_text("\n".join(lines) + "\n")
    config = folder / ".config"
    old = (config.read_text(), config.stat().st_mtime_ns) if config.is_file() else None
    done = subprocess.run(make(folder) + ["allnoconfig",
                                          f"KCONFIG_ALLCONFIG={folder / '.lab-wanted'}"],
                          check=False, env=machine.build_env(), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise machine.Failed(f"configuring {variant} failed:\n{done.stdout}")
    text = config.read_text()
    if old and old[0] == text:
        os.utime(config, ns=(old[1], old[1]))
    got = machine.parse_config(text)
    return text, [name for name, value in wanted.items()
                  if got.get(f"CONFIG_{name}", "n") != value]


def own_warnings(log, base, commit):
    """Compiler warnings in files that the series touches; others are the base's."""
    ours = set(git("diff", "--name-only", base, commit).split())
    found = []
    for line in log.read_text(errors="replace").splitlines():
        place = re.match(r"(?:\.\./)*(?:\S*/build/bisect/tree/)?([\w./-]+):\d+.*warning:", line)
        if place and place.group(1) in ours:
            found.append(line)
    return found


def build(number, total, variant, base, commit, targets):
    what = f"{number}/{total} {variant}"
    log = machine.LOG / f"bisect-{number}-{variant}.log"
    machine.step("BISECT", what,
                 make(PLACE / variant) + [f"-j{machine.JOBS}", "W=1", *targets], log)
    warnings = own_warnings(log, base, commit)
    if warnings:
        raise machine.Failed("\n".join([f"BISECT {what} warns:"] + warnings[:10]))


def variants(names):
    """The configurations to try: all options on, and each of them off."""
    yield "on", dict.fromkeys(names, "y")
    for off in names:
        yield f"no-{off.lower()}", {n: "n" if n == off else "y" for n in names}


def check_commit(number, total, base, commit, full):
    go_to(commit)
    done = PLACE / "done"
    last = number == total
    for variant, wanted in variants(options(base, commit)):
        config, refused = configure(variant, wanted)
        if variant != "on" and variant[3:].upper() in refused:
            machine.say(f"  BISECT  {number}/{total} {variant}: other options force it on")
            continue
        if refused and variant == "on":
            machine.say(f"  BISECT  {number}/{total} cannot be on: {' '.join(refused)}")
        targets = ["vmlinux"] if full or (last and variant == "on") else folders(commit)
        key = hashlib.sha256("\n".join([commit, config, *targets]).encode()).hexdigest()
        if done.is_file() and key in done.read_text():
            machine.say(f"  BISECT  {number}/{total} {variant:<12} built before")
        elif targets:
            build(number, total, variant, base, commit, targets)
            with open(done, "a", encoding="utf-8") as out:
                out.write(key + "\n")


def check(base, commits):
    """Build all commits; raise machine.Failed at the first that does not build."""
    with machine.locked("bisect"):
        for number, (commit, subject) in enumerate(commits, 1):
            machine.say(f"  BISECT  {number}/{len(commits)} {subject}")
            check_commit(number, len(commits), base, commit, os.environ.get("FULL") == "1")
