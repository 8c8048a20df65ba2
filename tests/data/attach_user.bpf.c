// SPDX-License-Identifier: MIT
// Programs on places of user space: static probes with their arguments, and many functions of one
// library by one link. Each keeps what it saw of one process.
#include "pybpf.h"
#include "usdt.h"

struct seen {
	__u64 hits;
	__u64 cookie;
	__s64 count;
	__s64 args[BPF_USDT_MAX_ARG_CNT];
	__s32 errors[BPF_USDT_MAX_ARG_CNT];
};

const volatile __u32 my_tgid;
struct seen probe, named;
__u64 entries, returns, session_entries, session_returns, cookies;

static __always_inline bool is_mine(void)
{
	return bpf_get_current_pid_tgid() >> 32 == my_tgid;
}

static __always_inline void keep(struct pt_regs *ctx, struct seen *to)
{
	if (!is_mine())
		return;
	to->hits++;
	to->cookie = bpf_usdt_cookie(ctx);
	to->count = bpf_usdt_arg_cnt(ctx);
	for (int i = 0; i < BPF_USDT_MAX_ARG_CNT; i++)
		to->errors[i] = bpf_usdt_arg(ctx, i, (long *)&to->args[i]);
}

SEC("usdt")
int on_probe(struct pt_regs *ctx)
{
	keep(ctx, &probe);
	return 0;
}

SEC("usdt/./libprobes.so:shop:sold")
int on_named(struct pt_regs *ctx)
{
	keep(ctx, &named);
	return 0;
}

SEC("uprobe.multi/./libprobes.so:step_*")
int on_entry(struct pt_regs *ctx)
{
	if (is_mine()) {
		entries++;
		cookies += bpf_get_attach_cookie(ctx);
	}
	return 0;
}

SEC("uretprobe.multi")
int on_return(struct pt_regs *ctx)
{
	if (is_mine())
		returns++;
	return 0;
}

extern bool bpf_session_is_return(void) __ksym __weak;

SEC("?uprobe.session")
int on_both(struct pt_regs *ctx)
{
	if (!is_mine())
		return 0;
	if (bpf_session_is_return())
		session_returns++;
	else
		session_entries++;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
