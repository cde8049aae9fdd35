// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_MEMCPY_IMMEDIATE stores the 1 to 8 bytes that the SQE carries, all
 * of them or none, nowhere else, after everything that the chain did before -
 * on every type of ring and whatever kind of request it follows.
 */
#include "iou_test.h"
#include "kselftest_harness.h"

#define VALUE		0x8877665544332211ULL
#define AREA_PAGES	4
/* Slots of the buffer table: the area, nothing, and past its end */
#define BUF_AREA	0
#define BUF_EMPTY	1
#define BUF_NR		2

FIXTURE(imm) {
	struct ring ring;
	unsigned int flags;
	size_t ps;
	/* private memory with an unmapped page on each side */
	struct arena area;
	unsigned char *word;		/* 64-byte aligned, inside the area */
};

FIXTURE_VARIANT(imm) {
	struct ring_type type;
};

FIXTURE_VARIANT_ADD(imm, plain) RING_PLAIN;
FIXTURE_VARIANT_ADD(imm, coop) RING_COOP;
FIXTURE_VARIANT_ADD(imm, defer) RING_DEFER;
FIXTURE_VARIANT_ADD(imm, sqpoll) RING_SQPOLL;
FIXTURE_VARIANT_ADD(imm, iopoll) RING_IOPOLL;
FIXTURE_VARIANT_ADD(imm, iowq) RING_IOWQ;

FIXTURE_SETUP(imm)
{
	if (!SETUP_RING(&self->ring, RING_ENTRIES, variant->type.setup,
			IORING_OP_MEMCPY_IMMEDIATE))
		return;
	self->flags = variant->type.sqe_flags;
	self->ps = page_size();
	ASSERT_EQ(0, arena_init(&self->area, AREA_PAGES * self->ps, false));
	memset(self->area.mem, POISON, self->area.len);
	self->word = self->area.mem + GUARD;
	ASSERT_EQ(0, ring_buffers_sparse(&self->ring, BUF_NR));
	ASSERT_EQ(1, ring_buffer_set(&self->ring, BUF_AREA, self->area.mem,
				     self->area.len));
}

FIXTURE_TEARDOWN(imm)
{
	ring_exit(&self->ring);
	arena_exit(&self->area);
}

/* The least significant @len bytes of @value as this CPU stores them */
static void value_bytes(unsigned char *to, __u64 value, unsigned int len)
{
	const __u16 probe = 1;
	unsigned int i;

	for (i = 0; i < len; i++) {
		unsigned int at = *(const __u8 *)&probe ? i : len - 1 - i;

		to[at] = value >> (8 * i);
	}
}

static bool legal(unsigned int len, unsigned int off)
{
	return (len != 2 && len != 4 && len != 8) || !(off % len);
}

static int store(struct ring *r, unsigned int sqe_flags, void *dst,
		 __u64 value, unsigned int len, unsigned int flags)
{
	struct io_uring_sqe *sqe = ring_imm(r, dst, value, len);

	sqe->memcpy_flags = flags;
	sqe->flags = sqe_flags;
	return ring_run(r);
}

TEST_F_TIMEOUT(imm, every_length, LONG_TIMEOUT)
{
	unsigned char want[GUARD * 3], *at;
	unsigned int len, off, fixed;

	for (fixed = 0; fixed < 2; fixed++) {
		for (len = 1; len <= 8; len++) {
			for (off = 0; off < 16; off++) {
				if (!legal(len, off))
					continue;
				at = self->word + off;
				memset(self->area.mem, POISON, sizeof(want));
				memset(want, POISON, sizeof(want));
				value_bytes(want + GUARD + off, VALUE, len);
				ASSERT_EQ(len, store(&self->ring, self->flags,
						     at, VALUE, len, fixed ?
						     IORING_MEMCPY_DST_FIXED :
						     0));
				ASSERT_EQ(0, memcmp(want, self->area.mem,
						    sizeof(want)));
			}
		}
	}
}

/* The same numbers as an assignment in C gives, on any byte order */
TEST_F(imm, value_semantics)
{
	struct ring *r = &self->ring;
	__u64 *p64 = (__u64 *)self->word;
	__u32 *p32 = (__u32 *)self->word;
	__u16 *p16 = (__u16 *)self->word;
	__u8 *p8 = self->word;

	ASSERT_EQ(8, store(r, self->flags, p64, VALUE, 8, 0));
	EXPECT_EQ(VALUE, *p64);
	ASSERT_EQ(4, store(r, self->flags, p32, ~VALUE, 4, 0));
	EXPECT_EQ((__u32)~VALUE, *p32);
	ASSERT_EQ(2, store(r, self->flags, p16, VALUE + 1, 2, 0));
	EXPECT_EQ((__u16)(VALUE + 1), *p16);
	ASSERT_EQ(1, store(r, self->flags, p8, VALUE - 1, 1, 0));
	EXPECT_EQ((__u8)(VALUE - 1), *p8);
}

