"""What went wrong, as AMQP says it: the condition of an official error (hub-device.md 3.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from muster.hub.endpoints import errors
from muster.hub.endpoints.errors import OfficialError
from muster.wire.amqp.performatives import Error
from muster.wire.amqp.types import Int, Symbol

if TYPE_CHECKING:
    from datetime import datetime

UNAUTHORIZED: Final = "amqp:unauthorized-access"
NOT_FOUND: Final = "amqp:not-found"
STOLEN: Final = "amqp:link:stolen"
INTERNAL: Final = "amqp:internal-error"

TAKEN_OVER: Final = Error(
    # Not `amqp:link:stolen`: with that Node's SDK stays away for good.
    INTERNAL,
    "Another client has connected with this identity.",
    {Symbol("com.microsoft:error-code"): Int(400027)},
)
"""What the older connection of an identity is told (hub-device.md 0.13, 3.8)."""

_BY_CODE: Final = {
    "reader-displaced": STOLEN,
    "too-many-readers": "amqp:resource-limit-exceeded",
}
"""Errors that only AMQP tells apart, by `MusterError.code`."""

_BY_NUMBER: Final = {
    400003: "amqp:not-allowed",
    403004: "amqp:resource-limit-exceeded",
    403005: "amqp:resource-limit-exceeded",
    403009: "com.microsoft:argument-out-of-range",
    412002: "com.microsoft:message-lock-lost",
}
"""Errors that differ from their status."""

_BY_STATUS: Final = {
    400: "com.microsoft:argument-error",
    401: UNAUTHORIZED,
    403: "com.microsoft:quota-exceeded",
    404: NOT_FOUND,
    405: "amqp:not-allowed",
    409: "amqp:not-allowed",
    412: "com.microsoft:precondition-failed",
    413: "amqp:link:message-size-exceeded",
    429: "com.microsoft:device-container-throttled",
    504: "com.microsoft:timeout",
}
"""Everything else; what is not here is an internal error, which clients try again after."""

_IDENTITY_GONE: Final = {
    "unknown-device": OfficialError(404001, "DeviceNotFound"),
    "unknown-module": OfficialError(404010, "ModuleNotFound"),
}
"""Refusals that only those see who proved themselves before: their token was good."""


def error(failure: Exception, tracking_id: str, now: datetime) -> Error:
    """Return what a client is told about a failure.

    Args:
        failure: what happened.
        tracking_id: under which it is on record.
        now: the time of the answer.
    """
    row = _IDENTITY_GONE.get(getattr(failure, "code", "")) or errors.official(failure)
    condition = (
        _BY_CODE.get(getattr(failure, "code", ""))
        or _BY_NUMBER.get(row.number)
        or _BY_STATUS.get(row.status, INTERNAL)
    )
    text = row.name if row in _IDENTITY_GONE.values() else errors.public_text(failure)
    return Error(
        condition,
        f"{text} Tracking ID: {errors.tracking_text(tracking_id, now)}",
        {
            Symbol("com.microsoft:tracking-id"): tracking_id,
            Symbol("com.microsoft:error-code"): Int(row.number),
        },
    )
