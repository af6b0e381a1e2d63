"""Which hubs have feedback records that wait to leave in a batch, as far as this node knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from muster.clock import Clock

BATCH_SIZE: Final = 64
"""Records of a batch that does not wait for more (hub-device.md 7)."""
BATCH_AGE_S: Final = 15.0
"""Seconds a record waits for others (hub-device.md 7)."""


@final
class FeedbackRecords:
    """Counts records and remembers when each hub's are due.

    Args:
        clock: for the age of records.
    """

    __slots__ = ("_clock", "_waiting")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[int, tuple[int, float]] = {}

    def note(self, hub: int, count: int, oldest: float | None = None) -> None:
        """Remember that records were written.

        Args:
            hub: the hub's number.
            count: how many; 0 changes nothing.
            oldest: when the first of them was, unix seconds; `None` for now.
        """
        if not count:
            return
        before, since = self._waiting.get(hub, (0, oldest or self._clock.time()))
        self._waiting[hub] = (before + count, since)

    def take_due(self) -> list[int]:
        """Return the hubs whose records are due, and forget what is known of them."""
        now = self._clock.time()
        due = [
            hub
            for hub, (count, since) in self._waiting.items()
            if count >= BATCH_SIZE or since + BATCH_AGE_S <= now
        ]
        for hub in due:
            del self._waiting[hub]
        return due
