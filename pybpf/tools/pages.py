"""A tool's command line as data, to make man pages and shell completion from. Pure."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ..dataclass import dataclass
from .parsers import About, Parser

__all__ = ["Argument", "Page", "page_of"]


@dataclass(frozen=True, slots=True)
class Argument:
    """Describe an option or a positional argument.

    :param names: how an option is written, e.g. ``("-v", "--verbose")``; () for a positional
    :param value: placeholder of its value, e.g. ``FILE``; "" if it takes none
    :param help: a noun phrase
    :param choices: the only values it accepts; () for any
    :param glued: the value may be left out, and is written without a space
    :param group: the heading above it, "" for none
    """

    names: tuple[str, ...]
    value: str = ""
    help: str = ""
    choices: tuple[str, ...] = ()
    glued: bool = False
    group: str = ""

    @property
    def spelled(self) -> Iterator[str]:
        """Iterate over the spellings of an option with its value."""
        for name in self.names:
            if not self.value:
                yield name
            elif self.glued:
                yield f"{name}[={self.value}]" if name.startswith("--") else f"{name}[{self.value}]"
            else:
                yield f"{name} {self.value}"


@dataclass(frozen=True, slots=True)
class Page:
    """Describe a tool or one of its commands.

    :param name: as it is called, e.g. ``pybpf trampolines plan``
    :param usage: what may follow the name
    :param arguments: options and positionals
    :param commands: its subcommands
    :param takes_command: ``-- CMD`` runs another program
    """

    name: str
    about: About
    usage: str = ""
    arguments: tuple[Argument, ...] = ()
    commands: tuple[Page, ...] = ()
    takes_command: bool = False

    @property
    def word(self) -> str:
        """Return the last word of its name."""
        return self.name.rpartition(" ")[2]

    @property
    def options(self) -> tuple[Argument, ...]:
        """Return the arguments that have a name."""
        return tuple(one for one in self.arguments if one.names)

    @property
    def positionals(self) -> tuple[Argument, ...]:
        """Return the arguments without a name."""
        return tuple(one for one in self.arguments if not one.names)


# How a positional may be repeated, by argparse's nargs.
_REPEATED = {"?": "[{}]", "*": "[{} ...]", "+": "{} [{} ...]"}


def page_of(parser: Parser) -> Page:
    """Make the page of a parser and of its commands."""
    return Page(
        parser.prog,
        parser.about,
        _usage(parser),
        tuple(_argument(action) for action in parser.arguments),
        tuple(page_of(command) for command in parser.commands.values()),
        parser.takes_command,
    )


def _usage(parser: Parser) -> str:
    words = []
    for action in parser.arguments:
        one = _argument(action)
        if one.names:
            text = next(iter(one.spelled))
            words.append(text if action.required else f"[{text}]")
        else:
            words.append(_REPEATED.get(str(action.nargs), "{}").format(one.value, one.value))
    if parser.takes_command:
        words.append("[-- CMD ...]")
    return " ".join([*words, *(["COMMAND ..."] if parser.commands else [])])


def _argument(action: argparse.Action) -> Argument:
    values = {"default": action.default, "prog": ""}
    help_text = (action.help or "") % values
    value = ""
    if action.nargs != 0:
        value = str(action.metavar or action.dest.upper())
        if action.choices and not action.metavar:
            value = "{" + ",".join(map(str, action.choices)) + "}"
    return Argument(
        tuple(action.option_strings),
        value,
        help_text,
        tuple(map(str, action.choices or ())),
    )
