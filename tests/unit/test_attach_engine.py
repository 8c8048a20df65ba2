"""The attach engine without a kernel: progress, roll-back, and Ctrl-C at every line."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from pybpf import links
from pybpf._sys import closer
from pybpf._sys import fd as fd_module
from pybpf._sys.fd import Fd
from pybpf._sys.interrupts import held
from pybpf.asm import insn as asm
from pybpf.asm import opcodes as op
from pybpf.asm.edit import Code
from pybpf.errors import BpfError, PlanError, VerifierError
from pybpf.features import Feature, FeatureSet
from pybpf.multi import engine
from pybpf.multi import link as multi_link
from pybpf.multi.cost import Cost
from pybpf.multi.guard import guarded
from pybpf.multi.link import MultiLink
from pybpf.multi.options import AttachOptions
from pybpf.multi.plan import PlanFacts
from pybpf.multi.planner import make_plan
from pybpf.multi.reasons import Reason
from pybpf.multi.target import Target
from pybpf.multi.template import Template
from pybpf.multi.variant import Lowering
from tests.unit.test_planner import BASE, K6_1, K6_12, K7_3, PROGRAMS, SESSION, model, template

TARGETS = [Target(f"f{n}", "", 0x1000 * (n + 1), n + 1, model(n % 3)) for n in range(5)]
NAMES = {t.address: t.name for t in TARGETS}
ENTRY = PROGRAMS[1]
# Reads a slot and calls what may be traced: its clones share a recursion guard.
GUARDED = template(asm.load(op.DW, 2, 1, 0), asm.call(5), asm.mov(0, 0))


class Guard:
    """Stands for the maps of a recursion guard."""

    def __init__(self, fd: Fd) -> None:
        self.fd = fd
        self.misses = 7

    def close(self) -> None:
        self.fd.close()


class Kernel:
    """Loads and links anything; counts what is open; can refuse, or be interrupted."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.open: list[Fd] = []
        self.closed: list[str] = []
        self.leaked: list[str] = []
        self.loaded: list[tuple[Code, Guard | None]] = []
        self.at: dict[int, Callable[[], None]] = {}  # number of an event -> what happens
        self.refuse: Callable[[str], OSError | None] = lambda what: None

    def happen(self, what: str) -> None:
        number = len(self.events)
        self.events.append(what)
        if number in self.at:
            self.at[number]()
        error = self.refuse(what)
        if error is not None:
            raise error

    def descriptor(self, what: str) -> Fd:
        return Fd(os.open(os.devnull, os.O_RDONLY), what)

    def trace(self, fd: Fd, what: str) -> None:
        if what == "open":
            self.open.append(fd)
            return
        self.open = [one for one in self.open if one is not fd]
        (self.leaked if what == "leaked" else self.closed).append(fd.what)

    # -- what the engine asks for

    def load_variant(self, template: Template, code: Code, **about: Any) -> Fd:
        self.happen(f"load {about['btf_id']}")
        self.loaded.append((code, about["guard"]))
        return self.descriptor("program")

    def make_guard(self) -> Guard:
        self.happen("guard")
        return Guard(self.descriptor("guard"))

    def tracing(self, program: Fd, attach_type: int, *, cookie: int, what: str) -> links.Link:
        self.happen(f"link {what}")
        return links.Link(self.descriptor(what), what)

    def multi(
        self, program: Fd, *, addrs: list[int], retprobe: bool, session: bool, **about: Any
    ) -> links.Link:
        side = "exit" if retprobe else "session" if session else "entry"
        what = f"multi {side} of {','.join(NAMES[a] for a in addrs)}"
        self.happen(f"link {what}")
        return links.Link(self.descriptor(what), what)

    def kprobe(
        self, program: Fd, name: str, *, address: int, retprobe: bool, **about: Any
    ) -> links.Link:
        what = f"kprobe {'exit' if retprobe else 'entry'} of {NAMES[address]}"
        self.happen(f"link {what}")
        return links.Link(self.descriptor(what), what)

    # -- what came of it

    def left(self) -> list[str]:
        return [fd.what for fd in self.open]

    def attached(self, side: str) -> list[str]:
        """Functions that have a program at this side, one as often as it has."""
        found: list[str] = []
        for what in self.left():
            before, _, names = what.partition(" of ")
            if before.split()[-1] == side:
                found += names.split(",")
        return sorted(found)

    def links_closed(self) -> list[str]:
        return [what for what in self.closed if what not in ("program", "guard")]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    made = Kernel()
    monkeypatch.setattr(engine.links, "attach_tracing", made.tracing)
    monkeypatch.setattr(engine.links, "attach_kprobe_multi", made.multi)
    monkeypatch.setattr(engine.links, "attach_kprobe", made.kprobe)
    former = fd_module.set_tracer(made.trace)
    yield made
    fd_module.set_tracer(former)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


