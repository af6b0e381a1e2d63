"""A connection's end of a queue: what it holds, and how it settles it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from muster.errors import PreconditionFailedError
from muster.model.queued_message import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from muster.hub.queue_rows import Address
    from muster.hub.queues import Queues
    from muster.model.queued_message import Delivery


@final
class Receiver:
    """A connection's end of a queue. Made by `Queues.attach`.

    Attributes:
        address: the queue.
        on_waiting: see `Queues.attach`.
        lock_s: likewise.
        closed: whether its connection is gone.
    """

    __slots__ = ("_open", "_queues", "address", "closed", "lock_s", "on_waiting")

    def __init__(
        self,
        queues: Queues,
        address: Address,
        on_waiting: Callable[[], None],
        lock_s: float | None,
    ) -> None:
        self._queues = queues
        self._open: dict[str, Delivery] = {}
        self.address = address
        self.on_waiting = on_waiting
        self.lock_s = lock_s
        self.closed = False

    async def take(self, limit: int) -> list[Delivery]:
        """Hold and return up to `limit` available messages, oldest first.

        What it returns is held until it is settled, its time is up, or the receiver is closed.
        """
        found = await self._queues.take(self, limit)
        for delivery in found:
            self._open[delivery.lock_token] = delivery
        return found

    def complete(self, token: str) -> Coroutine[Any, Any, None]:
        """End a message: it was processed. The commit is over when what this returns is.

        What is called here counts at once, so that a connection may be closed right after it.

        Raises:
            PreconditionFailedError: when awaited: it is not held any more; code
                `message-lock-lost`.
        """
        return self._settle(self._open.pop(token, None), Outcome.SUCCESS)

    def reject(self, token: str) -> Coroutine[Any, Any, None]:
        """End a message: it cannot be processed. As `complete`."""
        return self._settle(self._open.pop(token, None), Outcome.REJECTED)

    def abandon(self, token: str) -> Coroutine[Any, Any, None]:
        """Give a message back, for the last time or once more. As `complete`."""
        return self._settle(self._open.pop(token, None), None)

    def close(self) -> None:
        """The connection is gone: what it holds is available to others, at once.

        Except for what is just being settled: nobody may see a message that is being completed.
        """
        if self.closed:
            return
        self.closed = True
        self._queues.detach(self)
        self._queues.release(self.address, self._open.values())
        if self._open:
            self._open.clear()
            self._queues.nudge(self.address)

    def let_go(self, token: str) -> None:
        """Stop holding a message, which does not count as abandoned. Harmless if it is not held."""
        delivery = self._open.pop(token, None)
        if delivery is not None:
            self._queues.release(self.address, [delivery])
            self._queues.nudge(self.address)

    async def _settle(self, delivery: Delivery | None, outcome: Outcome | None) -> None:
        if delivery is None:
            raise lock_lost()
        try:
            await self._queues.settle(self.address, delivery, outcome)
        finally:
            if outcome is None:
                self._queues.nudge(self.address)


def lock_lost() -> PreconditionFailedError:
    """Return the error for a token that holds nothing (any more)."""
    return PreconditionFailedError(
        "The message is not locked by this token any more.", code="message-lock-lost"
    )
