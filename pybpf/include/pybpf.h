/* SPDX-License-Identifier: MIT */
/*
 * Everything a BPF C program needs, in one header that includes no other:
 * fixed-width types, section and map-definition macros, helper functions by
 * number, context accessors and CO-RE reads.
 *
 * Compile with `pybpf build FILE.bpf.c`. Types of the kernel come from vmlinux.h,
 * included before this file, or from kernel.h next to it, which has a few. Or a
 * program declares only the fields that it reads, with __core.
 *
 * The conventions (map definition by pointer types, section names, ctx of
 * tracing programs as an array of 8-byte slots) are shared by today's loaders.
 * The text of this file is our own.
 */
#ifndef PYBPF_H
#define PYBPF_H

/* ---- types ------------------------------------------------------------- */

#ifndef __VMLINUX_H__ /* vmlinux.h has these types, and the enums and structs below */
typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;
typedef __u8 u8;
typedef __s8 s8;
typedef __u16 u16;
typedef __s16 s16;
typedef __u32 u32;
typedef __s32 s32;
typedef __u64 u64;
typedef __s64 s64;
typedef int pid_t;
typedef unsigned long size_t;
#ifndef __bool_true_false_are_defined /* by <stdbool.h> */
typedef _Bool bool;

#define true 1
#define false 0
#endif
#endif
#ifndef NULL
#define NULL ((void *)0)
#endif
#define offsetof(type, member) __builtin_offsetof(type, member)

/* ---- attributes -------------------------------------------------------- */

#define SEC(section_name) __attribute__((section(section_name), used))
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
#define __weak __attribute__((weak))
#define __hidden __attribute__((visibility("hidden")))
#define __unused __attribute__((unused))
#define __packed __attribute__((packed))
#define __aligned(bytes) __attribute__((aligned(bytes)))

/* Resolved by the loader: kernel symbols, and values of the kernel's config. */
#define __ksym __attribute__((section(".ksyms")))
#define __kconfig __attribute__((section(".kconfig")))
#define bpf_ksym_exists(symbol) (!!(symbol))

#define __kptr __attribute__((btf_type_tag("kptr")))
#define __kptr_untrusted __attribute__((btf_type_tag("kptr_untrusted")))

/* Every access to a field of such a struct gets a CO-RE relocation. */
#define __core __attribute__((preserve_access_index))

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define barrier() asm volatile("" ::: "memory")
/* The compiler must not reason about the value of `var` past this point. */
#define barrier_var(var) asm volatile("" : "+r"(var))
#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile typeof(x) *)&(x) = (value))
#define ARRAY_SIZE(x) (sizeof(x) / sizeof((x)[0]))
/* The struct that has `ptr` as its `member`. */
#define container_of(ptr, type, member) ((type *)((void *)(ptr) - offsetof(type, member)))
/* As LINUX_KERNEL_VERSION has it, a variable that is __kconfig. */
#define KERNEL_VERSION(major, minor, patch) \
	(((major) << 16) + ((minor) << 8) + ((patch) > 255 ? 255 : (patch)))

/* ---- map definitions: the loader reads them from BTF -------------------- */

#define __uint(name, number) int (*name)[number]
#define __type(name, c_type) typeof(c_type) *name
#define __array(name, c_type) typeof(c_type) *name[]
#define PYBPF_JOIN_(a, b) a##b
#define PYBPF_JOIN(a, b) PYBPF_JOIN_(a, b)
/* A value that does not fit the 32 bits of an array dimension. */
#define __ulong(name, number) \
	enum { PYBPF_JOIN(pybpf_ulong_, __COUNTER__) = (number) } name

#if !defined(__VMLINUX_H__) && !defined(__LINUX_BPF_H__) /* <linux/bpf.h> has these, too */
enum bpf_map_type {
	BPF_MAP_TYPE_UNSPEC = 0,
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_STACK_TRACE = 7,
	BPF_MAP_TYPE_CGROUP_ARRAY = 8,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LRU_PERCPU_HASH = 10,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_HASH_OF_MAPS = 13,
	BPF_MAP_TYPE_DEVMAP = 14,
	BPF_MAP_TYPE_SOCKMAP = 15,
	BPF_MAP_TYPE_CPUMAP = 16,
	BPF_MAP_TYPE_XSKMAP = 17,
	BPF_MAP_TYPE_SOCKHASH = 18,
	BPF_MAP_TYPE_REUSEPORT_SOCKARRAY = 20,
	BPF_MAP_TYPE_QUEUE = 22,
	BPF_MAP_TYPE_STACK = 23,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_DEVMAP_HASH = 25,
	BPF_MAP_TYPE_STRUCT_OPS = 26,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_INODE_STORAGE = 28,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
	BPF_MAP_TYPE_BLOOM_FILTER = 30,
	BPF_MAP_TYPE_USER_RINGBUF = 31,
	BPF_MAP_TYPE_CGRP_STORAGE = 32,
	BPF_MAP_TYPE_ARENA = 33,
};

enum { /* bpf_map_update_elem flags */
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_EXIST = 2,
	BPF_F_LOCK = 4,
};

enum { /* map_flags */
	BPF_F_NO_PREALLOC = 1U << 0,
	BPF_F_NO_COMMON_LRU = 1U << 1,
	BPF_F_NUMA_NODE = 1U << 2,
	BPF_F_RDONLY = 1U << 3,
	BPF_F_WRONLY = 1U << 4,
	BPF_F_STACK_BUILD_ID = 1U << 5,
	BPF_F_ZERO_SEED = 1U << 6,
	BPF_F_RDONLY_PROG = 1U << 7,
	BPF_F_WRONLY_PROG = 1U << 8,
	BPF_F_CLONE = 1U << 9,
	BPF_F_MMAPABLE = 1U << 10,
	BPF_F_INNER_MAP = 1U << 12,
};

enum { /* stack helpers; the low byte is the number of frames to skip */
	BPF_F_SKIP_FIELD_MASK = 0xff,
	BPF_F_USER_STACK = 1U << 8,
	BPF_F_FAST_STACK_CMP = 1U << 9,
	BPF_F_REUSE_STACKID = 1U << 10,
	BPF_F_USER_BUILD_ID = 1U << 11,
};

#define BPF_F_CURRENT_CPU 0xffffffffULL /* an enumerator in vmlinux.h */

enum { /* ring buffer output flags, and what bpf_ringbuf_query asks */
	BPF_RB_NO_WAKEUP = 1U << 0,
	BPF_RB_FORCE_WAKEUP = 1U << 1,
	BPF_RB_AVAIL_DATA = 0,
	BPF_RB_RING_SIZE = 1,
	BPF_RB_CONS_POS = 2,
	BPF_RB_PROD_POS = 3,
};

enum xdp_action {
	XDP_ABORTED = 0,
	XDP_DROP = 1,
	XDP_PASS = 2,
	XDP_TX = 3,
	XDP_REDIRECT = 4,
};

