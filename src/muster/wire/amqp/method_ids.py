"""Direct methods on AMQP: how a request is named, and its answer (hub-device.md 0.6, 3.6)."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

METHOD_NAME: Final = "IoThub-methodname"
"""Application property of a request."""
METHOD_STATUS: Final = "IoThub-status"
"""Application property of an answer."""

# Request IDs travel in a random UUID's form, which Node's SDK knows a UUID by.
_HIGH: Final = 0x4000 << 64
_VARIANT: Final = 0x8 << 60
_LOW: Final = (1 << 32) - 1


def correlation_id(request_id: int) -> UUID:
    """Return the UUID that stands for a request (hub-device.md 0.6)."""
    high = (request_id >> 32) << 96
    return UUID(int=high | _HIGH | _VARIANT | (request_id & _LOW))


def request_id(value: Any) -> int | None:
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
