// SPDX-License-Identifier: GPL-2.0
/*
 * READ_FIXED and WRITE_FIXED between an NVMe drive and the BAR of another PCI
 * device, which vfio-pci exports: the one reads and writes the other's memory.
 *
 * Every byte is looked at from both sides by other ways: by plain reads of the
 * drive, and by a mapping of the BAR that sysfs provides. The memory of a device
 * goes away whenever its owner turns it off, resets it or is gone. Requests end
 * then, with their data or with -ENODEV.
 *
 * It takes what iou_vfio.h describes.
 */
#include "iou_dmabuf.h"
#include "iou_vfio.h"

#define P2P_SIZE	(12u << 20)
#define P2P_MAX		(8u << 20)

FIXTURE(p2p) {
	struct env e;
	struct vfio_bar bar;
	char bdf[NAME_MAX + 1];
};

FIXTURE_VARIANT(p2p) {
	enum route bar;
	enum route drive;
	struct ring_type type;
};

/* through the host bridge */
FIXTURE_VARIANT_ADD(p2p, root) {
	.bar = ROOT, .drive = ROOT, .type = TYPE_PLAIN,
};

/* through the switch, unless an IOMMU has its ports redirect to the bridge */
FIXTURE_VARIANT_ADD(p2p, switch) {
	.bar = SWITCH, .drive = SWITCH, .type = TYPE_DEFER,
};

/* down from the host bridge, and up to it */
FIXTURE_VARIANT_ADD(p2p, down) {
	.bar = ROOT, .drive = SWITCH, .type = TYPE_IOWQ,
};

FIXTURE_VARIANT_ADD(p2p, up) {
	.bar = SWITCH, .drive = ROOT, .type = TYPE_SQPOLL,
};

FIXTURE_SETUP(p2p)
{
	struct env *e = &self->e;
	int ret;

	memset(self, 0, sizeof(*self));
	e->fd = -1;
	e->disk.fd = -1;
	vfio_bar_none(&self->bar);
	if (!find_bar(variant->bar, self->bdf))
		SKIP(return, "no ivshmem device");
	if (!find_drive(variant->drive, e->disk.path, sizeof(e->disk.path)))
		SKIP(return, "no NVMe drive with a serial number scratch...");

	ret = vfio_bar_init(&self->bar, self->bdf, IVSHMEM_BAR);
	if (ret == -EBUSY)
		SKIP(return, "a driver has a device of its IOMMU group");
	ASSERT_EQ(0, ret);
	ASSERT_LE(P2P_SIZE, self->bar.size);
	e->buf.fd = vfio_bar_export(&self->bar, 0, P2P_SIZE);
	ASSERT_LE(0, e->buf.fd);
	e->buf.dev = -1;
	e->buf.map = self->bar.map;
	e->buf.size = P2P_SIZE;

	e->disk.fd = disk_open(&e->disk, O_RDWR | O_DIRECT);
	ASSERT_LE(0, e->disk.fd);
	e->fd = disk_open(&e->disk, O_RDWR | O_DIRECT);
	ASSERT_LE(0, e->fd);
	e->mem = malloc(P2P_SIZE);
	ASSERT_NE(NULL, e->mem);
	e->sqe_flags = variant->type.sqe_flags;
	ASSERT_EQ(0, ring_init(&e->ring, RING_ENTRIES, variant->type.setup));
	ASSERT_EQ(0, ring_buffers_sparse(&e->ring, NR_BUFS));
}

FIXTURE_TEARDOWN(p2p)
{
	struct env *e = &self->e;

	ring_exit(&e->ring);
	if (e->fd >= 0)
		close(e->fd);
	if (e->disk.fd >= 0)
		close(e->disk.fd);
	if (e->buf.size)
		close(e->buf.fd);
	vfio_bar_exit(&self->bar);
	free(e->mem);
}

static int p2p_register(struct env *e, unsigned int flags)
{
	struct io_uring_regbuf_desc desc = desc_dbuf(&e->buf, e->fd);

	desc.flags = flags;
	return ring_desc(&e->ring, 0, desc);
}

