"""`trampolines verify`: compare the images with the kernel's links."""

from __future__ import annotations

import argparse
import sys

from ..progress import Waiting
from ..screen import Line, Screen, many

__all__ = ["verify_images"]


def verify_images(args: argparse.Namespace, screen: Screen) -> int:
    """Run ``verify``. Return 1 if the images do not agree with the links."""
    from ...trampoline.verify import survey

    with Waiting("comparing images with links", sys.stderr):
        found = survey(timeout=args.timeout)
    calls = sum(len(image.programs) for image in found.images)
    if args.json:
        screen.json(
            {
                "verified": not found.findings,
                "images": len(found.images),
                "calls": calls,
                "attached": len(found.attached),
                "findings": [finding.to_dict() for finding in found.findings],
                "changed": list(found.changed),
            }
        )
    else:
        screen.show(*(Line(str(finding), "31", 2) for finding in found.findings))
        changed = ""
        if found.changed:
            changed = f", {many(len(found.changed), 'function')} changed while reading"
        word = "verified" if not found.findings else many(len(found.findings), "finding")
        screen.line(
            f"{screen.paint(word, '31' if found.findings else '32')}: "
            f"{many(len(found.images), 'image')} with {many(calls, 'program call')}, "
            f"{many(len(found.attached), 'attachment')}{changed}"
        )
    return 1 if found.findings else 0
