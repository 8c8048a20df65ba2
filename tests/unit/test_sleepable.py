"""Asking the kernel which functions take sleepable programs, without a kernel."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import Any

import pytest

from pybpf._sys.fd import Fd
from pybpf.errors import BpfError, DeniedByPolicy, UnsupportedFeature, VerifierError
from pybpf.kernel import sleepable
from pybpf.kernel.btf import KernelBtf
from pybpf.kernel.host import Facts
from pybpf.kernel.sleepable import Question, may_sleep
from pybpf.multi.resolve import Resolver
from pybpf.multi.target import Target
from tests.support.savedfacts import saved_facts
from tests.unit.test_planner import model


def verifier(text: str) -> VerifierError:
    return VerifierError(errno.EINVAL, "p", f"{text}\nprocessed 0 insns\n", text)


ANSWERS: dict[int, BpfError | None] = {
    1: None,
    2: verifier("two is not sleepable"),
    3: verifier("The address of function three cannot be found"),
    4: DeniedByPolicy(errno.EPERM, "BPF_PROG_LOAD"),
    5: BpfError(errno.EINVAL, "BPF_PROG_LOAD"),
}


class Btf(KernelBtf):
    """Knows one module."""

    def fd(self, name: str) -> Fd:
        if name != "here":
            raise UnsupportedFeature(f"BTF object of {name!r}")
        return Fd(os.open(os.devnull, os.O_RDONLY), f"BTF of {name}")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """(BTF id, of a module) of each load."""
    seen: list[tuple[int, bool]] = []

    def prog_load(kind: int, insns: bytes, **about: Any) -> Fd:
        assert about["prog_flags"] and len(insns) == 16
        seen.append((about["attach_btf_id"], about["attach_btf_obj_fd"] != 0))
        error = ANSWERS[about["attach_btf_id"] % 10]
        if error is not None:
            raise error
        return Fd(os.open(os.devnull, os.O_RDONLY), "program")

    monkeypatch.setattr(sleepable.sys_prog, "prog_load", prog_load)
    return seen


def test_only_the_verifiers_own_word_is_a_no(asked: list[tuple[int, bool]]) -> None:
    """Loaded: yes. "is not sleepable": no. Anything else tells nothing."""
    found = may_sleep([Question("", n) for n in ANSWERS], Btf())
    assert found == {Question("", 1): True, Question("", 2): False}
    assert asked == [(n, False) for n in ANSWERS]


def test_functions_of_modules(asked: list[tuple[int, bool]]) -> None:
    """Asked with the module's BTF; nothing is known of a module that is gone."""
    questions = [Question("here", 11), Question("gone", 12), Question("here", 12)]
    assert may_sleep(questions, Btf()) == {questions[0]: True, questions[2]: False}
    assert asked == [(11, True), (12, True)]


def test_the_resolver_asks_for_what_is_open(
    asked: list[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for what is known or has no BTF, not for too many, and never for saved facts."""
    facts = Facts()
    facts._set(btf=Btf())
    targets = [Target(f"f{n}", "", 0x1000 * n, n, model()) for n in ANSWERS]
    targets += [
        Target("known", "", 0x9000, 9, model(), may_sleep=False),
        Target("none", "", 0x8000),
    ]
    told = Resolver(facts).with_sleep(targets)
    assert [t.may_sleep for t in told] == [True, False, None, None, None, False, None]
    assert [replace(t, may_sleep=None) for t in told[:5]] == targets[:5]
    asked.clear()
    monkeypatch.setattr("pybpf.multi.resolve.MOST", 2)
    assert [t.may_sleep for t in Resolver(facts).with_sleep(targets[:3])] == [True, False, None]
    assert asked == [(1, False), (2, False)]
    asked.clear()
    saved = Facts.from_json(saved_facts())
    assert Resolver(saved, live=False).with_sleep(targets) == targets
    assert asked == []
