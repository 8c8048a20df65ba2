"""From globs to functions: which ones are meant, which can be attached to, why not the others.

Four sources are joined. ftrace's list says what is traceable and is what globs
are matched against, one line per call site; kallsyms gives addresses; BTF gives
the id a trampoline needs; our own lists (`denylist`) forbid some. The join is
where the traps are: static functions share names (a lookup by name then finds
the first, perhaps another one), one address has several names (two ids of one
address in a tracing_multi link crash 7.3 when it closes), and BTF may describe
a name twice. What passes is a `Candidate` with exactly one address; everything
else asked for is a `Skipped` with a reason. Pure: facts in, value out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from ..btf import BtfKind
from ..dataclass import dataclass
from ..errors import PlanError
from ..kernel.functions import KernelFunction
from ..kernel.globs import VMLINUX, Matcher, Pattern, is_glob, parse_pattern
from ..kernel.lookup import near_names
from .denylist import denied, never_returns
from .reasons import Reason, Skipped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..btf import Btf
    from ..kernel.ftrace import FtraceFunctions, KprobeBlacklist
    from ..kernel.kallsyms import Kallsyms

__all__ = [
    "Candidate",
    "SelectFacts",
    "Selection",
    "Unmatched",
    "at_address",
    "select",
    "split_address",
]

# From this many functions on, one pass over all of BTF beats searches.
_BULK = 40


class BtfFacts(Protocol):
    """Where BTF comes from."""

    def get(self, module: str) -> Btf | None:
        """BTF of a module, of the kernel itself for ""; None if it has none."""


class SelectFacts(Protocol):
    """What `select` needs to know of a kernel; `pybpf.kernel.host.Facts` has it."""

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
    """A function that can be attached to by its address, as ftrace and kallsyms name it.

    Its `name` may be a compiler's copy such as ``foo.isra.0``, its `address` is the start of the
    function, not of the call site. Its `model` is not looked up yet.

    :param no_btf: why `btf_id` is None
    :param unique: its name leads to this address only, so asking by name is safe
    :param kprobe: perf kprobes are not refused on it (kprobe.multi does not care)
    :param entry: matched by an entry glob
    """

    no_btf: Reason | None = None
    unique: bool = True
    kprobe: bool = True
    entry: bool = False


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A pattern that gave no candidate.

    :param pattern: as the user wrote it
    :param detail: why
    :param hint: what was perhaps meant
    :param skipped: what it matched is among the skipped, each with its reason
    """

    pattern: str
    detail: str = ""
    hint: str = ""
    skipped: bool = False

    def __str__(self) -> str:
        text = f"{self.pattern!r} matches no function that can be traced"
        said = "; ".join(t for t in (self.detail, self.hint) if t)
        return f"{text} ({said})" if said else text


