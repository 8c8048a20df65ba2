"""Opening objects, against pyelftools and bpftool: ``python -m tests.bench object``.

pyelftools reads ELF only, so the first rows compare just that: sections,
symbols and relocations. pybpf skips the relocations of debug information, which
are most of a file; pyelftools is timed with all of them and without. The other
rows give pybpf's whole open, which also reads BTF, maps and variables, on
stripped objects as packages ship them and on one with DWARF as the compiler
leaves it. Last, two whole processes that load an object, one of them bpftool.
"""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from pybpf.elf import SHT_REL, ElfFile
from pybpf.obj.reader import read_object
from tests.bench.peer import best, line
from tests.support.objects import Unavailable, packaged
from tools.dev import build_bpf

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
SOURCE = ROOT / "pybpf/tools/retsnoop/retsnoop.bpf.c"
DEBUG = (".rel.debug", ".rel.BTF")

LOAD = """
import sys
sys.path.insert(0, {root!r})
import pybpf
with pybpf.open({path!r}) as obj:
    obj.load()
"""


def ours(data: bytes) -> int:
    """Sections, symbols and relocations by pybpf; how many symbols and relocations."""
    file = ElfFile(data)
    found = len(file.symbols)
    for section in file.sections:
        if section.type == SHT_REL:
            if not section.name.startswith(DEBUG):
                found += len(file.relocation_rows(section))
        else:
            file.contents(section)
    return found


def theirs(data: bytes, skip: tuple[str, ...] = DEBUG) -> int:
    """The same by pyelftools."""
    from elftools.elf.elffile import ELFFile
    from elftools.elf.relocation import RelocationSection
    from elftools.elf.sections import SymbolTableSection

    found = 0
    for section in ELFFile(io.BytesIO(data)).iter_sections():
        if isinstance(section, SymbolTableSection):
            found += sum(1 for symbol in section.iter_symbols() if symbol.name is not None)
        elif isinstance(section, RelocationSection):
            if not section.name.startswith(skip):
                found += sum(1 for rel in section.iter_relocations() if rel["r_info"] is not None)
        else:
            section.data()
    return found


def each(work: Callable[[bytes], object], objects: list[bytes]) -> Callable[[], float]:
    """A round: ns per object."""

    def one_round() -> float:
        # As timeit does: a collection would walk the heap that the peer's import built.
        gc.collect()
        gc.disable()
        try:
            start = time.perf_counter_ns()
            for data in objects:
                work(data)
            return (time.perf_counter_ns() - start) / len(objects)
        finally:
            gc.enable()

    return one_round


def process(*command: str, after: Callable[[], object] = lambda: None) -> Callable[[], float]:
    """A round: ns of a process from start to end."""
    # An installed library has its byte code.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def one_round() -> float:
        start = time.perf_counter_ns()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        took = time.perf_counter_ns() - start
        after()
        return float(took)

    return one_round


def unstripped() -> bytes | None:
    """retsnoop's object as clang makes it, DWARF included; None without clang-19."""
    if build_bpf.find_clang() is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "x.o")
        command = [build_bpf.CLANG, *build_bpf.FLAGS, "-c", str(SOURCE), "-o", str(target)]
        subprocess.run(command, cwd=ROOT, check=True)
        return target.read_bytes()


def main() -> list[str]:
    """Rows of the report."""
    try:
        objects = [one.data for one in packaged().values()]
        what = f"{len(objects)} packaged objects"
    except Unavailable:
        objects = [path.read_bytes() for path in sorted(DATA.glob("*_*.bpf.o"))]
        objects = [data for data in objects if b".maps" in data]
        what = f"{len(objects)} own objects"
    assert sum(map(ours, objects)) == sum(map(theirs, objects))

    least = best(
        {
            "elf": each(ours, objects),
            "open": each(read_object, objects),
            "pyelftools": each(lambda data: theirs(data, ()), objects),
            "pyelftools, no debug": each(theirs, objects),
        },
        rounds=9,
    )
    rows = [f"{'opening an object, ns':<44} {'pybpf':>9} {'peer':>9} {'ratio':>8}"]
    elf, whole, peer = least["elf"], least["open"], least["pyelftools"]
    rows.append(line(f"{what}, ELF: pyelftools", elf, peer, 1 / 50))
    rows.append(line("  without debug relocations there too", elf, least["pyelftools, no debug"]))
    rows.append(line("  whole open: pyelftools' ELF", whole, peer))

    with_dwarf = unstripped()
    if with_dwarf is not None:
        least = best(
            {
                "open": each(read_object, [with_dwarf]),
                "elf": each(ours, [with_dwarf]),
                "pyelftools": each(lambda data: theirs(data, ()), [with_dwarf]),
            },
            rounds=9,
        )
        size = f"{len(with_dwarf) >> 10} KiB with DWARF, whole open: pyelftools"
        rows.append(line(size, least["open"], least["pyelftools"]))
        rows.append(line("  ELF: pyelftools", least["elf"], least["pyelftools"], 1 / 50))
    return rows + _processes()


def _processes() -> list[str]:
    path = DATA / "map_kinds.bpf.o"
    pin = Path("/sys/fs/bpf") / f"bench-{uuid.uuid4().hex[:8]}"
    script = LOAD.format(root=str(ROOT), path=str(path))

    def unpin() -> None:
        for one in pin.iterdir():
            one.unlink()
        pin.rmdir()

    try:
        least = best(
            {
                "pybpf": process(sys.executable, "-c", script),
                "bpftool": process("bpftool", "prog", "loadall", str(path), str(pin), after=unpin),
                "python": process(sys.executable, "-c", "pass"),
            },
            rounds=7,
        )
    except (OSError, subprocess.CalledProcessError) as err:
        return [f"whole process that loads an object: not measured ({err})"]
    return [
        line("whole process that loads an object: bpftool", least["pybpf"], least["bpftool"]),
        line("  without the bare interpreter", least["pybpf"] - least["python"], least["bpftool"]),
    ]


if __name__ == "__main__":
    print("\n".join(main()))
