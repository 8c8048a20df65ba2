"""What tools and calls do with few rights, as docs/privileges.md has it.

Each tool runs in each situation, in a process of its own; the library's calls share one. It works,
or it says in one line what is missing. The tables of the page are what this test finds: all of it
on one row, where they differ on the others. It writes them to $OUT/privileges/ROW/table.md (after
a run from the host: .vm-out), from where they are copied.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pytest

import pybpf
from pybpf.dataclass import dataclass
from tests.support import rows
from tests.support.privileges import (
    CAP_BPF,
    CAP_PERFMON,
    Start,
    as_nobody,
    without,
    without_tracefs,
)

pytestmark = [
    pytest.mark.rows("6.1", "6.12"),  # a new row needs its part of the page
    pytest.mark.long,
    pytest.mark.own_guest,
    pytest.mark.skipif(
        rows.in_guest() and not Path("/vm/run").exists(),
        reason="locks the kernel down, so it needs a guest that ends then",
    ),
]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/privileges.md"
FULL = "6.12"  # the row whose tables the page has in full
LOCKDOWN = Path("/sys/kernel/security/lockdown")
KPTR = Path("/proc/sys/kernel/kptr_restrict")
MAIN = "from pybpf.tools.main import run; run()"
START, END = "<!-- made by tests/e2e/test_privileges.py on {} -->\n", "<!-- end -->\n"
# What differs from run to run: paths of this checkout, of temporary files, of an instance in
# tracefs, the number before a plan's reason, and a kernel's list of security modules.
CHANGES = re.compile(
    rf"^\d+  |{ROOT}/|/tmp/\S+|(?<=instances/)pybpf-\S+(?=:)|(?<=an LSM) \[[^]]*\]"
)


@contextmanager
def kptr_restrict() -> Iterator[None]:
    before = KPTR.read_text()
    KPTR.write_text("2")
    try:
        yield
    finally:
        KPTR.write_text(before)


@contextmanager
def locked_down(level: str) -> Iterator[None]:
    """Lock the kernel down, which lasts until the guest ends."""
    if f"[{level}]" not in LOCKDOWN.read_text():
        LOCKDOWN.write_text(level)
    yield


@dataclass(frozen=True, slots=True)
class Situation:
    """What a process may do and see.

    :param name: heading of the column
    :param start: runs in the child before it becomes the tool
    :param around: holds the machine in this state meanwhile
    """

    name: str
    start: Start | None = None
    around: Callable[[], AbstractContextManager[None]] = nullcontext


SITUATIONS = (
    Situation("root"),
    Situation("CAP_BPF + CAP_PERFMON", as_nobody([CAP_BPF, CAP_PERFMON])),
    Situation("no rights", as_nobody([])),
    Situation("kptr_restrict=2", around=kptr_restrict),
    Situation("no tracefs", without_tracefs),
    Situation("no /proc/kcore", without("/proc/kcore")),
    Situation("no BTF", without("/sys/kernel/btf")),
    Situation("container", without("/sys", "/proc/kcore", "/proc/kallsyms")),
    # These come last, because nothing unlocks a kernel.
    Situation("lockdown=integrity", around=partial(locked_down, "integrity")),
    Situation("lockdown=confidentiality", around=partial(locked_down, "confidentiality")),
)
#: What is run, as it is typed in a checkout.
COMMANDS = (
    "features",
    "obj inspect tests/data/multi.bpf.o",
    "obj load tests/data/fentry_args.bpf.o",
    "obj list programs",
    "obj list links",
    "btf find file_operations",
    "trampolines list",
    "trampolines dump bpf_fentry_test1",
    "trampolines verify",
    "trampolines plan fentry.multi/do_getpgid",
    "trampolines plan fentry.multi/do_getpg*",
    "trampolines why do_getpgid",
    "retsnoop -e do_sys_openat2 -- cat /no/such/file",
    "retsnoop -F -e do_sys_openat2 -- cat /no/such/file",
    "funcwatch --duration 0.2 do_getpgid",
    "funcwatch --duration 0.2 do_getpg*",
)


@contextmanager
def a_trampoline() -> Iterator[None]:
    """Trace a function that nothing calls, so that there is a trampoline to read."""
    with pybpf.open(ROOT / "tests/data/fentry_args.bpf.o") as obj:
        obj.load()
        with obj.programs["entry1"].attach():
            yield


#: What is refused, by tool or call and by situation: the line that says so, "" if nothing is.
Answers = dict[str, dict[str, str]]


def start(words: list[str], situation: Situation) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=situation.start,
        timeout=600,
    )


def tool(command: str, situation: Situation) -> str:
    """What it says that it lacks, "" if it works."""
    done = start(["-c", MAIN, *command.split()], situation)
    # A plan without functions is an answer, on standard output.
    said = [line for line in done.stderr.splitlines() if line.strip()]
    lines = [line.strip() for line in done.stdout.splitlines()]
    said = said or [line for line in lines if not line.startswith("-v adds")][-1:]
    assert "Traceback" not in done.stderr, f"{command}, {situation.name}: {done.stderr}"
    if command.startswith("obj load") and not done.returncode:  # a report of what loads
        said = [line for line in lines if line and not line.endswith(": ok")]
        return CHANGES.sub("", said[0]) if said else ""
    works = done.returncode == 0 or ("-- cat" in command and "ENOENT" in done.stdout)
    if works:
        return ""
    assert done.returncode in (1, 2), f"{command}, {situation.name}: {done.returncode} {said}"
    assert said, f"{command}, {situation.name}: no word"
    said = [line for line in said if "can't open" not in line]
    assert len(said) <= 2, f"{command}, {situation.name}: more than one line: {said}"
    return CHANGES.sub("", said[0])


def calls(situation: Situation) -> dict[str, str]:
    """What each call of the library was refused with, "" if it works."""
    done = start(["-m", "tests.support.librarycalls"], situation)
    assert done.returncode == 0, f"{situation.name}: {done.stderr}"
    said: dict[str, str] = json.loads(done.stdout)
    long = {call: text for call, text in said.items() if "\n" in text}
    assert not long, f"{situation.name}: more than one line: {long}"
    return {call: CHANGES.sub("", text) for call, text in said.items()}


def found() -> tuple[Answers, Answers]:
    """Return what tools and calls answer on this kernel."""
    tools: Answers = {command: {} for command in COMMANDS}
    library: Answers = {}
    with a_trampoline():
        for situation in SITUATIONS:
            with situation.around():
                for command in COMMANDS:
                    tools[command][situation.name] = tool(command, situation)
                for call, said in calls(situation).items():
                    library.setdefault(call, {})[situation.name] = said
    return tools, library


def table(head: str, answers: Answers, notes: dict[str, int]) -> Iterator[str]:
    """Yield the lines of a table. Refusals get numbers in `notes`."""
    yield f"| {head} | {' | '.join(s.name for s in SITUATIONS)} |"
    yield "|---" * (len(SITUATIONS) + 1) + "|"
    for what, cells in answers.items():
        marks = []
        for situation in SITUATIONS:
            said = cells[situation.name]
            marks.append(f"[{notes.setdefault(said, len(notes) + 1)}]" if said else "yes")
        yield f"| `{what}` | {' | '.join(marks)} |"


def full(tools: Answers, library: Answers) -> str:
    """Return both tables and the list of refusals."""
    notes: dict[str, int] = {}
    lines = [
        *table("`pybpf ...`", tools, notes),
        "",
        *table("call", library, notes),
        "",
        *(f"{number}. `{said}`" for said, number in notes.items()),
        "",
    ]
    return "\n".join(lines)


def answers_of(text: str) -> Answers:
    """Read back what `full` wrote."""
    notes = {f"[{n}]": said for n, said in re.findall(r"^(\d+)\. `(.*)`$", text, re.M)}
    out: Answers = {}
    for line in text.splitlines():
        if line.startswith("| `") and not line.startswith("| `pybpf ...`"):
            what, *cells = line.strip("| ").split(" | ")
            names = [s.name for s in SITUATIONS]
            out[what.strip("`")] = {
                name: notes.get(cell, "") for name, cell in zip(names, cells, strict=True)
            }
    return out


def differences(answers: Answers, others: Answers) -> str:
    """Return a table of the answers that are not those of the row which the page has in full."""
    lines = ["| tool or call | where | here |", "|---|---|---|"]
    for what, cells in answers.items():
        different: dict[str, list[str]] = {}
        for situation, said in cells.items():
            if said != others.get(what, {}).get(situation):
                different.setdefault(said, []).append(situation)
        for said, where in different.items():
            shown = f"`{said}`" if said else "yes"
            lines.append(f"| `{what}` | {', '.join(where)} | {shown} |")
    return "\n".join([*lines, ""])


def written(row: str) -> str:
    """Return what the page has of a row."""
    return PAGE.read_text().partition(START.format(row))[2].partition(END)[0]


@pytest.mark.time_limit(5400)
def test_the_page_says_what_each_tool_and_call_does(kernel_row: str) -> None:
    tools, library = found()
    text = full(tools, library)
    assert answers_of(text) == tools | library  # so that the other rows can compare
    if kernel_row != FULL:
        text = differences(tools | library, answers_of(written(FULL)))
    if out := os.environ.get("OUT"):  # from here it is copied into the page
        folder = Path(out, "privileges", kernel_row)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.md").write_text(text)
        (folder / "answers.json").write_text(json.dumps(tools | library, indent=1))
    assert text == written(kernel_row)
