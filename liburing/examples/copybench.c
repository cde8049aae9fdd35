/* SPDX-License-Identifier: MIT */
/*
 * Copies memory with IORING_OP_MEMCPY between user memory and registered
 * buffers, in all four pairings and for several sizes, and compares that to
 * memcpy(). A checksum proves for each figure that the data arrived.
 */
#include <errno.h>
#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "liburing.h"

#define MAX_SIZES	32
#define MAX_SIZE	(1UL << 30)
#define MAX_BATCH	1024
/* bytes to copy in a run, if the number of copies isn't given */
#define BYTES		(32UL << 20)
#define RUNS		3
#define MIN_ITERS	8UL
#define MAX_ITERS	10000UL
#define EXIT_NO_SUPPORT	77

enum { DST, SRC, NR_BUFS };

static unsigned long sizes[MAX_SIZES] = { 64, 4096, 65536, 1048576 };
static unsigned int nr_sizes = 4;
static unsigned long iters;
static unsigned long batch = 1;
static bool verify, machine;

/* the first pairing isn't a request, but the plain memcpy() */
static const struct {
	const char *dst, *src;
	int dst_index, src_index;
} pairs[] = {
	{ "memcpy", "memcpy", 0, 0 },
	{ "user", "user", -1, -1 },
	{ "registered", "user", DST, -1 },
	{ "user", "registered", -1, SRC },
	{ "registered", "registered", DST, SRC },
};

#define ARRAY_SIZE(x)	(sizeof(x) / sizeof((x)[0]))

struct figure {
	double ns;		/* elapsed time per copy */
	double cpu_ns;		/* CPU time per copy, workers included */
};

static unsigned char *dst, *src;
static struct io_uring ring;

static uint64_t clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static void die(const char *what, int err)
{
	fprintf(stderr, "copybench: %s: %s\n", what, strerror(err));
	exit(1);
}

/* FNV-1a: any byte that is wrong, or that is at the wrong place, shows up */
static uint64_t checksum(const unsigned char *p, size_t len)
{
	uint64_t sum = 0xcbf29ce484222325ULL;

	while (len--) {
		sum ^= *p++;
		sum *= 0x100000001b3ULL;
	}
	return sum;
}

/* a different pattern for each seed, without a period */
static void fill(unsigned char *p, size_t len, uint64_t seed)
{
	size_t i;

	for (i = 0; i < len; i++) {
		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		p[i] = seed >> 56;
	}
}

static void copy_cpu(unsigned long len, unsigned long nr)
{
	while (nr--) {
		memcpy(dst, src, len);
		/* the compiler may not leave out all but the last one */
		__asm__ volatile("" : : "r" (dst) : "memory");
	}
}

static void copy_ring(unsigned int pair, unsigned long len, unsigned long nr)
{
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	unsigned long i, now;
	unsigned int head;
	int ret;

	while (nr) {
		now = nr < batch ? nr : batch;
		for (i = 0; i < now; i++) {
			sqe = io_uring_get_sqe(&ring);
			io_uring_prep_memcpy_fixed(sqe, dst,
					pairs[pair].dst_index, src,
					pairs[pair].src_index, len, 0);
		}
		ret = io_uring_submit_and_wait(&ring, now);
		if (ret != (int) now)
			die("submit", ret < 0 ? -ret : EIO);

		i = 0;
		io_uring_for_each_cqe(&ring, head, cqe) {
			if (cqe->res < 0)
				die("MEMCPY", -cqe->res);
			if (cqe->res != (int) len) {
				fprintf(stderr, "copybench: %d of %lu bytes\n",
					cqe->res, len);
				exit(1);
			}
			i++;
		}
		io_uring_cq_advance(&ring, i);
		if (i != now) {
			fprintf(stderr, "copybench: %lu of %lu completions\n",
				i, now);
			exit(1);
		}
		nr -= now;
	}
}

static void copy(unsigned int pair, unsigned long len, unsigned long nr)
{
	if (pair)
		copy_ring(pair, len, nr);
	else
		copy_cpu(len, nr);
}

static void measure(unsigned int pair, unsigned long len, unsigned long nr,
		    struct figure *f)
{
	uint64_t ns, cpu_ns;

	unsigned int i;

