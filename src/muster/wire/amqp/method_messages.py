"""Direct methods on AMQP: the message that calls, and the one that answers (hub-device.md 3.6)."""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from uuid import UUID

from muster.wire.amqp import messages
from muster.wire.amqp.errors import RemoteProtocolError
from muster.wire.amqp.messages import Data, Message, Properties

_NAME: Final = "IoThub-methodname"
_STATUS: Final = "IoThub-status"
_INT32: Final = range(-(1 << 31), 1 << 31)

# Request IDs travel in a random UUID's form, which Node's SDK knows a UUID by.
_HIGH: Final = 0x4000 << 64
_VARIANT: Final = 0x8 << 60
_LOW: Final = (1 << 32) - 1


class MethodAnswer(NamedTuple):
    """What a client answered to a call.

    Attributes:
        request_id: of the call.
        status: the client's, 32 bits.
        payload: JSON, as the client wrote it.
    """

    request_id: int
    status: int
    payload: bytes


def call(request_id: int, name: str, payload: bytes) -> bytes:
    """Return the message that calls a method, encoded."""
    properties = Properties(correlation_id=correlation_id(request_id))
    return messages.encode(Message(Data([payload]), properties, {_NAME: name}))


def answer(payload: bytes) -> MethodAnswer | None:
    """Return what a client's message answers; `None` when it is not an answer to anything."""
    try:
        message = messages.decode(payload)
    except RemoteProtocolError:
        return None
    found = _request_id(message.properties.correlation_id)
    status = message.application_properties.get(_STATUS)
    if found is None or not isinstance(status, int) or int(status) not in _INT32:
        return None
    return MethodAnswer(found, int(status), message.data)


def correlation_id(request_id: int) -> UUID:
    """Return the UUID that stands for a request (hub-device.md 0.6)."""
    high = (request_id >> 32) << 96
    return UUID(int=high | _HIGH | _VARIANT | (request_id & _LOW))


def _request_id(value: Any) -> int | None:
    """Return the request that an answer's correlation-id names; UUID, or its text or bytes."""
    try:
        if isinstance(value, str):
            value = UUID(value)
        elif isinstance(value, bytes):
            value = UUID(bytes=value)
    except ValueError:
        return None
    if not isinstance(value, UUID):
        return None
    return (value.int >> 96) << 32 | (value.int & _LOW)
