"""Ask the kernel where a function is, without reading any of its tables.

The list of traceable functions takes 300 million instructions to read, the symbols 350: the
kernel looks up and formats every line. For a name that one symbol of the kernel has, three
questions tell as much about it. None of them attaches anything.

1. ``bpf_kallsyms_lookup_name`` (5.16) gives the address of the first symbol of that name. Symbols
   of the kernel itself come before those of modules.
2. perf_event_open of a kprobe at a place where no code is (6.6, and stable kernels before it):
   EADDRNOTAVAIL if several symbols have the name. A name that surely has several is asked about
   first, so that a kernel that does not count them is noticed.
3. ``bpf_snprintf`` of ``%ps`` (5.13) gives the name that ftrace's list has for the address. For
   an alias that is another one, for a module's function it has the module, too.

What nobody tells is whether ftrace can trace the function. A link by address is refused if not.
"""

from __future__ import annotations

import struct

from .._sys import bpf as sys_bpf
from .._sys import perf as sys_perf
from .._sys.element import Element, last_errno
from .._uapi.enums import MapFlag, MapType
from .._uapi.helpers import Helper
from ..asm import insn as asm
from ..asm import opcodes as op
from ..errors import BpfError, UnsupportedFeature
from .sysprog import SyscallProgram

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._sys.fd import Fd

__all__ = ["FunctionFinder"]

# A name of dozens of static functions: every kind of device has one.
_COMMON = "name_show"
_FORMAT = b"%ps\0"
# The program's context: the name with its NUL, how many bytes these are, the result of the
# look-up, the address, the name of that address with its NUL.
_ROOM = 128
_CONTEXT = struct.Struct(f"<{_ROOM}sIiQ{_ROOM}s")
_LENGTH, _RESULT, _ADDRESS, _SAID = _ROOM, _ROOM + 4, _ROOM + 8, _ROOM + 16
# Its stack: the address, the name, what is said.
_AT_ADDRESS, _AT_NAME, _AT_SAID = -8, -8 - _ROOM, -8 - 2 * _ROOM


def _program(form: Fd) -> bytes:
    insns = [asm.mov_reg(op.R6, op.R1)]
    for at in range(0, _ROOM, 8):
        insns += [
            asm.load(op.DW, op.R0, op.R6, at),
            asm.store(op.DW, op.R10, _AT_NAME + at, op.R0),
            asm.store_imm(op.DW, op.R10, _AT_SAID + at, 0),
        ]
    insns += [
        asm.store_imm(op.DW, op.R10, _AT_ADDRESS, 0),
        asm.mov_reg(op.R1, op.R10),
        asm.alu(op.ADD, op.R1, _AT_NAME),
        asm.load(op.W, op.R2, op.R6, _LENGTH),
        # Shows the verifier that the length is at most 127 bytes.
        asm.alu(op.AND, op.R2, _ROOM - 1),
        asm.mov(op.R3, 0),
        asm.mov_reg(op.R4, op.R10),
        asm.alu(op.ADD, op.R4, _AT_ADDRESS),
        asm.call(Helper.BPF_FUNC_kallsyms_lookup_name),
        asm.store(op.W, op.R6, _RESULT, op.R0),
        asm.load(op.DW, op.R0, op.R10, _AT_ADDRESS),
        asm.store(op.DW, op.R6, _ADDRESS, op.R0),
        asm.mov_reg(op.R1, op.R10),
        asm.alu(op.ADD, op.R1, _AT_SAID),
        asm.mov(op.R2, _ROOM),
        *asm.map_value(op.R3, form.fileno(), 0),
        asm.mov_reg(op.R4, op.R10),
        asm.alu(op.ADD, op.R4, _AT_ADDRESS),
        asm.mov(op.R5, 8),
        asm.call(Helper.BPF_FUNC_snprintf),
    ]
    for at in range(0, _ROOM, 8):
        insns += [
            asm.load(op.DW, op.R0, op.R10, _AT_SAID + at),
            asm.store(op.DW, op.R6, _SAID + at, op.R0),
        ]
    return asm.encode([*insns, asm.mov(op.R0, 0), asm.exit_()])


def _format() -> Fd:
    # The helper takes its format from a map that nobody can write to.
    made = sys_bpf.map_create(
        MapType.BPF_MAP_TYPE_ARRAY,
        key_size=4,
        value_size=len(_FORMAT),
        max_entries=1,
        name="pybpf_format",
        map_flags=MapFlag.BPF_F_RDONLY_PROG,
    )
    entry = Element(made.fileno(), 4, len(_FORMAT))
    entry.value[:] = _FORMAT
    if entry.update() < 0:
        made.close()
        raise BpfError(last_errno(), "BPF_MAP_UPDATE_ELEM of pybpf_format")
    sys_bpf.map_freeze(made)
    return made


class FunctionFinder(SyscallProgram):
    """Ask the running kernel for functions of its own. Close it, or use it as a context manager.

    :raises DeniedByPolicy: without CAP_BPF and CAP_PERFMON
    :raises UnsupportedFeature: the kernel does not tell whether several symbols have a name
    :raises BpfError: EINVAL if the kernel does not have such programs or the helpers
    """

    def __init__(self) -> None:
        if not sys_perf.is_shared_name(_COMMON):
            raise UnsupportedFeature("counting the symbols of a name", "6.6")
        with _format() as form:
            super().__init__(_program(form))

    def find(self, name: str) -> int | None:
        """Find the address of a function of the kernel itself by its name.

        :return: None if it has no symbol, several symbols have that name, its address has
            another name in ftrace's list, it is a module's, or the kernel does not tell. The
            tables of symbols and of traceable functions say which.
        """
        text = name.encode("utf-8", "surrogateescape")
        if not text or b"\0" in text or len(text) >= _ROOM - 1:
            return None
        context = _CONTEXT.pack(text, len(text) + 1, 0, 0, b"")
        _, _, errno, address, said = _CONTEXT.unpack(self.run(context))
        if errno or not address or said.partition(b"\0")[0] != text:
            return None
        return None if sys_perf.is_shared_name(name) else int(address)
