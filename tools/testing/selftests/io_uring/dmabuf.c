// SPDX-License-Identifier: GPL-2.0
/*
 * READ_FIXED and WRITE_FIXED between a drive and registered dma-bufs.
 *
 * Data gets where it shall and nowhere else, byte by byte. What can't be done
 * fails with the errno that says why, and leaves no trace. Nothing stays mapped
 * when a buffer goes, in whatever way. See dmabuf_move.c for memory that moves.
 *
 * The drive is a null_blk, so no hardware is needed. What one side of a
 * transfer holds is prepared and checked by another way: plain pread and pwrite
 * of the drive, the CPU's own access to the dma-buf.
 */
#include <linux/blkpg.h>
#include <linux/io_uring/mock_file.h>
#include <linux/io_uring/query.h>
#include <linux/loop.h>
#include <sys/socket.h>

#include "iou_dmabuf.h"
#include "iou_ublk.h"
#include "kselftest_harness.h"

#define DATA_PAGES	320
#define TAG		0x1234567890abcdefULL

/* ------------------------------------------------------------ data */

FIXTURE(data) {
	struct env e;
};

FIXTURE_VARIANT(data) {
	struct ring_type type;
	enum exporter exp;
	struct disk_conf conf;
};

FIXTURE_VARIANT_ADD(data, plain_udmabuf) {
	.type = TYPE_PLAIN, .exp = UDMABUF,
};

FIXTURE_VARIANT_ADD(data, plain_heap) {
	.type = TYPE_PLAIN, .exp = HEAP,
};

FIXTURE_VARIANT_ADD(data, plain_contiguous) {
	.type = TYPE_PLAIN, .exp = CONTIGUOUS,
};

FIXTURE_VARIANT_ADD(data, plain_scattered) {
	.type = TYPE_PLAIN, .exp = SCATTERED,
};

FIXTURE_VARIANT_ADD(data, plain_static) {
	.type = TYPE_PLAIN, .exp = STATIC,
};

FIXTURE_VARIANT_ADD(data, plain_mixed) {
	.type = TYPE_PLAIN, .exp = MIXED,
};

FIXTURE_VARIANT_ADD(data, defer_mixed) {
	.type = TYPE_DEFER, .exp = MIXED,
};

FIXTURE_VARIANT_ADD(data, sqpoll_mixed) {
	.type = TYPE_SQPOLL, .exp = MIXED,
};

FIXTURE_VARIANT_ADD(data, iopoll_mixed) {
	.type = TYPE_IOPOLL, .exp = MIXED,
};

FIXTURE_VARIANT_ADD(data, iowq_mixed) {
	.type = TYPE_IOWQ, .exp = MIXED,
};

/* requests that need no splitting */
FIXTURE_VARIANT_ADD(data, defer_udmabuf_large) {
	.type = TYPE_DEFER, .exp = UDMABUF, .conf = { .max_sectors = "4096" },
};

FIXTURE_SETUP(data)
{
	struct env *e = &self->e;
	const char *skip;
	int ret;

	ret = env_init(e, &variant->type, variant->exp, DATA_PAGES,
		       &variant->conf, &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
}

FIXTURE_TEARDOWN(data)
{
	env_exit(&self->e);
}

TEST_F_TIMEOUT(data, whole, LONG_TIMEOUT)
{
	struct env *e = &self->e;
	struct span s = { .len = e->buf.size, .pos = BASE };

	EXPECT_EQ(0, span_write(e, &s));
	EXPECT_EQ(0, span_read(e, &s));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* Every size at the offsets where something begins or ends */
TEST_F_TIMEOUT(data, sizes, LONG_TIMEOUT)
{
	static const unsigned int sizes[] = {
		512, 1024, 4096, 4608, 65536, 131072 + 512, 1024 * 1024,
	};
	struct env *e = &self->e;
	size_t ps = page_size(), end = e->buf.size;
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		size_t len = sizes[i];
		/* segments of MIXED start after 1, 4, 20 and 22 pages */
		const size_t offs[] = {
			0, 2, 512, ps - 512, ps, 4 * ps - 1024, 20 * ps - 512,
			22 * ps - 512, end - len - 512, end - len,
		};

		for (j = 0; j < ARRAY_SIZE(offs); j++) {
			struct span s = {
				.off = offs[j], .len = len,
				.pos = BASE + (i * 5 + j * 3) * BLOCK,
			};

			if (s.off + s.len > end)
				continue;
			ASSERT_EQ(0, span_write(e, &s)) {
				span_print("write", &s, 0);
			}
			ASSERT_EQ(0, span_read(e, &s)) {
				span_print("read", &s, 0);
			}
		}
	}
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* As many as there are requests, in any order */
TEST_F_TIMEOUT(data, deep, LONG_TIMEOUT)
{
	struct env *e = &self->e;
	unsigned int i, nr = RING_ENTRIES, len = 8 * BLOCK;
	int res[RING_ENTRIES];

	ASSERT_EQ(0, buf_pattern(e, 0, nr * len, BUF_SEED));
	for (i = 0; i < nr; i++) {
		struct io_uring_sqe *sqe;

		sqe = ring_fixed(&e->ring, true, e->fd, 0, i * len, len,
				 BASE + (nr - 1 - i) * len);
		sqe->flags = e->sqe_flags;
		sqe->user_data = i;
	}
	ASSERT_EQ(nr, ring_submit(&e->ring));
	ASSERT_EQ(0, ring_collect(&e->ring, res, nr));
	for (i = 0; i < nr; i++)
		ASSERT_EQ(len, res[i]);
	ASSERT_EQ(0, disk_read(&e->disk, e->mem, nr * len, BASE));
	for (i = 0; i < nr * len; i++) {
		size_t off = (nr - 1 - i / len) * len + i % len;

		ASSERT_EQ(pattern(off, BUF_SEED), e->mem[i]);
	}
	ASSERT_EQ(0, disk_pattern(e, BASE, nr * len, DISK_SEED));
	ASSERT_EQ(0, buf_set(e, POISON, 0, nr * len));
	queue_reads(e, nr, len);
	ASSERT_EQ(nr, ring_submit(&e->ring));
	ASSERT_EQ(0, ring_collect(&e->ring, res, nr));
	for (i = 0; i < nr; i++)
		ASSERT_EQ(len, res[i]);
	ASSERT_EQ(0, dbuf_read(&e->buf, e->mem, nr * len, 0));
	for (i = 0; i < nr * len; i++)
		ASSERT_EQ(pattern(BASE + i, DISK_SEED), e->mem[i]);
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* Linked, the second one reads what the first one has written */
TEST_F(data, linked)
{
	struct env *e = &self->e;
	unsigned int len = 9 * BLOCK;
	struct io_uring_sqe *sqe;
	int res[2];

	ASSERT_EQ(0, buf_pattern(e, 0, len, BUF_SEED));
	ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, len));
	sqe = ring_fixed(&e->ring, true, e->fd, 0, 0, len, BASE);
	sqe->flags = e->sqe_flags | IOSQE_IO_LINK;
	sqe = ring_fixed(&e->ring, false, e->fd, 0, 2 * len, len, BASE);
	sqe->flags = e->sqe_flags;
	sqe->user_data = 1;
	ASSERT_EQ(2, ring_submit(&e->ring));
	ASSERT_EQ(0, ring_collect(&e->ring, res, 2));
	EXPECT_EQ(len, res[0]);
	EXPECT_EQ(len, res[1]);
	ASSERT_EQ(0, dbuf_read(&e->buf, e->mem, len, 2 * len));
	EXPECT_EQ(len, check_pattern(e->mem, len, BUF_SEED));
}

/* At the end of the drive a transfer is short, as every other one is */
TEST_F(data, end_of_drive)
{
	struct env *e = &self->e;
	off_t end = lseek(e->fd, 0, SEEK_END);
	struct span s = { .off = 4096, .len = 1024, .pos = end - 1024 };

	ASSERT_LE(64 << 20, end);
	ASSERT_EQ(0, buf_set(e, POISON, 0, 16384));
	ASSERT_EQ(0, disk_pattern(e, s.pos, s.len, DISK_SEED));
	EXPECT_EQ(1024, rw(e, false, s.off, 8192, s.pos));
	EXPECT_TRUE(buf_got(e, &s, DISK_SEED));
	EXPECT_EQ(0, rw(e, false, 0, 4096, end));
	ASSERT_EQ(0, buf_pattern(e, s.off, s.len, BUF_SEED));
	EXPECT_EQ(1024, rw(e, true, s.off, 8192, s.pos));
	ASSERT_EQ(0, disk_read(&e->disk, e->mem, 1024, s.pos));
	EXPECT_EQ(pattern(s.off, BUF_SEED), e->mem[0]);
	EXPECT_EQ(pattern(s.off + 1023, BUF_SEED), e->mem[1023]);
	EXPECT_EQ(-ENOSPC, rw(e, true, 0, 4096, end));
}

/* ------------------------------------------------------------ registration */

#define SMALL_PAGES	16
#define SMALL_SIZE	(SMALL_PAGES * page_size())

FIXTURE(reg) {
	struct env e;
};

FIXTURE_SETUP(reg)
{
	static const struct ring_type plain;
	struct env *e = &self->e;
	const char *skip;
	int ret;

	ret = env_init(e, &plain, SCATTERED, SMALL_PAGES, NULL, &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, buf_set(e, POISON, 0, SMALL_SIZE));
	ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, SMALL_SIZE));
}

