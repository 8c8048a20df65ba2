"""The watched functions: a number for each, and how its return value tells an error. Pure."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator

from ...dataclass import dataclass
from ...kernel.functions import KernelFunction, label
from ...trampoline.model import Model, Return

__all__ = ["Flag", "Function", "Functions", "flags_of"]

_FLAGS_AT, _ATTACHMENT_AT = 32, 40  # bits of a cookie


class Flag(enum.IntFlag):
    """Say how a return value tells an error: ``enum func_flags`` of funcwatch.bpf.c."""

    NONE = 0
    INT4 = 1
    INT8 = 2
    GUESS = 4


@dataclass(frozen=True, slots=True)
class Function:
    """Describe one watched function.

    :param number: index into the map `stats`
    :param name: its name in kallsyms; with ``@0xADDRESS`` if several in a module share it
    :param module: "" for the kernel itself
    """

    number: int
    name: str
    module: str

    @property
    def label(self) -> str:
        """Return ``name`` or ``name [module]``."""
        return label(self.name, self.module)


def flags_of(model: Model | None) -> Flag:
    """Say how the return value of a function tells an error.

    Signed integers of 4 or 8 bytes and pointers can tell one. Without BTF the type is guessed, as
    in retsnoop: an ``int`` if that makes it an error, else 8 bytes.
    """
    if model is None:
        return Flag.GUESS
    match model.returns:
        case Return.POINTER:
            return Flag.INT8
        case Return.INT | Return.ENUM if model.signed and model.ret_size == 4:
            return Flag.INT4
        case Return.INT | Return.ENUM if model.signed and model.ret_size == 8:
            return Flag.INT8
    return Flag.NONE


# Module, name, and the address if others have the same name.
_Key = tuple[str, str, int]


class Functions:
    """Number functions. A function always keeps its number.

    :param functions: functions to number first, in order
    """

    def __init__(self, functions: Iterable[KernelFunction]) -> None:
        first = list(functions)
        names = Counter((f.module, f.name) for f in first)
        self._shared = {who for who, count in names.items() if count > 1}
        self._numbers: dict[_Key, int] = {}
        self._all: list[Function] = []
        for function in first:
            self.number(function)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Function]:
        return iter(self._all)

    def __getitem__(self, number: int) -> Function:
        return self._all[number]

    def _key(self, function: KernelFunction) -> _Key:
        module, name = function.module, function.name
        return (module, name, function.address if (module, name) in self._shared else 0)

    def knows(self, function: KernelFunction) -> bool:
        """Return True if the function already has a number."""
        return self._key(function) in self._numbers

    def number(self, function: KernelFunction) -> int:
        """Return the number of a function. A new function gets a new number."""
        module, name, address = key = self._key(function)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._all)
            shown = f"{name}@{address:#x}" if address else name
            self._all.append(Function(number, shown, module))
        return number

    def cookie(self, function: KernelFunction, attachment: int) -> int:
        """Make the attach cookie: number, how the function tells errors, number of the attachment.

        :param attachment: number of the attachment, from 1
        """
        flags = flags_of(function.model) << _FLAGS_AT
        return self.number(function) | flags | attachment << _ATTACHMENT_AT
