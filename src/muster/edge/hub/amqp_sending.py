"""Links over which AMQP clients receive: inputs of modules, and messages from the cloud.

A message to an input is done when the client accepts or rejects it; what it releases, or has not
settled when the link is gone, comes again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, final

import structlog

from muster.edge.hub.amqp_handler import LinkHandler
from muster.edge.hub.broker import inputs
from muster.errors import MusterError
from muster.net.amqp_properties import message_of
from muster.net.tasks import spawn
from muster.wire.amqp import messages
from muster.wire.amqp.performatives import Accepted, Received, Rejected
from muster.wire.amqp.types import Timestamp, UByte, ULong
from muster.wire.mqtt import property_bag
from muster.wire.mqtt.device_filters import own_topic

if TYPE_CHECKING:
    from muster.edge.hub.amqp_identity import AmqpIdentity
    from muster.edge.hub.queue import Stored
    from muster.wire.amqp.deliveries import Sent
    from muster.wire.amqp.events import OutcomeReceived
    from muster.wire.amqp.link import SendingLink

MAX_UNSETTLED: Final = 64
"""Messages a client may leave unsettled before it gets more."""
SETTLE_S: Final = 60.0
"""A client that settles nothing for so long is disconnected, so that it comes anew."""
AGAIN_S: Final = 1.0
"""Before a message that was released comes again."""

_PRESETTLED: Final = 1
_log = structlog.get_logger(__name__)


class _Outgoing(LinkHandler):
    """What both have in common: messages that wait for credit, and for what becomes of them."""

    def __init__(self, identity: AmqpIdentity, link: SendingLink) -> None:
        self._identity = identity
        self._link = link
        self._presettled = link.attach.snd_settle_mode == _PRESETTLED
        self._credit = asyncio.Event()
        self._waiting: set[asyncio.Future[bool | None]] = set()
        self._sequence = 0

    def credit_changed(self) -> None:
        """Go on."""
        self._credit.set()

    def outcome(self, event: OutcomeReceived) -> None:
        """Note what became of a message."""
        if isinstance(event.state, Received):
            # Half of it; the outcome follows.
            return
        future: asyncio.Future[bool | None] = event.sent.context
        if not future.done():
            future.set_result(isinstance(event.state, Accepted | Rejected))
        if not event.settled:
            event.sent.settle()

    def end(self) -> None:
        """The link is gone: nothing is settled any more."""
        self._credit.set()
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def wait_for_credit(self) -> bool:
        """Return when a message can be sent; False when none can any more."""
        link, client = self._link, self._identity.client
        while link.attached and (not link.credit or client.congested):
            self._credit.clear()
            await self._credit.wait()
        return link.attached

    async def send(
        self, bag: str, body: bytes, to: str, annotations: dict[Any, Any]
    ) -> bool | None:
        """Send a message; tell whether the client is done with it, `None` when it is gone.

        Raises:
            TimeoutError: it does not say.
        """
        services = self._identity.services
        token = services.randomness.uuid()
        self._sequence += 1
        annotations |= {
            "x-opt-lock-token": token,
            "x-opt-sequence-number": ULong(self._sequence),
            "iothub-enqueuedtime": Timestamp(round(services.clock.time() * 1000)),
            "iothub-deliverycount": UByte(0),
        }
        message = message_of(property_bag.decode(bag), body, to=to, annotations=annotations)
        future: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        sent: Sent = self._link.send(
            messages.encode(message), settled=self._presettled, context=future
        )
        if sent.settled:
            return True
        self._waiting.add(future)
        try:
            async with asyncio.timeout(SETTLE_S):
                return await future
        finally:
            self._waiting.discard(future)


@final
class Devicebound(_Outgoing):
    """Messages from the cloud.

    Args:
        identity: whose.
        link: accepted.
    """

    def begin(self) -> None:
        """The client takes messages now."""
        self._identity.devicebound = self
        self._identity.changed()

    def detached(self) -> None:
        """It takes none any more."""
        if self._identity.devicebound is self:
            self._identity.devicebound = None
        self.end()
        self._identity.remove(self._link)

    async def deliver(self, bag: str, body: bytes) -> bool:
        """Send a message; tell whether the client is done with it."""
        if not await self.wait_for_credit():
            return False
        to = f"/{own_topic(self._identity.ref)}/messages/devicebound"
        return bool(await self.send(bag, body, to, {}))


@final
class Inputs(_Outgoing):
    """What comes to the inputs of a module.

    Args:
        identity: whose.
        link: accepted.
    """

    def __init__(self, identity: AmqpIdentity, link: SendingLink) -> None:
        super().__init__(identity, link)
        self._outlet = identity.services.queues.outlet(inputs(identity.ref.module_id))
        self._room = asyncio.Semaphore(MAX_UNSETTLED)
        self._feeding: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Send what waits."""
        # Inputs are of modules of this device; those of others have theirs elsewhere.
        if self._identity.ref.device_id == self._identity.services.device_id:
            self._feeding = spawn(self._feed(), "edge hub amqp inputs")

    def detached(self) -> None:
        """What is not settled is for the next link."""
        if self._feeding is not None:
            self._feeding.cancel()
        self.end()
        self._identity.remove(self._link)

    async def _feed(self) -> None:
        outlet = self._outlet
        try:
            await outlet.rewind()
            while True:
                outlet.ready.clear()
                batch = await outlet.take()
                for message in batch:
                    await self._room.acquire()
                    if not await self.wait_for_credit():
                        return
                    spawn(self._deliver(message), "edge hub amqp input")
                    # It has sent, and used the credit, before the next one looks.
                    await asyncio.sleep(0)
                if not batch:
                    await outlet.ready.wait()
        except MusterError as error:
            self._identity.close(error.message)

    async def _deliver(self, message: Stored) -> None:
        identity = self._identity
        name, _, bag = message.bag.partition("/")
        properties = dict(property_bag.decode(bag))
        annotations: dict[Any, Any] = {
            "x-opt-input-name": name,
            "iothub-connection-device-id": properties.get("$.cdid") or "",
        }
        if properties.get("$.cmid"):
            annotations["iothub-connection-module-id"] = properties["$.cmid"]
        to = f"/{own_topic(identity.ref)}/inputs/{name}"
        try:
            taken = await self.send(bag, message.body, to, dict(annotations))
            while taken is False and await self._again():
                taken = await self.send(bag, message.body, to, dict(annotations))
        except TimeoutError:
            _log.warning("client does not settle", identity=identity.ref.text)
            identity.close("Messages are not settled.")
        else:
            if taken:
                self._outlet.done([message])
        finally:
            self._room.release()

    async def _again(self) -> bool:
        """Wait until a message that was released can come again."""
        await asyncio.sleep(AGAIN_S)
        return await self.wait_for_credit()
