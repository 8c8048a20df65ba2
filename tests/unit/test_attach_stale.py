"""The attach engine while modules go and move: stale functions never keep a link."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pybpf import links
from pybpf._sys.info import LinkInfo
from pybpf.errors import BpfError, PlanError, UnsupportedFeature, VerifierError
from pybpf.links import tracing
from pybpf.multi import engine
from pybpf.multi.ground import ROUNDS
from pybpf.multi.link import MultiLink
from pybpf.multi.options import AttachOptions
from pybpf.multi.plan import PlanFacts
from pybpf.multi.planner import make_plan
from pybpf.multi.reasons import Reason, Skipped
from pybpf.multi.target import Target
from pybpf.multi.template import Template
from tests.unit import test_attach_engine
from tests.unit.test_attach_engine import ENTRY, K6_6, Kernel
from tests.unit.test_planner import K6_1, K6_12, K7_3, PROGRAMS, SESSION, model

kernel = test_attach_engine.kernel  # the fixture

INSIDE = [Target(f"f{n}", "", 0x1000 * (n + 1), n + 1, model(n % 3)) for n in range(2)]
OUTSIDE = [
    Target(f"f{n}", module, 0x1000 * (n + 1), n + 1, model(n % 3))
    for n, module in [(2, "red"), (3, "red"), (4, "blue")]
]
TARGETS = [*INSIDE, *OUTSIDE]
ALL = {t.name for t in TARGETS}

WAYS: list[tuple[str, Template, PlanFacts]] = [
    ("trampoline", ENTRY, K6_12),
    ("trampoline", SESSION, K6_1),  # a pair of programs each
    ("kprobe_multi", ENTRY, K6_12),
    ("kprobe_multi", SESSION, K6_6),  # a pair of links
    ("kprobe", ENTRY, K6_1),
]


class Modules:
    """Modules that can be unloaded and reloaded. Replaces `Ground`."""

    def __init__(self) -> None:
        self.now = {"red": 1, "blue": 1}
        self.known = dict(self.now)
        self.asked = 0
        self.at: dict[int, Callable[[], None]] = {}  # number of a question -> what happens first

    def lost(self, modules: Iterable[str]) -> set[str]:
        names = set(modules)
        assert names and "" not in names
        if self.asked in self.at:
            self.at[self.asked]()
        self.asked += 1
        return {m for m in names if self.now.get(m) != self.known.get(m)}

    def again(self, targets: Sequence[Target]) -> tuple[list[Target], list[Skipped]]:
        self.known = dict(self.now)
        found = [t for t in targets if t.module in self.now]
        gone = [t for t in targets if t.module not in self.now]
        return (
            # Where they are now tells how often their module was loaded.
            [replace(t, address=t.address % 0x10000 + 0x10000 * self.now[t.module]) for t in found],
            [Skipped(t.name, t.module, Reason.MODULE_GONE) for t in gone],
        )

    def unload(self, module: str) -> None:
        self.now.pop(module, None)

    def reload(self, module: str) -> None:
        self.now[module] = self.known.get(module, 1) + 1


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[Modules]:
    names = {t.address % 0x10000 + 0x10000 * n: t.name for t in TARGETS for n in range(20)}
    monkeypatch.setattr(test_attach_engine, "NAMES", names)
    yield Modules()


def run(
    kernel: Kernel, modules: Modules, way: tuple[str, Template, PlanFacts], **more: Any
) -> MultiLink:
    return attach(kernel, modules, way, TARGETS, **more)


def attach(
    kernel: Kernel,
    modules: Modules,
    way: tuple[str, Template, PlanFacts],
    targets: list[Target],
    **more: Any,
) -> MultiLink:
    mechanism, template, facts = way
    options = AttachOptions(mechanism=mechanism, **more)
    plan = make_plan(template, targets, facts, options)
    return engine.attach(kernel, template, plan, facts, options, ground=modules)


def names(link: MultiLink) -> set[str]:
    return {t.name for t in link.targets}


def wrong_links(link: MultiLink, modules: Modules) -> set[str]:
    """Targets that stay on what their module was before."""
    times = {t.name: (t.module, max(1, t.address // 0x10000)) for t in link.targets if t.module}
    return {name for name, (module, time) in times.items() if time != modules.now[module]}


def attached(kernel: Kernel, side: str) -> list[str]:
    return sorted(label.partition(" ")[0] for label in kernel.attached(side))


def sides(template: Template, facts: PlanFacts) -> tuple[str, ...]:
    return ("entry",) if template is ENTRY else ("entry", "exit")


class Watched:
    """An attach during which module red is unloaded or reloaded, before check `number`.

    :ivar kept: functions that had links, looked at, when it happened
    """

    def __init__(self, kernel: Kernel, number: int, change: str) -> None:
        self.kernel = kernel
        self.change = change
        self.modules = Modules()
        self.modules.at[number] = self.happens
        self.happened = False
        self.kept: set[str] = set()
        self.seen: list[tuple[int, int]] = []

    def happens(self) -> None:
        self.happened = True
        getattr(self.modules, self.change)("red")

    def progress(self, done: int, total: int) -> None:
        self.seen.append((done, total))
        if not self.happened:
            self.kept = {n for side in ("entry", "exit") for n in attached(self.kernel, side)}


@pytest.mark.parametrize("way", WAYS)
def test_a_module_that_went_after_planning(
    kernel: Kernel, modules: Modules, way: tuple[str, Template, PlanFacts]
) -> None:
    """Its functions are lines with their reason, whatever loading or linking would have said."""
    with run(kernel, modules, way, planned=lambda _: modules.unload("red")) as link:
        assert names(link) == {"f0", "f1", "f4"}
        assert {(s.name, s.reason) for s in link.skipped} == {
            ("f2", Reason.MODULE_GONE),
            ("f3", Reason.MODULE_GONE),
        }
        for side in sides(*way[1:]):
            assert attached(kernel, side) == ["f0", "f1", "f4"]
    assert kernel.left() == [] and kernel.leaked == []


@pytest.mark.parametrize("way", WAYS)
def test_at_any_moment(
    kernel: Kernel, modules: Modules, way: tuple[str, Template, PlanFacts]
) -> None:
    """If a module is unloaded or reloaded before any check, the result is right and all is
    closed."""
    with run(kernel, modules, way):
        looks = modules.asked
    assert looks >= 4
    for number in range(looks):
        for change in ("unload", "reload"):
            watched = Watched(kernel, number, change)
            fresh = watched.modules
            with run(kernel, fresh, way, progress=watched.progress) as link:
                _ = link.changed, link.groups, repr(link)
                said = f"look {number}, {change}: {link.skipped}"
                if "red" in fresh.now:
                    # What was attached before is the module's own affair: the link holds it.
                    assert wrong_links(link, fresh) <= watched.kept, said
                    assert names(link) == ALL, said
                for side in sides(*way[1:]):
                    assert set(attached(kernel, side)) == names(link), said
                    assert len(attached(kernel, side)) == len(names(link)), said
                assert names(link) | {s.name for s in link.skipped} == ALL, said
                assert watched.seen[-1][0] == watched.seen[-1][1]
            assert kernel.left() == [] and kernel.leaked == [], said


@pytest.mark.parametrize("way", WAYS)
def test_a_module_that_never_rests(
    kernel: Kernel, modules: Modules, way: tuple[str, Template, PlanFacts]
) -> None:
    """If it is reloaded before each check, the engine gives up after some rounds, with a reason."""

    class Restless(Modules):
        def lost(self, modules: Iterable[str]) -> set[str]:
            self.reload("red")
            return super().lost(modules)

    with run(kernel, Restless(), way) as link:
        assert names(link) == ALL - {"f2", "f3"}
        assert {s.name: s.reason for s in link.skipped} == {"f2": Reason.MOVED, "f3": Reason.MOVED}
    loads = [e for e in kernel.events if e.startswith("load")]
    assert len(loads) <= 2 * (ROUNDS + 1) * len(TARGETS)
    assert kernel.left() == [] and kernel.leaked == []


@pytest.mark.parametrize(
    "error",
    [
        UnsupportedFeature("BTF object of 'red'"),
        VerifierError(errno.ENOENT, "p", "The address of function f2 cannot be found"),
        BpfError(524, "BPF_PROG_LOAD"),
    ],
)
@pytest.mark.parametrize("way", WAYS[:2])
def test_what_loading_says_of_a_gone_module(
    kernel: Kernel, modules: Modules, way: tuple[str, Template, PlanFacts], error: BpfError
) -> None:
    """The kernel's many words for it are one reason; if nothing is left, a PlanError says it."""

    def refuse(what: str) -> OSError | None:
        if what in ("load 3", "load 4"):
            modules.unload("red")
            return error
        return None

    kernel.refuse = refuse
    with run(kernel, modules, way) as link:
        assert names(link) == {"f0", "f1", "f4"}
        assert {s.reason for s in link.skipped} == {Reason.MODULE_GONE}
    left = Modules()
    with pytest.raises(PlanError, match=r"nothing to attach to: .*no longer loaded") as caught:
        attach(kernel, left, way, OUTSIDE[:2], planned=lambda _: left.unload("red"))
    assert {s.reason for s in caught.value.skipped} == {Reason.MODULE_GONE}
    assert kernel.left() == []


