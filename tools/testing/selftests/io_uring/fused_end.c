// SPDX-License-Identifier: GPL-2.0
/*
 * Servers of ublk devices that end before they have started, or while the data of
 * a request is lent to members that nothing will ever complete. Clients get an
 * error, devices can be deleted, and neither takes long.
 */
#include <linux/fuse.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "iou_net.h"
#include "iou_ublk.h"
#include "kselftest_harness.h"

#define DEPTH		8
#define SEED		3

static bool wait_for(pid_t pid)
{
	__u64 end = now_ms() + WAIT_MS;
	int status;

	while (now_ms() < end) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return true;
		usleep(1000);
	}
	return false;
}

/* What a control command returns, if it doesn't take too long: -ETIME */
static int dev_control(__u32 id, unsigned int op, __u64 data)
{
	int fd = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);
	struct ring r;
	int ret;

	if (fd < 0)
		return -errno;
	ret = ring_init(&r, 1, IORING_SETUP_SQE128);
	if (!ret)
		ret = ublk_ctrl(&r, fd, op, id, NULL, 0, 0, data);
	ring_exit(&r);
	close(fd);
	return ret;
}

static bool is_gone(__u32 id)
{
	char name[32];

	snprintf(name, sizeof(name), "/dev/ublkc%u", id);
	return access(name, F_OK) && errno == ENOENT;
}

static int fetch(struct ublk_dev *d, unsigned int from, unsigned int to)
{
	unsigned int i;
	int ret;

	for (i = from; i < to; i++) {
		struct io_uring_sqe *sqe =
			ublk_io_cmd(d, UBLK_U_IO_FETCH_REQ, -1);

		ublk_io_cmd_of(sqe)->tag = i;
		sqe->user_data = i;
	}
	ret = ring_submit(&d->ring);
	return ret < 0 ? ret : 0;
}

/* --------------------------------------------- devices that haven't started */

FIXTURE(unstarted) {
	struct ublk_dev dev;
	int file;
};

FIXTURE_VARIANT(unstarted) {
	unsigned int setup, fetched;
};

