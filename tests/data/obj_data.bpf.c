/* SPDX-License-Identifier: MIT */
/* Global variables: every kind of data section, suffixed ones, visible, hidden
 * and static variables, string literals, sections BTF does not describe. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

struct point {
	int x;
	int y;
};

int counter;
__u64 zeroes[3];
int initial = 17;
struct point origin = { .x = 3, .y = -4 };
const volatile int limit = 100;
const volatile char label[8] = "pybpf";

static volatile int private_counter;
static volatile int private_initial = 5;
static const volatile int private_limit = 6;

int custom SEC(".data.custom") = 9;
__hidden int hidden_only SEC(".data.hidden") = 10;
const volatile int chosen SEC(".rodata.chosen") = 11;
int zeroed SEC(".bss.zeroed");

SEC("socket")
int use(void *ctx)
{
	char text[] = "a literal long enough for a section";
	const char *literal = "found in .rodata.str1.1";

	counter += initial + origin.y + limit + label[2];
	zeroes[2] = counter;
	private_counter += private_initial + private_limit;
	custom += hidden_only + chosen;
	zeroed++;
	bpf_trace_printk(text, sizeof(text));
	return bpf_strncmp(text, sizeof(text), literal);
}
