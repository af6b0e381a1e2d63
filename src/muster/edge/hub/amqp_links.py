"""The links that clients attach: which there are, and those over which clients send."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple, final

from muster.edge.hub import errors
from muster.edge.hub.amqp_errors import INTERNAL, error_of
from muster.edge.hub.amqp_handler import LinkHandler
from muster.edge.hub.amqp_identity import MAX_QUEUED
from muster.edge.hub.amqp_requests import methods, twin
from muster.edge.hub.amqp_sending import Devicebound, Inputs
from muster.edge.hub.broker import Bag
from muster.edge.hub.mqtt_session import MAX_PENDING
from muster.errors import MusterError, NotFoundError, TooLargeError
from muster.model.message import MAX_MESSAGE_SIZE
from muster.net.amqp_properties import properties_of
from muster.net.tasks import spawn
from muster.wire.amqp import cbs as claims
from muster.wire.amqp import messages
from muster.wire.amqp.errors import RemoteProtocolError
from muster.wire.amqp.link import ReceivingLink, SendingLink
from muster.wire.amqp.messages import BATCH_FORMAT
from muster.wire.amqp.performatives import Error
from muster.wire.mqtt import property_bag

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.edge.hub.amqp_head import AmqpClient
    from muster.edge.hub.amqp_identity import AmqpIdentity
    from muster.wire.amqp.addresses import Address
    from muster.wire.amqp.deliveries import Delivery
    from muster.wire.amqp.link import Link

MAX_TRANSFER: Final = MAX_MESSAGE_SIZE + 65_536
"""Bytes of a delivery: a message with all that is around it, or a batch."""

_TELEMETRY_CREDIT: Final = 500
_CBS_CREDIT: Final = 100


class Purpose(NamedTuple):
    """What a link is for.

    Attributes:
        device_id: of the identity in its address.
        module_id: likewise, empty for a device.
        attach: accepts it, once the identity is logged in.
    """

    device_id: str
    module_id: str
    attach: Callable[[AmqpIdentity, Link], LinkHandler]


def purpose(link: Link, address: Address) -> Purpose:
    """Return what a link is for (hub-device.md 3.3).

    Raises:
        NotFoundError: there is no such address.
    """
    sending = isinstance(link, SendingLink)
    table: tuple[tuple[str, Callable[[AmqpIdentity, Link], LinkHandler] | None], ...] = (
        ("messages/events", _inputs if sending else _telemetry),
        ("messages/devicebound", _devicebound if sending else None),
        ("methods/devicebound", methods),
        ("twin", twin),
    )
    for tail, attach in table:
        device = address.match(f"devices/*/{tail}")
        module = address.match(f"devices/*/modules/*/{tail}")
        names = device or module
        if names is None or attach is None or (attach is _inputs and module is None):
            continue
        return Purpose(names[0], names[1] if module is not None else "", attach)
    raise NotFoundError("There is no such address.", code="address-not-found")


def cbs(client: AmqpClient, link: Link) -> LinkHandler:
    """Accept a link of `$cbs`."""
    if isinstance(link, SendingLink):
        link.accept()
        return _Replies()
    link.accept(_CBS_CREDIT, max_message_size=claims.MAX_REQUEST)
    return _Requests(client)


@final
class _Replies(LinkHandler):
    """The way answers about tokens go."""


@final
class _Requests(LinkHandler):
    """The way tokens come."""

    def __init__(self, client: AmqpClient) -> None:
        self._client = client

    def received(self, deliveries: list[Delivery]) -> None:
        """Take requests, in order."""
        for delivery in deliveries:
            spawn(self._serve(delivery), "edge hub amqp put-token")

    async def _serve(self, delivery: Delivery) -> None:
        client = self._client
        status, text, message_id = 200, "OK", None
        try:
            async with client.turn:
                request = messages.decode(delivery.payload)
                message_id = request.properties.message_id
                await client.put_token(claims.token_of(request))
        except RemoteProtocolError as error:
            status, text = 400, error.description
        except MusterError as error:
            status, text = errors.status(error), error.message
            await asyncio.sleep(1.0)
        delivery.accept()
        for link, handler in reversed(list(client.handlers.items())):
            if type(handler) is _Replies and isinstance(link, SendingLink):
                if link.queued < MAX_QUEUED:
                    answer = claims.answer(message_id, status, text)
                    link.send(messages.encode(answer), settled=True)
                return


def _telemetry(identity: AmqpIdentity, link: Link) -> LinkHandler:
    assert isinstance(link, ReceivingLink)  # noqa: S101 - by `purpose`
    identity.add(link)
    link.accept(_TELEMETRY_CREDIT, max_message_size=MAX_TRANSFER)
    return _Telemetry(identity, link)


@final
class _Telemetry(LinkHandler):
    """Messages of the client."""

    def __init__(self, identity: AmqpIdentity, link: ReceivingLink) -> None:
        self._identity = identity
        self._link = link
        self._pending = 0
        self._paused = False

    def received(self, deliveries: list[Delivery]) -> None:
        """Queue messages; they are accepted when that has been committed."""
        taken: list[Delivery] = []
        found: list[tuple[Bag, bytes]] = []
        for delivery in deliveries:
            try:
                found += self._read(delivery)
            except RemoteProtocolError as error:
                delivery.reject(Error(error.condition, error.description))
            except MusterError as error:
                delivery.reject(error_of(error))
            else:
                taken.append(delivery)
        size = sum(len(bag.text) + len(body) for bag, body in found)
        self._pending += size
        if self._pending > MAX_PENDING and not self._paused:
            self._paused = True
            self._identity.client.reading.pause()
        # Tasks begin in the order in which they were made, so messages keep theirs.
        spawn(self._accept(taken, found, size), "edge hub amqp telemetry")

    def detached(self) -> None:
        """The link is gone; what came over it is queued all the same."""
        self._resume()
        self._identity.remove(self._link)

    def _read(self, delivery: Delivery) -> list[tuple[Bag, bytes]]:
        batch = delivery.message_format == BATCH_FORMAT
        parts = messages.decode_batch(delivery.payload) if batch else [delivery.payload]
        found: list[tuple[Bag, bytes]] = []
        for part in parts:
            message = messages.decode(part)
            bag = Bag(self._identity.ref, property_bag.encode(properties_of(message)))
            body = message.data
            if self._identity.services.broker.too_large(bag, body):
                raise TooLargeError(f"A message has more than {MAX_MESSAGE_SIZE} bytes.")
            found.append((bag, body))
        return found

    async def _accept(
        self, deliveries: list[Delivery], found: list[tuple[Bag, bytes]], size: int
    ) -> None:
        identity = self._identity
        try:
            await identity.services.broker.accept(identity.ref, found)
        except MusterError as error:
            # Not accepted, so the client sends it again.
            identity.client.detach(self._link, Error(INTERNAL, error.message))
            return
        finally:
            self._pending -= size
        for delivery in deliveries:
            delivery.accept()
        if self._pending <= MAX_PENDING // 2:
            self._resume()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._identity.client.reading.resume()


def _inputs(identity: AmqpIdentity, link: Link) -> LinkHandler:
    assert isinstance(link, SendingLink)  # noqa: S101 - by `purpose`
    identity.add(link)
    link.accept()
    return Inputs(identity, link)


def _devicebound(identity: AmqpIdentity, link: Link) -> LinkHandler:
    assert isinstance(link, SendingLink)  # noqa: S101 - by `purpose`
    identity.add(link)
    link.accept()
    return Devicebound(identity, link)
