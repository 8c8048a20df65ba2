"""The kernel stack and the chain of traced functions as one list of rows. Pure.

A captured stack has return addresses, so the call is the instruction before.
An address is looked up minus one, and shown relative to that function. Frames
that exist only because of tracing are removed: BPF programs and trampolines,
everything between them and the helper that took the stack, and the function's
own entry, because a trampoline that it calls returns there (``func+5``).

The chain knows the called functions, with results and durations. The stack
knows everything else on the way. Both are outermost first, and are merged by
function. A frame of the stack that is not a traced function stays alone. A
traced function without a frame is marked: it had already returned, or was just
returning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from ...dataclass import dataclass, replace
from .debuginfo import Line
from .events import Frame
from .functions import Function

__all__ = ["Place", "Row", "Symbols", "clean", "merge", "resolve", "with_lines"]

# Symbols that exist only because something is traced.
_TRACER = re.compile(
    r"bpf_trampoline_\d+(_\d+)?|bpf_prog_[0-9a-f]{16}(_.*)?|bpf_dispatcher_\w+|"
    r"(arch_)?rethook_trampoline(_callback)?|__kretprobe_trampoline|ftrace_trampoline|"
    r"return_to_handler|ftrace_(regs_)?(caller|call)"
)
_BPF = re.compile(r"bpf_trampoline_\d+(_\d+)?|bpf_prog_[0-9a-f]{16}(_.*)?")
# A trampoline called at function entry returns here: after 5 bytes, with endbr64 after 9.
_ENTRY_OFFSETS = (5, 9)
# The helper that takes the stack, and everything below it, is never deeper than this.
_HELPER_FRAMES = 6


class Symbols(Protocol):
    """Stand for what names addresses."""

    def lookup(self, addr: int) -> tuple[str, str, int] | None:
        """Return (name, module, start address) of the symbol that covers `addr`, or None."""


@dataclass(frozen=True, slots=True)
class Place:
    """Describe one frame of a kernel stack.

    :param addr: return address
    :param name: symbol, "" if unknown
    :param module: its owner, "" for the kernel itself
    :param start: address of the symbol, 0 if unknown
    :param filtered: belongs to the tracing, not to what is traced
    :param lines: of the call in the source, outermost function first; () if not known
    """

    addr: int
    name: str = ""
    module: str = ""
    start: int = 0
    filtered: bool = False
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """Describe one line of a stack.

    :param place: frame of the kernel stack, or None
    :param frame: call of a traced function, or None
    :param function: the function of `frame`
    """

    place: Place | None
    frame: Frame | None = None
    function: Function | None = None


def resolve(addrs: Sequence[int], symbols: Symbols) -> list[Place]:
    """Name the return addresses of a stack, in the same order."""
    out = []
    for addr in addrs:
        found = symbols.lookup(addr)
        # Nothing calls the handlers that replace a return address.
        if not (found and found[2] == addr and _TRACER.fullmatch(found[0])):
            found = symbols.lookup(addr - 1)
        out.append(Place(addr, *found) if found else Place(addr))
    return out


def clean(places: Sequence[Place]) -> list[Place]:
    """Mark frames that belong to the tracing.

    :param places: frames, innermost first
    :returns: all frames, with `Place.filtered` set where it applies
    """
    marks = [bool(_TRACER.fullmatch(p.name)) for p in places]
    # Everything below the innermost program belongs to the helper that took the stack.
    for i, place in enumerate(places[:_HELPER_FRAMES]):
        if _BPF.fullmatch(place.name):
            marks[:i] = [True] * i
            break
    for i, place in enumerate(places):
        called_from_entry = place.start and place.addr - place.start in _ENTRY_OFFSETS
        if i and marks[i - 1] and called_from_entry and not marks[i]:
            marks[i] = True
    return [replace(p, filtered=mark) for p, mark in zip(places, marks, strict=True)]


def with_lines(places: Sequence[Place], lines: Callable[[int], tuple[Line, ...]]) -> list[Place]:
    """Add the source lines of the calls, except of frames that belong to the tracing.

    :param lines: gives the lines of an instruction of the kernel itself
    """
    # The return address may already be of the next line, or of the next function.
    return [p if p.filtered or p.module else replace(p, lines=lines(p.addr - 1)) for p in places]


def _same(place: Place, function: Function) -> bool:
    if place.start and function.addr:
        return place.start == function.addr
    return place.name == function.name


def merge(
    places: Sequence[Place], frames: Sequence[Frame], functions: Sequence[Function]
) -> Iterator[Row]:
    """Merge a stack and a chain into rows, outermost first.

    :param places: cleaned kernel stack, outermost first
    :param frames: chain of traced calls, outermost first
    :param functions: functions by `Function.id`
    """
    at = 0
    frameless: list[Row] = []
    for frame in frames:
        function = functions[frame.func]
        match = next((i for i in range(at, len(places)) if _same(places[i], function)), None)
        if match is None:
            frameless.append(Row(None, frame, function))
            continue
        for place in places[at:match]:
            yield Row(place)
        yield from frameless
        frameless.clear()
        yield Row(places[match], frame, function)
        at = match + 1
    for place in places[at:]:
        yield Row(place)
    # Usually the innermost function of the chain, as the stack was taken when it returned.
    yield from frameless
