// SPDX-License-Identifier: GPL-2.0
/*
 * NBD target: a client of a Network Block Device server, see
 * https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
 *
 * Each queue has a connection, on which many requests are in flight. Its
 * stream is a sequence of requests in one direction, and of replies in the
 * other, each a header that some have data behind. So one SEND and one RECV at
 * a time are in flight on a connection, and each is for what is left of one
 * header or of one request's data, never beyond that: data goes from and to
 * where it belongs. Requests are sent in the order they come in. Replies come
 * in any order, and name their request by a cookie. As long as a request waits
 * for its reply a RECV is in flight, and none is when the connection is idle.
 *
 * A request is done when it has been sent and its reply has been received,
 * which is seen in either order. With --fused_commit it is the kernel that
 * completes a read, along with the RECV of its data, unless it isn't seen to be
 * sent by then. A write is done with its reply, not with its data.
 *
 * There is no way to tell where in the stream one is once anything went wrong.
 * So any error of a SEND or a RECV, and any reply that makes no sense, is the
 * end of a connection: it is shut down, or reset if there may be SEND_ZC, which
 * ends the SEND and the RECV that may be in flight, and as soon as both are back
 * and touch no request's data any more, all requests fail with -EIO. So do later
 * ones. It isn't connected again, that takes a new server on the device.
 *
 * What the other side had received by then it may still carry out, also after
 * later writes to the same place, by another connection or a new server. After
 * an error nobody knows what is there, until the other side has no clients any
 * more and it is written again.
 *
 * A struct nbd_conn belongs to the thread that serves its queue, nothing of it
 * is locked. It lives until ->deinit_tgt(), when the threads are gone.
 */

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <linux/nbd.h>
#include "kublk.h"

#define NBD_INIT_MAGIC		0x4e42444d41474943ULL	/* NBDMAGIC */
#define NBD_OPT_MAGIC		0x49484156454f5054ULL	/* IHAVEOPT */
#define NBD_REP_MAGIC		0x0003e889045565a9ULL

/* both of the server's handshake, and of the client's answer */
#define NBD_HS_FIXED_NEWSTYLE	1
#define NBD_HS_NO_ZEROES	2

#define NBD_OPT_GO		7
#define NBD_REP_ACK		1
#define NBD_REP_INFO		3
#define NBD_REP_FLAG_ERROR	0x80000000U
#define NBD_INFO_EXPORT		0

/* for a server that accepts a connection and then says nothing */
#define NBD_HANDSHAKE_SECS	10

/* the length of a request has 32 bits */
#define NBD_MAX_SECTORS		(UINT_MAX >> 9)

struct nbd_option {
	__be64 magic;
	__be32 option;
	__be32 len;
};

/* behind the magic number */
struct nbd_option_reply {
	__be32 option;
	__be32 type;
	__be32 len;
};

struct nbd_export {
	__u64 size;
	__u16 flags;
};

struct nbd_io {
	__u64 cookie;		/* its lower 16 bits are the tag */
	bool active;		/* from being queued to being done */
	bool sent;
	bool replied;
	bool committing;	/* the RECV of its data completes it */
	bool again;		/* that had no memory, and isn't in flight any more */
	int res;		/* once replied, or while the buffer is unregistered; or
				 * how much is to be committed
				 */
};

struct nbd_conn {
	int fd;
	bool dead;
	bool sending;		/* a SEND is in flight */
	bool receiving;		/* a RECV is in flight */

	/* the first of nr_queued tags is being sent, from its header on */
	unsigned int head;
	unsigned int nr_queued;
	unsigned int sent;
	struct nbd_request request;

	/* once its header is there, it is known whose reply it is */
	unsigned int nr_waiting;
	unsigned int received;
	unsigned int reply_tag;
	struct nbd_reply reply;

	unsigned short queued[UBLK_QUEUE_DEPTH];
	struct nbd_io ios[UBLK_QUEUE_DEPTH];
};

struct nbd {
	__u64 size;
	__u16 flags;
	bool send_zc;
	unsigned int nr_conns;
	struct nbd_conn conns[];
};

/****************** requests ********************/

static struct nbd *nbd_of(const struct ublk_queue *q)
{
	return q->dev->private_data;
}

static struct nbd_conn *nbd_conn_of(const struct ublk_queue *q)
{
	return &nbd_of(q)->conns[q->q_id];
}

/* What follows the header of a request, or of the reply to it. */
static unsigned int nbd_data_len(const struct ublk_queue *q, int tag, unsigned int op)
{
	const struct ublksrv_io_desc *iod = ublk_get_iod(q, tag);

	return ublksrv_get_op(iod) == op ? iod->nr_sectors << 9 : 0;
}

