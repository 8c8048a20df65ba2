// SPDX-License-Identifier: MIT
// Says something about itself, as bpftool shows it: no program uses these variables.
#include "pybpf.h"

volatile const char bpf_metadata_version[] SEC(".rodata") = "1.2";
volatile const int bpf_metadata_build SEC(".rodata") = 7;

SEC("socket")
int accept(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "MIT";
