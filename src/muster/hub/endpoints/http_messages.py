"""Messages as HTTP carries them: properties in headers, batches in JSON (hub-device.md 4)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from msgspec import Struct

from muster.errors import InvalidArgumentError, TooLargeError
from muster.model.identity import wire_time
from muster.model.message import MAX_BAG_SIZE, MAX_MESSAGE_SIZE, encode_head
from muster.model.queued_message import Ack
from muster.net.routing import CasedName
from muster.wire.mqtt import property_bag

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.model.queued_message import Delivery

BATCH_TYPE: Final = "application/vnd.microsoft.iothub.json"

_OWN: Final = "iothub-app-"
_SYSTEM: Final = {
    "iothub-messageid": "$.mid",
    "iothub-correlationid": "$.cid",
    "iothub-userid": "$.uid",
    "iothub-to": "$.to",
    "iothub-contenttype": "$.ct",
    "iothub-contentencoding": "$.ce",
    "iothub-expiry": "$.exp",
    "iothub-ack": "iothub-ack",
    "iothub-outputname": "$.on",
    "iothub-creationtimeutc": "$.ctime",
    "iothub-messageschema": "$.schema",
    "iothub-interface-id": "$.ifid",
    "dt-subject": "$.sub",
}
"""Headers of a device-to-cloud message, and what they are in a property bag."""
_NOT_A_TOKEN: Final = re.compile(r"[^A-Za-z0-9!#$%&'*+.^_`|~-]")
_NOT_PRINTABLE: Final = re.compile(r"[^ -~]")


class _Entry(Struct, rename="camel"):
    """One message of a batch."""

    body: str = ""
    base64_encoded: bool = True
    properties: dict[str, Any] = {}


Batch = list[_Entry]
"""The JSON of a batch."""


def single(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
    """Return the record of one message, without its stamp.

    Args:
        headers: names as they were sent, and values.
        body: of the message.

    Raises:
        TooLargeError: code `message-too-large`.
    """
    properties = []
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1")
        if name.lower() in _SYSTEM or name.lower().startswith(_OWN):
            properties.append((_bag_name(name), _text(raw_value)))
    return _record(properties, body)


def batch(entries: Batch) -> list[bytes]:
    """Return the records of a batch, without their stamps.

    Raises:
        InvalidArgumentError: a body is not base64; code `invalid-message-body`.
        TooLargeError: all messages together are over the limit of one; code
            `message-too-large`.
    """
    records = []
    left = MAX_MESSAGE_SIZE
    for entry in entries:
        record = _record(
            [(_bag_name(name), _value(value)) for name, value in entry.properties.items()],
            _body(entry),
        )
        left -= len(record)
        if left < 0:
            raise _too_large()
        records.append(record)
    return records


def delivery_headers(delivery: Delivery, to: str) -> list[tuple[bytes, bytes]]:
    """Return the headers of a cloud-to-device message.

    What a header cannot hold is percent-encoded. Names are in the case that the C SDK looks for.

    Args:
        delivery: the message.
        to: its address, if the sender gave none.
    """
    message = delivery.message
    expires_at = message.expires_at
    headers = [
        ("ETag", f'"{delivery.lock_token}"'),
        ("iothub-messageid", message.message_id),
        ("iothub-correlationid", message.correlation_id),
        ("iothub-userid", message.user_id),
        ("iothub-to", message.to or to),
        ("iothub-expiry", None if expires_at is None else wire_time(expires_at)),
        ("iothub-ack", None if message.ack is Ack.NONE else message.ack.value),
        ("iothub-sequencenumber", str(delivery.sequence_number)),
        ("iothub-enqueuedtime", wire_time(delivery.enqueued_at)),
        ("iothub-deliverycount", str(delivery.delivery_count)),
        ("ContentType", message.content_type),
        ("ContentEncoding", message.content_encoding),
    ]
    headers += [
        (_OWN + _escape(_NOT_A_TOKEN, name), value or "")
        for name, value in message.properties.items()
    ]
    return [
        (CasedName(name.encode()), _escape(_NOT_PRINTABLE, value).encode())
        for name, value in headers
        if value is not None
    ]


def _bag_name(name: str) -> str:
    known = _SYSTEM.get(name.lower())
    if known is not None:
        return known
    return name[len(_OWN) :] if name.lower().startswith(_OWN) else name


def _record(properties: list[tuple[str, str]], body: bytes) -> bytes:
    size = len(body) + sum(len(name.encode()) + len(value.encode()) for name, value in properties)
    bag = property_bag.encode(properties)
    if size > MAX_MESSAGE_SIZE or len(bag) > MAX_BAG_SIZE:
        raise _too_large()
    return encode_head(bag) + body


def _body(entry: _Entry) -> bytes:
    if not entry.base64_encoded:
        return entry.body.encode()
    try:
        return base64.b64decode(entry.body, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgumentError(
            "The body of a message in the batch is not base64.", code="invalid-message-body"
        ) from None


def _value(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _escape(unfit: re.Pattern[str], text: str) -> str:
    return unfit.sub(lambda found: quote(found[0], safe="", errors="replace"), text)


def _too_large() -> TooLargeError:
    return TooLargeError(
        f"The message is larger than {MAX_MESSAGE_SIZE} bytes.", code="message-too-large"
    )
