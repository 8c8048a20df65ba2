"""What the BPF half of retsnoop records of calls and returns, run in the interpreter."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from pybpf.tools.retsnoop.events import Args, Call, End, Event, Frame, Return
from pybpf.tools.retsnoop.functions import Flag, Function, flags_of
from pybpf.trampoline.model import Model
from pybpf.trampoline.model import Return as Kind
from tests.support.bpfvm import M64
from tests.support.examples import examples
from tests.support.snoopvm import SnoopVm

INT, POINTER = Model(0, Kind.INT, 4, True, 0), Model(0, Kind.POINTER, 8, False, 0)
VOID, BOOL = Model(0, Kind.VOID, 0, False, 0), Model(0, Kind.BOOL, 1, False, 0)


def number(size: int, signed: bool) -> Model:
    return Model(0, Kind.INT, size, signed, 0)


def function(id_: int, model: Model, *, entry: bool = False) -> Function:
    flags = flags_of(model) | (Flag.ENTRY if entry else Flag(0))
    return Function(id_, f"f{id_}", flags=flags, ret_size=model.ret_size)


def once(model: Model, raw: int, **constants: object) -> End | None:
    """One call of an entry function that leaves `raw` in rax: its session, if it is recorded."""
    vm = SnoopVm([function(0, model, entry=True)], **{"emit_success": True, **constants})
    vm.enter(0)
    vm.leave(0, raw)
    found = vm.taken()
    assert all(isinstance(event, End) for event in found)
    (end,) = found or [None]
    assert end is None or isinstance(end, End)
    return end


def span(*values: int) -> list[dict[str, int]]:
    low, high = values
    return [{"low": low, "high": high}, *[{"low": 0, "high": 0}] * 15]


GARBAGE = 0xABCD_EF01_2345_6700
# As the compiler leaves them: only the low bytes of a narrow value mean anything.
NARROW = [
    (BOOL, 1, 1),
    (BOOL, 0, 0),
    (number(1, False), 0xFE, 0xFE),
    (number(1, True), 0xFE, -2),
    (number(2, False), 0xFFFE, 0xFFFE),
    (number(2, True), 0xFFFE, -2),
    (number(4, False), 0xFFFF_FFFE, 0xFFFF_FFFE),
    (number(4, True), 0xFFFF_FFFE, -2),
    (number(8, True), -2 & M64, -2),
    (POINTER, 0, 0),
]


@pytest.mark.parametrize(("model", "raw", "value"), NARROW)
def test_narrow_values_are_read_without_what_is_above_them(
    model: Model, raw: int, value: int
) -> None:
    """Filters of return values compare the value, not the register."""
    above = GARBAGE << 8 * model.ret_size & M64 if model.ret_size < 8 else 0
    end = once(model, raw | above)
    assert end is not None and end.frames[0].result == value
    wanted = {"filter_retvals": True, "allowed_retvals": 1}
    assert once(model, raw | above, **wanted, allow_retvals=span(value, value))
    assert not once(model, raw | above, **wanted, allow_retvals=span(value + 1, value + 1))


def test_a_void_function_has_no_value_to_compare() -> None:
    """Whatever is in the register, it is neither asked for nor to be left out."""
    for raw in (0, 7):
        some = span(raw, raw)
        assert not once(VOID, raw, filter_retvals=True, allowed_retvals=1, allow_retvals=some)
        assert once(VOID, raw, filter_retvals=True, denied_retvals=1, deny_retvals=some)


def test_a_session_that_only_sent_branches_is_ended_when_it_is_left_out() -> None:
    """Otherwise what was sent of it would be kept until the same task's next session."""
    left_out = {"filter_retvals": True, "denied_retvals": 1, "deny_retvals": span(-2, -2)}
    vm = SnoopVm([function(0, INT, entry=True)], emit_lbr=True, **left_out)
    vm.enter(0)
    vm.leave(0, -2)
    assert [type(e).__name__ for e in vm.taken()] == ["Branches", "End"]


@dataclass
class Made:
    """A call that the test made."""

    func: int
    depth: int
    parent: Made | None
    start: int
    end: int = 0
    result: int = 0


FUNCTIONS = [
    function(0, INT, entry=True),
    function(1, INT),
    function(2, POINTER),
    function(3, VOID),
    function(4, INT, entry=True),
    function(5, BOOL),
]
KEPT = 64  # frames of a session


def results_of(func: int) -> Sequence[int]:
    return {2: (0xFFFF_8880_0000_1000, 0, -12), 3: (0,), 5: (0, 1)}.get(func, (0, 0, -2, -5, 7))


def calls_of(
    vm: SnoopVm, choose: random.Random, task: int, most: int, steps: list[tuple[bool, Made]]
) -> Iterator[None]:
    """Make the calls of one session, at random, one step at a time."""

    def call(func: int, depth: int, parent: Made | None) -> Iterator[None]:
        vm.enter(func, task=task)
        made = Made(func, depth, parent, vm.now)
        steps.append((True, made))
        yield
        inner = choose.choice([0, 0, 1, 2, 3]) if depth < most and len(steps) < 160 else 0
        if most >= KEPT and depth < most and choose.random() < 0.97:
            inner = max(inner, 1)
        for _ in range(inner):
            yield from call(choose.choice([0, 1, 1, 2, 3, 4, 5]), depth + 1, made)
        made.result = choose.choice(results_of(func))
        above = {5: choose.getrandbits(56) << 8, 2: 0, 3: 0}.get(func, choose.getrandbits(32) << 32)
        low = made.result & (0xFFFFFFFF if above and func != 5 else M64)
        vm.leave(func, low | above, task=task)
        made.end = vm.now
        steps.append((False, made))
        yield

    yield from call(choose.choice([0, 4]), 0, None)


