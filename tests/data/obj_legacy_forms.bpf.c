// SPDX-License-Identifier: MIT
// Maps as they were defined before BTF, in each of the sections that loaders knew, with
// definitions of different lengths.
#include "pybpf.h"

struct short_def {
	unsigned int type, key_size, value_size, max_entries;
};

struct plain_def {
	unsigned int type, key_size, value_size, max_entries, map_flags;
};

struct long_def {
	unsigned int type, key_size, value_size, max_entries, map_flags;
	unsigned int pinning, more[4];
};

struct plain_def first SEC("maps") = {
	.type = BPF_MAP_TYPE_HASH, .key_size = 4, .value_size = 8, .max_entries = 7,
	.map_flags = BPF_F_NO_PREALLOC,
};
struct plain_def second SEC("maps") = {
	.type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 3,
};
struct short_def third SEC("maps/third") = {
	.type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1,
};
struct long_def fourth SEC("socket/maps") = {
	.type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 2,
};

long total = 5;

SEC("socket")
int use(void *ctx)
{
	int zero = 0;
	__u64 *a = bpf_map_lookup_elem(&second, &zero);
	__u64 *b = bpf_map_lookup_elem(&third, &zero);
	__u64 *c = bpf_map_lookup_elem(&fourth, &zero);
	__u64 one = 1;

	bpf_map_update_elem(&first, &zero, &one, 0);
	if (a && b && c)
		total += *a + *b * 10 + *c * 100;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
