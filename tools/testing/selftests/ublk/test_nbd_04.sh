#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_check_attr() {
	local dev_id=$1
	local attr=$2
	local value

	value=$(cat /sys/block/ublkb"$dev_id"/"$attr")
	if [ "$value" != "$3" ]; then
		echo "$attr is '$value', not '$3'"
		ERR_CODE=255
	fi
}

# What a server offers is what the disk has: attributes, then lines for nbd-server
_check_export() {
	local ro=$1
	local write_cache=$2
	local fua=$3
	local discard=$4
	local dev_id

	shift 4
	_start_nbd_server "${UBLK_BACKFILES[0]}" "" "$@"
	dev_id=$(_add_ublk_dev -t nbd --nbd_unix "$NBD_SOCK" --nbd_export disk)
	_check_add_dev "$TID" $?
	_check_attr "$dev_id" size $((8 * 2048))
	_check_attr "$dev_id" ro "$ro"
	_check_attr "$dev_id" queue/write_cache "$write_cache"
	_check_attr "$dev_id" queue/fua "$fua"
	_check_attr "$dev_id" queue/discard_max_bytes "$discard"
	_ublk_del_dev "$dev_id"
	_stop_nbd_server
}

# The server no longer has what is trimmed, and has all the rest
_check_trim() {
	local file=${UBLK_BACKFILES[0]}
	local dev_id
	local blocks

	_create_pattern "$file" a 8
	_start_nbd_server "$file" "" "flush = true" "trim = true"
	dev_id=$(_add_ublk_dev -t nbd --nbd_unix "$NBD_SOCK" --nbd_export disk)
	_check_add_dev "$TID" $?
	blocks=$(stat -c %b "$file")
	blkdiscard -o 1048576 -l 2097152 /dev/ublkb"$dev_id" || return
	if [ $((blocks - $(stat -c %b "$file"))) -ne 4096 ]; then
		echo "of $blocks blocks $(stat -c %b "$file") are left"
		return 1
	fi
	_create_pattern "${UBLK_BACKFILES[1]}" a 8
	dd if=/dev/zero of="${UBLK_BACKFILES[1]}" bs=1M seek=1 count=2 conv=notrunc status=none
	cmp "$file" "${UBLK_BACKFILES[1]}" || return
	cmp /dev/ublkb"$dev_id" "${UBLK_BACKFILES[1]}" || return
	_ublk_del_dev "$dev_id"
	_stop_nbd_server
}

# More at once than a result has bits for
_check_big_trim() {
	local file
	local dev_id

	_create_backfile 2 5G
	file=${UBLK_BACKFILES[2]}
	dd if=/dev/urandom of="$file" bs=1M count=1 seek=3000 conv=notrunc status=none
	_start_nbd_server "$file" "" "trim = true"
	dev_id=$(_add_ublk_dev -t nbd --nbd_unix "$NBD_SOCK" --nbd_export disk)
	_check_add_dev "$TID" $?
	blkdiscard /dev/ublkb"$dev_id" || return
	if [ "$(stat -c %b "$file")" -ne 0 ]; then
		echo "of 5 GiB $(stat -c %b "$file") blocks are left"
		return 1
	fi
	_ublk_del_dev "$dev_id"
	_stop_nbd_server
}

# A flush is sent, and a write that is to be on disk at once is said to be that
_check_flush() {
	local log=${UBLK_BACKFILES[1]}
	local dev=/dev/ublkb
	local dev_id

	_start_nbd_peer "${UBLK_BACKFILES[0]}" log "$log"
	dev_id=$(_add_ublk_dev -q 1 -t nbd --nbd_unix "$NBD_SOCK" --nbd_export disk)
	_check_add_dev "$TID" $?
	dev+=$dev_id
	dd if=/dev/zero of="$dev" bs=4k count=1 oflag=direct status=none
	if grep -q -e flush -e fua "$log"; then
		cat "$log"
		return 1
	fi
	dd if=/dev/zero of="$dev" bs=4k seek=2 count=1 oflag=direct,dsync status=none
	if ! grep -q -x "write fua 8192 4096" "$log"; then
		cat "$log"
		return 1
	fi
	dd if=/dev/zero of="$dev" bs=4k seek=3 count=1 oflag=direct conv=fsync status=none
	if [ "$(tail -n 2 "$log" | tr '\n' ,)" != "write 12288 4096,flush 0 0," ]; then
		cat "$log"
		return 1
	fi
	_ublk_del_dev "$dev_id"
	# it was not cut off
	if [ "$(tail -n 1 "$log")" != "disc 0 0" ]; then
		cat "$log"
		return 1
	fi
	_stop_nbd_server
}

if ! _have_program nbd-server || ! _have_program python3; then
	exit "$UBLK_SKIP_CODE"
fi

_prep_test "nbd" "flush, FUA, trim and read-only as the server says"

_create_backfile 0 8M
_create_backfile 1 0

_check_export 0 "write through" 0 0
_check_export 0 "write back" 0 0 "flush = true"
_check_export 0 "write back" 1 0 "flush = true" "fua = true"
_check_export 0 "write through" 0 4294966784 "trim = true"
_check_export 1 "write through" 0 0 "readonly = true"
_check_trim || ERR_CODE=255
_check_big_trim || ERR_CODE=255
_check_flush || ERR_CODE=255

_cleanup_test
_show_result "$TID" $ERR_CODE