def failed(made: Made) -> bool:
    error = -4095 <= made.result < 0 or (made.func == 2 and not made.result)
    return made.func in (0, 1, 2, 4) and error


def check(steps: Sequence[tuple[bool, Made]], events: Sequence[Event]) -> None:
    """Compare a session's records with the calls that were made."""
    *trace, end = events
    assert isinstance(end, End) and len(trace) == len(steps) == end.records
    by_number: dict[int, Made] = {}
    for seq, (event, (entered, made)) in enumerate(zip(trace, steps, strict=True)):
        assert isinstance(event, Call if entered else Return)
        assert (event.seq, event.func, event.depth) == (seq, made.func, made.depth)
        if isinstance(event, Call):
            assert event.time == made.start
            by_number[seq] = made
        elif isinstance(event, Return):
            took = made.end - made.start
            assert event.duration == (took if made.depth < KEPT else None)
            assert made.func == 3 or event.result & M64 == made.result & M64
    root = steps[0][1]
    assert (end.failed, end.start, end.end) == (failed(root), root.start, root.end)
    parent = None
    for depth, frame in enumerate(end.frames):
        made = by_number[frame.call]
        assert (made.func, made.depth, made.parent) == (frame.func, depth, parent)
        assert frame.done and frame.duration == made.end - made.start
        assert made.func == 3 or frame.result & M64 == made.result & M64
        assert not end.failed or failed(made) or made.func == 3
        parent = made
    assert not end.failed or (parent is not None and failed(parent))


@pytest.mark.parametrize("most", [3, 8, 70])
def test_random_sessions_are_what_was_called(most: int) -> None:
    """Tasks by turns, recursion, deeper than is kept: every record and the chain are right.

    Each frame of the chain is a call that the frame before it made. If the session failed, all of
    them failed or return nothing.
    """
    vm = SnoopVm(FUNCTIONS, emit_trace=True, emit_success=True)
    many = most < KEPT
    for seed in range(examples(30) if many else 1):
        choose = random.Random(seed)
        tasks = (20, 21, 28) if many else (20,)
        steps: dict[int, list[tuple[bool, Made]]] = {task: [] for task in tasks}
        running = {task: calls_of(vm, choose, task, most, made) for task, made in steps.items()}
        while running:
            task = choose.choice(list(running))
            if next(running[task], "over") == "over":
                del running[task]
        events = vm.taken()
        for task, made in steps.items():
            check(made, [event for event in events if event.key == task])


def test_calls_and_returns_that_are_missed() -> None:
    """A return looks for its call further down; one without a call changes nothing."""
    vm = SnoopVm(FUNCTIONS, emit_success=True)
    vm.enter(0)
    vm.enter(1)
    vm.enter(2)  # its return is missed
    vm.leave(1, -2)
    vm.leave(5, 1)  # its call is missed
    vm.leave(0, -2)
    (end,) = vm.taken()
    assert isinstance(end, End)
    assert (end.missed, end.failed) == (2, True)
    assert end.frames == (Frame(0, True, 5000, -2, call=0), Frame(1, True, 2000, -2, call=0))


def test_records_that_are_lost_are_counted() -> None:
    """The ring buffer is full for a while: the numbers of the rest tell which are missing."""
    vm = SnoopVm(FUNCTIONS, emit_success=True, emit_trace=True)
    vm.enter(0)
    vm.room = 0
    vm.enter(1)
    vm.leave(1, 0)
    vm.room = None
    vm.leave(0, 0)
    first, last, end = vm.taken()
    assert isinstance(first, Call) and isinstance(last, Return) and isinstance(end, End)
    assert (first.seq, last.seq, end.records, end.dropped) == (0, 3, 4, 2)


def test_arguments_that_cannot_be_read_and_those_that_do_not_fit() -> None:
    """A string that faults, memory, a register; then as much as has room, and no more."""
    vm = SnoopVm(FUNCTIONS, emit_success=True, emit_args=True, max_args_bytes=64)
    vm.memory = {0x5000: b"/no/such\0junk"}
    specs = [(4, 0, 16), (4, 1, 16), (1, 2, 0), (3, 0, 8), (3, 0, 16)]
    packed = b"".join(struct.pack("<BBH", *spec) for spec in specs)
    vm.put("args_specs", 0, struct.pack("<I", len(specs)) + packed)
    vm.enter(0, 0x5000, 0x6000, 0xFFFF_FFFF_FFFF_FFFE)
    vm.leave(0, 0)
    args, _ = vm.taken()
    assert isinstance(args, Args)
    assert [(a.size, a.value, a.data) for a in args.values] == [
        (9, 0x5000, b"/no/such\0"),
        (-14, 0x6000, b""),
        (0, 0xFFFF_FFFF_FFFF_FFFE, b""),
        (-7, 0x5000, b""),
        (-7, 0x5000, b""),
    ]
