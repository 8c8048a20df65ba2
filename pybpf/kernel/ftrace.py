"""What ftrace can trace, and what kprobes refuse.

``available_filter_functions`` in tracefs has one line per traceable place:
``NAME`` or ``NAME [MODULE]``. It lists each address once, so it gives
one name per function. Static functions with the same name give equal lines.
``available_filter_functions_addrs`` (6.5) puts the address of the call site
in front. That is the function's own address, or 4 more if ``endbr64`` comes first.
"""

from __future__ import annotations

import errno
import os
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import compress, count
from typing import Protocol

from .._sys.files import MOUNT_TRACEFS, required, tracefs_directories
from .._sys.files import read as _read
from ..dataclass import dataclass
from ..digits import hexadecimal
from ..errors import BpfError, DeniedByPolicy, ObjectFormatError, UnsupportedFeature
from ..namedtuple import NamedTuple
from .functions import is_site_of
from .nameindex import index_names

__all__ = [
    "BlacklistEntry",
    "FtraceFunctions",
    "KprobeBlacklist",
    "ListText",
    "Lists",
    "Place",
    "Source",
    "SplitList",
    "open_lists",
    "parse_blacklist",
    "parse_functions",
    "read_blacklist",
    "tracefs",
]

# Holes left by functions of discarded sections (freed init code).
_INVALID = "__ftrace_invalid_address__"
_ADDRESS = 16  # hex digits of an address
# This many searches of the text cost about as much as splitting it and indexing its names.
_SEARCHES_BEFORE_INDEX = 24


class Place(NamedTuple):
    """Describe one line of the list: a place where a function can be traced.

    :ivar name: function name
    :ivar module: kernel module, "" for the kernel itself
    :ivar site: address of the call site, None if the kernel does not tell it
    """

    name: str
    module: str
    site: int | None


class SplitList(NamedTuple):
    """Hold the split list.

    :ivar lines: ``NAME`` or ``NAME [MODULE]``, in file order, without the places that are gone
    :ivar sites: address of each line's call site, None if not known
    """

    lines: tuple[str, ...]
    sites: array[int] | None


class Source(Protocol):
    """Stand for where the traceable functions are read from, when they are needed.

    :raises ObjectFormatError: from any method, if what is needed is malformed
    :raises BpfError: from any method, if the kernel does not let this process read it
    """

    def split(self) -> SplitList:
        """Return the whole list."""

    def starting(self, prefixes: Sequence[str]) -> SplitList:
        """Return the functions whose names start with one of these."""

    def places(self, names: Sequence[str]) -> list[Place]:
        """Find a few names, in any module, in file order."""


