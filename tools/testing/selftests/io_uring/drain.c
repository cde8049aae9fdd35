// SPDX-License-Identifier: GPL-2.0
/*
 * IOSQE_IO_DRAIN before, on and after zerocopy sends. A zerocopy send is two
 * requests from its preparation on, itself and its notification, and a drain
 * has to wait for both and to be kept waiting by neither.
 */
#include <netinet/in.h>
#include <sys/socket.h>

#include "iou_test.h"
#include "kselftest_harness.h"

#define LEN		3000
#define UD_NOTIF	100

FIXTURE(drain) {
	struct ring ring;
	unsigned int flags;		/* sqe->flags of every request */
	int sock[2];			/* sender, receiver */
	int pipe[2];
	unsigned char data[LEN];
	unsigned char got[LEN + GUARD];
	struct iovec iov;
	struct msghdr msg;
	char byte;
};

FIXTURE_VARIANT(drain) {
	struct ring_type type;
	bool msg;
};

FIXTURE_VARIANT_ADD(drain, plain) RING_PLAIN;
FIXTURE_VARIANT_ADD(drain, coop) RING_COOP;
FIXTURE_VARIANT_ADD(drain, defer) RING_DEFER;
FIXTURE_VARIANT_ADD(drain, sqpoll) RING_SQPOLL;
FIXTURE_VARIANT_ADD(drain, iowq) RING_IOWQ;
FIXTURE_VARIANT_ADD(drain, sendmsg) { .type = { .setup = 0 }, .msg = true };
FIXTURE_VARIANT_ADD(drain, sendmsg_defer) {
	.type = { .setup = IORING_SETUP_DEFER_TASKRUN |
			   IORING_SETUP_SINGLE_ISSUER },
	.msg = true,
};

FIXTURE_SETUP(drain)
{
	struct sockaddr_in sin = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t len = sizeof(sin);

	if (!SETUP_RING(&self->ring, RING_ENTRIES, variant->type.setup,
			IORING_OP_SENDMSG_ZC))
		return;
	ASSERT_EQ(0, pipe(self->pipe));
	/* datagrams: each send arrives as it was sent, in the order of sends */
	self->sock[0] = socket(AF_INET, SOCK_DGRAM, 0);
	self->sock[1] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	ASSERT_LE(0, self->sock[0]);
	ASSERT_LE(0, self->sock[1]);
	ASSERT_EQ(0, bind(self->sock[1], (void *)&sin, sizeof(sin)));
	ASSERT_EQ(0, getsockname(self->sock[1], (void *)&sin, &len));
	ASSERT_EQ(0, connect(self->sock[0], (void *)&sin, sizeof(sin)));
	self->flags = variant->type.sqe_flags;
	self->iov.iov_base = self->data;
	self->iov.iov_len = LEN;
	self->msg.msg_iov = &self->iov;
	self->msg.msg_iovlen = 1;
	fill_pattern(self->data, LEN, variant->type.setup);
}

FIXTURE_TEARDOWN(drain)
{
	ring_exit(&self->ring);
	close(self->pipe[0]);
	close(self->pipe[1]);
	close(self->sock[0]);
	close(self->sock[1]);
}

static void nop(struct _test_data_drain *self, unsigned int flags, __u64 ud)
{
	struct io_uring_sqe *sqe = ring_sqe(&self->ring, IORING_OP_NOP);

	sqe->flags = self->flags | flags;
	sqe->user_data = ud;
}

/* The notification's CQE is told from the send's */
static struct io_uring_sqe *send_zc(struct _test_data_drain *self,
				    const struct _fixture_variant_drain *variant,
				    unsigned int flags, __u64 ud)
{
	struct io_uring_sqe *sqe;

	if (variant->msg) {
		sqe = ring_sqe(&self->ring, IORING_OP_SENDMSG_ZC);
		sqe->addr = u64_ptr(&self->msg);
		sqe->len = 1;
	} else {
		sqe = ring_sqe(&self->ring, IORING_OP_SEND_ZC);
		sqe->addr = u64_ptr(self->data);
		sqe->len = LEN;
	}
	sqe->fd = self->sock[0];
	sqe->flags = self->flags | flags;
	sqe->user_data = ud;
	sqe->addr3 = ud + UD_NOTIF;
	return sqe;
}

