/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_IO_DMABUF_TOKEN_H
#define _LINUX_IO_DMABUF_TOKEN_H

#include <linux/bits.h>
#include <linux/blk_types.h>
#include <linux/cleanup.h>
#include <linux/dma-direction.h>
#include <linux/err.h>
#include <linux/mutex.h>
#include <linux/rculist.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>

struct device;
struct dma_buf;
struct dma_buf_attachment;
struct file;
struct io_dmabuf_device;
struct io_dmabuf_map;
struct iosys_map;
struct sg_table;

/**
 * struct io_dmabuf_device_ops - what a driver does with mapped dma-bufs
 * @map_size:	size of the driver's map, which has a struct io_dmabuf_map first
 * @vmap:	the driver moves data with the CPU: map the dma-buf for it as well
 * @map_init:	[optional] prepare a new map, its segments are known. May
 *		allocate and sleep. Called under dma_resv.
 * @map_exit:	[optional] undo @map_init. No request uses the map. Called under
 *		dma_resv, by whoever moves the memory: must not allocate, nor
 *		wait for anything.
 * @quiesce:	wait until no request uses the map, none can start to. Called
 *		under dma_resv and maybe in reclaim: may sleep, but only wait for
 *		RCU and for the device, never for memory, locks or user space.
 */
struct io_dmabuf_device_ops {
	size_t	map_size;
	bool	vmap;
	int	(*map_init)(struct io_dmabuf_device *ddev,
			    struct io_dmabuf_map *map);
	void	(*map_exit)(struct io_dmabuf_device *ddev,
			    struct io_dmabuf_map *map);
	void	(*quiesce)(struct io_dmabuf_device *ddev,
			   struct io_dmabuf_map *map);
};

/**
 * struct io_dmabuf_device - a device that reads and writes dma-bufs
 * @dev:	the device that does DMA
 * @ops:	the driver
 * @lock:	guards @attaches and @dead; innermost, nothing is taken under it.
 *		Not a mutex: that may be touched after somebody else has it, and
 *		whoever that is may free the device
 * @attaches:	what tokens have attached to the device
 * @dead:	no more attaches
 * @wait:	for an attach to be taken off @attaches
 *
 * Embedded in the driver's own structure, which lives until
 * io_dmabuf_device_shutdown() has returned.
 */
struct io_dmabuf_device {
	struct device				*dev;
	const struct io_dmabuf_device_ops	*ops;
	spinlock_t				lock;	/* the two below */
	struct list_head			attaches;
	bool					dead;
	wait_queue_head_t			wait;
};

/**
 * struct io_dmabuf_seg - contiguous part of a mapped dma-buf
 * @off:	where it starts, an offset into the dma-buf
 * @addr:	DMA address of the first byte
 */
struct io_dmabuf_seg {
	u64		off;
	dma_addr_t	addr;
};

/**
 * struct io_dmabuf_map - one generation of DMA addresses of a dma-buf
 * @attach:	what it is the map of
 * @sgt:	as the exporter made it; addresses and DMA lengths only
 * @vmap:	the memory, if the driver asked for it
 * @segs:	@nr_segs segments in order of their offset, and one more that
 *		marks the end
 * @nr_segs:	number of segments
 * @seg_shift:	all segments but the last have this size, as a power of two;
 *		0 if they don't
 * @need_sync:	the device isn't coherent: call io_dmabuf_map_sync_for_device()
 *		and _cpu() around each access. Never for memory of a device
 *
 * Made by io_dmabuf_token_prepare(), constant from then on. Published in the
 * attach, readers are in an RCU or SRCU section that @quiesce waits for.
 */
struct io_dmabuf_map {
	struct io_dmabuf_attach	*attach;
	struct sg_table		*sgt;
	struct iosys_map	*vmap;
	struct io_dmabuf_seg	*segs;
	unsigned int		nr_segs;
	u8			seg_shift;
	bool			need_sync;
};

/**
 * struct io_dmabuf_error - why a device can't have the memory
 * @err:	errno, or 0
 * @end:	when to try again, in jiffies
 */
struct io_dmabuf_error {
	int		err;
	unsigned long	end;
};

