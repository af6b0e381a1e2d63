"""Jobs as rows of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, cast

import msgspec
from msgspec import Struct

from muster.errors import MusterError, NotFoundError
from muster.model.job import DeviceJobStatus, Job, JobStatus, JobType
from muster.store.engine import Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from muster.model.method import MethodResult
    from muster.store.engine import Params, Row, Value

SQL: Final = load("jobs")

_encode: Final = msgspec.json.Encoder().encode
_Columns: TypeAlias = tuple[
    int,
    int,
    str,
    str,
    str,
    str,
    str,
    float,
    float,
    int,
    float,
    float,
    str,
    int | None,
    int,
    int,
    int,
    int,
]


class JobOverError(MusterError):
    """The job was cancelled, or ended otherwise, before a write of it."""

    default_code = "job-over"


class Turn(Struct, frozen=True):
    """One device of a job whose turn it is.

    Attributes:
        number: of its row.
        device_id: which.
        module_id: '' for the device itself.
    """

    number: int
    device_id: str
    module_id: str


class DeviceError(Struct):
    """Why a device could not be done, as `devices.jobs` shows it."""

    code: str
    description: str


class _Outcome(Struct, rename="camel"):
    device_method_response: MethodResult


class Settled(Struct):
    """What became of one device.

    Attributes:
        turn: which.
        result: what it answered, for a method.
        error: why it could not be done; `None` when it was.
    """

    turn: Turn
    result: MethodResult | None = None
    error: DeviceError | None = None


def from_row(row: Row) -> Job:
    """Return a job."""
    columns = cast("_Columns", row)
    number, hub, job_id, kind, status, condition, action = columns[:7]
    created_at, start_at, max_execution_s, ended_at, updated_at, failure = columns[7:13]
    selected_to, devices, running, succeeded, failed = columns[13:]
    return Job(
        number=number,
        hub=hub,
        id=job_id,
        type=JobType(kind),
        status=JobStatus(status),
        condition=condition,
        action=action.encode(),
        created_at=created_at,
        start_at=start_at,
        max_execution_s=max_execution_s,
        ended_at=ended_at,
        updated_at=updated_at,
        failure=failure,
        selected_to=selected_to,
        devices=devices,
        running=running,
        succeeded=succeeded,
        failed=failed,
    )


def turns(rows: list[Row]) -> list[Turn]:
    """Return devices whose turn it is."""
    return [Turn(*cast("tuple[int, str, str]", row)) for row in rows]


def settling(job: Job, settled: list[Settled], now: float, *, claimed: bool) -> list[Statement]:
    """Return the steps that write down what became of devices, and count them.

    Args:
        job: theirs.
        settled: the devices.
        now: unix seconds.
        claimed: whether they are counted as running.
    """
    failed = sum(1 for each in settled if each.error is not None)
    counts: dict[str, Value] = {
        "number": job.number,
        "devices": 0,
        "running": -len(settled) if claimed else 0,
        "succeeded": len(settled) - failed,
        "failed": failed,
        "now": now,
    }
    rows: list[Params] = [
        {
            "number": each.turn.number,
            "status": DeviceJobStatus.FAILED if each.error else DeviceJobStatus.COMPLETED,
            "now": now,
            "outcome": _encode(_Outcome(each.result)).decode() if each.result else None,
            "error": _encode(each.error).decode() if each.error else None,
        }
        for each in settled
    ]
    steps = [Statement(SQL["settle"], rows, expect=len(rows), otherwise=JobOverError("Settled."))]
    if claimed:
        return [*steps, Statement(SQL["count"], counts)]
    over = JobOverError("The job is over.")
    return [*steps, Statement(SQL["advance"], counts, expect=1, otherwise=over)]


def encode_error(error: DeviceError) -> str:
    """Return the JSON of an error."""
    return _encode(error).decode()


def job_not_found(job_id: str) -> NotFoundError:
    """Return the error for a job that is not there."""
    return NotFoundError(f"There is no job '{job_id}'.", code="job-not-found", subject=job_id)
