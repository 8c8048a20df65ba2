"""`trampolines dump`: show one image, instruction by instruction, each with its purpose."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ...wording import plain
from ..screen import Line, Screen, cut, many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...trampoline import TrampolineImage
    from ...trampoline.roles import Instruction

__all__ = ["dump", "dump_json", "dump_text", "find_image"]

# Widths of a listing: offset, bytes, instruction, and the least for its comment.
_OFFSET, _BYTES, _TEXT, _COMMENT = 6, 23, 45, 26


def dump(args: argparse.Namespace, screen: Screen) -> int:
    """Run ``dump``. Return 1 if the function has no trampoline."""
    image = find_image(args.function)
    if image is None:
        text = f"{_missing(args.function)}; see: {args.prog} list"
        print(f"{args.prog}: {plain(text)}", file=sys.stderr)
        return 1
    if args.json:
        screen.json(dump_json(image))
    else:
        dump_text(image, screen)
    return 0


def _missing(asked: str) -> str:
    # Images are named by BTF. Where it is not shown, nobody knows whose they are.
    from ...trampoline.image import images

    nameless = sum(not one.function for one in images())
    if not nameless:
        return f"{asked} has no trampoline{_unknown(asked)}"
    return f"no trampoline is known to be that of {asked}: {nameless} cannot be named without BTF"


def _unknown(asked: str) -> str:
    from ... import Facts
    from ...kernel.lookup import function_names, near_names

    name = asked.rpartition(":")[2]
    try:
        names = list(function_names(Facts.read()))
    except OSError:
        return ""
    if name in names or name.startswith("bpf_trampoline_"):
        return ""
    near = near_names(name, names)
    return ": the kernel has no such function" + (f" (perhaps {' or '.join(near)})" if near else "")


def find_image(asked: str) -> TrampolineImage | None:
    """Find the image of a function, or the image with that symbol."""
    from ...trampoline.image import image_of, images

    module, _, name = asked.rpartition(":")
    if name.startswith("bpf_trampoline_"):
        return next((one for one in images() if one.symbol == name), None)
    return image_of(name, module)


def _listing(code: Sequence[Instruction], screen: Screen, comments: bool) -> None:
    # The bytes are left out if the terminal has no room for them and the comments.
    narrow = screen.width is not None and screen.width < _OFFSET + _BYTES + _TEXT + _COMMENT
    for insn in code:
        name, _, operands = insn.text.partition(" ")
        text = f"{name:<7} {operands}"
        raw = "" if narrow else screen.paint(f"{insn.raw.hex():<22}", "2") + " "
        start = f"{insn.offset:4x}: {raw}"
        if not comments:
            room = None if screen.width is None else screen.width - _OFFSET - (0 if narrow else 23)
            screen.line(f"{start}{text if room is None else cut(text, room)}".rstrip())
            continue
        style = "31" if insn.role.name == "UNKNOWN" else "32"
        comment = plain(f"; {insn.comment}")
        if screen.width is not None:
            text = cut(text, _TEXT - 1)
            used = _OFFSET + (0 if narrow else _BYTES) + _TEXT
            comment = cut(comment, max(screen.width - used, 4))
        screen.line(f"{start}{text:<44} {screen.paint(comment, style)}")


def dump_text(image: TrampolineImage, screen: Screen) -> None:
    """Print facts, the function's entry, and the image."""
    code = image.code
    kinds = ", ".join(f"{n} {kind}" for kind, n in image.kinds.items()) or "no programs"
    size = many(image.size, "byte")
    lines = [
        Line(f"{image.function or image.symbol} ({image.module}): {kinds}", "1", 2),
        Line(f"image    {image.symbol} at {image.address:#x}, {size} of code", "", 9),
        Line(f"flags    {', '.join(image.flags.names) or 'none'}", "", 9),
    ]
    frame = [many(image.slots, "argument slot"), f"{many(code.stack_size, 'byte')} of frame"]
    for name, offset in (("ctx", code.ctx_offset), ("ret", code.ret_offset)):
        if offset is not None:
            frame.append(f"{name} at rbp{offset:+d}")
    lines.append(Line(f"frame    {', '.join(frame)}", "", 9))
    for number, one in enumerate(image.programs):
        who = f"id {one.id} {one.name}" if one.id is not None else one.call.symbol or "unknown"
        extra = f", cookie {one.call.cookie:#x}" if one.call.cookie else ""
        extra += ", sleepable" if one.call.sleepable else ""
        extra += ", detached" if one.call.detached else ""
        text = f"program  {number}: {one.call.kind} ({one.call.phase}), {who}{extra}"
        lines.append(Line(text, "", 9))
    lines += [Line(f"problem  {problem}", "31", 9) for problem in code.problems]
    screen.show(*lines)
    if image.entry is not None and image.function_address is not None:
        leads = "leads to the image" if image.patched else f"leads to {image.entry_symbol or '?'}"
        text = f"entry of {image.function} at {image.function_address:#x}: {leads}"
        screen.show("", Line(text, "", 2))
        _listing(image.entry_code, screen, comments=False)
    screen.show("", f"{image.symbol}:")
    _listing(code.instructions, screen, comments=True)


def dump_json(image: TrampolineImage) -> dict[str, object]:
    """Return everything that `dump_text` shows."""
    value = image.to_dict()
    value["entry_code"] = _instructions(image.entry_code)
    value["instructions"] = _instructions(image.code.instructions)
    return value


def _instructions(code: Sequence[Instruction]) -> list[dict[str, object]]:
    return [
        {
            "offset": insn.offset,
            "bytes": insn.raw.hex(),
            "text": insn.text,
            "role": insn.role.name,
            "index": insn.index,
            "target": None if insn.target is None else f"{insn.target:#x}",
            "symbol": insn.symbol,
        }
        for insn in code
    ]
