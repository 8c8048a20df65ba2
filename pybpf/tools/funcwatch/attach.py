"""Attach the programs to functions, release some of them, and release all at the end.

Theory of operation. Every attachment has a number, which is in the cookies of its programs.
The map `active` says for each function which number counts, 0 for none. So one write releases
a function at once. If its link holds other functions too, they are attached again in a new link.
Writing the new number makes the new programs count from the next call on, and then the old link
is closed. No call is lost, and none is counted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ...errors import PlanError
from ...features import Feature
from ...multi.missed import Missed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ... import Object
    from ...kernel.functions import KernelFunction
    from ...kernel.host import Facts
    from ...links import Link
    from ...multi.link import MultiLink
    from ...multi.plan import Plan
    from ...multi.reasons import Skipped
    from ...multi.resolve import Item
    from ...multi.target import Target
    from .functions import Functions

__all__ = ["Watcher", "id_of", "program_for"]

# What gives a session its cookie, by mechanism.
_SESSIONS = {
    "tracing_multi": Feature.TRACING_MULTI,
    "trampoline": Feature.FSESSION,
    "kprobe_multi": Feature.KPROBE_SESSION,
}
# What gives back the places of tasks for `watch_pair`: programs and their tracepoints.
_ENDS = {"forget": "sched_process_exit", "forget_former": "sched_process_exec"}
_STRIDE = 2  # an element of `active` takes 8 bytes of its memory, in 4-byte words


def program_for(mechanism: str, facts: Facts, *, mixed: bool = False) -> tuple[str, str]:
    """Choose the program of funcwatch.bpf.c, and the mechanism to ask for.

    The program is `watch` if there are session cookies. If only kprobe.multi has them, it is the
    mechanism to use: functions that it cannot carry are skipped with that reason.

    :param mechanism: "auto", or the requested mechanism
    :param mixed: several mechanisms may be useful, among them trampolines
    """
    have = [name for name, feature in _SESSIONS.items() if facts.supports(feature)]
    if mechanism != "auto":
        return ("watch" if mechanism in have else "watch_pair", mechanism)
    if have == ["kprobe_multi"] and not mixed:
        return ("watch", "kprobe_multi")
    return ("watch" if have and have != ["kprobe_multi"] else "watch_pair", "auto")


class Watcher:
    """Hold the attached programs.

    :param obj: funcwatch.bpf.o, loaded
    :param functions: numbers the functions
    :ivar links: all attachments that have functions
    :ivar watched: functions that are counted now, by number
    :ivar attached: numbers of all functions that were ever counted
    """

    def __init__(self, obj: Object, functions: Functions) -> None:
        self._obj = obj
        self.functions = functions
        self._active = obj.maps["active"].memory().cast("B").cast("I")
        self._attachments = 0
        self.links: list[MultiLink] = []
        self._missed = Missed()  # by attachments that are gone
        self._ends: list[Link] = []  # of tasks, for `watch_pair`
        self.watched: dict[int, Target] = {}
        self.attached: set[int] = set()

    def attach(
        self,
        wanted: Sequence[Item],
        mechanism: str,
        *,
        progress: Callable[[int, int], None] | None = None,
        planned: Callable[[Plan], None] | None = None,
        rates: Mapping[str, float] | None = None,
        horizon: float = 0.0,
    ) -> MultiLink:
        """Attach to some functions, and count them from now on.

        :param rates: calls per second by name, as far as they are known
        :param horizon: with rates: seconds that it will stay attached
        :raises PlanError: no function could be attached to
        """
        facts = self._obj.facts
        # kprobe.multi needs addresses, which the kernel may hide.
        placed = all(isinstance(one, str) or one.address for one in wanted)
        mixed = rates is not None or not placed
        name, mechanism = program_for(mechanism, facts, mixed=mixed)
        # If each function needs its own link anyway (6.1), the cheapest one to call is best:
        # another process does the detaching.
        single = mechanism == "auto" and not facts.supports(Feature.KPROBE_MULTI)
        return self._attach(
            name,
            wanted,
            mechanism=mechanism,
            prefer="overhead" if single and rates is None else None,
            unknown="registers",  # without BTF only the return register can be read
            progress=progress,
            planned=planned or _silent,
            rates=rates,
            horizon=horizon,
        )

    def _attach(self, name: str, wanted: Sequence[Item], **options: object) -> MultiLink:
        if name == "watch_pair" and not self._ends:
            for end, where in _ENDS.items():
                self._ends.append(self._obj.programs[end].attach_raw_tp(where))
        self._attachments += 1
        number = self._attachments
        link = self._obj.programs[name].attach_multi(
            wanted,
            cookies=lambda target: self.functions.cookie(target, number),
            **options,  # type: ignore[arg-type]
        )
        self.links.append(link)
        for target in link.targets:
            at = self.functions.number(target)
            self.watched[at] = target
            self.attached.add(at)
            self._active[at * _STRIDE] = number
        return link

    def let_go(self, numbers: Iterable[int]) -> None:
        """Stop counting some functions, and detach from them."""
        gone = []
        for number in numbers:
            self._active[number * _STRIDE] = 0
            gone.append(self.watched.pop(number))
        for link in list(self.links):
            stay = link.detach_only(gone)
            if stay and self._moved(stay, link):
                link.detach_only([*gone, *stay])
        self._forget()

    def _forget(self) -> None:
        # Modules may come and go for years: keep no attachment without functions.
        for link in [link for link in self.links if not link.attached]:
            link.close()
            self._missed += link.missed
            self.links.remove(link)

    def _moved(self, targets: Sequence[Target], link: MultiLink) -> bool:
        # Whether another attachment now counts all of them.
        kept = {id_of(target) for target in targets}
        ways = [g.mechanism.value for g in link.groups if kept & {id_of(t) for t in g.targets}]
        watched = [t for t in self.watched.values() if id_of(t) in kept]
        if not watched:
            return True
        try:
            new = self.attach(watched, ways[0])
        except PlanError:
            return False
        return {id_of(t) for t in watched} <= {id_of(t) for t in new.targets}

    def count_calls(
        self, wanted: Sequence[Item], wait: Callable[[], None], progress: Callable[[int, int], None]
    ) -> None:
        """Count only calls while `wait` waits, with the mechanism that attaches fastest.

        :raises PlanError: no function could be attached to
        """
        link = self._attach("only_count", wanted, progress=progress, planned=_silent)
        try:
            self._obj.globals.enabled = 1
            wait()
        finally:
            self._obj.globals.enabled = 0
            link.detach(wait=False)
            self.links.remove(link)
            self.watched.clear()
            self.attached.clear()

    @property
    def skipped(self) -> Sequence[Skipped]:
        """List the functions that could not be attached to."""
        return [skipped for link in self.links for skipped in link.skipped]

    @property
    def missed(self) -> Missed:
        """Count the calls that the programs missed, including those that are gone."""
        return sum((link.missed for link in self.links), self._missed)

    @property
    def run_times(self) -> dict[int, int]:
        """Read the run time of the attached programs in ns, by program id."""
        return {p: ns for link in self.links for p, ns in link.run_times.items()}

    def mechanisms(self) -> dict[str, int]:
        """Count the functions that each mechanism carries now."""
        found: dict[str, int] = {}
        watched = {id_of(target) for target in self.watched.values()}
        for link in reversed(self.links):
            for group in link.groups:
                own = watched & {id_of(target) for target in group.targets}
                watched -= own
                if own:
                    name = group.mechanism.value
                    found[name] = found.get(name, 0) + len(own)
        return found

    def detach(self) -> list[MultiLink]:
        """Silence the programs and release all links. Return the links that another process closes.

        That process does what takes long.
        """
        self._obj.globals.enabled = 0
        for link in reversed(self.links):
            link.detach(wait=False)
        for end in self._ends:
            end.close()
        return [link for link in self.links if link.closing]


def id_of(target: KernelFunction) -> tuple[str, str, int]:
    """Return what identifies a function."""
    return (target.module, target.name, target.address)


def _silent(_plan: Plan) -> None:
    # The caller already says how long it takes.
    pass
