/* SPDX-License-Identifier: MIT */
/*
 * Copies between an NVMe drive and a dma-buf, with READ_FIXED and WRITE_FIXED on
 * a registered buffer. The drive does DMA to and from the memory behind the
 * dma-buf, wherever that is. The dma-buf is made by udmabuf or by a heap, or is
 * one that a GPU driver has exported and the parent process hands down.
 *
 * What was copied is verified by a path that has nothing in common with it:
 * pread() into ordinary memory, against a mapping of the dma-buf.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <linux/fs.h>
#include <linux/udmabuf.h>

#include "liburing.h"
#include "helpers.h"

#define DEF_SIZE	(16ULL << 20)
#define MAX_BS		(1ULL << 30)
#define MAX_DEPTH	4096
/* pread() for the comparison */
#define CHECK_SIZE	(1U << 20)
/* a window of a dma-buf starts at a multiple of that */
#define WINDOW_ALIGN	4096
#define PROGRESS_NS	100000000ULL

enum {
	EXIT_DONE	= 0,
	EXIT_FAILED	= 1,
	EXIT_DIFFERENT	= 2,
	EXIT_NO_SUPPORT	= 77,
};

/* a block of the copy, and the request for what is left of it */
struct block {
	uint64_t pos;
	unsigned int len;
};

static const char *path, *heap;
static uint64_t size, file_off, buf_off, bs = 128 << 10, depth = 32;
static bool writing, no_verify, progress, p2p;
static int fd, dmabuf = -1;
static bool handed_down;

static unsigned int block_size;
static uint64_t dmabuf_size;
/* the part of the dma-buf that is used, NULL if the CPU can't reach it */
static unsigned char *mem;
static void *mapping;
static size_t mapping_size;

static struct io_uring ring;

/* the cursor is behind a progress line */
static bool in_line;

