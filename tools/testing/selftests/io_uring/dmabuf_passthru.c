// SPDX-License-Identifier: GPL-2.0
/*
 * NVMe commands of the application's own, by /dev/ngXnY, whose data is in a
 * registered dma-buf.
 *
 * IO_URING_TEST_DRIVE=/dev/nvmeXnY names the drive, whose first 64 MiB are
 * overwritten. It has blocks of 512 bytes. What it holds is prepared and checked
 * by plain pread and pwrite of the block device.
 */
#include "iou_dmabuf_move.h"
#include "kselftest_harness.h"

#define PAGES		160
#define NVME_WRITE	1
#define NVME_READ	2

FIXTURE(cmd) {
	struct ring ring;
	struct dbuf buf;
	unsigned char *mem;		/* as large as the dma-buf */
	int fd;				/* the block device */
	int ng;
	unsigned int nsid;
};

FIXTURE_VARIANT(cmd) {
	struct ring_type type;
};

FIXTURE_VARIANT_ADD(cmd, plain) {
	.type = TYPE_PLAIN,
};

FIXTURE_VARIANT_ADD(cmd, defer) {
	.type = TYPE_DEFER,
};

FIXTURE_VARIANT_ADD(cmd, sqpoll) {
	.type = TYPE_SQPOLL,
};

FIXTURE_VARIANT_ADD(cmd, iopoll) {
	.type = TYPE_IOPOLL,
};

FIXTURE_VARIANT_ADD(cmd, iowq) {
	.type = TYPE_IOWQ,
};

FIXTURE_SETUP(cmd)
{
	size_t size = PAGES * page_size();
	int ret;

	ret = nvme_open(&self->fd, &self->ng, &self->nsid);
	if (ret == -EINVAL)
		SKIP(return, "IO_URING_TEST_DRIVE isn't /dev/nvme...");
	ASSERT_EQ(0, ret);
	ret = ring_init(&self->ring, RING_ENTRIES, variant->type.setup |
			IORING_SETUP_SQE_MIXED | IORING_SETUP_CQE_MIXED);
	if (ret && ring_unavailable())
		SKIP(return, "no io_uring: %s", strerror(-ret));
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, ring_buffers_sparse(&self->ring, NR_BUFS));
	ret = dbuf_init(&self->buf, size, MIXED);
	if (ret == -ENOENT)
		SKIP(return, "no /dev/test_dmabuf");
	ASSERT_EQ(0, ret);
	self->mem = malloc(size);
	ASSERT_NE(NULL, self->mem);
	ASSERT_EQ(1, ring_dbuf(&self->ring, 0, &self->buf, self->ng));
}

FIXTURE_TEARDOWN(cmd)
{
	ring_exit(&self->ring);
	dbuf_exit(&self->buf);
	free(self->mem);
	close(self->ng);
	close(self->fd);
}

static struct nvme_uring_cmd *cmd_sqe(struct _test_data_cmd *self,
				      const struct _fixture_variant_cmd *variant,
				      bool write, size_t off, unsigned int len,
				      off_t pos, struct io_uring_sqe **sqe)
{
	struct nvme_uring_cmd *cmd;

	/* the two halves of it. There is always an even number of entries */
	*sqe = ring_sqe(&self->ring, IORING_OP_URING_CMD128);
	memset(ring_sqe(&self->ring, 0), 0, sizeof(**sqe));
	(*sqe)->fd = self->ng;
	(*sqe)->flags = variant->type.sqe_flags;
	(*sqe)->cmd_op = NVME_URING_CMD_IO;
	(*sqe)->uring_cmd_flags = IORING_URING_CMD_FIXED;
	cmd = (void *)(*sqe)->cmd;
	cmd->opcode = write ? NVME_WRITE : NVME_READ;
	cmd->nsid = self->nsid;
	cmd->addr = off;
	cmd->data_len = len;
	cmd->cdw10 = pos / BLOCK;
	cmd->cdw12 = len / BLOCK - 1;
	return cmd;
}

