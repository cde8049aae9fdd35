/* SPDX-License-Identifier: MIT */
/*
 * Description: test the helpers for IORING_OP_FUSED_CMD with memory that a mock
 *		file lends: what members read is there, both halves of the SQE
 *		are initialized, and what bad input gets
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>

#include "liburing.h"
#include "helpers.h"
#include "mock_file.h"

#define MEM		IORING_MOCK_LEND_SIZE
#define LEN		30000
#define POISON		0xa5
#define ENTRIES		8
#define UD_CMD		1
#define UD_MEMBER	2

static unsigned char *mem;
static int lender, file;

/* differs for each position, and for any distance that is a power of two */
static unsigned char pattern(size_t pos)
{
	return (pos * 2654435761U) >> 13 ^ pos;
}

static int is_pattern(const unsigned char *p, size_t len, size_t pos)
{
	size_t i;

	for (i = 0; i < len; i++) {
		if (p[i] != pattern(pos + i)) {
			fprintf(stderr, "byte %zu of %zu: %x\n", i, len, p[i]);
			return 0;
		}
	}
	return 1;
}

static int is_poison(const unsigned char *p, size_t len)
{
	while (len--)
		if (*p++ != POISON)
			return 0;
	return 1;
}

/* 0, or T_EXIT_SKIP without a kernel that has it, as a T_EXIT_* */
static int setup(void)
{
	struct io_uring_mock_create mc;
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	struct io_uring ring;
	unsigned char *buf;
	char name[] = "fused-cmd.XXXXXX";
	int fd, i, res;

	fd = open("/dev/io_uring_mock", O_RDWR);
	if (fd < 0)
		return T_EXIT_SKIP;
	if (io_uring_queue_init(ENTRIES, &ring, 0))
		return T_EXIT_FAIL;
	memset(&mc, 0, sizeof(mc));
	mc.flags = IORING_MOCK_CREATE_F_LEND;
	mc.file_size = MEM;
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_uring_cmd(sqe, IORING_MOCK_MGR_CMD_CREATE, fd);
	sqe->addr = (unsigned long) &mc;
	sqe->len = sizeof(mc);
	if (t_submit_and_wait_single(&ring, &cqe))
		return T_EXIT_FAIL;
	res = cqe->res;
	io_uring_queue_exit(&ring);
	close(fd);
	if (res) {
		fprintf(stderr, "mock file: %d\n", res);
		return T_EXIT_FAIL;
	}
	lender = mc.out_fd;
	mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_SHARED, lender, 0);
	if (mem == MAP_FAILED)
		return T_EXIT_FAIL;

	file = mkstemp(name);
	buf = malloc(LEN);
	if (file < 0 || !buf)
		return T_EXIT_FAIL;
	unlink(name);
	for (i = 0; i < LEN; i++)
		buf[i] = pattern(i);
	if (write(file, buf, LEN) != LEN)
		return T_EXIT_FAIL;
	free(buf);
	return T_EXIT_PASS;
}

/* a command that borrows 'len' bytes at 'off' */
static struct io_uring_sqe *borrow(struct io_uring *ring, unsigned int off,
				   unsigned int len, unsigned int dir,
				   unsigned int nr)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe128(ring);
	struct io_uring_mock_lend *lend;

	if (!sqe)
		return NULL;
	io_uring_prep_fused_cmd(sqe, IORING_MOCK_CMD_LEND, lender, nr);
	sqe->len = dir;
	sqe->user_data = UD_CMD;
	lend = (struct io_uring_mock_lend *) sqe->cmd;
	lend->off = off;
	lend->len = len;
	io_uring_fused_member(sqe)->user_data = UD_MEMBER;
	return sqe;
}

static int next_cqe(struct io_uring *ring, unsigned long long ud, int res)
{
	struct __kernel_timespec ts = { .tv_sec = 10, };
	struct io_uring_cqe *cqe;
	unsigned int flags;
	int ret;

	ret = io_uring_wait_cqe_timeout(ring, &cqe, &ts);
	if (ret) {
		fprintf(stderr, "wait: %d\n", ret);
		return 1;
	}
	ret = cqe->user_data != ud || cqe->res != res;
	if (ret)
		fprintf(stderr, "user_data %llu res %d, not %llu %d\n",
			(unsigned long long) cqe->user_data, cqe->res, ud, res);
	/* with each error of the command, and with nothing else */
	flags = ud == UD_CMD && res < 0 ? IORING_CQE_F_NOT_COMMITTED : 0;
	if (cqe->flags != flags) {
		fprintf(stderr, "flags %x, not %x\n", cqe->flags, flags);
		ret = 1;
	}
	io_uring_cqe_seen(ring, cqe);
	return ret;
}

