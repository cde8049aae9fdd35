// SPDX-License-Identifier: GPL-2.0
/*
 * One dma-buf that many rings have registered for one drive.
 *
 * It is attached and mapped once for each direction, however many rings there
 * are, and a move waits for the drive once. Each ring has its own window, its own
 * direction and its own demands all the same, and none of them notices when
 * others come or go.
 *
 * The drive is a null_blk, or what IO_URING_TEST_DRIVE names.
 */
#include <sys/prctl.h>

#include "iou_dmabuf_move.h"
#include "kselftest_harness.h"

#define RINGS		64
/* each ring has so much of dma-buf and drive */
#define PART		(4 * 4096)
/* the pages of a PRP list have entries for 511 pages, and there are two of them */
#define SHARED_PAGES	(RINGS * 4 + 511)

FIXTURE(shared) {
	struct env e;
	struct ring rings[RINGS];
	unsigned int nr;
};

FIXTURE_VARIANT(shared) {
	enum exporter exp;
};

FIXTURE_VARIANT_ADD(shared, test) {
	.exp = SCATTERED,
};

FIXTURE_VARIANT_ADD(shared, heap) {
	.exp = HEAP,
};

static bool is_test(const struct env *e)
{
	return e->buf.dev >= 0;
}

/* A ring whose buffer 0 is that */
static int shared_ring(struct ring *r, struct io_uring_regbuf_desc desc)
{
	int ret;

	ret = ring_init(r, 16, 0);
	if (ret)
		return step_failed("ring_init", ret);
	ret = ring_buffers_sparse(r, 1);
	if (ret)
		return step_failed("ring_buffers_sparse", ret);
	ret = ring_desc(r, 0, desc);
	return ret == 1 ? 0 : step_failed("registration", ret);
}

