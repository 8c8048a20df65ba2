// SPDX-License-Identifier: MIT
#include "pybpf.h"

struct task_struct {
	struct task_struct *real_parent;
	int tgid;
} __core;

struct event {
	__u32 pid;
	__u32 parent;
	char comm[16];
};
const struct event *unused __unused;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} events SEC(".maps");

SEC("raw_tp/sched_process_exec")
int on_exec(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event)
		return 0;
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->parent = BPF_CORE_READ(task, real_parent, tgid);
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	bpf_ringbuf_submit(event, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
