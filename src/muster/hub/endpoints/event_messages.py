"""Stored events as AMQP messages (hub-service.md 4.4).

What a sender says of itself and of its messages is the same for most of them, so it is encoded once
for all events that have it in common.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, final

from muster.hub import message_properties
from muster.model import message as messages
from muster.wire.amqp.messages import Message, Properties
from muster.wire.amqp.templates import Template, delivery_annotations
from muster.wire.amqp.types import Timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.hub.event_readers import PartitionState
    from muster.hub.telemetry import StoredRecord
    from muster.wire.amqp.types import Value

_VARYING: Final = (
    "x-opt-sequence-number",
    "x-opt-offset",
    "x-opt-enqueued-time",
    "iothub-enqueuedtime",
)
_MAX_TEMPLATES: Final = 4_096
_MAX_HEAD: Final = 1_024
"""Bounds of what is remembered: how many, and bytes of what each was made of."""


@final
class EventEncoder:
    """Encodes events; to be shared by all readers."""

    __slots__ = ("_templates",)

    def __init__(self) -> None:
        self._templates: dict[bytes, Template] = {}

    def encode(self, record: StoredRecord, before: bytes = b"") -> bytes:
        """Return an event in bytes.

        Args:
            record: as stored.
            before: see `runtime_metrics`.

        Raises:
            ValueError: the record was written by a version that is not known here.
        """
        data = record.data
        body_at = messages.body_at(data)
        head = data[:body_at]
        template = self._templates.get(head)
        if template is None:
            template = self._template(head, data)
        moment = Timestamp(record.enqueued_at * 1000)
        values = (record.sequence, str(record.offset), moment, moment)
        return template.encode(values, data[body_at:], before)

    def _template(self, head: bytes, data: bytes) -> Template:
        template = Template(_message(messages.decode(data)), _VARYING)
        if len(head) <= _MAX_HEAD:
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            self._templates[head] = template
        return template


def runtime_metrics(state: PartitionState, now: float) -> bytes:
    """Return the section that tells a reader how far behind it is (hub-service.md 4.3).

    Args:
        state: of the partition.
        now: unix seconds.
    """
    return delivery_annotations(
        {
            "last_enqueued_sequence_number": state.last_sequence,
            "last_enqueued_offset": state.last_offset,
            "last_enqueued_time_utc": Timestamp(state.last_enqueued_at * 1000),
            "runtime_info_retrieval_time_utc": Timestamp(now * 1000),
        }
    )


def _message(message: messages.Message) -> Message:
    stamp = message.stamp
    delivery = message.delivery(messages.BUILT_IN)
    found = message_properties.read(message, "" if delivery is None else delivery.enrichments)
    system = found.system
    properties = Properties(
        message_id=system.pop("message-id", None),
        user_id=_binary(system.pop("user-id", None)),
        to=system.pop("to", None),
        correlation_id=system.pop("correlation-id", None),
        content_type=_ascii(system.pop("content-type", None)),
        content_encoding=_ascii(system.pop("content-encoding", None)),
        absolute_expiry_time=_moment(system.pop("absolute-expiry-time", None)),
    )
    annotations: dict[Value, Value] = {
        name: value for name, value in _known(system.items()) if name.isascii()
    }
    annotations["iothub-connection-device-id"] = stamp.device_id
    if stamp.module_id:
        annotations["iothub-connection-module-id"] = stamp.module_id
    if stamp.auth_method is not None:
        annotations["iothub-connection-auth-method"] = stamp.auth_method
        annotations["iothub-connection-auth-generation-id"] = stamp.generation_id
    annotations["iothub-message-source"] = stamp.source
    if stamp.model_id:
        annotations["dt-dataschema"] = stamp.model_id
    return Message(
        properties=properties,
        application_properties=dict(found.application),
        message_annotations=annotations,
    )


def _known(items: Iterable[tuple[str, str | None]]) -> Iterable[tuple[str, str]]:
    return ((name, value) for name, value in items if value is not None)


def _binary(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _ascii(text: str | None) -> str | None:
    """Return what can be a symbol; anything else cannot be told and is left out."""
    return text if text is not None and text.isascii() else None


def _moment(text: str | None) -> int | None:
    """Read a moment as the SDKs write it (hub-device.md 2.4); nothing for nonsense."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)
