"""One coarse timer for everything that waits on a peer.

A hundred thousand idle connections must not mean a hundred thousand timer handles. Deadlines of
seconds to minutes are kept in buckets of a quarter of a second, and one handle of the event loop
walks over the buckets. Whoever is woken says itself when it wants to be woken next, so moving a
deadline further into the future (a keep-alive, by every packet) costs nothing at all.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol
from weakref import WeakKeyDictionary

import structlog

_log = structlog.get_logger(__name__)

NO_SLOT: Final = 0
"""`timer_slot` of something that waits for nothing."""


class Timed(Protocol):
    """Something with at most one deadline at a time."""

    timer_slot: int
    """Owned by the wheel; starts as `NO_SLOT`."""

    def timer_expired(self, now: float) -> float:
        """Act on the deadline, or put it off.

        Args:
            now: the loop's monotonic time in seconds.

        Returns:
            The next deadline in the loop's seconds, or 0 for none.
        """


class TimerWheel:
    """Wakes `Timed` things at or shortly after their deadline, never before it.

    Belongs to one event loop; everything is called from that loop's thread.

    Args:
        resolution_s: width of a bucket, so the most a wake-up is late on an idle machine.
    """

    __slots__ = ("_buckets", "_handle", "_next", "_resolution_s")

    def __init__(self, resolution_s: float = 0.25) -> None:
        self._resolution_s = resolution_s
        self._buckets: dict[int, set[Timed]] = {}
        self._next = 0
        self._handle: asyncio.TimerHandle | None = None

    def start(self, timed: Timed, deadline: float) -> None:
        """Wake `timed` at `deadline` (loop seconds), in place of any earlier deadline of its."""
        slot = int(deadline / self._resolution_s) + 1
        if timed.timer_slot == slot:
            return
        if timed.timer_slot != NO_SLOT:
            self.stop(timed)
        if self._handle is None:
            loop = asyncio.get_running_loop()
            self._next = int(loop.time() / self._resolution_s)
            self._handle = loop.call_later(self._resolution_s, self._turn)
        # A deadline in the past belongs into the bucket that is looked at next.
        slot = max(slot, self._next)
        timed.timer_slot = slot
        bucket = self._buckets.get(slot)
        if bucket is None:
            self._buckets[slot] = {timed}
        else:
            bucket.add(timed)

    def stop(self, timed: Timed) -> None:
        """Forget the deadline of `timed`, if it has one."""
        slot = timed.timer_slot
        if slot == NO_SLOT:
            return
        timed.timer_slot = NO_SLOT
        bucket = self._buckets.get(slot)
        if bucket is not None:
            bucket.discard(timed)
            if not bucket:
                del self._buckets[slot]

    def __len__(self) -> int:
        """Count the things that wait."""
        return sum(map(len, self._buckets.values()))

    def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._handle = loop.call_later(self._resolution_s, self._turn)
        first, last = self._next, int(now / self._resolution_s)
        self._next = last + 1
        for slot in self._filled(first, last):
            for timed in self._buckets.pop(slot, ()):
                # An earlier wake-up of this very turn may have stopped or moved this one.
                if timed.timer_slot == slot:
                    timed.timer_slot = NO_SLOT
                    self._wake(timed, now)
        if not self._buckets:
            self._handle.cancel()
            self._handle = None

    def _filled(self, first: int, last: int) -> list[int]:
        """Return the filled slots of a range, oldest first."""
        if last - first < len(self._buckets):
            return [slot for slot in range(first, last + 1) if slot in self._buckets]
        return sorted(slot for slot in self._buckets if slot <= last)

    def _wake(self, timed: Timed, now: float) -> None:
        try:
            deadline = timed.timer_expired(now)
        except Exception:  # noqa: BLE001 - the others' deadlines must be kept
            _log.exception("deadline handler failed", handler=type(timed).__qualname__)
            return
        if deadline:
            self.start(timed, deadline)


_wheels: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, TimerWheel]] = WeakKeyDictionary()


def running_wheel() -> TimerWheel:
    """Return the one wheel of the running event loop."""
    loop = asyncio.get_running_loop()
    wheel = _wheels.get(loop)
    if wheel is None:
        wheel = _wheels[loop] = TimerWheel()
    return wheel
