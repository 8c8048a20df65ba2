"""retsnoop's output: result text, stack and call layouts, composed by hand."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from pybpf.tools.retsnoop import jsonlines, render, stacks
from pybpf.tools.retsnoop.events import Call, End, Frame, Return
from pybpf.tools.retsnoop.functions import Flag, Function, format_result
from pybpf.tools.retsnoop.sessions import Session
from pybpf.tools.retsnoop.stacks import Place
from tests.support.stacklines import stack_lines

OPEN, FILP, PATH, ALLOC = 0, 1, 2, 3
FUNCTIONS = [
    Function(0, "do_sys_openat2", addr=0x1000, flags=Flag.ENTRY, ret_size=8),
    Function(1, "do_filp_open", addr=0x2000, flags=Flag.PTR, ret_size=8),
    Function(2, "path_openat", addr=0x3000, flags=Flag.PTR, ret_size=8),
    Function(3, "alloc_empty_file", addr=0x4000, flags=Flag.PTR, ret_size=8),
]


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def end(*frames: Frame, **more: object) -> End:
    fields: dict[str, object] = {
        "session": 1,
        "key": 812,
        "failed": True,
        "discard": False,
        "unfinished": False,
        "start": 100_200_345,
        "end": 101_700_999,
        "tid": 812,
        "tgid": 811,
        "records": 0,
        "dropped": 0,
        "missed": 0,
        "deep": 0,
        "comm": "cat",
        "leader_comm": "sh",
        "frames": frames,
    }
    return End(**(fields | more))  # type: ignore[arg-type]


def test_names_cannot_steer_the_terminal() -> None:
    """Commands and symbols with escape sequences and line ends, in the stack and in the trace."""
    evil = "a\x1b[2J\nb"
    functions = [Function(0, evil, addr=0x1000, flags=Flag.ENTRY, ret_size=8)]
    frame = Frame(0, True, 1000, -2)
    trace = (Call(1, 812, 0, 0, 0, 1), Return(1, 812, 1, 0, 0, 1000, -2))
    session = Session(end(frame, comm=evil, leader_comm=evil, records=2), trace=trace)
    rows = list(stacks.merge([Place(0x1005, evil, start=0x1000)], (frame,), functions))
    text = render.session_text(
        session,
        functions,
        clock=render.Clock(0),
        trace=True,
        stack="\n".join(stack_lines(rows, render.Style())),
    )
    assert "\x1b" not in text
    assert text.count(r"a\x1b[2J\nb") == 4  # command, leader, call and return in one, frame
    assert all(line.isprintable() for line in text.split("\n"))


# -- results ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "size", "raw", "text"),
    [
        (Flag.VOID | Flag.NOFAIL, 0, 123, "[void]"),
        (Flag.PTR, 8, 0, "[NULL]"),
        (Flag.PTR, 8, -2, "[-ENOENT]"),
        (Flag.PTR, 8, -0xE9999999999B0, "[0xfff1666666666650]"),
        (Flag.PTR, 8, 77, "[0x4d]"),
        (Flag.BOOL | Flag.NOFAIL, 1, 0x1234500, "[false]"),
        (Flag.BOOL | Flag.NOFAIL, 1, 0x1234501, "[true]"),
        (Flag.SIGNEXT, 4, 0xFFFFFFFE, "[-ENOENT]"),
        (Flag.SIGNEXT, 4, 0x7700000005, "[5]"),
        (Flag(0), 8, -4095, "[-4095]"),
        (Flag(0), 8, -4096, "[-4096]"),
        (Flag(0), 8, -524, "[-ENOTSUPP]"),
        (Flag(0), 8, -(1 << 30), "[-1073741824]"),
        (Flag(0), 8, -(1 << 30) - 1, "[0xffffffffbfffffff]"),
        (Flag(0), 8, (1 << 20) - 1, "[1048575]"),
        (Flag(0), 8, 1 << 20, "[0x100000]"),
        (Flag.NOFAIL, 4, 0x1FFFFFFFF, "[0xffffffff]"),
        (Flag.NOFAIL, 2, 0x10001, "[1]"),
        (Flag.GUESS, 0, 0xFFFFFFEA, "[-EINVAL]"),
        (Flag.GUESS, 0, -22, "[-EINVAL]"),
        (Flag.GUESS, 0, -0x777780000016, "[0xffff88887fffffea]"),
    ],
)
def test_results(flags: Flag, size: int, raw: int, text: str) -> None:
    """A return register becomes what its C type says; only the type's own bits count."""
    assert format_result(Function(0, "f", flags=flags, ret_size=size), raw) == text


