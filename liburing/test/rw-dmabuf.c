/* SPDX-License-Identifier: MIT */
/*
 * Description: test READ_FIXED and WRITE_FIXED with dma-bufs: what arrives and
 *		where, windows, directions, updates, clones, and what bad input
 *		gets
 *
 * Takes a block device, whose first 2 MiB are overwritten. Makes itself a
 * null_blk device otherwise. The memory is from udmabuf.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <linux/dma-buf.h>
#include <linux/fs.h>

#include "liburing.h"
#include "helpers.h"

#define BUF_SIZE	(1024 * 1024)
#define FILE_SIZE	(2 * BUF_SIZE)
#define GUARD		8192
#define POISON		0xa5
#define DEPTH		32
#define TAG		0x7a67
#define CONFIGFS	"/sys/kernel/config/nullb"

/* the whole dma-buf, and one that ranges are tried with */
enum { IDX_ALL, IDX_TRY, NR_IDX };

struct params {
	unsigned int setup;
	unsigned char sqe_flags;
	const char *name;
};

static const struct params params[] = {
	{ 0, 0, "default" },
	{ 0, IOSQE_ASYNC, "default async" },
	{ 0, IOSQE_FIXED_FILE, "fixed file" },
	{ IORING_SETUP_COOP_TASKRUN, 0, "coop" },
	{ IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER, 0, "defer" },
	{ IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER, IOSQE_ASYNC,
	  "defer async" },
	{ IORING_SETUP_SQPOLL, 0, "sqpoll" },
	{ IORING_SETUP_IOPOLL, 0, "iopoll" },
	{ IORING_SETUP_IOPOLL, IOSQE_ASYNC, "iopoll async" },
};

static const char *dev;
static char null_dir[64], null_dev[32];
static int dev_fd, plain_fd, dmabuf;
static unsigned char *mem, *plain;
static unsigned int lbs;

static unsigned char pattern(size_t pos, unsigned int seed)
{
	return ((pos + seed) * 2654435761U) >> 13 ^ pos;
}

static void cpu_access(unsigned int flags)
{
	struct dma_buf_sync sync = { .flags = flags | DMA_BUF_SYNC_RW };

	while (ioctl(dmabuf, DMA_BUF_IOCTL_SYNC, &sync)) {
		if (errno == EINTR || errno == EAGAIN)
			continue;
		perror("DMA_BUF_IOCTL_SYNC");
		exit(T_EXIT_FAIL);
	}
}

/* what the device has, by way of ordinary memory */
static int plain_io(bool write, size_t off, size_t len)
{
	ssize_t ret;

	if (write)
		ret = pwrite(plain_fd, plain + off, len, off);
	else
		ret = pread(plain_fd, plain + off, len, off);
	if (ret == (ssize_t) len)
		return 0;
	fprintf(stderr, "plain %s at %zu: %zd\n", write ? "write" : "read", off,
		ret);
	return 1;
}

static int fill_device(unsigned int seed)
{
	size_t i;

	for (i = 0; i < FILE_SIZE; i++)
		plain[i] = pattern(i, seed);
	return plain_io(true, 0, FILE_SIZE);
}

static int init_ring(struct io_uring *ring, const struct params *p)
{
	struct io_uring_regbuf_desc desc;
	int ret;

	ret = t_create_ring(DEPTH, ring, p->setup);
	if (ret == T_SETUP_SKIP)
		return T_EXIT_SKIP;
	ret = io_uring_register_files(ring, &dev_fd, 1);
	if (ret) {
		fprintf(stderr, "%s: register files %d\n", p->name, ret);
		return T_EXIT_FAIL;
	}
	ret = io_uring_register_buffers_sparse(ring, NR_IDX);
	if (ret) {
		fprintf(stderr, "%s: register sparse %d\n", p->name, ret);
		return T_EXIT_FAIL;
	}
	io_uring_regbuf_dmabuf(&desc, dmabuf, dev_fd, 0, 0, 0);
	ret = io_uring_register_buffers_update_desc(ring, IDX_ALL, &desc, NULL,
						    1);
	if (ret != 1) {
		fprintf(stderr, "%s: register dma-buf %d\n", p->name, ret);
		return T_EXIT_FAIL;
	}
	return T_EXIT_PASS;
}

