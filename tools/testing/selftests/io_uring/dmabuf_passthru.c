// SPDX-License-Identifier: GPL-2.0
/*
 * NVMe commands of the application's own, by /dev/ngXnY, whose data is in a
 * registered dma-buf.
 *
 * IO_URING_TEST_DRIVE=/dev/nvmeXnY names the drive, whose first 64 MiB are
 * overwritten. It has blocks of 512 bytes. What it holds is prepared and checked
 * by plain pread and pwrite of the block device.
 */
#include <linux/capability.h>

#include "iou_dmabuf_move.h"
#include "kselftest_harness.h"

#define PAGES		160
#define NVME_WRITE	1
#define NVME_READ	2
/* the drive makes checksums and checks them, nobody else sees them */
#define NVME_PRACT	(1u << 29)

FIXTURE(cmd) {
	struct ring ring;
	struct dbuf buf;
	unsigned char *mem;		/* as large as the dma-buf */
	int fd;				/* the block device */
	int ng;
	unsigned int nsid;
	unsigned int control;		/* of each command, for cdw12 */
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
	if (read_num("/sys/class/block/%s/metadata_bytes",
		     strrchr(getenv("IO_URING_TEST_DRIVE"), '/') + 1) > 0)
		self->control = NVME_PRACT;
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
	cmd->cdw12 = (len / BLOCK - 1) | self->control;
	/* the tag that the first block's checksum has */
	if (self->control)
		cmd->cdw14 = pos / BLOCK;
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
		return step_failed("half of a CQE", -EBADMSG);
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
		return step_failed("beside of what was written", -EDOM);
	ret = disk_rw(self->fd, self->mem, len, pos, false);
	for (i = 0; !ret && i < len; i++)
		if (self->mem[i] != pattern(off + i, BUF_SEED))
			ret = step_failed("what was written", -EBADMSG);
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
			ret = step_failed("what was read", -EBADMSG);
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
		if (ret)
			return step_failed("result of a deep read", ret);
		if (user_data >= nr)
			return step_failed("a CQE of nobody", -EBADMSG);
	}
	ret = dbuf_read(&self->buf, self->mem, self->buf.size, 0);
	for (i = 0; !ret && i < self->buf.size; i++) {
		off_t pos = BASE + (nr - 1 - i / len) * len + i % len;

		if (self->mem[i] != (i < nr * len ? pattern(pos, DISK_SEED) :
						    POISON))
			ret = step_failed("what was read deep", -EBADMSG);
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

/* ---------------------------------------------------------------- lengths */

/* What a drive that takes data for a list of pages would find in there */
#define VICTIM_POISON	0x42
/* Ordinary memory, registered for the same commands */
#define MEM_BUF		3
#define WINDOW_BUF	4

/* A page that no command is for, and where it is: 0 if nobody says */
struct victim {
	unsigned char	*page;
	__u64		addr;
};

static int victim_init(struct victim *v)
{
	size_t ps = page_size();
	__u64 entry = 0;
	int fd;

	v->page = mmap(NULL, ps, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (v->page == MAP_FAILED || mlock(v->page, ps))
		return step_failed("a page to watch", -errno);
	memset(v->page, VICTIM_POISON, ps);
	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return step_failed("pagemap", -errno);
	if (pread(fd, &entry, sizeof(entry),
		  (uintptr_t)v->page / ps * sizeof(entry)) != sizeof(entry))
		entry = 0;
	close(fd);
	v->addr = (entry & ((1ULL << 55) - 1)) * ps;
	return 0;
}

static void victim_exit(struct victim *v)
{
	munmap(v->page, page_size());
}

/* A command whose number of blocks isn't that of its data */
struct misfit {
	bool		write;
	unsigned int	len;		/* of the data */
	unsigned int	blocks;		/* that the drive is asked for */
};

static int misfit_run(struct _test_data_cmd *self,
		      const struct _fixture_variant_cmd *variant,
		      const struct misfit *m, unsigned int buf, __u64 addr)
{
	struct nvme_uring_cmd *cmd;
	struct io_uring_sqe *sqe;

	cmd = cmd_sqe(self, variant, m->write, addr, m->len, BASE, &sqe);
	cmd->cdw12 = (m->blocks - 1) | self->control;
	sqe->buf_index = buf;
	return cmd_run(self);
}

/*
 * The drive accesses the data and nothing else, and says the same that it says if
 * that is in ordinary memory: 0, or what is wrong. The data starts at @off of the
 * dma-buf, and at 0 of the buffer.
 */
static int misfit_check(struct _test_data_cmd *self,
			const struct _fixture_variant_cmd *variant,
			const struct misfit *m, const struct victim *v,
			unsigned char *ordinary, unsigned int buf, size_t off)
{
	size_t i, size = self->buf.size, span;
	int ret, status, status_mem;

	/* where the drive may come to, and a page */
	span = (m->blocks * BLOCK > m->len ? m->blocks * BLOCK : m->len) + 4096;
	memset(self->mem, DISK_POISON, span);
	ret = disk_rw(self->fd, self->mem, span, BASE, true);
	memset(self->mem, POISON, size);
	for (i = 0; i < m->len; i += sizeof(v->addr))
		memcpy(self->mem + off + i, &v->addr, sizeof(v->addr));
	memcpy(ordinary, self->mem + off, m->len);
	if (!ret)
		ret = dbuf_write(&self->buf, self->mem, size, 0);
	if (ret)
		return ret;

	status_mem = misfit_run(self, variant, m, MEM_BUF, u64_ptr(ordinary));
	status = misfit_run(self, variant, m, buf, buf == WINDOW_BUF ? 0 : off);
	/* more data than is asked for may be no error, if it is in one piece */
	if (status < 0 || status_mem < 0 ||
	    (m->blocks * BLOCK > m->len && (!status || status != status_mem))) {
		fprintf(stderr, "# status %#x of the dma-buf, %#x of memory\n",
			status, status_mem);
		return -EDOM;
	}
	if (!all_bytes(v->page, VICTIM_POISON, page_size()))
		return -EFAULT;
	if (dbuf_lost(&self->buf))
		return -EXDEV;
	ret = dbuf_read(&self->buf, self->mem, size, 0);
	if (!ret && (!all_bytes(self->mem, POISON, off) ||
		     !all_bytes(self->mem + off + m->len, POISON,
				size - off - m->len)))
		ret = -EBADMSG;
	/* what has been written is behind what has been asked for, or nowhere */
	i = m->write && (!status || !status_mem) ? m->blocks * BLOCK : 0;
	if (!ret)
		ret = disk_rw(self->fd, self->mem, span - i, BASE + i, false);
	if (!ret && !all_bytes(self->mem, DISK_POISON, span - i))
		ret = -EILSEQ;
	return ret;
}

static int lengths(struct _test_data_cmd *self,
		   const struct _fixture_variant_cmd *variant,
		   const struct victim *v, unsigned char *ordinary,
		   unsigned int buf, size_t off, size_t max)
{
	unsigned int b = page_size() / BLOCK, i, j;
	const unsigned int lens[] = {
		1, b, b + 1, 2 * b, 2 * b + 1, 4 * b, 8 * b, 24 * b,
	};

	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		const unsigned int blocks[] = {
			lens[i] + 1, 2 * lens[i], lens[i] + 2 * b,
			lens[i] - 1, lens[i] / 2,
		};

		if (lens[i] * BLOCK > max)
			continue;
		for (j = 0; j < 2 * ARRAY_SIZE(blocks); j++) {
			struct misfit m = {
				.write = j & 1, .blocks = blocks[j / 2],
				.len = lens[i] * BLOCK,
			};
			int ret;

			if (!m.blocks)
				continue;
			ret = misfit_check(self, variant, &m, v, ordinary, buf,
					   off);
			if (!ret)
				continue;
			fprintf(stderr, "# %s at %zu, %u bytes, %u blocks: %s\n",
				m.write ? "write" : "read", off, m.len, m.blocks,
				strerror(-ret));
			return ret;
		}
	}
	return 0;
}

/*
 * The drive is asked for more blocks than the data has, or for less. The data is
 * what would be a list of pages elsewhere.
 */
TEST_F_TIMEOUT(cmd, lengths, 2 * LONG_TIMEOUT)
{
	static const enum exporter kinds[] = { CONTIGUOUS, MIXED, SCATTERED };
	size_t ps = page_size(), size = 60 * ps;
	unsigned char *ordinary;
	struct victim v;
	unsigned int i;

	ASSERT_EQ(0, victim_init(&v));
	if (!v.addr)
		TH_LOG("nobody says where the victim is");
	ordinary = mmap(NULL, size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, ordinary);
	ASSERT_EQ(1, ring_desc(&self->ring, MEM_BUF,
			       (struct io_uring_regbuf_desc) {
		.type = IO_REGBUF_TYPE_UADDR, .uaddr = u64_ptr(ordinary),
		.size = size,
	}));
	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct io_uring_regbuf_desc window;

		dbuf_exit(&self->buf);
		ASSERT_EQ(0, dbuf_init(&self->buf, size, kinds[i]));
		ASSERT_EQ(1, ring_dbuf(&self->ring, 0, &self->buf, self->ng));
		ASSERT_EQ(0, lengths(self, variant, &v, ordinary, 0, ps, size)) {
			TH_LOG("segments %u", i);
		}
		ASSERT_EQ(0, lengths(self, variant, &v, ordinary, 0,
				     2 * ps - BLOCK, size));
		/* up to the end of a window */
		window = desc_dbuf(&self->buf, self->ng);
		window.offset = 3 * ps;
		window.size = 8 * ps;
		ASSERT_EQ(1, ring_desc(&self->ring, WINDOW_BUF, window));
		ASSERT_EQ(0, lengths(self, variant, &v, ordinary, WINDOW_BUF,
				     3 * ps, 8 * ps));
	}
	victim_exit(&v);
	munmap(ordinary, size);
}

