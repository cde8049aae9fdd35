/* SPDX-License-Identifier: MIT */
/*
 * A thread spins on a word in memory, and never asks the kernel for anything.
 * Another thread submits a chain that ends in IORING_OP_MEMCPY_IMMEDIATE,
 * which stores to that word once the request before it has completed. How
 * long does it take until the first thread sees it, and how often does the
 * second one have to enter the kernel for that?
 *
 * This depends on the type of the ring, and on whether the thread that owns
 * the ring sleeps in the kernel or computes.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "liburing.h"

#define WARMUP		10
/* how long the owner computes after the event before it looks at the ring */
#define COMPUTE_NS	20000000ULL
/* how far ahead a timeout is set, and time for the owner to fall asleep */
#define AHEAD_NS	1000000ULL
#define SETTLE_NS	300000ULL
#define EXIT_NO_SUPPORT	77

#define ARRAY_SIZE(x)	(sizeof(x) / sizeof((x)[0]))

static const struct {
	const char *name;
	unsigned int flags;
} rings[] = {
	{ "default", 0 },
	{ "coop taskrun", IORING_SETUP_COOP_TASKRUN },
	{ "defer taskrun", IORING_SETUP_DEFER_TASKRUN |
			   IORING_SETUP_SINGLE_ISSUER },
	{ "sqpoll", IORING_SETUP_SQPOLL },
};

enum source { PIPE, TIMER };
enum owner { SLEEPS, COMPUTES, NR_OWNERS };

/* one cache line each, so that nothing but the store disturbs the spinner */
struct line {
	uint64_t val;
} __attribute__((aligned(64)));

static struct line word;	/* the chain stores the round's number here */
static struct line go;		/* owner: this round's chain is submitted */
static struct line seen;	/* spinner: this round's store was seen */
static struct line event;	/* when the round's event happens, 0 if unknown */

static enum source source = PIPE;
static unsigned int rounds = 100;
static bool yield;
static int fds[2];
static uint64_t seen_ns;	/* when it was seen, valid once 'seen' is set */

struct result {
	double min, p50, p99;
	double enters;
	unsigned int unaided;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static void sleep_ns(uint64_t ns)
{
	struct timespec ts = { .tv_nsec = ns };

	nanosleep(&ts, NULL);
}

static void die(const char *what, int err)
{
	fprintf(stderr, "imm-notify: %s: %s\n", what, strerror(err));
	exit(1);
}

static uint64_t load(struct line *l)
{
	return __atomic_load_n(&l->val, __ATOMIC_ACQUIRE);
}

static void store(struct line *l, uint64_t val)
{
	__atomic_store_n(&l->val, val, __ATOMIC_RELEASE);
}

static void relax(void)
{
	/* with more threads than CPUs, spinning only keeps the others off */
	if (yield)
		sched_yield();
#if defined(__x86_64__) || defined(__i386__)
	else
		__builtin_ia32_pause();
#endif
}

static void spin_until(struct line *l, uint64_t val)
{
	while (load(l) != val)
		relax();
}

static void *spinner(void *arg)
{
	uint64_t last = *(uint64_t *) arg, i;

	for (i = 1; i <= last; i++) {
		spin_until(&go, i);
		if (source == PIPE) {
			/* let the owner fall asleep, or start to compute */
			sleep_ns(SETTLE_NS);
			store(&event, now_ns());
			if (write(fds[1], "x", 1) != 1)
				die("write", errno);
		}
		spin_until(&word, i);
		seen_ns = now_ns();
		store(&seen, i);
	}
	return NULL;
}

static void prep_chain(struct io_uring *ring, uint64_t round, char *c,
		       struct __kernel_timespec *ts)
{
	struct io_uring_sqe *sqe;
	uint64_t ns = 0;

	sqe = io_uring_get_sqe(ring);
	if (source == PIPE) {
		io_uring_prep_read(sqe, fds[0], c, 1, 0);
	} else {
		/* an expired timeout is no failure here */
		ns = now_ns() + AHEAD_NS;
		ts->tv_sec = ns / 1000000000;
		ts->tv_nsec = ns % 1000000000;
		io_uring_prep_timeout(sqe, ts, 0, IORING_TIMEOUT_ABS |
				      IORING_TIMEOUT_ETIME_SUCCESS);
	}
	sqe->flags |= IOSQE_IO_LINK;
	io_uring_sqe_set_data64(sqe, 1);
	store(&event, ns);

