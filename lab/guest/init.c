// SPDX-License-Identifier: GPL-2.0
/*
 * The first process of a lab machine. It mounts what tests need, then serves
 * one stream to the host (a UML serial line or a virtio port): the host sends
 * a command, the guest answers with frames of output, kernel messages and the
 * verdict. One boot thus serves any number of tests, and a kernel message is
 * attributed to the test during which it appeared.
 *
 * host to guest, one line each, some followed by bytes:
 *	repo LEN\nPATH			keep PATH visible, hide the host's /tmp
 *	job SECONDS DIR LEN\nCMD	run CMD with bash; DIR is a path or "scratch"
 *	shell TTY ROWS COLS LEN\nPATH	an interactive shell on TTY, in PATH
 *	leak				what does kmemleak say
 * guest to host: "TYPE LEN\n" and LEN bytes; TYPE is hello, out, err, log, end
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define BUF_SIZE	8192
/* a killed process that is still there after this many seconds is stuck in the kernel */
#define REAP_SECONDS	60
/* kmemleak ignores objects younger than 5 s */
#define LEAK_AGE	6

static int chan = -1;
static int kmsg = -1;
static int child_fd = -1;
static char repo[4096];

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void write_all(const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = write(chan, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			_exit(1);
		p += n;
		len -= n;
	}
}

static void frame(const char *type, const void *data, size_t len)
{
	char head[32];

	write_all(head, snprintf(head, sizeof(head), "%s %zu\n", type, len));
	write_all(data, len);
}

__attribute__((format(printf, 2, 3)))
static void framef(const char *type, const char *fmt, ...)
{
	char text[1024];
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	frame(type, text, len < (int)sizeof(text) ? len : (int)sizeof(text) - 1);
}

