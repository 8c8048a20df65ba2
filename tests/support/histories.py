"""Random histories of tracers that come and go: drawn from a seed, replayed in part, shrunk.

A history is a list of steps. A step attaches a program to functions or detaches it. Any part of a
history is one, too: to attach what is attached, or to detach what is not, does nothing. So when a
history fails, parts of it are played until no step and no function can be left out (`shrink`).
`Notes` is the file that remembers which histories passed. All of it is pure but that file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

__all__ = ["Notes", "Step", "World", "history", "shrink"]

TRIES = 100
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """Attach a program, or detach it if there are no functions.

    :param mechanism: as `attach_multi` takes it, or `STANDARD`
    """

    program: str
    mechanism: str = ""
    functions: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.functions:
            return f"detach {self.program}"
        return f"attach {self.program} by {self.mechanism} to {' '.join(self.functions)}"


@dataclass(frozen=True)
class World:
    """Say what histories are about.

    :param functions: names
    :param sizes: most functions of a set, by mechanism
    :param programs: what can be attached, by mechanism
    :param crowded: half of every set is from so many functions, so that sets overlap
    :param most: programs at a time
    """

    functions: Sequence[str]
    sizes: Mapping[str, int]
    programs: Mapping[str, Sequence[str]]
    crowded: int = 12
    most: int = 5


def history(seed: int, count: int, world: World) -> list[Step]:
    """Draw a history. The same seed and world give the same one."""
    chance = random.Random(seed)
    functions = list(world.functions)
    crowded = chance.sample(functions, min(world.crowded, len(functions)))
    mechanisms = sorted(world.sizes)
    live: list[str] = []
    out: list[Step] = []
    while len(out) < count:
        mechanism = chance.choice(mechanisms)
        free = [name for name in world.programs[mechanism] if name not in live]
        wanted = len(live) < 2 or (len(live) < world.most and chance.random() < 0.6)
        if wanted and free:
            most = world.sizes[mechanism]
            size = chance.randint(max(1, most // 3), most)
            some = chance.sample(crowded, min(len(crowded), (size + 1) // 2))
            some += chance.sample(functions, min(len(functions), size // 2))
            program = chance.choice(free)
            live.append(program)
            out.append(Step(program, mechanism, tuple(dict.fromkeys(some))))
        elif live:
            program = chance.choice(sorted(live))
            live.remove(program)
            out.append(Step(program))
    return out


class _Enough(Exception):
    pass


def shrink(
    steps: Sequence[Step], fails: Callable[[Sequence[Step]], bool], tries: int = TRIES
) -> list[Step]:
    """Return a part of a failing history that still fails, as small as can be found.

    Steps are left out in halves, quarters and so on, at last one by one, then functions of a step
    in the same way. If failing does not depend on anything that was left out, what remains is the
    smallest.

    :param fails: plays a history and returns True if it fails
    :param tries: histories that may be played
    """
    best = list(steps)
    left = tries

    def bad(candidate: list[Step]) -> bool:
        nonlocal best, left
        if left == 0:
            raise _Enough
        left -= 1
        if fails(candidate):
            best = candidate
            return True
        return False

    try:
        _least(best, bad)
        for at, step in enumerate(best):
            if len(step.functions) > 1:
                kept = list(best)

                def with_some(some: list[str], at: int = at, kept: list[Step] = kept) -> bool:
                    one = replace(kept[at], functions=tuple(some))
                    return bool(some) and bad([*kept[:at], one, *kept[at + 1 :]])

                _least(list(step.functions), with_some)
    except _Enough:
        pass
    return best


def _least(things: list[T], bad: Callable[[list[T]], bool]) -> list[T]:
    # Delta debugging (Zeller and Hildebrandt, 2002): leave out ever smaller chunks.
    parts = 2
    while things:
        size = -(-len(things) // parts)
        for start in range(0, len(things), size):
            rest = things[:start] + things[start + size :]
            if bad(rest):
                things, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(2 * parts, len(things))
    return things


class Notes:
    """Remember which histories were played, in a file of JSON lines.

    :param path: None to remember nothing after this run
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._passed: set[tuple[str, int, int]] = set()
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                try:
                    said = json.loads(line)
                    key = (said["row"], said["seed"], said["steps"])
                    passed = not said["problem"]
                except (ValueError, KeyError, TypeError):
                    continue  # a run that was killed may have left half a line
                (self._passed.add if passed else self._passed.discard)(key)

    def passed(self, row: str, seed: int, steps: int) -> bool:
        """Return True if this history passed when it was last played."""
        return (row, seed, steps) in self._passed

    def add(self, row: str, seed: int, steps: int, problem: str, seconds: float) -> None:
        """Note a history that has been played."""
        if not problem:
            self._passed.add((row, seed, steps))
        if self._path is None:
            return
        said = {"row": row, "seed": seed, "steps": steps, "problem": problem, "seconds": seconds}
        before = self._path.read_bytes() if self._path.exists() else b""
        with open(self._path, "a") as file:
            file.write("\n" if before and not before.endswith(b"\n") else "")
            file.write(json.dumps(said) + "\n")
