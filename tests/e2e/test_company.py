"""While others attach and detach all the time, nobody fails and every count is right.

Two processes attach and detach at random on functions that this one traces as well, while this one
attaches, lists, verifies, plans and explains, and bpftrace comes and goes. The truth is the number
of calls that each process makes itself. The seed is printed; PYBPF_SEED=N chooses one,
PYBPF_SEED=random a new one each time.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import pybpf
from pybpf._sys import bpf as sys_bpf
from pybpf.tools.trampolines import plan, why
from pybpf.tools.trampolines.cli import main
from pybpf.trampoline import verify as checks
from pybpf.trampoline.links import attachments
from tests.support.bpftrace import Bpftrace, named
from tests.support.churn import ENTRIES, Churner, Watched, wrong_counts
from tests.support.knowncalls import CALLS
from tests.support.mechanisms import supported
from tests.support.require import facts
from tests.support.trampolines import images, verify
from tests.support.witness import Witness

TOOL = "tools/trampolines.py"
#: Few, since detaching a clone takes 130 to 160 ms on 6.x, and called once to three times a round.
NAMES = ["do_getpgid", "do_pipe2", "vfs_link", "vfs_mkdir", "vfs_rename", "vfs_symlink"]
# A detach that waits for others' detaches must not count as lasting; see `verify --timeout`.
SETTLE = "5"


def seed() -> int:
    chosen = os.environ.get("PYBPF_SEED", "1")
    number = random.randrange(1 << 32) if chosen == "random" else int(chosen)
    print(f"PYBPF_SEED={number}")
    return number


def in_this_process(*args: str) -> str:
    """What a command of the tool writes."""
    out = io.StringIO()
    status = main(args, out=out)
    assert status == 0, f"{args}: {status}\n{out.getvalue()}"
    return out.getvalue()


def as_a_command(*args: str) -> str:
    """The same, from a separate process that reads everything again."""
    done = subprocess.run(
        [sys.executable, TOOL, *args], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{args}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the tools the facts that all tests share, because reading them takes most of the
    time."""
    monkeypatch.setattr(pybpf, "Facts", facts)
    for module in (plan, why):
        monkeypatch.setattr(module, "read_facts", lambda path: facts())
    monkeypatch.setattr(checks, "survey", partial(checks.survey, facts=facts()))


