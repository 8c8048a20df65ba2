// SPDX-License-Identifier: MIT
// Programs that ask for what no kernel has: a field, a type, an enumerator, a kfunc; and one that
// asks first whether it is there.
#include "pybpf.h"

struct task_struct {
	int pidx;
} __core;

struct task_structe {
	int pid;
} __core;

enum bpf_cmd {
	BPF_MAP_CREATES = 1,
};

extern int bpf_task_acquirer(void *task) __ksym __weak;
extern int bpf_task_releaser(void *task) __ksym;

long seen;

SEC("raw_tp/sys_enter")
int wants_field(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	seen = BPF_CORE_READ(task, pidx);
	return 0;
}

SEC("raw_tp/sys_enter")
int wants_type(void *ctx)
{
	struct task_structe *task = (void *)bpf_get_current_task();

	seen = BPF_CORE_READ(task, pid);
	return 0;
}

SEC("raw_tp/sys_enter")
int wants_enumerator(void *ctx)
{
	seen = bpf_core_enum_value(enum bpf_cmd, BPF_MAP_CREATES);
	return 0;
}

SEC("raw_tp/sys_enter")
int wants_kfunc(void *ctx)
{
	bpf_task_acquirer(ctx);
	return 0;
}

SEC("raw_tp/sys_enter")
int wants_strong_kfunc(void *ctx)
{
	bpf_task_releaser(ctx);
	return 0;
}

SEC("raw_tp/sys_enter")
int asks_first(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	if (bpf_core_field_exists(task->pidx))
		seen = BPF_CORE_READ(task, pidx);
	if (bpf_ksym_exists(bpf_task_acquirer))
		bpf_task_acquirer(ctx);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
