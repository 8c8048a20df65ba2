"""Programs on the functions behind their own helpers: the guest survives, losses are counted.

A program that updates a map, attached to the functions that update maps, would run again inside
its own call. One loaded program is stopped by the kernel; clones are stopped by their guard
(`pybpf.multi.guard`). Without it, runs grow exponentially with the clones: on 6.12 one map update
ran them 1, 6, 26, 90, 302, 1250 times for 1 to 6 of the functions below, and a guest with 14 was
dead. `limit` in the test program keeps a guest alive should that come back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path

import pytest

import pybpf
from pybpf.features import Feature
from pybpf.multi.reasons import Reason
from tests.support.mechanisms import MECHANISMS
from tests.support.require import facts
from tests.support.workload import workload

pytestmark = pytest.mark.first_on("6.12", "latest")

DATA = Path(__file__).resolve().parents[1] / "data"
LIMIT = 20_000  # runs after which the program calls nothing more
UPDATES = 8
#: Functions that an update and a delete of a hash map or an LRU map call; some kernels lack some.
BEHIND_MAPS = (
    "htab_map_update_elem",
    "lookup_elem_raw",
    "alloc_htab_elem",
    "htab_map_delete_elem",
    "free_htab_elem",
    "__pcpu_freelist_pop",
    "___pcpu_freelist_pop",
    "pcpu_freelist_push",
    "__pcpu_freelist_push",
    "htab_lru_map_update_elem",
    "bpf_lru_pop_free",
    "check_and_free_fields",
    "check_and_cancel_fields",
    "bpf_obj_free_fields",
)
MOST = 10
#: A system call that the test makes and nobody else.
TRACED = "__x64_sys_getpgid"
#: Whole families behind the helpers of the test's programs.
FAMILIES = {
    "maps": ("*htab_*", "*pcpu_freelist*"),
    "ringbuf": ("bpf_ringbuf_*", "irq_work_*"),
    "memory": ("*kmalloc*", "*copy_from_kernel_nofault*", "*strncpy_from_*"),
    "locks": ("*raw_spin*",),
    "rcu": ("rcu_*",),
    "stacks": ("*stackid*", "*get_perf_callchain*", "unwind_*", "__unwind_*"),
}


@pytest.fixture
def obj() -> Iterator[pybpf.Object]:
    with pybpf.open(DATA / "recursion.bpf.o", facts=facts()) as opened:
        opened.globals.limit = LIMIT
        opened.load()
        yield opened


def traceable(*globs: str) -> list[str]:
    """Functions of the kernel itself that match, each once, in ftrace's order."""
    names = dict.fromkeys(name for name, module in facts().ftrace if not module)
    return [name for name in names if any(fnmatch(name, glob) for glob in globs)]


def behind_maps(obj: pybpf.Object) -> list[str]:
    """The first functions that a clone can be on: 6.1 has one too long and one without BTF."""
    there = set(traceable(*BEHIND_MAPS))
    named = [name for name in BEHIND_MAPS if name in there]
    # That trampolines save no more than six slots is known only when the kernel refused one.
    with obj.programs["entry_maps"].attach_multi(named, mechanism="trampoline") as link:
        skipped = link.skipped
    assert {one.reason for one in skipped} <= {Reason.TOO_MANY_SLOTS, Reason.NO_BTF}
    left_out = {one.name for one in skipped}
    functions = [name for name in named if name not in left_out][:MOST]
    assert len(functions) >= MOST - 2
    return functions


def updates(obj: pybpf.Object) -> int:
    """Runs of the program while user space updates a map of its own."""
    obj.globals.runs = 0
    written = obj.maps["written"]
    for key in range(UPDATES):
        written[key] = key
    return int(obj.globals.runs)


@pytest.mark.icount
@pytest.mark.needs(Feature.FENTRY)
def test_runs_per_update_do_not_grow(obj: pybpf.Object) -> None:
    """Clones on the first 1 to 10 functions: as many runs as functions that the update calls."""
    functions = behind_maps(obj)
    runs, missed = [], []
    for count in range(1, len(functions) + 1):
        with obj.programs["entry_maps"].attach_multi(
            functions[:count], mechanism="trampoline"
        ) as link:
            assert len(link.targets) == count, link.skipped
            assert link.plan.guarded
            runs.append(updates(obj))
        missed.append(link.missed)
    print("runs", runs, "missed", [m.count for m in missed])
    # Each function once in an update, and nothing inside the program's own calls.
    assert all(n <= UPDATES * count for count, n in enumerate(runs, 1)), runs
    assert runs[0] >= UPDATES
    assert all(m.known for m in missed)
    # A single clone meets itself, the kernel's flag is asked first; the others meet the guard.
    assert missed[0].programs and not missed[0].guard
    assert all(m.guard for m in missed[1:])


@pytest.mark.icount
@pytest.mark.needs(Feature.FENTRY)
def test_links_made_one_by_one_share_the_guard(obj: pybpf.Object) -> None:
    """One program, attached ten times to one function each: recurses no further either."""
    functions = behind_maps(obj)
    program = obj.programs["entry_maps"]
    with ExitStack() as stack:
        links = [
            stack.enter_context(program.attach_multi([name], mechanism="trampoline"))
            for name in functions
        ]
        runs = updates(obj)
        assert runs <= UPDATES * len(links), runs
        assert sum(link.missed.guard for link in links) > 0


def calls_of_everything(obj: pybpf.Object) -> None:
    """System calls of all kinds, the one that is traced, and a map in use."""
    written = obj.maps["written"]
    workload()
    for key in range(64):
        written[key] = key
        os.getpgid(0)
    for key in range(64):
        del written[key]
        os.getpgid(0)


def attached(
    obj: pybpf.Object, stack: ExitStack, programs: Sequence[str], globs: Sequence[str], how: str
) -> list[pybpf.MultiLink]:
    functions = [TRACED, *traceable(*globs)]
    links = []
    for name in programs:
        link = obj.programs[name].attach_multi(functions, mechanism=how)
        links.append(stack.enter_context(link))
        print(f"{name} by {how}: {len(link.targets)} of {len(functions)}", end=" ")
    return links


@pytest.mark.icount
@pytest.mark.time_limit(3600)
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize(
    "family",
    # Each takes minutes in a guest; `make test` has the one that hung kernels, `make e2e` all.
    [pytest.param(name, marks=[] if name == "maps" else pytest.mark.long) for name in FAMILIES],
)
def test_families_behind_the_helpers(obj: pybpf.Object, family: str, mechanism: str) -> None:
    """An entry and an exit program that call everything, on a whole family, under load.

    They are on a system call too, so that they run, and their helpers call the family.
    """
    if not traceable(*FAMILIES[family]):  # 7.x lets nobody trace bpf_ringbuf_* and irq_work_*
        pytest.skip(f"no function of {family} can be traced here")
    obj.globals.limit = 0  # no safety net: this is what users have
    with ExitStack() as stack:
        links = attached(obj, stack, ("entry_all", "exit_all"), FAMILIES[family], mechanism)
        calls_of_everything(obj)
        runs = obj.globals.runs
    missed = [link.missed for link in links]
    print(f"{runs} runs, missed", *missed)
    assert runs >= 2 * 128
    if mechanism in ("tracing_multi", "trampoline"):
        assert all(m.known for m in missed)
    if family in ("maps", "ringbuf") and all(m.known for m in missed):
        assert sum(m.count for m in missed) > 0
