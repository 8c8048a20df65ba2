"""Fixtures that several of the live tests use."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pybpf._uapi.enums import MapType
from pybpf.maps import Map


@contextmanager
def _mounted(kind: str, where: Path) -> Iterator[Path]:
    libc = ctypes.CDLL(None, use_errno=True)
    where.mkdir()
    if libc.mount(kind.encode(), os.fsencode(where), kind.encode(), 0, None) != 0:
        pytest.skip(f"cannot mount a {kind} file system: {os.strerror(ctypes.get_errno())}")
    yield where
    assert libc.umount2(os.fsencode(where), 0) == 0


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """Mount a bpf file system for this test."""
    with _mounted("bpf", tmp_path / "bpffs") as where:
        yield where


@pytest.fixture
def cgroup(tmp_path: Path) -> Iterator[Path]:
    """Make a new cgroup, wherever the machine has the hierarchy mounted."""
    with _mounted("cgroup2", tmp_path / "cgroup2") as root:
        own = root / f"pybpf-test-{os.getpid()}"
        own.mkdir()
        try:
            yield own
        finally:
            own.rmdir()


@pytest.fixture
def runs() -> Iterator[Map]:
    """An array of one u64, for `tests.support.counting`."""
    with Map.create_new(MapType.BPF_MAP_TYPE_ARRAY, 4, 8, 1, name="runs") as made:
        yield made
