"""Fixtures that several of the live tests use."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A bpf file system of this test's own."""
    libc = ctypes.CDLL(None, use_errno=True)
    where = tmp_path / "bpffs"
    where.mkdir()
    if libc.mount(b"bpf", os.fsencode(where), b"bpf", 0, None) != 0:
        pytest.skip(f"cannot mount a bpf file system: {os.strerror(ctypes.get_errno())}")
    yield where
    assert libc.umount2(os.fsencode(where), 0) == 0
