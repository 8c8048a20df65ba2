"""Walk a map: in batches if the kernel has them, otherwise key by key.

Theory of operation. The batch commands take some 250 ns per entry. A pair of get_next_key
and lookup takes 4000. Whether a map has batches is found by trying: ENOTSUPP (524), or EINVAL
from kernels before 5.6, means that the walk goes key by key. The errors of that walk are
then the answer.

The calls have the number of the map's descriptor in them. So a walk asks for it before each
call: the map may have been closed meanwhile, and the number given to another file.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from .._sys.element import Batch, last_errno
from .._uapi.enums import MapType
from ..errors import BpfError
from ..obj.maptypes import NO_KEYS
from .calls import NO_SUCH_COMMAND, Calls

__all__ = ["BATCH_BYTES", "Walk"]

#: Bytes of keys and values in one call, unless the caller says otherwise.
BATCH_BYTES = 4 << 20


class Walk(Calls):
    """Read whole maps."""

    def _keys_one_by_one(self) -> Iterator[bytes]:
        # The next key is read before one is yielded, so the yielded key may be deleted meanwhile.
        element = self._new_element()
        if element.first() < 0:
            if (code := last_errno()) != errno.ENOENT:
                raise self._error("first key", code)
            return
        left = 2 * self._entries + 16
        while True:
            key = bytes(element.next_key)
            element.key[:] = key
            end = element.next() < 0
            code = last_errno() if end else 0
            yield key
            self.fileno()
            if end:
                if code != errno.ENOENT:
                    raise self._error("next key", code)
                return
            left -= 1
            if not left:
                # A hash starts again at the first key when the current one is gone.
                raise BpfError(
                    errno.EAGAIN, f"map {self._name!r}: walk", "keys go away faster than we walk"
                )

    def _items_one_by_one(self) -> Iterator[tuple[bytes, memoryview]]:
        element = self._new_element()
        for key in self._keys_one_by_one():
            element.key[:] = key
            if element.lookup() < 0:
                if (code := last_errno()) == errno.ENOENT:
                    continue  # deleted meanwhile, or an empty slot
                raise self._error("lookup", code)
            yield key, element.value

    def _chunk_size(self, batch: int | None) -> int:
        if batch is None:
            batch = max(64, BATCH_BYTES // max(1, self._key.size + self._value.size))
        if batch < 1:
            raise ValueError("a batch holds at least one entry")
        return max(1, min(batch, self._entries))  # there is memory for as many

    def batches(
        self, batch: int | None = None, *, delete: bool = False
    ) -> Iterator[tuple[memoryview, memoryview, int]]:
        """Yield keys and values as the kernel copies them, many at a time.

        :param batch: entries per call; None picks a size
        :param delete: remove what is returned from the map
        :returns: packed keys, packed values (per-CPU values padded to 8 bytes, for all possible
            CPUs), number of entries. The views are valid until the next ones are requested.
        :raises StateError: the map is closed, also between two batches
        :raises BpfError: EOPNOTSUPP for a map without keys; or the kernel's refusal
        """
        number = self.fileno()
        if self._kind in NO_KEYS:
            from .hints import without_keys  # only for errors

            what = f"map {self._name!r}: reading its entries"
            raise BpfError(errno.EOPNOTSUPP, what, without_keys(self._kind))
        size = self._chunk_size(batch)
        if self._kind == MapType.BPF_MAP_TYPE_ARRAY_OF_MAPS:
            # Batch lookup of such a map stops at the first empty slot.
            yield from self._singles(size, delete)
            return
        calls = Batch(number, self._key.size, self._value.size, size)
        started = False
        retries = 100
        while True:
            self.fileno()
            calls.count = size
            failed = (calls.lookup_and_delete() if delete else calls.lookup()) < 0
            code = last_errno() if failed else 0
            if failed and code == errno.ENOSPC and size <= 2 * self._entries:
                # One hash bucket holds more than the buffers.
                size *= 2
                bigger = Batch(self.fileno(), self._key.size, self._value.size, size)
                bigger.resume(calls)
                calls = bigger
                continue
            if failed and not started and code in NO_SUCH_COMMAND:
                yield from self._singles(size, delete)
                return
            # ENOENT is the end. EINTR: changes of the map cut the batch short, and the walk
            # continues.
            if failed and code not in (errno.ENOENT, errno.EINTR):
                raise self._error("batch lookup", code)
            started = True
            count = calls.count
            if code == errno.EINTR and not count:
                retries -= 1
                if not retries:
                    raise self._error("batch lookup", code)
                continue
            if count:
                yield (
                    calls.keys[: count * self._key.size],
                    calls.values[: count * self._value.size],
                    count,
                )
            if code == errno.ENOENT or not count:
                return
            calls.advance()

    def _singles(self, size: int, delete: bool) -> Iterator[tuple[memoryview, memoryview, int]]:
        # Yields what `batches` yields, one key at a time.
        walk = self._items_one_by_one()
        while rows := [(key, bytes(value)) for key, value in islice(walk, size)]:
            if delete:
                for key, _ in rows:
                    self._run("delete", "delete", key)
            yield (
                memoryview(b"".join(key for key, _ in rows)),
                memoryview(b"".join(value for _, value in rows)),
                len(rows),
            )

    def _pairs(self, batch: int | None, delete: bool = False) -> Iterator[tuple[Any, Any]]:
        decode_keys, decode_values = self._key.decode_all, self._value.decode_all
        # Decoding may be lazy. A batch is used up before the next one overwrites it.
        return chain.from_iterable(
            zip(decode_keys(keys), decode_values(values), strict=True)
            for keys, values, _ in self.batches(batch, delete=delete)
        )

    def _decoded_values(self, batch: int | None) -> Iterator[Any]:
        decode = self._value.decode_all
        return chain.from_iterable(list(decode(values)) for _, values, _ in self.batches(batch))
