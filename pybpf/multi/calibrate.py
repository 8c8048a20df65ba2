"""Measure what attaching costs on the running kernel, for the planner's cost table.

Each mechanism attaches a program that returns 0 and detaches it again. Times
are wall clock, and the minimum of a few rounds if a round is cheap. Mechanisms with
one link for many functions are measured with one function and with many.
That separates the price of the link from the price of each function. A mechanism that the
kernel does not have is left out.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial

from .._sys import link as sys_link
from .._sys import perf as sys_perf
from .._sys import prog as sys_prog
from .._uapi.enums import AttachType, ProgType
from ..asm import insn as asm
from ..dataclass import dataclass
from ..errors import UnsupportedFeature
from ..features import Feature
from ..trampoline.model import Models
from .candidates import Candidate
from .select import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .._sys.fd import Fd
    from ..kernel.host import Facts

__all__ = ["Measured", "measure"]

#: Functions that only BPF_PROG_TEST_RUN calls.
TEST_FUNCTIONS = "bpf_fentry_test?"
#: Functions for a link of many functions: code that is not urgent.
CROWD = ("ext4_*", "tcp_*", "ip6_*", "sk_*", "security_*", "btrfs_*", "xfs_*", "nfs*")
_CROWD_SIZE = 200
_ROUNDS = 3

_RETURN_0 = asm.encode([asm.mov(0, 0), asm.exit_()])


@dataclass(frozen=True, slots=True)
class Measured:
    """Hold what one mechanism costs on one kernel. Times are in milliseconds.

    :param mechanism: ``trampoline``, ``tracing_multi``, ``kprobe_multi``, ``kprobe``
    :param functions: number of functions attached to
    :param load: verifying and compiling one program
    :param link: part of an attach that does not depend on the number of functions
    :param attach: per function
    :param detach: per function
    :param detach_link: part of a detach that does not depend on the number of functions
    """

    mechanism: str
    functions: int
    load: float
    link: float
    attach: float
    detach: float
    detach_link: float = 0.0


def measure(facts: Facts) -> tuple[Measured, ...]:
    """Measure every mechanism the kernel has. Takes some seconds, mostly for detaching.

    :raises BpfError: if something that the probes found possible fails
    :raises UnsupportedFeature: if the kernel has no functions to try it on
    """
    few = select(facts, [TEST_FUNCTIONS], need_btf=True).candidates
    models = Models(facts.btf.vmlinux())
    crowd = [
        c
        for c in select(facts, CROWD, at_exit=True).candidates
        if c.btf_id and not c.module and models.of_func(c.btf_id).obstacle is None
    ][:_CROWD_SIZE]
    if not few or len(crowd) < 2:
        raise UnsupportedFeature("functions to measure with", hint="ftrace lists too few")
    costs = []
    if facts.supports(Feature.FENTRY):
        costs.append(_trampoline(few))
    if facts.supports(Feature.TRACING_MULTI):
        costs.append(_tracing_multi(crowd))
    if facts.supports(Feature.KPROBE_MULTI):
        costs.append(_kprobe_multi(crowd))
    if facts.supports(Feature.KPROBE):
        costs.append(_kprobe(few))
    return tuple(costs)


def _load(kind: ProgType, attach: AttachType | int = 0, btf_id: int | None = 0) -> Fd:
    return sys_prog.prog_load(
        kind,
        _RETURN_0,
        name="pybpf_cost",
        expected_attach_type=attach,
        attach_btf_id=btf_id or 0,
    )


def _load_ms(load: Callable[[], Fd]) -> float:
    def one() -> float:
        start = time.perf_counter()
        fd = load()
        took = time.perf_counter() - start
        fd.close()
        return took

    return min(one() for _ in range(_ROUNDS)) * 1e3


def _up_and_down(attach: Iterable[Callable[[], Fd]]) -> tuple[float, float]:
    """Measure the milliseconds to make all links, and to close them."""
    with ExitStack() as stack:
        start = time.perf_counter()
        for one in attach:
            stack.enter_context(one())
        up = time.perf_counter() - start
        start = time.perf_counter()
        stack.close()
        return up * 1e3, (time.perf_counter() - start) * 1e3


def _each(mechanism: str, load: float, attach: Sequence[Callable[[], Fd]]) -> Measured:
    """Measure a mechanism with one link per function."""
    up, down = _up_and_down(attach)
    return Measured(mechanism, len(attach), load, 0.0, up / len(attach), down / len(attach))


def _together(
    mechanism: str,
    load: float,
    attach: Callable[[Sequence[Candidate]], Fd],
    crowd: Sequence[Candidate],
) -> Measured:
    """Measure a mechanism with one link for all functions: a straight line through two counts."""

    def best(count: int) -> tuple[float, float]:
        rounds = [_up_and_down([lambda: attach(crowd[:count])]) for _ in range(_ROUNDS)]
        return min(up for up, _ in rounds), min(down for _, down in rounds)

    (up_one, down_one), (up_all, down_all) = best(1), best(len(crowd))
    more = len(crowd) - 1
    per_up, per_down = max(up_all - up_one, 0.0) / more, max(down_all - down_one, 0.0) / more
    return Measured(
        mechanism,
        len(crowd),
        load,
        max(up_one - per_up, 0.0),
        per_up,
        per_down,
        max(down_one - per_down, 0.0),
    )


def _trampoline(few: Sequence[Candidate]) -> Measured:
    kind, attach = ProgType.BPF_PROG_TYPE_TRACING, AttachType.BPF_TRACE_FENTRY
    load = _load_ms(lambda: _load(kind, attach, few[0].btf_id))
    with ExitStack() as stack:
        programs = [stack.enter_context(_load(kind, attach, c.btf_id)) for c in few]
        links = [partial(sys_link.link_create_tracing, p, attach) for p in programs]
        return _each("trampoline", load, links)


def _tracing_multi(crowd: Sequence[Candidate]) -> Measured:
    kind, attach = ProgType.BPF_PROG_TYPE_TRACING, AttachType.BPF_TRACE_FENTRY_MULTI
    load = _load_ms(lambda: _load(kind, attach))
    with _load(kind, attach) as program:

        def link(targets: Sequence[Candidate]) -> Fd:
            ids = [c.btf_id for c in targets if c.btf_id]
            return sys_link.link_create_tracing_multi(program, attach, ids)

        return _together("tracing_multi", load, link, crowd)


def _kprobe_multi(crowd: Sequence[Candidate]) -> Measured:
    kind, attach = ProgType.BPF_PROG_TYPE_KPROBE, AttachType.BPF_TRACE_KPROBE_MULTI
    load = _load_ms(lambda: _load(kind, attach))
    with _load(kind, attach) as program:

        def link(targets: Sequence[Candidate]) -> Fd:
            return sys_link.link_create_kprobe_multi(program, addrs=[c.address for c in targets])

        return _together("kprobe_multi", load, link, crowd)


def _kprobe(few: Sequence[Candidate]) -> Measured:
    kind = ProgType.BPF_PROG_TYPE_KPROBE
    load = _load_ms(lambda: _load(kind))
    with _load(kind) as program:

        def open_one(candidate: Candidate) -> Fd:
            event = sys_perf.open_kprobe(candidate.name)
            try:
                sys_perf.set_bpf(event, program)
            except BaseException:
                event.close()
                raise
            return event

        return _each("kprobe", load, [partial(open_one, c) for c in few])
