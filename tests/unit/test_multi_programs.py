"""Multi programs of an object, without a kernel: planning them, and what may be asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import pybpf
from pybpf import loader
from pybpf._sys.fd import Fd
from pybpf.btf import Btf
from pybpf.btf.types import Func, Linkage
from pybpf.kernel.host import Facts
from pybpf.trampoline.plans import Plan
from tests.support.savedfacts import saved_facts

MULTI = Path(__file__).parents[1] / "data" / "multi.bpf.o"


@pytest.fixture(scope="module")
def facts() -> Facts:
    return Facts.from_json(saved_facts())


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """BTF that was given to the kernel; no maps are made."""
    given: list[bytes] = []

    def btf_load(blob: bytes) -> Fd:
        given.append(blob)
        return Fd(os.open(os.devnull, os.O_RDONLY), "BTF")

    monkeypatch.setattr(loader.sys_bpf, "btf_load", btf_load)
    monkeypatch.setattr(loader.Object, "_create_maps", lambda self: None)
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
        code = group.parts[0].image.code
        main, body = (loaded.type(type_id) for _, type_id in code.func_info)
        assert isinstance(main, Func) and isinstance(body, Func)
        assert main.name == body.name == "on_exit"
        assert (main.linkage, body.linkage) == (Linkage.GLOBAL, Linkage.STATIC)