TEST_F(imm, area_edges)
{
	unsigned char *first = self->area.mem;
	unsigned char *last = first + self->area.len;
	struct ring *r = &self->ring;
	unsigned int fixed, flags, len;

	for (fixed = 0; fixed < 2; fixed++) {
		flags = fixed ? IORING_MEMCPY_DST_FIXED : 0;
		for (len = 1; len <= 8; len++) {
			ASSERT_EQ(len, store(r, self->flags, first, VALUE, len,
					     flags));
			ASSERT_EQ(len, store(r, self->flags, last - len, VALUE,
					     len, flags));
			/* page crossing, which aligned stores never do */
			if (len & (len - 1))
				ASSERT_EQ(len, store(r, self->flags,
						     first + self->ps - 1,
						     VALUE, len, flags));
		}
	}
	memset(first, POISON, self->area.len);
	if (store(r, self->flags, first + self->ps - 1, VALUE, 7, 0) == 7) {
		unsigned char want[8];

		value_bytes(want, VALUE, 7);
		EXPECT_EQ(0, memcmp(want, first + self->ps - 1, 7));
		EXPECT_EQ(POISON, first[self->ps - 2]);
		EXPECT_EQ(POISON, first[self->ps + 6]);
	}
}

TEST_F(imm, rmw)
{
	static const struct {
		unsigned int op;
		__u32 old, arg, new;
	} rows[] = {
		{ IORING_MEMCPY_IMM_SET, 0x12345678, 0x9abcdef0, 0x9abcdef0 },
		{ IORING_MEMCPY_IMM_ADD, 1, 41, 42 },
		{ IORING_MEMCPY_IMM_ADD, 0xffffffff, 2, 1 },
		{ IORING_MEMCPY_IMM_ADD, 5, (__u32)-7, (__u32)-2 },
		{ IORING_MEMCPY_IMM_OR, 0x0f0f0000, 0x00ff00f0, 0x0fff00f0 },
		{ IORING_MEMCPY_IMM_ANDN, 0xffff1234, 0x00ff0030, 0xff001204 },
		{ IORING_MEMCPY_IMM_XOR, 0xaaaaaaaa, 0xffff0000, 0x5555aaaa },
	};
	__u32 *p = (__u32 *)self->word;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		memset(self->area.mem, POISON, 4 * GUARD);
		*p = rows[i].old;
		/* the upper half of the operand is not looked at */
		ASSERT_EQ(4, store(&self->ring, self->flags, p,
				   rows[i].arg | 0x5a5a5a5a00000000ULL, 4,
				   IMM_OP(rows[i].op)));
		EXPECT_EQ(rows[i].new, *p) {
			TH_LOG("row %u", i);
		}
		*p = POISON * 0x01010101u;
		EXPECT_TRUE(untouched(&self->area));
	}
}

struct adder {
	__u32 *word;
	__u32 added;
	int stop;
};

static void *add_thread(void *arg)
{
	struct adder *a = arg;

	while (!__atomic_load_n(&a->stop, __ATOMIC_RELAXED)) {
		__atomic_fetch_add(a->word, 3, __ATOMIC_RELAXED);
		a->added += 3;
		if (!(a->added % 1024))
			sched_yield();
	}
	return NULL;
}

/* User space and the ring add to one word, and no update gets lost */
TEST_F_TIMEOUT(imm, rmw_concurrent, LONG_TIMEOUT)
{
	struct adder a[2] = {
		{ .word = (__u32 *)self->word },
		{ .word = (__u32 *)self->word },
	};
	struct ring *r = &self->ring;
	__u64 end = now_ms() + run_ms(400);
	unsigned int i, ops = 0;
	pthread_t thread[2];
	struct io_uring_sqe *sqe;
	__u32 total = 0;

	*a[0].word = 0;
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, add_thread,
					    &a[i]));
	while (now_ms() < end) {
		for (i = 0; i < 32; i++) {
			sqe = ring_imm(r, self->word, 5, 4);
			sqe->memcpy_flags = IMM_OP(IORING_MEMCPY_IMM_ADD);
			sqe->flags = self->flags;
		}
		ASSERT_EQ(32, ring_submit(r));
		for (i = 0; i < 32; i++)
			ASSERT_EQ(4, ring_result(r));
		ops += 32;
	}
	for (i = 0; i < 2; i++) {
		__atomic_store_n(&a[i].stop, 1, __ATOMIC_RELAXED);
		pthread_join(thread[i], NULL);
		total += a[i].added;
	}
	EXPECT_EQ(total + ops * 5, *a[0].word);
}

