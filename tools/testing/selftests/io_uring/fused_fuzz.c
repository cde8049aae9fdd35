// SPDX-License-Identifier: GPL-2.0
/*
 * Random fused commands, good ones and bad ones, and a model of what they post:
 *
 *  - each request that isn't a member posts one CQE, and nothing posts two;
 *  - members post theirs before the command does, and none afterwards;
 *  - a command that has members, whether it is executed or not, has a CQE of each
 *    that doesn't skip it, or of none with IORING_FUSED_ONE_CQE. One that is
 *    refused before that has none;
 *  - entries behind a command that can't say how many members it has are requests
 *    of their own;
 *  - a command succeeds only if its members do, and all memory is given back.
 *
 * IO_URING_FUZZ_SEED repeats a run, IO_URING_TEST_MS makes it a longer one.
 */
#include <sys/socket.h>
#include <sys/syscall.h>

#include "iou_fused.h"
#include "kselftest_harness.h"

#define ENTRIES		64
#define LENT		65536
#define MAX_REQS	256
#define MAX_MEMBERS	6
#define LEN		8192

enum kind { UNUSED, ALONE, COMMAND, MEMBER };

/* What is submitted under a user_data, which is its index */
struct req {
	enum kind kind;
	unsigned int cmd;	/* MEMBER: its command */
	unsigned int nr;	/* COMMAND: how many members it has, or 0 */
	bool linked, skip, one, early;
	bool seen, failed, more;
};

FIXTURE(fuzz) {
	struct ring ring;
	struct io_uring_sqe *sqes;
	struct lender lender;
	struct req req[MAX_REQS];
	unsigned int nr, slots;
	unsigned int layout;
	bool skips;		/* or drains, which exclude each other */
	__u64 rnd;
	int file, pipe[2], sock[2];
	unsigned char buf[LEN];
	struct __kernel_timespec ts;
};

FIXTURE_VARIANT(fuzz) {
	unsigned int setup, layout, cq_entries;
};

FIXTURE_VARIANT_ADD(fuzz, plain_128) {
	.layout = IORING_SETUP_SQE128, .cq_entries = 4 * ENTRIES,
};

FIXTURE_VARIANT_ADD(fuzz, plain_mixed) {
	.layout = IORING_SETUP_SQE_MIXED, .cq_entries = 4 * ENTRIES,
};

FIXTURE_VARIANT_ADD(fuzz, plain_64) {
	.cq_entries = 4 * ENTRIES,
};

FIXTURE_VARIANT_ADD(fuzz, coop_mixed) {
	.setup = IORING_SETUP_COOP_TASKRUN,
	.layout = IORING_SETUP_SQE_MIXED, .cq_entries = 4 * ENTRIES,
};

FIXTURE_VARIANT_ADD(fuzz, defer_128) {
	.setup = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
	.layout = IORING_SETUP_SQE128, .cq_entries = 4 * ENTRIES,
};

FIXTURE_VARIANT_ADD(fuzz, defer_mixed) {
	.setup = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
	.layout = IORING_SETUP_SQE_MIXED, .cq_entries = 4 * ENTRIES,
};

FIXTURE_VARIANT_ADD(fuzz, sqpoll_mixed) {
	.setup = IORING_SETUP_SQPOLL,
	.layout = IORING_SETUP_SQE_MIXED, .cq_entries = 4 * ENTRIES,
};

FIXTURE_VARIANT_ADD(fuzz, sqpoll_128) {
	.setup = IORING_SETUP_SQPOLL,
	.layout = IORING_SETUP_SQE128, .cq_entries = 4 * ENTRIES,
};

/* Most of the CQEs don't fit */
FIXTURE_VARIANT_ADD(fuzz, small_cq) {
	.layout = IORING_SETUP_SQE128, .cq_entries = 4,
};

FIXTURE_VARIANT_ADD(fuzz, small_cq_defer) {
	.setup = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
	.layout = IORING_SETUP_SQE_MIXED, .cq_entries = 4,
};

