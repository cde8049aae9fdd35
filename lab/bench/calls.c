// SPDX-License-Identifier: GPL-2.0
/*
 * A plugin of QEMU that counts how often each function of the kernel is entered,
 * and how many instructions it executes. The kernel is the one that is measured
 * otherwise, nothing is traced and nothing is patched into it.
 *
 *	-plugin calls.so,map=System.map,out=FILE
 *
 * The guest has the counts written, and set to 0, by getsid(2), which it doesn't
 * need for anything else: "mark N", and a line "FUNCTION CALLS INSTRUCTIONS" for
 * each function that was executed. What isn't the kernel is "user".
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is used of version 1 of the interface, which Debian has no header for */
typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info_t;
enum { QEMU_PLUGIN_CB_NO_REGS };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
		void (*cb)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb,
		void (*cb)(unsigned int vcpu, void *data), int flags, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

#define KERNEL		0xffffffff80000000ULL
#define MARK		"__x64_sys_getsid"

struct function {
	uint64_t addr;
	char name[64];
	uint64_t calls;
	uint64_t insns;
};

/* A piece of code: instructions that are executed together */
struct piece {
	struct function *fn;
	unsigned int nr_insns;
	bool entry;
};

static struct function *fns, user = { .name = "user" };
static size_t nr_fns;
static unsigned int marks;
static FILE *out;

static struct function *find(uint64_t addr)
{
	size_t low = 0, high = nr_fns;

	if (addr < KERNEL || addr < fns[0].addr)
		return &user;
	while (high - low > 1) {
		size_t mid = (low + high) / 2;

		if (fns[mid].addr <= addr)
			low = mid;
		else
			high = mid;
	}
	return &fns[low];
}

static void dump(struct function *fn)
{
	if (fn->insns)
		fprintf(out, "%s %" PRIu64 " %" PRIu64 "\n", fn->name, fn->calls,
			fn->insns);
	fn->calls = fn->insns = 0;
}

static void executed(unsigned int vcpu, void *data)
{
	struct piece *p = data;

	p->fn->insns += p->nr_insns;
	p->fn->calls += p->entry;
}

static void marked(unsigned int vcpu, void *data)
{
	fprintf(out, "mark %u\n", marks++);
	for (size_t i = 0; i < nr_fns; i++)
		dump(&fns[i]);
	dump(&user);
	fflush(out);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	uint64_t addr = qemu_plugin_tb_vaddr(tb);
	/* as long as QEMU may execute what it has translated, which is to its end */
	struct piece *p = malloc(sizeof(*p));

	if (!p)
		abort();
	p->fn = find(addr);
	p->nr_insns = qemu_plugin_tb_n_insns(tb);
	p->entry = p->fn->addr == addr;
	if (p->entry && !strcmp(p->fn->name, MARK))
		qemu_plugin_register_vcpu_tb_exec_cb(tb, marked,
						     QEMU_PLUGIN_CB_NO_REGS, NULL);
	else
		qemu_plugin_register_vcpu_tb_exec_cb(tb, executed,
						     QEMU_PLUGIN_CB_NO_REGS, p);
}

/* System.map is sorted by address; of several names the first has to do */
static bool read_map(const char *path)
{
	uint64_t addr, last = 0;
	char line[512], name[256], type;
	size_t room = 0;
	FILE *f;

	f = fopen(path, "r");
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNx64 " %c %255s", &addr, &type, name) != 3 ||
		    !strchr("tTwW", type) || addr < KERNEL || addr == last)
			continue;
		if (nr_fns == room) {
			room = room ? 2 * room : 65536;
			fns = realloc(fns, room * sizeof(*fns));
			if (!fns)
				abort();
		}
		fns[nr_fns] = (struct function){ .addr = addr };
		snprintf(fns[nr_fns].name, sizeof(fns[nr_fns].name), "%.63s", name);
		nr_fns++;
		last = addr;
	}
	fclose(f);
	return nr_fns;
}

__attribute__((visibility("default")))
int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info,
			int argc, char **argv)
{
	const char *map = NULL;

	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "map=", 4))
			map = argv[i] + 4;
		else if (!strncmp(argv[i], "out=", 4))
			out = fopen(argv[i] + 4, "w");
	}
	if (!map || !out || !read_map(map)) {
		fprintf(stderr, "calls: map= or out= is missing, or no file\n");
		return 1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
