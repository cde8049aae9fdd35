// SPDX-License-Identifier: GPL-2.0
/*
 * UBLK_U_IO_FUSED_SUBMIT_IO: a ublk server whose requests are read and written
 * by the members of a fused command, on the memory of whoever made the request.
 * What it gets is checked by that one, or in the server's files.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "iou_ublk.h"
#include "kselftest_harness.h"

#define HALF		(REQ_SIZE / 2)
#define SEED		3

FIXTURE(ublk) {
	struct ublk_dev dev;
	unsigned int flags;
	int file;			/* REQ_SIZE bytes of the pattern */
	int pipe[2], sock[2];
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

/* A command with @nr members, NOPs at first, and one CQE */
static struct io_uring_sqe *fused(struct ring *r, int cdev, unsigned int flags,
				  unsigned int nr, struct io_uring_sqe **m)
{
	struct io_uring_sqe *sqe;

	sqe = ublk_fused(r, cdev, UBLK_U_IO_FUSED_SUBMIT_IO, nr, m);
	sqe->flags = flags;
	sqe->user_data = 1;
	return sqe;
}

static struct io_uring_sqe *fused_req(struct _test_data_ublk *self,
				      unsigned int nr, struct io_uring_sqe **m)
{
	return fused(&self->dev.ring, self->dev.cdev, self->flags, nr, m);
}

/* A device with these UBLK_F_* */
static void start(struct __test_metadata *_metadata,
		  struct _test_data_ublk *self, unsigned int setup, __u64 flags)
{
	struct ublk_dev *d = &self->dev;
	int ret;

	ASSERT_EQ(0, ring_init(&d->ring, RING_ENTRIES,
			       setup | IORING_SETUP_SQE_MIXED));
	if (!ring_has_op(&d->ring, IORING_OP_FUSED_CMD))
		SKIP(return, "kernel has no IORING_OP_FUSED_CMD");
	ASSERT_EQ(0, pipe(self->pipe));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, self->sock));
	self->file = syscall(__NR_memfd_create, "ublk", MFD_CLOEXEC);
	ASSERT_LE(0, self->file);
	ret = ublk_dev_add(d, flags);
	if (ret == -ENOENT)
		SKIP(return, "no /dev/ublk-control");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, ublk_dev_start(d, 0));
	fill_pattern(d->data, REQ_SIZE, SEED);
	ASSERT_EQ(REQ_SIZE, write(self->file, d->data, REQ_SIZE));
}

static void stop(struct _test_data_ublk *self)
{
	ublk_dev_exit(&self->dev);
	if (self->file <= 0)
		return;
	close(self->file);
	close(self->pipe[0]);
	close(self->pipe[1]);
	close(self->sock[0]);
	close(self->sock[1]);
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

static int request_begin(struct _test_data_ublk *self, enum client_op op)
{
	return ublk_request_begin(&self->dev, op);
}

static int request_commit(struct _test_data_ublk *self, int result)
{
	return ublk_request_commit(&self->dev, result, 0);
}

static int request_end(struct _test_data_ublk *self)
{
	return ublk_request_end(&self->dev);
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
		memset(self->dev.data, POISON, REQ_SIZE);
		ASSERT_EQ(0, request_begin(self, CLIENT_READ));
		fused_req(self, 2, m);
		set_rw(m[0], IORING_OP_READ, self->file, 0, HALF, HALF);
		set_rw(m[1], IORING_OP_READ, self->file, HALF, HALF, 0);
		ASSERT_EQ(REQ_SIZE, ring_run(&self->dev.ring));
		ASSERT_EQ(REQ_SIZE, request_finish(self, REQ_SIZE));
		ASSERT_EQ(HALF, check_pattern(self->dev.data + HALF, HALF, SEED));
		memmove(self->dev.data + HALF, self->dev.data, HALF);
		ASSERT_EQ(HALF, pread(self->file, self->dev.data, HALF, 0));
		ASSERT_EQ(REQ_SIZE, check_pattern(self->dev.data, REQ_SIZE, SEED));
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
	fill_pattern(self->dev.data, REQ_SIZE, SEED + 1);
	memset(head, POISON, sizeof(head));
	ASSERT_EQ(0, request_begin(self, CLIENT_WRITE));
	fused_req(self, 1, m);
	m[0]->opcode = IORING_OP_MEMCPY;
	m[0]->memcpy_flags = IORING_MEMCPY_SRC_FIXED;
	m[0]->addr = u64_ptr(head);
	m[0]->len = sizeof(head);
	ASSERT_EQ(sizeof(head), ring_run(&self->dev.ring));
	EXPECT_EQ(sizeof(head), check_pattern(head, sizeof(head), SEED + 1));
	fused_req(self, 2, m);
	set_rw(m[0], IORING_OP_WRITE, out, 0, REQ_SIZE, 0);
	set_rw(m[1], IORING_OP_WRITE, self->file, 0, REQ_SIZE, 0);
	ASSERT_EQ(2 * REQ_SIZE, ring_run(&self->dev.ring));
	ASSERT_EQ(REQ_SIZE, request_finish(self, REQ_SIZE));
	memset(self->dev.data, POISON, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, pread(out, self->dev.data, REQ_SIZE, 0));
	EXPECT_EQ(REQ_SIZE, check_pattern(self->dev.data, REQ_SIZE, SEED + 1));
	memset(self->dev.data, POISON, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, pread(self->file, self->dev.data, REQ_SIZE, 0));
	EXPECT_EQ(REQ_SIZE, check_pattern(self->dev.data, REQ_SIZE, SEED + 1));
	close(out);
}

/* What a file doesn't have is zeroes for the reader, and nothing stale */
TEST_F(ublk, short_read)
{
	struct io_uring_sqe *m[1];

	ASSERT_EQ(0, ftruncate(self->file, 70001));
	memset(self->dev.data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	fused_req(self, 1, m);
	set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE, 0);
	ASSERT_EQ(70001, ring_run(&self->dev.ring));
	ASSERT_EQ(REQ_SIZE, request_finish(self, REQ_SIZE));
	EXPECT_EQ(70001, check_pattern(self->dev.data, 70001, SEED));
	EXPECT_TRUE(all_bytes(self->dev.data + 70001, 0, REQ_SIZE - 70001));
}

#define BAD(name, ...) \
	static void bad_##name(struct io_uring_sqe *sqe) \
	{ \
		__VA_ARGS__; \
	}

BAD(queue, ublk_io_cmd_of(sqe)->q_id = 1)
BAD(tag, ublk_io_cmd_of(sqe)->tag = 1)
BAD(addr, ublk_io_cmd_of(sqe)->addr = 1)
BAD(result, ublk_io_cmd_of(sqe)->result = 1)
BAD(sqe_addr, sqe->addr = 1)
BAD(sqe_len, sqe->len = 1)
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
		{ bad_sqe_addr, -EINVAL }, { bad_sqe_len, -EINVAL },
		{ bad_fetch, -EOPNOTSUPP }, { bad_commit, -EOPNOTSUPP },
		{ bad_reg, -EOPNOTSUPP }, { bad_unreg, -EOPNOTSUPP },
		{ bad_batch, -EOPNOTSUPP }, { bad_no_op, -EOPNOTSUPP },
		{ bad_direction, -EFAULT }, { bad_range, -EFAULT },
	};
	struct io_uring_sqe *sqe, *m[1];
	unsigned int i;

	/* there is no request, so its data isn't the server's */
	fused_req(self, 1, m);
	ASSERT_EQ(-EBUSY, ring_run(&self->dev.ring));

	memset(self->dev.data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	for (i = 0; i < ARRAY_SIZE(bads); i++) {
		sqe = fused_req(self, 1, m);
		set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE, 0);
		bads[i].make(sqe);
		ASSERT_EQ(bads[i].res, ring_run(&self->dev.ring)) {
			TH_LOG("%u", i);
		}
	}
	/* it isn't a command on its own */
	ublk_io_cmd(&self->dev, UBLK_U_IO_FUSED_SUBMIT_IO, 0)->flags =
		self->flags;
	ASSERT_EQ(-EINVAL, ring_run(&self->dev.ring));
	EXPECT_TRUE(all_bytes(self->dev.data, POISON, REQ_SIZE));
	fused_req(self, 1, m);
	set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE, 0);
	ASSERT_EQ(REQ_SIZE, ring_run(&self->dev.ring));
	ASSERT_EQ(REQ_SIZE, request_finish(self, REQ_SIZE));
	EXPECT_EQ(REQ_SIZE, check_pattern(self->dev.data, REQ_SIZE, SEED));
}

/* A request without data has none to lend */
TEST_F(ublk, flush)
{
	struct io_uring_sqe *m[1];

	ASSERT_EQ(0, request_begin(self, CLIENT_FLUSH));
	fused_req(self, 1, m);
	ASSERT_EQ(-EINVAL, ring_run(&self->dev.ring));
	ASSERT_EQ(0, request_finish(self, 0));
}