/* a ring takes its time to go, and would keep the dma-buf mapped meanwhile */
static void exit_ring(struct io_uring *ring)
{
	int ret = io_uring_unregister_buffers(ring);

	if (ret) {
		fprintf(stderr, "unregister buffers %d\n", ret);
		exit(T_EXIT_FAIL);
	}
	io_uring_queue_exit(ring);
}

static struct io_uring_sqe *prep_io(struct io_uring *ring,
				    const struct params *p, bool write, int fd,
				    __u64 addr, unsigned int len, __u64 off,
				    int index)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (p->sqe_flags & IOSQE_FIXED_FILE && fd == dev_fd)
		fd = 0;
	if (write)
		io_uring_prep_write_fixed(sqe, fd, NULL, len, off, index);
	else
		io_uring_prep_read_fixed(sqe, fd, NULL, len, off, index);
	/* an offset of 64 bits, whatever a pointer has */
	sqe->addr = addr;
	sqe->flags |= p->sqe_flags;
	return sqe;
}

static int reap(struct io_uring *ring, const struct params *p)
{
	struct io_uring_cqe *cqe;
	int ret;

	ret = io_uring_submit_and_wait(ring, 1);
	if (ret < 0) {
		fprintf(stderr, "%s: submit %d\n", p->name, ret);
		exit(T_EXIT_FAIL);
	}
	ret = io_uring_wait_cqe(ring, &cqe);
	if (ret) {
		fprintf(stderr, "%s: wait %d\n", p->name, ret);
		exit(T_EXIT_FAIL);
	}
	ret = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return ret;
}

static int do_io(struct io_uring *ring, const struct params *p, bool write,
		 int fd, __u64 addr, unsigned int len, __u64 off, int index)
{
	prep_io(ring, p, write, fd, addr, len, off, index);
	return reap(ring, p);
}

static int expect(struct io_uring *ring, const struct params *p,
		  const char *what, bool write, int fd, __u64 addr,
		  unsigned int len, __u64 off, int index, int expected)
{
	int ret = do_io(ring, p, write, fd, addr, len, off, index);

	if (ret != expected) {
		fprintf(stderr, "%s: %s: res %d, expected %d\n", p->name, what,
			ret, expected);
		return 1;
	}
	return 0;
}

/* the range of a dma-buf with what is around it */
static size_t guard_start(size_t start)
{
	return start < GUARD ? 0 : start - GUARD;
}

static size_t guard_end(size_t end, size_t size)
{
	return end + GUARD > size ? size : end + GUARD;
}

static int check_read(struct io_uring *ring, const struct params *p,
		      unsigned int seed, size_t start, unsigned int len,
		      size_t off)
{
	size_t i, from = guard_start(start);
	size_t to = guard_end(start + len, BUF_SIZE);
	int ret = 0;

	cpu_access(DMA_BUF_SYNC_START);
	memset(mem + from, POISON, to - from);
	cpu_access(DMA_BUF_SYNC_END);

	if (expect(ring, p, "read", false, dev_fd, start, len, off, IDX_ALL,
		   len))
		return 1;

	cpu_access(DMA_BUF_SYNC_START);
	for (i = from; i < to && !ret; i++) {
		unsigned char c = POISON;

		if (i >= start && i < start + len)
			c = pattern(off + i - start, seed);
		if (mem[i] != c) {
			fprintf(stderr, "%s: read of %u at %zu to %zu: byte %zu is %x, not %x\n",
				p->name, len, off, start, i, mem[i], c);
			ret = 1;
		}
	}
	cpu_access(DMA_BUF_SYNC_END);
	return ret;
}

static int check_write(struct io_uring *ring, const struct params *p,
		       unsigned int seed, size_t start, unsigned int len,
		       size_t off)
{
	size_t i, from = guard_start(off), to = guard_end(off + len, FILE_SIZE);

	memset(plain + from, POISON, to - from);
	if (plain_io(true, from, to - from))
		return 1;
	cpu_access(DMA_BUF_SYNC_START);
	for (i = 0; i < len; i++)
		mem[start + i] = pattern(i, seed);
	cpu_access(DMA_BUF_SYNC_END);

	if (expect(ring, p, "write", true, dev_fd, start, len, off, IDX_ALL,
		   len))
		return 1;

	if (plain_io(false, from, to - from))
		return 1;
	for (i = from; i < to; i++) {
		unsigned char c = POISON;

		if (i >= off && i < off + len)
			c = pattern(i - off, seed);
		if (plain[i] != c) {
			fprintf(stderr, "%s: write of %u at %zu from %zu: byte %zu is %x, not %x\n",
				p->name, len, off, start, i, plain[i], c);
			return 1;
		}
	}
	return 0;
}

