// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_MEMCPY_IMMEDIATE: store a value that comes with the SQE.
 *
 * It lets a chain of requests announce its end to a thread that looks at
 * memory and not at the ring. What that thread relies upon is the order: once
 * it load-acquires the value, it sees all that the chain has written before,
 * and the CQE that completes each of its requests. These are posted before the
 * next request of the link is queued (__io_submit_flush_completions(),
 * io_req_complete_post()), the barrier in io_memcpy_imm() does the rest.
 *
 * A request owns nothing but the buffer node that rsrc.c tracks in
 * req->buf_node. There is no state to cancel, and no lock of its own.
 *
 * Copyright (C) 2026 The uring-offload authors
 */
#include <linux/bvec.h>
#include <linux/errno.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/highmem.h>
#include <linux/io_uring.h>
#include <linux/kernel.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>
#include <linux/uio.h>

#include <uapi/linux/io_uring.h>

#include "io_uring.h"
#include "rsrc.h"
#include "memcpy_imm.h"

#ifdef CONFIG_FUTEX
#include <asm/futex.h>
#endif

/* A page may be taken away again between the fault and the next try. */
#define IO_MEMCPY_IMM_FAULT_RETRIES	16

struct io_memcpy_imm {
	struct file	*file;
	u64		dst;
	u64		val;
	u32		len;
	u32		flags;
};

static inline unsigned int io_memcpy_imm_op(const struct io_memcpy_imm *imm)
{
	return (imm->flags & IORING_MEMCPY_IMM_OP_MASK) >>
		IORING_MEMCPY_IMM_OP_SHIFT;
}

/**
 * io_memcpy_imm_prep - take over an IORING_OP_MEMCPY_IMMEDIATE SQE
 * @req:	request to set up
 * @sqe:	what user space asks for, read once
 *
 * Context: submitter, with ->uring_lock held. Looks at no memory but the SQE.
 *
 * Return: 0, or -EINVAL for a length other than 1 to 8, a destination that is
 * not naturally aligned for a length of 2, 4 or 8, an unknown flag or
 * operation, a read-modify-write operation on anything but 4 bytes of user
 * memory, or a field or flag that this opcode doesn't have.
 */
int io_memcpy_imm_prep(struct io_kiocb *req, const struct io_uring_sqe *sqe)
{
	struct io_memcpy_imm *imm = io_kiocb_to_cmd(req, struct io_memcpy_imm);
	s32 fd = READ_ONCE(sqe->fd);

	if (unlikely((fd && fd != -1) || sqe->file_index || sqe->addr3 ||
		     sqe->__pad2[0]))
		return -EINVAL;
	if (unlikely(req->flags & REQ_F_FIXED_FILE))
		return -EINVAL;

	imm->dst = READ_ONCE(sqe->addr);
	imm->val = READ_ONCE(sqe->off);
	imm->len = READ_ONCE(sqe->len);
	imm->flags = READ_ONCE(sqe->memcpy_flags);
	req->buf_index = READ_ONCE(sqe->buf_index);

	if (imm->flags & ~(IO_MEMCPY_IMM_FLAGS | IORING_MEMCPY_IMM_OP_MASK))
		return -EINVAL;
	if (!imm->len || imm->len > IO_MEMCPY_IMM_MAX_LEN ||
	    io_memcpy_imm_misaligned(imm->dst, imm->len))
		return -EINVAL;
	if (!(imm->flags & IORING_MEMCPY_DST_FIXED) && req->buf_index)
		return -EINVAL;

	switch (io_memcpy_imm_op(imm)) {
	case IORING_MEMCPY_IMM_SET:
		return 0;
	case IORING_MEMCPY_IMM_ADD:
	case IORING_MEMCPY_IMM_OR:
	case IORING_MEMCPY_IMM_ANDN:
	case IORING_MEMCPY_IMM_XOR:
		/* that is all the futex helpers can do */
		if (imm->len != sizeof(u32) ||
		    (imm->flags & IORING_MEMCPY_DST_FIXED))
			return -EINVAL;
		return 0;
	default:
		return -EINVAL;
	}
}

