/* SPDX-License-Identifier: MIT */
/* A static program, which libbpf refuses and so do we. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

SEC("socket")
static int hidden_program(void *ctx)
{
	return 1;
}

SEC("socket")
int visible(void *ctx)
{
	return 2;
}
