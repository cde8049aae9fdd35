// SPDX-License-Identifier: GPL-2.0
/*
 * Data pointers and PRP lists of dma-bufs, against a controller that walks them
 * as the NVMe base specification says: entries one after the other, and the last slot of a page
 * of the list is a pointer to the next page if more than one page of data is
 * left.
 *
 * Copyright (C) 2026 The uring-offload authors
 */
#include <kunit/device.h>
#include <kunit/test.h>
#include <linux/bits.h>
#include <linux/blk-mq.h>
#include <linux/dma-mapping.h>
#include <linux/dmapool.h>
#include <linux/io.h>
#include <linux/io_dmabuf_token.h>
#include <linux/minmax.h>
#include <linux/module.h>
#include <linux/prandom.h>
#include <linux/sched.h>
#include <linux/sizes.h>

#include "nvme.h"
#include "pci-dmabuf.h"

#define SLOTS		(NVME_CTRL_PAGE_SIZE / sizeof(__le64))
#define MAX_LISTS	5
#define MAX_PAGES	(MAX_LISTS * PRPS_PER_PAGE + 1)

/* a page of the list has an address that no data has */
#define LIST_BASE	BIT_ULL(60)
/* a page of data has its number for an address */
#define DATA_ADDR(page)	(((u64)(page) + 1) << NVME_CTRL_PAGE_SHIFT)

struct prp_list {
	u64		slot[MAX_LISTS][SLOTS];
	unsigned int	nr_pages;
	unsigned int	nr_lists;
};

static void prp_list_make(struct kunit *test, struct prp_list *list,
			  unsigned int nr_pages)
{
	unsigned int i, j, page = 0;

	memset(list, 0, sizeof(*list));
	list->nr_pages = nr_pages;
	list->nr_lists = nvme_prp_list_pages(nr_pages);
	KUNIT_ASSERT_LE(test, list->nr_lists, MAX_LISTS);

	for (i = 0; i < list->nr_lists; i++) {
		unsigned int len = nvme_prp_list_len(i, nr_pages);

		KUNIT_ASSERT_EQ(test, page, i * PRPS_PER_PAGE);
		KUNIT_ASSERT_LE(test, len, SLOTS);
		for (j = 0; j < len; j++)
			list->slot[i][j] = DATA_ADDR(page++);
		if (i + 1 < list->nr_lists) {
			KUNIT_ASSERT_EQ(test, len, PRPS_PER_PAGE);
			list->slot[i][PRPS_PER_PAGE] = LIST_BASE +
						       (i + 1) * SZ_4K;
		}
	}
	/* the entries for all pages are there, and no page of the list is empty */
	KUNIT_ASSERT_EQ(test, page, nr_pages);
}

/*
 * Transfer the pages from @first to @last as a controller does that was given
 * PRP2. Whether it gets each of them, in order.
 */
static bool prp_list_walk(const struct prp_list *list, unsigned int first,
			  unsigned int last)
{
	unsigned int i = nvme_prp_list_page(first + 1);
	unsigned int slot = nvme_prp_list_off(first + 1) / sizeof(__le64);
	unsigned int page = first + 1;

	while (page <= last) {
		u64 entry;

		if (i >= list->nr_lists || slot >= SLOTS)
			return false;
		entry = list->slot[i][slot];
		if (slot == SLOTS - 1 && page < last) {
			if (entry < LIST_BASE)
				return false;
			i = (entry - LIST_BASE) / SZ_4K;
			slot = 0;
			continue;
		}
		if (entry != DATA_ADDR(page))
			return false;
		slot++;
		page++;
	}
	return true;
}

static void prp_list_check(struct kunit *test, const struct prp_list *list,
			   unsigned int first, unsigned int last)
{
	/* one or two pages need no list */
	if (last >= list->nr_pages || last < first + 2)
		return;
	KUNIT_ASSERT_EQ_MSG(test, prp_list_walk(list, first, last),
			    nvme_prp_list_fits(last, list->nr_pages),
			    "pages %u to %u of %u", first, last,
			    list->nr_pages);
}

