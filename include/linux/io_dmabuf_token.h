/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_IO_DMABUF_TOKEN_H
#define _LINUX_IO_DMABUF_TOKEN_H

#include <linux/bits.h>
#include <linux/blk_types.h>
#include <linux/cleanup.h>
#include <linux/dma-direction.h>
#include <linux/err.h>
#include <linux/gfp_types.h>
#include <linux/rculist.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>

struct device;
struct dma_buf;
struct dma_buf_attachment;
struct file;
struct io_dmabuf_attach;
struct io_dmabuf_device;
struct io_dmabuf_map;
struct iosys_map;
struct sg_table;

/**
 * struct io_dmabuf_pages - memory for a driver's tables
 * @head:	zeroed but for the first word, which points to the next one
 * @nr:		number of them
 * @need:	how many it takes
 */
struct io_dmabuf_pages {
	void		*head;
	unsigned int	nr;
	unsigned int	need;
};

/**
 * struct io_dmabuf_device_ops - what a driver does with mapped dma-bufs
 * @map_size:	size of the driver's map, which has a struct io_dmabuf_map first
 * @vmap:	the driver moves data with the CPU: map the dma-buf for it as well
 * @attach_init: [optional] prepare a new attach, for as long as the device is
 *		attached. May allocate and sleep. Called without locks.
 * @attach_exit: [optional] undo @attach_init and @map_window. Nothing is mapped
 *		any more. Called without locks.
 * @map_init:	[optional] prepare a new map, its segments are known. Called under
 *		dma_resv: may sleep, but not allocate more than a little.
 * @map_exit:	[optional] undo @map_init. No request uses the map. Called under
 *		dma_resv, by whoever moves the memory: must not allocate, nor
 *		wait for anything.
 * @map_window:	[optional] prepare a part of the dma-buf for requests, before the
 *		first of them finds the map. Called for the window of each token
 *		that uses the map, so others may use it already. Called under
 *		dma_resv, so its memory comes from @pages: if they are too few, it
 *		sets @pages->need, leaves everything as it is, returns -ENOBUFS,
 *		and is called again. What it has taken is freed by @attach_exit.
 * @page_size:	how large these pages are; they are from kmalloc()
 * @quiesce:	wait until no request uses the map, none can start to. Called
 *		under dma_resv and maybe in reclaim: may sleep, but only wait for
 *		RCU and for the device, never for memory, locks or user space.
 *		A grace period has passed once @map->gp is over.
 */
struct io_dmabuf_device_ops {
	size_t	map_size;
	bool	vmap;
	int	(*attach_init)(struct io_dmabuf_device *ddev,
			       struct io_dmabuf_attach *attach);
	void	(*attach_exit)(struct io_dmabuf_device *ddev,
			       struct io_dmabuf_attach *attach);
	int	(*map_init)(struct io_dmabuf_device *ddev,
			    struct io_dmabuf_map *map);
	void	(*map_exit)(struct io_dmabuf_device *ddev,
			    struct io_dmabuf_map *map);
	int	(*map_window)(struct io_dmabuf_device *ddev,
			      struct io_dmabuf_map *map, u64 off, u64 len,
			      struct io_dmabuf_pages *pages);
	size_t	page_size;
	void	(*quiesce)(struct io_dmabuf_device *ddev,
			   struct io_dmabuf_map *map);
};

/**
 * struct io_dmabuf_device - a device that reads and writes dma-bufs
 * @dev:	the device that does DMA
 * @ops:	the driver
 * @lock:	guards @attaches, which of them can be found, and @dead; innermost.
 *		Not a mutex: that may be touched after somebody else has it, and
 *		whoever that is may free the device
 * @attaches:	what is attached to the device
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
 * @max_segs:	how many there is room for in @segs
 * @seg_shift:	all segments but the last have this size, as a power of two;
 *		0 if they don't
 * @need_sync:	the device isn't coherent: call io_dmabuf_map_sync_for_device()
 *		and _cpu() around each access. Never for memory of a device
 *
 * @gp:	when it was taken away, of get_state_synchronize_rcu()
 * @since:	the same, in jiffies
 *
 * Made by io_dmabuf_token_prepare(), constant from then on but for @gp and @since.
 * Published in the uses of the attach, readers are in an RCU or SRCU section that @quiesce
 * waits for.
 */
struct io_dmabuf_map {
	struct io_dmabuf_attach	*attach;
	struct sg_table		*sgt;
	struct iosys_map	*vmap;
	struct io_dmabuf_seg	*segs;
	unsigned int		nr_segs;
	unsigned int		max_segs;
	u8			seg_shift;
	bool			need_sync;
	unsigned long		gp;
	unsigned long		since;
};

/**
 * struct io_dmabuf_error - why a device can't have the memory
 * @err:	errno, or 0
 * @end:	when to try again, in seconds since the machine was booted. Not in
 *		jiffies: with 32 bits they come by again
 */
struct io_dmabuf_error {
	int		err;
	unsigned long	end;
};

