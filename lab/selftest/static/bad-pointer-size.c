// SPDX-License-Identifier: GPL-2.0
/* Right on 64 bits, wrong on 32. */
#include <linux/types.h>

void *io_bad(u64 addr);

void *io_bad(u64 addr)
{
	return (void *)addr;
}
