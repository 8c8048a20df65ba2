"""The command `pybpf`: its tools, its help, completion and manual pages."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pybpf
from pybpf.tools import completion, manpages
from pybpf.tools.main import all_pages, main
from pybpf.tools.pages import Page
from pybpf.tools.table import TOOLS, find
from tests.support.sources import parsed

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = all_pages()


def everything(page: Page) -> list[Page]:
    return [page, *(one for command in page.commands for one in everything(command))]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pybpf", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_as_a_module() -> None:
    """`python -m pybpf` runs tools and returns their statuses."""
    done = run("obj", "inspect", "tests/data/multi.bpf.o")
    assert done.returncode == 0 and "on_exit" in done.stdout
    done = run("obj", "inspect", "/no/such.o")
    assert (done.returncode, done.stderr) == (
        1,
        "pybpf obj: /no/such.o: No such file or directory\n",
    )
    assert run("retsnoop").returncode == 2


def test_help_of_a_tool(capsys: pytest.CaptureFixture[str]) -> None:
    """`help TOOL` and `help TOOL COMMAND` are `TOOL [COMMAND] --help`; alone, all tools."""
    for words in (["obj"], ["obj", "dump-map"], ["nothing"]):
        answers = []
        for line in ([*words, "--help"], ["help", *words]):
            try:
                status = main(line)
            except SystemExit as end:
                status = int(str(end.code))
            answers.append((status, *capsys.readouterr()))
        assert answers[0] == answers[1] and answers[0][0] == (2 if words == ["nothing"] else 0)
    assert main(["help"]) == 0 and "retsnoop" in capsys.readouterr().out


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Every tool with its summary; the version is the package's."""
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for tool in TOOLS:
        assert re.search(rf"^  {tool.name} +{re.escape(tool.summary)}$", shown, re.M)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pybpf {pybpf.__version__}\n"
    assert pybpf.__version__ == PROJECT["version"]
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(("words", "says"), [([], "usage: pybpf"), (["retsnop"], "mean retsnoop?")])
def test_wrong_arguments(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_imports_no_tool(option: str) -> None:
    """What makes them fast: no tool, no argument parser, nothing of the library but errors."""
    code = (
        "import sys, pybpf.errors, pybpf.dataclass; errors = set(sys.modules); "
        f"from pybpf.tools.main import main; main([{option!r}]); names = set(sys.modules); "
        "print(sorted(n for n in names - errors if n.startswith('pybpf')), file=sys.stderr); "
        "print(sorted(names & {'argparse', 'dataclasses', 'json', 'subprocess'}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    ours, heavy = map(ast.literal_eval, done.stderr.splitlines())
    tools = ("entry", "main", "table")
    assert ours == ["pybpf.tools", *(f"pybpf.tools.{name}" for name in tools)]
    assert heavy == []


def test_only_dependencies_that_are_imported() -> None:
    """What pyproject.toml requires is what the package imports, no more and no less."""
    own = {Path(p).stem for p in (ROOT / "pybpf").iterdir()} | {"pybpf", "_typeshed"}
    imported = set()
    for path in (ROOT / "pybpf").rglob("*.py"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                imported.add(node.module.partition(".")[0])
    extras = [r for group in PROJECT.get("optional-dependencies", {}).values() for r in group]
    required = {re.split(r"[^\w-]", r)[0] for r in [*PROJECT["dependencies"], *extras]}
    # A distribution's name is the same with - and with _.
    known = {
        module: {name.lower().replace("_", "-") for name in names}
        for module, names in importlib.metadata.packages_distributions().items()
    }
    modules = {module for module, names in known.items() if names & required}
    assert imported - own - set(sys.stdlib_module_names) == modules & imported
    assert all({name for name, names in known.items() if r in names} & imported for r in required)


@pytest.mark.parametrize("page", everything(PAGES), ids=lambda page: page.name)
def test_every_command_explains_itself(page: Page) -> None:
    """A summary and help for each argument: noun phrases, no full stop; statuses and examples."""
    assert page.about.summary and not page.about.summary.endswith(".")
    for one in page.arguments:
        assert (one.help and one.help[0].islower()) or one.help[:2].isupper(), one
        assert not one.help.endswith("."), one
        assert not re.match(r"(print|show|write|list|say|give|use|do|wait|make)\b", one.help), one
    assert page.about.statuses
    assert page.about.examples or page is PAGES


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_the_table_says_what_the_tool_says(tool: object) -> None:
    """One summary, kept in two places so that --help need not import the tool."""
    assert find(tool.name) is tool  # type: ignore[attr-defined]
    assert tool.load_page().about.summary == tool.summary  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", everything(PAGES)[1:], ids=lambda page: page.name)
def test_help_of_every_command(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` works for each; it has every option, example and status of its page."""
    _, name, *words = page.name.split()
    tool = find(name)
    assert tool is not None
    with contextlib.suppress(SystemExit):
        tool.load_main()([*words, "--help"], f"pybpf {name}")
    shown = capsys.readouterr().out
    flat = " ".join(shown.split())
    for one in page.options:
        assert any(f"{name}" in shown for name in one.names)
    for one in page.about.examples:
        assert " ".join(f"{page.name} {one.arguments}".split()) in flat
    assert "exit status: " in shown


# -- manual pages


def test_a_page_for_each_tool() -> None:
    """Names, summary, each option and command. A full stop at a line's start is plain text."""
    files = manpages.files(PAGES)
    assert sorted(files) == sorted(["pybpf.1", *(f"pybpf-{tool.name}.1" for tool in TOOLS)])
    for tool in PAGES.commands:
        text = files[f"pybpf-{tool.word}.1"]
        assert f"\\- {tool.about.summary}".replace("-", "\\-").replace("\\\\-", "\\-") in text
        for page in everything(tool):
            for one in page.options:
                for name in one.names:
                    assert name.replace("-", "\\-") in text, (page.name, name)
        requests = {line.split()[0] for line in text.splitlines() if line.startswith(".")}
        assert requests <= {".TH", ".SH", ".SS", ".TP", ".B", ".PP", ".RS", ".RE", ".nf", ".fi"}


def test_text_that_roff_would_take_for_its_own() -> None:
    """Backslashes, and lines that begin with a dot or a quote."""
    about = PAGES.commands[0].about
    page = Page("x", type(about)("a \\ b", ".TH evil\n'quoted"))
    text = manpages.roff(page)
    assert "a \\e b" in text and "\n\\&.TH evil\n\\&'quoted\n" in text


def test_man_prints_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert manpages.main(["retsnoop"]) == 0
    assert capsys.readouterr().out == manpages.files(PAGES)["pybpf-retsnoop.1"]
    assert manpages.main([]) == 0
    assert capsys.readouterr().out == manpages.files(PAGES)["pybpf.1"]
    assert manpages.main(["nope"]) == 2


# -- completion

DRIVER = """
source /dev/stdin
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_pybpf
printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(*words: str, cwd: Path = ROOT) -> list[str]:
    """What bash offers for the last of these words."""
    done = subprocess.run(
        ["bash", "--norc", "-c", DRIVER, "bash", *words],
        input=completion.bash(PAGES),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


def test_completion_of_tools_and_commands() -> None:
    assert complete("pybpf", "") == [tool.name for tool in TOOLS]
    assert complete("pybpf", "tr") == ["trampolines"]
    assert complete("pybpf", "trampolines", "") == ["list", "dump", "verify", "plan", "why"]
    assert complete("pybpf", "--v") == ["--version"]


def test_completion_of_options_and_their_values(tmp_path: Path) -> None:
    """Options of that command only; choices, files; with = too."""
    assert complete("pybpf", "btf", "dump", "--") == ["--help", "--format", "--base", "--json"]
    assert complete("pybpf", "btf", "dump", "--format", "") == ["c", "raw"]
    assert complete("pybpf", "btf", "dump", "--format", "=", "r") == ["raw"]
    assert complete("pybpf", "retsnoop", "-c", "") == ["bpf", "perf"]
    (tmp_path / "one.bpf.o").touch()
    assert complete("pybpf", "obj", "inspect", "on", cwd=tmp_path) == ["one.bpf.o"]
    assert complete("pybpf", "trampolines", "plan", "--object", "", cwd=tmp_path) == ["one.bpf.o"]


def test_completion_of_functions() -> None:
    """Names of the running kernel's functions, and none for what is not a name."""
    found = complete("pybpf", "trampolines", "why", "vfs_rea")
    assert "vfs_read" in found and all(name.startswith("vfs_rea") for name in found)
    assert complete("pybpf", "retsnoop", "-e", "vfs_read") == complete(
        "pybpf", "trampolines", "dump", "vfs_read"
    )
    assert complete("pybpf", "trampolines", "why", "x'; touch /tmp/evil; '") == []


def test_completion_of_a_traced_command(tmp_path: Path) -> None:
    """After -- it is another program's command line."""
    (tmp_path / "file").touch()
    assert "cat" in complete("pybpf", "retsnoop", "-e", "f", "--", "ca")
    assert complete("pybpf", "retsnoop", "-e", "f", "--", "cat", "fi", cwd=tmp_path) == ["file"]
