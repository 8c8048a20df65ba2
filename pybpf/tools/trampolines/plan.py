"""The `plan` command of trampolines.py, and what `why` uses of it.

It works on the running kernel, or on facts that ``features.py --save`` wrote on
another one; then it needs no privileges. Nothing is attached either way.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ...asm import insn as asm
from ...asm import opcodes as op
from ...asm.edit import Code
from ...asm.text import listing
from ...errors import PlanError
from ...multi.classes import planned
from ...multi.cost import Mechanism
from ...multi.link import SLOW_S
from ...multi.plan import Plan, Template
from ...multi.resolve import plan
from ...multi.traits import Hook
from ...trampoline.classes import classify
from ..inputs import read_facts
from ..screen import Line, Screen
from .list import classes_table

if TYPE_CHECKING:
    from ... import Object, Program

__all__ = [
    "HOOKS",
    "UsageError",
    "chosen_program",
    "default_program",
    "plan_arguments",
    "plan_json",
    "plan_lines",
    "run_plan",
    "show_plan",
]

HOOKS = {f"{hook.value}.multi": hook for hook in Hook}


class UsageError(PlanError):
    """The arguments themselves are wrong, whatever the kernel has."""


def default_program(section: str) -> tuple[Template, str]:
    """A program that reads every slot (and, past entry, the return value), and the glob.

    :param section: e.g. ``fexit.multi/vfs_*``
    :raises UsageError: if it is no multi section
    """
    kind, _, glob = section.lstrip("?").partition("/")
    hook = HOOKS.get(kind.removesuffix(".s"))
    if hook is None:
        raise UsageError(
            f"{section!r} is no multi section; one of {', '.join(HOOKS)}, each [.s]/GLOB"
        )
    slots = range(6 if hook is Hook.ENTRY else 7)
    insns = [asm.load(op.DW, op.R0, op.R1, 8 * slot) for slot in slots]
    code = Code((*insns, asm.mov(op.R0, 0), asm.exit_()))
    return Template("reads_everything", code, hook, sleepable=kind.endswith(".s")), glob


# ---- plan ---------------------------------------------------------------------


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``plan``."""
    parser.add_argument(
        "section",
        nargs="?",
        metavar="SECTION",
        help="e.g. 'fexit.multi/vfs_*', 'fentry.multi/mod:*'; with --object a glob does",
    )
    parser.add_argument("--object", metavar="FILE", help="plan a program of this object")
    parser.add_argument(
        "--program", metavar="NAME", help="which; without an object one that reads everything"
    )
    parser.add_argument(
        "--mechanism", default="auto", choices=["auto", *(m.value for m in Mechanism)]
    )
    parser.add_argument("--prefer", choices=["overhead"], help="least cost per call first")
    parser.add_argument(
        "--facts", metavar="FILE", help="plan for the kernel that these facts are of"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="functions, images, reasons")
    parser.add_argument(
        "--classes", action="store_true", help="also how few trampolines would do, and for whom"
    )


def plan_json(made: Plan, *, classes: bool) -> dict[str, object]:
    """`Plan.to_json` as a value.

    :param classes: also how few trampolines would do
    """
    shown: dict[str, object] = json.loads(made.to_json())
    if classes:
        shown["classes"] = classify(planned(made)).to_dict()
    return shown


def plan_lines(made: Plan, *, verbose: bool) -> Iterator[Line]:
    """The plan as text: `str` of it, and with `verbose` images, functions and skipped ones."""
    head, *rest = str(made).splitlines()
    yield Line(head, "1", 2)
    for number, text in enumerate(rest):
        counted = text.startswith("    ")  # a reason and how often
        yield Line(text, "33" if counted else "36" if number < len(made.groups) else "", 4)
    total = made.cost.attach_s + made.cost.detach_s
    if total > SLOW_S:
        yield Line(f"  this will take about {total:.0f} s on such a machine", "31", 4)
    if not verbose:
        if made.skipped:
            yield Line(
                "  -v names them, with hints; `trampolines.py why FUNC` explains one", "2", 4
            )
        return
    for number, group in enumerate(made.groups):
        yield Line()
        how = f"{group.mechanism.value}, {group.lowering.value}, {group.kind}"
        yield Line(f"group {number}: {how}", "1")
        for part in group.parts:
            yield Line(f"  image {part.image.digest} ({part.side.value})", "36")
            yield from (Line(f"    {text}") for text in listing(part.image.code.insns))
        yield Line("  functions: " + " ".join(sorted(t.label for t in group.targets)), "", 4)
    if made.skipped:
        yield Line()
        yield Line("skipped:", "1")
        yield from (Line(f"  {s}", "33", 4) for s in made.skipped)


def show_plan(args: argparse.Namespace, screen: Screen) -> int:
    """``plan``: 1 if not one function can be attached to.

    :raises UsageError: as `run_plan`
    """
    made = run_plan(args)
    if args.json:
        screen.json(plan_json(made, classes=args.classes))
    else:
        screen.show(*plan_lines(made, verbose=args.verbose))
        if args.classes:
            screen.show("")
            classes_table(classify(planned(made)), screen)
    return 0 if made.targets else 1


def run_plan(args: argparse.Namespace) -> Plan:
    """What ``plan`` was asked.

    :raises UsageError: neither a multi section nor an object, a program that the object does not
        have, a section that is not the program's, or no functions
    :raises PlanError: nothing matches, or the program cannot be a multi program
    """
    if args.program and not args.object:
        raise UsageError("--program names a program of --object FILE")
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
                else "no functions: write them behind the slash, e.g. fexit.multi/vfs_*"
            )
        return plan(program, glob, facts, args.mechanism, prefer=args.prefer)


def chosen_program(obj: Object, file: str, name: str | None) -> Program:
    """The multi program of this name, or the only one.

    :raises PlanError: there is no multi program
    :raises UsageError: there is none of this name, or several and no name
    """
    multis = {p.name: p for p in obj.programs.values() if p.is_multi}
    if not multis:
        raise PlanError(f"{file}: no multi program")
    if name is None and len(multis) == 1:
        (name,) = multis
    if name not in multis:
        what = "several multi programs: give --program"
        if name is not None:
            one = obj.programs.get(name)
            what = f"no program {name!r}"
            if one is not None:
                what = f"program {name!r} is in section {one.section!r}, no multi program"
        raise UsageError(f"{file}: {what}; there are {', '.join(multis)}")
    return multis[name]


def _glob(program: Program, section: str | None) -> str:
    # What SECTION says where the program has one of its own: a glob alone, or of the same kind.
    if section is None:
        return program.attach_to
    kind, slash, glob = section.lstrip("?").partition("/")
    if not slash and kind.removesuffix(".s") not in HOOKS:
        return section
    if kind != program.section.lstrip("?").partition("/")[0]:
        raise UsageError(
            f"{section!r}, but program {program.name!r} is in section {program.section!r}: "
            "give other functions as a glob alone"
        )
    return glob or program.attach_to
