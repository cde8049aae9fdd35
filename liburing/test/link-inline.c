/* SPDX-License-Identifier: MIT */
/*
 * Description: test that a short linked request runs in the same pass as the
 *		request before it. With IORING_SETUP_DEFER_TASKRUN, one
 *		io_uring_enter(2) call has to be enough for the whole chain.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "liburing.h"
#include "helpers.h"
#include "memcpy-common.h"

#define MAX_CHAIN	32

static const struct {
	unsigned int flags;
	const char *name;
} rings[] = {
	{ 0, "default" },
	{ IORING_SETUP_COOP_TASKRUN, "coop" },
	{ IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER, "defer" },
	{ IORING_SETUP_SQPOLL, "sqpoll" },
};

enum head {
	HEAD_NOP,
	HEAD_READ,
	HEAD_READ_CLOSED,
	HEAD_TIMEOUT,
	HEAD_LAST,
};

enum succ {
	SUCC_IMM,
	SUCC_NOP,
	SUCC_BOTH,
	/* these must not run inline, but have to work as they used to */
	SUCC_ASYNC,
	SUCC_LINK_TIMEOUT,
	SUCC_LAST,
};

/* a request that is pending at submit, and completes via task work */
static void prep_head(struct io_uring_sqe *sqe, enum head head, int fd,
		      char *c, struct __kernel_timespec *ts)
{
	switch (head) {
	case HEAD_NOP:
		io_uring_prep_nop(sqe);
		sqe->nop_flags = IORING_NOP_TW;
		break;
	case HEAD_READ:
	case HEAD_READ_CLOSED:
		io_uring_prep_read(sqe, fd, c, 1, 0);
		break;
	case HEAD_TIMEOUT:
		ts->tv_sec = 0;
		ts->tv_nsec = 2000000;
		io_uring_prep_timeout(sqe, ts, 0, IORING_TIMEOUT_ETIME_SUCCESS);
		break;
	default:
		break;
	}
	sqe->flags |= IOSQE_IO_LINK;
	sqe->user_data = 0;
}

static int prep_succ(struct io_uring *ring, enum succ succ, uint32_t *words,
		     struct __kernel_timespec *ts)
{
	unsigned int i, nr = succ >= SUCC_ASYNC ? 1 : MAX_CHAIN - 2;
	struct io_uring_sqe *sqe;

	for (i = 0; i < nr; i++) {
		sqe = wait_sqe(ring);
		if (succ == SUCC_NOP || (succ == SUCC_BOTH && (i & 1)))
			io_uring_prep_nop(sqe);
		else
			io_uring_prep_memcpy_imm(sqe, &words[i], i + 1, 4);
		if (succ == SUCC_ASYNC)
			sqe->flags |= IOSQE_ASYNC;
		if (i != nr - 1 || succ == SUCC_LINK_TIMEOUT)
			sqe->flags |= IOSQE_IO_LINK;
		sqe->user_data = i + 1;
	}
	if (succ == SUCC_LINK_TIMEOUT) {
		ts->tv_sec = 10;
		ts->tv_nsec = 0;
		sqe = wait_sqe(ring);
		io_uring_prep_link_timeout(sqe, ts, 0);
		sqe->user_data = ++nr;
	}
	return nr + 1;
}

static int check_cqe(struct io_uring_cqe *cqe, unsigned int i, enum head head,
		     enum succ succ)
{
	int want = 4;

	/* a link timeout that isn't needed is no link of the chain */
	if (succ == SUCC_LINK_TIMEOUT)
		i = cqe->user_data;

	if (!i) {
		/* an empty read is no error, but it's shorter than asked for */
		want = head == HEAD_READ ? 1 : 0;
		if (head == HEAD_TIMEOUT)
			want = -ETIME;
	} else if (head == HEAD_READ_CLOSED) {
		want = -ECANCELED;
	} else if (succ == SUCC_NOP || (succ == SUCC_BOTH && !(i & 1))) {
		want = 0;
	} else if (succ == SUCC_LINK_TIMEOUT && i == 2) {
		want = -ECANCELED;
	}
	if (cqe->user_data != i || cqe->res != want) {
		fprintf(stderr, "cqe %u: ud %d res %d, expected %d\n", i,
			(int) cqe->user_data, cqe->res, want);
		return 1;
	}
	return 0;
}