static int test_data(struct io_uring *ring, const struct params *p)
{
	const unsigned int lens[] = {
		lbs, 4096, 8192, 8192 + lbs, 65536, 131072 + lbs, BUF_SIZE / 2,
		BUF_SIZE,
	};
	unsigned int i, j, seed = 1;

	/* one way at a time: if both were wrong alike they would cancel out */
	if (fill_device(seed))
		return 1;
	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		const size_t starts[] = {
			0, 512, 4096 - 512, 4096, BUF_SIZE - lens[i],
		};

		for (j = 0; j < ARRAY_SIZE(starts); j++) {
			if (starts[j] + lens[i] > BUF_SIZE)
				continue;
			if (check_read(ring, p, seed, starts[j], lens[i],
				       (i * 7 + j * 3) * lbs))
				return 1;
		}
	}
	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		const size_t starts[] = {
			0, 512, 4096 - 512, 4096, BUF_SIZE - lens[i],
		};

		for (j = 0; j < ARRAY_SIZE(starts); j++) {
			if (starts[j] + lens[i] > BUF_SIZE)
				continue;
			if (check_write(ring, p, ++seed, starts[j], lens[i],
					(i * 7 + j * 3) * lbs))
				return 1;
		}
	}
	return 0;
}

/* many at a time, each block from and to another place */
static int test_depth(struct io_uring *ring, const struct params *p)
{
	const unsigned int bs = lbs > 4096 ? lbs : 4096;
	const unsigned int nr = BUF_SIZE / bs;
	unsigned int i, queued = 0, done = 0;
	size_t pos;

	if (fill_device(77))
		return 1;
	cpu_access(DMA_BUF_SYNC_START);
	memset(mem, POISON, BUF_SIZE);
	cpu_access(DMA_BUF_SYNC_END);

	while (done < nr) {
		while (queued < nr && queued - done < DEPTH) {
			/* 7 is prime to nr, a power of two */
			prep_io(ring, p, false, dev_fd, (__u64) queued * bs, bs,
				(__u64) (queued * 7 % nr) * bs, IDX_ALL);
			queued++;
		}
		i = reap(ring, p);
		if (i != bs) {
			fprintf(stderr, "%s: depth: res %d\n", p->name, i);
			return 1;
		}
		done++;
	}

	cpu_access(DMA_BUF_SYNC_START);
	for (pos = 0; pos < BUF_SIZE; pos++) {
		size_t off = (size_t) (pos / bs * 7 % nr) * bs + pos % bs;

		if (mem[pos] != pattern(off, 77)) {
			fprintf(stderr, "%s: depth: byte %zu\n", p->name, pos);
			return 1;
		}
	}
	cpu_access(DMA_BUF_SYNC_END);
	return 0;
}

/* extents of the dma-buf in any order, one range of the device */
static int test_vectors(struct io_uring *ring, const struct params *p)
{
	const size_t starts[] = { 65536, 0, 200 * 1024 };
	const unsigned int len = 8192 + lbs, nr = ARRAY_SIZE(starts);
	struct iovec iov[ARRAY_SIZE(starts)];
	struct io_uring_sqe *sqe;
	unsigned int i, v;
	int write, res;

	for (v = 0; v < nr; v++) {
		iov[v].iov_base = (void *) (uintptr_t) starts[v];
		iov[v].iov_len = len;
	}
	for (write = 0; write < 2; write++) {
		if (fill_device(write ? 5 : 9))
			return 1;
		cpu_access(DMA_BUF_SYNC_START);
		memset(mem, POISON, BUF_SIZE);
		for (v = 0; write && v < nr; v++)
			for (i = 0; i < len; i++)
				mem[starts[v] + i] = pattern(v * len + i, 9);
		cpu_access(DMA_BUF_SYNC_END);

		sqe = prep_io(ring, p, write, dev_fd, (uintptr_t) iov, nr, 0,
			      IDX_ALL);
		sqe->opcode = write ? IORING_OP_WRITEV_FIXED :
				      IORING_OP_READV_FIXED;
		res = reap(ring, p);
		if (res != nr * len) {
			fprintf(stderr, "%s: vectored %s: res %d\n", p->name,
				write ? "write" : "read", res);
			return 1;
		}
		if (write && plain_io(false, 0, nr * len))
			return 1;
		cpu_access(DMA_BUF_SYNC_START);
		/* where a read would have put what was written */
		if (write)
			memset(mem, POISON, BUF_SIZE);
		for (v = 0; write && v < nr; v++)
			memcpy(mem + starts[v], plain + v * len, len);
		for (i = 0; i < BUF_SIZE; i++) {
			unsigned char c = POISON;

			for (v = 0; v < nr; v++)
				if (i >= starts[v] && i < starts[v] + len)
					c = pattern(v * len + i - starts[v], 9);
			if (mem[i] != c) {
				fprintf(stderr, "%s: vectored %s: byte %u\n",
					p->name, write ? "write" : "read", i);
				return 1;
			}
		}
		cpu_access(DMA_BUF_SYNC_END);
	}
	return 0;
}

