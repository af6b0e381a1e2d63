"""One after the other for each key, without making anybody else wait."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_Key = TypeVar("_Key", bound=Hashable)


@final
class Lines(Generic[_Key]):
    """A line for each key, as long as somebody stands in it."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[_Key, tuple[asyncio.Lock, int]] = {}

    def __len__(self) -> int:
        """Count the lines in which somebody stands."""
        return len(self._lines)

    @asynccontextmanager
    async def turn(self, key: _Key) -> AsyncIterator[None]:
        """Wait until it is our turn, and hold up those behind us until we are done."""
        lock, waiting = self._lines.get(key) or (asyncio.Lock(), 0)
        self._lines[key] = (lock, waiting + 1)
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._lines[key]
            if waiting == 1:
                del self._lines[key]
            else:
                self._lines[key] = (lock, waiting - 1)