# kprobe.multi of 5.18 to 6.9: a session is an entry and an exit link.
K6_6 = PlanFacts.of(FeatureSet(BASE | {Feature.KPROBE_MULTI}))
PAIRS = [("trampoline", K6_1), ("kprobe_multi", K6_6), ("kprobe", K6_1)]

WAYS: list[tuple[str, Template, PlanFacts]] = [
    ("trampoline", ENTRY, K6_12),
    ("trampoline", SESSION, K6_1),  # a pair of programs each
    ("kprobe_multi", ENTRY, K6_12),
    ("kprobe", ENTRY, K6_1),
    ("kprobe_multi", SESSION, K6_6),
    ("trampoline", GUARDED, K6_12),
]


def attach(
    kernel: Kernel, template: Template, targets: list[Target], facts: PlanFacts, **how: Any
) -> MultiLink:
    """Plan and attach, without an object and a resolver."""
    options = AttachOptions(**how)
    plan = make_plan(template, targets, facts, options)
    return engine.attach(kernel, template, plan, facts, options)


def run(kernel: Kernel, way: tuple[str, Template, PlanFacts], **more: Any) -> MultiLink:
    mechanism, template, facts = way
    return attach(kernel, template, TARGETS, facts, mechanism=mechanism, **more)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_attached_is_what_was_planned(
    kernel: Kernel, way: tuple[str, Template, PlanFacts]
) -> None:
    """The link's groups are the plan's, unless something had to be done otherwise."""
    seen: list[object] = []
    with run(kernel, way, planned=seen.append) as link:
        assert seen == [link.plan]
        assert link.groups == link.plan.groups and link.groups
        assert link.changed == () and link.skipped == ()
    assert link.groups == link.plan.groups and link.changed == ()  # readable afterwards


@pytest.mark.parametrize("way", WAYS)
def test_what_was_attached_stays_readable(
    kernel: Kernel, way: tuple[str, Template, PlanFacts]
) -> None:
    """A report printed after detach() says what there was; .attached tells that it is gone."""
    link = run(kernel, way)
    before = (link.targets, link.groups, link.skipped, len(link))
    assert link.attached and link and link.links and before[3] == len(TARGETS)
    assert f"{len(TARGETS)} functions by " in repr(link)
    link.detach()
    assert (link.targets, link.groups, link.skipped, len(link)) == before
    assert not link.attached and not link and link.links == ()
    assert f"{len(TARGETS)} functions detached" in repr(link)
    link.detach()
    link.close()
    assert kernel.left() == [] and kernel.leaked == []


