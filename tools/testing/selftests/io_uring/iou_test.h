/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Rings of every type, deadlines on every wait, and guarded memory.
 *
 * Nothing here waits for ever: a kernel that loses a request makes a test
 * fail after WAIT_MS and not hang.
 */
#ifndef IOU_TEST_H
#define IOU_TEST_H

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>

#include <io_uring/mini_liburing.h>

#include "kselftest_harness.h"

/* libcs older than the syscalls that the tests need */
#ifndef MFD_CLOEXEC
#define MFD_CLOEXEC		1U
#endif
#ifndef MADV_HUGEPAGE
#define MADV_HUGEPAGE		14
#endif

/* A lost completion is noticed after this long; a slow emulator needs much */
#define WAIT_MS			60000
/* The harness' bound: nothing but a hang may reach it, on a busy host as well */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	300
/* That of tests that move much memory or run against the clock */
#define LONG_TIMEOUT		900
#define RING_ENTRIES		128
#define POISON			0xa5
#define GUARD			64

#define IMM_OP(op)		((__u32)(op) << IORING_MEMCPY_IMM_OP_SHIFT)

#ifndef ARRAY_SIZE
#define ARRAY_SIZE(a)		(sizeof(a) / sizeof((a)[0]))
#endif

static inline __u64 u64_ptr(const void *p)
{
	return (uintptr_t)p;
}

static inline __u64 now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000ULL + ts.tv_nsec / 1000;
}

static inline __u64 now_ms(void)
{
	return now_us() / 1000;
}

/*
 * Return what a helper returns, and tell which of its steps that comes from: the
 * request under test may end with the same errno.
 */
static inline int step_failed(const char *step, int err)
{
	fprintf(stderr, "# %s: %s\n", step, strerror(-err));
	return err;
}

/*
 * How long a race or litmus test runs. The default keeps the directory short
 * enough for an emulator; IO_URING_TEST_MS lengthens a run on real hardware.
 */
static inline unsigned int run_ms(unsigned int dflt)
{
	const char *s = getenv("IO_URING_TEST_MS");

	return s ? strtoul(s, NULL, 0) : dflt;
}

/*
 * One row for each way a request gets executed. @sqe_flags goes into every
 * request under test; io-wq is a default ring with IOSQE_ASYNC.
 */
struct ring_type {
	unsigned int	setup;
	unsigned int	sqe_flags;
};

#define RING_PLAIN	{ .type = { .setup = 0 } }
#define RING_COOP	{ .type = { .setup = IORING_SETUP_COOP_TASKRUN } }
#define RING_DEFER	{ .type = { .setup = IORING_SETUP_DEFER_TASKRUN | \
					     IORING_SETUP_SINGLE_ISSUER } }
#define RING_SQPOLL	{ .type = { .setup = IORING_SETUP_SQPOLL } }
#define RING_IOPOLL	{ .type = { .setup = IORING_SETUP_IOPOLL } }
#define RING_IOWQ	{ .type = { .sqe_flags = IOSQE_ASYNC } }

#define DEFER(variant)	((variant)->type.setup & IORING_SETUP_DEFER_TASKRUN)
#define IOPOLL(variant)	((variant)->type.setup & IORING_SETUP_IOPOLL)

struct ring {
	struct io_uring	u;
	unsigned int	setup;
	unsigned int	enters;		/* io_uring_enter() calls so far */
};

static inline int ring_init_params(struct ring *r, unsigned int entries,
				   struct io_uring_params *p)
{
	struct io_uring_sq *sq = &r->u.sq;
	struct io_uring_cq *cq = &r->u.cq;
	size_t mask = sysconf(_SC_PAGESIZE) - 1;

	memset(r, 0, sizeof(*r));
	p->flags |= IORING_SETUP_NO_SQARRAY | IORING_SETUP_SUBMIT_ALL;
	if (p->flags & IORING_SETUP_SQPOLL)
		p->sq_thread_idle = 100;
	r->setup = p->flags;
	/* the return value alone does not tell why setup failed */
	if (io_uring_queue_init_params(entries, &r->u, p))
		return -errno;
	/* a child has no business here, and the ring ends with its owner */
	madvise((void *)((uintptr_t)sq->khead & ~mask), sq->ring_sz,
		MADV_DONTFORK);
	madvise((void *)((uintptr_t)cq->khead & ~mask), cq->ring_sz,
		MADV_DONTFORK);
	madvise(sq->sqes, p->sq_entries * sizeof(*sq->sqes), MADV_DONTFORK);
	return 0;
}

