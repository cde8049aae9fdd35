#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""An NBD server for tests of the client: nbd_peer.py SOCKET|PORT FILE MODE

log      answers as it should, and prints each request
reorder  answers in random order, a few bytes at a time
errors   refuses what is in the second MiB: no space for writes, else an I/O error
magic    ... and all below is fine until there were BREAK_AT requests;
         then a reply doesn't begin as replies do
cookie   a reply is to a request that there never was
twice    a request is answered twice
half     a connection ends in the middle of a reply
stall    requests are no longer received, then the connection ends
deaf     requests are no longer received, then comes what isn't a reply, and that
         is all
mute     no handshake
old      a handshake of old
"""

import os
import random
import select
import signal
import socket
import struct
import sys
import time

READ, WRITE, DISC, FLUSH, TRIM = range(5)
NAMES = ["read", "write", "disc", "flush", "trim"]
FUA = 1 << 16
REPLY_MAGIC = 0x67446698
# has flags, takes flushes and FUA, several connections see the same
EXPORT_FLAGS = 0x1 | 0x4 | 0x8 | 0x100
BREAK_AT = 50
ENOSPC, EIO = 28, 5
MIB = 1 << 20


class Connection:
    """One client, for which there is a process."""

    def __init__(self, sock, fd, mode):
        self.sock = sock
        self.fd = fd
        self.mode = mode
        self.count = 0
        self.waiting = []

    def receive(self, size):
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            if not more:
                sys.exit(0)
            data += more
        return data

    def handshake(self):
        if self.mode == "mute":
            time.sleep(3600)
        if self.mode == "old":
            self.sock.sendall(b"NBDMAGIC" + struct.pack(">QQ128x", 0x420281861253, 8 * MIB))
            return
        self.sock.sendall(b"NBDMAGICIHAVEOPT\0\3")
        self.receive(4)
        _, option, size = struct.unpack(">8sII", self.receive(16))
        self.receive(size)
        info = struct.pack(">HQH", 0, os.fstat(self.fd).st_size, EXPORT_FLAGS)
        for kind, data in ((3, b"\0\3\0\0\0\1\0\0\2\0\0\2\0\0"), (3, info), (1, b"")):
            self.sock.sendall(struct.pack(">QIII", 0x3e889045565a9, option, kind, len(data)) + data)

    def request(self):
        """Receive one, and do it: what the reply is."""
        _, kind, cookie, offset, size = struct.unpack(">IIQQI", self.receive(28))
        cmd = kind & 0xffff
        data = self.receive(size) if cmd == WRITE else b""
        if self.mode == "log":
            print(NAMES[cmd] + (" fua" if kind & FUA else ""), offset, size, flush=True)
        if cmd == DISC:
            sys.exit(0)
        if self.mode == "errors" and size and MIB <= offset < 2 * MIB:
            return struct.pack(">IIQ", REPLY_MAGIC, ENOSPC if cmd == WRITE else EIO, cookie)
        if cmd == WRITE:
            os.pwrite(self.fd, data, offset)
        reply = struct.pack(">IIQ", REPLY_MAGIC, 0, cookie)
        return reply + (os.pread(self.fd, size, offset) if cmd == READ else b"")

    def send_reordered(self):
        """All that waits, as soon as nothing more comes for a while."""
        if select.select([self.sock], [], [], 0.02)[0] and len(self.waiting) < 64:
            return
        random.shuffle(self.waiting)
        # megabytes, not to be copied for each piece
        data = memoryview(b"".join(self.waiting))
        self.waiting = []
        while data:
            size = random.choice((1, 15, 16, 17, 511, 4096, 65536))
            self.sock.sendall(data[:size])
            data = data[size:]

    def break_off(self, reply):
        if self.mode == "magic":
            self.sock.sendall(b"\0" + reply[1:])
        elif self.mode == "cookie":
            self.sock.sendall(reply[:8] + b"\xff" * 6 + reply[14:])
        elif self.mode == "twice":
            self.sock.sendall(reply + reply)
        elif self.mode == "half":
            self.sock.sendall(reply[:max(8, len(reply) // 2)])
            sys.exit(0)
        elif self.mode == "stall":
            time.sleep(1)
            sys.exit(0)
        elif self.mode == "deaf":
            time.sleep(1)
            self.sock.sendall(b"\0" * 16)
            time.sleep(3600)

    def serve(self):
        self.handshake()
        while True:
            reply = self.request()
            self.count += 1
            if self.mode == "reorder":
                self.waiting.append(reply)
                self.send_reordered()
            elif self.mode in ("log", "errors") or self.count < BREAK_AT:
                self.sock.sendall(reply)
            else:
                self.break_off(reply)


def main():
    path, name, mode = sys.argv[1:]
    fd = os.open(name, os.O_RDWR)
    seed = int.from_bytes(os.urandom(4), "big")
    random.seed(seed)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if path.isdigit():
        server = socket.create_server(("127.0.0.1", int(path)))
    else:
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen()
    # it can be connected to
    print("seed", seed, flush=True)
    while True:
        sock, _ = server.accept()
        if os.fork() == 0:
            try:
                Connection(sock, fd, mode).serve()
            except OSError:
                sys.exit(0)
        sock.close()


main()
