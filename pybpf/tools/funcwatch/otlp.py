"""``--otlp``: the totals, pushed to a collector by OpenTelemetry's exporter.

OpenTelemetry's instruments take one value a call. Here the kernel has added up already, so
the exporter gets finished data points. It runs in a thread of its own, because it waits and
tries again when the collector does not answer; what is published meanwhile takes the place of
what waits, and since everything is a total, nothing is lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from .addresses import endpoint
from .functions import Function
from .metrics import (
    BOUNDS,
    CALLS,
    DURATION,
    ERRORS,
    MISSED,
    UNPAIRED,
    WATCHED,
    Moment,
    Name,
    NeedsExtra,
    errors_of,
    in_buckets,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import Metric, MetricsData

__all__ = ["Otlp", "metrics_data"]

_NS = 1_000_000_000
_TIMEOUT = 5  # seconds that a collector has to answer


def _attributes(function: Function, **more: str) -> dict[str, str]:
    return {"function": function.name, "module": function.module, **more}


def metrics_data(moment: Moment) -> MetricsData:
    """Make the metrics of a moment, as the exporter takes them."""
    from opentelemetry.sdk.metrics import export
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from ... import __version__

    start, now = moment.start_ns, moment.time_ns

    def metric(name: Name, points: Iterable[tuple[dict[str, str], int]], total: bool) -> Metric:
        made = [export.NumberDataPoint(labels, start, now, value) for labels, value in points]
        data = (
            export.Sum(made, export.AggregationTemporality.CUMULATIVE, is_monotonic=True)
            if total
            else export.Gauge(made)
        )
        return export.Metric(name.dotted, name.help, "1", data)

    def calls() -> Iterable[tuple[dict[str, str], int]]:
        return ((_attributes(f), counts.calls) for f, counts in moment.rows)

    def errors() -> Iterable[tuple[dict[str, str], int]]:
        return (
            (_attributes(f, errno=error), count)
            for f, counts in moment.rows
            for error, count in errors_of(counts).items()
        )

    durations = [
        export.HistogramDataPoint(
            attributes=_attributes(function),
            start_time_unix_nano=start,
            time_unix_nano=now,
            count=counts.timed,
            sum=counts.total_ns / _NS,
            bucket_counts=in_buckets(counts),
            explicit_bounds=BOUNDS,
            min=None,  # type: ignore[arg-type]  # not known; the exporter leaves it out
            max=counts.max_ns / _NS,
        )
        for function, counts in moment.rows
    ]
    metrics = [
        metric(CALLS, calls(), True),
        metric(ERRORS, errors(), True),
        export.Metric(
            DURATION.dotted,
            DURATION.help,
            "s",
            export.Histogram(durations, export.AggregationTemporality.CUMULATIVE),
        ),
        metric(WATCHED, [({}, moment.watched)], False),
        metric(MISSED, [({}, moment.missed)], True),
        metric(UNPAIRED, [({}, moment.unpaired)], True),
    ]
    scope = export.ScopeMetrics(InstrumentationScope("pybpf.funcwatch", __version__), metrics, "")
    resource = Resource.create({"service.name": "funcwatch"})
    return export.MetricsData([export.ResourceMetrics(resource, [scope], "")])


class Otlp:
    """Push moments to a collector.

    :param url: of the collector
    :param say: called with a line when sending begins to fail and when it works again
    :raises NeedsExtra: the exporter is not installed
    :raises ValueError: as `endpoint`
    """

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        self.url = endpoint(url)
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.sdk.metrics.export import MetricExportResult
        except ImportError:
            raise NeedsExtra("--otlp", "opentelemetry-exporter-otlp-proto-http") from None
        _silence()
        self._ok = MetricExportResult.SUCCESS
        self._exporter = OTLPMetricExporter(endpoint=self.url, timeout=_TIMEOUT)
        self._say = say
        self._failed = False
        self._waiting: Moment | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def publish(self, moment: Moment) -> None:
        """Send these totals next, in place of others that still wait."""
        with self._changed:
            self._waiting = moment
            self._changed.notify()

    def close(self) -> None:
        """Send what waits, once, and end. A collector that does not answer is not waited for."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(1.0 if self._failed else _TIMEOUT)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                moment, self._waiting = self._waiting, None
            if moment is None:
                return
            self._send(moment)

    def _send(self, moment: Moment) -> None:
        try:
            failed = self._exporter.export(metrics_data(moment)) is not self._ok
            why = ""
        except Exception as error:
            # Whatever the library makes of a network that fails: counting goes on.
            failed, why = True, f": {error}"
        if failed != self._failed:
            self._failed = failed
            self._say(
                f"Cannot send metrics to {self.url}{why}; trying again at each interval."
                if failed
                else f"Metrics reach {self.url} again."
            )


def _silence() -> None:
    # The exporter logs every failure; `Otlp` tells when that begins and ends.
    import logging

    logger = logging.getLogger("opentelemetry")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
