// SPDX-License-Identifier: GPL-2.0
/* With the kernel's flags gcc says nothing here. */
int io_bad(int a);

int io_bad(int a)
{
	int ret;

	if (a)
		ret = 1;
	return ret;
}
