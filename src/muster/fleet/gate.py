"""How many devices of a fleet may register or connect at a time: first come, first served."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable


@final
class Gate:
    """Lets a limited number in.

    Args:
        room: how many may be inside.
    """

    __slots__ = ("_room", "_waiting")

    def __init__(self, room: int) -> None:
        self._room = room
        self._waiting: deque[Callable[[], None]] = deque()

    def enter(self, go: Callable[[], None]) -> None:
        """Call `go`, now or when somebody has left."""
        if self._room:
            self._room -= 1
            go()
        else:
            self._waiting.append(go)

    def leave(self) -> None:
        """Make room for the next."""
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._room += 1
