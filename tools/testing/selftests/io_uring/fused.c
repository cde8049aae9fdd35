// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_FUSED_CMD: a command whose driver lends memory, and the request of
 * the SQE's other half that runs on it. The driver is the mock file, whose
 * memory can be mapped: that is how all data is checked, and how many times the
 * memory was lent and given back. Files are checked with pread().
 */
#include <linux/filter.h>
#include <linux/io_uring/bpf_filter.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#include "iou_fail_nth.h"
#include "iou_fused.h"
#include "iou_net.h"
#include "kselftest_harness.h"

#define LATE_US		50000
#define LEN		20000
#define SEED		7
#define UD_CMD		1
#define UD_MEMBER	2
#define MAX_MEMBERS	64
#define UD_NOTIF	1000

FIXTURE(fused) {
	struct ring ring;
	struct io_uring_sqe *sqes;
	unsigned int flags;		/* sqe->flags of each request */
	unsigned int layout;
	struct lender lender;
	int file;			/* LEN bytes of the pattern */
	int pipe[2];
};

FIXTURE_VARIANT(fused) {
	struct ring_type type;
	unsigned int layout;
};

FIXTURE_VARIANT_ADD(fused, plain_128) {
	.type.setup = 0,
	.layout = IORING_SETUP_SQE128,
};

FIXTURE_VARIANT_ADD(fused, plain_mixed) {
	.type.setup = 0,
	.layout = IORING_SETUP_SQE_MIXED,
};

FIXTURE_VARIANT_ADD(fused, coop_128) {
	.type.setup = IORING_SETUP_COOP_TASKRUN,
	.layout = IORING_SETUP_SQE128,
};

FIXTURE_VARIANT_ADD(fused, coop_mixed) {
	.type.setup = IORING_SETUP_COOP_TASKRUN,
	.layout = IORING_SETUP_SQE_MIXED,
};

FIXTURE_VARIANT_ADD(fused, defer_128) {
	.type.setup = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
	.layout = IORING_SETUP_SQE128,
};

FIXTURE_VARIANT_ADD(fused, defer_mixed) {
	.type.setup = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
	.layout = IORING_SETUP_SQE_MIXED,
};

FIXTURE_VARIANT_ADD(fused, sqpoll_128) {
	.type.setup = IORING_SETUP_SQPOLL,
	.layout = IORING_SETUP_SQE128,
};

FIXTURE_VARIANT_ADD(fused, sqpoll_mixed) {
	.type.setup = IORING_SETUP_SQPOLL,
	.layout = IORING_SETUP_SQE_MIXED,
};

FIXTURE_VARIANT_ADD(fused, iowq_128) {
	.type.sqe_flags = IOSQE_ASYNC,
	.layout = IORING_SETUP_SQE128,
};

FIXTURE_VARIANT_ADD(fused, iowq_mixed) {
	.type.sqe_flags = IOSQE_ASYNC,
	.layout = IORING_SETUP_SQE_MIXED,
};

FIXTURE_SETUP(fused)
{
	unsigned char data[LEN];
	struct ring r;
	int ret;

	if (!SETUP_RING(&r, 8, 0, IORING_OP_FUSED_CMD))
		return;
	ring_exit(&r);
	self->layout = variant->layout;
	self->flags = variant->type.sqe_flags;
	self->sqes = ring_init_128(&self->ring,
				   variant->type.setup | variant->layout);
	ASSERT_NE(NULL, self->sqes);
	ret = lender_init(&self->lender);
	if (ret == -ENOENT)
		SKIP(return, "no /dev/io_uring_mock");
	ASSERT_EQ(0, ret);
	self->file = syscall(__NR_memfd_create, "fused", MFD_CLOEXEC);
	ASSERT_LE(0, self->file);
	fill_pattern(data, LEN, SEED);
	ASSERT_EQ(LEN, write(self->file, data, LEN));
	ASSERT_EQ(0, pipe(self->pipe));
}

FIXTURE_TEARDOWN(fused)
{
	ring_exit_128(&self->ring);
	if (!self->lender.mem)
		return;
	lender_exit(&self->lender);
	close(self->file);
	close(self->pipe[0]);
	close(self->pipe[1]);
}

/* A zeroed SQE of 64 bytes, in a slot of its own */
static struct io_uring_sqe *sqe64(struct _test_data_fused *self,
				  unsigned int op)
{
	struct io_uring_sq *sq = &self->ring.u.sq;
	unsigned int i = sq->sqe_tail++ & *sq->kring_mask;
	struct io_uring_sqe *sqe;

	sqe = &self->sqes[self->layout == IORING_SETUP_SQE128 ? 2 * i : i];
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = op;
	sqe->fd = -1;
	sqe->flags = self->flags;
	return sqe;
}

static struct io_uring_mock_lend *lend_of(struct io_uring_sqe *sqe)
{
	return (void *)sqe->cmd;
}

/* A command that borrows @len bytes at @off. sqe[1] is a NOP for the while. */
static struct io_uring_sqe *fused(struct _test_data_fused *self,
				  unsigned int off, unsigned int len,
				  unsigned int lend)
{
	struct io_uring_sqe *sqe = sqe64(self, IORING_OP_FUSED_CMD);

	if (self->layout == IORING_SETUP_SQE_MIXED)
		self->ring.u.sq.sqe_tail++;
	sqe->fd = self->lender.fd;
	sqe->cmd_op = IORING_MOCK_CMD_LEND;
	sqe->len = lend;
	sqe->user_data = UD_CMD;
	lend_of(sqe)->off = off;
	lend_of(sqe)->len = len;
	memset(sqe + 1, 0, sizeof(*sqe));
	sqe[1].opcode = IORING_OP_NOP;
	sqe[1].user_data = UD_MEMBER;
	sqe[1].flags = self->flags;
	return sqe;
}

/* The member in the command's own SQE */
static void member_rw(struct io_uring_sqe *sqe, unsigned int op, int fd,
		      unsigned int addr, unsigned int len, __u64 pos)
{
	set_rw(sqe + 1, op, fd, addr, len, pos);
}

/*
 * A command with @nr members, as fused(). m[] are their SQEs: NOPs, whose
 * user_data count from UD_MEMBER on.
 */
static struct io_uring_sqe *fused_set(struct _test_data_fused *self,
				      unsigned int off, unsigned int len,
				      unsigned int lend, unsigned int nr,
				      struct io_uring_sqe **m)
{
	struct io_uring_sq *sq = &self->ring.u.sq;
	unsigned int mask = *sq->kring_mask, i;
	struct io_uring_sqe *sqe;

	/* no second half there */
	if (self->layout == IORING_SETUP_SQE_MIXED &&
	    (sq->sqe_tail & mask) == mask)
		sqe64(self, IORING_OP_NOP)->flags = IOSQE_CQE_SKIP_SUCCESS;
	sqe = fused(self, off, len, lend);
	sqe->nr_members = nr;
	m[0] = sqe + 1;
	for (i = 1; i < nr; i++) {
		m[i] = sqe64(self, IORING_OP_NOP);
		m[i]->user_data = UD_MEMBER + i;
	}
	return sqe;
}

/* Entries of the SQ, which are fewer than requests are on mixed rings */
static int submit(struct _test_data_fused *self)
{
	struct io_uring_sq *sq = &self->ring.u.sq;
	int nr = sq->sqe_tail - sq->sqe_head;
	int ret = ring_submit(&self->ring);

	return ret == nr ? 0 : ret < 0 ? ret : -EBADMSG;
}

static int next_with(struct ring *r, __u64 ud, int res, unsigned int flags)
{
	struct io_uring_cqe cqe;
	int ret = ring_wait(r, &cqe);

	if (ret)
		return ret;
	if (cqe.user_data != ud || cqe.res != res || cqe.flags != flags) {
		fprintf(stderr, "# user_data %llu res %d flags %x\n",
			(unsigned long long)cqe.user_data, cqe.res, cqe.flags);
		return -EBADMSG;
	}
	return 0;
}

/* A command says with each error that nothing was committed */
static int next_is(struct ring *r, __u64 ud, int res)
{
	return next_with(r, ud, res, ud == UD_CMD && res < 0 ?
				     IORING_CQE_F_NOT_COMMITTED : 0);
}

/* The memory is back, after it was lent @nr times */
static bool returned(struct _test_data_fused *self, unsigned int nr)
{
	struct io_uring_mock_lend_state *state = self->lender.state;

	return __atomic_load_n(&state->lent, __ATOMIC_ACQUIRE) == nr &&
	       __atomic_load_n(&state->released, __ATOMIC_ACQUIRE) == nr;
}

/* Both CQEs, in the order that is promised; at the last one all is over */
static int both(struct _test_data_fused *self, int member, int cmd)
{
	int ret = next_is(&self->ring, UD_MEMBER, member);

	return ret ? ret : next_is(&self->ring, UD_CMD, cmd);
}

/* CQEs of @nr requests in any order, that of @ud with result @res */
static int next_of(struct ring *r, __u64 ud, int res, unsigned int nr)
{
	bool seen = false;
	struct io_uring_cqe cqe;
	int ret;

	do {
		ret = ring_wait(r, &cqe);
		if (ret)
			return ret;
		if (cqe.user_data == ud) {
			if (cqe.res != res || seen)
				return -EBADMSG;
			seen = true;
		}
	} while (nr--);
	return seen ? 0 : -EBADMSG;
}

/* As check_pattern(), of the pattern from @pos on */
static unsigned int check_pattern_at(const unsigned char *p, unsigned int len,
				     size_t pos)
{
	unsigned int i;

	for (i = 0; i < len && p[i] == pattern(pos + i, SEED); i++)
		;
	return i;
}

/* CQEs of @nr members in any order, with results res[], and then @cmd's */
static int set_is(struct _test_data_fused *self, unsigned int nr,
		  const int *res, int cmd)
{
	bool seen[MAX_MEMBERS] = { };
	struct io_uring_cqe cqe;
	unsigned int i, j;
	int ret;

	for (i = 0; i < nr; i++) {
		ret = ring_wait(&self->ring, &cqe);
		if (ret)
			return ret;
		j = cqe.user_data - UD_MEMBER;
		if (j >= nr || seen[j] || cqe.flags || cqe.res != res[j]) {
			fprintf(stderr, "# user_data %llu res %d flags %x\n",
				(unsigned long long)cqe.user_data, cqe.res,
				cqe.flags);
			return -EBADMSG;
		}
		seen[j] = true;
	}
	return next_is(&self->ring, UD_CMD, cmd);
}

/*
 * The lender's memory is @len bytes of the pattern from @pos on, at @off, and
 * poison around that. Poisoned again.
 */
static bool only_at(struct _test_data_fused *self, size_t off, size_t len,
		    size_t pos)
{
	unsigned char *mem = self->lender.mem;
	bool ok = true;
	size_t i;

	for (i = 0; i < len && ok; i++)
		ok = mem[off + i] == pattern(pos + i, SEED);
	ok = ok && all_bytes(mem, POISON, off) &&
	     all_bytes(mem + off + len, POISON, MEM - off - len);
	if (!ok)
		fprintf(stderr, "# off %zu len %zu: wrong near %zu\n", off, len,
			i);
	memset(mem, POISON, MEM);
	return ok;
}

TEST_F(fused, nop)
{
	struct io_uring_sqe *sqe;
	unsigned int i;

	for (i = 0; i < 3; i++) {
		sqe = fused(self, 0, 4096, BOTH);
		sqe->nr_members = i & 1;
		/* a result, and one that is a failure */
		sqe[1].nop_flags = IORING_NOP_INJECT_RESULT;
		sqe[1].len = i == 2 ? -ENXIO : i;
		ASSERT_EQ(0, submit(self));
		EXPECT_EQ(0, both(self, i == 2 ? -ENXIO : i,
				  i == 2 ? -ENXIO : 0));
		EXPECT_TRUE(returned(self, i + 1));
	}
	EXPECT_TRUE(ring_quiet(&self->ring));
	EXPECT_TRUE(all_bytes(self->lender.mem, POISON, MEM));
}

struct range {
	unsigned int lent_off, lent_len, piece;
	unsigned int addr, len;
};

static const struct range ranges[] = {
	{ 0, LEN, 0, 0, LEN },
	{ 0, MEM, 0, 0, LEN },
	{ 4096, 8192, 0, 0, 8192 },
	{ 4096, 8192, 0, 8191, 1 },
	{ 4096, 8192, 0, 0, 1 },
	{ 100, 5000, 0, 0, 5000 },
	{ 100, 5000, 0, 3, 4000 },
	{ 100, 5000, 512, 511, 514 },
	{ 1, 3000, 1, 0, 3000 },
	{ 5, 9999, 100, 4444, 5555 },
	/* many bvecs: those that aren't from the cache any more */
	{ 0, 33 * 4096, 0, 32 * 4096, 4096 },
	{ 0, 32 * 4096, 0, 31 * 4096 + 1, 4095 },
	{ MEM - 4096, 4096, 7, 1, 4095 },
	{ 0, 4096, 0, 4096, 0 },
};

TEST_F(fused, read)
{
	const unsigned int ops[] = { IORING_OP_READ, IORING_OP_READ_FIXED };
	unsigned int i, op, nr = 0;
	const struct range *x;
	struct io_uring_sqe *sqe;

	for (op = 0; op < ARRAY_SIZE(ops); op++) {
		for (i = 0; i < ARRAY_SIZE(ranges); i++) {
			x = &ranges[i];
			sqe = fused(self, x->lent_off, x->lent_len, DEST);
			lend_of(sqe)->piece = x->piece;
			member_rw(sqe, ops[op], self->file, x->addr, x->len, i);
			/* the file has LEN bytes */
			if (x->len == LEN)
				sqe[1].off = 0;
			ASSERT_EQ(0, submit(self));
			ASSERT_EQ(0, both(self, x->len, 0));
			ASSERT_TRUE(returned(self, ++nr));
			ASSERT_TRUE(only_at(self, x->lent_off + x->addr, x->len,
					    x->len == LEN ? 0 : i));
		}
	}
	EXPECT_TRUE(ring_quiet(&self->ring));
}

TEST_F(fused, write)
{
	const unsigned int ops[] = { IORING_OP_WRITE, IORING_OP_WRITE_FIXED };
	unsigned char *buf = malloc(MEM + GUARD);
	unsigned int i, op, nr = 0;
	struct io_uring_sqe *sqe;
	const struct range *x;
	int out;

	ASSERT_NE(NULL, buf);
	fill_pattern(self->lender.mem, MEM, SEED);
	for (op = 0; op < ARRAY_SIZE(ops); op++) {
		for (i = 0; i < ARRAY_SIZE(ranges); i++) {
			unsigned int from, j;

			x = &ranges[i];
			from = x->lent_off + x->addr;
			out = syscall(__NR_memfd_create, "out", MFD_CLOEXEC);
			ASSERT_LE(0, out);
			sqe = fused(self, x->lent_off, x->lent_len, SOURCE);
			lend_of(sqe)->piece = x->piece;
			member_rw(sqe, ops[op], out, x->addr, x->len, i);
			ASSERT_EQ(0, submit(self));
			ASSERT_EQ(0, both(self, x->len, 0));
			ASSERT_TRUE(returned(self, ++nr));
			memset(buf, POISON, MEM + GUARD);
			ASSERT_EQ(x->len, pread(out, buf, MEM, i));
			for (j = 0; j < x->len; j++)
				ASSERT_EQ(pattern(from + j, SEED), buf[j]);
			close(out);
		}
	}
	EXPECT_EQ(MEM, check_pattern(self->lender.mem, MEM, SEED));
	free(buf);
}

/* The driver lends later, or the member takes its time */
TEST_F(fused, late)
{
	struct io_uring_sqe *sqe;

	sqe = fused(self, 0, 4096, DEST);
	lend_of(sqe)->delay_us = 30000;
	member_rw(sqe, IORING_OP_READ, self->file, 0, 4096, 5);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, 4096, 0));
	EXPECT_TRUE(returned(self, 1));
	EXPECT_TRUE(only_at(self, 0, 4096, 5));

	sqe = fused(self, 0, 4096, DEST);
	member_rw(sqe, IORING_OP_READ, self->pipe[0], 10, 4, 0);
	ASSERT_EQ(0, submit(self));
	EXPECT_TRUE(ring_quiet(&self->ring));
	EXPECT_EQ(2, self->lender.state->lent);
	EXPECT_EQ(1, self->lender.state->released);
	ASSERT_EQ(4, write(self->pipe[1], "abcd", 4));
	EXPECT_EQ(0, both(self, 4, 0));
	EXPECT_TRUE(returned(self, 2));
	EXPECT_EQ(0, memcmp(self->lender.mem + 10, "abcd", 4));
}

/* What a short read doesn't fill is zeroed, and nothing else is */
TEST_F(fused, short_read)
{
	unsigned char *mem = self->lender.mem;
	struct io_uring_sqe *sqe;

	sqe = fused(self, 4096, 16384, DEST);
	member_rw(sqe, IORING_OP_READ, self->file, 100, 10000, LEN - 6000);
	sqe->flags |= IOSQE_IO_LINK;
	sqe64(self, IORING_OP_NOP)->user_data = 3;
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, 6000, 0));
	/* as behind any short read */
	EXPECT_EQ(0, next_is(&self->ring, 3, -ECANCELED));
	EXPECT_TRUE(all_bytes(mem + 4196 + 6000, 0, 4000));
	memset(mem + 4196 + 6000, POISON, 4000);
	EXPECT_TRUE(only_at(self, 4196, 6000, LEN - 6000));

	/* a failed one fills nothing */
	sqe = fused(self, 4096, 16384, DEST);
	member_rw(sqe, IORING_OP_READ, self->pipe[1], 100, 10000, 0);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, -EBADF, -EBADF));
	EXPECT_TRUE(all_bytes(mem + 4196, 0, 10000));
	memset(mem + 4196, POISON, 10000);
	EXPECT_TRUE(all_bytes(mem, POISON, MEM));
	EXPECT_TRUE(returned(self, 2));
}

