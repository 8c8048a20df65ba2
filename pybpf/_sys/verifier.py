"""Find the lines of a verifier log that say what is wrong.

Up to Linux 7.2 the log of a refused program ends with the faulty instruction, what
the verifier says about it, and statistics. From 7.3 on, a report in paragraphs
("Verification failed: ...", then Reason, At, Causal path, Suggestion) may stand
between the last two. Many refusals still come without one.
"""

from __future__ import annotations

import re

__all__ = ["said_something", "summary"]

# Logs may have 50 MB. What matters is at the end.
_TAIL = 1 << 16
_TRAILER = re.compile(r"processed \d+ insns |verification time \d+ usec|stack depth |insns total ")
_INSN = re.compile(r"\d+: \([0-9a-f]{2}\) ")
_SOURCE = re.compile(r"; ")
_REPORT = "Verification failed: "
_HEADING = re.compile(r"[A-Z][A-Za-z ]*:$")
# The path to the fault is long, and the log above it has it anyway.
_LEFT_OUT = {"Causal path:"}
_SOURCE_PART = "  Source context:"
_INSN_PART = "  Instruction context:"
_SAID = 12  # most lines the verifier has been seen to write about one instruction
_LINES = 32


def said_something(log: str) -> bool:
    """Tell whether a log has more than its statistics."""
    return any(_TRAILER.match(line) is None for line in _useful(log[:_TAIL]))


def _useful(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.strip()]


def summary(log: str) -> str:
    """Return the lines to show first: the faulty instruction, its source line, and the verdict.

    :param log: the whole log
    :returns: up to 32 lines, "" if the log has only statistics
    """
    lines = [line for line in _useful(log[-_TAIL:]) if _TRAILER.match(line) is None]
    report = next((i for i, line in enumerate(lines) if line.startswith(_REPORT)), None)
    if report is None:
        return "\n".join(_classic(lines))
    # The report repeats the instruction and its source line, but not the verifier's old wording,
    # which people search for.
    before = _said(lines[:report])[-3:]
    return "\n".join([*before, *_report(lines[report:])][:_LINES])


def _classic(lines: list[str]) -> list[str]:
    said = _said(lines)
    start = len(lines) - len(said)
    if not start or _INSN.match(lines[start - 1]) is None:
        return said
    # ; source line @ file.c:12
    # 7: (79) r0 = *(u64 *)(r0 +0)
    # A source line is printed when it changes, so it may be some instructions back.
    for line in reversed(lines[:start]):
        if _SOURCE.match(line):
            return [line, *lines[start - 1 :]]
        if _INSN.match(line) is None:
            break  # another path, or another function's log
    return lines[start - 1 :]


def _said(lines: list[str]) -> list[str]:
    # The lines after the last instruction. Only the last line if that is too far away.
    for distance, line in enumerate(reversed(lines)):
        if _INSN.match(line):
            return lines[len(lines) - distance :]
        if distance == _SAID:
            break
    else:
        return lines  # refused before any instruction was checked
    return lines[-1:]


def _report(lines: list[str]) -> list[str]:
    kept, keep = [], True
    sourced = False
    for line in lines:
        if _HEADING.match(line):
            keep, sourced = line not in _LEFT_OUT, False
        elif line == _SOURCE_PART:
            sourced = True
        elif line == _INSN_PART and sourced:
            keep = False  # it repeats the same place
        if keep:
            kept.append(line)
    return kept