static int submit(struct io_uring *ring)
{
	int ret = io_uring_submit(ring);

	if (ret > 0)
		return 0;
	fprintf(stderr, "submit: %d\n", ret);
	return 1;
}

/* once around the ring and more, so that each slot is the first one once */
static int test_read(struct io_uring *ring)
{
	struct io_uring_sqe *sqe;
	int i;

	for (i = 0; i < 3 * ENTRIES; i++) {
		memset(mem, POISON, MEM);
		/* an odd number of slots each time */
		if (i & 1) {
			sqe = io_uring_get_sqe(ring);
			io_uring_prep_nop(sqe);
			sqe->user_data = 0;
			if (submit(ring) || next_cqe(ring, 0, 0))
				return 1;
		}
		sqe = borrow(ring, 100, 20000, IORING_MOCK_LEND_DEST, 1);
		io_uring_prep_read(io_uring_fused_member(sqe), file,
				   (void *) 50, 10000, i);
		io_uring_fused_member(sqe)->user_data = UD_MEMBER;
		if (submit(ring) || next_cqe(ring, UD_MEMBER, 10000) ||
		    next_cqe(ring, UD_CMD, 0))
			return 1;
		if (!is_poison(mem, 150) ||
		    !is_pattern(mem + 150, 10000, i) ||
		    !is_poison(mem + 10150, MEM - 10150)) {
			fprintf(stderr, "wrong data\n");
			return 1;
		}
	}
	return 0;
}

static int test_two(struct io_uring *ring)
{
	struct io_uring_sqe *sqe;
	char head[100];

	memset(mem, POISON, MEM);
	sqe = borrow(ring, 0, LEN, IORING_MOCK_LEND_DEST, 2);
	io_uring_fused_set_flags(sqe, IORING_FUSED_ONE_CQE);
	io_uring_prep_read(io_uring_fused_member(sqe), file,
			   (void *) 0, 20000, 0);
	io_uring_prep_read(io_uring_get_sqe(ring), file, (void *) 20000, 10000,
			   20000);
	if (submit(ring) || next_cqe(ring, UD_CMD, LEN))
		return 1;
	if (!is_pattern(mem, LEN, 0) || !is_poison(mem + LEN, MEM - LEN))
		return 1;

	/* and a look at it */
	memset(head, 0, sizeof(head));
	sqe = borrow(ring, 100, 1000, IORING_MOCK_LEND_SOURCE, 1);
	io_uring_fused_set_flags(sqe, IORING_FUSED_ONE_CQE);
	io_uring_prep_memcpy_fixed(io_uring_fused_member(sqe), head, -1,
				   (void *) 11, 0, sizeof(head), 0);
	if (submit(ring) || next_cqe(ring, UD_CMD, sizeof(head)))
		return 1;
	return !is_pattern((unsigned char *) head, sizeof(head), 111);
}

/* what was in an SQE before isn't executed along with it */
static int test_init(struct io_uring *ring)
{
	struct io_uring_sqe *sqe;
	int i, nr = ring->sq.ring_entries;

	memset(mem, POISON, MEM);
	if (ring->flags & IORING_SETUP_SQE128)
		nr *= 2;
	for (i = 0; i < nr; i++)
		io_uring_prep_read(&ring->sq.sqes[i], file, (void *) 0, 4096,
				   0);
	sqe = borrow(ring, 0, 4096, IORING_MOCK_LEND_DEST, 1);
	if (!sqe || submit(ring) || next_cqe(ring, UD_MEMBER, 0) ||
	    next_cqe(ring, UD_CMD, 0))
		return 1;
	return !is_poison(mem, MEM);
}

