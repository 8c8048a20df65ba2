// SPDX-License-Identifier: MIT
// Multi programs that call what may itself be traced, for tests that put them on the functions
// behind their own helpers. Each counts its runs; `limit` ends what would never end by itself.
#include "pybpf.h"

#define FRAMES 16

volatile __u64 runs = 0;
volatile __u64 refused = 0;
// Past this many runs a program calls nothing more: a test that fails must not hang the guest.
volatile __u64 limit = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} written SEC(".maps");  // by user space: one update is one call of what is traced

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} recent SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 64);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, FRAMES * sizeof(__u64));
} stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64[FRAMES]);
} scratch SEC(".maps");

static __always_inline bool running(void)
{
	__u64 before = __sync_fetch_and_add(&runs, 1);

	return !limit || before < limit;
}

static __always_inline void update(void)
{
	__u64 value = runs;
	__u32 key = value & 63;

	bpf_map_update_elem(&hash, &key, &value, BPF_ANY);
	bpf_map_update_elem(&recent, &key, &value, BPF_ANY);
	bpf_map_delete_elem(&hash, &key);
}

static __always_inline void send(void)
{
	__u64 *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		__sync_fetch_and_add(&refused, 1);
		return;
	}
	*event = runs;
	bpf_ringbuf_submit(event, 0);
}

static __always_inline void unwind(void *ctx)
{
	__u32 zero = 0;
	void *buffer = bpf_map_lookup_elem(&scratch, &zero);

	bpf_get_stackid(ctx, &stacks, BPF_F_REUSE_STACKID);
	if (buffer)
		bpf_get_stack(ctx, buffer, FRAMES * sizeof(__u64), 0);
}

static __always_inline void peek(void *ctx)
{
	__u64 word;
	char text[16];

	// The function's own code, and two addresses that are none.
	bpf_probe_read_kernel(&word, sizeof(word), (void *)bpf_get_func_ip(ctx));
	bpf_probe_read_kernel(&word, sizeof(word), (void *)0xffffffffffff0000ULL);
	bpf_probe_read_user_str(text, sizeof(text), (void *)8);
}

SEC("fentry.multi")
int entry_one_update(void *ctx)
{
	__u32 key = 1;
	__u64 value = 1;

	if (running())
		bpf_map_update_elem(&hash, &key, &value, BPF_ANY);
	return 0;
}

SEC("fentry.multi")
int entry_maps(void *ctx)
{
	if (running())
		update();
	return 0;
}

SEC("fentry.multi")
int entry_ringbuf(void *ctx)
{
	if (running())
		send();
	return 0;
}

SEC("fentry.multi")
int entry_stacks(void *ctx)
{
	if (running())
		unwind(ctx);
	return 0;
}

SEC("fentry.multi")
int entry_reads(void *ctx)
{
	if (running())
		peek(ctx);
	return 0;
}

static __always_inline void everything(void *ctx)
{
	if (!running())
		return;
	update();
	send();
	unwind(ctx);
	peek(ctx);
}

SEC("fentry.multi")
int entry_all(void *ctx)
{
	everything(ctx);
	return 0;
}

SEC("fexit.multi")
int exit_all(void *ctx)
{
	everything(ctx);
	return 0;
}

SEC("fsession.multi")
int session_all(void *ctx)
{
	everything(ctx);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
