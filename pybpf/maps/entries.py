"""Map entries as a mapping: every operation on the contents of an existing map."""

from __future__ import annotations

import errno
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    ValuesView,
)
from itertools import chain
from typing import Any

from .._sys.element import Batch, last_errno
from .._uapi.enums import ElemFlag, MapType
from ..errors import BpfError, StateError
from ..obj.maptypes import FULL_ARRAYS, KEYLESS, NO_KEYS
from .calls import MISSING, NO_SUCH_COMMAND
from .fields import Buffer
from .walk import BATCH_BYTES, Walk

__all__ = ["Entries", "Items", "Keys", "Values"]

_END: Any = object()
_ORDERED = frozenset({MapType.BPF_MAP_TYPE_QUEUE, MapType.BPF_MAP_TYPE_STACK})
# Maps for which there is no `in`.
_NEVER_IN = NO_KEYS - {MapType.BPF_MAP_TYPE_BLOOM_FILTER}


class Entries(Walk, MutableMapping[Any, Any]):
    """Access the entries of one map as a mutable mapping.

    Unlike a dict it is always true, equal only to itself, and hashable. It is
    a handle to shared data that BPF programs may change at any time.
    """

    # -- one entry -----------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        # `_fill_key` and `_run` written out here: this is the hottest path of all.
        pool = self._pool
        try:
            element = pool.pop()
        except IndexError:
            element = self._new_element()
        try:
            convert = self._convert_key
            try:
                element.typed_key[self._key_at] = key if convert is None else convert(key)
            except Exception:
                element.key[:] = self._key.encode(key)
            if element.lookup() < 0:
                code = last_errno()
                if code == errno.ENOENT:
                    raise KeyError(key)
                raise self._error("lookup", code)
            return self._decode(element.typed_value)
        finally:
            pool.append(element)

    def __setitem__(self, key: Any, value: Any) -> None:
        pool = self._pool
        try:
            element = pool.pop()
        except IndexError:
            element = self._new_element()
        try:
            convert = self._convert_key
            convert_value = self._convert_value
            try:
                element.typed_key[self._key_at] = key if convert is None else convert(key)
                element.typed_value[self._value_at] = (
                    value if convert_value is None else convert_value(value)
                )
            except Exception:
                element.key[:] = self._key.encode(key)
                element.value[:] = self._value.encode(value)
            if element.update() < 0:
                raise self._error("update", last_errno())
        finally:
            pool.append(element)

    def __delitem__(self, key: Any) -> None:
        if self._run("delete", "delete", key) == errno.ENOENT:
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        try:
            if self._kind == MapType.BPF_MAP_TYPE_BLOOM_FILTER:
                return self._run("lookup", "lookup", value=key) == 0
            return self._run("lookup", "lookup", key) == 0
        except StateError:
            raise
        except (TypeError, ValueError):
            if self._kind in _NEVER_IN:
                raise
            return False  # such a value cannot be a key of this map

    def lookup(self, key: Any, default: Any = None, *, flags: int = 0) -> Any:
        """Return the value at `key`, or `default`.

        :param flags: such as ``BPF_F_LOCK``
        """
        out: list[Any] = []
        self._run("lookup", "lookup", key, flags=flags, result=self._decoded(out))
        return out[0] if out else default

    def put(self, key: Any, value: Any, *, flags: int = ElemFlag.BPF_ANY) -> None:
        """Write an entry.

        :param flags: ``BPF_ANY`` 0, ``BPF_NOEXIST`` 1 (create only), ``BPF_EXIST`` 2 (replace
            only), ``BPF_F_LOCK`` 4
        :raises KeyError: with ``BPF_EXIST`` if the entry does not exist
        :raises BpfError: EEXIST with ``BPF_NOEXIST`` if there is such an entry
        """
        if self._run("update", "update", key, value, flags) == errno.ENOENT:
            raise KeyError(key)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the value at `key`. If there is none, first write `default`. Atomic."""
        try:
            self.put(key, default, flags=ElemFlag.BPF_NOEXIST)
        except BpfError as err:
            if err.errno != errno.EEXIST:
                raise
        return self[key]

    def pop(self, key: Any = MISSING, default: Any = MISSING) -> Any:
        """Remove an entry from the map and return its value.

        This is atomic if the kernel has lookup-and-delete for the map (hashes since
        5.14), otherwise a lookup and a deletion. Queues and stacks have no key.

        :raises KeyError: the entry does not exist, and no `default`
        :raises IndexError: the queue or stack is empty, and there is no `default`
        :raises TypeError: a key is missing, or given although the map has none
        """
        out: list[Any] = []
        take = self._decoded(out)
        if self._kind in KEYLESS:
            if key is not MISSING:
                self.fileno()  # that it is closed comes first
                from .hints import without_keys  # only for errors

                raise TypeError(f"key {key!r}: {without_keys(self._kind)}")
            self._run("lookup_and_delete", "pop", result=take)
            if not out and default is MISSING:
                raise IndexError(f"map {self._name!r} is empty")
            return out[0] if out else default
        if key is MISSING:
            raise TypeError("pop() needs a key, except for queues and stacks")
        try:
            self._run("lookup_and_delete", "pop", key, result=take)
        except BpfError as err:
            if err.errno not in NO_SUCH_COMMAND:
                raise
            self._run("lookup", "pop", key, result=take)
            if out:
                self._run("delete", "delete", key)
        if not out and default is MISSING:
            raise KeyError(key)
        return out[0] if out else default

    def push(self, value: Any, *, flags: int = 0) -> None:
        """Add to a queue, stack or bloom filter.

        :param flags: ``BPF_EXIST`` drops the oldest value of a full queue or stack
        :raises TypeError: the map has keys
        """
        self._need("push", KEYLESS, "queues, stacks and bloom filters")
        self._run("update", "push", value=value, flags=flags)

    def peek(self) -> Any:
        """Return what `pop` of a queue or stack would return.

        :raises IndexError: if it is empty
        :raises TypeError: the map is not a queue or stack
        """
        self._need("peek", _ORDERED, "queues and stacks")
        out: list[Any] = []
        self._run("lookup", "peek", result=self._decoded(out))
        if not out:
            raise IndexError(f"map {self._name!r} is empty")
        return out[0]

    def _need(self, method: str, kinds: frozenset[int], what: str) -> None:
        if self._kind not in kinds:
            raise TypeError(f"map {self._name!r}: {method}() is only for {what}")

    def __iter__(self) -> Iterator[Any]:
        if self._kind in FULL_ARRAYS:
            self.fileno()
            return chain.from_iterable([self._key.decode_all(self._index_bytes())])
        return chain.from_iterable(self._key.decode_all(keys) for keys, _, _ in self.batches())

    def _index_bytes(self) -> memoryview:
        from array import array

        return memoryview(array("I", range(self._entries))).cast("B")

    def __len__(self) -> int:
        """Count the entries. For anything but an array this walks the map."""
        if self._kind in FULL_ARRAYS:
            self.fileno()
            return self._entries
        return sum(count for _, _, count in self.batches())

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def keys(self) -> Keys:
        """Return the keys, as a view."""
        return Keys(self)

    def values(self, batch: int | None = None) -> Values:
        """Return the values, as a view.

        :param batch: entries per system call; None picks a size
        """
        return Values(self, lambda: self._decoded_values(batch))

    def items(self, batch: int | None = None) -> Items:
        """Return keys and values, as a view.

        :param batch: entries per system call; None picks a size
        """
        return Items(self, lambda: self._pairs(batch))

    def to_dict(self, batch: int | None = None) -> dict[Any, Any]:
        """Read all entries with as few system calls as possible.

        :param batch: entries per system call; None picks a size
        """
        out: dict[Any, Any] = {}
        for keys, values, _ in self.batches(batch):
            out.update(zip(self._key.decode_all(keys), self._value.decode_all(values), strict=True))
        return out

    # -- many entries --------------------------------------------------------

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Write many entries with as few system calls as possible.

        :param other: a mapping or pairs of key and value
        :raises BpfError: an entry was refused; the entries before it are written
        """
        if isinstance(other, Mapping) and not isinstance(other, Entries):
            keys, values = list(other), list(other.values())
        else:
            pairs = list(other.items() if isinstance(other, Entries) else other)
            keys, values = [key for key, _ in pairs], [value for _, value in pairs]
        keys += more
        values += more.values()
        size = max(64, BATCH_BYTES // max(1, self._key.size + self._value.size))
        for at in range(0, len(keys), size):
            self._write(keys[at : at + size], values[at : at + size])

    def _write(self, keys: list[Any], values: list[Any]) -> None:
        done = 0
        if len(keys) > 1:
            packed = self._key.encode_all(keys), self._value.encode_all(values)
            done, code = self._write_packed(*packed, len(keys))
            if not code:
                return
            if code not in NO_SUCH_COMMAND:
                at = repr(keys[done]) if done < len(keys) else "entries"
                raise self._error(f"update of {at}", code)
        for key, value in zip(keys[done:], values[done:], strict=True):
            self[key] = value

    def update_packed(self, keys: Buffer, values: Buffer) -> None:
        """Write entries that are packed as `batches` yields them, with one system call.

        :raises ValueError: the sizes do not fit the map or each other
        :raises BpfError: an entry was refused (the entries before it are written), or the map
            has no batch commands
        """
        count = len(keys) // (self._key.size or 1)
        if len(keys) != count * self._key.size or len(values) != count * self._value.size:
            raise ValueError(
                f"{len(keys)} bytes of keys and {len(values)} of values given, "
                f"but an entry takes {self._key.size} and {self._value.size}"
            )
        if count:
            _, code = self._write_packed(keys, values, count)
            if code:
                raise self._error("batch update", code)

    def _write_packed(self, keys: Buffer, values: Buffer, count: int) -> tuple[int, int]:
        # Returns how many were written, and the errno that stopped it or 0.
        calls = Batch(self.fileno(), self._key.size, self._value.size, count)
        calls.keys[: len(keys)] = keys
        calls.values[: len(values)] = values
        calls.count = count
        if calls.update() >= 0:
            return count, 0
        # Only a kernel that knows the command and reached the entries writes `count`.
        return calls.count % count, last_errno()

    def delete(self, keys: Iterable[Any], *, missing_ok: bool = False) -> int:
        """Delete many entries with as few system calls as possible.

        :param missing_ok: skip keys that do not exist
        :returns: how many were deleted
        :raises KeyError: a key does not exist; the keys before it are deleted
        """
        rest = list(keys)
        deleted = 0
        while rest:
            done, code = self._delete_some(rest)
            deleted += done
            rest = rest[done:]
            if code == errno.ENOENT:
                if not missing_ok:
                    raise KeyError(rest[0])
                rest = rest[1:]
            elif code:
                raise self._error("delete", code)
        return deleted

    def _delete_some(self, keys: list[Any]) -> tuple[int, int]:
        # Returns how many were deleted, and the errno that stopped it or 0.
        if len(keys) > 1:
            calls = Batch(self.fileno(), self._key.size, 0, len(keys))
            calls.keys[: len(keys) * self._key.size] = self._key.encode_all(keys)
            calls.count = len(keys)
            if calls.delete() >= 0:
                return len(keys), 0
            code = last_errno()
            if calls.count % len(keys):
                # EINVAL may also be about the next key: it is tried alone then.
                return calls.count, 0 if code in NO_SUCH_COMMAND else code
            if code not in NO_SUCH_COMMAND:
                return 0, code
        return (0, errno.ENOENT) if self._run("delete", "delete", keys[0]) else (1, 0)

    def drain(self, batch: int | None = None) -> Iterator[tuple[Any, Any]]:
        """Remove entries from the map while iterating over them.

        :param batch: entries per system call; None picks a size

        If the iteration ends early, entries that were removed but not yet yielded are lost.
        """
        return self._pairs(batch, delete=True)

    def clear(self) -> None:
        """Delete every entry.

        :raises BpfError: EINVAL for arrays, whose entries cannot be deleted
        """
        if self._kind in KEYLESS:
            while self.pop(default=_END) is not _END:
                pass
            return
        for _ in self.batches(delete=True):
            pass


class Keys(KeysView[Any]):
    """View the keys of a map."""

    _mapping: Entries


class Items(ItemsView[Any, Any]):
    """View the keys and values of a map, read in batches.

    :param walk: starts a walk over the pairs
    """

    def __init__(self, entries: Entries, walk: Callable[[], Iterator[tuple[Any, Any]]]) -> None:
        super().__init__(entries)
        self._walk = walk

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._walk()


class Values(ValuesView[Any]):
    """View the values of a map, read in batches.

    :param walk: starts a walk over the values
    """

    def __init__(self, entries: Entries, walk: Callable[[], Iterator[Any]]) -> None:
        super().__init__(entries)
        self._walk = walk

    def __iter__(self) -> Iterator[Any]:
        return self._walk()