static int fuzz_ring(struct ring *r, unsigned int setup, unsigned int entries,
		     unsigned int cq_entries)
{
	struct io_uring_params p = {
		.flags = setup | IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL |
			 IORING_SETUP_NO_SQARRAY,
		.cq_entries = cq_entries,
	};
	int fd;

	memset(r, 0, sizeof(*r));
	if (setup & IORING_SETUP_SQPOLL)
		p.sq_thread_idle = 100;
	fd = io_uring_setup(entries, &p);
	if (fd < 0)
		return -errno;
	if (setup & IORING_SETUP_SQE128)
		p.sq_entries *= 2;
	if (io_uring_mmap(fd, &p, &r->u.sq, &r->u.cq)) {
		close(fd);
		return -EIO;
	}
	r->u.ring_fd = fd;
	r->setup = p.flags;
	return 0;
}

FIXTURE_SETUP(fuzz)
{
	const char *seed = getenv("IO_URING_FUZZ_SEED");
	struct ring r;
	int ret;

	if (!SETUP_RING(&r, 8, 0, IORING_OP_FUSED_CMD))
		return;
	ring_exit(&r);
	self->rnd = seed ? strtoull(seed, NULL, 0) : now_us();
	TH_LOG("IO_URING_FUZZ_SEED=%llu", (unsigned long long)self->rnd);
	self->layout = variant->layout;
	/* a CQ isn't smaller than the SQ */
	self->slots = variant->cq_entries < ENTRIES ? 16 : ENTRIES;
	ASSERT_EQ(0, fuzz_ring(&self->ring, variant->setup | variant->layout,
			       self->slots, variant->cq_entries < ENTRIES ? 16 :
			       variant->cq_entries));
	self->sqes = self->ring.u.sq.sqes;
	ret = lender_init(&self->lender);
	if (ret == -ENOENT)
		SKIP(return, "no /dev/io_uring_mock");
	ASSERT_EQ(0, ret);
	self->file = syscall(__NR_memfd_create, "fuzz", MFD_CLOEXEC);
	ASSERT_LE(0, self->file);
	ASSERT_EQ(0, ftruncate(self->file, 2 * LEN));
	ASSERT_EQ(0, pipe(self->pipe));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, self->sock));
	self->ts.tv_nsec = 1000000;
}

FIXTURE_TEARDOWN(fuzz)
{
	if (self->ring.setup & IORING_SETUP_SQE128)
		munmap(self->sqes + self->slots,
		       self->slots * sizeof(struct io_uring_sqe));
	ring_exit(&self->ring);
	if (!self->lender.mem)
		return;
	lender_exit(&self->lender);
	close(self->file);
	close(self->pipe[0]);
	close(self->pipe[1]);
	close(self->sock[0]);
	close(self->sock[1]);
}

/* Below @n, by a xorshift */
static unsigned int rnd(struct _test_data_fuzz *self, unsigned int n)
{
	self->rnd ^= self->rnd << 13;
	self->rnd ^= self->rnd >> 7;
	self->rnd ^= self->rnd << 17;
	return (self->rnd >> 20) % n;
}

static bool one_in(struct _test_data_fuzz *self, unsigned int n)
{
	return !rnd(self, n);
}

static unsigned int space(struct _test_data_fuzz *self)
{
	struct io_uring_sq *sq = &self->ring.u.sq;

	return self->slots - (sq->sqe_tail - sq->sqe_head);
}

static struct req *new_req(struct _test_data_fuzz *self, enum kind kind)
{
	struct req *req = &self->req[self->nr++];

	*req = (struct req) { .kind = kind };
	return req;
}

static struct io_uring_sqe *init_sqe(struct _test_data_fuzz *self,
				     struct io_uring_sqe *sqe, unsigned int op,
				     struct req *req)
{
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = op;
	sqe->fd = -1;
	sqe->user_data = req - self->req;
	return sqe;
}

static struct io_uring_sqe *slot(struct _test_data_fuzz *self, unsigned int op,
				 struct req *req)
{
	struct io_uring_sq *sq = &self->ring.u.sq;
	unsigned int i = sq->sqe_tail++ & (self->slots - 1);

	if (self->layout == IORING_SETUP_SQE128)
		i *= 2;
	return init_sqe(self, &self->sqes[i], op, req);
}

