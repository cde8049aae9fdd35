/* SPDX-License-Identifier: GPL-2.0 */
/*
 * NVM Express device driver
 * Copyright (c) 2011-2014, Intel Corporation.
 */

#ifndef _NVME_PCI_H
#define _NVME_PCI_H

#include <linux/blk-mq.h>
#include <linux/dma-mapping.h>
#include <linux/dmapool.h>
#include <linux/io_dmabuf_token.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>

#include "nvme.h"

/* Optimisation for I/Os between 4k and 128k */
#define NVME_SMALL_POOL_SIZE	256

/*
 * Arbitrary upper bound.
 */
#define NVME_MAX_BYTES		SZ_8M

/*
 * PRP lists take up to 5.  The SGL of a dma-buf in pages that are nowhere
 * contiguous takes more, as it has half as many entries in each of them.
 */
#define NVME_MAX_NR_DESCRIPTORS	9

/*
 * For data SGLs we support a single descriptors worth of SGL entries.
 * For PRPs, segments don't matter at all.
 */
#define NVME_MAX_SEGS \
	(NVME_CTRL_PAGE_SIZE / sizeof(struct nvme_sgl_desc))

/*
 * The last entry is used to link to the next descriptor.
 */
#define PRPS_PER_PAGE \
	(((NVME_CTRL_PAGE_SIZE / sizeof(__le64))) - 1)

struct nvme_queue;

struct nvme_descriptor_pools {
	struct dma_pool *large;
	struct dma_pool *small;
};

/*
 * Represents an NVM Express device.  Each nvme_dev is a PCI function.
 */
struct nvme_dev {
	struct nvme_queue *queues;
	struct blk_mq_tag_set tagset;
	struct blk_mq_tag_set admin_tagset;
	u32 __iomem *dbs;
	struct device *dev;
	unsigned online_queues;
	unsigned max_qid;
	unsigned io_queues[HCTX_MAX_TYPES];
	unsigned int num_vecs;
	u32 q_depth;
	int io_sqes;
	u32 db_stride;
	void __iomem *bar;
	unsigned long bar_mapped_size;
	struct mutex shutdown_lock;
	bool subsystem;
	u64 cmb_size;
	bool cmb_use_sqes;
	u32 cmbsz;
	u32 cmbloc;
	struct nvme_ctrl ctrl;
	u32 last_ps;
	bool hmb;
	struct sg_table *hmb_sgt;
	mempool_t *dmavec_mempool;

	/* shadow doorbell buffer support: */
	__le32 *dbbuf_dbs;
	dma_addr_t dbbuf_dbs_dma_addr;
	__le32 *dbbuf_eis;
	dma_addr_t dbbuf_eis_dma_addr;

	/* host memory buffer support: */
	u64 host_mem_size;
	u32 nr_host_mem_descs;
	u32 host_mem_descs_size;
	dma_addr_t host_mem_descs_dma;
	struct nvme_host_mem_buf_desc *host_mem_descs;
	void **host_mem_desc_bufs;
	unsigned int nr_allocated_queues;
	unsigned int nr_write_queues;
	unsigned int nr_poll_queues;

#ifdef CONFIG_IO_DMABUF_TOKEN
	struct io_dmabuf_device dmabuf;
	/* NULL while it changes, see nvme_pci_dmabuf_set_tagset() */
	struct blk_mq_tag_set __rcu *dmabuf_tagset;
#endif
	struct nvme_descriptor_pools descriptor_pools[];
};

static inline struct nvme_dev *to_nvme_dev(struct nvme_ctrl *ctrl)
{
	return container_of(ctrl, struct nvme_dev, ctrl);
}

/*
 * An NVM Express queue.  Each device has at least two (one for admin
 * commands and one for I/O commands).
 */
struct nvme_queue {
	struct nvme_dev *dev;
	struct nvme_descriptor_pools descriptor_pools;
	spinlock_t sq_lock;
	void *sq_cmds
		__guarded_by(&sq_lock);
	 /* only used for poll queues: */
	spinlock_t cq_poll_lock ____cacheline_aligned_in_smp;
	struct nvme_completion *cqes;
	dma_addr_t sq_dma_addr;
	dma_addr_t cq_dma_addr;
	u32 __iomem *q_db;
	u32 q_depth;
	u16 cq_vector;
	u16 cq_head;
	u16 sq_tail
		__guarded_by(&sq_lock);
	u16 last_sq_tail
		__guarded_by(&sq_lock);
	u16 qid;
	u8 cq_phase;
	u8 sqes;
	unsigned long flags;
#define NVMEQ_ENABLED		0
#define NVMEQ_SQ_CMB		1
#define NVMEQ_DELETE_ERROR	2
#define NVMEQ_POLLED		3
	__le32 *dbbuf_sq_db;
	__le32 *dbbuf_cq_db;
	__le32 *dbbuf_sq_ei;
	__le32 *dbbuf_cq_ei;
	struct completion delete_done;
};

/* bits for iod->flags */
enum nvme_iod_flags {
	/* this command has been aborted by the timeout handler */
	IOD_ABORTED		= 1U << 0,

	/* uses the small descriptor pool */
	IOD_SMALL_DESCRIPTOR	= 1U << 1,

	/* single segment dma mapping */
	IOD_SINGLE_SEGMENT	= 1U << 2,