__attribute__((noreturn, format(printf, 2, 3)))
static void die(int status, const char *fmt, ...)
{
	va_list args;

	fprintf(stderr, "%snvme-dmabuf-copy: ", in_line ? "\n" : "");
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	exit(status);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* differs for each position, without a period */
static unsigned char pattern(uint64_t pos)
{
	pos *= 0x9e3779b97f4a7c15ULL;
	return (pos ^ pos >> 32) >> 24;
}

/*
 * The CPU looks at the memory, or writes to it, in between of a start and an
 * end. That is a no-op for udmabuf on a PC, but not for every exporter.
 */
static void cpu_access(uint64_t flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	while (ioctl(dmabuf, DMA_BUF_IOCTL_SYNC, &sync)) {
		if (errno == EINTR || errno == EAGAIN)
			continue;
		die(EXIT_FAILED, "CPU access to the dma-buf: %s",
		    strerror(errno));
	}
}

static void check_support(void)
{
	struct io_uring_query_regbuf regbuf;
	struct io_uring_query_hdr hdr = {
		.query_op = IO_URING_QUERY_REGBUF,
		.query_data = uring_ptr_to_u64(&regbuf),
		.size = sizeof(regbuf),
	};

	memset(&regbuf, 0, sizeof(regbuf));
	if (io_uring_register_query(&hdr) || hdr.result ||
	    !(regbuf.types & (1ULL << IO_REGBUF_TYPE_DMABUF)))
		die(EXIT_NO_SUPPORT,
		    "this kernel can't register dma-bufs with io_uring");
}

static void open_file(void)
{
	uint64_t file_size;
	struct stat st;
	int flags, val;

	if (stat(path, &st))
		die(EXIT_FAILED, "%s: %s", path, strerror(errno));

	flags = O_DIRECT | O_CLOEXEC | (writing ? O_RDWR : O_RDONLY);
	/* a disk that is mounted isn't written to */
	if (writing && S_ISBLK(st.st_mode))
		flags |= O_EXCL;
	fd = open(path, flags);
	if (fd < 0 && errno == EINVAL)
		die(EXIT_FAILED, "%s: can't be opened with O_DIRECT", path);
	if (fd < 0 && errno == EBUSY)
		die(EXIT_FAILED, "%s: is in use, mounted for example", path);
	if (fd < 0)
		die(EXIT_FAILED, "%s: %s", path, strerror(errno));

	if (S_ISBLK(st.st_mode)) {
		if (ioctl(fd, BLKSSZGET, &val) ||
		    ioctl(fd, BLKGETSIZE64, &file_size))
			die(EXIT_FAILED, "%s: %s", path, strerror(errno));
		block_size = val;
	} else {
		block_size = st.st_blksize;
		file_size = st.st_size;
	}

	if (!size) {
		size = file_off < file_size ? file_size - file_off : 0;
		if (size > DEF_SIZE)
			size = DEF_SIZE;
		if (handed_down && size > dmabuf_size - buf_off)
			size = dmabuf_size - buf_off;
		size -= size % block_size;
	}
	/* what a file has is up to the kernel, which may refuse it anyway */
	if (S_ISBLK(st.st_mode) &&
	    (file_off > file_size || size > file_size - file_off))
		die(EXIT_FAILED,
		    "%s: has %llu bytes, less than %llu at %llu", path,
		    (unsigned long long) file_size, (unsigned long long) size,
		    (unsigned long long) file_off);
}

static int make_udmabuf(uint64_t len)
{
	struct udmabuf_create create = {
		.flags = UDMABUF_FLAGS_CLOEXEC,
		.size = len,
	};
	int dev, memfd, ret;

	dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	if (dev < 0 && errno == ENOENT)
		die(EXIT_FAILED,
		    "no /dev/udmabuf: load the udmabuf module, or try --heap system");
	if (dev < 0)
		die(EXIT_FAILED, "/dev/udmabuf: %s", strerror(errno));

	memfd = memfd_create("nvme-dmabuf-copy", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	if (memfd < 0 || ftruncate(memfd, len) ||
	    fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK))
		die(EXIT_FAILED, "memory for udmabuf: %s", strerror(errno));

	create.memfd = memfd;
	ret = ioctl(dev, UDMABUF_CREATE, &create);
	if (ret < 0 && errno == EINVAL)
		die(EXIT_FAILED,
		    "udmabuf refuses %llu bytes, see /sys/module/udmabuf/parameters/size_limit_mb",
		    (unsigned long long) len);
	if (ret < 0)
		die(EXIT_FAILED, "udmabuf: %s", strerror(errno));
	close(memfd);
	close(dev);
	return ret;
}

static int make_heap_buf(uint64_t len)
{
	struct dma_heap_allocation_data alloc = {
		.len = len,
		.fd_flags = O_RDWR | O_CLOEXEC,
	};
	char name[128];
	int dev;

	snprintf(name, sizeof(name), "/dev/dma_heap/%s", heap);
	dev = open(name, O_RDONLY | O_CLOEXEC);
	if (dev < 0)
		die(EXIT_FAILED, "%s: %s", name, strerror(errno));
	if (ioctl(dev, DMA_HEAP_IOCTL_ALLOC, &alloc))
		die(EXIT_FAILED, "%s: %llu bytes: %s", name,
		    (unsigned long long) len, strerror(errno));
	close(dev);
	return alloc.fd;
}

/* nobody but a dma-buf knows this one */
static void check_dmabuf(void)
{
	struct dma_buf_sync sync = {
		.flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ,
	};
	off_t len;

	if (ioctl(dmabuf, DMA_BUF_IOCTL_SYNC, &sync)) {
		if (errno == EBADF)
			die(EXIT_FAILED, "--fd %d: is not open", dmabuf);
		if (errno == ENOTTY)
			die(EXIT_FAILED, "--fd %d: is not a dma-buf", dmabuf);
	} else {
		sync.flags = DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ;
		ioctl(dmabuf, DMA_BUF_IOCTL_SYNC, &sync);
	}
	len = lseek(dmabuf, 0, SEEK_END);
	if (len < 0)
		die(EXIT_FAILED, "--fd %d: %s", dmabuf, strerror(errno));
	dmabuf_size = len;
	if (buf_off >= dmabuf_size || size > dmabuf_size - buf_off)
		die(EXIT_FAILED,
		    "--fd %d: has %llu bytes, less than %llu at %llu", dmabuf,
		    (unsigned long long) dmabuf_size,
		    (unsigned long long) size, (unsigned long long) buf_off);
}

static void make_dmabuf(void)
{
	const uint64_t page = sysconf(_SC_PAGESIZE);

	if (!handed_down) {
		/* whole pages, and some even for an empty file */
		dmabuf_size = buf_off + (size ? size : 1);
		dmabuf_size += (page - dmabuf_size % page) % page;
		if (heap)
			dmabuf = make_heap_buf(dmabuf_size);
		else
			dmabuf = make_udmabuf(dmabuf_size);
	}

	if (buf_off + size > SIZE_MAX)
		die(EXIT_FAILED, "no such large part of a dma-buf can be mapped");
	mapping_size = buf_off + size;
	if (!mapping_size)
		return;
	mapping = mmap(NULL, mapping_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		       dmabuf, 0);
	/* what is only to be looked at may be read-only */
	if (mapping == MAP_FAILED && writing)
		mapping = mmap(NULL, mapping_size, PROT_READ, MAP_SHARED,
			       dmabuf, 0);
	if (mapping != MAP_FAILED)
		mem = (unsigned char *) mapping + buf_off;
	else if (!handed_down)
		die(EXIT_FAILED, "the dma-buf can't be mapped: %s",
		    strerror(errno));
}

static void register_buffer(void)
{
	struct io_uring_regbuf_desc desc;
	unsigned int flags;
	int ret;

	flags = writing ? IORING_REGBUF_WRITE : IORING_REGBUF_READ;
	if (p2p)
		flags |= IORING_REGBUF_P2P_REQUIRED;

	ret = io_uring_queue_init(depth, &ring, IORING_SETUP_SINGLE_ISSUER |
						IORING_SETUP_DEFER_TASKRUN);
	if (ret)
		die(EXIT_FAILED, "io_uring_queue_init: %s", strerror(-ret));
	ret = io_uring_register_buffers_sparse(&ring, 1);
	if (ret)
		die(EXIT_FAILED, "io_uring_register_buffers_sparse: %s",
		    strerror(-ret));

	io_uring_regbuf_dmabuf(&desc, dmabuf, fd, buf_off, size, flags);
	ret = io_uring_register_buffers_update_desc(&ring, 0, &desc, NULL, 1);
	switch (ret) {
	case 1:
		return;
	case -EOPNOTSUPP:
		die(EXIT_FAILED,
		    "%s: no I/O on dma-bufs (EOPNOTSUPP), it has to be an NVMe drive on PCI, a partition of one, or null_blk",
		    path);
	case -EACCES:
		die(EXIT_FAILED, "the dma-buf isn't open for %s (EACCES)",
		    writing ? "reading" : "writing");
	case -EREMOTEIO:
		die(EXIT_FAILED,
		    "%s: can't reach the memory where it is (EREMOTEIO)", path);
	case -ENODEV:
		die(EXIT_FAILED, "the drive or the memory is gone (ENODEV)");
	default:
		die(EXIT_FAILED, "registering the dma-buf for %s: %s", path,
		    strerror(-ret));
	}
}

static void show_progress(uint64_t done, uint64_t start, bool last)
{
	static uint64_t shown;
	uint64_t now;

	if (!progress)
		return;
	now = now_ns();
	if (!last && now - shown < PROGRESS_NS)
		return;
	shown = now;
	fprintf(stderr, "\r%s %.1f of %.1f MiB, %3.0f %%, %.1f MiB/s ",
		writing ? "write" : "read", (double) done / (1 << 20),
		(double) size / (1 << 20), 100.0 * done / size,
		done / 1048576.0 / ((now - start + 1) / 1e9));
	in_line = !last;
	if (last)
		fputc('\n', stderr);
}

static void queue_block(struct block *b)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	if (writing)
		io_uring_prep_write_fixed(sqe, fd, NULL, b->len,
					  file_off + b->pos, 0);
	else
		io_uring_prep_read_fixed(sqe, fd, NULL, b->len,
					 file_off + b->pos, 0);
	/* an offset into the window, of 64 bits whatever a pointer has */
	sqe->addr = b->pos;
	io_uring_sqe_set_data(sqe, b);
}

