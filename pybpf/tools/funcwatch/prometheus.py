"""``--prometheus``: a page with the totals, made for each request by prometheus-client."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from .addresses import Address
from .metrics import (
    BOUNDS,
    CALLS,
    DURATION,
    ERRORS,
    MISSED,
    UNPAIRED,
    WATCHED,
    Moment,
    NeedsExtra,
    errors_of,
    in_buckets,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["Prometheus", "families"]

_NS = 1_000_000_000
_LABELS = ("function", "module")


def families(moment: Moment) -> Iterator[Metric]:
    """Make the metrics of a moment."""
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    calls = CounterMetricFamily(CALLS.name, CALLS.help, labels=_LABELS)
    errors = CounterMetricFamily(ERRORS.name, ERRORS.help, labels=(*_LABELS, "errno"))
    duration = HistogramMetricFamily(
        f"{DURATION.name}_{DURATION.unit}", DURATION.help, labels=_LABELS
    )
    bounds = [*(repr(bound) for bound in BOUNDS), "+Inf"]
    for function, counts in moment.rows:
        labels = (function.name, function.module)
        calls.add_metric(labels, counts.calls)
        for error, count in errors_of(counts).items():
            errors.add_metric((*labels, error), count)
        sums = accumulate(in_buckets(counts))
        duration.add_metric(
            labels, list(zip(bounds, sums, strict=True)), sum_value=counts.total_ns / _NS
        )
    yield calls
    yield errors
    yield duration
    yield GaugeMetricFamily(WATCHED.name, WATCHED.help, value=moment.watched)
    yield CounterMetricFamily(MISSED.name, MISSED.help, value=moment.missed)
    yield CounterMetricFamily(UNPAIRED.name, UNPAIRED.help, value=moment.unpaired)


class Prometheus:
    """Serve the page in its own thread.

    :raises NeedsExtra: prometheus-client is not installed
    :raises OSError: the address cannot be used
    """

    def __init__(self, address: Address) -> None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError:
            raise NeedsExtra("--prometheus", "prometheus-client") from None
        self._moment: Moment | None = None
        registry = CollectorRegistry()
        registry.register(self)
        self._server, self._thread = start_http_server(address.port, address.host, registry)
        self.address = Address(address.host, self._server.server_port)

    def collect(self) -> Iterator[Metric]:
        """Make the metrics of the last published moment."""
        moment = self._moment
        if moment is not None:
            yield from families(moment)

    def describe(self) -> Iterator[Metric]:
        """Return nothing, so that the registry does not collect values just for the names."""
        return iter(())

    def publish(self, moment: Moment) -> None:
        """Show these totals from now on."""
        self._moment = moment

    def close(self) -> None:
        """Stop serving the page."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
