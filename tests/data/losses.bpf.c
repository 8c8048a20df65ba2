// SPDX-License-Identifier: MIT
// Programs that count every run, and others that come and go beside them. They call nothing that
// could be traced. The slow ones run long enough for the kernel to switch tasks inside them.
#include "pybpf.h"

#define ROUNDS 400

volatile __u64 entries = 0;
volatile __u64 exits = 0;
volatile __u64 wrong = 0;  // exits whose return value is not the caller's own number

static __always_inline void dawdle(void)
{
	for (int i = 0; i < ROUNDS; i++)
		barrier();
}

SEC("fentry.multi")
int entry_counts(void *ctx)
{
	__sync_fetch_and_add(&entries, 1);
	return 0;
}

SEC("fexit.multi")
int exit_counts(__u64 *ctx)
{
	__sync_fetch_and_add(&exits, 1);
	if ((__s64)ctx[6] < 0)
		__sync_fetch_and_add(&wrong, 1);
	return 0;
}

SEC("fentry.multi")
int entry_slow(void *ctx)
{
	dawdle();
	__sync_fetch_and_add(&entries, 1);
	return 0;
}

SEC("fexit.multi")
int exit_slow(__u64 *ctx)
{
	dawdle();
	__sync_fetch_and_add(&exits, 1);
	if ((__s64)ctx[6] < 0)
		__sync_fetch_and_add(&wrong, 1);
	return 0;
}

SEC("fentry.multi")
int other_entry(void *ctx)
{
	return 0;
}

SEC("fexit.multi")
int other_exit(void *ctx)
{
	return 0;
}

SEC("fsession.multi")
int other_session(void *ctx)
{
	return 0;
}

SEC("?fentry")
int std_entry(void *ctx)
{
	return 0;
}

SEC("?fexit")
int std_exit(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
