// SPDX-License-Identifier: GPL-2.0
/*
 * Registered buffers that are dma-bufs.
 *
 * The buffer has a reference to a token, which stands for the memory wherever
 * its exporter puts it. A request borrows that by means of ->buf_node, and goes
 * down to the driver with no more than the token and an offset. It doesn't keep
 * the memory in place, neither while it waits for its turn nor by not being
 * reaped. If the driver finds the memory gone, the request fails with -ESTALE
 * and is queued to io-wq, which waits for the memory and issues it again, see
 * io_rw_stale() and io_rw_dmabuf().
 *
 * Locks: ->uring_lock is held while buffers are registered and released, outside
 * of the token's locks. Nothing that has one of those takes ->uring_lock.
 *
 * Copyright (C) 2026 The uring-offload authors
 */
#include <linux/blkdev.h>
#include <linux/completion.h>
#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/io_dmabuf_token.h>
#include <linux/io_uring.h>
#include <linux/overflow.h>
#include <linux/refcount.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/string_choices.h>
#include <linux/uio.h>

#include <uapi/linux/io_uring.h>

#include "io_uring.h"
#include "io-wq.h"
#include "rsrc.h"
#include "rw.h"
#include "uring_cmd.h"
#include "dmabuf.h"

/*
 * IO_BUF_* of what may be done with a buffer. To read a file is to write to the
 * dma-buf, and needs a dma-buf that is open for writing.
 */
static int io_dmabuf_dir(const struct io_uring_regbuf_desc *desc,
			 const struct dma_buf *dmabuf)
{
	fmode_t mode = dmabuf->file->f_mode;
	int allowed = 0, dir = 0;

	if (mode & FMODE_WRITE)
		allowed |= IO_BUF_DEST;
	if (mode & FMODE_READ)
		allowed |= IO_BUF_SOURCE;
	if (desc->flags & IORING_REGBUF_READ)
		dir |= IO_BUF_DEST;
	if (desc->flags & IORING_REGBUF_WRITE)
		dir |= IO_BUF_SOURCE;
	if (!dir)
		dir = allowed;

	/* some exporters hand out descriptors that are open for neither */
	if (!dir || (dir & ~allowed))
		return -EACCES;
	return dir;
}

static struct io_dmabuf_token *
io_dmabuf_desc_token(const struct io_uring_regbuf_desc *desc,
		     struct dma_buf *dmabuf, int dir)
{
	enum dma_data_direction dma_dir = DMA_BIDIRECTIONAL;
	unsigned int flags = 0;

	CLASS(fd, target)(desc->target_fd);
	if (fd_empty(target))
		return ERR_PTR(-EBADF);
	/*
	 * For the application's sake, which finds out now. What counts is the
	 * file that does I/O, see io_dmabuf_check().
	 */
	if (S_ISBLK(file_inode(fd_file(target))->i_mode) &&
	    !(fd_file(target)->f_flags & O_DIRECT))
		return ERR_PTR(-EINVAL);

	if (dir == IO_BUF_DEST)
		dma_dir = DMA_FROM_DEVICE;
	else if (dir == IO_BUF_SOURCE)
		dma_dir = DMA_TO_DEVICE;
	if (desc->flags & IORING_REGBUF_P2P_REQUIRED)
		flags |= IO_DMABUF_P2P_REQUIRED;

	return io_dmabuf_token_create(fd_file(target), dmabuf, dma_dir,
				      desc->offset, desc->size, flags);
}

/* Returns IO_BUF_* of the token, or an error. */
static int io_dmabuf_get_token(const struct io_uring_regbuf_desc *desc,
			       struct io_dmabuf_token **token)
{
	struct dma_buf *dmabuf;
	int dir;

	dmabuf = dma_buf_get(desc->dmabuf_fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);

