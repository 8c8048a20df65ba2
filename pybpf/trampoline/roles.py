"""The parts of a trampoline image, and the ways a traced function's entry is patched.

Pure: enums and frozen values that `pybpf.trampoline.decode` fills.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, Flag, auto

from ..dataclass import dataclass

__all__ = [
    "NOP5",
    "DecodedImage",
    "Entry",
    "Instruction",
    "ProgramCall",
    "Role",
    "Symbolizer",
    "TrampFlag",
    "decode_entry",
]

Symbolizer = Callable[[int], "tuple[str, int] | None"]
"""Kernel address -> (symbol, offset in bytes), or None if no symbol covers it."""

_U64 = (1 << 64) - 1


class Role(Enum):
    """Say what an instruction of a trampoline is for."""

    ENDBR = "indirect branch landing pad"
    CALL_DEPTH = "call depth accounting"
    FRAME = "build the frame"
    TAIL_CALL_CNT = "tail call counter"
    SAVE_RBX = "save rbx"
    NREGS = "number of argument slots into ctx[-1]"
    IP = "address of the traced function into its ip slot"
    SAVE_ARG = "argument register into the context"
    STACK_ARG = "argument on the caller's stack into the context"
    TRAMP_ENTER = "hold the image: __bpf_tramp_enter(image)"
    ZERO_RET = "clear the return value slot"
    ZERO_COOKIE = "clear a session cookie"
    FUNC_META = "ctx[-1] for session programs: cookie index, is_return bit"
    SKIP_SLOT = "nop that detaching turns into a jump over the program"
    COOKIE = "attach cookie into run_ctx"
    PROG_ENTER = "enter(prog, &run_ctx)"
    SKIP_PROG = "enter said 0: skip the program"
    CTX = "r1 = &ctx[0]"
    CALL_PROG = "run the program"
    STORE_RET = "rax into the return value slot"
    PROG_EXIT = "exit(prog, start, &run_ctx)"
    FMOD_TEST = "fmod_ret returned non-zero: skip the original"
    RESTORE_ARG = "argument register back from the context"
    OUT_ARG = "stack argument for the original function"
    CALL_ORIG = "call the original function"
    IP_AFTER_CALL = "nop that releasing the image turns into a jump to its end"
    ALIGN = "alignment"
    TRAMP_EXIT = "release the image: __bpf_tramp_exit(image)"
    LOAD_RET = "return value slot into rax"
    RESTORE_RBX = "restore rbx"
    LEAVE = "drop the frame"
    SKIP_FRAME = "drop the return address into the traced function"
    RET = "return"
    UNKNOWN = "not recognised"


class TrampFlag(Flag):
    """Say how an image was built. Names follow ``BPF_TRAMP_F_*`` where those exist."""

    CALL_ORIG = auto()  #: calls the original function itself
    SKIP_FRAME = auto()  #: returns to the caller of the traced function by dropping a frame
    RESTORE_REGS = auto()  #: gives the argument registers back before it returns
    IP_ARG = auto()  #: keeps the traced function's address for bpf_get_func_ip
    ORIG_STACK = auto()  #: finds the original through the stack (a live patch shares it)
    TAIL_CALL_CTX = auto()  #: carries a tail call counter
    JMP_ENTRY = auto()  #: entered by jmp, not call: no return address to skip
    SKIP_SLOTS = auto()  #: has a patchable nop before each program (7.2 and newer)
    RELEASED = auto()  #: being released: the nop after the original call is now a jump

    @property
    def names(self) -> tuple[str, ...]:
        """Return the lower-case names of the set flags, in the order above."""
        return tuple(str(f.name).lower() for f in type(self) if f in self)


@dataclass(frozen=True, slots=True)
class Instruction:
    """Describe one x86-64 instruction of an image.

    :param offset: bytes from the start of the image
    :param raw: its bytes
    :param text: Intel syntax, as capstone prints it
    :param role: what it is for
    :param index: argument slot (SAVE_ARG, RESTORE_ARG, STACK_ARG, OUT_ARG) or number of
        the program in call order (SKIP_SLOT .. PROG_EXIT), else None
    :param target: address a call or jump goes to, or None
    :param symbol: ``name`` or ``name+0xOFF`` of the target, or ""
    """

    offset: int
    raw: bytes
    text: str
    role: Role = Role.UNKNOWN
    index: int | None = None
    target: int | None = None
    symbol: str = ""

    @property
    def label(self) -> str:
        """Return role and index, e.g. ``SAVE_ARG(2)``."""
        return self.role.name if self.index is None else f"{self.role.name}({self.index})"

    @property
    def comment(self) -> str:
        """Return the role in words, with the symbol of a call."""
        words = self.role.value
        if self.index is not None:
            if self.role in _ARG_ROLES:
                words = f"{words}: ctx[{self.index}]"
            else:
                words = f"program {self.index}: {words}"
        return f"{words} -> {self.symbol}" if self.symbol else words


_ARG_ROLES = frozenset({Role.SAVE_ARG, Role.STACK_ARG, Role.RESTORE_ARG, Role.OUT_ARG})


@dataclass(frozen=True, slots=True)
class ProgramCall:
    """Describe one call of a program in an image. A session program has two.

    :param kind: ``fentry``, ``fmod_ret``, ``fexit`` or ``fsession``, derived from the place
    :param phase: ``entry`` (before the original runs) or ``exit``
    :param prog: kernel address of its ``struct bpf_prog``
    :param address: address called: the program's machine code, or an interpreter
    :param symbol: name at that address, e.g. ``bpf_prog_59f4a931744dcdc6_t``, or ""
    :param cookie: ``bpf_attach_cookie`` passed to it (u64)
    :param enter: symbol of its enter function, or ""
    :param detached: its skip slot is a jump, so the program no longer runs
    :param offset: offset of its call instruction, in bytes
    """

    kind: str
    phase: str
    prog: int
    address: int
    symbol: str
    cookie: int
    enter: str
    detached: bool
    offset: int

    @property
    def sleepable(self) -> bool:
        """Return True if it is entered through a sleepable variant, so it may sleep."""
        return "sleepable" in self.enter


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Describe a decoded trampoline image. Offsets called `*_offset` are bytes from rbp.

    :param address: where the image is loaded
    :param size: bytes of code decoded, up to and including the return
    :param slots: argument slots saved (8 bytes each)
    :param stack_size: bytes the frame takes below rbp, as ``sub rsp`` says
    :param ctx_offset: offset of ctx[0]
    :param ret_offset: offset of the return value, or None if the image keeps none
    :param ip: address of the traced function if the image contains it
    :param original: address that call_orig calls, or None
    :param programs: in the order they are called
    :param problems: contradictions, in words; empty for a healthy image
    :param trailing: bytes given but not decoded
    """

    address: int
    size: int
    instructions: tuple[Instruction, ...]
    flags: TrampFlag
    slots: int
    stack_size: int
    ctx_offset: int | None
    ret_offset: int | None
    nregs_offset: int | None
    ip_offset: int | None
    rbx_offset: int | None
    run_ctx_offset: int | None
    ip: int | None
    original: int | None
    programs: tuple[ProgramCall, ...]
    problems: tuple[str, ...]
    trailing: int

    @property
    def kinds(self) -> dict[str, int]:
        """Count the programs of each kind. A session program counts once."""
        counts: dict[str, int] = {}
        for call in self.programs:
            if not (call.kind == "fsession" and call.phase == "exit"):
                counts[call.kind] = counts.get(call.kind, 0) + 1
        return counts


