"""What is said where tracefs is not mounted, or has no list of functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpf.errors import BpfError, UnsupportedFeature
from pybpf.kernel import ftrace


def test_where_tracefs_is_not_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line: what is not mounted, and how to mount it. Not that ftrace may lack, too."""
    monkeypatch.setattr(ftrace, "tracefs_directories", lambda: ["/nowhere"])
    monkeypatch.setattr(ftrace, "required", lambda path, wanted_for: b"nodev\ttracefs\n")
    with pytest.raises(BpfError) as caught:
        ftrace.open_lists()
    assert str(caught.value) == (
        "tracefs is not mounted: ENOENT: No such file or directory "
        "(try: mount -t tracefs tracefs /sys/kernel/tracing)"
    )


def test_tracefs_of_a_kernel_without_ftrace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is mounted, so mounting it does not help; events can be read all the same."""
    (tmp_path / "README").touch()
    monkeypatch.setattr(ftrace, "tracefs_directories", lambda: ["/nowhere", str(tmp_path)])
    assert ftrace.tracefs() == str(tmp_path)
    with pytest.raises(UnsupportedFeature, match="CONFIG_DYNAMIC_FTRACE is off"):
        ftrace.open_lists()