	dir = io_dmabuf_dir(desc, dmabuf);
	/* the window has the limit of user memory */
	if ((u64)dmabuf->size > SZ_1T) {
		u64 size = desc->size;

		if (!size && desc->offset < dmabuf->size)
			size = dmabuf->size - desc->offset;
		if (size > SZ_1T)
			dir = -EINVAL;
	}
	if (dir > 0) {
		*token = io_dmabuf_desc_token(desc, dmabuf, dir);
		if (IS_ERR(*token))
			dir = PTR_ERR(*token);
	}
	dma_buf_put(dmabuf);
	return dir;
}

static void io_dmabuf_release(void *priv)
{
	io_dmabuf_token_put(priv);
}

/**
 * io_dmabuf_register - make a registered buffer of a dma-buf
 * @ctx:	ring that the buffer is for
 * @desc:	descriptor from user space, of type IO_REGBUF_TYPE_DMABUF
 *
 * Context: process, under ->uring_lock. May sleep until the memory has arrived
 * where the devices reach it, as io_dmabuf_token_prepare() does.
 *
 * Return: a node with one reference, that isn't in a table. Releasing it unmaps
 * the dma-buf. Or -EINVAL if the descriptor says what it may not, if it isn't a
 * dma-buf, if the window has more than 1 TiB or isn't within it, or if the
 * target isn't open with O_DIRECT; -EOVERFLOW if offset and size wrap; -EBADF if
 * one of the file descriptors is none; -EACCES if the mode of the dma-buf
 * doesn't allow for the direction that is asked for; -EOPNOTSUPP if the target
 * can't do this; -EREMOTEIO if a device can't reach the memory where it is, and
 * has to; -ENODEV if the device or the memory is gone; -EMFILE if the target has
 * too many devices; -ENOMEM; -EINTR; -ETIMEDOUT; or what the exporter says.
 */
struct io_rsrc_node *io_dmabuf_register(struct io_ring_ctx *ctx,
					const struct io_uring_regbuf_desc *desc)
{
	struct io_dmabuf_token *token;
	struct io_mapped_ubuf *imu;
	struct io_rsrc_node *node;
	int dir;

	lockdep_assert_held(&ctx->uring_lock);

	if (desc->uaddr || desc->flags & ~IO_DMABUF_DESC_FLAGS)
		return ERR_PTR(-EINVAL);

	dir = io_dmabuf_get_token(desc, &token);
	if (dir < 0)
		return ERR_PTR(dir);

	node = io_rsrc_node_alloc(ctx, IORING_RSRC_BUFFER);
	if (!node)
		goto put_token;
	imu = io_alloc_imu(ctx, 0);
	if (!imu)
		goto free_node;

	/* SQEs have offsets from the start of the window */
	imu->ubuf = 0;
	imu->len = token->len;
	imu->nr_bvecs = 0;
	imu->folio_shift = PAGE_SHIFT;
	refcount_set(&imu->refs, 1);
	imu->release = io_dmabuf_release;
	imu->priv = token;
	imu->dir = dir;
	imu->flags = IO_REGBUF_F_DMABUF;
	node->buf = imu;
	return node;

free_node:
	io_cache_free(&ctx->node_cache, node);
put_token:
	io_dmabuf_token_put(token);
	return ERR_PTR(-ENOMEM);
}

/*
 * As for any other buffer. Nothing below looks at the range again: it decides
 * what memory a device accesses.
 */
static int io_dmabuf_check_range(const struct io_mapped_ubuf *imu, u64 off,
				 size_t len, int ddir)
{
	u64 end;

	if (!len || len > MAX_RW_COUNT ||
	    check_add_overflow(off, (u64)len, &end) || end > imu->len)
		return -EFAULT;
	if (!(imu->dir & (1 << ddir)))
		return -EFAULT;
	return 0;
}

