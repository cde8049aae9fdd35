// SPDX-License-Identifier: GPL-2.0
/*
 * Every allocation and user copy below registered dma-bufs fails once: to
 * register one, to move it, to read and to write, with the memory in place and
 * with memory that has moved. Whatever fails, the result is an errno or the
 * whole thing; data is where the result says, and nowhere else; nothing stays
 * attached or mapped; and the same works right after.
 *
 * See memcpy_fail_nth.c for who runs a request, and why that matters.
 */
#include "iou_dmabuf.h"
#include "iou_fail_nth.h"
#include "kselftest_harness.h"

#define BUF_PAGES	80
#define GUARD_LEN	4096
#define SEED		9
#define MAX_NTH		400
#define EXTENTS		4

FIXTURE(fail_nth) {
	struct ring ring;
	struct disk disk;
	struct dbuf buf;
	unsigned char *mem;		/* as large as the dma-buf */
	int nth_fd;
};

FIXTURE_VARIANT(fail_nth) {
	unsigned int setup;
	unsigned int sqe_flags;
	enum target target;
};

FIXTURE_VARIANT_ADD(fail_nth, submitter) {
	.target = TARGET_SELF,
};

FIXTURE_VARIANT_ADD(fail_nth, submitter_defer) {
	.setup = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
	.target = TARGET_SELF,
};

FIXTURE_VARIANT_ADD(fail_nth, submitter_iopoll) {
	.setup = IORING_SETUP_IOPOLL,
	.target = TARGET_SELF,
};

FIXTURE_VARIANT_ADD(fail_nth, worker) {
	.target = TARGET_WORKER,
};

FIXTURE_VARIANT_ADD(fail_nth, worker_async) {
	.sqe_flags = IOSQE_ASYNC,
	.target = TARGET_WORKER,
};

FIXTURE_VARIANT_ADD(fail_nth, sqpoll) {
	.setup = IORING_SETUP_SQPOLL,
	.target = TARGET_SQPOLL,
};

static int ring_fresh(struct _test_data_fail_nth *self, unsigned int setup,
		      enum target target)
{
	__u32 workers[2] = { 1, 1 };
	struct ring *r = &self->ring;
	int ret;

	ret = ring_init(r, 8, setup);
	if (!ret)
		ret = ring_buffers_sparse(r, 2);
	if (!ret)
		ret = ring_register(r, IORING_REGISTER_IOWQ_MAX_WORKERS,
				    workers, 2);
	if (ret)
		return ret;
	self->nth_fd = nth_open(r, target);
	return self->nth_fd < 0 ? self->nth_fd : 0;
}

static void ring_done(struct _test_data_fail_nth *self)
{
	ring_exit(&self->ring);
	if (self->nth_fd >= 0)
		close(self->nth_fd);
	self->nth_fd = -1;
}

FIXTURE_SETUP(fail_nth)
{
	size_t size = BUF_PAGES * page_size();
	struct disk_conf conf = {};
	struct ring r;
	int ret;

	self->nth_fd = -1;
	if (!fault_injection())
		SKIP(return, "kernel has no fault injection");
	ret = ring_init(&r, 8, 0);
	if (ret && ring_unavailable())
		SKIP(return, "no io_uring: %s", strerror(-ret));
	ASSERT_EQ(0, ret);
	ring_exit(&r);
	if (!disk_available())
		SKIP(return, "no null_blk that knows dma-bufs");
	ret = dbuf_init(&self->buf, size, MIXED);
	if (ret == -ENOENT)
		SKIP(return, "no /dev/test_dmabuf");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, disk_init(&self->disk, &conf));
	/* null_blk's own faults are among them: it forgets about a request */
	ASSERT_EQ(0, put_file("1000", "/sys/block/%s/queue/io_timeout",
			      self->disk.name));
	self->mem = malloc(size);
	ASSERT_NE(NULL, self->mem);
	/* the drive has pages for all of it: it is not the one under test */
	memset(self->mem, DISK_POISON, size);
	ASSERT_EQ(0, disk_write(&self->disk, self->mem, size,
				BASE - GUARD_LEN));
}

FIXTURE_TEARDOWN(fail_nth)
{
	ring_done(self);
	dbuf_exit(&self->buf);
	disk_exit(&self->disk);
	free(self->mem);
}

/* A failed user copy is -EFAULT, io-wq without a worker -EAGAIN or canceled */
static bool clean_errno(int res)
{
	return res == -ENOMEM || res == -EFAULT || res == -EAGAIN ||
	       res == -ECANCELED || res == -ETIMEDOUT;
}

