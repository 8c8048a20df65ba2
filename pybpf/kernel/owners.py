"""Which processes hold BPF links, and where they are pinned.

The kernel does not record who attached a program, but every descriptor of a
link says in ``/proc/PID/fdinfo/FD`` which one it is (``link_id:``;
``bpf_link_show_fdinfo()`` in kernel/bpf/syscall.c). So the processes are walked
once, by psutil, and only descriptors whose target is such an anonymous inode
are read. What no process holds may be pinned: the mounted
bpffs of this mount namespace are walked too. A process that may not be looked
into (another user's, without CAP_SYS_PTRACE) is counted, not passed over in
silence: while there are some, "nobody holds it" is not known.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress

from .._sys import bpf as sys_bpf
from .._sys.files import parse_mounts, required, shown
from ..dataclass import dataclass, field
from ..errors import BpfError

__all__ = ["Held", "Owner", "Owners", "Process", "collect", "parse_fdinfo", "read"]

# What /proc/PID/fd shows of a link: the first where it was made, the other where it was opened
# again, from a pin or by its id.
_INODES = ("anon_inode:bpf_link", "anon_inode:bpf-link")


@dataclass(frozen=True, slots=True, order=True)
class Owner:
    """A process that holds a descriptor.

    :param name: its ``comm``
    """

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{shown(self.name)}({self.pid})"


@dataclass(frozen=True, slots=True)
class Held:
    """Who holds one link.

    :param pins: paths in bpffs
    :param certain: every process could be looked into, so empty means nobody
    """

    owners: tuple[Owner, ...] = ()
    pins: tuple[str, ...] = ()
    certain: bool = True

    def __bool__(self) -> bool:
        return bool(self.owners or self.pins)

    def __str__(self) -> str:
        said = [*map(str, self.owners), *(f"pinned {shown(path)}" for path in self.pins)]
        return " ".join(said) or ("no process" if self.certain else "not known")

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "processes": [{"pid": o.pid, "name": o.name} for o in self.owners],
            "pins": list(self.pins),
            "certain": self.certain,
        }


@dataclass(frozen=True, slots=True)
class Owners:
    """Holders of every link, at one moment.

    :param links: link id -> processes and pins
    :param hidden: processes that could not be looked into
    """

    links: Mapping[int, Held] = field(default_factory=dict)
    hidden: int = 0

    def of_link(self, link: int) -> Held:
        """Who keeps a link: its descriptors, its pins."""
        return self.links.get(link) or Held(certain=not self.hidden)


@dataclass(frozen=True, slots=True)
class Process:
    """One process as `collect` looks at it.

    :param fds: gives (descriptor, target of its link in /proc/PID/fd); may raise OSError
    :param fdinfo: descriptor -> text of /proc/PID/fdinfo/FD; may raise OSError
    """

    pid: int
    name: str
    fds: Callable[[], Iterable[tuple[str, str]]]
    fdinfo: Callable[[str], str]


def parse_fdinfo(text: str) -> int | None:
    """The link id in a descriptor's fdinfo, None if it has none."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "link_id" and value.strip().isdigit():
            return int(value)
    return None


def collect(processes: Iterable[Process], pins: Iterable[tuple[str, int]] = ()) -> Owners:
    """Holders from given sources; touches nothing itself.

    :param pins: (path, link id)
    """
    held: dict[int, set[Owner]] = defaultdict(set)
    pinned: dict[int, list[str]] = defaultdict(list)
    hidden = 0
    for process in processes:
        owner = Owner(process.pid, process.name)
        try:
            for number, target in process.fds():
                if target not in _INODES:
                    continue
                with suppress(FileNotFoundError):  # closed meanwhile
                    link = parse_fdinfo(process.fdinfo(number))
                    if link is not None:
                        held[link].add(owner)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except OSError:  # EPERM, or what is not known to mean "ended"
            hidden += 1
    for path, link in pins:
        pinned[link].append(path)
    links = {
        link: Held(
            tuple(sorted(held.get(link, ()))), tuple(sorted(pinned.get(link, ()))), not hidden
        )
        for link in sorted({*held, *pinned})
    }
    return Owners(links, hidden)


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
    import psutil  # much to import for those who never ask

    for process in psutil.process_iter(["name"]):
        pid = process.pid
        yield Process(
            pid,
            process.info["name"] or "?",
            lambda pid=pid: _fds(pid),  # type: ignore[misc]
            lambda number, pid=pid: _fdinfo(pid, number),  # type: ignore[misc]
        )


def _pins() -> Iterator[tuple[str, int]]:
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
                link = _pinned(path)
                if link is not None:
                    yield path, link


def _pinned(path: str) -> int | None:
    try:
        with sys_bpf.obj_get(path) as fd:
            if os.readlink(f"/proc/self/fd/{fd.fileno()}") in _INODES:
                return sys_bpf.link_info(fd, details=False).id
    except (BpfError, OSError):
        pass  # a plain file, gone meanwhile, or not ours to open
    return None


def read() -> Owners:
    """Who holds which link now: one walk over all processes and bpffs.

    Needs root to see other users' processes; see `Owners.hidden`.
    """
    return collect(_processes(), _pins())
