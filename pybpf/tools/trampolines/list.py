"""`trampolines list`: show every traced function, its programs, and who attached them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence

from ...kernel.functions import label
from ...kernel.globs import Matcher, parse_pattern
from ..progress import Waiting
from ..screen import Column, Line, Screen, many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...kernel.owners import Held
    from ...trampoline import Classes, TrampolineImage
    from ...trampoline.image import ImageProgram
    from ...trampoline.registry import Probed, Registry

__all__ = [
    "IMAGES",
    "PROBES",
    "class_lines",
    "classes_table",
    "list_images",
]

IMAGES = (
    Column("FUNCTION", 16, style="36"),
    Column("MODULE", 6),
    Column("KINDS", 9),
    Column("SIZE", drop=2, right=True),
    Column("SLOTS", drop=3, right=True),
    Column("FLAGS", 5, drop=1, style="2"),
    Column("PROGRAMS", 10),
    Column("OWNERS", 10, style="33"),
)
PROBES = (
    Column("LINK", right=True),
    Column("KIND", 6),
    Column("PROGRAM", 10),
    Column("COUNT", right=True),
    Column("FUNCTIONS", 12, style="36"),
    Column("OWNERS", 10, style="33"),
)
_CLASSES = (
    Column("FUNCTIONS", right=True),
    Column("MODEL", 22),
    Column("PROGRAMS", 8),
    Column("NAMES", 12, style="36"),
)
_NAMED = 8  # most functions of a link or class that a table names


class _Asked:
    """Match the functions that a command line asks for: all, if it names none."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._matcher = Matcher([parse_pattern(text) for text in patterns]) if patterns else None

    def has(self, name: str, module: str) -> bool:
        return self._matcher is None or self._matcher.matches(label(name, module))


def list_images(args: argparse.Namespace, screen: Screen) -> int:
    """Run ``list``: show every traced function, its programs and who attached them."""
    from ... import Facts
    from ...trampoline.registry import image_classes, tracing

    asked = _Asked(args.functions)
    facts = Facts()
    with Waiting("reading trampolines", sys.stderr):
        now = tracing(facts, stale=args.stale)
    traced, known = now.images, now.registry
    found = [i for i in traced if asked.has(i.function, i.module)]
    unsettled = sum(image.current and image.key in now.unsettled for image in found)
    probes = [
        p
        for p in known.probes
        if not args.functions or any(asked.has(name, module) for name, module, _ in p.functions)
    ]
    classes = image_classes(found) if args.classes else None
    if args.json:
        value: dict[str, object] = {
            "images": [_image_json(image, known) for image in found],
            "probes": [_probe_json(one, known) for one in probes],
            "hidden_processes": known.owners.hidden,
            "unsettled": sorted(
                i.function or i.symbol for i in found if i.current and i.key in now.unsettled
            ),
        }
        if classes is not None:
            value["classes"] = classes.to_dict()
        screen.json(value)
        return 0
    if not traced:
        screen.show("no function is traced through a trampoline")
    if found:
        screen.table(IMAGES, [_image_row(image, known) for image in found])
    lost = _not_traced(args.functions, found, probes) if traced else []
    functions = many(len({image.key for image in traced}), "function")
    for name in lost:
        text = f"{name}: not among the {functions} traced by trampoline, and not on a kprobe link"
        screen.show(Line(text, "33", 2))
    if probes:
        if found or lost or not traced:
            screen.show("")
        screen.show(Line("kprobe links", "1"))
        screen.table(PROBES, [_probe_row(one, known, asked) for one in probes])
    if classes is not None:
        screen.show("")
        classes_table(classes, screen)
    if unsettled:
        text = f"{many(unsettled, 'function')} do not agree with the links, perhaps still changing"
        screen.show("", Line(f"{text} (see: verify)", "33", 0))
    if known.owners.hidden:
        who = many(known.owners.hidden, "process", "processes")
        text = f"{who} could not be read, so owners may be missing"
        screen.show("", Line(text, "31", 0))
    return 0


def _not_traced(
    patterns: Sequence[str], found: Sequence[TrampolineImage], probes: Sequence[Probed]
) -> list[str]:
    names = {(image.function, image.module) for image in found}
    names |= {(name, module) for one in probes for name, module, _ in one.functions}
    each = {pattern: _Asked([pattern]) for pattern in patterns}
    return [p for p, asked in each.items() if not any(asked.has(*name) for name in names)]


def _called(image: TrampolineImage) -> Iterator[ImageProgram]:
    # Each program once. A session program is called on both sides.
    for one in image.programs:
        if not (one.call.kind == "fsession" and one.call.phase == "exit"):
            yield one


def _image_row(image: TrampolineImage, known: Registry) -> tuple[str, ...]:
    programs = []
    owners: dict[str, list[str]] = {}
    for one in _called(image):
        number = "?" if one.id is None else str(one.id)
        gone = "(detached)" if one.call.detached else ""
        programs.append(f"{number}:{one.name or one.tag or '?'}{gone}")
        if not one.call.detached:
            owners.setdefault(_owner(known.holds(image.key, one.id)), []).append(number)
    who = [
        name if len(owners) == 1 else f"{','.join(numbers)}:{name}"
        for name, numbers in owners.items()
    ]
    return (
        image.function or image.symbol,
        image.module or "?",
        ", ".join(f"{n} {kind}" for kind, n in image.kinds.items()) or "-",
        str(image.size),
        str(image.slots),
        ",".join(image.flags.names) or "-",
        " ".join(programs) or "-",
        " ".join(who) or "-",
    )


def _owner(held: Held | None) -> str:
    return "?" if held is None else str(held)


def _image_json(image: TrampolineImage, known: Registry) -> dict[str, object]:
    value = image.to_dict()
    programs = []
    for one in image.programs:
        held = known.holds(image.key, one.id)
        links = [a.link for a in known.on_key(image.key) if a.program == one.id]
        programs.append(
            {**one.to_dict(), "links": links, "owner": None if held is None else held.to_dict()}
        )
    value["programs"] = programs
    return value


def _probe_row(one: Probed, known: Registry, asked: _Asked) -> tuple[str, ...]:
    names = [label(name, module) for name, module, _ in one.functions if asked.has(name, module)]
    return (
        str(one.link),
        one.kind,
        f"{one.program}:{known.names.get(one.program, '?')}",
        str(one.count),
        _some(names) or "not told by this kernel",
        str(known.owners.of_link(one.link)),
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _probe_json(one: Probed, known: Registry) -> dict[str, object]:
    return {
        "link": one.link,
        "program": one.program,
        "name": known.names.get(one.program),
        "kind": one.kind,
        "count": one.count,
        "functions": [
            {"name": name, "module": module, "address": f"{address:#x}"}
            for name, module, address in one.functions
        ],
        "owner": known.owners.of_link(one.link).to_dict(),
    }


def classes_table(found: Classes, screen: Screen) -> None:
    """Print classes as a table under one line that sums them up."""
    screen.show(*class_lines(found))
    if found.classes:
        rows = []
        for one in found:
            model = "no BTF" if one.model is None else str(one.model)
            programs = " ".join(map(str, one.programs)) or "-"
            names = _some([t.label for t in one.functions])
            rows.append((str(len(one.functions)), model, programs, names))
        screen.table(_CLASSES, rows)


def class_lines(found: Classes) -> Iterable[Line]:
    """Return a line with the summary of the classes."""
    yield Line(f"classes: {found.summary}", "1", 2)
