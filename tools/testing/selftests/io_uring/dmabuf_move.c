// SPDX-License-Identifier: GPL-2.0
/*
 * READ_FIXED and WRITE_FIXED of dma-bufs that move.
 *
 * The exporter moves or revokes the memory whenever it likes. It never waits for
 * a ring or for a task, be it stopped, dying, or waiting for the exporter itself.
 * Requests get their data, byte by byte, from where it is and to where it is, and
 * don't see any of that; unless the memory is gone, which is an errno.
 *
 * The exporter is lib/test_dmabuf.c, which tells if anything was written to where
 * the memory has been. The drive is a null_blk in several variations.
 */
#include <poll.h>
#include <sys/prctl.h>

#include "iou_dmabuf_move.h"
#include "kselftest_harness.h"

/* of most dma-bufs: it takes time to move them */
#define PAGES		100

FIXTURE(move) {
	struct env e;
};

FIXTURE_VARIANT(move) {
	struct ring_type type;
};

FIXTURE_VARIANT_ADD(move, plain) {
	.type = TYPE_PLAIN,
};

FIXTURE_VARIANT_ADD(move, defer) {
	.type = TYPE_DEFER,
};

FIXTURE_VARIANT_ADD(move, sqpoll) {
	.type = TYPE_SQPOLL,
};

FIXTURE_VARIANT_ADD(move, iopoll) {
	.type = TYPE_IOPOLL,
};

FIXTURE_VARIANT_ADD(move, iowq) {
	.type = TYPE_IOWQ,
};

FIXTURE_SETUP(move)
{
	struct env *e = &self->e;
	const char *skip;
	int ret;

	ret = env_init(e, &variant->type, SCATTERED, PAGES, NULL, &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
}

FIXTURE_TEARDOWN(move)
{
	env_exit(&self->e);
}

TEST_F(move, before_io)
{
	struct span s = { .off = 3 * 512, .len = 40 * 512, .pos = BASE };
	struct env *e = &self->e;
	struct test_dmabuf_stats stats;
	unsigned int i;

	for (i = 0; i < 4; i++) {
		ASSERT_LE(0, dbuf_move(&e->buf));
		EXPECT_EQ(0, dbuf_mapped(&e->buf));
		EXPECT_EQ(0, span_write(e, &s));
		EXPECT_EQ(0, span_read(e, &s));
	}
	stats = dbuf_stats(&e->buf);
	EXPECT_EQ(4, stats.moves);
	/* once, when it was registered, and when it was missed */
	EXPECT_EQ(5, stats.maps);
	EXPECT_EQ(4, stats.unmaps);
	EXPECT_EQ(1, stats.attaches);
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* The new place is known before the data is there */
TEST_F(move, fence)
{
	struct span s = { .off = 4096, .len = 40 * 512, .pos = BASE };
	struct env *e = &self->e;
	__u64 start;

	ASSERT_EQ(0, buf_pattern(e, 0, e->buf.size, BUF_SEED));
	ASSERT_EQ(0, disk_set(e, DISK_POISON, s.pos - 4096, s.len + 8192));
	ASSERT_LE(0, dbuf_move_fence(&e->buf, 200));
	start = now_ms();
	EXPECT_EQ(s.len, rw(e, true, s.off, s.len, s.pos));
	EXPECT_LE(150, now_ms() - start);
	EXPECT_TRUE(disk_got(e, &s, BUF_SEED));

	ASSERT_EQ(0, disk_pattern(e, s.pos, s.len, DISK_SEED));
	ASSERT_EQ(0, buf_set(e, POISON, 0, 65536));
	ASSERT_LE(0, dbuf_move_fence(&e->buf, 100));
	/* or what has just been read would be overwritten when it arrives */
	EXPECT_EQ(s.len, rw(e, false, s.off, s.len, s.pos));
	usleep(150000);
	EXPECT_TRUE(buf_got(e, &s, DISK_SEED));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* Who doesn't want to wait is told so */
TEST_F(move, nowait)
{
	struct env *e = &self->e;
	struct io_uring_sqe *sqe;

	ASSERT_EQ(0, buf_set(e, POISON, 0, 4096));
	ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, 4096));
	ASSERT_LE(0, dbuf_move(&e->buf));
	sqe = ring_fixed(&e->ring, true, e->fd, 0, 0, 4096, BASE);
	sqe->rw_flags = RWF_NOWAIT;
	sqe->flags = e->sqe_flags;
	if (e->sqe_flags & IOSQE_ASYNC) {
		/* but a worker waits */
		EXPECT_EQ(4096, ring_run(&e->ring));
	} else {
		EXPECT_EQ(-EAGAIN, ring_run(&e->ring));
		EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE, 4096));
		EXPECT_EQ(4096, rw(e, true, 0, 4096, BASE));
	}
	sqe = ring_fixed(&e->ring, true, e->fd, 0, 0, 4096, BASE);
	sqe->rw_flags = RWF_NOWAIT;
	EXPECT_EQ(4096, ring_run(&e->ring));
}

TEST_F(move, revoke)
{
	struct env *e = &self->e;

	ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, 65536));
	ASSERT_EQ(512, rw(e, false, 0, 512, BASE));
	ASSERT_LE(0, dbuf_revoke(&e->buf));
	EXPECT_EQ(-ENODEV, rw(e, false, 0, 4096, BASE));
	EXPECT_EQ(-ENODEV, rw(e, true, 0, 4096, BASE));
	EXPECT_EQ(-ENODEV, rw(e, true, 0, 65536, BASE));
	EXPECT_EQ(-ENODEV, dbuf_read(&e->buf, e->mem, 1, 0));
	EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE, 65536));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
	EXPECT_EQ(1, dbuf_attached(&e->buf));
	EXPECT_EQ(0, dbuf_mapped(&e->buf));
	ring_exit(&e->ring);
	EXPECT_TRUE(dbuf_free_within(&e->buf, WAIT_MS));
}

