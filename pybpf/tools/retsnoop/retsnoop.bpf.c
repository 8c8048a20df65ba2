// SPDX-License-Identifier: MIT
/*
 * The kernel half of the retsnoop clone.
 *
 * One program runs at the entry and at the exit of every traced function. Which
 * function it is, and what its return value can mean, tells the attach cookie:
 * bits 0-31 are the function's number, bits 32-63 are `func_flags`. A task that
 * calls an *entry* function opens a session: a stack of call frames that belongs
 * to the task until the entry function returns. Inside a session every traced
 * call pushes a frame and every return pops it.
 *
 * A return value that is an error marks the session as failed and freezes the
 * chain of frames down to it; the kernel stack is taken at that moment. While
 * the error is handed on by the callers the mark stays. A caller that succeeds
 * clears it, one that returns void leaves it. If calls follow below a failed
 * chain (cleanup), the chain is set aside, and put back if the direct caller
 * fails in the end: that is "stitching".
 *
 * Calls and returns are paired leniently. Kernels do skip programs (recursion,
 * a full object pool), so a return looks for its call further down the stack,
 * and one that finds none is counted and ignored; a session is never lost to it.
 * Should the return of the entry function itself be skipped, the session would go
 * on for ever. So when that function is called again, the kernel stack tells
 * whether it is really still running; if not, the session is ended there.
 *
 * Who is traced is asked once, when a session would be opened. What is shown is
 * decided when it ends. Every session that was opened ends in one of the
 * counters of `ends`, or is still open: they add up to `last_session`.
 *
 * Sessions live in an array, and `owners` tells whose they are: a bucket of
 * eight task ids, chosen by the low bits of the id, and a second one for what
 * does not fit. A call outside any session costs one look at a bucket, and
 * opening a session copies nothing.
 */
#include "kernel.h"

char LICENSE[] SEC("license") = "GPL";

#define MAX_DEPTH 64
#define MAX_STACK 96
#define MAX_ERRNO 4095
#define MAX_RANGES 16
#define WAYS 8
#define SHORT_STACK (2 * sizeof(__u64))
#define MAX_ARGS 12
#define MAX_SLOTS 6
#define MAX_ARGS_BYTES 16384 /* of all arguments of a call */
#define MAX_ARG_BYTES 8192   /* of one */
#define MAX_LBR 32

/* Flags of a function: bits 32 and up of a cookie. */
enum func_flags {
	FUNC_ENTRY = 1,   /* opens a session */
	FUNC_NOFAIL = 2,  /* no value it returns means an error */
	FUNC_SIGNEXT = 4, /* returns a signed integer: of 4 bytes, or as FUNC_BYTE or FUNC_SHORT say */
	FUNC_PTR = 8,     /* NULL is an error too */
	FUNC_BOOL = 16,
	FUNC_VOID = 32,
	FUNC_GUESS = 64, /* no prototype known: perhaps a 4-byte integer */
	FUNC_BYTE = 128, /* returns 1, 2 or 4 bytes: above them is whatever the register held */
	FUNC_SHORT = 256,
	FUNC_WORD = 512,
};

/* Values of the filter maps: bits of `ids`, and what is in `comms`. */
enum id_verdict { ALLOW_PROCESS = 1, DENY_PROCESS = 2, ALLOW_THREAD = 4, DENY_THREAD = 8 };
enum comm_verdict { DENY = 0, ALLOW = 1 };

enum record_kind {
	REC_CALL = 1,
	REC_RETURN = 2,
	REC_STACK = 3,
	REC_END = 4,
	REC_USER_STACK = 5,
	REC_INTERIM = 6, /* as REC_END, of a session that goes on */
	REC_ARGS = 7,
	REC_PROBE = 8,   /* a trace record of an injected probe: `func` is its number */
	REC_CONTEXT = 9, /* of an injected probe */
	REC_LBR = 10,
};

enum end_flags {
	END_FAILED = 1,     /* the entry function failed */
	END_DISCARD = 2,    /* filtered out: forget the session's trace records */
	END_UNFINISHED = 4, /* the task exited inside the entry function */
};

enum frame_flags {
	FRAME_DONE = 1,     /* `time` is the duration, `result` is valid */
	FRAME_STITCHED = 2, /* from a chain that was set aside */
	FRAME_FAILED = 4,   /* `result` is an error */
	FRAME_VOID = 8,     /* `result` is whatever was in the register */
};

#define UNKNOWN_TIME ((__u64)-1) /* duration of a call that had no frame */
#define FRAME_CALL_SHIFT 8 /* above it is the call's number in its session */

/* How a session ended: indices of `ends`. */
enum end_kind {
	ENDED_SENT,
	ENDED_LOST,     /* the ring buffer was full */
	ENDED_SUCCESS,  /* filtered: it succeeded */
	ENDED_DURATION, /* filtered: it was too short */
	ENDED_ERROR,    /* filtered by its errors */
	ENDED_RETVAL,   /* filtered by what its entry function returned */
	ENDED_KINDS,
};

struct frame {
	__u32 func;
	__u32 flags;
	__u64 time; /* ns: time of the call until it returns, then the duration */
	__s64 result;
};