/* Near to where the pages of the list begin and end, every request there is */
static void nvme_prp_list_test_edges(struct kunit *test)
{
	struct prp_list *list = kunit_kzalloc(test, sizeof(*list), GFP_KERNEL);
	unsigned int edges[MAX_LISTS * 7], nr = 0, i, j, n;
	int near;

	KUNIT_ASSERT_NOT_NULL(test, list);
	for (i = 0; i < MAX_LISTS; i++)
		for (near = -3; near <= 3; near++)
			if (i || near >= 0)
				edges[nr++] = i * PRPS_PER_PAGE + near;

	for (n = 0; n < nr; n++) {
		/* one page has no list */
		if (edges[n] < 2)
			continue;
		prp_list_make(test, list, edges[n]);
		for (i = 0; i < nr; i++)
			for (j = i; j < nr; j++)
				prp_list_check(test, list, edges[i], edges[j]);
		cond_resched();
	}
}

static void nvme_prp_list_test_random(struct kunit *test)
{
	struct prp_list *list = kunit_kzalloc(test, sizeof(*list), GFP_KERNEL);
	struct rnd_state rnd;
	unsigned int i, j;

	KUNIT_ASSERT_NOT_NULL(test, list);
	prandom_seed_state(&rnd, 1);
	for (i = 0; i < 100; i++) {
		prp_list_make(test, list,
			      2 + prandom_u32_state(&rnd) % (MAX_PAGES - 1));
		for (j = 0; j < 100; j++) {
			unsigned int nr = list->nr_pages;
			unsigned int first = prandom_u32_state(&rnd) % nr;
			unsigned int last = first + prandom_u32_state(&rnd) %
						    (nr - first);

			prp_list_check(test, list, first, last);
		}
	}
}

/* How seldom requests can't use the list is what makes it worth its memory */
static void nvme_prp_list_test_misfits(struct kunit *test)
{
	unsigned int last, misfits = 0;

	for (last = 2; last < MAX_PAGES; last++)
		misfits += !nvme_prp_list_fits(last, MAX_PAGES);
	KUNIT_EXPECT_EQ(test, misfits, MAX_LISTS - 1);
}

#define MAX_SEGS	12
#define MAX_SEG_PAGES	8

/*
 * Segments of any size, or all of one that is a power of two, but for the last.
 * Addresses are anything but continuous.
 */
struct layout {
	struct io_dmabuf_seg	segs[MAX_SEGS + 1];
	struct io_dmabuf_map	map;
	u64			addr[MAX_SEGS * MAX_SEG_PAGES];
	unsigned int		nr_pages;
};

static void layout_make(struct layout *l, struct rnd_state *rnd)
{
	unsigned int nr = 1 + prandom_u32_state(rnd) % MAX_SEGS;
	unsigned int shift = prandom_u32_state(rnd) % 4;
	bool even = prandom_u32_state(rnd) % 2;
	unsigned int i, j;

	l->nr_pages = 0;
	for (i = 0; i < nr; i++) {
		unsigned int len = 1 + prandom_u32_state(rnd) % MAX_SEG_PAGES;
		/* less than LIST_DMA */
		u64 addr = (prandom_u32_state(rnd) >> 14) <<
			   NVME_CTRL_PAGE_SHIFT;

		if (even && i + 1 < nr)
			len = 1 << shift;
		else if (even)
			len = min(len, 1U << shift);
		l->segs[i].off = (u64)l->nr_pages << NVME_CTRL_PAGE_SHIFT;
		l->segs[i].addr = addr;
		for (j = 0; j < len; j++)
			l->addr[l->nr_pages++] = addr + j * NVME_CTRL_PAGE_SIZE;
	}
	l->segs[nr].off = (u64)l->nr_pages << NVME_CTRL_PAGE_SHIFT;
	l->map.segs = l->segs;
	l->map.nr_segs = nr;
	l->map.seg_shift = even ? shift + NVME_CTRL_PAGE_SHIFT : 0;
}

static void nvme_prp_list_test_fill(struct kunit *test)
{
	struct layout *l = kunit_kzalloc(test, sizeof(*l), GFP_KERNEL);
	__le64 prps[MAX_SEGS * MAX_SEG_PAGES];
	unsigned int i, j, first, nr;
	struct rnd_state rnd;

	KUNIT_ASSERT_NOT_NULL(test, l);
	prandom_seed_state(&rnd, 2);
	for (i = 0; i < 1000000; i++) {
		layout_make(l, &rnd);
		first = prandom_u32_state(&rnd) % l->nr_pages;
		nr = 1 + prandom_u32_state(&rnd) % (l->nr_pages - first);
		nvme_prp_list_fill(prps, nr, &l->map,
				   (u64)first << NVME_CTRL_PAGE_SHIFT);
		for (j = 0; j < nr; j++)
			if (le64_to_cpu(prps[j]) != l->addr[first + j])
				break;
		KUNIT_ASSERT_EQ_MSG(test, j, nr, "layout %u, page %u", i,
				    first + j);
		cond_resched();
	}
}

