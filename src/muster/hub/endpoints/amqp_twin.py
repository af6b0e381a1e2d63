"""Twins over AMQP: requests over one link, answers and changes over the other.

Source: hub-device.md 3.7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from muster.errors import MusterError
from muster.hub.endpoints import amqp_errors, amqp_faults, errors
from muster.hub.endpoints.amqp_link import LinkHandler
from muster.hub.endpoints.request_pace import MAX_WAITING, REQUEST_PACE
from muster.net.amqp_requests import RequestLine
from muster.net.peer import SLOW_READER
from muster.net.routing import decode_json
from muster.wire.amqp import messages, twin_messages
from muster.wire.amqp.errors import RESOURCE_LIMIT_EXCEEDED
from muster.wire.amqp.link import ReceivingLink
from muster.wire.amqp.pairs import Pairs
from muster.wire.amqp.performatives import Error
from muster.wire.amqp.twin_messages import MAX_REQUEST, TwinAnswer, TwinOperation

if TYPE_CHECKING:
    from muster.hub.endpoints.amqp_client import AmqpClient
    from muster.hub.endpoints.amqp_devices import AmqpDevice, AmqpDevices
    from muster.wire.amqp.addresses import Address
    from muster.wire.amqp.deliveries import Delivery
    from muster.wire.amqp.link import Link, SendingLink
    from muster.wire.amqp.messages import Message

_MAX_QUEUED: Final = 100
"""Answers and changes that may wait for a client's credit."""
_TAIL: Final = "twin"


@final
class TwinLinks:
    """A `LinkService` for the links of twins.

    Args:
        devices: who is connected.
    """

    def __init__(self, devices: AmqpDevices) -> None:
        self._devices = devices

    def takes(self, link: Link, address: Address) -> bool:
        """Tell whether it is a link of a twin, either way."""
        return self._devices.named(address, _TAIL) is not None

    async def attach(self, client: AmqpClient, link: Link, address: Address) -> LinkHandler:
        """Accept one of a pair."""
        device = await self._devices.of(client, link, address, _TAIL)
        device.add(link)
        device.twin.pairs.add(link)
        handler = _TwinLink(device, link)
        if isinstance(link, ReceivingLink):
            link.accept(MAX_WAITING, max_message_size=MAX_REQUEST)
        else:
            link.accept()
        return handler


@final
class TwinChannel:
    """How the client of one identity hears of its twin.

    Attributes:
        pairs: its links.
        subscribed: where changes of desired properties go; `None` for nowhere.
    """

    __slots__ = ("pairs", "subscribed")

    def __init__(self) -> None:
        self.pairs = Pairs()
        self.subscribed: SendingLink | None = None

    def changed(self, client: AmqpClient, body: bytes, version: int) -> bool:
        """Send a change of desired properties; see `Link.desired_changed`.

        Returns:
            False when the link was detached instead, because too many messages wait.
        """
        if self.subscribed is None:
            return True
        message = twin_messages.desired_changed(body, version)
        return _send(client, self.subscribed, message)


@final
class _TwinLink(LinkHandler):
    def __init__(self, device: AmqpDevice, link: Link) -> None:
        self._device = device
        self._link = link
        self._line = RequestLine(
            link,
            REQUEST_PACE,
            device.services.clock,
            most=MAX_WAITING,
            serve=self._serve,
            failed=self._failed,
        )

    def received(self, deliveries: list[Delivery]) -> None:
        """Take requests; they are served in order, at the pace of `REQUEST_PACE`."""
        self._line.received(deliveries)

    def detached(self) -> None:
        """No answers to what waits, no changes any more."""
        device, link = self._device, self._link
        self._line.clear()
        device.twin.pairs.remove(link)
        if device.twin.subscribed is link:
            device.twin.subscribed = None
        device.remove(link)

    def _failed(self) -> None:
        self._device.client.detach(self._link, Error(amqp_errors.INTERNAL))

    async def _serve(self, delivery: Delivery, request: Message) -> None:
        device = self._device
        try:
            answer = await self._answer(request)
        except MusterError as error:
            services = device.services
            status, body = errors.device_body(
                error, services.randomness.uuid(), services.clock.now()
            )
            answer = TwinAnswer(status, body)
        delivery.accept()
        device.touch()
        link = device.twin.pairs.beside(self._link)
        if link is None:
            return
        reply = twin_messages.answer(answer, request.properties.correlation_id)
        if not _send(device.client, link, reply):
            device.ended(f"{SLOW_READER}, too many answers about the twin wait")

    async def _answer(self, request: Message) -> TwinAnswer:
        device = self._device
        twins = device.services.twins
        if device.hub.faults is not None:
            await amqp_faults.meet_request(device.hub.faults, device.ref)
        match twin_messages.operation(request):
            case TwinOperation.GET:
                document, desired_version = await twins.device_view(device.ref)
                if device.feed is not None:
                    device.feed.has(desired_version)
                return TwinAnswer(200, document)
            case TwinOperation.REPORT:
                patch: dict[str, Any] = decode_json(request.data, dict[str, Any])
                expected = twin_messages.expected_version(request)
                version = await twins.report(device.ref, patch, expected)
                return TwinAnswer(200, version=version)
            case TwinOperation.SUBSCRIBE:
                device.twin.subscribed = device.twin.pairs.beside(self._link)
                if device.feed is not None and device.twin.subscribed is not None:
                    device.feed.subscribed()
            case TwinOperation.UNSUBSCRIBE:
                device.twin.subscribed = None
        return TwinAnswer(200)


def _send(client: AmqpClient, link: SendingLink, message: Message) -> bool:
    """Send to the client, settled; one that grants no credit loses the link.

    It reads the whole twin when it comes back.

    Returns:
        Whether the link is still there.
    """
    if link.queued < _MAX_QUEUED:
        link.send(messages.encode(message), settled=True)
        return True
    client.detach(link, Error(RESOURCE_LIMIT_EXCEEDED, "Too many messages wait."))
    return False