/* Until when a request waits for the memory, 0 if it didn't have to yet */
static unsigned long *io_dmabuf_req_end(struct io_kiocb *req)
{
	struct io_async_rw *io = req->async_data;
	struct io_async_cmd *ac = req->async_data;

	return io_is_uring_cmd(req) ? &ac->dmabuf_end : &io->dmabuf_end;
}

/* What io_dmabuf_import() says, but for the range */
static int io_dmabuf_check(struct io_kiocb *req, unsigned int issue_flags)
{
	struct io_dmabuf_token *token = req->buf_node->buf->priv;

	if (unlikely(!io_dmabuf_token_match(token, req->file)))
		return -EBADF;
	if (unlikely(!(req->file->f_flags & O_DIRECT)))
		return -EINVAL;
	/* pages and addresses in one bio are beyond the block layer */
	if (unlikely(req->flags & REQ_F_HAS_METADATA))
		return -EOPNOTSUPP;
	if ((issue_flags & IO_URING_F_NONBLOCK) &&
	    unlikely(!io_dmabuf_token_ready(token))) {
		io_dmabuf_wait_start(io_dmabuf_req_end(req));
		return -EAGAIN;
	}
	return 0;
}

/*
 * How much the drive takes at once. The block layer splits what is longer, but
 * not without waiting.
 */
static size_t io_dmabuf_max_len(struct block_device *bdev, loff_t pos)
{
	const struct queue_limits *lim = bdev_limits(bdev);
	sector_t sector = bdev->bd_start_sect + (pos >> SECTOR_SHIFT);
	unsigned int max = lim->max_dmabuf_sectors;

	/* does it no more: the block layer says so */
	if (unlikely(!max))
		return SIZE_MAX;
	if (lim->chunk_sectors)
		max = min(max, blk_boundary_sectors_left(sector,
							 lim->chunk_sectors));
	return (size_t)max << SECTOR_SHIFT;
}

/**
 * io_dmabuf_import - iterate over a part of a registered dma-buf
 * @req:	read or write, has a node for a dma-buf
 * @iter:	iterator to set up, valid as long as @req has the node
 * @off:	start, an offset into the buffer
 * @len:	length in bytes
 * @pos:	position in the file
 * @ddir:	ITER_DEST to write to the buffer, ITER_SOURCE to read from it
 * @issue_flags: IO_URING_F_*
 *
 * Context: any, takes no locks.
 *
 * Return: 0; -EFAULT if the range is empty, longer than MAX_RW_COUNT or not
 * within the buffer, or if that isn't registered for @ddir; -EBADF if it isn't
 * registered for the file of @req; -EINVAL
 * if that isn't open with O_DIRECT, or not any more; -EOPNOTSUPP if @req has
 * metadata; -EAGAIN if the dma-buf isn't mapped, and @issue_flags say not to
 * wait; -E2BIG if the drive doesn't take it in one request, and they say so:
 * io_dmabuf_rw_vec() splits it.
 */
int io_dmabuf_import(struct io_kiocb *req, struct iov_iter *iter, u64 off,
		     size_t len, loff_t pos, int ddir, unsigned int issue_flags)
{
	struct io_dmabuf_token *token = req->buf_node->buf->priv;
	struct inode *inode = req->file->f_mapping->host;
	int ret;

	ret = io_dmabuf_check_range(req->buf_node->buf, off, len, ddir);
	if (unlikely(ret))
		return ret;
	ret = io_dmabuf_check(req, issue_flags);
	if (unlikely(ret))
		return ret;
	if ((issue_flags & IO_URING_F_NONBLOCK) && S_ISBLK(inode->i_mode) &&
	    unlikely(len > io_dmabuf_max_len(I_BDEV(inode), pos)))
		return -E2BIG;

	iov_iter_dmabuf(iter, ddir, token, token->off + off, len);
	return 0;
}