/* Store without promise of atomicity, all of it or nothing. */
static int io_memcpy_imm_put_bytes(const struct io_memcpy_imm *imm,
				   void __user *dst, bool nofault)
{
	const u8 *bytes = io_memcpy_imm_bytes(&imm->val, imm->len);

	/* don't leave half a value behind if only the first page is there */
	if (offset_in_page(imm->dst) + imm->len > PAGE_SIZE) {
		if (nofault || fault_in_safe_writeable(dst, imm->len))
			return -EFAULT;
	}
	return copy_to_user(dst, bytes, imm->len) ? -EFAULT : 0;
}

static int io_memcpy_imm_put(const struct io_memcpy_imm *imm,
			     void __user *dst, bool nofault)
{
	switch (imm->len) {
	case 1:
		return put_user((u8)imm->val, (u8 __user *)dst);
	case 2:
		return put_user((u16)imm->val, (u16 __user *)dst);
	case 4:
		return put_user((u32)imm->val, (u32 __user *)dst);
	case 8:
		if (IS_ENABLED(CONFIG_64BIT))
			return put_user(imm->val, (u64 __user *)dst);
		fallthrough;
	default:
		return io_memcpy_imm_put_bytes(imm, dst, nofault);
	}
}

#ifdef CONFIG_FUTEX
static int io_memcpy_imm_rmw(struct io_kiocb *req,
			     const struct io_memcpy_imm *imm,
			     u32 __user *dst, unsigned int issue_flags)
{
	unsigned int tries = IO_MEMCPY_IMM_FAULT_RETRIES;
	int ret, old;

	/* enum io_uring_memcpy_imm_op has the numbers of FUTEX_OP_* */
	BUILD_BUG_ON(IORING_MEMCPY_IMM_ADD != FUTEX_OP_ADD);
	BUILD_BUG_ON(IORING_MEMCPY_IMM_OR != FUTEX_OP_OR);
	BUILD_BUG_ON(IORING_MEMCPY_IMM_ANDN != FUTEX_OP_ANDN);
	BUILD_BUG_ON(IORING_MEMCPY_IMM_XOR != FUTEX_OP_XOR);

	do {
		/* some architectures can't fault in the middle of it */
		pagefault_disable();
		ret = arch_futex_atomic_op_inuser(io_memcpy_imm_op(imm),
						  (u32)imm->val, &old, dst);
		pagefault_enable();
		if (!ret)
			return 0;
		/* -ENOSYS from an architecture that lacks them */
		if (ret != -EFAULT && ret != -EAGAIN)
			return -EOPNOTSUPP;
		if (issue_flags & IO_URING_F_NONBLOCK)
			return -EFAULT;

		if (ret == -EFAULT &&
		    (!tries-- || fault_in_safe_writeable((char __user *)dst,
							 sizeof(*dst))))
			return -EFAULT;
		cond_resched();
	} while (!fatal_signal_pending(current) &&
		 !__io_wq_cancel_seen(req, issue_flags));

	return -ECANCELED;
}
#else
static int io_memcpy_imm_rmw(struct io_kiocb *req,
			     const struct io_memcpy_imm *imm,
			     u32 __user *dst, unsigned int issue_flags)
{
	return -EOPNOTSUPP;
}
#endif

static int io_memcpy_imm_user(struct io_kiocb *req,
			      const struct io_memcpy_imm *imm,
			      unsigned int issue_flags)
{
	void __user *dst = u64_to_user_ptr(imm->dst);
	bool nofault = issue_flags & IO_URING_F_NONBLOCK;
	int ret;

	if (unlikely(!access_ok(dst, imm->len)))
		return -EFAULT;

	/*
	 * This holds ->uring_lock if it is an attempt from the submitter. A
	 * fault can wait for anything, userfaultfd included, so it is taken by
	 * io-wq, which holds no lock.
	 */
	if (nofault)
		pagefault_disable();
	if (io_memcpy_imm_op(imm) == IORING_MEMCPY_IMM_SET)
		ret = io_memcpy_imm_put(imm, dst, nofault);
	else
		ret = io_memcpy_imm_rmw(req, imm, dst, issue_flags);
	if (nofault) {
		pagefault_enable();
		if (ret == -EFAULT)
			return -EAGAIN;
	}
	return ret;
}

