/* SPDX-License-Identifier: MIT */
/* Takes records that user space sends through a user ring buffer. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

struct order {
	__u64 number;
	__s32 amount;
	char name[12];
};

struct {
	__uint(type, BPF_MAP_TYPE_USER_RINGBUF);
	__uint(max_entries, 4096);
} orders SEC(".maps");

__u64 taken;
__u64 wrong;
__s64 amounts;
struct order last;

static long take(struct bpf_dynptr *record, void *ctx)
{
	if (bpf_dynptr_read(&last, sizeof(last), record, 0, 0)) {
		wrong++; /* shorter than an order */
		return 0;
	}
	taken++;
	amounts += last.amount;
	return 0;
}

/* Gives the number of records that it took, or a negative errno. */
SEC("socket")
int drain(void *ctx)
{
	return bpf_user_ringbuf_drain(&orders, take, NULL, 0);
}