def test_what_the_verifier_made_of_the_plan(kernel: Kernel) -> None:
    """f1 takes scalars only and f2 a frame: the link says so, the plan stays as it was.

    All with arguments were to share an image, so from f1 on scalars are tried first.
    """
    wrong = VerifierError(errno.EACCES, "p", "0: ...\nR1 bad\n", "R1 bad")
    ids = {f"load {TARGETS[1].btf_id}": 1, f"load {TARGETS[2].btf_id}": 1}
    loads: list[str] = []

    def refuse(what: str) -> OSError | None:
        if what not in ids:
            return None
        loads.append(what)
        return wrong if loads.count(what) <= ids[what] else None

    kernel.refuse = refuse
    with run(kernel, WAYS[0]) as link:
        ways = {t.name: g.parts[0].variant for g in link.groups for t in g.targets}
        assert [(n, ways[n].lowering, ways[n].scalars) for n in ("f0", "f1", "f2")] == [
            ("f0", Lowering.DIRECT, False),
            ("f1", Lowering.DIRECT, True),
            ("f2", Lowering.FRAME, False),
        ]
        assert sorted(str(c) for c in link.changed) == [
            "f1: planned trampoline direct, is trampoline direct with scalars",
            "f2: planned trampoline direct, is trampoline frame",
            "f4: planned trampoline direct, is trampoline direct with scalars",
        ]
        assert len(link.targets) == 5 and link.skipped == ()
        assert {g.lowering for g in link.plan.groups} == {Lowering.DIRECT}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_left_is_an_error_with_every_reason(
    kernel: Kernel, way: tuple[str, Template, PlanFacts]
) -> None:
    """What is not the program's fault: a PlanError that has the functions and the reasons."""
    kernel.refuse = lambda what: BpfError(errno.EINVAL, what) if what.startswith("link") else None
    with pytest.raises(PlanError, match=r"nothing to attach to: f\d.*EINVAL, and 4 more") as caught:
        run(kernel, way)
    assert [(s.name, s.reason) for s in sorted(caught.value.skipped, key=lambda s: s.name)] == [
        (f"f{n}", Reason.KERNEL_REFUSED) for n in range(5)
    ]
    assert kernel.left() == [] and kernel.leaked == []


@pytest.mark.parametrize("way", WAYS)
def test_progress(kernel: Kernel, way: tuple[str, Template, PlanFacts]) -> None:
    """(done, total) rises to the total, attaching and detaching; one total throughout."""
    up: list[tuple[int, int]] = []
    down: list[tuple[int, int]] = []
    link = run(kernel, way, progress=lambda *at: up.append(at))
    link.detach(progress=lambda *at: down.append(at))
    programs = sum(len(g.parts) * len(g.targets) for g in link.plan.groups)
    for seen in (up, down):
        assert [done for done, _ in seen] == sorted({done for done, _ in seen})
        assert {total for _, total in seen} == {programs}
        assert seen[-1] == (programs, programs)
    assert len(up) == len(down) == len(kernel.links_closed())
    assert kernel.left() == [] and kernel.leaked == []


def test_progress_counts_the_refused(kernel: Kernel) -> None:
    """A function the kernel refuses is done with too, and has a reason."""
    kernel.refuse = lambda what: BpfError(errno.EINVAL, what) if "f2" in what else None
    seen: list[tuple[int, int]] = []
    with run(kernel, WAYS[2], progress=lambda *at: seen.append(at)) as link:
        assert {t.name for t in link.targets} == {"f0", "f1", "f3", "f4"}
        assert [(s.name, s.reason) for s in link.skipped] == [("f2", Reason.KERNEL_REFUSED)]
    assert seen[-1] == (5, 5)
    assert kernel.left() == []


@pytest.mark.parametrize("way", WAYS)
def test_a_failure_undoes_everything_in_reverse(
    kernel: Kernel, way: tuple[str, Template, PlanFacts]
) -> None:
    """The last link fails for a reason that no other function could escape: nothing stays."""
    with run(kernel, way):
        links_made = [e for e in kernel.events if e.startswith("link")]
    kernel.events.clear()
    kernel.closed.clear()
    last = links_made[-1]
    kernel.refuse = lambda what: MemoryError("no memory") if what == last else None  # type: ignore[assignment,return-value]
    with pytest.raises(MemoryError):
        run(kernel, way)
    assert kernel.left() == [] and kernel.leaked == []
    assert len(kernel.links_closed()) == len(links_made) - 1
    if way[0] == "trampoline":
        order = [f"link {what}" for what in kernel.links_closed()]
        assert order == links_made[-2::-1]


def test_a_callback_that_raises_undoes_everything(kernel: Kernel) -> None:
    def bad(done: int, total: int) -> None:
        if done == 3:
            raise RuntimeError("tired")

    with pytest.raises(RuntimeError, match="tired"):
        run(kernel, WAYS[0], progress=bad)
    assert kernel.left() == [] and len(kernel.links_closed()) == 3


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupt_at_any_system_call(
    kernel: Kernel, way: tuple[str, Template, PlanFacts]
) -> None:
    """Ctrl-C while the kernel loads or links: noticed after that call, everything undone."""
    run(kernel, way).detach()
    for number in range(len(kernel.events)):
        kernel.events.clear()
        kernel.at = {number: interrupt}
        with pytest.raises(KeyboardInterrupt):
            run(kernel, way)
        # A clone's load and link are one step.
        assert len(kernel.events) <= number + 2, "it went on after the interrupt"
        assert kernel.left() == [] and kernel.leaked == []