FIXTURE_TEARDOWN(reg)
{
	env_exit(&self->e);
}

/* No request has had an effect */
static bool env_untouched(struct env *e)
{
	return buf_holds(e, POISON, 0, SMALL_SIZE) &&
	       disk_holds(e, DISK_POISON, BASE, SMALL_SIZE) &&
	       !dbuf_lost(&e->buf);
}

static int update(struct env *e, struct io_uring_rsrc_update2 up,
		  unsigned int nr_args)
{
	return ring_register(&e->ring, IORING_REGISTER_BUFFERS_UPDATE, &up,
			     nr_args);
}

TEST_F(reg, bad_update)
{
	struct env *e = &self->e;
	struct io_uring_regbuf_desc desc[2];
	struct io_uring_rsrc_update2 good = {
		.flags = IORING_RSRC_UPDATE_EXTENDED, .data = u64_ptr(desc),
		.nr = 1,
	}, up;
	struct ring r;

	desc[0] = desc_dbuf(&e->buf, e->fd);
	desc[1] = desc[0];
#define UPDATE(err, size, field, val)					\
do {									\
	up = good;							\
	up.field = val;							\
	EXPECT_EQ(err, update(e, up, size)) {				\
		TH_LOG(#field " = " #val);				\
	}								\
} while (0)
	UPDATE(-EINVAL, sizeof(up) - 8, nr, 1);
	UPDATE(-EINVAL, sizeof(up) + 8, nr, 1);
	UPDATE(-EINVAL, 1, nr, 1);
	UPDATE(-EINVAL, sizeof(up), flags, good.flags | 1);
	UPDATE(-EINVAL, sizeof(up), flags, good.flags | 4);
	UPDATE(-EINVAL, sizeof(up), flags, good.flags | 1U << 31);
	UPDATE(-EINVAL, sizeof(up), resv2, 1);
	UPDATE(-EINVAL, sizeof(up), nr, 0);
	UPDATE(-EINVAL, sizeof(up), offset, NR_BUFS);
	UPDATE(-EINVAL, sizeof(up), nr, NR_BUFS + 1);
	UPDATE(-EOVERFLOW, sizeof(up), offset, ~0U);
	UPDATE(-EFAULT, sizeof(up), data, 8);
	UPDATE(-EFAULT, sizeof(up), tags, 8);
#undef UPDATE
	/* files know no such flag */
	EXPECT_EQ(-EINVAL, ring_register(&e->ring,
					 IORING_REGISTER_FILES_UPDATE2, &good,
					 sizeof(good)));
	ASSERT_EQ(0, ring_init(&r, 1, 0));
	EXPECT_EQ(-ENXIO, ring_register(&r, IORING_REGISTER_BUFFERS_UPDATE,
					&good, sizeof(good)));
	ring_exit(&r);
	EXPECT_EQ(0, dbuf_stats(&e->buf).attaches);
	EXPECT_EQ(1, update(e, good, sizeof(good)));
	EXPECT_EQ(1, dbuf_stats(&e->buf).attaches);
}

TEST_F(reg, bad_desc)
{
	struct env *e = &self->e;
	const struct io_uring_regbuf_desc good = desc_dbuf(&e->buf, e->fd);
	const struct io_uring_regbuf_desc user = {
		.type = IO_REGBUF_TYPE_UADDR, .uaddr = u64_ptr(e->mem),
		.size = 4096,
	};
	const struct io_uring_regbuf_desc empty = {};
	struct io_uring_regbuf_desc desc;
	__u64 tag = TAG;
	unsigned int i;

	ASSERT_EQ(1, ring_desc(&e->ring, 0, good));
#define DESC(err, of, field, val)					\
do {									\
	desc = of;							\
	desc.field = val;						\
	EXPECT_EQ(err, ring_desc(&e->ring, 0, desc)) {			\
		TH_LOG(#of "." #field " = " #val);			\
	}								\
} while (0)
	DESC(-EINVAL, good, type, 3);
	DESC(-EINVAL, good, type, ~0U);
	DESC(-EINVAL, good, flags, 1U << 3);
	DESC(-EINVAL, good, flags, 1U << 31);
	DESC(-EINVAL, good, uaddr, 4096);
	DESC(-EINVAL, good, size, SMALL_SIZE + 1);
	DESC(-EINVAL, good, size, SMALL_SIZE * 2);
	DESC(-EINVAL, good, offset, 1);
	DESC(-EINVAL, good, offset, 512);
	DESC(-EINVAL, good, offset, SMALL_SIZE);
	DESC(-EINVAL, good, offset, SMALL_SIZE + 4096);
	DESC(-EINVAL, good, offset, 1ULL << 63);
	DESC(-EBADF, good, dmabuf_fd, -1);
	DESC(-EBADF, good, dmabuf_fd, 9999);
	DESC(-EINVAL, good, dmabuf_fd, e->ring.u.ring_fd);
	DESC(-EINVAL, good, dmabuf_fd, e->fd);
	DESC(-EINVAL, good, dmabuf_fd, e->buf.dev);
	DESC(-EBADF, good, target_fd, -1);
	DESC(-EBADF, good, target_fd, 9999);
	DESC(-EINVAL, user, flags, 1);
	DESC(-EINVAL, user, offset, 4096);
	DESC(-EINVAL, user, dmabuf_fd, e->buf.fd);
	DESC(-EINVAL, user, target_fd, e->fd);
	DESC(-EFAULT, user, uaddr, 4096);
	DESC(-EINVAL, empty, size, 4096);
	DESC(-EINVAL, empty, uaddr, 4096);
	DESC(-EINVAL, empty, flags, 1);
	DESC(-EINVAL, empty, offset, 4096);
	DESC(-EINVAL, empty, dmabuf_fd, -1);
	DESC(-EINVAL, empty, target_fd, e->fd);
	for (i = 0; i < ARRAY_SIZE(good.__resv); i++) {
		DESC(-EINVAL, good, __resv[i], 1);
		DESC(-EINVAL, user, __resv[i], 1ULL << 63);
		DESC(-EINVAL, empty, __resv[i], 1);
	}
#undef DESC
	desc = good;
	desc.offset = 4096;
	desc.size = ~0ULL - 4095;
	EXPECT_EQ(-EOVERFLOW, ring_desc(&e->ring, 0, desc));
	desc.size = SMALL_SIZE - 4096 + 512;
	EXPECT_EQ(-EINVAL, ring_desc(&e->ring, 0, desc));
	/* nothing to tell the end of */
	desc = empty;
	EXPECT_EQ(-EINVAL, ring_descs(&e->ring, 0, &desc, 1, &tag));

	/* the buffer that was there still is, and the only one */
	EXPECT_EQ(1, dbuf_attached(&e->buf));
	EXPECT_EQ(1, dbuf_mapped(&e->buf));
	EXPECT_TRUE(env_untouched(e));
	EXPECT_EQ(512, rw(e, true, 0, 512, BASE));
	EXPECT_TRUE(disk_holds(e, POISON, BASE, 512));
}

/* A file that no device could read: descriptor, what is wrong with it */
static int open_loop(int *backing)
{
	int ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC), nr, fd;
	struct loop_config config = {
		.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
	};
	char path[32];

	*backing = -1;
	if (ctl < 0)
		return -1;
	nr = ioctl(ctl, LOOP_CTL_GET_FREE);
	close(ctl);
	snprintf(path, sizeof(path), "/dev/loop%d", nr);
	fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		return -1;
	*backing = syscall(__NR_memfd_create, "loop", MFD_CLOEXEC);
	config.fd = *backing;
	if (ftruncate(*backing, 1 << 20) || ioctl(fd, LOOP_CONFIGURE, &config)) {
		close(fd);
		return -1;
	}
	return fd;
}

TEST_F(reg, bad_target)
{
	struct disk_conf without = { .dmabuf = "0" };
	struct env *e = &self->e;
	struct disk other = {};
	int fd, backing, pipes[2];

	fd = open(e->disk.path, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EINVAL, ring_dbuf(&e->ring, 0, &e->buf, fd));
	close(fd);
	EXPECT_EQ(-EOPNOTSUPP, ring_dbuf(&e->ring, 0, &e->buf,
					 e->ring.u.ring_fd));
	EXPECT_EQ(-EOPNOTSUPP, ring_dbuf(&e->ring, 0, &e->buf, e->buf.fd));
	fd = syscall(__NR_memfd_create, "file", MFD_CLOEXEC);
	EXPECT_EQ(-EOPNOTSUPP, ring_dbuf(&e->ring, 0, &e->buf, fd));
	close(fd);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	EXPECT_EQ(-EOPNOTSUPP, ring_dbuf(&e->ring, 0, &e->buf, fd));
	close(fd);
	ASSERT_EQ(0, pipe(pipes));
	EXPECT_EQ(-EOPNOTSUPP, ring_dbuf(&e->ring, 0, &e->buf, pipes[0]));
	close(pipes[0]);
	close(pipes[1]);
	fd = open("/", O_RDONLY | O_DIRECTORY);
	EXPECT_EQ(-EOPNOTSUPP, ring_dbuf(&e->ring, 0, &e->buf, fd));
	close(fd);
	fd = open_loop(&backing);
	if (fd >= 0) {
		EXPECT_EQ(-EOPNOTSUPP, ring_dbuf(&e->ring, 0, &e->buf, fd));
		close(fd);
	}
	close(backing);
	ASSERT_EQ(0, disk_init(&other, &without));
	EXPECT_EQ(-EOPNOTSUPP, ring_dbuf(&e->ring, 0, &e->buf, other.fd));
	disk_exit(&other);
	EXPECT_EQ(0, dbuf_stats(&e->buf).attaches);
	EXPECT_TRUE(env_untouched(e));
}

/* What exporters refuse, and what they had better not do */
TEST_F(reg, bad_exporter)
{
	static const struct {
		const char			*what;
		struct test_dmabuf_create	create;
		__u32				flags;
		int				err;
	} bad[] = {
		{ "refuses devices", { .attach_errno = ENXIO }, 0, -ENXIO },
		{ "no vmap", { .flags = TEST_DMABUF_NO_VMAP }, 0, -EOPNOTSUPP },
		{ "too long", { .flags = TEST_DMABUF_LONG }, 0, -EINVAL },
		{ "too short", { .flags = TEST_DMABUF_SHORT }, 0, -EINVAL },
		{ "unaligned", { .flags = TEST_DMABUF_UNALIGNED }, 0, -EINVAL },
		{ "one segment, too short", { .flags = TEST_DMABUF_SHORT,
		  .nr_segs = 1, .segs = { SMALL_PAGES } }, 0, -EINVAL },
		{ "one segment, unaligned", { .flags = TEST_DMABUF_UNALIGNED,
		  .nr_segs = 1, .segs = { SMALL_PAGES } }, 0, -EINVAL },
		{ "no P2P", { .flags = TEST_DMABUF_NO_P2P },
		  IORING_REGBUF_P2P_REQUIRED, -EREMOTEIO },
		{ "memory of the host", { .flags = 0 },
		  IORING_REGBUF_P2P_REQUIRED, -EREMOTEIO },
		{ "read only", { .flags = TEST_DMABUF_RDONLY },
		  IORING_REGBUF_READ, -EACCES },
		{ "read only", { .flags = TEST_DMABUF_RDONLY },
		  IORING_REGBUF_READ | IORING_REGBUF_WRITE, -EACCES },
		/* and these are fine */
		{ "P2P", { .flags = TEST_DMABUF_DEVICE },
		  IORING_REGBUF_P2P_REQUIRED, 1 },
		{ "no P2P, not required", { .flags = TEST_DMABUF_NO_P2P }, 0, 1 },
		{ "static", { .flags = TEST_DMABUF_STATIC }, 0, 1 },
		{ "read only", { .flags = TEST_DMABUF_RDONLY }, 0, 1 },
		{ "read only", { .flags = TEST_DMABUF_RDONLY },
		  IORING_REGBUF_WRITE, 1 },
	};
	struct env *e = &self->e;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		struct io_uring_regbuf_desc desc;
		struct dbuf b;

		ASSERT_EQ(0, dbuf_test(&b, SMALL_SIZE, bad[i].create));
		desc = desc_dbuf(&b, e->fd);
		desc.flags = bad[i].flags;
		EXPECT_EQ(bad[i].err, ring_desc(&e->ring, 0, desc)) {
			TH_LOG("%s", bad[i].what);
		}
		EXPECT_EQ(bad[i].err == 1, dbuf_attached(&b)) {
			TH_LOG("%s", bad[i].what);
		}
		EXPECT_EQ(bad[i].err == 1, dbuf_mapped(&b));
		memset(&desc, 0, sizeof(desc));
		EXPECT_EQ(1, ring_desc(&e->ring, 0, desc));
		EXPECT_EQ(0, dbuf_attached(&b));
		dbuf_exit(&b);
	}
}

