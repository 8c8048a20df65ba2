// SPDX-License-Identifier: MIT
/*
 * The kernel half of the retsnoop clone.
 *
 * Every traced function has an entry and an exit program; which function it is
 * tells the attach cookie, an index into `funcs`. A task that calls an *entry*
 * function opens a session: a stack of call frames that lives in a hash map
 * under the task's id until the entry function returns. Inside a session every
 * traced call pushes a frame and every return pops it.
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
 * All filters are asked once, when a session would be opened.
 */
#include "kernel.h"

char LICENSE[] SEC("license") = "GPL";

#define MAX_DEPTH 64
#define MAX_STACK 96
#define MAX_ERRNO 4095
#define MAX_CPUS 1024
#define MAX_NESTING 3
#define SHORT_STACK (2 * sizeof(__u64))

/* Flags of a function: bits of a value of the map `funcs`. */
enum func_flags {
	FUNC_ENTRY = 1,   /* opens a session */
	FUNC_NOFAIL = 2,  /* no value it returns means an error */
	FUNC_SIGNEXT = 4, /* returns a 4-byte integer */
	FUNC_PTR = 8,     /* NULL is an error too */
	FUNC_BOOL = 16,
	FUNC_VOID = 32,
	FUNC_GUESS = 64,   /* no prototype known: perhaps a 4-byte integer */
	FUNC_IGNORE = 128, /* its calls are not seen, so its returns mean nothing */
};

/* Values of the filter maps. */
enum { DENY = 0, ALLOW = 1 };

enum record_kind { REC_CALL = 1, REC_RETURN = 2, REC_STACK = 3, REC_END = 4 };

enum end_flags {
	END_FAILED = 1,     /* the entry function failed */
	END_DISCARD = 2,    /* filtered out: forget the session's trace records */
	END_UNFINISHED = 4, /* the task exited inside the entry function */
};

enum frame_flags {
	FRAME_DONE = 1,     /* `time` is the duration, `result` is valid */
	FRAME_STITCHED = 2, /* from a chain that was set aside */
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
	__u64 time; /* ns: time of the call, or duration at return */
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
	__u32 records; /* trace records written or lost */
	__u32 dropped; /* of them lost */
	__u32 missed;  /* returns without a call and calls without a return */
	__u32 depth;   /* frames that follow */
	char comm[16];
	char leader_comm[16];
	struct frame frames[MAX_DEPTH]; /* outermost first */
};

struct session {
	__u32 busy;  /* one of our programs works on it: what it interrupts must not */
	__u32 depth; /* calls not returned yet; may exceed MAX_DEPTH */
	__u32 failed;
	__u32 aside_from; /* the chain set aside: frames [aside_from, aside_to) */
	__u32 aside_to;
	__u32 pad;
	struct end_record end; /* .depth: frames of the chain to report */
	struct stack_record stack;
	struct frame aside[MAX_DEPTH];
	struct stack_record aside_stack;
};

const volatile __u32 self_tgid = 0;
const volatile bool emit_success = false;
const volatile bool emit_stacks = true;
const volatile bool emit_trace = false;
const volatile bool filter_pids = false;
const volatile bool filter_comms = false;
const volatile bool allow_pids = false; /* some pid is allowed, so others are not */
const volatile bool allow_comms = false;
const volatile __u64 min_duration = 0; /* ns */

__u32 ready;            /* set when everything is attached */
__u32 last_session;     /* sessions are numbered from 1 */
__u64 dropped_records;  /* the ring buffer was full */
__u64 dropped_sessions; /* no room in `sessions`, or its end was lost */
__u64 incomplete_sessions;
__u64 missed_runs;       /* clones that nested too deep */
__u32 nesting[MAX_CPUS];

/* Never used: they put types into BTF, where the tests of the Python side read them. */
struct {
	struct trace_record trace_record[0];
	enum func_flags func_flags[0];
	enum end_flags end_flags[0];
	enum frame_flags frame_flags[0];
	enum record_kind record_kind[0];
	int unused;
} btf_types;

/* What a new session looks like; too large for the stack of a program. */
static struct session fresh = { .busy = 1 };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} funcs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __s32);
	__type(value, struct session);
} sessions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8);
} pids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, char[16]);
	__type(value, __u8);
} comms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 * 1024 * 1024);
} events SEC(".maps");

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

/* The task's key in `sessions`; the idle tasks all have tid 0. */
static __always_inline __s32 session_key(__u32 tid)
{
	return tid ? (__s32)tid : -(__s32)(1 + bpf_get_smp_processor_id());
}

static __always_inline bool wanted(__u32 tgid, const char *comm)
{
	__u8 *verdict;

	if (tgid == self_tgid)
		return false;
	if (filter_pids) {
		verdict = bpf_map_lookup_elem(&pids, &tgid);
		if (verdict ? *verdict == DENY : allow_pids)
			return false;
	}
	if (filter_comms) {
		verdict = bpf_map_lookup_elem(&comms, comm);
		if (verdict ? *verdict == DENY : allow_comms)
			return false;
	}
	return true;
}