static int test_ring(const struct params *p)
{
	struct io_uring ring;
	int ret;

	ret = init_ring(&ring, p);
	if (ret != T_EXIT_PASS)
		return ret == T_EXIT_SKIP ? 0 : 1;

	if (p->setup & IORING_SETUP_IOPOLL) {
		ret = do_io(&ring, p, false, dev_fd, 0, lbs, 0, IDX_ALL);
		if (ret == -EOPNOTSUPP) {
			printf("%s: %s has no poll queues, skipped\n", p->name,
			       dev);
			exit_ring(&ring);
			return 0;
		}
	}
	ret = test_data(&ring, p) || test_depth(&ring, p) ||
	      test_vectors(&ring, p);
	exit_ring(&ring);
	return ret;
}

static int set_try(struct io_uring *ring, const struct io_uring_regbuf_desc *desc,
		   const char *what, int expected)
{
	int ret;

	ret = io_uring_register_buffers_update_desc(ring, IDX_TRY, desc, NULL, 1);
	if (ret != expected) {
		fprintf(stderr, "%s: register %d, expected %d\n", what, ret,
			expected);
		return 1;
	}
	return 0;
}

static int test_bad_io(const struct params *p)
{
	int ret = 0, fd, file;
	struct io_uring ring;
	struct iovec iov;

	ret = init_ring(&ring, p);
	if (ret != T_EXIT_PASS)
		return ret == T_EXIT_SKIP ? 0 : 1;

	ret |= expect(&ring, p, "len 0", false, dev_fd, 0, 0, 0, IDX_ALL, 0);
	ret |= expect(&ring, p, "last block", false, dev_fd, BUF_SIZE - lbs,
		      lbs, 0, IDX_ALL, lbs);
	ret |= expect(&ring, p, "over the end", false, dev_fd,
		      BUF_SIZE - lbs + 512, lbs, 0, IDX_ALL, -EFAULT);
	ret |= expect(&ring, p, "behind the end", true, dev_fd, BUF_SIZE, lbs,
		      0, IDX_ALL, -EFAULT);
	ret |= expect(&ring, p, "far behind", false, dev_fd, 1ULL << 40, lbs,
		      0, IDX_ALL, -EFAULT);
	ret |= expect(&ring, p, "wrap", false, dev_fd, 0ULL - lbs, lbs, 0,
		      IDX_ALL, -EFAULT);
	ret |= expect(&ring, p, "wrap past 0", false, dev_fd, 0ULL - lbs,
		      2 * lbs, 0, IDX_ALL, -EFAULT);
	ret |= expect(&ring, p, "odd address", false, dev_fd, 1, lbs, 0,
		      IDX_ALL, -EINVAL);
	ret |= expect(&ring, p, "odd length", false, dev_fd, 0, lbs - 1, 0,
		      IDX_ALL, -EINVAL);
	ret |= expect(&ring, p, "odd position", true, dev_fd, 0, lbs, 1,
		      IDX_ALL, -EINVAL);
	ret |= expect(&ring, p, "empty slot", false, dev_fd, 0, lbs, 0,
		      IDX_TRY, -EFAULT);
	ret |= expect(&ring, p, "no slot", false, dev_fd, 0, lbs, 0, NR_IDX,
		      -EFAULT);

	if (p->sqe_flags & IOSQE_FIXED_FILE)
		goto out;

	/* another open file of the disk will do, another file won't */
	fd = open(dev, O_RDWR | O_DIRECT);
	if (fd < 0) {
		perror(dev);
		return 1;
	}
	ret |= expect(&ring, p, "second open", false, fd, 0, lbs, 0, IDX_ALL,
		      lbs);
	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_DIRECT)) {
		perror("F_SETFL");
		return 1;
	}
	ret |= expect(&ring, p, "O_DIRECT dropped", false, fd, 0, lbs, 0,
		      IDX_ALL, -EINVAL);
	ret |= expect(&ring, p, "O_DIRECT dropped", true, fd, 0, lbs, 0,
		      IDX_ALL, -EINVAL);
	close(fd);
	file = memfd_create("rw-dmabuf", 0);
	if (file < 0 || ftruncate(file, BUF_SIZE)) {
		perror("memfd_create");
		return 1;
	}
	ret |= expect(&ring, p, "other file", false, file, 0, lbs, 0, IDX_ALL,
		      -EBADF);
	ret |= expect(&ring, p, "other file", true, file, 0, lbs, 0, IDX_ALL,
		      -EBADF);
	close(file);

	/* an extent of none, all others would do */
	iov.iov_base = NULL;
	iov.iov_len = 0;
	io_uring_prep_readv_fixed(io_uring_get_sqe(&ring), dev_fd, &iov, 1, 0,
				  0, IDX_ALL);
	fd = reap(&ring, p);
	if (fd != -EFAULT) {
		fprintf(stderr, "%s: empty extent: %d\n", p->name, fd);
		ret = 1;
	}
