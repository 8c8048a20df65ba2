"""verify must be able to fail: every doctored link list or image gives its own finding."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pybpf._uapi import structs
from pybpf._uapi.enums import Cmd, LinkType
from pybpf.trampoline import links as link_module
from pybpf.trampoline import verify as module
from pybpf.trampoline.image import TrampolineImage
from pybpf.trampoline.links import Attached, LinkReading, make_key
from pybpf.trampoline.roles import Entry
from pybpf.trampoline.verify import Problem, check, survey, verify
from tests.support.fakes import FakeKernel
from tests.support.trampimage import FUNCTION, IMAGE, KEY, PROGS, SHIM, image, links
from tests.support.trampwriter import Shape


def problems(images: list[TrampolineImage], attached: list[Attached]) -> list[Problem]:
    return [finding.problem for finding in check(images, attached)]


def test_agreement_is_empty() -> None:
    """Six programs of four kinds, each as its link says: nothing to report."""
    assert check([image()], links()) == []
    assert check([], []) == []


def doctored(number: int, **changes: object) -> list[Attached]:
    changed = links()
    changed[number] = replace(changed[number], **changes)  # type: ignore[arg-type]
    return changed


@pytest.mark.parametrize(
    ("attached", "expected"),
    [
        (links()[1:], [Problem.EXTRA]),
        (links()[:-1], [Problem.EXTRA, Problem.EXTRA]),  # a session is called twice
        ([*links(), Attached(200, 99, (KEY,), ("fentry",))], [Problem.MISSING]),
        (doctored(0, program=99), [Problem.EXTRA, Problem.MISSING]),
        (doctored(0, kinds=("fexit",)), [Problem.WRONG_PLACE]),
        (doctored(2, kinds=("fentry",)), [Problem.WRONG_PLACE]),
        (doctored(5, kinds=("fentry",)), [Problem.WRONG_PLACE]),
        (doctored(3, cookie=77), [Problem.WRONG_COOKIE]),
        (doctored(3, cookie=None), []),
        ([], [Problem.ORPHAN]),
        ([*links(), Attached(200, 99, (make_key(1, 5),), ("fentry",))], [Problem.NO_IMAGE]),
    ],
)
def test_doctored_links(attached: list[Attached], expected: list[Problem]) -> None:
    """Each wrong expectation is found, and nothing but that."""
    assert problems([image()], attached) == expected


def test_findings_name_the_culprit() -> None:
    """A finding carries link and program ids and reads as a sentence."""
    (finding,) = check([image()], doctored(3, cookie=77))
    assert (finding.link, finding.program, finding.function) == (103, 13, "traced")
    assert str(finding).startswith("traced: a program gets another cookie")
    assert finding.to_dict()["problem"] == "wrong_cookie"


def test_link_may_mean_a_program_or_a_btf_object() -> None:
    """Of a link's two possible keys the one with an image counts."""
    other = make_key(1, 77, program=True)
    both = [replace(one, keys=(KEY, other)) for one in links()]
    assert check([image()], both) == []
    assert check([replace(image(), key=other)], both) == []


def test_links_that_do_not_tell_where() -> None:
    """A 7.2 tracing_multi link names no functions: its program is welcome anywhere."""
    attached = doctored(0, keys=())
    assert check([image()], attached) == []
    assert problems([image()], [replace(one, keys=()) for one in links()]) == []
    assert problems([image()], [Attached(1, 99, (), ("fentry",))]) == [Problem.ORPHAN]


def test_stale_images_do_not_count() -> None:
    """An image that a newer one replaced is not compared."""
    assert check([replace(image(), current=False)], []) == []
    assert problems([replace(image(), current=False)], links()) == [Problem.NO_IMAGE]


def test_lsm_programs_may_be_at_either_place() -> None:
    """LSM hooks: fmod_ret, or fexit for void ones."""
    either = ("fmod_ret", "fexit")
    attached = [replace(one, kinds=either) if one.kinds[0] in either else one for one in links()]
    assert check([image()], attached) == []


def _with(change: Callable[[TrampolineImage], TrampolineImage]) -> list[Problem]:
    return problems([change(image())], links())


