#!/bin/bash
# SPDX-License-Identifier: GPL-2.0

. "$(cd "$(dirname "$0")" && pwd)"/test_common.sh

ERR_CODE=0
PIECE=131072
NR_PIECES=32
FSIZE=unlimited

# Write the pieces of a pattern. Those whose writes have succeeded are in OK.
_write_pieces() {
	local dev_id=$1
	local i

	OK=()
	for ((i = 0; i < NR_PIECES; i++)); do
		if timeout 60 dd if="${UBLK_BACKFILES[0]}" of=/dev/ublkb"$dev_id" bs=$PIECE \
			skip=$i seek=$i count=1 oflag=direct conv=notrunc status=none \
			2> /dev/null; then
			OK+=("$i")
		fi
	done
}

# What was written, says the client, is what $1 has
_check_pieces() {
	local i

	for i in "${OK[@]}"; do
		if ! cmp -n $PIECE -i $((i * PIECE)) "${UBLK_BACKFILES[0]}" "$1"; then
			echo "piece $i isn't there, in $1"
			return 1
		fi
	done
}

# As _check_pieces(), and with the eyes of a server that copies
_check_all() {
	local file=$1
	local dev_id ret

	_check_pieces "$file" || return
	dev_id=$(_add_ublk_dev -t loop "$file")
	_check_add_dev "$TID" $?
	dd if=/dev/ublkb"$dev_id" of="$UBLK_TMP" bs=1M iflag=direct status=none &&
		_check_pieces "$UBLK_TMP"
	ret=$?
	_ublk_del_dev "$dev_id"
	: > "$UBLK_TMP"
	return $ret
}

# $2 makes room for a file that has too little of it; other words are options
_no_room_test() {
	local file=$1
	local make_room=$2
	local dev_id ret=0

	shift 2
	# the server is told that it can't write, and isn't killed
	dev_id=$(trap '' XFSZ; ulimit -S -f "$FSIZE" && _add_ublk_dev -t loop "$@" "$file")
	_check_add_dev "$TID" $?

	_write_pieces "$dev_id"
	if [ ${#OK[@]} -eq 0 ] || [ ${#OK[@]} -eq $NR_PIECES ]; then
		echo "$* : ${#OK[@]} of $NR_PIECES writes have succeeded"
		ret=1
	fi
	_check_pieces "$file" || ret=1

	$make_room "$dev_id" || ret=1
	_write_pieces "$dev_id"
	if [ ${#OK[@]} -ne $NR_PIECES ]; then
		echo "$* : ${#OK[@]} of $NR_PIECES writes have succeeded, with room"
		ret=1
	fi
	_ublk_del_dev "$dev_id"
	_check_all "$file" || ret=1
	return $ret
}

_new_file() {
	truncate -s $((NR_PIECES * PIECE)) "$1"
}

_grow_tmpfs() {
	mount -o remount,size=16M "$DIR"
}

# A tmpfs ends in the middle of a piece, and a write there is short
_tmpfs_test() {
	local ret

	mount -t tmpfs -o size=1740k none "$DIR" || return
	_new_file "$DIR/file"
	_no_room_test "$DIR/file" _grow_tmpfs "$@"
	ret=$?
	umount "$DIR" && return $ret
}

_remove_filler() {
	rm "$DIR/filler" && sync -f "$DIR"
}

# Direct I/O. The file system is on a device whose server copies.
_ext4_test() {
	local dev_id ret

	_create_backfile 1 16M
	dev_id=$(_add_ublk_dev -t loop "${UBLK_BACKFILES[1]}")
	_check_add_dev "$TID" $?
	mkfs.ext4 -q -F -m 0 -O ^has_journal /dev/ublkb"$dev_id" || return
	mount -t ext4 /dev/ublkb"$dev_id" "$DIR" || return
	_new_file "$DIR/file"
	# leave room for half of the file
	fallocate -l $(($(stat -f -c '%a * %S' "$DIR") - NR_PIECES * PIECE / 2 - 65536)) \
		"$DIR/filler" &&
		_no_room_test "$DIR/file" _remove_filler "$@"
	ret=$?
	umount "$DIR" || return
	_ublk_del_dev "$dev_id"
	return $ret
}

_lift_limit() {
	prlimit --fsize=unlimited --pid "$(_get_ublk_daemon_pid "$1")"
}

# The server may not write behind the middle of a piece
_rlimit_test() {
	local ret

	_new_file "$DIR/file"
	FSIZE=$((NR_PIECES * PIECE / 2 / 1024 + 64))
	_no_room_test "$DIR/file" _lift_limit "$@"
	ret=$?
	FSIZE=unlimited
	rm "$DIR/file"
	return $ret
}

for prog in mkfs.ext4 prlimit fallocate; do
	if ! _have_program $prog; then
		exit "$UBLK_SKIP_CODE"
	fi
done
_need_features FUSED_CMD

_prep_test "loop" "fused commands on file systems that are full"

DIR=$(_create_tmp_dir)
_create_backfile 0 4M
_create_pattern "${UBLK_BACKFILES[0]}" a 4

_test_modes _tmpfs_test --fused --fused_commit
_test_modes _ext4_test --fused --fused_commit
_test_modes _rlimit_test --fused --fused_commit

_remove_tmp_dir "$DIR"
_cleanup_test
_show_result "$TID" $ERR_CODE
