"""Another tracer: a process that attaches to and detaches from shared functions at random.

It is forked, so that it does not have to find out again what is known of the kernel. It runs until
its pipe is closed. What each of its programs saw of its own calls must be the truth. If something
went wrong, that comes back through the other pipe, with what it did before.
"""

from __future__ import annotations

import json
import os
import random
import select
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

from pybpf._sys import bpf as sys_bpf
from pybpf.multi.link import MultiLink
from tests.support.knowncalls import CALLS, calls
from tests.support.require import facts
from tests.support.witness import Witness

__all__ = ["Churner", "Watched", "wrong_counts"]

#: Programs of witness.bpf.c by the side they run at. A program that sees no return value in its
#: context works with every mechanism.
ENTRIES = ("entry_slots", "entry_helpers", "entry_narrow")
EXITS = ("exit_ret",)


@dataclass
class Watched:
    """Hold a program of a witness, attached to some of its functions."""

    witness: Witness
    program: str
    link: MultiLink

    @property
    def names(self) -> set[str]:
        return {target.name for target in self.link.targets}

    def missed(self) -> int:
        """Count the runs that the kernel left out because its programs were already running."""
        total = 0
        for link in self.link.links:
            info = link.info()
            fd = sys_bpf.open_by_id("prog", info.prog_id)
            assert fd is not None
            with fd:
                total += sys_bpf.prog_info(fd).recursion_misses + info.missed
        return total

    def seen(self) -> dict[str, int]:
        table = self.witness.seen[f"{self.program}_seen"]
        return {f.name: table[f.number].calls for f in self.witness.functions}


def wrong_counts(witness: Witness, watched: Sequence[Watched]) -> list[str]:
    """Make the known calls. Return what the programs saw of them that is not the truth.

    An entry may lack what the kernel itself counts as missed. An exit may lack calls that were
    in flight while another program came or went (6.x does not report them). So for exits only
    too many calls are wrong here.
    """
    before = [one.missed() for one in watched]
    witness.run(calls, witness.functions)
    out = []
    for one, missed in zip(watched, before, strict=True):
        missed = one.missed() - missed
        names = one.names
        for name, count in one.seen().items():
            truth = CALLS[name] if name in names else 0
            least = 0 if one.program in EXITS else truth - missed
            if not max(least, 0) <= count <= truth:
                out.append(f"{one.program} saw {count} of {truth} calls of {name}, {missed} missed")
    return out


@dataclass
class Report:
    """Hold what a churner did."""

    attached: int = 0
    by: dict[str, int] = field(default_factory=dict)
    problem: str = ""


def _churn(names: Sequence[str], mechanisms: Sequence[str], seed: int, stop: int) -> Report:
    chance = random.Random(seed)
    report = Report()
    said: list[str] = []
    witness = Witness(names, facts())
    try:
        while not select.select([stop], [], [], 0)[0]:
            mechanism = chance.choice(mechanisms)
            program = chance.choice(ENTRIES + EXITS)
            some = chance.sample(names, chance.randint(1, 3))
            said.append(f"{program} by {mechanism} on {' '.join(some)}")
            link = witness.obj.programs[program].attach_multi(
                some, mechanism=mechanism, cookies=witness.cookie
            )
            with link:
                assert not link.skipped, link.skipped
                one = Watched(witness, program, link)
                assert one.names == set(some)
                wrong = wrong_counts(witness, [one])
                assert not wrong, wrong
            report.attached += len(some)
            report.by[mechanism] = report.by.get(mechanism, 0) + 1
    except BaseException:
        report.problem = "\n".join([f"seed {seed}", *said[-5:], traceback.format_exc()])
    finally:
        witness.close()
    return report


class Churner:
    """Run `_churn` in a forked process until `finish`."""

    def __init__(self, names: Sequence[str], mechanisms: Sequence[str], seed: int) -> None:
        stop_read, self._stop = os.pipe()
        self._said, said_write = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(stop_read)
            os.close(said_write)
            return
        status = 1
        try:
            os.close(self._stop)
            os.close(self._said)
            report = _churn(names, mechanisms, seed, stop_read)
            os.write(said_write, json.dumps(vars(report)).encode())
            status = 0
        finally:
            os._exit(status)

    def alive(self) -> bool:
        return not select.select([self._said], [], [], 0)[0]

    def finish(self) -> Report:
        """Stop it and return what it did."""
        os.write(self._stop, b"x")  # a later fork may have it open, too
        os.close(self._stop)
        with open(self._said, "rb") as said:
            text = said.read()
        _, status = os.waitpid(self.pid, 0)
        if status or not text:
            return Report(problem=f"ended with status {status:#x}, saying {text!r}")
        return Report(**json.loads(text))
