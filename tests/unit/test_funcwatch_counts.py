"""funcwatch without a kernel: counts, percentiles, functions, records, text, who is counted."""

from __future__ import annotations

import gc
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pybpf.features import Feature
from pybpf.kernel.functions import KernelFunction
from pybpf.kernel.tasks import process_of
from pybpf.tools.funcwatch import attach, filters
from pybpf.tools.funcwatch.addresses import Address
from pybpf.tools.funcwatch.cli import parse
from pybpf.tools.funcwatch.counts import NOTHING, SLOTS, Counts, error_name, slot_bounds
from pybpf.tools.funcwatch.follow import Globs, read_globs
from pybpf.tools.funcwatch.functions import Flag, Function, Functions, flags_of
from pybpf.tools.funcwatch.metrics import Moment
from pybpf.tools.funcwatch.options import Options
from pybpf.tools.funcwatch.output import JsonOutput, Report, TextOutput
from pybpf.tools.funcwatch.prometheus import Prometheus
from pybpf.tools.funcwatch.reader import WORDS, Reader, decode, longest_in
from pybpf.tools.funcwatch.records import record
from pybpf.tools.funcwatch.table import Table
from pybpf.tools.funcwatch.text import duration, histogram
from pybpf.trampoline.model import Model, Return

LATENCIES = st.lists(st.integers(0, 1 << 44), min_size=1, max_size=200)


def counted(latencies: list[int], errors: dict[int, int] | None = None) -> Counts:
    """What funcwatch.bpf.c makes of these latencies."""
    slots = [0] * SLOTS
    for ns in latencies:
        slots[min(max(ns.bit_length() - 1, 0), SLOTS - 1)] += 1
    by = errors or {}
    return Counts(
        len(latencies),
        len(latencies),
        sum(by.values()),
        sum(latencies),
        max(latencies, default=0),
        tuple(slots),
        by,
    )


# -- counts -----------------------------------------------------------------


