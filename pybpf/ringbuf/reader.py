"""The ring buffer consumer: two mappings, two positions, one poll().

Theory of operation. The kernel shares three things with us: the consumer page
(we write there how far we have read), the producer page (how far records were
reserved) and the data pages, which are mapped twice in a row so that a record that
wraps is still in one piece. A read takes a snapshot of the producer position,
finds the complete records between the two positions (`records.scan`), decodes
them, and only then stores the new consumer position. That store gives the
memory back to the producers, and every view into it is invalid from then on. So
`read` returns copies, while `consume` and `chunk` return views and say for
how long these are valid.

Memory order. This order must be kept: producer position before headers, headers before
payload, payload before the store of the consumer position. x86-64 keeps loads
in order and never moves a store before an earlier load, and CPython does not
reorder across bytecodes, so plain loads and stores are enough there. Positions
and headers go through `memoryview.cast`, which is one native aligned move.
``struct "<Q"`` works byte by byte and could read a torn value. On other machines `_fence`
takes and releases a lock twice. That orders everything before against
everything after on machines whose lock is release/acquire with the usual
total order. This path was reasoned about, never run.

Waiting. poll() asks the kernel again whether there is unread data, so a record
that arrives between our look and our sleep is never missed. (This is level triggered.
Edge triggered would lose wake-ups, because the kernel signals only a consumer
that has caught up.) A record that is reserved and not yet submitted counts as
readable for poll() but not for us. Then we nap for a growing time, at
most a millisecond, instead of spinning. BPF programs that submit with
``BPF_RB_NO_WAKEUP`` wake nobody, and their records are seen when the timeout ends.

Losses. The kernel does not count failed reservations, so the BPF program must. The
convention is a ``__u64`` global variable (say ``dropped``) that it increments
atomically when ``bpf_ringbuf_reserve`` or ``bpf_ringbuf_output`` fails. Pass it as
``RingBuffer(map, lost=lambda: obj.globals.dropped)`` and read ``.lost``. A ring in overwrite mode
refuses nothing and loses the oldest records: see `pybpf.ringbuf.overwrite`.
"""

from __future__ import annotations

import gc
import math
import os
import select
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Literal

from .._uapi.enums import MapFlag, MapType
from ..wording import many
from .kinds import RingMap, check_map, record_decoder
from .mapped import MappedRing
from .overwrite import Snapshot, available, newest
from .records import (
    HEADER_SIZE,
    Scan,
    record_offset,
    scan,
    stride_of,
    struct_decoder,
)
from .waiting import NAP_MAX, NAP_MIN, Batches

__all__ = ["Chunk", "RingBuffer", "make_fence"]


# Space goes back to the producers after this many records, not after the whole batch.
_SLICE = 1 << 12
# For `batches`: the records of one list stay in the CPU's cache and are mostly not seen by the
# garbage collector. Lists ten times as long take up to twice as long per record.
_BATCH = 512
_NO_LIMIT = 1 << 62


def make_fence() -> Callable[[], None] | None:
    """Make a function that orders memory accesses, None if this machine keeps them in order."""
    if os.uname().machine in ("x86_64", "AMD64", "i686"):
        return None
    lock = threading.Lock()

    def fence() -> None:
        for _ in range(2):
            with lock:
                pass

    return fence


