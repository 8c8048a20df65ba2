// SPDX-License-Identifier: MIT
#include "pybpf.h"

struct use {
	__u64 calls;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, struct use);
} uses SEC(".maps");

SEC("uprobe/libc.so.6:malloc")
int BPF_UPROBE(on_malloc, __u64 size)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct use first = {}, *use;

	bpf_map_update_elem(&uses, &pid, &first, BPF_NOEXIST);
	use = bpf_map_lookup_elem(&uses, &pid);
	if (use) {
		__sync_fetch_and_add(&use->calls, 1);
		__sync_fetch_and_add(&use->bytes, size);
	}
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
