// SPDX-License-Identifier: MIT
#include "pybpf.h"

struct key {
	__u32 pid;
	__s32 user;
	__s32 kernel;
};

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 16384);
	__uint(key_size, 4);
	__uint(value_size, 127 * 8);
} stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct key);
	__type(value, __u64);
} counts SEC(".maps");

SEC("perf_event")
int on_sample(void *ctx)
{
	__u64 zero = 0, *count;
	struct key key = {
		.pid = bpf_get_current_pid_tgid() >> 32,
		.user = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK),
		.kernel = bpf_get_stackid(ctx, &stacks, 0),
	};

	if (!key.pid) // idle
		return 0;
	bpf_map_update_elem(&counts, &key, &zero, BPF_NOEXIST);
	count = bpf_map_lookup_elem(&counts, &key);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