/* where the list is, also with addresses of 32 bits */
#define LIST_DMA	BIT(31)

/* A request and all that it takes to find out what its controller can do */
struct dptr {
	struct layout		layout;
	struct nvme_dmabuf_map	map;
	struct nvme_dmabuf_list	list;
	__le64			prps[MAX_SEGS * MAX_SEG_PAGES];
	struct nvme_dev		dev;
	struct nvme_queue	nvmeq;
	struct blk_mq_hw_ctx	hctx;
	struct request		req;
	struct nvme_iod		iod;
};

static void dptr_make(struct dptr *d, struct rnd_state *rnd)
{
	struct layout *l = &d->layout;

	layout_make(l, rnd);
	d->map.map = l->map;
	d->map.nr_pages = l->nr_pages;
	d->map.lists = l->nr_pages > 2 ? &d->list : NULL;
	d->list.dma = LIST_DMA;
	d->list.prps = d->prps;
	nvme_prp_list_fill(d->prps, l->nr_pages, &l->map, 0);
}

/* The address that the controller has for a page of data, PRPs only */
static u64 dptr_prp(const struct dptr *d, unsigned int page, unsigned int nr)
{
	const union nvme_data_ptr *dptr = &d->iod.cmd.common.dptr;
	u64 prp2 = le64_to_cpu(dptr->prp2);
	unsigned int slot;

	if (!page)
		return le64_to_cpu(dptr->prp1);
	if (nr == 2)
		return prp2;
	if (prp2 < LIST_DMA)
		return 0;
	slot = (prp2 - LIST_DMA) / sizeof(__le64) + page - 1;
	return slot < d->map.nr_pages ? le64_to_cpu(d->prps[slot]) : 0;
}

/* Whether the pointer is an SGL; if it isn't the very data, that is a failure */
static bool dptr_check(struct kunit *test, struct dptr *d, u64 off,
		       unsigned int len)
{
	unsigned int in_page = off & (NVME_CTRL_PAGE_SIZE - 1);
	unsigned int nr = DIV_ROUND_UP(in_page + len, NVME_CTRL_PAGE_SIZE);
	u64 *addr = &d->layout.addr[off >> NVME_CTRL_PAGE_SHIFT];
	const struct nvme_common_command *cmd = &d->iod.cmd.common;
	bool sgl = cmd->flags & NVME_CMD_SGL_METABUF;
	unsigned int i;

	if (sgl) {
		const struct nvme_sgl_desc *sge = &cmd->dptr.sgl;

		KUNIT_ASSERT_EQ(test, sge->type, NVME_SGL_FMT_DATA_DESC << 4);
		KUNIT_ASSERT_EQ(test, le32_to_cpu(sge->length), len);
		KUNIT_ASSERT_EQ(test, le64_to_cpu(sge->addr),
				addr[0] + in_page);
		for (i = 1; i < nr; i++)
			KUNIT_ASSERT_EQ(test, addr[i],
					addr[0] + i * NVME_CTRL_PAGE_SIZE);
		return true;
	}
	for (i = 0; i < nr; i++)
		KUNIT_ASSERT_EQ_MSG(test, dptr_prp(d, i, nr),
				    addr[i] + (i ? 0 : in_page),
				    "page %u of %u at %llx", i, nr, off);
	if (nr == 1)
		KUNIT_ASSERT_EQ(test, le64_to_cpu(cmd->dptr.prp2), 0);
	return false;
}

static void dptr_init(struct kunit *test, struct dptr *d)
{
	KUNIT_ASSERT_PTR_EQ(test, blk_mq_rq_to_pdu(&d->req), (void *)&d->iod);
	d->nvmeq.dev = &d->dev;
	d->nvmeq.qid = 1;
	d->hctx.driver_data = &d->nvmeq;
	d->req.mq_hctx = &d->hctx;
}

/* What a queued request gets, with the decision that other requests get */
static blk_status_t dptr_set(struct dptr *d, u64 off, unsigned int len)
{
	return nvme_dmabuf_set_dptr(&d->req, &d->map, off, len,
				    nvme_pci_use_sgls(&d->dev, &d->req));
}

