// SPDX-License-Identifier: MIT
// Multi programs that make the context hard to follow: what clang makes of them must be refused, or
// see right values in every lowering. Each leaves a number of all that it read.
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} values SEC(".maps");

__u64 results[16]; /* by cookie */

/* A program that leaves what its body returns. */
#define SHAPE(section, name)                                             \
	static __always_inline __u64 name##_of(unsigned long long *ctx); \
	SEC(section)                                                     \
	int name(unsigned long long *ctx)                                \
	{                                                                \
		results[bpf_get_attach_cookie(ctx) & 15] = name##_of(ctx); \
		return 0;                                                \
	}                                                                \
	static __always_inline __u64 name##_of(unsigned long long *ctx)

struct holder {
	__u64 *found;
	unsigned long long *ctx;
	int n;
};

static long add_both(__u32 i, void *data)
{
	struct holder *h = data;

	*h->found += h->ctx[0] + (__u32)h->ctx[6];
	return 0;
}

static long add_first(__u32 i, void *data)
{
	struct holder *h = data;

	*h->found += h->ctx[0];
	return 0;
}

static long add_ret(__u32 i, void *data)
{
	struct holder *h = data;

	*h->found += h->ctx[6];
	return 0;
}

static long mark(__u32 i, void *data)
{
	struct holder *h = data;

	*h->found = 1;
	return 0;
}

static long add_value(void *map, const void *key, void *value, void *data)
{
	struct holder *h = data;

	*h->found += h->ctx[3] + *(__u64 *)value;
	return 0;
}

SHAPE("fexit.multi", in_a_struct)
{
	__u64 found = 0;
	struct holder h = { &found, ctx, 3 };

	bpf_loop(3, add_both, &h, 0);
	if (found)
		return found + ctx[6];
	return 1;
}

SHAPE("fexit.multi", one_of_two_callbacks)
{
	__u64 found = 0;
	struct holder h = { &found, ctx, 3 };

	bpf_loop(3, ctx[0] & 1 ? add_first : add_ret, &h, 0);
	return found;
}

SHAPE("fentry.multi", for_each)
{
	__u64 found = 0;
	struct holder h = { &found, ctx };

	bpf_for_each_map_elem(&values, add_value, &h, 0);
	return found + h.ctx[4];
}

/* The pointer to `found` lies in memory that a helper got. */
SHAPE("fexit.multi", marked_by_a_callback)
{
	__u64 found, r = 1;
	struct holder h = { &found, ctx, 3 };

	bpf_map_lookup_elem(&values, &h);
	found = 0;
	bpf_loop(3, mark, &h, 0);
	if (found) {
		r = ctx[6];
		barrier_var(r);
	}
	return r;
}

SHAPE("fexit.multi", default_value)
{
	__u64 zero = 0, *p, r;
	__u32 key = 0;

	p = bpf_map_lookup_elem(&values, &key);
	if (!p)
		p = &zero;
	*p += 1;
	if (zero) {
		r = ctx[6];
		barrier_var(r);
		r += 7;
	} else {
		r = ctx[1];
		barrier_var(r);
	}
	return r;
}

static __noinline __u64 third(int a, __u64 b, unsigned long long *ctx)
{
	return a + b + ctx[2] + (__s32)ctx[6];
}

static __noinline __u64 fifth(int a, __u64 b, int c, int d, unsigned long long *ctx)
{
	if (ctx[1] & 1)
		return third(c, d, ctx);
	return a + b + (__s8)ctx[3];
}

__noinline int of_all(unsigned long long *ctx, int flag)
{
	return ctx[4] * flag + ctx[5];
}

SHAPE("fexit.multi", in_any_argument)
{
	return fifth(1, ctx[0], 3, 4, ctx) + third(7, 8, ctx) + (__s16)ctx[6] + of_all(ctx, ctx[0] & 3);
}

struct keep {
	unsigned long long *ctx;
	int n;
};

static __noinline __u64 swap(struct keep *k, unsigned long long *instead)
{
	unsigned long long *mine = k->ctx;

	k->ctx = instead;
	return mine[1];
}

SHAPE("fentry.multi", replaced_by_a_callee)
{
	unsigned long long *now;
	struct keep k = { ctx };
	__u64 r = swap(&k, results + 14);

	now = k.ctx;
	barrier_var(now);
	return r + now[1];
}

static __noinline unsigned long long *pick(unsigned long long *ctx, struct keep *k)
{
	k->n = 2;
	return k->ctx ? k->ctx : ctx;
}

SHAPE("fexit.multi", returned_by_a_callee)
{
	struct keep k = { ctx };
	unsigned long long *same = pick(ctx, &k);

	return same[2] + same[6];
}

SHAPE("fentry.multi", parts_of_slots)
{
	char *c = (char *)ctx;

	return *(volatile __u8 *)(c + 3) + *(volatile __u16 *)(c + 10) + *(volatile __u32 *)(c + 20) +
	       *(volatile __s8 *)(c + 29) + *(volatile __s16 *)(c + 38);
}

SHAPE("fexit.multi", converted)
{
	__s64 a = (__s32)ctx[0], b = (__s16)ctx[1], c = (__s8)ctx[2];

	a += __builtin_bswap32(ctx[3]) + __builtin_bswap64(ctx[6]) + __builtin_bswap16(ctx[4]);
	if ((int)ctx[6] < 0 && (a >> 2) > (b >> 1))
		return -(int)ctx[6];
	return a + b * c;
}

SHAPE("fexit.multi", by_branches)
{
	__u64 v;

	switch (ctx[0] & 7) {
	case 0:
		v = ctx[1];
		break;
	case 1:
		v = ctx[2];
		break;
	case 3:
		v = ctx[6];
		break;
	case 5:
		v = (__u32)ctx[6];
		break;
	default:
		v = ctx[4] + ctx[5];
	}
	for (int i = 0; i < 5; i++)
		v = v * 31 + (i & 1 ? ctx[1] : (__u16)ctx[6]);
	return v;
}

SHAPE("fentry.multi", by_index)
{
	__u64 sum = 0, v;

	for (__u64 i = 0; i < 8; i++) {
		v = 5;
		sum = sum * 31 + bpf_get_func_arg(ctx, (__u32)(i + ctx[0]), &v);
		sum += v;
	}
	return sum + bpf_get_func_arg_cnt(ctx);
}

SHAPE("fexit.multi", copied)
{
	__u64 all[7], sum = 0;

	__builtin_memcpy(all, ctx, sizeof(all));
	for (int i = 0; i < 7; i++)
		sum = sum * 7 + all[i];
	return sum;
}

SHAPE("fexit.multi", all_at_once)
{
	__u64 a = ctx[0], b = ctx[1], c = ctx[2], d = ctx[3], e = ctx[4], f = ctx[5];
	__u64 x = a ^ b * c, y = d + e * f;

	bpf_ktime_get_ns();
	x = x * 31 + a + b + c + d + e + f;
	barrier_var(x);
	bpf_ktime_get_ns();
	return a + b * c - d + e * f + x * y + ctx[6];
}

/* Refused: the context, or else memory of the same kind. */
SHAPE("fexit.multi", not_always_the_context)
{
	unsigned long long other[7] = { 1, 2, 3, 4, 5, 6, 7 }, *p = ctx[0] & 1 ? ctx : other;

	barrier_var(p);
	return p[1];
}
