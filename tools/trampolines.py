#!/usr/bin/env python3
"""Show the BPF trampolines of the running kernel, decode one, or check them all.

    trampolines.py list             every traced function, its programs, its image
    trampolines.py dump FUNC        the image instruction by instruction, each with its purpose
    trampolines.py verify           do the images agree with the kernel's links?
    trampolines.py plan SECTION     what attaching a multi program there would do, and what not
    trampolines.py why FUNC...      what can be attached to a function, how, or why not

FUNC is a function name, ``MODULE:NAME``, or an image's symbol. Needs root and a
readable /proc/kallsyms. Exit status: 0 ok, 1 failed or not verified, 2 usage.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

if TYPE_CHECKING:
    from pybpf.trampoline.image import TrampolineImage
    from pybpf.trampoline.roles import Instruction

__all__ = ["Command", "Screen", "dump_text", "fit", "list_rows", "main"]

_HEADINGS = ("FUNCTION", "MODULE", "KINDS", "SIZE", "SLOTS", "FLAGS", "PROGRAMS")
_RIGHT = {"SIZE", "SLOTS"}
# Columns that may be cut to fit a terminal, in this order, and how far.
_FLEXIBLE = (("FLAGS", 10), ("PROGRAMS", 12), ("KINDS", 12), ("FUNCTION", 16), ("MODULE", 8))
_LISTING_WIDTH = 6 + 22 + 1 + 44 + 1  # columns of a listing before its comment


# ---- text -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Screen:
    """Where text goes: colours and a width on a terminal, neither on a pipe.

    :param width: columns, or None for no limit
    """

    out: TextIO
    colour: bool = False
    width: int | None = None

    @classmethod
    def of(cls, out: TextIO) -> Screen:
        """A terminal (unless NO_COLOR or TERM=dumb forbids colours) or a plain stream."""
        if not out.isatty():
            return cls(out)
        colour = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        return cls(out, colour, shutil.get_terminal_size().columns)

    def paint(self, text: str, style: str) -> str:
        """`text` in an ANSI style (``1`` bold, ``2`` dim, ``31`` red ...), if colours are on."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.colour and text else text

    def line(self, text: str = "") -> None:
        print(text, file=self.out)


