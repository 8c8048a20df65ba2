"""From a linked program to a `Template` and back to the records the kernel takes."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from ..asm import decode
from ..asm.edit import Code
from ..btf import Btf
from ..errors import PlanError
from ..obj.linker import LinkedProgram
from .plan import Template
from .traits import Hook

__all__ = ["make_template", "pack_info"]

_KFUNC = re.compile(r"kfunc '(bpf_session_\w+)'").fullmatch
_FUNC = struct.Struct("<II")  # struct bpf_func_info: insn_off (slots), type_id
_LINE = struct.Struct("<IIII")  # struct bpf_line_info: insn_off, file_name_off, line_off, line_col


def make_template(
    linked: LinkedProgram,
    btf: Btf | None,
    *,
    hook: Hook,
    sleepable: bool = False,
    static: Callable[[int], int] = lambda type_id: type_id,
) -> Template:
    """A `Template` of a linked multi program.

    :param btf: the object's BTF, for source lines in messages
    :param static: BTF id of a FUNC -> id of its twin with static linkage
    :raises PlanError: if it refers to modules, which images cannot carry along
    """
    if linked.btf_fd_refs or linked.kfunc_modules:
        raise PlanError(
            f"program {linked.name!r}: a multi program cannot use kernel modules' kfuncs or symbols"
        )
    insns = tuple(decode(linked.insns))
    funcs = tuple(_FUNC.iter_unpack(linked.func_info))
    lines = tuple(_LINE.iter_unpack(linked.line_info))
    calls = {number: m[1] for number, what in linked.unresolved.items() if (m := _KFUNC(what))}
    kfuncs = {
        slot: calls[insn.imm]
        for slot, insn in enumerate(insns)
        if insn.is_call and insn.src == 0 and insn.imm in calls
    }
    source = {}
    if btf is not None:
        for slot, file_off, line_off, line_col in lines:
            file = btf.string(file_off).rpartition("/")[2]
            source[slot] = f"{file}:{line_col >> 10}: {btf.string(line_off).strip()}"
    return Template(
        linked.name,
        Code(insns, funcs, lines),
        hook,
        sleepable,
        kfuncs,
        source,
        static,
        calls,
        linked.kfunc_args,
    )


def pack_info(code: Code) -> tuple[bytes, bytes]:
    """func_info and line_info records of a code, as BPF_PROG_LOAD takes them."""
    return (
        b"".join(_FUNC.pack(*row) for row in code.func_info),
        b"".join(_LINE.pack(*row) for row in code.line_info),
    )
