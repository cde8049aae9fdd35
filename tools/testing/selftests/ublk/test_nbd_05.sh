#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

# The server dies with requests in flight in both directions. Before that it
# does nothing for a while, so that requests are stuck half sent.
_nbd_test() {
	local signal=$1
	local dev_id
	local fio_pid
	local ret

	shift
	_create_backfile 0 64M
	_start_nbd_server "${UBLK_BACKFILES[0]}" "" "flush = true" || return
	dev_id=$(_add_ublk_dev -q 2 -t nbd "$@" --nbd_unix "$NBD_SOCK" --nbd_export disk)
	_check_add_dev "$TID" $?

	timeout 60 fio --name=job --filename=/dev/ublkb"${dev_id}" --direct=1 --rw=randrw \
		--ioengine=libaio --bsrange=4k-1m --iodepth=32 --runtime=600 --time_based \
		> "$UBLK_TMP" 2>&1 &
	fio_pid=$!
	sleep 2
	_kill_nbd_server "$signal"
	sleep 1
	_kill_nbd_server -KILL
	wait $fio_pid
	ret=$?
	if [ $ret -eq 0 ] || [ $ret -ge 124 ]; then
		echo "fio ended with $ret"
		cat "$UBLK_TMP"
		return 1
	fi
	_check_dev_eio /dev/ublkb"${dev_id}" || return
	timeout 60 "$UBLK_PROG" stop -n "$dev_id" || return
	_ublk_del_dev "${dev_id}"
	_stop_nbd_server
}

if ! _have_program fio || ! _have_program nbd-server; then
	exit "$UBLK_SKIP_CODE"
fi
_need_features ZERO_COPY AUTO_BUF_REG USER_COPY FUSED_CMD

_prep_test "nbd" "the server is killed, nothing hangs"

_test_modes _nbd_test "-KILL" "-STOP" "-KILL -z" "-STOP -z" "-KILL --auto_zc" "-STOP --auto_zc" \
	    "-STOP -u" "-STOP --batch" "-KILL --fused" "-STOP --fused" \
	    "-KILL --fused_commit" "-STOP --fused_commit"

_cleanup_test
_show_result "$TID" $ERR_CODE
