#!/usr/bin/env python3
"""Show the BPF trampolines of the running kernel, decode one, or check them all.

    trampolines.py list [FUNC...]   traced functions, their programs, who put them there
    trampolines.py dump FUNC        the image instruction by instruction, each with its purpose
    trampolines.py verify           do the images agree with the kernel's links?
    trampolines.py plan SECTION     what attaching a multi program there would do, and what not
    trampolines.py why FUNC...      what can be attached to a function, how, or why not

FUNC is a function name, ``MODULE:NAME``, or an image's symbol. Needs root and a
readable /proc/kallsyms, except plan and why with --facts. Exit status: 0 ok,
1 failed or not verified, 2 usage.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import image_commands  # noqa: E402  (the path is set above)
from screen import Screen  # noqa: E402
from toolmain import explain, run  # noqa: E402

from pybpf.errors import DeniedByPolicy  # noqa: E402

__all__ = ["Command", "main"]


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: how its arguments are declared and what it does.

    :param run: takes the parsed arguments and the screen, gives the exit status
    """

    name: str
    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Screen], int]


def _dump(args: argparse.Namespace, screen: Screen) -> int:
    image = image_commands.find_image(args.function)
    if image is None:
        return _fail(f"{args.function} has no trampoline; see: trampolines.py list")
    if args.json:
        screen.json(image_commands.dump_json(image))
    else:
        image_commands.dump_text(image, screen)
    return 0


# The planner is much to import for those who only look at images.


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    from plan_commands import plan_arguments

    plan_arguments(parser)


def _plan(args: argparse.Namespace, screen: Screen) -> int:
    from plan_commands import UsageError, show_plan

    try:
        return show_plan(args, screen)
    except UsageError as error:
        return _fail(str(error), 2)


def _why_arguments(parser: argparse.ArgumentParser) -> None:
    from why_command import why_arguments

    why_arguments(parser)


def _why(args: argparse.Namespace, screen: Screen) -> int:
    from plan_commands import UsageError
    from why_command import show_why

    try:
        return show_why(args, screen)
    except UsageError as error:
        return _fail(str(error), 2)


COMMANDS = (
    Command(
        "list",
        "traced functions, their images, and who attached",
        image_commands.list_arguments,
        image_commands.list_images,
    ),
    Command("dump", "one image, instruction by instruction", image_commands.dump_arguments, _dump),
    Command(
        "verify",
        "compare the images with the kernel's links",
        image_commands.verify_arguments,
        image_commands.verify_images,
    ),
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
    except ModuleNotFoundError as error:
        return _fail(f"the Python module {error.name} is missing; run: make setup")
    except DeniedByPolicy as error:
        elsewhere = "vagrant/vm --kernel 6.12 -- python3 tools/trampolines.py ..."
        also = " (plan and why: or --facts FILE)" if args.command in ("plan", "why") else ""
        return _fail(f"{explain(error)}; on another kernel: {elsewhere}{also}")
    except (OSError, ValueError) as error:
        return _fail(explain(error))


def _use_venv() -> None:
    # The checkout's own environment has capstone where the system's Python has not.
    python = ROOT / ".venv" / "bin" / "python"
    if importlib.util.find_spec("capstone") is not None or Path(sys.prefix) == ROOT / ".venv":
        return
    # It may not be there, or be somebody else's; planning for saved facts needs none of it.
    if os.access(python, os.X_OK):
        os.execv(python, [str(python), *sys.argv])


if __name__ == "__main__":
    _use_venv()
    run("trampolines.py", main)
