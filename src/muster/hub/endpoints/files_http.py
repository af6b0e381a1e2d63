"""Files of devices over REST: for devices to upload (hub-device.md 4), for back ends to have.

Back ends have no official call: with Azure, they have a storage account. Ours are for our own CLI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from msgspec import Struct
from starlette.responses import Response, StreamingResponse

from muster.hub.blobs import DEVICE_FILES, Blob, BlobRef
from muster.hub.endpoints.service_access import (
    SERVICE_CONNECT,
    caller_host,
    check_same,
    json_response,
    read_json,
    told_host,
)
from muster.hub.file_uploads import Completion
from muster.model import paging
from muster.model.identity import wire_time
from muster.model.paging import page_size

if TYPE_CHECKING:
    from starlette.requests import Request

    from muster.hub.authentication import Login
    from muster.hub.blobs import Blobs
    from muster.hub.endpoints.device_access import DeviceAccess
    from muster.hub.endpoints.service_access import ServiceAccess
    from muster.hub.file_uploads import FileUploads
    from muster.hub.hubs import Hub
    from muster.net.routing import Route

_FILES: Final = "/admin/v1/files"


class _Begin(Struct, rename="camel"):
    blob_name: str


class File(Struct, rename="camel"):
    """A file as our CLI sees it."""

    name: str
    size: int
    content_type: str
    etag: str
    last_modified: str


@final
class FilesHttpEndpoint:
    """The operations on files; see `routes`."""

    def __init__(
        self, devices: DeviceAccess, services: ServiceAccess, uploads: FileUploads, blobs: Blobs
    ) -> None:
        self._devices = devices
        self._services = services
        self._uploads = uploads
        self._blobs = blobs

    def routes(self) -> list[Route]:
        """Return all operations."""
        device, service, files = self._devices.route, self._services.route, "/devices/{id}/files"
        return [
            device("POST", files, self._begin),
            device("GET", f"{files}/{{name*}}", self._begin_by_path),
            device("POST", f"{files}/notifications", self._end),
            device("POST", f"{files}/notifications/{{correlation}}", self._end),
            service("GET", _FILES, self._list, SERVICE_CONNECT),
            service("GET", f"{_FILES}/{{name*}}", self._download, SERVICE_CONNECT),
            service("DELETE", f"{_FILES}/{{name*}}", self._delete, SERVICE_CONNECT),
        ]

    # -- devices -------------------------------------------------------------------------------

    async def _begin(self, hub: Hub, login: Login, request: Request) -> Response:
        body: _Begin = await read_json(request, _Begin)
        host = caller_host(hub, request)
        return json_response(await self._uploads.begin(login.ref, body.blob_name, host))

    async def _begin_by_path(self, hub: Hub, login: Login, request: Request) -> Response:
        name = request.path_params["name"]
        return json_response(await self._uploads.begin(login.ref, name, caller_host(hub, request)))

    async def _end(self, hub: Hub, login: Login, request: Request) -> Response:
        body: Completion = await read_json(request, Completion)
        named = request.path_params.get("correlation")
        if named is not None:
            check_same(body.correlation_id, named, "correlationId")
            body.correlation_id = named
        await self._uploads.end(login.ref, body, told_host(hub, request))
        return Response(status_code=204)

    # -- back ends -----------------------------------------------------------------------------

    async def _list(self, hub: Hub, request: Request) -> Response:
        size = page_size(request.headers.get("x-ms-max-item-count"))
        continuation = request.headers.get("x-ms-continuation")
        after = paging.key(continuation) if continuation else ""
        prefix = request.query_params.get("prefix", "")
        found = await self._blobs.page(hub.id, DEVICE_FILES, prefix, after, size + 1)
        response = json_response([_shown(blob) for blob in found[:size]])
        if len(found) > size:
            response.headers["x-ms-continuation"] = paging.token(found[size - 1].name)
        return response

    async def _download(self, hub: Hub, request: Request) -> Response:
        ref = BlobRef(hub.id, DEVICE_FILES, request.path_params["name"])
        blob = await self._blobs.get(ref)
        headers = {
            "content-length": str(blob.size),
            "content-disposition": "attachment",
            "x-content-type-options": "nosniff",
        }
        return StreamingResponse(
            self._blobs.content(ref, 0, blob.size), 200, headers, blob.content_type
        )

    async def _delete(self, hub: Hub, request: Request) -> Response:
        await self._blobs.delete(BlobRef(hub.id, DEVICE_FILES, request.path_params["name"]))
        return Response(status_code=204)


def _shown(blob: Blob) -> File:
    return File(blob.name, blob.size, blob.content_type, blob.etag, wire_time(blob.modified_at))
