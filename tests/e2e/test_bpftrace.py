"""Beside bpftrace: Debian's own, on an overlapping set, before, during and after ours.

Both watch one process, this one, which makes calls whose number is known; so each side is compared
with the truth, and not only with the other. bpftrace is told of begin and end of a phase by the
process's name, ours by a variable in a map: neither takes a call that is counted.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from pybpf.features import Feature
from tests.support.trampolines import verify
from tests.support.witness import Witness

pytestmark = [
    pytest.mark.guest_with("bpftrace"),
    pytest.mark.long,
    pytest.mark.time_limit(1200),
]

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
NAMES = list(CALLS)
THEIRS, OURS = NAMES[:12], NAMES[4:]  # eight are traced by both
KINDS = ("fentry", "fexit", "kprobe", "kretprobe")
MECHANISMS = [
    pytest.param("tracing_multi", marks=pytest.mark.needs(Feature.TRACING_MULTI)),
    pytest.param("trampoline", marks=pytest.mark.needs(Feature.FENTRY)),
    pytest.param("kprobe_multi", marks=pytest.mark.needs(Feature.KPROBE_MULTI)),
    pytest.param("kprobe", marks=pytest.mark.needs(Feature.KPROBE)),
]
PHASES = ("before", "during", "after", "alone", "joined", "left")  # names this process takes
PR_SET_NAME = 15
_prctl = ctypes.CDLL(None).prctl


def calls() -> None:
    """The calls that `CALLS` counts."""
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


class Bpftrace:
    """A bpftrace that counts calls of this process by its name, by kind of probe."""

    def __init__(self, names: Sequence[str], directory: Path) -> None:
        self.output = directory / "output"
        script = directory / "count.bt"
        lines = ['interval:s:1 { printf("ready\\n"); }']  # printed once all is attached
        for kind in KINDS:
            prefix = f"{kind}:vmlinux:" if kind.startswith("f") else f"{kind}:"
            lines.append(",\n".join(prefix + name for name in names))
            lines.append(f"/ pid == {os.getpid()} / {{ @{kind}[comm, func] = count(); }}")
        script.write_text("\n".join(lines) + "\n")
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                ["bpftrace", "-f", "json", "-B", "line", str(script)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        while b"ready" not in self.output.read_bytes():
            assert self.process.poll() is None, self.output.read_text()
            time.sleep(0.1)

    def finish(self) -> dict[str, dict[str, dict[str, int]]]:
        """Stop it: phase -> kind of probe -> calls by function."""
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait()
        assert status == 0, self.output.read_text()
        found: dict[str, dict[str, dict[str, int]]] = {}
        for line in self.output.read_text().splitlines():
            if not line.strip():
                continue
            said = json.loads(line)
            assert said["type"] in ("attached_probes", "printf", "map"), line
            if said["type"] != "map":
                continue
            ((name, counts),) = said["data"].items()
            for key, count in counts.items():
                phase, _, function = key.partition(",")
                if phase in PHASES:
                    found.setdefault(phase, {}).setdefault(name[1:], {})[function] = count
        return found

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def witness() -> Iterator[Witness]:
    made = Witness(OURS)
    assert sorted(f.name for f in made.functions) == sorted(OURS)
    yield made
    made.close()


class Ours:
    """An entry and an exit program of ours on the same functions."""

    def __init__(self, witness: Witness, mechanism: str) -> None:
        at_trampoline = mechanism in ("trampoline", "tracing_multi")
        self.witness = witness
        self.programs = ("entry_helpers", "exit_helpers" if at_trampoline else "exit_ret")
        with ExitStack() as links:
            for program in self.programs:
                link = links.enter_context(
                    witness.obj.programs[program].attach_multi(
                        OURS, mechanism=mechanism, cookies=witness.cookie
                    )
                )
                assert not link.skipped
                assert {g.mechanism.value for g in link.plan.groups} == {mechanism}
            self._links = links.pop_all()

    def close(self) -> None:
        """May be called again."""
        self._links.close()

    def counts(self) -> list[dict[str, int]]:
        """Calls by function, as each program saw them."""
        return [
            {
                f.name: self.witness.seen[f"{program}_seen"][f.number].calls
                for f in self.witness.functions
            }
            for program in self.programs
        ]


def phase(witness: Witness, name: str) -> None:
    """`calls` while both sides look: this process has the phase's name meanwhile."""
    usual = Path("/proc/self/comm").read_bytes().rstrip(b"\n")

    def run() -> None:
        _prctl(PR_SET_NAME, name.encode(), 0, 0, 0)
        calls()
        _prctl(PR_SET_NAME, usual, 0, 0, 0)

    witness.run(run, witness.functions)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_whoever_came_first(witness: Witness, tmp_path: Path, mechanism: str) -> None:
    """bpftrace is there first and stays, then ours is there first and stays; both count right."""
    theirs_true = {kind: {name: CALLS[name] for name in THEIRS} for kind in KINDS}
    ours_true = [{name: CALLS[name] for name in OURS}] * 2
    with ExitStack() as stack:
        theirs = Bpftrace(THEIRS, tmp_path)
        stack.callback(theirs.close)
        phase(witness, "before")
        ours = stack.enter_context(closing(Ours(witness, mechanism)))
        phase(witness, "during")
        assert ours.counts() == ours_true
        assert not verify()
        ours.close()
        phase(witness, "after")
        assert ours.counts() == [dict.fromkeys(OURS, 0)] * 2
        assert theirs.finish() == dict.fromkeys(("before", "during", "after"), theirs_true)

        ours = stack.enter_context(closing(Ours(witness, mechanism)))
        phase(witness, "alone")
        assert ours.counts() == ours_true
        theirs = Bpftrace(THEIRS, tmp_path)
        stack.callback(theirs.close)
        phase(witness, "joined")
        assert ours.counts() == ours_true
        assert not verify()
        assert theirs.finish() == {"joined": theirs_true}
        phase(witness, "left")
        assert ours.counts() == ours_true
    assert not verify()
