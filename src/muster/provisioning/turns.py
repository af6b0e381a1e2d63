"""One at a time for each registration ID, without making anybody else wait.

Two machines with one identity register at the same moment (users.md 2), an operator revokes a
device that is just registering: whoever decides about an ID holds its turn while it reads what is
there, decides and writes. Evidence is checked before, outside the turn, so that those who fail to
prove themselves never hold up the real device.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final


@final
class Turn:
    """The turn of one registration ID.

    Attributes:
        key: the ID in lower case.
        lock: held by whoever decides.
        changes: grows with every change, so that others notice that what they read is old.
        users: how many are busy with the ID.
        work: an assignment that goes on in the background, with its operation ID.
    """

    __slots__ = ("changes", "key", "lock", "users", "work")

    def __init__(self, key: str) -> None:
        self.key = key
        self.lock = asyncio.Lock()
        self.changes = 0
        self.users = 0
        self.work: tuple[str, asyncio.Task[None]] | None = None


@final
class Turns:
    """The turns of all IDs that somebody is busy with; others take no memory."""

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns: dict[str, Turn] = {}

    @contextmanager
    def join(self, key: str) -> Iterator[Turn]:
        """Take part in the turn of an ID, without holding it yet."""
        turn = self.enter(key)
        try:
            yield turn
        finally:
            self.leave(turn)

    def enter(self, key: str) -> Turn:
        """Take part in the turn of an ID until `leave`."""
        turn = self._turns.get(key)
        if turn is None:
            turn = self._turns[key] = Turn(key)
        turn.users += 1
        return turn

    def leave(self, turn: Turn) -> None:
        """End what `enter` began."""
        turn.users -= 1
        if not turn.users:
            del self._turns[turn.key]

    def find(self, key: str) -> Turn | None:
        """Return the turn of an ID that somebody is busy with."""
        return self._turns.get(key)

    def __len__(self) -> int:
        """Count the IDs somebody is busy with."""
        return len(self._turns)
