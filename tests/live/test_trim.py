"""`Object.trim` lets go of the kernel's types, and the object goes on as before."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

import pybpf
from pybpf.btf import Btf
from pybpf.features import Feature, FeatureSet
from pybpf.multi.options import AttachOptions
from pybpf.multi.plan import PlanFacts
from pybpf.multi.planner import make_plan
from pybpf.multi.target import Target
from pybpf.tools.retsnoop.run import OBJECT
from pybpf.trampoline.model import Model, Return
from tests.support.require import facts as shared_facts

pytestmark = pytest.mark.needs(Feature.RINGBUF)

DRIVEN = Path(__file__).parents[1] / "data" / "retsnoop_drive.bpf.o"


def kernels() -> list[Btf]:
    """BTF of the kernel itself that is in memory."""
    return [one for one in gc.get_objects() if isinstance(one, Btf) and "'vmlinux'" in repr(one)]


def test_the_kernels_types_go() -> None:
    """A loaded object with multi programs keeps none of them, and attaches again all the same."""
    before = {id(one) for one in kernels()}
    facts = pybpf.Facts()
    supported = PlanFacts.of(FeatureSet({Feature.KPROBE, Feature.ATTACH_COOKIE}))
    model = Model(3, Return.INT, 4, signed=True, params=3)
    with pybpf.open(OBJECT, facts=facts) as obj:
        obj.maps["owners"].max_entries, obj.maps["sessions"].max_entries = 1, 8
        obj.load()

        def accepted() -> int:
            options = AttachOptions(mechanism="kprobe")
            target = Target("vfs_read", "", 0x1000, 1, model)
            calls = obj.programs["calls"]
            return calls.check_multi(make_plan(calls.template(), [target], supported, options))

        assert accepted() == 2
        cycle: list[object] = [*(one for one in kernels() if id(one) not in before)]
        assert cycle
        cycle.append(cycle)
        del cycle
        gc.disable()  # as tools do, almost
        try:
            obj.trim()
            assert not [one for one in kernels() if id(one) not in before]
        finally:
            gc.enable()
        assert accepted() == 2


def test_programs_and_maps_stay() -> None:
    """What is loaded works on after it."""
    with pybpf.open(DRIVEN, facts=shared_facts()) as obj:
        obj.programs["task_exit"].autoload = False
        obj.maps["owners"].max_entries, obj.maps["sessions"].max_entries = 1, 8
        obj.load()
        obj.trim()
        obj.globals.ready = 1
        entry = 1 << 32  # function 0, which opens a session
        obj.programs["drive"].test_run(ctx=b"".join(n.to_bytes(8, "little") for n in (0, entry, 0)))
        assert obj.globals.last_session == 1
