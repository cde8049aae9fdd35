/* SPDX-License-Identifier: MIT */
/*
 * Description: test IORING_OP_MEMCPY: copies between user memory and
 *		registered buffers in all pairings, short copies, and what
 *		bad input gets
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>

#include "liburing.h"
#include "liburing/io_uring/query.h"
#include "helpers.h"
#include "memcpy-common.h"

#define GUARD_LEN	64
#define MAX_LEN		(1024 * 1024 + 1)
#define BUF_SIZE	(2 * 1024 * 1024)
#define MAX_RW_COUNT	0x7ffff000U

/* indices of the registered buffers, the first one is empty */
enum { IDX_EMPTY, IDX_DST, IDX_SRC, NR_IDX };

static unsigned char *dst, *src;
static long psz;

/* differs for each position, and for any distance that is a power of two */
static unsigned char pattern(size_t pos)
{
	return (pos * 2654435761U) >> 13 ^ pos;
}

static void fill(unsigned char *p, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		p[i] = pattern(i);
}

static int differ(const unsigned char *d, const unsigned char *s, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++) {
		if (d[i] != s[i]) {
			fprintf(stderr, "byte %zu of %zu: %x, not %x\n", i,
				len, d[i], s[i]);
			return 1;
		}
	}
	return 0;
}

/* 'len' bytes of the source from 's' on are at 'd', between guards */
static int check_copy(const unsigned char *d, const unsigned char *s,
		      size_t len)
{
	size_t i;

	for (i = 0; i < GUARD_LEN; i++) {
		if (d[-1 - (long) i] != GUARD || d[len + i] != GUARD) {
			fprintf(stderr, "guard %zu of %zu bytes written\n", i,
				len);
			return 1;
		}
	}
	for (i = 0; i < len; i++) {
		if (d[i] != s[i] || s[i] != pattern(s + i - src)) {
			fprintf(stderr, "byte %zu of %zu: %x %x, not %x\n", i,
				len, d[i], s[i], pattern(s + i - src));
			return 1;
		}
	}
	return 0;
}

static int copy_one(struct io_uring *ring, const struct params *p,
		    unsigned char *d, int dst_index, const unsigned char *s,
		    int src_index, unsigned int len)
{
	struct io_uring_sqe *sqe = get_sqe(ring, p);

	memset(d - GUARD_LEN, GUARD, len + 2 * GUARD_LEN);
	io_uring_prep_memcpy_fixed(sqe, d, dst_index, s, src_index, len, 0);
	sqe->flags |= p->sqe_flags;
	if (expect(ring, p, "copy", len) || check_copy(d, s, len)) {
		fprintf(stderr, "%s: %u bytes, dst %ld/%d, src %ld/%d\n",
			p->name, len, (long) (d - dst), dst_index,
			(long) (s - src), src_index);
		return 1;
	}
	return 0;
}

static int test_pairings(struct io_uring *ring, const struct params *p)
{
	static const unsigned int lens[] = {
		0, 1, 7, 8, 63, 64, 65, 4095, 4096, 4097, 65535, 65536, 65537,
		MAX_LEN,
	};
	static const unsigned int offs[] = { 0, 1, 63, 4095 };
	unsigned int pair, i, j, k;

	for (pair = 0; pair < 4; pair++) {
		int d = pair & 1 ? IDX_DST : -1;
		int s = pair & 2 ? IDX_SRC : -1;

		for (i = 0; i < ARRAY_SIZE(lens); i++) {
			for (j = 0; j < ARRAY_SIZE(offs); j++) {
				for (k = 0; k < ARRAY_SIZE(offs); k++) {
					/* the large ones take their time */
					if (lens[i] == MAX_LEN && j != k)
						continue;
					if (copy_one(ring, p,
						     dst + GUARD_LEN + offs[j],
						     d, src + offs[k], s,
						     lens[i]))
						return 1;
				}
			}
		}
	}

	/* two parts of one buffer, next to each other in both orders */
	fill(dst, 8192);
	io_uring_prep_memcpy_fixed(get_sqe(ring, p), dst + 4096, IDX_DST, dst,
				   IDX_DST, 4096, 0);
	if (expect(ring, p, "same buffer", 4096) ||
	    differ(dst + 4096, src, 4096))
		return 1;
	fill(dst, 8192);
	io_uring_prep_memcpy_fixed(get_sqe(ring, p), dst, IDX_DST, dst + 4096,
				   IDX_DST, 4096, 0);
	return expect(ring, p, "same buffer, down", 4096) ||
		differ(dst, src + 4096, 4096);
}