/* ---- helpers: a call of a helper is a call of its number ---------------- */

struct bpf_dynptr {
	__u64 opaque[2];
} __aligned(8);

struct bpf_spin_lock {
	__u32 val;
};

struct bpf_timer {
	__u64 opaque[2];
} __aligned(8);
#endif

#define PYBPF_HELPER(number, ret, name, ...) \
	static ret (*const name)(__VA_ARGS__) __unused = (void *)(number)

struct bpf_sock;
struct bpf_tcp_sock;
struct mptcp_sock;
struct socket;
struct tcp6_sock;
struct tcp_request_sock;
struct tcp_sock;
struct tcp_timewait_sock;
struct udp6_sock;
struct unix_sock;

PYBPF_HELPER(1, void *, bpf_map_lookup_elem, void *map, const void *key);
PYBPF_HELPER(2, long, bpf_map_update_elem, void *map, const void *key, const void *value,
	     __u64 flags);
PYBPF_HELPER(3, long, bpf_map_delete_elem, void *map, const void *key);
PYBPF_HELPER(4, long, bpf_probe_read, void *dst, __u32 size, const void *unsafe_ptr);
PYBPF_HELPER(5, __u64, bpf_ktime_get_ns, void);
PYBPF_HELPER(6, long, bpf_trace_printk, const char *fmt, __u32 fmt_size, ...);
PYBPF_HELPER(7, __u32, bpf_get_prandom_u32, void);
PYBPF_HELPER(8, __u32, bpf_get_smp_processor_id, void);
PYBPF_HELPER(9, long, bpf_skb_store_bytes, void *skb, __u32 offset, const void *from, __u32 len,
	     __u64 flags);
PYBPF_HELPER(10, long, bpf_l3_csum_replace, void *skb, __u32 offset, __u64 from, __u64 to, __u64
	     size);
PYBPF_HELPER(11, long, bpf_l4_csum_replace, void *skb, __u32 offset, __u64 from, __u64 to, __u64
	     flags);
PYBPF_HELPER(12, long, bpf_tail_call, void *ctx, void *prog_array, __u32 index);
PYBPF_HELPER(13, long, bpf_clone_redirect, void *skb, __u32 ifindex, __u64 flags);
PYBPF_HELPER(14, __u64, bpf_get_current_pid_tgid, void);
PYBPF_HELPER(15, __u64, bpf_get_current_uid_gid, void);
PYBPF_HELPER(16, long, bpf_get_current_comm, void *buf, __u32 size);
PYBPF_HELPER(17, __u32, bpf_get_cgroup_classid, void *skb);
PYBPF_HELPER(18, long, bpf_skb_vlan_push, void *skb, __be16 vlan_proto, __u16 vlan_tci);
PYBPF_HELPER(19, long, bpf_skb_vlan_pop, void *skb);
PYBPF_HELPER(20, long, bpf_skb_get_tunnel_key, void *skb, void *key, __u32 size, __u64 flags);
PYBPF_HELPER(21, long, bpf_skb_set_tunnel_key, void *skb, void *key, __u32 size, __u64 flags);
PYBPF_HELPER(22, __u64, bpf_perf_event_read, void *map, __u64 flags);
PYBPF_HELPER(23, long, bpf_redirect, __u32 ifindex, __u64 flags);
PYBPF_HELPER(24, __u32, bpf_get_route_realm, void *skb);
PYBPF_HELPER(25, long, bpf_perf_event_output, void *ctx, void *map, __u64 flags, void *data,
	     __u64 size);
PYBPF_HELPER(26, long, bpf_skb_load_bytes, const void *skb, __u32 offset, void *to, __u32 len);
PYBPF_HELPER(27, long, bpf_get_stackid, void *ctx, void *map, __u64 flags);
PYBPF_HELPER(28, __s64, bpf_csum_diff, __be32 *from, __u32 from_size, __be32 *to, __u32 to_size,
	     __wsum seed);
PYBPF_HELPER(29, long, bpf_skb_get_tunnel_opt, void *skb, void *opt, __u32 size);
PYBPF_HELPER(30, long, bpf_skb_set_tunnel_opt, void *skb, void *opt, __u32 size);
PYBPF_HELPER(31, long, bpf_skb_change_proto, void *skb, __be16 proto, __u64 flags);
PYBPF_HELPER(32, long, bpf_skb_change_type, void *skb, __u32 type);
PYBPF_HELPER(33, long, bpf_skb_under_cgroup, void *skb, void *map, __u32 index);
PYBPF_HELPER(34, __u32, bpf_get_hash_recalc, void *skb);
PYBPF_HELPER(35, __u64, bpf_get_current_task, void);
PYBPF_HELPER(36, long, bpf_probe_write_user, void *dst, const void *src, __u32 len);
PYBPF_HELPER(37, long, bpf_current_task_under_cgroup, void *map, __u32 index);
PYBPF_HELPER(38, long, bpf_skb_change_tail, void *skb, __u32 len, __u64 flags);
PYBPF_HELPER(39, long, bpf_skb_pull_data, void *skb, __u32 len);
PYBPF_HELPER(40, __s64, bpf_csum_update, void *skb, __wsum csum);
PYBPF_HELPER(41, void, bpf_set_hash_invalid, void *skb);
PYBPF_HELPER(42, long, bpf_get_numa_node_id, void);
PYBPF_HELPER(43, long, bpf_skb_change_head, void *skb, __u32 len, __u64 flags);
PYBPF_HELPER(44, long, bpf_xdp_adjust_head, void *xdp, int delta);
PYBPF_HELPER(45, long, bpf_probe_read_str, void *dst, __u32 size, const void *unsafe_ptr);
PYBPF_HELPER(46, __u64, bpf_get_socket_cookie, void *sk);
PYBPF_HELPER(47, __u32, bpf_get_socket_uid, void *skb);
PYBPF_HELPER(48, long, bpf_set_hash, void *skb, __u32 hash);
PYBPF_HELPER(49, long, bpf_setsockopt, void *sock, int level, int optname, void *optval, int
	     optlen);
PYBPF_HELPER(50, long, bpf_skb_adjust_room, void *skb, __s32 len_diff, __u32 mode, __u64 flags);
PYBPF_HELPER(51, long, bpf_redirect_map, void *map, __u32 key, __u64 flags);
PYBPF_HELPER(52, long, bpf_sk_redirect_map, void *skb, void *map, __u32 key, __u64 flags);
PYBPF_HELPER(53, long, bpf_sock_map_update, void *skops, void *map, void *key, __u64 flags);
PYBPF_HELPER(54, long, bpf_xdp_adjust_meta, void *xdp, int delta);
PYBPF_HELPER(55, long, bpf_perf_event_read_value, void *map, __u64 flags, void *buf, __u32
	     buf_size);
PYBPF_HELPER(56, long, bpf_perf_prog_read_value, void *ctx, void *buf, __u32 buf_size);
PYBPF_HELPER(57, long, bpf_getsockopt, void *sock, int level, int optname, void *optval, int
	     optlen);