static bool nbd_registers_buf(const struct ublk_queue *q, int tag)
{
	return ublk_queue_use_zc(q) && (nbd_data_len(q, tag, UBLK_IO_OP_READ) ||
					nbd_data_len(q, tag, UBLK_IO_OP_WRITE));
}

static struct io_uring_sqe *nbd_get_sqe(struct ublk_thread *t)
{
	struct io_uring_sqe *sqe[1];
	int got = ublk_io_alloc_sqes(t, sqe, 1);

	ublk_assert(got == 1);
	/* these have no fixed number for each request, so they are counted here */
	t->io_inflight++;
	return sqe[0];
}

static void nbd_queue_buf_cmd(struct ublk_thread *t, struct ublk_queue *q, int tag, bool reg)
{
	unsigned short buf_idx = ublk_io_buf_idx(t, q, tag);
	struct io_uring_sqe *sqe = nbd_get_sqe(t);

	if (reg)
		io_uring_prep_buf_register(sqe, q, tag, q->q_id, buf_idx);
	else
		io_uring_prep_buf_unregister(sqe, q, tag, q->q_id, buf_idx);
	sqe->user_data = build_user_data(tag, ublk_cmd_op_nr(sqe->cmd_op), 0, q->q_id, 1);
}

/* Have a SEND or a RECV use some of a request's data. */
static void nbd_use_data(struct ublk_thread *t, struct ublk_queue *q, int tag,
			 struct io_uring_sqe *sqe, unsigned int offset)
{
	/* without a buffer of ours, this is the offset into what takes its place */
	sqe->addr = (__u64)(uintptr_t)ublk_get_io(q, tag)->buf_addr + offset;
	if (ublk_queue_no_buf(q) && !ublk_queue_use_fused(q)) {
		sqe->ioprio |= IORING_RECVSEND_FIXED_BUF;
		sqe->buf_index = ublk_io_buf_idx(t, q, tag);
	}
}

/*
 * An SQE for a SEND or a RECV of a request's data, and the one whose CQE tells of
 * it. That is the command, if data is lent, unless its CQE is that of the next
 * request because it is to @commit this one.
 */
static struct io_uring_sqe *nbd_get_data_sqe(struct ublk_thread *t, struct ublk_queue *q,
					     int tag, bool commit,
					     struct io_uring_sqe **teller)
{
	struct io_uring_sqe *sqe[1];

	if (!ublk_queue_use_fused(q)) {
		*teller = nbd_get_sqe(t);
		return *teller;
	}
	if (!commit)
		ublk_get_io(q, tag)->flags |= UBLKS_IO_NO_FUSED_COMMIT;
	*teller = ublk_io_alloc_fused(t, q, tag, sqe, 1);
	if (ublk_io_fused_commit(q, tag)) {
		(*teller)->fused_flags = 0;
		*teller = sqe[0];
	}
	t->io_inflight++;
	return sqe[0];
}

static void nbd_finish(struct ublk_thread *t, struct ublk_queue *q, int tag, int res)
{
	struct nbd_io *nio = &nbd_conn_of(q)->ios[tag];

	nio->active = false;
	nio->res = res;
	if (nbd_registers_buf(q, tag))
		nbd_queue_buf_cmd(t, q, tag, false);
	else
		ublk_complete_io(t, q, tag, res);
}

static void nbd_fail(struct ublk_thread *t, struct ublk_queue *q, const char *why)
{
	struct nbd_conn *conn = nbd_conn_of(q);
	int tag;

	if (!conn->dead) {
		ublk_err("nbd: queue %d has lost its connection: %s\n", q->q_id, why);
		conn->dead = true;
		shutdown(conn->fd, SHUT_RDWR);
		/* or what a SEND_ZC left there waits for a peer to take it */
		if (nbd_of(q)->send_zc)
			connect(conn->fd, &(struct sockaddr){ .sa_family = AF_UNSPEC },
				sizeof(struct sockaddr));
	}
	if (conn->sending || conn->receiving)
		return;

	for (tag = 0; tag < q->q_depth; tag++)
		if (conn->ios[tag].active)
			nbd_finish(t, q, tag, -EIO);
}

static const char *nbd_why(int res)
{
	return res ? strerror(-res) : "closed by the server";
}

