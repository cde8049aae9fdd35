#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Count instructions on the unpatched and on the patched kernel, in one go.

Both kernels run lab/bench/iobench under QEMU with -icount shift=0: one guest
instruction is one nanosecond of guest time, and the CPU time that the program
reads is its number of instructions, whatever else the host does. How often they
call what is counted is counted by a plugin of QEMU, lab/bench/calls.c, in boots of
their own. The results go to docs/bench/: tables, the raw figures, and plots made
by gnuplot.
"""

import argparse
import datetime
import json
import re
import shlex
import subprocess
from pathlib import Path

import machine as lab

MACHINES = ("qemu-base", "qemu")
SOURCE = lab.ROOT / "lab" / "bench" / "iobench.c"
PROGRAM = lab.BUILD / "user" / "iobench"
PLUGIN = lab.BUILD / "user" / "calls.so"
OUT = lab.ROOT / "docs" / "bench"
IOMMU_MODES = ("off", "pt", "lazy", "strict")
RINGS = ("default", "coop", "defer", "sqpoll")
# fio's own figures, of a run as everybody makes them
FIO = ("build/fio/fio", "--name=read", "--filename=/dev/nvme0n1", "--ioengine=io_uring",
       "--direct=1", "--rw=randread", "--norandommap", "--bs=4k", "--iodepth=64", "--size=64m",
       "--io_size=400m", "--thread", "--output-format=json")
FIO_KINDS = {"memory": "--fixedbufs", "dmabuf": "--dmabuf=udmabuf"}
PAIRS = ("user-user", "fixed-user", "user-fixed", "fixed-fixed")
SIZES = {"64": 64, "4k": 4096, "64k": 65536, "1m": 1 << 20}
FIGURE = re.compile(r"^([a-z0-9_.-]+) (-?[0-9.]+)$")
MARK = re.compile(r"^mark (\S+) (\d+)$")
# What reads of the drive may call, and what it is called here. Each of them is entered once
# for what it stands for, whatever it calls in turn.
CALLS = {
    "DMA maps": ("dma_map_phys", "__dma_map_sg_attrs", "dma_iova_link"),
    "DMA unmaps": ("dma_unmap_phys", "dma_unmap_sg_attrs", "dma_iova_destroy"),
    "IOMMU maps": ("iommu_map_nosync",),
    "IOMMU unmaps": ("__iommu_unmap",),
    "flushes": ("qi_submit_sync",),
    "allocations": ("kmem_cache_alloc_noprof", "__kmalloc_noprof", "__kmalloc_cache_noprof",
                    "__kmalloc_node_noprof", "kmem_cache_alloc_bulk_noprof", "dma_pool_alloc",
                    "__alloc_frozen_pages_noprof"),
    "syncs": ("__dma_sync_single_for_device", "__dma_sync_single_for_cpu",
              "__dma_sync_sg_for_device", "__dma_sync_sg_for_cpu"),
    "punts": ("io_queue_iowq",),
    "commands": ("nvme_setup_cmd",),
    "interrupts": ("nvme_irq",),
}
# Ublk servers: what they serve, how they get at the data, and what is said about it
UBLK_TARGETS = {
    "null": "null, which moves nothing", "loop": "loop on a file in ramfs",
    "brd": "loop on a RAM disk, with O_DIRECT", "stripe": "stripe over 4 files in ramfs",
    "nbd": "nbd, nbd-server on a Unix socket",
}
UBLK_MODES = ("copy", "get_data", "user_copy", "registered", "auto_buf_reg", "fused",
              "fused_commit", "fused_copy")
UBLK_SIZES = ("4k", "64k", "512k")
UBLK_FIGURES = {
    "insns": ("Instructions per I/O, all that the machine executes", "{:,.0f}"),
    "iops": ("I/Os per second of emulated time", "{:,.0f}"),
    "cqes": ("CQEs that the server gets per I/O", "{:.2f}"),
    "calls": ("System calls per I/O, but for the client's", "{:.2f}"),
    "switches": ("Context switches of the server per I/O", "{:.2f}"),
}
SYSCALL = "do_syscall_64"
# structures that every request has, or may have; and the file that knows the last of them
STRUCTS = ("struct bio", "struct iov_iter", "struct io_kiocb", "struct request",
           "struct io_mapped_ubuf", "struct nvme_iod")
# functions that every request goes through; what others pay shows in them
HOT = ("io_submit_sqes", "__io_submit_flush_completions", "io_issue_sqe", "__io_issue_sqe",
       "io_free_batch_list", "io_import_reg_buf", "io_read_fixed", "io_nop",
       "io_req_local_work_add", "__io_run_local_work", "tctx_task_work_run",
       "__do_sys_io_uring_enter", "io_cqring_wait", "io_clean_op", "io_uring_cmd",
       "io_uring_cmd_prep", "__io_uring_cmd_done", "io_send", "io_recv", "io_send_zc",
       "io_send_zc_prep")


def compile_static(source, program):
    """A program of one file, which needs nothing in the guest."""
    liburing = lab.BUILD / "liburing" / "src"
    program.parent.mkdir(parents=True, exist_ok=True)
    cmd = ["gcc", "-O2", "-Wall", "-static", "-I", str(liburing / "include"), str(source),
           str(liburing / "liburing.a"), "-o", str(program)]
    lab.step("BUILD", program.name, cmd, lab.LOG / f"build-{program.name}.log")


def compile_program():
    lab.build_liburing()
    compile_static(SOURCE, PROGRAM)


def compile_ublk():
    lab.build_ublk()
    compile_static(SOURCE.parent / "ublkbench.c", PROGRAM.parent / "ublkbench")


def compile_plugin():
    cmd = ["gcc", "-O2", "-Wall", "-fPIC", "-shared", "-o", str(PLUGIN),
           str(SOURCE.parent / "calls.c")]
    lab.step("BUILD", "calls", cmd, lab.LOG / "build-calls.log")


def inside(machine, timeout, command, what, iommu="none", plugin="", append=""):
    """What a command says on one kernel."""
    output, log = [], []

    def sink(kind, data):
        (log if kind == "log" else output).append(data.decode(errors="replace"))

    options = lab.default_options(icount=True, smp=1, iommu=iommu, qemu_args=plugin,
                                  append=append)
    with lab.booted(machine, options) as guest:
        end, seconds, status = guest.job(command, timeout, "repo", sink)
    text = "".join(output)
    found = lab.splat("".join(log))
    if end != "exit" or status or found:
        lab.say(text)
        raise lab.Failed(f"{command} on {machine}: {end} {status}" +
                         ("".join("\n    " + line for line in found or [])))
    shown = f"{machine} {what} {iommu if iommu != 'none' else ''}".strip()
    lab.say(f"  BENCH   {shown:<24} {seconds:.0f}s")
    return text


def iobench(machine, timeout, words="", iommu="none", plugin=""):
    """The lines that the program says on one kernel."""
    command = f"build/user/{PROGRAM.name} {words}"
    return inside(machine, timeout, command, words, iommu, plugin).splitlines()


def measure_fio(machine, timeout, kind, iommu):
    """CPU time that fio says a read has taken, in nanoseconds, which are instructions."""
    told = inside(machine, timeout, shlex.join([*FIO, FIO_KINDS[kind]]), f"fio {kind}", iommu)
    job = json.loads(told[told.index("{"):])["jobs"][0]
    share = (job["usr_cpu"] + job["sys_cpu"]) / 100
    return share * job["job_runtime"] * 1e6 / job["read"]["total_ios"]


def measure(machine, timeout, words="", iommu="none"):
    """The figures of one kernel: name -> value."""
    found = filter(None, map(FIGURE.match, iobench(machine, timeout, words, iommu)))
    return {match.group(1): float(match.group(2)) for match in found}


def read_marks(path):
    """The sections of what the plugin has written: function -> (calls, instructions)."""
    sections = []
    for line in path.read_text().splitlines():
        words = line.split()
        if words[0] == "mark":
            sections.append({})
        else:
            calls, insns = sections[-1].get(words[0], (0, 0))
            sections[-1][words[0]] = (calls + int(words[1]), insns + int(words[2]))
    return sections


def plugin_words(machine):
    """The plugin, as QEMU is told of it, and where it writes to."""
    path = lab.BUILD / "bench-calls"
    symbols = lab.image(machine).parent / "System.map"
    return shlex.join(["-plugin", f"{PLUGIN},map={symbols},out={path}"]), path


def match_marks(lines, path):
    """What is called and executed per operation: name -> function -> (calls, instructions)."""
    # a mark before and one after each measurement
    sections = read_marks(path)[1::2]
    marks = [(match.group(1), int(match.group(2)))
             for match in filter(None, map(MARK.match, lines))]
    if len(marks) != len(sections):
        raise lab.Failed(f"the plugin has seen {len(sections)} measurements of {len(marks)}")
    return {name: {function: (calls / number, insns / number)
                   for function, (calls, insns) in section.items()}
            for (name, number), section in zip(marks, sections)}


def count_calls(machine, timeout, iommu):
    """What is called and executed per read."""
    plugin, path = plugin_words(machine)
    return match_marks(iobench(machine, timeout, "counts", iommu, plugin), path)


def measure_ublk(timeout):
    """The figures of UBLK_FIGURES: (target, mode, read or write, size) -> figure -> value."""
    found = {}
    plugin, path = plugin_words("qemu")
    for target in UBLK_TARGETS:
        lines = inside("qemu", timeout, f"lab/guest/ublk-bench {target}", f"ublk {target}",
                       plugin=plugin, append="brd.rd_size=16384").splitlines()
        said = {match.group(1): float(match.group(2))
                for match in filter(None, map(FIGURE.match, lines))}
        for name, functions in match_marks(lines, path).items():
            found[tuple(name.split("."))] = {
                "insns": sum(insns for _, insns in functions.values()),
                "iops": 1e9 / said[f"{name}.ns"],
                "cqes": said[f"{name}.cqes"],
                "calls": functions[SYSCALL][0] - said[f"{name}.enters"],
                "switches": said[f"{name}.switches"],
            }
    return found


def sizes(machine):
    """Bytes of structures, as the compiler has them in the driver's own file."""
    folder = lab.image(machine).parent
    command = (folder / "drivers/nvme/host/.pci.o.cmd").read_text().splitlines()[0]
    # without what objtool does afterwards
    words = shlex.split(command.partition(" := ")[2].partition(" ; ")[0])
    source = lab.BUILD / "bench-sizes.c"
    source.write_text('#include "drivers/nvme/host/pci.c"\n#include "io_uring/rsrc.h"\n' + "".join(
        f"char lab_{name.split()[1]}[sizeof({name})];\n" for name in STRUCTS))
    words = [word for word in words if not word.startswith("-Wp,")]
    out = words.index("-o")
    words[out + 1] = str(source.with_suffix(".o"))
    words[-1] = str(source)
    tree = lab.BUILD / lab.MACHINES[machine]["tree"]
    subprocess.run(words + ["-I", str(tree)], cwd=folder, check=True)
    text = subprocess.run(["nm", "-S", words[out + 1]], check=True,
                          stdout=subprocess.PIPE).stdout.decode()
    found = re.findall(r"^\S+ (\S+) \S lab_(\w+)$", text, re.M)
    return {f"struct {name}": int(size, 16) for size, name in found}


