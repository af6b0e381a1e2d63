"""Jobs: something done to many devices, at a time, within a time (hub-service.md 1.8)."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec import Struct

from muster.errors import InvalidArgumentError
from muster.ids import check_device_id
from muster.model.method import MethodRequest, check
from muster.model.twin import new, update

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

DEFAULT_MAX_EXECUTION_S: Final = 3_600
MAX_EXECUTION_S: Final = 30 * 86_400
"""Seconds a job can ask for; Azure names no limit."""
HISTORY_S: Final = 30 * 86_400
"""Seconds a job is kept after its end (hub-service.md 9)."""
NOTHING: Final = b"null"
"""JSON of an action that is not there."""
EXPIRED_TEXT: Final = "The job has expired."
_END_OF_TIME: Final = datetime.max.replace(tzinfo=UTC).timestamp()
"""Unix seconds from which on no time can be written."""


class JobType(enum.StrEnum):
    """What a job does."""

    EXPORT = "export"
    IMPORT = "import"
    METHOD = "scheduleDeviceMethod"
    TWIN = "scheduleUpdateTwin"


SCHEDULED_TYPES: Final = (JobType.METHOD, JobType.TWIN)
"""Types of `/jobs/v2`; the others are those of `/jobs`."""


class JobStatus(enum.StrEnum):
    """How far a job is."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


UNFINISHED: Final = (JobStatus.SCHEDULED, JobStatus.QUEUED, JobStatus.RUNNING)


class DeviceJobStatus(enum.StrEnum):
    """What has become of one device of a job."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class TwinChangeProperties(Struct):
    """`properties` of it."""

    desired: dict[str, Any] | None = None


class TwinChange(Struct, rename="camel"):
    """`updateTwin` of a job, as far as it is used."""

    etag: str | None = None
    tags: dict[str, Any] | None = None
    properties: TwinChangeProperties | None = None

    @property
    def desired(self) -> dict[str, Any] | None:
        """The patch of the desired properties."""
        return self.properties.desired if self.properties else None


class JobRequest(Struct, rename="camel", kw_only=True):
    """The body of a PUT of a job (`JobRequest`)."""

    job_id: str | None = None
    type: str
    cloud_to_device_method: msgspec.Raw = msgspec.Raw(NOTHING)
    update_twin: msgspec.Raw = msgspec.Raw(NOTHING)
    query_condition: str | None = None
    start_time: str | None = None
    max_execution_time_in_seconds: int | None = None


class Job(Struct, kw_only=True):
    """A job as it is stored. Times are unix seconds, 0 for never.

    Attributes:
        number: under which the database keeps it.
        hub: the hub's number.
        id: as services call it.
        type: what it does.
        status: how far it is.
        condition: chooses devices.
        action: JSON: what is to be done, as it was sent.
        created_at: when it was asked for.
        start_at: when it is, or was, to begin.
        max_execution_s: seconds after which it is given up.
        ended_at: when it was over.
        updated_at: when anything about it changed.
        failure: why it failed, '' otherwise.
        selected_to: where the choice of devices goes on; `None` when it is complete.
        devices: how many it has chosen so far.
        running: how many of them are being called.
        succeeded: how many are done.
        failed: how many could not be done.
    """

    number: int
    hub: int
    id: str
    type: JobType
    status: JobStatus
    condition: str
    action: bytes
    created_at: float
    start_at: float
    max_execution_s: int
    ended_at: float = 0.0
    updated_at: float = 0.0
    failure: str = ""
    selected_to: int | None = 0
    devices: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0

    @property
    def deadline(self) -> float:
        """When it is given up, in unix seconds."""
        return self.start_at + self.max_execution_s

    @property
    def pending(self) -> int:
        """How many devices wait for their turn."""
        return self.devices - self.running - self.succeeded - self.failed


decode_method: Final = msgspec.json.Decoder(MethodRequest).decode
decode_twin: Final = msgspec.json.Decoder(TwinChange).decode


def check_job_id(job_id: str) -> str:
    """Return the ID when it keeps the rule of device IDs.

    Raises:
        InvalidArgumentError: it does not; code `invalid-device-id`.
    """
    return check_device_id(job_id, "jobId")


def scheduled_type(text: str) -> JobType:
    """Read the type of a job of `/jobs/v2`, in any case.

    Raises:
        InvalidArgumentError: code `invalid-job-type`.
    """
    for kind in SCHEDULED_TYPES:
        if kind.lower() == text.lower():
            return kind
    raise InvalidArgumentError(
        f"type must be one of {', '.join(SCHEDULED_TYPES)}.", code="invalid-job-type"
    )


def action_of(kind: JobType, request: JobRequest, now: datetime) -> bytes:
    """Return the JSON of what a job is to do, checked as far as it can be without its devices.

    Raises:
        InvalidArgumentError: it is missing or breaks a limit; `code` says which.
        TooLargeError: the payload of a method; code `payload-too-large`.
    """
    if kind is JobType.METHOD:
        raw = _required(request.cloud_to_device_method, "cloudToDeviceMethod")
        check(_decoded(decode_method, raw, "cloudToDeviceMethod").call())
        return raw
    raw = _required(request.update_twin, "updateTwin")
    change = _decoded(decode_twin, raw, "updateTwin")
    if change.tags is None and change.desired is None:
        raise InvalidArgumentError(
            "updateTwin has neither tags nor desired properties.", code="invalid-job"
        )
    # What no empty twin takes, no other one does.
    update(new(None, None, now), now, tags=change.tags, desired=change.desired)
    return raw


def start_of(text: str | None, now: float) -> float:
    """Read the start time; one without a time zone is UTC, and none is now.

    Raises:
        InvalidArgumentError: it is no time, or behind the last one there is; code `invalid-job`.
    """
    if not text:
        return now
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgumentError("startTime is no ISO 8601 time.", code="invalid-job") from None
    start_at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if start_at >= _END_OF_TIME:
        raise InvalidArgumentError("startTime is too far in the future.", code="invalid-job")
    return start_at


def execution_s(seconds: int | None) -> int:
    """Return the maximum execution time; none, and 0, mean an hour.

    Raises:
        InvalidArgumentError: it is out of range; code `invalid-job`.
    """
    if not seconds:
        return DEFAULT_MAX_EXECUTION_S
    if not 1 <= seconds <= MAX_EXECUTION_S:
        raise InvalidArgumentError(
            f"maxExecutionTimeInSeconds must be within [1; {MAX_EXECUTION_S}].", code="invalid-job"
        )
    return seconds


def _required(raw: msgspec.Raw, what: str) -> bytes:
    found = bytes(raw)
    if found == NOTHING:
        raise InvalidArgumentError(f"{what} is required.", code="invalid-job")
    return found


def _decoded(decode: Callable[[bytes], _T], raw: bytes, what: str) -> _T:
    try:
        return decode(raw)
    except msgspec.DecodeError as error:
        raise InvalidArgumentError(f"{what}: {error}", code="invalid-json-value") from None
