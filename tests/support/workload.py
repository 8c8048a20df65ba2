"""A workload of many system calls, and the kernel functions that it calls, according to ftrace.

ftrace's function tracer is independent of BPF. It is the judge of which functions are really
called, on every kernel row, without attaching a program to thousands of candidates.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import re
import resource
import select
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pybpf.kernel.ftrace import tracefs

__all__ = ["called_functions", "workload"]

# "python3-212  [000] d.h1.  12.345678: vfs_read <-ksys_read"
_LINE = re.compile(rb"\] (\S+)\s+[\d.]+: (\S+) <-")
_IRQ_CONTEXT = frozenset(b"hHsSzZ")
# Called by BPF programs, trampolines and probes themselves, or where none may be.
_OURS = re.compile(r"bpf|nofault|ftrace|kprobe|kretprobe|rethook|fprobe|trace_|rcu_|perf_|objpool")
# Called where an interrupt begins and ends. ftrace does not mark those calls as an interrupt's, but
# kprobes miss them if the interrupt came while one of their programs ran.
_IRQ_EDGES = re.compile(r"softirq|irq_enter|irq_exit|irqentry|irqtime")
_ROUNDS = 3  # enough clock ticks for interrupt handlers to show up


def workload() -> None:
    """Use files, pipes, sockets, memory, ids, polling, signals and timers: some 100 system
    calls."""
    for value in (0, 1, os.getpid()):
        with contextlib.suppress(OSError):
            os.getpgid(value)
    os.getppid()
    os.getuid()
    os.getgroups()
    os.sched_getaffinity(0)
    os.getpriority(os.PRIO_PROCESS, 0)
    resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.getrusage(resource.RUSAGE_SELF)
    time.sleep(0)
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "file")
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.write(fd, b"x" * 5000)
        os.lseek(fd, 0, os.SEEK_SET)
        os.read(fd, 100)
        os.pread(fd, 100, 50)
        os.pwrite(fd, b"y", 10)
        os.ftruncate(fd, 100)
        os.fsync(fd)
        os.fstat(fd)
        os.fchmod(fd, 0o644)
        os.fchown(fd, 0, 0)
        os.utime(path)
        other = os.dup(fd)
        os.sendfile(other, fd, 0, 10)
        os.close(other)
        os.close(fd)
        os.link(path, path + ".hard")
        os.symlink(path, path + ".soft")
        os.readlink(path + ".soft")
        os.stat(path + ".soft")
        os.access(path, os.R_OK)
        os.rename(path + ".hard", path + ".new")
        os.listdir(directory)
        os.unlink(path + ".new")
        os.mkdir(path + ".dir")
        os.rmdir(path + ".dir")
        with contextlib.suppress(OSError):
            os.setxattr(path, "user.a", b"b")
        os.statvfs(directory)
    r, w = os.pipe()
    os.write(w, b"hello")
    poll = select.poll()
    poll.register(r, select.POLLIN)
    poll.poll(0)
    if max(r, w) < 1024:  # FD_SETSIZE: many links may hold all lower numbers
        select.select([r], [w], [], 0)
    epoll = select.epoll()
    epoll.register(r, select.EPOLLIN)
    epoll.poll(0)
    epoll.close()
    os.set_blocking(r, False)
    os.read(r, 5)
    os.close(r)
    os.close(w)
    event = os.eventfd(1)
    os.eventfd_read(event)
    os.close(event)
    a, b = socket.socketpair()
    with a, b:
        a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        a.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        a.send(b"one")
        b.recv(3)
        a.sendmsg([b"two"])
        b.recvmsg(3)
        a.shutdown(socket.SHUT_WR)
        a.getsockname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
        u.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        u.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 7)
        with contextlib.suppress(OSError):
            u.bind(("127.0.0.1", 0))
            u.sendto(b"me", u.getsockname())
            u.settimeout(1)
            u.recvfrom(2)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as t:
        t.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with mmap.mmap(-1, 65536) as memory:
        memory[0] = 1
        memory[40000] = 2
        memory.madvise(mmap.MADV_DONTNEED)
        memory[0] = 1
        memory.resize(32768)
    signal.getsignal(signal.SIGUSR1)
    old = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, old)
    Path("/proc/self/stat").read_bytes()
    Path("/proc/self/maps").read_bytes()


@contextlib.contextmanager
def _tracing() -> Iterator[Path]:
    root = Path(tracefs())
    settings = {
        "tracing_on": "0",
        "buffer_size_kb": "16384",
        "set_ftrace_pid": str(os.getpid()),
        "current_tracer": "function",
    }
    try:
        for name, value in settings.items():
            (root / name).write_text(value)
        yield root
    finally:
        for name, value in (
            ("tracing_on", "0"),
            ("current_tracer", "nop"),
            ("set_ftrace_pid", ""),
            ("trace", ""),
            ("buffer_size_kb", "64"),
            ("tracing_on", "1"),
        ):
            (root / name).write_text(value)


# A task that dies of a signal never comes back from these, and on 6.x the trampoline
# image it was in is then never freed.
_MAY_NOT_RETURN = {"get_signal", "arch_do_signal_or_restart", "exit_to_user_mode_loop"}


@functools.cache
def called_functions(run: Callable[[], None] = workload) -> tuple[str, ...]:
    """Return names of the kernel functions that every run of `run` calls, sorted; found once.

    Functions that interrupts also call, and that BPF programs and probes call, are left out.
    """
    run()
    always: set[bytes] | None = None
    interrupts: set[bytes] = set()
    with _tracing() as root:
        for _ in range(_ROUNDS):
            (root / "trace").write_text("")
            (root / "tracing_on").write_text("1")
            run()
            (root / "tracing_on").write_text("0")
            calls = _LINE.findall((root / "trace").read_bytes())
            interrupts |= {name for flags, name in calls if _IRQ_CONTEXT.intersection(flags)}
            names = {name for _, name in calls}
            always = names if always is None else always & names
    found = {name.decode() for name in (always or set()) - interrupts}
    found -= _MAY_NOT_RETURN
    return tuple(sorted(n for n in found if not _OURS.search(n) and not _IRQ_EDGES.search(n)))
