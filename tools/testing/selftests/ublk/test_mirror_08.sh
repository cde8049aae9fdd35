#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

# The queues' threads have no memory, now and then; the legs are as good as ever
_mirror_test() {
	local log=${UBLK_BACKFILES[2]}
	local file=${UBLK_BACKFILES[3]}
	local dev_id
	local leg

	_create_pattern "$file" b 8
	dev_id=$(_add_ublk_dev_fg "$log" -t mirror "$@" "${UBLK_BACKFILES[0]}" \
		 "${UBLK_BACKFILES[1]}")
	_check_add_dev "$TID" $?
	_failslab_ublk_threads "$dev_id"

	_failslab 5
	dd if="$file" of=/dev/ublkb"$dev_id" bs=16k oflag=direct conv=fsync status=none || return
	dd if=/dev/ublkb"$dev_id" bs=16k iflag=direct status=none | cmp - "$file" || return
	_failslab 0

	for leg in 0 1; do
		cmp "$file" "${UBLK_BACKFILES[leg]}" || return
	done
	# else it has met nothing
	grep -q "res -12" "$log" || return
	if grep -q "out of service" "$log"; then
		grep -B 5 "out of service" "$log"
		return 1
	fi
	_ublk_del_dev "${dev_id}"
}

if ! _have_failslab; then
	exit "$UBLK_SKIP_CODE"
fi
_need_features FUSED_CMD

_prep_test "mirror" "a server without memory keeps its legs"

_create_backfile 0 8M
_create_backfile 1 8M
_create_backfile 2 0
_create_backfile 3 8M

_test_modes _mirror_test "-q 2" --fused --fused_commit
_failslab 0

_cleanup_test
_show_result "$TID" $ERR_CODE