FIXTURE_SETUP(shared)
{
	static const struct ring_type plain;
	struct env *e = &self->e;
	const char *skip;
	int ret;

	ret = env_init(e, &plain, variant->exp, SHARED_PAGES, NULL, &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
	for (; self->nr < RINGS; self->nr++)
		ASSERT_EQ(0, shared_ring(&self->rings[self->nr],
					 desc_dbuf(&e->buf, e->fd)));
}

FIXTURE_TEARDOWN(shared)
{
	while (self->nr)
		ring_exit(&self->rings[--self->nr]);
	if (is_test(&self->e) && self->e.buf.size) {
		EXPECT_TRUE(dbuf_free_within(&self->e.buf, WAIT_MS));
		EXPECT_EQ(0, dbuf_lost(&self->e.buf));
	}
	env_exit(&self->e);
}

static void expect_maps(struct __test_metadata *_metadata, struct env *e,
			unsigned int maps)
{
	struct test_dmabuf_stats stats;

	if (!is_test(e))
		return;
	stats = dbuf_stats(&e->buf);
	EXPECT_EQ(1, stats.attaches - stats.detaches);
	EXPECT_EQ(maps, stats.maps);
}

/* A read of the part of each of the first @nr rings */
static int queue_parts(struct ring *rings, unsigned int nr, struct env *e,
		       bool write)
{
	unsigned int i;
	int ret;

	for (i = 0; i < nr; i++) {
		ring_fixed(&rings[i], write, e->fd, 0, i * PART, PART,
			   BASE + i * PART)->user_data = i;
		ret = ring_submit(&rings[i]);
		if (ret != 1)
			return step_failed("submission", ret < 0 ? ret : -EIO);
	}
	return 0;
}

static int collect_parts(struct ring *rings, unsigned int nr, int want)
{
	unsigned int i;
	int ret;

	for (i = 0; i < nr; i++) {
		ret = ring_result(&rings[i]);
		if (ret == want)
			continue;
		fprintf(stderr, "# ring %u: result %d\n", i, ret);
		return ret < 0 ? ret : step_failed("short transfer", -EIO);
	}
	return 0;
}

/* All of what the rings have, there and back: 0 or -errno */
static int round_trip(struct ring *rings, unsigned int nr, struct env *e,
		      unsigned int seed)
{
	size_t i, len = nr * PART;
	int ret;

	ret = disk_pattern(e, BASE, len, seed);
	if (!ret)
		ret = buf_set(e, POISON, 0, e->buf.size);
	if (!ret)
		ret = queue_parts(rings, nr, e, false);
	if (!ret)
		ret = collect_parts(rings, nr, PART);
	if (!ret && !buf_got(e, &(struct span){ 0, len, BASE }, seed))
		ret = step_failed("what was read", -EBADMSG);
	if (!ret)
		ret = buf_pattern(e, 0, len, seed + 1);
	if (!ret)
		ret = disk_set(e, DISK_POISON, BASE, len);
	if (!ret)
		ret = queue_parts(rings, nr, e, true);
	if (!ret)
		ret = collect_parts(rings, nr, PART);
	if (!ret)
		ret = disk_read(&e->disk, e->mem, len, BASE);
	for (i = 0; !ret && i < len; i++)
		if (e->mem[i] != pattern(i, seed + 1))
			ret = step_failed("what was written", -EBADMSG);
	return ret;
}

TEST_F_TIMEOUT(shared, transfers, LONG_TIMEOUT)
{
	struct env *e = &self->e;

	expect_maps(_metadata, e, 1);
	EXPECT_EQ(0, round_trip(self->rings, RINGS, e, 1));
	expect_maps(_metadata, e, 1);
	if (is_test(e)) {
		ASSERT_LE(0, dbuf_move(&e->buf));
		EXPECT_EQ(0, dbuf_mapped(&e->buf));
		EXPECT_EQ(0, round_trip(self->rings, RINGS, e, 3));
		expect_maps(_metadata, e, 2);
	}
}

/* What each of them may do is what it was registered for */
TEST_F_TIMEOUT(shared, directions, LONG_TIMEOUT)
{
	struct env *e = &self->e;
	struct io_uring_regbuf_desc desc = desc_dbuf(&e->buf, e->fd);
	struct ring *r = self->rings;
	unsigned int i;

	for (i = 0; i < RINGS; i++) {
		desc.flags = i % 3 == 1 ? IORING_REGBUF_READ :
			     i % 3 == 2 ? IORING_REGBUF_WRITE : 0;
		ASSERT_EQ(1, ring_desc(&r[i], 0, desc));
	}
	if (is_test(e)) {
		EXPECT_EQ(3, dbuf_attached(&e->buf));
		EXPECT_EQ(3, dbuf_mapped(&e->buf));
	}
	ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, RINGS * PART));
	ASSERT_EQ(0, buf_set(e, POISON, 0, RINGS * PART));
	for (i = 0; i < RINGS; i++) {
		off_t pos = BASE + i * PART;

		EXPECT_EQ(i % 3 == 1 ? -EFAULT : PART,
			  ring_rw(&r[i], true, e->fd, 0, i * PART, PART, pos));
		EXPECT_TRUE(disk_holds(e, i % 3 == 1 ? DISK_POISON : POISON,
				       pos, PART));
		ASSERT_EQ(0, disk_set(e, i, pos, PART));
		EXPECT_EQ(i % 3 == 2 ? -EFAULT : PART,
			  ring_rw(&r[i], false, e->fd, 0, i * PART, PART, pos));
		EXPECT_TRUE(buf_holds(e, i % 3 == 2 ? POISON : i, i * PART,
				      PART));
	}
}

/*
 * Windows that overlap, of any size, that come one after the other: what the
 * first of them has mapped does for all
 */
