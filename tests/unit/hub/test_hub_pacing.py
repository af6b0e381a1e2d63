"""Slowing down whoever comes too often."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from muster.model.pacing import Pace, Pacer


def test_a_burst_and_then_the_rate() -> None:
    pacer: Pacer[str] = Pacer(Pace(rate=1, burst=5), patience_s=3)
    assert [pacer.reserve("a", 100.0) for _ in range(9)] == [0, 0, 0, 0, 0, 1, 2, 3, None]
    # Turning somebody away costs no turn.
    assert pacer.reserve("a", 101.0) == 3
    assert pacer.reserve("b", 100.0) == 0
    assert [pacer.reserve("a", 200.0) for _ in range(6)] == [0, 0, 0, 0, 0, 1]


@given(st.lists(st.floats(0, 2), max_size=60))
def test_never_more_than_the_rate_allows(pauses: list[float]) -> None:
    pacer: Pacer[str] = Pacer(Pace(rate=1, burst=5), patience_s=5)
    now = 10.0
    admitted = []
    for pause in pauses:
        now += pause
        wait_s = pacer.reserve("a", now)
        if wait_s is not None:
            assert 0 <= wait_s <= 5
            admitted.append(now + wait_s)
    for first in range(len(admitted)):
        for last in range(first + 5, len(admitted)):
            span = admitted[last] - admitted[first]
            assert span >= (last - first) - 4 - 1e-6


def test_quiet_keys_are_forgotten() -> None:
    pacer: Pacer[int] = Pacer(Pace(rate=1, burst=5), patience_s=5)
    for number in range(100_000):
        pacer.reserve(number, number / 100)
    assert len(pacer) < 5_000
