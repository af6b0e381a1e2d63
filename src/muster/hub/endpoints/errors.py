"""What went wrong, in the hub's official numbers, names and bodies.

The one table that turns a meaning (the exception's class and `code`) into an error code of
hub-service.md 2.3. The number is the HTTP status times a thousand plus n; clients compare name and
number (C#) or read the name out of the text (Node), so both come from one row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from starlette.responses import Response

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
from muster.hub.job_rows import DeviceError
from muster.hub.method_calls import NO_ANSWER
from muster.hub.methods import NotOnlineError

if TYPE_CHECKING:
    from datetime import datetime


class OfficialError(NamedTuple):
    """An error as the wire knows it.

    Attributes:
        number: HTTP status times 1000, plus n.
        name: its name in the SDKs' tables.
    """

    number: int
    name: str

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.number // 1000


BY_CODE: Final = {
    "api-version-missing": OfficialError(400001, "InvalidProtocolVersion"),
    "invalid-operation": OfficialError(400003, "InvalidOperation"),
    "if-match-missing": OfficialError(400005, "ArgumentNull"),
    "malformed-json": OfficialError(400006, "IotHubFormatError"),
    "device-defined-twice": OfficialError(400011, "DeviceDefinedMultipleTimes"),
    "invalid-container": OfficialError(400008, "BlobContainerValidationError"),
    "unknown-upload": OfficialError(400015, "InvalidFileUploadCorrelationId"),
    "expired-upload": OfficialError(400016, "ExpiredFileUploadCorrelationId"),
    "incomplete-upload": OfficialError(400019, "InvalidFileUploadCompletionStatus"),
    "invalid-device-scope": OfficialError(400028, "InvalidDeviceScope"),
    "invalid-policy-key": OfficialError(400035, "InvalidPolicyKey"),
    "invalid-json-patch": OfficialError(400505, "InvalidDigitalTwinJsonPatch"),
    "too-many-jobs": OfficialError(403003, "JobQuotaExceeded"),
    "queue-full": OfficialError(403004, "DeviceMaximumQueueDepthExceeded"),
    "quota-exceeded": OfficialError(403002, "IotHubQuotaExceeded"),
    "too-many-tokens": OfficialError(403005, "IotHubMaxCbsTokenExceeded"),
    "too-many-uploads": OfficialError(403006, "DeviceMaximumActiveFileUploadLimitExceeded"),
    "invalid-expiry": OfficialError(403009, "InvalidMessageExpiryTime"),
    "invalid-target-condition": OfficialError(400401, "InvalidConfigurationTargetCondition"),
    "invalid-configuration-content": OfficialError(400402, "InvalidConfigurationContent"),
    "immutable-configuration-content": OfficialError(
        400403, "CannotModifyImmutableConfigurationContent"
    ),
    "invalid-configuration-metric": OfficialError(400404, "InvalidConfigurationCustomMetricsQuery"),
    "unknown-hub": OfficialError(401001, "IotHubNotFound"),
    "system-module": OfficialError(401100, "SystemModuleModifyUnauthorizedAccess"),
    "too-many-calls": OfficialError(403800, "DeviceMaximumInflightMethodExceeded"),
    "device-not-found": OfficialError(404001, "DeviceNotFound"),
    "address-not-found": OfficialError(404006, "AmqpAddressNotFound"),
    "job-not-found": OfficialError(404002, "JobNotFound"),
    "module-not-found": OfficialError(404010, "ModuleNotFound"),
    "device-not-online": OfficialError(404103, "DeviceNotOnline"),
    "connection-lost": OfficialError(404104, "DeviceConnectionClosedRemotely"),
    "configuration-not-found": OfficialError(404301, "ConfigurationNotFound"),
    "configuration-exists": OfficialError(409401, "ConfigurationAlreadyExists"),
    "device-exists": OfficialError(409001, "DeviceAlreadyExists"),
    "job-exists": OfficialError(409104, "JobAlreadyExists"),
    "module-exists": OfficialError(409301, "ModuleAlreadyExistsOnDevice"),
    "etag-mismatch": OfficialError(412001, "PreconditionFailed"),
    "message-lock-lost": OfficialError(412002, "DeviceMessageLockLost"),
    "job-ended": OfficialError(412003, "JobRunPreconditionFailed"),
    "version-mismatch": OfficialError(412001, "PreconditionFailed"),
    "bad-method-answer": OfficialError(502000, "GenericBadGateway"),
    "method-timed-out": OfficialError(504101, "GatewayTimeout"),
}
"""Cases that have a row of their own, by `MusterError.code`."""

BY_MEANING: Final[tuple[tuple[type[MusterError], OfficialError], ...]] = (
    (InvalidArgumentError, OfficialError(400004, "ArgumentInvalid")),
    (UnauthorizedError, OfficialError(401002, "IotHubUnauthorizedAccess")),
    (ForbiddenError, OfficialError(403000, "GenericForbidden")),
    (NotFoundError, OfficialError(404000, "GenericNotFound")),
    (MethodNotAllowedError, OfficialError(405000, "GenericMethodNotAllowed")),
    (AlreadyExistsError, OfficialError(409000, "GenericConflict")),
    (ConflictError, OfficialError(409000, "GenericConflict")),
    (PreconditionFailedError, OfficialError(412000, "GenericPreconditionFailed")),
    (TooLargeError, OfficialError(413001, "MessageTooLarge")),
    (UnsupportedMediaTypeError, OfficialError(415000, "GenericUnsupportedMediaType")),
    (ThrottledError, OfficialError(429001, "ThrottlingException")),
    (UnavailableError, OfficialError(503001, "ServiceUnavailable")),
)
"""Everything else, by class; looked through in this order."""

_SERVER_ERROR: Final = OfficialError(500001, "ServerError")
_SERVER_ERROR_TEXT: Final = "An internal error occurred. The service's log has its tracking ID."
_JSON: Final = "application/json; charset=utf-8"


class _ServiceBody(msgspec.Struct, rename="pascal"):
    """Shape A of hub-service.md 2.2."""

    message: str
    exception_message: str


class _MethodBody(msgspec.Struct, rename="camel"):
    """What the message of a failed method call holds as text: shape B of hub-service.md 2.2."""

    error_code: int
    tracking_id: str
    message: str
    info: dict[str, str] | msgspec.UnsetType
    timestamp_utc: str


class _DeviceBody(msgspec.Struct, rename="camel"):
    """The body of a failed twin operation (hub-device.md 2.5)."""

    error_code: int
    tracking_id: str
    message: str
    timestamp_utc: str


def official(error: Exception) -> OfficialError:
    """Return the official error for an exception."""
    if not isinstance(error, MusterError):
        return _SERVER_ERROR
    found = BY_CODE.get(error.code)
    if found is not None:
        return found
    for meaning, row in BY_MEANING:
        if isinstance(error, meaning):
            return row
    return _SERVER_ERROR


def public_text(error: Exception) -> str:
    """Return what a client may read about an exception: for a refusal, not the reason."""
    if not isinstance(error, MusterError):
        return _SERVER_ERROR_TEXT
    if isinstance(error, UnauthorizedError) and error.code not in _SAFE_REFUSALS:
        return "Unauthorized"
    return error.message


_SAFE_REFUSALS: Final = frozenset({"authorization-missing", "unknown-hub", "system-module"})


def job_error(error: MusterError) -> DeviceError:
    """Return what a job notes about a device for which it failed (hub-service.md 1.8)."""
    return DeviceError(official(error).name, public_text(error))


def tracking_text(tracking_id: str, now: datetime) -> str:
    """Write a tracking ID as the hub does, `<32 hex>-G:0-TimeStamp:MM/dd/yyyy HH:mm:ss`."""
    return f"{tracking_id.replace('-', '')}-G:0-TimeStamp:{now:%m/%d/%Y %H:%M:%S}"


def service_response(error: Exception, tracking_id: str, now: datetime) -> Response:
    """Return the answer to a failed service call.

    Args:
        error: what happened.
        tracking_id: GUID of the call.
        now: the time of the answer.
    """
    row = official(error)
    body = _ServiceBody(
        f"ErrorCode:{row.name};{public_text(error)}",
        f"Tracking ID:{tracking_text(tracking_id, now)}",
    )
    return _response(error, row, body, tracking_id)


def method_response(error: Exception, tracking_id: str, now: datetime) -> Response:
    """Return the answer to a method call that failed: its message is a JSON text in itself.

    Arguments as of `service_response`. Source: hub-service.md 1.7, 2.2.
    """
    row = official(error)
    inner = _MethodBody(
        row.number,
        tracking_text(tracking_id, now),
        public_text(error),
        _info(error),
        f"{now:%Y-%m-%dT%H:%M:%S.%f}0Z",
    )
    body = _ServiceBody(msgspec.json.encode(inner).decode(), "")
    return _response(error, row, body, tracking_id)


def _info(error: Exception) -> dict[str, str] | msgspec.UnsetType:
    if isinstance(error, NotOnlineError):
        # The time-out in .NET's form; it is never as long as an hour.
        return {"timeout": f"00:{error.waited_s // 60:02}:{error.waited_s % 60:02}"}
    if isinstance(error, UnavailableError) and error.code == NO_ANSWER:
        return {}
    return msgspec.UNSET


def _response(
    error: Exception, row: OfficialError, body: _ServiceBody, tracking_id: str
) -> Response:
    response = Response(msgspec.json.encode(body), row.status, media_type=_JSON)
    response.headers["iothub-errorcode"] = row.name
    response.headers["x-ms-request-id"] = tracking_id
    if isinstance(error, ThrottledError):
        response.headers["retry-after"] = str(error.retry_after_s)
    return response


def device_body(error: Exception, tracking_id: str, now: datetime) -> tuple[int, bytes]:
    """Return status and JSON body of a failed operation of a device.

    Node goes by the number in the body and ignores the status, all others the other way round
    (hub-device.md 2.5).
    """
    row = official(error)
    body = _DeviceBody(
        row.number,
        tracking_text(tracking_id, now),
        public_text(error),
        f"{now:%Y-%m-%dT%H:%M:%S.%f}0Z",
    )
    return row.status, msgspec.json.encode(body)
