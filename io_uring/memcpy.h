/* SPDX-License-Identifier: GPL-2.0 */
#ifndef IOU_MEMCPY_H
#define IOU_MEMCPY_H

#include <linux/sizes.h>
#include <linux/types.h>

struct io_kiocb;
struct io_rsrc_node;
struct io_uring_sqe;

#define IO_MEMCPY_FLAGS		(IORING_MEMCPY_DST_FIXED | \
				 IORING_MEMCPY_SRC_FIXED | \
				 IORING_MEMCPY_CPU_ONLY | \
				 IORING_MEMCPY_ENGINE_ONLY | \
				 IORING_MEMCPY_REPORT)

/* The submitter copies up to this much itself, io-wq does the rest. */
#define IO_MEMCPY_INLINE_MAX	SZ_64K

/**
 * io_memcpy_overlap - do two ranges of the same address space overlap
 * @a:		start of the one
 * @b:		start of the other
 * @len:	length of both, not more than half of the address space
 *
 * The ranges may wrap around, the differences do so, too.
 *
 * Return: true if there is a byte that belongs to both.
 */
static inline bool io_memcpy_overlap(u64 a, u64 b, u32 len)
{
	return a - b < len || b - a < len;
}

int io_memcpy_prep(struct io_kiocb *req, const struct io_uring_sqe *sqe);
int io_memcpy(struct io_kiocb *req, unsigned int issue_flags);
void io_memcpy_cleanup(struct io_kiocb *req);
void io_memcpy_fail(struct io_kiocb *req);
bool io_memcpy_bind_src(struct io_kiocb *req, struct io_rsrc_node *node);

#endif