TEST_F_TIMEOUT(shared, windows, LONG_TIMEOUT)
{
	const size_t size = self->e.buf.size;
	struct ring *r = self->rings;
	struct env *e = &self->e;
	unsigned int i;

	for (i = 0; i < RINGS; i++)
		ASSERT_EQ(1, ring_desc(&r[i], 0,
				       (struct io_uring_regbuf_desc){}));
	for (i = 0; i < RINGS; i++) {
		struct io_uring_regbuf_desc desc = desc_dbuf(&e->buf, e->fd);
		size_t len, off = (i * 37 % SHARED_PAGES) * 4096ULL;
		struct span s;
		int ret;

		desc.offset = off;
		desc.size = (1 + i * i % 300) * 4096ULL;
		if (off + desc.size > size)
			desc.size = size - off;
		len = desc.size;
		ASSERT_EQ(1, ring_desc(&r[i], 0, desc));
		EXPECT_EQ(-EFAULT, ring_rw(&r[i], false, e->fd, 0, 512, len,
					   BASE));
		EXPECT_EQ(-EFAULT, ring_rw(&r[i], false, e->fd, 0, len, 512,
					   BASE));
		s = (struct span){ .off = off, .len = len, .pos = BASE };
		ASSERT_EQ(0, disk_pattern(e, BASE, len, i));
		ASSERT_EQ(0, buf_set(e, POISON, 0, size));
		ret = ring_rw(&r[i], false, e->fd, 0, 0, len, BASE);
		ASSERT_EQ(len, ret);
		ASSERT_TRUE(buf_got(e, &s, i));
		if (len <= 512)
			continue;
		/* in the middle of a page, to the end */
		s = (struct span){ off + 512, len - 512, BASE + 512 };
		ASSERT_EQ(0, buf_set(e, POISON, 0, size));
		ret = ring_rw(&r[i], false, e->fd, 0, 512, len - 512,
			      BASE + 512);
		ASSERT_EQ(len - 512, ret);
		ASSERT_TRUE(buf_got(e, &s, i));
		if (is_test(e) && i % 16 == 15)
			ASSERT_LE(0, dbuf_move(&e->buf));
	}
	if (is_test(e))
		EXPECT_EQ(1, dbuf_attached(&e->buf));
}

TEST_F_TIMEOUT(shared, mover, LONG_TIMEOUT)
{
	__u64 end = now_ms() + run_ms(1500);
	struct env *e = &self->e;
	unsigned int rounds = 0;
	struct mover m;

	if (!is_test(e)) {
		TH_LOG("n/a: %s", "this exporter moves nothing");
		return;
	}
	ASSERT_EQ(0, mover_start(&m, &e->buf, 1000));
	for (; rounds < 2 || now_ms() < end; rounds++)
		ASSERT_EQ(0, round_trip(self->rings, RINGS, e, rounds * 2));
	ASSERT_EQ(0, mover_stop(&m));
	TH_LOG("%u rounds, %u moves, at most %d us", rounds, m.moves,
	       m.worst_us);
	EXPECT_LT(0, m.moves);
	/* a worker of each ring may be before it in the queue for dma_resv */
	EXPECT_GT(4 * BUSY_MOVE_US, m.worst_us);
	EXPECT_EQ(1, dbuf_attached(&e->buf));
}

/* What a move costs, with all of them and with one */
TEST_F_TIMEOUT(shared, move_time, LONG_TIMEOUT)
{
	unsigned int i, nr, rounds = 10;
	struct env *e = &self->e;
	long long us[2] = {};

	if (!is_test(e)) {
		TH_LOG("n/a: %s", "this exporter moves nothing");
		return;
	}
	for (nr = RINGS; nr; nr = nr == 1 ? 0 : 1) {
		while (self->nr > nr)
			ring_exit(&self->rings[--self->nr]);
		for (i = 0; i < rounds; i++) {
			__u64 unmaps = dbuf_stats(&e->buf).unmaps;
			int ret;

			ASSERT_EQ(0, queue_parts(self->rings, nr, e, false));
			ASSERT_EQ(0, collect_parts(self->rings, nr, PART));
			ret = dbuf_move(&e->buf);
			ASSERT_LE(0, ret);
			us[nr == 1] += ret;
			/* each takes a wait for the drive */
			EXPECT_EQ(1, dbuf_stats(&e->buf).unmaps - unmaps);
		}
	}
	TH_LOG("a move takes %lld us with %u registrations, %lld us with one",
	       us[0] / rounds, RINGS, us[1] / rounds);
}

