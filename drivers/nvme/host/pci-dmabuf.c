// SPDX-License-Identifier: GPL-2.0
/*
 * Requests whose data is in a dma-buf.
 *
 * The dma-buf is mapped already when a request comes, so all there is to do for
 * one is to find the addresses and to fill in the data pointer.  While it is in
 * flight, iod->dmabuf_map says what it uses:
 *
 *  - nvme_pci_setup_dmabuf() looks up the map and sets iod->dmabuf_map, and the
 *    request is started.  Both are in the same RCU read-side critical section,
 *    the one that blk-mq calls ->queue_rq and ->queue_rqs in.
 *
 *  - nvme_pci_unmap_dmabuf() clears it.  Whoever calls it knows that the
 *    controller is done with the data: it has completed the command, or it is
 *    disabled and the command is canceled, or the command was never sent.
 *
 *  - nvme_dmabuf_quiesce() is called after the map was unpublished, and waits
 *    for an RCU grace period.  From then on a request that has found the map is
 *    started and has it in iod->dmabuf_map, or doesn't use it any more.  So it
 *    is enough to look at the started requests until none has it.
 *
 * That way it costs an ordinary request nothing, and one for a dma-buf nothing
 * but a store: who moves the memory pays for it.
 *
 * Copyright (C) 2026 The uring-offload authors
 */

#include <kunit/visibility.h>
#include <linux/blk-mq.h>
#include <linux/delay.h>
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/io_dmabuf_token.h>
#include <linux/jiffies.h>
#include <linux/pci.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "nvme.h"
#include "pci.h"
#include "pci-dmabuf.h"

/*
 * How long a move waits for the next command to complete, and for all of them,
 * whatever their own time-outs are
 */
#define NVME_DMABUF_RESET	(30 * HZ)
#define NVME_DMABUF_RESET_ALL	(4 * NVME_DMABUF_RESET)

static inline struct nvme_dev *to_nvme_dmabuf_dev(struct io_dmabuf_device *ddev)
{
	return container_of(ddev, struct nvme_dev, dmabuf);
}

static inline struct nvme_dmabuf_map *
to_nvme_dmabuf_map(struct io_dmabuf_map *map)
{
	return container_of(map, struct nvme_dmabuf_map, map);
}

/* as many as PRP lists and SGLs take, in pages that aren't contiguous */
static_assert(NVME_MAX_BYTES / NVME_CTRL_PAGE_SIZE + 1 <=
	      NVME_MAX_NR_DESCRIPTORS * PRPS_PER_PAGE);
static_assert(NVME_MAX_BYTES / NVME_CTRL_PAGE_SIZE + 1 <=
	      NVME_MAX_NR_DESCRIPTORS * (NVME_MAX_SEGS - 1) + 1);

static void nvme_dmabuf_set_sge(struct nvme_sgl_desc *sge, dma_addr_t addr,
				unsigned int len)
{
	*sge = (struct nvme_sgl_desc) {
		.addr	= cpu_to_le64(addr),
		.length	= cpu_to_le32(len),
		.type	= NVME_SGL_FMT_DATA_DESC << 4,
	};
}

static blk_status_t nvme_dmabuf_build_prps(struct request *req,
					   const struct io_dmabuf_map *map,
					   u64 off, unsigned int nr)
{
	struct nvme_iod *iod = blk_mq_rq_to_pdu(req);
	struct nvme_queue *nvmeq = req->mq_hctx->driver_data;
	__le64 *link = &iod->cmd.common.dptr.prp2;

	if (nr <= NVME_SMALL_POOL_SIZE / sizeof(__le64))
		iod->flags |= IOD_SMALL_DESCRIPTOR;

	do {
		unsigned int len = nvme_prp_list_len(0, nr);
		dma_addr_t dma;
		__le64 *prps;

		prps = dma_pool_alloc(nvme_dma_pool(nvmeq, iod), GFP_ATOMIC,
				      &dma);
		if (!prps)
			goto out_free;
		iod->descriptors[iod->nr_descriptors++] = prps;
		nvme_prp_list_fill(prps, len, map, off);
		*link = cpu_to_le64(dma);

		link = &prps[PRPS_PER_PAGE];
		off += (u64)len * NVME_CTRL_PAGE_SIZE;
		nr -= len;
	} while (nr);

	return BLK_STS_OK;

out_free:
	if (iod->nr_descriptors)
		nvme_free_descriptors(req);
	return BLK_STS_RESOURCE;
}

