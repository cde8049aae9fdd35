/* SPDX-License-Identifier: MIT */
/*
 * Description: test IORING_OP_MEMCPY_IMMEDIATE: what is stored, what is left
 *		alone, when it is stored, and what bad input gets
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include "liburing.h"
#include "helpers.h"
#include "memcpy-common.h"

#define AREA		64
#define BUF_SIZE	4096
#define VAL		0x8182838485868788ULL
#define ROUNDS		500
#define CHAIN		16

static unsigned char *buf;

/* 'len' bytes from 'off' on hold 'val', all others still are guards */
static int check_area(const unsigned char *area, unsigned int off,
		      uint64_t val, unsigned int len)
{
	unsigned char bytes[8];
	unsigned int i;

	for (i = 0; i < len; i++) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
		bytes[i] = val >> (8 * i);
#else
		bytes[i] = val >> (8 * (len - 1 - i));
#endif
	}
	for (i = 0; i < AREA; i++) {
		unsigned char want = GUARD;

		if (i >= off && i < off + len)
			want = bytes[i - off];
		if (area[i] != want) {
			fprintf(stderr, "len %u at %u: byte %u is %x, not %x\n",
				len, off, i, area[i], want);
			return 1;
		}
	}
	return 0;
}

static int test_set(struct io_uring *ring, const struct params *p)
{
	unsigned int len, off;
	int fixed;

	for (fixed = 0; fixed < 2; fixed++) {
		for (len = 1; len <= 8; len++) {
			for (off = 16; off < 32; off++) {
				struct io_uring_sqe *sqe = get_sqe(ring, p);

				if (!(len & (len - 1)) && (off & (len - 1)))
					io_uring_prep_nop(sqe);
				else if (fixed)
					io_uring_prep_memcpy_imm_fixed(sqe,
							buf + off, VAL, len, 1);
				else
					io_uring_prep_memcpy_imm(sqe, buf + off,
								 VAL, len);
				sqe->user_data = 0;
				if (sqe->opcode == IORING_OP_NOP) {
					if (expect(ring, p, "nop", 0))
						return 1;
					continue;
				}
				sqe->flags |= p->sqe_flags;
				memset(buf, GUARD, AREA);
				if (expect(ring, p, "set", len))
					return 1;
				if (check_area(buf, off, VAL, len))
					return 1;
			}
		}
	}

	/* a store that has nothing to say still is a store */
	memset(buf, GUARD, AREA);
	io_uring_prep_memcpy_imm(get_sqe(ring, p), buf, 0, 8);
	return expect(ring, p, "zero", 8) || check_area(buf, 0, 0, 8);
}

static int test_ops(struct io_uring *ring, const struct params *p)
{
	static const struct {
		unsigned int op;
		uint32_t old, val, new;
	} ops[] = {
		{ IORING_MEMCPY_IMM_SET,  0x12345678, 0x9abcdef0, 0x9abcdef0 },
		{ IORING_MEMCPY_IMM_ADD,  0x12345678, 1, 0x12345679 },
		{ IORING_MEMCPY_IMM_ADD,  0xfffffffe, 3, 1 },
		{ IORING_MEMCPY_IMM_ADD,  5, -2U, 3 },
		{ IORING_MEMCPY_IMM_OR,   0xf0f00000, 0x0ff00001, 0xfff00001 },
		{ IORING_MEMCPY_IMM_ANDN, 0xffff00ff, 0x0ff0000f, 0xf00f00f0 },
		{ IORING_MEMCPY_IMM_XOR,  0xff00ff00, 0x0ff00ff0, 0xf0f0f0f0 },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		struct io_uring_sqe *sqe = get_sqe(ring, p);
		uint32_t *word = (uint32_t *) (buf + 20);

		memset(buf, GUARD, AREA);
		*word = ops[i].old;
		io_uring_prep_memcpy_imm_op(sqe, word, ops[i].val, ops[i].op);
		sqe->flags |= p->sqe_flags;
		if (expect(ring, p, "op", 4))
			return 1;
		if (check_area(buf, 20, ops[i].new, 4)) {
			fprintf(stderr, "%s: op %u\n", p->name, ops[i].op);
			return 1;
		}
	}
	return 0;
}

