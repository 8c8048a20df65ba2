"""`pybpf completion`: print a completion script for bash, made from the tools' own parsers.

The script holds plain lists, so completing does not start Python. Names of kernel functions
come from /proc/kallsyms, which can be read without privileges.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence

from .main import all_pages
from .pages import Argument, Page, page_of
from .parsers import STATUSES, About, Example, Parser

__all__ = ["bash", "main", "page"]

_ABOUT = About(
    "shell completion for pybpf and its tools",
    "An installed pybpf has the script under share/bash-completion, where bash finds it.",
    (Example("bash > ~/.local/share/bash-completion/completions/pybpf", "manual installation"),),
    STATUSES,
)
# Kinds of values: an option of compgen, or a function of the script.
_FILES, _DIRECTORIES, _COMMANDS, _FUNCTIONS = "files", "directories", "commands", "functions"
_KINDS = {
    "FILE": _FILES,
    "BTF": _FILES,
    "OUT": _FILES,
    "PATH": _FILES,
    "DIR": _DIRECTORIES,
    "CLANG": _COMMANDS,
    "FUNC": _FUNCTIONS,
    "GLOB": _FUNCTIONS,
}
_HEAD = """\
# bash completion for pybpf: written by `pybpf completion bash`, from the tools' own parsers.

_pybpf_functions() {
    # awk gets no backslash from the typed word; names of functions never have one.
    [[ $1 =~ ^[A-Za-z_][A-Za-z0-9_.]*$ ]] || return
    awk -v start="$1" '($2 == "t" || $2 == "T") && index($3, start) == 1 { print $3 }' \\
        /proc/kallsyms 2>/dev/null
}

_pybpf_words() {
    # $1: kind of word, or =WORD... for a list; $2: what was typed
    case $1 in
        =*) COMPREPLY=($(compgen -W "${1#=}" -- "$2")) ;;
        files) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$2")) ;;
        directories) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$2")) ;;
        commands) COMPREPLY=($(compgen -c -- "$2")) ;;
        functions) COMPREPLY=($(_pybpf_functions "$2")) ;;
    esac
}

_pybpf() {
    local cur=${COMP_WORDS[COMP_CWORD]} at=1 word path=pybpf
    local options commands positional command kind
    local IFS=$' \\t\\n'
    COMPREPLY=()
    _pybpf_table "$path"
    for ((; at < COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        if [[ $word == -- && $command ]]; then
            # Another command follows, with its own completion.
            if declare -F _command_offset >/dev/null; then
                _command_offset $((at + 1))
            elif ((at + 1 == COMP_CWORD)); then
                _pybpf_words commands "$cur"
            else
                _pybpf_words files "$cur"
            fi
            return
        fi
        if [[ " $commands " == *" $word "* ]]; then
            path+=" $word"
            _pybpf_table "$path"
        fi
    done
    word=${COMP_WORDS[COMP_CWORD - 1]}
    if [[ $cur == '=' ]]; then # bash splits --option=VALUE into three words
        cur=
    elif [[ $word == '=' ]]; then
        word=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    _pybpf_value "$path $word"
    if [[ $kind ]]; then
        _pybpf_words "$kind" "$cur"
    elif [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$cur"))
    elif [[ $commands ]]; then
        COMPREPLY=($(compgen -W "$commands" -- "$cur"))
    else
        _pybpf_words "$positional" "$cur"
    fi
}
"""


def _parser(prog: str) -> Parser:
    parser = Parser(prog=prog, about=_ABOUT)
    parser.add_argument(
        "shell", choices=["bash"], metavar="SHELL", help="shell to complete for: bash"
    )
    return parser


def page(prog: str) -> Page:
    """Return this tool's own page."""
    return page_of(_parser(prog))


def main(argv: Sequence[str] | None = None, prog: str = "pybpf completion") -> int:
    """Run the tool and return its exit status."""
    _parser(prog).parse_args(argv)
    sys.stdout.write(bash(all_pages()))
    return 0


def bash(root: Page) -> str:
    """Return the script for a command and everything below it."""
    pages = list(_all(root))
    lines = [
        "",
        "_pybpf_table() {",
        "    options= commands= positional= command=",
        "    case $1 in",
    ]
    for shown in pages:
        lines += _table_case(shown)
    lines += ["    esac", "}", "", "_pybpf_value() {", "    kind=", "    case $1 in"]
    for shown in pages:
        for one in shown.options:
            if one.value and not one.glued:
                names = " | ".join(_quoted(f"{shown.name} {name}") for name in one.names)
                lines.append(f"        {names}) kind={_quoted(_kind(one))} ;;")
    lines += ["    esac", "}", "", f"complete -F _pybpf {root.word}", ""]
    return _HEAD + "\n".join(lines)


def _all(shown: Page) -> Iterator[Page]:
    yield shown
    for command in shown.commands:
        yield from _all(command)


def _table_case(shown: Page) -> Iterator[str]:
    options = [name for one in shown.options for name in one.names]
    yield f"        {_quoted(shown.name)})"
    yield f"            options={_quoted(' '.join(options))}"
    if shown.takes_command:
        yield "            command=1"
    if shown.commands:
        yield f"            commands={_quoted(' '.join(one.word for one in shown.commands))}"
    elif shown.positionals:
        yield f"            positional={_quoted(_kind(shown.positionals[0]))}"
    yield "            ;;"


def _kind(one: Argument) -> str:
    if one.choices:
        return "=" + " ".join(one.choices)
    return _KINDS.get(re.sub(r"[^A-Z]", "", one.value), "=")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
