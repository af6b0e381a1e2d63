"""Imports and exports of identities over REST (hub-service.md 1.1 rows 24 to 27, 1.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from msgspec import Struct

from muster.hub.blobs import IDENTITY_FILES
from muster.hub.endpoints.service_access import (
    READ_OR_CONNECT,
    REGISTRY_WRITE,
    WRITE_OR_CONNECT,
    caller_host,
    json_response,
    read_json,
)
from muster.model.identity import wire_time
from muster.model.job import Job, JobStatus, JobType
from muster.model.transfer import TransferRequest, decode_transfer

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from muster.hub.endpoints.service_access import ServiceAccess
    from muster.hub.hubs import Hub
    from muster.hub.transfers import Transfers
    from muster.net.routing import Route


class JobProperties(Struct, rename="camel", kw_only=True):
    """An import or export as the service API shows it. Container URLs have no signatures."""

    job_id: str
    start_time_utc: str
    end_time_utc: str | None
    type: JobType
    status: str
    progress: int
    input_blob_container_uri: str | None
    input_blob_name: str | None
    output_blob_container_uri: str
    output_blob_name: str
    exclude_keys_in_export: bool
    storage_authentication_type: str = "keyBased"
    failure_reason: str | None
    include_configurations: bool = False


class _Container(Struct, rename="camel"):
    container_uri: str


@final
class TransfersHttpEndpoint:
    """The operations on imports and exports; see `routes`."""

    def __init__(self, access: ServiceAccess, transfers: Transfers) -> None:
        self._access = access
        self._transfers = transfers

    def routes(self) -> list[Route]:
        """Return all operations.

        Whoever may only connect as a service never comes to keys by them: the URL of a container,
        which an export needs, is for those who may write identities.
        """
        route, read, write = self._access.route, READ_OR_CONNECT, WRITE_OR_CONNECT
        return [
            route("POST", "/jobs/create", self._create, write),
            route("GET", "/jobs", self._list, read),
            route("GET", "/jobs/{job}", self._get, read),
            route("DELETE", "/jobs/{job}", self._cancel, write),
            route("POST", "/admin/v1/identity-files", self._container, REGISTRY_WRITE),
        ]

    async def _create(self, hub: Hub, request: Request) -> Response:
        body: TransferRequest = await read_json(request, TransferRequest)
        job = await self._transfers.create(hub.id, body)
        return json_response(_shown(job, caller_host(hub, request)))

    async def _list(self, hub: Hub, request: Request) -> Response:
        host = caller_host(hub, request)
        return json_response([_shown(job, host) for job in await self._transfers.list(hub.id)])

    async def _get(self, hub: Hub, request: Request) -> Response:
        job = await self._transfers.get(hub.id, request.path_params["job"])
        return json_response(_shown(job, caller_host(hub, request)))

    async def _cancel(self, hub: Hub, request: Request) -> Response:
        job = await self._transfers.cancel(hub.id, request.path_params["job"])
        return json_response(_shown(job, caller_host(hub, request)))

    async def _container(self, hub: Hub, request: Request) -> Response:
        query = self._transfers.container_query(hub.id)
        uri = f"https://{caller_host(hub, request)}/{IDENTITY_FILES}?{query}"
        return json_response(_Container(uri))


def _shown(job: Job, host: str) -> JobProperties:
    transfer = decode_transfer(job.action)
    uri = f"https://{host}/{IDENTITY_FILES}"
    importing = job.type is JobType.IMPORT
    done = job.succeeded + job.failed
    # How many lines a blob has is known when all are read.
    share = 0 if importing else min(done * 100 // max(job.devices, 1), 99)
    return JobProperties(
        job_id=job.id,
        start_time_utc=wire_time(job.start_at),
        end_time_utc=wire_time(job.ended_at) if job.ended_at else None,
        type=job.type,
        status="enqueued" if job.status is JobStatus.QUEUED else job.status,
        progress=100 if job.status is JobStatus.COMPLETED else share,
        input_blob_container_uri=uri if importing else None,
        input_blob_name=transfer.source or None,
        output_blob_container_uri=uri,
        output_blob_name=transfer.target,
        exclude_keys_in_export=transfer.without_keys,
        failure_reason=job.failure or None,
    )
