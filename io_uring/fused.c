// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_FUSED_CMD: a command to a driver, in the first half of a 128 byte
 * SQE, and a request in the second half that runs on the memory which the
 * driver lends to the command. The buffer is in no table and has no index, and
 * it is lent for as long as the member runs.
 *
 * The member is prepared along with the command, as its SQE is gone after
 * submission. It is issued when the driver has lent the buffer, which is bound
 * to it like a registered buffer that was looked up. So READ_FIXED and others
 * know nothing of fused commands. The command completes when the last user of
 * the buffer is gone, see struct io_fused.
 *
 * Copyright (C) 2026 The uring-offload authors
 */
#include <linux/blk-mq.h>
#include <linux/bvec.h>
#include <linux/errno.h>
#include <linux/fs.h>
#include <linux/io_uring/cmd.h>
#include <linux/kernel.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <linux/uio.h>

#include <uapi/linux/io_uring.h>

#include "fused.h"
#include "io_uring.h"
#include "rsrc.h"
#include "uring_cmd.h"

#define IO_FUSED_FLAGS		IORING_FUSED_ONE_CQE
#define IO_FUSED_MEMBER_FLAGS	(IOSQE_FIXED_FILE | IOSQE_ASYNC | \
				 IOSQE_CQE_SKIP_SUCCESS)

static struct io_fused *io_fused_of(struct io_kiocb *req)
{
	return io_kiocb_to_cmd(req, struct io_uring_cmd)->fused;
}

/*
 * Turn the copy of a member's SQE into that of the request to run. One that is
 * refused gets an opcode that doesn't exist, for io_init_req() to say so.
 */
static void io_fused_fix_sqe(struct io_fused *f, struct io_uring_sqe *sqe)
{
	bool range = true;

	switch (sqe->opcode) {
	case IORING_OP_READ:
		sqe->opcode = IORING_OP_READ_FIXED;
		fallthrough;
	case IORING_OP_READ_FIXED:
		f->dest = true;
		break;
	case IORING_OP_WRITE:
		sqe->opcode = IORING_OP_WRITE_FIXED;
		fallthrough;
	case IORING_OP_WRITE_FIXED:
		break;
	case IORING_OP_NOP:
		range = false;
		break;
	default:
		sqe->opcode = IORING_OP_LAST;
		break;
	}
	if ((sqe->flags & ~IO_FUSED_MEMBER_FLAGS) || sqe->buf_index) {
		sqe->flags &= IO_FUSED_MEMBER_FLAGS;
		sqe->opcode = IORING_OP_LAST;
	}
	if (range) {
		f->off = sqe->addr;
		f->len = sqe->len;
	}
}

/**
 * io_fused_prep - prepare a fused command and its member
 * @req:	IORING_OP_FUSED_CMD
 * @sqe:	its 128 byte SQE
 *
 * The member's half is copied once, nothing changes its mind afterwards.
 *
 * Context: submission, ->uring_lock is held.
 *
 * Return: 0; -EINVAL for fields that aren't as they should; -ENOMEM;
 * -ECANCELED if the member was refused, or its error if nothing but the
 * command tells it. The member fails along with the command then.
 */
int io_fused_prep(struct io_kiocb *req, const struct io_uring_sqe *sqe)
{
	struct io_uring_cmd *ioucmd = io_kiocb_to_cmd(req, struct io_uring_cmd);
	struct io_uring_sqe half;
	struct io_async_cmd *ac;
	struct io_kiocb *member;
	struct io_fused *f;
	u32 flags;

	/* what was here before is somebody else's, and io_fused_fail() looks */
	ioucmd->fused = NULL;

	flags = READ_ONCE(sqe->fused_flags);
	if (flags & ~IO_FUSED_FLAGS)
		return -EINVAL;
	if (READ_ONCE(sqe->__pad1) || READ_ONCE(sqe->nr_secondary) > 1)
		return -EINVAL;
	ioucmd->cmd_op = READ_ONCE(sqe->cmd_op);
	ioucmd->flags = flags | IORING_URING_CMD_FUSED;
	ioucmd->sqe = sqe;

	ac = io_uring_alloc_async_data(&req->ctx->cmd_cache, req);
	if (!ac)
		return -ENOMEM;
	req->flags |= REQ_F_NEED_CLEANUP;

	f = kzalloc_obj(*f, GFP_KERNEL_ACCOUNT);
	if (!f)
		return -ENOMEM;
	f->req = req;
	ioucmd->fused = f;

	memcpy(&half, sqe + 1, sizeof(half));
	io_fused_fix_sqe(f, &half);
	member = io_init_member_req(req->ctx, &half);
	if (!member)
		return -ENOMEM;
	f->member = member;
	/* what is deferred is the command */
	if (!(half.flags & IOSQE_ASYNC))
		member->flags &= ~REQ_F_FORCE_ASYNC;
	member->flags |= REQ_F_FUSED;
	if (flags & IORING_FUSED_ONE_CQE)
		member->flags |= IO_FUSED_QUIET;
	if (!(member->flags & REQ_F_FAIL))
		return 0;
	return flags & IORING_FUSED_ONE_CQE ? member->cqe.res : -ECANCELED;
}

