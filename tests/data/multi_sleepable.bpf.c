// SPDX-License-Identifier: MIT
// Sleepable multi programs: each counts its runs.
#include "pybpf.h"

__u64 entries, exits;

SEC("fentry.multi.s/__x64_sys_getp*")
int on_entry(void *ctx)
{
	__sync_fetch_and_add(&entries, 1);
	return 0;
}

SEC("fexit.multi.s/__x64_sys_getp*")
int on_exit(void *ctx)
{
	__sync_fetch_and_add(&exits, 1);
	return 0;
}

// What standard programs are refused on, multi programs are.
SEC("?fentry.s/__x64_sys_getpgid")
int standard(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