	/* Data payload contains p2p memory */
	IOD_DATA_P2P		= 1U << 3,

	/* Metadata contains p2p memory */
	IOD_META_P2P		= 1U << 4,

	/* Data payload contains MMIO memory */
	IOD_DATA_MMIO		= 1U << 5,

	/* Metadata contains MMIO memory */
	IOD_META_MMIO		= 1U << 6,

	/* Metadata using non-coalesced MPTR */
	IOD_SINGLE_META_SEGMENT	= 1U << 7,
};

struct nvme_dma_vec {
	dma_addr_t addr;
	unsigned int len;
};

/*
 * The nvme_iod describes the data in an I/O.
 */
struct nvme_iod {
	struct nvme_request req;
	struct nvme_command cmd;
	u8 flags;
	u8 nr_descriptors;

	union {
		size_t total_len;
		/* nvme_pci_rq_is_dmabuf(): what the request uses */
		struct io_dmabuf_map *dmabuf_map;
	};
	struct dma_iova_state dma_state;
	void *descriptors[NVME_MAX_NR_DESCRIPTORS];
	struct nvme_dma_vec *dma_vecs;
	unsigned int nr_dma_vecs;

	dma_addr_t meta_dma;
	size_t meta_total_len;
	struct dma_iova_state meta_dma_state;
	struct nvme_sgl_desc *meta_descriptor;
};

static inline struct dma_pool *nvme_dma_pool(struct nvme_queue *nvmeq,
					     struct nvme_iod *iod)
{
	if (iod->flags & IOD_SMALL_DESCRIPTOR)
		return nvmeq->descriptor_pools.small;
	return nvmeq->descriptor_pools.large;
}

enum nvme_use_sgl {
	SGL_UNSUPPORTED,
	SGL_SUPPORTED,
	SGL_FORCED,
};

static inline enum nvme_use_sgl nvme_pci_use_sgls(struct nvme_dev *dev,
		struct request *req)
{
	struct nvme_queue *nvmeq = req->mq_hctx->driver_data;

	if (nvmeq->qid && nvme_ctrl_sgl_supported(&dev->ctrl)) {
		/*
		 * When the controller is capable of using SGL, there are
		 * several conditions that we force to use it:
		 *
		 * 1. A request containing page gaps within the controller's
		 *    mask can not use the PRP format.
		 *
		 * 2. User commands use SGL because that lets the device
		 *    validate the requested transfer lengths.
		 *
		 * 3. Multiple integrity segments must use SGL as that's the
		 *    only way to describe such a command in NVMe.
		 */
		if (req_phys_gap_mask(req) & (NVME_CTRL_PAGE_SIZE - 1) ||
		    nvme_req(req)->flags & NVME_REQ_USERCMD ||
		    req->nr_integrity_segments > 1)
			return SGL_FORCED;
		return SGL_SUPPORTED;
	}

	return SGL_UNSUPPORTED;
}

static inline void nvme_pci_sgl_set_seg(struct nvme_sgl_desc *sge,
					dma_addr_t dma_addr, int entries)
{
	sge->addr = cpu_to_le64(dma_addr);
	sge->length = cpu_to_le32(entries * sizeof(*sge));
	sge->type = NVME_SGL_FMT_LAST_SEG_DESC << 4;
}

extern unsigned int nvme_pci_sgl_threshold;

int nvme_poll(struct blk_mq_hw_ctx *hctx, struct io_comp_batch *iob);
void nvme_free_descriptors(struct request *req);

#ifdef CONFIG_IO_DMABUF_TOKEN
#define NVME_PCI_REQ_DMABUF	REQ_DMABUF

blk_status_t nvme_pci_setup_dmabuf(struct request *req,
				   enum nvme_use_sgl use_sgl);
void nvme_pci_unmap_dmabuf(struct request *req);
void nvme_pci_dmabuf_init(struct nvme_dev *dev);
void nvme_pci_dmabuf_shutdown(struct nvme_dev *dev);
void nvme_pci_dmabuf_set_tagset(struct nvme_dev *dev,
				struct blk_mq_tag_set *set);
int nvme_pci_create_dmabuf_token(struct nvme_ctrl *ctrl,
				 struct io_dmabuf_token *token);
#else /* CONFIG_IO_DMABUF_TOKEN */
#define NVME_PCI_REQ_DMABUF	((__force blk_opf_t)0)

static inline blk_status_t nvme_pci_setup_dmabuf(struct request *req,
						 enum nvme_use_sgl use_sgl)
{
	return BLK_STS_NOTSUPP;
}

static inline void nvme_pci_unmap_dmabuf(struct request *req)
{
}

static inline void nvme_pci_dmabuf_init(struct nvme_dev *dev)
{
}

static inline void nvme_pci_dmabuf_shutdown(struct nvme_dev *dev)
{
}

static inline void nvme_pci_dmabuf_set_tagset(struct nvme_dev *dev,
					      struct blk_mq_tag_set *set)
{
}

#define nvme_pci_create_dmabuf_token	NULL
#endif /* CONFIG_IO_DMABUF_TOKEN */

static inline bool nvme_pci_rq_is_dmabuf(const struct request *req)
{
	return req->cmd_flags & NVME_PCI_REQ_DMABUF;
}

#endif /* _NVME_PCI_H */
