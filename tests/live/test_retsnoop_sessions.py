"""What retsnoop's BPF program makes of calls and returns, driven by hand in this task.

Kernels skip programs, tasks die, errors are cleaned up after: any sequence must end in
sessions whose counts add up. Each step is one run of a raw tracepoint program.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pybpf
from pybpf.features import Feature
from pybpf.tools.retsnoop import load
from pybpf.tools.retsnoop.events import End, decode
from pybpf.tools.retsnoop.functions import Flag
from pybpf.tools.retsnoop.load import Counts, counts_of
from pybpf.tools.retsnoop.options import parse
from pybpf.tools.retsnoop.sessions import Collector, Session
from tests.support.require import facts

OBJECT = Path(__file__).parents[1] / "data" / "retsnoop_drive.bpf.o"
ENOENT, EINVAL = -2 & (1 << 64) - 1, -22 & (1 << 64) - 1
CALL, RETURN, TASK_EXITS = 0, 1, 2
# What stands behind a function's name: the type that it returns.
_KINDS = {
    "": Flag.SIGNEXT,
    "ptr": Flag.PTR,
    "void": Flag.VOID,
    "long": Flag(0),
    "guess": Flag.GUESS,
}

pytestmark = pytest.mark.needs(Feature.RINGBUF)


class Driven:
    """The loaded program, and the sessions that came out of it."""

    def __init__(self, obj: pybpf.Object, names: Sequence[str]) -> None:
        self.obj = obj
        self._names = list(names)
        self._flags: list[Flag] = []
        self._ring = pybpf.RingBuffer(obj.maps["events"], decode)
        self._collector = Collector()
        self.trace: list[Any] = []

    def _step(self, what: int, name: str, result: int = 0) -> None:
        function, _, kind = name.partition(":")
        number = self._names.index(function)
        flags = _KINDS[kind] | (Flag(0) if number else Flag.ENTRY)
        self.obj.programs["drive"].test_run(
            ctx=struct.pack("<3Q", what, number | int(flags) << 32, result)
        )

    def call(self, *names: str) -> None:
        for name in names:
            self._step(CALL, name)

    def ret(self, name: str, result: int = 0) -> None:
        self._step(RETURN, name, result)

    def task_exits(self) -> None:
        self._step(TASK_EXITS, self._names[0])

    def sessions(self) -> list[Session]:
        found = [self._collector.feed(event) for event in self._ring.read(timeout=0)]
        return [session for session in found if session is not None]

    def chain(self) -> list[tuple[str, int | None]]:
        """Of the one session: names and results, None where a call did not return."""
        (session,) = self.sessions()
        return chain_of(session.end, self._names)

    def counts(self) -> Counts:
        counts = counts_of(self.obj)
        ended = counts.sent + counts.filtered + counts.lost + counts.open
        assert counts.started == ended, counts
        return counts


def chain_of(end: End, names: Sequence[str]) -> list[tuple[str, int | None]]:
    return [(names[f.func], f.result if f.done else None) for f in end.frames]


def opened(
    *arguments: str,
    places: dict[int, tuple[int, int]] | None = None,
    threads: Sequence[int] = (),
) -> Driven:
    options = parse(["-e", "f", *arguments])
    options.threads.update(threads)
    obj = pybpf.open(OBJECT, facts=facts())

    class NoPlan:
        groups = ()

    class Tracing:
        plan = NoPlan()
        functions: Sequence[object] = range(5)

    load.configure(obj, options, Tracing())  # type: ignore[arg-type]
    obj.globals.self_tgid = 0  # we are the ones that are traced
    obj.programs["task_exit"].autoload = False
    obj.load()
    load.fill(obj, options, (), places)
    obj.globals.ready = 1
    return Driven(obj, ["entry", "a", "b", "c", "d"])


@pytest.fixture
def made() -> Iterator[Any]:
    runs: list[Driven] = []

    def make(*arguments: str, **more: Any) -> Driven:
        runs.append(opened(*arguments, **more))
        return runs[-1]

    yield make
    for run in runs:
        run._ring.close()
        run.obj.close()


# -- the chain ------------------------------------------------------------------


def test_an_error_that_is_handed_up(made: Any) -> None:
    run = made()
    run.call("entry", "a", "b")
    run.ret("b", EINVAL)
    run.ret("a", ENOENT)
    assert run.sessions() == [] and run.counts().open == 1
    run.ret("entry", ENOENT)
    assert run.chain() == [("entry", -2), ("a", -2), ("b", -22)]
    assert run.counts() == Counts(started=1, sent=1)


def test_success_shows_nothing(made: Any) -> None:
    """A caller that succeeds takes the error back; void ones leave it as it is."""
    run = made()
    run.call("entry", "a")
    run.ret("a", EINVAL)
    run.ret("entry", 0)
    assert run.sessions() == [] and run.counts() == Counts(started=1, success=1)
    run.call("entry", "a:void", "b")
    run.ret("b", EINVAL)
    run.ret("a:void", 0)
    run.ret("entry", EINVAL)
    assert run.chain() == [("entry", -22), ("a", 0), ("b", -22)]


@pytest.mark.parametrize(
    ("kind", "result", "fails"),
    [
        ("entry", 0xFFFFFFEA, True),  # int: -22
        ("entry:long", 0xFFFFFFEA, False),
        ("entry:long", EINVAL, True),
        ("entry:ptr", 0, True),
        ("entry:ptr", 0x1000, False),
        ("entry:guess", 0xFFFFFFEA, True),
        ("entry:guess", 0xFFFFFFEA00000000, False),
        ("entry", 22, False),
    ],
)
def test_what_is_an_error(made: Any, kind: str, result: int, fails: bool) -> None:
    """By the type that the function returns; a plain 22 is no EINVAL."""
    run = made()
    run.call(kind)
    run.ret(kind, result)
    assert len(run.sessions()) == fails


def test_cleanup_does_not_hide_the_error(made: Any) -> None:
    """The chain that failed is put back below the caller that reports it, and marked."""
    run = made()
    run.call("entry", "a", "b")
    run.ret("b", EINVAL)
    run.ret("a", EINVAL)
    run.call("c")
    run.ret("c", 0)
    run.ret("entry", EINVAL)
    (session,) = run.sessions()
    assert [(f.func, f.stitched) for f in session.end.frames] == [(0, False), (1, True), (2, True)]


def test_interim_chains(made: Any) -> None:
    """-I gives the failed chain before the cleanup overwrites it."""
    run = made("-I")
    run.call("entry", "a")
    run.ret("a", EINVAL)
    run.call("c")
    (interim,) = run.sessions()
    assert interim.end.interim
    assert chain_of(interim.end, ["entry", "a"]) == [("entry", None), ("a", -22)]
    run.ret("c", 0)
    run.ret("entry", 0)
    assert run.sessions() == []
    assert run.counts() == Counts(started=1, success=1)


# -- recursion, depth, losses -----------------------------------------------------


def test_recursion(made: Any) -> None:
    """A function inside itself: each return belongs to the innermost call."""
    run = made()
    run.call("entry", *["a"] * 5)
    for _ in range(5):
        run.ret("a", EINVAL)
    run.ret("entry", EINVAL)
    assert run.chain() == [("entry", -22), *[("a", -22)] * 5]


@pytest.mark.parametrize("depth", [64, 65, 100, 1000])
def test_deeper_than_is_kept(made: Any, depth: int) -> None:
    """Calls beyond 64 are counted; the session is whole and over when its function returns."""
    run = made()
    run.call("entry", *["a"] * (depth - 1))
    for _ in range(depth - 1):
        run.ret("a", EINVAL)
    run.ret("entry", EINVAL)
    (session,) = run.sessions()
    assert len(session.end.frames) == 64 and session.end.missed == 0
    assert session.end.deep == run.counts().deep == depth - 64
    run.call("entry")
    run.ret("entry", EINVAL)
    assert run.chain() == [("entry", -22)]


def test_more_functions_than_16_bits_number(made: Any) -> None:
    """Numbers that are equal in their low 16 bits are of different functions."""
    run = made("-TE")
    names = [f"f{number}" for number in range(1 << 17)]
    names[0] = "entry"
    run._names = names
    run.call("entry", "f65536", "f65537", "f1")
    for name in ("f1", "f65537", "f65536"):
        run.ret(name, EINVAL)
    run.ret("entry", EINVAL)
    (session,) = run.sessions()
    assert chain_of(session.end, names) == [
        (name, -22) for name in ("entry", "f65536", "f65537", "f1")
    ]
    assert [e.func for e in session.trace[:4]] == [0, 65536, 65537, 1]
    assert session.end.missed == 0


def test_entry_functions_inside_one_another(made: Any) -> None:
    """One session for both."""
    run = made()
    run.call("entry", "entry")
    run.ret("entry", EINVAL)
    run.ret("entry", EINVAL)
    assert run.chain() == [("entry", -22)] * 2


def test_returns_that_were_not_seen(made: Any) -> None:
    """A call whose return was lost is passed over by the return of its caller."""
    run = made()
    run.call("entry", "a", "b", "c")
    run.ret("b", EINVAL)  # that of c is lost
    run.ret("a", EINVAL)
    run.ret("entry", EINVAL)
    (session,) = run.sessions()
    assert session.end.missed == 1
    assert chain_of(session.end, ["entry", "a", "b"]) == [("entry", -22), ("a", -22), ("b", -22)]


def test_calls_that_were_not_seen(made: Any) -> None:
    """A return without its call changes nothing, inside and outside of sessions."""
    run = made()
    run.ret("a", EINVAL)
    run.ret("entry", EINVAL)
    assert run.counts() == Counts()
    run.call("entry", "a")
    run.ret("b", EINVAL)
    run.ret("a", ENOENT)
    run.ret("entry", ENOENT)
    (session,) = run.sessions()
    assert session.end.missed == 1
    assert [f.func for f in session.end.frames] == [0, 1]


def test_the_end_of_a_session_that_was_not_seen(made: Any) -> None:
    """Its function is called again and is not in the kernel stack: the old session is ended."""
    run = made("-S", places={0: (0x1000, 0x2000)})
    run.call("entry", "a")
    run.call("entry")
    run.ret("entry", EINVAL)
    lost, whole = run.sessions()
    assert lost.end.unfinished and lost.end.missed == 2
    assert not whole.end.unfinished and [f.func for f in whole.end.frames] == [0]
    assert run.counts() == Counts(started=2, sent=2)


def test_a_function_that_is_still_running(made: Any) -> None:
    """It is in the kernel stack: a call inside the session, not the next session."""
    run = made("-S", places={0: (0, (1 << 64) - 1)})
    run.call("entry", "entry")
    run.ret("entry", EINVAL)
    run.ret("entry", EINVAL)
    assert run.chain() == [("entry", -22)] * 2


def test_a_task_that_dies(made: Any) -> None:
    """Its session ends with it: unfinished, and nothing of it is left."""
    run = made("-S")
    run.call("entry", "a")
    run.task_exits()
    (session,) = run.sessions()
    assert session.end.unfinished and [f.done for f in session.end.frames] == [False, False]
    assert run.counts() == Counts(started=1, sent=1)
    run.task_exits()
    assert run.counts().started == 1


# -- filters --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "results", "counts"),
    [
        (["-x", "ENOENT"], [EINVAL, ENOENT], Counts(started=2, sent=1, error=1)),
        (["-X", "ENOENT"], [EINVAL, ENOENT], Counts(started=2, sent=1, error=1)),
        (["-x", "NULL"], [EINVAL], Counts(started=1, error=1)),
        (["-L", "60000"], [EINVAL, 0], Counts(started=2, success=1, duration=1)),
        (["--allow-retval=-22..-3"], [EINVAL, ENOENT, 5], Counts(started=3, sent=1, retval=2)),
        (["--deny-retval", "ENOENT"], [EINVAL, ENOENT, 0], Counts(started=3, sent=2, retval=1)),
        (["--deny-retval", "5", "-Sn"], [5, EINVAL], Counts(started=2, sent=1, success=1)),
    ],
)
def test_filters(made: Any, options: list[str], results: list[int], counts: Counts) -> None:
    """Asked in the kernel, and counted by what left the session out."""
    run = made(*options)
    for result in results:
        run.call("entry")
        run.ret("entry", result)
    assert len(run.sessions()) == counts.sent
    assert run.counts() == counts


ME, NAME = str(os.getpid()), Path("/proc/self/comm").read_text().strip()


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["-p", ME], True),
        (["-p", "1"], False),
        (["-p", "1", "-p", ME], True),
        (["-P", ME], False),
        (["-P", "1"], True),
        (["-p", ME, "-P", ME], False),
        (["-n", NAME], True),
        (["-n", "nobody"], False),
        (["-N", NAME], False),
        (["-n", NAME, "-N", NAME], False),
        (["-N", "nobody", "-P", "1"], True),
    ],
)
@pytest.mark.parametrize("thread", [False, True])
def test_who_is_traced(made: Any, options: list[str], shown: bool, thread: bool) -> None:
    """Allowed and denied processes, threads and commands; denying wins. Others open no session."""
    run = made(*options, threads=[int(ME)] if thread else [])
    run.call("entry")
    run.ret("entry", EINVAL)
    assert len(run.sessions()) == shown
    assert run.counts() == (Counts(started=1, sent=1) if shown else Counts())


def test_names_of_a_thread_and_its_process(made: Any) -> None:
    """A thread has a name of its own; beside it stands that of its process's first thread."""
    run = made()

    def fail() -> None:
        run.call("entry")
        run.ret("entry", EINVAL)

    def second() -> None:
        Path("/proc/thread-self/comm").write_text("second")
        fail()

    fail()
    thread = threading.Thread(target=second)
    thread.start()
    thread.join()
    named = [(s.end.comm, s.end.leader_comm, s.end.tid == s.end.tgid) for s in run.sessions()]
    assert named == [(NAME, NAME, True), ("second", NAME, False)]


