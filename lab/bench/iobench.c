// SPDX-License-Identifier: GPL-2.0
/*
 * The program that `make bench` runs inside: one line "name value" per figure.
 *
 * Figures are CPU time of the process in nanoseconds per operation. The machine
 * counts one instruction as one nanosecond (-icount shift=0), so they are
 * instructions, of user space, kernel, io-wq workers and SQ thread together.
 * Figures named *.enters are calls of io_uring_enter(2).
 *
 * What the kernel at hand doesn't support is left out. Anything else that goes
 * wrong ends the program.
 *
 *	iobench			the memory operations, and what must not change
 *	iobench counts		reads into memory and into dma-bufs, by size, and
 *				marks for lab/bench/calls.c: a line "mark NAME
 *				OPERATIONS" for each second mark
 *	iobench cost		of registering and of moving a dma-buf
 *	iobench read4k FD	reads of 4 KiB into memory, a udmabuf, and dma-buf FD
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/udmabuf.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../lib/test_dmabuf_uapi.h"

#define DRIVE	"/dev/nvme0n1"
/* of the drive that is read */
#define RANGE	(64U << 20)

static const struct {
	const char *name;
	unsigned int flags;
} rings[] = {
	{ "default", 0 },
	{ "coop", IORING_SETUP_COOP_TASKRUN },
	{ "defer", IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN },
	{ "sqpoll", IORING_SETUP_SQPOLL },
};

static void die(const char *what, int err)
{
	fprintf(stderr, "iobench: %s: %s\n", what, strerror(err < 0 ? -err : err));
	exit(1);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return ts.tv_sec * 1e9 + ts.tv_nsec;
}

static void ring_init(struct io_uring *ring, unsigned int entries,
		      unsigned int flags)
{
	int ret = io_uring_queue_init(entries, ring, flags);

	if (ret)
		die("io_uring_queue_init", ret);
}

static void *alloc_pages(size_t len, int byte)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap", errno);
	/* 4 KiB pages everywhere, whatever the kernel would choose; before the first access */
	madvise(p, len, MADV_NOHUGEPAGE);
	memset(p, byte, len);
	return p;
}

/*
 * Pages of which no two neighbours are contiguous in physical memory: whether they
 * happen to be so is luck of the boot, and decides how many segments a read has.
 */
static void *alloc_scattered(size_t len)
{
	const size_t stride = 7919, nr = len / 4096;
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap", errno);
	madvise(p, len, MADV_NOHUGEPAGE);
	/* the stride is prime, so that it visits each page */
	for (size_t i = 0; i < nr; i++)
		p[i * stride % nr * 4096] = 0;
	return p;
}

static bool has_memcpy(void)
{
	struct io_uring_probe *probe = io_uring_get_probe();
	bool ret;

	if (!probe)
		die("io_uring_get_probe", ENOMEM);
	ret = io_uring_opcode_supported(probe, IORING_OP_MEMCPY);
	io_uring_free_probe(probe);
	return ret;
}

/* Wait for @nr CQEs that all have to be @res. */
static void reap(struct io_uring *ring, unsigned int nr, int res)
{
	struct io_uring_cqe *cqe;

	while (nr--) {
		int ret = io_uring_wait_cqe(ring, &cqe);

		if (ret)
			die("io_uring_wait_cqe", ret);
		if (cqe->res != res) {
			fprintf(stderr, "iobench: result %d, not %d\n",
				cqe->res, res);
			exit(1);
		}
		io_uring_cqe_seen(ring, cqe);
	}
}

static void submit(struct io_uring *ring, unsigned int nr)
{
	int ret = io_uring_submit_and_wait(ring, nr);

	if (ret != (int)nr)
		die("io_uring_submit_and_wait", ret);
}

static uint64_t word __attribute__((aligned(64)));

