/* SPDX-License-Identifier: MIT */
/* Events through a perf event array, as programs older than the BPF ring buffer send them. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

struct event {
	__u64 seq;
	__u32 cpu;
	char text[12];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} events SEC(".maps");

__u64 seq;
__u64 failed;
struct event last;

SEC("raw_tp/sched_switch")
int offer(void *ctx)
{
	last.seq = ++seq;
	last.cpu = bpf_get_smp_processor_id();
	__builtin_memcpy(last.text, "perf", 5);
	if (bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &last, sizeof(last)))
		failed++;
	return 0;
}

SEC("xdp")
int offer_packet(void *ctx)
{
	last.seq = ++seq;
	last.cpu = bpf_get_smp_processor_id();
	if (bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &last, sizeof(last)))
		failed++;
	return XDP_PASS;
}
