"""Make the copy of the checkout that a guest gets: the files git knows, with their byte code.

An emulated guest takes ten seconds and more to compile the package and its tests. The host does
that once per content.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

from . import cache, cpio

__all__ = ["CHECKOUT", "add", "files"]

CHECKOUT = Path(__file__).resolve().parent.parent.parent
PYTHON = "/usr/bin/python3"  # the guest's Python
PRUNED = {
    ".git",
    ".venv",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
}
KEEP_DAYS = 14
# Runs under PYTHON and reads [[source, name in the guest, byte code file], ...]. The byte code has
# a hash of the source, checked on import, so it stays right when a test edits a source file.
COMPILE = """
import json, os, py_compile, sys
mode = py_compile.PycInvalidationMode.CHECKED_HASH
for source, name, target in json.load(sys.stdin):
    part = f"{target}.{os.getpid()}"
    try:
        py_compile.compile(source, part, name, doraise=True, invalidation_mode=mode)
        os.replace(part, target)
    except (OSError, py_compile.PyCompileError):
        pass  # the guest will report it if it matters
"""


def files() -> list[Path]:
    """List what git tracks or would track. Without git, list everything except caches."""
    command = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others"]
    try:
        done = subprocess.run(
            [*command, "--exclude-standard"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            names = (Path(os.fsdecode(n)) for n in done.stdout.split(b"\0") if n)
            return sorted({n for n in names if os.path.lexists(CHECKOUT / n)})
    except FileNotFoundError:
        pass
    found = []
    for top, directories, names_here in os.walk(CHECKOUT):
        directories[:] = [d for d in directories if d not in PRUNED]
        found += [(Path(top) / n).relative_to(CHECKOUT) for n in names_here]
    return sorted(found)


def add(writer: cpio.Writer, where: str) -> None:
    """Put the checkout into the archive at `where`."""
    writer.directory(where)
    sources: list[tuple[Path, bytes]] = []
    for name in files():
        path = CHECKOUT / name
        try:
            if name.suffix == ".py" and path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                writer.file(f"{where}/{name}", data, path.stat().st_mode)
                sources.append((name, data))
            else:
                writer.copy(path, f"{where}/{name}")
        except FileNotFoundError:
            continue  # it was removed since it was listed
    for name, code in (_byte_code(sources, where) | _rewritten(sources)).items():
        writer.file(f"{where}/{name}", code)


def _byte_code(sources: list[tuple[Path, bytes]], where: str) -> dict[Path, bytes]:
    """Return `__pycache__` entries of source files. Compile those that the cache lacks."""
    tag = _tag()
    store = cache.root() / "pyc" / tag
    store.mkdir(parents=True, exist_ok=True)
    wanted: dict[Path, Path] = {}
    work = []
    for name, data in sources:
        kept = store / cache.digest(str(name), data)
        wanted[name.parent / "__pycache__" / f"{name.stem}.{tag}.pyc"] = kept
        if not kept.exists():
            work.append([str(CHECKOUT / name), f"{where}/{name}", str(kept)])
    if work:
        _prune(store)
        command = [PYTHON, "-I", "-c", COMPILE]
        subprocess.run(command, input=json.dumps(work).encode(), check=False)
    found = {}
    for name, kept in wanted.items():
        with contextlib.suppress(FileNotFoundError):  # not compiled, or pruned by another run
            found[name] = kept.read_bytes()
    return found


def _rewritten(sources: list[tuple[Path, bytes]]) -> dict[Path, bytes]:
    """Return byte code of tests that the host's pytest left, if the guest's can use it.

    pytest checks it by a hash of the source.
    """
    tag = _tag()
    found = {}
    for name, _ in sources:
        cached = CHECKOUT / name.parent / "__pycache__"
        for path in cached.glob(f"{name.stem}.{tag}-pytest-*.pyc"):
            found[path.relative_to(CHECKOUT)] = path.read_bytes()
    return found


def _tag() -> str:
    """Return the guest Python's name for its byte code, e.g. cpython-311."""
    command = [PYTHON, "-I", "-c", "import sys; print(sys.implementation.cache_tag)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _prune(store: Path) -> None:
    """Delete byte code that is two weeks old. If it is still needed, it is quickly made again.

    Other runs work in the same directory: files of theirs may be gone a moment later.
    """
    oldest = time.time() - KEEP_DAYS * 86400
    for path in store.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()