TEST_F(reg, bad_map)
{
	struct env *e = &self->e;
	struct test_dmabuf_stats stats;

	ASSERT_EQ(0, dbuf_faults(&e->buf, 2, EXFULL, 0));
	EXPECT_EQ(-EXFULL, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	EXPECT_EQ(-EXFULL, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	EXPECT_EQ(0, dbuf_attached(&e->buf));
	EXPECT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	ASSERT_LE(0, dbuf_revoke(&e->buf));
	EXPECT_EQ(-ENODEV, ring_dbuf(&e->ring, 1, &e->buf, e->fd));
	stats = dbuf_stats(&e->buf);
	EXPECT_EQ(3, stats.map_errors);
	EXPECT_EQ(1, stats.maps);
	EXPECT_EQ(1, stats.unmaps);
	EXPECT_EQ(1, dbuf_attached(&e->buf));
}

/* The second of three can't be done: the first one counts */
TEST_F(reg, partial)
{
	struct env *e = &self->e;
	struct io_uring_regbuf_desc desc[3];
	__u64 tags[3] = { TAG, TAG + 1, TAG + 2 };
	unsigned int i;

	for (i = 0; i < 3; i++)
		desc[i] = desc_dbuf(&e->buf, e->fd);
	desc[1].size = SMALL_SIZE + 4096;
	EXPECT_EQ(1, ring_descs(&e->ring, 1, desc, 3, tags));
	EXPECT_EQ(1, dbuf_attached(&e->buf));
	EXPECT_EQ(512, ring_rw(&e->ring, false, e->fd, 1, 0, 512, 0));
	EXPECT_EQ(-EFAULT, ring_rw(&e->ring, false, e->fd, 2, 0, 512, 0));
	EXPECT_EQ(-EFAULT, ring_rw(&e->ring, false, e->fd, 3, 0, 512, 0));
	EXPECT_EQ(-EINVAL, ring_descs(&e->ring, 1, desc + 1, 2, tags));
	EXPECT_EQ(1, dbuf_attached(&e->buf));
	EXPECT_TRUE(ring_quiet(&e->ring));
	desc[1].size = 0;
	EXPECT_EQ(3, ring_descs(&e->ring, 1, desc, 3, NULL));
	/* the tag of the one that it was */
	EXPECT_EQ(0, ring_result(&e->ring));
	/* the same part of the same dma-buf */
	EXPECT_EQ(1, dbuf_attached(&e->buf));
	EXPECT_EQ(512, ring_rw(&e->ring, false, e->fd, 2, 0, 512, 0));
	EXPECT_EQ(512, ring_rw(&e->ring, false, e->fd, 3, 0, 512, 0));
}

/* One table with a dma-buf, ordinary memory and nothing */
TEST_F(reg, types)
{
	struct env *e = &self->e;
	struct io_uring_regbuf_desc desc[3] = {
		[1] = { .type = IO_REGBUF_TYPE_UADDR },
	};
	struct arena a;

	ASSERT_EQ(0, arena_init(&a, 8192, false));
	ASSERT_EQ(0, disk_pattern(e, BASE, 4096, DISK_SEED));
	ASSERT_EQ(1, ring_dbuf(&e->ring, 2, &e->buf, e->fd));
	desc[0] = desc_dbuf(&e->buf, e->fd);
	desc[1].uaddr = u64_ptr(a.mem);
	desc[1].size = 8192;
	ASSERT_EQ(3, ring_descs(&e->ring, 0, desc, 3, NULL));
	EXPECT_EQ(1, dbuf_attached(&e->buf));

	EXPECT_EQ(4096, ring_rw(&e->ring, false, e->fd, 0, 4096, 4096, BASE));
	EXPECT_TRUE(buf_got(e, &(struct span){ 4096, 4096, BASE }, DISK_SEED));
	EXPECT_EQ(4096, ring_rw(&e->ring, false, e->fd, 1,
				u64_ptr(a.mem) + 512, 4096, BASE));
	EXPECT_EQ(pattern(BASE, DISK_SEED), a.mem[512]);
	EXPECT_EQ(pattern(BASE + 4095, DISK_SEED), a.mem[512 + 4095]);
	EXPECT_TRUE(all_bytes(a.mem, 0, 512));
	EXPECT_EQ(-EFAULT, ring_rw(&e->ring, false, e->fd, 2, 0, 512, BASE));
	/* a dma-buf has no addresses, memory no offsets */
	EXPECT_EQ(-EFAULT, ring_rw(&e->ring, false, e->fd, 0, u64_ptr(a.mem),
				   4096, BASE));
	EXPECT_EQ(-EFAULT, ring_rw(&e->ring, false, e->fd, 1, 0, 4096, BASE));
	arena_exit(&a);
}

/* ------------------------------------------------------------ requests */

TEST_F(reg, bad_range)
{
	struct env *e = &self->e;
	const size_t size = SMALL_SIZE;
	const struct {
		__u64	off;
		__u32	len;
		__u64	pos;
		int	err;
	} bad[] = {
		{ size, 512, BASE, -EFAULT },
		{ size - 512, 1024, BASE, -EFAULT },
		{ 0, size + 512, BASE, -EFAULT },
		{ 0, 0x7ffff000, BASE, -EFAULT },
		{ 0, 0xfffff000, BASE, -EFAULT },
		{ ~0ULL - 511, 512, BASE, -EFAULT },
		{ ~0ULL - 511, 1024, BASE, -EFAULT },
		{ 1ULL << 63, 512, BASE, -EFAULT },
		{ 1, 512, BASE, -EINVAL },
		{ 511, 512, BASE, -EINVAL },
		{ 0, 1, BASE, -EINVAL },
		{ 0, 511, BASE, -EINVAL },
		{ 0, 4097, BASE, -EINVAL },
		{ 0, 512, BASE + 1, -EINVAL },
		{ 0, 512, BASE + 256, -EINVAL },
		{ 0, 0, BASE, 0 },
		{ size - 512, 0, BASE, 0 },
	};
	unsigned int i, write;

	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		for (write = 0; write < 2; write++) {
			EXPECT_EQ(bad[i].err, rw(e, write, bad[i].off,
						 bad[i].len, bad[i].pos)) {
				TH_LOG("off %llu len %u pos %llu %s",
				       (unsigned long long)bad[i].off,
				       bad[i].len,
				       (unsigned long long)bad[i].pos,
				       write ? "write" : "read");
			}
		}
	}
	EXPECT_TRUE(env_untouched(e));
	EXPECT_EQ(-EFAULT, ring_rw(&e->ring, true, e->fd, NR_BUFS, 0, 512,
				   BASE));
	EXPECT_EQ(512, rw(e, false, size - 512, 512, BASE));
	EXPECT_TRUE(buf_holds(e, DISK_POISON, size - 512, 512));
}

TEST_F(reg, bad_file)
{
	struct disk_conf conf = {};
	struct env *e = &self->e;
	struct disk other = {};
	int fd, pipes[2];

	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	ASSERT_EQ(0, disk_init(&other, &conf));
	ASSERT_EQ(0, pipe(pipes));
	fd = syscall(__NR_memfd_create, "file", MFD_CLOEXEC);
	ASSERT_EQ(0, ftruncate(fd, 65536));
	EXPECT_EQ(-EBADF, ring_rw(&e->ring, false, other.fd, 0, 0, 512, BASE));
	EXPECT_EQ(-EBADF, ring_rw(&e->ring, true, other.fd, 0, 0, 512, BASE));
	EXPECT_EQ(-EBADF, ring_rw(&e->ring, false, fd, 0, 0, 512, 0));
	EXPECT_EQ(-EBADF, ring_rw(&e->ring, true, fd, 0, 0, 512, 0));
	EXPECT_EQ(-EBADF, ring_rw(&e->ring, true, pipes[1], 0, 0, 512, 0));
	EXPECT_TRUE(env_untouched(e));
	EXPECT_EQ(0, disk_rw(other.fd, e->mem, 512, BASE, false));
	EXPECT_TRUE(all_bytes(e->mem, 0, 512));
	close(fd);
	close(pipes[0]);
	close(pipes[1]);
	disk_exit(&other);
}

TEST_F(reg, o_direct_dropped)
{
	struct env *e = &self->e;
	int flags = fcntl(e->fd, F_GETFL), fd;

	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	ASSERT_EQ(0, fcntl(e->fd, F_SETFL, flags & ~O_DIRECT));
	EXPECT_EQ(-EINVAL, rw(e, false, 0, 512, BASE));
	EXPECT_EQ(-EINVAL, rw(e, true, 0, 512, BASE));
	e->sqe_flags = IOSQE_ASYNC;
	EXPECT_EQ(-EINVAL, rw(e, false, 0, 512, BASE));
	EXPECT_EQ(-EINVAL, rw(e, true, 0, 512, BASE));
	/* another open file of the drive */
	fd = open(e->disk.path, O_RDWR | O_CLOEXEC);
	EXPECT_EQ(-EINVAL, ring_rw(&e->ring, true, fd, 0, 0, 512, BASE));
	close(fd);
	EXPECT_TRUE(env_untouched(e));
	ASSERT_EQ(0, fcntl(e->fd, F_SETFL, flags));
	EXPECT_EQ(512, rw(e, true, 0, 512, BASE));
	EXPECT_TRUE(disk_holds(e, POISON, BASE, 512));
}

/* Switch O_DIRECT on and off, as long as the test runs */
static void *toggle_thread(void *arg)
{
	struct env *e = arg;
	int flags = fcntl(e->fd, F_GETFL);

	while (!__atomic_load_n(&e->stop, __ATOMIC_ACQUIRE)) {
		fcntl(e->fd, F_SETFL, flags & ~O_DIRECT);
		sched_yield();
		fcntl(e->fd, F_SETFL, flags | O_DIRECT);
		sched_yield();
	}
	return NULL;
}

/* A request fails, or it does what it shall */
TEST_F(reg, o_direct_toggled)
{
	__u64 end = now_ms() + run_ms(1000);
	unsigned int ops = 0, failed = 0;
	struct env *e = &self->e;
	pthread_t thread;

	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	ASSERT_EQ(0, pthread_create(&thread, NULL, toggle_thread, e));
	while (now_ms() < end) {
		int was = ops & 0x7f, now = was + 1, res;

		ASSERT_EQ(0, disk_set(e, was, BASE, 4096));
		ASSERT_EQ(0, buf_set(e, now, 0, 4096));
		e->sqe_flags = ops & 1 ? IOSQE_ASYNC : 0;
		res = rw(e, true, 0, 4096, BASE);
		ASSERT_TRUE(res == 4096 || res == -EINVAL || res == -EFAULT) {
			TH_LOG("result %d", res);
		}
		ASSERT_TRUE(disk_holds(e, res < 0 ? was : now, BASE, 4096));
		ASSERT_EQ(0, buf_set(e, POISON, 0, 4096));
		failed += res < 0;
		res = rw(e, false, 0, 4096, BASE);
		ASSERT_TRUE(res == 4096 || res == -EINVAL || res == -EFAULT) {
			TH_LOG("result %d", res);
		}
		ASSERT_EQ(0, disk_read(&e->disk, e->mem, 4096, BASE));
		ASSERT_TRUE(buf_holds(e, res < 0 ? POISON : e->mem[0], 0,
				      4096));
		failed += res < 0;
		ops++;
	}
	__atomic_store_n(&e->stop, 1, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	TH_LOG("%u requests, %u failed", 2 * ops, failed);
}

/* Two mappings, and one of the entries */
static void ring_unmap(struct io_uring *u, unsigned int sq_entries)
{
	size_t mask = page_size() - 1;

	munmap((void *)((uintptr_t)u->sq.khead & ~mask), u->sq.ring_sz);
	munmap((void *)((uintptr_t)u->cq.khead & ~mask), u->cq.ring_sz);
	munmap(u->sq.sqes, sq_entries * sizeof(*u->sq.sqes));
}

/* The ring gets another size, with requests in flight; the table stays */
/* Requests that the disk has completed: of reads, then of writes */
static long long disk_ios(const struct env *e, bool write)
{
	unsigned long long rd[4], wr;
	char path[80];
	long long ret = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/class/block/%s/stat",
		 strrchr(e->disk.path, '/') + 1);
	f = fopen(path, "r");
	if (f && fscanf(f, "%llu %llu %llu %llu %llu", &rd[0], &rd[1], &rd[2],
			&rd[3], &wr) == 5)
		ret = write ? wr : rd[0];
	if (f)
		fclose(f);
	return ret;
}

/* An administrator limits what one request has, of any memory */
TEST_F(reg, max_sectors)
{
	struct env *e = &self->e;
	const char *disk = strrchr(e->disk.path, '/') + 1;
	struct span s = { .len = 64 * 1024, .pos = BASE };
	struct { const char *kb; unsigned int nr; } limits[] = {
		{ "64", 1 }, { "16", 4 }, { "4", 16 },
	};
	long long kb, ios;
	unsigned int i;

	kb = read_num("/sys/class/block/%s/queue/max_sectors_kb", disk);
	ASSERT_LT(0, kb);
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	for (i = 0; i < ARRAY_SIZE(limits); i++) {
		ASSERT_EQ(0, put_file(limits[i].kb,
				      "/sys/class/block/%s/queue/max_sectors_kb",
				      disk));
		EXPECT_EQ(0, span_write(e, &s));
		EXPECT_EQ(0, span_read(e, &s));
		ASSERT_EQ(0, buf_pattern(e, 0, s.len, BUF_SEED));
		ios = disk_ios(e, true);
		EXPECT_EQ(s.len, rw(e, true, 0, s.len, BASE));
		EXPECT_EQ(limits[i].nr, disk_ios(e, true) - ios);
		ios = disk_ios(e, false);
		EXPECT_EQ(s.len, rw(e, false, 0, s.len, BASE));
		EXPECT_EQ(limits[i].nr, disk_ios(e, false) - ios);
	}
	ASSERT_EQ(0, put_file("0", "/sys/class/block/%s/queue/max_sectors_kb",
			      disk));
	EXPECT_EQ(kb, read_num("/sys/class/block/%s/queue/max_sectors_kb",
			       disk));
}

TEST_F(reg, resize)
{
	struct env *e = &self->e;
	struct io_uring_params p = { .sq_entries = 64, .cq_entries = 512,
				     .flags = IORING_SETUP_CQSIZE };
	struct ring r;
	unsigned int i;
	int res[8];

	ASSERT_EQ(0, ring_init(&r, RING_ENTRIES, IORING_SETUP_SINGLE_ISSUER |
						 IORING_SETUP_DEFER_TASKRUN));
	ASSERT_EQ(0, ring_buffers_sparse(&r, 1));
	ASSERT_EQ(1, ring_dbuf(&r, 0, &e->buf, e->fd));
	for (i = 0; i < 8; i++)
		ring_fixed(&r, true, e->fd, 0, i * 4096, 4096,
			   BASE + i * 4096)->user_data = i;
	ASSERT_EQ(8, ring_submit(&r));
	ASSERT_LE(0, dbuf_move(&e->buf));
	ASSERT_EQ(0, ring_register(&r, IORING_REGISTER_RESIZE_RINGS, &p, 1));
	ring_unmap(&r.u, RING_ENTRIES);
	p.flags |= IORING_SETUP_NO_SQARRAY;
	ASSERT_EQ(0, io_uring_mmap(r.u.ring_fd, &p, &r.u.sq, &r.u.cq));
	ASSERT_EQ(0, ring_collect(&r, res, 8));
	for (i = 0; i < 8; i++)
		EXPECT_EQ(4096, res[i]);
	EXPECT_TRUE(disk_holds(e, POISON, BASE, 8 * 4096));
	ring_exit(&r);
	EXPECT_TRUE(dbuf_free_within(&e->buf, WAIT_MS));
}

static int mock_file(struct ring *r)
{
	struct io_uring_mock_create create = { .file_size = 4096 };
	struct io_uring_sqe *sqe;
	int fd, ret;

	fd = open("/dev/io_uring_mock", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	sqe = ring_sqe(r, IORING_OP_URING_CMD);
	sqe->fd = fd;
	sqe->cmd_op = IORING_MOCK_MGR_CMD_CREATE;
	sqe->addr = u64_ptr(&create);
	sqe->len = sizeof(create);
	ret = ring_run(r);
	close(fd);
	return ret < 0 ? ret : (int)create.out_fd;
}

/* Whatever else takes registered buffers takes no dma-bufs */
TEST_F(reg, bad_opcode)
{
	struct env *e = &self->e;
	struct iovec iov = { .iov_base = NULL, .iov_len = 512 };
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;
	int fd;

	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	sqe = ring_memcpy(&e->ring, NULL, e->mem, 512);
	sqe->memcpy_flags = IORING_MEMCPY_DST_FIXED;
	EXPECT_EQ(-EOPNOTSUPP, ring_run(&e->ring));
	sqe = ring_memcpy(&e->ring, e->mem, NULL, 512);
	sqe->memcpy_flags = IORING_MEMCPY_SRC_FIXED;
	EXPECT_EQ(-EOPNOTSUPP, ring_run(&e->ring));
	sqe = ring_imm(&e->ring, NULL, 1, 8);
	sqe->memcpy_flags = IORING_MEMCPY_DST_FIXED;
	EXPECT_EQ(-EOPNOTSUPP, ring_run(&e->ring));

	fd = mock_file(&e->ring);
	if (fd >= 0) {
		sqe = ring_sqe(&e->ring, IORING_OP_URING_CMD);
		sqe->fd = fd;
		sqe->cmd_op = IORING_MOCK_CMD_COPY_REGBUF;
		sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
		sqe->addr = u64_ptr(&iov);
		sqe->len = 1;
		sqe->addr3 = u64_ptr(e->mem);
		EXPECT_EQ(-EOPNOTSUPP, ring_run(&e->ring));
		close(fd);
	}

	fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (fd >= 0) {
		sqe = ring_sqe(&e->ring, IORING_OP_SEND_ZC);
		sqe->fd = fd;
		sqe->ioprio = IORING_RECVSEND_FIXED_BUF;
		sqe->len = 512;
		EXPECT_EQ(-EOPNOTSUPP, ring_run(&e->ring));
		/* with a notification, or without */
		ring_wait_ms(&e->ring, &cqe, 30);
		close(fd);
	}
	EXPECT_TRUE(env_untouched(e));
}

/* READ_FIXED writes to the dma-buf, WRITE_FIXED reads it */
TEST_F(reg, direction)
{
	static const struct {
		__u32	create;
		__u32	flags;
		bool	read, write;
	} dirs[] = {
		{ 0, 0, true, true },
		{ 0, IORING_REGBUF_READ, true, false },
		{ 0, IORING_REGBUF_WRITE, false, true },
		{ 0, IORING_REGBUF_READ | IORING_REGBUF_WRITE, true, true },
		{ TEST_DMABUF_RDONLY, 0, false, true },
		{ TEST_DMABUF_RDONLY, IORING_REGBUF_WRITE, false, true },
	};
	struct env *e = &self->e;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(dirs); i++) {
		struct test_dmabuf_create create = { .flags = dirs[i].create };
		struct io_uring_regbuf_desc desc;
		struct dbuf old = e->buf;

		ASSERT_EQ(0, dbuf_test(&e->buf, SMALL_SIZE, create));
		desc = desc_dbuf(&e->buf, e->fd);
		desc.flags = dirs[i].flags;
		ASSERT_EQ(1, ring_desc(&e->ring, 0, desc));
		ASSERT_EQ(0, buf_set(e, POISON, 0, SMALL_SIZE));
		ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, SMALL_SIZE));
		EXPECT_EQ(dirs[i].read ? 512 : -EFAULT,
			  rw(e, false, 4096, 512, BASE));
		EXPECT_EQ(dirs[i].write ? 512 : -EFAULT,
			  rw(e, true, 8192, 512, BASE + 4096));
		EXPECT_TRUE(buf_holds(e, dirs[i].read ? DISK_POISON : POISON,
				      4096, 512));
		EXPECT_TRUE(disk_holds(e, dirs[i].write ? POISON : DISK_POISON,
				       BASE + 4096, 512));
		/* a move does not change what is allowed */
		ASSERT_LE(0, dbuf_move(&e->buf));
		EXPECT_EQ(dirs[i].read ? 512 : -EFAULT,
			  rw(e, false, 0, 512, BASE));
		EXPECT_EQ(dirs[i].write ? 512 : -EFAULT,
			  rw(e, true, 0, 512, BASE));
		EXPECT_EQ(0, dbuf_lost(&e->buf));
		dbuf_exit(&e->buf);
		e->buf = old;
	}
}

