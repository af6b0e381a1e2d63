"""Jobs over devices, over REST (hub-service.md 1.1 rows 28 to 31, 1.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from muster.errors import InvalidArgumentError
from muster.hub.endpoints.service_access import (
    READ_OR_CONNECT,
    WRITE_OR_CONNECT,
    check_same,
    json_response,
    read_json,
)
from muster.model.identity import wire_time
from muster.model.job import (
    SCHEDULED_TYPES,
    Job,
    JobRequest,
    JobStatus,
    JobType,
    scheduled_type,
)
from muster.model.paging import page_size

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from muster.hub.endpoints.service_access import ServiceAccess
    from muster.hub.hubs import Hub
    from muster.hub.jobs import Jobs
    from muster.net.routing import Route


class Statistics(Struct, rename="camel"):
    """`deviceJobStatistics`."""

    device_count: int
    failed_count: int
    succeeded_count: int
    running_count: int
    pending_count: int


class JobResponse(Struct, rename="camel", kw_only=True):
    """A job as the service API shows it."""

    job_id: str
    query_condition: str
    created_time: str
    start_time: str
    end_time: str | UnsetType
    last_updated_date_time: str
    max_execution_time_in_seconds: int
    type: JobType
    cloud_to_device_method: msgspec.Raw | UnsetType = UNSET
    update_twin: msgspec.Raw | UnsetType = UNSET
    status: JobStatus
    failure_reason: str | None
    status_message: str | None
    device_job_statistics: Statistics


@final
class JobsHttpEndpoint:
    """The operations on jobs over devices; see `routes`."""

    def __init__(self, access: ServiceAccess, jobs: Jobs) -> None:
        self._access = access
        self._jobs = jobs

    def routes(self) -> list[Route]:
        """Return all operations."""
        route, job = self._access.route, "/jobs/v2/{job}"
        read, write = READ_OR_CONNECT, WRITE_OR_CONNECT
        return [
            route("PUT", job, self._create, write),
            route("GET", job, self._get, read),
            route("POST", f"{job}/cancel", self._cancel, write),
            route("GET", "/jobs/v2/query", self._query, read),
        ]

    async def _create(self, hub: Hub, request: Request) -> Response:
        job_id = request.path_params["job"]
        body: JobRequest = await read_json(request, JobRequest)
        check_same(body.job_id, job_id, "jobId")
        return json_response(_shown(await self._jobs.create(hub.id, job_id, body)))

    async def _get(self, hub: Hub, request: Request) -> Response:
        return json_response(_shown(await self._jobs.get(hub.id, request.path_params["job"])))

    async def _cancel(self, hub: Hub, request: Request) -> Response:
        return json_response(_shown(await self._jobs.cancel(hub.id, request.path_params["job"])))

    async def _query(self, hub: Hub, request: Request) -> Response:
        kind = request.query_params.get("jobType")
        page = await self._jobs.page(
            hub.id,
            (scheduled_type(kind),) if kind else SCHEDULED_TYPES,
            _status(request.query_params.get("jobStatus")),
            page_size(request.headers.get("x-ms-max-item-count")),
            request.headers.get("x-ms-continuation"),
        )
        response = json_response([_shown(job) for job in page.items])
        response.headers["x-ms-item-type"] = "JobResponse"
        if page.continuation is not None:
            # Clients take the mere presence of the header for another page.
            response.headers["x-ms-continuation"] = page.continuation
        return response


def _status(text: str | None) -> JobStatus | None:
    if not text:
        return None
    try:
        return JobStatus(text.lower())
    except ValueError:
        raise InvalidArgumentError(
            f"jobStatus must be one of {', '.join(JobStatus)}.", code="invalid-job"
        ) from None


def _shown(job: Job) -> JobResponse:
    action = msgspec.Raw(job.action)
    method = job.type is JobType.METHOD
    return JobResponse(
        job_id=job.id,
        query_condition=job.condition,
        created_time=wire_time(job.created_at),
        start_time=wire_time(job.start_at),
        end_time=wire_time(job.ended_at) if job.ended_at else UNSET,
        last_updated_date_time=wire_time(job.updated_at),
        max_execution_time_in_seconds=job.max_execution_s,
        type=job.type,
        cloud_to_device_method=action if method else UNSET,
        update_twin=UNSET if method else action,
        status=job.status,
        failure_reason=job.failure or None,
        status_message=None,
        device_job_statistics=Statistics(
            job.devices, job.failed, job.succeeded, job.running, job.pending
        ),
    )