static void nbd_prep_request(struct nbd_conn *conn, const struct ublk_queue *q, int tag)
{
	const struct ublksrv_io_desc *iod = ublk_get_iod(q, tag);
	__u32 type;

	switch (ublksrv_get_op(iod)) {
	case UBLK_IO_OP_READ:
		type = NBD_CMD_READ;
		break;
	case UBLK_IO_OP_WRITE:
		type = NBD_CMD_WRITE;
		if (iod->op_flags & UBLK_IO_F_FUA)
			type |= NBD_CMD_FLAG_FUA;
		break;
	case UBLK_IO_OP_DISCARD:
		type = NBD_CMD_TRIM;
		break;
	default:
		type = NBD_CMD_FLUSH;
		break;
	}

	conn->request = (struct nbd_request) {
		.magic = htobe32(NBD_REQUEST_MAGIC),
		.type = htobe32(type),
		.cookie = htobe64(conn->ios[tag].cookie),
	};
	/* a flush is of everything, and says so with zeros */
	if (type != NBD_CMD_FLUSH) {
		conn->request.from = htobe64(iod->start_sector << 9);
		conn->request.len = htobe32(iod->nr_sectors << 9);
	}
}

/*
 * A command of two entries can't start in the last one of the ring, and what
 * fills that one up would end the link to the command. So don't have it there.
 */
