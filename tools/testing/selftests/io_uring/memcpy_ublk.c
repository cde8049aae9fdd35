// SPDX-License-Identifier: GPL-2.0
/*
 * Buffers that the kernel lends: a ublk server answers reads and takes writes
 * of its block device with MEMCPY and MEMCPY_IMMEDIATE alone. The buffer of a
 * read may only be written and that of a write only be read, and a copy that
 * is under way keeps the block request alive.
 */
#include "iou_ublk.h"
#include "kselftest_harness.h"

#define SEED		3
/* Slots of the buffer table: the request, and memory of the server */
#define BUF_REQ		0
#define BUF_MEM		1
#define BUF_NR		2

FIXTURE(ublk) {
	struct ublk_dev dev;
	unsigned int flags;
	struct arena mem;
};

FIXTURE_VARIANT(ublk) {
	unsigned int setup;
	unsigned int sqe_flags;
	bool auto_reg;
};

FIXTURE_VARIANT_ADD(ublk, plain) {
};

FIXTURE_VARIANT_ADD(ublk, coop) {
	.setup = IORING_SETUP_COOP_TASKRUN,
};

FIXTURE_VARIANT_ADD(ublk, defer) {
	.setup = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
};

FIXTURE_VARIANT_ADD(ublk, sqpoll) {
	.setup = IORING_SETUP_SQPOLL,
};

FIXTURE_VARIANT_ADD(ublk, iowq) {
	.sqe_flags = IOSQE_ASYNC,
};

FIXTURE_VARIANT_ADD(ublk, auto_reg) {
	.setup = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
	.auto_reg = true,
};

/* FETCH and COMMIT carry where the buffer of the request shall go */
static __u64 auto_addr(void)
{
	struct ublk_auto_buf_reg reg = { .index = BUF_REQ };

	return ublk_auto_buf_reg_to_sqe_addr(&reg);
}

FIXTURE_SETUP(ublk)
{
	__u64 flags = UBLK_F_SUPPORT_ZERO_COPY;
	struct ublk_dev *d = &self->dev;
	int ret;

	ASSERT_EQ(0, ring_init(&d->ring, RING_ENTRIES, variant->setup));
	if (!ring_has_op(&d->ring, IORING_OP_MEMCPY))
		SKIP(return, "kernel has no IORING_OP_MEMCPY");
	self->flags = variant->sqe_flags;
	ASSERT_EQ(0, arena_init(&self->mem, REQ_SIZE, true));
	ASSERT_EQ(0, ring_buffers_sparse(&d->ring, BUF_NR));
	ASSERT_EQ(1, ring_buffer_set(&d->ring, BUF_MEM, self->mem.mem,
				     REQ_SIZE));
	if (variant->auto_reg)
		flags |= UBLK_F_AUTO_BUF_REG;
	ret = ublk_dev_add(d, flags);
	if (ret)
		SKIP(return, "ublk without zero copy: %s", strerror(-ret));
	ASSERT_EQ(0, ublk_dev_start(d, variant->auto_reg ? auto_addr() : 0));
}

FIXTURE_TEARDOWN(ublk)
{
	ublk_dev_exit(&self->dev);
	arena_exit(&self->mem);
}

/* A request of the other thread is here, its buffer in slot BUF_REQ: 0 */
static int request_begin(struct _test_data_ublk *self,
			 const struct _fixture_variant_ublk *variant, bool write)
{
	struct ublk_dev *d = &self->dev;
	int ret = ublk_request_begin(d, write ? CLIENT_WRITE : CLIENT_READ);

	if (ret || variant->auto_reg)
		return ret;
	ublk_io_cmd_of(ublk_io_cmd(d, UBLK_U_IO_REGISTER_IO_BUF, 0))->addr =
		BUF_REQ;
	return ring_run(&d->ring);
}

static int request_unregister(struct _test_data_ublk *self,
			      const struct _fixture_variant_ublk *variant)
{
	struct ublk_dev *d = &self->dev;

	if (variant->auto_reg)
		return 0;
	ublk_io_cmd_of(ublk_io_cmd(d, UBLK_U_IO_UNREGISTER_IO_BUF, 0))->addr =
		BUF_REQ;
	return ring_run(&d->ring);
}

static int request_commit(struct _test_data_ublk *self,
			  const struct _fixture_variant_ublk *variant, int result)
{
	return ublk_request_commit(&self->dev, result,
				   variant->auto_reg ? auto_addr() : 0);
}

static int request_end(struct _test_data_ublk *self)
{
	return ublk_request_end(&self->dev);
}