static int buf_again(struct _test_data_cmd *self, size_t size,
		     enum exporter kind)
{
	int ret;

	dbuf_exit(&self->buf);
	ret = dbuf_init(&self->buf, size, kind);
	self->mem = realloc(self->mem, size);
	return ret ?: ring_dbuf(&self->ring, 0, &self->buf, self->ng);
}

/* The longest command that there is, and longer ones */
TEST_F_TIMEOUT(cmd, longest, 2 * LONG_TIMEOUT)
{
	size_t ps = page_size(), max;
	struct io_uring_sqe *sqe;

	max = 1024 * read_num("/sys/class/block/%s/queue/max_hw_dmabuf_sectors_kb",
			      strrchr(getenv("IO_URING_TEST_DRIVE"), '/') + 1);
	ASSERT_LE(BLOCK, max);
	ASSERT_EQ(1, buf_again(self, max + 3 * ps, MIXED));
	ASSERT_EQ(0, write_read(self, variant, 512, max, BASE));
	ASSERT_EQ(0, write_read(self, variant, 3 * ps, max, BASE));
	EXPECT_EQ(-EINVAL, cmd_rw(self, variant, true, 512, max + BLOCK, BASE));
	EXPECT_EQ(-EINVAL, cmd_rw(self, variant, false, 0, max + BLOCK, BASE));
	/* whatever the drive is asked for */
	cmd_sqe(self, variant, false, 0, BLOCK, BASE, &sqe)->data_len =
		max + BLOCK;
	EXPECT_EQ(-EINVAL, cmd_run(self));
	EXPECT_EQ(0, dbuf_lost(&self->buf));
}