static void nbd_fill_ring_end(struct ublk_thread *t)
{
	struct io_uring_sq *sq = &t->ring.sq;
	struct io_uring_sqe *sqe;

	if ((sq->sqe_tail & sq->ring_mask) != sq->ring_mask - 1)
		return;
	sqe = nbd_get_sqe(t);
	t->io_inflight--;
	io_uring_prep_nop(sqe);
	sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

static void nbd_send(struct ublk_thread *t, struct ublk_queue *q)
{
	struct nbd_conn *conn = nbd_conn_of(q);
	const unsigned int header = sizeof(conn->request);
	struct io_uring_sqe *sqe, *teller;
	bool linked = false;
	unsigned int len;
	int tag;

	if (conn->sending || !conn->nr_queued)
		return;

	tag = conn->queued[conn->head];
	len = nbd_data_len(q, tag, UBLK_IO_OP_WRITE);
	/* a link can't go across submissions, so there has to be room for both */
	if (ublk_queue_use_fused(q))
		ublk_io_make_room(&t->ring, 6);
	if (conn->sent < header) {
		if (!conn->sent)
			nbd_prep_request(conn, q, tag);
		linked = len && ublk_queue_use_fused(q);
		if (linked)
			nbd_fill_ring_end(t);
		sqe = nbd_get_sqe(t);
		io_uring_prep_send(sqe, conn->fd, (char *)&conn->request + conn->sent,
				   header - conn->sent,
				   MSG_NOSIGNAL | MSG_WAITALL | (len ? MSG_MORE : 0));
		sqe->user_data = build_user_data(tag, IORING_OP_SEND, 0, q->q_id, 1);
		if (linked) {
			/* has a CQE only if it fails, and then the command has none */
			t->io_inflight--;
			sqe->flags |= IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
			sqe->user_data = build_user_data(tag, IORING_OP_NOP, 0, q->q_id, 1);
			conn->sent = header;
		}
	}
	if (linked || conn->sent >= header) {
		sqe = nbd_get_data_sqe(t, q, tag, false, &teller);
		if (nbd_of(q)->send_zc)
			io_uring_prep_send_zc(sqe, conn->fd, NULL, header + len - conn->sent,
					      MSG_NOSIGNAL | MSG_WAITALL, 0);
		else
			io_uring_prep_send(sqe, conn->fd, NULL, header + len - conn->sent,
					   MSG_NOSIGNAL | MSG_WAITALL);
		nbd_use_data(t, q, tag, sqe, conn->sent - header);
		teller->user_data = build_user_data(tag, IORING_OP_SEND, 0, q->q_id, 1);
	}
	conn->sending = true;
}

/* Nothing was sent or received, and the connection is as good as before */
static bool nbd_no_memory(int res)
{
	return res == -ENOMEM || res == -ENOBUFS || res == -EAGAIN || res == -ECANCELED;
}

static void nbd_sent(struct ublk_thread *t, struct ublk_queue *q, int res)
{
	struct nbd_conn *conn = nbd_conn_of(q);
	int tag = conn->queued[conn->head];
	struct nbd_io *nio = &conn->ios[tag];

	conn->sending = false;
	if (!conn->dead && nbd_no_memory(res)) {
		nbd_send(t, q);
		return;
	}
	if (conn->dead || res <= 0) {
		nbd_fail(t, q, nbd_why(res));
		return;
	}

	conn->sent += res;
	if (conn->sent == sizeof(conn->request) + nbd_data_len(q, tag, UBLK_IO_OP_WRITE)) {
		conn->sent = 0;
		conn->head = (conn->head + 1) % UBLK_QUEUE_DEPTH;
		conn->nr_queued--;
		nio->sent = true;
		if (nio->replied)
			nbd_finish(t, q, tag, nio->res);
	}
	nbd_send(t, q);
}

/*
 * The header in front of linked data, which wasn't sent either. That it is
 * canceled means that there was no memory for the command with the data.
 */
static void nbd_header_failed(struct ublk_thread *t, struct ublk_queue *q, int res)
{
	if (nbd_no_memory(res))
		nbd_conn_of(q)->sent = 0;
	nbd_sent(t, q, res < 0 ? res : -EPIPE);
}

static void nbd_recv(struct ublk_thread *t, struct ublk_queue *q)
{
	struct nbd_conn *conn = nbd_conn_of(q);
	const unsigned int header = sizeof(conn->reply);
	struct io_uring_sqe *sqe, *teller;
	struct nbd_io *nio;
	unsigned int len;

	if (conn->receiving || !conn->nr_waiting)
		return;

	if (conn->received < header) {
		sqe = nbd_get_sqe(t);
		teller = sqe;
		io_uring_prep_recv(sqe, conn->fd, (char *)&conn->reply + conn->received,
				   header - conn->received, MSG_WAITALL);
	} else {
		len = nbd_data_len(q, conn->reply_tag, UBLK_IO_OP_READ);
		nio = &conn->ios[conn->reply_tag];
		sqe = nbd_get_data_sqe(t, q, conn->reply_tag,
				       nio->sent && conn->received == header, &teller);
		if (ublk_io_fused_commit(q, conn->reply_tag)) {
			nio->committing = true;
			nio->res = len;
		}
		io_uring_prep_recv(sqe, conn->fd, NULL, header + len - conn->received,
				   MSG_WAITALL);
		nbd_use_data(t, q, conn->reply_tag, sqe, conn->received - header);
	}
	teller->user_data = build_user_data(0, IORING_OP_RECV, 0, q->q_id, 1);
	conn->receiving = true;
}

/* NBD's numbers of errors are Linux' ones, as far as it has them. */
static int nbd_reply_error(__u32 error)
{
	switch (error) {
	case 0:
		return 0;
	case EPERM:
	case ENOMEM:
	case EINVAL:
	case ENOSPC:
	case EOVERFLOW:
	case EOPNOTSUPP:
		return -(int)error;
	default:
		return -EIO;
	}
}

/* Whose reply it is, -1 if it can't be. */
static int nbd_reply_tag(const struct nbd_conn *conn, const struct ublk_queue *q)
{
	__u64 cookie = be64toh(conn->reply.cookie);
	int tag = cookie & 0xffff;
	const struct nbd_io *nio;

	if (be32toh(conn->reply.magic) != NBD_REPLY_MAGIC || tag >= q->q_depth)
		return -1;
	nio = &conn->ios[tag];
	if (!nio->active || nio->replied || nio->cookie != cookie)
		return -1;
	/* all that isn't sent waits behind the one that is being sent */
	if (!nio->sent && !(conn->sending && conn->queued[conn->head] == tag))
		return -1;
	return tag;
}

/*
 * The RECV of a request's data that was to complete it. If it hasn't, the command
 * says so: the request is coming again (IORING_CQE_F_NOT_COMMITTED), or what is left
 * of it (_PARTIAL). Until then its data is lent, and if there was no memory to
 * receive any of it, that is left to ublk_nbd_queue_io().
 */
static void nbd_received_last(struct ublk_thread *t, struct ublk_queue *q, int tag, int res)
{
	struct nbd_conn *conn = nbd_conn_of(q);
	struct nbd_io *nio = &conn->ios[tag];

	nio->committing = false;
	if (!conn->dead && nbd_no_memory(res)) {
		nio->again = true;
		nio->res = 0;
		conn->receiving = true;
		return;
	}
	nio->active = false;
	conn->nr_waiting--;
	/* the request of this tag may be the next one by now, so not its length */
	if (conn->dead || res != nio->res) {
		nbd_fail(t, q, nbd_why(res < 0 ? res : 0));
		return;
	}
	conn->received = 0;
	nbd_recv(t, q);
}

static void nbd_received(struct ublk_thread *t, struct ublk_queue *q, int res)
{
	struct nbd_conn *conn = nbd_conn_of(q);
	const unsigned int header = sizeof(conn->reply);
	struct nbd_io *nio;
	unsigned int len;
	int tag;

	conn->receiving = false;
	if (conn->received >= header && conn->ios[conn->reply_tag].committing) {
		nbd_received_last(t, q, conn->reply_tag, res);
		return;
	}
	if (!conn->dead && nbd_no_memory(res)) {
		nbd_recv(t, q);
		return;
	}
	if (conn->dead || res <= 0) {
		nbd_fail(t, q, nbd_why(res));
		return;
	}

	conn->received += res;
	if (conn->received == header) {
		tag = nbd_reply_tag(conn, q);
		if (tag < 0) {
			nbd_fail(t, q, "not a reply to any request");
			return;
		}
		conn->reply_tag = tag;
		conn->ios[tag].res = nbd_reply_error(be32toh(conn->reply.error));
	}
	if (conn->received < header) {
		nbd_recv(t, q);
		return;
	}

	tag = conn->reply_tag;
	nio = &conn->ios[tag];
	len = nio->res ? 0 : nbd_data_len(q, tag, UBLK_IO_OP_READ);
	if (conn->received == header + len) {
		/* the length of a TRIM doesn't fit, and isn't asked for */
		if (!nio->res)
			nio->res = nbd_data_len(q, tag, UBLK_IO_OP_READ) +
				   nbd_data_len(q, tag, UBLK_IO_OP_WRITE);
		conn->received = 0;
		conn->nr_waiting--;
		nio->replied = true;
		if (nio->sent)
			nbd_finish(t, q, tag, nio->res);
	}
	nbd_recv(t, q);
}

/* Send a request: its data is at hand, or registered. */
static void nbd_start(struct ublk_thread *t, struct ublk_queue *q, int tag)
{
	struct nbd_conn *conn = nbd_conn_of(q);
	struct nbd_io *nio = &conn->ios[tag];

	if (conn->dead) {
		nbd_finish(t, q, tag, -EIO);
		return;
	}

	/* no reply is taken for that to a later request of the same tag */
	nio->cookie = ((nio->cookie >> 16) + 1) << 16 | tag;
	nio->active = true;
	nio->sent = false;
	nio->replied = false;
	conn->queued[(conn->head + conn->nr_queued++) % UBLK_QUEUE_DEPTH] = tag;
	conn->nr_waiting++;
	nbd_send(t, q);
	nbd_recv(t, q);
}

static void ublk_nbd_io_done(struct ublk_thread *t, struct ublk_queue *q,
			     const struct io_uring_cqe *cqe)
{
	unsigned int tag = user_data_to_tag(cqe->user_data);
	unsigned int op = user_data_to_op(cqe->user_data);

	t->io_inflight--;
	/* a header that wasn't sent, or not all of it, in place of its data */
	if (op == IORING_OP_NOP)
		nbd_header_failed(t, q, cqe->res);
	else if (op == IORING_OP_SEND)
		nbd_sent(t, q, cqe->res);
	else if (op == IORING_OP_RECV)
		nbd_received(t, q, cqe->res);
	else if (op == ublk_cmd_op_nr(UBLK_U_IO_UNREGISTER_IO_BUF))
		ublk_complete_io(t, q, tag, nbd_conn_of(q)->ios[tag].res);
	else if (cqe->res < 0)
		ublk_complete_io(t, q, tag, cqe->res);
	else
		nbd_start(t, q, tag);
}

static int ublk_nbd_queue_io(struct ublk_thread *t, struct ublk_queue *q, int tag)
{
	const struct ublksrv_io_desc *iod = ublk_get_iod(q, tag);
	struct nbd_conn *conn = nbd_conn_of(q);

	/* the command was to commit and failed without a RECV, for lack of memory */
	if (conn->ios[tag].committing) {
		t->io_inflight--;
		nbd_received(t, q, -ENOMEM);
	}
	/* this is not another request */
	if (conn->ios[tag].again) {
		conn->ios[tag].again = false;
		nbd_received(t, q, -ENOMEM);
		return 0;
	}
	switch (ublksrv_get_op(iod)) {
	case UBLK_IO_OP_READ:
	case UBLK_IO_OP_WRITE:
	case UBLK_IO_OP_FLUSH:
	case UBLK_IO_OP_DISCARD:
		if (nbd_registers_buf(q, tag))
			nbd_queue_buf_cmd(t, q, tag, true);
		else
			nbd_start(t, q, tag);
		break;
	case UBLK_IO_OP_WRITE_ZEROES:
		ublk_complete_io(t, q, tag, -ENOTSUP);
		break;
	default:
		ublk_complete_io(t, q, tag, -EINVAL);
		break;
	}
	ublk_dbg(UBLK_DBG_IO, "%s: tag %d ublk io %x %llx %u\n", __func__, tag,
		 iod->op_flags, iod->start_sector, iod->nr_sectors << 9);
	return 0;
}

/****************** connections ********************/

static int nbd_send_all(int fd, const void *data, size_t len)
{
	while (len) {
		ssize_t ret = send(fd, data, len, MSG_NOSIGNAL);

		if (ret < 0)
			return -errno;
		data += ret;
		len -= ret;
	}
	return 0;
}

static int nbd_recv_all(int fd, void *data, size_t len)
{
	while (len) {
		ssize_t ret = recv(fd, data, len, MSG_WAITALL);

		if (ret < 0)
			return -errno;
		if (!ret)
			return -ECONNRESET;
		data += ret;
		len -= ret;
	}
	return 0;
}

static int nbd_connect_unix(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, path, strlen(path));

	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		int ret = -errno;

		close(fd);
		return ret;
	}
	return fd;
}