static int request_finish(struct _test_data_ublk *self,
			  const struct _fixture_variant_ublk *variant, int result)
{
	int ret = request_unregister(self, variant);

	if (!ret)
		ret = request_commit(self, variant, result);
	return ret ? ret : request_end(self);
}

/* For a lent buffer the address is an offset into it */
static struct io_uring_sqe *to_req(struct _test_data_ublk *self, size_t off,
				   const void *src, size_t len)
{
	struct io_uring_sqe *sqe = ring_memcpy(&self->dev.ring, NULL, src, len);

	sqe->addr = off;
	sqe->buf_index = BUF_REQ;
	sqe->memcpy_flags = IORING_MEMCPY_DST_FIXED;
	sqe->flags = self->flags;
	return sqe;
}

static struct io_uring_sqe *from_req(struct _test_data_ublk *self, void *dst,
				     size_t off, size_t len)
{
	struct io_uring_sqe *sqe = ring_memcpy(&self->dev.ring, dst, NULL, len);

	sqe->addr2 = off;
	sqe->file_index = BUF_REQ;
	sqe->memcpy_flags = IORING_MEMCPY_SRC_FIXED;
	sqe->flags = self->flags;
	return sqe;
}

/*
 * Take a write, or answer a read, in odd pieces. The server's side is user
 * memory, or the same as a registered buffer.
 */
static void serve_in_pieces(struct __test_metadata *_metadata,
			    struct _test_data_ublk *self,
			    const struct _fixture_variant_ublk *variant,
			    bool write, bool fixed)
{
	static const size_t cuts[] = {
		0, 1, 4095, 8191, 73729, 73793, REQ_SIZE - 3, REQ_SIZE,
	};
	unsigned char *from = write ? self->dev.data : self->mem.view;
	unsigned char *to = write ? self->mem.view : self->dev.data;
	struct io_uring_sqe *sqe;
	unsigned int i;

	fill_pattern(from, REQ_SIZE, SEED + fixed);
	memset(to, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, variant, write));
	for (i = 1; i < ARRAY_SIZE(cuts); i++) {
		size_t off = cuts[i - 1], len = cuts[i] - off;

		if (write)
			sqe = from_req(self, self->mem.mem + off, off, len);
		else
			sqe = to_req(self, off, self->mem.mem + off, len);
		if (fixed && write) {
			sqe->memcpy_flags |= IORING_MEMCPY_DST_FIXED;
			sqe->buf_index = BUF_MEM;
		} else if (fixed) {
			sqe->memcpy_flags |= IORING_MEMCPY_SRC_FIXED;
			sqe->file_index = BUF_MEM;
		}
		ASSERT_EQ(len, ring_run(&self->dev.ring));
	}
	ASSERT_EQ(REQ_SIZE, request_finish(self, variant, REQ_SIZE));
	EXPECT_EQ(REQ_SIZE, check_pattern(to, REQ_SIZE, SEED + fixed));
}

TEST_F_TIMEOUT(ublk, answer_read, LONG_TIMEOUT)
{
	serve_in_pieces(_metadata, self, variant, false, false);
	serve_in_pieces(_metadata, self, variant, false, true);
}

TEST_F_TIMEOUT(ublk, take_write, LONG_TIMEOUT)
{
	serve_in_pieces(_metadata, self, variant, true, false);
	serve_in_pieces(_metadata, self, variant, true, true);
}

/* A header in front of the payload, without touching the payload */
TEST_F_TIMEOUT(ublk, immediate_into_read, LONG_TIMEOUT)
{
	struct io_uring_sqe *sqe;
	unsigned int len;

	memset(self->dev.data, 0, REQ_SIZE);
	memset(self->mem.view, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, variant, false));
	to_req(self, 0, self->mem.mem, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, ring_run(&self->dev.ring));
	for (len = 1; len <= 8; len++) {
		sqe = ring_imm(&self->dev.ring, NULL, 0x0807060504030201ULL, len);
		sqe->addr = 4096 * len - (len & (len - 1) ? 1 : len);
		sqe->memcpy_flags = IORING_MEMCPY_DST_FIXED;
		sqe->buf_index = BUF_REQ;
		sqe->flags = self->flags;
		ASSERT_EQ(len, ring_run(&self->dev.ring));
	}
	sqe = ring_imm(&self->dev.ring, NULL, 0, 8);
	sqe->addr = REQ_SIZE;
	sqe->memcpy_flags = IORING_MEMCPY_DST_FIXED;
	sqe->buf_index = BUF_REQ;
	sqe->flags = self->flags;
	EXPECT_EQ(-EFAULT, ring_run(&self->dev.ring));
	ASSERT_EQ(REQ_SIZE, request_finish(self, variant, REQ_SIZE));
	for (len = 1; len <= 8; len++) {
		unsigned char *at = self->dev.data + 4096 * len -
				    (len & (len - 1) ? 1 : len);

		EXPECT_EQ(POISON, at[-1]);
		EXPECT_EQ(POISON, at[len]);
		if (len == 4)
			EXPECT_EQ(0x04030201, *(__u32 *)at);
		if (len == 8)
			EXPECT_EQ(0x0807060504030201ULL, *(__u64 *)at);
		EXPECT_FALSE(all_bytes(at, POISON, len));
		memset(at, POISON, len);
	}
	EXPECT_TRUE(all_bytes(self->dev.data, POISON, REQ_SIZE));
}

