"""Waiting for records: of one reader batch by batch, also in asyncio, or of several at once."""

from __future__ import annotations

import math
import select
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pybpf.ringbuf.reader import RingBuffer

__all__ = ["NAP_MAX", "NAP_MIN", "Batches", "RingBuffers"]

#: How long to nap for a busy record, which poll() calls readable; seconds.
NAP_MIN, NAP_MAX = 50e-6, 1e-3


class Batches:
    """Iterator over batches of one reader, synchronous and asynchronous."""

    def __init__(self, ring: RingBuffer, timeout: float | None, max_records: int) -> None:
        self._ring = ring
        self._timeout = timeout
        self._max_records = max_records

    def __iter__(self) -> Iterator[list[Any]]:
        return self

    def __next__(self) -> list[Any]:
        batch = self._ring.read(self._timeout, self._max_records)
        if not batch:
            raise StopIteration
        return batch

    def __aiter__(self) -> AsyncIterator[list[Any]]:
        return self

    async def __anext__(self) -> list[Any]:
        import asyncio

        loop = asyncio.get_running_loop()
        ring = self._ring
        deadline = None if self._timeout is None else loop.time() + self._timeout
        while True:
            batch = ring.read(0, self._max_records)
            if batch:
                return batch
            left = None if deadline is None else deadline - loop.time()
            if left is not None and left <= 0:
                raise StopAsyncIteration
            if ring.available:  # a busy record: readable for poll, not for us
                await asyncio.sleep(NAP_MAX)
                continue
            ready = loop.create_future()
            loop.add_reader(ring.fileno(), _wake, ready)
            try:
                await asyncio.wait_for(ready, left)
            except TimeoutError:
                continue
            finally:
                loop.remove_reader(ring.fileno())


def _wake(ready: Any) -> None:
    if not ready.done():
        ready.set_result(None)


class RingBuffers:
    """Waits for several rings with one system call.

    :param rings: open readers; they stay their owners' to close
    """

    def __init__(self, rings: Iterable[RingBuffer]) -> None:
        self._rings = {ring.fileno(): ring for ring in rings}
        self._poll = select.poll()
        for fd in self._rings:
            self._poll.register(fd, select.POLLIN)

    def wait(self, timeout: float | None = None) -> list[RingBuffer]:
        """The rings with unread data, in the order given; [] after `timeout` seconds."""
        ready = self._poll.poll(None if timeout is None else math.ceil(timeout * 1000))
        fds = {fd for fd, _ in ready}
        return [ring for fd, ring in self._rings.items() if fd in fds]

    def read(
        self, timeout: float | None = None, max_records: int | None = None
    ) -> list[tuple[RingBuffer, list[Any]]]:
        """One batch of each ring that has records, waiting for the first.

        :param timeout: as in `RingBuffer.read`
        :param max_records: most records per ring
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        nap = NAP_MIN
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            batches = [(ring, ring.read(0, max_records)) for ring in self.wait(left)]
            batches = [(ring, batch) for ring, batch in batches if batch]
            if batches or (left is not None and left <= 0):
                return batches
            time.sleep(nap)  # only busy records: see `RingBuffer._waits`
            nap = min(nap * 2, NAP_MAX)