static int nbd_connect_tcp(const char *host, const char *port)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	struct addrinfo *list, *ai;
	int fd = -1, one = 1, ret;

	ret = getaddrinfo(host, port, &hints, &list);
	if (ret) {
		ublk_err("nbd: %s port %s: %s\n", host, port, gai_strerror(ret));
		return -EHOSTUNREACH;
	}

	ret = -EHOSTUNREACH;
	for (ai = list; ai; ai = ai->ai_next) {
		fd = socket(ai->ai_family, ai->ai_socktype, ai->ai_protocol);
		if (fd < 0) {
			ret = -errno;
			continue;
		}
		if (!connect(fd, ai->ai_addr, ai->ai_addrlen))
			break;
		ret = -errno;
		close(fd);
	}
	freeaddrinfo(list);
	if (!ai)
		return ret;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static void nbd_set_timeout(int fd, int secs)
{
	const struct timeval tv = { .tv_sec = secs };

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
}

/* The first words of both sides, where the server says which way it speaks. */
static int nbd_greet(int fd)
{
	__be64 magic[2];
	__be16 flags;
	__be32 client;
	int ret;

	ret = nbd_recv_all(fd, magic, sizeof(magic));
	if (!ret)
		ret = nbd_recv_all(fd, &flags, sizeof(flags));
	if (ret)
		return ret;
	if (be64toh(magic[0]) != NBD_INIT_MAGIC || be64toh(magic[1]) != NBD_OPT_MAGIC ||
	    !(be16toh(flags) & NBD_HS_FIXED_NEWSTYLE)) {
		ublk_err("nbd: not a server with fixed newstyle negotiation\n");
		return -EPROTO;
	}

	client = htobe32(be16toh(flags) & (NBD_HS_FIXED_NEWSTYLE | NBD_HS_NO_ZEROES));
	return nbd_send_all(fd, &client, sizeof(client));
}

