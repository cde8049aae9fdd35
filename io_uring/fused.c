// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_FUSED_CMD: a command to a driver, in the first half of a 128 byte
 * SQE, and requests that run on the memory which the driver lends to the
 * command: one in the second half, others in the SQ entries that follow. The
 * buffer is in no table and has no index, and it is lent for as long as these
 * members run.
 *
 * The members are prepared along with the command, as their SQEs are gone after
 * submission. They are issued when the driver has lent the buffer, which is
 * bound to them like a registered buffer that was looked up. So READ_FIXED and
 * others know nothing of fused commands. The command completes when the last
 * user of the buffer is gone, see struct io_fused.
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
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/socket.h>
#include <linux/sort.h>
#include <linux/uio.h>

#include <uapi/linux/io_uring.h>

#include "alloc_cache.h"
#include "cancel.h"
#include "fused.h"
#include "io_uring.h"
#include "memcpy.h"
#include "net.h"
#include "rsrc.h"
#include "rw.h"
#include "uring_cmd.h"

#define IO_FUSED_MEMBER_FLAGS	(IOSQE_FIXED_FILE | IOSQE_ASYNC | \
				 IOSQE_CQE_SKIP_SUCCESS)
/*
 * Those with which received data is where the result says that it is. Not so
 * with MSG_TRUNC.
 */
#define IO_FUSED_RECV_FLAGS	(MSG_WAITALL | MSG_DONTWAIT | MSG_PEEK)
/*
 * Not MSG_ZEROCOPY: the network would have the memory for longer than the
 * member, which is for those who wait for a notification.
 */
#define IO_FUSED_SEND_FLAGS	(MSG_WAITALL | MSG_DONTWAIT | MSG_MORE | \
				 MSG_EOR | MSG_OOB | MSG_CONFIRM | \
				 MSG_DONTROUTE | MSG_NOSIGNAL)

static struct io_fused *io_fused_of(struct io_kiocb *req)
{
	return io_kiocb_to_cmd(req, struct io_uring_cmd)->fused;
}

/**
 * io_fused_takes - can a fused command have members of an opcode?
 * @opcode:	IORING_OP_*
 *
 * Context: any.
 *
 * Return: true if it can, as long as the kernel has the opcode.
 */
bool io_fused_takes(u8 opcode)
{
	switch (opcode) {
	case IORING_OP_READ:
	case IORING_OP_READ_FIXED:
	case IORING_OP_READV_FIXED:
	case IORING_OP_WRITE:
	case IORING_OP_WRITE_FIXED:
	case IORING_OP_WRITEV_FIXED:
	case IORING_OP_RECV:
	case IORING_OP_SEND:
	case IORING_OP_SEND_ZC:
	case IORING_OP_SENDMSG_ZC:
	case IORING_OP_MEMCPY:
	case IORING_OP_URING_CMD:
	case IORING_OP_NOP:
		return true;
	default:
		return false;
	}
}

/*
 * Turn the copy of a member's SQE, which may be @half of one, into that of the
 * request to run. One that is refused gets an opcode that doesn't exist, for
 * io_init_req() to say so.
 */
static void io_fused_fix_sqe(struct io_fused_member *m,
			     struct io_uring_sqe *sqe, bool half)
{
	bool ok = io_fused_takes(sqe->opcode) && !sqe->buf_index &&
		  !(sqe->flags & ~IO_FUSED_MEMBER_FLAGS);
	bool sized = true;

