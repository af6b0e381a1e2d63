"""Requests that come over one AMQP link, served in line."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from muster.net.paced_line import PacedLine
from muster.wire.amqp import messages
from muster.wire.amqp.errors import RemoteProtocolError
from muster.wire.amqp.link import ReceivingLink
from muster.wire.amqp.performatives import Error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from muster.clock import Clock
    from muster.model.pacing import Pace
    from muster.wire.amqp.deliveries import Delivery
    from muster.wire.amqp.link import Link
    from muster.wire.amqp.messages import Message


@final
class RequestLine:
    """Serves the requests of a link in order, and lets the client send no more than may wait.

    Args:
        link: over which they come; one to the client has none.
        pace: how fast they are served.
        clock: for the pace.
        most: how many may wait; the link has so much credit to begin with.
        serve: serves one, and settles it. What is no message is rejected without it.
        failed: called when that raises: what stands behind it would never be answered.
    """

    __slots__ = ("_line", "_link", "_most", "_serve")

    def __init__(
        self,
        link: Link,
        pace: Pace,
        clock: Clock,
        *,
        most: int,
        serve: Callable[[Delivery, Message], Awaitable[None]],
        failed: Callable[[], None],
    ) -> None:
        self._link = link
        self._most = most
        self._serve = serve
        self._line: PacedLine[Delivery] = PacedLine(
            pace,
            clock,
            serve=self._read,
            served=self._served,
            failed=failed,
            over=lambda: not link.attached,
        )

    def received(self, deliveries: list[Delivery]) -> None:
        """Let requests stand in line."""
        for delivery in deliveries:
            self._line.add(delivery)
        if len(self._line) >= self._most and isinstance(self._link, ReceivingLink):
            # Requests come settled, which would earn them new credit at once.
            self._link.set_credit(0)

    def clear(self) -> None:
        """Answer nothing of what waits."""
        self._line.clear()

    def _served(self) -> None:
        if len(self._line) <= self._most // 2 and isinstance(self._link, ReceivingLink):
            self._link.set_credit(self._most)

    async def _read(self, delivery: Delivery) -> None:
        try:
            request = messages.decode(delivery.payload)
        except RemoteProtocolError as error:
            delivery.reject(Error(error.condition, error.description))
            return
        await self._serve(delivery, request)
