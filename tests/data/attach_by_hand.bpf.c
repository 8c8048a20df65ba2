// SPDX-License-Identifier: MIT
// Programs whose sections do not say where: attached to an interface, a cgroup, a network
// namespace, a place in a file; and one whose section names a function of the C library. Each
// counts its runs in a map.
#include "pybpf.h"

enum way { ON_XDP, ON_EGRESS, ON_UPROBE, ON_URETPROBE, ON_LOOKUP, ON_SYMBOL, WAYS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WAYS);
	__type(key, __u32);
	__type(value, __u64);
} runs SEC(".maps");

struct xdp_md {
	__u32 data;
	__u32 data_end;
};

const volatile __u16 port; // of the packets to count, network byte order
const volatile __u32 my_tgid;
__u64 cookie;

static __always_inline void count(__u32 way)
{
	__u64 *number = bpf_map_lookup_elem(&runs, &way);

	if (number)
		__sync_fetch_and_add(number, 1);
}

SEC("xdp")
int on_xdp(struct xdp_md *ctx)
{
	// Ethernet 14, IPv4 without options 20, then UDP: source port, destination port.
	__u16 *udp = (void *)(long)ctx->data + 34;

	if ((void *)(udp + 2) <= (void *)(long)ctx->data_end && udp[1] == port)
		count(ON_XDP);
	return XDP_PASS;
}

SEC("cgroup_skb/egress")
int on_egress(void *ctx)
{
	count(ON_EGRESS);
	return 1;
}

SEC("uprobe")
int on_uprobe(void *ctx)
{
	cookie = bpf_get_attach_cookie(ctx);
	count(ON_UPROBE);
	return 0;
}

SEC("uretprobe")
int on_uretprobe(void *ctx)
{
	count(ON_URETPROBE);
	return 0;
}

SEC("uprobe/libc.so.6:getppid")
int on_symbol(void *ctx)
{
	if (bpf_get_current_pid_tgid() >> 32 == my_tgid)
		count(ON_SYMBOL);
	return 0;
}

SEC("sk_lookup")
int on_lookup(void *ctx)
{
	count(ON_LOOKUP);
	return 1; // SK_PASS
}

char LICENSE[] SEC("license") = "GPL";
