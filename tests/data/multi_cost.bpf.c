// SPDX-License-Identifier: MIT
// What tests/bench/bench_multi.py counts and times: multi programs that read slots and do nothing
// else, the same programs written by hand as standard ones, and frames as clang makes them.
// No maps. A volatile read is a load whose result nobody uses.
#include "pybpf.h"

typedef volatile __u64 slots_t;

static __always_inline void read6(slots_t *ctx)
{
	ctx[0];
	ctx[1];
	ctx[2];
	ctx[3];
	ctx[4];
	ctx[5];
}

/* ---- multi programs ------------------------------------------------------ */

SEC("fentry.multi")
int entry_0(slots_t *ctx)
{
	return 0;
}

SEC("fentry.multi")
int entry_1(slots_t *ctx)
{
	ctx[0];
	return 0;
}

SEC("fentry.multi")
int entry_6(slots_t *ctx)
{
	read6(ctx);
	return 0;
}

SEC("fexit.multi")
int exit_0(slots_t *ctx)
{
	return 0;
}

SEC("fexit.multi")
int exit_1(slots_t *ctx)
{
	ctx[0];
	ctx[6];
	return 0;
}

SEC("fexit.multi")
int exit_6(slots_t *ctx)
{
	read6(ctx);
	ctx[6];
	return 0;
}

SEC("fexit.multi")
int exit_ret(slots_t *ctx)
{
	ctx[6];
	return 0;
}

/* ---- what the recursion guard adds: these call something that can be traced ---- */

SEC("fentry.multi")
int entry_calls(slots_t *ctx)
{
	ctx[0];
	bpf_get_prandom_u32();
	return 0;
}

SEC("fexit.multi")
int exit_calls(slots_t *ctx)
{
	ctx[0];
	ctx[6];
	bpf_get_prandom_u32();
	return 0;
}

// No callee-saved register is left for the guard.
SEC("fentry.multi")
int entry_calls_full(slots_t *ctx)
{
	ctx[0];
	bpf_get_prandom_u32();
	asm volatile("r6 = 0; r7 = 0; r8 = 0; r9 = 0" ::: "r6", "r7", "r8", "r9");
	return 0;
}

/* ---- by hand, for functions of one slot and of six ------------------------ */

SEC("?fentry")
int std_entry_1(slots_t *ctx)
{
	ctx[0];
	return 0;
}

SEC("?fentry")
int std_entry_6(slots_t *ctx)
{
	read6(ctx);
	return 0;
}

// All that there is of entry_6 on a function of one slot.
SEC("?fexit")
int std_exit_1(slots_t *ctx)
{
	ctx[0];
	ctx[1];
	return 0;
}

SEC("?fexit")
int std_exit_6(slots_t *ctx)
{
	read6(ctx);
	ctx[6];
	return 0;
}

/* ---- a frame by hand: return value first, then the arguments -------------- */

static __noinline int body_entry_1(slots_t *frame)
{
	frame[1];
	return 0;
}

static __noinline int body_entry_6(slots_t *frame)
{
	read6(frame + 1);
	return 0;
}

static __noinline int body_exit_1(slots_t *frame)
{
	frame[1];
	frame[0];
	return 0;
}

static __noinline int body_exit_6(slots_t *frame)
{
	read6(frame + 1);
	frame[0];
	return 0;
}

#define FILL(slots, ret)                                       \
	__u64 frame[1 + (slots)] = {};                         \
	for (int i = 0; i < (slots); i++)                      \
		bpf_get_func_arg(ctx, i, &frame[1 + i]);       \
	if (ret)                                               \
		bpf_get_func_ret(ctx, &frame[0]);

SEC("?fentry")
int frame_entry_1(void *ctx)
{
	FILL(1, 0);
	return body_entry_1(frame);
}

SEC("?fentry")
int frame_entry_6(void *ctx)
{
	FILL(6, 0);
	return body_entry_6(frame);
}

SEC("?fexit")
int frame_exit_1(void *ctx)
{
	FILL(1, 1);
	return body_exit_1(frame);
}

SEC("?fexit")
int frame_exit_6(void *ctx)
{
	FILL(6, 1);
	return body_exit_6(frame);
}

/* ---- kprobes -------------------------------------------------------------- */

SEC("?kprobe.multi")
int kprobe_0(void *ctx)
{
	return 0;
}

SEC("?kretprobe.multi")
int kretprobe_0(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
