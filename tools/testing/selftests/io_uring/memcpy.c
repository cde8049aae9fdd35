// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_MEMCPY moves exactly the bytes that it reports, from where to
 * where it was told and nowhere else, between user memory and registered
 * buffers in every pairing, on every type of ring - and a fault, a cancel or
 * a refused SQE never costs a byte more than cqe->res says.
 */
#include "iou_test.h"
#include "kselftest_harness.h"

#define AREA_SIZE	(256 * 1024)
#define INLINE_MAX	65536
#define MAX_RW_COUNT	(0x7fffffffu & ~((__u32)page_size() - 1))
#define SEED		7

#define BUF_DST		0
#define BUF_SRC		1
#define BUF_EMPTY	2
#define BUF_NR		3

/* Which of the two sides is a registered buffer */
#define PAIR_DST	IORING_MEMCPY_DST_FIXED
#define PAIR_SRC	IORING_MEMCPY_SRC_FIXED
#define PAIR_NR		4

FIXTURE(copy) {
	struct ring ring;
	unsigned int flags;
	size_t ps;
	struct arena src, dst;
	unsigned char *scratch;
};

FIXTURE_VARIANT(copy) {
	struct ring_type type;
};

FIXTURE_VARIANT_ADD(copy, plain) RING_PLAIN;
FIXTURE_VARIANT_ADD(copy, coop) RING_COOP;
FIXTURE_VARIANT_ADD(copy, defer) RING_DEFER;
FIXTURE_VARIANT_ADD(copy, sqpoll) RING_SQPOLL;
FIXTURE_VARIANT_ADD(copy, iopoll) RING_IOPOLL;
FIXTURE_VARIANT_ADD(copy, iowq) RING_IOWQ;

FIXTURE_SETUP(copy)
{
	if (!SETUP_RING(&self->ring, RING_ENTRIES, variant->type.setup,
			IORING_OP_MEMCPY))
		return;
	self->flags = variant->type.sqe_flags;
	self->ps = page_size();
	ASSERT_EQ(0, arena_init(&self->src, AREA_SIZE, true));
	ASSERT_EQ(0, arena_init(&self->dst, AREA_SIZE, true));
	self->scratch = malloc(AREA_SIZE);
	ASSERT_NE(NULL, self->scratch);
	fill_pattern(self->src.view, AREA_SIZE, SEED);
	memset(self->dst.view, POISON, AREA_SIZE);
	ASSERT_EQ(0, ring_buffers_sparse(&self->ring, BUF_NR));
	ASSERT_EQ(1, ring_buffer_set(&self->ring, BUF_DST, self->dst.mem,
				     AREA_SIZE));
	ASSERT_EQ(1, ring_buffer_set(&self->ring, BUF_SRC, self->src.mem,
				     AREA_SIZE));
}

FIXTURE_TEARDOWN(copy)
{
	ring_exit(&self->ring);
	arena_exit(&self->src);
	arena_exit(&self->dst);
	free(self->scratch);
}

static struct io_uring_sqe *pair_sqe(struct ring *r, unsigned int pair,
				     void *dst, const void *src, size_t len)
{
	struct io_uring_sqe *sqe = ring_memcpy(r, dst, src, len);

	sqe->memcpy_flags = pair;
	if (pair & PAIR_DST)
		sqe->buf_index = BUF_DST;
	if (pair & PAIR_SRC)
		sqe->file_index = BUF_SRC;
	return sqe;
}

static int copy(struct ring *r, unsigned int sqe_flags, unsigned int pair,
		void *dst, const void *src, size_t len)
{
	struct io_uring_sqe *sqe = pair_sqe(r, pair, dst, src, len);

	sqe->flags = sqe_flags;
	return ring_run(r);
}

/*
 * [off, off + len) of @a holds the pattern from position @src on, and what is
 * around it is untouched. Makes it poison again.
 */
static bool landed(struct arena *a, unsigned char *scratch, size_t off,
		   size_t src, size_t len)
{
	size_t lo = off < GUARD ? 0 : off - GUARD;
	size_t hi = off + len + GUARD;
	unsigned int i;
	bool ok;

	if (hi > a->len)
		hi = a->len;
	if (arena_read(a, scratch, lo, hi - lo))
		return false;
	ok = all_bytes(scratch, POISON, off - lo) &&
	     all_bytes(scratch + off - lo + len, POISON, hi - off - len);
	for (i = 0; ok && i < len; i++)
		ok = scratch[off - lo + i] == pattern(src + i, SEED);
	memset((a->view ? a->view : a->mem) + lo, POISON, hi - lo);
	return ok;
}

TEST_F_TIMEOUT(copy, lengths, LONG_TIMEOUT)
{
	static const size_t lens[] = {
		0, 1, 2, 3, 7, 8, 63, 64, 65, 511, 4095, 4096, 4097, 16383,
		16384, 16385, 65535, 65536, 65537, 131072, 200001,
	};
	static const struct {
		unsigned int dst, src;
	} offs[] = {
		{ 0, 0 }, { 1, 0 }, { 0, 1 }, { 63, 1 }, { 33, 60 },
		{ 4095, 17 }, { 9, 4090 },
	};
	unsigned int i, j, pair;

	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		for (j = 0; j < ARRAY_SIZE(offs); j++) {
			for (pair = 0; pair < PAIR_NR; pair++) {
				ASSERT_EQ(lens[i],
					  copy(&self->ring, self->flags, pair,
					       self->dst.mem + offs[j].dst,
					       self->src.mem + offs[j].src,
					       lens[i]));
				ASSERT_TRUE(landed(&self->dst, self->scratch,
						   offs[j].dst, offs[j].src,
						   lens[i])) {
					TH_LOG("len %zu to %u from %u pair %u",
					       lens[i], offs[j].dst,
					       offs[j].src, pair);
				}
			}
		}
	}
	EXPECT_EQ(AREA_SIZE, check_pattern(self->src.view, AREA_SIZE, SEED));
	EXPECT_TRUE(untouched(&self->dst));
}

/* Up to the last byte of both areas, behind which nothing is mapped */
TEST_F(copy, area_edges)
{
	unsigned int len, pair;

	for (len = 1; len < 70000; len = len * 5 + 1) {
		for (pair = 0; pair < PAIR_NR; pair++) {
			size_t off = AREA_SIZE - len;

			ASSERT_EQ(len, copy(&self->ring, self->flags, pair,
					    self->dst.mem + off,
					    self->src.mem + off, len));
			ASSERT_TRUE(landed(&self->dst, self->scratch, off, off,
					   len));
		}
	}
	for (pair = 0; pair < PAIR_NR; pair++) {
		ASSERT_EQ(AREA_SIZE, copy(&self->ring, self->flags, pair,
					  self->dst.mem, self->src.mem,
					  AREA_SIZE));
		ASSERT_TRUE(landed(&self->dst, self->scratch, 0, 0, AREA_SIZE));
	}
}

