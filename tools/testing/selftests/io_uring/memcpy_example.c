// SPDX-License-Identifier: GPL-2.0
/* Copyright (C) 2026 The uring-offload authors */
/*
 * READ from a pipe, MEMCPY of the part that matters, MEMCPY_IMMEDIATE to tell
 * a thread that it is there. The chain is submitted before there is anything to
 * read, and the thread never enters the kernel.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <io_uring/mini_liburing.h>

#define HEADER	8
#define BODY	24

/* what spins on it gets a cache line of its own */
static uint32_t ready __attribute__((aligned(64)));
static char packet[HEADER + BODY], body[BODY];

static void *spin(void *arg)
{
	while (!__atomic_load_n(&ready, __ATOMIC_ACQUIRE))
		;
	/* the load-acquire makes for it that this is the new content */
	printf("%s\n", body);
	return arg;
}

static struct io_uring_sqe *next_sqe(struct io_uring *ring, int op)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (!sqe)
		exit(1);
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = op;
	return sqe;
}

int main(void)
{
	static const char msg[HEADER + BODY] = "header: Hello from a chain.";
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	struct io_uring ring;
	pthread_t thread;
	int fds[2], i;

	if (io_uring_queue_init(4, &ring, 0) || pipe(fds)) {
		perror("set-up");
		return 1;
	}
	if (pthread_create(&thread, NULL, spin, NULL))
		return 1;

	sqe = next_sqe(&ring, IORING_OP_READ);
	sqe->fd = fds[0];
	sqe->addr = (unsigned long)packet;
	sqe->len = sizeof(packet);
	sqe->flags = IOSQE_IO_LINK;

	sqe = next_sqe(&ring, IORING_OP_MEMCPY);
	sqe->addr = (unsigned long)body;
	sqe->addr2 = (unsigned long)packet + HEADER;
	sqe->len = BODY;
	sqe->flags = IOSQE_IO_LINK;

	/* last: an error before it would leave the thread alone */
	sqe = next_sqe(&ring, IORING_OP_MEMCPY_IMMEDIATE);
	sqe->addr = (unsigned long)&ready;
	sqe->off = 1;
	sqe->len = sizeof(ready);

	if (io_uring_submit(&ring) != 3 ||
	    write(fds[1], msg, sizeof(msg)) != sizeof(msg)) {
		perror("submit");
		return 1;
	}

	for (i = 0; i < 3; i++) {
		if (io_uring_wait_cqe(&ring, &cqe))
			return 1;
		if (cqe->res < 0) {
			fprintf(stderr, "request %d: %s\n", i,
				strerror(-cqe->res));
			return 1;
		}
		io_uring_cqe_seen(&ring);
	}
	pthread_join(thread, NULL);
	io_uring_queue_exit(&ring);
	return 0;
}
