"""`pybpf man`: print manual pages in roff, made from the tools' own parsers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from .. import __version__
from .main import all_pages
from .pages import Argument, Page, page_of
from .parsers import STATUSES, About, Example, Parser
from .table import find

__all__ = ["files", "main", "page", "roff"]

_ABOUT = About(
    "manual pages of pybpf and its tools, as roff",
    "Made from the same data as --help, so the two agree. An installed pybpf also has the\n"
    "pages under share/man: man pybpf-retsnoop.",
    (
        Example("retsnoop | man -l -", "the page of one tool, shown by man"),
        Example("> pybpf.1", "the page of the command pybpf, as a file"),
    ),
    STATUSES,
)


def _parser(prog: str) -> Parser:
    parser = Parser(prog=prog, about=_ABOUT)
    parser.add_argument(
        "tool",
        nargs="?",
        metavar="TOOL",
        help="tool to describe (default: the command pybpf itself)",
    )
    return parser


def page(prog: str) -> Page:
    """Return this tool's own page."""
    return page_of(_parser(prog))


def main(argv: Sequence[str] | None = None, prog: str = "pybpf man") -> int:
    """Run the tool and return its exit status."""
    args = _parser(prog).parse_args(argv)
    everything = all_pages()
    chosen = everything
    if args.tool:
        tool = find(args.tool)
        if tool is None:
            print(f"{prog}: no tool {args.tool!r}; see: pybpf --help", file=sys.stderr)
            return 2
        chosen = next(one for one in everything.commands if one.word == tool.name)
    sys.stdout.write(roff(chosen, _others(everything, chosen)))
    return 0


def files(root: Page) -> dict[str, str]:
    """Return all pages, by the names of their files.

    :param root: the page of `pybpf`, with those of the tools
    """
    return {
        f"{_file(shown.name)}.1": roff(shown, _others(root, shown))
        for shown in (root, *root.commands)
    }


def _others(root: Page, shown: Page) -> list[str]:
    return [one.name for one in (root, *root.commands) if one is not shown]


def roff(shown: Page, others: Sequence[str] = ()) -> str:
    """Return a page for ``man``.

    :param others: names of the pages that SEE ALSO lists
    """
    return "\n".join(_lines(shown, others)) + "\n"


def _text(text: str) -> str:
    # Make each hyphen a minus sign, and a dot or quote at the start of a line plain text.
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text[:1] in (".", "'") else text


def _file(name: str) -> str:
    return name.replace(" ", "-")


def _lines(shown: Page, others: Sequence[str]) -> Iterator[str]:
    title = _text(_file(shown.name))
    yield f'.TH {title.upper()} 1 "" "pybpf {__version__}" "pybpf"'
    yield ".SH NAME"
    yield f"{title} \\- {_text(shown.about.summary)}"
    yield ".SH SYNOPSIS"
    yield from _synopsis(shown)
    if shown.about.text:
        yield ".SH DESCRIPTION"
        yield from _prose(shown.about.text)
    if shown.arguments:
        yield ".SH OPTIONS"
        yield from _arguments(shown.arguments)
    if " " not in shown.name:  # pybpf itself; its tools have their own pages
        yield ".SH TOOLS"
        for tool in shown.commands:
            yield from (".TP", f".B {_text(tool.word)}", _text(tool.about.summary))
    elif shown.commands:
        yield ".SH COMMANDS"
        for command in shown.commands:
            yield f".SS {_text(command.word)}"
            yield from _synopsis(command)
            yield ".PP"
            yield _text(command.about.summary[:1].upper() + command.about.summary[1:]) + "."
            if command.about.text:
                yield ".PP"
                yield from _prose(command.about.text)
            own = [one for one in command.arguments if "--help" not in one.names]
            yield from _arguments(own)
            yield from _examples(command)
    heading, notes = shown.about.notes
    if notes:
        yield f".SH {_text(heading.upper())}"
        for term, what in notes:
            yield from (".TP", f".B {_text(term)}", _text(what))
    if shown.about.examples:
        yield ".SH EXAMPLES"
        yield from _examples(shown)
    if shown.about.statuses:
        yield ".SH EXIT STATUS"
        for number, what in shown.about.statuses:
            yield from (".TP", f".B {number}", _text(what))
    if others:
        yield ".SH SEE ALSO"
        yield ", ".join(f"\\fB{_text(_file(name))}\\fR(1)" for name in sorted(others))


def _synopsis(shown: Page) -> Iterator[str]:
    yield f".B {_text(shown.name)}"
    if shown.usage:
        yield _text(shown.usage)


def _prose(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        kept = paragraph.startswith("  ")
        if kept:
            yield from (".RS 2", ".nf")
        yield from (_text(line.strip() if not kept else line[2:]) for line in paragraph.split("\n"))
        if kept:
            yield from (".fi", ".RE")


def _arguments(arguments: Sequence[Argument]) -> Iterator[str]:
    group = ""
    for one in arguments:
        if one.group != group:
            group = one.group
            yield f".SS {_text(group)}"
        yield ".TP"
        yield f".B {_text(', '.join(one.spelled) if one.names else one.value)}"
        yield _text(one.help)


def _examples(shown: Page) -> Iterator[str]:
    for one in shown.about.examples:
        yield from (".TP", f".B {_text(f'{shown.name} {one.arguments}')}", _text(one.what))
