// SPDX-License-Identifier: GPL-2.0
/*
 * A dma-buf exporter for tests of importers.
 *
 * Its memory is the host's, in segments as they are asked for. It moves when it
 * is told to, or goes for good; to map it can be slow, or fail; and what is
 * mapped can be wrong. The old memory of a move is kept for a while, full of a
 * pattern, to find out about devices that still write to it. What has to be
 * larger than the host's memory is a little of it, again and again.
 *
 * Copyright (C) 2026 The uring-offload authors
 */
#include <linux/cleanup.h>
#include <linux/delay.h>
#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/iosys-map.h>
#include <linux/kref.h>
#include <linux/ktime.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/overflow.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include "test_dmabuf_uapi.h"

#define TDB_FLAGS	(TEST_DMABUF_RDONLY | TEST_DMABUF_STATIC | \
			 TEST_DMABUF_NO_VMAP | TEST_DMABUF_NO_P2P | \
			 TEST_DMABUF_LONG | TEST_DMABUF_SHORT | \
			 TEST_DMABUF_UNALIGNED | TEST_DMABUF_DEVICE | \
			 TEST_DMABUF_FOLLOWS)
/* how many moves the old memory is kept for */
#define TDB_KEEP	4

/* A contiguous piece of memory, followed by a guard page */
struct tdb_seg {
	void			*addr;
	unsigned int		nr_pages;
};

/* Where a dma-buf has been between two moves */
struct tdb_mem {
	struct kref		ref;
	struct list_head	node;
	struct page		**pages;
	void			*vaddr;
	unsigned int		nr_segs;
	struct tdb_seg		segs[] __counted_by(nr_segs);
};

/* @sgt is what importers see, and if @repeats of what the DMA API made of @once */
struct tdb_map {
	struct sg_table		sgt;
	struct sg_table		once;
	bool			repeats;
	struct list_head	node;
	struct tdb_mem		*mem;
	struct device		*dev;
	enum dma_data_direction	dir;
	bool			no_pages;
};

/**
 * struct tdb - a dma-buf
 * @dmabuf:	as others see it
 * @ops:	what it can do
 * @flags:	TEST_DMABUF_*
 * @attach_errno: what to refuse devices with
 * @nr_pages:	its size, or that of what repeats
 * @repeats:	it is larger than that
 * @sizes:	pages of each segment, used in turn
 * @nr_sizes:	number of them
 * @mem:	where it is, NULL once revoked. From here on: under dma_resv
 * @old:	where it has been, latest first
 * @nr_old:	number of them
 * @maps:	what it is mapped for now
 * @pins:	how often it is pinned
 * @elsewhere:	TEST_DMABUF_FOLLOWS: it is where not all devices reach it in place
 * @faults:	what goes wrong from now on
 * @stats:	counters
 * @lost:	bytes of the pattern that were overwritten
 * @arrive:	takes the data from @old to @mem, and signals @fence
 * @fence:	the data isn't there yet. Nothing moves before it is
 * @fence_context: of @fence, together with @fence_seqno
 * @fence_seqno: number of fences so far
 */
struct tdb {
	struct dma_buf			*dmabuf;
	struct dma_buf_ops		ops;
	u32				flags;
	u32				attach_errno;
	unsigned int			nr_pages;
	bool				repeats;
	u32				sizes[TEST_DMABUF_MAX_SEGS];
	unsigned int			nr_sizes;

	struct tdb_mem			*mem;
	struct list_head		old;
	unsigned int			nr_old;
	struct list_head		maps;
	unsigned int			pins;
	bool				elsewhere;
	struct test_dmabuf_faults	faults;
	struct test_dmabuf_stats	stats;
	u64				lost;

	struct delayed_work		arrive;
	struct dma_fence		*fence;
	u64				fence_context;
	u64				fence_seqno;
};

static size_t tdb_size(const struct tdb *tdb)
{
	return (size_t)tdb->nr_pages << PAGE_SHIFT;
}

static size_t tdb_seg_size(const struct tdb_seg *seg)
{
	return (size_t)seg->nr_pages << PAGE_SHIFT;
}

static void tdb_mem_free(struct kref *ref)
{
	struct tdb_mem *mem = container_of(ref, struct tdb_mem, ref);
	unsigned int i;

	vunmap(mem->vaddr);
	for (i = 0; i < mem->nr_segs; i++)
		if (mem->segs[i].addr)
			free_pages_exact(mem->segs[i].addr,
					 tdb_seg_size(&mem->segs[i]) +
					 PAGE_SIZE);
	kvfree(mem->pages);
	kvfree(mem);
}

