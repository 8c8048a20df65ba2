"""Errors of attaching that are about no single function: any other would meet them too."""

from __future__ import annotations

import errno

__all__ = ["HOPELESS", "NO_ROOM"]

#: A batch is not worth splitting for these: every half would fail the same way.
HOPELESS = frozenset(
    {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINTR}
)
#: No function's fault: nothing more can be opened.
NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE})
