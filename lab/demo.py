#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Build and boot the patched kernel, and show what it does.

The programs are liburing's examples imm-notify, copybench and nvme-dmabuf-copy,
those of lab/demo, and the ublk server of the kernel's selftests. Each part checks itself, and so does the kernel log: the
exit status is 0 only if all of it is as it should be.
"""

import re
import time

import bench
import machine as lab

MACHINE = "qemu"
TIMEOUT = 180
EXAMPLES = "build/liburing/examples"
COPY = f"{EXAMPLES}/nvme-dmabuf-copy"
PARTS = (
    ("A thread spins on a word in memory, a chain of requests ends in a store to it.",
     f"{EXAMPLES}/imm-notify -n 100"),
    ("MEMCPY between user memory and registered buffers, with checksums.",
     f"{EXAMPLES}/copybench -v -n 50 -s 64,4k,64k,1m"),
    ("An NVMe drive is written from a dma-buf, and fills another one, without a copy.",
     f"{COPY} -s 64m write /dev/nvme0n1 && {COPY} -s 64m read /dev/nvme0n1"),
    ("So does a partition.",
     f"addpart /dev/nvme0n1 1 2048 65536 && {COPY} -s 16m write /dev/nvme0n1p1 && "
     f"{COPY} -s 16m read /dev/nvme0n1p1"),
    ("A plain file doesn't.",
     f"truncate -s 16m /tmp/file && ! {COPY} write /tmp/file"),
    ("What bad input gets. None of it may leave a byte behind.",
     "build/user/demo-errors"),
)

# What is done with dma-bufs in each mode of the IOMMU. A drive and a device beside each other
# reach one another by way of the host bridge; behind a switch they needn't. With an IOMMU this
# switch and all behind it are one group, so that nobody but drivers gets at the device.
MIB = 16
DMABUF = (
    ("udmabuf", f"{COPY} -s {MIB}m write /dev/nvme0n1 && {COPY} -s {MIB}m read /dev/nvme0n1"),
    ("root", f"build/user/demo-bar root {MIB}"),
    ("switch", f"build/user/demo-bar switch {MIB}"),
    ("reads", "build/user/demo-bar root read4k"),
)
READS = ("memory.4k.depth64", "udmabuf.4k.depth64", "bar.4k.depth64")

RECORDS = 200
UBLK = f"lab/guest/ublk-demo {RECORDS}"
UBLK_BENCH = "lab/guest/ublk-bench loop"


def build_programs():
    """All that the demo runs, but for the kernel. The tests build it as well."""
    lab.build_liburing()
    tree = lab.BUILD / "liburing"
    lab.step("BUILD", "examples", ["make", "-C", str(tree / "examples"), "imm-notify",
                                   "copybench", "nvme-dmabuf-copy"],
             lab.LOG / "build-examples.log")
    bench.compile_program()
    bench.compile_ublk()
    lab.install_headers()
    for name, words in (("errors", ["-I", str(tree / "src" / "include"),
                                    str(tree / "src" / "liburing.a")]),
                        ("bar", ["-I", str(lab.BUILD / "user" / "include")])):
        source = lab.ROOT / "lab" / "demo" / f"{name}.c"
        cmd = ["gcc", "-O2", "-Wall", "-static", str(source), *words,
               "-o", str(lab.BUILD / "user" / f"demo-{name}")]
        lab.step("BUILD", f"demo-{name}", cmd, lab.LOG / f"build-demo-{name}.log")


def build():
    lab.build(MACHINE)
    build_programs()


def show():
    log = []
    failed = False
    begin = time.monotonic()
    # emulated, a string instruction of ERMS takes a step for each byte
    options = lab.default_options(qemu_args="-cpu max,-erms,-fsrm")
    with lab.booted(MACHINE, options) as guest:
        lab.say(f"  BOOT    {MACHINE:<22} {time.monotonic() - begin:.0f}s")
        sink = lab.forward(log)
        guest.job("uname -sr", TIMEOUT, "repo", sink)
        for title, command in PARTS:
            lab.say(f"\n{title}\n$ {command}\n")
            end, _, status = guest.job(command, TIMEOUT, "repo", sink)
            if end != "exit" or status:
                lab.say(f"demo: {end}, exit status {status}")
                failed = True
    found = lab.splat("".join(log))
    if found:
        lab.report_splat(found)
    return failed or bool(found)


def host_sees(run, route):
    """Whether the drive's image has what was written to it from the device's memory."""
    size = MIB << 20
    with open(run / f"{route}.bar", "rb") as bar, open(run / f"{route}.img", "rb") as disk:
        disk.seek(size)
        data = bar.read(size)
        return any(data) and data == disk.read(size)


def said(guest, command, log):
    """Whether a command went well, and what it has said, which is shown if it did not."""
    output = []

    def sink(kind, data):
        (log if kind == "log" else output).append(data.decode(errors="replace"))

    end, _, status = guest.job(command, TIMEOUT, "repo", sink)
    text = "".join(output)
    good = end == "exit" and not status
    if not good:
        lab.say(f"$ {command}\n{text}demo: {end}, exit status {status}")
    return good, text


def dmabuf_mode(mode, log):
    """One boot: (figures, verdicts) of what is done with dma-bufs."""
    figures, verdicts = {}, {}
    options = lab.default_options(icount=True, smp=1, iommu=mode, p2p=True)
    with lab.booted(MACHINE, options) as guest:
        for name, command in DMABUF:
            if name == "switch" and mode != "off":
                continue
            verdicts[name], text = said(guest, command, log)
            if verdicts[name] and name in ("root", "switch"):
                verdicts[name] = host_sees(guest.run, name)
                if not verdicts[name]:
                    lab.say(f"$ {command}\n{text}demo: not what is in QEMU's files")
            figures.update(re.findall(r"^(\S+) ([0-9.]+)$", text, re.M))
    return figures, verdicts


def show_dmabuf():
    """A table over the modes of the IOMMU, with the ordinary way beside it."""
    log = []
    good = True
    lab.say(f"""