/**
 * io_dmabuf_import_vec - check the extents of a vectored request
 * @req:	read or write, has a node for a dma-buf
 * @iter:	iterator to set up: its type and count are those of the request,
 *		it isn't for I/O
 * @iov:	the extents, with offsets into the buffer for addresses
 * @nr:		number of them
 * @pos:	position in the file
 * @ddir:	ITER_DEST to write to the buffer, ITER_SOURCE to read from it
 * @issue_flags: IO_URING_F_*
 *
 * All of them are checked before the first byte is moved.
 *
 * Context: any, takes no locks.
 *
 * Return: 0; -EFAULT if an extent is empty, longer than MAX_RW_COUNT or not
 * within the buffer, or if that isn't registered for @ddir; -EOVERFLOW
 * or -EINVAL if they have more than MAX_RW_COUNT bytes in all; -EINVAL if one
 * isn't aligned to what the drive needs; -EOPNOTSUPP if the file isn't a block
 * device; or what io_dmabuf_import() returns.
 */
int io_dmabuf_import_vec(struct io_kiocb *req, struct iov_iter *iter,
			 const struct iovec *iov, unsigned int nr, loff_t pos,
			 int ddir, unsigned int issue_flags)
{
	struct io_mapped_ubuf *imu = req->buf_node->buf;
	struct io_dmabuf_token *token = imu->priv;
	struct inode *inode = req->file->f_mapping->host;
	u64 off_bits = 0, len_bits = 0;
	loff_t size = i_size_read(inode);
	struct block_device *bdev;
	size_t count = 0, left;
	unsigned int i;
	int ret;

	for (i = 0; i < nr; i++) {
		u64 off = (uintptr_t)iov[i].iov_base;
		size_t len = iov[i].iov_len;

		ret = io_dmabuf_check_range(imu, off, len, ddir);
		if (ret)
			return ret;
		if (check_add_overflow(count, len, &count))
			return -EOVERFLOW;
	}
	if (count > MAX_RW_COUNT)
		return -EINVAL;

	ret = io_dmabuf_check(req, issue_flags);
	if (unlikely(ret))
		return ret;
	if (!S_ISBLK(inode->i_mode))
		return -EOPNOTSUPP;
	bdev = I_BDEV(inode);
	/* the file looks at what it has left of the request */
	left = pos < size ? min_t(u64, count, size - pos) : count;
	for (i = 0; left; i++) {
		size_t len = min(iov[i].iov_len, left);

		off_bits |= (uintptr_t)iov[i].iov_base;
		len_bits |= len;
		left -= len;
	}
	if ((off_bits & bdev_dma_alignment(bdev)) ||
	    (len_bits & (bdev_logical_block_size(bdev) - 1)))
		return -EINVAL;

	iov_iter_dmabuf(iter, ddir, token, token->off, count);
	return 0;
}

/* More than that is more than what a queue has tags for: a worker does it */
#define IO_DMABUF_MAX_PARTS	256

/* A part of a request, which the file sees as a request of its own */
struct io_dmabuf_part {
	struct kiocb		kiocb;
	struct io_dmabuf_parts	*parts;
	size_t			len;
	long			res;
};

/*
 * A request in flight: @kiocb is completed by whoever drops the last of @refs.
 * One is held for each part until that has completed, one by who submits them.
 * The rest is constant by then.
 */
struct io_dmabuf_parts {
	struct kiocb		*kiocb;
	refcount_t		refs;
	unsigned int		nr;
	struct io_dmabuf_part	part[] __counted_by(nr);
};

/* Where a request is at: @done bytes of the extent @iov, @left in all */
struct io_dmabuf_walk {
	struct block_device	*bdev;
	const struct iovec	*iov;
	size_t			done;
	size_t			left;
	loff_t			pos;
};

/*
 * The next part: its length, or 0 at the end, and its offset into the buffer.
 * With @cut, no more than the drive takes at once.
 */