/* Both ways at once: bits of two owners in one word */
TEST_F_TIMEOUT(imm, rmw_bits_concurrent, LONG_TIMEOUT)
{
	struct ring *r = &self->ring;
	__u32 *p = (__u32 *)self->word;
	__u64 end = now_ms() + run_ms(200);
	struct adder a = { .word = p };
	struct io_uring_sqe *sqe;
	unsigned int i, flips = 0;
	pthread_t thread;

	/* the thread counts in the low half, the ring owns the upper one */
	*p = 0;
	ASSERT_EQ(0, pthread_create(&thread, NULL, add_thread, &a));
	while (now_ms() < end && flips < 2000) {
		static const unsigned int ops[] = {
			IORING_MEMCPY_IMM_OR, IORING_MEMCPY_IMM_ANDN,
			IORING_MEMCPY_IMM_XOR, IORING_MEMCPY_IMM_XOR,
		};

		for (i = 0; i < ARRAY_SIZE(ops); i++) {
			sqe = ring_imm(r, p, 0x40000000u, 4);
			sqe->memcpy_flags = IMM_OP(ops[i]);
			sqe->flags = self->flags | IOSQE_IO_LINK;
			if (i == ARRAY_SIZE(ops) - 1)
				sqe->flags = self->flags;
		}
		ASSERT_EQ(i, ring_submit(r));
		while (i--)
			ASSERT_EQ(4, ring_result(r));
		/* far from where the count of the thread would carry */
		if (__atomic_load_n(p, __ATOMIC_RELAXED) > 0x20000000u)
			break;
		flips++;
	}
	__atomic_store_n(&a.stop, 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	EXPECT_EQ(a.added, *p);
}

/* What prep and the core refuse: that errno, and memory stays as it was */
TEST_F(imm, bad_sqe)
{
	static const struct bad_sqe rows[] = {
#define BAD(e, ...) { .err = (e), .len = 4, .fd = -1, __VA_ARGS__ }
		BAD(-EINVAL, .what = "len 0", .len = 0),
		BAD(-EINVAL, .what = "len 9", .len = 9),
		BAD(-EINVAL, .what = "len 16", .len = 16),
		BAD(-EINVAL, .what = "len huge", .len = 0x80000000u),
		BAD(-EINVAL, .what = "len max", .len = 0xffffffffu),
		BAD(-EINVAL, .what = "2 at 1", .len = 2, .off = 1),
		BAD(-EINVAL, .what = "4 at 1", .len = 4, .off = 1),
		BAD(-EINVAL, .what = "4 at 2", .len = 4, .off = 2),
		BAD(-EINVAL, .what = "8 at 1", .len = 8, .off = 1),
		BAD(-EINVAL, .what = "8 at 4", .len = 8, .off = 4),
		BAD(-EINVAL, .what = "fixed 4 at 2", .off = 2,
		    .flags = IORING_MEMCPY_DST_FIXED),
		BAD(-EINVAL, .what = "src fixed",
		    .flags = IORING_MEMCPY_SRC_FIXED),
		BAD(-EINVAL, .what = "cpu only",
		    .flags = IORING_MEMCPY_CPU_ONLY),
		BAD(-EINVAL, .what = "engine only",
		    .flags = IORING_MEMCPY_ENGINE_ONLY),
		BAD(-EINVAL, .what = "report", .flags = IORING_MEMCPY_REPORT),
		BAD(-EINVAL, .what = "flag 5", .flags = 1u << 5),
		BAD(-EINVAL, .what = "flag 12", .flags = 1u << 12),
		BAD(-EINVAL, .what = "flag 31", .flags = 1u << 31),
		BAD(-EINVAL, .what = "op past last",
		    .flags = IMM_OP(__IORING_MEMCPY_IMM_OP_LAST)),
		BAD(-EINVAL, .what = "op 15", .flags = IMM_OP(15)),
		BAD(-EINVAL, .what = "add 1", .len = 1,
		    .flags = IMM_OP(IORING_MEMCPY_IMM_ADD)),
		BAD(-EINVAL, .what = "add 8", .len = 8,
		    .flags = IMM_OP(IORING_MEMCPY_IMM_ADD)),
		BAD(-EINVAL, .what = "or 3", .len = 3,
		    .flags = IMM_OP(IORING_MEMCPY_IMM_OR)),
		BAD(-EINVAL, .what = "add at 2", .off = 2,
		    .flags = IMM_OP(IORING_MEMCPY_IMM_ADD)),
		BAD(-EINVAL, .what = "add fixed",
		    .flags = IMM_OP(IORING_MEMCPY_IMM_ADD) |
			     IORING_MEMCPY_DST_FIXED),
		BAD(-EINVAL, .what = "xor fixed",
		    .flags = IMM_OP(IORING_MEMCPY_IMM_XOR) |
			     IORING_MEMCPY_DST_FIXED),
		BAD(-EINVAL, .what = "fd 1", .fd = 1),
		BAD(-EINVAL, .what = "fd -2", .fd = -2),
		BAD(-EINVAL, .what = "ioprio", .ioprio = 1),
		BAD(-EINVAL, .what = "file_index", .file_index = 1),
		BAD(-EINVAL, .what = "addr3", .addr3 = 1),
		BAD(-EINVAL, .what = "addr3 high", .addr3 = 1ULL << 63),
		BAD(-EINVAL, .what = "pad2", .pad2 = 1),
		BAD(-EINVAL, .what = "buf_index", .buf_index = 1),
		BAD(-EINVAL, .what = "fixed file", .fd = 0,
		    .sqe_flags = IOSQE_FIXED_FILE),
		BAD(-EOPNOTSUPP, .what = "buffer select",
		    .sqe_flags = IOSQE_BUFFER_SELECT),
#undef BAD
	};
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		sqe = ring_imm(r, self->word + rows[i].off, VALUE, rows[i].len);
		ring_make_bad(sqe, &rows[i]);
		sqe->flags |= self->flags;
		EXPECT_EQ(rows[i].err, ring_run(r)) {
			TH_LOG("%s", rows[i].what);
		}
		EXPECT_TRUE(untouched(&self->area)) {
			TH_LOG("%s wrote", rows[i].what);
		}
	}
	/* fd is 0 in an SQE that was only zeroed */
	sqe = ring_imm(r, self->word, VALUE, 4);
	sqe->flags = self->flags;
	sqe->fd = 0;
	EXPECT_EQ(4, ring_run(r));
}

/* A bad one severs the chain that it stands in, before and behind it */
TEST_F(imm, bad_sqe_in_chain)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	int res[3];
	unsigned int i;

	for (i = 0; i < 3; i++) {
		sqe = ring_imm(r, self->word + 8 * i, VALUE, i == 1 ? 9 : 8);
		sqe->flags = self->flags | (i < 2 ? IOSQE_IO_LINK : 0);
		sqe->user_data = i;
	}
	ASSERT_EQ(3, ring_submit(r));
	ASSERT_EQ(0, ring_collect(r, res, 3));
	EXPECT_EQ(-ECANCELED, res[0]);
	EXPECT_EQ(-EINVAL, res[1]);
	EXPECT_EQ(-ECANCELED, res[2]);
	EXPECT_TRUE(untouched(&self->area));
}

