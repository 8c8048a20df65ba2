"""What a loader must do: each row of tests/data/loader-features.toml has tests that prove it."""

from __future__ import annotations

import gzip
import tomllib
from pathlib import Path

import pytest

import pybpf
from pybpf.btf import Btf
from pybpf.elf import ElfFile
from pybpf.obj.reader import read_object
from pybpf.obj.sections import SECTIONS
from tests.support.elfwriter import ElfWriter
from tests.support.loaderfeatures import Row, rows
from tests.support.proofs import exists

DATA = Path(__file__).parents[1] / "data"
ROWS = rows()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    """Its proofs are tests that exist; if it is missing, a reason says so."""
    if row.missing:
        assert not row.proofs
        return
    assert row.proofs
    for proof in row.proofs:
        assert exists(proof), proof


ATTACH_KINDS = tomllib.loads((DATA / "attach-kinds.toml").read_text())


def test_every_way_to_attach_is_listed() -> None:
    """No section's way to attach is without a test that sees its program run and stop."""
    ways = {section.how for section in SECTIONS.values()}
    assert ways == set(ATTACH_KINDS) - {"none"} | set(ATTACH_KINDS["none"])


@pytest.mark.parametrize("way", sorted(set(ATTACH_KINDS) - {"none"}))
def test_way_to_attach(way: str) -> None:
    """The tests that prove it exist."""
    for proof in ATTACH_KINDS[way]:
        assert exists(proof), proof


def test_rows_are_told_apart() -> None:
    """No feature is listed twice in an area, and priorities are 0 or 1."""
    assert len({str(row) for row in ROWS}) == len(ROWS)
    assert {row.priority for row in ROWS} == {0, 1}


def test_unknown_sections_are_skipped() -> None:
    """Sections with other tools' data do not matter, whatever they hold."""
    writer = ElfWriter()
    code = bytes.fromhex("b7000000000000009500000000000000")
    writer.function("f", writer.text("xdp", code), code)
    for name in ("features", "xdp_metadata", ".hid_bpf_config", ".eh_frame"):
        writer.section(name, b"\xff" * 12)
    spec = read_object(writer.build())
    assert list(spec.programs) == ["f"] and not spec.maps


def test_the_btf_of_another_kernel(tmp_path: Path) -> None:
    """Raw, in gzip, in an ELF file or a `Btf`: programs are relocated against it alike."""
    vmlinux = DATA / "core_target.bpf.o"
    elf = ElfFile(vmlinux.read_bytes())
    section = elf.find(".BTF")
    assert section is not None
    blob = bytes(elf.contents(section))
    path = tmp_path / "vmlinux"
    path.write_bytes(blob)
    codes = set()
    for source in (path, blob, Btf(blob), gzip.compress(blob), vmlinux):
        with pybpf.open(DATA / "core_kinds.bpf.o", kernel_btf=source) as obj:
            linked = [obj.binding.linked(name) for name in obj.programs]
            assert any(one.core for one in linked)
            codes.add(b"".join(one.insns for one in linked))
    assert len(codes) == 1