/* A CQE of 32 bytes takes two entries, which are next to each other */
static int cmd_wait(struct _test_data_cmd *self, __u64 *user_data)
{
	struct io_uring_cqe cqe, rest;
	int ret;

	do {
		ret = ring_wait(&self->ring, &cqe);
		if (ret)
			return ret;
	} while (cqe.flags & IORING_CQE_F_SKIP);
	if ((cqe.flags & IORING_CQE_F_32) && !ring_peek(&self->ring, &rest))
		return -EBADMSG;
	if (user_data)
		*user_data = cqe.user_data;
	return cqe.res;
}

static int cmd_run(struct _test_data_cmd *self)
{
	int ret = ring_submit(&self->ring);

	return ret < 0 ? ret : cmd_wait(self, NULL);
}

static int cmd_rw(struct _test_data_cmd *self,
		  const struct _fixture_variant_cmd *variant, bool write,
		  size_t off, unsigned int len, off_t pos)
{
	struct io_uring_sqe *sqe;

	cmd_sqe(self, variant, write, off, len, pos, &sqe);
	return cmd_run(self);
}

static bool holds(struct _test_data_cmd *self, int c, off_t pos, size_t len)
{
	return !disk_rw(self->fd, self->mem, len, pos, false) &&
	       all_bytes(self->mem, c, len);
}

/* There and back again, with what is beside of it */
static int write_read(struct _test_data_cmd *self,
		      const struct _fixture_variant_cmd *variant, size_t off,
		      size_t len, off_t pos)
{
	size_t i, all = self->buf.size;
	int ret;

	memset(self->mem, DISK_POISON, len + 8192);
	ret = disk_rw(self->fd, self->mem, len + 8192, pos - 4096, true);
	for (i = 0; i < all; i++)
		self->mem[i] = pattern(i, BUF_SEED);
	if (!ret)
		ret = dbuf_write(&self->buf, self->mem, all, 0);
	if (!ret)
		ret = cmd_rw(self, variant, true, off, len, pos);
	if (ret)
		return ret;
	if (!holds(self, DISK_POISON, pos - 4096, 4096) ||
	    !holds(self, DISK_POISON, pos + len, 4096))
		return -EDOM;
	ret = disk_rw(self->fd, self->mem, len, pos, false);
	for (i = 0; !ret && i < len; i++)
		if (self->mem[i] != pattern(off + i, BUF_SEED))
			ret = -EBADMSG;
	if (ret)
		return ret;

	for (i = 0; i < len; i++)
		self->mem[i] = pattern(pos + i, DISK_SEED);
	ret = disk_rw(self->fd, self->mem, len, pos, true);
	memset(self->mem, POISON, all);
	if (!ret)
		ret = dbuf_write(&self->buf, self->mem, all, 0);
	if (!ret)
		ret = cmd_rw(self, variant, false, off, len, pos);
	if (!ret)
		ret = dbuf_read(&self->buf, self->mem, all, 0);
	for (i = 0; !ret && i < all; i++)
		if (self->mem[i] != (i < off || i >= off + len ? POISON :
				     pattern(pos + i - off, DISK_SEED)))
			ret = -EBADMSG;
	return ret;
}

TEST_F_TIMEOUT(cmd, transfer, LONG_TIMEOUT)
{
	static const size_t sizes[] = { 512, 4096, 4608, 16384, 65536, 131072 };
	size_t ps = page_size();
	/* where segments of MIXED end, and where something else does */
	const size_t offs[] = {
		0, 4, 512, ps - 512, ps, 4 * ps - 1024, 20 * ps - 512,
	};
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		for (j = 0; j < ARRAY_SIZE(offs); j++) {
			ASSERT_EQ(0, write_read(self, variant, offs[j],
						sizes[i],
						BASE + (i * 5 + j) * BLOCK)) {
				TH_LOG("%zu bytes at %zu", sizes[i], offs[j]);
			}
		}
	}
	EXPECT_EQ(0, dbuf_lost(&self->buf));
}

