// SPDX-License-Identifier: GPL-2.0
/*
 * I/O on a ublk device, for lab/bench/calls.c to count what it takes:
 *
 *	ublkbench NAME DEVICE read|write SIZE DEPTH NUMBER
 *
 * says "mark NAME NUMBER", and how many times it has slept. Requests are next to
 * each other and start again at the beginning, with O_DIRECT on ordinary memory.
 * All that runs on the machine meanwhile is counted: this program, the server,
 * the kernel.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/fs.h>

#include "liburing.h"

#define WARMUP	4

static struct io_uring ring;
static unsigned long long size;
static unsigned int len, depth;
static bool writes;
static char *memory;
static int fd;

static void run(unsigned int number)
{
	unsigned int queued = 0, done = 0;
	struct io_uring_cqe *cqe;
	int ret;

	while (done < number) {
		while (queued < number && queued - done < depth) {
			struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
			char *at = memory + (size_t)(queued % depth) * len;
			unsigned long long pos = (unsigned long long)queued * len %
						 (size / len * len);

			if (writes)
				io_uring_prep_write(sqe, fd, at, len, pos);
			else
				io_uring_prep_read(sqe, fd, at, len, pos);
			queued++;
		}
		ret = io_uring_submit_and_wait(&ring, 1);
		if (ret < 0)
			errx(1, "submit: %s", strerror(-ret));
		while (!io_uring_peek_cqe(&ring, &cqe)) {
			if (cqe->res != (int)len)
				errx(1, "result %d", cqe->res);
			io_uring_cqe_seen(&ring, cqe);
			done++;
		}
	}
}

int main(int argc, char *argv[])
{
	unsigned int number;
	int ret;

	if (argc != 7)
		errx(1, "NAME DEVICE read|write SIZE DEPTH NUMBER");
	writes = !strcmp(argv[3], "write");
	len = atoi(argv[4]);
	depth = atoi(argv[5]);
	number = atoi(argv[6]);
	fd = open(argv[2], (writes ? O_RDWR : O_RDONLY) | O_DIRECT);
	if (fd < 0)
		err(1, "%s", argv[2]);
	if (ioctl(fd, BLKGETSIZE64, &size))
		err(1, "%s", argv[2]);
	if (posix_memalign((void **)&memory, 4096, (size_t)len * depth))
		errx(1, "memory");
	memset(memory, 0x5a, (size_t)len * depth);
	ret = io_uring_queue_init(depth, &ring, IORING_SETUP_SINGLE_ISSUER |
				  IORING_SETUP_DEFER_TASKRUN);
	if (ret)
		errx(1, "ring: %s", strerror(-ret));
	run(WARMUP * depth);
	getsid(0);
	run(number);
	getsid(0);
	printf("mark %s %u\n", argv[1], number);
	return 0;
}
