// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of lib/io_dmabuf_token.c, with a mock for the exporter, for the
 * device and for the file.
 *
 * Copyright (C) 2026 The uring-offload authors
 */
#include <kunit/device.h>
#include <kunit/test.h>
#include <linux/anon_inodes.h>
#include <linux/delay.h>
#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/dma-resv.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/io_dmabuf_token.h>
#include <linux/module.h>
#include <linux/scatterlist.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#define MOCK_SEGS	8
#define MOCK_PAGE	256

struct mock_seg {
	dma_addr_t	addr;
	unsigned int	len;
};

struct mock_dev {
	struct io_dmabuf_device	ddev;
	int			init_err, map_err, attach_err, window_err;
	unsigned int		inits, exits, windows, quiesced;
	/* that the next window takes, and how often it has asked for them */
	unsigned int		pages, asked;
};

struct mock {
	/* exporter */
	struct dma_buf		*dmabuf;
	const struct mock_seg	*segs;
	int			attach_err, map_err;
	enum dma_data_direction	only_dir;
	bool			no_p2p, host, released, moving;
	unsigned int		attaches, detaches, maps, unmaps;
	/* file */
	struct file		*file;
	struct mock_dev		devs[IO_DMABUF_MAX_ATTACHES + 1];
	unsigned int		nr_devs;
	struct device		*dev;
};

static struct mock_dev *mock_dev_of(struct dma_buf_attachment *dba)
{
	struct io_dmabuf_attach *attach = dba->importer_priv;

	return container_of(attach->ddev, struct mock_dev, ddev);
}

static int mock_attach(struct dma_buf *dmabuf, struct dma_buf_attachment *dba)
{
	struct mock *mock = dmabuf->priv;

	if (mock->attach_err)
		return mock->attach_err;
	if (mock_dev_of(dba)->attach_err)
		return mock_dev_of(dba)->attach_err;
	if (mock->no_p2p)
		dba->peer2peer = false;
	mock->attaches++;
	return 0;
}

static void mock_detach(struct dma_buf *dmabuf, struct dma_buf_attachment *dba)
{
	struct mock *mock = dmabuf->priv;

	mock->detaches++;
}

static int mock_pin(struct dma_buf_attachment *dba)
{
	return 0;
}

static void mock_unpin(struct dma_buf_attachment *dba)
{
}

static struct sg_table *mock_map(struct dma_buf_attachment *dba,
				 enum dma_data_direction dir)
{
	struct mock *mock = dba->dmabuf->priv;
	struct scatterlist *sg;
	struct sg_table *sgt;
	unsigned int nr = 0;
	int i;

	dma_resv_assert_held(dba->dmabuf->resv);

	if (mock->map_err)
		return ERR_PTR(mock->map_err);
	if (mock->only_dir != DMA_NONE && dir != mock->only_dir)
		return ERR_PTR(-EACCES);
	if (mock_dev_of(dba)->map_err)
		return ERR_PTR(mock_dev_of(dba)->map_err);
	while (nr < MOCK_SEGS && (mock->segs[nr].addr || mock->segs[nr].len))
		nr++;
	sgt = kzalloc_obj(*sgt);
	if (!sgt)
		return ERR_PTR(-ENOMEM);
	if (sg_alloc_table(sgt, nr, GFP_KERNEL)) {
		kfree(sgt);
		return ERR_PTR(-ENOMEM);
	}
	for_each_sgtable_dma_sg(sgt, sg, i) {
		/* without pages it is memory of a device */
		if (mock->host)
			sg_set_page(sg, ZERO_PAGE(0), mock->segs[i].len, 0);
		sg_dma_address(sg) = mock->segs[i].addr;
		sg_dma_len(sg) = mock->segs[i].len;
	}
	mock->maps++;
	return sgt;
}

static void mock_unmap(struct dma_buf_attachment *dba, struct sg_table *sgt,
		       enum dma_data_direction dir)
{
	struct mock *mock = dba->dmabuf->priv;

	dma_resv_assert_held(dba->dmabuf->resv);

	sg_free_table(sgt);
	kfree(sgt);
	mock->unmaps++;
}

static void mock_release(struct dma_buf *dmabuf)
{
	struct mock *mock = dmabuf->priv;

	mock->released = true;
}

static const struct dma_buf_ops mock_ops = {
	.attach		= mock_attach,
	.detach		= mock_detach,
	.pin		= mock_pin,
	.unpin		= mock_unpin,
	.map_dma_buf	= mock_map,
	.unmap_dma_buf	= mock_unmap,
	.release	= mock_release,
};

static int mock_map_init(struct io_dmabuf_device *ddev,
			 struct io_dmabuf_map *map)
{
	struct mock_dev *dev = container_of(ddev, struct mock_dev, ddev);

	if (dev->init_err)
		return dev->init_err;
	dev->inits++;
	return 0;
}

static void mock_map_exit(struct io_dmabuf_device *ddev,
			  struct io_dmabuf_map *map)
{
	struct mock_dev *dev = container_of(ddev, struct mock_dev, ddev);

	dev->exits++;
}

static int mock_map_window(struct io_dmabuf_device *ddev,
			   struct io_dmabuf_map *map, u64 off, u64 len,
			   struct io_dmabuf_pages *pages)
{
	struct mock_dev *dev = container_of(ddev, struct mock_dev, ddev);

	if (dev->window_err)
		return dev->window_err;
	if (pages->nr < dev->pages) {
		pages->need = dev->pages;
		dev->asked++;
		return -ENOBUFS;
	}
	for (; dev->pages; dev->pages--) {
		void *page = io_dmabuf_pages_take(pages);

		WARN_ON(memchr_inv(page, 0, MOCK_PAGE));
		kfree(page);
	}
	dev->windows++;
	return 0;
}

