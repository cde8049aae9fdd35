#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

# The file has what the device has, whoever reads or writes it
_loop_test() {
	local dir=$1
	local file dev_id

	shift
	UBLK_TEST_DIR=$dir _create_backfile 0 32M
	UBLK_TEST_DIR=$dir _create_backfile 1 32M
	file=${UBLK_BACKFILES[1]}
	_create_pattern "${UBLK_BACKFILES[0]}" a 32

	dev_id=$(_add_ublk_dev -q 2 -t loop "$@" "${UBLK_BACKFILES[0]}")
	_check_add_dev "$TID" $?

	# what the server has never seen, in pieces that fit nothing
	dd if=/dev/ublkb"$dev_id" bs=97k iflag=direct status=none |
		cmp - "${UBLK_BACKFILES[0]}" || return
	_create_pattern "$file" b 32
	dd if="$file" of=/dev/ublkb"$dev_id" bs=97k oflag=direct conv=fsync status=none || return
	cmp "$file" "${UBLK_BACKFILES[0]}" || return

	_run_fio_verify_io --filename=/dev/ublkb"${dev_id}" --size=32M || return
	dd if=/dev/ublkb"$dev_id" bs=1M iflag=direct status=none |
		cmp - "${UBLK_BACKFILES[0]}" || return

	# a file that is cut off: no data is an error, and no stale data
	truncate -s 0 "${UBLK_BACKFILES[0]}"
	if dd if=/dev/ublkb"$dev_id" of=/dev/null bs=64k count=1 iflag=direct \
		status=none 2> /dev/null; then
		dd if=/dev/ublkb"$dev_id" bs=64k count=1 iflag=direct status=none |
			cmp -n 65536 - /dev/zero || return
	fi
	_ublk_del_dev "${dev_id}"
}

_file_test() {
	_loop_test "$UBLK_TEST_DIR" "$@"
}

# Also if a test has failed with $1, and its device is left for the cleanup
_unmount() {
	umount -l "$2" && _remove_tmp_dir "$2" && return "$1"
}

# The file system has no direct I/O
_ramfs_test() {
	local dir

	dir=$(_create_tmp_dir)
	mount -t ramfs none "$dir" || return
	_loop_test "$dir" "$@"
	_unmount $? "$dir"
}

_write_too_much() {
	local file=$1
	local dev_id

	shift
	truncate -s 1M "$file"
	dev_id=$(_add_ublk_dev -t loop "$@" "$file")
	_check_add_dev "$TID" $?
	dd if=/dev/urandom of=/dev/ublkb"$dev_id" bs=128k count=1 oflag=direct status=none ||
		return
	if dd if=/dev/urandom of=/dev/ublkb"$dev_id" bs=128k seek=1 count=1 oflag=direct \
		status=none 2> /dev/null; then
		echo "$* : more was written than there is room for"
		return 1
	fi
	_ublk_del_dev "${dev_id}"
}

# A file system that is full in the middle of a write: an error, and not success
_full_test() {
	local dir

	dir=$(_create_tmp_dir)
	mount -t tmpfs -o size=192k none "$dir" || return
	_write_too_much "$dir/file" "$@"
	_unmount $? "$dir"
}

if ! _have_program fio; then
	exit "$UBLK_SKIP_CODE"
fi
_need_features FUSED_CMD BATCH_IO PER_IO_DAEMON

_prep_test "loop" "fused commands, write and verify"

_test_modes _file_test --fused "--fused --batch" \
	    "--fused --per_io_tasks --nthreads 3" \
	    "--fused --no_ublk_fixed_fd" --fused_commit \
	    "--fused_commit --per_io_tasks --nthreads 3"
_test_modes _ramfs_test --fused --fused_commit
_test_modes _full_test --fused --fused_commit

_cleanup_test
_show_result "$TID" $ERR_CODE
