"""The command `pybpf`: run one of the tools. Only that tool's module is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .. import __version__
from . import entry
from .table import TOOLS, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from .pages import Page

__all__ = ["all_pages", "main", "page", "run"]

_USAGE = "TOOL [ARGUMENT...]"
_SUMMARY = "tools for BPF programs and kernel tracing"
_WRONG = 2
_OPTIONS = (("-h", "--help", "this help"), ("-V", "--version", "the version of pybpf"))


def _help() -> str:
    width = max(len(tool.name) for tool in TOOLS) + 2
    return "\n".join(
        [
            f"usage: pybpf {_USAGE}",
            "",
            _SUMMARY,
            "",
            "tools:",
            *(f"  {tool.name:<{width}}{tool.summary}" for tool in TOOLS),
            "",
            "options:",
            *(f"  {f'{short}, {long}':<{width + 3}}{what}" for short, long, what in _OPTIONS),
            "",
            "For more, see `pybpf TOOL --help` and `man pybpf-TOOL`.",
            "",
            "exit status: that of the tool; most tools: 0 ok, 1 failed, 2 wrong arguments",
            "",
        ]
    )


def page(name: str, tools: tuple[Page, ...]) -> Page:
    """Return the page of the command itself.

    :param tools: pages of the tools
    """
    from .pages import Argument, Page
    from .parsers import STATUSES, About

    about = About(
        _SUMMARY,
        "Each tool has its own manual page, pybpf-TOOL(1), and --help.",
        statuses=STATUSES,
    )
    options = tuple(Argument((short, long), help=what) for short, long, what in _OPTIONS)
    return Page(name, about, _USAGE, options, tools)


def all_pages() -> Page:
    """Make the page of `pybpf` itself, with the pages of all tools. Imports all tools."""
    return page("pybpf", tuple(tool.load_page() for tool in TOOLS))


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, [tool.name for tool in TOOLS])
    hint = f"did you mean {near[0]}?" if near else "see: pybpf --help"
    return f"pybpf: no tool {name!r}; {hint}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        sys.stderr.write(_help())
        return _WRONG
    first, *rest = words
    if first == "help" and rest:
        first, rest = rest[0], [*rest[1:], "--help"]  # as `git help TOOL`
    if first in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return 0
    if first in ("-V", "--version"):
        sys.stdout.write(f"pybpf {__version__}\n")
        return 0
    tool = find(first)
    if tool is None:
        print(_unknown(first), file=sys.stderr)
        return _WRONG
    return tool.load_main()(rest, f"pybpf {tool.name}")


def run() -> NoReturn:
    """Run the process's own command line, then end the process."""
    entry.run("pybpf", main)
