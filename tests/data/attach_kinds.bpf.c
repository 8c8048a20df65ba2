// SPDX-License-Identifier: MIT
// One program per way of attaching; each counts its runs of one process and keeps its cookie.
#include "pybpf.h"

const volatile __u32 my_tgid = 0;

struct hit {
	__u64 count;
	__u64 cookie;
};

struct hit tp_hits, raw_tp_hits, tp_btf_hits, kprobe_hits, kretprobe_hits, multi_hits;
struct hit ret_multi_hits, fmod_hits, ksyscall_hits, kretsyscall_hits, session_hits;
__s64 kretprobe_value;

static __always_inline int mine(void)
{
	return my_tgid == 0 || (bpf_get_current_pid_tgid() >> 32) == my_tgid;
}

static __always_inline void note(struct hit *hit, void *ctx)
{
	if (mine()) {
		hit->count++;
		hit->cookie = bpf_get_attach_cookie(ctx);
	}
}

SEC("tracepoint/syscalls/sys_enter_getpgid")
int on_tp(void *ctx)
{
	note(&tp_hits, ctx);
	return 0;
}

SEC("raw_tp/sys_enter")
int on_raw_tp(void *ctx)
{
	if (mine())
		raw_tp_hits.count++;
	return 0;
}

SEC("tp_btf/sys_enter")
int on_tp_btf(unsigned long long *ctx)
{
	if (mine() && ctx[1] == 121) // __NR_getpgid
		tp_btf_hits.count++;
	return 0;
}

SEC("kprobe/__x64_sys_getpgid")
int on_kprobe(void *ctx)
{
	note(&kprobe_hits, ctx);
	return 0;
}

SEC("kretprobe/__x64_sys_getpgid")
int on_kretprobe(struct pt_regs *ctx)
{
	if (mine())
		kretprobe_value = PT_REGS_RC(ctx);
	note(&kretprobe_hits, ctx);
	return 0;
}

SEC("kprobe.multi/__x64_sys_getpgi?")
int on_multi(void *ctx)
{
	note(&multi_hits, ctx);
	return 0;
}

SEC("kretprobe.multi/__x64_sys_getpgid")
int on_ret_multi(void *ctx)
{
	note(&ret_multi_hits, ctx);
	return 0;
}

SEC("ksyscall/getpgid")
int on_ksyscall(void *ctx)
{
	note(&ksyscall_hits, ctx);
	return 0;
}

SEC("kretsyscall/getpgid")
int on_kretsyscall(void *ctx)
{
	note(&kretsyscall_hits, ctx);
	return 0;
}

SEC("kprobe.session/__x64_sys_getpgi?")
int on_session(void *ctx)
{
	note(&session_hits, ctx);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