/* Each fault point of a registration, and of taking it back, by the task itself */
TEST_F_TIMEOUT(fail_nth, register, LONG_TIMEOUT)
{
	struct io_uring_regbuf_desc empty = {};
	unsigned int nth, faults = 0;
	bool fired;
	int ret;

	for (nth = 1; nth < MAX_NTH; nth++) {
		ASSERT_EQ(0, ring_fresh(self, variant->setup, TARGET_SELF));
		ASSERT_TRUE(nth_arm(self->nth_fd, nth));
		ret = ring_dbuf(&self->ring, 0, &self->buf, self->disk.fd);
		fired = nth_disarm(self->nth_fd);
		EXPECT_TRUE(ret == 1 || (fired && clean_errno(ret))) {
			TH_LOG("fault %u: %d", nth, ret);
		}
		EXPECT_EQ(ret == 1, dbuf_attached(&self->buf)) {
			TH_LOG("fault %u: %d", nth, ret);
		}
		EXPECT_EQ(ret == 1, dbuf_mapped(&self->buf));
		faults += fired;
		ASSERT_EQ(1, ring_dbuf(&self->ring, 0, &self->buf,
				       self->disk.fd));
		EXPECT_EQ(512, ring_rw(&self->ring, true, self->disk.fd, 0, 0,
				       512, 0));
		/* nothing that undoes it may depend on memory */
		ASSERT_TRUE(nth_arm(self->nth_fd, nth));
		ret = ring_desc(&self->ring, 0, empty);
		nth_disarm(self->nth_fd);
		EXPECT_TRUE(ret == 1 || clean_errno(ret));
		EXPECT_EQ(ret != 1, dbuf_attached(&self->buf));
		ring_done(self);
		ASSERT_TRUE(dbuf_free_within(&self->buf, WAIT_MS));
		if (!fired)
			break;
	}
	EXPECT_GT(MAX_NTH, nth);
	TH_LOG("%u faults met", faults);
}

/* Importers are not in the way of a move that has no memory */
TEST_F_TIMEOUT(fail_nth, move, LONG_TIMEOUT)
{
	unsigned int nth, faults = 0;
	bool fired;
	int ret;

	ASSERT_EQ(0, ring_fresh(self, variant->setup, TARGET_SELF));
	ASSERT_EQ(1, ring_dbuf(&self->ring, 0, &self->buf, self->disk.fd));
	for (nth = 1; nth < MAX_NTH; nth++) {
		fill_pattern(self->mem, self->buf.size, nth);
		ASSERT_EQ(0, dbuf_write(&self->buf, self->mem, self->buf.size,
					0));
		ASSERT_TRUE(nth_arm(self->nth_fd, nth));
		ret = dbuf_move(&self->buf);
		fired = nth_disarm(self->nth_fd);
		EXPECT_TRUE(ret >= 0 || (fired && clean_errno(ret))) {
			TH_LOG("fault %u: %d", nth, ret);
		}
		faults += fired;
		ASSERT_EQ(65536, ring_rw(&self->ring, true, self->disk.fd, 0,
					 4096, 65536, BASE));
		ASSERT_EQ(0, disk_read(&self->disk, self->mem, 65536, BASE));
		fill_pattern(self->mem + 65536, 4096 + 65536, nth);
		EXPECT_EQ(0, memcmp(self->mem, self->mem + 65536 + 4096,
				    65536));
		if (!fired)
			break;
	}
	EXPECT_GT(MAX_NTH, nth);
	EXPECT_EQ(0, dbuf_lost(&self->buf));
	TH_LOG("%u faults met", faults);
}

struct op {
	const char *what;
	bool write;
	bool moved;
	unsigned int len;
	bool vec;			/* in several extents */
};

static const struct op ops[] = {
	{ "read", false, false, 4096 },
	{ "write", true, false, 4096 },
	{ "read, moved", false, true, 4096 },
	{ "write, moved", true, true, 4096 },
	{ "long read", false, false, 262144 },
	{ "long write", true, false, 262144 },
	{ "long read, moved", false, true, 262144 },
	{ "long write, moved", true, true, 262144 },
	{ "vectored read", false, false, 16384, .vec = true },
	{ "vectored write", true, false, 16384, .vec = true },
	{ "vectored read, moved", false, true, 16384, .vec = true },
	{ "vectored write, moved", true, true, 16384, .vec = true },
};

/* What both sides hold before it: the pattern is at the source */
static int op_prep(struct _test_data_fail_nth *self, const struct op *op)
{
	size_t len = op->len + 2 * GUARD_LEN;
	unsigned char *data = self->mem + GUARD_LEN;
	int ret;

	memset(self->mem, DISK_POISON, len);
	if (!op->write)
		fill_pattern(data, op->len, SEED);
	ret = disk_write(&self->disk, self->mem, len, BASE - GUARD_LEN);
	memset(self->mem, POISON, len);
	if (op->write)
		fill_pattern(data, op->len, SEED);
	return ret ? ret : dbuf_write(&self->buf, self->mem, len, 0);
}

