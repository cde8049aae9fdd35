/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What it takes to read and write dma-bufs: null_blk drives, dma-bufs of
 * udmabuf, of heaps and of lib/test_dmabuf.c, and their registration.
 *
 * With IO_URING_TEST_DRIVE=/dev/... in the environment, tests that care for no
 * particular drive use that one, and overwrite its first 64 MiB. It has blocks
 * of 512 bytes.
 */
#ifndef IOU_DMABUF_H
#define IOU_DMABUF_H

#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <linux/nvme_ioctl.h>
#include <linux/udmabuf.h>
#include <stdarg.h>
#include <sys/mount.h>
#include <sys/stat.h>

/*
 * This is a private UAPI to the kernel test module so it isn't exported
 * in the usual include/uapi/... directory.
 */
#include <lib/test_dmabuf_uapi.h>

#include "iou_test.h"

/* libcs older than what the tests need */
#ifndef MFD_ALLOW_SEALING
#define MFD_ALLOW_SEALING	2U
#endif
#ifndef MFD_HUGETLB
#define MFD_HUGETLB		4U
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB		(21U << 26)
#endif
#ifndef F_ADD_SEALS
#define F_ADD_SEALS		1033
#endif
#ifndef F_SEAL_SHRINK
#define F_SEAL_SHRINK		2
#endif

#define CONFIGFS		"/sys/kernel/config"
#define BLOCK			512u
#define HUGE_SIZE		(2u << 20)
#define DISK_POISON		0x3c

/* ---------------------------------------------------------------- drives */

/* 0 or NULL is null_blk's own default, but for memory_backed */
struct disk_conf {
	const char	*irqmode;
	const char	*completion_nsec;
	const char	*max_sectors;
	const char	*cache_size;
	const char	*requeue;	/* percentage of requests to requeue */
	const char	*dmabuf;
	bool		no_memory;	/* stores nothing */
};

/*
 * A drive; @fd is another open file of it for plain O_DIRECT transfers. @name is
 * that of a null_blk, empty for any other drive.
 */
struct disk {
	char		name[32];
	char		path[40];
	int		fd;
};

/* The number that a file has, or -1 */
static inline long long read_num(const char *fmt, ...)
{
	long long num = -1;
	char path[256];
	va_list ap;
	FILE *f;

	va_start(ap, fmt);
	vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	f = fopen(path, "r");
	if (!f)
		return -1;
	if (fscanf(f, "%lli", &num) != 1)
		num = -1;
	fclose(f);
	return num;
}

static inline int put_file(const char *val, const char *fmt, ...)
{
	char path[256];
	ssize_t n;
	va_list ap;
	int fd;

	va_start(ap, fmt);
	vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = write(fd, val, strlen(val));
	if (n < 0)
		n = -errno;
	close(fd);
	return n < 0 ? n : 0;
}

#define CGROUP		"/sys/fs/cgroup"

/* 0, or -ENOENT and the like if there are no groups with such a controller */
static inline int cgroups_enable(const char *controller)
{
	char val[32];
	int ret;

	if (access(CGROUP "/cgroup.procs", F_OK) &&
	    mount("none", CGROUP, "cgroup2", 0, NULL))
		return -errno;
	snprintf(val, sizeof(val), "+%s", controller);
	ret = put_file(val, CGROUP "/cgroup.subtree_control");
	return ret == -EINVAL ? -ENOENT : ret;
}

static inline int disk_put(struct disk *d, const char *attr, const char *val)
{
	int ret;

	if (!val)
		return 0;
	ret = put_file(val, CONFIGFS "/nullb/%s/%s", d->name, attr);
	if (ret)
		fprintf(stderr, "# null_blk's %s=%s: %s\n", attr, val,
			strerror(-ret));
	return ret;
}

/* This kernel has null_blk drives that do I/O with dma-bufs */
static inline bool disk_available(void)
{
	char line[4096] = "";
	bool ret;
	FILE *f;

	if (access(CONFIGFS "/nullb", F_OK))
		mount("configfs", CONFIGFS, "configfs", 0, NULL);
	f = fopen(CONFIGFS "/nullb/features", "r");
	if (!f)
		return false;
	ret = fgets(line, sizeof(line), f) && strstr(line, "dmabuf");
	fclose(f);
	return ret;
}

