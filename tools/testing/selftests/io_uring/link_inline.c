// SPDX-License-Identifier: GPL-2.0
/*
 * A linked NOP or MEMCPY_IMMEDIATE is issued in the pass that posted the CQE
 * of the request before it: with DEFER_TASKRUN one io_uring_enter() does both.
 * What a chain promises besides - order, failure, cancellation, timeouts,
 * skipped and overflowed CQEs - stays as it is on every type of ring.
 */
#include <sys/socket.h>
#include <sys/stat.h>

#include "iou_test.h"
#include "kselftest_harness.h"

#define LONG_CHAIN	1000
#define MAX_CHAIN	32768	/* as many as an SQ ring can have */

FIXTURE(chain) {
	struct ring ring;
	unsigned int flags;		/* sqe->flags of every request */
	bool has_imm;
	int pipe[2];
	__u32 word;
	__u8 byte;
};

FIXTURE_VARIANT(chain) {
	struct ring_type type;
};

FIXTURE_VARIANT_ADD(chain, plain) RING_PLAIN;
FIXTURE_VARIANT_ADD(chain, coop) RING_COOP;
FIXTURE_VARIANT_ADD(chain, defer) RING_DEFER;
FIXTURE_VARIANT_ADD(chain, sqpoll) RING_SQPOLL;
FIXTURE_VARIANT_ADD(chain, iopoll) RING_IOPOLL;
FIXTURE_VARIANT_ADD(chain, iowq) RING_IOWQ;

FIXTURE_SETUP(chain)
{
	/* which every kernel has; what needs MEMCPY_IMMEDIATE tells itself */
	if (!SETUP_RING(&self->ring, 1024, variant->type.setup, IORING_OP_NOP))
		return;
	ASSERT_EQ(0, pipe(self->pipe));
	self->flags = variant->type.sqe_flags;
	self->has_imm = ring_has_op(&self->ring, IORING_OP_MEMCPY_IMMEDIATE);
}

FIXTURE_TEARDOWN(chain)
{
	ring_exit(&self->ring);
	close(self->pipe[0]);
	close(self->pipe[1]);
}

/* What a test may need besides */
#define NEED_IMM	1
/* Neither reads of a pipe nor timeouts nor cancels exist on a polled ring */
#define NEED_PIPE	2

#define LACKS(needs)	lacks(_metadata, self, variant, needs)

/* Something that the test needs is not there, which was said */
static bool lacks(struct __test_metadata *_metadata,
		  const struct _test_data_chain *self,
		  const struct _fixture_variant_chain *variant, unsigned int needs)
{
	if (needs & NEED_IMM && !self->has_imm)
		SKIP(return true, "kernel has no IORING_OP_MEMCPY_IMMEDIATE");
	if (needs & NEED_PIPE && IOPOLL(variant)) {
		TH_LOG("n/a: %s", "a polled ring reads only polled files");
		return true;
	}
	return false;
}

static struct io_uring_sqe *nop(struct ring *r, unsigned int sqe_flags,
				unsigned int nop_flags, __u64 user_data)
{
	struct io_uring_sqe *sqe = ring_sqe(r, IORING_OP_NOP);

	sqe->flags = sqe_flags;
	sqe->nop_flags = nop_flags;
	sqe->user_data = user_data;
	return sqe;
}

static struct io_uring_sqe *imm(struct ring *r, __u32 *word, __u32 value,
				unsigned int sqe_flags, __u64 user_data)
{
	struct io_uring_sqe *sqe = ring_imm(r, word, value, sizeof(*word));

	sqe->flags = sqe_flags;
	sqe->user_data = user_data;
	return sqe;
}

/* The head of a chain that waits for a byte in the pipe */
static void read_head(struct ring *r, struct _test_data_chain *self)
{
	struct io_uring_sqe *sqe = ring_read(r, self->pipe[0], &self->byte, 1);

	sqe->flags = self->flags | IOSQE_IO_LINK;
}

/*
 * Take @nr CQEs that must come as user_data 0, 1, 2, ... each with result 0
 * unless @res says otherwise: the position of the first wrong one, or @nr.
 */
static unsigned int in_order(struct ring *r, const int *res, unsigned int nr)
{
	struct io_uring_cqe cqe;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		if (ring_wait(r, &cqe))
			break;
		if (cqe.user_data != i || cqe.res != (res ? res[i] : 0)) {
			fprintf(stderr, "# at %u: user_data %llu res %d\n", i,
				(unsigned long long)cqe.user_data, cqe.res);
			break;
		}
	}
	return i;
}

TEST_F(chain, tw_head)
{
	struct ring *r = &self->ring;

	nop(r, self->flags | IOSQE_IO_LINK, IORING_NOP_TW, 0);
	nop(r, self->flags, 0, 1);
	ASSERT_EQ(2, ring_submit(r));
	if (DEFER(variant)) {
		EXPECT_EQ(0, ring_ready(r));
		ASSERT_LE(0, ring_enter(r, 0, 0, IORING_ENTER_GETEVENTS));
		EXPECT_EQ(2, ring_ready(r));
		EXPECT_EQ(2, r->enters);
	}
	EXPECT_EQ(2, in_order(r, NULL, 2));
	EXPECT_TRUE(ring_quiet(r));
}

