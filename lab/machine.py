#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Build, boot and use the lab's machines.

um          User Mode Linux, all checkers, one CPU
qemu        x86-64, plain, for measuring
qemu-debug  the same with all checkers
qemu-iommu  qemu-debug's kernel with an IOMMU in strict mode
qemu-lazy, qemu-pt, qemu-swiotlb
            the same with an IOMMU in lazy mode, in passthrough mode, and
            with all DMA by way of bounce buffers
qemu-p2p    qemu-iommu, and with devices whose memory is for drives to read and write
qemu-p2p-off  qemu-p2p without an IOMMU
qemu-suspend  qemu-debug's kernel, whose devices may be suspended
qemu-base   qemu's configuration of the unpatched kernel
"""

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import os
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import tty
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
LOG = BUILD / "log"
CONFIGS = ROOT / "lab" / "configs"
INIT = BUILD / "user" / "init"
JOBS = len(os.sched_getaffinity(0)) + 1

QEMU_CONFIG = ["common.config", "qemu.config"]
# Tree and folder lie beside each other in both places, so that the compiler is
# told the same names and ccache builds the unpatched kernel from what it has.
MACHINES = {
    "um": {
        "arch": "um", "tree": "linux", "folder": "um", "target": "linux", "debug": True,
        "config": ["common.config", "um.config", "debug.config", "series.config",
                   "series-debug.config"],
    },
    "qemu": {
        "arch": "x86_64", "tree": "linux", "folder": "qemu", "target": "vmlinux",
        "debug": False,
        "config": QEMU_CONFIG + ["series.config"],
    },
    # KASAN and -Os together do not survive vmlinux's own entry, which runs memcmp()
    # before there is a shadow; the entry of a bzImage is another
    "qemu-debug": {
        "arch": "x86_64", "tree": "linux", "folder": "qemu-debug", "target": "bzImage",
        "debug": True,
        # the last one wins: it makes modules of what others build in
        "config": QEMU_CONFIG + ["debug.config", "series.config", "series-debug.config",
                                 "qemu-debug.config"],
        "modules": ["lib/test_dmabuf.ko"],
    },
    "qemu-base": {
        "arch": "x86_64", "tree": "base/linux", "folder": "base/qemu", "target": "vmlinux",
        "debug": False,
        "config": QEMU_CONFIG,
    },
}
# the same kernel behind an IOMMU, which forgets an address as soon as it is unmapped if
# it is strict, and where the CPU copies whatever a device reads and writes
MACHINES |= {
    "qemu-iommu": MACHINES["qemu-debug"] | {"iommu": "strict"},
    "qemu-lazy": MACHINES["qemu-debug"] | {"iommu": "lazy"},
    "qemu-pt": MACHINES["qemu-debug"] | {"iommu": "pt"},
    "qemu-swiotlb": MACHINES["qemu-debug"] | {"append": ["swiotlb=force"]},
    # whose memory it is that a drive reads and writes: that of a device beside it, or behind
    # the same switch, which is where it doesn't go by the host bridge without an IOMMU
    "qemu-p2p": MACHINES["qemu-debug"] | {"iommu": "strict", "p2p": True},
    "qemu-p2p-off": MACHINES["qemu-debug"] | {"p2p": True},
    # whose devices are suspended: neither the root file system's comes back from that nor
    # a virtio port
    "qemu-suspend": MACHINES["qemu-debug"] | {"channel": "serial"},
}

# Seconds from the start of the program to the guest's first word.
BOOT_TIMEOUT = {name: 60 if name == "um" else 300 if spec["debug"] else 120
                for name, spec in MACHINES.items()}

# What a healthy kernel never says.
SPLAT = re.compile(
    r"\bWARNING: |\bBUG: |kernel BUG at|KASAN: |UBSAN: |ODEBUG: |\bOops\b|Kernel panic"
    r"|general protection fault|unable to handle|possible circular locking"
    r"|possible recursive locking|inconsistent lock state|possible irq lock inversion"
    r"|suspicious RCU usage|lock held when returning|held lock freed|bad unlock balance"
    r"|nested lock was not taken|Invalid wait context|scheduling while atomic|sleeping function"
    r"|DMA-API: (?!preallocated|debugging)|unreferenced object|kmemleak: \d+ new"
    r"|INFO: task .* blocked for more|detected stalls? on|self-detected stall|soft lockup"
    r"|hard LOCKUP|refcount_t: |list_(?:add|del) corruption|Bad page state|Bad rss-counter"
    r"|stack-protector|Segfault with no mm|hung_task: blocked")
SPLAT_LINES = 40


class Failed(Exception):
    """A step failed; the text is for the person at the keyboard."""


class Died(Failed):
    """The machine went away, or no longer answers."""


def say(text):
    print(text, flush=True)


def seconds(value):
    return f"{value:.0f}s"


# ---------------------------------------------------------------- build

def build_env():
    """The same commands and the same results, whatever the folder and the user."""
    env = dict(os.environ)
    env.update({
        "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
        "KBUILD_BUILD_USER": "lab",
        "KBUILD_BUILD_HOST": "lab",
        "CCACHE_BASEDIR": str(ROOT),
        "CCACHE_NOHASHDIR": "1",
        # it holds the folder's name; ccache hands the compiler relative names already
        "CCACHE_IGNOREOPTIONS": "-fmacro-prefix-map=*",
        "CCACHE_SLOPPINESS": "time_macros,include_file_mtime,include_file_ctime",
        "LC_ALL": "C",
    })
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARCH", "CROSS_COMPILE", "KBUILD_OUTPUT"):
        env.pop(name, None)
    return env


def image(machine):
    folder, target = (MACHINES[machine][key] for key in ("folder", "target"))
    return BUILD / folder / ("arch/x86/boot/bzImage" if target == "bzImage" else target)


def kernel_make(machine):
    spec = MACHINES[machine]
    cmd = ["make", "-C", str(BUILD / spec["tree"]), f"O={BUILD / spec['folder']}",
           f"ARCH={spec['arch']}", "LOCALVERSION="]
    if shutil.which("ccache"):
        cmd += ["CC=ccache gcc", "HOSTCC=ccache gcc"]
    return cmd


def progress(name, what, lines, begin, last):
    """One status line on a terminal, one line a minute elsewhere."""
    took = time.monotonic() - begin
    far = f" {min(99, 100 * lines // last['lines'])}%" if last.get("lines") else f" {lines} steps"
    then = f" [last {seconds(last['seconds'])}]" if last.get("seconds") else ""
    return f"  {name:<7} {what:<12} {seconds(took):>5}{far}{then}"


def read_last(stamp):
    try:
        spent, lines = stamp.read_text().split()
        return {"seconds": float(spent), "lines": int(lines)}
    except (OSError, ValueError):
        return {}


@contextlib.contextmanager
def session(cmd, **options):
    """A command in a session of its own, which ends with the with block."""
    with subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT,
                          start_new_session=True, preexec_fn=die_with_parent,
                          **options) as proc:
        try:
            yield proc
            proc.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(proc.pid, signal.SIGKILL)


@contextlib.contextmanager
def locked(name):
    """Two programs never build in one folder at once."""
    BUILD.mkdir(exist_ok=True)
    with open(BUILD / f"{name}.lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"  WAIT    {name}, another program builds it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def step(name, what, cmd, log, cwd=None):
    """Run a long command with its output in a log, and say how far it is."""
    LOG.mkdir(parents=True, exist_ok=True)
    stamp = LOG / (log.stem + ".last")
    last = read_last(stamp)
    begin = shown = time.monotonic()
    lines = 0
    live = sys.stdout.isatty()
    with open(log, "w", buffering=1, encoding="utf-8") as out:
        print("+", shlex.join(cmd), file=out)
        with session(cmd, cwd=cwd, env=build_env(), stdout=subprocess.PIPE, text=True,
                     errors="replace") as proc:
            for line in proc.stdout:
                out.write(line)
                lines += 1
                if time.monotonic() - shown < (1 if live else 60):
                    continue
                shown = time.monotonic()
                text = progress(name, what, lines, begin, last)
                print("\r" + text + "\033[K" if live else text, end="" if live else "\n",
                      flush=True)
    took = time.monotonic() - begin
    if live:
        print("\r\033[K", end="")
    if proc.returncode:
        text = log.read_text(errors="replace").splitlines()
        errors = [line for line in text if re.search(r"error:|Error \d|\*\*\*|undefined", line)]
        for line in (errors or text)[:10]:
            say("    " + line)
        raise Failed(f"{name} {what} failed; log: {log.relative_to(ROOT)}")
    # A rebuild of one file says nothing about the next full one, nor that about it.
    full = lines * 2 >= last.get("lines", 0)
    then = f" [last {seconds(last['seconds'])}]" if last and full else ""
    say(f"  {name:<7} {what:<12} {seconds(took):>5}{then}")
    if full:
        stamp.write_text(f"{took:.0f} {lines}\n")


def fragments(machine):
    return "".join((CONFIGS / name).read_text() for name in MACHINES[machine]["config"])


def parse_config(text):
    return dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.M))


def check_config(wanted, got, where):
    """Kconfig drops what it cannot have without a word; that is an error here."""
    wrong = [f"{name}={value}, got {got.get(name, 'n')}"
             for name, value in parse_config(wanted).items() if got.get(name, "n") != value]
    if wrong:
        raise Failed(f"{where}: Kconfig did not take " + "; ".join(wrong))


def kconfig_digest(tree, wanted):
    """Changes when the configuration may have to be made again."""
    digest = hashlib.sha256(wanted.encode())
    out = subprocess.run(["git", "-C", str(tree), "ls-files", "-z", "*Kconfig*"], check=True,
                         stdout=subprocess.PIPE).stdout
    for name in out.split(b"\0"):
        with contextlib.suppress(OSError):
            digest.update(name + (tree / os.fsdecode(name)).read_bytes() if name else b"")
    return digest.hexdigest()


def git(tree, *words):
    """A git command's output, None if it fails."""
    done = subprocess.run(["git", "-C", str(tree), *words], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, check=False)
    return None if done.returncode else done.stdout.strip()