static inline int disk_open(const struct disk *d, int flags)
{
	__u64 end = now_ms() + WAIT_MS / 2;
	int fd;

	do {
		fd = open(d->path, flags | O_CLOEXEC);
		if (fd >= 0)
			return fd;
		usleep(5000);
	} while (now_ms() < end);
	return -errno;
}

static inline int disk_power(struct disk *d, bool on)
{
	return disk_put(d, "power", on ? "1" : "0");
}

static inline void disk_exit(struct disk *d)
{
	char dir[80];

	if (!d->path[0])
		return;
	if (d->fd >= 0)
		close(d->fd);
	snprintf(dir, sizeof(dir), CONFIGFS "/nullb/%s", d->name);
	if (d->name[0])
		rmdir(dir);
	memset(d, 0, sizeof(*d));
}

/* A drive that is there, or -errno */
static inline int disk_use(struct disk *d, const char *path)
{
	memset(d, 0, sizeof(*d));
	if (snprintf(d->path, sizeof(d->path), "%s", path) >=
	    (int)sizeof(d->path))
		return -ENAMETOOLONG;
	d->fd = disk_open(d, O_RDWR | O_DIRECT);
	return d->fd < 0 ? d->fd : 0;
}

static inline int disk_init(struct disk *d, const struct disk_conf *conf)
{
	static unsigned int nr;
	char dir[80];
	int ret;

	snprintf(d->name, sizeof(d->name), "ioudmabuf%d_%u", getpid(), nr++);
	snprintf(d->path, sizeof(d->path), "/dev/%s", d->name);
	d->fd = -1;
	snprintf(dir, sizeof(dir), CONFIGFS "/nullb/%s", d->name);
	if (mkdir(dir, 0700)) {
		ret = -errno;
		memset(d, 0, sizeof(*d));
		return ret;
	}
	ret = disk_put(d, "size", "64");
	if (!ret)
		ret = disk_put(d, "memory_backed", conf->no_memory ? "0" : "1");
	if (!ret)
		ret = disk_put(d, "irqmode", conf->irqmode);
	if (!ret)
		ret = disk_put(d, "completion_nsec", conf->completion_nsec);
	if (!ret)
		ret = disk_put(d, "max_sectors", conf->max_sectors);
	if (!ret)
		ret = disk_put(d, "cache_size", conf->cache_size);
	if (!ret)
		ret = disk_put(d, "dmabuf", conf->dmabuf);
	if (!ret)
		ret = disk_power(d, true);
	if (!ret && conf->requeue) {
		ret = disk_put(d, "requeue_inject/times", "-1");
		if (!ret)
			ret = disk_put(d, "requeue_inject/verbose", "0");
		if (!ret)
			ret = disk_put(d, "requeue_inject/probability",
				       conf->requeue);
	}
	if (!ret) {
		d->fd = disk_open(d, O_RDWR | O_DIRECT);
		ret = d->fd < 0 ? d->fd : 0;
	}
	if (ret)
		disk_exit(d);
	return ret;
}

/*
 * Plain transfers, the other way to the data: neither io_uring nor a dma-buf
 * has a part in them. Any length within the area.
 */
static inline int disk_rw(int fd, void *buf, size_t len, off_t pos, bool write)
{
	off_t start = pos & ~(off_t)(BLOCK - 1);
	size_t size = (pos + len - start + BLOCK - 1) & ~(size_t)(BLOCK - 1);
	unsigned char *tmp;
	ssize_t n;

	if (posix_memalign((void **)&tmp, 4096, size))
		return -ENOMEM;
	n = size;
	if (!write || size != len)
		n = pread(fd, tmp, size, start);
	if (n == (ssize_t)size && write) {
		memcpy(tmp + (pos - start), buf, len);
		n = pwrite(fd, tmp, size, start);
	} else if (n == (ssize_t)size) {
		memcpy(buf, tmp + (pos - start), len);
	}
	if (n < 0)
		n = -errno;
	free(tmp);
	if (n < 0)
		return step_failed("access to the drive", n);
	if (n != (ssize_t)size)
		return step_failed("short access to the drive", -EIO);
	return 0;
}

