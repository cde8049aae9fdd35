#!/bin/bash
# rename.sh TREE: what is fused with a command are its members, in any tree and
# at any commit: kernel, liburing, or the repo. Run twice, it changes nothing.
# Messages of commits: rename.sh --message < OLD > NEW
set -eu
words=(
	-e 's/``nr_secondary``  /``nr_members``    /g'
	-e 's/io_uring_fused_secondary/io_uring_fused_member/g'
	-e 's/\bnr_secondary\b/nr_members/g'
	-e 's/\bThe secondary requests post no/The members post no/g'
	-e 's/\bsecondary requests\b/members/g'
	-e 's/\bsecondary request\b/member/g'
)
if [ "$1" = --message ]; then
	exec sed "${words[@]}"
fi
cd "$1"
git grep -lE 'nr_secondary|fused_secondary|secondary requests?' -- \
	Documentation/io_uring Documentation/block include/uapi/linux/io_uring.h \
	include/linux/io_uring include/linux/io_uring_types.h io_uring \
	drivers/block/ublk_drv.c tools/testing/selftests/io_uring \
	tools/testing/selftests/ublk src man test examples CHANGELOG README.md \
	liburing patches 2>/dev/null |
	xargs -r -d '\n' sed -i "${words[@]}" || true
# a page that says where the other one is
if [ -e man/io_uring_fused_secondary.3 ] || [ -L man/io_uring_fused_secondary.3 ]; then
	git mv man/io_uring_fused_secondary.3 man/io_uring_fused_member.3
fi
