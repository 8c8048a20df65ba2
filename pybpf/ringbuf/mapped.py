"""The memory of a ring buffer map, as it is mapped: positions of both sides, and the data."""

from __future__ import annotations

import errno
import mmap
import os

from .._sys.fd import Fd
from ..errors import BpfError
from .waiting import wake_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from .kinds import RingMap

__all__ = ["MappedRing"]

# Ours is the side whose page we may write. Layout: kernel/bpf/ringbuf.c, 7.2.
_READ = mmap.PROT_READ
_WRITE = mmap.PROT_READ | mmap.PROT_WRITE


class MappedRing:
    """Hold a mapped ring. Close it, or use it as a context manager.

    What is called after `close` raises `StateError`.

    :param ring: a created ring buffer map
    :param what: what to call it in messages
    :param produces: we write the records (a user ring buffer), so the data are writable
    :raises BpfError: if it cannot be mapped
    """

    def __init__(self, ring: RingMap, what: str, *, produces: bool) -> None:
        # A descriptor of our own, so that the map may be closed before this.
        self._fd = Fd(os.dup(ring.fileno()), f"{what} {ring.name!r}")
        #: Name of the map.
        self.name = ring.name
        #: Called when it is closed; see `pybpf.ringbuf.waiting.Readable`.
        self.wakers: set[Callable[[], None]] = set()
        #: Size of the data pages, bytes.
        self.size = ring.max_entries
        self._maps: list[mmap.mmap] = []
        self._views: list[memoryview] = []
        page = mmap.PAGESIZE
        try:
            consumer = self._map(page, _READ if produces else _WRITE, 0)
            producer = self._map(page + 2 * self.size, _WRITE if produces else _READ, page)
        except OSError as err:
            MappedRing.close(self)
            raise BpfError(err.errno or errno.EINVAL, f"mmap of {what} {ring.name!r}") from err
        self._consumer = self._view(memoryview(consumer).cast("Q"))
        self._producer = self._view(memoryview(producer)[:page].cast("Q"))
        self._ring = self._view(memoryview(producer)[page:])
        #: What records are read from: the ring, or a copy of it.
        self._data = self._ring
        self._words = self._view(self._ring.cast("I"))

    def _map(self, length: int, prot: int, offset: int) -> mmap.mmap:
        made = mmap.mmap(self._fd.fileno(), length, mmap.MAP_SHARED, prot, offset=offset)
        self._maps.append(made)
        return made

    def _view(self, view: memoryview) -> memoryview:
        self._views.append(view)
        return view

    def close(self) -> None:
        """Unmap the ring. The map itself stays. Closing again does nothing."""
        wake_all(self.wakers)
        self._fd.close()
        while self._views:
            self._views.pop().release()
        while self._maps:
            try:
                self._maps.pop().close()
            except BufferError:
                # Somebody still holds a part of the data. It is unmapped when that goes.
                continue

    def _check_open(self) -> None:
        self._fd.fileno()  # says what is closed

    @property
    def closed(self) -> bool:
        """Return True after `close`."""
        return self._fd.closed

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
