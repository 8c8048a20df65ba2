"""The main calls of the library, each by itself.

`python3 -m tests.support.librarycalls` makes them all and prints what each was refused with, as
JSON: the text of its error, "" if it worked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pybpf
from pybpf import kernel
from pybpf.kernel.host import Facts
from pybpf.ringbuf.perf import PerfBuffer
from pybpf.symbols import Symbols
from pybpf.trampoline.verify import verify

__all__ = ["CALLS"]

_DATA = "tests/data"
_FUNCTION = "__x64_sys_getpgid"
_PIN = "/sys/fs/bpf/pybpf-privileges"


@contextmanager
def _only(file: str, program: str) -> Iterator[pybpf.Program]:
    # One program of an object, loaded without the others.
    with pybpf.open(f"{_DATA}/{file}.bpf.o") as obj:
        for one in obj.programs.values():
            one.autoload = one.name == program
        obj.load()
        yield obj.programs[program]


def _attach(file: str, program: str) -> Callable[[], None]:
    def call() -> None:
        with _only(file, program) as loaded, loaded.attach():
            pass

    return call


def _open() -> None:
    pybpf.open(f"{_DATA}/multi.bpf.o").close()


def _load() -> None:
    with pybpf.open(f"{_DATA}/map_events.bpf.o") as obj:
        obj.load()


def _uprobe() -> None:
    with _only("attach_by_hand", "on_symbol") as program, program.attach():
        pass


def _example(name: str, program: str, attach: str, *place: object) -> Callable[[], None]:
    # An object that has nothing but this program.
    def call() -> None:
        with pybpf.open(f"tools/examples/{name}.bpf.o") as obj:
            obj.load()
            with getattr(obj.programs[program], attach)(*place):
                pass

    return call


def _multi(wanted: str | list[str], mechanism: str = "auto") -> Callable[[], None]:
    def call() -> None:
        with (
            _only("multi_names", "by_cookie") as program,
            program.attach_multi(wanted, mechanism=mechanism),
        ):
            pass

    return call


def _ring() -> None:
    with pybpf.open(f"{_DATA}/map_events.bpf.o") as obj:
        for program in obj.programs.values():
            program.autoload = False
        obj.load()
        with pybpf.RingBuffer(obj.maps["events"]):
            pass


def _perf_ring() -> None:
    with pybpf.open(f"{_DATA}/map_perf.bpf.o") as obj:
        for program in obj.programs.values():
            program.autoload = False
        obj.load()
        with PerfBuffer(obj.maps["events"]):
            pass


def _sockets() -> None:
    with _only("attach_net", "keep_one"):
        pass


def _pin() -> None:
    with _only("attach_kinds", "on_raw_tp") as program:
        program.pin(_PIN)
        os.unlink(_PIN)


def _plan(functions: str) -> Callable[[], None]:
    def call() -> None:
        with pybpf.open(f"{_DATA}/multi_names.bpf.o") as obj:
            plan = pybpf.trampoline.plan(obj.programs["by_cookie"], functions, Facts())
            if not plan.groups:
                raise pybpf.PlanError(str(plan.skipped[0]))

    return call


def _vmlinux() -> None:
    Facts().btf.vmlinux()


def _trace_pipe() -> None:
    kernel.TracePipe().close()


#: Calls as they are shown, and what makes them.
CALLS: tuple[tuple[str, Callable[[], object]], ...] = (
    ("pybpf.open(FILE)", _open),
    ("Object.load()", _load),
    ("Program.attach() of fentry", _attach("fentry_args", "entry1")),
    ("Program.attach() of kprobe", _attach("attach_kinds", "on_kprobe")),
    ("Program.attach() of kprobe.multi", _attach("attach_kinds", "on_ret_multi")),
    ("Program.attach() of tracepoint", _attach("attach_kinds", "on_tp")),
    ("Program.attach() of raw_tp", _attach("attach_kinds", "on_raw_tp")),
    ("Program.attach() of uprobe", _uprobe),
    ("Program.attach() of iter", _attach("iter_task", "tasks")),
    (
        "Program.attach_perf_event('cpu-clock', 99)",
        _example("profile", "on_sample", "attach_perf_event", "cpu-clock", 99),
    ),
    ("Program.attach_xdp('lo')", _example("xdpcount", "count", "attach_xdp", "lo")),
    (
        "Program.attach_cgroup(PATH)",
        _example("egress", "filter", "attach_cgroup", "/sys/fs/cgroup"),
    ),
    ("Object.load() with a map of sockets", _sockets),
    ("Program.attach_multi([NAME])", _multi([_FUNCTION])),
    ("Program.attach_multi([NAME], mechanism='trampoline')", _multi([_FUNCTION], "trampoline")),
    ("Program.attach_multi([NAME], mechanism='kprobe')", _multi([_FUNCTION], "kprobe")),
    ("Program.attach_multi(GLOB)", _multi("do_getpg*")),
    ("Program.pin(PATH)", _pin),
    ("RingBuffer(MAP)", _ring),
    ("PerfBuffer(MAP)", _perf_ring),
    ("trampoline.plan(PROGRAM, NAME, Facts())", _plan("do_getpgid")),
    ("trampoline.plan(PROGRAM, GLOB, Facts())", _plan("do_getpg*")),
    ("trampoline.images()", lambda: list(pybpf.trampoline.images())),
    ("trampoline.verify.verify()", lambda: verify(timeout=1)),
    ("Facts().kallsyms", lambda: Facts().kallsyms),
    ("Facts().ftrace", lambda: Facts().ftrace),
    ("Facts().btf.vmlinux()", _vmlinux),
    ("Facts().features", lambda: Facts().features),
    ("Symbols().kernel(ADDRESS)", lambda: Symbols().kernel(1)),
    ("kernel.programs()", lambda: list(kernel.programs())),
    ("kernel.maps()", lambda: list(kernel.maps())),
    ("kernel.links()", lambda: list(kernel.links())),
    ("kernel.TracePipe()", _trace_pipe),
)


def _said(call: Callable[[], object]) -> str:
    try:
        call()
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    print(json.dumps({name: _said(call) for name, call in CALLS}))