static inline int ring_init(struct ring *r, unsigned int entries,
			    unsigned int setup)
{
	struct io_uring_params p = { .flags = setup | IORING_SETUP_CQSIZE };

	p.cq_entries = entries * 4;
	return ring_init_params(r, entries, &p);
}

/* This kernel has no io_uring, or not for this user: a reason to skip */
static inline bool ring_unavailable(void)
{
	FILE *f = fopen("/proc/sys/kernel/io_uring_disabled", "r");
	int disabled = 1;

	if (f) {
		if (fscanf(f, "%d", &disabled) != 1)
			disabled = 1;
		fclose(f);
	}
	return disabled;
}

static inline void ring_exit(struct ring *r)
{
	struct io_uring_cq *cq = &r->u.cq;
	size_t mask = sysconf(_SC_PAGESIZE) - 1;

	if (r->u.sq.sqes) {
		/* io_uring_queue_exit() leaves this mapping */
		munmap((void *)((uintptr_t)cq->khead & ~mask), cq->ring_sz);
		io_uring_queue_exit(&r->u);
	}
	memset(r, 0, sizeof(*r));
}

static inline int ring_register(struct ring *r, unsigned int op, void *arg,
				unsigned int nr)
{
	int ret = syscall(__NR_io_uring_register, r->u.ring_fd, op, arg, nr);

	return ret < 0 ? -errno : ret;
}

static inline int ring_buffers_sparse(struct ring *r, unsigned int nr)
{
	struct io_uring_rsrc_register reg = {
		.nr = nr, .flags = IORING_RSRC_REGISTER_SPARSE,
	};

	return ring_register(r, IORING_REGISTER_BUFFERS2, &reg, sizeof(reg));
}

static inline int ring_buffer_set(struct ring *r, unsigned int idx, void *addr,
				  size_t len)
{
	struct iovec iov = { .iov_base = addr, .iov_len = len };
	struct io_uring_rsrc_update2 up = {
		.offset = idx, .nr = 1, .data = u64_ptr(&iov),
	};

	return ring_register(r, IORING_REGISTER_BUFFERS_UPDATE, &up,
			     sizeof(up));
}

/* A zeroed SQE of @op that is not for a file */
static inline struct io_uring_sqe *ring_sqe(struct ring *r, unsigned int op)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->u);

	if (!sqe) {
		fprintf(stderr, "# submission queue full\n");
		abort();
	}
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = op;
	sqe->fd = -1;
	return sqe;
}

/* Have an SQE read or write a part of a buffer that has no address */
static inline void set_rw(struct io_uring_sqe *sqe, unsigned int op, int fd,
			  unsigned int addr, unsigned int len, __u64 pos)
{
	sqe->opcode = op;
	sqe->fd = fd;
	sqe->addr = addr;
	sqe->len = len;
	sqe->off = pos;
}

static inline struct io_uring_sqe *ring_imm(struct ring *r, void *dst,
					    __u64 value, unsigned int len)
{
	struct io_uring_sqe *sqe = ring_sqe(r, IORING_OP_MEMCPY_IMMEDIATE);

	sqe->off = value;
	sqe->addr = u64_ptr(dst);
	sqe->len = len;
	return sqe;
}

static inline struct io_uring_sqe *ring_memcpy(struct ring *r, void *dst,
					       const void *src, size_t len)
{
	struct io_uring_sqe *sqe = ring_sqe(r, IORING_OP_MEMCPY);

	sqe->addr = u64_ptr(dst);
	sqe->addr2 = u64_ptr(src);
	sqe->len = len;
	return sqe;
}

static inline struct io_uring_sqe *ring_read(struct ring *r, int fd, void *buf,
					     unsigned int len)
{
	struct io_uring_sqe *sqe = ring_sqe(r, IORING_OP_READ);

	sqe->fd = fd;
	sqe->addr = u64_ptr(buf);
	sqe->len = len;
	return sqe;
}

static inline struct io_uring_sqe *ring_cancel(struct ring *r, __u64 user_data,
					       unsigned int flags)
{
	struct io_uring_sqe *sqe = ring_sqe(r, IORING_OP_ASYNC_CANCEL);

	sqe->addr = user_data;
	sqe->cancel_flags = flags;
	return sqe;
}

static inline int ring_enter(struct ring *r, unsigned int submit,
			     unsigned int min, unsigned int flags)
{
	int ret = io_uring_enter(r->u.ring_fd, submit, min, flags, NULL);

	r->enters++;
	return ret < 0 ? -errno : ret;
}

