"""Run one test on several kernels, each in a guest, and report every run as a test.

Tests below tests/live and tests/e2e get a parameter `kernel_row`: their ids end in `[host]`,
`[6.1]`, ... Tests of the process's own row run as usual. The others do not run here. `vagrant/vm`
starts a guest of that row, the same test runs in it under tests/support/guest.py, and its reports
come back over the guest's output while it runs. They are logged as if the test had run here (as in
pytest-xdist). So counts, tracebacks, -k and -x mean the same as always.

A green run that did not really run must never happen. A test whose guest died or never reported it
fails. If all rows were requested, a test that was skipped everywhere also fails. A kernel that
warns of a fault of its own fails the run, with its lines, even if every test passed.
"""

from __future__ import annotations

import collections
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import rows
from tests.support.guests import Guests, Key, Lost
from tests.support.results import Results

__all__ = ["Matrix"]

IN_GUEST = "/src"  # where vagrant/vm puts the checkout
NOWHERE = "nowhere"  # a test that is for none of the requested rows


# Where `make test` runs live tests in a guest if they do not say so (`first_on`): they are run on
# the host as well, which is newer.
_OLDEST = "6.1"


class Matrix:
    """The pytest plugin. tests/conftest.py registers it on the host and in the guests."""

    def __init__(self, config: pytest.Config, tests: Path) -> None:
        self.config = config
        self.tests = tests
        self.asked = self._asked()
        self.guests: Guests | None = None
        self.outcomes: dict[str, set[str]] = collections.defaultdict(set)

    def _asked(self) -> list[str]:
        """Return the rows of --kernel. Empty if the option is not given."""
        text = str(self.config.getoption("--kernel"))
        known = rows.names()
        asked: list[str] = []
        for name in filter(None, text.split(",")):
            if name == "all":
                asked += known
            elif name in known or name == rows.HOST:
                asked.append(name)
            else:
                choices = ", ".join([*known, "all", rows.HOST])
                raise pytest.UsageError(f"--kernel: no row {name!r}; there are {choices}")
        if rows.in_guest():
            if set(asked) - {rows.current()}:
                raise pytest.UsageError(f"--kernel={text}: this guest is {rows.current()}")
            return [rows.current()]
        return list(dict.fromkeys(asked))

    def rows_for(self, path: Path) -> list[str]:
        """Return the rows where the tests of a file run. Empty for tests that need no kernel."""
        if path.is_relative_to(self.tests / "live"):
            return self.asked if rows.in_guest() else list(dict.fromkeys([rows.HOST, *self.asked]))
        if path.is_relative_to(self.tests / "e2e"):
            return self.asked or rows.names()
        return []

    @property
    def complete(self) -> bool:
        """Tell whether every row was requested. A test skipped everywhere then never runs."""
        return set(rows.names()) <= set(self.asked)

    # -- collection

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        chosen = self.rows_for(metafunc.definition.path)
        if not chosen:
            return
        for marker in metafunc.definition.iter_markers("rows"):
            if rows.HOST in marker.args and not rows.in_guest():
                chosen = list(dict.fromkeys([rows.HOST, *chosen]))
            chosen = [row for row in chosen if row in marker.args]
        if "kernel_row" not in metafunc.fixturenames:
            metafunc.fixturenames.append("kernel_row")
        marker = metafunc.definition.get_closest_marker("first_on")
        first = list(marker.args) if marker else []
        if not first and metafunc.definition.path.is_relative_to(self.tests / "live"):
            first = [rows.HOST, _OLDEST]
        later = {row for row in chosen if first and row not in first}
        metafunc.parametrize(
            "kernel_row",
            [pytest.param(row, marks=pytest.mark.long) if row in later else row for row in chosen]
            or [NOWHERE],
            scope="session",
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        order = {row: at for at, row in enumerate(rows.names(), 1)}
        gone = [item for item in items if row_of(item) == NOWHERE]
        items[:] = [item for item in items if row_of(item) != NOWHERE]
        items.sort(key=lambda item: order.get(row_of(item) or "", 0))
        if gone:
            self.config.hook.pytest_deselected(items=gone)

    # -- running

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[object]:
        elsewhere = [i for i in session.items if row_of(i) not in (None, rows.current())]
        if elsewhere and not session.config.option.collectonly:
            update = self.config.getoption("update_golden")
            self.guests = Guests(
                jobs=self.config.getoption("--vm-jobs"),
                timeout=self.config.getoption("--vm-timeout"),
                options=["--update-golden"] if update else [],
            )
            for item in elsewhere:
                self.guests.add(guest_of(item), item.nodeid)
            self.guests.start()
        try:
            done = yield
        finally:
            if self.guests:
                self.guests.close()
                self._fail_complaints(self.guests)
                if self.config.getoption("update_golden"):
                    self._update_golden(self.guests.results)
        if self.complete and not session.config.option.collectonly:
            self._fail_what_never_ran()
        return done

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        row = row_of(item)
        if row is None or row == rows.current() or not self.guests:
            return None
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        try:
            reports = [self._report(data) for data in self.guests.wait(guest_of(item), item.nodeid)]
        except Lost as lost:
            reports = [failure(item.nodeid, item.location, str(lost))]
        for report in reports:
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _report(self, data: dict[str, object]) -> pytest.TestReport:
        report = self.config.hook.pytest_report_from_serializable(config=self.config, data=data)
        assert isinstance(report, pytest.TestReport)
        report.location = tuple(report.location)  # type: ignore[assignment]  JSON knows lists only
        if isinstance(report.longrepr, list):
            path, line, reason = report.longrepr  # for a skip
            path = str(path).replace(f"{IN_GUEST}/", f"{self.tests.parent}/", 1)
            report.longrepr = (path, int(line), str(reason))
        return report

    # -- what was skipped everywhere

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            expected = hasattr(report, "wasxfail")
            outcome = "ran" if expected or report.outcome != "skipped" else "skipped"
            self.outcomes[without_row(report.nodeid)].add(outcome)

    def _fail_what_never_ran(self) -> None:
        for name, outcomes in list(self.outcomes.items()):
            if outcomes == {"skipped"}:
                text = "skipped on every kernel: it proves nothing"
                report = failure(f"{name} (anywhere)", (name.partition("::")[0], None, name), text)
                self.config.hook.pytest_runtest_logreport(report=report)

    def _fail_complaints(self, guests: Guests) -> None:
        # Also what no test can see: at boot, between tests and after the last one.
        for row, lines in sorted(guests.complaints.items()):
            name = f"the kernel's log of row {row}"
            text = "\n".join(["the kernel reports faults:", *lines])
            report = failure(name, (name, None, name), text)
            self.config.hook.pytest_runtest_logreport(report=report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.guests:
            terminalreporter.section("kernel rows")
            for line in [*self.guests.notes, *self._files(self.guests.results)]:
                terminalreporter.write_line(line)

    def _update_golden(self, results: Results) -> None:
        for name in results.of("golden"):
            target = self.tests / "e2e" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(results.root / name, target)

    def _files(self, results: Results) -> Iterator[str]:
        """Say in words what came back from the guests."""
        if listings := results.of("trampolines"):
            at = os.path.relpath(results.root / "trampolines")
            yield f"{len(listings)} listings of trampolines are in {at}"
        if self.config.getoption("update_golden"):
            written = len(results.of("golden"))
            yield f"{written} golden listings written; check them: git diff tests/e2e/golden"


def row_of(item: pytest.Item) -> str | None:
    """Return the row an item runs on. None for tests that need no kernel."""
    spec = getattr(item, "callspec", None)
    return spec.params.get("kernel_row") if spec else None


def guest_of(item: pytest.Item) -> Key:
    """Return the guest of an item. Items with the same value share a guest."""
    extras = {name for marker in item.iter_markers("guest_with") for name in marker.args}
    icount = item.get_closest_marker("icount") is not None
    alone = item.path.name if item.get_closest_marker("own_guest") else ""
    return Key(row_of(item) or "", icount, tuple(sorted(extras)), alone)


def without_row(nodeid: str) -> str:
    """Return the id without its row, which the runs of one test on several kernels share."""
    name, bracket, inside = nodeid.partition("[")
    if not bracket:
        return nodeid
    known = {*rows.names(), rows.HOST}
    parts = inside.removesuffix("]").split("-")
    for part in parts:
        if part in known:
            parts.remove(part)
            break
    return f"{name}[{'-'.join(parts)}]" if parts else name


def failure(nodeid: str, location: tuple[str, int | None, str], text: str) -> pytest.TestReport:
    """Make the report of a failed test."""
    return pytest.TestReport(nodeid, location, {}, "failed", text, "call")
