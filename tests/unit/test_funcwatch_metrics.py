"""funcwatch's metrics: what a reader of the page and a collector get is what was counted."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from prometheus_client.parser import text_string_to_metric_families

from pybpf.tools.funcwatch.addresses import Address, endpoint
from pybpf.tools.funcwatch.cli import parse
from pybpf.tools.funcwatch.counts import SLOTS, Counts, slot_bounds
from pybpf.tools.funcwatch.functions import Function
from pybpf.tools.funcwatch.metrics import (
    BOUNDS,
    Moment,
    NeedsExtra,
    Start,
    errors_of,
    in_buckets,
)
from pybpf.tools.funcwatch.otlp import Otlp
from pybpf.tools.funcwatch.prometheus import Prometheus

SLOTS_OF = st.lists(st.integers(0, 1 << 40), min_size=SLOTS, max_size=SLOTS)

READ = Function(0, "vfs_read", "")
MOD = Function(1, "ext4_read", "ext4")


def counts(**slots: int) -> Counts:
    own = [0] * SLOTS
    for name, count in slots.items():
        own[int(name[1:])] = count
    total = sum(own)
    return Counts(total + 1, total, 3, 1_500_000_000, 900, tuple(own), {2: 2, 11: 1})


ROWS = ((READ, counts(_3=5, _12=7, _38=1)), (MOD, Counts(calls=1 << 40)))
MOMENT = Moment(ROWS, 1_000, 2_000, 17, 4, 2)


@given(SLOTS_OF)
def test_every_call_is_in_one_bucket(slots: list[int]) -> None:
    """And none is above the bound of its bucket, as far as slots tell."""
    buckets = in_buckets(Counts(slots=tuple(slots)))
    assert len(buckets) == len(BOUNDS) + 1 and sum(buckets) == sum(slots)
    for bucket, bound in zip(range(len(BOUNDS)), BOUNDS, strict=True):
        below = sum(
            count for slot, count in enumerate(slots) if slot_bounds(slot)[1] <= bound * 1e9
        )
        assert sum(buckets[: bucket + 1]) == below


def test_errors_without_room_are_counted() -> None:
    assert errors_of(ROWS[0][1]) == {"ENOENT": 2, "EAGAIN": 1}
    assert errors_of(Counts(errors=5, by_errno={2: 2})) == {"ENOENT": 2, "other": 3}


@given(st.lists(st.tuples(st.integers(1, 1 << 45), st.integers(-(1 << 62), 1 << 60)), min_size=1))
def test_the_start_is_before_now_whatever_the_clock_says(steps: list[tuple[int, int]]) -> None:
    """Each step: time goes on, and somebody sets the clock. The start moves as rarely as it can."""
    wall, passed = 1 << 63, 0
    start = Start(wall, 0)
    for seconds, change in steps:
        passed += seconds
        wall += seconds + change
        before = start.wall_ns
        said = start.before(wall, passed)
        assert said <= wall
        if wall >= before:
            assert said == before
        else:
            assert wall - said == passed, "as long ago as it really was"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9435", Address("127.0.0.1", 9435)),
        ("0.0.0.0:80", Address("0.0.0.0", 80)),
        ("[::1]:80", Address("::1", 80)),
        ("host:0", Address("host", 0)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert Address.parse(text) == address


@pytest.mark.parametrize("text", ["", "x", "host:", "1:65536", "80:x", "-1"])
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="ADDR"):
        Address.parse(text)


def test_collectors() -> None:
    """Without a path it is that of metrics."""
    assert endpoint("http://c:4318") == endpoint("http://c:4318/") == "http://c:4318/v1/metrics"
    assert endpoint("https://c/own?k=1") == "https://c/own?k=1"
    for wrong in ("c:4318", "ftp://c", "http://"):
        with pytest.raises(ValueError, match="address such as"):
            endpoint(wrong)


# -- Prometheus ---------------------------------------------------------------


def scraped(page: Prometheus) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with urllib.request.urlopen(str(page.address)) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_page_for_prometheus() -> None:
    """Read back by prometheus-client's own parser; what is published next is shown next."""
    page = Prometheus(Address("127.0.0.1", 0))
    try:
        assert scraped(page) == {}
        page.publish(MOMENT)
        found = scraped(page)
        read, mod = ((("function", f.name), ("module", f.module)) for f in (READ, MOD))
        assert found["kernel_function_calls_total", read] == 14
        assert found["kernel_function_calls_total", mod] == 1 << 40
        assert found["kernel_function_errors_total", (("errno", "ENOENT"), *read)] == 2
        assert found["kernel_function_errors_total", (("errno", "EAGAIN"), *read)] == 1
        name = "kernel_function_duration_seconds"
        assert found[f"{name}_count", read] == 13 and found[f"{name}_sum", read] == 1.5
        buckets = {
            float(dict(labels)["le"]): value
            for (one, labels), value in found.items()
            if one == f"{name}_bucket" and ("function", "vfs_read") in labels
        }
        assert list(buckets) == sorted([*BOUNDS, float("inf")])
        assert buckets[2**8 / 1e9] == 5 and buckets[2**12 / 1e9] == 5
        assert buckets[2**13 / 1e9] == 12 == buckets[BOUNDS[-1]] and buckets[float("inf")] == 13
        assert found["funcwatch_functions", ()] == 17
        assert found["funcwatch_missed_calls_total", ()] == 4
        assert found["funcwatch_unpaired_returns_total", ()] == 2
        page.publish(Moment((), 1, 2, 0, 0, 0))
        assert scraped(page)["funcwatch_functions", ()] == 0
    finally:
        page.close()
    with pytest.raises(OSError):
        scraped(page)


def test_a_taken_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            Prometheus(Address("127.0.0.1", taken.getsockname()[1]))