/* One call or return, with -T. */
struct trace_record {
	__u32 kind;
	__u32 session;
	__s32 key;
	__u32 seq; /* counts calls and returns of the session: a gap is a lost record */
	__u32 func;
	__u32 depth;
	__u64 time; /* ns: time of the call, or duration at return, or UNKNOWN_TIME */
	__s64 result;
};

struct stack_record {
	__u32 kind;
	__u32 session;
	__s32 key;
	__u32 bytes;
	__u64 addrs[MAX_STACK]; /* innermost first */
};

struct end_record {
	__u32 kind;
	__u32 session;
	__s32 key;
	__u32 flags;
	__u64 start; /* ns, CLOCK_MONOTONIC */
	__u64 end;
	__u32 tid;
	__u32 tgid;
	__u32 records; /* trace records written or lost; without -T calls that were numbered */
	__u32 dropped; /* of them lost */
	__u32 missed;  /* returns without a call and calls without a return */
	__u32 deep;    /* calls beyond max_depth, which have no frame */
	__u32 depth;   /* frames that follow */
	__u32 pad;
	char comm[16];
	char leader_comm[16];
	struct frame frames[MAX_DEPTH]; /* outermost first */
};

/* Arguments of a call (seq is that of its trace record), or the context of a probe. */
struct args_record {
	__u32 kind;
	__u32 session;
	__s32 key;
	__u32 seq;
	__u32 func;
	__u32 bytes;
	char data[MAX_ARGS_BYTES + MAX_ARG_BYTES]; /* of args: `arg_head` and its bytes, by turns */
};

struct arg_head {
	__s32 size; /* bytes that follow, without padding to 8; or -errno */
	__u32 pad;
	__u64 value; /* of the first register */
};

enum arg_kind {
	ARG_NONE = 0,   /* not taken */
	ARG_VALUE = 1,  /* the register itself */
	ARG_PAIR = 2,   /* a struct by value in two registers */
	ARG_MEMORY = 3, /* what it points to */
	ARG_STRING = 4,
};

struct arg_spec {
	__u8 kind;
	__u8 slot; /* of the first register */
	__u16 size;
};

struct args_spec {
	__u32 count;
	struct arg_spec args[MAX_ARGS];
};

struct lbr_record {
	__u32 kind;
	__u32 session;
	__s32 key;
	__u32 bytes;
	struct {
		__u64 from;
		__u64 to;
		__u64 flags;
	} entries[MAX_LBR]; /* newest first */
};

struct session {
	__u32 open;  /* its task may work on it; 0 while a program does, and before and after */
	__u32 depth; /* calls not returned yet; may exceed max_depth */
	__u32 failed;
	__u32 aside_from; /* the chain set aside: frames [aside_from, aside_to) */
	__u32 aside_to;
	__u32 aside_stack_bytes;
	__u32 slot; /* its place in its bucket */
	__u32 bucket;
	struct end_record end; /* .depth: frames of the chain to report */
	struct stack_record stack;
	struct frame aside[MAX_DEPTH];
	__u64 aside_stack[MAX_STACK];
};

struct bucket {
	__s32 owners[WAYS];
	__u32 used;    /* owners that are not 0 */
	__u32 spilled; /* sessions that are in another bucket for want of room here */
	__u32 pad[6];  /* a cache line */
};

struct range {
	__s64 low;
	__s64 high;
};

const volatile __u32 self_tgid = 0;
const volatile bool skip_exits = false; /* kprobe.session: 1 at entry leaves out the exit */
const volatile bool emit_success = false;
const volatile bool emit_stacks = true;
const volatile bool emit_trace = false;
const volatile bool emit_interim = false;
const volatile bool emit_user_stacks = false;
const volatile bool emit_lbr = false;
const volatile bool emit_args = false;
const volatile bool capture_context = false;
const volatile bool filter_ids = false;
const volatile bool allow_ids = false; /* some process or thread is allowed, so others are not */
const volatile bool filter_comms = false;
const volatile bool allow_comms = false;
const volatile bool filter_cgroup = false;
const volatile bool filter_errors = false;
const volatile bool allow_errors = false; /* one of `allowed_errors` must occur */
const volatile bool filter_retvals = false;
const volatile __u32 allowed_retvals = 0; /* ranges in use */
const volatile __u32 denied_retvals = 0;
const volatile struct range allow_retvals[MAX_RANGES] = {};
const volatile struct range deny_retvals[MAX_RANGES] = {};
const volatile __u64 min_duration = 0; /* ns */
const volatile __u32 bucket_mask = 0;  /* buckets - 1; their number is a power of two */
const volatile __u32 max_args_bytes = 3072;
const volatile __u32 max_depth = MAX_DEPTH; /* frames that are kept, at most MAX_DEPTH */

__u32 ready;           /* set when everything is attached */
__u32 last_session;    /* sessions are numbered from 1 */
__u64 no_room;         /* calls that should have opened a session: none was free */
__u64 dropped_records; /* the ring buffer was full */
__u64 incomplete_sessions;
__u64 deep_calls; /* beyond max_depth */
__u64 ends[ENDED_KINDS];
/* Bit n: the error n; bit 0: a null pointer. */
__u64 allowed_errors[(MAX_ERRNO + 1) / 64];
__u64 denied_errors[(MAX_ERRNO + 1) / 64];

