// SPDX-License-Identifier: GPL-2.0
/* User memory used as if it were the kernel's. */
#include <linux/compiler.h>

int io_bad(const int __user *p);

int io_bad(const int __user *p)
{
	const int *q = p;

	return *p + *q;
}
