// SPDX-License-Identifier: GPL-2.0
/*
 * READ_FIXED and WRITE_FIXED of dma-bufs, and NVMe drives that have bad luck.
 *
 * A controller that is reset, that hangs or that loses an interrupt costs time,
 * but no request and no byte. If it goes, then requests fail, nothing stays mapped
 * for it, and the ring goes on with the drive that comes in its place. All that
 * time the exporter moves the memory and never waits for longer than the driver
 * takes to get rid of a command.
 *
 * IO_URING_TEST_DRIVE is the drive, a namespace of a PCIe controller that nothing
 * else uses: IO_URING_TEST_DRIVE=/dev/nvme1n1 ./dmabuf_nvme. Its first 64 MiB are
 * overwritten. The test paths.* is for a drive that has two controllers, the
 * others are for one that has one; slot.* is for one in a slot that can be
 * switched off, and doesn't switch it on again. suspend.* suspends all devices of
 * the machine, and had better not be on one that doesn't come back from that.
 */
#include <glob.h>
#include <libgen.h>
#include <limits.h>

#include "iou_dmabuf_move.h"
#include "kselftest_harness.h"

#define PCI		"/sys/bus/pci/devices/"
#define PCI_COMMAND	4
#define PCI_MASTER	4

/* Requests are longer than two pages, which need no list of pages */
#define LEN		(3 * 4096 + BLOCK)
#define DEPTH		32
#define DEEP		256
/* Memory that moves faster than it can be mapped is of no use to anybody */
#define MOVE_PAUSE_US	200000
/* How long a command may take, and then so long until its controller is reset */
#define IO_TIMEOUT	"1000"
/*
 * A move waits for a command that doesn't return, for that to be aborted, and for
 * the reset: up to two seconds each, and as much again for a slow emulator
 */
#define RESET_US	12000000
/* What the driver waits for commands before it resets their controller */
#define MOVE_WAIT_US	30000000

/* ---------------------------------------------------------------- drives */

/* A namespace, by where its controller is: its name changes when it comes back */
struct nvme {
	char		pci[16];	/* 0000:00:04.0 */
	unsigned int	nsid;
};

/* The file that fits, or -errno */
static int find_file(char *path, const char *fmt, ...)
{
	char pattern[256];
	int ret = -ENOENT;
	va_list ap;
	glob_t g;

	va_start(ap, fmt);
	vsnprintf(pattern, sizeof(pattern), fmt, ap);
	va_end(ap);
	if (!glob(pattern, 0, NULL, &g)) {
		ret = snprintf(path, PATH_MAX, "%s", g.gl_pathv[0]) >= PATH_MAX ?
		      -ENAMETOOLONG : 0;
		globfree(&g);
	}
	return ret;
}

/* The controller of @dev, 0 or -errno */
static int nvme_init(struct nvme *n, const char *dev)
{
	char link[64], path[PATH_MAX];

	n->nsid = read_num("/sys/class/block/%s/nsid", strrchr(dev, '/') + 1);
	snprintf(link, sizeof(link), "/sys/class/block/%s/device/device",
		 strrchr(dev, '/') + 1);
	if (!realpath(link, path))
		return -errno;
	snprintf(n->pci, sizeof(n->pci), "%.15s", basename(path));
	snprintf(link, sizeof(link), PCI "%s", n->pci);
	return access(link, F_OK) ? -errno : 0;
}

/* An attribute of the controller */
static int nvme_put(const struct nvme *n, const char *attr, const char *val)
{
	char path[PATH_MAX];
	int ret = find_file(path, PCI "%s/nvme/nvme*/%s", n->pci, attr);

	return ret ? ret : put_file(val, "%s", path);
}

/* Where the namespace is in sysfs; its number is no part of that name */
static int nvme_find_ns(const struct nvme *n, char *path)
{
	char pattern[64];
	int ret = -ENOENT;
	unsigned int i;
	glob_t g;

	snprintf(pattern, sizeof(pattern), PCI "%s/nvme/nvme*/nvme*n*", n->pci);
	if (glob(pattern, 0, NULL, &g))
		return ret;
	for (i = 0; i < g.gl_pathc && ret; i++)
		if (read_num("%s/nsid", g.gl_pathv[i]) == n->nsid)
			ret = snprintf(path, PATH_MAX, "%s", g.gl_pathv[i]) < 0;
	globfree(&g);
	return ret;
}

/* An attribute of the namespace */
static int nvme_put_ns(const struct nvme *n, const char *attr, const char *val)
{
	char path[PATH_MAX];
	int ret = nvme_find_ns(n, path);

	return ret ? ret : put_file(val, "%s/%s", path, attr);
}

/* What the drive is called now, 0 or -errno */
static int nvme_name(const struct nvme *n, char *dev, size_t size)
{
	__u64 end = now_ms() + WAIT_MS;
	char path[PATH_MAX];
	int ret;

	do {
		ret = nvme_find_ns(n, path);
		if (!ret) {
			snprintf(dev, size, "/dev/%.32s", basename(path));
			return 0;
		}
		usleep(5000);
	} while (now_ms() < end);
	return ret;
}

/* Make the drive that is there now the one of @e */
static int nvme_use(const struct nvme *n, struct env *e)
{
	char dev[40];
	int ret = nvme_name(n, dev, sizeof(dev));

	if (!ret)
		ret = disk_use(&e->disk, dev);
	if (ret)
		return ret;
	e->fd = disk_open(&e->disk, O_RDWR | O_DIRECT);
	return e->fd < 0 ? e->fd : 0;
}

/* The drive of all tests, which may have got another name from one of them */
static struct nvme the_drive;

__attribute__((constructor))
static void find_the_drive(void)
{
	const char *drive = getenv("IO_URING_TEST_DRIVE");

	if (drive && strchr(drive, '/'))
		nvme_init(&the_drive, drive);
}

/* 0, or -errno and why the test is skipped */
static int nvme_env(struct env *e, struct nvme *n, const struct ring_type *type,
		    const char **skip)
{
	char dev[40];
	int ret;

	*n = the_drive;
	*skip = NULL;
	if (!n->pci[0]) {
		*skip = "no IO_URING_TEST_DRIVE with one controller";
		return -ENODEV;
	}
	ret = nvme_name(n, dev, sizeof(dev));
	if (ret)
		return ret;
	setenv("IO_URING_TEST_DRIVE", dev, 1);
	return env_init(e, type, SCATTERED, DEPTH * LEN / page_size(), NULL, skip);
}