/* A request that is in flight until feed() */
static void read_pipe(struct _test_data_drain *self, __u64 ud)
{
	struct io_uring_sqe *sqe = ring_read(&self->ring, self->pipe[0],
					     &self->byte, 1);

	sqe->flags = self->flags;
	sqe->user_data = ud;
}

static int feed(struct _test_data_drain *self)
{
	return write(self->pipe[1], "x", 1) == 1 ? 0 : -errno;
}

/* One datagram is there, all of it: its bytes, or why it isn't right */
static int received(struct _test_data_drain *self,
		    const struct _fixture_variant_drain *variant)
{
	struct pollfd pfd = { .fd = self->sock[1], .events = POLLIN };
	ssize_t ret;

	memset(self->got, POISON, sizeof(self->got));
	if (poll(&pfd, 1, WAIT_MS) != 1)
		return step_failed("no datagram", -ETIME);
	ret = recv(self->sock[1], self->got, sizeof(self->got), 0);
	if (ret < 0)
		return -errno;
	if (check_pattern(self->got, LEN, variant->type.setup) != LEN ||
	    !all_bytes(self->got + LEN, POISON, GUARD))
		return step_failed("other data", -EBADMSG);
	return ret;
}

static bool nothing_received(struct _test_data_drain *self)
{
	struct pollfd pfd = { .fd = self->sock[1], .events = POLLIN };

	return poll(&pfd, 1, 30) == 0;
}

/* The next CQE is the one of @ud, with result @res and @cflags */
static int next_is(struct ring *r, __u64 ud, int res, unsigned int cflags)
{
	struct io_uring_cqe cqe;
	int ret = ring_wait(r, &cqe);

	if (ret)
		return ret;
	if (cqe.user_data != ud || cqe.res != res || cqe.flags != cflags) {
		fprintf(stderr, "# user_data %llu res %d flags %x\n",
			(unsigned long long)cqe.user_data, cqe.res, cqe.flags);
		return -EBADMSG;
	}
	return 0;
}

/* A send that was done: both of its CQEs, and nothing in between */
static int sent(struct ring *r, __u64 ud)
{
	int ret = next_is(r, ud, LEN, IORING_CQE_F_MORE);

	return ret ? ret : next_is(r, ud + UD_NOTIF, 0, IORING_CQE_F_NOTIF);
}

/* One that was not */
static int not_sent(struct ring *r, __u64 ud, int err)
{
	int ret = next_is(r, ud, err, IORING_CQE_F_MORE);

	return ret ? ret : next_is(r, ud + UD_NOTIF, 0, IORING_CQE_F_NOTIF);
}

TEST_F(drain, on_send)
{
	struct ring *r = &self->ring;

	nop(self, 0, 1);
	send_zc(self, variant, IOSQE_IO_DRAIN, 2);
	ASSERT_EQ(2, ring_submit(r));
	ASSERT_EQ(0, next_is(r, 1, 0, 0));
	ASSERT_EQ(0, sent(r, 2));
	EXPECT_EQ(LEN, received(self, variant));
	EXPECT_TRUE(ring_quiet(r));
}

TEST_F(drain, before_send)
{
	struct ring *r = &self->ring;

	nop(self, IOSQE_IO_DRAIN, 1);
	send_zc(self, variant, 0, 2);
	ASSERT_EQ(2, ring_submit(r));
	ASSERT_EQ(0, next_is(r, 1, 0, 0));
	ASSERT_EQ(0, sent(r, 2));
	EXPECT_EQ(LEN, received(self, variant));
	EXPECT_TRUE(ring_quiet(r));
}

