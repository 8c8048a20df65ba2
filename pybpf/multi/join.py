"""Join ftrace's list, kallsyms, BTF and our own lists into candidates: one row a function.

`pybpf.multi.select` says what the traps are. Everything here works on columns.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence, Set
from itertools import repeat
from operator import itemgetter, sub

from ..bulk import picked, places_of
from ..dataclass import dataclass
from ..kernel.ftrace import FtraceFunctions
from ..kernel.functions import SITE_OFFSETS, is_site_of, label
from ..kernel.globs import Matcher, Pattern
from ..kernel.kallsyms import FUNCTION_TYPES, Columns
from ..kernel.nameindex import index_names
from ..namedtuple import NamedTuple
from ..wording import many
from .candidates import Ask, Candidate, CandidateColumns, SelectFacts
from .denylist import denied, never_returns, risky
from .reasons import Reason, Skipped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..btf.decode import FuncColumns
    from ..kernel.kallsyms import Kallsyms

__all__ = [
    "answered",
    "by_module",
    "describe",
    "join",
    "matched",
    "no_btf_reason",
    "refused",
    "symbols_named",
]

# Up to this many names are searched one by one. For more, one pass over all symbols is faster.
_FEW = 24
# Up to this many beginnings are searched for. For more, splitting the whole list is faster.
_SEARCHES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """Hold the lines of ftrace's list that patterns match, in file order.

    :ivar sites: address of each line's call site, None if the kernel does not say
    :ivar entry: positions of the lines that an entry pattern matches
    """

    lines: Sequence[str]
    sites: Sequence[int] | None
    entry: Set[int]

    def take(self, positions: Sequence[int]) -> Lines:
        """Return some of the lines."""
        sites, entry = self.sites, self.entry
        return Lines(
            [self.lines[i] for i in positions],
            None if sites is None else [sites[i] for i in positions],
            {new for new, i in enumerate(positions) if i in entry} if entry else entry,
        )


def matched(
    functions: FtraceFunctions, entries: Sequence[Pattern], allows: Sequence[Pattern]
) -> Lines:
    """Return the lines of ftrace's list that patterns match."""
    both, entry, allow = Matcher([*entries, *allows]), Matcher(entries), Matcher(allows)
    if both.is_exact:  # then the whole list and its columns are not needed
        places = [(label(p.name, p.module), p.site) for p in functions.named(both.names)]
        places = [place for place in places if both.matches(place[0])]
        lines = [line for line, _ in places]
        sites = [site for _, site in places if site is not None]
        marked = {i for i, line in enumerate(lines) if entry.matches(line)}
        return Lines(lines, sites if len(sites) == len(lines) else None, marked)
    if 0 < len(beginnings := both.beginnings) <= _SEARCHES:
        functions = functions.starting(beginnings)
    found = Lines(functions.lines, functions.sites, entry.positions(functions))
    if both.is_all:
        return found
    positions = allow.positions(functions) | found.entry
    return found if len(positions) == len(functions) else found.take(sorted(positions))


def answered(
    ask: Ask, entries: Sequence[Pattern], allows: Sequence[Pattern]
) -> CandidateColumns | None:
    """Make the columns of exact names from answers about each, if all of them are answered.

    :returns: names, modules, addresses and marks, in address order, as ftrace lists the kernel's
        functions; None if the tables have to tell
    """
    patterns = [*entries, *allows]
    names = dict.fromkeys(p.name for p in patterns)
    if len(names) > _FEW or not all(p.is_exact and not p.owner for p in patterns):
        return None
    if risky(list(names)):
        return None
    found: dict[int, str] = {}
    for name in names:
        address = ask(name)
        if address is None:
            return None
        found[address] = name
    if len(found) < len(names):
        return None
    marked = {p.name for p in entries}
    order = sorted(found)
    return CandidateColumns(
        [found[address] for address in order],
        [""] * len(order),
        array("Q", order),
        bytearray(b"\1") * len(order),
        bytearray([found[address] in marked for address in order]),
    )


