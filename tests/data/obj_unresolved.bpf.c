/* SPDX-License-Identifier: MIT */
/* Externs that no kernel has and that are not weak; only two programs need them. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

extern int pybpf_no_such_kfunc(int x) __ksym;
extern const int pybpf_no_such_variable __ksym;
extern const void pybpf_no_such_symbol __ksym;
/* Exists, as a variable of another type. */
extern const struct wrong *bpf_prog_active __ksym;

SEC("tp_btf/task_newtask")
int wants_kfunc(void *ctx)
{
	return pybpf_no_such_kfunc(1);
}

SEC("tp_btf/task_newtask")
int wants_variable(void *ctx)
{
	return *(int *)bpf_this_cpu_ptr(&pybpf_no_such_variable);
}

SEC("tp_btf/task_newtask")
int wants_symbol(void *ctx)
{
	return (long)&pybpf_no_such_symbol;
}

SEC("tp_btf/task_newtask")
int wants_other_type(void *ctx)
{
	return *(int *)bpf_this_cpu_ptr(&bpf_prog_active);
}

SEC("tp_btf/task_newtask")
int wants_nothing(void *ctx)
{
	return 0;
}
