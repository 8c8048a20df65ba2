"""Modules come, go and move between reading and attaching: no link is ever on another function.

Three modules are unloaded and loaded again in random order, so that each gets addresses that
another had before. The kernel's own list of traced functions (enabled_functions of tracefs, which
names what is at each address now) tells where the links are, and so do the links' infos, compared
with a symbol table that is read afterwards. The seed is printed; PYBPF_SEED=N chooses one,
PYBPF_SEED=random a new one each time.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import pybpf
from pybpf import PlanError
from pybpf._uapi.enums import LinkType
from pybpf.features import Feature
from pybpf.kernel import btf as kernel_btf
from pybpf.kernel import kallsyms
from pybpf.kernel.ftrace import tracefs
from pybpf.multi import engine, select
from pybpf.multi.link import MultiLink
from pybpf.multi.reasons import Reason
from tests.support.mechanisms import MECHANISMS, NEEDS, supported
from tests.support.require import probes

OBJECT = Path(__file__).resolve().parents[1] / "data/multi.bpf.o"
MODULES = ("dummy", "loop", "veth")
BTF = kernel_btf.KernelBtf()
#: A function of each that all rows have.
FUNCTIONS = ("dummy:dummy_validate", "loop:lo_release", "veth:veth_get_strings")
#: How often modules are reordered: a few times in `make test`, 20 times in `make e2e`.
ROUNDS = [3, pytest.param(20, marks=pytest.mark.long)]
#: The plan's choice is one of the others, so `make test` leaves it out.
WAYS = [*MECHANISMS, pytest.param("auto", marks=pytest.mark.long)]

pytestmark = [pytest.mark.icount, pytest.mark.first_on("latest")]


def seeded() -> random.Random:
    asked = os.environ.get("PYBPF_SEED", "16")
    seed = random.SystemRandom().randrange(1 << 32) if asked == "random" else int(asked)
    print(f"PYBPF_SEED={seed}")
    return random.Random(seed)


def load(*modules: str) -> None:
    for module in modules:
        subprocess.run(["modprobe", module], check=True, capture_output=True, text=True)


def unload(*modules: str) -> bool:
    """Unload them; False if something holds one (a program does for a while after its end)."""
    for module in modules:
        if not Path(f"/sys/module/{module}").exists():
            continue
        for _ in range(200):
            done = subprocess.run(["rmmod", module], check=False, capture_output=True, text=True)
            if done.returncode == 0:
                break
            time.sleep(0.05)
        else:
            return False
    return True


def reorder(rng: random.Random) -> None:
    """All modules once more, in another order."""
    assert unload(*rng.sample(MODULES, len(MODULES)))
    load(*rng.sample(MODULES, len(MODULES)))


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    load(*MODULES)
    yield
    unload(*MODULES)


@pytest.fixture(scope="module")
def facts() -> pybpf.Facts:
    return pybpf.Facts()


@pytest.fixture
def obj(facts: pybpf.Facts) -> Iterator[pybpf.Object]:
    with pybpf.open(OBJECT, facts=facts) as opened:
        yield opened


def mechanisms() -> list[str]:
    return ["auto", *supported()]


def traced() -> set[str]:
    """Labels of the functions that the kernel traces now, by what is at their addresses."""
    text = Path(tracefs(), "enabled_functions").read_text()
    return {line.partition(" (")[0] for line in text.splitlines() if not line.startswith("\t")}


def places(link: pybpf.Link, table: kallsyms.Kallsyms) -> list[tuple[str, str]]:
    """(function, module) that a link's own info names, where the kernel tells."""
    info = link.info()
    match info.type:
        case LinkType.BPF_LINK_TYPE_TRACING:
            ids, owner = [info.target_btf_id], info.target_obj_id
        case LinkType.BPF_LINK_TYPE_TRACING_MULTI:
            ids, owner = list(info.ids), info.btf_obj_id
        case _:
            ids, owner = [], 0
    if ids:
        # Of the modules that are loaded at this moment, not of any that was.
        names = {o.id: o.name for o in kernel_btf.objects() if o.kernel}
        btf = BTF.module(names[owner])
        return [(btf.name(number), names[owner]) for number in ids]
    addresses = list(info.addrs) or ([info.addr] if info.addr else [])
    out = []
    for address in addresses:
        found = table.lookup(address)
        assert found is not None and found[1] in (0, 4)  # endbr64
        out.append((found[0].name, found[0].module))
    return out


tables: list[kallsyms.Kallsyms] = []  # the last one that `check` read


