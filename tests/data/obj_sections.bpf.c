/* SPDX-License-Identifier: MIT */
/* Section names: several programs in one, a leading "?", unknown ones, ones that
 * pybpf.trampoline handles, and a target with a module. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";
int VERSION SEC("version") = 0x060100;

SEC("kprobe/vfs_read")
int probe_a(void *ctx)
{
	return 1;
}

SEC("?kprobe/vfs_write")
int not_loaded(void *ctx)
{
	return 2;
}

SEC("kprobe/vfs_read")
int probe_b(void *ctx)
{
	return 3;
}

SEC("pybpf_unknown/x")
int unknown(void *ctx)
{
	return 4;
}

SEC("fentry.multi.s/nf_tables:nft_*")
int multi(void *ctx)
{
	return 5;
}

SEC("fexit.multi")
int bare_multi(void *ctx)
{
	return 6;
}

SEC("uprobe.s//usr/bin/env:main+0x10")
int user(void *ctx)
{
	return 7;
}

SEC("xdp.frags")
int frags(void *ctx)
{
	return 2;
}