static size_t io_dmabuf_walk_next(struct io_dmabuf_walk *walk, u64 *off,
				  bool cut)
{
	size_t len;

	if (!walk->left)
		return 0;
	if (walk->done == walk->iov->iov_len) {
		walk->iov++;
		walk->done = 0;
	}
	len = min(walk->iov->iov_len - walk->done, walk->left);
	if (cut)
		len = min(len, io_dmabuf_max_len(walk->bdev, walk->pos));
	*off = (uintptr_t)walk->iov->iov_base + walk->done;
	walk->done += len;
	walk->left -= len;
	walk->pos += len;
	return len;
}

static ssize_t io_dmabuf_rw_part(struct kiocb *kiocb,
				 struct io_dmabuf_token *token, u64 off,
				 size_t len, int ddir)
{
	const struct file_operations *fops = kiocb->ki_filp->f_op;
	struct iov_iter iter;

	iov_iter_dmabuf(&iter, ddir, token, token->off + off, len);
	if (ddir == ITER_DEST)
		return fops->read_iter(kiocb, &iter);
	return fops->write_iter(kiocb, &iter);
}

/*
 * The result is that of the first part which isn't whole. But if only one of
 * them has to be tried again, then so has the request.
 */
static ssize_t io_dmabuf_parts_put(struct io_dmabuf_parts *parts)
{
	ssize_t ret = 0;
	bool whole = true;
	unsigned int i;

	if (!refcount_dec_and_test(&parts->refs))
		return -EIOCBQUEUED;

	for (i = 0; i < parts->nr; i++) {
		long res = parts->part[i].res;

		if (res == -EAGAIN || res == -ESTALE) {
			ret = res;
			break;
		}
		if (!whole)
			continue;
		ret = res < 0 ? res : ret + res;
		whole = res == parts->part[i].len;
	}
	kfree(parts);
	return ret;
}

static void io_dmabuf_part_complete(struct kiocb *kiocb, long res)
{
	struct io_dmabuf_part *part = container_of(kiocb, struct io_dmabuf_part,
						   kiocb);
	struct kiocb *whole = part->parts->kiocb;
	ssize_t ret;

	part->res = res;
	ret = io_dmabuf_parts_put(part->parts);
	if (ret != -EIOCBQUEUED)
		whole->ki_complete(whole, ret);
}

static ssize_t io_dmabuf_rw_async(struct kiocb *kiocb,
				  struct io_dmabuf_token *token,
				  struct io_dmabuf_walk walk, int ddir)
{
	struct io_dmabuf_walk count = walk;
	struct io_dmabuf_parts *parts;
	struct blk_plug plug;
	unsigned int i = 0, nr = 0;
	size_t len;
	u64 off;

	while (io_dmabuf_walk_next(&count, &off, true))
		if (++nr > IO_DMABUF_MAX_PARTS)
			return -EAGAIN;

	/* a worker needs no memory, so there is no need to insist */
	parts = kzalloc_flex(*parts, part, nr, GFP_KERNEL_ACCOUNT |
					       __GFP_NORETRY | __GFP_NOWARN);
	if (!parts)
		return -EAGAIN;
	parts->kiocb = kiocb;
	refcount_set(&parts->refs, 1);

	blk_start_plug(&plug);
	/* the drive's limits may have changed since it was counted */
	while (i < nr && (len = io_dmabuf_walk_next(&walk, &off, true))) {
		struct io_dmabuf_part *part = &parts->part[i++];
		ssize_t ret;

		part->kiocb = *kiocb;
		part->kiocb.ki_pos = walk.pos - len;
		part->kiocb.ki_complete = io_dmabuf_part_complete;
		/* what would be polled for is the request, and that has no bio */
		part->kiocb.ki_flags &= ~IOCB_HIPRI;
		part->parts = parts;
		part->len = len;

		refcount_inc(&parts->refs);
		ret = io_dmabuf_rw_part(&part->kiocb, token, off, len, ddir);
		if (ret == -EIOCBQUEUED)
			continue;
		part->res = ret;
		refcount_dec(&parts->refs);
		if (ret != len)
			break;
	}
	/* those that were not started have no result */
	parts->nr = i;
	blk_finish_plug(&plug);