def refused(name: str, module: str, at_exit: bool) -> Skipped | None:
    """Say why our own lists forbid a function; None if they do not."""
    rule = denied(name)
    if rule is not None:
        return Skipped(name, module, Reason.DENIED, rule.why)
    if at_exit and never_returns(name):
        return Skipped(name, module, Reason.NORETURN, hint="an entry program can be attached")
    return None


class _Named(NamedTuple):
    # Lines of ftrace's list with the name and the module of each.
    wanted: Lines
    names: list[str]
    modules: list[str]

    def skip(self, line: int, reason: Reason, detail: str) -> tuple[int, Skipped]:
        return line, Skipped(self.names[line], self.modules[line], reason, detail)


class _Found(NamedTuple):
    # Functions: the line of each, its address, and positions of those that share their name.
    # `lost` has the lines without a function, with the reason.
    rows: list[int]
    addresses: list[int]
    shared: list[int]
    lost: list[tuple[int, Skipped]]


def join(facts: SelectFacts, wanted: Lines, to: CandidateColumns, at_exit: bool) -> list[Skipped]:
    """Find the addresses of functions and fill the columns that follow from them.

    :returns: functions that got no row
    """
    named, skipped = _allowed(wanted, at_exit)
    if not named.names:
        return skipped
    found = _found(named, symbols_named(facts.kallsyms, named.names))
    rows = found.rows
    to.addresses = array("Q", found.addresses)
    to.unique = bytearray(b"\1") * len(rows)
    for row in found.shared:
        to.unique[row] = 0
    if len(set(to.addresses)) < len(rows):
        rows = _without_aliases(named, found, to)
    to.names = list(picked(named.names, rows))
    modules, entry = named.modules, named.wanted.entry
    to.modules = list(picked(modules, rows)) if any(modules) else [""] * len(rows)
    to.entry = bytearray([i in entry for i in rows]) if entry else bytearray(len(rows))
    found.lost.sort(key=itemgetter(0))
    return skipped + [one for _, one in found.lost]


def _allowed(wanted: Lines, at_exit: bool) -> tuple[_Named, list[Skipped]]:
    # Drops the lines that our own lists forbid.
    names, modules = list(wanted.lines), [""] * len(wanted.lines)
    for i in [i for i, line in enumerate(names) if " " in line]:
        names[i], modules[i] = FtraceFunctions.split(names[i])
    skipped: list[Skipped] = []
    out = set()
    bad = risky(names)
    for i in [i for i, name in enumerate(names) if name in bad] if bad else ():
        if (refusal := refused(names[i], modules[i], at_exit)) is not None:
            out.add(i)
            if refusal not in skipped[-1:]:
                skipped.append(refusal)
    if not out:
        return _Named(wanted, names, modules), skipped
    left = [i for i in range(len(names)) if i not in out]
    some = _Named(wanted.take(left), [names[i] for i in left], [modules[i] for i in left])
    return some, skipped


def _found(named: _Named, symbols: Columns) -> _Found:
    # Finds the symbol behind each line, by its label.
    labels = list(symbols.names)
    if any(symbols.modules):
        for i in [i for i, module in enumerate(symbols.modules) if module]:
            labels[i] = label(labels[i], symbols.modules[i])
    by_label = index_names(labels)
    lines, sites = index_names(named.wanted.lines), named.wanted.sites
    firsts = list(lines.values())
    at = list(map(by_label.get, lines))
    del labels, by_label, lines  # 5 MB for a whole kernel
    plain, odd = _plain(symbols, at, firsts, sites)
    found = _Found([], [], [], [])
    done = 0
    for i in odd:
        found.rows.extend(firsts[done:i])  # type: ignore[arg-type]
        found.addresses.extend(plain[done:i])
        done = i + 1
        every, some = _several(firsts[i]), _several(at[i])
        addresses, why = _told_apart(symbols, some, every, sites)
        first = every[0]
        if why is not None:
            found.lost.append(named.skip(first, *why))
        # A lookup by name in the kernel takes the first symbol of any type.
        if len({symbols.addrs[x] for x in some}) > 1:
            found.shared.extend(range(len(found.rows), len(found.rows) + len(addresses)))
        found.rows.extend([first] * len(addresses))
        found.addresses.extend(addresses)
    found.rows.extend(firsts[done:])  # type: ignore[arg-type]
    found.addresses.extend(plain[done:])
    return found


