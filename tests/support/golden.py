"""Trampoline listings without the parts that differ between boots, builds and CPUs.

A golden listing keeps what the kernel's code generator decides: instructions and their order,
registers, frame offsets, cookies, the functions called, how the traced function is entered.
Addresses become names. ``<prog X>`` and ``<code X>`` are struct bpf_prog and machine code of the
program X, ``<image>`` is the image's own descriptor, and branches inside the image go to labels.
Bytes, offsets and sizes are left out, and so is what the CPU's mitigations add (return thunks, call
depth accounting). So a golden listing is valid under emulation and on any host. Pure: an image in,
text out.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pybpf.trampoline.image import TrampolineImage
from pybpf.trampoline.roles import Instruction, Role

__all__ = ["difference", "normalise"]

_NUMBER = re.compile(r"-?(?:0x[0-9a-f]+|\d+)")
_ARGUMENTS = {Role.SAVE_ARG, Role.STACK_ARG, Role.RESTORE_ARG, Role.OUT_ARG}
_LABEL, _TEXT = 5, 37  # widths of the columns before the comment


def normalise(image: TrampolineImage, names: Mapping[str, str] | None = None) -> str:
    """Return the golden listing of an image.

    :param names: names for programs, by their kernel names; others keep theirs
    """
    return _Listing(image, names or {}).text()


def difference(golden: str, found: str, path: str, here: str) -> str:
    """Return a unified diff from a golden listing to what was found. "" if they are equal.

    :param path: path of the golden listing
    :param here: name of the other side
    """
    lines = difflib.unified_diff(
        golden.splitlines(), found.splitlines(), path, here, lineterm="", n=4
    )
    return "\n".join(lines)


@dataclass(slots=True)
class _Listing:
    image: TrampolineImage
    names: Mapping[str, str]

    def text(self) -> str:
        lines = [*self.head(), "", *self.body()]
        return "\n".join(line.rstrip() for line in lines) + "\n"

    # -- names

    def program(self, number: int | None) -> str:
        if number is None or not 0 <= number < len(self.image.programs):
            return "?"
        one = self.image.programs[number]
        return self.names.get(one.name, one.name or "?")

    def function(self, address: int | None) -> str:
        """Name an address in the traced function, "" if it is not one of its entry's."""
        start = self.image.function_address
        if address is None or start is None or not 0 <= address - start < 16:
            return ""
        offset = address - start
        return self.image.function + (f"+{offset:#x}" if offset else "")

    # -- facts

    def head(self) -> list[str]:
        image = self.image
        code, entry = image.code, image.entry
        kinds = ", ".join(f"{count} {kind}" for kind, count in image.kinds.items())
        frame = [f"{image.slots} argument slots", f"{code.stack_size} bytes"]
        for name, offset in (("ctx", code.ctx_offset), ("ret", code.ret_offset)):
            frame += [] if offset is None else [f"{name} at rbp{offset:+d}"]
        entered = "not known"
        if entry is not None:
            goes = "to the image" if image.patched else "elsewhere"
            entered = f"{entry.how} at {image.function}+{entry.offset:#x} {goes}"
        lines = [
            f"{image.function} ({image.module}): {kinds}",
            f"entry    {entered}",
            f"flags    {', '.join(image.flags.names)}",
            f"frame    {', '.join(frame)}",
        ]
        for number, one in enumerate(image.programs):
            extra = f", cookie {one.call.cookie:#x}" if one.call.cookie else ""
            extra += ", sleepable" if one.call.sleepable else ""
            what = f"{one.call.kind} ({one.call.phase})"
            lines.append(f"program  {self.program(number)}: {what}{extra}")
        return lines

    # -- code

    def body(self) -> list[str]:
        labels = self.labels()
        lines: list[str] = []
        before: tuple[Role, int | None] | None = None
        pending = ""  # label of an instruction that is left out
        for insn in self.image.code.instructions:
            label = pending or labels.get(insn.offset, "")
            pending = ""
            here = (insn.role, insn.index)
            aligned_already = insn.role is Role.ALIGN and here == before and not label
            if insn.role is Role.CALL_DEPTH or aligned_already:
                pending = label
                continue
            again = before is not None and before[0] is insn.role
            comment = "" if here == before else f"; {self.comment(insn, again)}"
            start = f"{label + ':' if label else '':<{_LABEL}}"
            lines.append(f"{start}{self.instruction(insn, labels):<{_TEXT}}{comment}")
            before = here
        return lines

    def labels(self) -> dict[int, str]:
        """Return offset -> label for the targets of the image's own branches."""
        code = self.image.code
        targets = {
            insn.target - code.address
            for insn in code.instructions
            if insn.target is not None and insn.text.startswith("j")
        }
        inside = sorted(offset for offset in targets if 0 <= offset < code.size)
        return {offset: f"L{number}" for number, offset in enumerate(inside, 1)}

    def instruction(self, insn: Instruction, labels: Mapping[int, str]) -> str:
        name, _, operands = insn.text.partition(" ")
        if insn.role is Role.RET:  # or a jump to a return thunk
            return "ret"
        if insn.role is Role.ALIGN:  # their number depends on the bytes before them
            return "nop ..."
        if insn.target is not None:
            operands = self.target(insn, labels)
        else:
            first, _, last = operands.rpartition(", ")
            if first and _NUMBER.fullmatch(last):
                operands = f"{first}, {self.constant(insn, last)}"
        operands = operands.replace("qword ptr ", "").replace(" + ", "+").replace(" - ", "-")
        return f"{name:<7} {operands}"

    def target(self, insn: Instruction, labels: Mapping[int, str]) -> str:
        assert insn.target is not None
        label = labels.get(insn.target - self.image.address)
        if label is not None:
            return label
        if insn.role is Role.CALL_PROG:
            return f"<code {self.program(insn.index)}>"
        if insn.role is Role.CALL_ORIG and (name := self.function(insn.target)):
            return name
        return insn.symbol or "<no symbol>"

    def constant(self, insn: Instruction, text: str) -> str:
        value = int(text, 0) & (1 << 64) - 1
        if insn.role in (Role.TRAMP_ENTER, Role.TRAMP_EXIT):
            return "<image>"
        if insn.role is Role.IP:
            return f"<{self.function(value) or 'not the function'}>"
        if insn.role in (Role.PROG_ENTER, Role.PROG_EXIT):
            return f"<prog {self.program(insn.index)}>"
        return text

    def comment(self, insn: Instruction, again: bool) -> str:
        words = insn.role.value
        if insn.index is None:
            return words
        if insn.role in _ARGUMENTS:
            slot = f"ctx[{insn.index}]"
            return slot if again else f"{words}: {slot}"
        return f"{self.program(insn.index)}: {words}"