	return io_dmabuf_parts_put(parts);
}

struct io_dmabuf_req_wait {
	struct io_dmabuf_wait	wait;
	struct io_kiocb		*req;
};

static bool io_dmabuf_req_canceled(struct io_dmabuf_wait *wait)
{
	struct io_dmabuf_req_wait *w = container_of(wait,
						    struct io_dmabuf_req_wait,
						    wait);

	return __io_wq_cancel_seen(w->req, IO_URING_F_IOWQ) ||
	       io_wq_worker_stopped();
}

/* By a worker, which returns with dma_resv held if it is to @hold the memory */
static int io_dmabuf_wait(struct io_kiocb *req, bool hold)
{
	struct io_dmabuf_token *token = req->buf_node->buf->priv;
	unsigned long *end = io_dmabuf_req_end(req);
	struct io_dmabuf_req_wait w = {
		.wait = { .end = *end, .canceled = io_dmabuf_req_canceled },
		.req = req,
	};
	int ret;

	if (hold)
		ret = io_dmabuf_token_hold(token, &w.wait);
	else
		ret = io_dmabuf_token_prepare(token, &w.wait);
	*end = w.wait.end;

	if (ret != -EINTR && ret != -ERESTARTSYS)
		return ret;
	if (fatal_signal_pending(current) || io_dmabuf_req_canceled(&w.wait))
		return -ECANCELED;
	/*
	 * Exporters may do interruptible waits, and so return for a task_work,
	 * or for SIGSTOP. A worker sees to these in between of two requests.
	 */
	return -ESTALE;
}

/* A part that a worker waits for, but not while it has dma_resv */
struct io_dmabuf_held {
	struct kiocb		kiocb;
	struct completion	done;
	long			res;
};

static void io_dmabuf_held_complete(struct kiocb *kiocb, long res)
{
	struct io_dmabuf_held *held = container_of(kiocb, struct io_dmabuf_held,
						   kiocb);

	held->res = res;
	complete(&held->done);
}

/*
 * Submit a part while the memory can't move: who wants to move it may be waiting
 * for the lock, and be faster at each attempt. If the file would have to wait,
 * for a tag say, then others make progress, and this one takes its chances.
 */
static ssize_t io_dmabuf_rw_held(struct io_kiocb *req, struct kiocb *kiocb,
				 u64 off, size_t len, int ddir)
{
	struct io_dmabuf_token *token = req->buf_node->buf->priv;
	struct io_dmabuf_held held = { .kiocb = *kiocb };
	struct blk_plug plug;
	ssize_t ret;

	io_dmabuf_wait_start(io_dmabuf_req_end(req));
	ret = io_dmabuf_wait(req, true);
	if (ret)
		return ret;
	init_completion(&held.done);
	held.kiocb.ki_complete = io_dmabuf_held_complete;
	held.kiocb.ki_flags |= IOCB_NOWAIT;
	/* without one, a scheduler has somebody else dispatch it, and later */
	blk_start_plug(&plug);
	ret = io_dmabuf_rw_part(&held.kiocb, token, off, len, ddir);
	blk_finish_plug(&plug);
	io_dmabuf_token_release(token);

	if (ret == -EIOCBQUEUED) {
		wait_for_completion_io(&held.done);
		ret = held.res;
	}
	if (ret == -EAGAIN || ret == -EOPNOTSUPP)
		return io_dmabuf_rw_part(kiocb, token, off, len, ddir);
	if (ret > 0)
		kiocb->ki_pos += ret;
	return ret;
}

