"""Links on functions and other places of executables and libraries: uprobe and uprobe.multi."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from .._sys import link as sys_link
from .._sys import perf
from .._uapi.enums import AttachType, UprobeMultiFlag
from ..digits import number
from ..errors import BpfError, UnsupportedFeature
from .binary import find_place, find_places
from .link import HasFd, Link, Request, need
from .perf_event import attach_perf_event

__all__ = ["attach_uprobe", "attach_uprobe_multi", "by_section", "multi_by_section"]


def attach_uprobe(
    program: HasFd,
    binary: str | os.PathLike[str],
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
    :param pid: only in this process; None for all, 0 for the caller's
    :param retprobe: run when the function returns
    :param ref_ctr_offset: file offset of a USDT semaphore (bytes), 0 for none
    :param cookie: ``__u64`` for bpf_get_attach_cookie
    :raises TypeError: if an argument has another type
    :raises ObjectFormatError: if the file is not ELF64
    :raises BpfError: ENOENT if the file, library or function does not exist, with near names;
        EINVAL if several functions have the name, or a return probe has an offset;
        ESRCH if the process does not exist
    """
    need(binary, (str, os.PathLike), "binary", "a path or the name of a library or program")
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


def _halves(target: str, wanted: str, call: str) -> tuple[str, str]:
    """Split a section's target into the binary and the rest."""
    binary, _, what = target.rpartition(":")
    if not binary or not what:
        form = f"BINARY:{wanted}"
        raise BpfError(errno.EINVAL, f"{target!r} is not {form}", f"write {form}, or call {call}")
    return binary, what


def by_section(request: Request) -> Link:
    """Attach ``uprobe/BINARY:FUNCTION`` or ``uprobe/BINARY:FUNCTION+OFFSET``, also ``uretprobe``.

    :raises BpfError: EINVAL if the target has another form
    """
    binary, symbol = _halves(request.target, "FUNCTION", "attach_uprobe(binary, symbol_or_offset)")
    offset = number(symbol)
    return attach_uprobe(
        request.program,
        binary,
        symbol if offset is None else offset,
        retprobe=request.retprobe,
        cookie=request.cookie,
    )


def attach_uprobe_multi(
    program: HasFd,
    binary: str | os.PathLike[str],
    symbols: str | Sequence[str],
    *,
    pid: int | None = None,
    retprobe: bool = False,
    session: bool = False,
    cookies: int | Sequence[int] | None = None,
) -> Link:
    """Attach to many functions of an executable or library by one uprobe.multi link.

    :param binary: as `attach_uprobe` takes it
    :param symbols: a glob, ``*alloc``, or names
    :param pid: only in this process; None for all, 0 for the caller's
    :param retprobe: run when the functions return
    :param session: run at entry and return; the program was loaded for BPF_TRACE_UPROBE_SESSION
    :param cookies: ``__u64`` for bpf_get_attach_cookie: one for all, or one per name in order
    :raises UnsupportedFeature: before Linux 6.6, for sessions 6.13
    :raises ValueError: the numbers of cookies and names differ
    :raises BpfError: as `attach_uprobe`; ENOENT also if nothing matches the glob
    """
    need(binary, (str, os.PathLike), "binary", "a path or the name of a library or program")
    need(pid, (int, type(None)), "pid")
    kind = "uprobe.session" if session else "uretprobe.multi" if retprobe else "uprobe.multi"
    found = find_places(binary, symbols)
    if not found:
        raise BpfError(errno.EINVAL, kind, "no function is named")
    if retprobe or session:
        inside = [name for name, place in found if place.inside]
        if inside:
            hint = "a return probe is on a whole function: leave the offset out"
            raise BpfError(errno.EINVAL, f"{kind} of {inside[0]!r}", hint)
    path = found[0][1].path
    what = f"{kind}/{path}:{symbols if isinstance(symbols, str) else ','.join(symbols)}"
    flags = UprobeMultiFlag.BPF_F_UPROBE_MULTI_RETURN if retprobe else 0
    each = [cookies] * len(found) if isinstance(cookies, int) else cookies
    try:
        fd = sys_link.link_create_uprobe_multi(
            program.fileno(),
            path,
            [place.offset for _, place in found],
            cookies=each,
            flags=flags,
            pid=0 if pid is None else pid or os.getpid(),  # for the kernel 0 is all, too
            attach_type=AttachType.BPF_TRACE_UPROBE_SESSION
            if session
            else AttachType.BPF_TRACE_UPROBE_MULTI,
        )
    except BpfError as error:
        if error.errno == errno.EOPNOTSUPP:
            hint = "it was built without CONFIG_UPROBES, or is too old"
            raise UnsupportedFeature(kind, "6.13" if session else "6.6", hint) from error
        error.add_context(what)
        raise
    return Link(fd, what)


def multi_by_section(request: Request) -> Link:
    """Attach ``uprobe.multi/BINARY:GLOB``, ``uretprobe.multi`` or ``uprobe.session``.

    :raises BpfError: EINVAL if the target has another form
    """
    binary, glob = _halves(request.target, "GLOB", "attach_uprobe_multi(binary, glob_or_symbols)")
    return attach_uprobe_multi(
        request.program,
        binary,
        glob,
        retprobe=request.retprobe,
        session=request.attach_type == AttachType.BPF_TRACE_UPROBE_SESSION,
        cookies=request.cookie or None,
    )