#define UNSTARTED(name, type) \
FIXTURE_VARIANT_ADD(unstarted, name##_none) { .setup = (type) }; \
FIXTURE_VARIANT_ADD(unstarted, name##_half) { \
	.setup = (type), .fetched = DEPTH / 2, \
}; \
FIXTURE_VARIANT_ADD(unstarted, name##_all) { \
	.setup = (type), .fetched = DEPTH, \
}

UNSTARTED(plain, 0);
UNSTARTED(defer, IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER);
UNSTARTED(sqpoll, IORING_SETUP_SQPOLL);

static int server_init(struct ublk_dev *d, unsigned int setup)
{
	return ring_init(&d->ring, RING_ENTRIES, setup | IORING_SETUP_SQE_MIXED);
}

FIXTURE_SETUP(unstarted)
{
	struct ublk_dev *d = &self->dev;
	unsigned char *data;
	int ret;

	d->depth = DEPTH;
	ASSERT_EQ(0, server_init(d, variant->setup));
	if (!ring_has_op(&d->ring, IORING_OP_FUSED_CMD))
		SKIP(return, "kernel has no IORING_OP_FUSED_CMD");
	ret = ublk_dev_add(d, UBLK_F_FUSED_CMD);
	if (ret == -ENOENT)
		SKIP(return, "no /dev/ublk-control");
	ASSERT_EQ(0, ret);
	self->file = syscall(__NR_memfd_create, "ublk", MFD_CLOEXEC);
	ASSERT_LE(0, self->file);
	data = malloc(REQ_SIZE);
	ASSERT_NE(NULL, data);
	fill_pattern(data, REQ_SIZE, SEED);
	ASSERT_EQ(REQ_SIZE, write(self->file, data, REQ_SIZE));
	free(data);
	ASSERT_EQ(0, ublk_dev_prep(d, NULL));
	ASSERT_EQ(0, fetch(d, 0, variant->fetched));
}

FIXTURE_TEARDOWN(unstarted)
{
	ublk_dev_exit(&self->dev);
	close(self->file);
}

/* The data of request @tag, which there isn't */
static int lend(struct ublk_dev *d, unsigned int op, unsigned int tag)
{
	struct io_uring_sqe *sqe, *m[1];

	sqe = ublk_fused(&d->ring, d->cdev, op, 1, m);
	ublk_io_cmd_of(sqe)->tag = tag;
	sqe->user_data = DEPTH;
	set_rw(m[0], IORING_OP_READ, 0, 0, 512, 0);
	return ring_run(&d->ring);
}

/* A server that is new to the device serves @d, as if nothing had happened */
static void serve(struct __test_metadata *_metadata, struct ublk_dev *d,
		  unsigned int setup, int file)
{
	struct io_uring_sqe *sqe, *m[1];
	struct io_uring_cqe cqe;

	ASSERT_EQ(0, server_init(d, setup));
	d->cdev = ublk_open("/dev/ublkc%u", d->id, O_RDWR);
	ASSERT_LE(0, d->cdev);
	munmap(d->data, REQ_SIZE);
	ASSERT_EQ(0, ublk_dev_prep(d, NULL));
	ASSERT_EQ(0, fetch(d, 0, DEPTH));
	ASSERT_EQ(0, ublk_dev_go(d));

	memset(d->data, POISON, REQ_SIZE);
	d->op = CLIENT_READ;
	d->moved = NOT_YET;
	ASSERT_EQ(0, pthread_create(&d->client, NULL, ublk_client_thread, d));
	ASSERT_EQ(0, ring_wait(&d->ring, &cqe));
	ASSERT_EQ(0, cqe.res);
	ASSERT_GT(DEPTH, cqe.user_data);
	ASSERT_EQ(REQ_SIZE >> 9, d->iod[cqe.user_data].nr_sectors);
	sqe = ublk_fused(&d->ring, d->cdev, UBLK_U_IO_FUSED_COMMIT_AND_FETCH, 1,
			 m);
	ublk_io_cmd_of(sqe)->tag = cqe.user_data;
	set_rw(m[0], IORING_OP_READ, file, 0, REQ_SIZE, 0);
	ASSERT_LT(0, ring_submit(&d->ring));
	ASSERT_EQ(REQ_SIZE, ublk_request_end(d));
	EXPECT_EQ(REQ_SIZE, check_pattern(d->data, REQ_SIZE, SEED));
}

/*
 * STOP_DEV takes back what was fetched, and no more is fetched, lent or started
 * until the server has closed the device.
 */
TEST_F(unstarted, stop)
{
	struct ublk_dev *d = &self->dev;
	unsigned int i, n = variant->fetched;
	struct io_uring_cqe cqe;

	ASSERT_EQ(0, dev_control(d->id, UBLK_U_CMD_STOP_DEV, 0));
	for (i = 0; i < n; i++) {
		ASSERT_EQ(0, ring_wait(&d->ring, &cqe));
		EXPECT_EQ(-ENODEV, cqe.res);
	}
	EXPECT_TRUE(ring_quiet(&d->ring));
	for (i = 0; i < DEPTH; i++) {
		/* io->task is that of who has fetched */
		EXPECT_EQ(i < n ? -EBUSY : -EINVAL,
			  lend(d, UBLK_U_IO_FUSED_SUBMIT_IO, i));
		EXPECT_EQ(i < n ? -EBUSY : -EINVAL,
			  lend(d, UBLK_U_IO_FUSED_COMMIT_AND_FETCH, i));
	}
	ASSERT_EQ(0, fetch(d, 0, DEPTH));
	for (i = 0; i < DEPTH; i++)
		EXPECT_EQ(-ENODEV, ring_result(&d->ring));
	EXPECT_EQ(-EBUSY, ublk_dev_ctrl(d, UBLK_U_CMD_START_DEV, NULL, 0,
					getpid()));
	ublk_dev_abandon(d);
	serve(_metadata, d, variant->setup, self->file);
}

/* A server that has fetched a part of it leaves, and another one comes */
TEST_F(unstarted, leave)
{
	ublk_dev_abandon(&self->dev);
	serve(_metadata, &self->dev, variant->setup, self->file);
}

/* A control command that waits for something */
struct waiter {
	pthread_t thread;
	unsigned int op;
	__u32 id;
	__u64 data;
	int res;
};

static void *waiter_thread(void *arg)
{
	struct waiter *w = arg;

	__atomic_store_n(&w->res, dev_control(w->id, w->op, w->data),
			 __ATOMIC_RELEASE);
	return NULL;
}

static int waiter_begin(struct waiter *w, __u32 id, unsigned int op, __u64 data)
{
	*w = (struct waiter) {
		.op = op, .id = id, .data = data, .res = NOT_YET,
	};
	return -pthread_create(&w->thread, NULL, waiter_thread, w);
}

/* Its result, or -ETIME */
static int waiter_end(struct waiter *w)
{
	pthread_join(w->thread, NULL);
	return w->res;
}

/* DEL_DEV, with a server that is there until its commands are taken away */
TEST_F(unstarted, delete)
{
	struct ublk_dev *d = &self->dev;
	struct io_uring_cqe cqe;
	struct io_uring_sqe *sqe;
	struct waiter del;
	unsigned int i;

	ASSERT_EQ(0, waiter_begin(&del, d->id, UBLK_U_CMD_DEL_DEV, 0));
	for (i = 0; i < variant->fetched; i++) {
		ASSERT_EQ(0, ring_wait(&d->ring, &cqe));
		EXPECT_EQ(-ENODEV, cqe.res);
	}
	/* one more, if there is any: now or in a moment */
	if (variant->fetched < DEPTH) {
		sqe = ublk_io_cmd(d, UBLK_U_IO_FETCH_REQ, -1);
		ublk_io_cmd_of(sqe)->tag = DEPTH - 1;
		EXPECT_EQ(-ENODEV, ring_run(&d->ring));
	}
	d->added = false;
	ublk_dev_abandon(d);
	EXPECT_EQ(0, waiter_end(&del));
	EXPECT_TRUE(is_gone(d->id));
}

/* START_DEV waits for the rest to be fetched, and gets an answer */
TEST_F(unstarted, start_waits)
{
	struct ublk_dev *d = &self->dev;
	struct waiter start;

	if (variant->fetched == DEPTH)
		return;
	ASSERT_EQ(0, waiter_begin(&start, d->id, UBLK_U_CMD_START_DEV,
				  getpid()));
	usleep(20000);
	ASSERT_EQ(NOT_YET, __atomic_load_n(&start.res, __ATOMIC_ACQUIRE));
	ASSERT_EQ(0, dev_control(d->id, UBLK_U_CMD_STOP_DEV, 0));
	EXPECT_EQ(-EBUSY, waiter_end(&start));
}

/* Also when the server is gone, and the device is to go */
TEST_F(unstarted, start_waits_deleted)
{
	struct ublk_dev *d = &self->dev;
	struct waiter start, del;

	if (variant->fetched == DEPTH)
		return;
	ASSERT_EQ(0, waiter_begin(&start, d->id, UBLK_U_CMD_START_DEV,
				  getpid()));
	usleep(20000);
	ublk_dev_abandon(d);
	ASSERT_EQ(NOT_YET, __atomic_load_n(&start.res, __ATOMIC_ACQUIRE));
	ASSERT_EQ(0, waiter_begin(&del, d->id, UBLK_U_CMD_DEL_DEV, 0));
	EXPECT_EQ(-ENODEV, waiter_end(&start));
	EXPECT_EQ(0, waiter_end(&del));
	EXPECT_TRUE(is_gone(d->id));
	d->added = false;
}

/* A server that is killed when it has fetched a part of it */
TEST_F(unstarted, killed)
{
	int ready[2];
	__u32 id = 0;
	pid_t pid;

	ASSERT_EQ(0, pipe(ready));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct ublk_dev d = { .depth = DEPTH };

		if (server_init(&d, variant->setup) ||
		    ublk_dev_add(&d, UBLK_F_FUSED_CMD) ||
		    ublk_dev_prep(&d, NULL) || fetch(&d, 0, variant->fetched) ||
		    write(ready[1], &d.id, sizeof(d.id)) != sizeof(d.id))
			_exit(1);
		/* waits for what is missing, and dies along */
		if (variant->fetched < DEPTH)
			ublk_dev_go(&d);
		pause();
		_exit(0);
	}
	close(ready[1]);
	ASSERT_EQ(sizeof(id), read(ready[0], &id, sizeof(id)));
	close(ready[0]);
	usleep(20000);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	EXPECT_TRUE(wait_for(pid));
	EXPECT_EQ(0, dev_control(id, UBLK_U_CMD_DEL_DEV, 0));
	EXPECT_TRUE(is_gone(id));
}

