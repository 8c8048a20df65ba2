"""BTF of a vmlinux file: taken only if the file is of the running kernel."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pybpf.btf import Btf, BtfKind, Int
from pybpf.btf.encode import BtfBuilder
from pybpf.errors import UnsupportedFeature
from pybpf.kernel import btf as kernel_btf
from pybpf.kernel import vmlinuxfile
from pybpf.kernel.vmlinuxfile import build_id, find_btf, places
from tests.support.elfwriter import ElfWriter

IDENTITY = "45186057e914156a53d5093a605a4978275af2d2"
OTHER = "00" * 20


def notes(identity: str) -> bytes:
    """Two notes, as /sys/kernel/notes has them."""
    xen = struct.pack("=3I", 4, 5, 6) + b"Xen\0" + b"linux\0\0\0"
    return xen + struct.pack("=3I", 4, 20, 3) + b"GNU\0" + bytes.fromhex(identity)


def vmlinux(path: Path, identity: str, *, btf: bool = True, stripped: bool = False) -> str:
    """An ELF file with these notes, and BTF with one type. Stripped: without the contents."""
    types = BtfBuilder()
    types.add(Int("of_the_kernel", 4, 32))
    writer = ElfWriter(machine=62, type=2)
    writer.section(".notes", notes(identity))
    if btf:
        writer.section(".BTF", *([] if stripped else [types.build()]), type=8 if stripped else 1)
    path.write_bytes(writer.build())
    return str(path)


def test_the_build_id_is_among_other_notes() -> None:
    assert build_id(notes(IDENTITY)) == IDENTITY
    assert build_id(b"") == build_id(notes(IDENTITY)[:24]) == ""
    assert build_id(b"\xff" * 64) == ""


def test_the_file_of_this_kernel_is_taken(tmp_path: Path) -> None:
    """Files of other builds, without BTF, empty and broken ones are passed over, each with why."""
    (tmp_path / "empty").touch()
    (tmp_path / "broken").write_bytes(b"\x7fELF")
    paths = [
        str(tmp_path / "missing"),
        str(tmp_path / "empty"),
        str(tmp_path / "broken"),
        vmlinux(tmp_path / "other", OTHER),
        vmlinux(tmp_path / "bare", IDENTITY, btf=False),
        vmlinux(tmp_path / "debug", IDENTITY, stripped=True),
        vmlinux(tmp_path / "right", IDENTITY),
    ]
    data, refused = find_btf(paths, IDENTITY)
    assert Btf(data).find("of_the_kernel", BtfKind.INT) == 1
    empty, broken, other, bare, debug = refused
    assert "no .BTF section" in debug
    assert "empty" in empty and "broken" in broken
    assert "another build" in other and "no .BTF section" in bare


def test_the_build_id_may_be_in_a_section_of_its_own(tmp_path: Path) -> None:
    """Other notes in `.notes` do not hide it."""
    types = BtfBuilder()
    types.add(Int("of_the_kernel", 4, 32))
    writer = ElfWriter(machine=62, type=2)
    writer.section(".notes", notes(IDENTITY)[:24])
    writer.section(".note.gnu.build-id", notes(IDENTITY))
    writer.section(".BTF", types.build())
    (tmp_path / "vmlinux").write_bytes(writer.build())
    assert find_btf([str(tmp_path / "vmlinux")], IDENTITY) == (types.build(), [])


def test_without_the_kernels_build_id_none_is_taken(tmp_path: Path) -> None:
    data, (why,) = find_btf([vmlinux(tmp_path / "right", IDENTITY)], "")
    assert data == b"" and "kernel_btf=" in why


def test_places_are_named_after_release_and_build_id() -> None:
    found = places("6.1.0-9-amd64", IDENTITY, "/home/me")
    assert "/boot/vmlinux-6.1.0-9-amd64" in found
    assert f"/usr/lib/debug/.build-id/{IDENTITY[:2]}/{IDENTITY[2:]}.debug" in found
    assert not any(IDENTITY[2:] in path for path in places("6.1.0-9-amd64", ""))


def test_a_kernel_that_shows_no_btf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own reader takes such a file, or says why it takes none."""
    shown = str(tmp_path / "btf")
    file = vmlinux(tmp_path / "right", IDENTITY)
    monkeypatch.setattr(kernel_btf, "DIRECTORY", shown)
    monkeypatch.setattr(vmlinuxfile, "places", lambda release, identity: [file])
    monkeypatch.setattr(vmlinuxfile, "build_id", lambda notes: IDENTITY)
    assert kernel_btf.vmlinux(f"{shown}/vmlinux").find("of_the_kernel", BtfKind.INT) == 1
    monkeypatch.setattr(vmlinuxfile, "places", lambda release, identity: [])
    with pytest.raises(UnsupportedFeature, match="CONFIG_DEBUG_INFO_BTF"):
        kernel_btf.vmlinux(f"{shown}/vmlinux")