/*
 * As many segments as it takes.  The last entry of each but the last points to
 * the next one.
 */
static blk_status_t nvme_dmabuf_build_sgl(struct request *req,
					  const struct io_dmabuf_seg *seg,
					  unsigned int nr_segs, u64 off,
					  unsigned int len)
{
	struct nvme_iod *iod = blk_mq_rq_to_pdu(req);
	struct nvme_queue *nvmeq = req->mq_hctx->driver_data;
	struct nvme_sgl_desc *link = &iod->cmd.common.dptr.sgl;

	iod->cmd.common.flags = NVME_CMD_SGL_METABUF;
	if (nr_segs <= NVME_SMALL_POOL_SIZE / sizeof(*link))
		iod->flags |= IOD_SMALL_DESCRIPTOR;

	do {
		unsigned int i, nr = min_t(unsigned int, nr_segs, NVME_MAX_SEGS);
		bool last = nr == nr_segs;
		struct nvme_sgl_desc *sg_list;
		dma_addr_t sgl_dma;

		sg_list = dma_pool_alloc(nvme_dma_pool(nvmeq, iod), GFP_ATOMIC,
					 &sgl_dma);
		if (!sg_list)
			goto out_free;
		iod->descriptors[iod->nr_descriptors++] = sg_list;
		nvme_pci_sgl_set_seg(link, sgl_dma, nr);
		if (!last) {
			link->type = NVME_SGL_FMT_SEG_DESC << 4;
			nr--;
		}

		for (i = 0; i < nr; i++, seg++) {
			unsigned int n = min_t(u64, len, seg[1].off - off);

			nvme_dmabuf_set_sge(&sg_list[i],
					    seg->addr + (off - seg->off), n);
			off += n;
			len -= n;
		}
		link = &sg_list[nr];
		nr_segs -= nr;
	} while (nr_segs);

	return BLK_STS_OK;

out_free:
	if (iod->nr_descriptors)
		nvme_free_descriptors(req);
	return BLK_STS_RESOURCE;
}

/*
 * The list of the map doesn't do: make one for this request alone, whichever is
 * the shorter one.
 */
static blk_status_t nvme_dmabuf_build(struct request *req,
				      const struct io_dmabuf_map *map, u64 off,
				      unsigned int len,
				      enum nvme_use_sgl use_sgl)
{
	const struct io_dmabuf_seg *seg = io_dmabuf_map_find(map, off);
	const struct io_dmabuf_seg *last = io_dmabuf_map_find(map,
							      off + len - 1);
	struct nvme_iod *iod = blk_mq_rq_to_pdu(req);
	unsigned int first_off = off & (NVME_CTRL_PAGE_SIZE - 1);
	unsigned int nr_segs = last - seg + 1;
	/* all pages but the first */
	unsigned int nr_prps = (first_off + len - 1) >> NVME_CTRL_PAGE_SHIFT;

	if (use_sgl == SGL_FORCED ||
	    (use_sgl == SGL_SUPPORTED &&
	     nr_segs * sizeof(struct nvme_sgl_desc) <= nr_prps * sizeof(__le64)))
		return nvme_dmabuf_build_sgl(req, seg, nr_segs, off, len);

	iod->cmd.common.dptr.prp1 = cpu_to_le64(seg->addr + (off - seg->off));
	return nvme_dmabuf_build_prps(req, map,
				      off - first_off + NVME_CTRL_PAGE_SIZE,
				      nr_prps);
}

