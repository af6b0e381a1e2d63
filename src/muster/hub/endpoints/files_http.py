"""Files of devices over REST: for devices to upload (hub-device.md 4), for back ends to have.

Back ends have no official call: with Azure, they have a storage account. Ours are for our own CLI.
So is the URL of a container, which edge devices are told to upload logs to (edge.md 5.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from msgspec import Struct
from starlette.responses import Response, StreamingResponse

from muster.auth import blob_token
from muster.auth.blob_token import Target
from muster.errors import InvalidArgumentError
from muster.hub.blobs import DEVICE_FILES, EDGE_FILES, Blob, BlobRef
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
_SAS: Final = "/admin/v1/file-sas"
_CONTAINERS: Final = (DEVICE_FILES, EDGE_FILES)
"""Those whose files are no secret to whoever may connect as a service."""
_LONGEST_S: Final = 7 * 86_400
"""Of a URL of a container; it cannot be taken back."""


class _Begin(Struct, rename="camel"):
    blob_name: str


class _Sas(Struct, rename="camel"):
    container: str = EDGE_FILES
    permissions: str = blob_token.CREATE + blob_token.WRITE
    valid_for_s: int = 3600


class _SasUrl(Struct, rename="camel"):
    sas_url: str


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
            service("POST", _SAS, self._sas, SERVICE_CONNECT),
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
        container, prefix = _container(request), ""
        if device_id := request.query_params.get("deviceId", ""):
            prefix = f"{hub.host}/{device_id}/" if container == EDGE_FILES else f"{device_id}/"
        found = await self._blobs.page(hub.id, container, prefix, after, size + 1)
        response = json_response([_shown(blob) for blob in found[:size]])
        if len(found) > size:
            response.headers["x-ms-continuation"] = paging.token(found[size - 1].name)
        return response

    async def _download(self, hub: Hub, request: Request) -> Response:
        ref = BlobRef(hub.id, _container(request), request.path_params["name"])
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
        ref = BlobRef(hub.id, _container(request), request.path_params["name"])
        await self._blobs.delete(ref)
        return Response(status_code=204)

    async def _sas(self, hub: Hub, request: Request) -> Response:
        body: _Sas = await read_json(request, _Sas)
        container, wanted = _known(body.container), set(body.permissions)
        if not wanted or wanted - set(blob_token.PERMISSIONS):
            raise InvalidArgumentError(
                f"permissions must be letters of {blob_token.PERMISSIONS}.",
                code="invalid-file-access",
            )
        if not 0 < body.valid_for_s <= _LONGEST_S:
            raise InvalidArgumentError(
                f"validForS must be a number of seconds, 1 to {_LONGEST_S}.",
                code="invalid-file-access",
            )
        letters = "".join(each for each in blob_token.PERMISSIONS if each in wanted)
        query = self._blobs.token(Target(hub.id, container), letters, body.valid_for_s)
        return json_response(_SasUrl(f"https://{told_host(hub, request)}/{container}?{query}"))


def _container(request: Request) -> str:
    return _known(request.query_params.get("container", DEVICE_FILES))


def _known(container: str) -> str:
    if container not in _CONTAINERS:
        raise InvalidArgumentError(
            f"container must be one of {', '.join(_CONTAINERS)}.", code="invalid-file-access"
        )
    return container


def _shown(blob: Blob) -> File:
    return File(blob.name, blob.size, blob.content_type, blob.etag, wire_time(blob.modified_at))
