"""Wait for the records of one reader, batch by batch, also in asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

__all__ = ["NAP_MAX", "NAP_MIN", "Batches", "Readable"]

#: How long to nap for a busy record, which poll() calls readable; seconds.
NAP_MIN, NAP_MAX = 50e-6, 1e-3


class Readable(Protocol):
    """Describe a reader that can be waited for: a `RingBuffer` or a `PerfBuffer`."""

    @property
    def available(self) -> int: ...

    def fileno(self) -> int: ...

    def read(self, timeout: float | None = None, max_records: int | None = None) -> list[Any]: ...


class Batches:
    """Iterate over batches of one reader, synchronously and asynchronously."""

    def __init__(self, ring: Readable, timeout: float | None, max_records: int | None) -> None:
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
            if ring.available:  # a busy record: readable for poll but not for us
                await asyncio.sleep(NAP_MAX)
                continue
            ready = loop.create_future()
            number = ring.fileno()  # the ring may be closed meanwhile
            loop.add_reader(number, _wake, ready)
            try:
                await asyncio.wait_for(ready, left)
            except TimeoutError:
                continue
            finally:
                loop.remove_reader(number)


def _wake(ready: Any) -> None:
    if not ready.done():
        ready.set_result(None)
