"""Beside bpftrace: Debian's own, on an overlapping set, before, during and after ours.

Both watch one process, this one, which makes calls whose number is known; so each side is compared
with the truth, and not only with the other. bpftrace is told of begin and end of a phase by the
process's name, ours by a variable in a map: neither takes a call that is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from pybpf.features import Feature
from tests.support.bpftrace import KINDS, Bpftrace, named
from tests.support.knowncalls import CALLS, calls
from tests.support.trampolines import verify
from tests.support.witness import Witness

pytestmark = [
    pytest.mark.guest_with("bpftrace"),
    pytest.mark.long,
    pytest.mark.time_limit(1200),
]

NAMES = list(CALLS)
THEIRS, OURS = NAMES[:12], NAMES[4:]  # eight are traced by both
MECHANISMS = [
    pytest.param("tracing_multi", marks=pytest.mark.needs(Feature.TRACING_MULTI)),
    pytest.param("trampoline", marks=pytest.mark.needs(Feature.FENTRY)),
    pytest.param("kprobe_multi", marks=pytest.mark.needs(Feature.KPROBE_MULTI)),
    pytest.param("kprobe", marks=pytest.mark.needs(Feature.KPROBE)),
]


@pytest.fixture
def witness() -> Iterator[Witness]:
    made = Witness(OURS)
    assert sorted(f.name for f in made.functions) == sorted(OURS)
    yield made
    made.close()


class Ours:
    """Our own entry and exit programs on the same functions."""

    def __init__(self, witness: Witness, mechanism: str) -> None:
        at_trampoline = mechanism in ("trampoline", "tracing_multi")
        self.witness = witness
        self.programs = ("entry_helpers", "exit_helpers" if at_trampoline else "exit_ret")
        with ExitStack() as links:
            for program in self.programs:
                link = links.enter_context(
                    witness.obj.programs[program].attach_multi(
                        OURS, mechanism=mechanism, cookies=witness.cookie
                    )
                )
                assert not link.skipped
                assert {g.mechanism.value for g in link.plan.groups} == {mechanism}
            self._links = links.pop_all()

    def close(self) -> None:
        """May be called again."""
        self._links.close()

    def counts(self) -> list[dict[str, int]]:
        """Calls by function, as each program saw them."""
        return [
            {
                f.name: self.witness.seen[f"{program}_seen"][f.number].calls
                for f in self.witness.functions
            }
            for program in self.programs
        ]


def phase(witness: Witness, name: str) -> None:
    """Make the calls while both sides watch. This process has the phase's name meanwhile."""
    witness.run(lambda: named(name, calls), witness.functions)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_whoever_came_first(witness: Witness, tmp_path: Path, mechanism: str) -> None:
    """bpftrace attaches first and stays, then ours does. Both count right."""
    theirs_true = {kind: {name: CALLS[name] for name in THEIRS} for kind in KINDS}
    ours_true = [{name: CALLS[name] for name in OURS}] * 2
    with ExitStack() as stack:
        theirs = Bpftrace(THEIRS, tmp_path)
        stack.callback(theirs.close)
        phase(witness, "before")
        ours = stack.enter_context(closing(Ours(witness, mechanism)))
        phase(witness, "during")
        assert ours.counts() == ours_true
        assert not verify()
        ours.close()
        phase(witness, "after")
        assert ours.counts() == [dict.fromkeys(OURS, 0)] * 2
        assert theirs.finish() == dict.fromkeys(("before", "during", "after"), theirs_true)

        ours = stack.enter_context(closing(Ours(witness, mechanism)))
        phase(witness, "alone")
        assert ours.counts() == ours_true
        theirs = Bpftrace(THEIRS, tmp_path)
        stack.callback(theirs.close)
        phase(witness, "joined")
        assert ours.counts() == ours_true
        assert not verify()
        assert theirs.finish() == {"joined": theirs_true}
        phase(witness, "left")
        assert ours.counts() == ours_true
    assert not verify()
