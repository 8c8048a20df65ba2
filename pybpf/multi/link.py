"""`MultiLink`: a multi program attached to many functions.

The engine pushes each link it makes on the MultiLink's stack as a `Piece`. Detaching removes
them one by one, so after an interrupt the MultiLink still knows what is attached.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .. import links
from .._sys.interrupts import held
from ..dataclass import dataclass
from ..wording import many
from .missed import Losses, Missed, run_times
from .options import Progress
from .plan import Group, Part, Plan, in_groups
from .reasons import Skipped
from .target import Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from ..links import Link
    from .guard_maps import GuardMaps
    from .mechanisms import Mechanism

__all__ = ["SLOW_S", "Changed", "MultiLink", "Piece", "say_takes", "target_key", "warn"]

#: Predicted seconds (for an emulated machine) from which a warning comes beforehand.
SLOW_S = 5.0
# Predicted seconds up to which detaching is quicker than starting a process that does it.
_QUICK_S = 1.0


def warn(text: str) -> None:
    """Warn people through the logger ``pybpf``."""
    import logging  # lazy: rarely needed

    logging.getLogger("pybpf").warning("%s", text)


def say_takes(functions: int, seconds: float) -> str:
    """Put a prediction for attaching or detaching into words."""
    return f"{many(functions, 'function')} will take about {seconds:.0f} s"


def _silent(_done: int, _total: int) -> None:
    # Shows no progress.
    pass


def target_key(target: Target) -> tuple[str, str, int]:
    """Return what identifies a function: module, name, address."""
    return (target.module, target.name, target.address)


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Hold one of the kernel's links, and what it does.

    :param part: the program: where it runs, and the variant that was loaded
    """

    link: links.Link
    mechanism: Mechanism
    module: str
    part: Part
    targets: Sequence[Target]


@dataclass(frozen=True, slots=True)
class Changed:
    """Describe a function that was attached to in another way than planned.

    :param planned: its group in the plan
    :param attached: its group now
    """

    target: Target
    planned: Group
    attached: Group

    def __str__(self) -> str:
        return f"{self.target.label}: planned {_way(self.planned)}, is {_way(self.attached)}"


def _way(group: Group) -> str:
    scalars = " with scalars" if any(part.variant.scalars for part in group.parts) else ""
    return f"{group.mechanism.value} {group.lowering.value}{scalars}"