/* A part of the dma-buf: 0 is its start, and it ends where it ends */
TEST_F(reg, window)
{
	struct env *e = &self->e;
	struct io_uring_regbuf_desc desc = desc_dbuf(&e->buf, e->fd);
	size_t off = 3 * 4096, len = 4 * 4096 + 512;

	desc.offset = off;
	desc.size = len;
	ASSERT_EQ(1, ring_desc(&e->ring, 0, desc));
	ASSERT_EQ(0, disk_pattern(e, BASE, len, DISK_SEED));
	EXPECT_EQ(len, rw(e, false, 0, len, BASE));
	EXPECT_TRUE(buf_got(e, &(struct span){ off, len, BASE }, DISK_SEED));
	EXPECT_EQ(-EFAULT, rw(e, false, 0, len + 512, BASE));
	EXPECT_EQ(-EFAULT, rw(e, false, len, 512, BASE));
	EXPECT_EQ(-EFAULT, rw(e, false, off + len - 512, 512, BASE));
	ASSERT_EQ(0, buf_set(e, POISON, 0, SMALL_SIZE));
	EXPECT_EQ(512, rw(e, false, len - 512, 512, BASE));
	EXPECT_TRUE(buf_got(e, &(struct span){ off + len - 512, 512, BASE },
			    DISK_SEED));

	/* up to the end */
	desc.offset = SMALL_SIZE - 4096;
	desc.size = 0;
	ASSERT_EQ(1, ring_desc(&e->ring, 0, desc));
	ASSERT_EQ(0, buf_set(e, POISON, 0, SMALL_SIZE));
	EXPECT_EQ(4096, rw(e, false, 0, 4096, BASE));
	EXPECT_EQ(-EFAULT, rw(e, false, 0, 4096 + 512, BASE));
	EXPECT_TRUE(buf_got(e, &(struct span){ desc.offset, 4096, BASE },
			    DISK_SEED));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* Every open file of the drive, and of its partitions */
TEST_F(reg, same_disk)
{
	struct env *e = &self->e;
	struct blkpg_partition part = {
		.start = 8 << 20, .length = 8 << 20, .pno = 1,
	};
	struct blkpg_ioctl_arg arg = {
		.op = BLKPG_ADD_PARTITION, .datalen = sizeof(part),
		.data = &part,
	};
	struct disk p1 = {};
	int fd;

	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	fd = open(e->disk.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, fd);
	EXPECT_EQ(512, ring_rw(&e->ring, true, fd, 0, 0, 512, BASE));
	EXPECT_TRUE(disk_holds(e, POISON, BASE, 512));
	/* the one that it was registered for isn't needed any more */
	close(e->fd);
	EXPECT_EQ(512, ring_rw(&e->ring, true, fd, 0, 0, 512, BASE + 512));
	EXPECT_TRUE(disk_holds(e, POISON, BASE + 512, 512));
	e->fd = fd;

	ASSERT_EQ(0, ioctl(fd, BLKPG, &arg));
	snprintf(p1.path, sizeof(p1.path), "%.32sp1", e->disk.path);
	p1.fd = disk_open(&p1, O_RDWR | O_DIRECT);
	ASSERT_LE(0, p1.fd);
	EXPECT_EQ(512, ring_rw(&e->ring, true, p1.fd, 0, 0, 512, 4096));
	EXPECT_TRUE(disk_holds(e, POISON, (8 << 20) + 4096, 512));
	ASSERT_EQ(1, ring_dbuf(&e->ring, 1, &e->buf, p1.fd));
	EXPECT_EQ(512, ring_rw(&e->ring, true, p1.fd, 1, 0, 512, 8192));
	EXPECT_TRUE(disk_holds(e, POISON, (8 << 20) + 8192, 512));
	EXPECT_EQ(512, ring_rw(&e->ring, true, e->fd, 1, 0, 512, 8192));
	EXPECT_TRUE(disk_holds(e, POISON, 8192, 512));
	/* and not beyond it */
	EXPECT_EQ(512, ring_rw(&e->ring, true, p1.fd, 0, 0, 4096,
			       (8 << 20) - 512));
	EXPECT_TRUE(disk_holds(e, POISON, (16 << 20) - 512, 512));
	EXPECT_TRUE(disk_holds(e, 0, 16 << 20, 4096));
	close(p1.fd);
}

/* Write to the drive by its page cache, as long as the test runs */
static void *dirty_thread(void *arg)
{
	struct env *e = arg;
	int fd = open(e->disk.path, O_RDWR | O_CLOEXEC);
	unsigned char *map;

	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		   BASE / 4096 * 4096);
	close(fd);
	if (map == MAP_FAILED)
		return NULL;
	while (!__atomic_load_n(&e->stop, __ATOMIC_ACQUIRE)) {
		__atomic_fetch_add(map, 1, __ATOMIC_RELAXED);
		sched_yield();
	}
	munmap(map, 4096);
	return NULL;
}