def checkout_base(tree):
    """The unpatched kernel: a second working tree of the developer's repo."""
    main = BUILD / "linux"
    base = git(main, "rev-parse", "base^{commit}")
    if not base:
        raise Failed("build/linux has no tag base; make the tree with: make tree")
    # a broken link to build/linux would make git look at the repo around it
    known = git(tree, "rev-parse", "HEAD") if (tree / ".git").exists() else None
    if known == base:
        return
    shutil.rmtree(tree, ignore_errors=True)
    git(main, "worktree", "prune")
    if git(main, "worktree", "add", "--detach", str(tree), base) is None:
        raise Failed(f"cannot check out the base in {tree.relative_to(ROOT)}")


def configure(machine):
    tree = BUILD / MACHINES[machine]["tree"]
    folder = BUILD / MACHINES[machine]["folder"]
    if tree != BUILD / "linux":
        checkout_base(tree)
    if not (tree / "Makefile").is_file():
        raise Failed(f"{tree.relative_to(ROOT)} is missing; make it with: make tree")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = fragments(machine)
    digest = kconfig_digest(tree, wanted)
    stamp = folder / ".lab-config"
    config = folder / ".config"
    if config.is_file() and stamp.is_file() and stamp.read_text() == digest:
        return
    (folder / ".lab-wanted").write_text(wanted)
    old = (config.read_text(), config.stat().st_mtime_ns) if config.is_file() else None
    log = LOG / f"config-{machine}.log"
    LOG.mkdir(parents=True, exist_ok=True)
    cmd = kernel_make(machine) + ["allnoconfig", f"KCONFIG_ALLCONFIG={folder / '.lab-wanted'}"]
    with open(log, "w", encoding="utf-8") as out:
        done = subprocess.run(cmd, env=build_env(), stdin=subprocess.DEVNULL, stdout=out,
                              stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise Failed(f"CONFIG {machine} failed; log: {log.relative_to(ROOT)}")
    check_config(wanted, parse_config(config.read_text()), machine)
    if old and old[0] == config.read_text():
        os.utime(config, ns=(old[1], old[1]))
    stamp.write_text(digest)


def build(machine):
    with locked(MACHINES[machine]["folder"].replace("/", "-")):
        configure(machine)
        spec = MACHINES[machine]
        cmd = kernel_make(machine) + [f"-j{JOBS}", spec["target"]]
        cmd += ["modules"] if spec.get("modules") else []
        step("BUILD", machine, cmd, LOG / f"build-{machine}.log")


def build_init():
    """The guest's first process; static, for it runs before anything is mounted."""
    source = ROOT / "lab" / "guest" / "init.c"
    if INIT.is_file() and INIT.stat().st_mtime >= source.stat().st_mtime:
        return
    INIT.parent.mkdir(parents=True, exist_ok=True)
    cmd = ["gcc", "-O2", "-Wall", "-Wextra", "-static", "-o", str(INIT), str(source)]
    if subprocess.run(cmd, check=False).returncode:
        raise Failed("lab/guest/init.c does not compile")


# ---------------------------------------------------------------- user space

def install_headers():
    """The patched kernel's own headers: the tests must not see the distribution's."""
    tree = BUILD / "linux"
    include = BUILD / "user" / "include"
    stamp = BUILD / "user" / ".headers"
    names = subprocess.run(["git", "-C", str(tree), "ls-files", "-z", "include/uapi",
                            "arch/x86/include/uapi"], check=True, stdout=subprocess.PIPE).stdout
    newest = max((tree / os.fsdecode(name)).stat().st_mtime
                 for name in names.split(b"\0") if name and (tree / os.fsdecode(name)).exists())
    if stamp.is_file() and stamp.stat().st_mtime > newest and include.is_dir():
        return
    folder = BUILD / "user" / "headers"
    folder.mkdir(parents=True, exist_ok=True)
    step("HEADERS", "user", ["make", "-C", str(tree), f"O={folder}", "ARCH=x86_64",
                             f"INSTALL_HDR_PATH={BUILD / 'user'}", "headers_install"],
         LOG / "build-headers.log")
    stamp.touch()


def need_32bit():
    """The selftests leave out the programs that gcc cannot make; here it has to."""
    cmd = ["gcc", "-m32", "-static", "-x", "c", "-o", "/dev/null", "-"]
    if subprocess.run(cmd, input=b"int main(void) { return 0; }", stderr=subprocess.DEVNULL,
                      check=False).returncode:
        raise Failed("gcc makes no static 32-bit programs, which the selftests have; "
                     "what it lacks is installed by: lab/deps test")


def build_selftests():
    need_32bit()
    install_headers()
    source = BUILD / "linux" / "tools" / "testing" / "selftests" / "io_uring"
    if not source.is_dir():
        raise Failed("the kernel tree has no tools/testing/selftests/io_uring")
    folder = BUILD / "user" / "selftests" / "io_uring"
    folder.mkdir(parents=True, exist_ok=True)
    step("BUILD", "selftests", ["make", "-C", str(source), f"OUTPUT={folder}", f"-j{JOBS}",
                                f"KHDR_INCLUDES=-isystem {BUILD / 'user' / 'include'}"],
         LOG / "build-selftests.log")


def build_ublk(tree="linux", name="ublk"):
    """kublk and its tests, which look for it in their own folder; it needs liburing."""
    install_headers()
    build_liburing()
    source = BUILD / tree / "tools" / "testing" / "selftests" / "ublk"
    folder = BUILD / "user" / "obj" / name
    folder.mkdir(parents=True, exist_ok=True)
    include = BUILD / "user" / "include"
    liburing = BUILD / "liburing" / "src"
    # headers are no prerequisites of kublk: what has changed is built, and so is all of it
    step("BUILD", name, ["make", "-B", "-C", str(source), f"OUTPUT={folder}",
                         f"USERCFLAGS=-isystem {include} -isystem {liburing / 'include'}",
                         f"LDLIBS=-lpthread -lm {liburing / 'liburing.a'}",
                         f"INSTALL_PATH={BUILD / 'user' / 'selftests' / name}",
                         "all", "install"], LOG / f"build-{name}.log")


def build_liburing(tests=()):
    """The library, and those programs of its test folder that are wanted."""
    tree = BUILD / "liburing"
    if not (tree / "configure").is_file():
        raise Failed("build/liburing is missing; make it with: make tree")
    log = LOG / "build-liburing.log"
    if not (tree / "config-host.mak").is_file():
        step("CONFIG", "liburing", ["./configure"], LOG / "config-liburing.log", cwd=tree)
    step("BUILD", "liburing", ["make", f"-j{JOBS}", "-C", "src"], log, cwd=tree)
    if tests:
        step("BUILD", "liburing/test", ["make", f"-j{JOBS}", "-C", "test"] +
             [f"{name}.t" for name in tests], LOG / "build-liburing-test.log", cwd=tree)


def build_fio():
    """fio, for any CPU: the machines' are not this one."""
    tree = BUILD / "fio"
    if not (tree / "configure").is_file():
        raise Failed("build/fio is missing; make it with: make tree")
    config = tree / "config-host.mak"
    # the kernel's own tests of ublk use libaio, without which it may have been configured
    if not config.is_file() or "CONFIG_LIBAIO=y" not in config.read_text():
        cc = ["--cc=ccache gcc"] if shutil.which("ccache") else []
        step("CONFIG", "fio", ["./configure", "--disable-native", *cc],
             LOG / "config-fio.log", cwd=tree)
    step("BUILD", "fio", ["make", f"-j{JOBS}", "fio"], LOG / "build-fio.log", cwd=tree)


# ---------------------------------------------------------------- boot

def die_with_parent():
    """In the child: no machine and no compiler outlives this program."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def adopt_orphans():
    """What a machine's processes leave behind becomes ours, and so can be killed."""
    pr_set_child_subreaper = 36
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1)


