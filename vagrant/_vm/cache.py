"""Files that set-up keeps between runs, in a directory that may be deleted at any time.

Everything in it is made under a temporary name and renamed into place. So a reader sees a complete
entry or none. One lock makes concurrent runs build an entry only once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["VmError", "digest", "locked", "root", "staged", "write_atomic"]


class VmError(Exception):
    """Report that the guest cannot be set up or started. The text says what to do."""


def root() -> Path:
    """Return `$PYBPF_CACHE`, or `~/.cache/pybpf` (or below `$XDG_CACHE_HOME`)."""
    chosen = os.environ.get("PYBPF_CACHE")
    if chosen:
        path = Path(chosen)
    else:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pybpf"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VmError(
            f"no cache folder {path}: {error.strerror}; set PYBPF_CACHE to a writable folder"
        ) from None
    return path


@contextlib.contextmanager
def locked(name: str = "lock") -> Iterator[None]:
    """Hold the cache's lock `name`, one process at a time. The kernel drops it if we die."""
    with open(root() / name, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yield a new directory. It becomes `target` if the block succeeds, and is deleted if not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    work.chmod(0o755)
    try:
        yield work
        if target.exists():
            shutil.rmtree(target)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the file in one step: readers see the old bytes or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def digest(*parts: bytes | str) -> str:
    """Make a short name from inputs. Parts are length-prefixed, so they cannot run together."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(b"%d:" % len(data))
        state.update(data)
    return state.hexdigest()[:20]