/*
 * If the page cache has the same part of the drive, and it can't be dropped, then
 * other writes go by the page cache. These fail.
 */
TEST_F(reg, page_cache)
{
	__u64 end = now_ms() + run_ms(500);
	unsigned int ops = 0, failed = 0;
	struct env *e = &self->e;
	pthread_t thread;

	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	ASSERT_EQ(0, pthread_create(&thread, NULL, dirty_thread, e));
	while (now_ms() < end) {
		int res = rw(e, true, 0, 4096, BASE / 4096 * 4096);

		ASSERT_TRUE(res == 4096 || res == -EBUSY) {
			TH_LOG("result %d", res);
		}
		ops++;
		failed += res < 0;
	}
	__atomic_store_n(&e->stop, 1, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	TH_LOG("%u writes, %u failed", ops, failed);
	EXPECT_EQ(4096, rw(e, true, 0, 4096, BASE / 4096 * 4096));
	EXPECT_TRUE(disk_holds(e, POISON, BASE / 4096 * 4096, 4096));
}

TEST_F(reg, query)
{
	struct io_uring_query_regbuf regbuf = {};
	struct io_uring_query_hdr hdr = {
		.query_data = u64_ptr(&regbuf), .query_op = IO_URING_QUERY_REGBUF,
		.size = sizeof(regbuf),
	};

	ASSERT_EQ(0, ring_register(&self->e.ring, IORING_REGISTER_QUERY, &hdr,
				   0));
	EXPECT_EQ(0, hdr.result);
	EXPECT_EQ(7, regbuf.types & 7);
	EXPECT_TRUE(regbuf.update_flags & IORING_RSRC_UPDATE_EXTENDED);
	EXPECT_EQ(IORING_REGBUF_READ | IORING_REGBUF_WRITE |
		  IORING_REGBUF_P2P_REQUIRED, regbuf.desc_flags & 7);
	EXPECT_EQ(sizeof(struct io_uring_regbuf_desc), regbuf.desc_size);
}

/* The line of fdinfo that tells about buffer 0 */
static bool fdinfo_line(struct ring *r, char *line, int size)
{
	char path[64];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", r->u.ring_fd);
	f = fopen(path, "r");
	while (f && fgets(line, size, f)) {
		found = strstr(line, "    0: 0x0/") && strstr(line, "dmabuf");
		if (found)
			break;
	}
	if (f)
		fclose(f);
	return found;
}

TEST_F(reg, fdinfo)
{
	struct env *e = &self->e;
	struct io_uring_regbuf_desc desc = desc_dbuf(&e->buf, e->fd);
	char line[256];

	desc.offset = 8192;
	desc.flags = IORING_REGBUF_WRITE;
	ASSERT_EQ(1, ring_desc(&e->ring, 0, desc));
	ASSERT_LE(0, dbuf_move(&e->buf));
	ASSERT_EQ(512, rw(e, true, 0, 512, BASE));
	ASSERT_TRUE(fdinfo_line(&e->ring, line, sizeof(line)));
	EXPECT_NE(NULL, strstr(line, "off:0x2000"));
	EXPECT_NE(NULL, strstr(line, "dir:write"));
	EXPECT_NE(NULL, strstr(line, "moves:1"));
}

static bool fdinfo_p2p(struct env *e, const char *want)
{
	char line[256];

	return fdinfo_line(&e->ring, line, sizeof(line)) && strstr(line, want);
}

/* A device's memory that becomes the host's, as a GPU's does when it is full */
TEST_F(reg, p2p)
{
	struct span s = { .off = 512, .len = 8192, .pos = BASE };
	struct env *e = &self->e;
	struct test_dmabuf_create create = { .flags = TEST_DMABUF_DEVICE };
	struct test_dmabuf_faults host = { .host = 1 };
	struct io_uring_regbuf_desc desc;
	size_t size = e->buf.size;

	dbuf_exit(&e->buf);
	ASSERT_EQ(0, dbuf_test(&e->buf, size, create));
	host.fd = e->buf.fd;
	desc = desc_dbuf(&e->buf, e->fd);
	desc.flags = IORING_REGBUF_P2P_REQUIRED;
	ASSERT_EQ(1, ring_desc(&e->ring, 0, desc));
	EXPECT_TRUE(fdinfo_p2p(e, "p2p:yes"));
	EXPECT_EQ(0, span_write(e, &s));
	EXPECT_EQ(0, span_read(e, &s));

	ASSERT_EQ(0, ioctl(e->buf.dev, TEST_DMABUF_FAULTS, &host));
	ASSERT_LE(0, dbuf_move(&e->buf));
	ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, 4096));
	ASSERT_EQ(0, buf_set(e, POISON, 0, 4096));
	EXPECT_EQ(-EREMOTEIO, rw(e, true, 0, 4096, BASE));
	EXPECT_EQ(-EREMOTEIO, rw(e, false, 0, 4096, BASE));
	EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE, 4096));
	EXPECT_TRUE(buf_holds(e, POISON, 0, 4096));
	EXPECT_EQ(0, dbuf_mapped(&e->buf));
	EXPECT_EQ(-EREMOTEIO, ring_desc(&e->ring, 1, desc));
	EXPECT_TRUE(fdinfo_p2p(e, "p2p:no"));

	/* there is room again */
	host.host = 0;
	ASSERT_EQ(0, ioctl(e->buf.dev, TEST_DMABUF_FAULTS, &host));
	ASSERT_LE(0, dbuf_move(&e->buf));
	EXPECT_EQ(0, span_write(e, &s));
	EXPECT_TRUE(fdinfo_p2p(e, "p2p:yes"));

	/* without the flag it is all the same, and only shown */
	host.host = 1;
	ASSERT_EQ(0, ioctl(e->buf.dev, TEST_DMABUF_FAULTS, &host));
	ASSERT_LE(0, dbuf_move(&e->buf));
	desc.flags = 0;
	ASSERT_EQ(1, ring_desc(&e->ring, 0, desc));
	EXPECT_TRUE(fdinfo_p2p(e, "p2p:no"));
	EXPECT_EQ(0, span_write(e, &s));
	host.host = 0;
	ASSERT_EQ(0, ioctl(e->buf.dev, TEST_DMABUF_FAULTS, &host));
	ASSERT_LE(0, dbuf_move(&e->buf));
	EXPECT_EQ(0, span_read(e, &s));
	EXPECT_TRUE(fdinfo_p2p(e, "p2p:yes"));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* ------------------------------------------------------------ life times */

