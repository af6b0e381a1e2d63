"""Messages: what the payload of a delivery means (3.2).

A delivery's payload is the encoded message; `decode` and `encode` go between it and `Message`.
Maps, message-id and correlation-id hold typed values (see `types`), so that an answer's
correlation-id has exactly the type of the request's message-id (hub-service.md 0.3).

Section numbers are those of the OASIS standard "AMQP Version 1.0".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final
from uuid import UUID

from muster.wire.amqp import decoder, encoder
from muster.wire.amqp.composites import (
    BINARY,
    BOOLEAN,
    STRING,
    SYMBOL,
    TIMESTAMP,
    UBYTE,
    UINT,
    Field,
    Kind,
    Layout,
)
from muster.wire.amqp.errors import LocalProtocolError, RemoteProtocolError
from muster.wire.amqp.types import Array, Described, Symbol, ULong, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Map: TypeAlias = dict[Value, Value]
    MessageId: TypeAlias = ULong | UUID | bytes | str

BATCH_FORMAT: Final = 0x8001_3700
"""Message format of a batch: the data sections are encoded messages (hub-device.md 3.4)."""


@final
@dataclass(slots=True)
class Header:
    """How the message is to be delivered (3.2.1). `ttl` in milliseconds."""

    durable: bool = False
    priority: int = 4
    ttl: int | None = None
    first_acquirer: bool = False
    delivery_count: int = 0


@final
@dataclass(slots=True)
class Properties:
    """The immutable properties (3.2.4). Times in milliseconds since 1970, UTC."""

    message_id: MessageId | None = None
    user_id: bytes | None = None
    to: str | None = None
    subject: str | None = None
    reply_to: str | None = None
    correlation_id: MessageId | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    absolute_expiry_time: int | None = None
    creation_time: int | None = None
    group_id: str | None = None
    group_sequence: int | None = None
    reply_to_group_id: str | None = None


@final
@dataclass(slots=True)
class Data:
    """A body of binary sections (3.2.6)."""

    sections: list[bytes] = field(repr=False)


@final
@dataclass(slots=True)
class AmqpSequence:
    """A body of lists (3.2.7)."""

    sections: list[list[Value]] = field(repr=False)


@final
@dataclass(slots=True)
class AmqpValue:
    """A body of one value (3.2.8)."""

    value: Value = field(repr=False)


Body: TypeAlias = Data | AmqpSequence | AmqpValue


@final
@dataclass(slots=True)
class Message:
    """A message, all sections of it.

    Attributes:
        body: None where the peer sent none, which the standard does not allow and clients do.
        application_properties: keys strings.
        delivery_annotations: keys symbols or ulongs; so those of message annotations and footer.
    """

    body: Body | None = None
    properties: Properties = field(default_factory=Properties)
    application_properties: Map = field(default_factory=dict)
    message_annotations: Map = field(default_factory=dict)
    delivery_annotations: Map = field(default_factory=dict)
    header: Header | None = None
    footer: Map = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        """The body in bytes: its data sections, or a binary or string; else nothing."""
        body = self.body
        if isinstance(body, Data):
            sections = body.sections
            return sections[0] if len(sections) == 1 else b"".join(sections)
        if isinstance(body, AmqpValue):
            value = body.value
            if isinstance(value, str):
                return value.encode()
            if isinstance(value, bytes):
                return value
        return b""


def decode(payload: bytes) -> Message:
    """Return the message that a delivery's payload is.

    Raises:
        RemoteProtocolError: it is none; the delivery can be rejected with the error's condition.
    """
    message = Message()
    try:
        _read(payload, message)
    except decoder.MALFORMED:
        raise RemoteProtocolError("message is cut off or malformed") from None
    return message


def decode_batch(payload: bytes) -> list[bytes]:
    """Return the encoded messages in a delivery of `BATCH_FORMAT`.

    Raises:
        RemoteProtocolError: it holds none.
    """
    body = decode(payload).body
    if not isinstance(body, Data):
        raise RemoteProtocolError("batch has no data section")
    return body.sections


def encode(message: Message) -> bytes:
    """Return a message in bytes, for `SendingLink.send`.

    Raises:
        LocalProtocolError: a value is not of a type that AMQP or its place allows.
    """
    parts: list[bytes] = []
    if message.header is not None:
        parts.append(_HEADER.encode(message.header))
    if message.delivery_annotations:
        parts += b"\0\x53\x71", _encode_annotations(message.delivery_annotations)
    if message.message_annotations:
        parts += b"\0\x53\x72", _encode_annotations(message.message_annotations)
    if message.properties != _NO_PROPERTIES:
        parts.append(_PROPERTIES.encode(message.properties))
    if message.application_properties:
        for key in message.application_properties:
            if type(key) is not str:
                raise LocalProtocolError("application property has a key that is no string")
        parts += b"\0\x53\x74", encoder.encode(message.application_properties)
    parts += _encode_body(message.body)
    if message.footer:
        parts += b"\0\x53\x78", _encode_annotations(message.footer)
    return b"".join(parts)


def _read(payload: bytes, message: Message) -> None:
    position = 0
    size = len(payload)
    seen: set[int] = set()
    while position < size:
        if payload[position] != 0:
            raise RemoteProtocolError("message section has no descriptor")
        if payload[position + 1] == 0x53:
            code = payload[position + 2]
            position += 3
        else:
            descriptor, position = decoder.read(payload, position + 1)
            code = _code_of(descriptor)
        reader = _SECTION_READERS.get(code)
        if reader is None:
            raise RemoteProtocolError("message has a section of no known type")
        if code in seen and code not in _REPEATED:
            raise RemoteProtocolError("message has a section twice")
        seen.add(code)
        value, position = decoder.read(payload, position)
        reader(message, value)


def _read_header(message: Message, value: Value) -> None:
    message.header = _HEADER.from_list(_list(value))


def _read_properties(message: Message, value: Value) -> None:
    message.properties = _PROPERTIES.from_list(_list(value))


def _read_delivery_annotations(message: Message, value: Value) -> None:
    message.delivery_annotations = _annotations(value)


def _read_message_annotations(message: Message, value: Value) -> None:
    message.message_annotations = _annotations(value)


def _read_footer(message: Message, value: Value) -> None:
    message.footer = _annotations(value)


def _read_application_properties(message: Message, value: Value) -> None:
    if not isinstance(value, dict):
        raise RemoteProtocolError("application properties are no map")
    for key in value:
        if not isinstance(key, str):
            raise RemoteProtocolError("application property has a key that is no string")
    message.application_properties = value


def _read_data(message: Message, value: Value) -> None:
    if type(value) is not bytes:
        raise RemoteProtocolError("data section is not binary")
    if message.body is None:
        message.body = Data([value])
    elif isinstance(message.body, Data):
        message.body.sections.append(value)
    else:
        raise RemoteProtocolError(_TWO_BODIES)


def _read_sequence(message: Message, value: Value) -> None:
    if message.body is None:
        message.body = AmqpSequence([_list(value)])
    elif isinstance(message.body, AmqpSequence):
        message.body.sections.append(_list(value))
    else:
        raise RemoteProtocolError(_TWO_BODIES)


def _read_value(message: Message, value: Value) -> None:
    if message.body is not None:
        raise RemoteProtocolError(_TWO_BODIES)
    message.body = AmqpValue(value)


def _list(value: Value) -> list[Value]:
    if not isinstance(value, list):
        raise RemoteProtocolError("message section is no list")
    return value


def _annotations(value: Value) -> dict[Value, Value]:
    if not isinstance(value, dict):
        raise RemoteProtocolError("annotations are no map")
    for key in value:
        # Strings are forgiven; ulongs are reserved and have no meaning.
        if not isinstance(key, str | ULong):
            raise RemoteProtocolError("annotation has a key that is no symbol")
    return value


def _encode_annotations(annotations: dict[Value, Value]) -> bytes:
    """Return annotations in bytes; plain strings as keys are written as the symbols they are."""
    return encoder.encode(
        {Symbol(key) if type(key) is str else key: item for key, item in annotations.items()}
    )


def _encode_body(body: Body | None) -> Iterable[bytes]:
    if isinstance(body, Data):
        for section in body.sections:
            yield b"\0\x53\x75"
            yield encoder.encode_binary(section)
    elif isinstance(body, AmqpSequence):
        for items in body.sections:
            yield b"\0\x53\x76"
            yield encoder.encode(items)
    elif isinstance(body, AmqpValue):
        yield b"\0\x53\x77"
        yield encoder.encode(body.value)


def _code_of(descriptor: Value) -> int:
    if isinstance(descriptor, ULong):
        return int(descriptor)
    return _SECTIONS.get(descriptor, -1) if isinstance(descriptor, str) else -1


def _message_id(value: Value) -> Any:
    # The standard has these four; other whole numbers are echoed as they came.
    if isinstance(value, bool | float | list | dict | Described | Array):
        raise TypeError
    return value


_MESSAGE_ID: Final = Kind(_message_id)

_HEADER: Final = Layout(
    0x70,
    "amqp:header:list",
    Header,
    Field("durable", BOOLEAN),
    Field("priority", UBYTE),
    Field("ttl", UINT),
    Field("first_acquirer", BOOLEAN),
    Field("delivery_count", UINT),
)
_PROPERTIES: Final = Layout(
    0x73,
    "amqp:properties:list",
    Properties,
    Field("message_id", _MESSAGE_ID),
    Field("user_id", BINARY),
    Field("to", STRING),
    Field("subject", STRING),
    Field("reply_to", STRING),
    Field("correlation_id", _MESSAGE_ID),
    Field("content_type", SYMBOL),
    Field("content_encoding", SYMBOL),
    Field("absolute_expiry_time", TIMESTAMP),
    Field("creation_time", TIMESTAMP),
    Field("group_id", STRING),
    Field("group_sequence", UINT),
    Field("reply_to_group_id", STRING),
)
_NO_PROPERTIES: Final = Properties()
_TWO_BODIES: Final = "message has two bodies"
_REPEATED: Final = frozenset({0x75, 0x76})
_SECTION_READERS: Final[dict[int, Callable[[Message, Value], None]]] = {
    0x70: _read_header,
    0x71: _read_delivery_annotations,
    0x72: _read_message_annotations,
    0x73: _read_properties,
    0x74: _read_application_properties,
    0x75: _read_data,
    0x76: _read_sequence,
    0x77: _read_value,
    0x78: _read_footer,
}
_SECTIONS: Final[dict[str, int]] = {
    "amqp:header:list": 0x70,
    "amqp:delivery-annotations:map": 0x71,
    "amqp:message-annotations:map": 0x72,
    "amqp:properties:list": 0x73,
    "amqp:application-properties:map": 0x74,
    "amqp:data:binary": 0x75,
    "amqp:amqp-sequence:list": 0x76,
    "amqp:amqp-value:*": 0x77,
    "amqp:footer:map": 0x78,
}