/*
 * Requests of any size, of a controller that has no SGLs, of one that has, and of
 * one whose SGLs are turned off, in memory of one piece and of several
 */
static void nvme_prp_list_test_dptr(struct kunit *test)
{
	struct dptr *d = kunit_kzalloc(test, sizeof(*d), GFP_KERNEL);
	unsigned int i, threshold, sgls[3] = {}, lists[3] = {};
	struct rnd_state rnd;

	KUNIT_ASSERT_NOT_NULL(test, d);
	dptr_init(test, d);
	prandom_seed_state(&rnd, 3);

	for (i = 0; i < 100000; i++) {
		unsigned int kind = i % 3, blocks, first, nr;
		blk_status_t status;

		dptr_make(d, &rnd);
		d->dev.ctrl.sgls = kind ? NVME_CTRL_SGLS_BYTE_ALIGNED : 0;
		memset(&d->iod, 0, sizeof(d->iod));
		blocks = d->layout.nr_pages << (NVME_CTRL_PAGE_SHIFT - 9);
		first = prandom_u32_state(&rnd) % blocks;
		nr = 1 + prandom_u32_state(&rnd) % (blocks - first);

		/* the drives of this machine get by without SGLs, too */
		threshold = nvme_pci_sgl_threshold;
		if (kind == 2)
			nvme_pci_sgl_threshold = 0;
		status = dptr_set(d, (u64)first << 9, nr << 9);
		nvme_pci_sgl_threshold = threshold;
		KUNIT_ASSERT_EQ(test, BLK_STS_OK, status);
		if (dptr_check(test, d, (u64)first << 9, nr << 9))
			sgls[kind]++;
		else if (le64_to_cpu(d->iod.cmd.common.dptr.prp2) >= LIST_DMA)
			lists[kind]++;
		cond_resched();
	}
	KUNIT_EXPECT_EQ(test, sgls[0], 0);
	KUNIT_EXPECT_GT(test, sgls[1], 0);
	KUNIT_EXPECT_GT(test, lists[1], 0);
	KUNIT_EXPECT_GT(test, lists[0], lists[1]);
	KUNIT_EXPECT_EQ(test, sgls[2], 0);
	KUNIT_EXPECT_GT(test, lists[2], lists[1]);
}

/*
 * Commands of users, who may ask the controller for more or less than their data
 * has: it has to see where that ends.  With pools, as lists are made for them.
 */

#define USER_SEGS	(NVME_MAX_BYTES / NVME_CTRL_PAGE_SIZE + 1)

struct user_cmd {
	struct dptr		d;
	struct io_dmabuf_seg	segs[USER_SEGS + 1];
};

static void user_cmd_pool_destroy(void *pool)
{
	dma_pool_destroy(pool);
}

static struct dma_pool *user_cmd_pool(struct kunit *test, struct device *dev,
				      size_t size)
{
	struct dma_pool *pool;
	int ret;

	pool = dma_pool_create("nvme_prp_list", dev, size, size, 0);
	KUNIT_ASSERT_NOT_NULL(test, pool);
	ret = kunit_add_action_or_reset(test, user_cmd_pool_destroy, pool);
	KUNIT_ASSERT_EQ(test, 0, ret);
	return pool;
}

/* @nr_segs segments of @pages pages, none next to another, and a shared list */
static struct user_cmd *user_cmd_make(struct kunit *test, unsigned int nr_segs,
				      unsigned int pages)
{
	struct user_cmd *u = kunit_kzalloc(test, sizeof(*u), GFP_KERNEL);
	struct device *dev = kunit_device_register(test, "nvme_prp_list");
	struct io_dmabuf_map *map;
	unsigned int i;
	int ret;

	KUNIT_ASSERT_NOT_NULL(test, u);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dev);
	ret = dma_coerce_mask_and_coherent(dev, DMA_BIT_MASK(64));
	KUNIT_ASSERT_EQ(test, 0, ret);
	dptr_init(test, &u->d);
	u->d.nvmeq.descriptor_pools.large =
		user_cmd_pool(test, dev, NVME_CTRL_PAGE_SIZE);
	u->d.nvmeq.descriptor_pools.small =
		user_cmd_pool(test, dev, NVME_SMALL_POOL_SIZE);
	nvme_req(&u->d.req)->flags = NVME_REQ_USERCMD;

	for (i = 0; i <= nr_segs; i++) {
		u->segs[i].off = (u64)i * pages << NVME_CTRL_PAGE_SHIFT;
		u->segs[i].addr = LIST_BASE - (i + 1) * (u64)SZ_1G;
	}
	map = &u->d.map.map;
	map->segs = u->segs;
	map->nr_segs = nr_segs;
	u->d.map.nr_pages = nr_segs * pages;
	u->d.map.lists = &u->d.list;
	u->d.list.dma = LIST_DMA;
	u->d.list.prps = u->d.prps;
	return u;
}