static int test_bad(struct io_uring *ring)
{
	struct io_uring_sqe *sqe;

	memset(mem, POISON, MEM);
	/* an opcode that can't be a member */
	sqe = borrow(ring, 0, 4096, IORING_MOCK_LEND_DEST, 1);
	io_uring_prep_fsync(io_uring_fused_member(sqe), file, 0);
	io_uring_fused_member(sqe)->user_data = UD_MEMBER;
	if (submit(ring) || next_cqe(ring, UD_MEMBER, -EINVAL) ||
	    next_cqe(ring, UD_CMD, -ECANCELED))
		return 1;
	/* members that aren't there */
	sqe = borrow(ring, 0, 4096, IORING_MOCK_LEND_DEST, 2);
	if (submit(ring) || next_cqe(ring, UD_MEMBER, -ECANCELED) ||
	    next_cqe(ring, UD_CMD, -EINVAL))
		return 1;
	/* a file that doesn't lend */
	sqe = borrow(ring, 0, 4096, IORING_MOCK_LEND_DEST, 1);
	sqe->fd = file;
	if (submit(ring) || next_cqe(ring, UD_MEMBER, -ECANCELED) ||
	    next_cqe(ring, UD_CMD, -EOPNOTSUPP))
		return 1;
	/* more than is lent */
	sqe = borrow(ring, 0, 4096, IORING_MOCK_LEND_DEST, 1);
	io_uring_prep_read(io_uring_fused_member(sqe), file, (void *) 1,
			   4096, 0);
	io_uring_fused_member(sqe)->user_data = UD_MEMBER;
	if (submit(ring) || next_cqe(ring, UD_MEMBER, -EFAULT) ||
	    next_cqe(ring, UD_CMD, -EFAULT))
		return 1;
	return !is_poison(mem, MEM);
}

static int test_have(void)
{
	static const struct {
		unsigned int op;
		int have;
	} ops[] = {
		{ IORING_OP_READ, 1 }, { IORING_OP_WRITEV_FIXED, 1 },
		{ IORING_OP_MEMCPY, 1 }, { IORING_OP_NOP, 1 },
		{ IORING_OP_FSYNC, 0 }, { IORING_OP_FUSED_CMD, 0 },
		{ IORING_OP_LAST, 0 }, { 255, 0 }, { 256, 0 }, { -1U, 0 },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		if (io_uring_have_fused(ops[i].op) != ops[i].have) {
			fprintf(stderr, "opcode %u: not %d\n", ops[i].op,
				ops[i].have);
			return 1;
		}
	}
	return 0;
}

static int test_ring(unsigned int flags, const char *name)
{
	static const struct {
		const char *name;
		int (*run)(struct io_uring *ring);
	} tests[] = {
		{ "read", test_read }, { "two", test_two },
		{ "init", test_init }, { "bad", test_bad },
	};
	struct io_uring ring;
	unsigned int i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		ret = io_uring_queue_init(ENTRIES, &ring, flags |
					  IORING_SETUP_SUBMIT_ALL);
		if (ret) {
			fprintf(stderr, "ring %s: %d\n", name, ret);
			return 1;
		}
		ret = tests[i].run(&ring);
		io_uring_queue_exit(&ring);
		if (ret) {
			fprintf(stderr, "%s failed, ring %s\n", tests[i].name,
				name);
			return 1;
		}
	}
	return 0;
}

int main(int argc, char *argv[])
{
	struct io_uring ring;
	int ret;

	if (argc > 1)
		return T_EXIT_SKIP;
	if (!io_uring_have_fused(IORING_OP_NOP))
		return T_EXIT_SKIP;
	ret = setup();
	if (ret)
		return ret;

	if (test_have())
		return T_EXIT_FAIL;
	if (test_ring(IORING_SETUP_SQE128, "SQE128") ||
	    test_ring(IORING_SETUP_SQE_MIXED, "SQE_MIXED") ||
	    test_ring(IORING_SETUP_SQE_MIXED | IORING_SETUP_SINGLE_ISSUER |
		      IORING_SETUP_DEFER_TASKRUN, "SQE_MIXED, DEFER_TASKRUN"))
		return T_EXIT_FAIL;

	/* there are no SQEs for it on others */
	if (io_uring_queue_init(ENTRIES, &ring, 0))
		return T_EXIT_FAIL;
	if (borrow(&ring, 0, 4096, IORING_MOCK_LEND_DEST, 1)) {
		fprintf(stderr, "an SQE of 128 bytes\n");
		return T_EXIT_FAIL;
	}
	io_uring_queue_exit(&ring);
	return T_EXIT_PASS;
}