/**
 * struct io_dmabuf_attach - a dma-buf as one device sees it
 * @refs:	one of each use, and of those who look at it without locks
 * @dmabuf:	the memory, referenced
 * @ddev:	the device
 * @dir:	what it may do with the memory
 * @dba:	the importer's side of the dma-buf
 * @priv:	the driver's, see @attach_init
 * @uses:	of the tokens that do I/O by way of it, under dma_resv
 * @map:	current generation, NULL when it is stale. Under dma_resv
 * @next:	what becomes @map once the memory is there, under dma_resv
 * @old:	what was @map, and may still be used. Under dma_resv
 * @segs:	[optional] kept for the next map, under dma_resv
 * @max_segs:	how many there is room for in @segs
 * @maps:	how often it was mapped, under dma_resv
 * @p2p:	@map is of memory of a device, reached where it is. Under dma_resv
 * @dev_node:	in ddev->attaches, guarded by ddev->lock
 * @ready:	others may find and use it, under dma_resv
 * @dead:	the device goes: no more uses. Written under ddev->lock, before
 *		those that there are go. Read under dma_resv
 *
 * All tokens of a dma-buf that do I/O on a device in the same direction share
 * one. Not those of another direction: the exporter may allow for one only, and
 * the IOMMU doesn't let a device write to what nobody has registered for that.
 *
 * It is found among the attachments of @dmabuf as long as it has references. If the exporter moves
 * or revokes the memory, the map goes and the attach stays: the next
 * io_dmabuf_token_prepare() of any of the tokens asks for a new one. If the
 * device goes then it loses its uses. With the last reference it is unmapped,
 * detached, and only then taken off ddev->attaches: io_dmabuf_device_shutdown()
 * waits for that. Another one may have been made meanwhile.
 */
struct io_dmabuf_attach {
	refcount_t			refs;
	struct dma_buf			*dmabuf;
	struct io_dmabuf_device		*ddev;
	enum dma_data_direction		dir;
	struct dma_buf_attachment	*dba;
	void				*priv;
	struct list_head		uses;
	struct io_dmabuf_map		*map;
	struct io_dmabuf_map		*next;
	struct io_dmabuf_map		*old;
	struct io_dmabuf_seg		*segs;
	unsigned int			max_segs;
	u64				maps;
	bool				p2p;
	struct list_head		dev_node;
	bool				ready;
	bool				dead;
};

/**
 * struct io_dmabuf_use - a device that a token may do I/O on
 * @ddev:	the device
 * @map:	that of @attach, or NULL if it is stale, or isn't what @token asks
 *		for. Written under dma_resv, read under RCU or SRCU
 * @node:	in token->uses. Written under dma_resv, read under RCU
 * @token:	whose it is
 * @attach:	the dma-buf as @ddev sees it, referenced
 * @attach_node: in attach->uses, under dma_resv
 * @error:	of the last attempt to map it. Written under dma_resv
 * @seen:	attach->maps when @token has looked last, under dma_resv
 * @moves:	how often the exporter has taken @map away, under dma_resv
 * @rcu:	frees it
 *
 * It goes with the token, or with the device: whoever comes first, under
 * dma_resv. Neither has a reference to the other.
 */
struct io_dmabuf_use {
	struct io_dmabuf_device		*ddev;
	struct io_dmabuf_map __rcu	*map;
	struct list_head		node;
	struct io_dmabuf_token		*token;
	struct io_dmabuf_attach		*attach;
	struct list_head		attach_node;
	struct io_dmabuf_error		error;
	u64				seen;
	u64				moves;
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
 * @importer_ops: how devices are attached: as able to reach memory of the exporter's,
 *		or not, if one of the first can't. Doesn't change afterwards
 * @uses:	the devices, changed under dma_resv of @dmabuf, read under RCU
 * @nr_uses:	their number, under dma_resv
 * @since:	when it was found mapped, but on its way, in jiffies. Under dma_resv
 * @incomplete:	a device that isn't attached was asked to do I/O: a path that
 *		came later. The next prepare asks the driver to attach it
 * @error:	why that couldn't be attached
 * @live:	was mapped for all of its devices, when it was made
 * @holder:	task that has dma_resv by io_dmabuf_token_hold(), or NULL. Written
 *		under dma_resv
 *
 * Lock order: dma_resv of @dmabuf, then the device's lock.
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
	const struct dma_buf_attach_ops	*importer_ops;
	struct list_head		uses;
	unsigned int			nr_uses;
	unsigned long			since;
	/* not a bool: no xchg() of a byte on some architectures */
	int				incomplete;
	struct io_dmabuf_error		error;
	bool				live;
	struct task_struct		*holder;
};

/**
 * io_dmabuf_token_held - whether the caller keeps the memory where it is
 * @token:	token, the caller has a reference
 *
 * Context: process.
 *
 * Return: true between io_dmabuf_token_hold() and io_dmabuf_token_release() of
 * the same task. Then an exporter may be waiting for dma_resv.
 */
static inline bool io_dmabuf_token_held(const struct io_dmabuf_token *token)
{
	return READ_ONCE(token->holder) == current;
}

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
/* A memcg that has no more is no reason to kill anybody, or to complain */
#define IO_DMABUF_GFP	(GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

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
 * Return: the map, or NULL if it is stale, or if the token isn't attached to
 * this device. The request then fails with io_dmabuf_map_status(). If that is
 * BLK_STS_STALE, who submitted it calls io_dmabuf_token_prepare() and tries
 * again.
 */
static inline struct io_dmabuf_map *
io_dmabuf_map_get(struct io_dmabuf_token *token, struct io_dmabuf_device *ddev)
{
	struct io_dmabuf_use *use;

	/* for the list; a blocking driver is in an SRCU section */
	guard(rcu)();
	list_for_each_entry_rcu(use, &token->uses, node)
		if (likely(use->ddev == ddev))
			return rcu_dereference(use->map);
	WRITE_ONCE(token->incomplete, 1);
	return NULL;
}

/**
 * io_dmabuf_pages_take - take memory for a driver's table
 * @pages:	what there is, not empty
 *
 * Context: any.
 *
 * Return: zeroed memory, @page_size bytes of it.
 */
static inline void *io_dmabuf_pages_take(struct io_dmabuf_pages *pages)
{
	void **page = pages->head;

	pages->head = *page;
	pages->nr--;
	*page = NULL;
	return page;
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