/*
 * A request of the block device transfers what its data has, the driver has made
 * the command.  A command of the user's may ask for more or for less:
 *
 *  - With an SGL the controller sees that, and nothing but the data is accessed.
 *    So if there are SGLs such a command has one, before anything else is looked
 *    at: nvme_pci_use_sgls() decides for all requests, and says %SGL_FORCED.
 *
 *  - PRPs don't say where they end.  The controller takes PRP2 for a list where
 *    it is the second page of the data, or goes on behind the list; and it takes
 *    the list for data where it expects PRP2 to be the second page.  That is as
 *    with ordinary memory, and nvme_uring_cmd_dmabuf() lets only those do it
 *    who have CAP_SYS_RAWIO.  But the list of the map is not for them, as other
 *    requests depend on what is in it.
 */
VISIBLE_IF_KUNIT blk_status_t
nvme_dmabuf_set_dptr(struct request *req, struct nvme_dmabuf_map *nmap, u64 off,
		     unsigned int len, enum nvme_use_sgl use_sgl)
{
	struct nvme_iod *iod = blk_mq_rq_to_pdu(req);
	union nvme_data_ptr *dptr = &iod->cmd.common.dptr;
	unsigned int first_len = NVME_CTRL_PAGE_SIZE -
				 (off & (NVME_CTRL_PAGE_SIZE - 1));
	const struct io_dmabuf_map *map = &nmap->map;
	unsigned int page, last;
	dma_addr_t addr;
	u64 contig;

	addr = io_dmabuf_map_addr(map, off, &contig);

	if (use_sgl != SGL_FORCED && len <= first_len + NVME_CTRL_PAGE_SIZE) {
		dptr->prp1 = cpu_to_le64(addr);
		dptr->prp2 = 0;
		if (len > first_len) {
			addr = io_dmabuf_map_addr(map, off + first_len,
						  &contig);
			dptr->prp2 = cpu_to_le64(addr);
		}
		return BLK_STS_OK;
	}

	if (use_sgl == SGL_SUPPORTED && !nvme_pci_sgl_threshold)
		use_sgl = SGL_UNSUPPORTED;
	if (use_sgl != SGL_UNSUPPORTED && len <= contig) {
		iod->cmd.common.flags = NVME_CMD_SGL_METABUF;
		nvme_dmabuf_set_sge(&dptr->sgl, addr, len);
		return BLK_STS_OK;
	}

	/* the list of the request starts with the second page */
	page = (off >> NVME_CTRL_PAGE_SHIFT) + 1;
	last = (off + len - 1) >> NVME_CTRL_PAGE_SHIFT;
	if (nmap->lists && use_sgl != SGL_FORCED &&
	    !(nvme_req(req)->flags & NVME_REQ_USERCMD) &&
	    nvme_prp_list_fits(last, nmap->nr_pages) &&
	    nvme_prp_list_there(nmap->lists, page, last, nmap->nr_pages)) {
		struct nvme_dmabuf_list *list =
			&nmap->lists[nvme_prp_list_page(page)];

		dptr->prp1 = cpu_to_le64(addr);
		dptr->prp2 = cpu_to_le64(list->dma + nvme_prp_list_off(page));
		return BLK_STS_OK;
	}

	return nvme_dmabuf_build(req, map, off, len, use_sgl);
}
EXPORT_SYMBOL_IF_KUNIT(nvme_dmabuf_set_dptr);

/**
 * nvme_pci_setup_dmabuf - fill in the data pointer of a request for a dma-buf
 * @req:	request that nvme_pci_rq_is_dmabuf(), set up but for that
 * @use_sgl:	what nvme_pci_use_sgls() says of @req
 *
 * Context: ->queue_rq or ->queue_rqs.  The caller starts the request before it
 * leaves blk-mq's RCU read-side critical section, or gives the data up again
 * with nvme_pci_unmap_dmabuf().
 *
 * Return: BLK_STS_OK; BLK_STS_STALE if the dma-buf isn't mapped now; why it
 * can't be for this controller, if it is for another one of the disk; or
 * BLK_STS_RESOURCE if there is no memory for a list.  On error there is nothing
 * to give up.
 */
