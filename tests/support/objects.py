"""BPF objects from Debian packages, fetched at test time and never committed.

`packaged()` downloads the packages with apt, takes their `*.o` files, cuts
embedded objects out of their executables and keeps all of it under
~/.cache/pybpf/objects, by package version. That folder may be deleted at any time.

`python3 -m tests.support.objects` fetches and lists them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.apt import AptError, download

__all__ = ["PACKAGES", "Packaged", "Unavailable", "cut_objects", "must_have", "packaged"]

SUITE = "trixie"
PACKAGES = ["libbpf-tools", "libxdp1", "xdp-tools"]
_EM_BPF = 247
# Seconds for which a download counts as the newest.
_FRESH = 7 * 24 * 3600


class Unavailable(Exception):
    """Report that the packages could not be downloaded and are not in the cache."""


@dataclass(frozen=True)
class Packaged:
    """Describe one object: its bytes, and which package version has it."""

    sha256: str
    package: str
    version: str
    path: Path

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()


def cut_objects(data: bytes) -> Iterator[bytes]:
    """Yield BPF ELF objects inside a file, found by their magic at 4-byte steps.

    An object ends where its section headers or the last of its sections end.
    """
    at = data.find(b"\x7fELF")
    while at >= 0:
        if at % 4 == 0 and len(data) >= at + 64:
            (machine,) = struct.unpack_from("<H", data, at + 18)
            shoff, entsize, count = (
                *struct.unpack_from("<Q", data, at + 40),
                *struct.unpack_from("<HH", data, at + 58),
            )
            if machine == _EM_BPF and at + shoff + count * entsize <= len(data):
                end = shoff + count * entsize
                for index in range(count):
                    kind, offset, size = (
                        *struct.unpack_from("<I", data, at + shoff + index * entsize + 4),
                        *struct.unpack_from("<QQ", data, at + shoff + index * entsize + 24),
                    )
                    if kind != 8:  # SHT_NOBITS
                        end = max(end, offset + size)
                yield data[at : at + end]
        at = data.find(b"\x7fELF", at + 4)


def must_have() -> bool:
    """Tell whether missing packages fail a test instead of skipping it (CI, `make test`)."""
    return os.environ.get("CI", "").lower() in ("1", "true") or bool(
        os.environ.get("PYBPF_REQUIRE_OBJECTS")
    )


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pybpf" / "objects"


def _unpack(deb: Path, into: Path) -> None:
    # NAME_VERSION_ARCH.deb -> into/NAME_VERSION/SHA256.bpf.o
    folder = into / deb.name.rpartition("_")[0]
    if folder.exists():
        return
    with tempfile.TemporaryDirectory(dir=into) as work:
        root, out = Path(work, "root"), Path(work, "out")
        out.mkdir()
        subprocess.run(["dpkg-deb", "-x", str(deb), str(root)], check=True, capture_output=True)
        for path in sorted(root.rglob("*")):
            if path.is_symlink() or not path.is_file():
                continue
            data = path.read_bytes()
            for found in [data] if path.suffix == ".o" else cut_objects(data):
                digest = hashlib.sha256(found).hexdigest()
                (out / f"{digest}.bpf.o").write_bytes(found)
        out.rename(folder)


def _refresh(cache_dir: Path) -> None:
    cache_dir.mkdir(parents=True, exist_ok=True)
    stamp = cache_dir / "checked"
    if stamp.exists() and time.time() - stamp.stat().st_mtime < _FRESH:
        return
    try:
        with tempfile.TemporaryDirectory(dir=cache_dir) as work:
            debs = download(PACKAGES, SUITE, Path(work))
            for package in PACKAGES:
                if not any(deb.name.startswith(package + "_") for deb in debs):
                    raise AptError(f"no package {package} in {SUITE}")
            for deb in debs:
                _unpack(deb, cache_dir)
            stamp.write_text("".join(f"{deb.name.rpartition('_')[0]}\n" for deb in debs))
    except (AptError, OSError, subprocess.SubprocessError) as err:
        if not stamp.exists():
            raise Unavailable(f"cannot download {', '.join(PACKAGES)}: {err}") from err


@cache
def packaged() -> dict[str, Packaged]:
    """Return all objects by sha256 of their bytes.

    :raises Unavailable: not in the cache, and the download failed
    """
    cache_dir = _cache()
    if shutil.which("apt-get") is None and not (cache_dir / "checked").exists():
        raise Unavailable("no apt-get on this machine")
    _refresh(cache_dir)
    found = {}
    for line in (cache_dir / "checked").read_text().split():
        package, _, version = line.partition("_")
        for path in sorted((cache_dir / line).glob("*.bpf.o")):
            digest = path.name.partition(".")[0]
            found.setdefault(digest, Packaged(digest, package, version, path))
    return found


if __name__ == "__main__":
    for one in packaged().values():
        print(one.package, one.version, one.sha256, one.path)