class _EveryLine:
    # Sends SIGINT before the n-th line that runs in the engine or its link.
    FILES = frozenset({engine.__file__, multi_link.__file__})

    def __init__(self, number: int) -> None:
        self.left = number
        self.sent = False

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in self.FILES:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.sent = True
                sys.settrace(None)
                interrupt()
        return self


def interrupted_at_line(number: int, what: Callable[[], object]) -> bool:
    """True if there was such a line."""
    tracer = _EveryLine(number)
    former = sys.gettrace()
    sys.settrace(tracer)
    try:
        what()
    except KeyboardInterrupt:
        assert tracer.sent
    finally:
        sys.settrace(former)
    return tracer.sent


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupt_at_any_line(kernel: Kernel, way: tuple[str, Template, PlanFacts]) -> None:
    """Wherever attaching is interrupted: attached whole, or nothing left and nothing lost."""
    mechanism, template, facts = way

    def attached() -> None:
        result.append(attach(kernel, template, TARGETS[:2], facts, mechanism=mechanism))

    number = 1
    while True:
        result: list[MultiLink] = []
        sent = interrupted_at_line(number, attached)
        if result:
            assert not sent
            result[0].detach()
        assert kernel.left() == [] and kernel.leaked == [], f"line {number}"
        if not sent:
            break
        number += 1
    assert number > 50


@pytest.mark.parametrize("way", WAYS[1:3])
def test_an_interrupt_while_a_failure_is_undone(
    kernel: Kernel, way: tuple[str, Template, PlanFacts]
) -> None:
    """Ctrl-C at any line of an attach that fails: either error, but nothing left."""
    mechanism, template, facts = way
    if mechanism == "trampoline":
        kernel.refuse = lambda what: MemoryError() if what.startswith("link entry of f1") else None  # type: ignore[assignment,return-value]
    else:
        kernel.refuse = lambda what: MemoryError() if what.startswith("link") else None  # type: ignore[assignment,return-value]

    def attached() -> None:
        try:
            attach(kernel, template, TARGETS[:3], facts, mechanism=mechanism)
        except MemoryError:
            failed.append(True)

    number = 1
    while True:
        failed: list[bool] = []
        sent = interrupted_at_line(number, attached)
        assert kernel.left() == [] and kernel.leaked == [], f"line {number}"
        if not sent:
            break
        number += 1
    assert failed and number > 50


@pytest.mark.parametrize("way", WAYS)
def test_detaching_can_be_interrupted_and_continued(
    kernel: Kernel, way: tuple[str, Template, PlanFacts]
) -> None:
    """At any line: what is left is known, a second call finishes, each link closed once."""
    number = 1
    while True:
        kernel.closed.clear()
        link = run(kernel, way)
        made = [one.fd.what for one in link.links]
        sent = interrupted_at_line(number, link.detach)
        open_now = [one.fd.what for one in link.links if not one.closed]
        linked = [what for what in kernel.left() if what != "guard"]
        assert len(open_now) == len(link.links) == len(linked)
        link.detach()
        assert kernel.left() == [] and kernel.leaked == []
        assert kernel.links_closed() == made[::-1]
        if not sent:
            break
        number += 1
    assert number > 5


