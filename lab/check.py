#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Run the static gates on the series: lab/check.py [gate...]

A gate first gets an input that it must reject (lab/selftest/static/): one that
accepts it has gone blind and fails. Then it gets the series as it stands in
build/linux, build/liburing and build/fio, uncommitted edits included. A gate
that cannot run fails; none is skipped.
"""

import collections
import concurrent.futures
import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fetch import PROJECTS

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
LINUX = BUILD / "linux"
LIBURING = BUILD / "liburing"
FIO = BUILD / "fio"
WORK = BUILD / "check"
LOG = BUILD / "log"
BAD = ROOT / "lab" / "selftest" / "static"
JOBS = os.cpu_count() or 1

# The first 7.3 compiler of this family is 17; Debian 12 and 13 both have 19.
LLVM = "-19"
# 7.3 switches checking off, with one warning and exit 0, when sparse cannot parse
# __typeof_unqual__, and Debian's 0.6.4 cannot.
SPARSE = "sparse -D__typeof_unqual__=__typeof__"

# checkpatch types that do not apply here, each with its reason.
CHECKPATCH_IGNORE = {
    "FILE_PATH_CHANGES": "asks each patch for MAINTAINERS; one patch of the series has the entry",
}
# The same for programs, which have no kernel headers.
CHECKPATCH_IGNORE_TOOLS = {
    "PREFER_DEFINED_ATTRIBUTE_MACRO": "__aligned() and its like are the kernel's",
    "BIT_MACRO": "is the kernel's, and kublk.h, where it isn't, has shifts all over",
    "MACRO_WITH_FLOW_CONTROL": "a macro may leave its test, as kselftest's own SKIP() does",
    "BRACES": "ASSERT_ and EXPECT_ of kselftest are two statements each",
    "MULTISTATEMENT_MACRO_USE_DO_WHILE": "a macro may declare variants of a fixture",
    "MACRO_ARG_REUSE": "and each of these gets the macro's arguments",
    "ENOSYS": "a FUSE server answers so to what it doesn't have",
}
# Words that codespell takes for misspellings.
CODESPELL_IGNORE = "inflight,optin,befores"

WARNING = re.compile(r"^(?P<path>[^\s:]+):\d+(:\d+)?: (fatal )?(warning|error): ")

Gate = collections.namedtuple("Gate", "name tools check known_bad expected")


class Blocked(Exception):
    """A gate cannot run; the text says why and what to do."""


def run(argv, cwd=ROOT, text=None, extra_env=None):
    """Exit status and merged output of a command; its log line goes to the gate's log."""
    env = dict(os.environ, LC_ALL="C.UTF-8", PATH="/usr/bin:/bin:" + os.environ.get("PATH", ""))
    env.update(extra_env or {})
    # What a calling make or a person's shell has set for other builds.
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "KBUILD_OUTPUT", "ARCH", "CROSS_COMPILE",
                 "LLVM", "CC", "KCFLAGS", "KCPPFLAGS", "CF"):
        env.pop(name, None)
    argv = [str(a) for a in argv]
    got = subprocess.run(argv, cwd=str(cwd), input=text, env=env, stdout=subprocess.PIPE,
                         stdin=subprocess.DEVNULL if text is None else None,
                         stderr=subprocess.STDOUT, encoding="utf-8", errors="replace")
    run.log.append("$ %s\n%s" % (" ".join(argv), got.stdout))
    return got.returncode, got.stdout


run.log = []


def must(argv, cwd=ROOT):
    code, out = run(argv, cwd)
    if code:
        raise Blocked("%s failed: %s" % (" ".join(map(str, argv[:4])), out.strip()[-400:]))
    return out


def remembered(key, make):
    """make(), or what it gave when everything in `key` was the same."""
    name = hashlib.sha256("\0".join(map(str, key)).encode("utf-8", "replace")).hexdigest()
    store = WORK / "memo" / name
    if store.exists() and not remembered.fresh:
        return json.loads(store.read_text())
    value = make()
    store.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=str(store.parent), delete=False) as new:
        json.dump(value, new)
    os.replace(new.name, str(store))
    return value


# A self-test asks the tool of today, not what it said once.
remembered.fresh = False


# What there is to check ---------------------------------------------------------------------


def repo_files():
    """Files of the repo, those not yet committed too, without the known-bad inputs."""
    out = must(["git", "ls-files", "-z", "-co", "--exclude-standard"])
    names = [n for n in out.split("\0") if n]
    paths = [Path(n) for n in sorted(set(names)) if (ROOT / n).exists()]
    bad = BAD.relative_to(ROOT)
    return [p for p in paths if bad not in p.parents]


def series_files(tree, states="AM"):
    """Files that the series adds (A) or edits (M) in a tree, uncommitted edits included."""
    if not (tree / ".git").exists():
        raise Blocked("no %s; run 'make tree'" % tree.relative_to(ROOT))
    out = must(["git", "diff", "--name-status", "--no-renames", "-z", "base"], tree).split("\0")
    return [path for state, path in zip(out[::2], out[1::2]) if state in states]


