"""Send records to BPF programs through a user ring buffer (``BPF_MAP_TYPE_USER_RINGBUF``, 6.1).

Theory of operation. The roles of a ring buffer are exchanged: we reserve records and move the
producer position, and a program takes them with ``bpf_user_ringbuf_drain``, which moves the
consumer position. The kernel lets us write the producer page and the data, but not the consumer
page. A reserved record is marked busy, and the program stops at it. Submitting or discarding it
removes the mark. Records are taken in the order of their reservation.

Memory order is as in `reader`: the header is written before the producer position, and the
payload before the mark is removed.
"""

from __future__ import annotations

import errno
import struct
import time
from contextlib import suppress
from typing import Any

from .._uapi.enums import MapType
from ..errors import BpfError, StateError
from ..wording import many
from .kinds import RingMap, btf_codec, check_map
from .mapped import MappedRing
from .reader import make_fence
from .records import BUSY, DISCARD, HEADER_SIZE, stride_of
from .waiting import NAP_MAX, NAP_MIN

__all__ = ["Reservation", "UserRingBuffer"]


class Reservation:
    """Own a reserved record. Fill `data`, then `submit` or `discard` it.

    As a context manager it submits at the end of the block. An exception discards it.
    """

    __slots__ = ("_at", "_ring", "data")

    def __init__(self, ring: UserRingBuffer, at: int, data: memoryview) -> None:
        self._ring = ring
        self._at = at
        #: The payload in the ring; its former contents are not cleared.
        self.data = data

    def submit(self) -> None:
        """Give the record to the program.

        :raises StateError: if it was submitted or discarded already, or the ring is closed
        """
        self._finish(0)

    def discard(self) -> None:
        """Give the record up. The program never sees it.

        :raises StateError: as `submit`
        """
        self._finish(DISCARD)

    def _finish(self, flags: int) -> None:
        if self._at < 0:
            raise StateError("the record", "it was submitted or discarded already")
        length = len(self.data)
        at, self._at = self._at, -1
        try:
            self._ring.finish(at, length | flags)
        finally:
            # ctypes or NumPy may still hold it. That must not stop the program at this record.
            with suppress(BufferError):
                self.data.release()

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._at >= 0:
            self._finish(0 if kind is None else DISCARD)


class UserRingBuffer(MappedRing):
    """Write one user ring buffer map.

    :param ring: a created map of type ``BPF_MAP_TYPE_USER_RINGBUF``
    :param type: type of the records that `write` takes: None for bytes, a `struct.Struct` for
        tuples, or a BTF type name (``"struct event"``) or id from the map's object
    :raises BpfError: if the map is of another type or cannot be mapped

    Use one writer per ring, and only one thread at a time.
    """

    def __init__(self, ring: RingMap, type: object = None) -> None:
        check_map(ring, MapType.BPF_MAP_TYPE_USER_RINGBUF)
        self._type = self._encoder(type, ring)
        self._fence = make_fence()
        super().__init__(ring, "user ring buffer", produces=True)

    @staticmethod
    def _encoder(kind: object, ring: RingMap) -> Any:
        if kind is None or isinstance(kind, struct.Struct):
            return kind
        if not isinstance(kind, (str, int)):
            raise TypeError(f"not a record type: {kind!r}")
        btf = getattr(ring, "btf", None)
        if btf is None:
            raise ValueError(f"map {ring.name!r} has no BTF, so type {kind!r} is not known")
        return btf_codec(btf, kind)

    def close(self) -> None:
        """Unmap the ring. The map itself stays. Closing again does nothing.

        Records that are still reserved stop the program for good.
        """
        super().close()

    def fileno(self) -> int:
        """Return a descriptor that is writable (poll, select, asyncio) if there is room."""
        return self._fd.fileno()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.available} of {self.size} bytes not taken"
        return f"<UserRingBuffer {self.name!r}: {state}>"

    @property
    def available(self) -> int:
        """Return the bytes reserved and not yet taken, including headers and padding."""
        self._check_open()
        return self._producer[0] - self._consumer[0]

    def reserve(self, size: int, timeout: float | None = 0) -> Reservation:
        """Reserve a record.

        :param size: bytes of the payload
        :param timeout: seconds to wait for room; 0 does not wait, None waits forever
        :raises ValueError: if `size` is not positive
        :raises StateError: if the ring is closed
        :raises BpfError: E2BIG if the record is larger than the ring, ENOSPC if there is no room
        """
        self._check_open()
        if size <= 0:
            raise ValueError(f"a record of {many(size, 'byte')}: give a size above 0")
        total = stride_of(size)
        if total > self.size:
            hint = f"set maps[{self.name!r}].max_entries before loading"
            what = f"a record of {many(size, 'byte')} in user ring buffer {self.name!r}"
            raise BpfError(errno.E2BIG, what, hint)
        deadline = None if timeout is None else time.monotonic() + timeout
        nap = NAP_MIN
        while self.size - self.available < total:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                what = f"reserving {many(size, 'byte')} in user ring buffer {self.name!r}"
                raise BpfError(errno.ENOSPC, what, "no program has drained it")
            # A program that drains with BPF_RB_NO_WAKEUP wakes nobody, and poll() also calls a
            # ring writable that has less room than this record needs. So nap instead.
            time.sleep(nap if left is None else min(nap, left))
            nap = min(nap * 2, NAP_MAX)
        position = self._producer[0]
        at = position & (self.size - 1)
        self._words[at >> 2] = size | BUSY
        self._words[(at >> 2) + 1] = 0
        if self._fence:
            self._fence()
        self._producer[0] = position + total
        first = at + HEADER_SIZE
        return Reservation(self, at, self._data[first : first + size])

    def finish(self, at: int, header: int) -> None:
        """Write the header of a finished record. `Reservation` calls it."""
        self._check_open()
        if self._fence:
            self._fence()
        self._words[at >> 2] = header

    def write(self, value: Any, timeout: float | None = 0) -> None:
        """Send one record, of the writer's type.

        :param timeout: as in `reserve`
        :raises TypeError: if the value does not fit the type
        :raises ValueError: the same; or as `reserve`
        :raises BpfError: as `reserve`, with `StateError`
        """
        if self._type is None:
            data = value
        elif isinstance(self._type, struct.Struct):
            data = self._type.pack(*value)
        else:
            data = self._type.encode(value)
        view = memoryview(data).cast("B")
        with self.reserve(len(view), timeout) as record:
            record.data[:] = view
