// SPDX-License-Identifier: MIT
// Multi programs that are wrong: two use their context in ways that nothing can prove, one
// hands it to a helper as memory, one writes past a map's value, so that the verifier refuses it after it was rewritten.
#include "pybpf.h"

struct value {
	__u64 slot[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct value);
} values SEC(".maps");

void *kept;
__u64 sum;

SEC("fexit.multi/bpf_fentry_test?")
int moves_ctx(unsigned long long *ctx)
{
	__u64 which = bpf_get_smp_processor_id() & 3;

	sum += ctx[which];
	return 0;
}

SEC("fentry.multi/bpf_fentry_test?")
int keeps_ctx(unsigned long long *ctx)
{
	sum += ctx[0];
	kept = ctx;
	return 0;
}

SEC("fentry.multi/bpf_fentry_test?")
int out_of_bounds(unsigned long long *ctx)
{
	__u32 zero = 0;
	struct value *v = bpf_map_lookup_elem(&values, &zero);

	if (!v)
		return 0;
	v->slot[0] = ctx[0];
	v->slot[1] = ctx[1];
	v->slot[ctx[2] & 7] = bpf_get_func_ip(ctx);
	v->slot[3] = 3;
	return 0;
}

SEC("fentry.multi/bpf_fentry_test?")
int copies_ctx(unsigned long long *ctx)
{
	__u32 zero = 0;

	sum += ctx[0];
	bpf_map_update_elem(&values, &zero, ctx, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
