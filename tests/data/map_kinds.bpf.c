/* SPDX-License-Identifier: MIT */
/* One map of every kind that programs and user space share: what Python wrote is
 * checked here and answered with what Python then checks. The program returns
 * the number of the line that failed, 0 if none did. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

struct key {
	__u32 id;
	__u16 port;
	__u16 zero;
};

struct value {
	__u64 packets;
	__s32 delta;
	char name[12];
};

struct lpm_key {
	__u32 prefixlen;
	__u8 address[4];
};

#define MAP(map_name, map_type, entries, key_type, value_type) \
	struct {                                               \
		__uint(type, map_type);                        \
		__uint(max_entries, entries);                  \
		__type(key, key_type);                         \
		__type(value, value_type);                     \
	} map_name SEC(".maps")

MAP(hash, BPF_MAP_TYPE_HASH, 16, struct key, struct value);
MAP(lru_hash, BPF_MAP_TYPE_LRU_HASH, 16, __u32, __s64);
MAP(percpu_hash, BPF_MAP_TYPE_PERCPU_HASH, 16, __u32, struct value);
MAP(lru_percpu_hash, BPF_MAP_TYPE_LRU_PERCPU_HASH, 16, __u32, __u32);
MAP(array, BPF_MAP_TYPE_ARRAY, 4, __u32, struct value);
MAP(percpu_array, BPF_MAP_TYPE_PERCPU_ARRAY, 4, __u32, __u64);

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lpm_key);
	__type(value, __u32);
} lpm SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 8);
	__type(value, __u32);
} queue SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 8);
	__type(value, __u32);
} stack SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
	__uint(max_entries, 64);
	__type(value, __u32);
} bloom SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 4);
} programs SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__array(values, struct inner);
} array_of_maps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__array(values, struct inner);
} hash_of_maps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 16);
	__uint(key_size, 4);
	__uint(value_size, 64 * 8);
} stacks SEC(".maps");

long stack_id;
/* Not on the stack: Linux 7.3 takes what bpf_map_peek_elem reads there for dead. */
__u32 member = 77, stranger = 78;

#define CHECK(condition)                 \
	do {                             \
		if (!(condition))        \
			return __LINE__; \
	} while (0)

static __noinline int hashes(void)
{
	struct key first = { .id = 7, .port = 80 }, second = { .id = 8, .port = 443 };
	struct value *found, made = { .packets = 1, .delta = -1, .name = "from bpf" };
	__u32 one = 1, two = 2, *small;
	__s64 *number, answer = -42;

	found = bpf_map_lookup_elem(&hash, &first);
	CHECK(found);
	CHECK(found->packets == 5000000000 && found->delta == -3);
	CHECK(found->name[0] == 'e' && found->name[3] == '0' && found->name[4] == 0);
	found->packets++;
	CHECK(!bpf_map_update_elem(&hash, &second, &made, BPF_NOEXIST));

	number = bpf_map_lookup_elem(&lru_hash, &one);
	CHECK(number && *number == -5);
	CHECK(!bpf_map_update_elem(&lru_hash, &two, &answer, BPF_ANY));

	found = bpf_map_lookup_elem(&percpu_hash, &one);
	CHECK(found && found->packets == 10 + bpf_get_smp_processor_id());
	found->packets += 100;
	small = bpf_map_lookup_elem(&lru_percpu_hash, &one);
	CHECK(small && *small == 6);
	*small += 1;
	return 0;
}

static __noinline int arrays(void)
{
	struct lpm_key address = { .prefixlen = 32, .address = { 10, 1, 2, 3 } };
	struct value *found;
	__u32 one = 1, three = 3, *answer;
	__u64 *count;

	found = bpf_map_lookup_elem(&array, &three);
	CHECK(found && found->packets == 33);
	found->delta = -33;
	count = bpf_map_lookup_elem(&percpu_array, &one);
	CHECK(count);
	*count += 11;
	answer = bpf_map_lookup_elem(&lpm, &address);
	CHECK(answer && *answer == 16);
	*answer = 17;
	return 0;
}

static __noinline int without_keys(void)
{
	__u32 value = 0, made = 9;

	CHECK(!bpf_map_pop_elem(&queue, &value) && value == 1);
	CHECK(!bpf_map_push_elem(&queue, &made, 0));
	CHECK(!bpf_map_pop_elem(&stack, &value) && value == 3);
	CHECK(!bpf_map_push_elem(&stack, &made, 0));
	CHECK(!bpf_map_peek_elem(&bloom, &member));
	CHECK(bpf_map_peek_elem(&bloom, &stranger));
	return 0;
}

static __noinline int nested(void)
{
	__u32 two = 2, one = 1;
	__u64 *value;
	void *map;

	map = bpf_map_lookup_elem(&array_of_maps, &two);
	CHECK(map);
	value = bpf_map_lookup_elem(map, &one);
	CHECK(value && *value == 21);
	*value += 1;
	map = bpf_map_lookup_elem(&hash_of_maps, &two);
	CHECK(map);
	value = bpf_map_lookup_elem(map, &one);
	CHECK(value && *value == 31);
	*value += 1;
	CHECK(!bpf_map_lookup_elem(&array_of_maps, &one));
	return 0;
}

SEC("socket")
int round_trip(void *ctx)
{
	int line = hashes();

	if (!line)
		line = arrays();
	if (!line)
		line = without_keys();
	if (!line)
		line = nested();
	return line;
}

SEC("socket")
int tail(void *ctx)
{
	return 1234;
}

SEC("socket")
int jump(void *ctx)
{
	bpf_tail_call(ctx, &programs, 2);
	return 1;
}

SEC("raw_tp/sched_switch")
int take_stack(void *ctx)
{
	stack_id = bpf_get_stackid(ctx, &stacks, 0);
	return 0;
}
