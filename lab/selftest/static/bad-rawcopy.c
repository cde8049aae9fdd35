// SPDX-License-Identifier: GPL-2.0
#include <linux/nospec.h>
#include <linux/uaccess.h>

size_t io_bad_copy(void *to, const void __user *from, size_t len)
{
	if (!access_ok(from, len))
		return len;
	return raw_copy_from_user(to, from, len);
}

size_t io_good_copy(void *to, const void __user *from, size_t len)
{
	if (!access_ok(from, len))
		return len;
	barrier_nospec();
	return raw_copy_from_user(to, from, len);
}

int io_bad_put(int __user *to)
{
	return __put_user(1, to);
}
