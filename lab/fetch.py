#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Get the upstream source that a series stands on, by Debian package name.

The record (patches/base, or that below the project's folder) names package, version and
checksum. The file comes from the cache, else from the machine's own Debian
mirror with apt, which checks the signatures. Nothing of the machine's apt
set-up is changed: lists, sources and configuration are private.
"""

import argparse
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# sub: where the project's files lie in the repo; env: prefix of the overrides.
PROJECTS = {
    "linux": {"sub": "", "env": "KERNEL"},
    "liburing": {"sub": "liburing", "env": "LIBURING"},
    "fio": {"sub": "fio", "env": "FIO"},
}

KEYRING = "/usr/share/keyrings/debian-archive-keyring"


class FetchError(Exception):
    """The reason why there is no source, for the person to read."""


def say(verb, what, note=""):
    line = "  %-7s %-40s %s" % (verb, what, note)
    print(line.rstrip(), file=sys.stderr, flush=True)


def read_record(path):
    """Parse a base record: `key: value` lines, `#` comments."""
    record = {"sha256": {}}
    for line in Path(path).read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        key, sep, value = line.partition(":")
        if not sep:
            raise FetchError("%s: not a `key: value` line: %s" % (path, line))
        value = value.strip()
        if key == "sha256":
            digest, name = value.split()
            record["sha256"][name] = digest
        elif key == "suites":
            record[key] = value.split()
        else:
            record[key] = value
    missing = [k for k in ("package", "kind", "version", "series", "suites") if k not in record]
    if missing or record["kind"] not in ("binary", "source"):
        raise FetchError("%s: missing or bad: %s" % (path, " ".join(missing or ["kind"])))
    return record


def cache_dir():
    top = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(top) / "uring-offload"


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def newer_first(versions):
    def compare(a, b):
        return -1 if subprocess.call(["dpkg", "--compare-versions", a, "gt", b]) == 0 else 1
    return sorted(set(versions), key=functools.cmp_to_key(compare))


def same_series(version, series):
    return re.match(re.escape(series) + r"([.~+-]|$)", version.split(":")[-1]) is not None


def source_file(record, names):
    """The one file of a package that holds the upstream tree."""
    want = r"\.deb$" if record["kind"] == "binary" else r"\.orig\.tar\.\w+$"
    return next((n for n in names if re.search(want, n)), None)


def version_of(record, name):
    """The version that a cached file's name tells; upstream's only, for a source package."""
    version = name.split("_")[1]
    if record["kind"] == "source":
        version = re.sub(r"\.orig\.tar\.\w+$", "", version)
    return version.replace("%3a", ":")


def artefact(what, path, version, digest, where):
    return {"what": what, "path": Path(path), "version": version, "sha256": digest,
            "where": where}


# Overrides ---------------------------------------------------------------------------------


def override(project):
    """The artefact that the person names in the environment, if any."""
    prefix = PROJECTS[project]["env"]
    src = os.environ.get(prefix + "_SRC")
    tarball = os.environ.get(prefix + "_TARBALL")
    if src and tarball:
        raise FetchError("%s_SRC and %s_TARBALL are both set; unset one" % (prefix, prefix))
    if src:
        path = Path(src).expanduser().resolve()
        if not (path / "Makefile").is_file():
            raise FetchError("%s_SRC=%s: no source tree there" % (prefix, src))
        return artefact("tree", path, "(yours)", tree_identity(path), prefix + "_SRC")
    if tarball:
        path = Path(tarball).expanduser().resolve()
        if not path.is_file():
            raise FetchError("%s_TARBALL=%s: no such file" % (prefix, tarball))
        what = "deb" if path.suffix == ".deb" else "tarball"
        return artefact(what, path, "(yours)", sha256(path), prefix + "_TARBALL")
    return None


def tree_identity(path):
    """What tells one state of an unpacked tree from another: its commit, else its place."""
    if (path / ".git").exists():
        got = subprocess.run(["git", "-C", str(path), "rev-parse", "HEAD"],
                             stdout=subprocess.PIPE, universal_newlines=True)
        if got.returncode == 0:
            return got.stdout.strip()
    return "%s %d" % (path, (path / "Makefile").stat().st_mtime)


# Cache -------------------------------------------------------------------------------------


def cached(record, name, digest):
    """A cached file if it is there and whole; a damaged one is removed."""
    path = cache_dir() / name
    if not path.is_file():
        return None
    if sha256(path) != digest:
        say("FETCH", name, "cached file is damaged, fetching again")
        path.unlink()
        return None
    return artefact("deb" if name.endswith(".deb") else "tarball", path,
                    version_of(record, name), digest, "cached")


def cached_substitutes(record):
    """Other versions of the series in the cache, newest first. Each has its checksum beside it."""
    prefix = record["package"] + "_"
    found = {}
    for note in cache_dir().glob(prefix + "*.sha256"):
        name = note.name[:-len(".sha256")]
        if same_series(version_of(record, name), record["series"]):
            found[version_of(record, name)] = (name, note.read_text().split()[0])
    return [found[v] for v in newer_first(found)]


# apt ---------------------------------------------------------------------------------------


def mirror_sites():
    """Addresses of the machine's own Debian mirrors, main archive first."""
    got = subprocess.run(["apt-get", "indextargets", "--no-release-info", "--format", "$(SITE)"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    sites = []
    for site in got.stdout.split():
        if site not in sites and "security" not in site and not site.startswith("cdrom"):
            sites.append(site)
    return sorted(sites, key=lambda s: not s.rstrip("/").endswith("/debian"))


def keyring():
    for suffix in (".pgp", ".gpg"):
        if os.path.exists(KEYRING + suffix):
            return KEYRING + suffix
    raise FetchError("%s.gpg is missing: install the package debian-archive-keyring" % KEYRING)


def apt_private(folder, site, suite, kind):
    """A folder that apt works in, and the environment that makes it do so.

    The machine's transport settings (a proxy, say) are kept; its hooks are not,
    for they would change things outside the folder, or fail where not root.
    """
    for sub in ("lists/partial", "archives/partial"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    arch = subprocess.check_output(["dpkg", "--print-architecture"], universal_newlines=True)
    deb = "deb" if kind == "binary" else "deb-src"
    (folder / "sources.list").write_text("%s [arch=%s signed-by=%s] %s %s main\n" % (
        deb, arch.strip(), keyring(), site, suite))
    dump = subprocess.check_output(["apt-config", "dump"], universal_newlines=True)
    keep = [l for l in dump.splitlines()
            if l.startswith("Acquire::") and not l.startswith("Acquire::IndexTargets")]
    private = {
        "Dir::Etc::main": "/dev/null", "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::sourcelist": folder / "sources.list", "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null", "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": folder / "lists", "Dir::Cache": folder,
        "Dir::Cache::archives": folder / "archives",
        "Acquire::Languages": "none", "APT::Update::Error-Mode": "any",
    }
    if os.geteuid() == 0:
        # apt's own sandbox user cannot write to a folder in a private cache.
        private["APT::Sandbox::User"] = "root"
    conf = folder / "apt.conf"
    conf.touch(mode=0o600)
    conf.write_text("\n".join(keep + ['%s "%s";' % item for item in private.items()]) + "\n")
    return dict(os.environ, APT_CONFIG=str(conf), LC_ALL="C")


def apt_reason(output):
    """One line that says why apt failed."""
    if re.search("NO_PUBKEY|EXPKEYSIG|BADSIG|not signed", output):
        return ("signed with a key that this machine's debian-archive-keyring does not hold "
                "(upgrade that package)")
    if "does not have a Release file" in output:
        return "the mirror has no such suite"
    lines = [l for l in output.splitlines() if l.startswith(("E:", "W:"))]
    return lines[0][2:].strip() if lines else "apt failed"


def run_apt(argv, env, cwd=None):
    got = subprocess.run(argv, env=env, cwd=cwd, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, universal_newlines=True)
    return got.returncode, got.stdout


def suite_versions(record, site, suite):
    """Update one suite's index; return the environment for apt and the versions that it has."""
    folder = cache_dir() / "apt" / ("%s-%s" % (suite, record["kind"]))
    env = apt_private(folder, site, suite, record["kind"])
    code, output = run_apt(["apt-get", "update", "-q"], env)
    if code or re.search("NO_PUBKEY|EXPKEYSIG|BADSIG", output):
        raise FetchError(apt_reason(output))
    code, output = run_apt(["apt-cache", "madison", record["package"]], env)
    versions = [l.split("|")[1].strip() for l in output.splitlines() if l.count("|") == 2]
    return env, newer_first(versions)


def download(record, version, env):
    """Download one version into the cache; the file appears there whole or not at all."""
    spec = "%s=%s" % (record["package"], version)
    if record["kind"] == "binary":
        argv = ["apt-get", "download", "-q", spec]
    else:
        argv = ["apt-get", "source", "-q", "--download-only", "--tar-only", spec]
    code, output = run_apt(argv[:2] + ["--print-uris"] + argv[2:], env)
    uris = re.findall(r"^'[^']*' (\S+) (\d+) ", output, re.M)
    sizes = dict(uris)
    name = source_file(record, [n for n, _ in uris])
    if code or not name:
        raise FetchError(apt_reason(output))
    say("FETCH", spec, "downloading %.1f MB" % (int(sizes[name]) / 1e6))
    start = time.time()
    with tempfile.TemporaryDirectory(dir=str(cache_dir()), prefix="partial-") as tmp:
        code, output = run_apt(argv, env, cwd=tmp)
        file = Path(tmp) / name
        if code or not file.is_file():
            raise FetchError(apt_reason(output))
        digest = sha256(file)
        want = record["sha256"].get(name)
        if want and digest != want:
            raise FetchError("%s has checksum %s, the record says %s" % (name, digest, want))
        (cache_dir() / (name + ".sha256")).write_text("%s  %s\n" % (digest, name))
        os.replace(str(file), str(cache_dir() / name))
    say("FETCH", spec, "%ds" % (time.time() - start))
    return artefact("deb" if name.endswith(".deb") else "tarball", cache_dir() / name,
                    version, digest, "fetched")


def from_mirror(record, tried):
    """The exact version from the first suite that serves it, else the newest of the series."""
    offers = []
    for suite in record["suites"]:
        for site in mirror_sites():
            say("FETCH", record["package"], "looking in %s" % suite)
            try:
                env, versions = suite_versions(record, site, suite)
            except FetchError as reason:
                tried.append("%s: %s" % (suite, reason))
                continue
            offers += [(v, suite, env) for v in versions if same_series(v, record["series"])]
            tried.append("%s: has %s" % (suite, ", ".join(versions) or "no such package"))
            if record["version"] in versions:
                try:
                    return download(record, record["version"], env)
                except FetchError as reason:
                    tried.append("%s: %s: %s" % (suite, record["version"], reason))
            break
    for version in newer_first([o[0] for o in offers if o[0] != record["version"]]):
        for _, suite, env in [o for o in offers if o[0] == version]:
            try:
                return download(record, version, env)
            except FetchError as reason:
                tried.append("%s: %s: %s" % (suite, version, reason))
    return None


def fetch(project, record):
    """Return the artefact that serves as the base."""
    got = override(project)
    if got:
        return got
    name = source_file(record, record["sha256"])
    got = cached(record, name, record["sha256"][name]) if name else None
    if got:
        # A source package's file name lacks Debian's revision.
        got["version"] = record["version"]
        return got
    cache_dir().mkdir(parents=True, exist_ok=True)
    # What took the wanted version's place stays chosen for a day: the mirror may have had a hole.
    instead = cache_dir() / ("%s_%s.instead" % (record["package"], record["version"]))
    substitutes = cached_substitutes(record)
    chosen = instead.is_file() and time.time() - instead.stat().st_mtime < 86400
    if chosen:
        substitutes.sort(key=lambda s: s[0] != instead.read_text().strip())
    tried = []
    if not (chosen and substitutes):
        if not shutil.which("apt-get"):
            tried.append("apt: not on this machine")
        else:
            got = from_mirror(record, tried)
    if got and got["version"] != record["version"]:
        instead.write_text(got["path"].name + "\n")
    for name, digest in [] if got else substitutes:
        got = cached(record, name, digest)
        if got:
            break
    if not got:
        raise FetchError(nothing_serves(project, record, tried))
    if got["version"] != record["version"]:
        say("FETCH", record["package"], "%s is not served; using %s" % (
            record["version"], got["version"]))
    return got


def nothing_serves(project, record, tried):
    prefix = PROJECTS[project]["env"]
    lines = ["no source for %s %s (%s)" % (record["package"], record["version"], project),
             "tried:", "  cache %s: not there" % cache_dir()]
    lines += ["  " + t for t in tried]
    lines += ["what you can do:",
              "  check the network and that the machine has a Debian mirror in its apt sources, or",
              "  make ... %s_SRC=/path/to/tree       an unpacked or git tree of %s, or" % (
                  prefix, record["series"]),
              "  make ... %s_TARBALL=/path/to/file   the .deb or a tarball of it" % prefix]
    return "\n".join(lines)


# Unpacking ---------------------------------------------------------------------------------


def pipe(*argvs, **last):
    """Run a pipeline; raise if any part fails."""
    procs, stdin = [], None
    for argv in argvs:
        final = argv is argvs[-1]
        proc = subprocess.Popen(argv, stdin=stdin, stdout=None if final else subprocess.PIPE,
                                **(last if final else {}))
        if stdin:
            stdin.close()
        stdin = proc.stdout
        procs.append((argv, proc))
    bad = [argv[0] for argv, proc in procs if proc.wait() != 0]
    if bad:
        raise FetchError("unpacking failed in: %s" % " ".join(bad))


def unpack(record, got, target):
    """Unpack an artefact into the empty folder target, without its top folder."""
    target.mkdir(parents=True)
    tar = ["tar", "-x", "-C", str(target), "--strip-components=1", "--no-same-owner"]
    path = str(got["path"])
    if got["what"] == "deb":
        member = "./usr/src/%s.tar.xz" % record["package"]
        pipe(["dpkg-deb", "--fsys-tarfile", path], ["tar", "-xO", member], tar + ["-J"])
    elif got["what"] == "tarball":
        pipe(tar + ["-f", path])
    elif (got["path"] / ".git").exists():
        pipe(["git", "-C", path, "archive", "--format=tar", "--prefix=t/", "HEAD"], tar)
    else:
        built = [n for n in (".config", "vmlinux", "include/generated")
                 if (got["path"] / n).exists()]
        if built:
            raise FetchError("%s has been built in (%s); give a clean tree" % (path, built[0]))
        pipe(["tar", "-c", "-C", path, "--transform=s,^\\.,t,S", "."], tar)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("project", choices=sorted(PROJECTS))
    parser.add_argument("--path", action="store_true",
                        help="print the path of the cached file or of the tree given")
    args = parser.parse_args()
    record = read_record(ROOT / PROJECTS[args.project]["sub"] / "patches" / "base")
    try:
        got = fetch(args.project, record)
    except FetchError as reason:
        sys.exit("error: %s" % reason)
    if args.path:
        print(got["path"])
    else:
        say("FETCH", "%s %s" % (record["package"], got["version"]), got["where"])


if __name__ == "__main__":
    main()