/* Sizes up to one page and around it, and up to what becomes many commands */
TEST_F_TIMEOUT(p2p, sizes, LONG_TIMEOUT)
{
	static const unsigned int lens[] = {
		512, 1024, 4096, 4608, 8192, 12288, 65536, 131072 - 512,
		524288, 524288 + 4096, 1 << 20, P2P_MAX,
	};
	static const unsigned int offs[] = {
		0, 512, 4096 - 512, 4096, 2 * 4096 + 512, (1 << 20) - 512,
		511 * 4096,
	};
	struct env *e = &self->e;
	unsigned int i, j;

	ASSERT_EQ(1, p2p_register(e, 0));
	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		for (j = 0; j < ARRAY_SIZE(offs); j++) {
			struct span s = {
				.off = offs[j], .len = lens[i], .pos = BASE,
			};

			/* once is enough of what takes long */
			if (s.len > 131072 && j != i % ARRAY_SIZE(offs))
				continue;
			EXPECT_EQ(0, span_write(e, &s))
				TH_LOG("write %zu at %zu", s.len, s.off);
			EXPECT_EQ(0, span_read(e, &s))
				TH_LOG("read %zu at %zu", s.len, s.off);
		}
	}
}

/* Up to the last byte, and not beyond */
TEST_F(p2p, end)
{
	struct env *e = &self->e;
	struct span s = {
		.off = P2P_SIZE - 4096 - 512, .len = 4096 + 512, .pos = BASE,
	};

	ASSERT_EQ(1, p2p_register(e, 0));
	EXPECT_EQ(0, span_write(e, &s));
	EXPECT_EQ(0, span_read(e, &s));
	memset(self->bar.map + P2P_SIZE, POISON, 4096);
	EXPECT_EQ(-EFAULT, rw(e, false, P2P_SIZE - 512, 1024, BASE));
	EXPECT_TRUE(all_bytes(self->bar.map + P2P_SIZE, POISON, 4096));
}

/* It is read and written in place, as is the memory of a udmabuf */
TEST_F(p2p, required)
{
	struct span s = { .off = 512, .len = 65536, .pos = BASE };
	struct io_uring_regbuf_desc desc;
	struct env *e = &self->e;
	struct dbuf udmabuf;

	ASSERT_EQ(1, p2p_register(e, IORING_REGBUF_P2P_REQUIRED));
	EXPECT_EQ(0, span_write(e, &s));
	EXPECT_EQ(0, span_read(e, &s));

	ASSERT_EQ(0, dbuf_udmabuf(&udmabuf, 65536, 0));
	desc = desc_dbuf(&udmabuf, e->fd);
	desc.flags = IORING_REGBUF_P2P_REQUIRED;
	/* nobody moves that, but it isn't what was asked for */
	EXPECT_EQ(-EREMOTEIO, ring_desc(&e->ring, 1, desc));
	dbuf_exit(&udmabuf);
}

/* A part of the BAR, and a window of that */
TEST_F(p2p, window)
{
	const size_t start = 3 << 20, window = 65536, len = 65536;
	struct io_uring_regbuf_desc desc;
	struct env *e = &self->e;
	struct dbuf part = { .dev = -1, .size = 1 << 20 };
	size_t i;

	part.fd = vfio_bar_export(&self->bar, start, part.size);
	ASSERT_LE(0, part.fd);
	desc = desc_dbuf(&part, e->fd);
	desc.offset = window;
	desc.size = len;
	ASSERT_EQ(1, ring_desc(&e->ring, 0, desc));
	ASSERT_EQ(0, disk_pattern(e, BASE, len, DISK_SEED));
	memset(self->bar.map + start, POISON, part.size);
	EXPECT_EQ((int)len, rw(e, false, 0, len, BASE));
	EXPECT_EQ(-EFAULT, rw(e, false, 512, len, BASE));
	for (i = 0; i < len; i++)
		if (self->bar.map[start + window + i] !=
		    pattern(BASE + i, DISK_SEED))
			break;
	EXPECT_EQ(len, i);
	EXPECT_TRUE(all_bytes(self->bar.map + start, POISON, window));
	EXPECT_TRUE(all_bytes(self->bar.map + start + window + len, POISON,
			      4096));
	close(part.fd);
}

/* Only devices reach it: null_blk, whose I/O is done by the CPU, has no way */
TEST_F(p2p, needs_a_device)
{
	static const struct disk_conf conf;
	struct env *e = &self->e;
	struct disk disk;
	int fd, ret;

	ASSERT_TRUE(disk_available());
	ASSERT_EQ(0, disk_init(&disk, &conf));
	fd = disk_open(&disk, O_RDWR | O_DIRECT);
	ret = ring_dbuf(&e->ring, 0, &e->buf, fd);
	close(fd);
	disk_exit(&disk);
	EXPECT_EQ(-EOPNOTSUPP, ret);
}

/* ---------------------------------------------------------------- revocation */

#define NR_BLOCKS	64
#define BLOCK_LEN	131072u

enum { TURN_OFF, CLOSE };

struct revoker {
	struct vfio_bar	*bar;
	int		what;
	int		ret;
	__u64		us;
};

