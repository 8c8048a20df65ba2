"""Rings in overwrite mode (``BPF_F_RB_OVERWRITE``), which always hold the newest records.

Theory of operation. When such a ring is full, the producer does not refuse a record. It moves
``overwrite_pos`` past the oldest records and then writes over them (``kernel/bpf/ringbuf.c``, 7.0).
So records can change while they are being read. The reader therefore copies everything unread and
then looks at ``overwrite_pos`` again. Anything before that position may have changed during the
copy and is dropped. The rest of the copy is intact and stays so. Records that are reserved but not
submitted are never overwritten.

The kernel does not count the records that it overwrites, but their size is known: it is the
distance from where the reader was to where the copy starts.
"""

from __future__ import annotations

from ..namedtuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Snapshot", "available", "newest"]

# 8-byte words of the producer page.
_HEAD, _OVERWRITTEN = 0, 2


class Snapshot(NamedTuple):
    """Hold a copy of the unread records."""

    first: int  # position of the first byte
    end: int  # position after the last one
    data: memoryview
    words: memoryview  # the same, as ``__u32``


def newest(
    producer: memoryview,
    data: memoryview,
    position: int,
    fence: Callable[[], None] | None = None,
) -> Snapshot | None:
    """Copy the records that are unread and not overwritten.

    :param producer: the producer page, as ``__u64``
    :param data: the data pages, mapped twice in a row
    :param position: how far the reader is, bytes
    :param fence: orders memory accesses, where the machine does not
    :returns: None if there are none
    """
    size = len(data) // 2
    while True:
        first, head = max(position, producer[_OVERWRITTEN]), producer[_HEAD]
        if first >= head:
            return None
        if fence:
            fence()
        start = first % size
        # Positions that were read at different moments may be further apart than the ring is long.
        copied = bytes(data[start : start + head - first]) if head - first <= size else b""
        if fence:
            fence()
        gone = producer[_OVERWRITTEN] - first
        if gone < len(copied):
            view = memoryview(copied)[max(gone, 0) :]
            return Snapshot(first + max(gone, 0), head, view, view.cast("I"))


def available(producer: memoryview, position: int) -> int:
    """Return the bytes that are unread and not overwritten."""
    return max(0, producer[_HEAD] - max(position, producer[_OVERWRITTEN]))
