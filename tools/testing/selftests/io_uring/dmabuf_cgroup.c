// SPDX-License-Identifier: GPL-2.0
/*
 * READ_FIXED and WRITE_FIXED of dma-bufs that move, in a control group whose I/O
 * is held back.
 *
 * Some controllers have the submitter sleep until there is a budget, and others
 * keep the bio. Neither is anything that the exporter waits for, nor does a
 * request that waits for its budget starve as its memory moves meanwhile. The
 * group gets no more than it may have, and pays for all of it.
 *
 * The drive is a null_blk, or IO_URING_TEST_DRIVE.
 */
#include <signal.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "iou_dmabuf_move.h"
#include "kselftest_harness.h"

#define LEN		4096
#define DEPTH		32
/* where to write to; reads are from BASE */
#define WRITES		(BASE + DEPTH * LEN)

FIXTURE(cgroup) {
	struct env e;
	char dev[32];		/* the drive's number, as the files want it */
	char name[64];		/* of the group */
	char other[64];		/* of one whose I/O is to be faster */
	pid_t reader;
	bool cost;
};

FIXTURE_VARIANT(cgroup) {
	enum { MAX, COST, LATENCY } what;
	struct ring_type type;
	unsigned int limit;	/* bytes a second, both ways together */
	unsigned int depth;
};

FIXTURE_VARIANT_ADD(cgroup, max) {
	.what = MAX,
	.type = TYPE_PLAIN,
	.limit = 96 * 1024,
	.depth = DEPTH,
};

FIXTURE_VARIANT_ADD(cgroup, max_sqpoll) {
	.what = MAX,
	.type = TYPE_SQPOLL,
	.limit = 96 * 1024,
	.depth = DEPTH,
};

FIXTURE_VARIANT_ADD(cgroup, cost) {
	.what = COST,
	.type = TYPE_PLAIN,
	.limit = 12 * 1024,
	.depth = 4,
};

FIXTURE_VARIANT_ADD(cgroup, cost_iowq) {
	.what = COST,
	.type = TYPE_IOWQ,
	.limit = 12 * 1024,
	.depth = 4,
};

FIXTURE_VARIANT_ADD(cgroup, latency) {
	.what = LATENCY,
	.type = TYPE_PLAIN,
	.depth = DEPTH,
};

static int group_init(char *name, size_t size, const char *suffix)
{
	snprintf(name, size, CGROUP "/ioudmabuf%d%s", getpid(), suffix);
	return mkdir(name, 0700) ? -errno : 0;
}

/* The caller, with all threads */
static int group_join(const char *name)
{
	return put_file("0", "%s/cgroup.procs", name);
}

/* What the group has read and written, as far as controllers know */
static unsigned long long group_bytes(const char *name, const char *dev)
{
	unsigned long long rbytes, wbytes, sum = 0;
	char path[128], line[512];
	size_t len = strlen(dev);
	FILE *f;

	snprintf(path, sizeof(path), "%s/io.stat", name);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (!strncmp(line, dev, len) &&
		    sscanf(line + len, " rbytes=%llu wbytes=%llu", &rbytes,
			   &wbytes) == 2)
			sum = rbytes + wbytes;
	}
	if (f)
		fclose(f);
	return sum;
}

static int limit_max(const char *name, const char *dev, unsigned int limit)
{
	char val[128];

	/* each way its own */
	snprintf(val, sizeof(val), "%s rbps=%u wbps=%u", dev, limit / 2,
		 limit / 2);
	return put_file(val, "%s/io.max", name);
}

static int limit_cost(const char *dev, unsigned int limit)
{
	char val[256];
	int ret;

	snprintf(val, sizeof(val),
		 "%s ctrl=user model=linear rbps=%u rseqiops=%u rrandiops=%u wbps=%u wseqiops=%u wrandiops=%u",
		 dev, limit, limit / LEN, limit / LEN, limit, limit / LEN,
		 limit / LEN);
	ret = put_file(val, CGROUP "/io.cost.model");
	if (ret)
		return ret;
	snprintf(val, sizeof(val), "%s enable=1 ctrl=user min=100.00 max=100.00",
		 dev);
	return put_file(val, CGROUP "/io.cost.qos");
}

static int limit_latency(const char *name, const char *dev, unsigned int us)
{
	char val[128];

	snprintf(val, sizeof(val), "%s target=%u", dev, us);
	return put_file(val, "%s/io.latency", name);
}

/* Somebody whose reads take longer than he was promised */
static pid_t reader_start(const char *name, struct env *e)
{
	unsigned char *buf;
	pid_t pid = fork();

	if (pid)
		return pid;
	if (group_join(name) || posix_memalign((void **)&buf, 4096, LEN))
		_exit(1);
	while (pread(e->disk.fd, buf, LEN, 0) == LEN)
		;
	_exit(1);
}