/* The result is committed early: the reader gets its data all the same */
TEST_F(ublk, commit_in_flight)
{
	unsigned char byte = 0x5a;
	struct io_uring_sqe *m[2];
	unsigned int i;

	memset(self->dev.data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	fused_req(self, 2, m);
	set_rw(m[0], IORING_OP_READ, self->pipe[0], 0, 1, 0);
	set_rw(m[1], IORING_OP_READ, self->file, 1, REQ_SIZE - 1, 1);
	ASSERT_LT(0, ring_submit(&self->dev.ring));
	/* not before the request is lent, or that fails */
	for (i = 0; i < 100; i++) {
		ring_enter(&self->dev.ring, 0, 0, IORING_ENTER_GETEVENTS);
		usleep(1000);
	}
	EXPECT_EQ(0, request_commit(self, REQ_SIZE));
	for (i = 0; i < 50; i++) {
		ring_enter(&self->dev.ring, 0, 0, IORING_ENTER_GETEVENTS);
		usleep(1000);
	}
	EXPECT_EQ(NOT_YET, __atomic_load_n(&self->dev.moved, __ATOMIC_ACQUIRE));
	ASSERT_EQ(1, write(self->pipe[1], &byte, 1));
	EXPECT_EQ(REQ_SIZE, ring_result(&self->dev.ring));
	EXPECT_EQ(REQ_SIZE, request_end(self));
	EXPECT_EQ(byte, self->dev.data[0]);
	self->dev.data[0] = pattern(0, SEED);
	EXPECT_EQ(REQ_SIZE, check_pattern(self->dev.data, REQ_SIZE, SEED));
}

/* A command that commits the request as well, whose CQE is the next request */
static void fused_commit(struct _test_data_ublk *self, unsigned int nr,
			 struct io_uring_sqe **m)
{
	fused_req(self, nr, m)->cmd_op = UBLK_U_IO_FUSED_COMMIT_AND_FETCH;
}

static int submit(struct _test_data_ublk *self)
{
	int ret = ring_submit(&self->dev.ring);

	return ret < 0 ? ret : 0;
}

/* Task work runs for a while */
static void linger(struct _test_data_ublk *self, unsigned int ms)
{
	while (ms--) {
		ring_enter(&self->dev.ring, 0, 0, IORING_ENTER_GETEVENTS);
		usleep(1000);
	}
}

/* Task work runs until there is a CQE */
static int await_cqe(struct ring *r)
{
	__u64 end = now_ms() + WAIT_MS;

	while (!ring_ready(r)) {
		if (now_ms() > end)
			return -ETIME;
		ring_enter(r, 0, 0, IORING_ENTER_GETEVENTS);
		usleep(1000);
	}
	return 0;
}

/* One SQE and one CQE for each request, and the data where it belongs */
TEST_F(ublk, commit)
{
	struct io_uring_sqe *m[2];
	unsigned int i;

	for (i = 0; i < 4; i++) {
		memset(self->dev.data, POISON, REQ_SIZE);
		ASSERT_EQ(0, request_begin(self, CLIENT_READ));
		fused_commit(self, 2, m);
		set_rw(m[0], IORING_OP_READ, self->file, 0, HALF, 0);
		set_rw(m[1], IORING_OP_READ, self->file, HALF, HALF, HALF);
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(REQ_SIZE, request_end(self));
		ASSERT_EQ(REQ_SIZE, check_pattern(self->dev.data, REQ_SIZE,
						  SEED + i));
		EXPECT_TRUE(ring_quiet(&self->dev.ring));

		fill_pattern(self->dev.data, REQ_SIZE, SEED + i + 1);
		ASSERT_EQ(0, request_begin(self, CLIENT_WRITE));
		fused_commit(self, 1, m);
		set_rw(m[0], IORING_OP_WRITE, self->file, 0, REQ_SIZE, 0);
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(REQ_SIZE, request_end(self));
		EXPECT_TRUE(ring_quiet(&self->dev.ring));
	}
	memset(self->dev.data, POISON, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, pread(self->file, self->dev.data, REQ_SIZE, 0));
	EXPECT_EQ(REQ_SIZE, check_pattern(self->dev.data, REQ_SIZE, SEED + 4));
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
		memset(self->dev.data, POISON, REQ_SIZE);
		ASSERT_EQ(0, request_begin(self, CLIENT_READ));
		ASSERT_EQ(REQ_SIZE >> 9, self->dev.iod->nr_sectors);
		fused_commit(self, 1, m);
		set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE,
		       REQ_SIZE - has[i]);
		ASSERT_EQ(0, submit(self));
		/* the rest is the next request, of the same reader */
		ASSERT_EQ(0, ring_result(&self->dev.ring));
		ASSERT_EQ(NOT_YET, __atomic_load_n(&self->dev.moved,
						   __ATOMIC_ACQUIRE));
		ASSERT_EQ(UBLK_IO_OP_READ, ublksrv_get_op(self->dev.iod));
		ASSERT_EQ(part >> 9, self->dev.iod->start_sector);
		ASSERT_EQ(left >> 9, self->dev.iod->nr_sectors);
		fused_commit(self, 1, m);
		set_rw(m[0], IORING_OP_READ, self->file, 0, left, 0);
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(REQ_SIZE, request_end(self));
		ASSERT_EQ(left, check_pattern(self->dev.data + part, left, SEED));
		memmove(self->dev.data + REQ_SIZE - part, self->dev.data, part);
		ASSERT_EQ(REQ_SIZE - has[i],
			  pread(self->file, self->dev.data, REQ_SIZE - has[i], 0));
		memmove(self->dev.data + REQ_SIZE - has[i],
			self->dev.data + REQ_SIZE - part, part);
		ASSERT_EQ(REQ_SIZE - has[i] + part,
			  check_pattern(self->dev.data, REQ_SIZE - has[i] + part,
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
	set_rw(m[0], IORING_OP_READ, self->file, 0, HALF, 0);
	set_rw(m[1], IORING_OP_READ, self->file, HALF, REQ_SIZE, 0);
}

static void same_twice(struct _test_data_ublk *self, struct io_uring_sqe **m)
{
	set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE, 0);
	set_rw(m[1], IORING_OP_READ, self->file, 0, REQ_SIZE, 0);
}

static void no_file(struct _test_data_ublk *self, struct io_uring_sqe **m)
{
	set_rw(m[0], IORING_OP_READ, self->file, 0, HALF, 0);
	set_rw(m[1], IORING_OP_READ, -1, HALF, HALF, 0);
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
/* All is written, but whether the command has done what it was to do isn't known */
static void command_says_more(struct _test_data_ublk *self,
			      struct io_uring_sqe **m)
{
	static int type;

	set_rw(m[0], IORING_OP_WRITE, self->file, 0, REQ_SIZE, 0);
	m[1]->opcode = IORING_OP_URING_CMD;
	m[1]->fd = self->sock[0];
	m[1]->cmd_op = SOCKET_URING_OP_GETSOCKOPT;
	m[1]->level = SOL_SOCKET;
	m[1]->optname = SO_TYPE;
	m[1]->optval = u64_ptr(&type);
	m[1]->optlen = sizeof(type);
}

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
		{ CLIENT_READ, same_twice, -EINVAL },
		{ CLIENT_READ, no_file, -EBADF },
		{ CLIENT_WRITE, write_fails, -EBADF },
		{ CLIENT_WRITE, write_is_cut, -EIO },
		{ CLIENT_WRITE, command_says_more, -EIO },
	};
	struct io_uring_sqe *m[2];
	unsigned int i, op;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		memset(self->dev.data, POISON, REQ_SIZE);
		if (cases[i].op == CLIENT_WRITE)
			fill_pattern(self->dev.data, REQ_SIZE, SEED);
		ASSERT_EQ(0, request_begin(self, cases[i].op));
		fused_commit(self, 2, m);
		cases[i].make(self, m);
		ASSERT_EQ(cases[i].res, ring_run(&self->dev.ring)) {
			TH_LOG("%u", i);
		}
		ASSERT_EQ(NOT_YET, __atomic_load_n(&self->dev.moved,
						   __ATOMIC_ACQUIRE));
		fused_commit(self, 1, m);
		op = IORING_OP_READ;
		if (cases[i].op != CLIENT_READ)
			op = IORING_OP_WRITE;
		set_rw(m[0], op, self->file, 0, REQ_SIZE, 0);
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(REQ_SIZE, request_end(self));
		ASSERT_EQ(REQ_SIZE, check_pattern(self->dev.data, REQ_SIZE, SEED));
		EXPECT_TRUE(ring_quiet(&self->dev.ring));
	}
	/* or give up */
	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	fused_commit(self, 2, m);
	past_the_end(self, m);
	ASSERT_EQ(-EFAULT, ring_run(&self->dev.ring));
	ASSERT_EQ(-EIO, request_finish(self, -EIO));
}

