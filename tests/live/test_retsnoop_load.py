"""The verifier of this kernel accepts retsnoop's program, whatever is switched on."""

from __future__ import annotations

from typing import Any

import pytest

import pybpf
from pybpf.features import Feature, FeatureSet
from pybpf.multi.options import AttachOptions
from pybpf.multi.plan import PlanFacts
from pybpf.multi.planner import make_plan
from pybpf.multi.target import Target
from pybpf.tools.retsnoop.run import OBJECT
from pybpf.trampoline.model import Model, Return

pytestmark = pytest.mark.needs(Feature.RINGBUF)

# Each of these puts code into the program that is not there without it.
EVERYTHING = {
    "emit_success": True,
    "emit_trace": True,
    "emit_interim": True,
    "emit_user_stacks": True,
    "emit_args": True,
    "capture_context": True,
    "filter_ids": True,
    "filter_comms": True,
    "filter_cgroup": True,
    "filter_errors": True,
    "filter_retvals": True,
    "allowed_retvals": 16,
    "denied_retvals": 16,
    "min_duration": 1000,
}


@pytest.mark.parametrize("program", ["calls", "calls_with_args"])
@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["plain", "everything"])
def test_loads(program: str, settings: dict[str, Any]) -> None:
    """The program by kprobes, and the injected probes; plain and with everything switched on.

    Kprobe programs are what every kernel lets this process load; e2e tests load the others.
    """
    facts = PlanFacts.of(FeatureSet({Feature.KPROBE, Feature.ATTACH_COOKIE}))
    model = Model(3, Return.INT, 4, signed=True, params=3)
    with pybpf.open(OBJECT) as obj:
        for name, value in settings.items():
            setattr(obj.globals, name, value)
        obj.globals.bucket_mask = 511
        obj.maps["owners"].max_entries = 512
        obj.maps["sessions"].max_entries = 4096
        for probe in ("probe_kprobe", "probe_tracepoint"):
            obj.programs[probe].autoload = True
        obj.load()
        traced = obj.programs[program]
        targets = [Target("vfs_read", "", 0x1000, 1, model)]
        plan = make_plan(traced.template(), targets, facts, AttachOptions(mechanism="kprobe"))
        assert traced.check_multi(plan) == 2
