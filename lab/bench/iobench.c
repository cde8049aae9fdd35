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
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/udmabuf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define DRIVE	"/dev/nvme0n1"

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
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		die("mmap", errno);
	/* 4 KiB pages everywhere, whatever the kernel would choose */
	madvise(p, len, MADV_NOHUGEPAGE);
	memset(p, byte, len);
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

/*
 * The median of all rounds: when the drive completes a request depends on the
 * host, and with it whether the process has gone to sleep by then.
 */
static void bench_read(const char *name, bool dmabuf, unsigned int depth,
		       size_t len, unsigned int rounds)
{
	struct iovec iov = { NULL, depth * len };
	int fd = open(DRIVE, O_RDONLY | O_DIRECT), buf = -1, ret;
	double *spent = calloc(rounds, sizeof(*spent));
	struct io_uring ring;
	unsigned int seed = 1;

	if (fd < 0)
		die(DRIVE, errno);
	if (!spent)
		die("calloc", ENOMEM);
	ring_init(&ring, depth, IORING_SETUP_SINGLE_ISSUER |
				IORING_SETUP_DEFER_TASKRUN);
	if (dmabuf) {
		buf = udmabuf_create(depth * len);
		if (!register_dmabuf(&ring, buf, fd))
			goto out;
	} else {
		iov.iov_base = alloc_pages(depth * len, 0);
		ret = io_uring_register_buffers(&ring, &iov, 1);
		if (ret)
			die("io_uring_register_buffers", ret);
	}
	for (unsigned int r = 0; r < 2 * rounds; r++) {
		double start = now();

		for (unsigned int i = 0; i < depth; i++) {
			struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
			uint64_t off = rand_r(&seed) % ((64U << 20) / len) * len;

			io_uring_prep_read_fixed(sqe, fd,
						 (char *)iov.iov_base + i * len,
						 len, off, 0);
		}
		submit(&ring, depth);
		reap(&ring, depth, len);
		spent[r % rounds] = now() - start;
	}
	qsort(spent, rounds, sizeof(*spent), compare_doubles);
	printf("%s.depth%u %.1f\n", name, depth, spent[rounds / 2] / depth);
out:
	free(spent);
	io_uring_queue_exit(&ring);
	if (iov.iov_base)
		munmap(iov.iov_base, iov.iov_len);
	if (buf >= 0)
		close(buf);
	close(fd);
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
		{ "128k", 131072, 16 }, { "512k", 524288, 4 },
	};
	char name[32];

	for (unsigned int i = 0; i < sizeof(reads) / sizeof(reads[0]); i++) {
		for (int dmabuf = 0; dmabuf < 2; dmabuf++) {
			snprintf(name, sizeof(name), "%s.%s",
				 dmabuf ? "dmabuf" : "memory", reads[i].name);
			bench_read(name, dmabuf, reads[i].depth, reads[i].len,
				   16384 / reads[i].depth / (1 + i));
		}
	}
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

/* SEND of 1 KiB by the ring, read by plain recv(). */
static void bench_send(void)
{
	const unsigned int rounds = 2048;
	static char buf[1024];
	struct io_uring ring;
	double start = 0;
	int fds[2];

	tcp_pair(fds);
	ring_init(&ring, 8, IORING_SETUP_SINGLE_ISSUER |
			    IORING_SETUP_DEFER_TASKRUN);
	for (unsigned int r = 0; r < 2 * rounds; r++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

		if (r == rounds)
			start = now();
		io_uring_prep_send(sqe, fds[0], buf, sizeof(buf), 0);
		submit(&ring, 1);
		reap(&ring, 1, sizeof(buf));
		if (recv(fds[1], buf, sizeof(buf), MSG_WAITALL) != sizeof(buf))
			die("recv", errno);
	}
	printf("send.1k %.1f\n", (now() - start) / rounds);
	io_uring_queue_exit(&ring);
	close(fds[0]);
	close(fds[1]);
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
	if (argc > 1 && !strcmp(argv[1], "dmabuf")) {
		bench_dmabuf();
		return 0;
	}
	for (size_t i = 0; i < MAX_COPY; i++)
		src[i] = i * 7 + (i >> 12);

	bench_batch("nop", 1, false);
	bench_batch("nop", 32, false);
	bench_read("read_fixed.4k", false, 1, 4096, 4096);
	bench_read("read_fixed.4k", false, 64, 4096, 256);
	bench_send();
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
