// SPDX-License-Identifier: GPL-2.0
/*
 * Every allocation and user copy below the two opcodes fails once: run an op,
 * and run it again with the first, the second, ... fault point failing until
 * a run meets none. Whatever fails, the result is an errno or the exact count
 * of bytes that were moved, memory holds what the result says, and the next
 * op on the ring works.
 *
 * Who runs the op matters, since faults are injected by task: the submitter,
 * an io-wq worker and the SQPOLL thread each get their own sweep.
 */
#include "iou_fail_nth.h"
#include "kselftest_harness.h"

#define AREA_SIZE	(256 * 1024)
#define SEED		5
/* Reaches past what is copied at once, to the chunk after the next */
#define LONG_LEN	140000
/*
 * Where there is no get_user_pages_fast(), user memory is copied to user memory
 * by way of a buffer of 512 bytes, with a fault point on either side of it.
 */
#define MAX_NTH		(2 * LONG_LEN / 512 + 200)

#define BUF_DST		0
#define BUF_SRC		1
#define BUF_NR		2

FIXTURE(fail_nth) {
	struct ring ring;
	struct arena src, dst;
	int file;			/* holds 8 bytes */
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

FIXTURE_VARIANT_ADD(fail_nth, submitter_async) {
	.sqe_flags = IOSQE_ASYNC,
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

/* A ring with nothing cached yet, and the task that runs its requests */
static int ring_fresh(struct _test_data_fail_nth *self,
		      const struct _fixture_variant_fail_nth *variant)
{
	__u32 workers[2] = { 1, 1 };
	struct ring *r = &self->ring;
	int ret;

	ret = ring_init(r, 8, variant->setup);
	if (!ret)
		ret = ring_buffers_sparse(r, BUF_NR);
	if (!ret)
		ret = ring_buffer_set(r, BUF_DST, self->dst.mem, AREA_SIZE);
	if (ret >= 0)
		ret = ring_buffer_set(r, BUF_SRC, self->src.mem, AREA_SIZE);
	if (ret >= 0)
		ret = ring_register(r, IORING_REGISTER_IOWQ_MAX_WORKERS,
				    workers, 2);
	if (ret)
		return ret;
	self->nth_fd = nth_open(r, variant->target);
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
	struct ring r;

	self->nth_fd = -1;
	self->file = -1;
	if (!fault_injection())
		SKIP(return, "kernel has no fault injection");
	if (!SETUP_RING(&r, 8, 0, IORING_OP_MEMCPY))
		return;
	ring_exit(&r);
	ASSERT_EQ(0, arena_init(&self->src, AREA_SIZE, true));
	ASSERT_EQ(0, arena_init(&self->dst, AREA_SIZE, true));
	fill_pattern(self->src.mem, AREA_SIZE, SEED);
	memset(self->dst.mem, POISON, AREA_SIZE);
	self->file = syscall(__NR_memfd_create, "head", MFD_CLOEXEC);
	ASSERT_LE(0, self->file);
	ASSERT_EQ(8, write(self->file, "abcdefgh", 8));
}

FIXTURE_TEARDOWN(fail_nth)
{
	ring_done(self);
	arena_exit(&self->src);
	arena_exit(&self->dst);
	if (self->file >= 0)
		close(self->file);
}

struct op {
	const char *what;
	__u8 opcode;
	__u32 flags;			/* sqe->memcpy_flags */
	__u32 len;
	bool absent;			/* destination pages have gone */
	bool linked;			/* behind a READ */
};

static const struct op ops[] = {
	{ "imm", IORING_OP_MEMCPY_IMMEDIATE, 0, 8 },
	{ "imm, 7 bytes", IORING_OP_MEMCPY_IMMEDIATE, 0, 7 },
	{ "imm fixed", IORING_OP_MEMCPY_IMMEDIATE, IORING_MEMCPY_DST_FIXED, 8 },
	{ "imm add", IORING_OP_MEMCPY_IMMEDIATE,
	  IMM_OP(IORING_MEMCPY_IMM_ADD), 4 },
	{ "imm absent", IORING_OP_MEMCPY_IMMEDIATE, 0, 8, .absent = true },
	{ "imm add absent", IORING_OP_MEMCPY_IMMEDIATE,
	  IMM_OP(IORING_MEMCPY_IMM_ADD), 4, .absent = true },
	{ "imm linked", IORING_OP_MEMCPY_IMMEDIATE, 0, 8, .linked = true },
	{ "copy", IORING_OP_MEMCPY, 0, 5000 },
	{ "copy to fixed", IORING_OP_MEMCPY, IORING_MEMCPY_DST_FIXED, 5000 },
	{ "copy from fixed", IORING_OP_MEMCPY, IORING_MEMCPY_SRC_FIXED, 5000 },
	{ "copy fixed", IORING_OP_MEMCPY,
	  IORING_MEMCPY_DST_FIXED | IORING_MEMCPY_SRC_FIXED, 5000 },
	{ "copy absent", IORING_OP_MEMCPY, 0, 40000, .absent = true },
	{ "copy from fixed absent", IORING_OP_MEMCPY, IORING_MEMCPY_SRC_FIXED,
	  40000, .absent = true },
	{ "copy linked", IORING_OP_MEMCPY, 0, 5000, .linked = true },
	{ "long copy", IORING_OP_MEMCPY, 0, LONG_LEN },
	{ "long copy to fixed", IORING_OP_MEMCPY, IORING_MEMCPY_DST_FIXED,
	  LONG_LEN },
	{ "long copy from fixed", IORING_OP_MEMCPY, IORING_MEMCPY_SRC_FIXED,
	  LONG_LEN },
	{ "long copy fixed", IORING_OP_MEMCPY,
	  IORING_MEMCPY_DST_FIXED | IORING_MEMCPY_SRC_FIXED, LONG_LEN },
};

/* All bits of it unlike the poison, and 4 bytes of it unlike the next 4 */
#define VALUE	0x1122334455667708ULL
#define OFF	64

static void op_prep(struct _test_data_fail_nth *self,
		    const struct _fixture_variant_fail_nth *variant,
		    const struct op *op, unsigned char *dst)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;

	if (op->linked) {
		sqe = ring_read(r, self->file, self->dst.mem + AREA_SIZE - 8,
				8);
		sqe->flags = variant->sqe_flags | IOSQE_IO_LINK;
	}
	if (op->opcode == IORING_OP_MEMCPY) {
		sqe = ring_memcpy(r, dst, self->src.mem + 3, op->len);
		if (op->flags & IORING_MEMCPY_SRC_FIXED)
			sqe->file_index = BUF_SRC;
		if (op->flags & IORING_MEMCPY_DST_FIXED)
			sqe->buf_index = BUF_DST;
	} else {
		sqe = ring_imm(r, dst, VALUE, op->len);
	}
	sqe->memcpy_flags = op->flags;
	sqe->flags = variant->sqe_flags;
	sqe->user_data = op->linked;
}

/* What is to be seen at the destination when @res bytes are said to be there */
static bool op_landed(const struct op *op, const unsigned char *dst,
		      unsigned char was, int res)
{
	__u64 value = VALUE;
	unsigned char want[8];
	__u32 word;
	int i;

	if (!all_bytes(dst - OFF, was, OFF) ||
	    !all_bytes(dst + (res > 0 ? res : 0), was,
		       op->len + OFF - (res > 0 ? res : 0)))
		return false;
	if (res <= 0)
		return true;
	if (op->opcode == IORING_OP_MEMCPY) {
		for (i = 0; i < res; i++)
			if (dst[i] != pattern(i + 3, SEED))
				return false;
		return true;
	}
	if (op->flags & IORING_MEMCPY_IMM_OP_MASK) {
		word = was * 0x01010101u + (__u32)value;
		return !memcmp(dst, &word, 4);
	}
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	value <<= 8 * (8 - op->len);
#endif
	memcpy(want, &value, 8);
	return res == (int)op->len && !memcmp(dst, want, op->len);
}

/* -ECANCELED: the head failed, or io-wq could not make its first worker */
static bool clean_errno(int res)
{
	return res == -ENOMEM || res == -EFAULT || res == -EAGAIN ||
	       res == -ECANCELED;
}

/* One run: its result in *res, whether a fault was met in *fired. 0 or -errno */
static int op_run(struct _test_data_fail_nth *self,
		  const struct _fixture_variant_fail_nth *variant,
		  const struct op *op, unsigned char *dst, unsigned int nth,
		  int *res, bool *fired)
{
	struct ring *r = &self->ring;
	unsigned int nr = 1 + op->linked;
	int ret, results[2] = {};

	op_prep(self, variant, op, dst);
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
	ret = ring_collect(r, results, nr);
	*fired = nth ? nth_disarm(self->nth_fd) : false;
	*res = results[op->linked];
	return ret;
}

TEST_F_TIMEOUT(fail_nth, sweep, LONG_TIMEOUT)
{
	unsigned int i, nth, faults = 0;
	unsigned char *dst, *absent;
	bool fired, ignored;
	int res;

	absent = mmap(NULL, AREA_SIZE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, absent);
	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		const struct op *op = &ops[i];
		unsigned char was = op->absent ? 0 : POISON;

		for (nth = 0; nth < MAX_NTH; nth++) {
			dst = (op->absent ? absent : self->dst.mem) + OFF;
			if (op->absent)
				madvise(absent, AREA_SIZE, MADV_DONTNEED);
			ASSERT_EQ(0, ring_fresh(self, variant));
			ASSERT_EQ(0, op_run(self, variant, op, dst, nth, &res,
					    &fired)) {
				TH_LOG("%s: didn't run, or never ended, fault %u", op->what,
				       nth);
			}
			EXPECT_TRUE(op_landed(op, dst, was, res)) {
				TH_LOG("%s: result %d, fault %u: wrong data",
				       op->what, res, nth);
			}
			if (!fired) {
				EXPECT_EQ(op->len, res) {
					TH_LOG("%s", op->what);
				}
			} else {
				bool ok = res == (int)op->len ||
					  clean_errno(res) ||
					  (op->opcode == IORING_OP_MEMCPY &&
					   res > 0 && res < (int)op->len);

				EXPECT_TRUE(ok) {
					TH_LOG("%s: result %d, fault %u",
					       op->what, res, nth);
				}
				faults++;
			}
			memset(self->dst.mem, POISON, AREA_SIZE);
			if (op->absent)
				madvise(absent, AREA_SIZE, MADV_DONTNEED);
			/* the ring and its caches survived it */
			ASSERT_EQ(0, op_run(self, variant, op, dst, 0, &res,
					    &ignored));
			EXPECT_EQ(op->len, res) {
				TH_LOG("%s: after fault %u", op->what, nth);
			}
			EXPECT_TRUE(op_landed(op, dst, was, res));
			memset(self->dst.mem, POISON, AREA_SIZE);
			ring_done(self);
			if (nth && !fired)
				break;
		}
		EXPECT_GT(MAX_NTH, nth) {
			TH_LOG("%s: still failing", op->what);
		}
	}
	TH_LOG("%u faults met", faults);
	munmap(absent, AREA_SIZE);
}

TEST_HARNESS_MAIN