static void tdb_mem_put(struct tdb_mem *mem)
{
	kref_put(&mem->ref, tdb_mem_free);
}

/* Memory full of the pattern */
static struct tdb_mem *tdb_mem_alloc(const struct tdb *tdb)
{
	unsigned int i, j, pages, nr_segs = 0, nr_pages = 0;
	struct tdb_mem *mem;

	for (pages = 0; pages < tdb->nr_pages; nr_segs++)
		pages += tdb->sizes[nr_segs % tdb->nr_sizes];

	mem = kvzalloc_flex(*mem, segs, nr_segs, GFP_KERNEL_ACCOUNT);
	if (!mem)
		return NULL;
	mem->nr_segs = nr_segs;
	kref_init(&mem->ref);
	INIT_LIST_HEAD(&mem->node);
	mem->pages = kvmalloc_objs(*mem->pages, tdb->nr_pages,
				   GFP_KERNEL_ACCOUNT);
	if (!mem->pages)
		goto put;

	for (i = 0; i < nr_segs; i++) {
		struct tdb_seg *seg = &mem->segs[i];
		size_t size;

		seg->nr_pages = min(tdb->sizes[i % tdb->nr_sizes],
				    tdb->nr_pages - nr_pages);
		size = tdb_seg_size(seg) + PAGE_SIZE;
		seg->addr = alloc_pages_exact(size, GFP_KERNEL_ACCOUNT |
						    __GFP_NOWARN);
		if (!seg->addr)
			goto put;
		memset(seg->addr, TEST_DMABUF_POISON, size);
		for (j = 0; j < seg->nr_pages; j++)
			mem->pages[nr_pages++] =
				virt_to_page(seg->addr + j * PAGE_SIZE);
	}
	/* now: dma_buf_vmap() complains if there is no memory for it */
	mem->vaddr = vmap(mem->pages, nr_pages, VM_MAP, PAGE_KERNEL);
	if (!mem->vaddr)
		goto put;
	return mem;

put:
	tdb_mem_put(mem);
	return NULL;
}

static u64 tdb_lost(void *addr, size_t len)
{
	void *end = addr + len;
	u64 lost = 0;

	while ((addr = memchr_inv(addr, TEST_DMABUF_POISON, end - addr))) {
		*(u8 *)addr++ = TEST_DMABUF_POISON;
		lost++;
	}
	return lost;
}

/* Bytes that were written to guard pages, and to the rest if nobody may */
static u64 tdb_mem_lost(struct tdb_mem *mem, bool is_old)
{
	unsigned int i;
	u64 lost = 0;

	for (i = 0; i < mem->nr_segs; i++) {
		struct tdb_seg *seg = &mem->segs[i];
		size_t size = tdb_seg_size(seg);

		if (is_old)
			lost += tdb_lost(seg->addr, size);
		lost += tdb_lost(seg->addr + size, PAGE_SIZE);
	}
	return lost;
}

static int tdb_attach(struct dma_buf *dmabuf, struct dma_buf_attachment *dba)
{
	struct tdb *tdb = dmabuf->priv;

	if (tdb->attach_errno)
		return -(int)tdb->attach_errno;
	if (tdb->flags & TEST_DMABUF_NO_P2P)
		dba->peer2peer = false;

	dma_resv_lock(dmabuf->resv, NULL);
	if ((tdb->flags & TEST_DMABUF_FOLLOWS) && tdb->stats.attaches & 1)
		dba->peer2peer = false;
	tdb->stats.attaches++;
	dma_resv_unlock(dmabuf->resv);
	return 0;
}

static void tdb_detach(struct dma_buf *dmabuf, struct dma_buf_attachment *dba)
{
	struct tdb *tdb = dmabuf->priv;

	dma_resv_lock(dmabuf->resv, NULL);
	tdb->stats.detaches++;
	dma_resv_unlock(dmabuf->resv);
}

static int tdb_pin(struct dma_buf_attachment *dba)
{
	struct tdb *tdb = dba->dmabuf->priv;

	dma_resv_assert_held(dba->dmabuf->resv);

	if (!tdb->mem)
		return -ENODEV;
	tdb->pins++;
	return 0;
}

static void tdb_unpin(struct dma_buf_attachment *dba)
{
	struct tdb *tdb = dba->dmabuf->priv;

	dma_resv_assert_held(dba->dmabuf->resv);

	tdb->pins--;
}

