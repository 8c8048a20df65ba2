"""Executables and libraries by name, and functions in them by symbol, against what is loaded."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pybpf.errors import BpfError, ObjectFormatError
from pybpf.links.binary import Place, find_binary, find_place, find_places


def mapped(address: int) -> tuple[str, int]:
    """File and offset in it of an address in this process, as /proc/self/maps tells."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, _, offset, _, _, *path = line.split(maxsplit=5)
        low, high = (int(bound, 16) for bound in bounds.split("-"))
        if low <= address < high:
            return path[0], address - low + int(offset, 16)
    raise AssertionError(f"{address:#x} is not mapped")


@pytest.mark.parametrize("name", ["malloc", "getppid", "fopen", "qsort", "pthread_create"])
def test_functions_of_libc_are_where_the_loader_put_them(name: str) -> None:
    """The dynamic linker's answer for the address and ours for the offset agree."""
    function = getattr(ctypes.CDLL("libc.so.6"), name)
    path, offset = mapped(ctypes.cast(function, ctypes.c_void_p).value or 0)
    place = find_place("libc.so.6", name)
    assert Path(place.path).resolve() == Path(path).resolve()
    assert (place.offset, place.inside) == (offset, 0)
    assert find_place(path, name) == Place(path, offset)
    assert (
        find_place(path, f"{name}+0x4")
        == find_place(path, f"{name}+4")
        == Place(path, offset + 4, 4)
    )


SOURCE = """
#include <stdio.h>
static int twice(int x) { return 2 * x; }
__attribute__((noinline)) int visible(int x) { return twice(x) + 1; }
int old_f(void) { return 1; }
int new_f(void) { return 2; }
__asm__(".symver old_f,f@OLD"); __asm__(".symver new_f,f@@NEW");
__asm__(".symver old_f,gone@OLD");
static int impl(void) { return 3; }
static void *pick(void) { return impl; }
int chosen(void) __attribute__((ifunc("pick")));
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with versions, a static function, an IFUNC, and two functions of one name."""
    if shutil.which("clang-19") is None:
        pytest.skip("clang-19 is missing: make setup-clang")
    where = tmp_path_factory.mktemp("library")
    used = "static int same(int x) { return x; } int (*use)(int) = same; int (*use2)(int) = twice;"
    other = "static int same(int x) { return x + 5; } int (*keep)(int) = same;"
    (where / "one.c").write_text(f"{SOURCE}{used}\n")
    (where / "two.c").write_text(f"{other}\n")
    (where / "map").write_text("OLD { global: f; gone; };\nNEW { global: *; } OLD;\n")
    options = ["-shared", "-fPIC", "-O1", "-Wl,--version-script=map"]
    command = ["clang-19", *options, "-o", "libmade.so", "one.c", "two.c"]
    subprocess.run(command, cwd=where, check=True)
    return where / "libmade.so"


def offset_of(library: Path, symbol: str, version: str = "") -> int:
    """File offset of a function, as the dynamic linker resolves it (dlsym, dlvsym)."""
    dl = ctypes.CDLL(str(library))
    if version:
        find = ctypes.CDLL(None).dlvsym
        find.restype, find.argtypes = (
            ctypes.c_void_p,
            [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p],
        )
        address = find(dl._handle, symbol.encode(), version.encode())
    else:
        address = ctypes.cast(getattr(dl, symbol), ctypes.c_void_p).value
    return mapped(address or 0)[1]


def test_versions(library: Path) -> None:
    """A name means its default version, and a version can be asked for; stripped or not."""
    old, new = offset_of(library, "f", "OLD"), offset_of(library, "f", "NEW")
    assert old != new == offset_of(library, "f")
    stripped = library.with_name("libstripped.so")
    subprocess.run(["strip", "-o", stripped, library], check=True)
    for file in (str(library), str(stripped)):
        assert find_place(file, "f").offset == new
        assert find_place(file, "f@OLD").offset == old
        assert find_place(file, "f@NEW").offset == find_place(file, "f@@NEW").offset == new
        assert find_place(file, "f@OLD+2") == Place(file, old + 2, 2)
        with pytest.raises(BpfError, match="it has versions: gone@OLD"):
            find_place(file, "gone")