static int test_flags(struct io_uring *ring, const struct params *p)
{
	struct io_uring_sqe *sqe;
	unsigned char *d = dst + GUARD_LEN;

	memset(dst, GUARD, 4096 + 2 * GUARD_LEN);
	sqe = get_sqe(ring, p);
	io_uring_prep_memcpy(sqe, d, src, 4096, IORING_MEMCPY_CPU_ONLY |
			     IORING_MEMCPY_REPORT);
	sqe->flags |= p->sqe_flags;
	if (expect(ring, p, "cpu only", 4096) || check_copy(d, src, 4096))
		return 1;

	memset(dst, GUARD, 4096 + 2 * GUARD_LEN);
	sqe = get_sqe(ring, p);
	io_uring_prep_memcpy(sqe, d, src, 4096, IORING_MEMCPY_ENGINE_ONLY);
	sqe->flags |= p->sqe_flags;
	if (expect(ring, p, "engine only", -EOPNOTSUPP) ||
	    check_copy(d, src, 0))
		return 1;

	/* nothing to copy: nobody looks at the addresses */
	sqe = get_sqe(ring, p);
	io_uring_prep_memcpy(sqe, NULL, (void *) -1UL, 0, 0);
	sqe->flags |= p->sqe_flags;
	if (expect(ring, p, "len 0", 0))
		return 1;
	sqe = get_sqe(ring, p);
	io_uring_prep_memcpy_fixed(sqe, NULL, NR_IDX, NULL, 65535, 0, 0);
	sqe->flags |= p->sqe_flags;
	return expect(ring, p, "fixed len 0", 0);
}

/* a copy reads what the requests before it in the chain wrote */
static int test_chain(struct io_uring *ring, const struct params *p)
{
	struct io_uring_sqe *sqe;
	unsigned char *d = dst + GUARD_LEN;
	unsigned int i;
	int res[4];

	memset(dst, GUARD, 4 * 8192);
	for (i = 0; i < 3; i++) {
		sqe = get_sqe(ring, p);
		io_uring_prep_memcpy(sqe, d + i * 8192,
				     i ? d + (i - 1) * 8192 : src, 8192 - 128,
				     0);
		sqe->flags |= IOSQE_IO_LINK | p->sqe_flags;
		sqe->user_data = i;
	}
	sqe = get_sqe(ring, p);
	io_uring_prep_memcpy_imm(sqe, d + 3 * 8192, 1, 1);
	sqe->flags |= p->sqe_flags;
	sqe->user_data = 3;

	if (reap(ring, res, 4))
		return 1;
	for (i = 0; i < 3; i++) {
		if (res[i] != 8192 - 128 ||
		    check_copy(d + i * 8192, src, 8192 - 128)) {
			fprintf(stderr, "%s: chain %u: %d\n", p->name, i,
				res[i]);
			return 1;
		}
	}
	if (res[3] != 1 || d[3 * 8192] != 1) {
		fprintf(stderr, "%s: end of chain %d\n", p->name, res[3]);
		return 1;
	}
	return 0;
}