/* What a member does, most of it possible; in the memory from @off on */
static void make_member(struct _test_data_fuzz *self, struct io_uring_sqe *sqe,
			bool half, unsigned int *off)
{
	unsigned int len = 1 + rnd(self, 2000);

	switch (rnd(self, 11)) {
	case 0:
		break;
	case 1:
		sqe->nop_flags = IORING_NOP_INJECT_RESULT;
		sqe->len = one_in(self, 2) ? -EIO : rnd(self, 100);
		break;
	case 2:
	case 3:
		set_rw(sqe, IORING_OP_READ, self->file, *off, len,
		       rnd(self, 3 * LEN));
		break;
	case 4:
		set_rw(sqe, IORING_OP_READ_FIXED, self->pipe[0], *off, len, 0);
		break;
	case 5:
		set_rw(sqe, IORING_OP_WRITE, self->file, *off, len,
		       rnd(self, LEN));
		break;
	case 6:
		set_rw(sqe, IORING_OP_RECV, self->sock[0], *off, len, 0);
		break;
	case 7:
		set_rw(sqe, one_in(self, 3) ? IORING_OP_SEND_ZC :
		       IORING_OP_SEND, self->sock[0], *off, len, 0);
		sqe->msg_flags = MSG_DONTWAIT;
		break;
	case 8:
		sqe->opcode = IORING_OP_MEMCPY;
		sqe->memcpy_flags = IORING_MEMCPY_DST_FIXED;
		sqe->addr = *off;
		sqe->addr2 = u64_ptr(self->buf);
		sqe->len = len;
		break;
	case 9:
		if (half)
			break;
		/* fails, as it has no arguments */
		sqe->opcode = IORING_OP_URING_CMD;
		sqe->fd = self->lender.fd;
		sqe->cmd_op = IORING_MOCK_CMD_COPY_REGBUF;
		break;
	case 10:
		switch (rnd(self, 8)) {
		case 0:
			sqe->opcode = IORING_OP_READV;
			break;
		case 1:
			sqe->opcode = 200;
			break;
		case 2:
			sqe->flags |= IOSQE_IO_LINK;
			break;
		case 3:
			sqe->buf_index = 1;
			break;
		case 4:
			sqe->personality = 77;
			break;
		case 5:
			set_rw(sqe, IORING_OP_READ, -1, *off, len, 0);
			break;
		case 6:
			/* out of order, unless it is the first */
			set_rw(sqe, IORING_OP_READ, self->file, 0, len, 0);
			break;
		case 7:
			set_rw(sqe, IORING_OP_READ, self->file, LENT, len, 0);
			break;
		}
		break;
	}
	*off += len;
	if (one_in(self, 6))
		sqe->flags |= IOSQE_ASYNC;
}