class MultiLink:
    """Hold a multi program attached to many functions. It owns all its links.

    :ivar plan: what was planned; the functions in its `skipped` were never tried
    :ivar refused: functions that were tried and left out, with the reasons
    :ivar spilled: functions whose trampoline was full, attached by another mechanism
    """

    def __init__(self, plan: Plan, losses: Losses | None = None) -> None:
        """Start without attachments.

        :param losses: counts what the links miss; without it, losses of kprobes are unknown
        """
        self.plan = plan
        self.refused: tuple[Skipped, ...] = ()
        self.spilled: tuple[Target, ...] = ()
        #: The kernel's links in the order they were made. For the engine; read `links` or `groups`.
        self.pieces: list[Piece] = []
        self._detached: list[Piece] = []  # last attached first
        #: Maps of the clones' recursion guard, if there is one. For the engine; read `missed`.
        self.guard: GuardMaps | None = None
        self.losses = losses or Losses(lambda: False)
        #: Process that `detach` left the links to, 0 if there is none.
        self.closing = 0

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Return the functions left out, with reasons: those of the plan, then the refused ones."""
        return (*self.plan.skipped, *self.refused)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Return the functions it was attached to, each once. Still readable after `detach`."""
        seen = {target_key(t): t for piece in self._all_pieces() for t in piece.targets}
        return tuple(seen.values())

    @property
    def attached(self) -> bool:
        """Return True while it is attached to at least one function."""
        return any(piece.targets for piece in self.pieces)

    def _all_pieces(self) -> list[Piece]:
        # In the order they were made, including those that were detached since.
        return [*self.pieces, *reversed(self._detached)]

    @property
    def groups(self) -> tuple[Group, ...]:
        """Return what was attached, in groups like those of a plan. Readable after `detach`.

        Equal to ``plan.groups`` if everything went as planned. If not, it says
        what was attached instead: see `changed`.
        """
        ways: dict[tuple[str, str, int], tuple[Target, list[Piece]]] = {}
        for piece in reversed(self._all_pieces()):  # of a pair, the exit part was made first
            for target in piece.targets:
                ways.setdefault(target_key(target), (target, []))[1].append(piece)
        return in_groups(
            (pieces[0].mechanism, pieces[0].module, tuple([p.part for p in pieces]), target)
            for target, pieces in ways.values()
        )

    @property
    def changed(self) -> tuple[Changed, ...]:
        """Return functions attached in another way than planned.

        The kernel's verifier may refuse the planned variant of one function, or its trampoline
        may be full. The next possible way is then used.
        """
        planned = {target_key(t): group for group in self.plan.groups for t in group.targets}
        # A function that moved before it was attached to has another address than planned.
        moved = {(module, name): group for (module, name, _), group in planned.items()}
        found = (
            (target, planned.get(target_key(target)) or moved[target.module, target.name], group)
            for group in self.groups
            for target in group.targets
        )
        return tuple(
            Changed(target, before, group)
            for target, before, group in found
            if not group.same_way(before)
        )

    @property
    def links(self) -> tuple[links.Link, ...]:
        """Return the kernel's open links, in the order they were made."""
        return tuple(piece.link for piece in self.pieces)

    @property
    def missed(self) -> Missed:
        """Count the calls that the program missed, from the kernel and the recursion guard.

        After `detach`, return the last values. What this kernel does not count is unknown, never 0.

        :raises BpfError: if the kernel refuses
        """
        guard = self.guard.misses if self.guard is not None else 0
        return self.losses.now(piece.link for piece in self.pieces) + Missed(guard=guard)

    def missed_of(self, link: Link) -> Missed:
        """Count the calls that the kernel reports as missed for one of `links`.

        Links that share a program share its count. The recursion guard counts for
        all links together: see `missed`.

        :raises BpfError: if the kernel refuses
        """
        return self.losses.of(link)

    @property
    def run_times(self) -> dict[int, int]:
        """Return the run time in ns of the programs that are attached now, by program id.

        It counts while the kernel's statistics are on: hold what `pybpf.kernel.run_statistics`
        returns. The work of trampolines and probes around the programs is not in it.

        :raises BpfError: if the kernel refuses
        """
        return run_times(self.links)

    def detach(self, progress: Progress | None = None, *, wait: bool = True) -> None:
        """Undo every attachment, including pinned ones, last attached first. May be called again.

        `targets`, `groups`, `skipped` and `plan` still say what was done. On 6.x kernels a
        function takes 130-160 ms if this was its only program. If that adds up to more
        than 5 s and there is no `progress`, the logger ``pybpf`` warns. An interrupt leaves the
        rest attached; call it again to continue.

        :param progress: called with (functions detached, functions in total) after each link
        :param wait: False leaves work of more than a second to a small separate process,
            `closing`, which continues after this one has ended. Until it is done the programs
            still run. If they must stop at once, give them a variable to check, and clear it first.
        :raises OSError: if a pin cannot be removed
        """
        if wait or self.detach_s <= _QUICK_S:
            self._release(progress, unpin=True)
            return
        from .._sys.closer import Closer  # lazy: rarely needed

        held_open = [number for piece in self.pieces for number in piece.link.descriptors]
        try:
            closer = Closer(held_open)
        except OSError as error:
            warn(f"{self.plan.program}: no other process can detach it: {error}")
            self._release(progress, unpin=True)
            return
        with closer:
            self.closing = closer.pid
            self._release(progress or _silent, unpin=True)

    def detach_only(self, targets: Iterable[Target]) -> tuple[Target, ...]:
        """Detach from some functions, as far as the others allow it.

        A link of one function is closed. A link of many is closed if all its functions are named.

        :returns: functions that were not named and keep links of named ones attached. Attach to
            them again, then name them here as well, and none of their calls is lost.
        """
        gone = {target_key(target) for target in targets}
        stay: dict[tuple[str, str, int], Target] = {}
        for piece in reversed(self.pieces):
            others = {target_key(t): t for t in piece.targets if target_key(t) not in gone}
            if len(others) == len(piece.targets):
                continue
            if others:
                stay |= others
                continue
            with held():
                piece.link.unpin()
                self.losses.close(piece.link)
                self.pieces.remove(piece)
                self._detached.append(piece)
        return tuple(stay.values())

    def close(self) -> None:
        """Close the links, which detaches those that are not pinned. May be called again."""
        self._release(None, unpin=False)

    @property
    def detach_s(self) -> float:
        """Predict the seconds that detaching takes on an emulated machine."""
        total = sum(len(piece.targets) for piece in self.pieces)
        all_of_them = sum(len(group.parts) * len(group.targets) for group in self.plan.groups)
        return self.plan.cost.detach_s * min(1, total / max(all_of_them, 1))

    def _release(self, progress: Progress | None, *, unpin: bool) -> None:
        total = sum(len(piece.targets) for piece in self.pieces)
        done = 0
        if progress is None and (seconds := self.detach_s) > SLOW_S:
            warn(f"{self.plan.program}: detaching from {say_takes(len(self.targets), seconds)}")
        while self.pieces:
            with held():
                piece = self.pieces[-1]
                if unpin:  # no kind of link here has BPF_LINK_DETACH
                    piece.link.unpin()
                self.losses.close(piece.link)
                self._detached.append(self.pieces.pop())
            done += len(piece.targets)
            if progress is not None:
                progress(done, total)
        if self.guard is not None:
            with held():
                self.guard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.targets)

    def __bool__(self) -> bool:
        """Return True while it is attached to at least one function."""
        return self.attached

    def __repr__(self) -> str:
        by = f"by {many(len(self.pieces), 'link')}" if self.attached else "detached"
        return (
            f"<MultiLink {self.plan.program}: {many(len(self.targets), 'function')} {by}, "
            f"{len(self.skipped)} skipped>"
        )
