"""What the running kernel knows about injected probes: matching names and formats."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ...dataclass import replace
from ...kernel.ftrace import tracefs
from ...kernel.lookup import raw_tracepoint_names
from ...multi.select import select
from .probes import Probe, expand, parse_format, raw_parameters, tracepoint_size
from .probespec import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ... import Facts

__all__ = ["probes_of"]


def probes_of(specs: Sequence[Spec], facts: Facts) -> list[Probe]:
    """Find the requested probes, with their contexts.

    :raises UsageError: a glob matches nothing
    :raises BpfError: as `pybpf.kernel.ftrace.tracefs`
    """

    def functions(glob: str) -> list[str]:
        return [c.name for c in select(facts, [glob]).candidates if c.kprobe and c.unique]

    def describe(probe: Probe) -> Probe:
        if probe.kind == "tp":
            fields = parse_format(_format(probe))
            return replace(probe, size=tracepoint_size(fields), fields=fields)
        if probe.kind == "rawtp":
            btf = facts.btf.get("")
            count = len(raw_parameters(btf, probe.name)) if btf is not None else 0
            return replace(probe, size=8 * count)
        return probe

    return expand(
        specs,
        functions=functions,
        tracepoints=_tracepoints,
        raw_tracepoints=lambda: list(raw_tracepoint_names(facts)),
        describe=describe,
    )


def _format(probe: Probe) -> str:
    path = f"{tracefs()}/events/{probe.category}/{probe.name}/format"
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""  # attaching will say what is wrong


def _tracepoints() -> list[tuple[str, str]]:
    root = f"{tracefs()}/events"
    return sorted(
        (category.name, event.name)
        for category in os.scandir(root)
        if category.is_dir()
        for event in os.scandir(category)
        if event.is_dir()
    )
