// SPDX-License-Identifier: MIT
// The "kernel" that core_kinds.bpf.c is relocated against: its BTF has the types, `object` one
// instance of them.
#include "pybpf.h"

struct point {
	long z;
	short y;
	short x;
};

enum colour { RED = 7, GREEN = 1000000, BLUE = -5 };
enum big { BIG_ONE = 1, BIG_TWO = 0x123456789abcULL };
enum was_small { GREW = 0x7000000000000001ULL };
enum was_big { SHRANK = 77 };
enum tone { TONE_LOW = -3, TONE_HIGH = 3 };

typedef int (*handler_t)(struct point *at, int count);
typedef struct point point_t;
struct same_name_other_kind {
	int x;
};
union number {
	int i;
	long l;
};

struct shape {
	char added[40];
	struct {
		struct {
			unsigned char wide_here_byte_there; // u64 in the program
			unsigned short half;
		};
		union {
			long as_long;
			char as_bytes[8];
		};
	};
	unsigned long byte_here_wide_there; // u8 in the program
	int signed_same;
	short signed_other; // int in the program: must not be loaded
	const struct shape *next;
	struct point corners[6];
	unsigned int flag_a : 3;
	unsigned int flag_b : 7;
	int small_signed : 5;
	unsigned long long far : 40;
	int plain_here; // a bit-field in the program
	unsigned int field_here : 9; // plain in the program
	enum tone tone : 4;
	int changed_kind;
	struct point nested;
	int grid[4][5];
	handler_t handler;
	char name[16];
	int count;
	int stored;
	long stored_long;
	struct point tail[];
};

// Two incompatible types under one essential name.
struct twofold {
	long pad;
	int same_place;
	int moved;
};
struct twofold___other {
	int first;
	int moved;
	int same_place;
	int only_here;
};

struct matching {
	int a;
	long extra;
	struct point *where;
	enum tone tone;
	union number number;
	int (*call)(int x, struct point *p);
	int list[3];
};

struct shape object = {
	.wide_here_byte_there = 0xfe,
	.half = 0xbeef,
	.as_long = 0x1122334455667788,
	.byte_here_wide_there = 0x1234567890abcdef,
	.signed_same = -123,
	.signed_other = -3,
	.corners = { { 1, 2, 3 }, { 4, 5, 6 }, { 7, 8, 9 }, { 10, 11, 12 }, { 13, 14, -15 } },
	.flag_a = 5,
	.flag_b = 99,
	.small_signed = -9,
	.far = 0x9876543210,
	.plain_here = -77,
	.field_here = 300,
	.tone = TONE_LOW,
	.nested = { 21, 22, 23 },
	.grid = { [2][3] = 42, [3][4] = 43 },
	.name = "target",
	.count = 2,
	.tail = { { 31, 32, 33 }, { 34, 35, 36 } },
};
// Kept for its types.
struct {
	struct twofold a;
	struct twofold___other b;
	struct matching c;
	enum colour d;
	enum big e;
	enum was_small f;
	enum was_big g;
	struct same_name_other_kind h;
	point_t i;
} types = {};

char LICENSE[] SEC("license") = "GPL";
