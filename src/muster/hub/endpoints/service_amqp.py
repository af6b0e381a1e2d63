"""Links of back ends: messages for devices, feedback, file notifications (hub-service.md 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, final

from muster.auth.access_policies import Right
from muster.errors import InvalidArgumentError, MusterError, NotFoundError
from muster.hub.endpoints.amqp_link import LinkHandler
from muster.hub.endpoints.amqp_queue_link import QueueLink
from muster.hub.queues import LOCK_S
from muster.model.identity import IdentityRef
from muster.model.queued_message import QueuedMessage, parse_ack
from muster.net.amqp_properties import text_of
from muster.net.tasks import spawn
from muster.wire.amqp import addresses, messages
from muster.wire.amqp.errors import RemoteProtocolError
from muster.wire.amqp.link import ReceivingLink, SendingLink
from muster.wire.amqp.messages import Data, Message, Properties
from muster.wire.amqp.performatives import Error
from muster.wire.amqp.types import Timestamp

if TYPE_CHECKING:
    from muster.hub.cloud_to_device import CloudToDevice
    from muster.hub.endpoints.amqp_client import AmqpClient
    from muster.hub.endpoints.amqp_grants import Grant
    from muster.hub.messaging import Messaging
    from muster.hub.service_bound import ServiceBound
    from muster.model.queued_message import Delivery as QueuedDelivery
    from muster.wire.amqp.addresses import Address
    from muster.wire.amqp.deliveries import Delivery
    from muster.wire.amqp.link import Link

_DEVICEBOUND: Final = "messages/devicebound"
_FEEDBACK: Final = "messages/servicebound/feedback"
_FILE_NOTIFICATIONS: Final = "messages/servicebound/filenotifications"
_TO_DEVICE: Final = "devices/*/messages/devicebound"
_TO_MODULE: Final = "devices/*/modules/*/messages/devicebound"
_ACK: Final = "iothub-ack"

_CREDIT: Final = 100
_MAX_MESSAGE: Final = 256 * 1024
"""Bytes of a message that is looked at; one over the domain's limit is refused alone."""


@final
class DeviceboundSenders:
    """A `LinkService` for back ends that send messages to devices and modules.

    Args:
        messages: the queues.
    """

    __slots__ = ("_messages",)

    def __init__(self, messages: CloudToDevice) -> None:
        self._messages = messages

    def takes(self, link: Link, address: Address) -> bool:
        """Tell whether it is a link for messages to any device."""
        return isinstance(link, ReceivingLink) and address.match(_DEVICEBOUND) is not None

    async def attach(self, client: AmqpClient, link: Link, address: Address) -> LinkHandler:
        """Accept it."""
        grant = client.grants.service(address, Right.SERVICE_CONNECT)
        cast("ReceivingLink", link).accept(_CREDIT, max_message_size=_MAX_MESSAGE)
        return _Sender(client, grant, self._messages)


@final
class _Sender(LinkHandler):
    def __init__(self, client: AmqpClient, grant: Grant, messages: CloudToDevice) -> None:
        self.grant = grant
        self._hub = grant.hub.id
        self._client = client
        self._messages = messages

    def received(self, deliveries: list[Delivery]) -> None:
        """Queue messages. They are written in the order in which they came."""
        for delivery in deliveries:
            # What comes settled earns new credit at once.
            self._client.request_began()
            spawn(self._take(delivery), "amqp message to device")

    async def _take(self, delivery: Delivery) -> None:
        try:
            await self._queue(delivery)
        finally:
            self._client.request_ended()

    async def _queue(self, delivery: Delivery) -> None:
        try:
            message = messages.decode(delivery.payload)
            await self._send(message)
        except RemoteProtocolError as error:
            delivery.reject(Error(error.condition, error.description))
        except MusterError as error:
            delivery.reject(self._client.error(error))
        except Exception as error:  # noqa: BLE001 - `fail` raises it; the client must not wait
            self._client.fail(delivery.link, error)
        else:
            delivery.accept()

    async def _send(self, message: Message) -> None:
        to = message.properties.to or ""
        queued = queued_message(message)
        found = _recipient(to)
        try:
            await self._messages.send(IdentityRef(self._hub, *found), queued)
        except NotFoundError:
            # Python and the CLI do not encode IDs, which may look as if they were.
            literal = _recipient(to.replace("%", "%25"))
            if literal == found:
                raise
            await self._messages.send(IdentityRef(self._hub, *literal), queued)


@final
class ServiceBoundLinks:
    """A `LinkService` for back ends that receive feedback or file notifications.

    Args:
        messaging: has the queues.
    """

    __slots__ = ("_queues",)

    def __init__(self, messaging: Messaging) -> None:
        self._queues = {
            _FEEDBACK: messaging.feedback,
            _FILE_NOTIFICATIONS: messaging.file_notifications,
        }

    def takes(self, link: Link, address: Address) -> bool:
        """Tell whether it is a link for either."""
        return isinstance(link, SendingLink) and address.path.lower() in self._queues

    async def attach(self, client: AmqpClient, link: Link, address: Address) -> LinkHandler:
        """Accept it, and send what waits."""
        grant = client.grants.service(address, Right.SERVICE_CONNECT)
        receiving = cast("SendingLink", link)
        handler = _ServiceBound(client, receiving, grant, self._queues[address.path.lower()])
        receiving.accept()
        handler.begin()
        return handler


@final
class _ServiceBound(QueueLink):
    def __init__(
        self, client: AmqpClient, link: SendingLink, grant: Grant, queue: ServiceBound
    ) -> None:
        self.grant = grant
        hub = grant.hub
        super().__init__(
            client,
            link,
            lambda wake: queue.attach(hub.id, wake, LOCK_S),
            lambda delivery: _service_bound(delivery, hub.name),
        )


def queued_message(message: Message) -> QueuedMessage:
    """Return a message for a device as its sender wrote it (hub-service.md 3.3).

    Raises:
        InvalidArgumentError: code `invalid-ack`.
    """
    text = text_of
    asked = message.properties
    properties = {str(name): text(value) for name, value in message.application_properties.items()}
    expiry = asked.absolute_expiry_time
    return QueuedMessage(
        message_id=text(asked.message_id),
        correlation_id=text(asked.correlation_id),
        user_id=text(asked.user_id),
        to=asked.to,
        content_type=asked.content_type,
        content_encoding=asked.content_encoding,
        expires_at=None if expiry is None else expiry / 1000,
        ack=parse_ack(properties.pop(_ACK, None)),
        properties=properties,
        body=message.data,
    )


def _recipient(to: str) -> tuple[str, str]:
    """Return for which device and module an address is.

    Raises:
        InvalidArgumentError: for none; code `invalid-recipient`.
    """
    address = addresses.parse(to)
    device = address.match(_TO_DEVICE)
    if device is not None:
        return device[0], ""
    module = address.match(_TO_MODULE)
    if module is not None:
        return module[0], module[1]
    raise InvalidArgumentError(
        "The message must be to /devices/{id}/messages/devicebound.", code="invalid-recipient"
    )


def _service_bound(delivery: QueuedDelivery, hub_name: str) -> bytes:
    message = delivery.message
    return messages.encode(
        Message(
            Data([message.body]),
            Properties(user_id=hub_name.encode(), content_type=message.content_type),
            message_annotations={
                "iothub-enqueuedtime": Timestamp(round(delivery.enqueued_at * 1000))
            },
        )
    )