/* The notification is a part of what is waited for */
TEST_F(drain, after_send)
{
	struct ring *r = &self->ring;

	send_zc(self, variant, 0, 1);
	nop(self, IOSQE_IO_DRAIN, 2);
	ASSERT_EQ(2, ring_submit(r));
	ASSERT_EQ(0, sent(r, 1));
	ASSERT_EQ(0, next_is(r, 2, 0, 0));
	EXPECT_EQ(LEN, received(self, variant));
}

/* A send isn't started before what it has to wait for, and is afterwards */
TEST_F(drain, waits)
{
	struct ring *r = &self->ring;
	unsigned int i;

	read_pipe(self, 1);
	for (i = 0; i < 4; i++)
		send_zc(self, variant, i == 1 ? IOSQE_IO_DRAIN : 0, i + 2);
	/* what was submitted before the drain is none of its business */
	ASSERT_EQ(5, ring_submit(r));
	ASSERT_EQ(0, sent(r, 2));
	EXPECT_EQ(LEN, received(self, variant));
	EXPECT_TRUE(nothing_received(self));
	EXPECT_TRUE(ring_quiet(r));

	ASSERT_EQ(0, feed(self));
	ASSERT_EQ(0, next_is(r, 1, 1, 0));
	ASSERT_EQ(0, sent(r, 3));
	/* these two may run at the same time */
	for (i = 0; i < 4; i++) {
		struct io_uring_cqe cqe;

		ASSERT_EQ(0, ring_wait(r, &cqe));
		EXPECT_EQ(cqe.flags & IORING_CQE_F_NOTIF ? 0 : LEN, cqe.res);
	}
	for (i = 0; i < 3; i++)
		EXPECT_EQ(LEN, received(self, variant));
	EXPECT_TRUE(ring_quiet(r));
}

/* Several sends of one link, which is deferred as a whole */
TEST_F(drain, link)
{
	struct ring *r = &self->ring;
	unsigned int i;

	read_pipe(self, 1);
	send_zc(self, variant, IOSQE_IO_DRAIN | IOSQE_IO_LINK, 2);
	send_zc(self, variant, IOSQE_IO_LINK, 3);
	nop(self, IOSQE_IO_LINK, 4);
	send_zc(self, variant, 0, 5);
	nop(self, IOSQE_IO_DRAIN, 6);
	ASSERT_EQ(6, ring_submit(r));
	EXPECT_TRUE(ring_quiet(r));
	ASSERT_EQ(0, feed(self));

	/* a notification may be later than the next request of the link */
	for (i = 0; i < 8; i++) {
		struct io_uring_cqe cqe;

		ASSERT_EQ(0, ring_wait(r, &cqe));
		EXPECT_NE(6, cqe.user_data);
		EXPECT_LE(0, cqe.res);
	}
	ASSERT_EQ(0, next_is(r, 6, 0, 0));
	for (i = 0; i < 3; i++)
		EXPECT_EQ(LEN, received(self, variant));
	EXPECT_TRUE(nothing_received(self));
}

/* In the middle of a link the drain is that of its head */
TEST_F(drain, middle_of_link)
{
	struct ring *r = &self->ring;
	unsigned int i;

	read_pipe(self, 1);
	nop(self, IOSQE_IO_LINK, 2);
	send_zc(self, variant, IOSQE_IO_DRAIN | IOSQE_IO_LINK, 3);
	send_zc(self, variant, 0, 4);
	send_zc(self, variant, 0, 5);
	ASSERT_EQ(5, ring_submit(r));
	EXPECT_TRUE(ring_quiet(r));
	EXPECT_TRUE(nothing_received(self));
	ASSERT_EQ(0, feed(self));
	for (i = 0; i < 8; i++) {
		struct io_uring_cqe cqe;

		ASSERT_EQ(0, ring_wait(r, &cqe));
		EXPECT_LE(0, cqe.res);
	}
	for (i = 0; i < 3; i++)
		EXPECT_EQ(LEN, received(self, variant));
	EXPECT_TRUE(ring_quiet(r));
}

