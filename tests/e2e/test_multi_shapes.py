"""What the lowerings make of contexts that are hard to follow: the verifier takes it; it is right.

What each program must leave is what the interpreter computes of its code as written.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import pybpf
from pybpf.errors import PlanError, VerifierError
from tests.e2e.test_multi import CALLS, DATA, GLOB, number
from tests.support.mechanisms import MECHANISMS
from tests.support.require import facts
from tests.support.shapes import NAMES, OBJECT, run
from tests.support.tracedcalls import Call, promised

pytestmark = pytest.mark.long

#: What some kernels refuse: a frame's address that a callee returns; in 6.1, a pointer into the
#: stack that is read from memory which a helper got.
REFUSED = {"returned_by_a_callee", "marked_by_a_callback"}
#: Functions whose arguments are all known.
KNOWN = [n for n, (args, _) in CALLS.items() if None not in args]


@pytest.fixture
def obj() -> Iterator[pybpf.Object]:
    with pybpf.open(OBJECT, facts=facts()) as opened:
        opened.load()
        yield opened


@pytest.fixture
def standard() -> Iterator[pybpf.Object]:
    with pybpf.open(DATA / "fentry_args.bpf.o", facts=facts()) as opened:
        opened.load()
        yield opened


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_results(obj: pybpf.Object, standard: pybpf.Object, mechanism: str) -> None:
    wrong, seen = [], 0
    refused: set[str] = set()
    # At exit kprobes have no arguments.
    keeps_args = mechanism in ("tracing_multi", "trampoline")
    names = [n for n in NAMES if keeps_args or obj.programs[n].section.startswith("fentry")]
    for name in names:
        program = obj.programs[name]
        insns = program.template().code.insns
        obj.globals.results = [0] * 16
        obj.maps["values"][0] = 0
        try:
            with program.attach_multi(GLOB, mechanism=mechanism, cookies=number) as link:
                on = {number(target) for target in link.targets}
                standard.programs["entry1"].test_run()
        except PlanError as error:
            assert name == "returned_by_a_callee" and "functions returns it" in str(error)
            refused.add(name)
            continue
        except VerifierError:
            refused.add(name)
            continue
        for n in on.intersection(KNOWN):
            args, ret = CALLS[n]
            call = Call(tuple(a for a in args if a is not None), ret)
            expected = run(insns, promised(call), call, found=True, kprobe=False)
            got = obj.globals.results[n]
            seen += 1
            if got != expected:
                wrong.append(f"{name} on bpf_fentry_test{n}: {got:#x}, not {expected:#x}")
    assert not wrong, "\n".join(wrong)
    assert refused <= REFUSED
    assert len(names) >= 4 and seen == (len(names) - len(refused)) * len(KNOWN)