/* A command for the last place of a submission may be short of members */
static void add_command(struct _test_data_fuzz *self, bool linked, bool last)
{
	unsigned int nr = 1 + rnd(self, MAX_MEMBERS), i, off = 0, bad = 0;
	unsigned int mask = self->slots - 1;
	struct io_uring_sqe *sqe, *m;
	bool takes = true, half;
	struct req *cmd, *req;

	if (space(self) < nr + 3)
		return;
	if (one_in(self, 6) && !linked)
		bad = 1 + rnd(self, 8);
	half = self->layout;
	if (self->layout == IORING_SETUP_SQE_MIXED &&
	    (self->ring.u.sq.sqe_tail & mask) == mask) {
		/* it has no second half there, which is worth a try as well */
		if (linked || one_in(self, 2))
			slot(self, IORING_OP_NOP, new_req(self, ALONE));
		else
			half = false;
	}
	cmd = new_req(self, COMMAND);
	cmd->linked = linked;
	sqe = slot(self, IORING_OP_FUSED_CMD, cmd);
	if (half && self->layout == IORING_SETUP_SQE_MIXED)
		self->ring.u.sq.sqe_tail++;
	sqe->fd = self->lender.fd;
	sqe->cmd_op = IORING_MOCK_CMD_LEND;
	sqe->len = one_in(self, 4) ? SOURCE : one_in(self, 4) ? DEST : BOTH;
	sqe->nr_members = nr;
	((struct io_uring_mock_lend *)sqe->cmd)->len = LENT;
	if (one_in(self, 4))
		((struct io_uring_mock_lend *)sqe->cmd)->delay_us = 500;
	if (one_in(self, 2)) {
		sqe->fused_flags = IORING_FUSED_ONE_CQE;
		cmd->one = true;
	}
	if (one_in(self, 5))
		sqe->flags |= IOSQE_ASYNC;
	if (!self->skips && one_in(self, 5))
		sqe->flags |= IOSQE_IO_DRAIN;

	switch (bad) {
	case 1:
		sqe->nr_members = one_in(self, 2) ? 65 : 65535;
		cmd->early = true;
		takes = false;
		break;
	case 2:
		sqe->ioprio = 1;
		cmd->early = true;
		takes = false;
		break;
	case 3:
		sqe->personality = 77;
		cmd->early = true;
		takes = false;
		break;
	case 4:
		sqe->fused_flags |= 1;
		cmd->early = true;
		break;
	case 5:
		sqe->file_index = 1;
		cmd->early = true;
		break;
	case 6:
		sqe->fd = -1;
		break;
	case 7:
		/* of the driver's */
		((struct io_uring_mock_lend *)sqe->cmd)->off = MEM + 1;
		break;
	case 8:
		if (last)
			sqe->nr_members += 1 + rnd(self, 50);
		break;
	}
	if (!half) {
		cmd->early = true;
		takes = false;
	}
	cmd->nr = cmd->early ? 0 : nr;
	for (i = 0; i < nr; i++) {
		if (!i && !half)
			continue;
		req = new_req(self, takes || !i ? MEMBER : ALONE);
		req->cmd = cmd - self->req;
		m = i ? slot(self, IORING_OP_NOP, req) :
			init_sqe(self, sqe + 1, IORING_OP_NOP, req);
		/* those that may be executed with addresses of their own do nothing */
		if (req->kind == ALONE)
			continue;
		make_member(self, m, !i, &off);
		if (self->skips && one_in(self, 6)) {
			m->flags |= IOSQE_CQE_SKIP_SUCCESS;
			req->skip = true;
		}
	}
	if (cmd->early || last || space(self) < 2 || !one_in(self, 3))
		return;
	/* and something behind it */
	sqe->flags |= one_in(self, 3) ? IOSQE_IO_HARDLINK : IOSQE_IO_LINK;
	req = new_req(self, ALONE);
	req->linked = true;
	if (one_in(self, 2)) {
		m = slot(self, IORING_OP_LINK_TIMEOUT, req);
		m->addr = u64_ptr(&self->ts);
		m->len = 1;
	} else {
		slot(self, IORING_OP_NOP, req);
	}
}

static void add_cancel(struct _test_data_fuzz *self)
{
	struct io_uring_sqe *sqe;
	struct req *req = new_req(self, ALONE);

	sqe = slot(self, IORING_OP_ASYNC_CANCEL, req);
	/* has any result */
	req->linked = true;
	switch (rnd(self, 5)) {
	case 0:
		sqe->cancel_flags = IORING_ASYNC_CANCEL_FD;
		sqe->fd = one_in(self, 2) ? self->pipe[0] : self->lender.fd;
		break;
	case 1:
		sqe->cancel_flags = IORING_ASYNC_CANCEL_ANY;
		break;
	case 2:
		sqe->cancel_flags = IORING_ASYNC_CANCEL_OP |
				    IORING_ASYNC_CANCEL_ALL;
		sqe->len = one_in(self, 2) ? IORING_OP_FUSED_CMD :
					     IORING_OP_RECV;
		break;
	default:
		sqe->addr = rnd(self, self->nr);
		break;
	}
}

/* Does what a CQE says agree with the model? */
static bool agrees(struct _test_data_fuzz *self, const struct io_uring_cqe *cqe)
{
	struct req *req = &self->req[cqe->user_data], *m;
	bool failed = false, unknown = false;
	unsigned int i;

	if (cqe->user_data >= self->nr)
		return false;
	if (cqe->flags & IORING_CQE_F_NOTIF) {
		if (req->kind != MEMBER || !req->more ||
		    self->req[req->cmd].seen || self->req[req->cmd].one)
			return false;
		req->more = false;
		return true;
	}
	if (req->seen)
		return false;
	req->seen = true;
	req->failed = cqe->res < 0;
	req->more = cqe->flags & IORING_CQE_F_MORE;
	switch (req->kind) {
	case ALONE:
		return !cqe->flags && (!cqe->res || req->linked ||
				       cqe->res == -ECANCELED);
	case MEMBER:
		return !self->req[req->cmd].seen && !self->req[req->cmd].one &&
		       !self->req[req->cmd].early;
	case COMMAND:
		if (cqe->flags !=
		    (cqe->res < 0 ? IORING_CQE_F_NOT_COMMITTED : 0))
			return false;
		if (req->early)
			return cqe->res == -EINVAL ||
			       (req->linked && cqe->res == -ECANCELED);
		for (i = 0; i < req->nr; i++) {
			m = req + 1 + i;
			if (req->one) {
				unknown = true;
				continue;
			}
			/* those that skip it when they succeed */
			if (!m->seen && !m->skip)
				return false;
			if (m->more)
				return false;
			failed |= m->seen && m->failed;
		}
		return unknown || failed == (cqe->res < 0);
	default:
		return false;
	}
}