/* Read with as many commands at once as there is room for: 0, or what is wrong */
static int read_deep(struct _test_data_cmd *self,
		     const struct _fixture_variant_cmd *variant)
{
	unsigned int i, nr = RING_ENTRIES / 2, len = 9 * BLOCK;
	struct io_uring_sqe *sqe;
	__u64 user_data;
	int ret;

	for (i = 0; i < nr * len; i++)
		self->mem[i] = pattern(BASE + i, DISK_SEED);
	ret = disk_rw(self->fd, self->mem, nr * len, BASE, true);
	memset(self->mem, POISON, self->buf.size);
	if (!ret)
		ret = dbuf_write(&self->buf, self->mem, self->buf.size, 0);
	if (ret)
		return ret;
	for (i = 0; i < nr; i++) {
		cmd_sqe(self, variant, false, (nr - 1 - i) * len, len,
			BASE + i * len, &sqe);
		sqe->user_data = i;
	}
	ret = ring_submit(&self->ring);
	if (ret < 0)
		return ret;
	/* what the SQEs had is no longer there if one is issued again */
	memset(self->ring.u.sq.sqes, 0xff, nr * 2 * sizeof(*sqe));
	for (i = 0; i < nr; i++) {
		ret = cmd_wait(self, &user_data);
		if (ret || user_data >= nr)
			return ret ? ret : -EBADMSG;
	}
	ret = dbuf_read(&self->buf, self->mem, self->buf.size, 0);
	for (i = 0; !ret && i < self->buf.size; i++) {
		off_t pos = BASE + (nr - 1 - i / len) * len + i % len;

		if (self->mem[i] != (i < nr * len ? pattern(pos, DISK_SEED) :
						    POISON))
			ret = -EBADMSG;
	}
	return ret;
}

TEST_F_TIMEOUT(cmd, deep, LONG_TIMEOUT)
{
	EXPECT_EQ(0, read_deep(self, variant));
	EXPECT_EQ(0, dbuf_lost(&self->buf));
}

/* Has moved before the command, so that a worker waits for it */
TEST_F(cmd, moved)
{
	unsigned int i;

	for (i = 0; i < 4; i++) {
		ASSERT_LE(0, dbuf_move(&self->buf));
		EXPECT_EQ(0, write_read(self, variant, 3 * 512, 40 * 512,
					BASE));
	}
	EXPECT_EQ(0, dbuf_lost(&self->buf));
}

/* Moves all the time, also between a command and its request */
TEST_F_TIMEOUT(cmd, moves, LONG_TIMEOUT)
{
	__u64 end = now_ms() + run_ms(2000);
	unsigned int rounds = 0;
	struct mover m;

	ASSERT_EQ(0, mover_start(&m, &self->buf, 900));
	while (now_ms() < end) {
		ASSERT_EQ(0, write_read(self, variant, 512 * (rounds % 9),
					512 * (1 + rounds % 200), BASE));
		ASSERT_EQ(0, read_deep(self, variant));
		rounds++;
	}
	ASSERT_EQ(0, mover_stop(&m));
	EXPECT_EQ(0, dbuf_lost(&self->buf));
	TH_LOG("%u rounds, %u moves", rounds, m.moves);
}

/* With somebody who goes first as soon as it is mapped, see dmabuf_move.c */
TEST_F_TIMEOUT(cmd, progress, LONG_TIMEOUT)
{
	struct mover m;
	__u64 maps;

	ASSERT_EQ(0, dbuf_faults(&self->buf, 0, 0, 2));
	maps = dbuf_stats(&self->buf).maps;
	ASSERT_EQ(0, mover_start_first(&m, &self->buf, &self->ring));
	ASSERT_EQ(0, read_deep(self, variant));
	ASSERT_EQ(0, mover_stop(&m));
	maps = dbuf_stats(&self->buf).maps - maps;
	TH_LOG("%u commands, %llu times mapped, %u moves", RING_ENTRIES / 2,
	       maps, m.moves);
	EXPECT_GT(4 * RING_ENTRIES / 2, maps);
	EXPECT_EQ(0, dbuf_lost(&self->buf));
}

TEST_F(cmd, revoked)
{
	ASSERT_LE(0, dbuf_revoke(&self->buf));
	EXPECT_EQ(-ENODEV, cmd_rw(self, variant, true, 0, 4096, BASE));
	EXPECT_EQ(-ENODEV, cmd_rw(self, variant, false, 0, 4096, BASE));
}