/**
 * io_fused_cmd - issue a fused command
 * @req:	IORING_OP_FUSED_CMD
 * @issue_flags: IO_URING_F_*
 *
 * Context: as for any ->issue.
 *
 * Return: -EIOCBQUEUED, and the command completes later; -EAGAIN to be issued
 * again; -EOPNOTSUPP if the file doesn't lend; -ECANCELED if the driver is done
 * and didn't lend anything; or an error of the driver.
 */
int io_fused_cmd(struct io_kiocb *req, unsigned int issue_flags)
{
	struct io_uring_cmd *ioucmd = io_kiocb_to_cmd(req, struct io_uring_cmd);
	const struct file_operations *fop = req->file->f_op;
	int ret;

	/* or it would do what it does, and the member could never be issued */
	if (!fop->uring_cmd || !(fop->fop_flags & FOP_URING_LEND))
		return -EOPNOTSUPP;

	ret = security_uring_cmd(ioucmd);
	if (ret)
		return ret;
	if (io_is_compat(req->ctx))
		issue_flags |= IO_URING_F_COMPAT;

	ret = fop->uring_cmd(ioucmd, issue_flags);
	if (ret == -EIOCBQUEUED)
		return ret;
	/* the member runs, and its end is the command's */
	if (WARN_ON_ONCE(ioucmd->fused->lent))
		return -EIOCBQUEUED;
	if (ret == -EAGAIN)
		ioucmd->flags |= IORING_URING_CMD_REISSUE;
	return ret < 0 ? ret : -ECANCELED;
}

/**
 * io_fused_fail - a fused command fails, without having lent a buffer
 * @req:	IORING_OP_FUSED_CMD, about to be completed
 *
 * Complete the member first.
 *
 * Context: ->uring_lock is held, and requests may be added to ->compl_reqs.
 */
void io_fused_fail(struct io_kiocb *req)
{
	struct io_fused *f = io_fused_of(req);
	struct io_kiocb *member;

	if (!f || !f->member)
		return;
	member = f->member;
	f->member = NULL;
	/* a failed link whose head didn't want any CQEs */
	if (req->flags & REQ_F_CQE_SKIP)
		member->flags |= IO_FUSED_QUIET;
	io_req_defer_failed(member, member->flags & REQ_F_FAIL ?
			    member->cqe.res : -ECANCELED);
}

/**
 * io_fused_cleanup - free what belongs to a fused command
 * @req:	IORING_OP_FUSED_CMD, completed
 *
 * Context: ->uring_lock is held.
 */
void io_fused_cleanup(struct io_kiocb *req)
{
	struct io_uring_cmd *ioucmd = io_kiocb_to_cmd(req, struct io_uring_cmd);

	WARN_ON_ONCE(ioucmd->fused && ioucmd->fused->member);
	kfree(ioucmd->fused);
	io_uring_cmd_cleanup(req);
}

/**
 * io_fused_done - the driver has completed a fused command
 * @ioucmd:	the command, nothing was lent to it
 * @ret:	the driver's result
 *
 * The part of io_uring_cmd_done() that is different.
 *
 * Context: any.
 */
void io_fused_done(struct io_uring_cmd *ioucmd, s32 ret)
{
	if (WARN_ON_ONCE(ioucmd->fused->lent))
		return;
	io_req_task_queue_fail(cmd_to_io_kiocb(ioucmd),
			       ret < 0 ? ret : -ECANCELED);
}

