// SPDX-License-Identifier: GPL-2.0
/*
 * Fused commands whose members post more CQEs than the CQ has room for: none is
 * lost, whatever fails.
 */
#include <sys/syscall.h>

#include "iou_fused.h"
#include "iou_net.h"
#include "kselftest_harness.h"

#define NR		4
#define LEN		20000
#define AREA		(NR * LEN)
#define OFF		4096
#define SEED		5
#define NONE		-1
#define ALL		NR

/* user_data. A notification's is NR more than that of its member. */
#define UD_MEMBER	1
#define UD_CMD		100
#define UD_CANCEL	101
#define UD_FILLER	200

/* Who sends to whom, and what became of it */
struct run {
	struct ring ring;
	struct lender lender;
	int sock[NR][2];
	/* of each request: its CQE, with res NOT_YET before that */
	struct io_uring_cqe cqe[NR];
	bool notified[NR];
	struct io_uring_cqe cmd;
	unsigned int fillers, posted;
};

#define NOT_YET		0x7fffffff

FIXTURE(overflow) {
	struct run run;
};

FIXTURE_VARIANT(overflow) {
	unsigned int setup;
	unsigned int sqe_flags;
};

#define VARIANT(name, type, flags) \
FIXTURE_VARIANT_ADD(overflow, name##_128) { \
	.setup = (type) | IORING_SETUP_SQE128, .sqe_flags = (flags), \
}; \
FIXTURE_VARIANT_ADD(overflow, name##_mixed) { \
	.setup = (type) | IORING_SETUP_SQE_MIXED, .sqe_flags = (flags), \
}

VARIANT(plain, 0, 0);
VARIANT(coop, IORING_SETUP_COOP_TASKRUN, 0);
VARIANT(defer, IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER, 0);
VARIANT(sqpoll, IORING_SETUP_SQPOLL, 0);
VARIANT(iowq, 0, IOSQE_ASYNC);

FIXTURE_SETUP(overflow)
{
	struct ring r;
	int ret;

	if (!SETUP_RING(&r, 8, 0, IORING_OP_FUSED_CMD))
		return;
	ring_exit(&r);
	ret = lender_init(&self->run.lender);
	if (ret == -ENOENT)
		SKIP(return, "no /dev/io_uring_mock");
	ASSERT_EQ(0, ret);
	fill_pattern(self->run.lender.mem, MEM, SEED);
}

FIXTURE_TEARDOWN(overflow)
{
	if (self->run.lender.mem)
		lender_exit(&self->run.lender);
}

/*
 * A ring with as few CQEs as a command with NR members can be submitted to:
 * there are no fewer than SQEs, and on a mixed ring it takes one more of these.
 */
static int run_begin(struct run *run, unsigned int setup)
{
	unsigned int entries = setup & IORING_SETUP_SQE128 ? NR : 2 * NR, i;
	struct io_uring_params p = {
		.flags = setup | IORING_SETUP_CQSIZE, .cq_entries = entries,
	};
	struct timeval tv = { .tv_sec = WAIT_MS / 1000 };
	int ret = ring_init_params(&run->ring, entries, &p);

	for (i = 0; i < NR && !ret; i++) {
		ret = tcp_pair(run->sock[i], 0, 0);
		if (!ret && setsockopt(run->sock[i][1], SOL_SOCKET, SO_RCVTIMEO,
				       &tv, sizeof(tv)))
			ret = -errno;
		run->cqe[i].res = NOT_YET;
		run->notified[i] = false;
	}
	run->cmd.res = NOT_YET;
	run->fillers = 0;
	run->posted = 0;
	memset(run->lender.state, 0, sizeof(*run->lender.state));
	return ret;
}

static void run_end(struct run *run)
{
	unsigned int i;

	ring_exit(&run->ring);
	for (i = 0; i < NR; i++) {
		close(run->sock[i][0]);
		close(run->sock[i][1]);
	}
}

