"""Each example of tools/examples runs as its users run it, and shows what really happened."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pybpf.features import Feature
from tests.live.test_attach_by_hand import send
from tests.live.test_attach_user import SOURCE
from tests.support.network import Network
from tests.support.require import probes

pytestmark = pytest.mark.first_on("host", "6.12")

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "tools" / "examples"


def run(name: str, *args: object, during: Callable[[], object], seconds: float = 2) -> str:
    """Start an example, wait for its first line, do something, and give what it printed."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, args), str(seconds)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        during()
        rest = process.stdout.read()
    assert process.returncode == 0, first + rest
    return first + rest


def test_they_are_ten_short_ones() -> None:
    """Ten programs, each under 60 lines of Python with its BPF source and object beside it."""
    names = {path.stem for path in EXAMPLES.glob("*.py")} - {"__init__"}
    assert len(names) == 10
    for name in names:
        assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 60
        assert (EXAMPLES / f"{name}.bpf.c").exists() and (EXAMPLES / f"{name}.bpf.o").exists()


def test_opensnoop(tmp_path: Path) -> None:
    wanted = tmp_path / "opened"
    wanted.write_text("x")
    text = run("opensnoop", during=wanted.read_text, seconds=1)
    assert any(str(os.getpid()) in line and str(wanted)[:127] in line for line in text.splitlines())


def test_execsnoop() -> None:
    text = run("execsnoop", during=lambda: subprocess.run(["sleep", "0"], check=True), seconds=1)
    rows = [line.split() for line in text.splitlines()]
    assert any(row[1:] == [str(os.getpid()), "sleep"] for row in rows)


@pytest.mark.needs(Feature.FENTRY)
def test_tcpconnect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        text = run(
            "tcpconnect", during=lambda: socket.create_connection(server.getsockname()).close()
        )
        place = f"127.0.0.1:{server.getsockname()[1]}"
    assert any(str(os.getpid()) in line and place in line for line in text.splitlines())


def test_mallocs() -> None:
    text = run(
        "mallocs", during=lambda: subprocess.run(["ls", "/"], check=True, capture_output=True)
    )
    rows = [line.split() for line in text.splitlines()[2:]]
    assert any(int(row[-2]) > 0 and int(row[-1]) > 0 for row in rows)


@pytest.mark.rows("host")  # it compiles
def test_usdt(tmp_path: Path) -> None:
    (tmp_path / "probes.c").write_text(SOURCE)
    library = tmp_path / "libprobes.so"
    subprocess.run(
        ["clang-19", "-shared", "-fPIC", "-O1", "-o", library, tmp_path / "probes.c"], check=True
    )
    call = f"import ctypes; lib = ctypes.CDLL({str(library)!r}); lib.first(); lib.second()"
    text = run(
        "usdt", library, "shop", "inlined",
        during=lambda: subprocess.run([sys.executable, "-c", call], check=True), seconds=1,
    )  # fmt: skip
    assert text.startswith("2 places")
    assert "shop:inlined(11)" in text and "shop:inlined(22)" in text


def test_xdpcount() -> None:
    def body(inbox: socket.socket) -> None:
        text = run("xdpcount", "lo", during=lambda: send(inbox))
        assert "udp 5" in text

    Network(body)


def test_egress(cgroup: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox:
        inbox.bind(("127.0.0.1", 0))
        port = str(inbox.getsockname()[1])
        text = run("egress", cgroup, port, during=lambda: _try_to_send(cgroup, port), seconds=3)
    assert "5 dropped" in text


def _try_to_send(cgroup: Path, port: str) -> None:
    # Each packet is refused with EPERM.
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(cgroup), port],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "5"


REFUSED = """
import os, socket, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
    procs.write(str(os.getpid()))
refused = 0
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    for _ in range(5):
        try:
            sender.sendto(b"x", ("127.0.0.1", int(sys.argv[2])))
        except PermissionError:
            refused += 1
print(refused)
"""


def test_lsmaudit() -> None:
    lsms = Path("/sys/kernel/security/lsm")
    if not lsms.exists() or "bpf" not in lsms.read_text().split(","):
        pytest.skip("BPF is not among this kernel's LSMs")
    if not probes().answer(Feature.FENTRY).ok:
        pytest.skip("LSM programs are denied here, as fentry is")
    text = run("lsmaudit", during=lambda: subprocess.run(["sleep", "0"], check=True))
    assert any(line.endswith("/sleep") for line in text.splitlines())


def test_profile() -> None:
    def burn() -> None:
        code = "import time; end = time.time() + 1\nwhile time.time() < end: sum(range(1000))"
        subprocess.run([sys.executable, "-c", code], check=True)

    text = run("profile", during=burn, seconds=2)
    lines = text.splitlines()[1:]
    assert lines and all(line.rsplit(" ", 1)[1].isdigit() for line in lines)
    assert any(";" in line for line in lines)


@pytest.mark.needs(Feature.FENTRY)
def test_latency() -> None:
    text = run("latency", "vfs_*", during=lambda: [Path("/proc/self/stat").read_text()] * 9)
    assert " functions, " in text.splitlines()[0]
    assert "distribution" in text and int(text.splitlines()[1].split()[0]) > 0