static void mock_quiesce(struct io_dmabuf_device *ddev,
			 struct io_dmabuf_map *map)
{
	struct mock_dev *dev = container_of(ddev, struct mock_dev, ddev);
	struct mock *mock = map->attach->dmabuf->priv;
	struct dma_buf_attachment *dba;

	/* what is waited for can't be found any more, wherever it is mapped */
	list_for_each_entry(dba, &map->attach->dmabuf->attachments, node) {
		struct io_dmabuf_attach *attach = dba->importer_priv;

		if (mock->moving || attach == map->attach)
			WARN_ON(attach->map);
	}
	dev->quiesced++;
}

static const struct io_dmabuf_device_ops mock_dev_ops = {
	.map_size	= sizeof(struct io_dmabuf_map),
	.map_init	= mock_map_init,
	.map_exit	= mock_map_exit,
	.map_window	= mock_map_window,
	.page_size	= MOCK_PAGE,
	.quiesce	= mock_quiesce,
};

static int mock_create_token(struct file *file, struct io_dmabuf_token *token)
{
	struct mock *mock = file->private_data;
	unsigned int i;
	int ret = 0;

	for (i = 0; i < mock->nr_devs && !ret; i++)
		ret = io_dmabuf_attach_add(token, &mock->devs[i].ddev);
	return ret;
}

static const struct file_operations mock_fops = {
	.create_dmabuf_token	= mock_create_token,
};

static const struct file_operations mock_plain_fops = {};

static const struct mock_seg one_seg[MOCK_SEGS] = {
	{ 0x10000000, SZ_64K },
};

static int io_dmabuf_test_init(struct kunit *test)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct mock *mock;
	unsigned int i;

	mock = kunit_kzalloc(test, sizeof(*mock), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, mock);
	test->priv = mock;
	mock->segs = one_seg;
	mock->nr_devs = 1;
	mock->only_dir = DMA_NONE;

	mock->dev = kunit_device_register(test, "io_dmabuf");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, mock->dev);
	for (i = 0; i < ARRAY_SIZE(mock->devs); i++)
		io_dmabuf_device_init(&mock->devs[i].ddev, mock->dev,
				      &mock_dev_ops);

	mock->file = anon_inode_getfile("[io_dmabuf]", &mock_fops, mock,
					O_RDWR);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, mock->file);

	info.ops = &mock_ops;
	info.size = SZ_64K;
	info.flags = O_RDWR;
	info.priv = mock;
	mock->dmabuf = dma_buf_export(&info);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, mock->dmabuf);
	return 0;
}

/* After each test: whatever happened, nothing is left. */
static void io_dmabuf_test_exit(struct kunit *test)
{
	struct mock *mock = test->priv;
	unsigned int i;

	if (!mock || IS_ERR_OR_NULL(mock->dmabuf))
		return;
	KUNIT_EXPECT_EQ(test, mock->attaches, mock->detaches);
	KUNIT_EXPECT_EQ(test, mock->maps, mock->unmaps);
	for (i = 0; i < ARRAY_SIZE(mock->devs); i++) {
		struct mock_dev *dev = &mock->devs[i];

		KUNIT_EXPECT_EQ(test, dev->inits, dev->exits);
		KUNIT_EXPECT_TRUE(test, list_empty(&dev->ddev.attaches));
	}
	dma_buf_put(mock->dmabuf);
	fput(mock->file);
	flush_delayed_fput();
	KUNIT_EXPECT_TRUE(test, mock->released);
}

static struct io_dmabuf_token *mock_token(struct mock *mock)
{
	return io_dmabuf_token_create(mock->file, mock->dmabuf,
				      DMA_BIDIRECTIONAL, 0, 0, 0);
}

static int mock_prepare(struct io_dmabuf_token *token)
{
	struct io_dmabuf_wait wait = {};

	return io_dmabuf_token_prepare(token, &wait);
}

static void mock_move(struct mock *mock)
{
	dma_resv_lock(mock->dmabuf->resv, NULL);
	mock->moving = true;
	dma_buf_invalidate_mappings(mock->dmabuf);
	mock->moving = false;
	dma_resv_unlock(mock->dmabuf->resv);
}

static void io_dmabuf_test_create(struct kunit *test)
{
	struct mock *mock = test->priv;
	struct io_dmabuf_token *token = mock_token(mock);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, token);
	KUNIT_EXPECT_EQ(test, token->len, SZ_64K);
	KUNIT_EXPECT_TRUE(test, io_dmabuf_token_ready(token));
	KUNIT_EXPECT_TRUE(test, io_dmabuf_token_match(token, mock->file));
	KUNIT_EXPECT_NOT_NULL(test, io_dmabuf_map_get(token,
						      &mock->devs[0].ddev));
	KUNIT_EXPECT_EQ(test, mock->attaches, 1);
	KUNIT_EXPECT_EQ(test, mock->maps, 1);

	/* there is nothing to do */
	KUNIT_EXPECT_EQ(test, mock_prepare(token), 0);
	KUNIT_EXPECT_EQ(test, mock->maps, 1);

	io_dmabuf_token_put(token);
	KUNIT_EXPECT_EQ(test, mock->unmaps, 1);
	/* without requests there is nothing to wait for */
	KUNIT_EXPECT_EQ(test, mock->devs[0].quiesced, 0);
}