@dataclass(frozen=True, slots=True)
class Selection:
    """What globs mean on one kernel.

    :param candidates: functions to attach to, in ftrace's order, no address twice
    :param skipped: functions asked for that cannot be, with reasons
    :param excluded: labels the caller's own deny globs took out
    :param unmatched: patterns that gave no candidate, entry patterns first
    """

    candidates: tuple[Candidate, ...]
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
) -> Selection:
    """Find the functions that globs mean.

    :param facts: what the kernel offers
    :param allow: globs of functions to take
    :param entry: globs of functions to take and mark as entry functions
    :param deny: globs of functions to leave out; wins over the others
    :param at_exit: something is to run at function exit, so functions that
        never return are skipped
    :param need_btf: only functions with a BTF id are of use
    :raises PlanError: if a glob is malformed
    :raises DeniedByPolicy: if kernel addresses are hidden
    """
    allows, entries, denies = (
        [p if isinstance(p, Pattern) else parse_pattern(p) for p in patterns]
        for patterns in (allow, entry, deny)
    )
    functions = facts.ftrace
    entry_at = Matcher(entries).positions(functions)
    wanted = sorted(entry_at | Matcher(allows).positions(functions))
    skipped: list[Skipped] = []
    excluded: dict[str, None] = {}
    kept: dict[str, list[int]] = {}
    denier = Matcher(denies)
    for i in wanted:
        line = functions.lines[i]
        if denies and denier.matches(line):
            excluded[line] = None
        elif (refusal := _refused(*functions.split(line), at_exit)) is not None:
            if refusal not in skipped[-1:]:
                skipped.append(refusal)
        else:
            kept.setdefault(line, []).append(i)
    found: list[_Found] = []
    seen: dict[int, str] = {}
    for line, positions in kept.items():
        name, module = functions.split(line)
        good, bad = _resolve(facts, name, module, positions)
        if bad is not None:
            skipped.append(bad)
        for addr, unique in good:
            if addr in seen:
                detail = f"{seen[addr]} is at the same address"
                skipped.append(Skipped(name, module, Reason.ALIAS, detail))
                continue
            seen[addr] = line
            found.append((name, module, addr, unique, positions[0] in entry_at))
    candidates = []
    for candidate in _candidates(facts, found):
        if need_btf and candidate.no_btf is not None:
            skipped.append(_no_btf(candidate))
        else:
            candidates.append(candidate)
    lines = {c.label for c in candidates}
    skips = {s.label: s for s in skipped}
    unmatched = []
    for pattern in dict.fromkeys([*entries, *allows]):
        if not _has_any(pattern, lines, functions):
            lost, diagnosis = _explain(pattern, facts, skips, excluded)
            unmatched.append(lost)
            if diagnosis is not None:
                skipped.append(diagnosis)
    return Selection(tuple(candidates), tuple(skipped), tuple(excluded), tuple(unmatched))


def split_address(text: str) -> tuple[str, int | None]:
    """Split ``NAME@ADDRESS``, which means one of several functions of this name.

    :param text: a pattern; ``MODULE:NAME@ADDRESS`` and ``NAME@ADDRESS [MODULE]`` do as well
    :returns: the pattern without the address, and the address, None if there is none
    :raises PlanError: if the address is not a number, or the name is a glob
    """
    before, at, rest = text.partition("@")
    if not at:
        return text, None
    number, _, module = rest.partition("[")
    try:
        address = int(number.strip(), 16)
    except ValueError:
        raise PlanError(
            f"{text!r}: an address is a hexadecimal number, as NAME@0xADDRESS"
        ) from None
    name = f"{before.strip()} [{module}" if module else before.strip()
    if not parse_pattern(name).is_exact:
        raise PlanError(f"{text!r}: a glob has no address; name the function")
    return name, address