/* Which CQEs there are, for each combination of flags and result */
TEST_F(fused, cqes)
{
	unsigned int i, nr = 0;

	for (i = 0; i < 16; i++) {
		bool one = i & 1, skip_cmd = i & 2, skip_member = i & 4;
		bool fail = i & 8;
		int res = fail ? -EIO : 9;
		struct io_uring_sqe *sqe;
		__u64 end;

		sqe = fused(self, 0, 4096, BOTH);
		sqe[1].nop_flags = IORING_NOP_INJECT_RESULT;
		sqe[1].len = res;
		if (one)
			sqe->fused_flags = IORING_FUSED_ONE_CQE;
		if (skip_cmd)
			sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
		if (skip_member)
			sqe[1].flags |= IOSQE_CQE_SKIP_SUCCESS;
		ASSERT_EQ(0, submit(self));
		if (!one && (fail || !skip_member))
			ASSERT_EQ(0, next_is(&self->ring, UD_MEMBER, res));
		if (fail || !skip_cmd) {
			ASSERT_EQ(0, next_is(&self->ring, UD_CMD,
					     fail || one ? res : 0));
		}
		EXPECT_TRUE(ring_quiet(&self->ring));
		end = now_ms() + WAIT_MS;
		nr++;
		while (!returned(self, nr) && now_ms() < end)
			ring_quiet(&self->ring);
		ASSERT_TRUE(returned(self, nr));
	}
}

/* The driver ends the command and lends nothing: now or later */
TEST_F(fused, nothing_lent)
{
	const int results[] = { -EIO, 0, 5 };
	unsigned int i, late, one;
	struct io_uring_sqe *sqe;

	for (i = 0; i < 12; i++) {
		int res = results[i % 3];

		late = i / 3 % 2;
		one = i / 6;
		sqe = fused(self, 0, 4096, DEST | IORING_MOCK_LEND_NOTHING);
		sqe->addr = (__u32)res;
		sqe->fused_flags = one ? IORING_FUSED_ONE_CQE : 0;
		lend_of(sqe)->delay_us = late ? 1000 : 0;
		member_rw(sqe, IORING_OP_READ, self->file, 0, 4096, 0);
		ASSERT_EQ(0, submit(self));
		if (res >= 0)
			res = -ECANCELED;
		if (!one) {
			ASSERT_EQ(0, next_is(&self->ring, UD_MEMBER,
					     -ECANCELED));
		}
		ASSERT_EQ(0, next_is(&self->ring, UD_CMD, res));
		EXPECT_TRUE(ring_quiet(&self->ring));
	}
	EXPECT_TRUE(returned(self, 0));
	EXPECT_TRUE(all_bytes(self->lender.mem, POISON, MEM));
}

TEST_F(fused, lent_twice)
{
	struct io_uring_sqe *sqe;
	__u64 end;

	sqe = fused(self, 0, 4096, DEST | IORING_MOCK_LEND_TWICE);
	member_rw(sqe, IORING_OP_READ, self->file, 0, 4096, 0);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, 4096, 0));
	/* a worker may be at it still */
	end = now_ms() + WAIT_MS;
	while (!__atomic_load_n(&self->lender.state->second,
				__ATOMIC_ACQUIRE) && now_ms() < end)
		usleep(1000);
	EXPECT_EQ(-EBUSY, self->lender.state->second);
	EXPECT_TRUE(returned(self, 1));
	EXPECT_TRUE(only_at(self, 0, 4096, 0));
}

/*
 * What is wrong, and who says so: the member or the command. The other one is
 * cancelled, unless they had both begun.
 */
struct bad {
	const char *what;
	int member, cmd;		/* results */
	void (*make)(struct _test_data_fused *self, struct io_uring_sqe *sqe);
};

#define BAD(name, ...) \
	static void bad_##name(struct _test_data_fused *self, \
			       struct io_uring_sqe *sqe) \
	{ \
		(void)self; \
		__VA_ARGS__; \
	}

BAD(nr_short, sqe->nr_members = 2)
BAD(nr_many, sqe->nr_members = 65)
BAD(pad, sqe->__pad1 = 1)
BAD(file_index, sqe->file_index = 1)
BAD(ioprio, sqe->ioprio = 1)
BAD(flag, sqe->fused_flags = 1)
BAD(internal_flag, sqe->fused_flags = 1U << 29)
BAD(buffer_select, sqe->flags |= IOSQE_BUFFER_SELECT)
BAD(personality, sqe->personality = 77)
BAD(fd, sqe->fd = -1)
BAD(no_uring_cmd, sqe->fd = self->file)
BAD(op_of_driver, sqe->cmd_op = IORING_MOCK_CMD_COPY_REGBUF)
BAD(driver_arg, lend_of(sqe)->off = MEM + 1)
BAD(m_opcode, sqe[1].opcode = IORING_OP_READV)
BAD(m_sendmsg, sqe[1].opcode = IORING_OP_SENDMSG)
BAD(m_fused, sqe[1].opcode = IORING_OP_FUSED_CMD)
BAD(m_cmd, sqe[1].opcode = IORING_OP_URING_CMD, sqe[1].fd = self->lender.fd)
BAD(m_no_op, sqe[1].opcode = 255)
BAD(m_link, sqe[1].flags |= IOSQE_IO_LINK)
BAD(m_hardlink, sqe[1].flags |= IOSQE_IO_HARDLINK)
BAD(m_drain, sqe[1].flags |= IOSQE_IO_DRAIN)
BAD(m_select, sqe[1].flags |= IOSQE_BUFFER_SELECT)
BAD(m_flag, sqe[1].flags |= 0x80)
BAD(m_index, sqe[1].buf_index = 1)
BAD(m_zc, sqe[1].opcode = IORING_OP_SEND, sqe[1].msg_flags = MSG_ZEROCOPY)
BAD(m_personality, sqe[1].personality = 77)
BAD(m_fd, sqe[1].fd = -1)
BAD(m_fixed_fd, sqe[1].flags |= IOSQE_FIXED_FILE)
BAD(m_range, sqe[1].addr = 1)
BAD(m_long, sqe[1].len = 8193)
BAD(m_huge, sqe[1].len = ~0U)
BAD(m_wrap, sqe[1].addr = ~0ULL)
BAD(m_dir, sqe->len = SOURCE)
BAD(m_nodir, sqe->len = 0)

static const struct bad bads[] = {
	{ "second one missing", -ECANCELED, -EINVAL, bad_nr_short },
	{ "65 secondaries", -ECANCELED, -EINVAL, bad_nr_many },
	{ "pad", -ECANCELED, -EINVAL, bad_pad },
	{ "file_index", -ECANCELED, -EINVAL, bad_file_index },
	{ "ioprio", -ECANCELED, -EINVAL, bad_ioprio },
	{ "flag", -ECANCELED, -EINVAL, bad_flag },
	{ "internal flag", -ECANCELED, -EINVAL, bad_internal_flag },
	{ "buffer select", -ECANCELED, -EOPNOTSUPP, bad_buffer_select },
	{ "personality", -ECANCELED, -EINVAL, bad_personality },
	{ "fd", -ECANCELED, -EBADF, bad_fd },
	{ "no driver", -ECANCELED, -EOPNOTSUPP, bad_no_uring_cmd },
	{ "not a command that lends", -ECANCELED, -EOPNOTSUPP,
	  bad_op_of_driver },
	{ "driver's argument", -ECANCELED, -EINVAL, bad_driver_arg },
	{ "member: opcode", -EINVAL, -ECANCELED, bad_m_opcode },
	{ "member: SENDMSG", -EINVAL, -ECANCELED, bad_m_sendmsg },
	{ "member: FUSED_CMD", -EINVAL, -ECANCELED, bad_m_fused },
	{ "member: URING_CMD in a half", -EINVAL, -ECANCELED, bad_m_cmd },
	{ "member: no opcode", -EINVAL, -ECANCELED, bad_m_no_op },
	{ "member: LINK", -EINVAL, -ECANCELED, bad_m_link },
	{ "member: HARDLINK", -EINVAL, -ECANCELED, bad_m_hardlink },
	{ "member: DRAIN", -EINVAL, -ECANCELED, bad_m_drain },
	{ "member: BUFFER_SELECT", -EINVAL, -ECANCELED, bad_m_select },
	{ "member: unknown flag", -EINVAL, -ECANCELED, bad_m_flag },
	{ "member: buf_index", -EINVAL, -ECANCELED, bad_m_index },
	{ "member: MSG_ZEROCOPY", -EINVAL, -ECANCELED, bad_m_zc },
	{ "member: personality", -EINVAL, -ECANCELED, bad_m_personality },
	{ "member: fd", -EBADF, -EBADF, bad_m_fd },
	{ "member: fixed fd", -EBADF, -EBADF, bad_m_fixed_fd },
	{ "member: range", -EFAULT, -EFAULT, bad_m_range },
	{ "member: too long", -EFAULT, -EFAULT, bad_m_long },
	{ "member: huge", -EFAULT, -EFAULT, bad_m_huge },
	{ "member: wraps around", -EFAULT, -EFAULT, bad_m_wrap },
	{ "member: direction", -EFAULT, -EFAULT, bad_m_dir },
	{ "member: no direction", -EFAULT, -EFAULT, bad_m_nodir },
};

/* Refused as any request may be, or doesn't say how many members it has */
static bool takes_no_entries(const struct bad *bad)
{
	return bad->make == bad_nr_many || bad->make == bad_ioprio ||
	       bad->make == bad_buffer_select || bad->make == bad_personality;
}

/* Refused before it has members */
static bool has_no_members(const struct bad *bad)
{
	return takes_no_entries(bad) || bad->make == bad_pad ||
	       bad->make == bad_file_index ||
	       bad->make == bad_flag || bad->make == bad_internal_flag;
}

/* The next CQE, not counting that of a request that isn't a member */
static int next_but(struct ring *r, struct io_uring_cqe *cqe, __u64 ud,
		    bool *seen)
{
	int ret = ring_wait(r, cqe);

	if (ret || cqe->user_data != ud)
		return ret;
	*seen = true;
	return ring_wait(r, cqe);
}

TEST_F(fused, refused)
{
	unsigned int i, one;

	for (i = 0; i < 2 * ARRAY_SIZE(bads); i++) {
		const struct bad *bad = &bads[i / 2];
		struct io_uring_cqe cqe;
		struct io_uring_sqe *sqe, *m;
		bool early, nop = bad->make == bad_nr_short;
		int cmd;

		one = i & 1;
		sqe = fused_set(self, 4096, 8192, DEST, 1, &m);
		if (one)
			sqe->fused_flags = IORING_FUSED_ONE_CQE;
		member_rw(sqe, IORING_OP_READ, self->file, 0, 8192, 0);
		bad->make(self, sqe);
		/* the flag may be what is wrong */
		one = one && sqe->fused_flags == IORING_FUSED_ONE_CQE;
		/* has one member, so nothing but this is its own */
		if (!nop)
			sqe64(self, IORING_OP_NOP)->user_data = 100;
		ASSERT_EQ(0, submit(self));

		/* one CQE then */
		early = has_no_members(bad);
		cmd = bad->cmd;
		if (one && cmd == -ECANCELED)
			cmd = bad->member;
		TH_LOG("%s", bad->what);
		if (!one && !early) {
			ASSERT_EQ(0, next_but(&self->ring, &cqe, 100, &nop));
			ASSERT_EQ(UD_MEMBER, cqe.user_data);
			ASSERT_EQ(bad->member, cqe.res);
		}
		ASSERT_EQ(0, next_but(&self->ring, &cqe, 100, &nop));
		ASSERT_EQ(UD_CMD, cqe.user_data);
		ASSERT_EQ(cmd, cqe.res);
		if (!nop) {
			ASSERT_EQ(0, ring_wait(&self->ring, &cqe));
			ASSERT_EQ(100, cqe.user_data);
		}
		EXPECT_EQ(self->lender.state->lent,
			  self->lender.state->released);
		/* what should have been filled and wasn't */
		if (bad->member == -EBADF) {
			EXPECT_TRUE(all_bytes(self->lender.mem + 4096, 0,
					      8192));
			memset(self->lender.mem + 4096, POISON, 8192);
		}
		EXPECT_TRUE(all_bytes(self->lender.mem, POISON, MEM));
	}
	EXPECT_TRUE(ring_quiet(&self->ring));
}

static const unsigned int set_sizes[] = { 1, 2, 3, 7, 31, MAX_MEMBERS };

/* Where member @i of @nr reads or writes in the memory, and how much */
static unsigned int m_addr(unsigned int i)
{
	return i * 1024 + i % 7;
}

static unsigned int m_len(unsigned int i)
{
	return 1 + i * 37 % 1000;
}

/* All members read, each its own part of the file, to a place of its own */
TEST_F(fused, set_reads)
{
	unsigned int s, i, j, nr, one, total, lent = 0;
	struct io_uring_sqe *sqe, *m[MAX_MEMBERS];
	unsigned char *want = malloc(MEM);
	int res[MAX_MEMBERS];

	ASSERT_NE(NULL, want);
	for (s = 0; s < 2 * ARRAY_SIZE(set_sizes); s++) {
		nr = set_sizes[s / 2];
		one = s & 1;
		sqe = fused_set(self, 4096, 65 * 1024, DEST, nr, m);
		sqe->fused_flags = one ? IORING_FUSED_ONE_CQE : 0;
		memset(want, POISON, MEM);
		total = 0;
		for (i = 0; i < nr; i++) {
			set_rw(m[i], i & 1 ? IORING_OP_READ :
			       IORING_OP_READ_FIXED, self->file, m_addr(i),
			       m_len(i), i * 251);
			for (j = 0; j < m_len(i); j++)
				want[4096 + m_addr(i) + j] =
					pattern(i * 251 + j, SEED);
			res[i] = m_len(i);
			total += res[i];
		}
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(0, one ? next_is(&self->ring, UD_CMD, total) :
				   set_is(self, nr, res, 0));
		ASSERT_TRUE(returned(self, ++lent));
		ASSERT_EQ(0, memcmp(want, self->lender.mem, MEM));
		memset(self->lender.mem, POISON, MEM);
	}
	EXPECT_TRUE(ring_quiet(&self->ring));
	free(want);
}

/* All members write: parts of the memory, some to one file, some to another */
TEST_F(fused, set_writes)
{
	struct io_uring_sqe *sqe, *m[MAX_MEMBERS];
	unsigned char got[1024];
	unsigned int s, i, j, nr;
	int res[MAX_MEMBERS];
	int out[2];

	fill_pattern(self->lender.mem, MEM, SEED);
	for (s = 0; s < ARRAY_SIZE(set_sizes); s++) {
		nr = set_sizes[s];
		for (i = 0; i < 2; i++) {
			out[i] = syscall(__NR_memfd_create, "out", MFD_CLOEXEC);
			ASSERT_LE(0, out[i]);
		}
		sqe = fused_set(self, 100, 65 * 1024, SOURCE, nr, m);
		lend_of(sqe)->piece = 1000;
		for (i = 0; i < nr; i++) {
			set_rw(m[i], IORING_OP_WRITE, out[i & 1], m_addr(i),
			       m_len(i), 2048 * i);
			res[i] = m_len(i);
		}
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(0, set_is(self, nr, res, 0));
		ASSERT_TRUE(returned(self, s + 1));
		for (i = 0; i < nr; i++) {
			memset(got, POISON, sizeof(got));
			/* the last one of a file ends it */
			ASSERT_EQ(i + 2 < nr ? sizeof(got) : m_len(i),
				  pread(out[i & 1], got, sizeof(got),
					2048 * i));
			for (j = 0; j < m_len(i); j++)
				ASSERT_EQ(pattern(100 + m_addr(i) + j, SEED),
					  got[j]);
			ASSERT_TRUE(all_bytes(got + j, i + 2 < nr ? 0 : POISON,
					      sizeof(got) - j));
		}
		close(out[0]);
		close(out[1]);
	}
	EXPECT_EQ(MEM, check_pattern(self->lender.mem, MEM, SEED));
	EXPECT_TRUE(ring_quiet(&self->ring));
}

/* Sets begin at any slot and go over the end of the ring, and back to back */
TEST_F(fused, set_wraps)
{
	struct io_uring_sqe *m[MAX_MEMBERS];
	unsigned int i, j, nr;

	for (i = 0; i < 200; i++) {
		nr = 1 + i * 5 % 23;
		fused_set(self, 0, 65 * 1024, DEST, nr, m);
		for (j = 0; j < nr; j++) {
			set_rw(m[j], IORING_OP_READ, self->file, m_addr(j),
			       m_len(j), i);
		}
		/* of somebody else, no member */
		sqe64(self, IORING_OP_NOP)->user_data = UD_MEMBER + nr;
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(0, next_of(&self->ring, UD_MEMBER + nr, 0, nr + 1));
		for (j = 0; j < nr; j++) {
			ASSERT_EQ(m_len(j),
				  check_pattern_at(self->lender.mem + m_addr(j),
						   m_len(j), i));
		}
		memset(self->lender.mem, POISON, MEM);
		ASSERT_TRUE(returned(self, i + 1));
	}
	EXPECT_TRUE(ring_quiet(&self->ring));
}

/*
 * One member can't be prepared: nothing is lent, and the others are cancelled.
 * Another one can't be executed: the others don't mind.
 */
