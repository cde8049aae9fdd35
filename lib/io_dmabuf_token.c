// SPDX-License-Identifier: GPL-2.0
/*
 * A window of a dma-buf that I/O on a file reads and writes.
 *
 * Requests carry a token and an offset. What addresses that is for a device is
 * looked up by its driver when it executes the request, and not before:
 *
 *	token ---> use, one for each device ---> attach ---> map, one at a time
 *
 * An attach has all that it takes to map the dma-buf for a device in one
 * direction. Tokens share it, however many rings register the dma-buf: addresses
 * are those of the whole. A token has its window of it, and looks for itself
 * whether the map is what it asks for, before its requests find it.
 *
 * An exporter may move its memory whenever it wants. It then holds dma_resv, and
 * io_dmabuf_invalidate() takes the maps away: they are no longer found, requests
 * that have found one are waited for, and the dma-buf is unmapped. None of the
 * devices is given new requests while one of them is waited for. That wait is
 * for the devices alone. Requests that come later find no map, fail with
 * BLK_STS_STALE and give back what they hold; who submitted them makes a new map
 * with io_dmabuf_token_prepare(), in a context that may wait, and tries again.
 * Nothing that user space does or doesn't do keeps the exporter waiting.
 *
 * Who may go first:
 *
 *  - The task, ring or file: requests borrow the reference of the registered
 *    buffer, which is dropped after the last of them has completed.
 *  - One of the tokens that share an attach: it takes its use along, the map stays
 *    for the others.
 *  - The device: io_dmabuf_device_shutdown() takes its attaches off their
 *    tokens. What is left of a token refers to other devices, or to none.
 *  - The exporter: token and attach have references to the dma-buf. If the memory is
 *    gone, for good or for now, then to map it fails, and so do requests.
 *
 * Fences: only DMA_RESV_USAGE_KERNEL is waited for, when a map is made, that is
 * until the memory is where the map says. Synchronisation with others that use
 * the memory is up to user space. Nothing is waited for under dma_resv: the map
 * is attach->next meanwhile, where io_dmabuf_invalidate() finds it. Each of those
 * who wait has a time limit of its own. Nor are large tables allocated under it,
 * see struct io_dmabuf_spare.
 *
 * Locks: dma_resv is the only one that is held for longer, and guards the lists
 * and maps of all tokens of the dma-buf. What somebody waits for who has it, the
 * exporter or the device, isn't up to other tokens. The lock of the device is
 * innermost, and guards which attaches it has.
 *
 * Copyright (C) 2026 The uring-offload authors
 */
#include <linux/blkdev.h>
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/export.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/io_dmabuf_token.h>
#include <linux/iosys-map.h>
#include <linux/overflow.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/swiotlb.h>
#include <linux/timekeeping.h>

/* How long the memory may take to arrive, and how often to look whether to stop */
#define IO_DMABUF_WAIT		(10 * HZ)
#define IO_DMABUF_WAIT_SLICE	(HZ / 10L)
/* How many seconds a device that can't have the memory isn't tried again for */
#define IO_DMABUF_ERROR		1

static const void *io_dmabuf_target(struct file *file)
{
	struct inode *inode = file->f_mapping->host;

	if (S_ISBLK(inode->i_mode))
		return I_BDEV(inode)->bd_disk;
	return file;
}

static void io_dmabuf_error_set(struct io_dmabuf_error *error, int err)
{
	/* the second that it is now has begun before */
	if (err)
		WRITE_ONCE(error->end,
			   ktime_get_seconds() + 1 + IO_DMABUF_ERROR);
	WRITE_ONCE(error->err, err);
}

/* Returns 0 if there is none, or if it is time to try again. */
static int io_dmabuf_error_get(const struct io_dmabuf_error *error)
{
	int err = READ_ONCE(error->err);

	return err && (unsigned long)ktime_get_seconds() < READ_ONCE(error->end) ?
	       err : 0;
}

/* About the attempt, and not about the device. */
static bool io_dmabuf_transient(int err)
{
	return err == -EINTR || err == -ERESTARTSYS || err == -ENOMEM;
}

/*
 * The map isn't published, or not any more, and no request uses it. What isn't
 * set up yet is zero.
 */
static void io_dmabuf_map_free(struct io_dmabuf_map *map)
{
	struct io_dmabuf_attach *attach = map->attach;

	dma_resv_assert_held(attach->dmabuf->resv);

	if (map->vmap) {
		dma_buf_vunmap(attach->dmabuf, map->vmap);
		kfree(map->vmap);
	}
	dma_buf_unmap_attachment(attach->dba, map->sgt, attach->dir);
	/* the next one doesn't have to ask for memory, unless there are more */
	if (map->max_segs > attach->max_segs) {
		swap(map->segs, attach->segs);
		attach->max_segs = map->max_segs;
	}
	kvfree(map->segs);
	kfree(map);
}

static struct io_dmabuf_map *io_dmabuf_use_map(struct io_dmabuf_use *use)
{
	struct dma_resv *resv = use->attach->dmabuf->resv;

	return rcu_dereference_protected(use->map, dma_resv_held(resv));
}

/* No request finds the map any more. Those that have are still to be waited for. */
static void io_dmabuf_unpublish(struct io_dmabuf_attach *attach)
{
	struct io_dmabuf_use *use;

	dma_resv_assert_held(attach->dmabuf->resv);

	list_for_each_entry(use, &attach->uses, attach_node) {
		if (attach->next || io_dmabuf_use_map(use))
			use->moves++;
		RCU_INIT_POINTER(use->map, NULL);
		/* to where it can have it, maybe */
		io_dmabuf_error_set(&use->error, 0);
		/* as many as anybody has registered */
		cond_resched();
	}
	if (attach->next) {
		io_dmabuf_map_free(attach->next);
		attach->next = NULL;
	}
	if (attach->map) {
		attach->old = attach->map;
		attach->old->gp = get_state_synchronize_rcu();
		attach->old->since = jiffies;
		attach->map = NULL;
	}
	attach->p2p = false;
}