# -- the stack --------------------------------------------------------------

CHAIN = (
    Frame(OPEN, True, 1_401_000, -2),
    Frame(FILP, True, 1_312_900, -2),
    Frame(PATH, True, 156_000, -2),
)
STACK = [  # innermost first
    Place(0x20C4, "do_filp_open", "", 0x2000),
    Place(0x10AE, "do_sys_openat2", "", 0x1000),
    Place(0x9087, "do_syscall_64", "", 0x9000),
    Place(0xA076, "entry_SYSCALL_64_after_hwframe", "", 0xA000),
]

STACK_TEXT = """\
00:00:00.100200 -> 00:00:00.101700 TID/PID 812/811 (cat/sh):

                     entry_SYSCALL_64_after_hwframe+0x76  |
                     do_syscall_64+0x87                   |
   1401us [-ENOENT]  do_sys_openat2+0xae                  |
   1312us [-ENOENT]  do_filp_open+0xc4                    |
!   156us [-ENOENT]  path_openat                          |


"""


def test_stack_layout() -> None:
    """Marks, right-aligned durations, padded results and symbols, block ends in two empty lines."""
    rows = list(stacks.merge(STACK[::-1], CHAIN, FUNCTIONS))
    text = render.session_text(
        Session(end(*CHAIN)),
        FUNCTIONS,
        clock=render.Clock(0),
        trace=False,
        stack="\n".join(stack_lines(rows, render.Style())),
    )
    # The source column is empty without debug info; its blanks are printed all the same.
    assert text == STACK_TEXT.replace("|", "")


def test_stack_with_stitched_and_unfinished_frames() -> None:
    """A chain put back is marked, what has not returned shows dots."""
    frames = (
        Frame(OPEN, False, 0, 0),
        Frame(FILP, True, 5_344_000, -2, stitched=True),
        Frame(PATH, True, 5_295_000, 0, stitched=True),
    )
    rows = list(stacks.merge(STACK[:2][::-1], frames, FUNCTIONS))
    assert [line.rstrip() for line in stack_lines(rows, render.Style())] == [
        "      ... [...]      do_sys_openat2+0xae",
        " ⌇ 5344us [-ENOENT]  do_filp_open+0xc4",
        "!⌇ 5295us [NULL]     path_openat",
    ]


def test_stack_styles() -> None:
    """Addresses in front, filtered frames marked, decimal offsets, unknown addresses, modules."""
    places = [
        Place(0xFFFFFFFF81001234),
        Place(0xFFFFFFFFA0000010, "nfs_open", "nfs", 0xFFFFFFFFA0000000),
        Place(0x20C4, "bpf_trampoline_6442", "bpf", 0x2000, filtered=True),
    ]
    rows = list(stacks.merge(places, [Frame(PATH, True, 1_000, -2)], FUNCTIONS))
    lines = list(stack_lines(rows, render.Style(addresses=True, decimal=True)))
    assert [line.rstrip() for line in lines] == [
        "                     ffffffff81001234 0xffffffff81001234",
        "                     ffffffffa0000010 nfs_open+16 [nfs]",
        "                    ~00000000000020c4 bpf_trampoline_6442+196 [bpf]",
        "!    1us [-ENOENT]                    path_openat",
    ]


def test_return_addresses_belong_to_the_call() -> None:
    """A return address just past a function's end is still inside the caller."""

    class Table:
        def lookup(self, addr: int) -> tuple[str, str, int] | None:
            return ("caller", "", 0x1000) if addr < 0x1100 else ("next", "", 0x1100)

    assert stacks.resolve([0x1100], Table()) == [Place(0x1100, "caller", "", 0x1000)]


def test_handlers_in_the_place_of_return_addresses() -> None:
    """An address that is the very start of a return handler means that handler."""

    class Table:
        def lookup(self, addr: int) -> tuple[str, str, int] | None:
            if addr < 0x1100:
                return ("ftrace_stub_direct_tramp", "", 0x10F0)
            return ("return_to_handler", "", 0x1100)

    (place,) = stacks.clean(stacks.resolve([0x1100], Table()))
    assert (place.name, place.filtered) == ("return_to_handler", True)


