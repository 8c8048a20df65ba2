"""What a run needs source lines for: its stacks, and globs of source paths like ``:fs/*.c``.

A function belongs to the file in which its code is written. That of an inline function of a
header is the header, wherever the compiler put it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence

from ...errors import PlanError
from ...kernel.globs import glob_regex
from ..screen import many
from .debuginfo import DebugInfo, Line, NoDebugInfo, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...kernel.host import Facts
    from .options import Options

__all__ = ["by_name", "lines_of", "open_debug_info", "written_in"]

_NOTES = "/sys/kernel/notes"


def is_path(glob: str) -> bool:
    """Return True if a glob is one of source paths."""
    return glob.startswith(":")


def open_debug_info(
    options: Options, facts: Facts, say: Callable[[str, int], None]
) -> DebugInfo | None:
    """Open the debug information that a run wants; None if it can do without.

    :param say: gets what is missing, and the ``-v`` from which on it is said
    :raises NoDebugInfo: if it was asked for and there is none
    """
    mode = options.settings.symb_mode
    globs = (*options.entry, *options.allow, *options.deny, *options.why)
    wanted = bool(mode not in ("", "none") or options.vmlinux or any(map(is_path, globs)))
    if not wanted and (mode == "none" or not options.stacks or options.why):
        return None
    notes = b""
    with contextlib.suppress(OSError), open(_NOTES, "rb") as file:
        notes = file.read()

    def text() -> int | None:
        found = facts.kallsyms.by_name("_text")
        return found[0].addr or None if found else None

    try:
        return find(options.vmlinux, os.uname().release, notes, text)
    except NoDebugInfo as error:
        if wanted:
            raise
        say(f"No source lines: {error}.", 0 if error.file else 1)
        return None


def lines_of(options: Options, info: DebugInfo | None) -> Callable[[int], tuple[Line, ...]] | None:
    """Give what finds the source lines of an instruction, outermost function first."""
    mode = options.settings.symb_mode
    if info is None or mode == "none":
        return None
    lines = info.lines
    return lines if mode != "linenum" else lambda address: lines(address)[-1:]


def by_name(
    options: Options, info: DebugInfo | None, facts: Facts, say: Callable[[str, int], None]
) -> None:
    """Replace globs of source paths by the names of the functions that are written there.

    These names need not match, as one of many may be denied.

    :raises PlanError: if no function that can be traced is
    """
    for typed, names in (
        (options.entry, options.soft_entry),
        (options.allow, options.soft_allow),
        (options.deny, options.deny),
        (options.why, options.why),
    ):
        for glob in [glob for glob in typed if is_path(glob)]:
            assert info is not None
            found = list(written_in(glob[1:], info, traceable(facts)))
            if not found:
                raise PlanError(f"{glob}: no function that can be traced is written there")
            say(f"{glob}: {many(len(found), 'function')}.", 1)
            typed.remove(glob)
            names += found


def traceable(facts: Facts) -> list[tuple[str, int]]:
    """List the kernel's own functions that ftrace can trace, with their addresses, in order."""
    symbols = facts.kallsyms
    symbols.require_addresses()
    names = {line for line in facts.ftrace.lines if " " not in line}
    found = [(s.addr, s.name) for s in symbols if s.is_function and not s.module]
    return [(name, address) for address, name in sorted(found) if name in names]


def written_in(path: str, info: DebugInfo, functions: Sequence[tuple[str, int]]) -> Iterator[str]:
    """Find the functions whose code is written in certain files.

    :param path: glob of paths below the top of the source tree; ``*`` goes beyond ``/``
    :param functions: names and addresses
    :returns: names, each once
    """
    wanted = re.compile(glob_regex(path))
    known: dict[str, bool] = {}
    seen = set()
    for name, address in functions:
        where = info.lines(address)
        if not where or name in seen:
            continue
        file = where[0].file
        if file not in known:
            known[file] = wanted.fullmatch(file) is not None
        if known[file]:
            seen.add(name)
            yield name