static void io_dmabuf_unmap(struct io_dmabuf_attach *attach, bool quiesce)
{
	struct io_dmabuf_device *ddev = attach->ddev;
	struct io_dmabuf_map *map;

	io_dmabuf_unpublish(attach);
	map = attach->old;
	if (!map)
		return;
	if (quiesce)
		ddev->ops->quiesce(ddev, map);
	if (ddev->ops->map_exit)
		ddev->ops->map_exit(ddev, map);
	io_dmabuf_map_free(map);
	attach->old = NULL;
}

static void io_dmabuf_invalidate(struct dma_buf_attachment *dba)
{
	struct io_dmabuf_attach *attach;
	struct dma_buf_attachment *other;

	dma_resv_assert_held(dba->dmabuf->resv);

	/*
	 * It is the turn of the others when this returns. What they have to wait
	 * for is over then, if it starts to end now.
	 */
	list_for_each_entry(other, &dba->dmabuf->attachments, node) {
		attach = other->importer_priv;
		if (other->importer_ops &&
		    other->importer_ops->invalidate_mappings ==
		    io_dmabuf_invalidate &&
		    (attach->map || attach->next))
			io_dmabuf_unpublish(attach);
	}
	io_dmabuf_unmap(dba->importer_priv, true);
}

static const struct dma_buf_attach_ops io_dmabuf_importer_ops = {
	.allow_peer2peer	= true,
	.invalidate_mappings	= io_dmabuf_invalidate,
};

/* For tokens of which not every device reaches the memory of the exporter's */
static const struct dma_buf_attach_ops io_dmabuf_importer_host_ops = {
	.invalidate_mappings	= io_dmabuf_invalidate,
};

/* Whether the addresses are what all of the code that uses them counts on. */
static bool io_dmabuf_sgt_valid(struct sg_table *sgt, u64 size)
{
	struct scatterlist *sg;
	u64 sum = 0;
	int i;

	for_each_sgtable_dma_sg(sgt, sg, i) {
		dma_addr_t addr = sg_dma_address(sg), last;
		unsigned int len = sg_dma_len(sg);

		if (!len || !IS_ALIGNED(addr | len, IO_DMABUF_SEG_ALIGN))
			return false;
		if (check_add_overflow(addr, len - 1, &last))
			return false;
		sum += len;
	}
	return sum == size;
}

static bool io_dmabuf_sgt_need_sync(struct sg_table *sgt, struct device *dev)
{
	struct scatterlist *sg;
	int i;

	for_each_sgtable_dma_sg(sgt, sg, i)
		if (dma_need_sync(dev, sg_dma_address(sg)))
			return true;
	return false;
}

/*
 * Segments of a table, neighbours that are contiguous as one. Not if there is
 * something to sync: that goes by the pieces that were mapped.
 */
static unsigned int io_dmabuf_walk_segs(struct io_dmabuf_map *map,
					struct io_dmabuf_seg *segs)
{
	struct scatterlist *sg;
	dma_addr_t next = 0;
	unsigned int nr = 0;
	u64 off = 0;
	int i;

	for_each_sgtable_dma_sg(map->sgt, sg, i) {
		dma_addr_t addr = sg_dma_address(sg);

		if (!nr || addr != next || map->need_sync) {
			if (segs) {
				segs[nr].off = off;
				segs[nr].addr = addr;
			}
			nr++;
		}
		next = addr + sg_dma_len(sg);
		off += sg_dma_len(sg);
	}
	if (segs)
		segs[nr].off = off;
	return nr;
}

/* The common size of all segments but the last, if it is a power of two. */
static u8 io_dmabuf_seg_shift(const struct io_dmabuf_seg *segs, unsigned int nr)
{
	u64 size = segs[1].off;
	unsigned int i;

	if (nr < 2 || !is_power_of_2(size))
		return 0;
	for (i = 1; i < nr - 1; i++)
		if (segs[i + 1].off - segs[i].off != size)
			return 0;
	/* an index past the end must not come out of a longer one */
	if (segs[nr].off - segs[nr - 1].off > size)
		return 0;
	return ilog2(size);
}

/*
 * Where the memory is decides what may be done with it: a CPU's cache has
 * nothing of a BAR, and maintenance by its address is an oops on some machines.
 */
static int io_dmabuf_map_place(struct io_dmabuf_attach *attach,
			       struct io_dmabuf_map *map, bool need_p2p)
{
	bool host, device;

	dma_buf_sgt_places(map->sgt, &host, &device);
	if (host && need_p2p)
		return -EREMOTEIO;
	attach->p2p = !host;
	map->need_sync = host && io_dmabuf_sgt_need_sync(map->sgt,
							 attach->ddev->dev);
	return map->need_sync && device ? -EOPNOTSUPP : 0;
}

/*
 * Memory for tables, allocated without locks: these may be large, and what it
 * takes to get it should keep nobody from moving the dma-buf. Whoever finds too
 * little of it says what is needed, and comes again.
 */
struct io_dmabuf_spare {
	struct io_dmabuf_seg		*segs;
	unsigned int			max_segs;
	unsigned int			need_segs;
	struct io_dmabuf_pages		pages;
	size_t				page_size;
};

static bool io_dmabuf_spare_needed(const struct io_dmabuf_spare *spare)
{
	return spare->need_segs || spare->pages.need;
}

static void io_dmabuf_spare_free(struct io_dmabuf_spare *spare)
{
	kvfree(spare->segs);
	while (spare->pages.nr)
		kfree(io_dmabuf_pages_take(&spare->pages));
}

static int io_dmabuf_spare_alloc(struct io_dmabuf_spare *spare)
{
	if (spare->need_segs) {
		/* moved to more pieces each time: it doesn't take long to catch up */
		unsigned int nr = max(spare->need_segs, 2 * spare->max_segs);

		kvfree(spare->segs);
		spare->max_segs = 0;
		spare->segs = kvmalloc_objs(*spare->segs, (size_t)nr + 1,
					    IO_DMABUF_GFP);
		if (!spare->segs)
			return -ENOMEM;
		spare->max_segs = nr;
		spare->need_segs = 0;
	}
	while (spare->pages.nr < spare->pages.need) {
		void **page = kzalloc(spare->page_size, IO_DMABUF_GFP);

		if (!page)
			return -ENOMEM;
		*page = spare->pages.head;
		spare->pages.head = page;
		spare->pages.nr++;
		cond_resched();
	}
	spare->pages.need = 0;
	return 0;
}

