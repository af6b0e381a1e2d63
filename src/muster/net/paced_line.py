"""Requests of one client, served one after the other and no faster than a pace."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar, final

from muster.net.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from muster.clock import Clock
    from muster.model.pacing import Pace

_Request = TypeVar("_Request")


@final
class PacedLine(Generic[_Request]):
    """A line in front of whoever serves. How many may stand in it is the caller's to say.

    Args:
        pace: how fast they are served.
        clock: for the pace.
        serve: serves one; what it raises ends the line, and is logged.
        served: called after each.
        failed: called when the line ended so: nobody behind it gets an answer.
        over: tells whether the client is gone, and the rest is not to be served.

    Attributes:
        size: bytes of all that stand in line.
    """

    __slots__ = (
        "_arrival",
        "_clock",
        "_failed",
        "_over",
        "_pace",
        "_serve",
        "_served",
        "_waiting",
        "_working",
        "size",
    )

    def __init__(
        self,
        pace: Pace,
        clock: Clock,
        *,
        serve: Callable[[_Request], Awaitable[None]],
        served: Callable[[], None],
        failed: Callable[[], None],
        over: Callable[[], bool],
    ) -> None:
        self._pace = pace
        self._clock = clock
        self._serve = serve
        self._served = served
        self._failed = failed
        self._over = over
        self._waiting: list[tuple[_Request, int]] = []
        self._working = False
        self._arrival = 0.0
        self.size = 0

    def __len__(self) -> int:
        """Count those that stand in line."""
        return len(self._waiting)

    def add(self, request: _Request, size: int = 0) -> None:
        """Let a request stand in line."""
        self._waiting.append((request, size))
        self.size += size
        if not self._working:
            self._working = True
            spawn(self._work(), "requests in line")

    def clear(self) -> None:
        """Send everybody away."""
        self._waiting.clear()
        self.size = 0

    async def _work(self) -> None:
        clock, pace = self._clock, self._pace
        try:
            while self._waiting:
                wait_s = pace.wait_s(self._arrival, clock.monotonic())
                if wait_s:
                    await asyncio.sleep(wait_s)
                if self._over() or not self._waiting:
                    break
                self._arrival = pace.after(self._arrival, clock.monotonic())
                request, size = self._waiting.pop(0)
                self.size -= size
                await self._serve(request)
                self._served()
        except BaseException:
            self._failed()
            raise
        finally:
            self._working = False
            self.clear()
