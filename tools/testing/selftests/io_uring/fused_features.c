// SPDX-License-Identifier: GPL-2.0
/*
 * UBLK_F_FUSED_CMD along with each of the other features of ublk devices: data is
 * right, or what can't be has the error that Documentation/block/ublk.rst names.
 */
#include <linux/fs.h>
#include <sys/syscall.h>

#include "iou_ublk.h"
#include "kselftest_harness.h"

#define HALF		(REQ_SIZE / 2)
#define SEED		3
/* bytes of metadata per block */
#define META		8

#define RECOVERY	UBLK_F_USER_RECOVERY
#define REISSUE		(RECOVERY | UBLK_F_USER_RECOVERY_REISSUE)
#define FAIL_IO		(RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO)

struct server {
	struct ublk_dev dev;
	int file;
	unsigned char meta[(REQ_SIZE >> 9) * META];
};

struct feature {
	const char *name;
	__u64 flags;
	/* that the driver doesn't have then, or not in each kernel */
	__u64 cleared, optional;
	/* of ADD_DEV, and of UBLK_U_IO_FUSED_COMMIT_AND_FETCH */
	int add_err, commit_err;
	/* moves the first half of the data, if there is another way to do it */
	int (*half)(struct server *s, enum client_op op);
	__u8 auto_flags;		/* of struct ublk_auto_buf_reg */
	__u32 op_flags;			/* that the server gets */
	bool no_io;
};

/* The buffer that was registered, beside the memory that is lent */
static int half_by_index(struct server *s, enum client_op op)
{
	struct io_uring_sqe *sqe = ring_sqe(&s->dev.ring, IORING_OP_NOP);

	set_rw(sqe, op == CLIENT_WRITE ? IORING_OP_WRITE_FIXED :
					 IORING_OP_READ_FIXED,
	       s->file, 0, HALF, 0);
	return ring_run(&s->dev.ring);
}

static int half_by_copy(struct server *s, enum client_op op)
{
	static unsigned char buf[HALF];
	ssize_t ret;

	if (op == CLIENT_WRITE) {
		ret = pread(s->dev.cdev, buf, HALF, UBLKSRV_IO_BUF_OFFSET);
		return ret == HALF ? pwrite(s->file, buf, HALF, 0) : -EIO;
	}
	ret = pread(s->file, buf, HALF, 0);
	if (ret != HALF)
		return -EIO;
	return pwrite(s->dev.cdev, buf, HALF, UBLKSRV_IO_BUF_OFFSET);
}

