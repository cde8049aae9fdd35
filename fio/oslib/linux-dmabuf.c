// SPDX-License-Identifier: GPL-2.0
/*
 * dma-bufs: memory that devices read and write in place
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../log.h"
#include "../os/linux/dmabuf.h"
#include "linux-dmabuf.h"

#ifndef MFD_CLOEXEC
#define MFD_CLOEXEC		0x0001U
#define MFD_ALLOW_SEALING	0x0002U
#endif

#ifndef F_ADD_SEALS
#define F_ADD_SEALS		1033
#define F_SEAL_SHRINK		0x0002
#endif

#define UDMABUF_DEV		"/dev/udmabuf"
#define UDMABUF_LIMIT		"/sys/module/udmabuf/parameters/size_limit_mb"
#define HEAP_PREFIX		"heap:"

/* A memfd that can't shrink, as udmabuf wants it */
static int create_memfd(size_t size)
{
#ifdef __NR_memfd_create
	int fd;

	fd = syscall(__NR_memfd_create, "fio", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -1;
	if (ftruncate(fd, size) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK)) {
		close(fd);
		return -1;
	}
	return fd;
#else
	errno = ENOSYS;
	return -1;
#endif
}

static int udmabuf_alloc(size_t size)
{
	struct udmabuf_create create = {
		.flags = UDMABUF_FLAGS_CLOEXEC,
		.size = size,
	};
	int dev, memfd, fd;

	dev = open(UDMABUF_DEV, O_RDWR | O_CLOEXEC);
	if (dev < 0) {
		log_err("fio: %s: %s\n", UDMABUF_DEV, strerror(errno));
		return -1;
	}

	memfd = create_memfd(size);
	if (memfd < 0) {
		log_err("fio: memfd of %zu bytes: %s\n", size, strerror(errno));
		close(dev);
		return -1;
	}

	create.memfd = memfd;
	fd = ioctl(dev, UDMABUF_CREATE, &create);
	if (fd < 0)
		log_err("fio: udmabuf of %zu bytes: %s; for the limit see %s\n",
			size, strerror(errno), UDMABUF_LIMIT);

	/* the dma-buf has its own reference to the memory */
	close(memfd);
	close(dev);
	return fd;
}

static int heap_alloc(const char *name, size_t size)
{
	struct dma_heap_allocation_data data = {
		.len = size,
		.fd_flags = O_RDWR | O_CLOEXEC,
	};
	char path[PATH_MAX];
	int dev, ret;

	snprintf(path, sizeof(path), "/dev/dma_heap/%s", name);
	dev = open(path, O_RDONLY | O_CLOEXEC);
	if (dev < 0) {
		log_err("fio: %s: %s\n", path, strerror(errno));
		return -1;
	}

	ret = ioctl(dev, DMA_HEAP_IOCTL_ALLOC, &data);
	if (ret < 0)
		log_err("fio: %zu bytes of %s: %s\n", size, path,
			strerror(errno));

	close(dev);
	return ret < 0 ? -1 : (int) data.fd;
}

/*
 * Allocate a dma-buf. 'source' is "udmabuf", for ordinary memory, or "heap:NAME"
 * for that of /dev/dma_heap/NAME. 'size' is a multiple of the page size.
 *
 * Returns a descriptor. On failure that's -1, and has been logged.
 */
int dmabuf_alloc(const char *source, size_t size)
{
	if (!strcmp(source, "udmabuf"))
		return udmabuf_alloc(size);
	if (!strncmp(source, HEAP_PREFIX, strlen(HEAP_PREFIX)))
		return heap_alloc(source + strlen(HEAP_PREFIX), size);

	log_err("fio: no such source of dma-bufs: %s; there are udmabuf and "
		"heap:NAME\n", source);
	return -1;
}

/*
 * Start or end access to a mapping of the dma-buf by the CPU: caches and the
 * like are seen to. Returns 0 or a negative errno.
 */
int dmabuf_cpu_access(int fd, bool start)
{
	struct dma_buf_sync sync = {
		.flags = DMA_BUF_SYNC_RW |
			 (start ? DMA_BUF_SYNC_START : DMA_BUF_SYNC_END),
	};

	while (ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync)) {
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
	}
	return 0;
}