static void spin(unsigned int n)
{
	while (n--)
		__asm__ volatile("" ::: "memory");
}

/* STOP_DEV takes the command back that the server's ring cancels as it goes */
TEST(stop_and_exit)
{
	struct ublk_dev d = { };
	unsigned int i;
	int ret;

	ret = ublk_dev_add(&d, 0);
	if (ret == -ENOENT)
		SKIP(return, "no /dev/ublk-control");
	ASSERT_EQ(0, ret);
	for (i = 0; i < 200; i++) {
		if (d.cdev < 0)
			d.cdev = ublk_open("/dev/ublkc%u", d.id, O_RDWR);
		ASSERT_LE(0, d.cdev);
		ASSERT_EQ(0, server_init(&d, 0));
		ASSERT_EQ(0, fetch(&d, 0, 1));
		/* its work is somewhere else, and later by no more than this */
		ring_exit(&d.ring);
		spin(i * 200);
		ASSERT_EQ(0, ublk_dev_ctrl(&d, UBLK_U_CMD_STOP_DEV, NULL, 0, 0));
		close(d.cdev);
		d.cdev = -1;
	}
	ublk_dev_exit(&d);
	EXPECT_TRUE(is_gone(d.id));
}

/* ------------------------------------------- members that nothing completes */

/* A file system of one file, whose reads are never answered */
struct fuse {
	char dir[32];
	int dev;
	pid_t pid;
	unsigned int *reads;		/* that it was asked for, shared */
};

