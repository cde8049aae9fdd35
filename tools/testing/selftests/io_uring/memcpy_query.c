// SPDX-License-Identifier: GPL-2.0
/*
 * How a program finds out about the two opcodes, how an administrator keeps
 * them from it, and what fdinfo counts.
 */
#include <linux/io_uring/query.h>

#include "iou_test.h"
#include "kselftest_harness.h"

#define IMM_OPS		((1ULL << __IORING_MEMCPY_IMM_OP_LAST) - 1)
/* ENGINE_ONLY is known, but there is no engine */
#define MEMCPY_FLAGS	(IORING_MEMCPY_DST_FIXED | IORING_MEMCPY_SRC_FIXED | \
			 IORING_MEMCPY_CPU_ONLY | IORING_MEMCPY_REPORT)

FIXTURE(query) {
	struct ring ring;
	unsigned char src[4096], dst[4096];
};

FIXTURE_SETUP(query)
{
	if (!SETUP_RING(&self->ring, RING_ENTRIES, 0, IORING_OP_MEMCPY))
		return;
	memset(self->dst, POISON, sizeof(self->dst));
}

FIXTURE_TEARDOWN(query)
{
	ring_exit(&self->ring);
}

/* fd -1: a query needs no ring */
static int do_query(unsigned int op, void *data, unsigned int size,
		    struct io_uring_query_hdr *hdr)
{
	memset(hdr, 0, sizeof(*hdr));
	hdr->query_op = op;
	hdr->query_data = u64_ptr(data);
	hdr->size = size;
	if (syscall(__NR_io_uring_register, -1, IORING_REGISTER_QUERY, hdr, 0))
		return -errno;
	return hdr->result;
}

TEST_F(query, probe)
{
	EXPECT_TRUE(ring_has_op(&self->ring, IORING_OP_MEMCPY_IMMEDIATE));
	EXPECT_TRUE(ring_has_op(&self->ring, IORING_OP_MEMCPY));
}

TEST_F(query, copy_fields)
{
	struct io_uring_query_copy q;
	struct io_uring_query_hdr hdr;

	memset(&q, POISON, sizeof(q));
	ASSERT_EQ(0, do_query(IO_URING_QUERY_COPY, &q, sizeof(q), &hdr));
	EXPECT_EQ(sizeof(q), hdr.size);
	EXPECT_EQ(MEMCPY_FLAGS, q.memcpy_flags);
	EXPECT_EQ(IORING_MEMCPY_DST_FIXED, q.imm_flags);
	EXPECT_EQ(IMM_OPS, q.imm_ops);
	EXPECT_EQ(0x7fffffffu & ~((__u32)page_size() - 1), q.max_len);
	EXPECT_EQ(65536, q.inline_max);
	EXPECT_EQ(8, q.imm_max_len);
	EXPECT_TRUE(all_bytes(q.__resv, 0, sizeof(q.__resv)));
}

/* An older and a newer program: less is cut off, more is zero */
TEST_F(query, copy_sizes)
{
	struct {
		struct io_uring_query_copy q;
		unsigned char more[64];
	} big;
	struct io_uring_query_hdr hdr;

	memset(&big, POISON, sizeof(big));
	ASSERT_EQ(0, do_query(IO_URING_QUERY_COPY, &big, 16, &hdr));
	EXPECT_EQ(16, hdr.size);
	EXPECT_EQ(MEMCPY_FLAGS, big.q.memcpy_flags);
	EXPECT_EQ(IORING_MEMCPY_DST_FIXED, big.q.imm_flags);
	EXPECT_TRUE(all_bytes(&big.q.imm_ops, POISON,
			      sizeof(big) - 16));

	memset(&big, POISON, sizeof(big));
	ASSERT_EQ(0, do_query(IO_URING_QUERY_COPY, &big, sizeof(big), &hdr));
	EXPECT_EQ(sizeof(big.q), hdr.size);
	EXPECT_EQ(IMM_OPS, big.q.imm_ops);
	EXPECT_TRUE(all_bytes(big.more, 0, sizeof(big.more)));
}

