// SPDX-License-Identifier: GPL-2.0
/*
 * ublk servers with UBLK_F_FUSED_CMD that have a buffer as well: small requests
 * are copied to and from it, large ones are lent, and each read can be both.
 */
#include <sys/socket.h>
#include <sys/syscall.h>

#include "iou_ublk.h"
#include "kselftest_harness.h"

#define SMALL		(64 * 1024)
#define HALF		(SMALL / 2)
#define SEED		3
#define OTHER		5

FIXTURE(copy) {
	struct ublk_dev dev;
	/* of the server, SMALL bytes each with nothing behind them */
	unsigned char *buf, *next;
	int file;			/* REQ_SIZE bytes of the pattern */
	int pipe[2];
};

FIXTURE_VARIANT(copy) {
	unsigned int setup;
	__u64 flags;
};

FIXTURE_VARIANT_ADD(copy, plain) {
};

FIXTURE_VARIANT_ADD(copy, defer) {
	.setup = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
};

FIXTURE_VARIANT_ADD(copy, sqpoll) {
	.setup = IORING_SETUP_SQPOLL,
};

FIXTURE_VARIANT_ADD(copy, verified) {
	.setup = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
	.flags = UBLK_F_UNPRIVILEGED_DEV,
};

FIXTURE_VARIANT_ADD(copy, shared) {
	.flags = UBLK_F_SHMEM_ZC,
};

static void *buffer(void)
{
	char *p = mmap(NULL, SMALL + page_size(), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p != MAP_FAILED && !munmap(p + SMALL, page_size()) ? p : NULL;
}

/* Commands that fetch, with a buffer for requests of up to @len */
static struct io_uring_sqe *fetch(struct ublk_dev *d, unsigned int op,
				  int result, const void *buf, unsigned int len)
{
	struct io_uring_sqe *sqe = ublk_io_cmd(d, op, result);

	ublk_io_cmd_of(sqe)->addr = u64_ptr(buf);
	sqe->len = len;
	return sqe;
}

FIXTURE_SETUP(copy)
{
	struct ublk_dev *d = &self->dev;
	int ret;

	self->file = -1;
	ASSERT_EQ(0, ring_init(&d->ring, RING_ENTRIES,
			       variant->setup | IORING_SETUP_SQE_MIXED));
	if (!ring_has_op(&d->ring, IORING_OP_FUSED_CMD))
		SKIP(return, "kernel has no IORING_OP_FUSED_CMD");
	ret = ublk_dev_add(d, UBLK_F_FUSED_CMD | variant->flags);
	if (ret == -ENOENT)
		SKIP(return, "no /dev/ublk-control");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, pipe(self->pipe));
	self->file = syscall(__NR_memfd_create, "ublk", MFD_CLOEXEC);
	ASSERT_LE(0, self->file);
	self->buf = buffer();
	self->next = buffer();
	ASSERT_TRUE(self->buf && self->next);
	ASSERT_EQ(0, ublk_dev_prep(d, NULL));

	/* a length of nothing */
	fetch(d, UBLK_U_IO_FETCH_REQ, -1, NULL, SMALL);
	ASSERT_EQ(-EINVAL, ring_run(&d->ring));
	fetch(d, UBLK_U_IO_FETCH_REQ, -1, self->buf, SMALL);
	ASSERT_LE(0, ring_submit(&d->ring));
	ASSERT_EQ(0, ublk_dev_go(d));
	fill_pattern(d->data, REQ_SIZE, SEED);
	ASSERT_EQ(REQ_SIZE, write(self->file, d->data, REQ_SIZE));
	memset(d->data, POISON, REQ_SIZE);
	memset(self->buf, POISON, SMALL);
	memset(self->next, POISON, SMALL);
}

FIXTURE_TEARDOWN(copy)
{
	ublk_dev_exit(&self->dev);
	if (self->file < 0)
		return;
	munmap(self->buf, SMALL);
	munmap(self->next, SMALL);
	close(self->file);
	close(self->pipe[0]);
	close(self->pipe[1]);
}

/* A request of @bytes, of which iod->addr is to say that it has @buf */
static int request_begin(struct _test_data_copy *self, enum client_op op,
			 unsigned int bytes, const void *buf)
{
	int ret;

	self->dev.bytes = bytes;
	ret = ublk_request_begin(&self->dev, op);
	if (ret)
		return ret;
	return self->dev.iod->addr == u64_ptr(buf) ? 0 : -EPROTO;
}

