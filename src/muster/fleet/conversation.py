"""What the two conversations of a simulated device have in common: one deadline at a time."""

from __future__ import annotations

from typing import Protocol

from muster.net import conversation
from muster.net.conversation import NO_ANSWER, Conversation, Failure


class Owner(conversation.Owner, Protocol):
    """Who has the conversation, and keeps time for it."""

    def wake_in(self, seconds: float) -> None:
        """Have `awoken` called then, in place of any earlier wish."""

    def monotonic(self) -> float:
        """Return steady seconds, finer than the loop's, which counts in milliseconds."""


class TimedConversation(Conversation[float]):
    """A conversation that its owner wakes; it notes when packets were sent."""

    __slots__ = ()

    _owner: Owner

    def awoken(self) -> None:
        """Act on what `wake_in` was for; unless told otherwise, the peer was too slow."""
        self.end(Failure(kind=NO_ANSWER))
