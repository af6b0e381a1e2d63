"""Numbers for Prometheus (edge.md 5.5)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from muster.edge.measures import QUANTILES, RECENT, Histogram, Summary

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3 * RECENT)


@given(values=VALUES)
def test_quantiles_are_values_of_the_last_ones(values: list[float]) -> None:
    summary = Summary()
    for value in values:
        summary.observe(value)
    assert summary.count == len(values)
    recent = sorted(values[-RECENT:])
    found = dict(summary.quantiles())
    assert tuple(found) == QUANTILES
    ordered = list(found.values())
    assert ordered == sorted(ordered)
    for quantile, value in found.items():
        # As many are at or below it, and above it, as its name says, to within one.
        below = sum(each <= value for each in recent)
        above = sum(each >= value for each in recent)
        assert below >= int(quantile * (len(recent) - 1))
        assert above >= int((1 - quantile) * (len(recent) - 1))


def test_what_was_never_measured_has_no_quantiles() -> None:
    assert Summary().quantiles() == []


@given(values=VALUES, bounds=st.lists(st.floats(-1e6, 1e6), unique=True).map(sorted))
def test_buckets_count_what_is_at_most_so_much(values: list[float], bounds: list[float]) -> None:
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    buckets, _ = histogram.buckets()
    counts = [sum(value <= bound for value in values) for bound in bounds]
    assert [count for _, count in buckets] == [*counts, len(values)]
    assert buckets[-1][0] == "+Inf"
