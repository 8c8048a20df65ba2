"""How sections attach: one table, which everything reads; and what a new kind needs."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import pybpf
from pybpf._sys.fd import Fd
from pybpf.errors import BpfError, UnsupportedFeature
from pybpf.links import table
from pybpf.obj.sections import SECTIONS, find
from pybpf.tools import bpfobj

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"


def test_every_section_word_has_a_row() -> None:
    """And no row is for a word that no section has."""
    assert {row.how for row in SECTIONS.values()} == set(table.WAYS)


@pytest.mark.parametrize("pattern", SECTIONS)
def test_every_pattern_attaches_or_says_what_to_do(pattern: str) -> None:
    """With a target it is attached by a function, or there is an error with advice; without one
    there is always an error."""
    row = SECTIONS[pattern]
    assert table.problem(row.how, pattern, "") is not None
    problem = table.problem(row.how, f"{pattern}/x", "x")
    if table.WAYS[row.how].attach:
        assert problem is None
    else:
        assert isinstance(problem, UnsupportedFeature) or (problem is not None and problem.hint)


@pytest.mark.parametrize("how", [how for how, way in table.WAYS.items() if way.attach])
def test_the_function_that_is_named_exists(how: str) -> None:
    """A row's function is of a module of `pybpf.links`, and takes one request."""
    maker = table.WAYS[how].maker()
    assert maker.__module__.startswith("pybpf.links.")
    assert inspect.signature(maker).parameters["request"].annotation == "Request"


@pytest.mark.parametrize("how", [how for how, way in table.WAYS.items() if way.call])
def test_the_method_that_is_named_exists(how: str) -> None:
    """A message never sends anybody to a method that pybpf.Program does not have."""
    name = re.match(r"\w+", table.WAYS[how].call)
    assert name is not None and callable(getattr(pybpf.Program, name[0]))


def test_an_unknown_section_name_is_told_apart() -> None:
    """Not "pybpf cannot yet": libbpf does not know it either."""
    problem = table.problem("", "mine/x", "x")
    assert problem is not None and "libbpf has no such section name" in str(problem)


# A new kind of attachment: its family module ...
FAMILY = """
from pybpf.links.link import Link, Request

def by_section(request: Request) -> Link:
    return Link(request.program.fd.dup(), f"fake {request.target}")
"""


def test_a_new_kind_is_a_module_and_a_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """... and its row: `Program.attach`, `Object.attach` and ``inspect`` know it then."""
    (tmp_path / "fake_family.py").write_text(FAMILY)
    monkeypatch.syspath_prepend(str(tmp_path))
    row = table.Way("fake_family:by_section", "attach_fake(place)")
    with pybpf.open(DATA / "attach_by_hand.bpf.o") as obj:
        program = obj.programs["on_uprobe"]
        known = find("usdt/a:b:c")
        assert known is not None
        known = replace(known, how="fake")
        program._spec = replace(program.spec, section="usdt/a:b:c", sec_def=known)
        program.attach_to = "a:b:c"
        program._fd = Fd(os.open(os.devnull, os.O_RDONLY), "program")
        with pytest.raises(UnsupportedFeature):
            program.attach()
        monkeypatch.setitem(table.WAYS, "fake", row)  # type: ignore[arg-type]
        with program.attach() as link:
            assert link.what == "fake a:b:c"
        obj.programs = {"on_uprobe": program}
        with obj.attach() as links:
            assert list(links) == ["on_uprobe"] and not links.by_hand
        spec = replace(obj.spec, programs={"on_uprobe": replace(program.spec, attach_to="")})
        bpfobj._print_inspect(spec)
    assert "call attach_fake(place), or write usdt/TARGET" in capsys.readouterr().out


def test_inspect_names_the_method_to_call() -> None:
    """XDP and cgroup programs can be attached, if not by their sections."""
    done = subprocess.run(
        [sys.executable, "tools/bpfobj.py", "inspect", str(DATA / "attach_by_hand.bpf.o")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    notes = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("on_")}
    assert "call attach_xdp(interface)" in notes["on_xdp"]
    assert "call attach_cgroup(path_or_fd)" in notes["on_egress"]
    assert "call attach_uprobe(binary, symbol_or_offset)" in notes["on_uprobe"]
    assert "not implemented" not in done.stdout


def test_nothing_else_reads_section_names_to_attach() -> None:
    """The words that decide how a section attaches stand in obj/sections.py and the table."""
    words = ("kretprobe", "ksyscall", "raw_tracepoint", "kprobe.session")
    readers = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "pybpf").rglob("*.py")
        for word in words
        if re.search(rf'(==|in \(.*|startswith\(.*)"{re.escape(word)}', path.read_text())
    ]
    assert set(readers) <= {"pybpf/obj/sections.py"}


def test_an_error_of_the_row_is_the_callers() -> None:
    """`attach` raises what `problem` says."""
    with pytest.raises(BpfError, match="does not say where to attach"):
        table.attach("xdp", _Asked())  # type: ignore[arg-type]


class _Asked:
    section = "xdp"
    target = ""