static int nbd_send_go(int fd, const char *name)
{
	const __u32 name_len = strlen(name);
	const __be32 be_name_len = htobe32(name_len);
	const __be16 nr_info_requests = 0;
	const struct nbd_option option = {
		.magic = htobe64(NBD_OPT_MAGIC),
		.option = htobe32(NBD_OPT_GO),
		.len = htobe32(sizeof(be_name_len) + name_len + sizeof(nr_info_requests)),
	};
	int ret;

	ret = nbd_send_all(fd, &option, sizeof(option));
	if (!ret)
		ret = nbd_send_all(fd, &be_name_len, sizeof(be_name_len));
	if (!ret)
		ret = nbd_send_all(fd, name, name_len);
	if (!ret)
		ret = nbd_send_all(fd, &nr_info_requests, sizeof(nr_info_requests));
	return ret;
}

/* Ask for an export. The server tells what it is like, and that it is ours. */
static int nbd_go(int fd, const char *name, struct nbd_export *export)
{
	struct nbd_option_reply reply;
	bool have_export = false;
	__be64 magic, size;
	__be16 info, flags;
	__u32 type, len;
	char data[1024];
	int ret;

	ret = nbd_send_go(fd, name);
	if (ret)
		return ret;

	while (1) {
		ret = nbd_recv_all(fd, &magic, sizeof(magic));
		if (!ret)
			ret = nbd_recv_all(fd, &reply, sizeof(reply));
		if (ret)
			return ret;
		type = be32toh(reply.type);
		len = be32toh(reply.len);
		if (be64toh(magic) != NBD_REP_MAGIC || be32toh(reply.option) != NBD_OPT_GO ||
		    len >= sizeof(data))
			return -EPROTO;
		ret = nbd_recv_all(fd, data, len);
		if (ret)
			return ret;

		if (type & NBD_REP_FLAG_ERROR) {
			data[len] = '\0';
			ublk_err("nbd: export '%s' is refused, error %u: %s\n", name,
				 type & ~NBD_REP_FLAG_ERROR, data);
			return -ECONNREFUSED;
		}
		if (type == NBD_REP_ACK)
			return have_export ? 0 : -EPROTO;
		if (type != NBD_REP_INFO || len < sizeof(info))
			return -EPROTO;
		memcpy(&info, data, sizeof(info));
		if (be16toh(info) != NBD_INFO_EXPORT)
			continue;
		if (len != sizeof(info) + sizeof(size) + sizeof(flags))
			return -EPROTO;
		memcpy(&size, data + sizeof(info), sizeof(size));
		memcpy(&flags, data + sizeof(info) + sizeof(size), sizeof(flags));
		export->size = be64toh(size);
		export->flags = be16toh(flags);
		have_export = true;
	}
}

