#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

_start() {
	local mode=$1
	local port to

	shift
	# one that knows of windows that are closed
	[ "$mode" = deaf ] && port=10908
	_create_backfile 0 8M
	_create_backfile 1 0
	_start_nbd_peer "${UBLK_BACKFILES[0]}" "$mode" "${UBLK_BACKFILES[1]}" $port || return
	to=(--nbd_unix "$NBD_SOCK")
	[ -n "$port" ] && to=(--nbd_host 127.0.0.1 --nbd_port "$port")
	dev_id=$(_add_ublk_dev -q 2 -t nbd "$@" "${to[@]}" --nbd_export disk)
	_check_add_dev "$TID" $?
}

_stop() {
	_ublk_del_dev "${dev_id}"
	_stop_nbd_server
}

# Replies in any order and in any pieces
_reorder_test() {
	_start reorder "$@" || return
	if ! _run_fio_verify_io --filename=/dev/ublkb"${dev_id}" --size=8M --bsrange=512-1m \
		--bssplit=512/25:4k/25:20k/25:1m/25 --iodepth=64; then
		cat "${UBLK_BACKFILES[1]}"
		return 1
	fi
	cmp /dev/ublkb"${dev_id}" "${UBLK_BACKFILES[0]}" || return
	_stop
}

# An error is that of one request, and what it is
_errors_test() {
	local file=${UBLK_BACKFILES[2]}
	local err

	_start errors "$@" || return
	_create_pattern "$file" a 8
	dd if="$file" of=/dev/ublkb"${dev_id}" bs=1M count=1 oflag=direct status=none || return
	dd if="$file" of=/dev/ublkb"${dev_id}" bs=96k skip=2M seek=2M count=6M oflag=direct \
		iflag=skip_bytes,count_bytes oflag=seek_bytes status=none || return
	err=$(LC_ALL=C dd if="$file" of=/dev/ublkb"${dev_id}" bs=64k seek=16 count=1 \
	      oflag=direct 2>&1)
	if [[ "$err" != *"No space left on device"* ]]; then
		echo "$err"
		return 1
	fi
	err=$(LC_ALL=C dd if=/dev/ublkb"${dev_id}" of=/dev/null bs=64k skip=16 count=1 \
	      iflag=direct 2>&1)
	if [[ "$err" != *"Input/output error"* ]]; then
		echo "$err"
		return 1
	fi
	dd if=/dev/zero of="$file" bs=1M seek=1 count=1 conv=notrunc status=none
	cmp "$file" "${UBLK_BACKFILES[0]}" || return
	dd if=/dev/ublkb"${dev_id}" bs=1M count=1 iflag=direct status=none |
		cmp -n 1048576 - "$file" || return
	dd if=/dev/ublkb"${dev_id}" bs=96k skip=2M iflag=direct,skip_bytes status=none |
		cmp - "$file" 0 2097152 || return
	_stop
}

# A server that can't be trusted is not listened to
_break_test() {
	local load=(--rw=randrw --bsrange=4k-1m --iodepth=32)
	local mode=$1
	local ret

	shift
	# data has no room left in the socket, and it is the next header that waits
	if [ "$mode" = full ]; then
		load=(--rw=randwrite --bs=4k --iodepth=128)
		mode=stall
	fi
	# nor has the other side for all of what it has
	[ "$mode" = deaf ] && load=(--rw=randwrite --bs=1m --iodepth=32)
	_start "$mode" "$@" || return
	timeout 60 fio --name=job --filename=/dev/ublkb"${dev_id}" --direct=1 \
		--ioengine=libaio --runtime=600 --time_based "${load[@]}" \
		> "$UBLK_TMP" 2>&1
	ret=$?
	if [ $ret -eq 0 ] || [ $ret -ge 124 ]; then
		echo "fio ended with $ret"
		cat "$UBLK_TMP"
		return 1
	fi
	# that was one connection of at most two
	if [ "$(cat /sys/block/ublkb"${dev_id}"/mq/*/nr_tags | wc -l)" -eq 1 ]; then
		_check_dev_eio /dev/ublkb"${dev_id}" || return
	fi
	_stop
}

# No device comes of it, and no hang
_refused_test() {
	local mode=$1

	shift
	_start_nbd_peer "${UBLK_BACKFILES[0]}" "$mode" "${UBLK_BACKFILES[1]}" || return
	if timeout 30 "${UBLK_PROG}" add -n 77 -t nbd "$@" > /dev/null 2>&1; then
		echo "not refused: $mode $*"
		return 1
	fi
	if [ -e /dev/ublkc77 ]; then
		echo "refused, but there is a device: $mode $*"
		return 1
	fi
	_stop_nbd_server
}

if ! _have_program fio || ! _have_program python3; then
	exit "$UBLK_SKIP_CODE"
fi
_need_features ZERO_COPY AUTO_BUF_REG USER_COPY SHMEM_ZC PER_IO_DAEMON FUSED_CMD

_prep_test "nbd" "replies of all kinds"
_create_backfile 2 8M
SOCK=${UBLK_TEST_DIR}/nbd.sock

_run() {
	if [ $ERR_CODE -eq 0 ] && ! "$@"; then
		echo "failed: $*"
		ERR_CODE=255
	fi
}

for mode in "-g" -z --auto_zc -u --fused --fused_commit; do
	_run _reorder_test "$mode"
	_run _errors_test "$mode"
	for kind in magic cookie twice half stall full; do
		_run _break_test $kind "$mode"
	done
done
_run _break_test deaf --fused
_run _break_test deaf --fused --nbd_send_zc 1
_run _break_test deaf --fused_commit --nbd_send_zc 1
_run _refused_test mute --nbd_unix "$SOCK"
_run _refused_test old --nbd_unix "$SOCK"
_run _refused_test log --nbd_unix "$SOCK".none
_run _refused_test log --nbd_host 127.0.0.1 --nbd_port 10906
_run _refused_test log --nbd_unix "$SOCK" "${UBLK_BACKFILES[0]}"
_run _refused_test log --per_io_tasks --nbd_unix "$SOCK"
_run _refused_test log --shmem_zc --nbd_unix "$SOCK"
_run _refused_test log -z --auto_zc --auto_zc_fallback --nbd_unix "$SOCK"
_run _refused_test log -z --nbd_send_zc 1 --nbd_unix "$SOCK"
_run _refused_test log -u --metadata_size 8 --nbd_unix "$SOCK"

_cleanup_test
_show_result "$TID" $ERR_CODE
