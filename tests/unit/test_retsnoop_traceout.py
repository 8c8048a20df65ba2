"""retsnoop's --trace-out: files as the Trace Event Format describes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pybpf.tools.retsnoop.events import Arg, Call, End, Hit, Return
from pybpf.tools.retsnoop.functions import Flag, Function
from pybpf.tools.retsnoop.sessions import Session
from pybpf.tools.retsnoop.traceout import TraceFile, events_of

FUNCTIONS = [
    Function(0, "outer", flags=Flag.ENTRY | Flag.SIGNEXT),
    Function(1, "inner", "mod", flags=Flag.SIGNEXT),
]
END = End(3, 8, True, False, False, 1000, 9000, 8, 7, 6, 0, 0, 0, "thread", "leader", ())

# "Trace Event Format", Google: the keys that each phase must have, and their types.
REQUIRED: dict[str, dict[str, type | tuple[type, ...]]] = {
    "X": {"name": str, "cat": str, "ts": (int, float), "dur": (int, float), "pid": int, "tid": int},
    "i": {"name": str, "ts": (int, float), "pid": int, "tid": int, "s": str},
    "M": {"name": str, "pid": int, "tid": int, "args": dict},
}


def check(document: Any) -> list[dict[str, Any]]:
    """That a document is of the JSON Object Format; gives its events."""
    assert isinstance(document, dict) and isinstance(document["traceEvents"], list)
    assert document["displayTimeUnit"] in ("ms", "ns")
    for event in document["traceEvents"]:
        for key, kind in REQUIRED[event["ph"]].items():
            assert isinstance(event[key], kind), (key, event)
        if event["ph"] == "X":
            assert event["dur"] >= 0
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
        if event["ph"] == "i":
            assert event["s"] in ("g", "p", "t")
    return list(document["traceEvents"])


def test_a_file(tmp_path: Path) -> None:
    """Calls with results and arguments, a probe, names once a thread; valid with none too."""
    trace = (
        Call(3, 8, 0, 0, 0, 1000),
        Call(3, 8, 1, 1, 1, 2000),
        Hit(3, 8, 2, 5, 2, 2500),
        Return(3, 8, 3, 1, 1, 1500, -2),
        Return(3, 8, 4, 0, 0, 5000, 0),
    )
    session = Session(END, trace=trace, args={1: (Arg(0, 1),)})
    path = tmp_path / "out.json"
    with TraceFile(path.open("w")) as out:
        for _ in range(2):
            out.write(
                session,
                FUNCTIONS,
                arguments=lambda func, call: [("fd", "3")] if call == 1 else None,
                labels={5: "tp:a:b"},
            )
    events = check(json.loads(path.read_text()))
    assert [e["name"] for e in events[:2]] == ["process_name", "thread_name"]
    assert [e["args"]["name"] for e in events[:2]] == ["leader", "thread"]
    assert events[2:5] == events[5:]
    probe, inner, outer = events[2:5]
    assert probe == {
        "name": "tp:a:b",
        "cat": "kernel",
        "ph": "i",
        "ts": 2.5,
        "pid": 7,
        "tid": 8,
        "s": "t",
        "args": {},
    }
    assert (inner["name"], inner["ts"], inner["dur"]) == ("inner [mod]", 2.0, 1.5)
    assert inner["args"] == {"session": 3, "result": "-ENOENT", "arguments": {"fd": "3"}}
    assert (outer["name"], outer["ts"], outer["dur"]) == ("outer", 1.0, 5.0)

    with TraceFile((tmp_path / "none.json").open("w")):
        pass
    assert check(json.loads((tmp_path / "none.json").read_text())) == []


def test_a_call_that_never_returned() -> None:
    """Its event goes to the end of the session, and says so."""
    (event,) = events_of(Session(END, trace=(Call(3, 8, 0, 0, 0, 4000),)), FUNCTIONS)
    assert (event["dur"], event["args"]) == (5.0, {"session": 3, "finished": False})


def test_a_call_whose_return_was_lost_ends_with_the_one_around_it() -> None:
    """Not at the end of the session: viewers need events of a thread to be nested."""
    trace = (
        Call(3, 8, 0, 0, 0, 1000),
        Call(3, 8, 1, 1, 1, 2000),
        Call(3, 8, 2, 1, 2, 2500),
        Return(3, 8, 4, 1, 1, 1500, -2),
        Call(3, 8, 5, 1, 1, 6000),
        Call(3, 8, 6, 1, 2, 6500),
        Return(3, 8, 7, 1, 2, None, 0),
        Return(3, 8, 8, 1, 1, 700, 0),
        Return(3, 8, 9, 0, 0, 8000, 0),
    )
    events = list(events_of(Session(END, trace=trace), FUNCTIONS))
    spans = sorted((e["ts"], e["ts"] + e["dur"], e["args"].get("finished", True)) for e in events)
    assert spans == [
        (1.0, 9.0, True),
        (2.0, 3.5, True),
        (2.5, 3.5, False),
        (6.0, 6.7, True),
        (6.5, 6.5, True),
    ]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1), st.integers(0, 4))), st.data())
def test_whatever_was_lost(calls: list[tuple[bool, int, int]], data: st.DataObject) -> None:
    """With any records missing the events are still valid, and one a call at most."""
    trace: list[Call | Return | Hit] = []
    for seq, (enters, func, depth) in enumerate(calls):
        if enters:
            trace.append(Call(3, 8, seq, func, depth, 1000 + seq))
        else:
            trace.append(Return(3, 8, seq, func, depth, data.draw(st.integers(0, 99)), 0))
    events = list(events_of(Session(END, trace=tuple(trace)), FUNCTIONS))
    check({"displayTimeUnit": "ns", "traceEvents": events})
    assert len(events) == sum(isinstance(event, Call) for event in trace)
