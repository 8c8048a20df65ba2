// SPDX-License-Identifier: MIT
// Standard fentry, fexit and fmod_ret programs on the kernel's own test functions.
// Each stores what it read, so that a test can compare with what the kernel passes:
// net/bpf/test_run.c calls bpf_fentry_test1(1), test2(2, 3), test3(4, 5, 6),
// test4((void *)7, 8, 9, 10), test5(11, (void *)12, 13, 14, 15) and
// test6(16, (void *)17, 18, 19, (void *)20, 21); each returns the sum.
#include "pybpf.h"

struct seen {
	__u64 args[6];
	__u64 ret;
	__u64 ip;
	__u64 cookie;
	__u64 count;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct seen);
} seen SEC(".maps");

#define ENTRY 0
#define EXIT 8

static __always_inline struct seen *slot(void *ctx, __u32 index)
{
	struct seen *s = bpf_map_lookup_elem(&seen, &index);

	if (s) {
		s->ip = bpf_get_func_ip(ctx);
		s->cookie = bpf_get_attach_cookie(ctx);
		s->count++;
	}
	return s;
}

#define STORE(index, value_ret, values...)                              \
	do {                                                            \
		struct seen *s = slot(ctx, index);                      \
		__u64 all[6] = {values};                                \
		if (!s)                                                 \
			return 0;                                       \
		for (int i = 0; i < 6; i++)                             \
			s->args[i] = all[i];                            \
		s->ret = value_ret;                                     \
	} while (0)

SEC("fentry/bpf_fentry_test1")
int BPF_PROG(entry1, int a)
{
	STORE(ENTRY + 1, 0, a);
	return 0;
}

SEC("fentry/bpf_fentry_test2")
int BPF_PROG(entry2, int a, __u64 b)
{
	STORE(ENTRY + 2, 0, a, b);
	return 0;
}

SEC("fentry/bpf_fentry_test3")
int BPF_PROG(entry3, char a, int b, __u64 c)
{
	STORE(ENTRY + 3, 0, a, b, c);
	return 0;
}

SEC("fentry/bpf_fentry_test4")
int BPF_PROG(entry4, void *a, char b, int c, __u64 d)
{
	STORE(ENTRY + 4, 0, (__u64)a, b, c, d);
	return 0;
}

SEC("fentry/bpf_fentry_test5")
int BPF_PROG(entry5, __u64 a, void *b, short c, int d, __u64 e)
{
	STORE(ENTRY + 5, 0, a, (__u64)b, c, d, e);
	return 0;
}

SEC("fentry/bpf_fentry_test6")
int BPF_PROG(entry6, __u64 a, void *b, short c, int d, void *e, __u64 f)
{
	STORE(ENTRY + 6, 0, a, (__u64)b, c, d, (__u64)e, f);
	return 0;
}

SEC("fexit/bpf_fentry_test1")
int BPF_PROG(exit1, int a, int ret)
{
	STORE(EXIT + 1, ret, a);
	return 0;
}

SEC("fexit/bpf_fentry_test2")
int BPF_PROG(exit2, int a, __u64 b, int ret)
{
	STORE(EXIT + 2, ret, a, b);
	return 0;
}

SEC("fexit/bpf_fentry_test3")
int BPF_PROG(exit3, char a, int b, __u64 c, int ret)
{
	STORE(EXIT + 3, ret, a, b, c);
	return 0;
}

SEC("fexit/bpf_fentry_test4")
int BPF_PROG(exit4, void *a, char b, int c, __u64 d, int ret)
{
	STORE(EXIT + 4, ret, (__u64)a, b, c, d);
	return 0;
}

SEC("fexit/bpf_fentry_test5")
int BPF_PROG(exit5, __u64 a, void *b, short c, int d, __u64 e, int ret)
{
	STORE(EXIT + 5, ret, a, (__u64)b, c, d, e);
	return 0;
}

SEC("fexit/bpf_fentry_test6")
int BPF_PROG(exit6, __u64 a, void *b, short c, int d, void *e, __u64 f, int ret)
{
	STORE(EXIT + 6, ret, a, (__u64)b, c, d, (__u64)e, f);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
