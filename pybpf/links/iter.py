"""Links of BPF iterators."""

from __future__ import annotations

from .._sys import link as sys_link
from .link import HasFd, Link

__all__ = ["attach_iter"]


def attach_iter(program: HasFd, *, what: str = "iter") -> Link:
    """A BPF iterator; read it through `pybpf.Program.iter_read`."""
    return Link(sys_link.link_create_iter(program.fileno()), what)
