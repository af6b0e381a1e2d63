"""What the log says of a start that takes long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from muster.app import start_progress
from muster.app.start_progress import StartProgress
from muster.clock import ManualClock, SystemClock

PATIENCE_S = 30


async def until_said(events: list[Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not events:  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0)


async def test_a_slow_start_says_what_it_is_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_progress, "SAY_EVERY_S", 0.0)
    clock = ManualClock()
    with capture_logs() as events:
        async with StartProgress(clock) as progress:
            progress.step("the database")
            clock.advance(7)
            progress.step("telemetry")
            clock.advance(2)
            await until_said(events)
    assert events[0] == {
        "event": "still starting",
        "step": "telemetry",
        "step_seconds": 2.0,
        "seconds": 9.0,
        "log_level": "info",
    }
    assert events[-1] == {
        "event": "started",
        "seconds": 9.0,
        "slowest": "the database",
        "slowest_seconds": 7.0,
        "log_level": "info",
    }


async def test_a_quick_start_says_nothing() -> None:
    with capture_logs() as events:
        async with StartProgress(SystemClock()) as progress:
            progress.step("the database")
    assert not events


async def fail(events: list[Any]) -> None:
    async with StartProgress(SystemClock()) as progress:
        progress.step("the database")
        await until_said(events)
        raise ValueError("no")


async def test_a_start_that_fails_is_not_said_to_be_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_progress, "SAY_EVERY_S", 0.0)
    with capture_logs() as events, pytest.raises(ValueError, match="no"):
        await fail(events)
    assert {event["event"] for event in events} == {"still starting"}
