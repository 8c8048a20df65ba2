"""The kernel rows for tests: vagrant/rows.json, and the row that this process runs on."""

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
    """List all rows, in their order."""
    return list(_table())


def lacks(row: str) -> frozenset[str]:
    """Return features (`Feature.value`) that the row's kernel is known to lack."""
    return _table()[row]


def current() -> str:
    """Return the row this process runs on. HOST outside the guests."""
    return os.environ.get("PYBPF_VM_KERNEL", HOST)


def in_guest() -> bool:
    """Return True in a guest that vagrant/vm started."""
    return current() != HOST