static const struct feature features[] = {
	{ "no other", 0 },
	{ "zero copy", UBLK_F_SUPPORT_ZERO_COPY },
	{ "auto_zc", UBLK_F_AUTO_BUF_REG, .commit_err = -EOPNOTSUPP,
	  .half = half_by_index },
	{ "auto_zc_fallback", UBLK_F_AUTO_BUF_REG | UBLK_F_SUPPORT_ZERO_COPY,
	  .commit_err = -EOPNOTSUPP, .auto_flags = UBLK_AUTO_BUF_REG_FALLBACK,
	  .op_flags = UBLK_IO_F_NEED_REG_BUF },
	{ "batch", UBLK_F_BATCH_IO, .commit_err = -EOPNOTSUPP, .no_io = true },
	{ "user copy", UBLK_F_USER_COPY, .half = half_by_copy },
	{ "need_get_data", UBLK_F_NEED_GET_DATA,
	  .cleared = UBLK_F_NEED_GET_DATA },
	{ "zoned", UBLK_F_ZONED, .add_err = -EINVAL },
	{ "integrity", UBLK_F_INTEGRITY, .add_err = -EINVAL },
	{ "integrity, user copy", UBLK_F_INTEGRITY | UBLK_F_USER_COPY,
	  .optional = UBLK_F_INTEGRITY, .half = half_by_copy },
	{ "shmem_zc", UBLK_F_SHMEM_ZC, .op_flags = UBLK_IO_F_SHMEM_ZC },
	{ "per_io_daemon", UBLK_F_PER_IO_DAEMON },
	{ "update_size", UBLK_F_UPDATE_SIZE },
	{ "recovery", RECOVERY },
	{ "recovery, reissue", REISSUE },
	{ "recovery, fail_io", FAIL_IO },
	{ "reissue, fail_io", REISSUE | FAIL_IO, .add_err = -EINVAL },
	{ "quiesce", UBLK_F_QUIESCE, .add_err = -EINVAL },
	{ "quiesce, recovery", UBLK_F_QUIESCE | RECOVERY },
	{ "unprivileged", UBLK_F_UNPRIVILEGED_DEV },
	{ "unprivileged, need_get_data",
	  UBLK_F_UNPRIVILEGED_DEV | UBLK_F_NEED_GET_DATA,
	  .cleared = UBLK_F_NEED_GET_DATA },
	{ "unprivileged, recovery", UBLK_F_UNPRIVILEGED_DEV | REISSUE,
	  .cleared = REISSUE },
	{ "unprivileged, zero copy",
	  UBLK_F_UNPRIVILEGED_DEV | UBLK_F_SUPPORT_ZERO_COPY,
	  .add_err = -EINVAL },
	{ "unprivileged, auto_zc",
	  UBLK_F_UNPRIVILEGED_DEV | UBLK_F_AUTO_BUF_REG, .add_err = -EINVAL },
	{ "unprivileged, user copy",
	  UBLK_F_UNPRIVILEGED_DEV | UBLK_F_USER_COPY, .add_err = -EINVAL },
	{ "unprivileged, batch",
	  UBLK_F_UNPRIVILEGED_DEV | UBLK_F_BATCH_IO, .add_err = -EINVAL },
	{ "unprivileged, shmem_zc",
	  UBLK_F_UNPRIVILEGED_DEV | UBLK_F_SHMEM_ZC, .add_err = -EINVAL },
	{ "unprivileged, zoned",
	  UBLK_F_UNPRIVILEGED_DEV | UBLK_F_ZONED, .add_err = -EINVAL },
	{ "unprivileged, integrity",
	  UBLK_F_UNPRIVILEGED_DEV | UBLK_F_INTEGRITY, .add_err = -EINVAL },
};

static __u64 auto_addr(struct server *s, const struct feature *f)
{
	struct ublk_auto_buf_reg reg = { .flags = f->auto_flags };

	if (!(s->dev.flags & UBLK_F_AUTO_BUF_REG))
		return 0;
	return ublk_auto_buf_reg_to_sqe_addr(&reg);
}

static bool has_meta(struct server *s)
{
	return s->dev.flags & UBLK_F_INTEGRITY;
}

static int server_start(struct server *s, const struct feature *f)
{
	const struct ublk_params meta = {
		.types = UBLK_PARAM_TYPE_INTEGRITY,
		.integrity = {
			.flags = LBMD_PI_CAP_INTEGRITY,
			.interval_exp = 9, .metadata_size = META,
			.csum_type = LBMD_PI_CSUM_CRC16_T10DIF,
		},
	};
	struct ublk_dev *d = &s->dev;
	int ret;

	/* no table, and what is to be registered can't be */
	if ((d->flags & UBLK_F_AUTO_BUF_REG) && !f->auto_flags) {
		ret = ring_buffers_sparse(&d->ring, 1);
		if (ret)
			return ret;
	}
	ret = ublk_dev_prep(d, has_meta(s) ? &meta : NULL);
	if (ret)
		return ret;
	/* no buffer has a length */
	ublk_io_cmd(d, UBLK_U_IO_FETCH_REQ, -1)->len = REQ_SIZE;
	if (ring_run(&d->ring) != -EINVAL)
		return -EBADMSG;
	ublk_io_cmd(d, UBLK_U_IO_FETCH_REQ, -1)->addr = auto_addr(s, f);
	if (ring_submit(&d->ring) != 1)
		return -EIO;
	ret = ublk_dev_go(d);
	if (!ret && (d->flags & UBLK_F_SHMEM_ZC))
		ret = ublk_share_memory(d);
	return ret;
}

