"""The properties of an AMQP message as those of a property bag (hub-device.md 2.4, 3.4)."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from muster.model.identity import wire_time
from muster.wire.amqp.messages import Data, Message, Properties
from muster.wire.amqp.types import Timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable

_FROM_APPLICATION: Final = {
    "iothub-outputname": "$.on",
    "iothub-creation-time-utc": "$.ctime",
    "iothub-message-schema": "$.schema",
}
"""Application properties that are system properties in a property bag."""
_FROM_ANNOTATIONS: Final = {
    "dt-subject": "$.sub",
    "iothub-interface-id": "$.ifid",
    "Diagnostic-Id": "$.diagid",
    "Correlation-Context": "$.diagctx",
}
"""Message annotations that are."""


def properties_of(message: Message) -> list[tuple[str, str]]:
    """Return the properties of a message, system properties first, as a property bag has them."""
    properties = [(name, value) for name, value in _system(message) if value is not None]
    for name, value in message.application_properties.items():
        properties.append((_FROM_APPLICATION.get(name, str(name)), text_of(value) or ""))
    return properties


def message_of(
    properties: Iterable[tuple[str, str | None]],
    body: bytes,
    *,
    to: str,
    annotations: dict[Any, Any],
) -> Message:
    """Return a message for a client (hub-device.md 3.5).

    Args:
        properties: as a property bag has them. What is no property of an AMQP message and no
            application property is left out.
        body: content.
        to: its address, where the properties have none.
        annotations: message annotations.
    """
    system: dict[str, str] = {}
    application: dict[Any, Any] = {}
    for name, value in properties:
        if not name.startswith("$."):
            # The C SDK takes strings only.
            application[name] = value or ""
        elif value is not None:
            system[name] = value
    user_id = system.get("$.uid")
    return Message(
        Data([body]),
        Properties(
            message_id=system.get("$.mid"),
            user_id=None if user_id is None else user_id.encode(),
            to=system.get("$.to") or to,
            correlation_id=system.get("$.cid"),
            content_type=system.get("$.ct"),
            content_encoding=system.get("$.ce"),
            absolute_expiry_time=_milliseconds(system.get("$.exp")),
        ),
        application,
        annotations,
    )


def text_of(value: Any) -> str | None:
    """Return a property's value as text; the hub keeps nothing else. `None` for null."""
    if value is None or type(value) is str:
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Timestamp):
        return _time(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, str | int | float | UUID):
        return str(value)
    return repr(value)


def _system(message: Message) -> list[tuple[str, str | None]]:
    """Return the system properties, in the order in which clients write them on MQTT."""
    properties = message.properties
    found = [
        ("$.mid", text_of(properties.message_id)),
        ("$.cid", text_of(properties.correlation_id)),
        ("$.uid", text_of(properties.user_id)),
        ("$.to", text_of(properties.to)),
        ("$.ct", text_of(properties.content_type)),
        ("$.ce", text_of(properties.content_encoding)),
        ("$.exp", _time(properties.absolute_expiry_time)),
        ("$.ctime", _time(properties.creation_time)),
    ]
    annotations = message.message_annotations
    if annotations:
        found += [
            (name, text_of(annotations[key]))
            for key, name in _FROM_ANNOTATIONS.items()
            if key in annotations
        ]
    return found


def _time(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    try:
        return wire_time(milliseconds / 1000)
    except (OverflowError, ValueError):
        # Beyond what a calendar has: kept as it is.
        return str(milliseconds)


def _milliseconds(text: str | None) -> int | None:
    """Return a time of a property bag as AMQP has it; `None` when it is none."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
