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
#include <linux/cred.h>
#include <linux/errno.h>
#include <linux/fs.h>
#include <linux/io_uring/cmd.h>
#include <linux/kernel.h>
#include <linux/security.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/socket.h>
#include <linux/uio.h>

#include <uapi/linux/io_uring.h>
#include <uapi/linux/magic.h>

#include "alloc_cache.h"
#include "cancel.h"
#include "fused.h"
#include "io_uring.h"
#include "memcpy.h"
#include "net.h"
#include "opdef.h"
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

/* What is looked at is what is used: user space may be writing to @from */
static void io_fused_read_sqe(struct io_uring_sqe *to,
			      const struct io_uring_sqe *from)
{
	const u64 *src = (const u64 *)from;
	u64 *dst = (u64 *)to;
	unsigned int i;

	for (i = 0; i < sizeof(*to) / sizeof(*dst); i++)
		dst[i] = READ_ONCE(src[i]);
}

/*
 * Turn the copy of a member's SQE, which may be @half of one, into that of the
 * request to run. One that is refused gets an opcode that doesn't exist, for
 * io_init_req() to say so. With @quiet, it can't report anything.
 */
static void io_fused_fix_sqe(struct io_fused_member *m,
			     struct io_uring_sqe *sqe, bool half, bool quiet)
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
		ok &= !(sqe->msg_flags & ~IO_FUSED_SEND_FLAGS) &&
		      !(quiet && (sqe->ioprio & IORING_SEND_ZC_REPORT_USAGE));
		sqe->ioprio |= IORING_RECVSEND_FIXED_BUF;
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
		m->opaque = true;
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
}

/* Ranges that are filled have an order, so that none is filled by two members */
static int io_fused_add_range(struct io_fused *f, u64 off, u64 len)
{
	if (!len)
		return 0;
	if (off < f->end)
		return -EINVAL;
	if (check_add_overflow(off, len, &f->end))
		f->end = U64_MAX;
	return 0;
}

/* Those of a vectored member are gone once it is issued */
static int io_fused_add_iovec(struct io_fused *f, struct io_fused_member *m)
{
	struct io_async_rw *io = m->req->async_data;
	const struct iovec *iov;
	unsigned int i;
	u64 len = 0;
	int ret;

	if (!m->len)
		return 0;
	iov = io->vec.iovec + (io->vec.nr - m->len);
	for (i = 0; i < m->len; i++) {
		len += iov[i].iov_len;
		if (!m->dest)
			continue;
		ret = io_fused_add_range(f, (uintptr_t)iov[i].iov_base,
					 iov[i].iov_len);
		if (ret)
			return ret;
	}
	if (!m->dest) {
		m->want = min_t(u64, len, U32_MAX);
		return 0;
	}
	m->iov = kmemdup_array(iov, m->len, sizeof(*m->iov),
			       GFP_KERNEL_ACCOUNT);
	return m->iov ? 0 : -ENOMEM;
}