/*
 * A head that fails means no store if it's linked softly, and a store if it
 * is linked hard. A failed store ends the chain as well.
 */
static int test_link(struct io_uring *ring, const struct params *p)
{
	static const struct {
		unsigned char link;
		int head;
		int imm;
	} links[] = {
		{ IOSQE_IO_LINK, 0, 8 },
		{ IOSQE_IO_LINK, -EIO, -ECANCELED },
		{ IOSQE_IO_HARDLINK, 0, 8 },
		{ IOSQE_IO_HARDLINK, -EIO, 8 },
	};
	struct io_uring_sqe *sqe;
	int res[CHAIN];
	unsigned int i;
	uint32_t want;

	for (i = 0; i < ARRAY_SIZE(links); i++) {
		memset(buf, GUARD, AREA);

		sqe = get_sqe(ring, p);
		io_uring_prep_nop(sqe);
		sqe->nop_flags = IORING_NOP_INJECT_RESULT;
		sqe->len = links[i].head;
		sqe->flags |= links[i].link | p->sqe_flags;
		sqe->user_data = 0;

		sqe = get_sqe(ring, p);
		io_uring_prep_memcpy_imm(sqe, buf + 8, VAL, 8);
		sqe->flags |= p->sqe_flags;
		sqe->user_data = 1;

		if (reap(ring, res, 2))
			return 1;
		if (res[0] != links[i].head || res[1] != links[i].imm) {
			fprintf(stderr, "%s: link %u: %d %d\n", p->name, i,
				res[0], res[1]);
			return 1;
		}
		if (check_area(buf, 8, VAL, links[i].imm > 0 ? 8 : 0))
			return 1;
	}

	/* each link sees what the one before it stored */
	memset(buf, GUARD, AREA);
	for (i = 0; i < CHAIN; i++) {
		sqe = get_sqe(ring, p);
		if (!i)
			io_uring_prep_memcpy_imm(sqe, buf + 8, 0, 4);
		else if (i & 1)
			io_uring_prep_memcpy_imm_op(sqe, (uint32_t *) (buf + 8),
						    i, IORING_MEMCPY_IMM_ADD);
		else
			io_uring_prep_memcpy_imm_op(sqe, (uint32_t *) (buf + 8),
						    i, IORING_MEMCPY_IMM_XOR);
		sqe->flags |= p->sqe_flags;
		if (i != CHAIN - 1)
			sqe->flags |= IOSQE_IO_LINK;
		sqe->user_data = i;
	}
	if (reap(ring, res, CHAIN))
		return 1;
	for (i = 0; i < CHAIN; i++) {
		if (res[i] != 4) {
			fprintf(stderr, "%s: chain %u: %d\n", p->name, i,
				res[i]);
			return 1;
		}
	}
	want = 0;
	for (i = 1; i < CHAIN; i++)
		want = (i & 1) ? want + i : want ^ i;
	return check_area(buf, 8, want, 4);
}

/* a drain waits for all before it, linked or not */
static int test_drain(struct io_uring *ring, const struct params *p)
{
	struct io_uring_sqe *sqe;
	int res[2];

	memset(buf, GUARD, AREA);
	sqe = get_sqe(ring, p);
	io_uring_prep_memcpy_imm(sqe, buf + 8, VAL, 8);
	sqe->flags |= p->sqe_flags;
	sqe->user_data = 0;

	sqe = get_sqe(ring, p);
	io_uring_prep_memcpy_imm(sqe, buf + 8, ~VAL, 8);
	sqe->flags |= IOSQE_IO_DRAIN | p->sqe_flags;
	sqe->user_data = 1;

	if (reap(ring, res, 2))
		return 1;
	if (res[0] != 8 || res[1] != 8) {
		fprintf(stderr, "%s: drain: %d %d\n", p->name, res[0], res[1]);
		return 1;
	}
	return check_area(buf, 8, ~VAL, 8);
}