	sqe = io_uring_get_sqe(ring);
	io_uring_prep_memcpy_imm(sqe, &word.val, round, sizeof(word.val));
	io_uring_sqe_set_data64(sqe, 2);
}

static void reap_chain(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	int i, ret, want;

	for (i = 1; i <= 2; i++) {
		ret = io_uring_wait_cqe(ring, &cqe);
		if (ret)
			die("io_uring_wait_cqe", -ret);
		want = source == PIPE ? 1 : -ETIME;
		if (i == 2)
			want = sizeof(word.val);
		if (cqe->user_data != i || cqe->res != want) {
			fprintf(stderr, "imm-notify: request %llu: res %d\n",
				(unsigned long long) cqe->user_data, cqe->res);
			exit(1);
		}
		io_uring_cqe_seen(ring, cqe);
	}
}

/* has the owner of the ring computed for long enough after the event? */
static bool overdue(void)
{
	uint64_t ns = load(&event);

	return ns && now_ns() > ns + COMPUTE_NS;
}

/*
 * One chain. Returns how often the kernel was entered until the store was
 * done, *unaided tells whether it came while the owner computed.
 */
static unsigned int one_round(struct io_uring *ring, enum owner owner,
			      uint64_t round, bool *unaided)
{
	struct __kernel_timespec ts;
	/* the thread of an SQPOLL ring picks up requests, as it never idles */
	bool sqpoll = ring->flags & IORING_SETUP_SQPOLL;
	unsigned int enters = 0;
	char c;
	int ret;

	prep_chain(ring, round, &c, &ts);

	if (owner == SLEEPS) {
		store(&go, round);
		ret = io_uring_submit_and_wait(ring, 1);
		enters++;
	} else {
		ret = io_uring_submit(ring);
		enters += !sqpoll;
		store(&go, round);
	}
	/* that thread may have to say yet that it took those of the last round */
	if (ret < 2)
		die("submit", ret < 0 ? -ret : EIO);

	*unaided = false;
	if (owner == COMPUTES) {
		while (load(&seen) != round && !overdue())
			relax();
		*unaided = load(&seen) == round;
	}

	/* an SQPOLL thread needs no help, but maybe a moment */
	while (load(&word) != round) {
		if (sqpoll) {
			relax();
			continue;
		}
		ret = io_uring_get_events(ring);
		if (ret < 0)
			die("io_uring_get_events", -ret);
		enters++;
	}
	spin_until(&seen, round);
	reap_chain(ring);
	return enters;
}

static int cmp(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;

	return x < y ? -1 : x > y;
}

/* returns false if the kernel doesn't know this type of ring */
static bool measure(unsigned int flags, enum owner owner, struct result *r)
{
	struct io_uring_params p = {
		.flags = flags,
		.sq_thread_idle = 60000,
	};
	unsigned int i, unaided = 0, enters = 0;
	uint64_t last = rounds + WARMUP;
	struct io_uring ring;
	pthread_t thread;
	uint64_t *ns;
	bool alone;
	int ret;

	ret = io_uring_queue_init_params(8, &ring, &p);
	if (ret == -EINVAL)
		return false;
	if (ret)
		die("io_uring_queue_init", -ret);
	if (pipe(fds) < 0)
		die("pipe", errno);
	ns = calloc(rounds, sizeof(*ns));
	if (!ns)
		die("calloc", ENOMEM);

	word.val = go.val = seen.val = event.val = 0;
	ret = pthread_create(&thread, NULL, spinner, &last);
	if (ret)
		die("pthread_create", ret);

	for (i = 1; i <= last; i++) {
		unsigned int nr = one_round(&ring, owner, i, &alone);
		uint64_t happened = load(&event);

		if (i <= WARMUP)
			continue;
		enters += nr;
		unaided += alone;
		ns[i - WARMUP - 1] = seen_ns - happened;
	}
	pthread_join(thread, NULL);

	qsort(ns, rounds, sizeof(*ns), cmp);
	r->min = ns[0] / 1000.0;
	r->p50 = ns[rounds / 2] / 1000.0;
	r->p99 = ns[rounds * 99 / 100] / 1000.0;
	r->enters = (double) enters / rounds;
	r->unaided = unaided;

	free(ns);
	close(fds[0]);
	close(fds[1]);
	io_uring_queue_exit(&ring);
	return true;
}

static bool supported(void)
{
	struct io_uring_probe *probe = io_uring_get_probe();
	bool ret;

	if (!probe)
		return false;
	ret = io_uring_opcode_supported(probe, IORING_OP_MEMCPY_IMMEDIATE);
	io_uring_free_probe(probe);
	return ret;
}

static void usage(FILE *f)
{
	fprintf(f,
"usage: imm-notify [-n rounds] [-s pipe|timer]\n"
"\n"
"Measures the time from an event to the moment when a thread that spins on a\n"
"word sees the store of IORING_OP_MEMCPY_IMMEDIATE, which is linked to the\n"
"request that waits for the event.\n"
"\n"
"  -n rounds  chains per figure, the default is 100\n"
"  -s pipe    the event is a byte written to a pipe, the request a READ (default)\n"
"  -s timer   the event is a point in time, the request a TIMEOUT\n"
"  -h         this text\n"
"\n"
"Exits with %d on a kernel without IORING_OP_MEMCPY_IMMEDIATE.\n",
		EXIT_NO_SUPPORT);
}

int main(int argc, char *argv[])
{
	struct result r[NR_OWNERS];
	long cpus;
	unsigned int i;
	int opt, o;

	while ((opt = getopt(argc, argv, "n:s:h")) != -1) {
		switch (opt) {
		case 'n':
			rounds = atoi(optarg);
			break;
		case 's':
			if (!strcmp(optarg, "timer")) {
				source = TIMER;
				break;
			}
			if (!strcmp(optarg, "pipe"))
				break;
			usage(stderr);
			return 1;
		case 'h':
			usage(stdout);
			return 0;
		default:
			usage(stderr);
			return 1;
		}
	}
	if (optind != argc || !rounds || rounds > 1000000) {
		usage(stderr);
		return 1;
	}
	if (!supported()) {
		fprintf(stderr, "imm-notify: this kernel has no IORING_OP_MEMCPY_IMMEDIATE\n");
		return EXIT_NO_SUPPORT;
	}

	cpus = sysconf(_SC_NPROCESSORS_ONLN);
	printf("%s -> MEMCPY_IMMEDIATE, another thread spins on the word; %u chains a figure, %ld CPU%s\n\n",
	       source == PIPE ? "READ from a pipe" : "TIMEOUT", rounds, cpus,
	       cpus == 1 ? "" : "s");
	printf("%-13s | %-36s | %s\n", "", "owner of the ring sleeps",
	       "owner of the ring computes");
	printf("%-13s | %8s %8s %9s %8s | %8s %8s %9s %8s %8s\n", "ring",
	       "min us", "p50 us", "p99 us", "enters", "min us", "p50 us",
	       "p99 us", "enters", "unaided");

	for (i = 0; i < ARRAY_SIZE(rings); i++) {
		bool ok = true;

		yield = cpus < (rings[i].flags & IORING_SETUP_SQPOLL ? 3 : 2);
		for (o = 0; o < NR_OWNERS && ok; o++)
			ok = measure(rings[i].flags, o, &r[o]);
		if (!ok) {
			printf("%-13s | not on this kernel\n", rings[i].name);
			continue;
		}
		printf("%-13s | %8.1f %8.1f %9.1f %8.2f | %8.1f %8.1f %9.1f %8.2f %7u%%\n",
		       rings[i].name, r[SLEEPS].min, r[SLEEPS].p50,
		       r[SLEEPS].p99, r[SLEEPS].enters, r[COMPUTES].min,
		       r[COMPUTES].p50, r[COMPUTES].p99, r[COMPUTES].enters,
		       r[COMPUTES].unaided * 100 / rounds);
		fflush(stdout);
	}

	printf("\n"
	       "us       from the event until the spinner saw the word\n"
	       "enters   io_uring_enter calls per chain until the word was stored, submission included\n"
	       "unaided  chains whose store came while the owner computed, which it does for %llu ms\n"
	       "         after the event before it looks at the ring\n",
	       COMPUTE_NS / 1000000);
	if (cpus < 3)
		printf("sqpoll has more threads here than CPUs, the scheduler is part of its figures\n");
	return 0;
}
