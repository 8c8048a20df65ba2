"""Read kernel files that are normally there, and give one clear error if one is missing.

pybpf needs a list of CPUs, of mounts, of symbols. In a container, a
chroot or an early boot, the file system they are on may be absent. The error then names the file
and says what it was needed for and what to do.
"""

from __future__ import annotations

import errno
import os
import re

from ..dataclass import dataclass
from ..errors import BpfError, DeniedByPolicy

__all__ = [
    "MOUNT_TRACEFS",
    "Mount",
    "find_tracefs",
    "is_one_name",
    "parse_mounts",
    "read",
    "required",
    "required_after",
    "tracefs_directories",
]

#: How to mount tracefs at its usual place.
MOUNT_TRACEFS = "mount -t tracefs tracefs /sys/kernel/tracing"

# Longest prefix first: a directory where the kernel shows files -> (a file that is always there,
# how to mount it).
_HOMES = (
    ("/sys/kernel/tracing/", "README", MOUNT_TRACEFS),
    ("/sys/kernel/debug/", "kprobes", "mount -t debugfs debugfs /sys/kernel/debug"),
    ("/sys/", "kernel", "mount -t sysfs sysfs /sys"),
    ("/proc/", "self", "mount -t proc proc /proc"),
)

_CHUNK = 1 << 16  # bytes to read at a time


def is_one_name(name: str) -> bool:
    """Tell whether a name from an object, a process or the kernel is one file name, not a path.

    :returns: False for an empty name, ``.``, ``..``, and names with a slash or a NUL
    """
    return bool(name) and name not in (".", "..") and "/" not in name and "\0" not in name


@dataclass(frozen=True, slots=True)
class Mount:
    """Describe one mounted file system.

    :param path: where it is mounted
    :param kind: type of the file system: ``tracefs``, ``bpf``, ...
    """

    path: str
    kind: str


def parse_mounts(text: str) -> list[Mount]:
    """Read the lines of ``/proc/self/mounts``: DEVICE PATH KIND ..."""
    out = []
    for line in text.split("\n"):
        fields = line.split(" ")
        if len(fields) >= 3:
            # The kernel writes blanks, tabs, line ends and backslashes of a path as \\ooo.
            path = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1])
            out.append(Mount(path, fields[2]))
    return out


def find_tracefs(mounts: str) -> list[str]:
    """List the directories that should be tracefs, best first.

    First tracefs itself, then the automount below debugfs (deprecated in 6.x).

    :param mounts: text of ``/proc/self/mounts``
    """
    known = parse_mounts(mounts)
    direct = [mount.path for mount in known if mount.kind == "tracefs"]
    below = [f"{mount.path}/tracing" for mount in known if mount.kind == "debugfs"]
    direct.sort(key=lambda where: (where != "/sys/kernel/tracing", where))
    return [*direct, *(where for where in below if where not in direct)]


def read(path: str) -> bytes:
    """Read a whole file.

    :raises OSError: the kernel's error
    """
    # Files of /proc and /sys give one page per read(2). The loop runs in C.
    with open(path, "rb", buffering=0) as stream:
        return stream.readall()


def required(path: str, wanted_for: str) -> bytes:
    """Read a whole file that a kernel normally shows.

    :param path: an absolute path below /proc or /sys
    :param wanted_for: what it is needed for, e.g. ``the symbols of the kernel``
    :raises DeniedByPolicy: if this process may not read it
    :raises BpfError: if it does not exist, or reading fails; the hint says what to do
    """
    try:
        return read(path)
    except OSError as error:
        raise _refusal(error, path, wanted_for) from None


def required_after(path: str, wanted_for: str, known: str) -> bytes | None:
    """Read what comes after the known beginning of a file, without keeping the beginning.

    :param known: the beginning; ASCII
    :returns: None if the file does not begin so
    :raises BpfError: as `required`
    """
    if not known.isascii():
        return None
    try:
        with open(path, "rb", buffering=0) as stream:
            at, rest = 0, b""
            while at < len(known):
                part = stream.read(_CHUNK)
                same, rest = part[: len(known) - at], part[len(known) - at :]
                if not part or not known.startswith(str(same, "latin-1"), at):
                    return None
                at += len(same)
            return rest + stream.readall()
    except OSError as error:
        raise _refusal(error, path, wanted_for) from None


def _refusal(error: OSError, path: str, wanted_for: str) -> BpfError:
    number = error.errno or errno.EIO
    doing = f"reading {path} for {wanted_for}"
    if number in (errno.EACCES, errno.EPERM):
        hint = "this process may not read it; run as root, or find out what hides it"
        return DeniedByPolicy(number, doing, hint)
    return BpfError(number, doing, _advice(path, number))


def _advice(path: str, number: int) -> str:
    if number not in (errno.ENOENT, errno.ENOTDIR):
        return "this file can normally be read; look at dmesg, or try again"
    for home, sign, command in _HOMES:
        if path.startswith(home):
            if os.path.exists(home + sign):
                return f"{home[:-1]} is mounted, but this kernel does not show the file there"
            return f"{home[:-1]} does not seem to be mounted; try: {command}"
    return "there is no such file"


def tracefs_directories() -> list[str]:
    """List the directories where tracefs should be mounted here, best first.

    :raises BpfError: if /proc is not mounted
    """
    mounts = required("/proc/self/mounts", "the place where tracefs is mounted")
    return find_tracefs(mounts.decode("utf-8", "surrogateescape"))