class FtraceFunctions:
    """Hold the traceable functions; immutable.

    The list has tens of thousands of lines. It is split only when all lines are needed.

    :param lines: ``NAME`` or ``NAME [MODULE]``, in file order, without the places that are
        gone
    :param sites: address of each line's call site, or None if not known
    :raises ObjectFormatError: from any method of a list made by `of`, as its source
    :raises BpfError: likewise
    """

    def __init__(self, lines: Sequence[str], sites: Sequence[int] | None = None) -> None:
        if sites is not None and len(sites) != len(lines):
            raise ValueError("the number of call sites differs from the number of lines")
        places = None if sites is None else array("Q", sites)
        self._columns: SplitList | None = SplitList(tuple(lines), places)
        self._source: Source | None = None
        self._index: dict[str, int | list[int]] | None = None
        self._searches = 0

    @classmethod
    def of(cls, source: Source) -> FtraceFunctions:
        """Make a list that is read from a source when it is needed."""
        functions = cls(())
        functions._columns, functions._source = None, source
        return functions

    @property
    def lines(self) -> tuple[str, ...]:
        """Return ``NAME`` or ``NAME [MODULE]`` in file order, without places that are gone."""
        return self._split().lines

    @property
    def sites(self) -> Sequence[int] | None:
        """Return the address of each line's call site, None if the kernel does not tell."""
        return self._split().sites

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Iterate over (name, module) of each line. The module is "" for the kernel itself."""
        return map(self.split, self.lines)

    def __contains__(self, name: object) -> bool:
        """Return True if a function with that name is traceable, in any module."""
        return isinstance(name, str) and bool(self.places(name))

    @staticmethod
    def split(line: str) -> tuple[str, str]:
        """Split ``NAME [MODULE]`` into (name, module)."""
        name, bracket, rest = line.partition(" [")
        return name, rest.rstrip("]") if bracket else ""

    def places(self, name: str) -> list[Place]:
        """Find the lines that name `name`, in any module; see `named`."""
        return self.named([name])

    def named(self, names: Iterable[str]) -> list[Place]:
        """Find the lines that have one of these names, in any module, in file order.

        The list is only split if many names were looked up.
        """
        wanted = [n for n in dict.fromkeys(names) if n and " " not in n and "\n" not in n]
        self._searches += len(wanted)
        source = self._source
        if source is not None and self._searches <= _SEARCHES_BEFORE_INDEX:
            return source.places(wanted)
        lines, sites = self.lines, self.sites
        return [
            Place(*self.split(lines[i]), sites[i] if sites else None)
            for i in sorted([i for name in wanted for i in self.positions(name)])
        ]

    def starting(self, prefixes: Sequence[str]) -> FtraceFunctions:
        """Return a list of its own of the functions whose names start with one of these.

        If the list was split already, all of it is returned.

        :param prefixes: not empty
        """
        source = self._source
        return self if source is None else FtraceFunctions(*source.starting(prefixes))

    def positions(self, name: str) -> tuple[int, ...]:
        """Return the positions of the lines that name `name`, in any module. Splits the list."""
        found = self._names().get(name, ())
        return (found,) if isinstance(found, int) else tuple(found)

    def modules(self) -> list[str]:
        """List the modules that have traceable functions, sorted."""
        return sorted({self.split(line)[1] for line in self.lines if line.endswith("]")})

    def names(self) -> list[str]:
        """List all names, each once, in file order."""
        return list(self._names())

    def is_site_of(self, position: int, addr: int) -> bool | None:
        """Tell whether line `position` is the call site of the function at `addr`.

        Return None if the kernel does not tell addresses.
        """
        if self.sites is None:
            return None
        return is_site_of(self.sites[position], addr)

    def to_text(self) -> str:
        """Return the kernel's text of this list, with addresses if they are known."""
        lines: Iterable[str] = self.lines
        if self.sites is not None:
            lines = (f"{a:016x} {x}" for a, x in zip(self.sites, self.lines, strict=True))
        return "".join([f"{line}\n" for line in lines])

    # -- machinery

    def _split(self) -> SplitList:
        # Another thread may split it meanwhile. It sets the columns before it drops the source.
        source = self._source
        if source is not None:
            self._columns = source.split()
            self._source = None
        assert self._columns is not None
        return self._columns

    def _names(self) -> dict[str, int | list[int]]:
        if self._index is None:
            names = [line.partition(" ")[0] if " " in line else line for line in self.lines]
            self._index = index_names(names)
        return self._index


class ListText:
    """Find functions in the text of ``available_filter_functions`` or ``..._addrs``.

    A single name takes half a millisecond, an eighth of what splitting the list does.

    :param read: reads the text, when it is needed
    :param with_addresses: True for the ``_addrs`` file
    """

    def __init__(self, read: Callable[[], bytes], *, with_addresses: bool) -> None:
        self._read = read
        self._with_addresses = with_addresses

    @cached_property
    def _text(self) -> str:
        text = self._read().decode("utf-8", "surrogateescape")
        return f"{text}\n" if text and not text.endswith("\n") else text

    @property
    def has_addresses(self) -> bool:
        """Tell whether the text has call sites. Only its first line is looked at."""
        # kptr_restrict makes them all zero.
        return self._with_addresses and bool(self._text[:_ADDRESS].strip("0 "))

    def split(self) -> SplitList:
        return self._columns(self._text)

    def split_at(self, sites: array[int]) -> SplitList | None:
        """Return the whole list with call sites that were read elsewhere.

        :param sites: the call site of each line, in the order of the file
        :returns: None if these are not as many as the lines
        """
        lines = self._text.removesuffix("\n").split("\n")
        if self._with_addresses or len(lines) != len(sites):
            return None
        return _without_gone(lines, sites) if _INVALID in self._text else _listed(lines, sites)

    def starting(self, prefixes: Sequence[str]) -> SplitList:
        text, addresses = self._text, self._with_addresses
        found = (x for prefix in prefixes for x in _starts_of(text, prefix, addresses=addresses))
        lines = [text[start : text.index("\n", start) + 1] for start in sorted(set(found))]
        return self._columns("".join(lines))

    def places(self, names: Sequence[str]) -> list[Place]:
        found: dict[int, str] = {}
        for name in names:
            if not name.startswith(_INVALID):
                found |= self._lines_with(name)
        return [self._place(found[start]) for start in sorted(found)]

    def _columns(self, text: str) -> SplitList:
        return (_columns_with_addresses if self._with_addresses else _columns)(text)

    def _lines_with(self, name: str) -> dict[int, str]:
        # Whole lines by where they start. The name ends at the line's end or before a module.
        text = self._text
        return {
            start: text[start : text.index("\n", start)]
            for start in _starts_of(text, name, "\n", " [", addresses=self._with_addresses)
        }

    def _place(self, line: str) -> Place:
        lines, sites = self._columns(line)
        return Place(*FtraceFunctions.split(lines[0]), sites[0] if sites else None)