static u64 user_cmd_addr(const struct user_cmd *u, u64 off)
{
	u64 contig;

	return io_dmabuf_map_addr(&u->d.map.map, off, &contig);
}

/* Exactly the data, in segments that say how long they are: number of these */
static unsigned int user_cmd_walk_sgl(struct kunit *test,
				      const struct user_cmd *u, u64 off,
				      unsigned int len)
{
	const struct nvme_iod *iod = &u->d.iod;
	const struct nvme_sgl_desc *sge = &iod->cmd.common.dptr.sgl;
	unsigned int segment = 0, i = 0, nr = 1;

	KUNIT_ASSERT_EQ(test, iod->cmd.common.flags, NVME_CMD_SGL_METABUF);
	while (len) {
		unsigned int n = le32_to_cpu(sge->length);
		u64 addr = le64_to_cpu(sge->addr);

		KUNIT_ASSERT_LT(test, i, nr);
		if (sge->type == NVME_SGL_FMT_DATA_DESC << 4) {
			KUNIT_ASSERT_GT(test, n, 0);
			KUNIT_ASSERT_LE(test, n, len);
			KUNIT_ASSERT_EQ(test, addr, user_cmd_addr(u, off));
			KUNIT_ASSERT_EQ(test, addr + n - 1,
					user_cmd_addr(u, off + n - 1));
			off += n;
			len -= n;
			sge++;
			i++;
			continue;
		}
		/* the last of its segment, and the last of all is no longer */
		KUNIT_ASSERT_EQ(test, i, nr - 1);
		KUNIT_ASSERT_LT(test, segment, iod->nr_descriptors);
		KUNIT_ASSERT_EQ(test, sge->type >> 4,
				segment == iod->nr_descriptors - 1 ?
				NVME_SGL_FMT_LAST_SEG_DESC :
				NVME_SGL_FMT_SEG_DESC);
		KUNIT_ASSERT_EQ(test, n % sizeof(*sge), 0);
		KUNIT_ASSERT_EQ(test, addr,
				virt_to_phys(iod->descriptors[segment]));
		nr = n / sizeof(*sge);
		KUNIT_ASSERT_GT(test, nr, 0);
		KUNIT_ASSERT_LE(test, n, iod->flags & IOD_SMALL_DESCRIPTOR ?
				NVME_SMALL_POOL_SIZE : NVME_CTRL_PAGE_SIZE);
		sge = iod->descriptors[segment++];
		i = 0;
	}
	/* nothing else is in the last one */
	KUNIT_ASSERT_EQ(test, i, nr);
	KUNIT_ASSERT_EQ(test, segment, iod->nr_descriptors);
	return segment;
}

static unsigned int user_cmd_sgl(struct kunit *test, struct user_cmd *u,
				 u64 off, unsigned int len)
{
	unsigned int segments;

	memset(&u->d.iod.cmd, 0, sizeof(u->d.iod.cmd));
	u->d.iod.flags = 0;
	u->d.iod.nr_descriptors = 0;
	KUNIT_ASSERT_EQ(test, BLK_STS_OK, dptr_set(&u->d, off, len));
	segments = user_cmd_walk_sgl(test, u, off, len);
	if (u->d.iod.nr_descriptors)
		nvme_free_descriptors(&u->d.req);
	return segments;
}

