"""BTF in whatever it is wrapped in: one reader for every tool."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pybpf.btf import BtfKind, Int, Typedef
from pybpf.btf.encode import BtfBuilder
from pybpf.errors import ObjectFormatError
from pybpf.tools import bpfobj, btf
from pybpf.tools.inputs import read_btf
from tests.support.elfwriter import ElfWriter

EM_X86_64, ET_EXEC = 62, 2


def int_btf() -> bytes:
    builder = BtfBuilder()
    builder.add(Int("int", 4, 32))
    return builder.build()


def elf(raw: bytes | None) -> bytes:
    writer = ElfWriter(machine=EM_X86_64, type=ET_EXEC)
    if raw is not None:
        writer.section(".BTF", raw)
    return writer.build()


def test_every_wrapping(tmp_path: Path) -> None:
    """Raw, gzip, ELF of any machine, and ELF in gzip are the same types."""
    raw = int_btf()
    for number, data in enumerate([raw, gzip.compress(raw), elf(raw), gzip.compress(elf(raw))]):
        path = tmp_path / str(number)
        path.write_bytes(data)
        assert read_btf(path).find("int", BtfKind.INT) == 1


def test_a_base(tmp_path: Path) -> None:
    """Split BTF continues what the caller names, itself wrapped or not."""
    (tmp_path / "base").write_bytes(gzip.compress(int_btf()))
    base = read_btf(tmp_path / "base")
    builder = BtfBuilder(base)
    builder.add(Typedef("mod_t", 1))
    (tmp_path / "mod").write_bytes(builder.build())
    assert read_btf(tmp_path / "mod", tmp_path / "base").find("mod_t", BtfKind.TYPEDEF) == 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gzip.compress(int_btf())[:20], "gzip"),
        (b"\x1f\x8b broken", "gzip"),
        (gzip.compress(int_btf())[:10] + bytes(20), "gzip"),
        (elf(None), "no .BTF section"),
        (elf(int_btf())[:100], "outside the file"),
        (b"nonsense", "BTF"),
        (b"", "BTF"),
    ],
    ids=["cut", "broken", "zeros", "no-section", "cut-elf", "nonsense", "empty"],
)
def test_files_that_have_none(tmp_path: Path, data: bytes, words: str) -> None:
    """One error, which names the file and what is wrong with it."""
    path = tmp_path / "vmlinux"
    path.write_bytes(data)
    with pytest.raises(ObjectFormatError, match=words) as raised:
        read_btf(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_the_same_words_in_every_tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """btf.py and bpfobj.py say the same of the same file."""
    path = tmp_path / "vmlinux"
    path.write_bytes(elf(None))
    data = Path(__file__).resolve().parents[1] / "data/obj_data.bpf.o"
    assert btf.main(["dump", str(path)]) == 1
    first = capsys.readouterr().err.removeprefix("btf.py: ")
    assert bpfobj.main(["relocate", str(data), "--btf", str(path)]) == 1
    assert capsys.readouterr().err.removeprefix("bpfobj.py: ") == first