/* What is read from the device may not be read by the server, and so on */
TEST_F_TIMEOUT(ublk, wrong_direction, LONG_TIMEOUT)
{
	struct io_uring_sqe *sqe;
	unsigned int i;
	static const size_t lens[] = { 1, 4096, 100000 };

	memset(self->mem.view, POISON, REQ_SIZE);
	memset(self->dev.data, 0x33, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, variant, false));
	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		from_req(self, self->mem.mem, 0, lens[i]);
		EXPECT_EQ(-EFAULT, ring_run(&self->dev.ring));
		sqe = from_req(self, self->mem.mem, 0, lens[i]);
		sqe->memcpy_flags |= IORING_MEMCPY_DST_FIXED;
		sqe->buf_index = BUF_MEM;
		EXPECT_EQ(-EFAULT, ring_run(&self->dev.ring));
	}
	EXPECT_TRUE(all_bytes(self->mem.view, POISON, REQ_SIZE));
	to_req(self, 0, self->mem.mem, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, ring_run(&self->dev.ring));
	ASSERT_EQ(REQ_SIZE, request_finish(self, variant, REQ_SIZE));
	EXPECT_TRUE(all_bytes(self->dev.data, POISON, REQ_SIZE));

	memset(self->dev.data, 0x33, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, variant, true));
	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		to_req(self, 0, self->mem.mem, lens[i]);
		EXPECT_EQ(-EFAULT, ring_run(&self->dev.ring));
		sqe = to_req(self, 0, self->mem.mem, lens[i]);
		sqe->memcpy_flags |= IORING_MEMCPY_SRC_FIXED;
		sqe->file_index = BUF_MEM;
		EXPECT_EQ(-EFAULT, ring_run(&self->dev.ring));
	}
	for (i = 1; i <= 8; i++) {
		sqe = ring_imm(&self->dev.ring, NULL, 0, i);
		sqe->memcpy_flags = IORING_MEMCPY_DST_FIXED;
		sqe->buf_index = BUF_REQ;
		sqe->flags = self->flags;
		EXPECT_EQ(-EFAULT, ring_run(&self->dev.ring));
	}
	from_req(self, self->mem.mem, 0, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, ring_run(&self->dev.ring));
	EXPECT_TRUE(all_bytes(self->mem.view, 0x33, REQ_SIZE));
	ASSERT_EQ(REQ_SIZE, request_finish(self, variant, REQ_SIZE));
	EXPECT_TRUE(all_bytes(self->dev.data, 0x33, REQ_SIZE));
}

TEST_F_TIMEOUT(ublk, outside_of_request, LONG_TIMEOUT)
{
	static const struct {
		__u64 off;
		__u32 len;
	} rows[] = {
		{ REQ_SIZE, 1 }, { REQ_SIZE - 1, 2 }, { 0, REQ_SIZE + 1 },
		{ 1, REQ_SIZE }, { ~0ULL, 1 }, { ~0ULL - 5, 10 },
		{ 1ULL << 40, 64 }, { 0xffff888000100000ULL, 64 },
	};
	unsigned int i;

	memset(self->mem.view, POISON, REQ_SIZE);
	memset(self->dev.data, 0x33, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, variant, false));
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		to_req(self, rows[i].off, self->mem.mem, rows[i].len);
		EXPECT_EQ(-EFAULT, ring_run(&self->dev.ring)) {
			TH_LOG("offset %llx",
			       (unsigned long long)rows[i].off);
		}
	}
	ASSERT_EQ(REQ_SIZE, request_finish(self, variant, REQ_SIZE));
	EXPECT_TRUE(all_bytes(self->dev.data, 0x33, REQ_SIZE));

	ASSERT_EQ(0, request_begin(self, variant, true));
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		from_req(self, self->mem.mem, rows[i].off, rows[i].len);
		EXPECT_EQ(-EFAULT, ring_run(&self->dev.ring));
	}
	ASSERT_EQ(REQ_SIZE, request_finish(self, variant, REQ_SIZE));
	EXPECT_TRUE(all_bytes(self->mem.view, POISON, REQ_SIZE));

	/* the slot is empty now */
	to_req(self, 0, self->mem.mem, 64);
	EXPECT_EQ(-EFAULT, ring_run(&self->dev.ring));
}