/* The fd of a connection on which requests can be sent, or an error. */
static int nbd_connect(const struct nbd_ctx *ctx, struct nbd_export *export)
{
	int fd, ret;

	if (ctx->unix_path)
		fd = nbd_connect_unix(ctx->unix_path);
	else
		fd = nbd_connect_tcp(ctx->host, ctx->port);
	if (fd < 0) {
		ublk_err("nbd: can't connect: %s\n", strerror(-fd));
		return fd;
	}

	nbd_set_timeout(fd, NBD_HANDSHAKE_SECS);
	ret = nbd_greet(fd);
	if (!ret)
		ret = nbd_go(fd, ctx->export_name, export);
	if (ret) {
		ublk_err("nbd: the handshake failed: %s\n", strerror(-ret));
		close(fd);
		return ret;
	}
	nbd_set_timeout(fd, 0);
	return fd;
}

static void nbd_disconnect(struct nbd *nbd)
{
	const struct nbd_request disc = {
		.magic = htobe32(NBD_REQUEST_MAGIC),
		.type = htobe32(NBD_CMD_DISC),
	};
	unsigned int i;

	for (i = 0; i < nbd->nr_conns; i++) {
		/* nobody is left who cares whether it arrives */
		send(nbd->conns[i].fd, &disc, sizeof(disc), MSG_NOSIGNAL | MSG_DONTWAIT);
		close(nbd->conns[i].fd);
	}
	free(nbd);
}

/* One connection for each queue; all of them have to see the same device. */
static int nbd_connect_all(const struct nbd_ctx *ctx, struct nbd *nbd, unsigned int nr)
{
	struct nbd_export export;
	int fd;

	while (nbd->nr_conns < nr) {
		fd = nbd_connect(ctx, &export);
		if (fd < 0)
			return fd;
		nbd->conns[nbd->nr_conns].fd = fd;
		if (!nbd->nr_conns++) {
			nbd->size = export.size;
			nbd->flags = export.flags;
		} else if (nbd->size != export.size || nbd->flags != export.flags) {
			ublk_err("nbd: the export has changed\n");
			return -ESTALE;
		}
	}

	/* or a flush would not be of what was written on another connection */
	if (nr > 1 && !(nbd->flags & NBD_FLAG_CAN_MULTI_CONN)) {
		ublk_err("nbd: the server takes one connection, that is one queue (-q 1)\n");
		return -EINVAL;
	}
	if (nbd->size < 512) {
		ublk_err("nbd: the export has no block\n");
		return -EINVAL;
	}
	return 0;
}

static void nbd_set_params(const struct nbd *nbd, struct ublk_dev *dev)
{
	struct ublk_params *p = &dev->tgt.params;

	dev->tgt.dev_size = nbd->size & ~511ULL;
	*p = (struct ublk_params) {
		.types = UBLK_PARAM_TYPE_BASIC,
		.basic = {
			.logical_bs_shift	= 9,
			.physical_bs_shift	= 12,
			.io_opt_shift		= 12,
			.io_min_shift		= 9,
			.max_sectors		= dev->dev_info.max_io_buf_bytes >> 9,
			.dev_sectors		= nbd->size >> 9,
		},
	};
	if (nbd->flags & NBD_FLAG_READ_ONLY)
		p->basic.attrs |= UBLK_ATTR_READ_ONLY;
	if (nbd->flags & NBD_FLAG_ROTATIONAL)
		p->basic.attrs |= UBLK_ATTR_ROTATIONAL;
	if (nbd->flags & NBD_FLAG_SEND_FLUSH) {
		p->basic.attrs |= UBLK_ATTR_VOLATILE_CACHE;
		if (nbd->flags & NBD_FLAG_SEND_FUA)
			p->basic.attrs |= UBLK_ATTR_FUA;
	}
	if (nbd->flags & NBD_FLAG_SEND_TRIM) {
		p->types |= UBLK_PARAM_TYPE_DISCARD;
		p->discard = (struct ublk_param_discard) {
			.discard_granularity	= 4096,
			.max_discard_sectors	= NBD_MAX_SECTORS,
			.max_discard_segments	= 1,
		};
	}
}