static ssize_t io_dmabuf_rw_sync(struct io_kiocb *req, struct kiocb *kiocb,
				 struct io_dmabuf_walk walk, int ddir)
{
	struct io_dmabuf_token *token = req->buf_node->buf->priv;
	loff_t pos = kiocb->ki_pos;
	bool cut = false, stale = false;
	size_t done = 0;
	ssize_t ret;

	while (walk.left) {
		struct io_dmabuf_walk next = walk;
		size_t len;
		u64 off;

		/* a driver takes it at once, or it could be stale in the middle */
		len = io_dmabuf_walk_next(&next, &off, cut);
		if (stale)
			ret = io_dmabuf_rw_held(req, kiocb, off, len, ddir);
		else
			ret = io_dmabuf_rw_part(kiocb, token, off, len, ddir);
		if (ret == -ESTALE && !signal_pending(current)) {
			cond_resched();
			cut = true;
			stale = true;
			continue;
		}
		/* what is held waits for no budget, so each part may try first */
		stale = false;
		if (ret < 0) {
			/* if it is tried again, then from the start */
			kiocb->ki_pos = pos;
			return ret;
		}
		done += ret;
		if (ret != len)
			break;
		walk = next;
	}
	return done;
}

/**
 * io_dmabuf_rw_vec - read or write the extents of a vectored request
 * @req:	request that io_dmabuf_import_vec() has been called for
 * @kiocb:	that of @req. Without ->ki_complete(), wait for the result
 * @iov:	the extents
 * @ddir:	ITER_DEST to write to the buffer, ITER_SOURCE to read from it
 *
 * A request that ends past the end of the drive is cut short. Otherwise either
 * all of the extents are moved, or it fails; then it is not known which were.
 * Extents that are longer than what the drive takes at once are split.
 *
 * Context: as for ->read_iter() and ->write_iter().
 *
 * Return: number of bytes; -EIOCBQUEUED if ->ki_complete() will be called;
 * -EAGAIN if a worker has to do it; -ESTALE if the memory has moved; or an error
 * of the file.
 */
ssize_t io_dmabuf_rw_vec(struct io_kiocb *req, struct kiocb *kiocb,
			 const struct iovec *iov, int ddir)
{
	struct io_dmabuf_token *token = req->buf_node->buf->priv;
	struct inode *inode = req->file->f_mapping->host;
	struct io_dmabuf_walk walk = {
		.bdev = I_BDEV(inode), .iov = iov, .pos = kiocb->ki_pos,
	};
	loff_t size = i_size_read(inode);
	size_t count = req->cqe.res;

	if (!count)
		return 0;
	/*
	 * The file would cut short the extent at the end, and fail the next. It
	 * is up to the file what happens to a request that starts there.
	 */
	if (kiocb->ki_pos < size)
		count = min_t(u64, count, size - kiocb->ki_pos);
	else
		count = min(count, iov->iov_len);

	walk.left = count;
	if (is_sync_kiocb(kiocb))
		return io_dmabuf_rw_sync(req, kiocb, walk, ddir);
	return io_dmabuf_rw_async(kiocb, token, walk, ddir);
}

/**
 * io_dmabuf_prepare - wait until the dma-buf of a request is mapped
 * @req:	read or write that io_dmabuf_import() has been called for
 *
 * Context: worker of io-wq, without ->uring_lock. May sleep.
 *
 * Return: 0; -ECANCELED if @req is canceled, or the task or the ring is going
 * away; -ESTALE if the worker has a signal to see to, have @req queued again; or
 * an error of io_dmabuf_token_prepare().
 */
int io_dmabuf_prepare(struct io_kiocb *req)
{
	struct io_dmabuf_token *token = req->buf_node->buf->priv;

	if (io_dmabuf_token_ready(token))
		return 0;

	return io_dmabuf_wait(req, false);
}

/**
 * io_dmabuf_hold - map the dma-buf of a request, and keep it where it is
 * @req:	read, write or command that has a node for a dma-buf
 *
 * Context: worker of io-wq, without ->uring_lock. May sleep. If this returns 0,
 * dma_resv is held until io_dmabuf_unhold() is called.
 *
 * Return: 0; or what io_dmabuf_prepare() returns.
 */
