// SPDX-License-Identifier: GPL-2.0
/*
 * Fused commands whose members are I/O of drives: reads and writes of a null_blk
 * that are polled and that fail, and NVMe commands of the application's own.
 *
 * IO_URING_TEST_DRIVE=/dev/nvmeXnY names the drive of the latter, whose first
 * 4 MiB are overwritten. It has blocks of 512 bytes. All drives are prepared and
 * checked by plain pread and pwrite, and the lent memory by mapping it.
 */
#include "iou_dmabuf.h"
#include "iou_fused.h"
#include "kselftest_harness.h"

#define LEN		16384
#define SEED		7
#define UD_CMD		1
#define UD_MEMBER	2
#define NVME_WRITE	1
#define NVME_READ	2
/* a status of the drive, without what it says about trying again */
#define NVME_STATUS	0x7ff
#define NVME_LBA_RANGE	0x80

/* A ring of 128 byte SQEs, a lender, and a drive that has the pattern */
struct place {
	struct ring ring;
	struct io_uring_sqe *sqes;
	struct lender lender;
	int fd;
};

/* A zeroed SQE, both of its halves */
static struct io_uring_sqe *place_sqe(struct place *p)
{
	struct io_uring_sq *sq = &p->ring.u.sq;
	unsigned int i = sq->sqe_tail++ & *sq->kring_mask;

	return memset(&p->sqes[2 * i], 0, 2 * sizeof(p->sqes[0]));
}

/* A command that borrows all of LEN for a NOP, and for what follows */
static struct io_uring_sqe *lend(struct place *p, unsigned int dir,
				 unsigned int nr)
{
	struct io_uring_sqe *sqe = place_sqe(p);
	struct io_uring_mock_lend *range = (void *)sqe->cmd;

	sqe->opcode = IORING_OP_FUSED_CMD;
	sqe->fd = p->lender.fd;
	sqe->cmd_op = IORING_MOCK_CMD_LEND;
	sqe->len = dir;
	sqe->user_data = UD_CMD;
	sqe->nr_members = nr;
	range->len = LEN;
	sqe[1].opcode = IORING_OP_NOP;
	sqe[1].user_data = UD_MEMBER;
	return sqe;
}

/* CQEs of 32 bytes take two entries, which are next to each other */
static int next_cqe(struct place *p, struct io_uring_cqe *cqe)
{
	struct io_uring_cqe rest;
	int ret;

	do {
		ret = ring_wait(&p->ring, cqe);
		if (ret)
			return ret;
	} while (cqe->flags & IORING_CQE_F_SKIP);
	if ((cqe->flags & IORING_CQE_F_32) && !ring_peek(&p->ring, &rest))
		return -EBADMSG;
	return 0;
}

static int cqe_is(const struct io_uring_cqe *cqe, __u64 ud, int res)
{
	if (cqe->user_data == ud && cqe->res == res)
		return 0;
	fprintf(stderr, "# user_data %llu res %d flags %x\n",
		(unsigned long long)cqe->user_data, cqe->res, cqe->flags);
	return -EBADMSG;
}

static int next_is(struct place *p, __u64 ud, int res)
{
	struct io_uring_cqe cqe;
	int ret = next_cqe(p, &cqe);

	return ret ? ret : cqe_is(&cqe, ud, res);
}

static int run_is(struct place *p, int member, int cmd)
{
	int ret = ring_submit(&p->ring);

	if (ret < 0)
		return ret;
	ret = next_is(p, UD_MEMBER, member);
	return ret ? ret : next_is(p, UD_CMD, cmd);
}

/* The drive has the pattern in its first 1 MiB, the memory has poison */
static int place_fill(struct place *p)
{
	static unsigned char data[1 << 20];

	fill_pattern(data, sizeof(data), SEED);
	memset(p->lender.mem, POISON, MEM);
	return disk_rw(p->fd, data, sizeof(data), 0, true);
}

