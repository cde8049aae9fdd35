// SPDX-License-Identifier: GPL-2.0
#include <linux/slab.h>

struct io_bad {
	int a[4];
};

void io_bad(struct io_bad *p)
{
	memset(p, 0, sizeof(p));
	if (p)
		kfree(p);
}
