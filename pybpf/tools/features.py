"""`pybpf features`: show what a kernel can do for BPF tracing. Each feature is tried."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ..jsontext import dumps
from ..wording import plain
from .entry import explain
from .pages import Page, page_of
from .parsers import STATUSES, About, Example, Parser
from .progress import Waiting
from .screen import many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from ..kernel.host import Facts

__all__ = ["describe", "feature_rows", "main", "page"]

_ABOUT = About(
    "what the running kernel can do for BPF tracing",
    """\
Each feature is tried; versions are not compared. The answer is supported, unsupported, or
denied by a policy, with the reason. Most answers need root.""",
    (
        Example("", "a table of features: answer, first release that has it, reason"),
        Example(
            "--save here.facts", "a file with all that planning needs, for use on another machine"
        ),
        Example("--facts here.facts", "the table for a saved kernel"),
        Example("--calibrate", "the measured cost of attaching here (takes some seconds)"),
    ),
    STATUSES,
)

_COLUMNS = ("FEATURE", "ANSWER", "SINCE", "WHY")


def describe(facts: Facts) -> dict[str, Any]:
    """Return the kernel itself as plain values, with the reason for what cannot be read."""
    from ..errors import BpfError

    about: dict[str, Any] = {
        "release": facts.release,
        "machine": facts.machine,
        "lockdown": facts.lockdown.value,
        "sysctls": dict(facts.policy.sysctls),
        "rlimits": {name: list(pair) for name, pair in facts.rlimits.items()},
        "modules": len(facts.modules),
        "symbols": len(facts.kallsyms),
        "addresses": "hidden" if facts.kallsyms.hidden else "readable",
    }
    try:
        about["possible_cpus"] = len(facts.possible_cpus)
        about["online_cpus"] = len(facts.online_cpus)
    except BpfError as error:
        about["possible_cpus"] = about["online_cpus"] = None
        about["cpus"] = str(error)
    try:
        about["traceable"] = len(facts.ftrace)
        about["call_sites"] = facts.ftrace.sites is not None
    except BpfError as error:
        about["traceable"] = str(error)
    btf = facts.btf.get("")
    about["btf_types"] = btf.nr_types if btf is not None else None
    about["btf_modules"] = facts.btf.modules()
    return about


def feature_rows(facts: Facts) -> list[tuple[str, str, str, str]]:
    """Return (feature, answer, since, why) of every feature, in the order of `Feature`."""
    from ..features import Feature, guess

    found = facts.features
    rows = []
    for feature in Feature:
        answer = found.get(feature)
        if answer is None:
            why = facts.probes.inconclusive.get(feature, "not among the saved answers")
            rows.append((feature.value, "unknown", feature.since, why))
        else:
            lacks = guess(feature, answer, facts.release)
            why = f"{answer.why} ({lacks})" if answer.why and lacks else answer.why or lacks
            rows.append((feature.value, answer.support.value, feature.since, why))
    return rows


def _limit(value: int) -> str:
    return "unlimited" if value < 0 else str(value)


def _about_lines(about: dict[str, Any]) -> list[str]:
    traceable = about["traceable"]
    if isinstance(traceable, int):
        sites = "with" if about["call_sites"] else "without"
        traceable = f"{many(traceable, 'function')}, {sites} addresses"
    types = about["btf_types"]
    btf = "none"
    if types is not None:
        btf = f"{many(types, 'type')}, {many(len(about['btf_modules']), 'module')}"
    sysctls = " ".join(f"{name}={value}" for name, value in about["sysctls"].items())
    limits = " ".join(
        f"{name}={_limit(soft)}/{_limit(hard)}" for name, (soft, hard) in about["rlimits"].items()
    )
    cpus = f"{about['possible_cpus']} possible, {about['online_cpus']} online"
    pairs = (
        ("kernel", f"{about['release']} {about['machine']}"),
        ("cpus", about.get("cpus") or cpus),
        ("lockdown", about["lockdown"]),
        ("sysctls", sysctls),
        ("limits", limits),
        ("symbols", f"{about['symbols']}, addresses {about['addresses']}"),
        ("traceable", traceable),
        ("BTF", btf),
        ("modules", str(about["modules"])),
    )
    return [f"{name:<10} {text}" for name, text in pairs if text]


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{t:<{w}}" for t, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


_COSTS = ("MECHANISM", "FUNCTIONS", "LOAD", "LINK", "ATTACH", "DETACH", "DETACH LINK")


def _calibrate(facts: Facts) -> list[dict[str, Any]]:
    """Measure costs and return plain values. Times are in milliseconds."""
    from dataclasses import asdict

    from ..multi.calibrate import measure

    return [asdict(cost) for cost in measure(facts)]


def _cost_lines(costs: list[dict[str, Any]]) -> list[str]:
    rows = [
        tuple(f"{value:.3f}" if isinstance(value, float) else str(value) for value in c.values())
        for c in costs
    ]
    note = "milliseconds: one program load, one link, then each function"
    return [*_table([_COSTS, *rows]), note]


def _save(facts: Facts, path: str | Path) -> str:
    # Returns what a reader should know about the file, "" for nothing.
    import tempfile
    from pathlib import Path  # lazy: these two take 8 ms that --help does not need

    saved = facts.to_json()
    # It is first written beside the file, so a failure does not destroy what was saved before. Only
    # the owner may read it (0600), because it holds the addresses of kernel functions.
    named, path = path, Path(os.path.realpath(path))
    try:
        if path.exists() and not path.is_file():
            path.write_text(dumps(saved))  # a pipe, a device
        else:
            with tempfile.NamedTemporaryFile(
                "w", dir=path.parent, prefix=f".{path.name}.", delete=False
            ) as file:
                try:
                    file.write(dumps(saved))
                    file.close()
                    os.replace(file.name, path)
                except BaseException:
                    os.unlink(file.name)
                    raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(named)) from None
    if why := saved.get("ftrace_error"):
        return f"{path}: plan and why cannot use it without traceable functions: {why}"
    return ""


def _parser(prog: str) -> Parser:
    parser = Parser(prog=prog, about=_ABOUT)
    parser.add_argument("--json", action="store_true", help="JSON output instead of text")
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="measured times to attach and detach with each mechanism, in milliseconds",
    )
    parser.add_argument(
        "--save",
        metavar="FILE",
        help="file to save all facts to; only its owner may read it (mode 0600)",
    )
    parser.add_argument(
        "--facts",
        metavar="FILE",
        help="file with saved facts to show (default: the running kernel)",
    )
    return parser


def _arguments(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    parser = _parser(prog)
    arguments = parser.parse_args(argv)
    if arguments.save == "-":
        parser.error("--save needs the name of a file")
    if arguments.facts and (arguments.calibrate or arguments.save):
        parser.error("--facts is for another kernel; --calibrate and --save are not")
    return arguments


def page(prog: str) -> Page:
    """Return the command line as data."""
    return page_of(_parser(prog))


def main(argv: Sequence[str] | None = None, prog: str = "features.py") -> int:
    """Run the tool and return its exit status."""
    arguments = _arguments(argv, prog)
    from .inputs import read_facts

    warning = ""
    try:
        facts = read_facts(arguments.facts)
        with Waiting("asking the kernel", sys.stderr):
            about, rows = describe(facts), feature_rows(facts)
            if arguments.save:
                warning = _save(facts, arguments.save)
    except (OSError, ValueError) as error:
        print(f"{prog}: {explain(error)}", file=sys.stderr)
        return 1
    if warning:
        print(f"{prog}: {plain(warning, lines=True)}", file=sys.stderr)
    costs, failure = None, ""
    if arguments.calibrate:
        try:
            with Waiting("measuring", sys.stderr):
                costs = _calibrate(facts)
        except OSError as error:
            failure = f"{prog}: cannot measure: {explain(error)}"
    if arguments.json:
        report: dict[str, Any] = {
            "kernel": about,
            "features": {
                name: {"support": answer, "since": since, "why": why}
                for name, answer, since, why in rows
            },
        }
        if costs is not None:
            report["costs"] = costs
        print(dumps(report, indent=1))
    else:
        lines = [*_about_lines(about), "", *_table([_COLUMNS, *rows])]
        if costs is not None:
            lines += ["", *_cost_lines(costs)]
        print("\n".join(map(plain, lines)))
    if failure:
        print(failure, file=sys.stderr)
    return 1 if failure else 0
