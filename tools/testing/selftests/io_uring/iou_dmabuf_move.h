/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Somebody who moves a dma-buf all the time, and reads and writes that don't
 * care.
 */
#ifndef IOU_DMABUF_MOVE_H
#define IOU_DMABUF_MOVE_H

#include <sched.h>

#include "iou_dmabuf.h"

/* What a move may take: nothing that it waits for takes that long */
#define MOVE_US		1000000
/* while a hundred others want the CPU, which may be an emulated one */
#define BUSY_MOVE_US	(5 * MOVE_US)

/* A thread that moves the dma-buf again and again */
struct mover {
	struct dbuf	*buf;
	unsigned int	pause_us;
	pthread_t	thread;
	int		stop;
	int		err;
	unsigned int	moves;
	int		worst_us;
};

static inline void *mover_thread(void *arg)
{
	struct mover *m = arg;
	struct rnd {
		unsigned int x;
	} rnd = { 12345 };

	while (!__atomic_load_n(&m->stop, __ATOMIC_ACQUIRE)) {
		int us = dbuf_move(m->buf);

		if (us < 0) {
			m->err = us;
			break;
		}
		if (us > m->worst_us)
			m->worst_us = us;
		m->moves++;
		rnd.x = rnd.x * 1664525 + 1013904223;
		usleep(1 + (rnd.x >> 8) % m->pause_us);
	}
	return NULL;
}

static inline int mover_start(struct mover *m, struct dbuf *buf,
			      unsigned int pause_us)
{
	memset(m, 0, sizeof(*m));
	m->buf = buf;
	m->pause_us = pause_us;
	return -pthread_create(&m->thread, NULL, mover_thread, m);
}

/*
 * One that runs before the ring's workers, who have no other CPU to go to. Nor
 * has the caller from then on.
 */
static inline int mover_start_first(struct mover *m, struct dbuf *buf,
				    struct ring *r)
{
	struct sched_param fifo = { .sched_priority = 1 };
	cpu_set_t cpu;
	int ret;

	CPU_ZERO(&cpu);
	CPU_SET(sched_getcpu(), &cpu);
	if (sched_setaffinity(0, sizeof(cpu), &cpu))
		return -errno;
	ret = ring_register(r, IORING_REGISTER_IOWQ_AFF, &cpu, sizeof(cpu));
	if (!ret)
		ret = mover_start(m, buf, 1000);
	return ret ?: -pthread_setschedparam(m->thread, SCHED_FIFO, &fifo);
}

static inline int mover_stop(struct mover *m)
{
	__atomic_store_n(&m->stop, 1, __ATOMIC_RELEASE);
	pthread_join(m->thread, NULL);
	return m->err;
}

/*
 * A part of the dma-buf, and one of the drive. Data goes from one to the
 * other and back, other data each time, checked at the other end.
 */
struct slot {
	bool		reading;
	unsigned int	gen;
};

static inline int slot_start(struct env *e, struct slot *s, unsigned int i,
			     size_t len)
{
	struct io_uring_sqe *sqe;
	int ret;

	s->gen++;
	fill_pattern(e->mem, len, s->gen * 1000 + i);
	if (s->reading) {
		ret = disk_write(&e->disk, e->mem, len, BASE + i * len);
		memset(e->mem, POISON, len);
		if (!ret)
			ret = dbuf_write(&e->buf, e->mem, len, i * len);
	} else {
		ret = dbuf_write(&e->buf, e->mem, len, i * len);
	}
	if (ret)
		return ret;
	sqe = ring_fixed(&e->ring, !s->reading, e->fd, 0, i * len, len,
			 BASE + i * len);
	sqe->flags = e->sqe_flags;
	sqe->user_data = i;
	return 0;
}

static inline int slot_end(struct env *e, struct slot *s, unsigned int i,
			   size_t len, int res)
{
	size_t at;
	int ret;

	if (res != (int)len) {
		fprintf(stderr, "# %s of slot %u: result %d\n",
			s->reading ? "read" : "write", i, res);
		return res < 0 ? res : -EIO;
	}
	if (s->reading)
		ret = dbuf_read(&e->buf, e->mem, len, i * len);
	else
		ret = disk_read(&e->disk, e->mem, len, BASE + i * len);
	if (ret)
		return ret;
	at = check_pattern(e->mem, len, s->gen * 1000 + i);
	if (at != len) {
		fprintf(stderr, "# %s of slot %u: byte %zu is %#x\n",
			s->reading ? "read" : "write", i, at, e->mem[at]);
		return -EBADMSG;
	}
	s->reading = !s->reading;
	return 0;
}

/*
 * Keep @depth requests of @len bytes in flight for @ms: how many there were, or
 * -errno
 */
static inline int traffic(struct env *e, unsigned int depth, size_t len,
			  unsigned int ms)
{
	__u64 end = now_ms() + ms;
	unsigned int i, flying = 0, ops = 0;
	struct slot *slots;
	int ret = 0;

	slots = calloc(depth, sizeof(*slots));
	for (i = 0; i < depth && !ret; i++) {
		slots[i].reading = i & 1;
		ret = slot_start(e, &slots[i], i, len);
		flying++;
		/* the submission queue may be shorter */
		if (i % 32 == 31 || i == depth - 1)
			ring_submit(&e->ring);
	}
	while (flying && !ret) {
		struct io_uring_cqe cqe;

		ret = ring_wait(&e->ring, &cqe);
		if (ret) {
			fprintf(stderr, "# %u requests are lost\n", flying);
			break;
		}
		flying--;
		ops++;
		i = cqe.user_data;
		ret = slot_end(e, &slots[i], i, len, cqe.res);
		if (ret || now_ms() >= end)
			continue;
		ret = slot_start(e, &slots[i], i, len);
		flying++;
		ring_submit(&e->ring);
	}
	free(slots);
	return ret ? ret : (int)ops;
}

#endif /* IOU_DMABUF_MOVE_H */