def test_doctored_images() -> None:
    """What the image itself may get wrong."""

    def reordered(one: TrampolineImage) -> TrampolineImage:
        return replace(one, programs=tuple(reversed(one.programs)))

    def repeated(one: TrampolineImage) -> TrampolineImage:
        return replace(one, programs=(one.programs[1], *one.programs))

    def elsewhere(one: TrampolineImage) -> TrampolineImage:
        return replace(one, entry=Entry("jmp", 4, IMAGE + 64, 9))

    def unpatched(one: TrampolineImage) -> TrampolineImage:
        return replace(one, entry=Entry("nop", 4, None, 9))

    def detached(one: TrampolineImage) -> TrampolineImage:
        first = one.programs[1]
        gone = replace(first, call=replace(first.call, detached=True))
        return replace(one, programs=(one.programs[0], gone, *one.programs[2:]))

    def broken(one: TrampolineImage) -> TrampolineImage:
        return replace(one, code=replace(one.code, problems=("odd",)))

    def without_original(one: TrampolineImage) -> TrampolineImage:
        return replace(one, code=replace(one.code, flags=type(one.flags)(0)))

    assert _with(lambda one: one) == []
    assert _with(reordered) == [Problem.WRONG_ORDER]
    assert _with(repeated) == [Problem.REPEATED]
    assert _with(elsewhere) == [Problem.NOT_PATCHED]
    assert _with(unpatched) == [Problem.NOT_PATCHED]
    assert _with(detached) == [Problem.MISSING]
    assert _with(broken) == [Problem.BROKEN]
    assert _with(without_original) == [Problem.WRONG_FLAGS]


def test_entry_shared_with_ftrace() -> None:
    """A function that other tracers share leads to ftrace, which finds the image."""
    shared = replace(image(), entry=Entry("call", 4, 1, 9), entry_symbol="ftrace_regs_caller")
    assert check([shared], links()) == []


def test_an_image_that_nothing_leads_to_is_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """No link and no way in: being made, or being freed. With a way in it is a fault."""
    nop = replace(image(), entry=Entry("nop", 4, None, 9))
    assert check([nop], []) == []
    assert problems([image()], []) == [Problem.ORPHAN]
    assert problems([replace(image(), entry=None)], []) == [Problem.ORPHAN]  # not known
    # With links, the way in must be there.
    assert problems([nop], links()) == [Problem.NOT_PATCHED]
    # ftrace is in between: it may lead there, unless the programs are gone.
    shared = replace(image(), entry=Entry("call", 4, 1, 9), entry_symbol="ftrace_regs_caller")
    assert problems([shared], []) == [Problem.ORPHAN]
    gone = replace(shared, programs=tuple(replace(one, id=None) for one in shared.programs))
    assert check([gone], []) == []
    Kernel(monkeypatch, [nop])
    assert survey(timeout=10).changed == ("traced",)


def test_cgroup_lsm_shim_needs_no_link() -> None:
    """The kernel's own shim for cgroup LSM programs is in no tracing link."""
    shim = replace(PROGS[0], enter=SHIM)
    alone = image(Shape("7.3", IMAGE, FUNCTION, fmod=(shim,)))
    assert check([alone], []) == []
    plain = image(Shape("7.3", IMAGE, FUNCTION, fmod=(PROGS[0],)))
    assert problems([plain], []) == [Problem.ORPHAN]


# ---- what links say -------------------------------------------------------------


def test_attached_from_link_infos() -> None:
    """Tracing links give one entry, tracing_multi one per function, others none."""
    from pybpf._sys.info import LinkInfo
    from pybpf._uapi.enums import AttachType, LinkType

    tracing, multi = LinkType.BPF_LINK_TYPE_TRACING, LinkType.BPF_LINK_TYPE_TRACING_MULTI
    fexit = AttachType.BPF_TRACE_FEXIT

    def of(*infos: LinkInfo) -> list[Attached]:
        return [one for info in infos for one in link_module._attached(info)]

    def plain(cookie: int) -> LinkInfo:
        return LinkInfo(tracing, 7, 70, fexit, target_obj_id=1, target_btf_id=5, cookie=cookie)

    keys = (make_key(1, 5), make_key(1, 5, program=True))
    assert of(plain(9)) == [Attached(7, 70, keys, ("fexit",), 9)]
    assert of(plain(0))[0].cookie is None  # 6.x never says
    several = LinkInfo(
        multi, 8, 80, AttachType.BPF_TRACE_FSESSION_MULTI, btf_obj_id=2, ids=(3, 4), cookies=(0, 6)
    )
    assert of(several) == [
        Attached(8, 80, (make_key(2, 3),), ("fsession",), 0),
        Attached(8, 80, (make_key(2, 4),), ("fsession",), 6),
    ]
    silent = LinkInfo(multi, 9, 90)  # 7.2 has no link info for these
    assert [(one.program, one.keys) for one in of(silent)] == [(90, ())]
    freplace = LinkInfo(tracing, 10, 100, 0, target_obj_id=3, target_btf_id=1)
    newer = LinkInfo(tracing, 11, 110, 999)
    perf = LinkInfo(LinkType.BPF_LINK_TYPE_PERF_EVENT, 12, 120)
    assert of(freplace, newer, perf) == []


