/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A ublk device of one request or a few, its server, and a client in another thread.
 */
#ifndef IOU_UBLK_H
#define IOU_UBLK_H

#include <linux/ublk_cmd.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "iou_test.h"

#define REQ_SIZE	(256 * 1024)
#define NOT_YET		0x7fffffff
#define NOBODY		65534

enum client_op { CLIENT_READ, CLIENT_WRITE, CLIENT_FLUSH };

/* @ring is the server's, and made by the test */
struct ublk_dev {
	struct ring ring, ctrl;
	__u32 id;
	unsigned int depth;		/* requests, 0 for one */
	unsigned int bytes;		/* of the client's, 0 for REQ_SIZE */
	__u64 flags;
	bool added, started;
	int control, cdev, bdev;
	const struct ublksrv_io_desc *iod;
	/* the other end of the block device */
	pthread_t client;
	enum client_op op;
	unsigned char *data;
	ssize_t moved;
};

static inline int ublk_ctrl(struct ring *r, int fd, unsigned int op, __u32 id,
			    void *addr, unsigned int len, unsigned int path_len,
			    __u64 data)
{
	/* one entry of 128 bytes, so that the array has no stride to miss */
	struct io_uring_sqe *sqe = ring_sqe(r, IORING_OP_URING_CMD);
	struct ublksrv_ctrl_cmd cmd = {
		.dev_id = id, .queue_id = -1, .addr = u64_ptr(addr),
		.len = len, .dev_path_len = path_len, .data[0] = data,
	};

	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	sqe->cmd_op = op;
	sqe->fd = fd;
	return ring_run(r);
}

static inline int ublk_dev_ctrl(struct ublk_dev *d, unsigned int op, void *addr,
				unsigned int len, __u64 data)
{
	unsigned int path_len;
	char buf[512];

	if (!(d->flags & UBLK_F_UNPRIVILEGED_DEV))
		return ublk_ctrl(&d->ctrl, d->control, op, d->id, addr, len, 0,
				 data);
	/* one that belongs to somebody else: the path says that it is meant */
	path_len = snprintf(buf, sizeof(buf), "/dev/ublkc%u", d->id) + 1;
	if (len)
		memcpy(buf + path_len, addr, len);
	return ublk_ctrl(&d->ctrl, d->control, op, d->id, buf, path_len + len,
			 path_len, data);
}

static inline struct ublksrv_io_cmd *ublk_io_cmd_of(struct io_uring_sqe *sqe)
{
	return (void *)sqe->cmd;
}

static inline struct io_uring_sqe *ublk_io_cmd(struct ublk_dev *d,
					       unsigned int op, int result)
{
	struct io_uring_sqe *sqe = ring_sqe(&d->ring, IORING_OP_URING_CMD);

	ublk_io_cmd_of(sqe)->result = result;
	sqe->cmd_op = op;
	sqe->fd = d->cdev;
	return sqe;
}

static inline int ublk_open(const char *fmt, __u32 id, int flags)
{
	__u64 end = now_ms() + WAIT_MS / 2;
	char name[32];
	int fd;

	snprintf(name, sizeof(name), fmt, id);
	do {
		fd = open(name, flags | O_CLOEXEC);
		if (fd >= 0)
			return fd;
		usleep(5000);
	} while (now_ms() < end);
	return -errno;
}

/*
 * With these UBLK_F_*: 0; -EBADMSG if it has others; -ENOENT if there is no driver;
 * or its error
 */
static inline int ublk_dev_add(struct ublk_dev *d, __u64 flags)
{
	struct ublksrv_ctrl_dev_info info = {
		.nr_hw_queues = 1, .queue_depth = d->depth ?: 1,
		.max_io_buf_bytes = REQ_SIZE, .dev_id = -1,
		.flags = flags | UBLK_F_NO_AUTO_PART_SCAN,
	};
	int ret;

	d->cdev = -1;
	d->bdev = -1;
	d->control = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);
	if (d->control < 0)
		return -errno;
	ret = ring_init(&d->ctrl, 1, IORING_SETUP_SQE128);
	if (ret)
		return ret;
	/* root has no unprivileged devices */
	if ((flags & UBLK_F_UNPRIVILEGED_DEV) && seteuid(NOBODY))
		return -errno;
	ret = ublk_ctrl(&d->ctrl, d->control, UBLK_U_CMD_ADD_DEV, -1, &info,
			sizeof(info), 0, 0);
	if (seteuid(0))
		return -errno;
	if (ret)
		return ret;
	d->id = info.dev_id;
	d->flags = info.flags;
	d->added = true;
	d->cdev = ublk_open("/dev/ublkc%u", d->id, O_RDWR);
	if (d->cdev < 0)
		return d->cdev;
	if ((flags & info.flags) != flags)
		return step_failed("the driver drops flags", -EBADMSG);
	return 0;
}