def disassemble(machine):
    """name -> (instructions, conditional branches) of the functions in HOT."""
    image = lab.image(machine)
    counts = {}
    for obj in ("io_uring.o", "rsrc.o", "rw.o", "nop.o", "tw.o", "wait.o",
                "uring_cmd.o", "net.o"):
        path = image.parent / "io_uring" / obj
        text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", str(path)], check=True,
                              stdout=subprocess.PIPE).stdout.decode()
        name = None
        for line in text.splitlines():
            head = re.match(r"^[0-9a-f]+ <(.*)>:$", line)
            if head:
                name = head.group(1)
                counts[name] = [0, 0]
            elif name and re.match(r"^\s+[0-9a-f]+:\t", line):
                op = line.split("\t")[1].split()[0]
                counts[name][0] += 1
                counts[name][1] += op.startswith("j") and op != "jmp"
    return {name: tuple(counts[name]) for name in HOT if name in counts}


def ratio(before, after):
    return f"{after / before:.3f}" if before else "-"


def row(name, before, after, fmt="{:,.0f}"):
    shown = ratio(before, after) if before is not None and after is not None else "-"
    cells = ["-" if value is None else fmt.format(value) for value in (before, after)]
    return f"| {name} | {cells[0]} | {cells[1]} | {shown} |"