out:
	exit_ring(&ring);
	return ret;
}

static int test_bad_register(void)
{
	struct io_uring_regbuf_desc desc;
	int ret = 0, fd, closed;
	struct io_uring ring;

	if (init_ring(&ring, &params[0]))
		return 1;

	io_uring_regbuf_dmabuf(&desc, dmabuf, dev_fd, 0, BUF_SIZE + 1, 0);
	ret |= set_try(&ring, &desc, "size", -EINVAL);
	io_uring_regbuf_dmabuf(&desc, dmabuf, dev_fd, 4096, BUF_SIZE, 0);
	ret |= set_try(&ring, &desc, "offset and size", -EINVAL);
	io_uring_regbuf_dmabuf(&desc, dmabuf, dev_fd, BUF_SIZE, 0, 0);
	ret |= set_try(&ring, &desc, "offset at end", -EINVAL);
	io_uring_regbuf_dmabuf(&desc, dmabuf, dev_fd, 512, 512, 0);
	ret |= set_try(&ring, &desc, "offset unaligned", -EINVAL);
	io_uring_regbuf_dmabuf(&desc, dmabuf, dev_fd, 0ULL - 4096, 8192, 0);
	ret |= set_try(&ring, &desc, "wrap", -EOVERFLOW);
	io_uring_regbuf_dmabuf(&desc, dmabuf, dev_fd, 4096, ~0ULL, 0);
	ret |= set_try(&ring, &desc, "wrap size", -EOVERFLOW);
	io_uring_regbuf_dmabuf(&desc, dmabuf, dev_fd, 0, 0, 1U << 31);
	ret |= set_try(&ring, &desc, "flags", -EINVAL);
	io_uring_regbuf_dmabuf(&desc, dev_fd, dev_fd, 0, 0, 0);
	ret |= set_try(&ring, &desc, "no dma-buf", -EINVAL);

	closed = dup(dev_fd);
	close(closed);
	io_uring_regbuf_dmabuf(&desc, dmabuf, closed, 0, 0, 0);
	ret |= set_try(&ring, &desc, "target closed", -EBADF);

	fd = open(dev, O_RDWR);
	if (fd < 0) {
		perror(dev);
		return 1;
	}
	io_uring_regbuf_dmabuf(&desc, dmabuf, fd, 0, 0, 0);
	ret |= set_try(&ring, &desc, "target not O_DIRECT", -EINVAL);
	close(fd);

	exit_ring(&ring);
	return ret;
}

