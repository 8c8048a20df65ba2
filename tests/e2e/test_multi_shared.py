"""Functions that share a name: each is traced by its address, with its own arguments.

BTF has one prototype for a name. Since 1.28, pahole reliably leaves out names with several, so in
what it made the prototype is that of every function of the name. Elsewhere (Debian's 6.1 and 6.12)
programs that read arguments are refused, unless they take the registers as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf.features import Feature
from pybpf.multi.reasons import Reason
from tests.support.require import facts
from tests.support.witness import PROGRAMS, Witness

#: Static functions of /proc/cpuinfo and of /proc/crypto.
NAMES = ("c_start", "c_next", "c_stop")
MECHANISMS = [
    pytest.param("auto", marks=pytest.mark.needs(Feature.FENTRY)),
    pytest.param("kprobe", marks=pytest.mark.needs(Feature.ATTACH_COOKIE)),
    pytest.param("kprobe_multi", marks=pytest.mark.needs(Feature.KPROBE_MULTI)),
]
pytestmark = pytest.mark.first_on("6.1", "6.12", "latest")


def read_both() -> None:
    for name in ("cpuinfo", "crypto"):
        Path("/proc", name).read_bytes()


@pytest.fixture
def witness() -> Iterator[Witness]:
    made = Witness(NAMES, facts(), shared=True)
    yield made
    made.close()


@pytest.mark.rows("latest")
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_each_counts_and_reads_its_own_arguments(witness: Witness, mechanism: str) -> None:
    """At entry and at exit, compared with plain kprobes at the same addresses."""
    functions = witness.functions
    assert min(Counter(f.name for f in functions).values()) >= 2
    assert {f.name for f in functions} == set(NAMES)
    assert all(f.target.btf_id is None for f in functions)
    programs = [PROGRAMS["entry_slots"], PROGRAMS["exit_ret"]]
    with witness.watch_by_kprobes(functions):
        links = [
            witness.obj.programs[program.name].attach_multi(
                [f.target for f in functions], mechanism=mechanism, cookies=witness.cookie
            )
            for program in programs
        ]
        for link in links:
            assert not link.skipped and link.plan.shared == link.plan.targets
            assert "share their names with others" in str(link.plan)
        witness.run(read_both, functions)
        called = witness.called(functions)
        for name in NAMES:
            assert len([f for f in called if f.name == name]) >= 2
        for program in programs:
            assert witness.problems(program, functions) == []
        for link in links:
            link.detach()


@pytest.mark.rows("6.1", "6.12")
@pytest.mark.parametrize("mechanism", ["auto", "kprobe"])
def test_where_btf_may_have_the_prototype_of_another(mechanism: str) -> None:
    """Refused with the reason and what helps; with it, the first two registers are seen."""
    with pybpf.open("tests/data/witness.bpf.o", facts=facts()) as obj:
        obj.load()
        program = obj.programs["entry_slots"]
        asked = [
            f"{name}@{s.addr:#x}"
            for name in NAMES
            for s in facts().kallsyms.by_name(name)
            if s.is_function and not s.module
        ]
        with pytest.raises(pybpf.PlanError) as caught:
            program.attach_multi(asked, mechanism=mechanism)
        assert {s.reason for s in caught.value.skipped} == {Reason.AMBIGUOUS}
        assert len(caught.value.skipped) == len(asked)
        with program.attach_multi(asked, mechanism=mechanism, unknown="registers") as link:
            assert len(link.targets) == len(asked) >= 4
