"""What AMQP clients of the edge hub are told when something goes wrong (hub-device.md 3.8)."""

from __future__ import annotations

from typing import Final

from muster.errors import (
    ForbiddenError,
    InvalidArgumentError,
    MusterError,
    NotFoundError,
    TooLargeError,
    UnauthorizedError,
)
from muster.wire.amqp.performatives import Error

UNAUTHORIZED: Final = "amqp:unauthorized-access"
INTERNAL: Final = "amqp:internal-error"

_CONDITIONS: Final = {
    InvalidArgumentError: "com.microsoft:argument-error",
    UnauthorizedError: UNAUTHORIZED,
    ForbiddenError: UNAUTHORIZED,
    NotFoundError: "amqp:not-found",
    TooLargeError: "amqp:link:message-size-exceeded",
}


def error_of(failure: MusterError) -> Error:
    """Return what a client is told; what is not its fault it tries again."""
    return Error(_CONDITIONS.get(type(failure), INTERNAL), failure.message)
