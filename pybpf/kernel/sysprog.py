"""Run a small program of our own in the kernel, to ask it something (``BPF_PROG_TYPE_SYSCALL``)."""

from __future__ import annotations

from .._sys import prog as sys_prog
from .._uapi.defines import BPF_F_SLEEPABLE
from .._uapi.enums import ProgType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = ["SyscallProgram"]


class SyscallProgram:
    """Hold a loaded program. Close it, or use it as a context manager.

    :param code: its instructions, encoded
    :raises DeniedByPolicy: without CAP_BPF and CAP_PERFMON
    :raises BpfError: EINVAL if the kernel does not have such programs or a helper
    """

    def __init__(self, code: bytes) -> None:
        self._fd = sys_prog.prog_load(
            ProgType.BPF_PROG_TYPE_SYSCALL,
            code,
            name="pybpf_find",
            prog_flags=BPF_F_SLEEPABLE,
        )

    def run(self, context: bytes) -> bytes:
        """Run it once. Return its context as it is afterwards."""
        return sys_prog.prog_test_run(self._fd, ctx_in=context).ctx_out

    def close(self) -> None:
        """Release the program."""
        self._fd.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