static void *revoke_thread(void *arg)
{
	struct revoker *r = arg;
	__u64 start = now_us();

	if (r->what == TURN_OFF)
		r->ret = vfio_bar_enable(r->bar, false);
	else
		vfio_bar_close(r->bar);
	r->us = now_us() - start;
	return NULL;
}

/* What a revocation may take: the drive's time for what is in flight */
#define REVOKE_US	5000000

/*
 * The memory goes away while the drive fills it. Each request has all of its
 * data, or -ENODEV: how many of the first kind, or -errno.
 */
static int revoke_in_flight(struct env *e, struct vfio_bar *bar, int what,
			    int res[NR_BLOCKS])
{
	struct revoker r = { .bar = bar, .what = what };
	unsigned int i, done = 0;
	pthread_t thread;
	int ret;

	for (i = 0; i < NR_BLOCKS; i++) {
		struct io_uring_sqe *sqe;

		sqe = ring_fixed(&e->ring, false, e->fd, 0, i * BLOCK_LEN,
				 BLOCK_LEN, BASE + i * BLOCK_LEN);
		sqe->flags = e->sqe_flags;
		sqe->user_data = i;
	}
	ret = ring_submit(&e->ring);
	if (ret < 0)
		return step_failed("submission", ret);
	ret = pthread_create(&thread, NULL, revoke_thread, &r);
	if (ret)
		return step_failed("no thread to revoke it", -ret);
	ret = ring_collect(&e->ring, res, NR_BLOCKS);
	pthread_join(thread, NULL);
	if (ret)
		return step_failed("completions", ret);
	if (r.ret)
		return step_failed("revocation", r.ret);
	if (r.us > REVOKE_US)
		return step_failed("revocation takes too long", -ETIME);
	for (i = 0; i < NR_BLOCKS; i++) {
		if (res[i] == BLOCK_LEN)
			done++;
		else if (res[i] < 0 && res[i] != -ENODEV)
			return step_failed("result of a read", res[i]);
		else if (res[i] >= 0)
			return step_failed("short read", -EIO);
	}
	return done;
}

/* What requests claim to have read, and nothing of the others */
static bool revoked_data(struct env *e, const int res[NR_BLOCKS])
{
	unsigned int i, j;

	for (i = 0; i < NR_BLOCKS; i++) {
		if (dbuf_read(&e->buf, e->mem, BLOCK_LEN, i * BLOCK_LEN))
			return false;
		if (res[i] < 0) {
			if (!all_bytes(e->mem, POISON, BLOCK_LEN)) {
				fprintf(stderr, "# block %u has data\n", i);
				return false;
			}
			continue;
		}
		for (j = 0; j < BLOCK_LEN; j++) {
			if (e->mem[j] != pattern(BASE + i * BLOCK_LEN + j,
						 DISK_SEED)) {
				fprintf(stderr, "# block %u: byte %u\n", i, j);
				return false;
			}
		}
	}
	return true;
}

TEST_F_TIMEOUT(p2p, turned_off, LONG_TIMEOUT)
{
	struct span s = { .off = 512, .len = 65536, .pos = BASE };
	struct env *e = &self->e;
	int res[NR_BLOCKS], i;

	ASSERT_EQ(1, p2p_register(e, 0));
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, disk_pattern(e, BASE, NR_BLOCKS * BLOCK_LEN,
					  DISK_SEED));
		ASSERT_EQ(0, buf_set(e, POISON, 0, NR_BLOCKS * BLOCK_LEN));
		EXPECT_LE(0, revoke_in_flight(e, &self->bar, TURN_OFF, res));
		/* and none later, in either direction */
		EXPECT_EQ(-ENODEV, rw(e, false, 0, 4096, BASE));
		EXPECT_EQ(-ENODEV, rw(e, true, 0, 4096, BASE));

		ASSERT_EQ(0, vfio_bar_enable(&self->bar, true));
		EXPECT_TRUE(revoked_data(e, res));
		EXPECT_EQ(0, span_write(e, &s));
		EXPECT_EQ(0, span_read(e, &s));
	}
}

