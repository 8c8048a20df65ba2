#!/usr/bin/env python3
"""Compile the committed BPF objects from their sources, or prove that they match.

Every `*.bpf.c` under pybpf/tools/ and tests/data/ has its `*.bpf.o` beside it in the
repository, so that users need no compiler. `build_bpf.py` compiles all of them
(or the given files) with clang-19 and no other version, because another one emits
other instructions. `--check` compiles into a temporary directory instead and
compares what the kernel would run: decoded instructions, relocations by symbol
name, data and licence. Type information (.BTF, .BTF.ext) is not compared
byte by byte, because it contains source text. Map definitions exist only
there, so they are compared as the object reader sees them.

Exit status: 0 ok, 1 something failed or differs, 2 usage.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT)]

from pybpf.asm import Insn, decode  # noqa: E402
from pybpf.asm import text as asm_text  # noqa: E402
from pybpf.elf import SHF_EXECINSTR, SHT_REL, STT_SECTION, ElfFile  # noqa: E402
from pybpf.obj.reader import read_object  # noqa: E402
from pybpf.obj.spec import MapSpec  # noqa: E402
from pybpf.tools.entry import run  # noqa: E402

__all__ = [
    "Contents",
    "check",
    "compile_object",
    "contents",
    "differences",
    "find_clang",
    "map_definitions",
    "sources",
]

CLANG = "clang-19"
STRIP = "llvm-strip-19"
SOURCE_DIRS = ("pybpf/tools", "tests/data", "tools/examples")

# No path of this machine may get into the object: BTF line info has file names.
FLAGS = [
    *("-target", "bpf", "-mcpu=v3", "-O2", "-g", "-std=gnu11", "-Wall", "-Werror"),
    *("-fdebug-compilation-dir=.", "-Ipybpf/include"),
]

SHF_ALLOC = 0x2


@dataclass(frozen=True, slots=True)
class Contents:
    """Hold the parts of an object file that reach the kernel.

    :ivar code: executable section name -> instructions, one per 8-byte slot
    :ivar data: other loaded section name -> bytes (zeros for .bss)
    :ivar relocs: section name -> (byte offset, type, symbol name) in file order
    """

    code: dict[str, tuple[Insn, ...]]
    data: dict[str, bytes]
    relocs: dict[str, tuple[tuple[int, int, str], ...]]


def sources() -> list[Path]:
    """List every `*.bpf.c` with a committed object, sorted, relative to the root."""
    found = (p for d in SOURCE_DIRS for p in (ROOT / d).rglob("*.bpf.c"))
    return sorted(p.relative_to(ROOT) for p in found)


def find_clang() -> str | None:
    """Return the path of clang-19 if it and its strip are installed, else None."""
    return shutil.which(CLANG) if shutil.which(STRIP) else None


def compile_object(source: Path, target: Path) -> None:
    """Compile `source` (relative to the root) to `target`. CalledProcessError if clang fails."""
    subprocess.run([CLANG, *FLAGS, "-c", str(source), "-o", str(target)], cwd=ROOT, check=True)
    subprocess.run([STRIP, "-g", str(target)], cwd=ROOT, check=True)


def contents(elf: bytes, name: str = "") -> Contents:
    """Read an object.

    :param name: file name for messages
    :raises ObjectFormatError: not a BPF object
    """
    file = ElfFile(elf, name)
    code: dict[str, tuple[Insn, ...]] = {}
    data: dict[str, bytes] = {}
    relocs: dict[str, tuple[tuple[int, int, str], ...]] = {}
    for section in file.sections:
        body = bytes(file.contents(section))
        if section.type == SHT_REL and file.sections[section.info].flags & SHF_ALLOC:
            relocs[file.sections[section.info].name] = tuple(
                (rel.offset, rel.type, _symbol(file, rel.symbol))
                for rel in file.relocations(section)
            )
        elif section.flags & SHF_EXECINSTR and body:
            code[section.name] = tuple(decode(body))
        elif section.flags & SHF_ALLOC:
            data[section.name] = body or bytes(section.size)
    return Contents(code, data, relocs)


def _symbol(file: ElfFile, index: int) -> str:
    symbol = file.symbols[index]
    return file.sections[symbol.shndx].name if symbol.type == STT_SECTION else symbol.name


def differences(old: Contents, new: Contents) -> Iterator[str]:
    """Yield one line per difference between the committed (`old`) and the fresh object."""
    for what, a, b in (
        ("instructions", old.code, new.code),
        ("data", old.data, new.data),
        ("relocations", old.relocs, new.relocs),
    ):
        for name in sorted(a.keys() | b.keys()):
            if name not in b:
                yield f"{what} of {name!r}: only in the committed object"
            elif name not in a:
                yield f"{what} of {name!r}: only in the fresh object"
            elif a[name] != b[name]:
                yield f"{what} of {name!r}: {_first_difference(a[name], b[name])}"


def _first_difference(a: Sequence[object], b: Sequence[object]) -> str:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return f"item {i} is {_show(x)}, but the source gives {_show(y)}"
    return f"{len(a)} items, but the source gives {len(b)}"


def _show(item: object) -> str:
    return asm_text.line(item) if isinstance(item, Insn) else repr(item)


def map_definitions(elf: bytes, name: str = "") -> dict[str, str]:
    """Return map name -> its definition as text, as the library's object reader sees it.

    For an object that must be refused, return the reason under the name "".
    """
    from pybpf.errors import ObjectFormatError

    try:
        return {m.name: _map_text(m) for m in read_object(elf, name).maps.values()}
    except ObjectFormatError as err:
        return {"": err.what}


def _map_text(spec: MapSpec) -> str:
    inner = f" of {_map_text(spec.inner)}" if spec.inner else ""
    sizes = f"key {spec.key_size}, value {spec.value_size}, max_entries {spec.max_entries}"
    return f"type {spec.type}, {sizes}, flags {spec.map_flags:#x}{inner}"


def check(source: Path) -> list[str]:
    """List how the committed object of `source` differs from a fresh one. [] if it does not."""
    committed = (ROOT / source).with_suffix(".o")
    if not committed.exists():
        return ["there is no committed object"]
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / committed.name
        compile_object(source, target)
        old, new = committed.read_bytes(), target.read_bytes()
    found = list(differences(contents(old, str(committed)), contents(new)))
    old_maps, new_maps = map_definitions(old), map_definitions(new)
    for name in sorted(old_maps.keys() | new_maps.keys()):
        if old_maps.get(name) != new_maps.get(name):
            found.append(
                f"map {name!r}: {old_maps.get(name)}, the source gives {new_maps.get(name)}"
            )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compile the BPF objects, or check them.")
    parser.add_argument("files", nargs="*", type=Path, help="*.bpf.c files (default: all of them)")
    parser.add_argument(
        "--check", action="store_true", help="compare with the committed objects and write nothing"
    )
    args = parser.parse_args(argv)
    if find_clang() is None:
        print(
            f"build_bpf: needs {CLANG} and {STRIP} (apt install clang-19 llvm-19)", file=sys.stderr
        )
        return 1
    failed = 0
    for source in [f.resolve().relative_to(ROOT) for f in args.files] or sources():
        try:
            if args.check:
                problems = check(source)
                print(f"{source}: {'differs' if problems else 'ok'}")
                for problem in problems:
                    print(f"    {problem}")
                failed += bool(problems)
            else:
                compile_object(source, (ROOT / source).with_suffix(".o"))
                print(f"{source.with_suffix('.o')}")
        except subprocess.CalledProcessError:
            failed += 1  # the compiler has reported why
    return 1 if failed else 0


if __name__ == "__main__":
    run("build_bpf.py", main)
