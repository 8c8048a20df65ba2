// SPDX-License-Identifier: MIT
// All CO-RE kinds on types that differ from those of core_target.bpf.c. A program gets a pointer
// to that file's `object` and returns 0, or the line of the first check that failed.
#include "pybpf.h"

#define CHECK(condition)             \
	do {                         \
		if (!(condition))    \
			return __LINE__; \
	} while (0)
#define RSHIFT(field) __builtin_preserve_field_info(field, PYBPF_FIELD_RSHIFT)
#define LSHIFT(field) __builtin_preserve_field_info(field, PYBPF_FIELD_LSHIFT)
#define SIGNED(field) __builtin_preserve_field_info(field, PYBPF_FIELD_SIGNED)
// The value of a bit-field by plain loads of whatever width the target needs.
#define BITFIELD(ptr, field)                                                       \
	({                                                                         \
		const char *at = (const char *)(ptr) + bpf_core_field_offset((ptr)->field); \
		u64 bits = 0;                                                      \
		barrier_var(at);                                                   \
		switch (bpf_core_field_size((ptr)->field)) {                       \
		case 1: bits = *(const u8 *)at; break;                             \
		case 2: bits = *(const u16 *)at; break;                            \
		case 4: bits = *(const u32 *)at; break;                            \
		case 8: bits = *(const u64 *)at; break;                            \
		}                                                                  \
		bits <<= LSHIFT((ptr)->field);                                     \
		if (SIGNED((ptr)->field))                                          \
			bits = (s64)bits >> RSHIFT((ptr)->field);                  \
		else                                                               \
			bits >>= RSHIFT((ptr)->field);                             \
		bits;                                                              \
	})

struct point___mine {
	short x;
	short y;
} __core;

enum tone___mine { TONE_LOW___mine = -1 };

struct shape___mine {
	u8 byte_here_wide_there;
	u64 wide_here_byte_there;
	u32 half;
	char as_bytes[8];
	union {
		struct {
			long as_long;
		};
	};
	int signed_same;
	int signed_other;
	const struct shape___mine *next;
	struct point___mine corners[4];
	unsigned int flag_a : 1;
	unsigned int flag_b : 31;
	int small_signed : 3;
	unsigned long long far : 33;
	int plain_here : 6;
	unsigned int field_here;
	enum tone___mine tone : 3;
	struct point___mine changed_kind;
	struct point___mine nested;
	int grid[4][5];
	char name[16];
	int count;
	int stored;
	long stored_long;
	int gone;
	struct point___mine tail[];
} __core;

struct shape___nothing {
	int no_such_field;
	struct {
		int nor_this;
	} deep;
} __core;

SEC("raw_tp/fields") int fields(struct shape___mine *s)
{
	CHECK(bpf_core_field_offset(s->half) == 42);
	CHECK(s->half == 0xbeef); // 4 bytes become 2
	CHECK(s->wide_here_byte_there == 0xfe); // 8 become 1
	u64 wide = s->byte_here_wide_there; // 1 becomes 8, and nothing masks it
	barrier_var(wide);
	CHECK(wide == 0x1234567890abcdef);
	CHECK(s->as_long == 0x1122334455667788); // through anonymous members of both sides
	CHECK(s->as_bytes[1] == 0x77);
	CHECK(s->signed_same == -123);
	CHECK(s->next == 0);
	CHECK(s->nested.x == 23 && s->nested.y == 22);
	CHECK(s->grid[2][3] == 42 && s->grid[3][4] == 43 && s->grid[0][0] == 0);
	CHECK(s->name[0] == 't' && s->name[5] == 't' && s->name[6] == 0);
	return 0;
}

SEC("raw_tp/arrays") int arrays(struct shape___mine *s)
{
	// Constant indices are relocated with the element size of the target...
	CHECK(s->corners[0].x == 3 && s->corners[2].x == 9 && s->corners[3].y == 11);
	// ... also past the end of a flexible array, and of the root itself.
	CHECK(s->tail[0].x == 33 && s->tail[1].y == 35);
	CHECK(bpf_core_field_offset(s->corners[3]) - bpf_core_field_offset(s->corners[0]) == 48);
	CHECK(bpf_core_field_size(s->corners[1]) == 16);
	CHECK(bpf_core_field_size(s->corners) == 96);
	CHECK(bpf_core_field_offset(s[2].count) ==
	      2 * bpf_core_type_size(struct shape___mine) + bpf_core_field_offset(s->count));
	return 0;
}

SEC("raw_tp/stores") int stores(struct shape___mine *s)
{
	s->stored = 5;
	s->stored_long = 0x100000000;
	s->half = s->count; // store of a narrower field
	CHECK(s->stored == 5 && s->stored_long == 0x100000000 && s->half == 2);
	return 0;
}

SEC("raw_tp/bitfields") int bitfields(struct shape___mine *s)
{
	CHECK(BITFIELD(s, flag_a) == 5);
	CHECK(BITFIELD(s, flag_b) == 99);
	CHECK((s64)BITFIELD(s, small_signed) == -9);
	CHECK(BITFIELD(s, far) == 0x9876543210);
	CHECK((s64)BITFIELD(s, plain_here) == -77);
	CHECK(BITFIELD(s, field_here) == 300);
	CHECK(SIGNED(s->tone) && SIGNED(s->small_signed) && !SIGNED(s->flag_a));
	CHECK(RSHIFT(s->flag_b) == 57 && RSHIFT(s->far) == 24);
	CHECK(!SIGNED(s->wide_here_byte_there) && SIGNED(s->signed_other));
	CHECK(bpf_core_field_size(s->half) == 2 && bpf_core_field_size(s->name) == 16);
	return 0;
}

