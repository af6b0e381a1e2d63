"""Says in the log how a start that takes long gets on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self, final

import structlog

from muster.net.tasks import spawn

if TYPE_CHECKING:
    from types import TracebackType

    from muster.clock import Clock

SAY_EVERY_S: Final = 5.0
"""Seconds between two lines; a start that is over before the first says nothing."""

_log = structlog.get_logger(__name__)


@final
class StartProgress:
    """One start, step by step; a context, which ends with the start.

    Args:
        clock: measures it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._step = ""
        self._step_began = self._began
        self._slowest = ("", 0.0)
        self._said = False

    async def __aenter__(self) -> Self:
        """Begin to look at the time."""
        self._saying = spawn(self._say(), "start progress")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say how long all of it took, if anything was said before."""
        self._saying.cancel()
        self.step("")
        if self._said and error is None:
            step, seconds = self._slowest
            _log.info(
                "started",
                seconds=self._since(self._began),
                slowest=step,
                slowest_seconds=round(seconds, 1),
            )

    def step(self, what: str) -> None:
        """Note what is done from here on."""
        now = self._clock.monotonic()
        taken = now - self._step_began
        if taken > self._slowest[1]:
            self._slowest = (self._step, taken)
        self._step, self._step_began = what, now

    async def _say(self) -> None:
        while True:
            await asyncio.sleep(SAY_EVERY_S)
            self._said = True
            _log.info(
                "still starting",
                step=self._step,
                step_seconds=self._since(self._step_began),
                seconds=self._since(self._began),
            )

    def _since(self, moment: float) -> float:
        return round(self._clock.monotonic() - moment, 1)
