/* SPDX-License-Identifier: GPL-2.0 */
#ifndef IOU_FUSED_H
#define IOU_FUSED_H

#include <linux/io_uring_types.h>

struct io_cancel_data;
struct io_uring_cmd;
struct io_uring_sqe;
struct iovec;
struct seq_file;

/* A member that posts no CQE, not even if it fails */
#define IO_FUSED_QUIET	(REQ_F_CQE_SKIP | REQ_F_SKIP_LINK_CQES)

#define IO_FUSED_FLAGS	IORING_FUSED_ONE_CQE

/* Most requests that a command can be fused with */
#define IO_FUSED_MAX	64

/**
 * struct io_fused_member - a member of a fused command
 * @req:	the request that runs on the lent buffer, NULL once it is done
 * @iov:	copy of the ranges that a vectored read fills, or NULL
 * @off:	start of its range in the buffer
 * @len:	length of that range, 0 if it has none; or the number of @iov
 * @want:	a result below that is less than was asked for. 0 if REQ_F_FAIL
 *		says so as well.
 * @res:	its result
 * @dest:	it writes to the buffer
 * @opaque:	it is a command, which may write to the buffer or not
 * @failed:	it failed, or was short
 * @started:	it was issued. Nothing but the command knows it up to there.
 */
struct io_fused_member {
	struct io_kiocb		*req;
	struct iovec		*iov;
	u64			off;
	u32			len;
	u32			want;
	s32			res;
	bool			dest;
	bool			opaque;
	bool			failed;
	bool			started;
};

/**
 * struct io_fused - a fused command and its members
 * @req:	the command. It outlives the members, as @release's caller
 *		completes it.
 * @release:	the driver's, called when the buffer isn't used any more
 * @priv:	its argument
 * @done:	the driver's, called in place of completing the command; or NULL
 * @creds:	of whoever has submitted it, for members that have no personality
 * @err:	why the command can't be issued, or 0
 * @end:	where the last range that a member fills ends, as they are prepared
 * @len:	length of the lent buffer
 * @dir:	what members may do to it, 1 << ITER_DEST or 1 << ITER_SOURCE
 * @lent:	the driver has lent the buffer
 * @untrusted:	members must not leave the buffer to those who may keep it
 * @canceled:	members that aren't started yet are not to be
 * @node:	in ctx->fused_list, from its issue until the buffer isn't lent any
 *		more
 * @nr:		members that were prepared so far
 * @nr_members:	members that there are to be
 * @members:	the members. Once started, one finds its own by req->buf_index,
 *		which is free when a buffer is bound to a request.
 *
 * Belongs to the command, in io_uring_cmd.fused, from its preparation until
 * io_fused_cleanup(). All fields are written under ->uring_lock.
 *
 * The lent buffer is a node of a registered buffer that is in no table. Each
 * member holds a reference to it, and so does all that a member leaves behind,
 * such as the notification of a zerocopy send. With the last reference
 * io_fused_release() gives the buffer back to the driver and completes the
 * command, or has the driver do that, for which it is a command like any other
 * from then on. Neither a task that dies nor a ring that is closed changes that:
 * both wait for the command, which waits for the members, which are cancelled
 * as any request. The file is pinned by the command.
 */
struct io_fused {
	struct io_kiocb		*req;
	void			(*release)(void *priv);
	void			*priv;
	io_req_tw_func_t	done;
	const struct cred	*creds;
	int			err;
	u64			end;
	u64			len;
	u8			dir;
	bool			lent;
	bool			untrusted;
	bool			canceled;
	struct hlist_node	node;
	unsigned int		nr;
	unsigned int		nr_members;
	struct io_fused_member	members[] __counted_by(nr_members);
};

int io_fused_prep(struct io_kiocb *req, const struct io_uring_sqe *sqe);
void io_fused_add(struct io_kiocb *req, const struct io_uring_sqe *sqe);
int io_fused_prepared(struct io_kiocb *req);
int io_fused_cmd(struct io_kiocb *req, unsigned int issue_flags);
void io_fused_cleanup(struct io_kiocb *req);
void io_fused_fail(struct io_kiocb *req);
void io_fused_done(struct io_uring_cmd *ioucmd, s32 ret);
void io_fused_note(struct io_kiocb *member);
int io_fused_cancel(struct io_cancel_data *cd);
unsigned int io_fused_nr(struct io_kiocb *req);
bool io_fused_takes(u8 opcode);
void io_fused_show_fdinfo(struct seq_file *m, struct io_ring_ctx *ctx);

#endif