TEST_F(fused, set_one_bad)
{
	struct io_uring_sqe *sqe, *m[4];
	unsigned int i, j, one, lent = 0;
	int res[4];

	for (i = 0; i < 4 * 2 * 2; i++) {
		unsigned int bad = i / 4;
		bool prep = i & 1;

		one = i / 2 % 2;
		sqe = fused_set(self, 0, 4096, DEST, 4, m);
		sqe->fused_flags = one ? IORING_FUSED_ONE_CQE : 0;
		for (j = 0; j < 4; j++) {
			set_rw(m[j], IORING_OP_READ, self->file, j * 1024, 1024,
			       i + j * 1024);
			res[j] = prep ? -ECANCELED : 1024;
		}
		if (prep) {
			m[bad]->opcode = IORING_OP_READV;
			res[bad] = -EINVAL;
		} else {
			m[bad]->fd = -1;
			res[bad] = -EBADF;
			lent++;
		}
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(0, one ? next_is(&self->ring, UD_CMD, res[bad]) :
				   set_is(self, 4, res,
					  prep ? -ECANCELED : -EBADF));
		ASSERT_TRUE(returned(self, lent));
		for (j = 0; j < 4; j++) {
			unsigned char *at = self->lender.mem + j * 1024;

			ASSERT_TRUE(prep || j == bad ?
				    all_bytes(at, prep ? POISON : 0, 1024) :
				    check_pattern_at(at, 1024, i + j * 1024) ==
				    1024);
		}
		memset(self->lender.mem, POISON, MEM);
	}
	EXPECT_TRUE(ring_quiet(&self->ring));
}

/* The command tells of the first error by the order of the members */
TEST_F(fused, set_two_fail)
{
	struct io_uring_sqe *sqe, *m[4];
	int res[4] = { 5, -EIO, 7, -ENXIO };
	unsigned int one, i;

	for (one = 0; one < 2; one++) {
		sqe = fused_set(self, 0, 4096, DEST, 4, m);
		sqe->fused_flags = one ? IORING_FUSED_ONE_CQE : 0;
		for (i = 0; i < 4; i++) {
			m[i]->nop_flags = IORING_NOP_INJECT_RESULT;
			m[i]->len = res[i];
		}
		/* the later one fails first, with or without a worker */
		m[1]->flags |= IOSQE_ASYNC;
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(0, one ? next_is(&self->ring, UD_CMD, -EIO) :
				   set_is(self, 4, res, -EIO));
		ASSERT_TRUE(returned(self, one + 1));
	}
}

/* The sum of results is more than fits into a CQE */
TEST_F(fused, set_sum)
{
	struct io_uring_sqe *sqe, *m[3];
	unsigned int i;

	sqe = fused_set(self, 0, 4096, DEST, 3, m);
	sqe->fused_flags = IORING_FUSED_ONE_CQE;
	for (i = 0; i < 3; i++) {
		m[i]->nop_flags = IORING_NOP_INJECT_RESULT;
		m[i]->len = 0x7ffffff0;
	}
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, next_is(&self->ring, UD_CMD, 0x7fffffff));
}

/* Fewer entries are submitted than the set has */
TEST_F(fused, set_short)
{
	struct ring *r = &self->ring;
	const int res[3] = { -ECANCELED, -ECANCELED, -ECANCELED };
	struct io_uring_sqe *sqe, *m[3];
	unsigned int one, n;

	for (one = 0; one < 2; one++) {
		sqe = fused_set(self, 0, 4096, DEST, 3, m);
		sqe->fused_flags = one ? IORING_FUSED_ONE_CQE : 0;
		sqe->nr_members = 4;
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(0, one ? next_is(r, UD_CMD, -EINVAL) :
				   set_is(self, 3, res, -EINVAL));
	}
	/* they are there, and aren't part of what is submitted */
	if (!(variant->type.setup & IORING_SETUP_SQPOLL)) {
		fused_set(self, 0, 4096, DEST, 3, m);
		n = ring_publish(r);
		ASSERT_EQ((int)n - 1, ring_enter(r, n - 1, 0, 0));
		ASSERT_EQ(0, set_is(self, 2, res, -EINVAL));
		/* the last one is nobody's now */
		ASSERT_EQ(1, ring_enter(r, 1, 0, 0));
		ASSERT_EQ(0, next_is(r, UD_MEMBER + 2, 0));
	}
	EXPECT_TRUE(returned(self, 0));
	EXPECT_TRUE(ring_quiet(r));
}

/*
 * The members of a command that is refused are never executed as others, if it
 * was able to say how many there are. If it wasn't, it takes no entry at all.
 */
TEST_F(fused, set_refused)
{
	struct io_uring_sqe *sqe, *m[3];
	struct ring *r = &self->ring;
	unsigned int i, n, nr, one;

	for (i = 0; i < 2 * ARRAY_SIZE(bads); i++) {
		const struct bad *bad = &bads[i / 2];
		struct io_uring_cqe cqe;
		unsigned int want, got = 0;

		if (bad->make == bad_nr_short)
			continue;
		one = i & 1;
		sqe = fused_set(self, 4096, 8192, DEST, 3, m);
		if (one)
			sqe->fused_flags = IORING_FUSED_ONE_CQE;
		member_rw(sqe, IORING_OP_READ, self->file, 0, 8192, 0);
		bad->make(self, sqe);
		one = one && sqe->fused_flags == IORING_FUSED_ONE_CQE;
		if (bad->member == -ECANCELED && !takes_no_entries(bad)) {
			/* would post more than its CQE, or write there */
			set_rw(m[1], IORING_OP_WRITE, self->pipe[1], 0, 1, 0);
			set_rw(m[2], IORING_OP_WRITE, self->pipe[1], 0, 1, 0);
			m[1]->addr = u64_ptr(self->lender.mem);
			m[2]->addr = u64_ptr(self->lender.mem);
		}
		for (n = 0; n < 3; n++)
			sqe64(self, IORING_OP_NOP)->user_data = 28 + n;
		ASSERT_EQ(0, submit(self));
		TH_LOG("%s", bad->what);
		want = 7U << 28 | 1U << UD_CMD;
		if (takes_no_entries(bad))
			want |= 6U << UD_MEMBER;
		else if (!has_no_members(bad) && !one)
			want |= 7U << UD_MEMBER;
		nr = __builtin_popcount(want);
		for (n = 0; n < nr; n++) {
			ASSERT_EQ(0, ring_wait(r, &cqe));
			ASSERT_NE(1, cqe.res);
			ASSERT_EQ(0, got & 1U << cqe.user_data);
			got |= 1U << cqe.user_data;
			if (cqe.user_data >= 28) {
				ASSERT_EQ(0, cqe.res);
			}
			if (cqe.user_data == UD_CMD) {
				ASSERT_GT(0, cqe.res);
			}
			if (cqe.user_data > UD_MEMBER && takes_no_entries(bad)) {
				ASSERT_EQ(0, cqe.res);
			}
		}
		ASSERT_EQ(want, got);
		EXPECT_EQ(self->lender.state->lent,
			  self->lender.state->released);
		memset(self->lender.mem, POISON, MEM);
	}
	EXPECT_TRUE(ring_quiet(r));
	ASSERT_EQ(1, write(self->pipe[1], "e", 1));
	ASSERT_EQ(1, read(self->pipe[0], &i, sizeof(i)));
}

TEST_F(fused, set_link)
{
	const int res[3] = { 1, 2, 3 }, no[3] = { -ECANCELED, -ECANCELED,
						  -ECANCELED };
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe, *m[3];
	unsigned int i;

	/* in the middle of one */
	sqe = sqe64(self, IORING_OP_READ);
	sqe->fd = self->pipe[0];
	sqe->addr = u64_ptr(self->lender.mem + MEM - 1);
	sqe->len = 1;
	sqe->user_data = 10;
	sqe->flags |= IOSQE_IO_LINK;
	sqe = fused_set(self, 0, 4096, DEST, 3, m);
	for (i = 0; i < 3; i++)
		set_rw(m[i], IORING_OP_READ, self->file, i * 8, i + 1, i);
	sqe->flags |= IOSQE_IO_LINK;
	sqe64(self, IORING_OP_NOP)->user_data = 11;
	ASSERT_EQ(0, submit(self));
	EXPECT_TRUE(ring_quiet(r));
	EXPECT_TRUE(returned(self, 0));
	ASSERT_EQ(1, write(self->pipe[1], "\xa5", 1));
	EXPECT_EQ(0, next_is(r, 10, 1));
	EXPECT_EQ(0, set_is(self, 3, res, 0));
	EXPECT_EQ(0, next_is(r, 11, 0));
	EXPECT_EQ(pattern(4, SEED), self->lender.mem[18]);
	EXPECT_EQ(POISON, self->lender.mem[19]);

	/* behind a failure */
	sqe = sqe64(self, IORING_OP_NOP);
	sqe->nop_flags = IORING_NOP_INJECT_RESULT;
	sqe->len = -EIO;
	sqe->user_data = 14;
	sqe->flags |= IOSQE_IO_LINK;
	fused_set(self, 0, 4096, DEST, 3, m);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, next_is(r, 14, -EIO));
	EXPECT_EQ(0, set_is(self, 3, no, -ECANCELED));

	/* one that is too short, and would have been the last of a link */
	sqe = sqe64(self, IORING_OP_NOP);
	sqe->user_data = 15;
	sqe->flags |= IOSQE_IO_LINK;
	fused_set(self, 0, 4096, DEST, 3, m)->nr_members = 4;
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, next_is(r, 15, -ECANCELED));
	EXPECT_EQ(0, set_is(self, 3, no, -EINVAL));
	EXPECT_TRUE(returned(self, 1));
	EXPECT_TRUE(ring_quiet(r));
}

TEST_F(fused, set_drain)
{
	const int res[3] = { 0, 0, 0 };
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe, *m[3];
	char byte;

	sqe = sqe64(self, IORING_OP_READ);
	sqe->fd = self->pipe[0];
	sqe->addr = u64_ptr(&byte);
	sqe->len = 1;
	sqe->user_data = 10;
	fused_set(self, 0, 4096, DEST, 3, m)->flags |= IOSQE_IO_DRAIN;
	sqe = sqe64(self, IORING_OP_NOP);
	sqe->flags |= IOSQE_IO_DRAIN;
	sqe->user_data = 11;
	fused_set(self, 4096, 4096, DEST, 3, m);
	ASSERT_EQ(0, submit(self));
	EXPECT_TRUE(ring_quiet(r));
	ASSERT_EQ(1, write(self->pipe[1], "x", 1));
	EXPECT_EQ(0, next_is(r, 10, 1));
	ASSERT_EQ(0, set_is(self, 3, res, 0));
	ASSERT_EQ(0, next_is(r, 11, 0));
	ASSERT_EQ(0, set_is(self, 3, res, 0));
	EXPECT_TRUE(returned(self, 2));
}

/* What was submitted counts, also of the entries that follow */
TEST_F(fused, set_overwritten)
{
	const int res[3] = { 1000, 1000, 1000 };
	struct io_uring_sqe *sqe, *m[3];
	unsigned int i;

	sqe = fused_set(self, 0, 8192, DEST, 3, m);
	lend_of(sqe)->delay_us = 50000;
	for (i = 0; i < 3; i++)
		set_rw(m[i], IORING_OP_READ, self->file, i * 1000, 1000,
		       i * 1000);
	ASSERT_EQ(0, submit(self));
	memset(sqe, 0xff, 2 * sizeof(*sqe));
	memset(m[1], 0xff, sizeof(*sqe));
	memset(m[2], 0xff, sizeof(*sqe));
	EXPECT_EQ(0, set_is(self, 3, res, 0));
	EXPECT_TRUE(only_at(self, 0, 3000, 0));
}

struct flipper {
	struct io_uring_sqe *cmd, *m;
	bool stop;
};

static void *flip(void *arg)
{
	struct flipper *f = arg;

	while (!__atomic_load_n(&f->stop, __ATOMIC_RELAXED)) {
		struct io_uring_sqe *cmd, *m;

		cmd = __atomic_load_n(&f->cmd, __ATOMIC_ACQUIRE);
		m = f->m;
		if (!cmd)
			continue;
		cmd->nr_members = 2;
		m->opcode = IORING_OP_NOP;
		m->addr = 0;
		cmd->nr_members = 3;
		m->opcode = IORING_OP_READ;
		m->addr = 4000;
	}
	return NULL;
}

/* SQEs change while they are looked at: each entry has one CQE, whichever */
TEST_F(fused, set_racing)
{
	__u64 end = now_ms() + run_ms(300);
	struct flipper f = { };
	struct io_uring_sqe *m[3], *sqe;
	struct io_uring_cqe cqe;
	unsigned int i, seen;
	pthread_t thread;

	ASSERT_EQ(0, pthread_create(&thread, NULL, flip, &f));
	while (now_ms() < end) {
		sqe = fused_set(self, 0, 4096, DEST, 3, m);
		for (i = 0; i < 3; i++)
			set_rw(m[i], IORING_OP_NOP, self->file, 0, 10, 0);
		f.m = m[1];
		__atomic_store_n(&f.cmd, sqe, __ATOMIC_RELEASE);
		ASSERT_EQ(0, submit(self));
		for (i = seen = 0; i < 4; i++) {
			ASSERT_EQ(0, ring_wait(&self->ring, &cqe));
			ASSERT_EQ(0, seen & 1U << cqe.user_data);
			seen |= 1U << cqe.user_data;
		}
		ASSERT_TRUE(all_bytes(self->lender.mem + 4010, POISON,
				      MEM - 4010));
		ASSERT_EQ(self->lender.state->lent,
			  self->lender.state->released);
	}
	__atomic_store_n(&f.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	EXPECT_TRUE(ring_quiet(&self->ring));
}

/* Three ranges of what is lent, for a file that can't be read */
static int readv_unreadable(struct _test_data_fused *self,
			    const struct iovec *iov)
{
	struct io_uring_sqe *sqe = fused(self, 4096, 16384, DEST);
	int ret;

	member_rw(sqe, IORING_OP_READV_FIXED, self->pipe[1], 0, 3, 0);
	sqe[1].addr = u64_ptr(iov);
	ret = submit(self);
	return ret ? ret : both(self, -EBADF, -EBADF);
}

/* Several ranges, which begin and end anywhere */
TEST_F(fused, readv)
{
	struct iovec iov[3] = {
		{ (void *)1, 50 }, { (void *)5000, 100 }, { (void *)9000, 3001 },
	};
	unsigned char *want = malloc(MEM);
	struct io_uring_sqe *sqe;
	unsigned int i, j, k;

	ASSERT_NE(NULL, want);
	/* all there is, an end within the second range, within the first */
	for (i = 0; i < 3; i++) {
		const int has[] = { 3151, 120, 7 };
		int left = has[i];
		size_t pos = i ? LEN - has[i] : 3;

		sqe = fused(self, 4096, 16384, DEST);
		member_rw(sqe, IORING_OP_READV_FIXED, self->file, 0, 3, pos);
		sqe[1].addr = u64_ptr(iov);
		memset(want, POISON, MEM);
		for (j = 0; j < 3; j++) {
			unsigned char *at = want + 4096 +
					    (uintptr_t)iov[j].iov_base;

			for (k = 0; k < iov[j].iov_len; k++, left--)
				at[k] = left > 0 ? pattern(pos++, SEED) : 0;
		}
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(0, both(self, has[i], 0));
		ASSERT_TRUE(returned(self, i + 1));
		ASSERT_EQ(0, memcmp(want, self->lender.mem, MEM));
		memset(self->lender.mem, POISON, MEM);
	}

	/* no file to read: all of it is zeroed */
	ASSERT_EQ(0, readv_unreadable(self, iov));
	memset(want, POISON, MEM);
	for (j = 0; j < 3; j++)
		memset(want + 4096 + (uintptr_t)iov[j].iov_base, 0,
		       iov[j].iov_len);
	EXPECT_EQ(0, memcmp(want, self->lender.mem, MEM));
	memset(self->lender.mem, POISON, MEM);

	/* a range that isn't there, an array that isn't */
	iov[1] = (struct iovec) { (void *)1, 50 };
	iov[2] = (struct iovec) { (void *)9000, 16384 };
	sqe = fused(self, 4096, 16384, DEST);
	member_rw(sqe, IORING_OP_READV_FIXED, self->file, 0, 2, 0);
	sqe[1].addr = u64_ptr(iov + 1);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, -EFAULT, -EFAULT));
	EXPECT_TRUE(all_bytes(self->lender.mem + 4096 + 9000, POISON,
			      MEM - 4096 - 9000));
	memset(self->lender.mem, POISON, MEM);
	sqe = fused(self, 4096, 16384, DEST);
	member_rw(sqe, IORING_OP_READV_FIXED, self->file, 8, 2, 0);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, -EFAULT, -ECANCELED));
	EXPECT_TRUE(returned(self, 5));
	EXPECT_TRUE(all_bytes(self->lender.mem, POISON, MEM));
	free(want);
}

TEST_F(fused, writev)
{
	struct iovec iov[3] = {
		{ (void *)5000, 100 }, { (void *)1, 50 }, { (void *)9000, 3001 },
	};
	unsigned char got[4096];
	struct io_uring_sqe *sqe;
	unsigned int j, k, pos;

	fill_pattern(self->lender.mem, MEM, SEED);
	sqe = fused(self, 4096, 16384, SOURCE);
	lend_of(sqe)->piece = 777;
	member_rw(sqe, IORING_OP_WRITEV_FIXED, self->file, 0, 3, 10);
	sqe[1].addr = u64_ptr(iov);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, 3151, 0));
	EXPECT_TRUE(returned(self, 1));
	ASSERT_EQ(3171, pread(self->file, got, 3171, 0));
	EXPECT_EQ(10, check_pattern(got, 10, SEED));
	for (j = 0, pos = 10; j < 3; j++) {
		for (k = 0; k < iov[j].iov_len; k++)
			ASSERT_EQ(pattern(4096 + (uintptr_t)iov[j].iov_base + k,
					  SEED), got[pos++]);
	}
	EXPECT_EQ(10, check_pattern_at(got + pos, 10, pos));
	EXPECT_EQ(MEM, check_pattern(self->lender.mem, MEM, SEED));
}

/* A connection. The receiver has little room, the sender has much. */
static int zc_pair(int *s)
{
	return tcp_pair(s, 4096, 4 << 20);
}