def test_a_second_interrupt_does_not_stop_the_undoing(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An impatient user: everything is undone all the same."""
    close = links.Link.close

    def impatient(self: links.Link) -> None:
        interrupt()
        close(self)

    monkeypatch.setattr(links.Link, "close", impatient)
    kernel.at = {7: interrupt}  # while the fourth function is linked
    with pytest.raises(KeyboardInterrupt):
        run(kernel, WAYS[0])
    assert kernel.left() == [] and kernel.leaked == []
    assert len(kernel.links_closed()) == 4


def test_refused_by_the_verifier_everywhere_is_the_programs_fault(kernel: Kernel) -> None:
    """Not "nothing to attach to": the verifier's own words, with the log."""

    def refuse(what: str) -> OSError | None:
        if not what.startswith("load"):
            return None
        return VerifierError(errno.EACCES, "p", "0: ...\nR1 bad\n", "R1 bad")

    kernel.refuse = refuse
    with pytest.raises(VerifierError, match="R1 bad"):
        run(kernel, WAYS[0])
    only_one = TARGETS[2].btf_id
    kernel.refuse = lambda what: refuse(what) if what == f"load {only_one}" else None
    with run(kernel, WAYS[0]) as link:
        assert [s.name for s in link.skipped] == ["f2"]
        assert len(link.targets) == 4


def test_too_large_for_the_verifier_is_no_full_trampoline(kernel: Kernel) -> None:
    """Its E2BIG is about the program: its log is given, nothing spills."""
    log = "BPF program is too large. Processed 1000001 insn"
    kernel.refuse = lambda what: (
        VerifierError(errno.E2BIG, "p", f"...\n{log}\n", log) if what.startswith("load") else None
    )
    with pytest.raises(VerifierError, match="too large"):
        run(kernel, WAYS[0])
    with pytest.raises(VerifierError, match="too large"):
        attach(kernel, ENTRY, TARGETS, K6_12, prefer="overhead")
    only_one = TARGETS[2].btf_id
    before = kernel.refuse
    kernel.refuse = lambda what: before(what) if what == f"load {only_one}" else None
    with run(kernel, WAYS[0]) as link:
        assert [(s.name, s.reason) for s in link.skipped] == [("f2", Reason.KERNEL_REFUSED)]
        assert "too large" in link.skipped[0].detail and link.spilled == ()


def test_full_trampolines_spill_with_progress(kernel: Kernel) -> None:
    """E2BIG of one function: planned again, counted again, nothing lost."""
    kernel.refuse = lambda what: (
        BpfError(errno.E2BIG, what) if what.startswith("link entry of f1") else None
    )
    seen: list[tuple[int, int]] = []
    with attach(
        kernel,
        ENTRY,
        TARGETS,
        replace(K6_12),
        prefer="overhead",
        progress=lambda *a: seen.append(a),
    ) as link:
        assert [t.name for t in link.spilled] == ["f1"]
        assert len(link.targets) == 5
    assert seen[-1] == (6, 6)
    assert kernel.left() == []
    assert K7_3.max_programs == 36


def test_a_full_trampoline_of_a_pair_spills_whole(kernel: Kernel) -> None:
    """E2BIG at the entry, the exit linked already: by kprobes both sides run, and run once."""
    kernel.refuse = lambda what: BpfError(errno.E2BIG, what) if what == "link entry of f2" else None
    with attach(kernel, SESSION, TARGETS, K6_1, prefer="overhead") as link:
        assert [t.name for t in link.spilled] == ["f2"]
        assert "kprobe exit of f2" in kernel.left()
        everyone = sorted(NAMES.values())
        assert kernel.attached("entry") == kernel.attached("exit") == everyone
        assert sorted(t.name for t in link.targets) == everyone
    assert kernel.left() == []


def test_a_function_that_no_mechanism_took_did_not_spill(kernel: Kernel) -> None:
    """Its trampoline is full and its kprobe refused: skipped, and only that."""
    kernel.refuse = lambda what: (
        BpfError(errno.E2BIG if "kprobe" not in what else errno.EINVAL, what)
        if "entry of f2" in what
        else None
    )
    with attach(kernel, SESSION, TARGETS, K6_1, prefer="overhead") as link:
        assert link.spilled == ()
        assert [(s.name, s.reason) for s in link.skipped] == [("f2", Reason.KERNEL_REFUSED)]
        assert "f2" not in {t.name for t in link.targets}
        assert "f2" not in kernel.attached("exit")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.E2BIG])
