// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_MEMCPY: copy between user memory, registered buffers and buffers
 * that a driver has lent, in every pairing.
 *
 * The submitter tries to copy while it holds ->uring_lock, for up to
 * IO_MEMCPY_INLINE_MAX bytes and without taking page faults. What is left, be
 * it for its size or for a fault, goes to io-wq. That one holds no lock and may
 * wait for as long as a fault takes. struct io_memcpy is all the state:
 *
 *  ->done	what has been copied. Belongs to whoever issues the request, and
 *		that is one task at a time.
 *  ->src_node	reference to a registered source buffer, put by
 *		io_memcpy_cleanup(). The one to the destination is req->buf_node.
 *		Both are taken when the request is first issued, or before that
 *		if it is the member of a fused command. They keep the
 *		memory alive if the buffer is unregistered or the driver gives up
 *		its side meanwhile. References are counted under ->uring_lock.
 *
 * User memory isn't pinned for longer than it takes to copy from its pages. If
 * it goes away, the copy ends there. If the task dies or the ring is closed,
 * io-wq is told to cancel: queued copies never start, running ones stop after
 * the chunk that they are at.
 *
 * Copyright (C) 2026 The uring-offload authors
 */
#include <linux/bvec.h>
#include <linux/errno.h>
#include <linux/fault-inject-usercopy.h>
#include <linux/fs.h>
#include <linux/instrumented.h>
#include <linux/io_uring.h>
#include <linux/iov_iter.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>
#include <linux/uio.h>

#include <uapi/linux/io_uring.h>

#include "io_uring.h"
#include "rsrc.h"
#include "memcpy.h"

/*
 * Between two addresses of user memory small copies take a detour over the
 * stack, and so does what has no page that can be looked up without a fault.
 */
#define IO_MEMCPY_BOUNCE_SIZE	512

/* Pages of the source that are referenced at once, 64 KiB with small ones. */
#define IO_MEMCPY_PAGES		16

/* How much is copied before io-wq looks for a cancellation. */
#define IO_MEMCPY_CHUNK		SZ_64K

struct io_memcpy {
	struct file		*file;
	u64			dst;
	u64			src;
	u32			len;
	u32			done;
	u32			flags;
	u32			src_index;
	struct io_rsrc_node	*src_node;
};

struct io_memcpy_iters {
	struct iov_iter		dst;
	struct iov_iter		src;
};

/**
 * io_memcpy_prep - take over an IORING_OP_MEMCPY SQE
 * @req:	request to set up
 * @sqe:	what user space asks for, read once
 *
 * Context: submitter, with ->uring_lock held. Looks at no memory but the SQE.
 *
 * Return: 0, or -EINVAL for a length over MAX_RW_COUNT, an unknown flag, both
 * of IORING_MEMCPY_CPU_ONLY and IORING_MEMCPY_ENGINE_ONLY, a buffer index
 * without its flag or over 65535, ranges of user memory that overlap, or a
 * field or flag that this opcode doesn't have.
 */
int io_memcpy_prep(struct io_kiocb *req, const struct io_uring_sqe *sqe)
{
	struct io_memcpy *mc = io_kiocb_to_cmd(req, struct io_memcpy);
	s32 fd = READ_ONCE(sqe->fd);

	mc->done = 0;
	mc->src_node = NULL;

	if (unlikely((fd && fd != -1) || sqe->addr3 || sqe->__pad2[0]))
		return -EINVAL;
	if (unlikely(req->flags & REQ_F_FIXED_FILE))
		return -EINVAL;

	mc->dst = READ_ONCE(sqe->addr);
	mc->src = READ_ONCE(sqe->addr2);
	mc->len = READ_ONCE(sqe->len);
	mc->flags = READ_ONCE(sqe->memcpy_flags);
	mc->src_index = READ_ONCE(sqe->file_index);
	req->buf_index = READ_ONCE(sqe->buf_index);

	if (mc->flags & ~IO_MEMCPY_FLAGS)
		return -EINVAL;
	if ((mc->flags & IORING_MEMCPY_CPU_ONLY) &&
	    (mc->flags & IORING_MEMCPY_ENGINE_ONLY))
		return -EINVAL;
	if (mc->len > MAX_RW_COUNT || mc->src_index > U16_MAX)
		return -EINVAL;
	if (!(mc->flags & IORING_MEMCPY_DST_FIXED) && req->buf_index)
		return -EINVAL;
	if (!(mc->flags & IORING_MEMCPY_SRC_FIXED) && mc->src_index)
		return -EINVAL;
	if (!(mc->flags & (IORING_MEMCPY_DST_FIXED | IORING_MEMCPY_SRC_FIXED)) &&
	    io_memcpy_overlap(mc->dst, mc->src, mc->len))
		return -EINVAL;
	return 0;
}

