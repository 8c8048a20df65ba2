// SPDX-License-Identifier: MIT
// Multi programs on the kernel's test functions: by context slots, in the signature of the
// 2021 proposal, and by helpers only. What each saw is kept by cookie.
#include "pybpf.h"

struct seen {
	__u64 args[6];
	__u64 ret;
	__u64 ip;
	__u64 cookie;
	__u64 count;
	__u64 nargs;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct seen);
} entry_slots SEC(".maps"), exit_slots SEC(".maps"), exit_ret SEC(".maps"),
	entry_helpers SEC(".maps"), exit_helpers SEC(".maps"), session SEC(".maps");

const volatile __u32 my_tgid = 0;

static __always_inline struct seen *fresh(void *map, void *ctx)
{
	struct seen none = {}, *s;
	__u64 key = bpf_get_attach_cookie(ctx);

	if (my_tgid && (bpf_get_current_pid_tgid() >> 32) != my_tgid)
		return NULL;
	s = bpf_map_lookup_elem(map, &key);
	if (!s) {
		bpf_map_update_elem(map, &key, &none, 0);
		s = bpf_map_lookup_elem(map, &key);
		if (!s)
			return NULL;
	}
	s->ip = bpf_get_func_ip(ctx);
	s->cookie = key;
	s->count++;
	return s;
}

SEC("fentry.multi/bpf_fentry_test?")
int BPF_PROG(on_entry, __u64 a, __u64 b, __u64 c, __u64 d, __u64 e, __u64 f)
{
	struct seen *s = fresh(&entry_slots, ctx);

	if (!s)
		return 0;
	s->args[0] = a;
	s->args[1] = b;
	s->args[2] = c;
	s->args[3] = d;
	s->args[4] = e;
	s->args[5] = f;
	return 0;
}

SEC("fexit.multi/bpf_fentry_test?")
int BPF_PROG(on_exit, __u64 a, __u64 b, __u64 c, __u64 d, __u64 e, __u64 f, int ret)
{
	struct seen *s = fresh(&exit_slots, ctx);

	if (!s)
		return 0;
	s->args[0] = a;
	s->args[1] = b;
	s->args[2] = c;
	s->args[3] = d;
	s->args[4] = e;
	s->args[5] = f;
	s->ret = (__u32)ret;
	return 0;
}

SEC("fexit.multi/bpf_fentry_test?")
int on_exit_ret(unsigned long long *ctx)
{
	struct seen *s = fresh(&exit_ret, ctx);

	if (s)
		s->ret = ctx[6];
	return 0;
}

static __always_inline void all_args(struct seen *s, void *ctx)
{
	for (int i = 0; i < 6; i++) {
		__u64 v = 0;

		bpf_get_func_arg(ctx, i, &v);
		s->args[i] = v;
	}
	s->nargs = bpf_get_func_arg_cnt(ctx);
}

SEC("fentry.multi/bpf_fentry_test?")
int on_entry_helpers(void *ctx)
{
	struct seen *s = fresh(&entry_helpers, ctx);

	if (s)
		all_args(s, ctx);
	return 0;
}

SEC("fexit.multi/bpf_fentry_test?")
int on_exit_helpers(void *ctx)
{
	struct seen *s = fresh(&exit_helpers, ctx);
	__u64 ret = 0;

	if (!s)
		return 0;
	all_args(s, ctx);
	bpf_get_func_ret(ctx, &ret);
	s->ret = ret;
	return 0;
}

extern _Bool bpf_session_is_return(void *ctx) __ksym __weak;

SEC("fsession.multi/bpf_fentry_test?")
int on_session(unsigned long long *ctx)
{
	struct seen *s = fresh(&session, ctx);

	if (!s)
		return 0;
	if (bpf_session_is_return(ctx))
		s->ret = ctx[6];
	else
		s->args[0] = ctx[0];
	return 0;
}

// The return value at both sides, by slot and by helper; at entry it is 0, here kept as 100.
SEC("fsession.multi/bpf_fentry_test?")
int on_session_ret(unsigned long long *ctx)
{
	struct seen *s = fresh(&session, ctx);
	__u64 slot = *(volatile unsigned long long *)&ctx[6], helper = 7;

	if (!s)
		return 0;
	bpf_get_func_ret(ctx, &helper);
	if (bpf_session_is_return(ctx)) {
		s->ret = slot;
		s->args[2] = helper;
	} else {
		s->args[0] = slot + 100;
		s->args[1] = helper + 100;
	}
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