/* Take the larger one of the two tables that there are, if it is large enough */
static int io_dmabuf_map_take_segs(struct io_dmabuf_attach *attach,
				   struct io_dmabuf_map *map, unsigned int nr,
				   struct io_dmabuf_spare *spare)
{
	if (attach->max_segs < nr && spare->max_segs >= nr) {
		swap(attach->segs, spare->segs);
		swap(attach->max_segs, spare->max_segs);
	}
	if (attach->max_segs < nr) {
		spare->need_segs = nr;
		return -ENOBUFS;
	}
	swap(map->segs, attach->segs);
	swap(map->max_segs, attach->max_segs);
	return 0;
}

static int io_dmabuf_map_segs(struct io_dmabuf_attach *attach,
			      struct io_dmabuf_map *map, bool need_p2p,
			      struct io_dmabuf_spare *spare)
{
	struct dma_buf *dmabuf = attach->dmabuf;
	unsigned int nr;
	int ret;

	if (!io_dmabuf_sgt_valid(map->sgt, dmabuf->size)) {
		pr_warn_ratelimited("dma-buf of %s: its mapping doesn't fit it\n",
				    dmabuf->exp_name);
		return -EINVAL;
	}
	ret = io_dmabuf_map_place(attach, map, need_p2p);
	if (ret)
		return ret;

	nr = io_dmabuf_walk_segs(map, NULL);
	ret = io_dmabuf_map_take_segs(attach, map, nr, spare);
	if (ret)
		return ret;
	map->nr_segs = io_dmabuf_walk_segs(map, map->segs);
	/* nothing is there, but it must not look contiguous */
	map->segs[nr].addr = 0;
	map->seg_shift = io_dmabuf_seg_shift(map->segs, nr);
	return 0;
}

static int io_dmabuf_map_vmap(struct io_dmabuf_attach *attach,
			      struct io_dmabuf_map *map)
{
	struct dma_buf *dmabuf = attach->dmabuf;
	struct iosys_map *vmap;
	int ret;

	vmap = kzalloc_obj(*vmap, IO_DMABUF_GFP);
	if (!vmap)
		return -ENOMEM;
	ret = dma_buf_vmap(dmabuf, vmap);
	if (ret) {
		kfree(vmap);
		return ret;
	}
	map->vmap = vmap;
	return 0;
}

/* The first step: the exporter says where the memory will be. */
static int io_dmabuf_map_new(struct io_dmabuf_attach *attach)
{
	struct io_dmabuf_map *map;
	int ret;

	/* an exporter that has told some of its importers only */
	if (WARN_ON_ONCE(attach->old))
		io_dmabuf_unmap(attach, true);
	map = kzalloc(attach->ddev->ops->map_size, IO_DMABUF_GFP);
	if (!map)
		return -ENOMEM;
	map->attach = attach;
	map->sgt = dma_buf_map_attachment(attach->dba, attach->dir);
	if (IS_ERR(map->sgt)) {
		ret = PTR_ERR(map->sgt);
		kfree(map);
		return ret;
	}
	attach->next = map;
	attach->maps++;
	return 0;
}

/*
 * The second one: the memory is there. Tokens for whom it is the wrong memory
 * don't have tables made for it. The map stays where it is if @spare is too small.
 */
static int io_dmabuf_map_ready(struct io_dmabuf_attach *attach, bool need_p2p,
			       struct io_dmabuf_spare *spare)
{
	struct io_dmabuf_device *ddev = attach->ddev;
	struct io_dmabuf_map *map = attach->next;
	int ret;

	ret = io_dmabuf_map_segs(attach, map, need_p2p, spare);
	if (spare->need_segs)
		return ret;
	attach->next = NULL;
	if (!ret && ddev->ops->vmap)
		ret = io_dmabuf_map_vmap(attach, map);
	if (!ret && ddev->ops->map_init)
		ret = ddev->ops->map_init(ddev, map);
	if (ret) {
		attach->p2p = false;
		io_dmabuf_map_free(map);
		return ret;
	}
	attach->map = map;
	return 0;
}

/* The third one: requests of the token find it. */
static int io_dmabuf_publish(struct io_dmabuf_use *use,
			     struct io_dmabuf_spare *spare)
{
	struct io_dmabuf_token *token = use->token;
	struct io_dmabuf_attach *attach = use->attach;
	struct io_dmabuf_device *ddev = attach->ddev;
	int ret = 0;

	if (attach->next)
		ret = io_dmabuf_map_ready(attach, token->need_p2p, spare);
	if (ret)
		return ret;
	if (token->need_p2p && !attach->p2p)
		return -EREMOTEIO;
	if (ddev->ops->map_window) {
		spare->page_size = ddev->ops->page_size;
		ret = ddev->ops->map_window(ddev, attach->map, token->off,
					    token->len, &spare->pages);
	}
	if (ret)
		return ret;
	/* pairs with rcu_dereference() in io_dmabuf_map_get() */
	rcu_assign_pointer(use->map, attach->map);
	return 0;
}

/* Map what can be mapped for now: how many have to wait for it, or an error. */
static int io_dmabuf_map_new_all(struct io_dmabuf_token *token, int *err)
{
	struct io_dmabuf_use *use;
	int ret, nr = 0;

	list_for_each_entry(use, &token->uses, node) {
		struct io_dmabuf_attach *attach = use->attach;

		if (attach->map)
			continue;
		if (!attach->next) {
			ret = io_dmabuf_map_new(attach);
			if (io_dmabuf_transient(ret))
				return ret;
			if (ret) {
				io_dmabuf_error_set(&use->error, ret);
				*err = *err ?: ret;
				continue;
			}
		}
		if (use->seen != attach->maps) {
			use->seen = attach->maps;
			token->since = jiffies;
		}
		nr++;
	}
	return nr;
}

/*
 * Returns 0 with *@there false if the memory has to be waited for. The new maps
 * stay meanwhile, unless it moves again.
 *
 * A device for which it can't be mapped keeps its error, and the others go on.
 * It is an error for all if there are none, or if the token is a new one. Or if
 * @spare is too small: then it says so.
 */
static int io_dmabuf_map_all(struct io_dmabuf_token *token,
			     struct io_dmabuf_spare *spare, bool *there)
{
	struct dma_resv *resv = token->dmabuf->resv;
	struct io_dmabuf_use *use;
	bool mapped = false;
	int ret, err = 0;

