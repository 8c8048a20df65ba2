"""Tell whether this process is in the machine's first namespaces, as it is outside of containers.

The kernel gives these fixed inode numbers (include/linux/proc_ns.h).
"""

from __future__ import annotations

import os

__all__ = ["is_first"]

_FIRST = {"user": 0xEFFFFFFD, "pid": 0xEFFFFFFC}  # PROC_USER_INIT_INO, PROC_PID_INIT_INO


def is_first(kind: str) -> bool | None:
    """Tell whether this process is in the first namespace of a kind.

    :param kind: ``user`` or ``pid``
    :returns: None if it is not known
    """
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino == _FIRST[kind]
    except OSError:
        return None
