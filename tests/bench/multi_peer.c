// What attaching to many functions costs without a loader: the system calls alone, on ids,
// addresses and instructions that bench_multi.py wrote down beforehand. Also the caller of
// getpgid() whose calls are counted.
//
// A static program without libc (gcc -static -nostdlib), so that it runs in any guest.
//
//	multi_peer attach < JOB     attach, then detach; prints nanoseconds of each (two u64)
//	multi_peer calls BATCHES CALLS NUMBER
//	                            least nanoseconds of BATCHES batches of CALLS system calls (one u64)
//	multi_peer mix BATCHES CALLS HOT NUMBER...
//	                            the same of batches of CALLS calls of each of the first HOT system
//	                            calls, and one of each other

#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <asm/unistd_64.h>

typedef unsigned int u32;
typedef unsigned long long u64;

enum { TOGETHER, CLONES, KPROBES };

// One job: a `struct job`, then its groups. All in memory order of this machine.
struct job {
	u32 how;         // how links are made, see above
	u32 prog_type, attach_type;
	u32 btf_fd;      // of the object, inherited
	u32 perf_type;   // PMU of KPROBES
	u32 groups;
};

// Followed by instructions, func_info, line_info, places and ids of functions.
struct group {
	u32 insns, funcs, lines, count;
};

struct func_info { u32 insn_off, type_id; };
struct line_info { u32 insn_off, file_name_off, line_off, line_col; };

static long sys(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

void *memset(void *to, int value, unsigned long size)
{
	for (unsigned long i = 0; i < size; i++)
		((volatile char *)to)[i] = (char)value;
	return to;
}

static u64 now(void)
{
	long t[2];

	sys(__NR_clock_gettime, 1, (long)t, 0, 0, 0, 0); // CLOCK_MONOTONIC
	return (u64)t[0] * 1000000000ull + (u64)t[1];
}

static void stop(const char *what, long error)
{
	char text[8] = "  errno ";
	char digits[5] = { '0' + (char)(-error / 100 % 10), '0' + (char)(-error / 10 % 10),
			   '0' + (char)(-error % 10), '\n' };
	int length = 0;

	while (what[length])
		length++;
	sys(__NR_write, 2, (long)what, length, 0, 0, 0);
	sys(__NR_write, 2, (long)text, 8, 0, 0, 0);
	sys(__NR_write, 2, (long)digits, 4, 0, 0, 0);
	sys(__NR_exit_group, 1, 0, 0, 0, 0, 0);
}

static int checked(const char *what, long result)
{
	if (result < 0)
		stop(what, result);
	return (int)result;
}

static int bpf(const char *what, int command, union bpf_attr *attr, unsigned long size)
{
	return checked(what, sys(__NR_bpf, command, (long)attr, (long)size, 0, 0, 0));
}

// At the end of bpf_attr.link_create on kernels that have it; headers of Debian 12 do not.
struct link_tracing_multi {
	u32 prog_fd, target_fd, attach_type, flags;
	u64 ids, cookies;
	u32 cnt, padding;
};

static char input[8 << 20];
static int links[1 << 14], events[1 << 14];

static int load(const struct job *job, const struct group *group, const char *insns,
		const char *funcs, const char *lines, u32 btf_id)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = job->prog_type;
	attr.expected_attach_type = job->attach_type;
	attr.insn_cnt = group->insns;
	attr.insns = (u64)insns;
	attr.license = (u64) "GPL";
	attr.prog_btf_fd = job->btf_fd;
	attr.func_info_rec_size = sizeof(struct func_info);
	attr.func_info = (u64)funcs;
	attr.func_info_cnt = group->funcs;
	attr.line_info_rec_size = sizeof(struct line_info);
	attr.line_info = (u64)lines;
	attr.line_info_cnt = group->lines;
	attr.attach_btf_id = btf_id;
	return bpf("BPF_PROG_LOAD", BPF_PROG_LOAD, &attr, sizeof(attr));
}

static int link_many(const struct job *job, int program, const u64 *places, const u32 *ids, u32 count)
{
	union bpf_attr attr;
	struct link_tracing_multi multi;

	if (job->prog_type == BPF_PROG_TYPE_TRACING) {
		memset(&multi, 0, sizeof(multi));
		multi.prog_fd = (u32)program;
		multi.attach_type = job->attach_type;
		multi.ids = (u64)ids;
		multi.cnt = count;
		return bpf("tracing_multi link", BPF_LINK_CREATE, (union bpf_attr *)&multi, sizeof(multi));
	}
	memset(&attr, 0, sizeof(attr));
	attr.link_create.prog_fd = (u32)program;
	attr.link_create.attach_type = job->attach_type;
	attr.link_create.kprobe_multi.addrs = (u64)places;
	attr.link_create.kprobe_multi.cnt = count;
	return bpf("kprobe.multi link", BPF_LINK_CREATE, &attr, sizeof(attr));
}

