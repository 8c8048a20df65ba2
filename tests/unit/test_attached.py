"""Links on functions: kprobe links by address, classes of images, who holds what."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest

from pybpf._sys.bpf import LinkInfo
from pybpf._uapi.enums import LinkType, PerfEventType
from pybpf.kernel.kallsyms import Kallsyms
from pybpf.kernel.owners import Held, Owner, Owners
from pybpf.trampoline import registry as module
from pybpf.trampoline.image import TrampolineImage
from pybpf.trampoline.links import Attached, attachments, make_key
from pybpf.trampoline.registry import Probed, Registry, image_classes, probed, tracing
from tests.support.trampimage import KEY, image, links

SYMBOLS = Kallsyms(
    "ffffffff81000000 T vfs_read\nffffffff81000100 T vfs_write\n"
    "ffffffffc0000000 t kvm_init\t[kvm]\nffffffffc0000040 t kvm_exit\t[kvm]\n"
)
MULTI, PERF = LinkType.BPF_LINK_TYPE_KPROBE_MULTI, LinkType.BPF_LINK_TYPE_PERF_EVENT


def test_kprobe_links() -> None:
    """Entry and return, several functions or one, also of modules. Others are not kprobe links."""
    addrs = array("Q", [0xFFFFFFFF81000000, 0xFFFFFFFFC0000000])
    infos = [
        LinkInfo(MULTI, 1, 11, count=2, addrs=addrs),
        LinkInfo(MULTI, 2, 12, count=2, flags=1, addrs=array("Q", [0, 0])),
        LinkInfo(PERF, 3, 13, perf_type=PerfEventType.BPF_PERF_EVENT_KRETPROBE,
                 addr=0xFFFFFFFF81000100),
        LinkInfo(PERF, 4, 14, perf_type=PerfEventType.BPF_PERF_EVENT_KPROBE, name="vfs_read"),
        LinkInfo(PERF, 5, 15, perf_type=PerfEventType.BPF_PERF_EVENT_UPROBE, name="/bin/sh"),
        LinkInfo(LinkType.BPF_LINK_TYPE_TRACING, 6, 16, attach_type=24, target_obj_id=1,
                 target_btf_id=7),
        LinkInfo(PERF, 7, 17),
    ]  # fmt: skip
    found = {one.link: one for one in probed(infos, SYMBOLS)}
    assert sorted(found) == [1, 2, 3, 4]
    assert found[1] == Probed(
        1, 11, "kprobe.multi", 2, (("vfs_read", "", addrs[0]), ("kvm_init", "kvm", addrs[1]))
    )
    assert (found[2].kind, found[2].count, found[2].functions) == ("kretprobe.multi", 2, ())
    assert found[3].functions == (("vfs_write", "", 0xFFFFFFFF81000100),)
    assert (found[4].kind, found[4].functions) == ("kprobe", (("vfs_read", "", 0),))
    known = Registry(probes=tuple(found.values()))
    assert [one.link for one in known.probes_on("kvm_init", "kvm")] == [1]
    assert known.probes_on("kvm_init") == []
    assert [one.link for one in attachments(infos)] == [6]


def test_registry() -> None:
    """By trampoline key and by function; a program on several functions by several links."""
    mine, other = Held((Owner(1, "a"),)), Held((Owner(2, "b"),))
    shared = Attached(9, 90, (KEY, make_key(1, 5)), ("fentry",))
    known = Registry(
        attached=(
            Attached(1, 10, (KEY,), ("fentry",)),
            Attached(2, 10, (make_key(1, 6),), ("fentry",)),
            shared,
            Attached(3, 30, (), ("fentry", "fexit")),
        ),
        probes=(Probed(4, 40, "kprobe", 1, (("vfs_read", "", 1),)),),
        owners=Owners({1: mine, 2: other, 3: other}),
    )
    assert known.holds(KEY, 10) == mine
    assert known.holds(make_key(1, 6), 10) == other
    assert known.holds(12345, 10) is None  # by one of two links, nobody knows which
    assert known.holds(12345, 30) == other  # 7.2 does not tell functions, but there is one link
    assert known.holds(KEY, None) is None
    assert known.on_key(make_key(1, 5)) == [shared]
    assert [one.link for one in known.probes_on("vfs_read")] == [4]
    assert known.probes_on("vfs_read", "mod") == []


class NoBtf:
    def get(self, name: str) -> None:
        return None


def named(name: str, key: int, **more: object) -> TrampolineImage:
    return replace(image(), function=name, key=key, **more)  # type: ignore[arg-type]


def shape(images: list[TrampolineImage]) -> list[tuple[list[str], list[str]]]:
    found = image_classes(images, NoBtf())  # type: ignore[arg-type]
    return [([t.name for t in c.functions], [str(r) for r in c.programs]) for c in found]


def test_image_classes() -> None:
    """Detached programs do not count; stale images and traced programs are left out."""
    full = image()
    first = full.programs[1]
    gone = replace(first, call=replace(first.call, detached=True))
    rest = full.programs[2:3]
    made = [
        named("a", KEY, programs=(first, *rest)),
        named("b", KEY + 1, programs=(gone, first, *rest)),
        named("c", KEY + 2, programs=rest),
        named("old", KEY + 3, current=False),
        named("prog", make_key(1, 5, program=True)),
    ]
    assert [functions for functions, _ in shape(made)] == [["a", "b"], ["c"]]


def test_programs_are_told_by_what_they_are() -> None:
    """Clones of one program are one; of one name but with other code or maps, numbered."""
    one = image().programs[1]
    clone = replace(one, id=99)
    other_maps = replace(one, id=98, maps=(7,))
    other_code = replace(one, id=97, tag="f" * 16)
    made = [
        named(name, KEY + n, programs=(program,))
        for n, (name, program) in enumerate(
            [("a", one), ("b", clone), ("c", other_maps), ("d", other_code)]
        )
    ]
    kind = one.call.kind
    assert shape(made) == [
        (["a", "b"], [f"p0#1/{kind}"]),
        (["c"], [f"p0#3/{kind}"]),
        (["d"], [f"p0#2/{kind}"]),
    ]
    assert shape(made[:2]) == [(["a", "b"], [f"p0/{kind}"])]


def test_links_are_those_of_the_fixture() -> None:
    """The image's programs and the links that tests use for it belong together."""
    assert {one.program for one in links()} == {p.id for p in image().programs}


def test_reading_again_until_images_and_links_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others change what is read: read again, for a bounded time, and say what did not agree."""
    now = 0.0
    said = [links()[:-1], links()[1:], links()]
    reads = 0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def read(facts: object) -> Registry:
        nonlocal reads
        reads += 1
        return Registry(attached=tuple(said[min(reads, len(said)) - 1]))

    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    monkeypatch.setattr(module.time, "sleep", sleep)
    monkeypatch.setattr(module._image, "images", lambda **_: iter([image()]))
    monkeypatch.setattr(module.Registry, "read", read)
    found = tracing(timeout=1)
    assert (reads, found.unsettled, len(found.images)) == (3, frozenset(), 1)
    said = [links()[1:]]
    now, reads = 0.0, 0
    assert tracing(timeout=1).unsettled == {KEY}
    assert 2 < reads < 15
