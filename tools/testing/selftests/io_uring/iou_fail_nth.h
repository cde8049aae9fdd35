/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Let the first, the second, ... allocation or user copy of a task fail, see
 * Documentation/fault-injection/fault-injection.rst.
 */
#ifndef IOU_FAIL_NTH_H
#define IOU_FAIL_NTH_H

#include <dirent.h>
#include <sys/mount.h>

#include "iou_test.h"

/* Who runs a request */
enum target {
	TARGET_SELF, TARGET_WORKER, TARGET_SQPOLL,
};

#define DEBUGFS		"/sys/kernel/debug"

static inline bool nth_put(const char *dir, const char *name, const char *val)
{
	char path[256];
	bool ok = false;
	int fd;

	snprintf(path, sizeof(path), DEBUGFS "/%s/%s", dir, name);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		return false;
	ok = write(fd, val, strlen(val)) == (ssize_t)strlen(val);
	close(fd);
	return ok;
}

/*
 * Let every kind of allocation fail, and do so quietly. Nothing is put back:
 * with probability 0, the default, only a task with fail-nth set is hit.
 */
static inline bool fault_injection(void)
{
	static const char *const kinds[] = {
		"failslab", "fail_page_alloc", "fail_usercopy", "fail_futex",
	};
	unsigned int i;

	if (!nth_put("failslab", "ignore-gfp-wait", "N")) {
		if (mount("debugfs", DEBUGFS, "debugfs", 0, NULL) ||
		    !nth_put("failslab", "ignore-gfp-wait", "N"))
			return false;
	}
	nth_put("failslab", "cache-filter", "N");
	nth_put("fail_page_alloc", "ignore-gfp-wait", "N");
	nth_put("fail_page_alloc", "ignore-gfp-highmem", "N");
	nth_put("fail_page_alloc", "min-order", "0");
	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		nth_put(kinds[i], "verbose", "0");
	return !access("/proc/self/fail-nth", W_OK);
}

/* The thread of this process whose name begins with @prefix, or 0 */
static inline int find_thread(const char *prefix)
{
	char path[300], comm[32];
	struct dirent *de;
	int fd, tid = 0;
	ssize_t n;
	DIR *d;

	d = opendir("/proc/self/task");
	while (d && !tid && (de = readdir(d))) {
		snprintf(path, sizeof(path), "/proc/self/task/%s/comm",
			 de->d_name);
		fd = open(path, O_RDONLY);
		if (fd < 0)
			continue;
		n = read(fd, comm, sizeof(comm));
		if (n >= (ssize_t)strlen(prefix) &&
		    !memcmp(comm, prefix, strlen(prefix)))
			tid = atoi(de->d_name);
		close(fd);
	}
	if (d)
		closedir(d);
	return tid;
}

/* The thread of this ring: that of the last one may still be around */
static inline int sq_thread(struct ring *r)
{
	__u64 end = now_ms() + WAIT_MS / 4;
	char path[64], line[128];
	int tid = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", r->u.ring_fd);
	/* fdinfo is short while the ring is locked */
	while (tid <= 0 && now_ms() < end) {
		f = fopen(path, "r");
		while (f && fgets(line, sizeof(line), f))
			if (sscanf(line, "SqThread: %d", &tid) == 1)
				break;
		if (f)
			fclose(f);
	}
	return tid > 0 ? tid : 0;
}

/*
 * The fail-nth file of who runs the requests of a ring, or -errno. With
 * TARGET_WORKER, the ring has to be limited to one of each kind of workers.
 *
 * io-wq dismisses the workers of a task with its last ring. That takes a while:
 * the next ring may find one that is about to go. So there is another ring, for
 * as long as the process lives, and the worker stays.
 */
static inline int nth_open(struct ring *r, enum target target)
{
	static struct ring keeper;
	int ret, tid = getpid();
	char path[64];

	if (target == TARGET_WORKER) {
		ret = keeper.setup ? 0 : ring_init(&keeper, 1, 0);
		if (ret)
			return ret;
		ring_sqe(r, IORING_OP_NOP)->flags = IOSQE_ASYNC;
		ret = ring_run(r);
		if (ret)
			return ret;
		tid = find_thread("iou-wrk-");
	} else if (target == TARGET_SQPOLL) {
		tid = sq_thread(r);
	}
	if (!tid)
		return -ESRCH;
	snprintf(path, sizeof(path), "/proc/self/task/%d/fail-nth", tid);
	ret = open(path, O_RDWR | O_CLOEXEC);
	return ret < 0 ? -errno : ret;
}

/* Let the @nth one from now on fail. If not, errno tells: is the thread gone? */
static inline bool nth_arm(int fd, unsigned int nth)
{
	char buf[16];
	int len = snprintf(buf, sizeof(buf), "%u", nth);

	return pwrite(fd, buf, len, 0) == len;
}

/* Stop failing: whether something had failed since nth_arm() */
static inline bool nth_disarm(int fd)
{
	char buf[16] = "";
	bool fired = false;

	/* these two copy as well, and may meet the fault themselves */
	if (pread(fd, buf, sizeof(buf) - 1, 0) > 0)
		fired = atoi(buf) == 0;
	if (!nth_arm(fd, 0)) {
		nth_arm(fd, 0);
		fired = false;
	}
	return fired;
}

#endif /* IOU_FAIL_NTH_H */
