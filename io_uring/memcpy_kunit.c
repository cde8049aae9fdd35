// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests for what the memcpy opcodes decide without touching memory: the
 * SQE checks, the byte order of immediates, and what counts as overlap.
 *
 * Copyright (C) 2026 The uring-offload authors
 */
#include <linux/io_uring.h>
#include <linux/io_uring_types.h>
#include <linux/limits.h>
#include <linux/string.h>

#include <kunit/test.h>

#include <uapi/linux/io_uring.h>

#include "memcpy.h"
#include "memcpy_imm.h"

struct memcpy_prep_case {
	const char		*name;
	struct io_uring_sqe	sqe;
	io_req_flags_t		req_flags;
	int			ret;
};

#define IMM_OP(op)	(IORING_MEMCPY_IMM_##op << IORING_MEMCPY_IMM_OP_SHIFT)

static const struct memcpy_prep_case imm_prep_cases[] = {
	{ "one byte", { .addr = 0x1001, .len = 1 } },
	{ "three bytes anywhere", { .addr = 0x1001, .len = 3 } },
	{ "eight bytes", { .addr = 0x1008, .len = 8, .fd = -1 } },
	{ "fixed", { .addr = 0x1000, .len = 4, .buf_index = 7,
		     .memcpy_flags = IORING_MEMCPY_DST_FIXED } },
	{ "add", { .addr = 0x1004, .len = 4, .memcpy_flags = IMM_OP(ADD) } },
	{ "or", { .addr = 0x1004, .len = 4, .memcpy_flags = IMM_OP(OR) } },
	{ "andn", { .addr = 0x1004, .len = 4, .memcpy_flags = IMM_OP(ANDN) } },
	{ "xor", { .addr = 0x1004, .len = 4, .memcpy_flags = IMM_OP(XOR) } },
	{ "no length", { .addr = 0x1000 }, 0, -EINVAL },
	{ "nine bytes", { .addr = 0x1000, .len = 9 }, 0, -EINVAL },
	{ "huge length", { .addr = 0x1000, .len = U32_MAX }, 0, -EINVAL },
	{ "misaligned by 1 of 2", { .addr = 0x1001, .len = 2 }, 0, -EINVAL },
	{ "misaligned by 2 of 4", { .addr = 0x1002, .len = 4 }, 0, -EINVAL },
	{ "misaligned by 4 of 8", { .addr = 0x1004, .len = 8 }, 0, -EINVAL },
	{ "unknown flag", { .addr = 0x1000, .len = 4,
			    .memcpy_flags = IORING_MEMCPY_SRC_FIXED },
	  0, -EINVAL },
	{ "unknown high flag", { .addr = 0x1000, .len = 4,
				 .memcpy_flags = 1U << 31 }, 0, -EINVAL },
	{ "unknown operation", { .addr = 0x1000, .len = 4, .memcpy_flags =
				 __IORING_MEMCPY_IMM_OP_LAST <<
				 IORING_MEMCPY_IMM_OP_SHIFT }, 0, -EINVAL },
	{ "add to eight bytes", { .addr = 0x1000, .len = 8,
				  .memcpy_flags = IMM_OP(ADD) }, 0, -EINVAL },
	{ "add to fixed", { .addr = 0x1000, .len = 4, .memcpy_flags =
			    IMM_OP(ADD) | IORING_MEMCPY_DST_FIXED },
	  0, -EINVAL },
	{ "index without flag", { .addr = 0x1000, .len = 4, .buf_index = 1 },
	  0, -EINVAL },
	{ "fd", { .addr = 0x1000, .len = 4, .fd = 3 }, 0, -EINVAL },
	{ "file_index", { .addr = 0x1000, .len = 4, .file_index = 1 },
	  0, -EINVAL },
	{ "addr3", { .addr = 0x1000, .len = 4, .addr3 = 1 }, 0, -EINVAL },
	{ "__pad2", { .addr = 0x1000, .len = 4, .__pad2 = { 1 } },
	  0, -EINVAL },
	{ "fixed file", { .addr = 0x1000, .len = 4 }, REQ_F_FIXED_FILE,
	  -EINVAL },
};

