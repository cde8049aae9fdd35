#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Turn the stored series into commits of a real git tree, and back.

Stored form, in the repo: whole new files in their final state at their upstream
paths, and one patch per commit in patches/, in the order of patches/series. A
patch holds the commit's message, a `New-file:` line per file that enters with
it, and hunks to files that exist by then. A new file that a later commit edits
is stored once; its birth state is the final one minus the later hunks.

Working form: build/PROJECT, a git tree with the tag `base` and the branch
`work`. The two are inverses, which `roundtrip` proves.
"""

import argparse
import contextlib
import difflib
import fcntl
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import namedtuple
from pathlib import Path

import fetch

# Commits carry no person and no clock, so that a series has the same commit ids everywhere.
NOBODY = "uring-offload <uring-offload@localhost>"
EPOCH = 1767225600

# At the root of the repo these are the project's own; every other path is a kernel path.
OURS = (r"(patches|liburing|fio|lab|docs|build|\.ci)/|Makefile$|README\.md$|\.gitignore$"
        r"|COPYING|LICENSE")

SPDX = {"linux": "GPL-2.0", "liburing": "MIT", "fio": "GPL-2.0"}

Patch = namedtuple("Patch", "name subject author body new sections")
Project = namedtuple("Project", "name repo sub store tree lock log")


class SeriesError(Exception):
    """What is wrong, for the person to read."""


def say(verb, what, note=""):
    print(("  %-7s %-40s %s" % (verb, what, note)).rstrip(), flush=True)


@contextlib.contextmanager
def timed(proj, verb, what, step):
    """Say what goes on, for how long, and how long it took the last time."""
    path = proj.log / (step + ".seconds")
    last = " [last %ss]" % path.read_text().strip() if path.is_file() else ""
    start, over = time.time(), threading.Event()

    def tick():
        while not over.wait(1):
            print("\r  %-7s %-40s %ds%s" % (verb, what, time.time() - start, last), end="",
                  flush=True)

    live = sys.stdout.isatty()
    if live:
        threading.Thread(target=tick, daemon=True).start()
    elif last:
        say(verb, what, last.strip())
    try:
        yield
    finally:
        over.set()
        if live:
            print("\r\033[K", end="")
    seconds = "%d" % round(time.time() - start)
    proj.log.mkdir(parents=True, exist_ok=True)
    path.write_text(seconds + "\n")
    say(verb, what, "%ss%s" % (seconds, last))


def project_of(name, repo):
    repo = Path(repo).resolve()
    sub = fetch.PROJECTS[name]["sub"]
    build = repo / "build"
    return Project(name, repo, sub, repo / sub / "patches", build / name,
                   build / (name + ".lock"), build / "log")


# git ---------------------------------------------------------------------------------------


def git_env(extra=None):
    """An environment in which nobody's configuration changes what git writes."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    env.update(GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_NOSYSTEM="1", GIT_ATTR_NOSYSTEM="1",
               LC_ALL="C", TZ="UTC")
    env.update(extra or {})
    return env


def text(data):
    return data.decode("utf-8", "surrogateescape")


def raw(string):
    return string.encode("utf-8", "surrogateescape")


def git_run(tree, *argv, data=None, env=None):
    argv = ["git", "-c", "core.quotePath=false", "-c", "core.attributesFile=/dev/null"] + list(argv)
    got = subprocess.run(argv, cwd=str(tree), env=git_env(env), stdout=subprocess.PIPE,
                         input=raw(data) if data is not None else b"", stderr=subprocess.PIPE)
    return got.returncode, text(got.stdout), text(got.stderr)


def git(tree, *argv, data=None, env=None):
    code, out, err = git_run(tree, *argv, data=data, env=env)
    if code:
        raise SeriesError("git %s: %s" % (" ".join(argv[:3]), err.strip()))
    return out


def rev(tree, name):
    code, out, _ = git_run(tree, "rev-parse", "-q", "--verify", name + "^{commit}")
    return out.strip() if code == 0 else None


def entries(tree, commit, paths):
    """{path: (mode, id)} of the files that a commit has at these paths."""
    if not paths:
        return {}
    found = {}
    for line in git(tree, "ls-tree", "-r", "-z", commit, "--", *sorted(paths)).split("\0"):
        if line:
            meta, path = line.split("\t", 1)
            if path in paths:
                found[path] = (meta.split()[0], meta.split()[2])
    return found


def dirty(tree):
    """Paths with uncommitted edits, files not yet added among them."""
    return [l[3:] for l in git(tree, "status", "--porcelain", "-z", "--no-renames").split("\0")
            if l]


# The stored form ---------------------------------------------------------------------------


def slug(subject):
    return re.sub(r"[^a-z0-9_.]+", "-", subject.lower()).strip("-.") + ".patch"