def _starts_of(text: str, prefix: str, *ends: str, addresses: bool) -> Iterator[int]:
    # Where the lines start whose names start so, and end with one of `ends` if there are any.
    whole = [prefix + end for end in ends or [""]]
    if not addresses and text.startswith(tuple(whole)):
        yield 0
    # With addresses, exactly one field comes before the name.
    before = " " if addresses else "\n"
    for needle in [before + name for name in whole]:
        at = text.find(needle)
        while at >= 0:
            start = text.rfind("\n", 0, at) + 1 if addresses else at + 1
            if " " not in text[start:at]:
                yield start
            at = text.find(needle, at + 1)


def _columns(text: str) -> SplitList:
    return SplitList(tuple([x for x in text.split("\n") if x and not x.startswith(_INVALID)]), None)


def _columns_with_addresses(text: str) -> SplitList:
    lines = text.removesuffix("\n").split("\n")
    sites = _addresses(lines)
    if sites is None:
        return _columns_line_by_line(lines)
    names = [line[_ADDRESS + 1 :] for line in lines]
    return _without_gone(names, sites) if _INVALID in text else _listed(names, sites)


def _without_gone(lines: list[str], sites: array[int]) -> SplitList:
    kept = [i for i, line in enumerate(lines) if not line.startswith(_INVALID)]
    return _listed([lines[i] for i in kept], array("Q", [sites[i] for i in kept]))


def _listed(lines: list[str], sites: array[int]) -> SplitList:
    return SplitList(tuple(lines), sites if any(sites) else None)


def _addresses(lines: list[str]) -> array[int] | None:
    # The addresses of lines that have one address, a blank and a name. None if a line differs.
    # Decoding all digits at once takes half the time of line by line.
    heads = "".join([line[: _ADDRESS + 1] for line in lines])
    if len(heads) != (_ADDRESS + 1) * len(lines) or heads[_ADDRESS :: _ADDRESS + 1].strip(" "):
        return None
    if min(map(len, lines), default=0) <= _ADDRESS + 1:
        return None
    try:
        raw = bytes.fromhex(heads)
    except ValueError:
        return None
    if len(raw) != 8 * len(lines):  # fromhex skips blanks
        return None
    table = array("Q", raw)
    if sys.byteorder == "little":
        table.byteswap()
    return table


def _columns_line_by_line(lines: list[str]) -> SplitList:
    kept: list[str] = []
    sites = array("Q")
    offset = 0
    for line in lines:
        addr, _, rest = line.partition(" ")
        if rest and not rest.startswith(_INVALID):
            site = hexadecimal(addr)
            if site is None:
                raise ObjectFormatError(
                    f"not an address: {addr[:40]!r}",
                    file="available_filter_functions_addrs",
                    offset=offset,
                )
            sites.append(site)
            kept.append(rest)
        offset += len(line) + 1
    return _listed(kept, sites)


def parse_functions(data: bytes, *, with_addresses: bool = False) -> FtraceFunctions:
    """Parse ``available_filter_functions`` or ``..._addrs``.

    :param data: text of the file
    :param with_addresses: True for the ``_addrs`` file
    """
    return FtraceFunctions.of(ListText(lambda: data, with_addresses=with_addresses))


@dataclass(frozen=True, slots=True)
class BlacklistEntry:
    """Describe one range that kprobes refuse.

    :param start: first address, 0 if the kernel hides addresses
    :param end: address after the last
    :param name: symbol at the start of the range
    """

    start: int
    end: int
    name: str


class KprobeBlacklist:
    """Hold the ranges where kprobes are refused (noinstr, NOKPROBE_SYMBOL, entry code).

    :param spans: first address of each range, and the address after its last
    :param names: symbol at the start of each
    """

    def __init__(self, spans: Sequence[tuple[int, int]], names: Sequence[str]) -> None:
        self._spans, self._in_order = spans, names
        self._names = frozenset(names)
        # Ranges nest (a section and symbols in it): keep the union, sorted.
        self._starts: list[int] = []
        self._ends: list[int] = []
        last = -1
        for start, end in sorted(spans):
            if start <= last:
                self._ends[-1] = last = max(last, end)
            else:
                self._starts.append(start)
                self._ends.append(end)
                last = end

    @property
    def entries(self) -> tuple[BlacklistEntry, ...]:
        """Return the ranges in the kernel's order."""
        rows = zip(self._spans, self._in_order, strict=True)
        return tuple([BlacklistEntry(start, end, name) for (start, end), name in rows])

    def __len__(self) -> int:
        return len(self._spans)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def to_text(self) -> str:
        """Return the kernel's text of this list."""
        return "".join([f"{e.start:#018x}-{e.end:#018x}\t{e.name}\n" for e in self.entries])

    def covers(self, addr: int) -> bool:
        """Return True if `addr` is in a refused range."""
        at = bisect_right(self._starts, addr) - 1
        return at >= 0 and addr < self._ends[at]

    def refused(self, names: Sequence[str], addresses: Sequence[int]) -> set[int]:
        """Return the positions of the functions that are on the list by name or address."""
        # There are some hundred ranges: they are looked up in the addresses, not the other way.
        ordered = sorted(addresses)
        within: set[int] = set()
        for start, end in zip(self._starts, self._ends, strict=True):
            within.update(ordered[bisect_left(ordered, start) : bisect_left(ordered, end)])
        found: set[int] = set()
        if within:
            found.update(compress(count(), map(within.__contains__, addresses)))
        if not self._names.isdisjoint(names):
            found.update(compress(count(), map(self._names.__contains__, names)))
        return found


