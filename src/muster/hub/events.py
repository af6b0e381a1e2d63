"""A stored message as readers see it.

Names of system properties are those of the Event Hubs SDKs (hub-device.md 2.4, 9).
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import msgspec

from muster.hub import message_properties
from muster.model import message as messages
from muster.model.identity import wire_time

if TYPE_CHECKING:
    from muster.hub.telemetry import StoredRecord


class Event(msgspec.Struct, rename="camel", kw_only=True):
    """One message: of a device, or of the service about one.

    Attributes:
        sequence_number: counts the messages of the partition.
        partition: which.
        offset: where it stands in the log.
        enqueued_time: when it arrived.
        device_id: who sent it, or whom it is about.
        module_id: likewise, `None` for the device itself.
        source: what it is, a value of `iothub-message-source`.
        system_properties: by the names of the Event Hubs SDKs.
        properties: the sender's own, and enrichments; `None` for a name without a value.
        body: JSON as JSON, other text as text, anything else in base64.
        body_encoding: `json`, `utf-8` or `base64`.
    """

    sequence_number: int
    partition: int
    offset: int
    enqueued_time: str
    device_id: str
    module_id: str | None
    source: str
    system_properties: dict[str, str | None]
    properties: dict[str, str | None]
    body: Any
    body_encoding: str


def decode(record: StoredRecord, endpoint: int = messages.BUILT_IN) -> Event | None:
    """Return the message a record holds, as an endpoint gets it; `None` when it does not.

    Raises:
        ValueError: the record was written by a version that is not known here.
    """
    message = messages.decode(record.data)
    delivery = message.delivery(endpoint)
    if delivery is None:
        return None
    stamp = message.stamp
    enqueued_time = wire_time(record.enqueued_at)
    found = message_properties.read(message, delivery.enrichments)
    system = found.system
    system["iothub-connection-device-id"] = stamp.device_id
    if stamp.module_id:
        system["iothub-connection-module-id"] = stamp.module_id
    if stamp.auth_method is not None:
        system["iothub-connection-auth-method"] = stamp.auth_method
        system["iothub-connection-auth-generation-id"] = stamp.generation_id
    system["iothub-enqueuedtime"] = enqueued_time
    system["iothub-message-source"] = stamp.source
    if stamp.model_id:
        system["dt-dataschema"] = stamp.model_id
    body, encoding = _body(message.body)
    return Event(
        sequence_number=record.sequence,
        partition=record.partition,
        offset=record.offset,
        enqueued_time=enqueued_time,
        device_id=stamp.device_id,
        module_id=stamp.module_id or None,
        source=stamp.source,
        system_properties=system,
        properties=found.application,
        body=body,
        body_encoding=encoding,
    )


def _body(raw: bytes) -> tuple[Any, str]:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return base64.b64encode(raw).decode(), "base64"
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return text, "utf-8"
    # On one line, and every number exactly as it was sent.
    return msgspec.Raw(msgspec.json.format(raw, indent=-1)), "json"
