"""When the hub in the cloud was away."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from muster.edge.measures import Summary

if TYPE_CHECKING:
    from muster.clock import Clock


@final
class Absence:
    """Counts it. The time before the first connection is none: that is a start.

    Args:
        clock: for time.

    Attributes:
        count: how often the link was lost.
        lasted: how long it was away, each time that it came back.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._there = False
        self._lost_at: float | None = None
        self.count = 0
        self.lasted = Summary()

    def changed(self, *, up: bool) -> None:
        """Note whether the hub is in reach."""
        if self._there and not up:
            self.count += 1
            self._lost_at = self._clock.monotonic()
        elif up and self._lost_at is not None:
            self.lasted.observe(self._clock.monotonic() - self._lost_at)
            self._lost_at = None
        self._there = up