/**
 * io_memcpy_cleanup - drop what a MEMCPY request holds
 * @req:	request that completed or was canceled
 *
 * Context: ->uring_lock held. Called for requests with REQ_F_NEED_CLEANUP.
 */
void io_memcpy_cleanup(struct io_kiocb *req)
{
	struct io_memcpy *mc = io_kiocb_to_cmd(req, struct io_memcpy);

	if (WARN_ON_ONCE(!mc->src_node))
		return;
	io_put_rsrc_node(req->ctx, mc->src_node);
	mc->src_node = NULL;
}

/**
 * io_memcpy_fail - set the result of a request that is failed from outside
 * @req:	request that is canceled while it waits to be retried
 *
 * An earlier attempt may have copied a part. Report that, and not an error,
 * which would mean that nothing was written.
 *
 * Context: ->uring_lock held.
 */
void io_memcpy_fail(struct io_kiocb *req)
{
	struct io_memcpy *mc = io_kiocb_to_cmd(req, struct io_memcpy);

	if (mc->done)
		io_req_set_res(req, mc->done, 0);
}

/**
 * io_memcpy_bind_src - give a request the buffer to copy from
 * @req:	IORING_OP_MEMCPY that wasn't issued yet
 * @node:	the buffer
 *
 * Context: ->uring_lock is held.
 *
 * Return: true if the request has taken over a reference to @node; false if it
 * doesn't copy from a registered buffer.
 */
bool io_memcpy_bind_src(struct io_kiocb *req, struct io_rsrc_node *node)
{
	struct io_memcpy *mc = io_kiocb_to_cmd(req, struct io_memcpy);

	if (!(mc->flags & IORING_MEMCPY_SRC_FIXED))
		return false;
	mc->src_node = node;
	req->flags |= REQ_F_NEED_CLEANUP;
	return true;
}

static int io_memcpy_import_src(struct io_kiocb *req, struct io_memcpy *mc,
				struct iov_iter *iter, unsigned int issue_flags)
{
	u64 addr = mc->src + mc->done;
	size_t len = mc->len - mc->done;

	if (!(mc->flags & IORING_MEMCPY_SRC_FIXED))
		return import_ubuf(ITER_SOURCE, u64_to_user_ptr(addr), len,
				   iter);

	if (!mc->src_node) {
		mc->src_node = io_get_buf_node(req->ctx, mc->src_index,
					       issue_flags);
		if (!mc->src_node)
			return -EFAULT;
		req->flags |= REQ_F_NEED_CLEANUP;
	}
	return io_import_buf_node(mc->src_node, iter, addr, len, ITER_SOURCE);
}

static int io_memcpy_import_dst(struct io_kiocb *req, struct io_memcpy *mc,
				struct iov_iter *iter, unsigned int issue_flags)
{
	u64 addr = mc->dst + mc->done;
	size_t len = mc->len - mc->done;

	if (!(mc->flags & IORING_MEMCPY_DST_FIXED))
		return import_ubuf(ITER_DEST, u64_to_user_ptr(addr), len, iter);

	return io_import_reg_buf(req, iter, addr, len, ITER_DEST, issue_flags);
}

/* The ranges are checked whole before the first byte is written. */
static int io_memcpy_import(struct io_kiocb *req, struct io_memcpy *mc,
			    struct io_memcpy_iters *iters,
			    unsigned int issue_flags)
{
	int ret;

	ret = io_memcpy_import_src(req, mc, &iters->src, issue_flags);
	if (unlikely(ret))
		return ret;
	ret = io_memcpy_import_dst(req, mc, &iters->dst, issue_flags);
	if (unlikely(ret))
		return ret;

	/* addresses mean the same on both sides only within one buffer */
	if (mc->src_node && (mc->flags & IORING_MEMCPY_DST_FIXED) &&
	    mc->src_node->buf == req->buf_node->buf &&
	    io_memcpy_overlap(mc->dst, mc->src, mc->len))
		return -EINVAL;
	return 0;
}

/*
 * Steps of the iteration over registered memory, each for a part of one page
 * that is mapped. They return what could not be copied.
 *
 * Not copy_to_user() and the like, which check that the kernel side is a single
 * slab object: a driver may lend what spans several. The bounds that count are
 * those of the registered buffer, and were checked. So was the user range, by
 * import_ubuf(). A CPU may have guessed the outcome of that, so the address is
 * masked at the copy, or the copy waits, as in lib/iov_iter.c.
 */
