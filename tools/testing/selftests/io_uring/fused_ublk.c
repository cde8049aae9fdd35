// SPDX-License-Identifier: GPL-2.0
/*
 * UBLK_U_IO_FUSED_SUBMIT_IO: a ublk server whose requests are read and written
 * by the members of a fused command, on the memory of whoever made the request.
 * What it gets is checked by that one, or in the server's files.
 */
#include <linux/ublk_cmd.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "iou_test.h"
#include "kselftest_harness.h"

#define REQ_SIZE	(256 * 1024)
#define HALF		(REQ_SIZE / 2)
#define SEED		3
#define NOT_YET		0x7fffffff
#define NOBODY		65534

enum client_op { CLIENT_READ, CLIENT_WRITE, CLIENT_FLUSH };

FIXTURE(ublk) {
	struct ring ctrl, ring;
	unsigned int flags;
	__u32 dev_id;
	__u64 dev_flags;
	bool added, started;
	int cdev, bdev;
	const struct ublksrv_io_desc *iod;
	int file;			/* REQ_SIZE bytes of the pattern */
	int pipe[2], sock[2];
	/* the other end of the block device */
	pthread_t client;
	enum client_op op;
	unsigned char *data;
	ssize_t moved;
};

FIXTURE_VARIANT(ublk) {
	unsigned int setup;
	unsigned int sqe_flags;
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

/* For a device that belongs to somebody else, whose path says that it is meant */
static int dev_ctrl(struct _test_data_ublk *self, int fd, unsigned int op,
		    void *addr, unsigned int len, __u64 data)
{
	struct io_uring_sqe *sqe;
	struct ublksrv_ctrl_cmd cmd;
	char buf[512];
	int path_len;

	if (!(self->dev_flags & UBLK_F_UNPRIVILEGED_DEV))
		return ctrl(&self->ctrl, fd, op, self->dev_id, addr, len, data);
	path_len = snprintf(buf, sizeof(buf), "/dev/ublkc%u", self->dev_id) + 1;
	if (len)
		memcpy(buf + path_len, addr, len);
	cmd = (struct ublksrv_ctrl_cmd) {
		.dev_id = self->dev_id, .queue_id = -1, .addr = u64_ptr(buf),
		.len = path_len + len, .dev_path_len = path_len,
		.data[0] = data,
	};
	sqe = ring_sqe(&self->ctrl, IORING_OP_URING_CMD);
	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	sqe->cmd_op = op;
	sqe->fd = fd;
	return ring_run(&self->ctrl);
}

static struct ublksrv_io_cmd *io_cmd_of(struct io_uring_sqe *sqe)
{
	return (void *)sqe->cmd;
}

static struct io_uring_sqe *io_cmd(struct ring *r, int cdev, unsigned int op,
				   int result)
{
	struct io_uring_sqe *sqe = ring_sqe(r, IORING_OP_URING_CMD);

	io_cmd_of(sqe)->result = result;
	sqe->cmd_op = op;
	sqe->fd = cdev;
	return sqe;
}

/* A command with @nr members, NOPs at first, and one CQE */
static struct io_uring_sqe *fused(struct ring *r, int cdev, unsigned int flags,
				  unsigned int nr, struct io_uring_sqe **m)
{
	struct io_uring_sqe *sqe;
	unsigned int i;

	if ((r->u.sq.sqe_tail & *r->u.sq.kring_mask) == *r->u.sq.kring_mask)
		ring_sqe(r, IORING_OP_NOP)->flags = IOSQE_CQE_SKIP_SUCCESS;
	sqe = ring_sqe(r, IORING_OP_FUSED_CMD);
	sqe->cmd_op = UBLK_U_IO_FUSED_SUBMIT_IO;
	sqe->fd = cdev;
	sqe->flags = flags;
	sqe->fused_flags = IORING_FUSED_ONE_CQE;
	sqe->nr_secondary = nr;
	sqe->user_data = 1;
	for (i = 0; i < nr; i++)
		m[i] = ring_sqe(r, IORING_OP_NOP);
	return sqe;
}

static struct io_uring_sqe *fused_req(struct _test_data_ublk *self,
				      unsigned int nr, struct io_uring_sqe **m)
{
	return fused(&self->ring, self->cdev, self->flags, nr, m);
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

/* A device of one request, with these UBLK_F_* */
static void start(struct __test_metadata *_metadata,
		  struct _test_data_ublk *self, unsigned int setup, __u64 flags)
{
	struct ublksrv_ctrl_dev_info info = {
		.nr_hw_queues = 1, .queue_depth = 1,
		.max_io_buf_bytes = REQ_SIZE, .dev_id = -1,
		.flags = flags | UBLK_F_NO_AUTO_PART_SCAN,
	};
	struct ublk_params params = {
		.len = sizeof(params), .types = UBLK_PARAM_TYPE_BASIC,
		.basic = {
			.attrs = UBLK_ATTR_VOLATILE_CACHE,
			.logical_bs_shift = 9, .physical_bs_shift = 12,
			.io_opt_shift = 12, .io_min_shift = 9,
			.max_sectors = REQ_SIZE >> 9,
			.dev_sectors = REQ_SIZE >> 9,
		},
	};
	unsigned char *data;
	int fd, ret;

	self->cdev = -1;
	self->bdev = -1;
	fd = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		SKIP(return, "/dev/ublk-control: %s", strerror(errno));
	ASSERT_EQ(0, ring_init(&self->ring, RING_ENTRIES,
			       setup | IORING_SETUP_SQE_MIXED));
	if (!ring_has_op(&self->ring, IORING_OP_FUSED_CMD))
		SKIP(return, "kernel has no IORING_OP_FUSED_CMD");
	ASSERT_EQ(0, ring_init(&self->ctrl, 1, IORING_SETUP_SQE128));
	ASSERT_EQ(0, pipe(self->pipe));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, self->sock));
	data = mmap(NULL, REQ_SIZE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, data);
	self->data = data;
	self->file = syscall(__NR_memfd_create, "ublk", MFD_CLOEXEC);
	ASSERT_LE(0, self->file);
	fill_pattern(data, REQ_SIZE, SEED);
	ASSERT_EQ(REQ_SIZE, write(self->file, data, REQ_SIZE));

	/* root has no unprivileged devices */
	if (flags & UBLK_F_UNPRIVILEGED_DEV)
		ASSERT_EQ(0, seteuid(NOBODY));
	ret = ctrl(&self->ctrl, fd, UBLK_U_CMD_ADD_DEV, -1, &info,
		   sizeof(info), 0);
	ASSERT_EQ(0, seteuid(0));
	ASSERT_EQ(0, ret);
	self->dev_id = info.dev_id;
	self->dev_flags = info.flags;
	self->added = true;
	ASSERT_EQ(flags, info.flags & flags);
	self->cdev = open_retry("/dev/ublkc%u", self->dev_id, O_RDWR);
	ASSERT_LE(0, self->cdev);
	ASSERT_EQ(0, dev_ctrl(self, fd, UBLK_U_CMD_SET_PARAMS, &params,
			      sizeof(params), 0));
	self->iod = mmap(NULL, page_size(), PROT_READ, MAP_SHARED, self->cdev,
			 UBLKSRV_CMD_BUF_OFFSET);
	ASSERT_NE(MAP_FAILED, self->iod);

	io_cmd(&self->ring, self->cdev, UBLK_U_IO_FETCH_REQ, -1);
	ASSERT_EQ(1, ring_submit(&self->ring));
	ASSERT_EQ(0, dev_ctrl(self, fd, UBLK_U_CMD_START_DEV, NULL, 0,
			      getpid()));
	self->started = true;
	self->bdev = open_retry("/dev/ublkb%u", self->dev_id,
				O_RDWR | O_DIRECT);
	ASSERT_LE(0, self->bdev);
	close(fd);
}

