"""The retsnoop clone on real failures, filters and company, from its command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import pybpf
from pybpf.features import Feature
from tests.support.snoop import TOOL, Snoop, facts, runner, sessions

ROOT = Path(__file__).resolve().parents[2]
MISSING = "/no/such/file"
OPEN = ["-e", "do_sys_openat2", "-a", "do_fil?_open", "-a", "path_openat"]
PYTHON = [sys.executable, "-c"]

pytestmark = [pytest.mark.needs(Feature.FENTRY, Feature.KPROBE), pytest.mark.first_on("latest")]


@pytest.fixture
def snoop(capfd: pytest.CaptureFixture[str]) -> Snoop:
    return runner(capfd)


def chain(session: dict[str, Any]) -> list[str]:
    return [row["function"] for row in session["stack"] if "function" in row]


def failed_with(found: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The one session of which every function of the chain failed with this error."""
    (one,) = found
    rows = [row for row in one["stack"] if "function" in row]
    assert {row["result"]["text"] for row in rows} == {f"-{name}"}, rows
    return one


# -- functions ----------------------------------------------------------------


@pytest.mark.long
def test_trampolines_of_every_kind_of_function(snoop: Snoop) -> None:
    """-F on vfs_*: some return nothing, some a pointer, with one argument to seven."""
    words = ["-F", "--json", "-e", "do_sys_openat2", "-a", "vfs_*", "-n", "cat"]
    done = snoop(*words, command=["cat", MISSING])
    assert done.returncode == 1, done.stderr  # cat's
    functions = json.loads(done.stdout.splitlines()[0])["functions"]
    kinds = {flag for one in functions for flag in one["flags"]}
    assert len(functions) > 50 and {"VOID", "PTR", "SIGNEXT"} <= kinds, kinds
    last = sessions(done)[-1]
    assert chain(last)[0] == "do_sys_openat2"
    assert last["stack"][-1]["result"]["text"] == "-ENOENT"


# -- failures -----------------------------------------------------------------