	switch (sqe->opcode) {
	case IORING_OP_READ:
		sqe->opcode = IORING_OP_READ_FIXED;
		fallthrough;
	case IORING_OP_READ_FIXED:
		m->dest = true;
		break;
	case IORING_OP_WRITE:
		sqe->opcode = IORING_OP_WRITE_FIXED;
		fallthrough;
	case IORING_OP_WRITE_FIXED:
		break;
	case IORING_OP_READV_FIXED:
		m->dest = true;
		sized = false;
		break;
	case IORING_OP_RECV:
		sqe->ioprio |= IORING_RECVSEND_FIXED_BUF;
		m->dest = true;
		ok &= !(sqe->msg_flags & ~IO_FUSED_RECV_FLAGS);
		break;
	case IORING_OP_SEND:
	case IORING_OP_SEND_ZC:
	case IORING_OP_SENDMSG_ZC:
		if (sqe->opcode == IORING_OP_SENDMSG_ZC ||
		    (sqe->ioprio & IORING_SEND_VECTORIZED)) {
			/* how much all of it is isn't known here */
			sized = false;
			if (!(sqe->msg_flags & MSG_WAITALL))
				m->want = U32_MAX;
		}
		sqe->ioprio |= IORING_RECVSEND_FIXED_BUF;
		ok &= !(sqe->msg_flags & ~IO_FUSED_SEND_FLAGS);
		break;
	case IORING_OP_MEMCPY:
		/* the one side is lent, and the other isn't */
		m->dest = sqe->memcpy_flags & IORING_MEMCPY_DST_FIXED;
		ok &= !sqe->file_index &&
		      m->dest != !!(sqe->memcpy_flags &
				    IORING_MEMCPY_SRC_FIXED);
		break;
	case IORING_OP_URING_CMD:
		/*
		 * Drivers expect the SQEs of the ring's size, and the second
		 * half of one isn't.
		 */
		ok &= !half;
		sqe->uring_cmd_flags |= IORING_URING_CMD_FIXED;
		sized = false;
		break;
	default:
		sized = false;
		break;
	}
	if (!ok) {
		sqe->flags &= IO_FUSED_MEMBER_FLAGS;
		sqe->opcode = IORING_OP_LAST;
	}
	/* for those that have a range in the buffer */
	m->off = sqe->addr;
	m->len = sqe->len;
	if (sized)
		m->want = m->len;
	m->zeroed = U64_MAX;
}

/* What the ranges of a vectored member are, which are gone once it is issued */
static int io_fused_note_iovec(struct io_fused_member *m)
{
	struct io_async_rw *io = m->req->async_data;
	const struct iovec *iov;
	unsigned int i;
	u64 len = 0;

	if ((m->req->opcode != IORING_OP_READV_FIXED &&
	     m->req->opcode != IORING_OP_WRITEV_FIXED) || !m->len)
		return 0;
	iov = io->vec.iovec + (io->vec.nr - m->len);
	if (m->dest) {
		m->iov = kmemdup_array(iov, m->len, sizeof(*m->iov),
				       GFP_KERNEL_ACCOUNT);
		return m->iov ? 0 : -ENOMEM;
	}
	for (i = 0; i < m->len; i++)
		len += iov[i].iov_len;
	m->want = min_t(u64, len, U32_MAX);
	return 0;
}

/*
 * The SQE of a command, which the driver looks at when it is issued. @copy is
 * the part that was looked at.
 */
static void io_fused_copy_cmd(struct io_kiocb *member,
			      const struct io_uring_sqe *copy,
			      const struct io_uring_sqe *sqe)
{
	struct io_async_cmd *ac = member->async_data;

	ac->sqes[0] = *copy;
	if (member->ctx->flags & IORING_SETUP_SQE128)
		ac->sqes[1] = sqe[1];
	io_kiocb_to_cmd(member, struct io_uring_cmd)->sqe = ac->sqes;
	member->flags |= REQ_F_SQE_COPIED;
}

/**
 * io_fused_add - prepare one more member of a fused command
 * @req:	IORING_OP_FUSED_CMD that has fewer than it is to have
 * @sqe:	the member's SQE. It is copied once, nothing changes its mind
 *		afterwards.
 *
 * One that is refused is a member as well, and fails along with the command.
 * io_fused_prepared() tells.
 *
 * Context: submission, ->uring_lock is held.
 */
