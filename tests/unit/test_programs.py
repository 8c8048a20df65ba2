"""Programs of an object, without a kernel: how they are run and attached, and what errors say."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pybpf
from pybpf import programs
from pybpf._sys.fd import Fd
from pybpf.errors import BpfError
from pybpf.kernel.host import Facts
from tests.support.savedfacts import saved_facts

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def facts() -> Facts:
    return Facts.from_json(saved_facts())


@pytest.fixture
def kinds(facts: Facts) -> Iterator[pybpf.Object]:
    with pybpf.open(DATA / "attach_kinds.bpf.o", facts=facts) as obj:
        for program in obj.programs.values():
            program._fd = Fd(os.open(os.devnull, os.O_RDONLY), "program")
        yield obj


def test_test_run_takes_three_arguments_by_position(
    kinds: pybpf.Object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """data, ctx, repeat: the documented signature."""
    seen: dict[str, Any] = {}

    def run(fd: Fd, **how: Any) -> SimpleNamespace:
        seen.update(how)
        return SimpleNamespace(retval=0, duration=0, data_out=b"", ctx_out=b"")

    monkeypatch.setattr(programs.sys_prog, "prog_test_run", run)
    kinds.programs["on_tp"].test_run(b"data", b"ctx", 7)
    assert (seen["data_in"], seen["ctx_in"], seen["repeat"]) == (b"data", b"ctx", 7)


def refuse(*args: object, **how: object) -> None:
    raise BpfError(errno.EBUSY, "BPF_SOMETHING")


@pytest.fixture
def refusing(kinds: pybpf.Object, monkeypatch: pytest.MonkeyPatch) -> pybpf.Object:
    """Every link and run is refused."""
    for name in vars(programs.links):
        if name.startswith("attach_"):
            monkeypatch.setattr(programs.links, name, refuse)
    monkeypatch.setattr(programs.sys_prog, "prog_test_run", refuse)
    return kinds


NAMES = ["on_tp", "on_raw_tp", "on_tp_btf", "on_kprobe", "on_kretprobe", "on_multi", "on_ret_multi"]


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_attach_names_program_and_section(refusing: pybpf.Object, name: str) -> None:
    """By its section, whatever it is and wherever it fails; once."""
    program = refusing.programs[name]
    with pytest.raises(BpfError) as caught:
        program.attach()
    assert str(caught.value).startswith(f"program {name!r} ({program.section}): ")
    assert str(caught.value).count(name) == 1


WAYS: dict[str, Callable[[pybpf.Program], object]] = {
    "test_run": lambda p: p.test_run(),
    "tracing": lambda p: p.attach_tracing(),
    "kprobe": lambda p: p.attach_kprobe("f"),
    "kprobe_multi": lambda p: p.attach_kprobe_multi(syms=["f"]),
    "tracepoint": lambda p: p.attach_tracepoint("a", "b"),
    "raw_tp": lambda p: p.attach_raw_tp("a"),
    "uprobe": lambda p: p.attach_uprobe("/bin/true", 0),
    "xdp": lambda p: p.attach_xdp(1),
    "cgroup": lambda p: p.attach_cgroup(3),
}


@pytest.mark.parametrize("way", WAYS)
def test_so_does_each_way_of_its_own(refusing: pybpf.Object, way: str) -> None:
    """attach_*() and test_run()."""
    with pytest.raises(BpfError) as caught:
        WAYS[way](refusing.programs["on_raw_tp"])
    assert str(caught.value).startswith("program 'on_raw_tp' (raw_tp/sys_enter): BPF_SOMETHING: ")


def test_a_clone_names_its_own_function_too(refusing: pybpf.Object) -> None:
    """Of many clones of one section, which one it was."""
    program = refusing.programs["on_tp_btf"]
    program.attach_to = "sys_exit"
    with pytest.raises(BpfError, match=r"program 'on_tp_btf' \(tp_btf/sys_enter, on sys_exit\): "):
        program.attach()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("kprobe", "names no target"),
        ("kprobe/a b", "is not FUNCTION"),
        ("usdt/a:b:c", r"attaching by section 'usdt/a:b:c' is not supported by pybpf yet"),
    ],
)
def test_sections_that_cannot_be_attached_by(
    refusing: pybpf.Object, section: str, words: str
) -> None:
    program = refusing.programs["on_kprobe"]
    program._spec = replace(program.spec, section=section, attach_to="")
    program.attach_to = ""
    with pytest.raises(BpfError, match=words) as caught:
        program.attach()
    assert str(caught.value).startswith(f"program 'on_kprobe' ({section}): ")