	dma_resv_assert_held(resv);

	ret = io_dmabuf_map_new_all(token, &err);
	if (ret < 0)
		return ret;
	/* to map it may be what makes it move */
	*there = !ret || dma_resv_test_signaled(resv, DMA_RESV_USAGE_KERNEL);
	if (!*there)
		return token->live ? 0 : err;

	list_for_each_entry(use, &token->uses, node) {
		if (!io_dmabuf_use_map(use) &&
		    (use->attach->map || use->attach->next)) {
			ret = io_dmabuf_publish(use, spare);
			if (io_dmabuf_transient(ret) ||
			    io_dmabuf_spare_needed(spare))
				return ret;
			if (ret) {
				io_dmabuf_error_set(&use->error, ret);
				err = err ?: ret;
			}
		}
		if (io_dmabuf_use_map(use))
			mapped = true;
	}
	if (mapped && token->live)
		return 0;
	return err ?: mapped ? 0 : -ENODEV;
}

/*
 * Without locks: whoever else has to do with the dma-buf goes on. Killable only:
 * io_uring has signals pending that are none.
 */
static int io_dmabuf_wait_memory(struct io_dmabuf_token *token,
				 struct io_dmabuf_wait *wait)
{
	long left, ret;

	do {
		left = wait->end - jiffies;
		if (left <= 0)
			return -ETIMEDOUT;
		ret = dma_resv_wait_timeout(token->dmabuf->resv,
					    DMA_RESV_USAGE_KERNEL, false,
					    min(left, IO_DMABUF_WAIT_SLICE));
		if (ret)
			return ret < 0 ? ret : 0;
		if (fatal_signal_pending(current))
			return -EINTR;
	} while (!wait->canceled || !wait->canceled(wait));

	return -ECANCELED;
}

/**
 * io_dmabuf_wait_start - start the time that memory has to arrive
 * @end:	when that is over, or 0
 *
 * A request has its time once, however often it finds the memory moved: this
 * does nothing from the second time on.
 *
 * Context: any.
 */
void io_dmabuf_wait_start(unsigned long *end)
{
	if (!*end)
		*end = (jiffies + IO_DMABUF_WAIT) ?: 1;
}
EXPORT_SYMBOL_GPL(io_dmabuf_wait_start);

/*
 * Attach the device that was missing. If it can't be, then that is the error of
 * those requests that need it. If all that there were are gone, then others may
 * have come, and no request gets far enough to miss them.
 */
static int io_dmabuf_token_complete(struct io_dmabuf_token *token)
{
	struct file *file = token->file;
	int ret;

	if (!list_empty(&token->uses)) {
		if (!READ_ONCE(token->incomplete) ||
		    io_dmabuf_error_get(&token->error))
			return 0;
		if (!xchg(&token->incomplete, 0))
			return 0;
	}
	ret = file->f_op->create_dmabuf_token(file, token);
	if (!ret || io_dmabuf_transient(ret) || list_empty(&token->uses))
		return ret;
	io_dmabuf_error_set(&token->error, ret);
	return 0;
}

/**
 * io_dmabuf_token_hold - map a dma-buf wherever it isn't, and keep it there
 * @token:	token, the caller has a reference
 * @wait:	for how long to wait for the memory, and what ends that
 *
 * Used when a request has already failed with -ESTALE: otherwise an exporter
 * that waits for dma_resv could move the memory again as soon as it is mapped,
 * on every retry. Until io_dmabuf_token_release() it can't, nor can it do
 * anything else with the dma-buf. So the caller may only submit, without waiting
 * (IOCB_NOWAIT), and not for the result. The request stays valid after that:
 * who moves the memory waits for it.
 *
 * The memory is waited for without locks. An exporter that has it move again in
 * less time than it takes to get hold of dma_resv never lets it be there, for
 * anybody: that ends with -ETIMEDOUT.
 *
 * Context: process, may sleep: for the exporter, and until the memory has
 * arrived or @wait is over. May allocate memory. A fatal signal interrupts it, but
 * not while somebody else has dma_resv. Returns with dma_resv held if it returns
 * 0.
 *
 * Return: 0; or what io_dmabuf_token_prepare() returns.
 */
int io_dmabuf_token_hold(struct io_dmabuf_token *token,
			 struct io_dmabuf_wait *wait)
{
	struct io_dmabuf_spare spare = {};
	unsigned long since;
	bool there = false;
	int ret;

	ret = io_dmabuf_token_complete(token);
	while (!ret) {
		if (wait->canceled && wait->canceled(wait)) {
			ret = -ECANCELED;
			break;
		}
		dma_resv_lock(token->dmabuf->resv, NULL);
		/* there may be many of a task that is killed, one after the other */
		ret = fatal_signal_pending(current) ? -EINTR :
		      io_dmabuf_map_all(token, &spare, &there);
		since = token->since;
		if (!ret && there) {
			WRITE_ONCE(token->holder, current);
			break;
		}
		dma_resv_unlock(token->dmabuf->resv);

		if (io_dmabuf_spare_needed(&spare)) {
			ret = io_dmabuf_spare_alloc(&spare);
		} else if (!ret) {
			if (!wait->end)
				wait->end = (since + IO_DMABUF_WAIT) ?: 1;
			ret = io_dmabuf_wait_memory(token, wait);
		}
	}
	io_dmabuf_spare_free(&spare);
	return ret;
}
EXPORT_SYMBOL_GPL(io_dmabuf_token_hold);

/**
 * io_dmabuf_token_release - let the memory move again
 * @token:	token that io_dmabuf_token_hold() has returned 0 for
 *
 * Context: the task that called io_dmabuf_token_hold(). Releases dma_resv.
 */
void io_dmabuf_token_release(struct io_dmabuf_token *token)
{
	WRITE_ONCE(token->holder, NULL);
	dma_resv_unlock(token->dmabuf->resv);
}
EXPORT_SYMBOL_GPL(io_dmabuf_token_release);