/* Whether the next @len bytes of a socket are the pattern from @pos on */
static bool received(int fd, unsigned int len, size_t pos)
{
	struct timeval tv = { .tv_sec = WAIT_MS / 1000 };
	unsigned char buf[4096];
	unsigned int done = 0;
	ssize_t ret;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	while (done < len) {
		ret = recv(fd, buf, len - done < 4096 ? len - done : 4096, 0);
		if (ret <= 0 || check_pattern_at(buf, ret, pos + done) != ret) {
			fprintf(stderr, "# %u bytes, then %zd\n", done, ret);
			return false;
		}
		done += ret;
	}
	return true;
}

TEST_F(fused, send)
{
	struct io_uring_sqe *sqe, *m[2];
	const int res[2] = { 9000, 500 };
	int s[2];

	fill_pattern(self->lender.mem, MEM, SEED);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	sqe = fused(self, 100, 10000, SOURCE);
	lend_of(sqe)->piece = 999;
	member_rw(sqe, IORING_OP_SEND, s[0], 7, 5000, 0);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, 5000, 0));
	EXPECT_TRUE(received(s[1], 5000, 107));

	/* at once, to two sockets */
	sqe = fused_set(self, 100, 10000, SOURCE, 2, m);
	set_rw(m[0], IORING_OP_SEND, s[0], 1000, 9000, 0);
	set_rw(m[1], IORING_OP_SEND, s[1], 1, 500, 0);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, set_is(self, 2, res, 0));
	EXPECT_TRUE(received(s[1], 9000, 1100));
	EXPECT_TRUE(received(s[0], 500, 101));
	EXPECT_TRUE(returned(self, 2));

	/* a range that isn't there, nobody to send to */
	sqe = fused(self, 100, 10000, SOURCE);
	member_rw(sqe, IORING_OP_SEND, s[0], 1, 10000, 0);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, -EFAULT, -EFAULT));
	close(s[1]);
	sqe = fused(self, 100, 10000, SOURCE);
	member_rw(sqe, IORING_OP_SEND, s[0], 0, 10000, 0);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, -EPIPE, -EPIPE));
	EXPECT_TRUE(returned(self, 4));
	close(s[0]);
}

/* What a receiver was to fill and did not is zeroed, as with a read */
TEST_F(fused, recv)
{
	unsigned char data[8000], *mem = self->lender.mem;
	struct io_uring_sqe *sqe;
	int s[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	fill_pattern(data, sizeof(data), SEED);
	sqe = fused(self, 4096, 10000, DEST);
	member_rw(sqe, IORING_OP_RECV, s[0], 100, 8000, 0);
	sqe[1].msg_flags = MSG_WAITALL;
	ASSERT_EQ(0, submit(self));
	ASSERT_EQ(3000, write(s[1], data, 3000));
	EXPECT_TRUE(ring_quiet(&self->ring));
	EXPECT_EQ(0, self->lender.state->released);
	ASSERT_EQ(5000, write(s[1], data + 3000, 5000));
	EXPECT_EQ(0, both(self, 8000, 0));
	EXPECT_TRUE(only_at(self, 4196, 8000, 0));
	EXPECT_TRUE(returned(self, 1));

	/* less than there is room for */
	ASSERT_EQ(10, write(s[1], data, 10));
	sqe = fused(self, 4096, 10000, DEST);
	member_rw(sqe, IORING_OP_RECV, s[0], 0, 9000, 0);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, 10, 0));
	EXPECT_TRUE(all_bytes(mem + 4106, 0, 8990));
	memset(mem + 4106, POISON, 8990);
	EXPECT_TRUE(only_at(self, 4096, 10, 0));

	/* the length of what is thrown away isn't that of what is there */
	ASSERT_EQ(10, write(s[1], data, 10));
	sqe = fused(self, 4096, 10000, DEST);
	member_rw(sqe, IORING_OP_RECV, s[0], 0, 9000, 0);
	sqe[1].msg_flags = MSG_TRUNC;
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, -EINVAL, -ECANCELED));
	EXPECT_TRUE(all_bytes(mem, POISON, MEM));

	/* the end, and before all has come */
	close(s[1]);
	sqe = fused(self, 4096, 10000, DEST);
	member_rw(sqe, IORING_OP_RECV, s[0], 0, 100, 0);
	sqe[1].msg_flags = MSG_WAITALL;
	sqe->fused_flags = IORING_FUSED_ONE_CQE;
	sqe->flags |= IOSQE_IO_LINK;
	sqe64(self, IORING_OP_NOP)->user_data = 3;
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, next_is(&self->ring, UD_CMD, 10));
	EXPECT_EQ(0, next_is(&self->ring, 3, -ECANCELED));
	EXPECT_TRUE(all_bytes(mem + 4106, 0, 90));
	memset(mem + 4106, POISON, 90);
	EXPECT_TRUE(only_at(self, 4096, 10, 0));
	EXPECT_TRUE(returned(self, 3));
	close(s[0]);
}

#define ZC_LEN		100000

static void set_zc(struct io_uring_sqe *sqe, bool msg, int fd,
		   struct msghdr *hdr)
{
	struct iovec *iov = hdr->msg_iov;

	set_rw(sqe, msg ? IORING_OP_SENDMSG_ZC : IORING_OP_SEND_ZC, fd,
	       (uintptr_t)iov->iov_base, msg ? 1 : iov->iov_len, 0);
	if (msg)
		sqe->addr = u64_ptr(hdr);
	sqe->addr3 = UD_NOTIF;
}

/*
 * The send is over long before the reader has begun. The memory is the
 * network's until it has all been acknowledged, and then the command ends.
 */
/* The user ID that a message comes with, which is of whoever has sent it */
static int sender_of(int sock)
{
	char byte, control[CMSG_SPACE(3 * sizeof(int))];
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *c;
	int ids[3];

	if (recvmsg(sock, &msg, MSG_DONTWAIT) != 1)
		return -EIO;
	c = CMSG_FIRSTHDR(&msg);
	if (!c || c->cmsg_type != SCM_CREDENTIALS)
		return -ENOENT;
	memcpy(ids, CMSG_DATA(c), sizeof(ids));
	return ids[1];
}

/*
 * Members that are issued later than they are submitted have the credentials of
 * the submission, as do requests that are deferred.
 */
TEST_F(fused, creds)
{
	enum { PLAIN, MEMBER, LATE, LINKED, NR_WAYS };
	static const unsigned int flags[] = {
		0, IOSQE_ASYNC, IOSQE_IO_DRAIN,
	};
	struct io_uring_sqe *sqe;
	unsigned int i, way, nr;
	struct io_uring_cqe cqe;
	int s[2], on = 1;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	ASSERT_EQ(0, setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)));
	for (i = 0; i < NR_WAYS * ARRAY_SIZE(flags); i++) {
		way = i % NR_WAYS;
		nr = way == PLAIN ? 1 : way == LINKED ? 3 : 2;
		if (flags[i / NR_WAYS] & IOSQE_IO_DRAIN) {
			/* something to wait for */
			sqe = sqe64(self, IORING_OP_READ);
			set_rw(sqe, IORING_OP_READ, self->pipe[0], 0, 1, 0);
			sqe->addr = u64_ptr(&on);
			nr++;
		}
		if (way == LINKED) {
			sqe = sqe64(self, IORING_OP_NOP);
			sqe->flags |= IOSQE_IO_LINK;
		}
		if (way == PLAIN) {
			sqe = sqe64(self, IORING_OP_SEND);
			sqe->fd = s[0];
			sqe->addr = u64_ptr("x");
			sqe->len = 1;
		} else {
			sqe = fused(self, 0, 4096, SOURCE);
			if (way == LATE)
				lend_of(sqe)->delay_us = LATE_US;
			member_rw(sqe, IORING_OP_SEND, s[0], 0, 1, 0);
		}
		sqe->flags |= flags[i / NR_WAYS];
		ASSERT_EQ(0, submit(self));
		/* as somebody else, who may still do as root does */
		ASSERT_EQ(0, setresuid(65534, -1, -1));
		ASSERT_EQ(1, write(self->pipe[1], "x", 1));
		while (nr--) {
			ASSERT_EQ(0, ring_wait(&self->ring, &cqe));
			ASSERT_LE(0, cqe.res);
		}
		ASSERT_EQ(0, setresuid(0, -1, -1));
		if (!(flags[i / NR_WAYS] & IOSQE_IO_DRAIN))
			ASSERT_EQ(1, read(self->pipe[0], &on, 1));
		/* a link that is not deferred is of whoever waits for it */
		if (way == LINKED && !flags[i / NR_WAYS]) {
			ASSERT_LE(0, sender_of(s[1]));
			continue;
		}
		ASSERT_EQ(0, sender_of(s[1])) {
			TH_LOG("way %u flags %x", way, flags[i / NR_WAYS]);
		}
	}
	close(s[0]);
	close(s[1]);
}

TEST_F(fused, send_zc)
{
	struct iovec iov = { (void *)50, ZC_LEN };
	struct msghdr hdr = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int i;
	int s[2];

	fill_pattern(self->lender.mem, MEM, SEED);
	/* nothing would report it */
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, zc_pair(s));
		sqe = fused(self, 4096, 2 * ZC_LEN, SOURCE);
		sqe->fused_flags = IORING_FUSED_ONE_CQE;
		set_zc(sqe + 1, i, s[0], &hdr);
		sqe[1].ioprio |= IORING_SEND_ZC_REPORT_USAGE;
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(0, next_is(r, UD_CMD, -EINVAL));
		EXPECT_EQ(0, self->lender.state->lent);
		close(s[0]);
		close(s[1]);
	}
	for (i = 0; i < 4; i++) {
		bool msg = i & 1, one = i & 2;

		ASSERT_EQ(0, zc_pair(s));
		sqe = fused(self, 4096, 2 * ZC_LEN, SOURCE);
		sqe->fused_flags = one ? IORING_FUSED_ONE_CQE : 0;
		set_zc(sqe + 1, msg, s[0], &hdr);
		ASSERT_EQ(0, submit(self));
		if (!one) {
			ASSERT_EQ(0, next_with(r, UD_MEMBER, ZC_LEN,
					       IORING_CQE_F_MORE));
		}
		EXPECT_TRUE(ring_quiet(r));
		EXPECT_EQ(i + 1, self->lender.state->lent);
		EXPECT_EQ(i, self->lender.state->released);
		ASSERT_TRUE(received(s[1], ZC_LEN, 4096 + 50));
		if (!one) {
			ASSERT_EQ(0, next_with(r, UD_NOTIF, 0,
					       IORING_CQE_F_NOTIF));
		}
		ASSERT_EQ(0, next_is(r, UD_CMD, one ? ZC_LEN : 0));
		ASSERT_TRUE(returned(self, i + 1));
		EXPECT_TRUE(ring_quiet(r));
		close(s[0]);
		close(s[1]);
	}
}

/*
 * Four of them, and room for four CQEs, which have nine. One of them fails, in
 * each way; each has its result, its notification if that says so, and all come
 * before the command.
 */
TEST(send_zc_small_cq)
{
	enum { GOOD, NO_FD, NO_SOCKET, NO_ZC, RANGE, FLAGS, NR_ENDS };
	static const int results[] = {
		ZC_LEN, -EBADF, -ENOTSOCK, -EOPNOTSUPP, -EFAULT, -EINVAL,
	};
	struct io_uring_params p = {
		.flags = IORING_SETUP_SQE128 | IORING_SETUP_CQSIZE |
			 IORING_SETUP_SUBMIT_ALL | IORING_SETUP_NO_SQARRAY,
		.cq_entries = 4,
	};
	unsigned int i, j, n, seen, more, lent = 0;
	struct io_uring_cqe cqe;
	struct lender l = { };
	struct ring r;
	int s[2], u[2], ret;

	if (!SETUP_RING(&r, 8, 0, IORING_OP_FUSED_CMD))
		return;
	ring_exit(&r);
	r.u.ring_fd = io_uring_setup(4, &p);
	ASSERT_LE(0, r.u.ring_fd);
	p.sq_entries *= 2;
	ASSERT_EQ(0, io_uring_mmap(r.u.ring_fd, &p, &r.u.sq, &r.u.cq));
	r.setup = p.flags;
	ret = lender_init(&l);
	if (ret == -ENOENT)
		SKIP(return, "no /dev/io_uring_mock");
	ASSERT_EQ(0, ret);
	fill_pattern(l.mem, MEM, SEED);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, u));
	for (i = 0; i < 2 * 4 * NR_ENDS; i++) {
		unsigned int end = i / 8, which = i % 4, one = i / 4 % 2;
		struct io_uring_sqe *sqe, *m;
		int first = 0;

		ASSERT_EQ(0, zc_pair(s));
		for (j = 0; j < 4; j++) {
			sqe = &r.u.sq.sqes[2 * (r.u.sq.sqe_tail++ & 3)];
			memset(sqe, 0, 2 * sizeof(*sqe));
			m = sqe;
			if (!j) {
				sqe->opcode = IORING_OP_FUSED_CMD;
				sqe->fd = l.fd;
				sqe->cmd_op = IORING_MOCK_CMD_LEND;
				sqe->len = SOURCE;
				sqe->nr_members = 4;
				sqe->fused_flags = one ? IORING_FUSED_ONE_CQE : 0;
				sqe->user_data = UD_CMD;
				lend_of(sqe)->len = MEM;
				m++;
			}
			set_rw(m, IORING_OP_SEND_ZC, s[0], j * ZC_LEN, ZC_LEN, 0);
			m->user_data = UD_MEMBER + j;
			m->addr3 = UD_NOTIF + j;
			m->msg_flags = MSG_WAITALL;
			if (j != which)
				continue;
			if (end == NO_FD)
				m->fd = -1;
			else if (end == NO_SOCKET)
				m->fd = l.fd;
			else if (end == NO_ZC)
				m->fd = u[0];
			else if (end == RANGE)
				m->addr = MEM;
			else if (end == FLAGS)
				m->msg_flags = MSG_ZEROCOPY;
		}
		ASSERT_EQ(4, ring_submit(&r));
		lent += end != FLAGS;
		n = (end == FLAGS ? 0 : end == GOOD ? 4 : 3) * ZC_LEN;
		for (j = 0; j < n; j += ret) {
			unsigned char buf[8192];

			ret = recv(s[1], buf, sizeof(buf), 0);
			ASSERT_LT(0, ret);
			/* task work for what is acknowledged */
			ring_enter(&r, 0, 0, IORING_ENTER_GETEVENTS);
		}
		seen = 0;
		more = 0;
		for (;;) {
			ASSERT_EQ(0, ring_wait(&r, &cqe)) {
				TH_LOG("end %u which %u one %u", end, which, one);
			}
			if (cqe.user_data == UD_CMD)
				break;
			ASSERT_EQ(0, one);
			if (cqe.flags & IORING_CQE_F_NOTIF) {
				j = cqe.user_data - UD_NOTIF;
				ASSERT_NE(0, more & 1 << j);
				more &= ~(1 << j);
				continue;
			}
			j = cqe.user_data - UD_MEMBER;
			ASSERT_EQ(0, seen & 1 << j);
			seen |= 1 << j;
			more |= !!(cqe.flags & IORING_CQE_F_MORE) << j;
			first = end == FLAGS && j != which ? -ECANCELED :
				j != which ? ZC_LEN : results[end];
			ASSERT_EQ(first, cqe.res) {
				TH_LOG("end %u which %u member %u", end, which, j);
			}
		}
		ASSERT_EQ(0, more);
		ASSERT_EQ(one ? 0 : 15, seen);
		first = end == GOOD ? (one ? 4 * ZC_LEN : 0) :
			end == FLAGS && !one ? -ECANCELED : results[end];
		ASSERT_EQ(first, cqe.res) {
			TH_LOG("end %u which %u one %u", end, which, one);
		}
		EXPECT_TRUE(ring_quiet(&r));
		EXPECT_EQ(lent, l.state->released);
		close(s[0]);
		close(s[1]);
	}
	close(u[0]);
	close(u[1]);
	lender_exit(&l);
	munmap(r.u.sq.sqes + 4, 4 * sizeof(struct io_uring_sqe));
	ring_exit(&r);
}

/* The notification of a send that fails, and of one that never began */
TEST_F(fused, send_zc_fails)
{
	struct iovec iov = { (void *)50, ZC_LEN };
	struct msghdr hdr = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct io_uring_sqe *sqe, *m[2];
	struct ring *r = &self->ring;
	const int res[2] = { -ECANCELED, -EINVAL };
	unsigned int i, lent = 0;
	int s[2];

	ASSERT_EQ(0, zc_pair(s));
	for (i = 0; i < 4; i++) {
		bool msg = i & 1, one = i & 2;

		/* no socket, and out of range */
		sqe = fused(self, 0, ZC_LEN, SOURCE);
		sqe->fused_flags = one ? IORING_FUSED_ONE_CQE : 0;
		set_zc(sqe + 1, msg, self->file, &hdr);
		ASSERT_EQ(0, submit(self));
		if (!one) {
			ASSERT_EQ(0, next_with(r, UD_MEMBER, -ENOTSOCK,
					       IORING_CQE_F_MORE));
			ASSERT_EQ(0, next_with(r, UD_NOTIF, 0,
					       IORING_CQE_F_NOTIF));
		}
		ASSERT_EQ(0, next_is(r, UD_CMD, -ENOTSOCK));
		ASSERT_TRUE(returned(self, ++lent));

		sqe = fused(self, 0, ZC_LEN, SOURCE);
		sqe->fused_flags = one ? IORING_FUSED_ONE_CQE : 0;
		set_zc(sqe + 1, msg, s[0], &hdr);
		ASSERT_EQ(0, submit(self));
		if (!one) {
			ASSERT_EQ(0, next_with(r, UD_MEMBER, -EFAULT,
					       IORING_CQE_F_MORE));
			ASSERT_EQ(0, next_with(r, UD_NOTIF, 0,
					       IORING_CQE_F_NOTIF));
		}
		ASSERT_EQ(0, next_is(r, UD_CMD, -EFAULT));
		ASSERT_TRUE(returned(self, ++lent));

		/* never began: nothing to be notified of */
		sqe = fused_set(self, 0, ZC_LEN, SOURCE, 2, m);
		sqe->fused_flags = one ? IORING_FUSED_ONE_CQE : 0;
		set_zc(m[0], msg, s[0], &hdr);
		m[1]->opcode = IORING_OP_READV;
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(0, one ? next_is(r, UD_CMD, -EINVAL) :
				   set_is(self, 2, res, -ECANCELED));
		EXPECT_TRUE(ring_quiet(r));

		/* refused by its own preparation */
		sqe = fused(self, 0, ZC_LEN, SOURCE);
		sqe->fused_flags = one ? IORING_FUSED_ONE_CQE : 0;
		set_zc(sqe + 1, msg, s[0], &hdr);
		sqe[1].ioprio = 1U << 15;
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(0, one ? next_is(r, UD_CMD, -EINVAL) :
				   both(self, -EINVAL, -ECANCELED));
		EXPECT_TRUE(ring_quiet(r));
		ASSERT_TRUE(returned(self, lent));
	}
	close(s[0]);
	close(s[1]);
}