static int tdb_map_fault(struct tdb *tdb, enum dma_data_direction dir)
{
	if (tdb->faults.map_delay_ms &&
	    msleep_interruptible(tdb->faults.map_delay_ms))
		return -EINTR;
	if (tdb->faults.fail_maps) {
		tdb->faults.fail_maps--;
		return -(int)tdb->faults.map_errno;
	}
	if (!tdb->mem)
		return -ENODEV;
	if ((tdb->flags & TEST_DMABUF_RDONLY) && dir != DMA_TO_DEVICE)
		return -EACCES;
	return 0;
}

/* Make what is mapped wrong, or right again */
static void tdb_map_lie(struct tdb *tdb, struct sg_table *sgt, int sign)
{
	struct scatterlist *sg, *last = sgt->sgl;
	int i;

	for_each_sgtable_dma_sg(sgt, sg, i)
		last = sg;
	if (tdb->flags & TEST_DMABUF_LONG)
		sg_dma_len(last) += sign * PAGE_SIZE;
	if (tdb->flags & TEST_DMABUF_SHORT)
		sg_dma_len(last) -= sign * PAGE_SIZE;
	if (tdb->flags & TEST_DMABUF_UNALIGNED)
		sg_dma_address(sgt->sgl) += sign * 512;
}

/* Take the pages off a table, or put them back for the DMA API */
static void tdb_map_pages(struct tdb_map *map, bool put)
{
	struct tdb_mem *mem = map->mem;
	struct scatterlist *sg;
	int i;

	for_each_sgtable_sg(&map->sgt, sg, i) {
		if (put)
			sg_set_buf(sg, mem->segs[i].addr,
				   tdb_seg_size(&mem->segs[i]));
		else
			sg_set_page(sg, NULL, tdb_seg_size(&mem->segs[i]), 0);
	}
}

static struct sg_table *tdb_map_sgt(struct tdb_map *map)
{
	return map->repeats ? &map->once : &map->sgt;
}

/* The mapping of all of the memory, again and again: segments, or just count */
static unsigned int tdb_map_repeat(struct tdb *tdb, struct tdb_map *map,
				   struct scatterlist *to)
{
	size_t size = tdb->dmabuf->size, off = 0;
	struct scatterlist *sg;
	unsigned int nr = 0;
	int i;

	while (off < size) {
		for_each_sgtable_dma_sg(&map->once, sg, i) {
			unsigned int len = min_t(size_t, sg_dma_len(sg),
						 size - off);

			if (!len)
				break;
			if (to) {
				sg_set_page(to, sg_page(map->once.sgl), len, 0);
				sg_dma_address(to) = sg_dma_address(sg);
				sg_dma_len(to) = len;
				to = sg_next(to);
			}
			off += len;
			nr++;
		}
		cond_resched();
	}
	return nr;
}

static int tdb_map_mem(struct tdb *tdb, struct tdb_map *map)
{
	struct tdb_mem *mem = tdb->mem;
	struct sg_table *sgt;
	struct scatterlist *sg;
	int i, ret;

	map->repeats = tdb->repeats;
	sgt = tdb_map_sgt(map);
	ret = sg_alloc_table(sgt, mem->nr_segs, GFP_KERNEL_ACCOUNT);
	if (ret)
		return ret;
	for_each_sgtable_sg(sgt, sg, i)
		sg_set_buf(sg, mem->segs[i].addr, tdb_seg_size(&mem->segs[i]));
	ret = dma_map_sgtable(map->dev, sgt, map->dir, 0);
	if (ret) {
		sg_free_table(sgt);
		return ret;
	}
	if (map->repeats) {
		/* not accounted: a cgroup's limit is for what importers need */
		ret = sg_alloc_table(&map->sgt, tdb_map_repeat(tdb, map, NULL),
				     GFP_KERNEL);
		if (ret) {
			dma_unmap_sgtable(map->dev, sgt, map->dir, 0);
			sg_free_table(sgt);
			return ret;
		}
		tdb_map_repeat(tdb, map, map->sgt.sgl);
	}
	kref_get(&mem->ref);
	map->mem = mem;
	map->no_pages = (tdb->flags & TEST_DMABUF_DEVICE) && !tdb->faults.host;
	if (map->no_pages)
		tdb_map_pages(map, false);
	return 0;
}