/* A kernel that dies at once says more than a test that waits for nothing. */
static void die(const char *what)
{
	fprintf(stderr, "init: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void read_all(void *data, size_t len)
{
	char *p = data;

	while (len) {
		ssize_t n = read(chan, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			die("the host is gone");
		p += n;
		len -= n;
	}
}

/* One line, byte by byte: what follows it belongs to someone else. */
static void read_line(char *line, size_t size)
{
	size_t n = 0;

	while (n < size - 1) {
		read_all(line + n, 1);
		if (line[n] == '\n')
			break;
		n++;
	}
	line[n] = 0;
}

static char *read_bytes(size_t len)
{
	char *p = malloc(len + 1);

	if (!p)
		die("malloc");
	read_all(p, len);
	p[len] = 0;
	return p;
}

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool done;

	if (fd < 0)
		return false;
	done = write(fd, text, strlen(text)) > 0;
	close(fd);
	return done;
}

static void read_file(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return;
	n = read(fd, text, size - 1);
	text[n > 0 ? n : 0] = 0;
	close(fd);
}

static void mkdirs(const char *path)
{
	char part[4096];

	for (size_t i = 1; i < sizeof(part) && i <= strlen(path); i++) {
		if (path[i] && path[i] != '/')
			continue;
		memcpy(part, path, i);
		part[i] = 0;
		mkdir(part, 0755);
	}
}

/* Not every kernel has every file system: a test that misses one says so. */
static void try_mount(const char *type, const char *dir, const char *opts)
{
	mount(type, dir, type, 0, opts);
}

static void loopback_up(void)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	if (ioctl(fd, SIOCSIFFLAGS, &ifr))
		perror("init: lo");
	close(fd);
}

static void write_all_files(const char *pattern, const char *text)
{
	glob_t found;

	if (glob(pattern, 0, NULL, &found))
		return;
	for (size_t i = 0; i < found.gl_pathc; i++)
		write_file(found.gl_pathv[i], text);
	globfree(&found);
}

/*
 * /proc/<pid>/fail-nth counts only the sites that these filters let through,
 * and the defaults spare every allocation that may sleep.
 */
static void arm_fault_injection(void)
{
	write_all_files("/sys/kernel/debug/fail*/verbose", "0");
	write_all_files("/sys/kernel/debug/fail*/ignore-gfp-wait", "N");
	write_all_files("/sys/kernel/debug/fail*/ignore-gfp-highmem", "N");
	write_all_files("/sys/kernel/debug/fail*/min-order", "0");
}

static void mount_early(void)
{
	try_mount("devtmpfs", "/dev", NULL);
	mkdir("/dev/pts", 0755);
	mkdir("/dev/shm", 0755);
	mkdir("/dev/hugepages", 0755);
	try_mount("devpts", "/dev/pts", "ptmxmode=0666");
	try_mount("tmpfs", "/dev/shm", NULL);
	try_mount("hugetlbfs", "/dev/hugepages", NULL);
	try_mount("proc", "/proc", NULL);
	try_mount("sysfs", "/sys", NULL);
	try_mount("debugfs", "/sys/kernel/debug", NULL);
	try_mount("configfs", "/sys/kernel/config", NULL);
	if (symlink("/proc/self/fd", "/dev/fd") || symlink("/proc/self/fd/0", "/dev/stdin") ||
	    symlink("/proc/self/fd/1", "/dev/stdout") || symlink("/proc/self/fd/2", "/dev/stderr"))
		perror("init: /dev/fd");
}

/* The repo may lie below /tmp: it is put aside while that is hidden. */
static void mount_late(void)
{
	static const char * const hidden[] = { "/tmp", "/run", "/var/tmp", "/dev/shm/repo" };
	const char *share = getenv("LAB_SHARE");
	const char *aside = hidden[3];

	mkdir(aside, 0755);
	if (mount(repo, aside, NULL, MS_BIND, NULL))
		die("bind the repo");
	for (int i = 0; i < 3; i++)
		try_mount("tmpfs", hidden[i], NULL);
	chmod("/tmp", 01777);
	mkdirs(repo);
	if (mount(aside, repo, NULL, MS_MOVE, NULL))
		die("move the repo");
	rmdir(aside);
	mkdir("/run/out", 0755);
	mkdir("/tmp/scratch", 0755);
	if (!share)
		return;
	if (!strcmp(share, "9p"))
		mount("out", "/run/out", "9p", 0, "trans=virtio,version=9p2000.L,msize=262144");
	else
		mount("none", "/run/out", "hostfs", 0, share);
}

static void set_env(void)
{
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/tmp", 1);
	setenv("TERM", "linux", 0);
	setenv("LC_ALL", "C.UTF-8", 1);
	setenv("OUT", "/run/out", 1);
	unsetenv("LAB_CHAN");
	unsetenv("LAB_SHARE");
}

static void set_limits(void)
{
	struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	struct rlimit files = { 1024, 1048576 };
	struct rlimit none = { 0, 0 };

	setrlimit(RLIMIT_MEMLOCK, &all);
	setrlimit(RLIMIT_NOFILE, &files);
	setrlimit(RLIMIT_CORE, &none);
}

/* Hands every kernel message that waits to the host. */
static void drain_kmsg(void)
{
	char rec[BUF_SIZE];
	ssize_t n;

	for (;;) {
		unsigned long long us = 0;
		char *text, *end;

		n = read(kmsg, rec, sizeof(rec) - 1);
		if (n < 0 && errno == EPIPE) {
			framef("log", "(kernel messages were lost)\n");
			continue;
		}
		if (n <= 0)
			return;
		rec[n] = 0;
		text = strchr(rec, ';');
		if (!text || sscanf(rec, "%*u,%*u,%llu", &us) != 1)
			continue;
		text++;
		/* what follows the first line is a dictionary of the device */
		end = strchr(text, '\n');
		if (end)
			*end = 0;
		framef("log", "[%5llu.%06llu] %s\n", us / 1000000, us % 1000000, text);
	}
}

/* Returns false once the other end is closed. */
static bool drain_pipe(int fd, const char *type)
{
	char buf[BUF_SIZE];

	for (;;) {
		ssize_t n = read(fd, buf, sizeof(buf));

		if (n > 0) {
			frame(type, buf, n);
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		return n < 0 && errno == EAGAIN;
	}
}

static void cat(const char *type, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	drain_pipe(fd, type);
	close(fd);
}

/* One thread: its name, its state, and its stack in the kernel. */
static void show_thread(const char *pid, const char *tid)
{
	char path[1024], stat[512] = "";
	char *end;

	snprintf(path, sizeof(path), "/proc/%s/task/%s/stat", pid, tid);
	read_file(path, stat, sizeof(stat));
	/* the name is in brackets and may hold any byte; the state follows it */
	end = strrchr(stat, ')');
	if (end && end[1])
		end[3] = 0;
	framef("err", "process %s, thread %s\n", pid, stat);
	snprintf(path, sizeof(path), "/proc/%s/task/%s/stack", pid, tid);
	cat("err", path);
}

/* What every process of a job that hangs is waiting for. */
static void show_processes(void)
{
	DIR *procs = opendir("/proc");
	struct dirent *d, *t;
	char path[1024], exe[256];
	DIR *tasks;

	while (procs && (d = readdir(procs))) {
		if (atoi(d->d_name) <= 1)
			continue;
		/* a kernel thread has no program */
		snprintf(path, sizeof(path), "/proc/%s/exe", d->d_name);
		if (readlink(path, exe, sizeof(exe)) < 0)
			continue;
		snprintf(path, sizeof(path), "/proc/%s/task", d->d_name);
		tasks = opendir(path);
		while (tasks && (t = readdir(tasks)))
			if (t->d_name[0] != '.')
				show_thread(d->d_name, t->d_name);
		if (tasks)
			closedir(tasks);
	}
	if (procs)
		closedir(procs);
}

/* Kills whatever the job left. False: something does not die. */
static bool reap_all(void)
{
	double end = now() + REAP_SECONDS;

	while (now() < end) {
		kill(-1, SIGKILL);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD)
			return true;
		poll(NULL, 0, 5);
	}
	return false;
}

static void start(const char *dir, char *const argv[])
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (chdir(dir))
		die(dir);
	execv(argv[0], argv);
	die(argv[0]);
}

