// SPDX-License-Identifier: GPL-2.0
/*
 * I/O on a ublk device, and what it takes:
 *
 *	ublkbench NAME DEVICE SERVER
 *
 * SERVER is the process that serves it. For reads and writes of each size, lines
 *
 *	mark NAME.OP.SIZE OPERATIONS	for lab/bench/calls.c, see there
 *	NAME.OP.SIZE.ns FIGURE		time per operation
 *	NAME.OP.SIZE.cqes FIGURE	CQEs that the server gets for one
 *	NAME.OP.SIZE.switches FIGURE	context switches of the server for one
 *	NAME.OP.SIZE.enters FIGURE	system calls of this program for one
 *
 * I/O is with O_DIRECT on memory of huge pages, 16 requests at a time. The plugin counts
 * all that runs on the machine: this program, the server, whoever that asks, the
 * kernel.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <linux/fs.h>

#include "liburing.h"

#define ROUNDS	8
#define DEPTH	16
#define HUGE_PAGE	(2UL << 20)
#define MEMORY	((size_t)524288 * DEPTH)
/* requests at a time that the block layer can't merge */
#define STRIDE	7ULL

static const struct { const char *name; unsigned int len; } sizes[] = {
	{ "4k", 4096 }, { "64k", 65536 }, { "512k", 524288 },
};

static const char *server;
static struct io_uring ring;
static unsigned long long size;
static char *memory;
static int fd;

/* Returns how many system calls it took */
static unsigned int run(bool writes, unsigned int len, unsigned int number)
{
	unsigned int queued = 0, done = 0, calls = 0;
	struct io_uring_cqe *cqe;
	int ret;

	while (done < number) {
		while (queued < number && queued - done < DEPTH) {
			struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
			char *at = memory + (size_t)(queued % DEPTH) * len;
			unsigned long long pos = queued * STRIDE % (size / len) * len;

			if (writes)
				io_uring_prep_write(sqe, fd, at, len, pos);
			else
				io_uring_prep_read(sqe, fd, at, len, pos);
			queued++;
		}
		ret = io_uring_submit_and_wait(&ring, 1);
		if (ret < 0)
			errx(1, "submit: %s", strerror(-ret));
		calls++;
		while (!io_uring_peek_cqe(&ring, &cqe)) {
			if (cqe->res != (int)len)
				errx(1, "result %d", cqe->res);
			io_uring_cqe_seen(&ring, cqe);
			done++;
		}
	}
	return calls;
}

/* The sum of a number that some of the server's files have in lines that start with @key */
static unsigned long long sum(const char *folder, const char *file, const char *key)
{
	char path[512], line[256];
	unsigned long long all = 0;
	struct dirent *entry;
	FILE *in;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%s/%s", server, folder);
	dir = opendir(path);
	if (!dir)
		err(1, "%s", path);
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%s/%s/%s%s", server, folder, entry->d_name,
			 file);
		in = fopen(path, "r");
		if (!in)
			continue;
		while (fgets(line, sizeof(line), in)) {
			if (!strncmp(line, key, strlen(key)))
				all += strtoull(line + strlen(key), NULL, 0);
		}
		fclose(in);
	}
	closedir(dir);
	return all;
}

static unsigned long long cqes(void)
{
	return sum("fdinfo", "", "CqTail:");
}

static unsigned long long switches(void)
{
	return sum("task", "/status", "voluntary_ctxt_switches:") +
	       sum("task", "/status", "nonvoluntary_ctxt_switches:");
}

static unsigned long long now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static bool all_huge(void)
{
	unsigned long long kib = 0;
	char line[256];
	FILE *in = fopen("/proc/self/smaps_rollup", "r");

	while (in && fgets(line, sizeof(line), in))
		sscanf(line, "AnonHugePages: %llu", &kib);
	if (in)
		fclose(in);
	return kib >= MEMORY >> 10;
}

static void measure(const char *name, bool writes, unsigned int i)
{
	const unsigned int number = ROUNDS * DEPTH;
	unsigned long long begin, end, had_cqes, had_switches;
	unsigned int calls;
	char what[128];

	snprintf(what, sizeof(what), "%s.%s.%s", name, writes ? "write" : "read", sizes[i].name);
	run(writes, sizes[i].len, DEPTH);
	had_cqes = cqes();
	had_switches = switches();
	begin = now();
	getsid(0);
	calls = run(writes, sizes[i].len, number);
	getsid(0);
	end = now();
	printf("mark %s %u\n", what, number);
	printf("%s.ns %.0f\n", what, (double)(end - begin) / number);
	printf("%s.cqes %.3f\n", what, (double)(cqes() - had_cqes) / number);
	printf("%s.switches %.3f\n", what, (double)(switches() - had_switches) / number);
	printf("%s.enters %.3f\n", what, (double)calls / number);
}

int main(int argc, char *argv[])
{
	unsigned int i;
	int ret;

	if (argc != 4)
		errx(1, "NAME DEVICE SERVER");
	server = argv[3];
	fd = open(argv[2], O_RDWR | O_DIRECT);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size))
		err(1, "%s", argv[2]);
	/* how many pieces a request has is not to be left to chance */
	if (posix_memalign((void **)&memory, HUGE_PAGE, MEMORY) ||
	    madvise(memory, MEMORY, MADV_HUGEPAGE))
		err(1, "memory");
	memset(memory, 0x5a, MEMORY);
	if (!all_huge())
		errx(1, "no huge pages");
	ret = io_uring_queue_init(DEPTH, &ring, IORING_SETUP_SINGLE_ISSUER |
				  IORING_SETUP_DEFER_TASKRUN);
	if (ret)
		errx(1, "ring: %s", strerror(-ret));
	for (i = 0; i < 3; i++) {
		measure(argv[1], true, i);
		measure(argv[1], false, i);
	}
	return 0;
}
