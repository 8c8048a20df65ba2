"""The retsnoop clone explains system calls that fail, by every mechanism, and cleans up."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pybpf._sys import bpf as sys_bpf
from pybpf.features import Feature
from pybpf.kernel import kallsyms
from tests.support.snoop import TOOL, Snoop, facts, process, runner, sessions

ROOT = Path(__file__).resolve().parents[2]
# 7.3 calls do_filp_open do_file_open.
OPEN = ["-e", "do_sys_openat2", "-a", "do_fil?_open", "-a", "path_openat"]
MISSING = "/no/such/file"

pytestmark = [
    pytest.mark.needs(Feature.FENTRY, Feature.KPROBE),
    pytest.mark.first_on("6.1", "6.12"),
]


@pytest.fixture
def snoop(capfd: pytest.CaptureFixture[str]) -> Snoop:
    return runner(capfd)


def link_ids() -> set[int]:
    return set(sys_bpf.ids("link"))


def links_left(before: set[int]) -> set[int]:
    """Links that stay; slow ones are closed by a process that goes on after retsnoop's end."""
    for _ in range(60):
        if not (now := link_ids() - before):
            break
        time.sleep(1)
    return now


# -- what it is for ---------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["auto", "-K", "-F"])
def test_explains_a_missing_file(mechanism: str) -> None:
    """cat of a missing file: the chain down to path_openat, as stack and as calls."""
    choice = [] if mechanism == "auto" else [mechanism]
    before = link_ids()
    done = process("-TE", "-v", *choice, *OPEN, "-n", "cat", command=["cat", MISSING])
    assert done.returncode == 1  # cat's
    text = done.stdout
    # Some sessions are of the loader, whose library search may fail too: look at the last.
    block = [b for b in re.split(r"\n\n\n", text) if "TID/PID" in b][-1]
    assert re.search(r"TID/PID (\d+)/\1 \(cat/cat\):", block)
    assert re.search(
        r"→ do_sys_openat2 *\n"
        r"    → do_fil[ep]_open *\n"
        r"        ↔ path_openat   \[-ENOENT\] +\d+\.\d{3}us\n"
        r"    ← do_fil[ep]_open      \[-ENOENT\] +\d+\.\d{3}us\n"
        r"← do_sys_openat2        \[-ENOENT\] +\d+\.\d{3}us\n",
        block,
    )
    stack = block[block.rindex("\n\n") :]
    assert re.search(r"\n +do_syscall_64\+0x[0-9a-f]+ ", stack)
    assert re.search(
        r"\n +\d+us \[-ENOENT\]  do_sys_openat2\+0x[0-9a-f]+ *\n"
        r" +\d+us \[-ENOENT\]  do_fil[ep]_open\+0x[0-9a-f]+ *\n"
        r"! +\d+us \[-ENOENT\]  path_openat *$",
        stack,
    )
    assert "bpf_" not in stack
    # 6.1 counts no misses of single kprobes: that is said, too.
    ends = r"\nDetaching\.\.\.\nDONE in \d+ ms\.\n(MISSED CALLS: +unknown \(.*\)\n)?$"
    assert re.search(ends, text)
    assert not links_left(before)


def test_a_command_with_an_evil_name(snoop: Snoop) -> None:
    """Its escape sequence and line end reach the terminal escaped."""
    script = (
        "import os; open('/proc/self/comm', 'wb').write(b'e\\x1b[2Jv\\nil')\n"
        f"try: os.open('{MISSING}', os.O_RDONLY)\nexcept OSError: pass\n"
    )
    done = snoop(*OPEN, "-x", "ENOENT", command=[sys.executable, "-c", script])
    assert r"(e\x1b[2Jv\nil/e\x1b[2Jv\nil):" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_renamed_function_is_suggested(kernel_row: str, snoop: Snoop) -> None:
    """do_rmdir of older kernels is filename_rmdir: the error names it, where it is so."""
    done = snoop("--dry-run", "-e", "do_rmdir")
    if facts().kallsyms.find_prefix("do_rmdir"):
        assert done.returncode == 0
    else:
        assert done.returncode == 1 and "filename_rmdir" in done.stderr


