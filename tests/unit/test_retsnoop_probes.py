"""retsnoop's injected probes, interim stacks and stacks of programs."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from pybpf.btf import Btf
from pybpf.tools.retsnoop import render
from pybpf.tools.retsnoop.events import Call, Context, End, Frame, Hit, Return, Stack, decode
from pybpf.tools.retsnoop.functions import Flag, Function
from pybpf.tools.retsnoop.probes import (
    Field,
    Probe,
    context_text,
    expand,
    parse_format,
    raw_parameters,
    tracepoint_size,
)
from pybpf.tools.retsnoop.probespec import Spec, parse_spec
from pybpf.tools.retsnoop.sessions import Collector
from pybpf.tools.retsnoop.usage import UsageError

ROOT = Path(__file__).resolve().parents[2]

# As tracefs has it, shortened.
FORMAT = """\
name: sched_process_exec
ID: 312
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:__data_loc char[] filename;\toffset:8;\tsize:4;\tsigned:0;
\tfield:pid_t pid;\toffset:12;\tsize:4;\tsigned:1;
\tfield:char comm[16];\toffset:16;\tsize:16;\tsigned:0;
\tfield:const void * ptr;\toffset:32;\tsize:8;\tsigned:0;
\tfield:u8 mac[6];\toffset:40;\tsize:6;\tsigned:0;

print fmt: "filename=%s pid=%d", __get_str(filename), REC->pid
"""


@pytest.fixture(scope="module")
def btf() -> Btf:
    path = ROOT / "tests" / "data" / "vmlinux-6.12.107-cloud-amd64.btf.gz"
    return Btf(gzip.decompress(path.read_bytes()))


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("kprobe:vfs_read", Spec("kprobe", "vfs_read")),
        ("kprobe:vfs_read+0x10", Spec("kprobe", "vfs_read", offset=16)),
        ("kretprobe:vfs_*", Spec("kretprobe", "vfs_*")),
        ("tp:sched:sched_*", Spec("tp", "sched_*", "sched")),
        ("rawtp:sched_switch", Spec("rawtp", "sched_switch")),
    ],
)
def test_specs(text: str, spec: Spec) -> None:
    assert parse_spec(text) == spec


def expanded(*texts: str) -> list[str]:
    def functions(glob: str) -> Sequence[str]:
        return ["vfs_read", "vfs_write"] if glob == "vfs_*" else []

    probes = expand(
        [parse_spec(text) for text in texts],
        functions=functions,
        tracepoints=lambda: [("sched", "sched_switch"), ("sched", "sched_wakeup"), ("net", "x")],
        raw_tracepoints=lambda: ["sched_switch", "sys_enter"],
        describe=lambda probe: probe,
    )
    assert [probe.number for probe in probes] == list(range(1, len(probes) + 1))
    return [probe.label for probe in probes]


def test_globs_of_probes() -> None:
    """Each kind takes globs; exact names are taken as they are."""
    assert expanded("kprobe:vfs_*", "kretprobe:f", "kprobe:f+8") == [
        *("kprobe:vfs_read+0x0", "kprobe:vfs_write+0x0", "kretprobe:f", "kprobe:f+0x8"),
    ]
    assert expanded("tp:sched:*", "tp:*:x", "rawtp:sys_*") == [
        *("tp:sched:sched_switch", "tp:sched:sched_wakeup", "tp:net:x", "rawtp:sys_enter"),
    ]
    for nothing in ("kprobe:no*", "tp:no*:x", "rawtp:no*"):
        with pytest.raises(UsageError, match="nothing matches"):
            expanded(nothing)


def test_the_fields_of_a_tracepoint() -> None:
    """Those behind the common ones; strings elsewhere in the record are found there."""
    fields = parse_format(FORMAT)
    assert fields == (
        Field("filename", 8, 4, False, True, True, True),
        Field("pid", 12, 4, True),
        Field("comm", 16, 16, False, True, True),
        Field("ptr", 32, 8, False),
        Field("mac", 40, 6, False, False, True),
    )
    assert tracepoint_size(fields) == 46 + 512
    head = struct.pack("<8xIi16sQ6s", 46 | 8 << 16, -1, b"sh", 1 << 40, bytes(range(6)))
    probe = Probe(1, "tp", "sched_process_exec", "sched", size=558, fields=fields)
    assert context_text(probe, head + b"/bin/sh\0", None) == [
        ("filename", "'/bin/sh'"),
        ("pid", "-1"),
        ("comm", "'sh'"),
        ("ptr", "0x10000000000"),
        ("mac", "[00 01 02 03 04 05]"),
    ]
    assert context_text(probe, b"", None) == [("...", "(empty)")]


def test_the_arguments_of_a_raw_tracepoint(btf: Btf) -> None:
    """Names and types from BTF; the kernel's own first argument is left out."""
    names = [name for name, _ in raw_parameters(btf, "sched_switch")]
    assert names == ["preempt", "prev", "next", "prev_state"]
    probe = Probe(1, "rawtp", "sched_switch", size=32)
    raw = struct.pack("<4Q", 1, 0xFFFF888000000000, 0, 0xFF00000001)
    assert context_text(probe, raw, btf) == [
        ("preempt", "true"),
        ("prev", "0xffff888000000000"),
        ("next", "NULL"),
        ("prev_state", "1"),
    ]
    assert raw_parameters(btf, "no_such") == ()