def kernel_sources(states="AM", suffixes=(".c", ".h")):
    """Touched files that are compiled into a kernel."""
    return [p for p in series_files(LINUX, states)
            if p.endswith(suffixes) and not p.startswith(("tools/", "samples/", "Documentation/"))]


def our_lines(tree, path):
    """Numbers of the lines that the series adds to or changes in a file."""
    lines = set()
    for hunk in re.finditer(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@",
                            must(["git", "diff", "-U0", "base", "--", path], tree), re.M):
        first, count = int(hunk[1]), int(hunk[2] or 1)
        lines.update(range(first, first + count))
    return lines


# Gates on the repo --------------------------------------------------------------------------


def spdx_of(paths):
    """Files without an SPDX line among their first five."""
    findings = []
    for path in paths:
        if path.is_symlink() or path.suffix in (".patch", ".png"):
            continue                       # a patch has the licence of what it edits
        if re.match(r"(LICENSES/|COPYING|LICENSE)", str(path)):
            continue                       # the licences themselves
        head = path.read_text(errors="replace").splitlines()[:5]
        if not any("SPDX-License-Identifier:" in line for line in head):
            findings.append("%s: no SPDX line" % path)
    return findings


def gate_spdx():
    paths = repo_files()
    return spdx_of(paths), "%d files" % len(paths)


def registry_hosts():
    """Hosts that this machine's package tools talk to, as a pattern; '' when none is known."""
    out = ""
    if shutil.which("apt-get"):
        out = run(["apt-get", "indextargets", "--format", "$(SITE)"])[1]
    hosts = {re.escape(m) for m in re.findall(r"^\w+://([^/\s]+)", out, re.M)}
    return "|".join(sorted(hosts))


def leak_patterns():
    # where everybody's clone may lie is no path of one machine
    common = ("/", "/home", "/mnt", "/opt", "/root", "/srv", "/tmp", "/usr/src", "/var/tmp")
    here = re.escape(str(ROOT.parent)) + "/" if str(ROOT.parent) not in common else ""
    hosts = registry_hosts()
    return [(what, re.compile(pattern)) for what, pattern in (
        ("path of one machine", r"(?<![\w.])/(?:root|work|home/\w+|tmp/\w\w?)/"),
        ("path of this machine", r"(?<![\w.-])" + here if here else ""),
        ("registry host", hosts),
        ("sign-off", r"^[+ ]?Signed-off-by: .*@"),
        ("unfinished mark", r"\b(?:T[O]DO|F[I]XME|X[X]X|H[A]CK)\b|^[+]?#if\s+[0]\b"),
    ) if pattern]


def leaks_of(paths, patterns):
    findings = []
    for path in paths:
        if path.is_symlink():
            continue
        lines = path.read_text(errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            if path.suffix == ".patch" and line[:1] in ("-", " "):
                continue                   # upstream's own text
            for what, pattern in patterns:
                if pattern.search(line):
                    findings.append("%s:%d: %s: %s" % (path, number, what, line.strip()[:80]))
    return findings


def gate_leaks():
    paths = repo_files()
    return leaks_of(paths, leak_patterns()), "%d files" % len(paths)


def stored_patches():
    return [p for p in repo_files() if p.suffix == ".patch" and p.parent.name == "patches"]


def patch_header(path):
    """The lines above the '---' or the first diff of a stored patch."""
    lines = path.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines):
        if line == "---" or line.startswith("diff --git"):
            return lines[:number]
    return lines


def headers_of(paths):
    findings = []
    for path in paths:
        lines = patch_header(path)
        blank = lines.index("") if "" in lines else len(lines)
        subject = ""
        for line in lines[:blank]:
            if line.startswith("Subject:"):
                subject = line[len("Subject:"):].strip()
            elif subject and line.startswith(" "):
                subject += line
        subject = re.sub(r"^\[[^]]*\]\s*", "", subject)
        # liburing's own log has subjects without a prefix.
        if path.parts[0] != "liburing" and not re.match(r"[^:]+: \S", subject):
            findings.append("%s: subject has no 'subsystem: what': %s" % (path, subject))
        if len(subject) > 75:
            findings.append("%s: subject of %d columns" % (path, len(subject)))
        if subject.endswith("."):
            findings.append("%s: subject ends in a full stop" % path)
        if not any(line.strip() for line in lines[blank:]):
            findings.append("%s: no text says why" % path)
        for number, line in enumerate(lines[blank:], blank + 1):
            # A quote, a table or a trailer stays in one piece.
            quoted = re.match(r"\s|>|[A-Z][\w-]*: |\[\d+\] ", line)
            if len(line) > 75 and not quoted:
                findings.append("%s:%d: line of %d columns" % (path, number, len(line)))
    return findings


def gate_headers():
    paths = stored_patches()
    return headers_of(paths), count(paths, "patch")