static int request_commit(struct _test_data_copy *self, int result,
			  const void *buf)
{
	fetch(&self->dev, UBLK_U_IO_COMMIT_AND_FETCH_REQ, result, buf,
	      buf ? SMALL : 0);
	return ring_submit(&self->dev.ring) < 0 ? -EIO : 0;
}

/* And the next one is to have the same buffer */
static int request_finish(struct _test_data_copy *self, int result)
{
	int ret = request_commit(self, result, self->buf);

	return ret ? ret : ublk_request_end(&self->dev);
}

/* Lend all to @m members */
static void lend(struct _test_data_copy *self, unsigned int op, unsigned int nr,
		 struct io_uring_sqe **m)
{
	ublk_fused(&self->dev.ring, self->dev.cdev, op, nr, m);
}

/* A member that has @len bytes from @off on */
static void lend_part(struct _test_data_copy *self, unsigned int op,
		      enum client_op dir, unsigned int off, unsigned int len)
{
	struct io_uring_sqe *m[1];

	lend(self, op, 1, m);
	set_rw(m[0], dir == CLIENT_WRITE ? IORING_OP_WRITE : IORING_OP_READ,
	       self->file, off, len, off);
}

static bool nothing_behind(struct ublk_dev *d, unsigned int len)
{
	return all_bytes(d->data + len, POISON, REQ_SIZE - len);
}

TEST_F(copy, small_read)
{
	struct ublk_dev *d = &self->dev;

	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, self->buf));
	fill_pattern(self->buf, SMALL, SEED);
	/* what is for the next request isn't for this one */
	ASSERT_EQ(0, request_commit(self, SMALL, self->next));
	ASSERT_EQ(SMALL, ublk_request_end(d));
	EXPECT_EQ(SMALL, check_pattern(d->data, SMALL, SEED));
	EXPECT_TRUE(nothing_behind(d, SMALL));
	EXPECT_TRUE(all_bytes(self->next, POISON, SMALL));

	memset(d->data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, CLIENT_READ, 512, self->next));
	fill_pattern(self->next, SMALL, OTHER);
	/* more than there is */
	ASSERT_EQ(512, request_finish(self, SMALL));
	EXPECT_EQ(512, check_pattern(d->data, 512, OTHER));
	EXPECT_TRUE(nothing_behind(d, 512));
}

TEST_F(copy, small_write)
{
	struct ublk_dev *d = &self->dev;

	fill_pattern(d->data, REQ_SIZE, OTHER);
	ASSERT_EQ(0, request_begin(self, CLIENT_WRITE, SMALL, self->buf));
	EXPECT_EQ(SMALL, check_pattern(self->buf, SMALL, OTHER));
	ASSERT_EQ(SMALL, request_finish(self, SMALL));

	/* less than the buffer has room for */
	memset(self->buf, POISON, SMALL);
	ASSERT_EQ(0, request_begin(self, CLIENT_WRITE, 4096, self->buf));
	EXPECT_EQ(4096, check_pattern(self->buf, 4096, OTHER));
	EXPECT_TRUE(all_bytes(self->buf + 4096, POISON, SMALL - 4096));
	ASSERT_EQ(4096, request_finish(self, 4096));
}

/* Too large for the buffer, which the next one has that isn't */
TEST_F(copy, large)
{
	struct ublk_dev *d = &self->dev;

	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL + 512, NULL));
	lend_part(self, UBLK_U_IO_FUSED_COMMIT_AND_FETCH, CLIENT_READ, 0,
		  SMALL + 512);
	ASSERT_LE(0, ring_submit(&d->ring));
	ASSERT_EQ(SMALL + 512, ublk_request_end(d));
	EXPECT_EQ(SMALL + 512, check_pattern(d->data, SMALL + 512, SEED));
	EXPECT_TRUE(all_bytes(self->buf, POISON, SMALL));

	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, self->buf));
	fill_pattern(self->buf, SMALL, OTHER);
	ASSERT_EQ(SMALL, request_finish(self, SMALL));
	EXPECT_EQ(SMALL, check_pattern(d->data, SMALL, OTHER));

	/* that doesn't touch it when it is committed either */
	memset(d->data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, CLIENT_READ, REQ_SIZE, NULL));
	lend_part(self, UBLK_U_IO_FUSED_SUBMIT_IO, CLIENT_READ, 0, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, ring_run(&d->ring));
	ASSERT_EQ(REQ_SIZE, request_finish(self, REQ_SIZE));
	EXPECT_EQ(REQ_SIZE, check_pattern(d->data, REQ_SIZE, SEED));

	memset(self->buf, POISON, SMALL);
	fill_pattern(d->data, REQ_SIZE, OTHER);
	ASSERT_EQ(0, request_begin(self, CLIENT_WRITE, REQ_SIZE, NULL));
	EXPECT_TRUE(all_bytes(self->buf, POISON, SMALL));
	lend_part(self, UBLK_U_IO_FUSED_COMMIT_AND_FETCH, CLIENT_WRITE, 0,
		  REQ_SIZE);
	ASSERT_LE(0, ring_submit(&d->ring));
	ASSERT_EQ(REQ_SIZE, ublk_request_end(d));
	memset(d->data, POISON, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, pread(self->file, d->data, REQ_SIZE, 0));
	EXPECT_EQ(REQ_SIZE, check_pattern(d->data, REQ_SIZE, OTHER));
}

