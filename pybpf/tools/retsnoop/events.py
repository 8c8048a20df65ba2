"""Records of the ring buffer as values. retsnoop.bpf.c defines their layout. Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache

from ...errors import ObjectFormatError
from ...namedtuple import NamedTuple
from ...wording import many

__all__ = [
    "CALL_SHIFT",
    "DISCARD",
    "DONE",
    "FAILED",
    "STITCHED",
    "UNFINISHED",
    "Arg",
    "Args",
    "Branch",
    "Branches",
    "Call",
    "Context",
    "End",
    "Event",
    "Frame",
    "Hit",
    "Return",
    "Stack",
    "decode",
]

_RING = "retsnoop's ring buffer"  # for messages
_CALL, _RETURN, _STACK, _END, _USER_STACK, _INTERIM, _ARGS = 1, 2, 3, 4, 5, 6, 7
_PROBE, _CONTEXT, _LBR = 8, 9, 10

# enum end flags
FAILED, DISCARD, UNFINISHED = 1, 2, 4
# enum frame flags
DONE, STITCHED = 1, 2
#: The bits of a frame's flags above these hold the number of its call in the session.
CALL_SHIFT = 8
_UNKNOWN_TIME = (1 << 64) - 1

_KIND = struct.Struct("<I")
_TRACE = struct.Struct("<IIiIIIQq")
_STACK_HEAD = struct.Struct("<IIiI")
_END_HEAD = struct.Struct("<IIiIQQIIIIIIII16s16s")
_FRAME = struct.Struct("<IIQq")
_ARGS_HEAD = struct.Struct("<IIiIII")
_ARG_HEAD = struct.Struct("<iIQ")


class Call(NamedTuple):
    """Report that a traced function was entered (``-T``).

    :param session: number of the session, from 1
    :param key: the task: its tid, or -(1 + CPU) for an idle task
    :param seq: position among the session's calls and returns, from 0
    :param func: `Function.id`
    :param depth: number of calls around it
    :param time: CLOCK_MONOTONIC, ns
    """

    session: int
    key: int
    seq: int
    func: int
    depth: int
    time: int


class Return(NamedTuple):
    """Report that a traced function returned (``-T``). As `Call`, and:

    :param duration: ns since its call, None if that was too deep to have a frame
    :param result: ``__s64``
    """

    session: int
    key: int
    seq: int
    func: int
    depth: int
    duration: int | None
    result: int


class Hit(NamedTuple):
    """Report that an injected probe fired (``-J``).

    :param seq: as in `Call`
    :param func: number of the probe
    :param depth: number of calls around it
    :param time: CLOCK_MONOTONIC, ns
    """

    session: int
    key: int
    seq: int
    func: int
    depth: int
    time: int


class Context(NamedTuple):
    """Hold the context of an injected probe (``-A``).

    :param seq: `seq` of its `Hit`
    """

    session: int
    key: int
    seq: int
    func: int
    data: bytes


class Branch(NamedTuple):
    """Hold one branch: the address of its instruction, and its destination."""

    start: int
    to: int


class Branches(NamedTuple):
    """Hold the last branches before a failure (``-B``).

    :param branches: newest first
    """

    session: int
    key: int
    branches: tuple[Branch, ...]


class Stack(NamedTuple):
    """Hold the kernel stack of a session's chain, or the stack of the calling program.

    :param addrs: return addresses, innermost first
    :param user: True for the program's stack
    """

    session: int
    key: int
    addrs: tuple[int, ...]
    user: bool = False


class Arg(NamedTuple):
    """Hold one argument of a call.

    :param size: bytes that were read from the memory it points to, or -errno
    :param value: its register, ``__u64``
    :param data: the bytes that were read
    """

    size: int
    value: int
    data: bytes = b""


class Args(NamedTuple):
    """Hold the arguments of a call (``-A``).

    :param seq: number of the call in its session
    """

    session: int
    key: int
    seq: int
    func: int
    values: tuple[Arg, ...]


class Frame(NamedTuple):
    """Hold one function of the chain that a session reports.

    :param done: it returned, so `duration` and `result` are valid
    :param duration: ns
    :param result: ``__s64``
    :param stitched: it is put back from an earlier chain
    :param call: number of its call in the session
    """

    func: int
    done: bool
    duration: int
    result: int
    stitched: bool = False
    call: int = 0


class End(NamedTuple):
    """Report the end of a session.

    :param failed: its entry function failed
    :param discard: the filters leave it out
    :param unfinished: the task exited before the entry function returned
    :param start: CLOCK_MONOTONIC, ns
    :param end: CLOCK_MONOTONIC, ns
    :param records: number of its calls and returns, written or lost
    :param dropped: number of its records that were lost
    :param missed: number of returns without a call and calls without a return
    :param deep: number of calls too deep to have a frame
    :param frames: outermost first
    :param interim: the session goes on
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
    deep: int
    comm: str
    leader_comm: str
    frames: tuple[Frame, ...]
    interim: bool = False