/*
 * What doesn't fit into one segment of an SGL. QEMU's controllers don't take more
 * than two of them: before it reads the second it remembers where in its copy of
 * the first the descriptor for that was, and not what it was.
 */
TEST_F_TIMEOUT(cmd, segments, 2 * LONG_TIMEOUT)
{
	static const unsigned int pages[] = { 16, 17, 256, 257, 300, 511 };
	size_t ps = page_size();
	unsigned int i;
	long long kb;

	kb = read_num("/sys/class/block/%s/queue/max_hw_dmabuf_sectors_kb",
		      strrchr(getenv("IO_URING_TEST_DRIVE"), '/') + 1);
	ASSERT_EQ(1, buf_again(self, 513 * ps, SCATTERED));
	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		if (pages[i] * ps > kb * 1024)
			continue;
		ASSERT_EQ(0, write_read(self, variant, ps, pages[i] * ps,
					BASE)) {
			TH_LOG("%u pages", pages[i]);
		}
		ASSERT_EQ(0, write_read(self, variant, 512,
					pages[i] * ps - BLOCK, BASE)) {
			TH_LOG("%u pages, not aligned", pages[i]);
		}
	}
	EXPECT_EQ(0, dbuf_lost(&self->buf));
}

/* ---------------------------------------------------------------- time-outs */