def kvm_works():
    """A device file proves nothing: it may hang at the first instruction of a guest."""
    if os.environ.get("ACCEL") == "tcg" or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    flags = re.findall(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return bool(flags) and bool({"vmx", "svm"} & set(flags[0].split()))


def cmdline(machine, options, params):
    words = [f'init="{INIT}"', "panic=-1", "loglevel=8", "ro"] + params
    if MACHINES[machine]["debug"]:
        # by default KASAN reports the first fault of a boot and no other
        words.append("kasan_multi_shot")
    if MACHINES[machine]["debug"] and MACHINES[machine]["arch"] != "um":
        # an emulated CPU with checkers is slow, not stuck
        words += ["rcupdate.rcu_cpu_stall_timeout=300",
                  "sysctl.kernel.hung_task_timeout_secs=600", "tsc=reliable"]
        # half of the time of a boot, and UML has it: --append kmemleak=on where UML does not do
        if "kmemleak=" not in options.append:
            words.append("kmemleak=off")
        # memory in one piece for the CMA heap; huge pages, more than fit in there, as they
        # may be of that memory and can't be pinned then; queues to poll, slots to switch off
        words += ["cma=64M", "hugepages=40", "nvme.poll_queues=2", "pcie_ports=native"]
        words += MACHINES[machine].get("append", [])
    return words + shlex.split(options.append or "")


def um_command(machine, options, run, channel):
    memory = options.mem or "1G"
    words = ["root=none", "rootfstype=hostfs", "rootflags=/", f"mem={memory}",
             f"uml_dir={run}/", "umid=uml", "con=null", "ssl=null", f"ssl0=fd:{channel}",
             "con0=null,fd:1", "LAB_CHAN=/dev/ttyS0", f"LAB_SHARE={run / 'out'}"]
    if options.tty:
        words.append("con1=fd:0,fd:0")
    return [str(image(machine))] + cmdline(machine, options, words)


def drive(path, size, partition=False):
    """An empty image, or one with a partition from its second MiB on."""
    with open(path, "wb") as disk:
        disk.truncate(size)
        if partition:
            disk.seek(446)
            disk.write(struct.pack("<B3xB3xII48xH", 0, 0x83, 2048, size // 512 - 2048, 0xaa55))
    return str(path)


def drives(run):
    """What QEMU's controllers and namespaces differ in, for tests: one of each kind.

    lab/guest/drive finds them by their serial numbers.
    """
    kinds = [
        ("nvme,serial=mdts5,mdts=5", [""]),
        ("nvme,serial=parted", [""]),
        # blocks of 4 KiB, checksums, metadata without, and more of it than checksums are
        ("nvme,serial=mdts11,mdts=11", ["", "logical_block_size=4096,physical_block_size=4096",
                                        "ms=8,pi=1", "ms=8", "ms=240,pi=1"]),
        ("nvme,serial=paths,subsys=paths", ["shared=on"]),
        ("nvme,serial=paths,subsys=paths", []),
        ("nvme,serial=plug,bus=port1", [""]),
        ("nvme,serial=slow", [""]),
    ]
    words = ["-device", "nvme-subsys,id=paths,nqn=paths",
             # slots of PCIe are switched off by the port, not by ACPI
             "-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
             "-device", "pcie-root-port,id=port1,chassis=1,slot=1"]
    for number, (controller, namespaces) in enumerate(kinds, 1):
        words += ["-device", f"{controller},id=nvme{number}"]
        for nsid, namespace in enumerate(namespaces, 1):
            name = f"nvme{number}.{nsid}"
            file = drive(run / f"{name}.img", 64 << 20, "parted" in controller)
            # fast enough to be probed and filled
            throttle = ",throttling.iops-total=1,throttling.iops-total-max=100" \
                if "slow" in controller else ""
            words += ["-drive", f"file={file},if=none,id={name},format=raw{throttle}", "-device",
                      f"nvme-ns,drive={name},bus=nvme{number},nsid={nsid},{namespace}".rstrip(",")]
    return words


# QEMU's part and the kernel's words of each way to run an IOMMU.
IOMMU = {
    "none": ([], []),
    "off": (["-device", "intel-iommu,caching-mode=on"], ["intel_iommu=off"]),
    "pt": (["-device", "intel-iommu,caching-mode=on"], ["intel_iommu=on", "iommu=pt"]),
    "lazy": (["-device", "intel-iommu,caching-mode=on"], ["intel_iommu=on", "iommu.strict=0"]),
    "strict": (["-device", "intel-iommu,caching-mode=on"], ["intel_iommu=on", "iommu.strict=1"]),
}


# Linux lets a drive reach the memory of another device by way of the host bridge if it knows
# that bridge, or if the CPU is a Zen.
P2P_CPU = ",vendor=AuthenticAMD,family=23"


def p2p_devices(run):
    """Pairs of a drive and a device with memory, which the host sees as a file."""
    words = ["-device", "pcie-root-port,id=root-port,chassis=1",
             "-device", "x3130-upstream,id=up,bus=root-port"]
    for number in (1, 2):
        words += ["-device", f"xio3130-downstream,id=down{number},bus=up,chassis={number + 1}"]
    for name, bar_bus, drive_bus in (("root", "pcie.0", "pcie.0"), ("switch", "down1", "down2")):
        path = drive(run / f"{name}.img", 128 << 20)
        words += ["-object", f"memory-backend-file,id={name}-bar,share=on,size=64M,"
                  f"mem-path={run / name}.bar",
                  "-device", f"ivshmem-plain,memdev={name}-bar,bus={bar_bus}",
                  "-drive", f"file={path},if=none,id={name},format=raw",
                  "-device", f"nvme,drive={name},serial=scratch-{name},bus={drive_bus}"]
    return words


def has_p2p(machine, options):
    return options.p2p or MACHINES[machine].get("p2p", False)


def qemu_command(machine, options, run, channel, kvm):
    p2p = has_p2p(machine, options)
    # No five-level page tables: Linux forgets for a moment of its boot that it has them, and if
    # there is an interrupt then KASAN takes every address for a wild one.
    cpu = "host" if kvm else "max,la57=off" + (P2P_CPU if p2p else "")
    if options.icount:
        accel = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off",
                 "-rtc", "clock=vm", "-cpu", f"{cpu},-erms,-fsrm", "-smp", "1"]
    else:
        accel = ["-accel", "kvm" if kvm else "tcg,thread=multi",
                 "-cpu", cpu, "-smp", str(options.smp)]
    params = ["root=root", "rootfstype=9p", "console=ttyS0", "no_timer_check", "mitigations=off",
              "rootflags=trans=virtio,version=9p2000.L,msize=262144,cache=loose", "LAB_SHARE=9p"]
    if MACHINES[machine].get("channel") == "serial":
        params.append("LAB_CHAN=/dev/ttyS1")
        port = ["-serial", "chardev:lab"]
    else:
        params.append("LAB_CHAN=/dev/vport*p1")
        port = ["-device", "virtserialport,bus=vs.0,nr=1,chardev=lab,name=lab"]
    iommu, words = IOMMU[options.iommu or MACHINES[machine].get("iommu", "none")]
    params += words
    if p2p:
        # this IOMMU doesn't check interrupts
        params.append("vfio_iommu_type1.allow_unsafe_interrupts=1")
    share = "security_model=none,multidevs=remap"
    words = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot",
             "-machine", "q35,kernel-irqchip=split", "-display", "none", *accel,
             # before the devices that it translates for
             *iommu,
             "-m", options.mem or "2G", "-kernel", str(image(machine)),
             "-append", " ".join(cmdline(machine, options, params)),
             "-chardev", f"file,id=console,append=on,path={run / 'console.log'}",
             "-serial", "chardev:console",
             "-virtfs", f"local,path=/,mount_tag=root,readonly=on,{share}",
             "-virtfs", f"local,path={run / 'out'},mount_tag=out,{share}",
             "-device", "virtio-serial-pci,id=vs",
             "-chardev", f"socket,id=lab,fd={channel}",
             *port,
             "-drive", f"file={drive(run / 'nvme1.img', 512 << 20)},if=none,id=d1,format=raw",
             "-drive", f"file={drive(run / 'nvme2.img', 64 << 20)},if=none,id=d2,format=raw",
             "-device", "nvme,id=nvme0,serial=lab",
             "-device", "nvme-ns,drive=d1,bus=nvme0,nsid=1",
             "-device", "nvme-ns,drive=d2,bus=nvme0,nsid=2"]
    if MACHINES[machine]["debug"]:
        words += drives(run)
    if p2p:
        words += p2p_devices(run)
    if options.tty:
        words += ["-chardev", "stdio,id=tty,signal=off", "-device", "virtconsole,chardev=tty"]
    return words + shlex.split(options.qemu_args or "")


class Guest:
    """A running machine and the stream to its init."""

    def __init__(self, machine):
        self.machine = machine
        self.run = BUILD / "run" / f"{machine}-{os.getpid()}"
        self.console = self.run / "console.log"
        self.buffer = b""
        self.proc = None
        self.sock = None
        self.begin = self.boot_seconds = 0
        self.icount = False
        self.boot_log = ""

    def boot(self, options):
        self.icount = options.icount
        forget_dead_runs()
        shutil.rmtree(self.run, ignore_errors=True)
        (self.run / "out").mkdir(parents=True)
        kvm = MACHINES[self.machine]["arch"] != "um" and kvm_works() and \
            not options.icount and not has_p2p(self.machine, options)
        try:
            self.start(options, kvm)
        except Died:
            if not kvm:
                raise
            say("  NOTE    KVM does not boot this kernel; using emulation")
            self.stop()
            self.start(options, False)

    def start(self, options, kvm):
        self.buffer = b""
        ours, theirs = socket.socketpair()
        self.sock = ours
        if MACHINES[self.machine]["arch"] == "um":
            cmd = um_command(self.machine, options, self.run, theirs.fileno())
        else:
            cmd = qemu_command(self.machine, options, self.run, theirs.fileno(), kvm)
        emulated = MACHINES[self.machine]["arch"] != "um"
        with open(self.console, "ab") as console:
            self.proc = subprocess.Popen(
                cmd, pass_fds=[theirs.fileno()], start_new_session=not options.tty,
                stdin=None if options.tty else subprocess.DEVNULL,
                stdout=None if options.tty and emulated else console, stderr=console,
                env=machine_env(self.run), preexec_fn=die_with_parent)
        theirs.close()
        self.begin = time.monotonic()
        limit = 60 if kvm else BOOT_TIMEOUT[self.machine]
        kind, _ = self.frame(self.begin + limit)
        if kind != "hello":
            raise Died(f"{self.machine} did not boot")
        self.send(f"repo {len(os.fsencode(ROOT))}\n".encode() + os.fsencode(ROOT))
        self.collect(self.begin + limit, self.keep_boot_log)
        for module in MACHINES[self.machine].get("modules", []):
            path = BUILD / MACHINES[self.machine]["folder"] / module
            end, _, status = self.job(f"insmod {shlex.quote(str(path))}", limit, "repo",
                                      self.keep_boot_log)
            if (end, status) != ("exit", 0):
                raise Died(f"{self.machine} does not load {module}")
        self.boot_seconds = time.monotonic() - self.begin

    def send(self, data):
        try:
            self.sock.sendall(data)
        except OSError as err:
            raise Died(f"{self.machine} died") from err

    def read(self, deadline):
        left = None if deadline is None else max(0, deadline - time.monotonic())
        if not select.select([self.sock], [], [], left)[0]:
            raise Died(f"{self.machine} does not answer")
        try:
            data = self.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            raise Died(f"{self.machine} died")
        self.buffer += data

    def frame(self, deadline):
        while b"\n" not in self.buffer:
            self.read(deadline)
        head, _, rest = self.buffer.partition(b"\n")
        kind, _, size = head.decode(errors="replace").partition(" ")
        if not size.isdigit():
            raise Died(f"{self.machine} sent nonsense: {head[:80]!r}")
        self.buffer = rest
        while len(self.buffer) < int(size):
            self.read(deadline)
        data, self.buffer = self.buffer[:int(size)], self.buffer[int(size):]
        return kind, data

    def keep_boot_log(self, kind, data):
        if kind == "log":
            self.boot_log += data.decode(errors="replace")

    def collect(self, deadline, sink):
        """Hand frames to sink up to the verdict, and return that."""
        while True:
            kind, data = self.frame(deadline)
            if kind == "end":
                return data.decode().split()
            sink(kind, data)

    def job(self, command, timeout, folder, sink):
        """Run a command: (how it ended, seconds, status)."""
        data = os.fsencode(command)
        # a clock that counts instructions leaps ahead whenever the guest waits for the host
        limit = timeout * 1000 if self.icount else timeout
        self.send(f"job {limit} {folder} {len(data)}\n".encode() + data)
        # the guest keeps the time; this is for a guest that no longer does
        end = self.collect(time.monotonic() + timeout + 30, sink)
        return end[0], float(end[1]), int(end[2]) if len(end) > 2 else 0

    def leaks(self):
        """kmemleak's report, or None where it is off."""
        out = []
        self.send(b"leak\n")
        end = self.collect(time.monotonic() + 300, lambda kind, data: out.append((kind, data)))
        if end[2] != "0":
            return None
        return b"".join(data for kind, data in out if kind == "out").decode(errors="replace")

    def shell(self, rows, cols):
        path = "/dev/tty1" if MACHINES[self.machine]["arch"] == "um" else "/dev/hvc0"
        data = os.fsencode(ROOT)
        self.send(f"shell {path} {rows} {cols} {len(data)}\n".encode() + data)
        self.collect(None, lambda kind, data: None)

    def console_text(self):
        with contextlib.suppress(OSError):
            return self.console.read_text(errors="replace").replace("\r", "")
        return ""

    def stop(self):
        """End the machine and all that it started; keep the console's log."""
        if self.proc:
            with contextlib.suppress(OSError):
                self.proc.kill()
            self.proc.wait()
            self.proc = None
            kill_orphans()
        if self.sock:
            self.sock.close()
        LOG.mkdir(parents=True, exist_ok=True)
        if self.console.is_file():
            shutil.copyfile(self.console, LOG / f"{self.machine}.console.log")

    def remove(self):
        self.stop()
        shutil.rmtree(self.run, ignore_errors=True)


def forget_dead_runs():
    """Drive images of programs that were killed."""
    for folder in (BUILD / "run").glob("*"):
        if not Path("/proc", folder.name.rpartition("-")[2]).exists():
            shutil.rmtree(folder, ignore_errors=True)


def machine_env(run):
    """UML keeps its memory in a file: /dev/shm where that is large, else beside its log."""
    env = dict(os.environ)
    shm = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
    env["TMPDIR"] = "/dev/shm" if shm > (2 << 30) else str(run)
    return env


def kill_orphans():
    """Processes of a machine whose parent died are our children now."""
    me = str(os.getpid())
    for _ in range(100):
        left = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, IndexError):
                if stat.read_text().rpartition(")")[2].split()[1] == me:
                    left.append(int(stat.parent.name))
        if not left:
            return
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def on_signal(number, _frame):
    raise SystemExit(128 + number)


