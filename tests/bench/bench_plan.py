"""Selecting and planning on a whole kernel's facts: ``python -m tests.bench plan``.

The facts are those of the guest ``latest``, saved there first; FACTS=FILE names saved ones. Each
figure is CPU time of a cold process, least of several, and its ratio to a bare interpreter's.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.bench_start import BARE_OF_GOALS, RUN, cpu

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 5
#: What is planned -> CPU milliseconds to resolve and plan it, where a bare interpreter takes 12.
GOALS = {"fentry.multi/*": 300, "fentry.multi/s*": 100, "fentry.multi/vfs_read": 30}
MEMORY = 40  # MB above the imports, for all functions
MORE = 400  # ms of the command for all functions, above that for one
PARTS = ("kallsyms", "ftrace", "blacklist")


def unpack(source: Path, target: Path) -> None:
    """Saved facts as the kernel's files, so that no process has to read JSON."""
    from pybpf.kernel.host import _unpack

    saved = json.loads(source.read_text())
    for part in PARTS:
        (target / part).write_bytes(_unpack(saved.pop(part), part))
    for number, (name, raw) in enumerate(saved["btf"].items()):
        (target / f"btf{number}").write_bytes(_unpack(raw, name))
        saved["btf"][name] = number
    (target / "rest").write_text(json.dumps(saved))


def peak() -> float:
    """Most memory of this process so far, in MB; ru_maxrss has its parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def child(directory: str, section: str) -> None:
    """Resolve and plan in this process; tells the CPU time and how much it has grown."""
    from pybpf.features import FeatureSet
    from pybpf.kernel.ftrace import parse_blacklist, parse_functions
    from pybpf.kernel.host import Facts, SavedBtf
    from pybpf.kernel.kallsyms import Kallsyms
    from pybpf.kernel.modules import LoadedModule, ModuleList
    from pybpf.multi.plan import PlanFacts
    from pybpf.multi.resolve import Resolver
    from pybpf.tools.trampolines.plan import default_program

    here = Path(directory)
    rest = json.loads((here / "rest").read_text())
    template, glob = default_program(section)
    small = peak()
    facts = Facts.__new__(Facts)
    facts._set(
        btf=SavedBtf({n: (here / f"btf{i}").read_bytes() for n, i in rest["btf"].items()}),
        kallsyms=Kallsyms((here / "kallsyms").read_bytes()),
        ftrace=parse_functions(
            (here / "ftrace").read_bytes(), with_addresses=bool(rest["ftrace_sites"])
        ),
        kprobe_blacklist=parse_blacklist((here / "blacklist").read_bytes()),
        loaded=ModuleList(LoadedModule(name) for name in rest["modules"]),
    )
    before = resource.getrusage(resource.RUSAGE_SELF)
    kernel = PlanFacts.of(FeatureSet.from_json(rest["features"]))
    plan = Resolver(facts, live=False).plan(template, glob, kernel)
    after = resource.getrusage(resource.RUSAGE_SELF)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"ms": 1000 * took, "mb": peak() - small, "functions": plan.count}))


def save(target: Path) -> Path:
    """Facts of the guest `latest`."""
    inside = "python3 tools/features.py --save $OUT/facts >/dev/null"
    command = [ROOT / "vagrant/vm", "--quiet", "--kernel", "latest", "--out", target]
    subprocess.run([*map(str, command), "--", "sh", "-c", inside], cwd=ROOT, check=True)
    return target / "facts"


def main() -> list[str]:
    """Rows of the report."""
    python = sys.executable
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(os.environ["FACTS"]) if "FACTS" in os.environ else save(Path(scratch))
        unpack(source, Path(scratch))
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONPYCACHEPREFIX": str(Path(scratch, "cache")),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        code = "import sys; from tests.bench.bench_plan import child; child(*sys.argv[1:])"
        found: dict[str, list[dict[str, Any]]] = {section: [] for section in GOALS}
        whole = dict.fromkeys(("bare", *GOALS), float("inf"))
        for _ in range(ROUNDS):
            whole["bare"] = min(whole["bare"], cpu([python, "-c", "pass"], environment))
            for section in GOALS:
                done = subprocess.run(
                    [python, "-c", code, scratch, section],
                    env=environment,
                    stdout=subprocess.PIPE,
                    check=True,
                )
                found[section].append(json.loads(done.stdout))
                tool = [python, "-c", RUN, "trampolines", "plan", section, "--facts", str(source)]
                whole[section] = min(whole[section], cpu(tool, environment))
    bare = whole["bare"]

    def row(what: str, ms: float, goal: float | None) -> str:
        text = f"{what:<46} {ms:>8.1f} {ms / bare:>7.2f}x"
        if goal is None:
            return text
        most = goal / BARE_OF_GOALS
        return f"{text}   goal <= {most:.2f}x {'ok' if ms / bare <= most else 'MISSED'}"

    rows = [
        f"{'CPU ms, cold, on the facts of a whole kernel':<46} {'ms':>8}   of the bare interpreter"
    ]
    rows.append(row("bare interpreter", bare, None))
    for section, goal in GOALS.items():
        count = found[section][0]["functions"]
        what = f"resolve + plan {section.partition('/')[2]} ({count} functions)"
        rows.append(row(what, min(one["ms"] for one in found[section]), goal))
    everything, *_, one = GOALS
    more = whole[everything] - whole[one]
    rows.append(row("trampolines plan --facts, * over one name", more, MORE))
    grown = min(run["mb"] for run in found[everything])
    said = "ok" if grown <= MEMORY else "MISSED"
    rows.append(
        f"{'memory of *, MB above the imports':<46} {grown:>8.1f}   goal <= {MEMORY} {said}"
    )
    return rows


if __name__ == "__main__":
    print("\n".join(main()))