/* returns how many bytes are done; what a short request leaves is queued again */
static unsigned int block_done(struct block *b, int res, bool *again)
{
	*again = false;
	if (res < 0)
		die(EXIT_FAILED, "%s of %u bytes at %llu: %s",
		    writing ? "write" : "read", b->len,
		    (unsigned long long) (file_off + b->pos), strerror(-res));
	if (!res)
		die(EXIT_FAILED, "%s: ends at %llu", path,
		    (unsigned long long) (file_off + b->pos));
	if (res < (int) b->len) {
		b->pos += res;
		b->len -= res;
		queue_block(b);
		*again = true;
	}
	return res;
}

static double copy(void)
{
	uint64_t start = now_ns(), queued = 0, done = 0;
	struct block *blocks, **idle;
	unsigned int head, seen, nr_idle;
	struct io_uring_cqe *cqe;
	bool again;
	int ret;

	blocks = calloc(depth, sizeof(*blocks));
	idle = calloc(depth, sizeof(*idle));
	if (!blocks || !idle)
		die(EXIT_FAILED, "%s", strerror(ENOMEM));
	for (nr_idle = 0; nr_idle < depth; nr_idle++)
		idle[nr_idle] = &blocks[nr_idle];

	while (done < size) {
		while (nr_idle && queued < size) {
			struct block *b = idle[--nr_idle];

			b->pos = queued;
			b->len = size - queued < bs ? size - queued : bs;
			queued += b->len;
			queue_block(b);
		}
		ret = io_uring_submit_and_wait(&ring, 1);
		if (ret < 0 && ret != -EINTR)
			die(EXIT_FAILED, "io_uring_submit_and_wait: %s",
			    strerror(-ret));

		seen = 0;
		io_uring_for_each_cqe(&ring, head, cqe) {
			struct block *b = io_uring_cqe_get_data(cqe);

			done += block_done(b, cqe->res, &again);
			if (!again)
				idle[nr_idle++] = b;
			seen++;
		}
		io_uring_cq_advance(&ring, seen);
		show_progress(done, start, false);
	}
	show_progress(done, start, true);
	free(blocks);
	free(idle);
	return (now_ns() - start + 1) / 1e9;
}