	/* fault in, and warm up */
	copy(pair, len, 2);

	cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	for (i = 0; i < RUNS; i++) {
		ns = clock_ns(CLOCK_MONOTONIC);
		copy(pair, len, nr);
		ns = clock_ns(CLOCK_MONOTONIC) - ns;

		/* whatever disturbs a run only makes it slower */
		if (!i || (double) ns / nr < f->ns)
			f->ns = (double) ns / nr;
	}
	/* of all runs, some kernels count in ticks */
	cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;
	f->cpu_ns = (double) cpu_ns / (nr * RUNS);
}

/* each copy on its own, into memory that holds something else before */
static unsigned long check_each(unsigned int pair, unsigned long len,
				unsigned long nr)
{
	unsigned long bad = 0, i;

	for (i = 0; i < nr; i++) {
		fill(src, len, i + 1);
		memset(dst, ~i, len);
		copy(pair, len, 1);
		bad += checksum(dst, len) != checksum(src, len);
	}
	return bad;
}

static unsigned long nr_iters(unsigned long len)
{
	unsigned long nr = iters;

	if (!nr) {
		nr = BYTES / len;
		if (nr < MIN_ITERS)
			nr = MIN_ITERS;
		if (nr > MAX_ITERS)
			nr = MAX_ITERS;
	}
	return nr;
}

static int one_size(unsigned long len)
{
	unsigned long nr = nr_iters(len), bad;
	struct figure plain = { }, f = { };
	unsigned int i;
	uint64_t sum;
	int ret = 0;

	for (i = 0; i < ARRAY_SIZE(pairs); i++) {
		fill(src, len, len + i);
		memset(dst, 0, len);
		measure(i, len, nr, &f);
		if (!i)
			plain = f;

		sum = checksum(dst, len);
		bad = sum != checksum(src, len);
		if (verify)
			bad += check_each(i, len, nr < 64 ? nr : 64);
		if (bad)
			ret = 1;

		if (machine) {
			printf("copybench size=%lu src=%s dst=%s iters=%lu batch=%lu ns=%.1f cpu_ns=%.1f checksum=%016llx bad=%lu\n",
			       len, pairs[i].src, pairs[i].dst, nr, batch,
			       f.ns, f.cpu_ns, (unsigned long long) sum, bad);
		} else if (!i) {
			printf("%10lu  %-25s %10.1f %9s %10.1f  %016llx %s\n",
			       len, "memcpy()", f.ns, "1.00", f.cpu_ns,
			       (unsigned long long) sum, bad ? "BAD" : "ok");
		} else {
			printf("%10s  %-10s -> %-11s %10.1f %9.2f %10.1f  %016llx %s\n",
			       "", pairs[i].src, pairs[i].dst, f.ns,
			       f.ns / plain.ns, f.cpu_ns, (unsigned long long) sum,
			       bad ? "BAD" : "ok");
		}
		fflush(stdout);
	}
	return ret;
}

