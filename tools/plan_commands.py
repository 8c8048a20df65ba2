"""The planning commands of trampolines.py: `plan` and `why`.

Both work on the running kernel, or on facts that ``features.py --save`` wrote on
another one; then they need no privileges and attach nothing.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pybpf.asm import insn as asm
from pybpf.asm import opcodes as op
from pybpf.asm.edit import Code
from pybpf.asm.text import listing
from pybpf.errors import PlanError
from pybpf.kernel.host import Facts
from pybpf.trampoline.cost import Mechanism
from pybpf.trampoline.planner import Plan, Target, Template, answers, plan
from pybpf.trampoline.reasons import Skipped
from pybpf.trampoline.targets import Resolver, plan_facts
from pybpf.trampoline.traits import Hook

if TYPE_CHECKING:
    from pybpf.trampoline.verify import Attached

__all__ = [
    "UsageError",
    "default_program",
    "plan_arguments",
    "plan_json",
    "plan_lines",
    "run_plan",
    "why",
    "why_arguments",
    "why_lines",
]

_HOOKS = {f"{hook.value}.multi": hook for hook in Hook}
SLOW = 5.0  # seconds: say so beforehand


class UsageError(PlanError):
    """The arguments themselves are wrong, whatever the kernel has."""


def default_program(section: str) -> tuple[Template, str]:
    """A program that reads every slot (and, past entry, the return value), and the glob.

    :param section: e.g. ``fexit.multi/vfs_*``
    :raises UsageError: if it is no multi section
    """
    kind, _, glob = section.lstrip("?").partition("/")
    hook = _HOOKS.get(kind.removesuffix(".s"))
    if hook is None:
        raise UsageError(
            f"{section!r} is no multi section; one of {', '.join(_HOOKS)}, each [.s]/GLOB"
        )
    slots = range(6 if hook is Hook.ENTRY else 7)
    insns = [asm.load(op.DW, op.R0, op.R1, 8 * slot) for slot in slots]
    code = Code((*insns, asm.mov(op.R0, 0), asm.exit_()))
    return Template("reads_everything", code, hook, sleepable=kind.endswith(".s")), glob


def _facts(path: str | None) -> Facts:
    if path is None:
        return Facts()
    return Facts.from_json(json.loads(Path(path).read_text()))


# ---- plan ---------------------------------------------------------------------


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``plan``."""
    parser.add_argument(
        "section",
        nargs="?",
        metavar="SECTION",
        help="e.g. 'fexit.multi/vfs_*', 'fentry.multi/mod:*'",
    )
    parser.add_argument("--object", metavar="FILE", help="plan a program of this object instead of")
    parser.add_argument("--program", metavar="NAME", help="one that reads everything")
    parser.add_argument(
        "--mechanism", default="auto", choices=["auto", *(m.value for m in Mechanism)]
    )
    parser.add_argument("--prefer", choices=["overhead"], help="least cost per call first")
    parser.add_argument(
        "--facts", metavar="FILE", help="plan for the kernel that these facts are of"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="functions, images, reasons")


def plan_json(made: Plan, skipped: Sequence[Skipped]) -> dict[str, object]:
    """`Plan.to_json` with the functions that were not even found."""
    shown: dict[str, object] = json.loads(
        replace(made, skipped=(*skipped, *made.skipped)).to_json()
    )
    return shown


def plan_lines(made: Plan, skipped: Sequence[Skipped], *, verbose: bool) -> Iterator[str]:
    """The plan as text."""
    whole = replace(made, skipped=(*skipped, *made.skipped))
    yield str(whole)
    total = made.cost.attach_s + made.cost.detach_s
    if total > SLOW:
        yield f"  this will take about {total:.0f} s on such a machine"
    if not verbose:
        if whole.skipped:
            yield "  -v names them, with hints; `trampolines.py why FUNC` explains one"
        return
    for number, group in enumerate(made.groups):
        yield ""
        yield f"group {number}: {group.mechanism.value}, {group.lowering.value}, {group.kind}"
        for part in group.parts:
            yield f"  image {part.image.digest} ({part.side.value})"
            yield from (f"    {text}" for text in listing(part.image.code.insns))
        yield "  functions: " + " ".join(t.label for t in group.targets)
    if whole.skipped:
        yield ""
        yield "skipped:"
        yield from (f"  {s}" for s in whole.skipped)