/* Have importers give it back: nobody else knows where it is, then. */
static int tdb_invalidate(struct tdb *tdb)
{
	struct dma_buf *dmabuf = tdb->dmabuf;

	if (!tdb->mem)
		return -ENODEV;
	if (tdb->pins)
		return -EBUSY;
	dma_buf_invalidate_mappings(dmabuf);
	dma_resv_wait_timeout(dmabuf->resv, DMA_RESV_USAGE_BOOKKEEP, false,
			      MAX_SCHEDULE_TIMEOUT);
	if (dmabuf->vmapping_counter)
		return -EBUSY;
	unmap_mapping_range(dmabuf->file->f_mapping, 0, 0, 1);
	return 0;
}

/* The memory itself stays, importers don't know that */
static int tdb_follow(struct tdb *tdb, struct dma_buf_attachment *dba)
{
	int ret;

	if (!(tdb->flags & TEST_DMABUF_FOLLOWS) ||
	    dba->peer2peer != tdb->elsewhere)
		return 0;
	ret = tdb_invalidate(tdb);
	if (ret)
		return ret;
	tdb->elsewhere = !dba->peer2peer;
	tdb->stats.moves++;
	return 0;
}

static struct tdb_map *tdb_map_new(struct dma_buf_attachment *dba,
				   enum dma_data_direction dir)
{
	struct tdb *tdb = dba->dmabuf->priv;
	struct tdb_map *map;
	int ret;

	ret = tdb_map_fault(tdb, dir) ?: tdb_follow(tdb, dba);
	if (ret)
		return ERR_PTR(ret);
	map = kzalloc_obj(*map, GFP_KERNEL_ACCOUNT);
	if (!map)
		return ERR_PTR(-ENOMEM);
	map->dev = dba->dev;
	map->dir = dir;
	ret = tdb_map_mem(tdb, map);
	if (ret) {
		kfree(map);
		return ERR_PTR(ret);
	}
	return map;
}

static struct sg_table *tdb_map(struct dma_buf_attachment *dba,
				enum dma_data_direction dir)
{
	struct tdb *tdb = dba->dmabuf->priv;
	struct tdb_map *map;

	dma_resv_assert_held(dba->dmabuf->resv);

	map = tdb_map_new(dba, dir);
	if (IS_ERR(map)) {
		tdb->stats.map_errors++;
		return ERR_CAST(map);
	}
	list_add_tail(&map->node, &tdb->maps);
	tdb->stats.maps++;
	tdb_map_lie(tdb, &map->sgt, 1);
	return &map->sgt;
}

static void tdb_unmap(struct dma_buf_attachment *dba, struct sg_table *sgt,
		      enum dma_data_direction dir)
{
	struct tdb_map *map = container_of(sgt, struct tdb_map, sgt);
	struct tdb *tdb = dba->dmabuf->priv;

	dma_resv_assert_held(dba->dmabuf->resv);

	if (tdb->faults.unmap_delay_ms)
		msleep(tdb->faults.unmap_delay_ms);
	tdb_map_lie(tdb, sgt, -1);
	list_del(&map->node);
	if (map->no_pages)
		tdb_map_pages(map, true);
	dma_unmap_sgtable(map->dev, tdb_map_sgt(map), map->dir, 0);
	if (map->repeats)
		sg_free_table(&map->once);
	sg_free_table(sgt);
	tdb_mem_put(map->mem);
	kfree(map);
	tdb->stats.unmaps++;
}

static int tdb_begin_cpu_access(struct dma_buf *dmabuf,
				enum dma_data_direction dir)
{
	struct tdb *tdb = dmabuf->priv;
	struct tdb_map *map;

	dma_resv_lock(dmabuf->resv, NULL);
	list_for_each_entry(map, &tdb->maps, node)
		if (!map->no_pages)
			dma_sync_sgtable_for_cpu(map->dev, tdb_map_sgt(map),
						 map->dir);
	dma_resv_unlock(dmabuf->resv);
	return 0;
}

static int tdb_end_cpu_access(struct dma_buf *dmabuf,
			      enum dma_data_direction dir)
{
	struct tdb *tdb = dmabuf->priv;
	struct tdb_map *map;

	dma_resv_lock(dmabuf->resv, NULL);
	list_for_each_entry(map, &tdb->maps, node)
		if (!map->no_pages)
			dma_sync_sgtable_for_device(map->dev, tdb_map_sgt(map),
						    map->dir);
	dma_resv_unlock(dmabuf->resv);
	return 0;
}

static int tdb_lock_unready(struct dma_buf *dmabuf)
{
	int ret = dma_resv_lock_interruptible(dmabuf->resv, NULL);

	return ret == -EINTR ? -ERESTARTSYS : ret;
}