@pytest.mark.parametrize("mechanism", ["auto", "-F"])
def test_explains_a_missing_directory(mechanism: str, snoop: Snoop) -> None:
    """rmdir below a directory that does not exist fails in the path walk, not in rmdir."""
    choice = [] if mechanism == "auto" else [mechanism]
    globs = ["-e", "*sys_rmdir", "-a", "do_rmdir", "-a", "filename_rmdir", "-a", "*_parentat"]
    globs += ["-a", "link_path_walk*"]
    done = snoop("--json", *choice, *globs, "-x", "ENOENT", command=["rmdir", "/no/such/dir"])
    assert done.returncode == 1
    (session,) = sessions(done)
    assert session["comm"] == "rmdir" and session["failed"]
    chain = [row["function"] for row in session["stack"] if "function" in row]
    assert chain[0] == "__x64_sys_rmdir"
    assert chain[1] in ("do_rmdir", "filename_rmdir")
    assert re.match(r"link_path_walk|.*_parentat$", chain[-1])
    for row in session["stack"]:
        if "function" in row:
            assert row["result"]["text"] == "-ENOENT", row
            assert row["result"]["errno"] == 2
    durations = [row["duration_ns"] for row in session["stack"] if "function" in row]
    assert durations == sorted(durations, reverse=True)


def test_mechanisms(snoop: Snoop) -> None:
    """By default the cheapest per call that the kernel has; -M, -K and -F as they say."""

    def chosen(*arguments: str) -> str:
        (line,) = map(
            json.loads, snoop("--json", "--dry-run", *OPEN, *arguments).stdout.splitlines()
        )
        assert [f["name"] for f in line["functions"] if f["entry"]] == ["do_sys_openat2"]
        return str(line["mechanism"])

    multi = facts().supports(Feature.KPROBE_MULTI)
    tracing = facts().supports(Feature.TRACING_MULTI)
    assert chosen() == (
        "fentry.multi (3)" if tracing else "kprobe.multi (3)" if multi else "fentry (3)"
    )
    assert chosen("-M") == ("kprobe.multi (3)" if multi else "kprobe (3)")
    assert chosen("-K") == "kprobe (3)"
    assert chosen("-F") == "fentry (3)"


# -- selection --------------------------------------------------------------


def test_dry_run_lists_and_denies(snoop: Snoop) -> None:
    """Entries marked, deny globs applied, enforced list enforced, nothing attached."""
    before = link_ids()
    done = snoop(
        *("--dry-run", "-vv", "-e", "*sys_openat*", "-a", "do_fil?_open", "-a", "path_o*"),
        *("-d", "path_openat", "-a", "migrate_*able", "-a", "__rcu_read_*lock", "-a", "do_exit"),
    )
    assert done.returncode == 0
    names = re.findall(r"^Attached \(dry run\) to function #\d+ '([^']+)'", done.stdout, re.M)
    assert {"do_filp_open", "do_file_open"} & set(names) and "__x64_sys_openat" in names
    assert not {"path_openat", "migrate_disable", "__rcu_read_lock", "do_exit"} & set(names)
    assert "Function '__x64_sys_openat' is marked as an entry point." in done.stdout
    assert "Function 'path_openat' is denied." in done.stdout
    assert re.search(
        r"'do_fil[pe]_open' \(addr 0xffff[0-9a-f]+, btf id \d+, flags PTR\)", done.stdout
    )
    assert f"Found {len(names)} attachable functions in total." in done.stdout
    assert "never returns" in done.stdout
    assert link_ids() <= before


def test_entry_glob_that_matches_nothing() -> None:
    """Fatal, status 1, with a name that comes near."""
    done = process("-e", "do_sys_openat3")
    assert done.returncode == 1
    assert "do_sys_openat3" in done.stderr and "do_sys_openat2" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("preset", ["bpf", "perf"])
def test_presets_find_their_functions(preset: str, snoop: Snoop) -> None:
    """A preset's entry functions exist, and its globs take more than those."""
    done = snoop("--json", "--dry-run", "-c", preset)
    (line,) = map(json.loads, done.stdout.splitlines())
    entries = [f["name"] for f in line["functions"] if f["entry"]]
    assert f"__x64_sys_{'bpf' if preset == 'bpf' else 'perf_event_open'}" in entries
    assert len(line["functions"]) > len(entries) + 10


