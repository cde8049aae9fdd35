#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Build and boot the patched kernel, and show what it does.

The programs are liburing's examples imm-notify and copybench, and
lab/demo/errors.c. Each part checks itself, and so does the kernel log: the exit
status is 0 only if all of it is as it should be.
"""

import time

import machine as lab

MACHINE = "qemu"
TIMEOUT = 180
ERRORS = lab.BUILD / "user" / "demo-errors"
EXAMPLES = "build/liburing/examples"
PARTS = (
    ("A thread spins on a word in memory, a chain of requests ends in a store to it.",
     f"{EXAMPLES}/imm-notify -n 100"),
    ("MEMCPY between user memory and registered buffers, with checksums.",
     f"{EXAMPLES}/copybench -v -n 50 -s 64,4k,64k,1m"),
    ("An NVMe drive is written from a dma-buf, and fills another one, without a copy.",
     f"{EXAMPLES}/nvme-dmabuf-copy -s 64m write /dev/nvme0n1 && "
     f"{EXAMPLES}/nvme-dmabuf-copy -s 64m read /dev/nvme0n1"),
    ("What bad input gets. None of it may leave a byte behind.",
     f"build/user/{ERRORS.name}"),
)


def build():
    lab.build(MACHINE)
    lab.build_liburing()
    tree = lab.BUILD / "liburing"
    lab.step("BUILD", "examples", ["make", "-C", str(tree / "examples"), "imm-notify",
                                   "copybench", "nvme-dmabuf-copy"],
             lab.LOG / "build-examples.log")
    ERRORS.parent.mkdir(parents=True, exist_ok=True)
    cmd = ["gcc", "-O2", "-Wall", "-static", "-I", str(tree / "src" / "include"),
           str(lab.ROOT / "lab" / "demo" / "errors.c"), str(tree / "src" / "liburing.a"),
           "-o", str(ERRORS)]
    lab.step("BUILD", "demo", cmd, lab.LOG / "build-demo.log")


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


def main():
    build()
    if show():
        return 1
    lab.say("\nAll of it as it should be. Next: make test, README.md, make help.")
    return 0


if __name__ == "__main__":
    lab.program("demo", main)
