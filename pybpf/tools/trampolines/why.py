"""`trampolines why`: show what can be attached to a function, and who is attached.

Like `plan` it works on the running kernel or on saved facts. Only the running kernel
knows who is attached.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress

from ...errors import DeniedByPolicy, PlanError, UnsupportedFeature
from ...multi.planner import answers
from ...multi.resolve import Resolver, plan_facts
from ...multi.target import Target
from ...multi.template import Template
from ..inputs import read_facts
from ..parsers import UsageError
from ..progress import Waiting
from ..screen import Line, Screen, many
from .plan import HOOKS, chosen_program, default_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...kernel.host import Facts
    from ...trampoline.registry import Registry

__all__ = ["show_why", "why", "why_lines"]

_YES = "yes"
_UNSURE = "unknown: only the kernel can tell whether a sleepable program may run on it"


def _attached_to(target: Target, facts: Facts, known: Registry | None) -> list[dict[str, object]]:
    from ...trampoline.links import make_key

    if known is None:
        return []
    found: list[tuple[int, int, list[str], int]] = []
    if target.btf_id is not None and hasattr(facts.btf, "object_id"):
        with suppress(UnsupportedFeature):  # its module was unloaded meanwhile
            key = make_key(facts.btf.object_id(target.module), target.btf_id)
            found = [(a.link, a.program, list(a.kinds), 1) for a in known.on_key(key)]
    found += [
        (p.link, p.program, [p.kind], p.count) for p in known.probes_on(target.name, target.module)
    ]
    return [
        {
            "link": link,
            "program": program,
            "name": known.names.get(program),
            "kinds": kinds,
            "functions": count,
            "owner": known.owners.of_link(link).to_dict(),
            "owner_text": str(known.owners.of_link(link)),
        }
        for link, program, kinds, count in found
    ]


def _templates(args: argparse.Namespace, facts: Facts) -> dict[str, Template]:
    # By section: the named program, or for each section one that reads everything.
    if not args.object:
        if args.program:
            raise UsageError("--program needs --object FILE")
        return {section: default_program(section)[0] for section in HOOKS}
    import pybpf

    with pybpf.open(args.object, facts=facts) as obj:
        program = chosen_program(obj, args.object, args.program)
        return {f"{program.name} ({program.section})": program.template()}


def why(args: argparse.Namespace) -> list[dict[str, object]]:
    """Find out for each function: each hook and mechanism with its answer, and who is attached.

    :raises UsageError: the object has no such multi program
    """
    facts = read_facts(args.facts)
    templates = _templates(args, facts)
    resolver = Resolver(facts, live=not facts.is_saved)
    kernel = plan_facts(facts)
    known: Registry | None = None
    seen = facts.is_saved
    if not facts.is_saved:
        from ...trampoline.registry import Registry

        with suppress(DeniedByPolicy):  # then nobody tells who is attached
            known, seen = Registry.read(facts), True
    out: list[dict[str, object]] = []
    for name in args.functions:
        try:
            targets, skipped = resolver.resolve([name], at_exit=False)
        except PlanError as error:
            out.append({"function": name, "found": False, "reason": str(error)})
            continue
        out += [
            {
                "function": s.label,
                "found": False,
                "reason": s.reason.value,
                "detail": s.detail,
                "hint": s.hint,
                "text": str(s),
            }
            for s in skipped
        ]
        if any(template.sleepable for template in templates.values()):
            targets = resolver.with_sleep(targets)
        for target in targets:
            hooks: dict[str, dict[str, str]] = {}
            for section, template in templates.items():
                said = answers(template, target, kernel)
                unsure = template.sleepable and target.may_sleep is None
                able = _UNSURE if unsure else _YES
                hooks[section] = {
                    mechanism.value: able if no is None else no.why
                    for mechanism, no in said.items()
                }
            model = target.model
            out.append(
                {
                    "function": target.label,
                    "found": True,
                    "address": target.address,
                    "unique": target.unique,
                    "btf_id": target.btf_id,
                    "slots": model.slots if model else None,
                    "returns": model.returns.value if model else None,
                    "occupied": target.occupied,
                    "max_programs": kernel.max_programs,
                    "attached": _attached_to(target, facts, known) if seen else None,
                    "hooks": hooks,
                }
            )
    return out


def why_lines(rows: Sequence[dict[str, object]]) -> Iterator[Line]:
    """Put the result of `why` into text."""
    for row in rows:
        if not row["found"]:
            yield Line(str(row.get("text") or f"{row['function']}: {row['reason']}"), "31", 2)
            continue
        slots = "no BTF"
        if row["slots"] is not None:
            slots = f"{many(int(str(row['slots'])), 'slot')}, returns {row['returns']}"
        programs = f"{row['occupied']} of {row['max_programs']} programs"
        # If several functions have this name, the address tells them apart.
        where = "" if row.get("unique", True) else f" at {row['address']:#x}"
        yield Line(f"{row['function']}{where}: {slots}, {programs}", "1", 2)
        attached = row["attached"]
        if attached is None:
            yield Line("  attached: not known, as this process lacks CAP_SYS_ADMIN", "33", 4)
        assert attached is None or isinstance(attached, list)
        for one in attached or ():
            shared = f" on {one['functions']} functions" if one["functions"] > 1 else ""
            who = f"program {one['program']} {one['name'] or '?'} by link {one['link']}"
            how = f"({'/'.join(one['kinds'])}{shared})"
            yield Line(f"  attached: {who} {how}, {one['owner_text']}", "36", 4)
        hooks = row["hooks"]
        assert isinstance(hooks, dict)
        for section, ways in hooks.items():
            able = [mechanism for mechanism, said in ways.items() if said in (_YES, _UNSURE)]
            text = f"  {section}: {', '.join(able) or 'not possible'}"
            if _UNSURE in ways.values():
                text += f" ({_UNSURE})"
            yield Line(text, "32" if able else "31", 4)
        yield from (Line(f"    {text}", "33", 6) for text in _refusals(hooks))


def _refusals(hooks: dict[str, dict[str, str]]) -> Iterator[str]:
    # Each reason once, however many mechanisms and sections share it.
    reasons: dict[str, dict[str, list[str]]] = {}  # reason -> mechanism -> sections
    for section, ways in hooks.items():
        for mechanism, said in ways.items():
            if said not in (_YES, _UNSURE):
                reasons.setdefault(said, {}).setdefault(mechanism, []).append(section)
    for reason, mechanisms in reasons.items():
        alike: dict[tuple[str, ...], list[str]] = {}  # sections -> mechanisms
        for mechanism, sections in mechanisms.items():
            alike.setdefault(tuple(sections), []).append(mechanism)
        which = [
            ", ".join(names) + (f" ({', '.join(at)})" if len(at) < len(hooks) else "")
            for at, names in alike.items()
        ]
        yield f"not {' or '.join(which)}: {reason}"


def show_why(args: argparse.Namespace, screen: Screen) -> int:
    """Run ``why``. Return 1 if a function was not found."""
    with Waiting("asking the kernel", sys.stderr):
        rows = why(args)
    if args.json:
        screen.json({"functions": rows})
    else:
        if not args.object:
            screen.show(Line("for a program that reads every argument and return value:", "2", 2))
        screen.show(*why_lines(rows))
    return 0 if all(row["found"] for row in rows) else 1