/* It has a request more, which waits as well */
TEST_F(fused, send_zc_drain)
{
	struct iovec iov = { (void *)50, 1000 };
	struct msghdr hdr = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	int s[2];

	fill_pattern(self->lender.mem, MEM, SEED);
	ASSERT_EQ(0, zc_pair(s));
	sqe = sqe64(self, IORING_OP_READ);
	sqe->fd = self->pipe[0];
	sqe->addr = u64_ptr(self->lender.mem + MEM - 1);
	sqe->len = 1;
	sqe->user_data = 10;
	sqe = fused(self, 0, 4096, SOURCE);
	sqe->flags |= IOSQE_IO_DRAIN;
	set_zc(sqe + 1, false, s[0], &hdr);
	ASSERT_EQ(0, submit(self));
	EXPECT_TRUE(ring_quiet(r));
	ASSERT_EQ(1, write(self->pipe[1], "x", 1));
	EXPECT_EQ(0, next_is(r, 10, 1));
	EXPECT_EQ(0, next_with(r, UD_MEMBER, 1000, IORING_CQE_F_MORE));
	EXPECT_TRUE(received(s[1], 1000, 50));
	EXPECT_EQ(0, next_with(r, UD_NOTIF, 0, IORING_CQE_F_NOTIF));
	EXPECT_EQ(0, next_is(r, UD_CMD, 0));
	EXPECT_TRUE(returned(self, 1));
	close(s[0]);
	close(s[1]);
}

/* The sender is killed, and the memory is the network's nevertheless */
TEST_F(fused, send_zc_killed)
{
	unsigned int setup = variant->type.setup | variant->layout;
	struct iovec iov = { (void *)50, ZC_LEN };
	struct msghdr hdr = { .msg_iov = &iov, .msg_iovlen = 1 };
	__u64 end = now_ms() + WAIT_MS;
	int s[2], status, ready[2];
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;
	pid_t pid;
	char c;

	fill_pattern(self->lender.mem, MEM, SEED);
	ASSERT_EQ(0, zc_pair(s));
	ASSERT_EQ(0, pipe(ready));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(s[1]);
		self->sqes = ring_init_128(&self->ring, setup);
		if (!self->sqes)
			_exit(1);
		sqe = fused(self, 0, 2 * ZC_LEN, SOURCE);
		set_zc(sqe + 1, false, s[0], &hdr);
		if (submit(self) || ring_wait(&self->ring, &cqe) ||
		    cqe.res != ZC_LEN || write(ready[1], "x", 1) != 1)
			_exit(1);
		pause();
	}
	close(s[0]);
	close(ready[1]);
	ASSERT_EQ(1, read(ready[0], &c, 1));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	/* an SQPOLL thread waits for the notification before it exits */
	usleep(50000);
	EXPECT_EQ(1, self->lender.state->lent);
	EXPECT_EQ(0, self->lender.state->released);
	EXPECT_TRUE(received(s[1], ZC_LEN, 50));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	while (!returned(self, 1) && now_ms() < end)
		usleep(1000);
	EXPECT_TRUE(returned(self, 1));
	close(ready[0]);
	close(s[1]);
}

static void set_memcpy(struct io_uring_sqe *sqe, unsigned int flags, __u64 dst,
		       __u64 src, unsigned int len)
{
	sqe->opcode = IORING_OP_MEMCPY;
	sqe->memcpy_flags = flags;
	sqe->addr = dst;
	sqe->addr2 = src;
	sqe->len = len;
}

TEST_F(fused, memcpy)
{
	unsigned char *mem = self->lender.mem, *buf;
	struct io_uring_sqe *sqe, *m[2];
	const int res[2] = { 64, 8000 };
	unsigned int i;

	buf = mmap(NULL, 4 * page_size(), PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, buf);

	/* look at a header while the rest is written */
	fill_pattern(mem, MEM, SEED);
	memset(buf, POISON, 4 * page_size());
	sqe = fused_set(self, 100, 9000, SOURCE, 2, m);
	lend_of(sqe)->piece = 33;
	set_memcpy(m[0], IORING_MEMCPY_SRC_FIXED, u64_ptr(buf + 5), 10, 64);
	set_rw(m[1], IORING_OP_WRITE, self->file, 0, 8000, 0);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, set_is(self, 2, res, 0));
	EXPECT_EQ(64, check_pattern_at(buf + 5, 64, 110));
	EXPECT_TRUE(all_bytes(buf, POISON, 5));
	EXPECT_TRUE(all_bytes(buf + 69, POISON, 4 * page_size() - 69));
	EXPECT_TRUE(returned(self, 1));
	ASSERT_EQ(64, pread(self->file, buf, 64, 0));
	EXPECT_EQ(64, check_pattern_at(buf, 64, 100));

	/* fill memory */
	memset(mem, POISON, MEM);
	fill_pattern(buf, 4 * page_size(), SEED);
	sqe = fused(self, 100, 9000, DEST);
	lend_of(sqe)->piece = 33;
	set_memcpy(sqe + 1, IORING_MEMCPY_DST_FIXED, 7, u64_ptr(buf + 9), 8000);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, 8000, 0));
	EXPECT_TRUE(only_at(self, 107, 8000, 9));

	/* user memory ends: a short copy, and zeroes */
	ASSERT_EQ(0, munmap(buf + page_size(), page_size()));
	sqe = fused(self, 0, 9000, DEST);
	set_memcpy(sqe + 1, IORING_MEMCPY_DST_FIXED, 0,
		   u64_ptr(buf + page_size() - 500), 800);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, 500, 0));
	EXPECT_TRUE(all_bytes(mem + 500, 0, 300));
	memset(mem + 500, POISON, 300);
	EXPECT_TRUE(only_at(self, 0, 500, page_size() - 500));
	EXPECT_TRUE(returned(self, 3));

	/* one side has to be lent, no more, by no index, and in range */
	for (i = 0; i < 6; i++) {
		const unsigned int flags[] = {
			0, IORING_MEMCPY_SRC_FIXED | IORING_MEMCPY_DST_FIXED,
			IORING_MEMCPY_SRC_FIXED, IORING_MEMCPY_DST_FIXED,
			IORING_MEMCPY_SRC_FIXED, IORING_MEMCPY_DST_FIXED,
		};
		bool late = i > 3;

		sqe = fused(self, 0, 4096, BOTH);
		set_memcpy(sqe + 1, flags[i], u64_ptr(buf), u64_ptr(buf + 2000),
			   100);
		if (i == 2)
			sqe[1].file_index = 1;
		if (i == 3)
			sqe[1].buf_index = 1;
		if (i == 4)
			sqe[1].addr2 = 4000;
		if (i == 5)
			sqe[1].addr = 4000;
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(0, late ? both(self, -EFAULT, -EFAULT) :
				    both(self, -EINVAL, -ECANCELED));
		EXPECT_EQ(page_size(), check_pattern(buf, page_size(), SEED));
		EXPECT_TRUE(all_bytes(mem, POISON, MEM));
	}
	/* and be lent for that */
	sqe = fused(self, 0, 4096, DEST);
	set_memcpy(sqe + 1, IORING_MEMCPY_SRC_FIXED, u64_ptr(buf), 0, 100);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, -EFAULT, -EFAULT));
	sqe = fused(self, 0, 4096, SOURCE);
	set_memcpy(sqe + 1, IORING_MEMCPY_DST_FIXED, 0, u64_ptr(buf), 100);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, -EFAULT, -EFAULT));
	EXPECT_TRUE(all_bytes(mem, POISON, MEM));
	EXPECT_TRUE(returned(self, 7));
	munmap(buf, page_size());
	munmap(buf + 2 * page_size(), 2 * page_size());
}

/* A command to the mock file: copy the range @iov from or to @user */
static void set_copy(struct _test_data_fused *self, struct io_uring_sqe *sqe,
		     const struct iovec *iov, void *user, unsigned int flags)
{
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = self->lender.fd;
	sqe->cmd_op = IORING_MOCK_CMD_COPY_REGBUF;
	sqe->addr = u64_ptr(iov);
	sqe->len = 1;
	sqe->addr3 = u64_ptr(user);
	sqe->file_index = flags;
}

/*
 * A multishot request posts a CQE in the middle of being issued, which flushes
 * completions. It isn't the time to start members that wait for that: they
 * would run with its credentials.
 */
TEST_F(fused, behind_multishot)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(sa.sun_family);
	int listener, client, who, i, size = 65536;
	struct io_uring_sqe *sqe, *m[2];
	struct io_uring_cqe cqe;

	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	/* a name that nobody has */
	ASSERT_EQ(0, bind(listener, (struct sockaddr *)&sa, len));
	ASSERT_EQ(0, listen(listener, 1));
	len = sizeof(sa);
	ASSERT_EQ(0, getsockname(listener, (struct sockaddr *)&sa, &len));
	ASSERT_EQ(0, connect(client, (struct sockaddr *)&sa, len));
	ASSERT_EQ(0, seteuid(65534));
	who = ring_register(&self->ring, IORING_REGISTER_PERSONALITY, NULL, 0);
	ASSERT_EQ(0, seteuid(0));
	ASSERT_LT(0, who);

	sqe64(self, IORING_OP_NOP)->user_data = 100;
	fused_set(self, 0, 4096, DEST, 2, m);
	set_rw(m[0], IORING_OP_READ, self->file, 0, 4096, 0);
	/* something that takes a capability */
	m[1]->opcode = IORING_OP_URING_CMD;
	m[1]->fd = client;
	m[1]->cmd_op = SOCKET_URING_OP_SETSOCKOPT;
	m[1]->level = SOL_SOCKET;
	m[1]->optname = SO_SNDBUFFORCE;
	m[1]->optval = u64_ptr(&size);
	m[1]->optlen = sizeof(size);
	sqe = sqe64(self, IORING_OP_ACCEPT);
	sqe->fd = listener;
	sqe->ioprio = IORING_ACCEPT_MULTISHOT;
	sqe->personality = who;
	sqe->user_data = 101;
	ASSERT_EQ(0, submit(self));
	for (i = 0; i < 5; i++) {
		ASSERT_EQ(0, ring_wait(&self->ring, &cqe));
		if (cqe.user_data == 101) {
			EXPECT_EQ(IORING_CQE_F_MORE, cqe.flags);
			EXPECT_EQ(0, close(cqe.res));
			continue;
		}
		EXPECT_EQ(cqe.user_data == UD_MEMBER ? 4096 : 0, cqe.res);
	}
	EXPECT_EQ(4096, check_pattern(self->lender.mem, 4096, SEED));
	EXPECT_TRUE(returned(self, 1));
	close(listener);
	close(client);
}

/* Members that are commands, with SQEs that are read once */
TEST_F(fused, uring_cmd)
{
	struct iovec to = { (void *)100, 5000 }, from = { (void *)8000, 300 };
	unsigned char in[5000], out[300 + GUARD];
	struct io_uring_sqe *sqe, *m[3];
	unsigned int i;

	for (i = 0; i < 2; i++) {
		fill_pattern(in, sizeof(in), SEED + 1);
		fill_pattern(self->lender.mem + 4096, 16384, SEED);
		memset(out, POISON, sizeof(out));
		sqe = fused_set(self, 4096, 16384, BOTH, 3, m);
		sqe->fused_flags = i ? IORING_FUSED_ONE_CQE : 0;
		/* issued when all of them are long overwritten */
		lend_of(sqe)->delay_us = 30000;
		set_copy(self, m[1], &to, in, 0);
		set_copy(self, m[2], &from, out, IORING_MOCK_COPY_FROM);
		ASSERT_EQ(0, submit(self));
		if (!(self->ring.setup & IORING_SETUP_SQPOLL)) {
			memset(m[1], 0xff, sizeof(*sqe));
			memset(m[2], 0xff, sizeof(*sqe));
		}
		/* nobody but their driver knows what 5000 and 300 are */
		EXPECT_EQ(0, i ? next_is(&self->ring, UD_CMD, -EIO) :
				 set_is(self, 3, (int []){ 0, 5000, 300 }, 0));
		EXPECT_TRUE(returned(self, i + 1));
		EXPECT_EQ(5000, check_pattern(self->lender.mem + 4196, 5000,
					      SEED + 1));
		EXPECT_EQ(300, check_pattern_at(out, 300, 8000));
		EXPECT_TRUE(all_bytes(out + 300, POISON, GUARD));
		EXPECT_EQ(100, check_pattern(self->lender.mem + 4096, 100,
					     SEED));
		EXPECT_TRUE(all_bytes(self->lender.mem, POISON, 4096));
		memset(self->lender.mem, POISON, MEM);
	}
}

/* They get at the memory as all others do, or not */
TEST_F(fused, uring_cmd_refused)
{
	struct iovec iov = { NULL, 4096 };
	unsigned char user[4096];
	struct io_uring_sqe *m[2];
	unsigned int i;

	static const struct {
		unsigned int lend, cmd_op, flags;
		uintptr_t off;
		int res;
		bool early;
	} bad[] = {
		{ DEST, IORING_MOCK_CMD_COPY_REGBUF, 0, 4097, -EFAULT },
		{ SOURCE, IORING_MOCK_CMD_COPY_REGBUF, 0, 0, -EFAULT },
		{ DEST, IORING_MOCK_CMD_LEND, 0, 0, -EOPNOTSUPP },
		{ DEST, IORING_MOCK_CMD_COPY_REGBUF,
		  IORING_URING_CMD_MULTISHOT, 0, -EINVAL, true },
		{ DEST, IORING_MOCK_CMD_COPY_REGBUF, 1U << 29, 0, -EINVAL,
		  true },
	};

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		iov.iov_base = (void *)bad[i].off;
		fused_set(self, 0, 8192, bad[i].lend, 2, m);
		set_copy(self, m[1], &iov, user, 0);
		m[1]->cmd_op = bad[i].cmd_op;
		m[1]->uring_cmd_flags = bad[i].flags;
		ASSERT_EQ(0, submit(self));
		EXPECT_EQ(0, set_is(self, 2, (int []){
				bad[i].early ? -ECANCELED : 0, bad[i].res },
				bad[i].early ? -ECANCELED : bad[i].res));
		EXPECT_EQ(self->lender.state->lent,
			  self->lender.state->released);
		EXPECT_TRUE(all_bytes(self->lender.mem, POISON, MEM));
	}
}

/* A command of the kind that makes itself one that goes on for ever */
TEST(uring_cmd_multishot)
{
	struct _test_data_fused data = { .layout = IORING_SETUP_SQE128 };
	struct _test_data_fused *self = &data;
	struct io_uring_sqe *m[2];
	struct ring r;
	int sock;

	if (!SETUP_RING(&r, 8, 0, IORING_OP_FUSED_CMD))
		return;
	ring_exit(&r);
	self->sqes = ring_init_128(&self->ring, IORING_SETUP_SQE128 |
				   IORING_SETUP_CQE_MIXED);
	ASSERT_NE(NULL, self->sqes);
	ASSERT_EQ(0, lender_init(&self->lender));
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ASSERT_LE(0, sock);
	fused_set(self, 0, 4096, DEST, 2, m);
	m[1]->opcode = IORING_OP_URING_CMD;
	m[1]->fd = sock;
	m[1]->cmd_op = SOCKET_URING_OP_TX_TIMESTAMP;
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, set_is(self, 2, (int []){ 0, -EINVAL }, -EINVAL));
	EXPECT_TRUE(returned(self, 1));
	close(sock);
	ring_exit_128(&self->ring);
	lender_exit(&self->lender);
}

/* How much is filled from the start of the memory, for the driver to act on */
TEST_F(fused, filled)
{
	static const struct {
		/* in the memory, and in the file */
		struct { unsigned int addr, len, pos; } r[3];
		int res;
	} cases[] = {
		{ { { 0, 4096, 0 }, { 4096, 4096, 0 } }, 8192 },
		{ { { 0, 4096, 0 }, { 4096, 4096, 0 }, { 8192, 1, 0 } }, 8193 },
		/* gaps */
		{ { { 0, 4096, 0 }, { 4097, 4095, 0 } }, 4096 },
		{ { { 1, 4096, 0 } }, 0 },
		/* the end of the file */
		{ { { 0, LEN + 1000, 0 } }, LEN },
		{ { { 0, 1000, LEN } }, 0 },
		{ { { 0, LEN + 1000, 0 }, { LEN + 1000, 1000, 0 } }, LEN },
		/* not a byte more than there is */
		{ { { 0, 16384, 0 }, { 16384, 16384, 0 } }, 32768 },
		{ { { 0, 4096, 0 }, { 32768, 1, 0 } }, -EFAULT },
	};
	struct io_uring_sqe *sqe, *m[3];
	unsigned int i, j, nr;

	for (i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
		const typeof(cases[0]) *c = &cases[i / 2];

		for (nr = 1; nr < 3 && c->r[nr].len; nr++)
			;
		sqe = fused_set(self, 512, 32768,
				DEST | IORING_MOCK_LEND_RESULT, nr, m);
		for (j = 0; j < nr; j++)
			set_rw(m[j], IORING_OP_READ, self->file, c->r[j].addr,
			       c->r[j].len, c->r[j].pos);
		if (i % 2)
			sqe->fused_flags = IORING_FUSED_ONE_CQE;
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(0, next_of(&self->ring, UD_CMD, c->res,
				     i % 2 ? 0 : nr)) {
			TH_LOG("%u", i / 2);
		}
		ASSERT_TRUE(returned(self, i + 1));
	}
}