def test_mkdir_on_a_read_only_mount(snoop: Snoop, tmp_path: Path) -> None:
    """EROFS comes from where the mount is asked for write access."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", tmp_path], check=True)
    try:
        globs = ["-e", "__x64_sys_mkdir*", "-a", "*mkdirat", "-a", "*filename_create"]
        script = f"import os\ntry: os.mkdir('{tmp_path}/new')\nexcept OSError: pass"
        done = snoop("--json", *globs, "-x", "EROFS", command=[*PYTHON, script])
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    names = chain(sessions(done)[0])
    assert names[0].startswith("__x64_sys_mkdir") and "mkdirat" in " ".join(names[1:])


def test_bpf_with_a_bad_map(snoop: Snoop) -> None:
    """The preset shows which function refused a map of no type."""
    script = (
        "import ctypes\n"
        "attr = (ctypes.c_uint32 * 32)(0xffff, 4, 4, 1)\n"
        "ctypes.CDLL(None).syscall(321, 0, attr, ctypes.sizeof(attr))\n"
    )
    done = snoop("--json", "-c", "bpf", "-x", "EINVAL", "-x", "E2BIG", command=[*PYTHON, script])
    names = chain(sessions(done)[0])
    assert names[0] == "__x64_sys_bpf" and len(names) > 1
    assert "map_create" in " ".join(names) or "__sys_bpf" in names


def test_mount_of_an_unknown_kind(snoop: Snoop, tmp_path: Path) -> None:
    """ENODEV: the kernel has no such file system."""
    script = (
        f"import ctypes\nctypes.CDLL(None).mount(b'none', b'{tmp_path}', b'nosuchfs', 0, None)\n"
    )
    globs = ["-e", "__x64_sys_mount", "-a", "path_mount", "-a", "do_new_mount*"]
    done = snoop("--json", *globs, "-x", "ENODEV", command=[*PYTHON, script])
    assert chain(failed_with(sessions(done), "ENODEV"))[0] == "__x64_sys_mount"


def test_a_refused_connection(snoop: Snoop) -> None:
    """ECONNREFUSED on the loopback of a network namespace of its own."""
    script = (
        "import ctypes, fcntl, socket, struct\n"
        "assert not ctypes.CDLL(None).unshare(0x40000000)\n"
        "s = socket.socket()\n"
        "fcntl.ioctl(s, 0x8914, struct.pack('16sh22x', b'lo', 1))\n"  # SIOCSIFFLAGS, IFF_UP
        "assert s.connect_ex(('127.0.0.1', 9)) == 111\n"
    )
    globs = ["-e", "__sys_connect", "-a", "*inet_stream_connect"]
    done = snoop("--json", *globs, "-x", "ECONNREFUSED", command=[*PYTHON, script])
    assert done.returncode == 0
    names = chain(failed_with(sessions(done), "ECONNREFUSED"))
    assert names[:2] == ["__sys_connect", "inet_stream_connect"]


def test_exec_of_a_missing_interpreter(snoop: Snoop, tmp_path: Path) -> None:
    """The script exists, what its first line names does not."""
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    run = f"import os\ntry: os.execv('{script}', ['script'])\nexcept OSError: pass"
    globs = ["-e", "__x64_sys_execve", "-a", "bprm_execve*", "-a", "load_script"]
    done = snoop("--json", *globs, "-a", "open_exec", "-x", "ENOENT", command=[*PYTHON, run])
    names = chain(sessions(done)[-1])
    assert names[0] == "__x64_sys_execve"
    assert {"load_script", "open_exec"} & set(names), names


def epolls(count: int) -> str:
    """A script that puts each of so many epolls into the next, which the kernel then walks."""
    return (
        "import select\n"
        f"e = [select.epoll() for _ in range({count})]\n"
        "for inner, outer in zip(e, e[1:]): outer.register(inner.fileno(), 1)\n"
    )


@pytest.mark.parametrize("mechanism", ["auto", "-F", "-K"])
def test_recursion(mechanism: str, snoop: Snoop) -> None:
    """A function inside itself, five deep: entry and exit of each level are paired."""
    choice = [] if mechanism == "auto" else [mechanism]
    globs = ["-e", "do_epoll_ctl", "-a", "ep_loop_check_proc"]
    if not facts().kallsyms.by_name("ep_loop_check_proc"):
        pytest.skip("this kernel's compiler wrote ep_loop_check_proc into its caller")
    done = snoop("-TS", "--json", *choice, *globs, command=[*PYTHON, epolls(5)])
    found = sessions(done)
    deepest = max(found, key=lambda s: max(e["depth"] for e in s["trace"]))
    calls = [(e["event"], e["function"], e["depth"]) for e in deepest["trace"]]
    depth = max(d for _, _, d in calls)
    assert depth >= 3, calls
    inside = [("call", "ep_loop_check_proc", d) for d in range(1, depth + 1)]
    assert calls[1 : depth + 1] == inside
    assert all(s["missed"] == 0 and s["deep"] == 0 for s in found)
    assert all(s["finished"] for s in found)


def test_depth_that_is_not_kept_is_counted(snoop: Snoop) -> None:
    """Deeper calls than a session keeps: counted, and the session is whole all the same."""
    globs = [*OPEN, "-C", "bpf.max-depth=2"]
    done = snoop("--json", *globs, "-n", "cat", command=["cat", MISSING])
    session = sessions(done)[-1]
    assert [n.replace("file_open", "filp_open") for n in chain(session)] == [
        "do_sys_openat2",
        "do_filp_open",
    ]
    assert session["failed"] and session["deep"] == 1 and session["missed"] == 0
    assert json.loads(done.stdout.splitlines()[-1])["deep_calls"] >= 1
    assert "nested too deep" in done.stderr


# -- arguments ----------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["auto", "-F", "-K"])
def test_arguments(mechanism: str, snoop: Snoop) -> None:
    """A number, a string of the program's memory, a struct of the kernel's: by each mechanism."""
    choice = [] if mechanism == "auto" else [mechanism]
    done = snoop("-TA", "-Sn", "--json", *choice, *OPEN, "-n", "cat", command=["cat", MISSING])
    session = sessions(done)[-1]
    calls = {e["function"]: e["args"] for e in session["trace"] if e["event"] == "call"}
    assert calls["do_sys_openat2"]["dfd"] == "-100"
    assert calls["do_sys_openat2"]["filename"] == f"'{MISSING}'"
    assert re.fullmatch(r"&\{(\.flags=\w+)?.*\}", calls["do_sys_openat2"]["how"])
    assert calls["path_openat"]["nd"].startswith("&{.")


def test_argument_layouts(snoop: Snoop) -> None:
    """Compact in the line, multiline below it, verbose over several lines."""
    words = ["-TEA", *OPEN, "-n", "cat"]
    text = snoop(*words, command=["cat", MISSING]).stdout
    assert re.search(r"\nFUNCTION CALLS +RESULT +DURATION  CONTEXT\n-+   -+  -+  -------\n", text)
    assert re.search(rf"\n→ do_sys_openat2 +dfd=-100 filename='{MISSING}' how=&\{{", text)
    assert re.search(rf"\[-ENOENT\]  do_sys_openat2\+0x\w+ +dfd=-100 filename='{MISSING}'", text)
    text = snoop(*words, "-C", "args.fmt-mode=m", command=["cat", MISSING]).stdout
    assert re.search(rf"\n→ do_sys_openat2 *\n +› dfd = -100\n +› filename = '{MISSING}'\n", text)
    text = snoop(*words, "-C", "args.fmt-mode=v", command=["cat", MISSING]).stdout
    assert re.search(r"\n( +)› nd = &\{\n\1      \.\w+ = .+(\n\1      .*)+\n\1  \}\n", text)


def test_lost_argument_records(snoop: Snoop) -> None:
    """A ring of two pages, for calls, arguments and probes with contexts: losses do no harm."""
    done = snoop(
        *("-TA", "-C", "bpf.ringbuf-size=8192", "-e", "do_sys_openat2", "-a", "do_fil?_open"),
        *("-J", "kprobe:path_openat", "-J", "tp:kmem:kmem_cache_alloc"),
        *("-a", "path_openat", "-a", "link_path_walk*", "-a", "vfs_open", "-a", "do_dentry_open"),
        command=["sh", "-c", "for i in 1 2 3 4 5 6; do ls -R /sys/kernel/mm; done"],
    )
    assert done.returncode == 0
    assert "missing or incomplete" in done.stderr


# -- probes, interim stacks, programs' stacks, files ------------------------------


def test_injected_probes(snoop: Snoop) -> None:
    """kprobe, kretprobe and tracepoints inside a session, by globs too, with their contexts."""
    probes = ["kprobe:path_openat", "kretprobe:path_openat", "tp:kmem:kmem_cache_all*"]
    words = [word for probe in probes for word in ("-J", probe)]
    done = snoop(
        *("-TA", "-Sn", "--json", *words, "-e", "do_sys_openat2", "-n", "cat"),
        command=["cat", MISSING],
    )
    session = sessions(done)[-1]
    hits = [e for e in session["trace"] if e["event"] == "probe"]
    by = {e["probe"]: e["args"] for e in hits}
    assert {"kprobe:path_openat+0x0", "kretprobe:path_openat", "tp:kmem:kmem_cache_alloc"} <= set(
        by
    ), by
    assert by["kprobe:path_openat+0x0"]["regs"].startswith("{.")
    assert by["tp:kmem:kmem_cache_alloc"]["bytes_req"].isdigit()
    assert all(e["depth"] == 1 for e in hits)
    seqs = [e["seq"] for e in session["trace"]]
    assert seqs == sorted(seqs)


def test_raw_tracepoints_as_probes(snoop: Snoop) -> None:
    """rawtp with named arguments where raw tracepoints have cookies; elsewhere one line says so."""
    done = snoop(
        *("-TA", "-S", "--json", "-J", "rawtp:sys_enter", "-e", "*sys_clock_nanosleep"),
        *("-J", "rawtp:sched_switch", "-n", "sleep"),
        command=["sleep", "0.2"],
    )
    if not facts().supports(Feature.RAW_TP_COOKIE):
        assert done.returncode == 1 and "6.10" in done.stderr
        return
    hits = [e for s in sessions(done) for e in s["trace"] if e["event"] == "probe"]
    switches = [e["args"] for e in hits if e["probe"] == "rawtp:sched_switch"]
    assert switches and {"preempt", "prev", "next"} <= set(switches[0])


def test_probes_that_do_not_exist(snoop: Snoop) -> None:
    """One line, and nothing stays attached."""
    for probe in ("kprobe:no_such_function", "tp:sched:no_such", "tp:no_such*:*"):
        done = snoop("-T", *OPEN, "-J", probe, command=["true"])
        assert done.returncode == 1 and len(done.stderr.splitlines()) <= 2, done.stderr


def test_interim_stacks(snoop: Snoop) -> None:
    """-I shows a failed chain that a cleanup is about to overwrite, and the session at its end."""
    done = snoop(
        *("--json", "-I", "-e", "do_sys_openat2", "-a", "do_fil?_open", "-a", "putname"),
        *("-a", "put_unused_fd", "-n", "cat"),
        command=["cat", MISSING],
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = [line for line in lines if line["type"] == "session"]
    interim = [s for s in found if s.get("interim")]
    assert interim and not found[-1].get("interim")
    first = [row for row in interim[-1]["stack"] if "function" in row]
    assert first[0]["function"] == "do_sys_openat2" and not first[0]["done"]
    assert first[-1]["result"]["text"] == "-ENOENT"
    assert lines[-1]["sessions"] == len(found) - len(interim)


def test_the_stack_of_the_program(snoop: Snoop) -> None:
    """--user-stack: functions of the program that called, named while it lives."""
    script = f"import os, time\ntry: os.open('{MISSING}', 0)\nexcept OSError: time.sleep(3)\n"
    words = ["--json", "--user-stack", *OPEN, "-x", "ENOENT", "--max-sessions", "400"]
    done = snoop(*words, command=[*PYTHON, script])
    session = sessions(done)[-1]
    assert any("(/" in frame for frame in session["user_stack"]), session["user_stack"]


def test_a_file_for_perfetto(snoop: Snoop, tmp_path: Path) -> None:
    """--trace-out has every call of the shown sessions, nested in time."""
    path = tmp_path / "trace.json"
    snoop("--trace-out", str(path), *OPEN, "-n", "cat", command=["cat", MISSING])
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e["ph"] == "X"]
    last = {e["name"]: e for e in events if e["args"]["session"] == events[-1]["args"]["session"]}
    outer, inner = last["do_sys_openat2"], last["path_openat"]
    assert outer["ts"] <= inner["ts"]
    assert inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"]
    assert inner["args"]["result"] == "-ENOENT"


# -- before anything is attached ---------------------------------------------------


@pytest.mark.parametrize("mechanism", ["auto", "-F", "-K"])
def test_a_dry_run_asks_the_verifier(mechanism: str, snoop: Snoop) -> None:
    """Everything is loaded, with arguments too, and nothing attached."""
    choice = [] if mechanism == "auto" else [mechanism]
    for more in ([], ["-TA"]):
        done = snoop("--dry-run", "-v", *choice, *more, *OPEN)
        assert done.returncode == 0
        assert re.search(r"The verifier accepts \d+ programs?\.\n", done.stdout)


def test_why(snoop: Snoop) -> None:
    """--why tells of each function how it would be traced, or the planner's reason."""
    done = snoop("--why", "do_exit", "--why", "vfs_read", "--why", "migrate_disable")
    assert done.returncode == 0
    assert re.search(r"^vfs_read: traced by \S+$", done.stdout, re.M)
    assert re.search(r"^do_exit: never returns", done.stdout, re.M)
    assert re.search(r"^migrate_disable: .*(must not be traced|cannot trace)", done.stdout, re.M)
    done = snoop("--why", "do_sys_openat3")
    assert done.returncode == 1 and "do_sys_openat2" in done.stdout + done.stderr


