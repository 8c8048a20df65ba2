"""retsnoop's records, sessions, functions and mechanisms, without a kernel."""

from __future__ import annotations

import contextlib
import gzip
import os
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pybpf
from pybpf.btf import Btf, BtfKind
from pybpf.features import Feature, FeatureSet
from pybpf.kernel import kallsyms, tasks
from pybpf.multi.mechanisms import KPROBE, KPROBE_MULTI, TRACING_MULTI, TRAMPOLINE
from pybpf.multi.options import AttachOptions
from pybpf.multi.plan import Plan, PlanFacts
from pybpf.multi.planner import make_plan
from pybpf.multi.reasons import Reason
from pybpf.multi.target import Target
from pybpf.obj.reader import read_object
from pybpf.tools.retsnoop import attach, events
from pybpf.tools.retsnoop.events import (
    Arg,
    Args,
    Branch,
    Branches,
    Call,
    Context,
    End,
    Event,
    Frame,
    Hit,
    Return,
    Stack,
    decode,
)
from pybpf.tools.retsnoop.functions import Flag, make_functions
from pybpf.tools.retsnoop.options import Mechanism
from pybpf.tools.retsnoop.presets import PRESETS
from pybpf.tools.retsnoop.run import OBJECT
from pybpf.tools.retsnoop.sessions import Collector, Session
from pybpf.tools.retsnoop.symbols import end_of
from pybpf.trampoline.model import Model, Models
from pybpf.trampoline.model import Return as Returns

ROOT = Path(__file__).resolve().parents[2]
MODEL = Model(2, Returns.INT, 4, signed=True, params=2)
BTF_612 = ROOT / "tests" / "data" / "vmlinux-6.12.107-cloud-amd64.btf.gz"


# -- records ----------------------------------------------------------------


