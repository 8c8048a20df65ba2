/* SPDX-License-Identifier: MIT */
/*
 * Arguments of user statically defined tracepoints (USDT), for programs of
 * section "usdt" or "usdt/BINARY:PROVIDER:NAME". Include pybpf.h first.
 *
 * The loader writes where each argument is into a map; the functions here read
 * it. Names and layout of the map are those that loaders agree on.
 */
#ifndef PYBPF_USDT_H
#define PYBPF_USDT_H

/* Kinds of argument places, of all the probes that are attached at one time. */
#ifndef BPF_USDT_MAX_SPEC_CNT
#define BPF_USDT_MAX_SPEC_CNT 256
#endif
#define BPF_USDT_MAX_ARG_CNT 12

enum __bpf_usdt_arg_type {
	BPF_USDT_ARG_CONST,	/* the value is val_off */
	BPF_USDT_ARG_REG,	/* the value is a register */
	BPF_USDT_ARG_REG_DEREF, /* it is in memory, val_off bytes from a register */
	BPF_USDT_ARG_SIB,	/* the same, plus a scaled second register */
};

struct __bpf_usdt_arg_spec {
	__u64 val_off;
	__u32 arg_type : 8;
	__u32 idx_reg_off : 12;	   /* second register, bytes into struct pt_regs */
	__u32 scale_bitshift : 4;  /* it is shifted left by so many bits */
	__u32 __reserved : 8;
	short reg_off;		   /* register, bytes into struct pt_regs */
	bool arg_signed;
	char arg_bitshift;	   /* bits to clear or sign-extend: 64 - 8 * size */
};

struct __bpf_usdt_spec {
	struct __bpf_usdt_arg_spec args[BPF_USDT_MAX_ARG_CNT];
	__u64 usdt_cookie;
	short arg_cnt;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BPF_USDT_MAX_SPEC_CNT);
	__type(key, int);
	__type(value, struct __bpf_usdt_spec);
} __bpf_usdt_specs SEC(".maps") __weak;

static __always_inline struct __bpf_usdt_spec *pybpf_usdt_spec(struct pt_regs *ctx)
{
	int number = bpf_get_attach_cookie(ctx);

	return bpf_map_lookup_elem(&__bpf_usdt_specs, &number);
}

/* Number of arguments of the probe, or a negative errno. */
static __always_inline int bpf_usdt_arg_cnt(struct pt_regs *ctx)
{
	struct __bpf_usdt_spec *spec = pybpf_usdt_spec(ctx);

	return spec ? spec->arg_cnt : -3; /* ESRCH */
}

/* The cookie that was given when the probe was attached. */
static __always_inline __u64 bpf_usdt_cookie(struct pt_regs *ctx)
{
	struct __bpf_usdt_spec *spec = pybpf_usdt_spec(ctx);

	return spec ? spec->usdt_cookie : 0;
}

/*
 * Read argument number `number`, from 0, into *result.
 *
 * Returns 0, -ENOENT if the probe has fewer arguments, -EINVAL for one that
 * cannot be read (a floating point register), or what reading memory gave.
 */
static __always_inline int bpf_usdt_arg(struct pt_regs *ctx, __u64 number, long *result)
{
	struct __bpf_usdt_spec *spec = pybpf_usdt_spec(ctx);
	struct __bpf_usdt_arg_spec *arg;
	__u64 value = 0, index = 0;
	int error = 0;

	*result = 0;
	if (!spec)
		return -3; /* ESRCH */
	if (number >= BPF_USDT_MAX_ARG_CNT)
		return -2; /* ENOENT */
	barrier_var(number);
	if (number >= (__u64)spec->arg_cnt)
		return -2;
	arg = &spec->args[number];
	switch (arg->arg_type) {
	case BPF_USDT_ARG_CONST:
		value = arg->val_off;
		break;
	case BPF_USDT_ARG_REG:
		error = bpf_probe_read_kernel(&value, sizeof(value), (void *)ctx + arg->reg_off);
		break;
	case BPF_USDT_ARG_REG_DEREF:
	case BPF_USDT_ARG_SIB:
		error = bpf_probe_read_kernel(&value, sizeof(value), (void *)ctx + arg->reg_off);
		if (!error && arg->arg_type == BPF_USDT_ARG_SIB)
			error = bpf_probe_read_kernel(&index, sizeof(index),
						      (void *)ctx + arg->idx_reg_off);
		value += arg->val_off + (index << arg->scale_bitshift);
		if (!error)
			error = bpf_probe_read_user(&value, sizeof(value), (void *)value);
		break;
	default:
		return -22; /* EINVAL */
	}
	if (error)
		return error;
	value <<= arg->arg_bitshift;
	if (arg->arg_signed)
		*result = (long)value >> arg->arg_bitshift;
	else
		*result = (long)(value >> arg->arg_bitshift);
	return 0;
}

/* `int BPF_USDT(f, T1 a, T2 b)`: up to 12 arguments of the probe, 0 for one that cannot be read. */
#define PYBPF_USDT_SLOT(i)                           \
	({                                           \
		long pybpf_arg;                      \
		bpf_usdt_arg(ctx, i, &pybpf_arg);    \
		(void *)pybpf_arg;                   \
	})
#define BPF_USDT(name, args...) PYBPF_WRAP(name, struct pt_regs *, PYBPF_USDT_SLOT, ##args)

#endif
