// SPDX-License-Identifier: GPL-2.0
/* Right where bytes can be exchanged, wrong where only words can. */
#include <linux/atomic.h>
#include <linux/types.h>

bool io_bad(bool *flag);

bool io_bad(bool *flag)
{
	return xchg(flag, false);
}