/* what must not be taken for data that came from the drive, or goes to it */
static void fill_dmabuf(void)
{
	uint64_t i;

	if (!mem || (writing && handed_down) || (!writing && no_verify))
		return;
	cpu_access(DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE);
	for (i = 0; i < size; i++)
		mem[i] = writing ? pattern(i) : ~pattern(i);
	cpu_access(DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE);
}

static void verify(void)
{
	uint64_t pos, i;
	ssize_t ret;
	void *plain;
	size_t len;
	int check;

	check = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (check < 0)
		die(EXIT_FAILED, "%s: %s", path, strerror(errno));
	if (posix_memalign(&plain, 65536, CHECK_SIZE))
		die(EXIT_FAILED, "%s", strerror(ENOMEM));

	cpu_access(DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
	for (pos = 0; pos < size; pos += ret) {
		len = size - pos < CHECK_SIZE ? size - pos : CHECK_SIZE;
		ret = pread(check, plain, len, file_off + pos);
		if (ret <= 0)
			die(EXIT_FAILED, "%s: pread at %llu: %s", path,
			    (unsigned long long) (file_off + pos),
			    ret ? strerror(errno) : "end of file");
		if (!memcmp(plain, mem + pos, ret))
			continue;
		for (i = 0; mem[pos + i] == ((unsigned char *) plain)[i]; i++)
			;
		die(EXIT_DIFFERENT,
		    "%s: differs at %llu: %02x, and %02x in the dma-buf", path,
		    (unsigned long long) (file_off + pos + i),
		    ((unsigned char *) plain)[i], mem[pos + i]);
	}
	cpu_access(DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
	free(plain);
	close(check);
}

/* a number with an optional k, m, g or t */
static bool parse_number(const char *s, uint64_t max, uint64_t *val)
{
	unsigned int shift = 0;
	char *end;

	errno = 0;
	*val = strtoull(s, &end, 0);
	if (end == s || *s == '-' || errno)
		return false;
	switch (*end) {
	case 't': case 'T':
		shift += 10;
		/* fall through */
	case 'g': case 'G':
		shift += 10;
		/* fall through */
	case 'm': case 'M':
		shift += 10;
		/* fall through */
	case 'k': case 'K':
		shift += 10;
		end++;
	}
	if (*end || *val > max >> shift)
		return false;
	*val <<= shift;
	return true;
}

static void usage(FILE *f)
{
	fprintf(f,
"usage: nvme-dmabuf-copy [options] read|write DEVICE\n"
"\n"
"Copies from an NVMe drive to a dma-buf (read) or from a dma-buf to the drive\n"
"(write), with READ_FIXED and WRITE_FIXED, and verifies the result by pread()\n"
"and a mapping of the dma-buf. A write overwrites DEVICE: with a pattern, or with\n"
"what is in the dma-buf that was handed down.\n"
"\n"
"  -H, --heap NAME          dma-buf of the heap /dev/dma_heap/NAME\n"
"  -F, --fd N               dma-buf that is open as file descriptor N\n"
"                           (without any of the two: one made by udmabuf)\n"
"  -s, --size SIZE          bytes to copy, with k, m, g or t (what there is, up\n"
"                           to 16m)\n"
"  -o, --offset SIZE        where to start in DEVICE (0)\n"
"  -O, --buffer-offset SIZE where to start in the dma-buf, a multiple of 4k (0)\n"
"  -b, --block-size SIZE    bytes per request (128k)\n"
"  -q, --depth NR           requests at a time (32)\n"
"  -p, --p2p                fail if the memory is, or becomes, the host's\n"
"  -n, --no-verify          only copy\n"
"  -P, --progress           progress on stderr even if it is no terminal\n"
"  -h, --help               this text\n"
"\n"
"Exits with %d if all went well, with %d on errors, with %d if the drive and the\n"
"dma-buf differ, and with %d on a kernel that doesn't have it.\n",
		EXIT_DONE, EXIT_FAILED, EXIT_DIFFERENT, EXIT_NO_SUPPORT);
}

static void parse_args(int argc, char *argv[])
{
	static const struct option opts[] = {
		{ "heap", required_argument, NULL, 'H' },
		{ "fd", required_argument, NULL, 'F' },
		{ "size", required_argument, NULL, 's' },
		{ "offset", required_argument, NULL, 'o' },
		{ "buffer-offset", required_argument, NULL, 'O' },
		{ "block-size", required_argument, NULL, 'b' },
		{ "depth", required_argument, NULL, 'q' },
		{ "p2p", no_argument, NULL, 'p' },
		{ "no-verify", no_argument, NULL, 'n' },
		{ "progress", no_argument, NULL, 'P' },
		{ "help", no_argument, NULL, 'h' },
		{ },
	};
	uint64_t val;
	int opt;

	progress = isatty(STDERR_FILENO);
	while ((opt = getopt_long(argc, argv, "H:F:s:o:O:b:q:pnPh", opts,
				  NULL)) != -1) {
		bool ok = true;

		switch (opt) {
		case 'H':
			heap = optarg;
			break;
		case 'F':
			ok = parse_number(optarg, INT32_MAX, &val);
			dmabuf = val;
			handed_down = true;
			break;
		case 's':
			ok = parse_number(optarg, INT64_MAX / 2, &size) && size;
			break;
		case 'o':
			ok = parse_number(optarg, INT64_MAX / 2, &file_off);
			break;
		case 'O':
			ok = parse_number(optarg, INT64_MAX / 2, &buf_off);
			break;
		case 'b':
			ok = parse_number(optarg, MAX_BS, &bs) && bs;
			break;
		case 'q':
			ok = parse_number(optarg, MAX_DEPTH, &depth) && depth;
			break;
		case 'p':
			p2p = true;
			break;
		case 'n':
			no_verify = true;
			break;
		case 'P':
			progress = true;
			break;
		case 'h':
			usage(stdout);
			exit(EXIT_DONE);
		default:
			fprintf(stderr, "Try 'nvme-dmabuf-copy --help'.\n");
			exit(EXIT_FAILED);
		}
		if (!ok)
			die(EXIT_FAILED, "-%c doesn't take '%s'", opt, optarg);
	}
	if (optind == argc) {
		usage(stderr);
		exit(EXIT_FAILED);
	}
	if (argc - optind != 2 || (strcmp(argv[optind], "read") &&
				   strcmp(argv[optind], "write")))
		die(EXIT_FAILED,
		    "say 'read DEVICE' or 'write DEVICE', or --help");
	if (heap && handed_down)
		die(EXIT_FAILED, "--heap and --fd are for two different dma-bufs");
	writing = !strcmp(argv[optind], "write");
	path = argv[optind + 1];
}

/* after the kernel has had its say: an error of it is the better one */
static void check_sizes(void)
{
	if (!size)
		die(EXIT_FAILED, "%s: there is nothing to copy at %llu", path,
		    (unsigned long long) file_off);
	if (size % block_size)
		die(EXIT_FAILED,
		    "%llu bytes are not a multiple of the %u bytes of a block of %s",
		    (unsigned long long) size, block_size, path);
	if (file_off % block_size)
		die(EXIT_FAILED,
		    "--offset %llu is not a multiple of the %u bytes of a block of %s",
		    (unsigned long long) file_off, block_size, path);
	if (bs % block_size)
		die(EXIT_FAILED,
		    "--block-size %llu is not a multiple of the %u bytes of a block of %s",
		    (unsigned long long) bs, block_size, path);
}

int main(int argc, char *argv[])
{
	char note[64];
	double secs;

	parse_args(argc, argv);
	if (buf_off % WINDOW_ALIGN)
		die(EXIT_FAILED, "--buffer-offset %llu is not a multiple of %u",
		    (unsigned long long) buf_off, WINDOW_ALIGN);
	check_support();
	if (handed_down)
		check_dmabuf();
	open_file();
	make_dmabuf();
	register_buffer();
	check_sizes();

	fill_dmabuf();
	secs = copy();
	io_uring_queue_exit(&ring);

	if (no_verify) {
		snprintf(note, sizeof(note), "not verified");
	} else if (!mem) {
		snprintf(note, sizeof(note),
			 "not verified, the dma-buf can't be mapped");
	} else {
		verify();
		snprintf(note, sizeof(note), "verified");
	}
	printf("%s %llu bytes in %.3f s, %.1f MiB/s, %s\n",
	       writing ? "wrote" : "read", (unsigned long long) size, secs,
	       size / 1048576.0 / secs, note);
	return EXIT_DONE;
}