/* Even where it could be PRP1 and PRP2, or the shared list, and SGLs are off */
static void nvme_prp_list_test_user_sgl(struct kunit *test)
{
	struct user_cmd *u = user_cmd_make(test, USER_SEGS, 1);
	static const struct {
		unsigned int pages, segments;
	} cases[] = {
		{ 1, 0 }, { 2, 1 }, { 3, 1 }, { 16, 1 }, { 17, 1 }, { 255, 1 },
		{ 256, 1 }, { 257, 2 }, { 511, 2 }, { 512, 3 }, { 766, 3 },
		{ 767, 4 }, { USER_SEGS - 1, 9 },
	};
	unsigned int threshold = nvme_pci_sgl_threshold, i, off;

	u->d.dev.ctrl.sgls = NVME_CTRL_SGLS_BYTE_ALIGNED;
	for (off = 0; off < 2; off++) {
		nvme_pci_sgl_threshold = off ? 0 : threshold;
		for (i = 0; i < ARRAY_SIZE(cases); i++) {
			unsigned int len = cases[i].pages * NVME_CTRL_PAGE_SIZE;

			KUNIT_EXPECT_EQ(test, cases[i].segments,
					user_cmd_sgl(test, u, 0, len));
			KUNIT_EXPECT_EQ(test, cases[i].segments,
					user_cmd_sgl(test, u,
						     NVME_CTRL_PAGE_SIZE,
						     len - 512));
		}
	}
	nvme_pci_sgl_threshold = threshold;
	/* as long as can be, and in one page more than that has */
	KUNIT_EXPECT_EQ(test, 9, user_cmd_sgl(test, u, 512, NVME_MAX_BYTES));
	KUNIT_EXPECT_EQ(test, 1, user_cmd_sgl(test, u, 4096 - 512, 1024));
}

/* The same in longer segments, where most of it needs one SGL descriptor */
static void nvme_prp_list_test_user_segs(struct kunit *test)
{
	struct user_cmd *u = user_cmd_make(test, 300, 4);

	u->d.dev.ctrl.sgls = NVME_CTRL_SGLS_DWORD_ALIGNED;
	KUNIT_EXPECT_EQ(test, 0, user_cmd_sgl(test, u, 4, 16380));
	KUNIT_EXPECT_EQ(test, 0, user_cmd_sgl(test, u, 16384, 8192));
	KUNIT_EXPECT_EQ(test, 1, user_cmd_sgl(test, u, 16384 - 4, 8192));
	KUNIT_EXPECT_EQ(test, 1, user_cmd_sgl(test, u, 512, 256 * 16384 - 512));
	KUNIT_EXPECT_EQ(test, 2, user_cmd_sgl(test, u, 512, 256 * 16384));
}

/* Without SGLs: a list of its own, which others don't use, is all there is */
static void nvme_prp_list_test_user_prps(struct kunit *test)
{
	struct user_cmd *u = user_cmd_make(test, 100, 8);
	struct nvme_iod *iod = &u->d.iod;
	unsigned int pages, i;
	__le64 *prps;

	for (pages = 3; pages <= 512; pages += 509) {
		memset(&iod->cmd, 0, sizeof(iod->cmd));
		iod->flags = 0;
		iod->nr_descriptors = 0;
		KUNIT_ASSERT_EQ(test, BLK_STS_OK,
				dptr_set(&u->d, 0, pages * NVME_CTRL_PAGE_SIZE));
		KUNIT_ASSERT_EQ(test, iod->cmd.common.flags, 0);
		KUNIT_ASSERT_EQ(test, iod->nr_descriptors, 1);
		prps = iod->descriptors[0];
		KUNIT_EXPECT_EQ(test, le64_to_cpu(iod->cmd.common.dptr.prp2),
				virt_to_phys(prps));
		for (i = 1; i < pages; i++)
			KUNIT_ASSERT_EQ(test, le64_to_cpu(prps[i - 1]),
					user_cmd_addr(u, i * SZ_4K));
		nvme_free_descriptors(&u->d.req);
	}
}

static struct kunit_case nvme_prp_list_cases[] = {
	KUNIT_CASE(nvme_prp_list_test_edges),
	KUNIT_CASE(nvme_prp_list_test_random),
	KUNIT_CASE(nvme_prp_list_test_misfits),
	KUNIT_CASE(nvme_prp_list_test_user_sgl),
	KUNIT_CASE(nvme_prp_list_test_user_segs),
	KUNIT_CASE(nvme_prp_list_test_user_prps),
	KUNIT_CASE_SLOW(nvme_prp_list_test_dptr),
	KUNIT_CASE_SLOW(nvme_prp_list_test_fill),
	{}
};

static struct kunit_suite nvme_prp_list_suite = {
	.name = "nvme_prp_list",
	.test_cases = nvme_prp_list_cases,
};

kunit_test_suite(nvme_prp_list_suite);

MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_DESCRIPTION("KUnit tests of PRP lists for dma-bufs");
MODULE_LICENSE("GPL");
