#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

# Nobody has what was written: the writer is told, and one leg remains
_mirror_test() {
	local log=${UBLK_BACKFILES[0]}
	local file=${UBLK_BACKFILES[1]}
	local dev_id

	dev_id=$(_add_ublk_dev_fg "$log" -t mirror "$@" /dev/"${UBLK_NULL_BLKS[0]}" \
		 /dev/"${UBLK_NULL_BLKS[1]}")
	_check_add_dev "$TID" $?

	_create_pattern "$file" a 8
	dd if="$file" of=/dev/ublkb"$dev_id" bs=192k oflag=direct status=none || return

	echo "+8192-8199" > "${NULL_BLK_DIR}/${UBLK_NULL_BLKS[0]}/badblocks"
	echo "+8192-8199" > "${NULL_BLK_DIR}/${UBLK_NULL_BLKS[1]}/badblocks"
	if dd if=/dev/zero of=/dev/ublkb"$dev_id" bs=64k seek=64 count=1 oflag=direct \
		status=none 2> /dev/null; then
		echo "a write that all legs failed was acknowledged"
		return 1
	fi
	if [ "$(grep "out of service" "$log")" != \
	     "mirror: leg 1, /dev/${UBLK_NULL_BLKS[1]}, is out of service" ]; then
		cat "$log"
		return 1
	fi

	# all the rest is there, and only there
	dd if=/dev/zero of=/dev/"${UBLK_NULL_BLKS[1]}" bs=1M count=4 oflag=direct \
		status=none || return
	dd if=/dev/ublkb"$dev_id" bs=64k count=64 iflag=direct status=none |
		cmp -n 4194304 - "$file" || return
	dd if=/dev/ublkb"$dev_id" bs=64k skip=65 iflag=direct status=none |
		cmp - "$file" 0 $((65 * 65536)) || return

	echo "-8192-8199" > "${NULL_BLK_DIR}/${UBLK_NULL_BLKS[0]}/badblocks"
	echo "-8192-8199" > "${NULL_BLK_DIR}/${UBLK_NULL_BLKS[1]}/badblocks"
	dd if="$file" of=/dev/ublkb"$dev_id" bs=192k oflag=direct status=none || return
	cmp "$file" /dev/"${UBLK_NULL_BLKS[0]}" || return
	_ublk_del_dev "${dev_id}"
}

_refused() {
	if "${UBLK_PROG}" add -n "$REFUSED_ID" -t mirror "$@" > /dev/null 2>&1; then
		echo "not refused: $*"
		"${UBLK_PROG}" del -n "$REFUSED_ID"
		ERR_CODE=255
	fi
	if [ -e /dev/ublkc"$REFUSED_ID" ]; then
		echo "refused, but there is a device: $*"
		ERR_CODE=255
	fi
}

if ! _have_null_blk; then
	exit "$UBLK_SKIP_CODE"
fi
_need_features ZERO_COPY AUTO_BUF_REG USER_COPY SHMEM_ZC FUSED_CMD

_prep_test "mirror" "a write that all legs fail, and mirrors that aren't any"

_create_null_blk ublk_"$TID"_0 8
_create_null_blk ublk_"$TID"_1 8
_create_backfile 0 0
_create_backfile 1 8M
_create_backfile 2 8M
_create_backfile 3 16M

_test_modes _mirror_test "-q 2" -z --auto_zc -u --fused --fused_commit

REFUSED_ID=77
LEGS=("${UBLK_BACKFILES[1]}" "${UBLK_BACKFILES[2]}")
_refused
_refused "${LEGS[0]}"
_refused "${LEGS[0]}" "${UBLK_BACKFILES[3]}"
_refused "${LEGS[@]}" "${LEGS[@]}" "${LEGS[0]}"
_refused "${LEGS[0]}" /dev/null
_refused "${LEGS[0]}" "${LEGS[0]}".none
_refused -r 1 "${LEGS[@]}"
_refused --shmem_zc "${LEGS[@]}"
_refused -z --auto_zc --auto_zc_fallback "${LEGS[@]}"
_refused -u --metadata_size 8 "${LEGS[@]}"

_cleanup_test
_show_result "$TID" $ERR_CODE