/* Every pair of offsets in a cache line; a sample where that costs much */
TEST_F_TIMEOUT(copy, offsets_mod_64, LONG_TIMEOUT)
{
	bool all = !variant->type.setup && !variant->type.sqe_flags;
	unsigned int d, s, pair, step = all ? 1 : 11;
	const size_t len = 150;

	for (d = 0; d < 64; d += step) {
		for (s = 0; s < 64; s += step) {
			pair = (d + s) % PAIR_NR;
			ASSERT_EQ(len, copy(&self->ring, self->flags, pair,
					    self->dst.mem + 4000 + d,
					    self->src.mem + 4000 + s, len));
			ASSERT_TRUE(landed(&self->dst, self->scratch, 4000 + d,
					   4000 + s, len)) {
				TH_LOG("to %u from %u pair %u", d, s, pair);
			}
		}
	}
}

TEST_F_TIMEOUT(copy, megabytes, LONG_TIMEOUT)
{
	static const size_t lens[] = { 1 << 20, (8 << 20) + 1 };
	size_t max = (8 << 20) + 3 * page_size();
	struct arena src, dst;
	unsigned char *scratch = malloc(max);
	unsigned int i, pair;

	ASSERT_NE(NULL, scratch);
	ASSERT_EQ(0, arena_init(&src, max, true));
	ASSERT_EQ(0, arena_init(&dst, max, false));
	fill_pattern(src.view, src.len, SEED);
	memset(dst.mem, POISON, dst.len);
	ASSERT_EQ(1, ring_buffer_set(&self->ring, BUF_DST, dst.mem, dst.len));
	ASSERT_EQ(1, ring_buffer_set(&self->ring, BUF_SRC, src.mem, src.len));
	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		for (pair = 0; pair < PAIR_NR; pair++) {
			ASSERT_EQ(lens[i], copy(&self->ring, self->flags, pair,
						dst.mem + 4097 + pair,
						src.mem + 31, lens[i]));
			ASSERT_TRUE(landed(&dst, scratch, 4097 + pair, 31,
					   lens[i]));
		}
	}
	free(scratch);
	arena_exit(&src);
	arena_exit(&dst);
}

enum kind {
	KIND_ANON, KIND_SHARED, KIND_FILE_SHARED, KIND_FILE_PRIVATE, KIND_HUGE,
	KIND_THP, KIND_NR,
};

static const char *const kind_name[] = {
	"anonymous", "shared", "shared file", "private file", "hugetlb", "THP",
};

#define KIND_SIZE	(4UL << 20)

/* Make @nr huge pages available, where that is allowed: how many there were */
static int huge_pages(int nr)
{
	FILE *f = fopen("/proc/sys/vm/nr_hugepages", "r+");
	int old = 0;

	if (!f)
		return 0;
	if (fscanf(f, "%d", &old) != 1)
		old = 0;
	rewind(f);
	fprintf(f, "%d", nr);
	fclose(f);
	return old;
}

static unsigned char *kind_map(enum kind kind, size_t *len)
{
	int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE, fd = -1;
	char name[] = "iou_memcpy_XXXXXX";
	unsigned char *p;

	*len = 1 << 20;
	switch (kind) {
	case KIND_ANON:
		flags |= MAP_ANONYMOUS;
		break;
	case KIND_SHARED:
		flags = MAP_SHARED | MAP_ANONYMOUS;
		break;
	case KIND_HUGE:
		*len = KIND_SIZE;
		flags |= MAP_ANONYMOUS | MAP_HUGETLB;
		break;
	case KIND_THP:
		*len = KIND_SIZE;
		flags |= MAP_ANONYMOUS;
		break;
	default:
		if (chdir("/tmp"))
			return NULL;
		fd = mkstemp(name);
		if (fd < 0)
			return NULL;
		unlink(name);
		if (ftruncate(fd, *len))
			return NULL;
		if (kind == KIND_FILE_SHARED)
			flags = MAP_SHARED;
	}
	p = mmap(NULL, *len, prot, flags, fd, 0);
	if (fd >= 0)
		close(fd);
	if (p == MAP_FAILED)
		return NULL;
	if (kind == KIND_THP)
		madvise(p, *len, MADV_HUGEPAGE);
	return p;
}

/*
 * All kinds of memory, present and not, as source and as destination, large
 * enough for the inline try and for io-wq.
 */
TEST_F_TIMEOUT(copy, memory_kinds, LONG_TIMEOUT)
{
	static const size_t lens[] = { 5001, INLINE_MAX, 300001 };
	struct ring *r = &self->ring;
	unsigned int kind, i, absent;
	int pages = huge_pages(8);

	for (kind = 0; kind < KIND_NR; kind++) {
		unsigned char *p, *q;
		size_t len, qlen;

		p = kind_map(kind, &len);
		q = kind_map(kind, &qlen);
		if (!p || !q) {
			TH_LOG("no %s memory: %s", kind_name[kind],
			       strerror(errno));
			if (p)
				munmap(p, len);
			if (q)
				munmap(q, qlen);
			continue;
		}
		for (i = 0; i < ARRAY_SIZE(lens); i++) {
			for (absent = 0; absent < 2; absent++) {
				size_t n = lens[i], off = 4099;

				fill_pattern(p, len, SEED);
				memset(q, POISON, qlen);
				if (absent) {
					madvise(p, len, MADV_DONTNEED);
					madvise(q, qlen, MADV_DONTNEED);
				}
				/* what both are now: pages gone are zeroes */
				ASSERT_EQ(n, copy(r, self->flags, 0, q + off,
						  p + 3, n)) {
					TH_LOG("%s absent %u len %zu",
					       kind_name[kind], absent, n);
				}
				ASSERT_EQ(0, memcmp(q + off, p + 3, n)) {
					TH_LOG("%s absent %u len %zu",
					       kind_name[kind], absent, n);
				}
				ASSERT_EQ(q[off - 1], q[off - 2]);
				ASSERT_EQ(q[off + n], q[off + n + 1]);
			}
		}
		munmap(p, len);
		munmap(q, qlen);
	}
	huge_pages(pages);
}

/* A page never written reads as zeroes and is not made private by a copy */
TEST_F(copy, zero_page_source)
{
	unsigned char *p;

	p = mmap(NULL, AREA_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		 0);
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(100000, copy(&self->ring, self->flags, 0, self->dst.mem, p,
			       100000));
	EXPECT_TRUE(all_bytes(self->dst.view, 0, 100000));
	EXPECT_TRUE(all_bytes(self->dst.view + 100000, POISON,
			      AREA_SIZE - 100000));
	munmap(p, AREA_SIZE);
}

/* The child keeps what it had at fork() */
TEST_F(copy, copy_on_write)
{
	int go[2], status = -1;
	struct arena a;
	char c;
	pid_t pid;

	ASSERT_EQ(0, arena_init(&a, AREA_SIZE, false));
	memset(a.mem, POISON, AREA_SIZE);
	ASSERT_EQ(0, pipe(go));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(go[1]);
		if (read(go[0], &c, 1) < 0)
			_exit(2);
		_exit(!untouched(&a));
	}
	EXPECT_EQ(150001, copy(&self->ring, self->flags, 0, a.mem + 5,
			       self->src.mem + 9, 150001));
	EXPECT_TRUE(landed(&a, self->scratch, 5, 9, 150001));
	close(go[1]);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	close(go[0]);
	arena_exit(&a);
}

