"""retsnoop's records, sessions, functions and mechanisms, without a kernel."""

from __future__ import annotations

import contextlib
import errno
import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpf.btf import Btf, BtfKind
from pybpf.errors import BpfError, DeniedByPolicy, UnsupportedFeature, VerifierError
from pybpf.features import Feature
from pybpf.multi import reasons
from pybpf.multi.select import Candidate
from pybpf.obj.reader import read_object
from pybpf.tools.retsnoop import attach, events
from pybpf.tools.retsnoop.events import Call, End, Event, Frame, Return, Stack, decode
from pybpf.tools.retsnoop.functions import Flag, Function, make_functions
from pybpf.tools.retsnoop.options import Mechanism
from pybpf.tools.retsnoop.presets import PRESETS
from pybpf.tools.retsnoop.run import OBJECT
from pybpf.tools.retsnoop.sessions import NULL, Collector, ErrorFilter, errors_of

ROOT = Path(__file__).resolve().parents[2]
BTF_612 = ROOT / "tests" / "data" / "vmlinux-6.12.107-cloud-amd64.btf.gz"


# -- records ----------------------------------------------------------------


def test_record_layouts_are_those_of_the_object() -> None:
    """Sizes and offsets that Python decodes by are what clang laid out, by the object's BTF."""
    btf = read_object(OBJECT.read_bytes()).btf
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
    assert (at["start"], at["tid"], at["comm"]) == (16, 32, 56)
    assert layout("frame")[0] == events._FRAME.size


def test_flags_are_those_of_the_object() -> None:
    """The enumerators of the BPF program have the values that Python writes into `funcs`."""
    btf = read_object(OBJECT.read_bytes()).btf
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
        "<IIiIQQIIIIII16s16s",
        *(4, 7, -3, flags, 1000, 5000, 12, 10, 6, 2, 1, len(frames), b"cat", b"sh\0junk"),
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
    assert (got.records, got.dropped, got.missed) == (6, 2, 1)
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
    return End(session, key, True, discard, False, 0, 1, key, key, 0, 0, 0, "c", "c", frames)


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


def test_discarded_sessions_leave_nothing() -> None:
    """The end of a filtered session frees its records and shows nothing."""
    collector = Collector()
    collector.feed(Call(1, 11, 0, 0, 0, 0))
    assert collector.feed(end(1, 11, discard=True)) is None
    assert collector.open == 0 and not collector._traces


def test_a_lost_end_is_forgotten_with_the_next_session() -> None:
    """Nothing piles up when ends are lost, and old records do not show up in new sessions."""
    collector = Collector()
    for session in range(1, 100):
        collector.feed(Call(session, 11, 0, 0, 0, 0))
        collector.feed(Stack(session, 11, (session,)))
    assert len(collector._traces) == len(collector._stacks) == 1
    done = collector.feed(end(99, 11))
    assert done is not None and (len(done.trace), done.stack) == (1, (99,))


FUNCTIONS = [
    Function(0, "int_fn", flags=Flag.SIGNEXT, ret_size=4),
    Function(1, "ptr_fn", flags=Flag.PTR, ret_size=8),
    Function(2, "bool_fn", flags=Flag.BOOL | Flag.NOFAIL, ret_size=1),
]


@pytest.mark.parametrize(
    ("frames", "errors"),
    [
        ([Frame(0, True, 1, -2), Frame(1, True, 1, -12)], {2, 12}),
        ([Frame(0, True, 1, 12)], set()),  # a plain 12 is no ENOMEM
        ([Frame(1, True, 1, 0)], {NULL}),
        ([Frame(0, True, 1, 0)], set()),
        ([Frame(0, False, 1, -2)], set()),
        ([Frame(2, True, 1, -2)], set()),
    ],
)
def test_errors_of_a_chain(frames: list[Frame], errors: set[int]) -> None:
    """Only what returned, can fail and did fail counts."""
    assert errors_of(end(1, frames=tuple(frames)), FUNCTIONS) == errors


def test_error_filter() -> None:
    """Denying wins over allowing; no allow list lets all pass."""
    some = ErrorFilter(frozenset({2, 22}), frozenset({12}))
    assert some.passes(frozenset({2}))
    assert not some.passes(frozenset({2, 12}))
    assert not some.passes(frozenset({5}))
    assert not some.passes(frozenset())
    assert ErrorFilter().passes(frozenset())


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

    class Source:
        def get(self, module: str) -> Btf | None:
            return None if module else btf

    found = btf.find(name, BtfKind.FUNC)
    assert found is not None
    (function,) = make_functions([Candidate(name, "", 1, found, entry=True)], Source())
    assert function.flags == flags | Flag.ENTRY
    assert function.ret_size == size