static void io_dmabuf_test_window(struct kunit *test)
{
	static const struct {
		u64	off, len;
		long	err;
	} cases[] = {
		{ 0,		SZ_64K,		0 },
		{ SZ_4K,	SZ_4K,		0 },
		{ SZ_4K,	0,		0 },
		{ SZ_4K,	512,		0 },
		{ 512,		SZ_4K,		-EINVAL },
		{ 0,		SZ_64K + 1,	-EINVAL },
		{ SZ_4K,	SZ_64K,		-EINVAL },
		{ SZ_64K,	0,		-EINVAL },
		{ SZ_4K,	-SZ_4K,		-EOVERFLOW },
		{ -SZ_4K,	0,		-EINVAL },
	};
	struct mock *mock = test->priv;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		u64 len = cases[i].len;
		struct io_dmabuf_token *token;

		token = io_dmabuf_token_create(mock->file, mock->dmabuf,
					       DMA_BIDIRECTIONAL, cases[i].off,
					       len, 0);
		KUNIT_EXPECT_EQ_MSG(test, PTR_ERR_OR_ZERO(token), cases[i].err,
				    "case %u", i);
		if (IS_ERR(token))
			continue;
		KUNIT_EXPECT_EQ(test, token->off, cases[i].off);
		if (!len)
			len = SZ_64K - cases[i].off;
		KUNIT_EXPECT_EQ(test, token->len, len);
		io_dmabuf_token_put(token);
	}
}

static void io_dmabuf_test_refused(struct kunit *test)
{
	struct mock *mock = test->priv;
	struct io_dmabuf_token *token;

	mock->attach_err = -EPERM;
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(mock_token(mock)), -EPERM);
	mock->attach_err = 0;

	mock->map_err = -ENODEV;
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(mock_token(mock)), -ENODEV);
	mock->map_err = 0;

	mock->devs[0].init_err = -ENOMEM;
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(mock_token(mock)), -ENOMEM);
	mock->devs[0].init_err = 0;

	mock->nr_devs = 0;
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(mock_token(mock)), -ENODEV);
	mock->nr_devs = ARRAY_SIZE(mock->devs);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(mock_token(mock)), -EMFILE);
	mock->nr_devs = 1;

	mock->no_p2p = true;
	token = io_dmabuf_token_create(mock->file, mock->dmabuf,
				       DMA_BIDIRECTIONAL, 0, 0,
				       IO_DMABUF_P2P_REQUIRED);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(token), -EREMOTEIO);

	replace_fops(mock->file, &mock_plain_fops);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(mock_token(mock)), -EOPNOTSUPP);
}

/* Every offset has the address that a walk from the start finds. */
static void io_dmabuf_check_addrs(struct kunit *test, struct mock *mock,
				  struct io_dmabuf_map *map)
{
	const struct mock_seg *seg = mock->segs;
	u64 start = 0, off, left;

	for (off = 0; off < SZ_64K; off += 512) {
		dma_addr_t addr;

		while (off >= start + seg->len)
			start += seg++->len;
		addr = io_dmabuf_map_addr(map, off, &left);
		KUNIT_ASSERT_EQ_MSG(test, addr, seg->addr + (off - start),
				    "offset %llu", off);
		KUNIT_ASSERT_GE(test, left, start + seg->len - off);
		KUNIT_ASSERT_LE(test, off + left, SZ_64K);
	}
}

static void io_dmabuf_test_segments(struct kunit *test)
{
	static const struct {
		struct mock_seg	segs[MOCK_SEGS];
		unsigned int	nr;
		u8		shift;
	} cases[] = {
		{ { { SZ_1M, SZ_64K } }, 1, 0 },
		{ { { SZ_1M, SZ_4K }, { SZ_1M + SZ_4K, SZ_64K - SZ_4K } },
		  1, 0 },
		{ { { SZ_2M, SZ_32K }, { SZ_1M, SZ_32K } }, 2, 15 },
		{ { { SZ_2M, SZ_16K }, { SZ_1M, SZ_16K }, { SZ_4M, SZ_16K },
		    { SZ_8M, SZ_8K }, { SZ_16M, SZ_8K } }, 5, 0 },
		{ { { SZ_4M, SZ_32K - SZ_4K }, { SZ_1M, SZ_32K + SZ_4K } },
		  2, 0 },
		{ { { SZ_4M, SZ_16K }, { SZ_1M, SZ_16K },
		    { SZ_1M + SZ_16K, SZ_32K } }, 2, 0 },
		{ { { SZ_4M, SZ_4K }, { SZ_8M, SZ_64K - SZ_4K } }, 2, 0 },
		{ { { SZ_4M, SZ_8K }, { SZ_8M, SZ_8K }, { SZ_1M, SZ_8K },
		    { SZ_2M, SZ_8K }, { SZ_16M, SZ_8K }, { SZ_32M, SZ_8K },
		    { SZ_64M, SZ_8K }, { SZ_128M, SZ_8K } }, 8, 13 },
	};
	struct mock *mock = test->priv;
	struct io_dmabuf_token *token;
	struct io_dmabuf_map *map;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		mock->segs = cases[i].segs;
		token = mock_token(mock);
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, token);
		map = io_dmabuf_map_get(token, &mock->devs[0].ddev);
		KUNIT_ASSERT_NOT_NULL(test, map);
		KUNIT_EXPECT_EQ_MSG(test, map->nr_segs, cases[i].nr,
				    "case %u", i);
		KUNIT_EXPECT_EQ_MSG(test, map->seg_shift, cases[i].shift,
				    "case %u", i);
		io_dmabuf_check_addrs(test, mock, map);
		io_dmabuf_token_put(token);
	}
}

