// SPDX-License-Identifier: MIT
// fmod_ret decides what a function returns; the fexit program sees the decided value.
// test_run calls bpf_modify_return_test(1, &b) with b = 2, which sets b and returns 4.
#include "pybpf.h"

__s32 decided = 0;
__s64 seen_ret = -1;
__u64 fmod_cookie = 0;

SEC("fmod_ret/bpf_modify_return_test")
int BPF_PROG(on_modify, int a, int *b, int ret)
{
	fmod_cookie = bpf_get_attach_cookie(ctx);
	return decided;
}

SEC("fexit/bpf_modify_return_test")
int BPF_PROG(on_exit, int a, int *b, int ret)
{
	seen_ret = ret;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
