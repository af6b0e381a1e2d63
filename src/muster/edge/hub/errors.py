"""What clients are told when something goes wrong: numbers and bodies (hub-device.md 2.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from muster.errors import (
    ForbiddenError,
    InvalidArgumentError,
    MusterError,
    NotFoundError,
    PreconditionFailedError,
    TooLargeError,
    UnauthorizedError,
)

if TYPE_CHECKING:
    from datetime import datetime

_NUMBERS: Final = {
    InvalidArgumentError: 400_004,
    UnauthorizedError: 401_002,
    ForbiddenError: 403_000,
    NotFoundError: 404_001,
    PreconditionFailedError: 412_002,
    TooLargeError: 413_001,
}
_UNAVAILABLE: Final = 503_001


def status(error: MusterError) -> int:
    """Return the HTTP status of an error."""
    return _NUMBERS.get(type(error), _UNAVAILABLE) // 1000


def body(error: MusterError, tracking_id: str, now: datetime) -> bytes:
    """Return the JSON body of a failed operation."""
    moment = f"{now:%m/%d/%Y %H:%M:%S}"
    return msgspec.json.encode(
        {
            "errorCode": _NUMBERS.get(type(error), _UNAVAILABLE),
            "trackingId": f"{tracking_id.replace('-', '')}-TimeStamp:{moment}",
            "message": error.message,
            "timestampUtc": f"{now:%Y-%m-%dT%H:%M:%S.%f}0Z",
        }
    )
