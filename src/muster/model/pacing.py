"""Slowing one misbehaving identity down without touching the others.

Two Python clients with one device ID take each other over 68 times a second, and a client whose
automatic twin read fails asks 2000 times a second (hub-device.md 0.11): such loops are built into
official SDKs, so the service sets the pace, by answering later, never by answering errors.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar, final

_Key = TypeVar("_Key", bound=Hashable)

_SWEEP_AT: Final = 1024


@final
class Pace:
    """A sustained rate with a burst on top of it.

    Args:
        rate: events per second in the long run.
        burst: events that may come at once after a pause.
    """

    __slots__ = ("burst_s", "interval_s")

    def __init__(self, rate: float, burst: int) -> None:
        self.interval_s = 1 / rate
        self.burst_s = (burst - 1) / rate

    def wait_s(self, arrival: float, now: float) -> float:
        """Return the seconds until the next event may happen; 0 for now.

        Args:
            arrival: the state, see `after`; 0 at first.
            now: steady seconds.
        """
        return max(0.0, arrival - self.burst_s - now)

    def after(self, arrival: float, now: float) -> float:
        """Return the state after one more event was admitted.

        The state is the moment from which events would arrive exactly at the sustained rate (the
        generic cell rate algorithm): one number, and nothing to refill.
        """
        return max(arrival, now) + self.interval_s


@final
class Pacer(Generic[_Key]):
    """A `Pace` for each of many keys. Keys that have been quiet for a while take no memory.

    Args:
        pace: what each key may do.
        patience_s: how long an event may be held back; whoever would wait longer is turned away.
    """

    __slots__ = ("_arrivals", "_pace", "_patience_s", "_sweep_at")

    def __init__(self, pace: Pace, patience_s: float) -> None:
        self._pace = pace
        self._patience_s = patience_s
        self._arrivals: dict[_Key, float] = {}
        self._sweep_at = _SWEEP_AT

    def reserve(self, key: _Key, now: float) -> float | None:
        """Return after how many seconds the key's next event may happen, and count it.

        `None`, and nothing counted, when that would be longer than the patience.
        """
        arrival = self._arrivals.get(key, 0.0)
        wait_s = self._pace.wait_s(arrival, now)
        if wait_s > self._patience_s:
            return None
        self._arrivals[key] = self._pace.after(arrival, now)
        if len(self._arrivals) >= self._sweep_at:
            self._sweep(now)
        return wait_s

    def __len__(self) -> int:
        """Count the keys remembered."""
        return len(self._arrivals)

    def _sweep(self, now: float) -> None:
        # Swept when it has doubled since the last sweep: constant cost per event on average.
        self._arrivals = {key: arrival for key, arrival in self._arrivals.items() if arrival > now}
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._arrivals))
