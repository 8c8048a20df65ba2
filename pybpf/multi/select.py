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

from collections.abc import Iterable, Sequence

from ..dataclass import dataclass
from ..digits import hexadecimal
from ..errors import BpfError, PlanError
from ..kernel.functions import label
from ..kernel.globs import Matcher, Pattern, parse_pattern
from .candidates import Ask, Candidate, CandidateColumns, Candidates, SelectFacts
from .join import answered, describe, join, matched, no_btf_reason, refused
from .reasons import Reason, Skipped
from .unlisted import hidden, named
from .unmatched import Given, Unmatched, explain, text_of

__all__ = ["Selection", "at_address", "select", "split_address"]


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
    columns = None if ask is None or denies else answered(ask, entries, allows)
    if columns is None:
        if (why := hidden(facts)) is not None:
            return _unlisted(facts, entries, allows, denies, at_exit, why)
        wanted = matched(facts.ftrace, entries, allows)
        if denies:
            denier = Matcher(denies)
            excluded = dict.fromkeys([line for line in wanted.lines if denier.matches(line)])
            if excluded:
                wanted = wanted.take([i for i, x in enumerate(wanted.lines) if x not in excluded])
        columns = CandidateColumns()
        skipped = join(facts, wanted, columns, at_exit)
    describe(facts, columns)
    candidates = Candidates(columns)
    if need_btf and any(columns.no_btf):
        skipped += [
            no_btf_reason(columns.candidate(i)) for i, no in enumerate(columns.no_btf) if no
        ]
        candidates = Candidates(columns.take([i for i, no in enumerate(columns.no_btf) if not no]))
    given = Given(candidates.columns)
    unmatched = []
    skips: dict[str, Skipped] | None = None
    for pattern in dict.fromkeys([*entries, *allows]):
        if pattern not in given:
            if skips is None:
                skips = {s.label: s for s in skipped}
            lost, diagnosis = explain(pattern, facts, skips, excluded)
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
        why.add_context("globs need the kernel's lists of functions, exact names do not")
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
        elif (refusal := refused(one.name, one.module, at_exit)) is not None:
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
    unmatched = [Unmatched(s.label, text_of(s), skipped=True) for s in lost]
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