/**
 * io_dmabuf_token_prepare - map a dma-buf wherever it isn't
 * @token:	token, the caller has a reference
 * @wait:	for how long to wait for the memory, and what ends that
 *
 * Called after a request has failed with -ESTALE, or before it would:
 * io_dmabuf_token_ready() tells. When this returns, the exporter may have moved
 * the memory again.
 *
 * If it can be mapped for some of the devices only, that is a success. Requests
 * that get to one of the others fail with what io_dmabuf_map_status() says.
 *
 * Context: process, may sleep: for the exporter, and until the memory has
 * arrived or @wait is over, without locks. Takes dma_resv, and may allocate
 * memory. A fatal signal interrupts it, but not while somebody else has dma_resv.
 *
 * Return: 0; -EINTR; -ECANCELED if @wait was canceled; -ENOMEM; -ENODEV if no
 * device is left that could do I/O; -ETIMEDOUT if the memory doesn't arrive;
 * -EINVAL if the exporter's addresses aren't multiples of 4096 bytes, or don't
 * add up to the size of the dma-buf; -EREMOTEIO if it is the host's memory now,
 * and was to be that of a device; -EOPNOTSUPP if it is both, and the host's has
 * to be synced; what the driver's @map_init or create_dmabuf_token returns; or
 * why the exporter can't map it, -ENODEV if the memory is revoked.
 */
int io_dmabuf_token_prepare(struct io_dmabuf_token *token,
			    struct io_dmabuf_wait *wait)
{
	int ret;

	ret = io_dmabuf_token_hold(token, wait);
	if (!ret)
		io_dmabuf_token_release(token);
	return ret;
}
EXPORT_SYMBOL_GPL(io_dmabuf_token_prepare);

/**
 * io_dmabuf_token_ready - whether a dma-buf is mapped for all devices that can
 *			   have it
 * @token:	token, the caller has a reference
 *
 * Context: any. The answer may be wrong the moment after; it only saves a
 * request the way to the driver and back.
 *
 * Return: false if io_dmabuf_token_prepare() has something to do.
 */
bool io_dmabuf_token_ready(struct io_dmabuf_token *token)
{
	struct io_dmabuf_use *use;
	bool ready = false;

	if (unlikely(READ_ONCE(token->incomplete)) &&
	    !io_dmabuf_error_get(&token->error))
		return false;

	guard(rcu)();
	list_for_each_entry_rcu(use, &token->uses, node) {
		if (likely(rcu_access_pointer(use->map)))
			ready = true;
		else if (!io_dmabuf_error_get(&use->error))
			return false;
	}
	return ready;
}
EXPORT_SYMBOL_GPL(io_dmabuf_token_ready);

/**
 * io_dmabuf_map_status - what a request without a map ends with
 * @token:	what the request reads or writes
 * @ddev:	device for which io_dmabuf_map_get() has returned NULL
 *
 * A drive may have several devices, of which some can't have the memory. What
 * can't be mapped isn't asked for again for a second or two, so that a request
 * which comes back to such a device after io_dmabuf_token_prepare() ends.
 *
 * Context: any.
 *
 * Return: BLK_STS_STALE; or the status of why it can't be mapped for @ddev.
 */
blk_status_t io_dmabuf_map_status(struct io_dmabuf_token *token,
				  struct io_dmabuf_device *ddev)
{
	const struct io_dmabuf_error *error = &token->error;
	struct io_dmabuf_use *use;
	bool others = false;
	blk_status_t sts;
	int err;

	guard(rcu)();
	list_for_each_entry_rcu(use, &token->uses, node) {
		if (use->ddev == ddev)
			error = &use->error;
		else if (rcu_access_pointer(use->map))
			others = true;
	}
	err = io_dmabuf_error_get(error);
	/* an error of all is one of io_dmabuf_token_prepare() */
	if (!err || !others)
		return BLK_STS_STALE;

	sts = errno_to_blk_status(err);
	/* what has a request queued again, and is for ever with some */
	if (sts == BLK_STS_RESOURCE || sts == BLK_STS_DEV_RESOURCE ||
	    sts == BLK_STS_AGAIN)
		return BLK_STS_IOERR;
	return sts;
}
EXPORT_SYMBOL_GPL(io_dmabuf_map_status);

/**
 * io_dmabuf_token_match - whether a token is good for I/O on a file
 * @token:	token, the caller has a reference
 * @file:	file that is read or written
 *
 * Context: any.
 *
 * Return: true if @file is the one that the token was made for, or has the same
 * disk: another open file of it, or a partition.
 */
bool io_dmabuf_token_match(const struct io_dmabuf_token *token,
			   struct file *file)
{
	return file == token->file || io_dmabuf_target(file) == token->target;
}
EXPORT_SYMBOL_GPL(io_dmabuf_token_match);

/*
 * Not under dma_resv. With the last reference, nobody is left to have requests.
 * It need not be ready.
 */
static void io_dmabuf_attach_put(struct io_dmabuf_attach *attach)
{
	struct io_dmabuf_device *ddev = attach->ddev;
	struct dma_buf *dmabuf = attach->dmabuf;

	if (!refcount_dec_and_test(&attach->refs))
		return;

	dma_resv_lock(dmabuf->resv, NULL);
	io_dmabuf_unmap(attach, false);
	dma_resv_unlock(dmabuf->resv);
	if (ddev->ops->attach_exit)
		ddev->ops->attach_exit(ddev, attach);
	dma_buf_detach(dmabuf, attach->dba);
	kvfree(attach->segs);

	/* the last that is done with @ddev; io_dmabuf_device_shutdown() waits */
	spin_lock(&ddev->lock);
	list_del(&attach->dev_node);
	wake_up_all(&ddev->wait);
	spin_unlock(&ddev->lock);

	dma_buf_put(dmabuf);
	kfree(attach);
}

/* The reference to use->attach is the caller's from then on. */
static struct io_dmabuf_attach *io_dmabuf_use_del(struct io_dmabuf_use *use)
{
	struct io_dmabuf_attach *attach = use->attach;

	dma_resv_assert_held(attach->dmabuf->resv);

	list_del_rcu(&use->node);
	use->token->nr_uses--;
	list_del(&use->attach_node);
	kfree_rcu(use, rcu);
	return attach;
}

/*
 * The attach that there is, with a reference, or NULL. What has no more
 * references is about to go, what isn't ready may never be.
 *
 * Whether it may be peer to peer, the exporter has decided by the state that the
 * devices were in. One that may not is no reason to refuse others that.
 */
