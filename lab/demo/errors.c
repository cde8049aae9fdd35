// SPDX-License-Identifier: GPL-2.0
/* What bad input gets, and that it changes nothing. Part of `make demo`. */
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define FILL	0xee

static struct io_uring ring;
static unsigned char *page;	/* one page that is there, and none behind it */
static int failed;

static void expect(const char *what, struct io_uring_sqe *sqe, int res,
		   size_t written)
{
	struct io_uring_cqe *cqe;
	size_t i;
	int got;

	sqe->user_data = 1;
	io_uring_submit(&ring);
	if (io_uring_wait_cqe(&ring, &cqe))
		exit(1);
	got = cqe->res;
	io_uring_cqe_seen(&ring, cqe);

	for (i = 0; i < 4096 && page[i] == FILL; i++)
		;
	printf("  %-58s %6d  %s\n", what, got,
	       got < 0 ? strerror(-got) : "bytes");
	if (got != res || (!written && i != 4096)) {
		printf("    expected %d, and %s\n", res,
		       i == 4096 ? "nothing was written" : "memory was changed");
		failed = 1;
	}
	/* it may be read-only, and then it didn't change */
	if (i != 4096)
		memset(page, FILL, 4096);
}

static struct io_uring_sqe *imm(unsigned long off, unsigned int len,
				unsigned int flags)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	io_uring_prep_memcpy_imm(sqe, page + off, 0x1122334455667788ULL, len);
	sqe->memcpy_flags = flags;
	return sqe;
}

static struct io_uring_sqe *copy(void *dst, const void *src, unsigned int len,
				 unsigned int flags)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	io_uring_prep_memcpy(sqe, dst, src, len, flags);
	return sqe;
}

int main(void)
{
	static char src[4096];
	unsigned char *base = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (base == MAP_FAILED || io_uring_queue_init(8, &ring, 0))
		return 1;
	page = base + 4096;
	munmap(base + 8192, 4096);
	memset(page, FILL, 4096);

	expect("MEMCPY_IMMEDIATE of 9 bytes", imm(0, 9, 0), -EINVAL, 0);
	expect("... of 4 bytes to an address that is no multiple of 4",
	       imm(2, 4, 0), -EINVAL, 0);
	expect("... with a flag that doesn't exist", imm(0, 4, 1U << 31),
	       -EINVAL, 0);
	expect("... to memory that isn't there", imm(4096, 8, 0), -EFAULT, 0);
	expect("... of 5 bytes, the last 2 of them on that missing page",
	       imm(4093, 5, 0), -EFAULT, 0);
	expect("... to a registered buffer that doesn't exist",
	       imm(0, 4, IORING_MEMCPY_DST_FIXED), -EFAULT, 0);
	mprotect(page, 4096, PROT_READ);
	expect("... to read-only memory", imm(0, 8, 0), -EFAULT, 0);
	mprotect(page, 4096, PROT_READ | PROT_WRITE);

	expect("MEMCPY of a range onto itself", copy(page + 16, page, 64, 0),
	       -EINVAL, 0);
	expect("... by an engine that isn't there",
	       copy(page, src, 64, IORING_MEMCPY_ENGINE_ONLY), -EOPNOTSUPP, 0);
	expect("... from a kernel address",
	       copy(page, (void *)(~0UL << 47), 64, 0), -EFAULT, 0);
	expect("... of 3 GiB", copy(page, src, 3U << 30, 0), -EINVAL, 0);
	expect("... of 4096 bytes, with room for 1000: a short copy",
	       copy(page + 3096, src, 4096, 0), 1000, 1000);
	expect("... of nothing, from nowhere", copy(NULL, NULL, 0, 0), 0, 0);

	io_uring_queue_exit(&ring);
	return failed;
}
