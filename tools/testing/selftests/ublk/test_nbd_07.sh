#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

# The queues' threads have no memory, now and then: the connection lives on
_nbd_test() {
	local log=${UBLK_BACKFILES[1]}
	local file=${UBLK_BACKFILES[2]}
	local dev_id

	_create_pattern "$file" c 8
	_start_nbd_server "${UBLK_BACKFILES[0]}" "" "flush = true" || return
	dev_id=$(_add_ublk_dev_fg "$log" -t nbd "$@" --nbd_export disk \
		 --nbd_unix "${UBLK_TEST_DIR}/nbd.sock")
	_check_add_dev "$TID" $?
	_failslab_ublk_threads "$dev_id"

	_failslab 5
	dd if="$file" of=/dev/ublkb"$dev_id" bs=16k oflag=direct conv=fsync status=none || return
	dd if=/dev/ublkb"$dev_id" bs=16k iflag=direct status=none | cmp - "$file" || return
	_failslab 0

	cmp "$file" "${UBLK_BACKFILES[0]}" || return
	# else it has met nothing
	grep -qE "res -(12|105) " "$log" || return
	_ublk_del_dev "${dev_id}"
	_stop_nbd_server
}

if ! _have_program nbd-server || ! _have_failslab; then
	exit "$UBLK_SKIP_CODE"
fi
_need_features FUSED_CMD

_prep_test "nbd" "a client without memory keeps its connection"

_create_backfile 0 8M
_create_backfile 1 0
_create_backfile 2 8M

_test_modes _nbd_test "-q 1" --fused --fused_commit
_failslab 0

_cleanup_test
_show_result "$TID" $ERR_CODE
