"""Perf event buffers: one ring per CPU, filled by ``bpf_perf_event_output``.

Theory of operation. Programs older than the BPF ring buffer write their events
into a perf event array. It has one software perf event per CPU, each with its own ring of
pages (``kernel/events/ring_buffer.c``). The kernel moves ``data_head``, we move
``data_tail``. Unlike the BPF ring it is mapped once, so a record may wrap. Therefore a
read copies all new data out of one CPU's ring, gives the space back at once and
decodes the copy. Records of one event type have equal headers, so one
comparison at C speed finds a whole run of them, as in `pybpf.ringbuf.records`.

The kernel counts the records that did not fit and reports them in a LOST record once there is
room: `PerfBuffer.lost`. Records of one CPU come in order. There is no order between CPUs. A
record's raw data is padded so that the record is a multiple of 8 bytes, so `bytes`
may end with up to 7 bytes of padding.

Memory order: ``data_head`` is loaded before the data, and the data is read before
``data_tail`` is stored. x86-64 keeps this order (see `pybpf.ringbuf.reader`).
"""

from __future__ import annotations

import errno
import mmap
import select
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from sys import byteorder
from typing import Any

from .._sys import perf
from .._uapi.enums import MapType
from ..errors import BpfError, StateError
from ..namedtuple import NamedTuple
from ..wording import many
from .kinds import check_map, record_decoder
from .records import Run, skip_records
from .waiting import Batches, wake_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .._sys.fd import Fd
    from ..maps import Map

__all__ = ["PerfBuffer", "PerfScan", "scan_perf"]

# UAPI <linux/perf_event.h>: enum perf_event_type, and 8-byte words of struct perf_event_mmap_page.
_LOST, _SAMPLE = 2, 9
_DATA_HEAD, _DATA_TAIL = 128, 129

# struct perf_event_header and the __u32 raw size. The decoders of BPF ring records expect the
# payload 8 bytes after an offset and the same padding, so the offset they get is 4 bytes further.
_SAMPLE_OVERHEAD = 12
_SHIFT = 4


class PerfScan(NamedTuple):
    """Hold what `scan_perf` found."""

    runs: list[Run]  # for the decoders of `pybpf.ringbuf.records`
    records: int
    lost: int


