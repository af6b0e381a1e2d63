"""Emptying a queue over a link (hub-device.md 3.5, hub-service.md 3.4).

The client accepts, rejects or releases; a message is locked for it and comes again when the lock
runs out or the link is gone. Its delivery tag is the lock token as .NET writes a GUID.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from muster.errors import MusterError
from muster.hub.endpoints.amqp_link import LinkHandler
from muster.hub.endpoints.amqp_pump import Pump
from muster.net.tasks import spawn
from muster.wire.amqp.performatives import Accepted, Modified, Received, Rejected, Released

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from muster.hub.endpoints.amqp_client import AmqpClient
    from muster.hub.receiver import Receiver
    from muster.model.queued_message import Delivery
    from muster.wire.amqp.deliveries import Sent
    from muster.wire.amqp.events import OutcomeReceived
    from muster.wire.amqp.link import SendingLink
    from muster.wire.amqp.performatives import DeliveryState

_AT_ONCE: Final = 50
"""Messages that are fetched together; more never wait for one device."""
_SETTLED: Final = 1
"""Settle mode of a sender who is not to be told outcomes."""


class QueueLink(LinkHandler):
    """A `LinkHandler` that sends what waits in a queue.

    Args:
        client: whose link it is.
        link: to be accepted; then `begin`.
        receive: makes the link's end of the queue, of what is to be called when more may wait.
        encode: makes a payload of a message.
    """

    def __init__(
        self,
        client: AmqpClient,
        link: SendingLink,
        receive: Callable[[Callable[[], None]], Receiver],
        encode: Callable[[Delivery], bytes],
    ) -> None:
        self._client = client
        self._link = link
        self._encode = encode
        self._presettled = link.attach.snd_settle_mode == _SETTLED
        self._pump = Pump(self._deliver, "amqp messages")
        self._receiver = receive(self._wake)

    def begin(self) -> None:
        """Send what waits: the link is accepted."""
        self._wake()

    def credit_changed(self) -> None:
        """Send as much as there is credit for."""
        self._wake()

    def outcome(self, event: OutcomeReceived) -> None:
        """Settle a message as the client says."""
        if isinstance(event.state, Received):
            # Half of it; the outcome follows.
            return
        receiver, token = self._receiver, event.sent.context
        # Begun at once: clients say the last outcome and goodbye in one breath.
        if isinstance(event.state, Accepted):
            settlement = receiver.complete(token)
        elif isinstance(event.state, Rejected):
            settlement = receiver.reject(token)
        elif isinstance(event.state, Released | Modified):
            settlement = receiver.abandon(token)
        else:
            receiver.let_go(token)
            event.sent.settle()
            return
        spawn(self._settle(event.sent, settlement), "amqp message settlement")

    def detached(self) -> None:
        """What is not settled is for the next one, at once."""
        self._receiver.close()

    def _wake(self) -> None:
        if self._link.credit or self._link.drain:
            self._pump.go()

    async def _deliver(self) -> bool:
        link, client = self._link, self._client
        room = min(link.credit, _AT_ONCE)
        if not link.attached or not room:
            return False
        if client.peer.congested:
            client.when_writable(self._wake)
            return False
        try:
            found = await self._receiver.take(room)
            for delivery in found:
                await self._send(delivery)
        except Exception as error:  # noqa: BLE001 - `fail` raises what was not meant to happen
            client.fail(link, error)
            return False
        if len(found) == room:
            return True
        link.drained()
        return False

    async def _send(self, delivery: Delivery) -> None:
        token = delivery.lock_token
        if not self._link.attached:
            self._receiver.let_go(token)
            return
        self._link.send(
            self._encode(delivery),
            tag=UUID(token).bytes_le,
            settled=self._presettled,
            context=token,
        )
        if self._presettled:
            await self._receiver.complete(token)

    async def _settle(self, sent: Sent, settlement: Coroutine[Any, Any, None]) -> None:
        answer: DeliveryState = Accepted()
        try:
            await settlement
        except MusterError as error:
            answer = Rejected(self._client.error(error))
        sent.settle(answer)
