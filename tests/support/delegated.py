"""Run a command in a user namespace that has a bpf file system with delegated rights.

``python -m tests.support.delegated FOLDER OPTIONS COMMAND...`` as root, the way that container
managers do it: the file system is opened inside the namespace, so it belongs to it, and gets its
``delegate_...`` options outside, by somebody with CAP_SYS_ADMIN. It is mounted on FOLDER, which
only the command sees. OPTIONS are like ``delegate_cmds=any,delegate_maps=any``.
"""

from __future__ import annotations

import array
import ctypes
import os
import socket
import sys

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
# System calls of x86-64 (include/uapi/asm/unistd_64.h), and their commands (linux/mount.h).
MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT = 429, 430, 431, 432
SET_STRING, CREATE = 1, 6
EMPTY_PATH, AT_FDCWD = 4, -100

_libc = ctypes.CDLL(None, use_errno=True)


def _call(*args: object) -> int:
    done: int = _libc.syscall(*args)
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return done


def _unshare(flags: int) -> None:
    if _libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")


def _send(to: socket.socket, fd: int) -> None:
    to.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])


def _receive(of: socket.socket) -> int:
    _, (part, *_), _, _ = of.recvmsg(1, socket.CMSG_SPACE(4))
    return int.from_bytes(part[2], sys.byteorder)


def _inside(peer: socket.socket, folder: str, command: list[str]) -> None:
    _unshare(CLONE_NEWUSER)
    peer.send(b"x")
    peer.recv(1)  # the ids are mapped
    _unshare(CLONE_NEWNS)
    _send(peer, _call(FSOPEN, b"bpf", 0))
    mount = _receive(peer)
    _call(MOVE_MOUNT, mount, b"", AT_FDCWD, folder.encode(), EMPTY_PATH)
    os.execvp(command[0], command)


def _outside(peer: socket.socket, child: int, options: str) -> None:
    peer.recv(1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{child}/{name}", "w") as file:
            file.write("0 0 1")
    peer.send(b"x")
    system = _receive(peer)
    for option in filter(None, options.split(",")):
        name, _, value = option.partition("=")
        _call(FSCONFIG, system, SET_STRING, name.encode(), value.encode(), 0)
    _call(FSCONFIG, system, CREATE, None, None, 0)
    _send(peer, _call(FSMOUNT, system, 0, 0))


def main(folder: str, options: str, *command: str) -> int:
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        ours.close()
        try:
            _inside(theirs, folder, [*command])
        finally:
            os._exit(127)
    theirs.close()
    _outside(ours, child, options)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