static int link_one(int program, u32 target, u32 attach_type)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.link_create.prog_fd = (u32)program;
	attr.link_create.target_fd = target;
	attr.link_create.attach_type = attach_type;
	return bpf("link", BPF_LINK_CREATE, &attr, sizeof(attr));
}

static int open_kprobe(const struct job *job, u64 place)
{
	struct perf_event_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.size = sizeof(attr);
	attr.type = job->perf_type;
	attr.config2 = place; // kprobe_addr
	return checked("perf_event_open",
		       sys(__NR_perf_event_open, (long)&attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC, 0));
}

static void attach(void)
{
	const struct job *job = (const struct job *)input;
	const char *at = input + sizeof(*job);
	u64 times[3];
	int made = 0;
	long size = 0, got;

	while ((got = sys(__NR_read, 0, (long)input + size, (long)sizeof(input) - size, 0, 0, 0)) > 0)
		size += got;
	times[0] = now();
	for (u32 g = 0; g < job->groups; g++) {
		const struct group *group = (const struct group *)at;
		const char *insns = at + sizeof(*group);
		const char *funcs = insns + 8ul * group->insns;
		const char *lines = funcs + sizeof(struct func_info) * group->funcs;
		const u64 *places = (const u64 *)(lines + sizeof(struct line_info) * group->lines);
		const u32 *ids = (const u32 *)(places + group->count);
		int program = -1;

		if (job->how != CLONES)
			program = load(job, group, insns, funcs, lines, 0);
		if (job->how == TOGETHER)
			links[made++] = link_many(job, program, places, ids, group->count);
		for (u32 i = 0; job->how != TOGETHER && i < group->count; i++) {
			if (job->how == CLONES) {
				program = load(job, group, insns, funcs, lines, ids[i]);
				links[made] = link_one(program, 0, job->attach_type);
				sys(__NR_close, program, 0, 0, 0, 0, 0);
			} else {
				events[made] = open_kprobe(job, places[i]);
				links[made] = link_one(program, (u32)events[made], BPF_PERF_EVENT);
			}
			made++;
		}
		if (job->how != CLONES)
			sys(__NR_close, program, 0, 0, 0, 0, 0);
		at = (const char *)(ids + (group->count + 1) / 2 * 2);
	}
	times[1] = now();
	while (made--) {
		sys(__NR_close, links[made], 0, 0, 0, 0, 0);
		if (job->how == KPROBES)
			sys(__NR_close, events[made], 0, 0, 0, 0, 0);
	}
	times[2] = now();
	times[0] = times[1] - times[0];
	times[1] = times[2] - times[1];
	sys(__NR_write, 1, (long)times, 16, 0, 0, 0);
}

static long number(const char *text)
{
	long value = 0;

	while (*text)
		value = 10 * value + *text++ - '0';
	return value;
}

// The arguments make each of the calls that are counted fail or end at once.
static void call_each(long times, const long *numbers, long count)
{
	for (long i = 0; i < times; i++)
		for (long n = 0; n < count; n++)
			sys(numbers[n], 0, 4096, 1, 1, -1, 0);
}

static void calls(long batches, long times, const long *numbers, long hot, long count)
{
	u64 least = ~0ull;

	while (batches--) {
		u64 start = now(), took;

		call_each(times, numbers, hot);
		call_each(1, numbers + hot, count - hot);
		took = now() - start;
		least = took < least ? took : least;
	}
	sys(__NR_write, 1, (long)&least, 8, 0, 0, 0);
}

__attribute__((used)) void run(long *stack)
{
	char **arguments = (char **)(stack + 1);
	long numbers[512], count = 0;

	for (long i = 2; i < stack[0] && count < 512; i++)
		numbers[count++] = number(arguments[i]);
	if (stack[0] < 5)
		attach();
	else if (arguments[1][0] == 'c')
		calls(numbers[0], numbers[1], numbers + 2, 1, 1);
	else
		calls(numbers[0], numbers[1], numbers + 3, numbers[2], count - 3);
	sys(__NR_exit_group, 0, 0, 0, 0, 0, 0);
}

__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call run\n");