static void stop(struct _test_data_ublk *self)
{
	int fd = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);

	if (self->bdev >= 0)
		close(self->bdev);
	if (self->started)
		dev_ctrl(self, fd, UBLK_U_CMD_STOP_DEV, NULL, 0, 0);
	if (self->iod)
		munmap((void *)self->iod, page_size());
	ring_exit(&self->ring);
	if (self->cdev >= 0)
		close(self->cdev);
	if (self->added)
		dev_ctrl(self, fd, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
	ring_exit(&self->ctrl);
	if (self->data) {
		munmap(self->data, REQ_SIZE);
		close(self->file);
		close(self->pipe[0]);
		close(self->pipe[1]);
		close(self->sock[0]);
		close(self->sock[1]);
	}
	if (fd >= 0)
		close(fd);
}

FIXTURE_SETUP(ublk)
{
	self->flags = variant->sqe_flags;
	start(_metadata, self, variant->setup, UBLK_F_FUSED_CMD);
}

FIXTURE_TEARDOWN(ublk)
{
	stop(self);
}

static void *client_thread(void *arg)
{
	struct _test_data_ublk *self = arg;
	ssize_t ret;

	if (self->op == CLIENT_WRITE)
		ret = pwrite(self->bdev, self->data, REQ_SIZE, 0);
	else if (self->op == CLIENT_READ)
		ret = pread(self->bdev, self->data, REQ_SIZE, 0);
	else
		ret = fdatasync(self->bdev);
	__atomic_store_n(&self->moved, ret < 0 ? -errno : ret,
			 __ATOMIC_RELEASE);
	return NULL;
}

/* A request of the other thread is here: 0 */
static int request_begin(struct _test_data_ublk *self, enum client_op op)
{
	const unsigned int ops[] = {
		UBLK_IO_OP_READ, UBLK_IO_OP_WRITE, UBLK_IO_OP_FLUSH,
	};
	int ret;

	self->op = op;
	self->moved = NOT_YET;
	if (pthread_create(&self->client, NULL, client_thread, self))
		return -EAGAIN;
	ret = ring_result(&self->ring);
	if (ret)
		return ret;
	return ublksrv_get_op(self->iod) == ops[op] ? 0 : -EBADMSG;
}

