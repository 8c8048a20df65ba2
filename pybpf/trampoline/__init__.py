"""Trampolines: what the kernel has (`images`), plans for many functions (`plan`), `classify`.

Names are resolved when they are first asked for: importing this package loads
no disassembler and touches no file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .classes import Attachment, Classes, classify
    from .image import TrampolineImage, image_of, images
    from .plans import Plan, Target
    from .targets import plan

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
    "Attachment": "classes",
    "Classes": "classes",
    "Plan": "plans",
    "Target": "plans",
    "TrampolineImage": "image",
    "classify": "classes",
    "image_of": "image",
    "images": "image",
    "plan": "targets",
}


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
