#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

if ! _have_program nbd-server; then
	exit "$UBLK_SKIP_CODE"
fi

_prep_test "nbd" "mkfs & mount & umount over a Unix socket"

_create_backfile 0 256M
_start_nbd_server "${UBLK_BACKFILES[0]}" "" "flush = true" "fua = true" "trim = true"

dev_id=$(_add_ublk_dev -t nbd --nbd_unix "$NBD_SOCK" --nbd_export disk)
_check_add_dev "$TID" $?

_mkfs_mount_test /dev/ublkb"${dev_id}" cp "$UBLK_PROG" . &&
	cmp /dev/ublkb"${dev_id}" "${UBLK_BACKFILES[0]}" &&
	e2fsck -fn "${UBLK_BACKFILES[0]}" > /dev/null 2>&1
ERR_CODE=$?

_cleanup_test
_show_result "$TID" $ERR_CODE
