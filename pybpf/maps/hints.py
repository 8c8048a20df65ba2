"""Explain why the kernel refuses to create a map, and how to use one without keys.

BPF_MAP_CREATE answers EINVAL, E2BIG or ENOMEM without an explanation. `explain` compares the
arguments with what ``map_alloc_check`` of each type requires (``kernel/bpf/*.c``) and
names the likely culprit. It is used only after a refusal, so it never stops a kernel
that learns to accept more.
"""

from __future__ import annotations

import errno
import mmap

from .._uapi.enums import MapFlag, MapType
from ..obj.maptypes import FD_KEYS, FD_VALUES, INDEXED, KEYLESS, OUTER, PERCPU, RINGS
from ..wording import many

__all__ = ["explain", "without_keys", "wrong_value"]

# The types by their names in enum bpf_map_type, without BPF_MAP_TYPE_.
ARRAY = MapType.BPF_MAP_TYPE_ARRAY
PROG_ARRAY = MapType.BPF_MAP_TYPE_PROG_ARRAY
PERF_EVENT_ARRAY = MapType.BPF_MAP_TYPE_PERF_EVENT_ARRAY
PERCPU_ARRAY = MapType.BPF_MAP_TYPE_PERCPU_ARRAY
STACK_TRACE = MapType.BPF_MAP_TYPE_STACK_TRACE
CGROUP_ARRAY = MapType.BPF_MAP_TYPE_CGROUP_ARRAY
LRU_HASH = MapType.BPF_MAP_TYPE_LRU_HASH
LRU_PERCPU_HASH = MapType.BPF_MAP_TYPE_LRU_PERCPU_HASH
LPM_TRIE = MapType.BPF_MAP_TYPE_LPM_TRIE
ARRAY_OF_MAPS = MapType.BPF_MAP_TYPE_ARRAY_OF_MAPS
CGROUP_STORAGE = MapType.BPF_MAP_TYPE_CGROUP_STORAGE
PERCPU_CGROUP_STORAGE = MapType.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE
QUEUE = MapType.BPF_MAP_TYPE_QUEUE
STACK = MapType.BPF_MAP_TYPE_STACK
RINGBUF = MapType.BPF_MAP_TYPE_RINGBUF
BLOOM_FILTER = MapType.BPF_MAP_TYPE_BLOOM_FILTER
ARENA = MapType.BPF_MAP_TYPE_ARENA
USER_RINGBUF = MapType.BPF_MAP_TYPE_USER_RINGBUF

# Names of types in messages.
_NAMES: dict[int, str] = {
    QUEUE: "queue",
    STACK: "stack",
    BLOOM_FILTER: "bloom filter",
    ARENA: "map of shared memory",
    RINGBUF: "ring buffer",
    USER_RINGBUF: "user ring buffer",
    ARRAY: "an array",
    PROG_ARRAY: "a program array",
    PERF_EVENT_ARRAY: "a perf event array",
    PERCPU_ARRAY: "a per-CPU array",
    STACK_TRACE: "a stack trace map",
    CGROUP_ARRAY: "a cgroup array",
    ARRAY_OF_MAPS: "an array of maps",
}


# How to use a map without keys.
_INSTEAD: dict[int, str] = {
    QUEUE: "use push(), pop() and peek()",
    STACK: "use push(), pop() and peek()",
    BLOOM_FILTER: "use push() and `value in map`",
    RINGBUF: "read it with pybpf.RingBuffer",
    USER_RINGBUF: "write to it with pybpf.UserRingBuffer",
    ARENA: "use memory(), or the globals of its object",
}


def without_keys(map_type: int) -> str:
    """Say that a map has no keys, and what to use instead.

    :param map_type: one of `pybpf.obj.maptypes.NO_KEYS`
    """
    return f"a {_NAMES[map_type]} has no keys: {_INSTEAD[map_type]}"


def wrong_value(error: int, map_type: int) -> str:
    """Say why a map that holds programs or maps refused one, "" if that is not known.

    :param error: positive errno of BPF_MAP_UPDATE_ELEM
    """
    if map_type not in FD_VALUES:
        return ""
    what = "map" if map_type in OUTER else "program" if map_type == PROG_ARRAY else "object"
    if error == errno.EBADF:
        return f"this process has no such descriptor; give a {what} or its descriptor"
    if error == errno.EINVAL and map_type == PROG_ARRAY:
        return "the value is a program of the type that the programs using this array have"
    if error == errno.EINVAL and map_type in OUTER:
        return "the value is a map of the type, sizes and flags that the inner map has"
    return ""