static bool place_has(struct place *p, size_t off, size_t len, size_t pos)
{
	const unsigned char *mem = p->lender.mem;
	size_t i;

	for (i = 0; i < len && mem[off + i] == pattern(pos + i, SEED); i++)
		;
	return i == len && all_bytes(mem, POISON, off) &&
	       all_bytes(mem + off + len, POISON, MEM - off - len);
}

static bool place_returned(struct place *p)
{
	struct io_uring_mock_lend_state *state = p->lender.state;

	return state->lent && state->lent == state->released;
}

static int place_init(struct place *p, unsigned int setup)
{
	p->sqes = ring_init_128(&p->ring, setup | IORING_SETUP_SQE128);
	return p->sqes ? lender_init(&p->lender) : -EINVAL;
}

static void place_exit(struct place *p)
{
	if (p->sqes)
		ring_exit_128(&p->ring);
	if (p->lender.mem)
		lender_exit(&p->lender);
}

FIXTURE(bad_blocks) {
	struct place p;
	struct disk disk;
};

FIXTURE_VARIANT(bad_blocks) {
	unsigned int setup;
};

FIXTURE_VARIANT_ADD(bad_blocks, plain) {
	.setup = 0,
};

FIXTURE_VARIANT_ADD(bad_blocks, iopoll) {
	.setup = IORING_SETUP_IOPOLL,
};

FIXTURE_VARIANT_ADD(bad_blocks, iopoll_defer) {
	.setup = IORING_SETUP_IOPOLL | IORING_SETUP_DEFER_TASKRUN |
		 IORING_SETUP_SINGLE_ISSUER,
};

FIXTURE_VARIANT_ADD(bad_blocks, iopoll_sqpoll) {
	.setup = IORING_SETUP_IOPOLL | IORING_SETUP_SQPOLL,
};

FIXTURE_SETUP(bad_blocks)
{
	static const struct disk_conf conf;
	struct ring r;

	if (!SETUP_RING(&r, 8, 0, IORING_OP_FUSED_CMD))
		return;
	ring_exit(&r);
	if (!disk_available())
		SKIP(return, "no null_blk that can be configured");
	ASSERT_EQ(0, place_init(&self->p, variant->setup));
	ASSERT_EQ(0, disk_init(&self->disk, &conf));
	self->p.fd = self->disk.fd;
	ASSERT_EQ(0, place_fill(&self->p));
	/* the second of the 4 pages that are read below */
	ASSERT_EQ(0, disk_put(&self->disk, "badblocks", "+8-15"));
}

FIXTURE_TEARDOWN(bad_blocks)
{
	place_exit(&self->p);
	disk_exit(&self->disk);
}

/* The command fails with its member, and nothing unread is left behind */
TEST_F(bad_blocks, read)
{
	const unsigned int flags[] = { 0, IORING_FUSED_ONE_CQE };
	struct place *p = &self->p;
	struct io_uring_sqe *sqe;
	unsigned int i;

	for (i = 0; i < 2; i++) {
		memset(p->lender.mem, POISON, MEM);
		sqe = lend(p, DEST, 1);
		sqe->fused_flags = flags[i];
		set_rw(sqe + 1, IORING_OP_READ, p->fd, 4096, 8192, 8192);
		sqe[1].user_data = UD_MEMBER;
		if (flags[i]) {
			ASSERT_LE(0, ring_submit(&p->ring));
			ASSERT_EQ(0, next_is(p, UD_CMD, 8192));
		} else {
			ASSERT_EQ(0, run_is(p, 8192, 0));
		}
		EXPECT_TRUE(place_has(p, 4096, 8192, 8192));

		memset(p->lender.mem, POISON, MEM);
		sqe = lend(p, DEST, 1);
		sqe->fused_flags = flags[i];
		set_rw(sqe + 1, IORING_OP_READ, p->fd, 512, 4096, 4096);
		sqe[1].user_data = UD_MEMBER;
		if (flags[i]) {
			ASSERT_LE(0, ring_submit(&p->ring));
			ASSERT_EQ(0, next_is(p, UD_CMD, -EIO));
		} else {
			ASSERT_EQ(0, run_is(p, -EIO, -EIO));
		}
		EXPECT_TRUE(all_bytes(p->lender.mem, POISON, 512));
		EXPECT_TRUE(all_bytes(p->lender.mem + 512, 0, 4096));
		EXPECT_TRUE(all_bytes(p->lender.mem + 512 + 4096, POISON,
				      MEM - 512 - 4096));
		EXPECT_TRUE(place_returned(p));
	}
}