def ours_as_text(path):
    """A file's text with the lines blanked that are upstream's: context of a stored patch."""
    text = path.read_text(errors="replace")
    if path.suffix != ".patch":
        return text
    head = len(patch_header(path))
    return "\n".join(line if number < head or line.startswith("+") else ""
                     for number, line in enumerate(text.splitlines()))


def codespell_of(paths):
    findings = []
    with tempfile.TemporaryDirectory() as top:
        for path in paths:
            if path.is_symlink() or path.suffix in (".svg", ".png"):
                continue
            copy = Path(top) / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(ours_as_text(ROOT / path))
        # Special characters of roff, such as \(bu, are no words.
        out = run(["codespell", "-q", "2", "-L", CODESPELL_IGNORE,
                   "--ignore-regex", r"\\[([]\w\w", "."], top)[1]
    for line in out.splitlines():
        if "==>" in line:
            findings.append(re.sub(r"^\./", "", line))
    return findings


def gate_codespell():
    paths = repo_files()
    return codespell_of(paths), "%d files" % len(paths)


def shellcheck_of(paths):
    if not paths:
        return []
    # what those of ublk source isn't in the repo, it is the kernel's
    ublk = LINUX / "tools" / "testing" / "selftests" / "ublk"
    return run(["shellcheck", "-x", "-P", str(ublk), "-f", "gcc"] + paths)[1].splitlines()


def is_shell(path):
    if path.is_symlink():
        return False
    first = path.read_bytes()[:64].split(b"\n")[0]
    return path.suffix == ".sh" or bool(re.match(rb"#!.*\b(ba|da)?sh\b", first))


def gate_shellcheck():
    paths = [p for p in repo_files() if is_shell(ROOT / p)]
    return shellcheck_of(paths), count(paths, "script")


def mandoc_of(path):
    """mandoc's complaints without line numbers: a page's edit moves those of the old text."""
    out = run(["mandoc", "-Tlint", "-Wwarning", path])[1]
    return [re.sub(r"^mandoc: .*?:\d+:\d+: ", "", line) for line in out.splitlines()]


def gate_mandoc():
    pages = [(tree, p) for tree in (LIBURING, FIO) for p in series_files(tree)
             if re.search(r"\.[1-9]$", p) and not (tree / p).is_symlink()]
    findings = []
    for tree, page in pages:
        known = collections.Counter()
        if page not in series_files(tree, "A"):
            with tempfile.NamedTemporaryFile("w", suffix=Path(page).name) as old:
                old.write(must(["git", "show", "base:" + page], tree))
                old.flush()
                known = collections.Counter(mandoc_of(old.name))
        for line in (collections.Counter(mandoc_of(tree / page)) - known).elements():
            findings.append("%s/%s: %s" % (tree.name, page, line))
    return findings, count(pages, "page")


# Gates on the kernel series -----------------------------------------------------------------


def gate_roundtrip():
    findings = []
    for project in PROJECTS:
        code, out = run([sys.executable, ROOT / "lab" / "series.py", project, "roundtrip"])
        if code:
            findings += out.splitlines()[-20:] or ["%s: exit status %d" % (project, code)]
    return findings, ", ".join(PROJECTS)


def bad_roundtrip():
    """The tests of series.py and fetch.py try every breach, and say if one isn't refused."""
    findings = []
    for test in sorted((ROOT / "lab" / "selftest" / "series").glob("test_*.py")):
        code, out = run([sys.executable, test])
        if code:
            findings += out.splitlines()[-20:]
    return findings or ["rejected all"]


def checkpatch(path, options=()):
    """checkpatch's complaints about a mail, or with -f about a file of build/linux."""
    argv = [LINUX / "scripts" / "checkpatch.pl", "--strict", "--no-signoff", "--terse",
            "--show-types", "--showfile", "--no-summary",
            "--ignore", ",".join(sorted(CHECKPATCH_IGNORE))] + list(options) + [path]
    # Its --codespell triples the time, and the codespell gate looks up the same words.
    key = [argv, (LINUX / path).read_text(errors="replace"), argv[0].read_text(),
           (LINUX / "scripts" / "spelling.txt").read_text()]
    findings = []
    for line in remembered(key, lambda: run(argv, LINUX)[1]).splitlines():
        match = re.search(r": (?:ERROR|WARNING|CHECK):(\w+):", line)
        if match and not (line.startswith("tools/") and match[1] in CHECKPATCH_IGNORE_TOOLS):
            # The message of a mail is in no file.
            findings.append(Path(path).name + line if line.startswith(":") else line)
    return findings


def edited_later():
    """New files that the mails do not show in their final state."""
    log = must(["git", "log", "--format=", "--name-only", "base..HEAD"], LINUX).split()
    dirty = set(must(["git", "diff", "--name-only", "HEAD"], LINUX).split())
    times = collections.Counter(log)
    return [p for p in series_files(LINUX, "A") if p.endswith((".c", ".h", ".sh", ".rst"))
            and (times[p] > 1 or p in dirty)]