/* It is the exporter's errno, and it lasts as long as the exporter's trouble */
TEST_F(move, fail_map)
{
	struct env *e = &self->e;

	ASSERT_EQ(0, buf_set(e, POISON, 0, 4096));
	ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, 4096));
	ASSERT_LE(0, dbuf_move(&e->buf));
	ASSERT_EQ(0, dbuf_faults(&e->buf, 1, EXFULL, 0));
	EXPECT_EQ(-EXFULL, rw(e, true, 0, 4096, BASE));
	EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE, 4096));
	EXPECT_EQ(4096, rw(e, true, 0, 4096, BASE));
	EXPECT_TRUE(disk_holds(e, POISON, BASE, 4096));
}

/* No move has to wait for the ring's owner, which is the one who asks for it */
TEST_F(move, by_owner)
{
	struct env *e = &self->e;
	unsigned int i, round, nr = 64, len = 4096;
	int res[64], us;

	for (round = 0; round < 4; round++) {
		ASSERT_EQ(0, disk_pattern(e, BASE, nr * len, DISK_SEED + round));
		ASSERT_EQ(0, buf_set(e, POISON, 0, nr * len));
		queue_reads(e, nr, len);
		ASSERT_EQ(nr, ring_submit(&e->ring));
		us = dbuf_move(&e->buf);
		ASSERT_LE(0, us);
		EXPECT_GT(BUSY_MOVE_US, us);
		ASSERT_EQ(0, ring_collect(&e->ring, res, nr));
		for (i = 0; i < nr; i++)
			ASSERT_EQ(len, res[i]);
		ASSERT_EQ(0, dbuf_read(&e->buf, e->mem, nr * len, 0));
		for (i = 0; i < nr * len; i++)
			ASSERT_EQ(pattern(BASE + i, DISK_SEED + round),
				  e->mem[i]);
	}
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

TEST_F_TIMEOUT(move, traffic, LONG_TIMEOUT)
{
	static const unsigned int pauses[] = { 10000, 1000, 10 };
	struct env *e = &self->e;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(pauses); i++) {
		struct mover m;
		int ops;

		ASSERT_EQ(0, mover_start(&m, &e->buf, pauses[i]));
		ops = traffic(e, 64 << i, 3 * BLOCK, run_ms(800));
		ASSERT_EQ(0, mover_stop(&m));
		TH_LOG("depth %u: %d requests, %u moves, at most %d us",
		       64 << i, ops, m.moves, m.worst_us);
		ASSERT_LT(0, ops);
		EXPECT_LT(0, m.moves);
		EXPECT_GT(BUSY_MOVE_US, m.worst_us);
		EXPECT_EQ(0, dbuf_lost(&e->buf));
	}
}

#define UPDATE_READS	128
#define UPDATE_LEN	(6 * BLOCK)
#define UPDATE_TAG	1000

/* What a slot holds in turn; the first two have a tag */
enum content { DMABUF, MEMORY, EMPTY, NR_CONTENTS };

static int content_set(struct env *e, enum content what, unsigned char *mem)
{
	struct io_uring_regbuf_desc desc = {};
	__u64 tag = UPDATE_TAG + what;

	if (what == EMPTY)
		return ring_desc(&e->ring, 0, desc);
	desc = desc_dbuf(&e->buf, e->fd);
	if (what == MEMORY)
		desc = (struct io_uring_regbuf_desc) {
			.type = IO_REGBUF_TYPE_UADDR, .uaddr = u64_ptr(mem),
			.size = UPDATE_READS * UPDATE_LEN,
		};
	return ring_descs(&e->ring, 0, &desc, 1, &tag);
}

static int content_read(struct env *e, enum content what, unsigned char *mem)
{
	size_t start = what == MEMORY ? (size_t)mem : 0;
	struct io_uring_sqe *sqe;
	unsigned int i;
	int ret;

	for (i = 0; i < UPDATE_READS; i++) {
		sqe = ring_fixed(&e->ring, false, e->fd, 0, 0, UPDATE_LEN,
				 BASE + i * UPDATE_LEN);
		sqe->addr = start + i * UPDATE_LEN;
		sqe->flags = e->sqe_flags;
		sqe->user_data = what * UPDATE_READS + i;
	}
	ret = ring_submit(&e->ring);
	if (ret == UPDATE_READS)
		return 0;
	return step_failed("submission of reads", ret < 0 ? ret : -EIO);
}

/*
 * One slot is a dma-buf, memory, and empty, while what was read to each of them
 * is in flight. Each read has its data where it was meant to go, each tag comes
 * once, and not before the last read to what it stands for.
 */
