/* SPDX-License-Identifier: GPL-2.0 */
#ifndef IOU_DMABUF_H
#define IOU_DMABUF_H

#include <linux/err.h>
#include <linux/io_uring_types.h>

struct io_mapped_ubuf;
struct io_rsrc_node;
struct seq_file;

#ifdef CONFIG_IO_URING_DMABUF

#define IO_DMABUF_DESC_FLAGS	(IORING_REGBUF_READ | IORING_REGBUF_WRITE | \
				 IORING_REGBUF_P2P_REQUIRED)

struct io_rsrc_node *io_dmabuf_register(struct io_ring_ctx *ctx,
					const struct io_uring_regbuf_desc *desc);
int io_dmabuf_import(struct io_kiocb *req, struct iov_iter *iter, u64 off,
		     size_t len, loff_t pos, int ddir,
		     unsigned int issue_flags);
int io_dmabuf_import_vec(struct io_kiocb *req, struct iov_iter *iter,
			 const struct iovec *iov, unsigned int nr, loff_t pos,
			 int ddir, unsigned int issue_flags);
ssize_t io_dmabuf_rw_vec(struct io_kiocb *req, struct kiocb *kiocb,
			 const struct iovec *iov, int ddir);
int io_dmabuf_prepare(struct io_kiocb *req);
int io_dmabuf_hold(struct io_kiocb *req);
void io_dmabuf_unhold(struct io_kiocb *req);
int io_dmabuf_import_cmd(struct io_kiocb *req, struct iov_iter *iter, u64 off,
			 size_t len, int ddir, unsigned int issue_flags);
void io_dmabuf_show_fdinfo(struct seq_file *m, struct io_mapped_ubuf *imu);

#else /* CONFIG_IO_URING_DMABUF */

#define IO_DMABUF_DESC_FLAGS	0

static inline struct io_rsrc_node *
io_dmabuf_register(struct io_ring_ctx *ctx,
		   const struct io_uring_regbuf_desc *desc)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static inline int io_dmabuf_import(struct io_kiocb *req, struct iov_iter *iter,
				   u64 off, size_t len, loff_t pos, int ddir,
				   unsigned int issue_flags)
{
	return -EOPNOTSUPP;
}

static inline int io_dmabuf_import_vec(struct io_kiocb *req,
				       struct iov_iter *iter,
				       const struct iovec *iov,
				       unsigned int nr, loff_t pos, int ddir,
				       unsigned int issue_flags)
{
	return -EOPNOTSUPP;
}

static inline ssize_t io_dmabuf_rw_vec(struct io_kiocb *req,
				       struct kiocb *kiocb,
				       const struct iovec *iov, int ddir)
{
	return -EOPNOTSUPP;
}

static inline int io_dmabuf_prepare(struct io_kiocb *req)
{
	return -EOPNOTSUPP;
}

static inline int io_dmabuf_hold(struct io_kiocb *req)
{
	return -EOPNOTSUPP;
}

static inline void io_dmabuf_unhold(struct io_kiocb *req)
{
}

static inline int io_dmabuf_import_cmd(struct io_kiocb *req,
				       struct iov_iter *iter, u64 off,
				       size_t len, int ddir,
				       unsigned int issue_flags)
{
	return -EOPNOTSUPP;
}

static inline void io_dmabuf_show_fdinfo(struct seq_file *m,
					 struct io_mapped_ubuf *imu)
{
}

#endif /* CONFIG_IO_URING_DMABUF */

#endif