/* The CQE that comes next: its result, and what it says of the request before */
static int result_flags(struct _test_data_ublk *self, unsigned int *flags)
{
	struct io_uring_cqe cqe;
	int ret = ring_wait(&self->dev.ring, &cqe);

	*flags = cqe.flags;
	return ret ? ret : cqe.res;
}

static int run_flags(struct _test_data_ublk *self, unsigned int *flags)
{
	int ret = submit(self);

	return ret ? ret : result_flags(self, flags);
}

/* Which part of it was committed: nothing, some, or all. The error says what else */
TEST_F(ublk, commit_flags)
{
	struct io_uring_sqe *m[2];
	unsigned int i, flags;

	/* all, and the flags are those of the request before */
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, request_begin(self, CLIENT_READ));
		fused_commit(self, 1, m);
		set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE, 0);
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(REQ_SIZE, request_end(self));
		self->dev.op = CLIENT_READ;
		self->dev.moved = NOT_YET;
		ASSERT_EQ(0, pthread_create(&self->dev.client, NULL,
					    ublk_client_thread, &self->dev));
		ASSERT_EQ(0, result_flags(self, &flags));
		EXPECT_EQ(0, flags);

		/* some of it */
		fused_commit(self, 1, m);
		set_rw(m[0], IORING_OP_READ, self->file, 0, HALF, 0);
		ASSERT_EQ(0, run_flags(self, &flags));
		EXPECT_EQ(IORING_CQE_F_PARTIAL, flags);
		ASSERT_EQ(HALF >> 9, self->dev.iod->start_sector);

		/* and nothing: members fail, are refused, or there is no command */
		fused_commit(self, 1, m);
		gap_at_start(self, m);
		ASSERT_EQ(-EFAULT, run_flags(self, &flags));
		EXPECT_EQ(IORING_CQE_F_NOT_COMMITTED, flags);
		fused_commit(self, 2, m);
		same_twice(self, m);
		ASSERT_EQ(-EINVAL, run_flags(self, &flags));
		EXPECT_EQ(IORING_CQE_F_NOT_COMMITTED, flags);
		ublk_io_cmd_of(fused_req(self, 1, m))->tag = 1;
		ASSERT_EQ(-EINVAL, run_flags(self, &flags));
		EXPECT_EQ(IORING_CQE_F_NOT_COMMITTED, flags);
		fused_req(self, 1, m)->file_index = 1;
		ASSERT_EQ(-EINVAL, run_flags(self, &flags));
		EXPECT_EQ(IORING_CQE_F_NOT_COMMITTED, flags);
		fused_req(self, 1, m)->flags |= IOSQE_BUFFER_SELECT;
		ASSERT_GT(0, run_flags(self, &flags));
		EXPECT_EQ(IORING_CQE_F_NOT_COMMITTED, flags);

		/* a lend fails, or not */
		fused_req(self, 1, m);
		set_rw(m[0], IORING_OP_READ, -1, 0, HALF, 0);
		ASSERT_EQ(-EBADF, run_flags(self, &flags));
		EXPECT_EQ(IORING_CQE_F_NOT_COMMITTED, flags);
		fused_req(self, 1, m);
		set_rw(m[0], IORING_OP_READ, self->file, 0, HALF, HALF);
		ASSERT_EQ(HALF, run_flags(self, &flags));
		EXPECT_EQ(0, flags);

		/* it is told once */
		ASSERT_EQ(REQ_SIZE, request_finish(self, HALF));
		EXPECT_EQ(REQ_SIZE, check_pattern(self->dev.data, REQ_SIZE,
						  SEED));
	}
	/* the device is stopped: that isn't one of them */
	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	fused_commit(self, 1, m);
	set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE, 0);
	ASSERT_EQ(0, submit(self));
	ASSERT_EQ(REQ_SIZE, request_end(self));
	close(self->dev.bdev);
	self->dev.bdev = -1;
	self->dev.started = false;
	ASSERT_EQ(0, ublk_dev_ctrl(&self->dev, UBLK_U_CMD_STOP_DEV, NULL, 0, 0));
	ASSERT_EQ(UBLK_IO_RES_ABORT, result_flags(self, &flags));
	EXPECT_EQ(0, flags);
}

/* Part of a read, with its data lent once more: that much when it is back */
TEST_F(ublk, commit_short_busy)
{
	unsigned char byte = pattern(0, SEED);
	struct io_uring_sqe *m[1];

	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	fused_req(self, 1, m)->user_data = 2;
	set_rw(m[0], IORING_OP_READ, self->pipe[0], 0, 1, 0);
	ASSERT_EQ(0, submit(self));
	linger(self, 100);
	fused_commit(self, 1, m);
	set_rw(m[0], IORING_OP_READ, self->file, 1, HALF - 1, 1);
	ASSERT_EQ(0, submit(self));
	linger(self, 100);
	ASSERT_EQ(0, ring_ready(&self->dev.ring));
	ASSERT_EQ(1, write(self->pipe[1], &byte, 1));
	ASSERT_EQ(1, ring_result(&self->dev.ring));
	ASSERT_EQ(0, ring_result(&self->dev.ring));
	ASSERT_EQ(HALF >> 9, self->dev.iod->start_sector);
	fused_commit(self, 1, m);
	set_rw(m[0], IORING_OP_READ, self->file, 0, HALF, HALF);
	ASSERT_EQ(0, submit(self));
	ASSERT_EQ(REQ_SIZE, request_end(self));
	EXPECT_EQ(REQ_SIZE, check_pattern(self->dev.data, REQ_SIZE, SEED));
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
	fused(&r, h->self->dev.cdev, h->self->flags, 1, m)->cmd_op = h->cmd_op;
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
	ASSERT_EQ(-EBUSY, ring_run(&self->dev.ring));
	ASSERT_EQ(-EINVAL, in_other_task(self,
					 UBLK_U_IO_FUSED_COMMIT_AND_FETCH));

	memset(self->dev.data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	ASSERT_EQ(-EINVAL, in_other_task(self,
					 UBLK_U_IO_FUSED_COMMIT_AND_FETCH));
	fused_commit(self, 2, m);
	set_rw(m[0], IORING_OP_READ, self->pipe[0], 0, 1, 0);
	set_rw(m[1], IORING_OP_READ, self->file, 1, REQ_SIZE - 1, 1);
	ASSERT_EQ(0, submit(self));
	linger(self, 100);
	ASSERT_EQ(NOT_YET, __atomic_load_n(&self->dev.moved, __ATOMIC_ACQUIRE));
	fused_commit(self, 1, m);
	ASSERT_EQ(-EBUSY, ring_run(&self->dev.ring));
	fused_req(self, 1, m);
	ASSERT_EQ(-EBUSY, ring_run(&self->dev.ring));
	ublk_io_cmd(&self->dev, UBLK_U_IO_COMMIT_AND_FETCH_REQ, REQ_SIZE);
	ASSERT_EQ(-EBUSY, ring_run(&self->dev.ring));
	/* any task may use the data of a request up to its end */
	ASSERT_EQ(REQ_SIZE, in_other_task(self, UBLK_U_IO_FUSED_SUBMIT_IO));
	ASSERT_EQ(NOT_YET, __atomic_load_n(&self->dev.moved, __ATOMIC_ACQUIRE));
	ASSERT_EQ(1, write(self->pipe[1], &byte, 1));
	linger(self, 20);
	ASSERT_EQ(REQ_SIZE, request_end(self));
	EXPECT_EQ(byte, self->dev.data[0]);
	self->dev.data[0] = pattern(0, SEED);
	EXPECT_EQ(REQ_SIZE, check_pattern(self->dev.data, REQ_SIZE, SEED));
	EXPECT_TRUE(ring_quiet(&self->dev.ring));
}

/* Neither data nor a request to commit, and what the driver is told by others */
TEST_F(ublk, commit_refused)
{
	struct io_uring_sqe *sqe, *m[1];

	ASSERT_EQ(0, request_begin(self, CLIENT_FLUSH));
	fused_commit(self, 1, m);
	ASSERT_EQ(-EINVAL, ring_run(&self->dev.ring));
	ASSERT_EQ(0, request_finish(self, 0));

	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	sqe = fused_req(self, 1, m);
	sqe->cmd_op = UBLK_U_IO_FUSED_COMMIT_AND_FETCH;
	ublk_io_cmd_of(sqe)->result = REQ_SIZE;
	ASSERT_EQ(-EINVAL, ring_run(&self->dev.ring));
	/* it isn't a command on its own */
	ublk_io_cmd(&self->dev, UBLK_U_IO_FUSED_COMMIT_AND_FETCH, 0)->flags =
		self->flags;
	ASSERT_EQ(-EINVAL, ring_run(&self->dev.ring));
	ASSERT_EQ(-EIO, request_finish(self, -EIO));
}

/*
 * Commands that wait for the next request, or for the end of this one, would
 * have its data for as long as that
 */
TEST_F(ublk, command_member)
{
	const unsigned int ops[] = {
		UBLK_U_IO_COMMIT_AND_FETCH_REQ, UBLK_U_IO_FETCH_REQ,
		UBLK_U_CMD_STOP_DEV,
	};
	int fds[] = { self->dev.cdev, self->dev.cdev, self->dev.control };
	struct io_uring_sqe *m[2];
	unsigned int i, fixed;

	ASSERT_EQ(0, ring_register(&self->dev.ring, IORING_REGISTER_FILES, fds,
				   ARRAY_SIZE(fds)));
	for (fixed = 0; fixed < 2; fixed++) {
		for (i = 0; i < ARRAY_SIZE(ops); i++) {
			memset(self->dev.data, POISON, REQ_SIZE);
			ASSERT_EQ(0, request_begin(self, CLIENT_READ));
			fused_req(self, 2, m);
			set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE,
			       0);
			m[1]->opcode = IORING_OP_URING_CMD;
			m[1]->fd = fixed ? (int)i : fds[i];
			m[1]->flags = fixed ? IOSQE_FIXED_FILE : 0;
			m[1]->cmd_op = ops[i];
			ublk_io_cmd_of(m[1])->result = REQ_SIZE;
			ASSERT_EQ(-EOPNOTSUPP, ring_run(&self->dev.ring));
			ASSERT_EQ(REQ_SIZE, request_finish(self, REQ_SIZE));
			EXPECT_EQ(REQ_SIZE, check_pattern(self->dev.data,
							  REQ_SIZE, SEED));
		}
	}
	ASSERT_EQ(0, ring_register(&self->dev.ring, IORING_UNREGISTER_FILES,
				   NULL, 0));
}

