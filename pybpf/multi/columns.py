"""Functions as columns: one list for each of their fields.

A glob may mean 44,000 functions, but a caller looks at only a few. So selecting and planning
work on lists, in one step for all functions. An object is made only for a function that a caller
looks at.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..dataclass import dataclass, field
from .target import Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from ..trampoline.model import Model

    T = TypeVar("T")

__all__ = ["Made", "TargetColumns", "Targets"]


class Made(Sequence["T"]):
    """Behave like a tuple whose items are made on first use. Equal to a tuple of equal items.

    :param count: number of items
    :param make: makes the item at a position
    """

    __slots__ = ("_count", "_items", "_make")

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count = count
        self._make = make
        self._items: tuple[T, ...] | None = None

    def _all(self) -> tuple[T, ...]:
        if self._items is None:
            self._items = tuple(map(self._make, range(self._count)))
        return self._items

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return iter(self._all())

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return self._slice(at)
        return self._make(range(self._count)[at]) if self._items is None else self._items[at]

    def _slice(self, at: slice) -> Sequence[T]:
        return self._all()[at]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (Made, tuple)):
            return NotImplemented
        return len(self) == len(other) and self._all() == tuple(other)

    def __hash__(self) -> int:
        return hash(self._all())

    def __repr__(self) -> str:
        return repr(self._all())


@dataclass(slots=True, eq=False)
class TargetColumns:
    """Hold the fields of `Target`, a list for each, all of one length. BTF id 0 means none."""

    names: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    addresses: array[int] = field(default_factory=lambda: array("Q"))
    btf_ids: array[int] = field(default_factory=lambda: array("I"))
    models: list[Model | None] = field(default_factory=list)
    unique: bytearray = field(default_factory=bytearray)
    kprobe: bytearray = field(default_factory=bytearray)
    occupied: array[int] = field(default_factory=lambda: array("I"))
    may_sleep: list[bool | None] = field(default_factory=list)

    @classmethod
    def of(cls, targets: Sequence[Target]) -> TargetColumns:
        """Make columns from existing targets."""
        return cls(
            [t.name for t in targets],
            [t.module for t in targets],
            array("Q", [t.address for t in targets]),
            array("I", [t.btf_id or 0 for t in targets]),
            [t.model for t in targets],
            bytearray([t.unique for t in targets]),
            bytearray([t.kprobe for t in targets]),
            array("I", [t.occupied for t in targets]),
            [t.may_sleep for t in targets],
        )

    def target(self, at: int) -> Target:
        """Make the target of a row."""
        return Target(
            self.names[at],
            self.modules[at],
            self.addresses[at],
            self.btf_ids[at] or None,
            self.models[at],
            bool(self.unique[at]),
            bool(self.kprobe[at]),
            self.occupied[at],
            self.may_sleep[at],
        )

    def extend(self, other: TargetColumns) -> None:
        """Append the rows of other columns."""
        self.names += other.names
        self.modules += other.modules
        self.addresses += other.addresses
        self.btf_ids += other.btf_ids
        self.models += other.models
        self.unique += other.unique
        self.kprobe += other.kprobe
        self.occupied += other.occupied
        self.may_sleep += other.may_sleep


class Targets(Made[Target]):
    """Hold targets as rows of columns.

    :param columns: must not change any more
    :param rows: numbers of the rows, in the order of the targets; None: all
    """

    __slots__ = ("columns", "rows")

    def __init__(self, columns: TargetColumns, rows: Sequence[int] | None = None) -> None:
        self.columns = columns
        self.rows: Sequence[int] = range(len(columns.names)) if rows is None else rows
        super().__init__(len(self.rows), lambda at: columns.target(self.rows[at]))

    @classmethod
    def of(cls, targets: Iterable[Target]) -> Targets:
        """Make columns of targets. If they are columns already, return the same object."""
        if isinstance(targets, Targets):
            return targets
        items = tuple(targets)
        made = cls(TargetColumns.of(items))
        made._items = items
        return made

    def _slice(self, at: slice) -> Sequence[Target]:
        return Targets(self.columns, self.rows[at])

    def take(self, positions: Sequence[int]) -> Targets:
        """Return some of these targets, as rows of the same columns."""
        rows = self.rows
        return Targets(self.columns, [rows[i] for i in positions])

    def column(self, values: Sequence[T]) -> Sequence[T]:
        """Return the values of a column for these targets, in their order."""
        if isinstance(self.rows, range) and self.rows == range(len(values)):
            return values
        return [values[row] for row in self.rows]

    @property
    def addresses(self) -> Sequence[int]:
        """Return the address of each target."""
        return self.column(self.columns.addresses)

    @property
    def btf_ids(self) -> Sequence[int]:
        """Return the BTF id of each target, 0 if BTF does not describe it."""
        return self.column(self.columns.btf_ids)

    @property
    def modules(self) -> Sequence[str]:
        """Return the module of each target, "" for the kernel itself."""
        return self.column(self.columns.modules)