PYBPF_HELPER(58, long, bpf_override_return, void *regs, __u64 rc);
PYBPF_HELPER(59, long, bpf_sock_ops_cb_flags_set, void *skops, int argval);
PYBPF_HELPER(60, long, bpf_msg_redirect_map, void *msg, void *map, __u32 key, __u64 flags);
PYBPF_HELPER(61, long, bpf_msg_apply_bytes, void *msg, __u32 bytes);
PYBPF_HELPER(62, long, bpf_msg_cork_bytes, void *msg, __u32 bytes);
PYBPF_HELPER(63, long, bpf_msg_pull_data, void *msg, __u32 start, __u32 end, __u64 flags);
PYBPF_HELPER(64, long, bpf_bind, void *ctx, void *addr, int addr_len);
PYBPF_HELPER(65, long, bpf_xdp_adjust_tail, void *xdp, int delta);
PYBPF_HELPER(66, long, bpf_skb_get_xfrm_state, void *skb, __u32 index, void *xfrm_state, __u32
	     size, __u64 flags);
PYBPF_HELPER(67, long, bpf_get_stack, void *ctx, void *buf, __u32 size, __u64 flags);
PYBPF_HELPER(68, long, bpf_skb_load_bytes_relative, const void *skb, __u32 offset, void *to,
	     __u32 len, __u32 start_header);
PYBPF_HELPER(69, long, bpf_fib_lookup, void *ctx, void *params, int plen, __u32 flags);
PYBPF_HELPER(70, long, bpf_sock_hash_update, void *skops, void *map, void *key, __u64 flags);
PYBPF_HELPER(71, long, bpf_msg_redirect_hash, void *msg, void *map, void *key, __u64 flags);
PYBPF_HELPER(72, long, bpf_sk_redirect_hash, void *skb, void *map, void *key, __u64 flags);
PYBPF_HELPER(73, long, bpf_lwt_push_encap, void *skb, __u32 type, void *hdr, __u32 len);
PYBPF_HELPER(74, long, bpf_lwt_seg6_store_bytes, void *skb, __u32 offset, const void *from,
	     __u32 len);
PYBPF_HELPER(75, long, bpf_lwt_seg6_adjust_srh, void *skb, __u32 offset, __s32 delta);
PYBPF_HELPER(76, long, bpf_lwt_seg6_action, void *skb, __u32 action, void *param, __u32
	     param_len);
PYBPF_HELPER(77, long, bpf_rc_repeat, void *ctx);
PYBPF_HELPER(78, long, bpf_rc_keydown, void *ctx, __u32 protocol, __u64 scancode, __u32 toggle);
PYBPF_HELPER(79, __u64, bpf_skb_cgroup_id, void *skb);
PYBPF_HELPER(80, __u64, bpf_get_current_cgroup_id, void);
PYBPF_HELPER(81, void *, bpf_get_local_storage, void *map, __u64 flags);
PYBPF_HELPER(82, long, bpf_sk_select_reuseport, void *reuse, void *map, void *key, __u64 flags);
PYBPF_HELPER(83, __u64, bpf_skb_ancestor_cgroup_id, void *skb, int ancestor_level);
PYBPF_HELPER(84, struct bpf_sock *, bpf_sk_lookup_tcp, void *ctx, void *tuple, __u32 tuple_size,
	     __u64 netns, __u64 flags);
PYBPF_HELPER(85, struct bpf_sock *, bpf_sk_lookup_udp, void *ctx, void *tuple, __u32 tuple_size,
	     __u64 netns, __u64 flags);
PYBPF_HELPER(86, long, bpf_sk_release, void *sock);
PYBPF_HELPER(87, long, bpf_map_push_elem, void *map, const void *value, __u64 flags);
PYBPF_HELPER(88, long, bpf_map_pop_elem, void *map, void *value);
PYBPF_HELPER(89, long, bpf_map_peek_elem, void *map, void *value);
PYBPF_HELPER(90, long, bpf_msg_push_data, void *msg, __u32 start, __u32 len, __u64 flags);
PYBPF_HELPER(91, long, bpf_msg_pop_data, void *msg, __u32 start, __u32 len, __u64 flags);
PYBPF_HELPER(92, long, bpf_rc_pointer_rel, void *ctx, __s32 rel_x, __s32 rel_y);
PYBPF_HELPER(93, long, bpf_spin_lock, struct bpf_spin_lock *lock);
PYBPF_HELPER(94, long, bpf_spin_unlock, struct bpf_spin_lock *lock);
PYBPF_HELPER(95, struct bpf_sock *, bpf_sk_fullsock, void *sk);
PYBPF_HELPER(96, struct bpf_tcp_sock *, bpf_tcp_sock, void *sk);
PYBPF_HELPER(97, long, bpf_skb_ecn_set_ce, void *skb);
PYBPF_HELPER(98, struct bpf_sock *, bpf_get_listener_sock, void *sk);
PYBPF_HELPER(99, struct bpf_sock *, bpf_skc_lookup_tcp, void *ctx, void *tuple, __u32
	     tuple_size, __u64 netns, __u64 flags);
PYBPF_HELPER(100, long, bpf_tcp_check_syncookie, void *sk, void *iph, __u32 iph_len, void *th,
	     __u32 th_len);
PYBPF_HELPER(101, long, bpf_sysctl_get_name, void *ctx, char *buf, size_t buf_len, __u64 flags);
PYBPF_HELPER(102, long, bpf_sysctl_get_current_value, void *ctx, char *buf, size_t buf_len);
PYBPF_HELPER(103, long, bpf_sysctl_get_new_value, void *ctx, char *buf, size_t buf_len);
PYBPF_HELPER(104, long, bpf_sysctl_set_new_value, void *ctx, const char *buf, size_t buf_len);
PYBPF_HELPER(105, long, bpf_strtol, const char *buf, size_t buf_len, __u64 flags, long *res);
PYBPF_HELPER(106, long, bpf_strtoul, const char *buf, size_t buf_len, __u64 flags, unsigned long
	     *res);
PYBPF_HELPER(107, void *, bpf_sk_storage_get, void *map, void *sk, void *value, __u64 flags);
PYBPF_HELPER(108, long, bpf_sk_storage_delete, void *map, void *sk);
PYBPF_HELPER(109, long, bpf_send_signal, __u32 sig);
PYBPF_HELPER(110, __s64, bpf_tcp_gen_syncookie, void *sk, void *iph, __u32 iph_len, void *th,
	     __u32 th_len);
PYBPF_HELPER(111, long, bpf_skb_output, void *ctx, void *map, __u64 flags, void *data, __u64
	     size);