def check(before: set[str], link: MultiLink, said: str, *, moved: bool = True) -> None:
    """Every link is on its targets, and the kernel traces nothing else.

    :param moved: modules moved since the last time
    """
    assert traced() - before == {t.label for t in link.targets}, said
    if moved:
        tables[:] = [kallsyms.read(before=tables[0] if tables else None)]
    told = [place for made in link.links for place in places(made, tables[0])]
    if told:  # 6.1 tells nothing of a kprobe
        assert set(told) == {(t.name, t.module) for t in link.targets}, said
    for target in link.targets:
        here = [s.addr for s in tables[0].by_name(target.name) if s.module == target.module]
        assert target.address in here, said


def attach(obj: pybpf.Object, asked: Any, way: str, **more: Any) -> MultiLink:
    return obj.programs["on_entry"].attach_multi(asked, mechanism=way, **more)


@pytest.mark.time_limit(3600)
@pytest.mark.parametrize("rounds", ROUNDS)
def test_modules_are_reordered_between_attaches(obj: pybpf.Object, rounds: int) -> None:
    """One object attaches and detaches again and again; modules move in between."""
    rng = seeded()
    where: dict[str, set[int]] = {}
    before = traced()
    for number in range(rounds):
        for way in mechanisms():
            with attach(obj, rng.sample(FUNCTIONS, len(FUNCTIONS)), way) as link:
                said = f"round {number}, {way}: {link} {link.skipped}"
                assert len(link.targets) == len(FUNCTIONS) and not link.skipped, said
                check(before, link, said, moved=way == "auto")
                for target in link.targets:
                    where.setdefault(target.label, set()).add(target.address)
        assert traced() == before, said
        reorder(rng)
    moved = [len(addresses) > 1 for addresses in where.values()]
    assert all(moved) if rounds >= 20 else any(moved), "no module moved at all"


def mess(rng: random.Random, present: Sequence[str] = MODULES) -> Callable[[object], None]:
    """What happens between plan and attach: some modules go, the others move."""

    def between(_: object) -> None:
        assert unload(*rng.sample(MODULES, len(MODULES)))
        load(*rng.sample(present, len(present)))

    return between