static struct io_uring_sqe *sqe_at(struct run *run, unsigned int nr)
{
	struct io_uring_sq *sq = &run->ring.u.sq;
	unsigned int i = sq->sqe_tail & *sq->kring_mask;
	struct io_uring_sqe *sqe;

	if (run->ring.setup & IORING_SETUP_SQE128)
		sqe = &sq->sqes[2 * i];
	else
		sqe = &sq->sqes[i];
	sq->sqe_tail += nr;
	return sqe;
}

static void set_send(struct io_uring_sqe *sqe, struct run *run, unsigned int i,
		     unsigned int flags)
{
	memset(sqe, 0, sizeof(*sqe));
	set_rw(sqe, IORING_OP_SEND_ZC, run->sock[i][0], i * LEN, LEN, 0);
	sqe->msg_flags = MSG_WAITALL;
	sqe->flags = flags;
	sqe->user_data = UD_MEMBER + i;
	sqe->addr3 = UD_MEMBER + NR + i;
}

/* Each member sends its part of the memory. m[] are their SQEs. */
static struct io_uring_sqe *prepare(struct run *run, unsigned int flags,
				    bool one, struct io_uring_sqe **m)
{
	bool mixed = run->ring.setup & IORING_SETUP_SQE_MIXED;
	struct io_uring_sqe *sqe = sqe_at(run, mixed ? 2 : 1);
	struct io_uring_mock_lend *lend = (void *)sqe->cmd;
	unsigned int i;

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_FUSED_CMD;
	sqe->fd = run->lender.fd;
	sqe->cmd_op = IORING_MOCK_CMD_LEND;
	sqe->len = SOURCE;
	sqe->flags = flags;
	sqe->user_data = UD_CMD;
	sqe->fused_flags = one ? IORING_FUSED_ONE_CQE : 0;
	sqe->nr_members = NR;
	lend->off = OFF;
	lend->len = AREA;
	for (i = 0; i < NR; i++) {
		m[i] = i ? sqe_at(run, 1) : sqe + 1;
		set_send(m[i], run, i, flags);
	}
	return sqe;
}

/* CQEs that nobody takes, as many as there is room for */
static int fill_cq(struct run *run)
{
	unsigned int nr = *run->ring.u.cq.kring_mask + 1, i;
	__u64 end = now_ms() + WAIT_MS;

	for (i = 0; i < nr; i++) {
		struct io_uring_sqe *sqe = sqe_at(run, 1);

		memset(sqe, 0, sizeof(*sqe));
		sqe->opcode = IORING_OP_NOP;
		sqe->user_data = UD_FILLER;
	}
	if (ring_submit(&run->ring) != (int)nr)
		return -EIO;
	while (ring_ready(&run->ring) != nr) {
		if (now_ms() > end)
			return -ETIME;
		ring_enter(&run->ring, 0, 0, IORING_ENTER_GETEVENTS);
	}
	return 0;
}

static bool overflown(struct run *run)
{
	return __atomic_load_n(run->ring.u.sq.kflags, __ATOMIC_ACQUIRE) &
	       IORING_SQ_CQ_OVERFLOW;
}

/* What the command was lent is back: within a time, or false. Others read. */
static bool returned(struct run *run)
{
	static char buf[65536];
	struct io_uring_mock_lend_state *state = run->lender.state;
	__u64 end = now_ms() + WAIT_MS;
	unsigned int i;

	while (!__atomic_load_n(&state->released, __ATOMIC_ACQUIRE)) {
		if (now_ms() > end)
			return false;
		for (i = 0; i < NR; i++)
			recv(run->sock[i][1], buf, sizeof(buf), MSG_DONTWAIT);
		ring_enter(&run->ring, 0, 0, IORING_ENTER_GETEVENTS);
		usleep(500);
	}
	return true;
}