SEC("raw_tp/exists") int exists(struct shape___mine *s)
{
	struct shape___nothing *n = (void *)s;

	CHECK(bpf_core_field_exists(s->half) && bpf_core_field_exists(s->as_bytes));
	CHECK(bpf_core_field_exists(s->corners[3]) && bpf_core_field_exists(s->tail[99]));
	CHECK(!bpf_core_field_exists(s->gone) && !bpf_core_field_exists(n->no_such_field));
	CHECK(!bpf_core_field_exists(n->deep.nor_this));
	CHECK(!bpf_core_field_exists(s->changed_kind)); // the name is there, as an int
	CHECK(bpf_core_field_exists(s->tone)); // enums of one name, whatever their values
	if (bpf_core_field_exists(s->gone))
		return s->gone; // poisoned, never run
	return 0;
}

SEC("raw_tp/wrong_width") int wrong_width(struct shape___mine *s)
{
	return s->signed_other; // 4 bytes and signed here, 2 there: poisoned
}

SEC("raw_tp/gone") int gone(struct shape___mine *s)
{
	return s->gone;
}

// Types.

struct point___again {
	int whatever;
};
union point___as_union {
	int x;
};
union same_name_other_kind {
	int x;
};
struct absent_type {
	int x;
};
typedef int (*handler_t___alike)(struct absent_type *at, long count);
typedef int (*handler_t___other)(int count);
typedef struct point___again point_t;
struct shape; // only declared

struct matching___same {
	int a;
	struct point___again *where;
	enum tone { TONE_HIGH = 5 } tone;
	int (*call)(int x, struct point___again *p);
	int list[3];
};
struct matching___wrong_list {
	int list[4];
};
struct matching___wrong_size {
	long a;
};
struct matching___extra {
	int a;
	int not_there;
};
struct matching___wrong_call {
	int (*call)(long x, struct point___again *p);
};

SEC("raw_tp/types") int types(void *ctx)
{
	CHECK(bpf_core_type_exists(struct point___again));
	CHECK(bpf_core_type_exists(point_t));
	CHECK(bpf_core_type_exists(handler_t___alike)); // signatures count, names do not
	CHECK(!bpf_core_type_exists(handler_t___other));
	CHECK(!bpf_core_type_exists(union point___as_union));
	CHECK(!bpf_core_type_exists(union same_name_other_kind));
	CHECK(!bpf_core_type_exists(struct absent_type));
	CHECK(bpf_core_type_exists(enum tone___mine));
	CHECK(bpf_core_type_size(struct point___again) == 16);
	CHECK(bpf_core_type_size(struct absent_type) == 0);
	CHECK(bpf_core_type_size(point_t) == 16);
	CHECK(bpf_core_type_id_kernel(struct absent_type) == 0);
	CHECK(bpf_core_type_matches(struct matching___same));
	CHECK(!bpf_core_type_matches(struct matching___wrong_list));
	CHECK(!bpf_core_type_matches(struct matching___wrong_size));
	CHECK(!bpf_core_type_matches(struct matching___extra));
	CHECK(!bpf_core_type_matches(struct matching___wrong_call));
	CHECK(!bpf_core_type_matches(struct absent_type));
	return 0;
}

SEC("raw_tp/id_local") u64 id_local(void *ctx)
{
	return bpf_core_type_id_local(struct point___again);
}

SEC("raw_tp/id_kernel") u64 id_kernel(void *ctx)
{
	return bpf_core_type_id_kernel(struct point___again);
}

// Enumerators.

enum colour___mine { RED___mine = 1, GREEN___x = 2, BLUE___mine = 3, PINK = 4 };
enum big___mine { BIG_ONE___mine = 5, BIG_TWO___mine = 0x700000000000ULL };
enum was_small___mine { GREW___mine = 1 };
enum was_big___mine { SHRANK___mine = 0x700000000000ULL };

SEC("raw_tp/enums") int enums(void *ctx)
{
	CHECK(bpf_core_enum_value(enum colour___mine, RED___mine) == 7);
	CHECK(bpf_core_enum_value(enum colour___mine, GREEN___x) == 1000000);
	CHECK((s64)bpf_core_enum_value(enum colour___mine, BLUE___mine) == -5);
	CHECK(bpf_core_enum_value_exists(enum colour___mine, BLUE___mine));
	CHECK(!bpf_core_enum_value_exists(enum colour___mine, PINK));
	CHECK(bpf_core_enum_value(enum big___mine, BIG_TWO___mine) == 0x123456789abcULL);
	CHECK(bpf_core_enum_value(enum big___mine, BIG_ONE___mine) == 1);
	CHECK(bpf_core_enum_value(enum was_small___mine, GREW___mine) == 0x7000000000000001ULL);
	CHECK(bpf_core_enum_value(enum was_big___mine, SHRANK___mine) == 77);
	if (bpf_core_enum_value_exists(enum colour___mine, PINK))
		return bpf_core_enum_value(enum colour___mine, PINK); // poisoned, both slots
	return 0;
}

// One name, two types in the target: what they agree on may be used.

struct twofold___mine {
	int moved;
	int same_place;
	int only_here;
} __core;

SEC("raw_tp/agreed") int agreed(struct twofold___mine *t)
{
	return bpf_core_field_offset(t->same_place);
}

SEC("raw_tp/narrowed") int narrowed(struct twofold___mine *t)
{
	// Only one candidate has this field; from here on it is the only one.
	CHECK(bpf_core_field_offset(t->only_here) == 12);
	CHECK(bpf_core_field_offset(t->moved) == 4);
	return 0;
}

SEC("raw_tp/ambiguous") int ambiguous(struct twofold___mine *t)
{
	return bpf_core_field_offset(t->moved);
}

char LICENSE[] SEC("license") = "GPL";
