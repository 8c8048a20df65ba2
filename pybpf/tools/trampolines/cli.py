"""`pybpf trampolines`: show the kernel's trampolines, and what attaching would do."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence

from ...errors import DeniedByPolicy
from ...multi.cost import OWN_OPS
from ..entry import explain
from ..pages import Page, page_of
from ..parsers import STATUSES, About, Example, Parser, UsageError
from ..screen import Screen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["main", "page"]

# Each mechanism has a price, so these are their names. Importing them would take 20 ms.
_MECHANISMS = tuple(OWN_OPS.prices)

_OBJECT = Example("vfs_read --object trace.bpf.o", "the same for your own program")
_ABOUT = About(
    "BPF trampolines: existing ones, and plans for more",
    """\
FUNC is the name of a kernel function, MODULE:NAME, or a glob such as 'vfs_*'. Needs root and
a readable /proc/kallsyms. plan and why do not need them with --facts FILE, which uses the
saved facts of a kernel (features --save FILE).""",
    (
        Example("list", "functions traced through trampolines, and who traces each"),
        Example("plan 'fexit.multi/vfs_*'", "what attaching there would do, and what it costs"),
        Example("why do_exit", "what can be attached to a function, and why not"),
    ),
    STATUSES,
)
_LIST = About(
    "traced functions, their programs, and who attached them",
    examples=(
        Example("", "all traced functions"),
        Example("'vfs_*' --classes", "some of them, and how few trampolines would do"),
    ),
    statuses=STATUSES,
)
_DUMP = About(
    "instructions of one trampoline, each with its purpose",
    examples=(Example("vfs_read", "the trampoline of a traced function"),),
    statuses=((0, "ok"), (1, "failed, or the function has no trampoline"), (2, "wrong arguments")),
)
_VERIFY = About(
    "comparison of the trampolines with the kernel's links",
    examples=(Example("", "one line if all agree, or else each finding"),),
    statuses=((0, "all agree"), (1, "findings, or failed"), (2, "wrong arguments")),
)
_PLAN = About(
    "what attaching a multi program would do: mechanisms, cost, and skipped functions",
    """\
SECTION is KIND.multi[.s]/GLOB, where KIND is fentry, fexit or fsession. Without --object the
plan is for a program that reads every argument and, after entry, the return value. Nothing is
attached.""",
    (
        Example("'fexit.multi/vfs_*'", "a plan for all matching functions"),
        Example(
            "-v 'fentry.multi/mod:*'", "a plan for a whole module, with names, reasons and listings"
        ),
        Example("--object trace.bpf.o --program on_exit", "a plan for your own program"),
    ),
    ((0, "ok"), (1, "no function can be attached to, or failed"), (2, "wrong arguments")),
)
_WHY = About(
    "what can be attached to a function, by which mechanism, and who is attached now",
    """\
