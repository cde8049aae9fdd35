#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Count instructions on the unpatched and on the patched kernel, in one go.

Both kernels run lab/bench/iobench under QEMU with -icount shift=0: one guest
instruction is one nanosecond of guest time, and the CPU time that the program
reads is its number of instructions, whatever else the host does. The results go
to docs/bench/: a table, the raw figures, and a plot made by gnuplot.
"""

import argparse
import datetime
import re
import subprocess
from pathlib import Path

import machine as lab

MACHINES = ("qemu-base", "qemu")
SOURCE = lab.ROOT / "lab" / "bench" / "iobench.c"
PROGRAM = lab.BUILD / "user" / "iobench"
OUT = lab.ROOT / "docs" / "bench"
IOMMU_MODES = ("off", "pt", "lazy", "strict")
RINGS = ("default", "coop", "defer", "sqpoll")
PAIRS = ("user-user", "fixed-user", "user-fixed", "fixed-fixed")
SIZES = {"64": 64, "4k": 4096, "64k": 65536, "1m": 1 << 20}
FIGURE = re.compile(r"^([a-z0-9_.-]+) (-?[0-9.]+)$")
# functions that every request goes through; what others pay shows in them
HOT = ("io_submit_sqes", "__io_submit_flush_completions", "io_issue_sqe", "__io_issue_sqe",
       "io_free_batch_list", "io_import_reg_buf", "io_read_fixed", "io_nop",
       "io_req_local_work_add", "__io_run_local_work", "tctx_task_work_run",
       "__do_sys_io_uring_enter", "io_cqring_wait")


def compile_program():
    lab.build_liburing()
    liburing = lab.BUILD / "liburing" / "src"
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    cmd = ["gcc", "-O2", "-Wall", "-static", "-I", str(liburing / "include"), str(SOURCE),
           str(liburing / "liburing.a"), "-o", str(PROGRAM)]
    lab.step("BUILD", "iobench", cmd, lab.LOG / "build-iobench.log")


def measure(machine, timeout, words="", iommu="none"):
    """The figures of one kernel: name -> value."""
    output, log = [], []

    def sink(kind, data):
        (log if kind == "log" else output).append(data.decode(errors="replace"))

    options = lab.default_options(icount=True, smp=1, iommu=iommu)
    with lab.booted(machine, options) as guest:
        end, seconds, status = guest.job(f"build/user/{PROGRAM.name} {words}", timeout, "repo",
                                         sink)
    text = "".join(output)
    found = lab.splat("".join(log))
    if end != "exit" or status or found:
        lab.say(text)
        raise lab.Failed(f"iobench on {machine}: {end} {status}" +
                         ("".join("\n    " + line for line in found or [])))
    figures = {}
    for line in text.splitlines():
        match = FIGURE.match(line)
        if match:
            figures[match.group(1)] = float(match.group(2))
    what = f"{machine} {words} {iommu if iommu != 'none' else ''}".strip()
    lab.say(f"  BENCH   {what:<24} {len(figures)} figures, {seconds:.0f}s")
    return figures


def disassemble(machine):
    """name -> (instructions, conditional branches) of the functions in HOT."""
    image = lab.image(machine)
    counts = {}
    for obj in ("io_uring.o", "rsrc.o", "rw.o", "nop.o", "tw.o", "wait.o"):
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


def tables(base, now, hot):
    lines = section("Regression guard: instructions per operation", "unpatched", "patched", [
        row("NOP, 1 a submission", base["nop.batch1"], now["nop.batch1"]),
        row("NOP, 32 a submission", base["nop.batch32"], now["nop.batch32"]),
        row("READ_FIXED, 4 KiB from the NVMe drive, depth 1", base["read_fixed.4k.depth1"],
            now["read_fixed.4k.depth1"]),
        row("READ_FIXED, depth 64",
            base["read_fixed.4k.depth64"], now["read_fixed.4k.depth64"]),
        row("SEND, 1 KiB on loopback TCP", base["send.1k"], now["send.1k"])])
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


def dmabuf_tables(reads):
    """What a read costs by size, by kind of memory and by what the IOMMU does."""
    sizes = [name.split(".", 1)[1] for name in reads["off"]["qemu"] if name.startswith("dmabuf.")]
    lines = ["", "### READ_FIXED from the NVMe drive by IOMMU mode: instructions per read", "",
             "Memory is an ordinary registered buffer, of 4 KiB pages; dma-buf a udmabuf of 4 KiB",
             "pages that is registered for the drive. The median of all rounds.", "",
             "| size and depth | IOMMU | memory, unpatched | memory, patched | ratio | dma-buf "
             "| of memory |", "| --- | --- | ---: | ---: | ---: | ---: | ---: |"]
    for size in sizes:
        for mode in IOMMU_MODES:
            base, now = (reads[mode][m][f"memory.{size}"] for m in MACHINES)
            dmabuf = reads[mode]["qemu"][f"dmabuf.{size}"]
            lines.append(f"| {size.replace('.depth', ', ')} | {mode} | {base:,.0f} | {now:,.0f} "
                         f"| {ratio(base, now)} | {dmabuf:,.0f} | {ratio(base, dmabuf)} |")
    return lines


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
    base, now = [measure(machine, args.timeout) for machine in MACHINES]
    reads = {mode: {machine: measure(machine, args.timeout, "dmabuf", mode)
                    for machine in MACHINES} for mode in IOMMU_MODES}
    hot = {machine: disassemble(machine) for machine in MACHINES}

    OUT.mkdir(parents=True, exist_ok=True)
    write_raw(base, now)
    write_reads(reads)
    plot(now)
    when = datetime.date.today().isoformat()
    version = subprocess.run(["qemu-system-x86_64", "--version"], check=True,
                             stdout=subprocess.PIPE).stdout.decode().splitlines()[0]
    lines = ["<!-- SPDX-License-Identifier: GPL-2.0 -->", "# Measured", "",
             f"`make bench`, {when}, {version}, `-icount shift=0,sleep=off -smp 1 "
             "-cpu max,-erms,-fsrm`. Figures are instructions: of user space, kernel, workers",
             "and the SQ thread of one process together. They repeat within 0.2 %, those with",
             "`sqpoll` don't, its thread spins while there is nothing to do. READ_FIXED is the median",
             "of all rounds.",
             f"Series: commit {commit_id()} of `make tree`. Not in the figures: caches, memory",
             "bandwidth, and what interrupts cost on real hardware.", "",
             "![instructions per copy](memcpy.svg)"]
    body = tables(base, now, hot) + dmabuf_tables(reads)
    (OUT / "README.md").write_text("\n".join(lines + body) + "\n", encoding="utf-8")
    for line in body:
        lab.say(line)
    lab.say(f"  BENCH   {Path('docs/bench/README.md')}")
    return 0


if __name__ == "__main__":
    lab.program("bench", main)