/* Wait until the data is there. -ENODEV if it never will be. */
static int tdb_lock(struct dma_buf *dmabuf)
{
	struct tdb *tdb = dmabuf->priv;
	long ret;

	ret = tdb_lock_unready(dmabuf);
	if (ret)
		return ret;
	ret = dma_resv_wait_timeout(dmabuf->resv, DMA_RESV_USAGE_KERNEL, true,
				    MAX_SCHEDULE_TIMEOUT);
	if (ret > 0)
		ret = tdb->mem ? 0 : -ENODEV;
	if (ret)
		dma_resv_unlock(dmabuf->resv);
	return ret;
}

static vm_fault_t tdb_fault(struct vm_fault *vmf)
{
	struct dma_buf *dmabuf = vmf->vma->vm_private_data;
	struct tdb *tdb = dmabuf->priv;
	vm_fault_t ret = VM_FAULT_SIGBUS;
	int err;

	err = tdb_lock(dmabuf);
	if (err)
		/* a signal is handled first, then it comes again */
		return err == -ENODEV ? VM_FAULT_SIGBUS : VM_FAULT_NOPAGE;
	if (vmf->pgoff < tdb->nr_pages)
		ret = vmf_insert_pfn(vmf->vma, vmf->address,
				     page_to_pfn(tdb->mem->pages[vmf->pgoff]));
	dma_resv_unlock(dmabuf->resv);
	return ret;
}

static const struct vm_operations_struct tdb_vm_ops = {
	.fault	= tdb_fault,
};

static int tdb_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	if (!(vma->vm_flags & (VM_SHARED | VM_MAYSHARE)))
		return -EINVAL;

	vma->vm_ops = &tdb_vm_ops;
	vma->vm_private_data = dmabuf;
	vm_flags_set(vma, VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP);
	return 0;
}

static int tdb_vmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	struct tdb *tdb = dmabuf->priv;

	dma_resv_assert_held(dmabuf->resv);

	if (!tdb->mem)
		return -ENODEV;
	iosys_map_set_vaddr(map, tdb->mem->vaddr);
	return 0;
}

static void tdb_free(struct tdb *tdb)
{
	struct tdb_mem *mem, *next;

	list_for_each_entry_safe(mem, next, &tdb->old, node)
		tdb_mem_put(mem);
	if (tdb->mem)
		tdb_mem_put(tdb->mem);
	kfree(tdb);
}

static void tdb_release(struct dma_buf *dmabuf)
{
	struct tdb *tdb = dmabuf->priv;

	flush_delayed_work(&tdb->arrive);
	tdb_free(tdb);
}

static const struct dma_buf_ops tdb_ops = {
	.attach			= tdb_attach,
	.detach			= tdb_detach,
	.pin			= tdb_pin,
	.unpin			= tdb_unpin,
	.map_dma_buf		= tdb_map,
	.unmap_dma_buf		= tdb_unmap,
	.release		= tdb_release,
	.begin_cpu_access	= tdb_begin_cpu_access,
	.end_cpu_access		= tdb_end_cpu_access,
	.mmap			= tdb_mmap,
	.vmap			= tdb_vmap,
};

static const char *tdb_fence_name(struct dma_fence *fence)
{
	return "test_dmabuf";
}

static const struct dma_fence_ops tdb_fence_ops = {
	.get_driver_name	= tdb_fence_name,
	.get_timeline_name	= tdb_fence_name,
};

/*
 * The data of the last move arrives. Not under dma_resv: who has that may wait
 * for the fence.
 */
static void tdb_arrive(struct work_struct *work)
{
	struct tdb *tdb = container_of(to_delayed_work(work), struct tdb,
				       arrive);
	struct tdb_mem *old = list_first_entry(&tdb->old, struct tdb_mem, node);
	struct dma_fence *fence = tdb->fence;
	bool cookie;

	cookie = dma_fence_begin_signalling();
	memcpy(tdb->mem->vaddr, old->vaddr, tdb_size(tdb));
	memset(old->vaddr, TEST_DMABUF_POISON, tdb_size(tdb));
	/* from here on it may move again */
	dma_fence_signal(fence);
	dma_fence_end_signalling(cookie);
	dma_fence_put(fence);
}

static void tdb_old_add(struct tdb *tdb, struct tdb_mem *mem)
{
	list_add(&mem->node, &tdb->old);
	if (tdb->nr_old < TDB_KEEP) {
		tdb->nr_old++;
		return;
	}
	mem = list_last_entry(&tdb->old, struct tdb_mem, node);
	list_del(&mem->node);
	tdb->lost += tdb_mem_lost(mem, true);
	tdb_mem_put(mem);
}

