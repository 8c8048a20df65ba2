"""Files that guests leave in $OUT, kept on the host below .vm-out: KIND/ROW/FILE.

The first guest of a session that brings files of a kind replaces all of the row's files of that
kind. Later guests add to them (a row may need several guests).
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from tests.support.rows import ROOT

__all__ = ["Results"]


class Results:
    """Keep the files of one session. `take` may be called from several threads.

    :ivar files: what this session brought, relative to `root`
    """

    def __init__(self, root: Path = ROOT / ".vm-out") -> None:
        self.root = root
        self.files: list[Path] = []
        self._seen: set[Path] = set()
        self._lock = threading.Lock()

    def take(self, brought: Path) -> None:
        """Move in what a guest left in the directory `brought`."""
        with self._lock:
            for path in sorted(p for p in brought.rglob("*") if p.is_file()):
                name = path.relative_to(brought)
                folder = name.parent
                if folder not in self._seen:
                    self._seen.add(folder)
                    shutil.rmtree(self.root / folder, ignore_errors=True)
                (self.root / folder).mkdir(parents=True, exist_ok=True)
                shutil.move(path, self.root / name)
                self.files.append(name)

    def of(self, kind: str) -> list[Path]:
        """Return this session's files of one kind, relative to `root`."""
        return [name for name in self.files if name.parts[0] == kind]
