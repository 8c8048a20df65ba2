"""Who is counted: processes, commands, a cgroup."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ...dataclass import dataclass

__all__ = ["Cgroup", "comm_bytes", "find_cgroup"]

_COMM = 16  # TASK_COMM_LEN
_CGROUPS = "/sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class Cgroup:
    """Describe a cgroup (v2).

    :param id: what bpf_get_current_ancestor_cgroup_id() returns
    :param level: its depth below the root
    """

    id: int
    level: int


def comm_bytes(name: str) -> bytes:
    """Encode a command's name as the kernel keeps it: 15 bytes and NULs."""
    return name.encode("utf-8", "surrogateescape")[: _COMM - 1].ljust(_COMM, b"\0")


def _mounts(lines: Iterable[str]) -> list[tuple[str, str]]:
    # (mount point, mounted part of the hierarchy) of each cgroup2 mount.
    found = []
    for line in lines:
        own, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            fields = own.split(" ")
            found.append((fields[4], fields[3]))
    return found


def find_cgroup(path: str, mountinfo: Iterable[str] | None = None) -> Cgroup:
    """Find a cgroup by its directory, absolute or below /sys/fs/cgroup.

    :param mountinfo: lines of /proc/self/mountinfo
    :raises OSError: it does not exist
    :raises ValueError: it is not a directory of a cgroup2 mount
    """
    whole = os.path.realpath(os.path.join(_CGROUPS, path))
    number = os.stat(whole).st_ino
    if mountinfo is None:
        mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").split("\n")
    for point, root in sorted(_mounts(mountinfo), key=lambda mount: -len(mount[0])):
        if os.path.isdir(whole) and os.path.commonpath([whole, point]) == point:
            below = [*root.split("/"), *whole.removeprefix(point).split("/")]
            return Cgroup(number, len([part for part in below if part]))
    raise ValueError(f"{path!r} is not a directory of a cgroup2 mount")