def test_static_functions_of_one_name(snoop: Snoop) -> None:
    """s_next is a name of several functions: each is taken by its address, where that can be."""
    done = snoop("--json", "--dry-run", "-v", "-e", "s_next")
    if done.returncode:
        # Trampolines go by BTF id, single kprobes may: which function would be meant?
        assert not facts().supports(Feature.KPROBE_MULTI)
        assert "s_next" in done.stderr
    else:
        (line,) = map(json.loads, done.stdout.splitlines())
        addrs = [f["addr"] for f in line["functions"]]
        assert len(addrs) == len(set(addrs)) > 1


def test_statuses_of_commands() -> None:
    """The command's status comes through; one that does not exist is 127 before anything starts."""
    done = subprocess.run([*TOOL, *OPEN, "--", "sh", "-c", "exit 7"], check=False, cwd=ROOT)
    assert done.returncode == 7
    done = subprocess.run(
        [*TOOL, *OPEN, "--", "no-such-program"], capture_output=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (127, b"")


# -- filters ----------------------------------------------------------------


def test_filters(snoop: Snoop) -> None:
    """-n, -N, -x, -X, -L each let pass what they should."""
    script = f"cat {MISSING}; rmdir /no/such/dir; ls {MISSING}; cat /no/such/second; true"
    command = ["sh", "-c", script]
    entry = ["--json", "-e", "do_sys_openat2", "-e", "*sys_rmdir"]

    def comms(*arguments: str) -> list[str]:
        done = snoop(*entry, *arguments, command=command)
        assert done.returncode == 0, done.stderr
        return [s["comm"] for s in sessions(done)]

    assert comms("-n", "cat", "-n", "rmdir") == ["cat", "rmdir", "cat"]
    assert comms("-n", "cat", "-n", "rmdir", "-N", "cat") == ["rmdir"]
    assert comms("-n", "rmdir", "-X", "ENOENT") == []
    assert comms("-n", "rmdir", "-x", "EBUSY") == []
    assert comms("-n", "cat", "-L", "60000") == []


def test_own_process_is_not_traced(snoop: Snoop) -> None:
    """The tool's own system calls open no session; those of a given process do."""
    done = snoop("--json", "-S", "-e", "do_sys_openat2", command=["cat", MISSING])
    found = sessions(done)
    assert found
    assert not any(s["comm"].startswith("python") for s in found)
    assert any(not s["failed"] for s in found)  # -S: the shell's and cat's own files open


def test_pid_filter(snoop: Snoop) -> None:
    """-p takes the sessions of one process only, -P all but that one."""
    with subprocess.Popen(
        ["sh", "-c", f"while :; do cat {MISSING}; true < {MISSING}; sleep 0.2; done"],
        stderr=subprocess.DEVNULL,
    ) as other:
        try:
            pid = str(other.pid)
            only = sessions(snoop("--json", *OPEN, "-p", pid, command=["sleep", "2"]))
            rest = sessions(snoop("--json", *OPEN, "-P", pid, command=["sleep", "2"]))
        finally:
            other.kill()
    assert {s["pid"] for s in only} == {int(pid)}
    assert rest and int(pid) not in {s["pid"] for s in rest}


def test_exec_inside_a_session(snoop: Snoop) -> None:
    """The command name is looked at once: a task that changes its name keeps its session."""
    done = snoop(
        *("-T", "--json", "-e", "__x64_sys_execve", "-a", "begin_new_exec", "-n", "sh"),
        command=["cat", "/dev/null"],
    )
    found = sessions(done)
    assert any(s["comm"] == "sh" and not s["failed"] for s in found)
    (session,) = [s for s in found if not s["failed"]][:1]
    calls = [(e["event"], e["function"]) for e in session["trace"]]
    assert calls[0] == ("call", "__x64_sys_execve")
    assert calls[-1] == ("return", "__x64_sys_execve")
    assert ("return", "begin_new_exec") in calls


def test_task_that_dies_inside_a_session(snoop: Snoop) -> None:
    """A killed task never returns from get_signal: its session ends with it, unfinished.

    By kprobes: 6.x keeps the image of a trampoline that a task died in, for ever, and later tests
    would find it without a link.
    """
    done = snoop(
        *("-K", "-S", "--json", "-e", "get_signal", "-a", "dequeue_signal*", "-n", "sh"),
        command=["sh", "-c", "kill -KILL $$"],
    )
    (session,) = [s for s in sessions(done) if not s["finished"]]
    first = next(row for row in session["stack"] if "function" in row)
    assert (first["function"], first["done"]) == ("get_signal", False)


@pytest.mark.parametrize("mechanism", ["auto", "-F"])
def test_cleanup_does_not_hide_the_error(mechanism: str, snoop: Snoop) -> None:
    """What fails and is cleaned up after is put back below the caller that reports it.

    The functions return an int, a pointer and nothing: all through one pair of programs.
    """
    done = snoop(
        *([] if mechanism == "auto" else [mechanism]),
        *("--json", "-e", "do_sys_openat2", "-a", "do_fil?_open", "-a", "putname"),
        *("-a", "put_unused_fd", "-n", "cat"),
        command=["cat", MISSING],
    )
    session = sessions(done)[-1]
    chain = [(r["function"], r["stitched"]) for r in session["stack"] if "function" in r]
    assert chain[0] == ("do_sys_openat2", False)
    assert chain[1:] in ([("do_filp_open", True)], [("do_file_open", True)])


# -- losses and ends --------------------------------------------------------


def test_a_ring_too_small_is_told(snoop: Snoop) -> None:
    """One page of ring buffer loses records: incomplete sessions and totals say so."""
    script = "for i in 1 2 3 4 5 6 7 8 9; do ls -R /sys/kernel/mm; done"
    done = snoop(
        *("-T", "-C", "bpf.ringbuf-size=4096", "-e", "do_sys_openat2", "-a", "do_fil?_open"),
        *("-a", "path_openat", "-a", "link_path_walk*", "-a", "vfs_open", "-a", "do_dentry_open"),
        command=["sh", "-c", script],
    )
    assert done.returncode == 0
    counts = dict(re.findall(r"^(DROPPED|INCOMPLETE) SAMPLES: +(\d+)$", done.stderr, re.M))
    assert int(counts["DROPPED"]) + int(counts["INCOMPLETE"]) > 0
    if int(counts["INCOMPLETE"]):
        assert "WARNING! Sample data incomplete!" in done.stdout or int(counts["DROPPED"])


def test_interrupt() -> None:
    """Ctrl-C ends the run: what was seen is shown, all is detached, status 0, no images left."""
    before = link_ids()
    images = set(kallsyms.read().trampolines())
    with subprocess.Popen(
        [*TOOL, "-F", "-n", "cat", *OPEN], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as tool:
        assert tool.stdout is not None
        assert tool.stdout.readline() == "Receiving data...\n"
        subprocess.run(["cat", MISSING], check=False, stderr=subprocess.DEVNULL)
        time.sleep(2)
        tool.send_signal(signal.SIGINT)
        text = tool.stdout.read()
    assert tool.returncode == 0
    assert re.search(r"! +\d+us \[-ENOENT\]  path_openat", text)
    assert re.search(r"\n\nDetaching\.\.\.\nDONE in \d+ ms\.\n$", text)
    assert not links_left(before)
    # Images of dead trampolines go when the last task has left them.
    for _ in range(20):
        left = set(kallsyms.read().trampolines()) - images
        if not left:
            break
        time.sleep(0.5)
    assert not left


def test_void_functions_by_trampolines(snoop: Snoop) -> None:
    """-F on functions that return nothing works (they defeat retsnoop's own -F)."""
    done = snoop("-F", "-S", "--json", "-e", "vfree", command=["ls", "/"])
    assert done.returncode == 0, done.stderr
    for session in sessions(done):
        assert session["stack"][-1]["result"] == {"text": "void"}


def test_unfiltered_stack_and_addresses(snoop: Snoop) -> None:
    """-C stacks.*: addresses in front, trampolines shown, decimal offsets."""
    done = snoop(
        *("-F", "-n", "cat", *OPEN, "-C", "stacks.unfiltered=y", "-C", "stacks.emit-addrs=1"),
        *("-C", "stacks.dec-offs=true"),
        command=["cat", MISSING],
    )
    assert re.search(r"  ffff[0-9a-f]{12} do_sys_openat2\+\d+ ", done.stdout)
    assert re.search(r" ~ffff[0-9a-f]{12} bpf_trampoline_\d+\+\d+ ", done.stdout)
