#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

# Two of three legs run out of space while many writes are in flight
_mirror_test() {
	local log=${UBLK_BACKFILES[1]}
	local dev_id
	local ret

	truncate -s 32M "$FULL_DIR"/leg1 "$FULL_DIR"/leg2
	_create_backfile 0 32M
	dev_id=$(_add_ublk_dev_fg "$log" -q 2 -t mirror "$@" "$FULL_DIR"/leg1 \
		 "${UBLK_BACKFILES[0]}" "$FULL_DIR"/leg2)
	_check_add_dev "$TID" $?

	_run_fio_verify_io --filename=/dev/ublkb"${dev_id}" --size=32M &&
		cmp /dev/ublkb"${dev_id}" "${UBLK_BACKFILES[0]}" &&
		[ "$(grep -c "leg 0, .* is out of service" "$log")" -eq 1 ] &&
		[ "$(grep -c "leg 2, .* is out of service" "$log")" -eq 1 ] &&
		[ "$(grep -c "is out of service" "$log")" -eq 2 ]
	ret=$?
	[ $ret -eq 0 ] || tail -n 20 "$log"
	_ublk_del_dev "${dev_id}"
	rm -f "$FULL_DIR"/leg1 "$FULL_DIR"/leg2
	return $ret
}

if ! _have_program fio; then
	exit "$UBLK_SKIP_CODE"
fi
_need_features ZERO_COPY AUTO_BUF_REG USER_COPY PER_IO_DAEMON FUSED_CMD

_prep_test "mirror" "legs run out of space under load"

FULL_DIR=$(_create_tmp_dir)
mount -t tmpfs -o size=8M tmpfs "$FULL_DIR"
_create_backfile 1 0

_test_modes _mirror_test "-d 32" -z --auto_zc -u --fused --fused_commit \
	    "--per_io_tasks --nthreads 3"

umount "$FULL_DIR"
_remove_tmp_dir "$FULL_DIR"
_cleanup_test
_show_result "$TID" $ERR_CODE
