"""Links of BPF iterators."""

from __future__ import annotations

from .._sys import link as sys_link
from .link import HasFd, Link, Request

__all__ = ["attach_iter", "by_section"]


def attach_iter(program: HasFd, *, what: str = "iter") -> Link:
    """Make a link of a BPF iterator; `pybpf.Program.iter_read` reads it.

    :raises BpfError: if the kernel refuses
    """
    return Link(sys_link.link_create_iter(program.fileno()), what)


def by_section(request: Request) -> Link:
    """``iter/NAME``."""
    return attach_iter(request.program, what=request.what)
