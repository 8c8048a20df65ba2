// SPDX-License-Identifier: MIT
#include "pybpf.h"

struct event {
	__u32 pid;
	char comm[16];
	char path[128];
};
const struct event *unused __unused;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");

// Context of a system call's raw tracepoint: registers, number.
SEC("raw_tp/sys_enter")
int on_call(__u64 *ctx)
{
	struct pt_regs *regs = (void *)ctx[0];
	struct event *event;
	const char *path;

	if (ctx[1] != 257) // openat
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	event->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	bpf_probe_read_kernel(&path, sizeof(path), &PT_REGS_PARM2(regs));
	bpf_probe_read_user_str(event->path, sizeof(event->path), path);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