/* Turned off when there is nothing in flight, or before it is registered */
TEST_F(p2p, registered_off)
{
	struct span s = { .off = 0, .len = 4096, .pos = BASE };
	struct env *e = &self->e;

	ASSERT_EQ(0, vfio_bar_enable(&self->bar, false));
	EXPECT_EQ(-ENODEV, p2p_register(e, 0));
	ASSERT_EQ(0, vfio_bar_enable(&self->bar, true));
	ASSERT_EQ(1, p2p_register(e, 0));
	EXPECT_EQ(0, span_write(e, &s));

	ASSERT_EQ(0, vfio_bar_enable(&self->bar, false));
	EXPECT_EQ(-ENODEV, rw(e, false, 0, 4096, BASE));
	/* the slot is the application's: it may have something else */
	EXPECT_EQ(-ENODEV, p2p_register(e, 0));
	EXPECT_EQ(-ENODEV, rw(e, false, 0, 4096, BASE));
	ASSERT_EQ(0, vfio_bar_enable(&self->bar, true));
	EXPECT_EQ(0, span_read(e, &s));
}

/* A reset goes by the port above, so there is none on the root bus */
TEST_F(p2p, reset)
{
	struct span s = { .off = 512, .len = 65536, .pos = BASE };
	struct env *e = &self->e;

	ASSERT_EQ(1, p2p_register(e, 0));
	EXPECT_EQ(0, span_write(e, &s));
	if (variant->bar == SWITCH) {
		ASSERT_EQ(0, ioctl(self->bar.device, VFIO_DEVICE_RESET));
		/* the device comes out of it as it was before */
		ASSERT_EQ(0, vfio_bar_enable(&self->bar, true));
	} else {
		ASSERT_EQ(-1, ioctl(self->bar.device, VFIO_DEVICE_RESET));
		EXPECT_EQ(EINVAL, errno);
	}
	EXPECT_EQ(0, span_write(e, &s));
	EXPECT_EQ(0, span_read(e, &s));
}

/* Who has the device closes it, and the driver goes as well */
TEST_F_TIMEOUT(p2p, closed, LONG_TIMEOUT)
{
	struct span s = { .off = 512, .len = 65536, .pos = BASE };
	struct env *e = &self->e;
	int res[NR_BLOCKS];

	ASSERT_EQ(1, p2p_register(e, 0));
	ASSERT_EQ(0, disk_pattern(e, BASE, NR_BLOCKS * BLOCK_LEN, DISK_SEED));
	ASSERT_EQ(0, buf_set(e, POISON, 0, NR_BLOCKS * BLOCK_LEN));
	EXPECT_LE(0, revoke_in_flight(e, &self->bar, CLOSE, res));
	EXPECT_EQ(-ENODEV, rw(e, false, 0, 4096, BASE));
	EXPECT_EQ(0, vfio_unbind(self->bdf));
	EXPECT_EQ(-ENODEV, rw(e, true, 0, 4096, BASE));
	EXPECT_EQ(-ENODEV, p2p_register(e, 0));

	/* the old dma-buf stays what it is, a new one has the memory */
	ASSERT_EQ(0, vfio_bind(self->bdf));
	ASSERT_EQ(0, vfio_bar_open(&self->bar, self->bdf));
	EXPECT_TRUE(revoked_data(e, res));
	EXPECT_EQ(-ENODEV, rw(e, false, 0, 4096, BASE));
	close(e->buf.fd);
	e->buf.fd = vfio_bar_export(&self->bar, 0, P2P_SIZE);
	ASSERT_LE(0, e->buf.fd);
	ASSERT_EQ(1, p2p_register(e, 0));
	EXPECT_EQ(0, span_write(e, &s));
	EXPECT_EQ(0, span_read(e, &s));
}

/* The device of the dma-buf doesn't wait for a ring whose task has stopped */
TEST_F(p2p, stopped_task)
{
	struct env *e = &self->e;
	struct revoker r = { .bar = &self->bar, .what = TURN_OFF };
	unsigned int i;
	int status;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct ring ring;

		if (ring_init(&ring, RING_ENTRIES, IORING_SETUP_SINGLE_ISSUER |
						   IORING_SETUP_DEFER_TASKRUN) ||
		    ring_buffers_sparse(&ring, 1) ||
		    ring_dbuf(&ring, 0, &e->buf, e->fd) != 1)
			_exit(1);
		for (i = 0; i < NR_BLOCKS; i++)
			ring_fixed(&ring, false, e->fd, 0, i * BLOCK_LEN,
				   BLOCK_LEN, BASE + i * BLOCK_LEN);
		if (ring_submit(&ring) < 0)
			_exit(1);
		raise(SIGSTOP);
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, WUNTRACED));
	ASSERT_TRUE(WIFSTOPPED(status));
	revoke_thread(&r);
	EXPECT_EQ(0, r.ret);
	EXPECT_GE(REVOKE_US, r.us);
	kill(pid, SIGKILL);
	EXPECT_EQ(pid, waitpid(pid, &status, 0));
}

TEST_HARNESS_MAIN
