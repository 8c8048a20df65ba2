"""`trampolines plan`: show what attaching a multi program would do. `why` uses parts of it.

It works on the running kernel. With facts that ``features --save`` wrote on
another kernel, it needs no privileges. Nothing is attached in either case.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack

from ...asm import insn as asm
from ...asm import opcodes as op
from ...asm.edit import Code
from ...asm.text import listing
from ...errors import PlanError
from ...multi.classes import planned
from ...multi.link import SLOW_S
from ...multi.plan import Plan
from ...multi.resolve import plan
from ...multi.template import Template
from ...multi.traits import Hook
from ...trampoline.classes import classify
from ..inputs import read_facts
from ..parsers import UsageError
from ..progress import Waiting
from ..screen import Line, Screen
from .list import classes_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ... import Object, Program

__all__ = [
    "HOOKS",
    "chosen_program",
    "default_program",
    "plan_json",
    "plan_lines",
    "run_plan",
    "show_plan",
]

HOOKS = {f"{hook.value}.multi": hook for hook in Hook}


def default_program(section: str) -> tuple[Template, str]:
    """Make a program that reads every slot (and, after entry, the return value), and the glob.

    :param section: e.g. ``fexit.multi/vfs_*``
    :raises UsageError: if it is not a multi section
    """
    kind, _, glob = section.lstrip("?").partition("/")
    hook = HOOKS.get(kind.removesuffix(".s"))
    if hook is None:
        raise UsageError(
            f"{section!r} is not a multi section: give {' or '.join(HOOKS)}, with .s if the "
            "program may sleep, and a glob, e.g. 'fexit.multi/vfs_*'"
        )
    slots = range(6 if hook is Hook.ENTRY else 7)
    insns = [asm.load(op.DW, op.R0, op.R1, 8 * slot) for slot in slots]
    code = Code((*insns, asm.mov(op.R0, 0), asm.exit_()))
    return Template("reads_everything", code, hook, sleepable=kind.endswith(".s")), glob


def plan_json(made: Plan, *, classes: bool) -> dict[str, object]:
    """Return `Plan.to_json` as a value.

    :param classes: include how few trampolines would do
    """
    shown: dict[str, object] = json.loads(made.to_json())
    if classes:
        shown["classes"] = classify(planned(made)).to_dict()
    return shown


def plan_lines(made: Plan, *, verbose: bool, prog: str) -> Iterator[Line]:
    """Put a plan into text: the answer first. `verbose` adds names, reasons and listings.

    :param prog: how the tool was called, for the hint at the end
    """
    head, *rest = str(made).splitlines()
    yield Line(head, "1", 2)
    for number, text in enumerate(rest):
        counted = text.startswith("    ")  # a reason and how often
        yield Line(text, "33" if counted else "36" if number < len(made.groups) else "", 4)
    total = made.cost.attach_s + made.cost.detach_s
    if total > SLOW_S:
        yield Line(f"  this will take about {total:.0f} s on a machine like this", "31", 4)
    if not verbose:
        if made.skipped:
            yield Line(f"  -v adds names and hints; `{prog} why FUNC` explains one", "2", 4)
        return
    if made.skipped:
        yield Line()
        yield Line("skipped:", "1")
        yield from (Line(f"  {s}", "33", 4) for s in made.skipped)
    titles = [
        f"group {number}: {group.mechanism.value}, {group.lowering.value}, {group.kind}"
        for number, group in enumerate(made.groups)
    ]
    for title, group in zip(titles, made.groups, strict=True):
        yield Line()
        yield Line(title, "1")
        yield Line("  functions: " + " ".join(sorted(t.label for t in group.targets)), "", 4)
    # Listings are long, so they come last.
    for title, group in zip(titles, made.groups, strict=True):
        yield Line()
        yield Line(f"code of {title}", "1")
        for part in group.parts:
            yield Line(f"  image {part.variant.digest} ({part.side.value})", "36")
            yield from (Line(f"    {text}") for text in listing(part.variant.code.insns))


def show_plan(args: argparse.Namespace, screen: Screen) -> int:
    """Run ``plan``. Return 1 if no function can be attached to.

    :raises UsageError: as `run_plan`
    """
    with Waiting("planning", sys.stderr):
        made = run_plan(args)
    if args.json:
        screen.json(plan_json(made, classes=args.classes))
    else:
        screen.show(*plan_lines(made, verbose=args.verbose, prog=args.prog))
        if args.classes:
            screen.show("")
            classes_table(classify(planned(made)), screen)
    return 0 if made.count else 1


def run_plan(args: argparse.Namespace) -> Plan:
    """Make the plan that the arguments ask for.

    :raises UsageError: no multi section and no object, a program that the object does not
        have, a section that does not fit the program, or no functions
    :raises PlanError: nothing matches, or the program cannot be a multi program
    """
    if args.program and not args.object:
        raise UsageError("--program needs --object FILE")
    facts = read_facts(args.facts)
    with ExitStack() as stack:
        if args.object:
            import pybpf

            obj = stack.enter_context(pybpf.open(args.object, facts=facts))
            one = chosen_program(obj, args.object, args.program)
            program: Program | Template = one
            glob = _glob(one, args.section)
        elif args.section:
            program, glob = default_program(args.section)
        else:
            raise UsageError("give a SECTION, or --object FILE --program NAME")
        if not glob:
            raise UsageError(
                f"section {one.section!r} names no functions: give a glob as well, e.g. 'vfs_*'"
                if args.object
                else "no functions given; write them after the slash, e.g. fexit.multi/vfs_*"
            )
        return plan(program, glob, facts, args.mechanism, prefer=args.prefer)


def chosen_program(obj: Object, file: str, name: str | None) -> Program:
    """Find the multi program with this name, or the only one.

    :raises PlanError: there is no multi program
    :raises UsageError: none has this name, or there are several and no name was given
    """
    multis = {p.name: p for p in obj.programs.values() if p.is_multi}
    if not multis:
        raise PlanError(f"{file} has no multi program")
    if name is None and len(multis) == 1:
        (name,) = multis
    if name not in multis:
        what = "it has several multi programs; choose one with --program"
        if name is not None:
            one = obj.programs.get(name)
            what = f"no program {name!r}"
            if one is not None:
                what = f"program {name!r} in section {one.section!r} is not a multi program"
        raise UsageError(f"{file}: {what}; there are {', '.join(multis)}")
    return multis[name]


def _glob(program: Program, section: str | None) -> str:
    # SECTION, if the program has its own section: a glob alone, or a section of the same kind.
    if section is None:
        return program.attach_to
    kind, slash, glob = section.lstrip("?").partition("/")
    if not slash and kind.removesuffix(".s") not in HOOKS:
        return section
    if kind != program.section.lstrip("?").partition("/")[0]:
        raise UsageError(
            f"{section!r} does not fit program {program.name!r} in section {program.section!r}; "
            "to choose other functions, give only a glob"
        )
    return glob or program.attach_to