PYBPF_HELPER(112, long, bpf_probe_read_user, void *dst, __u32 size, const void *unsafe_ptr);
PYBPF_HELPER(113, long, bpf_probe_read_kernel, void *dst, __u32 size, const void *unsafe_ptr);
PYBPF_HELPER(114, long, bpf_probe_read_user_str, void *dst, __u32 size, const void *unsafe_ptr);
PYBPF_HELPER(115, long, bpf_probe_read_kernel_str, void *dst, __u32 size, const void *unsafe_ptr);
PYBPF_HELPER(116, long, bpf_tcp_send_ack, void *tp, __u32 rcv_nxt);
PYBPF_HELPER(117, long, bpf_send_signal_thread, __u32 sig);
PYBPF_HELPER(118, __u64, bpf_jiffies64, void);
PYBPF_HELPER(119, long, bpf_read_branch_records, void *ctx, void *buf, __u32 size, __u64 flags);
PYBPF_HELPER(120, long, bpf_get_ns_current_pid_tgid, __u64 dev, __u64 ino, void *nsdata,
	     __u32 size);
PYBPF_HELPER(121, long, bpf_xdp_output, void *ctx, void *map, __u64 flags, void *data, __u64
	     size);
PYBPF_HELPER(122, __u64, bpf_get_netns_cookie, void *ctx);
PYBPF_HELPER(123, __u64, bpf_get_current_ancestor_cgroup_id, int ancestor_level);
PYBPF_HELPER(124, long, bpf_sk_assign, void *ctx, void *sk, __u64 flags);
PYBPF_HELPER(125, __u64, bpf_ktime_get_boot_ns, void);
PYBPF_HELPER(126, long, bpf_seq_printf, void *seq_file, const char *fmt, __u32 fmt_size,
	     const void *data, __u32 data_len);
PYBPF_HELPER(127, long, bpf_seq_write, void *seq_file, const void *data, __u32 len);
PYBPF_HELPER(128, __u64, bpf_sk_cgroup_id, void *sk);
PYBPF_HELPER(129, __u64, bpf_sk_ancestor_cgroup_id, void *sk, int ancestor_level);
PYBPF_HELPER(130, long, bpf_ringbuf_output, void *ringbuf, void *data, __u64 size, __u64 flags);
PYBPF_HELPER(131, void *, bpf_ringbuf_reserve, void *ringbuf, __u64 size, __u64 flags);
PYBPF_HELPER(132, void, bpf_ringbuf_submit, void *data, __u64 flags);
PYBPF_HELPER(133, void, bpf_ringbuf_discard, void *data, __u64 flags);
PYBPF_HELPER(134, __u64, bpf_ringbuf_query, void *ringbuf, __u64 flags);
PYBPF_HELPER(135, long, bpf_csum_level, void *skb, __u64 level);
PYBPF_HELPER(136, struct tcp6_sock *, bpf_skc_to_tcp6_sock, void *sk);
PYBPF_HELPER(137, struct tcp_sock *, bpf_skc_to_tcp_sock, void *sk);
PYBPF_HELPER(138, struct tcp_timewait_sock *, bpf_skc_to_tcp_timewait_sock, void *sk);
PYBPF_HELPER(139, struct tcp_request_sock *, bpf_skc_to_tcp_request_sock, void *sk);
PYBPF_HELPER(140, struct udp6_sock *, bpf_skc_to_udp6_sock, void *sk);
PYBPF_HELPER(141, long, bpf_get_task_stack, void *task, void *buf, __u32 size, __u64 flags);
PYBPF_HELPER(142, long, bpf_load_hdr_opt, void *skops, void *searchby_res, __u32 len, __u64
	     flags);
PYBPF_HELPER(143, long, bpf_store_hdr_opt, void *skops, const void *from, __u32 len, __u64
	     flags);
PYBPF_HELPER(144, long, bpf_reserve_hdr_opt, void *skops, __u32 len, __u64 flags);
PYBPF_HELPER(145, void *, bpf_inode_storage_get, void *map, void *inode, void *value, __u64
	     flags);
PYBPF_HELPER(146, int, bpf_inode_storage_delete, void *map, void *inode);
PYBPF_HELPER(147, long, bpf_d_path, void *path, char *buf, __u32 sz);
PYBPF_HELPER(148, long, bpf_copy_from_user, void *dst, __u32 size, const void *user_ptr);
PYBPF_HELPER(149, long, bpf_snprintf_btf, char *str, __u32 str_size, void *ptr, __u32 ptr_size,
	     __u64 flags);
PYBPF_HELPER(150, long, bpf_seq_printf_btf, void *m, void *ptr, __u32 ptr_size, __u64 flags);
PYBPF_HELPER(151, __u64, bpf_skb_cgroup_classid, void *skb);
PYBPF_HELPER(152, long, bpf_redirect_neigh, __u32 ifindex, void *params, int plen, __u64 flags);
PYBPF_HELPER(153, void *, bpf_per_cpu_ptr, const void *percpu_ptr, __u32 cpu);
PYBPF_HELPER(154, void *, bpf_this_cpu_ptr, const void *percpu_ptr);
PYBPF_HELPER(155, long, bpf_redirect_peer, __u32 ifindex, __u64 flags);
PYBPF_HELPER(156, void *, bpf_task_storage_get, void *map, void *task, void *value, __u64 flags);
PYBPF_HELPER(157, long, bpf_task_storage_delete, void *map, void *task);
PYBPF_HELPER(158, void *, bpf_get_current_task_btf, void);
PYBPF_HELPER(159, long, bpf_bprm_opts_set, void *bprm, __u64 flags);
PYBPF_HELPER(160, __u64, bpf_ktime_get_coarse_ns, void);
PYBPF_HELPER(161, long, bpf_ima_inode_hash, void *inode, void *dst, __u32 size);
PYBPF_HELPER(162, struct socket *, bpf_sock_from_file, void *file);
PYBPF_HELPER(163, long, bpf_check_mtu, void *ctx, __u32 ifindex, __u32 *mtu_len, __s32 len_diff,
	     __u64 flags);
PYBPF_HELPER(164, long, bpf_for_each_map_elem, void *map, void *callback, void *callback_ctx,
	     __u64 flags);
PYBPF_HELPER(165, long, bpf_snprintf, char *str, __u32 str_size, const char *fmt, __u64 *data,
	     __u32 data_len);
PYBPF_HELPER(166, long, bpf_sys_bpf, __u32 cmd, void *attr, __u32 attr_size);
PYBPF_HELPER(167, long, bpf_btf_find_by_name_kind, char *name, int name_size, __u32 kind,
	     int flags);
PYBPF_HELPER(168, long, bpf_sys_close, __u32 fd);
PYBPF_HELPER(169, long, bpf_timer_init, struct bpf_timer *timer, void *map, __u64 flags);
PYBPF_HELPER(170, long, bpf_timer_set_callback, struct bpf_timer *timer, void *callback);
PYBPF_HELPER(171, long, bpf_timer_start, struct bpf_timer *timer, __u64 nsecs, __u64 flags);
PYBPF_HELPER(172, long, bpf_timer_cancel, struct bpf_timer *timer);
PYBPF_HELPER(173, __u64, bpf_get_func_ip, void *ctx);
PYBPF_HELPER(174, __u64, bpf_get_attach_cookie, void *ctx);
PYBPF_HELPER(175, long, bpf_task_pt_regs, void *task);
PYBPF_HELPER(176, long, bpf_get_branch_snapshot, void *entries, __u32 size, __u64 flags);
PYBPF_HELPER(177, long, bpf_trace_vprintk, const char *fmt, __u32 fmt_size, const void *data,
	     __u32 data_len);
