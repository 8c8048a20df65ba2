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
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

from ...errors import DeniedByPolicy
from ..entry import explain
from ..screen import Screen
from .dump import dump_arguments, dump_json, dump_text, find_image
from .list import list_arguments, list_images
from .verify import verify_arguments, verify_images

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
    image = find_image(args.function)
    if image is None:
        return _fail(f"{args.function} has no trampoline; see: trampolines.py list")
    if args.json:
        screen.json(dump_json(image))
    else:
        dump_text(image, screen)
    return 0


# The planner is much to import for those who only look at images.


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    from .plan import plan_arguments

    plan_arguments(parser)


def _plan(args: argparse.Namespace, screen: Screen) -> int:
    from .plan import UsageError, show_plan

    try:
        return show_plan(args, screen)
    except UsageError as error:
        return _fail(str(error), 2)


def _why_arguments(parser: argparse.ArgumentParser) -> None:
    from .why import why_arguments

    why_arguments(parser)


def _why(args: argparse.Namespace, screen: Screen) -> int:
    from .plan import UsageError
    from .why import show_why

    try:
        return show_why(args, screen)
    except UsageError as error:
        return _fail(str(error), 2)


COMMANDS = (
    Command(
        "list",
        "traced functions, their images, and who attached",
        list_arguments,
        list_images,
    ),
    Command("dump", "one image, instruction by instruction", dump_arguments, _dump),
    Command(
        "verify",
        "compare the images with the kernel's links",
        verify_arguments,
        verify_images,
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