/* An exporter is not trusted to give addresses that fit. */
static void io_dmabuf_test_bad_tables(struct kunit *test)
{
	static const struct mock_seg cases[][MOCK_SEGS] = {
		{ { SZ_1M, SZ_32K } },
		{ { SZ_1M, SZ_128K } },
		{ { SZ_1M + 512, SZ_64K } },
		{ { SZ_1M, SZ_64K - 512 }, { SZ_2M, 512 } },
		{ { SZ_1M, SZ_64K }, { SZ_2M, 0 } },
		{ { (dma_addr_t)-SZ_4K, SZ_64K } },
	};
	struct mock *mock = test->priv;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		mock->segs = cases[i];
		KUNIT_EXPECT_EQ_MSG(test, PTR_ERR_OR_ZERO(mock_token(mock)),
				    -EINVAL, "case %u", i);
		KUNIT_EXPECT_EQ(test, mock->unmaps, mock->maps);
	}
	KUNIT_EXPECT_EQ(test, mock->maps, ARRAY_SIZE(cases));
}

static void io_dmabuf_test_move(struct kunit *test)
{
	static const struct mock_seg moved[MOCK_SEGS] = { { SZ_8M, SZ_64K } };
	struct mock *mock = test->priv;
	struct mock_dev *dev = &mock->devs[0];
	struct io_dmabuf_token *token = mock_token(mock);
	struct io_dmabuf_map *map;
	u64 left;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, token);

	mock_move(mock);
	KUNIT_EXPECT_EQ(test, dev->quiesced, 1);
	KUNIT_EXPECT_EQ(test, mock->unmaps, 1);
	KUNIT_EXPECT_NULL(test, io_dmabuf_map_get(token, &dev->ddev));
	KUNIT_EXPECT_FALSE(test, io_dmabuf_token_ready(token));
	/* again: there is nothing to take away */
	mock_move(mock);
	KUNIT_EXPECT_EQ(test, dev->quiesced, 1);

	mock->segs = moved;
	KUNIT_EXPECT_EQ(test, mock_prepare(token), 0);
	KUNIT_EXPECT_TRUE(test, io_dmabuf_token_ready(token));
	map = io_dmabuf_map_get(token, &dev->ddev);
	KUNIT_ASSERT_NOT_NULL(test, map);
	KUNIT_EXPECT_EQ(test, io_dmabuf_map_addr(map, SZ_4K, &left),
			SZ_8M + SZ_4K);
	KUNIT_EXPECT_EQ(test, 1, list_first_entry(&token->uses,
						  struct io_dmabuf_use,
						  node)->moves);

	io_dmabuf_token_put(token);
}

/* It is in more pieces from now on, then in less, and the driver wants memory. */
static void io_dmabuf_test_tables(struct kunit *test)
{
	static const struct mock_seg moved[][MOCK_SEGS] = {
		{ { SZ_2M, SZ_32K }, { SZ_1M, SZ_32K } },
		{ { SZ_4M, SZ_8K }, { SZ_8M, SZ_8K }, { SZ_1M, SZ_8K },
		  { SZ_2M, SZ_8K }, { SZ_16M, SZ_8K }, { SZ_32M, SZ_8K },
		  { SZ_64M, SZ_8K }, { SZ_128M, SZ_8K } },
		{ { SZ_1M, SZ_64K } },
		{ { SZ_4M, SZ_16K }, { SZ_8M, SZ_32K }, { SZ_16M, SZ_16K } },
	};
	struct mock *mock = test->priv;
	struct mock_dev *dev = &mock->devs[0];
	struct io_dmabuf_token *token, *other;
	struct io_dmabuf_seg *segs = NULL;
	struct io_dmabuf_map *map;
	unsigned int i;

	dev->pages = 3;
	token = mock_token(mock);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, token);
	KUNIT_EXPECT_EQ(test, dev->asked, 1);
	KUNIT_EXPECT_EQ(test, dev->pages, 0);
	KUNIT_EXPECT_EQ(test, mock->maps, 1);
	other = mock_token(mock);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, other);

	for (i = 0; i < ARRAY_SIZE(moved); i++) {
		mock_move(mock);
		mock->segs = moved[i];
		dev->pages = i;
		KUNIT_EXPECT_EQ(test, mock_prepare(i & 1 ? token : other), 0);
		/* it stays mapped while somebody gets the memory for tables */
		KUNIT_EXPECT_EQ(test, mock->maps, i + 2);
		KUNIT_EXPECT_EQ(test, dev->pages, 0);
		map = io_dmabuf_map_get(i & 1 ? token : other, &dev->ddev);
		KUNIT_ASSERT_NOT_NULL(test, map);
		io_dmabuf_check_addrs(test, mock, map);
		/* there is room since the second time */
		if (i > 1)
			KUNIT_EXPECT_PTR_EQ(test, segs, map->segs);
		segs = map->segs;
	}
	KUNIT_EXPECT_EQ(test, dev->asked, 4);
	io_dmabuf_token_put(token);
	io_dmabuf_token_put(other);
}

static const char *mock_fence_name(struct dma_fence *fence)
{
	return "io_dmabuf";
}

static const struct dma_fence_ops mock_fence_ops = {
	.get_driver_name	= mock_fence_name,
	.get_timeline_name	= mock_fence_name,
};

/* The memory moves, and isn't there before the fence says so. */
static struct dma_fence *mock_move_fence(struct kunit *test, struct mock *mock)
{
	struct dma_resv *resv = mock->dmabuf->resv;
	struct dma_fence *fence = kzalloc_obj(*fence);

	KUNIT_ASSERT_NOT_NULL(test, fence);
	dma_fence_init(fence, &mock_fence_ops, NULL,
		       dma_fence_context_alloc(1), 1);
	dma_resv_lock(resv, NULL);
	KUNIT_EXPECT_EQ(test, dma_resv_reserve_fences(resv, 1), 0);
	dma_buf_invalidate_mappings(mock->dmabuf);
	dma_resv_add_fence(resv, fence, DMA_RESV_USAGE_KERNEL);
	dma_resv_unlock(resv);
	return fence;
}