/* What the driver gets to know, with which ublk commits a request or doesn't */
TEST_F(bad_blocks, result)
{
	struct place *p = &self->p;
	struct io_uring_sqe *sqe;

	sqe = lend(p, DEST | IORING_MOCK_LEND_RESULT, 1);
	set_rw(sqe + 1, IORING_OP_READ, p->fd, 0, 4096, 0);
	sqe[1].user_data = UD_MEMBER;
	EXPECT_EQ(0, run_is(p, 4096, 4096));
	sqe = lend(p, DEST | IORING_MOCK_LEND_RESULT, 1);
	set_rw(sqe + 1, IORING_OP_READ, p->fd, 0, 4096, 4096);
	sqe[1].user_data = UD_MEMBER;
	EXPECT_EQ(0, run_is(p, -EIO, -EIO));
	sqe = lend(p, SOURCE | IORING_MOCK_LEND_RESULT, 1);
	set_rw(sqe + 1, IORING_OP_WRITE, p->fd, 0, 4096, 4096);
	sqe[1].user_data = UD_MEMBER;
	EXPECT_EQ(0, run_is(p, -EIO, -EIO));
	EXPECT_TRUE(place_returned(p));
}

FIXTURE(passthru) {
	struct place p;
	int ng;
	unsigned int nsid;
	__u64 blocks;
};

FIXTURE_VARIANT(passthru) {
	unsigned int setup;
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(passthru, plain) {
	.setup = 0,
};

FIXTURE_VARIANT_ADD(passthru, defer) {
	.setup = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
};

FIXTURE_VARIANT_ADD(passthru, sqpoll) {
	.setup = IORING_SETUP_SQPOLL,
};

FIXTURE_VARIANT_ADD(passthru, iopoll) {
	.setup = IORING_SETUP_IOPOLL,
};

FIXTURE_VARIANT_ADD(passthru, iowq) {
	.flags = IOSQE_ASYNC,
};

FIXTURE_SETUP(passthru)
{
	struct ring r;
	int ret;

	self->p.fd = -1;
	self->ng = -1;
	if (!SETUP_RING(&r, 8, 0, IORING_OP_FUSED_CMD))
		return;
	ring_exit(&r);
	ret = nvme_open(&self->p.fd, &self->ng, &self->nsid);
	if (ret == -EINVAL)
		SKIP(return, "IO_URING_TEST_DRIVE isn't /dev/nvme...");
	ASSERT_EQ(0, ret);
	self->blocks = lseek(self->p.fd, 0, SEEK_END) / BLOCK;
	ASSERT_EQ(0, place_init(&self->p, variant->setup |
				IORING_SETUP_CQE_MIXED));
	ASSERT_EQ(0, place_fill(&self->p));
}

FIXTURE_TEARDOWN(passthru)
{
	place_exit(&self->p);
	close(self->ng);
	close(self->p.fd);
}

/* A member in an entry of its own, with @len bytes at @off of what is lent */
static struct nvme_uring_cmd *
nvme_member(struct _test_data_passthru *self,
	    const struct _fixture_variant_passthru *variant, unsigned int op,
	    unsigned int off, unsigned int len, __u64 block)
{
	struct io_uring_sqe *sqe = place_sqe(&self->p);
	struct nvme_uring_cmd *cmd = (void *)sqe->cmd;

	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = self->ng;
	sqe->flags = variant->flags;
	sqe->cmd_op = NVME_URING_CMD_IO;
	sqe->user_data = UD_MEMBER + 1;
	cmd->opcode = op;
	cmd->nsid = self->nsid;
	cmd->addr = off;
	cmd->data_len = len;
	cmd->cdw10 = block;
	cmd->cdw11 = block >> 32;
	cmd->cdw12 = len / BLOCK - 1;
	return cmd;
}

/* The members complete in any order, and a status of the drive isn't an error */
static int nvme_run(struct place *p, int member, int cmd)
{
	struct io_uring_cqe cqe;
	int ret, i;

	ret = ring_submit(&p->ring);
	if (ret < 0)
		return ret;
	for (i = 0; i < 2; i++) {
		ret = next_cqe(p, &cqe);
		if (ret)
			return ret;
		if (cqe.user_data == UD_MEMBER)
			ret = cqe_is(&cqe, UD_MEMBER, 0);
		else if (member > 0)
			ret = (cqe.res & NVME_STATUS) == member ? 0 : -EBADMSG;
		else
			ret = cqe_is(&cqe, UD_MEMBER + 1, member);
		if (ret)
			return ret;
	}
	return next_is(p, UD_CMD, cmd);
}

/* The drive itself reads and writes the lent memory */
TEST_F(passthru, transfer)
{
	static const unsigned int sizes[] = { 512, 4096, 4608, LEN };
	unsigned char data[LEN];
	struct place *p = &self->p;
	unsigned int i, off;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		off = sizes[i] == LEN ? 0 : 1024;
		memset(p->lender.mem, POISON, MEM);
		lend(p, DEST, 2);
		nvme_member(self, variant, NVME_READ, off, sizes[i], 10 + i);
		ASSERT_EQ(0, nvme_run(p, 0, 0));
		EXPECT_TRUE(place_has(p, off, sizes[i], (10 + i) * BLOCK));

		fill_pattern(p->lender.mem, LEN, SEED + 1 + i);
		lend(p, SOURCE, 2);
		nvme_member(self, variant, NVME_WRITE, off, sizes[i], 4096);
		ASSERT_EQ(0, nvme_run(p, 0, 0));
		memset(data, POISON, sizeof(data));
		ASSERT_EQ(0, disk_rw(p->fd, data, sizes[i], 4096 * BLOCK,
				     false));
		EXPECT_EQ(0, memcmp(data, p->lender.mem + off, sizes[i]));
	}
	EXPECT_TRUE(place_returned(p));
}

