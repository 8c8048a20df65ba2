"""Links on perf events."""

from __future__ import annotations

from .._sys import link as sys_link
from .link import HasFd, Link, PerfLink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._sys.fd import Fd

__all__ = ["attach_perf_event"]


def attach_perf_event(program: HasFd, event: Fd, *, cookie: int = 0, what: str = "perf") -> Link:
    """Link a program to an open perf event, whose ownership passes to the link."""
    try:
        fd = sys_link.link_create_perf_event(program.fileno(), event.fileno(), cookie=cookie)
    except BaseException:
        event.close()
        raise
    return PerfLink(fd, event, what)