static void mock_arrive(struct dma_fence *fence)
{
	dma_fence_signal(fence);
	dma_fence_put(fence);
}

/* Somebody who loses patience after a few looks. */
struct mock_wait {
	struct io_dmabuf_wait	wait;
	struct mock		*mock;
	unsigned int		looks;
	bool			locked;
};

static bool mock_canceled(struct io_dmabuf_wait *wait)
{
	struct mock_wait *w = container_of(wait, struct mock_wait, wait);

	if (dma_resv_trylock(w->mock->dmabuf->resv))
		dma_resv_unlock(w->mock->dmabuf->resv);
	else
		w->locked = true;
	return ++w->looks > 2;
}

static void io_dmabuf_test_wait(struct kunit *test)
{
	struct mock *mock = test->priv;
	struct mock_dev *dev = &mock->devs[0];
	struct io_dmabuf_token *token = mock_token(mock);
	struct mock_wait w = {
		.wait.canceled = mock_canceled, .mock = mock,
	};
	struct io_dmabuf_wait over = { .end = jiffies ?: 1 };
	struct dma_fence *fence;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, token);
	fence = mock_move_fence(test, mock);
	KUNIT_EXPECT_EQ(test, io_dmabuf_token_prepare(token, &over),
			-ETIMEDOUT);
	/* mapped, and not to be found before the memory is there */
	KUNIT_EXPECT_EQ(test, mock->maps, 2);
	KUNIT_EXPECT_FALSE(test, io_dmabuf_token_ready(token));
	KUNIT_EXPECT_NULL(test, io_dmabuf_map_get(token, &dev->ddev));

	KUNIT_EXPECT_EQ(test, io_dmabuf_token_prepare(token, &w.wait),
			-ECANCELED);
	KUNIT_EXPECT_EQ(test, w.looks, 3);
	KUNIT_EXPECT_FALSE(test, w.locked);
	KUNIT_EXPECT_EQ(test, mock->maps, 2);

	/* it is there: also for whose time is over */
	mock_arrive(fence);
	KUNIT_EXPECT_EQ(test, io_dmabuf_token_prepare(token, &over), 0);
	KUNIT_EXPECT_EQ(test, mock->maps, 2);
	KUNIT_EXPECT_TRUE(test, io_dmabuf_token_ready(token));

	/* moved, and moved again before it was there */
	fence = mock_move_fence(test, mock);
	KUNIT_EXPECT_EQ(test, io_dmabuf_token_prepare(token, &over),
			-ETIMEDOUT);
	KUNIT_EXPECT_EQ(test, mock->unmaps, 2);
	mock_move(mock);
	KUNIT_EXPECT_EQ(test, mock->unmaps, 3);
	mock_arrive(fence);
	KUNIT_EXPECT_EQ(test, mock_prepare(token), 0);
	KUNIT_EXPECT_EQ(test, mock->maps, 4);

	/* the token goes first, then the device */
	fence = mock_move_fence(test, mock);
	KUNIT_EXPECT_EQ(test, io_dmabuf_token_prepare(token, &over),
			-ETIMEDOUT);
	io_dmabuf_token_put(token);
	KUNIT_EXPECT_EQ(test, mock->unmaps, mock->maps);
	mock_arrive(fence);
	token = mock_token(mock);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, token);
	fence = mock_move_fence(test, mock);
	KUNIT_EXPECT_EQ(test, io_dmabuf_token_prepare(token, &over),
			-ETIMEDOUT);
	io_dmabuf_device_shutdown(&dev->ddev);
	KUNIT_EXPECT_EQ(test, mock->unmaps, mock->maps);
	KUNIT_EXPECT_EQ(test, io_dmabuf_token_prepare(token, &over), -ENODEV);
	mock_arrive(fence);
	io_dmabuf_token_put(token);
}

static void io_dmabuf_test_revoke(struct kunit *test)
{
	struct mock *mock = test->priv;
	struct io_dmabuf_token *token = mock_token(mock);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, token);

	mock->map_err = -ENODEV;
	mock_move(mock);
	KUNIT_EXPECT_EQ(test, mock_prepare(token), -ENODEV);
	KUNIT_EXPECT_EQ(test, mock_prepare(token), -ENODEV);
	KUNIT_EXPECT_FALSE(test, io_dmabuf_token_ready(token));

	/* enabled again */
	mock->map_err = 0;
	KUNIT_EXPECT_EQ(test, mock_prepare(token), 0);
	KUNIT_EXPECT_TRUE(test, io_dmabuf_token_ready(token));

	/* put while it is revoked */
	mock->map_err = -ENODEV;
	mock_move(mock);
	io_dmabuf_token_put(token);
}

/* The device's memory is full, so the exporter moves it to the host's. */
static void io_dmabuf_test_p2p(struct kunit *test)
{
	struct mock *mock = test->priv;
	struct io_dmabuf_device *ddev = &mock->devs[0].ddev;
	struct io_dmabuf_token *token, *other;

	mock->host = true;
	token = io_dmabuf_token_create(mock->file, mock->dmabuf,
				       DMA_BIDIRECTIONAL, 0, 0,
				       IO_DMABUF_P2P_REQUIRED);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(token), -EREMOTEIO);
	mock->host = false;
	token = io_dmabuf_token_create(mock->file, mock->dmabuf,
				       DMA_BIDIRECTIONAL, 0, 0,
				       IO_DMABUF_P2P_REQUIRED);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, token);
	other = mock_token(mock);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, other);
	KUNIT_EXPECT_TRUE(test, io_dmabuf_map_get(token, ddev)->attach->p2p);
	KUNIT_EXPECT_FALSE(test, io_dmabuf_map_get(token, ddev)->need_sync);
	KUNIT_EXPECT_TRUE(test, io_dmabuf_map_get(other, ddev)->attach->p2p);

	mock->host = true;
	mock_move(mock);
	KUNIT_EXPECT_EQ(test, mock_prepare(token), -EREMOTEIO);
	KUNIT_EXPECT_FALSE(test, io_dmabuf_token_ready(token));
	KUNIT_EXPECT_EQ(test, mock_prepare(other), 0);
	KUNIT_EXPECT_FALSE(test, io_dmabuf_map_get(other, ddev)->attach->p2p);

	mock->host = false;
	mock_move(mock);
	KUNIT_EXPECT_EQ(test, mock_prepare(token), 0);
	KUNIT_EXPECT_TRUE(test, io_dmabuf_map_get(token, ddev)->attach->p2p);
	io_dmabuf_token_put(token);
	io_dmabuf_token_put(other);
}

