"""Steps over very many values."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpf.bulk import places_of, shared_prefixes, uncollected, zeros


def test_one_for_each_first_letter() -> None:
    assert shared_prefixes(["vfs_read", "vfs_write", "tcp_ack"], 2) == ["vfs_", "tcp_ack"]
    assert shared_prefixes(["vfs_read", "vfs_write", "tcp_ack"], 1) == []
    assert shared_prefixes(["ab", "a", "abc"], 2) == ["a"]
    assert shared_prefixes([], 2) == []


@given(st.sets(st.text("abc_", min_size=1, max_size=5)))
def test_every_name_starts_with_exactly_one(names: set[str]) -> None:
    """No name is found twice, and a longer prefix would lose one."""
    prefixes = shared_prefixes(names, 9)
    for name in names:
        assert sum(name.startswith(prefix) for prefix in prefixes) == 1
    for prefix in prefixes:
        mine = [name for name in names if name.startswith(prefix)]
        assert len({name[: len(prefix) + 1] for name in mine}) > 1 or prefix in mine


@given(st.lists(st.sampled_from([0, 0, 1, 0x100, 0x10000, 0x1000000, 0x01020304])))
def test_zeros_and_places_are_those_that_a_look_at_each_finds(numbers: list[int]) -> None:
    """Zero bytes that belong to two numbers are no zero."""
    places = [at for at, number in enumerate(numbers) if not number]
    assert zeros(array("I", numbers)) == zeros(array("Q", numbers)) == places
    assert places_of(0, numbers) == places
    assert places_of(0, bytearray(map(bool, numbers))) == places


@pytest.fixture(params=[True, False], ids=["on", "off"])
def collecting(request: pytest.FixtureRequest) -> Iterator[bool]:
    """The collector is on or off before."""
    former = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if former else gc.disable)()


def test_the_collector_is_as_before(collecting: bool) -> None:
    """Also after an error, and one block inside another ends nothing early."""
    with uncollected():
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled() is collecting
    with pytest.raises(ZeroDivisionError), uncollected():
        _ = 1 // 0
    assert gc.isenabled() is collecting
