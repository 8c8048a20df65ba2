"""Maps shared with a BPF program: what Python writes the program checks, and the other way round.

The program (tests/data/map_kinds.bpf.c) asserts in BPF and returns the line that failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pybpf
from pybpf.maps import possible_cpus
from tests.support.require import facts

pytestmark = pytest.mark.first_on("host", "latest")

DATA = Path(__file__).parents[1] / "data"
PACKET = bytes(64)


@pytest.fixture
def kinds() -> Iterator[pybpf.Object]:
    with pybpf.open(DATA / "map_kinds.bpf.o", facts=facts()) as obj:
        obj.load()
        yield obj


def test_each_kind_round_trips_through_bpf(kinds: pybpf.Object) -> None:
    """Typed keys and values mean the same to C and Python, for every map kind at once."""
    maps = kinds.maps
    cpus = possible_cpus()
    maps["hash"][(7, 80, 0)] = {"packets": 5_000_000_000, "delta": -3, "name": "eth0"}
    maps["lru_hash"][1] = -5
    maps["percpu_hash"][1] = [(10 + cpu, 0, b"") for cpu in range(cpus)]
    maps["lru_percpu_hash"][1] = 6
    maps["array"][3] = (33, 0, "")
    maps["percpu_array"][1] = list(range(cpus))
    maps["lpm"][(8, b"\x0a\0\0\0")] = 8
    maps["lpm"][(16, b"\x0a\1\0\0")] = 16
    for number in (1, 2, 3):
        maps["queue"].push(number)
        maps["stack"].push(number)
    maps["bloom"].push(77)
    with maps["array_of_maps"].new_inner() as one, maps["hash_of_maps"].new_inner() as two:
        one[1], two[1] = 21, 31
        maps["array_of_maps"][2] = one
        maps["hash_of_maps"][2] = two

        result = kinds.programs["round_trip"].test_run(PACKET)
        assert result.retval == 0, f"map_kinds.bpf.c:{result.retval} failed"

        assert one[1] == 22 and two[1] == 32
    first = maps["hash"][(7, 80, 0)]
    assert (first.packets, first.delta, first.name) == (5_000_000_001, -3, "eth0")
    assert maps["hash"].to_dict() == {
        (7, 80, 0): first,
        (8, 443, 0): (1, -1, b"from bpf\0\0\0\0"),
    }
    assert maps["lru_hash"].to_dict() == {1: -5, 2: -42}
    seen = maps["percpu_hash"][1]
    assert sorted(v.packets - 10 - cpu for cpu, v in enumerate(seen)) == [0] * (cpus - 1) + [100]
    assert seen.sum().packets == sum(v.packets for v in seen)
    assert maps["lru_percpu_hash"][1].sum() == 6 * cpus + 1
    assert maps["array"][3].delta == -33
    assert maps["percpu_array"][1].sum() == sum(range(cpus)) + 11
    assert maps["lpm"][(32, b"\x0a\1\2\3")] == 17
    assert maps["lpm"].to_dict() == {(8, b"\x0a\0\0\0"): 8, (16, b"\x0a\1\0\0"): 17}
    assert [maps["queue"].pop() for _ in range(3)] == [2, 3, 9]
    assert [maps["stack"].pop() for _ in range(3)] == [9, 2, 1]
    assert 77 in maps["bloom"]


def test_a_failed_check_names_its_line(kinds: pybpf.Object) -> None:
    """Without what Python should have written, the program says which line missed it."""
    line = kinds.programs["round_trip"].test_run(PACKET).retval
    source = (DATA / "map_kinds.bpf.c").read_text().splitlines()
    assert "CHECK(found)" in source[line - 1]


def test_tail_call_through_a_program_array(kinds: pybpf.Object) -> None:
    """A program put into the array is what the tail call reaches; taken out, it is not."""
    programs = kinds.maps["programs"]
    assert kinds.programs["jump"].test_run(PACKET).retval == 1
    programs[2] = kinds.programs["tail"]
    assert kinds.programs["jump"].test_run(PACKET).retval == 1234
    assert programs[2] == kinds.programs["tail"].info().id
    del programs[2]
    assert kinds.programs["jump"].test_run(PACKET).retval == 1


def test_stack_trace_map_holds_kernel_addresses(kinds: pybpf.Object) -> None:
    """A stack taken by a program reads back as addresses, innermost first, and can be deleted."""
    kinds.programs["take_stack"].test_run(ctx=bytes(64))
    number = kinds.globals.stack_id
    assert number >= 0
    stacks = kinds.maps["stacks"]
    frames = stacks[number]
    assert 2 <= len(frames) <= 64 and all(address >> 63 for address in frames)
    assert stacks.to_dict() == {number: frames} and list(stacks) == [number]
    del stacks[number]
    assert number not in stacks
