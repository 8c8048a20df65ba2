"""Links on static tracepoints, by tracefs event or raw."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

from .._sys import link as sys_link
from .._sys import perf
from .._uapi.enums import ProgType
from ..errors import BpfError, UnsupportedFeature
from ..kernel.lookup import raw_tracepoint_names
from .link import HasFd, Link, Request, is_of_type, near, need
from .perf_event import attach_perf_event

__all__ = [
    "attach_raw_tracepoint",
    "attach_tracepoint",
    "by_section",
    "raw_by_section",
]


_RAW = (
    ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT,
    ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE,
    ProgType.BPF_PROG_TYPE_TRACING,
)


def attach_raw_tracepoint(
    program: HasFd, name: str, *, cookie: int = 0, names: Callable[[], Iterable[str]] = list
) -> Link:
    """Attach to a raw tracepoint (BPF_RAW_TRACEPOINT_OPEN).

    :param name: name of the tracepoint without its category, e.g. ``sched_switch``
    :param cookie: ``__u64``; other than 0 needs Linux 6.10
    :param names: returns the existing names, for the message if `name` does not exist
    :raises TypeError: if `name` is not a str
    :raises BpfError: ENOENT if the tracepoint does not exist, with near names
    """
    need(name, str, "name of a tracepoint")
    try:
        fd = sys_link.raw_tracepoint_open(program.fileno(), name, cookie=cookie)
    except BpfError as error:
        old = cookie and error.errno in (errno.EINVAL, errno.E2BIG)
        if old and is_of_type(program, *_RAW):
            raise UnsupportedFeature("a cookie on a raw tracepoint", "6.10") from error
        if error.errno == errno.ENOENT:
            error.hint = near(name, names) or error.hint
        error.add_context(f"raw tracepoint {name!r}")
        raise
    return Link(fd, f"raw_tp/{name}")


def attach_tracepoint(program: HasFd, category: str, name: str, *, cookie: int = 0) -> Link:
    """Attach to a static tracepoint of tracefs.

    :param category: the event's group, e.g. ``sched``
    :param name: the event, e.g. ``sched_switch``
    :param cookie: ``__u64`` for bpf_get_attach_cookie
    :raises TypeError: if a name is not a str
    :raises BpfError: ENOENT if tracefs does not list that event, with near names
    """
    need(category, str, "category of a tracepoint")
    need(name, str, "name of a tracepoint")
    what = f"tracepoint/{category}/{name}"
    try:
        event = perf.open_tracepoint(category, name)
    except BpfError as error:
        if error.errno == errno.ENOENT:
            error.hint = _near_event(category, name) or error.hint
        error.add_context(what)
        raise
    return attach_perf_event(program, event, cookie=cookie, what=what)


def _near_event(category: str, name: str) -> str:
    categories = perf.tracepoint_categories()
    if category not in categories:
        hint = near(category, categories)
        return f"there is no such category; {hint}" if hint else ""
    return near(name, perf.tracepoint_names(category))


def by_section(request: Request) -> Link:
    """Attach ``tracepoint/CATEGORY/NAME`` or ``tp/CATEGORY/NAME``."""
    category, slash, name = request.target.partition("/")
    if not slash:
        hint = f"write {request.section.partition('/')[0]}/CATEGORY/NAME"
        raise BpfError(errno.EINVAL, f"{request.target!r} is not CATEGORY/NAME", hint)
    return attach_tracepoint(request.program, category, name, cookie=request.cookie)


def raw_by_section(request: Request) -> Link:
    """Attach ``raw_tp/NAME`` or ``raw_tracepoint/NAME``, also ``.w``."""
    return attach_raw_tracepoint(
        request.program,
        request.target,
        cookie=request.cookie,
        names=lambda: raw_tracepoint_names(request.facts),
    )