static void run_job(int seconds, const char *dir, const char *cmd)
{
	char *const argv[] = { "/bin/bash", "-c", (char *)cmd, NULL };
	bool scratch = !strcmp(dir, "scratch");
	bool timeout = false;
	int out[2], err[2], status = 0;
	double begin = now(), deadline = begin + seconds, took;
	bool clean;
	pid_t pid;

	if (scratch) {
		dir = "/tmp/scratch";
		try_mount("tmpfs", dir, NULL);
	}
	if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
		die("pipe");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		setsid();
		dup2(open("/dev/null", O_RDONLY), 0);
		dup2(out[1], 1);
		dup2(err[1], 2);
		start(dir, argv);
	}
	close(out[1]);
	close(err[1]);
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	fcntl(err[0], F_SETFL, O_NONBLOCK);

	for (;;) {
		struct pollfd fds[] = {
			{ .fd = child_fd, .events = POLLIN },
			{ .fd = kmsg, .events = POLLIN },
			{ .fd = out[0], .events = POLLIN },
			{ .fd = err[0], .events = POLLIN },
		};
		struct signalfd_siginfo info;
		bool done = false;
		pid_t dead;

		if (now() >= deadline) {
			timeout = true;
			framef("err", "timeout after %d s, at:\n", seconds);
			show_processes();
			break;
		}
		poll(fds, 4, (deadline - now()) * 1000 + 1);
		while (read(child_fd, &info, sizeof(info)) > 0)
			;
		drain_kmsg();
		if (out[0] >= 0 && !drain_pipe(out[0], "out")) {
			close(out[0]);
			out[0] = -1;
		}
		if (err[0] >= 0 && !drain_pipe(err[0], "err")) {
			close(err[0]);
			err[0] = -1;
		}
		while ((dead = waitpid(-1, &status, WNOHANG)) > 0) {
			if (dead == pid) {
				done = true;
				break;
			}
		}
		if (done)
			break;
	}
	took = now() - begin;
	clean = reap_all();
	if (out[0] >= 0) {
		drain_pipe(out[0], "out");
		close(out[0]);
	}
	if (err[0] >= 0) {
		drain_pipe(err[0], "err");
		close(err[0]);
	}
	if (scratch)
		umount2("/tmp/scratch", MNT_DETACH);
	drain_kmsg();
	if (!clean)
		framef("end", "stuck %.3f", took);
	else if (timeout)
		framef("end", "timeout %.3f", took);
	else if (WIFSIGNALED(status))
		framef("end", "signal %.3f %d", took, WTERMSIG(status));
	else
		framef("end", "exit %.3f %d", took, WEXITSTATUS(status));
}

