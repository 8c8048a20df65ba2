// SPDX-License-Identifier: MIT
/*
 * The kernel half of funcwatch: calls, errors and latency of many functions,
 * counted per CPU. Nothing is sent for a call.
 *
 * The attach cookie says which function is called and how its return value is
 * read: bits 0-31 are an index into `stats`, bits 32-39 are `func_flags`, bits
 * 40-63 the attachment. A function is counted by the attachment that `active`
 * names, so that a new one can be put beside the old one and take over without
 * a gap and without counting a call twice.
 *
 * There are two programs, which count the same:
 *
 * - `watch` needs session cookies (fsession, 7.0; kprobe.session, 6.10): the
 *   time of the call lives in one until the function returns.
 * - `watch_pair` does without. It keeps the calls that a task is in, in a place
 *   of `places` while that is free, else in the map `tasks`.
 *
 * A third one, `only_count`, counts calls and nothing else, to measure rates.
 *
 * `watch_pair` pairs calls and returns leniently, because kernels do leave
 * programs out: a return looks for its call further down as well. A return
 * that finds none is counted as unpaired and has no latency. A task's calls
 * are a ring, so calls whose return was never seen only sink, and are
 * overwritten; `tasks` is an LRU map, so those of tasks that ended go as well.
 *
 * A place belongs to the task whose key is in it. The key says which place, so
 * finding it takes a few instructions, and a hash over a hundred. A task takes a
 * free place together with the first call in it, in one step, and gives it back
 * with the last one. Nobody else writes to it meanwhile, except programs that
 * interrupt this one: they have the same key, and leave what they found. Tasks
 * whose place is taken use `tasks`. A task that ends inside a function, such as
 * exit_group(), gives its place back in `forget`. A thread that calls exec() gets
 * the id of its process's first thread, and gives its former place back in
 * `forget_former`.
 *
 * Programs that interrupt this one look at its calls, and one whose own call was
 * not seen must not take another. So a call's `nth` is written last, and is 0 in
 * the place for the next call before that one counts. In a free place it is 0 in
 * `calls[0]`.
 */
#include "kernel.h"

char LICENSE[] SEC("license") = "GPL";

#define SLOTS 40 /* histogram: slot n counts latencies in [2^n, 2^(n+1)) ns */
#define DEPTH 32 /* calls of a task that are remembered; a power of 2 */
#define LOOK_DOWN 8 /* calls that a return looks at */
#define PLACES 1024 /* a power of 2 */
#define KEY_SHIFT 32
#define MAX_ERRNO 4095

#define FLAGS_SHIFT 32
#define ATTACHMENT_SHIFT 40

/* Bits 32-39 of a cookie. */
enum func_flags {
	FUNC_INT4 = 1, /* returns a signed 4-byte integer */
	FUNC_INT8 = 2, /* returns a signed 8-byte integer or a pointer */
	FUNC_GUESS = 4, /* unknown: an int if that makes it an error, else 8 bytes */
};

struct longest {
	__u64 epoch;
	__u64 ns;
};

struct stat {
	__u64 calls;
	__u64 timed; /* returns whose latency is known */
	__u64 errors;
	__u64 total_ns;
	__u64 max_ns;
	struct longest max[2]; /* of even and of odd epochs */
	__u64 slots[SLOTS];
};

struct error_key {
	__u32 func;
	__s32 error; /* positive errno */
};

struct call {
	__u32 func;
	__u32 nth; /* of the task's calls, from 1: tells it from one that was overwritten. 0: no call */
	__u64 start; /* ns, CLOCK_MONOTONIC */
};

struct task_calls {
	__u64 state; /* bits 0-31: calls not returned yet; 32-63: the task's key. 0: a free place */
	struct call calls[DEPTH];
};

const volatile __u32 self_tgid = 0;
const volatile bool filter_pids = false;
const volatile bool filter_comms = false;
const volatile __u32 cgroup_level = 0; /* depth of the cgroup below the root */
const volatile __u64 cgroup_id = 0;    /* 0: no filter */

__u32 enabled = 0; /* cleared first when tracing ends: programs then do nothing */

/* Counts up before `stats` is read: what ended before has its own maximum. */
__u64 epoch = 1;

/* What could not be counted as it should be. */
__u64 errors_lost = 0; /* no room in `errors`: in stat.errors only */
__u64 unpaired = 0;    /* returns whose call is not known: no latency, no error */
__u64 tasks_lost = 0;  /* calls with no room in `tasks`: no latency, no error */

__u32 spilled = 0; /* `tasks` was used */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct stat);
} stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u32); /* the attachment that counts; 0: none does */
} active SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct error_key);
	__type(value, __u64);
} errors SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PLACES);
	__type(key, __u32);
	__type(value, struct task_calls);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1); /* of `watch_pair` */
	__type(key, __u32);
	__type(value, struct task_calls);
} tasks SEC(".maps");

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

