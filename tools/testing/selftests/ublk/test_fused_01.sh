#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

# The data of each request is lent to a NOP, or of each large one
_null_test() {
	local dev_id

	dev_id=$(_add_ublk_dev -t null "$@")
	_check_add_dev "$TID" $?

	fio --name=job1 --filename=/dev/ublkb"${dev_id}" --ioengine=libaio --direct=1 \
		--rw=readwrite --bsrange=4k-1m --iodepth=32 --size=64M > /dev/null || return
	_ublk_del_dev "${dev_id}"
}

if ! _have_program fio; then
	exit "$UBLK_SKIP_CODE"
fi
_need_features FUSED_CMD BATCH_IO PER_IO_DAEMON

_prep_test "null" "fused commands"

_test_modes _null_test --fused "--fused -d 1" "--fused --batch" \
	    "--fused --per_io_tasks --nthreads 3" \
	    "--fused --no_ublk_fixed_fd" --fused_commit \
	    "--fused_commit --per_io_tasks --nthreads 3" \
	    "--fused --fused_copy 65536" "--fused_commit --fused_copy 65536"

_cleanup_test
_show_result "$TID" $ERR_CODE
