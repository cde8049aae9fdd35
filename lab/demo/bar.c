// SPDX-License-Identifier: GPL-2.0
/*
 * An NVMe drive fills the BAR of another device, and is written from it: peer to
 * peer. The device stands in for a GPU. liburing's nvme-dmabuf-copy does the I/O,
 * with the dma-buf that it inherits; what it has done is looked at from the other
 * sides, by plain reads of the drive, and by a mapping of the BAR.
 *
 *	demo-bar root|switch MIB	copies, and verifies each byte
 *	demo-bar root|switch read4k	runs iobench read4k
 *
 * The host is left with a drive whose second MIB MiB are what is in the BAR.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <sys/wait.h>

#include "../../tools/testing/selftests/io_uring/iou_vfio.h"

#define COPY	"build/liburing/examples/nvme-dmabuf-copy"

static void die(const char *what, int err)
{
	fprintf(stderr, "demo-bar: %s: %s\n", what, strerror(err < 0 ? -err : err));
	exit(1);
}

/* Differs for each position and each seed. */
static unsigned char pattern(uint64_t pos, unsigned int seed)
{
	pos = (pos + seed) * 0x9e3779b97f4a7c15ULL;
	return (pos ^ pos >> 32) >> 24;
}

__attribute__((format(printf, 1, 2)))
static void run(const char *fmt, ...)
{
	char cmd[512];
	va_list ap;
	int status;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	status = system(cmd);
	if (status)
		exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

static void drive_rw(const char *path, unsigned char *buf, size_t len, off_t pos,
		     bool write)
{
	int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		die(path, errno);
	n = write ? pwrite(fd, buf, len, pos) : pread(fd, buf, len, pos);
	if (n != (ssize_t)len)
		die(path, n < 0 ? errno : EIO);
	close(fd);
}

static void check(const unsigned char *p, size_t len, unsigned int seed,
		  const char *what)
{
	for (size_t i = 0; i < len; i++) {
		if (p[i] != pattern(i, seed)) {
			fprintf(stderr, "demo-bar: %s differs at %zu\n", what, i);
			exit(2);
		}
	}
}

static void copy(struct vfio_bar *bar, const char *drive, const char *bdf, int fd,
		 size_t len)
{
	unsigned char *buf;

	if (posix_memalign((void **)&buf, 4096, len))
		die("memory", ENOMEM);

	for (size_t i = 0; i < len; i++)
		buf[i] = pattern(i, 1);
	drive_rw(drive, buf, len, 0, true);
	for (size_t i = 0; i < len; i++)
		bar->map[i] = ~pattern(i, 1);
	run(COPY " --p2p --fd %d -s %zu read %s >/dev/null", fd, len, drive);
	check(bar->map, len, 1, "the BAR");
	printf("%s -> BAR of %s: %zu MiB, peer to peer, verified in the BAR\n", drive,
	       bdf, len >> 20);

	for (size_t i = 0; i < len; i++)
		bar->map[i] = pattern(i, 2);
	memset(buf, 0, len);
	drive_rw(drive, buf, len, len, true);
	run(COPY " --p2p --fd %d -s %zu -o %zu write %s >/dev/null", fd, len, len,
	    drive);
	drive_rw(drive, buf, len, len, false);
	check(buf, len, 2, drive);
	printf("BAR of %s -> %s: %zu MiB, peer to peer, verified on the drive\n", bdf,
	       drive, len >> 20);
	free(buf);
}

int main(int argc, char **argv)
{
	char bdf[NAME_MAX + 1], drive[40];
	enum route route;
	struct vfio_bar bar;
	int fd, ret;

	if (argc != 3 || (strcmp(argv[1], "root") && strcmp(argv[1], "switch"))) {
		fprintf(stderr, "usage: demo-bar root|switch MIB|read4k\n");
		return 1;
	}
	route = strcmp(argv[1], "root") ? SWITCH : ROOT;
	if (!find_bar(route, bdf) || !find_drive(route, drive, sizeof(drive)))
		die("the device or the drive", ENODEV);
	ret = vfio_bar_init(&bar, bdf, IVSHMEM_BAR);
	if (ret)
		die(bdf, ret);
	fd = vfio_bar_export(&bar, 0, bar.size);
	if (fd < 0)
		die("dma-buf of the BAR", fd);
	/* for the children */
	fcntl(fd, F_SETFD, 0);

	setlinebuf(stdout);
	if (!strcmp(argv[2], "read4k"))
		run("build/user/iobench read4k %d", fd);
	else
		copy(&bar, drive, bdf, fd, (size_t)atoi(argv[2]) << 20);
	vfio_bar_exit(&bar);
	return 0;
}