/* A member that has no file isn't given one later, when nobody looks any more */
TEST_F(ublk, command_member_late)
{
	struct ring *r = &self->dev.ring;
	struct io_uring_sqe *m[2], *sqe;
	struct io_uring_cqe cqe;
	unsigned char byte = 0;
	__u32 workers[2] = { 1, 1 };
	struct blocker b;
	unsigned int i;
	void *page;
	int fd, ret;

	if (self->flags & IOSQE_ASYNC) {
		TH_LOG("n/a: %s", "the command itself would wait");
		return;
	}
	ASSERT_EQ(0, ring_register(r, IORING_REGISTER_IOWQ_MAX_WORKERS, workers,
				   2));
	page = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, page);
	ret = blocker_init(&b, page, getpagesize(), 0x55);
	if (ret)
		SKIP(return, "no userfaultfd: %s", strerror(-ret));
	fd = dup(self->dev.cdev);
	ASSERT_LE(0, fd);
	close(fd);

	/* the one worker is busy, and has this behind it */
	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	sqe = ring_sqe(r, IORING_OP_MEMCPY);
	sqe->fd = -1;
	sqe->addr = u64_ptr(&byte);
	sqe->addr2 = u64_ptr(page);
	sqe->len = 1;
	sqe->flags = IOSQE_ASYNC;
	sqe->user_data = 2;
	ASSERT_EQ(0, submit(self));
	ASSERT_TRUE(blocker_wait(&b, WAIT_MS / 4));
	fused_req(self, 2, m);
	set_rw(m[0], IORING_OP_READ, self->file, 0, REQ_SIZE, 0);
	m[1]->opcode = IORING_OP_URING_CMD;
	m[1]->fd = fd;
	m[1]->flags = IOSQE_ASYNC;
	m[1]->cmd_op = UBLK_U_IO_FETCH_REQ;
	ASSERT_EQ(0, submit(self));
	linger(self, 100);
	ASSERT_EQ(fd, dup2(self->dev.cdev, fd));
	EXPECT_TRUE(blocker_release(&b));
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, ring_wait(r, &cqe));
		EXPECT_EQ(cqe.user_data == 2 ? 1 : -EBADF, cqe.res);
	}
	EXPECT_EQ(0x55, byte);
	close(fd);
	munmap(page, getpagesize());
	ASSERT_EQ(REQ_SIZE, request_finish(self, REQ_SIZE));
}

/* Threads that use the data of whatever the server has, until it is told */
struct racer {
	struct _test_data_ublk *self;
	unsigned int done;
	int err;
};

static bool stop_racers;

static void *racer_thread(void *arg)
{
	struct racer *r = arg;
	struct io_uring_sqe *m[1];
	struct ring ring;
	int res, err;

	err = ring_init(&ring, 8, IORING_SETUP_SQE_MIXED);
	while (!err && !__atomic_load_n(&stop_racers, __ATOMIC_ACQUIRE)) {
		fused(&ring, r->self->dev.cdev, r->self->flags, 1, m);
		set_rw(m[0], IORING_OP_READ, r->self->file, 0, REQ_SIZE, 0);
		res = ring_run(&ring);
		if (res == REQ_SIZE)
			__atomic_fetch_add(&r->done, 1, __ATOMIC_RELAXED);
		else if (res != -EINVAL && res != -EBUSY)
			err = res ? res : -EBADMSG;
	}
	ring_exit(&ring);
	__atomic_store_n(&r->err, err, __ATOMIC_RELEASE);
	return NULL;
}

/*
 * Two other rings fill the data of the same tag while the server commits it,
 * time and again. They are done with it when the reader has it.
 */
TEST_F(ublk, commit_races)
{
	static struct racer r[2];
	__u64 end = now_ms() + run_ms(1000);
	pthread_t thread[2];
	unsigned int i, n;
	bool ok = true;

	__atomic_store_n(&stop_racers, false, __ATOMIC_RELEASE);
	for (n = 0; n < 2; n++) {
		r[n] = (struct racer) { .self = self };
		if (pthread_create(&thread[n], NULL, racer_thread, &r[n]))
			break;
	}
	EXPECT_EQ(2, n);
	for (i = 0; ok; i++) {
		if (now_ms() >= end &&
		    __atomic_load_n(&r[0].done, __ATOMIC_RELAXED) &&
		    __atomic_load_n(&r[1].done, __ATOMIC_RELAXED))
			break;
		ok = n == 2 && now_ms() < end + WAIT_MS &&
		     !request_begin(self, CLIENT_READ);
		if (i % 2)
			usleep(500);
		ok = ok && request_finish(self, REQ_SIZE) == REQ_SIZE;
		memset(self->dev.data, POISON, REQ_SIZE);
		usleep(i % 3 * 300);
		ok = ok && all_bytes(self->dev.data, POISON, REQ_SIZE) &&
		     !__atomic_load_n(&r[0].err, __ATOMIC_ACQUIRE) &&
		     !__atomic_load_n(&r[1].err, __ATOMIC_ACQUIRE);
	}
	EXPECT_TRUE(ok);
	/* they use what the teardown closes */
	__atomic_store_n(&stop_racers, true, __ATOMIC_RELEASE);
	while (n--) {
		pthread_join(thread[n], NULL);
		EXPECT_EQ(0, r[n].err);
	}
}

/* Any thread with any ring can use the data */
TEST_F(ublk, other_task)
{
	/* but not that of no request */
	ASSERT_EQ(-EINVAL, in_other_task(self, UBLK_U_IO_FUSED_SUBMIT_IO));

	memset(self->dev.data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(self, CLIENT_READ));
	ASSERT_EQ(REQ_SIZE, in_other_task(self, UBLK_U_IO_FUSED_SUBMIT_IO));
	ASSERT_EQ(REQ_SIZE, request_finish(self, REQ_SIZE));
	EXPECT_EQ(REQ_SIZE, check_pattern(self->dev.data, REQ_SIZE, SEED));
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
	ublk_dev_abandon(&self->dev);
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
	EXPECT_EQ(-EOPNOTSUPP, ring_run(&self->dev.ring));
	fused_commit(self, 1, m);
	EXPECT_EQ(-EOPNOTSUPP, ring_run(&self->dev.ring));
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
	EXPECT_EQ(-EOPNOTSUPP, ring_run(&self->dev.ring));
	stop(self);
}

