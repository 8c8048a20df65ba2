/* SPDX-License-Identifier: MIT */
/*
 * Kernel types for CO-RE: only the fields our programs read. Offsets come from
 * the running kernel's BTF when the program is loaded, so neither the order
 * nor the missing fields matter.
 */
#ifndef PYBPF_KERNEL_H
#define PYBPF_KERNEL_H

#include "pybpf.h"

struct task_struct {
	unsigned int flags;
	int pid;
	int tgid;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	__u64 start_time;
	char comm[16];
} __core;

/* task_struct.flags */
#define PF_EXITING 0x00000004
#define PF_KTHREAD 0x00200000

#endif