FIXTURE(life) {
	struct env e;
};

FIXTURE_VARIANT(life) {
	struct ring_type type;
};

FIXTURE_VARIANT_ADD(life, plain) {
	.type = TYPE_PLAIN,
};

FIXTURE_VARIANT_ADD(life, defer) {
	.type = TYPE_DEFER,
};

FIXTURE_VARIANT_ADD(life, sqpoll) {
	.type = TYPE_SQPOLL,
};

FIXTURE_VARIANT_ADD(life, iopoll) {
	.type = TYPE_IOPOLL,
};

FIXTURE_VARIANT_ADD(life, iowq) {
	.type = TYPE_IOWQ,
};

FIXTURE_SETUP(life)
{
	/* requests are in flight for a while */
	static const struct disk_conf slow = {
		.irqmode = "2", .completion_nsec = "100000000",
	};
	const char *skip;
	int ret;

	ret = env_init(&self->e, &variant->type, SCATTERED, SMALL_PAGES, &slow,
		       &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(life)
{
	env_exit(&self->e);
}

/* Somebody else who waits for a CQE, and then looks what is mapped */
struct watcher {
	struct env	*e;
	long long	mapped;
};

static void *watch_thread(void *arg)
{
	struct watcher *w = arg;
	__u64 end = now_ms() + WAIT_MS;

	while (!ring_ready(&w->e->ring) && now_ms() < end)
		sched_yield();
	w->mapped = dbuf_mapped(&w->e->buf);
	return NULL;
}

/* Who gets the tag may count on the memory being unmapped */
TEST_F(life, tag)
{
	struct io_uring_regbuf_desc empty = {};
	struct env *e = &self->e;
	struct io_uring_regbuf_desc desc = desc_dbuf(&e->buf, e->fd);
	struct watcher w = { .e = e };
	struct io_uring_cqe cqe;
	pthread_t thread;
	__u64 tag = TAG;

	ASSERT_EQ(1, ring_descs(&e->ring, 0, &desc, 1, &tag));
	ASSERT_EQ(512, rw(e, true, 0, 512, BASE));
	ASSERT_EQ(0, dbuf_slow_unmap(&e->buf, 100));
	ASSERT_EQ(0, pthread_create(&thread, NULL, watch_thread, &w));
	ASSERT_EQ(1, ring_desc(&e->ring, 0, empty));
	pthread_join(thread, NULL);
	EXPECT_EQ(0, w.mapped);
	ASSERT_EQ(0, ring_wait(&e->ring, &cqe));
	EXPECT_EQ(TAG, cqe.user_data);
	EXPECT_EQ(0, cqe.res);
	EXPECT_EQ(0, dbuf_mapped(&e->buf));
	EXPECT_EQ(0, dbuf_attached(&e->buf));
	EXPECT_EQ(-EFAULT, rw(e, true, 0, 512, BASE));
}

/* A new buffer in place of one that a request uses */
TEST_F(life, update_in_flight)
{
	struct env *e = &self->e;
	struct io_uring_regbuf_desc desc = desc_dbuf(&e->buf, e->fd);
	struct span s = { .off = 8192, .len = 8 * 512, .pos = BASE };
	struct dbuf other;
	__u64 tag = TAG;
	bool data = false, tagged = false;

	ASSERT_EQ(0, dbuf_init(&other, SMALL_SIZE, MIXED));
	ASSERT_EQ(1, ring_descs(&e->ring, 0, &desc, 1, &tag));
	ASSERT_EQ(0, disk_pattern(e, s.pos, s.len, DISK_SEED));
	ASSERT_EQ(0, buf_set(e, POISON, 0, SMALL_SIZE));
	ring_fixed(&e->ring, false, e->fd, 0, s.off, s.len, s.pos)->flags =
		e->sqe_flags;
	ASSERT_EQ(1, ring_submit(&e->ring));
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &other, e->fd));
	while (!data || !tagged) {
		struct io_uring_cqe cqe;

		ASSERT_EQ(0, ring_wait(&e->ring, &cqe));
		if (cqe.user_data == TAG) {
			EXPECT_FALSE(tagged);
			tagged = true;
			EXPECT_EQ(0, dbuf_mapped(&e->buf));
			EXPECT_EQ(0, dbuf_attached(&e->buf));
			continue;
		}
		EXPECT_FALSE(data);
		data = true;
		EXPECT_EQ(s.len, cqe.res);
		/* io-wq may look at the table late */
		if (!(e->sqe_flags & IOSQE_ASYNC)) {
			EXPECT_FALSE(tagged);
			EXPECT_TRUE(buf_got(e, &s, DISK_SEED));
		}
	}
	EXPECT_EQ(1, dbuf_attached(&other));
	EXPECT_EQ(512, rw(e, true, 0, 512, BASE));
	ring_exit(&e->ring);
	EXPECT_TRUE(dbuf_free_within(&other, WAIT_MS));
	dbuf_exit(&other);
}