@given(LATENCIES, st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
@example([*[0] * 8, 1 << SLOTS - 1, 3 << SLOTS - 1], 0.9)
def test_a_percentile_is_in_the_slot_of_the_true_one(latencies: list[int], share: float) -> None:
    """Of the call that has exactly this rank; never above the maximum."""
    ranked = sorted(latencies)
    rank = next(n for n in range(1, len(ranked) + 1) if n >= share * len(ranked))
    true = ranked[rank - 1]
    found = counted(latencies).percentile(share)
    assert found is not None
    slot = min(max(true.bit_length() - 1, 0), SLOTS - 1)
    low, high = slot_bounds(slot)
    if slot < SLOTS - 1:  # the last one has no end
        assert found <= high
    assert low <= found <= max(latencies)


@given(LATENCIES)
def test_percentiles_rise(latencies: list[int]) -> None:
    counts = counted(latencies)
    found = [counts.percentile(share) for share in (0.1, 0.5, 0.9, 0.99, 1)]
    known = [value for value in found if value is not None]
    assert known == sorted(known) and len(known) == 5


def test_no_call_has_no_percentile() -> None:
    """Unknown, not 0: what has begun and not returned has no latency."""
    assert NOTHING.percentile(0.5) is None
    assert Counts(calls=3).percentile(0.99) is None


@given(LATENCIES, LATENCIES)
def test_an_interval_is_the_difference(first: list[int], then: list[int]) -> None:
    """And intervals add up to the whole."""
    before = counted(first, {2: 1, 4: 2})
    new = counted(then, {2: 2, 13: 5})
    whole = before + new
    assert whole == counted(first + then, {2: 3, 4: 2, 13: 5})
    interval = whole.since(before)
    assert (interval.calls, interval.timed, interval.total_ns) == (len(then),) * 2 + (sum(then),)
    assert interval.slots == new.slots and interval.by_errno == {2: 2, 13: 5}


def test_errors_by_name() -> None:
    counts = Counts(by_errno={2: 5, 11: 7, 4000: 5})
    assert list(counts.named_errors.items()) == [("EAGAIN", 7), ("ENOENT", 5), ("4000", 5)]
    assert error_name(512) == "ERESTARTSYS"


# -- reading the maps -------------------------------------------------------


class Maps:
    """Stands for a loaded funcwatch.bpf.o: per-CPU counts that a test sets."""

    def __init__(self, functions: int, cpus: int) -> None:
        self.cpus = cpus
        self.words = [[[0] * WORDS for _ in range(cpus)] for _ in range(functions)]
        self.errors: dict[tuple[int, int], list[int]] = {}
        self.globals = SimpleNamespace(epoch=1, errors_lost=0, unpaired=0, tasks_lost=0)
        self.during: list[tuple[int, int, int, int]] = []  # calls between epoch and reading
        self.maps = {
            "stats": SimpleNamespace(raw=SimpleNamespace(batches=self._stats)),
            "errors": SimpleNamespace(raw=SimpleNamespace(batches=self._errors)),
        }

    def call(self, function: int, cpu: int, ns: int, error: int = 0, late: bool = False) -> None:
        """What a call does, as the C program says.

        :param late: it looked at the epoch before the last reading, and wrote after it
        """
        words = self.words[function][cpu]
        words[0] += 1
        words[1] += 1
        words[3] += ns
        words[4] = max(words[4], ns)
        epoch = self.globals.epoch - late
        at = 5 + epoch % 2 * 2
        if words[at] != epoch:
            words[at : at + 2] = [epoch, ns]
        words[at + 1] = max(words[at + 1], ns)
        words[9 + min(max(ns.bit_length() - 1, 0), SLOTS - 1)] += 1
        if error:
            words[2] += 1
            self.errors.setdefault((function, error), [0] * self.cpus)[cpu] += 1

    def _batches(self, rows: list[tuple[bytes, bytes]], size: int) -> Iterator[Any]:
        for at in range(0, len(rows), size):
            some = rows[at : at + size]
            yield (
                memoryview(b"".join(key for key, _ in some)),
                memoryview(b"".join(value for _, value in some)),
                len(some),
            )

    def _stats(self) -> Iterator[Any]:
        for call in self.during:
            self.call(*call)
        rows = [
            (
                number.to_bytes(4, "little"),
                b"".join(w.to_bytes(8, "little") for cpu in cpus for w in cpu),
            )
            for number, cpus in enumerate(self.words)
        ]
        return self._batches(rows, 3)

    def _errors(self) -> Iterator[Any]:
        rows = [
            (
                function.to_bytes(4, "little") + error.to_bytes(4, "little"),
                b"".join(count.to_bytes(8, "little") for count in counts),
            )
            for (function, error), counts in self.errors.items()
        ]
        return self._batches(rows, 2)


CALLS = st.lists(
    st.tuples(
        st.integers(0, 6), st.integers(0, 2), st.integers(0, 1 << 41), st.sampled_from([0, 2, 11])
    ),
    max_size=40,
)


@given(st.lists(CALLS, max_size=5))
def test_readings_are_what_was_called_since(
    intervals: list[list[tuple[int, int, int, int]]],
) -> None:
    """Calls on any CPU in any interval: each interval has its own, with its own maximum."""
    obj = Maps(7, 3)
    reader = Reader(obj)  # type: ignore[arg-type]
    whole: dict[int, Counts] = {}
    for calls in intervals:
        for call in calls:
            obj.call(*call)
        true: dict[int, Counts] = {}
        for function in {call[0] for call in calls}:
            own = [call for call in calls if call[0] == function]
            errors: dict[int, int] = {}
            for _, _, _, error in own:
                if error:
                    errors[error] = errors.get(error, 0) + 1
            true[function] = counted([ns for _, _, ns, _ in own], dict(sorted(errors.items())))
        assert reader.read() == true
        for function, counts in true.items():
            whole[function] = whole.get(function, NOTHING) + counts
    assert {number: reader.total(number) for number in whole} == whole
    assert reader.read() == {} and reader.total(99) is NOTHING


@given(st.lists(st.tuples(CALLS, CALLS, CALLS), max_size=5))
@example([([(0, 0, 14, 0)], [(0, 0, 12, 0)], [])])
@example([([], [(0, 0, 14, 0)], []), ([(0, 0, 13, 0)], [(0, 0, 12, 0)], [(0, 1, 15, 0)])])
def test_calls_that_return_while_it_reads(intervals: list[tuple[Any, Any, Any]]) -> None:
    """None is lost. The longest of all is exact and in an interval; others are so to a slot."""
    obj = Maps(7, 3)
    reader = Reader(obj)  # type: ignore[arg-type]
    whole: dict[int, list[int]] = {}
    told: dict[int, int] = {}
    for late, before, during in intervals:
        for call in late:
            obj.call(*call, late=True)
        for call in before:
            obj.call(*call)
        obj.during = during
        true: dict[int, list[int]] = {}
        for function, _, ns, _ in [*late, *before, *during]:
            true.setdefault(function, []).append(ns)
            whole.setdefault(function, []).append(ns)
        found = reader.read()
        assert found.keys() == true.keys()
        for number, counts in found.items():
            alone = counted(true[number])
            assert (counts.calls, counts.slots) == (alone.calls, alone.slots)
            low, high = slot_bounds(max(n for n, count in enumerate(counts.slots) if count))
            assert low <= counts.max_ns < max(high, max(whole[number]) + 1)
            assert (counts.percentile(0.99) or 0) <= counts.max_ns
            told[number] = max(told.get(number, 0), counts.max_ns)
    assert told == {number: max(latencies) for number, latencies in whole.items()}
    for number, longest in told.items():
        assert reader.total(number).max_ns == longest


def test_a_call_that_returns_later() -> None:
    """Called in one interval, returned in the next: latency and maximum are of the second."""
    obj = Maps(1, 1)
    reader = Reader(obj)  # type: ignore[arg-type]
    obj.words[0][0][0] = 1
    assert reader.read() == {0: Counts(calls=1)}
    obj.call(0, 0, 1000)
    obj.words[0][0][0] = 1
    interval = reader.read()[0]
    assert (interval.calls, interval.timed, interval.max_ns) == (0, 1, 1000)


class Discard(io.StringIO):
    """Takes any amount of text."""

    def write(self, text: str) -> int:
        return len(text)


def test_memory_is_flat_for_an_hour() -> None:
    """3,600 readings, printed, drawn and published: nothing of an interval stays."""
    obj = Maps(2, 2)
    reader, table, page = Reader(obj), Table(0), Prometheus(Address("127.0.0.1", 0))  # type: ignore[arg-type]
    outputs = [JsonOutput(Discard(), 0), TextOutput(Discard(), 20)]

    def seconds(count: int) -> int:
        for second in range(count):
            for call in range(3):
                obj.call(call % 2, second % 2, 1 << second % SLOTS, second % 3)
            rows = [(OPEN if number else EXT, c) for number, c in reader.read().items()]
            for output in outputs:
                output.interval(Report(rows, second, 1.0))
            table.update(rows, 1.0)
            page.publish(Moment(rows, 0, second, 2, 0, 0))
        gc.collect()
        return sys.getallocatedblocks()

    try:
        early = seconds(120)
        # A number kept for each interval would be 3,480. Threads of other tests may take some.
        assert seconds(3480) - early < 1700
    finally:
        page.close()


def test_a_call_that_is_in_no_slot_yet_has_no_latency() -> None:
    """It returned while the maps were read: neither a percentile nor a maximum, until the next."""
    half = decode([[1, 1, 0, 9, 9, 0, 0, 0, 0, *[0] * SLOTS]], {})
    assert half.timed == 1 and half.percentile(0.5) is half.known_max_ns is None
    whole = decode([[1, 1, 0, 9, 9, 0, 0, 0, 0, 1, *[0] * (SLOTS - 1)]], {})
    assert whole.known_max_ns == 9


def test_counters_pass_32_bits() -> None:
    words = [1 << 40, 1 << 40, 1 << 33, 1 << 63, 1 << 50, 0, 0, 5, 7, 1 << 40, *[0] * (SLOTS - 1)]
    counts = decode([words, words], {})
    assert (counts.total_ns, counts.calls, counts.max_ns) == (1 << 64, 1 << 41, 1 << 50)
    assert longest_in([words], 5) == 7 and longest_in([words], 6) == 0


# -- functions --------------------------------------------------------------


def test_numbers_and_cookies() -> None:
    """A static name twice gives two functions that can be told apart; a reload gives none."""
    short = Model(1, Return.INT, 4, True, 1)
    functions = Functions(
        [
            KernelFunction("a", "", 0x10, 1, short),
            KernelFunction("show", "", 0x20),
            KernelFunction("show", "", 0x30),
            KernelFunction("show", "mod", 0x40),
        ]
    )
    assert [f.label for f in functions] == ["a", "show@0x20", "show@0x30", "show [mod]"]
    short_cookie = functions.cookie(KernelFunction("a", "", 0x10, 1, short), 3)
    assert short_cookie == Flag.INT4 << 32 | 3 << 40
    assert functions.cookie(KernelFunction("show", "", 0x30), 1) == 2 | Flag.GUESS << 32 | 1 << 40
    assert functions.number(KernelFunction("show", "mod", 0x4440)) == 3, "loaded anew"
    assert functions.number(KernelFunction("new", "mod", 0x50)) == 4 == len(functions) - 1


@pytest.mark.parametrize(
    ("model", "flag"),
    [
        (None, Flag.GUESS),
        (Model(0, Return.VOID, 0, False, 0), Flag.NONE),
        (Model(0, Return.INT, 4, True, 0), Flag.INT4),
        (Model(0, Return.INT, 4, False, 0), Flag.NONE),
        (Model(0, Return.INT, 8, True, 0), Flag.INT8),
        (Model(0, Return.INT, 2, True, 0), Flag.NONE),
        (Model(0, Return.BOOL, 1, False, 0), Flag.NONE),
        (Model(0, Return.POINTER, 8, False, 0), Flag.INT8),
        (Model(0, Return.ENUM, 4, True, 0), Flag.INT4),
    ],
)
def test_how_a_return_value_tells_an_error(model: Model | None, flag: Flag) -> None:
    assert flags_of(model) is flag


@pytest.mark.parametrize(
    ("features", "mechanism", "wanted"),
    [
        (set(), "auto", ("watch_pair", "auto")),
        ({Feature.KPROBE_SESSION}, "auto", ("watch", "kprobe_multi")),
        ({Feature.KPROBE_SESSION}, "trampoline", ("watch_pair", "trampoline")),
        ({Feature.KPROBE_SESSION}, "kprobe", ("watch_pair", "kprobe")),
        ({Feature.KPROBE_SESSION, Feature.FSESSION}, "auto", ("watch", "auto")),
        ({Feature.TRACING_MULTI, Feature.FSESSION}, "trampoline", ("watch", "trampoline")),
    ],
)
def test_session_cookies_are_used_where_they_are(
    features: set[Feature], mechanism: str, wanted: tuple[str, str]
) -> None:
    facts: Any = SimpleNamespace(supports=features.__contains__)
    assert attach.program_for(mechanism, facts) == wanted


# -- output -----------------------------------------------------------------

OPEN = Function(0, "do_open", "")
EXT = Function(1, "ext4_read", "ext4")


def test_a_record_has_the_pinned_fields() -> None:
    counts = counted([1000, 2000, 3000], {2: 1})
    value = record(EXT, counts, time=1.23456, final=False)
    assert list(value) == [
        "time", "function", "module", "calls", "errors", "p50_ns", "p90_ns", "p99_ns", "max_ns",
    ]  # fmt: skip
    assert value["errors"] == {"ENOENT": 1} and value["max_ns"] == 3000 and value["time"] == 1.235
    assert (value["function"], value["module"], value["calls"]) == ("ext4_read", "ext4", 3)
    last = record(OPEN, Counts(calls=1), time=1, final=True)
    assert last["final"] is True and last["max_ns"] is None and last["p50_ns"] is None


def test_json_lines() -> None:
    out = io.StringIO()
    output = JsonOutput(out, 1)
    rows = [(EXT, counted([5])), (OPEN, Counts(calls=1))]
    output.interval(Report(rows, 1, 1))
    output.total(Report([*rows, (OPEN, NOTHING)], 2, 1))
    values = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [v["function"] for v in values] == ["ext4_read", "ext4_read", "do_open", "do_open"]
    assert [v.get("final", False) for v in values] == [False, True, True, True]


def test_lines_of_text() -> None:
    """No colour and no width in a pipe; what was not called is not shown."""
    out = io.StringIO()
    output = TextOutput(out, 1)
    rows = [(EXT, counted([1000] * 300, {2: 3, 13: 1})), (OPEN, Counts(calls=1))]
    output.total(Report([*rows, (OPEN, NOTHING)], 0, 2.0))
    heading, names, cells, last = out.getvalue().splitlines()
    assert heading == "Total of 2.0 s: 301 calls of 2 functions, 1 shown"
    assert " ".join(names.split()) == "FUNCTION CALLS CALLS/S ERRORS P50 P90 P99 MAX BY ERROR"
    assert " ".join(cells.split()) == (
        "ext4_read [ext4] 300 150 4 768ns 972ns 1us 1us ENOENT 3, EACCES 1"
    )
    assert last == ""


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (None, "-"),
        (0, "0ns"),
        (999, "999ns"),
        (1000, "1us"),
        (1534, "1.53us"),
        (999_949, "1ms"),
        (123_456_789, "123ms"),
        (59_000_000_000, "59s"),
        (5_000_000_000_000, "5000s"),
    ],
)
def test_durations(ns: int | None, text: str) -> None:
    assert duration(ns) == text