def program(name, main):
    """Run main, and exit with what it returns; a failed step and Ctrl-C need no traceback."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        sys.exit(main())
    except Failed as err:
        print(f"{name}: {err}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@contextlib.contextmanager
def booted(machine, options):
    """A machine for the length of a with block, gone after it whatever happens."""
    build_init()
    if not image(machine).is_file():
        raise Failed(f"{machine} is not built; build it with: lab/machine.py build {machine}")
    adopt_orphans()
    guest = Guest(machine)
    try:
        guest.boot(options)
        yield guest
    finally:
        guest.remove()


def splat(text):
    """The first report in kernel messages, at most 40 lines of it, or None."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if SPLAT.search(line):
            return lines[number:number + SPLAT_LINES]
    return None


def default_options(**changes):
    options = argparse.Namespace(smp=2, mem=None, icount=False, iommu=None, p2p=False, append="",
                                 qemu_args="", tty=False)
    vars(options).update(changes)
    return options


# ---------------------------------------------------------------- verbs

def forward(log):
    """A sink: output to ours as it comes, kernel messages to a list."""
    def sink(kind, data):
        if kind == "log":
            log.append(data.decode(errors="replace"))
            return
        stream = sys.stdout if kind == "out" else sys.stderr
        stream.buffer.write(data)
        stream.flush()
    return sink