/* Gives the session busy, so that an interrupt leaves it alone. */
static __always_inline struct session *open_session(__s32 key, __u64 pid_tgid, __u64 now)
{
	__u32 tgid = pid_tgid >> 32;
	struct task_struct *task;
	struct session *s;
	char comm[16] = {};

	bpf_get_current_comm(comm, sizeof(comm));
	if (!wanted(tgid, comm))
		return NULL;
	if (bpf_map_update_elem(&sessions, &key, &fresh, BPF_NOEXIST)) {
		count(&dropped_sessions);
		return NULL;
	}
	s = bpf_map_lookup_elem(&sessions, &key);
	if (!s)
		return NULL;
	s->end.kind = REC_END;
	s->end.session = s->stack.session = __sync_fetch_and_add(&last_session, 1) + 1;
	s->end.key = s->stack.key = key;
	s->end.start = now;
	s->end.tid = (__u32)pid_tgid;
	s->end.tgid = tgid;
	s->stack.kind = REC_STACK;
	__builtin_memcpy(s->end.comm, comm, sizeof(comm));
	task = (struct task_struct *)bpf_get_current_task();
	BPF_CORE_READ_STR_INTO(&s->end.leader_comm, task, group_leader, comm);
	return s;
}

static __always_inline void trace(struct session *s, __u32 kind, __u32 func, __u32 depth,
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

	if (bpf_ringbuf_output(&events, &r, sizeof(r), 0)) {
		s->end.dropped++;
		count(&dropped_records);
	}
}

static __always_inline void take_stack(void *ctx, struct session *s)
{
	long bytes = bpf_get_stack(ctx, s->stack.addrs, sizeof(s->stack.addrs), 0);

	s->stack.bytes = bytes > 0 ? bytes : 0;
}

/* A call below a failed chain: keep the chain, its frames get overwritten. */
static __always_inline void set_aside(struct session *s, __u32 from)
{
	s->aside_from = from;
	s->aside_to = s->end.depth;
	bpf_probe_read_kernel(s->aside, sizeof(s->aside), s->end.frames);
	if (emit_stacks)
		bpf_probe_read_kernel(&s->aside_stack, sizeof(s->aside_stack), &s->stack);
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
	bpf_loop(MAX_DEPTH, put_back_frame, &s, 0);
	s->end.depth = s->aside_to;
	if (emit_stacks)
		bpf_probe_read_kernel(&s->stack, sizeof(s->stack), &s->aside_stack);
}