/* NOP and MEMCPY_IMMEDIATE, @batch at a time. */
static void bench_batch(const char *name, unsigned int batch, bool imm)
{
	const unsigned int rounds = 4096 / batch;
	struct io_uring ring;
	double start = 0;

	ring_init(&ring, 64, IORING_SETUP_SINGLE_ISSUER |
			     IORING_SETUP_DEFER_TASKRUN);
	/* the first rounds fill the caches of the ring */
	for (unsigned int r = 0; r < 2 * rounds; r++) {
		if (r == rounds)
			start = now();
		for (unsigned int i = 0; i < batch; i++) {
			struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

			if (imm)
				io_uring_prep_memcpy_imm(sqe, &word, r, 8);
			else
				io_uring_prep_nop(sqe);
		}
		submit(&ring, batch);
		reap(&ring, batch, imm ? 8 : 0);
	}
	printf("%s.batch%u %.1f\n", name, batch,
	       (now() - start) / (rounds * batch));
	io_uring_queue_exit(&ring);
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Memory that a dma-buf is made of, in pages of 4 KiB wherever they happen to lie. */
static int udmabuf_create(size_t len)
{
	struct udmabuf_create create = { .flags = UDMABUF_FLAGS_CLOEXEC };
	int fd = open("/dev/udmabuf", O_RDWR), buf;

	create.memfd = memfd_create("iobench", MFD_ALLOW_SEALING);
	create.size = len;
	if (fd < 0 || (int)create.memfd < 0 || ftruncate(create.memfd, len) ||
	    fcntl(create.memfd, F_ADD_SEALS, F_SEAL_SHRINK))
		die("udmabuf", errno);
	buf = ioctl(fd, UDMABUF_CREATE, &create);
	if (buf < 0)
		die("UDMABUF_CREATE", errno);
	close(create.memfd);
	close(fd);
	return buf;
}

/* Returns false if the kernel has no such descriptors. */
static bool register_dmabuf(struct io_uring *ring, int buf, int file)
{
	struct io_uring_regbuf_desc desc = {
		.type = IO_REGBUF_TYPE_DMABUF,
		.dmabuf_fd = buf,
		.target_fd = file,
	};
	struct io_uring_rsrc_update2 up = {
		.flags = IORING_RSRC_UPDATE_EXTENDED,
		.data = (uintptr_t)&desc,
		.nr = 1,
	};
	int ret = io_uring_register_buffers_sparse(ring, 1);

	if (ret)
		die("io_uring_register_buffers_sparse", ret);
	ret = io_uring_register(ring->ring_fd, IORING_REGISTER_BUFFERS_UPDATE,
				&up, sizeof(up));
	if (ret == -EINVAL)
		return false;
	if (ret != 1)
		die("registration of a dma-buf", ret);
	return true;
}

/* Whether lab/bench/calls.c counts: getsid() is what it looks for. */
static bool counting;

static void mark(void)
{
	if (counting)
		getsid(0);
}

enum memory { MEMORY, UDMABUF, HANDED_DOWN };

/* A ring with a buffer of one kind, and the drive. */
struct reader {
	struct io_uring ring;
	struct iovec iov;	/* of ordinary memory */
	int fd;
	int buf;		/* the dma-buf */
};

static void reader_exit(struct reader *r)
{
	io_uring_queue_exit(&r->ring);
	if (r->iov.iov_base)
		munmap(r->iov.iov_base, r->iov.iov_len);
	if (r->buf >= 0)
		close(r->buf);
	close(r->fd);
}

/* Returns false if the kernel has no such buffers. */
static bool reader_init(struct reader *r, enum memory memory, int buf,
			unsigned int depth, size_t len)
{
	int ret;

	memset(r, 0, sizeof(*r));
	r->buf = -1;
	r->fd = open(DRIVE, O_RDONLY | O_DIRECT);
	if (r->fd < 0)
		die(DRIVE, errno);
	ring_init(&r->ring, depth, IORING_SETUP_SINGLE_ISSUER |
				   IORING_SETUP_DEFER_TASKRUN);
	if (memory == MEMORY) {
		r->iov.iov_len = depth * len;
		r->iov.iov_base = alloc_scattered(depth * len);
		ret = io_uring_register_buffers(&r->ring, &r->iov, 1);
		if (ret)
			die("io_uring_register_buffers", ret);
		return true;
	}
	r->buf = memory == UDMABUF ? udmabuf_create(depth * len) : dup(buf);
	if (register_dmabuf(&r->ring, r->buf, r->fd))
		return true;
	reader_exit(r);
	return false;
}

static void reader_read(struct reader *r, unsigned int depth, size_t len,
			unsigned int *seed)
{
	for (unsigned int i = 0; i < depth; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
		uint64_t off = rand_r(seed) % (RANGE / len) * len;

		io_uring_prep_read_fixed(sqe, r->fd,
					 (char *)r->iov.iov_base + i * len, len,
					 off, 0);
	}
	submit(&r->ring, depth);
	reap(&r->ring, depth, len);
}

/*
 * The median of all rounds: when the drive completes a request depends on the
 * host, and with it whether the process has gone to sleep by then.
 */
static void bench_read(const char *name, enum memory memory, int buf,
		       unsigned int depth, size_t len, unsigned int rounds)
{
	double *spent = calloc(rounds, sizeof(*spent));
	unsigned int seed = 1;
	struct reader reader;

	if (!spent)
		die("calloc", ENOMEM);
	if (!reader_init(&reader, memory, buf, depth, len)) {
		free(spent);
		return;
	}
	for (unsigned int r = 0; r < 2 * rounds; r++) {
		double start = now();

		if (r == rounds)
			mark();
		reader_read(&reader, depth, len, &seed);
		spent[r % rounds] = now() - start;
	}
	mark();
	if (counting)
		printf("mark %s.depth%u %u\n", name, depth, rounds * depth);
	qsort(spent, rounds, sizeof(*spent), compare_doubles);
	printf("%s.depth%u %.1f\n", name, depth, spent[rounds / 2] / depth);
	free(spent);
	reader_exit(&reader);
}

/* What the drive is read into: ordinary registered memory, or a dma-buf. */
static void bench_dmabuf(void)
{
	static const struct {
		const char *name;
		size_t len;
		unsigned int depth;
	} reads[] = {
		{ "4k", 4096, 64 }, { "16k", 16384, 64 }, { "64k", 65536, 16 },
		{ "128k", 131072, 16 }, { "256k", 262144, 16 },
		{ "512k", 524288, 16 }, { "1m", 1 << 20, 2 }, { "8m", 8 << 20, 1 },
	};
	char name[32];

	for (unsigned int i = 0; i < sizeof(reads) / sizeof(reads[0]); i++) {
		size_t len = reads[i].len;
		unsigned int nr = len < (256 << 10) ? 1024 : (1U << 27) / len;

		for (int memory = MEMORY; memory <= UDMABUF; memory++) {
			snprintf(name, sizeof(name), "%s.%s",
				 memory == MEMORY ? "memory" : "dmabuf",
				 reads[i].name);
			bench_read(name, memory, -1, reads[i].depth, len,
				   nr / reads[i].depth);
		}
	}
}

/* ---------------------------------------------------------------- moves */

/* A dma-buf of lib/test_dmabuf.c in segments of so many pages. */
static int test_dmabuf_create(int dev, size_t len, unsigned int pages)
{
	struct test_dmabuf_create create = {
		.size = len, .nr_segs = 1, .segs = { pages },
	};

	if (ioctl(dev, TEST_DMABUF_CREATE, &create))
		die("TEST_DMABUF_CREATE", errno);
	return create.fd;
}

/* What the kernel has allocated on account of this process, in bytes. */
static double accounted(void)
{
	char line[128];
	double val = 0;
	FILE *f;

	f = fopen("/run/cgroup/bench/memory.stat", "r");
	if (!f)
		die("memory.stat", errno);
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, "kernel ", 7))
			val = strtod(line + 7, NULL);
	fclose(f);
	return val;
}

