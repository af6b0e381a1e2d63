"""What went wrong, in the provisioning service's official numbers and body.

The one table from a meaning (the exception's class and `code`) to status and errorCode (dps.md 3.6,
6.3). Sub-codes that no source names are ours, next to the known ones: 404203, 409201, 412201,
413000, 415000, 429001, 503000.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from muster.clock import Clock, format_time
from muster.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    InvalidArgumentError,
    MethodNotAllowedError,
    MusterError,
    NotFoundError,
    PreconditionFailedError,
    ThrottledError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedMediaTypeError,
)
from muster.net.routing import tracking_id
from muster.provisioning.authentication import RefusalError

JSON: Final = "application/json; charset=utf-8"
HSTS: Final = "max-age=31536000; includeSubDomains"


class OfficialError(NamedTuple):
    """HTTP status (on MQTT: topic status) and the number in the body."""

    status: int
    error_code: int


BY_CODE: Final = {
    "invalid-registration-id": OfficialError(400, 400004),
    "enrollment-not-found": OfficialError(404, 404201),
    "registration-not-found": OfficialError(404, 404202),
    "operation-not-found": OfficialError(404, 404203),
}
"""Cases that have a number of their own, by `MusterError.code`."""
BY_MEANING: Final[tuple[tuple[type[MusterError], OfficialError], ...]] = (
    (InvalidArgumentError, OfficialError(400, 400000)),
    (UnauthorizedError, OfficialError(401, 401002)),
    (ForbiddenError, OfficialError(403, 403000)),
    (NotFoundError, OfficialError(404, 404000)),
    (MethodNotAllowedError, OfficialError(405, 405000)),
    (AlreadyExistsError, OfficialError(409, 409201)),
    (ConflictError, OfficialError(409, 409202)),
    (PreconditionFailedError, OfficialError(412, 412201)),
    (TooLargeError, OfficialError(413, 413000)),
    (UnsupportedMediaTypeError, OfficialError(415, 415000)),
    (ThrottledError, OfficialError(429, 429001)),
    (UnavailableError, OfficialError(503, 503000)),
)
"""Everything else, by class; looked through in this order."""
_INTERNAL: Final = OfficialError(500, 500000)


class ErrorBody(msgspec.Struct, rename="camel"):
    """The body of every error, on every transport (dps.md 1.6)."""

    error_code: int
    tracking_id: str
    message: str
    timestamp_utc: str


def official(error: Exception) -> OfficialError:
    """Return the official numbers of an exception."""
    if isinstance(error, MusterError):
        found = BY_CODE.get(error.code)
        if found is not None:
            return found
        for meaning, numbers in BY_MEANING:
            if isinstance(error, meaning):
                return numbers
    return _INTERNAL


def public_text(error: Exception) -> str:
    """Return what a client may read; a refusal says nothing but that."""
    if isinstance(error, UnauthorizedError):
        return "Unauthorized"
    if isinstance(error, MusterError):
        return error.message
    return "Internal error."


def retry_after_s(error: Exception) -> int | None:
    """Return the seconds a client should wait, where the error tells."""
    if isinstance(error, ThrottledError | RefusalError):
        return error.retry_after_s
    return None


def body(error: Exception, tracking: str, clock: Clock, error_code: int | None = None) -> bytes:
    """Return the JSON body of an error.

    Args:
        error: what happened.
        tracking: the tracking ID its record and log line carry.
        clock: for the time stamp.
        error_code: instead of the usual one, where a transport has its own.
    """
    return msgspec.json.encode(
        ErrorBody(
            error_code or official(error).error_code,
            tracking,
            public_text(error),
            format_time(clock.now()),
        )
    )


class ErrorResponses:
    """Turns exceptions into HTTP answers, for `net.routing.RouteGroup`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __call__(self, request: Request, error: Exception) -> Response:
        """Return the answer to a failed request."""
        tracking = tracking_id(request)
        numbers = official(error)
        headers = {
            "x-ms-request-id": tracking,
            "x-ms-error-code": str(numbers.error_code),
            "Strict-Transport-Security": HSTS,
        }
        wait_s = retry_after_s(error)
        if wait_s is not None:
            headers["Retry-After"] = str(wait_s)
        return Response(
            body(error, tracking, self._clock), numbers.status, headers, media_type=JSON
        )
