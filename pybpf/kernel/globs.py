"""Match globs of function names. All of pybpf uses this one matcher.

A glob names functions of the kernel or, if it says so, of certain modules. It is matched
against lines as ftrace lists them: ``NAME``, or ``NAME [MODULE]`` for a module's function.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..dataclass import dataclass
from ..errors import PlanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .ftrace import FtraceFunctions

__all__ = ["VMLINUX", "Matcher", "Pattern", "glob_regex", "is_glob", "parse_pattern"]

#: Name of the kernel itself in a pattern's module part.
VMLINUX = "vmlinux"


@dataclass(frozen=True, slots=True)
class Pattern:
    """Hold a function glob and, if one was given, a module glob.

    :param text: as the user wrote it
    :param name: glob of function names; ``*`` and ``?`` are special
    :param module: glob of module names; ``vmlinux`` is the kernel itself; None
        matches the kernel and every module
    """

    text: str
    name: str
    module: str | None

    @property
    def is_literal(self) -> bool:
        """Return True if it can match only one name."""
        return not is_glob(self.name)

    @property
    def is_exact(self) -> bool:
        """Return True if neither name nor module is a glob."""
        return self.is_literal and (self.module is None or not is_glob(self.module))

    @property
    def owner(self) -> str | None:
        """Return the module of an exact pattern: "" for the kernel, None for kernel or any
        module."""
        return "" if self.module == VMLINUX else self.module

    @property
    def lines(self) -> tuple[str, ...]:
        """Return the lines that an exact pattern with a module matches."""
        inside = f"{self.name} [{self.module}]"
        return (self.name, inside) if self.module == VMLINUX else (inside,)

    @property
    def regex(self) -> str:
        """Return a regular expression for whole lines ``NAME`` or ``NAME [MODULE]``."""
        name = _translate(self.name)
        if self.module is None:
            return rf"{name}(?: \[.*\])?"
        inside = rf"{name} \[{_translate(self.module)}\]"
        if re.fullmatch(_translate(self.module), VMLINUX):
            return f"(?:{name}|{inside})"
        return inside


def is_glob(text: str) -> bool:
    """Tell whether a text can match several names."""
    return "*" in text or "?" in text


def glob_regex(glob: str, any_character: str = ".") -> str:
    """Translate a glob to a regular expression. ``*`` and ``?`` are special.

    :param any_character: regular expression for ``?``
    """
    first, *others = (
        "".join([any_character if c == "?" else re.escape(c) for c in part])
        for part in re.split(r"\*+", glob)
    )
    if not others:
        return first
    # What is between two stars is taken where it first fits, and that is never tried again. With
    # plain stars a name of n characters would take n**k steps for a glob of k stars.
    *middle, last = others
    inner = "".join([f"(?>{any_character}*?{part})" for part in middle])
    return f"{first}{inner}{any_character}*{last}"


def _translate(glob: str) -> str:
    # Neither a star nor a question mark may match the blank before a module.
    return glob_regex(glob, "[^ ]")


def parse_pattern(text: str) -> Pattern:
    """Read ``GLOB``, ``GLOB [MODGLOB]`` (blank optional) or ``MODGLOB:GLOB``.

    :raises PlanError: for an empty glob, ``**`` alone, an unclosed bracket, or
        a leading ``:`` (only a caller with debug info can resolve source paths)
    """
    stripped = text.strip()
    name, module = stripped, None
    if stripped.endswith("]") and "[" in stripped:
        name, _, module = stripped[:-1].partition("[")
        name, module = name.rstrip(), module.strip()
    elif ":" in stripped:
        module, _, name = stripped.partition(":")
    for part in (name, module):
        if part is None:
            continue
        if not part or part == "**" or any(c in part for c in "[]: \t\n"):
            raise PlanError(
                f"not a function glob: {text!r} (expected NAME, NAME [MODULE] or MODULE:NAME, "
                "with * and ?)"
            )
    return Pattern(stripped, name, module)


class Matcher:
    """Match several patterns at once: exact names by dictionary, the rest by one joined regex."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self.patterns = tuple(patterns)
        # Name -> lines it matches; None means the lines of the kernel and every module.
        self._names: dict[str, set[str] | None] = {}
        globs = []
        for pattern in patterns:
            if not pattern.is_exact:
                globs.append(pattern)
            elif pattern.module is None:
                self._names[pattern.name] = None
            elif (lines := self._names.setdefault(pattern.name, set())) is not None:
                lines.update(pattern.lines)
        self._regex = re.compile("|".join(p.regex for p in globs)) if globs else None
        # Globs that only say how a name starts are matched by that, in half the time.
        starts = [p.name[:-1] for p in globs if p.module is None and p.name[-1:] == "*"]
        plain = len(starts) == len(globs) and not any(map(is_glob, starts))
        self._starts = tuple(starts) if plain else ()
        #: True if one of the patterns matches every line.
        self.is_all = any(p.name == "*" and p.module is None for p in globs)

    @property
    def is_exact(self) -> bool:
        """Return True if no pattern has a glob, so that looking up `names` finds all matches."""
        return self._regex is None

    @property
    def names(self) -> Iterable[str]:
        """Return the names of patterns without globs."""
        return self._names.keys()

    @property
    def beginnings(self) -> list[str]:
        """Return how the names begin that any pattern matches; nothing if a glob leaves it open."""
        found = dict.fromkeys([re.split(r"[*?]", p.name, maxsplit=1)[0] for p in self.patterns])
        return [] if "" in found else list(found)

    def positions(self, functions: FtraceFunctions) -> set[int]:
        """Return the positions of the lines that any pattern matches."""
        if self.is_all:
            return set(range(len(functions)))
        found: set[int] = set()
        for name, lines in self._names.items():
            at = functions.positions(name)
            found.update(at if lines is None else [i for i in at if functions.lines[i] in lines])
        if self._starts:
            starts = self._starts
            found.update([i for i, line in enumerate(functions.lines) if line.startswith(starts)])
        elif self._regex is not None:
            match = self._regex.fullmatch
            found.update([i for i, line in enumerate(functions.lines) if match(line)])
        return found

    def matches(self, line: str) -> bool:
        """Return True if any pattern matches this line (``NAME`` or ``NAME [MODULE]``)."""
        name = line.partition(" ")[0]
        if name in self._names:
            lines = self._names[name]
            if lines is None or line in lines:
                return True
        return self._regex is not None and self._regex.fullmatch(line) is not None