static void tdb_fence_add(struct tdb *tdb, struct dma_fence *fence,
			  unsigned int ms)
{
	dma_fence_init(fence, &tdb_fence_ops, NULL, tdb->fence_context,
		       ++tdb->fence_seqno);
	tdb->fence = dma_fence_get(fence);
	dma_resv_add_fence(tdb->dmabuf->resv, fence, DMA_RESV_USAGE_KERNEL);
	dma_fence_put(fence);
	queue_delayed_work(system_dfl_wq, &tdb->arrive, msecs_to_jiffies(ms));
}

/*
 * Takes @mem and @fence, which both may be NULL, if it succeeds. It may move
 * once it has, before this returns.
 */
static int tdb_replace(struct tdb *tdb, struct tdb_mem *mem,
		       struct dma_fence *fence, struct test_dmabuf_move *move)
{
	struct dma_resv *resv = tdb->dmabuf->resv;
	u64 start = ktime_get_ns();
	struct tdb_mem *old;
	int ret;

	ret = tdb_lock_unready(tdb->dmabuf);
	if (ret)
		return ret;
	move->lock_ns = ktime_get_ns() - start;

	if (fence) {
		ret = dma_resv_reserve_fences(resv, 1);
		if (ret)
			goto unlock;
	}
	start = ktime_get_ns();
	ret = tdb_invalidate(tdb);
	if (ret)
		goto unlock;
	move->invalidate_ns = ktime_get_ns() - start;

	old = tdb->mem;
	tdb->mem = mem;
	tdb->stats.moves++;
	tdb_old_add(tdb, old);
	if (fence) {
		tdb_fence_add(tdb, fence, move->fence_ms);
	} else {
		if (mem)
			memcpy(mem->vaddr, old->vaddr, tdb_size(tdb));
		memset(old->vaddr, TEST_DMABUF_POISON, tdb_size(tdb));
	}
unlock:
	dma_resv_unlock(resv);
	return ret;
}

static int tdb_move(struct tdb *tdb, struct test_dmabuf_move *move)
{
	struct dma_fence *fence = NULL;
	struct tdb_mem *mem;
	int ret = -ENOMEM;

	if (move->fence_ms > TEST_DMABUF_MAX_DELAY)
		return -EINVAL;
	if (tdb->flags & TEST_DMABUF_STATIC)
		return -EOPNOTSUPP;

	mem = tdb_mem_alloc(tdb);
	if (!mem)
		return -ENOMEM;
	if (move->fence_ms) {
		fence = kzalloc_obj(*fence, GFP_KERNEL_ACCOUNT);
		if (!fence)
			goto put;
	}
	ret = tdb_replace(tdb, mem, fence, move);
	if (!ret)
		return 0;
	kfree(fence);
put:
	tdb_mem_put(mem);
	return ret;
}

static int tdb_revoke(struct tdb *tdb, struct test_dmabuf_move *move)
{
	if (move->fence_ms)
		return -EINVAL;
	if (tdb->flags & TEST_DMABUF_STATIC)
		return -EOPNOTSUPP;
	return tdb_replace(tdb, NULL, NULL, move);
}

static int tdb_set_faults(struct tdb *tdb,
			  const struct test_dmabuf_faults *faults)
{
	if (faults->host > 1 || faults->map_errno > MAX_ERRNO ||
	    (faults->fail_maps && !faults->map_errno) ||
	    faults->map_delay_ms > TEST_DMABUF_MAX_DELAY ||
	    faults->unmap_delay_ms > TEST_DMABUF_MAX_DELAY)
		return -EINVAL;

	dma_resv_lock(tdb->dmabuf->resv, NULL);
	tdb->faults = *faults;
	dma_resv_unlock(tdb->dmabuf->resv);
	return 0;
}

/* By way of a bounce buffer: no page faults under dma_resv. */
static int tdb_rw_page(struct tdb *tdb, u64 off, void *bounce, size_t len,
		       bool is_write)
{
	int ret;

	ret = tdb_lock(tdb->dmabuf);
	if (ret)
		return ret;
	if (is_write)
		memcpy(tdb->mem->vaddr + off, bounce, len);
	else
		memcpy(bounce, tdb->mem->vaddr + off, len);
	dma_resv_unlock(tdb->dmabuf->resv);
	return 0;
}