static const struct memcpy_prep_case memcpy_prep_cases[] = {
	{ "user to user", { .addr = 0x1000, .addr2 = 0x2000, .len = 0x1000 } },
	{ "nothing", { .addr = 0x1000, .addr2 = 0x1000 } },
	{ "as much as it gets", { .addr = 0, .addr2 = 1ULL << 40,
				  .len = MAX_RW_COUNT } },
	{ "fixed to fixed", { .addr = 0x1000, .addr2 = 0x1000, .len = 1,
			      .buf_index = 1, .file_index = 65535,
			      .memcpy_flags = IORING_MEMCPY_DST_FIXED |
					      IORING_MEMCPY_SRC_FIXED } },
	{ "one address, two spaces", { .addr = 0x1000, .addr2 = 0x1000,
				       .len = 1, .memcpy_flags =
				       IORING_MEMCPY_SRC_FIXED } },
	{ "cpu only", { .addr = 0x1000, .addr2 = 0x2000, .len = 1, .fd = -1,
			.memcpy_flags = IORING_MEMCPY_CPU_ONLY |
					IORING_MEMCPY_REPORT } },
	{ "engine only", { .addr = 0x1000, .addr2 = 0x2000, .len = 1,
			   .memcpy_flags = IORING_MEMCPY_ENGINE_ONLY } },
	{ "too long", { .addr = 0, .addr2 = 1ULL << 40,
			.len = MAX_RW_COUNT + 1U }, 0, -EINVAL },
	{ "same place", { .addr = 0x1000, .addr2 = 0x1000, .len = 1 },
	  0, -EINVAL },
	{ "dst within src", { .addr = 0x1fff, .addr2 = 0x1000, .len = 0x1000 },
	  0, -EINVAL },
	{ "src within dst", { .addr = 0x1000, .addr2 = 0x1fff, .len = 0x1000 },
	  0, -EINVAL },
	{ "neither and both", { .addr = 0x1000, .addr2 = 0x2000, .len = 1,
				.memcpy_flags = IORING_MEMCPY_CPU_ONLY |
						IORING_MEMCPY_ENGINE_ONLY },
	  0, -EINVAL },
	{ "unknown flag", { .addr = 0x1000, .addr2 = 0x2000, .len = 1,
			    .memcpy_flags = 1U << 5 }, 0, -EINVAL },
	{ "operation of an immediate", { .addr = 0x1000, .addr2 = 0x2000,
					 .len = 4,
					 .memcpy_flags = IMM_OP(ADD) },
	  0, -EINVAL },
	{ "dst index without flag", { .addr = 0x1000, .addr2 = 0x2000,
				      .len = 1, .buf_index = 1 }, 0, -EINVAL },
	{ "src index without flag", { .addr = 0x1000, .addr2 = 0x2000,
				      .len = 1, .file_index = 1 }, 0, -EINVAL },
	{ "src index too large", { .addr = 0x1000, .addr2 = 0x2000, .len = 1,
				   .file_index = 65536, .memcpy_flags =
				   IORING_MEMCPY_SRC_FIXED }, 0, -EINVAL },
	{ "fd", { .addr = 0x1000, .addr2 = 0x2000, .len = 1, .fd = 3 },
	  0, -EINVAL },
	{ "addr3", { .addr = 0x1000, .addr2 = 0x2000, .len = 1, .addr3 = 1 },
	  0, -EINVAL },
	{ "__pad2", { .addr = 0x1000, .addr2 = 0x2000, .len = 1,
		      .__pad2 = { 1 } }, 0, -EINVAL },
	{ "fixed file", { .addr = 0x1000, .addr2 = 0x2000, .len = 1 },
	  REQ_F_FIXED_FILE, -EINVAL },
};

