#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_make_sources() {
	local i j

	for ((i = 0; i < 30; i++)); do
		for ((j = 0; j < 100; j++)); do
			echo "int f${i}_$j(int x) { return x * $((i * 7919 + j * 31)) ^ $j; }"
		done > "$1/f$i.c"
	done
}

_compile() {
	local f

	(cd "$1" && for f in *.c; do
		cc -O1 -c "$f" || exit
	done)
}

# A file system that is worked on, and then looked at through a server that copies
_fs_test() {
	local file
	local ref mnt dev_id ret

	_create_backfile 0 64M
	file=${UBLK_BACKFILES[0]}
	ref=$(_create_tmp_dir)
	mnt=$(_create_tmp_dir)
	_make_sources "$ref"

	dev_id=$(_add_ublk_dev -q 2 -t loop "$@" "$file")
	_check_add_dev "$TID" $?
	mkfs.ext4 -q -F /dev/ublkb"$dev_id" || return
	mount -t ext4 /dev/ublkb"$dev_id" "$mnt" || return
	mkdir "$mnt/src" && cp "$ref"/*.c "$mnt/src" && _compile "$mnt/src"
	ret=$?
	umount "$mnt" || return
	_ublk_del_dev "${dev_id}"
	[ $ret -eq 0 ] || return

	_compile "$ref"
	dev_id=$(_add_ublk_dev -q 2 -t loop "$file")
	_check_add_dev "$TID" $?
	fsck.ext4 -f -n /dev/ublkb"$dev_id" > /dev/null 2>&1 || return
	mount -t ext4 -o ro /dev/ublkb"$dev_id" "$mnt" || return
	diff -r "$ref" "$mnt/src"
	ret=$?
	umount "$mnt" || return
	_ublk_del_dev "${dev_id}"
	rm -rf "$ref"
	_remove_tmp_dir "$mnt"
	return $ret
}

for prog in mkfs.ext4 fsck.ext4 cc; do
	if ! _have_program $prog; then
		exit "$UBLK_SKIP_CODE"
	fi
done
_need_features FUSED_CMD

_prep_test "loop" "a file system on fused commands"

_create_backfile 0 64M

_test_modes _fs_test --fused --fused_commit

_cleanup_test
_show_result "$TID" $ERR_CODE