/* goes last on a ring, which refuses to drain from now on */
static int test_skip(struct io_uring *ring, const struct params *p)
{
	const uint32_t inv[2] = { -1U, 0 };
	struct io_uring_sqe *sqe;
	uint64_t want;

	/* the 4 bytes at the lower address inverted, whatever the byte order */
	memcpy(&want, inv, sizeof(want));
	want ^= VAL;

	memset(buf, GUARD, AREA);
	sqe = get_sqe(ring, p);
	io_uring_prep_memcpy_imm(sqe, buf + 8, VAL, 8);
	sqe->flags |= IOSQE_CQE_SKIP_SUCCESS | IOSQE_IO_LINK | p->sqe_flags;
	sqe->user_data = 1;

	sqe = get_sqe(ring, p);
	io_uring_prep_memcpy_imm_op(sqe, (uint32_t *) (buf + 8), -1U,
				    IORING_MEMCPY_IMM_XOR);
	sqe->flags |= p->sqe_flags;
	sqe->user_data = 0;

	if (expect(ring, p, "skip", 4) || check_area(buf, 8, want, 8))
		return 1;
	if (io_uring_cq_ready(ring)) {
		fprintf(stderr, "%s: CQE in spite of skip\n", p->name);
		return 1;
	}
	return 0;
}

enum {
	B_LEN0, B_LEN9, B_LENMAX, B_ALIGN2, B_ALIGN4, B_ALIGN8, B_FLAG,
	B_SRC_FIXED, B_OP, B_OP_LEN, B_OP_ALIGN, B_OP_FIXED, B_FD, B_IOPRIO,
	B_FILE_INDEX, B_ADDR3, B_PAD, B_BUF_INDEX, B_FIXED_FILE, B_BUF_SELECT,
	B_NO_BUF, B_EMPTY_BUF, B_BUF_BEFORE, B_BUF_BEHIND, B_BUF_ACROSS,
	B_BUF_WRAP, B_BUF_NULL,
	B_NULL, B_NONE, B_RDONLY, B_UNMAPPED, B_KERNEL, B_LAST,
};

static const int bad_errno[B_LAST] = {
	[B_LEN0]	= -EINVAL,
	[B_LEN9]	= -EINVAL,
	[B_LENMAX]	= -EINVAL,
	[B_ALIGN2]	= -EINVAL,
	[B_ALIGN4]	= -EINVAL,
	[B_ALIGN8]	= -EINVAL,
	[B_FLAG]	= -EINVAL,
	[B_SRC_FIXED]	= -EINVAL,
	[B_OP]		= -EINVAL,
	[B_OP_LEN]	= -EINVAL,
	[B_OP_ALIGN]	= -EINVAL,
	[B_OP_FIXED]	= -EINVAL,
	[B_FD]		= -EINVAL,
	[B_IOPRIO]	= -EINVAL,
	[B_FILE_INDEX]	= -EINVAL,
	[B_ADDR3]	= -EINVAL,
	[B_PAD]		= -EINVAL,
	[B_BUF_INDEX]	= -EINVAL,
	[B_FIXED_FILE]	= -EINVAL,
	[B_BUF_SELECT]	= -EOPNOTSUPP,
	[B_NO_BUF]	= -EFAULT,
	[B_EMPTY_BUF]	= -EFAULT,
	[B_BUF_BEFORE]	= -EFAULT,
	[B_BUF_BEHIND]	= -EFAULT,
	[B_BUF_ACROSS]	= -EFAULT,
	[B_BUF_WRAP]	= -EFAULT,
	[B_BUF_NULL]	= -EFAULT,
	[B_NULL]	= -EFAULT,
	[B_NONE]	= -EFAULT,
	[B_RDONLY]	= -EFAULT,
	[B_UNMAPPED]	= -EFAULT,
	[B_KERNEL]	= -EFAULT,
};

static unsigned char *page_none, *page_rdonly, *page_unmapped;

