// SPDX-License-Identifier: GPL-2.0
/* Right where the first byte is the lowest, wrong where it is the highest. */
#include <asm/byteorder.h>
#include <linux/types.h>

u8 io_bad(void);

u8 io_bad(void)
{
	return (__force u32)cpu_to_le32(1);
}
