// SPDX-License-Identifier: GPL-2.0
/*
 * The two opcodes against everything that may go on meanwhile: mappings and
 * buffers that change, tasks and rings that end, cancels, timeouts, full CQ
 * rings and SQEs of random content. Each case runs for a bounded time, 3 s
 * unless IO_URING_TEST_MS says otherwise, and checks that each request
 * completes once and that memory holds what cqe->res says. The kernel's
 * checkers have to tell the rest.
 */
#include <sys/prctl.h>

#include "iou_test.h"
#include "kselftest_harness.h"

#define RACE_MS		3000
#define SEED		11
#define MAX_RW_COUNT	(0x7fffffffu & ~((__u32)page_size() - 1))

static const unsigned int setups[] = {
	0, IORING_SETUP_COOP_TASKRUN,
	IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
	IORING_SETUP_SQPOLL, IORING_SETUP_IOPOLL,
};

/* xorshift64*: the same on every machine, so that a seed means something */
struct rnd {
	__u64 s;
};

static __u32 rnd(struct rnd *r)
{
	r->s ^= r->s >> 12;
	r->s ^= r->s << 25;
	r->s ^= r->s >> 27;
	return (r->s * 0x2545f4914f6cdd1dULL) >> 32;
}

static __u32 rnd_max(struct rnd *r, __u32 max)
{
	return rnd(r) % (max + 1);
}

static bool one_in(struct rnd *r, unsigned int n)
{
	return !(rnd(r) % n);
}

static struct rnd rnd_init(const char *test)
{
	const char *s = getenv("IO_URING_TEST_SEED");
	struct rnd r = { .s = s ? strtoull(s, NULL, 0) : now_us() };

	if (!r.s)
		r.s = 1;
	printf("# %s: IO_URING_TEST_SEED=%llu\n", test,
	       (unsigned long long)r.s);
	fflush(stdout);
	return r;
}

/* @pid ended by itself or by a signal of ours, soon enough */
static bool reaped(pid_t pid, int *status)
{
	__u64 end = now_ms() + WAIT_MS;

	while (now_ms() < end) {
		if (waitpid(pid, status, WNOHANG) == pid)
			return true;
		usleep(1000);
	}
	return false;
}

#define REGION		(1024 * 1024)

struct mapper {
	unsigned char *region;
	struct rnd rnd;
	int stop;
};

