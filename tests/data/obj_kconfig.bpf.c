/* SPDX-License-Identifier: MIT */
/* Values of the kernel's configuration, one of every form. */
#include "pybpf.h"

char LICENSE[] SEC("license") = "GPL";

enum libbpf_tristate {
	TRI_NO = 0,
	TRI_YES = 1,
	TRI_MODULE = 2,
};

extern int LINUX_KERNEL_VERSION __kconfig;
extern bool LINUX_HAS_BPF_COOKIE __kconfig;
extern bool LINUX_HAS_SYSCALL_WRAPPER __kconfig;
extern __u64 LINUX_UNKNOWN_VALUE __kconfig __weak;
extern bool CONFIG_BPF __kconfig;
extern bool CONFIG_PYBPF_MISSING __kconfig __weak;
extern enum libbpf_tristate CONFIG_VIRTIO __kconfig;
extern char CONFIG_OVERLAY_FS __kconfig;
extern __u16 CONFIG_NR_CPUS __kconfig;
extern __s64 CONFIG_PYBPF_NEGATIVE __kconfig __weak;
extern unsigned long CONFIG_PHYSICAL_START __kconfig;
extern char CONFIG_DEFAULT_HOSTNAME[5] __kconfig;

long sum;

SEC("socket")
int use(void *ctx)
{
	sum = LINUX_KERNEL_VERSION + LINUX_HAS_BPF_COOKIE + LINUX_HAS_SYSCALL_WRAPPER;
	sum += LINUX_UNKNOWN_VALUE + CONFIG_BPF + CONFIG_PYBPF_MISSING + CONFIG_VIRTIO;
	sum += CONFIG_OVERLAY_FS + CONFIG_NR_CPUS + CONFIG_PYBPF_NEGATIVE;
	sum += CONFIG_PHYSICAL_START + CONFIG_DEFAULT_HOSTNAME[1];
	return 0;
}