static struct io_dmabuf_attach *
io_dmabuf_attach_find(const struct io_dmabuf_token *token,
		      struct io_dmabuf_device *ddev)
{
	struct io_dmabuf_attach *attach;
	struct dma_buf_attachment *dba;

	dma_resv_assert_held(token->dmabuf->resv);

	/* not ddev->attaches: these are as many as there are dma-bufs */
	list_for_each_entry(dba, &token->dmabuf->attachments, node) {
		if (dba->importer_ops != token->importer_ops)
			continue;
		attach = dba->importer_priv;
		if (attach->ready && attach->ddev == ddev &&
		    attach->dir == token->dir &&
		    (dba->peer2peer || !token->need_p2p) &&
		    refcount_inc_not_zero(&attach->refs))
			return attach;
	}
	return NULL;
}

/* From now on others find it, and io_dmabuf_device_shutdown() as well. */
static int io_dmabuf_attach_list(struct io_dmabuf_attach *attach)
{
	struct io_dmabuf_device *ddev = attach->ddev;

	dma_resv_assert_held(attach->dmabuf->resv);

	guard(spinlock)(&ddev->lock);
	if (ddev->dead)
		return -ENODEV;
	list_add_tail(&attach->dev_node, &ddev->attaches);
	attach->ready = true;
	return 0;
}

/*
 * Whether the device may get a copy of the memory, of which the CPU's accesses
 * know nothing: what exporters do around them copies all of it, and so undoes
 * what another device, or another request, has done.
 */
static bool io_dmabuf_may_bounce(struct device *dev)
{
	return is_swiotlb_force_bounce(dev) || dma_addressing_limited(dev);
}

static struct io_dmabuf_attach *
io_dmabuf_attach_new(const struct io_dmabuf_token *token,
		     struct io_dmabuf_device *ddev)
{
	struct io_dmabuf_attach *attach;
	int ret;

	attach = kzalloc_obj(*attach, GFP_KERNEL_ACCOUNT);
	if (!attach)
		return ERR_PTR(-ENOMEM);
	refcount_set(&attach->refs, 1);
	INIT_LIST_HEAD(&attach->uses);
	INIT_LIST_HEAD(&attach->dev_node);
	attach->dmabuf = token->dmabuf;
	attach->ddev = ddev;
	attach->dir = token->dir;
	attach->dba = dma_buf_dynamic_attach(token->dmabuf, ddev->dev,
					     token->importer_ops, attach);
	if (IS_ERR(attach->dba)) {
		ret = PTR_ERR(attach->dba);
		goto free;
	}
	if (ddev->ops->attach_init) {
		ret = ddev->ops->attach_init(ddev, attach);
		if (ret)
			goto detach;
	}
	get_dma_buf(attach->dmabuf);
	return attach;

detach:
	dma_buf_detach(attach->dmabuf, attach->dba);
free:
	kfree(attach);
	return ERR_PTR(ret);
}

/*
 * Find the attach of a device or make one, and return it with a reference. The
 * exporter may take its time, so there is no lock: who comes second has made it
 * for nothing.
 */
static struct io_dmabuf_attach *
io_dmabuf_attach_get(const struct io_dmabuf_token *token,
		     struct io_dmabuf_device *ddev)
{
	struct dma_resv *resv = token->dmabuf->resv;
	struct io_dmabuf_attach *attach, *new;
	int ret = 0;

	dma_resv_lock(resv, NULL);
	attach = io_dmabuf_attach_find(token, ddev);
	dma_resv_unlock(resv);
	if (attach)
		return attach;

	new = io_dmabuf_attach_new(token, ddev);
	if (IS_ERR(new))
		return new;
	dma_resv_lock(resv, NULL);
	attach = io_dmabuf_attach_find(token, ddev);
	if (!attach)
		ret = io_dmabuf_attach_list(new);
	dma_resv_unlock(resv);
	if (!attach && !ret)
		return new;

	io_dmabuf_attach_put(new);
	return attach ?: ERR_PTR(ret);
}

/* Returns 0 with use->attach NULL if somebody else was faster. */
static int io_dmabuf_use_add(struct io_dmabuf_token *token,
			     struct io_dmabuf_use *use)
{
	struct io_dmabuf_attach *attach = use->attach;
	struct io_dmabuf_use *other;

	dma_resv_assert_held(token->dmabuf->resv);

	list_for_each_entry(other, &token->uses, node) {
		if (other->ddev == use->ddev) {
			use->attach = NULL;
			return 0;
		}
	}
	/* io_dmabuf_device_shutdown() takes dma_resv after it has set it */
	if (READ_ONCE(attach->dead))
		return -ENODEV;
	if (token->nr_uses == IO_DMABUF_MAX_ATTACHES)
		return -EMFILE;
	list_add_tail(&use->attach_node, &attach->uses);
	list_add_tail_rcu(&use->node, &token->uses);
	token->nr_uses++;
	return 0;
}

static int io_dmabuf_use_new(struct io_dmabuf_token *token,
			     struct io_dmabuf_device *ddev)
{
	struct io_dmabuf_attach *attach;
	struct io_dmabuf_use *use;
	int ret;

	use = kzalloc_obj(*use, GFP_KERNEL_ACCOUNT);
	if (!use)
		return -ENOMEM;
	attach = io_dmabuf_attach_get(token, ddev);
	if (IS_ERR(attach)) {
		kfree(use);
		return PTR_ERR(attach);
	}
	use->token = token;
	use->ddev = ddev;
	use->attach = attach;

	/* the exporter clears it if the device can't reach the memory in place */
	ret = -EREMOTEIO;
	if (token->need_p2p && !attach->dba->peer2peer)
		goto put;
	dma_resv_lock(token->dmabuf->resv, NULL);
	ret = io_dmabuf_use_add(token, use);
	dma_resv_unlock(token->dmabuf->resv);
	if (!ret && use->attach)
		return 0;
put:
	io_dmabuf_attach_put(attach);
	kfree(use);
	return ret;
}