def split_diff(name, diff):
    """[(path, text)] per file of a diff."""
    sections = []
    for line in diff.splitlines(True):
        if line.startswith("diff --git "):
            rest = line[len("diff --git "):].rstrip("\n")
            path = rest[2:2 + (len(rest) - 5) // 2]
            if rest != "a/%s b/%s" % (path, path):
                raise SeriesError("%s: cannot read: %s" % (name, line.strip()))
            sections.append([path, []])
        if not sections:
            raise SeriesError("%s: text between the New-file lines and the diff: %s" % (
                name, line.strip()))
        sections[-1][1].append(line)
    return [(path, "".join(lines)) for path, lines in sections]


def refuse_signoff(name, body):
    if re.search(r"^Signed-off-by:", body, re.M):
        raise SeriesError("%s: Signed-off-by is for whoever submits: make series SIGNOFF=1" % name)


def parse_patch(name, data):
    lines = data.split("\n")
    headers = {}
    while lines and lines[0]:
        key, sep, value = lines.pop(0).partition(": ")
        if key not in ("From", "Subject") or not sep:
            raise SeriesError("%s: header is not From: or Subject:, but %s" % (name, key))
        headers[key] = value
    if not headers.get("Subject"):
        raise SeriesError("%s: no Subject:" % name)
    if "---" not in lines:
        raise SeriesError("%s: no `---` line after the message" % name)
    end = lines.index("---")
    body = "\n".join(lines[1:end]).strip("\n")
    refuse_signoff(name, body)
    rest, new = lines[end + 1:], []
    while rest and not rest[0].startswith("diff --git "):
        line = rest.pop(0)
        if line.startswith("New-file: "):
            new.append(line[len("New-file: "):])
        elif line:
            raise SeriesError("%s: neither New-file: nor diff: %s" % (name, line))
    return Patch(name, headers["Subject"], headers.get("From"), body, new,
                 split_diff(name, "\n".join(rest)))


def format_patch(patch):
    head = ["From: " + patch.author] if patch.author else []
    head += ["Subject: " + patch.subject, ""]
    head += [patch.body, "---"] if patch.body else ["---"]
    head += ["New-file: " + path for path in patch.new]
    diff = "".join(section for _, section in patch.sections)
    return "\n".join(head) + "\n" + ("\n" + diff if diff else "")


def read_text(path):
    return text(Path(path).read_bytes())


def series_names(proj):
    path = proj.store / "series"
    if not path.is_file():
        raise SeriesError("%s is missing" % path)
    return [l for l in read_text(path).splitlines() if l.strip() and not l.startswith("#")]


def load(proj):
    """The patches of the stored series, checked for what can be seen without a tree."""
    patches, born = [], {}
    for name in series_names(proj):
        if not (proj.store / name).is_file():
            raise SeriesError("patches/series names %s, which is missing" % name)
        patch = parse_patch(name, read_text(proj.store / name))
        for path in patch.new:
            if path in born:
                raise SeriesError("%s and %s both introduce %s" % (born[path], name, path))
            born[path] = name
        patches.append(patch)
    return patches


def new_paths(patches):
    return [path for patch in patches for path in patch.new]


def read_file(path):
    """(mode, content) of a repo file, None where there is none."""
    try:
        mode = os.lstat(str(path)).st_mode
    except OSError:
        return None
    if stat.S_ISLNK(mode):
        return "120000", os.readlink(str(path)).encode()
    if not stat.S_ISREG(mode):
        return None
    return ("100755" if mode & 0o100 else "100644"), path.read_bytes()


def stored(proj, patches):
    """{path below the project's folder: (mode, content)} of all that export writes."""
    top = proj.repo / proj.sub
    names = ["patches/" + n for n in ["series", "base.sums"] + [p.name for p in patches]]
    found = {n: read_file(top / n) for n in names + new_paths(patches)}
    return {n: f for n, f in found.items() if f}


def fingerprint(proj):
    """A hash over the stored series: the same if and only if an import gives the same."""
    digest = hashlib.sha256()
    for name, (mode, content) in sorted(stored(proj, load(proj)).items()):
        if name != "patches/base.sums":
            digest.update(raw("%s %s %d\0" % (name, mode, len(content))) + content)
    return digest.hexdigest()


# Stored form to commits --------------------------------------------------------------------


class Index:
    """A private git index that holds only the paths the series touches."""

    def __init__(self, tree, folder, name):
        self.tree = tree
        self.env = {"GIT_INDEX_FILE": str(Path(folder) / name)}
        git(tree, "read-tree", "--empty", env=self.env)

    def add(self, files):
        lines = ["%s %s\t%s" % (mode, blob, path) for path, (mode, blob) in files.items()]
        if lines:
            git(self.tree, "update-index", "-z", "--index-info", data="\0".join(lines) + "\0",
                env=self.env)

    def files(self):
        found = {}
        for line in git(self.tree, "ls-files", "-s", "-z", env=self.env).split("\0"):
            if line:
                meta, path = line.split("\t", 1)
                found[path] = tuple(meta.split()[:2])
        return found

    def apply(self, sections, reverse=False):
        """Apply; return git's complaint, and its notes on hunks that were not where they said."""
        argv = ["apply", "--cached", "--whitespace=nowarn", "-v"] + (["-R"] if reverse else [])
        code, _, err = git_run(self.tree, *argv, "-", env=self.env,
                               data="".join(section for _, section in sections))
        notes = [l for l in err.splitlines() if l.startswith(("Hunk #", "Context reduced"))]
        lines = [l for l in err.splitlines() if l.startswith("error:")]
        return ("\n".join(lines) or err.strip()) if code else None, notes


def hash_files(tree, proj, paths):
    """Put repo files into the tree's object store: {path: (mode, id)}."""
    top = proj.repo / proj.sub
    found, plain = {}, []
    for path in paths:
        got = read_file(top / path)
        if got and got[0] == "120000":
            found[path] = (got[0], git(tree, "hash-object", "-w", "--stdin",
                                       data=text(got[1])).strip())
        elif got:
            plain.append((path, got[0]))
    names = "".join("%s\n" % (top / path) for path, _ in plain)
    ids = git(tree, "hash-object", "-w", "--no-filters", "--stdin-paths", data=names).split()
    found.update({path: (mode, blob) for (path, mode), blob in zip(plain, ids)})
    return found


def births(tree, proj, patches, tmp):
    """The state in which each new file enters: final, minus later hunks, newest first."""
    index = Index(tree, tmp, "births")
    index.add(hash_files(tree, proj, new_paths(patches)))
    ours, born = set(new_paths(patches)), {}
    for patch in reversed(patches):
        sections = [s for s in patch.sections if s[0] in ours and s[0] not in patch.new]
        if sections:
            reason, _ = index.apply(sections, reverse=True)
            if reason:
                raise SeriesError(
                    "%s: its hunks cannot be taken back out of the new files:\n%s\n"
                    "A whole file was edited in the repo too near a hunk of that patch. Undo the "
                    "edit there and make it in the tree (make tree, edit, commit, make export)."
                    % (patch.name, reason))
        files = index.files()
        for path in patch.new:
            if path not in files:
                raise SeriesError("%s: New-file: %s is missing from the repo" % (patch.name, path))
            born[path] = files[path]
    return born


def check_paths(patches, upstream):
    """Refuse hunks to files that are not there, and new files that are."""
    known = set(upstream)
    for patch in patches:
        for path, section in patch.sections:
            if path not in known:
                raise SeriesError("%s edits %s, which is neither in the base nor introduced by an "
                                  "earlier patch" % (patch.name, path))
        for path in patch.new:
            if path in upstream:
                raise SeriesError("%s: New-file: %s exists in the base" % (patch.name, path))
        known.update(patch.new)


def changes(before, after):
    lines = ["D %s\n" % path for path in sorted(before) if path not in after]
    return lines + ["M %s %s %s\n" % (after[path] + (path,)) for path in sorted(after)
                    if before.get(path) != after[path]]


def import_series(tree, proj, base, ref, person=NOBODY, date=EPOCH):
    """Make the commits of the stored series on top of base; return the last, and notes.

    Neither worktree nor index is touched. git fast-import links blobs that are
    already there into trees, which costs milliseconds per commit.
    """
    patches = load(proj)
    paths = {path for patch in patches for path, _ in patch.sections} | set(new_paths(patches))
    upstream = entries(tree, base, paths)
    check_paths(patches, upstream)
    stream = ["reset %s\nfrom %s\n\n" % (ref, base)]
    notes = []
    with tempfile.TemporaryDirectory(prefix="series-") as tmp:
        born = births(tree, proj, patches, tmp)
        index = Index(tree, tmp, "forward")
        index.add(upstream)
        before = dict(upstream)
        for number, patch in enumerate(patches, 1):
            if patch.sections:
                reason, moved = index.apply(patch.sections)
                notes += ["%s: %s" % (patch.name, note) for note in moved]
                if reason:
                    raise SeriesError("%s does not apply:\n%s" % (patch.name, reason))
            index.add({path: born[path] for path in patch.new})
            after = index.files()
            lines = changes(before, after)
            if not lines:
                raise SeriesError("%s changes nothing" % patch.name)
            message = patch.subject + "\n" + ("\n%s\n" % patch.body if patch.body else "")
            stream += ["commit %s\n" % ref,
                       "author %s %d +0000\n" % (patch.author or person, date + number),
                       "committer %s %d +0000\n" % (person, date + number),
                       "data %d\n%s\n" % (len(raw(message)), message)] + lines + ["\n"]
            before = after
    git(tree, "fast-import", "--quiet", "--force", "--date-format=raw", data="".join(stream))
    return rev(tree, ref), notes


# Commits to stored form --------------------------------------------------------------------


def commit_list(tree, base, head):
    """[(id, parent, author, message)] from base to head; the history must be a line."""
    if git_run(tree, "merge-base", "--is-ancestor", base, head)[0]:
        raise SeriesError("%s does not descend from the base" % head[:12])
    out = git(tree, "log", "--reverse", "--topo-order", "-z",
              "--format=%H%x01%P%x01%an <%ae>%x01%B", "%s..%s" % (base, head))
    commits = [tuple(c.split("\x01", 3)) for c in out.split("\0") if c]
    for commit, parents, _, message in commits:
        subject = message.split("\n", 1)[0]
        if len(parents.split()) != 1:
            raise SeriesError("%s (%s) is a merge; rebase it away" % (commit[:12], subject))
        if re.match(r"(fixup|squash|amend)! ", subject):
            raise SeriesError("%s (%s) is not squashed yet: git -C build/... rebase -i "
                              "--autosquash base" % (commit[:12], subject))
    return commits


def split_message(commit, message):
    head, _, body = message.strip("\n").partition("\n\n")
    body = body.strip("\n")
    bad = re.search(r"^(---$|diff -|Index: )", body, re.M) or re.match(r"(From|Subject|Date): ",
                                                                      body)
    if bad or not head.strip():
        raise SeriesError("%s: git am would cut this message%s" % (
            commit[:12], " at: " + bad.group(0) if bad else ", it is empty"))
    refuse_signoff(commit[:12], body)
    return " ".join(head.split()), "\n".join(l.rstrip() for l in body.split("\n"))


def diff_sections(tree, name, parent, commit, paths):
    """The diff of some paths without what depends on anything but the contents."""
    if not paths:
        return []
    diff = git(tree, "diff-tree", "-p", "--no-renames", "--no-color", "--no-ext-diff",
               "--no-textconv", "--indent-heuristic", "--diff-algorithm=myers", "-U3",
               "--inter-hunk-context=0", "--src-prefix=a/", "--dst-prefix=b/",
               parent, commit, "--", *sorted(paths))
    sections = []
    for path, section in split_diff(name, diff):
        header, hunks, rest = section.partition("\n@@ ")
        header = re.sub(r"\nindex [^\n]*", "", header)
        if re.search(r"^(Binary files |GIT binary patch)", header, re.M):
            raise SeriesError("%s: %s is binary; a patch cannot hold it" % (name, path))
        sections.append((path, header + hunks + rest))
    return sections


def export_series(tree, proj, base, head):
    """The stored form of base..head: {path below the project's folder: (mode, content)}."""
    patches, born, edited = [], {}, set()
    for commit, parent, author, message in commit_list(tree, base, head):
        subject, body = split_message(commit, message)
        name = slug(subject)
        if name in [p.name for p in patches]:
            raise SeriesError("%s: two commits are called `%s`" % (commit[:12], subject))
        fields = git(tree, "diff-tree", "-r", "-z", "--no-renames", parent, commit).split("\0")
        new, old = [], []
        for meta, path in zip(fields[0::2], fields[1::2]):
            if " 160000 " in meta:
                raise SeriesError("%s: %s is a submodule" % (name, path))
            (new if meta.endswith("A") else old).append(path)
        again = [p for p in new if p in born] + list(entries(tree, base, set(new)))
        if again:
            raise SeriesError("%s brings back %s, which was deleted before; the stored form has "
                              "no room for that" % (name, again[0]))
        if not new and not old:
            raise SeriesError("%s (%s) changes nothing" % (commit[:12], subject))
        born.update(dict.fromkeys(new, name))
        edited.update(p for p in old if p not in born)
        patches.append(Patch(name, subject, None if author == NOBODY else author, body,
                             sorted(new), diff_sections(tree, name, parent, commit, old)))
    return stored_form(tree, proj, base, head, patches, born, edited)


def comment(proj, line):
    return "# SPDX-License-Identifier: %s\n# %s\n" % (SPDX[proj.name], line)


def stored_form(tree, proj, base, head, patches, born, edited):
    files = {"patches/" + p.name: ("100644", raw(format_patch(p))) for p in patches}
    order = comment(proj, "The order of the patches. Written by `make export`.")
    order += "".join(p.name + "\n" for p in patches)
    files["patches/series"] = ("100644", raw(order))
    sums = comment(proj, "git blob ids, in the base, of the files that the series edits. Written "
                         "by `make export`.")
    sums += "".join("%s %s\n" % (blob, path)
                    for path, (_, blob) in sorted(entries(tree, base, edited).items()))
    files["patches/base.sums"] = ("100644", raw(sums))
    final = sorted(entries(tree, head, set(born)).items())
    if final:
        blobs = cat_blobs(tree, [blob for _, (_, blob) in final])
        files.update({path: (mode, data) for (path, (mode, _)), data in zip(final, blobs)})
    return files


def cat_blobs(tree, ids):
    out = raw(git(tree, "cat-file", "--batch", data="".join(i + "\n" for i in ids)))
    blobs = []
    for _ in ids:
        header, _, out = out.partition(b"\n")
        size = int(header.split()[2])
        blobs.append(out[:size])
        out = out[size + 1:]
    return blobs


def write_file(path, mode, content):
    if read_file(path) == (mode, content):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.exists():
        path.unlink()
    if mode == "120000":
        os.symlink(os.fsdecode(content), str(path))
    else:
        path.write_bytes(content)
        path.chmod(0o755 if mode == "100755" else 0o644)
    return True


# State of the tree -------------------------------------------------------------------------


def marker(proj):
    return proj.tree / ".git" / "uring-offload"


def read_state(proj):
    """What the tree holds: base's origin, and the stored series that it agrees with."""
    path = marker(proj)
    lines = path.read_text().splitlines() if path.is_file() else []
    return dict(line.split(": ", 1) for line in lines)


def write_state(proj, **values):
    state = dict(read_state(proj), **values)
    tmp = marker(proj).with_suffix(".new")
    tmp.write_text("".join("%s: %s\n" % item for item in sorted(state.items())))
    os.replace(str(tmp), str(marker(proj)))


def settle(proj, head):
    """Note that the tree at this commit and the repo agree."""
    git(proj.tree, "update-ref", "refs/lab/agreed", head)
    write_state(proj, stamp=fingerprint(proj))


def unexported(proj):
    """What of the tree the repo does not have: lines to print, none if all is there."""
    lines = ["edited, not committed: " + path for path in dirty(proj.tree)]
    head, agreed = rev(proj.tree, "HEAD"), rev(proj.tree, "refs/lab/agreed")
    if head != agreed:
        log = git(proj.tree, "log", "--format=%h %s", "HEAD", "--not", "refs/lab/agreed")
        lines += ["commit: " + l for l in log.splitlines()] or [
            "commits taken away: HEAD is %s" % head[:12]]
    return lines


def in_step(proj, base):
    """Does the repo already hold exactly the tree's commits?"""
    try:
        return export_series(proj.tree, proj, base, "HEAD") == stored(proj, load(proj))
    except SeriesError:
        return False


def locked(proj):
    """Held for the rest of the process: two runs must not build one tree."""
    proj.lock.parent.mkdir(parents=True, exist_ok=True)
    handle = open(str(proj.lock), "w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        say("WAIT", "another run works on %s" % proj.tree.name)
        fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


# The base ----------------------------------------------------------------------------------


def commit_base(repo, work, what, index):
    """Commit the folder work, whole, into the git folder of repo."""
    argv = ["--git-dir=%s" % (repo / ".git"), "--work-tree=%s" % work]
    env = {"GIT_INDEX_FILE": str(index)}
    # Streaming every file into one pack takes half the room of 96,000 loose objects.
    git(work, *argv, "-c", "core.bigFileThreshold=1", "-c", "core.compression=1",
        "add", "-A", "-f", env=env)
    top = git(work, *argv, "write-tree", env=env).strip()
    for who in ("AUTHOR", "COMMITTER"):
        env.update({"GIT_%s_NAME" % who: "uring-offload",
                    "GIT_%s_EMAIL" % who: "uring-offload@localhost",
                    "GIT_%s_DATE" % who: "%d +0000" % EPOCH})
    return git(work, *argv, "commit-tree", "-m", what, top, env=env).strip()


def unpack_beside(proj, record, got):
    tmp = proj.tree.with_name(proj.tree.name + ".new")
    if tmp.exists():
        shutil.rmtree(str(tmp))
    with timed(proj, "UNPACK", title(record, got), "unpack-" + proj.name):
        fetch.unpack(record, got, tmp)
    show_new_files(tmp / ".gitignore")
    return tmp


def show_new_files(ignores):
    """Debian's .gitignore hides all but its packaging, and with it a developer's new files."""
    if ignores.is_file():
        lines = read_text(ignores)
        ignores.write_bytes(raw(re.sub(r"\n#\n# Debian packaging: ignore everything.*", "\n", lines,
                                       flags=re.S)))


def title(record, got):
    return "%s %s" % (record["package"], got["version"])


def write_base(proj, record, got):
    overridden = got["where"].endswith(("_SRC", "_TARBALL"))
    write_state(proj, version=got["version"], identity=got["sha256"],
                asked=got["where"] if overridden else record["version"])


def make_tree(proj, record, got):
    """Unpack the base into a fresh tree, which appears whole or not at all."""
    tmp = unpack_beside(proj, record, got)
    git(tmp, "init", "-q", "-b", "work")
    for key, value in (("user.name", "uring-offload"), ("user.email", "uring-offload@localhost"),
                       ("gc.auto", "0"), ("core.untrackedCache", "true"),
                       ("advice.detachedHead", "false")):
        git(tmp, "config", key, value)
    with timed(proj, "COMMIT", title(record, got), "commit-" + proj.name):
        base = commit_base(tmp, tmp, title(record, got), tmp / ".git" / "index")
    git(tmp, "update-ref", "refs/heads/work", base)
    git(tmp, "update-ref", "refs/lab/agreed", base)
    git(tmp, "tag", "base", base)
    os.replace(str(tmp), str(proj.tree))
    write_base(proj, record, got)


def other_base(proj, record, got):
    """Commit another base into an existing tree, which does not move."""
    tmp = unpack_beside(proj, record, got)
    index = proj.tree / ".git" / "index.base"
    with timed(proj, "COMMIT", title(record, got), "commit-" + proj.name):
        base = commit_base(proj.tree, tmp, title(record, got), index)
    shutil.rmtree(str(tmp))
    index.unlink()
    return base


def wanted_base(proj, record):
    """The artefact to stand on where it is not the one that the tree has, else None."""
    state = read_state(proj)
    got = fetch.override(proj.name)
    if not got:
        # An override stays until `make clean`: the tree is what the person asked for.
        if state["asked"] in (record["version"], fetch.PROJECTS[proj.name]["env"] + "_SRC",
                              fetch.PROJECTS[proj.name]["env"] + "_TARBALL"):
            return None
        got = fetch.fetch(proj.name, record)
    if got["sha256"] == state["identity"]:
        write_base(proj, record, got)
        return None
    return got


def read_sums(proj):
    path = proj.store / "base.sums"
    lines = read_text(path).splitlines() if path.is_file() else []
    return {path: blob for blob, path in (l.split(" ", 1) for l in lines
                                          if l and not l.startswith("#"))}


def moved_files(proj, base):
    """Files that the series edits and that differ from those it was made on."""
    sums = read_sums(proj)
    have = entries(proj.tree, base, set(sums))
    return ["%s is %s" % (path, "not in this base" if path not in have else "changed")
            for path in sorted(sums) if have.get(path, ("", ""))[1] != sums[path]]


# Verbs -------------------------------------------------------------------------------------


def need_tree(proj):
    if not (proj.tree / ".git").is_dir():
        raise SeriesError("build/%s is not there yet: run `make tree`" % proj.name)
    base = rev(proj.tree, "base")
    if not base:
        raise SeriesError("build/%s has lost its tag `base`" % proj.name)
    return base


def refuse(proj, mine):
    lines = ["build/%s has what the repo has not, and the repo changed too:" % proj.name]
    lines += ["  " + l for l in mine[:20]]
    lines += ["Commit what is not committed, then choose:",
              "  lab/series.py %s export --force   the tree wins" % proj.name,
              "  lab/series.py %s tree --force     the repo wins; the tree's commits stay on a "
              "branch kept-N" % proj.name]
    raise SeriesError("\n".join(lines))


def keep_branch(proj):
    number = 1
    while rev(proj.tree, "kept-%d" % number):
        number += 1
    git(proj.tree, "branch", "kept-%d" % number, "HEAD")
    say("KEEP", "branch kept-%d" % number, "in build/" + proj.name)


def verb_tree(proj, args):
    start, lock = time.time(), locked(proj)
    record = fetch.read_record(proj.store / "base")
    fresh = not (proj.tree / ".git").is_dir()
    if fresh:
        got = fetch.fetch(proj.name, record)
        make_tree(proj, record, got)
        base, other = need_tree(proj), None
    else:
        base, other = need_tree(proj), wanted_base(proj, record)
    stamp = fingerprint(proj)
    mine = [] if fresh else unexported(proj)
    if mine and not dirty(proj.tree) and in_step(proj, base):
        settle(proj, rev(proj.tree, "HEAD"))
        mine = []
    version = read_state(proj)["version"]
    if not other and stamp == read_state(proj).get("stamp"):
        say("TREE", "build/%s on %s" % (proj.name, version),
            "%d not exported (make export)" % len(mine) if mine else "up to date")
        return
    on = git_run(proj.tree, "symbolic-ref", "-q", "HEAD")[1].strip()
    if on != "refs/heads/work":
        raise SeriesError("build/%s is not on its branch `work` (a rebase or bisect going on?); "
                          "finish that, then run this again" % proj.name)
    if mine and (dirty(proj.tree) or not args.force):
        refuse(proj, mine)
    if mine:
        keep_branch(proj)
    if other:
        base = other_base(proj, record, other)
    for line in moved_files(proj, base):
        say("DRIFT", line)
    head, notes = import_series(proj.tree, proj, base, "refs/lab/import")
    for note in notes:
        say("OFFSET", note)
    git(proj.tree, "checkout", "-q", "-B", "work", head)
    if other:
        git(proj.tree, "tag", "-f", "base", base)
        write_base(proj, record, other)
    settle(proj, head)
    patches = load(proj)
    say("TREE", "build/%s on %s" % (proj.name, read_state(proj)["version"]),
        "%d patches, %d new files  %.0fs" % (len(patches), len(new_paths(patches)),
                                             time.time() - start))
    del lock


def repo_edits(proj):
    return fingerprint(proj) != read_state(proj).get("stamp")


def verb_export(proj, args):
    lock, base = locked(proj), need_tree(proj)
    edited = dirty(proj.tree)
    if edited:
        raise SeriesError("not committed in build/%s:\n%s" % (
            proj.name, "\n".join("  " + path for path in edited[:20])))
    files = export_series(proj.tree, proj, base, "HEAD")
    if repo_edits(proj) and files != stored(proj, load(proj)) and not args.force:
        raise SeriesError("the repo's series was edited since the last import; run `make tree`, "
                          "or let the tree win: lab/series.py %s export --force" % proj.name)
    top, old = proj.repo / proj.sub, load(proj)
    known = set(stored(proj, old))
    foreign = [path for path in files if path not in known and not args.force
               and read_file(top / path) not in (None, files[path])]
    if foreign:
        raise SeriesError("the repo has another file at %s, which no patch names; compare the "
                          "two, then: lab/series.py %s export --force" % (foreign[0], proj.name))
    written = [path for path, (mode, data) in sorted(files.items())
               if write_file(top / path, mode, data)]
    gone = sorted(known - set(files))
    for path in gone:
        (top / path).unlink()
    settle(proj, rev(proj.tree, "HEAD"))
    for path in written + gone:
        say("GONE" if path in gone else "WRITE", os.path.join(proj.sub, path))
    say("EXPORT", "build/" + proj.name, "%d patches, %d files changed" % (
        len(load(proj)), len(written) + len(gone)))
    del lock


def repo_files(proj):
    """All files of the repo below the project's folder, but for what git ignores."""
    # In the person's own environment: whether they may use this repo stands in their set-up.
    got = subprocess.run(["git", "-C", str(proj.repo), "ls-files", "-z", "-c", "-o",
                          "--exclude-standard", "--", proj.sub or "."], stdout=subprocess.PIPE)
    if got.returncode:
        raise SeriesError("git cannot list the files of %s" % proj.repo)
    out = text(got.stdout)
    prefix = proj.sub + "/" if proj.sub else ""
    return [p[len(prefix):] for p in out.split("\0") if p and os.path.lexists(str(proj.repo / p))]


def strays(proj, patches):
    """Files that lie in the project's folder and belong to nothing."""
    named = set(new_paths(patches))
    store = {"patches/" + n for n in ["series", "base", "base.sums", "cover"] +
             [p.name for p in patches]}
    found = []
    for path in repo_files(proj):
        if path.startswith("patches/"):
            if path not in store:
                found.append("%s is not in patches/series" % path)
        elif path not in named and (proj.sub or not re.match(OURS, path)):
            found.append("%s is named by no New-file: line (lab/series.py %s adopt %s puts it "
                         "into the tree, to be committed there)" % (path, proj.name, path))
    return found


def show_difference(path, want, have):
    if want is None or have is None:
        return ["%s: %s" % (path, "missing from the repo" if have is None
                            else "not what the series gives")]
    if want[0] != have[0]:
        return ["%s: mode %s in the repo, %s after a round trip" % (path, have[0], want[0])]
    diff = difflib.unified_diff(text(have[1]).splitlines(), text(want[1]).splitlines(),
                                "repo/" + path, "roundtrip/" + path, lineterm="")
    return ["%s differs after a round trip:" % path] + ["  " + l for l in list(diff)[:20]]


def verb_roundtrip(proj, args):
    """export(import(repo)) == repo, byte for byte, and nothing lies about."""
    del args
    start, base = time.time(), need_tree(proj)
    patches = load(proj)
    problems = strays(proj, patches)
    ref = "refs/lab/roundtrip-%d" % os.getpid()
    try:
        head, notes = import_series(proj.tree, proj, base, ref)
        files = export_series(proj.tree, proj, base, head)
    finally:
        git_run(proj.tree, "update-ref", "-d", ref)
    problems += ["not at its place: " + note for note in notes]
    have = stored(proj, patches)
    for path in sorted(set(files) | set(have)):
        if files.get(path) != have.get(path):
            problems += show_difference(path, files.get(path), have.get(path))
    if problems:
        for line in moved_files(proj, base):
            say("DRIFT", line)
        raise SeriesError("the stored series is not what a round trip gives:\n" +
                          "\n".join("  " + p for p in problems))
    say("OK", "round trip of %s" % proj.name, "%d patches, %d new files  %.1fs" % (
        len(patches), len(new_paths(patches)), time.time() - start))


def verb_drift(proj, args):
    del args
    lock, record = locked(proj), fetch.read_record(proj.store / "base")
    if not (proj.tree / ".git").is_dir():
        make_tree(proj, record, fetch.fetch(proj.name, record))
    base, other = need_tree(proj), wanted_base(proj, record)
    if other:
        base = other_base(proj, record, other)
    version = other["version"] if other else read_state(proj)["version"]
    moved = moved_files(proj, base)
    for line in moved:
        say("DRIFT", line)
    say("DRIFT", "%s on %s (made on %s)" % (proj.name, version, record["version"]),
        "%d of %d edited files moved" % (len(moved), len(read_sums(proj))))
    del lock


def verb_bisectable(proj, args):
    """Every commit of the stored series builds."""
    del args
    # Only this verb needs the lab's machines.
    import bisectable
    import machine
    if proj.name != "linux":
        raise SeriesError("only the kernel's commits are built one by one")
    base = need_tree(proj)
    head, _ = import_series(proj.tree, proj, base, "refs/lab/bisect")
    commits = [(commit, message.split("\n", 1)[0])
               for commit, _, _, message in commit_list(proj.tree, base, head)]
    try:
        bisectable.check(base, commits)
    except machine.Failed as reason:
        raise SeriesError(str(reason))
    say("OK", "all %d commits build" % len(commits))


def verb_clean(proj, args):
    """Remove the tree, unless that would lose work."""
    lock = locked(proj)
    if not proj.tree.exists():
        return
    mine = unexported(proj)
    if mine and not args.force and (dirty(proj.tree) or not in_step(proj, need_tree(proj))):
        raise SeriesError("build/%s has what the repo has not:\n%s\nmake export writes it there; "
                          "or throw it away: lab/series.py %s clean --force" % (
                              proj.name, "\n".join("  " + l for l in mine[:20]), proj.name))
    shutil.rmtree(str(proj.tree))
    say("CLEAN", "build/" + proj.name)
    del lock


def verb_stat(proj, args):
    """Lines that the series changes, per file that the base has."""
    del args
    counts = {}
    patches = load(proj)
    new = set(new_paths(patches))
    for patch in patches:
        for path, section in patch.sections:
            if path not in new:
                # Past the two file names, which begin with signs as well.
                lines = ("@@ " + section.partition("\n@@ ")[2]).split("\n")
                plus, minus = counts.get(path, (0, 0))
                counts[path] = (plus + sum(l.startswith("+") for l in lines),
                                minus + sum(l.startswith("-") for l in lines))
    for path, (plus, minus) in sorted(counts.items(), key=lambda c: -sum(c[1])):
        print("%6s %6s  %s" % ("+%d" % plus, "-%d" % minus, path))
    print("%6s %6s  %d files of the base, %d new files" % (
        "+%d" % sum(c[0] for c in counts.values()), "-%d" % sum(c[1] for c in counts.values()),
        len(counts), len(new)))


def verb_adopt(proj, args):
    """Copy new files that were written in the repo into the tree, to be committed there."""
    need_tree(proj)
    for path in args.paths:
        got = read_file(proj.repo / proj.sub / path)
        if not got:
            raise SeriesError("%s: no such file in the repo" % path)
        write_file(proj.tree / path, *got)
        say("ADOPT", path, "not committed yet: git -C build/%s add, commit" % proj.name)


def submitter(proj):
    """Who the repo's git says is working here, as (name, email)."""
    found = []
    for key in ("user.name", "user.email"):
        got = subprocess.run(["git", "-C", str(proj.repo), "config", key],
                             stdout=subprocess.PIPE, universal_newlines=True)
        found.append(got.stdout.strip())
    if not all(found):
        say("NOTE", "git has no user.name and user.email", "the mails carry a placeholder")
        return NOBODY[:-1].split(" <")
    return found


def cover_text(proj):
    lines = [l for l in read_text(proj.store / "cover").splitlines() if not l.startswith("#")]
    subject, _, body = "\n".join(lines).strip().partition("\n")
    if not subject.isascii() or not body.isascii():
        raise SeriesError("patches/cover: a cover letter carries no charset; use ASCII only")
    return subject, body.strip()


def fill_cover(proj, cover):
    """Put the text into the letter that git format-patch made."""
    subject, body = cover_text(proj)
    record = fetch.read_record(proj.store / "base")
    state = read_state(proj)
    if state["asked"] == record["version"]:
        body += "\n\nBase: Debian's %s %s" % (record["package"], state["version"])
    letter = read_text(cover)
    for placeholder, words in (("*** SUBJECT HERE ***", subject), ("*** BLURB HERE ***", body)):
        if placeholder not in letter:
            raise SeriesError("git format-patch made a cover letter without %s" % placeholder)
        letter = letter.replace(placeholder, words)
    cover.write_bytes(raw(letter))


def mail_folder(proj):
    return proj.tree.parent / ("series" if proj.name == "linux" else "series-" + proj.name)


def verb_mbox(proj, args):
    """The stored series as mails, written in the submitter's name."""
    lock, base, folder = locked(proj), need_tree(proj), mail_folder(proj)
    if not load(proj):
        raise SeriesError("the series of %s is empty" % proj.name)
    name, email = submitter(proj)
    head, _ = import_series(proj.tree, proj, base, "refs/lab/mails", "%s <%s>" % (name, email),
                            int(time.time()) - len(load(proj)))
    if folder.exists():
        shutil.rmtree(str(folder))
    env = {"GIT_COMMITTER_NAME": name, "GIT_COMMITTER_EMAIL": email,
           "GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": email}
    argv = ["format-patch", "-q", "-o", str(folder), "--cover-letter", "--base=" + base]
    signoff = args.signoff or os.environ.get("SIGNOFF") == "1"
    git(proj.tree, *argv, *(["--signoff"] if signoff else []), base + ".." + head, env=env)
    fill_cover(proj, folder / "0000-cover-letter.patch")
    say("SERIES", "%s/" % folder.relative_to(proj.repo), "%d mails" % len(list(folder.iterdir())))
    verify_mails(proj, base, head, folder)
    del lock


def verify_mails(proj, base, head, folder):
    """git am takes the mails on the bare base and gives the very tree that the series gives."""
    start = time.time()
    with tempfile.TemporaryDirectory(dir=str(proj.tree.parent), prefix="am-") as tmp:
        # A clone that borrows the objects and checks out no more than the mails touch.
        git(proj.tree.parent, "clone", "-q", "-s", "-n", str(proj.tree), tmp)
        touched = git(proj.tree, "diff", "--name-only", "-z", "--no-renames", base, head)
        git(tmp, "sparse-checkout", "set", "--no-cone", "--stdin",
            data="".join("/%s\n" % path for path in touched.split("\0") if path))
        git(tmp, "checkout", "-q", "--detach", base)
        name, email = NOBODY[:-1].split(" <")
        mails = sorted(str(p) for p in folder.glob("*.patch"))[1:]
        code, out, err = git_run(tmp, "-c", "user.name=" + name, "-c", "user.email=" + email,
                                 "am", "--keep-non-patch", *mails)
        if code:
            raise SeriesError("git am does not take the mails:\n%s%s" % (out, err))
        if git(tmp, "rev-parse", "HEAD^{tree}") != git(proj.tree, "rev-parse", head + "^{tree}"):
            raise SeriesError("git am takes the mails, yet the tree differs:\n%s" % git(
                tmp, "diff", "--stat", head, "HEAD"))
    say("OK", "git am of %d mails on the base" % len(mails),
        "same tree  %.1fs" % (time.time() - start))


VERBS = {
    "tree": (verb_tree, "assemble base and series in build/PROJECT; never loses work"),
    "export": (verb_export, "write the tree's commits back to the repo"),
    "roundtrip": (verb_roundtrip, "gate: export(import(repo)) is the repo"),
    "drift": (verb_drift, "name edited files that differ in the base in use"),
    "mbox": (verb_mbox, "write the mail series, and prove that git am takes it"),
    "bisectable": (verb_bisectable, "build every commit, options on and off; FULL=1: vmlinux"),
    "clean": (verb_clean, "remove build/PROJECT, unless work would be lost"),
    "stat": (verb_stat, "lines changed per file of the base"),
    "adopt": (verb_adopt, "copy new files from the repo into the tree"),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="verbs:\n" + "\n".join("  %-10s %s" % (v, VERBS[v][1]) for v in VERBS))
    parser.add_argument("project", choices=sorted(fetch.PROJECTS))
    parser.add_argument("verb", choices=sorted(VERBS), metavar="verb")
    parser.add_argument("paths", nargs="*", help="files, for adopt")
    parser.add_argument("--force", action="store_true", help="tree, export, clean")
    parser.add_argument("--signoff", action="store_true", help="mbox: add your Signed-off-by")
    parser.add_argument("--repo", default=fetch.ROOT, help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        VERBS[args.verb][0](project_of(args.project, args.repo), args)
    except (SeriesError, fetch.FetchError) as reason:
        sys.exit("error: %s" % reason)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