static void memcpy_prep_desc(const struct memcpy_prep_case *c, char *desc)
{
	strscpy(desc, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(imm_prep, imm_prep_cases, memcpy_prep_desc);
KUNIT_ARRAY_PARAM(memcpy_prep, memcpy_prep_cases, memcpy_prep_desc);

static struct io_kiocb *memcpy_test_req(struct kunit *test)
{
	const struct memcpy_prep_case *c = test->param_value;
	struct io_kiocb *req;

	req = kunit_kzalloc(test, sizeof(*req), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, req);
	req->flags = c->req_flags;
	return req;
}

static void imm_prep_test(struct kunit *test)
{
	const struct memcpy_prep_case *c = test->param_value;
	struct io_kiocb *req = memcpy_test_req(test);

	KUNIT_EXPECT_EQ(test, io_memcpy_imm_prep(req, &c->sqe), c->ret);
	KUNIT_EXPECT_EQ(test, req->buf_index, c->sqe.buf_index);
}

static void memcpy_prep_test(struct kunit *test)
{
	const struct memcpy_prep_case *c = test->param_value;
	struct io_kiocb *req = memcpy_test_req(test);

	KUNIT_EXPECT_EQ(test, io_memcpy_prep(req, &c->sqe), c->ret);
	/* nothing to clean up, whatever prep thought of it */
	KUNIT_EXPECT_FALSE(test, req->flags & REQ_F_NEED_CLEANUP);
}

static void imm_bytes_test(struct kunit *test)
{
	const u64 val = 0x8877665544332211ULL;
	const u32 val32 = (u32)val;
	const u16 val16 = (u16)val;
	const u8 val8 = (u8)val;

	KUNIT_EXPECT_MEMEQ(test, io_memcpy_imm_bytes(&val, 8), &val, 8);
	KUNIT_EXPECT_MEMEQ(test, io_memcpy_imm_bytes(&val, 4), &val32, 4);
	KUNIT_EXPECT_MEMEQ(test, io_memcpy_imm_bytes(&val, 2), &val16, 2);
	KUNIT_EXPECT_MEMEQ(test, io_memcpy_imm_bytes(&val, 1), &val8, 1);

	for (unsigned int len = 1; len <= 8; len++) {
		const u8 *bytes = io_memcpy_imm_bytes(&val, len);
		u64 got = 0;

		for (unsigned int i = 0; i < len; i++) {
			unsigned int at = i;

			if (IS_ENABLED(CONFIG_CPU_BIG_ENDIAN))
				at = len - 1 - i;
			got |= (u64)bytes[at] << (8 * i);
		}
		KUNIT_EXPECT_EQ(test, got, val & (U64_MAX >> (64 - 8 * len)));
	}
}

static void imm_misaligned_test(struct kunit *test)
{
	for (unsigned int len = 1; len <= 8; len++) {
		bool atomic = len == 1 || len == 2 || len == 4 || len == 8;

		for (u64 addr = 0x1000; addr < 0x1010; addr++)
			KUNIT_EXPECT_EQ(test,
					io_memcpy_imm_misaligned(addr, len),
					atomic && addr % len);
	}
}

static void overlap_test(struct kunit *test)
{
	KUNIT_EXPECT_FALSE(test, io_memcpy_overlap(0x1000, 0x1000, 0));
	KUNIT_EXPECT_TRUE(test, io_memcpy_overlap(0x1000, 0x1000, 1));
	KUNIT_EXPECT_FALSE(test, io_memcpy_overlap(0x1000, 0x2000, 0x1000));
	KUNIT_EXPECT_TRUE(test, io_memcpy_overlap(0x1000, 0x2000, 0x1001));
	KUNIT_EXPECT_FALSE(test, io_memcpy_overlap(0x2000, 0x1000, 0x1000));
	KUNIT_EXPECT_TRUE(test, io_memcpy_overlap(0x2000, 0x1000, 0x1001));
	/* one that wraps around, and one that it runs into */
	KUNIT_EXPECT_TRUE(test, io_memcpy_overlap(U64_MAX - 15, 0, 17));
	KUNIT_EXPECT_FALSE(test, io_memcpy_overlap(U64_MAX - 15, 0, 16));
}

static struct kunit_case memcpy_test_cases[] = {
	KUNIT_CASE_PARAM(imm_prep_test, imm_prep_gen_params),
	KUNIT_CASE_PARAM(memcpy_prep_test, memcpy_prep_gen_params),
	KUNIT_CASE(imm_bytes_test),
	KUNIT_CASE(imm_misaligned_test),
	KUNIT_CASE(overlap_test),
	{}
};

static struct kunit_suite memcpy_test_suite = {
	.name = "io_uring_memcpy",
	.test_cases = memcpy_test_cases,
};

kunit_test_suite(memcpy_test_suite);