/* Where a file ends for lack of space, or of leave, a write isn't a success */
TEST(commit_full)
{
	struct _test_data_ublk data = { };
	struct _test_data_ublk *self = &data;
	struct rlimit lim = { 65536, RLIM_INFINITY };
	char dir[] = "/tmp/fused.XXXXXX", name[64];
	struct io_uring_sqe *m[2];
	unsigned int i;
	int out, ret;

	start(_metadata, self, 0, UBLK_F_FUSED_CMD);
	fill_pattern(self->dev.data, REQ_SIZE, SEED + 1);
	ASSERT_NE(NULL, mkdtemp(dir));
	ASSERT_EQ(0, mount("full", dir, "tmpfs", 0, "size=64k"));
	snprintf(name, sizeof(name), "%s/out", dir);
	signal(SIGXFSZ, SIG_IGN);
	for (i = 0; i < 4; i++) {
		unsigned int second = i & 1;

		out = i & 2 ? open(name, O_RDWR | O_CREAT | O_TRUNC, 0600) :
			      (int)syscall(__NR_memfd_create, "out", MFD_CLOEXEC);
		ASSERT_LE(0, out);
		ASSERT_EQ(0, request_begin(self, CLIENT_WRITE));
		fused_commit(self, 2, m);
		set_rw(m[!second], IORING_OP_WRITE, self->file, 0, HALF, 0);
		set_rw(m[second], IORING_OP_WRITE, out, 0, REQ_SIZE, 0);
		if (!(i & 2))
			ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &lim));
		ret = ring_run(&self->dev.ring);
		lim.rlim_cur = RLIM_INFINITY;
		ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &lim));
		lim.rlim_cur = 65536;
		EXPECT_TRUE(ret == -EIO || ret == -ENOSPC || ret == -EFBIG) {
			TH_LOG("%u: %d", i, ret);
		}
		ASSERT_EQ(NOT_YET, __atomic_load_n(&self->dev.moved,
						   __ATOMIC_ACQUIRE));
		ASSERT_EQ(-ENOSPC, request_finish(self, -ENOSPC));
		close(out);
	}
	unlink(name);
	EXPECT_EQ(0, umount(dir));
	rmdir(dir);
	stop(self);
}

/* Other ways to get at the data, along with this one */
TEST(features)
{
	static const __u64 flags[] = {
		UBLK_F_SUPPORT_ZERO_COPY, UBLK_F_USER_COPY,
		UBLK_F_NEED_GET_DATA,
		UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_USER_COPY,
	};
	struct io_uring_sqe *sqe, *m[1];
	unsigned int i, with;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		struct _test_data_ublk data = { };
		struct _test_data_ublk *self = &data;
		__u64 pos = UBLKSRV_IO_BUF_OFFSET;

		/* GET_DATA isn't needed, and the flag goes */
		start(_metadata, self, 0, UBLK_F_FUSED_CMD |
		      (flags[i] & ~UBLK_F_NEED_GET_DATA));
		ASSERT_EQ(0, ring_buffers_sparse(&self->dev.ring, 1));
		/* the start of it by a member, and the rest in the other way */
		for (with = 0; with < 2; with++) {
			unsigned char *buf;

			memset(self->dev.data, POISON, REQ_SIZE);
			ASSERT_EQ(0, request_begin(self, CLIENT_READ));
			fused_req(self, 1, m);
			set_rw(m[0], IORING_OP_READ, self->file, 0, HALF, 0);
			ASSERT_EQ(HALF, ring_run(&self->dev.ring));
			/* one that fails doesn't make it worse */
			fused_req(self, 1, m);
			set_rw(m[0], IORING_OP_READ, -1, 0, REQ_SIZE, 0);
			ASSERT_EQ(-EBADF, ring_run(&self->dev.ring));
			if (flags[i] & UBLK_F_USER_COPY) {
				buf = malloc(HALF);
				ASSERT_EQ(HALF, pread(self->file, buf, HALF,
						      HALF));
				ASSERT_EQ(HALF, pwrite(self->dev.cdev, buf,
						       HALF, pos + HALF));
				free(buf);
			} else if (flags[i] & UBLK_F_SUPPORT_ZERO_COPY) {
				ublk_io_cmd(&self->dev,
					    UBLK_U_IO_REGISTER_IO_BUF, 0);
				ASSERT_EQ(0, ring_run(&self->dev.ring));
				sqe = ring_sqe(&self->dev.ring,
					       IORING_OP_READ_FIXED);
				set_rw(sqe, IORING_OP_READ_FIXED, self->file,
				       HALF, HALF, HALF);
				ASSERT_EQ(HALF, ring_run(&self->dev.ring));
				ublk_io_cmd(&self->dev,
					    UBLK_U_IO_UNREGISTER_IO_BUF, 0);
				ASSERT_EQ(0, ring_run(&self->dev.ring));
			} else {
				fused_req(self, 1, m);
				set_rw(m[0], IORING_OP_READ, self->file, HALF,
				       HALF, HALF);
				ASSERT_EQ(HALF, ring_run(&self->dev.ring));
			}
			/* what user copy has filled is known */
			if (with && flags[i] != UBLK_F_SUPPORT_ZERO_COPY) {
				fused_commit(self, 1, m);
				ASSERT_EQ(0, submit(self));
				ASSERT_EQ(REQ_SIZE, request_end(self));
			} else {
				ASSERT_EQ(REQ_SIZE, request_finish(self,
								   REQ_SIZE));
			}
			ASSERT_EQ(REQ_SIZE, check_pattern(self->dev.data,
							  REQ_SIZE, SEED));
		}
		stop(self);
	}
}

/* A server in a process of its own, as far as it gets */
struct server {
	__u32 id;
	int ready;		/* 1, or -errno */
	int lent;
};

static void serve(struct server *srv, __u64 flags, unsigned int cmd_op)
{
	struct _test_data_ublk data = { };
	struct _test_data_ublk *self = &data;
	struct io_uring_sqe *m[1];
	int ret;

	ret = ring_init(&self->dev.ring, RING_ENTRIES, IORING_SETUP_SQE_MIXED);
	if (!ret)
		ret = ublk_dev_add(&self->dev, flags);
	srv->id = self->dev.id;
	if (!ret)
		ret = ublk_dev_start(&self->dev, 0);
	if (!ret && socketpair(AF_UNIX, SOCK_STREAM, 0, self->sock))
		ret = -errno;
	__atomic_store_n(&srv->ready, ret ?: 1, __ATOMIC_RELEASE);
	if (ret || ring_result(&self->dev.ring))
		_exit(1);
	fused_req(self, 1, m)->cmd_op = cmd_op;
	set_rw(m[0], IORING_OP_RECV, self->sock[0], 0, 4096, 0);
	ret = submit(self);
	linger(self, 50);
	__atomic_store_n(&srv->lent, ret ?: 1, __ATOMIC_RELEASE);
	pause();
}

static int wait_for(int *what)
{
	__u64 end = now_ms() + WAIT_MS;
	int ret;

	while (!(ret = __atomic_load_n(what, __ATOMIC_ACQUIRE))) {
		if (now_ms() > end)
			return -ETIME;
		usleep(1000);
	}
	return ret;
}

/* Killed with members that receive what nobody sends: the client is told */
TEST(killed)
{
	static const unsigned int ops[] = {
		UBLK_U_IO_FUSED_SUBMIT_IO, UBLK_U_IO_FUSED_COMMIT_AND_FETCH,
	};
	unsigned int i;

	for (i = 0; i < 2 * ARRAY_SIZE(ops); i++) {
		struct ublk_dev d = { .bdev = -1, .cdev = -1 };
		struct server *srv;
		pid_t pid;

		d.flags = UBLK_F_FUSED_CMD |
			  (i & 1 ? UBLK_F_UNPRIVILEGED_DEV : 0);
		srv = mmap(NULL, sizeof(*srv), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		ASSERT_NE(MAP_FAILED, srv);
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid)
			serve(srv, d.flags, ops[i / 2]);
		if (wait_for(&srv->ready) == -ENOENT) {
			waitpid(pid, NULL, 0);
			SKIP(return, "no /dev/ublk-control");
		}
		ASSERT_EQ(1, srv->ready);
		d.id = srv->id;
		d.control = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);
		ASSERT_LE(0, d.control);
		ASSERT_EQ(0, ring_init(&d.ctrl, 1, IORING_SETUP_SQE128));
		d.bdev = ublk_open("/dev/ublkb%u", d.id, O_RDWR | O_DIRECT);
		ASSERT_LE(0, d.bdev);
		d.data = malloc(2 * REQ_SIZE);
		d.data = (void *)(((uintptr_t)d.data + 4095) & ~4095UL);
		d.op = CLIENT_READ;
		d.moved = NOT_YET;
		ASSERT_EQ(0, pthread_create(&d.client, NULL, ublk_client_thread,
					    &d));
		ASSERT_EQ(1, wait_for(&srv->lent));
		ASSERT_EQ(NOT_YET, d.moved);
		kill(pid, SIGKILL);
		ASSERT_EQ(pid, waitpid(pid, NULL, 0));
		ASSERT_EQ(-EIO, ublk_request_end(&d));
		close(d.bdev);
		ASSERT_EQ(0, ublk_dev_ctrl(&d, UBLK_U_CMD_DEL_DEV, NULL, 0, 0));
		ring_exit(&d.ctrl);
		close(d.control);
		munmap(srv, sizeof(*srv));
	}
}

