"""funcwatch: what it says of functions is what processes that count their own calls did.

Others attach to and detach from the same functions meanwhile. The seed is printed;
PYBPF_SEED=N chooses one, PYBPF_SEED=random a new one each time.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import pybpf
from pybpf._sys import bpf as sys_bpf
from pybpf.features import Feature
from pybpf.multi.select import select
from tests.support.bpftrace import Bpftrace
from tests.support.knowncalls import CALLS, calls
from tests.support.require import facts, probes
from tests.support.trampolines import verify
from tests.support.witness import Witness

pytestmark = pytest.mark.first_on("6.1", "latest")

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/data"
NEEDS = {
    "tracing_multi": Feature.TRACING_MULTI,
    "trampoline": Feature.FENTRY,
    "kprobe_multi": Feature.KPROBE_MULTI,
    "kprobe": Feature.KPROBE,
}
MECHANISMS = [
    pytest.param(name, marks=pytest.mark.needs(feature)) for name, feature in NEEDS.items()
]
#: Few, since detaching a clone or a kprobe takes long, and one that can fail.
NAMES = ["do_getpgid", "vfs_mkdir", "vfs_read", "vfs_rename", "vfs_rmdir", "vfs_write"]


@dataclass
class Watch:
    """A running funcwatch --json, and what it said so far."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)  # on standard error

    def wait_for(self, start: str) -> str:
        """The next line of standard error that starts so."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if line.startswith(start):
                return line
        raise AssertionError("".join(self.said))

    def end(self, number: int = signal.SIGINT, status: int = 0) -> list[dict[str, Any]]:
        """Interrupt it; the records that it wrote."""
        self.process.send_signal(number)
        out, err = self.process.communicate()
        self.said.append(err)
        assert self.process.returncode == status, "".join(self.said)
        return [json.loads(line) for line in out.splitlines()]


@contextmanager
def funcwatch(*args: str) -> Iterator[Watch]:
    """Run it until it watches; the end is the caller's."""
    process = subprocess.Popen(
        [sys.executable, "tools/funcwatch", "--json", *args],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            watch = Watch(process)
            watch.wait_for("Watching ")
            yield watch
        finally:
            if process.poll() is None:
                process.kill()


def totals(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last records, by function; the records of the intervals add up to them."""
    final = {r["function"]: r for r in records if r.get("final")}
    for name, last in final.items():
        before = [r for r in records if r["function"] == name and not r.get("final")]
        assert sum(r["calls"] for r in before) == last["calls"], name
        errors: dict[str, int] = {}
        for r in before:
            for error, count in r["errors"].items():
                errors[error] = errors.get(error, 0) + count
        assert errors == last["errors"], name
        if last["max_ns"] is not None:
            assert max(r["max_ns"] or 0 for r in before) == last["max_ns"]
            assert 0 <= last["p50_ns"] <= last["p90_ns"] <= last["p99_ns"] <= last["max_ns"]
    return final


def known_errors(times: int, directory: Path) -> dict[str, dict[str, int]]:
    """Make calls that fail; function -> error -> how often."""
    (directory / "full" / "x").mkdir(parents=True, exist_ok=True)
    (directory / "file").touch()
    reading = os.open(directory / "file", os.O_WRONLY)
    for _ in range(times):
        with suppress(ProcessLookupError):
            os.getpgid(1 << 22)
        with suppress(OSError):
            os.rmdir(directory / "full")
        with suppress(OSError):
            os.read(reading, 1)
    os.close(reading)
    return {
        "do_getpgid": {"ESRCH": times},
        "vfs_rmdir": {"ENOTEMPTY": times},
        "vfs_read": {"EBADF": times},
    }


def slow_read(seconds: float) -> int:
    """A read that waits for a writer; how long it took at least, in ns."""
    reading, writing = os.pipe()
    begun = threading.Event()
    waited = 0

    def write() -> None:
        nonlocal waited
        begun.wait()
        # The reader is asleep in the pipe once its state says so.
        task = Path(f"/proc/self/task/{threading.main_thread().native_id}/wchan")
        while "pipe" not in task.read_text():
            time.sleep(0.001)
        start = time.monotonic_ns()
        time.sleep(seconds)
        waited = time.monotonic_ns() - start
        os.write(writing, b"x")

    thread = threading.Thread(target=write)
    thread.start()
    begun.set()
    os.read(reading, 1)
    thread.join()
    os.close(reading)
    os.close(writing)
    return waited


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_counts_errors_and_latency(mechanism: str, tmp_path: Path) -> None:
    """Of one process, by each mechanism: every number is the truth, or a bound of it."""
    (tmp_path / "full").mkdir()
    with funcwatch(
        *NAMES, "--mechanism", mechanism, "-p", str(os.getpid()), "--interval", "0.5"
    ) as watch:
        for _ in range(20):
            calls()
        failed = known_errors(7, tmp_path)
        records = watch.end()
    final = totals(records)
    assert sorted(final) == NAMES
    more = {"do_getpgid": 7, "vfs_rmdir": 7}
    for name in ("do_getpgid", "vfs_rename", "vfs_rmdir"):
        assert final[name]["calls"] == 20 * CALLS[name] + more.get(name, 0), name
    # This process reads and writes pipes of its own meanwhile.
    assert final["vfs_read"]["calls"] >= 20 * CALLS["vfs_read"] + 7
    for name in NAMES:
        assert final[name]["errors"] == failed.get(name, {}), name
    assert "Missed calls: 0" in watch.said[-1] or "unknown" in watch.said[-1]


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_latency(mechanism: str) -> None:
    """A read that slept for a known time: the maximum is between that and all of it."""
    with funcwatch(
        "vfs_read", "--mechanism", mechanism, "-p", str(os.getpid()), "--interval", "100"
    ) as watch:
        start = time.monotonic_ns()
        waited = slow_read(0.2)
        outside = time.monotonic_ns() - start
        records = watch.end(signal.SIGTERM)
    final = totals(records)["vfs_read"]
    assert waited <= final["max_ns"] <= outside


def test_filters(tmp_path: Path) -> None:
    """By command: only those so named count. By cgroup: only what is in it, and below."""
    script = "import os\nfor _ in range(%d): os.getpgid(0)\n"
    with funcwatch("do_getpgid", "--comm", "fw-marked") as watch:
        mark = "open('/proc/self/comm', 'w').write('fw-marked')\n"
        for text in (mark + script % 11, script % 1000):
            subprocess.run([sys.executable, "-c", text], check=True)
        assert totals(watch.end())["do_getpgid"]["calls"] == 11
    root = Path("/sys/fs/cgroup")
    if not (root / "cgroup.procs").exists():
        subprocess.run(["mount", "-t", "cgroup2", "none", str(root)], check=True)
    inside, below = root / "fw-test", root / "fw-test" / "below"
    below.mkdir(parents=True)
    join = "open('%s/cgroup.procs', 'w').write(str(os.getpid()))\n"
    try:
        with funcwatch("do_getpgid", "--cgroup", "fw-test") as watch:
            for where, count in ((inside, 5), (below, 7), (root, 1000)):
                text = "import os\n" + join % where + script % count
                subprocess.run([sys.executable, "-c", text], check=True)
            assert totals(watch.end())["do_getpgid"]["calls"] == 12
    finally:
        below.rmdir()
        inside.rmdir()


def test_functions_without_btf() -> None:
    """Compiler's clones are counted as well; whether they return an error is guessed."""
    found = select(facts(), ["*.isra.0"], at_exit=True).candidates
    names = [one.name for one in found if one.btf_id is None and one.unique and one.kprobe][:10]
    assert len(names) == 10
    with funcwatch(*names) as watch:
        final = totals(watch.end())
    assert sorted(final) == sorted(names)


def test_a_command_and_its_status() -> None:
    """Its output is its own, its status is ours; what a signal says goes to it as well."""
    done = subprocess.run(
        [sys.executable, "tools/funcwatch", "do_getpgid", "--", "sh", "-c", "echo out; exit 3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("out\nTotal of ") or "\nout\n" in done.stdout
    with funcwatch("do_getpgid", "--", "sleep", "1000") as watch:
        watch.end(status=128 + signal.SIGINT)


def test_what_it_refuses() -> None:
    """One line each, and nothing attached."""
    for args, text in (
        (["no_such_function"], "no_such_function"),
        (["vfs_read", "-p", "4194303"], "there is no process 4194303"),
        (["vfs_read", "--cgroup", "/proc"], "--cgroup: '/proc' is not a directory of a cgroup2"),
        (["do_exit"], "never returns"),
    ):
        done = subprocess.run(
            [sys.executable, "tools/funcwatch", *args],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1 and text in done.stderr and done.stdout == "", done


# -- cost ---------------------------------------------------------------------

BUSY = (
    "import os\nprint('ready', flush=True)\nwhile True:\n    for _ in range(1000): os.getpgid(0)\n"
)


@contextmanager
def busy() -> Iterator[None]:
    """A process that does nothing but call do_getpgid."""
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def test_measured_first(tmp_path: Path) -> None:
    """Each function is attached once, the calls of the measuring are in no record."""
    with busy(), funcwatch(*NAMES, "--measure", "1", "-p", str(os.getpid())) as watch:
        for _ in range(10):
            calls()
        final = totals(watch.end())
    assert "Counting calls for 1 s.\n" in watch.said
    for name in ("do_getpgid", "vfs_rename", "vfs_rmdir"):
        assert final[name]["calls"] == 10 * CALLS[name], name


def test_the_hottest_function_is_let_go() -> None:
    """It is named with its rate, the others count on without a gap, and the programs get cheap."""
    # An emulated call of a kprobe takes up to 0.1 ms: the limit has room for hundreds a second.
    with busy(), funcwatch(*NAMES, "--max-overhead", "3", "--interval", "0.5") as watch:
        assert watch.wait_for("The programs took").endswith("let go of 1 function.\n")
        line = watch.wait_for("  do_getpgid: ")
        assert float(line.split()[1]) > 100
        worker = Worker()
        worker.work(20)
        worker.wait()
        worker.close()
        records = watch.end()
    final = totals(records)
    assert final["do_getpgid"]["calls"] > 1000
    # Its own first round included; nobody else renames.
    assert final["vfs_rename"]["calls"] == 21 * CALLS["vfs_rename"]
    assert "Let go of 1 function to stay cheap." in watch.said[-1]


LOAD = """
while :; do
    find /sys /proc /usr -maxdepth 4 > /dev/null 2>&1
    dd if=/dev/zero of=/tmp/load bs=64k count=64 2> /dev/null
    for i in 1 2 3 4 5 6 7 8 9 10; do (true) & done
    wait
done
"""


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def three_thousand(seconds: float) -> None:
    """3,000 functions under load: sums add up, the kernel says nothing, memory is flat."""
    functions = facts().ftrace
    names = {line for line in functions.lines if " " not in line and "." not in line}
    some = sorted(names)[:: max(len(names) // 3000, 1)][:3000]
    with tempfile.TemporaryDirectory() as directory:
        globs = Path(directory) / "globs"
        globs.write_text("\n".join(some))
        load = subprocess.Popen(["sh", "-c", LOAD], start_new_session=True)
        try:
            with funcwatch("-f", str(globs), "--interval", "5", "--top", "50") as watch:
                assert int(watch.said[-1].split()[1]) > 2000
                time.sleep(seconds / 5)
                early = resident(watch.process.pid)
                time.sleep(seconds * 4 / 5)
                late = resident(watch.process.pid)
                records = watch.end()
        finally:
            os.killpg(load.pid, signal.SIGKILL)
            load.wait()
    final = [r for r in records if r.get("final")]
    called = [r for r in final if r["calls"]]
    print(f"{sum(r['calls'] for r in final)} calls of {len(called)} functions, {early} {late}")
    assert len(called) > 300
    for r in called:
        assert sum(r["errors"].values()) <= r["calls"]
        before = sum(
            one["calls"] for one in records if one["function"] == r["function"] and one is not r
        )
        assert before <= r["calls"]  # --top leaves some out
    assert abs(late - early) < early / 20


@pytest.mark.long
@pytest.mark.time_limit(900)
def test_three_thousand_functions_under_load() -> None:
    """Two minutes of it."""
    three_thousand(120)


# -- what changes -------------------------------------------------------------


def test_modules_and_a_file_of_globs(tmp_path: Path) -> None:
    """Functions of a module that comes are watched; SIGHUP takes what the file says now."""
    subprocess.run(["modprobe", "-r", "dummy"], check=False, capture_output=True)
    globs = tmp_path / "globs"
    globs.write_text("do_getpgid  # one that is always there\ndummy:*\n")
    with funcwatch("-f", str(globs), "--interval", "0.2") as watch:
        subprocess.run(["modprobe", "dummy", "numdummies=0"], check=True)
        said = watch.wait_for("A module came or went: ")
        assert int(said.split()[5]) > 3 and ", 0 fewer" in said
        globs.write_text("vfs_[\n")
        watch.process.send_signal(signal.SIGHUP)
        assert "nothing was changed" in watch.wait_for("")
        globs.write_text("vfs_rename\ndo_getpgid\n!do_getpgid\n")
        watch.process.send_signal(signal.SIGHUP)
        said = watch.wait_for(f"{globs} was read again: 1 function more, ")
        assert int(said.split()[-2]) > 4, "do_getpgid and those of the module"
        for _ in range(5):
            calls()
        records = watch.end()
    final = totals(records)
    assert final["vfs_rename"]["calls"] == 5 * CALLS["vfs_rename"]
    assert final["do_getpgid"]["calls"] < 5 * CALLS["do_getpgid"]
    assert any(r["module"] == "dummy" for r in final.values())
    subprocess.run(["modprobe", "-r", "dummy"], check=True)


# -- company ------------------------------------------------------------------

WORKER = """
import sys
from tests.support.knowncalls import calls
calls()  # imports what it needs
print("ready", flush=True)
done = 0
for line in sys.stdin:
    for _ in range(int(line)):
        calls()
        done += 1
    print(done, flush=True)
"""


class Worker:
    """A process that makes known calls and counts them itself."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.done = 0

    def work(self, rounds: int) -> None:
        """Begin with it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{rounds}\n")
        self.process.stdin.flush()

    def wait(self) -> None:
        """Until what it began is done."""
        assert self.process.stdout is not None
        self.done = int(self.process.stdout.readline())

    def close(self) -> None:
        with self.process:  # which closes its input and waits
            pass


@dataclass
class Others:
    """Who comes and goes on the functions that are watched."""

    chance: random.Random
    names: Sequence[str]
    directory: Path
    witness: Witness
    losses: pybpf.Object

    def some(self) -> list[str]:
        return self.chance.sample(self.names, self.chance.randint(1, 3))

    def standard(self) -> None:
        """A standard fexit program on one function."""
        program = self.losses.programs["std_exit"]
        with program.clone(self.chance.choice(self.names)) as clone, clone.attach_tracing():
            pass

    def multi(self) -> None:
        mechanisms = [name for name, need in NEEDS.items() if probes().supports(need)]
        program = self.chance.choice(["entry_slots", "entry_helpers", "exit_ret"])
        with self.witness.obj.programs[program].attach_multi(
            self.some(), mechanism=self.chance.choice(mechanisms), cookies=self.witness.cookie
        ) as link:
            assert not link.skipped

    def _retsnoop(self, how: str) -> None:
        globs = [word for name in self.some() for word in ("-e", name)]
        command = [sys.executable, "tools/retsnoop", how, *globs, "--", "true"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done

    def retsnoop_fentries(self) -> None:
        self._retsnoop("-F")

    def retsnoop_multi(self) -> None:
        self._retsnoop("-M")

    def bpftrace(self) -> None:
        theirs = Bpftrace(self.some(), self.directory)
        try:
            theirs.finish()
        finally:
            theirs.close()


def company(
    steps: int, actions: Callable[[Others], list[Callable[[], None]]], rounds: int, tmp_path: Path
) -> None:
    chosen = os.environ.get("PYBPF_SEED", "1")
    number = random.randrange(1 << 32) if chosen == "random" else int(chosen)
    print(f"PYBPF_SEED={number}")
    chance = random.Random(number)
    # A worker is told what to do, and answers, through pipes.
    truth = {name: count for name, count in CALLS.items() if name not in ("vfs_read", "vfs_write")}
    names = sorted(truth)
    links = set(sys_bpf.ids("link"))
    with ExitStack() as stack:
        workers = [Worker() for _ in range(2)]
        for worker in workers:
            stack.callback(worker.close)
        witness = Witness(names, facts())
        stack.callback(witness.close)
        pids = [word for worker in workers for word in ("-p", str(worker.process.pid))]
        watch = stack.enter_context(funcwatch(*names, *pids, "--interval", "2"))
        losses = stack.enter_context(pybpf.open(DATA / "losses.bpf.o", facts=facts()))
        losses.load()
        others = Others(chance, names, tmp_path, witness, losses)
        todo: list[Callable[[], None]] = []
        for step in range(steps):
            if not todo:  # each at least once, in another order every time
                todo = chance.sample(actions(others), len(actions(others)))
            for worker in workers:
                worker.work(rounds)
            action = todo.pop()
            action()
            for worker in workers:
                worker.wait()
            assert verify() == [], action.__name__
            print(f"step {step}: {action.__name__}", flush=True)
        records = watch.end()
        done = sum(worker.done for worker in workers)
    assert done == 2 * rounds * steps
    print(f"{done * sum(truth.values())} calls of {len(truth)} functions")
    final = totals(records)
    missed = int(watch.said[-1].partition("Missed calls: ")[2].split(".")[0].split()[-1] or 0)
    wrong = {
        name: (final[name]["calls"], done * count)
        for name, count in truth.items()
        if not done * count - missed <= final[name]["calls"] <= done * count
    }
    assert not wrong, (wrong, missed)
    assert all(final[name]["errors"] == {} for name in truth)
    while set(sys_bpf.ids("link")) - links:  # another process may still be closing them
        time.sleep(0.2)
    assert verify() == []


@pytest.mark.time_limit(900)
def test_others_come_and_go(tmp_path: Path) -> None:
    """A few steps of it."""
    company(6, lambda others: [others.standard, others.multi, others.multi], 20, tmp_path)


@pytest.mark.long
@pytest.mark.guest_with("bpftrace")
@pytest.mark.time_limit(3600)
def test_others_come_and_go_for_long(tmp_path: Path) -> None:
    """50 steps and 100,000 calls, with retsnoop and bpftrace among the others."""
    company(
        50,
        lambda others: [
            others.standard,
            others.multi,
            others.retsnoop_fentries,
            others.retsnoop_multi,
            others.bpftrace,
        ],
        40,
        tmp_path,
    )