/*
 * A send that its preparation refuses, before or after it has allocated the
 * notification, alone or in a link, neither waits nor makes others wait.
 */
TEST_F(drain, refused)
{
	struct ring *r = &self->ring;
	struct io_uring_cqe cqe;
	unsigned int i;

	read_pipe(self, 1);
	send_zc(self, variant, IOSQE_IO_DRAIN, 2)->__pad2[0] = 1;
	ASSERT_EQ(2, ring_submit(r));
	ASSERT_EQ(0, next_is(r, 2, -EINVAL, 0));

	send_zc(self, variant, IOSQE_IO_DRAIN, 3)->ioprio = 1 << 15;
	ASSERT_EQ(1, ring_submit(r));
	ASSERT_EQ(0, not_sent(r, 3, -EINVAL));

	send_zc(self, variant, IOSQE_IO_DRAIN | IOSQE_IO_LINK, 4);
	send_zc(self, variant, 0, 5)->ioprio = 1 << 15;
	ASSERT_EQ(2, ring_submit(r));
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, ring_wait(r, &cqe));
		EXPECT_EQ(cqe.user_data == 4 ? -ECANCELED :
			  cqe.user_data == 5 ? -EINVAL : 0, cqe.res);
	}
	EXPECT_TRUE(nothing_received(self));

	send_zc(self, variant, IOSQE_IO_DRAIN, 6);
	ASSERT_EQ(1, ring_submit(r));
	EXPECT_TRUE(ring_quiet(r));
	ASSERT_EQ(0, feed(self));
	ASSERT_EQ(0, next_is(r, 1, 1, 0));
	ASSERT_EQ(0, sent(r, 6));
	EXPECT_EQ(LEN, received(self, variant));
}

/*
 * Deferred sends are cancelled as the process that submitted them calls
 * exec(). What is counted of them must go, or all drains to come are wrong.
 */
TEST_F(drain, canceled)
{
	struct ring *r = &self->ring;
	struct io_uring_cqe cqe;
	unsigned int i;
	int status;
	pid_t pid;

	if (variant->type.setup & (IORING_SETUP_SINGLE_ISSUER |
				   IORING_SETUP_SQPOLL)) {
		TH_LOG("n/a: %s", "there is but one submitter");
		return;
	}
	read_pipe(self, 1);
	ASSERT_EQ(1, ring_submit(r));
	send_zc(self, variant, IOSQE_IO_DRAIN | IOSQE_IO_LINK, 2);
	send_zc(self, variant, 0, 3);
	ASSERT_EQ(2, ring_publish(r));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (ring_enter(r, 2, 0, 0) == 2)
			execl("/bin/true", "true", NULL);
		_exit(1);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, ring_wait(r, &cqe));
		EXPECT_NE(1, cqe.user_data);
		EXPECT_EQ(cqe.flags & IORING_CQE_F_NOTIF ? 0 : -ECANCELED,
			  cqe.res);
	}
	EXPECT_TRUE(nothing_received(self));

	/* neither too early nor never */
	send_zc(self, variant, IOSQE_IO_DRAIN, 4);
	ASSERT_EQ(1, ring_submit(r));
	EXPECT_TRUE(ring_quiet(r));
	ASSERT_EQ(0, feed(self));
	ASSERT_EQ(0, next_is(r, 1, 1, 0));
	ASSERT_EQ(0, sent(r, 4));
	EXPECT_EQ(LEN, received(self, variant));
}

/* The ring goes away with deferred sends */
TEST_F(drain, ring_exit)
{
	struct ring *r = &self->ring;

	read_pipe(self, 1);
	send_zc(self, variant, IOSQE_IO_DRAIN | IOSQE_IO_LINK, 2);
	send_zc(self, variant, 0, 3);
	ASSERT_EQ(3, ring_submit(r));
	EXPECT_TRUE(ring_quiet(r));
	ring_exit(r);
	EXPECT_TRUE(nothing_received(self));
}

TEST_HARNESS_MAIN