def fit(rows: Sequence[Sequence[str]], width: int | None) -> list[int]:
    """Widths of the columns of a table whose first row is `_HEADINGS`, to fit `width`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is None:
        return widths
    for name, least in _FLEXIBLE:
        over = sum(widths) + 2 * (len(widths) - 1) - width
        at = _HEADINGS.index(name)
        if over > 0:
            widths[at] = max(widths[at] - over, min(least, widths[at]))
    return widths


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def list_rows(images: Sequence[TrampolineImage]) -> list[tuple[str, ...]]:
    """The table of ``list``, headings first."""
    rows: list[tuple[str, ...]] = [_HEADINGS]
    for image in images:
        programs = []
        for one in image.programs:
            if one.call.kind == "fsession" and one.call.phase == "exit":
                continue
            number = "?" if one.id is None else str(one.id)
            gone = "(detached)" if one.call.detached else ""
            programs.append(f"{number}:{one.name or one.tag or '?'}{gone}")
        rows.append(
            (
                image.function or image.symbol,
                image.module or "?",
                ", ".join(f"{n} {kind}" for kind, n in image.kinds.items()) or "-",
                str(image.size),
                str(image.slots),
                ",".join(image.flags.names) or "-",
                " ".join(programs) or "-",
            )
        )
    return rows


def _show_list(images: Sequence[TrampolineImage], screen: Screen) -> None:
    if not images:
        screen.line("no function is traced through a trampoline")
        return
    rows = list_rows(images)
    widths = fit(rows, screen.width)
    for number, row in enumerate(rows):
        cells = []
        for name, text, width in zip(_HEADINGS, row, widths, strict=True):
            text = _cut(text, width)
            cell = text.rjust(width) if name in _RIGHT else text.ljust(width)
            style = "1" if number == 0 else {"FUNCTION": "36", "FLAGS": "2"}.get(name, "")
            cells.append(screen.paint(cell, style) if style else cell)
        screen.line("  ".join(cells).rstrip())


def _listing(code: Sequence[Instruction], screen: Screen, comments: bool) -> None:
    for insn in code:
        name, _, operands = insn.text.partition(" ")
        text = f"{name:<7} {operands}"
        start = f"{insn.offset:4x}: {screen.paint(f'{insn.raw.hex():<22}', '2')} "
        if not comments:
            screen.line(f"{start}{text}".rstrip())
            continue
        style = "31" if insn.role.name == "UNKNOWN" else "32"
        comment = f"; {insn.comment}"
        if screen.width is not None:
            comment = _cut(comment, max(screen.width - _LISTING_WIDTH, 24))
        screen.line(f"{start}{text:<44} {screen.paint(comment, style)}")


def dump_text(image: TrampolineImage, screen: Screen) -> None:
    """The text of ``dump``: facts, the function's entry, the image."""
    code = image.code
    kinds = ", ".join(f"{n} {kind}" for kind, n in image.kinds.items()) or "no programs"
    screen.line(screen.paint(f"{image.function or image.symbol} ({image.module}): {kinds}", "1"))
    screen.line(f"image    {image.symbol} at {image.address:#x}, {image.size} bytes of code")
    screen.line(f"flags    {', '.join(image.flags.names) or 'none'}")
    frame = [f"{image.slots} argument slots", f"{code.stack_size} bytes of frame"]
    for name, offset in (("ctx", code.ctx_offset), ("ret", code.ret_offset)):
        if offset is not None:
            frame.append(f"{name} at rbp{offset:+d}")
    screen.line(f"frame    {', '.join(frame)}")
    for number, one in enumerate(image.programs):
        who = f"id {one.id} {one.name}" if one.id is not None else one.call.symbol or "unknown"
        extra = f", cookie {one.call.cookie:#x}" if one.call.cookie else ""
        extra += ", sleepable" if one.call.sleepable else ""
        extra += ", detached" if one.call.detached else ""
        screen.line(f"program  {number}: {one.call.kind} ({one.call.phase}), {who}{extra}")
    for problem in code.problems:
        screen.line(screen.paint(f"problem  {problem}", "31"))
    if image.entry is not None and image.function_address is not None:
        leads = "leads to the image" if image.patched else f"leads to {image.entry_symbol or '?'}"
        screen.line(f"\nentry of {image.function} at {image.function_address:#x}: {leads}")
        _listing(image.entry_code, screen, comments=False)
    screen.line(f"\n{image.symbol}:")
    _listing(code.instructions, screen, comments=True)


def _instructions(code: Sequence[Instruction]) -> list[dict[str, object]]:
    return [
        {
            "offset": insn.offset,
            "bytes": insn.raw.hex(),
            "text": insn.text,
            "role": insn.role.name,
            "index": insn.index,
            "target": None if insn.target is None else f"{insn.target:#x}",
            "symbol": insn.symbol,
        }
        for insn in code
    ]


def _json(value: object, screen: Screen) -> None:
    screen.line(json.dumps(value, indent=2))


