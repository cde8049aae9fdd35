// SPDX-License-Identifier: GPL-2.0
/* Copyright (C) 2026 The uring-offload authors */
/*
 * dmabuf_example DEVICE: have the disk write its first 64 KiB to a dma-buf, and
 * print what is there then. udmabuf stands in for a GPU's driver, whose memory
 * would be out of reach for read(2).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/dma-buf.h>
#include <linux/udmabuf.h>

#include <io_uring/mini_liburing.h>

#define SIZE	65536

static void die(const char *what, int err)
{
	fprintf(stderr, "%s: %s\n", what, strerror(err));
	exit(1);
}

static int make_dmabuf(void)
{
	struct udmabuf_create create = { .size = SIZE };
	int dev, fd;

	dev = open("/dev/udmabuf", O_RDWR);
	fd = memfd_create("example", MFD_ALLOW_SEALING);
	if (dev < 0 || fd < 0 || ftruncate(fd, SIZE) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK))
		die("udmabuf", errno);
	create.memfd = fd;
	fd = ioctl(dev, UDMABUF_CREATE, &create);
	if (fd < 0)
		die("UDMABUF_CREATE", errno);
	return fd;
}

/* buffer 0 of the ring */
static void register_dmabuf(struct io_uring *ring, int dmabuf, int disk)
{
	struct io_uring_rsrc_register table = {
		.nr	= 1,
		.flags	= IORING_RSRC_REGISTER_SPARSE,
	};
	struct io_uring_regbuf_desc desc = {
		.type		= IO_REGBUF_TYPE_DMABUF,
		.flags		= IORING_REGBUF_READ,
		.dmabuf_fd	= dmabuf,
		.target_fd	= disk,
	};
	struct io_uring_rsrc_update2 update = {
		.flags	= IORING_RSRC_UPDATE_EXTENDED,
		.data	= (unsigned long)&desc,
		.nr	= 1,
	};

	if (syscall(__NR_io_uring_register, ring->ring_fd,
		    IORING_REGISTER_BUFFERS2, &table, sizeof(table)))
		die("IORING_REGISTER_BUFFERS2", errno);
	if (syscall(__NR_io_uring_register, ring->ring_fd,
		    IORING_REGISTER_BUFFERS_UPDATE, &update,
		    sizeof(update)) != 1)
		die("IORING_REGISTER_BUFFERS_UPDATE", errno);
}

static void sync_cpu(int dmabuf, unsigned int flags)
{
	struct dma_buf_sync sync = { .flags = DMA_BUF_SYNC_READ | flags };

	if (ioctl(dmabuf, DMA_BUF_IOCTL_SYNC, &sync))
		die("DMA_BUF_IOCTL_SYNC", errno);
}

int main(int argc, char *argv[])
{
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	struct io_uring ring;
	int dmabuf, disk;
	void *mem;

	if (argc != 2) {
		fprintf(stderr, "usage: dmabuf_example DEVICE\n");
		return 1;
	}
	disk = open(argv[1], O_RDONLY | O_DIRECT);
	if (disk < 0)
		die(argv[1], errno);
	dmabuf = make_dmabuf();
	if (io_uring_queue_init(1, &ring, 0))
		die("io_uring_setup", errno);
	register_dmabuf(&ring, dmabuf, disk);

	sqe = io_uring_get_sqe(&ring);
	if (!sqe)
		return 1;
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_READ_FIXED;
	sqe->fd = disk;
	sqe->off = 0;		/* position on the disk */
	sqe->addr = 0;		/* offset into the dma-buf */
	sqe->len = SIZE;
	sqe->buf_index = 0;
	if (io_uring_submit(&ring) != 1 || io_uring_wait_cqe(&ring, &cqe))
		die("io_uring_enter", errno);
	if (cqe->res != SIZE)
		die("READ_FIXED", cqe->res < 0 ? -cqe->res : EIO);
	io_uring_cqe_seen(&ring);

	/* now it is the CPU's turn */
	mem = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, dmabuf, 0);
	if (mem == MAP_FAILED)
		die("mmap", errno);
	sync_cpu(dmabuf, DMA_BUF_SYNC_START);
	if (fwrite(mem, SIZE, 1, stdout) != 1 || fflush(stdout))
		die("stdout", errno);
	sync_cpu(dmabuf, DMA_BUF_SYNC_END);

	io_uring_queue_exit(&ring);
	return 0;
}
