"""Wait for several ring buffers with one system call."""

from __future__ import annotations

import math
import select
import time
from collections.abc import Iterable
from typing import Any

from .reader import RingBuffer
from .waiting import NAP_MAX, NAP_MIN

__all__ = ["RingBuffers"]


class RingBuffers:
    """Wait for several rings with one system call.

    :param rings: open readers; their owners close them
    """

    def __init__(self, rings: Iterable[RingBuffer]) -> None:
        self._rings = {ring.fileno(): ring for ring in rings}
        self._poll = select.poll()
        for fd in self._rings:
            self._poll.register(fd, select.POLLIN)
        self._error: Exception | None = None  # for the next call

    def wait(self, timeout: float | None = None) -> list[RingBuffer]:
        """Wait for rings with unread data, in the order given. [] after `timeout` seconds.

        :raises StateError: if one of the rings is closed
        """
        for ring in self._rings.values():
            ring.fileno()  # poll() would call a closed one readable, or find another file there
        ready = self._poll.poll(None if timeout is None else math.ceil(timeout * 1000))
        fds = {fd for fd, _ in ready}
        return [ring for fd, ring in self._rings.items() if fd in fds]

    def read(
        self, timeout: float | None = None, max_records: int | None = None
    ) -> list[tuple[RingBuffer, list[Any]]]:
        """Return one batch of each ring that has records. Wait for the first.

        If a record cannot be decoded, the batches before it are returned and the next call
        raises, as in `RingBuffer`.

        :param timeout: as in `RingBuffer.read`
        :param max_records: most records per ring
        """
        error, self._error = self._error, None
        if error is not None:
            raise error
        deadline = None if timeout is None else time.monotonic() + timeout
        nap = NAP_MIN
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            batches = self._batches(self.wait(left), max_records)
            if batches or (left is not None and left <= 0):
                return batches
            time.sleep(nap)  # only busy records: see `RingBuffer._waits`
            nap = min(nap * 2, NAP_MAX)

    def _batches(
        self, ready: list[RingBuffer], max_records: int | None
    ) -> list[tuple[RingBuffer, list[Any]]]:
        batches: list[tuple[RingBuffer, list[Any]]] = []
        for ring in ready:
            try:
                batch = ring.read(0, max_records)
            except Exception as error:
                if not batches:
                    raise
                self._error = error  # what was taken from other rings must not be lost with it
                break
            if batch:
                batches.append((ring, batch))
        return batches
