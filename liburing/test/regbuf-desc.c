/* SPDX-License-Identifier: MIT */
/*
 * Description: test registration of buffers by descriptor: each type on
 *		memory of the application, updates in place with tags, and what
 *		bad input gets. I/O on dma-bufs is in rw-dmabuf.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>

#include "liburing.h"
#include "helpers.h"

#define BUF_SIZE	(64 * 1024)
#define NR_SLOTS	4
#define TAG		0x7a67
#define FILE_NAME	".regbuf-desc"

static __u64 types;
static unsigned char *buf;
static int data_fd;

static unsigned char pattern(size_t pos)
{
	return (pos * 2654435761U) >> 13 ^ pos;
}

static int init_ring(struct io_uring *ring)
{
	int ret;

	ret = io_uring_queue_init(8, ring, 0);
	if (ret) {
		fprintf(stderr, "queue init %d\n", ret);
		return 1;
	}
	ret = io_uring_register_buffers_sparse(ring, NR_SLOTS);
	if (ret) {
		fprintf(stderr, "register sparse %d\n", ret);
		return 1;
	}
	return 0;
}

/* register one descriptor, and expect 1 or an error */
static int expect_update(struct io_uring *ring, const char *what,
			 const struct io_uring_regbuf_desc *desc, int expected)
{
	int ret;

	ret = io_uring_register_buffers_update_desc(ring, 0, desc, NULL, 1);
	if (ret != expected) {
		fprintf(stderr, "%s: %d, expected %d\n", what, ret, expected);
		return 1;
	}
	return 0;
}

static int fixed_io(struct io_uring *ring, bool write, void *addr,
		    unsigned int len, __u64 off, int index)
{
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	int ret;

	sqe = io_uring_get_sqe(ring);
	if (write)
		io_uring_prep_write_fixed(sqe, data_fd, addr, len, off, index);
	else
		io_uring_prep_read_fixed(sqe, data_fd, addr, len, off, index);
	ret = io_uring_submit_and_wait(ring, 1);
	if (ret != 1) {
		fprintf(stderr, "submit %d\n", ret);
		exit(T_EXIT_FAIL);
	}
	ret = io_uring_peek_cqe(ring, &cqe);
	if (ret) {
		fprintf(stderr, "no cqe %d\n", ret);
		exit(T_EXIT_FAIL);
	}
	ret = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return ret;
}

static int expect_io(struct io_uring *ring, const char *what, bool write,
		     void *addr, unsigned int len, __u64 off, int index,
		     int expected)
{
	int ret = fixed_io(ring, write, addr, len, off, index);

	if (ret != expected) {
		fprintf(stderr, "%s: res %d, expected %d\n", what, ret,
			expected);
		return 1;
	}
	return 0;
}

/* the file has the pattern: check what a read has left in the buffer */
static int check_read(struct io_uring *ring, const char *what, size_t start,
		      unsigned int len, int index)
{
	size_t i;

	memset(buf, 0, BUF_SIZE);
	if (expect_io(ring, what, false, buf + start, len, start, index, len))
		return 1;
	for (i = 0; i < BUF_SIZE; i++) {
		unsigned char c = 0;

		if (i >= start && i < start + len)
			c = pattern(i);
		if (buf[i] != c) {
			fprintf(stderr, "%s: byte %zu is %x, not %x\n", what, i,
				buf[i], c);
			return 1;
		}
	}
	return 0;
}

static int test_layout(void)
{
	struct io_uring_rsrc_update2 up = { .resv = 1 };

	/* the kernel counts on it, and so do programs that know the old name */
	if (sizeof(struct io_uring_regbuf_desc) != 80 || sizeof(up) != 32 ||
	    offsetof(struct io_uring_regbuf_desc, size) != 8 ||
	    offsetof(struct io_uring_regbuf_desc, uaddr) != 16 ||
	    offsetof(struct io_uring_regbuf_desc, dmabuf_fd) != 24 ||
	    offsetof(struct io_uring_regbuf_desc, target_fd) != 28 ||
	    offsetof(struct io_uring_regbuf_desc, offset) != 32 ||
	    offsetof(struct io_uring_rsrc_update2, flags) != 4 ||
	    up.flags != 1)
		return 1;
	return 0;
}

