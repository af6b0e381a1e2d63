"""Outcomes are remembered for the same device, operation and state of affairs only."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from muster.clock import ManualClock
from muster.model.registration import ASSIGNED, RegistrationRecord
from muster.provisioning.authentication import Claim
from muster.provisioning.outcomes import Outcomes

CLAIM = Claim("0ne1", "Device-1", "token")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
RECORD = RegistrationRecord(
    registration_id="Device-1", created_at=NOW, updated_at=NOW, etag="etag", status=ASSIGNED
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def outcomes(clock: ManualClock) -> Outcomes:
    made = Outcomes(clock)
    made.remember(CLAIM, "5.a", RECORD, 7)
    return made


def test_the_device_that_was_told_is_told_once_more(outcomes: Outcomes) -> None:
    assert outcomes.take(Claim("0ne1", "Device-1", "token"), "5.a", 7) is RECORD
    assert outcomes.take(Claim("0ne1", "Device-1", "token"), "5.a", 7) is None


@pytest.mark.parametrize(
    ("claim", "operation_id", "changes"),
    [
        (CLAIM, "5.b", 7),
        (CLAIM, "5.a", 8),
        (Claim("0ne1", "Device-1", "another"), "5.a", 7),
        (Claim("0ne1", "Device-1", None), "5.a", 7),
        (Claim("0ne2", "Device-1", "token"), "5.a", 7),
        (Claim("0ne1", "device-1", "token"), "5.a", 7),
        (Claim("0ne1", "device-2", "token"), "5.a", 7),
    ],
)
def test_nobody_else_is(outcomes: Outcomes, claim: Claim, operation_id: str, changes: int) -> None:
    assert outcomes.take(claim, operation_id, changes) is None


def test_an_attempt_of_another_takes_nothing_away(outcomes: Outcomes) -> None:
    assert outcomes.take(Claim("0ne1", "Device-1", "another"), "5.a", 7) is None
    assert outcomes.take(CLAIM, "5.a", 7) is RECORD


def test_it_is_forgotten_soon(outcomes: Outcomes, clock: ManualClock) -> None:
    clock.advance(5.0)
    assert outcomes.take(CLAIM, "5.a", 7) is None


def test_a_newer_outcome_takes_its_place(outcomes: Outcomes) -> None:
    outcomes.remember(CLAIM, "5.b", RECORD, 7)
    assert outcomes.take(CLAIM, "5.a", 7) is None
    assert outcomes.take(CLAIM, "5.b", 7) is RECORD


def test_what_nobody_asks_for_takes_no_memory(outcomes: Outcomes, clock: ManualClock) -> None:
    clock.advance(5.0)
    outcomes.remember(Claim("0ne1", "Device-2", "token"), "5.b", RECORD, 7)
    assert len(outcomes._latest) == 1
