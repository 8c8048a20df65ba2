/* SPDX-License-Identifier: MIT */
/* A struct_ops map: function pointers that name programs, and plain members. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

struct tcp_congestion_ops {
	unsigned int (*ssthresh)(void *sk);
	void (*cong_avoid)(void *sk, unsigned int ack, unsigned int acked);
	void (*set_state)(void *sk, unsigned char new_state);
	unsigned int flags;
	char name[16];
};

SEC("struct_ops/ssthresh")
unsigned int ssthresh(__u64 *ctx)
{
	return 2;
}

SEC("struct_ops")
void cong_avoid(__u64 *ctx)
{
}

SEC(".struct_ops.link")
struct tcp_congestion_ops pybpf_cc = {
	.ssthresh = (void *)ssthresh,
	.cong_avoid = (void *)cong_avoid,
	.flags = 7,
	.name = "pybpf_cc",
};

SEC("?.struct_ops")
struct tcp_congestion_ops pybpf_off = {
	.ssthresh = (void *)ssthresh,
	.name = "pybpf_off",
};
