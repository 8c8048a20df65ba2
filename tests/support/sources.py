"""Read the project's Python sources as trees, each once, for the tests that look at the code."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

__all__ = ["parsed"]


@cache
def parsed(path: Path) -> ast.Module:
    """Parse a file. Tests share what this gives, so none of them changes it."""
    return ast.parse(path.read_text(), str(path))