def run_plan(args: argparse.Namespace) -> tuple[Plan, list[Skipped]]:
    """What ``plan`` was asked.

    :raises UsageError: neither a multi section nor an object, or no functions
    :raises PlanError: nothing matches, or the program cannot be a multi program
    """
    if args.program and not args.object:
        raise UsageError("--program names a program of --object FILE")
    facts = _facts(args.facts)
    with ExitStack() as stack:
        if args.object:
            import pybpf

            obj = stack.enter_context(pybpf.open(args.object, facts=facts))
            multis = [p.name for p in obj.programs.values() if p.is_multi]
            name = args.program or (multis[0] if len(multis) == 1 else "")
            if name not in multis:
                raise PlanError(
                    f"--program: one of {', '.join(multis) or 'none: no multi program'}"
                )
            program = obj.programs[name]
            template, glob = program.template(), (args.section or "").partition("/")[2]
            glob = glob or program.attach_to
        elif args.section:
            template, glob = default_program(args.section)
        else:
            raise UsageError("give a SECTION, or --object FILE --program NAME")
        if not glob:
            raise UsageError("no functions: write them behind the slash, e.g. fexit.multi/vfs_*")
        resolver = Resolver(facts, live=not facts.is_saved)
        targets, skipped = resolver.resolve(glob, at_exit=template.hook is not Hook.ENTRY)
        made = plan(template, targets, plan_facts(facts), args.mechanism, prefer=args.prefer)
    return made, skipped


# ---- why ----------------------------------------------------------------------


def why_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``why``."""
    parser.add_argument("functions", nargs="+", metavar="FUNC", help="NAME, MODULE:NAME or a glob")
    parser.add_argument("--facts", metavar="FILE", help="ask the kernel that these facts are of")


def _attached_to(target: Target, facts: Facts) -> list[Attached]:
    from pybpf.trampoline.image import make_key
    from pybpf.trampoline.verify import attachments

    btf = facts.btf
    if facts.is_saved or target.btf_id is None or not hasattr(btf, "object_id"):
        return []
    key = make_key(btf.object_id(target.module), target.btf_id)
    return [one for one in attachments() if key in one.keys]


def why(args: argparse.Namespace) -> list[dict[str, object]]:
    """For each function: each hook and mechanism, possible or the reason; who is there."""
    facts = _facts(args.facts)
    resolver = Resolver(facts, live=not facts.is_saved)
    kernel = plan_facts(facts)
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
        for target in targets:
            hooks: dict[str, dict[str, str]] = {}
            for section in _HOOKS:
                template, _ = default_program(section)
                said = answers(template, target, kernel)
                hooks[section] = {
                    mechanism.value: "yes" if no is None else str(no)
                    for mechanism, no in said.items()
                }
            there = _attached_to(target, facts)
            model = target.model
            out.append(
                {
                    "function": target.label,
                    "found": True,
                    "address": target.address,
                    "btf_id": target.btf_id,
                    "slots": model.slots if model else None,
                    "returns": model.returns.value if model else None,
                    "occupied": target.occupied,
                    "max_programs": kernel.max_programs,
                    "attached": [
                        {"link": a.link, "program": a.program, "kinds": list(a.kinds)}
                        for a in there
                    ],
                    "hooks": hooks,
                }
            )
    return out


def why_lines(rows: Sequence[dict[str, object]]) -> Iterator[str]:
    """What `why` found, as text."""
    for row in rows:
        if not row["found"]:
            yield str(row.get("text") or f"{row['function']}: {row['reason']}")
            continue
        slots = (
            "no BTF" if row["slots"] is None else f"{row['slots']} slots, returns {row['returns']}"
        )
        yield f"{row['function']}: {slots}, {row['occupied']} of {row['max_programs']} programs"
        attached = row["attached"]
        assert isinstance(attached, list)
        for one in attached:
            kinds = "/".join(one["kinds"])
            yield f"  attached: program {one['program']} by link {one['link']} ({kinds})"
        hooks = row["hooks"]
        assert isinstance(hooks, dict)
        for section, ways in hooks.items():
            able = [mechanism for mechanism, said in ways.items() if said == "yes"]
            yield f"  {section}: {', '.join(able) or 'not possible'}"
            groups = Counter(said for said in ways.values() if said != "yes")
            for said in groups:
                which = ", ".join(m for m, s in ways.items() if s == said)
                yield f"    not {which}: {said}"
