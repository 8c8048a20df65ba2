"""Which processes hold BPF links, programs, maps and BTF objects, and where these are pinned.

The kernel does not record who attached a program. But for every descriptor of a
link, ``/proc/PID/fdinfo/FD`` says which link it is (``link_id:``;
``bpf_link_show_fdinfo()`` in kernel/bpf/syscall.c). The same is true of programs, maps and
BTF objects. So psutil walks the processes once, and only descriptors whose target
is such an anonymous inode are read. An object that no process holds may be pinned, so the
mounted bpffs of this mount namespace are walked too. A link keeps its program loaded, and
its fdinfo names the program (``prog_id:``), so who only holds a program's link is found as well.
A process that we may not look into (another user's, without CAP_SYS_PTRACE) is counted, not
silently skipped. While there are such processes, we cannot be sure that nobody holds an object.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress

from .._sys import bpf as sys_bpf
from .._sys import fd as sys_fd
from .._sys.files import parse_mounts, required
from ..dataclass import dataclass, field
from ..digits import decimal
from ..errors import BpfError
from ..wording import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._sys.fd import Fd

__all__ = ["KINDS", "Held", "Owner", "Owners", "Pin", "Process", "collect", "parse_fdinfo", "read"]

#: Kinds of objects, by the words of `pybpf._sys.bpf.walk`.
KINDS = ("link", "prog", "map", "btf")
_RUNS = "runs"  # the role of a link's holder for the link's program


@dataclass(frozen=True, slots=True, order=True)
class Owner:
    """Name a process that holds a descriptor.

    :param name: its ``comm``
    """

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{plain(self.name)}({self.pid})"


@dataclass(frozen=True, slots=True)
class Held:
    """Say who holds one object.

    :param pins: paths in bpffs
    :param certain: every process could be read, so empty means nobody
    """

    owners: tuple[Owner, ...] = ()
    pins: tuple[str, ...] = ()
    certain: bool = True

    def __bool__(self) -> bool:
        return bool(self.owners or self.pins)

    def __str__(self) -> str:
        said = [*map(str, self.owners), *(f"pinned {plain(path)}" for path in self.pins)]
        return " ".join(said) or ("no process" if self.certain else "not known")

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "processes": [{"pid": o.pid, "name": o.name} for o in self.owners],
            "pins": list(self.pins),
            "certain": self.certain,
        }


@dataclass(frozen=True, slots=True)
class Owners:
    """Hold the holders of every link, and of other kinds if requested, at one moment.

    :param links: link id -> processes and pins
    :param hidden: number of processes that could not be read
    :param others: the same for other kinds (`KINDS`), by kind and id
    :param running: who holds a link that runs a program, by the program's id; if programs were
        requested
    """

    links: Mapping[int, Held] = field(default_factory=dict)
    hidden: int = 0
    others: Mapping[str, Mapping[int, Held]] = field(default_factory=dict)
    running: Mapping[int, Held] = field(default_factory=dict)

    def of_link(self, link: int) -> Held:
        """Say who keeps a link: descriptors and pins."""
        return self.of("link", link)

    def of(self, kind: str, number: int) -> Held:
        """Say who keeps an object.

        :param kind: one of the requested `KINDS`
        :param number: its id
        """
        known = self.links if kind == "link" else self.others.get(kind, {})
        return known.get(number) or Held(certain=not self.hidden)

    def of_links_that_run(self, program: int) -> Held:
        """Say who keeps the links that run a program, and so the program: descriptors and pins.

        :param program: its id; programs must be among the requested kinds
        """
        return self.running.get(program) or Held(certain=not self.hidden)


@dataclass(frozen=True, slots=True)
class Process:
    """Describe one process for `collect`.

    :param fds: gives (descriptor, target of its link in /proc/PID/fd); may raise OSError
    :param fdinfo: descriptor -> text of /proc/PID/fdinfo/FD; may raise OSError
    """

    pid: int
    name: str
    fds: Callable[[], Iterable[tuple[str, str]]]
    fdinfo: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Pin:
    """Describe a path in bpffs.

    :param number: id of the object that is pinned there
    :param kind: one of `KINDS`
    :param program: id of the program that a link runs, 0 if none
    """

    path: str
    number: int
    kind: str = "link"
    program: int = 0


def parse_fdinfo(text: str, kind: str = "link") -> int | None:
    """Find the id of an object in its descriptor's fdinfo. None if it has none.

    :param kind: one of `KINDS`; a link's fdinfo also has its program's id
    """
    for line in text.split("\n"):
        name, _, value = line.partition(":")
        number = decimal(value.strip()) if name == f"{kind}_id" else None
        if number is not None:
            return number
    return None


def collect(
    processes: Iterable[Process],
    pins: Iterable[Pin] = (),
    kinds: Collection[str] = ("link",),
) -> Owners:
    """Gather holders from given sources. Touches nothing itself.

    :param kinds: which objects to look for
    """
    held: dict[tuple[str, int], set[Owner]] = defaultdict(set)
    pinned: dict[tuple[str, int], list[str]] = defaultdict(list)
    wanted = _sought(kinds)
    hidden = 0
    for process in processes:
        owner = Owner(process.pid, process.name)
        try:
            for number, target in process.fds():
                kind = sys_fd.INODES.get(target)
                if kind is None or kind not in wanted:
                    continue
                with suppress(FileNotFoundError):  # closed meanwhile
                    text = process.fdinfo(number)
                    for role, field_of in wanted[kind]:
                        found = parse_fdinfo(text, field_of)
                        if found is not None:
                            held[role, found].add(owner)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except OSError:  # EPERM, or an error that may not mean "ended"
            hidden += 1
    for pin in pins:
        for role, field_of in wanted.get(pin.kind, ()):
            pinned[role, pin.number if field_of == pin.kind else pin.program].append(pin.path)
    by_role: dict[str, dict[int, Held]] = {kind: {} for kind in kinds}
    for key in sorted({*held, *pinned}):
        by_role.setdefault(key[0], {})[key[1]] = Held(
            tuple(sorted(held.get(key, ()))), tuple(sorted(pinned.get(key, ()))), not hidden
        )
    links, running = by_role.pop("link", {}), by_role.pop(_RUNS, {})
    return Owners(links, hidden, by_role, running)


def _sought(kinds: Collection[str]) -> dict[str, list[tuple[str, str]]]:
    # For each kind of descriptor to look at: (role of its holder, kind of the id that fdinfo has).
    found = {kind: [(kind, kind)] for kind in kinds}
    if "prog" in kinds:
        found.setdefault("link", []).append((_RUNS, "prog"))
    return found


# ---- the running kernel -------------------------------------------------------


def _fds(pid: int) -> Iterator[tuple[str, str]]:
    folder = f"/proc/{pid}/fd"
    for number in os.listdir(folder):
        with suppress(FileNotFoundError):
            yield number, os.readlink(f"{folder}/{number}")


def _fdinfo(pid: int, number: str) -> str:
    with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii", errors="replace") as file:
        return file.read()


def _processes() -> Iterator[Process]:
    import psutil  # lazy: a large import that many never need

    for process in psutil.process_iter(["name"]):
        pid = process.pid
        yield Process(
            pid,
            process.info["name"] or "?",
            lambda pid=pid: _fds(pid),  # type: ignore[misc]
            lambda number, pid=pid: _fdinfo(pid, number),  # type: ignore[misc]
        )


def _pins(kinds: Collection[str]) -> Iterator[Pin]:
    seen: set[int] = set()  # a bpffs may be mounted at several places
    mounts = required("/proc/self/mounts", "where links may be pinned")
    for mount in parse_mounts(os.fsdecode(mounts)):
        if mount.kind != "bpf":
            continue
        with suppress(OSError):
            device = os.stat(mount.path).st_dev
            if device in seen:
                continue
            seen.add(device)
        for folder, _, names in os.walk(mount.path):
            for name in names:
                path = f"{folder}/{name}"
                found = _pinned(path, kinds)
                if found is not None:
                    yield found


def _pinned(path: str, kinds: Collection[str]) -> Pin | None:
    try:
        with sys_bpf.obj_get(path) as fd:
            kind = sys_fd.kind_of(fd.fileno())
            if kind in kinds:
                return _PIN[kind](path, fd)
    except (BpfError, OSError):
        pass  # a plain file, gone meanwhile, or we may not open it
    return None


def _pinned_link(path: str, fd: Fd) -> Pin:
    info = sys_bpf.link_info(fd, details=False)
    return Pin(path, info.id, "link", info.prog_id)


_PIN: Mapping[str, Callable[[str, Fd], Pin]] = {
    "link": _pinned_link,
    "prog": lambda path, fd: Pin(path, sys_bpf.prog_info(fd).id, "prog"),
    "map": lambda path, fd: Pin(path, sys_bpf.map_info(fd).id, "map"),
    "btf": lambda path, fd: Pin(path, sys_bpf.btf_info(fd).id, "btf"),  # cannot be pinned today
}


def read(kinds: Collection[str] = ("link",)) -> Owners:
    """Find who holds what now, by one walk over all processes and bpffs.

    Needs root to see other users' processes; see `Owners.hidden`.

    :param kinds: which objects to look for, of `KINDS`
    """
    return collect(_processes(), _pins(_sought(kinds)), kinds)
