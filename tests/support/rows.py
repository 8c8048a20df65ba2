"""The kernel rows as tests see them: vagrant/rows.json, and which row this process runs on."""

from __future__ import annotations

import json
import os
from pathlib import Path

__all__ = ["HOST", "current", "in_guest", "lacks", "names"]

ROOT = Path(__file__).resolve().parents[2]
HOST = "host"  # the running kernel, outside our guests


def _table() -> dict[str, frozenset[str]]:
    data = json.loads((ROOT / "vagrant/rows.json").read_text())
    return {row["name"]: frozenset(row["lacks"]) for row in data["rows"]}


def names() -> list[str]:
    """All rows, in their order."""
    return list(_table())


def lacks(row: str) -> frozenset[str]:
    """Features (`Feature.value`) that the row's kernel is known not to have."""
    return _table()[row]


def current() -> str:
    """The row this process runs on; HOST outside the guests."""
    return os.environ.get("PYBPF_VM_KERNEL", HOST)


def in_guest() -> bool:
    """True in a guest that vagrant/vm started."""
    return current() != HOST
