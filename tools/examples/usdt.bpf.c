// SPDX-License-Identifier: MIT
#include "pybpf.h"
#include "usdt.h"

struct event {
	__u32 pid;
	__s32 count;
	__s64 args[4];
};
const struct event *unused __unused;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} events SEC(".maps");

SEC("usdt")
int on_probe(struct pt_regs *ctx)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event)
		return 0;
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->count = bpf_usdt_arg_cnt(ctx);
	for (int i = 0; i < 4; i++)
		bpf_usdt_arg(ctx, i, (long *)&event->args[i]);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
