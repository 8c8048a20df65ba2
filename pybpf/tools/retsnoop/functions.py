"""The traced functions: a number for each, what BTF says of their return value, and what it means.

The number is the attach cookie of a function's programs and its index in the
BPF map `funcs`, whose value are the flags. Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from ... import errnos
from ...dataclass import dataclass
from ...kernel.functions import label
from ...trampoline.model import Model, Models, Return

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...btf import Btf
    from ...multi.select import BtfFacts, Candidate

__all__ = ["Flag", "Function", "flags_of", "format_result", "make_functions", "value_of"]


class Flag(enum.IntFlag):
    """Bits of a value of the map `funcs`; retsnoop.bpf.c has the same."""

    ENTRY = 1
    NOFAIL = 2
    SIGNEXT = 4
    PTR = 8
    BOOL = 16
    VOID = 32
    GUESS = 64
    IGNORE = 128


_NONE = Flag(0)


@dataclass(frozen=True, slots=True)
class Function:
    """One traced function.

    :param id: attach cookie
    :param name: as kallsyms has it
    :param module: "" for the kernel itself
    :param addr: its address
    :param flags: see `Flag`
    :param ret_size: bytes of the return value, 0 if void or not known
    :param btf_id: id in the BTF of its module, None if it has none
    :param slots: 8-byte argument slots, None if not known
    :param obstacle: why no trampoline can carry it, "" if one can
    :param kprobe: perf kprobes are not refused on it
    """

    id: int
    name: str
    module: str = ""
    addr: int = 0
    flags: Flag = _NONE
    ret_size: int = 4
    btf_id: int | None = None
    slots: int | None = None
    obstacle: str = ""
    kprobe: bool = True

    @property
    def label(self) -> str:
        """``name`` or ``name [module]``."""
        return label(self.name, self.module)

    @property
    def can_fail(self) -> bool:
        """True if some value it returns means an error."""
        return not self.flags & (Flag.NOFAIL | Flag.VOID)


def flags_of(model: Model | None) -> Flag:
    """What a return value can tell, from the function's model.

    Only signed integers of 4 or 8 bytes and pointers can be errors. Without BTF
    a value is taken for an ``int`` if that makes it an error, else for a ``long``.
    """
    if model is None:
        return Flag.GUESS
    match model.returns:
        case Return.VOID:
            return Flag.VOID | Flag.NOFAIL
        case Return.POINTER:
            return Flag.PTR
        case Return.BOOL:
            return Flag.BOOL | Flag.NOFAIL
        case Return.INT | Return.ENUM if model.signed and model.ret_size == 4:
            return Flag.SIGNEXT
        case Return.INT | Return.ENUM if model.signed and model.ret_size == 8:
            return Flag(0)
    return Flag.NOFAIL


def make_functions(candidates: Sequence[Candidate], btfs: BtfFacts) -> list[Function]:
    """Number the selected functions and look up what they return."""
    models: dict[str, tuple[Btf, Models] | None] = {}
    out = []
    for number, c in enumerate(candidates):
        if c.module not in models:
            btf = btfs.get(c.module)
            models[c.module] = (btf, Models(btf)) if btf is not None else None
        known = models[c.module]
        model = known[1].of_func(c.btf_id) if known and c.btf_id is not None else None
        obstacle = model.obstacle.text if model and model.obstacle else ""
        if model is None:
            obstacle = c.no_btf.text if c.no_btf else "BTF does not describe it"
        out.append(
            Function(
                number,
                c.name,
                c.module,
                c.address,
                flags_of(model) | (Flag.ENTRY if c.entry else Flag(0)),
                model.ret_size if model else 0,
                c.btf_id,
                model.slots if model else None,
                obstacle,
                c.kprobe,
            )
        )
    return out


def value_of(function: Function, raw: int) -> int:
    """The C value of a return register.

    :param raw: ``__s64``, all 64 bits of it; only the low ones of a narrow type mean anything
    """
    flags, size = function.flags, function.ret_size
    if flags & Flag.GUESS:
        low = raw & 0xFFFFFFFF
        narrow = low - (1 << 32) if low >> 31 else low
        return narrow if raw >> 32 in (0, -1) and errnos.is_error(narrow) else raw
    if not 0 < size < 8:
        return raw
    value = raw & ((1 << 8 * size) - 1)
    if flags & Flag.SIGNEXT and value >> (8 * size - 1):
        value -= 1 << 8 * size
    return value


def format_result(function: Function, raw: int) -> str:
    """A return value as both output modes show it, brackets included.

    :param raw: ``__s64``
    """
    flags = function.flags
    if flags & Flag.VOID:
        return "[void]"
    value = value_of(function, raw)
    if flags & Flag.BOOL:
        return "[true]" if value else "[false]"
    if flags & Flag.PTR and not value:
        return "[NULL]"
    if errnos.is_error(value):
        name = errnos.name_of(-value)
        return f"[-{name}]" if name else f"[{value}]"
    if not flags & Flag.PTR and -(1 << 30) <= value < 1 << 20:
        return f"[{value}]"
    return f"[{value & 0xFFFFFFFFFFFFFFFF:#x}]"
