// SPDX-License-Identifier: MIT
// An arena at an address that the object chooses, and a pointer into it that both sides share.
#include "pybpf.h"

#define __arena __attribute__((address_space(1)))

struct {
	__uint(type, BPF_MAP_TYPE_ARENA);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2);
	__ulong(map_extra, 1ull << 44);
} arena SEC(".maps");

struct pair {
	long left, right;
};

struct pair __arena pair SEC(".addr_space.1") = { .left = 20 };
struct pair __arena *where;

SEC("syscall")
int use(void *ctx)
{
	pair.right = pair.left + 2;
	where = &pair;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
