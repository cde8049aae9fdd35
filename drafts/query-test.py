fn='/root/fa/main/build/linux/tools/testing/selftests/io_uring/fused.c'
s=open(fn).read()
a='''/* Restrictions are for both halves, and for what the member really is */
'''
assert s.count(a)==1
s=s.replace(a,'''/* What can be a member is what the query says, and nothing else */
TEST(query)
{
	static const unsigned int ops[] = {
		IORING_OP_NOP, IORING_OP_READ, IORING_OP_READ_FIXED,
		IORING_OP_READV_FIXED, IORING_OP_WRITE, IORING_OP_WRITE_FIXED,
		IORING_OP_WRITEV_FIXED, IORING_OP_SEND, IORING_OP_RECV,
		IORING_OP_SEND_ZC, IORING_OP_SENDMSG_ZC, IORING_OP_MEMCPY,
	};
	struct _test_data_fused data = { .layout = IORING_SETUP_SQE128 };
	struct _test_data_fused *self = &data;
	struct io_uring_query_fused q = { }, want = {
		.flags = IORING_FUSED_ONE_CQE, .max_members = MAX_MEMBERS,
	};
	struct io_uring_query_hdr hdr = {
		.query_op = IO_URING_QUERY_FUSED, .query_data = u64_ptr(&q),
		.size = sizeof(q),
	};
	struct io_uring_sqe *sqe;
	struct ring r;
	unsigned int i;

	if (!SETUP_RING(&r, 8, 0, IORING_OP_FUSED_CMD))
		return;
	ring_exit(&r);
	self->sqes = ring_init_128(&self->ring, IORING_SETUP_SQE128);
	ASSERT_NE(NULL, self->sqes);
	ASSERT_EQ(0, lender_init(&self->lender));
	memset(&q, POISON, sizeof(q));
	ASSERT_EQ(0, ring_register(&self->ring, IORING_REGISTER_QUERY, &hdr,
				   0));
	ASSERT_EQ(0, hdr.result);
	ASSERT_EQ(sizeof(q), hdr.size);
	for (i = 0; i < ARRAY_SIZE(ops); i++)
		want.member_ops[ops[i] / 64] |= 1ULL << ops[i] % 64;
	EXPECT_EQ(0, memcmp(&want, &q, sizeof(q)));

	for (i = 0; i < 256; i++) {
		if (q.member_ops[i / 64] & 1ULL << i % 64)
			continue;
		sqe = fused(self, 0, 4096, BOTH);
		sqe[1].opcode = i;
		ASSERT_EQ(0, submit(self));
		ASSERT_EQ(0, both(self, -EINVAL, -ECANCELED));
	}
	EXPECT_TRUE(returned(self, 0));
	ring_exit_128(&self->ring);
	lender_exit(&self->lender);
}

/* Restrictions are for both halves, and for what the member really is */
''')
s=s.replace('''#include <linux/io_uring/mock_file.h>
''','''#include <linux/io_uring/mock_file.h>
#include <linux/io_uring/query.h>
''')
open(fn,'w').write(s)