static void fuse_attr(struct fuse_attr *attr, __u64 node)
{
	attr->ino = node;
	attr->size = node == FUSE_ROOT_ID ? 0 : REQ_SIZE;
	attr->mode = node == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0644;
	attr->nlink = 1;
	attr->blksize = 4096;
}

static void fuse_answer(struct fuse *f, const struct fuse_in_header *in,
			int error, const void *data, size_t len)
{
	struct fuse_out_header out = {
		.len = sizeof(out) + len, .error = error, .unique = in->unique,
	};
	struct iovec iov[] = {
		{ &out, sizeof(out) }, { (void *)data, len },
	};

	if (writev(f->dev, iov, 2) < 0 && errno != ENOENT)
		_exit(1);
}

static void fuse_handle(struct fuse *f, const struct fuse_in_header *in,
			unsigned int open_flags)
{
	const struct fuse_init_out init = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = REQ_SIZE, .max_write = 4096,
		/* who waits for a folio can be killed */
		.flags = FUSE_ASYNC_READ,
	};
	/* a close doesn't wait for the server, which is nobody's business here */
	const struct fuse_open_out file = {
		.open_flags = open_flags | FOPEN_NOFLUSH,
	};
	struct fuse_entry_out entry = {
		.nodeid = 2, .entry_valid = 1000, .attr_valid = 1000,
	};
	struct fuse_attr_out attr = { .attr_valid = 1000 };

	switch (in->opcode) {
	case FUSE_INIT:
		fuse_answer(f, in, 0, &init, sizeof(init));
		break;
	case FUSE_LOOKUP:
		fuse_attr(&entry.attr, entry.nodeid);
		fuse_answer(f, in, 0, &entry, sizeof(entry));
		break;
	case FUSE_GETATTR:
		fuse_attr(&attr.attr, in->nodeid);
		fuse_answer(f, in, 0, &attr, sizeof(attr));
		break;
	case FUSE_OPEN:
		fuse_answer(f, in, 0, &file, sizeof(file));
		break;
	case FUSE_READ:
		__atomic_fetch_add(f->reads, 1, __ATOMIC_RELEASE);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	case FUSE_FLUSH:
	case FUSE_RELEASE:
		fuse_answer(f, in, 0, NULL, 0);
		break;
	default:
		fuse_answer(f, in, -ENOSYS, NULL, 0);
	}
}