PYBPF_HELPER(178, struct unix_sock *, bpf_skc_to_unix_sock, void *sk);
PYBPF_HELPER(179, long, bpf_kallsyms_lookup_name, const char *name, int name_size, int flags,
	     __u64 *result);
PYBPF_HELPER(180, long, bpf_find_vma, void *task, __u64 addr, void *callback, void *callback_ctx,
	     __u64 flags);
PYBPF_HELPER(181, long, bpf_loop, __u32 count, void *callback, void *callback_ctx, __u64 flags);
PYBPF_HELPER(182, long, bpf_strncmp, const char *s1, __u32 s1_size, const char *s2);
PYBPF_HELPER(183, long, bpf_get_func_arg, void *ctx, __u32 n, __u64 *value);
PYBPF_HELPER(184, long, bpf_get_func_ret, void *ctx, __u64 *value);
PYBPF_HELPER(185, long, bpf_get_func_arg_cnt, void *ctx);
PYBPF_HELPER(186, int, bpf_get_retval, void);
PYBPF_HELPER(187, int, bpf_set_retval, int retval);
PYBPF_HELPER(188, __u64, bpf_xdp_get_buff_len, void *xdp);
PYBPF_HELPER(189, long, bpf_xdp_load_bytes, void *xdp, __u32 offset, void *buf, __u32 len);
PYBPF_HELPER(190, long, bpf_xdp_store_bytes, void *xdp, __u32 offset, void *buf, __u32 len);
PYBPF_HELPER(191, long, bpf_copy_from_user_task, void *dst, __u32 size, const void *user_ptr,
	     void *task, __u64 flags);
PYBPF_HELPER(192, long, bpf_skb_set_tstamp, void *skb, __u64 tstamp, __u32 tstamp_type);
PYBPF_HELPER(193, long, bpf_ima_file_hash, void *file, void *dst, __u32 size);
PYBPF_HELPER(194, void *, bpf_kptr_xchg, void *map_value, void *ptr);
PYBPF_HELPER(195, void *, bpf_map_lookup_percpu_elem, void *map, const void *key, __u32 cpu);
PYBPF_HELPER(196, struct mptcp_sock *, bpf_skc_to_mptcp_sock, void *sk);
PYBPF_HELPER(197, long, bpf_dynptr_from_mem, void *data, __u32 size, __u64 flags,
	     struct bpf_dynptr *ptr);
PYBPF_HELPER(198, long, bpf_ringbuf_reserve_dynptr, void *ringbuf, __u32 size, __u64 flags,
	     struct bpf_dynptr *ptr);
PYBPF_HELPER(199, void, bpf_ringbuf_submit_dynptr, struct bpf_dynptr *ptr, __u64 flags);
PYBPF_HELPER(200, void, bpf_ringbuf_discard_dynptr, struct bpf_dynptr *ptr, __u64 flags);
PYBPF_HELPER(201, long, bpf_dynptr_read, void *dst, __u32 len, const struct bpf_dynptr *src,
	     __u32 offset, __u64 flags);
PYBPF_HELPER(202, long, bpf_dynptr_write, const struct bpf_dynptr *dst, __u32 offset, void *src,
	     __u32 len, __u64 flags);
PYBPF_HELPER(203, void *, bpf_dynptr_data, const struct bpf_dynptr *ptr, __u32 offset, __u32 len);
PYBPF_HELPER(204, __s64, bpf_tcp_raw_gen_syncookie_ipv4, void *iph, void *th, __u32 th_len);
PYBPF_HELPER(205, __s64, bpf_tcp_raw_gen_syncookie_ipv6, void *iph, void *th, __u32 th_len);
PYBPF_HELPER(206, long, bpf_tcp_raw_check_syncookie_ipv4, void *iph, void *th);
PYBPF_HELPER(207, long, bpf_tcp_raw_check_syncookie_ipv6, void *iph, void *th);
PYBPF_HELPER(208, __u64, bpf_ktime_get_tai_ns, void);
PYBPF_HELPER(209, long, bpf_user_ringbuf_drain, void *map, void *callback, void *callback_ctx,
	     __u64 flags);
PYBPF_HELPER(210, void *, bpf_cgrp_storage_get, void *map, void *cgroup, void *value, __u64 flags);
PYBPF_HELPER(211, long, bpf_cgrp_storage_delete, void *map, void *cgroup);

/* ---- counting and applying macro arguments (0 to 12 of them) ------------ */

#define PYBPF_13TH(_0, _1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, n, ...) n
#define PYBPF_COUNT(args...) PYBPF_13TH(_, ##args, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)

/* ---- text: up to 12 values for a format, each as 64 bits ---------------- */

#define PYBPF_U64_0()
#define PYBPF_U64_1(a) (unsigned long long)(a)
#define PYBPF_U64_2(a, rest...) PYBPF_U64_1(a), PYBPF_U64_1(rest)
#define PYBPF_U64_3(a, rest...) PYBPF_U64_1(a), PYBPF_U64_2(rest)
#define PYBPF_U64_4(a, rest...) PYBPF_U64_1(a), PYBPF_U64_3(rest)
#define PYBPF_U64_5(a, rest...) PYBPF_U64_1(a), PYBPF_U64_4(rest)
#define PYBPF_U64_6(a, rest...) PYBPF_U64_1(a), PYBPF_U64_5(rest)
#define PYBPF_U64_7(a, rest...) PYBPF_U64_1(a), PYBPF_U64_6(rest)
#define PYBPF_U64_8(a, rest...) PYBPF_U64_1(a), PYBPF_U64_7(rest)
#define PYBPF_U64_9(a, rest...) PYBPF_U64_1(a), PYBPF_U64_8(rest)
#define PYBPF_U64_10(a, rest...) PYBPF_U64_1(a), PYBPF_U64_9(rest)
#define PYBPF_U64_11(a, rest...) PYBPF_U64_1(a), PYBPF_U64_10(rest)
#define PYBPF_U64_12(a, rest...) PYBPF_U64_1(a), PYBPF_U64_11(rest)
#define PYBPF_U64(args...) PYBPF_JOIN(PYBPF_U64_, PYBPF_COUNT(args))(args)

/* Gives `write` the format, its size, the values and their size in bytes. */
#define PYBPF_FORMAT(write, fmt, args...)                                                         \
	({                                                                                        \
		static const char pybpf_fmt[] = fmt;                                              \
		unsigned long long pybpf_values[PYBPF_COUNT(args) ?: 1] = { PYBPF_U64(args) };    \
		write(pybpf_fmt, sizeof(pybpf_fmt), pybpf_values, 8 * PYBPF_COUNT(args));         \
	})