def test_a_histogram() -> None:
    assert histogram(NOTHING) == ["no call has returned yet"]
    lines = histogram(counted([1, 5, 6, 7]), width=3)
    assert [line.split() for line in lines] == [
        ["0ns", "-", "2ns", "1", "#"],
        ["2ns", "-", "4ns", "0"],
        ["4ns", "-", "8ns", "3", "###"],
    ]


# -- command line and filters ----------------------------------------------


def test_command_line() -> None:
    assert parse(["vfs_*"]) == Options(("vfs_*",))
    said = "a b -d c --deny d --interval .5 --duration 3 --top 0 --json -p 1 -p 2 --comm x"
    more = [
        "--prometheus",
        "9",
        "--otlp",
        "http://c",
        "--max-overhead",
        "1.5",
        "--measure",
        "2",
        "-f",
        "g",
    ]
    assert parse(
        [*said.split(), "--cgroup", "/c", "--mechanism", "kprobe", "-v", *more, "--", "ls", "-l"]
    ) == (
        Options(
            ("a", "b"),
            ("c", "d"),
            0.5,
            3.0,
            0,
            True,
            (1, 2),
            ("x",),
            "/c",
            "kprobe",
            True,
            prometheus=Address("127.0.0.1", 9),
            otlp="http://c/v1/metrics",
            max_overhead=0.015,
            measure=2.0,
            file="g",
            command=("ls", "-l"),
        )
    )


