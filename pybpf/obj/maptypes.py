"""Sets of ``enum bpf_map_type`` with a common property, each written once."""

from __future__ import annotations

from .._uapi.enums import MapFlag, MapType

__all__ = [
    "ADDED_FLAGS",
    "FD_KEYS",
    "FD_VALUES",
    "FULL_ARRAYS",
    "INDEXED",
    "KEYLESS",
    "LRUS",
    "NO_BTF",
    "NO_KEYS",
    "OUTER",
    "PERCPU",
    "RINGS",
]

T = MapType

#: The key is a 4-byte index.
INDEXED = frozenset(
    {
        T.BPF_MAP_TYPE_ARRAY,
        T.BPF_MAP_TYPE_PERCPU_ARRAY,
        T.BPF_MAP_TYPE_PROG_ARRAY,
        T.BPF_MAP_TYPE_PERF_EVENT_ARRAY,
        T.BPF_MAP_TYPE_CGROUP_ARRAY,
        T.BPF_MAP_TYPE_ARRAY_OF_MAPS,
        T.BPF_MAP_TYPE_STACK_TRACE,
    }
)
#: One value for each possible CPU.
PERCPU = frozenset(
    {
        T.BPF_MAP_TYPE_PERCPU_HASH,
        T.BPF_MAP_TYPE_PERCPU_ARRAY,
        T.BPF_MAP_TYPE_LRU_PERCPU_HASH,
        T.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE,
    }
)
#: A value is the descriptor of a program, map, cgroup or perf event.
FD_VALUES = frozenset(
    {
        T.BPF_MAP_TYPE_PROG_ARRAY,
        T.BPF_MAP_TYPE_PERF_EVENT_ARRAY,
        T.BPF_MAP_TYPE_CGROUP_ARRAY,
        T.BPF_MAP_TYPE_ARRAY_OF_MAPS,
        T.BPF_MAP_TYPE_HASH_OF_MAPS,
    }
)
#: Local storage: the key is the descriptor of the owner.
FD_KEYS = frozenset(
    {
        T.BPF_MAP_TYPE_SK_STORAGE,
        T.BPF_MAP_TYPE_INODE_STORAGE,
        T.BPF_MAP_TYPE_TASK_STORAGE,
        T.BPF_MAP_TYPE_CGRP_STORAGE,
    }
)
#: Ring buffers: `max_entries` is their size in bytes.
RINGS = frozenset({T.BPF_MAP_TYPE_RINGBUF, T.BPF_MAP_TYPE_USER_RINGBUF})
#: Maps of maps.
OUTER = frozenset({T.BPF_MAP_TYPE_ARRAY_OF_MAPS, T.BPF_MAP_TYPE_HASH_OF_MAPS})
#: The kernel has no BTF check for these and refuses type ids.
NO_BTF = frozenset(
    {
        T.BPF_MAP_TYPE_PERF_EVENT_ARRAY,
        T.BPF_MAP_TYPE_CGROUP_ARRAY,
        T.BPF_MAP_TYPE_STACK_TRACE,
        T.BPF_MAP_TYPE_ARRAY_OF_MAPS,
        T.BPF_MAP_TYPE_HASH_OF_MAPS,
        T.BPF_MAP_TYPE_DEVMAP,
        T.BPF_MAP_TYPE_DEVMAP_HASH,
        T.BPF_MAP_TYPE_CPUMAP,
        T.BPF_MAP_TYPE_XSKMAP,
        T.BPF_MAP_TYPE_SOCKMAP,
        T.BPF_MAP_TYPE_SOCKHASH,
        T.BPF_MAP_TYPE_QUEUE,
        T.BPF_MAP_TYPE_STACK,
        T.BPF_MAP_TYPE_RINGBUF,
        T.BPF_MAP_TYPE_USER_RINGBUF,
    }
)
#: Every index exists from the start and none can be deleted.
FULL_ARRAYS = frozenset({T.BPF_MAP_TYPE_ARRAY, T.BPF_MAP_TYPE_PERCPU_ARRAY})
#: No keys: push, pop, peek.
KEYLESS = frozenset({T.BPF_MAP_TYPE_QUEUE, T.BPF_MAP_TYPE_STACK, T.BPF_MAP_TYPE_BLOOM_FILTER})
#: Maps without keys: nothing can be looked up or walked.
NO_KEYS = KEYLESS | RINGS | {T.BPF_MAP_TYPE_ARENA}
#: Hashes that forget the entries that were used longest ago.
LRUS = frozenset({T.BPF_MAP_TYPE_LRU_HASH, T.BPF_MAP_TYPE_LRU_PERCPU_HASH})
#: Flags that the kernel adds to those it is given (kernel/bpf/devmap.c, dev_map_init_map).
ADDED_FLAGS = {
    T.BPF_MAP_TYPE_DEVMAP: MapFlag.BPF_F_RDONLY_PROG,
    T.BPF_MAP_TYPE_DEVMAP_HASH: MapFlag.BPF_F_RDONLY_PROG,
}
