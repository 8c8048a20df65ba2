"""Map element commands with everything prepared: the fast path of map access.

Theory of operation. One BPF_MAP_LOOKUP_ELEM takes the kernel about a
microsecond. Building an attr, buffers and ctypes arguments for each call would
take Python several. So an `Element` owns a key buffer, a value buffer and one
``union bpf_attr`` that points at both, and `door.prepare` makes each command once.
A user stores the key, calls the command and loads the value. `Batch` does the
same for the batch commands.

The bytes of fd and count share an 8-byte word here, so this works only on little-endian
machines, like the rest of `pybpf._sys`.

Two threads must not use the same object at once, because ctypes gives up the GIL during the
call. `pybpf.maps` keeps a pool and gives each user its own.

The calls return the system call's result. After -1 the errno is `last_errno()`.
"""

from __future__ import annotations

import ctypes

from .._uapi.enums import Cmd
from . import door
from .door import last_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .door import Call

__all__ = ["Batch", "Element", "last_errno"]

# bpf_attr of the element commands: __u32 map_fd, __u64 key, __u64 value or next_key,
# __u64 flags. As 8-byte words:
_FD, _KEY, _VALUE, _FLAGS = range(4)
_ELEM_WORDS = 4

# bpf_attr.batch: __u64 in_batch, out_batch, keys, values; __u32 count, map_fd;
# __u64 elem_flags, flags. As 8-byte words:
_IN, _OUT, _KEYS, _VALUES, _COUNT_FD, _ELEM_FLAGS, _BATCH_FLAGS = range(7)
_BATCH_WORDS = 7


class Element:
    """Hold buffers and prepared commands for single entries of one map.

    :param fd: descriptor of the map
    :param key_size: bytes, 0 for maps without keys
    :param value_size: bytes of the buffer the kernel reads and writes; for per-CPU
        maps these are the padded values of all possible CPUs
    """

    __slots__ = (
        "_attr",
        "_key_memory",
        "_next_attr",
        "_next_memory",
        "_value_memory",
        "delete",
        "key",
        "lookup",
        "lookup_and_delete",
        "next",
        "next_key",
        "typed_key",
        "typed_value",
        "update",
        "value",
    )

    def __init__(self, fd: int, key_size: int, value_size: int) -> None:
        self._key_memory = bytearray(max(key_size, 1))
        self._next_memory = bytearray(max(key_size, 1))
        self._value_memory = bytearray(max(value_size, 1))
        #: The key of the next command.
        self.key = memoryview(self._key_memory)[:key_size]
        #: The key that `next` found.
        self.next_key = memoryview(self._next_memory)[:key_size]
        #: The value of a command: read from here or written to here.
        self.value = memoryview(self._value_memory)[:value_size]
        key = _address(self._key_memory) if key_size else 0
        #: `key` and `value` in the form that their user works with. The user sets them.
        self.typed_key: memoryview = self.key
        self.typed_value: memoryview = self.value
        words = ctypes.c_uint64 * _ELEM_WORDS
        self._attr = words(fd, key, _address(self._value_memory), 0)
        self._next_attr = words(fd, key, _address(self._next_memory), 0)
        self.lookup = door.prepare(Cmd.BPF_MAP_LOOKUP_ELEM, self._attr)
        self.update = door.prepare(Cmd.BPF_MAP_UPDATE_ELEM, self._attr)
        # EINVAL if it had a value.
        self.delete = door.prepare(Cmd.BPF_MAP_DELETE_ELEM, self._attr, 8 * _VALUE)
        self.lookup_and_delete = door.prepare(Cmd.BPF_MAP_LOOKUP_AND_DELETE_ELEM, self._attr)
        self.next = door.prepare(Cmd.BPF_MAP_GET_NEXT_KEY, self._next_attr)

    def with_flags(self, call: Call, flags: int) -> int:
        """Run one of the commands with ``BPF_ANY``, ``BPF_F_LOCK``... flags."""
        self._attr[_FLAGS] = flags
        try:
            return call()
        finally:
            self._attr[_FLAGS] = 0

    def first(self) -> int:
        """Find the first key of the map, like `next`."""
        key, self._next_attr[_KEY] = self._next_attr[_KEY], 0
        try:
            return self.next()
        finally:
            self._next_attr[_KEY] = key


class Batch:
    """Hold buffers and prepared commands for many entries at once.

    :param count: number of entries the buffers hold
    :param cursor_size: bytes of the kernel's opaque position: 4 for hashes and
        arrays, the key size for the generic implementation
    """

    __slots__ = (
        "_attr",
        "_cursors",
        "_fd",
        "_keys_memory",
        "_values_memory",
        "capacity",
        "delete",
        "keys",
        "lookup",
        "lookup_and_delete",
        "update",
        "values",
    )

    def __init__(self, fd: int, key_size: int, value_size: int, count: int) -> None:
        self._fd = fd
        #: Number of entries that the buffers hold.
        self.capacity = count
        self._keys_memory = bytearray(max(key_size * count, 1))
        self._values_memory = bytearray(max(value_size * count, 1))
        cursor = bytes(max(key_size, 8))
        self._cursors = (bytearray(cursor), bytearray(cursor))
        self.keys = memoryview(self._keys_memory)
        self.values = memoryview(self._values_memory)
        self._attr = (ctypes.c_uint64 * _BATCH_WORDS)(
            0,
            _address(self._cursors[0]),
            _address(self._keys_memory),
            _address(self._values_memory),
        )
        self.count = count
        self.lookup = door.prepare(Cmd.BPF_MAP_LOOKUP_BATCH, self._attr)
        self.lookup_and_delete = door.prepare(Cmd.BPF_MAP_LOOKUP_AND_DELETE_BATCH, self._attr)
        self.update = door.prepare(Cmd.BPF_MAP_UPDATE_BATCH, self._attr)
        self.delete = door.prepare(Cmd.BPF_MAP_DELETE_BATCH, self._attr)

    @property
    def count(self) -> int:
        """Return the number of entries: requested before a call, done after it."""
        return self._attr[_COUNT_FD] & 0xFFFFFFFF

    @count.setter
    def count(self, count: int) -> None:
        self._attr[_COUNT_FD] = self._fd << 32 | count

    @property
    def flags(self) -> int:
        """Return the flags for each element, such as ``BPF_F_LOCK``."""
        return self._attr[_ELEM_FLAGS]

    @flags.setter
    def flags(self, flags: int) -> None:
        self._attr[_ELEM_FLAGS] = flags

    def advance(self) -> None:
        """Let the next lookup continue where this one ended."""
        done = self._attr[_OUT]
        other = self._attr[_IN] or _address(self._cursors[1])
        self._attr[_IN], self._attr[_OUT] = done, other

    def resume(self, other: Batch) -> None:
        """Continue where `other` is, to use bigger buffers in the middle of a walk."""
        if other._attr[_IN]:
            at = 0 if other._attr[_IN] == _address(other._cursors[0]) else 1
            self._cursors[1][:] = other._cursors[at]
            self._attr[_IN] = _address(self._cursors[1])


def _address(memory: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
