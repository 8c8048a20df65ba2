"""The values that registers and stack slots of a program can have, as `traits.analyse` knows them.

A value is the context, `Lost`, a pointer into the stack, one of several such pointers, a function,
the address of a map, a known number, or None. `pybpf.multi.traits` explains what they are for.
Where paths join, a value becomes what is true of both.
"""

from __future__ import annotations

from collections.abc import Collection

from ..dataclass import dataclass

__all__ = [
    "CTX",
    "Ctx",
    "Either",
    "Frame",
    "Func",
    "Lost",
    "MapAddress",
    "Stack",
    "State",
    "Value",
    "as_pointer",
    "either",
    "join",
    "join_states",
    "moved",
    "overwrite",
    "places_in",
    "put",
    "tainted",
    "within",
]


class Ctx:
    """Stand for the context pointer."""

    def __repr__(self) -> str:
        return "ctx"


CTX = Ctx()


@dataclass(frozen=True, slots=True)
class Lost:
    """Stand for what may or may not be derived from the context.

    :param why: what lost the proof
    :param at: instruction that did
    """

    why: str
    at: int


@dataclass(frozen=True, slots=True)
class Stack:
    """Point into the BPF stack.

    :param depth: number of the frame, 0 for the program's own
    :param off: bytes from the frame pointer, None if not known
    """

    depth: int
    off: int | None


@dataclass(frozen=True, slots=True)
class Either:
    """Stand for one of these places, or something neither on the stack nor the context."""

    places: frozenset[Stack]


@dataclass(frozen=True, slots=True)
class Func:
    """Stand for the address of a function.

    :param starts: first instructions of the functions that it may be
    """

    starts: frozenset[int]


@dataclass(frozen=True, slots=True)
class MapAddress:
    """Stand for the address of a map, by its number in the object."""

    number: int


Value = Ctx | Lost | Stack | Either | Func | MapAddress | int | None
Frame = dict[int, Value]  # 8-byte slot offset from its frame pointer -> value


@dataclass(slots=True)
class State:
    """Hold the values of all registers, and of the stack frames of the callers too."""

    regs: list[Value]
    frames: list[Frame]

    def copy(self) -> State:
        """Return a state that changes by itself."""
        return State(list(self.regs), [dict(f) for f in self.frames])

    def key(self) -> tuple[object, ...]:
        """Return what is equal for equal states."""
        return (tuple(self.regs), tuple(tuple(sorted(f.items())) for f in self.frames))


def tainted(value: Value) -> bool:
    """Tell whether it is, or may be derived from, the context."""
    return value is CTX or isinstance(value, Lost)


def as_pointer(value: Value) -> Value:
    """Return what stays known of a value that may have become another number."""
    return None if isinstance(value, (int, MapAddress)) else value


_MOST_PLACES = 4  # a value points to, before their offsets are forgotten


def places_in(value: Value) -> Collection[Stack]:
    """Return where on the stack it may point to."""
    if isinstance(value, Stack):
        return (value,)
    return value.places if isinstance(value, Either) else ()


def either(places: Collection[Stack]) -> Value:
    """Make the value that is one of these places, or none of them."""
    if len(places) > _MOST_PLACES:
        places = {Stack(place.depth, None) for place in places}
    whole = {place.depth for place in places if place.off is None}
    kept = frozenset(p for p in places if p.off is None or p.depth not in whole)
    return Either(kept) if kept else None


def within(value: Value, depth: int) -> Value:
    """Return the value after all frames from `depth` on are gone."""
    places = places_in(value)
    if all(place.depth < depth for place in places):
        return value
    return either([place for place in places if place.depth < depth])


def moved(value: Value, delta: int | None) -> Value:
    """Add a number to a pointer into the stack. None: the number is not known."""
    places = [
        Stack(p.depth, None if p.off is None or delta is None else p.off + delta)
        for p in places_in(value)
    ]
    return places[0] if isinstance(value, Stack) else either(places)


def join(a: Value, b: Value, at: int) -> Value:
    """Return what is true of both values, where their paths join at an instruction."""
    if a is b or a == b:
        return a
    if isinstance(a, Lost):
        return a
    if isinstance(b, Lost):
        return b
    if a is CTX or b is CTX:
        return Lost("it holds the context on one path and something else on another", at)
    if isinstance(a, Func) and isinstance(b, Func):
        return Func(a.starts | b.starts)
    return either({*places_in(a), *places_in(b)})


def join_states(old: State, new: State, at: int) -> bool:
    """Widen `old` by `new`. Return True if that changed it."""
    changed = False
    for reg, value in enumerate(new.regs):
        merged = join(old.regs[reg], value, at)
        if merged != old.regs[reg] or (merged is None) != (old.regs[reg] is None):
            old.regs[reg] = merged
            changed = True
    for mine, theirs in zip(old.frames, new.frames, strict=True):
        for off in {*mine, *theirs}:
            changed |= put(mine, off, join(mine.get(off), theirs.get(off), at))
    return changed


def put(frame: Frame, off: int, value: Value) -> bool:
    """Set a slot. Return True if that changed the frame."""
    if value == frame.get(off):
        return False
    if value is None:
        del frame[off]
    else:
        frame[off] = value
    return True


def overwrite(frame: Frame, slot: int, where: int | None, size: int, value: Value) -> None:
    """Follow a store that may have gone here or elsewhere.

    :param slot: the instruction
    :param where: offset from the frame pointer; None: any place of this frame
    :param size: bytes
    """
    for off, old in list(frame.items()):
        if where is None:
            lost = Lost("a store to a varying place may have replaced it", slot)
            put(frame, off, lost if tainted(old) else join(old, None, slot))
        elif off < where + size and where < off + 8:
            put(frame, off, join(old, value if off == where else None, slot))
    if where is not None and where not in frame:
        put(frame, where, join(None, value, slot))
