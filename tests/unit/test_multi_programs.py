"""Multi programs of an object, without a kernel: planning them, and what may be asked."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pybpf
from pybpf import binding
from pybpf._sys.fd import Fd
from pybpf._uapi import structs
from pybpf._uapi.enums import Cmd
from pybpf.btf import Btf
from pybpf.btf.types import Func, Linkage
from pybpf.errors import BpfError, DeniedByPolicy, PlanError
from pybpf.kernel.host import Facts
from pybpf.multi import programs as multi
from pybpf.multi.plan import Plan
from pybpf.multi.reasons import Reason
from pybpf.multi.target import Target
from pybpf.trampoline import links as trampoline_links
from pybpf.trampoline.model import Model, Return
from tests.support.fakes import FakeKernel
from tests.support.savedfacts import saved_facts

MULTI = Path(__file__).parents[1] / "data" / "multi.bpf.o"


@pytest.fixture(scope="module")
def facts() -> Facts:
    return Facts.from_json(saved_facts())


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """BTF that was given to the kernel; no maps are made."""
    given: list[bytes] = []

    def btf_load(blob: bytes, *, token_fd: int = 0) -> Fd:
        given.append(blob)
        return Fd(os.open(os.devnull, os.O_RDONLY), "BTF")

    monkeypatch.setattr(binding.sys_bpf, "btf_load", btf_load)
    monkeypatch.setattr(binding.Binding, "_create_maps", lambda self: None)
    return given


def framed(obj: pybpf.Object, facts: Facts) -> Plan:
    return pybpf.trampoline.plan(
        obj.programs["on_exit"], "vfs_*", facts, "trampoline", lowering="frame"
    )


def test_images_are_the_same_before_and_after_the_maps_are_made(
    facts: Facts, blobs: list[bytes]
) -> None:
    """A frame's body is a static function of the loaded BTF, whenever it was planned."""
    with pybpf.open(MULTI, facts=facts) as early, pybpf.open(MULTI, facts=facts) as late:
        before = framed(early, facts)
        early.prepare()
        late.prepare()
        assert before == framed(early, facts) == framed(late, facts)
    assert blobs[0] == blobs[1]
    loaded = Btf(blobs[0])
    for group in before.groups:
        code = group.parts[0].variant.code
        main, body = (loaded.type(type_id) for _, type_id in code.func_info)
        assert isinstance(main, Func) and isinstance(body, Func)
        assert main.name == body.name == "on_exit"
        assert (main.linkage, body.linkage) == (Linkage.GLOBAL, Linkage.STATIC)


class Attached(Exception):
    """Stands for the engine's work: what it was given, cookies by function."""

    def __init__(self, plan: Plan, cookies: dict[str, int | None], cookie: Any = None) -> None:
        self.plan = plan
        self.cookie = cookie
        self.cookies = cookies


