/* SPDX-License-Identifier: MIT */
/* Kernel symbols: variables by type, addresses by name, kfuncs; strong and weak
 * ones, one with a flavour, and ones that no kernel has. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

struct task_struct {
	int pid;
} __core;
struct rq {
	int cpu;
} __core;

extern const struct rq runqueues __ksym;
extern const int bpf_prog_active __ksym;
extern const int pybpf_no_such_variable __ksym __weak;
extern const void bpf_link_fops __ksym;
extern const void pybpf_no_such_symbol __ksym __weak;

extern struct task_struct *bpf_task_acquire(struct task_struct *p) __ksym;
extern void bpf_task_release(struct task_struct *p) __ksym;
extern struct task_struct *bpf_task_from_pid___flavoured(int pid) __ksym __weak;
extern int pybpf_no_such_kfunc(int x) __ksym __weak;
extern void *bpf_cpumask_create(__u64 a, __u64 b, __u64 c) __ksym __weak;

SEC("raw_tp")
int variables(void *ctx)
{
	struct rq *rq = bpf_per_cpu_ptr(&runqueues, 0);
	int *active = bpf_this_cpu_ptr(&bpf_prog_active);
	__u64 sum = (__u64)&bpf_link_fops;

	if (rq)
		sum += rq->cpu;
	return sum + *active;
}

SEC("raw_tp")
int missing_variables(void *ctx)
{
	__u64 sum = (__u64)&pybpf_no_such_symbol;

	if (&pybpf_no_such_variable)
		sum += *(int *)bpf_this_cpu_ptr(&pybpf_no_such_variable);
	return sum;
}

SEC("tp_btf/task_newtask")
int kfuncs(__u64 *ctx)
{
	struct task_struct *task = bpf_task_acquire((struct task_struct *)ctx[0]);

	if (task)
		bpf_task_release(task);
	if (bpf_task_from_pid___flavoured) {
		task = bpf_task_from_pid___flavoured(1);
		if (task)
			bpf_task_release(task);
	}
	return 0;
}

SEC("tp_btf/task_newtask")
int missing_kfuncs(__u64 *ctx)
{
	if (pybpf_no_such_kfunc)
		return pybpf_no_such_kfunc(1);
	/* Exists, with another prototype. */
	if (bpf_cpumask_create)
		return !!bpf_cpumask_create(1, 2, 3);
	return 0;
}