/* A buffer without a limit, and none at all */
TEST_F(copy, any_size)
{
	struct ublk_dev *d = &self->dev;

	ASSERT_EQ(0, request_begin(self, CLIENT_READ, 512, self->buf));
	fetch(d, UBLK_U_IO_COMMIT_AND_FETCH_REQ, 512, NULL, SMALL);
	ASSERT_EQ(-EINVAL, ring_run(&d->ring));
	ASSERT_EQ(0, request_commit(self, 512, NULL));
	ASSERT_EQ(512, ublk_request_end(d));

	memset(d->data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, NULL));
	lend_part(self, UBLK_U_IO_FUSED_COMMIT_AND_FETCH, CLIENT_READ, 0,
		  SMALL);
	ASSERT_LE(0, ring_submit(&d->ring));
	ASSERT_EQ(SMALL, ublk_request_end(d));
	EXPECT_EQ(SMALL, check_pattern(d->data, SMALL, SEED));

	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, NULL));
	fetch(d, UBLK_U_IO_COMMIT_AND_FETCH_REQ, -EIO, d->data, 0);
	ASSERT_LE(0, ring_submit(&d->ring));
	ASSERT_EQ(-EIO, ublk_request_end(d));
	ASSERT_EQ(0, request_begin(self, CLIENT_READ, REQ_SIZE, d->data));
	ASSERT_EQ(-EIO, request_finish(self, -EIO));
}

/* A part comes from a file, the rest from the buffer */
TEST_F(copy, both)
{
	struct ublk_dev *d = &self->dev;
	struct io_uring_sqe *m[2];
	unsigned int i;

	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, self->buf));
	memset(self->buf, 0xee, SMALL);
	fill_pattern(self->buf, HALF, SEED);
	lend_part(self, UBLK_U_IO_FUSED_SUBMIT_IO, CLIENT_READ, HALF, HALF);
	ASSERT_EQ(HALF, ring_run(&d->ring));
	ASSERT_EQ(SMALL, request_finish(self, SMALL));
	EXPECT_EQ(SMALL, check_pattern(d->data, SMALL, SEED));

	/* the other way round, and in three */
	memset(d->data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, self->buf));
	fill_pattern(self->buf, SMALL, SEED);
	memset(self->buf, 0xee, 512);
	memset(self->buf + HALF, 0xee, 513);
	lend(self, UBLK_U_IO_FUSED_SUBMIT_IO, 2, m);
	set_rw(m[0], IORING_OP_READ, self->file, 0, 512, 0);
	set_rw(m[1], IORING_OP_READ, self->file, HALF, 513, HALF);
	ASSERT_EQ(512 + 513, ring_run(&d->ring));
	ASSERT_EQ(SMALL, request_finish(self, SMALL));
	EXPECT_EQ(SMALL, check_pattern(d->data, SMALL, SEED));

	/* a member that fails leaves its share to the buffer, and so do commands */
	for (i = 0; i < 2; i++) {
		memset(d->data, POISON, REQ_SIZE);
		ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL,
					   self->buf));
		fill_pattern(self->buf, SMALL, SEED);
		lend(self, UBLK_U_IO_FUSED_SUBMIT_IO, 2, m);
		set_rw(m[0], IORING_OP_READ, i ? self->file : -1, 0, HALF, 0);
		if (i) {
			m[1]->opcode = IORING_OP_URING_CMD;
			m[1]->fd = self->pipe[0];
		}
		ASSERT_GT(0, ring_run(&d->ring));
		ASSERT_EQ(SMALL, request_finish(self, SMALL));
		EXPECT_EQ(SMALL, check_pattern(d->data, SMALL, SEED));
	}
}

