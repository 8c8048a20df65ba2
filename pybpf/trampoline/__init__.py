"""Look at the trampolines the kernel has (`images`) and at functions that could share one.

A name is imported when it is first used. Importing this package alone loads no
disassembler and touches no file.
"""

from __future__ import annotations

from .._lazy import lazy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..multi.plan import Plan
    from ..multi.resolve import plan
    from ..multi.target import Target
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

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Attachment": ".classes",
        "Classes": ".classes",
        "Plan": "..multi.plan",
        "Target": "..multi.target",
        "TrampolineImage": ".image",
        "classify": ".classes",
        "image_of": ".image",
        "images": ".image",
        "plan": "..multi.resolve",
    },
)
