"""One after the other for each key, without making anybody else wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar, final

_Key = TypeVar("_Key", bound=Hashable)


@final
class Lines(Generic[_Key]):
    """A line for each key, as long as somebody stands in it."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[_Key, deque[asyncio.Future[None]] | None] = {}
        """Who waits behind the one whose turn it is; `None` for nobody so far."""

    def __len__(self) -> int:
        """Count the lines in which somebody stands."""
        return len(self._lines)

    def turn(self, key: _Key) -> Turn[_Key]:
        """Wait until it is our turn, and hold up those behind us until we are done."""
        return Turn(self, key)

    async def begin(self, key: _Key) -> None:
        """Stand in line; returns when it is our turn."""
        if key not in self._lines:
            self._lines[key] = None
            return
        waiting = self._lines[key]
        if waiting is None:
            waiting = self._lines[key] = deque()
        turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # It was our turn already.
                self.end(key)
            else:
                with contextlib.suppress(ValueError):
                    waiting.remove(turn)
            raise

    def end(self, key: _Key) -> None:
        """Let the next one have its turn."""
        waiting = self._lines[key]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._lines[key]


@final
class Turn(Generic[_Key]):
    """What `Lines.turn` returns: most lines are empty, so this costs next to nothing."""

    __slots__ = ("_key", "_lines")

    def __init__(self, lines: Lines[_Key], key: _Key) -> None:
        self._lines = lines
        self._key = key

    async def __aenter__(self) -> None:
        await self._lines.begin(self._key)

    async def __aexit__(self, *_: object) -> None:
        self._lines.end(self._key)
