"""Debian programs that a guest has only on request: `vagrant/vm --with bpftrace`.

Each has its own archive, which follows the guest's image, so other runs neither fetch nor
unpack it. The program always comes from one Debian suite, and that suite's C
library is newer than the guest's Python knows. So it is in its own directory with every
library it needs, and a script on the PATH starts it through its own dynamic loader.

`NAME/current` in the cache names the version in use, as for kernels. It changes only on
`--update`, so a run needs no network once the archive exists.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from . import apt, cache, cpio
from .cache import VmError

__all__ = ["EXTRAS", "Extra", "archive"]

LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = f"{LIBRARIES}/ld-linux-x86-64.so.2"


@dataclasses.dataclass(frozen=True, slots=True)
class Extra:
    """Describe one of Debian's programs.

    :param package: package that has it; its dependencies come along if the program loads them
    :param program: its path in the package; the last part is its name in the guest
    """

    package: str
    suites: tuple[str, ...]
    program: str

    @property
    def name(self) -> str:
        return Path(self.program).name


TRIXIE = ("trixie", "trixie-updates", "trixie-security")
EXTRAS = {
    e.name: e
    for e in (
        Extra("bpftool", TRIXIE, "usr/sbin/bpftool"),
        Extra("bpftrace", TRIXIE, "usr/bin/bpftrace"),
        Extra("prometheus", TRIXIE, "usr/bin/prometheus"),
    )
}


def archive(name: str, *, update: bool = False) -> Path:
    """Return the program's archive. Fetch it if the cache lacks it, or on `update`."""
    extra = EXTRAS[name]
    home = cache.root() / "extras" / name
    if not update and (found := _cached(home)):
        return found
    with cache.locked():
        if not update and (found := _cached(home)):
            return found  # another process made it while we waited
        _fetch(extra, home)
    found = _cached(home)
    if not found:
        raise VmError(f"{name} vanished from {home}")
    return found


def _recipe() -> str:
    """Return a value that changes when this file would make another archive."""
    return cache.digest(
        *((Path(__file__).parent / f).read_bytes() for f in ("extras.py", "cpio.py"))
    )


def _cached(home: Path) -> Path | None:
    try:
        version, recipe = (home / "current").read_text().split()
    except (OSError, ValueError):
        return None
    path = home / version / "image"
    return path if recipe == _recipe() and path.is_file() else None


def _fetch(extra: Extra, home: Path) -> None:
    print(f"vm: fetching {extra.package} and its libraries", file=sys.stderr, flush=True)
    suite = apt.Suite(extra.name, extra.suites)
    suite.update()
    packages = suite.closure(extra.package)
    version = re.sub(r"[^A-Za-z0-9.+~-]", "_", packages[extra.package])
    with cache.staged(home / version) as work, tempfile.TemporaryDirectory(dir=work) as scratch:
        tree = Path(scratch) / "tree"
        tree.mkdir()
        for package, wanted in packages.items():
            deb = suite.download(package, wanted, Path(scratch))
            subprocess.run(["dpkg-deb", "-x", deb, tree], check=True, stdin=subprocess.DEVNULL)
            deb.unlink()
        packed = Path(scratch) / "cpio"
        with open(packed, "wb") as out:
            _pack(extra, tree, cpio.Writer(out))
        subprocess.run(
            ["zstd", "-q", "-9", "-T0", packed, "-o", work / "image"],
            check=True,
            stdin=subprocess.DEVNULL,
        )
    cache.write_atomic(home / "current", f"{version} {_recipe()}\n".encode())


def _pack(extra: Extra, tree: Path, writer: cpio.Writer) -> None:
    prefix = f"opt/{extra.name}"
    writer.file(f"{prefix}/ld.so", (tree / LOADER).read_bytes(), 0o755)
    writer.file(f"{prefix}/{extra.name}", (tree / extra.program).read_bytes(), 0o755)
    for name, path in _loaded(tree, extra.program).items():
        writer.file(f"{prefix}/lib/{name}", path.read_bytes(), 0o755)
    script = (
        "#!/bin/sh\n"
        f"exec /{prefix}/ld.so --inhibit-cache --library-path /{prefix}/lib "
        f'/{prefix}/{extra.name} "$@"\n'
    )
    writer.file(f"usr/bin/{extra.name}", script.encode(), 0o755)
    writer.close()


def _loaded(tree: Path, program: str) -> dict[str, Path]:
    """Find the libraries that the program loads, by name, as its own loader finds them."""
    command = [tree / LOADER, "--inhibit-cache", "--library-path", tree / LIBRARIES, "--list"]
    text = apt.run([*map(str, command), str(tree / program)])
    found = {}
    for line in text.splitlines():
        match = re.match(r"\s+(\S+) => (\S+)", line)
        if match and "/" not in match[1]:
            path = Path(match[2])
            if not path.is_relative_to(tree):
                raise VmError(f"no package that {program} depends on has {match[1]}")
            found[match[1]] = Path(os.path.realpath(path))
    if not found:
        raise VmError(f"{program}: its loader named no library")
    return found