static inline int disk_write(struct disk *d, const void *buf, size_t len,
			     off_t pos)
{
	return disk_rw(d->fd, (void *)buf, len, pos, true);
}

static inline int disk_read(struct disk *d, void *buf, size_t len, off_t pos)
{
	return disk_rw(d->fd, buf, len, pos, false);
}

/*
 * The namespace that IO_URING_TEST_DRIVE names: its block device, the character
 * device that passes commands through, and its number. 0 or -errno, -EINVAL if
 * it isn't one of NVMe. An fd that isn't open is -1.
 */
static inline int nvme_open(int *fd, int *ng, unsigned int *nsid)
{
	const char *path = getenv("IO_URING_TEST_DRIVE");
	char name[64];
	int ret;

	*fd = -1;
	*ng = -1;
	if (!path || sscanf(path, "/dev/nvme%40s", name + 7) != 1)
		return -EINVAL;
	memcpy(name, "/dev/ng", 7);
	*fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (*fd < 0)
		return -errno;
	*ng = open(name, O_RDWR | O_CLOEXEC);
	if (*ng < 0)
		return -errno;
	ret = ioctl(*ng, NVME_IOCTL_ID);
	if (ret < 0)
		return -errno;
	*nsid = ret;
	return 0;
}

/* ---------------------------------------------------------------- dma-bufs */

enum exporter {
	UDMABUF,
	UDMABUF_HUGE,	/* sizes are rounded up to huge pages */
	HEAP,
	HEAP_CMA,
	CONTIGUOUS,
	SCATTERED,
	MIXED,
	STATIC,
};

/*
 * @fd is the dma-buf. @dev is lib/test_dmabuf.c's device, and then the CPU gets
 * at the memory by its ioctls; or it is -1, and @map is the memory.
 */
struct dbuf {
	int		fd;
	int		dev;
	unsigned char	*map;
	size_t		size;
};

static inline void dbuf_exit(struct dbuf *b)
{
	if (!b->size)
		return;
	if (b->map)
		munmap(b->map, b->size);
	if (b->dev >= 0)
		close(b->dev);
	if (b->fd >= 0)
		close(b->fd);
	b->size = 0;
}

static inline int dbuf_udmabuf(struct dbuf *b, size_t size,
			       unsigned int memfd_flags)
{
	struct udmabuf_create create = {
		.flags = UDMABUF_FLAGS_CLOEXEC, .size = size,
	};
	int fd, memfd;

	memset(b, 0, sizeof(*b));
	b->dev = -1;
	fd = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	memfd = syscall(__NR_memfd_create, "dmabuf",
			MFD_CLOEXEC | MFD_ALLOW_SEALING | memfd_flags);
	if (memfd < 0 || ftruncate(memfd, size) ||
	    fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK))
		return -errno;
	b->map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (b->map == MAP_FAILED)
		return -errno;
	create.memfd = memfd;
	b->fd = ioctl(fd, UDMABUF_CREATE, &create);
	if (b->fd < 0)
		return -errno;
	b->size = size;
	close(memfd);
	close(fd);
	return 0;
}

static inline int dbuf_heap(struct dbuf *b, size_t size, const char *heap)
{
	struct dma_heap_allocation_data alloc = {
		.len = size, .fd_flags = O_RDWR | O_CLOEXEC,
	};
	int fd;

	memset(b, 0, sizeof(*b));
	b->dev = -1;
	fd = open(heap, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, DMA_HEAP_IOCTL_ALLOC, &alloc))
		return -errno;
	b->fd = alloc.fd;
	b->map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, b->fd, 0);
	if (b->map == MAP_FAILED)
		return -errno;
	b->size = size;
	close(fd);
	return 0;
}

/* @create says all but the size */
static inline int dbuf_test(struct dbuf *b, size_t size,
			    struct test_dmabuf_create create)
{
	memset(b, 0, sizeof(*b));
	b->dev = open("/dev/test_dmabuf", O_RDWR | O_CLOEXEC);
	if (b->dev < 0)
		return -errno;
	create.size = size;
	if (!create.nr_segs) {
		create.nr_segs = 1;
		create.segs[0] = 1;
	}
	if (ioctl(b->dev, TEST_DMABUF_CREATE, &create)) {
		int err = errno;

		close(b->dev);
		return -err;
	}
	b->fd = create.fd;
	b->size = size;
	return 0;
}