@pytest.fixture
def program(
    facts: Facts, blobs: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterable[pybpf.Program]:
    def run(
        source: object, template: object, plan: Plan, facts: object, options: object, *rest: Any
    ) -> None:
        cookie, ground, *_ = rest
        assert ground is None, "saved facts are of no moment"
        seen = {t.label: cookie(t) if cookie else None for t in plan.targets}
        raise Attached(plan, seen, cookie)

    monkeypatch.setattr(multi, "run", run)
    monkeypatch.setattr(trampoline_links.sys_bpf, "ids", lambda kind: iter(()))
    with pybpf.open(MULTI, facts=facts) as obj:
        yield obj.programs["on_entry"]


def given(program: pybpf.Program, asked: Any, cookies: Any) -> dict[str, int | None]:
    with pytest.raises(Attached) as caught:
        program.attach_multi(asked, cookies=cookies)
    return caught.value.cookies


TWO = Model(2, Return.INT, 4, True, 2)
READ = Target("vfs_read", "", 0x4000, 4, TWO)
WRITE = Target("vfs_read", "fuse", 0x5000, 5, TWO)
STATIC = [Target("p_start", "", 0x1000, 1, TWO), Target("p_start", "", 0x2000, 2, TWO)]


@pytest.mark.parametrize(
    ("asked", "cookies", "wanted"),
    [
        (["vfs_read", "vfs_fsync"], [3, 4], {"vfs_read": 3, "vfs_fsync": 4}),
        (["vfs_fsync", "vfs_read"], (4, 3), {"vfs_read": 3, "vfs_fsync": 4}),
        (["vmlinux:vfs_read", "vfs_fsync [vmlinux]"], [3, 4], {"vfs_read": 3, "vfs_fsync": 4}),
        ([READ, WRITE], [3, 4], {"vfs_read": 3, "vfs_read [fuse]": 4}),
        ([WRITE, "vfs_read"], [4, 3], {"vfs_read": 3, "vfs_read [fuse]": 4}),
        (["vfs_read", "vfs_fsync"], {"vmlinux:vfs_read": 3}, {"vfs_read": 3, "vfs_fsync": 0}),
        ("vfs_fsync", 7, {"vfs_fsync": 7}),
        ("vfs_fsync", lambda target: target.address & 0, {"vfs_fsync": 0}),
        ("vfs_fsync", None, {"vfs_fsync": None}),
    ],
)
def test_each_function_gets_its_own_cookie(
    program: pybpf.Program, asked: Any, cookies: Any, wanted: dict[str, int | None]
) -> None:
    """However it was named: with its module, as a target, in any order."""
    assert given(program, asked, cookies) == wanted


def test_cookies_of_functions_of_one_name(
    program: pybpf.Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Targets that differ only in their address keep their own."""
    seen: list[int] = []

    def run(
        source: object, template: object, plan: Plan, facts: object, options: object, *rest: Any
    ) -> None:
        cookie, ground, *_ = rest
        assert ground is None, "saved facts are of no moment"
        seen.extend(cookie(t) for t in plan.targets)
        raise Attached(plan, {})

    monkeypatch.setattr(multi, "run", run)
    given(program, STATIC, [3, 4])
    assert seen == [3, 4]


def named(facts: Facts) -> list[int]:
    return [s.addr for s in facts.kallsyms.by_name("version_show") if s.is_function]


@pytest.fixture
def counts(program: pybpf.Program, facts: Facts) -> Iterable[pybpf.Program]:
    """A program that reads nothing of the function: it can run where BTF tells nothing."""
    with pybpf.open(MULTI.with_name("multi_names.bpf.o"), facts=facts) as obj:
        yield obj.programs["by_cookie"]


def test_functions_of_one_name_share_a_cookie_and_people_are_told(
    counts: pybpf.Program, facts: Facts, caplog: pytest.LogCaptureFixture
) -> None:
    """By name, in a sequence or a mapping: a warning with the functions and the way out."""
    at = named(facts)
    assert len(at) == 3
    for cookies in ([3, 4], {"version_show": 3, "vfs_fsync": 4}):
        caplog.clear()
        with pytest.raises(Attached) as caught:
            counts.attach_multi(["version_show", "vfs_fsync"], cookies=cookies)
        assert [t.address for t in caught.value.plan.targets if t.name == "version_show"] == at
        (said,) = caplog.messages
        assert said == (
            "program 'by_cookie': functions with the same name share a cookie: 3 by "
            + " and ".join(f"version_show at {address:#x}" for address in at)
            + " (a Target or NAME@ADDRESS tells them apart)"
        )


def test_an_address_tells_functions_of_one_name_apart(
    counts: pybpf.Program, facts: Facts, caplog: pytest.LogCaptureFixture
) -> None:
    """NAME@ADDRESS for the functions, for the cookies, or both; and targets."""
    at = named(facts)
    names = [f"version_show@{address:#x}" for address in at]
    targets, _ = multi.Resolver(facts, live=False).resolve(names, at_exit=False)
    asks: list[tuple[Any, Any]] = [
        (names, [5, 6, 7]),
        ("version_show", dict(zip(names, [5, 6, 7], strict=True))),
        (["version_show"], dict(zip(targets, [5, 6, 7], strict=True))),
        (targets, [5, 6, 7]),
    ]
    for asked, cookies in asks:
        seen: dict[int, int] = {}
        with pytest.raises(Attached) as caught:
            counts.attach_multi(asked, cookies=cookies)
        cookie = caught.value.cookie
        seen = {t.address: cookie(t) for t in caught.value.plan.targets}
        assert seen == dict(zip(at, [5, 6, 7], strict=True))
    assert given(counts, names[1], 8) == {"version_show": 8}
    assert given(counts, names[1:2], [8]) == {"version_show": 8}
    assert caplog.messages == []
    with pytest.raises(PlanError, match="not at 0x1234"):
        counts.attach_multi("version_show@0x1234")


@pytest.mark.parametrize(
    ("asked", "cookies", "words"),
    [
        (["vfs_r*"], [1], r"'vfs_r\*' is a glob"),
        (["vfs_read", "f*:vfs_read"], [1, 2], r"'f\*:vfs_read' is a glob"),
        (["vfs_read"], {"vfs_?": 1}, r"'vfs_\?' is a glob"),
        (["vfs_read"], [1, 2], "as many functions"),
        ("vfs_read", [1], "as many functions"),
        (["vfs_read", "vfs_read"], [1, 2], "'vfs_read' is named twice"),
    ],
)
def test_cookies_that_are_nobodys(
    program: pybpf.Program, asked: Any, cookies: Any, words: str
) -> None:
    """Never a silent 0: the error says what is wrong with them."""
    with pytest.raises(PlanError, match=words):
        program.attach_multi(asked, cookies=cookies)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ([5], "5 is none"),
        (["vfs_read", None], "None is none"),
        ([b"vfs_read"], "b'vfs_read' is none"),
        (b"vfs_read", "not by b'vfs_read'"),
        (5, "not by 5"),
        (READ, r"not by Target\(name='vfs_read'"),
    ],
)
def test_what_names_no_function_is_a_type_error(
    program: pybpf.Program, facts: Facts, asked: Any, words: str
) -> None:
    """Attached to or planned: the error shows the item, nothing is dropped silently."""
    with pytest.raises(TypeError, match=words):
        program.attach_multi(asked)
    with pytest.raises(TypeError, match=words):
        pybpf.trampoline.plan(program, asked, facts)


def test_there_is_one_plan(program: pybpf.Program, facts: Facts) -> None:
    """What attach_multi carries out is what `pybpf.trampoline.plan` answers, skipped included."""
    asked = ["vfs_read", "do_exit", "no_such_fn", "__rcu_read_lock"]
    options = {"mechanism": "trampoline", "lowering": "direct"}
    with pytest.raises(Attached) as caught:
        program.attach_multi(asked, **options)  # type: ignore[arg-type]
    plan = pybpf.trampoline.plan(program, asked, facts, **options)  # type: ignore[arg-type]
    assert caught.value.plan == plan
    assert {s.name: s.reason for s in plan.skipped} == {
        "no_such_fn": Reason.NOT_FOUND,
        "__rcu_read_lock": Reason.DENIED,
    }


def test_a_plan_is_carried_out_as_it_is(program: pybpf.Program, facts: Facts) -> None:
    """Nothing is looked up or planned again, and cookies may be given as for its functions."""
    asked = ["vfs_read", "vfs_fsync", "no_such_fn"]
    plan = pybpf.trampoline.plan(program, asked, facts, "kprobe_multi")
    by_name = {t.name: at for at, t in enumerate(plan.targets, 3)}
    for cookies in ([3, 4], by_name, lambda target: by_name[target.name]):
        with pytest.raises(Attached) as caught:
            program.attach_multi(plan, cookies=cookies)  # type: ignore[arg-type]
        assert caught.value.plan is plan
        assert caught.value.cookies == by_name


def test_a_plan_of_another_moment_is_made_again(program: pybpf.Program) -> None:
    """As it was asked for: by the same mechanism, with all that was skipped."""
    older = Facts.from_json(saved_facts())
    plan = pybpf.trampoline.plan(program, ["vfs_read", "no_such_fn"], older, "kprobe_multi")
    with pytest.raises(Attached) as caught:
        program.attach_multi(plan)
    assert caught.value.plan == plan
    assert caught.value.plan is not plan
    assert [group.mechanism.value for group in plan.groups] == ["kprobe_multi"]
    assert [s.name for s in plan.skipped] == ["no_such_fn"]


def test_plans_that_are_not_for_this(program: pybpf.Program, facts: Facts) -> None:
    """Another program's, one that does not say how it was made, and contradicting options."""
    with pybpf.open(MULTI, facts=facts) as obj:
        other = pybpf.trampoline.plan(obj.programs["on_exit"], "vfs_read", facts)
    with pytest.raises(
        PlanError, match=r"'on_entry': the plan is for program 'on_exit' \(fexit\)$"
    ):
        program.attach_multi(other)
    plan = pybpf.trampoline.plan(program, "vfs_read", facts)
    with pytest.raises(PlanError, match=r"does not say how it was made; make it by .*\.targets"):
        program.attach_multi(replace(plan, origin=None))
    with pytest.raises(PlanError, match="a plan says how to attach; leave out mechanism"):
        program.attach_multi(plan, mechanism="kprobe")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mechanism": "magic"}, "one of auto, tracing_multi"),
        ({"prefer": "speed"}, "must be 'overhead'"),
        ({"lowering": "regs"}, "one of auto, direct, frame"),
    ],
)
def test_options_are_checked_first(
    program: pybpf.Program, options: dict[str, Any], words: str
) -> None:
    """Whatever else is wrong: here there is no function to attach to either."""
    with pytest.raises(PlanError, match=words):
        program.attach_multi([], **options)


