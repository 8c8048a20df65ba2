"""Missed calls: each counter once, what is not told is unknown, and the last values stay."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from pybpf._sys.fd import Fd
from pybpf._uapi.enums import LinkType
from pybpf.errors import BpfError
from pybpf.kernel.host import Facts
from pybpf.links import Link
from pybpf.multi import missed
from pybpf.multi.missed import Losses, Missed, counts_kprobes
from tests.support.savedfacts import saved_facts

T = LinkType


@dataclass
class Kernel:
    """Programs with counters, by id; links that name them."""

    misses: dict[int, int] = field(default_factory=dict)
    denied: bool = False
    opened: list[Fd] = field(default_factory=list)

    def get_fd_by_id(self, kind: str, number: int) -> Fd:
        assert kind == "prog"
        if self.denied:
            raise BpfError(errno.EPERM, "BPF_PROG_GET_FD_BY_ID")
        self.opened.append(Fd(os.open(os.devnull, os.O_RDONLY), f"{number}"))
        return self.opened[-1]

    def prog_info(self, fd: Fd) -> SimpleNamespace:
        return SimpleNamespace(recursion_misses=self.misses[int(fd.what)])


class FakeLink(Link):
    def __init__(self, kind: LinkType, program: int, hits: int = 0) -> None:
        super().__init__(Fd(os.open(os.devnull, os.O_RDONLY), "link"), "link")
        self.said = SimpleNamespace(type=kind, prog_id=program, missed=hits)

    def info(self) -> SimpleNamespace:  # type: ignore[override]
        self.fileno()
        return self.said


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    made = Kernel()
    monkeypatch.setattr(missed.sys_bpf, "get_fd_by_id", made.get_fd_by_id)
    monkeypatch.setattr(missed.sys_info, "prog_info", made.prog_info)
    yield made
    assert all(fd.closed for fd in made.opened)


def test_clones_each_have_a_program(kernel: Kernel) -> None:
    kernel.misses = {1: 5, 2: 7}
    losses = Losses(lambda: False)
    with FakeLink(T.BPF_LINK_TYPE_TRACING, 1) as one, FakeLink(T.BPF_LINK_TYPE_TRACING, 2) as two:
        assert losses.now([one, two]) == Missed(programs=12)
        assert losses.of(two) == Missed(programs=7)


def test_a_shared_program_counts_once(kernel: Kernel) -> None:
    """Two links of a split batch: one program, two places where kprobes lose hits."""
    kernel.misses = {1: 5}
    kind = T.BPF_LINK_TYPE_KPROBE_MULTI
    with FakeLink(kind, 1, 3) as one, FakeLink(kind, 1, 4) as two:
        losses = Losses(lambda: True)
        assert losses.now([one, two]) == Missed(programs=5, hits=7)
        losses.close(one)
        kernel.misses[1] = 9  # still attached by the other
        assert losses.now([two]) == Missed(programs=9, hits=7)
        losses.close(two)
        assert losses.now([]) == Missed(programs=9, hits=7)


def test_a_kernel_that_does_not_count_kprobes_is_unknown(kernel: Kernel) -> None:
    """6.1 leaves the counters 0: that says nothing."""
    kernel.misses = {1: 0, 2: 3}
    kprobe = FakeLink(T.BPF_LINK_TYPE_PERF_EVENT, 1)
    clone = FakeLink(T.BPF_LINK_TYPE_TRACING, 2)
    losses = Losses(lambda: False)
    assert losses.now([kprobe, clone]) == Missed(programs=3, unknown_links=1)
    losses.close(kprobe)
    losses.close(clone)
    last = losses.now([])
    assert last == Missed(programs=3, unknown_links=1)
    assert not last.known and str(last) == "at least 3 (1 link not counted by this kernel)"


def test_closing_does_not_ask_whether_kprobes_are_counted(kernel: Kernel) -> None:
    """That needs the kernel's types: they are read if somebody wants the counts."""
    kernel.misses = {1: 2}
    asked: list[bool] = []
    losses = Losses(lambda: asked.append(True) or True)
    losses.close(FakeLink(T.BPF_LINK_TYPE_KPROBE_MULTI, 1, 4))
    assert asked == []
    assert losses.now([]) == losses.now([]) == Missed(programs=2, hits=4)
    assert asked == [True]


def test_what_may_not_be_seen_is_unknown(kernel: Kernel) -> None:
    """Without CAP_SYS_ADMIN programs cannot be opened by id; detaching works all the same."""
    kernel.denied = True
    link = FakeLink(T.BPF_LINK_TYPE_TRACING, 1)
    losses = Losses(lambda: True)
    assert losses.now([link]) == Missed(unknown_links=1)
    losses.close(link)
    assert link.closed and losses.now([]) == Missed(unknown_links=1)
    assert str(losses.now([])) == "unknown (1 link not counted by this kernel)"


def test_a_link_closed_by_somebody_else_is_unknown(kernel: Kernel) -> None:
    link = FakeLink(T.BPF_LINK_TYPE_TRACING, 1)
    link.close()
    losses = Losses(lambda: True)
    assert losses.now([link]) == Missed(unknown_links=1)
    losses.close(link)


def test_the_last_count_is_read_after_the_link_is_closed(kernel: Kernel) -> None:
    """Nothing is lost between reading and detaching: the program is kept open over it."""
    kernel.misses = {1: 5}

    class Busy(FakeLink):
        def close(self) -> None:
            kernel.misses[1] = 6
            super().close()

    losses = Losses(lambda: True)
    losses.close(Busy(T.BPF_LINK_TYPE_TRACING, 1))
    assert losses.now([]) == Missed(programs=6)


def test_sums_and_words() -> None:
    assert Missed(1, 2, 3, 0) + Missed(guard=4) == Missed(5, 2, 3, 0)
    assert Missed(1, 2, 3).count == 6 and str(Missed(1, 2, 3)) == "6"
    assert Missed().known and str(Missed()) == "0"


def test_the_kernels_types_say_whether_it_counts_kprobes() -> None:
    """6.12 has bpf_link_info.kprobe_multi.missed; no types, no yes."""
    assert counts_kprobes(Facts.from_json(saved_facts()).btf.vmlinux())
    assert not counts_kprobes(None)
