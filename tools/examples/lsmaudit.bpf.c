// SPDX-License-Identifier: MIT
#include "pybpf.h"

struct linux_binprm {
	const char *filename;
} __core;

struct event {
	__u32 pid;
	__u32 uid;
	char path[128];
};
const struct event *unused __unused;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} events SEC(".maps");

// What it returns is the decision: 0 leaves it to the others.
SEC("lsm/bprm_check_security")
int BPF_PROG(on_check, struct linux_binprm *bprm, int before)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event)
		return before;
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->uid = bpf_get_current_uid_gid();
	bpf_probe_read_kernel_str(event->path, sizeof(event->path), bprm->filename);
	bpf_ringbuf_submit(event, 0);
	return before;
}

char LICENSE[] SEC("license") = "GPL";
