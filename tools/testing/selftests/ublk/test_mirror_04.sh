#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

# Read all of the device to a file that has other data
_read_dev() {
	tr '\0' x < /dev/zero | head -c 8M > "${UBLK_BACKFILES[2]}"
	dd if=/dev/ublkb"$1" of="${UBLK_BACKFILES[2]}" bs=160k iflag=direct conv=notrunc \
		status=none
}

# The server has never seen the data that it is to read, and two of three legs
# don't give it: one is short, the other one has bad blocks
_mirror_test() {
	local dev_id

	_create_pattern "${UBLK_BACKFILES[0]}" a 8
	_create_pattern "${UBLK_BACKFILES[1]}" a 8
	dd if="${UBLK_BACKFILES[1]}" of=/dev/"$NULL_BLK" bs=1M oflag=direct status=none

	dev_id=$(_add_ublk_dev -t mirror "$@" "${UBLK_BACKFILES[0]}" /dev/"$NULL_BLK" \
		 "${UBLK_BACKFILES[1]}")
	_check_add_dev "$TID" $?

	truncate -s $((1024 * 1024 + 1536)) "${UBLK_BACKFILES[0]}"
	echo "+64-16000" > "${NULL_BLK_DIR}/$NULL_BLK/badblocks"
	_read_dev "$dev_id" || return
	cmp "${UBLK_BACKFILES[1]}" "${UBLK_BACKFILES[2]}" || return

	# such a leg is still in service: there are the first 32 KiB of all legs
	truncate -s 32K "${UBLK_BACKFILES[0]}"
	truncate -s 0 "${UBLK_BACKFILES[1]}"
	dd if=/dev/ublkb"$dev_id" bs=32k count=1 iflag=direct status=none |
		cmp -n 32768 - "${UBLK_BACKFILES[2]}" || return

	# nobody has the rest, and that is an error
	if dd if=/dev/ublkb"$dev_id" of=/dev/null bs=32k skip=1 count=1 iflag=direct \
		status=none 2> /dev/null; then
		echo "data that no leg has was read"
		return 1
	fi
	echo "-64-16000" > "${NULL_BLK_DIR}/$NULL_BLK/badblocks"
	_ublk_del_dev "${dev_id}"
}

if ! _have_null_blk; then
	exit "$UBLK_SKIP_CODE"
fi
_need_features ZERO_COPY AUTO_BUF_REG USER_COPY FUSED_CMD

_prep_test "mirror" "read what some legs don't have"

NULL_BLK=ublk_$TID
_create_null_blk "$NULL_BLK" 8
_create_backfile 0 8M
_create_backfile 1 8M
_create_backfile 2 8M

_test_modes _mirror_test "-q 2" -z --auto_zc -u --fused --fused_commit

_cleanup_test
_show_result "$TID" $ERR_CODE