/* The ring goes while commands are in flight, or wait for the memory */
TEST_F(cmd, close_ring)
{
	struct io_uring_sqe *sqe;
	unsigned int i;

	for (i = 0; i < RING_ENTRIES / 2; i++) {
		cmd_sqe(self, variant, false, i * BLOCK, 4096, BASE, &sqe);
		sqe->user_data = i;
	}
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_LE(0, dbuf_move(&self->buf));
	ring_exit(&self->ring);
	EXPECT_TRUE(dbuf_free_within(&self->buf, WAIT_MS));
	EXPECT_EQ(0, dbuf_lost(&self->buf));
}

TEST_F(cmd, bad)
{
	struct io_uring_sqe *sqe;
	struct nvme_uring_cmd *cmd;
	struct iovec iov = { .iov_base = NULL, .iov_len = 4096 };
	size_t size = self->buf.size;

	memset(self->mem, POISON, size);
	ASSERT_EQ(0, dbuf_write(&self->buf, self->mem, size, 0));
	memset(self->mem, DISK_POISON, 65536);
	ASSERT_EQ(0, disk_rw(self->fd, self->mem, 65536, BASE, true));

	EXPECT_EQ(-EFAULT, cmd_rw(self, variant, true, size - 512, 4096, BASE));
	EXPECT_EQ(-EFAULT, cmd_rw(self, variant, true, size, 4096, BASE));
	EXPECT_EQ(-EFAULT, cmd_rw(self, variant, true, -4096UL, 8192, BASE));
	EXPECT_EQ(-EINVAL, cmd_rw(self, variant, true, 2, 4096, BASE));
	cmd_sqe(self, variant, true, 0, 4096, BASE, &sqe)->data_len = 4098;
	EXPECT_EQ(-EINVAL, cmd_run(self));

	cmd_sqe(self, variant, true, 0, 4096, BASE, &sqe);
	sqe->buf_index = 1;
	EXPECT_EQ(-EFAULT, cmd_run(self));

	/* several pieces in one command, or metadata with it */
	cmd = cmd_sqe(self, variant, true, 0, 4096, BASE, &sqe);
	sqe->cmd_op = NVME_URING_CMD_IO_VEC;
	cmd->addr = u64_ptr(&iov);
	cmd->data_len = 1;
	EXPECT_EQ(-EOPNOTSUPP, cmd_run(self));
	cmd = cmd_sqe(self, variant, true, 0, 4096, BASE, &sqe);
	cmd->metadata = u64_ptr(self->mem);
	cmd->metadata_len = 8;
	EXPECT_EQ(-EOPNOTSUPP, cmd_run(self));

	/* registered for the block device, or that with what is for commands */
	ASSERT_EQ(1, ring_dbuf(&self->ring, 1, &self->buf, self->fd));
	cmd_sqe(self, variant, true, 0, 4096, BASE, &sqe);
	sqe->buf_index = 1;
	EXPECT_EQ(-EBADF, cmd_run(self));
	ring_fixed(&self->ring, true, self->fd, 0, 0, 4096, BASE);
	/* to keep commands in two entries that are next to each other */
	ring_sqe(&self->ring, IORING_OP_NOP)->flags = IOSQE_CQE_SKIP_SUCCESS;
	EXPECT_EQ(-EBADF, cmd_run(self));

	ASSERT_EQ(1, ring_desc(&self->ring, 2, (struct io_uring_regbuf_desc) {
		.type = IO_REGBUF_TYPE_DMABUF, .dmabuf_fd = self->buf.fd,
		.target_fd = self->ng, .flags = IORING_REGBUF_READ,
	}));
	cmd_sqe(self, variant, true, 0, 4096, BASE, &sqe);
	sqe->buf_index = 2;
	EXPECT_EQ(-EFAULT, cmd_run(self));

	EXPECT_TRUE(holds(self, DISK_POISON, BASE, 65536));
	ASSERT_EQ(0, dbuf_read(&self->buf, self->mem, size, 0));
	EXPECT_TRUE(all_bytes(self->mem, POISON, size));
}

TEST_HARNESS_MAIN