static int request_commit(struct _test_data_ublk *self, int result)
{
	io_cmd(&self->ring, self->cdev, UBLK_U_IO_COMMIT_AND_FETCH_REQ, result);
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

static int request_finish(struct _test_data_ublk *self, int result)
{
	int ret = request_commit(self, result);

	return ret ? ret : request_end(self);
}

/* Two files have a half each, and the halves are swapped */
TEST_F(ublk, read)
{
	struct io_uring_sqe *m[2];
	unsigned int i;

	for (i = 0; i < 4; i++) {
		memset(self->data, POISON, REQ_SIZE);
		ASSERT_EQ(0, request_begin(self, CLIENT_READ));
		fused_req(self, 2, m);
		set_rw(m[0], IORING_OP_READ, self->file, 0, HALF, HALF);
		set_rw(m[1], IORING_OP_READ, self->file, HALF, HALF, 0);
		ASSERT_EQ(REQ_SIZE, ring_run(&self->ring));
		ASSERT_EQ(REQ_SIZE, request_finish(self, REQ_SIZE));
		ASSERT_EQ(HALF, check_pattern(self->data + HALF, HALF, SEED));
		memmove(self->data + HALF, self->data, HALF);
		ASSERT_EQ(HALF, pread(self->file, self->data, HALF, 0));
		ASSERT_EQ(REQ_SIZE, check_pattern(self->data, REQ_SIZE, SEED));
	}
}

/* One command after the other for the same request, with a look at it */
TEST_F(ublk, write)
{
	struct io_uring_sqe *m[2];
	unsigned char head[64];
	int out;

	out = syscall(__NR_memfd_create, "out", MFD_CLOEXEC);
	ASSERT_LE(0, out);
	fill_pattern(self->data, REQ_SIZE, SEED + 1);
	memset(head, POISON, sizeof(head));
	ASSERT_EQ(0, request_begin(self, CLIENT_WRITE));
	fused_req(self, 1, m);
	m[0]->opcode = IORING_OP_MEMCPY;
	m[0]->memcpy_flags = IORING_MEMCPY_SRC_FIXED;
	m[0]->addr = u64_ptr(head);
	m[0]->len = sizeof(head);
	ASSERT_EQ(sizeof(head), ring_run(&self->ring));
	EXPECT_EQ(sizeof(head), check_pattern(head, sizeof(head), SEED + 1));
	fused_req(self, 2, m);
	set_rw(m[0], IORING_OP_WRITE, out, 0, REQ_SIZE, 0);
	set_rw(m[1], IORING_OP_WRITE, self->file, 0, REQ_SIZE, 0);
	ASSERT_EQ(2 * REQ_SIZE, ring_run(&self->ring));
	ASSERT_EQ(REQ_SIZE, request_finish(self, REQ_SIZE));
	memset(self->data, POISON, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, pread(out, self->data, REQ_SIZE, 0));
	EXPECT_EQ(REQ_SIZE, check_pattern(self->data, REQ_SIZE, SEED + 1));
	memset(self->data, POISON, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, pread(self->file, self->data, REQ_SIZE, 0));
	EXPECT_EQ(REQ_SIZE, check_pattern(self->data, REQ_SIZE, SEED + 1));
	close(out);
}

/* What a file doesn't have is zeroes for the reader, and nothing stale */
TEST_F(ublk, short_read)
{
	struct io_uring_sqe *m[1];

	ASSERT_EQ(0, ftruncate(self->file, 70001));
	memset(self->data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	fused_req(self, 1, m);
	set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE, 0);
	ASSERT_EQ(70001, ring_run(&self->ring));
	ASSERT_EQ(REQ_SIZE, request_finish(self, REQ_SIZE));
	EXPECT_EQ(70001, check_pattern(self->data, 70001, SEED));
	EXPECT_TRUE(all_bytes(self->data + 70001, 0, REQ_SIZE - 70001));
}

#define BAD(name, ...) \
	static void bad_##name(struct io_uring_sqe *sqe) \
	{ \
		__VA_ARGS__; \
	}

BAD(queue, io_cmd_of(sqe)->q_id = 1)
BAD(tag, io_cmd_of(sqe)->tag = 1)
BAD(addr, io_cmd_of(sqe)->addr = 1)
BAD(result, io_cmd_of(sqe)->result = 1)
BAD(fetch, sqe->cmd_op = UBLK_U_IO_FETCH_REQ)
BAD(commit, sqe->cmd_op = UBLK_U_IO_COMMIT_AND_FETCH_REQ)
BAD(reg, sqe->cmd_op = UBLK_U_IO_REGISTER_IO_BUF)
BAD(unreg, sqe->cmd_op = UBLK_U_IO_UNREGISTER_IO_BUF)
BAD(batch, sqe->cmd_op = UBLK_U_IO_FETCH_IO_CMDS)
BAD(no_op, sqe->cmd_op = 0x28)
BAD(direction, sqe[1].opcode = IORING_OP_WRITE)
BAD(range, sqe[1].addr = 1)

/* Nothing of that does the request any harm */
TEST_F(ublk, refused)
{
	static const struct {
		void (*make)(struct io_uring_sqe *sqe);
		int res;
	} bads[] = {
		{ bad_queue, -EINVAL }, { bad_tag, -EINVAL },
		{ bad_addr, -EINVAL }, { bad_result, -EINVAL },
		{ bad_fetch, -EOPNOTSUPP }, { bad_commit, -EOPNOTSUPP },
		{ bad_reg, -EOPNOTSUPP }, { bad_unreg, -EOPNOTSUPP },
		{ bad_batch, -EOPNOTSUPP }, { bad_no_op, -EOPNOTSUPP },
		{ bad_direction, -EFAULT }, { bad_range, -EFAULT },
	};
	struct io_uring_sqe *sqe, *m[1];
	unsigned int i;

	/* there is no request, so its data isn't the server's */
	fused_req(self, 1, m);
	ASSERT_EQ(-EBUSY, ring_run(&self->ring));

	memset(self->data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	for (i = 0; i < ARRAY_SIZE(bads); i++) {
		sqe = fused_req(self, 1, m);
		set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE, 0);
		bads[i].make(sqe);
		ASSERT_EQ(bads[i].res, ring_run(&self->ring)) {
			TH_LOG("%u", i);
		}
	}
	/* it isn't a command on its own */
	io_cmd(&self->ring, self->cdev, UBLK_U_IO_FUSED_SUBMIT_IO, 0)->flags =
		self->flags;
	ASSERT_EQ(-EINVAL, ring_run(&self->ring));
	EXPECT_TRUE(all_bytes(self->data, POISON, REQ_SIZE));
	fused_req(self, 1, m);
	set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE, 0);
	ASSERT_EQ(REQ_SIZE, ring_run(&self->ring));
	ASSERT_EQ(REQ_SIZE, request_finish(self, REQ_SIZE));
	EXPECT_EQ(REQ_SIZE, check_pattern(self->data, REQ_SIZE, SEED));
}