/* Stopped, and then gone, before it was started */
TEST(not_started)
{
	unsigned int i;

	for (i = 0; i < 3; i++) {
		struct ublk_dev d = { .bdev = -1, .cdev = -1 };
		int ret;

		ASSERT_EQ(0, ring_init(&d.ring, RING_ENTRIES,
				       IORING_SETUP_SQE_MIXED));
		ret = ublk_dev_add(&d, UBLK_F_FUSED_CMD);
		if (ret == -ENOENT)
			SKIP(return, "no /dev/ublk-control");
		ASSERT_EQ(0, ret);
		if (i) {
			ublk_io_cmd(&d, UBLK_U_IO_FETCH_REQ, -1);
			ASSERT_EQ(1, ring_submit(&d.ring));
		}
		if (i < 2) {
			ret = ublk_dev_ctrl(&d, UBLK_U_CMD_STOP_DEV, NULL, 0, 0);
			EXPECT_TRUE(!ret || ret == -ENODEV) {
				TH_LOG("%d", ret);
			}
		}
		ublk_dev_exit(&d);
	}
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
	if (self->s.dev.data)
		memset(self->s.dev.data, POISON, REQ_SIZE);
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
	       (s->dev.iod->start_sector << 9) + off);
	return ring_run(&s->dev.ring);
}

/* The rest of the data is asked for, from @off on */
static bool asked_again(struct _test_data_ublk *s, unsigned int off)
{
	unsigned int flags;

	return !result_flags(s, &flags) && flags == IORING_CQE_F_PARTIAL &&
	       s->dev.iod->start_sector == off >> 9 &&
	       s->dev.iod->nr_sectors == (REQ_SIZE - off) >> 9;
}

