"""The facade re-exports and nothing else; pinned names are there."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pybpf

ROOT = Path(__file__).resolve().parents[2]

PINNED = [
    "open",
    "RingBuffer",
    "BpfError",
    "VerifierError",
    "ObjectFormatError",
    "RelocationError",
    "UnsupportedFeature",
    "DeniedByPolicy",
    "PlanError",
]


@pytest.mark.parametrize("name", PINNED)
def test_pinned_name(name: str) -> None:
    assert hasattr(pybpf, name)
    assert name in pybpf.__all__


def test_all_is_true() -> None:
    """Every name in __all__ exists, once, and dir() offers it."""
    assert len(set(pybpf.__all__)) == len(pybpf.__all__)
    for name in pybpf.__all__:
        assert getattr(pybpf, name) is not None
    assert set(pybpf.__all__) <= set(dir(pybpf))


@pytest.mark.parametrize("name", [n for n in pybpf.__all__ if not n.startswith("__")])
def test_public_names_are_documented(name: str) -> None:
    """A public class or function has a docstring."""
    thing = getattr(pybpf, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert inspect.getdoc(thing)


def test_error_tree() -> None:
    """What callers may catch: OSError for the kernel's answers, ValueError for bad input."""
    assert issubclass(pybpf.BpfError, OSError)
    assert issubclass(pybpf.VerifierError, pybpf.BpfError)
    assert issubclass(pybpf.DeniedByPolicy, pybpf.BpfError)
    assert issubclass(pybpf.UnsupportedFeature, pybpf.BpfError)
    for name in ("ObjectFormatError", "RelocationError", "PlanError"):
        assert issubclass(getattr(pybpf, name), ValueError)


def test_help_leads_on() -> None:
    """help(pybpf.Object) names what one meets next, and each of these has a page of its own."""
    page = inspect.getdoc(pybpf.Object) or ""
    for name in ("Map", "Program", "LinkSet", "MultiLink", "RingBuffer", "Record"):
        assert f"`{name}`" in page and name in pybpf.__all__
        assert inspect.getdoc(getattr(pybpf, name))
    assert "to_dict" in dir(pybpf.Record) and "CharArray" in (inspect.getdoc(pybpf.Record) or "")
    for method in ("attach_multi", "attach"):
        assert "MultiLink" in str(inspect.signature(getattr(pybpf.Program, method)))


def test_public_modules_need_no_import_of_their_own() -> None:
    """Whatever was imported before, `import pybpf` gives every module that is said to be public."""
    page = (ROOT / "ARCHITECTURE.md").read_text("utf-8").split("## What is public")[1]
    names = set(re.findall(r"`pybpf\.(\w+)`", page.split("##")[0]))
    assert {"kernel", "features", "symbols", "trampoline"} <= names
    assert names <= set(pybpf.__all__)
    for name in sorted(names):
        code = f"import pybpf; assert pybpf.{name}.__name__ == 'pybpf.{name}'"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("name", pybpf.trampoline.__all__)
def test_names_of_trampoline_are_documented(name: str) -> None:
    """What `pybpf.trampoline` promises is there, once, with a docstring."""
    assert pybpf.trampoline.__all__.count(name) == 1
    assert name in dir(pybpf.trampoline)
    assert inspect.getdoc(getattr(pybpf.trampoline, name))
