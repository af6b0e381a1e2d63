"""Sending over a link for as long as there is something and the client takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from muster.net.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@final
class Pump:
    """Runs one thing again and again, never twice at once.

    Args:
        step: sends some; returns whether to go on at once.
        name: of the task.
    """

    __slots__ = ("_again", "_name", "_running", "_step")

    def __init__(self, step: Callable[[], Awaitable[bool]], name: str) -> None:
        self._step = step
        self._name = name
        self._running = False
        self._again = False

    def go(self) -> None:
        """Begin, or have a step that runs already followed by another."""
        self._again = True
        if not self._running:
            self._running = True
            spawn(self._run(), self._name)

    async def _run(self) -> None:
        try:
            while self._again:
                self._again = False
                while await self._step():
                    """There is more."""
        finally:
            self._running = False
