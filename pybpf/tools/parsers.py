"""How every tool describes itself: summary, examples, exit statuses, and its parser.

A parser keeps what it was given. So ``--help``, the man page and shell completion
(`pages`) are made from the same data.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from ..dataclass import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["STATUSES", "About", "Example", "Parser", "UsageError"]

#: Meaning of the exit statuses of most tools.
STATUSES = ((0, "ok"), (1, "failed"), (2, "wrong arguments"))


class UsageError(ValueError):
    """Report that the arguments make no sense together on any kernel. The text says why."""


@dataclass(frozen=True, slots=True)
class Example:
    """Describe one way to call a tool.

    :param arguments: what follows the tool's name, as typed into a shell
    :param what: the result, a noun phrase
    """

    arguments: str
    what: str


@dataclass(frozen=True, slots=True)
class About:
    """Describe a tool or command in words.

    :param summary: one line, a noun phrase
    :param text: the paragraphs after it
    :param statuses: exit statuses and what each means
    :param notes: a list that only the man page has: its heading, then a term and a sentence each
    """

    summary: str
    text: str = ""
    examples: tuple[Example, ...] = ()
    statuses: tuple[tuple[int, str], ...] = ()
    notes: tuple[str, tuple[tuple[str, str], ...]] = ("", ())

    def epilog(self, prog: str) -> str:
        """Format examples and exit statuses for ``--help``."""
        parts = []
        if self.examples:
            calls = [f"  {prog} {one.arguments}".rstrip() for one in self.examples]
            lines = [
                f"{call}\n      {one.what}" for call, one in zip(calls, self.examples, strict=True)
            ]
            parts.append("\n".join(["examples:", *lines]))
        if self.statuses:
            parts.append(f"exit status: {self.status_line}")
        return "\n\n".join(parts)

    @property
    def status_line(self) -> str:
        """Format the exit statuses in one line."""
        return ", ".join(f"{number} {what}" for number, what in self.statuses)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    # argparse would import shutil for the width, which takes 4 ms.
    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"width": _columns() - 2, **options})


def _columns() -> int:
    # Like shutil.get_terminal_size: COLUMNS, then the terminal, then 80.
    try:
        columns = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        columns = 0
    if columns <= 0:
        try:
            columns = os.get_terminal_size(1).columns
        except OSError:
            columns = 0
    return columns or 80


class Parser(argparse.ArgumentParser):
    """Parse arguments, and remember what was added.

    :ivar about: what ``--help`` says around the options
    :ivar arguments: options and positionals, in the order they were added
    :ivar commands: subcommands by name
    :ivar takes_command: ``-- CMD ARGS`` may follow; the tool removes it before it parses
    """

    def __init__(
        self, *, about: About, prog: str, takes_command: bool = False, **options: Any
    ) -> None:
        self.about = about
        self.takes_command = takes_command
        self.arguments: list[argparse.Action] = []
        self.commands: dict[str, Parser] = {}
        self._adder: Any = None
        super().__init__(
            prog=prog,
            description="\n\n".join(filter(None, (about.summary, about.text))),
            epilog=about.epilog(prog),
            formatter_class=_Formatter,
            add_help=False,
            **options,
        )
        self.add_argument("-h", "--help", action="help", help="this help")

    def format_usage(self) -> str:
        """Return the usage lines, including the command if one may follow."""
        text = super().format_usage()
        return f"{text.rstrip()} [-- CMD ...]\n" if self.takes_command else text

    def format_help(self) -> str:
        """Return the whole ``--help``, with the usage from `format_usage`."""
        return super().format_help().replace(super().format_usage(), self.format_usage(), 1)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add an argument as `argparse.ArgumentParser` does, and remember it."""
        action = super().add_argument(*names, **options)
        self.arguments.append(action)
        return action

    def add_command(self, name: str, about: About, run: Callable[..., int]) -> Parser:
        """Add a subcommand.

        :param run: stored as ``args.run``; ``args.command`` is the name
        """
        if self._adder is None:
            self._adder = self.add_subparsers(
                dest="command", required=True, metavar="COMMAND", title="commands"
            )
        command: Parser = self._adder.add_parser(name, about=about, help=about.summary)
        command.set_defaults(run=run)
        self.commands[name] = command
        return command
