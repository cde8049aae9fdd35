// SPDX-License-Identifier: GPL-2.0
/*
 * Mirror target: each backing file, here called a leg, holds the whole device.
 *
 * A write or a flush goes to all legs in service at once, a read to one of
 * them, and to the next if that one fails or comes back short.
 *
 * What keeps stale data away from readers is one rule: a leg in service holds
 * all that was acknowledged. So whoever fails to write, or to flush, is taken
 * out of service before the request is acknowledged, and never gets back. The
 * exception is the last leg, as on any single disk: its failures are those of
 * the request, so what it lacks was never acknowledged. A failed read takes
 * nobody out of service, it makes nothing stale. Nor does a lack of memory here,
 * which is no fault of the leg: it is asked again.
 *
 * No leg remembers which ones are out of service. Whoever adds the device
 * vouches for legs that are equal, and a server that is gone isn't recovered.
 *
 * The queues' threads share struct mirror. Its mask of legs in service loses
 * bits with the lock held, and is read without. A struct mirror_io is used by
 * the thread that the request was sent to, from ->queue_io() until the request
 * is completed. Both live until ->deinit_tgt(), when the threads are gone.
 */

#include "kublk.h"

#define MIRROR_MAX_LEGS		MAX_BACK_FILES

/* reads change legs every 64 KiB, so that all of them get some */
#define MIRROR_READ_SHIFT	(16 - 9)

/* Without memory for that often, a leg has failed */
#define MIRROR_RETRIES		1000

struct mirror_io {
	unsigned char tried;	/* legs that it was sent to */
	unsigned char asked;	/* those of them that were the last */
	unsigned char failed;	/* those that it failed on */
	unsigned char again;	/* those to ask again, which had no memory for it */
	unsigned int retries;
	int err;		/* of the first that it failed on */
	int res;		/* of the request, while its buffer is unregistered */
};

struct mirror {
	pthread_mutex_t lock;
	unsigned int nr_legs;
	unsigned int in_service;	/* one bit for each leg, at least one is set */
	struct mirror_io ios[];
};

static struct mirror *mirror_of(const struct ublk_queue *q)
{
	return q->dev->private_data;
}

static struct mirror_io *mirror_io_of(const struct ublk_queue *q, int tag)
{
	return &mirror_of(q)->ios[q->q_id * q->q_depth + tag];
}

static unsigned int mirror_in_service(const struct mirror *m)
{
	return __atomic_load_n(&m->in_service, __ATOMIC_ACQUIRE);
}

/* What is expected of each leg, and what the request gets. */
static int mirror_full_result(const struct ublksrv_io_desc *iod)
{
	return ublksrv_get_op(iod) == UBLK_IO_OP_FLUSH ? 0 : iod->nr_sectors << 9;
}

/* The leg to read from next, as a mask; 0 if all were tried. */
static unsigned int mirror_read_leg(const struct mirror *m,
				    const struct ublksrv_io_desc *iod,
				    unsigned int tried)
{
	unsigned int left = mirror_in_service(m) & ~tried;
	unsigned int leg = (iod->start_sector >> MIRROR_READ_SHIFT) % m->nr_legs;
	unsigned int i;

	for (i = 0; i < m->nr_legs; i++) {
		if (left & (1U << leg))
			return 1U << leg;
		leg = (leg + 1) % m->nr_legs;
	}
	return 0;
}

static void mirror_prep_leg(struct ublk_thread *t, struct ublk_queue *q, int tag,
			    struct io_uring_sqe *sqe, unsigned int leg)
{
	const struct ublksrv_io_desc *iod = ublk_get_iod(q, tag);
	unsigned int ublk_op = ublksrv_get_op(iod);
	int fd = ublk_get_registered_fd(q, leg + 1);
	void *addr = ublk_get_io(q, tag)->buf_addr;
	__u32 len = iod->nr_sectors << 9;
	__u64 offset = iod->start_sector << 9;

	/* without a buffer of ours, addr is the offset 0 into the registered one */
	if (ublk_op == UBLK_IO_OP_FLUSH)
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	else if (ublk_op == UBLK_IO_OP_READ)
		io_uring_prep_read(sqe, fd, addr, len, offset);
	else
		io_uring_prep_write(sqe, fd, addr, len, offset);
	/* the same for one that is lent, which has no index either */
	if (ublk_op != UBLK_IO_OP_FLUSH && ublk_queue_no_buf(q) &&
	    !ublk_queue_use_fused(q)) {
		sqe->opcode = ublk_op == UBLK_IO_OP_READ ? IORING_OP_READ_FIXED :
							   IORING_OP_WRITE_FIXED;
		sqe->buf_index = ublk_io_buf_idx(t, q, tag);
	}
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	sqe->user_data = build_user_data(tag, ublk_op, leg, q->q_id, 1);
}

