"""Wait for the records of one reader, batch by batch, also in asyncio."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol

__all__ = ["NAP_MAX", "NAP_MIN", "Batches", "Readable", "wake_all"]

#: How long to nap for a busy record, which poll() calls readable; seconds.
NAP_MIN, NAP_MAX = 50e-6, 1e-3


class Readable(Protocol):
    """Describe a reader that can be waited for: a `RingBuffer` or a `PerfBuffer`.

    :ivar wakers: each is called once when the reader is closed
    """

    wakers: set[Callable[[], None]]

    @property
    def available(self) -> int: ...

    def fileno(self) -> int: ...

    def read(self, timeout: float | None = None, max_records: int | None = None) -> list[Any]: ...


def wake_all(wakers: set[Callable[[], None]]) -> None:
    """Wake everybody who waits for a reader that is being closed."""
    while wakers:
        wakers.pop()()


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
            with suppress(TimeoutError):
                await asyncio.wait_for(_readable(ring), left)


async def _readable(ring: Readable) -> None:
    # Returns when there is something to read, or the ring was closed.
    import asyncio

    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        # Another thread may close the ring, even after the loop.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_set, ready)

    # The loop gets a number of its own. After the ring is closed, its number may be another
    # file's, whose reader must stay; and epoll would go on to report the map, which lives on.
    number = os.dup(ring.fileno())
    try:
        ring.wakers.add(wake)
        loop.add_reader(number, _set, ready)
        try:
            await ready
        finally:
            loop.remove_reader(number)
            ring.wakers.discard(wake)
    finally:
        os.close(number)


def _set(ready: Any) -> None:
    if not ready.done():
        ready.set_result(None)