@pytest.mark.parametrize(("mechanism", "facts"), PAIRS)
@pytest.mark.parametrize("side", ["entry", "exit"])
def test_a_function_refused_at_one_side_has_nothing_at_the_other(
    kernel: Kernel, side: str, mechanism: str, facts: PlanFacts, code: int
) -> None:
    """Skipped and no target; the others have both sides, and no entry is ever without its exit."""

    def refuse(what: str) -> OSError | None:
        assert set(kernel.attached("entry")) <= set(kernel.attached("exit"))
        wrong = what.startswith("link") and f"{side} of" in what
        return BpfError(code, what) if wrong and ("f2" in what or "f4" in what) else None

    kernel.refuse = refuse
    seen: list[tuple[int, int]] = []
    with attach(
        kernel, SESSION, TARGETS, facts, mechanism=mechanism, progress=lambda *a: seen.append(a)
    ) as link:
        rest = ["f0", "f1", "f3"]
        assert kernel.attached("entry") == kernel.attached("exit") == rest
        assert sorted(t.name for t in link.targets) == rest
        assert sorted(s.name for s in link.skipped) == ["f2", "f4"]
    assert seen[-1][0] == seen[-1][1]
    assert kernel.left() == [] and kernel.leaked == []


def test_an_interrupt_while_a_refused_half_is_dropped(kernel: Kernel) -> None:
    """At any line: attached whole, or nothing left."""

    def refuse(what: str) -> OSError | None:
        return BpfError(errno.EINVAL, what) if "entry of" in what and "f1" in what else None

    kernel.refuse = refuse
    for mechanism, facts in PAIRS:
        number = 1
        while True:
            result: list[MultiLink] = []

            def attached(
                mechanism: str = mechanism,
                facts: PlanFacts = facts,
                result: list[MultiLink] = result,
            ) -> None:
                result.append(attach(kernel, SESSION, TARGETS[:2], facts, mechanism=mechanism))

            sent = interrupted_at_line(number, attached)
            if result:
                assert not sent
                assert kernel.attached("entry") == kernel.attached("exit") == ["f0"]
                result[0].detach()
            assert kernel.left() == [] and kernel.leaked == [], f"line {number}"
            if not sent:
                break
            number += 1
        assert number > 50


def test_held_gives_the_interrupt_to_who_waits(kernel: Kernel) -> None:
    """Nested; with a handler of the caller's own; ignored stays ignored."""
    seen: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    with held():
        with held():
            interrupt()
        assert seen == []
    assert seen == [signal.SIGINT]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with held():
        interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert len(seen) == 1


def test_held_in_another_thread_holds_nothing() -> None:
    """Only the main thread runs handlers."""
    from concurrent.futures import ThreadPoolExecutor

    def enter() -> object:
        with held():
            return signal.getsignal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(enter).result() is before


@pytest.mark.parametrize("attach_s", [4.0, 6.0])
def test_what_takes_long_is_said_beforehand(
    kernel: Kernel,
    caplog: pytest.LogCaptureFixture,
    attach_s: float,
) -> None:
    """Unless somebody asked for the plan or the progress, who can say it himself."""
    mechanism, template, facts = WAYS[0]
    options = AttachOptions(mechanism=mechanism)
    made = make_plan(template, TARGETS, facts, options)
    slow = replace(made, cost=Cost(attach_s, attach_s + 1.5, 0))
    link = engine.attach(kernel, template, slow, facts, options)
    wanted = ["p: attaching to 5 functions will take about 6 s"]
    assert caplog.messages == wanted * (attach_s > 5)
    caplog.clear()
    link.detach()
    seconds = round(attach_s + 1.5)
    assert caplog.messages == [f"p: detaching from 5 functions will take about {seconds} s"]
    caplog.clear()
    asked = replace(options, planned=lambda made: None)
    engine.attach(kernel, template, slow, facts, asked).detach(progress=lambda done, total: None)
    assert caplog.messages == []


class _Closer:
    # Stands for the process that links are left to.
    def __init__(self, kernel: Kernel, descriptors: list[int]) -> None:
        self.pid = 4711
        self.kernel = kernel
        self.descriptors = list(descriptors)
        self.left: list[str] | None = None

    def __enter__(self) -> _Closer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.left = self.kernel.left()


