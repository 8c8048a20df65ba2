// SPDX-License-Identifier: MIT
/* What pybpf.h offers beside CO-RE: text of several values, a system call's arguments, reads
 * of a program's own structs, byte order, and helpers of the network.
 */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

struct node {
	int number;
	struct node *next;
	char name[8];
};

struct bpf_iter_meta {
	void *seq;
} __core;

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	void *task;
} __core;

struct xdp_md {
	__u32 data, data_end, data_meta, ingress_ifindex;
};

char text[64];
long length;
int number;
char name[8];
long arguments[3];

SEC("syscall")
int values_as_text(void *ctx)
{
	length = BPF_SNPRINTF(text, sizeof(text), "%d %llx %s %d %u", -5, 0xdeadbeefULL, "word", 7,
			      1U << 31);
	bpf_printk("pybpf: nothing");
	bpf_printk("pybpf: %d %d %d %d %d", 1, 2, 3, 4, -5);
	return 0;
}

SEC("syscall")
int structs_of_a_process(struct node **ctx)
{
	struct node *first = *ctx;

	number = BPF_PROBE_READ_USER(first, next, number);
	return BPF_PROBE_READ_USER_STR_INTO(&name, first, next, name);
}

SEC("iter/task")
int text_of_an_iterator(struct bpf_iter__task *ctx)
{
	if (ctx->task)
		BPF_SEQ_PRINTF(ctx->meta->seq, "%s-%d-%d-%d-%d\n", "a", 1, 2, 3, 4);
	return 0;
}

SEC("xdp")
int room_before_a_packet(struct xdp_md *ctx)
{
	__be16 type = bpf_htons(0x0800);

	if (bpf_xdp_adjust_head(ctx, -2) || bpf_xdp_store_bytes(ctx, 0, &type, sizeof(type)))
		return XDP_ABORTED;
	return XDP_PASS;
}

SEC("ksyscall/dup3")
int BPF_KSYSCALL(on_dup3, int from, int to, int flags)
{
	if (to != 12345)
		return 0;
	arguments[0] = from;
	arguments[1] = to;
	arguments[2] = flags;
	return 0;
}