def test_ourselves(made: Any) -> None:
    """The tool's own process opens no session."""
    run = made()
    run.obj.close()
    with pybpf.open(OBJECT, facts=facts()) as obj:
        obj.globals.self_tgid = os.getpid()
        obj.programs["task_exit"].autoload = False
        obj.maps["owners"].max_entries, obj.maps["sessions"].max_entries = 1, 8
        obj.load()
        obj.globals.ready = 1
        other = Driven(obj, ["entry"])
        other.call("entry")
        assert obj.globals.last_session == 0
        other._ring.close()


def test_more_sessions_than_there_is_room(made: Any) -> None:
    """Threads that are all inside: the ninth of eight is counted, and all others are whole."""
    run = made("-S", "-C", "bpf.sessions-size=8")
    here, go_on = threading.Barrier(11), threading.Event()

    def inside() -> None:
        run.call("entry")
        here.wait()
        go_on.wait()
        run.ret("entry", EINVAL)

    threads = [threading.Thread(target=inside) for _ in range(10)]
    for thread in threads:
        thread.start()
    here.wait()
    counts = run.counts()
    assert (counts.open, counts.started, counts.no_room) == (8, 8, 2)
    go_on.set()
    for thread in threads:
        thread.join()
    assert len(run.sessions()) == 8
    assert run.counts() == Counts(started=8, sent=8, no_room=2)


