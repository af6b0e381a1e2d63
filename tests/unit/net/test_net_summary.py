from __future__ import annotations

import asyncio
from typing import Any

import pytest

from muster.net import summary
from unit.net.loopback import until


async def test_one_line_at_once_then_one_an_interval(
    log: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "_INTERVAL_S", 0.05)
    failures = summary.Summary("failed")
    for number in range(1000):
        failures.add("a" if number % 4 else "b", f"peer {number}")
    assert log == [
        {"event": "failed", "log_level": "info", "reason": "b", "remote": "peer 0"},
    ]
    await until(lambda: len(log) == 2)
    assert log[1] == {
        "event": "failed",
        "log_level": "warning",
        "count": 999,
        "reasons": {"a": 750, "b": 249},
        "last_remote": "peer 999",
    }
    await asyncio.sleep(0.15)
    assert len(log) == 2
    failures.add("c", "peer")
    assert log[2]["log_level"] == "info"
