"""The kernels that tests run on: Debian's cloud kernels, unpacked from their packages, never
installed.

A row of rows.json names suites and a metapackage.  The metapackage's dependency names the real one,
and that (or, in newer releases, the -binary- package it depends on) holds the vmlinuz.
`row/current` in the cache names the version in use; it changes only on `--update`, so a run needs
no network once a kernel is there.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import cache
from .apt import Suite
from .cache import VmError

__all__ = ["Kernel", "Row", "kernel", "rows"]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of the kernel matrix."""

    name: str
    suites: tuple[str, ...]
    package: str
    lacks: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel ready to boot."""

    row: str
    release: str  # as uname -r says
    version: str  # of the package
    vmlinuz: Path


def rows() -> dict[str, Row]:
    """rows.json by name, in its order."""
    data = json.loads((Path(__file__).parent.parent / "rows.json").read_text())
    return {
        r["name"]: Row(r["name"], tuple(r["suites"]), r["package"], tuple(r["lacks"]))
        for r in data["rows"]
    }


def kernel(row: Row, *, update: bool = False) -> Kernel:
    """The row's kernel, fetched if the cache lacks it or if told to look for a newer one."""
    home = cache.root() / "kernels" / row.name
    if not update and (found := _cached(row, home)):
        return found
    with cache.locked():
        if not update and (found := _cached(row, home)):
            return found  # somebody else made it while we waited
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
    if not vmlinuz.is_file():
        return None
    return Kernel(row.name, facts["release"], facts["version"], vmlinuz)


def _depends(fields: dict[str, str], pattern: str) -> tuple[str, str] | None:
    """(package, version or "") of the first dependency whose name matches."""
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
    real = _depends(meta, r"linux-image-\d.*")
    if not real:
        raise VmError(f"{row.package} of row {row.name} depends on no linux-image package")
    fields = suite.show(real[0])
    binary = _depends(fields, r"linux-binary-\d.*")
    package = binary[0] if binary else real[0]
    if binary:
        fields = suite.show(package)
    version = fields["Version"]
    release = re.sub(r"^linux-(?:image|binary)-", "", package)
    name = re.sub(r"[^A-Za-z0-9.+~-]", "_", f"{release}_{version}")
    if not (home / name / "vmlinuz").is_file():
        with cache.staged(home / name) as work, tempfile.TemporaryDirectory(dir=work) as scratch:
            deb = suite.download(package, version, Path(scratch))
            _unpack(deb, release, Path(scratch), work)
            facts = {"release": release, "package": package, "version": version}
            (work / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    cache.write_atomic(home / "current", name.encode() + b"\n")


def _unpack(deb: Path, release: str, scratch: Path, work: Path) -> None:
    """vmlinuz out of a package, wherever this release of Debian puts it."""
    tree = scratch / "tree"
    tree.mkdir()
    subprocess.run(["dpkg-deb", "-x", deb, tree], check=True, stdin=subprocess.DEVNULL)
    places = (
        tree / f"boot/vmlinuz-{release}",
        tree / f"usr/lib/modules/{release}/vmlinuz",
        tree / f"lib/modules/{release}/vmlinuz",
    )
    for place in places:
        if place.is_file():
            shutil.copyfile(place, work / "vmlinuz")
            return
    raise VmError(f"{deb.name} has no vmlinuz in a known place")
