"""Numbers that are counted where things happen, and written for Prometheus when it asks.

The client library is loaded with the first answer: it takes 3 MB, and many devices are never asked.
"""

from __future__ import annotations

import bisect
from array import array
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

Labels: TypeAlias = "tuple[str, ...]"
"""Values of the labels that tell the numbers of one metric apart."""

QUANTILES: Final = (0.1, 0.5, 0.9, 0.99)
"""Those that the official runtime has."""
RECENT: Final = 100
"""Values that quantiles are made of."""
_T = TypeVar("_T")


@final
class Summary:
    """How many values there were, their sum, and quantiles of the last ones.

    Attributes:
        count: of all.
        sum: of all.
    """

    __slots__ = ("_at", "_recent", "count", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self._recent = array("d")
        self._at = 0

    def observe(self, value: float) -> None:
        """Take a value."""
        self.count += 1
        self.sum += value
        if len(self._recent) < RECENT:
            self._recent.append(value)
        else:
            self._recent[self._at] = value
            self._at = (self._at + 1) % RECENT

    def quantiles(self) -> list[tuple[float, float]]:
        """Return each quantile with its value, nothing where there was none."""
        ordered = sorted(self._recent)
        last = len(ordered) - 1
        return [(each, ordered[round(each * last)]) for each in QUANTILES if ordered]


@final
class Histogram:
    """How many values there were up to each of some bounds, and their sum.

    Args:
        bounds: in growing order.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Take a value."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Return how many were at most so much, for each bound, and the sum."""
        total = 0
        found: list[tuple[str, float]] = []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            found.append(("+Inf" if bound == float("inf") else str(float(bound)), total))
        return found, self._sum


def one_of(found: dict[_T, Summary], key: _T) -> Summary:
    """Return the summary of a key, made where there is none."""
    summary = found.get(key)
    if summary is None:
        summary = found[key] = Summary()
    return summary


@final
class Exposition:
    """One answer to a scraper. It is a registry, as far as the client library asks.

    Args:
        common: labels that all metrics have, and their values.
    """

    def __init__(self, common: Mapping[str, str]) -> None:
        from prometheus_client import exposition, metrics_core  # noqa: PLC0415 - as said above

        self._core: Any = metrics_core
        self._generate: Any = exposition.generate_latest
        self._common = dict(common)
        self._families: list[Metric] = []

    def gauge(self, name: str, text: str, labels: Labels, values: Mapping[Labels, float]) -> None:
        """Add numbers that go up and down, by the values of further labels."""
        self._add(self._core.GaugeMetricFamily, name, text, labels, values.items())

    def counter(self, name: str, text: str, labels: Labels, values: Mapping[Labels, float]) -> None:
        """Add numbers that only go up; `name` is without `_total`."""
        self._add(self._core.CounterMetricFamily, name, text, labels, values.items())

    def histogram(
        self, name: str, text: str, labels: Labels, values: Mapping[Labels, Histogram]
    ) -> None:
        """Add histograms."""
        family = self._core.HistogramMetricFamily(name, text, labels=[*self._common, *labels])
        for key, value in values.items():
            buckets, total = value.buckets()
            family.add_metric([*self._common.values(), *key], buckets, total)
        self._families.append(family)

    def summary(
        self, name: str, text: str, labels: Labels, values: Mapping[Labels, Summary]
    ) -> None:
        """Add summaries, with their quantiles."""
        family = self._core.SummaryMetricFamily(name, text, labels=[*self._common, *labels])
        for key, value in values.items():
            family.add_metric([*self._common.values(), *key], value.count, value.sum)
            named = {**self._common, **dict(zip(labels, key, strict=True))}
            for quantile, found in value.quantiles():
                family.add_sample(name, {**named, "quantile": str(quantile)}, found)
        self._families.append(family)

    def collect(self) -> Iterable[Metric]:
        """Return what was added."""
        return self._families

    def content(self) -> bytes:
        """Return the answer."""
        return bytes(self._generate(self))

    def _add(
        self,
        kind: Any,
        name: str,
        text: str,
        labels: Labels,
        values: Iterable[tuple[Labels, float]],
    ) -> None:
        family = kind(name, text, labels=[*self._common, *labels])
        for key, value in values:
            family.add_metric([*self._common.values(), *key], value)
        self._families.append(family)
