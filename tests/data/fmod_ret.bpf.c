// SPDX-License-Identifier: MIT
// fmod_ret decides what a function returns; a fexit program sees the decided value.
// security_task_getpgid(p) is called by getpgid(); every kernel lets it be modified.
#include "pybpf.h"

const volatile __u32 my_tgid = 0;

__s32 decided = 0;
__s64 seen_ret = 1;
__u64 fmod_cookie = 0;
__u64 runs = 0;

static __always_inline int mine(void)
{
	return (bpf_get_current_pid_tgid() >> 32) == my_tgid;
}

SEC("fmod_ret/security_task_getpgid")
int BPF_PROG(on_modify, void *task, int ret)
{
	if (!mine())
		return 0;
	fmod_cookie = bpf_get_attach_cookie(ctx);
	runs++;
	return decided;
}

SEC("fexit/security_task_getpgid")
int BPF_PROG(on_exit, void *task, int ret)
{
	if (mine())
		seen_ret = ret;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
