"""The exception tree.

Errors are split by who is at fault. `ObjectFormatError` and `RelocationError` blame
the object file and `PlanError` blames the request. `BpfError` and its subclasses report
what the kernel answered. Each carries its data as attributes, and its text is one
useful paragraph.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from errno import EBADF, EOPNOTSUPP

from ._uapi.defines import ENOTSUPP
from .errnos import name_of
from .wording import many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .multi.reasons import Skipped

__all__ = [
    "BpfError",
    "DeniedByPolicy",
    "ObjectFormatError",
    "PlanError",
    "RelocationError",
    "StateError",
    "UnsupportedFeature",
    "VerifierError",
]


def _errno_text(errno: int) -> str:
    # strerror does not know the kernel's internal numbers.
    supported = errno != ENOTSUPP
    text = os.strerror(errno) if supported else "Operation not supported by this kernel"
    return f"{name_of(errno) or errno}: {text}"


class _Context:
    """Hold what callers know about an error: object file, section, program."""

    context: tuple[str, ...] = ()

    def add_context(self, text: str) -> None:
        """Put `text` (object file, program name...) in front of the message."""
        self.context = (text, *self.context)


class BpfError(_Context, OSError):
    """Report a system call that the kernel refused.

    :param errno: positive errno of the call
    :param doing: what was being done, e.g. ``BPF_MAP_CREATE 'events'``
    :param hint: what to do about it, or ""

    ``str()`` is ``DOING: ENAME: text (hint)``; ``.errno``, ``.doing`` and
    ``.hint`` hold the parts. Callers that know more (object file, program) add it to
    ``.context`` with `add_context`.
    """

    def __init__(self, errno: int, doing: str = "", hint: str = "") -> None:
        super().__init__(errno, _errno_text(errno))
        self.doing = doing
        self.hint = hint

    def __str__(self) -> str:
        parts = [*self.context, *([self.doing] if self.doing else []), _errno_text(self.errno or 0)]
        text = ": ".join(parts)
        return f"{text} ({self.hint})" if self.hint else text

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.errno, self.doing, self.hint), vars(self))


class DeniedByPolicy(BpfError):
    """Report EPERM or EACCES caused by a missing capability, lockdown or a sysctl.

    ``.hint`` says which of them it was.
    """


class StateError(BpfError, ValueError):
    """Report the use of something that is not loaded yet, or closed.

    Whatever can be closed raises it: objects, programs, maps, links, readers, descriptors.

    :param what: what was used
    :param hint: its state, and what to do

    ``.errno`` is EBADF, as if the kernel had been asked. The text says it in words. It is a
    `ValueError` too, as Python's closed files raise: by that, `selectors` forgets a closed file.
    """

    def __init__(self, what: str, hint: str = "it is closed") -> None:
        super().__init__(EBADF, what, hint)

    def __str__(self) -> str:
        return ": ".join([*self.context, self.doing, self.hint])

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.doing, self.hint), vars(self))


class UnsupportedFeature(BpfError):
    """Report a feature that the running kernel or pybpf lacks.

    :param name: the feature, in the kernel's terms
    :param since: first kernel release that has it, "" if not known
    :param by: who lacks it
    """

    def __init__(self, name: str, since: str = "", hint: str = "", by: str = "this kernel") -> None:
        super().__init__(EOPNOTSUPP, name, hint)
        self.name = name
        self.since = since
        self.by = by

    def __str__(self) -> str:
        since = f" (in Linux since {self.since})" if self.since else ""
        hint = f": {self.hint}" if self.hint else ""
        return ": ".join([*self.context, f"{self.name} is not supported by {self.by}{since}{hint}"])

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.name, self.since, self.hint, self.by), vars(self))


class VerifierError(BpfError):
    """Report that BPF_PROG_LOAD failed and what the verifier said.

    :param errno: positive errno of BPF_PROG_LOAD
    :param program: program name
    :param log: the whole verifier log
    :param summary: the lines of the log that matter, see `pybpf._sys.verifier.summary`
    :param truncated: True if the log did not fit the kernel's buffer
    :ivar source: ``FILE:LINE`` of the refused instruction, "" if it is unknown
    """

    def __init__(
        self, errno: int, program: str, log: str, summary: str = "", truncated: bool = False
    ) -> None:
        super().__init__(errno, f"program {program!r}")
        self.source = ""
        self.program = program
        self.log = log
        self.summary = summary
        self.truncated = truncated

    def __str__(self) -> str:
        text = super().__str__()
        if not self.log:
            return text
        lines = self.log.count("\n")
        return f"{text}\n{self.summary}\n({many(lines, 'line')} of verifier log in .log)"

    def __reduce__(self) -> tuple[object, ...]:
        return (
            type(self),
            (self.errno, self.program, self.log, self.summary, self.truncated),
            vars(self),
        )


class ObjectFormatError(ValueError):
    """Report a malformed object file, BTF blob or section.

    :param what: what is wrong, in one sentence
    :param file: file name as the caller gave it, or ""
    :param section: section name, or ""
    :param offset: byte offset in that section (in the file if section is ""), or None
    """

    def __init__(
        self, what: str, *, file: str = "", section: str = "", offset: int | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.file = file
        self.section = section
        self.offset = offset

    def __str__(self) -> str:
        parts = [self.file] if self.file else []
        if self.section:
            parts.append(f"section {self.section!r}")
        if self.offset is not None:
            parts.append(f"offset {self.offset:#x}")
        return ": ".join([*parts, self.what])


class RelocationError(ValueError):
    """Report a relocation of a program that cannot be resolved.

    :param what: what is wrong, in one sentence
    :param program: program name
    :param insn: instruction index (8-byte slots) in that program, or None
    :param file: object file, as the caller gave it, or ""
    :param source: source line of the instruction, ``file.c:12: text``, or ""
    """

    def __init__(
        self,
        what: str,
        *,
        program: str = "",
        insn: int | None = None,
        file: str = "",
        source: str = "",
    ) -> None:
        super().__init__(what)
        self.what = what
        self.program = program
        self.insn = insn
        self.file = file
        self.source = source

    def __str__(self) -> str:
        parts = [self.file] if self.file else []
        if self.program:
            parts.append(f"program {self.program!r}")
        if self.insn is not None:
            parts.append(f"instruction {self.insn}")
        text = ": ".join([*parts, self.what])
        return f"{text} (at {self.source})" if self.source else text


class PlanError(_Context, ValueError):
    """Report a multi-function attach request that no plan can satisfy.

    :param skipped: if there is nothing to attach to: every requested function, with
        its reason

    Callers that know more (object file, program) put it in front with `add_context`.
    """

    def __init__(self, what: str, *, skipped: Iterable[Skipped] = ()) -> None:
        super().__init__(what)
        self.skipped = tuple(skipped)

    def __str__(self) -> str:
        return ": ".join([*self.context, super().__str__()])
