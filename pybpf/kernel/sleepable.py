"""Ask the kernel which functions a sleepable program may be attached to.

A program that may sleep (``fentry.s``, ``fentry.multi.s``) may run only on functions
that the kernel calls sleepable. The verifier decides which these are, and its rule varies:
the error injection list (CONFIG_FUNCTION_ERROR_INJECTION), less some functions; sets of
functions that the kernel and its modules register (``bpf_fentry_test1``, HID-BPF); and on
newer kernels without error injection all stubs of system calls (``__x64_*``). Nothing
shows these sets, so no list of ours could be right. The kernel is asked instead: a program
of two instructions is loaded for each function and closed again. Nothing is attached.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from .._sys import prog as sys_prog
from .._uapi.defines import BPF_F_SLEEPABLE
from .._uapi.enums import AttachType, ProgType
from ..asm import encode
from ..asm import insn as asm
from ..asm import opcodes as op
from ..errors import BpfError, VerifierError
from ..namedtuple import NamedTuple
from .btf import KernelBtf

__all__ = ["MOST", "Question", "is_sleep_refusal", "may_sleep"]

#: Most functions to ask about. One takes 0.1 ms, or 2 ms in an emulated guest.
MOST = 2048

_RETURN_0 = encode((asm.mov(op.R0, 0), asm.exit_()))


class Question(NamedTuple):
    """Name a function to ask about.

    :ivar module: kernel module, "" for the kernel itself
    :ivar btf_id: its BTF_KIND_FUNC in the module's or the kernel's BTF
    """

    module: str
    btf_id: int


def is_sleep_refusal(error: BpfError) -> bool:
    """Return True if the verifier refused a program because its function is not sleepable.

    ``bpf_check_attach_target()`` says "NAME is not sleepable" on every kernel that has
    sleepable programs (5.10 and newer).
    """
    return isinstance(error, VerifierError) and " is not sleepable" in error.log


def may_sleep(questions: Iterable[Question], btf: KernelBtf) -> dict[Question, bool]:
    """Ask the running kernel about each function.

    :returns: True or False for each function. A function is missing if the kernel did not tell:
        a policy forbids loading, the module is gone, or it refuses any program on it.
    """
    found: dict[Question, bool] = {}
    with ExitStack() as opened:
        fds: dict[str, int | None] = {"": 0}
        for question in questions:
            module = question.module
            if module not in fds:
                fds[module] = _open(btf, module, opened)
            fd = fds[module]
            if fd is None:
                continue
            try:
                _load(question.btf_id, fd)
            except BpfError as error:
                if is_sleep_refusal(error):
                    found[question] = False
            else:
                found[question] = True
    return found


def _open(btf: KernelBtf, module: str, opened: ExitStack) -> int | None:
    try:
        return opened.enter_context(btf.fd(module)).fileno()
    except BpfError:
        return None


def _load(btf_id: int, btf_fd: int) -> None:
    sys_prog.prog_load(
        ProgType.BPF_PROG_TYPE_TRACING,
        _RETURN_0,
        name="pybpf_may_sleep",
        expected_attach_type=AttachType.BPF_TRACE_FENTRY,
        prog_flags=BPF_F_SLEEPABLE,
        attach_btf_id=btf_id,
        attach_btf_obj_fd=btf_fd,
    ).close()
