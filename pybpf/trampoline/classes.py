"""Classes: how few trampolines would do for a set of attachments.

Theory of operation. The kernel makes one trampoline for each traced function.
A trampoline is nothing but its function's model (which registers to save, what
comes back) and the programs to call, in order; so functions that agree in both
could share one, and none needs to save more than its own function has. Such
functions are a class, and "as many trampolines as needed" is the number of
classes. What differs between the functions of a class, the body to go on with,
`bpf_get_func_ip` and the cookie, is data a shared trampoline would look up.

The order in a trampoline is the kernel's (kernel/bpf/trampoline.c): entry side
first, then fmod_ret, then the exit side; on each side the program attached last
runs first, and a session program counts on both sides::

    attached, in this order        called
    a fentry, b fexit, c fentry,   c a | (the function) | d b
    d fexit

So `b` before or after `a` makes no difference, `c` before `a` makes another
class. Pure: attachments in, value out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from enum import Enum

from ..dataclass import dataclass
from ..kernel.functions import KernelFunction
from ..wording import many
from .model import Model, Return

__all__ = [
    "Attachment",
    "CallModel",
    "Class",
    "Classes",
    "Kind",
    "Run",
    "Traced",
    "classify",
    "of_traced",
]


class Kind(Enum):
    """What a program is in a trampoline."""

    FENTRY = "fentry"
    FSESSION = "fsession"
    FMOD_RET = "fmod_ret"
    FEXIT = "fexit"


# Which kinds run on each side of the function, in the order of the sides.
_SIDES: tuple[tuple[str, frozenset[Kind]], ...] = (
    ("entry", frozenset({Kind.FENTRY, Kind.FSESSION})),
    ("entry", frozenset({Kind.FMOD_RET})),
    ("exit", frozenset({Kind.FEXIT, Kind.FSESSION})),
)


@dataclass(frozen=True, slots=True)
class Attachment:
    """One program on some functions, by trampoline.

    :param program: what tells it from others; equal names are the same program
    :param functions: in any order
    """

    program: str
    kind: Kind
    functions: tuple[KernelFunction, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One call of a program in a trampoline.

    :param phase: ``entry`` or ``exit``: before or after the function
    """

    program: str
    kind: Kind
    phase: str

    def __str__(self) -> str:
        return f"{self.program}/{self.kind.value}"


@dataclass(frozen=True, slots=True)
class CallModel:
    """What of a function's model its trampoline depends on.

    :param slots: argument slots (8 bytes each) to save
    :param returns: kind of the return value, None if it is not known
    :param structs: some argument is a struct by value, which may lie on the stack
    """

    slots: int
    returns: Return | None
    structs: bool = False

    @classmethod
    def of(cls, model: Model) -> CallModel:
        return cls(model.slots, model.returns, model.structs)

    def __str__(self) -> str:
        returns = "?" if self.returns is None else self.returns.value
        slots = f"{self.slots} slot" if self.slots == 1 else f"{self.slots} slots"
        return f"{slots}{' (structs)' if self.structs else ''}, returns {returns}"


@dataclass(frozen=True, slots=True)
class Traced:
    """One function and what its trampoline calls, in order.

    :param model: None if BTF does not describe the function
    """

    function: KernelFunction
    runs: tuple[Run, ...]
    model: CallModel | None


@dataclass(frozen=True, slots=True)
class Class:
    """Functions that one trampoline would do for.

    :param runs: what it calls, in order
    :param functions: by module and name
    """

    runs: tuple[Run, ...]
    model: CallModel | None
    functions: tuple[KernelFunction, ...]

    @property
    def programs(self) -> tuple[Run, ...]:
        """Each program once, in order: of a session the entry side only."""
        return tuple(r for r in self.runs if (r.kind, r.phase) != (Kind.FSESSION, "exit"))

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        model = self.model
        return {
            "programs": [{"program": r.program, "kind": r.kind.value} for r in self.programs],
            "slots": None if model is None else model.slots,
            "returns": None if model is None or model.returns is None else model.returns.value,
            "structs": None if model is None else model.structs,
            "functions": [t.label for t in self.functions],
        }


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of a set of attachments, largest first. A value: comparable, printable."""

    classes: tuple[Class, ...]

    @property
    def trampolines(self) -> int:
        """How many trampolines would do."""
        return len(self.classes)

    @property
    def functions(self) -> int:
        """How many the kernel makes: one for each function."""
        return sum(len(c.functions) for c in self.classes)

    def of(self, function: KernelFunction) -> Class | None:
        """The class a function is in, None if nothing of this is attached to it."""
        key = _key(function)
        return next((c for c in self.classes if any(_key(t) == key for t in c.functions)), None)

    def to_dict(self) -> dict[str, object]:
        """For JSON: the two numbers and each class."""
        return {
            "functions": self.functions,
            "trampolines": self.trampolines,
            "classes": [one.to_dict() for one in self.classes],
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict())

    @property
    def summary(self) -> str:
        """One line: what would do, and what the kernel makes."""
        would = f"{many(self.trampolines, 'trampoline')} would do"
        return f"{would} for {many(self.functions, 'function')}, the kernel makes {self.functions}"

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield self.summary
        for one in self.classes:
            model = "no BTF" if one.model is None else str(one.model)
            runs = " ".join(map(str, one.programs))
            yield f"  {many(len(one.functions), 'function')}: {model}: {runs}"

    def __len__(self) -> int:
        return len(self.classes)

    def __iter__(self) -> Iterator[Class]:
        return iter(self.classes)


def _key(function: KernelFunction) -> tuple[object, ...]:
    # What the kernel keys a trampoline by: the BTF id. Names are for what has none.
    if function.btf_id is not None:
        return (function.module, function.btf_id)
    return (function.module, function.name, function.address)


def classify(attachments: Iterable[Attachment]) -> Classes:
    """The classes of what is attached.

    :param attachments: in the order they are attached; see `pybpf.multi.classes` for those of plans
    """
    functions: dict[tuple[object, ...], KernelFunction] = {}
    held: dict[tuple[object, ...], list[tuple[str, Kind]]] = {}
    for one in attachments:
        for key, function in {_key(t): t for t in one.functions}.items():
            known = functions.get(key)
            if known is None or known.model is None:
                functions[key] = function
            held.setdefault(key, []).append((one.program, one.kind))
    return of_traced(
        Traced(
            functions[key],
            tuple(_ordered(programs)),
            None if (model := functions[key].model) is None else CallModel.of(model),
        )
        for key, programs in held.items()
    )


def _ordered(programs: list[tuple[str, Kind]]) -> Iterator[Run]:
    # `programs` as they were attached.
    for phase, kinds in _SIDES:
        for program, kind in reversed(programs):
            if kind in kinds:
                yield Run(program, kind, phase)


def of_traced(traced: Iterable[Traced]) -> Classes:
    """Classes of functions whose trampolines' calls are known, e.g. read from images."""
    found: dict[tuple[tuple[Run, ...], CallModel | None], list[KernelFunction]] = {}
    for one in traced:
        found.setdefault((one.runs, one.model), []).append(one.function)
    out = [
        Class(runs, model, tuple(sorted(functions, key=_rank)))
        for (runs, model), functions in found.items()
    ]
    out.sort(key=lambda c: (-len(c.functions), _rank(c.functions[0])))
    return Classes(tuple(out))


def _rank(function: KernelFunction) -> tuple[object, ...]:
    return (function.module, function.name, function.btf_id or 0, function.address)
