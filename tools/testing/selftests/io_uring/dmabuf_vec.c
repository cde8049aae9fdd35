// SPDX-License-Identifier: GPL-2.0
/*
 * READV_FIXED and WRITEV_FIXED of registered dma-bufs: one range of a drive, and
 * several extents of a dma-buf, in any order.
 *
 * Every byte of both is checked, by the ways of dmabuf.c. As there, requests
 * with something wrong in any of the extents fail whole, and leave no trace.
 */
#include "iou_dmabuf_move.h"
#include "iou_fail_nth.h"
#include "kselftest_harness.h"

#define DATA_PAGES	160
#define MAX_VECS	1024

FIXTURE(vec) {
	struct env e;
	struct iovec iov[MAX_VECS];
	unsigned char *want;		/* as large as the dma-buf */
	unsigned int nr;
	size_t len;			/* of all extents */
};

FIXTURE_VARIANT(vec) {
	struct ring_type type;
	enum exporter exp;
	struct disk_conf conf;
};

FIXTURE_VARIANT_ADD(vec, plain_udmabuf) {
	.type = TYPE_PLAIN, .exp = UDMABUF,
};

FIXTURE_VARIANT_ADD(vec, plain_mixed) {
	.type = TYPE_PLAIN, .exp = MIXED,
};

FIXTURE_VARIANT_ADD(vec, defer_mixed) {
	.type = TYPE_DEFER, .exp = MIXED,
};

FIXTURE_VARIANT_ADD(vec, sqpoll_mixed) {
	.type = TYPE_SQPOLL, .exp = MIXED,
};

FIXTURE_VARIANT_ADD(vec, iopoll_mixed) {
	.type = TYPE_IOPOLL, .exp = MIXED,
};

FIXTURE_VARIANT_ADD(vec, iowq_mixed) {
	.type = TYPE_IOWQ, .exp = MIXED,
};

/* every extent is more than the drive takes at once */
FIXTURE_VARIANT_ADD(vec, defer_small) {
	.type = TYPE_DEFER, .exp = MIXED, .conf = { .max_sectors = "8" },
};

/* completes later, and in another order */
FIXTURE_VARIANT_ADD(vec, defer_timer) {
	.type = TYPE_DEFER, .exp = MIXED,
	.conf = { .irqmode = "2", .completion_nsec = "200000" },
};