@functools.cache
def removed_lines(commit):
    """What a commit takes out of existing files; of HEAD, what the series does."""
    spec = ["base", "HEAD"] if commit == "HEAD" else [commit + "^", commit]
    diff = must(["git", "diff", "--no-renames", "-U0"] + spec, LINUX)
    return {line[1:] for line in diff.splitlines() if line.startswith("-") and line[1:].strip()}


def moved_code(commit, finding):
    """Whether a complaint is about a line that the commit moves as it was: that is the kernel's."""
    match = re.match(r"([^:\s]+):(\d+): ", finding)
    if not match:
        return False
    code, text = run(["git", "show", "%s:%s" % (commit, match[1])], LINUX)
    lines = text.splitlines()
    number = int(match[2])
    # "missing blank line" and its like are reported at the line after
    near = [lines[n - 1] for n in (number - 1, number) if not code and 0 < n <= len(lines)]
    return bool(near) and all(not line.strip() or line in removed_lines(commit) for line in near)


def gate_checkpatch():
    patches = WORK / "patches"
    shutil.rmtree(str(patches), ignore_errors=True)
    must(["git", "format-patch", "-q", "--no-signature", "--no-renames", "-o", patches,
          "base..HEAD"], LINUX)
    mails = sorted(patches.glob("*.patch"))
    work = [(mail, ()) for mail in mails] + [(path, ("-f",)) for path in edited_later()]
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        found = list(pool.map(lambda args: checkpatch(*args), work))
    commits = must(["git", "rev-list", "--reverse", "base..HEAD"], LINUX).split()
    findings = []
    for commit, lines in zip(commits + ["HEAD"] * (len(found) - len(commits)), found):
        findings += [line for line in lines if not moved_code(commit, line)]
    return findings, count(mails, "patch")


def kerneldoc_of(paths):
    out = run([LINUX / "scripts" / "kernel-doc", "-none", "-Wall", "-Werror"] + paths, LINUX)[1]
    return [line for line in out.splitlines() if re.search(r"warning|error", line, re.I)]


def gate_kerneldoc():
    added = kernel_sources("A")
    return kerneldoc_of(added) if added else [], count(added, "new file")