def test_the_registers_of_a_kprobe(btf: Btf) -> None:
    raw = bytearray(168)
    raw[112:120] = struct.pack("<Q", 5)  # rdi
    ((name, text),) = context_text(Probe(1, "kprobe", "f"), bytes(raw), btf)
    assert (name, text) == ("regs", "{.di=5}")


def test_records() -> None:
    hit = struct.pack("<IIiIIIQq", 8, 7, 812, 5, 3, 2, 999, 0)
    assert decode(hit) == Hit(7, 812, 5, 3, 2, 999)
    context = struct.pack("<IIiIII", 9, 7, 812, 5, 3, 4) + b"abcd"
    assert decode(context) == Context(7, 812, 5, 3, b"abcd")
    user = struct.pack("<IIiI2Q", 5, 7, 812, 16, 1, 2)
    assert decode(user) == Stack(7, 812, (1, 2), user=True)


def end(*, interim: bool = False, dropped: int = 0) -> End:
    frame = Frame(0, not interim, 1000, -2)
    return End(1, 8, True, False, False, 0, 1, 8, 8, 4, dropped, 0, 0, "c", "c", (frame,), interim)


def test_interim_ends_do_not_end_a_session() -> None:
    """The session is given as far as it came, and again when it is over; its stack is used once."""
    collector = Collector()
    collector.feed(Stack(1, 8, (1, 2)))
    first = collector.feed(end(interim=True))
    assert first is not None and first.end.interim and first.stack == (1, 2)
    collector.feed(Call(1, 8, 0, 0, 0, 0))
    last = collector.feed(end())
    assert last is not None and not last.end.interim
    assert (last.stack, len(last.trace)) == ((), 1)
    assert collector.open == 0


FUNCTIONS = [Function(0, "f", flags=Flag.ENTRY | Flag.SIGNEXT)]
TRACE = (Call(1, 8, 0, 0, 0, 0), Hit(1, 8, 1, 7, 1, 0), Return(1, 8, 2, 0, 0, 5000, -2))


def test_a_probe_in_the_trace() -> None:
    """A row of its own at its depth, with its context; the call around it is not collapsed."""
    probes = render.Probes({7: "tp:sched:sched_switch"}, lambda probe, seq: [("prev", "5")])
    lines = list(render.trace_lines(TRACE, 3, FUNCTIONS, None, probes=probes))
    assert [line.split() for line in lines[2:]] == [
        ["→", "f"],
        ["◎", "tp:sched:sched_switch", "prev=5"],
        ["←", "f", "[-ENOENT]", "5.000us"],
    ]
    assert lines[3].startswith("    ◎ ")


def test_a_lost_context_does_no_harm() -> None:
    """The context's record was dropped: said, where upstream reads through a null pointer."""
    probes = render.Probes({7: "p"}, lambda probe, seq: None)
    lines = list(render.trace_lines(TRACE, 3, FUNCTIONS, None, probes=probes))
    assert lines[3].endswith("... data missing ...")
