"""Check whether the images the kernel JITed agree with what its links say.

Links say which program is attached where (BPF_OBJ_GET_INFO_BY_FD of every
tracing and tracing_multi link). Images are what really runs. `check` compares
the two as values. Each link's program must be called exactly once in the image of
its function (a session program once before and once after the original), in
the place its attach type requires, with its cookie if the kernel reports it.
Nothing else may be called, and the traced function's entry must lead to the image.

Other tracers come and go during the reading. A link exists a moment after its
image was made and is gone a moment before the function's entry is patched back.
An image outlives its last link until every task has left it (RCU tasks). So
`survey` reads again while something disagrees. It reports a disagreement only if
neither the images nor the links of the function changed for as long
as the caller asked. Functions that kept changing are counted as changed, never as wrong.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from math import inf

from ..dataclass import dataclass, field
from ..wording import many
from .image import ImageReader, TrampolineImage
from .links import Attached, LinkReading, attachments, read_links
from .roles import ProgramCall, TrampFlag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..kernel.host import Facts

__all__ = [
    "Finding",
    "Problem",
    "Survey",
    "check",
    "leaving",
    "survey",
    "verify",
]

_ORDER = {("fentry", "entry"): 0, ("fsession", "entry"): 0, ("fmod_ret", "entry"): 1}
# cgroup LSM programs run through a shim that the kernel adds itself. No link names it.
_SHIM = "__bpf_prog_enter_lsm_cgroup"
# The entry of a function that ftrace shares with others leads here; ftrace then finds the image.
_FTRACE = "ftrace_"


class Problem(Enum):
    """Name what can be wrong."""

    NO_IMAGE = "links name the function, but it has no image"
    ORPHAN = "image without any link"
    MISSING = "a link's program is not called"
    EXTRA = "calls a program no link names"
    REPEATED = "a link's program is called more than once"
    WRONG_PLACE = "a program runs at another place than its attach type asks for"
    WRONG_ORDER = "programs are called in the wrong order of kinds"
    WRONG_COOKIE = "a program gets another cookie than its link holds"
    WRONG_FLAGS = "the image is not built as its programs need"
    BROKEN = "the image contradicts itself"
    NOT_PATCHED = "the function's entry does not lead to the image"


@dataclass(frozen=True, slots=True)
class Finding:
    """Describe one disagreement. `link` and `program` are ids, or None if there is none."""

    problem: Problem
    key: int
    function: str
    detail: str
    link: int | None = None
    program: int | None = None

    def __str__(self) -> str:
        return f"{self.function or f'key {self.key}'}: {self.problem.value}: {self.detail}"

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "problem": self.problem.name.lower(),
            "key": self.key,
            "function": self.function,
            "detail": self.detail,
            "link": self.link,
            "program": self.program,
        }


@dataclass(frozen=True, slots=True)
class Survey:
    """Hold images, links, and where they disagree. If `findings` is empty, all is verified.

    :param changed: names of functions that changed while they were read, or whose image waits
        to be freed, sorted. Their last disagreement is not known to be an error, so it is not
        among the findings.
    """

    images: tuple[TrampolineImage, ...]
    attached: tuple[Attached, ...]
    findings: tuple[Finding, ...]
    changed: tuple[str, ...] = ()


def check(images: Iterable[TrampolineImage], attached: Iterable[Attached]) -> list[Finding]:
    """Compare images with what links say. Pure; an empty list means they agree."""
    newest = {image.key: image for image in images if image.current}
    wanted: dict[int, list[Attached]] = {key: [] for key in newest}
    anywhere: set[int] = set()
    for one in attached:
        if not one.keys:
            anywhere.add(one.program)
            continue
        key = next((key for key in one.keys if key in newest), one.keys[0])
        wanted.setdefault(key, []).append(one)
    findings: list[Finding] = []
    for key, links in wanted.items():
        image = newest.get(key)
        if image is None:
            named = ", ".join(f"link {one.link} (program {one.program})" for one in links)
            findings.append(
                Finding(Problem.NO_IMAGE, key, "", named, links[0].link, links[0].program)
            )
        else:
            findings += _check_image(image, links, anywhere)
    return findings


def _check_image(
    image: TrampolineImage, links: Sequence[Attached], anywhere: set[int]
) -> list[Finding]:
    findings: list[Finding] = []

    def say(
        problem: Problem, detail: str, link: int | None = None, program: int | None = None
    ) -> None:
        findings.append(Finding(problem, image.key, image.function, detail, link, program))

    running = [p for p in image.programs if not p.call.detached and p.call.enter != _SHIM]
    named = {one.program for one in links}
    strangers = [p for p in running if p.id not in named and p.id not in anywhere]
    shims = any(p.call.enter == _SHIM for p in image.programs)
    known = any(p.id in anywhere for p in running)
    if not links and not shims and not known:
        if leaving(image):
            return []
        say(Problem.ORPHAN, f"{image.symbol} at {image.address:#x}")
    else:
        for program in strangers:
            what = program.call.symbol or f"{program.call.address:#x}"
            number = "unknown program" if program.id is None else f"program {program.id}"
            say(Problem.EXTRA, f"{number} ({what})", program=program.id)
    for words in image.code.problems:
        say(Problem.BROKEN, words)
    for one in links:
        calls = [p.call for p in running if p.id == one.program]
        for problem, detail in _check_link(one, calls):
            say(problem, detail, one.link, one.program)
    ranks = [_ORDER.get((p.call.kind, p.call.phase), 2) for p in image.programs]
    if ranks != sorted(ranks):
        order = ", ".join(f"{p.call.kind} {p.call.phase}" for p in image.programs)
        say(Problem.WRONG_ORDER, order)
    calls_original = TrampFlag.CALL_ORIG in image.flags
    if calls_original != any(p.call.kind != "fentry" for p in image.programs):
        names = ", ".join(image.flags.names)
        say(Problem.WRONG_FLAGS, f"flags {names or 'none'}, programs {image.kinds}")
    entry = image.entry
    if entry is not None and not image.patched and not image.entry_symbol.startswith(_FTRACE):
        target = "nowhere" if entry.target is None else f"{entry.target:#x} {image.entry_symbol}"
        say(Problem.NOT_PATCHED, f"{entry.how} to {target.rstrip()}, image at {image.address:#x}")
    return findings


def leaving(image: TrampolineImage) -> bool:
    """Return True if nothing leads to the image any more. The kernel frees it when tasks left it.

    The same is true of an image that is just being made. If other tracers share the function,
    its entry leads to ftrace and says nothing about the image. In that case an image is leaving
    if none of its programs is loaded any more.

    :param image: an image that no link names
    """
    if image.entry is None:
        return False
    if image.entry_symbol.startswith(_FTRACE):
        return all(one.id is None or one.call.detached for one in image.programs)
    return image.entry.target is None


def _check_link(one: Attached, calls: Sequence[ProgramCall]) -> Iterator[tuple[Problem, str]]:
    who = f"link {one.link}, program {one.program}"
    if not calls:
        yield Problem.MISSING, who
        return
    session = "fsession" in {call.kind for call in calls}
    if len(calls) != (2 if session else 1):
        yield Problem.REPEATED, f"{who}: {many(len(calls), 'call')}"
    wrong = sorted({call.kind for call in calls} - set(one.kinds))
    if wrong:
        yield Problem.WRONG_PLACE, f"{who}: {', '.join(wrong)} instead of {' or '.join(one.kinds)}"
    cookies = sorted({call.cookie for call in calls})
    if one.cookie is not None and cookies != [one.cookie]:
        got = ", ".join(map(hex, cookies))
        yield Problem.WRONG_COOKIE, f"{who}: {got} instead of {one.cookie:#x}"


# ---- the running kernel -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _State:
    # Everything that a disagreement about one key can come from.
    images: tuple[TrampolineImage, ...] = ()
    links: tuple[Attached, ...] = ()


@dataclass(slots=True)
class _Seen:
    """Track one key over several readings.

    :param since: when its state was first seen as it is now, in seconds
    :param pending: links that were being created at every later reading with this state; None
        until there was such a reading
    :param agreed: the last state in which images and links agreed
    """

    state: _State
    since: float
    pending: frozenset[int] | None = None
    agreed: _State | None = None


@dataclass(slots=True)
class _History:
    """Record what several readings saw of each key, and which keys changed in between."""

    seen: dict[int, _Seen] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    names: dict[int, str] = field(default_factory=dict)

    def add(
        self,
        images: Sequence[TrampolineImage],
        links: Sequence[Attached],
        pending: frozenset[int],
        wrong: set[int],
        now: float,
    ) -> None:
        """Record one reading.

        :param wrong: keys where it disagrees
        """
        states = _states(images, links)
        self.names.update({image.key: image.function for image in images})
        for key in self.seen.keys() - states.keys():
            states[key] = _State()
        started = bool(self.seen)
        for key, state in states.items():
            known = self.seen.get(key)
            if known is None:
                known = self.seen[key] = _Seen(state, now)
                if started:
                    self.changed.add(key)
            elif known.state != state:
                known.state, known.since, known.pending = state, now, None
                self.changed.add(key)
            else:
                known.pending = pending if known.pending is None else known.pending & pending
            if key not in wrong:
                known.agreed = state

    def due(self, key: int, timeout: float) -> float:
        """Return when a disagreement about `key` counts, in seconds. Infinity if a link that is
        being created may explain it."""
        known = self.seen[key]
        return inf if known.pending else known.since + timeout

    def lasted(self, key: int, timeout: float, now: float) -> bool:
        """Return True if the same disagreement about `key` was seen twice, `timeout` seconds
        apart."""
        return self.seen[key].pending is not None and self.due(key, timeout) <= now

    def best(self, key: int, images: Iterable[TrampolineImage]) -> Iterable[TrampolineImage]:
        """Return the images of `key` among `images`, or from a reading that agreed with the links.

        That earlier reading must have had the same links. It helps because a list of symbols
        that grows and shrinks while it is read may miss an image.
        """
        known = self.seen[key]
        if known.agreed is not None and known.agreed.links == known.state.links:
            return known.agreed.images
        return [image for image in images if image.key == key]


def _states(images: Iterable[TrampolineImage], links: Iterable[Attached]) -> dict[int, _State]:
    by_key: dict[int, tuple[list[TrampolineImage], list[Attached]]] = {}
    for image in images:
        by_key.setdefault(image.key, ([], []))[0].append(image)
    for one in links:
        for key in one.keys:
            by_key.setdefault(key, ([], []))[1].append(one)
    return {key: _State(tuple(found), tuple(says)) for key, (found, says) in by_key.items()}


def survey(
    *,
    attached: Sequence[Attached] | None = None,
    timeout: float = 10.0,
    pause: float = 0.1,
    facts: Facts | None = None,
) -> Survey:
    """Read images and links and compare them, again and again while they disagree.

    It takes as long as `timeout` if something is wrong, and at most twice as long if others
    attach and detach all the time.

    :param attached: compare with these instead of what the kernel's links say
    :param timeout: seconds a disagreement must last before it is reported, without a change to
        the function's images or links
    :param pause: seconds before the second reading; the wait doubles each time, up to 2 s
    :param facts: facts of the running kernel; its BTF and symbols are then not read again
    """
    reader = ImageReader(facts)
    history = _History()
    end = time.monotonic() + 2 * timeout
    again = False
    while True:
        reading = read_links() if attached is None else LinkReading(())
        links = attachments(reading.infos) if attached is None else attached
        images = reader.read()
        findings = check(images, links)
        wrong = {finding.key for finding in findings}
        now = time.monotonic()
        history.add(images, links, reading.pending, wrong, now)
        lasting = {key for key in wrong if history.lasted(key, timeout, now)}
        if wrong == lasting or (again and now >= end):
            break
        again = True
        wait = min(history.due(key, timeout) for key in wrong - lasting) - now
        time.sleep(max(min(pause, wait, end - now), 0))
        pause = min(pause * 2, 2.0)
    for key in wrong - lasting:
        images = [*history.best(key, images), *(one for one in images if one.key != key)]
    changed = history.changed | (wrong - lasting)
    linked = {key for one in links for key in one.keys}
    changed |= {one.key for one in images if one.key not in linked and leaving(one)}
    return Survey(
        tuple(images),
        tuple(links),
        tuple(finding for finding in findings if finding.key in lasting),
        tuple(sorted(history.names.get(key) or f"key {key}" for key in changed)),
    )


def verify(
    *,
    attached: Sequence[Attached] | None = None,
    timeout: float = 10.0,
    facts: Facts | None = None,
) -> list[Finding]:
    """List disagreements between images and links that last `timeout` seconds. Empty: verified.

    :param attached: compare with these instead of what the kernel's links say
    :param facts: as for `survey`
    """
    return list(survey(attached=attached, timeout=timeout, facts=facts).findings)
