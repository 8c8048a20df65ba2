"""From globs to functions: which ones match, which can be attached to, and why not the others.

Four sources are joined. ftrace's list says what is traceable; globs are matched
against it, and it has one line per call site. kallsyms gives addresses. BTF gives
the id that a trampoline needs. Our own lists (`denylist`) forbid some functions.
The join has traps. Static functions share names: a lookup by name finds the first
one, perhaps the wrong one. One address may have several names: two ids of one
address in a tracing_multi link crash 7.3 when it closes. BTF may describe
a name twice. What passes is a `Candidate` with exactly one address. Every other
requested function is a `Skipped` with a reason. Pure: facts in, value out.

A glob may match all 44,000 functions, so the join works on columns: one list or array for each
property, filled in one pass over all names. A `Candidate` is made when a caller looks at it.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from operator import itemgetter
from typing import Protocol

from ..btf import BtfKind
from ..dataclass import dataclass, field
from ..digits import hexadecimal
from ..errors import BpfError, PlanError
from ..kernel.ftrace import FtraceFunctions, is_site_of
from ..kernel.functions import KernelFunction, label
from ..kernel.globs import VMLINUX, Matcher, Pattern, is_glob, parse_pattern
from ..kernel.kallsyms import FUNCTION_TYPES, Columns
from ..kernel.lookup import near_names
from ..kernel.nameindex import index_names
from .columns import Made
from .denylist import denied, never_returns, risky
from .reasons import Reason, Skipped
from .unlisted import hidden, named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..btf import Btf
    from ..kernel.ftrace import KprobeBlacklist
    from ..kernel.kallsyms import Kallsyms

__all__ = [
    "Ask",
    "Candidate",
    "CandidateColumns",
    "Candidates",
    "SelectFacts",
    "Selection",
    "Unmatched",
    "at_address",
    "by_module",
    "select",
    "split_address",
    "symbols_named",
]

# Up to this many names are searched one by one. For more, one pass over all symbols is faster.
_FEW = 24


#: Gives the address of the kernel's own function of a name; None if it cannot be told for sure.
Ask = Callable[[str], int | None]


class BtfFacts(Protocol):
    """Stand for a source of BTF."""

    def get(self, module: str) -> Btf | None:
        """Return the BTF of a module, "" for the kernel itself. None if it has none."""


class SelectFacts(Protocol):
    """Stand for what `select` needs to know of a kernel, such as `pybpf.kernel.host.Facts`."""

    @property
    def ftrace(self) -> FtraceFunctions: ...

    @property
    def kallsyms(self) -> Kallsyms: ...

    @property
    def btf(self) -> BtfFacts: ...

    @property
    def kprobe_blacklist(self) -> KprobeBlacklist | None: ...


@dataclass(frozen=True, slots=True)
class Candidate(KernelFunction):
    """Describe a function that can be attached to by its address. ftrace and kallsyms name it.

    Its `name` may be a compiler's copy such as ``foo.isra.0``. Its `address` is the start of the
    function, not its call site. Its `model` is not looked up yet.

    :param no_btf: why `btf_id` is None
    :param unique: only this address has the name, so the kernel can look it up by name
    :param kprobe: perf kprobes are allowed on it (kprobe.multi does not ask)
    :param entry: matched by an entry glob
    :param proto: id of the prototype that all functions of this name have, if several share it
        and BTF tells; otherwise 0. Such a function has no `btf_id`, because the kernel would look
        up the name
    """

    no_btf: Reason | None = None
    unique: bool = True
    kprobe: bool = True
    entry: bool = False
    proto: int = 0


@dataclass(frozen=True, slots=True)
class Unmatched:
    """Describe a pattern that gave no candidate.

    :param pattern: the user's text
    :param detail: why
    :param hint: similar names, or what would help
    :param skipped: True if its matches are among the skipped, each with a reason
    """

    pattern: str
    detail: str = ""
    hint: str = ""
    skipped: bool = False

    def __str__(self) -> str:
        text = f"{self.pattern!r} matches no function that can be traced"
        said = "; ".join(t for t in (self.detail, self.hint) if t)
        return f"{text} ({said})" if said else text


@dataclass(slots=True, eq=False)
class CandidateColumns:
    """Hold the fields of `Candidate`, a list for each, all of one length. BTF id 0 means none.

    :ivar protos: ids of their prototypes, 0 if BTF does not describe them
    """

    names: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    addresses: array[int] = field(default_factory=lambda: array("Q"))
    unique: bytearray = field(default_factory=bytearray)
    entry: bytearray = field(default_factory=bytearray)
    btf_ids: array[int] = field(default_factory=lambda: array("I"))
    no_btf: list[Reason | None] = field(default_factory=list)
    protos: array[int] = field(default_factory=lambda: array("I"))
    kprobe: bytearray = field(default_factory=bytearray)

    def candidate(self, at: int) -> Candidate:
        """Make the candidate of a row."""
        return Candidate(
            self.names[at],
            self.modules[at],
            self.addresses[at],
            self.btf_ids[at] or None,
            no_btf=self.no_btf[at],
            unique=bool(self.unique[at]),
            kprobe=bool(self.kprobe[at]),
            entry=bool(self.entry[at]),
            proto=0 if self.unique[at] else self.protos[at],
        )

    def take(self, rows: Sequence[int]) -> CandidateColumns:
        """Return some of the rows."""
        return CandidateColumns(
            [self.names[i] for i in rows],
            [self.modules[i] for i in rows],
            array("Q", [self.addresses[i] for i in rows]),
            bytearray([self.unique[i] for i in rows]),
            bytearray([self.entry[i] for i in rows]),
            array("I", [self.btf_ids[i] for i in rows]),
            [self.no_btf[i] for i in rows],
            array("I", [self.protos[i] for i in rows]),
            bytearray([self.kprobe[i] for i in rows]),
        )


class Candidates(Made[Candidate]):
    """Hold candidates as rows of columns.

    :param columns: must not change any more
    """

    __slots__ = ("columns",)

    def __init__(self, columns: CandidateColumns) -> None:
        self.columns = columns
        super().__init__(len(columns.names), columns.candidate)


@dataclass(frozen=True, slots=True)
class Selection:
    """Hold the functions that globs match on one kernel.

    :param candidates: functions to attach to, in ftrace's order, no address twice
    :param skipped: requested functions that cannot be attached to, with reasons
    :param excluded: labels of functions that the caller's deny globs removed
    :param unmatched: patterns that gave no candidate, entry patterns first
    """

    candidates: Candidates
    skipped: tuple[Skipped, ...] = ()
    excluded: tuple[str, ...] = ()
    unmatched: tuple[Unmatched, ...] = ()


def select(
    facts: SelectFacts,
    allow: Iterable[str | Pattern] = (),
    *,
    entry: Iterable[str | Pattern] = (),
    deny: Iterable[str | Pattern] = (),
    at_exit: bool = False,
    need_btf: bool = False,
    ask: Ask | None = None,
) -> Selection:
    """Find the functions that globs match.

    :param facts: what the kernel offers
    :param allow: globs of functions to take
    :param entry: globs of functions to take and mark as entry functions
    :param deny: globs of functions to leave out; these win over the others
    :param at_exit: a program will run at function exit, so functions that
        never return are skipped
    :param need_btf: skip functions without a BTF id
    :param ask: gives the addresses of a few exact names without any tables. Whether ftrace can
        trace these functions is then not known
    :raises PlanError: if a glob is malformed
    :raises BpfError: if kernel addresses or ftrace's list are hidden, and not all functions are
        given by their exact names
    """
    allows, entries, denies = (
        [p if isinstance(p, Pattern) else parse_pattern(p) for p in patterns]
        for patterns in (allow, entry, deny)
    )
    excluded: dict[str, None] = {}
    skipped: list[Skipped] = []
    columns = None if ask is None or denies else _answered(ask, entries, allows)
    if columns is None:
        if (why := hidden(facts)) is not None:
            return _unlisted(facts, entries, allows, denies, at_exit, why)
        wanted = _matched(facts.ftrace, entries, allows)
        if denies:
            denier = Matcher(denies)
            excluded = dict.fromkeys([line for line in wanted.lines if denier.matches(line)])
            if excluded:
                wanted = wanted.take([i for i, x in enumerate(wanted.lines) if x not in excluded])
        columns = CandidateColumns()
        skipped = _join(facts, wanted, columns, at_exit)
    _describe(facts, columns)
    candidates = Candidates(columns)
    if need_btf and any(columns.no_btf):
        skipped += [_no_btf(columns.candidate(i)) for i, no in enumerate(columns.no_btf) if no]
        candidates = Candidates(columns.take([i for i, no in enumerate(columns.no_btf) if not no]))
    given = _Given(candidates.columns)
    unmatched = []
    skips: dict[str, Skipped] | None = None
    for pattern in dict.fromkeys([*entries, *allows]):
        if pattern not in given:
            if skips is None:
                skips = {s.label: s for s in skipped}
            lost, diagnosis = _explain(pattern, facts, skips, excluded)
            unmatched.append(lost)
            if diagnosis is not None:
                skipped.append(diagnosis)
    return Selection(candidates, tuple(skipped), tuple(excluded), tuple(unmatched))


def _unlisted(
    facts: SelectFacts,
    entries: Sequence[Pattern],
    allows: Sequence[Pattern],
    denies: Sequence[Pattern],
    at_exit: bool,
    why: BpfError,
) -> Selection:
    # Exact names where the kernel hides its lists. Its own symbols alone are meant by a name
    # without a module, as module BTF would have to be searched one by one.
    both = list(dict.fromkeys([*entries, *allows]))
    if not all(pattern.is_exact for pattern in both):
        why.add_context("globs of functions need them; exact names do not")
        raise why
    denier = Matcher(denies)
    columns = CandidateColumns()
    skipped: list[Skipped] = []
    excluded: list[str] = []
    marked = {pattern.name for pattern in entries}
    found, lost = named(facts, both)
    for one in found:
        line = label(one.name, one.module)
        if denier.matches(line):
            excluded.append(line)
        elif (refusal := _refused(one.name, one.module, at_exit)) is not None:
            skipped.append(refusal)
        else:
            columns.names.append(one.name)
            columns.modules.append(one.module)
            columns.addresses.append(0)
            columns.unique.append(1)
            columns.entry.append(one.name in marked)
            columns.btf_ids.append(one.btf_id)
            columns.no_btf.append(None)
            columns.protos.append(one.proto)
            columns.kprobe.append(1)
    unmatched = [Unmatched(s.label, _text(s), skipped=True) for s in lost]
    return Selection(Candidates(columns), (*skipped, *lost), tuple(excluded), tuple(unmatched))


def split_address(text: str) -> tuple[str, int | None]:
    """Split ``NAME@ADDRESS``, which means one of several functions of this name.

    :param text: a pattern; ``MODULE:NAME@ADDRESS`` and ``NAME@ADDRESS [MODULE]`` also work
    :returns: the pattern without the address, and the address or None
    :raises PlanError: if the address is not a number, or the name is a glob
    """
    before, at, rest = text.partition("@")
    if not at:
        return text, None
    number, _, module = rest.partition("[")
    address = hexadecimal(number.strip())
    if address is None:
        raise PlanError(f"{text!r}: an address is a hexadecimal number, as NAME@0xADDRESS")
    name = f"{before.strip()} [{module}" if module else before.strip()
    if not parse_pattern(name).is_exact:
        raise PlanError(f"{text!r}: a glob has no address; name the function")
    return name, address


def at_address(
    facts: SelectFacts, asked: Sequence[tuple[str, int]], *, at_exit: bool = False
) -> tuple[list[Candidate], list[Skipped]]:
    """Find functions that were named with their addresses, as `split_address` returns them.

    If functions share a name, the address tells which one is meant. This works even if ftrace's
    list does not say which of them it contains.
    """
    found = select(facts, [name for name, _ in asked], at_exit=at_exit)
    known = {(c.name, c.address): c for c in found.candidates}
    hints = {lost.pattern: lost.hint for lost in found.unmatched}
    refused = {s.name: s for s in found.skipped if s.reason is not Reason.AMBIGUOUS}
    candidates: dict[int, Candidate] = {}
    skipped: dict[tuple[str, int], Skipped] = {}
    for text, address in asked:
        pattern = parse_pattern(text)
        module = pattern.owner
        there = {
            s.addr: s.module
            for s in facts.kallsyms.by_name(pattern.name)
            if s.is_function and module in (None, s.module)
        }
        if address in there:
            candidate = known.get((pattern.name, address))
            if candidate is None and (refusal := refused.get(pattern.name)) is not None:
                skipped[text, address] = refusal
                continue
            candidates[address] = candidate or Candidate(
                pattern.name,
                there[address],
                address,
                no_btf=Reason.AMBIGUOUS,
                unique=False,
            )
            continue
        where = ", ".join(f"{at:#x}" for at in sorted(there))
        detail = f"not at {address:#x}"
        hint = f"it is at {where}" if where else hints.get(text, "")
        skipped[text, address] = Skipped(
            pattern.name, module or "", Reason.NOT_FOUND, detail, hint, address
        )
    return list(candidates.values()), list(skipped.values())


# -- the join --------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Lines:
    """Hold the lines of ftrace's list that patterns match, in file order.

    :ivar sites: address of each line's call site, None if the kernel does not say
    :ivar entry: positions of the lines that an entry pattern matches
    """

    lines: Sequence[str]
    sites: Sequence[int] | None
    entry: Set[int]

    def take(self, positions: Sequence[int]) -> _Lines:
        """Return some of the lines."""
        sites, entry = self.sites, self.entry
        return _Lines(
            [self.lines[i] for i in positions],
            None if sites is None else [sites[i] for i in positions],
            {new for new, i in enumerate(positions) if i in entry} if entry else entry,
        )


def _matched(
    functions: FtraceFunctions, entries: Sequence[Pattern], allows: Sequence[Pattern]
) -> _Lines:
    both, entry = Matcher([*entries, *allows]), Matcher(entries)
    if both.is_exact:  # then the whole list and its columns are not needed
        places = [(label(p.name, p.module), p.site) for p in functions.named(both.names)]
        places = [place for place in places if both.matches(place[0])]
        lines = [line for line, _ in places]
        sites = [site for _, site in places if site is not None]
        marked = {i for i, line in enumerate(lines) if entry.matches(line)}
        return _Lines(lines, sites if len(sites) == len(lines) else None, marked)
    whole = _Lines(functions.lines, functions.sites, entry.positions(functions))
    positions = Matcher(allows).positions(functions) | whole.entry
    return whole if len(positions) == len(functions) else whole.take(sorted(positions))


def _answered(
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


def _refused(name: str, module: str, at_exit: bool) -> Skipped | None:
    rule = denied(name)
    if rule is not None:
        return Skipped(name, module, Reason.DENIED, rule.why)
    if at_exit and never_returns(name):
        return Skipped(name, module, Reason.NORETURN, hint="an entry program can be attached")
    return None


def _join(facts: SelectFacts, wanted: _Lines, to: CandidateColumns, at_exit: bool) -> list[Skipped]:
    """Find the addresses of functions and fill the columns that follow from them.

    :returns: functions that got no row
    """
    skipped: list[Skipped] = []
    names, modules = list(wanted.lines), [""] * len(wanted.lines)
    for i in [i for i, line in enumerate(names) if " " in line]:
        names[i], modules[i] = FtraceFunctions.split(names[i])
    if bad := risky(names):
        refused = set()
        for i in [i for i, name in enumerate(names) if name in bad]:
            if (refusal := _refused(names[i], modules[i], at_exit)) is not None:
                refused.add(i)
                if refusal not in skipped[-1:]:
                    skipped.append(refusal)
        left = [i for i in range(len(names)) if i not in refused]
        wanted = wanted.take(left)
        names, modules = [names[i] for i in left], [modules[i] for i in left]
    if not names:
        return skipped
    symbols = symbols_named(facts.kallsyms, names)
    labels = list(symbols.names)
    for i in [i for i, module in enumerate(symbols.modules) if module]:
        labels[i] = label(labels[i], symbols.modules[i])
    by_label = index_names(labels)
    addresses, types, sites = symbols.addrs, symbols.types, wanted.sites
    rows: list[int] = []  # of each function, its first line
    shared: list[int] = []  # functions that share their name
    lost: list[tuple[int, Skipped]] = []  # with the line
    found: Sequence[int]
    for line, lines_at in index_names(wanted.lines).items():
        at = by_label.get(line)
        # Nearly all functions have one line and one symbol.
        if (
            type(lines_at) is int
            and type(at) is int
            and types[at] in FUNCTION_TYPES
            and (sites is None or is_site_of(sites[lines_at], addresses[at]))
        ):
            rows.append(lines_at)
            to.addresses.append(addresses[at])
            continue
        every = [lines_at] if isinstance(lines_at, int) else lines_at
        some = [] if at is None else [at] if isinstance(at, int) else at
        found, why = _told_apart(symbols, some, every, sites)
        first = every[0]
        if why is not None:
            lost.append((first, Skipped(names[first], modules[first], *why)))
        # A lookup by name in the kernel takes the first symbol of any type.
        if len({addresses[i] for i in some}) > 1:
            shared += range(len(rows), len(rows) + len(found))
        rows += [first] * len(found)
        to.addresses.extend(found)
    to.unique = bytearray(b"\1") * len(rows)
    for row in shared:
        to.unique[row] = 0
    if len(set(to.addresses)) < len(rows):
        rows = _without_aliases(wanted.lines, names, modules, rows, to, lost)
    to.names = [names[i] for i in rows]
    to.modules = [modules[i] for i in rows]
    entry = wanted.entry
    to.entry = bytearray([i in entry for i in rows]) if entry else bytearray(len(rows))
    lost.sort(key=itemgetter(0))
    return skipped + [one for _, one in lost]


def _without_aliases(
    lines: Sequence[str],
    names: Sequence[str],
    modules: Sequence[str],
    rows: Sequence[int],
    to: CandidateColumns,
    lost: list[tuple[int, Skipped]],
) -> list[int]:
    # Drops all but the first function of an address from addresses, `unique` and rows.
    seen: dict[int, int] = {}
    kept = []
    for i, (line, address) in enumerate(zip(rows, to.addresses, strict=True)):
        if address in seen:
            detail = f"{lines[seen[address]]} is at the same address"
            lost.append((line, Skipped(names[line], modules[line], Reason.ALIAS, detail)))
        else:
            seen[address] = line
            kept.append(i)
    to.addresses = array("Q", [to.addresses[i] for i in kept])
    to.unique = bytearray([to.unique[i] for i in kept])
    return [rows[i] for i in kept]


def symbols_named(kallsyms: Kallsyms, names: Sequence[str]) -> Columns:
    """Return all symbols with one of these names. Equal names are in file order."""
    if len(names) > _FEW:
        return kallsyms.named(set(names))
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
    detail = f"{len(addresses)} addresses, {len(lines)} of them traceable"
    if len(addresses) == len(lines):
        detail = f"none of {len(addresses)} addresses is where ftrace has it"
    return (), (Reason.AMBIGUOUS, detail)


def _describe(facts: SelectFacts, columns: CandidateColumns) -> None:
    """Fill the columns that come from BTF and the kprobe blacklist."""
    names, count = columns.names, len(columns.names)
    columns.btf_ids = array("I", bytes(4 * count))
    columns.protos = array("I", bytes(4 * count))
    columns.no_btf = [Reason.NO_BTF] * count
    columns.kprobe = bytearray(b"\1") * count
    for module, rows in by_module(columns.modules):
        btf = facts.btf.get(module) if rows else None
        if btf is None:
            continue
        table = btf.funcs_named([names[i] for i in rows])
        index = index_names(table.names)
        for i in rows:
            at = index.get(names[i])
            if at is None:
                continue
            if isinstance(at, list):
                if len({table.protos[x] for x in at}) > 1:
                    columns.no_btf[i] = Reason.AMBIGUOUS  # nothing says which prototype is right
                    continue
                at = at[0]
            columns.btf_ids[i] = table.ids[at]
            columns.protos[i] = table.protos[at]
            columns.no_btf[i] = None
    shared = [i for i, unique in enumerate(columns.unique) if not unique]
    agree = bool(shared) and _prototypes_agree(facts)
    for i in shared:
        # The kernel would look up the name, and might find another function.
        columns.btf_ids[i], columns.no_btf[i] = 0, Reason.AMBIGUOUS
        if not agree:
            columns.protos[i] = 0
    if facts.kprobe_blacklist:
        for i in facts.kprobe_blacklist.refused(names, columns.addresses):
            columns.kprobe[i] = 0


def _prototypes_agree(facts: SelectFacts) -> bool:
    """Tell whether a prototype in BTF is that of every function with its name.

    pahole leaves out names with several prototypes if it is asked to (``consistent_func``).
    Before, it took whichever came first. The kernel asks for this and for the tags of kfuncs in
    one line (scripts/Makefile.btf of 6.10), so one such tag tells.
    """
    btf = facts.btf.get("")
    return btf is not None and btf.find("bpf_kfunc", BtfKind.DECL_TAG) is not None


def by_module(modules: Sequence[str]) -> Iterator[tuple[str, Sequence[int]]]:
    """Yield each module and its rows.

    :param modules: the module of each row
    """
    others: dict[str, list[int]] = {}
    for i in [i for i, module in enumerate(modules) if module]:
        others.setdefault(modules[i], []).append(i)
    if not others:
        yield "", range(len(modules))
        return
    yield "", [i for i, module in enumerate(modules) if not module]
    yield from others.items()


def _no_btf(candidate: Candidate) -> Skipped:
    assert candidate.no_btf is not None
    detail = ""
    if candidate.no_btf is Reason.AMBIGUOUS:
        detail = "several prototypes in BTF" if candidate.unique else "found by address only"
    hint = "kprobe.multi can reach it by address"
    return Skipped(candidate.name, candidate.module, candidate.no_btf, detail, hint)


# -- patterns that found nothing -------------------------------------------


class _Given:
    """Find out which patterns gave a candidate."""

    def __init__(self, columns: CandidateColumns) -> None:
        self._columns = columns
        self._names: Set[str] | None = None
        self._lines: Mapping[str, object] | None = None

    def __contains__(self, pattern: object) -> bool:
        assert isinstance(pattern, Pattern)
        if pattern.is_literal and pattern.module is None:
            if self._names is None:
                self._names = set(self._columns.names)
            return pattern.name in self._names
        if self._lines is None:
            self._lines = dict.fromkeys(map(label, self._columns.names, self._columns.modules))
        if pattern.is_exact:
            return any(line in self._lines for line in pattern.lines)
        match = re.compile(pattern.regex).fullmatch
        return any(match(line) for line in self._lines)


def _explain(
    pattern: Pattern,
    facts: SelectFacts,
    skips: dict[str, Skipped],
    excluded: dict[str, None],
) -> tuple[Unmatched, Skipped | None]:
    """Say why a pattern gave nothing, and make the skip record of a requested name."""
    match = re.compile(pattern.regex).fullmatch
    lost = [s for label, s in skips.items() if match(label)]
    out = [label for label in excluded if match(label)]
    if lost:
        more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
        return Unmatched(pattern.text, f"{lost[0]}{more}", skipped=True), None
    if out:
        return Unmatched(pattern.text, f"a deny glob removed all {len(out)}"), None
    if not pattern.is_literal:
        near = near_names(pattern.name.replace("*", "").replace("?", ""), facts.ftrace.names())
        why = _no_module(pattern, facts) or "nothing that can be traced matches it"
        return Unmatched(pattern.text, why, _or(near)), None
    skipped = _diagnose(pattern, facts)
    return Unmatched(pattern.text, _text(skipped), skipped=True), skipped


def _text(skipped: Skipped) -> str:
    return "; ".join(t for t in (skipped.reason.text, skipped.detail, skipped.hint) if t)


def _or(names: Sequence[str]) -> str:
    return f"perhaps {' or '.join(names)}" if names else ""


def _no_module(pattern: Pattern, facts: SelectFacts) -> str:
    # Says that a pattern's module has no functions. "" if it has some, or no module is named.
    module = pattern.module or VMLINUX
    if module == VMLINUX or is_glob(module):
        return ""
    lines = facts.ftrace.lines
    if any(facts.ftrace.split(line)[1] == module for line in lines if line.endswith("]")):
        return ""
    return f"module {module} is not loaded, or has no functions that can be traced"


# Code that ftrace never lists, by the symbols around it.
_SECTIONS = (
    ("__noinstr_text_start", "__noinstr_text_end", "noinstr code"),
    ("__entry_text_start", "__entry_text_end", "entry code"),
    ("_sinittext", "_einittext", "init code, gone after boot"),
)


def _diagnose(pattern: Pattern, facts: SelectFacts) -> Skipped:
    """Say why ftrace does not list a name."""
    name = pattern.name
    module = pattern.module or ""
    module = "" if module == VMLINUX or is_glob(module) else module
    kallsyms = facts.kallsyms
    refusal = _refused(name, module, at_exit=False)
    if refusal is not None:
        return refusal
    if pattern.module is not None and name in facts.ftrace:
        owners = [place.module for place in facts.ftrace.places(name)]
        where = " or ".join(dict.fromkeys(owner or "the kernel itself" for owner in owners))
        return Skipped(name, module, Reason.NOT_FOUND, f"not in {pattern.module}", f"in {where}")
    symbols = [s for s in kallsyms.by_name(name) if s.is_function]
    if pattern.module == VMLINUX or module:
        symbols = [s for s in symbols if s.module == module]
    for symbol in symbols:
        for other in kallsyms.at(symbol.addr):
            if other.name != name and other.name in facts.ftrace:
                return Skipped(
                    name, symbol.module, Reason.ALIAS, f"of {other.name}", f"use {other.name}"
                )
    if symbols:
        detail = ""
        for low, high, what in _SECTIONS:
            bounds = [s.addr for end in (low, high) for s in kallsyms.by_name(end)]
            if len(bounds) == 2 and bounds[0] <= symbols[0].addr < bounds[1]:
                detail = what
        return Skipped(name, symbols[0].module, Reason.NOT_TRACEABLE, detail)
    clones = [s.name for s in kallsyms.find_prefix(f"{name}.") if s.is_function]
    traced = [clone for clone in dict.fromkeys(clones) if clone in facts.ftrace]
    if traced:
        return Skipped(
            name,
            module,
            Reason.NO_BTF,
            f"the compiler made {', '.join(traced[:3])} of it",
            "kprobe.multi can reach that name; its arguments may differ",
        )
    if (lost := _no_module(pattern, facts)) and not symbols:
        return Skipped(name, module, Reason.NOT_FOUND, lost)
    btf = facts.btf.get(module)
    detail = ""
    if btf is not None and btf.find(name, BtfKind.FUNC) is not None:
        detail = "BTF knows it, the code has no symbol: inlined everywhere, or freed"
    return Skipped(
        name, module, Reason.NOT_FOUND, detail, _or(near_names(name, facts.ftrace.names()))
    )