Event = Call | Return | Hit | Stack | Args | Context | Branches | End


@lru_cache(256)  # of most records, the names are known
def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace")


def _call(data: memoryview) -> Call:
    _, session, key, seq, func, depth, time, _ = _TRACE.unpack_from(data)
    return Call(session, key, seq, func, depth, time)


def _return(data: memoryview) -> Return:
    _, session, key, seq, func, depth, duration, result = _TRACE.unpack_from(data)
    known = None if duration == _UNKNOWN_TIME else duration
    return Return(session, key, seq, func, depth, known, result)


def _hit(data: memoryview) -> Hit:
    _, session, key, seq, func, depth, time, _ = _TRACE.unpack_from(data)
    return Hit(session, key, seq, func, depth, time)


def _words(data: memoryview) -> tuple[int, int, tuple[int, ...]]:
    # Session, task, and the 8-byte words after the head.
    _, session, key, size = _STACK_HEAD.unpack_from(data)
    return session, key, struct.unpack_from(f"<{size // 8}Q", data, _STACK_HEAD.size)


def _stack(data: memoryview) -> Stack:
    return Stack(*_words(data))


def _user_stack(data: memoryview) -> Stack:
    return Stack(*_words(data), True)


def _branches(data: memoryview) -> Branches:
    session, key, words = _words(data)
    pairs = zip(words[::3], words[1::3], strict=False)
    return Branches(session, key, tuple([Branch(*pair) for pair in pairs]))


def _context(data: memoryview) -> Context:
    _, session, key, seq, func, size = _ARGS_HEAD.unpack_from(data)
    return Context(session, key, seq, func, bytes(data[_ARGS_HEAD.size : _ARGS_HEAD.size + size]))


def _args(data: memoryview) -> Args:
    _, session, key, seq, func, size = _ARGS_HEAD.unpack_from(data)
    at, end = _ARGS_HEAD.size, _ARGS_HEAD.size + size
    values = []
    while at < end:
        got, _, value = _ARG_HEAD.unpack_from(data, at)
        at += _ARG_HEAD.size
        values.append(Arg(got, value, bytes(data[at : at + max(got, 0)])))
        at += (max(got, 0) + 7) // 8 * 8
    return Args(session, key, seq, func, tuple(values))


def _end(data: memoryview) -> End:
    (
        kind,
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
        deep,
        depth,
        _pad,
        comm,
        leader,
    ) = _END_HEAD.unpack_from(data)
    frames = [
        Frame(
            func,
            bool(mark & DONE),
            time if mark & DONE else 0,
            result,
            bool(mark & STITCHED),
            mark >> CALL_SHIFT,
        )
        for func, mark, time, result in _FRAME.iter_unpack(
            data[_END_HEAD.size : _END_HEAD.size + depth * _FRAME.size]
        )
    ]
    if len(frames) < depth:
        raise struct.error(f"{len(frames)} of {many(depth, 'frame')}")
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
        deep,
        _text(comm),
        _text(leader),
        tuple(frames),
        kind == _INTERIM,
    )


_BY_KIND: Mapping[int, Callable[[memoryview], Event]] = {
    _CALL: _call,
    _RETURN: _return,
    _STACK: _stack,
    _END: _end,
    _USER_STACK: _user_stack,
    _INTERIM: _end,
    _ARGS: _args,
    _PROBE: _hit,
    _CONTEXT: _context,
    _LBR: _branches,
}


def decode(record: bytes | memoryview) -> Event:
    """Decode one record.

    :raises ObjectFormatError: if it is none of ours, or too short
    """
    data = memoryview(record)
    try:
        (kind,) = _KIND.unpack_from(data)
        read = _BY_KIND.get(kind)
        if read is not None:
            return read(data)
    except struct.error as error:
        what = f"record of {many(len(data), 'byte')}: {error}"
        raise ObjectFormatError(what, file=_RING) from None
    raise ObjectFormatError(f"record of kind {kind}", file=_RING)
