// SPDX-License-Identifier: MIT
// A congestion control of TCP, which counts how often the kernel calls it.
#include "pybpf.h"

struct tcp_congestion_ops {
	unsigned int (*ssthresh)(void *sk);
	void (*cong_avoid)(void *sk, unsigned int ack, unsigned int acked);
	void (*set_state)(void *sk, unsigned char new_state);
	unsigned int (*undo_cwnd)(void *sk);
	void (*init)(void *sk);
	void (*release)(void *sk);
	void (*not_in_this_kernel)(void *sk);
	char name[16];
};

__u64 inits, avoids, releases;

SEC("struct_ops")
unsigned int on_ssthresh(__u64 *ctx)
{
	return 2;
}

SEC("struct_ops")
void on_avoid(__u64 *ctx)
{
	__sync_fetch_and_add(&avoids, 1);
}

SEC("struct_ops")
unsigned int on_undo(__u64 *ctx)
{
	return 2;
}

SEC("struct_ops")
void on_init(__u64 *ctx)
{
	__sync_fetch_and_add(&inits, 1);
}

SEC("struct_ops")
void on_release(__u64 *ctx)
{
	__sync_fetch_and_add(&releases, 1);
}

// No map has it.
SEC("struct_ops")
void on_nothing(__u64 *ctx)
{
}

SEC(".struct_ops.link")
struct tcp_congestion_ops linked = {
	.ssthresh = (void *)on_ssthresh,
	.cong_avoid = (void *)on_avoid,
	.undo_cwnd = (void *)on_undo,
	.init = (void *)on_init,
	.release = (void *)on_release,
	.name = "pybpf_linked",
};

SEC(".struct_ops")
struct tcp_congestion_ops plain = {
	.ssthresh = (void *)on_ssthresh,
	.cong_avoid = (void *)on_avoid,
	.undo_cwnd = (void *)on_undo,
	.init = (void *)on_init,
	.name = "pybpf_plain",
};

char LICENSE[] SEC("license") = "GPL";