/*
 * A hole @n bytes behind the start of either side: those @n bytes, exactly,
 * and what is linked behind does not run.
 */
TEST_F_TIMEOUT(copy, short_copy, LONG_TIMEOUT)
{
	static const size_t before[] = {
		1, 2, 8, 63, 4095, 4096, 4097, 16384, 16391, 65536, 65553,
		200003,
	};
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int i, side, other;
	int res[2];

	for (i = 0; i < ARRAY_SIZE(before); i++) {
		size_t n = before[i], off = AREA_SIZE - n;

		for (side = 0; side < 2; side++) {
			for (other = 0; other < 2; other++) {
				size_t d = side ? off : GUARD + 1;
				size_t s = side ? 13 : off;
				unsigned int pair;

				pair = side ? PAIR_SRC : PAIR_DST;
				/* a short buffer of a table is refused whole */
				sqe = pair_sqe(r, other ? pair : 0,
					       self->dst.mem + d,
					       self->src.mem + s,
					       n + 1 + (i & 1) * 40000);
				sqe->flags = self->flags | IOSQE_IO_LINK;
				if (other && sqe->len + GUARD > AREA_SIZE)
					sqe->len = AREA_SIZE - GUARD - 20;
				sqe = ring_sqe(r, IORING_OP_NOP);
				sqe->flags = self->flags;
				sqe->user_data = 1;
				ASSERT_EQ(2, ring_submit(r));
				ASSERT_EQ(0, ring_collect(r, res, 2));
				EXPECT_EQ(n, res[0]) {
					TH_LOG("hole in %s, other side %s",
					       side ? "dst" : "src",
					       other ? "fixed" : "user");
				}
				EXPECT_EQ(-ECANCELED, res[1]);
				EXPECT_TRUE(landed(&self->dst, self->scratch, d,
						   s, n));
				EXPECT_TRUE(untouched(&self->dst));
				if (!untouched(&self->dst))
					memset(self->dst.view, POISON,
					       AREA_SIZE);
			}
		}
	}
}

/* Whether a plain write() of the byte at @p fails for its protection */
static bool system_call_faults(void *p)
{
	int fd = syscall(__NR_memfd_create, "probe", MFD_CLOEXEC);
	bool ret = write(fd, p, 1) < 0 && errno == EFAULT;

	close(fd);
	return ret;
}

/* A hole in the middle, and protections as holes */
TEST_F(copy, short_copy_protected)
{
	static const int prots[] = { PROT_NONE, PROT_READ };
	size_t hole = 20 * self->ps;
	struct ring *r = &self->ring;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(prots); i++) {
		ASSERT_EQ(0, mprotect(self->dst.mem + hole, self->ps,
				      prots[i]));
		EXPECT_EQ(hole - 77, copy(r, self->flags, 0,
					  self->dst.mem + 77, self->src.mem,
					  hole + self->ps));
		EXPECT_EQ(-EFAULT, copy(r, self->flags, PAIR_SRC,
					self->dst.mem + hole, self->src.mem,
					64));
		ASSERT_EQ(0, mprotect(self->dst.mem + hole, self->ps,
				      PROT_READ | PROT_WRITE));
		EXPECT_TRUE(landed(&self->dst, self->scratch, 77, 0,
				   hole - 77));
		EXPECT_TRUE(untouched(&self->dst));
	}
	ASSERT_EQ(0, mprotect(self->src.mem + hole, self->ps, PROT_NONE));
	/* user mode Linux itself reads pages that the process may not read */
	if (!system_call_faults(self->src.mem + hole))
		return;
	EXPECT_EQ(hole - 9, copy(r, self->flags, PAIR_DST, self->dst.mem + 77,
				 self->src.mem + 9, hole + self->ps));
	EXPECT_TRUE(landed(&self->dst, self->scratch, 77, 9, hole - 9));
	EXPECT_TRUE(untouched(&self->dst));
}

/* A short copy does not sever a hard link */
TEST_F(copy, short_copy_hardlink)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	int res[2];

	sqe = pair_sqe(r, 0, self->dst.mem + AREA_SIZE - 100, self->src.mem,
		       101);
	sqe->flags = self->flags | IOSQE_IO_HARDLINK;
	sqe = pair_sqe(r, 0, self->dst.mem, self->src.mem, 50);
	sqe->flags = self->flags;
	sqe->user_data = 1;
	ASSERT_EQ(2, ring_submit(r));
	ASSERT_EQ(0, ring_collect(r, res, 2));
	EXPECT_EQ(100, res[0]);
	EXPECT_EQ(50, res[1]);
}

TEST_F(copy, bad_sqe)
{
	const struct bad_sqe rows[] = {
#define BAD(e, ...) { .err = (e), .len = 64, .fd = -1, __VA_ARGS__ }
		BAD(-EINVAL, .what = "len", .len = MAX_RW_COUNT + 1),
		BAD(-EINVAL, .what = "len sign", .len = 1u << 31),
		BAD(-EINVAL, .what = "len max", .len = ~0u),
		BAD(-EINVAL, .what = "flag 5", .flags = 1u << 5),
		BAD(-EINVAL, .what = "imm op",
		    .flags = IMM_OP(IORING_MEMCPY_IMM_ADD)),
		BAD(-EINVAL, .what = "flag 31", .flags = 1u << 31),
		BAD(-EINVAL, .what = "cpu and engine",
		    .flags = IORING_MEMCPY_CPU_ONLY |
			     IORING_MEMCPY_ENGINE_ONLY),
		BAD(-EINVAL, .what = "src index without flag",
		    .file_index = BUF_SRC),
		BAD(-EINVAL, .what = "dst index without flag",
		    .buf_index = 1),
		BAD(-EINVAL, .what = "src index 65536", .file_index = 65536,
		    .flags = IORING_MEMCPY_SRC_FIXED),
		BAD(-EINVAL, .what = "src index max", .file_index = ~0u,
		    .flags = IORING_MEMCPY_SRC_FIXED),
		BAD(-EINVAL, .what = "fd 1", .fd = 1),
		BAD(-EINVAL, .what = "fd -2", .fd = -2),
		BAD(-EINVAL, .what = "ioprio", .ioprio = 1),
		BAD(-EINVAL, .what = "addr3", .addr3 = 1),
		BAD(-EINVAL, .what = "addr3 high", .addr3 = 1ULL << 63),
		BAD(-EINVAL, .what = "pad2", .pad2 = 1),
		BAD(-EINVAL, .what = "fixed file", .fd = 0,
		    .sqe_flags = IOSQE_FIXED_FILE),
		BAD(-EOPNOTSUPP, .what = "buffer select",
		    .sqe_flags = IOSQE_BUFFER_SELECT),
		BAD(-EOPNOTSUPP, .what = "engine only",
		    .flags = IORING_MEMCPY_ENGINE_ONLY),
		BAD(-EOPNOTSUPP, .what = "engine only, report",
		    .flags = IORING_MEMCPY_ENGINE_ONLY |
			     IORING_MEMCPY_REPORT),
#undef BAD
	};
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		sqe = ring_memcpy(r, self->dst.mem, self->src.mem,
				  rows[i].len);
		ring_make_bad(sqe, &rows[i]);
		sqe->flags |= self->flags;
		EXPECT_EQ(rows[i].err, ring_run(r)) {
			TH_LOG("%s", rows[i].what);
		}
		EXPECT_TRUE(untouched(&self->dst)) {
			TH_LOG("%s wrote", rows[i].what);
		}
	}
	/* fd is 0 in an SQE that was only zeroed */
	sqe = ring_memcpy(r, self->dst.mem, self->src.mem, 64);
	sqe->flags = self->flags;
	sqe->fd = 0;
	EXPECT_EQ(64, ring_run(r));
}