def show_death(machine, guest_console, reason):
    """Why a machine went away: the kernel's report, or its last words."""
    found = splat(guest_console)
    say(f"lab: {reason}; " + ("the kernel reports:" if found else "its last words:"))
    for line in found or guest_console.splitlines()[-SPLAT_LINES:]:
        say("    " + line)
    say(f"    log: build/log/{machine}.console.log")


def report_splat(lines):
    say("lab: the kernel complains:")
    for line in lines:
        say("    " + line)


def run(options):
    machine = options.machine
    log = []
    try:
        with booted(machine, options) as guest:
            if options.tty:
                return shell(guest)
            end, _, status = guest.job(shell_words(options.command), options.timeout, "repo",
                                       forward(log))
            if end == "signal":
                status += 128
            elif end != "exit":
                say(f"lab: {machine}: {end} after {options.timeout} s")
                status = 124
            leaks = "" if options.no_leaks or end == "stuck" else guest.leaks()
            found = splat(guest.boot_log) or splat("".join(log)) or splat(leaks or "")
            if found:
                report_splat(found)
                status = status or 1
            return status
    except Died as err:
        text = (LOG / f"{machine}.console.log").read_text(errors="replace")
        show_death(machine, text, str(err))
        return 1


def shell_words(words):
    """One word is a shell command, several are a command and its arguments."""
    return words[0] if len(words) == 1 else shlex.join(words)