static inline unsigned int ring_publish(struct ring *r)
{
	struct io_uring_sq *sq = &r->u.sq;
	unsigned int nr = sq->sqe_tail - sq->sqe_head;

	sq->sqe_head = sq->sqe_tail;
	/* pairs with the kernel's acquire of the tail */
	__atomic_store_n(sq->ktail, sq->sqe_tail, __ATOMIC_RELEASE);
	return nr;
}

/*
 * Submit what was prepared with one io_uring_enter(), which runs no task work
 * on a DEFER_TASKRUN ring unless @flags has GETEVENTS. With SQPOLL, return
 * when the thread took the entries. Number submitted, or -errno.
 */
static inline int ring_submit_flags(struct ring *r, unsigned int flags)
{
	struct io_uring_sq *sq = &r->u.sq;
	unsigned int nr = ring_publish(r);
	__u64 end = now_ms() + WAIT_MS;

	if (!(r->setup & IORING_SETUP_SQPOLL))
		return ring_enter(r, nr, 0, flags);
	do {
		/* order the tail before the wakeup flag, see io_sq_thread() */
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (__atomic_load_n(sq->kflags, __ATOMIC_RELAXED) &
		    IORING_SQ_NEED_WAKEUP)
			ring_enter(r, 0, 0, IORING_ENTER_SQ_WAKEUP);
		if (__atomic_load_n(sq->khead, __ATOMIC_ACQUIRE) ==
		    sq->sqe_tail)
			return nr;
		sched_yield();
	} while (now_ms() < end);
	return step_failed("the SQ thread takes no entries", -ETIME);
}

static inline int ring_submit(struct ring *r)
{
	return ring_submit_flags(r, 0);
}

/* CQEs that user space could take without another system call */
static inline unsigned int ring_ready(struct ring *r)
{
	struct io_uring_cq *cq = &r->u.cq;

	return __atomic_load_n(cq->ktail, __ATOMIC_ACQUIRE) - *cq->khead;
}

static inline bool ring_peek(struct ring *r, struct io_uring_cqe *cqe)
{
	struct io_uring_cq *cq = &r->u.cq;
	unsigned int head = *cq->khead;

	if (!ring_ready(r))
		return false;
	memcpy(cqe, &cq->cqes[head & *cq->kring_mask], sizeof(*cqe));
	__atomic_store_n(cq->khead, head + 1, __ATOMIC_RELEASE);
	return true;
}

/*
 * Take one CQE. 0, or -ETIME when none came within @ms. If it was refused to wait
 * for one, that is told instead.
 */
static inline int ring_wait_ms(struct ring *r, struct io_uring_cqe *cqe,
			       unsigned int ms)
{
	struct __kernel_timespec ts = { .tv_nsec = 20 * 1000 * 1000 };
	struct io_uring_getevents_arg arg = { .ts = u64_ptr(&ts) };
	unsigned int flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
	__u64 end = now_ms() + ms;
	int ret = -ETIME;

	while (!ring_peek(r, cqe)) {
		if (now_ms() >= end)
			return ret;
		r->enters++;
		ret = -ETIME;
		if (syscall(__NR_io_uring_enter, r->u.ring_fd, 0, 1, flags,
			    &arg, sizeof(arg)) < 0 && errno != EINTR)
			ret = -errno;
		/* a polled ring does not sleep: let io-wq have the CPU */
		if (r->setup & IORING_SETUP_IOPOLL)
			sched_yield();
	}
	return 0;
}

static inline int ring_wait(struct ring *r, struct io_uring_cqe *cqe)
{
	int ret = ring_wait_ms(r, cqe, WAIT_MS);

	return ret ? step_failed("no CQE", ret) : 0;
}

/* Wait for the CQE of @user_data, the only one in flight: its result */
static inline int ring_result(struct ring *r)
{
	struct io_uring_cqe cqe;
	int ret = ring_wait(r, &cqe);

	return ret ? ret : cqe.res;
}

/* Submit what was prepared, which makes one CQE: its result */
static inline int ring_run(struct ring *r)
{
	int ret = ring_submit(r);

	return ret < 0 ? ret : ring_result(r);
}

/*
 * Collect @nr CQEs whose user_data are 0..nr-1, each once, in any order:
 * results in res[]. 0 or -errno.
 */