/* The same for ranges of a vector */
TEST_F(fused, filled_vectors)
{
	struct iovec iov[3] = {
		{ (void *)0, 3000 }, { (void *)3000, 3000 },
		{ (void *)6000, 3000 },
	};
	struct io_uring_sqe *sqe, *m[2];
	unsigned int i;

	/* as far as the file goes */
	for (i = 0; i < 4; i++) {
		const int has[] = { 9000, 8999, 6000, 2999 };

		sqe = fused(self, 0, 16384, DEST | IORING_MOCK_LEND_RESULT);
		member_rw(sqe, IORING_OP_READV_FIXED, self->file, 0, 3,
			  LEN - has[i]);
		sqe[1].addr = u64_ptr(iov);
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(0, both(self, has[i], has[i]));
	}

	/* two vectors, one behind the other, and a hole */
	for (i = 0; i < 2; i++) {
		struct iovec v[2][4];
		unsigned int j;

		for (j = 0; j < 8; j++)
			v[j / 4][j % 4] = (struct iovec) {
				(void *)(uintptr_t)(j * 100), 100,
			};
		v[1][1].iov_len -= i;
		sqe = fused_set(self, 0, 4096, DEST | IORING_MOCK_LEND_RESULT,
				2, m);
		sqe->fused_flags = IORING_FUSED_ONE_CQE;
		for (j = 0; j < 2; j++) {
			set_rw(m[j], IORING_OP_READV_FIXED, self->file, 0, 4, 0);
			m[j]->addr = u64_ptr(v[j]);
		}
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(0, next_is(&self->ring, UD_CMD, i ? 599 : 800));
	}

	/* a NOP fills nothing, whatever it says */
	sqe = fused(self, 0, 4096, DEST | IORING_MOCK_LEND_RESULT);
	sqe->fused_flags = IORING_FUSED_ONE_CQE;
	sqe[1].nop_flags = IORING_NOP_INJECT_RESULT;
	sqe[1].len = 4096;
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, next_is(&self->ring, UD_CMD, 0));
	EXPECT_TRUE(returned(self, 7));
}

/*
 * Members that fill memory have an order, with each other and within a vector.
 * The first one that is out of it is refused, and with it the command.
 */
TEST_F(fused, order)
{
	static const struct {
		struct { unsigned long addr, len; } r[3];
		unsigned int vec;	/* that many ranges are one vector */
		int bad;		/* which member is, or -1 */
	} cases[] = {
		{ { { 0, 100 }, { 100, 100 }, { 200, 100 } }, 0, -1 },
		{ { { 0, 100 }, { 100, 100 }, { 199, 100 } }, 0, 2 },
		{ { { 0, 100 }, { 99, 1 }, { 200, 100 } }, 0, 1 },
		{ { { 0, 100 }, { 0, 100 }, { 100, 100 } }, 0, 1 },
		{ { { 200, 100 }, { 100, 100 }, { 300, 100 } }, 0, 1 },
		{ { { 50, 100 }, { 0, 0 }, { 150, 100 } }, 0, -1 },
		{ { { 0, 100 }, { -1UL, 100 }, { 300, 100 } }, 0, 2 },
		{ { { 0, 100 }, { 100, 100 }, { 200, 100 } }, 2, -1 },
		{ { { 0, 100 }, { 100, 100 }, { 200, 100 } }, 3, -1 },
		{ { { 0, 100 }, { 200, 100 }, { 200, 100 } }, 2, 1 },
		{ { { 0, 100 }, { 200, 100 }, { 299, 1 } }, 3, 0 },
		{ { { 100, 100 }, { 0, 100 }, { 200, 100 } }, 2, 0 },
	};
	struct io_uring_sqe *sqe, *m[3];
	unsigned int i, j, k, nr, lent = 0;
	struct iovec iov[3];
	int res[3];

	for (i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
		const typeof(cases[0]) *c = &cases[i / 2];
		unsigned int one = i & 1;

		nr = c->vec ? 4 - c->vec : 3;
		sqe = fused_set(self, 0, 4096, DEST, nr, m);
		sqe->fused_flags = one ? IORING_FUSED_ONE_CQE : 0;
		for (j = 0, k = 0; j < nr; j++) {
			set_rw(m[j], IORING_OP_READ, self->file, c->r[k].addr,
			       c->r[k].len, 0);
			m[j]->addr = c->r[k].addr;
			res[j] = c->bad < 0 ? (int)c->r[k].len : -ECANCELED;
			if (j || !c->vec) {
				k++;
				continue;
			}
			for (; k < c->vec; k++)
				iov[k] = (struct iovec) {
					(void *)c->r[k].addr, c->r[k].len,
				};
			m[0]->opcode = IORING_OP_READV_FIXED;
			m[0]->addr = u64_ptr(iov);
			m[0]->len = c->vec;
			if (c->bad < 0)
				res[0] = c->vec * 100;
		}
		if (c->bad >= 0)
			res[c->bad] = -EINVAL;
		lent += c->bad < 0;
		sqe64(self, IORING_OP_NOP)->user_data = 100;
		ASSERT_EQ(0, submit(self));
		TH_LOG("%u", i / 2);
		if (one) {
			int sum = c->bad < 0 ? 0 : -EINVAL;

			for (j = 0; j < nr && c->bad < 0; j++)
				sum += res[j];
			ASSERT_EQ(0, next_of(&self->ring, UD_CMD, sum, 1));
		} else {
			bool nop = false;

			/* the NOP is behind it, not in it */
			for (j = 0; j < nr + 2; j++) {
				struct io_uring_cqe cqe;

				ASSERT_EQ(0, ring_wait(&self->ring, &cqe));
				if (cqe.user_data == 100) {
					ASSERT_EQ(0, cqe.res);
					nop = true;
				} else if (cqe.user_data == UD_CMD) {
					ASSERT_EQ(c->bad < 0 ? 0 : -ECANCELED,
						  cqe.res);
				} else {
					ASSERT_EQ(res[cqe.user_data - UD_MEMBER],
						  cqe.res);
				}
			}
			ASSERT_TRUE(nop);
		}
		ASSERT_TRUE(returned(self, lent));
	}
	EXPECT_TRUE(ring_quiet(&self->ring));

	/* those that take it may do so in any order, and twice */
	fill_pattern(self->lender.mem, MEM, SEED);
	sqe = fused_set(self, 0, 4096, SOURCE, 3, m);
	for (j = 0; j < 3; j++)
		set_rw(m[j], IORING_OP_WRITE, self->file, 1000 - 500 * j, 1000,
		       1000 - 500 * j);
	ASSERT_EQ(0, submit(self));
	for (j = 0; j < 3; j++)
		res[j] = 1000;
	ASSERT_EQ(0, set_is(self, 3, res, 0));
	EXPECT_TRUE(returned(self, lent + 1));
}

/* Memory that is to be taken was taken, all of it or not */
TEST_F(fused, taken)
{
	struct iovec iov = { (void *)0, MEM };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct iovec half[2] = {
		{ (void *)0, MEM / 2 }, { (void *)(MEM / 2), MEM / 2 },
	};
	struct io_uring_sqe *sqe, *m[2];
	int s[2], small = 4096;
	char copy[100];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	sqe = fused_set(self, 0, MEM, SOURCE | IORING_MOCK_LEND_RESULT, 2, m);
	sqe->fused_flags = IORING_FUSED_ONE_CQE;
	set_rw(m[0], IORING_OP_WRITE, self->file, 0, LEN, 0);
	m[1]->opcode = IORING_OP_MEMCPY;
	m[1]->memcpy_flags = IORING_MEMCPY_SRC_FIXED;
	m[1]->addr = u64_ptr(copy);
	m[1]->len = sizeof(copy);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, next_is(&self->ring, UD_CMD, 0));

	/* as much as fits */
	sqe = fused_set(self, 0, MEM, SOURCE | IORING_MOCK_LEND_RESULT, 2, m);
	sqe->fused_flags = IORING_FUSED_ONE_CQE;
	set_rw(m[0], IORING_OP_WRITE, self->file, 0, LEN, 0);
	set_rw(m[1], IORING_OP_SEND, s[0], 0, MEM, 0);
	m[1]->msg_flags = MSG_DONTWAIT;
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, next_is(&self->ring, UD_CMD, -EIO));
	close(s[0]);
	close(s[1]);

	/* that much of two ranges, which isn't more than two bytes for that */
	ASSERT_EQ(0, zc_pair(s));
	ASSERT_EQ(0, setsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &small,
				sizeof(small)));
	sqe = fused(self, 0, MEM, SOURCE | IORING_MOCK_LEND_RESULT);
	sqe->fused_flags = IORING_FUSED_ONE_CQE;
	member_rw(sqe, IORING_OP_SEND_ZC, s[0], 0, 2, 0);
	sqe[1].addr = u64_ptr(half);
	sqe[1].ioprio = IORING_SEND_VECTORIZED;
	sqe[1].msg_flags = MSG_DONTWAIT;
	ASSERT_EQ(0, submit(self));
	/* the rest of it has to be gone before the command is done */
	usleep(50000);
	close(s[1]);
	EXPECT_EQ(0, next_is(&self->ring, UD_CMD, -EIO));
	close(s[0]);

	/* nothing at all */
	sqe = fused(self, 0, 4096, SOURCE | IORING_MOCK_LEND_RESULT);
	sqe->fused_flags = IORING_FUSED_ONE_CQE;
	member_rw(sqe, IORING_OP_SENDMSG_ZC, self->pipe[1], 0, 1, 0);
	sqe[1].addr = u64_ptr(&msg);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, next_is(&self->ring, UD_CMD, -ENOTSOCK));
	EXPECT_TRUE(returned(self, 4));
}

/* A mock file that has no memory to lend, and so doesn't say that it does */
TEST_F(fused, no_lender)
{
	int fd = mock_create(0, 0);

	ASSERT_LE(0, fd);
	fused(self, 0, 4096, DEST)->fd = fd;
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, -ECANCELED, -EOPNOTSUPP));
	close(fd);
}

/* What was submitted counts, not what the SQE is overwritten with */
TEST_F(fused, overwritten)
{
	struct io_uring_sqe *sqe;

	sqe = fused(self, 0, 8192, DEST);
	lend_of(sqe)->delay_us = 50000;
	member_rw(sqe, IORING_OP_READ, self->file, 100, 4096, 9);
	ASSERT_EQ(0, submit(self));
	memset(sqe, 0xff, 2 * sizeof(*sqe));
	EXPECT_EQ(0, both(self, 4096, 0));
	EXPECT_TRUE(only_at(self, 100, 4096, 9));
}

TEST_F(fused, link)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;

	/* in the middle: starts after one, and ends before the other */
	sqe = sqe64(self, IORING_OP_READ);
	sqe->fd = self->pipe[0];
	sqe->addr = u64_ptr(self->lender.mem + MEM - 1);
	sqe->len = 1;
	sqe->user_data = 10;
	sqe->flags |= IOSQE_IO_LINK;
	sqe = fused(self, 0, 4096, DEST);
	lend_of(sqe)->delay_us = 20000;
	member_rw(sqe, IORING_OP_READ, self->file, 0, 4096, 0);
	sqe->flags |= IOSQE_IO_LINK;
	sqe64(self, IORING_OP_NOP)->user_data = 11;
	ASSERT_EQ(0, submit(self));
	EXPECT_TRUE(ring_quiet(r));
	EXPECT_TRUE(returned(self, 0));
	ASSERT_EQ(1, write(self->pipe[1], "\xa5", 1));
	EXPECT_EQ(0, next_is(r, 10, 1));
	EXPECT_EQ(0, both(self, 4096, 0));
	EXPECT_EQ(0, next_is(r, 11, 0));
	EXPECT_TRUE(only_at(self, 0, 4096, 0));

	/* a member that fails ends a link, and not a hard one */
	sqe = fused(self, 0, 4096, DEST);
	member_rw(sqe, IORING_OP_READ, self->file, 1, 4096, 0);
	sqe->flags |= IOSQE_IO_LINK;
	sqe64(self, IORING_OP_NOP)->user_data = 12;
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, -EFAULT, -EFAULT));
	EXPECT_EQ(0, next_is(r, 12, -ECANCELED));
	sqe = fused(self, 0, 4096, DEST);
	member_rw(sqe, IORING_OP_READ, self->file, 1, 4096, 0);
	sqe->flags |= IOSQE_IO_HARDLINK;
	sqe64(self, IORING_OP_NOP)->user_data = 13;
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, -EFAULT, -EFAULT));
	EXPECT_EQ(0, next_is(r, 13, 0));

	/* what was before has failed: nothing is lent */
	sqe = sqe64(self, IORING_OP_NOP);
	sqe->nop_flags = IORING_NOP_INJECT_RESULT;
	sqe->len = -EIO;
	sqe->user_data = 14;
	sqe->flags |= IOSQE_IO_LINK;
	fused(self, 0, 4096, DEST);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, next_is(r, 14, -EIO));
	EXPECT_EQ(0, both(self, -ECANCELED, -ECANCELED));
	EXPECT_TRUE(returned(self, 3));

	/* a set that is refused within a link */
	sqe = sqe64(self, IORING_OP_NOP);
	sqe->user_data = 15;
	sqe->flags |= IOSQE_IO_LINK;
	sqe = fused(self, 0, 4096, DEST);
	sqe[1].buf_index = 1;
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, next_is(r, 15, -ECANCELED));
	EXPECT_EQ(0, both(self, -EINVAL, -ECANCELED));
	EXPECT_TRUE(returned(self, 3));
	EXPECT_TRUE(ring_quiet(r));
}

/* There is no way to cancel a fused command, so it can't have a timeout */
static bool canceled(int res)
{
	return res == -ECANCELED || res == -EINTR;
}

/* The time of a command is that of its members */
TEST_F(fused, link_timeout)
{
	struct __kernel_timespec ts = { .tv_nsec = 20000000 };
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;
	unsigned int i, j;

	for (i = 0; i < 4; i++) {
		/*
		 * expires before anything is started, when all waits, never,
		 * and while the driver has lent nothing yet
		 */
		ts.tv_sec = i == 2 ? 100 : 0;
		ts.tv_nsec = i == 1 ? 20000000 : 0;
		sqe = fused(self, 0, 4096, DEST);
		sqe->flags |= IOSQE_IO_LINK;
		if (i == 3)
			lend_of(sqe)->delay_us = 50000;
		if (i != 2)
			member_rw(sqe, IORING_OP_READ, self->pipe[0], 0, 16, 0);
		sqe = sqe64(self, IORING_OP_LINK_TIMEOUT);
		sqe->addr = u64_ptr(&ts);
		sqe->len = 1;
		sqe->user_data = 3;
		ASSERT_EQ(0, submit(self));
		for (j = 0; j < 3; j++) {
			bool ok;

			ASSERT_EQ(0, ring_wait(r, &cqe));
			if (i == 2)
				ok = cqe.res == (cqe.user_data == 3 ?
						 -ECANCELED : 0);
			else if (cqe.user_data == 3)
				ok = cqe.res == -ETIME ||
				     cqe.res == -EALREADY;
			else
				ok = canceled(cqe.res);
			ASSERT_TRUE(ok) {
				TH_LOG("%u: %llu %d", i, cqe.user_data, cqe.res);
			}
		}
		ASSERT_TRUE(returned(self, i + 1));
	}
}

/* As soon as it is cancelled, although there are no members to cancel yet */
TEST_F(fused, cancel_early)
{
	struct ring *r = &self->ring;
	unsigned int i, j, tries = 0;
	__u32 delay_us = 100000;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;

	for (i = 0; i < 2; ) {
		sqe = fused(self, 0, 4096, DEST);
		lend_of(sqe)->delay_us = delay_us;
		member_rw(sqe, IORING_OP_READ, self->pipe[0], 0, 16, 0);
		ASSERT_EQ(0, submit(self));
		EXPECT_TRUE(ring_quiet(r));
		sqe = sqe64(self, IORING_OP_ASYNC_CANCEL);
		sqe->addr = UD_CMD;
		sqe->cancel_flags = i ? IORING_ASYNC_CANCEL_ALL : 0;
		sqe->flags = 0;
		sqe->user_data = 3;
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(0, ring_wait(r, &cqe));
		/* a busy host takes longer: then it was not early */
		if (self->lender.state->lent != tries && delay_us < 1000000) {
			delay_us = 1000000;
			ASSERT_EQ(0, ring_wait(r, &cqe));
			ASSERT_EQ(0, ring_wait(r, &cqe));
			EXPECT_TRUE(returned(self, ++tries));
			continue;
		}
		for (j = 0; j < 3; j++) {
			if (j)
				ASSERT_EQ(0, ring_wait(r, &cqe));
			EXPECT_EQ(cqe.user_data != 3 ? -ECANCELED :
				  i ? 1 : -EALREADY, cqe.res);
		}
		EXPECT_TRUE(returned(self, ++tries));
		i++;
	}
}