TEST_F_TIMEOUT(move, slot_updates, LONG_TIMEOUT)
{
	const size_t len = UPDATE_READS * UPDATE_LEN;
	bool async = variant->type.sqe_flags & IOSQE_ASYNC;
	struct env *e = &self->e;
	unsigned int rounds = 0;
	int res[NR_CONTENTS * UPDATE_READS];
	unsigned char *mem, *want;
	struct mover m;
	__u64 end;

	mem = mmap(NULL, len, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, mem);
	want = malloc(len);
	ASSERT_NE(NULL, want);
	ASSERT_LE(len, e->buf.size);
	ASSERT_EQ(1, ring_desc(&e->ring, 0, (struct io_uring_regbuf_desc){}));
	ASSERT_EQ(0, mover_start(&m, &e->buf, 1000));

	end = now_ms() + run_ms(1500);
	for (; rounds < 2 || now_ms() < end; rounds++) {
		unsigned int i, left = NR_CONTENTS * UPDATE_READS + 2;
		unsigned int flying[NR_CONTENTS] = {
			UPDATE_READS, UPDATE_READS, UPDATE_READS,
		};
		bool tagged[NR_CONTENTS] = {};
		enum content what;

		fill_pattern(want, len, rounds);
		ASSERT_EQ(0, disk_write(&e->disk, want, len, BASE));
		ASSERT_EQ(0, buf_set(e, POISON, 0, len));
		memset(mem, POISON, len);
		for (what = DMABUF; what < NR_CONTENTS; what++) {
			ASSERT_EQ(1, content_set(e, what, mem));
			ASSERT_EQ(0, content_read(e, what, mem));
		}
		while (left--) {
			struct io_uring_cqe cqe;

			ASSERT_EQ(0, ring_wait(&e->ring, &cqe));
			if (cqe.user_data >= UPDATE_TAG) {
				what = cqe.user_data - UPDATE_TAG;
				ASSERT_GT(EMPTY, what);
				EXPECT_FALSE(tagged[what]);
				tagged[what] = true;
				/* io-wq may look at the slot late */
				EXPECT_TRUE(async || !flying[what]);
				continue;
			}
			ASSERT_GT(ARRAY_SIZE(res), cqe.user_data);
			res[cqe.user_data] = cqe.res;
			flying[cqe.user_data / UPDATE_READS]--;
		}

		ASSERT_EQ(0, dbuf_read(&e->buf, e->mem, len, 0));
		for (i = 0; i < ARRAY_SIZE(res); i++) {
			size_t off = i % UPDATE_READS * UPDATE_LEN;
			unsigned char *got = e->mem + off;

			what = i / UPDATE_READS;
			if (what == MEMORY)
				got = mem + off;
			if (what == EMPTY || (async && res[i] == -EFAULT)) {
				ASSERT_EQ(-EFAULT, res[i]);
				ASSERT_TRUE(what == EMPTY ||
					    all_bytes(got, POISON, UPDATE_LEN));
				continue;
			}
			ASSERT_EQ(UPDATE_LEN, res[i]);
			ASSERT_EQ(0, memcmp(want + off, got, UPDATE_LEN)) {
				TH_LOG("round %u, read %u", rounds, i);
			}
		}
	}
	ASSERT_EQ(0, mover_stop(&m));
	TH_LOG("%u rounds, %u moves", rounds, m.moves);
	EXPECT_LT(0, m.moves);
	EXPECT_LT(1, rounds);
	EXPECT_EQ(0, dbuf_lost(&e->buf));
	EXPECT_TRUE(dbuf_free_within(&e->buf, WAIT_MS));
	free(want);
	munmap(mem, len);
}

/*
 * Whoever moves the memory waits while it is mapped, and goes first as soon as
 * it is. Yet no request has it mapped more than a few times.
 */