#define FAIL_IO		"/sys/kernel/debug/fail_io_timeout/"
/* What the driver waits for commands when memory is to move */
#define MOVE_WAIT_US	30000000
/* To abort a command, and to reset the controller, of a slow emulator */
#define RESET_US	15000000

static int drive_put(const char *attr, const char *val)
{
	return put_file(val, "/sys/class/block/%s/%s",
			strrchr(getenv("IO_URING_TEST_DRIVE"), '/') + 1, attr);
}

/* The next three completions are never seen */
static int drive_lose(const char *timeout_ms)
{
	int ret = drive_put("queue/io_timeout", timeout_ms);

	if (!ret)
		ret = drive_put("io-timeout-fail", "1");
	if (!ret)
		ret = put_file("0", FAIL_IO "verbose");
	if (!ret)
		ret = put_file("100", FAIL_IO "probability");
	return ret ? ret : put_file("3", FAIL_IO "times");
}

/* Commands, of which the drive doesn't return some: us that a move takes */
static int lose_and_move(struct _test_data_cmd *self,
			 const struct _fixture_variant_cmd *variant,
			 unsigned int *ended)
{
	unsigned int i, nr = 16;
	int us, ret;

	*ended = 0;
	for (i = 0; i < nr; i++) {
		struct io_uring_sqe *sqe;

		/* ten minutes, as far as the application is concerned */
		cmd_sqe(self, variant, false, i * 4096, 4096, BASE + i * 4096,
			&sqe)->timeout_ms = 600000;
		sqe->user_data = i;
	}
	ret = ring_submit(&self->ring);
	if (ret < 0)
		return ret;
	/* workers may not have got that far */
	usleep(500000);
	us = dbuf_move(&self->buf);
	for (i = 0; i < nr; i++) {
		ret = cmd_wait(self, NULL);
		if (ret && ret != -EINTR)
			fprintf(stderr, "# command: %d\n", ret);
		if (ret == -EINTR)
			++*ended;
	}
	return us;
}

/* An application can't make others wait for longer than a disk's commands take */
TEST_F_TIMEOUT(cmd, capped, LONG_TIMEOUT)
{
	unsigned int ended;
	int us;

	if (access(FAIL_IO "times", F_OK))
		SKIP(return, "kernel can't lose completions");
	ASSERT_EQ(0, drive_lose("1000"));
	us = lose_and_move(self, variant, &ended);
	EXPECT_EQ(0, drive_put("queue/io_timeout", "30000"));
	TH_LOG("%d us to move, %u commands were canceled", us, ended);
	EXPECT_LT(0, us);
	EXPECT_GT(RESET_US, us);
	EXPECT_EQ(0, read_num(FAIL_IO "times"));
	EXPECT_EQ(0, write_read(self, variant, 512, 65536, BASE));
	EXPECT_EQ(0, dbuf_lost(&self->buf));
}