/* All of it is there already: the buffer isn't looked at */
TEST_F(copy, lent)
{
	struct ublk_dev *d = &self->dev;

	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, self->buf));
	lend_part(self, UBLK_U_IO_FUSED_SUBMIT_IO, CLIENT_READ, 0, SMALL);
	ASSERT_EQ(SMALL, ring_run(&d->ring));
	ASSERT_EQ(SMALL, request_finish(self, SMALL));
	EXPECT_EQ(SMALL, check_pattern(d->data, SMALL, SEED));

	memset(d->data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, self->buf));
	lend_part(self, UBLK_U_IO_FUSED_COMMIT_AND_FETCH, CLIENT_READ, 0,
		  SMALL);
	ASSERT_LE(0, ring_submit(&d->ring));
	ASSERT_EQ(SMALL, ublk_request_end(d));
	EXPECT_EQ(SMALL, check_pattern(d->data, SMALL, SEED));
	/* and is there for the next one */
	memset(d->data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, self->buf));
	fill_pattern(self->buf, SMALL, OTHER);
	ASSERT_EQ(SMALL, request_finish(self, SMALL));
	EXPECT_EQ(SMALL, check_pattern(d->data, SMALL, OTHER));

	fill_pattern(d->data, REQ_SIZE, OTHER);
	ASSERT_EQ(0, request_begin(self, CLIENT_WRITE, SMALL, self->buf));
	lend_part(self, UBLK_U_IO_FUSED_COMMIT_AND_FETCH, CLIENT_WRITE, 0,
		  SMALL);
	ASSERT_LE(0, ring_submit(&d->ring));
	ASSERT_EQ(SMALL, ublk_request_end(d));
	memset(d->data, POISON, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, pread(self->file, d->data, REQ_SIZE, 0));
	EXPECT_EQ(SMALL, check_pattern(d->data, SMALL, OTHER));
}

/* What a member fills isn't known as long as it has the data */
TEST_F(copy, while_lent)
{
	struct ublk_dev *d = &self->dev;
	struct ring *r = &d->ring;
	struct io_uring_sqe *m[1];
	struct io_uring_cqe cqe;
	unsigned int i;

	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, self->buf));
	fill_pattern(self->buf, SMALL, OTHER);
	ublk_fused(r, d->cdev, UBLK_U_IO_FUSED_SUBMIT_IO, 1, m)->user_data = 1;
	set_rw(m[0], IORING_OP_READ, self->pipe[0], 0, 512, 0);
	ASSERT_LE(0, ring_submit(r));
	fetch(d, UBLK_U_IO_COMMIT_AND_FETCH_REQ, SMALL, self->buf, SMALL);
	ASSERT_EQ(-EBUSY, ring_run(r));
	EXPECT_TRUE(all_bytes(d->data, POISON, REQ_SIZE));

	/* nothing was lost by that */
	fill_pattern(self->next, 512, SEED);
	ASSERT_EQ(512, write(self->pipe[1], self->next, 512));
	ASSERT_EQ(0, ring_wait(r, &cqe));
	ASSERT_EQ(1, cqe.user_data);
	ASSERT_EQ(512, cqe.res);
	ASSERT_EQ(SMALL, request_finish(self, SMALL));
	EXPECT_EQ(512, check_pattern(d->data, 512, SEED));
	for (i = 512; i < SMALL && d->data[i] == pattern(i, OTHER); i++)
		;
	EXPECT_EQ(SMALL, i);

	/* an error has no data, nor has what is too large for the buffer */
	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, self->buf));
	ublk_fused(r, d->cdev, UBLK_U_IO_FUSED_SUBMIT_IO, 1, m)->user_data = 1;
	set_rw(m[0], IORING_OP_READ, self->pipe[0], 0, 512, 0);
	ASSERT_EQ(0, request_commit(self, -EIO, self->buf));
	ASSERT_EQ(512, write(self->pipe[1], self->next, 512));
	ASSERT_EQ(0, ring_wait(r, &cqe));
	ASSERT_EQ(1, cqe.user_data);
	ASSERT_EQ(-EIO, ublk_request_end(d));
	ASSERT_EQ(0, request_begin(self, CLIENT_READ, REQ_SIZE, NULL));
	ublk_fused(r, d->cdev, UBLK_U_IO_FUSED_SUBMIT_IO, 1, m)->user_data = 1;
	set_rw(m[0], IORING_OP_READ, self->pipe[0], 0, 512, 0);
	ASSERT_EQ(0, request_commit(self, REQ_SIZE, self->buf));
	ASSERT_EQ(512, write(self->pipe[1], self->next, 512));
	ASSERT_EQ(0, ring_wait(r, &cqe));
	ASSERT_EQ(1, cqe.user_data);
	if (!(variant->flags & UBLK_F_UNPRIVILEGED_DEV)) {
		ASSERT_EQ(REQ_SIZE, ublk_request_end(d));
		return;
	}
	ASSERT_EQ(0, ring_result(r));
	EXPECT_EQ(1, d->iod->start_sector);
	ASSERT_EQ(-EIO, request_finish(self, -EIO));
}