static void progress(struct __test_metadata *_metadata, struct env *e)
{
	unsigned int i, nr = 32;
	struct mover m;
	__u64 maps;
	int res[32];

	ASSERT_EQ(0, disk_pattern(e, BASE, nr * 4096, DISK_SEED));
	ASSERT_EQ(0, buf_set(e, POISON, 0, e->buf.size));
	ASSERT_EQ(0, dbuf_faults(&e->buf, 0, 0, 2));
	maps = dbuf_stats(&e->buf).maps;
	ASSERT_EQ(0, mover_start_first(&m, &e->buf, &e->ring));
	queue_reads(e, nr, 4096);
	ASSERT_EQ(nr, ring_submit(&e->ring));
	ASSERT_EQ(0, ring_collect(&e->ring, res, nr));
	ASSERT_EQ(0, mover_stop(&m));
	maps = dbuf_stats(&e->buf).maps - maps;
	TH_LOG("%u requests, %llu times mapped, %u moves", nr, maps, m.moves);
	EXPECT_GT(4 * nr, maps);
	for (i = 0; i < nr; i++)
		EXPECT_EQ(4096, res[i]);
	ASSERT_EQ(0, dbuf_faults(&e->buf, 0, 0, 0));
	EXPECT_TRUE(buf_got(e, &(struct span){ 0, nr * 4096, BASE },
			    DISK_SEED));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

TEST_F_TIMEOUT(move, progress, LONG_TIMEOUT)
{
	progress(_metadata, &self->e);
}

/* One that would rather dispatch a request later */
TEST_F_TIMEOUT(move, progress_scheduler, LONG_TIMEOUT)
{
	const char *name = strrchr(self->e.disk.path, '/') + 1;

	if (put_file("mq-deadline", "/sys/block/%s/queue/scheduler", name))
		SKIP(return, "no mq-deadline");
	progress(_metadata, &self->e);
}

/* What is past the end of the drive needn't be whole blocks, moved or not */
TEST_F(move, end_of_drive)
{
	struct env *e = &self->e;
	struct span s = { .off = 4096, .len = 1024,
			  .pos = lseek(e->fd, 0, SEEK_END) - 1024 };
	struct mover m;

	ASSERT_EQ(0, disk_pattern(e, s.pos, s.len, DISK_SEED));
	ASSERT_EQ(0, buf_set(e, POISON, 0, e->buf.size));
	EXPECT_EQ(1024, rw(e, false, s.off, 1500, s.pos));
	EXPECT_TRUE(buf_got(e, &s, DISK_SEED));
	ASSERT_EQ(0, buf_set(e, POISON, 0, e->buf.size));
	ASSERT_EQ(0, dbuf_faults(&e->buf, 0, 0, 2));
	ASSERT_EQ(0, mover_start_first(&m, &e->buf, &e->ring));
	EXPECT_EQ(1024, rw(e, false, s.off, 1500, s.pos));
	ASSERT_EQ(0, mover_stop(&m));
	ASSERT_EQ(0, dbuf_faults(&e->buf, 0, 0, 0));
	EXPECT_TRUE(buf_got(e, &s, DISK_SEED));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* Moves against everything that ends or replaces a registration */
TEST_F_TIMEOUT(move, registration, LONG_TIMEOUT)
{
	__u64 end = now_ms() + run_ms(1500);
	struct io_uring_regbuf_desc empty = {};
	struct env *e = &self->e;
	unsigned int rounds;
	struct mover m;

	ASSERT_EQ(0, mover_start(&m, &e->buf, 300));
	for (rounds = 0; now_ms() < end; rounds++) {
		unsigned int i, nr = 8;
		int res[8];

		for (i = 0; i < nr; i++) {
			struct io_uring_sqe *sqe;

			sqe = ring_fixed(&e->ring, i & 1, e->fd, 0, i * 4096,
					 4096, BASE + i * 4096);
			sqe->flags = e->sqe_flags;
			sqe->user_data = i;
		}
		ASSERT_EQ(nr, ring_submit(&e->ring));
		switch (rounds % 4) {
		case 0:
			ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
			break;
		case 1:
			ASSERT_EQ(1, ring_desc(&e->ring, 0, empty));
			break;
		case 2:
			ASSERT_EQ(0, ring_register(&e->ring,
						   IORING_UNREGISTER_BUFFERS,
						   NULL, 0));
			break;
		case 3:
			/* without anybody to see what comes of them */
			ring_exit(&e->ring);
			ASSERT_EQ(0, ring_init(&e->ring, RING_ENTRIES,
					       variant->type.setup));
			ASSERT_EQ(0, ring_buffers_sparse(&e->ring, NR_BUFS));
			ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
			continue;
		}
		ASSERT_EQ(0, ring_collect(&e->ring, res, nr));
		for (i = 0; i < nr; i++) {
			/* io-wq may look at the table late */
			if (!(e->sqe_flags & IOSQE_ASYNC) || res[i] != -EFAULT)
				ASSERT_EQ(4096, res[i]);
		}
		if (rounds % 4 == 2)
			ASSERT_EQ(0, ring_buffers_sparse(&e->ring, NR_BUFS));
		if (rounds % 4)
			ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	}
	ASSERT_EQ(0, mover_stop(&m));
	TH_LOG("%u rounds, %u moves, at most %d us", rounds, m.moves,
	       m.worst_us);
	EXPECT_GT(BUSY_MOVE_US, m.worst_us);
	ring_exit(&e->ring);
	EXPECT_TRUE(dbuf_free_within(&e->buf, WAIT_MS));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* A ring of its own, and requests without end or check */
static void victim(struct env *e, unsigned int setup)
{
	unsigned int i, nr = 32;
	struct io_uring_cqe cqe;
	struct ring r;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (ring_init(&r, RING_ENTRIES, setup) ||
	    ring_buffers_sparse(&r, NR_BUFS) ||
	    ring_dbuf(&r, 0, &e->buf, e->fd) != 1)
		_exit(9);
	for (;;) {
		for (i = 0; i < nr; i++)
			ring_fixed(&r, i & 1, e->fd, 0, i * 4096, 4096,
				   BASE + i * 4096)->flags = e->sqe_flags;
		ring_submit(&r);
		for (i = 0; i < nr; i++)
			ring_wait(&r, &cqe);
	}
}

/* As in the other races: the kernel may not be done with it at once */
static bool reap(pid_t pid, int *status)
{
	__u64 end = now_ms() + WAIT_MS;
	pid_t got;

	do {
		got = waitpid(pid, status, WNOHANG);
		if (got == pid)
			return true;
		usleep(1000);
	} while (!got && now_ms() < end);
	return false;
}

TEST_F_TIMEOUT(move, sigkill, LONG_TIMEOUT)
{
	__u64 end = now_ms() + run_ms(1500);
	struct env *e = &self->e;
	unsigned int rounds;
	struct mover m;
	int status;

	ring_exit(&e->ring);
	for (rounds = 0; now_ms() < end; rounds++) {
		pid_t pid = fork();

		ASSERT_LE(0, pid);
		if (!pid)
			victim(e, variant->type.setup);
		ASSERT_EQ(0, mover_start(&m, &e->buf, 200));
		usleep(rounds * 7919 % 60000);
		kill(pid, SIGKILL);
		ASSERT_TRUE(reap(pid, &status));
		ASSERT_TRUE(WIFSIGNALED(status)) {
			TH_LOG("status %#x", status);
		}
		ASSERT_EQ(0, mover_stop(&m));
		EXPECT_GT(BUSY_MOVE_US, m.worst_us);
		ASSERT_TRUE(dbuf_free_within(&e->buf, WAIT_MS));
	}
	TH_LOG("%u rounds", rounds);
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* The child's side of the next test: 0 if all went well */
static int stopped_owner(struct env *e, unsigned int setup)
{
	unsigned int i, nr = 64;
	int res[64], ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ret = ring_init(&e->ring, RING_ENTRIES, setup);
	if (!ret)
		ret = ring_buffers_sparse(&e->ring, NR_BUFS);
	if (ret || ring_dbuf(&e->ring, 0, &e->buf, e->fd) != 1)
		return 1;
	queue_reads(e, nr, 4096);
	if (ring_submit(&e->ring) != (int)nr)
		return 2;
	raise(SIGSTOP);
	if (ring_collect(&e->ring, res, nr))
		return 3;
	for (i = 0; i < nr; i++)
		if (res[i] != 4096)
			return 4;
	return 0;
}

/* The owner of the requests is stopped, the memory moves all the same */
TEST_F(move, stopped_owner)
{
	struct env *e = &self->e;
	int status, us, i;
	pid_t pid;

	ring_exit(&e->ring);
	ASSERT_EQ(0, disk_pattern(e, BASE, 64 * 4096, DISK_SEED));
	ASSERT_EQ(0, buf_set(e, POISON, 0, e->buf.size));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(stopped_owner(e, variant->type.setup));
	ASSERT_EQ(pid, waitpid(pid, &status, WUNTRACED));
	ASSERT_TRUE(WIFSTOPPED(status)) {
		TH_LOG("status %#x", status);
	}
	for (i = 0; i < 3; i++) {
		us = dbuf_move(&e->buf);
		EXPECT_LE(0, us);
		EXPECT_GT(BUSY_MOVE_US, us);
	}
	kill(pid, SIGCONT);
	ASSERT_TRUE(reap(pid, &status));
	EXPECT_EQ(0, status);
	EXPECT_TRUE(dbuf_free_within(&e->buf, WAIT_MS));
	EXPECT_TRUE(buf_got(e, &(struct span){ 0, 64 * 4096, BASE },
			    DISK_SEED));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* The child's side: a request that has to wait for the memory */
static int waiting_owner(struct env *e, unsigned int setup)
{
	int ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ret = ring_init(&e->ring, RING_ENTRIES, setup);
	if (!ret)
		ret = ring_buffers_sparse(&e->ring, NR_BUFS);
	if (ret || ring_dbuf(&e->ring, 0, &e->buf, e->fd) != 1)
		return 1;
	if (dbuf_move(&e->buf) < 0 || dbuf_faults(&e->buf, 0, 0, 400))
		return 2;
	ret = rw(e, true, 0, 4096, BASE);
	if (ret != 4096)
		fprintf(stderr, "# result %d\n", ret);
	return ret == 4096 ? 0 : 3;
}

/* Signals interrupt the exporter, but no request gets to see that */
TEST_F(move, signals)
{
	struct env *e = &self->e;
	int status, i;
	pid_t pid;

	ring_exit(&e->ring);
	ASSERT_EQ(0, buf_set(e, POISON, 0, 4096));
	ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, 4096));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(waiting_owner(e, variant->type.setup));
	for (i = 0; i < 3; i++) {
		usleep(150000);
		kill(pid, SIGSTOP);
		usleep(50000);
		kill(pid, SIGCONT);
	}
	ASSERT_TRUE(reap(pid, &status));
	EXPECT_EQ(0, status);
	ASSERT_EQ(0, dbuf_faults(&e->buf, 0, 0, 0));
	EXPECT_TRUE(disk_holds(e, POISON, BASE, 4096));
	EXPECT_TRUE(dbuf_free_within(&e->buf, WAIT_MS));
}

/* One that waits for the memory dies */
TEST_F(move, sigkill_waiting)
{
	struct env *e = &self->e;
	int status;
	pid_t pid;

	ring_exit(&e->ring);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(waiting_owner(e, variant->type.setup));
	usleep(300000);
	ASSERT_EQ(0, dbuf_faults(&e->buf, 0, 0, 0));
	kill(pid, SIGKILL);
	ASSERT_TRUE(reap(pid, &status));
	EXPECT_TRUE(dbuf_free_within(&e->buf, WAIT_MS));
}

/* ------------------------------------------------------- memory on its way */

/* What the kernel waits for memory, and how exact a busy machine is about that */
#define ARRIVE_MS	10000
#define LATE_MS		8000
#define EARLY_MS	100
/* It doesn't arrive at all, as far as these tests are concerned */
#define NEVER_MS	30000
/* What ends at once does so within that time */
#define SOON_MS		2000

/*
 * The kernel's limit is one of jiffies. Those of a busy host stand still and then
 * catch up all at once, and of the clocks only the coarse ones do so with them.
 */
static __u64 jiffies_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return ts.tv_sec * 1000ULL + ts.tv_nsec / 1000000;
}

FIXTURE(fence) {
	struct env e;
};

FIXTURE_VARIANT(fence) {
	struct ring_type type;
};

FIXTURE_VARIANT_ADD(fence, plain) {
	.type = TYPE_PLAIN,
};

FIXTURE_VARIANT_ADD(fence, defer) {
	.type = TYPE_DEFER,
};

FIXTURE_VARIANT_ADD(fence, sqpoll) {
	.type = TYPE_SQPOLL,
};

FIXTURE_VARIANT_ADD(fence, iowq) {
	.type = TYPE_IOWQ,
};

FIXTURE_SETUP(fence)
{
	struct env *e = &self->e;
	const char *skip;
	int ret;

	ret = env_init(e, &variant->type, SCATTERED, 32, NULL, &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
	/* twice the same, to their tokens these are different dma-bufs */
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	ASSERT_EQ(1, ring_dbuf(&e->ring, 1, &e->buf, e->fd));
	ASSERT_EQ(0, buf_set(e, POISON, 0, e->buf.size));
	ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, e->buf.size));
}

FIXTURE_TEARDOWN(fence)
{
	env_exit(&self->e);
}

/* @nr writes that have to wait, of both buffers */
static int queue_waiting(struct env *e, unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < nr; i++) {
		struct io_uring_sqe *sqe;

		sqe = ring_fixed(&e->ring, true, e->fd, i & 1, i * 4096, 4096,
				 BASE + i * 4096);
		sqe->flags = e->sqe_flags;
		sqe->user_data = i;
	}
	if (ring_submit(&e->ring) == (int)nr)
		return 0;
	return step_failed("submission of writes", -EIO);
}