/* A request without data has none to lend */
TEST_F(ublk, flush)
{
	struct io_uring_sqe *m[1];

	ASSERT_EQ(0, request_begin(self, CLIENT_FLUSH));
	fused_req(self, 1, m);
	ASSERT_EQ(-EINVAL, ring_run(&self->ring));
	ASSERT_EQ(0, request_finish(self, 0));
}

/* The result is committed early: the reader gets its data all the same */
TEST_F(ublk, commit_in_flight)
{
	unsigned char byte = 0x5a;
	struct io_uring_sqe *m[2];
	unsigned int i;

	memset(self->data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	fused_req(self, 2, m);
	set_rw(m[0], IORING_OP_READ, self->pipe[0], 0, 1, 0);
	set_rw(m[1], IORING_OP_READ, self->file, 1, REQ_SIZE - 1, 1);
	ASSERT_LT(0, ring_submit(&self->ring));
	/* not before the request is lent, or that fails */
	for (i = 0; i < 100; i++) {
		ring_enter(&self->ring, 0, 0, IORING_ENTER_GETEVENTS);
		usleep(1000);
	}
	EXPECT_EQ(0, request_commit(self, REQ_SIZE));
	for (i = 0; i < 50; i++) {
		ring_enter(&self->ring, 0, 0, IORING_ENTER_GETEVENTS);
		usleep(1000);
	}
	EXPECT_EQ(NOT_YET, __atomic_load_n(&self->moved, __ATOMIC_ACQUIRE));
	ASSERT_EQ(1, write(self->pipe[1], &byte, 1));
	EXPECT_EQ(REQ_SIZE, ring_result(&self->ring));
	EXPECT_EQ(REQ_SIZE, request_end(self));
	EXPECT_EQ(byte, self->data[0]);
	self->data[0] = pattern(0, SEED);
	EXPECT_EQ(REQ_SIZE, check_pattern(self->data, REQ_SIZE, SEED));
}

/* A command that commits the request as well, whose CQE is the next request */
static void fused_commit(struct _test_data_ublk *self, unsigned int nr,
			 struct io_uring_sqe **m)
{
	fused_req(self, nr, m)->cmd_op = UBLK_U_IO_FUSED_COMMIT_AND_FETCH;
}

static int submit(struct _test_data_ublk *self)
{
	int ret = ring_submit(&self->ring);

	return ret < 0 ? ret : 0;
}

/* Task work runs for a while */
static void linger(struct _test_data_ublk *self, unsigned int ms)
{
	while (ms--) {
		ring_enter(&self->ring, 0, 0, IORING_ENTER_GETEVENTS);
		usleep(1000);
	}
}

/* One SQE and one CQE for each request, and the data where it belongs */
TEST_F(ublk, commit)
{
	struct io_uring_sqe *m[2];
	unsigned int i;

	for (i = 0; i < 4; i++) {
		memset(self->data, POISON, REQ_SIZE);
		ASSERT_EQ(0, request_begin(self, CLIENT_READ));
		fused_commit(self, 2, m);
		set_rw(m[i % 2], IORING_OP_READ, self->file, 0, HALF, 0);
		set_rw(m[!(i % 2)], IORING_OP_READ, self->file, HALF, HALF,
		       HALF);
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(REQ_SIZE, request_end(self));
		ASSERT_EQ(REQ_SIZE, check_pattern(self->data, REQ_SIZE,
						  SEED + i));
		EXPECT_TRUE(ring_quiet(&self->ring));

		fill_pattern(self->data, REQ_SIZE, SEED + i + 1);
		ASSERT_EQ(0, request_begin(self, CLIENT_WRITE));
		fused_commit(self, 1, m);
		set_rw(m[0], IORING_OP_WRITE, self->file, 0, REQ_SIZE, 0);
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(REQ_SIZE, request_end(self));
		EXPECT_TRUE(ring_quiet(&self->ring));
	}
	memset(self->data, POISON, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, pread(self->file, self->data, REQ_SIZE, 0));
	EXPECT_EQ(REQ_SIZE, check_pattern(self->data, REQ_SIZE, SEED + 4));
}

/* What members don't fill is asked for again, and not made up */
TEST_F(ublk, commit_short)
{
	const unsigned int has[] = { HALF + 100, HALF, 512, REQ_SIZE - 1 };
	unsigned int i, part, left;
	struct io_uring_sqe *m[2];

	for (i = 0; i < ARRAY_SIZE(has); i++) {
		part = has[i] & ~511;
		left = REQ_SIZE - part;
		memset(self->data, POISON, REQ_SIZE);
		ASSERT_EQ(0, request_begin(self, CLIENT_READ));
		ASSERT_EQ(REQ_SIZE >> 9, self->iod->nr_sectors);
		fused_commit(self, 2, m);
		/* both read the same, which isn't twice as much */
		set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE,
		       REQ_SIZE - has[i]);
		set_rw(m[1], IORING_OP_READ, self->file, 0, has[i] / 2,
		       REQ_SIZE - has[i]);
		ASSERT_EQ(0, submit(self));
		/* the rest is the next request, of the same reader */
		ASSERT_EQ(0, ring_result(&self->ring));
		ASSERT_EQ(NOT_YET, __atomic_load_n(&self->moved,
						   __ATOMIC_ACQUIRE));
		ASSERT_EQ(UBLK_IO_OP_READ, ublksrv_get_op(self->iod));
		ASSERT_EQ(part >> 9, self->iod->start_sector);
		ASSERT_EQ(left >> 9, self->iod->nr_sectors);
		fused_commit(self, 1, m);
		set_rw(m[0], IORING_OP_READ, self->file, 0, left, 0);
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(REQ_SIZE, request_end(self));
		ASSERT_EQ(left, check_pattern(self->data + part, left, SEED));
		memmove(self->data + REQ_SIZE - part, self->data, part);
		ASSERT_EQ(REQ_SIZE - has[i],
			  pread(self->file, self->data, REQ_SIZE - has[i], 0));
		memmove(self->data + REQ_SIZE - has[i],
			self->data + REQ_SIZE - part, part);
		ASSERT_EQ(REQ_SIZE - has[i] + part,
			  check_pattern(self->data, REQ_SIZE - has[i] + part,
					SEED));
	}
}

