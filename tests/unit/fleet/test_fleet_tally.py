"""Counting what a fleet does."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.fleet.tally import Latencies, State, Tally


@given(
    st.lists(st.floats(1e-4, 100.0), min_size=1, max_size=200), st.sampled_from([0.5, 0.99, 1.0])
)
def test_percentiles_are_right_to_five_per_cent(seconds: list[float], part: float) -> None:
    latencies = Latencies()
    for each in seconds:
        latencies.add(each)
    exact = sorted(seconds)[max(-(-len(seconds) * part // 1), 1).__int__() - 1]
    found = latencies.percentile(part)
    assert found is not None
    assert exact <= found * 1.000001
    assert found <= exact * 1.050001


def test_no_latencies_and_very_long_ones() -> None:
    latencies = Latencies()
    assert latencies.percentile(0.5) is None
    latencies.add(0.0)
    latencies.add(1e9)
    assert latencies.percentile(0.5) == 1e-4
    assert latencies.percentile(1.0) > 180.0  # type: ignore[operator]


def test_rates_are_since_the_last_snapshot_and_those_of_the_summary_since_the_start() -> None:
    tally = Tally(10, 100.0)
    tally.messages, tally.registrations = 50, 5
    tally.ack_times.add(0.010)
    first = tally.snapshot(105.0)
    assert (first.messages_per_s, first.registrations_per_s) == (10.0, 1.0)
    tally.messages = 150
    second = tally.snapshot(107.0)
    assert (second.messages_per_s, second.registrations_per_s) == (50.0, 0.0)
    assert second.ack_ms.p50 is None
    summary = tally.summary(110.0)
    assert (summary.messages_per_s, summary.elapsed_s) == (15.0, 10.0)
    assert summary.ack_ms.p50 == pytest.approx(10.0, rel=0.05)


def test_states_and_versions_move() -> None:
    tally = Tally(2, 0.0)
    tally.move(State.IDLE, State.CONNECTED)
    tally.move(State.IDLE, State.FAILED)
    tally.applied(0, 3)
    tally.applied(0, 3)
    tally.applied(3, 12)
    found = tally.snapshot(1.0)
    assert found.states == {"connected": 1, "failed": 1}
    assert (found.connected, found.failed) == (1, 1)
    assert found.desired_versions == {"3": 1, "12": 1}


def test_json_names() -> None:
    found = msgspec.to_builtins(Tally(1, 0.0).snapshot(1.0))
    assert {"elapsedS", "registrationsPerS", "messagesPerS", "ackMs", "heldBack"} <= found.keys()