static void fuse_serve(struct fuse *f, unsigned int open_flags)
{
	static char buf[64 * 1024];

	while (read(f->dev, buf, sizeof(buf)) > 0 || errno == EINTR ||
	       errno == ENOENT)
		fuse_handle(f, (void *)buf, open_flags);
	_exit(0);
}

/* The open file, or -errno */
static int fuse_begin(struct fuse *f, unsigned int open_flags)
{
	char opts[64], name[64];
	int fd;

	f->dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (f->dev < 0)
		return -errno;
	strcpy(f->dir, "/tmp/fused_end.XXXXXX");
	f->reads = mmap(NULL, page_size(), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!mkdtemp(f->dir) || f->reads == MAP_FAILED)
		return -errno;
	snprintf(opts, sizeof(opts),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other",
		 f->dev);
	if (mount("fused_end", f->dir, "fuse", 0, opts))
		return -errno;
	f->pid = fork();
	if (!f->pid)
		fuse_serve(f, open_flags);
	/* it goes away with its server */
	close(f->dev);
	snprintf(name, sizeof(name), "%s/file", f->dir);
	fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	/* FUSE learns that it has no poll, which io_uring asks for at each read */
	poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 0);
	return fd;
}

static void fuse_kill(struct fuse *f)
{
	if (f->pid <= 0)
		return;
	kill(f->pid, SIGKILL);
	waitpid(f->pid, NULL, 0);
	f->pid = 0;
}

static void fuse_end(struct fuse *f)
{
	fuse_kill(f);
	if (!f->dir[0])
		return;
	umount2(f->dir, MNT_DETACH);
	rmdir(f->dir);
	munmap(f->reads, page_size());
}

enum stuck {
	RECV_UNIX,		/* from somebody who sends nothing */
	RECV_TCP,
	RECV_REST,		/* who has sent something */
	SEND_UNIX,		/* to somebody who doesn't read */
	READ_PIPE,		/* that nobody writes to */
	READ_FUSE,		/* whose server has the request, and is stopped */
	READ_FUSE_EARLY,	/* whose server was stopped before */
	READ_FUSE_DIRECT,	/* whose server has the memory to fill */
	NR_STUCK,
};

FIXTURE(stuck) {
	/* what members use, and what is held by another process, this one */
	int fd, other;
	struct fuse fuse;
	struct ublk_dev dev;	/* of the client */
};

FIXTURE_VARIANT(stuck) {
	unsigned int setup, sqe_flags, op;
	__u64 flags;
};

#define STUCK(name, type, async, extra) \
FIXTURE_VARIANT_ADD(stuck, name##_submit) { \
	.setup = (type), .sqe_flags = (async), .flags = (extra), \
	.op = UBLK_U_IO_FUSED_SUBMIT_IO, \
}; \
FIXTURE_VARIANT_ADD(stuck, name##_commit) { \
	.setup = (type), .sqe_flags = (async), .flags = (extra), \
	.op = UBLK_U_IO_FUSED_COMMIT_AND_FETCH, \
}

