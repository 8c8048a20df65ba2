// SPDX-License-Identifier: MIT
// Programs on the network that the caller says where to attach: traffic control, netfilter, sockets
// and maps of sockets; and one program that takes the place of another's function. Each counts its
// runs.
#include "pybpf.h"

enum way {
	TC_IN, TC_OUT, TC_FIRST, NETFILTER, FILTER, VERDICT, MESSAGE, REUSEPORT, SAMPLE, TARGET,
	REPLACED, CGROUP, ENTERED, LEFT, WAYS
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WAYS);
	__type(key, __u32);
	__type(value, __u64);
} runs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

// What ran last of TC_IN and TC_FIRST, which see the same packets.
__u32 last;
__u64 sample_cookie;
const volatile __u32 my_tgid;

static __always_inline void count(__u32 way)
{
	__u64 *number = bpf_map_lookup_elem(&runs, &way);

	if (number)
		__sync_fetch_and_add(number, 1);
}

SEC("tc/ingress")
int tc_in(void *ctx)
{
	count(TC_IN);
	last = TC_IN;
	return -1; // TCX_NEXT
}

SEC("tc")
int tc_first(void *ctx)
{
	count(TC_FIRST);
	last = TC_FIRST;
	return -1;
}

SEC("tcx/egress")
int tc_out(void *ctx)
{
	count(TC_OUT);
	return -1;
}

SEC("netkit/peer")
int on_peer(void *ctx)
{
	count(TC_OUT);
	return -1;
}

SEC("?netfilter")
int on_hook(void *ctx)
{
	count(NETFILTER);
	return 1; // NF_ACCEPT
}

SEC("socket")
int keep_one(void *ctx)
{
	count(FILTER);
	return 1; // one byte of each packet
}

SEC("sk_skb/verdict")
int on_verdict(void *ctx)
{
	count(VERDICT);
	return 1; // SK_PASS
}

SEC("sk_msg")
int on_message(void *ctx)
{
	count(MESSAGE);
	return 1;
}

SEC("sk_skb")
int on_either(void *ctx)
{
	return 1;
}

SEC("sk_reuseport")
int on_choice(void *ctx)
{
	count(REUSEPORT);
	return 1; // SK_PASS
}

SEC("perf_event")
int on_sample(void *ctx)
{
	if (bpf_get_current_pid_tgid() >> 32 == my_tgid) {
		count(SAMPLE);
		sample_cookie = bpf_get_attach_cookie(ctx);
	}
	return 0;
}

SEC("cgroup_skb/egress")
int on_egress(void *ctx)
{
	count(CGROUP);
	return 1;
}

struct xdp_md {
	__u32 data;
	__u32 data_end;
};

__noinline int answer(struct xdp_md *ctx)
{
	count(TARGET);
	barrier_var(ctx);
	return ctx ? 1 : 2;
}

SEC("xdp")
int whole(struct xdp_md *ctx)
{
	return answer(ctx);
}

SEC("freplace/answer")
int other_answer(struct xdp_md *ctx)
{
	count(REPLACED);
	return 2;
}

// On a function of the program above, not of the kernel.
SEC("?fentry/answer")
int on_answer(void *ctx)
{
	count(ENTERED);
	return 0;
}

SEC("?fexit/whole")
int on_whole(void *ctx)
{
	count(LEFT);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
