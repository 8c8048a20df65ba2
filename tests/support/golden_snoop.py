"""Runs of retsnoop with golden texts: the cases, and what is taken out of their output.

Durations and task ids decide how wide columns are, so they are replaced in the records, before
anything is laid out (`steady`). What is left that another boot or another build of the kernel
would change keeps its length: addresses, offsets in functions, BTF ids, times of day (`normalise`).
Everything else is compared byte by byte.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from pybpf.tools.retsnoop.events import Call, End, Event, Hit, Return
from tests.support import rows
from tests.support.golden_cases import GOLDEN

__all__ = [
    "CASES",
    "NAME",
    "WORKLOAD",
    "Case",
    "expected",
    "normalise",
    "path_of",
    "present",
    "steady",
]

NAME = "golden"  # of the command that is traced
#: One file is missing, one is there. It ends without looking for more.
WORKLOAD = [
    sys.executable,
    "-c",
    f"""\
import os
with open("/proc/self/comm", "w") as file:
    file.write("{NAME}")
try: os.open("/no/such/file", os.O_RDONLY)
except OSError: os.open("/dev/null", os.O_WRONLY)
os._exit(0)
""",
]
_OPEN = ("-e", "do_sys_openat2", "-a", "do_fil?_open", "-a", "path_openat")
_CLEANUP = ("-e", "do_sys_openat2", "-a", "do_fil?_open", "-a", "putname", "-a", "put_unused_fd")
# Not path_openat, whose argument is memory that nobody has written yet.
_ARGS = ("-A", "-e", "do_sys_openat2", "-a", "do_fil?_open")
_PROBES = ("-J", "kprobe:path_openat", "-J", "kretprobe:path_openat", "-e", "do_sys_openat2")


@dataclass(frozen=True)
class Case:
    """Describe a run.

    :param options: besides ``-n``
    :param file: it writes ``--trace-out``, which is what is compared
    """

    name: str
    options: tuple[str, ...]
    file: bool = False


CASES = (
    Case("stack", _OPEN),
    Case("trace", ("-T", *_OPEN)),
    Case("trace-and-stack", ("-TE", *_OPEN)),
    Case("success", ("-S", *_OPEN)),
    Case("cleanup", ("-TE", *_CLEANUP)),
    Case("args-compact", ("-TE", *_ARGS)),
    Case("args-multiline", ("-TE", *_ARGS, "-C", "args.fmt-mode=multiline")),
    Case("args-verbose", ("-TE", *_ARGS, "-C", "args.fmt-mode=verbose")),
    Case("interim", ("-I", *_CLEANUP)),
    Case("probes", ("-TE", *_PROBES)),
    Case("branches", ("-B", *_OPEN)),
    Case("json", ("--json", "-TE", *_ARGS)),
    Case("trace-out", ("-T", *_OPEN), file=True),
)


def path_of(row: str, case: Case) -> Path:
    """Return the path of a case's golden text for a row."""
    return GOLDEN / row / f"retsnoop-{case.name}.txt"


def expected() -> set[Path]:
    """Return the golden texts that must exist. There must be no others."""
    return {path_of(row, case) for row in rows.names() for case in CASES}


def present() -> set[Path]:
    """Return the golden texts that exist."""
    return set(GOLDEN.glob("*/retsnoop-*.txt"))


def steady(event: Event) -> Event:
    """Give a record times and task ids that are the same in every run."""
    event = event._replace(key=812)
    if isinstance(event, End):
        count = len(event.frames)
        frames = [
            frame._replace(duration=(count - at) * 1_234_567 if frame.done else 0)
            for at, frame in enumerate(event.frames)
        ]
        return event._replace(
            start=1_000_000, end=9_000_000, tid=812, tgid=812, frames=tuple(frames)
        )
    if isinstance(event, (Call, Hit)):
        return event._replace(time=1_000_000 + event.seq * 1000)
    if isinstance(event, Return):
        return event._replace(duration=event.seq * 1500)
    return event


def _masked(found: re.Match[str]) -> str:
    return found[1] + "N" * len(found[2])


_MASKS = (
    re.compile(r"(\b0x)([0-9a-f]{9,16})\b"),
    re.compile(r"(\+0x)([0-9a-f]+)\b"),
)
_NUMBERS = re.compile(r'("(?:start_ns|end_ns|btf_id|offset)":)\d+|(DONE in )\d+')
_TIMES = re.compile(r"\b\d\d:\d\d:\d\d\.\d{6}\b")


# What is said only if the machine was slow or busy.
_SOMETIMES = re.compile(r"^(Process \d+ goes on detaching|MISSED CALLS:).*\n", re.M)


def normalise(text: str) -> str:
    """Take out what differs from boot to boot, and break long lines of JSON."""
    text = _SOMETIMES.sub("", text)
    for mask in _MASKS:
        text = mask.sub(_masked, text)
    text = _NUMBERS.sub(lambda found: f"{found[1] or found[2]}N", text)
    text = _TIMES.sub("HH:MM:SS.uuuuuu", text)
    return text.replace("},{", "},\n  {")