static bool mirror_is_fused(const struct ublk_queue *q,
			    const struct ublksrv_io_desc *iod)
{
	return ublk_queue_use_fused(q) && ublksrv_get_op(iod) != UBLK_IO_OP_FLUSH;
}

static void mirror_queue_legs(struct ublk_thread *t, struct ublk_queue *q, int tag,
			      unsigned int legs)
{
	bool fused = mirror_is_fused(q, ublk_get_iod(q, tag));
	bool commit = fused && ublk_io_fused_commit(q, tag);
	struct io_uring_sqe *cmd, *sqe[MIRROR_MAX_LEGS];
	int nr = __builtin_popcount(legs), got = nr;
	unsigned int leg;
	int i = 0;

	if (fused) {
		cmd = ublk_io_alloc_fused(t, q, tag, sqe, nr);
		/* which legs fail, unless one that fails is reason to ask again */
		if (!commit)
			cmd->fused_flags = 0;
	} else {
		got = ublk_io_alloc_sqes(t, sqe, nr);
	}
	ublk_assert(got == nr);
	mirror_io_of(q, tag)->tried |= legs;
	mirror_io_of(q, tag)->asked = legs;
	for (leg = 0; leg < MIRROR_MAX_LEGS; leg++)
		if (legs & (1U << leg))
			mirror_prep_leg(t, q, tag, sqe[i++], leg);
	if (!commit)
		ublk_queued_tgt_io(t, q, tag, nr + fused);
}

static void mirror_legs_failed(struct mirror_io *mio, unsigned int legs, int err)
{
	/* what io_uring, and nobody else, ends a request with for lack of memory */
	bool no_memory = err == -ENOMEM || err == -EAGAIN || err == -ECANCELED;

	if (no_memory && mio->retries < MIRROR_RETRIES) {
		mio->again |= legs;
		return;
	}
	if (!mio->failed)
		mio->err = err;
	mio->failed |= legs;
}

/*
 * The command is over after its legs. Legs that have not answered by then
 * never will, as the command was refused.
 */
static void mirror_fused_done(struct ublk_thread *t, struct ublk_queue *q, int tag,
			      int res)
{
	struct mirror_io *mio = mirror_io_of(q, tag);

	if (!ublk_get_io(q, tag)->tgt_ios)
		return;
	mirror_legs_failed(mio, mio->asked, res);
	while (!ublk_completed_tgt_io(t, q, tag))
		;
}

/* Send a request to its legs: its data is at hand, or registered. */
static void mirror_start(struct ublk_thread *t, struct ublk_queue *q, int tag)
{
	const struct ublksrv_io_desc *iod = ublk_get_iod(q, tag);
	struct mirror *m = mirror_of(q);
	unsigned int legs;

	memset(mirror_io_of(q, tag), 0, sizeof(struct mirror_io));
	if (ublksrv_get_op(iod) == UBLK_IO_OP_READ)
		legs = mirror_read_leg(m, iod, 0);
	else
		legs = mirror_in_service(m);
	mirror_queue_legs(t, q, tag, legs);
}

static bool mirror_registers_buf(const struct ublk_queue *q,
				 const struct ublksrv_io_desc *iod)
{
	return ublk_queue_use_zc(q) && ublksrv_get_op(iod) != UBLK_IO_OP_FLUSH;
}

/*
 * The buffer stays registered until the result is known, because a read may
 * need it again for another leg: so the commands aren't linked to the I/O.
 */
static void mirror_queue_buf_cmd(struct ublk_thread *t, struct ublk_queue *q, int tag,
				 bool reg)
{
	unsigned short buf_idx = ublk_io_buf_idx(t, q, tag);
	struct io_uring_sqe *sqe[1];
	int got = ublk_io_alloc_sqes(t, sqe, 1);

	ublk_assert(got == 1);
	if (reg)
		io_uring_prep_buf_register(sqe[0], q, tag, q->q_id, buf_idx);
	else
		io_uring_prep_buf_unregister(sqe[0], q, tag, q->q_id, buf_idx);
	sqe[0]->user_data = build_user_data(tag, ublk_cmd_op_nr(sqe[0]->cmd_op), 0,
					    q->q_id, 1);
	ublk_queued_tgt_io(t, q, tag, 1);
}