static struct task_calls fresh;

extern _Bool bpf_session_is_return(void *ctx) __ksym __weak;
extern __u64 *bpf_session_cookie(void *ctx) __ksym __weak;

#define COUNT(counter) __sync_fetch_and_add(&(counter), 1)

static __always_inline bool wanted(__u64 pid_tgid)
{
	__u32 tgid = pid_tgid >> 32;

	if (tgid == self_tgid)
		return false;
	if (filter_pids && !bpf_map_lookup_elem(&pids, &tgid))
		return false;
	if (filter_comms) {
		char comm[16] = {};

		bpf_get_current_comm(comm, sizeof(comm));
		if (!bpf_map_lookup_elem(&comms, comm))
			return false;
	}
	return !cgroup_id || bpf_get_current_ancestor_cgroup_id(cgroup_level) == cgroup_id;
}

static __always_inline bool is_active(__u64 cookie)
{
	__u32 func = (__u32)cookie, *attachment = bpf_map_lookup_elem(&active, &func);

	return enabled && attachment && *attachment == cookie >> ATTACHMENT_SHIFT;
}

static __always_inline struct stat *stat_of(__u64 cookie)
{
	__u32 func = (__u32)cookie;

	return bpf_map_lookup_elem(&stats, &func);
}

/* floor(log2(ns)), at most SLOTS - 1. */
static __always_inline __u32 slot_of(__u64 ns)
{
	__u32 slot = 0, high = ns >> 32;

	if (high) {
		slot = 32;
		ns = high;
	}
	if (ns >> 16) {
		slot += 16;
		ns >>= 16;
	}
	if (ns >> 8) {
		slot += 8;
		ns >>= 8;
	}
	if (ns >> 4) {
		slot += 4;
		ns >>= 4;
	}
	if (ns >> 2) {
		slot += 2;
		ns >>= 2;
	}
	slot += ns >> 1;
	return slot < SLOTS ? slot : SLOTS - 1;
}

static __always_inline void count_error(__u64 cookie, struct stat *s, __s64 ret)
{
	struct error_key key = { .func = (__u32)cookie };
	__u64 flags = cookie >> FLAGS_SHIFT, one = 1, *n;
	__s64 value;

	if (flags & FUNC_INT4)
		value = (__s32)ret;
	else if (flags & FUNC_INT8)
		value = ret;
	else if (flags & FUNC_GUESS)
		value = (__u64)(ret >> 32) + 1 <= 1 ? (__s32)ret : ret; /* upper half 0 or -1 */
	else
		return;
	if (value >= 0 || value < -MAX_ERRNO)
		return;
	s->errors++;
	key.error = -value;
	n = bpf_map_lookup_elem(&errors, &key);
	if (!n) {
		if (!bpf_map_update_elem(&errors, &key, &one, BPF_NOEXIST))
			return;
		n = bpf_map_lookup_elem(&errors, &key); /* another CPU was first? */
	}
	if (n)
		(*n)++;
	else
		COUNT(errors_lost);
}

static __always_inline void count_latency(struct stat *s, __u64 start)
{
	__u64 ns = bpf_ktime_get_ns() - start, now = *(volatile __u64 *)&epoch;
	struct longest *max = now & 1 ? &s->max[1] : &s->max[0];
	__u32 slot = slot_of(ns);

	s->timed++;
	s->total_ns += ns;
	if (ns > s->max_ns)
		s->max_ns = ns;
	if (max->epoch != now) {
		max->epoch = now;
		max->ns = ns;
	} else if (ns > max->ns) {
		max->ns = ns;
	}
	barrier_var(slot);
	if (slot < SLOTS)
		s->slots[slot]++;
}

/* ---- with a session cookie ---- */

SEC("fsession.multi")
int watch(unsigned long long *ctx)
{
	__u64 *start = bpf_session_cookie(ctx);
	__u64 cookie = bpf_get_attach_cookie(ctx);
	struct stat *s;

	if (!bpf_session_is_return(ctx)) {
		*start = 0;
		if (!is_active(cookie) || !wanted(bpf_get_current_pid_tgid()))
			return 0;
		s = stat_of(cookie);
		if (!s)
			return 0;
		s->calls++;
		*start = bpf_ktime_get_ns();
		return 0;
	}
	if (!*start)
		return 0;
	s = stat_of(cookie);
	if (!s)
		return 0;
	count_latency(s, *start);
	count_error(cookie, s, ctx[6]);
	return 0;
}

/* ---- without: a stack of calls for each task ---- */

/* The task's key; the idle tasks all have tid 0. */
static __always_inline __u32 key_of(__u64 pid_tgid)
{
	__u32 tid = (__u32)pid_tgid;

	return tid ? tid : -(1 + bpf_get_smp_processor_id());
}