def test_the_kernel_alone_costs_nothing(kernel: Kernel, modules: Modules) -> None:
    """Without a function of a module, nothing asks about modules."""
    for way in WAYS:
        with attach(kernel, modules, way, INSIDE) as link:
            assert len(link) == 2
    assert modules.asked == 0


class TestById:
    """tracing_multi links are made from ids: the kernel tells which functions it took."""

    @pytest.fixture
    def told(self, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
        addresses = {t.btf_id or 0: t.address + 4 for t in TARGETS}
        asked: list[list[int]] = []

        def create(program: int, attach_type: int, ids: list[int], *, cookies: object) -> Any:
            asked.append(ids)
            what = f"tracing entry of {','.join(f'f{i - 1}' for i in ids)}"
            kernel.happen(f"link {what}")
            return kernel.descriptor(what)

        def info(self: links.Link) -> LinkInfo:
            ids = sorted(addresses.keys() & set(asked[-1]))
            return LinkInfo(15, 1, 1, ids=ids, addrs=[addresses[i] for i in ids])

        monkeypatch.setattr(tracing.sys_link, "link_create_tracing_multi", create)
        monkeypatch.setattr(links.Link, "info", info)
        return addresses

    def test_right(self, kernel: Kernel, modules: Modules, told: dict[int, int]) -> None:
        with run(kernel, modules, ("tracing_multi", PROGRAMS[0], K7_3)) as link:
            assert names(link) == ALL and not link.skipped

    def test_hidden_addresses(self, kernel: Kernel, modules: Modules, told: dict[int, int]) -> None:
        """Without the right to see addresses they are 0: not known is not wrong."""
        told.update(dict.fromkeys(told, 0))
        with run(kernel, modules, ("tracing_multi", PROGRAMS[0], K7_3)) as link:
            assert names(link) == ALL

    def test_not_reported(self, kernel: Kernel, modules: Modules, told: dict[int, int]) -> None:
        """A function that the kernel does not report may be right."""
        del told[2]
        with run(kernel, modules, ("tracing_multi", PROGRAMS[0], K7_3)) as link:
            assert names(link) == ALL and not link.skipped

    def test_wrong(self, kernel: Kernel, modules: Modules, told: dict[int, int]) -> None:
        """Another function of that name: the link is made again without it."""
        told[2] = 0x9004
        with run(kernel, modules, ("tracing_multi", PROGRAMS[0], K7_3)) as link:
            assert names(link) == ALL - {"f1"}
            assert [(s.name, s.reason) for s in link.skipped] == [("f1", Reason.MOVED)]
            assert "0x9004" in str(link.skipped[0])
            assert attached(kernel, "entry") == sorted(ALL - {"f1"})
        assert kernel.left() == [] and kernel.leaked == []

    def test_ids_in_another_order(
        self, kernel: Kernel, modules: Modules, told: dict[int, int]
    ) -> None:
        """Functions come by address, the kernel reports them by id."""
        targets = [
            Target(f"f{n}", "", 0x1000 * (n + 1), btf_id, model(1))
            for n, btf_id in enumerate([3, 5, 1, 4, 2])
        ]
        told |= {t.btf_id or 0: t.address for t in targets}
        with attach(kernel, modules, ("tracing_multi", PROGRAMS[0], K7_3), targets) as link:
            assert names(link) == ALL and not link.skipped
        told[4] = 0x9000
        with attach(kernel, modules, ("tracing_multi", PROGRAMS[0], K7_3), targets) as link:
            assert names(link) == ALL - {"f3"}
            assert "took the one at 0x9000, it is at 0x4000" in str(link.skipped[0])