static void mirror_finish(struct ublk_thread *t, struct ublk_queue *q, int tag, int res)
{
	if (mirror_registers_buf(q, ublk_get_iod(q, tag))) {
		mirror_io_of(q, tag)->res = res;
		mirror_queue_buf_cmd(t, q, tag, false);
	} else {
		ublk_complete_io(t, q, tag, res);
	}
}

static void mirror_read_done(struct ublk_thread *t, struct ublk_queue *q, int tag)
{
	const struct ublksrv_io_desc *iod = ublk_get_iod(q, tag);
	struct mirror_io *mio = mirror_io_of(q, tag);
	unsigned int next;

	if (mio->failed != mio->tried) {
		mirror_finish(t, q, tag, mirror_full_result(iod));
		return;
	}
	next = mirror_read_leg(mirror_of(q), iod, mio->tried);
	if (next)
		mirror_queue_legs(t, q, tag, next);
	else
		mirror_finish(t, q, tag, mio->err);
}

/*
 * All legs have answered a write or a flush. It has succeeded if one of them
 * has it and is still in service, which others may have changed since it was
 * sent; those in service that don't have it must not be read any more then.
 * If all have failed, they may differ, so that one is all that remains.
 */
static void mirror_write_done(struct ublk_thread *t, struct ublk_queue *q, int tag)
{
	struct mirror_io *mio = mirror_io_of(q, tag);
	struct mirror *m = mirror_of(q);
	unsigned int lost, leg;
	bool done = true;

	if (mio->failed) {
		pthread_mutex_lock(&m->lock);
		lost = m->in_service & mio->failed;
		done = lost != m->in_service;
		if (!done)
			lost &= lost - 1;
		__atomic_store_n(&m->in_service, m->in_service & ~lost, __ATOMIC_RELEASE);
		pthread_mutex_unlock(&m->lock);

		for (leg = 0; leg < m->nr_legs; leg++)
			if (lost & (1U << leg))
				ublk_err("mirror: leg %u, %s, is out of service\n", leg,
					 q->dev->tgt.backing_file[leg]);
	}
	mirror_finish(t, q, tag,
		      done ? mirror_full_result(ublk_get_iod(q, tag)) : mio->err);
}

static void ublk_mirror_io_done(struct ublk_thread *t, struct ublk_queue *q,
				const struct io_uring_cqe *cqe)
{
	unsigned int tag = user_data_to_tag(cqe->user_data);
	unsigned int op = user_data_to_op(cqe->user_data);
	unsigned int leg = user_data_to_tgt_data(cqe->user_data);
	struct mirror_io *mio = mirror_io_of(q, tag);
	bool last = ublk_completed_tgt_io(t, q, tag);

	if (op == ublk_cmd_op_nr(UBLK_U_IO_REGISTER_IO_BUF)) {
		if (cqe->res < 0)
			ublk_complete_io(t, q, tag, cqe->res);
		else
			mirror_start(t, q, tag);
		return;
	}
	if (op == ublk_cmd_op_nr(UBLK_U_IO_UNREGISTER_IO_BUF)) {
		ublk_complete_io(t, q, tag, mio->res);
		return;
	}

	if (op == ublk_cmd_op_nr(UBLK_U_IO_FUSED_SUBMIT_IO)) {
		mirror_fused_done(t, q, tag, cqe->res);
		last = true;
		op = ublksrv_get_op(ublk_get_iod(q, tag));
	} else if (cqe->res != mirror_full_result(ublk_get_iod(q, tag))) {
		int err = cqe->res < 0 ? cqe->res : -EIO;

		ublk_err("mirror: op %u failed on leg %u, %s: res %d\n", op, leg,
			 q->dev->tgt.backing_file[leg], cqe->res);
		mirror_legs_failed(mio, 1U << leg, err);
	}
	if (!last)
		return;
	if (mio->again) {
		unsigned int legs = mio->again;

		mio->again = 0;
		mio->retries++;
		mirror_queue_legs(t, q, tag, legs);
		return;
	}
	if (op == UBLK_IO_OP_READ)
		mirror_read_done(t, q, tag);
	else
		mirror_write_done(t, q, tag);
}

