"""A connection's end of a queue: what it holds, and how it settles it."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from muster.errors import PreconditionFailedError
from muster.model.queued_message import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

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

    async def complete(self, token: str) -> None:
        """End a message: it was processed. The commit is over when this returns.

        Raises:
            PreconditionFailedError: it is not held any more; code `message-lock-lost`.
        """
        await self._settle(token, Outcome.SUCCESS)

    async def reject(self, token: str) -> None:
        """End a message: it cannot be processed. Raises like `complete`."""
        await self._settle(token, Outcome.REJECTED)

    async def abandon(self, token: str) -> None:
        """Give a message back, for the last time or once more. Raises like `complete`."""
        await self._settle(token, None)

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

    async def _settle(self, token: str, outcome: Outcome | None) -> None:
        delivery = self._open.pop(token, None)
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
