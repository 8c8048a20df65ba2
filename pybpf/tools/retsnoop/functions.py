"""The traced functions: their numbers, what they return, and which return values are errors.

The attach cookie of a function holds its number and flags; see retsnoop.bpf.c. Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from functools import lru_cache

from ... import errnos
from ...kernel.functions import label
from ...namedtuple import NamedTuple
from ...trampoline.model import Model, Return

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...multi.target import Target

__all__ = [
    "Flag",
    "Function",
    "Key",
    "Outcome",
    "flags_of",
    "format_result",
    "key_of",
    "make_functions",
    "outcome_of",
]

#: What identifies a function: module, name, address.
Key = tuple[str, str, int]


class Flag(enum.IntFlag):
    """Hold bits 32 and up of a cookie, the same as in retsnoop.bpf.c."""

    ENTRY = 1
    NOFAIL = 2
    SIGNEXT = 4
    PTR = 8
    BOOL = 16
    VOID = 32
    GUESS = 64
    BYTE = 128
    SHORT = 256
    WORD = 512


_NONE = Flag(0)
# By bytes of the return value, if above it in the register there may be anything.
_WIDTHS = {1: Flag.BYTE, 2: Flag.SHORT, 4: Flag.WORD}
# As plain numbers. An operation of `enum` takes as long as making a whole `Function`.
_ENTRY, _VOID, _NEVER_FAILS = int(Flag.ENTRY), int(Flag.VOID), int(Flag.NOFAIL | Flag.VOID)


class Function(NamedTuple):
    """Describe one traced function.

    :param id: low half of the attach cookie
    :param name: its name in kallsyms
    :param module: "" for the kernel itself
    :param addr: its address
    :param flags: see `Flag`
    :param ret_size: bytes of the return value, 0 if void or unknown
    :param btf_id: id in the BTF of its module, None if BTF lacks it
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
        """Return ``name`` or ``name [module]``."""
        return label(self.name, self.module)

    @property
    def is_entry(self) -> bool:
        """Return True if it opens a session."""
        return int(self.flags) & _ENTRY != 0

    @property
    def is_void(self) -> bool:
        """Return True if it returns nothing."""
        return int(self.flags) & _VOID != 0

    @property
    def can_fail(self) -> bool:
        """Return True if some return values mean an error."""
        return int(self.flags) & _NEVER_FAILS == 0

    @property
    def cookie(self) -> int:
        """Return the attach cookie, ``__u64``."""
        return self.id | int(self.flags) << 32


def flags_of(model: Model | None) -> Flag:
    """Say what a return value can mean, from the function's model.

    Only signed integers of 4 or 8 bytes and pointers can be errors. Without BTF,
    a value is read as ``int`` if that makes it an error, else as ``long``.
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
    sign = Flag.SIGNEXT if model.signed and model.ret_size in (1, 2) else _NONE
    return Flag.NOFAIL | _WIDTHS.get(model.ret_size, _NONE) | sign


def key_of(function: Target | Function) -> Key:
    """Return what identifies a function."""
    address = function.addr if isinstance(function, Function) else function.address
    return (function.module, function.name, address)


def make_functions(targets: Iterable[Target], entries: Collection[Key]) -> list[Function]:
    """Number the functions, and find out what they return.

    :param targets: functions that will be attached to
    :param entries: functions that open a session
    """
    known: dict[tuple[int, bool], tuple[Flag, int]] = {}  # thousands have some hundred models
    functions = []
    for number, target in enumerate(targets):
        module, name, address = target.module, target.name, target.address
        model, entry = target.prototype, (module, name, address) in entries
        found = known.get((id(model), entry))
        if found is None:
            flags = flags_of(model) | (Flag.ENTRY if entry else _NONE)
            found = known[id(model), entry] = (flags, model.ret_size if model else 0)
        functions.append(Function(number, name, module, address, *found, target.btf_id))
    return functions


class Outcome(NamedTuple):
    """Describe what a function returned.

    :param text: as people read it, e.g. ``-ENOENT`` or ``NULL``
    :param value: the C value, None if it returns nothing
    :param errno: number of the error, None if it is none
    """

    text: str
    value: int | None
    errno: int | None


def outcome_of(function: Function, raw: int) -> Outcome:
    """Read a return register by the function's return type.

    :param raw: ``__s64``, all 64 bits; only the low bits of a narrow type mean anything
    """
    return _outcome(int(function.flags), function.ret_size, raw)


def format_result(function: Function, raw: int) -> str:
    """Format a return value in brackets.

    :param raw: ``__s64``
    """
    return f"[{outcome_of(function, raw).text}]"


@lru_cache(4096)  # functions return one of a few values again and again
def _outcome(bits: int, size: int, raw: int) -> Outcome:
    flags = Flag(bits)
    if flags & Flag.VOID:
        return Outcome("void", None, None)
    value = _value(flags, size, raw)
    error = errnos.is_error(value)
    can_fail = not flags & Flag.NOFAIL
    return Outcome(_text(flags, value), value, -value if error and can_fail else None)


def _value(flags: Flag, size: int, raw: int) -> int:
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


def _text(flags: Flag, value: int) -> str:
    if flags & Flag.BOOL:
        return "true" if value else "false"
    if flags & Flag.PTR and not value:
        return "NULL"
    if errnos.is_error(value):
        name = errnos.name_of(-value)
        return f"-{name}" if name else f"{value}"
    if not flags & Flag.PTR and -(1 << 30) <= value < 1 << 20:
        return f"{value}"
    return f"{value & 0xFFFFFFFFFFFFFFFF:#x}"
