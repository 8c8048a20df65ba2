/* SPDX-License-Identifier: MIT */
/* Typed events through a ring buffer, with the convention for losses: a global
 * that counts what the ring did not take. Globals that steer a program. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

enum kind {
	KIND_NONE,
	KIND_ODD = 1,
	KIND_EVEN = 2,
};

struct event {
	__u64 seq;
	__s32 delta;
	enum kind kind;
	char comm[16];
};

struct limits {
	__u32 low;
	__u32 high;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 5000); /* rounded up by the loader */
} events SEC(".maps");

const volatile bool enabled = true;
const volatile __s32 step = -1;
const volatile struct limits limits = { .low = 0, .high = 0xffffffff };
const volatile enum kind only;
const volatile char label[8] = "pybpf";

__u64 seq;
__u64 dropped;
__u8 tiny = 3;
static __u32 skipped;
struct limits seen = { .low = 0xffffffff };
__u64 table[4];
__u32 custom SEC(".data.custom") = 9;

const struct event *unused_event_to_keep_its_type __unused;

SEC("socket")
int offer(void *ctx)
{
	struct event *event;
	__u32 number;
	enum kind kind;

	if (!enabled)
		return 1;
	seq++;
	number = seq;
	kind = number & 1 ? KIND_ODD : KIND_EVEN;
	if (number < limits.low || number > limits.high || (only && only != kind)) {
		skipped++;
		return 2;
	}
	if (number < seen.low)
		seen.low = number;
	if (number > seen.high)
		seen.high = number;
	table[number & 3] += custom;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		__sync_fetch_and_add(&dropped, 1);
		return 3;
	}
	event->seq = seq;
	event->delta = step * (__s32)number;
	event->kind = kind;
	__builtin_memset(event->comm, 0, sizeof(event->comm));
	event->comm[0] = label[0];
	event->comm[1] = '0' + number % 10;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* Statics of functions: clang calls them touch.twin and touch_other.twin. The first lies in a
 * section without visible variables, whose map is not mapped into memory. */
SEC("socket")
int touch(void *ctx)
{
	static volatile int twin SEC(".bss.one");

	return ++twin + skipped;
}

SEC("socket")
int touch_other(void *ctx)
{
	static volatile int twin SEC(".data.two") = 5;

	return ++twin;
}