static void io_dmabuf_test_device_gone(struct kunit *test)
{
	struct mock *mock = test->priv;
	struct mock_dev *dev = &mock->devs[0];
	struct io_dmabuf_token *token = mock_token(mock);
	struct io_dmabuf_token *other = mock_token(mock);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, token);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, other);
	mock_move(mock);
	KUNIT_EXPECT_EQ(test, mock_prepare(other), 0);

	io_dmabuf_device_shutdown(&dev->ddev);
	KUNIT_EXPECT_EQ(test, mock->unmaps, mock->maps);
	KUNIT_EXPECT_EQ(test, mock->detaches, 1);
	KUNIT_EXPECT_FALSE(test, io_dmabuf_token_ready(token));
	KUNIT_EXPECT_NULL(test, io_dmabuf_map_get(token, &dev->ddev));
	KUNIT_EXPECT_EQ(test, mock_prepare(token), -ENODEV);
	KUNIT_EXPECT_EQ(test, mock_prepare(other), -ENODEV);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(mock_token(mock)), -ENODEV);
	/* the exporter doesn't have to know */
	mock_move(mock);

	io_dmabuf_token_put(token);
	io_dmabuf_token_put(other);
}

#define MOCK_TOKENS	64

/* However many tokens there are, each device is attached and mapped once. */
static void io_dmabuf_test_shared(struct kunit *test)
{
	struct io_dmabuf_token **tokens, *other, *part;
	struct mock *mock = test->priv;
	struct mock_dev *dev = &mock->devs[0];
	struct io_dmabuf_map *map;
	unsigned int i;

	tokens = kunit_kcalloc(test, MOCK_TOKENS, sizeof(*tokens), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, tokens);
	mock->nr_devs = 2;
	for (i = 0; i < MOCK_TOKENS; i++) {
		tokens[i] = mock_token(mock);
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, tokens[i]);
	}
	KUNIT_EXPECT_EQ(test, mock->attaches, 2);
	KUNIT_EXPECT_EQ(test, mock->maps, 2);
	KUNIT_EXPECT_EQ(test, dev->inits, 1);
	KUNIT_EXPECT_EQ(test, dev->windows, MOCK_TOKENS);
	part = io_dmabuf_token_create(mock->file, mock->dmabuf,
				      DMA_BIDIRECTIONAL, SZ_8K, SZ_4K, 0);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, part);
	KUNIT_EXPECT_EQ(test, mock->maps, 2);
	map = io_dmabuf_map_get(part, &dev->ddev);
	KUNIT_EXPECT_PTR_EQ(test, map, io_dmabuf_map_get(tokens[0],
							 &dev->ddev));
	/* a direction of its own */
	other = io_dmabuf_token_create(mock->file, mock->dmabuf, DMA_TO_DEVICE,
				       0, 0, 0);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, other);
	KUNIT_EXPECT_EQ(test, mock->attaches, 4);
	KUNIT_EXPECT_EQ(test, mock->maps, 4);
	KUNIT_EXPECT_PTR_NE(test, map, io_dmabuf_map_get(other, &dev->ddev));
	KUNIT_EXPECT_EQ(test, map->attach->dir, DMA_BIDIRECTIONAL);

	/* one wait for each, and one map for the first who asks */
	mock_move(mock);
	KUNIT_EXPECT_EQ(test, dev->quiesced, 2);
	KUNIT_EXPECT_EQ(test, mock->unmaps, 4);
	for (i = 0; i < MOCK_TOKENS; i++) {
		KUNIT_EXPECT_FALSE(test, io_dmabuf_token_ready(tokens[i]));
		KUNIT_EXPECT_EQ(test, mock_prepare(tokens[i]), 0);
		KUNIT_EXPECT_TRUE(test, io_dmabuf_token_ready(tokens[i]));
	}
	KUNIT_EXPECT_EQ(test, mock->maps, 6);

	/* it is an error of one of them if it can't have it, and of no other */
	dev->window_err = -ENOMEM;
	KUNIT_EXPECT_EQ(test, mock_prepare(part), -ENOMEM);
	KUNIT_EXPECT_TRUE(test, io_dmabuf_token_ready(tokens[0]));
	KUNIT_EXPECT_FALSE(test, io_dmabuf_token_ready(part));
	dev->window_err = 0;
	KUNIT_EXPECT_EQ(test, mock_prepare(part), 0);
	KUNIT_EXPECT_EQ(test, mock->maps, 6);

	/* they go one after the other, the last one takes it along */
	for (i = 0; i < MOCK_TOKENS; i++) {
		io_dmabuf_token_put(tokens[i]);
		KUNIT_EXPECT_EQ(test, mock->unmaps, 4);
	}
	KUNIT_EXPECT_TRUE(test, io_dmabuf_token_ready(part));
	KUNIT_EXPECT_EQ(test, mock->detaches, 0);
	/* a device goes, the other one stays */
	io_dmabuf_device_shutdown(&dev->ddev);
	KUNIT_EXPECT_TRUE(test, io_dmabuf_token_ready(part));
	KUNIT_EXPECT_EQ(test, mock->detaches, 2);
	io_dmabuf_token_put(part);
	KUNIT_EXPECT_EQ(test, mock->detaches, 3);
	io_dmabuf_token_put(other);
}

