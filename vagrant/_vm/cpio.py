"""Write "newc" cpio archives, which the kernel unpacks as its first root file system."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

__all__ = ["Writer", "add_tree"]


class Writer:
    """Write entries straight to `out`. `close` writes the trailer. Everything belongs to root."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._inode = 0
        self._written = 0
        self._directories: set[str] = set()

    def _put(self, name: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        path = os.fsencode(name) + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        numbers = (self._inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(path), 0)
        head = b"070701" + b"".join(b"%08X" % n for n in numbers) + path
        pad = b"\0" * (-len(head) % 4)
        self._out.write(head + pad + data + b"\0" * (-len(data) % 4))
        self._written += len(head) + len(pad) + len(data) + -len(data) % 4

    def directory(self, name: str, mode: int = 0o755) -> None:
        """Add a directory, and those above it that the archive does not have yet."""
        name = name.strip("/")
        above = os.path.dirname(name)
        if above and above not in self._directories:
            self.directory(above)
        if name and name not in self._directories:
            self._directories.add(name)
            self._put(name, stat.S_IFDIR | mode, b"")

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        name = name.strip("/")
        self.directory(os.path.dirname(name))
        self._put(name, stat.S_IFREG | (mode & 0o777), data)

    def symlink(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        name = name.strip("/")
        self.directory(os.path.dirname(name))
        self._put(name, stat.S_IFLNK | 0o777, os.fsencode(target))

    def character_device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device node."""
        self.directory(os.path.dirname(name.strip("/")))
        self._put(name.strip("/"), stat.S_IFCHR | mode, b"", (major, minor))

    def copy(self, source: Path, name: str) -> None:
        """Add a file, link or directory as it is on the host. Other kinds are left out."""
        status = source.lstat()
        if stat.S_ISLNK(status.st_mode):
            self.symlink(name, os.readlink(source))
        elif stat.S_ISREG(status.st_mode):
            self.file(name, source.read_bytes(), status.st_mode)
        elif stat.S_ISDIR(status.st_mode):
            self.directory(name, status.st_mode & 0o777 | 0o700)

    def close(self) -> None:
        """Write the trailer and pad it: the kernel needs the next archive aligned to four bytes."""
        self._put("TRAILER!!!", 0, b"")
        self._out.write(b"\0" * (-self._written % 512))


def add_tree(
    writer: Writer, source: Path, name: str, keep: Callable[[Path], bool] = lambda path: True
) -> None:
    """Add everything below `source` as `name/...`, in sorted order. `keep` can leave files out."""
    writer.directory(name)
    pending: Iterable[Path] = sorted(source.iterdir())
    for path in pending:
        if keep(path):
            if path.is_dir() and not path.is_symlink():
                add_tree(writer, path, f"{name}/{path.name}", keep)
            else:
                writer.copy(path, f"{name}/{path.name}")