static void no_member(struct _test_data_ublk *self, struct io_uring_sqe **m)
{
}

static void gap_at_start(struct _test_data_ublk *self, struct io_uring_sqe **m)
{
	set_rw(m[0], IORING_OP_READ, self->file, 1, REQ_SIZE - 1, 0);
}

static void less_than_a_block(struct _test_data_ublk *self,
			      struct io_uring_sqe **m)
{
	set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE, REQ_SIZE - 511);
}

static void past_the_end(struct _test_data_ublk *self, struct io_uring_sqe **m)
{
	set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE, 0);
	set_rw(m[1], IORING_OP_READ, self->file, 1, REQ_SIZE, 0);
}

static void no_file(struct _test_data_ublk *self, struct io_uring_sqe **m)
{
	set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE, 0);
	set_rw(m[1], IORING_OP_READ, -1, 0, REQ_SIZE, 0);
}

static void write_fails(struct _test_data_ublk *self, struct io_uring_sqe **m)
{
	set_rw(m[0], IORING_OP_WRITE, self->file, 0, REQ_SIZE, 0);
	set_rw(m[1], IORING_OP_WRITE, self->pipe[0], 0, REQ_SIZE, 0);
}

static void write_is_cut(struct _test_data_ublk *self, struct io_uring_sqe **m)
{
	set_rw(m[0], IORING_OP_WRITE, self->file, 0, REQ_SIZE, 0);
	set_rw(m[1], IORING_OP_SEND, self->sock[0], 0, REQ_SIZE, 0);
	m[1]->msg_flags = MSG_DONTWAIT;
}

/* The server is told, has the request as before, and can do better */
TEST_F(ublk, commit_fails)
{
	static const struct {
		enum client_op op;
		void (*make)(struct _test_data_ublk *self,
			     struct io_uring_sqe **m);
		int res;
	} cases[] = {
		{ CLIENT_READ, no_member, -EIO },
		{ CLIENT_READ, gap_at_start, -EIO },
		{ CLIENT_READ, less_than_a_block, -EIO },
		{ CLIENT_READ, past_the_end, -EFAULT },
		{ CLIENT_READ, no_file, -EBADF },
		{ CLIENT_WRITE, write_fails, -EBADF },
		{ CLIENT_WRITE, write_is_cut, -EIO },
	};
	struct io_uring_sqe *m[2];
	unsigned int i, op;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		memset(self->data, POISON, REQ_SIZE);
		if (cases[i].op == CLIENT_WRITE)
			fill_pattern(self->data, REQ_SIZE, SEED);
		ASSERT_EQ(0, request_begin(self, cases[i].op));
		fused_commit(self, 2, m);
		cases[i].make(self, m);
		ASSERT_EQ(cases[i].res, ring_run(&self->ring)) {
			TH_LOG("%u", i);
		}
		ASSERT_EQ(NOT_YET, __atomic_load_n(&self->moved,
						   __ATOMIC_ACQUIRE));
		fused_commit(self, 1, m);
		op = IORING_OP_READ;
		if (cases[i].op != CLIENT_READ)
			op = IORING_OP_WRITE;
		set_rw(m[0], op, self->file, 0, REQ_SIZE, 0);
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(REQ_SIZE, request_end(self));
		ASSERT_EQ(REQ_SIZE, check_pattern(self->data, REQ_SIZE, SEED));
		EXPECT_TRUE(ring_quiet(&self->ring));
	}
	/* or give up */
	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	fused_commit(self, 2, m);
	past_the_end(self, m);
	ASSERT_EQ(-EFAULT, ring_run(&self->ring));
	ASSERT_EQ(-EIO, request_finish(self, -EIO));
}

/* Part of a read, with its data lent once more */
TEST_F(ublk, commit_short_busy)
{
	unsigned char byte = 0x5a;
	struct io_uring_sqe *m[1];

	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	fused_req(self, 1, m)->user_data = 2;
	set_rw(m[0], IORING_OP_READ, self->pipe[0], 0, 1, 0);
	ASSERT_EQ(0, submit(self));
	linger(self, 100);
	fused_commit(self, 1, m);
	set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE, HALF);
	ASSERT_EQ(-EBUSY, ring_run(&self->ring));
	ASSERT_EQ(1, write(self->pipe[1], &byte, 1));
	ASSERT_EQ(1, ring_result(&self->ring));
	fused_commit(self, 1, m);
	set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE, HALF);
	ASSERT_EQ(0, submit(self));
	ASSERT_EQ(0, ring_result(&self->ring));
	ASSERT_EQ(HALF >> 9, self->iod->start_sector);
	fused_commit(self, 1, m);
	set_rw(m[0], IORING_OP_READ, self->file, 0, HALF, 0);
	ASSERT_EQ(0, submit(self));
	ASSERT_EQ(REQ_SIZE, request_end(self));
	EXPECT_EQ(HALF, check_pattern(self->data + HALF, HALF, SEED));
}

struct helper {
	struct _test_data_ublk *self;
	unsigned int cmd_op;
	int res;
};

