"""Last branch records (``-B``): the jumps, calls and returns before a failure. Pure.

The hardware keeps the last 8 to 32 branches of each CPU. They are read when a traced
function returns an error, before our own code has overwritten them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...dataclass import replace
from ...links.branches import BRANCHES
from .stacks import Place, resolve
from .usage import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .events import Branch
    from .stacks import Symbols

__all__ = ["DEFAULT", "Jump", "branch_lines", "jumps", "parse_branches"]

#: What is recorded by default: returns.
DEFAULT = BRANCHES["any_return"]
#: A branch: where it started, where it went.
Jump = tuple[Place, Place]


def parse_branches(text: str) -> int:
    """Return bits of ``perf_event_attr.branch_sample_type`` for a SPEC of ``-B``.

    :raises UsageError: the SPEC is unknown
    """
    if not text:
        return int(DEFAULT)
    if text in BRANCHES:
        return int(BRANCHES[text])
    try:
        value = int(text, 0)
    except ValueError:
        value = 0
    if not 0 < value < 1 << 64:
        raise UsageError(f"-B {text}: give a number, or one of {', '.join(BRANCHES)}")
    return value


def jumps(
    branches: Sequence[Branch], symbols: Symbols, *, touching: int, whole: bool, most: int
) -> tuple[list[Jump], bool]:
    """Name the branches, oldest first.

    The newest branches belong to the tracing itself. Branches newer than the last one that touches
    the deepest traced function are left out.

    :param branches: newest first
    :param touching: address of the deepest traced function
    :param whole: leave no branch out
    :param most: keep only so many of the newest, 0 for all
    :returns: the branches, and whether any touches the function
    """
    named = [(_place(b.start, symbols), _place(b.to, symbols)) for b in branches]
    first = next(
        (n for n, pair in enumerate(named) if touching and touching in [p.start for p in pair]),
        None,
    )
    kept = named if whole or first is None else named[first:]
    if most:
        kept = kept[:most]
    return kept[::-1], first is not None


def _place(address: int, symbols: Symbols) -> Place:
    # These are instructions. (Return addresses are looked up minus one.)
    (found,) = resolve([address + 1], symbols)
    return replace(found, addr=address)


def _text(place: Place) -> str:
    if not place.name:
        return f"{place.addr:#x}"
    module = f" [{place.module}]" if place.module else ""
    return f"{place.name}+{place.addr - place.start:#x}{module}"


def branch_lines(found: Sequence[Jump], touches: bool) -> Iterator[str]:
    """Format the branches as lines, numbered from the newest, which is 0.

    :param touches: some branches touch the deepest traced function
    """
    if not found:
        yield "(no branches were recorded)"
        return
    if not touches:
        yield "(none of these branches touches the function that failed)"
    wide = max(len(_text(one)) for one, _ in found)
    for number, (one, two) in zip(range(len(found) - 1, -1, -1), found, strict=True):
        yield f"[#{number:02}] {_text(one):<{wide}}  ->  {_text(two)}"
