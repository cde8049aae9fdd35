// SPDX-License-Identifier: GPL-2.0
/*
 * RECV and RECVMSG with MSG_WAITALL that get their data in two parts, from a
 * protocol that fails behind the first one, when it has been given more memory
 * than it has filled. Nothing is left out between the parts. What they have to
 * be is what recv() gets.
 */
#include <linux/if_alg.h>
#include <sys/socket.h>

#include "iou_test.h"
#include "kselftest_harness.h"

/* PART bytes are what an AF_ALG socket hands out at once, by default */
#define PART		((int)page_size())
#define LEN		(2 * PART)

FIXTURE(recv) {
	struct ring ring;
	int sock, ref;
	unsigned char *got, *want;
};

FIXTURE_VARIANT(recv) {
	unsigned int op;
	bool fixed;
};

FIXTURE_VARIANT_ADD(recv, plain) {
	.op = IORING_OP_RECV,
};

FIXTURE_VARIANT_ADD(recv, fixed) {
	.op = IORING_OP_RECV,
	.fixed = true,
};

FIXTURE_VARIANT_ADD(recv, msg) {
	.op = IORING_OP_RECVMSG,
};

/* A socket that encrypts: it, -ENOENT if there is no such thing, or -errno */
static int open_xts(void)
{
	struct sockaddr_alg sa = {
		.salg_family = AF_ALG,
		.salg_type = "skcipher",
		.salg_name = "xts(aes)",
	};
	unsigned char key[32];
	int fd, sock, small = 0;

	fill_pattern(key, sizeof(key), 1);
	fd = socket(AF_ALG, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return errno == EAFNOSUPPORT ? -ENOENT : -errno;
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) ||
	    setsockopt(fd, SOL_ALG, ALG_SET_KEY, key, sizeof(key)))
		sock = -errno;
	else
		sock = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	close(fd);
	if (sock >= 0 &&
	    setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)))
		return -errno;
	return sock;
}

/* @len bytes to encrypt */
static ssize_t put(int sock, unsigned int len)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(__u32)) +
			 CMSG_SPACE(sizeof(struct af_alg_iv) + 16)];
	} ctl = { };
	struct iovec iov = { .iov_base = malloc(len), .iov_len = len };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = &ctl, .msg_controllen = sizeof(ctl),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	ssize_t ret;

	if (!iov.iov_base)
		return -ENOMEM;
	fill_pattern(iov.iov_base, len, 2);
	c->cmsg_level = SOL_ALG;
	c->cmsg_type = ALG_SET_OP;
	c->cmsg_len = CMSG_LEN(sizeof(__u32));
	*(__u32 *)CMSG_DATA(c) = ALG_OP_ENCRYPT;
	c = CMSG_NXTHDR(&msg, c);
	c->cmsg_level = SOL_ALG;
	c->cmsg_type = ALG_SET_IV;
	c->cmsg_len = CMSG_LEN(sizeof(struct af_alg_iv) + 16);
	((struct af_alg_iv *)CMSG_DATA(c))->ivlen = 16;
	ret = sendmsg(sock, &msg, 0);
	free(iov.iov_base);
	return ret;
}

FIXTURE_SETUP(recv)
{
	/* task work, and with it the second part, when the test wants it */
	if (!SETUP_RING(&self->ring, 8, IORING_SETUP_DEFER_TASKRUN |
			IORING_SETUP_SINGLE_ISSUER, variant->op))
		return;
	self->sock = open_xts();
	if (self->sock == -ENOENT)
		SKIP(return, "no AF_ALG");
	ASSERT_LE(0, self->sock);
	self->ref = open_xts();
	ASSERT_LE(0, self->ref);
	self->got = mmap(NULL, 2 * LEN, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->got);
	self->want = self->got + LEN;
	memset(self->got, POISON, LEN);
	ASSERT_EQ(0, ring_buffers_sparse(&self->ring, 1));
	ASSERT_EQ(1, ring_buffer_set(&self->ring, 0, self->got, LEN));
}

FIXTURE_TEARDOWN(recv)
{
	ring_exit(&self->ring);
	if (!self->got)
		return;
	munmap(self->got, 2 * LEN);
	close(self->sock);
	close(self->ref);
}

TEST_F(recv, no_gap)
{
	struct iovec iov = { .iov_base = self->got, .iov_len = LEN };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct io_uring_sqe *sqe = ring_sqe(&self->ring, variant->op);

	/* 15 bytes are too few, which it finds out when it has memory for them */
	ASSERT_EQ(PART + 15, put(self->sock, PART + 15));
	sqe->fd = self->sock;
	sqe->addr = u64_ptr(self->got);
	sqe->len = LEN;
	sqe->msg_flags = MSG_WAITALL;
	if (variant->fixed)
		sqe->ioprio = IORING_RECVSEND_FIXED_BUF;
	if (variant->op == IORING_OP_RECVMSG) {
		sqe->addr = u64_ptr(&msg);
		sqe->len = 1;
	}
	ASSERT_EQ(1, ring_submit(&self->ring));
	ASSERT_EQ(0, ring_ready(&self->ring));
	ASSERT_EQ(PART, put(self->sock, PART));
	ASSERT_EQ(LEN, ring_result(&self->ring));

	ASSERT_EQ(PART + 15, put(self->ref, PART + 15));
	ASSERT_EQ(PART, recv(self->ref, self->want, LEN, 0));
	ASSERT_EQ(PART, put(self->ref, PART));
	ASSERT_EQ(PART, recv(self->ref, self->want + PART, PART, 0));
	EXPECT_EQ(0, memcmp(self->want, self->got, LEN));
}

TEST_HARNESS_MAIN