struct registrar {
	struct env	*e;
	pthread_t	thread;
	int		ret;
	int		ms;
};

static void *registrar_thread(void *arg)
{
	struct registrar *r = arg;
	struct ring ring;
	__u64 start;

	r->ret = ring_init(&ring, RING_ENTRIES, 0);
	if (r->ret)
		return NULL;
	r->ret = ring_buffers_sparse(&ring, NR_BUFS);
	start = jiffies_ms();
	if (!r->ret)
		r->ret = ring_dbuf(&ring, 0, &r->e->buf, r->e->fd);
	r->ms = jiffies_ms() - start;
	ring_exit(&ring);
	return NULL;
}

/*
 * Each request has its own 10 seconds, also if there are more than there are
 * workers, and so has each registration. Nobody else waits: what needs the
 * dma-buf's lock gets it.
 */
TEST_F(fence, deadline)
{
	struct env *e = &self->e;
	struct pollfd pfd = { .fd = e->buf.fd, .events = POLLIN };
	struct registrar reg[2] = {};
	unsigned int i, nr = 24;
	__u64 start, t;
	int res[24];

	ASSERT_LE(0, dbuf_move_fence(&e->buf, NEVER_MS));
	start = jiffies_ms();
	ASSERT_EQ(0, queue_waiting(e, nr));
	for (i = 0; i < ARRAY_SIZE(reg); i++) {
		reg[i].e = e;
		ASSERT_EQ(0, pthread_create(&reg[i].thread, NULL,
					    registrar_thread, &reg[i]));
	}
	for (i = 0; i < 20; i++) {
		usleep(20000);
		t = now_ms();
		/* what the exporter waits for isn't there: it isn't readable */
		EXPECT_EQ(0, poll(&pfd, 1, 0));
		/* of the exporter's own, under dma_resv */
		EXPECT_EQ(0, dbuf_faults(&e->buf, 0, 0, 0));
		EXPECT_GT(SOON_MS, now_ms() - t);
	}
	for (i = 0; i < nr; i++) {
		struct io_uring_cqe cqe;

		ASSERT_EQ(0, ring_wait(&e->ring, &cqe));
		res[cqe.user_data] = cqe.res;
		t = jiffies_ms() - start;
		EXPECT_LE(ARRIVE_MS - EARLY_MS, t);
		EXPECT_GT(ARRIVE_MS + LATE_MS, t) {
			TH_LOG("request %llu: %llu ms", cqe.user_data, t);
		}
	}
	for (i = 0; i < nr; i++)
		EXPECT_EQ(-ETIMEDOUT, res[i]);
	for (i = 0; i < ARRAY_SIZE(reg); i++) {
		pthread_join(reg[i].thread, NULL);
		EXPECT_EQ(-ETIMEDOUT, reg[i].ret);
		EXPECT_LE(ARRIVE_MS - EARLY_MS, reg[i].ms);
		EXPECT_GT(ARRIVE_MS + LATE_MS, reg[i].ms);
	}
	EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE, nr * 4096));
}