static inline int dbuf_init(struct dbuf *b, size_t size, enum exporter exp)
{
	struct test_dmabuf_create create = { .nr_segs = 1, .segs = { 1 } };
	static const __u32 mixed[] = { 1, 3, 16, 2, 64 };

	switch (exp) {
	case UDMABUF:
		return dbuf_udmabuf(b, size, 0);
	case UDMABUF_HUGE:
		size = (size + HUGE_SIZE - 1) & ~(size_t)(HUGE_SIZE - 1);
		return dbuf_udmabuf(b, size, MFD_HUGETLB | MFD_HUGE_2MB);
	case HEAP:
		return dbuf_heap(b, size, "/dev/dma_heap/system");
	case HEAP_CMA:
		return dbuf_heap(b, size, "/dev/dma_heap/default_cma_region");
	case CONTIGUOUS:
		create.segs[0] = size / page_size();
		break;
	case MIXED:
		create.nr_segs = ARRAY_SIZE(mixed);
		memcpy(create.segs, mixed, sizeof(mixed));
		break;
	case STATIC:
		create.flags = TEST_DMABUF_STATIC;
		break;
	case SCATTERED:
		break;
	}
	return dbuf_test(b, size, create);
}

static inline int dbuf_rw(struct dbuf *b, void *buf, size_t len, size_t off,
			  bool write)
{
	struct test_dmabuf_rw rw = {
		.fd = b->fd, .off = off, .len = len, .addr = u64_ptr(buf),
	};
	struct dma_buf_sync sync;
	int ret;

	if (b->dev >= 0) {
		ret = ioctl(b->dev, write ? TEST_DMABUF_WRITE :
					    TEST_DMABUF_READ, &rw);
		return ret ? -errno : 0;
	}
	sync.flags = DMA_BUF_SYNC_RW | DMA_BUF_SYNC_START;
	if (ioctl(b->fd, DMA_BUF_IOCTL_SYNC, &sync))
		return -errno;
	if (write)
		memcpy(b->map + off, buf, len);
	else
		memcpy(buf, b->map + off, len);
	sync.flags = DMA_BUF_SYNC_RW | DMA_BUF_SYNC_END;
	return ioctl(b->fd, DMA_BUF_IOCTL_SYNC, &sync) ? -errno : 0;
}

static inline int dbuf_write(struct dbuf *b, const void *buf, size_t len,
			     size_t off)
{
	return dbuf_rw(b, (void *)buf, len, off, true);
}

static inline int dbuf_read(struct dbuf *b, void *buf, size_t len, size_t off)
{
	return dbuf_rw(b, buf, len, off, false);
}

/* Have the exporter move it: -errno, or how long that took, in us */
static inline int dbuf_move_fence(struct dbuf *b, unsigned int fence_ms)
{
	struct test_dmabuf_move move = { .fd = b->fd, .fence_ms = fence_ms };

	if (ioctl(b->dev, TEST_DMABUF_MOVE, &move))
		return -errno;
	return (move.lock_ns + move.invalidate_ns) / 1000;
}

static inline int dbuf_move(struct dbuf *b)
{
	return dbuf_move_fence(b, 0);
}

static inline int dbuf_revoke(struct dbuf *b)
{
	struct test_dmabuf_move move = { .fd = b->fd };

	if (ioctl(b->dev, TEST_DMABUF_REVOKE, &move))
		return -errno;
	return (move.lock_ns + move.invalidate_ns) / 1000;
}

static inline int dbuf_faults(struct dbuf *b, unsigned int fail_maps,
			      unsigned int map_errno, unsigned int delay_ms)
{
	struct test_dmabuf_faults faults = {
		.fd = b->fd, .fail_maps = fail_maps, .map_errno = map_errno,
		.map_delay_ms = delay_ms,
	};

	return ioctl(b->dev, TEST_DMABUF_FAULTS, &faults) ? -errno : 0;
}