static void prep_bad(struct io_uring_sqe *sqe, int bad)
{
	unsigned char *dst = buf + 16;

	io_uring_prep_memcpy_imm(sqe, dst, VAL, 8);

	switch (bad) {
	case B_LEN0:
		sqe->len = 0;
		break;
	case B_LEN9:
		sqe->len = 9;
		break;
	case B_LENMAX:
		/* fixed, so that the sanitizer doesn't mind */
		io_uring_prep_memcpy_imm_fixed(sqe, dst, VAL, -1U, 1);
		break;
	case B_ALIGN2:
		io_uring_prep_memcpy_imm(sqe, dst + 1, VAL, 2);
		break;
	case B_ALIGN4:
		io_uring_prep_memcpy_imm(sqe, dst + 2, VAL, 4);
		break;
	case B_ALIGN8:
		io_uring_prep_memcpy_imm(sqe, dst + 4, VAL, 8);
		break;
	case B_FLAG:
		sqe->memcpy_flags = 1U << 31;
		break;
	case B_SRC_FIXED:
		sqe->memcpy_flags = IORING_MEMCPY_SRC_FIXED;
		break;
	case B_OP:
		io_uring_prep_memcpy_imm_op(sqe, (uint32_t *) dst, 1,
					    __IORING_MEMCPY_IMM_OP_LAST);
		break;
	case B_OP_LEN:
		io_uring_prep_memcpy_imm_op(sqe, (uint32_t *) dst, 1,
					    IORING_MEMCPY_IMM_ADD);
		sqe->len = 8;
		break;
	case B_OP_ALIGN:
		io_uring_prep_memcpy_imm_op(sqe, (uint32_t *) (dst + 2), 1,
					    IORING_MEMCPY_IMM_ADD);
		break;
	case B_OP_FIXED:
		io_uring_prep_memcpy_imm_op(sqe, (uint32_t *) dst, 1,
					    IORING_MEMCPY_IMM_ADD);
		sqe->memcpy_flags |= IORING_MEMCPY_DST_FIXED;
		sqe->buf_index = 1;
		break;
	case B_FD:
		sqe->fd = 1;
		break;
	case B_IOPRIO:
		sqe->ioprio = 1;
		break;
	case B_FILE_INDEX:
		sqe->file_index = 1;
		break;
	case B_ADDR3:
		sqe->addr3 = 1;
		break;
	case B_PAD:
		sqe->__pad2[0] = 1;
		break;
	case B_BUF_INDEX:
		sqe->buf_index = 1;
		break;
	case B_FIXED_FILE:
		sqe->flags |= IOSQE_FIXED_FILE;
		break;
	case B_BUF_SELECT:
		sqe->flags |= IOSQE_BUFFER_SELECT;
		break;
	case B_NO_BUF:
		io_uring_prep_memcpy_imm_fixed(sqe, dst, VAL, 8, 2);
		break;
	case B_EMPTY_BUF:
		io_uring_prep_memcpy_imm_fixed(sqe, dst, VAL, 8, 0);
		break;
	case B_BUF_BEFORE:
		io_uring_prep_memcpy_imm_fixed(sqe, buf - 8, VAL, 8, 1);
		break;
	case B_BUF_BEHIND:
		io_uring_prep_memcpy_imm_fixed(sqe, buf + BUF_SIZE, VAL, 8, 1);
		break;
	case B_BUF_ACROSS:
		io_uring_prep_memcpy_imm_fixed(sqe, buf + BUF_SIZE - 4, VAL, 7,
					       1);
		break;
	case B_BUF_WRAP:
		io_uring_prep_memcpy_imm_fixed(sqe, (void *) -4UL, VAL, 7, 1);
		break;
	case B_BUF_NULL:
		io_uring_prep_memcpy_imm_fixed(sqe, NULL, VAL, 8, 1);
		break;
	case B_NULL:
		sqe->addr = 0;
		break;
	case B_NONE:
		sqe->addr = (unsigned long) page_none;
		break;
	case B_RDONLY:
		sqe->addr = (unsigned long) page_rdonly;
		break;
	case B_UNMAPPED:
		sqe->addr = (unsigned long) page_unmapped;
		break;
	case B_KERNEL:
		sqe->addr = -4096ULL;
		break;
	}
}