class Chunk:
    """Hold adjacent records of one length, still in the ring: nothing was copied.

    It is valid only inside the ``with`` block of `RingBuffer.chunk`. Afterwards the
    kernel writes new records there.
    """

    __slots__ = ("count", "record_size", "stride", "view")

    def __init__(self, view: memoryview, count: int, record_size: int) -> None:
        #: Headers and payloads, `count` times `stride` bytes, read-only.
        self.view = view
        #: Number of records.
        self.count = count
        #: Payload of each record, bytes.
        self.record_size = record_size
        #: Distance between two records, bytes.
        self.stride = stride_of(record_size)

    def __len__(self) -> int:
        return self.count

    def column(
        self, offset: int, code: Literal["B", "H", "I", "Q", "b", "h", "i", "q"]
    ) -> memoryview:
        """Return one field of every record as a strided view.

        :param offset: offset of the field in the payload, bytes; a multiple of its size
        :param code: native `struct` code of the field

        ``sum(chunk.column(8, "Q").tolist())`` runs at C speed.
        """
        width = struct.calcsize(code)
        if offset % width or not 0 <= offset <= self.record_size - width:
            size = many(self.record_size, "byte")
            raise ValueError(f"no field {code!r} at offset {offset} of {size}")
        return self.view.cast(code)[(offset + HEADER_SIZE) // width :: self.stride // width]

    def rows(self, fields: struct.Struct) -> Iterator[tuple[Any, ...]]:
        """Return the records as tuples. These are copies, made all at once."""
        out: list[Any] = []
        struct_decoder(fields)(self.view, [(0, self.count, self.record_size)], out)
        return iter(out)


class RingBuffer(MappedRing):
    """Read one ring buffer map.

    :param ring: a created map of type ``BPF_MAP_TYPE_RINGBUF``
    :param type: type of a record: None for `bytes`, a `struct.Struct` for
        tuples (the fastest decoded form), a BTF type name (``"struct event"``) or id from
        the map's object, a BTF codec, a `ctypes.Structure`, or a function of a `memoryview`
        (which is invalid when the function returns). clang keeps a type in an object's BTF only
        if a map, a global variable or a function has it: ``const struct event *unused_event;``.
        A record of a BTF or ctypes type may end inside the array at the type's end: the rest is 0.
        A flexible array at the end of a BTF type (``char data[]``) gets what the record has of it
    :param lost: gives the number of records the BPF side could not store
    :ivar overwritten: bytes of records, headers included, that a ring in overwrite mode lost
        before they were read
    :raises BpfError: if the map is not a ring buffer or cannot be mapped

    Use one reader per ring: two would fight for the consumer position. Do not use a reader
    from two threads at once. If decoding record `i` of a batch
    fails, the `i` records before it are returned. The next call raises the exception
    and counts the faulty record as consumed.
    """

    def __init__(
        self,
        ring: RingMap,
        type: object = None,
        *,
        lost: Callable[[], int] | None = None,
    ) -> None:
        check_map(ring, MapType.BPF_MAP_TYPE_RINGBUF)
        self._decode = record_decoder(type, ring)
        self._lost = lost
        self._fence = make_fence()
        super().__init__(ring, "ring buffer", produces=False)
        self._mask = self.size - 1
        self._hint = -1
        self._overwrites = bool(ring.map_flags & MapFlag.BPF_F_RB_OVERWRITE)
        self._copy: Snapshot | None = None
        self.overwritten = 0
        self._poll = select.poll()
        self._poll.register(self._fd.fileno(), select.POLLIN)

    # -- life ---------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[list[Any]]:
        """Iterate over batches without end: ``async for batch in ring``."""
        return self.batches().__aiter__()

    async def __aenter__(self) -> RingBuffer:
        return self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return an fd that is readable (poll, select, asyncio) when there is unread data."""
        return self._fd.fileno()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.available} of {self.size} bytes unread"
        return f"<RingBuffer {self.name!r}: {state}>"

    # -- state --------------------------------------------------------------

    @property
    def consumer_position(self) -> int:
        """Return the bytes ever consumed, including headers and padding."""
        self._check_open()
        return self._consumer[0]

    @property
    def producer_position(self) -> int:
        """Return the bytes ever reserved, including headers and padding."""
        self._check_open()
        return self._producer[0]

    @property
    def available(self) -> int:
        """Return the bytes reserved but not yet consumed, including headers and padding.

        In overwrite mode, those that were overwritten do not count.
        """
        consumed = self.consumer_position
        if self._overwrites:
            return available(self._producer, consumed)
        return self._producer[0] - consumed

    @property
    def lost(self) -> int | None:
        """Return how many records the BPF side could not store, None if nobody counts them."""
        return None if self._lost is None else int(self._lost())

    # -- looking and waiting ------------------------------------------------

    def _look(self, limit: int, *, one_run: bool = False) -> tuple[int, Scan] | None:
        # Returns the complete records now, and the position their offsets are relative to.
        self._check_open()
        position = self._consumer[0]
        if self._overwrites:
            if not self._has_copy(position):
                return None
            position = self._consumer[0]
            assert self._copy is not None
            start, end = position - self._copy.first, self._copy.end - self._copy.first
        else:
            start = position & self._mask
            end = start + self._producer[0] - position
        if start == end:
            return None
        if self._fence:
            self._fence()
        found = scan(self._words, start, end, limit=limit, hint=self._hint, one_run=one_run)
        self._hint = found.header
        if self._fence:
            self._fence()
        base = position - start
        if not found.runs:
            if found.end > start:  # nothing but discarded records
                self._store(base + found.end)
            return None
        return base, found

    def _has_copy(self, position: int) -> bool:
        # Copies what is unread, unless the last copy still has some of it.
        copy = self._copy
        if copy is not None and copy.first <= position < copy.end:
            return True
        copy = self._copy = newest(self._producer, self._ring, position, self._fence)
        if copy is None:
            return False
        self._data, self._words = copy.data, copy.words
        self.overwritten += copy.first - position
        self._store(copy.first)
        return True

    def _store(self, position: int) -> None:
        self._check_open()
        if self._fence:
            self._fence()
        self._consumer[0] = position

    def _waits(self, timeout: float | None) -> Iterator[None]:
        # Yields whenever it is worth looking again, and a last time after the timeout.
        deadline = None if timeout is None else time.monotonic() + timeout
        nap = NAP_MIN
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            if self.available:
                # A busy record, or one that came since the last look.
                time.sleep(nap if left is None else min(nap, left))
                nap = min(nap * 2, NAP_MAX)
            else:
                self._poll.poll(None if left is None else math.ceil(left * 1000))
                nap = NAP_MIN
            yield
        yield

    def _await_look(
        self, timeout: float | None, limit: int, *, one_run: bool = False
    ) -> tuple[int, Scan] | None:
        look = self._look(limit, one_run=one_run)
        if look is None and timeout != 0:
            for _ in self._waits(timeout):
                look = self._look(limit, one_run=one_run)
                if look is not None:
                    break
        return look

    # -- copies -------------------------------------------------------------

    def read(self, timeout: float | None = None, max_records: int | None = None) -> list[Any]:
        """Take all available records. Wait for the first one.

        :param timeout: seconds to wait if the ring is empty; 0 does not wait, None waits forever
        :param max_records: leave the rest in the ring
        :returns: copies, in the order of their reservation; [] after the timeout
        """
        out: list[Any] = []
        wanted = _limit(max_records)
        self._check_open()
        # Records that arrive now are for the next call. A fast producer could keep us forever.
        until = self._producer[0]
        look = self._await_look(timeout, min(_SLICE, wanted))
        if look is None:
            return out
        until = max(until, self._producer[0])
        # Records are not garbage. A collector that walks the growing list again and again
        # makes a long read take up to four times as long.
        collecting = gc.isenabled()
        try:
            while look is not None and self._take(look, out):
                wanted -= look[1].records
                if look[1].busy or wanted <= 0 or look[0] + look[1].end >= until:
                    break
                if collecting:
                    gc.disable()
                look = self._look(min(_SLICE, wanted))
        finally:
            if collecting:
                gc.enable()
        return out

    def _take(self, look: tuple[int, Scan], out: list[Any]) -> bool:
        # Decodes and consumes. Returns False if a record cannot be decoded. That record is then
        # the first of the next call. If it is the first of this call, this raises.
        base, found = look
        before = len(out)
        try:
            self._decode(self._data, found.runs, out)
        except Exception:
            at = base + record_offset(found.runs, len(out) - before)
            if out:
                self._store(at)
                return False
            self._store(at + stride_of(self._words[at - base >> 2]))
            raise
        self._store(base + found.end)
        return True

    def records(self, timeout: float | None = None) -> Iterator[Any]:
        """Yield single records, one after the other.

        :param timeout: stop after this many seconds without a record; None never stops

        A record counts as consumed once it was yielded, even if the loop is left
        by ``break`` or an exception: the next reader continues after it. Its space
        in the ring is given back slice by slice, so prefer `batches` at high rates.
        """
        while True:
            look = self._await_look(timeout, _SLICE)
            if look is None:
                return
            base, found = look
            out: list[Any] = []
            error: Exception | None = None
            try:
                self._decode(self._data, found.runs, out)
            except Exception as err:
                error = err
            values = iter(out)
            behind = found.runs[0][0]
            try:
                for offset, count, length in found.runs:
                    stride = stride_of(length)
                    behind = offset
                    for value in islice(values, count):
                        behind += stride
                        yield value
                    if error is not None and behind < offset + count * stride:
                        behind += stride
                        raise error
                behind = found.end
            finally:
                if not self.closed:  # the caller may drop this iterator later
                    self._store(base + behind)

    def batches(self, timeout: float | None = None, max_records: int = _BATCH) -> Batches:
        """Yield lists of records, at least one per wake-up, for ``for`` and for ``async for``.

        :param timeout: stop after this many seconds without a record; None never stops
        :param max_records: most records per list
        :raises StateError: it is closed, also while a task waits in ``async for``
        """
        return Batches(self, timeout, max_records)

    # -- views --------------------------------------------------------------

    def consume(
        self,
        callback: Callable[[memoryview], object],
        timeout: float | None = 0,
        max_records: int | None = None,
    ) -> int:
        """Call `callback` with a view of each record, copying nothing.

        :param timeout: as in `read`
        :returns: the number of records

        The view is released when `callback` returns. If `callback` raises, the caller gets
        the exception, and the record it was given counts as consumed.
        """
        look = self._await_look(timeout, _limit(max_records))
        if look is None:
            return 0
        base, found = look
        data = self._data
        behind = found.runs[0][0]
        try:
            for offset, count, length in found.runs:
                stride = stride_of(length)
                first = offset + HEADER_SIZE
                for at in range(first, first + count * stride, stride):
                    behind = at - HEADER_SIZE + stride
                    with data[at : at + length] as view:
                        callback(view)
            behind = found.end
        finally:
            self._store(base + behind)
        return found.records

    @contextmanager
    def chunk(
        self, timeout: float | None = 0, max_records: int | None = None
    ) -> Iterator[Chunk | None]:
        """Return the next run of equally long records, in place. None if there is none.

        :param timeout: as in `read`

        The records are consumed when the ``with`` block ends, also by an exception.
        """
        look = self._await_look(timeout, _limit(max_records), one_run=True)
        if look is None:
            yield None
            return
        base, found = look
        offset, count, length = found.runs[0]
        view = self._data[offset : offset + count * stride_of(length)]
        try:
            yield Chunk(view, count, length)
        finally:
            try:
                self._store(base + found.end)
            finally:
                view.release()  # BufferError if somebody keeps a part: it will change


def _limit(max_records: int | None) -> int:
    if max_records is None:
        return _NO_LIMIT
    if max_records <= 0:
        raise ValueError("max_records must be positive")
    return max_records