static void setup(void)
{
	unsigned long max = 0;
	struct iovec iov[NR_BUFS];
	unsigned int i;
	int ret;

	for (i = 0; i < nr_sizes; i++) {
		if (sizes[i] > max)
			max = sizes[i];
	}
	dst = mmap(NULL, max, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	src = mmap(NULL, max, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (dst == MAP_FAILED || src == MAP_FAILED)
		die("mmap", errno);

	ret = io_uring_queue_init(batch, &ring, IORING_SETUP_SINGLE_ISSUER |
						IORING_SETUP_DEFER_TASKRUN);
	if (ret)
		die("io_uring_queue_init", -ret);

	iov[DST].iov_base = dst;
	iov[DST].iov_len = max;
	iov[SRC].iov_base = src;
	iov[SRC].iov_len = max;
	ret = io_uring_register_buffers(&ring, iov, NR_BUFS);
	if (ret == -ENOMEM)
		fprintf(stderr, "copybench: ulimit -l has to cover twice the largest size\n");
	if (ret)
		die("io_uring_register_buffers", -ret);
}

static bool supported(void)
{
	struct io_uring_probe *probe = io_uring_get_probe();
	bool ret;

	if (!probe)
		return false;
	ret = io_uring_opcode_supported(probe, IORING_OP_MEMCPY);
	io_uring_free_probe(probe);
	return ret;
}

/* a number with an optional k, m or g, 0 if it's none */
static unsigned long parse_size(const char *s, char **end)
{
	unsigned long val = strtoul(s, end, 0);
	unsigned int shift = 0;

	if (*end == s)
		return 0;
	switch (**end) {
	case 'g': case 'G':
		shift += 10;
		/* fall through */
	case 'm': case 'M':
		shift += 10;
		/* fall through */
	case 'k': case 'K':
		shift += 10;
		(*end)++;
	}
	if (val > MAX_SIZE >> shift)
		return 0;
	return val << shift;
}

static bool parse_sizes(const char *s)
{
	char *end;

	for (nr_sizes = 0; nr_sizes < MAX_SIZES; s = end + 1) {
		sizes[nr_sizes] = parse_size(s, &end);
		if (!sizes[nr_sizes++])
			return false;
		if (!*end)
			return true;
		if (*end != ',')
			return false;
	}
	return false;
}

static bool parse_number(const char *s, unsigned long max, unsigned long *val)
{
	char *end;

	*val = parse_size(s, &end);
	return !*end && *val && *val <= max;
}

static void usage(FILE *f)
{
	fprintf(f,
"usage: copybench [-s size,...] [-n copies] [-b batch] [-v] [-m]\n"
"\n"
"Times IORING_OP_MEMCPY between user memory and registered buffers against\n"
"memcpy(), and checks what was copied.\n"
"\n"
"  -s, --sizes size,...  bytes per copy, with k, m or g (64,4k,64k,1m)\n"
"  -n, --iters copies    copies per run (about 32 MiB, up to %lu copies)\n"
"  -b, --batch nr        requests per io_uring_enter call (1)\n"
"  -v, --verify          also check up to 64 more copies one by one\n"
"  -m, --machine         one line of key=value per figure\n"
"  -h, --help            this text\n"
"\n"
"Exits with 1 if a checksum is wrong, and with %d on a kernel without\n"
"IORING_OP_MEMCPY.\n", MAX_ITERS, EXIT_NO_SUPPORT);
}

int main(int argc, char *argv[])
{
	static const struct option opts[] = {
		{ "sizes", required_argument, NULL, 's' },
		{ "iters", required_argument, NULL, 'n' },
		{ "batch", required_argument, NULL, 'b' },
		{ "verify", no_argument, NULL, 'v' },
		{ "machine", no_argument, NULL, 'm' },
		{ "help", no_argument, NULL, 'h' },
		{ },
	};
	unsigned int i;
	bool ok = true;
	int opt, ret = 0;

	while ((opt = getopt_long(argc, argv, "s:n:b:vmh", opts, NULL)) != -1) {
		switch (opt) {
		case 's':
			ok &= parse_sizes(optarg);
			break;
		case 'n':
			ok &= parse_number(optarg, ~0UL, &iters);
			break;
		case 'b':
			ok &= parse_number(optarg, MAX_BATCH, &batch);
			break;
		case 'v':
			verify = true;
			break;
		case 'm':
			machine = true;
			break;
		case 'h':
			usage(stdout);
			return 0;
		default:
			ok = false;
		}
	}
	if (!ok || optind != argc) {
		usage(stderr);
		return 1;
	}
	if (!supported()) {
		fprintf(stderr, "copybench: this kernel has no IORING_OP_MEMCPY\n");
		return EXIT_NO_SUPPORT;
	}

	setup();
	if (!machine) {
		printf("IORING_OP_MEMCPY, %lu request%s per io_uring_enter\n\n",
		       batch, batch == 1 ? "" : "s");
		printf("%10s  %-25s %10s %9s %10s  %s\n", "bytes",
		       "from -> to", "ns", "x memcpy", "cpu ns",
		       "checksum of the copy");
	}
	for (i = 0; i < nr_sizes; i++)
		ret |= one_size(sizes[i]);
	if (!machine)
		printf("\n"
		       "ns        elapsed time per copy, of the fastest of %d runs\n"
		       "x memcpy  the same as a multiple of memcpy()'s\n"
		       "cpu ns    CPU time per copy, io-wq workers included\n", RUNS);

	io_uring_queue_exit(&ring);
	return ret;
}
