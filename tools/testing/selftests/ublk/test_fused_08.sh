#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

# Written in some sizes and read in others, so that each is copied and lent
_loop_test() {
	local dev_id

	_create_backfile 0 64M
	dev_id=$(_add_ublk_dev -t loop "$@" "${UBLK_BACKFILES[0]}")
	_check_add_dev "$TID" $?

	_run_fio_verify_io --filename=/dev/ublkb"${dev_id}" --size=64M || return
	fio --name=job1 --filename=/dev/ublkb"${dev_id}" --ioengine=libaio --direct=1 \
		--rw=randwrite --bsrange=4k-256k --iodepth=32 --size=64M --verify=crc32c \
		--do_verify=1 --verify_fatal=1 --verify_state_save=0 > /dev/null || return
	_ublk_del_dev "${dev_id}"
}

if ! _have_program fio; then
	exit "$UBLK_SKIP_CODE"
fi
_need_features FUSED_CMD PER_IO_DAEMON

_prep_test "loop" "fused commands for large requests, copies of small ones"

_test_modes _loop_test "--fused --fused_copy 8192" \
	    "--fused_commit --fused_copy 8192" \
	    "--fused_commit --fused_copy 65536 --per_io_tasks --nthreads 3"

_cleanup_test
_show_result "$TID" $ERR_CODE