/* Less than was asked for: the rest is a request of its own */
TEST_F(copy, short_read)
{
	struct ublk_dev *d = &self->dev;
	struct io_uring_cqe cqe;

	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, self->buf));
	fill_pattern(self->buf, SMALL, SEED);
	ASSERT_EQ(0, request_commit(self, HALF, self->next));
	ASSERT_EQ(0, ring_wait(&d->ring, &cqe));
	ASSERT_EQ(0, cqe.res);
	EXPECT_EQ(IORING_CQE_F_PARTIAL, cqe.flags);
	EXPECT_EQ(HALF >> 9, d->iod->start_sector);
	EXPECT_EQ(HALF >> 9, d->iod->nr_sectors);
	ASSERT_EQ(u64_ptr(self->next), d->iod->addr);
	EXPECT_TRUE(all_bytes(d->data + HALF, POISON, REQ_SIZE - HALF));
	memcpy(self->next, self->buf + HALF, HALF);
	ASSERT_EQ(SMALL, request_finish(self, HALF));
	EXPECT_EQ(SMALL, check_pattern(d->data, SMALL, SEED));

	/* nothing, and not as much as a block */
	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, self->buf));
	ASSERT_EQ(-EIO, request_finish(self, 0));
	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, self->buf));
	ASSERT_EQ(-EIO, request_finish(self, 511));
	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, self->buf));
	ASSERT_EQ(-EIO, request_finish(self, -ENXIO));
}

/* Memory that isn't there */
TEST_F(copy, bad_buffer)
{
	struct ublk_dev *d = &self->dev;
	const void *kernel = (void *)(intptr_t)-4096L;
	struct io_uring_sqe *m[1];

	ASSERT_EQ(0, munmap(self->next + HALF, HALF));
	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, self->buf));
	ASSERT_EQ(0, request_commit(self, -EIO, self->next));
	ASSERT_EQ(-EIO, ublk_request_end(d));

	/* half of it: that much was read */
	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, self->next));
	fill_pattern(self->next, HALF, SEED);
	ASSERT_EQ(0, request_commit(self, SMALL, kernel));
	ASSERT_EQ(0, ring_result(&d->ring));
	ASSERT_EQ(HALF >> 9, d->iod->nr_sectors);
	EXPECT_EQ(HALF, check_pattern(d->data, HALF, SEED));
	EXPECT_TRUE(all_bytes(d->data + HALF, POISON, REQ_SIZE - HALF));
	/* none of it */
	ASSERT_EQ(0, request_commit(self, HALF, self->next));
	ASSERT_EQ(-EIO, ublk_request_end(d));
	EXPECT_TRUE(all_bytes(d->data + HALF, POISON, REQ_SIZE - HALF));

	/* data that can't be copied can be lent */
	fill_pattern(d->data, REQ_SIZE, OTHER);
	ASSERT_EQ(0, request_begin(self, CLIENT_WRITE, SMALL, NULL));
	lend(self, UBLK_U_IO_FUSED_SUBMIT_IO, 1, m);
	set_rw(m[0], IORING_OP_WRITE, self->file, 0, SMALL, 0);
	ASSERT_EQ(SMALL, ring_run(&d->ring));
	ASSERT_EQ(0, request_commit(self, SMALL, kernel));
	ASSERT_EQ(SMALL, ublk_request_end(d));
	ASSERT_EQ(0, request_begin(self, CLIENT_WRITE, SMALL, NULL));
	ASSERT_EQ(0, request_commit(self, -EIO, self->buf));
	ASSERT_EQ(-EIO, ublk_request_end(d));
	memset(d->data, POISON, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, pread(self->file, d->data, REQ_SIZE, 0));
	EXPECT_EQ(SMALL, check_pattern(d->data, SMALL, OTHER));
}