/* Text for /sys/kernel/tracing/trace_pipe. More than three values need 5.16. */
#define PYBPF_PRINT_FEW(fmt, args...)                                   \
	({                                                              \
		static const char pybpf_fmt[] = fmt;                    \
		bpf_trace_printk(pybpf_fmt, sizeof(pybpf_fmt), ##args); \
	})
#define bpf_printk(fmt, args...)                                              \
	__builtin_choose_expr(PYBPF_COUNT(args) <= 3, PYBPF_PRINT_FEW(fmt, ##args), \
			      PYBPF_FORMAT(bpf_trace_vprintk, fmt, ##args))

/* Text of an iterator: `BPF_SEQ_PRINTF(ctx->meta->seq, "%d\n", pid)`. */
#define BPF_SEQ_PRINTF(seq, fmt, args...)                                                       \
	({                                                                                      \
		void *pybpf_seq = (seq);                                                        \
		PYBPF_FORMAT(PYBPF_SEQ_WRITE, fmt, ##args);                                     \
	})
#define PYBPF_SEQ_WRITE(fmt, size, values, bytes) \
	bpf_seq_printf(pybpf_seq, fmt, size, values, bytes)
/* Text into a buffer: the number of bytes that it needs with its NUL, or a negative errno. */
#define BPF_SNPRINTF(out, out_size, fmt, args...)                                               \
	({                                                                                      \
		char *pybpf_out = (out);                                                        \
		__u32 pybpf_room = (out_size);                                                  \
		PYBPF_FORMAT(PYBPF_TEXT_WRITE, fmt, ##args);                                    \
	})
#define PYBPF_TEXT_WRITE(fmt, size, values, bytes) \
	bpf_snprintf(pybpf_out, pybpf_room, fmt, values, bytes)

/* ---- byte order of the network ------------------------------------------ */

#define bpf_htons(x) ((__be16)__builtin_bswap16(x))
#define bpf_ntohs(x) ((__u16)__builtin_bswap16(x))
#define bpf_htonl(x) ((__be32)__builtin_bswap32(x))
#define bpf_ntohl(x) ((__u32)__builtin_bswap32(x))
#define bpf_cpu_to_be64(x) ((__be64)__builtin_bswap64(x))
#define bpf_be64_to_cpu(x) ((__u64)__builtin_bswap64(x))
/* Some sources use the names that libbpf has behind these. */
#define __bpf_htons bpf_htons
#define __bpf_ntohs bpf_ntohs
#define __bpf_htonl bpf_htonl
#define __bpf_ntohl bpf_ntohl

/* ---- tracing programs: `int BPF_PROG(f, T1 a, T2 b)` -------------------- */

/*
 * The context is an array of 8-byte slots. Parameter i is slot i, converted to
 * the declared type (integers and pointers; read a struct passed by value by
 * hand). The body is a separate always-inlined function, so it can `return` and
 * see `ctx` next to its parameters.
 */
#define PYBPF_SLOTS_0(get)
#define PYBPF_SLOTS_1(get) , get(0)
#define PYBPF_SLOTS_2(get) PYBPF_SLOTS_1(get), get(1)
#define PYBPF_SLOTS_3(get) PYBPF_SLOTS_2(get), get(2)
#define PYBPF_SLOTS_4(get) PYBPF_SLOTS_3(get), get(3)
#define PYBPF_SLOTS_5(get) PYBPF_SLOTS_4(get), get(4)
#define PYBPF_SLOTS_6(get) PYBPF_SLOTS_5(get), get(5)
#define PYBPF_SLOTS_7(get) PYBPF_SLOTS_6(get), get(6)
#define PYBPF_SLOTS_8(get) PYBPF_SLOTS_7(get), get(7)
#define PYBPF_SLOTS_9(get) PYBPF_SLOTS_8(get), get(8)
#define PYBPF_SLOTS_10(get) PYBPF_SLOTS_9(get), get(9)
#define PYBPF_SLOTS_11(get) PYBPF_SLOTS_10(get), get(10)
#define PYBPF_SLOTS_12(get) PYBPF_SLOTS_11(get), get(11)

#define PYBPF_WRAP(name, ctx_type, get, args...)                                             \
	name(ctx_type ctx);                                                                  \
	static __always_inline typeof(name((ctx_type)0)) name##_body(ctx_type ctx, ##args);  \
	typeof(name((ctx_type)0)) name(ctx_type ctx)                                         \
	{                                                                                    \
		_Pragma("clang diagnostic push")                                             \
		_Pragma("clang diagnostic ignored \"-Wint-conversion\"")                     \
		return name##_body(ctx PYBPF_JOIN(PYBPF_SLOTS_, PYBPF_COUNT(args))(get));    \
		_Pragma("clang diagnostic pop")                                              \
	}                                                                                    \
	static __always_inline typeof(name((ctx_type)0)) name##_body(ctx_type ctx __unused, ##args)

#define PYBPF_CTX_SLOT(i) ctx[i]
#define BPF_PROG(name, args...) PYBPF_WRAP(name, unsigned long long *, PYBPF_CTX_SLOT, ##args)

/* ---- kprobe programs: the context is the CPU's registers ---------------- */

#ifndef __VMLINUX_H__
/* x86-64 `struct pt_regs` as BPF programs see it; fixed layout, no CO-RE. */
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx;
	unsigned long r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};
#endif

/* Function arguments. PT_REGS_PARM4_SYSCALL replaces rcx, which SYSCALL overwrites. */
#define PT_REGS_PARM1(regs) ((regs)->di)
#define PT_REGS_PARM2(regs) ((regs)->si)
#define PT_REGS_PARM3(regs) ((regs)->dx)
#define PT_REGS_PARM4(regs) ((regs)->cx)
#define PT_REGS_PARM5(regs) ((regs)->r8)
#define PT_REGS_PARM6(regs) ((regs)->r9)
#define PT_REGS_PARM1_SYSCALL PT_REGS_PARM1
#define PT_REGS_PARM2_SYSCALL PT_REGS_PARM2
#define PT_REGS_PARM3_SYSCALL PT_REGS_PARM3
#define PT_REGS_PARM4_SYSCALL(regs) ((regs)->r10)
#define PT_REGS_PARM5_SYSCALL PT_REGS_PARM5
#define PT_REGS_PARM6_SYSCALL PT_REGS_PARM6
#define PT_REGS_SYSCALL_REGS(ctx) ((struct pt_regs *)PT_REGS_PARM1(ctx))
#define PT_REGS_RET(regs) ((regs)->sp)
#define PT_REGS_FP(regs) ((regs)->bp)
#define PT_REGS_RC(regs) ((regs)->ax)
#define PT_REGS_SP(regs) ((regs)->sp)
#define PT_REGS_IP(regs) ((regs)->ip)

#define PYBPF_REG_0(regs) PT_REGS_PARM1(regs)
#define PYBPF_REG_1(regs) PT_REGS_PARM2(regs)
#define PYBPF_REG_2(regs) PT_REGS_PARM3(regs)
#define PYBPF_REG_3(regs) PT_REGS_PARM4(regs)
#define PYBPF_REG_4(regs) PT_REGS_PARM5(regs)
#define PYBPF_REG_5(regs) PT_REGS_PARM6(regs)
#define PYBPF_REG_SLOT(i) PYBPF_REG_##i(ctx)
#define PYBPF_RC_SLOT(i) PT_REGS_RC(ctx)

/* `int BPF_KPROBE(f, T1 a, T2 b)`: up to six arguments of the probed function. */
#define BPF_KPROBE(name, args...) PYBPF_WRAP(name, struct pt_regs *, PYBPF_REG_SLOT, ##args)
/* `int BPF_KRETPROBE(f, T ret)`: its return value. */
#define BPF_KRETPROBE(name, args...) PYBPF_WRAP(name, struct pt_regs *, PYBPF_RC_SLOT, ##args)
/*
 * `int BPF_KSYSCALL(f, T1 a, T2 b)`: the arguments of a system call (SEC("ksyscall/NAME")). The
 * kernel's function for it has one argument, the registers that the caller had.
 */
#define PYBPF_SYSCALL_REG(reg)                                                                  \
	({                                                                                      \
		unsigned long pybpf_reg = 0;                                                    \
		bpf_probe_read_kernel(&pybpf_reg, sizeof(pybpf_reg),                            \
				      &reg(PT_REGS_SYSCALL_REGS(ctx)));                         \
		pybpf_reg;                                                                      \
	})
#define PYBPF_SYSCALL_SLOT(i) PYBPF_SYSCALL_REG(PYBPF_SYSCALL_REG_##i)
#define PYBPF_SYSCALL_REG_0 PT_REGS_PARM1
#define PYBPF_SYSCALL_REG_1 PT_REGS_PARM2
#define PYBPF_SYSCALL_REG_2 PT_REGS_PARM3
#define PYBPF_SYSCALL_REG_3 PT_REGS_PARM4_SYSCALL
#define PYBPF_SYSCALL_REG_4 PT_REGS_PARM5
#define PYBPF_SYSCALL_REG_5 PT_REGS_PARM6
#define BPF_KSYSCALL(name, args...) \
	PYBPF_WRAP(name, struct pt_regs *, PYBPF_SYSCALL_SLOT, ##args)
#define BPF_UPROBE BPF_KPROBE
#define BPF_URETPROBE BPF_KRETPROBE

/* ---- CO-RE: sizes, offsets and existence on the running kernel ---------- */

enum pybpf_field_info {
	PYBPF_FIELD_OFFSET = 0,
	PYBPF_FIELD_SIZE = 1,
	PYBPF_FIELD_EXISTS = 2,
	PYBPF_FIELD_SIGNED = 3,
	PYBPF_FIELD_LSHIFT = 4,
	PYBPF_FIELD_RSHIFT = 5,
};

/* Either one expression (`p->f`) or a type and a field (`struct s, f`). */
#define PYBPF_FIELD_1(field) field
#define PYBPF_FIELD_2(c_type, field) (((typeof(c_type) *)0)->field)
#define PYBPF_FIELD(args...) PYBPF_JOIN(PYBPF_FIELD_, PYBPF_COUNT(args))(args)

#define bpf_core_field_offset(args...) \
	__builtin_preserve_field_info(PYBPF_FIELD(args), PYBPF_FIELD_OFFSET)
#define bpf_core_field_size(args...) \
	__builtin_preserve_field_info(PYBPF_FIELD(args), PYBPF_FIELD_SIZE)
#define bpf_core_field_exists(args...) \
	__builtin_preserve_field_info(PYBPF_FIELD(args), PYBPF_FIELD_EXISTS)

#define bpf_core_type_id_local(c_type) __builtin_btf_type_id(*(typeof(c_type) *)0, 0)
#define bpf_core_type_id_kernel(c_type) __builtin_btf_type_id(*(typeof(c_type) *)0, 1)
#define bpf_core_type_exists(c_type) __builtin_preserve_type_info(*(typeof(c_type) *)0, 0)
#define bpf_core_type_size(c_type) __builtin_preserve_type_info(*(typeof(c_type) *)0, 1)
#define bpf_core_type_matches(c_type) __builtin_preserve_type_info(*(typeof(c_type) *)0, 2)

#define bpf_core_enum_value_exists(enum_type, enumerator) \
	__builtin_preserve_enum_value(*(typeof(enum_type) *)enumerator, 0)
#define bpf_core_enum_value(enum_type, enumerator) \
	__builtin_preserve_enum_value(*(typeof(enum_type) *)enumerator, 1)

/* ---- CO-RE: reading ----------------------------------------------------- */

#define bpf_core_read(dst, size, src) \
	bpf_probe_read_kernel(dst, size, __builtin_preserve_access_index(src))
#define bpf_core_read_user(dst, size, src) \
	bpf_probe_read_user(dst, size, __builtin_preserve_access_index(src))
#define bpf_core_read_str(dst, size, src) \
	bpf_probe_read_kernel_str(dst, size, __builtin_preserve_access_index(src))
#define bpf_core_read_user_str(dst, size, src) \
	bpf_probe_read_user_str(dst, size, __builtin_preserve_access_index(src))

/* One step: the value of `(ptr)->field`, 0 if it cannot be read. */
#define PYBPF_STEP(read, ptr, field)                                                            \
	({                                                                                      \
		__auto_type pybpf_ptr = (ptr);                                                  \
		typeof(pybpf_ptr->field) pybpf_value;                                           \
		read((void *)&pybpf_value, sizeof(pybpf_value),                                 \
		     (const void *)&pybpf_ptr->field);                                          \
		pybpf_value;                                                                    \
	})

/* All steps but the last give the pointer that the last step reads from. */
#define PYBPF_WALK_0(r, p) p
#define PYBPF_WALK_1(r, p, a) PYBPF_STEP(r, p, a)
#define PYBPF_WALK_2(r, p, a, b) PYBPF_STEP(r, PYBPF_WALK_1(r, p, a), b)
#define PYBPF_WALK_3(r, p, a, b, c) PYBPF_STEP(r, PYBPF_WALK_2(r, p, a, b), c)
#define PYBPF_WALK_4(r, p, a, b, c, d) PYBPF_STEP(r, PYBPF_WALK_3(r, p, a, b, c), d)
#define PYBPF_WALK_5(r, p, a, b, c, d, e) PYBPF_STEP(r, PYBPF_WALK_4(r, p, a, b, c, d), e)
#define PYBPF_WALK_6(r, p, a, b, c, d, e, f) PYBPF_STEP(r, PYBPF_WALK_5(r, p, a, b, c, d, e), f)
#define PYBPF_WALK(r, p, fields...) \
	PYBPF_JOIN(PYBPF_WALK_, PYBPF_COUNT(fields))(r, p, ##fields)

#define PYBPF_LAST_1(a) a
#define PYBPF_LAST_2(a, b) b
#define PYBPF_LAST_3(a, b, c) c
#define PYBPF_LAST_4(a, b, c, d) d
#define PYBPF_LAST_5(a, b, c, d, e) e
#define PYBPF_LAST_6(a, b, c, d, e, f) f
#define PYBPF_INIT_1(r, p, a) p
#define PYBPF_INIT_2(r, p, a, b) PYBPF_WALK_1(r, p, a)
#define PYBPF_INIT_3(r, p, a, b, c) PYBPF_WALK_2(r, p, a, b)
#define PYBPF_INIT_4(r, p, a, b, c, d) PYBPF_WALK_3(r, p, a, b, c)
#define PYBPF_INIT_5(r, p, a, b, c, d, e) PYBPF_WALK_4(r, p, a, b, c, d)
#define PYBPF_INIT_6(r, p, a, b, c, d, e, f) PYBPF_WALK_5(r, p, a, b, c, d, e)
#define PYBPF_READ_INTO(step, last, dst, ptr, fields...)                                        \
	({                                                                                      \
		__auto_type pybpf_base =                                                        \
			PYBPF_JOIN(PYBPF_INIT_, PYBPF_COUNT(fields))(step, ptr, fields);        \
		last((void *)(dst), sizeof(*(dst)),                                             \
		     (const void *)&pybpf_base->PYBPF_JOIN(                                     \
			     PYBPF_LAST_, PYBPF_COUNT(fields))(fields));                        \
	})

/* `BPF_CORE_READ(task, group_leader, pid)` is task->group_leader->pid. Up to 6 fields. */
#define BPF_CORE_READ(ptr, fields...) PYBPF_WALK(bpf_core_read, ptr, fields)
#define BPF_CORE_READ_USER(ptr, fields...) PYBPF_WALK(bpf_core_read_user, ptr, fields)
/* The same into `*dst`. Returns 0 or a negative errno. For arrays and strings. */
#define BPF_CORE_READ_INTO(dst, ptr, fields...) \
	PYBPF_READ_INTO(bpf_core_read, bpf_core_read, dst, ptr, fields)
#define BPF_CORE_READ_USER_INTO(dst, ptr, fields...) \
	PYBPF_READ_INTO(bpf_core_read_user, bpf_core_read_user, dst, ptr, fields)
#define BPF_CORE_READ_STR_INTO(dst, ptr, fields...) \
	PYBPF_READ_INTO(bpf_core_read, bpf_core_read_str, dst, ptr, fields)
#define BPF_CORE_READ_USER_STR_INTO(dst, ptr, fields...) \
	PYBPF_READ_INTO(bpf_core_read_user, bpf_core_read_user_str, dst, ptr, fields)

/* The same without CO-RE, for structs that are not the kernel's, such as a program's own. */
#define BPF_PROBE_READ(ptr, fields...) PYBPF_WALK(bpf_probe_read_kernel, ptr, fields)
#define BPF_PROBE_READ_USER(ptr, fields...) PYBPF_WALK(bpf_probe_read_user, ptr, fields)
#define BPF_PROBE_READ_INTO(dst, ptr, fields...) \
	PYBPF_READ_INTO(bpf_probe_read_kernel, bpf_probe_read_kernel, dst, ptr, fields)
#define BPF_PROBE_READ_USER_INTO(dst, ptr, fields...) \
	PYBPF_READ_INTO(bpf_probe_read_user, bpf_probe_read_user, dst, ptr, fields)
#define BPF_PROBE_READ_STR_INTO(dst, ptr, fields...) \
	PYBPF_READ_INTO(bpf_probe_read_kernel, bpf_probe_read_kernel_str, dst, ptr, fields)
#define BPF_PROBE_READ_USER_STR_INTO(dst, ptr, fields...) \
	PYBPF_READ_INTO(bpf_probe_read_user, bpf_probe_read_user_str, dst, ptr, fields)

/* Registers that are not the context, such as those of a system call: they are read by CO-RE. */
#define PT_REGS_PARM1_CORE(regs) BPF_CORE_READ(regs, di)
#define PT_REGS_PARM2_CORE(regs) BPF_CORE_READ(regs, si)
#define PT_REGS_PARM3_CORE(regs) BPF_CORE_READ(regs, dx)
#define PT_REGS_PARM4_CORE(regs) BPF_CORE_READ(regs, cx)
#define PT_REGS_PARM5_CORE(regs) BPF_CORE_READ(regs, r8)
#define PT_REGS_PARM6_CORE(regs) BPF_CORE_READ(regs, r9)
#define PT_REGS_PARM1_CORE_SYSCALL PT_REGS_PARM1_CORE
#define PT_REGS_PARM2_CORE_SYSCALL PT_REGS_PARM2_CORE
#define PT_REGS_PARM3_CORE_SYSCALL PT_REGS_PARM3_CORE
#define PT_REGS_PARM4_CORE_SYSCALL(regs) BPF_CORE_READ(regs, r10)
#define PT_REGS_PARM5_CORE_SYSCALL PT_REGS_PARM5_CORE
#define PT_REGS_PARM6_CORE_SYSCALL PT_REGS_PARM6_CORE
#define PT_REGS_RC_CORE(regs) BPF_CORE_READ(regs, ax)
#define PT_REGS_SP_CORE(regs) BPF_CORE_READ(regs, sp)
#define PT_REGS_IP_CORE(regs) BPF_CORE_READ(regs, ip)

/* The bit-field `ptr->field` as an unsigned 64-bit value, sign-extended if it is signed. */
#define BPF_CORE_READ_BITFIELD_PROBED(ptr, field)                                               \
	({                                                                                      \
		__u64 pybpf_bits = 0;                                                           \
		__u32 pybpf_size =                                                              \
			__builtin_preserve_field_info((ptr)->field, PYBPF_FIELD_SIZE);          \
		bpf_probe_read_kernel(&pybpf_bits, pybpf_size,                                  \
				      (const char *)(ptr) + __builtin_preserve_field_info(      \
						(ptr)->field, PYBPF_FIELD_OFFSET));             \
		pybpf_bits <<= __builtin_preserve_field_info((ptr)->field, PYBPF_FIELD_LSHIFT); \
		__u32 pybpf_right =                                                             \
			__builtin_preserve_field_info((ptr)->field, PYBPF_FIELD_RSHIFT);        \
		if (__builtin_preserve_field_info((ptr)->field, PYBPF_FIELD_SIGNED))            \
			pybpf_bits = (__s64)pybpf_bits >> pybpf_right;                          \
		else                                                                            \
			pybpf_bits >>= pybpf_right;                                             \
		pybpf_bits;                                                                     \
	})

#endif