STUCK(plain, 0, 0, 0);
STUCK(defer, IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER, 0, 0);
STUCK(sqpoll, IORING_SETUP_SQPOLL, 0, 0);
STUCK(iowq, 0, IOSQE_ASYNC, 0);
STUCK(unprivileged, 0, 0, UBLK_F_UNPRIVILEGED_DEV);

FIXTURE_SETUP(stuck)
{
	if (!ublk_have_fused())
		SKIP(return, "no ublk, or no IORING_OP_FUSED_CMD");
}

FIXTURE_TEARDOWN(stuck)
{
}

/* -ENOENT if the kernel doesn't have it */
static int stuck_begin(struct _test_data_stuck *self, enum stuck kind)
{
	int fds[2] = { -1, -1 }, ret = 0;

	memset(self, 0, sizeof(*self));
	switch (kind) {
	case RECV_UNIX:
	case RECV_REST:
	case SEND_UNIX:
		ret = socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
		break;
	case RECV_TCP:
		ret = tcp_pair(fds, 0, 0);
		break;
	case READ_PIPE:
		ret = pipe(fds);
		break;
	case READ_FUSE:
		fds[0] = fuse_begin(&self->fuse, 0);
		break;
	default:
		fds[0] = fuse_begin(&self->fuse, FOPEN_DIRECT_IO);
	}
	self->fd = fds[0];
	self->other = fds[1];
	if (kind == RECV_REST && write(fds[1], "abc", 3) != 3)
		return -EIO;
	if (kind == READ_FUSE_EARLY && self->fd >= 0)
		kill(self->fuse.pid, SIGSTOP);
	if (kind >= READ_FUSE)
		return self->fd < 0 ? self->fd : 0;
	return ret;
}

static bool stuck_refused(const struct _fixture_variant_stuck *variant,
			  enum stuck kind)
{
	return (variant->flags & UBLK_F_UNPRIVILEGED_DEV) && kind >= READ_FUSE;
}

/* The server, which gets one request. It says what its device is, and when. */
static void stuck_serve(struct _test_data_stuck *self, enum stuck kind,
			const struct _fixture_variant_stuck *variant, int ready)
{
	struct io_uring_sqe *sqe, *m[1];
	struct ublk_dev d = { };
	unsigned int i;

	close(self->other);
	if (server_init(&d, variant->setup) ||
	    ublk_dev_add(&d, UBLK_F_FUSED_CMD | variant->flags) ||
	    ublk_dev_start(&d, 0) ||
	    write(ready, &d.id, sizeof(d.id)) != sizeof(d.id) ||
	    ring_result(&d.ring))
		_exit(1);
	sqe = ublk_fused(&d.ring, d.cdev, variant->op, 1, m);
	sqe->flags = variant->sqe_flags;
	set_rw(m[0], IORING_OP_READ, self->fd, 0, REQ_SIZE, 0);
	if (kind == SEND_UNIX)
		m[0]->opcode = IORING_OP_SEND;
	else if (kind < SEND_UNIX)
		m[0]->opcode = IORING_OP_RECV;
	if (kind == SEND_UNIX || kind == RECV_REST)
		m[0]->msg_flags = MSG_WAITALL;
	m[0]->flags = variant->sqe_flags;
	/* FUSE waits for its server where a read is issued: not in this task */
	if (kind >= READ_FUSE)
		m[0]->flags |= IOSQE_ASYNC;
	if (ring_submit(&d.ring) < 0)
		_exit(2);
	/* the memory isn't left with a process that may never answer */
	if (stuck_refused(variant, kind)) {
		if (ring_result(&d.ring) != -EOPNOTSUPP)
			_exit(4);
	}
	for (i = 0; i < 50; i++) {
		ring_enter(&d.ring, 0, 0, IORING_ENTER_GETEVENTS);
		usleep(1000);
	}
	/* a request that was answered is another failure */
	if (ring_ready(&d.ring) || write(ready, "x", 1) != 1)
		_exit(3);
	pause();
	_exit(0);
}

