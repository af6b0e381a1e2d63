"""Direct methods on AMQP: one link for requests and one for answers (hub-device.md 3.6).

Both links of a pair name the same channel. A client takes methods as soon as it has both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from muster.hub.endpoints.amqp_link import LinkHandler
from muster.hub.method_calls import MAX_IN_FLIGHT
from muster.model.method import MAX_PAYLOAD
from muster.wire.amqp import method_messages
from muster.wire.amqp.link import ReceivingLink
from muster.wire.amqp.pairs import Pairs

if TYPE_CHECKING:
    from muster.hub.endpoints.amqp_client import AmqpClient
    from muster.hub.endpoints.amqp_devices import AmqpDevice, AmqpDevices
    from muster.wire.amqp.addresses import Address
    from muster.wire.amqp.deliveries import Delivery
    from muster.wire.amqp.link import Link

_CREDIT: Final = MAX_IN_FLIGHT
_MAX_REPLY: Final = MAX_PAYLOAD + 4_096
"""Bytes of an answer with all that is around its payload."""


@final
class MethodLinks:
    """A `LinkService` for the links of direct methods.

    Args:
        devices: who is connected.
    """

    def __init__(self, devices: AmqpDevices) -> None:
        self._devices = devices

    def takes(self, link: Link, address: Address) -> bool:
        """Tell whether it is a link of methods, either way."""
        return self._devices.named(address, "methods/devicebound") is not None

    async def attach(self, client: AmqpClient, link: Link, address: Address) -> LinkHandler:
        """Accept one of a pair."""
        device = await self._devices.of(client, link, address, "methods/devicebound")
        handler = _MethodLink(device, link)
        device.add(link)
        device.methods.add(link)
        if isinstance(link, ReceivingLink):
            link.accept(_CREDIT, max_message_size=_MAX_REPLY)
        else:
            link.accept()
        device.takes_methods()
        return handler


@final
class _MethodLink(LinkHandler):
    def __init__(self, device: AmqpDevice, link: Link) -> None:
        self._device = device
        self._link = link

    def received(self, deliveries: list[Delivery]) -> None:
        """Take answers. Each is accepted, or Node's would never be over (hub-device.md 12.3)."""
        for delivery in deliveries:
            self._answered(delivery.payload)
            delivery.accept()
        self._device.touch()

    def credit_changed(self) -> None:
        """There may be room again for a call."""
        self._device.takes_methods()

    def detached(self) -> None:
        """The pair is not whole any more."""
        self._device.methods.remove(self._link)
        self._device.remove(self._link)

    def _answered(self, payload: bytes) -> None:
        answer = method_messages.answer(payload)
        connection = self._device.connection
        if connection is not None and answer is not None:
            connection.method_answered(*answer)


@final
class MethodChannel:
    """How the methods of one identity reach its client."""

    __slots__ = ("_pairs",)

    def __init__(self) -> None:
        self._pairs = Pairs()

    def add(self, link: Link) -> None:
        """Take one more link."""
        self._pairs.add(link)

    def remove(self, link: Link) -> None:
        """It is gone."""
        self._pairs.remove(link)

    @property
    def ready(self) -> bool:
        """Whether a call can be sent."""
        link = self._pairs.whole()
        return link is not None and link.queued < MAX_IN_FLIGHT

    def invoke(self, request_id: int, name: str, payload: bytes) -> None:
        """Send a call; see `Link.invoke_method`."""
        link = self._pairs.whole()
        if link is not None:
            link.send(method_messages.call(request_id, name, payload), settled=True)
