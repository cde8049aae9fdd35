// SPDX-License-Identifier: GPL-2.0-only
/*
 * Requests whose data is in a dma-buf.
 *
 * No device is there that could access the dma-buf, so the CPU does. It needs a
 * kernel mapping of the memory, unless there is no data to store either. A map
 * is looked up and used under nullb->lock, and looked up again whenever that had
 * to be released, to allocate a page. So whoever takes the memory away only has
 * to wait for the lock, and not for an allocation.
 *
 * Copyright (C) 2026 The uring-offload authors
 */
#include <linux/device/faux.h>
#include <linux/dma-mapping.h>
#include <linux/highmem.h>
#include <linux/iosys-map.h>
#include "null_blk.h"

static struct device_dma_parameters null_dma_parms = {
	.max_segment_size	= UINT_MAX,
};

/* What dma-bufs are mapped for, on behalf of all disks. NULL without DMA. */
static struct faux_device *null_dma_dev;

static inline struct nullb *to_nullb(struct io_dmabuf_device *ddev)
{
	return container_of(ddev, struct nullb, dmabuf);
}

static int null_dmabuf_map_init(struct io_dmabuf_device *ddev,
				struct io_dmabuf_map *map)
{
	/* to unmap it would undo what the CPU has written to the memory */
	if (map->need_sync)
		return -EOPNOTSUPP;
	return 0;
}

static void null_dmabuf_quiesce(struct io_dmabuf_device *ddev,
				struct io_dmabuf_map *map)
{
	struct nullb *nullb = to_nullb(ddev);

	spin_lock_irq(&nullb->lock);
	spin_unlock_irq(&nullb->lock);
}

static const struct io_dmabuf_device_ops null_dmabuf_ops = {
	.map_size	= sizeof(struct io_dmabuf_map),
	.vmap		= true,
	.map_init	= null_dmabuf_map_init,
	.quiesce	= null_dmabuf_quiesce,
};

/* Requests of a disk that stores nothing never get to see what is in a map. */
static void null_dmabuf_nothing(struct io_dmabuf_device *ddev,
				struct io_dmabuf_map *map)
{
}

static const struct io_dmabuf_device_ops null_dmabuf_nodata_ops = {
	.map_size	= sizeof(struct io_dmabuf_map),
	.quiesce	= null_dmabuf_nothing,
};

/**
 * null_dmabuf_init - make the device that dma-bufs are mapped for
 *
 * If that fails, disks do without.
 *
 * Context: process, before there is a disk.
 */
void null_dmabuf_init(void)
{
	struct device *dev;

	null_dma_dev = faux_device_create(KBUILD_MODNAME, NULL, NULL);
	if (!null_dma_dev)
		return;

	dev = &null_dma_dev->dev;
	dev->dma_parms = &null_dma_parms;
	if (dma_coerce_mask_and_coherent(dev, DMA_BIT_MASK(64)))
		null_dmabuf_exit();
}

/**
 * null_dmabuf_exit - undo null_dmabuf_init()
 *
 * Context: process, without disks.
 */
void null_dmabuf_exit(void)
{
	faux_device_destroy(null_dma_dev);
	null_dma_dev = NULL;
}

/**
 * null_dmabuf_init_dev - let requests of a disk have their data in a dma-buf
 * @nullb:	disk that is being set up
 * @lim:	its limits
 *
 * Not if it is zoned. A write that finds the dma-buf moved fails, to be repeated
 * by who submitted it, and the block layer takes no more writes to a sequential
 * zone once one has failed.
 */
void null_dmabuf_init_dev(struct nullb *nullb, struct queue_limits *lim)
{
	if (!null_dma_dev || nullb->dev->zoned)
		return;

	io_dmabuf_device_init(&nullb->dmabuf, &null_dma_dev->dev,
			      nullb->dev->memory_backed ?
			      &null_dmabuf_ops : &null_dmabuf_nodata_ops);
	lim->features |= BLK_FEAT_DMABUF;
}

/**
 * null_dmabuf_exit_dev - have no dma-bufs mapped for a disk any more
 * @nullb:	disk that is deleted, without requests
 *
 * Context: process, may sleep.
 */
void null_dmabuf_exit_dev(struct nullb *nullb)
{
	if (nullb->dmabuf.dev)
		io_dmabuf_device_shutdown(&nullb->dmabuf);
}

/**
 * null_create_dmabuf_token - the disk's create_dmabuf_token operation
 * @bdev:	disk with BLK_FEAT_DMABUF, or part of it; it may be deleted, but not
 *		freed
 * @token:	what to attach
 *
 * Context: process, may sleep.
 *
 * Return: see io_dmabuf_attach_add().
 */
