"""In the guest: whole runs, from start to attached; figures go to the host as lines of JSON.

    python3 -m tests.bench.ready_guest runs GLOB:MECHANISM ...

Each run is a process of its own, and each is made twice. The guest's clock counts instructions, one
nanosecond each.
"""

from __future__ import annotations

import os
import resource
import sys
import time

# What only the measuring needs is imported where it is used: a run is what a user's would be.
HERE = os.path.dirname(os.path.abspath(__file__))
OBJECT = f"{HERE}/../data/multi_cost.bpf.o"


def say(**figures: object) -> None:
    """One row for the host: JSON, by hand, because importing json would count in a run."""
    print(str(figures).replace("'", '"'), flush=True)


def attach(asked: str, mechanism: str, began: int) -> None:
    """Attach a program that reads nothing, say where the time went, and end.

    :param began: when the process was started; the clock is the same for all processes
    """
    import pybpf
    from pybpf._sys import door, files

    inside = lists = 0
    real, real_read = door._syscall, files.read

    def timed(*arguments: object) -> int:
        nonlocal inside
        start = time.perf_counter_ns()
        try:
            return int(real(*arguments))
        finally:
            inside += time.perf_counter_ns() - start

    def timed_read(path: str) -> bytes:
        nonlocal lists
        start = time.perf_counter_ns()
        try:
            return real_read(path)
        finally:
            lists += time.perf_counter_ns() - start

    assert "pybpf.kernel.ftrace" not in sys.modules  # it keeps the function that it imports
    files.read = timed_read

    imported = resource.getrusage(resource.RUSAGE_SELF)
    with pybpf.open(OBJECT) as obj:
        door._syscall = timed  # type: ignore[assignment]
        start = time.perf_counter_ns()
        with obj.programs["entry_0"].attach_multi(asked, mechanism=mechanism) as link:
            took = time.perf_counter_ns() - start
            whole = time.perf_counter_ns() - began
            now = resource.getrusage(resource.RUSAGE_SELF)
            functions = sum(len(group.targets) for group in link.plan.groups)
    say(
        row="attach",
        asked=asked,
        mechanism=mechanism,
        functions=functions,
        whole=whole,
        took=took,
        kernel=inside,
        lists=lists,
        ours=took - inside - lists,
        user=round(1e9 * (now.ru_utime - imported.ru_utime)),
        system=round(1e9 * (now.ru_stime - imported.ru_stime)),
        grown=now.ru_maxrss - imported.ru_maxrss,
    )


def process(asked: str, mechanism: str) -> None:
    """Attach in a process of its own. Its row is passed on."""
    words = [sys.executable, __file__, "attach", asked, mechanism, str(time.perf_counter_ns())]
    if os.waitpid(os.posix_spawn(sys.executable, words, os.environ), 0)[1]:
        raise RuntimeError(f"{asked} by {mechanism} failed")


def main(arguments: list[str]) -> int:
    """Do the work named."""
    match arguments:
        case ["attach", asked, mechanism, began]:
            attach(asked, mechanism, int(began))
        case ["runs", *works]:
            for work in works:
                asked, mechanism = work.rsplit(":", 1)
                for _ in range(3):
                    process(asked, mechanism)
        case _:
            raise SystemExit(f"unknown work {arguments}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