static void put(const char *path, const char *val)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, val, strlen(val)) < 0)
		die(path, errno);
	close(fd);
}

static void account(void)
{
	char pid[16];

	mkdir("/run/cgroup", 0755);
	if (mount("cgroup2", "/run/cgroup", "cgroup2", 0, NULL))
		die("cgroup2", errno);
	put("/run/cgroup/cgroup.subtree_control", "+memory");
	if (mkdir("/run/cgroup/bench", 0755))
		die("/run/cgroup/bench", errno);
	snprintf(pid, sizeof(pid), "%d", getpid());
	put("/run/cgroup/bench/cgroup.procs", pid);
}

/* Registration and its end, per GiB: CPU time, and bytes of tables. */
static void bench_registration(int dev)
{
	static const struct {
		const char *name;
		unsigned int pages;
	} layouts[] = {
		/* a udmabuf is a single segment behind an IOMMU */
		{ "4k", 1 }, { "2m", 512 }, { "udmabuf", 0 },
	};
	const double per_gib = (double)(1 << 30) / TEST_DMABUF_MAX_SIZE;

	for (unsigned int i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++) {
		int buf = layouts[i].pages ?
			  test_dmabuf_create(dev, TEST_DMABUF_MAX_SIZE,
					     layouts[i].pages) :
			  udmabuf_create(TEST_DMABUF_MAX_SIZE);
		int fd = open(DRIVE, O_RDONLY | O_DIRECT);
		double start, mid, end, before, after;
		struct io_uring rings[4];

		if (fd < 0)
			die(DRIVE, errno);
		/* several, for memory is accounted in batches */
		for (int r = 0; r < 4; r++)
			ring_init(&rings[r], 8, IORING_SETUP_SINGLE_ISSUER |
						IORING_SETUP_DEFER_TASKRUN);
		before = accounted();
		start = now();
		for (int r = 0; r < 4; r++)
			register_dmabuf(&rings[r], buf, fd);
		mid = now();
		after = accounted();
		for (int r = 0; r < 4; r++)
			io_uring_unregister_buffers(&rings[r]);
		end = now();
		for (int r = 0; r < 4; r++)
			io_uring_queue_exit(&rings[r]);
		printf("register.%s %.0f\n", layouts[i].name,
		       (mid - start) / 4 * per_gib);
		printf("unregister.%s %.0f\n", layouts[i].name,
		       (end - mid) / 4 * per_gib);
		printf("tables.%s %.0f\n", layouts[i].name,
		       (after - before) / 4 * per_gib);
		close(fd);
		close(buf);
	}
}

