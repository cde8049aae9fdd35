// SPDX-License-Identifier: GPL-2.0
/*
 * Buffers that the kernel lends: a ublk server answers reads and takes writes
 * of its block device with MEMCPY and MEMCPY_IMMEDIATE alone. The buffer of a
 * read may only be written and that of a write only be read, and a copy that
 * is under way keeps the block request alive.
 */
#include <linux/ublk_cmd.h>

#include "iou_test.h"
#include "kselftest_harness.h"

#define REQ_SIZE	(256 * 1024)
#define SEED		3
/* Slots of the buffer table: the request, and memory of the server */
#define BUF_REQ		0
#define BUF_MEM		1
#define BUF_NR		2
#define DEPTH		1

FIXTURE(ublk) {
	struct ring ctrl, ring;
	unsigned int flags;
	__u32 dev_id;
	bool added, started;
	int cdev, bdev;
	const struct ublksrv_io_desc *iod;
	struct arena mem;
	/* the other end of the block device */
	pthread_t client;
	unsigned char *data;
	bool write;
	ssize_t moved;
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

static int ctrl(struct ring *r, int fd, unsigned int op, __u32 dev_id,
		void *addr, unsigned int len, __u64 data)
{
	/* one entry of 128 bytes, so that the array has no stride to miss */
	struct io_uring_sqe *sqe = ring_sqe(r, IORING_OP_URING_CMD);
	struct ublksrv_ctrl_cmd cmd = {
		.dev_id = dev_id, .queue_id = -1, .addr = u64_ptr(addr),
		.len = len, .data[0] = data,
	};

	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	sqe->cmd_op = op;
	sqe->fd = fd;
	return ring_run(r);
}

static struct io_uring_sqe *io_cmd(struct ring *r, int cdev, unsigned int op,
				   __u64 addr, int result)
{
	struct io_uring_sqe *sqe = ring_sqe(r, IORING_OP_URING_CMD);
	struct ublksrv_io_cmd cmd = { .result = result, .addr = addr };

	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	sqe->cmd_op = op;
	sqe->fd = cdev;
	return sqe;
}

/* FETCH and COMMIT carry where the buffer of the request shall go */
static __u64 auto_addr(void)
{
	struct ublk_auto_buf_reg reg = { .index = BUF_REQ };

	return ublk_auto_buf_reg_to_sqe_addr(&reg);
}

static int open_retry(const char *fmt, __u32 id, int flags)
{
	__u64 end = now_ms() + WAIT_MS / 2;
	char name[32];
	int fd;

	snprintf(name, sizeof(name), fmt, id);
	do {
		fd = open(name, flags | O_CLOEXEC);
		if (fd >= 0)
			return fd;
		usleep(5000);
	} while (now_ms() < end);
	return -errno;
}

FIXTURE_SETUP(ublk)
{
	struct ublksrv_ctrl_dev_info info = {
		.nr_hw_queues = 1, .queue_depth = DEPTH,
		.max_io_buf_bytes = REQ_SIZE, .dev_id = -1,
		.flags = UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_NO_AUTO_PART_SCAN,
	};
	struct ublk_params params = {
		.len = sizeof(params), .types = UBLK_PARAM_TYPE_BASIC,
		.basic = {
			.logical_bs_shift = 9, .physical_bs_shift = 12,
			.io_opt_shift = 12, .io_min_shift = 9,
			.max_sectors = REQ_SIZE >> 9,
			.dev_sectors = REQ_SIZE >> 9,
		},
	};
	struct io_uring_sqe *sqe;
	int fd, ret;

	self->cdev = -1;
	self->bdev = -1;
	fd = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		SKIP(return, "/dev/ublk-control: %s", strerror(errno));
	ret = ring_init(&self->ring, RING_ENTRIES, variant->setup);
	ASSERT_EQ(0, ret);
	if (!ring_has_op(&self->ring, IORING_OP_MEMCPY))
		SKIP(return, "kernel has no IORING_OP_MEMCPY");
	ASSERT_EQ(0, ring_init(&self->ctrl, 1, IORING_SETUP_SQE128));
	self->flags = variant->sqe_flags;
	ASSERT_EQ(0, arena_init(&self->mem, REQ_SIZE, true));
	ASSERT_EQ(0, ring_buffers_sparse(&self->ring, BUF_NR));
	ASSERT_EQ(1, ring_buffer_set(&self->ring, BUF_MEM, self->mem.mem,
				     REQ_SIZE));
	self->data = mmap(NULL, REQ_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->data);

	if (variant->auto_reg)
		info.flags |= UBLK_F_AUTO_BUF_REG;
	ret = ctrl(&self->ctrl, fd, UBLK_U_CMD_ADD_DEV, -1, &info,
		   sizeof(info), 0);
	if (ret)
		SKIP(return, "ublk without zero copy: %s", strerror(-ret));
	self->dev_id = info.dev_id;
	self->added = true;
	ASSERT_EQ(0, ctrl(&self->ctrl, fd, UBLK_U_CMD_SET_PARAMS,
			  self->dev_id, &params, sizeof(params), 0));
	self->cdev = open_retry("/dev/ublkc%u", self->dev_id, O_RDWR);
	ASSERT_LE(0, self->cdev);
	self->iod = mmap(NULL, page_size(), PROT_READ, MAP_SHARED, self->cdev,
			 UBLKSRV_CMD_BUF_OFFSET);
	ASSERT_NE(MAP_FAILED, self->iod);

	sqe = io_cmd(&self->ring, self->cdev, UBLK_U_IO_FETCH_REQ, 0, -1);
	if (variant->auto_reg)
		sqe->addr = auto_addr();
	ASSERT_EQ(1, ring_submit(&self->ring));
	ASSERT_EQ(0, ctrl(&self->ctrl, fd, UBLK_U_CMD_START_DEV,
			  self->dev_id, NULL, 0, getpid()));
	self->started = true;
	self->bdev = open_retry("/dev/ublkb%u", self->dev_id,
				O_RDWR | O_DIRECT);
	ASSERT_LE(0, self->bdev);
	close(fd);
}

FIXTURE_TEARDOWN(ublk)
{
	int fd = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);

	if (self->bdev >= 0)
		close(self->bdev);
	if (self->started)
		ctrl(&self->ctrl, fd, UBLK_U_CMD_STOP_DEV, self->dev_id, NULL,
		     0, 0);
	if (self->iod)
		munmap((void *)self->iod, page_size());
	ring_exit(&self->ring);
	if (self->cdev >= 0)
		close(self->cdev);
	if (self->added)
		ctrl(&self->ctrl, fd, UBLK_U_CMD_DEL_DEV_ASYNC, self->dev_id,
		     NULL, 0, 0);
	ring_exit(&self->ctrl);
	arena_exit(&self->mem);
	if (fd >= 0)
		close(fd);
}