TEST_F(imm, bad_address)
{
	unsigned char *mem = self->area.mem;
	size_t ps = self->ps;
	const struct {
		const char *what;
		__u64 addr;
	} rows[] = {
		{ "null", 0 },
		{ "near null", 8 },
		{ "below", u64_ptr(mem) - 8 },
		{ "behind", u64_ptr(mem) + self->area.len },
		{ "PROT_NONE", u64_ptr(mem) + ps },
		{ "read-only", u64_ptr(mem) + 2 * ps },
		{ "non-canonical", 1ULL << 63 },
		{ "kernel", 0xffff888000100000ULL },
		{ "kernel text", 0xffffffff81000000ULL },
		{ "top", ~0ULL - 7 },
#if __SIZEOF_POINTER__ == 8
		{ "above the last user page", 1ULL << 47 },
		{ "above 5 levels", 1ULL << 56 },
#endif
	};
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int i, op;

	ASSERT_EQ(0, mprotect(mem + ps, ps, PROT_NONE));
	ASSERT_EQ(0, mprotect(mem + 2 * ps, ps, PROT_READ));
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		for (op = 0; op < __IORING_MEMCPY_IMM_OP_LAST; op++) {
			sqe = ring_imm(r, NULL, VALUE, 4);
			sqe->addr = rows[i].addr;
			sqe->flags = self->flags;
			sqe->memcpy_flags = IMM_OP(op);
			EXPECT_EQ(-EFAULT, ring_run(r)) {
				TH_LOG("%s op %u", rows[i].what, op);
			}
		}
		sqe = ring_imm(r, NULL, VALUE, 7);
		sqe->addr = rows[i].addr;
		sqe->flags = self->flags;
		EXPECT_EQ(-EFAULT, ring_run(r)) {
			TH_LOG("%s 7 bytes", rows[i].what);
		}
	}
	ASSERT_EQ(0, mprotect(mem, self->area.len, PROT_READ | PROT_WRITE));
	EXPECT_TRUE(untouched(&self->area));
}

/* Half of it would fit: nothing is written */
TEST_F(imm, odd_length_into_hole)
{
	unsigned char *end = self->area.mem + self->area.len;
	unsigned int len, in;

	for (len = 3; len <= 7; len++) {
		if (!(len & (len - 1)))
			continue;
		for (in = 1; in < len; in++) {
			EXPECT_EQ(-EFAULT, store(&self->ring, self->flags,
						 end - in, VALUE, len, 0));
			EXPECT_TRUE(untouched(&self->area)) {
				TH_LOG("%u bytes, %u inside", len, in);
			}
		}
	}
}

TEST_F(imm, bad_fixed)
{
	unsigned char *mem = self->area.mem;
	size_t len = self->area.len;
	const struct {
		const char *what;
		__u64 addr;
		unsigned int len, idx;
	} rows[] = {
		{ "empty slot", u64_ptr(mem), 4, BUF_EMPTY },
		{ "past the table", u64_ptr(mem), 4, BUF_NR },
		{ "last index", u64_ptr(mem), 4, 65535 },
		{ "before", u64_ptr(mem) - 4, 4, BUF_AREA },
		{ "behind", u64_ptr(mem) + len, 4, BUF_AREA },
		{ "across the end", u64_ptr(mem) + len - 2, 3, BUF_AREA },
		{ "across the start", u64_ptr(mem) - 1, 3, BUF_AREA },
		{ "null", 0, 4, BUF_AREA },
		{ "overflow", ~0ULL - 1, 7, BUF_AREA },
		{ "top", ~0ULL - 7, 8, BUF_AREA },
	};
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		sqe = ring_imm(r, NULL, VALUE, rows[i].len);
		sqe->addr = rows[i].addr;
		sqe->flags = self->flags;
		sqe->memcpy_flags = IORING_MEMCPY_DST_FIXED;
		sqe->buf_index = rows[i].idx;
		EXPECT_EQ(-EFAULT, ring_run(r)) {
			TH_LOG("%s", rows[i].what);
		}
	}
	EXPECT_TRUE(untouched(&self->area));
}

/* No buffer table at all */
TEST_F(imm, no_buffers)
{
	ASSERT_EQ(0, ring_register(&self->ring, IORING_UNREGISTER_BUFFERS,
				   NULL, 0));
	EXPECT_EQ(-EFAULT, store(&self->ring, self->flags, self->word, VALUE,
				 4, IORING_MEMCPY_DST_FIXED));
	EXPECT_TRUE(untouched(&self->area));
}

/* A store that needs a page first */
TEST_F(imm, absent_page)
{
	unsigned char *mem = self->area.mem;
	unsigned int i;

	for (i = 0; i < 8; i++) {
		unsigned char *at = mem + self->ps + (i & 1 ? 8 : 0);

		ASSERT_EQ(0, madvise(mem + self->ps, self->ps, MADV_DONTNEED));
		ASSERT_EQ(8, store(&self->ring, self->flags, at, VALUE, 8, 0));
		ASSERT_EQ(VALUE, *(__u64 *)at);
		EXPECT_EQ(0, mem[self->ps + (i & 1 ? 0 : 8)]);
	}
	ASSERT_EQ(0, madvise(mem + self->ps, self->ps, MADV_DONTNEED));
	ASSERT_EQ(4, store(&self->ring, self->flags, mem + self->ps, 17, 4,
			   IMM_OP(IORING_MEMCPY_IMM_ADD)));
	EXPECT_EQ(17, *(__u32 *)(mem + self->ps));
}