static int test_uaddr(void)
{
	struct io_uring_regbuf_desc desc;
	struct io_uring ring;

	if (init_ring(&ring))
		return 1;

	io_uring_regbuf_uaddr(&desc, buf, BUF_SIZE);
	if (expect_update(&ring, "uaddr", &desc, 1) ||
	    check_read(&ring, "uaddr read", 0, BUF_SIZE, 0) ||
	    check_read(&ring, "uaddr part", 4097, 1234, 0))
		return 1;
	if (expect_io(&ring, "uaddr behind", false, buf + 1, BUF_SIZE, 0, 0,
		      -EFAULT) ||
	    expect_io(&ring, "uaddr before", false, buf - 1, 1, 0, 0, -EFAULT))
		return 1;

	/* a part of the memory */
	io_uring_regbuf_uaddr(&desc, buf + 4096, 4096);
	if (expect_update(&ring, "uaddr part", &desc, 1) ||
	    check_read(&ring, "uaddr in part", 4096, 4096, 0) ||
	    expect_io(&ring, "uaddr out of part", false, buf, 4096, 0, 0,
		      -EFAULT))
		return 1;

	/* address and size 0 take the buffer off the table, as an iovec does */
	io_uring_regbuf_uaddr(&desc, NULL, 0);
	if (expect_update(&ring, "uaddr null", &desc, 1) ||
	    expect_io(&ring, "uaddr none", false, buf, 4096, 0, 0, -EFAULT))
		return 1;

	io_uring_queue_exit(&ring);
	return 0;
}

static int test_write(void)
{
	struct io_uring_regbuf_desc desc;
	unsigned char back[4096];
	struct io_uring ring;
	size_t i;

	if (init_ring(&ring))
		return 1;

	io_uring_regbuf_uaddr(&desc, buf, BUF_SIZE);
	if (expect_update(&ring, "uaddr", &desc, 1))
		return 1;
	for (i = 0; i < BUF_SIZE; i++)
		buf[i] = ~pattern(i);
	if (expect_io(&ring, "write", true, buf + 4096, 4096, BUF_SIZE, 0,
		      4096))
		return 1;
	if (pread(data_fd, back, sizeof(back), BUF_SIZE) != sizeof(back) ||
	    memcmp(back, buf + 4096, sizeof(back))) {
		fprintf(stderr, "write: not what is in the file\n");
		return 1;
	}

	io_uring_queue_exit(&ring);
	return 0;
}

static int test_empty(void)
{
	struct io_uring_regbuf_desc desc[3];
	struct io_uring ring;

	if (init_ring(&ring))
		return 1;

	/* all in one call */
	io_uring_regbuf_uaddr(&desc[0], buf, BUF_SIZE);
	io_uring_regbuf_empty(&desc[1]);
	io_uring_regbuf_uaddr(&desc[2], buf, BUF_SIZE);
	if (io_uring_register_buffers_update_desc(&ring, 1, desc, NULL, 3) != 3) {
		fprintf(stderr, "update of 3 failed\n");
		return 1;
	}
	if (expect_io(&ring, "slot 0", false, buf, 4096, 0, 0, -EFAULT) ||
	    expect_io(&ring, "slot 1", false, buf, 4096, 0, 1, 4096) ||
	    expect_io(&ring, "slot 2", false, buf, 4096, 0, 2, -EFAULT) ||
	    expect_io(&ring, "slot 3", false, buf, 4096, 0, 3, 4096))
		return 1;

	/* on an empty slot, and on one that isn't */
	io_uring_regbuf_empty(&desc[0]);
	io_uring_regbuf_empty(&desc[2]);
	if (io_uring_register_buffers_update_desc(&ring, 1, desc, NULL, 3) != 3) {
		fprintf(stderr, "update to empty failed\n");
		return 1;
	}
	if (expect_io(&ring, "slot 1", false, buf, 4096, 0, 1, -EFAULT) ||
	    expect_io(&ring, "slot 3", false, buf, 4096, 0, 3, -EFAULT))
		return 1;

	io_uring_queue_exit(&ring);
	return 0;
}

static int expect_tag(struct io_uring *ring, __u64 tag)
{
	struct __kernel_timespec ts = { .tv_sec = 5 };
	struct io_uring_cqe *cqe;
	int ret;

	ret = io_uring_wait_cqe_timeout(ring, &cqe, &ts);
	if (ret) {
		fprintf(stderr, "no tag: %d\n", ret);
		return 1;
	}
	if (cqe->user_data != tag || cqe->res || cqe->flags) {
		fprintf(stderr, "tag %llx res %d flags %x\n",
			(unsigned long long) cqe->user_data, cqe->res,
			cqe->flags);
		return 1;
	}
	io_uring_cqe_seen(ring, cqe);
	return 0;
}

