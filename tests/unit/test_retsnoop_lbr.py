"""retsnoop's last branch records, from recorded samples."""

from __future__ import annotations

import struct

import pytest

from pybpf._uapi.perf import PerfBranch
from pybpf.tools.retsnoop.events import Branch, Branches, decode
from pybpf.tools.retsnoop.lbr import branch_lines, jumps, parse_branches

# As a machine recorded them, newest first: two of the tracing, then the failing function's.
RECORDED = (
    Branch(0x9010, 0x8000),
    Branch(0x8055, 0x9000),
    Branch(0x3099, 0x2014),
    Branch(0x30A0, 0x3090),
    Branch(0x20C4, 0x3000),
)
NAMES = {0x2000: "do_filp_open", 0x3000: "path_openat", 0x8000: "bpf_trampoline_1", 0x9000: "enter"}


class Symbols:
    def lookup(self, addr: int) -> tuple[str, str, int] | None:
        start = addr & ~0xFFF
        return (NAMES[start], "mod" if start == 0x2000 else "", start) if start in NAMES else None


def lines(touching: int = 0x3000, *, whole: bool = False, most: int = 0) -> list[str]:
    found = jumps(RECORDED, Symbols(), touching=touching, whole=whole, most=most)
    return list(branch_lines(*found))


def test_branches_up_to_the_failure() -> None:
    """Oldest first, numbered from the newest; what the tracing itself did is left out."""
    assert lines() == [
        "[#02] do_filp_open+0xc4 [mod]  ->  path_openat+0x0",
        "[#01] path_openat+0xa0         ->  path_openat+0x90",
        "[#00] path_openat+0x99         ->  do_filp_open+0x14 [mod]",
    ]
    assert lines(most=1) == ["[#00] path_openat+0x99  ->  do_filp_open+0x14 [mod]"]


def test_all_branches() -> None:
    """--debug full-lbr; and where none touches the function, all are shown with a note."""
    assert len(lines(whole=True)) == 5
    assert lines(0x5000)[0] == "(none of these branches touches the function that failed)"
    assert len(lines(0x5000)) == 6
    assert list(branch_lines([], False)) == ["(no branches were recorded)"]


def test_unknown_addresses() -> None:
    found = jumps((Branch(0x50, 0x60),), Symbols(), touching=0, whole=False, most=0)
    assert list(branch_lines(*found))[-1] == "[#00] 0x50  ->  0x60"


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("", PerfBranch.PERF_SAMPLE_BRANCH_ANY_RETURN),
        ("any", PerfBranch.PERF_SAMPLE_BRANCH_ANY),
        ("call_stack", PerfBranch.PERF_SAMPLE_BRANCH_CALL_STACK),
        ("0x28", 0x28),
        ("40", 40),
    ],
)
def test_kinds_of_branches(text: str, bits: int) -> None:
    assert parse_branches(text) == bits


def test_record() -> None:
    """`struct perf_branch_entry`: from, to, and bits that are not shown."""
    record = struct.pack("<IIiI6Q", 10, 3, 812, 48, 1, 2, 99, 3, 4, 99)
    assert decode(record) == Branches(3, 812, (Branch(1, 2), Branch(3, 4)))