static inline int dbuf_slow_unmap(struct dbuf *b, unsigned int delay_ms)
{
	struct test_dmabuf_faults faults = {
		.fd = b->fd, .unmap_delay_ms = delay_ms,
	};

	return ioctl(b->dev, TEST_DMABUF_FAULTS, &faults) ? -errno : 0;
}

/* Bytes written to where the dma-buf isn't, or isn't any more; or -errno */
static inline long long dbuf_lost(struct dbuf *b)
{
	struct test_dmabuf_check check = { .fd = b->fd };

	if (b->dev < 0)
		return 0;
	if (ioctl(b->dev, TEST_DMABUF_CHECK, &check))
		return -errno;
	return check.lost;
}

static inline struct test_dmabuf_stats dbuf_stats(struct dbuf *b)
{
	struct test_dmabuf_stats stats = { .fd = b->fd };

	if (ioctl(b->dev, TEST_DMABUF_STATS, &stats))
		perror("# TEST_DMABUF_STATS");
	return stats;
}

/* Mapped now, attached now */
static inline long long dbuf_mapped(struct dbuf *b)
{
	struct test_dmabuf_stats stats = dbuf_stats(b);

	return stats.maps - stats.unmaps;
}

static inline long long dbuf_attached(struct dbuf *b)
{
	struct test_dmabuf_stats stats = dbuf_stats(b);

	return stats.attaches - stats.detaches;
}

/* Nothing is attached any more within @ms */
static inline bool dbuf_free_within(struct dbuf *b, unsigned int ms)
{
	__u64 end = now_ms() + ms;

	while (dbuf_attached(b)) {
		if (now_ms() > end)
			return false;
		usleep(1000);
	}
	return !dbuf_mapped(b);
}

/* ---------------------------------------------------------------- buffers */

static inline struct io_uring_regbuf_desc desc_dbuf(const struct dbuf *b,
						    int target)
{
	struct io_uring_regbuf_desc desc = {
		.type = IO_REGBUF_TYPE_DMABUF, .dmabuf_fd = b->fd,
		.target_fd = target,
	};

	return desc;
}

static inline int ring_descs(struct ring *r, unsigned int idx,
			     struct io_uring_regbuf_desc *desc,
			     unsigned int nr, __u64 *tags)
{
	struct io_uring_rsrc_update2 up = {
		.offset = idx, .flags = IORING_RSRC_UPDATE_EXTENDED,
		.data = u64_ptr(desc), .tags = u64_ptr(tags), .nr = nr,
	};

	return ring_register(r, IORING_REGISTER_BUFFERS_UPDATE, &up,
			     sizeof(up));
}

static inline int ring_desc(struct ring *r, unsigned int idx,
			    struct io_uring_regbuf_desc desc)
{
	return ring_descs(r, idx, &desc, 1, NULL);
}

/* Make @idx a dma-buf for I/O on @target: 1 or -errno */
static inline int ring_dbuf(struct ring *r, unsigned int idx,
			    const struct dbuf *b, int target)
{
	return ring_desc(r, idx, desc_dbuf(b, target));
}

static inline struct io_uring_sqe *ring_fixed(struct ring *r, bool write,
					      int fd, unsigned int idx,
					      size_t off, unsigned int len,
					      off_t pos)
{
	struct io_uring_sqe *sqe = ring_sqe(r, write ? IORING_OP_WRITE_FIXED :
						       IORING_OP_READ_FIXED);

	sqe->fd = fd;
	sqe->buf_index = idx;
	sqe->addr = off;
	sqe->len = len;
	sqe->off = pos;
	return sqe;
}

/* The only request in flight: its result */
static inline int ring_rw(struct ring *r, bool write, int fd, unsigned int idx,
			  size_t off, unsigned int len, off_t pos)
{
	ring_fixed(r, write, fd, idx, off, len, pos);
	return ring_run(r);
}

/* ---------------------------------------------------------------- all of it */

#define NR_BUFS			8
#define BUF_SEED		11
#define DISK_SEED		23
/* where on the drive, not a multiple of a page */
#define BASE			(1024 * 1024 + 3 * BLOCK)

#define TYPE_PLAIN		{ .setup = 0 }
#define TYPE_DEFER		{ .setup = IORING_SETUP_DEFER_TASKRUN | \
					   IORING_SETUP_SINGLE_ISSUER }