int null_create_dmabuf_token(struct block_device *bdev,
			     struct io_dmabuf_token *token)
{
	struct nullb *nullb = bdev->bd_disk->private_data;

	return io_dmabuf_attach_add(token, &nullb->dmabuf);
}

static blk_status_t null_dmabuf_set_stale(struct request *rq)
{
	/* it isn't an error that anybody gets to see */
	rq->rq_flags |= RQF_QUIET;
	return BLK_STS_STALE;
}

/**
 * null_dmabuf_stale - whether a request has to wait for its dma-buf
 * @nullb:	the disk
 * @rq:		request that blk_rq_is_dmabuf()
 *
 * The answer holds for this moment only. That is enough for a disk that stores
 * nothing; otherwise null_dmabuf_transfer() has the last word.
 *
 * Context: any.
 *
 * Return: true if it is to be completed with BLK_STS_STALE.
 */
bool null_dmabuf_stale(struct nullb *nullb, struct request *rq)
{
	if (likely(io_dmabuf_map_get(blk_rq_dmabuf(rq), &nullb->dmabuf)))
		return false;
	null_dmabuf_set_stale(rq);
	return true;
}

static blk_status_t null_dmabuf_write(struct nullb *nullb, struct request *rq,
				      loff_t pos, size_t off, unsigned int len)
{
	sector_t sector = pos >> SECTOR_SHIFT;
	bool is_fua = rq->cmd_flags & REQ_FUA;
	struct nullb_page *t_page;
	struct io_dmabuf_map *map;
	void *addr;

	t_page = null_write_begin(nullb, sector, is_fua);
	if (!t_page)
		return BLK_STS_NOSPC;

	/* not before, the lock may have been released */
	map = io_dmabuf_map_get(blk_rq_dmabuf(rq), &nullb->dmabuf);
	if (!map)
		return null_dmabuf_set_stale(rq);

	addr = kmap_local_page(t_page->page);
	iosys_map_memcpy_from(addr + offset_in_page(pos), map->vmap, off, len);
	kunmap_local(addr);

	null_write_end(nullb, t_page, sector, is_fua);
	return BLK_STS_OK;
}

static blk_status_t null_dmabuf_read(struct nullb *nullb, struct request *rq,
				     loff_t pos, size_t off, unsigned int len)
{
	struct nullb_page *t_page;
	struct io_dmabuf_map *map;
	void *addr;

	map = io_dmabuf_map_get(blk_rq_dmabuf(rq), &nullb->dmabuf);
	if (!map)
		return null_dmabuf_set_stale(rq);

	t_page = null_read_page(nullb, pos >> SECTOR_SHIFT);
	if (!t_page) {
		iosys_map_memset(map->vmap, off, 0, len);
		return BLK_STS_OK;
	}

	addr = kmap_local_page(t_page->page);
	iosys_map_memcpy_to(map->vmap, off, addr + offset_in_page(pos), len);
	kunmap_local(addr);
	return BLK_STS_OK;
}

/**
 * null_dmabuf_transfer - copy the data of a request
 * @nullb:	the disk, memory_backed
 * @rq:		request that blk_rq_is_dmabuf()
 * @max_bytes:	how much of it
 *
 * Context: as for requests that have pages. Takes nullb->lock.
 *
 * Return: BLK_STS_OK; BLK_STS_STALE if the dma-buf is moving; or BLK_STS_NOSPC
 * if there is no memory to store the data in.
 */
blk_status_t null_dmabuf_transfer(struct nullb *nullb, struct request *rq,
				  unsigned int max_bytes)
{
	unsigned int left = min(blk_rq_bytes(rq), max_bytes);
	loff_t pos = blk_rq_pos(rq) << SECTOR_SHIFT;
	u64 off = blk_rq_dmabuf_off(rq);
	blk_status_t sts = BLK_STS_OK;

	spin_lock_irq(&nullb->lock);
	while (left && sts == BLK_STS_OK) {
		unsigned int len = min3(nullb->dev->blocksize, left,
					PAGE_SIZE - offset_in_page(pos));

		if (op_is_write(req_op(rq)))
			sts = null_dmabuf_write(nullb, rq, pos, off, len);
		else
			sts = null_dmabuf_read(nullb, rq, pos, off, len);
		pos += len;
		off += len;
		left -= len;
	}
	spin_unlock_irq(&nullb->lock);
	return sts;
}