static int test_tags(void)
{
	struct io_uring_regbuf_desc desc[2];
	__u64 tags[2] = { TAG, 0 };
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	int ret;

	if (init_ring(&ring))
		return 1;

	io_uring_regbuf_uaddr(&desc[0], buf, BUF_SIZE);
	io_uring_regbuf_uaddr(&desc[1], buf, BUF_SIZE);
	ret = io_uring_register_buffers_update_desc(&ring, 0, desc, tags, 2);
	if (ret != 2) {
		fprintf(stderr, "tags: %d\n", ret);
		return 1;
	}
	if (!io_uring_peek_cqe(&ring, &cqe)) {
		fprintf(stderr, "tag before the buffer is gone\n");
		return 1;
	}

	/* replaced, the new one has a tag of its own */
	tags[0] = TAG + 1;
	ret = io_uring_register_buffers_update_desc(&ring, 0, desc, tags, 1);
	if (ret != 1 || expect_tag(&ring, TAG))
		return 1;
	if (check_read(&ring, "replaced", 0, BUF_SIZE, 0))
		return 1;

	io_uring_regbuf_empty(&desc[0]);
	ret = io_uring_register_buffers_update_desc(&ring, 0, desc, NULL, 1);
	if (ret != 1 || expect_tag(&ring, TAG + 1))
		return 1;

	/* no buffer, no tag */
	ret = io_uring_register_buffers_update_desc(&ring, 0, desc, tags, 1);
	if (ret != -EINVAL) {
		fprintf(stderr, "empty with tag: %d\n", ret);
		return 1;
	}

	io_uring_queue_exit(&ring);
	return 0;
}

/* a bad one in the middle: those before it are done, the rest is untouched */
static int test_partial(void)
{
	struct io_uring_regbuf_desc desc[3];
	struct io_uring ring;
	int ret;

	if (init_ring(&ring))
		return 1;

	io_uring_regbuf_uaddr(&desc[0], buf, BUF_SIZE);
	io_uring_regbuf_uaddr(&desc[1], buf, BUF_SIZE);
	io_uring_regbuf_uaddr(&desc[2], buf, BUF_SIZE);
	desc[1].flags = 1U << 31;
	ret = io_uring_register_buffers_update_desc(&ring, 0, desc, NULL, 3);
	if (ret != 1) {
		fprintf(stderr, "partial: %d\n", ret);
		return 1;
	}
	if (expect_io(&ring, "partial 0", false, buf, 4096, 0, 0, 4096) ||
	    expect_io(&ring, "partial 1", false, buf, 4096, 0, 1, -EFAULT) ||
	    expect_io(&ring, "partial 2", false, buf, 4096, 0, 2, -EFAULT))
		return 1;

	io_uring_queue_exit(&ring);
	return 0;
}

static int expect_raw(struct io_uring *ring, const char *what,
		      unsigned int opcode, const void *arg, unsigned int nr,
		      int expected)
{
	int ret = io_uring_register(ring->ring_fd, opcode, arg, nr);

	if (ret != expected) {
		fprintf(stderr, "%s: %d, expected %d\n", what, ret, expected);
		return 1;
	}
	return 0;
}