TEST_F(copy, bad_address)
{
	unsigned char *hole = mmap(NULL, self->ps, PROT_NONE, MAP_PRIVATE |
				   MAP_ANONYMOUS, -1, 0);
	const struct {
		const char *what;
		__u64 addr;
	} rows[] = {
		{ "null", 0 },
		{ "hole", u64_ptr(hole) },
		{ "end of hole", u64_ptr(hole) + self->ps - 1 },
		{ "non-canonical", 1ULL << 63 },
		{ "kernel", 0xffff888000100000ULL },
		{ "kernel text", 0xffffffff81000000ULL },
		{ "top", ~0ULL },
		{ "wraps", ~0ULL - 100 },
#if __SIZEOF_POINTER__ == 8
		{ "above the last user page", 1ULL << 47 },
		{ "above 5 levels", 1ULL << 56 },
#endif
	};
	static const size_t lens[] = { 1, 4096, INLINE_MAX + 1 };
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int i, j, pair, side;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		for (j = 0; j < ARRAY_SIZE(lens) * 4; j++) {
			side = j & 1;
			pair = side ? PAIR_SRC : PAIR_DST;
			if (j & 2)
				pair = 0;
			sqe = pair_sqe(r, pair, self->dst.mem, self->src.mem,
				       lens[j / 4]);
			if (side)
				sqe->addr = rows[i].addr;
			else
				sqe->addr2 = rows[i].addr;
			sqe->flags = self->flags;
			EXPECT_EQ(-EFAULT, ring_run(r)) {
				TH_LOG("%s %s, pair %u len %zu",
				       side ? "dst" : "src", rows[i].what,
				       pair, lens[j / 4]);
			}
		}
	}
	EXPECT_TRUE(untouched(&self->dst));
}

/* The longest copy there may be is not refused for its length */
TEST_F(copy, max_length)
{
	EXPECT_EQ(-EFAULT, copy(&self->ring, self->flags, PAIR_DST,
				self->dst.mem, self->src.mem, MAX_RW_COUNT));
	EXPECT_EQ(-EFAULT, copy(&self->ring, self->flags, PAIR_SRC,
				self->dst.mem, self->src.mem, MAX_RW_COUNT));
	EXPECT_TRUE(untouched(&self->dst));
}

TEST_F(copy, bad_fixed)
{
	unsigned char *dst = self->dst.mem, *src = self->src.mem;
	const struct {
		const char *what;
		__u64 dst, src;
		unsigned int len, flags, buf_index, file_index;
	} rows[] = {
#define BOTH (IORING_MEMCPY_DST_FIXED | IORING_MEMCPY_SRC_FIXED)
#define ROW(d, s, l, f, di, si, w) \
		{ .what = w, .dst = d, .src = s, .len = l, .flags = f, \
		  .buf_index = di, .file_index = si }
		ROW(u64_ptr(dst), u64_ptr(src), 64, PAIR_DST, BUF_EMPTY, 0,
		    "empty dst"),
		ROW(u64_ptr(dst), u64_ptr(src), 64, PAIR_SRC, 0, BUF_EMPTY,
		    "empty src"),
		ROW(u64_ptr(dst), u64_ptr(src), 64, PAIR_DST, BUF_NR, 0,
		    "dst past table"),
		ROW(u64_ptr(dst), u64_ptr(src), 64, PAIR_SRC, 0, BUF_NR,
		    "src past table"),
		ROW(u64_ptr(dst), u64_ptr(src), 64, PAIR_SRC, 0, 65535,
		    "src last index"),
		ROW(u64_ptr(dst), u64_ptr(src), 64, BOTH, BUF_DST, BUF_EMPTY,
		    "good dst, empty src"),
		ROW(u64_ptr(dst), u64_ptr(src), 64, BOTH, BUF_EMPTY, BUF_SRC,
		    "empty dst, good src"),
		ROW(u64_ptr(src), u64_ptr(src), 64, PAIR_DST, BUF_DST, 0,
		    "dst in another buffer"),
		ROW(u64_ptr(dst), u64_ptr(dst) + 64, 64, PAIR_SRC, 0, BUF_SRC,
		    "src in another buffer"),
		ROW(u64_ptr(dst) - 1, u64_ptr(src), 64, PAIR_DST, BUF_DST, 0,
		    "dst starts before"),
		ROW(u64_ptr(dst) + AREA_SIZE - 63, u64_ptr(src), 64, PAIR_DST,
		    BUF_DST, 0, "dst ends behind"),
		ROW(u64_ptr(dst), u64_ptr(src) - 1, 64, PAIR_SRC, 0, BUF_SRC,
		    "src starts before"),
		ROW(u64_ptr(dst), u64_ptr(src) + AREA_SIZE - 63, 64, PAIR_SRC,
		    0, BUF_SRC, "src ends behind"),
		ROW(u64_ptr(dst), u64_ptr(src) + 1, AREA_SIZE, BOTH, BUF_DST,
		    BUF_SRC, "long src ends behind"),
		ROW(u64_ptr(dst) + 1, u64_ptr(src), AREA_SIZE, BOTH, BUF_DST,
		    BUF_SRC, "long dst ends behind"),
		ROW(~0ULL - 10, u64_ptr(src), 64, PAIR_DST, BUF_DST, 0,
		    "dst overflow"),
		ROW(u64_ptr(dst), ~0ULL - 10, 64, PAIR_SRC, 0, BUF_SRC,
		    "src overflow"),
		ROW(0, u64_ptr(src), 64, PAIR_DST, BUF_DST, 0, "dst null"),
#undef ROW
#undef BOTH
	};
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		sqe = ring_memcpy(r, NULL, NULL, rows[i].len);
		sqe->addr = rows[i].dst;
		sqe->addr2 = rows[i].src;
		sqe->memcpy_flags = rows[i].flags;
		sqe->buf_index = rows[i].buf_index;
		sqe->file_index = rows[i].file_index;
		sqe->flags = self->flags;
		EXPECT_EQ(-EFAULT, ring_run(r)) {
			TH_LOG("%s", rows[i].what);
		}
		EXPECT_TRUE(untouched(&self->dst)) {
			TH_LOG("%s wrote", rows[i].what);
		}
	}
	EXPECT_EQ(AREA_SIZE, check_pattern(self->src.view, AREA_SIZE, SEED));
}