/* Take note of where in the lent memory a member that was prepared works */
static int io_fused_add_ranges(struct io_fused *f, struct io_fused_member *m)
{
	switch (m->req->opcode) {
	case IORING_OP_READV_FIXED:
	case IORING_OP_WRITEV_FIXED:
		return io_fused_add_iovec(f, m);
	default:
		return m->dest ? io_fused_add_range(f, m->off, m->len) : 0;
	}
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
	int ret;

	*m = (struct io_fused_member) { };
	io_fused_read_sqe(&copy, sqe);
	io_fused_fix_sqe(m, &copy, f->nr == 1,
			 ioucmd->flags & IORING_FUSED_ONE_CQE);
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
		ret = io_fused_add_ranges(f, m);
		if (!ret)
			return;
		req_set_fail(member);
		io_req_set_res(member, ret, 0);
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
 * Return: 0; what io_fused_prep() has failed with; -EINVAL if members are
 * missing; -ENOMEM; -ECANCELED if a member was refused, or its error if nothing
 * but the command tells it. All members fail along with the command then.
 */
int io_fused_prepared(struct io_kiocb *req)
{
	struct io_fused *f = io_fused_of(req);

	if (req->flags & REQ_F_FAIL)
		return req->cqe.res;
	return f->nr < f->nr_members ? -EINVAL : f->err;
}

/* All but the number of members, @nr. The first one is added. */
static int io_fused_init(struct io_kiocb *req, const struct io_uring_sqe *sqe,
			 unsigned int nr)
{
	struct io_uring_cmd *ioucmd = io_kiocb_to_cmd(req, struct io_uring_cmd);
	struct io_async_cmd *ac;
	struct io_fused *f;
	u32 flags;

	flags = READ_ONCE(sqe->fused_flags);
	if ((flags & ~IO_FUSED_FLAGS) || READ_ONCE(sqe->__pad1) ||
	    READ_ONCE(sqe->file_index))
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
	*f = (struct io_fused) {
		.req = req, .nr_members = nr, .creds = get_current_cred(),
	};
	ioucmd->fused = f;

	io_fused_add(req, sqe + 1);
	return 0;
}

/**
 * io_fused_prep - prepare a fused command and the member in its own SQE
 * @req:	IORING_OP_FUSED_CMD
 * @sqe:	its 128 byte SQE
 *
 * Context: submission, ->uring_lock is held.
 *
 * Return: how many SQ entries follow, which are the command's whatever else is
 * wrong with it. If it hasn't failed, as REQ_F_FAIL says, they are to be given
 * to io_fused_add(). io_fused_prepared() is called in any case. If there is just
 * one member, -EINVAL for fields that aren't as they should; -ENOMEM; or as
 * io_fused_prepared(). -EINVAL if the number isn't one, and no entry is taken.
 */
int io_fused_prep(struct io_kiocb *req, const struct io_uring_sqe *sqe)
{
	unsigned int nr = READ_ONCE(sqe->nr_members) ?: 1;
	int ret;

	/* what was here before is somebody else's, and io_fused_fail() looks */
	io_kiocb_to_cmd(req, struct io_uring_cmd)->fused = NULL;

	if (nr > IO_FUSED_MAX)
		return -EINVAL;
	ret = io_fused_init(req, sqe, nr);
	if (nr == 1)
		return ret ?: io_fused_prepared(req);
	if (ret) {
		req_set_fail(req);
		io_req_set_res(req, ret, 0);
	}
	return nr - 1;
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

	req->cqe.flags |= IORING_CQE_F_NOT_COMMITTED;
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
	put_cred(f->creds);
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

/**
 * io_fused_note - a member of a fused command is done
 * @member:	the member, its CQE is posted
 *
 * Context: ->uring_lock is held. Before its reference to the buffer is put.
 */
void io_fused_note(struct io_kiocb *member)
{
	struct io_fused_member *m;
	struct io_fused *f;

	/* never started, its command fails as well and knows why */
	if (!(member->flags & REQ_F_BUF_NODE))
		return;
	f = member->buf_node->buf->priv;
	m = &f->members[member->buf_index];
	m->req = NULL;
	m->res = member->cqe.res;
	/* was to fill something, and what it has left there is worth nothing */
	if (m->opaque && m->res < 0) {
		m->opaque = false;
		m->dest = true;
		m->off = 0;
		m->len = 0;
	}
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

/* Tell about one range, @left is what the member has filled from there on */
static void io_fused_filled(struct io_fused *f, u64 off, u64 len, u64 *left,
			    void (*fn)(void *priv, u64 off, u64 len, u64 filled),
			    void *priv)
{
	u64 filled = min(*left, len);

	*left -= filled;
	if (off > f->len || len > f->len - off) {
		len = 0;
		filled = 0;
	}
	fn(priv, off, len, filled);
}

/**
 * io_uring_cmd_lend_filled - what the members of a fused command have filled
 * @ioucmd:	the command
 * @fn:		called for each range that a member was to fill, with its offset
 *		in the lent memory, its length, and how much of it was filled,
 *		from its start on. The ranges are in order and don't overlap. The
 *		length is 0 for one that isn't in the memory.
 * @priv:	argument of @fn
 *
 * Nothing is known of what a range holds where it wasn't filled: what was there
 * before, or what a member that has failed has left there.
 *
 * Context: @release of the lent memory, or afterwards and before the command is
 * completed.
 *
 * Return: true; false if commands of drivers that haven't failed are among the
 * members of memory that was to be filled, which may have filled any of it.
 */
bool io_uring_cmd_lend_filled(struct io_uring_cmd *ioucmd,
			      void (*fn)(void *priv, u64 off, u64 len, u64 filled),
			      void *priv)
{
	struct io_fused *f = ioucmd->fused;
	bool known = true;
	unsigned int i, j;

	if (!(f->dir & IO_BUF_DEST))
		return true;
	for (i = 0; i < f->nr; i++) {
		struct io_fused_member *m = &f->members[i];
		/* a file may say anything */
		u64 filled = max(m->res, 0);

		if (m->opaque && m->started)
			known = false;
		else if (m->opaque)
			fn(priv, 0, 0, 0);
		if (!m->dest)
			continue;
		if (!m->iov) {
			io_fused_filled(f, m->off, m->len, &filled, fn, priv);
			continue;
		}
		for (j = 0; j < m->len; j++)
			io_fused_filled(f, (uintptr_t)m->iov[j].iov_base,
					m->iov[j].iov_len, &filled, fn, priv);
	}
	return known;
}
EXPORT_SYMBOL_GPL(io_uring_cmd_lend_filled);

/**
 * io_uring_cmd_lend_result - have the members of a fused command succeeded?
 * @ioucmd:	the command
 *
 * Context: as for io_uring_cmd_lend_filled(), which tells how much of the memory
 * is filled.
 *
 * Return: 0; the error of the first member that failed; -EIO if one was to take
 * data from the memory and has taken less than it was to.
 */
int io_uring_cmd_lend_result(struct io_uring_cmd *ioucmd)
{
	struct io_fused *f = ioucmd->fused;
	bool failed = false, cut = false;
	unsigned int i;
	s32 res;

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
	io_req_set_res(req, res, res < 0 ? IORING_CQE_F_NOT_COMMITTED : 0);
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
	if (!node)
		return ERR_PTR(-ENOMEM);
	ioucmd->fused->len = len;
	ioucmd->fused->dir = dir;
	return node;
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

/* Does its I/O end up with FUSE, or on a block device that a process serves? */
static bool io_fused_user_served(struct file *file)
{
	/* overlayfs has it done by the file system below */
	struct inode *inode = d_real_inode(file_dentry(file));
	struct block_device *bdev = inode->i_sb->s_bdev;

	if (inode->i_sb->s_magic == FUSE_SUPER_MAGIC)
		return true;
	if (S_ISBLK(inode->i_mode))
		bdev = file_bdev(file);
	return bdev && (bdev_limits(bdev)->features & BLK_FEAT_USER_SERVER);
}

/*
 * A command may wait for something that the lent memory has to be back for: for
 * ever, and what would cancel it waits as well. Its driver knows. So does I/O on
 * a device that the owner of the command serves. The file is looked up as it
 * would be when the member is issued, which leaves it alone. A member without one
 * ends here: a later lookup might find any file.
 *
 * Return: 0, or the error that @member fails with.
 */
static int io_fused_check_file(struct io_fused *f, struct io_kiocb *member)
{
	bool cmd = member->opcode == IORING_OP_URING_CMD;

	if (!cmd && !(f->untrusted && io_issue_defs[member->opcode].needs_file))
		return 0;
	if (member->flags & REQ_F_FIXED_FILE)
		member->file = io_file_get_fixed(member, member->cqe.fd, 0);
	else
		member->file = io_file_get_normal(member, member->cqe.fd);
	if (!member->file)
		return -EBADF;
	if (cmd && (member->file->f_op->fop_flags & FOP_URING_NO_MEMBER))
		return -EOPNOTSUPP;
	return f->untrusted && io_fused_user_served(member->file) ?
	       -EOPNOTSUPP : 0;
}

static void io_fused_submit(struct io_tw_req tw_req, io_tw_token_t tw)
{
	struct io_kiocb *member = tw_req.req;
	struct io_fused *f = member->buf_node->buf->priv;
	int ret = 0;

	f->members[member->buf_index].started = true;
	/* with those of its submission, as a request that is deferred */
	if (!(member->flags & REQ_F_CREDS) && f->creds != current_cred()) {
		member->creds = get_cred(f->creds);
		member->flags |= REQ_F_CREDS;
	}
	if (f->canceled)
		ret = -ECANCELED;
	else if (f->untrusted && io_send_zc_notif(member))
		ret = -EOPNOTSUPP;
	else if (!tw.cancel)
		ret = io_fused_check_file(f, member);
	if (ret)
		io_req_defer_failed(member, ret);
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

/**
 * io_uring_cmd_lend_untrusted - don't leave lent memory to others
 * @ioucmd:	command that io_uring_cmd_is_fused()
 *
 * To be called before memory is lent. What a zerocopy send has left with the
 * network can't be cancelled: whoever holds the other socket, or the packet,
 * decides when it is free. I/O on FUSE, or on a block device that a process
 * serves, can't be cancelled either, and if that is the process that has made the
 * command, or waits for it, neither of the two ever ends once it is killed. That
 * isn't for those whose memory somebody waits for and whose server isn't trusted.
 * Members that are zerocopy sends, those on FUSE, and those on such a device or
 * on a file system there, fail with -EOPNOTSUPP.
 *
 * Context: as for io_uring_cmd_lend_bvec().
 */
void io_uring_cmd_lend_untrusted(struct io_uring_cmd *ioucmd)
{
	ioucmd->fused->untrusted = true;
}
EXPORT_SYMBOL_GPL(io_uring_cmd_lend_untrusted);

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
 * @release and @done may ask for io_uring_cmd_lend_filled(), and for
 * io_uring_cmd_lend_result(). When @done is called the command isn't fused any
 * more, and is the driver's to complete, now or later, and to make cancelable.
 *
 * What the members didn't fill holds anything. It is the driver's to see to it
 * that nobody takes that for data, when nothing is lent any more.
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
