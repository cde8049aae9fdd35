/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * ioctls of /dev/test_dmabuf: dma-bufs that do on demand what exporters may do,
 * and some of what they must not.
 *
 * Every ioctl is on the device. All but TEST_DMABUF_CREATE name the dma-buf by a
 * file descriptor of it, and fail with -EBADF or -EINVAL if that is none, or one
 * of another exporter. Fields that aren't described are results.
 */
#ifndef _LIB_TEST_DMABUF_UAPI_H
#define _LIB_TEST_DMABUF_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Most of the bytes of a dma-buf, and of one whose memory repeats */
#define TEST_DMABUF_MAX_SIZE		(64U << 20)
#define TEST_DMABUF_MAX_REPEAT		(4ULL << 40)
#define TEST_DMABUF_MAX_SEGS		8
/* Most of the milliseconds of a delay */
#define TEST_DMABUF_MAX_DELAY		30000

/* What memory holds that isn't, or isn't any more, part of a dma-buf */
#define TEST_DMABUF_POISON		0xd5

/* The descriptor is open for reading only: devices may not write to it */
#define TEST_DMABUF_RDONLY		0x01
/* Memory never moves, so importers aren't told */
#define TEST_DMABUF_STATIC		0x02
#define TEST_DMABUF_NO_VMAP		0x04
/* Attached devices don't get the memory in place */
#define TEST_DMABUF_NO_P2P		0x08
/* Lies: what is mapped is a page longer, or shorter, than the dma-buf */
#define TEST_DMABUF_LONG		0x10
#define TEST_DMABUF_SHORT		0x20
/* Lie: the first segment starts 512 bytes late */
#define TEST_DMABUF_UNALIGNED		0x40
/* Pretend to be memory of a device: what is mapped has no pages */
#define TEST_DMABUF_DEVICE		0x80
/*
 * Every second device that attaches doesn't get the memory in place, and it moves
 * to where the device that maps it has it, as with drivers of GPUs
 */
#define TEST_DMABUF_FOLLOWS		0x100

/**
 * struct test_dmabuf_create - TEST_DMABUF_CREATE, makes a dma-buf
 * @size:	bytes, a multiple of the page size
 * @flags:	TEST_DMABUF_*
 * @attach_errno: what to refuse devices with, 0 not to
 * @nr_segs:	number of @segs
 * @segs:	pages of each segment, used in turn until it is enough for @size.
 *		Two segments are never contiguous, and a guard page with
 *		TEST_DMABUF_POISON is between them
 * @pages:	how many there are, 0 for all that it takes. Devices see them again
 *		and again until it is enough for @size, the CPU sees them once.
 *		Not for TEST_DMABUF_DEVICE, and without a kernel mapping
 * @pad:	0
 * @fd:		the dma-buf, all zeroes
 */
struct test_dmabuf_create {
	__u64	size;
	__u32	flags;
	__u32	attach_errno;
	__u32	nr_segs;
	__u32	segs[TEST_DMABUF_MAX_SEGS];
	__u32	pages;
	__u32	pad;
	__s32	fd;
};

/**
 * struct test_dmabuf_move - TEST_DMABUF_MOVE and TEST_DMABUF_REVOKE
 * @fd:		the dma-buf
 * @fence_ms:	MOVE: let the data arrive that much later, with a fence for it. Not
 *		for devices whose memory is bounced
 * @lock_ns:	how long it took to get hold of the dma-buf
 * @invalidate_ns: how long importers took to be done with it
 *
 * MOVE gives the dma-buf other memory, REVOKE none: it can't be mapped any more,
 * and -ENODEV is what comes of it. The old memory gets TEST_DMABUF_POISON.
 *
 * -EOPNOTSUPP if it is TEST_DMABUF_STATIC, -ENODEV if it is revoked, -EBUSY if
 * somebody keeps it in place.
 */
struct test_dmabuf_move {
	__s32	fd;
	__u32	fence_ms;
	__u64	lock_ns;
	__u64	invalidate_ns;
};

/**
 * struct test_dmabuf_faults - TEST_DMABUF_FAULTS, from now on
 * @fd:		the dma-buf
 * @fail_maps:	so many attempts to map it fail
 * @map_errno:	with this
 * @map_delay_ms: how long each attempt takes. Signals interrupt it: -EINTR
 * @unmap_delay_ms: how long it takes to undo a mapping
 * @host:	1: TEST_DMABUF_DEVICE has no room, the host's memory has to do
 */
struct test_dmabuf_faults {
	__s32	fd;
	__u32	fail_maps;
	__u32	map_errno;
	__u32	map_delay_ms;
	__u32	unmap_delay_ms;
	__u32	host;
};

/**
 * struct test_dmabuf_rw - TEST_DMABUF_READ and TEST_DMABUF_WRITE, by the CPU
 * @fd:		the dma-buf
 * @pad:	0
 * @off:	offset into the dma-buf
 * @len:	bytes
 * @addr:	to read to, to write from
 *
 * -EFAULT if the range isn't in the dma-buf, -ENODEV if it is revoked.
 */
struct test_dmabuf_rw {
	__s32	fd;
	__u32	pad;
	__u64	off;
	__u64	len;
	__u64	addr;
};

/**
 * struct test_dmabuf_stats - TEST_DMABUF_STATS
 * @fd:		the dma-buf
 * @pad:	0
 * @attaches:	devices attached so far
 * @detaches:	and detached
 * @maps:	mappings made so far
 * @unmaps:	and undone
 * @map_errors:	attempts to map that have failed
 * @moves:	moves, and the revocation
 *
 * This waits for nobody, so they need not fit each other.
 */
struct test_dmabuf_stats {
	__s32	fd;
	__u32	pad;
	__u64	attaches;
	__u64	detaches;
	__u64	maps;
	__u64	unmaps;
	__u64	map_errors;
	__u64	moves;
};

/**
 * struct test_dmabuf_check - TEST_DMABUF_CHECK
 * @fd:		the dma-buf
 * @pad:	0
 * @lost:	bytes of TEST_DMABUF_POISON so far that something else was written
 *		to: in guard pages, and in the memory of before a move
 *
 * Memory is watched for the four moves that follow the one from it.
 */
struct test_dmabuf_check {
	__s32	fd;
	__u32	pad;
	__u64	lost;
};

#define TEST_DMABUF_CREATE	_IOWR('D', 0x00, struct test_dmabuf_create)
#define TEST_DMABUF_MOVE	_IOWR('D', 0x01, struct test_dmabuf_move)
#define TEST_DMABUF_REVOKE	_IOWR('D', 0x02, struct test_dmabuf_move)
#define TEST_DMABUF_FAULTS	_IOW('D', 0x03, struct test_dmabuf_faults)
#define TEST_DMABUF_READ	_IOW('D', 0x04, struct test_dmabuf_rw)
#define TEST_DMABUF_WRITE	_IOW('D', 0x05, struct test_dmabuf_rw)
#define TEST_DMABUF_STATS	_IOWR('D', 0x06, struct test_dmabuf_stats)
#define TEST_DMABUF_CHECK	_IOWR('D', 0x07, struct test_dmabuf_check)

#endif /* _LIB_TEST_DMABUF_UAPI_H */