/* Nothing to do is done, whatever the addresses are */
TEST_F(copy, zero_length)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int pair;

	for (pair = 0; pair < PAIR_NR; pair++) {
		EXPECT_EQ(0, copy(r, self->flags, pair, NULL, NULL, 0));
		EXPECT_EQ(0, copy(r, self->flags, pair, (void *)-1L,
				  (void *)-1L, 0));
	}
	sqe = ring_memcpy(r, NULL, NULL, 0);
	sqe->memcpy_flags = PAIR_SRC | PAIR_DST;
	sqe->buf_index = BUF_EMPTY;
	sqe->file_index = 65535;
	sqe->flags = self->flags;
	EXPECT_EQ(0, ring_run(r));
	/* what is wrong in the SQE itself stays wrong */
	sqe = ring_memcpy(r, NULL, NULL, 0);
	sqe->memcpy_flags = 1u << 31;
	sqe->flags = self->flags;
	EXPECT_EQ(-EINVAL, ring_run(r));
}

TEST_F(copy, flags_without_effect)
{
	struct io_uring_cqe cqe;
	unsigned int i, pair;
	static const unsigned int flags[] = {
		IORING_MEMCPY_CPU_ONLY, IORING_MEMCPY_REPORT,
		IORING_MEMCPY_CPU_ONLY | IORING_MEMCPY_REPORT,
	};

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		for (pair = 0; pair < PAIR_NR; pair++) {
			struct io_uring_sqe *sqe;

			sqe = pair_sqe(&self->ring, pair, self->dst.mem + i,
				       self->src.mem, 70000);
			sqe->memcpy_flags |= flags[i];
			sqe->flags = self->flags;
			ASSERT_EQ(1, ring_submit(&self->ring));
			ASSERT_EQ(0, ring_wait(&self->ring, &cqe));
			EXPECT_EQ(70000, cqe.res);
			/* no engine: the CPU did it, and REPORT says so */
			EXPECT_EQ(0, cqe.flags);
			EXPECT_TRUE(landed(&self->dst, self->scratch, i, 0,
					   70000));
		}
	}
}

TEST_F(copy, overlap)
{
	static const struct {
		unsigned int dst, src, len;
		bool overlaps;
	} rows[] = {
		{ 1000, 1000, 1, true }, { 1000, 1000, 100, true },
		{ 1000, 1001, 2, true }, { 1001, 1000, 2, true },
		{ 1000, 1099, 100, true }, { 1099, 1000, 100, true },
		{ 1000, 1100, 100, false }, { 1100, 1000, 100, false },
		{ 0, 70000, 70001, true }, { 70000, 0, 70001, true },
		{ 0, 70000, 70000, false }, { 70000, 0, 70000, false },
	};
	unsigned char *mem = self->dst.mem;
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int i, pair;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		for (pair = 0; pair < PAIR_NR; pair += 3) {
			fill_pattern(self->dst.view, AREA_SIZE, SEED);
			sqe = pair_sqe(r, pair, mem + rows[i].dst,
				       mem + rows[i].src, rows[i].len);
			if (pair)
				sqe->file_index = BUF_DST;
			sqe->flags = self->flags;
			EXPECT_EQ(rows[i].overlaps ? -EINVAL :
				  (int)rows[i].len, ring_run(r)) {
				TH_LOG("row %u pair %u", i, pair);
			}
			if (!rows[i].overlaps)
				continue;
			EXPECT_EQ(AREA_SIZE, check_pattern(self->dst.view,
							   AREA_SIZE, SEED));
		}
	}
}

/*
 * Overlap that nobody can see from the SQE: what lands in the range is
 * unspecified, what is around it is not.
 */
TEST_F(copy, overlap_by_alias)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int pair;

	for (pair = 0; pair < PAIR_NR; pair++) {
		memset(self->dst.view, POISON, AREA_SIZE);
		memset(self->dst.view + 1000, 1, 100000);
		sqe = pair_sqe(r, pair, self->dst.mem + 1100, NULL, 99900);
		/* the second mapping, or the first one's pages by index */
		sqe->addr2 = u64_ptr((pair & PAIR_SRC ? self->dst.mem :
						       self->dst.view) + 1000);
		sqe->file_index = pair & PAIR_SRC ? BUF_DST : 0;
		sqe->flags = self->flags;
		EXPECT_EQ(pair == (PAIR_SRC | PAIR_DST) ? -EINVAL : 99900,
			  ring_run(r));
		EXPECT_TRUE(all_bytes(self->dst.view, POISON, 1000));
		EXPECT_TRUE(all_bytes(self->dst.view + 1000, 1, 100000));
		EXPECT_TRUE(all_bytes(self->dst.view + 101000, POISON,
				      AREA_SIZE - 101000));
	}
}

/* One buffer is both sides, under one index and under two */
TEST_F(copy, same_buffer)
{
	unsigned char *mem = self->dst.mem;
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int i;

	ASSERT_EQ(1, ring_buffer_set(r, BUF_EMPTY, mem, AREA_SIZE));
	for (i = 0; i < 2; i++) {
		fill_pattern(self->dst.view, 100000, SEED);
		memset(self->dst.view + 100000, POISON, AREA_SIZE - 100000);
		sqe = pair_sqe(r, PAIR_DST | PAIR_SRC, mem + 120000, mem + 50,
			       90000);
		sqe->file_index = i ? BUF_EMPTY : BUF_DST;
		sqe->flags = self->flags;
		EXPECT_EQ(90000, ring_run(r));
		EXPECT_TRUE(landed(&self->dst, self->scratch, 120000, 50,
				   90000));
	}
}

/* a -> b -> c -> d ... each copy needs the one before it */
TEST_F(copy, chain)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;
	unsigned int i, n = 16, len = 5000;

	for (i = 0; i < n; i++) {
		sqe = pair_sqe(r, i ? 0 : PAIR_SRC,
			       self->dst.mem + i * (len + 100),
			       i ? self->dst.mem + (i - 1) * (len + 100) :
				   self->src.mem + 11, len);
		sqe->flags = self->flags | (i < n - 1 ? IOSQE_IO_LINK : 0);
		sqe->user_data = i;
	}
	ASSERT_EQ(n, ring_submit(r));
	for (i = 0; i < n; i++) {
		ASSERT_EQ(0, ring_wait(r, &cqe));
		ASSERT_EQ(len, cqe.res);
		ASSERT_EQ(i, cqe.user_data);
	}
	EXPECT_TRUE(landed(&self->dst, self->scratch, (n - 1) * (len + 100),
			   11, len));
}

/* The pair that the two opcodes make: copy, then say so */
TEST_F(copy, then_immediate)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	static const size_t lens[] = { 100, INLINE_MAX, 100001 };
	unsigned int i;
	__u32 flag = 0;
	int res[2];

	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		sqe = pair_sqe(r, i, self->dst.mem + 1, self->src.mem + 2,
			       lens[i]);
		sqe->flags = self->flags | IOSQE_IO_LINK;
		sqe = ring_imm(r, &flag, i + 1, 4);
		sqe->flags = self->flags;
		sqe->user_data = 1;
		ASSERT_EQ(2, ring_submit(r));
		ASSERT_EQ(0, ring_collect(r, res, 2));
		EXPECT_EQ(lens[i], res[0]);
		EXPECT_EQ(4, res[1]);
		EXPECT_EQ(i + 1, flag);
		EXPECT_TRUE(landed(&self->dst, self->scratch, 1, 2, lens[i]));
	}
}