#define TYPE_SQPOLL		{ .setup = IORING_SETUP_SQPOLL }
#define TYPE_IOPOLL		{ .setup = IORING_SETUP_IOPOLL }
#define TYPE_IOWQ		{ .sqe_flags = IOSQE_ASYNC }

/* A ring with a table of buffers, a drive and a dma-buf */
struct env {
	struct ring	ring;
	unsigned int	sqe_flags;
	struct disk	disk;
	int		fd;	/* of the drive, for the ring */
	struct dbuf	buf;
	unsigned char	*mem;	/* as large as the dma-buf */
	int		stop;	/* for a thread that has the struct */
};

/* 0 or -errno; *skip says why this can't be tested here */
static inline int env_init(struct env *e, const struct ring_type *type,
			   enum exporter exp, unsigned int pages,
			   const struct disk_conf *conf, const char **skip)
{
	static const struct disk_conf dflt;
	const char *drive = getenv("IO_URING_TEST_DRIVE");
	size_t size = pages * page_size();
	int ret;

	*skip = NULL;
	e->fd = -1;
	ret = ring_init(&e->ring, RING_ENTRIES, type->setup);
	if (ret) {
		if (ring_unavailable())
			*skip = "no io_uring";
		return ret;
	}
	e->sqe_flags = type->sqe_flags;
	if (!drive && !disk_available()) {
		*skip = "no null_blk that knows dma-bufs";
		return -ENODEV;
	}
	ret = dbuf_init(&e->buf, size, exp);
	if (ret) {
		if (ret == -ENOENT)
			*skip = exp == UDMABUF ? "no /dev/udmabuf" :
				exp == UDMABUF_HUGE ? "no huge udmabuf" :
				exp == HEAP ? "no /dev/dma_heap/system" :
				exp == HEAP_CMA ? "no CMA heap" :
					      "no /dev/test_dmabuf";
		return ret;
	}
	ret = drive ? disk_use(&e->disk, drive) :
		      disk_init(&e->disk, conf ? conf : &dflt);
	if (ret)
		return ret;
	e->fd = disk_open(&e->disk, O_RDWR | O_DIRECT);
	if (e->fd < 0)
		return e->fd;
	e->mem = malloc(e->buf.size);
	if (!e->mem)
		return -ENOMEM;
	return ring_buffers_sparse(&e->ring, NR_BUFS);
}

static inline void env_exit(struct env *e)
{
	ring_exit(&e->ring);
	if (e->fd >= 0)
		close(e->fd);
	dbuf_exit(&e->buf);
	disk_exit(&e->disk);
	free(e->mem);
}

static inline int rw(struct env *e, bool write, size_t off, unsigned int len,
		     off_t pos)
{
	ring_fixed(&e->ring, write, e->fd, 0, off, len, pos)->flags =
		e->sqe_flags;
	return ring_run(&e->ring);
}

/* @nr reads of @len bytes, one behind the other in buffer and drive */
static inline void queue_reads(struct env *e, unsigned int nr,
			       unsigned int len)
{
	unsigned int i;

	for (i = 0; i < nr; i++) {
		struct io_uring_sqe *sqe;

		sqe = ring_fixed(&e->ring, false, e->fd, 0, i * len, len,
				 BASE + i * len);
		sqe->flags = e->sqe_flags;
		sqe->user_data = i;
	}
}

/* The CPU's side: bytes that tell their offset in the dma-buf, or all the same */
static inline int buf_pattern(struct env *e, size_t off, size_t len,
			      unsigned int seed)
{
	size_t i;

	for (i = 0; i < len; i++)
		e->mem[i] = pattern(off + i, seed);
	return dbuf_write(&e->buf, e->mem, len, off);
}

static inline int buf_set(struct env *e, int c, size_t off, size_t len)
{
	memset(e->mem, c, len);
	return dbuf_write(&e->buf, e->mem, len, off);
}

static inline bool buf_holds(struct env *e, int c, size_t off, size_t len)
{
	return !dbuf_read(&e->buf, e->mem, len, off) &&
	       all_bytes(e->mem, c, len);
}