static inline int ring_collect(struct ring *r, int *res, unsigned int nr)
{
	struct io_uring_cqe cqe;
	unsigned int i;
	bool *seen;
	int ret = 0;

	seen = calloc(nr, sizeof(*seen));
	if (!seen)
		return -ENOMEM;
	for (i = 0; i < nr && !ret; i++) {
		ret = ring_wait(r, &cqe);
		if (ret)
			break;
		if (cqe.user_data >= nr || seen[cqe.user_data]) {
			fprintf(stderr, "# user_data %llu\n",
				(unsigned long long)cqe.user_data);
			ret = step_failed("a CQE of nobody, or a second one",
					  -EBADMSG);
			break;
		}
		seen[cqe.user_data] = true;
		res[cqe.user_data] = cqe.res;
	}
	free(seen);
	return ret;
}

/* No further CQE shows up within a moment */
static inline bool ring_quiet(struct ring *r)
{
	struct io_uring_cqe cqe;

	return ring_wait_ms(r, &cqe, 30) == -ETIME;
}

static inline bool ring_has_op(struct ring *r, unsigned int op)
{
	struct io_uring_probe *p;
	bool ret = false;

	p = calloc(1, sizeof(*p) + 256 * sizeof(p->ops[0]));
	if (!p)
		return false;
	if (!ring_register(r, IORING_REGISTER_PROBE, p, 256))
		ret = op <= p->last_op &&
		      (p->ops[op].flags & IO_URING_OP_SUPPORTED);
	free(p);
	return ret;
}

/*
 * The ring of a fixture. False, and a reason to skip its tests, where this
 * kernel has no io_uring, or not for this user, or not @op.
 */