FIXTURE_SETUP(vec)
{
	struct env *e = &self->e;
	const char *skip;
	int ret;

	ret = env_init(e, &variant->type, variant->exp, DATA_PAGES,
		       &variant->conf, &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	self->want = malloc(e->buf.size);
	ASSERT_NE(NULL, self->want);
}

FIXTURE_TEARDOWN(vec)
{
	env_exit(&self->e);
	free(self->want);
}

static void vec_clear(struct _test_data_vec *self)
{
	self->nr = 0;
	self->len = 0;
}

static void vec_add(struct _test_data_vec *self, size_t off, size_t len)
{
	self->iov[self->nr].iov_base = (void *)off;
	self->iov[self->nr].iov_len = len;
	self->nr++;
	self->len += len;
}

static struct io_uring_sqe *vec_sqe(struct _test_data_vec *self, bool write,
				    off_t pos)
{
	struct io_uring_sqe *sqe;

	sqe = ring_sqe(&self->e.ring, write ? IORING_OP_WRITEV_FIXED :
					      IORING_OP_READV_FIXED);
	sqe->fd = self->e.fd;
	sqe->addr = u64_ptr(self->iov);
	sqe->len = self->nr;
	sqe->off = pos;
	sqe->flags = self->e.sqe_flags;
	return sqe;
}

static int vec_rw(struct _test_data_vec *self, bool write, off_t pos)
{
	vec_sqe(self, write, pos);
	return ring_run(&self->e.ring);
}

/* Whether both sides hold what a write of @done bytes leaves there */
static int vec_written(struct _test_data_vec *self, off_t pos, size_t done)
{
	struct env *e = &self->e;
	size_t at = 0, i;
	unsigned int v;
	int ret;

	ret = disk_read(&e->disk, e->mem, done, pos);
	for (v = 0; !ret && v < self->nr; v++) {
		size_t off = (size_t)self->iov[v].iov_base;

		for (i = 0; i < self->iov[v].iov_len && at < done; i++, at++) {
			if (e->mem[at] == pattern(off + i, BUF_SEED))
				continue;
			fprintf(stderr, "# written: extent %u, byte %zu\n", v,
				i);
			return -EBADMSG;
		}
	}
	if (!ret && (!disk_holds(e, DISK_POISON, pos - 4096, 4096) ||
		     !disk_holds(e, DISK_POISON, pos + done,
				 self->len - done + 4096)))
		ret = -EDOM;
	return ret;
}

static int vec_write_prep(struct _test_data_vec *self, off_t pos)
{
	struct env *e = &self->e;
	int ret;

	ret = buf_pattern(e, 0, e->buf.size, BUF_SEED);
	if (!ret)
		ret = disk_set(e, DISK_POISON, pos - 4096, 4096);
	if (!ret)
		ret = disk_set(e, DISK_POISON, pos, self->len);
	if (!ret)
		ret = disk_set(e, DISK_POISON, pos + self->len, 4096);
	return ret;
}

static int vec_write(struct _test_data_vec *self, off_t pos)
{
	int ret = vec_write_prep(self, pos);

	if (!ret)
		ret = vec_rw(self, true, pos);
	if (ret != (int)self->len)
		return ret < 0 ? ret : step_failed("short write", -EIO);
	return vec_written(self, pos, self->len);
}

/* All of the dma-buf: what was read is there, and the rest is as it was */
static int vec_got(struct _test_data_vec *self, off_t pos, size_t done)
{
	struct env *e = &self->e;
	size_t at = 0, i;
	unsigned int v;
	int ret;

	memset(self->want, POISON, e->buf.size);
	for (v = 0; v < self->nr; v++) {
		size_t off = (size_t)self->iov[v].iov_base;

		for (i = 0; i < self->iov[v].iov_len && at < done; i++, at++)
			self->want[off + i] = pattern(pos + at, DISK_SEED);
	}
	ret = dbuf_read(&e->buf, e->mem, e->buf.size, 0);
	for (i = 0; !ret && i < e->buf.size; i++) {
		if (e->mem[i] != self->want[i]) {
			fprintf(stderr, "# read: byte %zu of the dma-buf\n", i);
			ret = -EBADMSG;
		}
	}
	return ret;
}

static int vec_read_prep(struct _test_data_vec *self, off_t pos)
{
	struct env *e = &self->e;
	int ret;

	ret = disk_pattern(e, pos, self->len, DISK_SEED);
	if (!ret)
		ret = buf_set(e, POISON, 0, e->buf.size);
	return ret;
}

static int vec_read(struct _test_data_vec *self, off_t pos)
{
	int ret = vec_read_prep(self, pos);

	if (!ret)
		ret = vec_rw(self, false, pos);
	if (ret != (int)self->len)
		return ret < 0 ? ret : step_failed("short read", -EIO);
	return vec_got(self, pos, self->len);
}

static unsigned int rnd(unsigned int *state)
{
	*state = *state * 1103515245 + 12345;
	return *state >> 16;
}

/* Extents that don't overlap, of any size, in any order, with gaps in between */
static void shuffle_extents(struct _test_data_vec *self, unsigned int *state)
{
	size_t size = self->e.buf.size, off = 0;
	unsigned int i, max = 1 + rnd(state) % 24;

	vec_clear(self);
	while (self->nr < max) {
		size_t len = BLOCK * (1 + rnd(state) % (rnd(state) % 4 ? 9 :
								       150));

		off += BLOCK * (rnd(state) % 12);
		if (off + len > size)
			break;
		vec_add(self, off, len);
		off += len;
	}
	for (i = 1; i < self->nr; i++) {
		unsigned int j = rnd(state) % (i + 1);
		struct iovec tmp = self->iov[i];

		self->iov[i] = self->iov[j];
		self->iov[j] = tmp;
	}
}

TEST_F_TIMEOUT(vec, random, LONG_TIMEOUT)
{
	unsigned int i, state = 1;

	for (i = 0; i < 40; i++) {
		off_t pos = BASE + i * 7 * BLOCK;

		shuffle_extents(self, &state);
		ASSERT_EQ(0, vec_write(self, pos)) {
			TH_LOG("round %u", i);
		}
		ASSERT_EQ(0, vec_read(self, pos)) {
			TH_LOG("round %u", i);
		}
	}
	EXPECT_EQ(0, dbuf_lost(&self->e.buf));
}

/* The least and the most that there can be */
TEST_F_TIMEOUT(vec, number, LONG_TIMEOUT)
{
	struct env *e = &self->e;
	unsigned int i;

	vec_clear(self);
	EXPECT_EQ(0, vec_rw(self, true, BASE));
	EXPECT_EQ(0, vec_rw(self, false, BASE));
	vec_add(self, 4096 + 512, 5 * BLOCK);
	EXPECT_EQ(0, vec_write(self, BASE));
	EXPECT_EQ(0, vec_read(self, BASE));
	/* all next to each other, and in no order */
	vec_clear(self);
	for (i = 0; i < MAX_VECS; i++)
		vec_add(self, 512 * ((i * 37) % MAX_VECS), 512);
	ASSERT_LE(self->len, e->buf.size);
	EXPECT_EQ(0, vec_write(self, BASE));
	EXPECT_EQ(0, vec_read(self, BASE));
	/* the same extent may be written twice */
	vec_clear(self);
	vec_add(self, 8192, 4096);
	vec_add(self, 8192, 4096);
	EXPECT_EQ(0, vec_write(self, BASE));
}

/* No worker is needed, not even if the drive doesn't take it in one request */
TEST_F(vec, no_worker)
{
	struct env *e = &self->e;
	struct span s = { .len = e->buf.size, .pos = BASE };

	vec_clear(self);
	vec_add(self, 8192, 16 * BLOCK);
	vec_add(self, 512, 3 * BLOCK);
	EXPECT_EQ(0, vec_write(self, BASE));
	EXPECT_EQ(0, vec_read(self, BASE));
	/* nor is one if it isn't a vector */
	EXPECT_EQ(0, span_write(e, &s));
	EXPECT_EQ(0, span_read(e, &s));
	EXPECT_EQ(!!(e->sqe_flags & IOSQE_ASYNC),
		  find_thread("iou-wrk-") != 0);
}

/* Several in flight at once, each with extents of its own */
TEST_F_TIMEOUT(vec, deep, LONG_TIMEOUT)
{
	unsigned int i, j, nr = 8, len = 3 * BLOCK;
	struct env *e = &self->e;
	struct iovec iov[8][3];
	int res[8];

	ASSERT_EQ(0, buf_pattern(e, 0, e->buf.size, BUF_SEED));
	ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, nr * 3 * len));
	for (i = 0; i < nr; i++) {
		struct io_uring_sqe *sqe;

		for (j = 0; j < 3; j++) {
			iov[i][j].iov_base = (void *)(size_t)((2 - j) * nr * len
							      + i * len);
			iov[i][j].iov_len = len;
		}
		sqe = vec_sqe(self, true, BASE + i * 3 * len);
		sqe->addr = u64_ptr(iov[i]);
		sqe->len = 3;
		sqe->user_data = i;
	}
	ASSERT_EQ(nr, ring_submit(&e->ring));
	ASSERT_EQ(0, ring_collect(&e->ring, res, nr));
	for (i = 0; i < nr; i++) {
		EXPECT_EQ(3 * len, res[i]);
		memcpy(self->iov, iov[i], sizeof(iov[i]));
		self->nr = 3;
		self->len = 3 * len;
		ASSERT_EQ(0, disk_read(&e->disk, e->mem, 3 * len,
				       BASE + i * 3 * len));
		for (j = 0; j < 3 * len; j++) {
			size_t off = (size_t)iov[i][j / len].iov_base;

			ASSERT_EQ(pattern(off + j % len, BUF_SEED),
				  e->mem[j]);
		}
	}
}