def test_record_layouts_are_those_of_the_object() -> None:
    """Sizes and offsets that Python decodes by are what clang laid out, by the object's BTF."""
    btf = read_object(Path(OBJECT).read_bytes()).btf
    assert btf is not None

    def layout(name: str) -> tuple[int, dict[str, int]]:
        type_id = btf.find(name, BtfKind.STRUCT)
        assert type_id is not None
        found = btf.type(type_id)
        return btf.sizeof(type_id), {m.name: m.bit_offset // 8 for m in found.members}  # type: ignore[attr-defined]

    size, at = layout("trace_record")
    assert (size, at["time"], at["result"]) == (events._TRACE.size, 24, 32)
    _, at = layout("stack_record")
    assert at["addrs"] == events._STACK_HEAD.size
    _, at = layout("end_record")
    assert at["frames"] == events._END_HEAD.size
    assert (at["start"], at["tid"], at["deep"], at["comm"]) == (16, 32, 52, 64)
    assert layout("frame")[0] == events._FRAME.size


def test_flags_are_those_of_the_object() -> None:
    """The enumerators of the BPF program have the values that Python puts into cookies."""
    btf = read_object(Path(OBJECT).read_bytes()).btf
    assert btf is not None
    values = {
        v.name: v.val
        for i in btf.ids(BtfKind.ENUM)
        for v in btf.type(i).values  # type: ignore[attr-defined]
    }
    assert {f"FUNC_{flag.name}": flag.value for flag in Flag}.items() <= values.items()
    for name in ("FAILED", "DISCARD", "UNFINISHED"):
        assert values[f"END_{name}"] == getattr(events, name)


def end_bytes(frames: Sequence[tuple[int, int, int, int]] = (), flags: int = 1) -> bytes:
    head = struct.pack(
        "<IIiIQQIIIIIIII16s16s",
        *(4, 7, -3, flags, 1000, 5000, 12, 10, 6, 2, 1, 9, len(frames), 0, b"cat", b"sh\0junk"),
    )
    return head + b"".join(struct.pack("<IIQq", *frame) for frame in frames)


def test_decode() -> None:
    """Each kind of record becomes its value."""
    trace = struct.pack("<IIiIIIQq", 1, 7, 812, 5, 3, 2, 999, 0)
    assert decode(trace) == Call(7, 812, 5, 3, 2, 999)
    trace = struct.pack("<IIiIIIQq", 2, 7, 812, 6, 3, 2, 450, -2)
    assert decode(memoryview(trace)) == Return(7, 812, 6, 3, 2, 450, -2)
    assert decode(struct.pack("<IIiI2Q", 3, 7, 812, 16, 1, 2)) == Stack(7, 812, (1, 2))
    got = decode(end_bytes([(1, 1, 50, -2), (2, 0, 77, 5), (3, 3, 9, 0)], flags=5))
    assert isinstance(got, End)
    assert (got.comm, got.leader_comm, got.key) == ("cat", "sh", -3)
    assert (got.failed, got.discard, got.unfinished) == (True, False, True)
    assert (got.records, got.dropped, got.missed, got.deep) == (6, 2, 1, 9)
    assert got.frames == (
        Frame(1, True, 50, -2),
        Frame(2, False, 0, 5),
        Frame(3, True, 9, 0, stitched=True),
    )


@given(st.binary(max_size=300))
def test_decode_takes_anything(data: bytes) -> None:
    """Garbage is an event or a ValueError, nothing else."""
    with contextlib.suppress(ValueError):
        decode(data)


# -- sessions ---------------------------------------------------------------


def end(
    session: int, key: int = 1, *, discard: bool = False, frames: tuple[Frame, ...] = ()
) -> End:
    return End(session, key, True, discard, False, 0, 1, key, key, 0, 0, 0, 0, "c", "c", frames)


def test_interleaved_sessions_are_kept_apart() -> None:
    """Two tasks' records arrive mixed; each session gets its own."""
    collector = Collector()
    feed: list[Event] = [
        Call(1, 11, 0, 0, 0, 0),
        Call(2, 22, 0, 0, 0, 0),
        Return(1, 11, 1, 0, 0, 5, 0),
        Stack(2, 22, (1, 2)),
    ]
    assert [collector.feed(e) for e in feed] == [None] * 4
    first = collector.feed(end(1, 11))
    second = collector.feed(end(2, 22))
    assert first is not None and second is not None
    assert (len(first.trace), first.stack) == (2, ())
    assert (len(second.trace), second.stack) == (1, (1, 2))
    assert collector.open == 0


def test_a_session_has_every_kind_of_record() -> None:
    """What the program sent of a session is in it, whatever kind of record it came as."""
    collector = Collector()
    call, hit = Call(1, 11, 0, 0, 0, 0), Hit(1, 11, 1, 0, 1, 5)
    arg, branch = Arg(0, 7), Branch(1, 2)
    for event in (
        call,
        Args(1, 11, 0, 0, (arg,)),
        hit,
        Context(1, 11, 1, 0, b"context"),
        Branches(1, 11, (branch,)),
        Stack(1, 11, (3, 4)),
        Stack(1, 11, (5,), user=True),
    ):
        assert collector.feed(event) is None
    ended = end(1, 11)
    assert collector.feed(ended) == Session(
        ended, (3, 4), (call, hit), {0: (arg,)}, (5,), {1: b"context"}, (branch,)
    )


def test_discarded_sessions_leave_nothing() -> None:
    """The end of a filtered session frees its records and shows nothing."""
    collector = Collector()
    collector.feed(Call(1, 11, 0, 0, 0, 0))
    assert collector.feed(end(1, 11, discard=True)) is None
    assert collector.open == 0


def test_a_lost_end_is_forgotten_with_the_next_session() -> None:
    """Nothing piles up when ends are lost, and old records do not show up in new sessions."""
    collector = Collector()
    for session in range(1, 100):
        collector.feed(Call(session, 11, 0, 0, 0, 0))
        collector.feed(Stack(session, 11, (session,)))
    assert collector.open == 1
    done = collector.feed(end(99, 11))
    assert done is not None and (len(done.trace), done.stack) == (1, (99,))


def test_lost_ends_of_tasks_that_are_gone_are_forgotten() -> None:
    """Their records do not pile up; those of tasks that live on stay, however many there are."""
    living = set(range(1, 100))
    collector = Collector(150, living.__contains__)
    most = 0
    for session in range(1, 10_000):
        collector.feed(Call(session, session, 0, 0, 0, 0))
        most = max(most, collector.open)
    assert 99 <= collector.open <= most <= 2 * 150
    for session in living:
        done = collector.feed(end(session, session))
        assert done is not None and len(done.trace) == 1


def test_an_end_that_comes_after_its_records_were_dropped() -> None:
    """The session says that all its records are lost."""
    collector = Collector(1, lambda key: False)
    collector.feed(Call(1, 100, 0, 0, 0, 0))
    collector.feed(Call(2, 101, 0, 0, 0, 0))
    done = collector.feed(end(1, 100)._replace(records=5))
    assert done is not None and (len(done.trace), done.end.records, done.end.dropped) == (0, 5, 5)


@pytest.mark.parametrize("first", [True, False])
def test_tasks_that_cannot_be_seen_may_live(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first pid namespace tells that there is no task; elsewhere every task may live."""
    monkeypatch.setattr(tasks, "is_first", {"pid": first}.get)
    child = subprocess.Popen(["sleep", "60"])
    assert tasks.may_live(child.pid) and tasks.may_live(os.getpid())
    child.kill()
    child.wait()
    assert tasks.may_live(child.pid) is not first


# -- functions --------------------------------------------------------------


@pytest.fixture(scope="module")
def btf() -> Btf:
    return Btf(gzip.decompress(BTF_612.read_bytes()))


@pytest.mark.parametrize(
    ("name", "flags", "size"),
    [
        ("vfree", Flag.VOID | Flag.NOFAIL, 0),
        ("path_openat", Flag.PTR, 8),
        ("vfs_read", Flag(0), 8),
        ("do_rmdir", Flag.SIGNEXT, 4),
        ("capable", Flag.BOOL | Flag.NOFAIL, 1),
        ("bpf_map_lookup_elem", Flag.NOFAIL, 8),
    ],
)
def test_return_types_from_btf(btf: Btf, name: str, flags: Flag, size: int) -> None:
    """What a function's return value can mean follows from its prototype."""

    found = btf.find(name, BtfKind.FUNC)
    assert found is not None
    target = Target(name, "", 1, found, Models(btf).of_func(found))
    (function,) = make_functions([target], {("", name, 1)})
    assert function.flags == flags | Flag.ENTRY
    assert function.ret_size == size


def test_functions_without_btf_are_guessed() -> None:
    """No BTF, or a name of several functions: the value is looked at as int and as long."""
    targets = [Target("f.isra.0", "nfs", 1), Target("s_next", "", 2, 7, MODEL, unique=False)]
    for function in make_functions(targets, set()):
        assert function.flags == Flag.GUESS and function.can_fail and not function.ret_size


def test_a_cookie_is_number_and_flags(btf: Btf) -> None:
    """Low half and high half of the cookie, for numbers beyond 16 bits too."""
    targets = [Target(f"f{i}", "", i + 1, i + 1, MODEL) for i in range(70_000)]
    functions = make_functions(targets, {("", "f69999", 70_000)})
    last = functions[-1]
    assert last.cookie == 69_999 | int(Flag.SIGNEXT | Flag.ENTRY) << 32
    assert len({f.cookie & 0xFFFFFFFF for f in functions}) == 70_000


# -- mechanisms -------------------------------------------------------------


def kernel(*features: Feature) -> PlanFacts:
    have = {Feature.FENTRY, Feature.FEXIT, Feature.KPROBE, Feature.ATTACH_COOKIE, *features}
    return PlanFacts.of(FeatureSet(have))


V61 = kernel()
V612 = kernel(Feature.KPROBE_MULTI, Feature.KPROBE_SESSION)
V73 = kernel(Feature.KPROBE_MULTI, Feature.KPROBE_SESSION, Feature.FSESSION, Feature.TRACING_MULTI)
TARGETS = [
    Target("plain", "", 0x1000, 1, MODEL),
    Target("no_btf", "", 0x2000),
    Target("of_module", "dummy", 0x3000, 3, MODEL),
    Target("twice", "", 0x4000, None, None, unique=False),
    Target("no_btf_no_kprobe", "", 0x5000, kprobe=False),
]


def planned(mechanism: Mechanism, facts: PlanFacts, program: str = "calls") -> Plan:
    with pybpf.open(OBJECT) as obj:
        template = obj.programs[program].template()
    options = AttachOptions(mechanism=mechanism.value, unknown=attach.UNKNOWN)
    return make_plan(template, TARGETS, facts, options)


@pytest.mark.parametrize("program", ["calls", "calls_with_args"])
@pytest.mark.parametrize(
    ("wanted", "facts", "groups", "skipped"),
    [
        (Mechanism.AUTO, V73, {TRACING_MULTI: {0, 2}, KPROBE_MULTI: {1, 3, 4}}, {}),
        (Mechanism.AUTO, V612, {KPROBE_MULTI: {0, 1, 2, 3, 4}}, {}),
        (Mechanism.AUTO, V61, {TRAMPOLINE: {0, 2}, KPROBE: {1, 3}}, {4: Reason.NO_BTF}),
        (Mechanism.MULTI, V612, {KPROBE_MULTI: {0, 1, 2, 3, 4}}, {}),
        (Mechanism.MULTI, V61, {KPROBE: {0, 1, 2, 3}}, {4: Reason.NOT_TRACEABLE}),
        (Mechanism.SINGLE, V73, {KPROBE: {0, 1, 2, 3}}, {4: Reason.NOT_TRACEABLE}),
        (
            Mechanism.TRAMPOLINE,
            V73,
            {TRAMPOLINE: {0, 2}},
            {1: Reason.NO_BTF, 3: Reason.NO_BTF, 4: Reason.NO_BTF},
        ),
    ],
)
def test_letters_mean_mechanisms(
    wanted: Mechanism,
    facts: PlanFacts,
    groups: dict[object, set[int]],
    skipped: dict[int, Reason],
    program: str,
) -> None:
    """Every function gets the first mechanism of the letter's list that can carry it."""
    plan = planned(wanted, facts, program)
    names = [t.name for t in TARGETS]
    got: dict[object, set[int]] = {}
    for group in plan.groups:
        got.setdefault(group.mechanism, set()).update(names.index(t.name) for t in group.targets)
    assert got == groups
    assert {names.index(s.name): s.reason for s in plan.skipped}.keys() == skipped.keys()


@pytest.mark.parametrize(
    ("wanted", "facts", "skips"),
    [
        (Mechanism.AUTO, V612, True),
        (Mechanism.MULTI, V73, True),
        (Mechanism.AUTO, V73, False),
        (Mechanism.TRAMPOLINE, V612, False),
        (Mechanism.SINGLE, V612, False),
        (Mechanism.MULTI, kernel(Feature.KPROBE_MULTI), False),
    ],
)
def test_exits_are_skipped_with_sessions_of_kprobes_only(
    wanted: Mechanism, facts: PlanFacts, skips: bool
) -> None:
    """A trampoline's program must give 0, and a pair of programs has nothing to skip with."""
    assert attach.can_skip_exits(planned(wanted, facts)) is skips


def test_preset_globs_are_well_formed() -> None:
    """Every glob of every preset parses, and entry globs exist."""
    from pybpf.kernel.globs import parse_pattern

    for preset in PRESETS.values():
        assert preset.entry
        for glob in (*preset.entry, *preset.allow, *preset.deny):
            parse_pattern(glob)


@pytest.mark.parametrize("size", [1, 16, 4097, (1 << 17) - 1, 1 << 18])
def test_where_a_function_ends(size: int) -> None:
    """At the next symbol; what is no start has no end, and no function is endless."""
    start = 0xFFFFFFFF81001000
    lines = [f"{start:016x} T f", f"{start:016x} T alias", f"{start + size:016x} t g", ""]
    table = kallsyms.parse("\n".join(lines).encode())
    assert end_of(start, table) == start + min(size, 1 << 17)
    assert end_of(start + 1, table) == (start + 1 + (1 << 17) if size == 1 else 0)
    assert end_of(start + size, table) == start + size + (1 << 17)