/* Never used: they put types into BTF, where the tests of the Python side read them. */
struct {
	struct trace_record trace_record[0];
	struct lbr_record lbr_record[0];
	struct arg_head arg_head[0];
	enum func_flags func_flags[0];
	enum id_verdict id_verdict[0];
	enum end_flags end_flags[0];
	enum end_kind end_kind[0];
	enum frame_flags frame_flags[0];
	enum record_kind record_kind[0];
	enum arg_kind arg_kind[0];
	int unused;
} btf_types;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bucket);
} owners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WAYS);
	__type(key, __u32);
	__type(value, struct session);
} sessions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8);
} ids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, char[16]);
	__type(value, __u8);
} comms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} cgroup SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct args_spec);
} args_specs SEC(".maps");

/* Where the code of an entry function lies, behind its first instructions; 0 if not known. */
struct place {
	__u64 start;
	__u64 end;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct place);
} places SEC(".maps");

/*
 * Where records are put together that are too large for the stack. A program
 * never runs twice at a time on a CPU (the kernel's flag, or the recursion guard
 * of copies), so each kind of program has one a CPU.
 */
enum scratch_user { BY_TRACER, BY_KPROBE, BY_RAW_TP, SCRATCH_USERS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCH_USERS);
	__type(key, __u32);
	__type(value, struct args_record);
} scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 * 1024 * 1024);
} events SEC(".maps");

extern _Bool bpf_session_is_return(void *ctx) __ksym __weak;