TEST_F(copy, cqe_skip_and_drain)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;

	sqe = pair_sqe(r, 0, self->dst.mem, self->src.mem, 100000);
	sqe->flags = self->flags;
	sqe = pair_sqe(r, 0, self->dst.mem + 120000, self->src.mem, 100);
	sqe->flags = self->flags | IOSQE_IO_DRAIN;
	sqe->user_data = 1;
	ASSERT_EQ(2, ring_submit(r));
	ASSERT_EQ(0, ring_wait(r, &cqe));
	EXPECT_EQ(0, cqe.user_data);
	ASSERT_EQ(0, ring_wait(r, &cqe));
	EXPECT_EQ(1, cqe.user_data);

	/* success is silent; a failure is not, nor is a short copy */
	sqe = pair_sqe(r, 0, self->dst.mem, self->src.mem, 10);
	sqe->flags = self->flags | IOSQE_CQE_SKIP_SUCCESS;
	sqe = pair_sqe(r, 0, self->dst.mem + AREA_SIZE - 9, self->src.mem, 10);
	sqe->flags = self->flags | IOSQE_CQE_SKIP_SUCCESS;
	sqe->user_data = 5;
	ASSERT_EQ(2, ring_submit(r));
	ASSERT_EQ(0, ring_wait(r, &cqe));
	EXPECT_EQ(5, cqe.user_data);
	EXPECT_EQ(9, cqe.res);
	EXPECT_TRUE(ring_quiet(r));
}

/* Many at once, short ones and such that go to io-wq */
TEST_F_TIMEOUT(copy, batches, LONG_TIMEOUT)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int i, n, pair;
	struct arena a;
	int res[64];

	ASSERT_EQ(0, arena_init(&a, 64 * 80000, false));
	memset(a.mem, POISON, a.len);
	for (n = 2; n <= 64; n *= 2) {
		for (i = 0; i < n; i++) {
			pair = i & 1 ? PAIR_SRC : 0;
			sqe = pair_sqe(r, pair, a.mem + i * 80000 + 64,
				       self->src.mem + i,
				       i & 2 ? 70001 : 3001);
			sqe->flags = self->flags;
			sqe->user_data = i;
		}
		ASSERT_EQ(n, ring_submit(r));
		ASSERT_EQ(0, ring_collect(r, res, n));
		for (i = 0; i < n; i++) {
			ASSERT_EQ(i & 2 ? 70001 : 3001, res[i]);
			ASSERT_TRUE(landed(&a, self->scratch, i * 80000 + 64, i,
					   res[i]));
		}
	}
	EXPECT_TRUE(ring_quiet(r));
	arena_exit(&a);
}

#define BLOCK_AT	(10 * self->ps)

/* A private area whose page at BLOCK_AT blocks: 0 or why not */
static int blocked_area(struct arena *a, struct blocker *b, size_t at,
			int fill)
{
	int ret = arena_init(a, AREA_SIZE, false);

	if (ret)
		return ret;
	fill_pattern(a->mem, a->len, SEED);
	return blocker_init(b, a->mem + at, page_size(), fill);
}

/* Other requests of the ring go on: @n NOPs complete, each by itself */
static bool ring_alive(struct ring *r, unsigned int n)
{
	struct io_uring_cqe cqe;

	while (n--) {
		ring_sqe(r, IORING_OP_NOP)->user_data = 1000;
		if (ring_submit(r) != 1 ||
		    ring_wait_ms(r, &cqe, WAIT_MS / 8) ||
		    cqe.user_data != 1000)
			return false;
	}
	return true;
}

/* Memory that user space provides on fault, on either side */
TEST_F_TIMEOUT(copy, userfault, LONG_TIMEOUT)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int side, other;
	struct blocker b;
	struct arena a;
	size_t len = 30 * self->ps;
	int ret;

	for (side = 0; side < 2; side++) {
		for (other = 0; other < 2; other++) {
			ret = blocked_area(&a, &b, BLOCK_AT, 0x77);
			if (ret)
				SKIP(return, "no userfaultfd: %s",
				     strerror(-ret));
			if (side)
				sqe = pair_sqe(r, other ? PAIR_SRC : 0, a.mem,
					       self->src.mem + 1, len);
			else
				sqe = pair_sqe(r, other ? PAIR_DST : 0,
					       self->dst.mem + 1, a.mem, len);
			sqe->flags = self->flags;
			ASSERT_EQ(1, ring_submit(r));
			EXPECT_TRUE(blocker_wait(&b, WAIT_MS / 4));
			EXPECT_TRUE(ring_alive(r, 3));
			EXPECT_TRUE(blocker_release(&b));
			EXPECT_EQ(len, ring_result(r));
			if (side) {
				EXPECT_EQ(0, memcmp(a.mem, self->src.view + 1,
						    len));
				/* the area began as the same pattern */
				EXPECT_EQ(0, memcmp(a.mem + len,
						    self->src.view + len,
						    self->ps));
			} else {
				EXPECT_TRUE(all_bytes(self->dst.view + 1 +
						      BLOCK_AT, 0x77,
						      self->ps));
				EXPECT_EQ(0, memcmp(self->dst.view + 1, a.mem,
						    len));
				EXPECT_EQ(POISON, self->dst.view[0]);
				EXPECT_EQ(POISON, self->dst.view[1 + len]);
			}
			memset(self->dst.view, POISON, AREA_SIZE);
			arena_exit(&a);
		}
	}
}

/*
 * What was copied before the fault is not copied again: the source may have
 * been reused, and a second pass would give a mix that never existed.
 */
TEST_F_TIMEOUT(copy, progress_is_kept, LONG_TIMEOUT)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	unsigned int other;
	struct blocker b;
	struct arena a;
	int ret;

	for (other = 0; other < 2; other++) {
		size_t len = other ? 64 * 1024 : 200 * 1024;

		ret = blocked_area(&a, &b, BLOCK_AT, 0x77);
		if (ret)
			SKIP(return, "no userfaultfd: %s", strerror(-ret));
		sqe = pair_sqe(r, other ? PAIR_DST : 0, self->dst.mem, a.mem,
			       len);
		sqe->flags = self->flags;
		ASSERT_EQ(1, ring_submit(r));
		EXPECT_TRUE(blocker_wait(&b, WAIT_MS / 4));
		/* 16 KiB at least are there already, and stay */
		EXPECT_EQ(16384, check_pattern(self->dst.view, 16384, SEED));
		memset(a.mem, 0x11, 16384);
		EXPECT_TRUE(blocker_release(&b));
		EXPECT_EQ(len, ring_result(r));
		EXPECT_EQ(16384, check_pattern(self->dst.view, 16384, SEED));
		EXPECT_EQ(0, memcmp(self->dst.view + BLOCK_AT,
				    a.mem + BLOCK_AT, len - BLOCK_AT));
		memset(self->dst.view, POISON, AREA_SIZE);
		arena_exit(&a);
	}
}