blk_status_t nvme_pci_setup_dmabuf(struct request *req,
				   enum nvme_use_sgl use_sgl)
{
	struct nvme_iod *iod = blk_mq_rq_to_pdu(req);
	struct nvme_queue *nvmeq = req->mq_hctx->driver_data;
	unsigned int len = blk_rq_payload_bytes(req);
	u64 off = blk_rq_dmabuf_off(req);
	struct io_dmabuf_map *map;
	blk_status_t ret;

	RCU_LOCKDEP_WARN(!rcu_read_lock_held(), "not dispatched by blk-mq");

	map = io_dmabuf_map_get(blk_rq_dmabuf(req), &nvmeq->dev->dmabuf);
	if (unlikely(!map)) {
		ret = io_dmabuf_map_status(blk_rq_dmabuf(req),
					   &nvmeq->dev->dmabuf);
		if (ret == BLK_STS_STALE)
			req->rq_flags |= RQF_QUIET;
		return ret;
	}

	ret = nvme_dmabuf_set_dptr(req, to_nvme_dmabuf_map(map), off, len,
				   use_sgl);
	if (unlikely(ret))
		return ret;
	if (unlikely(map->need_sync))
		io_dmabuf_map_sync_for_device(map, off, len, rq_dma_dir(req));

	/* ordered before nvme_dmabuf_scan_rq() by the RCU grace period */
	WRITE_ONCE(iod->dmabuf_map, map);
	return BLK_STS_OK;
}

/**
 * nvme_pci_unmap_dmabuf - give up what nvme_pci_setup_dmabuf() has set up
 * @req:	request that the controller doesn't access data for any more
 *
 * Context: any.  The request still has its bio, and hasn't ended: it is what
 * keeps the token alive.
 */
void nvme_pci_unmap_dmabuf(struct request *req)
{
	struct nvme_iod *iod = blk_mq_rq_to_pdu(req);
	struct io_dmabuf_map *map = iod->dmabuf_map;

	if (unlikely(map->need_sync) && rq_dma_dir(req) == DMA_FROM_DEVICE)
		io_dmabuf_map_sync_for_cpu(map, blk_rq_dmabuf_off(req),
					   blk_rq_payload_bytes(req),
					   DMA_FROM_DEVICE);
	if (iod->nr_descriptors)
		nvme_free_descriptors(req);
	/* the map may be gone after that; pairs with nvme_dmabuf_quiesce() */
	smp_store_release(&iod->dmabuf_map, NULL);
}

struct nvme_dmabuf_scan {
	const struct io_dmabuf_map	*map;
	unsigned int			busy;
};

static bool nvme_dmabuf_scan_rq(struct request *req, void *data)
{
	struct nvme_iod *iod = blk_mq_rq_to_pdu(req);
	struct nvme_dmabuf_scan *scan = data;

	/* of others it is total_len */
	if (!nvme_pci_rq_is_dmabuf(req) || READ_ONCE(iod->dmabuf_map) != scan->map)
		return true;

	/*
	 * Who submitted a polled request may be stopped, or be the one that
	 * waits here.  The reference to the request keeps its queue.
	 */
	nvme_poll(req->mq_hctx, NULL);
	if (READ_ONCE(iod->dmabuf_map) != scan->map)
		return true;

	scan->busy++;
	return true;
}

