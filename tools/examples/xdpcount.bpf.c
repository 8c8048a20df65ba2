// SPDX-License-Identifier: MIT
#include "pybpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

struct xdp_md {
	__u32 data;
	__u32 data_end;
};

SEC("xdp")
int count(struct xdp_md *ctx)
{
	__u8 *packet = (void *)(long)ctx->data;
	__u32 protocol;
	__u64 *number;

	// Ethernet with IPv4: its type, and the protocol inside.
	if (packet + 24 > (__u8 *)(long)ctx->data_end || packet[12] != 8 || packet[13] != 0)
		return XDP_PASS;
	protocol = packet[23];
	number = bpf_map_lookup_elem(&packets, &protocol);
	if (number)
		++*number;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