/**
 * struct io_dmabuf_attach - a dma-buf as one device sees it
 * @token:	whose it is; holds the reference, not the other way around
 * @ddev:	the device
 * @dba:	the importer's side of the dma-buf
 * @map:	current generation, NULL when it is stale. Written under dma_resv,
 *		read under RCU or SRCU
 * @next:	what becomes @map once the memory is there, under dma_resv
 * @node:	in token->attaches. Written under token->lock, read under RCU
 * @dev_node:	in ddev->attaches, guarded by ddev->lock
 * @moves:	how often the exporter has invalidated a map, under dma_resv
 * @error:	of the last attempt to map it. Written under dma_resv
 * @p2p:	@map is of memory of a device, reached where it is. Under dma_resv
 * @rcu:	frees it
 *
 * If the exporter moves or revokes the memory, the map goes and the attach
 * stays: the next io_dmabuf_token_prepare() asks for a new one. If the device
 * goes, or the token, then the attach is taken off both lists and freed.
 */
struct io_dmabuf_attach {
	struct io_dmabuf_token		*token;
	struct io_dmabuf_device		*ddev;
	struct dma_buf_attachment	*dba;
	struct io_dmabuf_map __rcu	*map;
	struct io_dmabuf_map		*next;
	struct list_head		node;
	struct list_head		dev_node;
	u64				moves;
	struct io_dmabuf_error		error;
	bool				p2p;
	struct rcu_head			rcu;
};

/**
 * struct io_dmabuf_token - a window of a dma-buf for I/O on a file
 * @refs:	one of each registered buffer; requests borrow theirs
 * @dmabuf:	the memory, referenced
 * @file:	what it was registered for, referenced: the disk stays open
 * @target:	the disk of @file, or @file itself if that isn't a block device
 * @dir:	DMA_FROM_DEVICE if it may only be read into, DMA_TO_DEVICE if it may
 *		only be written from, or DMA_BIDIRECTIONAL
 * @off:	start of the window, an offset into @dmabuf
 * @len:	length of the window
 * @need_p2p:	refuse memory of the host, whenever it is mapped
 * @lock:	serialises changes of @attaches, and prepare
 * @attaches:	changed under @lock, read under RCU
 * @nr_attaches: their number, under @lock
 * @since:	when it was mapped last, in jiffies, under @lock
 * @incomplete:	a device that isn't attached was asked to do I/O: a path that
 *		came later. The next prepare asks the driver to attach it
 * @error:	why that couldn't be attached
 * @live:	was mapped for all of its devices, when it was made
 *
 * Lock order: @lock, then dma_resv of @dmabuf, then the device's lock.
 */
struct io_dmabuf_token {
	refcount_t			refs;
	struct dma_buf			*dmabuf;
	struct file			*file;
	const void			*target;
	enum dma_data_direction		dir;
	u64				off;
	u64				len;
	bool				need_p2p;
	struct mutex			lock;	/* the three below */
	struct list_head		attaches;
	unsigned int			nr_attaches;
	unsigned long			since;
	/* not a bool: no xchg() of a byte on some architectures */
	int				incomplete;
	struct io_dmabuf_error		error;
	bool				live;
};

/**
 * struct io_dmabuf_wait - how to wait for memory that is on its way
 * @end:	when to give up, in jiffies, as io_dmabuf_wait_start() has set it.
 *		If 0 the time starts when the memory was mapped, which may be
 *		before that: to have waited for a turn counts
 * @canceled:	[optional] whether nobody wants it any more. Called now and then,
 *		without locks
 */
struct io_dmabuf_wait {
	unsigned long	end;
	bool		(*canceled)(struct io_dmabuf_wait *wait);
};

/* flags of io_dmabuf_token_create() */
#define IO_DMABUF_P2P_REQUIRED	BIT(0)

#define IO_DMABUF_MAX_ATTACHES	16
/* alignment that every exporter gives, and every user of addresses counts on */
#define IO_DMABUF_SEG_ALIGN	4096

#ifdef CONFIG_IO_DMABUF_TOKEN

/* for those who do I/O */
struct io_dmabuf_token *io_dmabuf_token_create(struct file *file,
					       struct dma_buf *dmabuf,
					       enum dma_data_direction dir,
					       u64 off, u64 len,
					       unsigned int flags);
void io_dmabuf_token_put(struct io_dmabuf_token *token);
bool io_dmabuf_token_match(const struct io_dmabuf_token *token,
			   struct file *file);
bool io_dmabuf_token_ready(struct io_dmabuf_token *token);
void io_dmabuf_wait_start(unsigned long *end);
int io_dmabuf_token_prepare(struct io_dmabuf_token *token,
			    struct io_dmabuf_wait *wait);
int io_dmabuf_token_hold(struct io_dmabuf_token *token,
			 struct io_dmabuf_wait *wait);
void io_dmabuf_token_release(struct io_dmabuf_token *token);