TEST_F(imm, absent_shared_page)
{
	struct arena a;

	ASSERT_EQ(0, arena_init(&a, 2 * self->ps, true));
	ASSERT_EQ(8, store(&self->ring, self->flags, a.mem + self->ps, VALUE,
			   8, 0));
	EXPECT_EQ(VALUE, *(__u64 *)(a.view + self->ps));
	EXPECT_TRUE(all_bytes(a.view, 0, self->ps));
	arena_exit(&a);
}

/* The child keeps what it had at fork() */
TEST_F(imm, copy_on_write)
{
	__u64 *p = (__u64 *)self->word;
	int go[2], status = -1;
	char c;
	pid_t pid;

	ASSERT_EQ(0, pipe(go));
	*p = 1;
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(go[1]);
		if (read(go[0], &c, 1) < 0)
			_exit(2);
		_exit(*p == 1 ? 0 : 1);
	}
	EXPECT_EQ(8, store(&self->ring, self->flags, p, VALUE, 8, 0));
	EXPECT_EQ(VALUE, *p);
	close(go[1]);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	close(go[0]);
}

enum head {
	HEAD_NOP, HEAD_NOP_TW, HEAD_NOP_ASYNC, HEAD_IMM, HEAD_PIPE,
	HEAD_PIPE_READY, HEAD_FILE, HEAD_FILE_ASYNC, HEAD_SHORT, HEAD_BADF,
	HEAD_FAIL, HEAD_FAIL_TW, HEAD_FAIL_ASYNC, HEAD_NR,
};

static const char *const head_name[] = {
	"nop", "nop by task work", "nop in io-wq", "imm", "poll-armed read",
	"ready pipe", "file", "file in io-wq", "short read", "bad file",
	"failed nop", "failed nop by task work", "failed nop in io-wq",
};

struct heads {
	int pipe[2];
	int file;			/* holds 4 bytes */
	__u64 buf;
};

static void head_sqe(struct ring *r, struct heads *h, enum head head,
		     unsigned int sqe_flags)
{
	struct io_uring_sqe *sqe;

	switch (head) {
	case HEAD_IMM:
		sqe = ring_imm(r, &h->buf, VALUE, 8);
		break;
	case HEAD_PIPE:
	case HEAD_PIPE_READY:
		sqe = ring_read(r, h->pipe[0], &h->buf, 4);
		break;
	case HEAD_FILE:
	case HEAD_FILE_ASYNC:
		sqe = ring_read(r, h->file, &h->buf, 4);
		break;
	case HEAD_SHORT:
		sqe = ring_read(r, h->file, &h->buf, 8);
		break;
	case HEAD_BADF:
		sqe = ring_read(r, -1, &h->buf, 4);
		break;
	default:
		sqe = ring_sqe(r, IORING_OP_NOP);
		if (head == HEAD_NOP_TW || head == HEAD_FAIL_TW)
			sqe->nop_flags = IORING_NOP_TW;
		if (head >= HEAD_FAIL) {
			sqe->nop_flags |= IORING_NOP_INJECT_RESULT;
			sqe->len = -EIO;
		}
	}
	sqe->flags = sqe_flags;
	if (head == HEAD_NOP_ASYNC || head == HEAD_FAIL_ASYNC ||
	    head == HEAD_FILE_ASYNC)
		sqe->flags |= IOSQE_ASYNC;
	sqe->user_data = 0;
}

static bool head_fails(const struct _fixture_variant_imm *variant, enum head head)
{
	bool reads = head >= HEAD_PIPE && head <= HEAD_BADF;

	/* only a file that can be polled is read by a polled ring */
	return head >= HEAD_SHORT || (reads && IOPOLL(variant));
}

/* Every kind of request in front, linked soft and hard */
TEST_F_TIMEOUT(imm, heads, LONG_TIMEOUT)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int head, hard;
	struct heads h;
	int res[2];

	ASSERT_EQ(0, pipe(h.pipe));
	h.file = syscall(__NR_memfd_create, "head", MFD_CLOEXEC);
	ASSERT_LE(0, h.file);
	ASSERT_EQ(4, write(h.file, "abcd", 4));

	for (head = 0; head < HEAD_NR; head++) {
		for (hard = 0; hard < 2; hard++) {
			bool fails = head_fails(variant, head);
			bool stored = !fails || hard;

			memset(self->word, POISON, 8);
			if (head == HEAD_PIPE_READY)
				ASSERT_EQ(4, write(h.pipe[1], "abcd", 4));
			head_sqe(r, &h, head, self->flags |
				 (hard ? IOSQE_IO_HARDLINK : IOSQE_IO_LINK));
			sqe = ring_imm(r, self->word, VALUE, 8);
			sqe->flags = self->flags;
			sqe->user_data = 1;
			ASSERT_EQ(2, ring_submit(r));
			if (head == HEAD_PIPE && !fails) {
				ASSERT_TRUE(ring_quiet(r));
				EXPECT_TRUE(untouched(&self->area));
				ASSERT_EQ(4, write(h.pipe[1], "abcd", 4));
			}
			ASSERT_EQ(0, ring_collect(r, res, 2));
			EXPECT_EQ(stored ? 8 : -ECANCELED, res[1]) {
				TH_LOG("%s, %s link: head %d",
				       head_name[head], hard ? "hard" : "soft",
				       res[0]);
			}
			/* a short read is not an error, only not enough */
			EXPECT_EQ(fails && (head != HEAD_SHORT ||
					    IOPOLL(variant)), res[0] < 0);
			if (stored)
				EXPECT_EQ(VALUE, *(__u64 *)self->word);
			memset(self->word, stored ? POISON : self->word[0], 8);
			EXPECT_TRUE(untouched(&self->area));
			/* what a refused or unread pipe still holds */
			if (IOPOLL(variant) && head == HEAD_PIPE_READY)
				ASSERT_EQ(4, read(h.pipe[0], &h.buf, 4));
		}
	}
	close(h.pipe[0]);
	close(h.pipe[1]);
	close(h.file);
}

