"""What counts as a true end of a tool, and that chance leaves no tool and no ending out."""

from __future__ import annotations

import pytest

from tests.support.endings import ENDINGS, LIMITS, NONE, TOOLS, Case, End, Tool, draw, wrong_ends

PLAIN = Tool("features --json", 1, json=True)
LINES = Tool("funcwatch --json vfs_read", 1, json=True)
CAT = Tool("retsnoop -- cat /no/such/file", 1)
SCRIPT = Tool("tools/examples/opensnoop.py 1", 1)


def test_every_tool_ending_and_limit_comes_up() -> None:
    cases = draw(7, 60)
    assert cases == draw(7, 60) != draw(8, 60)
    assert {case.tool for case in cases} == set(TOOLS)
    assert {case.ending for case in cases} == {*ENDINGS, NONE}
    assert {case.limit for case in cases} == {"", *LIMITS}
    assert sum(case.ending != NONE for case in cases) > 45


@pytest.mark.parametrize(
    ("case", "end"),
    [
        (Case(PLAIN, "SIGINT"), End(130, "", "", True)),
        (Case(PLAIN, "SIGINT"), End(-2, "", "", True)),
        (Case(PLAIN, "SIGINT"), End(0, '{"a": 1}', "", True)),
        (Case(PLAIN, "SIGKILL"), End(0, '{"a": 1}', "", False)),
        (Case(PLAIN, "SIGHUP"), End(-1, "", "", True)),
        (Case(PLAIN, "reader"), End(141, "", "", True)),
        (Case(PLAIN, limit="disk"), End(1, "", "no space", False)),
        (Case(CAT, limit="memory"), End(1, "", "", False)),
        (Case(LINES, "SIGINT"), End(0, '{"calls": 1}\n{"calls": 2, "final": true}\n', "", True)),
        (Case(SCRIPT, "SIGINT"), End(-2, "", "Traceback ... in <module>\n", True)),
    ],
)
def test_true_ends(case: Case, end: End) -> None:
    assert wrong_ends(case, end) == []


@pytest.mark.parametrize(
    ("case", "end", "text"),
    [
        (Case(PLAIN), End(1, "", "why", False), "status 1"),
        (Case(PLAIN, "SIGKILL"), End(137, "", "", True), "status 137"),
        (Case(PLAIN, "SIGKILL"), End(-9, "", "", False), "status -9"),
        (Case(PLAIN, "SIGHUP"), End(129, "", "", True), "status 129"),
        (Case(PLAIN, "SIGINT"), End(0, '{"a": ', "", True), "JSON is not complete"),
        (Case(LINES, "SIGINT"), End(0, '{"calls": 1}\n{"calls": 2}\n', "", True), "not complete"),
        (Case(PLAIN, limit="memory"), End(1, "", "", False), "without a word"),
        (Case(PLAIN, limit="disk"), End(0, "", "", False), "no room"),
        (Case(PLAIN, "SIGINT"), End(130, "", "Traceback (most", True), "traceback"),
        (Case(SCRIPT, "SIGINT"), End(-2, "", "Traceback ... 9, in main\n", True), "traceback"),
        (Case(CAT, "SIGTERM"), End(143, "", "", True, seconds=600), "only after"),
    ],
)
def test_ends_that_are_not_true(case: Case, end: End, text: str) -> None:
    (wrong,) = wrong_ends(case, end)
    assert text in wrong