TEST_F(verified, read)
{
	struct _test_data_ublk *s = &self->s;
	struct io_uring_sqe *m[2];

	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	fused_req(s, 2, m);
	set_rw(m[0], IORING_OP_READ, s->file, 0, HALF, 0);
	set_rw(m[1], IORING_OP_READ, s->file, HALF, HALF, HALF);
	ASSERT_EQ(REQ_SIZE, ring_run(&s->dev.ring));
	ASSERT_EQ(REQ_SIZE, request_finish(s, REQ_SIZE));
	ASSERT_EQ(REQ_SIZE, check_pattern(s->dev.data, REQ_SIZE, SEED));

	/* piece by piece, in whatever sizes */
	memset(s->dev.data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	ASSERT_EQ(HALF, fill(s, 1, HALF));
	ASSERT_EQ(HALF - 1, fill(s, HALF + 1, HALF - 1));
	ASSERT_EQ(1, fill(s, 0, 1));
	ASSERT_EQ(REQ_SIZE, request_finish(s, REQ_SIZE));
	ASSERT_EQ(REQ_SIZE, check_pattern(s->dev.data, REQ_SIZE, SEED));

	/* and with a command that commits */
	memset(s->dev.data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	ASSERT_EQ(100, fill(s, 0, 100));
	fused_commit(s, 1, m);
	set_rw(m[0], IORING_OP_READ, s->file, 100, REQ_SIZE - 100, 100);
	ASSERT_EQ(0, submit(s));
	ASSERT_EQ(REQ_SIZE, request_end(s));
	EXPECT_EQ(REQ_SIZE, check_pattern(s->dev.data, REQ_SIZE, SEED));
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
	ASSERT_EQ(REQ_SIZE, ring_run(&s->dev.ring));
	ASSERT_EQ(-EIO, request_finish(s, REQ_SIZE));

	/* and one whose file has nothing */
	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	fused_req(s, 1, m);
	set_rw(m[0], IORING_OP_READ, s->file, 0, REQ_SIZE, REQ_SIZE);
	ASSERT_EQ(0, ring_run(&s->dev.ring));
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
	struct io_uring_sqe *m[1];

	/* less than said */
	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	ASSERT_EQ(HALF + 511, fill(s, 0, HALF + 511));
	ASSERT_EQ(0, request_commit(s, REQ_SIZE));
	ASSERT_TRUE(asked_again(s, HALF));
	/* what another one has filled, which isn't forgotten as that fails */
	ASSERT_EQ(4096, fill(s, 0, 4096));
	fused_commit(s, 1, m);
	set_rw(m[0], IORING_OP_READ, -1, 0, HALF, 0);
	ASSERT_EQ(-EBADF, ring_run(&s->dev.ring));
	/* the end, which has no start */
	ASSERT_EQ(HALF - 8192, fill(s, 8192, HALF - 8192));
	ASSERT_EQ(0, request_commit(s, HALF));
	ASSERT_TRUE(asked_again(s, HALF + 4096));
	/* more than said */
	ASSERT_EQ(HALF - 4096, fill(s, 0, HALF - 4096));
	ASSERT_EQ(0, request_commit(s, 512));
	ASSERT_TRUE(asked_again(s, HALF + 4608));
	ASSERT_EQ(HALF - 4608, fill(s, 0, HALF - 4608));
	ASSERT_EQ(REQ_SIZE, request_finish(s, HALF - 4608));
	EXPECT_EQ(REQ_SIZE, check_pattern(s->dev.data, REQ_SIZE, SEED));
}

/*
 * What only the server could answer: it would never end once it is killed. The
 * client's memory is as it was.
 */
TEST_F(verified, no_user_served)
{
	struct _test_data_ublk *s = &self->s;
	struct io_uring_sqe *m[2];
	struct iovec iov = { NULL, REQ_SIZE };
	int fds[] = { s->dev.bdev };

	ASSERT_EQ(0, ring_register(&s->dev.ring, IORING_REGISTER_FILES, fds, 1));
	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	fused_req(s, 1, m);
	set_rw(m[0], IORING_OP_READ, s->dev.bdev, 0, REQ_SIZE, 0);
	ASSERT_EQ(-EOPNOTSUPP, ring_run(&s->dev.ring));
	fused_req(s, 1, m);
	set_rw(m[0], IORING_OP_READ_FIXED, 0, 0, REQ_SIZE, 0);
	m[0]->flags = IOSQE_FIXED_FILE;
	ASSERT_EQ(-EOPNOTSUPP, ring_run(&s->dev.ring));
	fused_req(s, 1, m);
	set_rw(m[0], IORING_OP_READV_FIXED, s->dev.bdev, 0, 1, 0);
	m[0]->addr = u64_ptr(&iov);
	m[0]->flags = IOSQE_ASYNC;
	ASSERT_EQ(-EOPNOTSUPP, ring_run(&s->dev.ring));
	/* in a command that commits, with others that are fine */
	fused_commit(s, 2, m);
	set_rw(m[0], IORING_OP_READ, s->dev.bdev, 0, HALF, 0);
	set_rw(m[1], IORING_OP_READ, s->file, HALF, HALF, HALF);
	ASSERT_EQ(-EOPNOTSUPP, ring_run(&s->dev.ring));
	EXPECT_TRUE(all_bytes(s->dev.data, POISON, HALF));
	ASSERT_EQ(HALF, fill(s, 0, HALF));
	ASSERT_EQ(REQ_SIZE, request_finish(s, REQ_SIZE));
	EXPECT_EQ(REQ_SIZE, check_pattern(s->dev.data, REQ_SIZE, SEED));

	ASSERT_EQ(0, request_begin(s, CLIENT_WRITE));
	fused_req(s, 1, m);
	set_rw(m[0], IORING_OP_WRITE, s->dev.bdev, 0, REQ_SIZE, 0);
	ASSERT_EQ(-EOPNOTSUPP, ring_run(&s->dev.ring));
	/* no file, and a file that isn't there, are as before */
	fused_req(s, 1, m);
	ASSERT_EQ(0, ring_run(&s->dev.ring));
	fused_req(s, 1, m);
	set_rw(m[0], IORING_OP_WRITE, -1, 0, REQ_SIZE, 0);
	ASSERT_EQ(-EBADF, ring_run(&s->dev.ring));
	ASSERT_EQ(-EIO, request_finish(s, -EIO));
}

/* It isn't the server's end that would end the request then */
TEST_F(verified, other_process)
{
	struct _test_data_ublk *s = &self->s;
	int status;
	pid_t pid;

	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct io_uring_sqe *m[1];
		struct ring r;

		if (ring_init(&r, RING_ENTRIES, IORING_SETUP_SQE_MIXED))
			_exit(1);
		fused(&r, s->dev.cdev, 0, 1, m);
		set_rw(m[0], IORING_OP_READ, s->file, 0, REQ_SIZE, 0);
		_exit(ring_run(&r) == -EPERM ? 0 : 2);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_TRUE(all_bytes(s->dev.data, POISON, REQ_SIZE));
	ASSERT_EQ(REQ_SIZE, fill(s, 0, REQ_SIZE));
	ASSERT_EQ(REQ_SIZE, request_finish(s, REQ_SIZE));
	EXPECT_EQ(REQ_SIZE, check_pattern(s->dev.data, REQ_SIZE, SEED));
}

TEST_F(verified, write)
{
	struct _test_data_ublk *s = &self->s;
	struct io_uring_sqe *m[1];

	fill_pattern(s->dev.data, REQ_SIZE, SEED + 1);
	ASSERT_EQ(0, request_begin(s, CLIENT_WRITE));
	fused_req(s, 1, m);
	set_rw(m[0], IORING_OP_WRITE, s->file, 0, HALF, 0);
	ASSERT_EQ(HALF, ring_run(&s->dev.ring));
	ASSERT_EQ(0, request_commit(s, HALF));
	ASSERT_TRUE(asked_again(s, HALF));
	fused_req(s, 1, m);
	set_rw(m[0], IORING_OP_WRITE, s->file, 0, HALF, HALF);
	ASSERT_EQ(HALF, ring_run(&s->dev.ring));
	ASSERT_EQ(REQ_SIZE, request_finish(s, HALF));
	memset(s->dev.data, POISON, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, pread(s->file, s->dev.data, REQ_SIZE, 0));
	EXPECT_EQ(REQ_SIZE, check_pattern(s->dev.data, REQ_SIZE, SEED + 1));

	ASSERT_EQ(0, request_begin(s, CLIENT_FLUSH));
	ASSERT_EQ(0, request_finish(s, 0));
}

/* A TCP connection */
static int tcp_pair(int *s)
{
	struct sockaddr_in sa = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t len = sizeof(sa);
	int l = socket(AF_INET, SOCK_STREAM, 0), ret = -1;

	s[0] = socket(AF_INET, SOCK_STREAM, 0);
	s[1] = -1;
	if (!bind(l, (struct sockaddr *)&sa, len) && !listen(l, 1) &&
	    !getsockname(l, (struct sockaddr *)&sa, &len) &&
	    !connect(s[0], (struct sockaddr *)&sa, len)) {
		s[1] = accept(l, NULL, NULL);
		ret = s[1] < 0 ? -1 : 0;
	}
	close(l);
	return ret;
}

/* Nobody keeps a client's memory but the server, which can be killed */
TEST_F(verified, no_zerocopy)
{
	static const unsigned int ops[] = {
		UBLK_U_IO_FUSED_SUBMIT_IO, UBLK_U_IO_FUSED_COMMIT_AND_FETCH,
	};
	struct _test_data_ublk *s = &self->s;
	struct iovec iov = { NULL, 4096 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct io_uring_sqe *m[2];
	unsigned int i;
	int tcp[2];

	ASSERT_EQ(0, tcp_pair(tcp));
	fill_pattern(s->dev.data, REQ_SIZE, SEED + 1);
	ASSERT_EQ(0, request_begin(s, CLIENT_WRITE));
	for (i = 0; i < 2 * ARRAY_SIZE(ops); i++) {
		fused_req(s, 2, m)->cmd_op = ops[i / 2];
		set_rw(m[0], IORING_OP_WRITE, s->file, 0, REQ_SIZE, 0);
		set_rw(m[1], IORING_OP_SEND_ZC, tcp[0], 0, 4096, 0);
		if (i & 1) {
			m[1]->opcode = IORING_OP_SENDMSG_ZC;
			m[1]->addr = u64_ptr(&msg);
			m[1]->len = 1;
		}
		ASSERT_EQ(-EOPNOTSUPP, ring_run(&s->dev.ring));
	}
	/* a copy is fine */
	fused_commit(s, 2, m);
	set_rw(m[0], IORING_OP_WRITE, s->file, 0, REQ_SIZE, 0);
	set_rw(m[1], IORING_OP_SEND, tcp[0], 0, 4096, 0);
	ASSERT_EQ(0, submit(s));
	ASSERT_EQ(REQ_SIZE, request_end(s));
	memset(s->dev.data, POISON, REQ_SIZE);
	ASSERT_EQ(4096, recv(tcp[1], s->dev.data, REQ_SIZE, 0));
	EXPECT_EQ(4096, check_pattern(s->dev.data, 4096, SEED + 1));
	EXPECT_TRUE(all_bytes(s->dev.data + 4096, POISON, REQ_SIZE - 4096));
	close(tcp[0]);
	close(tcp[1]);
}

/* Committed while it is lent, to whomever: what is there by the end counts */
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
	ASSERT_EQ(1, fill(s, 1, 1));
	ublk_io_cmd(&s->dev, UBLK_U_IO_COMMIT_AND_FETCH_REQ, REQ_SIZE);
	ASSERT_EQ(0, submit(s));
	ASSERT_EQ(REQ_SIZE, in_other_task(s, UBLK_U_IO_FUSED_SUBMIT_IO));
	linger(s, 100);
	ASSERT_EQ(NOT_YET, __atomic_load_n(&s->dev.moved, __ATOMIC_ACQUIRE));
	ASSERT_EQ(0, ring_ready(&s->dev.ring));
	ASSERT_EQ(1, write(s->pipe[1], &byte, 1));
	ASSERT_EQ(1, ring_result(&s->dev.ring));
	ASSERT_EQ(REQ_SIZE, request_end(s));
	EXPECT_EQ(REQ_SIZE, check_pattern(s->dev.data, REQ_SIZE, SEED));
}

/* ------------------------------------------------ two lends of one request */

FIXTURE(two) {
	struct _test_data_ublk s;
	int pipe[2][2];
	unsigned char *data;
	bool verified;
	char what[64];
};

FIXTURE_VARIANT(two) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(two, trusted) {
	.flags = UBLK_F_FUSED_CMD,
};

FIXTURE_VARIANT_ADD(two, verified) {
	.flags = UBLK_F_FUSED_CMD | UBLK_F_UNPRIVILEGED_DEV,
};

FIXTURE_SETUP(two)
{
	start(_metadata, &self->s, IORING_SETUP_DEFER_TASKRUN |
	      IORING_SETUP_SINGLE_ISSUER, variant->flags);
	self->verified = variant->flags & UBLK_F_UNPRIVILEGED_DEV;
	self->data = malloc(REQ_SIZE);
	ASSERT_NE(NULL, self->data);
	fill_pattern(self->data, REQ_SIZE, SEED);
}

FIXTURE_TEARDOWN(two)
{
	if (!__test_passed(_metadata))
		TH_LOG("%s", self->what);
	stop(&self->s);
	free(self->data);
}

enum leg_end { LEG_FULL, LEG_SHORT, LEG_EMPTY, LEG_CANCELED, NR_LEG_ENDS };
enum leg_commit { COMMIT_LAST, COMMIT_EARLY, COMMIT_FUSED, NR_COMMITS };

struct leg {
	unsigned int off, len;
	enum leg_end end;
};

/* How much it fills, from its start on */
static unsigned int leg_fills(const struct leg *l)
{
	return l->end == LEG_FULL ? l->len :
	       l->end == LEG_SHORT ? l->len / 2 + 100 : 0;
}

static int leg_result(const struct leg *l)
{
	return l->end == LEG_CANCELED ? -ECANCELED : (int)leg_fills(l);
}

static bool leg_has(const struct leg *l, unsigned int pos)
{
	return pos >= l->off && pos - l->off < leg_fills(l);
}

/* Have leg @i come to its end: its result, or -ETIME if it has no CQE */
static int leg_finish(struct _test_data_two *self, const struct leg *l,
		      unsigned int i, bool cqe)
{
	struct ring *r = &self->s.dev.ring;
	struct io_uring_cqe c;
	int ret;

	if (l->end == LEG_CANCELED) {
		ring_cancel(r, 10 + i, 0)->user_data = 20;
		ret = submit(&self->s);
		if (ret)
			return ret;
		ret = ring_wait(r, &c);
		if (ret || c.user_data != 20 || c.res)
			return -EBADMSG;
	} else if (l->end == LEG_EMPTY) {
		close(self->pipe[i][1]);
		self->pipe[i][1] = -1;
	} else {
		ret = write(self->pipe[i][1], self->data + l->off,
			    leg_fills(l));
		if (ret != (int)leg_fills(l))
			return -EIO;
	}
	if (!cqe) {
		linger(&self->s, 5);
		return ring_ready(r) ? -EBADMSG : -ETIME;
	}
	ret = ring_wait(r, &c);
	if (ret)
		return ret;
	return c.user_data == 10 + i || c.user_data == i ? c.res : -EBADMSG;
}

/* The rest of a read, whose start is there */
static int rest_of_it(struct _test_data_two *self, unsigned int start)
{
	struct _test_data_ublk *s = &self->s;
	struct io_uring_sqe *m[1];
	int ret;

	if (s->dev.iod->start_sector != start >> 9 ||
	    s->dev.iod->nr_sectors != (REQ_SIZE - start) >> 9)
		return -EBADMSG;
	fused_commit(s, 1, m);
	set_rw(m[0], IORING_OP_READ, s->file, 0, REQ_SIZE - start, start);
	ret = submit(s);
	return ret ? ret : request_end(s);
}

/*
 * Both legs read from pipes, so that either ends when and as it is told to.
 * Whatever the order: what one of them has filled is there, nothing else is
 * said to be, and where that can't be said there are zeroes.
 */
static void two_legs(struct __test_metadata *_metadata,
		     struct _test_data_two *self, const struct leg *l,
		     unsigned int first, enum leg_commit commit)
{
	struct _test_data_ublk *s = &self->s;
	struct ring *r = &s->dev.ring;
	bool exact = self->verified, committed = false;
	unsigned int i, start, last = !first;
	struct io_uring_sqe *sqe, *m[1];
	int ret;

	for (start = 0; start < REQ_SIZE; start++)
		if (!leg_has(&l[0], start) && !leg_has(&l[1], start))
			break;
	start &= ~511;

	memset(s->dev.data, POISON, REQ_SIZE);
	ASSERT_EQ(0, request_begin(s, CLIENT_READ));
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, pipe(self->pipe[i]));
		ASSERT_LE(REQ_SIZE, fcntl(self->pipe[i][1], F_SETPIPE_SZ,
					  REQ_SIZE));
		sqe = fused_req(s, 1, m);
		sqe->user_data = i;
		if (i && commit == COMMIT_FUSED)
			sqe->cmd_op = UBLK_U_IO_FUSED_COMMIT_AND_FETCH;
		set_rw(m[0], IORING_OP_READ, self->pipe[i][0], l[i].off,
		       l[i].len, 0);
		m[0]->user_data = 10 + i;
		ASSERT_EQ(0, submit(s));
	}
	linger(s, 2);
	ASSERT_EQ(0, ring_ready(r));

	for (i = 0; i < 2; i++) {
		unsigned int n = i ? last : first;
		bool fused = n && commit == COMMIT_FUSED;
		bool accepted = fused && leg_result(&l[n]) >= 0 &&
				(!i || start);

		if (i && commit == COMMIT_EARLY) {
			ASSERT_EQ(0, request_commit(s, REQ_SIZE));
			linger(s, 2);
			ASSERT_EQ(NOT_YET, __atomic_load_n(&s->dev.moved,
							   __ATOMIC_ACQUIRE));
			committed = true;
		}
		/* a part that was committed is known by its next request */
		ret = leg_finish(self, &l[n], n, !accepted);
		if (accepted) {
			exact = true;
			committed = true;
			if (i && start && start < REQ_SIZE) {
				ASSERT_EQ(0, await_cqe(r));
			} else {
				ASSERT_EQ(-ETIME, ret);
			}
		} else {
			ASSERT_EQ(fused && leg_result(&l[n]) >= 0 ? -EIO :
				  leg_result(&l[n]), ret);
		}
	}
	if (!committed)
		ASSERT_EQ(0, request_commit(s, REQ_SIZE));
	if (!exact) {
		ASSERT_EQ(REQ_SIZE, request_end(s));
		for (i = 0; i < REQ_SIZE; i++)
			if (s->dev.data[i] !=
			    (leg_has(&l[0], i) || leg_has(&l[1], i) ?
			     self->data[i] : 0))
				break;
		ASSERT_EQ(REQ_SIZE, i);
	} else if (!start) {
		ASSERT_EQ(-EIO, request_end(s));
	} else {
		if (start == REQ_SIZE) {
			ret = request_end(s);
		} else {
			ASSERT_EQ(0, ring_result(r));
			ret = rest_of_it(self, start);
		}
		ASSERT_EQ(REQ_SIZE, ret);
		ASSERT_EQ(0, memcmp(s->dev.data, self->data, REQ_SIZE));
	}
	ASSERT_EQ(0, ring_ready(r));
	for (i = 0; i < 2; i++) {
		close(self->pipe[i][0]);
		if (self->pipe[i][1] >= 0)
			close(self->pipe[i][1]);
	}
}