FIXTURE_SETUP(cgroup)
{
	struct disk_conf conf = { .irqmode = "2" };
	struct env *e = &self->e;
	const char *skip;
	struct stat st;
	int ret;

	ret = cgroups_enable("io");
	if (ret == -ENOENT || ret == -ENODEV)
		SKIP(return, "no control groups for I/O: %s", strerror(-ret));
	ASSERT_EQ(0, ret);
	conf.completion_nsec = variant->what == LATENCY ? "400000000" : "100000";
	ret = env_init(e, &variant->type, SCATTERED, 2 * DEPTH, &conf, &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));

	ASSERT_EQ(0, fstat(e->fd, &st));
	snprintf(self->dev, sizeof(self->dev), "%u:%u", major(st.st_rdev),
		 minor(st.st_rdev));
	ASSERT_EQ(0, group_init(self->name, sizeof(self->name), ""));
	switch (variant->what) {
	case MAX:
		ret = limit_max(self->name, self->dev, variant->limit);
		break;
	case COST:
		ret = limit_cost(self->dev, variant->limit);
		self->cost = !ret;
		break;
	case LATENCY:
		ASSERT_EQ(0, group_init(self->other, sizeof(self->other), "o"));
		ret = limit_latency(self->name, self->dev, 10000000);
		if (!ret)
			ret = limit_latency(self->other, self->dev, 10);
		break;
	}
	if (ret == -ENOENT)
		SKIP(return, "the controller isn't there");
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(cgroup)
{
	char val[64];

	group_join(CGROUP);
	if (self->reader > 0) {
		kill(self->reader, SIGKILL);
		waitpid(self->reader, NULL, 0);
	}
	/* a drive that is deleted first is freed with work pending, in 7.3 */
	if (self->other[0]) {
		limit_latency(self->name, self->dev, 0);
		limit_latency(self->other, self->dev, 0);
		usleep(100000);
	}
	if (self->cost) {
		snprintf(val, sizeof(val), "%s enable=0", self->dev);
		put_file(val, CGROUP "/io.cost.qos");
	}
	env_exit(&self->e);
	if (self->name[0])
		rmdir(self->name);
	if (self->other[0])
		rmdir(self->other);
}

/*
 * Slots with an even number read what the drive has had from the beginning, the
 * others write something new each time. The CPU's side of the data is the
 * dma-buf alone: to look at the drive would cost the group something.
 */
static int slot_next(struct env *e, unsigned int i, unsigned int gen)
{
	struct io_uring_sqe *sqe;
	bool write = i & 1;
	int ret;

	if (write)
		fill_pattern(e->mem, LEN, gen * 1000 + i);
	else
		memset(e->mem, POISON, LEN);
	ret = dbuf_write(&e->buf, e->mem, LEN, i * LEN);
	if (ret)
		return ret;
	sqe = ring_fixed(&e->ring, write, e->fd, 0, i * LEN, LEN,
			 (write ? WRITES : BASE) + i * LEN);
	sqe->flags = e->sqe_flags;
	sqe->user_data = i;
	return 0;
}

static bool slot_has_read(struct env *e, unsigned int i)
{
	size_t k;

	if (dbuf_read(&e->buf, e->mem, LEN, i * LEN))
		return false;
	for (k = 0; k < LEN; k++)
		if (e->mem[k] != pattern(BASE + i * LEN + k, DISK_SEED))
			return false;
	return true;
}

TEST_F_TIMEOUT(cgroup, moves, LONG_TIMEOUT)
{
	unsigned int i, flying = 0, gen[DEPTH] = {};
	unsigned long long done = 0, rate;
	struct env *e = &self->e;
	struct mover m;
	__u64 start, end;

	ASSERT_EQ(0, disk_pattern(e, BASE, DEPTH * LEN, DISK_SEED));
	ASSERT_EQ(0, disk_set(e, DISK_POISON, WRITES, DEPTH * LEN));
	ASSERT_EQ(0, group_join(self->name));
	if (variant->what == LATENCY) {
		self->reader = reader_start(self->other, e);
		ASSERT_LT(0, self->reader);
	}
	ASSERT_EQ(0, mover_start(&m, &e->buf, 2000));

	start = now_us();
	end = now_ms() + run_ms(variant->what == LATENCY ? 8000 : 4000);
	for (; flying < variant->depth; flying++)
		ASSERT_EQ(0, slot_next(e, flying, 0));
	ASSERT_EQ(flying, ring_submit(&e->ring));
	while (flying) {
		struct io_uring_cqe cqe;

		ASSERT_EQ(0, ring_wait(&e->ring, &cqe));
		flying--;
		i = cqe.user_data;
		ASSERT_EQ(LEN, cqe.res);
		done += LEN;
		if (!(i & 1))
			ASSERT_TRUE(slot_has_read(e, i));
		if (now_ms() >= end)
			continue;
		ASSERT_EQ(0, slot_next(e, i, ++gen[i]));
		ASSERT_EQ(1, ring_submit(&e->ring));
		flying++;
	}
	rate = done * 1000000 / (now_us() - start);
	ASSERT_EQ(0, mover_stop(&m));
	TH_LOG("%llu bytes/s of %u, %u moves, at most %d us", rate, variant->limit,
	       m.moves, m.worst_us);
	/* an emulated drive takes part of that */
	EXPECT_GT(getenv("IO_URING_TEST_DRIVE") ? BUSY_MOVE_US : MOVE_US,
		  m.worst_us);
	EXPECT_LT(0, m.moves);
	if (variant->limit) {
		EXPECT_GT(variant->limit * 3 / 2, rate);
		EXPECT_LT(variant->limit / 20, rate);
	}
	EXPECT_LE(done, group_bytes(self->name, self->dev));

	ASSERT_EQ(0, group_join(CGROUP));
	for (i = 1; i < variant->depth; i += 2) {
		ASSERT_EQ(0, disk_read(&e->disk, e->mem, LEN, WRITES + i * LEN));
		EXPECT_EQ(LEN, check_pattern(e->mem, LEN, gen[i] * 1000 + i));
		EXPECT_TRUE(disk_holds(e, DISK_POISON, WRITES + (i - 1) * LEN,
				       LEN));
	}
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

TEST_HARNESS_MAIN