# -- OpenTelemetry ------------------------------------------------------------


class Collector(HTTPServer):
    """Takes what is posted and answers as a test says."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[str, str, bytes]] = []
        self.more = threading.Condition()
        self.status = 200
        self.thread = threading.Thread(target=self.serve_forever)
        self.thread.start()

    def wait(self, count: int) -> None:
        with self.more:
            self.more.wait_for(lambda: len(self.got) >= count)

    def requests(self) -> list[ExportMetricsServiceRequest]:
        return [ExportMetricsServiceRequest.FromString(body) for _, _, body in self.got]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        import gzip

        server: Any = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        # Record the request before answering it: the test may look as soon as it has the answer.
        with server.more:
            status = server.status
            server.got.append((self.path, self.headers["Content-Type"], body))
            server.more.notify()
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made
        made.shutdown()
        made.thread.join()


def test_a_collector_gets_the_protocol(collector: Collector) -> None:
    """Decoded by the protocol's own messages: sums, histogram, attributes, times."""
    said: list[str] = []
    push = Otlp(f"http://127.0.0.1:{collector.server_port}", said.append)
    push.publish(MOMENT)
    push.close()
    ((path, kind, _),) = collector.got
    assert (path, kind) == ("/v1/metrics", "application/x-protobuf") and said == []
    (resource,) = collector.requests()[0].resource_metrics
    names = {a.key: a.value.string_value for a in resource.resource.attributes}
    assert names["service.name"] == "funcwatch"
    (scope,) = resource.scope_metrics
    metrics = {metric.name: metric for metric in scope.metrics}

    def points(some: Any) -> dict[tuple[str, ...], Any]:
        return {tuple(a.value.string_value for a in p.attributes): p for p in some}

    calls = metrics["kernel.function.calls"].sum
    assert calls.is_monotonic and calls.aggregation_temporality == 2  # cumulative
    found = points(calls.data_points)
    assert {key: point.as_int for key, point in found.items()} == {
        ("vfs_read", ""): 14,
        ("ext4_read", "ext4"): 1 << 40,
    }
    point = found["vfs_read", ""]
    assert (point.start_time_unix_nano, point.time_unix_nano) == (1_000, 2_000)
    errors = points(metrics["kernel.function.errors"].sum.data_points)
    assert {key: p.as_int for key, p in errors.items()} == {
        ("vfs_read", "", "ENOENT"): 2,
        ("vfs_read", "", "EAGAIN"): 1,
    }
    duration = metrics["kernel.function.duration"]
    own = points(duration.histogram.data_points)["vfs_read", ""]
    assert duration.unit == "s" and (own.count, own.sum) == (13, 1.5)
    assert own.max == 900 / 1e9 and not own.HasField("min")
    assert tuple(own.explicit_bounds) == BOUNDS
    assert list(own.bucket_counts) == in_buckets(ROWS[0][1])
    assert metrics["funcwatch.functions"].gauge.data_points[0].as_int == 17
    assert metrics["funcwatch.missed.calls"].sum.data_points[0].as_int == 4


def test_a_collector_that_refuses(collector: Collector) -> None:
    """Said once when it begins and once when it ends, and the newest totals are sent."""
    said: list[str] = []
    collector.status = 400  # not one that is tried again
    push = Otlp(f"http://127.0.0.1:{collector.server_port}", said.append)
    for number in (1, 2):
        push.publish(MOMENT)
        collector.wait(number)
    while not said:
        pass
    collector.status = 200
    push.publish(Moment((), 1, 2, 5, 0, 0))
    push.close()
    assert len(said) == 2
    assert said[0].startswith(f"Cannot send metrics to {push.url}") and "reach" in said[1]


@pytest.mark.parametrize(
    ("module", "make", "library"),
    [
        ("prometheus_client", lambda: Prometheus(Address("127.0.0.1", 0)), "prometheus-client"),
        (
            "opentelemetry.sdk.metrics.export",
            lambda: Otlp("http://127.0.0.1:1", print),
            "opentelemetry-exporter-otlp-proto-http",
        ),
    ],
)
def test_without_the_library(
    monkeypatch: pytest.MonkeyPatch, module: str, make: Any, library: str
) -> None:
    """One line that names it and how to get it."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(NeedsExtra, match=rf"{library}: pip install 'pybpf\[metrics\]'"):
        make()


# -- what goes with them ------------------------------------------------------

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"


def test_the_dashboard_asks_for_what_there_is() -> None:
    """Each expression's metrics are on the page, and it groups by labels that they have."""
    page = Prometheus(Address("127.0.0.1", 0))
    try:
        page.publish(MOMENT)
        found = scraped(page)
    finally:
        page.close()
    names = {name for name, _ in found}
    labels = {label for _, own in found for label, _ in own}
    panels = json.loads((EXAMPLES / "funcwatch-dashboard.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    used = [re.findall(r"(?:kernel|funcwatch)_\w+", text) for text in asked]
    assert len(asked) == 6 and all(used)
    assert {name for some in used for name in some} <= names
    for text in asked:
        for group in re.findall(r"by \(([^)]*)\)", text):
            assert set(group.split(", ")) <= labels


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd")
def test_systemd_understands_the_unit() -> None:
    """It says nothing about it, so it ignores no line."""
    command = ["systemd-analyze", "verify", "--man=no", EXAMPLES / "funcwatch.service"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_calls_what_there_is() -> None:
    """Its command line is one that the tool takes."""
    text = (EXAMPLES / "funcwatch.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.M)
    _, command, tool, *arguments = line.split()
    assert (command, tool) == ("pybpf", "funcwatch")
    options = parse(arguments)
    assert options.prometheus == Address("127.0.0.1", 9435) and options.file
    assert options.max_overhead == 0.01
