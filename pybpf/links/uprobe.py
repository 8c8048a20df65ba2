"""Links on places of executables and libraries."""

from __future__ import annotations

from .._sys import perf
from ..errors import BpfError
from .link import HasFd, Link
from .perf_event import attach_perf_event

__all__ = ["attach_uprobe"]


def attach_uprobe(
    program: HasFd,
    path: str,
    offset: int,
    *,
    pid: int = -1,
    retprobe: bool = False,
    ref_ctr_offset: int = 0,
    cookie: int = 0,
) -> Link:
    """One uprobe or uretprobe at a file offset (bytes) of an executable or library.

    :param pid: only that process, or -1 for all
    """
    kind = "uretprobe" if retprobe else "uprobe"
    what = f"{kind}/{path}+{offset:#x}"
    try:
        event = perf.open_uprobe(
            path, offset, pid=pid, retprobe=retprobe, ref_ctr_offset=ref_ctr_offset
        )
    except BpfError as error:
        error.add_context(what)
        raise
    return attach_perf_event(program, event, cookie=cookie, what=what)