static void *client_thread(void *arg)
{
	struct _test_data_ublk *self = arg;
	ssize_t ret;

	if (self->write)
		ret = pwrite(self->bdev, self->data, REQ_SIZE, 0);
	else
		ret = pread(self->bdev, self->data, REQ_SIZE, 0);
	__atomic_store_n(&self->moved, ret < 0 ? -errno : ret,
			 __ATOMIC_RELEASE);
	return NULL;
}

#define NOT_YET		0x7fffffff

/* A request of the other thread is here, its buffer in slot BUF_REQ: 0 */
static int request_begin(struct _test_data_ublk *self,
			 const struct _fixture_variant_ublk *variant, bool write)
{
	int ret;

	self->write = write;
	self->moved = NOT_YET;
	if (pthread_create(&self->client, NULL, client_thread, self))
		return -EAGAIN;
	ret = ring_result(&self->ring);
	if (ret)
		return ret;
	if (self->iod->nr_sectors != REQ_SIZE >> 9 ||
	    ublksrv_get_op(self->iod) != (write ? UBLK_IO_OP_WRITE :
						  UBLK_IO_OP_READ))
		return -EBADMSG;
	if (variant->auto_reg)
		return 0;
	io_cmd(&self->ring, self->cdev, UBLK_U_IO_REGISTER_IO_BUF, BUF_REQ, 0);
	return ring_run(&self->ring);
}

static int request_unregister(struct _test_data_ublk *self,
			      const struct _fixture_variant_ublk *variant)
{
	if (variant->auto_reg)
		return 0;
	io_cmd(&self->ring, self->cdev, UBLK_U_IO_UNREGISTER_IO_BUF, BUF_REQ,
	       0);
	return ring_run(&self->ring);
}

static int request_commit(struct _test_data_ublk *self,
			  const struct _fixture_variant_ublk *variant, int result)
{
	struct io_uring_sqe *sqe;

	sqe = io_cmd(&self->ring, self->cdev, UBLK_U_IO_COMMIT_AND_FETCH_REQ, 0,
		     result);
	if (variant->auto_reg)
		sqe->addr = auto_addr();
	/* its CQE is the next request */
	return ring_submit(&self->ring) == 1 ? 0 : -EIO;
}

