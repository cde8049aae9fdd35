#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

# A device has no more queues than there are CPUs, which recovery doesn't look at
[ "$(nproc)" -gt 1 ] && QUEUES=2 || QUEUES=1

# Servers die while data is written. The next ones get what was not acknowledged
# once more, and what was is there.
_recovery_test() {
	local actions=$1
	local file
	local action dev_id fio_pid state

	shift
	_create_backfile 0 32M
	file=${UBLK_BACKFILES[0]}
	dev_id=$(_add_ublk_dev -q "$QUEUES" -t loop -r 1 -i 1 "$@" "$file")
	_check_add_dev "$TID" $?

	fio --name=job1 --filename=/dev/ublkb"${dev_id}" --ioengine=libaio --direct=1 \
		--rw=randwrite --bsrange=4k-64k --iodepth=32 --size=32M \
		--rate=5m --verify=crc32c --do_verify=1 --verify_fatal=1 \
		--verify_state_save=0 > /dev/null &
	fio_pid=$!
	for action in $actions; do
		sleep 2
		state=$($action "${dev_id}" "QUIESCED")
		if [ "$state" != "QUIESCED" ]; then
			echo "$* : $state after $action"
			kill $fio_pid
			return 1
		fi
		state=$(_recover_ublk_dev -n "$dev_id" -q "$QUEUES" -t loop -r 1 -i 1 "$@" "$file")
		if [ "$state" != "LIVE" ]; then
			echo "$* : $state after recovery"
			kill $fio_pid
			return 1
		fi
	done
	wait $fio_pid || return
	_ublk_del_dev "${dev_id}"
}

_kill_test() {
	_recovery_test "__ublk_kill_daemon __ublk_kill_daemon" "$@"
}

# Quiesce a device, and kill its server unless it leaves. The driver doesn't
# abort the command of a request that the server has just then, neither at once
# nor later, and kublk waits for it.
_quiesce_dev() {
	__ublk_quiesce_dev "$@" > /dev/null || return
	__ublk_kill_daemon "$@"
}

_quiesce_test() {
	_recovery_test "_quiesce_dev __ublk_kill_daemon" "$@"
}

if ! _have_program fio; then
	exit "$UBLK_SKIP_CODE"
fi
_need_features FUSED_CMD BATCH_IO PER_IO_DAEMON USER_RECOVERY QUIESCE

_prep_test "loop" "fused commands, servers that are killed or quiesced, recovery"

_create_backfile 0 32M

_test_modes _kill_test --batch --fused --fused_commit "--fused --batch" \
	    "--fused_commit --per_io_tasks --nthreads 3"

_test_modes _quiesce_test --fused --fused_commit \
	    "--fused_commit --per_io_tasks --nthreads 3"

_cleanup_test
_show_result "$TID" $ERR_CODE