/**
 * io_fused_nr - requests that wait for a fused command to be issued
 * @req:	request of any opcode that was prepared
 *
 * Context: ->uring_lock is held.
 *
 * Return: their number, 0 for other opcodes.
 */
unsigned int io_fused_nr(struct io_kiocb *req)
{
	struct io_fused *f;

	if (req->opcode != IORING_OP_FUSED_CMD)
		return 0;
	f = io_fused_of(req);
	return f && f->member;
}

/*
 * What a read was to fill and did not may hold anything. The driver, and those
 * that it hands the buffer to, count on the whole of it.
 */
static void io_fused_zero(struct io_fused *f, struct io_mapped_ubuf *imu)
{
	u32 done = max(f->res, 0);
	struct iov_iter iter;

	if (!(imu->dir & IO_BUF_DEST) || done >= f->len)
		return;
	if (f->off > imu->len || f->len > imu->len - f->off)
		return;
	iov_iter_bvec(&iter, ITER_DEST, imu->bvec, imu->nr_bvecs, imu->len);
	iov_iter_advance(&iter, f->off + done);
	iov_iter_zero(f->len - done, &iter);
}

/**
 * io_fused_note - a member of a fused command is done
 * @member:	the member, its CQE is posted
 *
 * Context: ->uring_lock is held. Before its reference to the buffer is put.
 */
void io_fused_note(struct io_kiocb *member)
{
	struct io_mapped_ubuf *imu;
	struct io_fused *f;

	/* never started, its command fails as well and knows why */
	if (!(member->flags & REQ_F_BUF_NODE))
		return;
	imu = member->buf_node->buf;
	f = imu->priv;
	f->res = member->cqe.res;
	f->failed = member->flags & REQ_F_FAIL;
	if (f->dest)
		io_fused_zero(f, imu);
}

static void io_fused_complete(struct io_tw_req tw_req, io_tw_token_t tw)
{
	struct io_kiocb *req = tw_req.req;
	struct io_uring_cmd *ioucmd = io_kiocb_to_cmd(req, struct io_uring_cmd);
	struct io_fused *f = ioucmd->fused;
	s32 res = f->res;

	if (res > 0 && !(ioucmd->flags & IORING_FUSED_ONE_CQE))
		res = 0;
	if (f->failed)
		req_set_fail(req);
	io_req_set_res(req, res, 0);
	io_req_complete_defer(req);
}

/*
 * The last user of the buffer is gone. The command can't be completed here:
 * this may be io_free_batch_list(), which is about to drop the list that it
 * would be added to.
 */
static void io_fused_release(void *priv)
{
	struct io_fused *f = priv;

	f->release(f->priv);
	f->req->io_task_work.func = io_fused_complete;
	io_req_task_work_add(f->req);
}

/* Allocate a node for the buffer to lend. The caller fills in the bvecs. */
static struct io_rsrc_node *io_fused_alloc(struct io_uring_cmd *ioucmd,
					   unsigned int nr_bvecs, u64 len,
					   u8 dir)
{
	struct io_kiocb *req = cmd_to_io_kiocb(ioucmd);
	struct io_rsrc_node *node;

	lockdep_assert_held(&req->ctx->uring_lock);

	if (!io_uring_cmd_is_fused(ioucmd))
		return ERR_PTR(-EOPNOTSUPP);
	if (ioucmd->fused->lent)
		return ERR_PTR(-EBUSY);
	if (len > UINT_MAX || WARN_ON_ONCE(ioucmd->flags &
					   IORING_URING_CMD_CANCELABLE))
		return ERR_PTR(-EINVAL);

	node = io_kernel_buffer_alloc(req->ctx, nr_bvecs, len, dir,
				      io_fused_release, ioucmd->fused);
	return node ? node : ERR_PTR(-ENOMEM);
}

/* Hand the reference to @node to the member, and start that */
static void io_fused_start(struct io_uring_cmd *ioucmd,
			   struct io_rsrc_node *node, void (*release)(void *),
			   void *priv)
{
	struct io_fused *f = ioucmd->fused;
	struct io_kiocb *member = f->member;

	f->release = release;
	f->priv = priv;
	f->lent = true;
	f->member = NULL;
	member->buf_node = node;
	member->flags |= REQ_F_BUF_NODE;
	/*
	 * Not from here: the command may run with other credentials, and is
	 * what the audit record is about.
	 */
	io_req_task_queue(member);
}

