"""Open and load packaged objects, beside the kernel's part and bpftool.

``python -m tests.bench load``. Each round is a process of its own, since the kernel's BTF is read
and searched once per process. It times itself: from where pybpf is imported to where the object
is loaded, without the time inside bpf(2), which is the kernel's. Start and imports are in
``bench start``. bpftool is timed as a whole process; its start is small.

The objects are the five largest of those that Debian ships and that load as they are on this
machine, by bpftool too. Linear growth is judged on an object that is made longer: its one program
refers to a kernel type again and again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.bench.bench_object import process
from tests.bench.peer import best
from tests.support.objects import Unavailable, packaged
from tools.dev import build_bpf

ROOT = Path(__file__).resolve().parents[2]
OBJECTS = 5
ROUNDS = 9
GOAL = 60.0  # ms of pybpf's own
GROWTH = 1.15  # own time of a unit in a long object, of that in a shorter one
# (microseconds of pybpf, of the kernel)
SCRIPT = """
import sys
from time import perf_counter_ns as now
from pybpf._sys import door
inside = 0
real = door._syscall
def timed(*arguments):
    global inside
    start = now()
    try:
        return real(*arguments)
    finally:
        inside += now() - start
door._syscall = timed
import pybpf.loader
start = now()
with pybpf.open(sys.argv[1]) as obj:
    obj.load()
    print((now() - start - inside) // 1000, inside // 1000)
"""
# Accesses by CO-RE, and calls, COUNT of each.
LONG = """
#include "pybpf.h"
char LICENSE[] SEC("license") = "GPL";
struct task_struct {{ int pid; int tgid; int prio; int static_prio; }}
    __core;
struct {{
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, int);
    __type(value, int);
    __uint(max_entries, 8);
}} seen SEC(".maps");
SEC("raw_tp/sched_switch")
int count(void *ctx)
{{
    struct task_struct *task = (void *)bpf_get_current_task();
    int value = 0, key = 0;
{lines}
    return 0;
}}
"""
LINE = """    bpf_probe_read_kernel(&value, 4, &task->{field});
    key += value;
    bpf_map_update_elem(&seen, &key, &value, 0);
"""
FIELDS = ("pid", "tgid", "prio", "static_prio")


def ours(path: Path, cache: str) -> tuple[float, float]:
    """Milliseconds of pybpf and of the kernel, in one new process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    own, kernel = map(int, done.stdout.split())
    return own / 1000, kernel / 1000


def whole_by_bpftool(path: Path) -> float:
    """Milliseconds of a bpftool process that loads the object.

    :raises subprocess.CalledProcessError: it cannot
    """
    pin = Path("/sys/fs/bpf") / f"bench-{uuid.uuid4().hex[:8]}"
    try:
        took = process("bpftool", "prog", "loadall", str(path), str(pin))()
    finally:
        shutil.rmtree(pin, ignore_errors=True)
    return took / 1e6


def loadable(cache: str) -> list[Path]:
    """The largest packaged objects that both sides load."""
    found: list[Path] = []
    for one in sorted(packaged().values(), key=lambda o: -len(o.data)):
        try:
            ours(one.path, cache)
            whole_by_bpftool(one.path)
        except subprocess.CalledProcessError:
            continue  # it wants sizes that its own loader sets, or program types refused here
        found.append(one.path)
        if len(found) == OBJECTS:
            break
    return found


def longer(count: int, folder: Path) -> Path:
    """An object whose program has `count` CO-RE accesses and references to a map."""
    source, target = folder / f"long{count}.bpf.c", folder / f"long{count}.bpf.o"
    lines = "".join(LINE.format(field=FIELDS[n % len(FIELDS)]) for n in range(count))
    source.write_text(LONG.format(lines=lines))
    command = [build_bpf.CLANG, *build_bpf.FLAGS, "-c", str(source), "-o", str(target)]
    subprocess.run(command, cwd=ROOT, check=True)
    return target


def main() -> list[str]:
    """Rows of the report."""
    rows = [
        f"{'opening and loading, ms':<34} {'pybpf':>7} {'kernel':>7} {'bpftool':>8} {'ratio':>7}"
    ]
    with tempfile.TemporaryDirectory() as folder:
        cache = f"{folder}/pyc"
        try:
            objects = loadable(cache)
        except Unavailable as why:
            return [f"opening and loading: not measured ({why})"]
        own, kernel = dict.fromkeys(objects, float("inf")), dict.fromkeys(objects, float("inf"))
        peer = dict.fromkeys(objects, float("inf"))
        for _ in range(ROUNDS):
            for path in objects:
                took = ours(path, cache)
                own[path] = min(own[path], took[0])
                kernel[path] = min(kernel[path], took[1])
                peer[path] = min(peer[path], whole_by_bpftool(path))
        for path in objects:
            what = f"{path.name[:8]}, {path.stat().st_size:,} bytes"
            verdict = "ok" if own[path] <= GOAL else "MISSED"
            ratio = (own[path] + kernel[path]) / peer[path]
            rows.append(
                f"{what:<34} {own[path]:>7.1f} {kernel[path]:>7.1f} {peer[path]:>8.1f} "
                f"{ratio:>6.1f}x   goal <= {GOAL:.0f} ms {verdict}"
            )
        return rows + growth(Path(folder), cache)


def growth(folder: Path, cache: str) -> list[str]:
    """How pybpf's time grows with the length of an object."""
    if build_bpf.find_clang() is None:
        return ["growth with the object's length: not measured (no clang-19)"]
    counts = (250, 1000, 4000)
    made = {str(count): longer(count, folder) for count in counts}

    def side(path: Path) -> Callable[[], float]:
        return lambda: ours(path, cache)[0]

    least = best({name: side(path) for name, path in made.items()}, rounds=ROUNDS)
    low, middle, high = (least[str(count)] for count in counts)
    first, second = (
        (middle - low) / (counts[1] - counts[0]),
        (high - middle) / (counts[2] - counts[1]),
    )
    verdict = "ok" if second <= GROWTH * first else "MISSED"
    return [
        f"accesses and map references: {counts[0]}, {counts[1]}, {counts[2]} in "
        f"{low:.1f}, {middle:.1f}, {high:.1f} ms",
        f"  one more: {1000 * first:.1f} us, then {1000 * second:.1f} us, {second / first:.2f}x   "
        f"goal <= {GROWTH:g}x {verdict}",
    ]


if __name__ == "__main__":
    print("\n".join(main()))
