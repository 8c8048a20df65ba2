"""What each tool does with few rights, as docs/privileges.md has it.

Each tool runs in each situation, in a process of its own. It works, or it prints one line that
says what is missing. The tables of the page are what this test finds: it writes them to
$OUT/privileges.md (after a run from the host: .vm-out), from where they are copied.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from pybpf.dataclass import dataclass
from tests.support.privileges import (
    CAP_BPF,
    CAP_PERFMON,
    Start,
    as_nobody,
    without,
    without_tracefs,
)

pytestmark = [pytest.mark.rows("6.12"), pytest.mark.long]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/privileges.md"
KPTR = Path("/proc/sys/kernel/kptr_restrict")
MAIN = "from pybpf.tools.main import run; run()"
START, END = "<!-- made by tests/e2e/test_privileges.py -->\n", "<!-- end -->\n"


@contextmanager
def kptr_restrict() -> Iterator[None]:
    before = KPTR.read_text()
    KPTR.write_text("2")
    try:
        yield
    finally:
        KPTR.write_text(before)


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
)
#: What is run, as it is typed in a checkout.
COMMANDS = (
    "features",
    "obj inspect tests/data/multi.bpf.o",
    "obj load tests/data/obj_maps.bpf.o",
    "obj list programs",
    "btf find file_operations",
    "trampolines list",
    "trampolines verify",
    "trampolines plan fentry.multi/do_getpgid",
    "trampolines plan fentry.multi/do_getpg*",
    "trampolines why do_getpgid",
    "retsnoop -e do_sys_openat2 -- cat /no/such/file",
    "retsnoop -F -e do_sys_openat2 -- cat /no/such/file",
    "funcwatch --duration 0.2 do_getpgid",
    "funcwatch --duration 0.2 do_getpg*",
)


def run(command: str, situation: Situation) -> str:
    """What it says that it lacks, "" if it works."""
    with situation.around():
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *command.split()],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=situation.start,
            timeout=300,
        )
    # A plan without functions is an answer, on standard output.
    said = [line for line in done.stderr.splitlines() if line.strip()]
    lines = [line.strip() for line in done.stdout.splitlines()]
    said = said or [line for line in lines if not line.startswith("-v adds")][-1:]
    assert "Traceback" not in done.stderr, f"{command}, {situation.name}: {done.stderr}"
    works = done.returncode == 0 or ("-- cat" in command and "ENOENT" in done.stdout)
    if works:
        return ""
    assert done.returncode in (1, 2), f"{command}, {situation.name}: {done.returncode} {said}"
    assert said, f"{command}, {situation.name}: no word"
    said = [line for line in said if "can't open" not in line]
    assert len(said) <= 2, f"{command}, {situation.name}: more than one line: {said}"
    return re.sub(r"^\d+  |/tmp/\S+", "", said[0])


def tables() -> str:
    """Return the table and the list of refusals."""
    refusals: dict[str, int] = {}
    rows = []
    for command in COMMANDS:
        cells = []
        for situation in SITUATIONS:
            said = run(command, situation)
            number = refusals.setdefault(said, len(refusals) + 1) if said else 0
            cells.append(f"[{number}]" if number else "yes")
        shown = command.replace("*", "\\*")
        rows.append(f"| `{shown}` | {' | '.join(cells)} |")
    head = f"| `pybpf ...` | {' | '.join(s.name for s in SITUATIONS)} |"
    rule = "|---" * (len(SITUATIONS) + 1) + "|"
    notes = [f"{number}. `{said}`" for said, number in refusals.items()]
    return "\n".join([head, rule, *rows, "", *notes, ""])


@pytest.mark.time_limit(1800)
def test_the_page_says_what_each_tool_does() -> None:
    found = tables()
    if out := os.environ.get("OUT"):
        Path(out, "privileges.md").write_text(found)  # from here it is copied into the page
    written = PAGE.read_text().partition(START)[2].partition(END)[0]
    assert found == written
