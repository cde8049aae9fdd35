#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0

# What is written with fused commands is where others look for it, and back
_stripe_test() {
	local file=${UBLK_BACKFILES[3]}
	local files=("${UBLK_BACKFILES[@]:0:3}")
	local mode
	local dev_id

	for mode in "$*" -u; do
		# shellcheck disable=SC2086
		dev_id=$(_add_ublk_dev -q 2 -t stripe $mode --chunk_size 16384 "${files[@]}")
		_check_add_dev "$TID" $?
		if [ "$mode" = "-u" ]; then
			dd if=/dev/ublkb"$dev_id" bs=1M iflag=direct status=none |
				cmp - "$file" || return
			_create_pattern "$file" b 24
			dd if="$file" of=/dev/ublkb"$dev_id" bs=1M oflag=direct status=none ||
				return
		else
			_create_pattern "$file" a 24
			dd if="$file" of=/dev/ublkb"$dev_id" bs=97k oflag=direct \
				status=none || return
			dd if=/dev/ublkb"$dev_id" bs=160k iflag=direct status=none |
				cmp - "$file" || return
		fi
		_ublk_del_dev "${dev_id}"
	done

	dev_id=$(_add_ublk_dev -q 2 -t stripe "$@" --chunk_size 16384 "${files[@]}")
	_check_add_dev "$TID" $?
	dd if=/dev/ublkb"$dev_id" bs=97k iflag=direct status=none | cmp - "$file" || return
	_run_fio_verify_io --filename=/dev/ublkb"${dev_id}" --size=24M || return
	_ublk_del_dev "${dev_id}"

	# more chunks than a command has members
	dev_id=$(_add_ublk_dev -q 2 -t stripe "$@" --chunk_size 4096 "${files[@]}")
	_check_add_dev "$TID" $?
	_create_pattern "$file" c 24
	dd if="$file" of=/dev/ublkb"$dev_id" bs=1M oflag=direct status=none || return
	dd if=/dev/ublkb"$dev_id" bs=500k iflag=direct status=none | cmp - "$file" || return
	_ublk_del_dev "${dev_id}"
}

if ! _have_program fio; then
	exit "$UBLK_SKIP_CODE"
fi
_need_features FUSED_CMD USER_COPY PER_IO_DAEMON

_prep_test "stripe" "fused commands with a member for each stripe"

_create_backfile 0 8M
_create_backfile 1 8M
_create_backfile 2 8M
_create_backfile 3 24M

_test_modes _stripe_test --fused "--fused --batch" "--fused --per_io_tasks --nthreads 3" \
	    --fused_commit

_cleanup_test
_show_result "$TID" $ERR_CODE