static void run_shell(const char *tty, struct winsize *size, const char *dir)
{
	char *const argv[] = { "/bin/bash", "-i", NULL };
	int status = 0;
	pid_t pid = fork();

	if (!pid) {
		int fd;

		setsid();
		fd = open(tty, O_RDWR);
		if (fd < 0)
			die(tty);
		ioctl(fd, TIOCSCTTY, 1);
		ioctl(fd, TIOCSWINSZ, size);
		for (int i = 0; i < 3; i++)
			dup2(fd, i);
		start(dir, argv);
	}
	while (waitpid(-1, &status, 0) != pid)
		;
	drain_kmsg();
	framef("end", "exit 0 %d", WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

/* Status 1: there is no kmemleak, or it is off. */
static void find_leaks(void)
{
	static const char file[] = "/sys/kernel/debug/kmemleak";
	double begin = now();
	bool on = write_file(file, "scan");

	if (on) {
		sleep(LEAK_AGE);
		/* an object whose checksum changes between two scans is in use */
		write_file(file, "scan");
		write_file(file, "scan");
		cat("out", file);
	}
	drain_kmsg();
	framef("end", "exit %.3f %d", now() - begin, on ? 0 : 1);
}

static void open_channel(void)
{
	const char *pattern = getenv("LAB_CHAN");
	struct termios raw;
	glob_t found;

	if (!pattern)
		die("LAB_CHAN is not set");
	/* a virtio port appears some time after its device, numbered after others */
	for (int i = 0; chan < 0 && i < 1000; i++) {
		if (glob(pattern, 0, NULL, &found)) {
			poll(NULL, 0, 10);
			continue;
		}
		chan = open(found.gl_pathv[0], O_RDWR | O_CLOEXEC | O_NOCTTY);
		globfree(&found);
	}
	if (chan < 0)
		die(pattern);
	if (!tcgetattr(chan, &raw)) {
		cfmakeraw(&raw);
		tcsetattr(chan, TCSANOW, &raw);
	}
}

int main(void)
{
	char line[8192], dir[4096];
	struct winsize size = { 0 };
	int seconds;
	size_t len;
	sigset_t set;

	mount_early();
	/* a test may take the root file system away */
	if (mlockall(MCL_CURRENT))
		perror("init: mlockall");
	open_channel();
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	child_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	framef("hello", "%.3f", now());

	for (;;) {
		char *text = NULL;

		read_line(line, sizeof(line));
		if (sscanf(line, "repo %zu", &len) == 1) {
			text = read_bytes(len);
			snprintf(repo, sizeof(repo), "%s", text);
			mount_late();
			arm_fault_injection();
			loopback_up();
			if (sethostname("lab", strlen("lab")))
				perror("init: sethostname");
			set_limits();
			set_env();
			drain_kmsg();
			framef("end", "exit 0 0");
		} else if (sscanf(line, "job %d %4095s %zu", &seconds, dir, &len) == 3) {
			text = read_bytes(len);
			run_job(seconds, strcmp(dir, "repo") ? dir : repo, text);
		} else if (sscanf(line, "shell %4095s %hu %hu %zu", dir, &size.ws_row,
				  &size.ws_col, &len) == 4) {
			text = read_bytes(len);
			run_shell(dir, &size, text);
		} else if (!strcmp(line, "leak")) {
			find_leaks();
		} else {
			die(line);
		}
		free(text);
	}
}