def _without_aliases(named: _Named, found: _Found, to: CandidateColumns) -> list[int]:
    # Drops all but the first function of an address from addresses, `unique` and rows.
    lines = named.wanted.lines
    seen: dict[int, int] = {}
    kept = []
    for i, (line, address) in enumerate(zip(found.rows, to.addresses, strict=True)):
        if address in seen:
            detail = f"{lines[seen[address]]} is at the same address"
            found.lost.append(named.skip(line, Reason.ALIAS, detail))
        else:
            seen[address] = line
            kept.append(i)
    to.addresses = array("Q", [to.addresses[i] for i in kept])
    to.unique = bytearray([to.unique[i] for i in kept])
    return [found.rows[i] for i in kept]


def _several(at: int | list[int] | None) -> list[int]:
    return [] if at is None else [at] if isinstance(at, int) else at


def _plain(
    symbols: Columns,
    at: Sequence[int | list[int] | None],
    lines: Sequence[int | list[int]],
    sites: Sequence[int] | None,
) -> tuple[Sequence[int], list[int]]:
    """Find addresses where a name has one line and one symbol, as nearly all of them have.

    :param at: positions of the symbols with each name
    :param lines: positions of the lines with each name
    :returns: the addresses, and the positions of the names that need a closer look
    """
    none = len(symbols.addrs)
    one = [x if type(x) is int else none for x in at]
    kinds = picked([*symbols.types, ""], one)
    addresses = picked([*symbols.addrs, 0], one)
    odd: set[int] = set()
    if not FUNCTION_TYPES.issuperset(kinds):
        odd.update([i for i, kind in enumerate(kinds) if kind not in FUNCTION_TYPES])
    first = lines
    if list in set(map(type, lines)):
        first = [x if isinstance(x, int) else x[0] for x in lines]
        odd.update([i for i, x in enumerate(lines) if type(x) is list])
    if sites is not None:
        beyond = list(map(sub, picked(sites, first), addresses))  # type: ignore[arg-type]
        if not SITE_OFFSETS.issuperset(beyond):
            odd.update([i for i, far in enumerate(beyond) if far not in SITE_OFFSETS])
    return addresses, sorted(odd)


def symbols_named(kallsyms: Kallsyms, names: Sequence[str]) -> Columns:
    """Return all symbols with one of these names. Equal names are in file order."""
    if len(names) > _FEW:
        return kallsyms.named(names)
    found = [symbol for name in dict.fromkeys(names) for symbol in kallsyms.by_name(name)]
    return Columns(
        [s.name for s in found],
        array("Q", [s.addr for s in found]),
        [s.type for s in found],
        [s.module for s in found],
    )


def _told_apart(
    symbols: Columns, at: Sequence[int], lines: Sequence[int], sites: Sequence[int] | None
) -> tuple[Sequence[int], tuple[Reason, str] | None]:
    """Find which of several symbols with one name are behind equal lines of ftrace's list.

    :param at: positions of the symbols with this name
    :returns: addresses of the functions, or why they cannot be told apart
    """
    functions = [symbols.addrs[i] for i in at if symbols.types[i] in FUNCTION_TYPES]
    addresses = list(dict.fromkeys(functions))
    if not addresses:
        return (), (Reason.NOT_FOUND, "ftrace lists it, kallsyms does not")
    if sites is not None:
        good = [a for a in addresses if any(is_site_of(sites[i], a) for i in lines)]
        if len(good) == len(lines):
            return good, None
    elif len(addresses) == len(lines):
        return addresses, None
    detail = f"{many(len(addresses), 'address', 'addresses')}, {len(lines)} of them traceable"
    if len(addresses) == len(lines):
        detail = f"none of {len(addresses)} addresses is where ftrace has it"
    return (), (Reason.AMBIGUOUS, detail)