def shell(guest):
    old = termios.tcgetattr(0)
    rows, cols = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))[:2]
    say(f"{guest.machine}: booted in {guest.boot_seconds:.1f} s; leave with Ctrl-D")
    try:
        tty.setraw(0)
        guest.shell(rows or 24, cols or 80)
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, old)
    return 0


def add_machine_options(parser):
    parser.add_argument("--smp", type=int, default=2, help="CPUs (qemu)")
    parser.add_argument("--mem", help="memory, such as 2G")
    parser.add_argument("--icount", action="store_true",
                        help="one guest nanosecond is one instruction (qemu)")
    parser.add_argument("--iommu", choices=IOMMU,
                        help="have an IOMMU, and how the kernel uses it (qemu)")
    parser.add_argument("--p2p", action="store_true",
                        help="have devices whose memory a drive can read and write (qemu)")
    parser.add_argument("--append", default="", help="more words for the kernel's command line")
    parser.add_argument("--qemu-args", default="", help="more arguments for QEMU")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    sub = verbs.add_parser("build", help="build the kernels of machines")
    sub.add_argument("machines", nargs="+", choices=MACHINES)
    sub = verbs.add_parser("user", help="build what runs inside: init, selftests, liburing, fio")
    sub = verbs.add_parser("run", help="run a command inside: its output, its exit status")
    sub.add_argument("machine", choices=MACHINES)
    sub.add_argument("--timeout", type=int, default=3600, help="seconds")
    sub.add_argument("--no-leaks", action="store_true",
                     help="do not wait for kmemleak (debug machines)")
    add_machine_options(sub)
    sub.add_argument("command", nargs="+")
    sub = verbs.add_parser("shell", help="an interactive shell inside")
    sub.add_argument("machine", choices=MACHINES)
    add_machine_options(sub)
    options = parser.parse_args()
    options.tty = options.verb == "shell"
    if options.verb == "build":
        for machine in options.machines:
            build(machine)
        return 0
    if options.verb == "user":
        build_init()
        build_selftests()
        build_ublk()
        build_fio()
        return 0
    if options.tty and not sys.stdin.isatty():
        raise Failed("a shell needs a terminal; use run for commands")
    return run(options)


if __name__ == "__main__":
    program("lab", main)