# ---- reading again -------------------------------------------------------------


class Kernel:
    """Readings of images, of links and of links in the making, each list one reading after the
    other, the last for ever; time passes in sleep."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *readings: list[TrampolineImage],
        attached: Sequence[list[Attached]] = ([],),
        pending: Sequence[set[int]] = (set(),),
    ) -> None:
        self.readings = readings
        self.attached = attached
        self.pending = pending
        self.now = 0.0
        self.reads = 0
        monkeypatch.setattr(module, "ImageReader", lambda btf: self)
        monkeypatch.setattr(module, "read_links", self.links)
        monkeypatch.setattr(module, "attachments", lambda _: self.current(self.attached))
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module.time, "sleep", self.sleep)

    def current(self, readings: Sequence[Any]) -> Any:
        return readings[min(self.reads, len(readings) - 1)]

    def links(self) -> LinkReading:
        return LinkReading((), frozenset(self.current(self.pending)))

    def read(self) -> list[TrampolineImage]:
        found = self.current(self.readings)
        self.reads += 1
        return found

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_passing_disagreement_is_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that outlives its links for two readings is not reported, but counted."""
    kernel = Kernel(monkeypatch, [image()], [image()], [])
    result = survey(timeout=10)
    assert (result.findings, result.changed) == ((), ("traced",))
    assert (kernel.reads, kernel.now) == (3, pytest.approx(0.3))


def test_lasting_disagreement_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """What still disagrees at the end of the time is reported, and the time is kept."""
    kernel = Kernel(monkeypatch, [image()])
    result = survey(timeout=10)
    assert [finding.problem for finding in result.findings] == [Problem.ORPHAN]
    assert result.changed == ()
    assert kernel.now == pytest.approx(10)
    assert kernel.reads < 15


def test_given_links_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """`attached` stands in for the kernel's links; no time is lost when they agree."""
    kernel = Kernel(monkeypatch, [image()])
    result = survey(attached=links(), timeout=10)
    assert (result.findings, kernel.reads, kernel.now) == ((), 1, 0.0)
    assert len(result.images) == 1 and len(result.attached) == 6
    assert verify(attached=links()[1:], timeout=0) != []


def elsewhere(number: int) -> TrampolineImage:
    """The image after it was made again, at another address, as if others had changed it."""
    one = image()
    return replace(one, code=replace(one.code, address=IMAGE + 4096 * number))


def test_constant_changes_are_no_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that never agrees and never stays the same: bounded time, counted as changed."""
    kernel = Kernel(monkeypatch, *([elsewhere(n)] for n in range(100)))
    result = survey(timeout=10)
    assert (result.findings, result.changed) == ((), ("traced",))
    assert kernel.now == pytest.approx(20)
    assert kernel.reads < 20


def test_constant_changes_of_links_are_no_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same image, but each reading has another link without an image: nothing stays."""
    stays = [Attached(n, 99, (KEY,), ("fentry",)) for n in range(200, 300)]
    kernel = Kernel(monkeypatch, [image()], attached=[[*links(), one] for one in stays])
    result = survey(timeout=10)
    assert (result.findings, result.changed) == ((), ("traced",))
    assert kernel.now == pytest.approx(20)