static void two_lends(struct __test_metadata *_metadata,
		      struct _test_data_two *self, enum leg_commit commit)
{
	static const struct { unsigned int off, len; } ranges[][2] = {
		/* the same */
		{ { 0, REQ_SIZE }, { 0, REQ_SIZE } },
		/* one within the other */
		{ { 0, REQ_SIZE }, { 1000, HALF } },
		{ { HALF, 5000 }, { 0, REQ_SIZE } },
		/* a part each, and some of it both */
		{ { 0, HALF }, { HALF, HALF } },
		{ { HALF, HALF }, { 0, HALF } },
		{ { 0, HALF + 7 }, { HALF - 7, HALF + 7 } },
		/* and some of it none */
		{ { 0, 10000 }, { HALF, HALF } },
	};
	unsigned int i, a, b, first;
	struct leg l[2];

	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		for (a = 0; a < NR_LEG_ENDS * NR_LEG_ENDS * 2; a++) {
			first = a & 1;
			for (b = 0; b < 2; b++) {
				l[b].off = ranges[i][b].off;
				l[b].len = ranges[i][b].len;
			}
			l[0].end = a / 2 % NR_LEG_ENDS;
			l[1].end = a / 2 / NR_LEG_ENDS;
			snprintf(self->what, sizeof(self->what),
				 "ranges %u, ends %u %u, %u first", i,
				 l[0].end, l[1].end, first);
			two_legs(_metadata, self, l, first, commit);
		}
	}
}

TEST_F_TIMEOUT(two, commit, LONG_TIMEOUT)
{
	two_lends(_metadata, self, COMMIT_LAST);
}

TEST_F_TIMEOUT(two, commit_early, LONG_TIMEOUT)
{
	two_lends(_metadata, self, COMMIT_EARLY);
}

TEST_F_TIMEOUT(two, commit_fused, LONG_TIMEOUT)
{
	two_lends(_metadata, self, COMMIT_FUSED);
}

/* Two more that are lent nothing in particular, for as long as it takes */
static void *holder_thread(void *arg)
{
	struct racer *r = arg;
	struct io_uring_sqe *m[1];
	struct ring ring;
	int res, err;

	err = ring_init(&ring, 8, IORING_SETUP_SQE_MIXED);
	while (!err && !__atomic_load_n(&stop_racers, __ATOMIC_ACQUIRE)) {
		fused(&ring, r->self->dev.cdev, 0, 1, m);
		res = ring_run(&ring);
		if (!res)
			__atomic_fetch_add(&r->done, 1, __ATOMIC_RELAXED);
		else if (res != -EINVAL && res != -EBUSY)
			err = res;
	}
	ring_exit(&ring);
	__atomic_store_n(&r->err, err, __ATOMIC_RELEASE);
	return NULL;
}

/* Whoever else has the data, a part that is committed is a part */
TEST_F(two, part_races)
{
	struct _test_data_ublk *s = &self->s;
	__u64 end = now_ms() + run_ms(1000);
	static struct racer r;
	struct io_uring_sqe *m[1];
	pthread_t thread;
	int ret = 0;

	__atomic_store_n(&stop_racers, false, __ATOMIC_RELEASE);
	r = (struct racer) { .self = s };
	ASSERT_EQ(0, pthread_create(&thread, NULL, holder_thread, &r));
	while (!ret && (now_ms() < end ||
			!__atomic_load_n(&r.done, __ATOMIC_RELAXED)) &&
	       now_ms() < end + WAIT_MS) {
		memset(s->dev.data, POISON, REQ_SIZE);
		ret = request_begin(s, CLIENT_READ);
		if (ret)
			break;
		fused_commit(s, 1, m);
		set_rw(m[0], IORING_OP_READ, s->file, 0, HALF, 0);
		ret = submit(s) ?: ring_result(&s->dev.ring);
		if (ret)
			break;
		ret = rest_of_it(self, HALF);
		ret = ret == REQ_SIZE ? 0 : ret ?: -EIO;
		if (memcmp(s->dev.data, self->data, REQ_SIZE))
			ret = -EBADMSG;
	}
	__atomic_store_n(&stop_racers, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	EXPECT_EQ(0, ret);
	EXPECT_EQ(0, r.err);
	EXPECT_LT(0, r.done);
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
		ret = ublk_ctrl(&r, fd, UBLK_U_CMD_ADD_DEV, -1, &info,
				sizeof(info), 0, 0);
		ASSERT_EQ(0, seteuid(0));
		EXPECT_EQ(-EINVAL, ret);
	}
	ring_exit(&r);
	close(fd);
}

TEST_HARNESS_MAIN