/* addresses are relative to the window, and end where it ends */
static int test_window(void)
{
	const struct params *p = &params[0];
	const size_t start = 65536, len = 131072;
	struct io_uring_regbuf_desc desc;
	struct io_uring ring;
	size_t i;

	if (init_ring(&ring, p) || fill_device(5))
		return 1;
	io_uring_regbuf_dmabuf(&desc, dmabuf, dev_fd, start, len, 0);
	if (set_try(&ring, &desc, "window", 1))
		return 1;

	cpu_access(DMA_BUF_SYNC_START);
	memset(mem, POISON, BUF_SIZE);
	cpu_access(DMA_BUF_SYNC_END);
	if (expect(&ring, p, "window", false, dev_fd, 0, len, 0, IDX_TRY, len) ||
	    expect(&ring, p, "window end", false, dev_fd, len - lbs, 2 * lbs, 0,
		   IDX_TRY, -EFAULT) ||
	    expect(&ring, p, "behind window", false, dev_fd, len, lbs, 0,
		   IDX_TRY, -EFAULT))
		return 1;
	cpu_access(DMA_BUF_SYNC_START);
	for (i = 0; i < BUF_SIZE; i++) {
		unsigned char c = POISON;

		if (i >= start && i < start + len)
			c = pattern(i - start, 5);
		if (mem[i] != c) {
			fprintf(stderr, "window: byte %zu is %x, not %x\n", i,
				mem[i], c);
			return 1;
		}
	}
	cpu_access(DMA_BUF_SYNC_END);

	/* without a size it goes up to the end */
	io_uring_regbuf_dmabuf(&desc, dmabuf, dev_fd, start, 0, 0);
	if (set_try(&ring, &desc, "open window", 1) ||
	    expect(&ring, p, "open window", false, dev_fd,
		   BUF_SIZE - start - lbs, lbs, 0, IDX_TRY, lbs) ||
	    expect(&ring, p, "behind open window", false, dev_fd,
		   BUF_SIZE - start, lbs, 0, IDX_TRY, -EFAULT))
		return 1;

	exit_ring(&ring);
	return 0;
}

static int test_direction(void)
{
	const struct params *p = &params[0];
	struct io_uring_regbuf_desc desc;
	struct io_uring ring;

	if (init_ring(&ring, p))
		return 1;

	io_uring_regbuf_dmabuf(&desc, dmabuf, dev_fd, 0, 0, IORING_REGBUF_READ);
	if (set_try(&ring, &desc, "for reads", 1) ||
	    expect(&ring, p, "read", false, dev_fd, 0, lbs, 0, IDX_TRY, lbs) ||
	    expect(&ring, p, "write of reads", true, dev_fd, 0, lbs, 0, IDX_TRY,
		   -EFAULT))
		return 1;
	io_uring_regbuf_dmabuf(&desc, dmabuf, dev_fd, 0, 0, IORING_REGBUF_WRITE);
	if (set_try(&ring, &desc, "for writes", 1) ||
	    expect(&ring, p, "write", true, dev_fd, 0, lbs, 0, IDX_TRY, lbs) ||
	    expect(&ring, p, "read of writes", false, dev_fd, 0, lbs, 0,
		   IDX_TRY, -EFAULT))
		return 1;
	io_uring_regbuf_dmabuf(&desc, dmabuf, dev_fd, 0, 0,
			       IORING_REGBUF_READ | IORING_REGBUF_WRITE);
	if (set_try(&ring, &desc, "for both", 1) ||
	    expect(&ring, p, "read", false, dev_fd, 0, lbs, 0, IDX_TRY, lbs) ||
	    expect(&ring, p, "write", true, dev_fd, 0, lbs, 0, IDX_TRY, lbs))
		return 1;

	exit_ring(&ring);
	return 0;
}

/* the tag comes once the last request is done, and not before it */
static int test_update(void)
{
	const struct params *p = &params[0];
	struct io_uring_regbuf_desc desc;
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	__u64 tag = TAG;
	int i, ret;

	if (init_ring(&ring, p))
		return 1;
	io_uring_regbuf_dmabuf(&desc, dmabuf, dev_fd, 0, 0, 0);
	ret = io_uring_register_buffers_update_desc(&ring, IDX_TRY, &desc, &tag,
						    1);
	if (ret != 1) {
		fprintf(stderr, "update: %d\n", ret);
		return 1;
	}

	for (i = 0; i < DEPTH / 2; i++)
		prep_io(&ring, p, false, dev_fd, 0, 65536, 0, IDX_TRY)->user_data = i;
	ret = io_uring_submit(&ring);
	if (ret != DEPTH / 2) {
		fprintf(stderr, "update: submit %d\n", ret);
		return 1;
	}
	/* by memory of the application, which may be used at once */
	io_uring_regbuf_uaddr(&desc, plain, BUF_SIZE);
	if (set_try(&ring, &desc, "replace", 1))
		return 1;

	for (i = 0; i <= DEPTH / 2; i++) {
		ret = io_uring_wait_cqe(&ring, &cqe);
		if (ret) {
			fprintf(stderr, "update: wait %d\n", ret);
			return 1;
		}
		if (i == DEPTH / 2 ? cqe->user_data != TAG || cqe->res :
				     cqe->user_data == TAG || cqe->res != 65536) {
			fprintf(stderr, "update: cqe %d: %llx res %d\n", i,
				(unsigned long long) cqe->user_data, cqe->res);
			return 1;
		}
		io_uring_cqe_seen(&ring, cqe);
	}
	if (expect(&ring, p, "replaced", false, dev_fd, uring_ptr_to_u64(plain),
		   lbs, 0, IDX_TRY, lbs))
		return 1;

	exit_ring(&ring);
	return 0;
}

