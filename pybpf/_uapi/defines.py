"""Numbers of the user-space API that exist only as #define, written by hand.

Each group names its header; the values are checked against linux-libc-dev's
headers by tests/unit/test_uapi.py where those are installed.
"""

from __future__ import annotations

__all__ = [
    "BPF_BUILD_ID_SIZE",
    "BPF_F_AFTER",
    "BPF_F_ALLOW_MULTI",
    "BPF_F_ALLOW_OVERRIDE",
    "BPF_F_ANY_ALIGNMENT",
    "BPF_F_BEFORE",
    "BPF_F_ID",
    "BPF_F_PREORDER",
    "BPF_F_QUERY_EFFECTIVE",
    "BPF_F_REPLACE",
    "BPF_F_SLEEPABLE",
    "BPF_F_STRICT_ALIGNMENT",
    "BPF_F_TEST_REG_INVARIANTS",
    "BPF_F_TEST_RND_HI32",
    "BPF_F_TEST_RUN_ON_CPU",
    "BPF_F_TEST_SKB_CHECKSUM_COMPLETE",
    "BPF_F_TEST_STATE_FREQ",
    "BPF_F_TEST_XDP_LIVE_FRAMES",
    "BPF_F_XDP_DEV_BOUND_ONLY",
    "BPF_F_XDP_HAS_FRAGS",
    "BPF_LOG_FIXED",
    "BPF_LOG_LEVEL1",
    "BPF_LOG_LEVEL2",
    "BPF_LOG_STATS",
    "BPF_OBJ_NAME_LEN",
    "BPF_PSEUDO_BTF_ID",
    "BPF_PSEUDO_CALL",
    "BPF_PSEUDO_FUNC",
    "BPF_PSEUDO_KFUNC_CALL",
    "BPF_PSEUDO_MAP_FD",
    "BPF_PSEUDO_MAP_IDX",
    "BPF_PSEUDO_MAP_IDX_VALUE",
    "BPF_PSEUDO_MAP_VALUE",
    "BPF_TAG_SIZE",
    "CAP_BPF",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_NET_ADMIN",
    "CAP_PERFMON",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "ENOTSUPP",
    "PERF_EVENT_IOC_DISABLE",
    "PERF_EVENT_IOC_ENABLE",
    "PERF_EVENT_IOC_QUERY_BPF",
    "PERF_EVENT_IOC_SET_BPF",
    "PERF_FLAG_FD_CLOEXEC",
    "SYS_BPF",
    "SYS_PERF_EVENT_OPEN",
    "XDP_FLAGS_DRV_MODE",
    "XDP_FLAGS_HW_MODE",
    "XDP_FLAGS_SKB_MODE",
]

# asm/unistd_64.h. x86-64 only, as the rest of the library.
SYS_PERF_EVENT_OPEN = 298
SYS_BPF = 321

# include/linux/errno.h: inside the kernel only, yet it reaches user space.
ENOTSUPP = 524

# linux/bpf.h: bpf_insn.src_reg of ldimm64
BPF_PSEUDO_MAP_FD = 1
BPF_PSEUDO_MAP_VALUE = 2
BPF_PSEUDO_BTF_ID = 3
BPF_PSEUDO_FUNC = 4
BPF_PSEUDO_MAP_IDX = 5
BPF_PSEUDO_MAP_IDX_VALUE = 6
# ... and of call
BPF_PSEUDO_CALL = 1
BPF_PSEUDO_KFUNC_CALL = 2

# linux/bpf.h: sizes in bytes
BPF_OBJ_NAME_LEN = 16
BPF_TAG_SIZE = 8
BPF_BUILD_ID_SIZE = 20

# linux/bpf.h: prog_flags of BPF_PROG_LOAD
BPF_F_STRICT_ALIGNMENT = 1 << 0
BPF_F_ANY_ALIGNMENT = 1 << 1
BPF_F_TEST_RND_HI32 = 1 << 2
BPF_F_TEST_STATE_FREQ = 1 << 3
BPF_F_SLEEPABLE = 1 << 4
BPF_F_XDP_HAS_FRAGS = 1 << 5
BPF_F_XDP_DEV_BOUND_ONLY = 1 << 6
BPF_F_TEST_REG_INVARIANTS = 1 << 7

# linux/bpf.h: flags of BPF_PROG_ATTACH and of links on a list of programs
BPF_F_ALLOW_OVERRIDE = 1 << 0
BPF_F_ALLOW_MULTI = 1 << 1
BPF_F_REPLACE = 1 << 2
BPF_F_BEFORE = 1 << 3
BPF_F_AFTER = 1 << 4
BPF_F_ID = 1 << 5
BPF_F_PREORDER = 1 << 6

# linux/bpf.h: query_flags of BPF_PROG_QUERY
BPF_F_QUERY_EFFECTIVE = 1 << 0

# linux/bpf.h: flags of BPF_PROG_TEST_RUN
BPF_F_TEST_RUN_ON_CPU = 1 << 0
BPF_F_TEST_XDP_LIVE_FRAMES = 1 << 1
BPF_F_TEST_SKB_CHECKSUM_COMPLETE = 1 << 2

# include/linux/bpf_verifier.h: log_level of BPF_PROG_LOAD and BPF_BTF_LOAD
BPF_LOG_LEVEL1 = 1
BPF_LOG_LEVEL2 = 2
BPF_LOG_STATS = 4
BPF_LOG_FIXED = 8

# linux/perf_event.h: flags and ioctl numbers (_IO/_IOW/_IOWR of '$')
PERF_FLAG_FD_CLOEXEC = 1 << 3
PERF_EVENT_IOC_ENABLE = 0x2400
PERF_EVENT_IOC_DISABLE = 0x2401
PERF_EVENT_IOC_SET_BPF = 0x40042408
PERF_EVENT_IOC_QUERY_BPF = 0xC008240A

# linux/if_link.h: flags of an XDP link
XDP_FLAGS_SKB_MODE = 1 << 1
XDP_FLAGS_DRV_MODE = 1 << 2
XDP_FLAGS_HW_MODE = 1 << 3

# linux/capability.h: bit numbers
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_NET_ADMIN = 12
CAP_SYS_RAWIO = 17
CAP_SYS_ADMIN = 21
CAP_SYS_RESOURCE = 24
CAP_SYSLOG = 34
CAP_PERFMON = 38
CAP_BPF = 39