def test_functions_without_btf_are_guessed() -> None:
    """No BTF: the value is looked at as int and as long, and no trampoline is possible."""

    class Nothing:
        def get(self, module: str) -> Btf | None:
            return None

    (function,) = make_functions([Candidate("f.isra.0", "nfs", 1)], Nothing())
    assert function.flags == Flag.GUESS and function.can_fail
    assert function.obstacle


# -- mechanisms -------------------------------------------------------------


class Kernel:
    def __init__(self, *features: Feature) -> None:
        self.features = features

    def supports(self, feature: Feature) -> bool:
        return feature in self.features


def function(i: int, **more: object) -> Function:
    fields: dict[str, object] = {"btf_id": i + 1, "slots": 3, "addr": 0x1000 * (i + 1)}
    return Function(i, f"f{i}", **(fields | more))  # type: ignore[arg-type]


CASES = [
    function(0),
    function(1, btf_id=None, obstacle="BTF does not describe it"),
    function(2, slots=7),
    function(3, btf_id=None, kprobe=False),
]
NEW, OLD = Kernel(Feature.KPROBE_MULTI), Kernel()


@pytest.mark.parametrize(
    ("wanted", "kernel", "groups", "refused"),
    [
        (Mechanism.AUTO, NEW, {Mechanism.MULTI: [0, 1, 2, 3]}, []),
        (Mechanism.MULTI, NEW, {Mechanism.MULTI: [0, 1, 2, 3]}, []),
        (Mechanism.AUTO, OLD, {Mechanism.TRAMPOLINE: [0], Mechanism.SINGLE: [1, 2]}, [3]),
        (Mechanism.MULTI, OLD, {Mechanism.SINGLE: [0, 1, 2]}, [3]),
        (Mechanism.SINGLE, NEW, {Mechanism.SINGLE: [0, 1, 2]}, [3]),
        (Mechanism.TRAMPOLINE, NEW, {Mechanism.TRAMPOLINE: [0, 2]}, [1, 3]),
        (Mechanism.TRAMPOLINE, OLD, {Mechanism.TRAMPOLINE: [0]}, [1, 2, 3]),
    ],
)
def test_plan(
    wanted: Mechanism, kernel: Kernel, groups: dict[Mechanism, list[int]], refused: list[int]
) -> None:
    """Every function lands in one group or is refused with a reason, whatever is asked for."""
    plan = attach.make_plan(CASES, wanted, kernel)
    assert {m: [f.id for f in fs] for m, fs in plan.groups} == groups
    assert [r.function.id for r in plan.refused] == refused
    assert all(r.why for r in plan.refused)
    assert attach.estimate(plan, kernel).attach_s >= 0


@given(st.integers(0, 40), st.sets(st.integers(0, 39)))
def test_bisect_finds_the_guilty(count: int, bad: set[int]) -> None:
    """Whatever functions a kernel refuses: those are named, all others attached exactly once."""
    functions = [function(i) for i in range(count)]
    attached: list[int] = []
    refused: list[int] = []

    def try_attach(batch: Sequence[Function]) -> None:
        if any(f.id in bad for f in batch):
            raise BpfError(errno.EINVAL)
        attached.extend(f.id for f in batch)

    attach.bisect(functions, try_attach, lambda f, e: refused.append(f.id))
    assert sorted(attached) == [i for i in range(count) if i not in bad]
    assert sorted(refused) == [i for i in range(count) if i in bad]


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (DeniedByPolicy(errno.EPERM), 1),
        (UnsupportedFeature("kprobe.multi"), 1),
        *((BpfError(number), 1) for number in sorted(reasons.HOPELESS | reasons.NO_ROOM)),
        (VerifierError(errno.EACCES, "clone", "log"), 0),
        (VerifierError(errno.EPERM, "clone", "log"), 0),
        (BpfError(errno.ENOMEM), 0),
    ],
)
def test_bisect_gives_up_on_policy(error: BpfError, calls: int) -> None:
    """What is about us and not about a function comes through at once, the rest is halved.

    The verifier's errors are about the function, whatever their number.
    """
    tried: list[int] = []

    def try_attach(batch: Sequence[Function]) -> None:
        tried.append(len(batch))
        raise error

    if calls:
        with pytest.raises(BpfError):
            attach.bisect(CASES, try_attach, lambda f, e: None)
        assert tried == [4]
    else:
        attach.bisect(CASES, try_attach, lambda f, e: None)
        assert sorted(tried) == [1, 1, 1, 1, 2, 2, 4]


def test_preset_globs_are_well_formed() -> None:
    """Every glob of every preset parses, and entry globs exist."""
    from pybpf.kernel.globs import parse_pattern

    for preset in PRESETS.values():
        assert preset.entry
        for glob in (*preset.entry, *preset.allow, *preset.deny):
            parse_pattern(glob)