TEST_F(imm, chain_of_64)
{
	__u32 *log = (__u32 *)(self->area.mem + self->ps);
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;
	unsigned int i;

	/*
	 * Even links count in one word, odd ones log what they expect there:
	 * an order other than that of the chain shows in the sum.
	 */
	*(__u32 *)self->word = 1;
	for (i = 0; i < 64; i++) {
		if (i & 1)
			sqe = ring_imm(r, &log[i], i, 4);
		else
			sqe = ring_imm(r, self->word, i, 4);
		sqe->flags = self->flags | (i < 63 ? IOSQE_IO_LINK : 0);
		sqe->user_data = i;
	}
	ASSERT_EQ(64, ring_submit(r));
	for (i = 0; i < 64; i++) {
		ASSERT_EQ(0, ring_wait(r, &cqe));
		ASSERT_EQ(4, cqe.res);
		ASSERT_EQ(i, cqe.user_data);
	}
	EXPECT_EQ(62, *(__u32 *)self->word);
	for (i = 1; i < 64; i += 2)
		EXPECT_EQ(i, log[i]);
}

TEST_F(imm, chain_breaks_at_fault)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int i, hard;
	int res[4];

	for (hard = 0; hard < 2; hard++) {
		memset(self->area.mem, POISON, self->area.len);
		for (i = 0; i < 4; i++) {
			sqe = ring_imm(r, i == 1 ? NULL : self->word + 8 * i,
				       VALUE, 8);
			sqe->user_data = i;
			sqe->flags = self->flags;
			if (i < 3)
				sqe->flags |= hard ? IOSQE_IO_HARDLINK :
						     IOSQE_IO_LINK;
		}
		ASSERT_EQ(4, ring_submit(r));
		ASSERT_EQ(0, ring_collect(r, res, 4));
		EXPECT_EQ(8, res[0]);
		EXPECT_EQ(-EFAULT, res[1]);
		EXPECT_EQ(hard ? 8 : -ECANCELED, res[2]);
		EXPECT_EQ(hard ? 8 : -ECANCELED, res[3]);
		EXPECT_EQ(!hard, all_bytes(self->word + 8, POISON, 24));
	}
}

TEST_F(imm, cqe_skip)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;
	__u64 end = now_ms() + WAIT_MS;

	sqe = ring_imm(r, self->word, VALUE, 8);
	sqe->flags = self->flags | IOSQE_CQE_SKIP_SUCCESS;
	ASSERT_EQ(1, ring_submit(r));
	while (__atomic_load_n((__u64 *)self->word, __ATOMIC_ACQUIRE) != VALUE &&
	       now_ms() < end)
		sched_yield();
	EXPECT_EQ(VALUE, *(__u64 *)self->word);
	EXPECT_TRUE(ring_quiet(r));

	/* a failure is told */
	sqe = ring_imm(r, NULL, VALUE, 8);
	sqe->flags = self->flags | IOSQE_CQE_SKIP_SUCCESS;
	sqe->user_data = 7;
	ASSERT_EQ(1, ring_submit(r));
	ASSERT_EQ(0, ring_wait(r, &cqe));
	EXPECT_EQ(7, cqe.user_data);
	EXPECT_EQ(-EFAULT, cqe.res);
}

TEST_F(imm, drain)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;
	unsigned int i;

	for (i = 0; i < 3; i++) {
		sqe = ring_sqe(r, IORING_OP_NOP);
		sqe->flags = self->flags;
		sqe->nop_flags = IORING_NOP_TW;
		sqe->user_data = i;
	}
	sqe = ring_imm(r, self->word, VALUE, 8);
	sqe->flags = self->flags | IOSQE_IO_DRAIN;
	sqe->user_data = 3;
	ASSERT_EQ(4, ring_submit(r));
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, ring_wait(r, &cqe));
		if (i == 3)
			EXPECT_EQ(3, cqe.user_data);
	}
	EXPECT_EQ(8, cqe.res);
	EXPECT_EQ(VALUE, *(__u64 *)self->word);
}

TEST_F(imm, forced_async)
{
	struct ring *r = &self->ring;
	unsigned int len;

	for (len = 1; len <= 8; len++) {
		EXPECT_EQ(len, store(r, IOSQE_ASYNC, self->word, VALUE, len, 0));
		EXPECT_EQ(len, store(r, IOSQE_ASYNC, self->word, VALUE, len,
				     IORING_MEMCPY_DST_FIXED));
	}
	EXPECT_EQ(4, store(r, IOSQE_ASYNC, self->word, VALUE, 4,
			   IMM_OP(IORING_MEMCPY_IMM_XOR)));
	EXPECT_EQ(-EFAULT, store(r, IOSQE_ASYNC, NULL, VALUE, 8, 0));
	EXPECT_EQ(-EFAULT, store(r, IOSQE_ASYNC, NULL, VALUE, 8,
				 IORING_MEMCPY_DST_FIXED));
}