/* What may have been filled in a way that the driver doesn't see stays */
TEST_F(copy, unknown_fill)
{
	struct ublk_dev *d = &self->dev;
	struct io_uring_sqe *m[2];
	int sock[2], type;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, self->buf));
	fill_pattern(self->buf, SMALL, OTHER);
	lend(self, UBLK_U_IO_FUSED_SUBMIT_IO, 2, m);
	set_rw(m[0], IORING_OP_READ, self->file, 0, HALF, 0);
	m[1]->opcode = IORING_OP_URING_CMD;
	m[1]->fd = sock[0];
	m[1]->cmd_op = SOCKET_URING_OP_GETSOCKOPT;
	m[1]->level = SOL_SOCKET;
	m[1]->optname = SO_TYPE;
	m[1]->optval = u64_ptr(&type);
	m[1]->optlen = sizeof(type);
	/* the command doesn't know what it has filled either */
	ASSERT_EQ(-EIO, ring_run(&d->ring));
	if (variant->flags & UBLK_F_UNPRIVILEGED_DEV) {
		/* no more than what it is known to have filled */
		ASSERT_EQ(0, request_commit(self, SMALL, self->buf));
		ASSERT_EQ(0, ring_result(&d->ring));
		EXPECT_EQ(HALF >> 9, d->iod->nr_sectors);
		ASSERT_EQ(-EIO, request_finish(self, -EIO));
	} else {
		ASSERT_EQ(SMALL, request_finish(self, SMALL));
	}
	EXPECT_EQ(HALF, check_pattern(d->data, HALF, SEED));
	EXPECT_TRUE(all_bytes(d->data + HALF, POISON, REQ_SIZE - HALF));
	close(sock[0]);
	close(sock[1]);
}

/* What was filled in more pieces than the driver notes isn't copied over */
TEST_F(copy, lost)
{
	static struct iovec iov[2][1024];
	struct ublk_dev *d = &self->dev;
	struct io_uring_sqe *m[2];
	unsigned int i, j;

	for (i = 0; i < 2; i++)
		for (j = 0; j < 1024; j++)
			iov[i][j] = (struct iovec) {
				(void *)(uintptr_t)(1 + 2 * (1024 * i + j)), 1
			};
	ASSERT_EQ(0, request_begin(self, CLIENT_READ, SMALL, self->buf));
	fill_pattern(self->buf, SMALL, OTHER);
	lend(self, UBLK_U_IO_FUSED_SUBMIT_IO, 2, m);
	for (i = 0; i < 2; i++) {
		m[i]->opcode = IORING_OP_READV_FIXED;
		m[i]->fd = self->file;
		m[i]->addr = u64_ptr(iov[i]);
		m[i]->len = 1024;
	}
	ASSERT_EQ(2048, ring_run(&d->ring));
	ASSERT_EQ(variant->flags & UBLK_F_UNPRIVILEGED_DEV ? -EIO : -ENOMEM,
		  request_finish(self, SMALL));
	for (i = 0; i < 1024; i++)
		ASSERT_EQ(pattern(i, SEED), d->data[2 * i + 1]);
	ASSERT_EQ(POISON, d->data[0]);
	EXPECT_TRUE(nothing_behind(d, SMALL));
}

/* Data that is where the server has it isn't copied there */
TEST_F(copy, shared_memory)
{
	struct ublk_dev *d = &self->dev;
	int ret = ublk_share_memory(d);

	if (!(variant->flags & UBLK_F_SHMEM_ZC)) {
		EXPECT_EQ(-EOPNOTSUPP, ret);
		return;
	}
	ASSERT_LE(0, ret);
	fill_pattern(d->data, REQ_SIZE, OTHER);
	d->bytes = SMALL;
	ASSERT_EQ(0, ublk_request_begin(d, CLIENT_WRITE));
	ASSERT_TRUE(d->iod->op_flags & UBLK_IO_F_SHMEM_ZC);
	EXPECT_TRUE(all_bytes(self->buf, POISON, SMALL));
	ASSERT_EQ(SMALL, request_finish(self, SMALL));
	ASSERT_EQ(0, ublk_request_begin(d, CLIENT_READ));
	ASSERT_TRUE(d->iod->op_flags & UBLK_IO_F_SHMEM_ZC);
	fill_pattern(d->data, SMALL, SEED);
	ASSERT_EQ(SMALL, request_finish(self, SMALL));
	EXPECT_EQ(SMALL, check_pattern(d->data, SMALL, SEED));
}

TEST_HARNESS_MAIN