@dataclass
class Company:
    """Act in this process: keep one program attached, and do other things beside it."""

    witness: Witness
    standing: Watched
    mechanisms: list[str]
    chance: random.Random
    done: dict[str, int]
    run_tool: Callable[..., str]
    bpftrace: Path | None = None

    def tool(self, *args: str) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.run_tool(*args, "--json"))
        return said

    def check(self, *more: Watched) -> None:
        wrong = wrong_counts(self.witness, [self.standing, *more])
        assert not wrong, wrong

    def attach(self) -> None:
        """Attach another program to some of the functions. Both count right."""
        mechanism = self.chance.choice(self.mechanisms)
        program = self.chance.choice([p for p in (*ENTRIES, "exit_ret") if p != ENTRIES[0]])
        some = self.chance.sample(NAMES, self.chance.randint(1, 3))
        with self.witness.obj.programs[program].attach_multi(
            some, mechanism=mechanism, cookies=self.witness.cookie
        ) as link:
            assert not link.skipped, link.skipped
            self.check(Watched(self.witness, program, link))

    def verify(self) -> None:
        """Report nothing that is not a fault, in bounded time."""
        said = self.tool("verify", "--timeout", SETTLE)
        assert said["findings"] == [] and said["verified"] is True
        assert isinstance(said["changed"], list)

    def list(self) -> None:
        """What stays is listed, each function with its program and link, whatever others do."""
        said = self.tool("list")
        held = {link.id for link in self.standing.link.links}
        found: set[str] = set()
        for image in said["images"]:
            if any(held & set(one["links"]) for one in image["programs"]):
                found.add(image["function"])
        for probe in said["probes"]:
            if probe["link"] in held:
                # A kernel before 6.6 does not tell the functions of a kprobe link.
                found |= {one["name"] for one in probe["functions"]} or self.standing.names
        # A function that others changed at each reading is told by its name alone.
        found |= set(said["unsettled"])
        if said["images"] or said["probes"]:
            assert found >= self.standing.names or self._untold(), said
        assert said["hidden_processes"] == 0

    def _untold(self) -> bool:
        # Single kprobes of 6.1 do not even say that they are links on kprobes.
        mechanisms = {group.mechanism.value for group in self.standing.link.plan.groups}
        return mechanisms <= {"kprobe"} and os.uname().release.startswith("6.1.")

    def plan(self) -> None:
        """A plan for a function that others attach to: nothing skipped."""
        said = self.tool("plan", "fentry.multi/vfs_mkdir")
        assert said["skipped"] == []

    def why(self) -> None:
        """Each function can be attached to, and what stays is named."""
        rows = self.tool("why", *NAMES)["functions"]
        assert [row["function"] for row in rows] == NAMES
        held = {link.id for link in self.standing.link.links}
        for row in rows:
            assert row["found"]
            if row["function"] in self.standing.names and not self._untold():
                assert held & {one["link"] for one in row["attached"]}, row

    def trace(self) -> None:
        """Start bpftrace, let it count the same calls, and end it."""
        assert self.bpftrace is not None
        theirs = Bpftrace(NAMES[:3], self.bpftrace)
        try:
            named("company", self.check)
            found = theirs.finish()["company"]
        finally:
            theirs.close()
        truth = {name: CALLS[name] for name in NAMES[:3]}
        assert found["kprobe"] == found["fentry"] == truth

    def run(self, seconds: float, alive: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        actions = [self.attach, self.list, self.verify, self.plan, self.why]
        if self.bpftrace is not None:
            actions.append(self.trace)
        while True:
            # Each at least once, in another order every time.
            for action in self.chance.sample(actions, len(actions)):
                action()
                self.check()
                name = action.__name__
                self.done[name] = self.done.get(name, 0) + 1
                print(f"{time.monotonic() - end + seconds:.0f} s: {name}", flush=True)
                assert alive(), "a churner has ended"
            if time.monotonic() >= end:
                return


def company(seconds: float, run_tool: Callable[..., str], bpftrace: Path | None = None) -> None:
    number = seed()
    mechanisms = supported()
    facts().ftrace, facts().kallsyms, facts().btf.get("")
    links = set(sys_bpf.ids("link"))
    traced = {one.function for one in images()}
    chance = random.Random(number)
    with ExitStack() as stack:
        churners = [Churner(NAMES, mechanisms, number * 100 + n) for n in range(2)]
        reports = []
        try:
            witness = Witness(NAMES, facts())
            stack.callback(witness.close)
            assert sorted(f.name for f in witness.functions) == NAMES
            link = stack.enter_context(
                witness.obj.programs[ENTRIES[0]].attach_multi(NAMES, cookies=witness.cookie)
            )
            assert not link.skipped
            me = Company(
                witness,
                Watched(witness, ENTRIES[0], link),
                mechanisms,
                chance,
                {},
                run_tool,
                bpftrace,
            )
            me.run(seconds, lambda: all(one.alive() for one in churners))
        finally:
            reports = [one.finish() for one in churners]
            problems = [one.problem for one in reports if one.problem]
            print(*problems, sep="\n")
        assert not problems
        print(f"done: {me.done}; others: {[(one.attached, one.by) for one in reports]}")
        assert all(one.attached > 5 for one in reports)
        me.check()
    # Nothing is left, and images and links agree.
    assert verify() == []
    assert set(sys_bpf.ids("link")) <= links
    assert {one.function for one in images()} <= traced
    assert len(attachments()) <= len(links)


@pytest.mark.first_on("6.12")  # test_funcwatch has its like on 6.1 and latest
@pytest.mark.time_limit(900)
def test_others_come_and_go(known: None) -> None:
    """Each thing once."""
    company(0, in_this_process)


@pytest.mark.long
@pytest.mark.guest_with("bpftrace")
@pytest.mark.time_limit(3600)
def test_others_come_and_go_for_long(tmp_path: Path) -> None:
    """Run this for a minute, with bpftrace among the others."""
    company(60, as_a_command, tmp_path)