def section(title, first, second, rows):
    return ["", f"### {title}", "", f"| figure | {first} | {second} | ratio |",
            "| --- | ---: | ---: | ---: |"] + rows


def tables(base, now, hot, reads):
    lines = section("Regression guard: instructions per operation", "unpatched", "patched", [
        row("NOP, 1 a submission", base["nop.batch1"], now["nop.batch1"]),
        row("NOP, 32 a submission", base["nop.batch32"], now["nop.batch32"]),
        row("READ_FIXED, 4 KiB from the NVMe drive, depth 1",
            base["read_fixed.4k.depth1"], now["read_fixed.4k.depth1"]),
        row("READ_FIXED, depth 64, all that the machine executes",
            *(reads["off"][machine]["memory.4k.depth64"] for machine in MACHINES)),
        row("SEND, 1 KiB on loopback TCP", base["send.1k"], now["send.1k"]),
        row("SEND_ZC, the same, with its notification", base["send_zc.1k"], now["send_zc.1k"]),
        row("URING_CMD, SIOCINQ of a socket", base["uring_cmd"], now["uring_cmd"])])
    lines += section("MEMCPY_IMMEDIATE: instructions per operation", "NOP", "MEMCPY_IMMEDIATE", [
        row("1 a submission", now["nop.batch1"], now["imm.batch1"]),
        row("32 a submission", now["nop.batch32"], now["imm.batch32"])])
    rows = []
    for ring in RINGS:
        for name in ("read-nop", "read-imm"):
            what = name.replace("read-", "READ → ").upper().replace("IMM", "MEMCPY_IMMEDIATE")
            rows.append(row(f"{what}, {ring}", base.get(f"{name}.{ring}"), now[f"{name}.{ring}"]))
    lines += section("A READ of a pipe and a short successor: instructions per chain",
                     "unpatched", "patched", rows)
    rows = []
    for ring in RINGS[:-1]:
        for name in ("read-nop", "read-imm"):
            what = name.replace("read-", "READ → ").upper().replace("IMM", "MEMCPY_IMMEDIATE")
            rows.append(row(f"{what}, {ring}", base.get(f"{name}.{ring}.enters"),
                            now[f"{name}.{ring}.enters"], "{:.2f}"))
    lines += section("The same: io_uring_enter() calls until both CQEs are there",
                     "unpatched", "patched", rows)
    for against, title in (("memcpy", "memcpy() of glibc"), ("movsq", "rep movsq")):
        rows = [row(f"{pair.replace('-', ' → ')}, {size}", now[f"{against}.{size}"],
                    now[f"copy.{pair}.{size}"]) for pair in PAIRS for size in SIZES]
        lines += section(f"MEMCPY: instructions per copy, against {title} in user space",
                         title, "MEMCPY", rows)
    lines += ["", "### Code that every request runs: instructions and conditional branches",
              "", "| function | unpatched | patched |", "| --- | ---: | ---: |"]
    for name in HOT:
        cells = [hot[m].get(name) for m in MACHINES]
        if any(cells):
            shown = [f"{c[0]} / {c[1]}" if c else "inlined" for c in cells]
            lines.append(f"| `{name}` | {shown[0]} | {shown[1]} |")
    return lines


