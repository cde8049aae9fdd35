#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

# Three legs have what the device has, however its data gets to the server
_mirror_test() {
	local dev_id
	local file

	_create_backfile 0 32M
	_create_backfile 1 32M
	_create_backfile 2 32M

	dev_id=$(_add_ublk_dev -q 2 -t mirror "$@" "${UBLK_BACKFILES[@]}")
	_check_add_dev "$TID" $?

	_run_fio_verify_io --filename=/dev/ublkb"${dev_id}" --size=32M || return
	for file in "${UBLK_BACKFILES[@]}"; do
		cmp /dev/ublkb"${dev_id}" "$file" || return
	done
	_ublk_del_dev "${dev_id}"
}

if ! _have_program fio; then
	exit "$UBLK_SKIP_CODE"
fi
_need_features ZERO_COPY AUTO_BUF_REG USER_COPY BATCH_IO PER_IO_DAEMON FUSED_CMD

_prep_test "mirror" "write and verify test with all ways to get at data"

_test_modes _mirror_test -z --auto_zc -u -g --batch "--batch --auto_zc" \
	    "--per_io_tasks --nthreads 3" "-z --no_ublk_fixed_fd" \
	    --fused "--fused --batch" --fused_commit

_cleanup_test
_show_result "$TID" $ERR_CODE