static void percentiles(const char *name, double *ns, unsigned int nr)
{
	qsort(ns, nr, sizeof(*ns), compare_doubles);
	printf("%s.p50 %.1f\n", name, ns[nr / 2] / 1000);
	printf("%s.p99 %.1f\n", name, ns[nr * 99 / 100] / 1000);
}

static double move(int dev, int buf, unsigned long how)
{
	struct test_dmabuf_move arg = { .fd = buf };

	if (ioctl(dev, how, &arg))
		die("moving a dma-buf", errno);
	return arg.lock_ns + arg.invalidate_ns;
}

#define MOVES	200

/* How long an exporter waits until nothing uses the memory: idle, and under load. */
static void bench_moves(int dev)
{
	const unsigned int depth = 32;
	const size_t len = 131072;
	unsigned int seed = 1;
	struct reader reader;
	double ns[MOVES];
	int buf, status;
	pid_t pid;

	buf = test_dmabuf_create(dev, depth * len, 1);
	reader_init(&reader, HANDED_DOWN, buf, depth, len);
	for (unsigned int i = 0; i < MOVES; i++) {
		/* it is mapped when it is used */
		reader_read(&reader, 1, len, &seed);
		ns[i] = move(dev, buf, TEST_DMABUF_MOVE);
	}
	percentiles("move.idle", ns, MOVES);
	reader_exit(&reader);

	pid = fork();
	if (!pid) {
		reader_init(&reader, HANDED_DOWN, buf, depth, len);
		for (;;)
			reader_read(&reader, depth, len, &seed);
	}
	usleep(100000);
	for (unsigned int i = 0; i < MOVES; i++) {
		ns[i] = move(dev, buf, TEST_DMABUF_MOVE);
		usleep(2000);
	}
	percentiles("move.load", ns, MOVES);

	/* with requests whose owner doesn't look after them any more */
	kill(pid, SIGSTOP);
	waitpid(pid, &status, WUNTRACED);
	ns[0] = move(dev, buf, TEST_DMABUF_REVOKE);
	percentiles("revoke.stopped", ns, 1);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	close(buf);
}

static void bench_cost(void)
{
	int dev = open("/dev/test_dmabuf", O_RDWR);

	if (dev < 0)
		die("/dev/test_dmabuf", errno);
	account();
	bench_registration(dev);
	bench_moves(dev);
	close(dev);
}

/* The table of the demo. */
static void bench_read4k(int buf)
{
	const unsigned int depth = 64, rounds = 64;

	bench_read("memory.4k", MEMORY, -1, depth, 4096, rounds);
	bench_read("udmabuf.4k", UDMABUF, -1, depth, 4096, rounds);
	bench_read("bar.4k", HANDED_DOWN, buf, depth, 4096, rounds);
}

static void tcp_pair(int fds[2])
{
	struct sockaddr_in sa = { .sin_family = AF_INET };
	socklen_t len = sizeof(sa);
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fds[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (listener < 0 || fds[0] < 0 ||
	    bind(listener, (struct sockaddr *)&sa, sizeof(sa)) ||
	    listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&sa, &len) ||
	    connect(fds[0], (struct sockaddr *)&sa, sizeof(sa)))
		die("loopback", errno);
	fds[1] = accept(listener, NULL, NULL);
	if (fds[1] < 0)
		die("accept", errno);
	close(listener);
}

