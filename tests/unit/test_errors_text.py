"""Errors say who lacks a feature, and survive a pickle."""

from __future__ import annotations

import pickle

import pytest

from pybpf.errors import UnsupportedFeature


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            UnsupportedFeature("fsession", "7.0", "EINVAL"),
            "fsession is not supported by this kernel (needs Linux 7.0 or newer): EINVAL",
        ),
        (UnsupportedFeature("struct_ops", by="pybpf yet"), "struct_ops is not supported by pybpf"),
    ],
)
def test_who_lacks_a_feature(error: UnsupportedFeature, text: str) -> None:
    """What pybpf does not do is never blamed on the kernel."""
    assert str(error).startswith(text)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