def test_tracing_frames_are_taken_out() -> None:
    """Helper, programs, trampolines and the entry a trampoline was called from disappear."""
    prog, tramp = "bpf_prog_0123456789abcdef_clone_exit", "bpf_trampoline_6442450999"
    names = [
        ("bpf_get_stack_raw_tp", 0x10),
        (prog, 0x20),
        (tramp, 0x5A),
        ("path_openat", 9),  # called from behind endbr64
        ("do_filp_open", 0xC4),
        (tramp, 0x3C),
        ("do_filp_open", 5),
        ("do_sys_openat2", 0xAE),
        ("rethook_trampoline", 0),
        ("do_syscall_64", 0x87),
    ]
    places = [
        Place(0x1000 * i + off, name, "", 0x1000 * i) for i, (name, off) in enumerate(names, 1)
    ]
    kept = [p.name for p in stacks.clean(places) if not p.filtered]
    assert kept == ["do_filp_open", "do_sys_openat2", "do_syscall_64"]


def test_a_plain_stack_is_left_alone() -> None:
    """Without tracing frames even a return to func+5 stays."""
    places = [Place(0x1005, "a", "", 0x1000), Place(0x2040, "b", "", 0x2000)]
    assert [p for p in stacks.clean(places) if p.filtered] == []


def test_merge_marks_functions_without_frames() -> None:
    """A traced function missing in the middle does not displace those below it."""
    places = [STACK[1], STACK[0]]
    frames = [CHAIN[0], Frame(ALLOC, True, 1, 0), CHAIN[1], CHAIN[2]]
    rows = list(stacks.merge(places, frames, FUNCTIONS))
    assert [(r.function.name if r.function else None, r.place is not None) for r in rows] == [
        ("do_sys_openat2", True),
        ("alloc_empty_file", False),
        ("do_filp_open", True),
        ("path_openat", False),
    ]


def test_merge_of_a_lone_function() -> None:
    """The only traced function returned when its stack was taken: it comes below its callers."""
    rows = list(stacks.merge([STACK[3], STACK[2]], [CHAIN[2]], FUNCTIONS))
    assert [r.function.name if r.function else "" for r in rows] == ["", "", "path_openat"]


def test_merge_of_recursion() -> None:
    """Each call of a recursive function takes a frame of its own, outermost first."""
    places = [Place(0x1000 + i, "do_sys_openat2", "", 0x1000) for i in range(3)]
    frames = [Frame(OPEN, True, i, 0) for i in range(4)]
    rows = list(stacks.merge(places, frames, FUNCTIONS))
    assert [r.place.addr if r.place else None for r in rows] == [0x1000, 0x1001, 0x1002, None]


# -- the trace --------------------------------------------------------------

TRACE = (
    Call(1, 812, 0, OPEN, 0, 1),
    Call(1, 812, 1, FILP, 1, 2),
    Call(1, 812, 2, PATH, 2, 3),
    Call(1, 812, 3, ALLOC, 3, 4),
    Return(1, 812, 4, ALLOC, 3, 109_254, -0xEE554433230000),
    Return(1, 812, 5, PATH, 2, 342_954, -2),
    Return(1, 812, 6, FILP, 1, 410_024, -2),
    Return(1, 812, 7, OPEN, 0, 502_733, -2),
)

TRACE_TEXT = """\
FUNCTION CALLS                   RESULT                 DURATION
------------------------------   --------------------  ---------
→ do_sys_openat2
    → do_filp_open
        → path_openat
            ↔ alloc_empty_file   [0xff11aabbccdd0000]  109.254us
        ← path_openat            [-ENOENT]             342.954us
    ← do_filp_open               [-ENOENT]             410.024us
← do_sys_openat2                 [-ENOENT]             502.733us
"""


def test_trace_layout() -> None:
    """Arrows, indentation, a collapsed leaf, column rules; columns as wide as their cells."""
    lines = render.trace_lines(TRACE, 8, FUNCTIONS)
    assert [line.rstrip() for line in lines] == TRACE_TEXT.splitlines()


