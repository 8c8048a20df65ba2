"""Rings in overwrite mode (``BPF_F_RB_OVERWRITE``), which always hold the newest records.

Theory of operation. When such a ring is full, the producer does not refuse a record. It moves
``overwrite_pos`` past the oldest records and then writes over them (``kernel/bpf/ringbuf.c``, 7.0).
So records can change while they are being read. The reader therefore copies everything unread and
then looks at ``overwrite_pos`` again. Anything before that position may have changed during the
copy and is dropped. The rest of the copy is intact and stays so.

Records that are reserved but not submitted are never overwritten, and end what is copied. They are
looked for in the ring, before the copy. In the copy, the header of such a record may be newer than
its contents, because memcpy(3) does not copy from the start to the end. Everything before
``pending_pos`` is submitted, so the search starts there.

The kernel does not count the records that it overwrites, but their size is known: it is the
distance from where the reader was to where the copy starts.
"""

from __future__ import annotations

from ..namedtuple import NamedTuple
from .records import BUSY, LENGTH_MASK, stride_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Snapshot", "available", "newest"]

# 8-byte words of the producer page.
_HEAD, _PENDING, _OVERWRITTEN = 0, 1, 2


class Snapshot(NamedTuple):
    """Hold a copy of the unread records that are submitted."""

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
    """Copy the records that are submitted, unread and not overwritten.

    :param producer: the producer page, as ``__u64``
    :param data: the data pages, mapped twice in a row
    :param position: how far the reader is, bytes
    :param fence: orders memory accesses, where the machine does not
    :returns: None if there are none
    """
    size = len(data) // 2
    words = data.cast("I")
    while True:
        first, pending = max(position, producer[_OVERWRITTEN]), producer[_PENDING]
        head = producer[_HEAD]
        if head - first > size:
            continue  # the positions are of different moments
        if fence:
            fence()
        searched = max(first, pending)
        end = _submitted(words, searched, head, size // 4)
        if fence:
            fence()
        if producer[_OVERWRITTEN] > searched:
            continue  # the headers were perhaps overwritten while they were looked at
        if first >= end:
            return None
        start = first % size
        copied = bytes(data[start : start + end - first])
        if fence:
            fence()
        gone = producer[_OVERWRITTEN] - first
        if gone < len(copied):
            view = memoryview(copied)[max(gone, 0) :]
            return Snapshot(first + max(gone, 0), end, view, view.cast("I"))


def _submitted(words: memoryview, at: int, head: int, count: int) -> int:
    # Position of the first record from `at` on that is not submitted, `head` if all are.
    while at < head:
        header = words[(at >> 2) % count]
        if header & BUSY:
            return at
        at += stride_of(header & LENGTH_MASK)
    return head


def available(producer: memoryview, position: int) -> int:
    """Return the bytes that are unread and not overwritten."""
    return max(0, producer[_HEAD] - max(position, producer[_OVERWRITTEN]))