/* A ring, and a connection between the two of @fds. */
static void tcp_init(struct io_uring *ring, int fds[2])
{
	tcp_pair(fds);
	ring_init(ring, 8, IORING_SETUP_SINGLE_ISSUER |
			   IORING_SETUP_DEFER_TASKRUN);
}

static void tcp_exit(struct io_uring *ring, int fds[2])
{
	io_uring_queue_exit(ring);
	close(fds[0]);
	close(fds[1]);
}

/* SEND or SEND_ZC of 1 KiB by the ring, read by plain recv(). */
static void bench_send(const char *name, bool zc)
{
	const unsigned int rounds = 2048;
	static char buf[1024];
	struct io_uring ring;
	double start = 0;
	int fds[2];

	tcp_init(&ring, fds);
	for (unsigned int r = 0; r < 2 * rounds; r++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

		if (r == rounds)
			start = now();
		if (zc)
			io_uring_prep_send_zc(sqe, fds[0], buf, sizeof(buf), 0, 0);
		else
			io_uring_prep_send(sqe, fds[0], buf, sizeof(buf), 0);
		submit(&ring, 1);
		reap(&ring, 1, sizeof(buf));
		if (recv(fds[1], buf, sizeof(buf), MSG_WAITALL) != sizeof(buf))
			die("recv", errno);
		/* the notification */
		if (zc)
			reap(&ring, 1, 0);
	}
	printf("%s %.1f\n", name, (now() - start) / rounds);
	tcp_exit(&ring, fds);
}

/* A command that is done at once: how much a socket has to read. */
static void bench_cmd(void)
{
	const unsigned int rounds = 2048;
	struct io_uring ring;
	double start = 0;
	int fds[2];

	tcp_init(&ring, fds);
	for (unsigned int r = 0; r < 2 * rounds; r++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

		if (r == rounds)
			start = now();
		io_uring_prep_cmd_sock(sqe, SOCKET_URING_OP_SIOCINQ, fds[1], 0, 0, NULL, 0);
		submit(&ring, 1);
		reap(&ring, 1, 0);
	}
	printf("uring_cmd %.1f\n", (now() - start) / rounds);
	tcp_exit(&ring, fds);
}

enum { HOP_NONE, HOP_NOP, HOP_IMM };

/*
 * A READ that waits for a pipe, alone or with a successor linked to it. Counts
 * how often the application has to enter the kernel for the CQEs, not waiting
 * for any, after what the READ waits for has happened.
 */
static void bench_hop(unsigned int type, const char *name, int hop)
{
	const unsigned int rounds = 512;
	unsigned int nr = hop == HOP_NONE ? 1 : 2, enters = 0;
	struct io_uring ring;
	double start = 0, ns;
	char byte = 0;
	int fds[2];

	if (pipe(fds))
		die("pipe", errno);
	ring_init(&ring, 8, rings[type].flags);
	for (unsigned int r = 0; r < 2 * rounds; r++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

		if (r == rounds) {
			start = now();
			enters = 0;
		}
		io_uring_prep_read(sqe, fds[0], &byte, 1, 0);
		if (hop != HOP_NONE) {
			sqe->flags |= IOSQE_IO_LINK;
			sqe = io_uring_get_sqe(&ring);
			if (hop == HOP_NOP)
				io_uring_prep_nop(sqe);
			else
				io_uring_prep_memcpy_imm(sqe, &word, r, 8);
		}
		if (io_uring_submit(&ring) < 0)
			die("io_uring_submit", errno);
		if (write(fds[1], &byte, 1) != 1)
			die("write", errno);
		while (io_uring_cq_ready(&ring) < nr) {
			if (ring.flags & IORING_SETUP_SQPOLL) {
				usleep(100);
				continue;
			}
			io_uring_get_events(&ring);
			enters++;
		}
		io_uring_cq_advance(&ring, nr);
	}
	ns = now() - start;
	printf("%s.%s %.1f\n", name, rings[type].name, ns / rounds);
	/* the SQ thread spins, what it costs depends on the clock */
	printf("%s.%s.enters %.2f\n", name, rings[type].name,
	       (double)enters / rounds);
	io_uring_queue_exit(&ring);
	close(fds[0]);
	close(fds[1]);
}

