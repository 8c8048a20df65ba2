"""Malformed objects: one ObjectFormatError (RelocationError when linking), quickly, in bounds."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pybpf.errors import ObjectFormatError, RelocationError
from pybpf.obj.externs import kconfig_values
from pybpf.obj.linker import Linker, LinkTarget
from pybpf.obj.reader import read_object
from tests.support.elfwriter import section_header
from tests.support.examples import examples

DATA = Path(__file__).parents[1] / "data"
NAMES = [
    *("obj_subprogs", "obj_data", "obj_externs", "obj_kconfig", "obj_maps", "obj_sections"),
    *("obj_struct_ops", "obj_arena", "obj_exception", "obj_unresolved", "fentry_args"),
]
SECONDS, MEGABYTES = 2, 200


@cache
def original(name: str) -> bytes:
    return (DATA / f"{name}.bpf.o").read_bytes()


def exercise(data: bytes) -> str:
    """Do all that can be done with an object without a kernel; says how it ended."""
    try:
        spec = read_object(data, "x.o")
    except ObjectFormatError as err:
        assert err.file == "x.o"
        assert err.section
        assert err.offset is not None
        return "refused"
    target = LinkTarget(ksym_addr=lambda name: 0)
    linker = Linker(spec, target)
    ended = "read"
    for name in spec.programs:
        try:
            linker.link(name)
        except (ObjectFormatError, RelocationError):
            ended = "not linked"
    try:
        spec.btf_for_load()
        if spec.btf is not None:
            kconfig_values(spec.externs, spec.btf, ["CONFIG_BPF=y"], target.virtual_kconfig)
    except (ObjectFormatError, RelocationError):
        ended = "no BTF"
    for one in spec.maps.values():
        one.kernel_name(spec.object_name)
    return ended


def timed(data: bytes) -> str:
    start = time.process_time()
    ended = exercise(data)
    assert time.process_time() - start < SECONDS
    return ended


@pytest.mark.parametrize("name", NAMES)
def test_originals_are_fine(name: str) -> None:
    """The objects that are broken below are whole to begin with."""
    assert timed(original(name)) in ("read", "not linked", "no BTF")


@pytest.mark.parametrize("name", NAMES)
def test_truncated(name: str) -> None:
    """Cut anywhere, an object is refused: section headers are the last thing in it."""
    data = original(name)
    for size in range(0, len(data), 61):
        assert timed(data[:size]) == "refused"


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(NAMES), st.lists(st.tuples(st.integers(0), st.integers(0, 7)), max_size=8))
def test_flipped_bits(name: str, flips: list[tuple[int, int]]) -> None:
    """A few flipped bits anywhere."""
    data = bytearray(original(name))
    for where, bit in flips:
        data[where % len(data)] ^= 1 << bit
    timed(bytes(data))


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(NAMES),
    st.lists(
        st.tuples(
            st.integers(0),
            st.sampled_from([0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 63, 2**64 - 1]),
            st.sampled_from([1, 2, 4, 8]),
        ),
        max_size=5,
    ),
)
def test_extreme_numbers(name: str, writes: list[tuple[int, int, int]]) -> None:
    """Extreme values written over fields of any width."""
    data = bytearray(original(name))
    for where, value, width in writes:
        at = where % (len(data) - 8)
        at -= at % width
        data[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
    timed(bytes(data))


def _field_changes(data: bytes, names: list[str], rng: random.Random) -> Iterator[bytes]:
    # Fields of what a reader trusts most: section headers, symbols, relocations, BTF.
    for name in names:
        try:
            header = section_header(data, name)
        except LookupError:
            continue
        start, size = struct.unpack_from("<QQ", data, header + 24)
        places = [header + at for at in (0, 4, 8, 24, 32, 40, 44, 56)]
        places += [start + 4 * rng.randrange(max(1, size // 4)) for _ in range(60)]
        for at in places:
            if at + 4 > len(data):
                continue
            value = rng.choice([0, 1, 7, 0xFF, 0xFFFFFFFF, rng.randrange(1 << 32), len(data)])
            yield data[:at] + struct.pack("<I", value) + data[at + 4 :]


@pytest.mark.parametrize("name", NAMES)
def test_forged_fields(name: str) -> None:
    """Each field of the parts that lead everywhere else, one at a time."""
    rng = random.Random(name)
    sections = [".symtab", ".strtab", ".shstrtab", ".BTF", ".BTF.ext", ".maps", ".text"]
    sections += [".rel.maps", ".rel.text", ".relsocket", ".rel.struct_ops.link", ".relraw_tp"]
    outcomes = {timed(data) for data in _field_changes(original(name), sections, rng)}
    assert "refused" in outcomes


@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(NAMES), st.sampled_from(NAMES), st.integers(0), st.integers(0))
def test_spliced(first: str, second: str, cut: int, resume: int) -> None:
    """The head of one object on the tail of another."""
    a, b = original(first), original(second)
    timed(a[: cut % len(a)] + b[resume % len(b) :])


@settings(max_examples=examples(100), deadline=None)
@given(st.binary(max_size=512), st.booleans())
def test_noise(noise: bytes, with_magic: bool) -> None:
    """Random bytes, with and without the ELF magic."""
    assert exercise((original("obj_data")[:64] if with_magic else b"") + noise) == "refused"


@pytest.mark.parametrize("name", ["obj_data", "obj_maps", "obj_externs"])
def test_memory(name: str) -> None:
    """Forged sizes do not make us allocate: 200 MB at most."""
    rng = random.Random(1)
    tracemalloc.start()
    try:
        for data in _field_changes(original(name), [".symtab", ".BTF", ".bss", ".data"], rng):
            tracemalloc.reset_peak()
            exercise(data)
            assert tracemalloc.get_traced_memory()[1] < MEGABYTES << 20
    finally:
        tracemalloc.stop()


def test_long_names_many_times() -> None:
    """All sections naming one long string, and overlapping: still quick and small."""
    count, body = 20_000, b"x" * 50_000 + b"\0"
    header = struct.Struct("<IIQQQQIIQQ")
    names = b"\0.rodata." + body
    rows = [header.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)]
    rows.append(header.pack(0, 3, 0, 0, 64, len(names), 0, 0, 0, 0))
    rows += [header.pack(1, 1, 0, 0, 64, len(names), 0, 0, 0, 0)] * count
    start = 64 + len(names)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01" + bytes(9),
        1, 247, 1, 0, 0, start, 0, 64, 0, 0, 64, len(rows), 1,
    )  # fmt: skip
    assert timed(head + names + b"".join(rows)) == "refused"