static __always_inline size_t io_memcpy_to_user(void *from, size_t progress,
						size_t len, void *priv,
						void *priv2)
{
	void __user *to = (void __user __force *)priv + progress;

	if (should_fail_usercopy())
		return len;
	if (can_do_masked_user_access())
		to = mask_user_address(to);
	instrument_copy_to_user(to, from, len);
	return raw_copy_to_user(to, from, len);
}

static __always_inline size_t io_memcpy_from_user(void *to, size_t progress,
						  size_t len, void *priv,
						  void *priv2)
{
	const void __user *from = (void __user __force *)priv + progress;
	size_t left;

	if (should_fail_usercopy())
		return len;
	if (can_do_masked_user_access())
		from = mask_user_address(from);
	else
		barrier_nospec();
	instrument_copy_from_user_before(to, from, len);
	left = raw_copy_from_user(to, from, len);
	instrument_copy_from_user_after(to, from, len, left);
	return left;
}

static __always_inline size_t io_memcpy_to_kernel(void *from, size_t progress,
						  size_t len, void *priv,
						  void *priv2)
{
	memcpy(priv + progress, from, len);
	return 0;
}

static __always_inline size_t io_memcpy_from_iter(void *to, size_t progress,
						  size_t len, void *priv,
						  void *priv2)
{
	return len - iterate_bvec(priv, len, to, NULL, io_memcpy_to_kernel);
}

/*
 * Copy directly to or from registered memory. Up to @len bytes, fewer only if
 * the other side is user memory that can't be accessed.
 */
static size_t io_memcpy_direct(struct io_memcpy_iters *iters, size_t len)
{
	struct iov_iter *dst = &iters->dst, *src = &iters->src;
	void __user *ubuf;
	size_t done;

	if (iter_is_ubuf(dst)) {
		ubuf = dst->ubuf + dst->iov_offset;
		done = iterate_bvec(src, len, (void __force *)ubuf, NULL,
				    io_memcpy_to_user);
		iov_iter_advance(dst, done);
	} else if (iter_is_ubuf(src)) {
		ubuf = src->ubuf + src->iov_offset;
		done = iterate_bvec(dst, len, (void __force *)ubuf, NULL,
				    io_memcpy_from_user);
		iov_iter_advance(src, done);
	} else {
		done = iterate_bvec(dst, len, src, NULL, io_memcpy_from_iter);
	}
	return done;
}

/*
 * Copy between two addresses of user memory, from pages that are there, as far
 * as these go. Their references last for this copy only, though a fault of the
 * destination may prolong that, as it may for vmsplice(2).
 */
static noinline_for_stack size_t
io_memcpy_pages(struct io_memcpy_iters *iters, size_t len)
{
	struct iov_iter *dst = &iters->dst, *src = &iters->src;
	struct page *pages[IO_MEMCPY_PAGES];
	struct bio_vec bvec[IO_MEMCPY_PAGES];
	unsigned long addr = (unsigned long)src->ubuf + src->iov_offset;
	void __user *to = dst->ubuf + dst->iov_offset;
	size_t off = offset_in_page(addr), bytes = 0, done;
	struct iov_iter iter;
	int nr, i;

	nr = min_t(size_t, DIV_ROUND_UP(off + len, PAGE_SIZE), IO_MEMCPY_PAGES);
	nr = get_user_pages_fast_only(addr - off, nr, 0, pages);
	if (nr <= 0)
		return 0;

	for (i = 0; i < nr; i++) {
		size_t n = min(len - bytes, PAGE_SIZE - off);

		bvec_set_page(&bvec[i], pages[i], n, off);
		bytes += n;
		off = 0;
	}
	iov_iter_bvec(&iter, ITER_SOURCE, bvec, nr, bytes);
	done = iterate_bvec(&iter, bytes, (void __force *)to, NULL,
			    io_memcpy_to_user);
	for (i = 0; i < nr; i++)
		put_page(pages[i]);

	iov_iter_advance(src, done);
	iov_iter_advance(dst, done);
	return done;
}

static noinline_for_stack size_t
io_memcpy_bounce(struct io_memcpy_iters *iters, size_t len)
{
	u8 buf[IO_MEMCPY_BOUNCE_SIZE];
	size_t in, out;

	in = copy_from_iter(buf, min(len, sizeof(buf)), &iters->src);
	out = copy_to_iter(buf, in, &iters->dst);
	iov_iter_revert(&iters->src, in - out);
	return out;
}

/*
 * Up to @len bytes, fewer only if there is memory that can't be accessed. What
 * io_memcpy_pages() can't do, be it for lack of the source's page or because the
 * destination faulted, is tried again in a small way, which takes the faults.
 */