/**
 * io_uring_cmd_lend_bvec - lend memory to the member of a fused command
 * @ioucmd:	command that io_uring_cmd_is_fused(), and that isn't cancelable
 * @bvs:	the memory, the array is copied
 * @nr_bvecs:	number of entries in @bvs
 * @dir:	what the member may do: 1 << ITER_DEST to write to the memory,
 *		1 << ITER_SOURCE to read from it, or both
 * @release:	called once, when the memory isn't used any more
 * @priv:	argument of @release
 * @issue_flags: as for ->uring_cmd()
 *
 * The memory belongs to io_uring until @release is called, which takes place
 * under ->uring_lock, in any task, and possibly before this function returns
 * to the driver. The command completes afterwards and by itself: ->uring_cmd()
 * has returned -EIOCBQUEUED for it, or does so now, and the driver doesn't call
 * io_uring_cmd_done().
 *
 * Context: ->uring_cmd() or task work of the command. Takes ->uring_lock unless
 * @issue_flags say that it is held. May sleep.
 *
 * Return: 0; -EOPNOTSUPP if the command isn't fused; -EBUSY if something was
 * lent to it before; -EINVAL if the command is cancelable or the memory too
 * large; -ENOMEM. After an error @release isn't called.
 */
int io_uring_cmd_lend_bvec(struct io_uring_cmd *ioucmd,
			   const struct bio_vec *bvs, unsigned int nr_bvecs,
			   u8 dir, void (*release)(void *), void *priv,
			   unsigned int issue_flags)
{
	struct io_ring_ctx *ctx = cmd_to_io_kiocb(ioucmd)->ctx;
	struct io_rsrc_node *node;
	unsigned int i;
	u64 len = 0;
	int ret = 0;

	for (i = 0; i < nr_bvecs; i++)
		len += bvs[i].bv_len;

	io_ring_submit_lock(ctx, issue_flags);
	node = io_fused_alloc(ioucmd, nr_bvecs, len, dir);
	if (!IS_ERR(node)) {
		memcpy(node->buf->bvec, bvs, nr_bvecs * sizeof(*bvs));
		io_fused_start(ioucmd, node, release, priv);
	} else {
		ret = PTR_ERR(node);
	}
	io_ring_submit_unlock(ctx, issue_flags);
	return ret;
}
EXPORT_SYMBOL_GPL(io_uring_cmd_lend_bvec);

/**
 * io_uring_cmd_lend_request - lend a block request's memory
 * @ioucmd:	command that io_uring_cmd_is_fused(), and that isn't cancelable
 * @rq:		request that was started and has data. A read's memory may be
 *		written to, a write's may be read from.
 * @release:	called once with @rq, when the memory isn't used any more
 * @issue_flags: as for ->uring_cmd()
 *
 * As io_uring_cmd_lend_bvec(). The caller makes sure that @rq isn't completed
 * before @release is called.
 *
 * Context: as for io_uring_cmd_lend_bvec().
 *
 * Return: as io_uring_cmd_lend_bvec().
 */
int io_uring_cmd_lend_request(struct io_uring_cmd *ioucmd, struct request *rq,
			      void (*release)(void *), unsigned int issue_flags)
{
	struct io_ring_ctx *ctx = cmd_to_io_kiocb(ioucmd)->ctx;
	struct io_mapped_ubuf *imu;
	struct io_rsrc_node *node;
	struct req_iterator iter;
	unsigned int nr_bvecs;
	struct bio_vec bv;
	int ret = 0;

	io_ring_submit_lock(ctx, issue_flags);
	/* as io_buffer_register_request(): an upper bound, for free */
	node = io_fused_alloc(ioucmd, blk_rq_nr_phys_segments(rq),
			      blk_rq_bytes(rq), 1 << rq_data_dir(rq));
	if (!IS_ERR(node)) {
		imu = node->buf;
		nr_bvecs = 0;
		rq_for_each_bvec(bv, rq, iter)
			imu->bvec[nr_bvecs++] = bv;
		imu->nr_bvecs = nr_bvecs;
		io_fused_start(ioucmd, node, release, rq);
	} else {
		ret = PTR_ERR(node);
	}
	io_ring_submit_unlock(ctx, issue_flags);
	return ret;
}
EXPORT_SYMBOL_GPL(io_uring_cmd_lend_request);
