"""Calls that an attached program missed, as the kernel and the recursion guard count them.

Theory of operation. Three counters count calls on which a program did not run:

- ``bpf_prog_info.recursion_misses``: the program (for kprobes: any kprobe
  program) was already running on that CPU. Tracing programs have it since 5.12,
  kprobe programs since 6.7. Before that it stays 0, which says nothing.
- ``bpf_link_info``'s ``missed`` of a kprobe or kprobe.multi link (6.7): the hit
  did not reach the program.
- the recursion guard of many copies of one program, see `guard`.

What a kernel does not count is unknown here, never 0. `docs/losses.md` says what
can be lost where. A program's counter is read through its id, which the kernel
allows with CAP_SYS_ADMIN. Without it, that link's losses are unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache

from .._sys import bpf as sys_bpf
from .._sys import info as sys_info
from .._uapi.enums import LinkType
from ..btf.types import BtfKind, Struct, Union
from ..dataclass import dataclass
from ..errors import BpfError, ObjectFormatError, UnsupportedFeature
from ..wording import many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._sys.fd import Fd
    from ..btf import Btf
    from ..kernel.host import Facts
    from ..links import Link

__all__ = ["Losses", "Missed", "counts_kprobes", "losses_on", "run_times"]

_KPROBES = frozenset({LinkType.BPF_LINK_TYPE_KPROBE_MULTI, LinkType.BPF_LINK_TYPE_PERF_EVENT})


@dataclass(frozen=True, slots=True)
class Missed:
    """Count calls on which a program was attached and did not run.

    :param guard: another copy of the program was running on that CPU
    :param programs: ``recursion_misses``: the program itself was running on that CPU
    :param hits: for kprobes: the hit did not reach the program
    :param unknown_links: number of links that this kernel does not report, or not to this process;
        their losses are in none of the counts
    """

    guard: int = 0
    programs: int = 0
    hits: int = 0
    unknown_links: int = 0

    @property
    def count(self) -> int:
        """Return the sum of the known counts."""
        return self.guard + self.programs + self.hits

    @property
    def known(self) -> bool:
        """Return True if `count` includes all links."""
        return not self.unknown_links

    def __add__(self, other: Missed) -> Missed:
        return Missed(
            self.guard + other.guard,
            self.programs + other.programs,
            self.hits + other.hits,
            self.unknown_links + other.unknown_links,
        )

    def __str__(self) -> str:
        if self.known:
            return str(self.count)
        links = many(self.unknown_links, "link")
        what = f"at least {self.count}" if self.count else "unknown"
        return f"{what} ({links} not counted by this kernel)"


def counts_kprobes(btf: Btf | None) -> bool:
    """Tell whether the kernel counts what kprobe programs miss (6.7).

    Its link info then has a place for it. Both counters came in one series; "bpf: Add missed
    value to kprobe_multi link info" is the part that can be seen.

    :param btf: the running kernel's; None if not known, which gives False
    """
    found = btf.find("bpf_link_info", BtfKind.STRUCT) if btf is not None else None
    return btf is not None and found is not None and _has_member(btf, found, "missed")


def losses_on(facts: Facts) -> Losses:
    """Count what links on a kernel miss.

    :param facts: facts of the kernel; its types are read when a kprobe is seen
    """

    def tells() -> bool:
        try:
            return counts_kprobes(facts.btf.vmlinux())
        except (OSError, UnsupportedFeature, ObjectFormatError):
            return False  # the kernel has no BTF, or it cannot be read

    return Losses(tells)


def _has_member(btf: Btf, type_id: int, name: str) -> bool:
    # Looks into nested structs and unions, too.
    kind = btf.type(btf.skip_mods_and_typedefs(type_id))
    if not isinstance(kind, (Struct, Union)):
        return False
    return any(m.name == name or _has_member(btf, m.type, name) for m in kind.members)


@dataclass(slots=True)
class _Reading:
    # What one link's own info says. The program's counter is read through `program`.
    program: int = 0
    hits: int = 0
    seen: bool = False
    kprobe: bool = False  # the kernel may be too old to count for it


@dataclass(frozen=True, slots=True)
class _End:
    # The last counts of a closed link whose program runs from kprobes.
    program: int
    misses: int
    hits: int


class Losses:
    """Count what the links of one attachment missed, while they exist and afterwards.

    :param kprobes: gives `counts_kprobes` of the running kernel; called when there are kprobes
    """

    def __init__(self, kprobes: Callable[[], bool]) -> None:
        self._kprobes = cache(kprobes)
        self._programs: dict[int, int] = {}  # of closed links: id -> misses
        self._hits = 0
        self._unknown = 0
        # Closed links for which it is asked only when needed whether the kernel counts.
        self._ends: list[_End] = []

    def now(self, links: Iterable[Link]) -> Missed:
        """Count for these links, and for those that `close` has closed."""
        live: dict[int, int | None] = {}  # several links may share a program
        for end in self._ends:
            if self._kprobes():
                self._programs[end.program] = end.misses
                self._hits += end.hits
            else:
                self._unknown += 1
        self._ends.clear()
        hits, unknown = self._hits, self._unknown
        for link in links:
            reading = self._read(link)
            counts = reading.seen and (not reading.kprobe or self._kprobes())
            if counts and reading.program not in live:
                live[reading.program] = _misses_of(reading.program)
            unknown += not counts or live[reading.program] is None
            hits += reading.hits
        told = {program: misses for program, misses in live.items() if misses is not None}
        programs = sum({**self._programs, **told}.values())
        return Missed(programs=programs, hits=hits, unknown_links=unknown)

    def of(self, link: Link) -> Missed:
        """Count for one link. If several links share a program, its misses are those of all."""
        return Losses(self._kprobes).now([link])

    def close(self, link: Link) -> None:
        """Close a link and keep what it missed."""
        reading = self._read(link)
        program = _open(reading.program) if reading.seen else None
        try:
            link.close()
            if program is None:
                self._unknown += 1
                return
            misses = sys_info.prog_info(program).recursion_misses
            if reading.kprobe:
                self._ends.append(_End(reading.program, misses, reading.hits))
            else:
                self._programs[reading.program] = misses
                self._hits += reading.hits
        finally:
            if program is not None:
                program.close()

    def _read(self, link: Link) -> _Reading:
        try:
            info = link.info()
        except BpfError:  # we may not see it, or it was closed elsewhere
            return _Reading()
        return _Reading(info.prog_id, info.missed, seen=True, kprobe=info.type in _KPROBES)


def run_times(links: Iterable[Link]) -> dict[int, int]:
    """Read the run time of the programs of some links, in ns, by program id.

    It counts while the kernel's statistics are on, see `pybpf.kernel.run_statistics`. A link or
    a program that this process may not read is left out.
    """
    programs = set()
    for link in links:
        with suppress(BpfError):  # not ours to see, or closed by somebody else
            programs.add(link.info().prog_id)
    found = {}
    for program in programs:
        opened = _open(program)
        if opened is not None:
            with opened:
                found[program] = sys_info.prog_info(opened).run_time_ns
    return found


def _open(program: int) -> Fd | None:
    with suppress(BpfError):
        return sys_bpf.get_fd_by_id("prog", program)
    return None


def _misses_of(program: int) -> int | None:
    opened = _open(program)
    if opened is None:
        return None
    with opened:
        return sys_info.prog_info(opened).recursion_misses