static int client_begin(struct ublk_dev *d, __u32 id, __u64 flags,
			enum client_op op)
{
	int ret;

	d->id = id;
	d->flags = flags;
	d->control = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);
	if (d->control < 0)
		return -errno;
	ret = ring_init(&d->ctrl, 1, IORING_SETUP_SQE128);
	if (ret)
		return ret;
	d->bdev = ublk_open("/dev/ublkb%u", id, O_RDWR | O_DIRECT);
	if (d->bdev < 0)
		return d->bdev;
	d->data = mmap(NULL, REQ_SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (d->data == MAP_FAILED)
		return -errno;
	memset(d->data, POISON, REQ_SIZE);
	d->op = op;
	d->moved = NOT_YET;
	return -pthread_create(&d->client, NULL, ublk_client_thread, d);
}

static void client_end(struct ublk_dev *d)
{
	ring_exit(&d->ctrl);
	close(d->control);
	munmap(d->data, REQ_SIZE);
}

TEST_F_TIMEOUT(stuck, killed, LONG_TIMEOUT)
{
	struct ublk_dev *d = &self->dev;
	enum client_op op;
	enum stuck kind;
	int ready[2];
	__u32 id = 0;
	pid_t pid;
	char c;

	for (kind = 0; kind < NR_STUCK; kind++) {
		int ret = stuck_begin(self, kind);

		if (ret == -ENOENT && kind >= READ_FUSE) {
			TH_LOG("kernel has no FUSE");
			break;
		}
		ASSERT_EQ(0, ret) {
			TH_LOG("%u", kind);
		}
		ASSERT_EQ(0, pipe(ready));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid)
			stuck_serve(self, kind, variant, ready[1]);
		close(ready[1]);
		close(self->fd);
		ASSERT_EQ(sizeof(id), read(ready[0], &id, sizeof(id)));
		op = kind == SEND_UNIX ? CLIENT_WRITE : CLIENT_READ;
		ASSERT_EQ(0, client_begin(d, id, variant->flags, op));
		ASSERT_EQ(1, read(ready[0], &c, 1));
		close(ready[0]);
		if (kind == READ_FUSE || kind == READ_FUSE_DIRECT) {
			bool asked = __atomic_load_n(self->fuse.reads,
						     __ATOMIC_ACQUIRE);

			EXPECT_NE(stuck_refused(variant, kind), asked);
		}
		EXPECT_EQ(NOT_YET, __atomic_load_n(&d->moved,
						   __ATOMIC_ACQUIRE));

		ASSERT_EQ(0, kill(pid, SIGKILL));
		/* nobody can take the memory away from that one */
		if (kind == READ_FUSE_DIRECT)
			fuse_kill(&self->fuse);
		EXPECT_TRUE(wait_for(pid)) {
			TH_LOG("%u", kind);
		}
		EXPECT_EQ(-EIO, ublk_request_end(d)) {
			TH_LOG("%u", kind);
		}
		close(d->bdev);
		EXPECT_EQ(0, ublk_dev_ctrl(d, UBLK_U_CMD_DEL_DEV, NULL, 0, 0));
		EXPECT_TRUE(is_gone(id));
		client_end(d);
		close(self->other);
		fuse_end(&self->fuse);
	}
}

/* -------------------------------------- a server leaves, another has the data */

/* Has the data of the request of tag 0 until there is something to receive */
static void hold(struct ublk_dev *d, int sock, int ready)
{
	struct io_uring_sqe *m[1];
	struct ring r;

	close(d->ring.u.ring_fd);
	if (ring_init(&r, RING_ENTRIES, IORING_SETUP_SQE_MIXED))
		_exit(1);
	ublk_fused(&r, d->cdev, UBLK_U_IO_FUSED_SUBMIT_IO, 1, m);
	set_rw(m[0], IORING_OP_RECV, sock, 0, REQ_SIZE, 0);
	m[0]->msg_flags = MSG_WAITALL;
	if (ring_submit(&r) < 0 || ring_ready(&r) || write(ready, "x", 1) != 1)
		_exit(2);
	_exit(ring_result(&r) != REQ_SIZE);
}