/* The other thread got its answer: what it returned, or -ETIME */
static int request_end(struct _test_data_ublk *self)
{
	__u64 end = now_ms() + WAIT_MS;
	ssize_t ret;

	do {
		ret = __atomic_load_n(&self->moved, __ATOMIC_ACQUIRE);
		if (ret != NOT_YET) {
			pthread_join(self->client, NULL);
			return ret;
		}
		usleep(500);
		/* COMMIT completes the request from task work */
		if (self->ring.setup & IORING_SETUP_DEFER_TASKRUN)
			ring_enter(&self->ring, 0, 0, IORING_ENTER_GETEVENTS);
	} while (now_ms() < end);
	return -ETIME;
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
	struct io_uring_sqe *sqe = ring_memcpy(&self->ring, NULL, src, len);

	sqe->addr = off;
	sqe->buf_index = BUF_REQ;
	sqe->memcpy_flags = IORING_MEMCPY_DST_FIXED;
	sqe->flags = self->flags;
	return sqe;
}

static struct io_uring_sqe *from_req(struct _test_data_ublk *self, void *dst,
				     size_t off, size_t len)
{
	struct io_uring_sqe *sqe = ring_memcpy(&self->ring, dst, NULL, len);

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
	unsigned char *from = write ? self->data : self->mem.view;
	unsigned char *to = write ? self->mem.view : self->data;
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
		ASSERT_EQ(len, ring_run(&self->ring));
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

	memset(self->data, 0, REQ_SIZE);
	memset(self->mem.view, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, variant, false));
	to_req(self, 0, self->mem.mem, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, ring_run(&self->ring));
	for (len = 1; len <= 8; len++) {
		sqe = ring_imm(&self->ring, NULL, 0x0807060504030201ULL, len);
		sqe->addr = 4096 * len - (len & (len - 1) ? 1 : len);
		sqe->memcpy_flags = IORING_MEMCPY_DST_FIXED;
		sqe->buf_index = BUF_REQ;
		sqe->flags = self->flags;
		ASSERT_EQ(len, ring_run(&self->ring));
	}
	sqe = ring_imm(&self->ring, NULL, 0, 8);
	sqe->addr = REQ_SIZE;
	sqe->memcpy_flags = IORING_MEMCPY_DST_FIXED;
	sqe->buf_index = BUF_REQ;
	sqe->flags = self->flags;
	EXPECT_EQ(-EFAULT, ring_run(&self->ring));
	ASSERT_EQ(REQ_SIZE, request_finish(self, variant, REQ_SIZE));
	for (len = 1; len <= 8; len++) {
		unsigned char *at = self->data + 4096 * len -
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
	EXPECT_TRUE(all_bytes(self->data, POISON, REQ_SIZE));
}

/* What is read from the device may not be read by the server, and so on */
TEST_F_TIMEOUT(ublk, wrong_direction, LONG_TIMEOUT)
{
	struct io_uring_sqe *sqe;
	unsigned int i;
	static const size_t lens[] = { 1, 4096, 100000 };

	memset(self->mem.view, POISON, REQ_SIZE);
	memset(self->data, 0x33, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, variant, false));
	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		from_req(self, self->mem.mem, 0, lens[i]);
		EXPECT_EQ(-EFAULT, ring_run(&self->ring));
		sqe = from_req(self, self->mem.mem, 0, lens[i]);
		sqe->memcpy_flags |= IORING_MEMCPY_DST_FIXED;
		sqe->buf_index = BUF_MEM;
		EXPECT_EQ(-EFAULT, ring_run(&self->ring));
	}
	EXPECT_TRUE(all_bytes(self->mem.view, POISON, REQ_SIZE));
	to_req(self, 0, self->mem.mem, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, ring_run(&self->ring));
	ASSERT_EQ(REQ_SIZE, request_finish(self, variant, REQ_SIZE));
	EXPECT_TRUE(all_bytes(self->data, POISON, REQ_SIZE));

	memset(self->data, 0x33, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, variant, true));
	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		to_req(self, 0, self->mem.mem, lens[i]);
		EXPECT_EQ(-EFAULT, ring_run(&self->ring));
		sqe = to_req(self, 0, self->mem.mem, lens[i]);
		sqe->memcpy_flags |= IORING_MEMCPY_SRC_FIXED;
		sqe->file_index = BUF_MEM;
		EXPECT_EQ(-EFAULT, ring_run(&self->ring));
	}
	for (i = 1; i <= 8; i++) {
		sqe = ring_imm(&self->ring, NULL, 0, i);
		sqe->memcpy_flags = IORING_MEMCPY_DST_FIXED;
		sqe->buf_index = BUF_REQ;
		sqe->flags = self->flags;
		EXPECT_EQ(-EFAULT, ring_run(&self->ring));
	}
	from_req(self, self->mem.mem, 0, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, ring_run(&self->ring));
	EXPECT_TRUE(all_bytes(self->mem.view, 0x33, REQ_SIZE));
	ASSERT_EQ(REQ_SIZE, request_finish(self, variant, REQ_SIZE));
	EXPECT_TRUE(all_bytes(self->data, 0x33, REQ_SIZE));
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
	memset(self->data, 0x33, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, variant, false));
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		to_req(self, rows[i].off, self->mem.mem, rows[i].len);
		EXPECT_EQ(-EFAULT, ring_run(&self->ring)) {
			TH_LOG("offset %llx",
			       (unsigned long long)rows[i].off);
		}
	}
	ASSERT_EQ(REQ_SIZE, request_finish(self, variant, REQ_SIZE));
	EXPECT_TRUE(all_bytes(self->data, 0x33, REQ_SIZE));

	ASSERT_EQ(0, request_begin(self, variant, true));
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		from_req(self, self->mem.mem, rows[i].off, rows[i].len);
		EXPECT_EQ(-EFAULT, ring_run(&self->ring));
	}
	ASSERT_EQ(REQ_SIZE, request_finish(self, variant, REQ_SIZE));
	EXPECT_TRUE(all_bytes(self->mem.view, POISON, REQ_SIZE));

	/* the slot is empty now */
	to_req(self, 0, self->mem.mem, 64);
	EXPECT_EQ(-EFAULT, ring_run(&self->ring));
}

