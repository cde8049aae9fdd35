/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A PRP list that all requests for a dma-buf share.
 *
 * It has an entry for each page of the data, PRPS_PER_PAGE of them in each page
 * of the list, and then a pointer to the next page of the list.  A request uses
 * a part of it: PRP1 is the first page of its data, and PRP2 points to the entry
 * for the second one.  The controller goes on from there, and follows the
 * pointers like those of any other list.
 *
 * But the last slot in a page of the list is a pointer only as long as more than
 * one page of data is left to transfer.  If it is one, then the controller takes
 * the slot for the address of that.  So requests can't use the list if their
 * last page is the first that a page of the list has an entry for.  That is one
 * in PRPS_PER_PAGE of all there are.  The last page of all is none of them: no
 * pointer is needed any more, and its entry is in the slot for that.
 *
 * The list is that of the whole dma-buf, as all tokens share it.  But only those
 * of its pages are there that windows of tokens need.  They stay when the memory
 * moves, and get the new addresses then.
 */
#ifndef _NVME_PCI_DMABUF_H
#define _NVME_PCI_DMABUF_H

#include <linux/build_bug.h>
#include <linux/io_dmabuf_token.h>
#include <linux/math.h>
#include <linux/minmax.h>
#include <linux/types.h>

#include "pci.h"

/* A page of the list, @prps is NULL if it isn't there */
struct nvme_dmabuf_list {
	__le64		*prps;
	dma_addr_t	dma;
};

/*
 * @lists are the pages of the PRP list, or NULL if there can't be one: see
 * nvme_dmabuf_attach_init().  They are those of the attach, whose dma-buf has
 * @nr_pages pages.
 */
struct nvme_dmabuf_map {
	struct io_dmabuf_map	map;
	struct nvme_dmabuf_list	*lists;
	unsigned int		nr_pages;
};

/**
 * nvme_prp_list_pages - how many pages a list has
 * @nr_pages:	number of pages of data, at least 2
 *
 * Return: number of pages of the list.
 */
static inline unsigned int nvme_prp_list_pages(unsigned int nr_pages)
{
	return DIV_ROUND_UP(nr_pages - 1, PRPS_PER_PAGE);
}

/**
 * nvme_prp_list_len - how many entries for data are in a page of a list
 * @i:		which page of the list
 * @nr_pages:	number of pages of data that the list has entries for
 *
 * Return: number of entries. It is %PRPS_PER_PAGE, except for the last page of
 * the list: that may have less, or one more as it needs no pointer.
 */
static inline unsigned int nvme_prp_list_len(unsigned int i,
					     unsigned int nr_pages)
{
	unsigned int left = nr_pages - i * PRPS_PER_PAGE;

	return left <= PRPS_PER_PAGE + 1 ? left : PRPS_PER_PAGE;
}

/**
 * nvme_prp_list_fits - whether a request can use a list
 * @last:	the last page of data, and not the first in the request's list
 * @nr_pages:	number of pages of data that the list has entries for
 *
 * Return: false if the controller would take a pointer for the last page.
 */
static inline bool nvme_prp_list_fits(unsigned int last, unsigned int nr_pages)
{
	return last % PRPS_PER_PAGE || last == nr_pages - 1;
}

/**
 * nvme_prp_list_page - which page of a list has the entry for a page of data
 * @page:	page of data, not the last
 *
 * Return: which page of the list.
 */
static inline unsigned int nvme_prp_list_page(unsigned int page)
{
	return page / PRPS_PER_PAGE;
}

/**
 * nvme_prp_list_off - where the entry for a page of data is
 * @page:	page of data, not the last
 *
 * Return: offset into nvme_prp_list_page() of the list, in bytes.
 */
static inline unsigned int nvme_prp_list_off(unsigned int page)
{
	return page % PRPS_PER_PAGE * sizeof(__le64);
}

/**
 * nvme_prp_list_there - whether all of a list that a request needs is there
 * @lists:	the pages of the list
 * @page:	second page of data, the first that has an entry
 * @last:	last page of data
 * @nr_pages:	number of pages of data that the list has entries for
 *
 * Return: false if the request needs a list of its own.
 */
static inline bool nvme_prp_list_there(const struct nvme_dmabuf_list *lists,
				       unsigned int page, unsigned int last,
				       unsigned int nr_pages)
{
	unsigned int i = nvme_prp_list_page(page);
	unsigned int end = min(nvme_prp_list_page(last),
			       nvme_prp_list_pages(nr_pages) - 1);

	for (; i <= end; i++) {
		/* pairs with smp_store_release() in nvme_dmabuf_add_list() */
		if (!smp_load_acquire(&lists[i].prps))
			return false;
	}
	return true;
}

/* so that PRP entries are pages, whatever segment they are from */
static_assert(IO_DMABUF_SEG_ALIGN % NVME_CTRL_PAGE_SIZE == 0);

/**
 * nvme_prp_list_fill - fill in the entries of one page of a list
 * @prps:	first of the entries
 * @nr:		number of entries, at least 1
 * @map:	addresses of the dma-buf
 * @off:	start of the first page of data, an offset into the dma-buf and a
 *		multiple of the size of a page
 *
 * Context: any, where @map stays.
 */
static inline void nvme_prp_list_fill(__le64 *prps, unsigned int nr,
				      const struct io_dmabuf_map *map, u64 off)
{
	const struct io_dmabuf_seg *seg = io_dmabuf_map_find(map, off);
	unsigned int i;

	for (i = 0; i < nr; i++, off += NVME_CTRL_PAGE_SIZE) {
		if (off == seg[1].off)
			seg++;
		prps[i] = cpu_to_le64(seg->addr + (off - seg->off));
	}
}

#if IS_ENABLED(CONFIG_KUNIT)
blk_status_t nvme_dmabuf_set_dptr(struct request *req,
				  struct nvme_dmabuf_map *nmap, u64 off,
				  unsigned int len, enum nvme_use_sgl use_sgl);
#endif

#endif /* _NVME_PCI_DMABUF_H */