# ---- commands ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: how its arguments are declared and what it does.

    :param run: takes the parsed arguments and the screen, gives the exit status
    """

    name: str
    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Screen], int]


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stale", action="store_true", help="also images that a newer one has replaced"
    )


def _list(args: argparse.Namespace, screen: Screen) -> int:
    from pybpf.trampoline import images

    found = list(images(stale=args.stale))
    if args.json:
        _json({"images": [image.to_dict() for image in found]}, screen)
    else:
        _show_list(found, screen)
    return 0


def _dump_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("function", metavar="FUNC", help="NAME, MODULE:NAME or bpf_trampoline_KEY")


def _dump(args: argparse.Namespace, screen: Screen) -> int:
    from pybpf.trampoline import image_of, images

    module, _, name = args.function.rpartition(":")
    if name.startswith("bpf_trampoline_"):
        image = next((one for one in images() if one.symbol == name), None)
    else:
        image = image_of(name, module)
    if image is None:
        return _fail(f"{args.function} has no trampoline; see: trampolines.py list")
    if args.json:
        value = image.to_dict()
        value["entry_code"] = _instructions(image.entry_code)
        value["instructions"] = _instructions(image.code.instructions)
        _json(value, screen)
    else:
        dump_text(image, screen)
    return 0


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        type=float,
        default=10.0,
        metavar="S",
        help="how long a disagreement must last, in seconds (default: %(default)s)",
    )


def _verify(args: argparse.Namespace, screen: Screen) -> int:
    from pybpf.trampoline.verify import survey

    found = survey(timeout=args.timeout)
    calls = sum(len(image.programs) for image in found.images)
    if args.json:
        value = {
            "verified": not found.findings,
            "images": len(found.images),
            "calls": calls,
            "attached": len(found.attached),
            "findings": [finding.to_dict() for finding in found.findings],
        }
        _json(value, screen)
    else:
        for finding in found.findings:
            screen.line(screen.paint(str(finding), "31"))
        word = "verified" if not found.findings else f"{len(found.findings)} findings"
        screen.line(
            f"{screen.paint(word, '31' if found.findings else '32')}: {len(found.images)} images "
            f"with {calls} program calls, {len(found.attached)} attachments"
        )
    return 1 if found.findings else 0


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    from plan_commands import plan_arguments

    plan_arguments(parser)


def _plan(args: argparse.Namespace, screen: Screen) -> int:
    from plan_commands import UsageError, plan_json, plan_lines, run_plan

    try:
        made, skipped = run_plan(args)
    except UsageError as error:
        return _fail(str(error), 2)
    if args.json:
        _json(plan_json(made, skipped), screen)
    else:
        for text in plan_lines(made, skipped, verbose=args.verbose):
            screen.line(text)
    return 0 if made.targets else 1


def _why_arguments(parser: argparse.ArgumentParser) -> None:
    from plan_commands import why_arguments

    why_arguments(parser)


def _why(args: argparse.Namespace, screen: Screen) -> int:
    from plan_commands import why, why_lines

    rows = why(args)
    if args.json:
        _json({"functions": rows}, screen)
    else:
        for text in why_lines(rows):
            screen.line(text)
    return 0 if all(row["found"] for row in rows) else 1


COMMANDS = (
    Command("list", "traced functions and their images", _list_arguments, _list),
    Command("dump", "one image, instruction by instruction", _dump_arguments, _dump),
    Command("verify", "compare the images with the kernel's links", _verify_arguments, _verify),
    Command("plan", "groups, images, cost and skipped functions", _plan_arguments, _plan),
    Command("why", "what can be attached to a function, or why not", _why_arguments, _why),
)


def _fail(text: str, status: int = 1) -> int:
    print(f"trampolines.py: {text}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trampolines.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(command.name, help=command.help, description=command.help)
        command.arguments(sub)
        sub.add_argument("--json", action="store_true", help="JSON instead of text")
        sub.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run one command; the exit status."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args, Screen.of(out or sys.stdout))
        return status
    except BrokenPipeError:
        # The reader has what it wanted (`| head`); nothing is left to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError) as error:
        return _fail(str(error))


def _use_venv() -> None:
    # The checkout's own environment has capstone where the system's Python has not.
    python = ROOT / ".venv" / "bin" / "python"
    if importlib.util.find_spec("capstone") is None and Path(sys.prefix) != ROOT / ".venv":
        # Not there, or somewhere that this user may not look into.
        if not os.access(python, os.X_OK):
            sys.exit(_fail("the Python module capstone is missing; run: make setup"))
        os.execv(python, [str(python), *sys.argv])


if __name__ == "__main__":
    _use_venv()
    sys.exit(main())
