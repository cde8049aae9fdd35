#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The 32-bit builds of the tests, where the kernel runs 32-bit programs.

dir=$(dirname "$0")
ret=4

for prog in memcpy_imm_32 memcpy_32 memcpy_query_32; do
	# 126: found, but not executable for this kernel
	"$dir/$prog" -h >/dev/null 2>&1
	if [ $? -ge 126 ]; then
		echo "# SKIP $prog: this kernel runs no 32-bit programs"
		continue
	fi
	if "$dir/$prog"; then
		[ "$ret" = 4 ] && ret=0
	else
		ret=1
	fi
done
exit $ret