/* The drive has stopped, and its commands have all the time that there is */
TEST_F_TIMEOUT(cmd, stopped, LONG_TIMEOUT)
{
	unsigned int ended;
	int us;

	if (access(FAIL_IO "times", F_OK))
		SKIP(return, "kernel can't lose completions");
	ASSERT_EQ(0, drive_lose("600000"));
	us = lose_and_move(self, variant, &ended);
	EXPECT_EQ(0, drive_put("queue/io_timeout", "30000"));
	TH_LOG("%d us to move, %u commands were canceled", us, ended);
	EXPECT_LT(MOVE_WAIT_US / 2, us);
	EXPECT_GT(MOVE_WAIT_US + RESET_US, us);
	EXPECT_LT(0, ended);
	EXPECT_EQ(0, read_num(FAIL_IO "times"));
	EXPECT_EQ(0, write_read(self, variant, 512, 65536, BASE));
	EXPECT_EQ(0, dbuf_lost(&self->buf));
}

/* Whether the kernel has said so since @fd was at its end */
static bool log_has(int fd, const char *what)
{
	bool found = false;
	char line[2048];
	ssize_t n;

	/* a record each time, -EPIPE if some are gone */
	while ((n = read(fd, line, sizeof(line) - 1)) > 0 || errno == EPIPE) {
		line[n > 0 ? n : 0] = 0;
		if (strstr(line, what))
			found = true;
		errno = 0;
	}
	return found;
}

/*
 * A drive that is slow, and has so much to do that a move takes longer than it
 * waits for any one command: throttled to less than two commands a second. It is
 * left to complete them.
 */
TEST_F_TIMEOUT(cmd, slow, LONG_TIMEOUT)
{
	unsigned int i, ended = 0, nr = RING_ENTRIES / 2, len = 4096;
	struct io_uring_sqe *sqe;
	int us, ret, log;

	log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	ASSERT_LE(0, log);
	for (i = 0; i < nr * len; i++)
		self->mem[i] = pattern(BASE + i, DISK_SEED);
	ASSERT_EQ(0, disk_rw(self->fd, self->mem, nr * len, BASE, true));
	memset(self->mem, POISON, nr * len);
	ASSERT_EQ(0, dbuf_write(&self->buf, self->mem, nr * len, 0));
	/* until it has used up what it may do at once */
	for (i = 0; i < 1000; i++) {
		__u64 start = now_ms();

		ASSERT_EQ(0, disk_rw(self->fd, self->mem, BLOCK, 0, false));
		if (now_ms() - start > 300)
			break;
	}
	if (i == 1000)
		SKIP(return, "the drive isn't slow");
	ASSERT_EQ(0, lseek(log, 0, SEEK_END));
	/* nor do they time out one by one */
	ASSERT_EQ(0, drive_put("queue/io_timeout", "600000"));
	for (i = 0; i < nr; i++)
		cmd_sqe(self, variant, false, i * len, len, BASE + i * len,
			&sqe)->timeout_ms = 600000;
	ASSERT_LT(0, ring_submit(&self->ring));
	usleep(500000);
	us = dbuf_move(&self->buf);
	for (i = 0; i < nr; i++) {
		ret = cmd_wait(self, NULL);
		if (ret == -EINTR)
			ended++;
		else
			EXPECT_EQ(0, ret);
	}
	EXPECT_EQ(0, drive_put("queue/io_timeout", "30000"));
	TH_LOG("%d us to move, %u commands were canceled", us, ended);
	EXPECT_LT(MOVE_WAIT_US, us);
	EXPECT_EQ(0, ended);
	/* a reset may wait until the drive has completed them */
	EXPECT_FALSE(log_has(log, "reset controller"));
	close(log);
	ASSERT_EQ(0, dbuf_read(&self->buf, self->mem, nr * len, 0));
	for (i = 0; i < nr * len; i++)
		ASSERT_EQ(pattern(BASE + i, DISK_SEED), self->mem[i]);
	EXPECT_EQ(0, dbuf_lost(&self->buf));
}

