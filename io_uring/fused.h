/* SPDX-License-Identifier: GPL-2.0 */
#ifndef IOU_FUSED_H
#define IOU_FUSED_H

#include <linux/io_uring_types.h>

struct io_uring_cmd;
struct io_uring_sqe;

/* A member that posts no CQE, not even if it fails */
#define IO_FUSED_QUIET	(REQ_F_CQE_SKIP | REQ_F_SKIP_LINK_CQES)

/**
 * struct io_fused - a fused command and its member
 * @req:	the command. It outlives the member, as @release's caller
 *		completes it.
 * @member:	request that runs on the lent buffer, until it is started or
 *		failed; NULL from then on. Nothing but the command knows it up
 *		to there, and nothing here points to it afterwards.
 * @release:	the driver's, called when the buffer isn't used any more
 * @priv:	its argument
 * @off:	start of the member's range in the buffer
 * @len:	length of that range, 0 if the member has none
 * @res:	the member's result
 * @dest:	the member writes to the buffer
 * @failed:	the member failed, or was short
 * @lent:	the driver has lent the buffer
 *
 * Belongs to the command, in io_uring_cmd.fused, from its preparation until
 * io_fused_cleanup(). All fields are written under ->uring_lock.
 *
 * The lent buffer is a node of a registered buffer that is in no table. The
 * member holds a reference to it, and so does all that the member leaves
 * behind, such as the notification of a zerocopy send. With the last reference
 * io_fused_release() gives the buffer back to the driver and completes the
 * command. Neither a task that dies nor a ring that is closed changes that:
 * both wait for the command, which waits for the member, which is cancelled
 * as any request. The file is pinned by the command.
 */
struct io_fused {
	struct io_kiocb		*req;
	struct io_kiocb		*member;
	void			(*release)(void *priv);
	void			*priv;
	u64			off;
	u32			len;
	s32			res;
	bool			dest;
	bool			failed;
	bool			lent;
};

int io_fused_prep(struct io_kiocb *req, const struct io_uring_sqe *sqe);
int io_fused_cmd(struct io_kiocb *req, unsigned int issue_flags);
void io_fused_cleanup(struct io_kiocb *req);
void io_fused_fail(struct io_kiocb *req);
void io_fused_done(struct io_uring_cmd *ioucmd, s32 ret);
void io_fused_note(struct io_kiocb *member);
unsigned int io_fused_nr(struct io_kiocb *req);

#endif