/* An exporter that lets devices read, or write, is not asked for more. */
static void io_dmabuf_test_one_way(struct kunit *test)
{
	struct mock *mock = test->priv;
	struct io_dmabuf_token *token, *other;

	mock->only_dir = DMA_TO_DEVICE;
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(mock_token(mock)), -EACCES);
	token = io_dmabuf_token_create(mock->file, mock->dmabuf, DMA_TO_DEVICE,
				       0, 0, 0);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, token);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(mock_token(mock)), -EACCES);
	other = io_dmabuf_token_create(mock->file, mock->dmabuf,
				       DMA_FROM_DEVICE, 0, 0, 0);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(other), -EACCES);
	mock_move(mock);
	KUNIT_EXPECT_EQ(test, mock_prepare(token), 0);
	io_dmabuf_token_put(token);
	mock->only_dir = DMA_NONE;
}

/* A path that comes later is attached when the first request meets it. */
static void io_dmabuf_test_new_path(struct kunit *test)
{
	struct mock *mock = test->priv;
	struct io_dmabuf_token *token = mock_token(mock);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, token);
	mock->nr_devs = 2;
	KUNIT_EXPECT_TRUE(test, io_dmabuf_token_ready(token));
	KUNIT_EXPECT_NULL(test, io_dmabuf_map_get(token, &mock->devs[1].ddev));
	KUNIT_EXPECT_FALSE(test, io_dmabuf_token_ready(token));
	KUNIT_EXPECT_EQ(test, mock_prepare(token), 0);
	KUNIT_EXPECT_TRUE(test, io_dmabuf_token_ready(token));
	KUNIT_EXPECT_NOT_NULL(test, io_dmabuf_map_get(token,
						      &mock->devs[1].ddev));
	KUNIT_EXPECT_EQ(test, mock->attaches, 2);

	/* one path goes, the other stays */
	io_dmabuf_device_shutdown(&mock->devs[0].ddev);
	mock->nr_devs = 1;
	KUNIT_EXPECT_TRUE(test, io_dmabuf_token_ready(token));
	KUNIT_EXPECT_EQ(test, mock->devs[0].quiesced, 1);
	KUNIT_EXPECT_EQ(test, mock->devs[1].quiesced, 0);

	io_dmabuf_token_put(token);
}

/* All paths go before the new one comes, and no request has met any of those. */
static void io_dmabuf_test_new_paths(struct kunit *test)
{
	struct mock *mock = test->priv;
	struct io_dmabuf_device *ddev = &mock->devs[0].ddev;
	struct io_dmabuf_token *token = mock_token(mock);
	unsigned int i;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, token);
	for (i = 0; i < 2; i++) {
		io_dmabuf_device_shutdown(ddev);
		KUNIT_EXPECT_FALSE(test, io_dmabuf_token_ready(token));
		if (i)
			KUNIT_EXPECT_EQ(test, mock_prepare(token), -ENODEV);
		mock->nr_devs = 0;
		KUNIT_EXPECT_EQ(test, mock_prepare(token), -ENODEV);
		KUNIT_EXPECT_EQ(test, mock_prepare(token), -ENODEV);
		mock->nr_devs = 1;
		io_dmabuf_device_init(ddev, mock->dev, &mock_dev_ops);
		KUNIT_EXPECT_EQ(test, mock_prepare(token), 0);
		KUNIT_EXPECT_TRUE(test, io_dmabuf_token_ready(token));
		KUNIT_EXPECT_NOT_NULL(test, io_dmabuf_map_get(token, ddev));
	}
	io_dmabuf_token_put(token);
}