/* Who waits for several CQEs gets up when there are as many, and not later */
TEST_F(fused, wakes)
{
	struct __kernel_timespec ts = { .tv_sec = 5 };
	struct io_uring_getevents_arg arg = { .ts = u64_ptr(&ts) };
	struct itimerspec in = { .it_value.tv_nsec = 20000000 };
	unsigned int i, flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
	int slow = mock_create(0, 20000000), timer;
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;
	__u64 began;

	ASSERT_LE(0, slow);
	timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	ASSERT_LE(0, timer);
	for (i = 0; i < 3; i++) {
		/* completed by interrupts, polled; and one that starts others */
		sqe = fused(self, 0, 4096, DEST);
		if (i == 1)
			member_rw(sqe, IORING_OP_READ, timer, 0, 8, 0);
		else
			member_rw(sqe, IORING_OP_READ, slow, 0, 16, 0);
		if (i == 2) {
			sqe->fused_flags = IORING_FUSED_ONE_CQE;
			sqe->flags |= IOSQE_IO_LINK;
			sqe64(self, IORING_OP_NOP);
		}
		began = now_ms();
		ASSERT_EQ(0, timerfd_settime(timer, 0, &in, NULL));
		ASSERT_EQ(0, submit(self));
		syscall(__NR_io_uring_enter, r->u.ring_fd, 0, 2, flags, &arg,
			sizeof(arg));
		EXPECT_LE(2, ring_ready(r));
		EXPECT_GT(2000, now_ms() - began);
		ASSERT_EQ(0, ring_wait(r, &cqe));
		ASSERT_EQ(0, ring_wait(r, &cqe));
	}
	close(timer);
	close(slow);
}

TEST_F(fused, drain)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	char byte;

	/* waits, and is waited for */
	sqe = sqe64(self, IORING_OP_READ);
	sqe->fd = self->pipe[0];
	sqe->addr = u64_ptr(&byte);
	sqe->len = 1;
	sqe->user_data = 10;
	sqe = fused(self, 0, 4096, DEST);
	sqe->flags |= IOSQE_IO_DRAIN;
	lend_of(sqe)->delay_us = 10000;
	member_rw(sqe, IORING_OP_READ, self->file, 0, 4096, 0);
	sqe = sqe64(self, IORING_OP_NOP);
	sqe->flags |= IOSQE_IO_DRAIN;
	sqe->user_data = 11;
	/* deferred for no flag of its own */
	sqe = fused(self, 4096, 4096, DEST);
	member_rw(sqe, IORING_OP_READ, self->file, 0, 4096, 4096);
	ASSERT_EQ(0, submit(self));
	EXPECT_TRUE(ring_quiet(r));
	EXPECT_TRUE(returned(self, 0));
	ASSERT_EQ(1, write(self->pipe[1], "x", 1));
	EXPECT_EQ(0, next_is(r, 10, 1));
	ASSERT_EQ(0, both(self, 4096, 0));
	ASSERT_EQ(0, next_is(r, 11, 0));
	ASSERT_EQ(0, both(self, 4096, 0));
	EXPECT_TRUE(only_at(self, 0, 8192, 0));
	EXPECT_TRUE(returned(self, 2));
}

/* IOSQE_ASYNC on either half */
TEST_F(fused, async)
{
	struct io_uring_sqe *sqe;
	unsigned int i;

	for (i = 0; i < 4; i++) {
		sqe = fused(self, 0, 4096, DEST);
		member_rw(sqe, IORING_OP_READ, self->file, 0, 4096, i);
		sqe->flags = i & 1 ? IOSQE_ASYNC : 0;
		sqe[1].flags = i & 2 ? IOSQE_ASYNC : 0;
		ASSERT_EQ(0, submit(self));
		EXPECT_EQ(0, both(self, 4096, 0));
		EXPECT_TRUE(only_at(self, 0, 4096, i));
		EXPECT_TRUE(returned(self, i + 1));
	}
}

static int cancel_member(struct _test_data_fused *self)
{
	struct io_uring_sqe *sqe = sqe64(self, IORING_OP_ASYNC_CANCEL);

	sqe->addr = UD_MEMBER;
	sqe->flags = 0;
	sqe->user_data = 3;
	return submit(self);
}

TEST_F(fused, cancel)
{
	struct ring *r = &self->ring;
	struct io_uring_cqe cqe;
	struct io_uring_sqe *sqe;
	unsigned int i, tries = 0;

	sqe = fused(self, 0, 4096, DEST);
	member_rw(sqe, IORING_OP_READ, self->pipe[0], 0, 16, 0);
	ASSERT_EQ(0, submit(self));
	EXPECT_TRUE(ring_quiet(r));
	ASSERT_EQ(0, cancel_member(self));
	for (i = 0; i < 3; ) {
		ASSERT_EQ(0, ring_wait(r, &cqe));
		/* a worker may not have lent anything yet, on a busy host */
		if (cqe.user_data == 3 && cqe.res == -ENOENT && tries++ < 100) {
			EXPECT_TRUE(ring_quiet(r));
			ASSERT_EQ(0, cancel_member(self));
			continue;
		}
		EXPECT_TRUE(cqe.user_data == 3 ?
			    cqe.res == 0 || cqe.res == -EALREADY :
			    cqe.res == -ECANCELED || cqe.res == -EINTR);
		i++;
	}
	EXPECT_TRUE(returned(self, 1));
}

/* Whether fdinfo has a line, or has none, of a command with UD_CMD */
static bool fdinfo_has(struct ring *r, const char *want)
{
	__u64 end = now_ms() + WAIT_MS / 4;
	bool whole = false, found = false;
	char path[64], line[256];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", r->u.ring_fd);
	/* it is short while the ring is locked */
	while (!whole && now_ms() < end) {
		f = fopen(path, "r");
		while (f && fgets(line, sizeof(line), f)) {
			whole |= !strcmp(line, "FusedList:\n");
			if (whole && strstr(line, "user_data=1,"))
				found = want && strstr(line, want);
		}
		if (f)
			fclose(f);
	}
	return whole && found == !!want;
}

TEST_F(fused, fdinfo)
{
	struct ring *r = &self->ring;
	struct io_uring_cqe cqe;
	struct io_uring_sqe *m[3];
	unsigned int i;

	EXPECT_TRUE(fdinfo_has(r, NULL));
	fused_set(self, 0, 4096, DEST, 3, m);
	for (i = 1; i < 3; i++)
		set_rw(m[i], IORING_OP_READ, self->pipe[0], i, 1, 0);
	ASSERT_EQ(0, submit(self));
	ASSERT_EQ(0, next_is(r, UD_MEMBER, 0));
	EXPECT_TRUE(fdinfo_has(r, "members=3, left=2"));
	ASSERT_EQ(2, write(self->pipe[1], "xy", 2));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(0, ring_wait(r, &cqe));
	EXPECT_TRUE(fdinfo_has(r, NULL));
}

/* Whatever names the command means its members, and no others */
TEST_F(fused, cancel_command)
{
	static const unsigned int flags[] = {
		0, IORING_ASYNC_CANCEL_ALL, IORING_ASYNC_CANCEL_FD,
		IORING_ASYNC_CANCEL_OP, IORING_ASYNC_CANCEL_ANY,
		/* the same user_data everywhere */
		0,
	};
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe, *m[3];
	struct io_uring_cqe cqe;
	unsigned int i, j, nr;
	int found;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		bool same = i == ARRAY_SIZE(flags) - 1;

		sqe = fused_set(self, 0, 4096, DEST, 3, m);
		for (j = 0; j < 3; j++) {
			if (j)
				set_rw(m[j], IORING_OP_READ, self->pipe[0],
				       16 * j, 16, 0);
			if (same)
				m[j]->user_data = UD_CMD;
		}
		/* of no command, and of no concern */
		sqe = sqe64(self, IORING_OP_POLL_ADD);
		sqe->fd = self->pipe[0];
		sqe->poll32_events = POLLIN;
		sqe->user_data = 101;
		sqe->flags = 0;
		ASSERT_EQ(0, submit(self));
		EXPECT_EQ(0, next_is(r, same ? UD_CMD : UD_MEMBER, 0));
		EXPECT_TRUE(ring_quiet(r));

		sqe = sqe64(self, IORING_OP_ASYNC_CANCEL);
		sqe->cancel_flags = flags[i];
		if (flags[i] & IORING_ASYNC_CANCEL_FD)
			sqe->fd = self->lender.fd;
		else if (flags[i] & IORING_ASYNC_CANCEL_OP)
			sqe->len = IORING_OP_FUSED_CMD;
		else
			sqe->addr = UD_CMD;
		sqe->flags = 0;
		sqe->user_data = 100;
		ASSERT_EQ(0, submit(self));
		nr = flags[i] & IORING_ASYNC_CANCEL_ANY ? 5 : 4;
		for (j = 0, found = -ENOENT; j < nr; j++) {
			ASSERT_EQ(0, ring_wait(r, &cqe));
			if (cqe.user_data == 100)
				found = cqe.res;
			else
				EXPECT_TRUE(canceled(cqe.res));
		}
		if (flags[i] & (IORING_ASYNC_CANCEL_ALL |
				IORING_ASYNC_CANCEL_ANY)) {
			EXPECT_LE(1, found);
		} else {
			EXPECT_TRUE(found == 0 || found == -EALREADY);
		}
		EXPECT_TRUE(returned(self, i + 1));
		EXPECT_TRUE(ring_quiet(r));
		if (nr == 5)
			continue;
		sqe = sqe64(self, IORING_OP_ASYNC_CANCEL);
		sqe->addr = 101;
		sqe->flags = 0;
		sqe->user_data = 100;
		ASSERT_EQ(0, submit(self));
		for (j = 0; j < 2; j++) {
			ASSERT_EQ(0, ring_wait(r, &cqe));
			EXPECT_EQ(cqe.user_data == 100 ? 0 : -ECANCELED, cqe.res);
		}
	}
}

/* More than the CQ has room for */
TEST_F(fused, many)
{
	unsigned int i, n, seen = 0;
	struct io_uring_cqe cqe;
	struct io_uring_sqe *sqe;

	for (n = 0; n < 8; n++) {
		for (i = 0; i < RING_ENTRIES / 2; i++) {
			sqe = fused(self, i * 4096, 4096, DEST);
			member_rw(sqe, IORING_OP_READ, self->file, 0, 4096, i);
		}
		ASSERT_EQ(0, submit(self));
	}
	for (i = 0; i < 8 * RING_ENTRIES; i++) {
		ASSERT_EQ(0, ring_wait(&self->ring, &cqe));
		EXPECT_EQ(cqe.user_data == UD_CMD ? 0 : 4096, cqe.res);
		seen += cqe.user_data;
	}
	EXPECT_EQ(8 * RING_ENTRIES / 2 * (UD_CMD + UD_MEMBER), seen);
	EXPECT_TRUE(returned(self, 8 * RING_ENTRIES / 2));
	for (i = 0; i < RING_ENTRIES / 2 * 4096; i++)
		ASSERT_EQ(pattern(i % 4096 + i / 4096, SEED),
			  self->lender.mem[i]);
}

/*
 * A member in flight, a driver that lends later, and a command that is
 * deferred. The first one's memory is lent by now: 0 or -errno.
 */
static int busy(struct _test_data_fused *self)
{
	__u64 end = now_ms() + WAIT_MS;
	struct io_uring_sqe *sqe;
	int ret;

	sqe = fused(self, 0, 4096, DEST);
	member_rw(sqe, IORING_OP_READ, self->pipe[0], 0, 16, 0);
	sqe = fused(self, 0, 4096, DEST);
	lend_of(sqe)->delay_us = LATE_US;
	fused(self, 0, 4096, DEST)->flags |= IOSQE_IO_DRAIN;
	ret = submit(self);
	while (!ret && returned(self, 0)) {
		if (now_ms() > end)
			ret = -ETIME;
		usleep(1000);
	}
	return ret;
}

/* Lent once or twice, but not for the deferred command, and all is back */
static bool all_back(struct _test_data_fused *self)
{
	__u64 end = now_ms() + WAIT_MS;

	/* the late one may not have been lent yet */
	usleep(3 * LATE_US);
	while (now_ms() < end && !returned(self, 1) && !returned(self, 2))
		usleep(1000);
	return returned(self, 1) || returned(self, 2);
}

TEST_F(fused, ring_exit)
{
	ASSERT_EQ(0, busy(self));
	ring_exit_128(&self->ring);
	EXPECT_TRUE(all_back(self));
	EXPECT_TRUE(all_bytes(self->lender.mem + 16, POISON, MEM - 16));
}

/* The same for a process that is killed */
TEST_F(fused, killed)
{
	unsigned int setup = variant->type.setup | variant->layout;
	int status, ready[2];
	pid_t pid;
	char c;

	ASSERT_EQ(0, pipe(ready));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		self->sqes = ring_init_128(&self->ring, setup);
		if (!self->sqes)
			_exit(1);
		if (busy(self) || write(ready[1], "x", 1) != 1)
			_exit(1);
		pause();
	}
	close(ready[1]);
	ASSERT_EQ(1, read(ready[0], &c, 1));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	close(ready[0]);
	EXPECT_TRUE(all_back(self));
}

/* And for one that becomes another program, which lives on */
TEST_F(fused, exec)
{
	unsigned int setup = variant->type.setup | variant->layout;
	int ready[2];
	pid_t pid;
	char c;

	/* closed by the other program's start */
	ASSERT_EQ(0, pipe2(ready, O_CLOEXEC));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		self->sqes = ring_init_128(&self->ring, setup);
		if (!self->sqes || busy(self) || write(ready[1], "x", 1) != 1)
			_exit(1);
		execlp("sleep", "sleep", "60", NULL);
		_exit(1);
	}
	close(ready[1]);
	EXPECT_EQ(1, read(ready[0], &c, 1));
	EXPECT_EQ(0, read(ready[0], &c, 1));
	EXPECT_TRUE(all_back(self));
	EXPECT_EQ(0, waitpid(pid, NULL, WNOHANG));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(ready[0]);
}

/* Not on rings of any other kind */
/* And takes nothing that follows, whatever it says about that */
TEST(needs_128)
{
	static const unsigned int setups[] = {
		0, IORING_SETUP_COOP_TASKRUN,
		IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
		IORING_SETUP_SQPOLL, IORING_SETUP_SQE_MIXED,
		IORING_SETUP_SQE_MIXED | IORING_SETUP_COOP_TASKRUN,
		IORING_SETUP_SQE_MIXED | IORING_SETUP_DEFER_TASKRUN |
			IORING_SETUP_SINGLE_ISSUER,
		IORING_SETUP_SQE_MIXED | IORING_SETUP_SQPOLL,
	};
	static const unsigned int nrs[] = { 0, 1, 2, 5, 6, 64, 65, 65535 };
	unsigned int i, j, n, setup, seen;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;
	struct ring r;

	if (!SETUP_RING(&r, 8, 0, IORING_OP_FUSED_CMD))
		return;
	ring_exit(&r);
	for (i = 0; i < ARRAY_SIZE(setups); i++) {
		setup = setups[i];
		ASSERT_EQ(0, ring_init(&r, 8, setup));
		for (j = 0; j < ARRAY_SIZE(nrs); j++) {
			/* the last slot of a mixed one has no second half */
			while (setup & IORING_SETUP_SQE_MIXED &&
			       (r.u.sq.sqe_tail & 7) != 7) {
				ring_sqe(&r, IORING_OP_NOP);
				ASSERT_EQ(0, ring_run(&r));
			}
			sqe = ring_sqe(&r, IORING_OP_FUSED_CMD);
			sqe->user_data = UD_CMD;
			sqe->nr_members = nrs[j];
			/* requests of their own */
			for (n = 0; n < 5; n++)
				ring_sqe(&r, IORING_OP_NOP)->user_data = 10 + n;
			ASSERT_EQ(6, ring_submit(&r));
			seen = 0;
			for (n = 0; n < 6; n++) {
				ASSERT_EQ(0, ring_wait(&r, &cqe)) {
					TH_LOG("setup %x nr %u", setup, nrs[j]);
				}
				ASSERT_EQ(cqe.user_data == UD_CMD ? -EINVAL : 0,
					  cqe.res);
				seen |= 1U << cqe.user_data;
			}
			ASSERT_EQ(31U << 10 | 1U << UD_CMD, seen);
		}
		EXPECT_TRUE(ring_quiet(&r));
		ring_exit(&r);
	}

	/* nor has what is submitted up to its first half */
	ASSERT_EQ(0, ring_init(&r, 8, IORING_SETUP_SQE_MIXED));
	ring_sqe(&r, IORING_OP_FUSED_CMD)->user_data = UD_CMD;
	ring_sqe(&r, IORING_OP_NOP)->user_data = 10;
	ring_publish(&r);
	ASSERT_EQ(1, ring_enter(&r, 1, 0, 0));
	ASSERT_EQ(-EINVAL, ring_result(&r));
	ASSERT_EQ(1, ring_enter(&r, 1, 0, 0));
	ASSERT_EQ(0, ring_result(&r));
	ring_exit(&r);
}

/* A polled ring, where members are polled, too, or don't do I/O */
TEST(iopoll)
{
	struct _test_data_fused data = { .layout = IORING_SETUP_SQE128 };
	struct _test_data_fused *self = &data;
	struct io_uring_sqe *sqe;
	struct ring r;

	if (!SETUP_RING(&r, 8, 0, IORING_OP_FUSED_CMD))
		return;
	ring_exit(&r);
	self->sqes = ring_init_128(&self->ring, IORING_SETUP_IOPOLL |
				   IORING_SETUP_SQE128);
	ASSERT_NE(NULL, self->sqes);
	ASSERT_EQ(0, lender_init(&self->lender));
	sqe = fused(self, 0, 4096, DEST);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, 0, 0));
	sqe = fused(self, 0, 4096, DEST);
	lend_of(sqe)->delay_us = 5000;
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, 0, 0));
	EXPECT_TRUE(returned(self, 2));
	/* no iopoll */
	sqe = fused(self, 0, 4096, DEST);
	member_rw(sqe, IORING_OP_READ, self->lender.fd, 0, 4096, 0);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, -EOPNOTSUPP, -EOPNOTSUPP));
	ring_exit_128(&self->ring);
	lender_exit(&self->lender);
}

/*
 * Two rings share a thread that takes a few entries at a time from each: that
 * is none of a set's business.
 */