# -- filters --------------------------------------------------------------------


def test_return_values(snoop: Snoop) -> None:
    """--allow-retval and --deny-retval look at what the entry function returned."""
    script = (
        "import os\n"
        "for name in ('/', '/no/such/file', '/proc/version/x'):\n"
        "    try: os.rmdir(name)\n"
        "    except OSError: pass\n"
    )
    command = [*PYTHON, script]

    def results(*arguments: str) -> list[str]:
        found = sessions(snoop("--json", "-e", "__x64_sys_rmdir", *arguments, command=command))
        return [session["stack"][-1]["result"]["text"] for session in found]

    everything = results()
    assert len(everything) == 3 and {"-ENOENT", "-ENOTDIR"} <= set(everything)
    assert results("--allow-retval", "ENOENT") == ["-ENOENT"]
    assert results("--deny-retval", "-ENOENT") == [r for r in everything if r != "-ENOENT"]
    assert results("--allow-retval=-30..-1", "--deny-retval", "ENOTDIR") == [
        r for r in everything if r != "-ENOTDIR"
    ]


def test_errors_are_looked_at_where_they_happen(snoop: Snoop) -> None:
    """-x and -X are asked in the kernel: what they leave out is counted, not sent."""
    done = snoop("--json", *OPEN, "-X", "ENOENT", "-n", "cat", command=["cat", MISSING])
    assert sessions(done) == []
    end = json.loads(done.stdout.splitlines()[-1])
    assert end["started"] == end["filtered"] > 0