static int tdb_rw_user(struct tdb *tdb, const struct test_dmabuf_rw *rw,
		       void *bounce, bool is_write)
{
	void __user *addr = u64_to_user_ptr(rw->addr);
	u64 off, end = rw->off + rw->len;
	size_t len;
	int ret;

	for (off = rw->off; off < end; off += len, addr += len) {
		len = min(end - off, PAGE_SIZE - offset_in_page(off));
		if (is_write && copy_from_user(bounce, addr, len))
			return -EFAULT;
		ret = tdb_rw_page(tdb, off, bounce, len, is_write);
		if (ret)
			return ret;
		if (!is_write && copy_to_user(addr, bounce, len))
			return -EFAULT;
		cond_resched();
	}
	return 0;
}

static int tdb_rw(struct tdb *tdb, const struct test_dmabuf_rw *rw,
		  bool is_write)
{
	enum dma_data_direction dir = is_write ? DMA_TO_DEVICE :
						 DMA_FROM_DEVICE;
	void *bounce __free(kfree) = NULL;
	u64 end;
	int ret, end_ret;

	if (rw->pad)
		return -EINVAL;
	if (check_add_overflow(rw->off, rw->len, &end) ||
	    end > tdb_size(tdb))
		return -EFAULT;

	bounce = kmalloc(PAGE_SIZE, GFP_KERNEL_ACCOUNT);
	if (!bounce)
		return -ENOMEM;
	ret = dma_buf_begin_cpu_access(tdb->dmabuf, dir);
	if (ret)
		return ret;
	ret = tdb_rw_user(tdb, rw, bounce, is_write);
	end_ret = dma_buf_end_cpu_access(tdb->dmabuf, dir);
	return ret ?: end_ret;
}

static int tdb_get_stats(struct tdb *tdb, struct test_dmabuf_stats *stats)
{
	int fd = stats->fd;

	if (stats->pad)
		return -EINVAL;

	/* not under dma_resv, for it is of interest what goes on under that */
	*stats = data_race(tdb->stats);
	stats->fd = fd;
	return 0;
}

static int tdb_check(struct tdb *tdb, struct test_dmabuf_check *check)
{
	struct tdb_mem *mem;
	int ret;

	if (check->pad)
		return -EINVAL;

	/* revoked is fine: there is more to look at */
	ret = tdb_lock(tdb->dmabuf);
	if (ret == -ENODEV)
		dma_resv_lock(tdb->dmabuf->resv, NULL);
	else if (ret)
		return ret;
	if (tdb->mem)
		tdb->lost += tdb_mem_lost(tdb->mem, false);
	list_for_each_entry(mem, &tdb->old, node)
		tdb->lost += tdb_mem_lost(mem, true);
	check->lost = tdb->lost;
	dma_resv_unlock(tdb->dmabuf->resv);
	return 0;
}

static bool tdb_create_valid(const struct test_dmabuf_create *create)
{
	u64 max_size = TEST_DMABUF_MAX_SIZE;
	unsigned int i;

	if (create->pages) {
		if ((u64)create->pages << PAGE_SHIFT > max_size ||
		    (create->flags & TEST_DMABUF_DEVICE))
			return false;
		max_size = min_t(u64, TEST_DMABUF_MAX_REPEAT, SIZE_MAX);
	}
	if (!create->size || create->size > max_size || create->pad ||
	    !PAGE_ALIGNED(create->size) || (create->flags & ~TDB_FLAGS) ||
	    create->attach_errno > MAX_ERRNO || !create->nr_segs ||
	    create->nr_segs > TEST_DMABUF_MAX_SEGS)
		return false;
	/* each has a guard page */
	for (i = 0; i < create->nr_segs; i++)
		if (!create->segs[i] || create->segs[i] >= MAX_ORDER_NR_PAGES)
			return false;
	return true;
}

static struct tdb *tdb_new(const struct test_dmabuf_create *create)
{
	struct tdb *tdb;

	tdb = kzalloc_obj(*tdb, GFP_KERNEL_ACCOUNT);
	if (!tdb)
		return ERR_PTR(-ENOMEM);
	tdb->flags = create->flags;
	tdb->attach_errno = create->attach_errno;
	tdb->repeats = create->pages;
	tdb->nr_pages = create->pages ?: create->size >> PAGE_SHIFT;
	tdb->nr_sizes = create->nr_segs;
	memcpy(tdb->sizes, create->segs, sizeof(tdb->sizes));
	INIT_LIST_HEAD(&tdb->old);
	INIT_LIST_HEAD(&tdb->maps);
	INIT_DELAYED_WORK(&tdb->arrive, tdb_arrive);
	tdb->fence_context = dma_fence_context_alloc(1);

