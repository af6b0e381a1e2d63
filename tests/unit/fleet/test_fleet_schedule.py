"""When a device does what."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.fleet.plan import Place, Plan
from muster.fleet.schedule import LONGEST_WAIT_S, Act, Schedule, intervals, wait_s

EVERY = (10.0, 60.0, 180.0, 3_000.0)


def plan(**fields: float) -> Plan:
    place = Place(name="dps.example")
    return Plan(count=1, prefix="d", dps=place, id_scope="s", group_key=b"", **fields)  # type: ignore[arg-type]


def test_intervals() -> None:
    assert intervals(plan(rate=0.5, report_every_s=30.0, token_lifetime_s=1_000.0)) == (
        2.0,
        30.0,
        180.0,
        875.0,
    )
    assert intervals(plan(rate=0.0, report_every_s=0.0))[:2] == (math.inf, math.inf)


def test_the_first_time_is_left_to_chance() -> None:
    assert Schedule(EVERY, 100.0, 0.25).next == 102.5
    assert Schedule(EVERY, 100.0, 0.75).next == 107.5


def test_what_never_happens_is_never_due() -> None:
    schedule = Schedule((math.inf, math.inf, 180.0, math.inf), 0.0, 0.0)
    assert schedule.next == 180.0
    assert schedule.take(1_000.0) == [(Act.PING, 5)]


def test_acts_in_their_order() -> None:
    schedule = Schedule(EVERY, 0.0, 0.5)
    assert schedule.take(4.9) == []
    assert schedule.take(5.0) == [(Act.SEND, 1)]
    assert schedule.next == 15.0
    assert schedule.take(30.0) == [(Act.SEND, 2), (Act.REPORT, 1)]
    assert schedule.next == 35.0


@given(
    st.floats(0.01, 100.0),
    st.floats(0.0, 1.0),
    st.lists(st.floats(0.0, 50.0), min_size=1, max_size=20),
)
def test_being_late_loses_nothing(every: float, chance: float, steps: list[float]) -> None:
    schedule = Schedule((every, math.inf, math.inf, math.inf), 0.0, chance)
    now, times = 0.0, 0
    for step in steps:
        now += step
        times += sum(count for _, count in schedule.take(now))
        assert schedule.next > now
    assert times == pytest.approx(max((now - every * chance) / every + 0.5, 0.0), abs=0.51)


@given(st.integers(1, 10_000), st.floats(0.0, 1.0))
def test_waits_grow_up_to_a_minute(attempt: int, chance: float) -> None:
    wait = wait_s(attempt, chance)
    assert 0.5 <= wait <= LONGEST_WAIT_S
    assert wait <= wait_s(attempt + 1, chance)


def test_half_of_a_wait_is_left_to_chance() -> None:
    assert (wait_s(3, 0.0), wait_s(3, 1.0)) == (2.0, 4.0)
