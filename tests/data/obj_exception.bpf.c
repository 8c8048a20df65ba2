/* SPDX-License-Identifier: MIT */
/* An exception callback: a function that only a declaration tag refers to. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

extern void bpf_throw(__u64 cookie) __ksym;

int other(__u64 cookie)
{
	return 3;
}

int on_exception(__u64 cookie)
{
	return cookie > 2 ? 1 : 0;
}

SEC("tc")
__attribute__((btf_decl_tag("exception_callback:on_exception")))
int thrower(void *ctx)
{
	if (bpf_get_prandom_u32() == 1)
		bpf_throw(5);
	return 0;
}

SEC("tc")
int plain(void *ctx)
{
	return 0;
}