/* Submission and both requests in one system call */
TEST_F(chain, submit_and_get)
{
	struct ring *r = &self->ring;

	nop(r, self->flags | IOSQE_IO_LINK, IORING_NOP_TW, 0);
	nop(r, self->flags, 0, 1);
	ASSERT_EQ(2, ring_submit_flags(r, IORING_ENTER_GETEVENTS));
	if (DEFER(variant)) {
		EXPECT_EQ(2, ring_ready(r));
		EXPECT_EQ(1, r->enters);
	}
	EXPECT_EQ(2, in_order(r, NULL, 2));
}

/* An inline NOP as head: the flush is the one at the end of submission */
TEST_F(chain, inline_head)
{
	struct ring *r = &self->ring;

	nop(r, self->flags | IOSQE_IO_LINK, 0, 0);
	nop(r, self->flags, 0, 1);
	ASSERT_EQ(2, ring_submit(r));
	if (DEFER(variant)) {
		EXPECT_EQ(2, ring_ready(r));
		EXPECT_EQ(1, r->enters);
	}
	EXPECT_EQ(2, in_order(r, NULL, 2));
}

/* The one that the feature is for: data arrives, then the word changes */
TEST_F(chain, read_then_imm)
{
	struct ring *r = &self->ring;
	const int res[] = { 1, 4 };

	if (LACKS(NEED_IMM | NEED_PIPE))
		return;
	read_head(r, self);
	imm(r, &self->word, 0x1234, self->flags, 1);
	ASSERT_EQ(2, ring_submit(r));
	EXPECT_TRUE(ring_quiet(r));
	EXPECT_EQ(0, self->word);

	ASSERT_EQ(1, write(self->pipe[1], "x", 1));
	if (DEFER(variant)) {
		r->enters = 0;
		ASSERT_LE(0, ring_enter(r, 0, 0, IORING_ENTER_GETEVENTS));
		EXPECT_EQ(2, ring_ready(r));
		EXPECT_EQ(0x1234, self->word);
		EXPECT_EQ(1, r->enters);
	}
	EXPECT_EQ(2, in_order(r, res, 2));
	EXPECT_EQ('x', self->byte);
	EXPECT_EQ(0x1234, self->word);
}

/*
 * The last entry of a submission ends its chain, linked or not: what comes next
 * doesn't wait for it.
 */
TEST_F(chain, next_submission)
{
	struct ring *r = &self->ring;
	struct io_uring_cqe cqe;

	if (LACKS(NEED_IMM | NEED_PIPE))
		return;
	read_head(r, self);
	ASSERT_EQ(1, ring_submit(r));
	imm(r, &self->word, 4, self->flags, 1);
	ASSERT_EQ(1, ring_submit(r));
	ASSERT_EQ(0, ring_wait(r, &cqe));
	EXPECT_EQ(1, cqe.user_data);
	EXPECT_EQ(4, cqe.res);
	EXPECT_EQ(4, self->word);
	EXPECT_TRUE(ring_quiet(r));

	ASSERT_EQ(1, write(self->pipe[1], "x", 1));
	ASSERT_EQ(0, ring_wait(r, &cqe));
	EXPECT_EQ(0, cqe.user_data);
	EXPECT_EQ(1, cqe.res);
}

/* An SQ thread takes this many entries at a time if it has several rings */
#define SQ_BATCH	8

/* With SQPOLL a submission is what the thread takes at a time */
TEST_F(chain, sq_thread_batch)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_SQPOLL | IORING_SETUP_ATTACH_WQ,
		.wq_fd = self->ring.u.ring_fd,
	};
	struct ring *r = &self->ring, other;
	unsigned int i, attached;
	struct io_uring_cqe cqe;

	if (LACKS(NEED_IMM))
		return;
	if (!(variant->type.setup & IORING_SETUP_SQPOLL)) {
		TH_LOG("n/a: %s", "no SQ thread");
		return;
	}
	for (attached = 0; attached < 2; attached++) {
		if (attached)
			ASSERT_EQ(0, ring_init_params(&other, 1, &p));
		self->word = 0;
		for (i = 1; i < SQ_BATCH; i++)
			nop(r, IOSQE_CQE_SKIP_SUCCESS, 0, 0);
		read_head(r, self);
		imm(r, &self->word, 6, 0, 1);
		ASSERT_EQ(SQ_BATCH + 1, ring_submit(r));
		if (attached) {
			ASSERT_EQ(0, ring_wait(r, &cqe));
			EXPECT_EQ(1, cqe.user_data);
			EXPECT_EQ(6, self->word);
		}
		EXPECT_TRUE(ring_quiet(r));
		EXPECT_EQ(attached ? 6 : 0, self->word);
		ASSERT_EQ(1, write(self->pipe[1], "x", 1));
		ASSERT_EQ(0, ring_wait(r, &cqe));
		EXPECT_EQ(0, cqe.user_data);
		if (!attached) {
			ASSERT_EQ(0, ring_wait(r, &cqe));
			EXPECT_EQ(1, cqe.user_data);
			EXPECT_EQ(6, self->word);
		}
	}
	ring_exit(&other);
}

