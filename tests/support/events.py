"""Telemetry as `muster events tail` shows it, and waiting for what comes in its own time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from support.secrets import CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.instance import Instance

PATIENCE_S = 30.0


def events_of(
    instance: Instance, device_id: str, count: int, *, hub: str | None = None
) -> list[dict[str, Any]]:
    """Follow the hub's events from the beginning until `count` of this device were seen."""
    found: list[dict[str, Any]] = []
    follow = instance.follow(
        *("events", "tail", "--hub", hub or instance.place.hubs[0]),
        *("--device-id", device_id, "--from", "earliest"),
    )
    try:
        for event in follow:
            found.append(event)
            if len(found) == count:
                break
    finally:
        follow.close()
    return found


def wait_for(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Ask until it is so."""
    end = CLOCK.monotonic() + patience_s
    while not condition():
        assert CLOCK.monotonic() < end, f"still not so after {patience_s} s"
        time.sleep(0.02)
