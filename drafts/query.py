p='/root/fa/main/build/linux/'
def sub(fn, pairs):
    s=open(p+fn).read()
    for a,b in pairs:
        assert s.count(a)==1, (fn, s.count(a), a)
        s=s.replace(a,b)
    open(p+fn,'w').write(s)
sub('include/uapi/linux/io_uring/query.h', [
('''	IO_URING_QUERY_COPY			= 5,
''','''	IO_URING_QUERY_COPY			= 5,
	IO_URING_QUERY_FUSED			= 6,
'''),
('''	/* The largest length of IORING_OP_MEMCPY_IMMEDIATE */
	__u32 imm_max_len;
	__u32 __resv[7];
};
''','''	/* The largest length of IORING_OP_MEMCPY_IMMEDIATE */
	__u32 imm_max_len;
	__u32 __resv[7];
};

/* Doesn't require a ring */
struct io_uring_query_fused {
	/* Bitmap of the IORING_OP_* that IORING_OP_FUSED_CMD has as members */
	__u64 member_ops[4];
	/* Bitmask of supported IORING_FUSED_* flags */
	__u64 flags;
	/* The largest number of members */
	__u32 max_members;
	__u32 __resv[5];
};
'''),
])
sub('io_uring/query.c', [
('''#include "memcpy_imm.h"
''','''#include "memcpy_imm.h"
#include "fused.h"
'''),
('''	struct io_uring_query_copy copy;
''','''	struct io_uring_query_copy copy;
	struct io_uring_query_fused fused;
'''),
('''static int io_handle_query_entry(''','''static ssize_t io_query_fused(union io_query_data *data)
{
	struct io_uring_query_fused *e = &data->fused;
	unsigned int op;

	memset(e, 0, sizeof(*e));
	for (op = 0; op < IORING_OP_LAST; op++)
		if (io_fused_takes(op) && io_uring_op_supported(op))
			e->member_ops[op / 64] |= BIT_ULL(op % 64);
	e->flags = IO_FUSED_FLAGS;
	e->max_members = IO_FUSED_MAX;
	return sizeof(*e);
}

static int io_handle_query_entry('''),
('''		ret = io_query_copy(data);
		break;
''','''		ret = io_query_copy(data);
		break;
	case IO_URING_QUERY_FUSED:
		ret = io_query_fused(data);
		break;
'''),
])
sub('io_uring/fused.h', [
('''/* Most requests that a command can be fused with */
''','''#define IO_FUSED_FLAGS	IORING_FUSED_ONE_CQE

/* Most requests that a command can be fused with */
'''),
('''unsigned int io_fused_nr(struct io_kiocb *req);
''','''unsigned int io_fused_nr(struct io_kiocb *req);
bool io_fused_takes(u8 opcode);
'''),
])
sub('io_uring/fused.c', [
('''#define IO_FUSED_FLAGS		IORING_FUSED_ONE_CQE
''',''),
('''/*
 * Turn the copy of a member's SQE into that of the request to run. One that is
''','''/**
 * io_fused_takes - can a fused command have members of an opcode?
 * @opcode:	IORING_OP_*
 *
 * Context: any.
 *
 * Return: true if it can, as long as the kernel has the opcode.
 */
bool io_fused_takes(u8 opcode)
{
	switch (opcode) {
	case IORING_OP_READ:
	case IORING_OP_READ_FIXED:
	case IORING_OP_READV_FIXED:
	case IORING_OP_WRITE:
	case IORING_OP_WRITE_FIXED:
	case IORING_OP_WRITEV_FIXED:
	case IORING_OP_RECV:
	case IORING_OP_SEND:
	case IORING_OP_SEND_ZC:
	case IORING_OP_SENDMSG_ZC:
	case IORING_OP_MEMCPY:
	case IORING_OP_NOP:
		return true;
	default:
		return false;
	}
}

/*
 * Turn the copy of a member's SQE into that of the request to run. One that is
'''),
('''	bool range = true, ok = true;

''','''	bool ok = io_fused_takes(sqe->opcode) && !sqe->buf_index &&
		  !(sqe->flags & ~IO_FUSED_MEMBER_FLAGS);

'''),
('''	case IORING_OP_WRITE_FIXED:
		break;
	case IORING_OP_READV_FIXED:
		m->dest = true;
		break;
	case IORING_OP_RECV:
		sqe->ioprio |= IORING_RECVSEND_FIXED_BUF;
		m->dest = true;
		ok = !(sqe''','''		break;
	case IORING_OP_READV_FIXED:
		m->dest = true;
		break;
	case IORING_OP_RECV:
		sqe->ioprio |= IORING_RECVSEND_FIXED_BUF;
		m->dest = true;
		ok &= !(sqe'''),
('''		sqe->opcode = IORING_OP_WRITE_FIXED;
		fallthrough;
''','''		sqe->opcode = IORING_OP_WRITE_FIXED;
'''),
('''		ok = !sqe->file_index &&
		     m->dest != !!(sqe->memcpy_flags & IORING_MEMCPY_SRC_FIXED);
		break;
	case IORING_OP_WRITEV_FIXED:
		break;
	case IORING_OP_NOP:
		range = false;
		break;
	default:
		ok = false;
		break;
	}
	if ((sqe->flags & ~IO_FUSED_MEMBER_FLAGS) || sqe->buf_index)
		ok = false;
	if (!ok) {
''','''		ok &= !sqe->file_index &&
		      m->dest != !!(sqe->memcpy_flags &
				    IORING_MEMCPY_SRC_FIXED);
		break;
	}
	if (!ok) {
'''),
('''	if (range) {
		m->off = sqe->addr;
		m->len = sqe->len;
	}
''','''	/* for those that have a range in the buffer */
	m->off = sqe->addr;
	m->len = sqe->len;
'''),
])