@pytest.mark.time_limit(3600)
@pytest.mark.parametrize("rounds", ROUNDS)
def test_modules_vanish_and_appear_between_plan_and_attach(obj: pybpf.Object, rounds: int) -> None:
    """Existing functions are attached to where they are now. The others are skipped with a
    reason."""
    rng = seeded()
    for number in range(rounds // 2):
        for way in mechanisms():
            present = rng.sample(MODULES, rng.randint(1, len(MODULES)))
            there = [f for f in FUNCTIONS if f.partition(":")[0] in present]
            before = traced()
            with attach(obj, FUNCTIONS, way, planned=mess(rng, present)) as link:
                said = f"round {number}, {way}, {present} stay: {link} {link.skipped}"
                check(before, link, said)
                assert {f"{t.module}:{t.name}" for t in link.targets} == set(there), said
                gone = {f"{s.module}:{s.name}": s for s in link.skipped}
                assert set(gone) == set(FUNCTIONS) - set(there), said
                assert {s.reason for s in gone.values()} <= {Reason.MODULE_GONE}, said
                assert all("no longer loaded" in str(s) for s in gone.values()), said
            assert traced() == before, said
            load(*MODULES)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left(obj: pybpf.Object, way: str) -> None:
    """If every module was unloaded, there is one PlanError that says so, not a verifier error."""
    with pytest.raises(PlanError, match="its module is no longer loaded"):
        attach(obj, FUNCTIONS, way, planned=lambda _: unload(*MODULES))
    load(*MODULES)
    with attach(obj, FUNCTIONS, way) as link:
        assert len(link) == len(FUNCTIONS)


def test_a_module_that_is_loaded_later_is_found(obj: pybpf.Object) -> None:
    """Not loaded when the facts were read; loaded when its function is asked for."""
    assert unload("veth")
    with attach(obj, FUNCTIONS, "auto") as link:
        assert [s.module or s.name for s in link.skipped] in (["veth"], [FUNCTIONS[2]])
    load("veth")
    before = traced()
    with attach(obj, FUNCTIONS, "auto") as link:
        check(before, link, "loaded later")
        assert len(link) == len(FUNCTIONS)


@pytest.mark.parametrize("way", WAYS)
def test_targets_and_candidates_of_another_moment(obj: pybpf.Object, way: str) -> None:
    """Values that a caller kept are looked up again, with the cookies that were given for them."""
    rng = seeded()
    candidates = list(select.select(obj.facts.current(), FUNCTIONS).candidates)
    plan = pybpf.trampoline.plan(obj.programs["on_entry"], FUNCTIONS, obj.facts)
    for kept in (candidates, list(plan.targets)):
        reorder(rng)
        before = traced()
        with attach(obj, kept, way, cookies=[1, 2, 3]) as link:
            check(before, link, way)
            assert len(link) == len(FUNCTIONS)
            assert not link.skipped


@pytest.mark.parametrize("way", WAYS)
def test_a_plan_of_another_moment(obj: pybpf.Object, way: str) -> None:
    """While nothing changes, a plan is carried out as it is, else it is made again."""
    rng, program = seeded(), obj.programs["on_entry"]
    plan = pybpf.trampoline.plan(program, FUNCTIONS, obj.facts, way)
    for moved in (False, True, True):
        if moved:
            reorder(rng)
        before = traced()
        with program.attach_multi(plan, cookies=[1, 2, 3]) as link:
            check(before, link, way)
            assert len(link) == len(FUNCTIONS) and not link.skipped
            assert (link.plan is plan) is not moved


@pytest.mark.parametrize("call", ["attach_kprobe_multi", "attach_kprobe", "attach_tracing"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_modules_move_in_the_last_moment(
    obj: pybpf.Object, monkeypatch: pytest.MonkeyPatch, call: str, when: str
) -> None:
    """Right before or after the kernel is asked for a link: the link is closed, made again."""
    way = {"attach_kprobe_multi": "kprobe_multi", "attach_kprobe": "kprobe"}.get(call, "trampoline")
    if not probes().supports(NEEDS[way]):
        way, call = "kprobe", "attach_kprobe"
    rng = seeded()
    real = getattr(engine.links, call)
    moved: list[bool] = []

    def slow(*args: Any, **more: Any) -> pybpf.Link:
        def move() -> None:
            # A link or a program may hold the module: then it cannot move, which is as well.
            for module in rng.sample(MODULES, len(MODULES)):
                subprocess.run(["rmmod", module], check=False, capture_output=True)
            load(*rng.sample(MODULES, len(MODULES)))

        first = not moved
        moved.append(True)
        if first and when == "before":
            move()
        link: pybpf.Link = real(*args, **more)
        if first and when == "after":
            move()
        return link

    before = traced()
    monkeypatch.setattr(engine.links, call, slow)
    with attach(obj, FUNCTIONS, way) as link:
        said = f"{way}: {link} {link.skipped}"
        check(before, link, said)
        assert len(link) + len(link.skipped) == len(FUNCTIONS), said
        assert not link.skipped, said
    assert traced() == before


@pytest.mark.needs(Feature.FENTRY)
def test_a_program_that_was_loaded_for_a_module_that_moved() -> None:
    """On 6.1 a loaded program does not hold the module: attaching it later is one clear error."""
    with pybpf.open(OBJECT.with_name("core_lines.bpf.o")) as obj:
        program = obj.programs["on_fentry"]
        program.attach_to = "dummy:dummy_validate"
        program.load()
        before = traced()
        gone = subprocess.run(["rmmod", "dummy"], check=False, capture_output=True).returncode == 0
        if not gone:  # 6.12 and later: the module stays for as long as the program does
            with program.attach():
                assert traced() - before == {"dummy_validate [dummy]"}
            return
        for again in ((), ("dummy",)):
            load(*again)
            with pytest.raises(pybpf.BpfError, match=r"module 'dummy'.*reloaded after"):
                program.attach()
            assert traced() == before


@pytest.mark.needs(Feature.KPROBE_MULTI)
def test_a_section_with_a_glob(obj: pybpf.Object) -> None:
    """kprobe.multi/GLOB on a module's functions: looked up when attached, and once more."""
    rng = seeded()
    with pybpf.open(OBJECT.with_name("attach_kinds.bpf.o"), facts=obj.facts) as kinds:
        program = kinds.programs["on_multi"]
        program.attach_to = "dummy_v*"
        program.load()
        for _ in range(3):
            before = traced()
            with program.attach() as link:
                assert traced() - before == {"dummy_validate [dummy]"}
                assert isinstance(link, pybpf.Link)
                table = kallsyms.read()
                assert places(link, table) == [("dummy_validate", "dummy")]
            reorder(rng)