/* Nothing is mapped once it is unregistered */
TEST_F(life, unregister)
{
	struct env *e = &self->e;

	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	ASSERT_EQ(1, ring_dbuf(&e->ring, 3, &e->buf, e->fd));
	ASSERT_EQ(512, rw(e, true, 0, 512, BASE));
	EXPECT_EQ(1, dbuf_mapped(&e->buf));
	ASSERT_EQ(0, ring_register(&e->ring, IORING_UNREGISTER_BUFFERS, NULL,
				   0));
	/* a worker lets go of its request a moment after that has completed */
	if (e->sqe_flags & IOSQE_ASYNC) {
		EXPECT_TRUE(dbuf_free_within(&e->buf, WAIT_MS));
		return;
	}
	EXPECT_EQ(0, dbuf_mapped(&e->buf));
	EXPECT_EQ(0, dbuf_attached(&e->buf));
}

TEST_F(life, unregister_in_flight)
{
	struct env *e = &self->e;

	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	ASSERT_EQ(0, buf_set(e, POISON, 0, SMALL_SIZE));
	ring_fixed(&e->ring, true, e->fd, 0, 0, 4096, BASE);
	ASSERT_EQ(1, ring_submit(&e->ring));
	ASSERT_EQ(0, ring_register(&e->ring, IORING_UNREGISTER_BUFFERS, NULL,
				   0));
	EXPECT_EQ(4096, ring_result(&e->ring));
	EXPECT_TRUE(disk_holds(e, POISON, BASE, 4096));
	EXPECT_TRUE(dbuf_free_within(&e->buf, WAIT_MS));
}

TEST_F(life, close_ring)
{
	struct env *e = &self->e;

	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	ring_fixed(&e->ring, false, e->fd, 0, 0, 4096, BASE)->flags =
		e->sqe_flags;
	ASSERT_EQ(1, ring_submit(&e->ring));
	ring_exit(&e->ring);
	EXPECT_TRUE(dbuf_free_within(&e->buf, WAIT_MS));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* The descriptor of the dma-buf is only needed to register it */
TEST_F(life, close_dmabuf)
{
	struct env *e = &self->e;
	struct dbuf b;

	ASSERT_EQ(0, dbuf_init(&b, SMALL_SIZE, MIXED));
	ASSERT_EQ(0, dbuf_write(&b, memset(e->mem, 7, 4096), 4096, 4096));
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &b, e->fd));
	dbuf_exit(&b);
	EXPECT_EQ(4096, rw(e, true, 4096, 4096, BASE));
	EXPECT_TRUE(disk_holds(e, 7, BASE, 4096));
}

#define EXPORTER	"test_dmabuf"

static long long exporter_refs(void)
{
	return read_num("/sys/module/" EXPORTER "/refcnt");
}

/* A registered buffer, and nothing else, keeps the code of its exporter */
TEST_F(life, unload_exporter)
{
	__u64 end = now_ms() + WAIT_MS;
	struct env *e = &self->e;
	struct dbuf b;

	if (exporter_refs() < 0)
		SKIP(return, "the exporter is built in");
	dbuf_exit(&e->buf);
	ASSERT_EQ(0, exporter_refs());
	ASSERT_EQ(0, dbuf_init(&b, SMALL_SIZE, MIXED));
	ASSERT_EQ(0, dbuf_write(&b, memset(e->mem, 7, 4096), 4096, 4096));
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &b, e->fd));
	dbuf_exit(&b);
	ASSERT_EQ(-1, syscall(__NR_delete_module, EXPORTER, O_NONBLOCK));
	EXPECT_EQ(EWOULDBLOCK, errno);
	EXPECT_EQ(4096, rw(e, true, 4096, 4096, BASE));
	EXPECT_TRUE(disk_holds(e, 7, BASE, 4096));
	ring_exit(&e->ring);
	while (exporter_refs() && now_ms() < end)
		usleep(1000);
	EXPECT_EQ(0, exporter_refs());
}

