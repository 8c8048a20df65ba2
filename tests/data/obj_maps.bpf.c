/* SPDX-License-Identifier: MIT */
/* Map definitions: all members, maps of maps and program arrays with initial
 * values, sizes that need rounding. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

struct key {
	__u32 pid;
	__u32 cpu;
};

typedef struct key key_alias;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE);
	__uint(numa_node, 0);
	__uint(pinning, 1);
	__type(key, key_alias);
	__type(value, __u64[4]);
} by_type SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 24);
	__uint(max_entries, 3);
} by_size SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(key_size, sizeof(struct key));
	__type(key, struct key);
	__type(value, int);
	__uint(value_size, 4);
	__uint(max_entries, 1);
} by_both SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 5000);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
	__type(value, __u32);
	__uint(max_entries, 100);
	__ulong(map_extra, 3);
} bloom SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARENA);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 100);
	__ulong(map_extra, 0x100000000000ull);
} arena SEC(".maps");

struct inner_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, int);
	__type(value, int);
};

struct inner_map inner_a SEC(".maps");
struct inner_map inner_b SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4);
	__type(key, int);
	__array(values, struct inner_map);
} outer SEC(".maps") = {
	.values = { [0] = &inner_b, [2] = &inner_a },
};

int tail_a(void *ctx);
int tail_b(void *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 8);
	__uint(key_size, sizeof(int));
	__array(values, int(void *));
} jumps SEC(".maps") = {
	.values = { [1] = &tail_a, [6] = &tail_b },
};

SEC("socket/a")
int unknown_extra(void *ctx)
{
	return 0;
}

SEC("socket")
int tail_a(void *ctx)
{
	return 1;
}

SEC("socket")
int tail_b(void *ctx)
{
	return 2;
}

SEC("socket")
int use(void *ctx)
{
	int zero = 0;
	struct key key = {};

	bpf_map_lookup_elem(&by_type, &key);
	bpf_map_lookup_elem(&by_size, &zero);
	bpf_map_lookup_elem(&outer, &zero);
	bpf_map_lookup_elem(&inner_b, &zero);
	bpf_tail_call(ctx, &jumps, 1);
	return 0;
}