Without --object the answer is for programs that read every argument and, after entry, the
return value.""",
    (Example("do_exit vfs_read", "answers for two functions of the running kernel"), _OBJECT),
    ((0, "ok"), (1, "a function was not found, or failed"), (2, "wrong arguments")),
)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def _list_arguments(parser: Parser) -> None:
    parser.add_argument(
        "functions", nargs="*", metavar="FUNC", help="functions to list (default: all)"
    )
    parser.add_argument(
        "--stale",
        action="store_true",
        help="additional rows for trampolines that a newer one has replaced",
    )
    parser.add_argument(
        "--classes",
        action="store_true",
        help="additional table of how few trampolines would do, and where",
    )


def _dump_arguments(parser: Parser) -> None:
    parser.add_argument(
        "function", metavar="FUNC", help="traced function, or symbol bpf_trampoline_KEY"
    )


def _verify_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="seconds that a disagreement must last to be reported (default: %(default)g)",
    )


def _program_arguments(parser: Parser) -> None:
    parser.add_argument("--object", metavar="FILE", help="BPF object with the program to attach")
    parser.add_argument(
        "--program",
        metavar="NAME",
        help="program of the object (default: its only multi program)",
    )
    parser.add_argument(
        "--facts",
        metavar="FILE",
        help="file with the saved facts of a kernel (default: the running kernel)",
    )


def _plan_arguments(parser: Parser) -> None:
    parser.add_argument(
        "section",
        nargs="?",
        metavar="SECTION",
        help="kind and functions, e.g. 'fexit.multi/vfs_*'; with --object a glob is enough",
    )
    _program_arguments(parser)
    parser.add_argument(
        "--mechanism",
        default="auto",
        choices=["auto", *_MECHANISMS],
        metavar="NAME",
        help="mechanism to use: "
        + ", ".join(_MECHANISMS)
        + " (default: auto, the best for each function)",
    )
    parser.add_argument(
        "--prefer",
        choices=["overhead"],
        help="cost to keep low: overhead, the cost of each call (default: the cost of attaching)",
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="more detail: names, reasons and listings"
    )
    parser.add_argument(
        "--classes",
        action="store_true",
        help="additional table of how few trampolines would do, and where",
    )


def _why_arguments(parser: Parser) -> None:
    parser.add_argument("functions", nargs="+", metavar="FUNC", help="functions to explain")
    _program_arguments(parser)


# Each command imports its module only when it runs: looking at images does not need the planner.


def _list(args: argparse.Namespace, screen: Screen) -> int:
    from .list import list_images

    return list_images(args, screen)


def _dump(args: argparse.Namespace, screen: Screen) -> int:
    from .dump import dump

    return dump(args, screen)


def _verify(args: argparse.Namespace, screen: Screen) -> int:
    from .verify import verify_images

    return verify_images(args, screen)


def _plan(args: argparse.Namespace, screen: Screen) -> int:
    from .plan import show_plan

    return show_plan(args, screen)


def _why(args: argparse.Namespace, screen: Screen) -> int:
    from .why import show_why

    return show_why(args, screen)


_COMMANDS: tuple[
    tuple[str, About, Callable[[Parser], None], Callable[[argparse.Namespace, Screen], int]],
    ...,
] = (
    ("list", _LIST, _list_arguments, _list),
    ("dump", _DUMP, _dump_arguments, _dump),
    ("verify", _VERIFY, _verify_arguments, _verify),
    ("plan", _PLAN, _plan_arguments, _plan),
    ("why", _WHY, _why_arguments, _why),
)


def _parser(prog: str) -> Parser:
    parser = Parser(prog=prog, about=_ABOUT)
    for name, about, arguments, run in _COMMANDS:
        command = parser.add_command(name, about, run)
        arguments(command)
        command.add_argument("--json", action="store_true", help="JSON output instead of text")
    return parser


def page(prog: str) -> Page:
    """Return the command line as data."""
    return page_of(_parser(prog))


def main(
    argv: Sequence[str] | None = None, prog: str = "trampolines.py", out: TextIO | None = None
) -> int:
    """Run one command and return the exit status."""
    args = _parser(prog).parse_args(argv)
    args.prog = prog
    try:
        status: int = args.run(args, Screen.of(out or sys.stdout))
        return status
    except ModuleNotFoundError as error:
        missing = f"the Python module {error.name} is missing"
        return _fail(prog, f"{missing}: pip install {error.name}, or make setup in a checkout")
    except DeniedByPolicy as error:
        other = "vagrant/vm --kernel 6.12 -- python3 tools/trampolines.py ..."
        also = " (or, for plan and why, --facts FILE)" if args.command in ("plan", "why") else ""
        return _fail(prog, f"{explain(error)}; on another kernel, from a checkout: {other}{also}")
    except UsageError as error:
        return _fail(prog, explain(error), 2)
    except (OSError, ValueError) as error:
        return _fail(prog, explain(error))


def _fail(prog: str, text: str, status: int = 1) -> int:
    print(f"{prog}: {text}", file=sys.stderr)
    return status
