"""One connection at a time is opened by a device that has none with its hub.

Where a link is away, packets that open a connection are sent again and again by the kernel. When it
is back, all of them arrive: those of one session of each device are enough.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable


@final
class Turn:
    """Whose turn it is, in the order in which they asked.

    Args:
        connected: tells whether some session is connected: then all may dial.
    """

    def __init__(self, connected: Callable[[], bool]) -> None:
        self._connected = connected
        self._dialling = 0
        self._waiting: list[asyncio.Future[None]] = []

    async def begin(self) -> None:
        """Return when a connection may be opened; `end` follows in any case."""
        if self._dialling and not self._connected():
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                elif not turn.cancelled():
                    self._next()  # it had come just now
                raise
        self._dialling += 1

    def end(self) -> None:
        """Note that the connection is open, or is not."""
        self._dialling -= 1
        self._next()

    def _next(self) -> None:
        while self._waiting and not self._dialling:
            turn = self._waiting.pop(0)
            if not turn.done():  # nobody waits for one that was cancelled
                turn.set_result(None)
                return