static void *helper_thread(void *arg)
{
	struct helper *h = arg;
	struct io_uring_sqe *m[1];
	struct ring r;

	h->res = ring_init(&r, 8, IORING_SETUP_SQE_MIXED);
	if (h->res)
		return NULL;
	fused(&r, h->self->cdev, h->self->flags, 1, m)->cmd_op = h->cmd_op;
	set_rw(m[0], IORING_OP_READ, h->self->file, 0, REQ_SIZE, 0);
	h->res = ring_run(&r);
	ring_exit(&r);
	return NULL;
}

static int in_other_task(struct _test_data_ublk *self, unsigned int cmd_op)
{
	struct helper h = { .self = self, .cmd_op = cmd_op };
	pthread_t thread;

	if (pthread_create(&thread, NULL, helper_thread, &h))
		return -EAGAIN;
	pthread_join(thread, NULL);
	return h.res;
}

/* It is committed once, and nothing is started for it meanwhile */
TEST_F(ublk, commit_pending)
{
	unsigned char byte = 0x5a;
	struct io_uring_sqe *m[2];

	/* neither there is a request nor is it this task's */
	fused_commit(self, 1, m);
	ASSERT_EQ(-EBUSY, ring_run(&self->ring));
	ASSERT_EQ(-EINVAL, in_other_task(self,
					 UBLK_U_IO_FUSED_COMMIT_AND_FETCH));

	memset(self->data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	ASSERT_EQ(-EINVAL, in_other_task(self,
					 UBLK_U_IO_FUSED_COMMIT_AND_FETCH));
	fused_commit(self, 2, m);
	set_rw(m[0], IORING_OP_READ, self->pipe[0], 0, 1, 0);
	set_rw(m[1], IORING_OP_READ, self->file, 1, REQ_SIZE - 1, 1);
	ASSERT_EQ(0, submit(self));
	linger(self, 100);
	ASSERT_EQ(NOT_YET, __atomic_load_n(&self->moved, __ATOMIC_ACQUIRE));
	fused_commit(self, 1, m);
	ASSERT_EQ(-EBUSY, ring_run(&self->ring));
	fused_req(self, 1, m);
	ASSERT_EQ(-EBUSY, ring_run(&self->ring));
	io_cmd(&self->ring, self->cdev, UBLK_U_IO_COMMIT_AND_FETCH_REQ,
	       REQ_SIZE);
	ASSERT_EQ(-EBUSY, ring_run(&self->ring));
	/* any task may use the data of a request up to its end */
	ASSERT_EQ(REQ_SIZE, in_other_task(self, UBLK_U_IO_FUSED_SUBMIT_IO));
	ASSERT_EQ(NOT_YET, __atomic_load_n(&self->moved, __ATOMIC_ACQUIRE));
	ASSERT_EQ(1, write(self->pipe[1], &byte, 1));
	linger(self, 20);
	ASSERT_EQ(REQ_SIZE, request_end(self));
	EXPECT_EQ(byte, self->data[0]);
	self->data[0] = pattern(0, SEED);
	EXPECT_EQ(REQ_SIZE, check_pattern(self->data, REQ_SIZE, SEED));
	EXPECT_TRUE(ring_quiet(&self->ring));
}

/* Neither data nor a request to commit, and what the driver is told by others */
TEST_F(ublk, commit_refused)
{
	struct io_uring_sqe *sqe, *m[1];

	ASSERT_EQ(0, request_begin(self, CLIENT_FLUSH));
	fused_commit(self, 1, m);
	ASSERT_EQ(-EINVAL, ring_run(&self->ring));
	ASSERT_EQ(0, request_finish(self, 0));

	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	sqe = fused_req(self, 1, m);
	sqe->cmd_op = UBLK_U_IO_FUSED_COMMIT_AND_FETCH;
	io_cmd_of(sqe)->result = REQ_SIZE;
	ASSERT_EQ(-EINVAL, ring_run(&self->ring));
	/* it isn't a command on its own */
	io_cmd(&self->ring, self->cdev, UBLK_U_IO_FUSED_COMMIT_AND_FETCH,
	       0)->flags = self->flags;
	ASSERT_EQ(-EINVAL, ring_run(&self->ring));
	ASSERT_EQ(-EIO, request_finish(self, -EIO));
}

/* Any thread with any ring can use the data */
TEST_F(ublk, other_task)
{
	/* but not that of no request */
	ASSERT_EQ(-EINVAL, in_other_task(self, UBLK_U_IO_FUSED_SUBMIT_IO));

	memset(self->data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	ASSERT_EQ(REQ_SIZE, in_other_task(self, UBLK_U_IO_FUSED_SUBMIT_IO));
	ASSERT_EQ(REQ_SIZE, request_finish(self, REQ_SIZE));
	EXPECT_EQ(REQ_SIZE, check_pattern(self->data, REQ_SIZE, SEED));
}

/* The server goes away with a member in flight: an error, and no hang */
static void server_gone(struct __test_metadata *_metadata,
			struct _test_data_ublk *self, unsigned int cmd_op)
{
	struct io_uring_sqe *m[2];

	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	fused_req(self, 2, m)->cmd_op = cmd_op;
	set_rw(m[0], IORING_OP_READ, self->pipe[0], 0, 1, 0);
	set_rw(m[1], IORING_OP_READ, self->file, 1, REQ_SIZE - 1, 1);
	ASSERT_EQ(0, submit(self));
	linger(self, 50);
	munmap((void *)self->iod, page_size());
	self->iod = NULL;
	ring_exit(&self->ring);
	close(self->cdev);
	self->cdev = -1;
	EXPECT_EQ(-EIO, request_end(self));
}

TEST_F(ublk, server_gone)
{
	server_gone(_metadata, self, UBLK_U_IO_FUSED_SUBMIT_IO);
}

TEST_F(ublk, server_gone_commit)
{
	server_gone(_metadata, self, UBLK_U_IO_FUSED_COMMIT_AND_FETCH);
}

/* A device that wasn't added with it doesn't know the command */
TEST(without_flag)
{
	struct _test_data_ublk data = { };
	struct _test_data_ublk *self = &data;
	struct io_uring_sqe *m[1];

	start(_metadata, self, 0, UBLK_F_SUPPORT_ZERO_COPY);
	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	fused_req(self, 1, m);
	EXPECT_EQ(-EOPNOTSUPP, ring_run(&self->ring));
	fused_commit(self, 1, m);
	EXPECT_EQ(-EOPNOTSUPP, ring_run(&self->ring));
	EXPECT_EQ(REQ_SIZE, request_finish(self, REQ_SIZE));
	stop(self);
}

/* The command that fetches says what to register, and this one can't */
TEST(commit_auto_buf)
{
	struct _test_data_ublk data = { };
	struct _test_data_ublk *self = &data;
	struct io_uring_sqe *m[1];

	start(_metadata, self, 0, UBLK_F_FUSED_CMD | UBLK_F_AUTO_BUF_REG);
	fused_commit(self, 1, m);
	EXPECT_EQ(-EOPNOTSUPP, ring_run(&self->ring));
	stop(self);
}

/* ----------------------------------- servers that aren't taken at their word */

FIXTURE(verified) {
	struct _test_data_ublk s;
};

FIXTURE_SETUP(verified)
{
	start(_metadata, &self->s, IORING_SETUP_DEFER_TASKRUN |
	      IORING_SETUP_SINGLE_ISSUER,
	      UBLK_F_FUSED_CMD | UBLK_F_UNPRIVILEGED_DEV);
	if (self->s.data)
		memset(self->s.data, POISON, REQ_SIZE);
}

FIXTURE_TEARDOWN(verified)
{
	stop(&self->s);
}

static int fill(struct _test_data_ublk *s, unsigned int off, unsigned int len)
{
	struct io_uring_sqe *m[1];

	fused_req(s, 1, m);
	set_rw(m[0], IORING_OP_READ, s->file, off, len,
	       (s->iod->start_sector << 9) + off);
	return ring_run(&s->ring);
}

/* The rest of the data is asked for, from @off on */
static bool asked_again(struct _test_data_ublk *s, unsigned int off)
{
	return !ring_result(&s->ring) && s->iod->start_sector == off >> 9 &&
	       s->iod->nr_sectors == (REQ_SIZE - off) >> 9;
}

TEST_F(verified, read)
{
	struct _test_data_ublk *s = &self->s;
	struct io_uring_sqe *m[2];

	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	fused_req(s, 2, m);
	set_rw(m[0], IORING_OP_READ, s->file, HALF, HALF, HALF);
	set_rw(m[1], IORING_OP_READ, s->file, 0, HALF, 0);
	ASSERT_EQ(REQ_SIZE, ring_run(&s->ring));
	ASSERT_EQ(REQ_SIZE, request_finish(s, REQ_SIZE));
	ASSERT_EQ(REQ_SIZE, check_pattern(s->data, REQ_SIZE, SEED));

	/* piece by piece, in whatever sizes */
	memset(s->data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	ASSERT_EQ(1, fill(s, 0, 1));
	ASSERT_EQ(HALF, fill(s, 1, HALF));
	ASSERT_EQ(HALF - 1, fill(s, HALF + 1, HALF - 1));
	ASSERT_EQ(REQ_SIZE, request_finish(s, REQ_SIZE));
	ASSERT_EQ(REQ_SIZE, check_pattern(s->data, REQ_SIZE, SEED));

	/* and with a command that commits */
	memset(s->data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	ASSERT_EQ(100, fill(s, 0, 100));
	fused_commit(s, 1, m);
	set_rw(m[0], IORING_OP_READ, s->file, 100, REQ_SIZE - 100, 100);
	ASSERT_EQ(0, submit(s));
	ASSERT_EQ(REQ_SIZE, request_end(s));
	EXPECT_EQ(REQ_SIZE, check_pattern(s->data, REQ_SIZE, SEED));
}

/* Nothing was filled, whatever the server says */
TEST_F(verified, lies)
{
	struct _test_data_ublk *s = &self->s;
	struct io_uring_sqe *m[1];

	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	ASSERT_EQ(-EIO, request_finish(s, REQ_SIZE));

	/* what was filled for the last request doesn't count for this one */
	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	ASSERT_EQ(REQ_SIZE, fill(s, 0, REQ_SIZE));
	ASSERT_EQ(-EIO, request_finish(s, -EIO));
	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	ASSERT_EQ(-EIO, request_finish(s, REQ_SIZE));
	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	ASSERT_EQ(REQ_SIZE, fill(s, 0, REQ_SIZE));
	ASSERT_EQ(REQ_SIZE, request_finish(s, REQ_SIZE));
	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	ASSERT_EQ(-EIO, request_finish(s, REQ_SIZE));

	/* a member that does nothing */
	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	fused_req(s, 1, m);
	m[0]->nop_flags = IORING_NOP_INJECT_RESULT;
	m[0]->len = REQ_SIZE;
	ASSERT_EQ(REQ_SIZE, ring_run(&s->ring));
	ASSERT_EQ(-EIO, request_finish(s, REQ_SIZE));

	/* and one whose file has nothing */
	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	fused_req(s, 1, m);
	set_rw(m[0], IORING_OP_READ, s->file, 0, REQ_SIZE, REQ_SIZE);
	ASSERT_EQ(0, ring_run(&s->ring));
	ASSERT_EQ(-EIO, request_finish(s, REQ_SIZE));

	/* data without its start, or less than a block of it */
	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	ASSERT_EQ(REQ_SIZE - 1, fill(s, 1, REQ_SIZE - 1));
	ASSERT_EQ(-EIO, request_finish(s, REQ_SIZE));
	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	ASSERT_EQ(511, fill(s, 0, 511));
	ASSERT_EQ(-EIO, request_finish(s, REQ_SIZE));
}

/* What is missing is asked for again */
TEST_F(verified, part)
{
	struct _test_data_ublk *s = &self->s;

	/* less than said */
	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	ASSERT_EQ(HALF + 511, fill(s, 0, HALF + 511));
	ASSERT_EQ(0, request_commit(s, REQ_SIZE));
	ASSERT_TRUE(asked_again(s, HALF));
	/* the end, and then the start of the rest: the start counts */
	ASSERT_EQ(HALF - 4096, fill(s, 4096, HALF - 4096));
	ASSERT_EQ(4096, fill(s, 0, 4096));
	ASSERT_EQ(0, request_commit(s, HALF));
	ASSERT_TRUE(asked_again(s, HALF + 4096));
	/* more than said */
	ASSERT_EQ(HALF - 4096, fill(s, 0, HALF - 4096));
	ASSERT_EQ(0, request_commit(s, 512));
	ASSERT_TRUE(asked_again(s, HALF + 4608));
	ASSERT_EQ(HALF - 4608, fill(s, 0, HALF - 4608));
	ASSERT_EQ(REQ_SIZE, request_finish(s, HALF - 4608));
	EXPECT_EQ(REQ_SIZE, check_pattern(s->data, REQ_SIZE, SEED));
}

TEST_F(verified, write)
{
	struct _test_data_ublk *s = &self->s;
	struct io_uring_sqe *m[1];

	fill_pattern(s->data, REQ_SIZE, SEED + 1);
	ASSERT_EQ(0, request_begin(s, CLIENT_WRITE));
	fused_req(s, 1, m);
	set_rw(m[0], IORING_OP_WRITE, s->file, 0, HALF, 0);
	ASSERT_EQ(HALF, ring_run(&s->ring));
	ASSERT_EQ(0, request_commit(s, HALF));
	ASSERT_TRUE(asked_again(s, HALF));
	fused_req(s, 1, m);
	set_rw(m[0], IORING_OP_WRITE, s->file, 0, HALF, HALF);
	ASSERT_EQ(HALF, ring_run(&s->ring));
	ASSERT_EQ(REQ_SIZE, request_finish(s, HALF));
	memset(s->data, POISON, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, pread(s->file, s->data, REQ_SIZE, 0));
	EXPECT_EQ(REQ_SIZE, check_pattern(s->data, REQ_SIZE, SEED + 1));

	ASSERT_EQ(0, request_begin(s, CLIENT_FLUSH));
	ASSERT_EQ(0, request_finish(s, 0));
}

/* One command at a time, and no result before it is known */
TEST_F(verified, busy)
{
	struct _test_data_ublk *s = &self->s;
	unsigned char byte = pattern(0, SEED);
	struct io_uring_sqe *m[1];

	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	fused_req(s, 1, m)->user_data = 2;
	set_rw(m[0], IORING_OP_READ, s->pipe[0], 0, 1, 0);
	ASSERT_EQ(0, submit(s));
	linger(s, 100);
	ASSERT_EQ(-EBUSY, fill(s, 1, 1));
	ASSERT_EQ(-EINVAL, in_other_task(s, UBLK_U_IO_FUSED_SUBMIT_IO));
	fused_commit(s, 1, m);
	ASSERT_EQ(-EBUSY, ring_run(&s->ring));
	io_cmd(&s->ring, s->cdev, UBLK_U_IO_COMMIT_AND_FETCH_REQ, REQ_SIZE);
	ASSERT_EQ(-EBUSY, ring_run(&s->ring));
	ASSERT_EQ(NOT_YET, __atomic_load_n(&s->moved, __ATOMIC_ACQUIRE));
	ASSERT_EQ(1, write(s->pipe[1], &byte, 1));
	ASSERT_EQ(1, ring_result(&s->ring));
	ASSERT_EQ(REQ_SIZE - 1, fill(s, 1, REQ_SIZE - 1));
	ASSERT_EQ(REQ_SIZE, request_finish(s, REQ_SIZE));
	EXPECT_EQ(REQ_SIZE, check_pattern(s->data, REQ_SIZE, SEED));
}

/* The other ways without a copy have to trust the server */
TEST(unprivileged)
{
	static const __u64 flags[] = {
		UBLK_F_SUPPORT_ZERO_COPY, UBLK_F_AUTO_BUF_REG, UBLK_F_USER_COPY,
		UBLK_F_FUSED_CMD | UBLK_F_BATCH_IO,
	};
	unsigned int i;
	struct ring r;
	int fd, ret;

	fd = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		SKIP(return, "/dev/ublk-control: %s", strerror(errno));
	ASSERT_EQ(0, ring_init(&r, 1, IORING_SETUP_SQE128));
	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		struct ublksrv_ctrl_dev_info info = {
			.nr_hw_queues = 1, .queue_depth = 1,
			.max_io_buf_bytes = REQ_SIZE, .dev_id = -1,
			.flags = UBLK_F_UNPRIVILEGED_DEV | flags[i],
		};

		ASSERT_EQ(0, seteuid(NOBODY));
		ret = ctrl(&r, fd, UBLK_U_CMD_ADD_DEV, -1, &info, sizeof(info),
			   0);
		ASSERT_EQ(0, seteuid(0));
		EXPECT_EQ(-EINVAL, ret);
	}
	ring_exit(&r);
	close(fd);
}

TEST_HARNESS_MAIN