/* One of the paths can't have the memory, the others don't care. */
static void io_dmabuf_test_bad_path(struct kunit *test)
{
	static const struct {
		int		err;
		blk_status_t	sts;
	} cases[] = {
		{ -EREMOTEIO, BLK_STS_TARGET },
		{ -ENODEV, BLK_STS_OFFLINE },
		{ -EINVAL, BLK_STS_INVAL },
		{ -EXFULL, BLK_STS_IOERR },
		/* nothing that has the request come again */
		{ -EBUSY, BLK_STS_IOERR },
		{ -EAGAIN, BLK_STS_IOERR },
		{ -ESTALE, BLK_STS_IOERR },
	};
	struct mock *mock = test->priv;
	struct mock_dev *bad = &mock->devs[0], *good = &mock->devs[1];
	struct io_dmabuf_token *token;
	unsigned int i;

	mock->nr_devs = 2;
	/* not when it is made */
	bad->map_err = -EREMOTEIO;
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(mock_token(mock)), -EREMOTEIO);
	bad->map_err = 0;
	token = mock_token(mock);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, token);

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		mock_move(mock);
		bad->map_err = cases[i].err;
		KUNIT_EXPECT_EQ(test, io_dmabuf_map_status(token, &bad->ddev),
				BLK_STS_STALE);
		KUNIT_EXPECT_EQ(test, mock_prepare(token), 0);
		KUNIT_EXPECT_NULL(test, io_dmabuf_map_get(token, &bad->ddev));
		KUNIT_EXPECT_NOT_NULL(test, io_dmabuf_map_get(token,
							      &good->ddev));
		KUNIT_EXPECT_EQ_MSG(test,
				    io_dmabuf_map_status(token, &bad->ddev),
				    cases[i].sts, "case %u", i);
		/* workers have nothing to do */
		KUNIT_EXPECT_TRUE(test, io_dmabuf_token_ready(token));
	}

	/* whose limit is reached now says nothing about the device */
	mock_move(mock);
	bad->map_err = -ENOMEM;
	KUNIT_EXPECT_EQ(test, mock_prepare(token), -ENOMEM);
	KUNIT_EXPECT_EQ(test, io_dmabuf_map_status(token, &bad->ddev),
			BLK_STS_STALE);
	bad->map_err = -EREMOTEIO;
	KUNIT_EXPECT_EQ(test, mock_prepare(token), 0);

	/* it is asked again, but not for each request */
	msleep(2100);
	KUNIT_EXPECT_FALSE(test, io_dmabuf_token_ready(token));
	KUNIT_EXPECT_EQ(test, io_dmabuf_map_status(token, &bad->ddev),
			BLK_STS_STALE);
	bad->map_err = 0;
	KUNIT_EXPECT_EQ(test, mock_prepare(token), 0);
	KUNIT_EXPECT_NOT_NULL(test, io_dmabuf_map_get(token, &bad->ddev));

	/* none of them: that is for io_dmabuf_token_prepare() to say */
	mock_move(mock);
	bad->map_err = -EXFULL;
	good->map_err = -ENODEV;
	KUNIT_EXPECT_EQ(test, mock_prepare(token), -EXFULL);
	KUNIT_EXPECT_FALSE(test, io_dmabuf_token_ready(token));
	KUNIT_EXPECT_EQ(test, io_dmabuf_map_status(token, &bad->ddev),
			BLK_STS_STALE);
	good->map_err = -EINTR;
	bad->map_err = 0;
	KUNIT_EXPECT_EQ(test, mock_prepare(token), -EINTR);
	good->map_err = 0;

	/* a new one that can't be attached */
	KUNIT_EXPECT_EQ(test, mock_prepare(token), 0);
	mock->nr_devs = 3;
	mock->devs[2].attach_err = -ENODEV;
	KUNIT_EXPECT_NULL(test, io_dmabuf_map_get(token, &mock->devs[2].ddev));
	KUNIT_EXPECT_FALSE(test, io_dmabuf_token_ready(token));
	KUNIT_EXPECT_EQ(test, mock_prepare(token), 0);
	KUNIT_EXPECT_TRUE(test, io_dmabuf_token_ready(token));
	KUNIT_EXPECT_NULL(test, io_dmabuf_map_get(token, &mock->devs[2].ddev));
	KUNIT_EXPECT_EQ(test, io_dmabuf_map_status(token, &mock->devs[2].ddev),
			BLK_STS_OFFLINE);
	KUNIT_EXPECT_TRUE(test, io_dmabuf_token_ready(token));
	mock->nr_devs = 1;
	io_dmabuf_token_put(token);
}

struct mock_put {
	struct work_struct	work;
	struct io_dmabuf_token	*token;
};

static void mock_put_work(struct work_struct *work)
{
	struct mock_put *put = container_of(work, struct mock_put, work);

	io_dmabuf_token_put(put->token);
}

/* The token's last reference and its device go at the same time. */
static void io_dmabuf_test_put_and_shutdown(struct kunit *test)
{
	struct mock *mock = test->priv;
	struct mock_dev *dev = &mock->devs[0];
	struct mock_put put;
	int i;

	for (i = 0; i < 200; i++) {
		put.token = mock_token(mock);
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, put.token);
		INIT_WORK_ONSTACK(&put.work, mock_put_work);

		/* the one that is first waits here, so that both are under way */
		dma_resv_lock(mock->dmabuf->resv, NULL);
		queue_work(system_dfl_wq, &put.work);
		if (i & 1)
			usleep_range(100, 200);
		dma_resv_unlock(mock->dmabuf->resv);
		io_dmabuf_device_shutdown(&dev->ddev);
		KUNIT_EXPECT_TRUE(test, list_empty(&dev->ddev.attaches));

		flush_work(&put.work);
		destroy_work_on_stack(&put.work);
		io_dmabuf_device_init(&dev->ddev, mock->dev, &mock_dev_ops);
	}
}

static struct kunit_case io_dmabuf_test_cases[] = {
	KUNIT_CASE(io_dmabuf_test_create),
	KUNIT_CASE(io_dmabuf_test_window),
	KUNIT_CASE(io_dmabuf_test_refused),
	KUNIT_CASE(io_dmabuf_test_segments),
	KUNIT_CASE(io_dmabuf_test_bad_tables),
	KUNIT_CASE(io_dmabuf_test_move),
	KUNIT_CASE(io_dmabuf_test_tables),
	KUNIT_CASE(io_dmabuf_test_wait),
	KUNIT_CASE(io_dmabuf_test_revoke),
	KUNIT_CASE(io_dmabuf_test_p2p),
	KUNIT_CASE(io_dmabuf_test_device_gone),
	KUNIT_CASE(io_dmabuf_test_shared),
	KUNIT_CASE(io_dmabuf_test_one_way),
	KUNIT_CASE(io_dmabuf_test_new_path),
	KUNIT_CASE(io_dmabuf_test_new_paths),
	KUNIT_CASE(io_dmabuf_test_bad_path),
	KUNIT_CASE(io_dmabuf_test_put_and_shutdown),
	{}
};

static struct kunit_suite io_dmabuf_test_suite = {
	.name		= "io_dmabuf_token",
	.init		= io_dmabuf_test_init,
	.exit		= io_dmabuf_test_exit,
	.test_cases	= io_dmabuf_test_cases,
};

kunit_test_suite(io_dmabuf_test_suite);

MODULE_IMPORT_NS("DMA_BUF");
MODULE_DESCRIPTION("KUnit tests of struct io_dmabuf_token");
MODULE_LICENSE("GPL");
