"""Links on kernel functions by kprobes, one or many."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from .._sys import link as sys_link
from .._sys import perf
from .._uapi.enums import AttachType
from ..errors import BpfError, UnsupportedFeature
from .link import HasFd, Link
from .perf_event import attach_perf_event

__all__ = ["attach_kprobe", "attach_kprobe_multi"]


def attach_kprobe(
    program: HasFd,
    function: str = "",
    *,
    offset: int = 0,
    address: int = 0,
    retprobe: bool = False,
    cookie: int = 0,
) -> Link:
    """One kprobe or kretprobe through the kprobe PMU (perf_event_open).

    :param function: symbol name; or "" and `address`
    :param offset: bytes from its start; must be 0 for a return probe
    :param address: absolute kernel address, an alternative to `function`
    :raises BpfError: ENOENT for an unknown name, EINVAL for a blacklisted address,
        EADDRNOTAVAIL for a name that several functions share
    """
    kind = "kretprobe" if retprobe else "kprobe"
    place = function or f"{address:#x}"
    what = f"{kind}/{place}" + (f"+{offset:#x}" if offset else "")
    try:
        event = perf.open_kprobe(function or None, offset or address, retprobe=retprobe)
    except BpfError as error:
        error.add_context(what)
        raise
    return attach_perf_event(program, event, cookie=cookie, what=what)


def attach_kprobe_multi(
    program: HasFd,
    *,
    syms: Sequence[str] | None = None,
    addrs: Sequence[int] | None = None,
    cookies: Sequence[int] | None = None,
    retprobe: bool = False,
    session: bool = False,
) -> Link:
    """One kprobe.multi link on many functions (BPF_TRACE_KPROBE_MULTI, FPROBE kernels).

    :param syms: symbol names, or
    :param addrs: addresses of function entries; exactly one of the two
    :param cookies: ``__u64`` per function, in the same order
    :param session: the program was loaded for BPF_TRACE_KPROBE_SESSION (Linux 6.10)
    :raises UnsupportedFeature: if the kernel has no FPROBE
    :raises BpfError: ESRCH if a symbol is unknown or ambiguous, EINVAL or ENOENT if an
        address cannot be probed: one bad function fails the whole link
    """
    if (syms is None) == (addrs is None):
        raise ValueError("give either syms or addrs")
    count = len(syms if syms is not None else addrs or ())
    if cookies is not None and len(cookies) != count:
        raise ValueError(f"{len(cookies)} cookies for {count} functions")
    kind = AttachType.BPF_TRACE_KPROBE_SESSION if session else AttachType.BPF_TRACE_KPROBE_MULTI
    try:
        fd = sys_link.link_create_kprobe_multi(
            program.fileno(),
            flags=1 if retprobe else 0,  # BPF_F_KPROBE_MULTI_RETURN
            syms=syms,
            addrs=addrs,
            cookies=cookies,
            attach_type=kind,
        )
    except BpfError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise UnsupportedFeature(
                "kprobe.multi", "5.18", "it was built without CONFIG_FPROBE"
            ) from error
        error.add_context(f"kprobe.multi on {count} functions")
        raise
    return Link(fd, f"{'kretprobe' if retprobe else 'kprobe'}.multi x{count}")