def label(size):
    """4k.depth64 -> 4 KiB, depth 64"""
    number, depth = re.match(r"(\d+[km])\.depth(\d+)", size).groups()
    return f"{number[:-1]} {'K' if number[-1] == 'k' else 'M'}iB, depth {depth}"


def mebibytes(size):
    number = size.partition(".")[0]
    return int(number[:-1]) / (1024 if number[-1] == "k" else 1)


def reads_table(reads, size_names):
    lines = ["", "### READ_FIXED from the NVMe drive by IOMMU mode: instructions per read", "",
             "Memory is an ordinary registered buffer, of 4 KiB pages; dma-buf a udmabuf of 4 KiB",
             "pages that is registered for the drive. These are all instructions that the machine",
             "executes, interrupts and the idle task included, as a plugin of QEMU counts them: what",
             "a process is charged with depends on whether it sleeps when the drive is done.", "",
             "| size and depth | IOMMU | memory, unpatched | memory, patched | ratio | dma-buf "
             "| of memory |", "| --- | --- | ---: | ---: | ---: | ---: | ---: |"]
    for size in size_names:
        for mode in IOMMU_MODES:
            base, now = (reads[mode][m][f"memory.{size}"] for m in MACHINES)
            dmabuf = reads[mode]["qemu"][f"dmabuf.{size}"]
            lines.append(f"| {label(size)} | {mode} | {base:,.0f} | {now:,.0f} "
                         f"| {ratio(base, now)} | {dmabuf:,.0f} | {ratio(base, dmabuf)} |")
    return lines


