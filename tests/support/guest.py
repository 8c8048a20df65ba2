"""Run the requested tests in the guest and send every report to the host at once.

    python3 -m tests.support.guest PACKED-IDS FILE...

Events are single lines of JSON after RS (0x1e) on the real standard output, which pytest's capture
does not touch. They are the start and finish of a test, each of its reports (as pytest serialises
them), and requested tests that do not exist.
"""

from __future__ import annotations

import json
import os
import sys

import pytest

from tests.support.guests import EVENT, unpack

__all__ = ["Reporter", "main"]


class Reporter:
    """Select the requested tests and send their results. A pytest plugin."""

    def __init__(self, fd: int, wanted: list[str]) -> None:
        self.fd = fd
        self.wanted = wanted
        self.config: pytest.Config | None = None
        self.errors: list[str] = []

    def send(self, event: str, **fields: object) -> None:
        line = json.dumps({"event": event, **fields}).encode()
        data = b"\n" + EVENT + line + b"\n"
        while data:
            data = data[os.write(self.fd, data) :]

    def pytest_configure(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.errors.append(f"{report.nodeid}: {report.longreprtext}")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        there = {item.nodeid: item for item in items}
        for nodeid in self.wanted:
            if nodeid not in there:
                file = nodeid.partition("::")[0]
                why = "\n".join(e for e in self.errors if e.startswith(file))
                self.send("lost", nodeid=nodeid, why=f"the guest has no such test\n{why}")
        wanted = set(self.wanted)
        config.hook.pytest_deselected(items=[i for i in items if i.nodeid not in wanted])
        items[:] = [there[nodeid] for nodeid in self.wanted if nodeid in there]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.send("start", nodeid=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        assert self.config
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        self.send("report", nodeid=report.nodeid, report=data)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.send("finish", nodeid=nodeid)


def main(arguments: list[str]) -> int:
    """Run pytest and return its exit status."""
    reporter = Reporter(os.dup(1), unpack(arguments[0]))
    options = ["-p", "no:cacheprovider", "-q", "--continue-on-collection-errors"]
    return int(pytest.main([*options, *arguments[1:]], plugins=[reporter]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