def test_many_threads_at_a_time(made: Any) -> None:
    """Each has its own session, in whichever bucket there is room."""
    run = made("-S", "-C", "bpf.sessions-size=64")
    here = threading.Barrier(40)

    def inside() -> None:
        for _ in range(5):
            run.call("entry", "a")
            here.wait()
            run.ret("a", EINVAL)
            run.ret("entry", ENOENT)

    threads = [threading.Thread(target=inside) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = run.sessions()
    assert len({s.end.tid for s in found}) == 40 and len(found) == 200
    names = ["entry", "a"]
    assert {tuple(chain_of(s.end, names)) for s in found} == {(("entry", -2), ("a", -22))}
    assert run.counts() == Counts(started=200, sent=200)


def test_an_error_further_down(made: Any) -> None:
    """-x and -X look at every function of the chain."""
    for option, shown in (("-x", True), ("-X", False)):
        run = made(option, "EINVAL")
        run.call("entry", "a")
        run.ret("a", EINVAL)
        run.ret("entry", ENOENT)
        assert bool(run.sessions()) is shown


def test_a_full_ring_is_told(made: Any) -> None:
    """What finds no room is counted as lost, and the sums still add up."""
    run = made("-C", "bpf.ringbuf-size=4096")
    for _ in range(100):
        run.call("entry")
        run.ret("entry", EINVAL)
    counts = run.counts()
    assert counts.started == 100 and counts.lost > 0
    assert counts.sent == len(run.sessions())


def test_trace(made: Any) -> None:
    """-T: every call and return, numbered without a gap."""
    run = made("-TE")
    run.call("entry", "a")
    run.ret("a", EINVAL)
    run.ret("entry", EINVAL)
    (session,) = run.sessions()
    assert [(type(e).__name__, e.seq, e.func, e.depth) for e in session.trace] == [
        ("Call", 0, 0, 0),
        ("Call", 1, 1, 1),
        ("Return", 2, 1, 1),
        ("Return", 3, 0, 0),
    ]


# -- whatever happens -------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from([CALL, CALL, RETURN, RETURN, RETURN, TASK_EXITS]),
        st.sampled_from(["entry", "a", "b:ptr", "c:void"]),
        st.sampled_from([0, 5, EINVAL, ENOENT]),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=20)
@given(STEPS)
def test_any_sequence(steps: list[tuple[int, str, int]]) -> None:
    """However calls and returns are lost: counts add up, and only one session is open at most."""
    run = opened("-S", "-I")
    try:
        for what, name, result in steps:
            run._step(what, name, result)
        counts = run.counts()
        assert counts.open <= 1 and counts.lost == counts.no_room == 0
        ends = [s for s in run.sessions() if not s.end.interim]
        assert len(ends) == counts.sent
        for session in ends:
            frames = session.end.frames
            assert frames[0].func == 0 and len(frames) <= 64
            assert session.end.unfinished or frames[0].done
    finally:
        run._ring.close()
        run.obj.close()