/* Cloned to another ring, which outlives the first one */
TEST_F(life, clone)
{
	struct env *e = &self->e;
	struct io_uring_clone_buffers clone = {};
	struct ring r;

	ASSERT_EQ(1, ring_dbuf(&e->ring, 2, &e->buf, e->fd));
	ASSERT_EQ(0, buf_set(e, POISON, 0, SMALL_SIZE));
	ASSERT_EQ(0, ring_init(&r, RING_ENTRIES, variant->type.setup));
	clone.src_fd = e->ring.u.ring_fd;
	ASSERT_EQ(0, ring_register(&r, IORING_REGISTER_CLONE_BUFFERS, &clone,
				   1));
	EXPECT_EQ(1, dbuf_attached(&e->buf));
	ring_exit(&e->ring);
	EXPECT_EQ(1024, ring_rw(&r, true, e->fd, 2, 4096, 1024, BASE));
	EXPECT_TRUE(disk_holds(e, POISON, BASE, 1024));
	ASSERT_LE(0, dbuf_move(&e->buf));
	EXPECT_EQ(1024, ring_rw(&r, true, e->fd, 2, 0, 1024, BASE + 4096));
	EXPECT_TRUE(disk_holds(e, POISON, BASE + 4096, 1024));
	EXPECT_EQ(1, dbuf_attached(&e->buf));
	ring_exit(&r);
	EXPECT_TRUE(dbuf_free_within(&e->buf, WAIT_MS));
}

/* A child has the ring as well, and with it the buffer, until it ends too */
TEST_F(life, fork)
{
	struct env *e = &self->e;
	int go[2], status;
	pid_t pid;
	char c;

	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	ASSERT_EQ(0, buf_set(e, POISON, 0, 8192));
	ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, 8192));
	ASSERT_EQ(0, pipe(go));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(go[1]);
		_exit(read(go[0], &c, 1));
	}
	close(go[0]);
	EXPECT_EQ(4096, rw(e, true, 0, 4096, BASE));
	EXPECT_TRUE(disk_holds(e, POISON, BASE, 4096));
	EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE + 4096, 4096));
	ring_exit(&e->ring);
	EXPECT_EQ(1, dbuf_attached(&e->buf));
	close(go[1]);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_TRUE(dbuf_free_within(&e->buf, WAIT_MS));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* Ten thousand times, or as often as there is time for it */
TEST_F_TIMEOUT(life, rounds, LONG_TIMEOUT)
{
	struct io_uring_regbuf_desc empty = {};
	__u64 end = now_ms() + run_ms(2000);
	struct env *e = &self->e;
	unsigned int i;

	for (i = 0; i < 10000 && now_ms() < end; i++) {
		ASSERT_EQ(1, ring_dbuf(&e->ring, i % NR_BUFS, &e->buf, e->fd));
		if (i % 3)
			ASSERT_EQ(1, ring_desc(&e->ring, i % NR_BUFS, empty));
	}
	TH_LOG("%u rounds", i);
	ASSERT_EQ(0, ring_register(&e->ring, IORING_UNREGISTER_BUFFERS, NULL,
				   0));
	EXPECT_EQ(0, dbuf_attached(&e->buf));
	EXPECT_EQ(0, dbuf_mapped(&e->buf));
	EXPECT_LT(0, dbuf_stats(&e->buf).attaches);
}

/* ------------------------------------------------------------ the exporter */

/* What the rest relies on: the exporter does move, and notices what it should */
TEST(exporter)
{
	struct test_dmabuf_create create = {
		.size = 65536, .nr_segs = 1, .segs = { 1 },
	}, bad;
	unsigned char mem[8192], *map;
	struct dbuf b;
	int ret;

	ret = dbuf_init(&b, 65536, SCATTERED);
	if (ret == -ENOENT)
		SKIP(return, "no /dev/test_dmabuf");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, dbuf_read(&b, mem, 8192, 3000));
	EXPECT_TRUE(all_bytes(mem, 0, 8192));
	fill_pattern(mem, 8192, BUF_SEED);
	ASSERT_EQ(0, dbuf_write(&b, mem, 8192, 3000));
	map = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, b.fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	EXPECT_EQ(8192, check_pattern(map + 3000, 8192, BUF_SEED));
	ASSERT_LE(0, dbuf_move(&b));
	EXPECT_EQ(8192, check_pattern(map + 3000, 8192, BUF_SEED));
	map[3000] ^= 0xff;
	ASSERT_EQ(0, dbuf_read(&b, mem, 8192, 3000));
	EXPECT_EQ(0, check_pattern(mem, 8192, BUF_SEED));
	map[3000] ^= 0xff;
	ASSERT_LE(0, dbuf_move_fence(&b, 50));
	EXPECT_EQ(8192, check_pattern(map + 3000, 8192, BUF_SEED));
	ASSERT_LE(0, dbuf_move_fence(&b, 50));
	ASSERT_LE(0, dbuf_move(&b));
	ASSERT_EQ(0, dbuf_read(&b, mem, 8192, 3000));
	EXPECT_EQ(8192, check_pattern(mem, 8192, BUF_SEED));
	EXPECT_EQ(0, dbuf_lost(&b));
	EXPECT_EQ(4, dbuf_stats(&b).moves);
	EXPECT_EQ(-EFAULT, dbuf_read(&b, mem, 1, 65536));
	EXPECT_EQ(-EFAULT, dbuf_read(&b, mem, 8192, 65536 - 8191));
	EXPECT_EQ(-EFAULT, dbuf_read(&b, mem, 2, ~0ULL));
	EXPECT_EQ(-EFAULT, dbuf_read(&b, NULL, 2, 0));
	EXPECT_EQ(0, dbuf_read(&b, mem, 0, 65536));
	EXPECT_EQ(-EINVAL, dbuf_faults(&b, 1, 0, 0));
	EXPECT_EQ(-EINVAL, dbuf_faults(&b, 0, 5000, 0));
	EXPECT_EQ(-EINVAL, dbuf_faults(&b, 0, 0, TEST_DMABUF_MAX_DELAY + 1));
	EXPECT_EQ(-EINVAL, dbuf_move_fence(&b, TEST_DMABUF_MAX_DELAY + 1));
	munmap(map, 65536);
	ASSERT_LE(0, dbuf_revoke(&b));
	EXPECT_EQ(-ENODEV, dbuf_revoke(&b));
	EXPECT_EQ(-ENODEV, dbuf_move(&b));
	EXPECT_EQ(-ENODEV, dbuf_read(&b, mem, 1, 0));
	EXPECT_EQ(0, dbuf_lost(&b));
	EXPECT_EQ(-1, ioctl(b.dev, _IO('D', 99)));
	EXPECT_EQ(ENOTTY, errno);
	EXPECT_EQ(-1, ioctl(b.dev, _IOW('D', 99, int), &b.fd));
	EXPECT_EQ(ENOTTY, errno);
	EXPECT_EQ(-1, ioctl(b.dev, TEST_DMABUF_STATS, NULL));
	EXPECT_EQ(EFAULT, errno);
#define CREATE(field, val)						\
do {									\
	bad = create;							\
	bad.field = val;						\
	EXPECT_EQ(-1, ioctl(b.dev, TEST_DMABUF_CREATE, &bad)) {		\
		TH_LOG(#field " = " #val);				\
	}								\
	EXPECT_EQ(EINVAL, errno);					\
} while (0)
	CREATE(size, 0);
	CREATE(size, 1);
	CREATE(size, ~0ULL);
	CREATE(size, TEST_DMABUF_MAX_SIZE + page_size());
	CREATE(flags, 1U << 31);
	CREATE(attach_errno, 4096);
	CREATE(nr_segs, 0);
	CREATE(nr_segs, TEST_DMABUF_MAX_SEGS + 1);
	CREATE(segs[0], 0);
	CREATE(segs[0], ~0U);
#undef CREATE
	dbuf_exit(&b);

	ASSERT_EQ(0, dbuf_init(&b, 65536, STATIC));
	EXPECT_EQ(-EOPNOTSUPP, dbuf_move(&b));
	EXPECT_EQ(-EOPNOTSUPP, dbuf_revoke(&b));
	close(b.fd);
	b.fd = syscall(__NR_memfd_create, "file", MFD_CLOEXEC);
	EXPECT_EQ(-EINVAL, dbuf_move(&b));
	close(b.fd);
	EXPECT_EQ(-EBADF, dbuf_move(&b));
	b.fd = -1;
	dbuf_exit(&b);
}

/* ------------------------------------------------------------ other drivers */

/* Errors of a backing store, on NFS say, are none that dma-bufs have */
TEST(stale_server)
{
	const int errs[] = { ESTALE, ENOSPC, EILSEQ };
	const int seen[] = { EIO, ENOSPC, EILSEQ };
	struct ublk_dev d = {};
	unsigned int i;
	int ret;

	ASSERT_EQ(0, ring_init(&d.ring, 8, 0));
	ret = ublk_dev_add(&d, UBLK_F_USER_COPY);
	if (ret == -ENOENT)
		SKIP(return, "no ublk driver");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, ublk_dev_start(&d, 0));
	for (i = 0; i < ARRAY_SIZE(errs); i++) {
		ASSERT_EQ(0, ublk_request_begin(&d, CLIENT_READ));
		ASSERT_EQ(0, ublk_request_commit(&d, -errs[i], 0));
		EXPECT_EQ(-seen[i], ublk_request_end(&d));
	}
	ublk_dev_exit(&d);
}

TEST_HARNESS_MAIN
