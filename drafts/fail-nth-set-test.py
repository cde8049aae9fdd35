fn='/root/fa/main/build/linux/tools/testing/selftests/io_uring/fused.c'
s=open(fn).read()
def sub(a,b):
    global s
    assert s.count(a)==1,(s.count(a),a)
    s=s.replace(a,b)
sub('''FIXTURE(fail_nth) { };
''','''/* The same for a set, of which only the command tells */
static void sweep_set(struct __test_metadata *_metadata, unsigned int setup,
		      unsigned int async, bool late)
{
	struct iovec iov[2] = { { (void *)5000, 100 }, { (void *)6000, 50 } };
	unsigned int nth, hits = 0, lent;
	unsigned char head[64];
	bool fired = true;
	int file;

	file = syscall(__NR_memfd_create, "nth", MFD_CLOEXEC);
	ASSERT_LE(0, file);
	ASSERT_EQ(0, ftruncate(file, LEN));
	for (nth = 1; fired && nth < 200; nth++) {
		struct _test_data_fused data = {
			.layout = IORING_SETUP_SQE_MIXED,
		};
		struct _test_data_fused *self = &data;
		struct io_uring_sqe *sqe, *m[3];
		struct io_uring_cqe cqe;
		int fd, ret;

		self->sqes = ring_init_128(&self->ring, setup | self->layout);
		ASSERT_NE(NULL, self->sqes);
		ASSERT_EQ(0, lender_init(&self->lender));
		fd = nth_open(&self->ring, TARGET_SELF);
		ASSERT_LE(0, fd);
		memset(head, POISON, sizeof(head));
		sqe = fused_set(self, 0, 40 * 4096, BOTH, 3, m);
		sqe->fused_flags = IORING_FUSED_ONE_CQE;
		sqe->flags = async;
		lend_of(sqe)->delay_us = late ? 2000 : 0;
		set_rw(m[0], IORING_OP_READ, file, 0, 4096, 0);
		set_rw(m[1], IORING_OP_READV_FIXED, file, 0, 2, 0);
		m[1]->addr = u64_ptr(iov);
		set_memcpy(m[2], IORING_MEMCPY_SRC_FIXED, u64_ptr(head), 8192,
			   sizeof(head));
		ASSERT_TRUE(nth_arm(fd, nth));
		ring_submit(&self->ring);
		ret = ring_wait(&self->ring, &cqe);
		fired = nth_disarm(fd);
		close(fd);
		hits += fired;
		/* SQEs that met -EAGAIN are still there */
		if (ret) {
			ASSERT_LE(0, ring_enter(&self->ring, 4, 0, 0));
			ASSERT_EQ(0, ring_wait(&self->ring, &cqe));
		}
		ASSERT_EQ(UD_CMD, cqe.user_data);
		if (cqe.res == 4096 + 150 + 64) {
			EXPECT_TRUE(all_bytes(self->lender.mem, 0, 4096));
			EXPECT_TRUE(all_bytes(self->lender.mem + 5000, 0, 100));
			EXPECT_TRUE(all_bytes(self->lender.mem + 6000, 0, 50));
		} else {
			EXPECT_GT(0, cqe.res);
		}
		/* the memory that it was copied from */
		EXPECT_TRUE(all_bytes(head, POISON, sizeof(head)));
		EXPECT_TRUE(all_bytes(self->lender.mem + 6050, POISON,
				      MEM - 6050));
		lent = self->lender.state->lent;
		EXPECT_TRUE(returned(self, lent));
		fused(self, 0, 4096, DEST);
		ASSERT_EQ(0, submit(self));
		EXPECT_EQ(0, both(self, 0, 0));
		EXPECT_TRUE(returned(self, lent + 1));
		ring_exit_128(&self->ring);
		lender_exit(&self->lender);
	}
	EXPECT_FALSE(fired);
	EXPECT_LE(6, hits);
	close(file);
}

FIXTURE(fail_nth) { };
''')
sub('''TEST_HARNESS_MAIN''','''TEST_F_TIMEOUT(fail_nth, sweep_set, LONG_TIMEOUT)
{
	sweep_set(_metadata, variant->setup, variant->sqe_flags, variant->late);
}

TEST_HARNESS_MAIN''')
open(fn,'w').write(s)
