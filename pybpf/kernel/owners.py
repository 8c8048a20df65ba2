"""Which processes hold BPF links and programs, and where they are pinned.

The kernel does not record who attached a program, but every descriptor of a
link or program says in ``/proc/PID/fdinfo/FD`` which one it is (``link_id:``,
``prog_id:``; ``bpf_link_show_fdinfo()`` in kernel/bpf/syscall.c). So the
processes are walked once, by psutil, and only descriptors whose target is such
an anonymous inode are read. What no process holds may be pinned: the mounted
bpffs of this mount namespace are walked too. A process that may not be looked
into (another user's, without CAP_SYS_PTRACE) is counted, not passed over in
silence: while there are some, "nobody holds it" is not known.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from .._sys import bpf as sys_bpf
from ..errors import BpfError

__all__ = ["Held", "Owner", "Owners", "Process", "collect", "parse_fdinfo", "read"]

LINK, PROG = "link", "prog"  # kinds of objects, as in `pybpf._sys.bpf.get_fd_by_id`
# What /proc/PID/fd shows of them. A link is spelt so where it was made, and the other way where
# it was opened again: from a pin or by its id.
_INODES = {
    "anon_inode:bpf_link": LINK,
    "anon_inode:bpf-link": LINK,
    "anon_inode:bpf-prog": PROG,
}


@dataclass(frozen=True, slots=True, order=True)
class Owner:
    """A process that holds a descriptor.

    :param name: its ``comm``
    """

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name}({self.pid})"


@dataclass(frozen=True, slots=True)
class Held:
    """Who holds one link or program.

    :param pins: paths in bpffs
    :param certain: every process could be looked into, so empty means nobody
    """

    owners: tuple[Owner, ...] = ()
    pins: tuple[str, ...] = ()
    certain: bool = True

    def __bool__(self) -> bool:
        return bool(self.owners or self.pins)

    def __str__(self) -> str:
        said = [*map(str, self.owners), *(f"pinned {path}" for path in self.pins)]
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
    """Holders of every link and program, at one moment.

    :param links: link id -> processes and pins
    :param programs: program id -> the same
    :param hidden: processes that could not be looked into
    """

    links: Mapping[int, Held] = field(default_factory=dict)
    programs: Mapping[int, Held] = field(default_factory=dict)
    hidden: int = 0

    def of_link(self, link: int) -> Held:
        """Who keeps a link: its descriptors, its pins."""
        return self.links.get(link) or Held(certain=not self.hidden)

    def of_program(self, program: int) -> Held:
        """Who keeps a program, other than its links."""
        return self.programs.get(program) or Held(certain=not self.hidden)


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


def parse_fdinfo(text: str) -> dict[str, int]:
    """The ids in a descriptor's fdinfo: ``link`` and ``prog``, as far as it has them."""
    ids: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in ("link_id", "prog_id") and value.strip().isdigit():
            ids[name.removesuffix("_id")] = int(value)
    return ids


def collect(processes: Iterable[Process], pins: Iterable[tuple[str, str, int]] = ()) -> Owners:
    """Holders from given sources; touches nothing itself.

    :param pins: (path, ``link`` or ``prog``, id)
    """
    held: dict[tuple[str, int], dict[Owner, None]] = defaultdict(dict)
    pinned: dict[tuple[str, int], list[str]] = defaultdict(list)
    hidden = 0
    for process in processes:
        owner = Owner(process.pid, process.name)
        try:
            for number, target in process.fds():
                kind = _INODES.get(target)
                if kind is None:
                    continue
                with suppress(FileNotFoundError):  # closed meanwhile
                    ids = parse_fdinfo(process.fdinfo(number))
                    if kind in ids:
                        held[kind, ids[kind]][owner] = None
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except PermissionError:
            hidden += 1
    for path, what, pin in pins:
        pinned[what, pin].append(path)

    def of(kind: str) -> dict[int, Held]:
        numbers = {n for k, n in (*held, *pinned) if k == kind}
        return {
            n: Held(
                tuple(sorted(held.get((kind, n), ()))),
                tuple(sorted(pinned.get((kind, n), ()))),
                not hidden,
            )
            for n in sorted(numbers)
        }

    return Owners(of(LINK), of(PROG), hidden)


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


def _pins() -> Iterator[tuple[str, str, int]]:
    import psutil

    seen: set[int] = set()  # a bpffs may be mounted at several places
    for mount in psutil.disk_partitions(all=True):
        if mount.fstype != "bpf":
            continue
        with suppress(OSError):
            device = os.stat(mount.mountpoint).st_dev
            if device in seen:
                continue
            seen.add(device)
        for folder, _, names in os.walk(mount.mountpoint):
            for name in names:
                path = f"{folder}/{name}"
                found = _pinned(path)
                if found is not None:
                    yield (path, *found)


def _pinned(path: str) -> tuple[str, int] | None:
    try:
        with sys_bpf.obj_get(path) as fd:
            kind = _INODES.get(os.readlink(f"/proc/self/fd/{fd.fileno()}"))
            if kind == LINK:
                return LINK, sys_bpf.link_info(fd).id
            if kind == PROG:
                return PROG, sys_bpf.prog_info(fd).id
    except (BpfError, OSError):
        pass  # a plain file, gone meanwhile, or not ours to open
    return None


def read() -> Owners:
    """Who holds which link and program now: one walk over all processes and bpffs.

    Needs root to see other users' processes; see `Owners.hidden`.
    """
    return collect(_processes(), _pins())
