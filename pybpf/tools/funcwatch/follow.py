"""The functions to watch, while modules come and go and a file of globs changes."""

from __future__ import annotations

from collections.abc import Sequence

from ...dataclass import dataclass, field
from ...errors import PlanError
from ...multi.select import select
from .attach import Watcher, id_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...kernel.host import Facts
    from ...multi.candidates import Candidate
    from ...multi.select import Selection

__all__ = ["Change", "Follower", "Globs", "read_globs"]


@dataclass(frozen=True, slots=True)
class Globs:
    """Hold which functions are requested.

    :param deny: functions to leave out, even if a glob matches them
    """

    allow: tuple[str, ...]
    deny: tuple[str, ...] = ()

    def __add__(self, other: Globs) -> Globs:
        return Globs(self.allow + other.allow, self.deny + other.deny)

    def select(self, facts: Facts) -> Selection:
        """Select the functions that match now.

        :raises PlanError: if a glob is malformed
        """
        return select(facts, self.allow, deny=self.deny, at_exit=True)


def read_globs(text: str) -> Globs:
    """Read a file of globs: one per line, ``!GLOB`` to leave out, ``#`` for a comment."""
    lines = [line.partition("#")[0].strip() for line in text.split("\n")]
    return Globs(
        tuple(line for line in lines if line and not line.startswith("!")),
        tuple(line[1:].strip() for line in lines if line.startswith("!")),
    )


@dataclass(frozen=True, slots=True)
class Change:
    """Hold the result of a change.

    :param added: number of functions that are now watched
    :param removed: number of functions that are no longer watched
    :param left: number of requested functions that are not watched
    :param why: reason for `left`
    """

    added: int = 0
    removed: int = 0
    left: int = 0
    why: str = ""


@dataclass(slots=True)
class Follower:
    """Keep the watched functions equal to what the globs match.

    :param room: number of functions that fit into the maps
    :param banned: numbers of functions that were released for good
    """

    watcher: Watcher
    facts: Facts
    globs: Globs
    mechanism: str
    room: int
    banned: set[int] = field(default_factory=set)

    @property
    def modules_changed(self) -> bool:
        """Return True if a module came or went since the last call."""
        before, self.facts = self.facts, self.facts.current()
        return self.facts is not before

    def gone(self) -> dict[str, list[int]]:
        """List watched functions, by number, of modules that are no longer loaded."""
        found: dict[str, list[int]] = {}
        for number, target in self.watcher.watched.items():
            if target.module and target.module not in self.facts.loaded:
                found.setdefault(target.module, []).append(number)
        return found

    def follow(self, *, remove: bool) -> Change:
        """Attach to functions that the globs match and that are not watched yet.

        :param remove: also release functions that the globs no longer match
        :raises PlanError: if a glob is malformed
        """
        watcher, functions = self.watcher, self.watcher.functions
        wanted = self.globs.select(self.facts).candidates
        removed = 0
        if remove:
            meant = {id_of(one) for one in wanted}
            gone = [n for n, target in watcher.watched.items() if id_of(target) not in meant]
            watcher.let_go(gone)
            removed = len(gone)
        new: list[Candidate] = []
        left = 0
        for one in wanted:
            if not functions.knows(one) and len(functions) >= self.room:
                left += 1
                continue
            number = functions.number(one)
            if number not in watcher.watched and number not in self.banned:
                new.append(one)
        why = f"no room for more than {self.room}: start it again" if left else ""
        added, refused = self._attach(new)
        return Change(added, removed, left + len(new) - added, why or refused)

    def _attach(self, new: Sequence[Candidate]) -> tuple[int, str]:
        # How many were attached to, and why others were not.
        if not new:
            return 0, ""
        try:
            link = self.watcher.attach(new, self.mechanism)
        except PlanError as error:
            return 0, str(error)
        return len(link.targets), str(link.skipped[0]) if link.skipped else ""