def test_trace_gaps_are_told() -> None:
    """Lost records in the middle and at the end each become a row that counts them."""
    lines = [line.rstrip() for line in render.trace_lines(TRACE[:3] + TRACE[5:6], 8, FUNCTIONS)]
    assert lines[2:] == [
        "→ do_sys_openat2",
        "    → do_filp_open",
        "        → path_openat",
        "        ‼ missing 2 records ‼   ...              ...",
        "        ← path_openat           [-ENOENT]  342.954us",
        "‼ missing 2 records ‼           ...              ...",
    ]


def test_calls_too_deep_to_be_kept_have_no_duration() -> None:
    """No frame remembers when they began: not 0.000us, and null in JSON."""
    trace = (
        Call(1, 1, 0, OPEN, 0, 100),
        Call(1, 1, 1, FILP, 1, 200),
        Return(1, 1, 2, FILP, 1, None, -2),
        Return(1, 1, 3, OPEN, 0, 900, -2),
    )
    lines = list(render.trace_lines(trace, 4, FUNCTIONS))
    assert lines[3].split()[-2:] == ["[-ENOENT]", "..."]
    value = jsonlines.session(
        Session(end(records=4), (), trace), FUNCTIONS, epoch=0, trace=True, rows=None
    )
    assert [event.get("duration_ns", "") for event in value["trace"]] == ["", "", None, 900]


def test_trace_indentation_is_capped() -> None:
    """Beyond 20 levels rows do not move further right."""
    deep = [Call(1, 1, i, OPEN, i, 0) for i in range(30)]
    lines = list(render.trace_lines(deep, 30, FUNCTIONS))
    assert lines[2 + 20].index("→") == lines[2 + 29].index("→") == 80


def test_blocks_order_and_warning() -> None:
    """Calls come before the stack, each after an empty line; lost records are told at the end."""
    session = Session(end(CHAIN[0], records=8, dropped=3), (), TRACE)
    text = render.session_text(
        session,
        FUNCTIONS,
        clock=render.Clock(1_000_000_000 * 3600),
        trace=True,
        stack="\n".join(stack_lines(list(stacks.merge([], CHAIN[:1], FUNCTIONS)), render.Style())),
    )
    lines = text.split("\n")
    assert lines[0].startswith("01:00:00.100200 -> ")
    assert lines[1] == "" and lines[2].startswith("FUNCTION CALLS")
    assert lines[11] == "" and lines[12].startswith("!  1401us [-ENOENT]  do_sys_openat2")
    assert lines[13].startswith("WARNING! Sample data incomplete! 3 records dropped.")
    assert lines[14:] == ["", "", ""]


# -- JSON -------------------------------------------------------------------


def test_json_session() -> None:
    """The same session as data: errno and value of results, frames with and without places."""
    rows = list(stacks.merge(STACK[::-1], CHAIN, FUNCTIONS))
    value = jsonlines.session(
        Session(end(*CHAIN), (), TRACE), FUNCTIONS, epoch=5, trace=True, rows=rows
    )
    assert (value["start_ns"], value["comm"], value["failed"]) == (100_200_350, "cat", True)
    assert value["stack"][1] == {
        "place": {"addr": "0x9087", "symbol": "do_syscall_64", "offset": 0x87, "module": ""}
    }
    deepest = value["stack"][-1]
    assert (deepest["place"], deepest["function"]) == (None, "path_openat")
    assert deepest["result"] == {"text": "-ENOENT", "value": -2, "errno": 2}
    assert [e["event"] for e in value["trace"]] == ["call"] * 4 + ["return"] * 4
    assert jsonlines.line(value).endswith("}\n") and jsonlines.line(value).count("\n") == 1


def test_colours() -> None:
    """On a terminal errors stand out; without the colours it is the same text."""
    rows = list(stacks.merge(STACK[::-1], CHAIN, FUNCTIONS))
    plain = render.session_text(
        Session(end(*CHAIN), (), TRACE),
        FUNCTIONS,
        clock=render.Clock(5),
        trace=True,
        stack="\n".join(stack_lines(rows, render.Style())),
    )
    text = render.coloured(plain)
    assert "\x1b[31m[-ENOENT]\x1b[0m" in text and text.startswith("\x1b[1m")
    assert re.sub(r"\x1b\[\d*m", "", text) == plain
