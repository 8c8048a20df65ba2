"""`pybpf funcwatch`: command line in, exit status out."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

from ...multi.cost import OWN_OPS
from ..pages import Page, page_of
from ..parsers import About, Example, Parser
from .addresses import Address, endpoint
from .options import Options

__all__ = ["main", "page", "parse"]

_ABOUT = About(
    "calls, errors and latency of kernel functions",
    """\
Counts every call of the functions inside the kernel. No data is sent per call, so it can run day
and night, beside other tracers on the same functions. GLOB is NAME, MODULE:NAME or
'NAME [MODULE]' with * and ?. Prints the totals at Ctrl-C, or when CMD or --duration ends.""",
    (
        Example("'vfs_*'", "a table every second"),
        Example("'ext4_*' -d '*_da_*' --interval 60 --json", "a record per function every minute"),
        Example("'vfs_*' -- tar cf /dev/null /etc", "counts while a command runs"),
    ),
    ((0, "ok, or the status of CMD"), (1, "failed"), (2, "wrong arguments")),
)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.01 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.01")
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _pid(text: str) -> int:
    value = _count(text)
    if not 0 < value < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a process id")
    return value


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage above 0")
    return value / 100


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _url(text: str) -> str:
    try:
        return endpoint(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser(prog: str) -> Parser:
    parser = Parser(prog=prog, about=_ABOUT, takes_command=True)
    add = parser.add_argument
    add("globs", nargs="*", metavar="GLOB", help="functions to watch")
    add(
        "-f",
        "--file",
        default="",
        metavar="FILE",
        help="file with more globs, one per line, !GLOB to leave out; read again at SIGHUP",
    )
    add("-d", "--deny", action="append", default=[], metavar="GLOB", help="functions to leave out")
    add(
        "--interval",
        type=_seconds,
        default=1.0,
        metavar="S",
        help="seconds between two outputs (default: %(default)g)",
    )
    add(
        "--duration",
        type=_seconds,
        metavar="S",
        help="seconds after which it ends (default: no end)",
    )
    add(
        "--top",
        type=_count,
        metavar="N",
        help="number of functions to show, most called first; 0 for all "
        "(default: 20, with --json all)",
    )
    add(
        "--json",
        action="store_true",
        help="JSON Lines: a record for each function that was called in the interval, "
        "and at the end one for each function",
    )
    add(
        "-p",
        "--pid",
        type=_pid,
        action="append",
        default=[],
        metavar="PID",
        help="process to count (default: all)",
    )
    add(
        "--comm",
        action="append",
        default=[],
        metavar="NAME",
        help="name of commands to count (default: all)",
    )
    add(
        "--cgroup",
        default="",
        metavar="DIR",
        help="cgroup (v2) to count, including those below it (default: all)",
    )
    add(
        "--mechanism",
        choices=("auto", *OWN_OPS.prices),
        default="auto",
        help="mechanism to attach with (default: the cheapest that this kernel has)",
    )
    add(
        "--prometheus",
        type=_address,
        metavar="[ADDR:]PORT",
        help="address to serve /metrics for Prometheus on; without ADDR only for this machine",
    )
    add(
        "--otlp",
        type=_url,
        metavar="URL",
        help="collector of OpenTelemetry that gets metrics at each interval, e.g. http://HOST:4318",
    )
    add(
        "--max-overhead",
        type=_percent,
        metavar="PCT",
        help="percentage of all CPU time that the programs may take: the hottest functions "
        "are let go of, and named (default: no limit)",
    )
    add(
        "--measure",
        type=_seconds,
        metavar="S",
        help="seconds to count calls first, so that functions that are called often are "
        "attached for the least cost a call",
    )
    add("-v", "--verbose", action="store_true", help="skipped functions, with reasons")
    return parser


def page(prog: str) -> Page:
    """Describe the command line."""
    return page_of(_parser(prog))


def parse(arguments: Sequence[str], prog: str = "funcwatch") -> Options:
    """Read a command line. End the process with status 2 if it makes no sense."""
    own, command = list(arguments), []
    parser = _parser(prog)
    if "--" in own:
        at = own.index("--")
        own, command = own[:at], own[at + 1 :]
        if not command:
            parser.error("no command after --")
    args = parser.parse_args(own)
    if not args.globs and not args.file:
        parser.error("no functions: give a GLOB, or --file FILE")
    return Options(
        tuple(args.globs),
        tuple(args.deny),
        args.interval,
        args.duration,
        args.top,
        args.json,
        tuple(args.pid),
        tuple(args.comm),
        args.cgroup,
        args.mechanism,
        args.verbose,
        args.prometheus,
        args.otlp or "",
        args.max_overhead,
        args.measure,
        args.file,
        tuple(command),
    )


def main(arguments: Sequence[str] | None = None, prog: str = "funcwatch") -> int:
    """Run with `arguments`, by default those of the process.

    :returns: 0 ok, 1 failed, 2 wrong arguments, or the status of the command after ``--``
    """
    options = parse(sys.argv[1:] if arguments is None else arguments, prog)
    from .run import run

    return run(options)