def explain(
    error: int,
    map_type: int,
    key_size: int,
    value_size: int,
    max_entries: int,
    map_flags: int,
    *,
    inner: bool = False,
) -> str:
    """Return the likely reason for `error`, or "" if nothing looks wrong.

    :param error: positive errno of BPF_MAP_CREATE
    :param inner: an inner map was given
    """
    if error == errno.ENOMEM:
        size = f"{max_entries} entries of {key_size} + {value_size} bytes"
        return f"{size} do not fit in memory: set a smaller max_entries before loading"
    if error not in (errno.EINVAL, errno.E2BIG, errno.EPERM):
        return ""
    for wrong, text in _checks(map_type, key_size, value_size, max_entries, map_flags, inner):
        if wrong:
            return text
    if error == errno.E2BIG:
        return f"{max_entries} entries are too many: set a smaller max_entries before loading"
    return ""


def _checks(
    kind: int, key: int, value: int, entries: int, flags: int, inner: bool
) -> list[tuple[bool, str]]:
    page = mmap.PAGESIZE
    if kind in RINGS:
        name = _NAMES[kind]
        return [
            (entries == 0, f"max_entries of a {name} is its size in bytes and is 0"),
            (bool(key or value), f"a {name} has no keys and values: their sizes must be 0"),
            (
                entries % page != 0 or entries & (entries - 1) != 0,
                f"max_entries {entries} of a {name} is not a power of two times {page} bytes",
            ),
        ]
    if kind in FD_KEYS:
        return [
            (entries != 0, "max_entries of a local storage map must be 0"),
            (not flags & MapFlag.BPF_F_NO_PREALLOC, "a local storage map needs BPF_F_NO_PREALLOC"),
            (key != 4, f"the key of a local storage map is a 4-byte fd, not {many(key, 'byte')}"),
            (value == 0, "value_size is 0"),
            (True, "a local storage map needs BTF types for key and value"),
        ]
    checks: list[tuple[bool, str]] = []
    if kind in (CGROUP_STORAGE, PERCPU_CGROUP_STORAGE):
        checks.append((entries != 0, "max_entries of a cgroup storage map must be 0"))
    else:
        checks.append((entries == 0, "max_entries is 0: set it before loading"))
    if kind in KEYLESS:
        checks.append((key != 0, f"a {_NAMES[kind]} has no keys: key_size must be 0"))
    elif kind in INDEXED:
        checks.append((key != 4, f"the key of {_NAMES[kind]} is 4 bytes, not {key}"))
    elif kind == LPM_TRIE:
        checks += [
            (not 5 <= key <= 260, f"the key of an LPM trie takes 5 to 260 bytes, not {key}"),
            (not flags & MapFlag.BPF_F_NO_PREALLOC, "an LPM trie needs BPF_F_NO_PREALLOC"),
        ]
    else:
        checks.append((key == 0, "key_size is 0"))
    checks.append((value == 0, "value_size is 0"))
    if kind in FD_VALUES:
        checks.append((value != 4, f"the value is a 4-byte fd, not {many(value, 'byte')}"))
    if kind == STACK_TRACE:
        entry = 32 if flags & MapFlag.BPF_F_STACK_BUILD_ID else 8
        checks.append((value % entry != 0, f"value_size {value} is not a multiple of {entry}"))
        checks.append((value // entry > 127, f"{value // entry} frames: see perf_event_max_stack"))
    if kind in PERCPU:
        checks.append(
            (value > 32768, f"a per-CPU value of {value} bytes is over the limit of 32768")
        )
    if kind in (LRU_HASH, LRU_PERCPU_HASH):
        checks.append(
            (bool(flags & MapFlag.BPF_F_NO_PREALLOC), "an LRU map refuses BPF_F_NO_PREALLOC")
        )
    elif flags & MapFlag.BPF_F_NO_COMMON_LRU:
        checks.append((True, "BPF_F_NO_COMMON_LRU is for LRU maps"))
    if kind in OUTER:
        checks.append((not inner, "a map of maps needs an inner map as a pattern"))
    if kind != ARRAY and flags & MapFlag.BPF_F_INNER_MAP:
        checks.append((True, "BPF_F_INNER_MAP is for arrays"))
    if kind != ARRAY and flags & MapFlag.BPF_F_MMAPABLE:
        checks.append((True, "BPF_F_MMAPABLE is for plain arrays"))
    if kind == ARRAY and flags & MapFlag.BPF_F_NO_PREALLOC:
        checks.append((True, "an array refuses BPF_F_NO_PREALLOC"))
    checks.append((key > 512, f"a key of {key} bytes is longer than the BPF stack"))
    return checks
