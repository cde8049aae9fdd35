/* SPDX-License-Identifier: MIT */
/*
 * Read a file into memory that belongs to a driver. A command has the driver
 * lend it, and the reads that it is fused with fill it: one SQE of 128 bytes
 * for the command and the first read, an SQE for each of the others, and one
 * CQE for all of them. A second command has a look at what is there, as a
 * server does that wants to see a header of data it merely passes on.
 *
 * The driver is the kernel's io_uring_mock, whose memory can be mapped, so that
 * the example can show that all is in its place. That of a ublk device can't:
 * it belongs to whoever reads from the device.
 *
 *	fused-lend FILE [NUMBER OF READS]
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>

#include "liburing.h"
#include "../test/mock_file.h"

#define ENTRIES		128
#define MAX_READS	64
#define MEM		IORING_MOCK_LEND_SIZE
#define EXIT_NO_SUPPORT	77

static int fail(const char *what, int err)
{
	fprintf(stderr, "%s: %s\n", what, strerror(err));
	return 1;
}

/* the result of the next request, or of waiting for it */
static int result(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	int ret = io_uring_wait_cqe(ring, &cqe);

	if (ret)
		return ret;
	ret = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return ret;
}

static int submit(struct io_uring *ring)
{
	int ret = io_uring_submit(ring);

	return ret < 0 ? ret : result(ring);
}

/* a file of the mock driver, or -errno */
static int open_lender(struct io_uring *ring)
{
	struct io_uring_mock_create mc;
	struct io_uring_sqe *sqe;
	int fd, ret;

	fd = open("/dev/io_uring_mock", O_RDWR);
	if (fd < 0)
		return -errno;
	memset(&mc, 0, sizeof(mc));
	mc.flags = IORING_MOCK_CREATE_F_LEND;
	mc.file_size = MEM;
	sqe = io_uring_get_sqe(ring);
	io_uring_prep_uring_cmd(sqe, IORING_MOCK_MGR_CMD_CREATE, fd);
	sqe->addr = (unsigned long) &mc;
	sqe->len = sizeof(mc);
	ret = submit(ring);
	close(fd);
	return ret ? ret : (int) mc.out_fd;
}

/* all of the driver's memory, for @nr requests that are still to be prepared */
static struct io_uring_sqe *borrow(struct io_uring *ring, int lender,
				   unsigned int nr, unsigned int direction)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe128(ring);
	struct io_uring_mock_lend *lend;

	io_uring_prep_fused_cmd(sqe, IORING_MOCK_CMD_LEND, lender, nr);
	io_uring_fused_set_flags(sqe, IORING_FUSED_ONE_CQE);
	sqe->len = direction;
	lend = (struct io_uring_mock_lend *) sqe->cmd;
	lend->len = MEM;
	return sqe;
}

int main(int argc, char *argv[])
{
	unsigned int reads = argc > 2 ? atoi(argv[2]) : 4;
	struct io_uring_sqe *sqe, *member;
	unsigned char head[16], *mem, *want;
	unsigned int i, piece;
	struct io_uring ring;
	int file, lender, ret;

	if (argc < 2 || !reads || reads > MAX_READS) {
		fprintf(stderr, "usage: %s FILE [NUMBER OF READS, 1 to %u]\n",
			argv[0], MAX_READS);
		return 1;
	}
	if (!io_uring_have_fused(IORING_OP_READ)) {
		fprintf(stderr, "the kernel has no fused commands\n");
		return EXIT_NO_SUPPORT;
	}
	file = open(argv[1], O_RDONLY);
	if (file < 0)
		return fail(argv[1], errno);
	ret = io_uring_queue_init(ENTRIES, &ring, IORING_SETUP_SQE_MIXED);
	if (ret)
		return fail("ring", -ret);
	lender = open_lender(&ring);
	if (lender == -ENOENT) {
		fprintf(stderr, "there is no /dev/io_uring_mock\n");
		return EXIT_NO_SUPPORT;
	}
	if (lender < 0)
		return fail("mock file", -lender);

	/* SQEs of a command are submitted together, and there is room here */
	piece = MEM / reads;
	sqe = borrow(&ring, lender, reads, IORING_MOCK_LEND_DEST);
	for (i = 0; i < reads; i++) {
		unsigned int off = i * piece;
		unsigned int len = i == reads - 1 ? MEM - off : piece;

		member = i ? io_uring_get_sqe(&ring) :
			     io_uring_fused_member(sqe);
		io_uring_prep_read(member, file, (void *) (unsigned long) off,
				   len, off);
	}
	ret = submit(&ring);
	if (ret < 0)
		return fail("read", -ret);
	printf("%u reads have filled %d bytes, with one CQE\n", reads, ret);

	sqe = borrow(&ring, lender, 1, IORING_MOCK_LEND_SOURCE);
	io_uring_prep_memcpy_fixed(io_uring_fused_member(sqe), head, -1,
				   NULL, 0, sizeof(head), 0);
	ret = submit(&ring);
	if (ret < 0)
		return fail("memcpy", -ret);
	printf("they begin with");
	for (i = 0; i < sizeof(head); i++)
		printf(" %02x", head[i]);
	printf("\n");

	/* behind their back: the file, and zeroes where it has ended */
	mem = mmap(NULL, MEM, PROT_READ, MAP_SHARED, lender, 0);
	want = calloc(1, MEM);
	if (mem == MAP_FAILED || !want)
		return fail("memory", errno);
	if (pread(file, want, MEM, 0) < 0)
		return fail(argv[1], errno);
	if (memcmp(mem, want, MEM) || memcmp(mem, head, sizeof(head))) {
		fprintf(stderr, "this is not what the file has\n");
		return 1;
	}
	printf("all of it is as in the file\n");
	io_uring_queue_exit(&ring);
	return 0;
}
