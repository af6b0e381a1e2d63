"""Messages that wait in a queue: what one carries, its limits, and how it can end.

Cloud-to-device messages, delivery feedback and file notifications are all of this form; the limits
are those of cloud-to-device messages. Sources: hub-device.md 7; hub-service.md 3.3 to 3.5.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec
from msgspec import Struct

from muster.errors import InvalidArgumentError, TooLargeError

MAX_SIZE: Final = 65_536
"""Bytes of a body with all its properties."""
MAX_PROPERTIES_SIZE: Final = 16_384
"""Bytes of all properties. MQTT carries them percent-encoded in a topic of 65,535 bytes at most,
and HTTP in headers, of which Node reads so many."""
MAX_ID_LENGTH: Final = 128
"""Characters of a message ID or correlation ID."""

DEFAULT_TTL_S: Final = 3_600.0
MAX_TTL_S: Final = 172_800.0
MAX_DELIVERY_COUNT: Final = 10
"""Deliveries that may be abandoned; the last one ends the message."""


class Outcome(enum.StrEnum):
    """How a message ended; `statusCode` of a feedback record."""

    SUCCESS = "Success"
    EXPIRED = "Expired"
    DELIVERY_COUNT_EXCEEDED = "DeliveryCountExceeded"
    REJECTED = "Rejected"
    PURGED = "Purged"


class Ack(enum.StrEnum):
    """Of which outcomes the sender wants to hear."""

    NONE = "none"
    POSITIVE = "positive"
    NEGATIVE = "negative"
    FULL = "full"

    def wants(self, outcome: Outcome) -> bool:
        """Tell whether an outcome becomes a feedback record."""
        if self is Ack.FULL:
            return True
        return self is (Ack.POSITIVE if outcome is Outcome.SUCCESS else Ack.NEGATIVE)


class QueuedMessage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message as its sender wrote it.

    Attributes:
        message_id: `None` for none, as with every text here.
        correlation_id: likewise.
        user_id: likewise.
        to: the address the sender gave.
        content_type: likewise.
        content_encoding: likewise.
        expires_at: the expiry the sender asked for, unix seconds; `None` for the usual one.
        ack: of what the sender wants to hear.
        properties: the sender's own; a value may be `None`.
        body: any bytes.
    """

    message_id: str | None = None
    correlation_id: str | None = None
    user_id: str | None = None
    to: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    expires_at: float | None = None
    ack: Ack = Ack.NONE
    properties: dict[str, str | None] = {}
    body: bytes = b""


class Delivery(Struct, frozen=True):
    """A message that one receiver holds, out of everybody else's sight.

    Attributes:
        sequence_number: grows with every message of a queue.
        lock_token: GUID by which the receiver settles it.
        message: what was sent.
        enqueued_at: when it was accepted, unix seconds.
        expires_at: when it ends if it is not held then, unix seconds.
        delivery_count: how often it was abandoned before.
    """

    sequence_number: int
    lock_token: str
    message: QueuedMessage
    enqueued_at: float
    expires_at: float
    delivery_count: int


def parse_ack(text: str | None) -> Ack:
    """Read an `iothub-ack` property; nothing means `none`.

    Raises:
        InvalidArgumentError: it is none of the four; code `invalid-ack`.
    """
    try:
        return Ack((text or Ack.NONE).lower())
    except ValueError:
        raise InvalidArgumentError(
            "iothub-ack must be none, positive, negative or full.", code="invalid-ack"
        ) from None


def check(message: QueuedMessage, now: float) -> float:
    """Check a cloud-to-device message against its limits.

    Args:
        message: what is to be sent.
        now: unix seconds.

    Returns:
        When it expires, unix seconds.

    Raises:
        TooLargeError: codes `message-too-large`, `properties-too-large`.
        InvalidArgumentError: codes `invalid-message-id`, `invalid-property`, `invalid-expiry`.
    """
    for text in (message.message_id, message.correlation_id):
        if text is not None and len(text) > MAX_ID_LENGTH:
            raise InvalidArgumentError(
                f"A message ID or correlation ID has at most {MAX_ID_LENGTH} characters.",
                code="invalid-message-id",
            )
    for text in (message.content_type, message.content_encoding):
        if text is not None and not text.isascii():
            # AMQP has symbols for them.
            raise InvalidArgumentError(
                "A content type or content encoding has ASCII characters only.",
                code="invalid-property",
            )
    _check_size(message)
    if message.expires_at is None:
        return now + DEFAULT_TTL_S
    if not now < message.expires_at <= now + MAX_TTL_S:
        raise InvalidArgumentError(
            "The expiry must lie in the future, two days ahead at most.", code="invalid-expiry"
        )
    return message.expires_at


def _check_size(message: QueuedMessage) -> None:
    texts = [
        message.message_id,
        message.correlation_id,
        message.user_id,
        message.to,
        message.content_type,
        message.content_encoding,
    ]
    for name, value in message.properties.items():
        if not name:
            raise InvalidArgumentError("A property has no name.", code="invalid-property")
        texts += (name, value)
    size = sum(len(text.encode(errors="replace")) for text in texts if text)
    if size > MAX_PROPERTIES_SIZE:
        raise TooLargeError(
            f"The properties have {size} bytes, {MAX_PROPERTIES_SIZE} are allowed.",
            code="properties-too-large",
        )
    if size + len(message.body) > MAX_SIZE:
        raise TooLargeError(
            f"The message has {size + len(message.body)} bytes, {MAX_SIZE} are allowed.",
            code="message-too-large",
        )


def encode_head(message: QueuedMessage) -> str:
    """Return everything but the body as JSON text; `decode` reads it."""
    return _encode(msgspec.structs.replace(message, body=b"")).decode()


def decode(head: str, body: bytes) -> QueuedMessage:
    """Return the message that `encode_head` took the head of."""
    return msgspec.structs.replace(_decode(head), body=body)


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(QueuedMessage).decode
