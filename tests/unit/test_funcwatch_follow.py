"""funcwatch while functions come and go: what is attached, silenced, taken over and told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pybpf.errors import PlanError
from pybpf.features import Feature
from pybpf.multi.missed import Missed
from pybpf.multi.target import Target
from pybpf.tools.funcwatch import follow
from pybpf.tools.funcwatch.attach import Watcher
from pybpf.tools.funcwatch.follow import Change, Follower, Globs
from pybpf.tools.funcwatch.functions import Functions

_STRIDE = 8  # bytes of an element of `active`


class Link:
    """Stands for a MultiLink: one piece for all its functions, or one for each."""

    def __init__(self, targets: Sequence[Target], shared: bool, cookie: Callable[..., int]) -> None:
        self.targets = tuple(targets)
        self.shared = shared
        self.here = list(targets)
        self.cookies = {target.name: cookie(target) for target in targets}
        self.groups = [
            SimpleNamespace(mechanism=SimpleNamespace(value="kprobe_multi"), targets=self.targets)
        ]
        self.skipped: tuple[str, ...] = ()
        self.closing = 0
        self.missed = Missed(hits=1)
        self.closed = False

    @property
    def attached(self) -> bool:
        return bool(self.here)

    def close(self) -> None:
        self.closed = True

    def detach_only(self, targets: Iterable[Target]) -> tuple[Target, ...]:
        gone = set(targets)
        if not gone & set(self.here):
            return ()
        stay = [target for target in self.here if target not in gone]
        if self.shared and stay:
            return tuple(stay)
        self.here = stay
        return ()

    def detach(self, wait: bool) -> None:
        assert not wait
        self.here = []


class Kernel:
    """What a Watcher needs of an object, and what it made of it."""

    def __init__(self, room: int, shared: bool = True) -> None:
        self.active = bytearray(_STRIDE * room)
        self.links: list[Link] = []
        self.refuse: set[str] = set()
        self.asked: dict[str, Any] = {}
        self.features = {Feature.KPROBE_SESSION, Feature.KPROBE_MULTI}
        program = SimpleNamespace(attach_multi=self.attach)
        self.ends: list[str] = []  # tracepoints that tell which task's id is no longer its own
        forget = SimpleNamespace(attach_raw_tp=self.attach_end)
        self.obj: Any = SimpleNamespace(
            maps={"active": SimpleNamespace(memory=lambda: memoryview(self.active))},
            globals=SimpleNamespace(enabled=1),
            facts=SimpleNamespace(supports=self.features.__contains__),
            programs={
                "watch": program,
                "watch_pair": program,
                "forget": forget,
                "forget_former": forget,
            },
        )
        self.shared = shared

    def attach(self, wanted: Sequence[Target], *, cookies: Any, **asked: Any) -> Link:
        self.asked = asked
        good = [target for target in wanted if target.name not in self.refuse]
        if not good:
            raise PlanError("nothing to attach to")
        self.links.append(Link(good, self.shared, cookies))
        return self.links[-1]

    def attach_end(self, name: str) -> Any:
        self.ends.append(name)
        return SimpleNamespace(close=lambda: self.ends.remove(name))

    def counting(self) -> dict[str, int]:
        """How many programs count each function: those whose number is the active one."""
        found: dict[str, int] = {}
        for link in self.links:
            for target in link.here:
                cookie = link.cookies[target.name]
                at = (cookie & 0xFFFFFFFF) * _STRIDE
                counts = int.from_bytes(self.active[at : at + 4], "little") == cookie >> 40
                found[target.name] = found.get(target.name, 0) + counts
        return {name: count for name, count in found.items() if count}


TARGETS = [Target(f"f{n}", "mod" if n > 3 else "", 0x10 * n + 0x10) for n in range(6)]


def watcher(shared: bool = True) -> tuple[Kernel, Watcher]:
    kernel = Kernel(6, shared)
    made = Watcher(kernel.obj, Functions(TARGETS[:4]))
    made.attach(TARGETS[:4], "auto")
    return kernel, made


@pytest.mark.parametrize("shared", [True, False])
def test_letting_go(shared: bool) -> None:
    """The others are counted once each, before and after, by the links that are left."""
    kernel, made = watcher(shared)
    assert kernel.counting() == {"f0": 1, "f1": 1, "f2": 1, "f3": 1}
    made.let_go([1, 3])
    assert kernel.counting() == {"f0": 1, "f2": 1}
    assert [len(link.here) for link in kernel.links] == ([0, 2] if shared else [2])
    assert sorted(made.watched) == [0, 2] and made.attached == {0, 1, 2, 3}
    assert made.mechanisms() == {"kprobe_multi": 2}
    made.let_go([0, 2])
    assert kernel.counting() == {} and not any(link.here for link in kernel.links)


def test_letting_go_where_the_others_cannot_be_attached_anew() -> None:
    """They stay as they were; what was let go of is silent all the same."""
    kernel, made = watcher()
    kernel.refuse = {"f0", "f1", "f2"}
    made.let_go([3])
    assert kernel.counting() == {"f0": 1, "f1": 1, "f2": 1} and len(kernel.links) == 1
    kernel.refuse = {"f1"}  # one of them only: then the former link counts on for all
    made.let_go([2])
    assert kernel.counting().keys() >= {"f0", "f1"} and "f2" not in kernel.counting()


def follower(monkeypatch: pytest.MonkeyPatch, room: int = 6) -> tuple[Kernel, Follower, list[str]]:
    kernel, made = watcher()
    loaded: list[str] = []

    def select(facts: Any, allow: Any, deny: Any, at_exit: bool) -> Any:
        some = [t for t in TARGETS if not t.module or t.module in loaded]
        some = [t for t in some if t.name in allow or "*" in allow]
        return SimpleNamespace(candidates=[t for t in some if t.name not in deny])

    monkeypatch.setattr(follow, "select", select)
    facts: Any = SimpleNamespace(loaded=loaded)
    return kernel, Follower(made, facts, Globs(("*",)), "auto", room), loaded


def test_a_module_comes_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, made, loaded = follower(monkeypatch)
    assert made.follow(remove=False) == Change()
    loaded.append("mod")
    assert made.follow(remove=False) == Change(added=2)
    assert kernel.counting().keys() == {"f0", "f1", "f2", "f3", "f4", "f5"}
    loaded.clear()
    assert made.gone() == {"mod": [4, 5]}
    made.watcher.let_go([4, 5])
    assert made.gone() == {} and len(kernel.counting()) == 4
    loaded.append("mod")
    assert made.follow(remove=False) == Change(added=2), "its numbers are used again"


def test_what_is_gone_is_forgotten_but_not_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that comes and goes a thousand times leaves nothing behind."""
    kernel, made, loaded = follower(monkeypatch)
    for _ in range(1000):
        loaded.append("mod")
        assert made.follow(remove=False) == Change(added=2)
        loaded.clear()
        made.watcher.let_go(made.gone()["mod"])
    assert len(kernel.links) == 1001 and all(link.closed for link in kernel.links[1:])
    assert made.watcher.links == kernel.links[:1] and made.watcher.missed == Missed(hits=1001)


