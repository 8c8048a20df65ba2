"""Run test code in its own network namespace."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable

__all__ = ["Network"]


class Network(threading.Thread):
    """Run a function in its own network namespace, with the loopback interface up."""

    def __init__(self, body: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self.body = body
        self.error: BaseException | None = None
        self.start()
        self.join()
        if self.error is not None:
            raise self.error

    def run(self) -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.unshare(0x40000000) == 0, os.strerror(ctypes.get_errno())  # CLONE_NEWNET
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox:
                up = struct.pack("16sH14x", b"lo", 1)  # struct ifreq, IFF_UP
                fcntl.ioctl(inbox, 0x8914, up)  # SIOCSIFFLAGS
                inbox.bind(("127.0.0.1", 0))
                inbox.settimeout(60)
                self.body(inbox)
        except BaseException as error:
            self.error = error