@dataclass(frozen=True, slots=True)
class Entry:
    """Describe how the first bytes of a traced function are patched.

    :param how: ``call``, ``jmp``, ``nop`` (not traced) or ``other``
    :param offset: bytes from the function's start to that instruction
    :param target: where the call or jmp goes, or None
    :param after: offset of the function's body after the patch; call_orig goes there
    """

    how: str
    offset: int
    target: int | None
    after: int


_BRANCHES = {b"\xe8": "call", b"\xe9": "jmp"}
NOP5 = b"\x0f\x1f\x44\x00\x00"
# What may stand before the patched instruction: endbr64, or the 4-byte nops (one of them a
# marker) that sealing or ftrace writes over it.
_PADS = (b"\xf3\x0f\x1e\xfa", b"\x0f\x1f\x40\xd6", b"\x66\x0f\x1f\x00", b"\x0f\x1f\x40\x00")


def decode_entry(data: bytes, address: int) -> Entry:
    """Find out how a function's entry is patched.

    :param data: its first bytes; 9 are enough
    :param address: address of the function
    """
    start = 4 if data[:4] in _PADS else 0
    insn = data[start : start + 5]
    if len(insn) == 5 and insn[:1] in _BRANCHES:
        displacement = int.from_bytes(insn[1:], "little", signed=True)
        target = (address + start + 5 + displacement) & _U64
        return Entry(_BRANCHES[insn[:1]], start, target, start + 5)
    if insn == NOP5:
        return Entry("nop", start, None, start + 5)
    return Entry("other", start, None, start)
