#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_prep_test "mirror" "mkfs & mount & umount, the legs are equal"

_create_backfile 0 256M
_create_backfile 1 256M

dev_id=$(_add_ublk_dev -t mirror "${UBLK_BACKFILES[0]}" "${UBLK_BACKFILES[1]}")
_check_add_dev "$TID" $?

_mkfs_mount_test /dev/ublkb"${dev_id}" cp "$UBLK_PROG" . &&
	cmp "${UBLK_BACKFILES[0]}" "${UBLK_BACKFILES[1]}" &&
	e2fsck -fn "${UBLK_BACKFILES[1]}" > /dev/null 2>&1
ERR_CODE=$?

_cleanup_test
_show_result "$TID" $ERR_CODE
