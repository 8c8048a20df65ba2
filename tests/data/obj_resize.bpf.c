/* SPDX-License-Identifier: MIT */
/* Arrays at the end of data sections: user space gives them their length before loading. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

struct cell {
	__u64 hits;
	__u32 weight;
};

const volatile __u32 length = 1;
const volatile __u32 weights[1] SEC(".rodata.weights") = { 7 };
struct cell cells[1] SEC(".data.cells") = { { .hits = 5 } };
__u64 total SEC(".bss.names");
char names[4] SEC(".bss.names");
int alone SEC(".data.alone") = 3;

/* clang believes that the only index is 0. */
#define FIRST(array) ({ void *at = (void *)(array); asm volatile("" : "+r"(at)); at; })

SEC("socket")
int fill(void *ctx)
{
	__u64 *sum = FIRST(&total);
	const __u32 *weight = FIRST(weights);
	struct cell *cell = FIRST(cells);
	char *name = FIRST(names);
	__u32 i;

	for (i = 0; i < length && i < 64; i++) {
		cell[i].hits++;
		cell[i].weight = weight[i];
		name[i] = 'a' + i;
		*sum += weight[i];
	}
	return alone;
}
