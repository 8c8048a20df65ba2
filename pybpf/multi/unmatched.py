"""Patterns that gave no function: why, and which names come near."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set

from ..btf import BtfKind
from ..dataclass import dataclass
from ..kernel.functions import label
from ..kernel.globs import VMLINUX, Pattern, is_glob
from ..kernel.lookup import near_names
from .candidates import CandidateColumns, SelectFacts
from .join import refused
from .reasons import Reason, Skipped

__all__ = ["Given", "Unmatched", "explain", "text_of"]


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


class Given:
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
        lines = map(label, self._columns.names, self._columns.modules)
        if not pattern.is_exact:  # nearly always one of the first matches
            return any(map(re.compile(pattern.regex).fullmatch, lines))
        if self._lines is None:
            self._lines = dict.fromkeys(lines)
        return any(line in self._lines for line in pattern.lines)


def explain(
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
        return Unmatched(pattern.text, _no_module(pattern, facts), _or(near)), None
    skipped = _diagnose(pattern, facts)
    return Unmatched(pattern.text, text_of(skipped), skipped=True), skipped


def text_of(skipped: Skipped) -> str:
    """Return a reason with its detail and hint, as one line."""
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
    refusal = refused(name, module, at_exit=False)
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
