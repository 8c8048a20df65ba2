"""Links on static tracepoints, by tracefs event or raw."""

from __future__ import annotations

import errno

from .._sys import link as sys_link
from .._sys import perf
from ..errors import BpfError, UnsupportedFeature
from .link import HasFd, Link
from .perf_event import attach_perf_event

__all__ = ["attach_raw_tracepoint", "attach_tracepoint"]


def attach_raw_tracepoint(program: HasFd, name: str, *, cookie: int = 0) -> Link:
    """Raw tracepoint `name` (BPF_RAW_TRACEPOINT_OPEN).

    :param cookie: needs Linux 6.10 or newer when not 0
    :raises BpfError: ENOENT if there is no such tracepoint
    """
    try:
        fd = sys_link.raw_tracepoint_open(program.fileno(), name, cookie=cookie)
    except BpfError as error:
        if cookie and error.errno in (errno.EINVAL, errno.E2BIG):
            raise UnsupportedFeature("a cookie on a raw tracepoint", "6.10") from error
        error.add_context(f"raw tracepoint {name!r}")
        raise
    return Link(fd, f"raw_tp/{name}")


def attach_tracepoint(program: HasFd, category: str, name: str, *, cookie: int = 0) -> Link:
    """A static tracepoint ``category/name`` of tracefs.

    :raises BpfError: ENOENT if tracefs has no such event
    """
    what = f"tracepoint/{category}/{name}"
    try:
        event = perf.open_tracepoint(category, name)
    except BpfError as error:
        error.add_context(what)
        raise
    return attach_perf_event(program, event, cookie=cookie, what=what)
