// SPDX-License-Identifier: MIT
// A BPF iterator over tasks: writes the pid and tgid of each, as two __s32.
#include "pybpf.h"

struct seq_file;

struct bpf_iter_meta {
	union {
		struct seq_file *seq;
		__u64 : 64;
	};
} __attribute__((preserve_access_index));

struct task_struct {
	int pid;
	int tgid;
} __attribute__((preserve_access_index));

struct bpf_iter__task {
	union {
		struct bpf_iter_meta *meta;
		__u64 : 64;
	};
	union {
		struct task_struct *task;
		__u64 : 64;
	};
} __attribute__((preserve_access_index));

SEC("iter/task")
int tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	__s32 ids[2];

	if (!task)
		return 0; // the end
	ids[0] = task->pid;
	ids[1] = task->tgid;
	bpf_seq_write(ctx->meta->seq, ids, sizeof(ids));
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