/* memory that has no page yet, or not any more */
static int test_fresh(struct io_uring *ring, const struct params *p)
{
	const size_t len = 16 * psz;
	unsigned char *m, *f;
	size_t i;
	int fd, ret = 1;

	fd = memfd_create("memcpy", 0);
	if (fd < 0) {
		perror("memfd_create");
		return 1;
	}
	if (write(fd, src, len) != (ssize_t) len) {
		perror("write");
		goto close;
	}
	f = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	m = mmap(NULL, len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m == MAP_FAILED || f == MAP_FAILED) {
		perror("mmap");
		goto close;
	}

	/* from the page cache to pages on demand */
	io_uring_prep_memcpy(get_sqe(ring, p), m + GUARD_LEN, f + 1, len - 128,
			     0);
	if (expect(ring, p, "fresh", len - 128) ||
	    differ(m + GUARD_LEN, src + 1, len - 128))
		goto unmap;

	/* zeroes once more, over the file's content */
	if (madvise(m, len, MADV_DONTNEED)) {
		perror("madvise");
		goto unmap;
	}
	io_uring_prep_memcpy(get_sqe(ring, p), f, m, len, 0);
	if (expect(ring, p, "dontneed", len))
		goto unmap;
	for (i = 0; i < len; i++) {
		if (f[i]) {
			fprintf(stderr, "byte %zu isn't zero\n", i);
			goto unmap;
		}
	}
	ret = 0;
unmap:
	munmap(m, len);
	munmap(f, len);
close:
	close(fd);
	return ret;
}

/*
 * A copy that hits a hole ends there, tells how far it came, and severs the
 * chain.
 */