static size_t io_memcpy_user(struct io_memcpy_iters *iters, size_t len)
{
	size_t done = 0;

	while (done < len) {
		size_t n = 0;

		if (len - done > IO_MEMCPY_BOUNCE_SIZE)
			n = io_memcpy_pages(iters, len - done);
		if (!n)
			n = io_memcpy_bounce(iters, len - done);
		if (unlikely(!n))
			break;
		done += n;
	}
	return done;
}

static size_t io_memcpy_some(struct io_memcpy_iters *iters, size_t len,
			     bool nofault)
{
	size_t done;

	if (nofault)
		pagefault_disable();
	if (iter_is_ubuf(&iters->src) && iter_is_ubuf(&iters->dst))
		done = io_memcpy_user(iters, len);
	else
		done = io_memcpy_direct(iters, len);
	if (nofault)
		pagefault_enable();
	return done;
}

/*
 * Copy until it is done or can't go on, and account for it in ->done.
 *
 * Return: 0, -EFAULT if memory couldn't be accessed, -EAGAIN if that needs a
 * page fault which this attempt may not take, -ECANCELED if io-wq was told to
 * stop.
 */
static int io_memcpy_run(struct io_kiocb *req, struct io_memcpy *mc,
			 struct io_memcpy_iters *iters,
			 unsigned int issue_flags)
{
	bool nofault = issue_flags & IO_URING_F_NONBLOCK;

	while (mc->done < mc->len) {
		size_t len = min(mc->len - mc->done, IO_MEMCPY_CHUNK);
		size_t copied;

		if (__io_wq_cancel_seen(req, issue_flags) ||
		    fatal_signal_pending(current))
			return -ECANCELED;

		copied = io_memcpy_some(iters, len, nofault);
		mc->done += copied;
		if (unlikely(copied != len))
			return nofault ? -EAGAIN : -EFAULT;
		cond_resched();
	}
	return 0;
}

static int io_memcpy_copy(struct io_kiocb *req, struct io_memcpy *mc,
			  unsigned int issue_flags)
{
	struct io_memcpy_iters iters;
	int ret;

	ret = io_memcpy_import(req, mc, &iters, issue_flags);
	if (unlikely(ret))
		return ret;
	/*
	 * Punt only after taking the buffer references: a concurrent unregister
	 * or update must not change what this request copies.
	 */
	if ((issue_flags & IO_URING_F_NONBLOCK) &&
	    mc->len > IO_MEMCPY_INLINE_MAX)
		return -EAGAIN;

	return io_memcpy_run(req, mc, &iters, issue_flags);
}

/**
 * io_memcpy - issue an IORING_OP_MEMCPY request
 * @req:		request that io_memcpy_prep() has set up
 * @issue_flags:	IO_URING_F_* of this attempt
 *
 * Completes @req with the number of bytes copied. If these aren't all, the rest
 * of the link is severed. With no byte copied the result is an error instead:
 * -EOPNOTSUPP if only an engine may do it, there is none; -EFAULT if memory
 * can't be accessed, if there is no such registered buffer, if a range isn't
 * within its buffer or the buffer not for that direction; -EINVAL if both
 * ranges overlap in one buffer; -ECANCELED.
 *
 * Context: any that issues requests. With IO_URING_F_NONBLOCK it doesn't
 * fault, and copies no more than IO_MEMCPY_INLINE_MAX bytes.
 *
 * Return: IOU_COMPLETE with the result set, or -EAGAIN to have io-wq go on
 * where this attempt stopped.
 */
int io_memcpy(struct io_kiocb *req, unsigned int issue_flags)
{
	struct io_memcpy *mc = io_kiocb_to_cmd(req, struct io_memcpy);
	struct io_ring_ctx *ctx = req->ctx;
	int ret = 0;

	if (mc->flags & IORING_MEMCPY_ENGINE_ONLY)
		ret = -EOPNOTSUPP;
	else if (mc->done < mc->len)
		ret = io_memcpy_copy(req, mc, issue_flags);

	/* the submitter holds ->uring_lock, which guards the counters */
	if (ret == -EAGAIN) {
		ctx->memcpy_punted++;
		return ret;
	}
	if (!ret && (issue_flags & IO_URING_F_NONBLOCK))
		ctx->memcpy_inline++;

	if (mc->done || !ret)
		ret = mc->done;
	if (ret < 0 || ret != mc->len)
		req_set_fail(req);
	io_req_set_res(req, ret, 0);
	return IOU_COMPLETE;
}