def parse_blacklist(data: bytes) -> KprobeBlacklist:
    """Parse ``/sys/kernel/debug/kprobes/blacklist``: lines ``0xSTART-0xEND<tab>NAME``.

    :raises ObjectFormatError: if a line is not of this form
    """
    spans, names = [], []
    offset = 0
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        if line:
            span, _, name = line.partition("\t")
            start, end = map(hexadecimal, span.partition("-")[::2])
            if start is None or end is None:
                raise ObjectFormatError(
                    f"not a range of addresses: {line[:80]!r}",
                    file="kprobes/blacklist",
                    offset=offset,
                )
            spans.append((start, end))
            names.append(name.partition(" ")[0] if " " in name else name)
        offset += len(line) + 1
    return KprobeBlacklist(spans, names)


# -- where the files are ---------------------------------------------------


def tracefs() -> str:
    """Find the directory where tracefs is mounted.

    :raises UnsupportedFeature: if the kernel has no tracefs
    :raises DeniedByPolicy: if it is mounted but this process may not read it
    :raises BpfError: if it or /proc is not mounted; the hint says how to mount it
    """
    denied = ""
    for where in tracefs_directories():
        try:
            os.stat(f"{where}/README")
            return where
        except PermissionError:
            denied = where
        except OSError:
            continue
    if denied:
        from .._sys.lockdown import read_hint

        hint = read_hint("root only: tracefs is mode 700")
        raise DeniedByPolicy(errno.EACCES, f"reading {denied}", hint)
    if b"tracefs" not in required("/proc/filesystems", "whether the kernel has tracefs"):
        raise UnsupportedFeature("tracefs", "4.1", "CONFIG_TRACING is off")
    raise BpfError(errno.ENOENT, "tracefs is not mounted", f"try: {MOUNT_TRACEFS}")


class Lists(NamedTuple):
    """Hold the running kernel's list of traceable functions. It is read when it is needed.

    :ivar plain: without call sites
    :ivar best: with call sites if the kernel tells them; else the same as `plain`
    """

    plain: ListText
    best: ListText


def open_lists(directory: str | None = None) -> Lists:
    """Find the running kernel's list of what can be traced.

    :param directory: where tracefs is mounted; found by `tracefs` if None
    :raises BpfError: as `tracefs` does
    :raises DeniedByPolicy: if the kernel does not let this process read the list
    """
    where = tracefs() if directory is None else directory
    plain, addressed = (f"{where}/available_filter_functions{x}" for x in ("", "_addrs"))
    with _denials(plain), open(plain, "rb"):
        pass  # if it cannot be read, the caller learns that now
    without = ListText(lambda: _list(plain), with_addresses=False)
    try:
        with open(addressed, "rb", buffering=0) as file:
            head = file.read(_ADDRESS + 1)
    except (FileNotFoundError, PermissionError):
        return Lists(without, without)  # before 6.5, or hidden
    if not ListText(lambda: head, with_addresses=True).has_addresses:
        return Lists(without, without)
    return Lists(without, ListText(lambda: _list(addressed), with_addresses=True))


def _list(path: str) -> bytes:
    with _denials(path):
        return _read(path)


@contextmanager
def _denials(path: str) -> Iterator[None]:
    # Says why the list cannot be read.
    try:
        yield
    except PermissionError as error:
        from .._sys.lockdown import read_hint

        hint = read_hint("root only")
        raise DeniedByPolicy(error.errno or errno.EPERM, f"reading {path}", hint) from None
    except FileNotFoundError:
        raise UnsupportedFeature(
            "available_filter_functions", "2.6.29", "CONFIG_DYNAMIC_FTRACE is off"
        ) from None


def read_blacklist(directory: str = "/sys/kernel/debug") -> KprobeBlacklist | None:
    """Read what kprobes refuse. None if debugfs does not tell (not mounted, not root)."""
    try:
        return parse_blacklist(_read(f"{directory}/kprobes/blacklist"))
    except OSError:
        return None