/* And after it: all of the pattern at the destination, or none, or a start */
static bool op_landed(struct _test_data_fail_nth *self, const struct op *op,
		      int res)
{
	size_t len = op->len + 2 * GUARD_LEN, i, done = 0;
	unsigned char *data = self->mem + GUARD_LEN;
	int was = op->write ? DISK_POISON : POISON;

	if (op->write)
		i = disk_read(&self->disk, self->mem, len, BASE - GUARD_LEN);
	else
		i = dbuf_read(&self->buf, self->mem, len, 0);
	if (i || !all_bytes(self->mem, was, GUARD_LEN) ||
	    !all_bytes(data + op->len, was, GUARD_LEN))
		return false;
	for (i = 0; i < op->len; i += BLOCK) {
		size_t j;

		for (j = i; j < i + BLOCK; j++)
			if (data[j] != pattern(j, SEED))
				break;
		if (j == i + BLOCK)
			done += BLOCK;
		else if (!all_bytes(data + i, was, BLOCK))
			return false;
	}
	/* a drive may have done part of what it says has failed */
	return res < 0 || (int)done == res;
}

static int op_run(struct _test_data_fail_nth *self,
		  const struct _fixture_variant_fail_nth *variant,
		  const struct op *op, unsigned int nth, int *res, bool *fired)
{
	struct ring *r = &self->ring;
	struct iovec iov[EXTENTS];
	struct io_uring_sqe *sqe;
	unsigned int i;
	int ret;

	ret = op_prep(self, op);
	if (ret)
		return step_failed("preparation", ret);
	if (op->moved)
		ret = dbuf_move(&self->buf);
	if (ret < 0)
		return step_failed("move", ret);
	sqe = ring_fixed(r, op->write, self->disk.fd, 0, GUARD_LEN, op->len,
			 BASE);
	sqe->flags = variant->sqe_flags;
	if (op->vec) {
		for (i = 0; i < EXTENTS; i++) {
			iov[i].iov_len = op->len / EXTENTS;
			iov[i].iov_base = (void *)(GUARD_LEN +
						   i * iov[i].iov_len);
		}
		sqe->opcode = op->write ? IORING_OP_WRITEV_FIXED :
					  IORING_OP_READV_FIXED;
		sqe->addr = u64_ptr(iov);
		sqe->len = EXTENTS;
	}
	if (nth && !nth_arm(self->nth_fd, nth))
		return step_failed("fail-nth", -errno);
	ret = ring_submit(r);
	/* the system call itself met the fault: what it left, once more */
	while (!(r->setup & IORING_SETUP_SQPOLL) &&
	       *r->u.sq.khead != *r->u.sq.ktail) {
		if (ret < 0 && !clean_errno(ret))
			break;
		ret = ring_enter(r, *r->u.sq.ktail - *r->u.sq.khead, 0, 0);
	}
	ret = ring_collect(r, res, 1);
	*fired = nth ? nth_disarm(self->nth_fd) : false;
	return ret;
}

TEST_F_TIMEOUT(fail_nth, io, LONG_TIMEOUT)
{
	unsigned int i, nth, faults = 0, failed = 0;
	bool fired, ignored;
	int res;

	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		const struct op *op = &ops[i];

		for (nth = 0; nth < MAX_NTH; nth++) {
			ASSERT_EQ(0, ring_fresh(self, variant->setup,
						variant->target));
			ASSERT_EQ(1, ring_dbuf(&self->ring, 0, &self->buf,
					       self->disk.fd));
			ASSERT_EQ(0, op_run(self, variant, op, nth, &res,
					    &fired)) {
				TH_LOG("%s: didn't run, or never ended, fault %u", op->what,
				       nth);
			}
			EXPECT_TRUE(op_landed(self, op, res)) {
				TH_LOG("%s: result %d, fault %u: wrong data",
				       op->what, res, nth);
			}
			EXPECT_TRUE(res == (int)op->len ||
				    (fired && clean_errno(res))) {
				TH_LOG("%s: result %d, fault %u", op->what,
				       res, nth);
			}
			faults += fired;
			failed += res < 0;
			/* the ring and its caches survived it */
			ASSERT_EQ(0, op_run(self, variant, op, 0, &res,
					    &ignored));
			EXPECT_EQ(op->len, res) {
				TH_LOG("%s: after fault %u", op->what, nth);
			}
			EXPECT_TRUE(op_landed(self, op, res));
			ring_done(self);
			ASSERT_TRUE(dbuf_free_within(&self->buf, WAIT_MS));
			if (nth && !fired)
				break;
		}
		EXPECT_GT(MAX_NTH, nth) {
			TH_LOG("%s: still failing", op->what);
		}
	}
	EXPECT_EQ(0, dbuf_lost(&self->buf));
	TH_LOG("%u faults met, %u requests failed", faults, failed);
}

TEST_HARNESS_MAIN