TEST_F_TIMEOUT(shared, revoke, LONG_TIMEOUT)
{
	struct env *e = &self->e;

	if (!is_test(e)) {
		TH_LOG("n/a: %s", "this exporter revokes nothing");
		return;
	}
	ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, RINGS * PART));
	ASSERT_LE(0, dbuf_revoke(&e->buf));
	ASSERT_EQ(0, queue_parts(self->rings, RINGS, e, true));
	EXPECT_EQ(0, collect_parts(self->rings, RINGS, -ENODEV));
	EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE, RINGS * PART));
	EXPECT_EQ(0, dbuf_mapped(&e->buf));
	EXPECT_EQ(1, dbuf_attached(&e->buf));
}

/* Rings go while others have requests, and the memory moves */
TEST_F_TIMEOUT(shared, rings_first, LONG_TIMEOUT)
{
	struct env *e = &self->e;
	struct mover m = {};

	if (is_test(e))
		ASSERT_EQ(0, mover_start(&m, &e->buf, 300000));
	while (self->nr > 1) {
		unsigned int nr = self->nr - 1;

		ASSERT_EQ(0, queue_parts(self->rings, self->nr, e, false));
		self->nr = nr;
		ring_exit(&self->rings[nr]);
		ASSERT_EQ(0, collect_parts(self->rings, nr, PART));
		if (nr % 16 == 1)
			ASSERT_EQ(0, round_trip(self->rings, nr, e, nr));
	}
	if (is_test(e)) {
		ASSERT_EQ(0, mover_stop(&m));
		EXPECT_EQ(1, dbuf_attached(&e->buf));
	}
}

/* Some tasks die, the others don't care */
TEST_F_TIMEOUT(shared, tasks_first, LONG_TIMEOUT)
{
	const unsigned int nr = RINGS / 2;
	struct env *e = &self->e;
	unsigned int i, round;
	struct mover m = {};

	if (is_test(e))
		ASSERT_EQ(0, mover_start(&m, &e->buf, 300000));
	for (round = 0; round < 4; round++) {
		int status, ready[2];
		pid_t pid;
		char c;

		ASSERT_EQ(0, pipe(ready));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			static struct ring r[RINGS / 2];

			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (i = 0; i < nr; i++)
				if (shared_ring(&r[i], desc_dbuf(&e->buf,
								 e->fd)))
					_exit(9);
			if (write(ready[1], "", 1) != 1)
				_exit(8);
			/* behind what the parent checks, only reads of the drive */
			for (;;) {
				for (i = 0; i < nr; i++) {
					ring_fixed(&r[i], true, e->fd, 0, 0,
						   PART, 0);
					ring_submit(&r[i]);
				}
				for (i = 0; i < nr; i++)
					ring_result(&r[i]);
			}
		}
		ASSERT_EQ(1, read(ready[0], &c, 1));
		close(ready[0]);
		close(ready[1]);
		ASSERT_EQ(0, round_trip(self->rings, nr, e, 2 * round));
		kill(pid, SIGKILL);
		ASSERT_EQ(0, round_trip(self->rings, nr, e, 2 * round + 1));
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_TRUE(WIFSIGNALED(status));
	}
	if (is_test(e))
		ASSERT_EQ(0, mover_stop(&m));
}