static int test_bad_update(void)
{
	const unsigned int op = IORING_REGISTER_BUFFERS_UPDATE;
	struct io_uring_regbuf_desc desc;
	struct io_uring_rsrc_register reg = { };
	struct io_uring_rsrc_update2 good, up;
	struct io_uring ring;
	int ret = 0;

	if (io_uring_queue_init(8, &ring, 0))
		return 1;
	io_uring_regbuf_uaddr(&desc, buf, BUF_SIZE);
	memset(&good, 0, sizeof(good));
	good.flags = IORING_RSRC_UPDATE_EXTENDED;
	good.data = uring_ptr_to_u64(&desc);
	good.nr = 1;

	ret |= expect_raw(&ring, "no table", op, &good, sizeof(good), -ENXIO);
	/* descriptors are for updates only */
	reg.nr = 1;
	reg.flags = IORING_RSRC_UPDATE_EXTENDED;
	reg.data = uring_ptr_to_u64(&desc);
	ret |= expect_raw(&ring, "register", IORING_REGISTER_BUFFERS2, &reg,
			  sizeof(reg), -EINVAL);
	if (io_uring_register_buffers_sparse(&ring, NR_SLOTS))
		return 1;
	ret |= expect_raw(&ring, "nr_args 1", op, &good, 1, -EINVAL);
	ret |= expect_raw(&ring, "nr_args short", op, &good, sizeof(good) - 1,
			  -EINVAL);
	ret |= expect_raw(&ring, "nr_args long", op, &good, sizeof(good) + 8,
			  -EINVAL);
	up = good;
	up.flags |= 1U << 0;
	ret |= expect_raw(&ring, "flag 0", op, &up, sizeof(up), -EINVAL);
	up = good;
	up.flags |= 1U << 31;
	ret |= expect_raw(&ring, "flag 31", op, &up, sizeof(up), -EINVAL);
	up = good;
	up.resv2 = 1;
	ret |= expect_raw(&ring, "resv2", op, &up, sizeof(up), -EINVAL);
	up = good;
	up.nr = 0;
	ret |= expect_raw(&ring, "nr 0", op, &up, sizeof(up), -EINVAL);
	up = good;
	up.offset = NR_SLOTS;
	ret |= expect_raw(&ring, "behind table", op, &up, sizeof(up), -EINVAL);
	up = good;
	up.nr = NR_SLOTS + 1;
	ret |= expect_raw(&ring, "nr over table", op, &up, sizeof(up), -EINVAL);
	up = good;
	up.offset = UINT_MAX;
	ret |= expect_raw(&ring, "wrap", op, &up, sizeof(up), -EOVERFLOW);
	up = good;
	up.data = 0;
	ret |= expect_raw(&ring, "data", op, &up, sizeof(up), -EFAULT);
	up = good;
	up.tags = 8;
	ret |= expect_raw(&ring, "tags", op, &up, sizeof(up), -EFAULT);
	ret |= expect_raw(&ring, "arg", op, NULL, sizeof(up), -EFAULT);
	ret |= expect_raw(&ring, "files", IORING_REGISTER_FILES_UPDATE2, &good,
			  sizeof(good), -EINVAL);
	/* and none of it did harm */
	ret |= expect_raw(&ring, "good", op, &good, sizeof(good), 1);

	io_uring_queue_exit(&ring);
	return ret;
}

static int test_bad_desc(void)
{
	struct io_uring_regbuf_desc desc;
	struct io_uring ring;
	unsigned int i;
	int ret = 0;

	if (init_ring(&ring))
		return 1;

	io_uring_regbuf_empty(&desc);
	desc.type = IO_REGBUF_TYPE_DMABUF + 1;
	ret |= expect_update(&ring, "type", &desc, -EINVAL);
	desc.type = UINT_MAX;
	ret |= expect_update(&ring, "type -1", &desc, -EINVAL);

	io_uring_regbuf_empty(&desc);
	desc.flags = IORING_REGBUF_READ;
	ret |= expect_update(&ring, "empty flags", &desc, -EINVAL);
	io_uring_regbuf_empty(&desc);
	desc.size = 1;
	ret |= expect_update(&ring, "empty size", &desc, -EINVAL);
	io_uring_regbuf_empty(&desc);
	desc.uaddr = 1;
	ret |= expect_update(&ring, "empty uaddr", &desc, -EINVAL);
	io_uring_regbuf_empty(&desc);
	desc.dmabuf_fd = -1;
	ret |= expect_update(&ring, "empty dmabuf_fd", &desc, -EINVAL);
	io_uring_regbuf_empty(&desc);
	desc.target_fd = -1;
	ret |= expect_update(&ring, "empty target_fd", &desc, -EINVAL);
	io_uring_regbuf_empty(&desc);
	desc.offset = 4096;
	ret |= expect_update(&ring, "empty offset", &desc, -EINVAL);

	io_uring_regbuf_uaddr(&desc, buf, BUF_SIZE);
	desc.flags = IORING_REGBUF_READ;
	ret |= expect_update(&ring, "uaddr flags", &desc, -EINVAL);
	io_uring_regbuf_uaddr(&desc, buf, BUF_SIZE);
	desc.dmabuf_fd = -1;
	ret |= expect_update(&ring, "uaddr dmabuf_fd", &desc, -EINVAL);
	io_uring_regbuf_uaddr(&desc, buf, BUF_SIZE);
	desc.target_fd = -1;
	ret |= expect_update(&ring, "uaddr target_fd", &desc, -EINVAL);
	io_uring_regbuf_uaddr(&desc, buf, BUF_SIZE);
	desc.offset = 4096;
	ret |= expect_update(&ring, "uaddr offset", &desc, -EINVAL);
	io_uring_regbuf_uaddr(&desc, NULL, 4096);
	ret |= expect_update(&ring, "uaddr null", &desc, -EFAULT);
	io_uring_regbuf_uaddr(&desc, buf, 0);
	ret |= expect_update(&ring, "uaddr size 0", &desc, -EFAULT);

	for (i = 0; i < ARRAY_SIZE(desc.__resv); i++) {
		io_uring_regbuf_empty(&desc);
		desc.__resv[i] = 1;
		ret |= expect_update(&ring, "empty resv", &desc, -EINVAL);
		io_uring_regbuf_uaddr(&desc, buf, BUF_SIZE);
		desc.__resv[i] = 1ULL << 63;
		ret |= expect_update(&ring, "uaddr resv", &desc, -EINVAL);
		io_uring_regbuf_dmabuf(&desc, -1, -1, 0, 0, 0);
		desc.__resv[i] = 1;
		ret |= expect_update(&ring, "dmabuf resv", &desc, -EINVAL);
	}

	/* a slot that couldn't be replaced is as it was */
	io_uring_regbuf_uaddr(&desc, buf, BUF_SIZE);
	ret |= expect_update(&ring, "uaddr", &desc, 1);
	desc.flags = 1;
	ret |= expect_update(&ring, "uaddr flags", &desc, -EINVAL);
	ret |= check_read(&ring, "not replaced", 0, BUF_SIZE, 0);

	io_uring_queue_exit(&ring);
	return ret;
}

