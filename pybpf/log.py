"""Tell Python's standard logging what is done, under the loggers ``pybpf.AREA``.

A program that wants to see it imports `logging` itself. If nobody imported it, nothing is logged,
and pybpf does not pay for the import (12 ms).

| logger | level | what |
|---|---|---|
| ``pybpf`` | WARNING | what will take long |
| ``pybpf.obj`` | INFO | sections of an object that are skipped |
| ``pybpf.core`` | DEBUG | each CO-RE relocation: accesses, and the new value |
| ``pybpf.maps`` | DEBUG | maps that are created |
| ``pybpf.programs`` | DEBUG | programs that are loaded |
| ``pybpf.links`` | DEBUG | what is attached, and what is closed |
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["debug", "info", "wanted"]

_DEBUG, _INFO = 10, 20  # of the logging module


def wanted(area: str) -> bool:
    """Return True if somebody sees DEBUG records of an area. Ask before loops."""
    logging = sys.modules.get("logging")
    return logging is not None and bool(logging.getLogger(f"pybpf.{area}").isEnabledFor(_DEBUG))


def debug(area: str, text: str, *values: Any) -> None:
    """Log at level DEBUG.

    :param text: a ``%`` format
    """
    _log(_DEBUG, area, text, values)


def info(area: str, text: str, *values: Any) -> None:
    """Log at level INFO.

    :param text: a ``%`` format
    """
    _log(_INFO, area, text, values)


def _log(level: int, area: str, text: str, values: tuple[Any, ...]) -> None:
    logging = sys.modules.get("logging")
    if logging is not None:
        logging.getLogger(f"pybpf.{area}").log(level, text, *values)