static __always_inline void count(__u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

/*
 * An index that every verifier can see the bounds of: without the barrier the
 * compiler leaves out masks that are redundant to it, and 6.x lose track.
 */
static __always_inline __u32 slot(__u32 depth)
{
	barrier_var(depth);
	return depth & (MAX_DEPTH - 1);
}

/* The task's id in `owners`; the idle tasks all have tid 0. */
static __always_inline __s32 session_key(__u32 tid)
{
	return tid ? (__s32)tid : -(__s32)(1 + bpf_get_smp_processor_id());
}

/* -- whose session is where ------------------------------------------------ */

static __always_inline __u32 second_bucket(__s32 key)
{
	return ((__u32)key * 2654435761u) >> 16;
}

static __always_inline struct session *session_at(__u32 bucket, __u32 way)
{
	__u32 index = (bucket & bucket_mask) * WAYS + way;

	return bpf_map_lookup_elem(&sessions, &index);
}

static __always_inline struct bucket *bucket_at(__u32 at)
{
	__u32 index = at & bucket_mask;

	return bpf_map_lookup_elem(&owners, &index);
}

static __always_inline __u32 way_of(const struct bucket *b, __s32 key)
{
	__u32 way = WAYS;

#pragma unroll
	for (int i = WAYS - 1; i >= 0; i--)
		if (b->owners[i] == key)
			way = i;
	return way;
}

/* The session of a task, NULL if it has none. */
static __always_inline struct session *find_session(__s32 key)
{
	struct bucket *b = bucket_at(key);
	__u32 way, second;

	if (!b)
		return NULL;
	if (b->used) {
		way = way_of(b, key);
		if (way < WAYS)
			return session_at(key, way);
	}
	if (!b->spilled)
		return NULL;
	second = second_bucket(key);
	b = bucket_at(second);
	if (!b)
		return NULL;
	way = way_of(b, key);
	return way < WAYS ? session_at(second, way) : NULL;
}

static __always_inline struct session *claim_in(__u32 at, __s32 key)
{
	struct bucket *b = bucket_at(at);

	if (!b)
		return NULL;
#pragma unroll
	for (int i = 0; i < WAYS; i++) {
		if (!b->owners[i] && !__sync_val_compare_and_swap(&b->owners[i], 0, key)) {
			struct session *s = session_at(at, i);

			__sync_fetch_and_add(&b->used, 1);
			if (s) {
				s->bucket = at;
				s->slot = i;
			}
			return s;
		}
	}
	return NULL;
}

static __always_inline struct session *claim(__s32 key)
{
	struct session *s = claim_in(key, key);
	struct bucket *b;

	if (s)
		return s;
	s = claim_in(second_bucket(key), key);
	if (s) {
		b = bucket_at(key);
		if (b)
			__sync_fetch_and_add(&b->spilled, 1);
	}
	return s;
}

/* Give the session's place back; its `open` is 0 already and stays so. */
static __always_inline void release(struct session *s, __s32 key)
{
	__u32 at = s->bucket, way = s->slot;
	struct bucket *b;

	if ((at & bucket_mask) != ((__u32)key & bucket_mask)) {
		b = bucket_at(key);
		if (b)
			__sync_fetch_and_add(&b->spilled, -1);
	}
	b = bucket_at(at);
	if (b && way < WAYS) {
		__sync_fetch_and_add(&b->used, -1);
		WRITE_ONCE(b->owners[way & (WAYS - 1)], 0);
	}
}

/* -- who is traced --------------------------------------------------------- */

static __always_inline bool wanted_id(__u32 tgid, __u32 tid)
{
	bool allowed = !allow_ids;
	__u8 *verdict;

	verdict = bpf_map_lookup_elem(&ids, &tgid);
	if (verdict) {
		if (*verdict & DENY_PROCESS)
			return false;
		allowed |= !!(*verdict & ALLOW_PROCESS);
	}
	verdict = bpf_map_lookup_elem(&ids, &tid);
	if (verdict) {
		if (*verdict & DENY_THREAD)
			return false;
		allowed |= !!(*verdict & ALLOW_THREAD);
	}
	return allowed;
}

static __always_inline bool wanted(__u32 tgid, __u32 tid, const char *comm)
{
	if (tgid == self_tgid)
		return false;
	if (filter_ids && !wanted_id(tgid, tid))
		return false;
	if (filter_comms) {
		__u8 *verdict = bpf_map_lookup_elem(&comms, comm);

		if (verdict ? *verdict == DENY : allow_comms)
			return false;
	}
	return !filter_cgroup || bpf_current_task_under_cgroup(&cgroup, 0) == 1;
}

static __always_inline struct session *open_session(__s32 key, __u64 pid_tgid, __u64 now)
{
	__u32 tgid = pid_tgid >> 32, tid = (__u32)pid_tgid;
	struct task_struct *task;
	struct session *s;
	char comm[16] = {};

	bpf_get_current_comm(comm, sizeof(comm));
	if (!wanted(tgid, tid, comm))
		return NULL;
	s = claim(key);
	if (!s) {
		count(&no_room);
		return NULL;
	}
	s->depth = s->failed = 0;
	s->aside_from = s->aside_to = 0;
	s->end.kind = REC_END;
	s->end.session = s->stack.session = __sync_fetch_and_add(&last_session, 1) + 1;
	s->end.key = s->stack.key = key;
	s->end.start = now;
	s->end.tid = tid;
	s->end.tgid = tgid;
	s->end.records = s->end.dropped = s->end.missed = s->end.deep = s->end.depth = 0;
	s->stack.kind = REC_STACK;
	s->stack.bytes = 0;
	__builtin_memcpy(s->end.comm, comm, sizeof(comm));
	if (tid == tgid) { /* it is the leader */
		__builtin_memcpy(s->end.leader_comm, comm, sizeof(comm));
		return s;
	}
	task = (struct task_struct *)bpf_get_current_task();
	BPF_CORE_READ_STR_INTO(&s->end.leader_comm, task, group_leader, comm);
	return s;
}

/* -- records --------------------------------------------------------------- */

static __always_inline void lost_record(struct session *s)
{
	s->end.dropped++;
	count(&dropped_records);
}

/* Gives the record's number in its session. */
static __always_inline __u32 trace(struct session *s, __u32 kind, __u32 func, __u32 depth,
				   __u64 time, __s64 result)
{
	struct trace_record r = {
		.kind = kind,
		.session = s->end.session,
		.key = s->end.key,
		.seq = s->end.records++,
		.func = func,
		.depth = depth,
		.time = time,
		.result = result,
	};

	if (bpf_ringbuf_output(&events, &r, sizeof(r), 0))
		lost_record(s);
	return r.seq;
}

/* The first `size` bytes of a record of at most `limit` bytes. */
static __always_inline long send(void *record, __u32 limit, __u32 size)
{
	/* The verifier must see the comparison with the very register it gets. */
	barrier_var(size);
	if (size > limit)
		return -1;
	return bpf_ringbuf_output(&events, record, size, 0);
}

static __always_inline void take_stack(void *ctx, struct session *s)
{
	long bytes = bpf_get_stack(ctx, s->stack.addrs, sizeof(s->stack.addrs), 0);

	s->stack.bytes = bytes > 0 ? bytes : 0;
}

static __always_inline long send_stack(struct session *s)
{
	if (!s->stack.bytes)
		return 0;
	return send(&s->stack, sizeof(s->stack),
		    __builtin_offsetof(struct stack_record, addrs) + s->stack.bytes);
}

static __always_inline long send_end(struct session *s)
{
	return send(&s->end, sizeof(s->end),
		    __builtin_offsetof(struct end_record, frames) +
			    s->end.depth * sizeof(struct frame));
}

/* The branches before a failure: taken before anything else runs, sent if it is one. */
static __always_inline void take_branches(struct session *s)
{
	struct lbr_record *r;
	__u32 user = BY_TRACER;
	long bytes;

	r = bpf_map_lookup_elem(&scratch, &user);
	if (!r)
		return;
	bytes = bpf_get_branch_snapshot(r->entries, sizeof(r->entries), 0);
	r->kind = REC_LBR;
	r->session = s->end.session;
	r->key = s->end.key;
	r->bytes = bytes > 0 ? bytes : 0;
}

static __always_inline void send_branches(struct session *s)
{
	struct lbr_record *r;
	__u32 user = BY_TRACER;

	r = bpf_map_lookup_elem(&scratch, &user);
	if (r && send(r, sizeof(*r), __builtin_offsetof(struct lbr_record, entries) + r->bytes))
		lost_record(s);
}

/* -- the chain of frames --------------------------------------------------- */

/* Loses no error that is about to be overwritten, with -I. */
static __always_inline void send_interim(struct session *s, __u64 now)
{
	s->end.kind = REC_INTERIM;
	s->end.end = now;
	s->end.flags = s->failed ? END_FAILED : 0;
	if (emit_stacks && send_stack(s))
		lost_record(s);
	if (send_end(s))
		lost_record(s);
	s->end.kind = REC_END;
}

/* A call below a failed chain: keep the chain, its frames get overwritten. */
static __always_inline void set_aside(struct session *s, __u32 from)
{
	__u32 bytes;

	s->aside_from = from;
	s->aside_to = s->end.depth;
	bytes = s->end.depth * sizeof(struct frame);
	barrier_var(bytes);
	if (bytes <= sizeof(s->aside))
		bpf_probe_read_kernel(s->aside, bytes, s->end.frames);
	if (emit_stacks) {
		bytes = s->stack.bytes;
		barrier_var(bytes);
		if (bytes <= sizeof(s->aside_stack))
			bpf_probe_read_kernel(s->aside_stack, bytes, s->stack.addrs);
		s->aside_stack_bytes = bytes;
	}
}

/*
 * Loops are callbacks of bpf_loop: the verifier looks at the body once, whereas
 * it would walk through an ordinary loop again for every path that leads to it.
 */
static long put_back_frame(__u32 i, struct session **ctx)
{
	struct session *s = *ctx;

	if (i >= MAX_DEPTH || i >= s->aside_to)
		return 1;
	if (i >= s->aside_from) {
		s->end.frames[i] = s->aside[i];
		s->end.frames[i].flags |= FRAME_STITCHED;
	}
	return 0;
}

static __always_inline void put_back(struct session *s)
{
	__u32 bytes = s->aside_stack_bytes;

	bpf_loop(MAX_DEPTH, put_back_frame, &s, 0);
	s->end.depth = s->aside_to;
	if (emit_stacks) {
		barrier_var(bytes);
		if (bytes <= sizeof(s->stack.addrs))
			bpf_probe_read_kernel(s->stack.addrs, bytes, s->aside_stack);
		s->stack.bytes = bytes;
	}
}

/* Gives the call's number in its session. */
static __always_inline __u32 push(struct session *s, __u32 func, __u64 now)
{
	__u32 depth = s->depth, seq = 0;

	if (emit_trace)
		seq = trace(s, REC_CALL, func, depth, now, 0);
	else if (emit_args)
		seq = s->end.records++;
	if (depth < MAX_DEPTH && depth < max_depth) {
		struct frame *frame;

		if (depth < s->end.depth) {
			if (emit_interim && (s->failed || emit_success))
				send_interim(s, now);
			if (s->failed)
				set_aside(s, depth);
		}
		s->failed = 0;
		frame = &s->end.frames[slot(depth)];
		frame->func = func;
		frame->flags = seq << FRAME_CALL_SHIFT;
		frame->time = now;
		frame->result = 0;
		s->end.depth = depth + 1;
	} else {
		s->end.deep++;
		count(&deep_calls);
	}
	s->depth = depth + 1;
	return seq;
}

/* -- the end of a session -------------------------------------------------- */

static __always_inline bool error_in(const __u64 *set, __u32 error)
{
	return set[(error / 64) & (MAX_ERRNO / 64)] >> (error % 64) & 1;
}

struct errors {
	struct session *session;
	bool allowed;
	bool denied;
};

static long look_at_error(__u32 i, struct errors *found)
{
	struct session *s = found->session;
	__u32 error;

	if (i >= MAX_DEPTH || i >= s->end.depth)
		return 1;
	if (!(s->end.frames[i].flags & FRAME_FAILED))
		return 0;
	error = (__u32)-s->end.frames[i].result & MAX_ERRNO;
	if (error_in(denied_errors, error))
		found->denied = true;
	if (error_in(allowed_errors, error))
		found->allowed = true;
	return 0;
}

static __always_inline bool wanted_errors(struct session *s)
{
	struct errors found = { .session = s };

	bpf_loop(MAX_DEPTH, look_at_error, &found, 0);
	return !found.denied && (found.allowed || !allow_errors);
}

static __always_inline bool in_ranges(const volatile struct range *ranges, __u32 number, __s64 value)
{
	for (int i = 0; i < MAX_RANGES; i++) {
		if (i >= number)
			break;
		if (value >= ranges[i].low && value <= ranges[i].high)
			return true;
	}
	return false;
}

static __always_inline bool wanted_retval(struct session *s)
{
	__s64 value = s->end.frames[0].result;

	if ((s->end.frames[0].flags & (FRAME_DONE | FRAME_VOID)) != FRAME_DONE)
		return !allowed_retvals;
	if (in_ranges(deny_retvals, denied_retvals, value))
		return false;
	return !allowed_retvals || in_ranges(allow_retvals, allowed_retvals, value);
}

static __always_inline __u32 how_it_ended(struct session *s, __u64 now)
{
	if (!(s->failed || emit_success))
		return ENDED_SUCCESS;
	if (now - s->end.start < min_duration)
		return ENDED_DURATION;
	if (filter_errors && !wanted_errors(s))
		return ENDED_ERROR;
	if (filter_retvals && !wanted_retval(s))
		return ENDED_RETVAL;
	return ENDED_SENT;
}

/* The whole chain is known: hand it over and forget the session. */
static __always_inline void finish(void *ctx, struct session *s, __s32 key, __u64 now, __u32 flags)
{
	__u32 how = how_it_ended(s, now);

	s->end.end = now;
	if (s->failed)
		flags |= END_FAILED;
	if (how != ENDED_SENT)
		flags |= END_DISCARD;
	s->end.flags = flags;
	if (how == ENDED_SENT) {
		if (emit_stacks && send_stack(s))
			lost_record(s);
		if (emit_user_stacks && ctx) {
			long bytes = bpf_get_stack(ctx, s->stack.addrs, sizeof(s->stack.addrs),
						   BPF_F_USER_STACK);

			s->stack.kind = REC_USER_STACK;
			s->stack.bytes = bytes > 0 ? bytes : 0;
			if (send_stack(s))
				lost_record(s);
		}
		if (s->end.dropped)
			count(&incomplete_sessions);
		if (send_end(s))
			how = ENDED_LOST;
	} else if (emit_trace || emit_interim || emit_args || emit_lbr) {
		s->end.depth = 0;
		send_end(s);
	}
	if (how < ENDED_KINDS)
		count(&ends[how]);
	release(s, key);
}

/* -- returns --------------------------------------------------------------- */

static __always_inline bool is_error(__u64 value)
{
	return value >= (__u64)-MAX_ERRNO;
}

static __always_inline bool has_failed(__u32 flags, __u64 result)
{
	if (flags & (FUNC_NOFAIL | FUNC_VOID))
		return false;
	if ((flags & FUNC_PTR) && !result)
		return true;
	return is_error(result);
}

/* The value in a return register. */
static __always_inline __u64 value_of(__u32 flags, __u64 result)
{
	if (flags & (FUNC_BYTE | FUNC_BOOL))
		return flags & FUNC_SIGNEXT ? (__u64)(__s8)result : (__u8)result;
	if (flags & FUNC_SHORT)
		return flags & FUNC_SIGNEXT ? (__u64)(__s16)result : (__u16)result;
	if (flags & FUNC_SIGNEXT)
		return (__s32)result;
	if (flags & FUNC_WORD)
		return (__u32)result;
	if ((flags & FUNC_GUESS) && !(result >> 32) && is_error((__s32)result))
		return (__s32)result;
	return result;
}

struct search {
	struct session *session;
	__u32 func;
	__u32 found;
};

static long find_call_at(__u32 i, struct search *search)
{
	struct session *s = search->session;

	if (i >= MAX_DEPTH || i >= s->depth)
		return 1;
	if (s->end.frames[i].func == search->func)
		search->found = i;
	return 0;
}

/* Which frame a return belongs to: the innermost of this function; MAX_DEPTH if there is none. */
static __always_inline __u32 find_call(struct session *s, __u32 func)
{
	struct search search = { .session = s, .func = func, .found = MAX_DEPTH };

	bpf_loop(MAX_DEPTH, find_call_at, &search, 0);
	return search.found;
}

/* Gives true if the entry function has returned. */
static __always_inline bool pop(void *ctx, struct session *s, __u32 func, __u32 flags, __u64 result,
				__u64 now)
{
	__u32 depth = s->depth;
	struct frame *frame;
	bool failed;

	if (!depth)
		return false;
	result = value_of(flags, result);

	if (depth > MAX_DEPTH || depth > max_depth) {
		/* Not stored: all that is known is that it was called. */
		s->depth = depth - 1;
		if (emit_trace)
			trace(s, REC_RETURN, func, depth - 1, UNKNOWN_TIME, result);
		return false;
	}
	depth--;
	if (s->end.frames[slot(depth)].func != func) {
		__u32 found = find_call(s, func);

		if (found >= depth) {
			s->end.missed++;
			return false;
		}
		s->end.missed += depth - found;
		depth = slot(found);
	}

	failed = has_failed(flags, result);
	frame = &s->end.frames[slot(depth)];
	frame->flags |= failed ? FRAME_DONE | FRAME_FAILED : FRAME_DONE;
	if (flags & FUNC_VOID)
		frame->flags |= FRAME_VOID;
	frame->time = now - frame->time;
	frame->result = result;
	if (failed && !s->failed) {
		s->failed = 1;
		s->end.depth = depth + 1;
		if (s->aside_to > depth + 1 && s->aside_from == depth + 1) {
			put_back(s);
		} else {
			s->stack.bytes = 0;
			if (emit_lbr)
				send_branches(s);
		}
	} else if (!failed && !(flags & FUNC_VOID)) {
		s->failed = 0;
	}
	/*
	 * Where a traced function tail-calls another one, 7.x cannot unwind beyond
	 * them; a caller further up can be seen from the caller's own return.
	 */
	if (failed && emit_stacks && s->stack.bytes <= SHORT_STACK)
		take_stack(ctx, s);
	if (s->aside_from > depth)
		s->aside_to = 0;
	if (emit_success && emit_stacks && !s->failed && depth + 1 == s->end.depth)
		take_stack(ctx, s);
	s->depth = depth;
	if (emit_trace)
		trace(s, REC_RETURN, func, depth, frame->time, result);
	return depth == 0;
}

/* -- a session whose end was missed ---------------------------------------- */

struct stack_search {
	const struct place *place;
	const __u64 *addrs;
	__u32 count;
	bool found;
};

static long look_at_address(__u32 i, struct stack_search *search)
{
	__u64 addr;

	if (i >= MAX_STACK || i >= search->count)
		return 1;
	addr = search->addrs[i];
	search->found = addr >= search->place->start && addr < search->place->end;
	return search->found;
}

/* The entry function is called anew though the session says that it is running: is it? */
static __always_inline bool is_stale(void *ctx, __u32 func)
{
	struct stack_search search = {};
	struct stack_record *r;
	__u32 user = BY_TRACER;
	long bytes;

	search.place = bpf_map_lookup_elem(&places, &func);
	r = bpf_map_lookup_elem(&scratch, &user);
	if (!r || !search.place || !search.place->start)
		return false;
	bytes = bpf_get_stack(ctx, r->addrs, sizeof(r->addrs), 0);
	if (bytes <= 0)
		return false;
	search.addrs = r->addrs;
	search.count = bytes / sizeof(__u64);
	bpf_loop(MAX_STACK, look_at_address, &search, 0);
	return !search.found;
}

/* -- arguments ------------------------------------------------------------- */

struct capture {
	struct args_record *record;
	const struct args_spec *spec;
	__u64 slots[MAX_SLOTS];
};

static __always_inline long read_string(void *to, __u32 size, __u64 from)
{
	long got = bpf_probe_read_kernel_str(to, size, (void *)from);

	return got < 0 ? bpf_probe_read_user_str(to, size, (void *)from) : got;
}

static __always_inline long read_memory(void *to, __u32 size, __u64 from)
{
	if (!bpf_probe_read_kernel(to, size, (void *)from))
		return size;
	return bpf_probe_read_user(to, size, (void *)from) ? -14 : (long)size; /* -EFAULT */
}

static long capture_arg(__u32 i, struct capture *c)
{
	struct args_record *r = c->record;
	const struct args_spec *spec = c->spec;
	__u32 at = r->bytes, size, first, second;
	struct arg_head *head;
	long got = 0;

	if (i >= MAX_ARGS || i >= spec->count)
		return 1;
	barrier_var(at);
	if (at > MAX_ARGS_BYTES - 64)
		return 1;
	head = (void *)r->data + at;
	size = spec->args[i].size;
	barrier_var(size);
	if (size > MAX_ARG_BYTES)
		size = MAX_ARG_BYTES;
	first = spec->args[i].slot;
	barrier_var(first);
	if (first >= MAX_SLOTS)
		first = 0;
	head->value = c->slots[first];
	head->pad = 0;
	if (spec->args[i].kind >= ARG_PAIR && at + sizeof(*head) + size > max_args_bytes) {
		got = -7; /* -E2BIG */
	} else if (spec->args[i].kind == ARG_PAIR) {
		second = first + 1;
		barrier_var(second);
		if (second >= MAX_SLOTS)
			second = 0;
		*(__u64 *)(head + 1) = c->slots[first];
		*((__u64 *)(head + 1) + 1) = c->slots[second];
		got = 16;
	} else if (spec->args[i].kind == ARG_MEMORY) {
		if (head->value)
			got = read_memory(head + 1, size, head->value);
	} else if (spec->args[i].kind == ARG_STRING) {
		if (head->value)
			got = read_string(head + 1, size, head->value);
	} else if (spec->args[i].kind == ARG_NONE) {
		got = -95; /* -EOPNOTSUPP */
	}
	head->size = got;
	r->bytes = at + sizeof(*head) + (got > 0 ? ((__u32)got + 7) / 8 * 8 : 0);
	return 0;
}

static __always_inline void capture_args(void *ctx, struct session *s, __u32 func, __u32 seq)
{
	struct capture c = {};
	__u32 user = BY_TRACER;

	c.spec = bpf_map_lookup_elem(&args_specs, &func);
	c.record = bpf_map_lookup_elem(&scratch, &user);
	if (!c.spec || !c.record || !c.spec->count)
		return;
	bpf_get_func_arg(ctx, 0, &c.slots[0]);
	bpf_get_func_arg(ctx, 1, &c.slots[1]);
	bpf_get_func_arg(ctx, 2, &c.slots[2]);
	bpf_get_func_arg(ctx, 3, &c.slots[3]);
	bpf_get_func_arg(ctx, 4, &c.slots[4]);
	bpf_get_func_arg(ctx, 5, &c.slots[5]);
	c.record->kind = REC_ARGS;
	c.record->session = s->end.session;
	c.record->key = s->end.key;
	c.record->seq = seq;
	c.record->func = func;
	c.record->bytes = 0;
	bpf_loop(MAX_ARGS, capture_arg, &c, 0);
	if (send(c.record, sizeof(*c.record),
		 __builtin_offsetof(struct args_record, data) + c.record->bytes))
		lost_record(s);
}

/* -- the tracer ------------------------------------------------------------ */

/* Gives true if the call is in a session, so that its return matters. */
static __always_inline bool on_entry(void *ctx, __u32 func, __u32 flags, bool args)
{
	__u64 pid_tgid, now;
	struct session *s;
	__s32 key;
	__u32 seq;

	if (!ready)
		return false;
	pid_tgid = bpf_get_current_pid_tgid();
	key = session_key((__u32)pid_tgid);
	s = find_session(key);
	if (s) {
		if (!s->open)
			return false;
		WRITE_ONCE(s->open, 0);
		now = bpf_ktime_get_ns();
		if ((flags & FUNC_ENTRY) && s->depth && s->end.frames[0].func == func &&
		    is_stale(ctx, func)) {
			s->end.missed += s->depth;
			finish(NULL, s, key, now, END_UNFINISHED);
			s = NULL;
		}
	}
	if (!s) {
		if (!(flags & FUNC_ENTRY))
			return false;
		now = bpf_ktime_get_ns();
		s = open_session(key, pid_tgid, now);
		if (!s)
			return false;
	}
	barrier();
	seq = push(s, func, now);
	if (args)
		capture_args(ctx, s, func, seq);
	barrier();
	WRITE_ONCE(s->open, 1);
	return true;
}

/* `given`: the return value, or NULL to ask the kernel for it. */
static __always_inline void on_exit(void *ctx, __u32 func, __u32 flags, const __u64 *given)
{
	__u64 now, result = 0;
	struct session *s;
	__s32 key;

	if (!ready)
		return;
	key = session_key((__u32)bpf_get_current_pid_tgid());
	s = find_session(key);
	if (!s || !s->open)
		return;
	WRITE_ONCE(s->open, 0);
	barrier();
	if (emit_lbr)
		take_branches(s);
	now = bpf_ktime_get_ns();
	if (given)
		result = *given;
	else
		bpf_get_func_ret(ctx, &result);
	if (pop(ctx, s, func, flags, result, now)) {
		/* Stays closed: it is about to be gone. */
		finish(ctx, s, key, now, 0);
		return;
	}
	barrier();
	WRITE_ONCE(s->open, 1);
}

static __always_inline int on_event(void *ctx, bool args)
{
	__u64 cookie = bpf_get_attach_cookie(ctx);

	if (bpf_session_is_return(ctx)) {
		on_exit(ctx, cookie, cookie >> 32, NULL);
		return 0;
	}
	/* A program on a trampoline must give 0: `skip_exits` is false for it. */
	if (!on_entry(ctx, cookie, cookie >> 32, args) && skip_exits)
		return 1;
	return 0;
}

SEC("fsession.multi")
int calls(__u64 *ctx)
{
	return on_event(ctx, false);
}

/* Apart, because mechanisms that have no arguments at hand refuse a program that reads them. */
SEC("fsession.multi")
int calls_with_args(__u64 *ctx)
{
	return on_event(ctx, true);
}

/* -- injected probes ------------------------------------------------------- */

/* The cookie: bits 0-31 are the probe's number, bits 32-63 the bytes of its context. */
static __always_inline int on_probe(void *ctx, __u64 cookie, __u32 user)
{
	struct args_record *r;
	struct session *s;
	__s32 key;
	__u32 seq, size;

	if (!ready)
		return 0;
	key = session_key((__u32)bpf_get_current_pid_tgid());
	s = find_session(key);
	if (!s || !s->open)
		return 0;
	WRITE_ONCE(s->open, 0);
	barrier();
	if (emit_trace) {
		seq = trace(s, REC_PROBE, cookie, s->depth, bpf_ktime_get_ns(), 0);
		r = capture_context ? bpf_map_lookup_elem(&scratch, &user) : NULL;
		if (r) {
			size = cookie >> 32;
			barrier_var(size);
			if (size > MAX_ARG_BYTES)
				size = MAX_ARG_BYTES;
			r->kind = REC_CONTEXT;
			r->session = s->end.session;
			r->key = key;
			r->seq = seq;
			r->func = cookie;
			r->bytes = bpf_probe_read_kernel(r->data, size, ctx) ? 0 : size;
			if (send(r, sizeof(*r),
				 __builtin_offsetof(struct args_record, data) + r->bytes))
				lost_record(s);
		}
	}
	if (emit_interim) {
		if (emit_stacks)
			take_stack(ctx, s);
		send_interim(s, bpf_ktime_get_ns());
		s->stack.bytes = 0;
	}
	barrier();
	WRITE_ONCE(s->open, 1);
	return 0;
}

SEC("?kprobe")
int probe_kprobe(struct pt_regs *ctx)
{
	return on_probe(ctx, bpf_get_attach_cookie(ctx), BY_KPROBE);
}

SEC("?tracepoint")
int probe_tracepoint(void *ctx)
{
	return on_probe(ctx, bpf_get_attach_cookie(ctx), BY_KPROBE);
}

SEC("?raw_tp")
int probe_raw_tp(__u64 *ctx)
{
	return on_probe(ctx, bpf_get_attach_cookie(ctx), BY_RAW_TP);
}

/* -- a task that exits takes its session along ----------------------------- */

static __always_inline void on_task_exit(void)
{
	__s32 key = session_key((__u32)bpf_get_current_pid_tgid());
	struct session *s = find_session(key);

	if (s && s->open) {
		WRITE_ONCE(s->open, 0);
		finish(NULL, s, key, bpf_ktime_get_ns(), END_UNFINISHED);
	}
}

SEC("raw_tp/sched_process_exit")
int task_exit(__u64 *ctx)
{
	on_task_exit();
	return 0;
}