/* what is found out before there is a dma-buf */
static int test_bad_dmabuf(void)
{
	int ret = 0, fds[2], memfd, closed;
	struct io_uring_regbuf_desc desc;
	struct io_uring ring;

	if (!(types & (1ULL << IO_REGBUF_TYPE_DMABUF))) {
		printf("this kernel has no dma-bufs, part of the test is skipped\n");
		return 0;
	}
	if (init_ring(&ring))
		return 1;
	if (pipe(fds)) {
		perror("pipe");
		return 1;
	}
	memfd = memfd_create("regbuf-desc", 0);
	closed = dup(memfd);
	if (memfd < 0 || closed < 0) {
		perror("memfd");
		return 1;
	}
	close(closed);

	io_uring_regbuf_dmabuf(&desc, -1, data_fd, 0, 0, 0);
	ret |= expect_update(&ring, "fd -1", &desc, -EBADF);
	io_uring_regbuf_dmabuf(&desc, closed, data_fd, 0, 0, 0);
	ret |= expect_update(&ring, "fd closed", &desc, -EBADF);
	io_uring_regbuf_dmabuf(&desc, memfd, data_fd, 0, 0, 0);
	ret |= expect_update(&ring, "memfd", &desc, -EINVAL);
	io_uring_regbuf_dmabuf(&desc, fds[0], data_fd, 0, 0, 0);
	ret |= expect_update(&ring, "pipe", &desc, -EINVAL);
	io_uring_regbuf_dmabuf(&desc, ring.ring_fd, data_fd, 0, 0, 0);
	ret |= expect_update(&ring, "ring", &desc, -EINVAL);
	io_uring_regbuf_dmabuf(&desc, data_fd, data_fd, 0, 0, 0);
	ret |= expect_update(&ring, "file", &desc, -EINVAL);
	io_uring_regbuf_dmabuf(&desc, -1, data_fd, 0, 0, 1U << 31);
	ret |= expect_update(&ring, "flags", &desc, -EINVAL);
	io_uring_regbuf_dmabuf(&desc, -1, data_fd, 0, 0, 0);
	desc.uaddr = (unsigned long) buf;
	ret |= expect_update(&ring, "uaddr", &desc, -EINVAL);

	close(memfd);
	close(fds[0]);
	close(fds[1]);
	io_uring_queue_exit(&ring);
	return ret;
}