static int drop_rawio(void)
{
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	if (syscall(__NR_capget, &head, data))
		return -errno;
	data[0].effective &= ~(1u << CAP_SYS_RAWIO);
	return syscall(__NR_capset, &head, data) ? -errno : 0;
}

/*
 * A namespace with metadata of its own, and a command without a buffer for it:
 * the drive takes it from address 0, or puts it there
 */
TEST_F(cmd, no_metadata)
{
	const char *name = strrchr(getenv("IO_URING_TEST_DRIVE"), '/') + 1;

	if (read_num("/sys/class/block/%s/metadata_bytes", name) <= 0)
		SKIP(return, "%s has no metadata", name);
	memset(self->mem, DISK_POISON, 65536);
	ASSERT_EQ(0, disk_rw(self->fd, self->mem, 65536, BASE, true));
	memset(self->mem, POISON, 65536);
	ASSERT_EQ(0, dbuf_write(&self->buf, self->mem, 65536, 0));

	/* a thread of the ring has what its creator has */
	ASSERT_EQ(0, drop_rawio());
	ring_exit(&self->ring);
	ASSERT_EQ(0, ring_init(&self->ring, RING_ENTRIES, variant->type.setup |
			       IORING_SETUP_SQE_MIXED | IORING_SETUP_CQE_MIXED));
	ASSERT_EQ(0, ring_buffers_sparse(&self->ring, NR_BUFS));
	ASSERT_EQ(1, ring_dbuf(&self->ring, 0, &self->buf, self->ng));
	self->control = 0;
	EXPECT_EQ(-EOPNOTSUPP, cmd_rw(self, variant, true, 0, 4096, BASE));
	EXPECT_EQ(-EOPNOTSUPP, cmd_rw(self, variant, false, 0, 4096, BASE));
	EXPECT_TRUE(holds(self, DISK_POISON, BASE, 65536));
	ASSERT_EQ(0, dbuf_read(&self->buf, self->mem, 65536, 0));
	EXPECT_TRUE(all_bytes(self->mem, POISON, 65536));
}

/* Commands to the controller have no dma-bufs, whatever those are good for */
TEST_F(cmd, admin)
{
	char path[64], *end;
	struct io_uring_sqe *sqe;
	struct nvme_uring_cmd *cmd;
	size_t size = self->buf.size;
	int fd;

	snprintf(path, sizeof(path), "%s", getenv("IO_URING_TEST_DRIVE"));
	end = strrchr(path, 'n');
	ASSERT_NE(NULL, end);
	*end = 0;
	fd = open(path, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd);
	memset(self->mem, POISON, size);
	ASSERT_EQ(0, dbuf_write(&self->buf, self->mem, size, 0));

	EXPECT_EQ(-EOPNOTSUPP, ring_dbuf(&self->ring, 1, &self->buf, fd));
	/* Identify Controller */
	cmd = cmd_sqe(self, variant, false, 0, 4096, 0, &sqe);
	sqe->fd = fd;
	sqe->cmd_op = NVME_URING_CMD_ADMIN;
	cmd->opcode = 6;
	cmd->nsid = 0;
	cmd->cdw10 = 1;
	cmd->cdw12 = 0;
	cmd->cdw14 = 0;
	EXPECT_EQ(-EBADF, cmd_run(self));
	/* not there either */
	cmd_sqe(self, variant, false, 0, 4096, BASE, &sqe);
	sqe->cmd_op = NVME_URING_CMD_ADMIN;
	EXPECT_GT(0, cmd_run(self));

	ASSERT_EQ(0, dbuf_read(&self->buf, self->mem, size, 0));
	EXPECT_TRUE(all_bytes(self->mem, POISON, size));
	EXPECT_EQ(0, write_read(self, variant, 512, 65536, BASE));
	close(fd);
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
