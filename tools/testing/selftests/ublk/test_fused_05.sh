#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

# To devices of all kinds, under load
_do_to_all() {
	local files=("${UBLK_BACKFILES[@]}")
	local pids=() pid ret=0
	local action=$1

	shift
	"$action" 8G -t null -q 4 "$@" &
	pids+=($!)
	"$action" 32M -t loop -q 4 "$@" "${files[0]}" &
	pids+=($!)
	"$action" 32M -t stripe -q 4 "$@" "${files[1]}" "${files[2]}" &
	pids+=($!)
	"$action" 32M -t mirror -q 4 "$@" "${files[3]}" "${files[4]}" &
	pids+=($!)
	for pid in "${pids[@]}"; do
		wait "$pid" || ret=1
	done
	return $ret
}

_kill_test() {
	_do_to_all run_io_and_kill_daemon "$@"
}

_remove_test() {
	_do_to_all run_io_and_remove "$@"
}

if ! _have_program fio; then
	exit "$UBLK_SKIP_CODE"
fi
_need_features FUSED_CMD PER_IO_DAEMON

_prep_test "stress" "run I/O, kill servers and remove devices (fused commands)"

_create_backfile 0 32M
_create_backfile 1 16M
_create_backfile 2 16M
_create_backfile 3 32M
_create_backfile 4 32M

_test_modes _kill_test --fused --fused_commit \
	    "--fused_commit --nthreads 8 --per_io_tasks --no_ublk_fixed_fd"
_test_modes _remove_test --fused --fused_commit

_cleanup_test
_show_result "$TID" $ERR_CODE