/* a real dma-buf, but nothing that could do I/O on it */
static int test_bad_target(void)
{
	struct io_uring_regbuf_desc desc;
	int ret = 0, dmabuf, fds[2];
	struct io_uring ring;

	if (!(types & (1ULL << IO_REGBUF_TYPE_DMABUF)))
		return 0;
	dmabuf = t_create_udmabuf(BUF_SIZE);
	if (dmabuf < 0) {
		printf("no udmabuf (%s), part of the test is skipped\n",
		       strerror(-dmabuf));
		return 0;
	}
	if (init_ring(&ring))
		return 1;
	if (pipe(fds)) {
		perror("pipe");
		return 1;
	}

	io_uring_regbuf_dmabuf(&desc, dmabuf, -1, 0, 0, 0);
	ret |= expect_update(&ring, "target -1", &desc, -EBADF);
	io_uring_regbuf_dmabuf(&desc, dmabuf, fds[0], 0, 0, 0);
	ret |= expect_update(&ring, "target pipe", &desc, -EOPNOTSUPP);
	io_uring_regbuf_dmabuf(&desc, dmabuf, ring.ring_fd, 0, 0, 0);
	ret |= expect_update(&ring, "target ring", &desc, -EOPNOTSUPP);
	io_uring_regbuf_dmabuf(&desc, dmabuf, data_fd, 0, 0, 0);
	ret |= expect_update(&ring, "target file", &desc, -EOPNOTSUPP);
	io_uring_regbuf_dmabuf(&desc, dmabuf, dmabuf, 0, 0, 0);
	ret |= expect_update(&ring, "target dma-buf", &desc, -EOPNOTSUPP);

	close(dmabuf);
	close(fds[0]);
	close(fds[1]);
	io_uring_queue_exit(&ring);
	return ret;
}

/* returns T_EXIT_SKIP if the kernel doesn't have descriptors */
static int query(void)
{
	struct io_uring_query_regbuf regbuf;
	struct io_uring_query_hdr hdr = {
		.query_op = IO_URING_QUERY_REGBUF,
		.query_data = uring_ptr_to_u64(&regbuf),
		.size = sizeof(regbuf),
	};
	unsigned int i;
	__u64 basic;
	int ret;

	memset(&regbuf, 0, sizeof(regbuf));
	ret = io_uring_register_query(&hdr);
	if (ret == -EINVAL || (!ret && hdr.result == -EOPNOTSUPP)) {
		printf("this kernel has no buffer descriptors\n");
		return T_EXIT_SKIP;
	}
	basic = 1ULL << IO_REGBUF_TYPE_EMPTY | 1ULL << IO_REGBUF_TYPE_UADDR;
	if (ret || hdr.result || hdr.size != sizeof(regbuf) ||
	    (regbuf.types & basic) != basic ||
	    !(regbuf.update_flags & IORING_RSRC_UPDATE_EXTENDED) ||
	    regbuf.desc_size != sizeof(struct io_uring_regbuf_desc)) {
		fprintf(stderr, "query %d: result %d size %u types %llx update flags %llx desc size %u\n",
			ret, hdr.result, hdr.size,
			(unsigned long long) regbuf.types,
			(unsigned long long) regbuf.update_flags,
			regbuf.desc_size);
		return T_EXIT_FAIL;
	}
	for (i = 0; i < ARRAY_SIZE(regbuf.__resv); i++) {
		if (regbuf.__resv[i]) {
			fprintf(stderr, "query: reserved field %u set\n", i);
			return T_EXIT_FAIL;
		}
	}
	types = regbuf.types;
	return T_EXIT_PASS;
}

static int setup(void)
{
	size_t i;

	buf = mmap(NULL, BUF_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buf == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	data_fd = open(FILE_NAME, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (data_fd < 0) {
		perror(FILE_NAME);
		return 1;
	}
	unlink(FILE_NAME);
	for (i = 0; i < BUF_SIZE; i++)
		buf[i] = pattern(i);
	if (write(data_fd, buf, BUF_SIZE) != BUF_SIZE) {
		perror("write");
		return 1;
	}
	return 0;
}

int main(int argc, char *argv[])
{
	static const struct {
		const char *name;
		int (*fn)(void);
	} tests[] = {
		{ "layout", test_layout },
		{ "uaddr", test_uaddr },
		{ "write", test_write },
		{ "empty", test_empty },
		{ "tags", test_tags },
		{ "partial", test_partial },
		{ "bad_update", test_bad_update },
		{ "bad_desc", test_bad_desc },
		{ "bad_dmabuf", test_bad_dmabuf },
		{ "bad_target", test_bad_target },
	};
	unsigned int i;
	int ret;

	if (argc > 1)
		return T_EXIT_SKIP;

	ret = query();
	if (ret != T_EXIT_PASS)
		return ret;
	if (setup())
		return T_EXIT_FAIL;

	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		if (tests[i].fn()) {
			fprintf(stderr, "test_%s failed\n", tests[i].name);
			return T_EXIT_FAIL;
		}
	}
	return T_EXIT_PASS;
}