/* The next CQE is one that may come now */
static int take(struct run *run)
{
	struct io_uring_cqe cqe;
	unsigned int i;
	int ret = ring_wait(&run->ring, &cqe);

	if (ret)
		return ret;
	run->posted++;
	i = cqe.user_data - UD_MEMBER;
	if (cqe.user_data == UD_FILLER) {
		run->fillers++;
		return 0;
	}
	if (cqe.user_data == UD_CANCEL)
		return cqe.res > 0 ? -EBADMSG : 0;
	if (cqe.user_data == UD_CMD && run->cmd.res == NOT_YET &&
	    cqe.flags == (cqe.res < 0 ? IORING_CQE_F_NOT_COMMITTED : 0)) {
		run->cmd = cqe;
		return 0;
	}
	/* the command's comes last */
	if (run->cmd.res == NOT_YET && i < NR && run->cqe[i].res == NOT_YET &&
	    !(cqe.flags & ~IORING_CQE_F_MORE)) {
		run->cqe[i] = cqe;
		return 0;
	}
	i -= NR;
	if (run->cmd.res == NOT_YET && i < NR && !run->notified[i] &&
	    cqe.flags == IORING_CQE_F_NOTIF &&
	    (run->cqe[i].flags & IORING_CQE_F_MORE)) {
		run->notified[i] = true;
		return 0;
	}
	fprintf(stderr, "# unexpected: user_data %llu res %d flags %x\n",
		(unsigned long long)cqe.user_data, cqe.res, cqe.flags);
	return -EBADMSG;
}

/* What is sent arrives, and nothing else does */
static bool received(struct run *run, unsigned int i)
{
	unsigned char *want = run->lender.mem + OFF + i * LEN;
	static unsigned char buf[LEN];
	unsigned int done = 0;
	ssize_t ret;

	memset(buf, POISON, sizeof(buf));
	while (done < LEN) {
		ret = recv(run->sock[i][1], buf + done, LEN - done, 0);
		/* members are started by task work */
		if (ret < 0 && errno == EINTR)
			continue;
		if (ret <= 0)
			break;
		done += ret;
	}
	if (done == LEN && !memcmp(buf, want, LEN) &&
	    recv(run->sock[i][1], buf, 1, MSG_DONTWAIT) < 0)
		return true;
	fprintf(stderr, "# member %u: %u bytes, then %zd (%d)\n", i, done, ret, errno);
	return false;
}

struct fault {
	const char *name;
	void (*make)(struct run *run, struct io_uring_sqe *sqe, unsigned int i);
	int res;
	/* the command is refused, and nothing lent */
	bool refused;
};

static void make_range(struct run *run, struct io_uring_sqe *sqe,
		       unsigned int i)
{
	sqe->addr = AREA - LEN + 1;
}

static void make_no_file(struct run *run, struct io_uring_sqe *sqe,
			 unsigned int i)
{
	sqe->fd = -1;
}

static void make_no_socket(struct run *run, struct io_uring_sqe *sqe,
			   unsigned int i)
{
	sqe->fd = run->ring.u.ring_fd;
}

static void make_shut(struct run *run, struct io_uring_sqe *sqe, unsigned int i)
{
	shutdown(run->sock[i][0], SHUT_WR);
}

static void make_no_zc(struct run *run, struct io_uring_sqe *sqe,
		       unsigned int i)
{
	close(run->sock[i][0]);
	run->sock[i][0] = socket(AF_UNIX, SOCK_DGRAM, 0);
	sqe->fd = run->sock[i][0];
}

static void make_bad_flag(struct run *run, struct io_uring_sqe *sqe,
			  unsigned int i)
{
	sqe->ioprio = 1U << 15;
}

static void make_bad_op(struct run *run, struct io_uring_sqe *sqe,
			unsigned int i)
{
	sqe->opcode = IORING_OP_READV;
}

static void make_bad_buf(struct run *run, struct io_uring_sqe *sqe,
			 unsigned int i)
{
	sqe->buf_index = 1;
}

