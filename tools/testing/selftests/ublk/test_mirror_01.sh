#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

if ! _have_program fio; then
	exit "$UBLK_SKIP_CODE"
fi

_prep_test "mirror" "write and verify test, the legs are equal"

_create_backfile 0 128M
_create_backfile 1 128M

dev_id=$(_add_ublk_dev -q 2 -t mirror "${UBLK_BACKFILES[0]}" "${UBLK_BACKFILES[1]}")
_check_add_dev "$TID" $?

# run fio over the ublk disk, then look at what lies below it
_run_fio_verify_io --filename=/dev/ublkb"${dev_id}" --size=128M &&
	cmp /dev/ublkb"${dev_id}" "${UBLK_BACKFILES[0]}" &&
	cmp /dev/ublkb"${dev_id}" "${UBLK_BACKFILES[1]}"
ERR_CODE=$?

_cleanup_test
_show_result "$TID" $ERR_CODE