static void *move_again(void *arg)
{
	struct env *e = arg;

	/* waits for the first one to be done */
	e->stop = dbuf_move_fence(&e->buf, NEVER_MS);
	return NULL;
}

/* They aren't 10 seconds for each place where the memory isn't */
TEST_F(fence, moved_again)
{
	struct env *e = &self->e;
	unsigned int i, nr = 4;
	pthread_t thread;
	__u64 start;
	int res[4];

	ASSERT_LE(0, dbuf_move_fence(&e->buf, 6000));
	start = jiffies_ms();
	ASSERT_EQ(0, queue_waiting(e, nr));
	usleep(200000);
	ASSERT_EQ(0, pthread_create(&thread, NULL, move_again, e));
	ASSERT_EQ(0, ring_collect(&e->ring, res, nr));
	start = jiffies_ms() - start;
	pthread_join(thread, NULL);
	EXPECT_LE(0, e->stop);
	EXPECT_LE(ARRIVE_MS - EARLY_MS, start);
	EXPECT_GT(ARRIVE_MS + LATE_MS, start);
	for (i = 0; i < nr; i++)
		EXPECT_EQ(-ETIMEDOUT, res[i]);
	EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE, nr * 4096));
}

/* It arrives while they wait, or has moved on */
TEST_F(fence, arrives)
{
	struct env *e = &self->e;
	unsigned int i, round, nr = 24;
	int res[24];

	for (round = 0; round < 3; round++) {
		ASSERT_EQ(0, buf_set(e, POISON + round, 0, e->buf.size));
		ASSERT_EQ(0, disk_set(e, DISK_POISON, BASE, e->buf.size));
		ASSERT_LE(0, dbuf_move_fence(&e->buf, 400));
		ASSERT_EQ(0, queue_waiting(e, nr));
		usleep(50000);
		/* as soon as it can, without a fence */
		ASSERT_LE(0, dbuf_move(&e->buf));
		ASSERT_EQ(0, ring_collect(&e->ring, res, nr));
		for (i = 0; i < nr; i++)
			EXPECT_EQ(4096, res[i]);
		EXPECT_TRUE(disk_holds(e, POISON + round, BASE, nr * 4096));
		EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE + nr * 4096, 4096));
	}
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

TEST_F(fence, cancel)
{
	struct env *e = &self->e;
	struct ring *r = &e->ring;
	unsigned int i, nr = 8;
	__u64 start;
	int res[9];

	ASSERT_LE(0, dbuf_move_fence(&e->buf, SOON_MS + 2000));
	start = now_ms();
	ASSERT_EQ(0, queue_waiting(e, nr));
	usleep(300000);
	/* a worker waits for it, or it waits for a worker */
	ring_cancel(r, 3, 0)->user_data = nr;
	ASSERT_EQ(1, ring_submit(r));
	for (i = 0; i < 2; i++) {
		struct io_uring_cqe cqe;

		ASSERT_EQ(0, ring_wait(r, &cqe));
		if (cqe.user_data == nr) {
			EXPECT_TRUE(!cqe.res || cqe.res == -EALREADY) {
				TH_LOG("cancel: %d", cqe.res);
			}
		} else {
			EXPECT_EQ(3, cqe.user_data);
			EXPECT_EQ(-ECANCELED, cqe.res);
		}
	}
	EXPECT_GT(SOON_MS, now_ms() - start);
	/* and now all that are left */
	ring_cancel(r, 0, IORING_ASYNC_CANCEL_ANY)->user_data = 3;
	ASSERT_EQ(1, ring_submit(r));
	ASSERT_EQ(0, ring_collect(r, res, nr));
	EXPECT_GT(2 * SOON_MS, now_ms() - start);
	EXPECT_TRUE(res[3] >= 0 || res[3] == -EALREADY) {
		TH_LOG("cancel: %d", res[3]);
	}
	for (i = 0; i < nr; i++)
		if (i != 3)
			EXPECT_EQ(-ECANCELED, res[i]);
	/* when the data has arrived: nobody has written it */
	EXPECT_TRUE(buf_holds(e, POISON, 0, nr * 4096));
	EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE, nr * 4096));
	EXPECT_EQ(4096, rw(e, true, 0, 4096, BASE));
}

