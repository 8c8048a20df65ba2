"""The kernels that tests run on: Debian's cloud kernels, unpacked from their packages, never
installed.

A row of rows.json names suites and a metapackage. The metapackage depends on the real package.
That one (or, in newer releases, the -binary- package it depends on) has the vmlinuz.
`row/current` in the cache names the version in use. It changes only on `--update`, so a run needs
no network once a kernel is cached.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import cache
from .apt import Suite
from .cache import VmError

__all__ = ["Kernel", "Row", "dependency", "kernel", "rows"]

ROWS = Path(__file__).parent.parent / "rows.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """Describe one row of the kernel matrix."""

    name: str
    suites: tuple[str, ...]
    package: str
    modules: tuple[str, ...]  # modules that a guest can load; their dependencies come along


@dataclasses.dataclass(frozen=True, slots=True)
class Kernel:
    """Describe a kernel that is ready to boot."""

    row: str
    release: str  # output of uname -r
    version: str  # version of the package
    vmlinuz: Path
    modules: Path  # a directory of NAME.ko and modules.dep


def rows() -> dict[str, Row]:
    """Read rows.json. Rows by name, in its order."""
    data = json.loads(ROWS.read_text())
    modules = tuple(data["modules"])
    return {
        r["name"]: Row(r["name"], tuple(r["suites"]), r["package"], modules) for r in data["rows"]
    }


def kernel(row: Row, *, update: bool = False) -> Kernel:
    """Return the row's kernel. Fetch it if the cache lacks it, or on `update`."""
    home = cache.root() / "kernels" / row.name
    if not update and (found := _cached(row, home)):
        return found
    with cache.locked():
        if not update and (found := _cached(row, home)):
            return found  # another process made it while we waited
        _fetch(row, home)
    found = _cached(row, home)
    if not found:
        raise VmError(f"the kernel of row {row.name} vanished from {home}")
    return found


def _cached(row: Row, home: Path) -> Kernel | None:
    try:
        name = (home / "current").read_text().strip()
        facts = json.loads((home / name / "facts.json").read_text())
    except (OSError, ValueError):
        return None
    vmlinuz = home / name / "vmlinuz"
    if not vmlinuz.is_file() or facts.get("modules") != list(row.modules):
        return None
    return Kernel(row.name, facts["release"], facts["version"], vmlinuz, home / name / "modules")


def dependency(fields: dict[str, str], pattern: str) -> tuple[str, str] | None:
    """Return (package, version or "") of the first dependency whose name matches."""
    for item in fields.get("Depends", "").split(","):
        found = re.match(r"\s*([a-z0-9][a-z0-9.+-]*)(?::\w+)?\s*(?:\(= ([^)]+)\))?", item)
        if found and re.fullmatch(pattern, found[1]):
            return found[1], found[2] or ""
    return None


def _fetch(row: Row, home: Path) -> None:
    print(f"vm: fetching the kernel of row {row.name}", file=sys.stderr, flush=True)
    suite = Suite(row.name, row.suites)
    suite.update()
    meta = suite.show(row.package)
    real = dependency(meta, r"linux-image-\d.*")
    if not real:
        raise VmError(f"{row.package} of row {row.name} depends on no linux-image package")
    fields = suite.show(real[0])
    binary = dependency(fields, r"linux-binary-\d.*")
    package = binary[0] if binary else real[0]
    if binary:
        fields = suite.show(package)
    version = fields["Version"]
    release = re.sub(r"^linux-(?:image|binary)-", "", package)
    name = re.sub(r"[^A-Za-z0-9.+~-]", "_", f"{release}_{version}")
    facts = {"release": release, "package": package, "version": version}
    with cache.staged(home / name) as work, tempfile.TemporaryDirectory(dir=work) as scratch:
        tree = Path(scratch) / "tree"
        tree.mkdir()
        needed = [package]
        if binary:  # newer releases have a separate package for the modules
            needed.append(f"linux-modules-{release}")
        for each in needed:
            deb = suite.download(each, version, Path(scratch))
            subprocess.run(["dpkg-deb", "-x", deb, tree], check=True, stdin=subprocess.DEVNULL)
        _take_vmlinuz(tree, release, work)
        _take_modules(tree, release, work / "modules", row.modules)
        text = json.dumps({**facts, "modules": list(row.modules)}, indent=1)
        (work / "facts.json").write_text(text + "\n")
    cache.write_atomic(home / "current", name.encode() + b"\n")


def _take_modules(tree: Path, release: str, into: Path, wanted: Sequence[str]) -> None:
    """Copy modules and their dependencies, uncompressed, with the modules.dep for modprobe."""
    files = {}
    for base in (tree / "usr/lib/modules" / release, tree / "lib/modules" / release):
        for path in base.rglob("*.ko*"):
            files[path.name.partition(".")[0].replace("-", "_")] = path
    into.mkdir()
    depends: dict[str, list[str]] = {}
    pending = list(wanted)
    while pending:
        name = pending.pop().replace("-", "_")
        if name in depends:
            continue
        if name not in files:
            raise VmError(f"the kernel {release} has no module {name} (rows.json asks for it)")
        data = files[name].read_bytes()
        if files[name].suffix == ".xz":
            data = lzma.decompress(data)
        elif files[name].suffix != ".ko":
            raise VmError(f"cannot unpack {files[name].name}: unknown compression")
        (into / f"{name}.ko").write_bytes(data)
        found = re.search(rb"\0depends=([^\0]*)\0", data)
        names = found[1].decode().replace("-", "_").split(",") if found else []
        depends[name] = [n for n in names if n]
        pending += depends[name]
    lines = []
    for name in sorted(depends):
        needs: list[str] = []  # all, each before those it needs: modprobe loads from the end
        queue = list(depends[name])
        while queue:
            each = queue.pop(0)
            needs = [n for n in needs if n != each] + [each]
            queue += depends[each]
        lines.append(f"{name}.ko: {' '.join(f'{n}.ko' for n in needs)}".rstrip() + "\n")
    (into / "modules.dep").write_text("".join(lines))


def _take_vmlinuz(tree: Path, release: str, work: Path) -> None:
    """Find vmlinuz in the unpacked packages, wherever this release of Debian puts it."""
    places = (
        tree / f"boot/vmlinuz-{release}",
        tree / f"usr/lib/modules/{release}/vmlinuz",
        tree / f"lib/modules/{release}/vmlinuz",
    )
    for place in places:
        if place.is_file():
            shutil.copyfile(place, work / "vmlinuz")
            return
    raise VmError(f"the package of kernel {release} has no vmlinuz in a known place")