/* The table changes while a copy is under way: it keeps what it began with */
TEST_F_TIMEOUT(copy, table_changes_in_flight, LONG_TIMEOUT)
{
	struct ring *r = &self->ring;
	size_t len = 30 * self->ps;
	struct io_uring_sqe *sqe;
	struct arena a, other;
	unsigned int how;
	struct blocker b;
	int ret;

	ASSERT_EQ(0, arena_init(&other, AREA_SIZE, true));
	memset(other.view, POISON, AREA_SIZE);
	for (how = 0; how < 3; how++) {
		ret = blocked_area(&a, &b, BLOCK_AT, 0x77);
		if (ret)
			SKIP(return, "no userfaultfd: %s", strerror(-ret));
		sqe = pair_sqe(r, PAIR_DST, self->dst.mem + 5, a.mem, len);
		sqe->flags = self->flags;
		ASSERT_EQ(1, ring_submit(r));
		EXPECT_TRUE(blocker_wait(&b, WAIT_MS / 4));
		if (how == 0) {
			EXPECT_EQ(1, ring_buffer_set(r, BUF_DST, other.mem,
						     AREA_SIZE));
		} else if (how == 1) {
			EXPECT_EQ(0, ring_register(r, IORING_UNREGISTER_BUFFERS,
						   NULL, 0));
		} else {
			munmap(self->dst.mem, AREA_SIZE);
		}
		EXPECT_TRUE(ring_alive(r, 1));
		EXPECT_TRUE(blocker_release(&b));
		EXPECT_EQ(len, ring_result(r));
		EXPECT_EQ(0, memcmp(self->dst.view + 5, a.mem, len));
		EXPECT_TRUE(all_bytes(self->dst.view, POISON, 5));
		EXPECT_TRUE(untouched(&other));
		memset(self->dst.view, POISON, AREA_SIZE);
		arena_exit(&a);
		if (how == 0) {
			ASSERT_EQ(1, ring_buffer_set(r, BUF_DST, self->dst.mem,
						     AREA_SIZE));
		} else if (how == 1) {
			ASSERT_EQ(0, ring_buffers_sparse(r, BUF_NR));
			ASSERT_EQ(1, ring_buffer_set(r, BUF_DST, self->dst.mem,
						     AREA_SIZE));
		}
	}
	arena_exit(&other);
}

/*
 * References are taken at submission, also by what is too long to be copied
 * there: a slot that changes before a worker has time is not looked at again.
 */
TEST_F_TIMEOUT(copy, table_changes_while_queued, LONG_TIMEOUT)
{
	struct ring *r = &self->ring;
	__u32 workers[2] = { 1, 1 };
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;
	struct arena a, other;
	struct blocker b;
	int i, ret;

	if (self->flags & IOSQE_ASYNC) {
		TH_LOG("n/a: %s", "submission only hands it to io-wq");
		return;
	}
	ASSERT_EQ(0, arena_init(&other, AREA_SIZE, true));
	memset(other.view, POISON, AREA_SIZE);
	ASSERT_EQ(0, ring_register(r, IORING_REGISTER_IOWQ_MAX_WORKERS,
				   workers, 2));
	ret = blocked_area(&a, &b, BLOCK_AT, 0x77);
	if (ret)
		SKIP(return, "no userfaultfd: %s", strerror(-ret));
	ring_memcpy(r, self->scratch, a.mem, 100000)->user_data = 1;
	ASSERT_EQ(1, ring_submit(r));
	EXPECT_TRUE(blocker_wait(&b, WAIT_MS / 4));

	sqe = pair_sqe(r, PAIR_DST | PAIR_SRC, self->dst.mem + 5,
		       self->src.mem + 3, 100001);
	sqe->user_data = 2;
	ASSERT_EQ(1, ring_submit(r));
	EXPECT_EQ(1, ring_buffer_set(r, BUF_SRC, other.mem, AREA_SIZE));
	EXPECT_EQ(1, ring_buffer_set(r, BUF_DST, other.mem, AREA_SIZE));
	/* what is wrong from the start is told at once, not by the worker */
	sqe = pair_sqe(r, PAIR_DST, self->dst.mem, self->src.mem, 100001);
	sqe->user_data = 3;
	ASSERT_EQ(1, ring_submit(r));
	ASSERT_EQ(0, ring_wait_ms(r, &cqe, WAIT_MS / 4));
	EXPECT_EQ(3, cqe.user_data);
	EXPECT_EQ(-EFAULT, cqe.res);

	EXPECT_TRUE(blocker_release(&b));
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, ring_wait(r, &cqe));
		EXPECT_EQ(cqe.user_data == 1 ? 100000 : 100001, cqe.res);
	}
	EXPECT_TRUE(landed(&self->dst, self->scratch, 5, 3, 100001));
	EXPECT_TRUE(untouched(&other));
	arena_exit(&other);
	arena_exit(&a);
}

/* The same for the index that the core knows nothing of */
TEST_F_TIMEOUT(copy, src_leaves_table_in_flight, LONG_TIMEOUT)
{
	struct ring *r = &self->ring;
	size_t len = 30 * self->ps;
	struct io_uring_sqe *sqe;
	struct blocker b;
	struct arena a;
	int ret;

	ret = blocked_area(&a, &b, BLOCK_AT, 0);
	if (ret)
		SKIP(return, "no userfaultfd: %s", strerror(-ret));
	sqe = pair_sqe(r, PAIR_SRC, a.mem, self->src.mem + 3, len);
	sqe->flags = self->flags;
	ASSERT_EQ(1, ring_submit(r));
	EXPECT_TRUE(blocker_wait(&b, WAIT_MS / 4));
	EXPECT_EQ(1, ring_buffer_set(r, BUF_SRC, NULL, 0));
	EXPECT_EQ(0, ring_register(r, IORING_UNREGISTER_BUFFERS, NULL, 0));
	EXPECT_TRUE(blocker_release(&b));
	EXPECT_EQ(len, ring_result(r));
	EXPECT_EQ(0, memcmp(a.mem, self->src.view + 3, len));
	arena_exit(&a);
}

/* One worker, which is stuck: what waits behind it is cancelled untouched */
TEST_F_TIMEOUT(copy, cancel_queued, LONG_TIMEOUT)
{
	struct ring *r = &self->ring;
	__u32 workers[2] = { 1, 1 };
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;
	struct blocker b;
	struct arena a;
	unsigned int i;
	int ret;

	if (IOPOLL(variant)) {
		TH_LOG("n/a: %s", "a polled ring has no ASYNC_CANCEL");
		return;
	}
	ret = ring_register(r, IORING_REGISTER_IOWQ_MAX_WORKERS, workers, 2);
	ASSERT_EQ(0, ret);
	ret = blocked_area(&a, &b, BLOCK_AT, 0x77);
	if (ret)
		SKIP(return, "no userfaultfd: %s", strerror(-ret));
	sqe = pair_sqe(r, 0, self->dst.mem, a.mem, 100000);
	sqe->flags = self->flags;
	sqe->user_data = 1;
	ASSERT_EQ(1, ring_submit(r));
	EXPECT_TRUE(blocker_wait(&b, WAIT_MS / 4));

	sqe = pair_sqe(r, 0, self->dst.mem + 110000, self->src.mem, 100000);
	sqe->flags = self->flags;
	sqe->user_data = 2;
	ASSERT_EQ(1, ring_submit(r));
	EXPECT_TRUE(ring_quiet(r));
	ring_cancel(r, 2, 0)->user_data = 3;
	ASSERT_EQ(1, ring_submit(r));
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, ring_wait_ms(r, &cqe, WAIT_MS / 4));
		ASSERT_NE(1, cqe.user_data);
		EXPECT_EQ(cqe.user_data == 2 ? -ECANCELED : 0, cqe.res);
	}
	EXPECT_TRUE(all_bytes(self->dst.view + 110000, POISON,
			      AREA_SIZE - 110000));
	EXPECT_TRUE(blocker_release(&b));
	ASSERT_EQ(0, ring_wait(r, &cqe));
	EXPECT_EQ(1, cqe.user_data);
	EXPECT_EQ(100000, cqe.res);
	arena_exit(&a);
}