TEST_F(fence, link_timeout)
{
	struct __kernel_timespec ts = { .tv_nsec = 200 * 1000 * 1000 };
	struct env *e = &self->e;
	struct ring *r = &e->ring;
	struct io_uring_sqe *sqe;
	__u64 start;
	int res[3];

	/* the core arms the timeout of a request in io-wq after its issue */
	if (e->sqe_flags & IOSQE_ASYNC)
		return;
	ASSERT_LE(0, dbuf_move_fence(&e->buf, SOON_MS + 2000));
	start = now_ms();
	sqe = ring_fixed(r, true, e->fd, 0, 0, 4096, BASE);
	sqe->flags = IOSQE_IO_LINK;
	sqe = ring_sqe(r, IORING_OP_LINK_TIMEOUT);
	sqe->addr = u64_ptr(&ts);
	sqe->len = 1;
	sqe->user_data = 1;
	sqe->flags = IOSQE_IO_LINK;
	sqe = ring_fixed(r, true, e->fd, 1, 4096, 4096, BASE + 4096);
	sqe->user_data = 2;
	ASSERT_EQ(3, ring_submit(r));
	ASSERT_EQ(0, ring_collect(r, res, 3));
	EXPECT_GT(SOON_MS, now_ms() - start);
	EXPECT_EQ(-ECANCELED, res[0]);
	/* what runs in io-wq is told to stop and is no longer to be found */
	EXPECT_TRUE(res[1] == -EALREADY || res[1] == -ENOENT ||
		    res[1] == -ETIME) {
		TH_LOG("timeout: %d", res[1]);
	}
	EXPECT_EQ(-ECANCELED, res[2]);
	EXPECT_TRUE(buf_holds(e, POISON, 0, 8192));
	EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE, 8192));
}

/* The ring is closed, and lets go of the memory long before that is there */
TEST_F(fence, close_ring)
{
	struct env *e = &self->e;
	unsigned int nr = 24;

	ASSERT_LE(0, dbuf_move_fence(&e->buf, NEVER_MS));
	ASSERT_EQ(0, queue_waiting(e, nr));
	usleep(200000);
	ring_exit(&e->ring);
	EXPECT_TRUE(dbuf_free_within(&e->buf, ARRIVE_MS / 2));
	EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE, nr * 4096));
}

/* The task dies, it is all the same */
TEST_F(fence, sigkill)
{
	struct env *e = &self->e;
	int status;
	__u64 start;
	pid_t pid;

	ring_exit(&e->ring);
	ASSERT_TRUE(dbuf_free_within(&e->buf, WAIT_MS));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (ring_init(&e->ring, RING_ENTRIES, variant->type.setup) ||
		    ring_buffers_sparse(&e->ring, NR_BUFS) ||
		    ring_dbuf(&e->ring, 0, &e->buf, e->fd) != 1 ||
		    ring_dbuf(&e->ring, 1, &e->buf, e->fd) != 1 ||
		    dbuf_move_fence(&e->buf, NEVER_MS) < 0 ||
		    queue_waiting(e, 24))
			_exit(1);
		pause();
		_exit(2);
	}
	usleep(500000);
	start = now_ms();
	kill(pid, SIGKILL);
	ASSERT_TRUE(reap(pid, &status));
	ASSERT_TRUE(WIFSIGNALED(status));
	EXPECT_TRUE(dbuf_free_within(&e->buf, ARRIVE_MS / 2));
	EXPECT_GT(ARRIVE_MS / 2, now_ms() - start);
	EXPECT_TRUE(disk_holds(e, DISK_POISON, BASE, 24 * 4096));
}

/* ------------------------------------------------------------ kinds of drives */

FIXTURE(drive) {
	struct env e;
};

FIXTURE_VARIANT(drive) {
	struct disk_conf conf;
	struct ring_type type;
};

FIXTURE_VARIANT_ADD(drive, irq_none) {
	.conf = { .irqmode = "0" }, .type = TYPE_DEFER,
};

FIXTURE_VARIANT_ADD(drive, irq_timer) {
	.conf = { .irqmode = "2" }, .type = TYPE_DEFER,
};

FIXTURE_VARIANT_ADD(drive, cached) {
	.conf = { .cache_size = "1" }, .type = TYPE_DEFER,
};

FIXTURE_VARIANT_ADD(drive, small) {
	.conf = { .max_sectors = "8" }, .type = TYPE_DEFER,
};

FIXTURE_VARIANT_ADD(drive, requeue) {
	.conf = { .requeue = "20" }, .type = TYPE_DEFER,
};

FIXTURE_VARIANT_ADD(drive, requeue_poll) {
	.conf = { .requeue = "20" }, .type = TYPE_IOPOLL,
};

FIXTURE_VARIANT_ADD(drive, small_poll) {
	.conf = { .max_sectors = "8" }, .type = TYPE_IOPOLL,
};

