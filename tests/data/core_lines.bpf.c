// SPDX-License-Identifier: MIT
// CO-RE asserted in BPF: each check that fails makes the program return its line number.
#include "pybpf.h"

struct task_struct___first {
	int pid;
	int tgid;
	char comm[16];
	struct task_struct___first *group_leader;
} __core;

struct task_struct___absent {
	int there_is_no_such_field;
} __core;

struct no_such_struct_at_all {
	int x;
} __core;

enum bpf_map_type___first {
	BPF_MAP_TYPE_HASH___first = 1,
	BPF_MAP_TYPE_OF_NO_KERNEL___first = 9999,
};

int line = -1;

#define CHECK(condition)             \
	do {                         \
		if (!(condition))    \
			return __LINE__; \
	} while (0)

static __noinline int checks(void)
{
	struct task_struct___first *task = (void *)bpf_get_current_task();
	__u64 id = bpf_get_current_pid_tgid();
	char comm[16] = {}, mine[16] = {};

	CHECK(BPF_CORE_READ(task, pid) == (__u32)id);
	CHECK(BPF_CORE_READ(task, tgid) == id >> 32);
	CHECK(BPF_CORE_READ(task, group_leader, tgid) == id >> 32);
	CHECK(bpf_core_field_exists(task->group_leader));
	CHECK(!bpf_core_field_exists(((struct task_struct___absent *)0)->there_is_no_such_field));
	CHECK(bpf_core_field_size(task->comm) == 16);
	CHECK(bpf_core_field_offset(task->tgid) > bpf_core_field_offset(task->pid));
	CHECK(bpf_core_type_exists(struct task_struct___first));
	CHECK(!bpf_core_type_exists(struct no_such_struct_at_all));
	CHECK(bpf_core_type_size(struct task_struct___first) > 1000);
	CHECK(bpf_core_type_id_kernel(struct task_struct___first) != 0);
	CHECK(bpf_core_type_id_local(struct task_struct___first) != 0);
	CHECK(bpf_core_enum_value_exists(enum bpf_map_type___first, BPF_MAP_TYPE_HASH___first));
	CHECK(bpf_core_enum_value(enum bpf_map_type___first, BPF_MAP_TYPE_HASH___first) == 1);
	CHECK(!bpf_core_enum_value_exists(enum bpf_map_type___first,
					  BPF_MAP_TYPE_OF_NO_KERNEL___first));
	bpf_get_current_comm(mine, sizeof(mine));
	BPF_CORE_READ_STR_INTO(&comm, task, comm);
	CHECK(comm[0] == mine[0] && comm[1] == mine[1] && comm[2] == mine[2]);
	return 0;
}

SEC("raw_tp/sys_enter")
int on_sys_enter(void *ctx)
{
	line = checks();
	return 0;
}

SEC("fentry/bpf_fentry_test1")
int on_fentry(void *ctx)
{
	line = checks();
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