static int test_short(struct io_uring *ring, const struct params *p)
{
	static const unsigned int holes[] = { 1, 100, 4096, 100000 };
	const size_t len = 48 * psz;
	struct io_uring_sqe *sqe;
	unsigned char *m, *hole;
	unsigned int i, j;
	int ret = 1;

	m = mmap(NULL, len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	hole = m + len - 8 * psz;
	if (mprotect(hole, 8 * psz, PROT_NONE)) {
		perror("mprotect");
		goto unmap;
	}

	for (i = 0; i < 2 * ARRAY_SIZE(holes); i++) {
		unsigned int before = holes[i / 2];
		unsigned char *d, *s;

		if (i & 1) {
			d = hole - before;
			s = src;
			memset(m, GUARD, len - 8 * psz);
		} else {
			d = dst + GUARD_LEN;
			s = hole - before;
			for (j = 0; j < before; j++)
				s[j] = pattern(j);
			memset(dst, GUARD, before + 4096);
		}

		sqe = get_sqe(ring, p);
		io_uring_prep_memcpy(sqe, d, s, before + 2000, 0);
		if (expect_severed(ring, p, sqe, i & 1 ? "hole in dst" :
				   "hole in src", before))
			goto unmap;
		for (j = 0; j < before; j++) {
			if (d[j] != pattern(j)) {
				fprintf(stderr, "%s: hole: byte %u is %x\n",
					p->name, j, d[j]);
				goto unmap;
			}
		}
		if (d[-1] != GUARD || (!(i & 1) && d[before] != GUARD)) {
			fprintf(stderr, "%s: hole: guard written\n", p->name);
			goto unmap;
		}
	}
	ret = 0;
unmap:
	munmap(m, len);
	return ret;
}

enum {
	B_LEN, B_LENMAX, B_FLAG, B_IMM_OP, B_BOTH, B_INDEX, B_BUF_INDEX,
	B_FILE_INDEX, B_FD, B_IOPRIO, B_ADDR3, B_PAD, B_FIXED_FILE,
	B_BUF_SELECT, B_SAME, B_OVERLAP, B_OVERLAP_DOWN, B_OVERLAP_FIXED,
	B_DST_NO_BUF, B_DST_LARGE, B_SRC_NO_BUF, B_DST_EMPTY, B_SRC_EMPTY,
	B_DST_BEFORE, B_SRC_BEFORE, B_DST_BEHIND, B_SRC_BEHIND, B_DST_WRAP,
	B_SRC_WRAP, B_DST_NULL, B_SRC_NULL, B_DST_NONE, B_SRC_NONE,
	B_DST_RDONLY, B_DST_KERNEL, B_SRC_KERNEL, B_LAST,
};

static const int bad_errno[B_LAST] = {
	[B_LEN]			= -EINVAL,
	[B_LENMAX]		= -EINVAL,
	[B_FLAG]		= -EINVAL,
	[B_IMM_OP]		= -EINVAL,
	[B_BOTH]		= -EINVAL,
	[B_INDEX]		= -EINVAL,
	[B_BUF_INDEX]		= -EINVAL,
	[B_FILE_INDEX]		= -EINVAL,
	[B_FD]			= -EINVAL,
	[B_IOPRIO]		= -EINVAL,
	[B_ADDR3]		= -EINVAL,
	[B_PAD]			= -EINVAL,
	[B_FIXED_FILE]		= -EINVAL,
	[B_BUF_SELECT]		= -EOPNOTSUPP,
	[B_SAME]		= -EINVAL,
	[B_OVERLAP]		= -EINVAL,
	[B_OVERLAP_DOWN]	= -EINVAL,
	[B_OVERLAP_FIXED]	= -EINVAL,
	[B_DST_NO_BUF]		= -EFAULT,
	[B_DST_LARGE]		= -EFAULT,
	[B_SRC_NO_BUF]		= -EFAULT,
	[B_DST_EMPTY]		= -EFAULT,
	[B_SRC_EMPTY]		= -EFAULT,
	[B_DST_BEFORE]		= -EFAULT,
	[B_SRC_BEFORE]		= -EFAULT,
	[B_DST_BEHIND]		= -EFAULT,
	[B_SRC_BEHIND]		= -EFAULT,
	[B_DST_WRAP]		= -EFAULT,
	[B_SRC_WRAP]		= -EFAULT,
	[B_DST_NULL]		= -EFAULT,
	[B_SRC_NULL]		= -EFAULT,
	[B_DST_NONE]		= -EFAULT,
	[B_SRC_NONE]		= -EFAULT,
	[B_DST_RDONLY]		= -EFAULT,
	[B_DST_KERNEL]		= -EFAULT,
	[B_SRC_KERNEL]		= -EFAULT,
};

static unsigned char *page_none, *page_rdonly;

static void prep_bad(struct io_uring_sqe *sqe, int bad)
{
	unsigned char *d = dst + GUARD_LEN;
	const unsigned int len = 512;

	io_uring_prep_memcpy(sqe, d, src, len, 0);

	switch (bad) {
	case B_LEN:
		/* fixed, so that the sanitizer doesn't mind */
		io_uring_prep_memcpy_fixed(sqe, d, IDX_DST, src, IDX_SRC,
					   MAX_RW_COUNT + 1, 0);
		break;
	case B_LENMAX:
		io_uring_prep_memcpy_fixed(sqe, d, IDX_DST, src, IDX_SRC, -1U,
					   0);
		break;
	case B_FLAG:
		sqe->memcpy_flags = IORING_MEMCPY_REPORT << 1;
		break;
	case B_IMM_OP:
		sqe->memcpy_flags = 1U << IORING_MEMCPY_IMM_OP_SHIFT;
		break;
	case B_BOTH:
		sqe->memcpy_flags = IORING_MEMCPY_CPU_ONLY |
				    IORING_MEMCPY_ENGINE_ONLY;
		break;
	case B_INDEX:
		io_uring_prep_memcpy_fixed(sqe, d, -1, src, 65536 + IDX_SRC,
					   len, 0);
		break;
	case B_BUF_INDEX:
		sqe->buf_index = IDX_DST;
		break;
	case B_FILE_INDEX:
		sqe->file_index = IDX_SRC;
		break;
	case B_FD:
		sqe->fd = 1;
		break;
	case B_IOPRIO:
		sqe->ioprio = 1;
		break;
	case B_ADDR3:
		sqe->addr3 = 1;
		break;
	case B_PAD:
		sqe->__pad2[0] = 1;
		break;
	case B_FIXED_FILE:
		sqe->flags |= IOSQE_FIXED_FILE;
		break;
	case B_BUF_SELECT:
		sqe->flags |= IOSQE_BUFFER_SELECT;
		break;
	case B_SAME:
		io_uring_prep_memcpy(sqe, d, d, len, 0);
		break;
	case B_OVERLAP:
		io_uring_prep_memcpy(sqe, d, d + len - 1, len, 0);
		break;
	case B_OVERLAP_DOWN:
		io_uring_prep_memcpy(sqe, d + len - 1, d, len, 0);
		break;
	case B_OVERLAP_FIXED:
		io_uring_prep_memcpy_fixed(sqe, d, IDX_DST, d + len - 1,
					   IDX_DST, len, 0);
		break;
	case B_DST_NO_BUF:
		io_uring_prep_memcpy_fixed(sqe, d, NR_IDX, src, -1, len, 0);
		break;
	case B_DST_LARGE:
		/* must not be cut to that of a buffer which is there */
		io_uring_prep_memcpy_fixed(sqe, d, 65536 + IDX_DST, src, -1,
					   len, 0);
		break;
	case B_SRC_NO_BUF:
		io_uring_prep_memcpy_fixed(sqe, d, -1, src, 65535, len, 0);
		break;
	case B_DST_EMPTY:
		io_uring_prep_memcpy_fixed(sqe, d, IDX_EMPTY, src, -1, len, 0);
		break;
	case B_SRC_EMPTY:
		io_uring_prep_memcpy_fixed(sqe, d, -1, src, IDX_EMPTY, len, 0);
		break;
	case B_DST_BEFORE:
		io_uring_prep_memcpy_fixed(sqe, dst - 1, IDX_DST, src, -1, len,
					   0);
		break;
	case B_SRC_BEFORE:
		io_uring_prep_memcpy_fixed(sqe, d, -1, src - 1, IDX_SRC, len,
					   0);
		break;
	case B_DST_BEHIND:
		io_uring_prep_memcpy_fixed(sqe, dst + BUF_SIZE - len + 1,
					   IDX_DST, src, IDX_SRC, len, 0);
		break;
	case B_SRC_BEHIND:
		io_uring_prep_memcpy_fixed(sqe, d, IDX_DST,
					   src + BUF_SIZE - len + 1, IDX_SRC,
					   len, 0);
		break;
	case B_DST_WRAP:
		io_uring_prep_memcpy_fixed(sqe, (void *) -16UL, IDX_DST, src,
					   -1, len, 0);
		break;
	case B_SRC_WRAP:
		io_uring_prep_memcpy_fixed(sqe, d, -1, (void *) -16UL, IDX_SRC,
					   len, 0);
		break;
	case B_DST_NULL:
		sqe->addr = 0;
		break;
	case B_SRC_NULL:
		sqe->addr2 = 0;
		break;
	case B_DST_NONE:
		sqe->addr = (unsigned long) page_none;
		break;
	case B_SRC_NONE:
		sqe->addr2 = (unsigned long) page_none;
		break;
	case B_DST_RDONLY:
		sqe->addr = (unsigned long) page_rdonly;
		break;
	case B_DST_KERNEL:
		sqe->addr = -65536ULL;
		break;
	case B_SRC_KERNEL:
		sqe->addr2 = -65536ULL;
		break;
	}
}

/* bad input gets its errno, ends the chain, and nothing is written */
static int test_bad(struct io_uring *ring, const struct params *p)
{
	struct io_uring_sqe *sqe;
	int i, last = B_LAST;

	/* the sanitizer looks at the address before the kernel does */
#ifdef CONFIG_USE_SANITIZER
	last = B_DST_NULL;
#endif

	for (i = 0; i < last; i++) {
		memset(dst, GUARD, 4096);
		memset(dst + BUF_SIZE - 4096, GUARD, 4096);
		sqe = get_sqe(ring, p);
		prep_bad(sqe, i);
		if (expect_severed(ring, p, sqe, "bad input", bad_errno[i])) {
			fprintf(stderr, "bad input %d\n", i);
			return 1;
		}
		if (memcmp(dst, dst + 1, 4095) || dst[0] != GUARD ||
		    memcmp(dst, dst + BUF_SIZE - 4096, 4096) ||
		    page_rdonly[0]) {
			fprintf(stderr, "%s: bad input %d wrote\n", p->name, i);
			return 1;
		}
	}
	return 0;
}

/* a ring that wasn't given the opcode must not run it */
static int test_restricted(struct io_uring *ring, const struct params *p)
{
	memset(dst, GUARD, 4096);
	io_uring_prep_memcpy(get_sqe(ring, p), dst + GUARD_LEN, src, 512, 0);
	return expect(ring, p, "opcode", -EACCES) ||
		check_copy(dst + GUARD_LEN, src, 0);
}

static int test_query(void)
{
	struct io_uring_query_copy copy;
	struct io_uring_query_hdr hdr = {
		.query_op = IO_URING_QUERY_COPY,
		.query_data = (unsigned long) &copy,
		.size = sizeof(copy),
	};
	const uint64_t flags = IORING_MEMCPY_DST_FIXED |
		IORING_MEMCPY_SRC_FIXED | IORING_MEMCPY_CPU_ONLY |
		IORING_MEMCPY_REPORT;
	const uint64_t ops = (1ULL << __IORING_MEMCPY_IMM_OP_LAST) - 1;
	int ret;

	memset(&copy, 0xff, sizeof(copy));
	ret = io_uring_register_query(&hdr);
	if (ret || hdr.result) {
		fprintf(stderr, "query %d/%d\n", ret, hdr.result);
		return 1;
	}
	/* later kernels may know more, but none less */
	if ((copy.memcpy_flags & flags) != flags ||
	    !(copy.imm_flags & IORING_MEMCPY_DST_FIXED) ||
	    (copy.imm_ops & ops) != ops || copy.imm_max_len < 8 ||
	    copy.max_len < (1U << 30) || !copy.inline_max) {
		fprintf(stderr, "query: flags %llx/%llx ops %llx len %u/%u/%u\n",
			copy.memcpy_flags, copy.imm_flags, copy.imm_ops,
			copy.max_len, copy.inline_max, copy.imm_max_len);
		return 1;
	}
	return 0;
}

static int test_ring(struct io_uring *ring, const struct params *p)
{
	return test_pairings(ring, p) || test_flags(ring, p) ||
		test_chain(ring, p) || test_fresh(ring, p) ||
		test_short(ring, p) || test_bad(ring, p);
}

/* two buffers, each between pages that belong to no buffer */
static int map_bufs(void)
{
	unsigned char *p;

	psz = sysconf(_SC_PAGESIZE);
	p = mmap(NULL, 2 * BUF_SIZE + 5 * psz, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return 1;
	dst = p + psz;
	src = dst + BUF_SIZE + psz;
	page_none = src + BUF_SIZE + psz;
	page_rdonly = page_none + psz;
	fill(src, BUF_SIZE);
	return mprotect(page_none, psz, PROT_NONE) ||
		mprotect(page_rdonly, psz, PROT_READ);
}

int main(int argc, char *argv[])
{
	struct iovec iov[NR_IDX] = { };

	if (argc > 1 || !has_op(IORING_OP_MEMCPY))
		return T_EXIT_SKIP;

	if (map_bufs()) {
		perror("mmap");
		return T_EXIT_FAIL;
	}
	iov[IDX_DST].iov_base = dst;
	iov[IDX_DST].iov_len = BUF_SIZE;
	iov[IDX_SRC].iov_base = src;
	iov[IDX_SRC].iov_len = BUF_SIZE;

	if (run_on_all(8, iov, NR_IDX, test_ring))
		return T_EXIT_FAIL;
	if (run_restricted(test_restricted)) {
		fprintf(stderr, "test_restricted failed\n");
		return T_EXIT_FAIL;
	}
	if (test_query()) {
		fprintf(stderr, "test_query failed\n");
		return T_EXIT_FAIL;
	}

	return T_EXIT_PASS;
}