/* What the kernel says is supported is taken, what it does not is refused */
TEST_F(query, flags_are_true)
{
	struct ring *r = &self->ring;
	struct io_uring_query_copy q = {};
	struct io_uring_query_hdr hdr;
	struct io_uring_sqe *sqe;
	unsigned int bit;

	ASSERT_EQ(0, do_query(IO_URING_QUERY_COPY, &q, sizeof(q), &hdr));
	for (bit = 0; bit < 32; bit++) {
		__u32 flag = 1u << bit;
		int res;

		sqe = ring_memcpy(r, self->dst, self->src, 16);
		sqe->memcpy_flags = flag;
		res = ring_run(r);
		EXPECT_EQ(!(q.memcpy_flags & flag),
			  res == -EINVAL || res == -EOPNOTSUPP) {
			TH_LOG("memcpy flag %#x: %d", flag, res);
		}
		if (flag & IORING_MEMCPY_IMM_OP_MASK)
			continue;
		sqe = ring_imm(r, self->dst, 1, 1);
		sqe->memcpy_flags = flag;
		res = ring_run(r);
		EXPECT_EQ(!(q.imm_flags & flag), res == -EINVAL) {
			TH_LOG("imm flag %#x: %d", flag, res);
		}
	}
	for (bit = 0; bit < 16; bit++) {
		__u32 word = 0;
		int res;

		sqe = ring_imm(r, &word, 1, 4);
		sqe->memcpy_flags = IMM_OP(bit);
		res = ring_run(r);
		EXPECT_EQ(q.imm_ops & (1ULL << bit) ? 4 : -EINVAL, res);
	}
}

TEST_F(query, unknown_op)
{
	struct io_uring_query_hdr hdr;
	unsigned char data[64];

	memset(data, POISON, sizeof(data));
	EXPECT_EQ(-EOPNOTSUPP, do_query(100, data, sizeof(data), &hdr));
	EXPECT_EQ(0, hdr.size);
	EXPECT_EQ(-EOPNOTSUPP, do_query(1000, data, sizeof(data), &hdr));
}

TEST_F(query, bad_header)
{
	struct io_uring_query_copy q;
	struct io_uring_query_hdr hdr = {
		.query_op = IO_URING_QUERY_COPY, .query_data = u64_ptr(&q),
		.size = sizeof(q),
	};

	memset(&q, POISON, sizeof(q));
	EXPECT_EQ(-EINVAL, do_query(IO_URING_QUERY_COPY, &q, 0, &hdr));
	EXPECT_EQ(-EFAULT, do_query(IO_URING_QUERY_COPY, NULL, sizeof(q),
				    &hdr));
	memset(&hdr, 0, sizeof(hdr));
	hdr.query_op = IO_URING_QUERY_COPY;
	hdr.query_data = u64_ptr(&q);
	hdr.size = sizeof(q);
	hdr.__resv[1] = 1;
	EXPECT_EQ(0, syscall(__NR_io_uring_register, -1, IORING_REGISTER_QUERY,
			     &hdr, 0));
	EXPECT_EQ(-EINVAL, hdr.result);
}

TEST_F(query, opcode_counts)
{
	struct io_uring_query_opcode q = {};
	struct io_uring_query_hdr hdr;

	ASSERT_EQ(0, do_query(IO_URING_QUERY_OPCODES, &q, sizeof(q), &hdr));
	EXPECT_LT(IORING_OP_MEMCPY, q.nr_request_opcodes);
	EXPECT_LT(IO_URING_QUERY_COPY, q.nr_query_opcodes);
}