def calls_table(calls, size_names):
    """What is done for a read, and no more than that."""
    lines = ["", "### The same, patched: what is called per read", "",
             "The same plugin looks at where functions begin; the kernel is the one of the other",
             "tables. Maps and unmaps are calls of the DMA API and, below it, of the IOMMU; flushes",
             "are of its caches. Punts are reads that go to a worker. How many reads an interrupt",
             "completes is the emulated drive's doing.", "",
             "| size and depth | IOMMU | into | " + " | ".join(CALLS) + " |",
             "| --- | --- | --- |" + " ---: |" * len(CALLS)]
    for size in size_names:
        for mode in IOMMU_MODES:
            for what in ("memory", "dmabuf"):
                found = calls[mode][f"{what}.{size}"]
                cells = [sum(found.get(function, (0, 0))[0] for function in functions)
                         for functions in CALLS.values()]
                lines.append(f"| {label(size)} | {mode} | {what.replace('dmabuf', 'dma-buf')} | " +
                             " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    return lines


def large_table(reads, calls, size_names):
    lines = ["", "### Large reads: instructions and NVMe commands per MiB", "",
             "| size and depth | IOMMU | memory: instructions | commands | dma-buf: instructions "
             "| commands |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for size in size_names:
        for mode in IOMMU_MODES:
            cells = []
            for what in ("memory", "dmabuf"):
                name = f"{what}.{size}"
                commands = calls[mode][name].get("nvme_setup_cmd", (0, 0))[0]
                cells += [f"{reads[mode]['qemu'][name] / mebibytes(size):,.0f}",
                          f"{commands / mebibytes(size):.2f}"]
            lines.append(f"| {label(size)} | {mode} | " + " | ".join(cells) + " |")
    return lines


def profile_table(calls, size, mode, number=16):
    """Where the instructions of a read are spent, those that differ most first."""
    memory, dmabuf = (calls[mode][f"{what}.{size}"] for what in ("memory", "dmabuf"))
    lines = ["", f"### Where the instructions are: {label(size)}, IOMMU {mode}", "",
             "Of all code that the machine executes, interrupts included; those that differ most.",
             "", "| function | memory | dma-buf | difference |", "| --- | ---: | ---: | ---: |"]
    def insns(found, name):
        return found.get(name, (0, 0))[1]
    names = sorted(set(memory) | set(dmabuf),
                   key=lambda name: -abs(insns(dmabuf, name) - insns(memory, name)))
    for name in names[:number]:
        one, two = insns(memory, name), insns(dmabuf, name)
        lines.append(f"| `{name}` | {one:,.0f} | {two:,.0f} | {two - one:+,.0f} |")
    one, two = (sum(found[name][1] for name in found) for found in (memory, dmabuf))
    lines.append(f"| all | {one:,.0f} | {two:,.0f} | {two - one:+,.0f} |")
    return lines


def cost_tables(costs):
    lines = ["", "### Registration of a dma-buf for the drive, per GiB", "",
             "Measured with 64 MiB. Tables are what the kernel allocates on account of the process,",
             "in steps of some pages. Of these, 32 bytes for each segment are the exporter's, which is",
             "that of the tests but for the last row. The IOMMU's own are not in it.", "",
             "| segments | IOMMU | instructions to register | to unregister | bytes of tables |",
             "| --- | --- | ---: | ---: | ---: |"]
    for what, name, mode in (("4 KiB", "4k", "off"), ("2 MiB", "2m", "off"),
                             ("one, by the IOMMU", "udmabuf", "strict")):
        cells = [costs[mode][f"{key}.{name}"] for key in ("register", "unregister", "tables")]
        lines.append(f"| {what} | {mode} | " + " | ".join(f"{cell:,.0f}" for cell in cells) + " |")
    lines += ["", "### A dma-buf that moves: how long its exporter waits, in µs", "",
              "Emulated time, in which an instruction takes a nanosecond and the drive none; one CPU.",
              "Under load, another process reads 32 times 128 KiB. Stopped is a revocation while that",
              "process is stopped.", "",
              "| | IOMMU | p50 | p99 |", "| --- | --- | ---: | ---: |"]
    for mode, found in costs.items():
        for what, name in (("idle", "move.idle"), ("under load", "move.load"),
                           ("stopped", "revoke.stopped")):
            lines.append(f"| {what} | {mode} | {found[name + '.p50']:,.1f} "
                         f"| {found[name + '.p99']:,.1f} |")
    return lines


def sizes_table(found):
    lines = ["", "### Sizes of structures, in bytes", "", "| structure | unpatched | patched |",
             "| --- | ---: | ---: |"]
    for name in STRUCTS:
        lines.append(f"| `{name}` | {found['qemu-base'][name]} | {found['qemu'][name]} |")
    return lines


def dmabuf_tables(reads, calls, costs, struct_sizes):
    """What a read costs by size, by kind of memory and by what the IOMMU does."""
    names = [name.split(".", 1)[1] for name in reads["off"]["qemu"] if name.startswith("dmabuf.")]
    some = ("4k.depth64", "128k.depth16", "1m.depth2")
    return (reads_table(reads, names) + calls_table(calls, some) +
            large_table(reads, calls, [name for name in names if mebibytes(name) >= 0.125]) +
            profile_table(calls, some[0], "off") + profile_table(calls, some[0], "strict") +
            cost_tables(costs) + sizes_table(struct_sizes))


def fio_table(found):
    lines = ["", "### fio: instructions per read", "",
             "Of user space and kernel, as fio's own CPU time has them. What the drive has done by",
             "the time fio sleeps is not on its account, so they vary by some 20 %:", "",
             f"    {shlex.join(FIO)} --fixedbufs|--dmabuf=udmabuf", "",
             "| IOMMU | --fixedbufs, unpatched | --fixedbufs | ratio | --dmabuf=udmabuf "
             "| of unpatched |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for mode, (base, now, dmabuf) in found.items():
        lines.append(f"| {mode} | {base:,.0f} | {now:,.0f} | {ratio(base, now)} | {dmabuf:,.0f} "
                     f"| {ratio(base, dmabuf)} |")
    return lines


def ublk_tables(found):
    """A table for each figure: a row for what is done, a column for each mode."""
    lines = ["", "### Ublk servers", "",
             "The same server, the selftests' kublk, in all the ways that it has to get at the data",
             "of a request, in one boot for each of its targets; one queue, one CPU, 16 requests of",
             "one client at a time, on huge pages. Emulated time passes with instructions, and a copy",
             "takes one for 8 bytes: memory's bandwidth is in none of it. With fused_commit, null has",
             "nothing to fill for a read and nbd has no reply to a write yet, so that these are not",
             "committed along. With fused_copy, requests of up to 32 KiB are copied, and others are as",
             "with fused_commit.", ""]
    lines += [f"- {name}: {what}" for name, what in UBLK_TARGETS.items()]
    for figure, (title, fmt) in UBLK_FIGURES.items():
        lines += ["", f"### Ublk servers: {title}", "",
                  "| target | | size | " + " | ".join(UBLK_MODES) + " |",
                  "| --- | --- | ---: |" + " ---: |" * len(UBLK_MODES)]
        for target in UBLK_TARGETS:
            for way in ("read", "write"):
                for size in UBLK_SIZES:
                    cells = [found.get((target, mode, way, size)) for mode in UBLK_MODES]
                    shown = [fmt.format(cell[figure]) if cell else "-" for cell in cells]
                    lines.append(f"| {target} | {way} | {size} | " + " | ".join(shown) + " |")
    lines += ["", "### Ublk servers: the aims", "", "| aim | | ratio of IOPS |", "| --- | --- | ---: |"]
    for aim, mode, than, targets, of_sizes in (
            ("3 × copy", "fused", "copy", ("loop",), ("64k", "512k")),
            ("3 × copy", "fused_commit", "copy", ("loop",), ("64k", "512k")),
            ("1 × auto_buf_reg", "fused", "auto_buf_reg", tuple(UBLK_TARGETS), UBLK_SIZES),
            ("1.3 × auto_buf_reg", "fused_commit", "auto_buf_reg", tuple(UBLK_TARGETS), ("4k",)),
            ("1 × copy", "fused_copy", "copy", ("null", "loop", "brd"), ("4k",))):
        for target in targets:
            for way in ("read", "write"):
                for size in of_sizes:
                    one, two = (found.get((target, name, way, size)) for name in (mode, than))
                    if one:
                        lines.append(f"| {mode} at least {aim} | {target}, {way}, {size} "
                                     f"| {one['iops'] / two['iops']:.2f} |")
    return lines


def write_ublk(found):
    with open(OUT / "ublk.tsv", "w", encoding="utf-8") as raw:
        raw.write("# SPDX-License-Identifier: GPL-2.0\n# target\tmode\top\tsize\t" +
                  "\t".join(UBLK_FIGURES) + "\n")
        for key, values in found.items():
            raw.write("\t".join([*key, *(f"{values[name]:.3f}" for name in UBLK_FIGURES)]) + "\n")


def write_reads(reads):
    with open(OUT / "dmabuf.tsv", "w", encoding="utf-8") as raw:
        raw.write("# SPDX-License-Identifier: GPL-2.0\n# figure\tIOMMU\tunpatched\tpatched\n")
        for mode, found in reads.items():
            for name in found["qemu"]:
                raw.write(f"{name}\t{mode}\t{found['qemu-base'].get(name, '-')}"
                          f"\t{found['qemu'][name]}\n")


def write_raw(base, now):
    names = list(base) + [name for name in now if name not in base]
    with open(OUT / "memcpy.tsv", "w", encoding="utf-8") as raw:
        raw.write("# SPDX-License-Identifier: GPL-2.0\n# figure\tunpatched\tpatched\n")
        for name in names:
            raw.write(f"{name}\t{base.get(name, '-')}\t{now.get(name, '-')}\n")


def plot(now):
    data = lab.BUILD / "bench-plot.tsv"
    columns = ["memcpy", "movsq"] + [f"copy.{pair}" for pair in PAIRS]
    with open(data, "w", encoding="utf-8") as out:
        for size, number in SIZES.items():
            values = [f"{now[f'{column}.{size}']:.1f}" for column in columns]
            out.write("\t".join([str(number)] + values) + "\n")
    titles = ["memcpy() in user space", "rep movsq in user space"] + \
        ["MEMCPY " + pair.replace("-", " to ") for pair in PAIRS]
    curves = ", ".join(f"'{data}' using 1:{index + 2} with linespoints title '{title}'"
                       for index, title in enumerate(titles))
    script = f"""set terminal svg size 760,480 font 'sans-serif,13' background '#ffffff'
set output '{OUT / "memcpy.svg"}'
set title 'Instructions per copy (make bench, QEMU icount, one instruction moves 8 bytes)'
set logscale xy
set xlabel 'bytes'
set ylabel 'instructions'
set format y '10^{{%T}}'
set xtics ('64' 64, '4 KiB' 4096, '64 KiB' 65536, '1 MiB' 1048576)
set key left top
set grid
plot {curves}
"""
    subprocess.run(["gnuplot"], input=script.encode(), check=True)
    svg = OUT / "memcpy.svg"
    text = svg.read_text()
    head = '<?xml version="1.0" encoding="utf-8"  standalone="no"?>\n'
    if not text.startswith(head):
        raise lab.Failed("gnuplot's SVG doesn't start as expected")
    svg.write_text(head + "<!-- SPDX-License-Identifier: GPL-2.0 -->\n" + text[len(head):])


def commit_id():
    words = ["git", "-C", str(lab.BUILD / "linux"), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout.decode().strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timeout", type=int, default=900, help="seconds per kernel")
    args = parser.parse_args()
    for machine in MACHINES:
        lab.build(machine)
    compile_program()
    compile_ublk()
    compile_plugin()
    lab.build_fio()
    base, now = [measure(machine, args.timeout) for machine in MACHINES]
    counts = {mode: {machine: count_calls(machine, args.timeout, mode) for machine in MACHINES}
              for mode in IOMMU_MODES}
    reads = {mode: {machine: {name: sum(insns for _, insns in functions.values())
                              for name, functions in counts[mode][machine].items()}
                    for machine in MACHINES} for mode in IOMMU_MODES}
    calls = {mode: counts[mode]["qemu"] for mode in IOMMU_MODES}
    costs = {mode: measure("qemu", args.timeout, "cost", mode) for mode in ("off", "strict")}
    fio = {mode: (measure_fio("qemu-base", args.timeout, "memory", mode),
                  measure_fio("qemu", args.timeout, "memory", mode),
                  measure_fio("qemu", args.timeout, "dmabuf", mode)) for mode in IOMMU_MODES}
    ublk = measure_ublk(args.timeout)
    hot = {machine: disassemble(machine) for machine in MACHINES}
    struct_sizes = {machine: sizes(machine) for machine in MACHINES}

    OUT.mkdir(parents=True, exist_ok=True)
    write_raw(base, now)
    write_reads(reads)
    write_ublk(ublk)
    plot(now)
    when = datetime.date.today().isoformat()
    version = subprocess.run(["qemu-system-x86_64", "--version"], check=True,
                             stdout=subprocess.PIPE).stdout.decode().splitlines()[0]
    lines = ["<!-- SPDX-License-Identifier: GPL-2.0 -->", "# Measured", "",
             f"`make bench`, {when}, {version}, `-icount shift=0,sleep=off -smp 1 "
             "-cpu max,-erms,-fsrm`. Figures are instructions: of user space, kernel, workers",
             "and the SQ thread of one process together. They repeat within 0.2 %, those with",
             "`sqpoll` don't, its thread spins while there is nothing to do.",
             f"Series: commit {commit_id()} of `make tree`. Not in the figures: caches, memory",
             "bandwidth, and what interrupts cost on real hardware.", "",
             "![instructions per copy](memcpy.svg)"]
    body = (tables(base, now, hot, reads) + dmabuf_tables(reads, calls, costs, struct_sizes) +
            fio_table(fio) + ublk_tables(ublk))
    (OUT / "README.md").write_text("\n".join(lines + body) + "\n", encoding="utf-8")
    for line in body:
        lab.say(line)
    lab.say(f"  BENCH   {Path('docs/bench/README.md')}")
    return 0


if __name__ == "__main__":
    lab.program("bench", main)
