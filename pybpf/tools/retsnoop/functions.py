"""The traced functions: a number for each, what BTF says of their return value, and what it means.

The number and the flags are the attach cookie of a function; see retsnoop.bpf.c. Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable

from ... import errnos
from ...dataclass import dataclass
from ...kernel.functions import label
from ...trampoline.model import Model, Return

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...multi.target import Target

__all__ = [
    "Flag",
    "Function",
    "Key",
    "flags_of",
    "format_result",
    "key_of",
    "make_functions",
    "value_of",
]

#: What tells a function from all others: module, name, address.
Key = tuple[str, str, int]


class Flag(enum.IntFlag):
    """Bits 32 and up of a cookie; retsnoop.bpf.c has the same."""

    ENTRY = 1
    NOFAIL = 2
    SIGNEXT = 4
    PTR = 8
    BOOL = 16
    VOID = 32
    GUESS = 64


_NONE = Flag(0)


@dataclass(frozen=True, slots=True)
class Function:
    """One traced function.

    :param id: low half of the attach cookie
    :param name: as kallsyms has it
    :param module: "" for the kernel itself
    :param addr: its address
    :param flags: see `Flag`
    :param ret_size: bytes of the return value, 0 if void or not known
    :param btf_id: id in the BTF of its module, None if it has none
    """

    id: int
    name: str
    module: str = ""
    addr: int = 0
    flags: Flag = _NONE
    ret_size: int = 4
    btf_id: int | None = None

    @property
    def label(self) -> str:
        """``name`` or ``name [module]``."""
        return label(self.name, self.module)

    @property
    def can_fail(self) -> bool:
        """True if some value it returns means an error."""
        return not self.flags & (Flag.NOFAIL | Flag.VOID)

    @property
    def cookie(self) -> int:
        """Attach cookie, ``__u64``."""
        return self.id | int(self.flags) << 32


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


def key_of(function: Target | Function) -> Key:
    """What tells a function from all others."""
    address = function.addr if isinstance(function, Function) else function.address
    return (function.module, function.name, address)


def make_functions(targets: Iterable[Target], entries: Collection[Key]) -> list[Function]:
    """Number the functions and say what they return.

    :param targets: functions that will be attached to
    :param entries: those that open a session
    """
    return [
        Function(
            number,
            target.name,
            target.module,
            target.address,
            # Of several functions of one name it is not known whose prototype BTF has.
            flags_of(target.model if target.unique else None)
            | (Flag.ENTRY if key_of(target) in entries else _NONE),
            target.model.ret_size if target.model and target.unique else 0,
            target.btf_id,
        )
        for number, target in enumerate(targets)
    ]


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
