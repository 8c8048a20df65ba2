/* SPDX-License-Identifier: MIT */
/* Prints its number of runs with bpf_printk. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

__u32 runs;

SEC("socket")
int say(void *ctx)
{
	bpf_printk("run %u of pybpf", ++runs);
	return 0;
}
