"""Start programs with few privileges."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Collection

__all__ = ["CAP_BPF", "CAP_PERFMON", "Start", "as_nobody", "without", "without_tracefs"]

CAP_PERFMON, CAP_BPF = 38, 39
_NOBODY = 65534
_KEEPCAPS, _AMBIENT, _RAISE = 8, 47, 2
_VERSION_3 = 0x20080522
_NEWNS, _BIND, _REC, _PRIVATE = 0x00020000, 0x1000, 0x4000, 1 << 18

#: Runs in a child before it becomes the program.
Start = Callable[[], None]


def _call(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def as_nobody(capabilities: Collection[int]) -> Start:
    """Become a user without rights who has these capabilities, also after execve."""

    def start() -> None:
        _call("prctl", _KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        mask = sum(1 << number for number in capabilities)
        words = [half for at in (0, 32) for half in [mask >> at & 0xFFFFFFFF] * 3]
        _call("capset", struct.pack("=Ii", _VERSION_3, 0), struct.pack("=6I", *words))
        for number in capabilities:
            _call("prctl", _AMBIENT, _RAISE, number, 0, 0)

    return start


def without(*paths: str) -> Start:
    """Leave the mounts of the others, and hide these files and directories behind empty ones."""

    def start() -> None:
        _call("unshare", _NEWNS)
        _call("mount", None, b"/", None, _REC | _PRIVATE, None)
        for path in paths:
            if not os.path.exists(path):
                continue
            place = os.fsencode(path)
            if os.path.isdir(path):
                _call("mount", b"none", place, b"tmpfs", 0, None)
            else:
                _call("mount", b"/dev/null", place, None, _BIND, None)

    return start


def without_tracefs() -> None:
    """Be without tracefs and debugfs, as in a container."""
    without("/sys/kernel/debug", "/sys/kernel/tracing")()