/* Number of commands that use the map: it falls, as nobody finds that any more */
static unsigned int nvme_dmabuf_busy(struct nvme_dev *dev,
				     const struct io_dmabuf_map *map)
{
	struct nvme_dmabuf_scan scan = { .map = map };
	struct blk_mq_tag_set *set;

	rcu_read_lock();
	set = rcu_dereference(dev->dmabuf_tagset);
	if (set)
		blk_mq_tagset_busy_iter(set, nvme_dmabuf_scan_rq, &scan);
	rcu_read_unlock();
	return scan.busy;
}

/*
 * How long this takes is up to the controller.  If it has stopped to complete
 * commands, or is slow and there are so many that it takes minutes, then it is
 * reset, or a reset or its removal is under way.  Each of them disables it, and
 * cancels all commands afterwards.  None of it needs memory or a lock that
 * somebody has who waits for us: the work item has a rescuer, and shutdown_lock
 * is outside of nothing that we hold.
 *
 * A reset that comes first is as good as ours, as no request that found the map
 * is left to be started.
 */
static void nvme_dmabuf_quiesce(struct io_dmabuf_device *ddev,
				struct io_dmabuf_map *map)
{
	struct nvme_dev *dev = to_nvme_dmabuf_dev(ddev);
	/* others, of this drive too, may have been waited for before */
	unsigned long end = map->since + NVME_DMABUF_RESET_ALL;
	unsigned long reset = jiffies + NVME_DMABUF_RESET;
	unsigned int delay = 20, left = UINT_MAX, busy;

	/* requests that have found the map are started, or have given up */
	cond_synchronize_rcu_expedited(map->gp);

	while ((busy = nvme_dmabuf_busy(dev, map))) {
		if (busy < left) {
			left = busy;
			reset = jiffies + NVME_DMABUF_RESET;
		}
		if (time_after(jiffies, reset) || time_after(jiffies, end)) {
			dev_warn(dev->ctrl.device,
				 "a dma-buf of %s can't move, waiting for I/O: reset controller\n",
				 map->attach->dmabuf->exp_name);
			/* error recovery fails otherwise, see nvme_timeout() */
			if (!pci_channel_offline(to_pci_dev(dev->dev)))
				nvme_reset_ctrl(&dev->ctrl);
			reset = jiffies + NVME_DMABUF_RESET;
			end = reset;
		}
		usleep_range(delay, delay * 2);
		delay = min(delay * 2, 5000U);
	}

	/*
	 * Whatever nvme_pci_unmap_dmabuf() did is visible: either its store was
	 * seen, or that the request was freed afterwards.
	 */
	smp_mb();
}

/*
 * All of the list but for its pages, unless lists have to be aligned: requests
 * point into the middle of this one.
 */
static int nvme_dmabuf_attach_init(struct io_dmabuf_device *ddev,
				   struct io_dmabuf_attach *attach)
{
	u64 nr_pages = attach->dmabuf->size >> NVME_CTRL_PAGE_SHIFT;
	struct nvme_dev *dev = to_nvme_dmabuf_dev(ddev);
	struct nvme_dmabuf_list *lists;

	/* two pages are PRP1 and PRP2 */
	if (nr_pages <= 2 || nr_pages > UINT_MAX ||
	    (dev->ctrl.quirks & NVME_QUIRK_DMAPOOL_ALIGN_512))
		return 0;
	lists = kvzalloc_objs(*lists, nvme_prp_list_pages(nr_pages),
			      IO_DMABUF_GFP);
	if (!lists)
		return -ENOMEM;
	attach->priv = lists;
	return 0;
}

static void nvme_dmabuf_attach_exit(struct io_dmabuf_device *ddev,
				    struct io_dmabuf_attach *attach)
{
	u64 nr_pages = attach->dmabuf->size >> NVME_CTRL_PAGE_SHIFT;
	struct nvme_dmabuf_list *lists = attach->priv;
	unsigned int i;

	if (!lists)
		return;
	for (i = 0; i < nvme_prp_list_pages(nr_pages); i++) {
		if (lists[i].prps) {
			dma_unmap_single(ddev->dev, lists[i].dma,
					 NVME_CTRL_PAGE_SIZE, DMA_TO_DEVICE);
			kfree(lists[i].prps);
		}
		cond_resched();
	}
	kvfree(lists);
}