static int ublk_mirror_queue_io(struct ublk_thread *t, struct ublk_queue *q, int tag)
{
	const struct ublksrv_io_desc *iod = ublk_get_iod(q, tag);

	switch (ublksrv_get_op(iod)) {
	case UBLK_IO_OP_READ:
	case UBLK_IO_OP_WRITE:
	case UBLK_IO_OP_FLUSH:
		if (mirror_registers_buf(q, iod))
			mirror_queue_buf_cmd(t, q, tag, true);
		else
			mirror_start(t, q, tag);
		break;
	case UBLK_IO_OP_WRITE_ZEROES:
	case UBLK_IO_OP_DISCARD:
		ublk_complete_io(t, q, tag, -ENOTSUP);
		break;
	default:
		ublk_complete_io(t, q, tag, -EINVAL);
		break;
	}
	ublk_dbg(UBLK_DBG_IO, "%s: tag %d ublk io %x %llx %u\n", __func__, tag,
		 iod->op_flags, iod->start_sector, iod->nr_sectors << 9);
	return 0;
}

static int ublk_mirror_tgt_init(const struct dev_ctx *ctx, struct ublk_dev *dev)
{
	const struct ublksrv_ctrl_dev_info *info = &dev->dev_info;
	unsigned int nr_legs = dev->tgt.nr_backing_files;
	unsigned int i;
	struct mirror *m;
	int ret;

	if (ctx->auto_zc_fallback) {
		ublk_err("%s: not support auto_zc_fallback\n", __func__);
		return -EINVAL;
	}
	if (ctx->metadata_size) {
		ublk_err("%s: integrity not supported\n", __func__);
		return -EINVAL;
	}
	if (info->flags & UBLK_F_SHMEM_ZC) {
		ublk_err("%s: shmem_zc not supported\n", __func__);
		return -EINVAL;
	}
	if (info->flags & UBLK_F_USER_RECOVERY) {
		ublk_err("%s: which legs are stale is not recovered\n", __func__);
		return -EINVAL;
	}
	if (nr_legs < 2) {
		ublk_err("%s: a mirror has two legs or more\n", __func__);
		return -EINVAL;
	}

	ret = backing_file_tgt_init(dev, nr_legs);
	if (ret)
		return ret;

	for (i = 1; i < nr_legs; i++) {
		if (dev->tgt.backing_file_size[i] != dev->tgt.backing_file_size[0]) {
			ublk_err("%s: %s and %s differ in size\n", __func__,
				 dev->tgt.backing_file[0], dev->tgt.backing_file[i]);
			return -EINVAL;
		}
	}

	m = calloc(1, sizeof(*m) +
		   info->nr_hw_queues * info->queue_depth * sizeof(m->ios[0]));
	if (!m)
		return -ENOMEM;
	pthread_mutex_init(&m->lock, NULL);
	m->nr_legs = nr_legs;
	m->in_service = (1U << nr_legs) - 1;
	dev->private_data = m;

	dev->tgt.dev_size = dev->tgt.backing_file_size[0] & ~511UL;
	dev->tgt.params = (struct ublk_params) {
		.types = UBLK_PARAM_TYPE_BASIC | UBLK_PARAM_TYPE_DMA_ALIGN,
		.basic = {
			.attrs			= UBLK_ATTR_VOLATILE_CACHE,
			.logical_bs_shift	= 9,
			.physical_bs_shift	= 12,
			.io_opt_shift		= 12,
			.io_min_shift		= 9,
			.max_sectors		= info->max_io_buf_bytes >> 9,
			.dev_sectors		= dev->tgt.dev_size >> 9,
		},
		.dma = {
			.alignment		= 511,
		},
	};
	dev->tgt.sq_depth = info->queue_depth * nr_legs;
	dev->tgt.cq_depth = info->queue_depth * nr_legs;

	return 0;
}

static void ublk_mirror_tgt_deinit(struct ublk_dev *dev)
{
	struct mirror *m = dev->private_data;

	backing_file_tgt_deinit(dev);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

const struct ublk_tgt_ops mirror_tgt_ops = {
	.name = "mirror",
	.init_tgt = ublk_mirror_tgt_init,
	.deinit_tgt = ublk_mirror_tgt_deinit,
	.queue_io = ublk_mirror_queue_io,
	.tgt_io_done = ublk_mirror_io_done,
};
