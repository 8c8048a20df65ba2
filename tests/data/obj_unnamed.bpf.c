/* SPDX-License-Identifier: MIT */
/* One parameter has no name. The kernel refuses BTF with such a function. */
#include "pybpf.h"

#pragma clang diagnostic ignored "-Wc23-extensions"

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

SEC("socket")
int unnamed(void *)
{
	__u32 key = 0;
	__u64 value = 1;

	bpf_map_update_elem(&counts, &key, &value, BPF_ANY);
	return 7;
}