/* A full batch, and more of them than the cache of requests holds */
TEST_F(imm, batches)
{
	__u32 *p = (__u32 *)(self->area.mem + self->ps);
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int i, n;

	for (n = 1; n <= RING_ENTRIES; n *= 2) {
		memset(p, 0, RING_ENTRIES * sizeof(*p));
		for (i = 0; i < n; i++) {
			sqe = ring_imm(r, &p[i], ~i, 4);
			sqe->flags = self->flags;
		}
		ASSERT_EQ(n, ring_submit(r));
		for (i = 0; i < n; i++)
			ASSERT_EQ(4, ring_result(r));
		for (i = 0; i < n; i++)
			ASSERT_EQ(~i, p[i]);
	}
	EXPECT_TRUE(ring_quiet(r));
}

/*
 * A fault that user space has to resolve blocks that request and no other:
 * the ring goes on submitting and completing.
 */
TEST_F_TIMEOUT(imm, fault_blocks_only_itself, LONG_TIMEOUT)
{
	unsigned char *page = self->area.mem + self->ps;
	struct ring *r = &self->ring;
	unsigned int op, i;

	/* pinned pages do not come back after MADV_DONTNEED */
	ASSERT_EQ(0, ring_register(r, IORING_UNREGISTER_BUFFERS, NULL, 0));
	for (op = 0; op < 2; op++) {
		struct io_uring_sqe *sqe;
		struct io_uring_cqe cqe;
		struct blocker b;
		int ret;

		ret = blocker_init(&b, page, self->ps, 0);
		if (ret)
			SKIP(return, "no userfaultfd: %s", strerror(-ret));
		sqe = ring_imm(r, page + 16, 99, 4);
		sqe->flags = self->flags;
		sqe->user_data = 1;
		if (op)
			sqe->memcpy_flags = IMM_OP(IORING_MEMCPY_IMM_OR);
		ASSERT_EQ(1, ring_submit(r));
		EXPECT_TRUE(blocker_wait(&b, WAIT_MS / 4));
		for (i = 0; i < 4; i++) {
			sqe = ring_sqe(r, IORING_OP_NOP);
			sqe->user_data = 2;
			ASSERT_EQ(1, ring_submit(r));
			EXPECT_EQ(0, ring_wait_ms(r, &cqe, WAIT_MS / 8));
			EXPECT_EQ(2, cqe.user_data);
		}
		EXPECT_TRUE(blocker_release(&b));
		ASSERT_EQ(0, ring_wait(r, &cqe));
		EXPECT_EQ(1, cqe.user_data);
		EXPECT_EQ(4, cqe.res);
		EXPECT_EQ(99, *(__u32 *)(page + 16));
	}
}

/* Each in a cache line of its own, so that their order can show */
struct litmus {
	__u32 flag, pad1[31];
	__u32 data, pad2[31];
	__u32 rounds, errors, stop;
};

/*
 * Message passing to another process: the one that acquires the flag sees the data of
 * the link before it.
 */
TEST_F_TIMEOUT(imm, litmus_other_process, LONG_TIMEOUT)
{
	__u64 end = now_ms() + run_ms(600);
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	struct litmus *l;
	__u32 i = 0;
	pid_t pid;

	l = mmap(NULL, sizeof(*l), PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, l);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		while (!__atomic_load_n(&l->stop, __ATOMIC_ACQUIRE)) {
			__u32 f = __atomic_load_n(&l->flag, __ATOMIC_ACQUIRE);
			__u32 d = __atomic_load_n(&l->data, __ATOMIC_RELAXED);

			if ((__s32)(d - f) < 0)
				l->errors++;
			l->rounds++;
			if (!(l->rounds % 64))
				sched_yield();
		}
		_exit(0);
	}
	/* on a busy host the other one may not have run by then */
	while (now_ms() < end ||
	       !__atomic_load_n(&l->rounds, __ATOMIC_RELAXED)) {
		i++;
		sqe = ring_imm(r, &l->data, i, 4);
		sqe->flags = self->flags | IOSQE_IO_LINK;
		sqe = ring_imm(r, &l->flag, i, 4);
		sqe->flags = self->flags;
		ASSERT_EQ(2, ring_submit(r));
		ASSERT_EQ(4, ring_result(r));
		ASSERT_EQ(4, ring_result(r));
	}
	__atomic_store_n(&l->stop, 1, __ATOMIC_RELEASE);
	waitpid(pid, NULL, 0);
	EXPECT_LT(0, l->rounds);
	EXPECT_EQ(0, l->errors);
	EXPECT_EQ(i, l->flag);
	munmap(l, sizeof(*l));
}

struct cq_watch {
	struct ring *ring;
	__u32 *flag;
	__u32 errors, rounds;
	int stop;
};

static void *cq_watch_thread(void *arg)
{
	struct cq_watch *w = arg;

	while (!__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE)) {
		/* chain n puts its first CQE at tail 2n - 1 */
		__u32 n = __atomic_load_n(w->flag, __ATOMIC_ACQUIRE);
		__u32 tail = __atomic_load_n(w->ring->u.cq.ktail,
					     __ATOMIC_RELAXED);

		if (n && (__s32)(tail - (2 * n - 1)) < 0)
			w->errors++;
		if (!(++w->rounds % 64))
			sched_yield();
	}
	return NULL;
}