/* At the end of the drive a transfer is short, wherever an extent ends */
TEST_F(vec, end_of_drive)
{
	struct env *e = &self->e;
	off_t end = lseek(e->fd, 0, SEEK_END);
	unsigned int left;

	for (left = 1; left < 8; left++) {
		size_t done = left * BLOCK;

		vec_clear(self);
		vec_add(self, 40 * BLOCK, 2 * BLOCK);
		vec_add(self, 10 * BLOCK, 2 * BLOCK);
		vec_add(self, 20 * BLOCK, 4 * BLOCK);
		ASSERT_EQ(0, disk_pattern(e, end - done, done, DISK_SEED));
		ASSERT_EQ(0, buf_set(e, POISON, 0, e->buf.size));
		EXPECT_EQ(done, vec_rw(self, false, end - done));
		EXPECT_EQ(0, vec_got(self, end - done, done));

		ASSERT_EQ(0, buf_pattern(e, 0, e->buf.size, BUF_SEED));
		ASSERT_EQ(0, disk_set(e, DISK_POISON, end - done - 4096,
				      done + 4096));
		EXPECT_EQ(done, vec_rw(self, true, end - done));
		self->len = done;
		ASSERT_EQ(0, disk_read(&e->disk, e->mem, done, end - done));
		EXPECT_EQ(pattern(40 * BLOCK, BUF_SEED), e->mem[0]);
		if (left > 2)
			EXPECT_EQ(pattern(10 * BLOCK, BUF_SEED),
				  e->mem[2 * BLOCK]);
		if (left > 4)
			EXPECT_EQ(pattern(20 * BLOCK, BUF_SEED),
				  e->mem[4 * BLOCK]);
		EXPECT_TRUE(disk_holds(e, DISK_POISON, end - done - 4096,
				       4096));
	}
	EXPECT_EQ(0, vec_rw(self, false, end));
	EXPECT_EQ(-ENOSPC, vec_rw(self, true, end));
}