/* A server memory fault half way: the exact count, as with user memory */
TEST_F_TIMEOUT(ublk, short_copy, LONG_TIMEOUT)
{
	size_t n = 70001;

	memset(self->data, 0x33, REQ_SIZE);
	memset(self->mem.view, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, variant, false));
	to_req(self, 5, self->mem.mem + REQ_SIZE - n, n + 1000);
	EXPECT_EQ(n, ring_run(&self->ring));
	ASSERT_EQ(REQ_SIZE, request_finish(self, variant, REQ_SIZE));
	EXPECT_TRUE(all_bytes(self->data, 0x33, 5));
	EXPECT_TRUE(all_bytes(self->data + 5, POISON, n));
	EXPECT_TRUE(all_bytes(self->data + 5 + n, 0x33, REQ_SIZE - 5 - n));
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
	memset(self->data, 0x33, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, variant, false));
	sqe = to_req(self, 0, src, REQ_SIZE);
	/* its CQE comes as one of two, the other is the next request's */
	sqe->user_data = 77;
	ASSERT_EQ(1, ring_submit(&self->ring));
	EXPECT_TRUE(blocker_wait(&b, WAIT_MS / 4));
	EXPECT_EQ(0, request_unregister(self, variant));
	EXPECT_EQ(0, request_commit(self, variant, REQ_SIZE));
	for (i = 0; i < 50; i++) {
		ring_enter(&self->ring, 0, 0, IORING_ENTER_GETEVENTS);
		usleep(1000);
	}
	EXPECT_EQ(NOT_YET, __atomic_load_n(&self->moved, __ATOMIC_ACQUIRE));
	EXPECT_TRUE(blocker_release(&b));
	EXPECT_EQ(REQ_SIZE, ring_result(&self->ring));
	EXPECT_EQ(REQ_SIZE, request_end(self));
	EXPECT_TRUE(all_bytes(self->data, 0x44, at));
	EXPECT_TRUE(all_bytes(self->data + at, 0x55, ps));
	EXPECT_TRUE(all_bytes(self->data + at + ps, 0x44, REQ_SIZE - at - ps));
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
		sqe = ring_imm(&self->ring, &word, round + 1, 4);
		sqe->flags = self->flags;
		sqe->user_data = 1;
		ASSERT_EQ(2, ring_submit(&self->ring));
		ASSERT_EQ(0, ring_collect(&self->ring, res, 2));
		EXPECT_EQ(REQ_SIZE, res[0]);
		EXPECT_EQ(4, res[1]);
		EXPECT_EQ(round + 1, word);
		ASSERT_EQ(REQ_SIZE, request_finish(self, variant, REQ_SIZE));
		EXPECT_EQ(REQ_SIZE, check_pattern(self->data, REQ_SIZE,
						  round));
	}
}

TEST_HARNESS_MAIN
