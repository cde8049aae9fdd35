#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

# Devices of all kinds lose their servers under load, and can be removed
_kill_test() {
	local files=("${UBLK_BACKFILES[@]}")
	local pids=() pid ret=0

	run_io_and_kill_daemon 8G -t null -q 4 "$@" &
	pids+=($!)
	run_io_and_kill_daemon 32M -t loop -q 4 "$@" "${files[0]}" &
	pids+=($!)
	run_io_and_kill_daemon 32M -t stripe -q 4 "$@" "${files[1]}" "${files[2]}" &
	pids+=($!)
	run_io_and_kill_daemon 32M -t mirror -q 4 "$@" "${files[3]}" "${files[4]}" &
	pids+=($!)
	for pid in "${pids[@]}"; do
		wait "$pid" || ret=1
	done
	return $ret
}

if ! _have_program fio; then
	exit "$UBLK_SKIP_CODE"
fi
_need_features FUSED_CMD PER_IO_DAEMON

_prep_test "stress" "run I/O and kill servers (fused commands)"

_create_backfile 0 32M
_create_backfile 1 16M
_create_backfile 2 16M
_create_backfile 3 32M
_create_backfile 4 32M

_test_modes _kill_test --fused --fused_commit \
	    "--fused_commit --nthreads 8 --per_io_tasks --no_ublk_fixed_fd"

_cleanup_test
_show_result "$TID" $ERR_CODE