/* The same for the drive, by position */
static inline int disk_pattern(struct env *e, off_t pos, size_t len,
			       unsigned int seed)
{
	size_t i;

	for (i = 0; i < len; i++)
		e->mem[i] = pattern(pos + i, seed);
	return disk_write(&e->disk, e->mem, len, pos);
}

static inline int disk_set(struct env *e, int c, off_t pos, size_t len)
{
	memset(e->mem, c, len);
	return disk_write(&e->disk, e->mem, len, pos);
}

static inline bool disk_holds(struct env *e, int c, off_t pos, size_t len)
{
	return !disk_read(&e->disk, e->mem, len, pos) &&
	       all_bytes(e->mem, c, len);
}

/* Both sides of a transfer, and what is next to them */
struct span {
	size_t	off;
	size_t	len;
	off_t	pos;
};

static inline void span_print(const char *what, const struct span *s, size_t at)
{
	fprintf(stderr, "# %s: off %zu len %zu pos %llu: byte %zu\n", what,
		s->off, s->len, (unsigned long long)s->pos, at);
}

/* The drive got what the dma-buf had, and its neighbours nothing */
static inline bool disk_got(struct env *e, const struct span *s,
			    unsigned int seed)
{
	size_t i;

	if (!disk_holds(e, DISK_POISON, s->pos - 4096, 4096) ||
	    !disk_holds(e, DISK_POISON, s->pos + s->len, 4096)) {
		span_print("beside of what was written", s, 0);
		return false;
	}
	if (disk_read(&e->disk, e->mem, s->len, s->pos))
		return false;
	for (i = 0; i < s->len; i++) {
		if (e->mem[i] != pattern(s->off + i, seed)) {
			span_print("written", s, i);
			return false;
		}
	}
	return true;
}

/* How much of a guard zone the dma-buf has to both sides */
static inline void span_guards(const struct env *e, const struct span *s,
			       size_t *before, size_t *after)
{
	*before = s->off < 4096 ? s->off : 4096;
	*after = e->buf.size - s->off - s->len;
	if (*after > 4096)
		*after = 4096;
}

static inline bool buf_got(struct env *e, const struct span *s,
			   unsigned int seed)
{
	size_t i, before, after;

	span_guards(e, s, &before, &after);
	if (!buf_holds(e, POISON, s->off - before, before) ||
	    !buf_holds(e, POISON, s->off + s->len, after)) {
		span_print("beside of what was read", s, 0);
		return false;
	}
	if (dbuf_read(&e->buf, e->mem, s->len, s->off))
		return false;
	for (i = 0; i < s->len; i++) {
		if (e->mem[i] != pattern(s->pos + i, seed)) {
			span_print("read", s, i);
			return false;
		}
	}
	return true;
}

/* Write one span, alone on a poisoned part of the drive */
static inline int span_write(struct env *e, const struct span *s)
{
	int ret;

	ret = buf_pattern(e, s->off, s->len, BUF_SEED);
	if (!ret)
		ret = disk_set(e, DISK_POISON, s->pos - 4096, 4096);
	if (!ret)
		ret = disk_set(e, DISK_POISON, s->pos, s->len);
	if (!ret)
		ret = disk_set(e, DISK_POISON, s->pos + s->len, 4096);
	if (ret)
		return ret;
	ret = rw(e, true, s->off, s->len, s->pos);
	if (ret != (int)s->len)
		return ret < 0 ? ret : step_failed("short write", -EIO);
	return disk_got(e, s, BUF_SEED) ? 0 : -EBADMSG;
}

static inline int span_read(struct env *e, const struct span *s)
{
	size_t before, after;
	int ret;

	span_guards(e, s, &before, &after);
	ret = disk_pattern(e, s->pos, s->len, DISK_SEED);
	if (!ret)
		ret = buf_set(e, POISON, s->off, s->len);
	if (!ret)
		ret = buf_set(e, POISON, s->off - before, before);
	if (!ret)
		ret = buf_set(e, POISON, s->off + s->len, after);
	if (ret)
		return ret;
	ret = rw(e, false, s->off, s->len, s->pos);
	if (ret != (int)s->len)
		return ret < 0 ? ret : step_failed("short read", -EIO);
	return buf_got(e, s, DISK_SEED) ? 0 : -EBADMSG;
}

#endif /* IOU_DMABUF_H */