static const struct fault faults[] = {
	{ "range", make_range, -EFAULT },
	{ "no file", make_no_file, -EBADF },
	{ "no socket", make_no_socket, -ENOTSOCK },
	{ "shut down", make_shut, -EPIPE },
	{ "no zerocopy", make_no_zc, -EOPNOTSUPP },
	{ "flag", make_bad_flag, -EINVAL, true },
	{ "opcode", make_bad_op, -EINVAL, true },
	{ "buffer", make_bad_buf, -EINVAL, true },
};

static bool faulty(unsigned int i, int which)
{
	return which == ALL || (int)i == which;
}

/* @which members have fault @f, and the CQ is full before if @full */
static int run_one(struct run *run, unsigned int sqe_flags,
		   const struct fault *f, int which, bool one, bool full)
{
	unsigned int room = *run->ring.u.cq.kring_mask + 1;
	bool refused = which != NONE && f->refused;
	struct io_uring_sqe *m[NR];
	unsigned int want, i;
	__u64 end;
	int res;

	if (full && fill_cq(run))
		return -EIO;
	prepare(run, sqe_flags, one, m);
	for (i = 0; i < NR; i++)
		if (faulty(i, which))
			f->make(run, m[i], i);
	res = ring_submit(&run->ring);
	if (res < 0)
		return res;
	/* nobody takes any CQE before all are posted */
	for (i = 0; i < NR && !refused; i++)
		if (!faulty(i, which) && !received(run, i))
			return -EIO;
	if (!refused && !returned(run))
		return -ETIME;
	want = one ? 1 : refused ? NR + 1 : 2 * NR + 1;
	if (full)
		want += room;
	end = now_ms() + WAIT_MS;
	while (want > room && !overflown(run)) {
		if (now_ms() > end)
			return -ENOBUFS;
		ring_enter(&run->ring, 0, 0, IORING_ENTER_GETEVENTS);
		usleep(500);
	}
	/* what there is room for, and the others come as room is made */
	while (run->posted < want) {
		res = take(run);
		if (res)
			return res;
	}
	if (!ring_quiet(&run->ring) || overflown(run) ||
	    *run->ring.u.cq.koverflow)
		return -EOVERFLOW;
	if (run->fillers != (full ? room : 0) ||
	    run->lender.state->lent != run->lender.state->released ||
	    run->lender.state->lent != !refused)
		return -EBADMSG;

	for (i = 0; i < NR && !one; i++) {
		res = faulty(i, which) ? f->res : refused ? -ECANCELED : LEN;
		if (run->cqe[i].res != res || run->notified[i] == refused)
			return -EBADMSG;
	}
	if (one)
		res = which == NONE ? AREA : f->res;
	else
		res = which == NONE ? 0 : refused ? -ECANCELED : f->res;
	return run->cmd.res == res ? 0 : -EBADMSG;
}

TEST_F_TIMEOUT(overflow, sends, LONG_TIMEOUT)
{
	struct run *run = &self->run;
	unsigned int f, i;
	int which, ret;

	for (f = 0; f < ARRAY_SIZE(faults); f++) {
		for (which = f ? 0 : NONE; which <= ALL; which++) {
			/* the first, the last, all: the others are like these */
			if (which > 0 && which < NR - 1)
				continue;
			for (i = 0; i < 4; i++) {
				ASSERT_EQ(0, run_begin(run, variant->setup));
				ret = run_one(run, variant->sqe_flags,
					      &faults[f], which, i & 1, i & 2);
				run_end(run);
				ASSERT_EQ(0, ret) {
					TH_LOG("%s, member %d, %u",
					       faults[f].name, which, i);
				}
			}
		}
	}
}

