// SPDX-License-Identifier: MIT
#include "pybpf.h"

const volatile __u16 port; // network byte order
__u64 passed, dropped;

struct __sk_buff {
	__u32 len;
};

// The packet begins with its IPv4 header. 1 lets it pass, 0 drops it.
SEC("cgroup_skb/egress")
int filter(struct __sk_buff *skb)
{
	__u8 header[24];

	if (bpf_skb_load_bytes(skb, 0, header, sizeof(header)) || header[0] != 0x45)
		return 1;
	if (*(__u16 *)(header + 22) == port) {
		__sync_fetch_and_add(&dropped, 1);
		return 0;
	}
	__sync_fetch_and_add(&passed, 1);
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