/**
 * io_dmabuf_attach_add - let a device do I/O on a dma-buf
 * @token:	token that the driver's create_dmabuf_token operation was given
 * @ddev:	device that may execute requests of the file
 *
 * Does nothing if the device is attached: the operation is called again if a
 * request came to one that wasn't.
 *
 * Tokens of the same dma-buf and the same direction share what is attached and
 * mapped.
 *
 * Context: process, may sleep. Takes dma_resv. The driver keeps @ddev alive during
 * the call.
 *
 * Return: 0; -ENOMEM; -ENODEV if @ddev is shut down; -EMFILE if the token has
 * IO_DMABUF_MAX_ATTACHES already; -EOPNOTSUPP if the driver needs the CPU's
 * access and the exporter has none, or if memory may have to be bounced for the
 * device; -EREMOTEIO if the device can't reach the memory where it is, and was
 * asked to; or why the exporter refuses the device.
 */
int io_dmabuf_attach_add(struct io_dmabuf_token *token,
			 struct io_dmabuf_device *ddev)
{
	struct io_dmabuf_use *use;

	scoped_guard(rcu) {
		list_for_each_entry_rcu(use, &token->uses, node)
			if (use->ddev == ddev)
				return 0;
	}
	/* no exporter has to find out why a CPU can't do DMA to a BAR */
	if (ddev->ops->vmap && !token->dmabuf->ops->vmap)
		return -EOPNOTSUPP;
	if (io_dmabuf_may_bounce(ddev->dev))
		return -EOPNOTSUPP;
	return io_dmabuf_use_new(token, ddev);
}
EXPORT_SYMBOL_GPL(io_dmabuf_attach_add);

/* Requests have references to the token: none is there that could use a map. */
static void io_dmabuf_token_detach(struct io_dmabuf_token *token)
{
	struct dma_resv *resv = token->dmabuf->resv;
	struct io_dmabuf_use *use;

	dma_resv_lock(resv, NULL);
	while ((use = list_first_entry_or_null(&token->uses,
					       struct io_dmabuf_use, node))) {
		struct io_dmabuf_attach *attach = io_dmabuf_use_del(use);

		dma_resv_unlock(resv);
		io_dmabuf_attach_put(attach);
		dma_resv_lock(resv, NULL);
	}
	dma_resv_unlock(resv);
}

/**
 * io_dmabuf_token_put - drop a reference to a token
 * @token:	token
 *
 * With the last one the dma-buf is unmapped, wherever no other token has it
 * mapped, before this returns.
 *
 * Context: process, may sleep. Takes dma_resv, so must not be called under it.
 */
void io_dmabuf_token_put(struct io_dmabuf_token *token)
{
	if (!refcount_dec_and_test(&token->refs))
		return;

	io_dmabuf_token_detach(token);
	dma_buf_put(token->dmabuf);
	fput(token->file);
	kfree(token);
}
EXPORT_SYMBOL_GPL(io_dmabuf_token_put);

/* Do some devices reach the memory of the exporter's, and others don't? */
static bool io_dmabuf_token_mixed(struct io_dmabuf_token *token)
{
	struct dma_resv *resv = token->dmabuf->resv;
	unsigned int nr_p2p = 0, nr = 0;
	struct io_dmabuf_use *use;

	dma_resv_lock(resv, NULL);
	list_for_each_entry(use, &token->uses, node) {
		nr_p2p += use->attach->dba->peer2peer;
		nr++;
	}
	dma_resv_unlock(resv);
	return nr_p2p && nr_p2p < nr;
}

/*
 * Have the driver attach the devices that may serve the file, for a token that
 * nobody knows yet.
 *
 * Exporters that have memory of their own move it there if the device for which
 * they map it reaches it, and to the host's if it doesn't (amdgpu, xe). With one
 * device of each kind it would move for each map, and there would never be two.
 * So all of them get it in the host's memory.
 */
static int io_dmabuf_token_attach(struct io_dmabuf_token *token)
{
	struct file *file = token->file;
	int ret;

	ret = file->f_op->create_dmabuf_token(file, token);
	if (ret || !io_dmabuf_token_mixed(token))
		return ret;
	io_dmabuf_token_detach(token);
	token->importer_ops = &io_dmabuf_importer_host_ops;
	return file->f_op->create_dmabuf_token(file, token);
}

/**
 * io_dmabuf_token_create - make a window of a dma-buf usable for I/O on a file
 * @file:	file, or block device, to read and write
 * @dmabuf:	the memory
 * @dir:	DMA_FROM_DEVICE to only read the file, DMA_TO_DEVICE to only write
 *		it, DMA_BIDIRECTIONAL for both
 * @off:	start of the window, an offset into @dmabuf
 * @len:	length of the window, 0 for all from @off on
 * @flags:	IO_DMABUF_P2P_REQUIRED to fail if the memory isn't that of a
 *		device, now or when it is mapped again
 *
 * Takes references to @file and @dmabuf, the caller keeps his. The dma-buf is
 * mapped when this returns, for all devices that may serve @file now.
 *
 * Context: process, may sleep.
 *
 * Return: the token, to be put with io_dmabuf_token_put(); or -EINVAL if @off
 * isn't a multiple of 4096, if the window isn't within the dma-buf, or if @file
 * isn't open with O_DIRECT; -EOVERFLOW if @off and @len wrap; -EOPNOTSUPP if the
 * file can't do this; or an error of io_dmabuf_attach_add() and
 * io_dmabuf_token_prepare().
 */
struct io_dmabuf_token *io_dmabuf_token_create(struct file *file,
					       struct dma_buf *dmabuf,
					       enum dma_data_direction dir,
					       u64 off, u64 len,
					       unsigned int flags)
{
	struct io_dmabuf_wait wait = {};
	struct io_dmabuf_token *token;
	u64 end;
	int ret;

	if (!file->f_op->create_dmabuf_token)
		return ERR_PTR(-EOPNOTSUPP);
	if (!IS_ALIGNED(off, IO_DMABUF_SEG_ALIGN))
		return ERR_PTR(-EINVAL);
	if (check_add_overflow(off, len, &end))
		return ERR_PTR(-EOVERFLOW);
	if (off >= dmabuf->size || end > dmabuf->size)
		return ERR_PTR(-EINVAL);

	token = kzalloc_obj(*token, GFP_KERNEL_ACCOUNT);
	if (!token)
		return ERR_PTR(-ENOMEM);
	refcount_set(&token->refs, 1);
	INIT_LIST_HEAD(&token->uses);
	get_dma_buf(dmabuf);
	token->dmabuf = dmabuf;
	token->file = get_file(file);
	token->target = io_dmabuf_target(file);
	token->dir = dir;
	token->off = off;
	token->len = len ?: dmabuf->size - off;
	token->need_p2p = flags & IO_DMABUF_P2P_REQUIRED;
	token->importer_ops = &io_dmabuf_importer_ops;

	ret = io_dmabuf_token_attach(token);
	if (!ret) {
		/* others may have mapped it long ago */
		io_dmabuf_wait_start(&wait.end);
		ret = io_dmabuf_token_prepare(token, &wait);
	}
	if (ret) {
		io_dmabuf_token_put(token);
		return ERR_PTR(ret);
	}
	token->live = true;
	return token;
}
EXPORT_SYMBOL_GPL(io_dmabuf_token_create);

