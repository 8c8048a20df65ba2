"""Make a known number of calls of kernel functions: a truth that needs no other tracer."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

__all__ = ["CALLS", "FAILURES", "MORE_CALLS", "Failing", "calls"]

#: Function -> its calls in one `calls()`.
CALLS = {
    "chmod_common": 1,
    "do_getpgid": 3,
    "do_pipe2": 1,
    "unix_stream_recvmsg": 1,
    "unix_stream_sendmsg": 1,
    "vfs_fallocate": 1,
    "vfs_link": 1,
    "vfs_mkdir": 2,
    "vfs_open": 2,
    "vfs_read": 3,
    "vfs_readlink": 1,
    "vfs_rename": 1,
    "vfs_rmdir": 2,
    "vfs_symlink": 1,
    "vfs_unlink": 3,
    "vfs_write": 2,
}


def calls() -> None:
    """Make the calls that `CALLS` counts."""
    for _ in range(3):
        os.getpgid(0)
    directory = tempfile.mkdtemp(dir="/tmp")
    path = os.path.join(directory, "a")
    os.mkdir(path + "d")
    os.rmdir(path + "d")
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x" * 100)
    os.pread(fd, 10, 0)
    os.posix_fallocate(fd, 0, 100)
    os.fchmod(fd, 0o600)
    os.close(fd)
    os.link(path, path + "2")
    os.symlink(path, path + "3")
    os.readlink(path + "3")
    os.rename(path + "2", path + "4")
    for name in os.listdir(directory):
        os.unlink(os.path.join(directory, name))
    os.rmdir(directory)
    r, w = os.pipe()
    os.write(w, b"hello")
    os.read(r, 5)
    os.close(r)
    os.close(w)
    a, b = socket.socketpair()
    with a, b:
        a.send(b"x")
        b.recv(1)
    event = os.eventfd(1)
    os.eventfd_read(event)
    os.close(event)


#: Function -> its calls in one `Failing.calls()`.
MORE_CALLS = {
    "do_getpgid": 1,
    "pipe_fcntl": 1,
    "unix_accept": 1,
    "unix_ioctl": 1,
    "unix_listen": 1,
    "unix_poll": 1,
    "unix_shutdown": 1,
    "vfs_link": 1,
    "vfs_read": 1,
    "vfs_rmdir": 1,
    "vfs_unlink": 1,
}
#: Function -> the error of one of its calls in `Failing.calls()`.
FAILURES = {
    "do_getpgid": "ESRCH",
    "unix_accept": "EINVAL",
    "unix_listen": "EINVAL",
    "vfs_link": "EPERM",
    "vfs_read": "EBADF",
    "vfs_rmdir": "ENOTEMPTY",
    "vfs_unlink": "EISDIR",
}

_FIONREAD = 0x541B  # a socket's own ioctl
_NO_PID = 1 << 22  # above every process id


class Failing:
    """Make known calls that fail, and calls that take a known time.

    It keeps what they need, so that nothing else is called. A context manager.
    """

    def __init__(self) -> None:
        with ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp"))
            self.full = os.path.join(directory, "full")
            Path(self.full, "x").mkdir(parents=True)
            self.writing = os.open(os.path.join(directory, "file"), os.O_WRONLY | os.O_CREAT)
            self.reading, other = os.pipe()
            for fd in (self.writing, self.reading, other):
                stack.callback(os.close, fd)
            self.left, self.right = map(stack.enter_context, socket.socketpair())
            self.poll = select.poll()
            self.poll.register(self.left, select.POLLIN)
            self._stack = stack.pop_all()

    def calls(self) -> None:
        """Make the calls that `MORE_CALLS` and `FAILURES` count."""
        wrong: Sequence[tuple[Callable[..., object], tuple[object, ...]]] = (
            (os.getpgid, (_NO_PID,)),
            (os.rmdir, (self.full,)),
            (os.unlink, (self.full,)),
            (os.link, (self.full, self.full + "2")),
            (self.left.listen, ()),
            (self.left.accept, ()),
            (os.read, (self.writing, 1)),
        )
        for call, arguments in wrong:
            with suppress(OSError):
                call(*arguments)
        self.poll.poll(0)
        fcntl.fcntl(self.reading, fcntl.F_GETPIPE_SZ)
        fcntl.ioctl(self.left, _FIONREAD, bytes(4))
        self.left.shutdown(socket.SHUT_WR)

    def wait(self, seconds: float) -> int:
        """Wait in one call of unix_stream_recvmsg, which fails with EAGAIN.

        :returns: ns that it took, seen from outside
        """
        whole, micro = divmod(int(seconds * 1e6), 1_000_000)
        limit = struct.pack("ll", whole, micro)
        self.left.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        start = time.monotonic_ns()
        with suppress(BlockingIOError):
            self.left.recv(1)
        return time.monotonic_ns() - start

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
