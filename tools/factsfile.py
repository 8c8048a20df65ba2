"""Facts of a kernel out of the file that ``features.py --save`` wrote."""

from __future__ import annotations

import json
from pathlib import Path

from pybpf.kernel.host import Facts

__all__ = ["read_facts"]


def read_facts(path: str | None) -> Facts:
    """The facts saved in a file; None is the running kernel's.

    :raises OSError: the file cannot be read
    :raises ValueError: it holds no facts
    """
    if path is None:
        return Facts()
    data = Path(path).read_bytes()
    try:
        return Facts.from_json(json.loads(data))
    except (ValueError, RecursionError) as error:
        text = f"{path}: not facts that features.py --save wrote: {error}"
        raise ValueError(text) from None