def test_no_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, made, loaded = follower(monkeypatch, room=5)
    loaded.append("mod")
    assert made.follow(remove=False) == Change(1, 0, 1, "no room for more than 5: start it again")
    assert len(kernel.counting()) == 5


def test_other_globs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stays is counted once, whichever link it is by; what was let go of stays so."""
    kernel, made, _ = follower(monkeypatch)
    made.globs = Globs(("f0", "f2", "f3"), ("f3",))
    assert made.follow(remove=True) == Change(removed=2)
    assert kernel.counting() == {"f0": 1, "f2": 1}
    made.globs = Globs(("*",))
    made.banned = {1}
    assert made.follow(remove=True) == Change(added=1)
    assert kernel.counting() == {"f0": 1, "f2": 1, "f3": 1}


def test_what_is_refused_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, made, loaded = follower(monkeypatch)
    loaded.append("mod")
    kernel.refuse = {"f4", "f5"}
    assert made.follow(remove=False) == Change(0, 0, 2, "nothing to attach to")


def test_a_link_each_is_the_cheapest_to_call() -> None:
    """Without kprobe.multi there is a link for each function in any case."""
    kernel, made = watcher()
    assert (kernel.asked["mechanism"], kernel.asked["prefer"]) == ("kprobe_multi", None)
    kernel.features.clear()
    made.attach(TARGETS[:1], "auto")
    assert (kernel.asked["mechanism"], kernel.asked["prefer"]) == ("auto", "overhead")
    made.attach(TARGETS[:1], "auto", rates={}, horizon=5)
    assert (kernel.asked["prefer"], kernel.asked["horizon"]) == (None, 5)
    made.attach(TARGETS[:1], "kprobe")
    assert (kernel.asked["mechanism"], kernel.asked["prefer"]) == ("kprobe", None)


def test_the_end() -> None:
    """Silenced first, then everything goes."""
    kernel, made = watcher()
    assert kernel.ends == [], "a session has its own place for the time of a call"
    for _ in range(2):
        made.attach(TARGETS[4:], "kprobe")
        assert kernel.ends == ["sched_process_exit", "sched_process_exec"]
    assert made.detach() == []
    assert kernel.obj.globals.enabled == 0 and kernel.counting() == {} and kernel.ends == []
