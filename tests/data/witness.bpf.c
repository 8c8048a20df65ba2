// SPDX-License-Identifier: MIT
// Multi programs and the witnesses they are compared with. Each adds up what it saw of every
// function (the cookie is the function's number) while `watching` is set, so that sums of equal
// calls are equal whatever their order. Array maps only: looking into them calls no function
// that could itself be traced.
#include "pybpf.h"

#define FUNCTIONS 2048
#define SLOTS 12

struct sums {
	__u64 calls;
	__u64 args[SLOTS];
	__u64 last[2];
	__u64 ret;
	__u64 nargs;
	__u64 ip;
};

#define SEEN(map_name)                              \
	struct {                                    \
		__uint(type, BPF_MAP_TYPE_ARRAY);   \
		__uint(max_entries, FUNCTIONS);     \
		__uint(map_flags, BPF_F_MMAPABLE);  \
		__type(key, __u32);                 \
		__type(value, struct sums);         \
	} map_name SEC(".maps")

SEEN(kprobe_entry_seen);
SEEN(kprobe_exit_seen);
SEEN(entry_slots_seen);
SEEN(entry_helpers_seen);
SEEN(entry_narrow_seen);
SEEN(entry_last_seen);
SEEN(exit_slots_seen);
SEEN(exit_helpers_seen);
SEEN(exit_ret_seen);
SEEN(session_entry_seen);
SEEN(session_exit_seen);
SEEN(std_entry_seen);
SEEN(std_exit_seen);

// Written by user space through its mapping: no system call marks begin and end.
volatile __u32 watching = 0;
const volatile __u32 my_tgid = 0;

static __always_inline struct sums *called(void *map, void *ctx)
{
	struct sums *s;
	__u32 number;

	if (!watching || (bpf_get_current_pid_tgid() >> 32) != my_tgid)
		return NULL;
	number = bpf_get_attach_cookie(ctx);
	s = bpf_map_lookup_elem(map, &number);
	if (s) {
		s->calls++;
		s->ip = bpf_get_func_ip(ctx);
	}
	return s;
}

/* ---- witnesses: plain kprobes ------------------------------------------- */

static __always_inline int witness_entry(struct pt_regs *ctx)
{
	struct sums *s = called(&kprobe_entry_seen, ctx);
	__u64 *stack, v;

	if (!s)
		return 0;
	s->args[0] += PT_REGS_PARM1(ctx);
	s->args[1] += PT_REGS_PARM2(ctx);
	s->args[2] += PT_REGS_PARM3(ctx);
	s->args[3] += PT_REGS_PARM4(ctx);
	s->args[4] += PT_REGS_PARM5(ctx);
	s->args[5] += PT_REGS_PARM6(ctx);
	s->last[0] = PT_REGS_PARM1(ctx);
	s->last[1] = PT_REGS_PARM2(ctx);
	stack = (__u64 *)PT_REGS_SP(ctx);
	for (int i = 6; i < SLOTS; i++) {
		v = 0;
		bpf_probe_read_kernel(&v, sizeof(v), &stack[i - 5]);
		s->args[i] += v;
	}
	return 0;
}

static __always_inline int witness_exit(struct pt_regs *ctx)
{
	struct sums *s = called(&kprobe_exit_seen, ctx);

	if (s)
		s->ret += PT_REGS_RC(ctx);
	return 0;
}

SEC("kprobe")
int kprobe_entry(struct pt_regs *ctx)
{
	return witness_entry(ctx);
}

SEC("kretprobe")
int kprobe_exit(struct pt_regs *ctx)
{
	return witness_exit(ctx);
}

SEC("?kprobe.multi")
int kprobes_entry(struct pt_regs *ctx)
{
	return witness_entry(ctx);
}

SEC("?kretprobe.multi")
int kprobes_exit(struct pt_regs *ctx)
{
	return witness_exit(ctx);
}

/* ---- multi programs ------------------------------------------------------ */

