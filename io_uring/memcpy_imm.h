/* SPDX-License-Identifier: GPL-2.0 */
#ifndef IOU_MEMCPY_IMM_H
#define IOU_MEMCPY_IMM_H

#include <linux/log2.h>
#include <linux/types.h>

struct io_kiocb;
struct io_uring_sqe;

#define IO_MEMCPY_IMM_MAX_LEN	sizeof(u64)
#define IO_MEMCPY_IMM_FLAGS	IORING_MEMCPY_DST_FIXED
/* those beyond SET are made of the futex helpers */
#define IO_MEMCPY_IMM_OPS	(IS_ENABLED(CONFIG_FUTEX) ? \
				 (1U << __IORING_MEMCPY_IMM_OP_LAST) - 1 : \
				 1U << IORING_MEMCPY_IMM_SET)

/**
 * io_memcpy_imm_bytes - memory image of an immediate value
 * @val:	the value, at a stable address
 * @len:	number of bytes to store, 1 to 8
 *
 * The value counts, not its layout: the @len least significant bytes of @val
 * are what gets stored, in the byte order of the CPU.
 *
 * Return: pointer to these bytes inside of @val.
 */
static inline const u8 *io_memcpy_imm_bytes(const u64 *val, unsigned int len)
{
	const u8 *bytes = (const u8 *)val;

	if (IS_ENABLED(CONFIG_CPU_BIG_ENDIAN))
		bytes += sizeof(*val) - len;
	return bytes;
}

/**
 * io_memcpy_imm_misaligned - is a destination unfit for a single store
 * @addr:	where the value goes
 * @len:	number of bytes to store, 1 to 8
 *
 * Return: true if @len is the size of an integer and @addr not a multiple of
 * it. Other lengths are stored byte by byte and need no alignment.
 */
static inline bool io_memcpy_imm_misaligned(u64 addr, unsigned int len)
{
	return is_power_of_2(len) && (addr & (len - 1));
}

int io_memcpy_imm_prep(struct io_kiocb *req, const struct io_uring_sqe *sqe);
int io_memcpy_imm(struct io_kiocb *req, unsigned int issue_flags);

#endif
