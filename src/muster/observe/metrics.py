"""Every metric of the service, in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import final

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@final
class Metrics:
    """The metrics of one instance."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.decisions = Counter(
            "muster_decisions",
            "Registration outcomes and refusals, by operation, outcome and check.",
            ("operation", "outcome", "check"),
            registry=self.registry,
        )
        self.faults = Counter(
            "muster_faults_injected",
            "Faults that were injected on purpose, by kind.",
            ("kind",),
            registry=self.registry,
        )

    def fault_injected(self, kind: str) -> None:
        """Count an injected fault."""
        self.faults.labels(kind).inc()

    def decided(self, operation: str, outcome: str, check: str) -> None:
        """Count a decision. Labels are names of ours only, so a client cannot multiply them."""
        self.decisions.labels(operation, outcome, check).inc()

    def gauge(
        self, name: str, text: str, label: str, read: Callable[[], Iterable[tuple[str, float]]]
    ) -> None:
        """Add a gauge that is read when the metrics are asked for.

        Args:
            name: metric name.
            text: what it counts.
            label: name of its one label.
            read: returns label values and numbers.
        """
        self.registry.register(_Gauge(name, text, label, read))

    def exposition(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)


@final
class _Gauge(Collector):
    def __init__(
        self, name: str, text: str, label: str, read: Callable[[], Iterable[tuple[str, float]]]
    ) -> None:
        self._name = name
        self._text = text
        self._label = label
        self._read = read

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=[self._label])
        for label, value in self._read():
            family.add_metric([label], value)
        yield family
