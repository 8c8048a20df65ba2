"""Some of the symbol table's lines, which are searched, split and sorted when that is needed.

`pybpf.kernel.kallsyms` says why. It holds the table as three stretches: the kernel's own symbols,
the modules', and what BPF and kprobes made.
"""

from __future__ import annotations

import itertools
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import compress

from ..dataclass import dataclass
from ..digits import hexadecimal
from ..errors import ObjectFormatError
from ..namedtuple import NamedTuple
from .functions import label
from .nameindex import index_names

__all__ = ["FUNCTION_TYPES", "PATH", "Columns", "Found", "Stretch", "Symbol"]

#: Symbol types of functions: global, local, weak.
FUNCTION_TYPES = frozenset("TtWw")

PATH = "/proc/kallsyms"
_ADDRESS = 16  # hex digits of an address
_NAME = 19  # column where the name starts
# This many searches cost about as much as the dictionary of all names.
_SEARCHES_BEFORE_INDEX = 24
# This many addresses are searched for in the text. For more, all are decoded.
_FEW = 8
# Characters to split at a time, so few that the pieces fit a processor's cache.
_PART = 1 << 16
# A text of fewer characters is split rather than bisected.
_SHORT = 1 << 16
# This many look-ups by bisecting the text (10 us each) cost as much as the sorted table.
_BISECTIONS_BEFORE_TABLE = 4096


@dataclass(frozen=True, slots=True)
class Symbol:
    """Describe one line of the table.

    :param name: symbol name
    :param addr: address, ``unsigned long``
    :param type: nm letter; functions are ``t T w W``
    :param module: owner: a module's name, ``bpf``, ``__builtin__ftrace``...; ""
        for the kernel itself
    """

    name: str
    addr: int
    type: str
    module: str = ""

    @property
    def is_function(self) -> bool:
        return self.type in FUNCTION_TYPES


def _symbol(line: str, address: int) -> Symbol:
    name, tab, owner = line[_NAME:].partition("\t[")
    return Symbol(name, address, line[17], owner.rstrip("]") if tab else "")


def _address(digits: str) -> int | None:
    return hexadecimal(digits) if len(digits) == _ADDRESS and digits[1] not in "xX" else None


class _Columns(NamedTuple):
    """Hold split lines: names, addresses, type letters and owners (if there are any)."""

    names: list[str]
    addrs: array[int]
    types: str
    owners: list[str]


class Columns(NamedTuple):
    """Hold symbols as columns, one entry for each symbol in file order.

    :ivar addrs: addresses, ``unsigned long``
    :ivar types: nm letters; functions are ``t T w W``
    :ivar modules: owners, "" for the kernel itself
    """

    names: list[str]
    addrs: array[int]
    types: list[str]
    modules: list[str]


class Found(NamedTuple):
    """Hold the symbols whose names start with one of some prefixes, and where their lines start."""

    prefixes: tuple[str, ...]
    starts: list[int]
    rows: Columns


