"""Errors say who lacks a feature, and survive a pickle."""

from __future__ import annotations

import pickle

import pytest

from pybpf.errors import BpfError, RelocationError, UnsupportedFeature


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


@pytest.mark.parametrize(("number", "name"), [(95, "EOPNOTSUPP"), (524, "ENOTSUPP"), (2, "ENOENT")])
def test_errno_names_are_the_kernels(number: int, name: str) -> None:
    """95 has two names in C; the kernel's is shown. 524 has none in C at all."""
    assert str(BpfError(number, "doing")).startswith(f"doing: {name}: ")


def test_relocation_error_names_file_program_and_instruction() -> None:
    error = RelocationError("nothing there", program="p", insn=3, file="x.bpf.o")
    assert str(error) == "x.bpf.o: program 'p': instruction 3: nothing there"
