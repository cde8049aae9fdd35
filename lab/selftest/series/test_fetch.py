#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The fetch takes the exact version where it can, the next best where not, and says which.

apt is replaced: what the mirror offers and what it answers is the test's.
"""

import contextlib
import io
import os
import sys
import tarfile
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import fetch  # noqa: E402

CONTENT = b"the package"


class Failed(Exception):
    """An expectation that did not hold."""


def expect(condition, what):
    if not condition:
        raise Failed(what)


def record(tmp, **changes):
    path = Path(tmp) / "base"
    digest = fetch.hashlib.sha256(CONTENT).hexdigest()
    fields = dict({"package": "p", "kind": "binary", "version": "7.3.4-1", "series": "7.3",
                   "suites": "one two three", "sha256": digest + " p_7.3.4-1_all.deb"}, **changes)
    path.write_text("# comment\n" + "".join("%s: %s\n" % item for item in fields.items()))
    return fetch.read_record(path)


def mirror(offers, holes=(), content=CONTENT, form="p_%s_all.deb"):
    """Make apt offer {suite: [version]}; holes are (suite, version) that answer 404."""
    asked = []

    def suite_versions(rec, site, suite):
        asked.append(suite)
        if suite not in offers:
            raise fetch.FetchError("the mirror has no such suite")
        return suite, offers[suite]

    def run_apt(argv, env, cwd=None):
        version = argv[-1].split("=")[1]
        name = form % version
        if "--print-uris" in argv:
            return 0, "'http://example.invalid/%s' %s 11 SHA256:0\n" % (name, name)
        if (env, version) in holes:
            return 100, "E: Failed to fetch %s  404  Not Found\n" % name
        (Path(cwd) / name).write_bytes(content)
        return 0, ""

    fetch.mirror_sites = lambda: ["http://example.invalid/debian"]
    fetch.suite_versions, fetch.run_apt = suite_versions, run_apt
    return asked


def refused(rec):
    try:
        fetch.fetch("linux", rec)
    except fetch.FetchError as reason:
        return str(reason)
    raise Failed("nothing serves, yet no error")


def test_exact_version_then_cache(tmp):
    asked = mirror({"two": ["7.3.5-1", "7.3.4-1"], "three": ["7.3.4-1"]})
    got = fetch.fetch("linux", record(tmp))
    expect(got["version"] == "7.3.4-1" and got["where"] == "fetched", str(got))
    expect(asked == ["one", "two"], "suites in turn, no further than needed: %s" % asked)
    got = fetch.fetch("linux", record(tmp))
    expect(got["where"] == "cached" and asked == ["one", "two"], "the cache serves: %s" % asked)


def test_damaged_cache(tmp):
    mirror({"one": ["7.3.4-1"]})
    fetch.fetch("linux", record(tmp))["path"].write_bytes(b"half of i")
    got = fetch.fetch("linux", record(tmp))
    expect(got["where"] == "fetched" and got["path"].read_bytes() == CONTENT, str(got))


def test_hole_in_the_mirror(tmp):
    mirror({"one": ["7.3.4-1"], "two": ["7.3.4-1"]}, holes=[("one", "7.3.4-1")])
    expect(fetch.fetch("linux", record(tmp))["version"] == "7.3.4-1", "the next suite serves")


def test_newest_of_the_series(tmp):
    asked = mirror({"one": ["7.3~rc7-1", "7.3.10-1", "7.3.9-1"], "two": ["7.4.1-1", "7.30-1"]})
    got = fetch.fetch("linux", record(tmp))
    expect(got["version"] == "7.3.10-1", str(got))
    del asked[:]
    got = fetch.fetch("linux", record(tmp))
    expect(got["version"] == "7.3.10-1" and not asked, "the mirror is not asked again: %s" % asked)


def test_hole_then_older(tmp):
    mirror({"one": ["7.3.6-1", "7.3.5-1"]}, holes=[("one", "7.3.6-1")])
    expect(fetch.fetch("linux", record(tmp))["version"] == "7.3.5-1", "the next version serves")


def test_source_package(tmp):
    mirror({"one": ["3.39-1"], "two": ["3.41-2", "3.33-3"]}, holes=[("two", "3.41-2")],
           form="p_%s.orig.tar.gz")
    rec = record(tmp, kind="source", version="3.41-2", series="3", sha256="0 p_3.41.orig.tar.gz")
    got = fetch.fetch("linux", rec)
    expect(got["version"] == "3.39-1" and got["what"] == "tarball", str(got))


def test_records_of_the_projects(tmp):
    del tmp
    for name, project in fetch.PROJECTS.items():
        rec = fetch.read_record(fetch.ROOT / project["sub"] / "patches" / "base")
        expect(fetch.same_series(rec["version"], rec["series"]), "%s: series" % name)
        expect(fetch.source_file(rec, rec["sha256"]), "%s: no checksum of what is fetched" % name)


def test_wrong_checksum_is_refused(tmp):
    mirror({"one": ["7.3.4-1"]}, content=b"not it")
    expect("the record says" in refused(record(tmp)), "a wrong checksum is named")
    expect(not list(fetch.cache_dir().glob("*.deb")), "and nothing of it is kept")


def test_nothing_serves(tmp):
    mirror({"one": [], "two": ["6.1-1"]})
    reason = refused(record(tmp))
    for words in ("one: has no such package", "two: has 6.1-1", "three: the mirror has no such",
                  "KERNEL_SRC=", "KERNEL_TARBALL="):
        expect(words in reason, "`%s` is not in: %s" % (words, reason))


def test_reasons_of_apt(tmp):
    del tmp
    expect("keyring" in fetch.apt_reason("W: GPG error: NO_PUBKEY 1234"), "a missing key is named")
    expect("no such suite" in fetch.apt_reason("E: x does not have a Release file."), "no suite")


def test_overrides(tmp):
    tree = Path(tmp) / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "Makefile").write_text("all:\n")
    os.symlink("/nowhere/else", str(tree / "sub" / "link"))
    os.environ["KERNEL_SRC"] = str(tree)
    rec = record(tmp)
    fetch.unpack(rec, fetch.fetch("linux", rec), Path(tmp) / "copy")
    expect(os.readlink(str(Path(tmp) / "copy" / "sub" / "link")) == "/nowhere/else", "links stay")
    (tree / "vmlinux").write_text("")
    try:
        fetch.unpack(rec, fetch.fetch("linux", rec), Path(tmp) / "copy2")
        raise Failed("a tree that was built in was taken")
    except fetch.FetchError as reason:
        expect("clean tree" in str(reason), str(reason))
    with tarfile.open(str(Path(tmp) / "t.tar"), "w") as tar:
        tar.add(str(tree), "top")
    os.environ["KERNEL_TARBALL"] = str(Path(tmp) / "t.tar")
    expect("unset one" in refused(rec), "two overrides are one too many")
    del os.environ["KERNEL_SRC"]
    fetch.unpack(rec, fetch.fetch("linux", rec), Path(tmp) / "copy3")
    expect((Path(tmp) / "copy3" / "Makefile").is_file(), "without the top folder")
    del os.environ["KERNEL_TARBALL"]


def main():
    tests = [(n, f) for n, f in sorted(globals().items()) if n.startswith("test_")]
    print("KTAP version 1\n1..%d" % len(tests))
    bad = 0
    for name in ("KERNEL_SRC", "KERNEL_TARBALL"):
        os.environ.pop(name, None)
    for number, (name, test) in enumerate(tests, 1):
        noise = io.StringIO()
        with tempfile.TemporaryDirectory() as tmp, contextlib.redirect_stderr(noise):
            os.environ["XDG_CACHE_HOME"] = tmp
            try:
                test(tmp)
                verdict = ""
            except (Failed, fetch.FetchError) as reason:
                bad += 1
                verdict = "\n# " + str(reason).replace("\n", "\n# ")
        print("%s %d %s%s" % ("not ok" if verdict else "ok", number, name[5:], verdict))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