/* The drive goes, with all that it had in flight */
TEST_F_TIMEOUT(shared, drive_first, LONG_TIMEOUT)
{
	struct env *e = &self->e;
	struct mover m = {};
	unsigned int i;

	if (getenv("IO_URING_TEST_DRIVE")) {
		TH_LOG("n/a: %s", "see dmabuf_nvme");
		return;
	}
	if (is_test(e))
		ASSERT_EQ(0, mover_start(&m, &e->buf, 300));
	ASSERT_EQ(0, queue_parts(self->rings, RINGS, e, true));
	ASSERT_EQ(0, disk_power(&e->disk, false));
	if (is_test(e)) {
		EXPECT_EQ(0, dbuf_attached(&e->buf));
		EXPECT_EQ(0, dbuf_mapped(&e->buf));
	}
	for (i = 0; i < RINGS; i++) {
		int ret = ring_result(&self->rings[i]);

		EXPECT_NE(-ESTALE, ret);
		EXPECT_NE(-EAGAIN, ret);
	}
	if (is_test(e))
		ASSERT_EQ(0, mover_stop(&m));
	EXPECT_EQ(-ENODEV, ring_dbuf(&self->rings[0], 0, &e->buf, e->fd));
}

/* A map that is good for others isn't for those who insist on peer-to-peer */
TEST_F_TIMEOUT(shared, p2p, LONG_TIMEOUT)
{
	struct test_dmabuf_create create = { .flags = TEST_DMABUF_DEVICE };
	struct test_dmabuf_faults host = { .host = 1 };
	struct env *e = &self->e;
	struct ring *r = self->rings;
	struct io_uring_regbuf_desc desc;
	size_t size = e->buf.size;
	unsigned int i;

	if (!is_test(e)) {
		TH_LOG("n/a: %s", "it is the host's memory");
		return;
	}
	while (self->nr > 8)
		ring_exit(&r[--self->nr]);
	dbuf_exit(&e->buf);
	ASSERT_EQ(0, dbuf_test(&e->buf, size, create));
	host.fd = e->buf.fd;
	desc = desc_dbuf(&e->buf, e->fd);
	for (i = 0; i < 8; i++) {
		desc.flags = i & 1 ? IORING_REGBUF_P2P_REQUIRED : 0;
		ASSERT_EQ(1, ring_desc(&r[i], 0, desc));
	}
	EXPECT_EQ(1, dbuf_attached(&e->buf));
	EXPECT_EQ(0, round_trip(r, 8, e, 1));

	ASSERT_EQ(0, ioctl(e->buf.dev, TEST_DMABUF_FAULTS, &host));
	ASSERT_LE(0, dbuf_move(&e->buf));
	ASSERT_EQ(0, buf_set(e, POISON, 0, 8 * PART));
	ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, 8 * PART));
	/* also when it is mapped for another one, and when it isn't yet */
	for (i = 8; i--;) {
		EXPECT_EQ(i & 1 ? -EREMOTEIO : PART,
			  ring_rw(&r[i], true, e->fd, 0, i * PART, PART,
				  BASE + i * PART));
		EXPECT_TRUE(disk_holds(e, i & 1 ? DISK_POISON : POISON,
				       BASE + i * PART, PART));
	}
	desc.flags = IORING_REGBUF_P2P_REQUIRED;
	EXPECT_EQ(-EREMOTEIO, ring_desc(&r[0], 0, desc));
	EXPECT_EQ(PART, ring_rw(&r[0], false, e->fd, 0, 0, PART, BASE));
	EXPECT_EQ(1, dbuf_mapped(&e->buf));

	host.host = 0;
	ASSERT_EQ(0, ioctl(e->buf.dev, TEST_DMABUF_FAULTS, &host));
	ASSERT_LE(0, dbuf_move(&e->buf));
	EXPECT_EQ(0, round_trip(r, 8, e, 3));
}