/* Less than was asked for is a failure, as for a read */
TEST_F(chain, short_splice)
{
	const int soft[] = { 4, -ECANCELED }, hard[] = { 4, 4 }, full[] = { 8, 4 };
	const struct {
		const char	*data;
		unsigned int	link;
		const int	*res;
		unsigned int	word;
	} cases[] = {
		{ "abcd", IOSQE_IO_LINK, soft, 0 },
		{ "abcd", IOSQE_IO_HARDLINK, hard, 5 },
		{ "abcdefgh", IOSQE_IO_LINK, full, 5 },
	};
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int i;
	char got[8];
	int to[2];

	if (LACKS(NEED_IMM | NEED_PIPE))
		return;
	ASSERT_EQ(0, pipe(to));
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		size_t len = strlen(cases[i].data);

		self->word = 0;
		ASSERT_EQ(len, write(self->pipe[1], cases[i].data, len));
		sqe = ring_sqe(r, IORING_OP_SPLICE);
		sqe->fd = to[1];
		sqe->off = -1;
		sqe->splice_fd_in = self->pipe[0];
		sqe->splice_off_in = -1;
		sqe->len = sizeof(got);
		sqe->flags = self->flags | cases[i].link;
		imm(r, &self->word, 5, self->flags, 1);
		ASSERT_EQ(2, ring_submit(r));
		EXPECT_EQ(2, in_order(r, cases[i].res, 2));
		EXPECT_EQ(cases[i].word, self->word);
		ASSERT_EQ(len, read(to[0], got, sizeof(got)));
		EXPECT_EQ(0, memcmp(got, cases[i].data, len));
	}
	close(to[0]);
	close(to[1]);
}

TEST_F(chain, wait_for_both)
{
	struct ring *r = &self->ring;

	if (IOPOLL(variant)) {
		TH_LOG("n/a: %s", "a polled ring does not wait for other requests");
		return;
	}
	nop(r, self->flags | IOSQE_IO_LINK, IORING_NOP_TW, 0);
	nop(r, self->flags, 0, 1);
	ASSERT_EQ(2, ring_submit(r));
	ASSERT_LE(0, ring_enter(r, 0, 2, IORING_ENTER_GETEVENTS));
	EXPECT_EQ(2, ring_ready(r));
	EXPECT_EQ(2, in_order(r, NULL, 2));
}

TEST_F_TIMEOUT(chain, long_chain, LONG_TIMEOUT)
{
	struct ring *r = &self->ring;
	unsigned int i;

	for (i = 0; i < LONG_CHAIN; i++)
		nop(r, self->flags | (i < LONG_CHAIN - 1 ? IOSQE_IO_LINK : 0),
		    i ? 0 : IORING_NOP_TW, i);
	ASSERT_EQ(LONG_CHAIN, ring_submit(r));
	if (DEFER(variant)) {
		ASSERT_LE(0, ring_enter(r, 0, 0, IORING_ENTER_GETEVENTS));
		EXPECT_EQ(LONG_CHAIN, ring_ready(r));
	}
	EXPECT_EQ(LONG_CHAIN, in_order(r, NULL, LONG_CHAIN));
	EXPECT_TRUE(ring_quiet(r));
}

/* Is a chain that a system call goes on with done when that returns? */
static bool whole_at_once(const struct ring_type *type)
{
	return !(type->setup & IORING_SETUP_SQPOLL) &&
	       !(type->sqe_flags & IOSQE_ASYNC);
}

/* More than one pass goes on with: the word tells without another system call */
TEST_F_TIMEOUT(chain, long_chain_then_imm, LONG_TIMEOUT)
{
	struct ring *r = &self->ring;
	unsigned int i;
	__u64 end;

	if (LACKS(NEED_IMM))
		return;
	for (i = 0; i < LONG_CHAIN; i++)
		nop(r, self->flags | IOSQE_IO_LINK, 0, i);
	imm(r, &self->word, 7, self->flags | IOSQE_CQE_SKIP_SUCCESS, i);
	ASSERT_EQ(LONG_CHAIN + 1, ring_submit(r));
	end = now_ms() + WAIT_MS;
	if (whole_at_once(&variant->type))
		end = 0;
	while (!__atomic_load_n(&self->word, __ATOMIC_ACQUIRE) &&
	       now_ms() < end)
		sched_yield();
	EXPECT_EQ(7, self->word);
	EXPECT_EQ(LONG_CHAIN, ring_ready(r));
	EXPECT_EQ(LONG_CHAIN, in_order(r, NULL, LONG_CHAIN));
	EXPECT_TRUE(ring_quiet(r));
}

/* A thread that wants the lock of a ring while a chain of @nr requests runs */
struct rival {
	struct ring	*ring;
	unsigned int	nr;
	bool		park;		/* and the SQ thread to stop as well */
	bool		started, stop;
	unsigned int	wins;		/* it got it, and the chain wasn't over */
};

