"""Classes: the fewest trampolines that would do for a set of attachments.

Theory of operation. The kernel makes one trampoline for each traced function.
A trampoline depends only on its function's model (which registers to save, what
is returned) and on the programs it calls, in order. Functions that agree in both
could share one trampoline, and none would save more than its own function needs.
Such functions form a class. The number of classes is the number of trampolines
that are really needed. The functions of a class still differ in the body to
continue with, in `bpf_get_func_ip` and in the cookie. A shared trampoline would
look these up as data.

The kernel sets the order in a trampoline (kernel/bpf/trampoline.c). The entry side
comes first, then fmod_ret, then the exit side. On each side the program attached
last runs first. A session program counts on both sides::

    attached, in this order        called

    a fentry, b fexit, c fentry,   c a | (the function) | d b
    d fexit

So attaching `b` before or after `a` makes no difference, but attaching `c` before
`a` gives another class. This module is pure: it takes attachments and returns a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum

from ..dataclass import dataclass
from ..jsontext import dumps
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
    """Say what a program is in a trampoline."""

    FENTRY = "fentry"
    FSESSION = "fsession"
    FMOD_RET = "fmod_ret"
    FEXIT = "fexit"


# The kinds that run on each side of the function. The sides are in call order.
_SIDES: tuple[tuple[str, frozenset[Kind]], ...] = (
    ("entry", frozenset({Kind.FENTRY, Kind.FSESSION})),
    ("entry", frozenset({Kind.FMOD_RET})),
    ("exit", frozenset({Kind.FEXIT, Kind.FSESSION})),
)


@dataclass(frozen=True, slots=True)
class Attachment:
    """Describe one program on some functions.

    :param program: identifies the program; equal names are the same program
    :param functions: in any order
    """

    program: str
    kind: Kind
    functions: tuple[KernelFunction, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Describe one call of a program in a trampoline.

    :param phase: ``entry`` or ``exit``: before or after the function
    """

    program: str
    kind: Kind
    phase: str

    def __str__(self) -> str:
        return f"{self.program}/{self.kind.value}"


@dataclass(frozen=True, slots=True)
class CallModel:
    """Hold the parts of a function's model that its trampoline depends on.

    :param slots: argument slots (8 bytes each) to save
    :param returns: kind of the return value, None if it is not known
    :param structs: some argument is a struct passed by value, which may lie on the stack
    """

    slots: int
    returns: Return | None
    structs: bool = False

    @classmethod
    def of(cls, model: Model) -> CallModel:
        return cls(model.slots, model.returns, model.structs)

    def __str__(self) -> str:
        returns = "?" if self.returns is None else self.returns.value
        slots = many(self.slots, "slot")
        return f"{slots}{' (structs)' if self.structs else ''}, returns {returns}"


@dataclass(frozen=True, slots=True)
class Traced:
    """Describe one function and the calls in its trampoline, in order.

    :param model: None if BTF does not describe the function
    """

    function: KernelFunction
    runs: tuple[Run, ...]
    model: CallModel | None


@dataclass(frozen=True, slots=True)
class Class:
    """Hold functions that could share one trampoline.

    :param runs: the calls in the trampoline, in order
    :param functions: sorted by module and name
    """

    runs: tuple[Run, ...]
    model: CallModel | None
    functions: tuple[KernelFunction, ...]

    @property
    def programs(self) -> tuple[Run, ...]:
        """Return each program once, in order. A session program is listed on the entry side
        only."""
        return tuple(r for r in self.runs if (r.kind, r.phase) != (Kind.FSESSION, "exit"))

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
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
    """Hold the classes of a set of attachments, largest first. Values can be compared and
    printed."""

    classes: tuple[Class, ...]

    @property
    def trampolines(self) -> int:
        """Count the trampolines that would do."""
        return len(self.classes)

    @property
    def functions(self) -> int:
        """Count the trampolines the kernel makes, which is one for each function."""
        return sum(len(c.functions) for c in self.classes)

    def of(self, function: KernelFunction) -> Class | None:
        """Return the class of a function, or None if none of these programs is attached to it."""
        key = _key(function)
        return next((c for c in self.classes if any(_key(t) == key for t in c.functions)), None)

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON: the two counts and each class."""
        return {
            "functions": self.functions,
            "trampolines": self.trampolines,
            "classes": [one.to_dict() for one in self.classes],
        }

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return dumps(self.to_dict())

    @property
    def summary(self) -> str:
        """Say in one line how many would do and how many the kernel makes."""
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
    # The kernel keys a trampoline by the BTF id. A function without an id is keyed by its name.
    if function.btf_id is not None:
        return (function.module, function.btf_id)
    return (function.module, function.name, function.address)


def classify(attachments: Iterable[Attachment]) -> Classes:
    """Group what is attached into classes.

    :param attachments: in the order they are attached; `pybpf.multi.classes` does this for plans
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
    # `programs` are in the order they were attached.
    for phase, kinds in _SIDES:
        for program, kind in reversed(programs):
            if kind in kinds:
                yield Run(program, kind, phase)


def of_traced(traced: Iterable[Traced]) -> Classes:
    """Group functions whose trampoline calls are known, e.g. because they were read from images."""
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