/* for drivers */
void io_dmabuf_device_init(struct io_dmabuf_device *ddev, struct device *dev,
			   const struct io_dmabuf_device_ops *ops);
void io_dmabuf_device_shutdown(struct io_dmabuf_device *ddev);
int io_dmabuf_attach_add(struct io_dmabuf_token *token,
			 struct io_dmabuf_device *ddev);
blk_status_t io_dmabuf_map_status(struct io_dmabuf_token *token,
				  struct io_dmabuf_device *ddev);
void io_dmabuf_map_sync_for_device(struct io_dmabuf_map *map, u64 off,
				   size_t len, enum dma_data_direction dir);
void io_dmabuf_map_sync_for_cpu(struct io_dmabuf_map *map, u64 off,
				size_t len, enum dma_data_direction dir);

#else /* CONFIG_IO_DMABUF_TOKEN */

static inline struct io_dmabuf_token *
io_dmabuf_token_create(struct file *file, struct dma_buf *dmabuf,
		       enum dma_data_direction dir, u64 off, u64 len,
		       unsigned int flags)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static inline void io_dmabuf_token_put(struct io_dmabuf_token *token)
{
}

static inline bool io_dmabuf_token_match(const struct io_dmabuf_token *token,
					 struct file *file)
{
	return false;
}

static inline bool io_dmabuf_token_ready(struct io_dmabuf_token *token)
{
	return false;
}

static inline void io_dmabuf_wait_start(unsigned long *end)
{
}

static inline int io_dmabuf_token_prepare(struct io_dmabuf_token *token,
					  struct io_dmabuf_wait *wait)
{
	return -EOPNOTSUPP;
}

static inline int io_dmabuf_token_hold(struct io_dmabuf_token *token,
				       struct io_dmabuf_wait *wait)
{
	return -EOPNOTSUPP;
}

static inline void io_dmabuf_token_release(struct io_dmabuf_token *token)
{
}

#endif /* CONFIG_IO_DMABUF_TOKEN */

/**
 * io_dmabuf_map_get - the current map of a token for a device
 * @token:	what a request reads or writes
 * @ddev:	the device that executes it
 *
 * Context: a section that @ddev's quiesce op waits for. The map is valid until
 * that ends, or for as long as quiesce knows that a request uses it.
 *
 * Return: the map, or NULL if it is stale, or if the token has no attach for
 * this device. The request then fails with io_dmabuf_map_status(). If that is
 * BLK_STS_STALE, who submitted it calls io_dmabuf_token_prepare() and tries
 * again.
 */
static inline struct io_dmabuf_map *
io_dmabuf_map_get(struct io_dmabuf_token *token, struct io_dmabuf_device *ddev)
{
	struct io_dmabuf_attach *attach;

	/* for the list; a blocking driver is in an SRCU section */
	guard(rcu)();
	list_for_each_entry_rcu(attach, &token->attaches, node)
		if (likely(attach->ddev == ddev))
			return rcu_dereference(attach->map);
	WRITE_ONCE(token->incomplete, 1);
	return NULL;
}

/**
 * io_dmabuf_map_find - look up the segment that an offset lies in
 * @map:	map of a dma-buf
 * @off:	offset into the dma-buf, within its size
 *
 * Context: as for io_dmabuf_map_get().
 *
 * Return: the segment. It ends where the next one in the array starts.
 */
static inline const struct io_dmabuf_seg *
io_dmabuf_map_find(const struct io_dmabuf_map *map, u64 off)
{
	unsigned int low = 0, high = map->nr_segs;

	if (likely(high == 1))
		return map->segs;
	if (map->seg_shift)
		return &map->segs[off >> map->seg_shift];
	while (high - low > 1) {
		unsigned int mid = low + (high - low) / 2;

		if (map->segs[mid].off <= off)
			low = mid;
		else
			high = mid;
	}
	return &map->segs[low];
}

/**
 * io_dmabuf_map_addr - DMA address of a part of a dma-buf
 * @map:	map of a dma-buf
 * @off:	offset into the dma-buf, within its size
 * @len:	set to how many bytes are contiguous from there on
 *
 * Context: as for io_dmabuf_map_get().
 *
 * Return: the address.
 */
static inline dma_addr_t io_dmabuf_map_addr(const struct io_dmabuf_map *map,
					    u64 off, u64 *len)
{
	const struct io_dmabuf_seg *seg = io_dmabuf_map_find(map, off);

	*len = seg[1].off - off;
	return seg->addr + (off - seg->off);
}

#endif /* _LINUX_IO_DMABUF_TOKEN_H */
