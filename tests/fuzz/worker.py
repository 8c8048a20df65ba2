"""Run inputs in a process with limits, which may hang, grow or die without harm.

A child takes the inputs of one target by number. It writes the number of the input it works on
into memory that the parent sees. If the child ends or stands still, the parent knows the input,
reports it and goes on after it with a new child.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import resource
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType

from tests.fuzz.engine import several, shrunk
from tests.fuzz.targets import Target, attempt

__all__ = ["MEMORY", "SECONDS", "Finding", "fuzz", "input_of", "outcome"]

#: Most CPU time for one input, and most memory in bytes above what a process has before.
SECONDS, MEMORY = 2, 300 << 20
# Seconds without a new input after which a child is taken for hung where no signal gets through.
_DEAD = 10
_PACKAGE = str(Path(__file__).resolve().parents[2])


class _Hang(BaseException):
    """Say that an input took too long. Not an Exception, so that nothing catches it."""


@dataclass(frozen=True)
class Finding:
    """Describe one input that a parser does not stand.

    :param key: kind of error and place: equal for one fault
    :param number: number of the input, -1 for a corpus file
    """

    target: str
    key: str
    number: int
    data: bytes
    text: str


def input_of(target: Target, seeds: list[bytes], seed: int, number: int) -> bytes:
    """Make input `number` of a run with a seed. The first are the seeds of the target."""
    if number < len(seeds):
        return seeds[number]
    random = Random(f"{seed}:{target.name}:{number}")
    return several(target.change, random.choice(seeds), seeds, random)


def _on_alarm(_number: int, _frame: FrameType | None) -> None:
    raise _Hang


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * mmap.PAGESIZE + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.signal(signal.SIGVTALRM, _on_alarm)


def outcome(target: Target, data: bytes) -> tuple[str, str] | None:
    """Run one input within the limits of this process. None, or (key, traceback)."""
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            attempt(target, data)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except (_Hang, Exception) as error:
        name = type(error).__name__.strip("_")
        trace = traceback.extract_tb(error.__traceback__)
        ours = [f for f in trace if f.filename.startswith(f"{_PACKAGE}/pybpf/")] or [trace[-1]]
        # One that may come anywhere in a loop is known by where the loop was entered.
        place = ours[0 if name in ("Hang", "RecursionError", "MemoryError") else -1]
        text = "".join(traceback.format_exception(error, limit=-6))[-3000:]
        return f"{name}-{Path(place.filename).stem}-{place.name.strip('<>')}", text
    return None


def _child(
    target: Target,
    seeds: list[bytes],
    seed: int,
    numbers: range,
    until: float,
    page: mmap.mmap,
    found: Callable[[Finding], None],
) -> None:
    _limit()
    known: set[str] = set()
    for number in numbers:
        struct.pack_into("<Q", page, 0, number + 1)
        if time.monotonic() > until:
            break
        try:
            data = input_of(target, seeds, seed, number)
        except MemoryError:
            continue  # making it takes more than reading it may
        wrong = outcome(target, data)
        if wrong is not None and wrong[0] not in known:
            key, text = wrong
            known.add(key)

            def same(smaller: bytes, key: str = key) -> bool:
                again = outcome(target, smaller)
                return again is not None and again[0] == key

            slow = key.startswith(("Hang", "Memory"))
            small = shrunk(data, same, 8 if slow else 200)
            found(Finding(target.name, key, number, small, text))
    else:
        struct.pack_into("<Q", page, 0, numbers.stop + 1)


def _in_child(
    work: Callable[[Callable[[Finding], None]], None], page: mmap.mmap
) -> tuple[list[Finding], bool]:
    # What it found, and whether it came to its end: it may have died or had to be killed.
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "wb", buffering=0) as out:
                work(lambda finding: pickle.dump(finding, out))
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    os.close(writing)
    os.set_blocking(reading, False)
    raw, seen, since = b"", b"", time.monotonic()
    while True:
        if select.select([reading], [], [], 1)[0]:
            part = os.read(reading, 1 << 20)
            if not part:
                break
            raw += part
        now = bytes(page[:8])
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > _DEAD * SECONDS:
            os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    stream, findings = io.BytesIO(raw), []
    while stream.tell() < len(raw):
        findings.append(pickle.load(stream))
    return findings, status == 0


def fuzz(
    target: Target, seed: int, *, first: int, count: int, until: float
) -> Iterator[Finding | int]:
    """Run inputs of one target. Yields findings, then how many inputs were run.

    :param until: `time.monotonic` at which it ends
    """
    seeds = target.seeds()
    page = mmap.mmap(-1, mmap.PAGESIZE)
    number, end = first, first + count
    while number < end and time.monotonic() < until:
        struct.pack_into("<Q", page, 0, number + 1)

        def work(found: Callable[[Finding], None], number: int = number) -> None:
            _child(target, seeds, seed, range(number, end), until, page, found)

        found, ended = _in_child(work, page)
        yield from found
        (at,) = struct.unpack_from("<Q", page, 0)
        if ended:
            number = at - 1
            break
        data = input_of(target, seeds, seed, at - 1)
        yield Finding(target.name, "Died", at - 1, data, "the process died, or had to be killed")
        number = at
    yield number - first
