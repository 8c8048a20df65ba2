"""Load every lowering and run it on functions of every shape that the workload calls.

Shapes: 0 to 6 argument slots, 7 to 12 where trampolines copy stack arguments, structs by value,
and void, integer, bool and pointer returns. What is true is what kprobes saw of the same calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pybpf.features import Feature
from pybpf.multi.reasons import Reason
from pybpf.multi.variant import Lowering
from pybpf.trampoline.model import Return
from tests.support.trampolines import verify
from tests.support.witness import PROGRAMS, SESSION, Function, Program, Witness
from tests.support.workload import called_functions, workload

pytestmark = pytest.mark.long

READS_SLOTS = ("entry_slots", "entry_narrow", "entry_last", "exit_slots", "session")
HELPERS_ONLY = ("entry_helpers", "exit_helpers")
AT_KPROBES = ("entry_slots", "entry_narrow", "entry_last", "entry_helpers", "exit_ret", "session")
MULTI, CLONES = "tracing_multi", "trampoline"
RETURNS = (Return.VOID, Return.INT, Return.BOOL, Return.POINTER)


@pytest.fixture(scope="module")
def witness() -> Iterator[Witness]:
    """Functions of every shape, under kprobes for as long as this file's tests run."""
    found = Witness(called_functions())
    try:
        found.functions = chosen(found)
        with found.watch_by_kprobes(found.functions):
            yield found
    finally:
        found.close()


def chosen(witness: Witness) -> list[Function]:
    """Functions of every shape there is, few of each."""
    by_shape: dict[object, list[Function]] = {}
    for function in witness.functions:
        model = function.target.model
        assert model is not None
        shapes: list[object] = [function.slots]
        if function.slots <= 6:
            shapes.append(model.returns)
        shapes += [("points to", kind) for kind in function.pointees]
        if function.struct:
            widest = max(size for _, size in function.places)
            shapes.append(("struct", min(function.slots, 7), widest))
        for shape in shapes:
            by_shape.setdefault(shape, []).append(function)
    picked = {}
    for shape, some in by_shape.items():
        count = 2 if isinstance(shape, int) and shape <= 6 else 1
        for function in some[len(some) // 4 :: max(1, len(some) // 2)][:count] or some[:1]:
            picked[function.number] = function
    return list(picked.values())


def check_shapes(some: list[Function]) -> None:
    """Functions of all the shapes this file is about were called."""
    slots = {f.slots for f in some}
    assert slots >= {0, 1, 2, 3, 4, 5, 6}
    assert max(slots) >= 8
    assert {f.target.model.returns for f in some if f.target.model} >= set(RETURNS)
    assert any(f.struct for f in some)


@pytest.mark.parametrize(
    ("lowering", "mechanism", "programs"),
    [
        pytest.param("native", MULTI, HELPERS_ONLY, marks=pytest.mark.needs(Feature.TRACING_MULTI)),
        pytest.param("native", CLONES, HELPERS_ONLY, marks=pytest.mark.needs(Feature.FENTRY)),
        pytest.param("direct", CLONES, READS_SLOTS, marks=pytest.mark.needs(Feature.FENTRY)),
        pytest.param("frame", MULTI, READS_SLOTS, marks=pytest.mark.needs(Feature.TRACING_MULTI)),
        pytest.param("frame", CLONES, READS_SLOTS, marks=pytest.mark.needs(Feature.FENTRY)),
        pytest.param(
            "regs", "kprobe_multi", AT_KPROBES, marks=pytest.mark.needs(Feature.KPROBE_MULTI)
        ),
        pytest.param("regs", "kprobe", AT_KPROBES, marks=pytest.mark.needs(Feature.KPROBE)),
    ],
)
def test_values(witness: Witness, lowering: str, mechanism: str, programs: tuple[str, ...]) -> None:
    """All programs of a lowering at once on all functions: each saw what kprobes saw."""
    functions = witness.functions
    targets = [f.target for f in functions]
    saw: list[tuple[Program, list[Function]]] = []
    with ExitStack() as attached:
        for name in programs:
            link = attached.enter_context(
                witness.obj.programs[name].attach_multi(
                    targets,
                    mechanism=mechanism,
                    lowering=lowering if lowering in ("direct", "frame") else "auto",
                    cookies=witness.cookie,
                )
            )
            forms = {g.lowering for g in link.plan.groups}
            assert forms == {Lowering(lowering)}, f"{name}: {forms}"
            check_skipped(witness, link.skipped, mechanism)
            on = {t.address for t in link.targets}
            assert len(on) + len(link.skipped) == len(targets)
            sides = SESSION if name == "session" else (PROGRAMS[name],)
            saw += [(p, [f for f in functions if f.target.address in on]) for p in sides]
        if mechanism in (MULTI, CLONES):
            assert not verify()
        witness.run(workload, functions)
    check_shapes(witness.called(functions))
    problems = [line for program, some in saw for line in witness.problems(program, some)]
    assert not problems, "\n".join(problems)
    # The comparison can fail: a program that was not there saw none of it.
    assert witness.problems(PROGRAMS["std_exit"], functions)


def check_skipped(witness: Witness, skipped: object, mechanism: str) -> None:
    """Only functions that the mechanism really cannot trace are skipped."""
    by_name = {f.name: f for f in witness.functions}
    for one in skipped:  # type: ignore[attr-defined]
        function = by_name[one.name]
        assert one.reason is Reason.TOO_MANY_SLOTS, str(one)
        if mechanism in (MULTI, CLONES):
            assert function.slots > 6, str(one)
        else:
            assert function.slots > 6 or function.struct, str(one)