class Stretch:
    """Hold some of the table's lines. They are split and sorted when that is needed.

    :param text: whole lines
    :param offset: bytes of the table before them
    :param core: they are the kernel's own symbols, without an owner. The kernel lists these
        in address order because it bisects the same list (``kernel/kallsyms.c``).
    """

    def __init__(self, text: str, offset: int, *, core: bool = False) -> None:
        self.text = text
        self._offset = offset
        self._core = core
        self._count: int | None = None
        self._columns: _Columns | None = None
        # Positions in address order, None if the lines are in that order already.
        self._order: list[int] | None = None
        self._sorted: array[int] | None = None
        self._names: dict[str, int | list[int]] | None = None
        self._searches = 0
        self._found: Found | None = None
        # Text bisections left before a sorted table is made.
        self._bisections = _BISECTIONS_BEFORE_TABLE if core and self._looks_sorted() else 0

    def __len__(self) -> int:
        if self._count is None:
            self._count = self.text.count("\n")
        return self._count

    def __iter__(self) -> Iterator[Symbol]:
        return map(self._checked, self._lines())

    def function_names(self) -> Iterator[str]:
        # For hints: nothing is checked, so a name costs a tenth of a symbol.
        for lines in self._parts():
            names = (line[_NAME:] for line in lines if line[17:18] in FUNCTION_TYPES)
            yield from names if self._core else (name.partition("\t")[0] for name in names)

    # -- by name

    def expect(self, names: int) -> None:
        self._searches += names

    def by_name(self, name: str) -> list[Symbol]:
        self._searches += 1
        if self._names is None and self._searches > _SEARCHES_BEFORE_INDEX:
            self.names()
        if self._names is not None:
            found = self._names.get(name, ())
            return [self.symbol(i) for i in ((found,) if isinstance(found, int) else found)]
        return [self._checked(self._line_at(start)) for start in sorted(self._named(name))]

    def find_prefix(self, prefix: str) -> list[Symbol]:
        return [self._checked(self._line_at(start)) for start in self._search(f" {prefix}")]

    def names(self) -> dict[str, int | list[int]]:
        if self._names is None:
            self._names = index_names(self._split().names)
        return self._names

    def add_named(self, wanted: Mapping[str, str], prefixes: Sequence[str], to: Columns) -> None:
        if prefixes:
            self._add(self.starting(prefixes).rows, wanted, to)
            self._found = None  # nobody asks for these a third time
        elif self._core:
            self._add_core(wanted, to)
        else:
            for lines in self._parts():
                self._add(self._rows(lines), wanted, to)

    def _add(self, rows: Columns, wanted: Mapping[str, str], to: Columns) -> None:
        known = list(map(wanted.get, rows.names))
        to.names.extend(filter(None, known))  # the caller's strings, not copies
        to.addrs.extend(compress(rows.addrs, known))
        to.types.extend(compress(rows.types, known))
        to.modules.extend(compress(rows.modules, known))

    def _add_core(self, wanted: Mapping[str, str], to: Columns) -> None:
        # Without owners, three words are a line, and the second is one letter.
        for start, end in self._spans():
            words = self.text[start : end - 1].replace("\n", " ").split(" ")
            known = list(map(wanted.get, words[2::3]))
            heads = list(compress(words[::3], known))
            addrs = _decoded(heads)
            if addrs is None or 3 * len("".join(words[1::3])) != len(words):
                self._add(self._rows(self.text[start : end - 1].split("\n")), wanted, to)
                continue
            to.addrs.extend(addrs)
            to.names.extend(filter(None, known))
            to.types.extend(compress(words[1::3], known))
            to.modules.extend([""] * len(heads))

    def starting(self, prefixes: Sequence[str]) -> Found:
        # The symbols whose names start so, in file order. The last answer is kept. Another thread
        # may replace it at any time.
        found = self._found
        if found is None or found.prefixes != tuple(prefixes):
            starts = sorted({start for prefix in prefixes for start in self._search(f" {prefix}")})
            self._found = found = Found(tuple(prefixes), starts, self._rows_at(starts))
        return found

    def exact(self, names: Sequence[str]) -> Found:
        # The symbols that have one of these names, in file order.
        starts = sorted({start for name in names for start in self._named(name)})
        return Found((), starts, self._rows_at(starts))

    def add_labels(self, found: Found, sites: Set[int], endbr: int, to: dict[int, str]) -> None:
        starts, (names, addrs, _, owners) = found.starts, found.rows
        here = [
            (starts[i], addrs[i], addrs[i] + beyond, i)
            for beyond in (0, endbr)
            for i in compress(
                itertools.count(), map(sites.__contains__, map(beyond.__add__, addrs))
            )
        ]
        if not here:
            return
        near = {} if self._core else self._first_lines([x[1] for x in here], endbr)
        for start, addr, site, i in here:
            if self._core:
                named = self._names_sorted(start, addr, site)
            else:
                between = range(addr + 1, site + 1)
                named = near[addr] == start and near.keys().isdisjoint(between)
            if named:
                to[site] = label(names[i], owners[i])

    def _names_sorted(self, start: int, addr: int, place: int) -> bool:
        # Whether the kernel names a place at or after `addr` by the line at `start`: the line is
        # the first of its address, and no symbol is nearer.
        text, head = self.text, self.text[start : start + _ADDRESS]
        if start and text.startswith(head, text.rfind("\n", 0, start - 1) + 1):
            return False
        if place == addr:
            return True
        after = text.index("\n", start) + 1
        while text.startswith(head, after):
            after = text.index("\n", after) + 1
        # As many digits are in the order of their numbers.
        return after == len(text) or text[after : after + _ADDRESS] > f"{place:0{_ADDRESS}x}"

    def _first_lines(self, addrs: Sequence[int], beyond: int) -> dict[int, int]:
        # Where the first line of an address starts, for these addresses and those shortly after.
        if len(addrs) > _FEW:
            lines = self._lines()
            starts = list(itertools.accumulate([len(x) + 1 for x in lines], initial=0))[:-1]
            # Of several lines the first is kept.
            return dict(zip(reversed(self._addresses(lines)), reversed(starts), strict=True))
        found: dict[int, int] = {}
        for stem in {f"{at:0{_ADDRESS}x}"[:-1] for x in addrs for at in (x, x + beyond)}:
            for start in self._heads(stem):
                found.setdefault(self._addr_at(start), start)
        return found

    def _heads(self, digits: str) -> Iterator[int]:
        # Where the lines start whose addresses start so.
        if self.text.startswith(digits):
            yield 0
        found = self.text.find(f"\n{digits}")
        while found >= 0:
            yield found + 1
            found = self.text.find(f"\n{digits}", found + 1)

    # -- by position

    def symbol(self, position: int) -> Symbol:
        names, addrs, types, owners = self._split()
        owner = owners[position] if owners else ""
        return Symbol(names[position], addrs[position], types[position], owner)

    def addrs(self) -> array[int]:
        return self._split().addrs

    # -- by address

    def at(self, addr: int) -> list[Symbol]:
        if self._bisections > 0:
            return list(self._text_at(addr))
        table = self._by_address()
        order = self._order
        low, high = bisect_left(table, addr), bisect_right(table, addr)
        return [self.symbol(order[i] if order else i) for i in range(low, high)]

    def below(self, addr: int) -> int | None:
        """Return the highest symbol address that is not above `addr`."""
        if self._bisections > 0:
            end = self._text_bisect(addr + 1)
            return self._addr_at(self.text.rfind("\n", 0, end - 1) + 1) if end else None
        table = self._by_address()
        at = bisect_right(table, addr)
        return table[at - 1] if at else None

    def above(self, addr: int) -> int | None:
        """Return the lowest symbol address that is above `addr`."""
        if self._bisections > 0:
            start = self._text_bisect(addr + 1)
            return self._addr_at(start) if start < len(self.text) else None
        table = self._by_address()
        at = bisect_right(table, addr)
        return table[at] if at < len(table) else None

    def stop_bisecting(self) -> None:
        """Answer from a sorted table from now on."""
        self._bisections = 0

    # -- machinery

    def _lines(self) -> list[str]:
        lines = self.text.split("\n")
        lines.pop()  # the empty text after the last newline
        return lines

    def _split(self) -> _Columns:
        if self._columns is None:
            columns = _Columns([], array("Q"), "", [])
            types = [self._split_lines(lines, columns) for lines in self._parts()]
            self._columns = columns._replace(types="".join(types))
        return self._columns

    def _spans(self) -> Iterator[tuple[int, int]]:
        # Where some thousand lines start and end. All at once would take 12 MB more than what is
        # kept.
        start = 0
        while start < len(self.text):
            end = self.text.find("\n", start + _PART) + 1 or len(self.text)
            yield start, end
            start = end

    def _parts(self) -> Iterator[list[str]]:
        return (self.text[start : end - 1].split("\n") for start, end in self._spans())

    def _rows_at(self, starts: Sequence[int]) -> Columns:
        ends = map(self.text.index, itertools.repeat("\n"), starts)
        return self._rows([self.text[a:b] for a, b in zip(starts, ends, strict=True)])

    def _rows(self, lines: list[str]) -> Columns:
        addrs, types = self._addresses(lines), [line[17] for line in lines]
        names = [line[_NAME:] for line in lines]
        owners = [""] * len(lines)
        if not self._core:
            split = [name.partition("\t[") for name in names]
            names, owners = [x[0] for x in split], [x[2].rstrip("]") for x in split]
        return Columns(names, addrs, types, owners)

    def _split_lines(self, lines: list[str], to: _Columns) -> str:
        # Appends to the columns and returns the type letters.
        to.addrs.extend(self._addresses(lines))
        if self._core:
            to.names.extend([line[_NAME:] for line in lines])
        else:
            shared: dict[str, str] = {}
            for line in lines:
                name, _, owner = line[_NAME:].partition("\t[")
                to.names.append(name)
                to.owners.append(shared.setdefault(owner, owner.rstrip("]")))
        return "".join([line[17] for line in lines])

    def _addresses(self, lines: list[str]) -> array[int]:
        # Checks the lines as well.
        table = _decoded([line[:_ADDRESS] for line in lines])
        blanks = [line[16:19:2] for line in lines].count("  ")
        if blanks != len(lines) or table is None:
            for line in lines:
                self._checked(line)
                if line[:_ADDRESS].strip("0123456789abcdef"):
                    raise self._bad(line, f"not an address: {line[:_ADDRESS]!r}")
            raise AssertionError("each line has an address")
        return table

    def _by_address(self) -> array[int]:
        if self._sorted is None:
            table = self.addrs()
            order = sorted(range(len(table)), key=table.__getitem__)
            if order != list(range(len(table))):
                self._order = order
                table = array("Q", [table[i] for i in order])
            self._sorted = table
        return self._sorted

    def _looks_sorted(self) -> bool:
        # Checks a sample, so that an unsorted text is never bisected.
        step = len(self.text) // 64
        if len(self.text) < _SHORT or not step:
            return False  # splitting so short a text costs less
        starts = [self.text.rfind("\n", 0, at) + 1 for at in range(0, len(self.text), step)]
        heads = [self.text[start : start + _ADDRESS] for start in starts]
        return heads == sorted(heads) and not "".join(heads).strip("0123456789abcdef")

    def _text_bisect(self, addr: int) -> int:
        # Start of the first line whose address is not below `addr`.
        text = self.text
        self._bisections -= 1
        low, high = 0, len(text)
        while low < high:
            start = text.rfind("\n", low, (low + high) // 2) + 1 or low
            if self._addr_at(start) < addr:
                low = text.index("\n", start) + 1
            else:
                high = start
        return low

    def _text_at(self, addr: int) -> Iterator[Symbol]:
        start = self._text_bisect(addr)
        while start < len(self.text) and self._addr_at(start) == addr:
            line = self._line_at(start)
            yield self._checked(line)
            start += len(line) + 1

    def _addr_at(self, start: int) -> int:
        address = _address(self.text[start : start + _ADDRESS])
        if address is None:
            line = self._line_at(start)
            raise self._bad(line, f"not an address: {line[:_ADDRESS]!r}")
        return address

    def _search(self, needle: str) -> Iterator[int]:
        text = self.text
        found = text.find(needle)
        while found >= 0:
            start = found - (_NAME - 1)
            # A match inside the owner or elsewhere in a line does not count.
            if start == 0 or (start > 0 and text[start - 1] == "\n"):
                yield start
            found = text.find(needle, found + 1)

    def _named(self, name: str) -> Iterator[int]:
        # A name ends at a newline, or at the tab before its owner.
        yield from self._search(f" {name}\n")
        if not self._core:
            yield from self._search(f" {name}\t")

    def _line_at(self, start: int) -> str:
        return self.text[start : self.text.index("\n", start)]

    def _checked(self, line: str) -> Symbol:
        address = _address(line[:_ADDRESS])
        if address is None or line[16:19:2] != "  " or not line[_NAME : _NAME + 1].strip():
            raise self._bad(line, f"not a symbol: {line[:80]!r}")
        return _symbol(line, address)

    def _bad(self, line: str, what: str) -> ObjectFormatError:
        offset = self._offset + f"\n{self.text}".index(f"\n{line}\n")
        return ObjectFormatError(what, file=PATH, offset=offset)


def _decoded(heads: list[str]) -> array[int] | None:
    """Decode addresses of 16 hexadecimal digits all at once; None if one is none."""
    try:
        raw = bytes.fromhex("".join(heads))
    except ValueError:
        return None
    if len(raw) != 8 * len(heads) or set(map(len, heads)) - {_ADDRESS}:  # it skips blanks
        return None
    table = array("Q", raw)
    if sys.byteorder == "little":
        table.byteswap()
    return table
