"""After Ctrl-C, a process that attaches to many functions undoes everything and lives on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pybpf._sys import bpf as sys_bpf
from pybpf.features import Feature
from tests.support.trampolines import images, verify

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]

# Says what it does, one JSON value a line, and stays alive until its input ends: what is undone
# must be undone by it, not by the kernel at its end.
TRACER = """
import json, os, signal, sys
import pybpf
from tests.support.leaks import bpf_descriptors
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
def say(**what):
    print(json.dumps(what), flush=True)
def held():
    return sorted(what for _, what in bpf_descriptors() if what in ("bpf_link", "bpf-prog"))
obj = pybpf.open("tests/data/multi.bpf.o")
program = obj.programs["on_entry"]
link = None
try:
    link = program.attach_multi(
        sys.argv[1], mechanism=sys.argv[2], progress=lambda done, total: say(up=done, total=total)
    )
    say(attached=len(link.targets))
    link.detach(progress=lambda done, total: say(down=done, total=total))
except KeyboardInterrupt:
    left = len(link.links) if link is not None else 0
    say(interrupted=True, left=left, open=held())
    if link is not None:
        sys.stdin.readline()
        link.detach()
        say(finished=True, left=len(link.links), open=held())
sys.stdin.read()
"""


@contextmanager
def tracer(glob: str, mechanism: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", TRACER, glob, mechanism],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None and process.stdin is not None and process.stdin.closed:
                process.kill()


def heard(process: subprocess.Popen[str], key: str, least: int = 1) -> dict[str, Any]:
    """The first value with that key of at least so much."""
    assert process.stdout is not None
    for line in process.stdout:
        said: dict[str, Any] = json.loads(line)
        if said.get(key, 0) >= least:
            return said
    raise AssertionError(f"it ended without saying {key}")


def links() -> int:
    return len(list(sys_bpf.ids("link")))


def traced(prefix: str) -> list[str]:
    """Functions with an image, once images had time to go (RCU tasks)."""
    end = time.monotonic() + 60
    while found := [one.function for one in images() if one.function.startswith(prefix)]:
        if time.monotonic() > end:
            break
        time.sleep(0.5)
    return found


@pytest.mark.needs(Feature.FENTRY)
def test_interrupted_while_attaching() -> None:
    """After a dozen clones of dozens: none stays, none has been lost, images are gone."""
    before = links()
    with tracer("vfs_*", "trampoline") as process:
        assert heard(process, "up", 12)["total"] > 40
        process.send_signal(signal.SIGINT)
        said = heard(process, "interrupted")
        assert said == {"interrupted": True, "left": 0, "open": []}
        assert links() == before
        assert traced("vfs_") == []
        assert verify() == []
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0


@pytest.mark.needs(Feature.FENTRY)
def test_interrupted_while_detaching() -> None:
    """What is left stays attached and known. A second call finishes the work."""
    before = links()
    with tracer("vfs_*", "trampoline") as process:
        assert process.stdin is not None
        attached = heard(process, "attached")["attached"]
        assert attached > 40
        heard(process, "down", 2)
        process.send_signal(signal.SIGINT)
        said = heard(process, "interrupted")
        assert 0 < said["left"] < attached
        assert said["open"] == ["bpf_link"] * said["left"]
        assert links() == before + said["left"]
        assert verify() == []
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert heard(process, "finished") == {"finished": True, "left": 0, "open": []}
        assert links() == before
        assert traced("vfs_") == []
        process.stdin.close()
        assert process.wait() == 0