/* A dma-buf that devices may only read */
TEST_F_TIMEOUT(shared, read_only, LONG_TIMEOUT)
{
	struct test_dmabuf_create create = { .flags = TEST_DMABUF_RDONLY };
	struct env *e = &self->e;
	struct ring *r = self->rings;
	struct io_uring_regbuf_desc desc;
	size_t size = e->buf.size;
	unsigned int i;

	if (!is_test(e)) {
		TH_LOG("n/a: %s", "not with this exporter");
		return;
	}
	for (i = 0; i < RINGS; i++)
		ASSERT_EQ(1, ring_desc(&r[i], 0,
				       (struct io_uring_regbuf_desc){}));
	dbuf_exit(&e->buf);
	ASSERT_EQ(0, dbuf_test(&e->buf, size, create));
	desc = desc_dbuf(&e->buf, e->fd);
	for (i = 0; i < RINGS; i++) {
		desc.flags = i & 1 ? IORING_REGBUF_WRITE : 0;
		ASSERT_EQ(1, ring_desc(&r[i], 0, desc));
	}
	desc.flags = IORING_REGBUF_READ;
	EXPECT_EQ(-EACCES, ring_desc(&r[0], 0, desc));
	EXPECT_EQ(1, dbuf_attached(&e->buf));
	ASSERT_EQ(0, buf_set(e, POISON, 0, RINGS * PART));
	ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, RINGS * PART));
	ASSERT_EQ(0, queue_parts(r, RINGS, e, true));
	EXPECT_EQ(0, collect_parts(r, RINGS, PART));
	EXPECT_TRUE(disk_holds(e, POISON, BASE, RINGS * PART));
	EXPECT_EQ(-EFAULT, ring_rw(&r[0], false, e->fd, 0, 0, PART, BASE));
	EXPECT_EQ(-EFAULT, ring_rw(&r[1], false, e->fd, 0, 0, PART, BASE));
	expect_maps(_metadata, e, 1);
}

/* ---------------------------------------------------------------- large ones */

/* What there is of their memory, a prime number of pages */
#define PRIME		1021
#define REAL		((size_t)PRIME * 4096)

FIXTURE(large) {
	struct env e;
	struct dbuf buf;
};

FIXTURE_VARIANT(large) {
	__u64		size;
	unsigned int	seg;	/* pages */
};

FIXTURE_VARIANT_ADD(large, one_piece) {
	.size = 3ULL << 30, .seg = PRIME,
};

FIXTURE_VARIANT_ADD(large, pieces) {
	.size = (2ULL << 30) + (1 << 20) + 12288, .seg = 1,
};

FIXTURE_VARIANT_ADD(large, above_1t) {
	.size = (1ULL << 40) + (1 << 30), .seg = PRIME,
};

