"""Links of programs that replace a function of another program (freplace)."""

from __future__ import annotations

import errno

from .._sys import bpf as sys_bpf
from .._sys import link as sys_link
from ..btf import BtfKind
from ..dataclass import dataclass
from ..errors import BpfError
from ..kernel import btf as kernel_btf
from .link import HasFd, Link, Request, near

__all__ = ["ProgramTarget", "attach_freplace", "by_section", "find_in_program"]


@dataclass(frozen=True, slots=True)
class ProgramTarget:
    """Name a function of a loaded program.

    :param program: descriptor of the program
    :param btf_id: of the function, in the program's BTF
    """

    program: int
    btf_id: int


def find_in_program(program: HasFd, function: str) -> ProgramTarget:
    """Find a function of a loaded program: the program's own, or a global one that it calls.

    :raises BpfError: EINVAL if the program has no BTF; ESRCH if its BTF lacks that function,
        with near names
    """
    info = sys_bpf.prog_info(program)
    if not info.btf_id:
        what = f"program {info.name!r}"
        raise BpfError(errno.EINVAL, what, "it was loaded without BTF: its functions have no ids")
    btf = kernel_btf.from_id(info.btf_id)
    found = btf.find(function, BtfKind.FUNC)
    if found is None:
        names = (btf.name(one) for one in btf.ids(BtfKind.FUNC))
        what = f"function {function!r} of program {info.name!r}"
        raise BpfError(errno.ESRCH, what, near(function, names))
    return ProgramTarget(program.fileno(), found)


def attach_freplace(
    program: HasFd, target: ProgramTarget | None = None, *, what: str = "freplace"
) -> Link:
    """Attach to the function that the program was loaded for, or another with the same prototype.

    :param target: None for the function it was loaded for
    :raises BpfError: EBUSY if the function is already replaced, EINVAL if the prototypes differ
    """
    try:
        fd = sys_link.link_create_tracing(
            program.fileno(),
            0,
            target_fd=target.program if target is not None else 0,
            target_btf_id=target.btf_id if target is not None else 0,
        )
    except BpfError as error:
        error.add_context(what)
        raise
    return Link(fd, what)


def by_section(request: Request) -> Link:
    """Attach ``freplace/FUNCTION``. The target was fixed when the program was loaded."""
    return attach_freplace(request.program, what=request.what)