/* What isn't data is the server's to copy */
static int move_meta(struct server *s, enum client_op op)
{
	off_t off = UBLKSRV_IO_BUF_OFFSET | UBLKSRV_IO_INTEGRITY_FLAG;
	ssize_t ret;

	if (!has_meta(s))
		return 0;
	if (op == CLIENT_WRITE)
		ret = pread(s->dev.cdev, s->meta, sizeof(s->meta), off);
	else
		ret = pwrite(s->dev.cdev, s->meta, sizeof(s->meta), off);
	return ret == sizeof(s->meta) ? 0 : -EIO;
}

/* Lend the data from @off on to a member */
static void lend(struct server *s, enum client_op op, unsigned int cmd_op,
		 unsigned int off)
{
	struct ublk_dev *d = &s->dev;
	struct io_uring_sqe *m[1];

	ublk_fused(&d->ring, d->cdev, cmd_op, 1, m);
	set_rw(m[0], op == CLIENT_WRITE ? IORING_OP_WRITE : IORING_OP_READ,
	       s->file, off, REQ_SIZE - off, off);
}

static int request_begin(struct server *s, const struct feature *f,
			 enum client_op op)
{
	int ret = ublk_request_begin(&s->dev, op);

	if (ret)
		return ret;
	if ((s->dev.iod->op_flags & f->op_flags) != f->op_flags)
		return -EPROTO;
	return move_meta(s, op);
}

/* A request with two commands: what the client got */
static int submit_commit(struct server *s, const struct feature *f,
			 enum client_op op)
{
	struct ublk_dev *d = &s->dev;
	unsigned int off = 0;
	int ret = request_begin(s, f, op);

	if (!ret && f->half) {
		off = HALF;
		ret = f->half(s, op) == HALF ? 0 : -EIO;
	}
	if (ret)
		return ret;
	lend(s, op, UBLK_U_IO_FUSED_SUBMIT_IO, off);
	if (ring_run(&d->ring) != (int)(REQ_SIZE - off))
		return -EREMOTEIO;
	ret = ublk_request_commit(d, REQ_SIZE, auto_addr(s, f));
	return ret ? ret : ublk_request_end(d);
}

/* And with one */
static int fused_commit(struct server *s, const struct feature *f,
			enum client_op op)
{
	struct ublk_dev *d = &s->dev;
	int ret = request_begin(s, f, op);

	if (ret)
		return ret;
	lend(s, op, UBLK_U_IO_FUSED_COMMIT_AND_FETCH, 0);
	if (f->commit_err) {
		ret = ring_run(&d->ring);
		if (ret != f->commit_err)
			return ret < 0 ? ret : -EREMOTEIO;
		ret = ublk_request_commit(d, -EIO, auto_addr(s, f));
		if (!ret && ublk_request_end(d) != -EIO)
			ret = -EBADMSG;
		return ret ? ret : f->commit_err;
	}
	if (ring_submit(&d->ring) < 0)
		return -EIO;
	return ublk_request_end(d);
}

typedef int (*request_fn)(struct server *s, const struct feature *f,
			  enum client_op op);

static void write_and_read(struct __test_metadata *_metadata, struct server *s,
			   const struct feature *f, request_fn request,
			   unsigned int seed)
{
	unsigned char *data = s->dev.data;

	fill_pattern(data, REQ_SIZE, seed);
	ASSERT_EQ(REQ_SIZE, request(s, f, CLIENT_WRITE));
	memset(data, POISON, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, pread(s->file, data, REQ_SIZE, 0));
	ASSERT_EQ(REQ_SIZE, check_pattern(data, REQ_SIZE, seed));
	memset(data, POISON, REQ_SIZE);
	ASSERT_EQ(REQ_SIZE, request(s, f, CLIENT_READ));
	ASSERT_EQ(REQ_SIZE, check_pattern(data, REQ_SIZE, seed));

	/* the block layer knows what it has written */
	if (!has_meta(s))
		return;
	ASSERT_EQ(1, pwrite(s->file, "\0", 1, REQ_SIZE - 1));
	ASSERT_EQ(1, pwrite(s->file, "\1", 1, REQ_SIZE - 2));
	EXPECT_EQ(-EILSEQ, request(s, f, CLIENT_READ));
}