def test_cgroup(snoop: Snoop) -> None:
    """--cgroup takes the tasks of a cgroup and of those below it, and no others."""
    root = Path("/sys/fs/cgroup")
    if not (root / "cgroup.procs").exists():
        subprocess.run(["mount", "-t", "cgroup2", "none", root], check=True)
    below = root / "snooped" / "below"
    below.mkdir(parents=True)
    try:
        command = [
            "sh",
            "-c",
            f"cat {MISSING}; echo $$ > {below}/cgroup.procs; cat {MISSING}; true",
        ]
        done = snoop("--json", *OPEN, "-n", "cat", "--cgroup", str(below.parent), command=command)
        inside = len([s for s in sessions(done) if s["failed"]])
        whole = snoop("--json", *OPEN, "-n", "cat", command=command)
        assert inside == 1
        assert len([s for s in sessions(whole) if s["failed"]]) == 2
    finally:
        for _ in range(50):
            try:
                below.rmdir()
                below.parent.rmdir()
                break
            except OSError:
                time.sleep(0.1)
    done = snoop(*OPEN, "--cgroup", "/proc", command=["true"])
    assert done.returncode == 1 and "not a directory of cgroup v2" in done.stderr


def test_a_thread_by_its_id(snoop: Snoop) -> None:
    """-p with the id of a second thread traces that thread, and says that it is one."""
    script = (
        "import os, sys, threading, time\n"
        "def fail():\n"
        "    os.write(1, b'%d\\n' % threading.get_native_id())\n"  # print() writes twice
        "    while True:\n"
        f"        try: os.open('{MISSING}', 0)\n"
        "        except OSError: time.sleep(0.05)\n"
        "for _ in range(2): threading.Thread(target=fail, daemon=True).start()\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [*PYTHON, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        ids = [int(other.stdout.readline()) for _ in range(2)]
        done = snoop("--json", *OPEN, "-p", str(ids[1]), command=["sleep", "2"])
        rest = snoop("--json", *OPEN, "-P", str(ids[1]), command=["sleep", "2"])
        other.stdin.close()
    found = sessions(done)
    assert found and {s["tid"] for s in found} == {ids[1]}
    assert {s["pid"] for s in found} == {other.pid}
    assert f"{ids[1]} is a thread of process {other.pid}" in done.stderr
    tids = {s["tid"] for s in sessions(rest)}
    assert ids[0] in tids and ids[1] not in tids


def test_ends_by_itself(snoop: Snoop) -> None:
    """--max-sessions and --duration, while others go on."""
    with subprocess.Popen(
        ["sh", "-c", f"while :; do cat {MISSING}; done"], stderr=subprocess.DEVNULL
    ) as other:
        try:
            done = snoop("--json", *OPEN, "-n", "cat", "--max-sessions", "3")
            assert len(sessions(done)) == 3
            done = snoop("--json", *OPEN, "-n", "cat", "--duration", "1")
            assert sessions(done)
        finally:
            other.kill()


# -- modules ------------------------------------------------------------------


def test_a_module_loaded_before_and_after(snoop: Snoop) -> None:
    """A function of a module is traced once the module is there; before, the error says so."""
    subprocess.run(["rmmod", "loop"], check=False, capture_output=True)
    globs = ["--json", "-S", "-e", "lo_release [loop]"]
    script = "import os\ntry: os.close(os.open('/dev/loop0', os.O_RDONLY))\nexcept OSError: pass"
    done = snoop(*globs, command=[*PYTHON, script])
    assert done.returncode == 1 and "lo_release" in done.stderr
    subprocess.run(["modprobe", "loop"], check=True)
    try:
        if not Path("/dev/loop0").exists():
            os.mknod("/dev/loop0", 0o660 | 0o060000, os.makedev(7, 0))
        found = sessions(snoop(*globs, command=[*PYTHON, script]))
        assert [(s["stack"][-1]["function"], s["stack"][-1]["module"]) for s in found] == [
            ("lo_release", "loop")
        ]
    finally:
        subprocess.run(["rmmod", "loop"], check=False, capture_output=True)


# -- company --------------------------------------------------------------------


def test_two_at_once_beside_others() -> None:
    """Two retsnoops on overlapping functions, a fexit program and a multi program: all see all."""
    words = [*TOOL, "--json", *OPEN, "-n", "cat"]
    with (
        pybpf.open(ROOT / "tests/data/multi.bpf.o", facts=facts()) as obj,
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as first,
        subprocess.Popen(
            [*words, "-F"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        ) as second,
    ):
        assert first.stdout is not None and second.stdout is not None
        for one in (first, second):
            assert one.stdout is not None
            assert json.loads(one.stdout.readline())["type"] == "attached"
        obj.load()
        program = next(p for p in obj.programs.values() if p.is_multi)
        with program.attach_multi(["do_sys_openat2", "path_openat"]):
            time.sleep(1)
            subprocess.run(["cat", MISSING], check=False, stderr=subprocess.DEVNULL)
            time.sleep(1)
        for one in (first, second):
            one.send_signal(signal.SIGINT)
        for one in (first, second):
            assert one.stdout is not None
            out = [json.loads(line) for line in one.stdout.read().splitlines()]
            found = [line for line in out if line["type"] == "session"]
            assert chain(found[-1])[0] == "do_sys_openat2"
            assert chain(found[-1])[-1] == "path_openat"
            assert one.wait() == 0


@pytest.mark.long
@pytest.mark.time_limit(300)
def test_a_burst_loses_nothing() -> None:
    """Twenty thousand failures as fast as they come: every one is shown."""
    count = 20_000
    script = (
        "import os\n"
        "open('/proc/self/comm', 'w').write('burst')\n"
        f"for _ in range({count}):\n"
        f"    try: os.open('{MISSING}', 0)\n    except OSError: pass\n"
        "os._exit(0)\n"
    )
    words = [*TOOL, *OPEN, "-n", "burst", "--", *PYTHON, script]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.count("TID/PID") == done.stdout.count("!") == count
    assert done.stderr.splitlines()[-1] == f"{count} sessions: {count} shown."


@pytest.mark.long
@pytest.mark.time_limit(600)
def test_thousands_of_functions_under_load() -> None:
    """Thousands of functions, their own helpers among them, while the machine works for 60 s.

    6.1 has a link for each function, and thousands would take half an hour: a few hundred there.
    """
    work = (
        "find / -xdev >/dev/null 2>&1",
        "dd if=/dev/zero of=/dev/null bs=4k count=20000 2>/dev/null",
        "cat /no/such/file 2>/dev/null",
    )
    storm = " & ".join(f"timeout 60 sh -c 'while :; do {one}; done'" for one in work) + " & wait"
    globs, least = ["-e", "__x64_sys_*open*", "-a", "vfs_*", "-a", "htab_*"], 60
    if facts().supports(Feature.KPROBE_MULTI):
        globs += ["-e", "__x64_sys_*", "-a", "s*", "-a", "d*"]
        least = 2000
    done = subprocess.run(
        [*TOOL, "--json", *globs, "--", "sh", "-c", storm],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=ROOT,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines[0]["functions"]) > least
    end = lines[-1]
    parts = ("sessions", "filtered", "unshown", "lost", "unfinished")
    assert end["started"] == sum(end[part] for part in parts) > 100, end
    assert end["sessions"] == len(lines) - 2
