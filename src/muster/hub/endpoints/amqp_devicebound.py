"""Cloud-to-device messages over AMQP (hub-device.md 3.5).

The client accepts, rejects or releases; a message is locked for it and comes again when the lock
runs out or the link is gone. Its delivery tag is the lock token as .NET writes a GUID.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast, final
from uuid import UUID

from muster.errors import MusterError
from muster.hub.endpoints import amqp_errors, amqp_messages
from muster.hub.endpoints.amqp_link import LinkHandler
from muster.hub.queues import LOCK_S
from muster.net.tasks import spawn
from muster.wire.amqp.link import SendingLink
from muster.wire.amqp.performatives import (
    Accepted,
    Error,
    Modified,
    Received,
    Rejected,
    Released,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from muster.hub.endpoints.amqp_addresses import Address
    from muster.hub.endpoints.amqp_client import AmqpClient
    from muster.hub.endpoints.amqp_devices import AmqpDevice, AmqpDevices
    from muster.hub.receiver import Receiver
    from muster.model.queued_message import Delivery
    from muster.wire.amqp.deliveries import Sent
    from muster.wire.amqp.events import OutcomeReceived
    from muster.wire.amqp.link import Link
    from muster.wire.amqp.performatives import DeliveryState

_TAIL: Final = "messages/devicebound"
_INPUTS: Final = "messages/events"
_AT_ONCE: Final = 50
"""Messages that are fetched together; more never wait for one identity."""
_SETTLED: Final = 1
"""Settle mode of a sender who is not to be told outcomes."""


@final
class DeviceboundLinks:
    """A `LinkService` for the links over which devices and modules receive messages.

    Args:
        devices: who is connected.
    """

    def __init__(self, devices: AmqpDevices) -> None:
        self._devices = devices

    def takes(self, link: Link, address: Address) -> bool:
        """Tell whether it is a link for messages to the client."""
        return isinstance(link, SendingLink) and self._devices.named(address, _TAIL) is not None

    async def attach(self, client: AmqpClient, link: Link, address: Address) -> LinkHandler:
        """Accept it, and send what waits."""
        device = await self._devices.of(client, link, address, _TAIL)
        device.add(link)
        receiving = cast("SendingLink", link)
        handler = _Devicebound(device, receiving)
        receiving.accept()
        handler.begin()
        return handler


@final
class InputLinks:
    """A `LinkService` for the links on which modules wait for input.

    The inputs are filled by an edge hub's routes, never by a hub; the SDKs' module clients attach
    here all the same (hub-device.md 3.3).

    Args:
        devices: who is connected.
    """

    def __init__(self, devices: AmqpDevices) -> None:
        self._devices = devices

    def takes(self, link: Link, address: Address) -> bool:
        """Tell whether it is a link for a module's inputs."""
        return (
            isinstance(link, SendingLink)
            and address.match(f"devices/*/modules/*/{_INPUTS}") is not None
        )

    async def attach(self, client: AmqpClient, link: Link, address: Address) -> LinkHandler:
        """Accept it."""
        device = await self._devices.of(client, link, address, _INPUTS)
        device.add(link)
        cast("SendingLink", link).accept()
        return _Inputs(device, link)


@final
class _Inputs(LinkHandler):
    def __init__(self, device: AmqpDevice, link: Link) -> None:
        self._device = device
        self._link = link

    def detached(self) -> None:
        """One link less."""
        self._device.remove(self._link)


@final
class _Devicebound(LinkHandler):
    def __init__(self, device: AmqpDevice, link: SendingLink) -> None:
        ref = device.ref
        module = f"/modules/{ref.module_id}" if ref.module_id else ""
        self._to = f"/devices/{ref.device_id}{module}/{_TAIL}"
        self._device = device
        self._link = link
        self._presettled = link.attach.snd_settle_mode == _SETTLED
        self._receiver: Receiver = device.services.cloud_to_device.attach(ref, self._wake, LOCK_S)
        self._more = True
        self._working = False

    def begin(self) -> None:
        """The link is accepted."""
        self._go_on()

    def credit_changed(self) -> None:
        """Send as much as there is credit for."""
        self._more = True
        self._go_on()

    def outcome(self, event: OutcomeReceived) -> None:
        """Settle a message as the client says."""
        if isinstance(event.state, Received):
            # Half of it; the outcome follows.
            return
        self._device.touch()
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
        self._device.remove(self._link)

    def _wake(self) -> None:
        self._more = True
        self._go_on()

    def _go_on(self) -> None:
        if self._more and not self._working and (self._link.credit or self._link.drain):
            self._working = True
            spawn(self._deliver(), "amqp messages")

    async def _deliver(self) -> None:
        link = self._link
        client = self._device.client
        try:
            while self._more and link.attached:
                if client.peer.congested:
                    client.when_writable(self._wake)
                    break
                room = min(link.credit, _AT_ONCE)
                if not room:
                    break
                self._more = False
                found = await self._receiver.take(room)
                for delivery in found:
                    await self._send(delivery)
                self._more |= len(found) == room
            link.drained()
        except MusterError as error:
            client.detach(link, Error(amqp_errors.INTERNAL, error.message))
        finally:
            self._working = False

    async def _send(self, delivery: Delivery) -> None:
        token = delivery.lock_token
        if not self._link.attached:
            self._receiver.let_go(token)
            return
        self._link.send(
            amqp_messages.devicebound(delivery, self._to),
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
            services = self._device.services
            now = services.clock.now()
            answer = Rejected(amqp_errors.error(error, services.randomness.uuid(), now))
        sent.settle(answer)
