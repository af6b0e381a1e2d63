"""The one way in for time, so that tests can hold it still."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

NEVER = datetime(1, 1, 1, tzinfo=UTC)
"""What the service reports for a time that never came (hub-device.md 6)."""


class Clock(Protocol):
    """Wall time and a steady counter."""

    def now(self) -> datetime:
        """Return the present moment, aware, in UTC."""

    def time(self) -> float:
        """Return the present moment in unix seconds."""

    def monotonic(self) -> float:
        """Return steady seconds from an arbitrary origin."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the present moment, aware, in UTC."""
        return datetime.fromtimestamp(time.time(), UTC)  # noqa: TID251 - the one allowed caller

    def time(self) -> float:
        """Return the present moment in unix seconds."""
        return time.time()  # noqa: TID251 - the one allowed caller

    def monotonic(self) -> float:
        """Return steady seconds from an arbitrary origin."""
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told to. For tests and simulations."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._time = start

    def advance(self, seconds: float) -> None:
        """Move time forward (or, with a negative number, backward)."""
        self._time += seconds

    def now(self) -> datetime:
        """Return the present moment, aware, in UTC."""
        return datetime.fromtimestamp(self._time, UTC)

    def time(self) -> float:
        """Return the present moment in unix seconds."""
        return self._time

    def monotonic(self) -> float:
        """Return steady seconds from an arbitrary origin."""
        return self._time


def format_time(moment: datetime) -> str:
    """Write a moment as the services do: `2022-08-31T22:02:50.516335Z`.

    Trailing zeros of the fraction are trimmed, as the real services do; `0001-01-01T00:00:00Z`
    stands for never. Sources: dps.md 1.6, hub-device.md 6.
    """
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    text = moment.isoformat().removesuffix("+00:00")
    return f"{text.rstrip('0')}Z" if moment.microsecond else f"{text}Z"


def parse_time(text: str) -> datetime:
    """Read what `format_time` writes."""
    return datetime.fromisoformat(text)
