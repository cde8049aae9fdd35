#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

# A leg that fails one write, and nothing else before and after that
_mirror_test() {
	local log=${UBLK_BACKFILES[1]}
	local file=${UBLK_BACKFILES[2]}
	local null_blk=/dev/$NULL_BLK
	local dev_id

	_create_pattern "$file" a 8
	dev_id=$(_add_ublk_dev_fg "$log" -t mirror "$@" "${UBLK_BACKFILES[0]}" "$null_blk")
	_check_add_dev "$TID" $?

	dd if="$file" of=/dev/ublkb"$dev_id" bs=192k oflag=direct status=none || return
	cmp "$file" "$null_blk" || return
	if grep "out of service" "$log"; then
		return 1
	fi

	echo "+8192-8199" > "${NULL_BLK_DIR}/$NULL_BLK/badblocks"
	_create_pattern "$file" b 8
	dd if="$file" of=/dev/ublkb"$dev_id" bs=192k oflag=direct status=none || return
	if [ "$(grep "out of service" "$log")" != \
	     "mirror: leg 1, $null_blk, is out of service" ]; then
		cat "$log"
		return 1
	fi

	# whatever is written to it, or read from it, shows from now on
	dd if=/dev/zero of="$null_blk" bs=1M count=8 oflag=direct status=none || return
	dd if=/dev/ublkb"$dev_id" bs=64k iflag=direct status=none | cmp - "$file" || return
	_create_pattern "$file" c 8
	dd if="$file" of=/dev/ublkb"$dev_id" bs=192k oflag=direct conv=fsync status=none || return
	dd if=/dev/ublkb"$dev_id" bs=64k iflag=direct status=none | cmp - "$file" || return
	cmp "$file" "${UBLK_BACKFILES[0]}" || return
	cmp -n 8388608 "$null_blk" /dev/zero || return
	_ublk_del_dev "${dev_id}"
}

if ! _have_null_blk; then
	exit "$UBLK_SKIP_CODE"
fi
_need_features ZERO_COPY AUTO_BUF_REG USER_COPY FUSED_CMD

_prep_test "mirror" "a leg that failed a write isn't read again"

NULL_BLK=ublk_$TID
_create_null_blk "$NULL_BLK" 8 1
_create_backfile 0 8M
_create_backfile 1 0
_create_backfile 2 8M

_test_modes _mirror_test "-q 2" -z --auto_zc -u --fused

_cleanup_test
_show_result "$TID" $ERR_CODE