/* a buffer outlives the ring and the descriptors that it was registered with */
static int test_clone(void)
{
	const struct params *p = &params[0];
	struct io_uring_regbuf_desc desc;
	struct io_uring ring, other;
	int ret, fd, buf;

	if (init_ring(&ring, p))
		return 1;
	ret = io_uring_queue_init(DEPTH, &other, 0);
	if (ret) {
		fprintf(stderr, "queue init %d\n", ret);
		return 1;
	}
	fd = open(dev, O_RDWR | O_DIRECT);
	buf = dup(dmabuf);
	if (fd < 0 || buf < 0) {
		perror("open");
		return 1;
	}
	io_uring_regbuf_dmabuf(&desc, buf, fd, 0, 0, 0);
	if (set_try(&ring, &desc, "clone", 1))
		return 1;
	close(fd);
	close(buf);
	if (expect(&ring, p, "closed", false, dev_fd, 0, lbs, 0, IDX_TRY, lbs))
		return 1;

	ret = io_uring_clone_buffers(&other, &ring);
	if (ret) {
		fprintf(stderr, "clone: %d\n", ret);
		return 1;
	}
	io_uring_queue_exit(&ring);
	if (expect(&other, p, "cloned", false, dev_fd, 0, lbs, 0, IDX_TRY,
		   lbs) ||
	    expect(&other, p, "cloned", true, dev_fd, 0, lbs, 0, IDX_ALL, lbs))
		return 1;

	exit_ring(&other);
	return 0;
}

/* returns T_EXIT_SKIP if the kernel doesn't have it */
static int query(void)
{
	struct io_uring_query_regbuf regbuf;
	struct io_uring_query_hdr hdr = {
		.query_op = IO_URING_QUERY_REGBUF,
		.query_data = uring_ptr_to_u64(&regbuf),
		.size = sizeof(regbuf),
	};
	int ret;

	memset(&regbuf, 0, sizeof(regbuf));
	ret = io_uring_register_query(&hdr);
	if (ret || hdr.result ||
	    !(regbuf.types & (1ULL << IO_REGBUF_TYPE_DMABUF))) {
		printf("this kernel doesn't register dma-bufs\n");
		return T_EXIT_SKIP;
	}
	return T_EXIT_PASS;
}

static int write_attr(const char *name, const char *value)
{
	char path[128];
	int fd, ret;

	snprintf(path, sizeof(path), "%s/%s", null_dir, name);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		return -1;
	ret = write(fd, value, strlen(value));
	close(fd);
	return ret < 0 ? -1 : 0;
}

static void remove_null_blk(void)
{
	if (!null_dir[0])
		return;
	write_attr("power", "0");
	rmdir(null_dir);
}

/* a disk of our own, in memory */
static int create_null_blk(void)
{
	if (access(CONFIGFS, F_OK)) {
		printf("no device given, and no " CONFIGFS "\n");
		return T_EXIT_SKIP;
	}
	snprintf(null_dir, sizeof(null_dir), CONFIGFS "/rw-dmabuf-%d",
		 (int) getpid());
	if (mkdir(null_dir, 0700)) {
		printf("no device given, and can't make one: %s: %s\n",
		       null_dir, strerror(errno));
		null_dir[0] = 0;
		return T_EXIT_SKIP;
	}
	atexit(remove_null_blk);

	/* not all kernels have this one */
	write_attr("poll_queues", "1");
	if (write_attr("size", "16") || write_attr("blocksize", "512") ||
	    write_attr("memory_backed", "1") || write_attr("power", "1")) {
		printf("can't set up null_blk: %s\n", strerror(errno));
		return T_EXIT_SKIP;
	}
	/* it is called what the folder is */
	snprintf(null_dev, sizeof(null_dev), "/dev/%s", strrchr(null_dir, '/') + 1);
	dev = null_dev;
	return T_EXIT_PASS;
}