static void with_feature(struct __test_metadata *_metadata, struct server *s,
			 const struct feature *f)
{
	__u64 flags = UBLK_F_FUSED_CMD | f->flags;
	struct ublk_dev *d = &s->dev;
	int ret;

	ASSERT_EQ(0, ring_init(&d->ring, RING_ENTRIES, IORING_SETUP_SQE_MIXED));
	/* the queue of batches has room for two or more */
	d->depth = flags & UBLK_F_BATCH_IO ? 2 : 1;
	ret = ublk_dev_add(d, flags);
	if (ret == -EBADMSG && !(flags & ~d->flags & ~(f->cleared | f->optional)))
		ret = 0;
	ASSERT_EQ(f->add_err, ret);
	if (ret)
		return;
	ASSERT_EQ(0, d->flags & f->cleared);
	if (f->no_io) {
		/* in any task, and whether there is a request or not */
		lend(s, CLIENT_READ, UBLK_U_IO_FUSED_COMMIT_AND_FETCH, 0);
		ASSERT_EQ(f->commit_err, ring_run(&d->ring));
		return;
	}
	s->file = syscall(__NR_memfd_create, "ublk", MFD_CLOEXEC);
	ASSERT_LE(0, s->file);
	ASSERT_EQ(0, server_start(s, f));
	write_and_read(_metadata, s, f, submit_commit, SEED);
	if (!f->commit_err) {
		write_and_read(_metadata, s, f, fused_commit, SEED + 1);
		return;
	}
	memset(d->data, POISON, REQ_SIZE);
	ASSERT_EQ(f->commit_err, fused_commit(s, f, CLIENT_READ));
	ASSERT_EQ(f->commit_err, fused_commit(s, f, CLIENT_WRITE));
	EXPECT_TRUE(all_bytes(d->data, POISON, REQ_SIZE));
	/* nothing is lost by that */
	write_and_read(_metadata, s, f, submit_commit, SEED + 2);
}

TEST(along)
{
	unsigned int i;

	if (!ublk_have_fused())
		SKIP(return, "no ublk, or no IORING_OP_FUSED_CMD");
	for (i = 0; i < ARRAY_SIZE(features); i++) {
		struct server s = { .file = -1 };

		TH_LOG("%s", features[i].name);
		with_feature(_metadata, &s, &features[i]);
		ublk_dev_exit(&s.dev);
		if (s.file >= 0)
			close(s.file);
	}
}

/* --------------------------------------------------- another server takes over */

FIXTURE(recovery) {
	struct server s;
	int pipe[2];
};

FIXTURE_VARIANT(recovery) {
	__u64 flags;
	unsigned int op;
	/* what the client gets of a request that the first server had */
	int res;
};

#define RECOVER(name, rec, result) \
FIXTURE_VARIANT_ADD(recovery, name##_submit) { \
	.flags = (rec), .res = (result), \
	.op = UBLK_U_IO_FUSED_SUBMIT_IO, \
}; \
FIXTURE_VARIANT_ADD(recovery, name##_commit) { \
	.flags = (rec), .res = (result), \
	.op = UBLK_U_IO_FUSED_COMMIT_AND_FETCH, \
}

RECOVER(fail, RECOVERY, -EIO);
RECOVER(reissue, REISSUE, REQ_SIZE);
RECOVER(fail_io, FAIL_IO, -EIO);

FIXTURE_SETUP(recovery)
{
	const struct feature f = { .flags = variant->flags };
	struct server *s = &self->s;

	s->file = -1;
	self->pipe[0] = -1;
	if (!ublk_have_fused())
		SKIP(return, "no ublk, or no IORING_OP_FUSED_CMD");
	ASSERT_EQ(0, pipe(self->pipe));
	s->file = syscall(__NR_memfd_create, "ublk", MFD_CLOEXEC);
	ASSERT_LE(0, s->file);
	ASSERT_EQ(0, ring_init(&s->dev.ring, RING_ENTRIES,
			       IORING_SETUP_SQE_MIXED));
	ASSERT_EQ(0, ublk_dev_add(&s->dev, UBLK_F_FUSED_CMD | variant->flags));
	ASSERT_EQ(0, server_start(s, &f));
	fill_pattern(s->dev.data, REQ_SIZE, SEED);
	ASSERT_EQ(REQ_SIZE, write(s->file, s->dev.data, REQ_SIZE));
	memset(s->dev.data, POISON, REQ_SIZE);
}