SEC("fentry.multi")
int BPF_PROG(entry_slots, __u64 a, __u64 b, __u64 c, __u64 d, __u64 e, __u64 f)
{
	struct sums *s = called(&entry_slots_seen, ctx);

	if (!s)
		return 0;
	s->args[0] += a;
	s->args[1] += b;
	s->args[2] += c;
	s->args[3] += d;
	s->args[4] += e;
	s->args[5] += f;
	return 0;
}

static __always_inline void all_args(struct sums *s, void *ctx)
{
	for (int i = 0; i < SLOTS; i++) {
		__u64 v = 0;

		bpf_get_func_arg(ctx, i, &v);
		s->args[i] += v;
	}
	s->nargs = bpf_get_func_arg_cnt(ctx);
}

SEC("fentry.multi")
int entry_helpers(void *ctx)
{
	struct sums *s = called(&entry_helpers_seen, ctx);

	if (s)
		all_args(s, ctx);
	return 0;
}

// Parts of slots, as C types narrower than a register make them.
SEC("fentry.multi")
int BPF_PROG(entry_narrow, int a, __u64 b, short c, unsigned char d)
{
	struct sums *s = called(&entry_narrow_seen, ctx);

	if (!s)
		return 0;
	s->args[0] += (__u32)a;
	s->args[1] += b;
	s->args[2] += (__u16)c;
	s->args[3] += d;
	return 0;
}

// No arithmetic: what is a pointer for the verifier may stay one.
SEC("fentry.multi")
int entry_last(__u64 *ctx)
{
	struct sums *s = called(&entry_last_seen, ctx);

	if (!s)
		return 0;
	s->last[0] = ctx[0];
	s->last[1] = ctx[1];
	return 0;
}

SEC("fexit.multi")
int BPF_PROG(exit_slots, __u64 a, __u64 b, __u64 c, __u64 d, __u64 e, __u64 f, __u64 ret)
{
	struct sums *s = called(&exit_slots_seen, ctx);

	if (!s)
		return 0;
	s->args[0] += a;
	s->args[1] += b;
	s->args[2] += c;
	s->args[3] += d;
	s->args[4] += e;
	s->args[5] += f;
	s->ret += ret;
	return 0;
}

SEC("fexit.multi")
int exit_helpers(void *ctx)
{
	struct sums *s = called(&exit_helpers_seen, ctx);
	__u64 ret = 0;

	if (!s)
		return 0;
	all_args(s, ctx);
	bpf_get_func_ret(ctx, &ret);
	s->ret += ret;
	return 0;
}

SEC("fexit.multi")
int exit_ret(__u64 *ctx)
{
	struct sums *s = called(&exit_ret_seen, ctx);

	if (s)
		s->ret += ctx[6];
	return 0;
}

extern _Bool bpf_session_is_return(void *ctx) __ksym __weak;

SEC("fsession.multi")
int session(__u64 *ctx)
{
	struct sums *s;

	if (bpf_session_is_return(ctx)) {
		s = called(&session_exit_seen, ctx);
		if (s)
			s->ret += ctx[6];
	} else {
		s = called(&session_entry_seen, ctx);
		if (s) {
			s->args[0] += ctx[0];
			s->args[1] += ctx[1];
		}
	}
	return 0;
}

// Asks for nothing that any function could lack.
volatile __u64 calls = 0;

SEC("fentry.multi")
int entry_counts(void *ctx)
{
	if (watching && (bpf_get_current_pid_tgid() >> 32) == my_tgid && bpf_get_func_ip(ctx))
		__sync_fetch_and_add(&calls, 1);
	return 0;
}

/* ---- standard programs, for any function --------------------------------- */

SEC("?fentry/bpf_fentry_test1")
int std_entry(void *ctx)
{
	struct sums *s = called(&std_entry_seen, ctx);

	if (s)
		all_args(s, ctx);
	return 0;
}

SEC("?fexit/bpf_fentry_test1")
int std_exit(void *ctx)
{
	struct sums *s = called(&std_exit_seen, ctx);
	__u64 ret = 0;

	if (!s)
		return 0;
	all_args(s, ctx);
	bpf_get_func_ret(ctx, &ret);
	s->ret += ret;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
