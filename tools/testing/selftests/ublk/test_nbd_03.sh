#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

# Requests of all sizes in flight at once, however their data gets to the server
_nbd_test() {
	local dev_id

	_create_backfile 0 8M
	_start_nbd_server "${UBLK_BACKFILES[0]}" 10903 "flush = true" || return

	dev_id=$(_add_ublk_dev -t nbd "$@" --nbd_export disk)
	_check_add_dev "$TID" $?

	_run_fio_verify_io --filename=/dev/ublkb"${dev_id}" --size=8M --bsrange=512-1m \
		--bssplit=512/25:4k/25:20k/25:1m/25 --iodepth=64 || return
	cmp /dev/ublkb"${dev_id}" "${UBLK_BACKFILES[0]}" || return

	# the server has never seen this, and gets it from nowhere else
	_create_pattern "${UBLK_BACKFILES[0]}" a 8
	dd if=/dev/ublkb"${dev_id}" bs=96k iflag=direct status=none |
		cmp - "${UBLK_BACKFILES[0]}" || return
	_ublk_del_dev "${dev_id}"
	_stop_nbd_server
}

if ! _have_program fio || ! _have_program nbd-server; then
	exit "$UBLK_SKIP_CODE"
fi
_need_features ZERO_COPY AUTO_BUF_REG USER_COPY BATCH_IO FUSED_CMD

_prep_test "nbd" "write and verify test with all ways to get at data"

NBD_TCP="--nbd_host localhost --nbd_port 10903"
NBD_UNIX="--nbd_unix ${UBLK_TEST_DIR}/nbd.sock"
_test_modes _nbd_test "-z $NBD_TCP" "--auto_zc $NBD_UNIX" "-u $NBD_TCP" "-g $NBD_UNIX" \
	    "--batch $NBD_TCP" "--batch --auto_zc $NBD_TCP" "-d 1 $NBD_UNIX" \
	    "-z -d 3 $NBD_UNIX" "-z --no_ublk_fixed_fd $NBD_TCP" \
	    "--fused $NBD_TCP" "--fused -d 1 $NBD_UNIX" "--fused --batch $NBD_UNIX" \
	    "--fused --nbd_send_zc 1 $NBD_TCP" "--fused_commit $NBD_TCP" \
	    "--fused_commit -d 1 $NBD_UNIX"

_cleanup_test
_show_result "$TID" $ERR_CODE