static int open_dev(void)
{
	unsigned long long size = 0;
	struct stat st;
	int bs = 0;

	if (stat(dev, &st)) {
		printf("%s: %s\n", dev, strerror(errno));
		return T_EXIT_SKIP;
	}
	if (!S_ISBLK(st.st_mode)) {
		printf("%s is no block device\n", dev);
		return T_EXIT_SKIP;
	}
	/* with O_EXCL, so that it isn't one that is in use */
	dev_fd = open(dev, O_RDWR | O_DIRECT | O_EXCL);
	if (dev_fd < 0) {
		printf("%s: %s\n", dev, strerror(errno));
		return T_EXIT_SKIP;
	}
	if (ioctl(dev_fd, BLKSSZGET, &bs) || ioctl(dev_fd, BLKGETSIZE64, &size)) {
		perror(dev);
		return T_EXIT_FAIL;
	}
	if (size < FILE_SIZE || bs > 4096) {
		printf("%s has %llu bytes in blocks of %d\n", dev, size, bs);
		return T_EXIT_SKIP;
	}
	lbs = bs;
	plain_fd = open(dev, O_RDWR | O_DIRECT);
	if (plain_fd < 0) {
		perror(dev);
		return T_EXIT_FAIL;
	}
	return T_EXIT_PASS;
}

static int setup(void)
{
	struct io_uring_regbuf_desc desc;
	struct io_uring ring;
	int ret;

	dmabuf = t_create_udmabuf(BUF_SIZE);
	if (dmabuf < 0) {
		printf("no udmabuf: %s\n", strerror(-dmabuf));
		return T_EXIT_SKIP;
	}
	mem = mmap(NULL, BUF_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, dmabuf,
		   0);
	plain = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED || plain == MAP_FAILED) {
		perror("mmap");
		return T_EXIT_FAIL;
	}
	ret = open_dev();
	if (ret != T_EXIT_PASS)
		return ret;

	ret = io_uring_queue_init(1, &ring, 0);
	if (ret || io_uring_register_buffers_sparse(&ring, 1)) {
		fprintf(stderr, "queue init %d\n", ret);
		return T_EXIT_FAIL;
	}
	io_uring_regbuf_dmabuf(&desc, dmabuf, dev_fd, 0, 0, 0);
	ret = io_uring_register_buffers_update_desc(&ring, 0, &desc, NULL, 1);
	exit_ring(&ring);
	if (ret == -EOPNOTSUPP) {
		printf("%s doesn't do I/O on dma-bufs\n", dev);
		return T_EXIT_SKIP;
	}
	if (ret != 1) {
		fprintf(stderr, "%s: register %d\n", dev, ret);
		return T_EXIT_FAIL;
	}
	return T_EXIT_PASS;
}

int main(int argc, char *argv[])
{
	static const struct {
		const char *name;
		int (*fn)(void);
	} tests[] = {
		{ "bad_register", test_bad_register },
		{ "window", test_window },
		{ "direction", test_direction },
		{ "update", test_update },
		{ "clone", test_clone },
	};
	unsigned int i;
	int ret;

	ret = query();
	if (ret != T_EXIT_PASS)
		return ret;
	if (argc > 1)
		dev = argv[1];
	else
		ret = create_null_blk();
	if (ret == T_EXIT_PASS)
		ret = setup();
	if (ret != T_EXIT_PASS)
		return ret;

	for (i = 0; i < ARRAY_SIZE(params); i++) {
		if (test_ring(&params[i])) {
			fprintf(stderr, "test_ring %s failed\n", params[i].name);
			return T_EXIT_FAIL;
		}
		if (params[i].setup & IORING_SETUP_IOPOLL)
			continue;
		if (test_bad_io(&params[i])) {
			fprintf(stderr, "test_bad_io %s failed\n",
				params[i].name);
			return T_EXIT_FAIL;
		}
	}
	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		if (tests[i].fn()) {
			fprintf(stderr, "test_%s failed\n", tests[i].name);
			return T_EXIT_FAIL;
		}
	}
	return T_EXIT_PASS;
}