def describe(facts: SelectFacts, columns: CandidateColumns) -> None:
    """Fill the columns that come from BTF and the kprobe blacklist."""
    names, count = columns.names, len(columns.names)
    columns.btf_ids = array("I", bytes(4 * count))
    columns.protos = array("I", bytes(4 * count))
    columns.no_btf = [None] * count
    columns.kprobe = bytearray(b"\1") * count
    for module, rows in by_module(columns.modules):
        btf = facts.btf.get(module) if rows else None
        if btf is None:
            for i in rows:
                columns.no_btf[i] = Reason.NO_BTF
            continue
        whole = len(rows) == count
        wanted = names if whole else [names[i] for i in rows]
        known, ambiguous = _pairs(btf.funcs_named(wanted))
        found = list(map(known.get, wanted, repeat(0)))
        pairs = array("I", array("Q", found).tobytes())
        if whole:
            columns.btf_ids, columns.protos = pairs[::2], pairs[1::2]
        else:
            for i, btf_id, proto in zip(rows, pairs[::2], pairs[1::2], strict=True):
                columns.btf_ids[i], columns.protos[i] = btf_id, proto
        for at in places_of(0, found):
            no = Reason.AMBIGUOUS if wanted[at] in ambiguous else Reason.NO_BTF
            columns.no_btf[rows[at]] = no
    shared = places_of(0, columns.unique)
    agree = bool(shared) and _prototypes_agree(facts)
    for i in shared:
        # The kernel would look up the name, and might find another function.
        columns.btf_ids[i], columns.no_btf[i] = 0, Reason.AMBIGUOUS
        if not agree or columns.modules[i]:  # a module may be of another pahole
            columns.protos[i] = 0
    if facts.kprobe_blacklist:
        for i in facts.kprobe_blacklist.refused(names, columns.addresses):
            columns.kprobe[i] = 0


def _pairs(table: FuncColumns) -> tuple[dict[str, int], set[str]]:
    # By name, a function's id and that of its prototype << 32, so that one look-up finds both.
    # Names with several prototypes have 0, and are the second result: nothing says which is right.
    halves = array("I", bytes(8 * len(table.ids)))
    halves[::2], halves[1::2] = table.ids, table.protos
    pairs = array("Q", halves.tobytes())
    known = dict(zip(table.names, pairs, strict=True))
    ambiguous: set[str] = set()
    if len(known) < len(pairs):  # the dictionary has the last function of each name
        last = map(known.__getitem__, table.names)
        before = [i for i, (mine, its) in enumerate(zip(pairs, last, strict=True)) if mine != its]
        for i in reversed(before):
            name = table.names[i]
            if pairs[i] >> 32 != known[name] >> 32:
                ambiguous.add(name)
            known[name] = pairs[i]
    known.update(dict.fromkeys(ambiguous, 0))
    return known, ambiguous


def _prototypes_agree(facts: SelectFacts) -> bool:
    """Tell whether a prototype in the kernel's BTF is that of every function with its name.

    pahole leaves out names with several prototypes if it is asked to (``consistent_func``), and
    kernels ask for that since 6.10. But before pahole 1.28, functions that return nothing counted
    as equal whatever their parameters are, and so did those without parameters whatever they
    return (``funcs__match`` in btf_encoder.c). So it takes a tag that 1.28 was the first to make.
    """
    btf = facts.btf.get("")
    return btf is not None and btf.has_tag("bpf_fastcall")


def by_module(modules: Sequence[str]) -> Iterator[tuple[str, Sequence[int]]]:
    """Yield each module and its rows.

    :param modules: the module of each row
    """
    if not any(modules):
        yield "", range(len(modules))
        return
    others: dict[str, list[int]] = {}
    for i in [i for i, module in enumerate(modules) if module]:
        others.setdefault(modules[i], []).append(i)
    yield "", [i for i, module in enumerate(modules) if not module]
    yield from others.items()


def no_btf_reason(candidate: Candidate) -> Skipped:
    """Say why a candidate has no BTF id."""
    assert candidate.no_btf is not None
    detail = ""
    if candidate.no_btf is Reason.AMBIGUOUS:
        detail = "several prototypes in BTF" if candidate.unique else "found by address only"
    hint = "kprobe.multi can reach it by address"
    return Skipped(candidate.name, candidate.module, candidate.no_btf, detail, hint)
