#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

if ! _have_program fio || ! _have_program nbd-server; then
	exit "$UBLK_SKIP_CODE"
fi

_prep_test "nbd" "write and verify test over TCP, the server has the data"

_create_backfile 0 64M
_start_nbd_server "${UBLK_BACKFILES[0]}" 10901 "flush = true"

dev_id=$(_add_ublk_dev -q 2 -t nbd --nbd_host 127.0.0.1 --nbd_port 10901 --nbd_export disk)
_check_add_dev "$TID" $?

# run fio over the ublk disk, then look at what is behind it
_run_fio_verify_io --filename=/dev/ublkb"${dev_id}" --size=64M &&
	cmp /dev/ublkb"${dev_id}" "${UBLK_BACKFILES[0]}"
ERR_CODE=$?

_cleanup_test
_show_result "$TID" $ERR_CODE