/* Who sees the store sees the CQEs of the links before it */
TEST_F_TIMEOUT(imm, litmus_cqe, LONG_TIMEOUT)
{
	struct cq_watch w = {
		.ring = &self->ring, .flag = (__u32 *)self->word,
	};
	__u64 end = now_ms() + run_ms(400);
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	pthread_t thread;
	__u32 i = 0;

	*w.flag = 0;
	ASSERT_EQ(0, pthread_create(&thread, NULL, cq_watch_thread, &w));
	while (now_ms() < end ||
	       !__atomic_load_n(&w.rounds, __ATOMIC_RELAXED)) {
		i++;
		sqe = ring_sqe(r, IORING_OP_NOP);
		sqe->flags = self->flags | IOSQE_IO_LINK;
		sqe->nop_flags = i & 1 ? IORING_NOP_TW : 0;
		sqe = ring_imm(r, w.flag, i, 4);
		sqe->flags = self->flags;
		ASSERT_EQ(2, ring_submit(r));
		ASSERT_EQ(0, ring_result(r));
		ASSERT_EQ(4, ring_result(r));
	}
	__atomic_store_n(&w.stop, 1, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	EXPECT_LT(0, w.rounds);
	EXPECT_EQ(0, w.errors);
}

/* A file on a device that polls, or -1. */
static int polled_file(struct ring *r, void *buf, size_t len)
{
	static const char *const names[] = {
		"/dev/nullb0", "/dev/nvme0n1", "/dev/nvme1n1",
	};
	const char *env = getenv("IO_URING_TEST_DEV");
	struct io_uring_sqe *sqe;
	unsigned int i;
	int fd;

	for (i = 0; i <= ARRAY_SIZE(names); i++) {
		const char *name = i ? names[i - 1] : env;

		fd = name ? open(name, O_RDONLY | O_DIRECT | O_CLOEXEC) : -1;
		if (fd < 0)
			continue;
		sqe = ring_read(r, fd, buf, len);
		sqe->user_data = 0;
		if (ring_run(r) == (int)len)
			return fd;
		close(fd);
	}
	return -1;
}

/* The read is found by polling; the store follows in the same reap */
TEST(iopoll_read_then_imm)
{
	struct io_uring_sqe *sqe;
	struct arena a;
	struct ring r;
	int fd, i, res[2];

	ASSERT_EQ(0, ring_init(&r, RING_ENTRIES, IORING_SETUP_IOPOLL));
	if (!ring_has_op(&r, IORING_OP_MEMCPY_IMMEDIATE))
		SKIP(return, "kernel has no IORING_OP_MEMCPY_IMMEDIATE");
	ASSERT_EQ(0, arena_init(&a, 2 * page_size(), false));
	fd = polled_file(&r, a.mem, 4096);
	if (fd < 0)
		SKIP(return, "no block device that polls");
	for (i = 1; i <= 32; i++) {
		sqe = ring_read(&r, fd, a.mem, 4096);
		sqe->flags = IOSQE_IO_LINK;
		sqe = ring_imm(&r, a.mem + page_size(), i, 8);
		sqe->user_data = 1;
		ASSERT_EQ(2, ring_submit(&r));
		ASSERT_EQ(0, ring_collect(&r, res, 2));
		ASSERT_EQ(4096, res[0]);
		ASSERT_EQ(8, res[1]);
		ASSERT_EQ(i, *(__u64 *)(a.mem + page_size()));
	}
	close(fd);
	ring_exit(&r);
	arena_exit(&a);
}

/* Words of one line, two rings, two threads: each op is one atomic step */
struct rmw_ring {
	__u32 *word;
	unsigned int setup;
	unsigned int ops;
	int err;
};

static void *rmw_ring_thread(void *arg)
{
	struct rmw_ring *rr = arg;
	__u64 end = now_ms() + run_ms(400);
	struct io_uring_sqe *sqe;
	struct ring r;
	int i;

	rr->err = ring_init(&r, RING_ENTRIES, rr->setup);
	while (!rr->err && now_ms() < end) {
		for (i = 0; i < 16; i++) {
			sqe = ring_imm(&r, rr->word, 1, 4);
			sqe->memcpy_flags = IMM_OP(IORING_MEMCPY_IMM_ADD);
			sqe->flags = i & 1 ? IOSQE_ASYNC : 0;
		}
		ring_submit(&r);
		for (i = 0; i < 16; i++) {
			int ret = ring_result(&r);

			if (ret != 4)
				rr->err = ret < 0 ? ret : -EIO;
		}
		rr->ops += 16;
	}
	ring_exit(&r);
	return NULL;
}

TEST(rmw_two_rings)
{
	__u32 word = 0;
	struct rmw_ring rr[2] = {
		{ .word = &word, .setup = 0 },
		{ .word = &word, .setup = IORING_SETUP_DEFER_TASKRUN |
					  IORING_SETUP_SINGLE_ISSUER },
	};
	pthread_t thread[2];
	struct ring r;
	int i;

	ASSERT_EQ(0, ring_init(&r, 8, 0));
	if (!ring_has_op(&r, IORING_OP_MEMCPY_IMMEDIATE))
		SKIP(return, "kernel has no IORING_OP_MEMCPY_IMMEDIATE");
	ring_exit(&r);
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, rmw_ring_thread,
					    &rr[i]));
	for (i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	EXPECT_EQ(0, rr[0].err);
	EXPECT_EQ(0, rr[1].err);
	EXPECT_EQ(rr[0].ops + rr[1].ops, word);
}

TEST_HARNESS_MAIN