/* One of the extents is wrong, the first or a later one */
TEST_F(vec, bad_extent)
{
	struct env *e = &self->e;
	size_t size = e->buf.size;
	const struct {
		const char *what;
		size_t off, len;
		int want;
	} bad[] = {
		{ "empty", 4096, 0, -EFAULT },
		{ "past the end", size, 512, -EFAULT },
		{ "over the end", size - 512, 1024, -EFAULT },
		{ "far off", 1ULL << 40, 512, -EFAULT },
		{ "around the end of addresses", -512UL, 1024, -EFAULT },
		{ "half a block", 4096, 256, -EINVAL },
		{ "a block and a half", 4096, 768, -EINVAL },
		/* the alignment that null_blk asks for */
		{ "an odd address", 4097, 512, -EINVAL },
	};
	unsigned int i, where, write;

	ASSERT_EQ(0, buf_set(e, POISON, 0, size));
	ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, 65536));
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		for (where = 0; where < 3; where++) {
			for (write = 0; write < 2; write++) {
				vec_clear(self);
				vec_add(self, 0, 512);
				vec_add(self, 8192, 4096);
				vec_add(self, 512, 1024);
				self->iov[where].iov_base = (void *)bad[i].off;
				self->iov[where].iov_len = bad[i].len;
				EXPECT_EQ(bad[i].want,
					  vec_rw(self, write, BASE)) {
					TH_LOG("%s, extent %u", bad[i].what,
					       where);
				}
			}
		}
	}
	EXPECT_TRUE(buf_holds(e, POISON, 0, size));
	EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE, 65536));
}

/* The request as a whole is wrong */
TEST_F(vec, bad_request)
{
	size_t most = 0x7ffff000;	/* MAX_RW_COUNT with pages of 4 KiB */
	struct env *e = &self->e;
	struct io_uring_sqe *sqe;
	unsigned int i;
	int fd;

	ASSERT_EQ(0, buf_set(e, POISON, 0, e->buf.size));
	ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, 65536));
	vec_clear(self);
	vec_add(self, 0, 512);
	vec_add(self, 4096, 512);

	EXPECT_EQ(-EINVAL, vec_rw(self, true, BASE + 1));
	sqe = vec_sqe(self, true, BASE);
	sqe->buf_index = 1;
	EXPECT_EQ(-EFAULT, ring_run(&e->ring));
	sqe = vec_sqe(self, true, BASE);
	sqe->addr = 8;
	EXPECT_EQ(-EFAULT, ring_run(&e->ring));
	sqe = vec_sqe(self, true, BASE);
	sqe->len = MAX_VECS + 1;
	EXPECT_EQ(-EINVAL, ring_run(&e->ring));
	sqe = vec_sqe(self, true, BASE);
	sqe->rw_flags = RWF_ATOMIC;
	EXPECT_GT(0, ring_run(&e->ring));

	/* another file, and one that isn't for direct I/O any more */
	fd = syscall(__NR_memfd_create, "other", MFD_CLOEXEC);
	sqe = vec_sqe(self, true, BASE);
	sqe->fd = fd;
	EXPECT_EQ(-EBADF, ring_run(&e->ring));
	close(fd);
	ASSERT_EQ(0, fcntl(e->fd, F_SETFL, 0));
	if (!(e->ring.setup & IORING_SETUP_IOPOLL)) {
		EXPECT_EQ(-EINVAL, vec_rw(self, true, BASE));
		EXPECT_EQ(-EINVAL, vec_rw(self, false, BASE));
	}
	ASSERT_EQ(0, fcntl(e->fd, F_SETFL, O_DIRECT));

	/* the directions that the buffer is registered for */
	ASSERT_EQ(1, ring_desc(&e->ring, 2, (struct io_uring_regbuf_desc) {
		.type = IO_REGBUF_TYPE_DMABUF, .dmabuf_fd = e->buf.fd,
		.target_fd = e->fd, .flags = IORING_REGBUF_READ,
	}));
	sqe = vec_sqe(self, true, BASE);
	sqe->buf_index = 2;
	EXPECT_EQ(-EFAULT, ring_run(&e->ring));

	/* more bytes than a request may have, in extents that are all right */
	vec_clear(self);
	for (i = 0; i < MAX_VECS && self->len <= most; i++)
		vec_add(self, 0, e->buf.size);
	if (self->len > most)
		EXPECT_EQ(-EINVAL, vec_rw(self, true, BASE));

	EXPECT_TRUE(buf_holds(e, POISON, 0, e->buf.size));
	EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE, 65536));
}

