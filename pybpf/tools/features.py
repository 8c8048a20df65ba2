"""Show what the running kernel can do for BPF tracing: each feature asked for, not looked up.

    features.py                  a table: feature, answer, first release, evidence
    features.py --json           the same as JSON
    features.py --calibrate      also measure what attaching costs here (some seconds)
    features.py --save FILE      write everything planning needs; load it elsewhere with --facts
    features.py --facts FILE     show saved facts instead of the running kernel's

Exit status: 0 ok, 1 failed, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .entry import explain

if TYPE_CHECKING:
    from ..kernel.host import Facts

__all__ = ["describe", "feature_rows", "main"]

_COLUMNS = ("FEATURE", "ANSWER", "SINCE", "WHY")


def describe(facts: Facts) -> dict[str, Any]:
    """The kernel itself as plain values, what cannot be read with the reason instead."""
    from ..errors import BpfError

    about: dict[str, Any] = {
        "release": facts.release,
        "machine": facts.machine,
        "lockdown": facts.lockdown.value,
        "sysctls": dict(facts.policy.sysctls),
        "possible_cpus": len(facts.possible_cpus),
        "online_cpus": len(facts.online_cpus),
        "rlimits": {name: list(pair) for name, pair in facts.rlimits.items()},
        "modules": len(facts.modules),
        "symbols": len(facts.kallsyms),
        "addresses": "hidden" if facts.kallsyms.hidden else "readable",
    }
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
    """(feature, answer, since, why) of every feature, in the order of `Feature`."""
    from ..features import Feature

    found = facts.features
    rows = []
    for feature in Feature:
        answer = found.get(feature)
        if answer is None:
            why = facts.probes.inconclusive.get(feature, "not among the saved answers")
            rows.append((feature.value, "unknown", feature.since, why))
        else:
            rows.append((feature.value, answer.support.value, feature.since, answer.why))
    return rows


def _limit(value: int) -> str:
    return "unlimited" if value < 0 else str(value)


def _about_lines(about: dict[str, Any]) -> list[str]:
    traceable = about["traceable"]
    if isinstance(traceable, int):
        sites = "with" if about["call_sites"] else "without"
        traceable = f"{traceable} functions, {sites} addresses"
    types = about["btf_types"]
    btf = "none" if types is None else f"{types} types, {len(about['btf_modules'])} modules"
    sysctls = " ".join(f"{name}={value}" for name, value in about["sysctls"].items())
    limits = " ".join(
        f"{name}={_limit(soft)}/{_limit(hard)}" for name, (soft, hard) in about["rlimits"].items()
    )
    pairs = (
        ("kernel", f"{about['release']} {about['machine']}"),
        ("cpus", f"{about['possible_cpus']} possible, {about['online_cpus']} online"),
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
    """Measured costs as plain values; times in milliseconds."""
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


def _save(facts: Facts, path: Path) -> None:
    saved = facts.to_json()
    # Beside it first: what was saved before is lost only to something whole.
    named, path = path, Path(os.path.realpath(path))
    try:
        if path.exists() and not path.is_file():
            path.write_text(json.dumps(saved))  # a pipe, a device
        else:
            with tempfile.NamedTemporaryFile(
                "w", dir=path.parent, prefix=f".{path.name}.", delete=False
            ) as file:
                try:
                    file.write(json.dumps(saved))
                    file.close()
                    os.chmod(file.name, 0o666 & ~_umask())
                    os.replace(file.name, path)
                except BaseException:
                    os.unlink(file.name)
                    raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(named)) from None
    if why := saved.get("ftrace_error"):
        text = f"{path}: without the traceable functions, so of no use to plan and why: {why}"
        print(f"features.py: {text}", file=sys.stderr)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    head, _, tail = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=head, epilog=tail, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.add_argument(
        "--calibrate", action="store_true", help="measure attach and detach per mechanism"
    )
    parser.add_argument("--save", metavar="FILE", type=Path, help="write all facts to FILE")
    parser.add_argument("--facts", metavar="FILE", help="show the facts saved in FILE")
    arguments = parser.parse_args(argv)
    if str(arguments.save) == "-":
        parser.error("--save wants the name of a file")
    if arguments.facts and (arguments.calibrate or arguments.save):
        parser.error("--facts is about another kernel: nothing to measure or save")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    arguments = _arguments(argv)
    from .inputs import read_facts

    try:
        facts = read_facts(arguments.facts)
        about, rows = describe(facts), feature_rows(facts)
        if arguments.save:
            _save(facts, arguments.save)
    except (OSError, ValueError) as error:
        print(f"features.py: {explain(error)}", file=sys.stderr)
        return 1
    costs, failure = None, ""
    if arguments.calibrate:
        try:
            costs = _calibrate(facts)
        except OSError as error:
            failure = f"features.py: cannot measure: {error}"
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
        print(json.dumps(report, indent=1))
    else:
        print("\n".join([*_about_lines(about), "", *_table([_COLUMNS, *rows])]))
        if costs is not None:
            print("\n".join(["", *_cost_lines(costs)]))
    if failure:
        print(failure, file=sys.stderr)
    return 1 if failure else 0
