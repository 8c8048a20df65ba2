"""Per-CPU map values: one item per possible CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

from .._sys.cpus import cpus

__all__ = ["PerCpu", "possible_cpus"]


def possible_cpus() -> int:
    """Count the possible CPUs of this machine, which is the length of every `PerCpu` read here.

    The kernel copies ``num_possible_cpus()`` values in the order of the set bits, so holes in
    their numbers do not count.

    :raises BpfError: if sysfs is not mounted
    :raises ObjectFormatError: if the kernel's list is malformed
    """
    return len(cpus("possible"))


class PerCpu(Sequence[Any]):
    """Hold the values of one per-CPU map entry, one for each possible CPU.

    Assigning a `PerCpu`, list or tuple to an entry writes each CPU's own value, and must have
    that length. Assigning anything else, also a record, writes the same value for every CPU.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Iterable[Any]) -> None:
        self._values = tuple(values)

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, cpu: int) -> Any: ...
    @overload
    def __getitem__(self, cpu: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, cpu: int | slice) -> Any:
        return self._values[cpu]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PerCpu):
            return self._values == other._values
        if isinstance(other, (list, tuple)):
            return self._values == tuple(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._values)

    def __repr__(self) -> str:
        return f"PerCpu({list(self._values)!r})"

    def sum(self, key: Callable[[Any], Any] | None = None) -> Any:
        """Add the values of all CPUs.

        :param key: takes the number out of a value, e.g. ``lambda v: v.packets``. Without
            it, arrays are added item by item and records member by member. Members that
            are not numbers keep the value of the first CPU.
        :raises TypeError: if the values are not numbers, arrays or records
        """
        values = self._values if key is None else tuple(map(key, self._values))
        return _add(values)


def _add(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, (int, float)):
        return sum(values)
    if not isinstance(first, tuple):
        raise TypeError(f"values like {first!r} cannot be added")
    columns = zip(*values, strict=True)
    names = getattr(first, "_fields", None)
    if names is None:
        return tuple(_add(column) for column in columns)
    record: Any = first
    changes = {}
    for name, column in zip(names, columns, strict=True):
        if name and isinstance(column[0], (int, float, tuple)):
            changes[name] = _add(column)
    return record._replace(**changes)
