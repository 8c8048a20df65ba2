/* SPDX-License-Identifier: MIT */
/* Global variables that live in an arena map. */
#include "pybpf.h"

#define __arena __attribute__((address_space(1)))

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARENA);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 10);
} arena SEC(".maps");

int __arena first SEC(".addr_space.1") = 1;
int __arena second SEC(".addr_space.1") = 2;

SEC("syscall")
int use(void *ctx)
{
	second = first + 1;
	return (long)&arena != 0;
}
