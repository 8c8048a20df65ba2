"""Records of the ring buffer as values; their layout is that of retsnoop.bpf.c. Pure."""

from __future__ import annotations

import struct

from ...dataclass import dataclass

__all__ = [
    "DISCARD",
    "DONE",
    "FAILED",
    "STITCHED",
    "UNFINISHED",
    "Call",
    "End",
    "Event",
    "Frame",
    "Return",
    "Stack",
    "decode",
]

_CALL, _RETURN, _STACK, _END = 1, 2, 3, 4

# enum end flags
FAILED, DISCARD, UNFINISHED = 1, 2, 4
# enum frame flags
DONE, STITCHED = 1, 2

_KIND = struct.Struct("<I")
_TRACE = struct.Struct("<IIiIIIQq")
_STACK_HEAD = struct.Struct("<IIiI")
_END_HEAD = struct.Struct("<IIiIQQIIIIII16s16s")
_FRAME = struct.Struct("<IIQq")


@dataclass(frozen=True, slots=True)
class Call:
    """A traced function was entered (``-T``).

    :param session: number of the session, from 1
    :param key: the task: its tid, or -(1 + CPU) for an idle task
    :param seq: position among the session's calls and returns, from 0
    :param func: `Function.id`
    :param depth: calls around it
    :param time: CLOCK_MONOTONIC, ns
    """

    session: int
    key: int
    seq: int
    func: int
    depth: int
    time: int


@dataclass(frozen=True, slots=True)
class Return:
    """A traced function returned (``-T``); as `Call`, and:

    :param duration: ns since its call
    :param result: ``__s64``
    """

    session: int
    key: int
    seq: int
    func: int
    depth: int
    duration: int
    result: int


@dataclass(frozen=True, slots=True)
class Stack:
    """The kernel stack of a session's chain.

    :param addrs: innermost first
    """

    session: int
    key: int
    addrs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """One function of the chain that a session reports.

    :param done: it returned, so the other two are valid
    :param duration: ns
    :param result: ``__s64``
    :param stitched: from an earlier chain, put back
    """

    func: int
    done: bool
    duration: int
    result: int
    stitched: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """A session is over.

    :param failed: its entry function failed
    :param discard: filtered out
    :param unfinished: the task exited before the entry function returned
    :param start: CLOCK_MONOTONIC, ns
    :param end: the same
    :param records: calls and returns of it that were written or lost
    :param dropped: records of it that were lost
    :param missed: returns without a call, calls without a return
    :param frames: outermost first
    """

    session: int
    key: int
    failed: bool
    discard: bool
    unfinished: bool
    start: int
    end: int
    tid: int
    tgid: int
    records: int
    dropped: int
    missed: int
    comm: str
    leader_comm: str
    frames: tuple[Frame, ...]


Event = Call | Return | Stack | End


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace")


def decode(record: bytes | memoryview) -> Event:
    """One record.

    :raises ValueError: if it is none of ours, or too short
    """
    data = memoryview(record)
    try:
        (kind,) = _KIND.unpack_from(data)
        if kind in (_CALL, _RETURN):
            _, session, key, seq, func, depth, time, result = _TRACE.unpack_from(data)
            if kind == _CALL:
                return Call(session, key, seq, func, depth, time)
            return Return(session, key, seq, func, depth, time, result)
        if kind == _STACK:
            _, session, key, size = _STACK_HEAD.unpack_from(data)
            addrs = struct.unpack_from(f"<{size // 8}Q", data, _STACK_HEAD.size)
            return Stack(session, key, addrs)
        if kind == _END:
            return _end(data)
    except struct.error as error:
        raise ValueError(f"record of {len(data)} bytes: {error}") from None
    raise ValueError(f"record of kind {kind}")


def _end(data: memoryview) -> End:
    (
        _kind,
        session,
        key,
        flags,
        start,
        end,
        tid,
        tgid,
        records,
        dropped,
        missed,
        depth,
        comm,
        leader,
    ) = _END_HEAD.unpack_from(data)
    frames = tuple(
        Frame(func, bool(mark & DONE), time if mark & DONE else 0, result, bool(mark & STITCHED))
        for func, mark, time, result in (
            _FRAME.unpack_from(data, _END_HEAD.size + i * _FRAME.size) for i in range(depth)
        )
    )
    return End(
        session,
        key,
        bool(flags & FAILED),
        bool(flags & DISCARD),
        bool(flags & UNFINISHED),
        start,
        end,
        tid,
        tgid,
        records,
        dropped,
        missed,
        _text(comm),
        _text(leader),
        frames,
    )