FIXTURE_SETUP(large)
{
	/* what null_blk would copy to has no kernel mapping */
	static const struct disk_conf no_data = { .no_memory = true };
	static const struct ring_type plain;
	struct test_dmabuf_create create = {
		.nr_segs = 1, .segs = { variant->seg }, .pages = PRIME,
	};
	struct env *e = &self->e;
	const char *skip;
	int ret;

	ret = env_init(e, &plain, SCATTERED, PRIME, &no_data, &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
	if (page_size() != 4096)
		SKIP(return, "pages are large");
	ASSERT_EQ(0, dbuf_test(&self->buf, variant->size, create));
}

FIXTURE_TEARDOWN(large)
{
	ring_exit(&self->e.ring);
	if (self->buf.size) {
		EXPECT_TRUE(dbuf_free_within(&self->buf, WAIT_MS));
		EXPECT_EQ(0, dbuf_lost(&self->buf));
	}
	dbuf_exit(&self->buf);
	env_exit(&self->e);
}

/* From the drive to @off of the buffer, which starts at @start of the dma-buf */
static int large_read(struct env *e, struct dbuf *b, __u64 start, __u64 off,
		      size_t len)
{
	size_t i, from = (start + off) % REAL;
	int ret;

	ret = disk_pattern(e, BASE, len, DISK_SEED);
	memset(e->mem, POISON, REAL);
	if (!ret)
		ret = dbuf_write(b, e->mem, REAL, 0);
	if (!ret)
		ret = ring_rw(&e->ring, false, e->fd, 0, off, len, BASE);
	if (ret != (int)len)
		return step_failed("read", ret < 0 ? ret : -EIO);
	ret = dbuf_read(b, e->mem, REAL, 0);
	for (i = 0; !ret && i < REAL; i++) {
		size_t at = (i + REAL - from) % REAL;

		if (e->mem[i] != (at < len ? pattern(BASE + at, DISK_SEED) :
					     POISON))
			ret = step_failed("what was read", -EBADMSG);
	}
	return ret;
}

static int large_write(struct env *e, struct dbuf *b, __u64 start, __u64 off,
		       size_t len)
{
	size_t i;
	int ret;

	ret = disk_set(e, DISK_POISON, BASE, len + 4096);
	for (i = 0; i < REAL; i++)
		e->mem[i] = pattern(i, BUF_SEED);
	if (!ret)
		ret = dbuf_write(b, e->mem, REAL, 0);
	if (!ret)
		ret = ring_rw(&e->ring, true, e->fd, 0, off, len, BASE);
	if (ret != (int)len)
		return step_failed("write", ret < 0 ? ret : -EIO);
	ret = disk_read(&e->disk, e->mem, len + 4096, BASE);
	for (i = 0; !ret && i < len + 4096; i++)
		if (e->mem[i] != (i < len ? pattern((start + off + i) % REAL,
						    BUF_SEED) : DISK_POISON))
			ret = step_failed("what was written", -EBADMSG);
	return ret;
}

/* With null_blk, only that it is done */
static int large_rw(struct env *e, struct dbuf *b, __u64 start, __u64 off,
		    size_t len)
{
	int ret;

	if (getenv("IO_URING_TEST_DRIVE")) {
		ret = large_read(e, b, start, off, len);
		return ret ?: large_write(e, b, start, off, len);
	}
	ret = ring_rw(&e->ring, false, e->fd, 0, off, len, BASE);
	return ret == (int)len ? 0 : step_failed("read", ret < 0 ? ret : -EIO);
}

TEST_F_TIMEOUT(large, offsets, LONG_TIMEOUT)
{
	const __u64 g = 1ULL << 30, size = variant->size;
	const struct {
		__u64	off;
		size_t	len;
	} parts[] = {
		{ 0, 65536 },
		{ g + g / 2 - 4096, 65536 },
		{ g + g / 2 + 512, 1 << 20 },
		{ 2 * g - 65536, 131072 },
		{ 2 * g - 512, 1024 },
		{ 2 * g + 512, (1 << 20) - 512 },
		{ 4 * g - 65536, 131072 },
		{ 1024 * g - 4096, 65536 },
		{ 1024 * g + g / 2 + 1024, 65536 },
		{ size - (1 << 20), 1 << 20 },
		{ size - 512, 512 },
	};
	struct env *e = &self->e;
	struct io_uring_regbuf_desc desc = desc_dbuf(&self->buf, e->fd);
	__u64 start = 0;
	unsigned int i;

	if (size > 1024 * g) {
		/* a buffer isn't that large, whether it says so or not */
		EXPECT_EQ(-EINVAL, ring_desc(&e->ring, 0, desc));
		desc.offset = g - 4096;
		EXPECT_EQ(-EINVAL, ring_desc(&e->ring, 0, desc));
		start = g;
		desc.offset = start;
	}
	ASSERT_EQ(1, ring_desc(&e->ring, 0, desc));
	for (i = 0; i < ARRAY_SIZE(parts); i++) {
		__u64 off = parts[i].off;

		if (off < start || off + parts[i].len > size)
			continue;
		ASSERT_EQ(0, large_rw(e, &self->buf, start, off - start,
				      parts[i].len)) {
			TH_LOG("%zu bytes at %llu", parts[i].len, off);
		}
		if (i % 4 == 3)
			ASSERT_LE(0, dbuf_move(&self->buf));
	}
	EXPECT_EQ(-EFAULT, ring_rw(&e->ring, false, e->fd, 0, size - start,
				   512, BASE));
	EXPECT_EQ(-EFAULT, ring_rw(&e->ring, false, e->fd, 0,
				   size - start - 512, 1024, BASE));
}

/* A small window far behind, with its size and as all that is left */
TEST_F_TIMEOUT(large, window, LONG_TIMEOUT)
{
	const size_t len = (1 << 20) + 8192;
	struct env *e = &self->e;
	struct io_uring_regbuf_desc desc = desc_dbuf(&self->buf, e->fd);
	unsigned int i;

	for (i = 0; i < 4; i++) {
		desc.offset = variant->size - len;
		desc.size = i & 1 ? len : 0;
		if (i & 2) {
			desc.offset -= 512ULL * 4096;
			desc.size = len;
		}
		ASSERT_EQ(1, ring_desc(&e->ring, 0, desc));
		ASSERT_EQ(0, large_rw(e, &self->buf, desc.offset, 0, 131072));
		ASSERT_EQ(0, large_rw(e, &self->buf, desc.offset, 512,
				      len - 512));
		EXPECT_EQ(-EFAULT, ring_rw(&e->ring, false, e->fd, 0, len, 512,
					   BASE));
		EXPECT_EQ(-EFAULT, ring_rw(&e->ring, false, e->fd, 0, len - 512,
					   1024, BASE));
		ASSERT_LE(0, dbuf_move(&self->buf));
	}
}

#define GROUP		CGROUP "/dmabuf_shared"

/* 0, or why there is no cgroup with a limit to its memory */
static int group_init(void)
{
	int ret = cgroups_enable("memory");

	if (!ret && mkdir(GROUP, 0755) && errno != EEXIST)
		ret = -errno;
	return ret;
}

/* By a task of the group: 0, or what is wrong */
static int group_register(struct env *e, struct dbuf *b)
{
	struct io_uring_regbuf_desc desc = desc_dbuf(b, e->fd);
	char max[32];
	int i, ret;

	/* the parent's isn't mapped here */
	memset(&e->ring, 0, sizeof(e->ring));
	ret = ring_init(&e->ring, 8, 0);
	if (!ret)
		ret = ring_buffers_sparse(&e->ring, 1);
	if (ret)
		return step_failed("ring", ret);
	ret = put_file("0", GROUP "/cgroup.procs");
	if (ret)
		return step_failed("joining the group", ret);
	/* the table of segments has more than that */
	snprintf(max, sizeof(max), "%lld",
		 read_num(GROUP "/memory.current") + (4 << 20));
	ret = put_file(max, GROUP "/memory.max");
	if (ret)
		return step_failed("memory.max", ret);
	for (i = 0; i < 2; i++) {
		ret = ring_desc(&e->ring, 0, desc);
		if (ret != -ENOMEM)
			return step_failed("not enough memory",
					   ret < 0 ? ret : -EIO);
	}
	if (dbuf_attached(b))
		return step_failed("attached all the same", -EIO);
	ret = put_file("max", GROUP "/memory.max");
	if (ret)
		return step_failed("memory.max again", ret);
	ret = ring_desc(&e->ring, 0, desc);
	if (ret != 1)
		return step_failed("enough memory", ret < 0 ? ret : -EIO);
	return large_rw(e, b, 0, 512, 65536);
}

/* Who hasn't got the memory for the tables is told so, and is none the worse */
TEST_F_TIMEOUT(large, memory_cgroup, LONG_TIMEOUT)
{
	struct env *e = &self->e;
	struct io_uring_regbuf_desc desc = desc_dbuf(&self->buf, e->fd);
	int status, ret;
	pid_t pid;

	if (variant->seg == PRIME)
		return;
	ret = group_init();
	if (ret)
		SKIP(return, "no memory cgroups: %s", strerror(-ret));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(group_register(e, &self->buf) ? 1 : 0);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, rmdir(GROUP));
	ASSERT_EQ(1, ring_desc(&e->ring, 0, desc));
	EXPECT_EQ(0, large_rw(e, &self->buf, 0, 4096, 65536));
}

TEST_HARNESS_MAIN