static int ublk_nbd_tgt_init(const struct dev_ctx *ctx, struct ublk_dev *dev)
{
	const struct ublksrv_ctrl_dev_info *info = &dev->dev_info;
	struct nbd *nbd;
	int ret;

	if (ctx->auto_zc_fallback) {
		ublk_err("%s: not support auto_zc_fallback\n", __func__);
		return -EINVAL;
	}
	if (ctx->metadata_size) {
		ublk_err("%s: integrity not supported\n", __func__);
		return -EINVAL;
	}
	if (ctx->nbd.send_zc && !(info->flags & UBLK_F_FUSED_CMD)) {
		ublk_err("%s: --nbd_send_zc needs --fused\n", __func__);
		return -EINVAL;
	}
	if (info->flags & UBLK_F_SHMEM_ZC) {
		ublk_err("%s: shmem_zc not supported\n", __func__);
		return -EINVAL;
	}
	if (ctx->per_io_tasks) {
		ublk_err("%s: a queue's connection is one thread's\n", __func__);
		return -EINVAL;
	}
	if (dev->tgt.nr_backing_files) {
		ublk_err("%s: there are no backing files\n", __func__);
		return -EINVAL;
	}

	nbd = calloc(1, sizeof(*nbd) + info->nr_hw_queues * sizeof(nbd->conns[0]));
	if (!nbd)
		return -ENOMEM;
	ret = nbd_connect_all(&ctx->nbd, nbd, info->nr_hw_queues);
	if (ret) {
		nbd_disconnect(nbd);
		return ret;
	}

	nbd_set_params(nbd, dev);
	/* a command for each tag, be it ublk's or for its buffer, a SEND and a RECV */
	dev->tgt.sq_depth = info->queue_depth + 2;
	dev->tgt.cq_depth = info->queue_depth + 2;
	nbd->send_zc = ctx->nbd.send_zc;
	dev->private_data = nbd;
	return 0;
}

static void ublk_nbd_tgt_deinit(struct ublk_dev *dev)
{
	nbd_disconnect(dev->private_data);
}

static void ublk_nbd_cmd_line(struct dev_ctx *ctx, int argc, char *argv[])
{
	static const struct option longopts[] = {
		{ "nbd_host",	1,	NULL,  0  },
		{ "nbd_port",	1,	NULL,  0  },
		{ "nbd_unix",	1,	NULL,  0  },
		{ "nbd_export",	1,	NULL,  0  },
		{ "nbd_send_zc",	1,	NULL,  0  },
		{ 0, 0, 0, 0 }
	};
	struct nbd_ctx *nbd = &ctx->nbd;
	int option_idx, opt;

	*nbd = (struct nbd_ctx) {
		.host		= "localhost",
		.port		= "10809",
		.export_name	= "",
	};
	while ((opt = getopt_long(argc, argv, "",
				  longopts, &option_idx)) != -1) {
		switch (opt) {
		case 0:
			if (!strcmp(longopts[option_idx].name, "nbd_host"))
				nbd->host = optarg;
			if (!strcmp(longopts[option_idx].name, "nbd_port"))
				nbd->port = optarg;
			if (!strcmp(longopts[option_idx].name, "nbd_unix"))
				nbd->unix_path = optarg;
			if (!strcmp(longopts[option_idx].name, "nbd_export"))
				nbd->export_name = optarg;
			if (!strcmp(longopts[option_idx].name, "nbd_send_zc"))
				nbd->send_zc = atoi(optarg);
		}
	}
}

static void ublk_nbd_usage(const struct ublk_tgt_ops *ops)
{
	printf("\tnbd: [--nbd_host host (default localhost)] [--nbd_port port (default 10809)]\n"
	       "\t     [--nbd_unix path] [--nbd_export name (default '')]\n"
	       "\t     [--nbd_send_zc 1]\n");
}

const struct ublk_tgt_ops nbd_tgt_ops = {
	.name = "nbd",
	.init_tgt = ublk_nbd_tgt_init,
	.deinit_tgt = ublk_nbd_tgt_deinit,
	.queue_io = ublk_nbd_queue_io,
	.tgt_io_done = ublk_nbd_io_done,
	.parse_cmd_line = ublk_nbd_cmd_line,
	.usage = ublk_nbd_usage,
};
