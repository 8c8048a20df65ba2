"""Make a known number of calls of kernel functions: a truth that needs no other tracer."""

from __future__ import annotations

import os
import socket
import tempfile

__all__ = ["CALLS", "calls"]

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