static int pci_rescan(void)
{
	return put_file("1", "/sys/bus/pci/rescan");
}

/* ---------------------------------------------------------------- one drive */

FIXTURE(nvme) {
	struct env e;
	struct nvme n;
};

FIXTURE_VARIANT(nvme) {
	struct ring_type type;
};

FIXTURE_VARIANT_ADD(nvme, defer) {
	.type = TYPE_DEFER,
};

FIXTURE_VARIANT_ADD(nvme, iopoll) {
	.type = TYPE_IOPOLL,
};

FIXTURE_SETUP(nvme)
{
	struct env *e = &self->e;
	const char *skip;
	int ret;

	ret = nvme_env(e, &self->n, &variant->type, &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
}

FIXTURE_TEARDOWN(nvme)
{
	env_exit(&self->e);
}

/* Somebody who does the same thing to the drive again and again */
struct vandal {
	const struct nvme *n;
	int		(*act)(const struct nvme *n);
	unsigned int	pause_ms;
	pthread_t	thread;
	int		stop;
	int		err;
	unsigned int	acts;
};

static void *vandal_thread(void *arg)
{
	struct vandal *v = arg;
	__u64 start;

	while (!__atomic_load_n(&v->stop, __ATOMIC_ACQUIRE)) {
		usleep(v->pause_ms * 1000);
		start = now_us();
		v->err = v->act(v->n);
		if (v->err)
			break;
		__atomic_add_fetch(&v->acts, 1, __ATOMIC_RELAXED);
		/* so that there is something to disturb the next time */
		usleep(now_us() - start);
	}
	return NULL;
}

static int vandal_start(struct vandal *v, const struct nvme *n,
			int (*act)(const struct nvme *n), unsigned int pause_ms)
{
	memset(v, 0, sizeof(*v));
	v->n = n;
	v->act = act;
	v->pause_ms = pause_ms;
	return -pthread_create(&v->thread, NULL, vandal_thread, v);
}

static int vandal_stop(struct vandal *v)
{
	__atomic_store_n(&v->stop, 1, __ATOMIC_RELEASE);
	pthread_join(v->thread, NULL);
	return v->err;
}

static int act_reset(const struct nvme *n)
{
	return nvme_put(n, "reset_controller", "1");
}

static int act_rescan(const struct nvme *n)
{
	return nvme_put(n, "rescan_controller", "1");
}

static bool nvme_live(const struct nvme *n)
{
	char path[PATH_MAX], state[16] = "";
	FILE *f;

	if (find_file(path, PCI "%s/nvme/nvme*/state", n->pci))
		return false;
	f = fopen(path, "r");
	if (!f)
		return false;
	if (fscanf(f, "%15s", state) != 1)
		state[0] = '\0';
	fclose(f);
	return !strcmp(state, "live");
}

/*
 * The controller can't reach memory any more. It fails, but who doesn't wait for
 * it doesn't know; its reset makes up for it.
 */
static int act_cut_off(const struct nvme *n)
{
	__u64 end = now_ms() + WAIT_MS;
	char path[64];
	int fd, ret = 0;
	__u16 cmd;

	snprintf(path, sizeof(path), PCI "%s/config", n->pci);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return step_failed("no configuration space", -errno);
	if (pread(fd, &cmd, sizeof(cmd), PCI_COMMAND) != sizeof(cmd))
		ret = step_failed("read of PCI_COMMAND", -EIO);
	cmd &= ~PCI_MASTER;
	if (!ret && pwrite(fd, &cmd, sizeof(cmd), PCI_COMMAND) != sizeof(cmd))
		ret = step_failed("write of PCI_COMMAND", -EIO);
	while (!ret) {
		usleep(50000);
		if (pread(fd, &cmd, sizeof(cmd), PCI_COMMAND) != sizeof(cmd))
			ret = step_failed("read of PCI_COMMAND again", -EIO);
		else if ((cmd & PCI_MASTER) && nvme_live(n))
			break;
		else if (now_ms() >= end)
			ret = step_failed("it stays cut off", -ETIME);
	}
	close(fd);
	return ret;
}

#define FAIL_IO		"/sys/kernel/debug/fail_io_timeout/"

/* The next three completions are never seen, and their commands time out */
static int act_lose(const struct nvme *n)
{
	int ret = nvme_put_ns(n, "queue/io_timeout", IO_TIMEOUT);

	if (!ret)
		ret = nvme_put_ns(n, "io-timeout-fail", "1");
	if (!ret)
		ret = put_file("0", FAIL_IO "verbose");
	if (!ret)
		ret = put_file("100", FAIL_IO "probability");
	return ret ? ret : put_file("3", FAIL_IO "times");
}

/* Verified data, a mover, and a vandal who gets to do it twice, at the same time */
static void rough_traffic(struct __test_metadata *_metadata, struct env *e,
			  const struct nvme *n,
			  int (*act)(const struct nvme *n),
			  unsigned int pause_ms, unsigned int ms)
{
	__u64 end = now_ms() + 2 * WAIT_MS;
	unsigned int ops = 0;
	struct vandal v;
	struct mover m;
	int ret;

	ASSERT_EQ(0, mover_start(&m, &e->buf, MOVE_PAUSE_US));
	ASSERT_EQ(0, vandal_start(&v, n, act, pause_ms));
	do {
		ret = traffic(e, DEPTH, LEN, ms);
		if (ret > 0)
			ops += ret;
	} while (ret > 0 && now_ms() < end &&
		 __atomic_load_n(&v.acts, __ATOMIC_RELAXED) < 2);
	ASSERT_EQ(0, vandal_stop(&v));
	ASSERT_EQ(0, mover_stop(&m));
	TH_LOG("%u requests, %u moves, at most %d us, %u acts", ops, m.moves,
	       m.worst_us, v.acts);
	ASSERT_LT(0, ret);
	EXPECT_LT(0, m.moves);
	EXPECT_LE(2, v.acts);
	EXPECT_GT(RESET_US, m.worst_us);
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

#define ROUGH_TRAFFIC(...)	rough_traffic(_metadata, &self->e, &self->n, __VA_ARGS__)

TEST_F_TIMEOUT(nvme, traffic, LONG_TIMEOUT)
{
	size_t size = DEEP * LEN;
	struct env *e = &self->e;
	struct mover m;
	int ops;

	dbuf_exit(&e->buf);
	ASSERT_EQ(0, dbuf_init(&e->buf, size, SCATTERED));
	e->mem = realloc(e->mem, size);
	ASSERT_NE(NULL, e->mem);
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	ASSERT_EQ(0, mover_start(&m, &e->buf, MOVE_PAUSE_US));
	ops = traffic(e, DEEP, LEN, run_ms(2000));
	ASSERT_EQ(0, mover_stop(&m));
	TH_LOG("%d requests, %u moves, at most %d us", ops, m.moves, m.worst_us);
	ASSERT_LE(DEEP, ops);
	EXPECT_LT(0, m.moves);
	EXPECT_GT(RESET_US, m.worst_us);
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

TEST_F_TIMEOUT(nvme, reset, LONG_TIMEOUT)
{
	ROUGH_TRAFFIC(act_reset, 100, run_ms(2500));
}

TEST_F_TIMEOUT(nvme, rescan, LONG_TIMEOUT)
{
	ROUGH_TRAFFIC(act_rescan, 10, run_ms(1000));
}

TEST_F_TIMEOUT(nvme, cut_off, LONG_TIMEOUT)
{
	ASSERT_EQ(0, nvme_put_ns(&self->n, "queue/io_timeout", IO_TIMEOUT));
	ROUGH_TRAFFIC(act_cut_off, 100, run_ms(2500));
}

/* A move waits for lost commands, who has submitted them doesn't have to wait */
TEST_F_TIMEOUT(nvme, timeout, LONG_TIMEOUT)
{
	unsigned int i, write, nr = DEPTH;
	struct env *e = &self->e;
	int res[DEPTH], us;

	if (access(FAIL_IO "times", F_OK))
		SKIP(return, "kernel can't lose completions");
	for (write = 0; write < 2; write++) {
		if (write) {
			ASSERT_EQ(0, buf_pattern(e, 0, nr * LEN, BUF_SEED));
			ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, nr * LEN));
		} else {
			ASSERT_EQ(0, disk_pattern(e, BASE, nr * LEN, DISK_SEED));
			ASSERT_EQ(0, buf_set(e, POISON, 0, nr * LEN));
		}
		ASSERT_EQ(0, act_lose(&self->n));
		for (i = 0; i < nr; i++)
			ring_fixed(&e->ring, write, e->fd, 0, i * LEN, LEN,
				   BASE + i * LEN)->user_data = i;
		ASSERT_EQ(nr, ring_submit(&e->ring));
		us = dbuf_move(&e->buf);
		TH_LOG("%s: %d us to move", write ? "write" : "read", us);
		EXPECT_LT(0, us);
		EXPECT_GT(RESET_US, us);
		ASSERT_EQ(0, ring_collect(&e->ring, res, nr));
		EXPECT_EQ(0, read_num(FAIL_IO "times"));
		for (i = 0; i < nr; i++)
			EXPECT_EQ(LEN, res[i]);
		if (write) {
			ASSERT_EQ(0, disk_read(&e->disk, e->mem, nr * LEN,
					       BASE));
		} else {
			ASSERT_EQ(0, dbuf_read(&e->buf, e->mem, nr * LEN, 0));
		}
		for (i = 0; i < nr * LEN; i++)
			ASSERT_EQ(write ? pattern(i, BUF_SEED) :
					  pattern(BASE + i, DISK_SEED),
				  e->mem[i]);
		EXPECT_EQ(0, dbuf_lost(&e->buf));
	}
}

/* So it does if they have all the time that there is: but not for so long */
TEST_F_TIMEOUT(nvme, stopped, LONG_TIMEOUT)
{
	unsigned int i, nr = DEPTH;
	struct env *e = &self->e;
	int res[DEPTH], us;

	if (access(FAIL_IO "times", F_OK))
		SKIP(return, "kernel can't lose completions");
	ASSERT_EQ(0, disk_pattern(e, BASE, nr * LEN, DISK_SEED));
	ASSERT_EQ(0, buf_set(e, POISON, 0, nr * LEN));
	ASSERT_EQ(0, act_lose(&self->n));
	ASSERT_EQ(0, nvme_put_ns(&self->n, "queue/io_timeout", "600000"));
	for (i = 0; i < nr; i++)
		ring_fixed(&e->ring, false, e->fd, 0, i * LEN, LEN,
			   BASE + i * LEN)->user_data = i;
	ASSERT_EQ(nr, ring_submit(&e->ring));
	us = dbuf_move(&e->buf);
	EXPECT_EQ(0, nvme_put_ns(&self->n, "queue/io_timeout", "30000"));
	TH_LOG("%d us to move", us);
	EXPECT_LT(MOVE_WAIT_US / 2, us);
	EXPECT_GT(MOVE_WAIT_US + RESET_US, us);
	ASSERT_EQ(0, ring_collect(&e->ring, res, nr));
	EXPECT_EQ(0, read_num(FAIL_IO "times"));
	for (i = 0; i < nr; i++)
		EXPECT_EQ(LEN, res[i]);
	ASSERT_EQ(0, dbuf_read(&e->buf, e->mem, nr * LEN, 0));
	for (i = 0; i < nr * LEN; i++)
		ASSERT_EQ(pattern(BASE + i, DISK_SEED), e->mem[i]);
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* The drive goes with requests in flight, while the memory moves */
static void lose_drive(struct __test_metadata *_metadata, struct env *e,
		       const struct nvme *n, int (*act)(const struct nvme *n),
		       struct mover *m)
{
	unsigned int i, nr = DEPTH;
	int res[DEPTH];

	ASSERT_EQ(0, mover_start(m, &e->buf, 300));
	for (i = 0; i < nr; i++)
		ring_fixed(&e->ring, i & 1, e->fd, 0, i * LEN, LEN,
			   BASE + i * LEN)->user_data = i;
	ASSERT_EQ(nr, ring_submit(&e->ring));
	ASSERT_EQ(0, act(n));
	EXPECT_EQ(0, dbuf_attached(&e->buf));
	EXPECT_EQ(0, dbuf_mapped(&e->buf));
	ASSERT_EQ(0, ring_collect(&e->ring, res, nr));
	for (i = 0; i < nr; i++) {
		/* all of it, or an error; but none that asks to try again */
		if (res[i] != LEN)
			EXPECT_GE(0, res[i]);
		EXPECT_NE(-ESTALE, res[i]);
		EXPECT_NE(-EAGAIN, res[i]);
	}
	EXPECT_GE(0, rw(e, false, 0, LEN, BASE));
	EXPECT_GT(0, rw(e, true, 0, LEN, BASE));
	EXPECT_EQ(-ENODEV, ring_dbuf(&e->ring, 1, &e->buf, e->fd));
	ASSERT_EQ(0, mover_stop(m));
	EXPECT_EQ(0, dbuf_attached(&e->buf));
}

static void lose_and_find(struct __test_metadata *_metadata, struct env *e,
			  const struct nvme *n,
			  int (*lose)(const struct nvme *n),
			  int (*find)(const struct nvme *n), unsigned int setup)
{
	struct span s = { .off = 3 * 512, .len = LEN, .pos = BASE };
	struct io_uring_regbuf_desc empty = {};
	unsigned int round;
	struct mover m;

	for (round = 0; round < 3; round++) {
		lose_drive(_metadata, e, n, lose, &m);
		/* what is left of the registration can go before and after */
		if (round == 0) {
			EXPECT_EQ(1, ring_desc(&e->ring, 0, empty));
		} else if (round == 1) {
			ring_exit(&e->ring);
			ASSERT_EQ(0, ring_init(&e->ring, RING_ENTRIES, setup));
			ASSERT_EQ(0, ring_buffers_sparse(&e->ring, NR_BUFS));
		}
		close(e->fd);
		disk_exit(&e->disk);
		ASSERT_EQ(0, find(n));
		ASSERT_EQ(0, nvme_use(n, e));
		if (round == 2)
			/* it is another drive */
			EXPECT_EQ(-EBADF, rw(e, true, 0, 4096, BASE));
		ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
		EXPECT_EQ(0, span_write(e, &s));
		EXPECT_EQ(0, span_read(e, &s));
	}
	ring_exit(&e->ring);
	EXPECT_TRUE(dbuf_free_within(&e->buf, WAIT_MS));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

static int act_remove(const struct nvme *n)
{
	return put_file("1", PCI "%s/remove", n->pci);
}

static int act_find(const struct nvme *n)
{
	return pci_rescan();
}

TEST_F_TIMEOUT(nvme, remove, LONG_TIMEOUT)
{
	lose_and_find(_metadata, &self->e, &self->n, act_remove, act_find,
		      variant->type.setup);
}

static int act_unbind(const struct nvme *n)
{
	return put_file(n->pci, "/sys/bus/pci/drivers/nvme/unbind");
}

static int act_bind(const struct nvme *n)
{
	return put_file(n->pci, "/sys/bus/pci/drivers/nvme/bind");
}

TEST_F_TIMEOUT(nvme, unbind, LONG_TIMEOUT)
{
	lose_and_find(_metadata, &self->e, &self->n, act_unbind, act_bind,
		      variant->type.setup);
}

/* A drive that has lost a completion is removed before anybody notices that */
TEST_F_TIMEOUT(nvme, remove_stuck, LONG_TIMEOUT)
{
	if (access(FAIL_IO "times", F_OK))
		SKIP(return, "kernel can't lose completions");
	ASSERT_EQ(0, act_lose(&self->n));
	lose_and_find(_metadata, &self->e, &self->n, act_remove, act_find,
		      variant->type.setup);
	ASSERT_EQ(0, put_file("0", FAIL_IO "times"));
}

/* ---------------------------------------------------------------- many */

FIXTURE(many) {
	struct env e;
	struct nvme n;
};

FIXTURE_SETUP(many)
{
	static const struct ring_type plain = TYPE_PLAIN;
	struct env *e = &self->e;
	const char *skip;
	int ret;

	ret = nvme_env(e, &self->n, &plain, &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
	dbuf_exit(&e->buf);
	ASSERT_EQ(0, dbuf_init(&e->buf, 16 * page_size(), SCATTERED));
}

FIXTURE_TEARDOWN(many)
{
	env_exit(&self->e);
}

#define DMA_API		"/sys/kernel/debug/dma-api/"

/* DMA mappings that there are, whoever has them; -1 if nobody counts them */
static long long dma_mappings(void)
{
	long long total = read_num(DMA_API "nr_total_entries");

	return total < 0 ? -1 : total - read_num(DMA_API "num_free_entries");
}

static long long kernel_memory(void)
{
	long long kb = 0, n;
	char line[128];
	FILE *f = fopen("/proc/meminfo", "r");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "SUnreclaim: %lld", &n) == 1 ||
		    sscanf(line, "Percpu: %lld", &n) == 1 ||
		    sscanf(line, "VmallocUsed: %lld", &n) == 1)
			kb += n;
	if (f)
		fclose(f);
	return kb;
}

/* Ten thousand of them leave nothing behind */
TEST_F_TIMEOUT(many, registrations, 2 * LONG_TIMEOUT)
{
	unsigned int i, nr = 10000, warm = 500;
	struct io_uring_regbuf_desc empty = {};
	struct test_dmabuf_stats stats;
	struct env *e = &self->e;
	long long dma = 0, kb = 0;
	__u64 start = 0;

	for (i = 0; i < nr + warm; i++) {
		if (i == warm) {
			dma = dma_mappings();
			kb = kernel_memory();
			start = now_ms();
		}
		ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
		if (i % 100 == 0)
			ASSERT_EQ(4 * 4096, rw(e, i & 1, 0, 4 * 4096, BASE));
		ASSERT_EQ(1, ring_desc(&e->ring, 0, empty));
	}
	EXPECT_EQ(dma, dma_mappings());
	kb = kernel_memory() - kb;
	TH_LOG("%u registrations in %llu ms, kernel memory %+lld kB", nr,
	       (unsigned long long)(now_ms() - start), kb);
	/* a page of a list each would be 40 MB */
	EXPECT_GT(20000, kb);
	stats = dbuf_stats(&e->buf);
	EXPECT_EQ(nr + warm, stats.maps);
	EXPECT_EQ(nr + warm, stats.unmaps);
	EXPECT_EQ(nr + warm, stats.detaches);
}

/* ---------------------------------------------------------------- exporters */

/* The last page of all takes the place of a pointer in the list of pages */
#define LIST		511
#define LIST_PAGES	(2 * LIST + 1)
#define WINDOW		3

FIXTURE(exporter) {
	struct env e;
	long long huge;
};

FIXTURE_VARIANT(exporter) {
	enum exporter exp;
};

FIXTURE_VARIANT_ADD(exporter, udmabuf) {
	.exp = UDMABUF,
};

FIXTURE_VARIANT_ADD(exporter, udmabuf_huge) {
	.exp = UDMABUF_HUGE,
};

FIXTURE_VARIANT_ADD(exporter, heap) {
	.exp = HEAP,
};

FIXTURE_VARIANT_ADD(exporter, heap_cma) {
	.exp = HEAP_CMA,
};

FIXTURE_VARIANT_ADD(exporter, contiguous) {
	.exp = CONTIGUOUS,
};

FIXTURE_VARIANT_ADD(exporter, scattered) {
	.exp = SCATTERED,
};

FIXTURE_VARIANT_ADD(exporter, mixed) {
	.exp = MIXED,
};

#define HUGE_PAGES	"/proc/sys/vm/nr_hugepages"

FIXTURE_SETUP(exporter)
{
	static const struct ring_type plain = TYPE_PLAIN;
	struct env *e = &self->e;
	const char *skip;
	int ret;

	if (!getenv("IO_URING_TEST_DRIVE"))
		SKIP(return, "no IO_URING_TEST_DRIVE");
	self->huge = read_num(HUGE_PAGES);
	if (variant->exp == UDMABUF_HUGE && self->huge < 4)
		ASSERT_EQ(0, put_file("4", HUGE_PAGES));
	ret = env_init(e, &plain, variant->exp, LIST_PAGES, NULL, &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	/* memory is in use, or what the pages are of is for CMA: that isn't pinned */
	if (variant->exp == UDMABUF_HUGE && ret == -ENOMEM)
		SKIP(return, "no huge pages, reserve some at boot");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
}

FIXTURE_TEARDOWN(exporter)
{
	char num[24];

	env_exit(&self->e);
	if (variant->exp == UDMABUF_HUGE) {
		snprintf(num, sizeof(num), "%lld", self->huge);
		put_file(num, HUGE_PAGES);
	}
}

/* Where a list of pages, or a page of it, begins and ends */
TEST_F_TIMEOUT(exporter, lists, LONG_TIMEOUT)
{
	struct env *e = &self->e;
	size_t ps = page_size();
	unsigned int end = e->buf.size / ps - 1, i, j;
	const struct {
		unsigned int first, last;
	} pages[] = {
		{ 0, 0 }, { 0, 1 }, { 0, 2 }, { 1, 3 },
		{ LIST - 3, LIST }, { LIST - 2, LIST + 1 }, { LIST - 1, LIST },
		{ LIST - 1, LIST + 2 }, { LIST, LIST + 3 },
		{ LIST + 1, LIST + 4 }, { 2 * LIST - 3, 2 * LIST },
		{ end - 4, end }, { 1, LIST }, { LIST - 1, 2 * LIST },
		{ 0, end },
	};

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		for (j = 0; j < 4; j++) {
			size_t off = pages[i].first * ps + (j & 1) * 512;
			struct span s = {
				.off = off, .pos = BASE + i * BLOCK,
				.len = pages[i].last * ps - off +
				       (j & 2 ? ps - 512 : ps),
			};

			ASSERT_EQ(0, span_write(e, &s)) {
				span_print("write", &s, 0);
			}
			ASSERT_EQ(0, span_read(e, &s)) {
				span_print("read", &s, 0);
			}
			/* the long ones take their time */
			if (s.len > 64 * ps)
				break;
		}
	}
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* The same in a window, whose list is another */
TEST_F_TIMEOUT(exporter, window, LONG_TIMEOUT)
{
	struct env *e = &self->e;
	size_t ps = page_size(), start = WINDOW * ps;
	struct io_uring_regbuf_desc desc = desc_dbuf(&e->buf, e->fd);
	unsigned int first;

	desc.offset = start;
	desc.size = (LIST + 8) * ps;
	ASSERT_EQ(1, ring_desc(&e->ring, 1, desc));
	for (first = LIST - 4; first <= LIST + 3; first++) {
		size_t off = first * ps + 512;
		struct span s = {
			.off = start + off, .len = 4 * ps, .pos = BASE,
		};

		ASSERT_EQ(0, buf_pattern(e, s.off, s.len, BUF_SEED));
		ASSERT_EQ(0, disk_set(e, DISK_POISON, s.pos - 4096,
				      s.len + 8192));
		EXPECT_EQ(s.len, ring_rw(&e->ring, true, e->fd, 1, off, s.len,
					 s.pos));
		EXPECT_TRUE(disk_got(e, &s, BUF_SEED));
		ASSERT_EQ(0, disk_pattern(e, s.pos, s.len, DISK_SEED));
		ASSERT_EQ(0, buf_set(e, POISON, s.off - 4096, s.len + 8192));
		EXPECT_EQ(s.len, ring_rw(&e->ring, false, e->fd, 1, off, s.len,
					 s.pos));
		EXPECT_TRUE(buf_got(e, &s, DISK_SEED));
	}
	EXPECT_EQ(-EFAULT, ring_rw(&e->ring, false, e->fd, 1, desc.size - 512,
				   1024, BASE));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/*
 * Reads of the dma-buf, of registered and of any memory, one after the other in
 * one batch, which the driver is given at once
 */
TEST_F_TIMEOUT(exporter, batch, LONG_TIMEOUT)
{
	unsigned int i, nr = 24, round;
	static const size_t lens[] = { 512, 8192, 20480 };
	struct env *e = &self->e;
	unsigned char *ordinary;
	size_t j, max = 20480;

	ordinary = mmap(NULL, nr * max, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, ordinary);
	ASSERT_EQ(1, ring_desc(&e->ring, 1, (struct io_uring_regbuf_desc) {
		.type = IO_REGBUF_TYPE_UADDR, .uaddr = u64_ptr(ordinary),
		.size = nr * max,
	}));
	ASSERT_EQ(0, disk_pattern(e, BASE, nr * max, DISK_SEED));
	for (round = 0; round < 3; round++) {
		size_t len = lens[round];
		int res[24];

		ASSERT_EQ(0, buf_set(e, POISON, 0, nr * max));
		memset(ordinary, POISON, nr * max);
		for (i = 0; i < nr; i++) {
			struct io_uring_sqe *sqe;
			__u64 mem = u64_ptr(ordinary + i * max);

			if (i % 3 == 2) {
				sqe = ring_sqe(&e->ring, IORING_OP_READ);
				sqe->fd = e->fd;
				sqe->addr = mem;
				sqe->len = len;
				sqe->off = BASE + i * max;
			} else {
				sqe = ring_fixed(&e->ring, false, e->fd, i % 3,
						 i % 3 ? mem : i * max, len,
						 BASE + i * max);
			}
			sqe->user_data = i;
		}
		ASSERT_EQ(nr, ring_submit(&e->ring));
		ASSERT_EQ(0, ring_collect(&e->ring, res, nr));
		ASSERT_EQ(0, dbuf_read(&e->buf, e->mem, nr * max, 0));
		for (i = 0; i < nr; i++) {
			const unsigned char *got = i % 3 ? ordinary : e->mem;
			const unsigned char *other = i % 3 ? e->mem : ordinary;

			ASSERT_EQ(len, res[i]);
			for (j = 0; j < max; j++)
				ASSERT_EQ(j < len ? pattern(BASE + i * max + j,
							    DISK_SEED) : POISON,
					  got[i * max + j]);
			ASSERT_TRUE(all_bytes(other + i * max, POISON, max));
		}
	}
	munmap(ordinary, nr * max);
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* ---------------------------------------------------------------- checksums */

FIXTURE(checksums) {
	struct env e;
	struct nvme n;
};

FIXTURE_SETUP(checksums)
{
	static const struct ring_type plain = TYPE_PLAIN;
	const char *skip, *drive = getenv("IO_URING_TEST_DRIVE");
	int ret;

	if (!drive)
		SKIP(return, "no IO_URING_TEST_DRIVE");
	ret = env_init(&self->e, &plain, MIXED, LIST_PAGES, NULL, &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, nvme_init(&self->n, drive));
	if (nvme_put_ns(&self->n, "integrity/read_verify", "1"))
		SKIP(return, "%s has no checksums", drive);
}

FIXTURE_TEARDOWN(checksums)
{
	nvme_put_ns(&self->n, "integrity/read_verify", "1");
	nvme_put_ns(&self->n, "integrity/write_generate", "1");
	env_exit(&self->e);
}

/* Nobody could compute them: the CPU doesn't see the data */
TEST_F(checksums, refused)
{
	struct span s = { .off = 3 * 512, .len = 300 * 512, .pos = BASE };
	struct env *e = &self->e;
	struct span all = { .len = e->buf.size, .pos = BASE };
	struct nvme *n = &self->n;

	EXPECT_EQ(-EOPNOTSUPP, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	EXPECT_EQ(0, dbuf_attached(&e->buf));
	ASSERT_EQ(0, nvme_put_ns(n, "integrity/read_verify", "0"));
	EXPECT_EQ(-EOPNOTSUPP, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	ASSERT_EQ(0, nvme_put_ns(n, "integrity/write_generate", "0"));
	/* nobody wants them */
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	EXPECT_EQ(0, span_write(e, &s));
	EXPECT_EQ(0, span_read(e, &s));
	EXPECT_EQ(0, span_write(e, &all));
	EXPECT_EQ(0, span_read(e, &all));
	/* but now */
	ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, 4096));
	ASSERT_EQ(0, buf_set(e, POISON, 0, 4096));
	ASSERT_EQ(0, nvme_put_ns(n, "integrity/read_verify", "1"));
	ASSERT_EQ(0, nvme_put_ns(n, "integrity/write_generate", "1"));
	EXPECT_EQ(-EOPNOTSUPP, rw(e, true, 0, 4096, BASE));
	EXPECT_EQ(-EOPNOTSUPP, rw(e, false, 0, 4096, BASE));
	EXPECT_TRUE(buf_holds(e, POISON, 0, 4096));
	ASSERT_EQ(0, nvme_put_ns(n, "integrity/read_verify", "0"));
	EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE, 4096));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* Metadata that the controller doesn't make itself is in a buffer of 2 MiB */
TEST_F(checksums, limit)
{
	char path[PATH_MAX];
	long long kb, ms;

	ASSERT_EQ(0, nvme_find_ns(&self->n, path));
	kb = read_num("%s/queue/max_hw_dmabuf_sectors_kb", path);
	ms = read_num("%s/metadata_bytes", path);
	ASSERT_LT(0, kb);
	ASSERT_LT(0, ms);
	EXPECT_GE(2 << 20, kb * 2 * ms);
}

/* ---------------------------------------------------------------- bounced */

FIXTURE(bounced) {
	struct env e;
};

FIXTURE_VARIANT(bounced) {
	enum exporter exp;
};

FIXTURE_VARIANT_ADD(bounced, udmabuf) {
	.exp = UDMABUF,
};

FIXTURE_VARIANT_ADD(bounced, heap) {
	.exp = HEAP,
};

FIXTURE_VARIANT_ADD(bounced, contiguous) {
	.exp = CONTIGUOUS,
};

FIXTURE_VARIANT_ADD(bounced, scattered) {
	.exp = SCATTERED,
};

FIXTURE_SETUP(bounced)
{
	static const struct ring_type plain = TYPE_PLAIN;
	const char *skip;
	FILE *cmdline;
	char words[4096] = "";
	int ret;

	cmdline = fopen("/proc/cmdline", "r");
	ASSERT_NE(NULL, cmdline);
	fgets(words, sizeof(words), cmdline);
	fclose(cmdline);
	if (!strstr(words, "swiotlb=force"))
		SKIP(return, "no swiotlb=force");
	ret = env_init(&self->e, &plain, variant->exp, LIST_PAGES, NULL, &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(bounced)
{
	env_exit(&self->e);
}

/* The drive would have a copy, which what the CPU reads and writes isn't in */
TEST_F(bounced, refused)
{
	struct env *e = &self->e;
	unsigned int i;

	for (i = 0; i < 3; i++)
		EXPECT_EQ(-EOPNOTSUPP, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	if (e->buf.dev >= 0) {
		EXPECT_EQ(0, dbuf_stats(&e->buf).attaches);
		EXPECT_EQ(0, dbuf_attached(&e->buf));
	}
	EXPECT_EQ(-EFAULT, rw(e, true, 0, 4096, BASE));
}

/* ---------------------------------------------------------------- two paths */

#define MAX_PATHS	4

FIXTURE(paths) {
	struct env e;
	struct nvme path[MAX_PATHS];
	unsigned int nr;
};

FIXTURE_SETUP(paths)
{
	static const struct ring_type defer = TYPE_DEFER;
	const char *skip, *drive = getenv("IO_URING_TEST_DRIVE");
	struct env *e = &self->e;
	char pattern[128];
	unsigned int i;
	glob_t g;
	int ret;

	if (!drive)
		SKIP(return, "no IO_URING_TEST_DRIVE");
	snprintf(pattern, sizeof(pattern),
		 "/sys/class/block/%s/device/nvme*/address",
		 strrchr(drive, '/') + 1);
	ret = glob(pattern, 0, NULL, &g);
	for (i = 0; !ret && i < g.gl_pathc && i < MAX_PATHS; i++) {
		FILE *f = fopen(g.gl_pathv[i], "r");

		ASSERT_NE(NULL, f);
		ASSERT_EQ(1, fscanf(f, "%15s", self->path[i].pci));
		self->path[i].nsid = 1;
		fclose(f);
		self->nr++;
	}
	if (self->nr < 2)
		SKIP(return, "%s has not several paths", drive);
	globfree(&g);
	ret = env_init(e, &defer, SCATTERED, DEPTH * LEN / page_size(), NULL,
		       &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
}

FIXTURE_TEARDOWN(paths)
{
	env_exit(&self->e);
}

/* One controller goes after the other, and each comes back before the next */
static int act_path(const struct nvme *n)
{
	__u64 end = now_ms() + WAIT_MS;
	static unsigned int turn;
	char path[PATH_MAX];
	int ret;

	n += turn++ & 1;
	ret = act_remove(n);
	if (ret)
		return ret;
	usleep(100000);
	ret = pci_rescan();
	while (!ret && nvme_find_ns(n, path)) {
		if (now_ms() > end)
			return -ETIME;
		usleep(10000);
	}
	/* requests come this way again */
	usleep(300000);
	return ret;
}

static int act_reset_paths(const struct nvme *n)
{
	static unsigned int turn;

	return act_reset(n + (turn++ & 1));
}

TEST_F(paths, attached)
{
	struct env *e = &self->e;
	struct span s = { .off = 3 * 512, .len = LEN, .pos = BASE };

	EXPECT_EQ(self->nr, dbuf_attached(&e->buf));
	EXPECT_EQ(self->nr, dbuf_mapped(&e->buf));
	EXPECT_EQ(0, span_write(e, &s));
	EXPECT_EQ(0, span_read(e, &s));
	ASSERT_LE(0, dbuf_move(&e->buf));
	EXPECT_EQ(0, dbuf_mapped(&e->buf));
	EXPECT_EQ(0, span_write(e, &s));
	EXPECT_EQ(self->nr, dbuf_mapped(&e->buf));
}

/* For all drives that have several paths */
static int put_iopolicy(const char *policy)
{
	unsigned int i;
	int ret = -ENOENT;
	glob_t g;

	if (glob("/sys/class/nvme-subsystem/*/iopolicy", 0, NULL, &g))
		return ret;
	for (i = 0; i < g.gl_pathc; i++)
		ret = put_file(policy, "%s", g.gl_pathv[i]);
	globfree(&g);
	return ret;
}

/* Paths that come later don't ask what has become of the registered file */
TEST_F_TIMEOUT(paths, later, LONG_TIMEOUT)
{
	struct env *e = &self->e;
	struct span s = { .off = 3 * 512, .len = LEN, .pos = BASE };
	int fd = e->fd, flags = fcntl(fd, F_GETFL);
	unsigned int i, j;

	ASSERT_LE(0, flags);
	e->fd = disk_open(&e->disk, O_RDWR | O_DIRECT);
	ASSERT_LE(0, e->fd);
	ASSERT_EQ(0, fcntl(fd, F_SETFL, flags & ~O_DIRECT));
	/* or those that are there get all requests */
	ASSERT_EQ(0, put_iopolicy("round-robin"));
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, act_path(self->path));
		for (j = 0; j < 4; j++) {
			ASSERT_EQ(0, span_write(e, &s));
			ASSERT_EQ(0, span_read(e, &s));
		}
		EXPECT_EQ(self->nr, dbuf_attached(&e->buf));
	}
	ASSERT_EQ(0, put_iopolicy("numa"));
	close(fd);
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/*
 * One path reaches the memory of the exporter's, and the other one doesn't. The
 * exporter moves the memory to where the device that maps it has it, for neither
 * of them all the time.
 */
TEST_F_TIMEOUT(paths, reach, LONG_TIMEOUT)
{
	struct test_dmabuf_create create = { .flags = TEST_DMABUF_FOLLOWS };
	struct env *e = &self->e;
	struct span s = { .off = 3 * 512, .len = LEN, .pos = BASE };
	size_t size = e->buf.size;
	unsigned int i;
	__u64 moves;

	ASSERT_EQ(2, self->nr);
	dbuf_exit(&e->buf);
	ASSERT_EQ(0, dbuf_test(&e->buf, size, create));
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	EXPECT_EQ(2, dbuf_attached(&e->buf));
	EXPECT_EQ(2, dbuf_mapped(&e->buf));
	moves = dbuf_stats(&e->buf).moves;
	ASSERT_EQ(0, put_iopolicy("round-robin"));
	for (i = 0; i < 8; i++) {
		EXPECT_EQ(0, span_write(e, &s));
		EXPECT_EQ(0, span_read(e, &s));
	}
	EXPECT_EQ(moves, dbuf_stats(&e->buf).moves);

	/* those that come later are no better */
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, act_path(self->path));
		EXPECT_EQ(0, span_write(e, &s));
		EXPECT_EQ(0, span_read(e, &s));
		EXPECT_EQ(0, span_write(e, &s));
		EXPECT_EQ(0, span_read(e, &s));
	}
	EXPECT_EQ(2, dbuf_attached(&e->buf));
	EXPECT_EQ(moves, dbuf_stats(&e->buf).moves);

	/*
	 * The one that is there reaches it, the one that comes doesn't: that is
	 * slow, and all that is asked for
	 */
	ASSERT_EQ(0, act_remove(&self->path[1]));
	dbuf_exit(&e->buf);
	ASSERT_EQ(0, dbuf_test(&e->buf, size, create));
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	EXPECT_EQ(1, dbuf_attached(&e->buf));
	EXPECT_EQ(0, span_write(e, &s));
	EXPECT_EQ(0, dbuf_stats(&e->buf).moves);
	ASSERT_EQ(0, pci_rescan());
	for (i = 0; i < 100 && dbuf_attached(&e->buf) != 2; i++) {
		ASSERT_EQ(0, span_write(e, &s));
		ASSERT_EQ(0, span_read(e, &s));
		usleep(20000);
	}
	EXPECT_EQ(2, dbuf_attached(&e->buf));
	for (i = 0; i < 8; i++) {
		EXPECT_EQ(0, span_write(e, &s));
		EXPECT_EQ(0, span_read(e, &s));
	}
	ASSERT_EQ(0, put_iopolicy("numa"));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* All of them are new ones, and no request has met the first before the last */
TEST_F_TIMEOUT(paths, replaced, LONG_TIMEOUT)
{
	struct env *e = &self->e;
	struct span s = { .off = 3 * 512, .len = LEN, .pos = BASE };
	unsigned int i;

	ASSERT_EQ(2, self->nr);
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(0, span_write(e, &s));
		ASSERT_EQ(0, act_path(self->path));
		ASSERT_EQ(0, act_path(self->path));
		EXPECT_EQ(0, dbuf_attached(&e->buf));
		EXPECT_EQ(0, span_write(e, &s));
		EXPECT_EQ(0, span_read(e, &s));
		EXPECT_EQ(self->nr, dbuf_attached(&e->buf));
	}
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

TEST_F_TIMEOUT(paths, reset, LONG_TIMEOUT)
{
	rough_traffic(_metadata, &self->e, self->path, act_reset_paths, 100,
		      run_ms(2000));
}

/* As long as there is a path no request fails, and a new path is found */
TEST_F_TIMEOUT(paths, remove, LONG_TIMEOUT)
{
	rough_traffic(_metadata, &self->e, self->path, act_path, 100,
		      run_ms(4000));
}

/* ---------------------------------------------------------------- hot-plug */

FIXTURE(slot) {
	struct env e;
	struct nvme n;
};

FIXTURE_SETUP(slot)
{
	static const struct ring_type defer = TYPE_DEFER;
	struct env *e = &self->e;
	const char *skip;
	int ret;

	ret = nvme_env(e, &self->n, &defer, &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
}

FIXTURE_TEARDOWN(slot)
{
	env_exit(&self->e);
}

/* The slot's address is that of the drive, without the function */
static int act_power_off(const struct nvme *n)
{
	char addr[32];
	int ret = -ENODEV;
	unsigned int i;
	glob_t g;
	FILE *f;

	if (glob("/sys/bus/pci/slots/*/address", 0, NULL, &g))
		return -ENOENT;
	for (i = 0; i < g.gl_pathc; i++) {
		f = fopen(g.gl_pathv[i], "r");
		if (!f)
			continue;
		if (fscanf(f, "%31s", addr) == 1 &&
		    !strncmp(addr, n->pci, strlen("0000:00:00")))
			ret = put_file("0", "%s/power",
				       dirname(g.gl_pathv[i]));
		fclose(f);
	}
	globfree(&g);
	return ret;
}

TEST_F(slot, power_off)
{
	struct env *e = &self->e;
	struct mover m;

	lose_drive(_metadata, e, &self->n, act_power_off, &m);
	EXPECT_GT(BUSY_MOVE_US, m.worst_us);
	ring_exit(&e->ring);
	EXPECT_TRUE(dbuf_free_within(&e->buf, WAIT_MS));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* ---------------------------------------------------------------- suspend */

FIXTURE(suspend) {
	struct env e;
	struct nvme n;
};

FIXTURE_VARIANT(suspend) {
	struct ring_type type;
};

FIXTURE_VARIANT_ADD(suspend, defer) {
	.type = TYPE_DEFER,
};

FIXTURE_VARIANT_ADD(suspend, sqpoll) {
	.type = TYPE_SQPOLL,
};

FIXTURE_VARIANT_ADD(suspend, iopoll) {
	.type = TYPE_IOPOLL,
};

FIXTURE_SETUP(suspend)
{
	struct env *e = &self->e;
	const char *skip;
	int ret;

	if (access("/sys/power/pm_test", W_OK))
		SKIP(return, "kernel can't try a suspend");
	ret = nvme_env(e, &self->n, &variant->type, &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	ASSERT_EQ(0, put_file("devices", "/sys/power/pm_test"));
	ASSERT_EQ(0, put_file("1", "/sys/module/suspend/parameters/pm_test_delay"));
}

FIXTURE_TEARDOWN(suspend)
{
	put_file("none", "/sys/power/pm_test");
	env_exit(&self->e);
}

/* Tasks are frozen, devices are suspended for a second, all is woken again */
static int act_suspend(const struct nvme *n)
{
	return put_file("freeze", "/sys/power/state");
}

TEST_F_TIMEOUT(suspend, in_flight, LONG_TIMEOUT)
{
	/* who would poll is frozen: only a timeout looks for what is done then */
	if (variant->type.setup & IORING_SETUP_IOPOLL)
		ASSERT_EQ(0, nvme_put_ns(&self->n, "queue/io_timeout",
					 IO_TIMEOUT));
	ROUGH_TRAFFIC(act_suspend, 100, run_ms(2500));
}

TEST_HARNESS_MAIN