def at_address(
    facts: SelectFacts, asked: Sequence[tuple[str, int]], *, at_exit: bool = False
) -> tuple[list[Candidate], list[Skipped]]:
    """Find functions that were named with their addresses, as `split_address` gives them.

    Of functions that share a name the address tells which is meant, also where ftrace's list does
    not tell which of them it has.
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


def _refused(name: str, module: str, at_exit: bool) -> Skipped | None:
    rule = denied(name)
    if rule is not None:
        return Skipped(name, module, Reason.DENIED, rule.why)
    if at_exit and never_returns(name):
        return Skipped(name, module, Reason.NORETURN, hint="an entry program can be attached")
    return None


def _resolve(
    facts: SelectFacts, name: str, module: str, positions: list[int]
) -> tuple[list[tuple[int, bool]], Skipped | None]:
    """Addresses of the functions behind equal ftrace lines: (address, name is unique)."""
    functions = facts.ftrace
    symbols = [s for s in facts.kallsyms.by_name(name) if s.module == module]
    addrs = list(dict.fromkeys(s.addr for s in symbols if s.is_function))
    if not addrs:
        return [], Skipped(name, module, Reason.NOT_FOUND, "ftrace lists it, kallsyms does not")
    # A lookup by name in the kernel takes the first symbol of any type.
    unique = len({s.addr for s in symbols}) == 1
    if functions.sites is not None:
        good = [a for a in addrs if any(functions.is_site_of(i, a) for i in positions)]
        if len(good) == len(positions):
            return [(addr, unique) for addr in good], None
    elif len(addrs) == len(positions):
        return [(addr, unique) for addr in addrs], None
    detail = f"{len(addrs)} addresses, {len(positions)} of them traceable"
    if len(addrs) == len(positions):
        detail = f"none of {len(addrs)} addresses is where ftrace has it"
    return [], Skipped(name, module, Reason.AMBIGUOUS, detail)


# name, module, address, name is unique, matched by an entry glob
_Found = tuple[str, str, int, bool, bool]


def _candidates(facts: SelectFacts, found: list[_Found]) -> Iterator[Candidate]:
    """What was found, with BTF ids (or the reason for none) and the kprobe mark."""
    modules = [module for _, module, *_ in found]
    tables = {
        module: _Ids(facts.btf.get(module), bulk=modules.count(module) >= _BULK)
        for module in dict.fromkeys(modules)
    }
    blacklist = facts.kprobe_blacklist
    for name, module, addr, unique, entry in found:
        btf_id, reason = tables[module].find(name)
        if not unique:
            # The kernel would look the name up and may find another function.
            btf_id, reason = None, Reason.AMBIGUOUS
        kprobe = not blacklist or not (name in blacklist or blacklist.covers(addr))
        yield Candidate(
            name,
            module,
            addr,
            btf_id,
            no_btf=reason,
            unique=unique,
            kprobe=kprobe,
            entry=entry,
        )


class _Ids:
    """BTF_KIND_FUNC ids by name in one BTF object."""

    def __init__(self, btf: Btf | None, *, bulk: bool) -> None:
        self._btf = btf
        if btf is not None and bulk:
            btf.names()  # has its index made, once

    def _all(self, name: str) -> list[tuple[int, int]]:
        btf = self._btf
        if btf is None or "." in name:  # clones made by the compiler are never in BTF
            return []
        ids = [i for i in btf.find_all(name, BtfKind.FUNC) if i >= btf.start_id]
        if len(ids) == 1:
            return [(ids[0], 0)]
        return [(i, getattr(btf.type(i), "type", 0)) for i in ids]

    def find(self, name: str) -> tuple[int | None, Reason | None]:
        ids = self._all(name)
        if not ids:
            return None, Reason.NO_BTF
        if len(ids) > 1 and len({proto for _, proto in ids}) > 1:
            return None, Reason.AMBIGUOUS  # two prototypes: which is right is not told
        return ids[0][0], None


def _no_btf(candidate: Candidate) -> Skipped:
    assert candidate.no_btf is not None
    detail = ""
    if candidate.no_btf is Reason.AMBIGUOUS:
        detail = "several prototypes in BTF" if candidate.unique else "found by address only"
    hint = "kprobe.multi can reach it by address"
    return Skipped(candidate.name, candidate.module, candidate.no_btf, detail, hint)


# -- patterns that found nothing -------------------------------------------


def _has_any(pattern: Pattern, lines: set[str], functions: FtraceFunctions) -> bool:
    if pattern.is_literal and pattern.module is None:
        return any(functions.lines[i] in lines for i in functions.positions(pattern.name))
    if pattern.is_exact:
        return any(line in lines for line in pattern.lines)
    match = re.compile(pattern.regex).fullmatch
    return any(match(line) for line in lines)


def _explain(
    pattern: Pattern,
    facts: SelectFacts,
    skips: dict[str, Skipped],
    excluded: dict[str, None],
) -> tuple[Unmatched, Skipped | None]:
    """Why a pattern gave nothing; and the skip record of a name that was asked for."""
    match = re.compile(pattern.regex).fullmatch
    lost = [s for label, s in skips.items() if match(label)]
    out = [label for label in excluded if match(label)]
    if lost:
        more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
        return Unmatched(pattern.text, f"{lost[0]}{more}", skipped=True), None
    if out:
        return Unmatched(pattern.text, f"a deny glob took out all {len(out)}"), None
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
    # That the module of a pattern has no function at all; "" if it has, or is none.
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
    """Why a literal name is not among what ftrace lists."""
    name = pattern.name
    module = pattern.module or ""
    module = "" if module == VMLINUX or is_glob(module) else module
    kallsyms = facts.kallsyms
    refusal = _refused(name, module, at_exit=False)
    if refusal is not None:
        return refusal
    if pattern.module is not None and name in facts.ftrace:
        owners = [
            facts.ftrace.split(facts.ftrace.lines[i])[1] for i in facts.ftrace.positions(name)
        ]
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