/* bad input gets its errno, ends the chain, and nothing is written */
static int test_bad(struct io_uring *ring, const struct params *p)
{
	long psz = sysconf(_SC_PAGESIZE);
	struct io_uring_sqe *sqe;
	int i, last = B_LAST;

	/* the sanitizer looks at the address before the kernel does */
#ifdef CONFIG_USE_SANITIZER
	last = B_NULL;
#endif

	/* only now, as the next mapping may take its place */
	page_unmapped = mmap(NULL, psz, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page_unmapped == MAP_FAILED || munmap(page_unmapped, psz)) {
		perror("mmap");
		return 1;
	}

	for (i = 0; i < last; i++) {
		memset(buf, GUARD, BUF_SIZE);
		sqe = get_sqe(ring, p);
		prep_bad(sqe, i);
		if (expect_severed(ring, p, sqe, "bad input", bad_errno[i])) {
			fprintf(stderr, "bad input %d\n", i);
			return 1;
		}
		if (check_area(buf, 0, 0, 0) ||
		    check_area(buf + BUF_SIZE - AREA, 0, 0, 0)) {
			fprintf(stderr, "%s: bad input %d wrote\n", p->name, i);
			return 1;
		}
		if (page_rdonly[0]) {
			fprintf(stderr, "%s: read-only page written\n",
				p->name);
			return 1;
		}
	}
	return 0;
}

struct spinner {
	pthread_t thread;
	uint32_t *word;
	uint32_t *data;
	int bad;
};

static void *spin(void *arg)
{
	struct spinner *s = arg;
	uint32_t i;

	for (i = 1; i <= ROUNDS; i++) {
		while (__atomic_load_n(s->word, __ATOMIC_ACQUIRE) != i)
			sched_yield();
		if (*s->data != i)
			s->bad++;
		/* hand the data back */
		__atomic_store_n(s->word, 0, __ATOMIC_RELEASE);
	}
	return NULL;
}

/*
 * A thread that sees the store also sees what the earlier request of the
 * chain has read, and never has to ask the kernel.
 */
static int test_spinner(struct io_uring *ring, const struct params *p)
{
	struct spinner s = { };
	uint32_t i;
	int fds[2], res[2];

	/* no polled reads from a pipe */
	if (p->setup & IORING_SETUP_IOPOLL)
		return 0;
	if (pipe(fds) < 0) {
		perror("pipe");
		return 1;
	}

	memset(buf, 0, AREA * 2);
	s.word = (uint32_t *) buf;
	s.data = (uint32_t *) (buf + AREA);
	if (pthread_create(&s.thread, NULL, spin, &s)) {
		fprintf(stderr, "no thread\n");
		goto err;
	}

	for (i = 1; i <= ROUNDS; i++) {
		struct io_uring_sqe *sqe;

		sqe = get_sqe(ring, p);
		io_uring_prep_read(sqe, fds[0], s.data, 4, 0);
		sqe->flags |= IOSQE_IO_LINK | p->sqe_flags;
		sqe->user_data = 0;

		sqe = get_sqe(ring, p);
		io_uring_prep_memcpy_imm(sqe, s.word, i, 4);
		sqe->flags |= p->sqe_flags;
		sqe->user_data = 1;

		/* every other read finds the pipe empty, and has to wait */
		if ((i & 1) && io_uring_submit(ring) < 0)
			exit(T_EXIT_FAIL);
		if (write(fds[1], &i, 4) != 4)
			exit(T_EXIT_FAIL);
		if (reap(ring, res, 2))
			exit(T_EXIT_FAIL);
		if (res[0] != 4 || res[1] != 4) {
			fprintf(stderr, "%s: round %u: %d %d\n", p->name, i,
				res[0], res[1]);
			exit(T_EXIT_FAIL);
		}
		while (__atomic_load_n(s.word, __ATOMIC_ACQUIRE))
			sched_yield();
	}
	pthread_join(s.thread, NULL);
	close(fds[0]);
	close(fds[1]);
	if (s.bad)
		fprintf(stderr, "%s: %d stores came before the data\n", p->name,
			s.bad);
	return s.bad;
err:
	close(fds[0]);
	close(fds[1]);
	return 1;
}

/*
 * A polled read completes only when someone looks for it, and so does what is
 * linked to it. This needs a file or device that can be polled, which is given
 * as an argument.
 */