static void nvme_dmabuf_fill_list(struct nvme_dmabuf_map *nmap, __le64 *prps,
				  unsigned int i)
{
	u64 page = (u64)i * PRPS_PER_PAGE;

	nvme_prp_list_fill(prps, nvme_prp_list_len(i, nmap->nr_pages),
			   &nmap->map, page << NVME_CTRL_PAGE_SHIFT);
}

/* No request uses the list, as none has found the map yet. */
static int nvme_dmabuf_map_init(struct io_dmabuf_device *ddev,
				struct io_dmabuf_map *map)
{
	u64 nr_pages = map->attach->dmabuf->size >> NVME_CTRL_PAGE_SHIFT;
	struct nvme_dmabuf_map *nmap = to_nvme_dmabuf_map(map);
	struct nvme_dmabuf_list *lists = map->attach->priv;
	unsigned int i;

	if (!lists)
		return 0;
	nmap->lists = lists;
	nmap->nr_pages = nr_pages;
	for (i = 0; i < nvme_prp_list_pages(nr_pages); i++) {
		if (lists[i].prps) {
			dma_sync_single_for_cpu(ddev->dev, lists[i].dma,
						NVME_CTRL_PAGE_SIZE,
						DMA_TO_DEVICE);
			nvme_dmabuf_fill_list(nmap, lists[i].prps, i);
			dma_sync_single_for_device(ddev->dev, lists[i].dma,
						   NVME_CTRL_PAGE_SIZE,
						   DMA_TO_DEVICE);
		}
		cond_resched();
	}
	return 0;
}

/*
 * Other requests may use the pages next to it.  They don't go on to this one,
 * as it isn't there yet.
 */
static int nvme_dmabuf_add_list(struct device *dev,
				struct nvme_dmabuf_map *nmap, unsigned int i,
				struct io_dmabuf_pages *pages)
{
	unsigned int nr = nvme_prp_list_pages(nmap->nr_pages);
	struct nvme_dmabuf_list *list = &nmap->lists[i];
	dma_addr_t dma;
	__le64 *prps;

	/* a power of two is naturally aligned, even if pages are larger */
	prps = io_dmabuf_pages_take(pages);
	nvme_dmabuf_fill_list(nmap, prps, i);
	if (i + 1 < nr && list[1].prps)
		prps[PRPS_PER_PAGE] = cpu_to_le64(list[1].dma);
	dma = dma_map_single(dev, prps, NVME_CTRL_PAGE_SIZE, DMA_TO_DEVICE);
	if (dma_mapping_error(dev, dma)) {
		kfree(prps);
		return -ENOMEM;
	}
	list->dma = dma;

	if (i && list[-1].prps) {
		WRITE_ONCE(list[-1].prps[PRPS_PER_PAGE], cpu_to_le64(dma));
		dma_sync_single_for_device(dev, list[-1].dma,
					   NVME_CTRL_PAGE_SIZE, DMA_TO_DEVICE);
	}
	/* pairs with smp_load_acquire() in nvme_prp_list_there() */
	smp_store_release(&list->prps, prps);
	return 0;
}

/* Only if requests can't have an SGL data block in the command itself. */
static bool nvme_dmabuf_need_list(struct nvme_dev *dev,
				  const struct nvme_dmabuf_map *nmap, u64 off,
				  u64 len)
{
	u64 contig;

	if (!nmap->lists || len <= 2 * NVME_CTRL_PAGE_SIZE)
		return false;
	if (!nvme_ctrl_sgl_supported(&dev->ctrl) || !nvme_pci_sgl_threshold)
		return true;
	io_dmabuf_map_addr(&nmap->map, off, &contig);
	return contig < len;
}

