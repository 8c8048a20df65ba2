// SPDX-License-Identifier: MIT
#include "pybpf.h"

struct sock_common {
	__u32 skc_daddr;
	__u16 skc_dport;
	__u16 skc_family;
} __core;

struct sock {
	struct sock_common __sk_common;
} __core;

struct event {
	__u32 pid;
	__u8 address[4];
	__u16 port; // network byte order
	char comm[16];
};
const struct event *unused __unused;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} events SEC(".maps");

SEC("fentry/tcp_connect")
int BPF_PROG(on_connect, struct sock *sk)
{
	struct event *event;
	__u32 address = sk->__sk_common.skc_daddr;

	if (sk->__sk_common.skc_family != 2) // AF_INET
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	event->pid = bpf_get_current_pid_tgid() >> 32;
	__builtin_memcpy(event->address, &address, 4);
	event->port = sk->__sk_common.skc_dport;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	bpf_ringbuf_submit(event, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