static int test_polled_read(const char *file)
{
	static const unsigned int setups[] = {
		0,
		IORING_SETUP_SQPOLL,
		IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
	};
	static const struct params p = { .name = "polled read" };
	unsigned char *data, *read_back;
	int ret = T_EXIT_FAIL, res[2];
	struct io_uring_sqe *sqe;
	struct io_uring ring;
	unsigned int i;
	int fd;

	fd = open(file, O_RDONLY | O_DIRECT);
	if (fd < 0)
		return T_EXIT_SKIP;
	data = t_aligned_alloc(BUF_SIZE, BUF_SIZE);
	read_back = t_aligned_alloc(BUF_SIZE, BUF_SIZE);
	if (pread(fd, read_back, BUF_SIZE, 0) != BUF_SIZE) {
		ret = T_EXIT_SKIP;
		goto free;
	}

	for (i = 0; i < ARRAY_SIZE(setups); i++) {
		ret = t_create_ring(8, &ring, setups[i] | IORING_SETUP_IOPOLL);
		if (ret == T_SETUP_SKIP)
			continue;
		if (ret) {
			ret = T_EXIT_FAIL;
			goto free;
		}

		memset(buf, GUARD, AREA);
		memset(data, ~read_back[0], BUF_SIZE);
		sqe = get_sqe(&ring, &p);
		io_uring_prep_read(sqe, fd, data, BUF_SIZE, 0);
		sqe->flags |= IOSQE_IO_LINK;
		sqe->user_data = 0;
		sqe = get_sqe(&ring, &p);
		io_uring_prep_memcpy_imm(sqe, buf + 8, VAL, 8);
		sqe->user_data = 1;

		ret = reap(&ring, res, 2) ? T_EXIT_FAIL : T_EXIT_PASS;
		io_uring_queue_exit(&ring);
		if (ret != T_EXIT_PASS)
			goto free;
		if (res[0] == -EOPNOTSUPP && res[1] == -ECANCELED) {
			ret = T_EXIT_SKIP;
			goto free;
		}
		if (res[0] != BUF_SIZE || res[1] != 8 ||
		    memcmp(data, read_back, BUF_SIZE) ||
		    check_area(buf, 8, VAL, 8)) {
			fprintf(stderr, "polled read %x: %d %d\n", setups[i],
				res[0], res[1]);
			ret = T_EXIT_FAIL;
			goto free;
		}
	}
	ret = T_EXIT_PASS;
free:
	free(data);
	free(read_back);
	close(fd);
	return ret;
}

/* a ring that wasn't given the opcode must not run it */
static int test_restricted(struct io_uring *ring, const struct params *p)
{
	memset(buf, GUARD, AREA);
	io_uring_prep_memcpy_imm(get_sqe(ring, p), buf, VAL, 8);
	return expect(ring, p, "opcode", -EACCES) || check_area(buf, 0, 0, 0);
}

static int test_ring(struct io_uring *ring, const struct params *p)
{
	return test_set(ring, p) || test_ops(ring, p) || test_link(ring, p) ||
		test_drain(ring, p) || test_bad(ring, p) ||
		test_spinner(ring, p) || test_skip(ring, p);
}

static int map_buf(void)
{
	long psz = sysconf(_SC_PAGESIZE);
	unsigned char *p;

	p = mmap(NULL, 4 * psz, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return 1;

	/* a page in front, as B_BUF_BEFORE may not hit something else */
	buf = p + psz;
	page_none = p + 2 * psz;
	page_rdonly = p + 3 * psz;
	return mprotect(page_none, psz, PROT_NONE) ||
		mprotect(page_rdonly, psz, PROT_READ);
}

int main(int argc, char *argv[])
{
	struct iovec iov[2] = { };

	if (!has_op(IORING_OP_MEMCPY_IMMEDIATE))
		return T_EXIT_SKIP;

	if (map_buf()) {
		perror("mmap");
		return T_EXIT_FAIL;
	}
	iov[1].iov_base = buf;
	iov[1].iov_len = BUF_SIZE;

	if (argc > 1)
		return test_polled_read(argv[1]);

	if (run_on_all(2 * CHAIN, iov, ARRAY_SIZE(iov), test_ring))
		return T_EXIT_FAIL;
	if (run_restricted(test_restricted)) {
		fprintf(stderr, "test_restricted failed\n");
		return T_EXIT_FAIL;
	}

	return T_EXIT_PASS;
}