/* Tells which device it is and who has the request's data, commits it, and goes */
static void commit_and_leave(int sock, unsigned int setup, bool killed,
			     int ready)
{
	struct ublk_dev d = { };
	int held[2];
	pid_t pid;
	char c;

	if (server_init(&d, setup) || ublk_dev_add(&d, UBLK_F_FUSED_CMD) ||
	    ublk_dev_start(&d, 0) || pipe(held) ||
	    write(ready, &d.id, sizeof(d.id)) != sizeof(d.id) ||
	    ring_result(&d.ring))
		_exit(1);
	pid = fork();
	if (!pid)
		hold(&d, sock, held[1]);
	close(held[1]);
	if (read(held[0], &c, 1) != 1 || ublk_request_commit(&d, REQ_SIZE, 0))
		_exit(2);
	/* SQPOLL's thread may be behind */
	usleep(50000);
	if (ring_ready(&d.ring) ||
	    write(ready, &pid, sizeof(pid)) != sizeof(pid))
		_exit(3);
	if (killed)
		pause();
	_exit(0);
}

/* It has nothing more to do with the request, whoever has its data */
static void server_leaves(struct __test_metadata *_metadata, unsigned int setup,
			  bool killed)
{
	struct ublk_dev d = { };
	int sock[2], ready[2];
	pid_t server, holder;
	unsigned char *data;
	ssize_t ret;
	__u32 id;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	ASSERT_EQ(0, pipe(ready));
	server = fork();
	ASSERT_LE(0, server);
	if (!server) {
		close(sock[1]);
		commit_and_leave(sock[0], setup, killed, ready[1]);
	}
	close(ready[1]);
	close(sock[0]);
	ASSERT_EQ(sizeof(id), read(ready[0], &id, sizeof(id)));
	ASSERT_EQ(0, client_begin(&d, id, 0, CLIENT_READ));
	ASSERT_EQ(sizeof(holder), read(ready[0], &holder, sizeof(holder)));
	if (killed) {
		ASSERT_EQ(0, kill(server, SIGKILL));
	}
	EXPECT_TRUE(wait_for(server));
	EXPECT_EQ(NOT_YET, __atomic_load_n(&d.moved, __ATOMIC_ACQUIRE));

	/* the request isn't lost */
	data = malloc(REQ_SIZE);
	ASSERT_TRUE(data);
	fill_pattern(data, REQ_SIZE, SEED);
	ret = write(sock[1], data, REQ_SIZE);
	free(data);
	if (ret != REQ_SIZE)
		kill(holder, SIGKILL);
	ASSERT_EQ(REQ_SIZE, ret);
	EXPECT_EQ(REQ_SIZE, ublk_request_end(&d));
	EXPECT_EQ(REQ_SIZE, check_pattern(d.data, REQ_SIZE, SEED));
	close(d.bdev);
	EXPECT_EQ(0, ublk_dev_ctrl(&d, UBLK_U_CMD_DEL_DEV, NULL, 0, 0));
	EXPECT_TRUE(is_gone(id));
	client_end(&d);
	close(sock[1]);
	close(ready[0]);
}

TEST(committed_and_lent)
{
	const unsigned int setups[] = {
		0, IORING_SETUP_SQPOLL,
		IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER,
	};
	unsigned int i;

	if (!ublk_have_fused())
		SKIP(return, "no ublk, or no IORING_OP_FUSED_CMD");
	for (i = 0; i < 2 * ARRAY_SIZE(setups); i++)
		server_leaves(_metadata, setups[i / 2], i % 2);
}

TEST_HARNESS_MAIN
