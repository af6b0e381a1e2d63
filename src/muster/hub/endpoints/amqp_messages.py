"""Messages between AMQP's sections and what the hub keeps (hub-device.md 3.4, 3.5).

Device to cloud: a message becomes a record with a property bag, as from MQTT. Cloud to device: a
queued message becomes one with the exact types that the C and C# SDKs insist on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from muster.errors import TooLargeError
from muster.model.message import MAX_BAG_SIZE, MAX_MESSAGE_SIZE, encode_head
from muster.model.queued_message import Ack
from muster.net.amqp_properties import properties_of
from muster.wire.amqp import messages
from muster.wire.amqp.messages import BATCH_FORMAT, Data, Message, Properties
from muster.wire.amqp.types import Timestamp, UByte, ULong
from muster.wire.mqtt import property_bag

if TYPE_CHECKING:
    from muster.model.queued_message import Delivery as QueuedDelivery
    from muster.wire.amqp.deliveries import Delivery

_DATA: Final = b"\0\x53\x75"
"""How a data section begins; a binary value follows."""
_SHORT: Final = b"\xa0"


@final
class Records:
    """Makes records of what comes over one link.

    Devices repeat themselves: where all that stands before the body is as it was in the last
    message, it is not read again.
    """

    __slots__ = ("_before", "_head", "_room")

    def __init__(self) -> None:
        self._before = b""
        self._head = b""
        self._room = 0

    def of(self, delivery: Delivery) -> list[bytes]:
        """Return the records of a message or batch, without their stamps.

        Raises:
            RemoteProtocolError: it is no message.
            TooLargeError: a message is over the limit; code `message-too-large`.
        """
        if delivery.message_format == BATCH_FORMAT:
            return [self._record(payload) for payload in messages.decode_batch(delivery.payload)]
        return [self._record(delivery.payload)]

    def _record(self, payload: bytes) -> bytes:
        if self._before and payload.startswith(self._before):
            start = len(self._before)
            start += 2 if payload[start : start + 1] == _SHORT else 5
            size = len(payload) - start
            if size >= 0 and payload[:start].endswith(_binary(size)):
                if size > self._room:
                    raise _too_large(size - self._room + MAX_MESSAGE_SIZE)
                return self._head + payload[start:]
        message = messages.decode(payload)
        body = message.data
        self._head, size = _head(message)
        self._room = MAX_MESSAGE_SIZE - size
        self._before = b""
        if len(body) > self._room:
            raise _too_large(size + len(body))
        before = payload[: len(payload) - len(body)]
        ending = _DATA + _binary(len(body))
        if before.endswith(ending):
            self._before = before[: len(before) - len(ending) + len(_DATA)]
        return self._head + body


def devicebound(delivery: QueuedDelivery, to: str) -> bytes:
    """Return a cloud-to-device message for a client.

    Args:
        delivery: the message.
        to: its address, if the sender gave none.
    """
    message = delivery.message
    application: dict[Any, Any] = {
        # The C SDK takes strings only.
        name: value or ""
        for name, value in message.properties.items()
    }
    if message.ack is not Ack.NONE:
        application["iothub-ack"] = message.ack.value
    return messages.encode(
        Message(
            Data([message.body]),
            Properties(
                message_id=message.message_id,
                user_id=None if message.user_id is None else message.user_id.encode(),
                to=message.to or to,
                correlation_id=message.correlation_id,
                content_type=message.content_type,
                content_encoding=message.content_encoding,
                absolute_expiry_time=(
                    None if message.expires_at is None else round(message.expires_at * 1000)
                ),
            ),
            application,
            {
                "x-opt-lock-token": delivery.lock_token,
                "x-opt-sequence-number": ULong(delivery.sequence_number),
                "iothub-enqueuedtime": Timestamp(round(delivery.enqueued_at * 1000)),
                "iothub-deliverycount": UByte(min(delivery.delivery_count, 255)),
            },
        )
    )


def _head(message: Message) -> tuple[bytes, int]:
    """Return what stands in a record before the body, and how much of the limit it takes."""
    properties = properties_of(message)
    size = 0
    for name, text in properties:
        size += len(name.encode(errors="replace")) + len(text.encode(errors="replace"))
    bag = property_bag.encode(properties)
    if len(bag) > MAX_BAG_SIZE:
        raise _too_large(size)
    return encode_head(bag), size


def _binary(size: int) -> bytes:
    """Return how a binary value of this size begins."""
    return _SHORT + bytes((size,)) if size < 256 else b"\xb0" + size.to_bytes(4)


def _too_large(size: int) -> TooLargeError:
    return TooLargeError(
        f"The message has {size} bytes, {MAX_MESSAGE_SIZE} are allowed.", code="message-too-large"
    )
