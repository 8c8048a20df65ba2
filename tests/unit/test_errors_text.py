"""Errors say who lacks a feature, and survive a pickle."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from pybpf.errors import (
    BpfError,
    DeniedByPolicy,
    ObjectFormatError,
    PlanError,
    RelocationError,
    StateError,
    UnsupportedFeature,
    VerifierError,
)
from pybpf.kernel import btf
from pybpf.links import uprobe
from pybpf.multi.reasons import Reason, Skipped


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            UnsupportedFeature("fsession", "7.0", "EINVAL"),
            "fsession is not supported by this kernel (in Linux since 7.0): EINVAL",
        ),
        (UnsupportedFeature("struct_ops", by="pybpf yet"), "struct_ops is not supported by pybpf"),
    ],
)
def test_who_lacks_a_feature(error: UnsupportedFeature, text: str) -> None:
    """What pybpf does not do is never blamed on the kernel."""
    assert str(error).startswith(text)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


_REFUSED = VerifierError(errno.EACCES, "p", "log\n", "the line", truncated=True)
_REFUSED.source = "x.c:12"


@pytest.mark.parametrize(
    "error",
    [
        BpfError(errno.EINVAL, "BPF_MAP_CREATE", "a hint"),
        DeniedByPolicy(errno.EPERM, "BPF_PROG_LOAD", "a hint"),
        ObjectFormatError("cut short", file="x.bpf.o", section="maps", offset=8),
        PlanError("nothing to attach to", skipped=[Skipped("f", "kvm", Reason.ALIAS, "why")]),
        RelocationError("nothing there", program="p", insn=3, file="x.bpf.o", source="x.c:1"),
        StateError("map 'm'"),
        UnsupportedFeature("fsession", "7.0", "EINVAL", by="pybpf"),
        _REFUSED,
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_pickle_loses_nothing(error: Exception) -> None:
    """Workers hand errors over as pickles, with what their callers knew."""
    if isinstance(error, BpfError | PlanError):
        error.add_context("program 'p'")
        error.add_context("x.bpf.o")
        assert str(error).startswith("x.bpf.o: program 'p': ")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize(("number", "name"), [(95, "EOPNOTSUPP"), (524, "ENOTSUPP"), (2, "ENOENT")])
def test_errno_names_are_the_kernels(number: int, name: str) -> None:
    """95 has two names in C; the kernel's is shown. 524 has none in C at all."""
    assert str(BpfError(number, "doing")).startswith(f"doing: {name}: ")


def test_relocation_error_names_file_program_and_instruction() -> None:
    error = RelocationError("nothing there", program="p", insn=3, file="x.bpf.o")
    assert str(error) == "x.bpf.o: program 'p': instruction 3: nothing there"


def test_a_module_that_is_not_loaded_says_nothing_of_versions(tmp_path: Path) -> None:
    """No newer kernel would help: the module has to be loaded."""
    with pytest.raises(UnsupportedFeature) as caught:
        btf.module("nope", directory=str(tmp_path))
    assert "not loaded" in str(caught.value) and "since" not in str(caught.value)


def test_uprobe_multi_says_what_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise BpfError(errno.EOPNOTSUPP, "BPF_LINK_CREATE")

    monkeypatch.setattr(uprobe.sys_link, "link_create_uprobe_multi", refuse)
    program = SimpleNamespace(fileno=lambda: 3)
    with pytest.raises(UnsupportedFeature, match=r"in Linux since 6\.6.*CONFIG_UPROBES"):
        uprobe.attach_uprobe_multi(program, "libc.so.6", "getppid")