@pytest.mark.parametrize(
    "said",
    [
        "",
        "-d a",
        "a --max-overhead 0",
        "a --interval 0",
        "a --interval nan",
        "a --top -1",
        "a -p 0",
        "a --",
        "a -p x",
    ],
)
def test_wrong_command_lines(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(said.split())
    assert ended.value.code == 2
    assert "usage: funcwatch" in capsys.readouterr().err


def test_a_file_of_globs() -> None:
    text = "vfs_*  # files\n\n! vfs_read\n#x\n  mod:*\n!a\n"
    assert read_globs(text) == Globs(("vfs_*", "mod:*"), ("vfs_read", "a"))
    assert Globs(("x",)) + Globs(("y",), ("z",)) == Globs(("x", "y"), ("z",))


def test_cgroups(tmp_path: Path) -> None:
    """The level counts from the root of the hierarchy, which may not be what is mounted."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    line = f"30 20 0:26 %s {tmp_path} rw shared:9 - cgroup2 cgroup2 rw"
    number = os.stat(tmp_path / "a/b").st_ino
    found = filters.find_cgroup(str(tmp_path / "a/b"), ["29 20 0:5 / / rw - ext4 x rw", line % "/"])
    assert found == filters.Cgroup(number, 2)
    assert filters.find_cgroup(str(tmp_path / "a/b/"), [line % "/lxc/1"]).level == 4
    assert filters.find_cgroup(str(tmp_path), [line % "/"]).level == 0
    with pytest.raises(ValueError, match="not a directory of a cgroup2 mount"):
        filters.find_cgroup("/proc", [line % "/"])
    with pytest.raises(FileNotFoundError):
        filters.find_cgroup(str(tmp_path / "c"), [line % "/"])


def test_processes() -> None:
    assert process_of(os.getpid()) == os.getpid()
    assert process_of(1 << 30) is None
    assert filters.comm_bytes("a" * 20) == b"a" * 15 + b"\0"
