"""Trampolines: what the kernel has (`images`), plans for many functions (`plan`), `classify`.

Names are resolved when they are first asked for: importing this package loads
no disassembler and touches no file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..multi.plan import Plan, Target
    from ..multi.resolve import plan
    from .classes import Attachment, Classes, classify
    from .image import TrampolineImage, image_of, images

__all__ = [
    "Attachment",
    "Classes",
    "Plan",
    "Target",
    "TrampolineImage",
    "classify",
    "image_of",
    "images",
    "plan",
]

_HOME = {
    "Attachment": ".classes",
    "Classes": ".classes",
    "Plan": "..multi.plan",
    "Target": "..multi.plan",
    "TrampolineImage": ".image",
    "classify": ".classes",
    "image_of": ".image",
    "images": ".image",
    "plan": "..multi.resolve",
}


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home, __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