static int nvme_dmabuf_map_window(struct io_dmabuf_device *ddev,
				  struct io_dmabuf_map *map, u64 off, u64 len,
				  struct io_dmabuf_pages *pages)
{
	struct nvme_dmabuf_map *nmap = to_nvme_dmabuf_map(map);
	struct nvme_dev *dev = to_nvme_dmabuf_dev(ddev);
	unsigned int i, first, last, need = 0;
	int ret;

	if (!nvme_dmabuf_need_list(dev, nmap, off, len))
		return 0;

	first = nvme_prp_list_page((off >> NVME_CTRL_PAGE_SHIFT) + 1);
	last = nvme_prp_list_page((off + len - 1) >> NVME_CTRL_PAGE_SHIFT);
	last = min(last, nvme_prp_list_pages(nmap->nr_pages) - 1);
	for (i = first; i <= last; i++)
		need += !nmap->lists[i].prps;
	if (need > pages->nr) {
		pages->need = need;
		return -ENOBUFS;
	}
	for (i = first; i <= last; i++) {
		if (nmap->lists[i].prps)
			continue;
		ret = nvme_dmabuf_add_list(dev->dev, nmap, i, pages);
		if (ret)
			return ret;
		cond_resched();
	}
	return 0;
}

static const struct io_dmabuf_device_ops nvme_dmabuf_ops = {
	.map_size	= sizeof(struct nvme_dmabuf_map),
	.attach_init	= nvme_dmabuf_attach_init,
	.attach_exit	= nvme_dmabuf_attach_exit,
	.map_init	= nvme_dmabuf_map_init,
	.map_window	= nvme_dmabuf_map_window,
	.page_size	= NVME_CTRL_PAGE_SIZE,
	.quiesce	= nvme_dmabuf_quiesce,
};

/**
 * nvme_pci_dmabuf_init - prepare a controller for I/O on dma-bufs
 * @dev:	controller that is probed
 *
 * Context: any.  Nothing needs to be undone unless the controller had
 * namespaces.
 */
void nvme_pci_dmabuf_init(struct nvme_dev *dev)
{
	io_dmabuf_device_init(&dev->dmabuf, dev->dev, &nvme_dmabuf_ops);
}

/**
 * nvme_pci_dmabuf_shutdown - unmap all dma-bufs
 * @dev:	controller that is removed: it is disabled, has no namespaces any
 *		more, and all commands are completed or canceled
 *
 * Context: process, may sleep.  Takes dma_resv of the dma-bufs.  The queues
 * still exist.
 */
void nvme_pci_dmabuf_shutdown(struct nvme_dev *dev)
{
	io_dmabuf_device_shutdown(&dev->dmabuf);
}

/**
 * nvme_pci_dmabuf_set_tagset - set where to look for requests
 * @dev:	controller
 * @set:	its tag set, or NULL before that is changed or freed
 *
 * Without a tag set, dma-bufs move without waiting for anything: there are no
 * requests when this is called with NULL, as there are no namespaces or they
 * are all frozen, and there are none until it is called again.
 *
 * Context: process, may sleep.
 */
void nvme_pci_dmabuf_set_tagset(struct nvme_dev *dev,
				struct blk_mq_tag_set *set)
{
	rcu_assign_pointer(dev->dmabuf_tagset, set);
	/* pairs with rcu_read_lock() in nvme_dmabuf_busy() */
	if (!set)
		synchronize_rcu_expedited();
}

/**
 * nvme_pci_create_dmabuf_token - let a controller do I/O on a dma-buf
 * @ctrl:	controller of a namespace that a token is made for
 * @token:	the token
 *
 * Context: process, may sleep.
 *
 * Return: 0, or an error of io_dmabuf_attach_add().
 */
int nvme_pci_create_dmabuf_token(struct nvme_ctrl *ctrl,
				 struct io_dmabuf_token *token)
{
	return io_dmabuf_attach_add(token, &to_nvme_dev(ctrl)->dmabuf);
}