static int check_words(uint32_t *words, enum head head, enum succ succ)
{
	unsigned int i, nr = succ >= SUCC_ASYNC ? 1 : MAX_CHAIN - 2;

	for (i = 0; i < MAX_CHAIN; i++) {
		uint32_t want = i < nr ? i + 1 : 0;

		if (head == HEAD_READ_CLOSED || succ == SUCC_NOP ||
		    (succ == SUCC_BOTH && (i & 1)))
			want = 0;
		if (words[i] != want) {
			fprintf(stderr, "word %u is %u, not %u\n", i, words[i],
				want);
			return 1;
		}
	}
	return 0;
}

static int test_chain(struct io_uring *ring, bool defer, enum head head,
		      enum succ succ)
{
	struct __kernel_timespec ts[2];
	uint32_t words[MAX_CHAIN] = { };
	unsigned int i, nr, ready;
	struct io_uring_cqe *cqe;
	int ret, fds[2];
	char c = 'x';

	if (pipe(fds) < 0) {
		perror("pipe");
		return 1;
	}

	prep_head(wait_sqe(ring), head, fds[0], &c, &ts[0]);
	nr = prep_succ(ring, succ, words, &ts[1]);
	ret = io_uring_submit(ring);
	if (ret != (int) nr) {
		fprintf(stderr, "submit %d of %u\n", ret, nr);
		goto err;
	}

	if (head == HEAD_READ && write(fds[1], &c, 1) != 1)
		goto err;
	close(fds[1]);
	fds[1] = -1;

	if (defer) {
		/* let the timeout expire, it becomes task work by then */
		if (head == HEAD_TIMEOUT)
			usleep(50000);
		if (io_uring_cq_ready(ring)) {
			fprintf(stderr, "CQE without entering the kernel\n");
			goto err;
		}
		ret = io_uring_get_events(ring);
		if (ret < 0) {
			fprintf(stderr, "get_events %d\n", ret);
			goto err;
		}
		/* a failed head cancels the others, that still takes longer */
		ready = io_uring_cq_ready(ring);
		if (succ < SUCC_ASYNC && head != HEAD_READ_CLOSED &&
		    ready != nr) {
			fprintf(stderr, "%u of %u CQEs after one enter\n",
				ready, nr);
			goto err;
		}
	}

	for (i = 0; i < nr; i++) {
		ret = io_uring_wait_cqe(ring, &cqe);
		if (ret) {
			fprintf(stderr, "wait %d\n", ret);
			goto err;
		}
		if (check_cqe(cqe, i, head, succ))
			goto err;
		io_uring_cqe_seen(ring, cqe);
	}
	ret = check_words(words, head, succ);
	close(fds[0]);
	return ret;
err:
	close(fds[0]);
	if (fds[1] != -1)
		close(fds[1]);
	return 1;
}

static int test_ring(unsigned int flags, const char *name)
{
	struct io_uring ring;
	unsigned int head, succ;
	int ret;

	ret = t_create_ring(MAX_CHAIN, &ring, flags);
	if (ret == T_SETUP_SKIP)
		return 0;
	if (ret)
		return 1;

	for (head = 0; head < HEAD_LAST && !ret; head++) {
		for (succ = 0; succ < SUCC_LAST && !ret; succ++) {
			ret = test_chain(&ring,
					 flags & IORING_SETUP_DEFER_TASKRUN,
					 head, succ);
			if (ret)
				fprintf(stderr, "%s: head %u, successor %u\n",
					name, head, succ);
		}
	}

	io_uring_queue_exit(&ring);
	return ret;
}

int main(int argc, char *argv[])
{
	unsigned int i;

	/* running short links inline came along with this opcode */
	if (argc > 1 || !has_op(IORING_OP_MEMCPY_IMMEDIATE))
		return T_EXIT_SKIP;

	for (i = 0; i < ARRAY_SIZE(rings); i++) {
		if (test_ring(rings[i].flags, rings[i].name)) {
			fprintf(stderr, "%s failed\n", rings[i].name);
			return T_EXIT_FAIL;
		}
	}

	return T_EXIT_PASS;
}