static inline bool ublk_have_fused(void)
{
	struct ring r;
	bool ret;

	if (access("/dev/ublk-control", F_OK) || ring_init(&r, 8, 0))
		return false;
	ret = ring_has_op(&r, IORING_OP_FUSED_CMD);
	ring_exit(&r);
	return ret;
}

/* All that a server does before it fetches. @more are parameters, or NULL. */
static inline int ublk_dev_prep(struct ublk_dev *d,
				const struct ublk_params *more)
{
	struct ublk_params params = more ? *more : (struct ublk_params) { };
	void *p;
	int ret;

	params.len = sizeof(params);
	params.types |= UBLK_PARAM_TYPE_BASIC;
	params.basic = (struct ublk_param_basic) {
		.attrs = UBLK_ATTR_VOLATILE_CACHE,
		.logical_bs_shift = 9, .physical_bs_shift = 12,
		.io_opt_shift = 12, .io_min_shift = 9,
		.max_sectors = REQ_SIZE >> 9,
		.dev_sectors = REQ_SIZE >> 9,
	};
	p = mmap(NULL, REQ_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	d->data = p;
	ret = ublk_dev_ctrl(d, UBLK_U_CMD_SET_PARAMS, &params, sizeof(params),
			    0);
	if (ret)
		return ret;
	p = mmap(NULL, page_size(), PROT_READ, MAP_SHARED, d->cdev,
		 UBLKSRV_CMD_BUF_OFFSET);
	if (p == MAP_FAILED)
		return -errno;
	d->iod = p;
	return 0;
}

/* Memory of the client that the server has as well */
static inline int ublk_share_memory(struct ublk_dev *d)
{
	struct ublk_shmem_buf_reg reg = { .len = REQ_SIZE };
	int fd = syscall(__NR_memfd_create, "shared", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, REQ_SIZE) ||
	    mmap(d->data, REQ_SIZE, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd, 0) != d->data)
		return -errno;
	close(fd);
	reg.addr = u64_ptr(d->data);
	return ublk_dev_ctrl(d, UBLK_U_CMD_REG_BUF, &reg, sizeof(reg), 0);
}

/* And after that */
static inline int ublk_dev_go(struct ublk_dev *d)
{
	int ret = ublk_dev_ctrl(d, UBLK_U_CMD_START_DEV, NULL, 0, getpid());

	if (ret)
		return ret;
	d->started = true;
	d->bdev = ublk_open("/dev/ublkb%u", d->id, O_RDWR | O_DIRECT);
	return d->bdev < 0 ? d->bdev : 0;
}

/* Have it go. @addr is that of the commands that fetch. */
static inline int ublk_dev_start(struct ublk_dev *d, __u64 addr)
{
	int ret = ublk_dev_prep(d, NULL);

	if (ret)
		return ret;
	ublk_io_cmd(d, UBLK_U_IO_FETCH_REQ, -1)->addr = addr;
	ret = ring_submit(&d->ring);
	if (ret != 1)
		return ret < 0 ? ret : step_failed("FETCH stays behind", -EIO);
	return ublk_dev_go(d);
}

/* A fused command with @nr members, NOPs at first, and one CQE. It lends tag 0. */
static inline struct io_uring_sqe *ublk_fused(struct ring *r, int cdev,
					      unsigned int op, unsigned int nr,
					      struct io_uring_sqe **m)
{
	struct io_uring_sqe *sqe;
	unsigned int i;