static __always_inline void push(struct session *s, __u32 func, __u64 now)
{
	__u32 depth = s->depth;

	if (depth < MAX_DEPTH) {
		struct frame *frame;

		if (s->failed && depth < s->end.depth)
			set_aside(s, depth);
		s->failed = 0;
		frame = &s->end.frames[slot(depth)];
		frame->func = func;
		frame->flags = 0;
		frame->time = now;
		frame->result = 0;
		s->end.depth = depth + 1;
	}
	s->depth = depth + 1;
	if (emit_trace)
		trace(s, REC_CALL, func, depth, now, 0);
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

/* The whole chain is known: hand it over and forget the session. */
static __always_inline void finish(struct session *s, __s32 key, __u64 now, __u32 flags)
{
	s->end.end = now;
	if (s->failed)
		flags |= END_FAILED;
	if (!(s->failed || emit_success) || now - s->end.start < min_duration)
		flags |= END_DISCARD;
	s->end.flags = flags;
	if (!(flags & END_DISCARD)) {
		if (s->end.dropped)
			count(&incomplete_sessions);
		if (emit_stacks && s->stack.bytes &&
		    send(&s->stack, sizeof(s->stack),
			 __builtin_offsetof(struct stack_record, addrs) + s->stack.bytes)) {
			count(&dropped_records);
			if (!s->end.dropped)
				count(&incomplete_sessions);
			s->end.dropped++;
		}
		if (send(&s->end, sizeof(s->end),
			 __builtin_offsetof(struct end_record, frames) +
				 s->end.depth * sizeof(struct frame)))
			count(&dropped_sessions);
	} else if (emit_trace) {
		s->end.depth = 0;
		send(&s->end, sizeof(s->end), __builtin_offsetof(struct end_record, frames));
	}
	bpf_map_delete_elem(&sessions, &key);
}

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
	if ((flags & FUNC_GUESS) && !(result >> 32))
		result = (__s64)(__s32)result;
	return is_error(result);
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
static __always_inline bool pop(void *ctx, struct session *s, __u32 func, __u64 result, __u64 now)
{
	__u32 depth = s->depth, flags;
	struct frame *frame;
	__u32 *known;
	bool failed;

	if (!depth)
		return false;
	known = bpf_map_lookup_elem(&funcs, &func);
	flags = known ? *known : 0;
	if (flags & FUNC_IGNORE)
		return false;
	if (flags & FUNC_SIGNEXT)
		result = (__s64)(__s32)result;

	if (depth > MAX_DEPTH) {
		/* Not stored: all that is known is that it was called. */
		s->depth = depth - 1;
		if (emit_trace)
			trace(s, REC_RETURN, func, depth - 1, 0, result);
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
	frame->flags |= FRAME_DONE;
	frame->time = now - frame->time;
	frame->result = result;
	if (failed && !s->failed) {
		s->failed = 1;
		s->end.depth = depth + 1;
		if (s->aside_to > depth + 1 && s->aside_from == depth + 1)
			put_back(s);
		else
			s->stack.bytes = 0;
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

static __always_inline int on_entry(__u32 func)
{
	__u64 pid_tgid, now;
	struct session *s;
	__s32 key;

	if (!ready)
		return 0;
	pid_tgid = bpf_get_current_pid_tgid();
	key = session_key((__u32)pid_tgid);
	s = bpf_map_lookup_elem(&sessions, &key);
	if (s) {
		if (s->busy)
			return 0;
		WRITE_ONCE(s->busy, 1);
		now = bpf_ktime_get_ns();
	} else {
		__u32 *flags = bpf_map_lookup_elem(&funcs, &func);

		if (!flags || !(*flags & FUNC_ENTRY))
			return 0;
		now = bpf_ktime_get_ns();
		s = open_session(key, pid_tgid, now);
		if (!s)
			return 0;
	}
	barrier();
	push(s, func, now);
	barrier();
	WRITE_ONCE(s->busy, 0);
	return 0;
}

static __always_inline int on_exit(void *ctx, __u32 func, __u64 result)
{
	struct session *s;
	__u64 now;
	__s32 key;

	if (!ready)
		return 0;
	key = session_key((__u32)bpf_get_current_pid_tgid());
	s = bpf_map_lookup_elem(&sessions, &key);
	if (!s || s->busy)
		return 0;
	now = bpf_ktime_get_ns();
	WRITE_ONCE(s->busy, 1);
	barrier();
	if (pop(ctx, s, func, result, now)) {
		/* Stays busy: it is about to be gone. */
		finish(s, key, now, 0);
		return 0;
	}
	barrier();
	WRITE_ONCE(s->busy, 0);
	return 0;
}

/* -- kprobe.multi: one link, one cookie per function ----------------------- */

SEC("?kprobe.multi")
int multi_entry(struct pt_regs *ctx)
{
	return on_entry(bpf_get_attach_cookie(ctx));
}

SEC("?kretprobe.multi")
int multi_exit(struct pt_regs *ctx)
{
	return on_exit(ctx, bpf_get_attach_cookie(ctx), PT_REGS_RC(ctx));
}

/* -- one perf kprobe and kretprobe per function ---------------------------- */

SEC("?kprobe")
int single_entry(struct pt_regs *ctx)
{
	return on_entry(bpf_get_attach_cookie(ctx));
}

SEC("?kretprobe")
int single_exit(struct pt_regs *ctx)
{
	return on_exit(ctx, bpf_get_attach_cookie(ctx), PT_REGS_RC(ctx));
}

/*
 * -- one fentry and fexit clone per function --------------------------------
 *
 * The kernel keeps a program from running inside itself, yet every clone is a
 * program of its own: should the functions that our helpers call be traced
 * too, they would nest, so the depth of it is limited. The counter is per CPU
 * and every run takes back what it added, so preemption does it no harm.
 */
static __always_inline bool enter_cpu(__u32 cpu)
{
	__u32 *level = &nesting[cpu & (MAX_CPUS - 1)];

	if (__sync_fetch_and_add(level, 1) < MAX_NESTING)
		return true;
	__sync_fetch_and_add(level, -1);
	count(&missed_runs);
	return false;
}

static __always_inline void leave_cpu(__u32 cpu)
{
	__sync_fetch_and_add(&nesting[cpu & (MAX_CPUS - 1)], -1);
}

SEC("?fentry")
int clone_entry(__u64 *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id();

	if (enter_cpu(cpu)) {
		on_entry(bpf_get_attach_cookie(ctx));
		leave_cpu(cpu);
	}
	return 0;
}

SEC("?fexit")
int clone_exit(__u64 *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id();
	__u64 result = 0;

	if (enter_cpu(cpu)) {
		bpf_get_func_ret(ctx, &result);
		on_exit(ctx, bpf_get_attach_cookie(ctx), result);
		leave_cpu(cpu);
	}
	return 0;
}

/* -- a task that exits takes its session along ----------------------------- */

SEC("raw_tp/sched_process_exit")
int task_exit(__u64 *ctx)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	__s32 key = session_key(tid);
	struct session *s = bpf_map_lookup_elem(&sessions, &key);

	if (s && !s->busy) {
		WRITE_ONCE(s->busy, 1);
		finish(s, key, bpf_ktime_get_ns(), END_UNFINISHED);
	}
	return 0;
}
