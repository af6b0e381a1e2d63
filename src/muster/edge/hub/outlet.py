"""What one sink gets of one sender: the way out of the queues."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, final

from muster.edge.hub.queue import SEQUENCE_BITS
from muster.edge.measures import Summary, one_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.edge.hub.queue import Queue, Stored
    from muster.edge.hub.queues import Queues


@final
class Outlet:
    """What one sink gets of one sender: its queues, the most urgent first.

    Args:
        queues: it belongs to.

    Attributes:
        accepted: messages for its sink, since the start.
        delivered: messages its sink has, likewise.
        repeated: messages that go once more, since the sink was lost with them on their way.
        sending: seconds from when one was taken until its sink had it.
        processing: seconds from when one was accepted until its sink had it, by priority.
        ready: set when something has come; whoever waits for it clears it.
    """

    __slots__ = (
        "_cursors",
        "_queues",
        "_store",
        "_taken",
        "accepted",
        "delivered",
        "processing",
        "ready",
        "repeated",
        "sending",
    )

    def __init__(self, queues: Queues) -> None:
        self._store = queues
        self._queues: list[Queue] = []
        self._cursors: dict[int, int] = {}
        # What was taken and is not done, and when: nobody else may remove it, or it would count
        # twice.
        self._taken: dict[int, float] = {}
        self.accepted = 0
        self.delivered = 0
        self.repeated = 0
        self.sending = Summary()
        self.processing: dict[int, Summary] = {}
        self.ready = asyncio.Event()

    @property
    def count(self) -> int:
        """Messages that wait, those that were taken and are not done included."""
        return sum(queue.count for queue in self._queues)

    def join(self, queue: Queue) -> None:
        """Take in a queue."""
        self._queues.append(queue)
        self._queues.sort(key=lambda each: each.key.priority)

    async def take(self) -> list[Stored]:
        """Return the next messages, nothing when all that waits was taken.

        Messages over their time to live are dropped on the way.

        Raises:
            UnavailableError: the disk does not answer.
        """
        for queue in self._queues:
            while queue.blocks:
                last = queue.committed
                after = self._cursors.get(queue.number, queue.number << SEQUENCE_BITS)
                if after >= last:
                    break
                found = await self._store.read(queue, after, last)
                self._cursors[queue.number] = found[-1].id if found else last
                live = self._store.without_expired(found)
                if live:
                    self._taken.update(dict.fromkeys((each.id for each in live), self._store.now()))
                    return live
        return []

    def done(self, messages: Iterable[Stored]) -> None:
        """The sink has these. What is not being delivered any more is ignored."""
        now = self._store.now()
        found = [each for each in messages if each.id in self._taken]
        for each in found:
            self.sending.observe(now - self._taken[each.id])
            one_of(self.processing, self._store.priority(each)).observe(self._store.age_s(each))
        self.delivered += self._remove(found)

    def refused(self, message: Stored) -> None:
        """No sink would ever take this."""
        self._store.dropped.refused += self._remove([message])

    def _remove(self, messages: Iterable[Stored]) -> int:
        found = [each for each in messages if each.id in self._taken]
        for each in found:
            del self._taken[each.id]
        return self._store.remove(found)

    def holds(self, id_: int) -> bool:
        """Tell whether a message is being delivered."""
        return id_ in self._taken

    async def rewind(self) -> None:
        """Begin again with the oldest message that is not done."""
        await self._store.flush()
        self.repeated += len(self._taken)
        self._cursors.clear()
        self._taken.clear()