int io_dmabuf_hold(struct io_kiocb *req)
{
	return io_dmabuf_wait(req, true);
}

/**
 * io_dmabuf_unhold - undo io_dmabuf_hold()
 * @req:	that of io_dmabuf_hold(), the caller has a reference to it
 *
 * Context: that of io_dmabuf_hold().
 */
void io_dmabuf_unhold(struct io_kiocb *req)
{
	struct io_dmabuf_token *token = req->buf_node->buf->priv;

	io_dmabuf_token_release(token);
}

/**
 * io_dmabuf_import_cmd - iterate over a part of a dma-buf for a command
 * @req:	command that has a node for a dma-buf
 * @iter:	iterator to set up, valid as long as @req has the node
 * @off:	start, an offset into the buffer
 * @len:	length in bytes
 * @ddir:	ITER_DEST to write to the buffer, ITER_SOURCE to read from it
 * @issue_flags: IO_URING_F_*
 *
 * Context: process. Waits for the memory unless @issue_flags say not to.
 *
 * Return: 0; -EFAULT if the range is empty, longer than MAX_RW_COUNT or not
 * within the buffer, or if that isn't registered for @ddir; -EBADF if it isn't
 * registered for the file of @req; -EAGAIN
 * if the dma-buf isn't mapped, and @issue_flags say not to wait; or what
 * io_dmabuf_prepare() returns.
 */
int io_dmabuf_import_cmd(struct io_kiocb *req, struct iov_iter *iter, u64 off,
			 size_t len, int ddir, unsigned int issue_flags)
{
	struct io_dmabuf_token *token = req->buf_node->buf->priv;
	int ret;

	ret = io_dmabuf_check_range(req->buf_node->buf, off, len, ddir);
	if (unlikely(ret))
		return ret;
	if (!io_dmabuf_token_match(token, req->file))
		return -EBADF;
	if (issue_flags & IO_URING_F_NONBLOCK) {
		if (unlikely(!io_dmabuf_token_ready(token))) {
			io_dmabuf_wait_start(io_dmabuf_req_end(req));
			return -EAGAIN;
		}
	} else {
		ret = io_dmabuf_prepare(req);
		if (unlikely(ret))
			return ret;
	}
	iov_iter_dmabuf(iter, ddir, token, token->off + off, len);
	return 0;
}

/**
 * io_dmabuf_show_fdinfo - describe a registered dma-buf
 * @m:		fdinfo of a ring, in the line of the buffer
 * @imu:	the buffer
 *
 * Whether it is memory of a device, and how often it has moved, is left out while
 * somebody maps it.
 *
 * Context: process, under ->uring_lock.
 */
void io_dmabuf_show_fdinfo(struct seq_file *m, struct io_mapped_ubuf *imu)
{
	static const char * const dirs[] = {
		[IO_BUF_DEST]			= "read",
		[IO_BUF_SOURCE]			= "write",
		[IO_BUF_DEST | IO_BUF_SOURCE]	= "rw",
	};
	struct io_dmabuf_token *token = imu->priv;
	struct dma_resv *resv = token->dmabuf->resv;
	struct io_dmabuf_use *use;
	bool p2p = true;
	u64 moves = 0;

	seq_printf(m, ", dmabuf, off:0x%llx, dir:%s", token->off,
		   dirs[imu->dir]);
	if (!dma_resv_trylock(resv))
		return;
	list_for_each_entry(use, &token->uses, node) {
		p2p &= use->attach->p2p;
		moves += use->moves;
	}
	seq_printf(m, ", devices:%u, p2p:%s, moves:%llu", token->nr_uses,
		   str_yes_no(p2p && token->nr_uses), moves);
	dma_resv_unlock(resv);
}