/* -1 is the position of the file, which moves on if the result isn't async */
TEST_F(vec, file_position)
{
	struct env *e = &self->e;

	vec_clear(self);
	vec_add(self, 8192, 1024);
	vec_add(self, 0, 512);
	ASSERT_EQ(0, vec_write_prep(self, BASE));
	ASSERT_EQ(BASE, lseek(e->fd, BASE, SEEK_SET));
	EXPECT_EQ(self->len, vec_rw(self, true, -1));
	EXPECT_EQ(0, vec_written(self, BASE, self->len));
}

/* Who doesn't want to wait is told so, and nothing else has happened */
TEST_F(vec, nowait)
{
	struct env *e = &self->e;

	if (e->buf.dev < 0 || e->sqe_flags & IOSQE_ASYNC)
		return;
	vec_clear(self);
	vec_add(self, 8192, 1024);
	vec_add(self, 0, 512);
	ASSERT_EQ(0, vec_write_prep(self, BASE));
	ASSERT_LE(0, dbuf_move(&e->buf));
	vec_sqe(self, true, BASE)->rw_flags = RWF_NOWAIT;
	EXPECT_EQ(-EAGAIN, ring_run(&e->ring));
	EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE - 4096, 8192));
	EXPECT_EQ(self->len, vec_rw(self, true, BASE));
	EXPECT_EQ(0, vec_written(self, BASE, self->len));
}

/* The memory moves while some extents are in flight, and others are still to be */
TEST_F_TIMEOUT(vec, moves, LONG_TIMEOUT)
{
	__u64 end = now_ms() + run_ms(1000);
	struct env *e = &self->e;
	unsigned int state = 7, rounds = 0;
	struct mover m;

	if (e->buf.dev < 0)
		return;
	ASSERT_EQ(0, mover_start(&m, &e->buf, 900));
	while (now_ms() < end) {
		shuffle_extents(self, &state);
		ASSERT_EQ(0, vec_write(self, BASE));
		ASSERT_EQ(0, vec_read(self, BASE));
		rounds++;
	}
	ASSERT_EQ(0, mover_stop(&m));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
	TH_LOG("%u rounds, %u moves", rounds, m.moves);
}

/* The memory is gone for good: an errno, once all that is in flight has ended */
TEST_F(vec, revoked)
{
	struct env *e = &self->e;

	if (e->buf.dev < 0)
		return;
	vec_clear(self);
	vec_add(self, 8192, 1024);
	vec_add(self, 0, 512);
	ASSERT_EQ(0, vec_write_prep(self, BASE));
	ASSERT_LE(0, dbuf_revoke(&e->buf));
	EXPECT_EQ(-ENODEV, vec_rw(self, true, BASE));
	EXPECT_EQ(-ENODEV, vec_rw(self, false, BASE));
	EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE - 4096, 8192));
}

TEST_HARNESS_MAIN