void io_fused_add(struct io_kiocb *req, const struct io_uring_sqe *sqe)
{
	struct io_uring_cmd *ioucmd = io_kiocb_to_cmd(req, struct io_uring_cmd);
	struct io_fused *f = ioucmd->fused;
	struct io_fused_member *m = &f->members[f->nr++];
	struct io_kiocb *member, *notif;
	struct io_uring_sqe copy;

	*m = (struct io_fused_member) { };
	memcpy(&copy, sqe, sizeof(copy));
	io_fused_fix_sqe(m, &copy, f->nr == 1);
	member = io_init_member_req(req->ctx, &copy);
	if (!member) {
		f->err = -ENOMEM;
		return;
	}
	m->req = member;
	/* what is deferred is the command */
	if (!(copy.flags & IOSQE_ASYNC))
		member->flags &= ~REQ_F_FORCE_ASYNC;
	/* the last one completes the command as well, and what follows it */
	member->flags |= REQ_F_FUSED | REQ_F_POLL_NO_LAZY;
	notif = io_send_zc_notif(member);
	if (notif)
		notif->flags |= REQ_F_POLL_NO_LAZY;
	if (ioucmd->flags & IORING_FUSED_ONE_CQE) {
		member->flags |= IO_FUSED_QUIET;
		if (notif)
			notif->flags |= REQ_F_CQE_SKIP;
	}
	if (!(member->flags & REQ_F_FAIL)) {
		if (member->opcode == IORING_OP_URING_CMD)
			io_fused_copy_cmd(member, &copy, sqe);
		if (io_fused_note_iovec(m))
			f->err = -ENOMEM;
		return;
	}
	if (f->err)
		return;
	/* one that posts a CQE tells on its own */
	f->err = ioucmd->flags & IORING_FUSED_ONE_CQE ? member->cqe.res :
							-ECANCELED;
}

/**
 * io_fused_prepared - all SQEs of a fused command were seen
 * @req:	IORING_OP_FUSED_CMD
 *
 * Context: submission, ->uring_lock is held.
 *
 * Return: 0; -EINVAL if members are missing; -ENOMEM; -ECANCELED if a member
 * was refused, or its error if nothing but the command tells it. All members
 * fail along with the command then.
 */
int io_fused_prepared(struct io_kiocb *req)
{
	struct io_fused *f = io_fused_of(req);

	return f->nr < f->nr_members ? -EINVAL : f->err;
}

/**
 * io_fused_prep - prepare a fused command and the member in its own SQE
 * @req:	IORING_OP_FUSED_CMD
 * @sqe:	its 128 byte SQE
 *
 * Context: submission, ->uring_lock is held.
 *
 * Return: how many SQ entries follow, to be given to io_fused_add() before
 * io_fused_prepared() is called; -EINVAL for fields that aren't as they should;
 * -ENOMEM; or, if there is just one member, as io_fused_prepared().
 */