/* Nothing is lent, and no member begins */
TEST_F(overflow, nothing_lent)
{
	struct run *run = &self->run;
	struct io_uring_sqe *sqe, *m[NR];
	unsigned int i, j, want;

	for (i = 0; i < 8; i++) {
		bool one = i & 1, full = i & 2, no_file = i & 4;

		ASSERT_EQ(0, run_begin(run, variant->setup));
		if (full) {
			ASSERT_EQ(0, fill_cq(run));
		}
		sqe = prepare(run, variant->sqe_flags, one, m);
		sqe->len = IORING_MOCK_LEND_NOTHING;
		sqe->addr = (__u32)-EDOM;
		if (no_file)
			sqe->fd = -1;
		ASSERT_LE(0, ring_submit(&run->ring));
		want = one ? 1 : NR + 1;
		if (full)
			want += *run->ring.u.cq.kring_mask + 1;
		while (run->posted < want)
			ASSERT_EQ(0, take(run));
		EXPECT_TRUE(ring_quiet(&run->ring));
		EXPECT_EQ(0, *run->ring.u.cq.koverflow);
		EXPECT_EQ(no_file ? -EBADF : -EDOM, run->cmd.res);
		for (j = 0; j < NR && !one; j++) {
			EXPECT_EQ(-ECANCELED, run->cqe[j].res);
			EXPECT_FALSE(run->notified[j]);
		}
		EXPECT_EQ(0, run->lender.state->lent);
		run_end(run);
	}
}

/* Nothing more can be sent, as the other end doesn't read */
static void fill_socket(int fd)
{
	static const char data[4096];
	int small = sizeof(data), idle;

	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	/* what is on its way makes room once more */
	for (idle = 0; idle < 20; idle++) {
		while (send(fd, data, sizeof(data), MSG_DONTWAIT) > 0)
			idle = 0;
		usleep(1000);
	}
}

/*
 * Members that wait for room in their sockets are cancelled with the command.
 * What they have sent until then is read, or it would not end. How much that is
 * nobody knows, but the CQEs tell the same.
 */
TEST_F(overflow, canceled)
{
	struct run *run = &self->run;
	struct io_uring_sqe *sqe, *m[NR];
	unsigned int i, j, want;
	int res;

	for (i = 0; i < 4; i++) {
		bool one = i & 1, full = i & 2;

		ASSERT_EQ(0, run_begin(run, variant->setup));
		for (j = 0; j < NR; j++)
			fill_socket(run->sock[j][0]);
		if (full) {
			ASSERT_EQ(0, fill_cq(run));
		}
		prepare(run, variant->sqe_flags, one, m);
		ASSERT_LE(0, ring_submit(&run->ring));
		for (j = 0; j < 50; j++) {
			ring_enter(&run->ring, 0, 0, IORING_ENTER_GETEVENTS);
			usleep(1000);
		}
		EXPECT_EQ(1, run->lender.state->lent);

		sqe = sqe_at(run, 1);
		memset(sqe, 0, sizeof(*sqe));
		sqe->opcode = IORING_OP_ASYNC_CANCEL;
		sqe->fd = -1;
		sqe->addr = UD_CMD;
		sqe->user_data = UD_CANCEL;
		ASSERT_LE(0, ring_submit(&run->ring));
		ASSERT_TRUE(returned(run));
		want = one ? 2 : 2 * NR + 2;
		if (full)
			want += *run->ring.u.cq.kring_mask + 1;
		while (run->posted < want)
			ASSERT_EQ(0, take(run));
		EXPECT_TRUE(ring_quiet(&run->ring));
		EXPECT_EQ(0, *run->ring.u.cq.koverflow);
		/* what was sent before may be all of it, for some or each */
		for (j = 0, res = 0; j < NR && !one; j++) {
			EXPECT_GE(LEN, run->cqe[j].res);
			EXPECT_TRUE(run->notified[j]);
			if (!res && run->cqe[j].res < 0)
				res = run->cqe[j].res;
		}
		if (one) {
			EXPECT_GE(AREA, run->cmd.res);
		} else {
			EXPECT_EQ(res, run->cmd.res);
		}
		run_end(run);
	}
}

TEST_HARNESS_MAIN