def scan_perf(chunk: memoryview) -> PerfScan:
    """Find the samples in whole perf records.

    :param chunk: consecutive records, and 8 bytes more
    :raises BpfError: EBADMSG if the size of a record is impossible
    """
    words = chunk.cast("Q")
    end = len(chunk) - 8
    runs: list[Run] = []
    offset = records = lost = 0
    guess = 8
    last = -1
    while offset < end:
        header = words[offset >> 3]
        kind, size = header & 0xFFFFFFFF, header >> 48
        if size < 8 or size & 7 or size > end - offset:
            hint = f"record of {many(size, 'byte')} at {offset}"
            raise BpfError(errno.EBADMSG, "perf buffer", hint)
        count = 1
        if header == last and kind == _SAMPLE:
            count = min((end - offset) // size, guess)
            step, first = size >> 3, offset >> 3
            headers = words[first : first + count * step : step]
            if headers == memoryview(header.to_bytes(8, byteorder) * count).cast("Q"):
                guess *= 8
            else:
                count = next(i for i, seen in enumerate(headers.tolist()) if seen != header)
                guess = 8
        last = header
        if kind == _SAMPLE and size > _SAMPLE_OVERHEAD:
            runs.append((offset + _SHIFT, count, size - _SAMPLE_OVERHEAD))
            records += count
        elif kind == _LOST and size >= 24:
            lost += words[(offset >> 3) + 2]
        offset += count * size
    return PerfScan(runs, records, lost)


class _CpuRing:
    # One CPU's event and its mapped pages.

    def __init__(self, cpu: int, fd: Fd, pages: int) -> None:
        self.cpu = cpu
        self.fd = fd
        self.size = pages * mmap.PAGESIZE
        self._memory = mmap.mmap(
            fd.fileno(),
            mmap.PAGESIZE + self.size,
            mmap.MAP_SHARED,
            mmap.PROT_READ | mmap.PROT_WRITE,
        )
        self._control = memoryview(self._memory)[: mmap.PAGESIZE].cast("Q")
        self._data = memoryview(self._memory)[mmap.PAGESIZE :]

    def take(self) -> bytes:
        """Take all new records, and 8 bytes more. b"" if there are none."""
        tail, head = self._control[_DATA_TAIL], self._control[_DATA_HEAD]
        if head == tail:
            return b""
        start, length = tail % self.size, head - tail
        first = self._data[start : start + length]
        copied = b"".join((first, self._data[: length - len(first)], bytes(8)))
        self._control[_DATA_TAIL] = head
        return copied

    def close(self) -> None:
        self._control.release()
        self._data.release()
        self._memory.close()
        self.fd.close()


class PerfBuffer:
    """Read a perf event array that programs write with ``bpf_perf_event_output``.

    :param events: a created map of type ``BPF_MAP_TYPE_PERF_EVENT_ARRAY``; it gets one
        event for each online CPU that it has an entry for
    :param type: type of a record, as for `pybpf.RingBuffer`. perf fills records up with zeros, at
        most 7 bytes, which a flexible array at the end gets, too
    :param pages: size of each CPU's ring, a power of two of pages
    :raises BpfError: the map is of another type, or the kernel refuses an event
    """

    def __init__(self, events: Map, type: object = None, *, pages: int = 64) -> None:
        check_map(events, MapType.BPF_MAP_TYPE_PERF_EVENT_ARRAY)
        if pages < 1 or pages & (pages - 1):
            raise ValueError(f"{pages} pages: not a power of two")
        self._decode = record_decoder(type, events)
        self._poll = select.epoll()  # its descriptor can be waited for in turn
        self._rings: dict[int, _CpuRing] = {}  # by fd
        self._map = events
        self._lost: dict[int, int] = {}
        self._left: list[tuple[int, list[Any]]] = []  # decoded, for the next call
        #: Called when it is closed; see `pybpf.ringbuf.waiting.Readable`.
        self.wakers: set[Callable[[], None]] = set()
        #: Name of the map.
        self.name = events.name
        with ExitStack() as undo:
            undo.callback(self.close)
            for cpu in range(events.max_entries):
                self._open(cpu, pages)
            if not self._rings:
                raise BpfError(errno.ENODEV, f"map {events.name!r}", "no CPU gave an event")
            undo.pop_all()

    def _open(self, cpu: int, pages: int) -> None:
        try:
            fd = perf.open_bpf_output(cpu)
        except BpfError as err:
            if err.errno in (errno.ENODEV, errno.EINVAL):
                return  # offline, or no such CPU
            raise
        try:
            ring = _CpuRing(cpu, fd, pages)
        except OSError as err:
            fd.close()
            hint = "perf_event_mlock_kb or RLIMIT_MEMLOCK" if err.errno == errno.EPERM else ""
            raise BpfError(
                err.errno or errno.EINVAL, f"mmap of {many(pages, 'page')} for CPU {cpu}", hint
            ) from None
        self._rings[fd.fileno()] = ring
        perf.enable(fd)
        self._map[cpu] = fd
        self._poll.register(fd.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Take the events out of the map and close them. Closing again does nothing."""
        wake_all(self.wakers)
        with ExitStack() as rest:
            rest.callback(self._poll.close)
            while self._rings:
                _, ring = self._rings.popitem()
                rest.callback(ring.close)
                if self._map.created:
                    rest.callback(self._map.delete, [ring.cpu], missing_ok=True)

    @property
    def closed(self) -> bool:
        return not self._rings

    def _check_open(self) -> None:
        if self.closed:
            raise StateError(f"perf buffer {self.name!r}")

    def fileno(self) -> int:
        """Return a descriptor that is readable (poll, asyncio) when there are unread records.

        :raises StateError: after `close`
        """
        self._check_open()
        return self._poll.fileno()

    @property
    def available(self) -> int:
        """Return the bytes that are reserved but not yet written. Perf buffers have none."""
        return 0

    def __enter__(self) -> PerfBuffer:
        self._check_open()
        return self

    async def __aenter__(self) -> PerfBuffer:
        return self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def __aiter__(self) -> AsyncIterator[list[Any]]:
        """Iterate over batches without end: ``async for batch in buffer``."""
        return self.batches().__aiter__()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._rings)} CPUs, {self.lost} lost"
        return f"<PerfBuffer {self.name!r}: {state}>"

    @property
    def lost(self) -> int:
        """Count the records that did not fit, as far as the kernel has reported them."""
        return sum(self._lost.values())

    @property
    def lost_by_cpu(self) -> dict[int, int]:
        """Count the lost records of each CPU that lost any."""
        return dict(self._lost)

    def read(self, timeout: float | None = None, max_records: int | None = None) -> list[Any]:
        """Take all available records. Wait for the first one.

        :param timeout: seconds to wait if all rings are empty; 0 does not wait, None waits forever
        :param max_records: keep the rest for the next call
        :returns: copies, CPU by CPU; [] after the timeout
        :raises StateError: after `close`
        """
        if max_records is not None and max_records <= 0:
            raise ValueError("max_records must be positive")
        out: list[Any] = []
        for cpu, values in self.read_by_cpu(timeout):
            room = len(values) if max_records is None else max_records - len(out)
            out += values[:room]
            if room < len(values):
                self._left.append((cpu, values[room:]))
        return out

    def read_by_cpu(self, timeout: float | None = None) -> list[tuple[int, list[Any]]]:
        """Do what `read` does, but return pairs of a CPU and its records.

        Records that cannot be decoded are consumed. This call raises the exception of the first
        and says how many more there were. The next call returns the other records.

        :raises StateError: after `close`
        """
        self._check_open()
        if self._left:
            found, self._left = self._left, []
            return found
        deadline = None if timeout is None else time.monotonic() + timeout
        # The kernel reports only once that a ring is readable, and perhaps the code that waited on
        # our descriptor got that answer (perf_poll(), kernel/events/core.c). So first all are read.
        ready = list(self._rings)
        while True:
            found = []
            errors: list[Exception] = []
            for fd in ready:
                ring = self._rings[fd]
                values = self._values(ring.cpu, ring.take(), errors)
                if values:
                    found.append((ring.cpu, values))
            if errors:
                self._left = found
                if len(errors) > 1:
                    errors[0].add_note(f"{many(len(errors) - 1, 'more record')} had errors, too")
                raise errors[0]
            left = None if deadline is None else deadline - time.monotonic()
            # A LOST record alone also wakes us.
            if found or (left is not None and left <= 0):
                return found
            ready = [fd for fd, _ in self._poll.poll(left)]

    def _values(self, cpu: int, chunk: bytes, errors: list[Exception]) -> list[Any]:
        out: list[Any] = []
        if not chunk:
            return out
        view = memoryview(chunk)
        try:
            found = scan_perf(view)
        except BpfError as error:
            errors.append(error)
            return out
        if found.lost:
            self._lost[cpu] = self._lost.get(cpu, 0) + found.lost
        runs = found.runs
        while runs:
            before = len(out)
            try:
                self._decode(view, runs, out)
                break
            except Exception as error:
                errors.append(error)
                runs = skip_records(runs, len(out) - before + 1)
        return out

    def batches(self, timeout: float | None = None, max_records: int | None = None) -> Batches:
        """Yield lists of records, one per wake-up, for ``for`` and for ``async for``.

        :param timeout: stop after this many seconds without a record; None never stops
        :param max_records: most records per list
        :raises StateError: it is closed, also while a task waits in ``async for``
        """
        return Batches(self, timeout, max_records)
