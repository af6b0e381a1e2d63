"""Cloud-to-device messages over AMQP (hub-device.md 3.5).

How a queue is emptied over a link is in `amqp_queue_link`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, final

from muster.hub.endpoints import amqp_messages
from muster.hub.endpoints.amqp_link import LinkHandler
from muster.hub.endpoints.amqp_queue_link import QueueLink
from muster.hub.queues import LOCK_S
from muster.wire.amqp.link import SendingLink

if TYPE_CHECKING:
    from muster.hub.endpoints.amqp_client import AmqpClient
    from muster.hub.endpoints.amqp_devices import AmqpDevice, AmqpDevices
    from muster.wire.amqp.addresses import Address
    from muster.wire.amqp.events import OutcomeReceived
    from muster.wire.amqp.link import Link

_TAIL: Final = "messages/devicebound"
_INPUTS: Final = "messages/events"


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
class _Devicebound(QueueLink):
    def __init__(self, device: AmqpDevice, link: SendingLink) -> None:
        ref = device.ref
        module = f"/modules/{ref.module_id}" if ref.module_id else ""
        to = f"/devices/{ref.device_id}{module}/{_TAIL}"
        self._device = device
        super().__init__(
            device.client,
            link,
            lambda wake: device.services.cloud_to_device.attach(ref, wake, LOCK_S),
            lambda delivery: amqp_messages.devicebound(delivery, to),
        )

    def outcome(self, event: OutcomeReceived) -> None:
        """Settle a message as the client says."""
        self._device.touch()
        super().outcome(event)

    def detached(self) -> None:
        """What is not settled is for the next one, at once."""
        super().detached()
        self._device.remove(self._link)
