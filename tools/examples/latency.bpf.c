// SPDX-License-Identifier: MIT
#include "pybpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u64);
} started SEC(".maps");

__u64 slots[64];
__u64 calls;

static __always_inline __u64 place(void *ctx)
{
	// One thread may be in several functions at a time.
	return bpf_get_current_pid_tgid() ^ bpf_get_attach_cookie(ctx) << 40;
}

SEC("fentry.multi")
int on_entry(void *ctx)
{
	__u64 key = place(ctx), now = bpf_ktime_get_ns();

	bpf_map_update_elem(&started, &key, &now, 0);
	return 0;
}

SEC("fexit.multi")
int on_exit(void *ctx)
{
	__u64 key = place(ctx), *start = bpf_map_lookup_elem(&started, &key), spent;
	__u32 slot = 0;

	if (!start)
		return 0;
	spent = bpf_ktime_get_ns() - *start;
	bpf_map_delete_elem(&started, &key);
	for (int shift = 32; shift; shift >>= 1)
		if (spent >> shift) {
			spent >>= shift;
			slot += shift;
		}
	__sync_fetch_and_add(&slots[slot & 63], 1);
	__sync_fetch_and_add(&calls, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
