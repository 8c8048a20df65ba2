// SPDX-License-Identifier: MIT
// Every BTF kind that clang emits for BPF, in forms BPF_BTF_LOAD is picky about: data sections,
// externs of each sort, hidden symbols, tags, 64-bit enums, floating point.
#include "pybpf.h"

#define __tag(text) __attribute__((btf_decl_tag(text)))
#define __type_tag(text) __attribute__((btf_type_tag(text)))

enum small { SMALL = -1 };
enum wide { WIDE = 0x1234567890 };
enum wide_signed { WIDE_SIGNED = -0x1234567890 };

struct forward;
typedef int (*callback)(struct forward *f, const volatile char *restrict text, ...);

struct everything {
	float single;
	double twice;
	enum small small;
	enum wide wide;
	enum wide_signed wide_signed;
	struct forward *forward;
	callback callback;
	int __type_tag("user") *tagged;
	int marked __tag("marked");
	unsigned int bits : 3;
	bool yes;
	__int128 large;
	union {
		long number;
		char text[8];
	};
	int grid[2][3];
	const volatile int *const pointer;
};

struct everything global __tag("a variable") = {};
struct everything zero;
static volatile int hidden_from_others = 1;
__hidden int hidden_global = 2;
const volatile int constant = 3;
int named_section SEC(".data.named") = 4;
__weak int weak_global = 5;

extern int LINUX_KERNEL_VERSION __kconfig;
extern bool CONFIG_BPF __kconfig __weak;
extern const void no_such_symbol_anywhere __ksym __weak;
extern const struct forward no_such_variable __ksym __weak;
extern int no_such_kfunc(struct everything *, int) __ksym __weak;

__noinline __tag("a function") int global_function(int value __tag("a parameter"))
{
	return value + hidden_from_others;
}

__hidden __noinline int hidden_function(int value)
{
	return value - hidden_global;
}

SEC("socket") int use(void *ctx)
{
	long sum = constant + named_section + weak_global + zero.marked + global.marked;

	sum += global_function(LINUX_KERNEL_VERSION) + hidden_function(CONFIG_BPF);
	if (bpf_ksym_exists(&no_such_symbol_anywhere) || bpf_ksym_exists(&no_such_variable))
		sum++;
	if (bpf_ksym_exists(no_such_kfunc))
		sum += no_such_kfunc(&zero, 1);
	return sum;
}

char LICENSE[] SEC("license") = "GPL";
