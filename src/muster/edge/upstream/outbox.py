"""Telemetry on its way from its senders to a connection: in order, and not too much at a time.

What waits here waits with its senders, who hold it; so this needs no bound of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, final

from muster.edge.upstream.base import NoLinkError

if TYPE_CHECKING:
    from muster.edge.upstream.connection import Connection
    from muster.edge.upstream.tuning import Tuning


class _Outgoing(NamedTuple):
    topic: str
    body: bytes
    size: int
    done: asyncio.Future[None]


@final
class Outbox:
    """Messages of one session that wait for room.

    Args:
        tuning: how much may be in flight.
    """

    __slots__ = ("_tuning", "_waiting")

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self._waiting: deque[_Outgoing] = deque()

    def add(self, topic: str, body: bytes, size: int) -> asyncio.Future[None]:
        """Take a message; what is returned is told when the hub has it."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Outgoing(topic, body, size, done))
        return done

    def pump(self, connection: Connection) -> None:
        """Send what there is room for, in order."""
        tuning = self._tuning
        while self._waiting:
            if connection.in_flight >= tuning.in_flight:
                return
            flying = connection.bytes_in_flight
            if flying and flying + self._waiting[0].size > tuning.in_flight_size:
                return
            message = self._waiting.popleft()
            if not message.done.done():  # its sender may have gone
                connection.send(message.topic, message.body, message.size, message.done)

    def give_up(self) -> None:
        """Tell all who wait that there is no link any more."""
        while self._waiting:
            done = self._waiting.popleft().done
            if not done.done():
                done.set_exception(NoLinkError("the connection to the hub was lost"))