	/* not across the end of the ring */
	if ((r->u.sq.sqe_tail & *r->u.sq.kring_mask) == *r->u.sq.kring_mask)
		ring_sqe(r, IORING_OP_NOP)->flags = IOSQE_CQE_SKIP_SUCCESS;
	sqe = ring_sqe(r, IORING_OP_FUSED_CMD);
	sqe->cmd_op = op;
	sqe->fd = cdev;
	sqe->fused_flags = IORING_FUSED_ONE_CQE;
	sqe->nr_members = nr;
	for (i = 0; i < nr; i++)
		m[i] = ring_sqe(r, IORING_OP_NOP);
	return sqe;
}

/* The server is gone */
static inline void ublk_dev_abandon(struct ublk_dev *d)
{
	if (d->iod)
		munmap((void *)d->iod, page_size());
	d->iod = NULL;
	ring_exit(&d->ring);
	if (d->cdev >= 0)
		close(d->cdev);
	d->cdev = -1;
}

static inline void ublk_dev_exit(struct ublk_dev *d)
{
	if (d->bdev >= 0)
		close(d->bdev);
	if (d->started)
		ublk_dev_ctrl(d, UBLK_U_CMD_STOP_DEV, NULL, 0, 0);
	ublk_dev_abandon(d);
	if (d->added)
		ublk_dev_ctrl(d, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
	ring_exit(&d->ctrl);
	if (d->data)
		munmap(d->data, REQ_SIZE);
	if (d->control >= 0)
		close(d->control);
}

static inline unsigned int ublk_request_bytes(const struct ublk_dev *d)
{
	return d->bytes ?: REQ_SIZE;
}

static inline void *ublk_client_thread(void *arg)
{
	struct ublk_dev *d = arg;
	ssize_t ret;

	if (d->op == CLIENT_WRITE)
		ret = pwrite(d->bdev, d->data, ublk_request_bytes(d), 0);
	else if (d->op == CLIENT_READ)
		ret = pread(d->bdev, d->data, ublk_request_bytes(d), 0);
	else
		ret = fdatasync(d->bdev);
	__atomic_store_n(&d->moved, ret < 0 ? -errno : ret, __ATOMIC_RELEASE);
	return NULL;
}

/* A request of the other thread is here: 0 */
static inline int ublk_request_begin(struct ublk_dev *d, enum client_op op)
{
	const unsigned int ops[] = {
		UBLK_IO_OP_READ, UBLK_IO_OP_WRITE, UBLK_IO_OP_FLUSH,
	};
	int ret;

	d->op = op;
	d->moved = NOT_YET;
	if (pthread_create(&d->client, NULL, ublk_client_thread, d))
		return -EAGAIN;
	ret = ring_result(&d->ring);
	if (ret)
		return ret;
	if (op != CLIENT_FLUSH &&
	    d->iod->nr_sectors != ublk_request_bytes(d) >> 9)
		return step_failed("request of another length", -EBADMSG);
	if (ublksrv_get_op(d->iod) != ops[op])
		return step_failed("another operation", -EBADMSG);
	return 0;
}

/* @addr as for ublk_dev_start(). Its CQE is the next request. */
static inline int ublk_request_commit(struct ublk_dev *d, int result,
				      __u64 addr)
{
	int ret;

	ublk_io_cmd(d, UBLK_U_IO_COMMIT_AND_FETCH_REQ, result)->addr = addr;
	ret = ring_submit(&d->ring);
	if (ret == 1)
		return 0;
	return ret < 0 ? ret : step_failed("COMMIT stays behind", -EIO);
}

/* The other thread got its answer: what it returned, or -ETIME */
static inline int ublk_request_end(struct ublk_dev *d)
{
	__u64 end = now_ms() + WAIT_MS;
	ssize_t ret;

	do {
		ret = __atomic_load_n(&d->moved, __ATOMIC_ACQUIRE);
		if (ret != NOT_YET) {
			pthread_join(d->client, NULL);
			return ret;
		}
		usleep(500);
		/* COMMIT completes the request from task work */
		if (d->ring.setup & IORING_SETUP_DEFER_TASKRUN)
			ring_enter(&d->ring, 0, 0, IORING_ENTER_GETEVENTS);
	} while (now_ms() < end);
	return step_failed("the client has no answer", -ETIME);
}

#endif
