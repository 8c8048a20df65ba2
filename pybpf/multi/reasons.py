"""Why a function is not attached to: a word, a sentence, and what would help."""

from __future__ import annotations

import errno
from enum import Enum

from ..dataclass import dataclass
from ..kernel.functions import label

__all__ = ["HOPELESS", "NO_ROOM", "NO_SLEEP", "OF_THE_KERNEL", "Reason", "Skipped"]

#: Errors of an attach that do not depend on the function. Every other function would fail the
#: same way, so a batch is not split for these.
HOPELESS = frozenset(
    {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINTR}
)
#: Errors of an attach that no function caused: no more files can be opened.
NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE})

#: Detail and hint for a function that cannot have a sleepable program.
NO_SLEEP = (
    "the kernel does not let sleepable programs run on this function",
    "a program whose section has no .s can be attached",
)


class Reason(Enum):
    """Say why a function was left out.

    ``.value`` is the name used in JSON, ``.text`` is one line for people. A
    `Skipped` adds details about the function.
    """

    text: str

    def __new__(cls, label: str, text: str) -> Reason:
        self = object.__new__(cls)
        self._value_ = label
        self.text = text
        return self

    NOT_FOUND = "not-found", "the kernel has no such function"
    NOT_TRACEABLE = "not-traceable", "the kernel cannot trace it (notrace, noinstr or init code)"
    DENIED = "denied", "on the list of functions that must not be traced"
    NORETURN = "noreturn", "never returns, so nothing can run at its exit"
    NO_BTF = "no-btf", "BTF does not describe it"
    AMBIGUOUS = "ambiguous", "several functions have this name"
    ALIAS = "alias", "another name of a function"
    TOO_MANY_SLOTS = "too-many-slots", "its arguments take more 8-byte slots than can be saved"
    VARIADIC = "variadic", "takes a variable number of arguments"
    RETURNS_STRUCT = "returns-struct", "returns a struct or union by value"
    BIG_STRUCT = "big-struct", "takes a struct of more than 16 bytes by value"
    NO_EXIT_ARGS = "no-exit-args", "its arguments are not available at exit this way"
    TRAMPOLINE_FULL = "trampoline-full", "its trampoline holds the most programs it can"
    NOT_SLEEPABLE = "not-sleepable", "a program that may sleep cannot run here"
    NO_SESSION_COOKIE = "no-session-cookie", "the program needs a session cookie"
    NO_GUARD = "no-guard", "copies of the program would run inside one another without end"
    NOT_PERMITTED = "not-permitted", "not permitted here"
    NO_MECHANISM = "no-mechanism", "not available on this kernel"
    MODULE_GONE = "module-gone", "its module is no longer loaded"
    MOVED = "moved", "it is no longer where it was found"
    KERNEL_REFUSED = "kernel-refused", "the kernel refused it"


#: Reasons that lie in the kernel or in the rights of a process, not in a function.
OF_THE_KERNEL = frozenset({Reason.NOT_PERMITTED, Reason.NO_MECHANISM})


@dataclass(frozen=True, slots=True)
class Skipped:
    """Describe one function that is left out, and why.

    :param name: function name as requested
    :param module: kernel module, "" for the kernel itself
    :param reason: the reason, as a word
    :param detail: what is special about this function, e.g. ``3 addresses``
    :param hint: what would help, "" if nothing is known
    :param address: tells apart functions with this name, 0 if there is only one
    """

    name: str
    module: str
    reason: Reason
    detail: str = ""
    hint: str = ""
    address: int = 0

    @property
    def label(self) -> str:
        """Return ``name`` or ``name [module]``."""
        return label(self.name, self.module)

    @property
    def why(self) -> str:
        """Return reason, detail and hint in one line, without the function."""
        text = self.reason.text
        if self.detail:
            text += f": {self.detail}"
        return f"{text} ({self.hint})" if self.hint else text

    def __str__(self) -> str:
        where = f" at {self.address:#x}" if self.address else ""
        return f"{self.label}{where}: {self.why}"