/* A ring that is limited to some opcodes */
static int restricted(struct ring *r, unsigned int sqe_op)
{
	struct io_uring_restriction res = {
		.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = sqe_op,
	};
	int ret = ring_init(r, RING_ENTRIES, IORING_SETUP_R_DISABLED);

	if (!ret)
		ret = ring_register(r, IORING_REGISTER_RESTRICTIONS, &res, 1);
	if (!ret)
		ret = ring_register(r, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	return ret;
}

TEST_F(query, restricted_ring)
{
	static const unsigned int ops[] = {
		IORING_OP_NOP, IORING_OP_MEMCPY_IMMEDIATE, IORING_OP_MEMCPY,
	};
	struct ring r;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		memset(self->dst, POISON, sizeof(self->dst));
		ASSERT_EQ(0, restricted(&r, ops[i]));
		ring_imm(&r, self->dst, 1, 8);
		EXPECT_EQ(ops[i] == IORING_OP_MEMCPY_IMMEDIATE ? 8 : -EACCES,
			  ring_run(&r));
		ring_memcpy(&r, self->dst + 8, self->src, 8);
		EXPECT_EQ(ops[i] == IORING_OP_MEMCPY ? 8 : -EACCES,
			  ring_run(&r));
		if (ops[i] == IORING_OP_NOP)
			EXPECT_TRUE(all_bytes(self->dst, POISON,
					      sizeof(self->dst)));
		ring_exit(&r);
	}
}

/* A line of /proc/self/fdinfo/<ring>, or -1 */
static long long ring_fdinfo(struct ring *r, const char *name)
{
	char path[64], line[256];
	long long val = -1;
	size_t n = strlen(name);
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", r->u.ring_fd);
	f = fopen(path, "r");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, name, n) && line[n] == ':')
			val = strtoll(line + n + 1, NULL, 10);
	fclose(f);
	return val;
}

TEST_F(query, fdinfo_counts)
{
	struct ring *r = &self->ring;
	long long done, punted;
	unsigned char *p;
	size_t len = 1 << 20;

	done = ring_fdinfo(r, "MemcpyInline");
	punted = ring_fdinfo(r, "MemcpyPunted");
	ASSERT_LE(0, done);
	ASSERT_LE(0, punted);

	/* present on both sides: inline */
	self->src[0] = 1;
	ring_memcpy(r, self->dst, self->src, sizeof(self->dst));
	ASSERT_EQ(sizeof(self->dst), ring_run(r));
	EXPECT_EQ(done + 1, ring_fdinfo(r, "MemcpyInline"));
	EXPECT_EQ(punted, ring_fdinfo(r, "MemcpyPunted"));

	/* too long */
	p = mmap(NULL, 2 * len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, p);
	memset(p, 1, 2 * len);
	ring_memcpy(r, p + len, p, len);
	ASSERT_EQ(len, ring_run(r));
	EXPECT_EQ(done + 1, ring_fdinfo(r, "MemcpyInline"));
	EXPECT_EQ(punted + 1, ring_fdinfo(r, "MemcpyPunted"));

	/* a fault */
	ASSERT_EQ(0, madvise(p, 2 * len, MADV_DONTNEED));
	ring_memcpy(r, p, self->src, 100);
	ASSERT_EQ(100, ring_run(r));
	EXPECT_EQ(done + 1, ring_fdinfo(r, "MemcpyInline"));
	EXPECT_EQ(punted + 2, ring_fdinfo(r, "MemcpyPunted"));
	munmap(p, 2 * len);
}

/* fdinfo prints entries that wait in the SQ by name */
TEST_F(query, fdinfo_sqe)
{
	char path[64], line[256];
	bool imm = false, cpy = false;
	struct ring *r = &self->ring;
	FILE *f;

	ring_imm(r, self->dst, 1, 8);
	ring_memcpy(r, self->dst, self->src, 8);
	ring_publish(r);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", r->u.ring_fd);
	f = fopen(path, "r");
	ASSERT_NE(NULL, f);
	while (fgets(line, sizeof(line), f)) {
		imm |= !!strstr(line, "opcode:MEMCPY_IMMEDIATE,");
		cpy |= !!strstr(line, "opcode:MEMCPY,");
	}
	fclose(f);
	EXPECT_TRUE(imm);
	EXPECT_TRUE(cpy);
}

TEST_HARNESS_MAIN