def test_a_fault_is_found_beside_constant_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One function changes all the time, another is wrong all the time: the other is reported."""
    churned = [replace(elsewhere(n), key=make_key(1, 99), function="busy") for n in range(100)]
    Kernel(monkeypatch, *([image(), one] for one in churned))
    result = survey(timeout=10)
    assert [finding.function for finding in result.findings] == ["traced"]
    assert result.changed == ("busy",)


def test_a_fault_that_starts_late_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disagreement is reported once it has lasted, counted from when it began."""
    kernel = Kernel(monkeypatch, [elsewhere(1)], [elsewhere(2)], [image()])
    result = survey(timeout=10)
    assert [finding.problem for finding in result.findings] == [Problem.ORPHAN]
    assert kernel.now == pytest.approx(10.3)


def test_a_link_that_is_being_made_explains_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link on thousands of functions takes longer to make than a disagreement may last."""
    kernel = Kernel(monkeypatch, [image()], pending=[set(), {7}])
    result = survey(timeout=10)
    assert (result.findings, result.changed) == ((), ("traced",))
    assert kernel.now == pytest.approx(20)
    # Other links that come and go explain nothing: each would have changed the image.
    Kernel(monkeypatch, [image()], pending=[{1}, {1, 2}, {2}, {3}])
    assert [finding.problem for finding in verify(timeout=10)] == [Problem.ORPHAN]


def test_one_reading_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even without time to wait there are two readings, and the second counts."""
    kernel = Kernel(monkeypatch, [image()], [])
    assert verify(timeout=0) == []
    assert kernel.reads == 2


def test_an_image_that_a_reading_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A symbol list that changes while it is read may lack an image: the one seen before stays."""
    busy = [replace(elsewhere(n), key=make_key(1, 99), function="busy") for n in range(101)]
    readings = [[image(), one] if n % 2 else [one] for n, one in enumerate(busy)]
    kernel = Kernel(monkeypatch, *readings, attached=[links()])
    result = survey(timeout=10)
    assert result.findings == ()
    assert result.changed == ("busy", "traced")
    assert {one.function for one in result.images} == {"busy", "traced"}
    assert kernel.now == pytest.approx(20)


# ---- reading links that others make and close -----------------------------------


def test_links_in_the_making_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """EAGAIN is a link that is being made, ENOENT one that is gone: the others are read."""
    fake = FakeKernel(monkeypatch)
    fake.attrs |= {
        Cmd.BPF_LINK_GET_NEXT_ID: structs.GetId,
        Cmd.BPF_LINK_GET_FD_BY_ID: structs.GetId,
    }

    def after(attr: structs.GetId) -> int:
        attr.next_id = attr.start_id + 1
        return 0 if attr.next_id <= 4 else -errno.ENOENT

    def opened(attr: structs.GetId) -> int:
        return {2: -errno.EAGAIN, 3: -errno.ENOENT}.get(attr.start_id) or fake.fd()

    numbers = iter((1, 4))

    def info(attr: structs.GetInfo) -> int:
        structs.LinkInfo.from_address(attr.info).id = next(numbers)
        return 0

    fake.on = {
        Cmd.BPF_LINK_GET_NEXT_ID: after,
        Cmd.BPF_LINK_GET_FD_BY_ID: opened,
        Cmd.BPF_OBJ_GET_INFO_BY_FD: info,
    }
    reading = link_module.read_links()
    assert [one.id for one in reading.infos] == [1, 4]
    assert reading.pending == {2, 3}


def test_a_link_that_cannot_be_read_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its details fail (the path of a uprobe): type and program are kept, the walk goes on."""
    fake = FakeKernel(monkeypatch)
    monkeypatch.setattr(link_module.sys_bpf, "ids", lambda kind: iter((1, 2)))
    fake.attrs[Cmd.BPF_LINK_GET_FD_BY_ID] = structs.GetId
    asked = []

    def info(attr: structs.GetInfo) -> int:
        asked.append(attr.bpf_fd)
        value = structs.LinkInfo.from_address(attr.info)
        if value.uprobe_multi.path:
            return -errno.ENAMETOOLONG
        value.type = LinkType.BPF_LINK_TYPE_UPROBE_MULTI
        value.id = value.prog_id = 1 + len(set(asked))
        return 0

    fake.on = {
        Cmd.BPF_LINK_GET_FD_BY_ID: lambda attr: fake.fd(),
        Cmd.BPF_OBJ_GET_INFO_BY_FD: info,
    }
    reading = link_module.read_links()
    assert [one.type for one in reading.infos] == [LinkType.BPF_LINK_TYPE_UPROBE_MULTI] * 2
    assert reading.pending == set()