static int io_memcpy_imm_fixed(struct io_kiocb *req,
			       const struct io_memcpy_imm *imm,
			       unsigned int issue_flags)
{
	const u8 *bytes = io_memcpy_imm_bytes(&imm->val, imm->len);
	struct bvec_iter bi = { .bi_size = imm->len };
	struct iov_iter iter;
	struct bio_vec bv;
	void *kaddr, *dst;
	int ret;

	ret = io_import_reg_buf(req, &iter, imm->dst, imm->len, ITER_DEST,
				issue_flags);
	if (unlikely(ret))
		return ret;

	/*
	 * User memory is aligned as its address is. Memory lent by a driver
	 * starts where it pleases, and has to do with a byte copy if that
	 * isn't a boundary.
	 */
	bi.bi_offset = iter.iov_offset;
	bv = bvec_iter_bvec(iter.bvec, bi);
	if (bv.bv_len < imm->len || !is_power_of_2(imm->len) ||
	    io_memcpy_imm_misaligned(bv.bv_offset, imm->len))
		return copy_to_iter(bytes, imm->len, &iter) == imm->len ?
			0 : -EFAULT;

	kaddr = kmap_local_page(bv.bv_page);
	dst = kaddr + bv.bv_offset;
	switch (imm->len) {
	case 1:
		WRITE_ONCE(*(u8 *)dst, imm->val);
		break;
	case 2:
		WRITE_ONCE(*(u16 *)dst, imm->val);
		break;
	case 4:
		WRITE_ONCE(*(u32 *)dst, imm->val);
		break;
	case 8:
		WRITE_ONCE(*(u64 *)dst, imm->val);
		break;
	}
	/* a thread that spins on it uses another mapping of the page */
	flush_dcache_page(bv.bv_page);
	kunmap_local(kaddr);
	return 0;
}

/**
 * io_memcpy_imm - issue an IORING_OP_MEMCPY_IMMEDIATE request
 * @req:		request that io_memcpy_imm_prep() has set up
 * @issue_flags:	IO_URING_F_* of this attempt
 *
 * Stores the value, or combines it with what is there, and completes @req with
 * the length. A store of 1, 2 or 4 bytes, and on 64-bit kernels one of 8, is a
 * single one, unless a driver has lent memory that isn't aligned for it.
 *
 * If it fails, the request completes with the error and the rest of the link is
 * severed. Nothing was stored then, except that a store of 3, 5, 6 or 7 bytes
 * may be cut off by memory that goes away meanwhile. Errors are -EFAULT if the
 * memory can't be written, if there is no such registered buffer, or if the
 * range is not within it; -EOPNOTSUPP if the kernel doesn't have the operation;
 * -ECANCELED if a contended read-modify-write was given up for a cancellation
 * or a signal.
 *
 * Context: any that issues requests. Doesn't fault with IO_URING_F_NONBLOCK.
 *
 * Return: IOU_COMPLETE with the result set, or -EAGAIN to have it retried by
 * io-wq.
 */
int io_memcpy_imm(struct io_kiocb *req, unsigned int issue_flags)
{
	struct io_memcpy_imm *imm = io_kiocb_to_cmd(req, struct io_memcpy_imm);
	int ret;

	/*
	 * Pairs with the load-acquire of the value in user space. Not a mere
	 * smp_wmb(): what the chain has done may be the work of another CPU or
	 * of a device, that this one has only observed.
	 */
	smp_mb();

	if (imm->flags & IORING_MEMCPY_DST_FIXED)
		ret = io_memcpy_imm_fixed(req, imm, issue_flags);
	else
		ret = io_memcpy_imm_user(req, imm, issue_flags);
	if (ret == -EAGAIN)
		return ret;

	if (unlikely(ret < 0))
		req_set_fail(req);
	else
		ret = imm->len;
	io_req_set_res(req, ret, 0);
	return IOU_COMPLETE;
}