int io_fused_prep(struct io_kiocb *req, const struct io_uring_sqe *sqe)
{
	struct io_uring_cmd *ioucmd = io_kiocb_to_cmd(req, struct io_uring_cmd);
	struct io_async_cmd *ac;
	struct io_fused *f;
	unsigned int nr;
	u32 flags;

	/* what was here before is somebody else's, and io_fused_fail() looks */
	ioucmd->fused = NULL;

	flags = READ_ONCE(sqe->fused_flags);
	if (flags & ~IO_FUSED_FLAGS)
		return -EINVAL;
	nr = READ_ONCE(sqe->nr_secondary) ?: 1;
	if (READ_ONCE(sqe->__pad1) || nr > IO_FUSED_MAX)
		return -EINVAL;
	ioucmd->cmd_op = READ_ONCE(sqe->cmd_op);
	ioucmd->flags = flags | IORING_URING_CMD_FUSED;
	ioucmd->sqe = sqe;

	ac = io_uring_alloc_async_data(&req->ctx->cmd_cache, req);
	if (!ac)
		return -ENOMEM;
	/* what it starts may complete at once, and it may be queued lazily */
	req->flags |= REQ_F_NEED_CLEANUP | REQ_F_POLL_NO_LAZY;

	if (nr == 1)
		f = io_cache_alloc(&req->ctx->fused_cache, GFP_KERNEL_ACCOUNT);
	else
		f = kmalloc_flex(*f, members, nr, GFP_KERNEL_ACCOUNT);
	if (!f)
		return -ENOMEM;
	*f = (struct io_fused) { .req = req, .nr_members = nr };
	ioucmd->fused = f;

	io_fused_add(req, sqe + 1);
	return nr > 1 ? nr - 1 : io_fused_prepared(req);
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

	/* or it would do what it does, and no member could ever be issued */
	if (!fop->uring_cmd || !(fop->fop_flags & FOP_URING_LEND))
		return -EOPNOTSUPP;

	ret = security_uring_cmd(ioucmd);
	if (ret)
		return ret;

	/* may be cancelled from here on. It may have been here before. */
	io_ring_submit_lock(req->ctx, issue_flags);
	if (hlist_unhashed(&ioucmd->fused->node))
		hlist_add_head(&ioucmd->fused->node, &req->ctx->fused_list);
	io_ring_submit_unlock(req->ctx, issue_flags);
	if (io_is_compat(req->ctx))
		issue_flags |= IO_URING_F_COMPAT;

	ret = fop->uring_cmd(ioucmd, issue_flags | IO_URING_F_FUSED);
	if (ret == -EIOCBQUEUED)
		return ret;
	/* the members run, and their end is the command's */
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
 * Complete the members first.
 *
 * Context: ->uring_lock is held, and requests may be added to ->compl_reqs.
 */
void io_fused_fail(struct io_kiocb *req)
{
	struct io_fused *f = io_fused_of(req);
	struct io_kiocb *member, *notif;
	unsigned int i;

	if (!f)
		return;
	for (i = 0; i < f->nr; i++) {
		member = f->members[i].req;
		if (!member)
			continue;
		f->members[i].req = NULL;
		/* a failed link whose head didn't want any CQEs */
		if (req->flags & REQ_F_CQE_SKIP)
			member->flags |= IO_FUSED_QUIET;
		notif = io_send_zc_notif(member);
		io_req_defer_failed(member, member->flags & REQ_F_FAIL ?
				    member->cqe.res : -ECANCELED);
		/* would come after the command's CQE, and has nothing to say */
		if (notif) {
			notif->flags |= REQ_F_CQE_SKIP;
			member->cqe.flags &= ~IORING_CQE_F_MORE;
		}
	}
}

static void io_fused_free(struct io_uring_cmd *ioucmd)
{
	struct io_fused *f = ioucmd->fused;
	unsigned int i;

	if (!f)
		return;
	hlist_del_init(&f->node);
	for (i = 0; i < f->nr; i++) {
		WARN_ON_ONCE(f->members[i].req);
		kfree(f->members[i].iov);
	}
	if (f->nr_members == 1)
		io_cache_free(&cmd_to_io_kiocb(ioucmd)->ctx->fused_cache, f);
	else
		kfree(f);
	ioucmd->fused = NULL;
}

/**
 * io_fused_cleanup - free what belongs to a fused command
 * @req:	IORING_OP_FUSED_CMD, completed
 *
 * Context: ->uring_lock is held.
 */
void io_fused_cleanup(struct io_kiocb *req)
{
	io_fused_free(io_kiocb_to_cmd(req, struct io_uring_cmd));
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
 * Return: their number, with their notifications; 0 for other opcodes.
 */
unsigned int io_fused_nr(struct io_kiocb *req)
{
	struct io_kiocb *member;
	unsigned int i, nr = 0;
	struct io_fused *f;

	if (req->opcode != IORING_OP_FUSED_CMD)
		return 0;
	f = io_fused_of(req);
	if (!f || f->lent)
		return 0;
	for (i = 0; i < f->nr; i++) {
		member = f->members[i].req;
		if (member)
			nr += 1 + !!io_send_zc_notif(member);
	}
	return nr;
}

static bool io_fused_has_range(const struct io_mapped_ubuf *imu, u64 off,
			       u64 len)
{
	return off <= imu->len && len <= imu->len - off;
}

/* Zero @len bytes but for the first @done, that a member was to fill in */
static void io_fused_zero_range(struct io_fused_member *m,
				struct io_mapped_ubuf *imu, u64 off, u64 len,
				u64 done)
{
	struct iov_iter iter;

	if (!(imu->dir & IO_BUF_DEST) || done >= len ||
	    !io_fused_has_range(imu, off, len))
		return;
	iov_iter_bvec(&iter, ITER_DEST, imu->bvec, imu->nr_bvecs, imu->len);
	iov_iter_advance(&iter, off + done);
	iov_iter_zero(len - done, &iter);
	m->zeroed = min(m->zeroed, off + done);
}

/*
 * What a read was to fill and did not may hold anything. The driver, and those
 * that it hands the buffer to, count on the whole of it.
 */
static void io_fused_zero(struct io_fused_member *m, struct io_mapped_ubuf *imu)
{
	u64 done = max(m->res, 0), len = 0;
	unsigned int i;

	if (!m->iov) {
		io_fused_zero_range(m, imu, m->off, m->len, done);
		return;
	}
	for (i = 0; i < m->len; i++)
		if (io_fused_has_range(imu, (uintptr_t)m->iov[i].iov_base,
				       m->iov[i].iov_len))
			len += m->iov[i].iov_len;
	/* they overlap, and there may be many: all of it, and that once */
	if (len > imu->len && done < len) {
		io_fused_zero_range(m, imu, 0, imu->len, 0);
		return;
	}
	for (i = 0; i < m->len; i++) {
		struct iovec *iov = &m->iov[i];

		io_fused_zero_range(m, imu, (uintptr_t)iov->iov_base,
				    iov->iov_len, done);
		/* and leave what it did fill, for io_fused_filled() */
		iov->iov_len = min_t(u64, done, iov->iov_len);
		done -= iov->iov_len;
	}
}

/**
 * io_fused_note - a member of a fused command is done
 * @member:	the member, its CQE is posted
 *
 * Context: ->uring_lock is held. Before its reference to the buffer is put.
 */
void io_fused_note(struct io_kiocb *member)
{
	struct io_fused_member *m;
	struct io_mapped_ubuf *imu;
	struct io_fused *f;

	/* never started, its command fails as well and knows why */
	if (!(member->flags & REQ_F_BUF_NODE))
		return;
	imu = member->buf_node->buf;
	f = imu->priv;
	m = &f->members[member->buf_index];
	m->req = NULL;
	m->res = member->cqe.res;
	/*
	 * What that means only its driver knows: for NVMe, that it failed. It
	 * isn't for those who don't see the member's CQE to take as success.
	 */
	if (member->opcode == IORING_OP_URING_CMD && m->res > 0 &&
	    (f->done || io_kiocb_to_cmd(f->req, struct io_uring_cmd)->flags &
			IORING_FUSED_ONE_CQE))
		m->res = -EIO;
	/* REQ_F_FAIL isn't for those that are polled */
	m->failed = (member->flags & REQ_F_FAIL) || m->res < 0;
	if (m->dest)
		io_fused_zero(m, imu);
}

/* The first error by the order of members, or how many bytes they have moved */
static s32 io_fused_result(struct io_fused *f, bool *failed)
{
	unsigned int i;
	u64 bytes = 0;
	s32 err = 0;

	for (i = 0; i < f->nr; i++) {
		struct io_fused_member *m = &f->members[i];

		*failed |= m->failed;
		if (m->res >= 0)
			bytes += m->res;
		else if (!err)
			err = m->res;
	}
	return err ?: min_t(u64, bytes, INT_MAX);
}

/* From the end of the buffer to its start */
static int io_fused_cmp_iov(const void *a, const void *b)
{
	const struct iovec *x = a, *y = b;

	return -cmp_int((uintptr_t)x->iov_base, (uintptr_t)y->iov_base);
}

/* Move @end on by what @m has filled there, and forget about that */
static bool io_fused_extend(struct io_fused_member *m, u64 *end)
{
	bool more = false;
	u64 off, len;

	while (m->len) {
		if (m->iov) {
			off = (uintptr_t)m->iov[m->len - 1].iov_base;
			len = m->iov[m->len - 1].iov_len;
		} else {
			off = m->off;
			/* a file may say anything */
			len = min_t(u32, max(m->res, 0), m->len);
		}
		if (off > *end)
			break;
		*end = max(*end, off + len);
		m->len = m->iov ? m->len - 1 : 0;
		more = true;
	}
	return more;
}

/* How much of the buffer is filled without a gap, if @end bytes were before */
static u64 io_fused_filled(struct io_fused *f, u64 end)
{
	unsigned int i;
	bool more;

	for (i = 0; i < f->nr; i++) {
		struct io_fused_member *m = &f->members[i];

		if (m->iov)
			sort(m->iov, m->len, sizeof(*m->iov), io_fused_cmp_iov,
			     NULL);
	}
	do {
		more = false;
		for (i = 0; i < f->nr; i++)
			if (f->members[i].dest)
				more |= io_fused_extend(&f->members[i], &end);
		/* one alone has done what it can, others may close its gaps */
	} while (more && f->nr > 1);
	/* one that has failed may have zeroed what another one had filled */
	for (i = 0; i < f->nr; i++)
		end = min(end, f->members[i].zeroed);
	return end;
}

/**
 * io_uring_cmd_lend_result - what the members of a fused command have done
 * @ioucmd:	the command
 * @filled:	how many bytes from the start of the memory were filled before,
 *		0 if it wasn't lent before. On return, how many are filled now,
 *		by whichever members, up to the first that was not. Also if
 *		others have failed.
 *
 * To be called once, by one of the functions that were passed as @release and
 * @done when the memory was lent.
 *
 * Context: as for these.
 *
 * Return: 0; the error of the first member that failed; -EIO if one was to take
 * data from the memory and has taken less than it was to.
 */
int io_uring_cmd_lend_result(struct io_uring_cmd *ioucmd, u64 *filled)
{
	struct io_fused *f = ioucmd->fused;
	bool failed = false, cut = false;
	unsigned int i;
	s32 res;

	*filled = io_fused_filled(f, *filled);
	res = io_fused_result(f, &failed);
	if (res < 0)
		return res;
	for (i = 0; i < f->nr; i++) {
		struct io_fused_member *m = &f->members[i];

		cut |= !m->dest && (m->failed || (u32)m->res < m->want);
	}
	return cut ? -EIO : 0;
}
EXPORT_SYMBOL_GPL(io_uring_cmd_lend_result);

static void io_fused_complete(struct io_tw_req tw_req, io_tw_token_t tw)
{
	struct io_kiocb *req = tw_req.req;
	struct io_uring_cmd *ioucmd = io_kiocb_to_cmd(req, struct io_uring_cmd);
	bool failed = false;
	s32 res;

	res = io_fused_result(ioucmd->fused, &failed);
	if (res > 0 && !(ioucmd->flags & IORING_FUSED_ONE_CQE))
		res = 0;
	if (failed)
		req_set_fail(req);
	io_req_set_res(req, res, 0);
	io_req_complete_defer(req);
}

static void io_fused_done_tw(struct io_tw_req tw_req, io_tw_token_t tw)
{
	struct io_uring_cmd *ioucmd = io_uring_cmd_from_tw(tw_req);

	/*
	 * io_uring_cmd_done() completes it, and it may be cancelable. Whoever
	 * completes it, it isn't freed before this returns, which takes
	 * ->uring_lock.
	 */
	ioucmd->flags &= ~IORING_URING_CMD_FUSED;
	ioucmd->fused->done(tw_req, tw);
	io_fused_free(ioucmd);
}

/*
 * The last user of the buffer is gone. The command can't be completed here:
 * this is io_free_batch_list(), which is about to drop the list that it would
 * be added to.
 */
static void io_fused_release(void *priv)
{
	struct io_fused *f = priv;

	hlist_del_init(&f->node);

	f->release(f->priv);
	f->req->io_task_work.func = f->done ? io_fused_done_tw :
					      io_fused_complete;
	io_req_flush_work_add(f->req);
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

/* Give @member what a lookup of the buffer would give it */
static void io_fused_bind(struct io_kiocb *member, struct io_rsrc_node *node,
			  unsigned int index)
{
	struct io_kiocb *notif = io_send_zc_notif(member);

	member->buf_node = node;
	member->buf_index = index;
	member->flags |= REQ_F_BUF_NODE;
	node->refs++;

	if (notif) {
		/* what the network has of the buffer is the notification's */
		notif->buf_node = node;
		notif->flags |= REQ_F_BUF_NODE;
		node->refs++;
	} else if (member->opcode == IORING_OP_MEMCPY) {
		node->refs += io_memcpy_bind_src(member, node);
	}
}

/*
 * A command may wait for something that the lent memory has to be back for: for
 * ever, and what would cancel it waits as well. Its driver knows. The file is
 * looked up as it would be when the member is issued, which leaves it alone.
 */
static bool io_fused_takes_file(struct io_kiocb *member)
{
	if (member->opcode != IORING_OP_URING_CMD)
		return true;
	if (member->flags & REQ_F_FIXED_FILE)
		member->file = io_file_get_fixed(member, member->cqe.fd, 0);
	else
		member->file = io_file_get_normal(member, member->cqe.fd);
	return !member->file ||
	       !(member->file->f_op->fop_flags & FOP_URING_NO_MEMBER);
}

static void io_fused_submit(struct io_tw_req tw_req, io_tw_token_t tw)
{
	struct io_kiocb *member = tw_req.req;
	struct io_fused *f = member->buf_node->buf->priv;

	f->members[member->buf_index].started = true;
	if (f->canceled)
		io_req_defer_failed(member, -ECANCELED);
	else if (!tw.cancel && !io_fused_takes_file(member))
		io_req_defer_failed(member, -EOPNOTSUPP);
	else
		io_req_task_submit(tw_req, tw);
}

static int io_fused_cancel_members(struct io_fused *f)
{
	int res = -ENOENT;
	unsigned int i;

	f->canceled = true;
	for (i = 0; i < f->nr; i++) {
		struct io_fused_member *m = &f->members[i];
		int ret;

		if (!m->req)
			continue;
		ret = m->started ? io_cancel_req(m->req) : 0;
		if (!ret || (ret == -EALREADY && res))
			res = ret;
	}
	return res;
}

/**
 * io_fused_cancel - cancel what fused commands wait for
 * @cd:		what to cancel, may be met by commands
 *
 * A command that was lent its buffer waits for the members, so these are
 * cancelled. It completes when they have, with their error. One that wasn't yet
 * has them cancelled as soon as it is.
 *
 * Context: ->uring_lock is held.
 *
 * Return: 0; -EALREADY if members run in io-wq, which was told, or have to wait
 * for the driver first; -ENOENT if there is no such command, or none of its
 * members can be cancelled.
 */
int io_fused_cancel(struct io_cancel_data *cd)
{
	struct io_fused *f;
	int ret;

	hlist_for_each_entry(f, &cd->ctx->fused_list, node) {
		if (!io_cancel_req_match(f->req, cd))
			continue;
		if (!f->lent) {
			/* or the members are cancelled when they would start */
			f->canceled = true;
			return io_cancel_req(f->req) ? -EALREADY : 0;
		}
		ret = io_fused_cancel_members(f);
		if (ret != -ENOENT)
			return ret;
	}
	return -ENOENT;
}

/**
 * io_fused_show_fdinfo - the commands whose members run
 * @m:		fdinfo of the ring's file
 * @ctx:	ring
 *
 * Context: ->uring_lock is held.
 */
void io_fused_show_fdinfo(struct seq_file *m, struct io_ring_ctx *ctx)
{
	struct io_fused *f;
	unsigned int i;

	hlist_for_each_entry(f, &ctx->fused_list, node) {
		unsigned int left = 0;

		if (!f->lent)
			continue;
		for (i = 0; i < f->nr; i++)
			left += !!f->members[i].req;
		seq_printf(m, "  user_data=%llu, members=%u, left=%u\n",
			   f->req->cqe.user_data, f->nr, left);
	}
}

/* Start the members, and put the reference to @node */
static void io_fused_start(struct io_uring_cmd *ioucmd,
			   struct io_rsrc_node *node, void (*release)(void *),
			   void *priv, io_req_tw_func_t done,
			   unsigned int issue_flags)
{
	struct io_fused *f = ioucmd->fused;
	unsigned int i;

	f->release = release;
	f->priv = priv;
	f->done = done;
	f->lent = true;
	for (i = 0; i < f->nr; i++) {
		struct io_kiocb *member = f->members[i].req;

		io_fused_bind(member, node, i);
		/*
		 * Not from here: the command may run with other credentials,
		 * and is what the audit record is about.
		 */
		member->io_task_work.func = io_fused_submit;
		if (issue_flags & IO_URING_F_UNLOCKED)
			io_req_task_work_add(member);
		else
			io_req_flush_work_add(member);
	}
	io_put_rsrc_node(f->req->ctx, node);
}

/**
 * io_uring_cmd_lend_bvec - lend memory to the members of a fused command
 * @ioucmd:	command that io_uring_cmd_is_fused(), and that isn't cancelable
 * @bvs:	the memory, the array is copied
 * @nr_bvecs:	number of entries in @bvs
 * @dir:	what the members may do: 1 << ITER_DEST to write to the memory,
 *		1 << ITER_SOURCE to read from it, or both
 * @release:	called once, when the memory isn't used any more
 * @priv:	argument of @release
 * @done:	NULL, or called after @release, in the task of the command or as
 *		task work that is canceled
 * @issue_flags: as for ->uring_cmd()
 *
 * The memory belongs to io_uring until @release is called, which takes place
 * under ->uring_lock, in any task, and possibly before this function returns
 * to the driver. Without @done the command completes afterwards and by itself:
 * ->uring_cmd() has returned -EIOCBQUEUED for it, or does so now, and the
 * driver doesn't call io_uring_cmd_done().
 *
 * @done may ask for io_uring_cmd_lend_result(). The command isn't fused any
 * more, and is the driver's to complete, now or later, and to make cancelable.
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
			   io_req_tw_func_t done, unsigned int issue_flags)
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
		io_fused_start(ioucmd, node, release, priv, done,
			       issue_flags);
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
 * @release:	called once, when the memory isn't used any more
 * @priv:	argument of @release
 * @done:	as for io_uring_cmd_lend_bvec()
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
			      void (*release)(void *), void *priv,
			      io_req_tw_func_t done, unsigned int issue_flags)
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
		io_fused_start(ioucmd, node, release, priv, done,
			       issue_flags);
	} else {
		ret = PTR_ERR(node);
	}
	io_ring_submit_unlock(ctx, issue_flags);
	return ret;
}
EXPORT_SYMBOL_GPL(io_uring_cmd_lend_request);
