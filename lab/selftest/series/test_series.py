#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The stored series and its tree are inverses, and what breaks that is refused.

Runs lab/series.py on a base of three files. Every input that the gate must
reject is tried, so that a gate gone silent shows.
"""

import os
import re
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

SERIES = Path(__file__).resolve().parents[2] / "series.py"
RECORD = ("package: tiny\nkind: binary\nversion: 1.0-1\nseries: 1.0\nsuites: none\n")
LINES = ["line %d" % n for n in range(1, 61)]


class Failed(Exception):
    """An expectation that did not hold."""


def expect(condition, what):
    if not condition:
        raise Failed(what)


def sh(cwd, *argv):
    env = dict(os.environ, GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_NOSYSTEM="1")
    got = subprocess.run(argv, cwd=str(cwd), env=env, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, universal_newlines=True)
    expect(got.returncode == 0, "%s: %s" % (" ".join(argv), got.stdout))
    return got.stdout


def series(repo, *argv, fail=None, base="base"):
    """Run series.py; `fail` is what its refusal must say."""
    env = dict(os.environ, KERNEL_TARBALL=str(repo / (base + ".tar")))
    env.pop("KERNEL_SRC", None)
    got = subprocess.run([sys.executable, str(SERIES), "linux", *argv, "--repo", str(repo)],
                         env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         universal_newlines=True)
    if fail is None:
        expect(got.returncode == 0, "%s: %s" % (" ".join(argv), got.stdout))
    else:
        expect(got.returncode == 1, "%s was not refused: %s" % (argv[0], got.stdout))
        expect(re.search(fail, got.stdout), "`%s` is not in: %s" % (fail, got.stdout))
    return got.stdout


def put(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write_base(repo, name, lines):
    top = repo / "build" / "src" / name / "tiny"
    put(top / "Makefile", ["all:"])
    put(top / "a.c", lines)
    put(top / "include" / "a.h", LINES)
    # As Debian ships it: everything is ignored.
    put(top / ".gitignore", ["*.o", "", "#", "# Debian packaging: ignore everything at the top",
                             "#", "/*", "!/debian/"])
    sh(top.parent, "tar", "-cf", str(repo / (name + ".tar")), "tiny")


def empty_repo(tmp):
    repo = Path(tmp) / "repo"
    repo.mkdir()
    sh(repo, "git", "init", "-q")
    put(repo / ".gitignore", ["/build/", "/*.tar"])
    (repo / "patches").mkdir()
    (repo / "patches" / "base").write_text(RECORD)
    (repo / "patches" / "series").write_text("")
    write_base(repo, "base", LINES)
    return repo


def commit(tree, message):
    sh(tree, "git", "add", "-A")
    sh(tree, "git", "commit", "-q", "-m", message)


def three_commits(tmp):
    """A repo whose three commits share two new files, an executable and a link."""
    repo = empty_repo(tmp)
    series(repo, "tree")
    tree = repo / "build" / "linux"
    put(tree / "new.c", LINES[:30])
    put(tree / "new dir" / "run.sh", ["#!/bin/sh", "true"])
    (tree / "new dir" / "run.sh").chmod(0o755)
    os.symlink("new.c", str(tree / "link.c"))
    put(tree / "a.c", LINES[:10] + ["first hook"] + LINES[10:])
    commit(tree, "tiny: add new.c\n\nWhy it is there.\n\nLink: somewhere")
    put(tree / "new.c", LINES[:20] + ["second"] + LINES[20:30])
    put(tree / "gone.c", ["for one commit only"])
    put(tree / "a.c", LINES[:10] + ["first hook", "second hook"] + LINES[10:])
    commit(tree, "tiny: grow new.c")
    put(tree / "new.c", LINES[:5] + ["third"] + LINES[5:20] + ["second"] + LINES[20:30])
    (tree / "new dir" / "run.sh").chmod(0o644)
    (tree / "gone.c").unlink()
    (tree / "include" / "a.h").unlink()
    commit(tree, "tiny: grow it again")
    series(repo, "export")
    return repo, tree


def trees(tree):
    return sh(tree, "git", "log", "--format=%T %s%n%b", "base..work")


def replace(path, old, new):
    content = path.read_text()
    expect(old in content, "no `%s` in %s" % (old, path))
    path.write_text(content.replace(old, new, 1))


def test_empty_series(tmp):
    repo = empty_repo(tmp)
    series(repo, "tree")
    series(repo, "export")
    series(repo, "roundtrip")
    expect("up to date" in series(repo, "tree"), "a second tree does nothing")


def test_round_trip(tmp):
    repo, tree = three_commits(tmp)
    expect(os.readlink(str(repo / "link.c")) == "new.c", "the link is stored as a link")
    expect(not (repo / "gone.c").exists(), "a file that is deleted again is not stored whole")
    first = (repo / "patches" / "tiny-add-new.c.patch").read_text()
    expect("New-file: new.c\n" in first and "From:" not in first and "index " not in first,
           "a patch holds what a reviewer must see and nothing else: " + first)
    series(repo, "roundtrip")
    want = trees(tree)
    sh(repo, "rm", "-rf", "build/linux")
    series(repo, "tree")
    expect(trees(tree) == want, "every intermediate tree and message comes back")
    head = sh(tree, "git", "rev-parse", "work")
    sh(repo, "rm", "-rf", "build/linux")
    series(repo, "tree")
    expect(sh(tree, "git", "rev-parse", "work") == head, "commit ids are the same anywhere")
    expect("0 files changed" in series(repo, "export"), "export is idempotent")


def test_author_kept(tmp):
    repo, tree = three_commits(tmp)
    put(tree / "a.c", ["by somebody"])
    sh(tree, "git", "-c", "user.name=Some Body", "-c", "user.email=some@body.invalid",
       "commit", "-q", "-a", "-m", "tiny: by somebody")
    series(repo, "export")
    patch = (repo / "patches" / "tiny-by-somebody.patch").read_text()
    expect(patch.startswith("From: Some Body <some@body.invalid>\n"), patch)
    series(repo, "roundtrip")


def test_import_spares_unchanged_files(tmp):
    repo, tree = three_commits(tmp)
    os.utime(str(tree / "a.c"), (1, 1))
    sh(tree, "git", "status")
    replace(repo / "new.c", "line 14", "line fourteen")
    series(repo, "tree")
    expect((tree / "a.c").stat().st_mtime == 1, "a.c was rewritten")
    expect("line fourteen" in (tree / "new.c").read_text(), "the edit of a whole file arrived")
    expect("line fourteen" in sh(tree, "git", "show", "work~2:new.c"), "in its first commit")
    series(repo, "export")
    series(repo, "roundtrip")


def test_edit_near_later_hunk(tmp):
    repo, _ = three_commits(tmp)
    replace(repo / "new.c", "line 21", "line twenty-one")
    series(repo, "roundtrip", fail=r"tiny-grow-new.c.patch: its hunks cannot be taken back")
    series(repo, "tree", fail=r"new\.c")


def test_shifted_offset(tmp):
    repo, _ = three_commits(tmp)
    replace(repo / "patches" / "tiny-add-new.c.patch", "@@ -8,6 +8,7 @@", "@@ -9,6 +9,7 @@")
    series(repo, "roundtrip", fail="offset")


def test_other_context(tmp):
    repo, _ = three_commits(tmp)
    replace(repo / "patches" / "tiny-add-new.c.patch", " line 9\n", " line nine\n")
    series(repo, "roundtrip", fail="tiny-add-new.c.patch does not apply")


def test_missing_new_file(tmp):
    repo, _ = three_commits(tmp)
    (repo / "new dir" / "run.sh").unlink()
    series(repo, "roundtrip", fail="run.sh")


def test_dropped_new_file_line(tmp):
    repo, _ = three_commits(tmp)
    replace(repo / "patches" / "tiny-add-new.c.patch", "New-file: link.c\n", "")
    series(repo, "roundtrip", fail="link.c is named by no New-file: line")


def test_stray_patch(tmp):
    repo, _ = three_commits(tmp)
    put(repo / "patches" / "forgotten.patch", ["Subject: forgotten", "", "---"])
    series(repo, "roundtrip", fail="patches/forgotten.patch is not in patches/series")


def test_missing_patch(tmp):
    repo, _ = three_commits(tmp)
    (repo / "patches" / "tiny-grow-new.c.patch").unlink()
    series(repo, "roundtrip", fail="names tiny-grow-new.c.patch, which is missing")


def test_stray_kernel_file(tmp):
    repo, _ = three_commits(tmp)
    put(repo / "io_uring" / "lost.c", ["int x;"])
    series(repo, "roundtrip", fail="io_uring/lost.c is named by no New-file: line")


def test_series_edited_by_hand(tmp):
    repo, _ = three_commits(tmp)
    replace(repo / "patches" / "series", "Written by", "Edited by")
    series(repo, "roundtrip", fail="patches/series differs")


def test_unexported_commit_is_kept(tmp):
    repo, tree = three_commits(tmp)
    put(tree / "mine.c", ["mine"])
    commit(tree, "tiny: mine")
    expect("1 not exported" in series(repo, "tree"), "the tree alone changed: left alone")
    replace(repo / "new.c", "line 14", "line fourteen")
    series(repo, "tree", fail="(?s)repo changed too.*tiny: mine")
    series(repo, "export", fail="edited since the last import")
    expect((tree / "mine.c").exists(), "the commit is still there")
    series(repo, "tree", "--force")
    expect("mine.c" in sh(tree, "git", "ls-tree", "kept-1"), "--force keeps it on a branch")


def test_uncommitted_edit_is_kept(tmp):
    repo, tree = three_commits(tmp)
    put(tree / "a.c", ["precious"])
    put(tree / "untracked.c", ["precious too"])
    series(repo, "export", fail="(?s)not committed.*a.c.*untracked.c")
    replace(repo / "new.c", "line 14", "line fourteen")
    series(repo, "tree", fail="edited, not committed: a.c")
    series(repo, "tree", "--force", fail="edited, not committed: a.c")
    expect((tree / "a.c").read_text() == "precious\n", "the edit is still there")


def test_same_commits_elsewhere(tmp):
    repo, tree = three_commits(tmp)
    put(tree / "a.c", ["amended"])
    sh(tree, "git", "commit", "-q", "-a", "-m", "tiny: more")
    series(repo, "export")
    sh(tree, "git", "commit", "-q", "--amend", "--reset-author", "--no-edit",
       "--date=2001-01-01T00:00:00Z")
    replace(repo / "new.c", "line 14", "line fourteen")
    series(repo, "tree", fail="repo changed too")
    replace(repo / "new.c", "line fourteen", "line 14")
    expect("up to date" in series(repo, "tree"), "the same content is in step")


def test_fixup_and_binary_refused(tmp):
    repo, tree = three_commits(tmp)
    put(tree / "a.c", ["x"])
    commit(tree, "fixup! tiny: grow new.c")
    series(repo, "export", fail="not squashed")
    (tree / "a.c").write_bytes(b"\0\1\2" * 100)
    sh(tree, "git", "commit", "-q", "-a", "--amend", "-m", "tiny: binary")
    series(repo, "export", fail="a.c is binary")


def test_dropped_commit_leaves_the_repo(tmp):
    repo, tree = three_commits(tmp)
    sh(tree, "git", "reset", "-q", "--hard", "base")
    series(repo, "export")
    left = sorted(p.name for p in repo.iterdir())
    expect(not {"new.c", "link.c"} & set(left), "still there: %s" % left)
    expect(not list((repo / "patches").glob("*.patch")), "no patch is left")
    series(repo, "roundtrip")


def test_foreign_file_not_overwritten(tmp):
    repo, tree = three_commits(tmp)
    put(repo / "other.c", ["written in the repo"])
    put(tree / "other.c", ["written in the tree"])
    commit(tree, "tiny: other")
    series(repo, "export", fail="another file at other.c")
    series(repo, "adopt", "other.c")
    sh(tree, "git", "commit", "-q", "-a", "--amend", "--no-edit")
    series(repo, "export")
    series(repo, "roundtrip")


def test_new_base(tmp):
    repo, tree = three_commits(tmp)
    write_base(repo, "same", LINES)
    put(repo / "build" / "src" / "same" / "tiny" / "unrelated.c", ["new upstream"])
    sh(repo / "build" / "src" / "same", "tar", "-cf", str(repo / "same.tar"), "tiny")
    os.utime(str(tree / "a.c"), (1, 1))
    sh(tree, "git", "status")
    expect("DRIFT   a.c" not in series(repo, "tree", base="same"), "nothing edited moved")
    expect((tree / "unrelated.c").exists(), "the new base is there")
    expect((tree / "a.c").stat().st_mtime == 1, "files that are the same were not rewritten")
    series(repo, "roundtrip", base="same")
    write_base(repo, "moved", ["new line"] + LINES)
    expect("a.c is changed" in series(repo, "drift", base="moved"), "drift names the file")
    out = series(repo, "tree", base="moved")
    expect("a.c is changed" in out and "offset 1 line" in out, "and import says so: " + out)
    write_base(repo, "clash", LINES[:8] + ["clash"] + LINES[8:])
    head = sh(tree, "git", "rev-parse", "HEAD")
    series(repo, "tree", base="clash", fail="does not apply")
    expect(sh(tree, "git", "rev-parse", "HEAD") == head, "a failed import moves nothing")


def test_mails(tmp):
    repo, _ = three_commits(tmp)
    (repo / "patches" / "cover").write_text("# comment\ntiny: all of it\n\nThe blurb.\n")
    sh(repo, "git", "config", "user.name", "Sub Mitter")
    sh(repo, "git", "config", "user.email", "sub@mitter.invalid")
    expect("same tree" in series(repo, "mbox"), "git am was tried")
    folder = repo / "build" / "series"
    names = sorted(p.name for p in folder.iterdir())
    expect(names[1] == "0001-tiny-add-new.c.patch" and len(names) == 4, str(names))
    cover = (folder / names[0]).read_text()
    expect("Subject: [PATCH 0/3] tiny: all of it\n" in cover and "The blurb." in cover, cover)
    mail = (folder / names[1]).read_text()
    expect("From: Sub Mitter <sub@mitter.invalid>\n" in mail and "\nindex " in mail, mail)
    expect("Signed-off-by" not in mail, "nobody signs off unasked")
    series(repo, "mbox", "--signoff")
    expect("\nSigned-off-by: Sub Mitter <sub@mitter.invalid>\n" in
           (folder / names[1]).read_text(), "whoever asks signs off")


def test_stat(tmp):
    repo, _ = three_commits(tmp)
    expect(re.search(r"\+2 +-0  a\.c\n", series(repo, "stat")), series(repo, "stat"))


def test_clean_keeps_work(tmp):
    repo, tree = three_commits(tmp)
    put(tree / "mine.c", ["mine"])
    series(repo, "clean", fail="not committed: mine.c")
    commit(tree, "tiny: mine")
    series(repo, "clean", fail="commit: .* tiny: mine")
    series(repo, "export")
    series(repo, "clean")
    expect(not tree.exists(), "the tree is gone")


def test_stored_signoff_refused(tmp):
    repo, tree = three_commits(tmp)
    sh(tree, "git", "commit", "-q", "--amend", "-s", "--no-edit")
    series(repo, "export", fail="Signed-off-by is for whoever submits")
    replace(repo / "patches" / "tiny-add-new.c.patch", "Link: somewhere",
            "Signed-off-by: Some Body <some@body.invalid>")
    series(repo, "roundtrip", fail="Signed-off-by is for whoever submits")


def main():
    tests = [(n, f) for n, f in sorted(globals().items()) if n.startswith("test_")]
    print("KTAP version 1\n1..%d" % len(tests))
    bad = 0
    for number, (name, test) in enumerate(tests, 1):
        with tempfile.TemporaryDirectory() as tmp:
            try:
                test(tmp)
                print("ok %d %s" % (number, name[5:]), flush=True)
            except Failed as reason:
                bad += 1
                print("not ok %d %s\n# %s" % (number, name[5:], str(reason).replace("\n", "\n# ")))
            except Exception:
                bad += 1
                print("not ok %d %s\n# %s" % (number, name[5:],
                                              traceback.format_exc().replace("\n", "\n# ")))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