static __always_inline struct task_calls *place_of(__u32 key)
{
	__u32 at = key % PLACES;

	return bpf_map_lookup_elem(&places, &at);
}

static __always_inline struct task_calls *spill(__u32 key)
{
	struct task_calls *t = bpf_map_lookup_elem(&tasks, &key);

	if (t)
		return t;
	spilled = 1;
	if (bpf_map_update_elem(&tasks, &key, &fresh, BPF_NOEXIST)) {
		COUNT(tasks_lost);
		return NULL;
	}
	return bpf_map_lookup_elem(&tasks, &key);
}

static __always_inline void set_state(struct task_calls *t, __u64 state)
{
	*(volatile __u64 *)&t->state = state;
}

static __always_inline void set_nth(struct call *c, __u32 nth)
{
	*(volatile __u32 *)&c->nth = nth;
}

static __always_inline void push(__u32 key, __u32 func)
{
	__u64 own = (__u64)key << KEY_SHIFT, state;
	struct task_calls *t = place_of(key);
	__u32 depth = 0;
	struct call *c;

	if (!t)
		return;
	state = t->state;
	if (state || __sync_val_compare_and_swap(&t->state, 0, own | 1)) {
		if (state >> KEY_SHIFT != key) {
			t = spill(key);
			if (!t)
				return;
		}
		depth = t->state;
		set_nth(&t->calls[depth % DEPTH], 0);
		set_state(t, own | (__u32)(depth + 1)); /* first, so that interrupts stay above */
	}
	c = &t->calls[depth % DEPTH];
	c->func = func;
	c->start = bpf_ktime_get_ns();
	barrier();
	set_nth(c, depth + 1);
}

/* The start of the newest call of `func`, 0 if there is none. Takes it off. */
static __always_inline __u64 take(struct task_calls *t, __u32 func)
{
	__u64 state = t->state;
	__u32 at = state;
	struct call *c;

	/* What lies above it never returned, or its return was not seen. */
	for (int i = 0; i < LOOK_DOWN && at; i++) {
		__u32 nth = at--;

		c = &t->calls[at % DEPTH];
		if (c->func == func && c->nth == nth) {
			__u64 start = c->start;

			set_nth(c, 0);
			set_state(t, at ? (state >> KEY_SHIFT << KEY_SHIFT) | at : 0);
			return start;
		}
	}
	return 0;
}

/* The start of the call that returns now, 0 if it is not known. */
static __always_inline __u64 pop(__u64 pid_tgid, __u32 func)
{
	__u32 key = key_of(pid_tgid);
	struct task_calls *t = place_of(key);
	__u64 start;

	if (t && t->state >> KEY_SHIFT == key) {
		start = take(t, func);
		if (start)
			return start;
	}
	t = spilled ? bpf_map_lookup_elem(&tasks, &key) : NULL;
	if (t) {
		start = take(t, func);
		if (start)
			return start;
	}
	if (wanted(pid_tgid))
		COUNT(unpaired);
	return 0;
}

SEC("fsession.multi")
int watch_pair(unsigned long long *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx), pid_tgid, start;
	struct stat *s;

	if (!is_active(cookie))
		return 0;
	pid_tgid = bpf_get_current_pid_tgid();
	if (!bpf_session_is_return(ctx)) {
		if (!wanted(pid_tgid))
			return 0;
		s = stat_of(cookie);
		if (!s)
			return 0;
		s->calls++;
		push(key_of(pid_tgid), cookie);
		return 0;
	}
	start = pop(pid_tgid, cookie);
	if (!start)
		return 0;
	s = stat_of(cookie);
	if (!s)
		return 0;
	count_latency(s, start);
	count_error(cookie, s, ctx[6]);
	return 0;
}

static __always_inline void give_back(__u32 key)
{
	struct task_calls *t = place_of(key);

	if (t && t->state >> KEY_SHIFT == key) {
		set_nth(&t->calls[0], 0);
		set_state(t, 0);
	}
	if (spilled)
		bpf_map_delete_elem(&tasks, &key);
}

SEC("raw_tp/sched_process_exit")
int forget(void *ctx)
{
	give_back(key_of(bpf_get_current_pid_tgid()));
	return 0;
}

/* struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm */
SEC("raw_tp/sched_process_exec")
int forget_former(unsigned long long *ctx)
{
	__u32 former = ctx[1];

	if (former != (__u32)bpf_get_current_pid_tgid())
		give_back(former);
	return 0;
}

/* ---- calls alone ---- */

SEC("fentry.multi")
int only_count(unsigned long long *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx);
	struct stat *s;

	if (!is_active(cookie) || !wanted(bpf_get_current_pid_tgid()))
		return 0;
	s = stat_of(cookie);
	if (s)
		s->calls++;
	return 0;
}