@pytest.mark.parametrize("way", WAYS)
def test_detaching_is_left_to_another_process(
    kernel: Kernel,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    way: tuple[str, Template, PlanFacts],
) -> None:
    """It gets every link, and is told to close them when ours are closed. Nobody is warned."""
    closers: list[_Closer] = []

    def make(descriptors: list[int]) -> _Closer:
        closers.append(_Closer(kernel, descriptors))
        return closers[-1]

    monkeypatch.setattr(closer, "Closer", make)
    link = run(kernel, way)
    link.plan = replace(link.plan, cost=Cost(0, 0.5, 0))
    numbers = [one.fileno() for one in link.links]
    link.detach(wait=False)
    assert closers == [] and link.closing == 0 and kernel.left() == []  # quick enough

    link = run(kernel, way)
    link.plan = replace(link.plan, cost=Cost(0, 60, 0))
    numbers = [one.fileno() for one in link.links]
    link.detach(wait=False)
    assert [one.descriptors for one in closers] == [numbers] and closers[0].left == []
    assert link.closing == 4711 and not link.attached and len(link.targets) == len(TARGETS)
    link.detach(wait=False)
    assert len(closers) == 1 and caplog.messages == [] and kernel.leaked == []


def test_without_another_process_it_waits(
    kernel: Kernel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptors: list[int]) -> _Closer:
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(closer, "Closer", refuse)
    link = run(kernel, WAYS[0])
    link.plan = replace(link.plan, cost=Cost(0, 60, 0))
    link.detach(wait=False)
    assert not link.attached and link.closing == 0 and kernel.left() == []
    assert "no more processes" in caplog.messages[0] and "about 60 s" in caplog.messages[1]


@pytest.mark.parametrize("way", WAYS)
def test_detaching_from_some(kernel: Kernel, way: tuple[str, Template, PlanFacts]) -> None:
    """What has a link of its own goes; what shares one goes with all who share it."""
    link = run(kernel, way)
    before = kernel.left()
    stay = link.detach_only(TARGETS[1:3])
    own = {t.name for t in stay}
    assert own <= {"f0", "f3", "f4"} and len(link.targets) == 5
    if not own:
        gone = {what for what in before if what.endswith((" of f1", " of f2"))}
        assert kernel.left() == [what for what in before if what not in gone] and gone
    else:
        assert {n for what in kernel.left() for n in what.split(" of ")[-1].split(",")} >= own
    assert link.detach_only([*TARGETS[1:3], *stay]) == ()
    left = {n for what in kernel.left() for n in what.split(" of ")[-1].split(",")} - {"guard"}
    assert left == {"f0", "f3", "f4"} - own
    link.detach()
    assert kernel.left() == [] and kernel.leaked == [] and not link.attached


NOT_SLEEPABLE = VerifierError(
    errno.EINVAL, "p", "f is not sleepable\nprocessed 0 insns\n", "f is not sleepable"
)
SLEEPS = replace(ENTRY, sleepable=True)


def test_functions_that_take_no_sleepable_program_are_skipped(kernel: Kernel) -> None:
    """That is not the program's fault: one load a function, a reason each, and the rest runs."""
    kernel.refuse = lambda what: NOT_SLEEPABLE if what in ("load 2", "load 4") else None
    with attach(kernel, SLEEPS, TARGETS, K6_1) as link:
        assert sorted(t.name for t in link.targets) == ["f0", "f2", "f4"]
        assert {s.name: s.reason for s in link.skipped} == dict.fromkeys(
            ("f1", "f3"), Reason.NOT_SLEEPABLE
        )
    assert len(kernel.events) == 5 + 3


def test_nothing_left_that_takes_a_sleepable_program(kernel: Kernel) -> None:
    """A PlanError with all the reasons, never the verifier's word of one function."""
    kernel.refuse = lambda what: NOT_SLEEPABLE if what.startswith("load") else None
    with pytest.raises(PlanError, match="does not let sleepable programs run") as caught:
        attach(kernel, SLEEPS, TARGETS, K6_1)
    assert {s.reason for s in caught.value.skipped} == {Reason.NOT_SLEEPABLE}
    assert len(caught.value.skipped) == 5
    wrong = VerifierError(errno.EACCES, "p", "0: ...\nR1 bad\n", "R1 bad")

    def both(what: str) -> OSError | None:
        return NOT_SLEEPABLE if what == "load 1" else wrong if what.startswith("load") else None

    kernel.refuse = both
    with pytest.raises(PlanError, match="and 4 more") as caught:
        attach(kernel, SLEEPS, TARGETS, K6_1)
    assert caught.value.__cause__ is wrong
    assert kernel.left() == [] and kernel.leaked == []


