/* SPDX-License-Identifier: MIT */
/* Linking of functions: static and global ones, nested, shared by two programs
 * in different order, callbacks by address, a hidden and a weak function. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

static __noinline int leaf(int x)
{
	return bpf_get_prandom_u32() ^ x;
}

static __noinline int middle(int x)
{
	return leaf(x) + leaf(x + 1);
}

__noinline int global_one(int x)
{
	return middle(x) + 1;
}

__hidden __noinline int hidden_one(int x)
{
	return leaf(x) * 3;
}

__weak __noinline int weak_one(int x)
{
	return bpf_get_prandom_u32() - x;
}

static long static_callback(__u32 index, void *ctx)
{
	*(long *)ctx += index;
	return 0;
}

long global_callback(__u32 index, long long ctx)
{
	return index > 3;
}

__noinline int never_called(int x)
{
	return x + (int)bpf_get_prandom_u32();
}

SEC("socket")
int first(void *ctx)
{
	return global_one(1) + leaf(2) + hidden_one(3);
}

SEC("socket")
int second(void *ctx)
{
	return weak_one(7) + leaf(2) + global_one(1);
}

SEC("socket")
int callbacks(void *ctx)
{
	long sum = 0;

	bpf_loop(4, static_callback, &sum, 0);
	bpf_loop(4, global_callback, &sum, 0);
	return leaf(sum);
}

SEC("socket")
int alone(void *ctx)
{
	return 42;
}
