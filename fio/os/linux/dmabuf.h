/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What fio uses of the kernel's dma-buf.h, dma-heap.h and udmabuf.h, none of
 * which older systems have.
 */
#ifndef FIO_OS_LINUX_DMABUF_H
#define FIO_OS_LINUX_DMABUF_H

#include <linux/ioctl.h>
#include <linux/types.h>

struct dma_buf_sync {
	__u64 flags;
};

#define DMA_BUF_SYNC_RW		(3 << 0)
#define DMA_BUF_SYNC_START	(0 << 2)
#define DMA_BUF_SYNC_END	(1 << 2)

#define DMA_BUF_IOCTL_SYNC	_IOW('b', 0, struct dma_buf_sync)

struct dma_heap_allocation_data {
	__u64 len;
	__u32 fd;
	__u32 fd_flags;
	__u64 heap_flags;
};

#define DMA_HEAP_IOCTL_ALLOC	_IOWR('H', 0, struct dma_heap_allocation_data)

struct udmabuf_create {
	__u32 memfd;
	__u32 flags;
	__u64 offset;
	__u64 size;
};

#define UDMABUF_FLAGS_CLOEXEC	0x01

#define UDMABUF_CREATE		_IOW('u', 0x42, struct udmabuf_create)

#endif
