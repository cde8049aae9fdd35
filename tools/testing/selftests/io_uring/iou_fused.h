/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What it takes for fused commands: the mock file as the driver that lends memory,
 * and rings whose SQEs are of 128 bytes.
 */
#ifndef IOU_FUSED_H
#define IOU_FUSED_H

#include <linux/io_uring/mock_file.h>

#include "iou_test.h"

#define MEM		IORING_MOCK_LEND_SIZE
#define DEST		IORING_MOCK_LEND_DEST
#define SOURCE		IORING_MOCK_LEND_SOURCE
#define BOTH		(DEST | SOURCE)

/* Its memory can be mapped, and so can how often it was lent and given back */
struct lender {
	int fd;
	unsigned char *mem;
	struct io_uring_mock_lend_state *state;
};

static inline int mock_create(unsigned int flags, __u64 rw_delay_ns)
{
	struct io_uring_mock_create mc = {
		.flags = flags, .file_size = MEM, .rw_delay_ns = rw_delay_ns,
	};
	struct io_uring_sqe *sqe;
	struct ring r;
	int fd, ret;

	fd = open("/dev/io_uring_mock", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = ring_init(&r, 8, 0);
	if (ret) {
		close(fd);
		return ret;
	}
	sqe = ring_sqe(&r, IORING_OP_URING_CMD);
	sqe->fd = fd;
	sqe->cmd_op = IORING_MOCK_MGR_CMD_CREATE;
	sqe->addr = u64_ptr(&mc);
	sqe->len = sizeof(mc);
	ret = ring_run(&r);
	ring_exit(&r);
	close(fd);
	return ret ? ret : (int)mc.out_fd;
}

static inline int lender_init(struct lender *l)
{
	l->fd = mock_create(IORING_MOCK_CREATE_F_LEND, 0);
	if (l->fd < 0)
		return l->fd;
	l->mem = mmap(NULL, MEM + page_size(), PROT_READ | PROT_WRITE,
		      MAP_SHARED, l->fd, 0);
	if (l->mem == MAP_FAILED)
		return -errno;
	l->state = (void *)(l->mem + MEM);
	memset(l->mem, POISON, MEM);
	return 0;
}

static inline void lender_exit(struct lender *l)
{
	munmap(l->mem, MEM + page_size());
	close(l->fd);
}

/* Like ring_init(), with all of SQEs mapped that may be twice as long */
static inline struct io_uring_sqe *
ring_init_attached(struct ring *r, unsigned int setup, int wq_fd)
{
	struct io_uring_params p = {
		.flags = setup | IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL |
			 IORING_SETUP_NO_SQARRAY,
		.cq_entries = 4 * RING_ENTRIES,
	};
	size_t mask;
	int fd;

	memset(r, 0, sizeof(*r));
	if (setup & IORING_SETUP_SQPOLL)
		p.sq_thread_idle = 100;
	if (wq_fd >= 0) {
		p.flags |= IORING_SETUP_ATTACH_WQ;
		p.wq_fd = wq_fd;
	}
	fd = io_uring_setup(RING_ENTRIES, &p);
	if (fd < 0)
		return NULL;
	if (setup & IORING_SETUP_SQE128)
		p.sq_entries *= 2;
	if (io_uring_mmap(fd, &p, &r->u.sq, &r->u.cq)) {
		close(fd);
		return NULL;
	}
	r->u.ring_fd = fd;
	r->setup = p.flags;
	/* as in ring_init_params() */
	mask = sysconf(_SC_PAGESIZE) - 1;
	madvise((void *)((uintptr_t)r->u.sq.khead & ~mask), r->u.sq.ring_sz,
		MADV_DONTFORK);
	madvise((void *)((uintptr_t)r->u.cq.khead & ~mask), r->u.cq.ring_sz,
		MADV_DONTFORK);
	madvise(r->u.sq.sqes, p.sq_entries * sizeof(struct io_uring_sqe),
		MADV_DONTFORK);
	return r->u.sq.sqes;
}

static inline struct io_uring_sqe *ring_init_128(struct ring *r,
						 unsigned int setup)
{
	return ring_init_attached(r, setup, -1);
}

static inline void ring_exit_128(struct ring *r)
{
	unsigned int entries = RING_ENTRIES;

	/* ring_exit() unmaps half of these, and what is mapped isn't closed */
	if (r->setup & IORING_SETUP_SQE128)
		munmap(r->u.sq.sqes + entries,
		       entries * sizeof(struct io_uring_sqe));
	ring_exit(r);
}

#endif