def htmldocs_of(tree, pages, mine, output):
    """Warnings that name one of `mine`, from making the folders that hold the pages."""
    folders = sorted({str(Path(p).parent.relative_to("Documentation")) for p in pages})
    shutil.rmtree(str(output / "Documentation" / "output"), ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    code, out = run(["make", "-C", tree, "O=%s" % output, "SPHINXDIRS=" + " ".join(folders),
                     "PYTHON3=/usr/bin/python3", "SPHINXBUILD=/usr/bin/sphinx-build",
                     "htmldocs"], tree)
    findings = [line.replace(str(tree) + "/", "") for line in out.splitlines()
                if re.search(r"\b(warning|error|critical|severe)\b", line, re.I)
                and any(path in line for path in mine)]
    made = {path.name for path in (output / "Documentation" / "output").glob("**/*.html")}
    findings += ["%s: no page was made of it" % page for page in pages
                 if Path(page).with_suffix(".html").name not in made]
    if code and not findings:
        findings = out.splitlines()[-10:]
    return findings


def gate_htmldocs():
    pages = [p for p in series_files(LINUX, "A")
             if p.startswith("Documentation/") and p.endswith(".rst")]
    if not pages:
        return [], "nothing to check"
    # A whole folder of the kernel's takes minutes, of which ours is one page.
    tree = link_tree("docs-tree", {Path(page).parent.name for page in pages})
    for page in pages:
        (tree / page).parent.mkdir(exist_ok=True)
        shutil.copy(str(LINUX / page), str(tree / page))
    for folder in {Path(page).parent for page in pages}:
        index = tree / folder / "index.rst"
        if not index.exists():
            names = sorted(Path(p).stem for p in pages if Path(p).parent == folder)
            index.write_text("=====\nPages\n=====\n\n.. toctree::\n\n   " +
                             "\n   ".join(names) + "\n")
    return htmldocs_of(tree, pages, series_files(LINUX), WORK / "docs"), count(pages, "page")


def link_tree(name, without):
    """A tree like build/linux, of links, that lacks these folders of Documentation."""
    tree = WORK / name
    shutil.rmtree(str(tree), ignore_errors=True)
    (tree / "Documentation").mkdir(parents=True)
    for folder, ours in ((".", (".git", "Documentation")), ("Documentation", without)):
        for entry in (LINUX / folder).iterdir():
            if entry.name not in ours:
                (tree / folder / entry.name).symlink_to(entry)
    return tree


def bad_htmldocs():
    tree = link_tree("docs-bad-tree", {"io_uring"})
    shutil.copytree(str(BAD / "docs"), str(tree / "Documentation" / "io_uring"))
    page = "Documentation/io_uring/index.rst"
    return htmldocs_of(tree, [page], [page], WORK / "docs-bad")


# Compilers ----------------------------------------------------------------------------------


# What a flavour compiles for, and the prefix of its compiler. arc is a 32-bit machine that
# exchanges nothing narrower than a word, s390 is big-endian.
TARGETS = {
    "gcc64": ("x86_64", ""),
    "gcc32": ("i386", ""),
    "clang": ("x86_64", ""),
    "arc": ("arc", "arc-linux-gnu-"),
    "s390": ("s390", "s390x-linux-gnu-"),
}


def compiler_arguments(name):
    """make arguments of one flavour; Werror so that a warning is seen again until mended."""
    cache = "ccache " if shutil.which("ccache") else ""
    arch, prefix = TARGETS[name]
    argv = ["make", "-C", LINUX, "O=%s" % (BUILD / ("check-" + name)), "W=1e", "-k",
            "-j%d" % (JOBS + 1)]
    if name == "clang":
        argv += ["LLVM=" + LLVM, "CC=%sclang%s" % (cache, LLVM), "HOSTCC=%sclang%s" % (cache, LLVM)]
    else:
        argv += ["CC=%s%sgcc" % (cache, prefix), "HOSTCC=%sgcc" % cache]
    return argv + ["ARCH=%s" % arch, "CROSS_COMPILE=%s" % prefix]


# what an architecture cannot have: arc has no memory in one piece for devices
NOT_THERE = {"arc": ("drivers/dma-buf/heaps/cma_heap.c",)}


def wanted_config(name):
    """The symbols that must hold in a flavour."""
    text = (ROOT / "lab" / "check.config").read_text()
    lines = []
    # what stands below such a line is for these flavours, what stands above the first is for all
    for part in re.split(r"^(?=# Only )", text, flags=re.M):
        only = re.match(r"# Only ([\w ]+):", part)
        if not only or name in only[1].split():
            lines += part.splitlines()
    for brought in sorted((ROOT / "lab" / "configs").glob("series*.config")):
        lines += brought.read_text().splitlines()
    return [line for line in lines if line.startswith("CONFIG_")]


def configure(name):
    """Make the flavour's .config anew when what it is made of changed."""
    folder = BUILD / ("check-" + name)
    argv = compiler_arguments(name)
    compiler = "clang" + LLVM if name == "clang" else TARGETS[name][1] + "gcc"
    ours = must(["git", "diff", "base", "--", "Kconfig", "*/Kconfig", "*/Kconfig.*"], LINUX)
    text = "\n".join(wanted_config(name) + [ours, must([compiler, "--version"]), must(
        ["git", "rev-parse", "base"], LINUX)])
    stamp = hashlib.sha256(text.encode()).hexdigest()
    mark = folder / ".check-config"
    if mark.exists() and mark.read_text() == stamp:
        return argv
    folder.mkdir(parents=True, exist_ok=True)
    fragment = folder / "check.config"
    fragment.write_text("\n".join(wanted_config(name)) + "\n")
    must(argv + ["-s", "KCONFIG_ALLCONFIG=%s" % fragment, "allnoconfig"])
    have = set((folder / ".config").read_text().splitlines())
    lost = [line for line in wanted_config(name) if line not in have]
    if lost:
        raise Blocked("this kernel refuses " + " ".join(lost))
    # for external modules, whose make neither does that nor sees that the configuration is new
    must(argv + ["prepare"])
    mark.write_text(stamp)
    return argv


def kernel_targets(name):
    """Objects of the touched sources, and io_uring/ whole: every file there sees our headers."""
    touched = [path for path in kernel_sources() if path not in NOT_THERE.get(name, ())]
    if not touched:
        return []
    targets = {"io_uring/"}
    for path in touched:
        if path.startswith(("io_uring/", "include/", "arch/um/")):
            continue
        # what includes a header there is touched as well, or is user space
        if path.startswith("lib/") and path.endswith(".h"):
            continue
        if path.endswith(".h"):
            targets.add(str(Path(path).parent) + "/")
        else:
            targets.add(path[:-2] + ".o")
    # make does what is named twice in this way twice, and sparse then says it twice
    return sorted(t for t in targets if t.endswith("/") or
                  not any(t.startswith(folder) for folder in targets if folder.endswith("/")))


def compile_findings(code, out):
    findings = []
    for line in out.splitlines():
        match = WARNING.match(line)
        if match and line not in findings:
            findings.append(line.replace(str(LINUX) + "/", ""))
    if code and not findings:
        findings = [line for line in out.splitlines() if "***" in line or "rror" in line][:10]
    return findings or (["make: exit status %d" % code] if code else [])


def gate_compile(name):
    targets = kernel_targets(name)
    argv = configure(name)
    code, out = run(argv + ["prepare"] + targets)
    findings = compile_findings(code, out)
    if not code:
        objects = BUILD / ("check-" + name)
        findings = ["%s: not compiled; lab/check.config lacks its option" % path
                    for path in kernel_sources(suffixes=(".c",))
                    if not path.startswith("arch/um/") and path not in NOT_THERE.get(name, ())
                    and not (objects / path).with_suffix(".o").exists()]
    return findings, count(kernel_sources(), "touched file")


def external_module(name, arguments, source):
    """Compile one known-bad file as an external module, with the arguments of the gate."""
    argv = configure(name)
    folder = WORK / ("bad-" + Path(source).stem + "-" + name)
    shutil.rmtree(str(folder), ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(str(BAD / source), str(folder))
    (folder / "Kbuild").write_text("obj-m := %s\n" % Path(source).with_suffix(".o"))
    return run(argv + ["M=%s" % folder] + arguments + [str(Path(source).with_suffix(".o"))])


def bad_compile(name, source):
    return compile_findings(*external_module(name, [], source))


# sparse -------------------------------------------------------------------------------------


SPARSE_ARGUMENTS = ["C=2", "V=1", "CHECK=" + SPARSE]


def sparse_commands(out):
    """The sparse command lines that kbuild printed, by source file."""
    commands = {}
    for line in out.splitlines():
        line = line.strip()
        if line.startswith(SPARSE + " "):
            argv = shlex.split(line.split(";")[0])
            commands[argv[-1]] = argv
    return commands


def source_line(path, number):
    lines = Path(path).read_text(errors="replace").splitlines() if Path(path).exists() else []
    return lines[number - 1] if number <= len(lines) else ""


def sparse_messages(out, top):
    """Messages as (file, text) pairs, without line numbers and without the tree's place."""
    found = []
    for line in out.splitlines():
        match = re.match(r"(\S+?):(\d+):\d+: ((?:warning|error): .*)", line)
        if not match:
            continue
        path, number, text = match[1], int(match[2]), match[3]
        # MODULE_INFO() asserts with __builtin_strlen(), which sparse does not evaluate.
        if "bad constant expression" in text and source_line(path, number).startswith("MODULE_"):
            continue
        # Line numbers inside the text move with any edit above.
        found.append((os.path.normpath(path.replace(str(top) + "/", "")),
                      re.sub(r":\d+:\d+", "", text)))
    return found


def base_sources(folders):
    """The parts of the unpatched tree that the checked files need."""
    top = WORK / "base"
    wanted = sorted({"include", "arch/x86", "io_uring", "kernel", "lib", "block"} | folders)
    stamp = must(["git", "rev-parse", "base"], LINUX) + " ".join(wanted)
    mark = top / ".stamp"
    if mark.exists() and mark.read_text() == stamp:
        return top
    shutil.rmtree(str(top), ignore_errors=True)
    top.mkdir(parents=True)
    have = [w for w in wanted if not run(["git", "cat-file", "-e", "base:" + w], LINUX)[0]]
    tar = WORK / "base.tar"
    must(["git", "archive", "-o", tar, "base"] + have, LINUX)
    must(["tar", "-xf", tar, "-C", top])
    tar.unlink()
    mark.write_text(stamp)
    return top


def sparse_baseline(commands):
    """Messages of the same commands on the unpatched files; kept until something changes."""
    folders = {os.path.dirname(os.path.relpath(s, str(LINUX))) for s in commands}
    top = base_sources({f for f in folders if not f.startswith("..")})
    stamp = must(["git", "rev-parse", "base"], LINUX) + must(["sparse", "--version"])

    def one(argv):
        there = [a.replace(str(LINUX) + "/", str(top) + "/") for a in argv]
        if not Path(there[-1]).exists():
            return []
        return remembered(there + [stamp], lambda: sparse_messages(
            run(there, BUILD / "check-gcc64")[1], top))

    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        return [tuple(m) for found in pool.map(one, commands.values()) for m in found]


def gate_sparse():
    targets = kernel_targets("gcc64")
    if not targets:
        return [], "nothing to check"
    code, out = run(configure("gcc64") + SPARSE_ARGUMENTS + ["prepare"] + targets)
    commands = sparse_commands(out)
    findings = compile_findings(code, out) if code else []
    unseen = [p for p in kernel_sources(suffixes=(".c",)) if str(LINUX / p) not in commands]
    findings += ["%s: sparse never saw it" % p for p in unseen if not p.startswith("arch/um/")]
    now = collections.Counter(sparse_messages(out, LINUX))
    before = collections.Counter(sparse_baseline(commands))
    for (path, text), times in sorted(now.items()):
        # A header's message comes once for each file that includes it, and there are new files.
        if times > before[path, text] and (path.endswith(".c") or not before[path, text]):
            findings.append("%s: %s" % (path, text))
    return findings, "%s, %s of the base ignored" % (
        count(commands, "file"), count(list(before.elements()), "message"))


def bad_sparse():
    code, out = external_module("gcc64", SPARSE_ARGUMENTS, "bad-sparse.c")
    if not sparse_commands(out):
        return []
    return ["%s: %s" % message for message in sparse_messages(out, WORK)]


# coccinelle ---------------------------------------------------------------------------------


# spatch takes all files that it is given for one, and this script is at them for minutes then.
SPATCH_SINGLY = {"deref_null.cocci"}
# And this one takes minutes, whatever it is given.
SPATCH_LONG = {"unsigned_lesser_than_zero.cocci"}


def spatch(script, paths):
    text = script.read_text()
    options = shlex.split(" ".join(re.findall(r"^// Options: (.*)$", text, re.M)))
    # it recurses along a function, and those of drivers are long; its own limit of 120 s is
    # for all files together, by the clock, which is too little on a busy host
    code, out = run(["prlimit", "--stack=unlimited", "spatch", "-D", "report", "--no-show-diff",
                     "--very-quiet", "--timeout", "1200", "--cocci-file", script] + options +
                    paths, LINUX)
    reports = [line for line in out.splitlines() if re.match(r"\S+:\d+:", line)]
    return reports if code == 0 else reports + ["%s: spatch failed" % script.name]


def coccinelle_of(scripts, paths):
    # Scripts may follow includes into any touched file.
    stamp = [must(["spatch", "--version"]), must(["git", "rev-parse", "base"], LINUX),
             must(["git", "diff", "base", "--", "*.[ch]"], LINUX)]
    stamp += [p for path in paths for p in (path, (LINUX / path).read_text(errors="replace"))]
    # those that take long come first, or all would wait for the last of them
    single = [(script, [path]) for script in scripts if script.name in SPATCH_SINGLY
              for path in paths]
    others = [(script, paths) for script in scripts if script.name not in SPATCH_SINGLY]
    others.sort(key=lambda work: work[0].name not in SPATCH_LONG)
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        found = pool.map(lambda work: remembered(
            [work[0].read_text(), work[1]] + stamp, lambda: spatch(*work)), single + others)
        return [line for lines in found for line in lines]


def report_scripts():
    """The tree's semantic patches that can report; make coccicheck dies on those that cannot."""
    return [s for s in sorted(LINUX.glob("scripts/coccinelle/*/*.cocci"))
            if re.search(r"^virtual report$", s.read_text(), re.M)]


def gate_coccinelle():
    touched = kernel_sources(suffixes=(".c",))
    if not touched:
        return [], "nothing to check"
    scripts = report_scripts()
    ours = {path: our_lines(LINUX, path) for path in touched}
    findings = []
    for line in coccinelle_of(scripts, touched):
        match = re.match(r"(?:\./)?([^:\s]+):(\d+)", line)
        if not match or match[1] not in ours:
            findings.append(line)
        elif int(match[2]) in ours[match[1]]:
            findings.append(line)
    return findings, "%d scripts, %s" % (len(scripts), count(touched, "file"))


def bad_coccinelle():
    scripts = [LINUX / "scripts/coccinelle" / s for s in ("misc/noderef.cocci",
                                                          "free/ifnullfree.cocci")]
    return coccinelle_of(scripts, [BAD / "bad-coccinelle.c"])


# User copies without a check ------------------------------------------------------------------


# What leaves the check of an address to its caller, and what stops a CPU that guessed its outcome.
RAW_COPY = re.compile(r"\b(raw_copy_(?:from|to)_user|__copy_(?:from|to)_user\w*|__(?:get|put)_user"
                      r"|copy_from_user_(?:inatomic_nontemporal|flushcache))\(")
NOSPEC = re.compile(r"\b(mask_user_address|masked_user_\w*access_begin|barrier_nospec)\(")


def rawcopy_of(paths):
    findings = []
    for path in paths:
        guarded = False
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.startswith("{"):
                guarded = False
            guarded |= bool(NOSPEC.search(line))
            copy = RAW_COPY.search(line)
            if copy and not guarded:
                findings.append("%s:%d: %s() of an address that isn't masked" %
                                (path.name, number, copy[1]))
    return findings


def gate_rawcopy():
    added = [LINUX / path for path in kernel_sources("A")]
    return rawcopy_of(added), count(added, "new file")


# Running ------------------------------------------------------------------------------------


def count(things, noun):
    plural = noun + ("es" if noun.endswith("ch") else "s")
    return "nothing to check" if not things else "%d %s" % (
        len(things), noun if len(things) == 1 else plural)


GATES = [
    Gate("spdx", [], gate_spdx, lambda: spdx_of([BAD / "bad-spdx.c"]), ["no SPDX line"]),
    Gate("leaks", ["git"], gate_leaks,
         lambda: leaks_of([BAD / "bad-leaks.txt"], leak_patterns()),
         ["path of one machine", "sign-off", "unfinished mark"]),
    Gate("headers", [], gate_headers, lambda: headers_of([BAD / "bad-header.patch"]),
         ["subject has no", "subject of", "full stop", "line of 8"]),
    Gate("codespell", ["codespell"], gate_codespell,
         lambda: codespell_of([(BAD / "bad-codespell.patch").relative_to(ROOT)]),
         ["==> receive", "==> separate"]),
    Gate("shellcheck", ["shellcheck"], gate_shellcheck,
         lambda: shellcheck_of([BAD / "bad-shellcheck.sh"]), ["SC2086"]),
    Gate("mandoc", ["mandoc"], gate_mandoc, lambda: mandoc_of(BAD / "bad-mandoc.3"),
         ["skipping paragraph macro"]),
    Gate("roundtrip", ["git"], gate_roundtrip, bad_roundtrip, ["rejected all"]),
    Gate("checkpatch", ["perl"], gate_checkpatch,
         lambda: checkpatch(BAD / "bad-checkpatch.patch"),
         ["CODE_INDENT", "TYPO_SPELLING", "SPACING"]),
    Gate("kernel-doc", ["python3"], gate_kerneldoc,
         lambda: kerneldoc_of([BAD / "bad-kernel-doc.c"]), ["not described"]),
    Gate("htmldocs", ["/usr/bin/sphinx-build"], gate_htmldocs, bad_htmldocs,
         ["Title underline", "unknown document"]),
    Gate("gcc64", ["gcc", "bc", "flex", "bison"], lambda: gate_compile("gcc64"),
         lambda: bad_compile("gcc64", "bad-unused.c"), ["unused-const-variable"]),
    Gate("gcc32", ["gcc", "bc", "flex", "bison"], lambda: gate_compile("gcc32"),
         lambda: bad_compile("gcc32", "bad-pointer-size.c"), ["int-to-pointer-cast"]),
    Gate("arc", ["arc-linux-gnu-gcc"], lambda: gate_compile("arc"),
         lambda: bad_compile("arc", "bad-narrow-xchg.c"), ["BUILD_BUG failed"]),
    Gate("s390", ["s390x-linux-gnu-gcc"], lambda: gate_compile("s390"),
         lambda: bad_compile("s390", "bad-endian.c"), ["overflow"]),
    Gate("clang", ["clang" + LLVM, "ld.lld" + LLVM, "llvm-ar" + LLVM],
         lambda: gate_compile("clang"), lambda: bad_compile("clang", "bad-uninitialised.c"),
         ["sometimes-uninitialized"]),
    Gate("sparse", ["sparse"], gate_sparse, bad_sparse, ["noderef", "address space"]),
    Gate("coccinelle", ["spatch"], gate_coccinelle, bad_coccinelle,
         ["sizeof to pointer", "NULL check before"]),
    Gate("rawcopy", ["git"], gate_rawcopy, lambda: rawcopy_of([BAD / "bad-rawcopy.c"]),
         [":9: raw_copy_from_user", ":22: __put_user"]),
]


def run_gate(gate):
    """(findings, note) of a gate, its self-test first."""
    for tool in gate.tools:
        if not shutil.which(tool, path="/usr/bin:/bin:" + os.environ.get("PATH", "")):
            raise Blocked("tool missing: %s; run 'make deps'" % tool)
    remembered.fresh = True
    rejected = "\n".join(gate.known_bad())
    remembered.fresh = False
    blind = [word for word in gate.expected if word not in rejected]
    if blind:
        raise Blocked("self-test: the known-bad input was accepted, nothing says '%s'"
                      % "', '".join(blind))
    return gate.check()


def say(verdict, name, seconds, last, note):
    print(("  %-7s %-12s %5.1fs %-7s %s" % (verdict, name, seconds,
                                            "[%.0fs]" % last if last else "", note)).rstrip(),
          flush=True)


def main(names):
    gates = {gate.name: gate for gate in GATES}
    unknown = [name for name in names if name not in gates]
    if unknown:
        sys.exit("error: no gate %s; there are: %s" % (" ".join(unknown), " ".join(gates)))
    LOG.mkdir(parents=True, exist_ok=True)
    WORK.mkdir(parents=True, exist_ok=True)
    store = LOG / "check-times.json"
    times = json.loads(store.read_text()) if store.exists() else {}
    passed = failed = 0
    for name in names or gates:
        if sys.stdout.isatty():
            print("  ...     %-12s        %s" % (
                name, "[%.0fs]" % times[name] if name in times else ""), end="\r", flush=True)
        started = time.monotonic()
        run.log = []
        remembered.fresh = False
        try:
            findings, note = run_gate(gates[name])
        except Blocked as reason:
            findings, note = [str(reason)], ""
        seconds = time.monotonic() - started
        log = LOG / ("check-%s.log" % name)
        log.write_text("\n".join(run.log + findings) + "\n")
        if findings:
            failed += 1
            say("not ok", name, seconds, times.get(name), "log: %s" % log.relative_to(ROOT))
            for line in findings[:20]:
                print("          " + line)
            if len(findings) > 20:
                print("          and %d more" % (len(findings) - 20))
        else:
            passed += 1
            say("ok", name, seconds, times.get(name), "(%s)" % note if note else "")
            times[name] = round(seconds, 1)
    store.write_text(json.dumps(times))
    print("%d passed, %d failed, 0 skipped" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
