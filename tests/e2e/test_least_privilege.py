"""Functions given by name are traced where the kernel hides its lists of them.

With CAP_BPF and CAP_PERFMON alone, with kernel.kptr_restrict=2, and without tracefs. Each case is
a process of its own that attaches, makes known calls and prints what it counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pybpf.features import Feature
from tests.support.privileges import CAP_BPF, CAP_PERFMON, Start, as_nobody, without_tracefs

pytestmark = [pytest.mark.needs(Feature.FENTRY)]

ROOT = Path(__file__).resolve().parents[2]
KPTR = Path("/proc/sys/kernel/kptr_restrict")

COUNT = """
import json, os, sys
import pybpf
cookies = {"do_getpgid": 1, "__x64_sys_getpgid": 2}
said = {}
with pybpf.open("tests/data/multi_names.bpf.o") as obj:
    obj.load()
    program, runs = obj.programs["by_cookie"], obj.maps["runs"]
    asked = [*cookies, "do_getpgidd", "__rcu_read_lock"]
    with program.attach_multi(asked, cookies=cookies, mechanism=sys.argv[1]) as link:
        before = [runs[number] for number in (1, 2)]
        for _ in range(100):
            os.getpgid(0)
        said["counted"] = [runs[number] - old for number, old in zip((1, 2), before)]
        said["unplaced"] = sorted(t.name for t in link.plan.unplaced)
        said["plan"] = str(link.plan)
        said["skipped"] = {s.name: str(s) for s in link.skipped}
    try:
        program.attach_multi("do_getpg*")
    except pybpf.BpfError as error:
        said["glob"] = str(error)
print(json.dumps(said))
"""


MEMLOCK = """
import resource
import pybpf
from pybpf.maps import Map
from pybpf.ringbuf import RingBuffer
resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
with pybpf.open("tests/data/multi_names.bpf.o") as obj:
    obj.load()
    loaded = len(obj.maps)
with Map.create_new(27, 0, 0, 1 << 20) as ring, RingBuffer(ring) as reader:
    print(loaded, reader.size, *resource.getrlimit(resource.RLIMIT_MEMLOCK))
"""


def count(start: Start | None, mechanism: str = "auto") -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", COUNT, mechanism],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=start,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@contextmanager
def kptr_restrict(value: int) -> Iterator[None]:
    before = KPTR.read_text()
    KPTR.write_text(str(value))
    try:
        yield
    finally:
        KPTR.write_text(before)


def check(said: dict[str, Any]) -> None:
    assert said["counted"] == [100, 100]
    assert said["unplaced"] == ["__x64_sys_getpgid", "do_getpgid"]
    assert "not known for 2 functions: the address, and whether it can be traced" in said["plan"]
    assert set(said["skipped"]) == {"do_getpgidd", "__rcu_read_lock"}
    assert "perhaps do_getpgid" in said["skipped"]["do_getpgidd"]
    assert "must not be traced" in said["skipped"]["__rcu_read_lock"]
    assert said["glob"].startswith(
        "globs need the kernel's lists of functions, exact names do not: "
    )


def test_two_capabilities_are_enough() -> None:
    """By what the plan chooses on this kernel."""
    check(count(as_nobody([CAP_BPF, CAP_PERFMON])))


@pytest.mark.first_on("6.12")
@pytest.mark.parametrize("mechanism", ["trampoline", "kprobe"])
def test_two_capabilities_are_enough_for_each_mechanism(mechanism: str) -> None:
    """By trampolines, and by single kprobes, which take names as well."""
    check(count(as_nobody([CAP_BPF, CAP_PERFMON]), mechanism))


def test_a_limit_of_locked_memory_does_not_matter() -> None:
    """Without CAP_IPC_LOCK and with RLIMIT_MEMLOCK 0, objects load and a ring of 1 MiB is mapped.

    Kernels since 5.11 count BPF memory by cgroup, so the limit is left as it is.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEMLOCK],
        cwd=ROOT,
        preexec_fn=as_nobody([CAP_BPF, CAP_PERFMON]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    maps, size, soft, hard = map(int, done.stdout.split())
    assert (maps > 0, size, soft, hard) == (True, 1 << 20, 0, 0)


def test_hidden_addresses() -> None:
    with kptr_restrict(2):
        check(count(None))


def test_no_tracefs() -> None:
    check(count(without_tracefs))


def test_where_nothing_is_hidden_all_is_known() -> None:
    """The same program as root: the functions are looked up, and the glob is attached to."""
    said = count(None)
    assert said["counted"] == [100, 100] and said["unplaced"] == [] and "glob" not in said


def test_tools_say_what_is_missing() -> None:
    """One line, and no traceback."""
    for words in (
        ["tools/trampolines.py", "plan", "fentry.multi/do_getpg*"],
        ["tools/retsnoop", "-e", "do_getpg*"],
        ["tools/funcwatch", "do_getpg*"],
    ):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=as_nobody([CAP_BPF, CAP_PERFMON]),
        )
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert "exact names do not" in done.stderr and len(done.stderr.splitlines()) <= 2
