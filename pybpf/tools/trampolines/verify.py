"""`trampolines verify`: compares the images with the kernel's links."""

from __future__ import annotations

import argparse
import math

from ..screen import Line, Screen

__all__ = ["verify_arguments", "verify_images"]


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``verify``."""
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="how long a disagreement must last, in seconds (default: %(default)s)",
    )


def verify_images(args: argparse.Namespace, screen: Screen) -> int:
    """``verify``: do the images agree with the links? 1 if they do not."""
    from ...trampoline.verify import survey

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
            many = "function" if len(found.changed) == 1 else "functions"
            changed = f", {len(found.changed)} {many} changed while reading"
        word = "verified" if not found.findings else f"{len(found.findings)} findings"
        screen.line(
            f"{screen.paint(word, '31' if found.findings else '32')}: {len(found.images)} images "
            f"with {calls} program calls, {len(found.attached)} attachments{changed}"
        )
    return 1 if found.findings else 0