/* A server memory fault half way: the exact count, as with user memory */
TEST_F_TIMEOUT(ublk, short_copy, LONG_TIMEOUT)
{
	size_t n = 70001;

	memset(self->dev.data, 0x33, REQ_SIZE);
	memset(self->mem.view, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, variant, false));
	to_req(self, 5, self->mem.mem + REQ_SIZE - n, n + 1000);
	EXPECT_EQ(n, ring_run(&self->dev.ring));
	ASSERT_EQ(REQ_SIZE, request_finish(self, variant, REQ_SIZE));
	EXPECT_TRUE(all_bytes(self->dev.data, 0x33, 5));
	EXPECT_TRUE(all_bytes(self->dev.data + 5, POISON, n));
	EXPECT_TRUE(all_bytes(self->dev.data + 5 + n, 0x33, REQ_SIZE - 5 - n));
}

/*
 * The server gives buffer and request back while a copy into it is stuck: the
 * reader does not get its answer before the copy is done.
 */
TEST_F_TIMEOUT(ublk, commit_in_flight, LONG_TIMEOUT)
{
	size_t ps = page_size(), at = 10 * ps;
	struct io_uring_sqe *sqe;
	unsigned char *src;
	struct blocker b;
	int ret, i;

	src = mmap(NULL, REQ_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, src);
	memset(src, 0x44, REQ_SIZE);
	ret = blocker_init(&b, src + at, ps, 0x55);
	if (ret)
		SKIP(return, "no userfaultfd: %s", strerror(-ret));
	memset(self->dev.data, 0x33, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, variant, false));
	sqe = to_req(self, 0, src, REQ_SIZE);
	/* its CQE comes as one of two, the other is the next request's */
	sqe->user_data = 77;
	ASSERT_EQ(1, ring_submit(&self->dev.ring));
	EXPECT_TRUE(blocker_wait(&b, WAIT_MS / 4));
	EXPECT_EQ(0, request_unregister(self, variant));
	EXPECT_EQ(0, request_commit(self, variant, REQ_SIZE));
	for (i = 0; i < 50; i++) {
		ring_enter(&self->dev.ring, 0, 0, IORING_ENTER_GETEVENTS);
		usleep(1000);
	}
	EXPECT_EQ(NOT_YET, __atomic_load_n(&self->dev.moved, __ATOMIC_ACQUIRE));
	EXPECT_TRUE(blocker_release(&b));
	EXPECT_EQ(REQ_SIZE, ring_result(&self->dev.ring));
	EXPECT_EQ(REQ_SIZE, request_end(self));
	EXPECT_TRUE(all_bytes(self->dev.data, 0x44, at));
	EXPECT_TRUE(all_bytes(self->dev.data + at, 0x55, ps));
	EXPECT_TRUE(all_bytes(self->dev.data + at + ps, 0x44, REQ_SIZE - at - ps));
	munmap(src, REQ_SIZE);
}

/* Copy and store to a word that somebody spins on, as one chain */
TEST_F_TIMEOUT(ublk, chain_answers, LONG_TIMEOUT)
{
	struct io_uring_sqe *sqe;
	int res[2], round;

	for (round = 0; round < 8; round++) {
		__u32 word = 0;

		fill_pattern(self->mem.view, REQ_SIZE, round);
		ASSERT_EQ(0, request_begin(self, variant, false));
		sqe = to_req(self, 0, self->mem.mem, REQ_SIZE);
		sqe->flags |= IOSQE_IO_LINK;
		sqe = ring_imm(&self->dev.ring, &word, round + 1, 4);
		sqe->flags = self->flags;
		sqe->user_data = 1;
		ASSERT_EQ(2, ring_submit(&self->dev.ring));
		ASSERT_EQ(0, ring_collect(&self->dev.ring, res, 2));
		EXPECT_EQ(REQ_SIZE, res[0]);
		EXPECT_EQ(4, res[1]);
		EXPECT_EQ(round + 1, word);
		ASSERT_EQ(REQ_SIZE, request_finish(self, variant, REQ_SIZE));
		EXPECT_EQ(REQ_SIZE, check_pattern(self->dev.data, REQ_SIZE,
						  round));
	}
}

TEST_HARNESS_MAIN