def test_a_link_of_many_does_not_say_who_cannot_sleep(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For EINVAL of a function that was not known to be sleepable, the hint says what it may be."""

    def tracing_multi(
        program: Fd, attach_type: int, ids: list[int], *, cookies: object, what: str
    ) -> links.Link:
        if 2 in ids:
            raise BpfError(errno.EINVAL, "BPF_LINK_CREATE")
        return links.Link(kernel.descriptor(what), what)

    monkeypatch.setattr(engine.links, "attach_tracing_multi", tracing_multi)
    with attach(kernel, SLEEPS, TARGETS, K7_3) as link:
        assert len(link.targets) == 4
        (skipped,) = link.skipped
        assert (skipped.name, skipped.reason) == ("f1", Reason.KERNEL_REFUSED)
        assert "perhaps the kernel does not let sleepable programs run" in skipped.hint


def masks(code: Code) -> int:
    """How many guards are around it."""
    (mask,) = [i for i in guarded(Code((asm.exit_(),))).insns if i.off == -1 and i.dst == 0]
    return code.insns.count(mask)


def test_clones_get_one_guard(kernel: Kernel) -> None:
    """Made once, before any program; every clone is loaded with it; gone with the last link."""
    with run(kernel, ("trampoline", GUARDED, K6_12)) as link:
        assert kernel.events[0] == "guard" and kernel.events.count("guard") == 1
        assert len({id(guard) for _, guard in kernel.loaded}) == 1
        assert all(masks(code) == 1 for code, _ in kernel.loaded)
        assert link.missed.guard == 7
    assert kernel.left() == []
    assert link.missed.guard == 7  # the last value stays
    kernel.loaded.clear()
    with run(kernel, ("trampoline", ENTRY, K6_12)):
        assert all(guard is None and masks(code) == 0 for code, guard in kernel.loaded)


def test_other_forms_of_a_clone_are_guarded_too(kernel: Kernel) -> None:
    """What is loaded when the verifier refuses the first form."""
    tries: list[str] = []

    def refuse(what: str) -> OSError | None:
        if what == f"load {TARGETS[1].btf_id}":
            tries.append(what)
            if len(tries) < 3:
                return VerifierError(errno.EACCES, "p", "no")
        return None

    seen: list[int] = []
    real = kernel.load_variant

    def load_variant(template: Template, code: Code, **about: Any) -> Fd:
        seen.append(masks(code))
        return real(template, code, **about)

    kernel.refuse = refuse
    kernel.load_variant = load_variant  # type: ignore[method-assign]
    with run(kernel, ("trampoline", GUARDED, K6_12)) as link:
        assert len(link.targets) == len(TARGETS)
    assert len(seen) == len(TARGETS) + 2 and set(seen) == {1}


def test_what_spills_shares_the_guard(kernel: Kernel) -> None:
    """The one function that becomes a kprobe is loaded with the guard of the clones."""
    kernel.refuse = lambda what: (
        BpfError(errno.E2BIG, what) if what.startswith("link entry of f1") else None
    )
    with attach(kernel, GUARDED, TARGETS, K6_12, prefer="overhead") as link:
        assert [t.name for t in link.spilled] == ["f1"]
        assert kernel.events.count("guard") == 1
        assert len({id(guard) for _, guard in kernel.loaded}) == 1
        assert [masks(code) for code, _ in kernel.loaded] == [1] * (len(TARGETS) + 1)


def test_a_failed_attach_gives_the_guard_up(kernel: Kernel) -> None:
    kernel.refuse = lambda what: MemoryError() if what == "link entry of f3" else None  # type: ignore[assignment,return-value]
    with pytest.raises(MemoryError):
        run(kernel, ("trampoline", GUARDED, K6_12))
    assert kernel.left() == [] and "guard" in kernel.closed
