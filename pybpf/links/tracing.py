"""Links of programs that were loaded for one kernel function or BTF type."""

from __future__ import annotations

from collections.abc import Sequence

from .._sys import link as sys_link
from .link import HasFd, Link, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..multi.link import MultiLink

__all__ = ["attach_tracing", "attach_tracing_multi", "by_section", "multi_by_section"]


def attach_tracing(
    program: HasFd, attach_type: int, *, cookie: int = 0, what: str = "tracing"
) -> Link:
    """Attach to what the program was loaded for: fentry, fexit, fmod_ret, fsession, tp_btf, lsm.

    :param attach_type: the program's ``expected_attach_type`` (``enum bpf_attach_type``); 0 if it
        is unknown, which rules out a cookie
    :param cookie: ``__u64`` for bpf_get_attach_cookie
    :raises BpfError: E2BIG if the trampoline is full, EBUSY if the function cannot be
        patched (notrace) or already has this program, ENOTSUPP (524) if it has
        more argument slots than the kernel's trampolines take
    """
    if not attach_type and not cookie:  # BPF_RAW_TRACEPOINT_OPEN does not ask for it
        return Link(sys_link.raw_tracepoint_open(program.fileno(), None), what)
    fd = sys_link.link_create_tracing(program.fileno(), attach_type, cookie=cookie)
    return Link(fd, what)


def attach_tracing_multi(
    program: HasFd,
    attach_type: int,
    ids: Sequence[int],
    *,
    cookies: Sequence[int] | None = None,
    what: str = "tracing_multi",
) -> Link:
    """Attach one program to many functions of one BTF object. Either all are attached or none.

    :param attach_type: the program's ``expected_attach_type`` (``BPF_TRACE_FENTRY_MULTI``...)
    :param ids: BTF_KIND_FUNC of each function, in the BTF the program was loaded for
    :param cookies: ``__u64`` for bpf_get_attach_cookie, one per function
    :raises BpfError: the kernel refuses a function; it does not say which
    """
    fd = sys_link.link_create_tracing_multi(program.fileno(), attach_type, ids, cookies=cookies)
    return Link(fd, what)


def by_section(request: Request) -> Link:
    """Attach ``fentry/FUNCTION`` and the like. The target was fixed when loading."""
    return request.program.attach_tracing(cookie=request.cookie)


def multi_by_section(request: Request) -> MultiLink:
    """``fentry.multi/GLOB`` and the like, attached by whatever mechanism fits."""
    return request.program.attach_multi(cookies=request.cookie or None)
