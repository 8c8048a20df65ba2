"""Choose how many examples a property test draws: all in `make test`, a third in `make unit`."""

from __future__ import annotations

import os

__all__ = ["examples"]

_ALL = "PYBPF_ALL_EXAMPLES" in os.environ


def examples(most: int) -> int:
    """Tell how many examples this run draws for a property.

    :param most: examples of a whole run
    """
    return most if _ALL else max(most // 3, 10)