def test_static_functions(library: Path) -> None:
    """Those that no other file can see are found, unless several have the name."""
    assert find_place(str(library), "twice").offset != find_place(str(library), "visible").offset
    with pytest.raises(BpfError, match="2 functions have this name"):
        find_place(str(library), "same")


def test_an_indirect_function_is_refused(library: Path) -> None:
    """A probe would be on what chooses the function, not on the function."""
    with pytest.raises(BpfError, match="IFUNC"):
        find_place(str(library), "chosen")


@pytest.mark.parametrize(
    ("symbol", "words"),
    [
        ("visibel", "near: visible"),
        ("visible+0x1000", "the function has 0x"),
        ("no_such_thing_at_all", "ENOENT"),
        ("printf", "ENOENT"),  # used, not defined here
        ("+4", "ENOENT"),
    ],
)
def test_what_is_not_there(library: Path, symbol: str, words: str) -> None:
    with pytest.raises(BpfError, match=words):
        find_place(str(library), symbol)


def test_paths(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `Path` is one also without a slash, where a str is a name to search for."""
    assert find_place(library, "visible") == find_place(str(library), "visible")
    assert find_places(library, "visible") == find_places(str(library), "visible")
    monkeypatch.chdir(library.parent)
    assert Path(find_binary(Path(library.name))).samefile(library)
    with pytest.raises(BpfError, match="ENOENT"):
        find_binary(library.name)


def test_programs_are_found_in_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PATH comes first, then /usr/bin; a file that may not be run is passed over."""
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "sh").write_text("#!")
    assert find_binary("sh") == "/usr/bin/sh"
    (tmp_path / "sh").chmod(0o755)
    assert find_binary("sh") == str(tmp_path / "sh")
    assert find_binary("./sh") == "./sh"


def test_libraries_are_found_in_ld_library_path(
    monkeypatch: pytest.MonkeyPatch, library: Path
) -> None:
    """LD_LIBRARY_PATH comes first, then the system's directories."""
    with pytest.raises(BpfError, match=r"library 'libmade\.so'"):
        find_binary("libmade.so")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/no/such:{library.parent}")
    assert find_binary("libmade.so") == str(library)
    assert find_place("libmade.so", "visible").path == str(library)
    assert Path(find_binary("libc.so.6")).samefile(
        mapped(ctypes.cast(ctypes.CDLL("libc.so.6").malloc, ctypes.c_void_p).value or 0)[0]
    )


def test_files_that_are_none(tmp_path: Path) -> None:
    """Not a file, not an ELF file, empty, cut short: an error each, and none waits."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    whole = Path(sys.executable).resolve().read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    for name in ("fifo", "."):
        with pytest.raises(BpfError, match=r"EINVAL|EISDIR"):
            find_place(str(tmp_path / name), "main")
    for name in ("empty", "cut"):
        with pytest.raises(ObjectFormatError):
            find_place(str(tmp_path / name), "main")


@pytest.mark.parametrize("step", range(40))
def test_damaged_libraries_raise_their_own_error(library: Path, tmp_path: Path, step: int) -> None:
    """Whatever bytes of the headers and tables are wrong: the answer, or one of our errors."""
    data = bytearray(library.read_bytes())
    chance = random.Random(step)
    for _ in range(12):
        data[chance.randrange(64 if step % 2 else len(data))] = chance.randrange(256)
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(data)
    for symbol in ("f", "f@OLD", "visible", "nope"):
        with contextlib.suppress(BpfError, ObjectFormatError):
            find_place(str(damaged), symbol)