/* The wrong direction, out of bounds, and what the drive refuses */
TEST_F(passthru, refused)
{
	struct place *p = &self->p;
	unsigned char data[BLOCK];

	lend(p, SOURCE, 2);
	nvme_member(self, variant, NVME_READ, 0, 4096, 0);
	EXPECT_EQ(0, nvme_run(p, -EFAULT, -EFAULT));
	memset(data, POISON, sizeof(data));
	ASSERT_EQ(0, disk_rw(p->fd, data, BLOCK, 4096 * BLOCK, true));
	lend(p, DEST, 2);
	nvme_member(self, variant, NVME_WRITE, 0, BLOCK, 4096);
	EXPECT_EQ(0, nvme_run(p, -EFAULT, -EFAULT));
	ASSERT_EQ(0, disk_rw(p->fd, data, BLOCK, 4096 * BLOCK, false));
	EXPECT_TRUE(all_bytes(data, POISON, BLOCK));
	lend(p, DEST, 2);
	nvme_member(self, variant, NVME_READ, LEN - 512, 1024, 0);
	EXPECT_EQ(0, nvme_run(p, -EFAULT, -EFAULT));
	lend(p, DEST, 2);
	nvme_member(self, variant, NVME_READ, 0, BLOCK, self->blocks);
	EXPECT_EQ(0, nvme_run(p, NVME_LBA_RANGE, 0));
	/* and no success to those who don't see that one */
	lend(p, DEST, 2)->fused_flags = IORING_FUSED_ONE_CQE;
	nvme_member(self, variant, NVME_READ, 0, BLOCK, self->blocks);
	ASSERT_LE(0, ring_submit(&p->ring));
	EXPECT_EQ(0, next_is(p, UD_CMD, -EIO));
	EXPECT_TRUE(all_bytes(p->lender.mem, POISON, MEM));
	EXPECT_TRUE(place_returned(p));
}

TEST_HARNESS_MAIN