static const struct {
	const char *name;
	size_t len;
} sizes[] = {
	{ "64", 64 }, { "4k", 4096 }, { "64k", 65536 }, { "1m", 1 << 20 },
};

#define MAX_COPY	(1 << 20)

static unsigned int copy_rounds(size_t len)
{
	return len >= 65536 ? 64 : 512;
}

static void bench_memcpy_user(char *dst, const char *src)
{
	for (unsigned int s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		unsigned int rounds = copy_rounds(sizes[s].len);
		double start = 0;

		for (unsigned int r = 0; r < 2 * rounds; r++) {
			if (r == rounds)
				start = now();
			memcpy(dst, src, sizes[s].len);
			/* don't let the compiler drop a copy nobody reads */
			__asm__ __volatile__("" : : "r"(dst) : "memory");
		}
		printf("memcpy.%s %.1f\n", sizes[s].name,
		       (now() - start) / rounds);

		for (unsigned int r = 0; r < 2 * rounds; r++) {
			void *d = dst;
			const void *f = src;
			size_t words = sizes[s].len / 8;

			if (r == rounds)
				start = now();
			__asm__ __volatile__("rep movsq" : "+D"(d), "+S"(f),
					     "+c"(words) : : "memory");
		}
		printf("movsq.%s %.1f\n", sizes[s].name,
		       (now() - start) / rounds);
	}
}

static void bench_copy(char *dst, char *src)
{
	static const char * const pairs[] = {
		"user-user", "fixed-user", "user-fixed", "fixed-fixed",
	};
	struct iovec iov[2] = { { src, MAX_COPY }, { dst, MAX_COPY } };
	struct io_uring ring;
	int ret;

	ring_init(&ring, 8, IORING_SETUP_SINGLE_ISSUER |
			    IORING_SETUP_DEFER_TASKRUN);
	ret = io_uring_register_buffers(&ring, iov, 2);
	if (ret)
		die("io_uring_register_buffers", ret);
	for (unsigned int p = 0; p < 4; p++) {
		for (unsigned int s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
			unsigned int rounds = copy_rounds(sizes[s].len);
			double start = 0;

			memset(dst, 0xee, MAX_COPY);
			for (unsigned int r = 0; r < 2 * rounds; r++) {
				struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

				if (r == rounds)
					start = now();
				io_uring_prep_memcpy_fixed(sqe, dst, p & 2 ? 1 : -1,
							   src, p & 1 ? 0 : -1,
							   sizes[s].len, 0);
				submit(&ring, 1);
				reap(&ring, 1, sizes[s].len);
			}
			printf("copy.%s.%s %.1f\n", pairs[p], sizes[s].name,
			       (now() - start) / rounds);
			if (memcmp(dst, src, sizes[s].len))
				die("content of a copy", EIO);
		}
	}
	io_uring_queue_exit(&ring);
}

int main(int argc, char **argv)
{
	bool memcpy_ops = has_memcpy();
	char *src = alloc_pages(MAX_COPY, 0x5a), *dst = alloc_pages(MAX_COPY, 0);

	setlinebuf(stdout);
	if (argc > 1) {
		counting = !strcmp(argv[1], "counts");
		if (counting)
			bench_dmabuf();
		else if (!strcmp(argv[1], "cost"))
			bench_cost();
		else if (!strcmp(argv[1], "read4k") && argc == 3)
			bench_read4k(atoi(argv[2]));
		else
			die(argv[1], EINVAL);
		return 0;
	}
	for (size_t i = 0; i < MAX_COPY; i++)
		src[i] = i * 7 + (i >> 12);

	bench_batch("nop", 1, false);
	bench_batch("nop", 32, false);
	bench_read("read_fixed.4k", MEMORY, -1, 1, 4096, 4096);
	bench_send("send.1k", false);
	bench_send("send_zc.1k", true);
	bench_cmd();
	if (memcpy_ops) {
		bench_batch("imm", 1, true);
		bench_batch("imm", 32, true);
	}
	for (unsigned int t = 0; t < sizeof(rings) / sizeof(rings[0]); t++) {
		bench_hop(t, "read", HOP_NONE);
		bench_hop(t, "read-nop", HOP_NOP);
		if (memcpy_ops)
			bench_hop(t, "read-imm", HOP_IMM);
	}
	bench_memcpy_user(dst, src);
	if (memcpy_ops)
		bench_copy(dst, src);
	return 0;
}
