"""`MultiLink`: a multi program attached to many functions.

The engine pushes each link it makes on the MultiLink's stack as a `Piece`. Detaching pops
them one by one, so after an interrupt the MultiLink still knows what is attached.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import links
from .._sys.interrupts import held
from ..dataclass import dataclass
from .missed import Losses, Missed
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

#: Seconds, predicted for an emulated machine, from which people are told beforehand.
SLOW_S = 5.0


def warn(text: str) -> None:
    """Tell people through the logger ``pybpf``."""
    import logging  # seldom wanted

    logging.getLogger("pybpf").warning("%s", text)


def say_takes(functions: int, seconds: float) -> str:
    """Words for a prediction of attaching or detaching."""
    return f"{functions} functions will take about {seconds:.0f} s (less where KVM is used)"


def target_key(target: Target) -> tuple[str, str, int]:
    """What tells a function from all others: module, name, address."""
    return (target.module, target.name, target.address)


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One of the kernel's links, and what it does.

    :param part: the program: where it runs, and the variant that was loaded
    """

    link: links.Link
    mechanism: Mechanism
    module: str
    part: Part
    targets: Sequence[Target]


@dataclass(frozen=True, slots=True)
class Changed:
    """A function that was attached to in another way than planned.

    :param planned: the group it has in the plan
    :param attached: the group it is in now
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
    """A multi program attached to many functions; owns all its links.

    :ivar plan: what was planned; its `skipped` were never tried
    :ivar refused: functions that were tried and left out, with the reasons
    :ivar spilled: functions whose trampoline was full, attached by another mechanism
    """

    def __init__(self, plan: Plan, losses: Losses | None = None) -> None:
        """Attach nothing yet.

        :param losses: counts what the links miss; without it kprobes count as unknown
        """
        self.plan = plan
        self.refused: tuple[Skipped, ...] = ()
        self.spilled: tuple[Target, ...] = ()
        #: The kernel's links in the order they were made. The engine's: read `links`, `groups`.
        self.pieces: list[Piece] = []
        self._detached: list[Piece] = []  # last attached first
        #: Maps of the recursion guard of clones, if there is one. The engine's: read `missed`.
        self.guard: GuardMaps | None = None
        self.losses = losses or Losses(lambda: False)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Functions left out, with reasons: those of the plan, then the refused ones."""
        return (*self.plan.skipped, *self.refused)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Functions it was attached to, each once; `detach` leaves them readable."""
        seen = {target_key(t): t for piece in self._all_pieces() for t in piece.targets}
        return tuple(seen.values())

    @property
    def attached(self) -> bool:
        """True while it is attached to at least one function."""
        return any(piece.targets for piece in self.pieces)

    def _all_pieces(self) -> list[Piece]:
        # In the order they were made, those that were detached since included.
        return [*self.pieces, *reversed(self._detached)]

    @property
    def groups(self) -> tuple[Group, ...]:
        """What was attached, in groups like those of a plan; `detach` leaves them readable.

        Equal to ``plan.groups`` where everything went as planned. Where it did not, it says
        what is there instead: see `changed`.
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
        """Functions attached in another way than planned.

        The kernel's verifier may refuse the planned variant of one function, or its trampoline
        may be full; then the next way is taken.
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
        """The kernel's links that are open, in the order they were made."""
        return tuple(piece.link for piece in self.pieces)

    @property
    def missed(self) -> Missed:
        """Calls that the program missed, as the kernel and the recursion guard count them.

        After `detach` the last values. What this kernel does not count is unknown, never 0.

        :raises BpfError: if the kernel refuses
        """
        guard = self.guard.misses if self.guard is not None else 0
        return self.losses.now(piece.link for piece in self.pieces) + Missed(guard=guard)

    def missed_of(self, link: Link) -> Missed:
        """Calls that the kernel counted as missed for one of `links`.

        Links that share a program have its count in common. The recursion guard's count is of
        all links together: see `missed`.

        :raises BpfError: if the kernel refuses
        """
        return self.losses.of(link)

    def detach(self, progress: Progress | None = None) -> None:
        """Undo every attachment, those pinned too, last attached first. May be called again.

        `targets`, `groups`, `skipped` and `plan` still say what was done. On 6.x kernels a
        function that this was the only program of takes 130-160 ms: where that comes to more
        than 5 s and nobody shows progress, the logger ``pybpf`` warns. An interrupt leaves the
        rest attached; call again to go on.

        :param progress: called with (functions detached, functions in all) after each link
        :raises OSError: if a pin cannot be removed
        """
        self._release(progress, unpin=True)

    def close(self) -> None:
        """Release the links, which detaches those that are not pinned. May be called again."""
        self._release(None, unpin=False)

    def _release(self, progress: Progress | None, *, unpin: bool) -> None:
        total = sum(len(piece.targets) for piece in self.pieces)
        done = 0
        if progress is None and total:
            all_of_them = sum(len(group.parts) * len(group.targets) for group in self.plan.groups)
            seconds = self.plan.cost.detach_s * min(1, total / max(all_of_them, 1))
            if seconds > SLOW_S:
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
        """True while it is attached to at least one function."""
        return self.attached

    def __repr__(self) -> str:
        by = f"by {len(self.pieces)} links" if self.attached else "detached"
        return (
            f"<MultiLink {self.plan.program}: {len(self.targets)} functions {by}, "
            f"{len(self.skipped)} skipped>"
        )