/* Never leaves the region to others: what is unmapped becomes PROT_NONE */
static void *mapper_thread(void *arg)
{
	struct mapper *m = arg;
	size_t ps = page_size(), pages = REGION / ps;

	while (!__atomic_load_n(&m->stop, __ATOMIC_RELAXED)) {
		size_t at = rnd_max(&m->rnd, pages - 1);
		size_t n = 1 + rnd_max(&m->rnd, 31);
		unsigned char *p = m->region + at * ps;
		int rw = PROT_READ | PROT_WRITE;
		void *q;

		if (at + n > pages)
			n = pages - at;
		switch (rnd_max(&m->rnd, 6)) {
		case 0:
			mmap(p, n * ps, PROT_NONE, MAP_FIXED | MAP_PRIVATE |
			     MAP_ANONYMOUS, -1, 0);
			break;
		case 1:
		case 2:
			mmap(p, n * ps, rw, MAP_FIXED | MAP_PRIVATE |
			     MAP_ANONYMOUS, -1, 0);
			break;
		case 3:
			madvise(p, n * ps, MADV_DONTNEED);
			break;
		case 4:
			mprotect(p, n * ps, PROT_READ);
			break;
		case 5:
			mprotect(p, n * ps, rw);
			break;
		default:
			/* elsewhere, and something new in its place */
			q = mmap(NULL, n * ps, PROT_NONE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (q == MAP_FAILED)
				break;
			if (mremap(p, n * ps, n * ps,
				   MREMAP_MAYMOVE | MREMAP_FIXED, q) != q) {
				munmap(q, n * ps);
				break;
			}
			mmap(p, n * ps, rw, MAP_FIXED | MAP_PRIVATE |
			     MAP_ANONYMOUS, -1, 0);
			munmap(q, n * ps);
		}
	}
	return NULL;
}

FIXTURE(race) {
};

FIXTURE_VARIANT(race) {
	struct ring_type type;
};

FIXTURE_VARIANT_ADD(race, plain) RING_PLAIN;
FIXTURE_VARIANT_ADD(race, coop) RING_COOP;
FIXTURE_VARIANT_ADD(race, defer) RING_DEFER;
FIXTURE_VARIANT_ADD(race, sqpoll) RING_SQPOLL;
FIXTURE_VARIANT_ADD(race, iopoll) RING_IOPOLL;
FIXTURE_VARIANT_ADD(race, iowq) RING_IOWQ;

FIXTURE_SETUP(race)
{
	struct ring r;

	if (SETUP_RING(&r, 8, variant->type.setup, IORING_OP_MEMCPY))
		ring_exit(&r);
}

FIXTURE_TEARDOWN(race)
{
}

/* munmap, mremap, mprotect and MADV_DONTNEED under the feet of copies */
TEST_F_TIMEOUT(race, mappings, LONG_TIMEOUT)
{
	__u64 end = now_ms() + run_ms(RACE_MS / 3);
	struct mapper m = { .rnd = rnd_init("mappings") };
	struct rnd rn = { .s = m.rnd.s ^ 0x55 };
	struct io_uring_sqe *sqe;
	unsigned int i, ops = 0;
	pthread_t thread;
	struct arena a;
	struct ring r;
	struct {
		size_t off, len;
		int res;
		bool in;
	} op[8];
	int res[8];

	ASSERT_EQ(0, ring_init(&r, RING_ENTRIES, variant->type.setup));
	m.region = mmap(NULL, REGION, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, m.region);
	ASSERT_EQ(0, arena_init(&a, 8 * 256 * 1024, false));
	memset(a.mem, POISON, a.len);
	ASSERT_EQ(0, pthread_create(&thread, NULL, mapper_thread, &m));
	while (!ops || now_ms() < end) {
		for (i = 0; i < ARRAY_SIZE(op); i++) {
			unsigned char *mine = a.mem + i * 256 * 1024;

			op[i].len = 1 + rnd_max(&rn, one_in(&rn, 2) ? 200000 :
								     9000);
			op[i].off = rnd_max(&rn, REGION - op[i].len);
			op[i].in = one_in(&rn, 2);
			if (one_in(&rn, 5)) {
				op[i].in = false;
				op[i].len = 8;
				op[i].off &= ~7UL;
				sqe = ring_imm(&r, m.region + op[i].off, rnd(&rn),
					       8);
			} else if (op[i].in) {
				sqe = ring_memcpy(&r, mine + GUARD,
						  m.region + op[i].off,
						  op[i].len);
			} else {
				sqe = ring_memcpy(&r, m.region + op[i].off,
						  mine + GUARD, op[i].len);
			}
			sqe->flags = variant->type.sqe_flags;
			sqe->user_data = i;
		}
		ASSERT_EQ(ARRAY_SIZE(op), ring_submit(&r));
		ASSERT_EQ(0, ring_collect(&r, res, ARRAY_SIZE(op)));
		for (i = 0; i < ARRAY_SIZE(op); i++) {
			unsigned char *mine = a.mem + i * 256 * 1024;
			size_t n = res[i] > 0 ? res[i] : 0;

			ASSERT_TRUE(res[i] == -EFAULT ||
				    (res[i] > 0 && n <= op[i].len)) {
				TH_LOG("result %d of %zu", res[i], op[i].len);
			}
			if (!op[i].in)
				continue;
			ASSERT_TRUE(all_bytes(mine, POISON, GUARD));
			ASSERT_TRUE(all_bytes(mine + GUARD + n, POISON,
					      op[i].len + GUARD - n));
			memset(mine + GUARD, POISON, n);
		}
		ops += ARRAY_SIZE(op);
	}
	__atomic_store_n(&m.stop, 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	EXPECT_LT(0, ops);
	EXPECT_TRUE(ring_quiet(&r));
	ring_exit(&r);
	munmap(m.region, REGION);
	arena_exit(&a);
}

struct forker {
	unsigned char *mem;
	size_t len;
	unsigned int forks, bad;
	int stop;
};

/* Children that write to the memory which they share with a running copy */
static void *fork_thread(void *arg)
{
	struct forker *f = arg;
	int status;
	pid_t pid;

	while (!__atomic_load_n(&f->stop, __ATOMIC_RELAXED)) {
		pid = fork();
		if (!pid) {
			memset(f->mem, 0xee, f->len);
			_exit(0);
		}
		if (pid < 0 || !reaped(pid, &status) || status)
			f->bad++;
		f->forks++;
	}
	return NULL;
}

TEST_F_TIMEOUT(race, fork, LONG_TIMEOUT)
{
	__u64 end = now_ms() + run_ms(RACE_MS / 3);
	unsigned int i = 0, flags;
	struct io_uring_sqe *sqe;
	struct forker f = {};
	struct arena src, dst;
	size_t len = 150001;
	pthread_t thread;
	struct ring r;

	ASSERT_EQ(0, ring_init(&r, RING_ENTRIES, variant->type.setup));
	ASSERT_EQ(0, arena_init(&src, 256 * 1024, false));
	ASSERT_EQ(0, arena_init(&dst, 256 * 1024, false));
	fill_pattern(src.mem, src.len, SEED);
	memset(dst.mem, POISON, dst.len);
	ASSERT_EQ(0, ring_buffers_sparse(&r, 2));
	ASSERT_EQ(1, ring_buffer_set(&r, 0, dst.mem, dst.len));
	ASSERT_EQ(1, ring_buffer_set(&r, 1, src.mem, src.len));
	f.mem = dst.mem;
	f.len = dst.len;
	ASSERT_EQ(0, pthread_create(&thread, NULL, fork_thread, &f));
	while (!__atomic_load_n(&f.forks, __ATOMIC_RELAXED) || now_ms() < end) {
		flags = i++ % 4;
		sqe = ring_memcpy(&r, dst.mem + 77, src.mem + i % 999, len);
		sqe->memcpy_flags = flags;
		sqe->file_index = flags & IORING_MEMCPY_SRC_FIXED ? 1 : 0;
		sqe->flags = variant->type.sqe_flags;
		ASSERT_EQ(len, ring_run(&r));
		ASSERT_EQ(0, memcmp(dst.mem + 77, src.mem + i % 999, len));
		ASSERT_EQ(POISON, dst.mem[76]);
		ASSERT_EQ(POISON, dst.mem[77 + len]);
		memset(dst.mem + 77, POISON, len);
	}
	__atomic_store_n(&f.stop, 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	EXPECT_EQ(0, f.bad);
	EXPECT_LT(0, f.forks);
	ring_exit(&r);
	arena_exit(&src);
	arena_exit(&dst);
}

/* A ring with copies of every kind in flight; never returns an error */
static void flood(struct ring *r, unsigned char *mem, size_t len, unsigned int n,
		  unsigned int sqe_flags)
{
	struct io_uring_sqe *sqe;
	unsigned int i;

	for (i = 0; i < n; i++) {
		switch (i % 4) {
		case 0:
			sqe = ring_imm(r, mem + 8 * i, i, 8);
			break;
		case 1:
			sqe = ring_memcpy(r, mem, mem + len / 2, 3000);
			break;
		case 2:
			sqe = ring_memcpy(r, mem + len / 2, mem, len / 2);
			break;
		default:
			sqe = ring_sqe(r, IORING_OP_NOP);
			sqe->nop_flags = IORING_NOP_TW;
		}
		sqe->flags = sqe_flags | (i & 1 || i == n - 1 ? 0 :
							IOSQE_IO_LINK);
	}
	ring_submit(r);
}

/* exec() and exit() of a task whose copies are queued and running */
TEST_F_TIMEOUT(race, exec_and_exit, LONG_TIMEOUT)
{
	__u64 end = now_ms() + run_ms(RACE_MS / 3);
	struct rnd rn = rnd_init("exec_and_exit");
	unsigned int rounds = 0;
	int status;
	pid_t pid;

	while (!rounds || now_ms() < end) {
		unsigned int how = rnd_max(&rn, 2), us = rnd_max(&rn, 2000);

		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			size_t len = 2 << 20;
			unsigned char *mem;
			struct ring r;

			mem = mmap(NULL, len, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (mem == MAP_FAILED ||
			    ring_init(&r, 64, variant->type.setup))
				_exit(9);
			flood(&r, mem, len, 32, variant->type.sqe_flags);
			if (us & 1)
				usleep(us);
			if (how == 1) {
				close(1);
				close(2);
				/* prints its help and returns SKIP */
				execl("/proc/self/exe", "memcpy_race", "-h",
				      NULL);
				_exit(9);
			}
			if (how == 2)
				kill(getpid(), SIGKILL);
			_exit(4);
		}
		ASSERT_TRUE(reaped(pid, &status)) {
			TH_LOG("how %u: does not end", how);
		}
		ASSERT_EQ(how == 2, !!WIFSIGNALED(status));
		if (how != 2)
			ASSERT_EQ(4, WEXITSTATUS(status));
		rounds++;
	}
	EXPECT_LT(0, rounds);
}

/* The last reference to a ring goes while its requests run */
TEST_F_TIMEOUT(race, ring_close, LONG_TIMEOUT)
{
	__u64 end = now_ms() + run_ms(RACE_MS / 3);
	struct rnd rn = rnd_init("ring_close");
	unsigned int rounds = 0;
	size_t len = 2 << 20;
	unsigned char *mem;
	struct blocker b;
	struct ring r;
	bool blocked;

	while (!rounds || now_ms() < end) {
		mem = mmap(NULL, len, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		ASSERT_NE(MAP_FAILED, mem);
		ASSERT_EQ(0, ring_init(&r, 64, variant->type.setup));
		if (one_in(&rn, 2)) {
			ASSERT_EQ(0, ring_buffers_sparse(&r, 1));
			ASSERT_EQ(1, ring_buffer_set(&r, 0, mem, len));
		}
		blocked = one_in(&rn, 4) &&
			  !blocker_init(&b, mem + len / 4, page_size(), 1);
		flood(&r, mem, len, 32, variant->type.sqe_flags);
		if (one_in(&rn, 2))
			usleep(rnd_max(&rn, 2000));
		ring_exit(&r);
		if (blocked)
			EXPECT_TRUE(blocker_release(&b));
		munmap(mem, len);
		rounds++;
	}
	EXPECT_LT(0, rounds);
}

struct swapper {
	struct ring *ring;
	struct arena *a, *b;
	struct rnd rnd;
	unsigned int changes;
	int stop;
};

/* The table of the ring: other buffers, none, a clone of it, a new one */
static void *swapper_thread(void *arg)
{
	struct swapper *s = arg;
	struct io_uring_clone_buffers clone = {};
	struct ring other;

	while (!__atomic_load_n(&s->stop, __ATOMIC_RELAXED)) {
		switch (rnd_max(&s->rnd, 5)) {
		case 0:
			ring_buffer_set(s->ring, 0, s->b->mem, s->b->len);
			break;
		case 1:
			ring_buffer_set(s->ring, 0, NULL, 0);
			break;
		case 2:
			if (ring_init(&other, 8, 0))
				break;
			clone.src_fd = s->ring->u.ring_fd;
			ring_register(&other, IORING_REGISTER_CLONE_BUFFERS,
				      &clone, 1);
			ring_exit(&other);
			break;
		case 3:
			ring_register(s->ring, IORING_UNREGISTER_BUFFERS, NULL,
				      0);
			ring_buffers_sparse(s->ring, 2);
			ring_buffer_set(s->ring, 1, s->b->mem, s->b->len);
			break;
		default:
			ring_buffer_set(s->ring, 0, s->a->mem, s->a->len);
			ring_buffer_set(s->ring, 1, s->b->mem, s->b->len);
		}
		s->changes++;
		sched_yield();
	}
	return NULL;
}

TEST_F_TIMEOUT(race, buffers, LONG_TIMEOUT)
{
	__u64 end = now_ms() + run_ms(RACE_MS / 3);
	struct swapper s = { .rnd = rnd_init("buffers") };
	unsigned int i, done = 0, refused = 0;
	struct io_uring_sqe *sqe;
	struct arena a, b;
	pthread_t thread;
	struct ring r;

	if (variant->type.setup & IORING_SETUP_SINGLE_ISSUER) {
		TH_LOG("n/a: %s", "only one task may register with this ring");
		return;
	}
	ASSERT_EQ(0, ring_init(&r, RING_ENTRIES, variant->type.setup));
	ASSERT_EQ(0, arena_init(&a, 256 * 1024, true));
	ASSERT_EQ(0, arena_init(&b, 256 * 1024, true));
	memset(a.view, POISON, a.len);
	fill_pattern(b.view, b.len, SEED);
	ASSERT_EQ(0, ring_buffers_sparse(&r, 2));
	s.ring = &r;
	s.a = &a;
	s.b = &b;
	ASSERT_EQ(0, pthread_create(&thread, NULL, swapper_thread, &s));
	for (i = 0; now_ms() < end; i++) {
		size_t len = i & 1 ? 150001 : 4001, off = 100 + i % 5000;
		int res, imm;

		/* into a buffer that may be there, and out of another one */
		sqe = ring_memcpy(&r, a.mem + off, b.mem + i % 77, len);
		sqe->memcpy_flags = IORING_MEMCPY_DST_FIXED |
				    IORING_MEMCPY_SRC_FIXED;
		sqe->file_index = 1;
		sqe->flags = variant->type.sqe_flags;
		res = ring_run(&r);
		ASSERT_TRUE(res == -EFAULT || res == (int)len) {
			TH_LOG("result %d", res);
		}
		sqe = ring_imm(&r, a.mem + 8, i, 8);
		sqe->memcpy_flags = IORING_MEMCPY_DST_FIXED;
		sqe->flags = variant->type.sqe_flags;
		imm = ring_run(&r);
		ASSERT_TRUE(imm == -EFAULT || imm == 8);
		if (imm == 8)
			ASSERT_EQ(i, *(__u64 *)(a.view + 8));
		if (res > 0) {
			ASSERT_EQ(0, memcmp(a.view + off, b.view + i % 77,
					    len));
			memset(a.view + off, POISON, len);
			done++;
		} else {
			refused++;
		}
		ASSERT_TRUE(all_bytes(a.view + 16, POISON, off + len));
	}
	__atomic_store_n(&s.stop, 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	EXPECT_EQ(b.len, check_pattern(b.view, b.len, SEED));
	TH_LOG("%u copies, %u refused, %u changes", done, refused, s.changes);
	ring_exit(&r);
	arena_exit(&a);
	arena_exit(&b);
}

#define SLOTS		8
#define SLOT		(512 * 1024)

static bool slot_ok(unsigned char *mem, unsigned int slot, size_t len, int res)
{
	unsigned char *dst = mem + slot * SLOT + GUARD;
	size_t n = res > 0 ? res : 0, i;

	if (!all_bytes(dst - GUARD, POISON, GUARD) ||
	    !all_bytes(dst + n, POISON, len + GUARD - n))
		return false;
	for (i = 0; i < n; i++)
		if (dst[i] != pattern(i + slot, SEED))
			return false;
	memset(dst, POISON, n);
	return true;
}

/* Cancels and timeouts of every kind against copies queued and running */
TEST_F_TIMEOUT(race, cancel, LONG_TIMEOUT)
{
	__u64 end = now_ms() + run_ms(RACE_MS / 3);
	struct rnd rn = rnd_init("cancel");
	unsigned int whole = 0, cut = 0, none = 0;
	struct __kernel_timespec ts = {};
	struct io_uring_sqe *sqe;
	__u32 workers[2] = { 2, 2 };
	unsigned int i, nr;
	struct arena src, dst;
	size_t len[SLOTS];
	int res[3 * SLOTS];
	struct ring r;

	if (variant->type.setup & IORING_SETUP_IOPOLL) {
		TH_LOG("n/a: %s", "a polled ring has no ASYNC_CANCEL");
		return;
	}
	ASSERT_EQ(0, ring_init(&r, RING_ENTRIES, variant->type.setup));
	ring_register(&r, IORING_REGISTER_IOWQ_MAX_WORKERS, workers, 2);
	ASSERT_EQ(0, arena_init(&src, SLOT, false));
	ASSERT_EQ(0, arena_init(&dst, SLOTS * SLOT, false));
	fill_pattern(src.mem, src.len, SEED);
	memset(dst.mem, POISON, dst.len);
	while (now_ms() < end) {
		nr = 0;
		for (i = 0; i < SLOTS; i++) {
			len[i] = one_in(&rn, 4) ? 1 + rnd_max(&rn, 9000) :
				 300000 + rnd_max(&rn, 150000);
			sqe = ring_memcpy(&r, dst.mem + i * SLOT + GUARD,
					  src.mem + i, len[i]);
			sqe->flags = variant->type.sqe_flags;
			sqe->user_data = i;
			nr++;
			if (!one_in(&rn, 3))
				continue;
			sqe->flags |= IOSQE_IO_LINK;
			ts.tv_nsec = rnd_max(&rn, 3000000);
			sqe = ring_sqe(&r, IORING_OP_LINK_TIMEOUT);
			sqe->addr = u64_ptr(&ts);
			sqe->len = 1;
			sqe->user_data = SLOTS + i;
			nr++;
		}
		ASSERT_LT(0, ring_submit(&r));
		if (one_in(&rn, 2))
			usleep(rnd_max(&rn, 1000));
		for (i = 0; i < SLOTS; i++) {
			sqe = ring_cancel(&r, i, 0);
			if (one_in(&rn, 8))
				sqe->cancel_flags = IORING_ASYNC_CANCEL_ANY |
						    IORING_ASYNC_CANCEL_ALL;
			sqe->user_data = 2 * SLOTS + i;
			nr++;
		}
		ASSERT_LT(0, ring_submit(&r));
		/* each copy, timeout and cancel once */
		for (i = 0; i < ARRAY_SIZE(res); i++)
			res[i] = 1 << 30;
		for (i = 0; i < nr; i++) {
			struct io_uring_cqe cqe;

			ASSERT_EQ(0, ring_wait(&r, &cqe));
			ASSERT_GT(3 * SLOTS, cqe.user_data);
			ASSERT_EQ(1 << 30, res[cqe.user_data]);
			res[cqe.user_data] = cqe.res;
		}
		for (i = 0; i < SLOTS; i++) {
			ASSERT_TRUE(res[i] == -ECANCELED || res[i] == -EINTR ||
				    (res[i] > 0 && res[i] <= (int)len[i])) {
				TH_LOG("result %d of %zu", res[i], len[i]);
			}
			ASSERT_TRUE(slot_ok(dst.mem, i, len[i], res[i])) {
				TH_LOG("result %d of %zu", res[i], len[i]);
			}
			if (res[i] == (int)len[i])
				whole++;
			else if (res[i] > 0)
				cut++;
			else
				none++;
		}
	}
	TH_LOG("%u whole, %u cut short, %u cancelled", whole, cut, none);
	ring_exit(&r);
	arena_exit(&src);
	arena_exit(&dst);
}

/* A CQ ring of 8 entries and hundreds of completions */
TEST_F_TIMEOUT(race, cq_overflow, LONG_TIMEOUT)
{
	__u64 end = now_ms() + run_ms(RACE_MS / 6);
	struct io_uring_params p = {
		.flags = variant->type.setup | IORING_SETUP_CQSIZE,
		.cq_entries = 8,
	};
	unsigned int i, j, rounds = 0;
	struct io_uring_sqe *sqe;
	struct arena src, dst;
	struct ring r;
	int res[64];

	ASSERT_EQ(0, ring_init_params(&r, 8, &p));
	ASSERT_EQ(0, arena_init(&src, 128 * 1024, false));
	ASSERT_EQ(0, arena_init(&dst, 128 * 1024, false));
	fill_pattern(src.mem, src.len, SEED);
	while (!rounds || now_ms() < end) {
		for (i = 0; i < 64; i += 8) {
			for (j = i; j < i + 8; j++) {
				if (j & 1)
					sqe = ring_imm(&r, dst.mem + 8 * j, j,
						       8);
				else
					sqe = ring_memcpy(&r, dst.mem + 1024,
							  src.mem,
							  j & 2 ? 100000 : 100);
				sqe->flags = variant->type.sqe_flags |
					     (j & 4 ? 0 : IOSQE_IO_LINK);
				sqe->user_data = j;
			}
			ASSERT_EQ(8, ring_submit(&r));
		}
		ASSERT_EQ(0, ring_collect(&r, res, 64));
		for (j = 0; j < 64; j++)
			ASSERT_EQ(j & 1 ? 8 : j & 2 ? 100000 : 100, res[j]);
		ASSERT_EQ(0, memcmp(dst.mem + 1024, src.mem, 100000));
		rounds++;
	}
	EXPECT_LT(0, rounds);
	EXPECT_TRUE(ring_quiet(&r));
	ring_exit(&r);
	arena_exit(&src);
	arena_exit(&dst);
}

/*
 * Two areas in a row with nothing mapped behind each, the same two in the
 * table, and a model of both: what an SQE does to it and what it returns.
 */
#define FUZZ_LEN	(160 * 1024)

struct model {
	struct arena area[2];
	unsigned char *want[2];
};

static int range_of(struct model *m, __u64 addr, __u64 len, __u64 *off,
		    bool partly)
{
	unsigned int i;

	for (i = 0; i < 2; i++) {
		__u64 base = u64_ptr(m->area[i].mem);

		if (addr < base || addr >= base + FUZZ_LEN)
			continue;
		*off = addr - base;
		if (*off + len <= FUZZ_LEN || partly)
			return i;
	}
	return -1;
}

static int model_imm(struct model *m, const struct io_uring_sqe *sqe)
{
	unsigned int op = (sqe->memcpy_flags & IORING_MEMCPY_IMM_OP_MASK) >>
			  IORING_MEMCPY_IMM_OP_SHIFT;
	bool fixed = sqe->memcpy_flags & IORING_MEMCPY_DST_FIXED;
	__u64 off, value = sqe->off;
	unsigned char *p;
	__u32 word;
	int i;

	if (!sqe->len || sqe->len > 8 ||
	    ((sqe->len == 2 || sqe->len == 4 || sqe->len == 8) &&
	     sqe->addr % sqe->len) ||
	    sqe->memcpy_flags & ~(IORING_MEMCPY_DST_FIXED |
				  IORING_MEMCPY_IMM_OP_MASK) ||
	    op >= __IORING_MEMCPY_IMM_OP_LAST ||
	    (op && (sqe->len != 4 || fixed)) ||
	    sqe->ioprio || sqe->file_index || sqe->addr3 || sqe->__pad2[0] ||
	    (sqe->buf_index && !fixed) || (sqe->fd && sqe->fd != -1))
		return -EINVAL;
	i = range_of(m, sqe->addr, sqe->len, &off, false);
	if (i < 0 || (fixed && sqe->buf_index != i))
		return -EFAULT;
	p = m->want[i] + off;
	memcpy(&word, p, op ? 4 : 0);
	switch (op) {
	case IORING_MEMCPY_IMM_SET:
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
		value <<= 8 * (8 - sqe->len);
#endif
		memcpy(p, &value, sqe->len);
		return sqe->len;
	case IORING_MEMCPY_IMM_ADD:
		word += (__u32)value;
		break;
	case IORING_MEMCPY_IMM_OR:
		word |= (__u32)value;
		break;
	case IORING_MEMCPY_IMM_ANDN:
		word &= ~(__u32)value;
		break;
	default:
		word ^= (__u32)value;
	}
	memcpy(p, &word, 4);
	return 4;
}

/* -1: an overlap that the SQE does not show, whose result is unspecified */
static int model_memcpy(struct model *m, const struct io_uring_sqe *sqe)
{
	bool dfix = sqe->memcpy_flags & IORING_MEMCPY_DST_FIXED;
	bool sfix = sqe->memcpy_flags & IORING_MEMCPY_SRC_FIXED;
	__u64 doff = 0, soff = 0, len = sqe->len;
	bool overlap;
	int d, s;

	overlap = len && sqe->addr < sqe->addr2 + len &&
		  sqe->addr2 < sqe->addr + len;
	if (len > MAX_RW_COUNT ||
	    sqe->memcpy_flags & ~(IORING_MEMCPY_DST_FIXED |
				  IORING_MEMCPY_SRC_FIXED |
				  IORING_MEMCPY_CPU_ONLY |
				  IORING_MEMCPY_REPORT) ||
	    sqe->file_index > 65535 || (sqe->file_index && !sfix) ||
	    (sqe->buf_index && !dfix) || sqe->ioprio || sqe->addr3 ||
	    sqe->__pad2[0] || (sqe->fd && sqe->fd != -1) ||
	    (!dfix && !sfix && overlap))
		return -EINVAL;
	if (!len)
		return 0;
	d = range_of(m, sqe->addr, len, &doff, !dfix);
	s = range_of(m, sqe->addr2, len, &soff, !sfix);
	if ((dfix && sqe->buf_index > 1) || (sfix && sqe->file_index > 1))
		return -EFAULT;
	if (d < 0 || s < 0 || (dfix && sqe->buf_index != d) ||
	    (sfix && sqe->file_index != (__u32)s))
		return -EFAULT;
	if (dfix && sfix && sqe->buf_index == sqe->file_index && overlap)
		return -EINVAL;
	if (overlap)
		return -1;
	if (doff + len > FUZZ_LEN)
		len = FUZZ_LEN - doff;
	if (soff + len > FUZZ_LEN)
		len = FUZZ_LEN - soff;
	memcpy(m->want[d] + doff, m->want[s] + soff, len);
	return len;
}

static __u64 fuzz_addr(struct model *m, struct rnd *rn, size_t len)
{
	__u64 base = u64_ptr(m->area[rnd(rn) & 1].mem);

	switch (rnd_max(rn, 9)) {
	case 0:
		return base + FUZZ_LEN - rnd_max(rn, 64);
	case 1:
		return base + FUZZ_LEN - rnd_max(rn, len < FUZZ_LEN ? len :
							     FUZZ_LEN);
	case 2:
		return base + (rnd_max(rn, FUZZ_LEN / 8 - 1) * 8);
	case 3:
		return base + (rnd_max(rn, FUZZ_LEN / 4096 - 1) * 4096);
	default:
		return base + rnd_max(rn, FUZZ_LEN - 1);
	}
}

/* One that leads away from all that is mapped, not only from the areas */
static __u64 far_bit(struct rnd *rn)
{
	return 1ULL << (36 + rnd_max(rn, 27));
}

static void fuzz_sqe(struct model *m, struct rnd *rn, struct io_uring_sqe *sqe,
		     bool imm)
{
	sqe->fd = one_in(rn, 2) ? -1 : 0;
	if (imm) {
		sqe->len = 1 + rnd_max(rn, 7);
		sqe->addr = fuzz_addr(m, rn, 8);
		if (!one_in(rn, 8) && !(sqe->len & (sqe->len - 1)))
			sqe->addr &= ~(__u64)(sqe->len - 1);
		sqe->off = (__u64)rnd(rn) << 32 | rnd(rn);
		if (one_in(rn, 3)) {
			sqe->memcpy_flags = IMM_OP(rnd_max(rn, 4));
			sqe->len = one_in(rn, 8) ? sqe->len : 4;
			sqe->addr &= ~3ULL;
		}
	} else {
		static const __u32 near[] = {
			0, 1, 64, 4096, 16384, 65536, 131072,
		};

		sqe->len = rnd_max(rn, one_in(rn, 2) ? 300 : FUZZ_LEN);
		if (one_in(rn, 4))
			sqe->len = near[rnd_max(rn, 6)] + rnd_max(rn, 2);
		sqe->addr = fuzz_addr(m, rn, sqe->len);
		sqe->addr2 = fuzz_addr(m, rn, sqe->len);
		sqe->memcpy_flags = rnd(rn) & (IORING_MEMCPY_SRC_FIXED |
					       IORING_MEMCPY_CPU_ONLY |
					       IORING_MEMCPY_REPORT);
		if (sqe->memcpy_flags & IORING_MEMCPY_SRC_FIXED)
			sqe->file_index = sqe->addr2 - u64_ptr(m->area[1].mem) <
					  FUZZ_LEN;
	}
	if (one_in(rn, 3))
		sqe->memcpy_flags |= IORING_MEMCPY_DST_FIXED;
	if (sqe->memcpy_flags & IORING_MEMCPY_DST_FIXED)
		sqe->buf_index = sqe->addr - u64_ptr(m->area[1].mem) < FUZZ_LEN;
	/* and now and then something that is wrong */
	if (!one_in(rn, 12))
		return;
	switch (rnd_max(rn, 12)) {
	case 0:
		sqe->len = rnd(rn);
		break;
	case 1:
		sqe->memcpy_flags ^= 1u << rnd_max(rn, 31);
		/* a request for the engine that there is not */
		sqe->memcpy_flags &= ~IORING_MEMCPY_ENGINE_ONLY;
		break;
	case 2:
		sqe->fd = rnd(rn);
		break;
	case 3:
		sqe->ioprio = rnd(rn);
		break;
	case 4:
		sqe->buf_index = rnd_max(rn, 3);
		break;
	case 5:
		sqe->file_index = one_in(rn, 2) ? rnd(rn) : rnd_max(rn, 3);
		break;
	case 6:
		sqe->addr3 = 1ULL << rnd_max(rn, 63);
		break;
	case 7:
		sqe->__pad2[0] = 1ULL << rnd_max(rn, 63);
		break;
	case 8:
		sqe->addr = far_bit(rn);
		break;
	case 9:
		if (!imm)
			sqe->addr2 = far_bit(rn);
		break;
	case 10:
		sqe->addr = ~0ULL - rnd_max(rn, 100);
		break;
	case 11:
		sqe->addr ^= far_bit(rn);
		break;
	default:
		if (!imm)
			sqe->addr2 = sqe->addr + rnd_max(rn, 100) - 50;
	}
}

static int fuzz_ring(struct ring *r, struct model *m, unsigned int setup)
{
	int ret = ring_init(r, RING_ENTRIES, setup);

	if (!ret)
		ret = ring_buffers_sparse(r, 2);
	if (!ret)
		ret = ring_buffer_set(r, 0, m->area[0].mem, FUZZ_LEN);
	if (ret >= 0)
		ret = ring_buffer_set(r, 1, m->area[1].mem, FUZZ_LEN);
	return ret < 0 ? ret : 0;
}

static bool model_holds(struct model *m)
{
	return !memcmp(m->want[0], m->area[0].view, FUZZ_LEN) &&
	       !memcmp(m->want[1], m->area[1].view, FUZZ_LEN);
}

static void fuzz_print(struct model *m, const struct io_uring_sqe *sqe)
{
	fprintf(stderr, "# areas at %p and %p\n", m->area[0].mem,
		m->area[1].mem);
	fprintf(stderr, "# op %u flags %#x memcpy_flags %#x len %u\n",
		sqe->opcode, sqe->flags, sqe->memcpy_flags, sqe->len);
	fprintf(stderr, "# off %#llx addr %#llx addr3 %#llx pad2 %#llx\n",
		(unsigned long long)sqe->off, (unsigned long long)sqe->addr,
		(unsigned long long)sqe->addr3,
		(unsigned long long)sqe->__pad2[0]);
	fprintf(stderr, "# fd %d ioprio %u buf_index %u file_index %u\n",
		sqe->fd, sqe->ioprio, sqe->buf_index, sqe->file_index);
}

/* Random SQEs, and the same done by memcpy() in a model of the memory */
TEST_F_TIMEOUT(race, fuzz, LONG_TIMEOUT)
{
	__u64 end = now_ms() + run_ms(RACE_MS / 2);
	struct rnd rn = rnd_init("fuzz");
	unsigned int i, ops = 0, good = 0;
	struct model m = {};
	struct ring r;

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, arena_init(&m.area[i], FUZZ_LEN, true));
		m.want[i] = malloc(FUZZ_LEN);
		ASSERT_NE(NULL, m.want[i]);
		fill_pattern(m.want[i], FUZZ_LEN, SEED + i);
		memcpy(m.area[i].view, m.want[i], FUZZ_LEN);
	}
	ASSERT_EQ(0, fuzz_ring(&r, &m, variant->type.setup));
	while (!good || now_ms() < end) {
		for (i = 0; i < 16; i++) {
			struct io_uring_sqe copy, *sqe;
			bool imm = one_in(&rn, 2);
			int res, want;

			memset(&copy, 0, sizeof(copy));
			copy.opcode = imm ? IORING_OP_MEMCPY_IMMEDIATE :
					    IORING_OP_MEMCPY;
			fuzz_sqe(&m, &rn, &copy, imm);
			copy.flags = variant->type.sqe_flags |
				     (one_in(&rn, 8) ? IOSQE_ASYNC : 0);
			want = imm ? model_imm(&m, &copy) :
				     model_memcpy(&m, &copy);
			if (want == -1)
				continue;
			sqe = ring_sqe(&r, copy.opcode);
			memcpy(sqe, &copy, sizeof(copy));
			res = ring_run(&r);
			ASSERT_EQ(want, res) {
				fuzz_print(&m, &copy);
			}
			ops++;
			good += res > 0;
		}
		ASSERT_TRUE(model_holds(&m));
	}
	TH_LOG("%u requests, %u of them with an effect", ops, good);
	EXPECT_LT(0, good);
	ring_exit(&r);
	for (i = 0; i < 2; i++) {
		arena_exit(&m.area[i]);
		free(m.want[i]);
	}
}

/* Fields without sense or limit: nothing may come of it but an errno */
TEST_F_TIMEOUT(race, noise, LONG_TIMEOUT)
{
	__u64 end = now_ms() + run_ms(RACE_MS / 6);
	struct rnd rn = rnd_init("noise");
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;
	unsigned int i, j;
	struct arena a;
	struct ring r;

	ASSERT_EQ(0, ring_init(&r, RING_ENTRIES, variant->type.setup));
	ASSERT_EQ(0, arena_init(&a, 256 * 1024, false));
	ASSERT_EQ(0, ring_buffers_sparse(&r, 2));
	ASSERT_EQ(1, ring_buffer_set(&r, 0, a.mem, a.len));
	while (now_ms() < end) {
		for (i = 0; i < 32; i++) {
			__u32 *raw;

			sqe = ring_sqe(&r, 0);
			raw = (__u32 *)sqe;
			/* few bits set, so that some of it gets past prep */
			for (j = 0; j < sizeof(*sqe) / 4; j++)
				raw[j] = one_in(&rn, 6) ? rnd(&rn) & rnd(&rn) :
							  0;
			sqe->opcode = one_in(&rn, 2) ? IORING_OP_MEMCPY :
						       IORING_OP_MEMCPY_IMMEDIATE;
			/* a skipped CQE could not be counted */
			sqe->flags &= ~IOSQE_CQE_SKIP_SUCCESS;
			/* the area, or where nothing of this process is */
			if (one_in(&rn, 2))
				sqe->addr = u64_ptr(a.mem) + rnd_max(&rn, 99);
			else
				sqe->addr |= far_bit(&rn);
			if (one_in(&rn, 2))
				sqe->addr2 = u64_ptr(a.mem) + 131072;
			if (one_in(&rn, 2))
				sqe->len &= 0x1ffff;
		}
		/* the last one of a chain ends it */
		sqe->flags &= ~(IOSQE_IO_LINK | IOSQE_IO_HARDLINK);
		ASSERT_EQ(32, ring_submit(&r));
		for (i = 0; i < 32; i++)
			ASSERT_EQ(0, ring_wait(&r, &cqe));
	}
	EXPECT_TRUE(ring_quiet(&r));
	ring_exit(&r);
	arena_exit(&a);
}

/* A process that dies at a random moment of doing all of the above */
TEST(sigkill)
{
	__u64 end = now_ms() + run_ms(RACE_MS);
	struct rnd rn = rnd_init("sigkill");
	unsigned int rounds = 0;
	struct ring r;
	int status;
	pid_t pid;

	if (ring_init(&r, 8, 0) || !ring_has_op(&r, IORING_OP_MEMCPY))
		SKIP(return, "kernel has no IORING_OP_MEMCPY");
	ring_exit(&r);
	while (!rounds || now_ms() < end) {
		unsigned int type = rnd_max(&rn, ARRAY_SIZE(setups) - 1);
		unsigned int async = one_in(&rn, 3) ? IOSQE_ASYNC : 0;

		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			struct io_uring_cqe cqe;
			size_t len = 1 << 20;
			unsigned char *mem;

			prctl(PR_SET_PDEATHSIG, SIGKILL);
			mem = mmap(NULL, len, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (mem == MAP_FAILED ||
			    ring_init(&r, 64, setups[type]))
				_exit(9);
			for (;;) {
				flood(&r, mem, len, 32, async);
				while (ring_peek(&r, &cqe))
					;
				ring_enter(&r, 0, 0, IORING_ENTER_GETEVENTS);
			}
		}
		usleep(rnd_max(&rn, 20000));
		kill(pid, SIGKILL);
		ASSERT_TRUE(reaped(pid, &status)) {
			TH_LOG("ring type %u: does not end", type);
		}
		ASSERT_TRUE(WIFSIGNALED(status));
		rounds++;
	}
	EXPECT_LT(0, rounds);
}

TEST_HARNESS_MAIN
