"""Links of programs that were loaded for one kernel function or BTF type."""

from __future__ import annotations

from .._sys import link as sys_link
from .link import HasFd, Link, Request

__all__ = ["attach_tracing", "by_section"]


def attach_tracing(
    program: HasFd, attach_type: int, *, cookie: int = 0, what: str = "tracing"
) -> Link:
    """Attach to what the program was loaded for: fentry, fexit, fmod_ret, fsession, tp_btf, lsm.

    :param attach_type: the program's ``expected_attach_type`` (``enum bpf_attach_type``)
    :param cookie: ``__u64`` for bpf_get_attach_cookie
    :raises BpfError: E2BIG if the trampoline is full, EBUSY if the function cannot be
        patched (notrace) or the same program is on it already, ENOTSUPP (524) if it has
        more argument slots than the kernel's trampolines take
    """
    fd = sys_link.link_create_tracing(program.fileno(), attach_type, cookie=cookie)
    return Link(fd, what)


def by_section(request: Request) -> Link:
    """``fentry/FUNCTION`` and the like: the target was fixed when the program was loaded."""
    return request.program.attach_tracing(cookie=request.cookie)
