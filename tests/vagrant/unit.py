"""Not a test by name: tests/vagrant/test_unit.py has it run in a machine, which has systemd."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from pybpf import kernel
from tests.support import rows
from tests.support.trampolines import verify

LIMIT = 600.0  # seconds for each wait: an emulated machine is slow, and the unit reads each 10 s
PAGE = "http://127.0.0.1:9435/metrics"
SCRIPT = '#!/bin/sh\nexec python3 -m pybpf "$@"\n'  # what `pip install pybpf` gives


def systemctl(*words: str) -> str:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    return done.stdout.strip()


def said() -> str:
    """What the unit has in the journal."""
    command = ["journalctl", "-u", "funcwatch", "-o", "cat"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def scraped(start: str) -> float:
    """The value of the line of the page that starts so, -1 if there is none yet."""
    try:
        with urllib.request.urlopen(PAGE) as answer:
            lines = answer.read().decode().splitlines()
    except urllib.error.URLError:
        return -1
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(start)), -1)


def wait_for(what: Callable[[], bool]) -> None:
    """Until it is so, while the unit runs on."""
    end = time.monotonic() + LIMIT
    while not what():
        assert systemctl("show", "-P", "NRestarts", "funcwatch") == "0", said()
        assert systemctl("show", "-P", "ActiveState", "funcwatch") != "failed", said()
        assert time.monotonic() < end, said()
        time.sleep(1)


def test_the_example_unit() -> None:
    """Started as it is, it counts; reloaded, it reads its globs; stopped, nothing stays."""
    assert rows.in_guest()
    unit = rows.ROOT / "docs/examples/funcwatch.service"
    Path("/etc/systemd/system/funcwatch.service").write_text(unit.read_text())
    tool = Path("/usr/local/bin/pybpf")
    tool.write_text(SCRIPT)
    tool.chmod(0o755)
    globs = Path("/etc/pybpf/funcwatch.globs")
    globs.parent.mkdir(exist_ok=True)
    globs.write_text("do_getpgid\n")
    systemctl("daemon-reload")
    systemctl("start", "funcwatch")
    calls = 'kernel_function_calls_total{function="do_getpgid"'
    try:
        wait_for(lambda: scraped("funcwatch_functions") == 1)
        for _ in range(1000):
            os.getpgid(0)
        wait_for(lambda: scraped(calls) >= 1000)
        globs.write_text("do_getpgid\nvfs_rename\n")
        systemctl("reload", "funcwatch")
        wait_for(lambda: scraped("funcwatch_functions") == 2)
        assert scraped(calls) >= 1000, "a reload keeps the counts"
    finally:
        systemctl("stop", "funcwatch")
    print(said())
    assert systemctl("show", "-P", "Result", "funcwatch") == "success"
    assert f"{globs} was read again: 1 function more, 0 fewer." in said()
    assert not [p.name for p in kernel.programs() if p.name.startswith("watch")]
    assert verify() == []