static void *rival_thread(void *arg)
{
	struct rival *rv = arg;
	struct ring *r = rv->ring;

	while (!__atomic_load_n(&rv->stop, __ATOMIC_RELAXED)) {
		unsigned int before = ring_ready(r);

		/* refused, which the kernel tells with the lock held */
		ring_register(r, IORING_UNREGISTER_EVENTFD, NULL, 0);
		if (rv->park && before) {
			struct io_uring_params p = {
				.flags = IORING_SETUP_SQPOLL |
					 IORING_SETUP_ATTACH_WQ,
				.wq_fd = r->u.ring_fd,
			};
			struct ring other;

			if (!ring_init_params(&other, 1, &p))
				ring_exit(&other);
		}
		if (before && ring_ready(r) < rv->nr)
			rv->wins++;
		__atomic_store_n(&rv->started, true, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* The longest chain there is: others get at the ring before it is done */
TEST_F_TIMEOUT(chain, lock_between, LONG_TIMEOUT)
{
	struct rival rv = { .nr = MAX_CHAIN };
	struct io_uring_params p = {
		.flags = variant->type.setup | IORING_SETUP_CQSIZE,
		.cq_entries = MAX_CHAIN,
	};
	unsigned int i, round;
	pthread_t thread;
	struct ring r;

	if (self->flags & IOSQE_ASYNC) {
		TH_LOG("n/a: %s", "io-wq issues without the lock");
		return;
	}
	ASSERT_EQ(0, ring_init_params(&r, MAX_CHAIN, &p));
	rv.ring = &r;
	rv.park = variant->type.setup & IORING_SETUP_SQPOLL;
	/* a busy host may not let the other thread run meanwhile */
	for (round = 0; round < 10 && !rv.wins; round++) {
		for (i = 0; i < MAX_CHAIN; i++)
			nop(&r, i < MAX_CHAIN - 1 ? IOSQE_IO_LINK : 0,
			    i ? 0 : IORING_NOP_TW, i);
		rv.started = false;
		rv.stop = false;
		ASSERT_EQ(0, pthread_create(&thread, NULL, rival_thread, &rv));
		while (!__atomic_load_n(&rv.started, __ATOMIC_RELAXED))
			sched_yield();
		ASSERT_EQ(MAX_CHAIN, ring_submit(&r));
		if (DEFER(variant))
			ASSERT_LE(0, ring_enter(&r, 0, 1,
						IORING_ENTER_GETEVENTS));
		if (whole_at_once(&variant->type))
			EXPECT_EQ(MAX_CHAIN, ring_ready(&r));
		for (i = 0; i < WAIT_MS && ring_ready(&r) < MAX_CHAIN; i++)
			usleep(1000);
		__atomic_store_n(&rv.stop, true, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
		ASSERT_EQ(MAX_CHAIN, in_order(&r, NULL, MAX_CHAIN));
	}
	EXPECT_LT(0, rv.wins);
	TH_LOG("%u times in %u rounds", rv.wins, round);
	EXPECT_TRUE(ring_quiet(&r));
	ring_exit(&r);
}

static bool taskrun(struct ring *r)
{
	return __atomic_load_n(r->u.sq.kflags, __ATOMIC_ACQUIRE) &
	       IORING_SQ_TASKRUN;
}

/* A chain that runs meanwhile doesn't hide that there is something to run */
TEST_F(chain, taskrun_flag)
{
	unsigned int i, setup = variant->type.setup | IORING_SETUP_TASKRUN_FLAG;
	struct io_uring_cqe cqe;
	struct ring r;

	if (!DEFER(variant)) {
		TH_LOG("n/a: %s", "other rings run their task work by themselves");
		return;
	}
	ASSERT_EQ(0, ring_init(&r, 1024, setup));
	read_head(&r, self);
	ring_sqe(&r, IORING_OP_NOP)->flags = IOSQE_CQE_SKIP_SUCCESS;
	ASSERT_EQ(2, ring_submit(&r));
	EXPECT_TRUE(ring_quiet(&r));
	EXPECT_FALSE(taskrun(&r));
	ASSERT_EQ(1, write(self->pipe[1], "x", 1));
	EXPECT_TRUE(taskrun(&r));

	for (i = 0; i < LONG_CHAIN; i++)
		nop(&r, i < LONG_CHAIN - 1 ? IOSQE_IO_LINK : 0, 0, i);
	ASSERT_EQ(LONG_CHAIN, ring_submit(&r));
	EXPECT_EQ(LONG_CHAIN, ring_ready(&r));
	EXPECT_EQ(LONG_CHAIN, in_order(&r, NULL, LONG_CHAIN));
	EXPECT_TRUE(taskrun(&r));
	ASSERT_LE(0, ring_enter(&r, 0, 0, IORING_ENTER_GETEVENTS));
	ASSERT_TRUE(ring_peek(&r, &cqe));
	EXPECT_EQ(1, cqe.res);
	EXPECT_FALSE(taskrun(&r));
	ring_exit(&r);
}

/* Each hop goes through task work: the pass that runs it finds the next */
TEST_F(chain, tw_hops)
{
	struct ring *r = &self->ring;
	unsigned int i;

	for (i = 0; i < 64; i++)
		nop(r, self->flags | (i < 63 ? IOSQE_IO_LINK : 0),
		    i % 3 ? 0 : IORING_NOP_TW, i);
	ASSERT_EQ(64, ring_submit(r));
	EXPECT_EQ(64, in_order(r, NULL, 64));
}

TEST_F(chain, many_chains)
{
	unsigned int next[32] = {};
	struct ring *r = &self->ring;
	struct io_uring_cqe cqe;
	unsigned int i, j;

	for (i = 0; i < 32; i++)
		for (j = 0; j < 8; j++)
			nop(r, self->flags | (j < 7 ? IOSQE_IO_LINK : 0),
			    j ? 0 : IORING_NOP_TW, i * 8 + j);
	ASSERT_EQ(256, ring_submit(r));
	for (i = 0; i < 256; i++) {
		ASSERT_EQ(0, ring_wait(r, &cqe));
		ASSERT_EQ(0, cqe.res);
		ASSERT_GT(256, cqe.user_data);
		ASSERT_EQ(next[cqe.user_data / 8]++, cqe.user_data % 8);
	}
	EXPECT_TRUE(ring_quiet(r));
}

/* An op without inline issue between two that have it */
TEST_F(chain, mixed_ops)
{
	const int res[] = { 0, -ESPIPE, 0, 0 };
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;

	if (LACKS(NEED_PIPE))
		return;
	nop(r, self->flags | IOSQE_IO_LINK, IORING_NOP_TW, 0);
	sqe = ring_sqe(r, IORING_OP_FADVISE);
	sqe->fd = self->pipe[0];
	sqe->flags = self->flags | IOSQE_IO_HARDLINK;
	sqe->user_data = 1;
	nop(r, self->flags | IOSQE_IO_LINK, 0, 2);
	nop(r, self->flags, 0, 3);
	ASSERT_EQ(4, ring_submit(r));
	/* a pipe refuses it, which a hard link survives */
	EXPECT_EQ(4, in_order(r, res, 4));
}

TEST_F(chain, async_successor)
{
	struct ring *r = &self->ring;

	nop(r, self->flags | IOSQE_IO_LINK, IORING_NOP_TW, 0);
	nop(r, self->flags | IOSQE_IO_LINK | IOSQE_ASYNC, 0, 1);
	nop(r, self->flags, 0, 2);
	ASSERT_EQ(3, ring_submit(r));
	EXPECT_EQ(3, in_order(r, NULL, 3));
}

TEST_F(chain, iowq_head)
{
	struct ring *r = &self->ring;
	const int res[] = { 0, 4, 0 };

	if (LACKS(NEED_IMM))
		return;
	nop(r, self->flags | IOSQE_IO_LINK | IOSQE_ASYNC, 0, 0);
	imm(r, &self->word, 77, self->flags | IOSQE_IO_LINK, 1);
	nop(r, self->flags, 0, 2);
	ASSERT_EQ(3, ring_submit(r));
	EXPECT_EQ(3, in_order(r, res, 3));
	EXPECT_EQ(77, self->word);
}

static void link_timeout(struct ring *r, struct __kernel_timespec *ts,
			 unsigned int sqe_flags, __u64 user_data)
{
	struct io_uring_sqe *sqe = ring_sqe(r, IORING_OP_LINK_TIMEOUT);

	sqe->addr = u64_ptr(ts);
	sqe->len = 1;
	sqe->flags = sqe_flags;
	sqe->user_data = user_data;
}

TEST_F(chain, successor_has_timeout)
{
	struct __kernel_timespec ts = { .tv_sec = 600 };
	struct ring *r = &self->ring;
	int res[3];

	if (LACKS(NEED_IMM | NEED_PIPE))
		return;
	nop(r, self->flags | IOSQE_IO_LINK, IORING_NOP_TW, 0);
	imm(r, &self->word, 5, self->flags | IOSQE_IO_LINK, 1);
	link_timeout(r, &ts, 0, 2);
	ASSERT_EQ(3, ring_submit(r));
	ASSERT_EQ(0, ring_collect(r, res, 3));
	EXPECT_EQ(0, res[0]);
	EXPECT_EQ(4, res[1]);
	EXPECT_EQ(-ECANCELED, res[2]);
	EXPECT_EQ(5, self->word);
}

/* A head that its own timeout ends takes the successors along */
TEST_F(chain, head_times_out)
{
	struct __kernel_timespec ts = { .tv_nsec = 20 * 1000 * 1000 };
	struct ring *r = &self->ring;
	int res[3];

	if (LACKS(NEED_IMM | NEED_PIPE))
		return;
	read_head(r, self);
	link_timeout(r, &ts, IOSQE_IO_LINK, 1);
	imm(r, &self->word, 5, self->flags, 2);
	ASSERT_EQ(3, ring_submit(r));
	ASSERT_EQ(0, ring_collect(r, res, 3));
	EXPECT_TRUE(res[0] == -ECANCELED || res[0] == -EINTR);
	EXPECT_EQ(-ECANCELED, res[2]);
	EXPECT_EQ(0, self->word);
}

TEST_F(chain, head_beats_timeout)
{
	struct __kernel_timespec ts = { .tv_sec = 600 };
	struct ring *r = &self->ring;
	int res[3];

	if (LACKS(NEED_IMM | NEED_PIPE))
		return;
	read_head(r, self);
	link_timeout(r, &ts, IOSQE_IO_LINK, 1);
	imm(r, &self->word, 5, self->flags, 2);
	ASSERT_EQ(3, ring_submit(r));
	ASSERT_EQ(1, write(self->pipe[1], "x", 1));
	ASSERT_EQ(0, ring_collect(r, res, 3));
	EXPECT_EQ(1, res[0]);
	EXPECT_EQ(-ECANCELED, res[1]);
	EXPECT_EQ(4, res[2]);
	EXPECT_EQ(5, self->word);
}

TEST_F(chain, cqe_skip)
{
	unsigned int skip = IOSQE_CQE_SKIP_SUCCESS | IOSQE_IO_LINK;
	struct ring *r = &self->ring;
	struct io_uring_cqe cqe;

	if (LACKS(NEED_IMM))
		return;
	nop(r, self->flags | skip, IORING_NOP_TW, 0);
	nop(r, self->flags | skip, 0, 1);
	imm(r, &self->word, 3, self->flags | skip, 2);
	nop(r, self->flags, 0, 3);
	ASSERT_EQ(4, ring_submit(r));
	ASSERT_EQ(0, ring_wait(r, &cqe));
	EXPECT_EQ(3, cqe.user_data);
	EXPECT_EQ(3, self->word);
	EXPECT_TRUE(ring_quiet(r));
}

/* Everything skipped: the store alone tells that the chain ended */
TEST_F(chain, cqe_skip_all)
{
	unsigned int skip = IOSQE_CQE_SKIP_SUCCESS;
	struct ring *r = &self->ring;
	__u64 end;

	if (LACKS(NEED_IMM))
		return;
	nop(r, self->flags | skip | IOSQE_IO_LINK, IORING_NOP_TW, 0);
	imm(r, &self->word, 3, self->flags | skip, 1);
	ASSERT_EQ(2, ring_submit(r));
	if (DEFER(variant))
		ASSERT_LE(0, ring_enter(r, 0, 0, IORING_ENTER_GETEVENTS));
	end = now_ms() + WAIT_MS;
	while (!__atomic_load_n(&self->word, __ATOMIC_ACQUIRE) &&
	       now_ms() < end)
		sched_yield();
	EXPECT_EQ(3, self->word);
	EXPECT_TRUE(ring_quiet(r));
}

/* The failed request has a CQE; what it takes along has none if that is skipped */
TEST_F(chain, cqe_skip_fail)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;

	if (LACKS(NEED_IMM))
		return;
	sqe = nop(r, self->flags | IOSQE_CQE_SKIP_SUCCESS | IOSQE_IO_LINK,
		  IORING_NOP_TW | IORING_NOP_INJECT_RESULT, 0);
	sqe->len = -EIO;
	imm(r, &self->word, 3, self->flags | IOSQE_CQE_SKIP_SUCCESS, 1);
	ASSERT_EQ(2, ring_submit(r));
	ASSERT_EQ(0, ring_wait(r, &cqe));
	EXPECT_EQ(0, cqe.user_data);
	EXPECT_EQ(-EIO, cqe.res);
	EXPECT_TRUE(ring_quiet(r));
	EXPECT_EQ(0, self->word);
}

TEST_F(chain, fail_in_the_middle)
{
	const int soft[] = { 0, -EIO, -ECANCELED, -ECANCELED };
	const int hard[] = { 0, -EIO, 4, 0 };
	struct ring *r = &self->ring;
	unsigned int link = IOSQE_IO_LINK;
	struct io_uring_sqe *sqe;
	int i;

	if (LACKS(NEED_IMM))
		return;
	for (i = 0; i < 2; i++) {
		nop(r, self->flags | IOSQE_IO_LINK, IORING_NOP_TW, 0);
		sqe = nop(r, self->flags | link, IORING_NOP_INJECT_RESULT, 1);
		sqe->len = -EIO;
		imm(r, &self->word, 9, self->flags | link, 2);
		nop(r, self->flags, 0, 3);
		ASSERT_EQ(4, ring_submit(r));
		EXPECT_EQ(4, in_order(r, i ? hard : soft, 4));
		EXPECT_EQ(i ? 9 : 0, self->word);
		link = IOSQE_IO_HARDLINK;
	}
}

TEST_F(chain, cancel_head)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	int res[4];

	if (LACKS(NEED_IMM | NEED_PIPE))
		return;
	read_head(r, self);
	imm(r, &self->word, 5, self->flags | IOSQE_IO_LINK, 1);
	nop(r, self->flags, 0, 2);
	ASSERT_EQ(3, ring_submit(r));
	EXPECT_TRUE(ring_quiet(r));
	sqe = ring_cancel(r, 0, 0);
	sqe->user_data = 3;
	ASSERT_EQ(1, ring_submit(r));
	ASSERT_EQ(0, ring_collect(r, res, 4));
	EXPECT_TRUE(res[0] == -ECANCELED || res[0] == -EINTR);
	EXPECT_EQ(-ECANCELED, res[1]);
	EXPECT_EQ(-ECANCELED, res[2]);
	EXPECT_TRUE(res[3] == 0 || res[3] == -EALREADY);
	EXPECT_EQ(0, self->word);
}

/* A full CQ ring: nothing gets lost, nothing overtakes */
TEST_F_TIMEOUT(chain, overflow, LONG_TIMEOUT)
{
	unsigned int i, j, next[16] = {};
	struct io_uring_params p = {
		.flags = variant->type.setup | IORING_SETUP_CQSIZE,
		.cq_entries = 4,
	};
	struct io_uring_cqe cqe;
	struct ring r;

	ASSERT_EQ(0, ring_init_params(&r, 4, &p));
	for (i = 0; i < 16; i++) {
		for (j = 0; j < 4; j++)
			nop(&r, self->flags | (j < 3 ? IOSQE_IO_LINK : 0),
			    j ? 0 : IORING_NOP_TW, i * 4 + j);
		ASSERT_EQ(4, ring_submit(&r));
		if (DEFER(variant))
			ring_enter(&r, 0, 0, IORING_ENTER_GETEVENTS);
	}
	for (i = 0; i < 64; i++) {
		ASSERT_EQ(0, ring_wait(&r, &cqe));
		ASSERT_EQ(0, cqe.res);
		ASSERT_GT(64, cqe.user_data);
		ASSERT_EQ(next[cqe.user_data / 4]++, cqe.user_data % 4);
	}
	EXPECT_TRUE(ring_quiet(&r));
	ring_exit(&r);
}

/* The next chain is prepared while the last one is half done */
TEST_F(chain, resubmit_from_reaper)
{
	struct ring *r = &self->ring;
	struct io_uring_cqe cqe;
	unsigned int i, done = 0;

	for (i = 0; i < 64; i++) {
		nop(r, self->flags | IOSQE_IO_LINK, IORING_NOP_TW, 0);
		nop(r, self->flags, 0, 1);
		ASSERT_EQ(2, ring_submit_flags(r, IORING_ENTER_GETEVENTS));
		while (ring_peek(r, &cqe))
			done++;
	}
	while (done < 128) {
		ASSERT_EQ(0, ring_wait(r, &cqe));
		done++;
	}
	EXPECT_TRUE(ring_quiet(r));
}

static bool reaped(pid_t pid)
{
	__u64 end = now_ms() + WAIT_MS;

	while (now_ms() < end) {
		if (waitpid(pid, NULL, WNOHANG) == pid)
			return true;
		usleep(2000);
	}
	kill(pid, SIGKILL);
	return false;
}

/* Process and ring end with chains queued, blocked and half done */
TEST_F_TIMEOUT(chain, exit_with_chains, LONG_TIMEOUT)
{
	unsigned int i, j;
	struct ring r;
	pid_t pid;

	for (i = 0; i < 8; i++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			if (ring_init(&r, 256, variant->type.setup))
				_exit(1);
			read_head(&r, self);
			for (j = 0; j < 50; j++)
				nop(&r, self->flags |
				    (j < 49 ? IOSQE_IO_LINK : 0), 0, j);
			for (j = 0; j < 50; j++)
				nop(&r, self->flags |
				    (j < 49 ? IOSQE_IO_LINK : 0),
				    j % 2 ? 0 : IORING_NOP_TW, j);
			ring_submit(&r);
			if (i & 1)
				ring_exit(&r);
			if (i & 2)
				usleep(1000);
			_exit(0);
		}
		ASSERT_TRUE(reaped(pid));
	}
}

/*
 * A signal that comes while the pass runs has to wait for its end, not break
 * the chain.
 */
TEST_F(chain, signals)
{
	struct sigaction sa = { .sa_handler = SIG_IGN };
	struct ring *r = &self->ring;
	unsigned int i;

	sigaction(SIGUSR1, &sa, NULL);
	for (i = 0; i < 128; i++)
		nop(r, self->flags | (i < 127 ? IOSQE_IO_LINK : 0),
		    i ? 0 : IORING_NOP_TW, i);
	ASSERT_EQ(128, ring_submit(r));
	kill(getpid(), SIGUSR1);
	EXPECT_EQ(128, in_order(r, NULL, 128));
}

struct reaper {
	struct ring *ring;
	unsigned int got;
};

static void *reap_thread(void *arg)
{
	struct reaper *rp = arg;
	struct io_uring_cqe cqe;

	while (rp->got < 2 && !ring_wait(rp->ring, &cqe))
		rp->got++;
	return NULL;
}

/* Another thread takes the events; the successor belongs to the submitter */
TEST_F(chain, other_task_reaps)
{
	struct reaper rp = { .ring = &self->ring };
	struct ring *r = &self->ring;
	pthread_t thread;

	if (LACKS(NEED_IMM | NEED_PIPE))
		return;
	if (DEFER(variant)) {
		TH_LOG("n/a: %s", "a DEFER_TASKRUN ring is for one task");
		return;
	}
	read_head(r, self);
	imm(r, &self->word, 8, self->flags, 1);
	ASSERT_EQ(2, ring_submit(r));
	ASSERT_EQ(0, pthread_create(&thread, NULL, reap_thread, &rp));
	ASSERT_EQ(1, write(self->pipe[1], "x", 1));
	pthread_join(thread, NULL);
	EXPECT_EQ(2, rp.got);
	EXPECT_EQ(8, self->word);
}

/*
 * A multishot request that posts at submission flushes in the middle of it. The
 * end of a chain in front of it comes with the submission all the same.
 */
TEST_F(chain, before_multishot)
{
	struct ring *r = &self->ring;
	__u64 end = now_ms() + WAIT_MS;
	struct io_uring_sqe *sqe;
	char bufs[256];
	int sock[2];

	if (LACKS(NEED_IMM | NEED_PIPE))
		return;
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	ASSERT_EQ(1, write(sock[1], "y", 1));
	sqe = ring_sqe(r, IORING_OP_PROVIDE_BUFFERS);
	sqe->addr = u64_ptr(bufs);
	sqe->len = sizeof(bufs) / 8;
	sqe->fd = 8;
	sqe->buf_group = 1;
	ASSERT_LE(0, ring_run(r));

	nop(r, self->flags | IOSQE_IO_LINK, 0, 0);
	imm(r, &self->word, 77, self->flags, 1);
	sqe = ring_sqe(r, IORING_OP_RECV);
	sqe->fd = sock[0];
	sqe->ioprio = IORING_RECV_MULTISHOT;
	sqe->flags = IOSQE_BUFFER_SELECT;
	sqe->buf_group = 1;
	sqe->user_data = 9;
	ASSERT_EQ(3, ring_submit(r));
	/* the kernel isn't called any more */
	while (__atomic_load_n(&self->word, __ATOMIC_ACQUIRE) != 77 &&
	       now_ms() < end)
		;
	EXPECT_EQ(77, self->word);
	close(sock[0]);
	close(sock[1]);
}

/*
 * Completions are also flushed from within a multishot request, which may run
 * with credentials of its own: they are not for what is linked to others.
 */
TEST_F(chain, credentials)
{
	char dir[] = "/tmp/link_inline_XXXXXX", path[64];
	struct ring *r = &self->ring;
	size_t ps = page_size();
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;
	int id, sock[2], fd = -1, left = 3;
	struct stat st;
	char bufs[256];
	__u32 *word;

	if (LACKS(NEED_IMM | NEED_PIPE))
		return;
	if (geteuid())
		SKIP(return, "needs two users");
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	ASSERT_NE(NULL, mkdtemp(dir));
	ASSERT_EQ(0, chmod(dir, 0777));
	snprintf(path, sizeof(path), "%s/file", dir);

	/* of this thread only, the libc would change all of them */
	ASSERT_EQ(0, syscall(__NR_setresuid, -1, 65534, -1));
	id = ring_register(r, IORING_REGISTER_PERSONALITY, NULL, 0);
	ASSERT_EQ(0, syscall(__NR_setresuid, -1, 0, -1));
	ASSERT_LT(0, id);

	sqe = ring_sqe(r, IORING_OP_PROVIDE_BUFFERS);
	sqe->addr = u64_ptr(bufs);
	sqe->len = sizeof(bufs) / 8;
	sqe->fd = 8;
	sqe->buf_group = 1;
	ASSERT_LE(0, ring_run(r));
	sqe = ring_sqe(r, IORING_OP_RECV);
	sqe->fd = sock[0];
	sqe->ioprio = IORING_RECV_MULTISHOT;
	sqe->flags = IOSQE_BUFFER_SELECT;
	sqe->buf_group = 1;
	sqe->personality = id;
	sqe->user_data = 9;
	ASSERT_EQ(1, ring_submit(r));

	/* the store has to go to io-wq, and takes what is linked along */
	word = mmap(NULL, ps, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, word);
	read_head(r, self);
	imm(r, word, 1, self->flags | IOSQE_IO_LINK, 1);
	sqe = ring_sqe(r, IORING_OP_OPENAT);
	sqe->fd = AT_FDCWD;
	sqe->addr = u64_ptr(path);
	sqe->len = 0600;
	sqe->open_flags = O_CREAT | O_RDWR | O_EXCL | O_CLOEXEC;
	sqe->flags = self->flags;
	sqe->user_data = 2;
	ASSERT_EQ(3, ring_submit(r));
	EXPECT_TRUE(ring_quiet(r));

	ASSERT_EQ(1, write(self->pipe[1], "x", 1));
	ASSERT_EQ(1, write(sock[1], "y", 1));
	while (left) {
		ASSERT_EQ(0, ring_wait(r, &cqe));
		if (cqe.user_data == 9)
			continue;
		EXPECT_LE(0, cqe.res);
		if (cqe.user_data == 2)
			fd = cqe.res;
		left--;
	}
	EXPECT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(0, st.st_uid);
	EXPECT_EQ(1, *word);
	unlink(path);
	rmdir(dir);
	close(fd);
	close(sock[0]);
	close(sock[1]);
	munmap(word, ps);
}

TEST_HARNESS_MAIN