#define SETUP_RING(r, entries, setup, op) \
	setup_ring(_metadata, r, entries, setup, op, #op)

static inline bool setup_ring(struct __test_metadata *_metadata, struct ring *r,
			      unsigned int entries, unsigned int setup,
			      unsigned int op, const char *op_name)
{
	int ret = ring_init(r, entries, setup);

	if (ret && ring_unavailable())
		SKIP(return false, "no io_uring: %s", strerror(-ret));
	ASSERT_EQ(0, ret);
	if (!ring_has_op(r, op))
		SKIP(return false, "kernel has no %s", op_name);
	return true;
}

/*
 * What an SQE that must be refused has in its fields, and the errno it gets.
 * Where and how much it would write is for the test to fill in.
 */
struct bad_sqe {
	const char	*what;
	int		err;
	unsigned int	len, off, flags, sqe_flags;
	int		fd;
	unsigned int	ioprio, buf_index, file_index;
	__u64		addr3, pad2;
};

static inline void ring_make_bad(struct io_uring_sqe *sqe,
				 const struct bad_sqe *bad)
{
	sqe->memcpy_flags = bad->flags;
	sqe->flags = bad->sqe_flags;
	sqe->fd = bad->fd;
	sqe->ioprio = bad->ioprio;
	sqe->buf_index = bad->buf_index;
	sqe->file_index = bad->file_index;
	sqe->addr3 = bad->addr3;
	sqe->__pad2[0] = bad->pad2;
}

static inline size_t page_size(void)
{
	return sysconf(_SC_PAGESIZE);
}

/*
 * Memory with an unmapped page on both sides. A shared one has a second
 * mapping, so that its content is checked by another way than it was written.
 */
struct arena {
	unsigned char	*mem;
	unsigned char	*view;		/* NULL: private memory */
	size_t		len;
};

static inline int arena_init(struct arena *a, size_t len, bool shared)
{
	size_t ps = page_size();
	unsigned char *area;
	int fd = -1;

	len = (len + ps - 1) / ps * ps;
	memset(a, 0, sizeof(*a));
	area = mmap(NULL, len + 2 * ps, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		return -errno;
	if (shared) {
		fd = syscall(__NR_memfd_create, "arena", MFD_CLOEXEC);
		if (fd < 0 || ftruncate(fd, len))
			return -errno;
		a->view = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED,
			       fd, 0);
		if (a->view == MAP_FAILED)
			return -errno;
	}
	a->mem = mmap(area + ps, len, PROT_READ | PROT_WRITE, MAP_FIXED |
		      (shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS),
		      fd, 0);
	if (a->mem == MAP_FAILED)
		return -errno;
	if (fd >= 0)
		close(fd);
	a->len = len;
	return 0;
}

static inline void arena_exit(struct arena *a)
{
	size_t ps = page_size();

	if (!a->mem)
		return;
	munmap(a->mem - ps, a->len + 2 * ps);
	if (a->view)
		munmap(a->view, a->len);
	memset(a, 0, sizeof(*a));
}

/* Read back without the mapping, and the page tables, that were written by */
static inline int arena_read(struct arena *a, void *to, size_t off, size_t len)
{
	ssize_t ret;
	int fd;

	if (a->view) {
		memcpy(to, a->view + off, len);
		return 0;
	}
	fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = pread(fd, to, len, (uintptr_t)a->mem + off);
	if (ret < 0)
		ret = -errno;
	else if (ret != (ssize_t)len)
		ret = step_failed("short read of /proc/self/mem", -EIO);
	else
		ret = 0;
	close(fd);
	return ret;
}

/* Bytes that tell their position and the run */
static inline unsigned char pattern(size_t i, unsigned int seed)
{
	return ((unsigned int)i * 0x9e3779b1u + seed * 0x85ebca6bu) >> 13;
}

static inline void fill_pattern(unsigned char *p, size_t len, unsigned int seed)
{
	size_t i;

	for (i = 0; i < len; i++)
		p[i] = pattern(i, seed);
}

/* Index of the first byte that differs, @len when none does */
static inline size_t check_pattern(const unsigned char *p, size_t len,
				   unsigned int seed)
{
	size_t i;

	for (i = 0; i < len; i++)
		if (p[i] != pattern(i, seed))
			return i;
	return len;
}

static inline bool all_bytes(const void *p, int c, size_t len)
{
	const unsigned char *b = p;
	size_t i;

	for (i = 0; i < len; i++)
		if (b[i] != (unsigned char)c)
			return false;
	return true;
}

static inline bool untouched(struct arena *a)
{
	return all_bytes(a->view ? a->view : a->mem, POISON, a->len);
}

/*
 * Pages whose first access blocks until the test lets it go on, or until
 * @late says that the test was itself stuck behind it.
 */
struct blocker {
	int		fd;
	unsigned char	*addr;
	size_t		len;
	unsigned char	*fill;		/* what the pages shall hold */
	int		seen;
	int		go;
	int		late;
	pthread_t	thread;
};

static inline void *blocker_thread(void *arg)
{
	struct blocker *b = arg;
	struct pollfd pfd = { .fd = b->fd, .events = POLLIN };
	struct uffdio_copy copy = {
		.dst = u64_ptr(b->addr), .src = u64_ptr(b->fill),
		.len = b->len,
	};
	struct uffd_msg msg;
	__u64 end;

	while (!__atomic_load_n(&b->go, __ATOMIC_ACQUIRE)) {
		if (poll(&pfd, 1, 20) == 1 &&
		    read(b->fd, &msg, sizeof(msg)) == sizeof(msg) &&
		    msg.event == UFFD_EVENT_PAGEFAULT)
			break;
	}
	if (!__atomic_load_n(&b->go, __ATOMIC_ACQUIRE)) {
		end = now_ms() + WAIT_MS / 2;
		__atomic_store_n(&b->seen, 1, __ATOMIC_RELEASE);
		while (!__atomic_load_n(&b->go, __ATOMIC_ACQUIRE)) {
			if (now_ms() > end) {
				b->late = 1;
				break;
			}
			usleep(1000);
		}
	}
	ioctl(b->fd, UFFDIO_COPY, &copy);
	return NULL;
}

/* 0, or -errno where the kernel has no userfaultfd for this caller */
static inline int blocker_init(struct blocker *b, void *addr, size_t len,
			       int fill)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { .start = u64_ptr(addr), .len = len },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	memset(b, 0, sizeof(*b));
	b->addr = addr;
	b->len = len;
	b->fd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (b->fd < 0)
		return -errno;
	b->fill = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->fill == MAP_FAILED)
		return -errno;
	memset(b->fill, fill, len);
	madvise(addr, len, MADV_DONTNEED);
	if (ioctl(b->fd, UFFDIO_API, &api) ||
	    ioctl(b->fd, UFFDIO_REGISTER, &reg))
		return -errno;
	return -pthread_create(&b->thread, NULL, blocker_thread, b);
}

/* Something is stuck in the pages now: within @ms, or false */
static inline bool blocker_wait(struct blocker *b, unsigned int ms)
{
	__u64 end = now_ms() + ms;

	while (!__atomic_load_n(&b->seen, __ATOMIC_ACQUIRE)) {
		if (now_ms() > end)
			return false;
		usleep(500);
	}
	return true;
}

/* Let the access go on; false when it was let go before it was asked for */
static inline bool blocker_release(struct blocker *b)
{
	__atomic_store_n(&b->go, 1, __ATOMIC_RELEASE);
	pthread_join(b->thread, NULL);
	close(b->fd);
	munmap(b->fill, b->len);
	return !b->late;
}

#endif /* IOU_TEST_H */
