/* SPDX-License-Identifier: MIT */
/* Static programs in sections of their own: libbpf refuses them, cilium/ebpf and we read them. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

__u64 runs[2];

static int hidden_program(void *ctx);
static int second_program(void *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 3);
	__uint(key_size, 4);
	__array(values, int(void *));
} tails SEC(".maps") = {
	.values = {
		[0] = (void *)&hidden_program,
		[2] = (void *)&second_program,
	},
};

SEC("socket")
static int hidden_program(void *ctx)
{
	runs[0]++;
	bpf_tail_call(ctx, &tails, 2);
	return 1;
}

SEC("2/7")
static int second_program(void *ctx)
{
	runs[1]++;
	return 7;
}

SEC("socket")
int visible(void *ctx)
{
	bpf_tail_call(ctx, &tails, 0);
	return 2;
}