/* Whatever waits gets something */
static void feed(struct _test_data_fuzz *self)
{
	if (write(self->pipe[1], self->buf, 8) != 8 ||
	    write(self->sock[1], self->buf, 8) != 8)
		fprintf(stderr, "# nothing fits\n");
}

static void drain_fd(int fd, unsigned char *buf)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	while (poll(&pfd, 1, 0) == 1 && read(fd, buf, LEN) > 0)
		;
}

static bool is_over(struct _test_data_fuzz *self)
{
	unsigned int i;

	for (i = 0; i < self->nr; i++)
		if (self->req[i].kind != MEMBER && !self->req[i].seen)
			return false;
	return true;
}

static int submit(struct _test_data_fuzz *self)
{
	struct io_uring_sq *sq = &self->ring.u.sq;
	int nr = sq->sqe_tail - sq->sqe_head;
	int ret = ring_submit(&self->ring);

	return ret == nr ? 0 : ret < 0 ? ret : -EBADMSG;
}

static int fuzz_once(struct _test_data_fuzz *self)
{
	struct io_uring_mock_lend_state *state = self->lender.state;
	unsigned int i, j, n = 1 + rnd(self, 3);
	__u64 end = now_ms() + WAIT_MS;
	struct io_uring_cqe cqe;
	int ret;

	self->nr = 0;
	for (i = 0; i < n; i++) {
		unsigned int nr = 1 + rnd(self, 3);

		for (j = 0; j < nr; j++) {
			bool linked = space(self) > MAX_MEMBERS + 6 &&
				      one_in(self, 4);

			if (space(self) > 2 && (linked || one_in(self, 3)))
				slot(self, IORING_OP_NOP, new_req(self, ALONE))
					->flags |= linked ? IOSQE_IO_LINK : 0;
			/* the link ends with it */
			add_command(self, linked, j == nr - 1);
		}
		ret = submit(self);
		if (ret)
			return ret;
		if (one_in(self, 2)) {
			add_cancel(self);
			ret = submit(self);
			if (ret)
				return ret;
		}
	}
	while (!is_over(self)) {
		ret = ring_wait_ms(&self->ring, &cqe, 3);
		if (ret) {
			if (now_ms() > end)
				return -ETIME;
			feed(self);
			continue;
		}
		if (!agrees(self, &cqe)) {
			fprintf(stderr, "# user_data %llu res %d flags %x\n",
				(unsigned long long)cqe.user_data, cqe.res,
				cqe.flags);
			return -EBADMSG;
		}
	}
	/* a cancellation may be the last one to tell, and nothing comes then */
	if (one_in(self, 20) && !ring_quiet(&self->ring))
		return -EEXIST;
	drain_fd(self->pipe[0], self->buf);
	drain_fd(self->sock[0], self->buf);
	drain_fd(self->sock[1], self->buf);
	if (__atomic_load_n(&state->lent, __ATOMIC_ACQUIRE) !=
	    __atomic_load_n(&state->released, __ATOMIC_ACQUIRE))
		return -EBUSY;
	return 0;
}

TEST_F_TIMEOUT(fuzz, model, 3600)
{
	__u64 end = now_ms() + run_ms(2000);
	unsigned int i, n;
	int ret = 0;

	self->skips = one_in(self, 2);
	for (n = 0; !ret && now_ms() < end; n++)
		ret = fuzz_once(self);
	EXPECT_EQ(0, ret) {
		for (i = 0; i < self->nr; i++) {
			struct req *r = &self->req[i];

			TH_LOG("%u: kind %u cmd %u nr %u%s%s%s%s%s", i, r->kind,
			       r->cmd, r->nr, r->linked ? " linked" : "",
			       r->skip ? " skip" : "", r->one ? " one" : "",
			       r->early ? " early" : "", r->seen ? " seen" : "");
		}
	}
	TH_LOG("%u rounds", n);
}

TEST_HARNESS_MAIN
