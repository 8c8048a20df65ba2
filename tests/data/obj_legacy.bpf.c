/* SPDX-License-Identifier: MIT */
/* A map as it was defined before BTF: refused with a clear error. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

struct bpf_map_def {
	unsigned int type;
	unsigned int key_size;
	unsigned int value_size;
	unsigned int max_entries;
	unsigned int map_flags;
};

struct bpf_map_def old SEC("maps") = {
	.type = BPF_MAP_TYPE_ARRAY,
	.key_size = 4,
	.value_size = 8,
	.max_entries = 1,
};

SEC("socket")
int use(void *ctx)
{
	int zero = 0;

	return bpf_map_lookup_elem(&old, &zero) != 0;
}