An NVMe drive fills a udmabuf and the BAR of another device, which stands in for a GPU,
and is written from them; {MIB} MiB each way, verified by plain reads of the drive, by the CPU's
own mapping, and, for the BAR, by the host in QEMU's files. Four boots.
$ {COPY} write|read /dev/nvme0n1
$ build/user/demo-bar root|switch {MIB}

            instructions per 4 KiB read into      | every byte verified, both ways
  IOMMU     memory      udmabuf     BAR           | udmabuf   BAR     BAR behind a switch""")
    for mode in bench.IOMMU_MODES:
        figures, verdicts = dmabuf_mode(mode, log)
        cells = [f"{float(figures.get(name, 'nan')):<12,.0f}" for name in READS]
        words = [{True: "yes", False: "NO", None: "-"}[verdicts.get(name)]
                 for name in ("udmabuf", "root", "switch")]
        lab.say(f"  {mode:<8}  {''.join(cells)}  | {words[0]:<10}{words[1]:<8}{words[2]}")
        good = good and all(verdicts.values())
    lab.say("""
  memory is an ordinary registered buffer; 64 reads at a time; an emulated CPU executes
  as many instructions as a real one; - is a device that an IOMMU doesn't keep apart""")
    found = lab.splat("".join(log))
    if found:
        lab.report_splat(found)
    return not good or bool(found)


def show_ublk():
    """A file system on a server that dies, and what it takes in each way to get at data."""
    log = []
    lab.say(f"""
A ublk server that moves no data: one fused command a request has the kernel move and commit it.
ext4 is on its device, a file for each of {RECORDS} records is written there, one after the other,
and twice the server is killed.
$ {UBLK}
""")
    with lab.booted(MACHINE, lab.default_options()) as guest:
        good, text = said(guest, UBLK, log)
    if good:
        lab.say(text.rstrip())
    lab.say(f"""
The same server in all the ways that it has to get at the data of a request.
$ {UBLK_BENCH}

                | 64 KiB, instructions  | of copy's         | CQEs a request
                |     read       write  |   read    write   |   read   write""")
    with lab.booted(MACHINE, lab.default_options(icount=True, smp=1)) as guest:
        measured, text = said(guest, UBLK_BENCH, log)
    found = {name: float(value) for name, value in
             re.findall(r"^(loop\.\S+) ([0-9.]+)$", text, re.M)}
    # fused_copy copies what is smaller
    modes = [mode for mode in bench.UBLK_MODES if mode != "fused_copy"]
    for mode in modes if measured else ():
        costs, than, cqes = ([found[f"loop.{name}.{way}.64k.{what}"] for way in ("read", "write")]
                             for name, what in ((mode, "ns"), ("copy", "ns"), (mode, "cqes")))
        shares = [one / two for one, two in zip(costs, than)]
        lab.say(f"  {mode:<13} | {costs[0]:>8,.0f}    {costs[1]:>8,.0f}  |   {shares[0]:.2f}     "
                f"{shares[1]:.2f}    |   {cqes[0]:.2f}    {cqes[1]:.2f}")
    lab.say("""
  loop on a file in ramfs; client, server and kernel together, 16 requests at a time; a copy
  takes an instruction for 8 bytes here, and memory's bandwidth is not in it""")
    splat = lab.splat("".join(log))
    if splat:
        lab.report_splat(splat)
    return not good or not measured or bool(splat)


def main():
    build()
    if show() | show_dmabuf() | show_ublk():
        return 1
    lab.say("\nAll of it as it should be. Next: make test, README.md, make help.")
    return 0


if __name__ == "__main__":
    lab.program("demo", main)
