"""Links on functions and other places of executables and libraries."""

from __future__ import annotations

import errno

from .._sys import perf
from ..errors import BpfError
from .binary import find_place
from .link import HasFd, Link, Request, need
from .perf_event import attach_perf_event

__all__ = ["attach_uprobe", "by_section"]


def attach_uprobe(
    program: HasFd,
    binary: str,
    symbol_or_offset: str | int,
    *,
    pid: int | None = None,
    retprobe: bool = False,
    ref_ctr_offset: int = 0,
    cookie: int = 0,
) -> Link:
    """Attach to a function of an executable or library by a uprobe or uretprobe.

    :param binary: path, or name: ``libc.so.6``, ``bash`` (see `pybpf.links.binary.find_binary`)
    :param symbol_or_offset: ``malloc``, ``malloc+0x10``, ``memcpy@GLIBC_2.14``, or bytes from the
        start of the file
    :param pid: only in that process; None for all
    :param retprobe: when the function returns
    :param ref_ctr_offset: file offset of a USDT semaphore (bytes), 0 for none
    :param cookie: ``__u64`` for bpf_get_attach_cookie
    :raises TypeError: if an argument is of another type
    :raises ObjectFormatError: if the file is not an ELF64 one
    :raises BpfError: ENOENT if there is no such file, library or function, with near names;
        EINVAL if a name means several functions, or a return probe is asked for inside one;
        ESRCH if there is no such process
    """
    need(binary, str, "binary", "a path or the name of a library or program")
    need(symbol_or_offset, (str, int), "symbol_or_offset")
    need(pid, (int, type(None)), "pid")
    place = find_place(binary, symbol_or_offset)
    kind = "uretprobe" if retprobe else "uprobe"
    where = symbol_or_offset if isinstance(symbol_or_offset, str) else f"{symbol_or_offset:#x}"
    what = f"{kind}/{place.path}:{where}"
    if retprobe and place.inside:
        hint = "a return probe is on a whole function: leave the offset out"
        raise BpfError(errno.EINVAL, what, hint)
    try:
        event = perf.open_uprobe(
            place.path,
            place.offset,
            pid=-1 if pid is None else pid,
            retprobe=retprobe,
            ref_ctr_offset=ref_ctr_offset,
        )
    except BpfError as error:
        error.add_context(what)
        raise
    return attach_perf_event(program, event, cookie=cookie, what=what)


def by_section(request: Request) -> Link:
    """``uprobe/BINARY:FUNCTION`` or ``uprobe/BINARY:FUNCTION+OFFSET``, also ``uretprobe``.

    :raises BpfError: EINVAL if the target is written otherwise
    """
    binary, colon, symbol = request.target.rpartition(":")
    if not colon or not binary or not symbol:
        hint = "write BINARY:FUNCTION, or call attach_uprobe(binary, symbol_or_offset)"
        raise BpfError(errno.EINVAL, f"{request.target!r} is not BINARY:FUNCTION", hint)
    return attach_uprobe(
        request.program,
        binary,
        int(symbol, 0) if symbol[0].isdigit() else symbol,
        retprobe=request.retprobe,
        cookie=request.cookie,
    )