def test_no_functions_at_all(program: pybpf.Program) -> None:
    """An empty list is the caller's, a section without a glob the program's."""
    with pytest.raises(PlanError, match="program 'on_entry': no function was named"):
        program.attach_multi([])
    program.attach_to = ""
    with pytest.raises(PlanError, match=r"section 'fentry.multi/.*' names no functions"):
        program.attach_multi()


def test_who_is_attached_already_may_be_secret(
    program: pybpf.Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without CAP_SYS_ADMIN trampolines count as empty; a full one is found out when linking."""

    def ids(kind: str) -> None:
        raise DeniedByPolicy(errno.EPERM, f"ids of {kind}s")

    monkeypatch.setattr(trampoline_links.sys_bpf, "ids", ids)
    assert given(program, "vfs_fsync", None) == {"vfs_fsync": None}


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOENT, errno.EINVAL, errno.EMFILE])
def test_counting_what_is_attached_is_only_a_hint(
    program: pybpf.Program, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Links that others make or close, or that cannot be read at all, end no attach."""
    fake = FakeKernel(monkeypatch)
    fake.attrs[Cmd.BPF_LINK_GET_FD_BY_ID] = structs.GetId
    fake.on[Cmd.BPF_LINK_GET_FD_BY_ID] = lambda attr: -number
    monkeypatch.setattr(trampoline_links.sys_bpf, "ids", lambda kind: iter((3, 4)))
    assert given(program, "vfs_fsync", None) == {"vfs_fsync": None}


def test_targets_without_address_are_looked_up(facts: Facts, blobs: list[bytes]) -> None:
    """By address alone two names of one function are told: 7.3 crashes if a link has both."""
    read = facts.kallsyms.by_name("vfs_read")[0].addr
    with pybpf.open(MULTI, facts=facts) as obj:
        resolver = multi.Resolver(facts, live=False)
        unknown = [Target("vfs_read"), Target("nobody"), Target("version_show")]
        targets, skipped = resolver.resolve(unknown, at_exit=False)
        assert [(t.name, t.address) for t in targets] == [("vfs_read", read)]
        assert [(s.name, s.reason) for s in skipped] == [
            ("nobody", Reason.NOT_FOUND),
            ("version_show", Reason.AMBIGUOUS),
        ]
        named, _ = resolver.resolve("vfs_read", at_exit=False)
        twice = pybpf.trampoline.plan(
            obj.programs["on_entry"], ["vfs_read", *named, "vfs_read"], facts
        )
        assert [t.name for t in twice.targets] == ["vfs_read"]
        assert twice.skipped == ()


def test_a_closed_object_stays_closed(facts: Facts, blobs: list[bytes]) -> None:
    obj = pybpf.open(MULTI, facts=facts)
    obj.close()
    assert repr(obj).endswith("closed>")
    with pytest.raises(BpfError, match="it is closed"):
        obj.load()
    with pytest.raises(BpfError, match="it is closed"):
        obj.prepare()
    obj.close()