	tdb->ops = tdb_ops;
	if (create->flags & TEST_DMABUF_STATIC) {
		tdb->ops.pin = NULL;
		tdb->ops.unpin = NULL;
	}
	if ((create->flags & TEST_DMABUF_NO_VMAP) || create->pages)
		tdb->ops.vmap = NULL;

	tdb->mem = tdb_mem_alloc(tdb);
	if (!tdb->mem) {
		kfree(tdb);
		return ERR_PTR(-ENOMEM);
	}
	memset(tdb->mem->vaddr, 0, tdb_size(tdb));
	return tdb;
}

static struct dma_buf *tdb_export(const struct test_dmabuf_create *create)
{
	DEFINE_DMA_BUF_EXPORT_INFO(exp_info);
	struct dma_buf *dmabuf;
	struct tdb *tdb;

	tdb = tdb_new(create);
	if (IS_ERR(tdb))
		return ERR_CAST(tdb);

	exp_info.ops = &tdb->ops;
	exp_info.size = create->size;
	exp_info.flags = create->flags & TEST_DMABUF_RDONLY ? O_RDONLY : O_RDWR;
	exp_info.priv = tdb;
	dmabuf = dma_buf_export(&exp_info);
	if (IS_ERR(dmabuf)) {
		tdb_free(tdb);
		return dmabuf;
	}
	tdb->dmabuf = dmabuf;
	return dmabuf;
}

static int tdb_create(struct test_dmabuf_create __user *arg)
{
	struct test_dmabuf_create create;
	struct dma_buf *dmabuf;
	int fd;

	if (copy_from_user(&create, arg, sizeof(create)))
		return -EFAULT;
	if (!tdb_create_valid(&create))
		return -EINVAL;

	dmabuf = tdb_export(&create);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		goto put;
	if (put_user(fd, &arg->fd)) {
		put_unused_fd(fd);
		fd = -EFAULT;
		goto put;
	}
	dma_buf_fd_install(dmabuf, fd);
	return 0;

put:
	dma_buf_put(dmabuf);
	return fd;
}

union tdb_arg {
	/* all of them have it first */
	__s32				fd;
	struct test_dmabuf_move		move;
	struct test_dmabuf_faults	faults;
	struct test_dmabuf_rw		rw;
	struct test_dmabuf_stats	stats;
	struct test_dmabuf_check	check;
};

static int tdb_do_ioctl(struct tdb *tdb, unsigned int cmd, union tdb_arg *arg)
{
	switch (cmd) {
	case TEST_DMABUF_MOVE:
		return tdb_move(tdb, &arg->move);
	case TEST_DMABUF_REVOKE:
		return tdb_revoke(tdb, &arg->move);
	case TEST_DMABUF_FAULTS:
		return tdb_set_faults(tdb, &arg->faults);
	case TEST_DMABUF_READ:
		return tdb_rw(tdb, &arg->rw, false);
	case TEST_DMABUF_WRITE:
		return tdb_rw(tdb, &arg->rw, true);
	case TEST_DMABUF_STATS:
		return tdb_get_stats(tdb, &arg->stats);
	case TEST_DMABUF_CHECK:
		return tdb_check(tdb, &arg->check);
	}
	return -ENOTTY;
}

static long tdb_ioctl(struct file *file, unsigned int cmd, unsigned long ptr)
{
	void __user *uarg = (void __user *)ptr;
	struct dma_buf *dmabuf;
	union tdb_arg arg = {};
	long ret = -EINVAL;

	if (cmd == TEST_DMABUF_CREATE)
		return tdb_create(uarg);
	if (_IOC_SIZE(cmd) < sizeof(arg.fd) || _IOC_SIZE(cmd) > sizeof(arg))
		return -ENOTTY;
	if (copy_from_user(&arg, uarg, _IOC_SIZE(cmd)))
		return -EFAULT;

	dmabuf = dma_buf_get(arg.fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	if (dmabuf->ops->release == tdb_release)
		ret = tdb_do_ioctl(dmabuf->priv, cmd, &arg);
	dma_buf_put(dmabuf);

	if (!ret && (cmd & IOC_OUT) && copy_to_user(uarg, &arg, _IOC_SIZE(cmd)))
		return -EFAULT;
	return ret;
}

static const struct file_operations tdb_fops = {
	.owner		= THIS_MODULE,
	.unlocked_ioctl	= tdb_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
};

static struct miscdevice tdb_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "test_dmabuf",
	.fops	= &tdb_fops,
};
module_misc_device(tdb_misc);

MODULE_DESCRIPTION("dma-buf exporter for tests");
MODULE_IMPORT_NS("DMA_BUF");
MODULE_LICENSE("GPL");
