"""The SEC() table against libbpf's: all 116 patterns, and how names match them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybpf.obj.sections import SECTIONS, find, find_by_type

DATA = Path(__file__).parents[1] / "data"
ROWS = [
    line.split()
    for line in (DATA / "section-patterns.txt").read_text().splitlines()
    if not line.startswith("#")
]


def test_the_table_is_complete() -> None:
    """The 116 patterns of libbpf 1.8, each once, and no other."""
    assert len(ROWS) == 116
    assert {row.pattern for row in SECTIONS.values()} == {words[0] for words in ROWS}


@pytest.mark.parametrize("words", ROWS, ids=lambda words: words[0])
def test_pattern(words: list[str]) -> None:
    """Program type, attach type, autoattach and load flags of each pattern; how it matches."""
    pattern, prog_type, attach_type, auto, *flags = words
    name = pattern.removesuffix("+")
    row = find(name)
    assert row is not None
    assert (row.type, row.attach_type) == (int(prog_type), int(attach_type))
    assert row.auto == (auto == "auto")
    assert row.sleepable == ("sleepable" in flags)
    assert row.frags == ("frags" in flags)
    assert row.attach_btf == ("attach_btf" in flags)
    assert (find(name + "/extra") is row) == pattern.endswith("+")
    assert find(name + "x") is None


@pytest.mark.parametrize("name", ["", "/", "xdp/", "kprobe.multi.s", "Kprobe", "tc/", "maps/x"])
def test_unknown_names(name: str) -> None:
    """Names that libbpf does not know have no definition."""
    assert find(name) is None


def test_extra_may_have_slashes() -> None:
    """Everything behind the first slash is the target."""
    row = find("uprobe//usr/bin/env:main")
    assert row is not None and row.prefix == "uprobe"
    assert find("tc/ingress/x") is None


def test_exact_name_wins_over_prefix() -> None:
    """cgroup/sock_create is a name of its own, and cgroup/sock has no extra."""
    create = find("cgroup/sock_create")
    assert create is not None and create.prefix == "cgroup/sock_create"
    assert find("cgroup/sock/create") is None


def test_load_flags() -> None:
    """BPF_F_SLEEPABLE (1 << 4) and BPF_F_XDP_HAS_FRAGS (1 << 5), as UAPI bpf.h has them."""
    flags = {name: SECTIONS[name].prog_flags for name in ("fentry", "fentry.s", "xdp.frags")}
    assert flags == {"fentry": 0, "fentry.s": 16, "xdp.frags": 32}


def test_retprobes() -> None:
    """Exactly the k/u ret* prefixes fire at return."""
    assert {r.prefix for r in SECTIONS.values() if r.retprobe} == {
        "kretprobe", "kretsyscall", "kretprobe.multi", "uretprobe", "uretprobe.s",
        "uretprobe.multi", "uretprobe.multi.s",
    }  # fmt: skip


def test_find_by_type() -> None:
    """The first pattern with both types; none for types that go together nowhere."""
    for row in SECTIONS.values():
        found = find_by_type(row.type, row.attach_type)
        assert found is not None
        assert (found.type, found.attach_type) == (row.type, row.attach_type)
    by_fexit = find_by_type(SECTIONS["fexit"].type, SECTIONS["fexit"].attach_type)
    assert by_fexit is not None and by_fexit.prefix == "fexit"
    assert find_by_type(SECTIONS["xdp"].type, SECTIONS["fexit"].attach_type) is None