FIXTURE_SETUP(drive)
{
	struct env *e = &self->e;
	const char *skip;
	int ret;

	if (variant->conf.requeue && !access("/sys/kernel/debug", F_OK) &&
	    access("/proc/self/fail-nth", F_OK))
		SKIP(return, "kernel has no fault injection");
	ret = env_init(e, &variant->type, MIXED, PAGES, &variant->conf, &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
}

FIXTURE_TEARDOWN(drive)
{
	env_exit(&self->e);
}

TEST_F_TIMEOUT(drive, traffic, LONG_TIMEOUT)
{
	struct span s = { .off = 512, .len = 600 * 512, .pos = BASE };
	struct env *e = &self->e;
	struct mover m;
	int ops;

	EXPECT_EQ(0, span_write(e, &s));
	EXPECT_EQ(0, span_read(e, &s));
	ASSERT_EQ(0, mover_start(&m, &e->buf, 1000));
	ops = traffic(e, 64, 3 * BLOCK, run_ms(800));
	EXPECT_EQ(0, span_write(e, &s));
	EXPECT_EQ(0, span_read(e, &s));
	ASSERT_EQ(0, mover_stop(&m));
	TH_LOG("%d requests, %u moves, at most %d us", ops, m.moves,
	       m.worst_us);
	EXPECT_LT(0, ops);
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

/* The drive goes, and takes all mappings with it; the ring stays */
TEST_F(drive, deleted)
{
	struct env *e = &self->e;

	ASSERT_EQ(1, ring_dbuf(&e->ring, 1, &e->buf, e->fd));
	ASSERT_EQ(0, buf_set(e, POISON, 0, 4096));
	ASSERT_EQ(1, dbuf_attached(&e->buf));
	ASSERT_EQ(0, disk_power(&e->disk, false));
	EXPECT_EQ(0, dbuf_attached(&e->buf));
	EXPECT_EQ(0, dbuf_mapped(&e->buf));
	EXPECT_GE(0, rw(e, false, 0, 4096, BASE));
	EXPECT_GT(0, rw(e, true, 0, 4096, BASE));
	EXPECT_TRUE(buf_holds(e, POISON, 0, 4096));
	EXPECT_EQ(-ENODEV, ring_dbuf(&e->ring, 2, &e->buf, e->fd));
	EXPECT_EQ(0, dbuf_attached(&e->buf));
	ASSERT_LE(0, dbuf_move(&e->buf));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

TEST_F_TIMEOUT(drive, deleted_in_flight, LONG_TIMEOUT)
{
	__u64 end = now_ms() + run_ms(1000);
	struct env *e = &self->e;
	unsigned int rounds;
	struct mover m;

	for (rounds = 0; now_ms() < end; rounds++) {
		unsigned int i, nr = 64;
		int res[64];

		ASSERT_EQ(0, mover_start(&m, &e->buf, 300));
		for (i = 0; i < nr; i++) {
			struct io_uring_sqe *sqe;

			sqe = ring_fixed(&e->ring, i & 1, e->fd, 0, i * 4096,
					 4096, BASE + i * 4096);
			sqe->user_data = i;
		}
		ASSERT_EQ(nr, ring_submit(&e->ring));
		ASSERT_EQ(0, disk_power(&e->disk, false));
		EXPECT_EQ(0, dbuf_attached(&e->buf));
		ASSERT_EQ(0, ring_collect(&e->ring, res, nr));
		for (i = 0; i < nr; i++) {
			EXPECT_NE(-ESTALE, res[i]);
			EXPECT_NE(-EAGAIN, res[i]);
		}
		ASSERT_EQ(0, mover_stop(&m));
		close(e->fd);
		close(e->disk.fd);
		ASSERT_EQ(0, disk_power(&e->disk, true));
		e->disk.fd = disk_open(&e->disk, O_RDWR | O_DIRECT);
		e->fd = disk_open(&e->disk, O_RDWR | O_DIRECT);
		ASSERT_LE(0, e->disk.fd);
		ASSERT_LE(0, e->fd);
		/* it is another drive */
		EXPECT_EQ(-EBADF, ring_rw(&e->ring, true, e->fd, 0, 0, 4096,
					  BASE));
		ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
		EXPECT_EQ(4096, rw(e, true, 0, 4096, BASE));
	}
	TH_LOG("%u rounds", rounds);
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

FIXTURE(nostore) {
	struct env e;
};

FIXTURE_VARIANT(nostore) {
	struct ring_type type;
};

FIXTURE_VARIANT_ADD(nostore, plain) {
	.type = TYPE_PLAIN,
};

FIXTURE_VARIANT_ADD(nostore, iopoll) {
	.type = TYPE_IOPOLL,
};

FIXTURE_SETUP(nostore)
{
	static const struct disk_conf conf = { .no_memory = true };
	const char *skip;
	int ret;

	ret = env_init(&self->e, &variant->type, SCATTERED, 16, &conf, &skip);
	if (skip)
		SKIP(return, "%s: %s", skip, strerror(-ret));
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(nostore)
{
	env_exit(&self->e);
}

/* A drive that stores nothing looks at no data, but at where it is */
TEST_F(nostore, no_vmap)
{
	struct test_dmabuf_create create = { .flags = TEST_DMABUF_NO_VMAP };
	struct env *e = &self->e;
	size_t size = e->buf.size;
	unsigned int i;

	dbuf_exit(&e->buf);
	ASSERT_EQ(0, dbuf_test(&e->buf, size, create));
	ASSERT_EQ(0, buf_set(e, POISON, 0, size));
	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	for (i = 0; i < 4; i++) {
		EXPECT_EQ(4096, rw(e, false, 0, 4096, BASE));
		EXPECT_EQ(size, rw(e, true, 0, size, BASE));
		ASSERT_LE(0, dbuf_move(&e->buf));
	}
	EXPECT_TRUE(buf_holds(e, POISON, 0, size));
	EXPECT_EQ(4, dbuf_stats(&e->buf).maps);
	ASSERT_LE(0, dbuf_revoke(&e->buf));
	EXPECT_EQ(-ENODEV, rw(e, false, 0, 4096, BASE));
	EXPECT_EQ(0, dbuf_lost(&e->buf));
}

TEST_F_TIMEOUT(nostore, moves, LONG_TIMEOUT)
{
	__u64 end = now_ms() + run_ms(800);
	unsigned int i, nr = 64, ops = 0;
	struct env *e = &self->e;
	struct mover m;
	int res[64];

	ASSERT_EQ(1, ring_dbuf(&e->ring, 0, &e->buf, e->fd));
	ASSERT_EQ(0, mover_start(&m, &e->buf, 200));
	while (now_ms() < end) {
		for (i = 0; i < nr; i++)
			ring_fixed(&e->ring, i & 1, e->fd, 0, 0, 4096,
				   BASE)->user_data = i;
		ASSERT_EQ(nr, ring_submit(&e->ring));
		ASSERT_EQ(0, ring_collect(&e->ring, res, nr));
		for (i = 0; i < nr; i++)
			ASSERT_EQ(4096, res[i]);
		ops += nr;
	}
	ASSERT_EQ(0, mover_stop(&m));
	TH_LOG("%u requests, %u moves", ops, m.moves);
}

TEST_HARNESS_MAIN