static void io_dmabuf_map_sync(struct io_dmabuf_map *map, u64 off, size_t len,
			       enum dma_data_direction dir, bool for_device)
{
	const struct io_dmabuf_seg *seg = io_dmabuf_map_find(map, off);
	struct device *dev = map->attach->ddev->dev;

	while (len) {
		size_t n = min_t(u64, len, seg[1].off - off);
		dma_addr_t addr = seg->addr + (off - seg->off);

		if (for_device)
			dma_sync_single_for_device(dev, addr, n, dir);
		else
			dma_sync_single_for_cpu(dev, addr, n, dir);
		off += n;
		len -= n;
		seg++;
	}
}

/**
 * io_dmabuf_map_sync_for_device - give a part of a dma-buf to the device
 * @map:	map with @need_sync
 * @off:	offset into the dma-buf
 * @len:	length in bytes
 * @dir:	what the device is going to do
 *
 * Exporters needn't do that: some leave out all cache maintenance, and none
 * knows when a bounce buffer has to be copied.
 *
 * Context: any that may use @map.
 */
void io_dmabuf_map_sync_for_device(struct io_dmabuf_map *map, u64 off,
				   size_t len, enum dma_data_direction dir)
{
	io_dmabuf_map_sync(map, off, len, dir, true);
}
EXPORT_SYMBOL_GPL(io_dmabuf_map_sync_for_device);

/**
 * io_dmabuf_map_sync_for_cpu - take a part of a dma-buf back from the device
 * @map:	map with @need_sync
 * @off:	offset into the dma-buf
 * @len:	length in bytes
 * @dir:	what the device has done
 *
 * Context: any that may use @map, also interrupts.
 */
void io_dmabuf_map_sync_for_cpu(struct io_dmabuf_map *map, u64 off,
				size_t len, enum dma_data_direction dir)
{
	io_dmabuf_map_sync(map, off, len, dir, false);
}
EXPORT_SYMBOL_GPL(io_dmabuf_map_sync_for_cpu);

/**
 * io_dmabuf_device_init - set up a device that does I/O on dma-bufs
 * @ddev:	to be set up, embedded in the driver's structure
 * @dev:	the device that does DMA
 * @ops:	the driver
 *
 * Context: any.
 */
void io_dmabuf_device_init(struct io_dmabuf_device *ddev, struct device *dev,
			   const struct io_dmabuf_device_ops *ops)
{
	ddev->dev = dev;
	ddev->ops = ops;
	ddev->dead = false;
	spin_lock_init(&ddev->lock);
	INIT_LIST_HEAD(&ddev->attaches);
	init_waitqueue_head(&ddev->wait);
}
EXPORT_SYMBOL_GPL(io_dmabuf_device_init);

/*
 * Somebody else puts the last reference to an attach, and takes it off the list.
 * He needs the lock for it, and so can't have woken us up yet.
 */
static void io_dmabuf_device_wait(struct io_dmabuf_device *ddev)
{
	DEFINE_WAIT(wait);

	lockdep_assert_held(&ddev->lock);

	prepare_to_wait(&ddev->wait, &wait, TASK_UNINTERRUPTIBLE);
	spin_unlock(&ddev->lock);
	schedule();
	finish_wait(&ddev->wait, &wait);
	spin_lock(&ddev->lock);
}

static struct io_dmabuf_attach *
io_dmabuf_device_next(struct io_dmabuf_device *ddev)
{
	struct io_dmabuf_attach *attach;

	lockdep_assert_held(&ddev->lock);

	list_for_each_entry(attach, &ddev->attaches, dev_node) {
		if (!attach->dead && refcount_inc_not_zero(&attach->refs)) {
			WRITE_ONCE(attach->dead, true);
			return attach;
		}
	}
	return NULL;
}

static void io_dmabuf_attach_kill(struct io_dmabuf_attach *attach)
{
	struct dma_resv *resv = attach->dmabuf->resv;
	struct io_dmabuf_use *use, *next;

	dma_resv_lock(resv, NULL);
	io_dmabuf_unmap(attach, true);
	list_for_each_entry_safe(use, next, &attach->uses, attach_node) {
		io_dmabuf_use_del(use);
		/* there is another one */
		refcount_dec(&attach->refs);
	}
	dma_resv_unlock(resv);
	io_dmabuf_attach_put(attach);
}

/**
 * io_dmabuf_device_shutdown - take a device off all tokens
 * @ddev:	device that goes away
 *
 * When this returns, nothing is mapped for the device, and nothing refers to
 * @ddev. It can be used again after io_dmabuf_device_init() only.
 *
 * Context: process, may sleep: the device still completes, or has canceled, what
 * it was given. Takes dma_resv.
 */
void io_dmabuf_device_shutdown(struct io_dmabuf_device *ddev)
{
	struct io_dmabuf_attach *attach;

	spin_lock(&ddev->lock);
	ddev->dead = true;
	while (!list_empty(&ddev->attaches)) {
		attach = io_dmabuf_device_next(ddev);
		if (!attach) {
			io_dmabuf_device_wait(ddev);
			continue;
		}
		spin_unlock(&ddev->lock);
		io_dmabuf_attach_kill(attach);
		spin_lock(&ddev->lock);
	}
	spin_unlock(&ddev->lock);
}
EXPORT_SYMBOL_GPL(io_dmabuf_device_shutdown);