TEST(sqpoll_shared)
{
	struct io_uring_sqe *m[MAX_MEMBERS];
	int res[MAX_MEMBERS] = { };
	struct ring other;
	unsigned int i;

	if (!SETUP_RING(&other, 8, IORING_SETUP_SQPOLL, IORING_OP_FUSED_CMD))
		return;
	for (i = 0; i < 2; i++) {
		struct _test_data_fused data = {
			.layout = i ? IORING_SETUP_SQE_MIXED :
				      IORING_SETUP_SQE128,
		};
		struct _test_data_fused *self = &data;

		self->sqes = ring_init_attached(&self->ring,
						IORING_SETUP_SQPOLL |
						self->layout,
						other.u.ring_fd);
		ASSERT_NE(NULL, self->sqes);
		ASSERT_EQ(0, lender_init(&self->lender));
		/* anywhere within what is taken at once */
		sqe64(self, IORING_OP_NOP)->user_data = UD_MEMBER + 1;
		fused_set(self, 0, 4096, DEST, 1, m);
		sqe64(self, IORING_OP_NOP)->user_data = UD_MEMBER + 1;
		fused_set(self, 0, 4096, DEST, MAX_MEMBERS, m);
		sqe64(self, IORING_OP_NOP)->user_data = 100;
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(0, next_of(&self->ring, 100, 0, 4 + MAX_MEMBERS + 1));
		EXPECT_TRUE(returned(self, 2));
		fused_set(self, 0, 4096, DEST, MAX_MEMBERS, m);
		ASSERT_EQ(0, submit(self));
		EXPECT_EQ(0, set_is(self, MAX_MEMBERS, res, 0));
		EXPECT_TRUE(returned(self, 3));
		ring_exit_128(&self->ring);
		lender_exit(&self->lender);
	}
	ring_exit(&other);
}

/*
 * The ring gets another size with a command in flight, and another one that is
 * in the SQ, with its members, and wasn't submitted
 */
TEST(resized)
{
	struct io_uring_sqe *m[3];
	unsigned int layout, i, nr;
	struct ring r;

	if (!SETUP_RING(&r, 8, 0, IORING_OP_FUSED_CMD))
		return;
	ring_exit(&r);
	for (layout = 0; layout < 2; layout++) {
		struct io_uring_params p = {
			.sq_entries = RING_ENTRIES,
			.cq_entries = 8 * RING_ENTRIES,
			.flags = IORING_SETUP_CQSIZE,
		};
		struct _test_data_fused data = {
			.layout = layout ? IORING_SETUP_SQE_MIXED :
					   IORING_SETUP_SQE128,
		};
		struct _test_data_fused *self = &data;
		struct io_uring *u = &self->ring.u;
		size_t mask = page_size() - 1;
		struct io_uring_sqe *sqe;
		struct io_uring_cqe cqe;

		self->sqes = ring_init_128(&self->ring, self->layout |
					   IORING_SETUP_DEFER_TASKRUN |
					   IORING_SETUP_SINGLE_ISSUER);
		ASSERT_NE(NULL, self->sqes);
		ASSERT_EQ(0, lender_init(&self->lender));
		sqe = fused(self, 3 * 4096, 4096, DEST);
		lend_of(sqe)->delay_us = 20000;
		member_rw(sqe, IORING_OP_READ, self->lender.fd, 0, 4096, 0);
		ASSERT_EQ(0, submit(self));
		fused_set(self, 0, 3 * 4096, DEST, 3, m);
		for (i = 0; i < 3; i++)
			set_rw(m[i], IORING_OP_READ, self->lender.fd, i * 4096,
			       4096, 0);
		nr = ring_publish(&self->ring);

		ASSERT_EQ(0, ring_register(&self->ring,
					   IORING_REGISTER_RESIZE_RINGS, &p, 1));
		munmap((void *)((uintptr_t)u->sq.khead & ~mask), u->sq.ring_sz);
		munmap((void *)((uintptr_t)u->cq.khead & ~mask), u->cq.ring_sz);
		munmap(u->sq.sqes, (2 - layout) * RING_ENTRIES *
				   sizeof(*u->sq.sqes));
		p.flags |= IORING_SETUP_NO_SQARRAY;
		p.sq_entries *= 2 - layout;
		ASSERT_EQ(0, io_uring_mmap(u->ring_fd, &p, &u->sq, &u->cq));
		self->sqes = u->sq.sqes;

		ASSERT_EQ(nr, ring_enter(&self->ring, nr, 0, 0));
		for (i = 0; i < 2 + 4; i++) {
			ASSERT_EQ(0, ring_wait(&self->ring, &cqe));
			EXPECT_EQ(cqe.user_data == UD_CMD ? 0 : 4096, cqe.res);
		}
		EXPECT_TRUE(returned(self, 2));
		/* what reads of the mock file fill in */
		EXPECT_TRUE(all_bytes(self->lender.mem, 0, 4 * 4096));
		EXPECT_TRUE(all_bytes(self->lender.mem + 4 * 4096, POISON,
				      MEM - 4 * 4096));
		ring_exit_128(&self->ring);
		lender_exit(&self->lender);
	}
}

/* Restrictions are for both halves, and for what the member really is */
TEST(restricted)
{
	unsigned int allow_member;
	struct ring r;

	if (!SETUP_RING(&r, 8, 0, IORING_OP_FUSED_CMD))
		return;
	ring_exit(&r);
	for (allow_member = 0; allow_member < 2; allow_member++) {
		struct _test_data_fused data = {
			.layout = IORING_SETUP_SQE128,
		};
		struct _test_data_fused *self = &data;
		struct io_uring_restriction res[3] = {
			{ .opcode = IORING_RESTRICTION_SQE_OP,
			  .sqe_op = IORING_OP_FUSED_CMD },
			{ .opcode = IORING_RESTRICTION_SQE_OP,
			  .sqe_op = allow_member ? IORING_OP_NOP :
						   IORING_OP_READ },
			{ .opcode = IORING_RESTRICTION_REGISTER_OP,
			  .register_op = IORING_REGISTER_ENABLE_RINGS },
		};

		self->sqes = ring_init_128(&self->ring, IORING_SETUP_SQE128 |
					   IORING_SETUP_R_DISABLED);
		ASSERT_NE(NULL, self->sqes);
		ASSERT_EQ(0, lender_init(&self->lender));
		ASSERT_EQ(0, ring_register(&self->ring,
					   IORING_REGISTER_RESTRICTIONS, res,
					   3));
		ASSERT_EQ(0, ring_register(&self->ring,
					   IORING_REGISTER_ENABLE_RINGS, NULL,
					   0));
		fused(self, 0, 4096, DEST);
		ASSERT_EQ(0, submit(self));
		EXPECT_EQ(0, allow_member ? both(self, 0, 0) :
			     both(self, -EACCES, -ECANCELED));
		EXPECT_TRUE(returned(self, allow_member));
		ring_exit_128(&self->ring);
		lender_exit(&self->lender);
	}
}

/* No request of opcode @op, or with a @user_data, from now on: 0 or -errno */
static int deny(struct ring *r, unsigned int op, __u32 user_data)
{
	struct sock_filter insns[] = {
		/* the half of it that isn't 0 */
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct io_uring_bpf_ctx, user_data) +
			 (htonl(1) == 1 ? sizeof(__u32) : 0)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, user_data, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, 1),
	};
	struct io_uring_bpf bpf = {
		.cmd_type = IO_URING_BPF_CMD_FILTER,
		.filter = {
			.opcode = op,
			.filter_len = ARRAY_SIZE(insns),
			.filter_ptr = u64_ptr(insns),
		},
	};

	return ring_register(r, IORING_REGISTER_BPF_FILTER, &bpf, 1);
}

/* Filters see both halves, as what they really are, and each of a set */
TEST_F(fused, filtered)
{
	const int canceled[2] = { -ECANCELED, -ECANCELED };
	struct io_uring_sqe *m[3];
	unsigned int i, n;

	ASSERT_EQ(0, deny(&self->ring, IORING_OP_READ_FIXED, UD_MEMBER));
	/* in the way of none but its own */
	ASSERT_EQ(0, deny(&self->ring, IORING_OP_READ, UD_MEMBER + 1));
	fused(self, 0, 4096, DEST);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, 0, 0));
	member_rw(fused(self, 0, 4096, DEST), IORING_OP_READ, self->file, 0,
		  4096, 0);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, -EACCES, -ECANCELED));
	EXPECT_TRUE(returned(self, 1));
	for (i = 0; i < 3; i++) {
		int res[3] = { -ECANCELED, -ECANCELED, -ECANCELED };

		fused_set(self, 0, 4096, DEST, 3, m);
		for (n = 0; n < 3; n++) {
			set_rw(m[n], IORING_OP_READ, self->file, n * 1000,
			       1000, 0);
			/* the one that is denied is first, second and third */
			m[n]->user_data = UD_MEMBER + (n + 3 - i) % 3;
		}
		res[0] = -EACCES;
		ASSERT_EQ(0, submit(self));
		EXPECT_EQ(0, set_is(self, 3, res, -ECANCELED));
	}
	EXPECT_TRUE(returned(self, 1));
	EXPECT_TRUE(all_bytes(self->lender.mem, POISON, MEM));

	ASSERT_EQ(0, deny(&self->ring, IORING_OP_FUSED_CMD, UD_CMD));
	fused(self, 0, 4096, DEST);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, both(self, -ECANCELED, -EACCES));
	fused_set(self, 0, 4096, DEST, 2, m);
	ASSERT_EQ(0, submit(self));
	EXPECT_EQ(0, set_is(self, 2, canceled, -EACCES));
	EXPECT_TRUE(returned(self, 1));
}

/*
 * Each allocation of a submission fails once, on a ring that has nothing
 * cached. Whatever fails, both halves tell, or only the command where there is
 * no second one yet; the memory is back; and the next command works.
 */
static void sweep(struct __test_metadata *_metadata, unsigned int setup,
		  unsigned int async, bool late)
{
	unsigned int nth, hits = 0;
	bool fired = true;
	int file;

	file = syscall(__NR_memfd_create, "nth", MFD_CLOEXEC);
	ASSERT_LE(0, file);
	ASSERT_EQ(0, ftruncate(file, LEN));
	for (nth = 1; fired && nth < 200; nth++) {
		struct _test_data_fused data = {
			.layout = IORING_SETUP_SQE128,
		};
		struct _test_data_fused *self = &data;
		int fd, cmd = 1, member = 1;
		struct io_uring_sqe *sqe;
		struct io_uring_cqe cqe;
		unsigned int lent;

		self->sqes = ring_init_128(&self->ring, setup |
					   IORING_SETUP_SQE128);
		ASSERT_NE(NULL, self->sqes);
		ASSERT_EQ(0, lender_init(&self->lender));
		fd = nth_open(&self->ring, TARGET_SELF);
		ASSERT_LE(0, fd);
		sqe = fused(self, 0, 40 * 4096, DEST);
		sqe->flags = async;
		lend_of(sqe)->delay_us = late ? 2000 : 0;
		member_rw(sqe, IORING_OP_READ, file, 0, LEN, 0);
		ASSERT_TRUE(nth_arm(fd, nth));
		ring_submit(&self->ring);
		/* what waits for task work meets faults as well */
		while (!ring_wait_ms(&self->ring, &cqe,
				     cmd == 1 ? WAIT_MS : 0)) {
			if (cqe.user_data == UD_CMD) {
				EXPECT_EQ(1, cmd);
				cmd = cqe.res;
			} else {
				/* first the one, then the other */
				EXPECT_EQ(1, member);
				EXPECT_EQ(1, cmd);
				member = cqe.res;
			}
			if (cmd != 1)
				break;
		}
		fired = nth_disarm(fd);
		close(fd);
		hits += fired;
		/* an SQE that met -EAGAIN is still there */
		if (cmd == 1) {
			ASSERT_LE(0, ring_submit(&self->ring));
			ASSERT_LE(0, ring_enter(&self->ring, 1, 0, 0));
			ASSERT_EQ(0, ring_wait(&self->ring, &cqe));
			member = cqe.res;
			ASSERT_EQ(0, ring_wait(&self->ring, &cqe));
			cmd = cqe.res;
		}
		if (member == LEN) {
			EXPECT_EQ(0, cmd);
			EXPECT_TRUE(all_bytes(self->lender.mem, 0, LEN));
		} else {
			EXPECT_GT(0, cmd);
		}
		EXPECT_TRUE(all_bytes(self->lender.mem + LEN, POISON,
				      MEM - LEN));
		lent = self->lender.state->lent;
		EXPECT_TRUE(returned(self, lent));
		sqe = fused(self, 0, 4096, DEST);
		ASSERT_EQ(0, submit(self));
		EXPECT_EQ(0, both(self, 0, 0));
		EXPECT_TRUE(returned(self, lent + 1));
		ring_exit_128(&self->ring);
		lender_exit(&self->lender);
	}
	EXPECT_FALSE(fired);
	EXPECT_LE(4, hits);
	close(file);
}

/* The same for a set, of which only the command tells */
static void sweep_set(struct __test_metadata *_metadata, unsigned int setup,
		      unsigned int async, bool late)
{
	struct iovec iov[2] = { { (void *)5000, 100 }, { (void *)6000, 50 } };
	unsigned int nth, hits = 0, lent;
	struct iovec range = { (void *)7000, 80 };
	unsigned char head[64], data[80];
	bool fired = true;
	int file;

	file = syscall(__NR_memfd_create, "nth", MFD_CLOEXEC);
	ASSERT_LE(0, file);
	ASSERT_EQ(0, ftruncate(file, LEN));
	memset(data, 1, sizeof(data));
	for (nth = 1; fired && nth < 200; nth++) {
		struct _test_data_fused test = {
			.layout = IORING_SETUP_SQE_MIXED,
		};
		struct _test_data_fused *self = &test;
		struct io_uring_sqe *sqe, *m[4];
		struct io_uring_cqe cqe;
		int fd, ret;

		self->sqes = ring_init_128(&self->ring, setup | self->layout);
		ASSERT_NE(NULL, self->sqes);
		ASSERT_EQ(0, lender_init(&self->lender));
		fd = nth_open(&self->ring, TARGET_SELF);
		ASSERT_LE(0, fd);
		memset(head, POISON, sizeof(head));
		sqe = fused_set(self, 0, 40 * 4096, BOTH, 4, m);
		sqe->fused_flags = IORING_FUSED_ONE_CQE;
		sqe->flags = async;
		lend_of(sqe)->delay_us = late ? 2000 : 0;
		set_rw(m[0], IORING_OP_READ, file, 0, 4096, 0);
		set_rw(m[1], IORING_OP_READV_FIXED, file, 0, 2, 0);
		m[1]->addr = u64_ptr(iov);
		set_memcpy(m[2], IORING_MEMCPY_SRC_FIXED, u64_ptr(head), 8192,
			   sizeof(head));
		set_copy(self, m[3], &range, data, 0);
		ASSERT_TRUE(nth_arm(fd, nth));
		ring_submit(&self->ring);
		ret = ring_wait(&self->ring, &cqe);
		fired = nth_disarm(fd);
		close(fd);
		hits += fired;
		/* SQEs that met -EAGAIN are still there */
		if (ret) {
			ASSERT_LE(0, ring_enter(&self->ring, 5, 0, 0));
			ASSERT_EQ(0, ring_wait(&self->ring, &cqe));
		}
		ASSERT_EQ(UD_CMD, cqe.user_data);
		if (cqe.res == 4096 + 150 + 64 + 80) {
			EXPECT_TRUE(all_bytes(self->lender.mem, 0, 4096));
			EXPECT_TRUE(all_bytes(self->lender.mem + 5000, 0, 100));
			EXPECT_TRUE(all_bytes(self->lender.mem + 6000, 0, 50));
			EXPECT_TRUE(all_bytes(self->lender.mem + 7000, 1, 80));
		} else {
			EXPECT_GT(0, cqe.res);
		}
		/* the memory that it was copied from */
		EXPECT_TRUE(all_bytes(head, POISON, sizeof(head)));
		EXPECT_TRUE(all_bytes(self->lender.mem + 6050, POISON, 950));
		EXPECT_TRUE(all_bytes(self->lender.mem + 7080, POISON,
				      MEM - 7080));
		lent = self->lender.state->lent;
		EXPECT_TRUE(returned(self, lent));
		fused(self, 0, 4096, DEST);
		ASSERT_EQ(0, submit(self));
		EXPECT_EQ(0, both(self, 0, 0));
		EXPECT_TRUE(returned(self, lent + 1));
		ring_exit_128(&self->ring);
		lender_exit(&self->lender);
	}
	EXPECT_FALSE(fired);
	EXPECT_LE(6, hits);
	close(file);
}

FIXTURE(fail_nth) { };

FIXTURE_VARIANT(fail_nth) {
	unsigned int setup;
	unsigned int sqe_flags;
	bool late;
};

FIXTURE_VARIANT_ADD(fail_nth, plain) { .setup = 0 };
FIXTURE_VARIANT_ADD(fail_nth, late) { .late = true };
FIXTURE_VARIANT_ADD(fail_nth, async) { .sqe_flags = IOSQE_ASYNC };
FIXTURE_VARIANT_ADD(fail_nth, defer) {
	.setup = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
};

FIXTURE_SETUP(fail_nth)
{
	struct ring r;

	if (!fault_injection())
		SKIP(return, "kernel has no fault injection");
	if (SETUP_RING(&r, 8, 0, IORING_OP_FUSED_CMD))
		ring_exit(&r);
}

FIXTURE_TEARDOWN(fail_nth)
{
}

TEST_F_TIMEOUT(fail_nth, sweep, LONG_TIMEOUT)
{
	sweep(_metadata, variant->setup, variant->sqe_flags, variant->late);
}

TEST_F_TIMEOUT(fail_nth, sweep_set, LONG_TIMEOUT)
{
	sweep_set(_metadata, variant->setup, variant->sqe_flags, variant->late);
}

TEST_HARNESS_MAIN
