/* SPDX-License-Identifier: MIT */
/*
 * Description: what the tests of the memcpy opcodes share: the kinds of rings
 *		that they run on, and requests that have to end as expected
 */
#ifndef LIBURING_TEST_MEMCPY_COMMON_H
#define LIBURING_TEST_MEMCPY_COMMON_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "liburing.h"
#include "helpers.h"

/* what memory holds where nothing may be written */
#define GUARD		0xa5

struct params {
	unsigned int setup;
	unsigned char sqe_flags;
	const char *name;
};

typedef int (*ring_test)(struct io_uring *ring, const struct params *p);

/* whether this kernel has the opcode */
static inline bool has_op(int op)
{
	struct io_uring_probe *probe = io_uring_get_probe();
	bool supported;

	if (!probe)
		return false;
	supported = io_uring_opcode_supported(probe, op);
	io_uring_free_probe(probe);
	return supported;
}

/* with SQPOLL, the thread may still have to take what was submitted before */
static inline struct io_uring_sqe *wait_sqe(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (!sqe && io_uring_sqring_wait(ring) >= 0)
		sqe = io_uring_get_sqe(ring);
	return sqe;
}

static inline struct io_uring_sqe *get_sqe(struct io_uring *ring,
					   const struct params *p)
{
	struct io_uring_sqe *sqe = wait_sqe(ring);

	if (!sqe) {
		fprintf(stderr, "%s: no sqe\n", p->name);
		exit(T_EXIT_FAIL);
	}
	return sqe;
}

/* submit what is queued, and store the results of the 'nr' requests */
static inline int reap(struct io_uring *ring, int *res, unsigned int nr)
{
	struct io_uring_cqe *cqe;
	unsigned int i;
	int ret;

	ret = io_uring_submit(ring);
	if (ret < 0) {
		fprintf(stderr, "submit %d\n", ret);
		return 1;
	}
	for (i = 0; i < nr; i++) {
		ret = io_uring_wait_cqe(ring, &cqe);
		if (ret) {
			fprintf(stderr, "wait %d\n", ret);
			return 1;
		}
		/* no copy engine exists, hence no flag either */
		if (cqe->user_data >= nr || cqe->flags) {
			fprintf(stderr, "ud %d res %d flags %x\n",
				(int) cqe->user_data, cqe->res, cqe->flags);
			return 1;
		}
		res[cqe->user_data] = cqe->res;
		io_uring_cqe_seen(ring, cqe);
	}
	return 0;
}

/* the one queued request has to end with 'expected' */
static inline int expect(struct io_uring *ring, const struct params *p,
			 const char *what, int expected)
{
	int res;

	if (reap(ring, &res, 1))
		return 1;
	if (res != expected) {
		fprintf(stderr, "%s: %s: res %d, expected %d\n", p->name, what,
			res, expected);
		return 1;
	}
	return 0;
}

/* the same, and it has to sever the chain, whose other link is a NOP */
static inline int expect_severed(struct io_uring *ring, const struct params *p,
				 struct io_uring_sqe *sqe, const char *what,
				 int expected)
{
	int res[2];

	sqe->flags |= IOSQE_IO_LINK | p->sqe_flags;
	sqe->user_data = 0;

	sqe = get_sqe(ring, p);
	io_uring_prep_nop(sqe);
	sqe->user_data = 1;

	if (reap(ring, res, 2))
		return 1;
	if (res[0] != expected || res[1] != -ECANCELED) {
		fprintf(stderr, "%s: %s: res %d/%d, expected %d/%d\n", p->name,
			what, res[0], res[1], expected, -ECANCELED);
		return 1;
	}
	return 0;
}

/* run a test on one kind of ring, unless this user or kernel can't have it */
static inline int run_on(const struct params *p, unsigned int entries,
			 const struct iovec *iov, unsigned int nr_iov,
			 ring_test test)
{
	struct io_uring ring;
	int ret;

	ret = t_create_ring(entries, &ring, p->setup);
	if (ret == T_SETUP_SKIP)
		return 0;
	if (ret)
		return 1;

	ret = t_register_buffers(&ring, iov, nr_iov);
	if (ret == T_SETUP_OK) {
		ret = test(&ring, p);
		if (ret)
			fprintf(stderr, "%s failed\n", p->name);
	} else if (ret == T_SETUP_SKIP) {
		ret = 0;
	}

	io_uring_queue_exit(&ring);
	return ret;
}

/* run a test on each kind of ring, with the buffers registered */
static inline int run_on_all(unsigned int entries, const struct iovec *iov,
			     unsigned int nr_iov, ring_test test)
{
	static const struct params params[] = {
		{ 0, 0, "default" },
		{ 0, IOSQE_ASYNC, "default async" },
		{ IORING_SETUP_COOP_TASKRUN, 0, "coop" },
		{ IORING_SETUP_COOP_TASKRUN, IOSQE_ASYNC, "coop async" },
		{ IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER, 0,
		  "defer" },
		{ IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
		  IOSQE_ASYNC, "defer async" },
		{ IORING_SETUP_SQPOLL, 0, "sqpoll" },
		{ IORING_SETUP_SQPOLL, IOSQE_ASYNC, "sqpoll async" },
		{ IORING_SETUP_IOPOLL, 0, "iopoll" },
		{ IORING_SETUP_IOPOLL, IOSQE_ASYNC, "iopoll async" },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(params); i++) {
		if (run_on(&params[i], entries, iov, nr_iov, test))
			return 1;
	}
	return 0;
}

/* run a test on a ring that was given no opcode but NOP */
static inline int run_restricted(ring_test test)
{
	struct io_uring_restriction res = {
		.opcode = IORING_RESTRICTION_SQE_OP,
		.sqe_op = IORING_OP_NOP,
	};
	static const struct params p = { .name = "restricted" };
	struct io_uring ring;
	int ret;

	ret = io_uring_queue_init(8, &ring, IORING_SETUP_R_DISABLED);
	if (ret) {
		fprintf(stderr, "ring_init: %d\n", ret);
		return 1;
	}
	ret = io_uring_register_restrictions(&ring, &res, 1);
	if (!ret)
		ret = io_uring_enable_rings(&ring);
	if (ret)
		fprintf(stderr, "restrictions: %d\n", ret);
	else
		ret = test(&ring, &p);
	io_uring_queue_exit(&ring);
	return ret;
}

#endif
