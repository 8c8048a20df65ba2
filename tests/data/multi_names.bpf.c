// SPDX-License-Identifier: MIT
// A multi program that counts its runs by cookie and reads nothing of the function.
#include "pybpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} runs SEC(".maps");

SEC("fentry.multi")
int by_cookie(void *ctx)
{
	__u32 cookie = bpf_get_attach_cookie(ctx);
	__u64 *count = bpf_map_lookup_elem(&runs, &cookie);

	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