FIXTURE_TEARDOWN(recovery)
{
	ublk_dev_exit(&self->s.dev);
	close(self->s.file);
	close(self->pipe[0]);
	close(self->pipe[1]);
}

static int take_over(struct ublk_dev *d)
{
	__u64 end = now_ms() + WAIT_MS;
	void *p;
	int ret;

	do {
		ret = ublk_dev_ctrl(d, UBLK_U_CMD_START_USER_RECOVERY, NULL, 0,
				    0);
		if (ret == -EBUSY)
			usleep(5000);
	} while (ret == -EBUSY && now_ms() < end);
	if (ret)
		return ret;
	ret = ring_init(&d->ring, RING_ENTRIES, IORING_SETUP_SQE_MIXED);
	if (ret)
		return ret;
	d->cdev = ublk_open("/dev/ublkc%u", d->id, O_RDWR);
	if (d->cdev < 0)
		return d->cdev;
	p = mmap(NULL, page_size(), PROT_READ, MAP_SHARED, d->cdev,
		 UBLKSRV_CMD_BUF_OFFSET);
	if (p == MAP_FAILED)
		return -errno;
	d->iod = p;
	ublk_io_cmd(d, UBLK_U_IO_FETCH_REQ, -1);
	if (ring_submit(&d->ring) != 1)
		return -EIO;
	return ublk_dev_ctrl(d, UBLK_U_CMD_END_USER_RECOVERY, NULL, 0,
			     getpid());
}

/* The first server leaves a request behind whose data is lent */
TEST_F(recovery, lent)
{
	const struct feature f = { .flags = variant->flags };
	struct server *s = &self->s;
	struct ublk_dev *d = &s->dev;
	struct io_uring_sqe *m[2];
	unsigned int i;

	ASSERT_EQ(0, request_begin(s, &f, CLIENT_READ));
	ublk_fused(&d->ring, d->cdev, variant->op, 2, m);
	set_rw(m[0], IORING_OP_READ, self->pipe[0], 0, 1, 0);
	set_rw(m[1], IORING_OP_READ, s->file, 1, REQ_SIZE - 1, 0);
	ASSERT_LT(0, ring_submit(&d->ring));
	for (i = 0; i < 50; i++) {
		ring_enter(&d->ring, 0, 0, IORING_ENTER_GETEVENTS);
		usleep(1000);
	}
	EXPECT_EQ(NOT_YET, __atomic_load_n(&d->moved, __ATOMIC_ACQUIRE));
	ublk_dev_abandon(d);
	if (variant->res < 0) {
		EXPECT_EQ(variant->res, ublk_request_end(d));
	}
	/* with nobody there, and nobody to wait for */
	if (variant->flags == FAIL_IO) {
		EXPECT_EQ(-1, pread(d->bdev, d->data, 512, 0));
	}

	ASSERT_EQ(0, take_over(d));
	memset(d->data, POISON, REQ_SIZE);
	if (variant->res > 0) {
		/* once more, and from the start */
		ASSERT_EQ(0, ring_result(&d->ring));
		ASSERT_EQ(0, d->iod->start_sector);
		ASSERT_EQ(REQ_SIZE >> 9, d->iod->nr_sectors);
		lend(s, CLIENT_READ, UBLK_U_IO_FUSED_COMMIT_AND_FETCH, 0);
		ASSERT_LT(0, ring_submit(&d->ring));
		ASSERT_EQ(variant->res, ublk_request_end(d));
	} else {
		ASSERT_EQ(REQ_SIZE, fused_commit(s, &f, CLIENT_READ));
	}
	EXPECT_EQ(REQ_SIZE, check_pattern(d->data, REQ_SIZE, SEED));
	write_and_read(_metadata, s, &f, fused_commit, SEED + 1);
}

TEST_HARNESS_MAIN
