"""Find the tests that data files name as proofs."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from tests.support.sources import parsed

__all__ = ["exists"]

TESTS = Path(__file__).parents[1]


@cache
def _tests_of(file: str) -> set[str]:
    # Names of the tests in a file, found without importing it.
    return {
        node.name
        for node in ast.walk(parsed(TESTS / file))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def exists(proof: str) -> bool:
    """Tell whether a proof is there: FILE::TEST below tests/, or FILE for all of its tests."""
    file, _, name = proof.partition("::")
    return name in _tests_of(file) if name else bool(_tests_of(file))
