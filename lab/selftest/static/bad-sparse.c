// SPDX-License-Identifier: GPL-2.0
/* User memory used as if it were the kernel's, behind what sparse 0.6.4 cannot parse. */
#include <linux/compiler.h>

int io_bad(const int __user *p);

int io_bad(const int __user *p)
{
	__typeof_unqual__(*p) v = *p;
	const int *q = p;

	return v + *q;
}