/* A copy under way stops soon, and says how far it came */
TEST_F_TIMEOUT(copy, cancel_running, LONG_TIMEOUT)
{
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;
	unsigned char *big;
	size_t len = 2 << 20, at = 150 * self->ps;
	struct blocker b;
	int ret, res = 0;
	unsigned int i;

	if (IOPOLL(variant)) {
		TH_LOG("n/a: %s", "a polled ring has no ASYNC_CANCEL");
		return;
	}
	big = mmap(NULL, 2 * len, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, big);
	fill_pattern(big, len, SEED);
	memset(big + len, POISON, len);
	ret = blocker_init(&b, big + at, self->ps, 0x77);
	if (ret)
		SKIP(return, "no userfaultfd: %s", strerror(-ret));
	sqe = ring_memcpy(r, big + len, big, len);
	sqe->flags = self->flags;
	sqe->user_data = 1;
	ASSERT_EQ(1, ring_submit(r));
	EXPECT_TRUE(blocker_wait(&b, WAIT_MS / 4));
	ring_cancel(r, 1, 0)->user_data = 2;
	ASSERT_EQ(1, ring_submit(r));
	ASSERT_EQ(0, ring_wait_ms(r, &cqe, WAIT_MS / 4));
	EXPECT_EQ(2, cqe.user_data);
	EXPECT_EQ(-EALREADY, cqe.res);
	EXPECT_TRUE(blocker_release(&b));
	ASSERT_EQ(0, ring_wait(r, &cqe));
	EXPECT_EQ(1, cqe.user_data);
	res = cqe.res;
	/* not before the fault, not more than a chunk behind it */
	EXPECT_LE(at - INLINE_MAX, res);
	EXPECT_GE(at + self->ps + INLINE_MAX, res);
	for (i = 0; res > 0 && i < res; i++)
		if (big[len + i] != big[i])
			break;
	EXPECT_EQ(res, i);
	if (res >= 0)
		EXPECT_TRUE(all_bytes(big + len + res, POISON, len - res));
	munmap(big, 2 * len);
}

/* A timeout is a cancel */
TEST_F_TIMEOUT(copy, link_timeout, LONG_TIMEOUT)
{
	struct __kernel_timespec ts = { .tv_nsec = 30 * 1000 * 1000 };
	struct ring *r = &self->ring;
	struct io_uring_sqe *sqe;
	struct blocker b;
	struct arena a;
	int ret, res[3];

	if (IOPOLL(variant)) {
		TH_LOG("n/a: %s", "a polled ring has no LINK_TIMEOUT");
		return;
	}
	ret = blocked_area(&a, &b, BLOCK_AT, 0x77);
	if (ret)
		SKIP(return, "no userfaultfd: %s", strerror(-ret));
	sqe = pair_sqe(r, 0, self->dst.mem, a.mem, AREA_SIZE);
	sqe->flags = self->flags | IOSQE_IO_LINK;
	sqe = ring_sqe(r, IORING_OP_LINK_TIMEOUT);
	sqe->addr = u64_ptr(&ts);
	sqe->len = 1;
	sqe->user_data = 1;
	ASSERT_EQ(2, ring_submit(r));
	/* on a slow machine the timeout may be faster than the worker */
	blocker_wait(&b, WAIT_MS / 8);
	usleep(100 * 1000);
	if (DEFER(variant))
		ring_enter(r, 0, 0, IORING_ENTER_GETEVENTS);
	EXPECT_TRUE(blocker_release(&b));
	ASSERT_EQ(0, ring_collect(r, res, 2));
	/* the core arms the timeout of a request in io-wq after its issue */
	if (self->flags & IOSQE_ASYNC) {
		EXPECT_EQ(AREA_SIZE, res[0]);
		EXPECT_EQ(-ECANCELED, res[1]);
		arena_exit(&a);
		return;
	}
	EXPECT_TRUE(res[0] == -ECANCELED ||
		    (res[0] > 0 && res[0] <= (int)(BLOCK_AT + self->ps +
						   INLINE_MAX))) {
		TH_LOG("result %d", res[0]);
	}
	/* what runs in io-wq is told to stop and is no longer to be found */
	EXPECT_TRUE(res[1] == -EALREADY || res[1] == -ENOENT ||
		    res[1] == -ETIME) {
		TH_LOG("timeout result %d", res[1]);
	}
	if (res[0] >= 0) {
		EXPECT_EQ(0, memcmp(self->dst.view, a.mem, res[0]));
		EXPECT_TRUE(all_bytes(self->dst.view + res[0], POISON,
				      AREA_SIZE - res[0]));
	}
	arena_exit(&a);
}

/* Pages that nothing else on the machine shares */
TEST_F(copy, secret_memory)
{
	unsigned char *p;
	int fd = -1;

#ifdef __NR_memfd_secret
	fd = syscall(__NR_memfd_secret, 0);
#endif
	if (fd < 0)
		SKIP(return, "no memfd_secret: %s", strerror(errno));
	ASSERT_EQ(0, ftruncate(fd, AREA_SIZE));
	p = mmap(NULL, AREA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		SKIP(return, "cannot lock secret memory: %s", strerror(errno));
	EXPECT_EQ(100001, copy(&self->ring, self->flags, 0, p + 3,
			       self->src.mem, 100001));
	EXPECT_EQ(100001, copy(&self->ring, self->flags, 0, self->dst.mem,
			       p + 3, 100001));
	EXPECT_TRUE(landed(&self->dst, self->scratch, 0, 0, 100001));
	munmap(p, AREA_SIZE);
	close(fd);
}

/* Registered huge pages are few and long segments */
TEST_F(copy, registered_huge_pages)
{
	int pages = huge_pages(8);
	unsigned char *p;
	size_t len;

	p = kind_map(KIND_HUGE, &len);
	if (!p)
		SKIP(return, "no huge pages: %s", strerror(errno));
	ASSERT_EQ(1, ring_buffer_set(&self->ring, BUF_SRC, p, len));
	fill_pattern(p, len, SEED);
	EXPECT_EQ(200001, copy(&self->ring, self->flags, PAIR_DST | PAIR_SRC,
			       self->dst.mem + 7, p + (2 << 20) - 99,
			       200001));
	EXPECT_EQ(0, memcmp(self->dst.view + 7, p + (2 << 20) - 99, 200001));
	munmap(p, len);
	huge_pages(pages);
}

TEST_HARNESS_MAIN
