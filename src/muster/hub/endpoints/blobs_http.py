"""Blobs over the part of Azure Storage's REST API that its clients use to upload and download.

Put Blob, Put Block, Put Block List, Get Block List, Get Blob (with ranges), Get Blob Properties,
Delete Blob and List Blobs, of block blobs. Everything is granted by the URL (`muster.auth.
blob_token`). Errors are XML with the storage service's own names.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Final, NamedTuple, final
from xml.sax.saxutils import escape

from starlette.responses import Response, StreamingResponse

from muster.auth import blob_token
from muster.auth.blob_token import Target
from muster.errors import (
    InvalidArgumentError,
    MusterError,
    NotFoundError,
    PreconditionFailedError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
)
from muster.hub.blobs import CONTAINERS, DEFAULT_TYPE, MAX_PIECE, BlobRef
from muster.model.decision import Decision
from muster.net.routing import Route, RouteGroup, check_declared_size, read_body, tracking_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from muster.clock import Clock
    from muster.decisions.log import DecisionLog
    from muster.hub.blobs import Blob, Blobs
    from muster.hub.hubs import Hub, Hubs

MAX_LIST: Final = 5_000
_MAX_BLOCK_LIST: Final = 8 << 20
"""Bytes of a block list: 50,000 IDs of 64 bytes in base64, in their tags."""

_BLOCK: Final = re.compile(rb"<(Latest|Uncommitted|Committed)>\s*([A-Za-z0-9+/=]+)\s*</\1>\s*")
_LIST_BEGINS: Final = re.compile(rb"\s*(?:<\?xml[^<>]*\?>\s*)?<BlockList\s*(/?)>\s*")
_LIST_ENDS: Final = b"</BlockList>"
_RANGE: Final = re.compile(r"bytes=([0-9]{1,15})-([0-9]{0,15})")


class StorageError(NamedTuple):
    """An error as Azure Storage knows it."""

    status: int
    name: str


BY_CODE: Final = {
    "authorization-missing": StorageError(401, "NoAuthenticationInformation"),
    "blob-exists": StorageError(409, "BlobAlreadyExists"),
    "blob-not-found": StorageError(404, "BlobNotFound"),
    "condition-not-met": StorageError(412, "ConditionNotMet"),
    "invalid-blob-name": StorageError(400, "InvalidResourceName"),
    "invalid-block-id": StorageError(400, "InvalidBlobOrBlock"),
    "invalid-block-list": StorageError(400, "InvalidBlockList"),
    "invalid-range": StorageError(416, "InvalidRange"),
    "md5-mismatch": StorageError(400, "Md5Mismatch"),
    "missing-blob-permission": StorageError(403, "AuthorizationPermissionMismatch"),
    "path-not-found": StorageError(404, "ResourceNotFound"),
    "unsupported-blob-operation": StorageError(400, "UnsupportedQueryParameter"),
}
"""Cases that have a row of their own, by `MusterError.code`."""

_BY_MEANING: Final[tuple[tuple[type[MusterError], StorageError], ...]] = (
    (UnauthorizedError, StorageError(403, "AuthenticationFailed")),
    (InvalidArgumentError, StorageError(400, "InvalidInput")),
    (NotFoundError, StorageError(404, "ResourceNotFound")),
    (TooLargeError, StorageError(413, "RequestBodyTooLarge")),
    (UnavailableError, StorageError(503, "ServerBusy")),
)
_INTERNAL: Final = StorageError(500, "InternalError")


@final
class BlobsHttpEndpoint:
    """The operations on blobs; see `routes`."""

    def __init__(self, hubs: Hubs, blobs: Blobs, decisions: DecisionLog, clock: Clock) -> None:
        self._hubs = hubs
        self._blobs = blobs
        self._decisions = decisions
        self._clock = clock
        self._group = RouteGroup("blobs", self._on_error)

    def routes(self) -> list[Route]:
        """Return all operations."""
        return [
            route
            for container in CONTAINERS
            for route in (
                Route("GET", f"/{container}", self._handler(container, self._list), self._group),
                *(
                    Route(
                        method,
                        f"/{container}/{{name*}}",
                        self._handler(container, operation),
                        self._group,
                    )
                    for method, operation in (
                        ("GET", self._get),
                        ("PUT", self._put),
                        ("DELETE", self._delete),
                    )
                ),
            )
        ]

    def _handler(
        self, container: str, operation: Callable[[BlobRef, Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            hub = self._hubs.for_request(request.headers.get("host"))
            ref = BlobRef(hub.id, container, request.path_params.get("name", ""))
            try:
                response = await operation(ref, request)
            except UnauthorizedError as refused:
                self._record(hub, request, refused)
                raise
            response.headers["x-ms-request-id"] = tracking_id(request)
            response.headers["x-ms-version"] = request.headers.get(
                "x-ms-version", blob_token.VERSION
            )
            return response

        return handle

    # -- operations ----------------------------------------------------------------------------

    async def _put(self, ref: BlobRef, request: Request) -> Response:
        permissions = blob_token.CREATE + blob_token.WRITE
        self._check(ref, request, permissions)
        check_declared_size(request, MAX_PIECE)
        headers = request.headers
        part = request.query_params.get("comp")
        content_type = headers.get("x-ms-blob-content-type") or DEFAULT_TYPE
        # What may only create, must not overwrite.
        granted = request.query_params.get("sp", "")
        create = headers.get("if-none-match") == "*" or blob_token.WRITE not in granted
        if part == "block":
            block = request.query_params.get("blockid", "")
            md5 = headers.get("content-md5")
            await self._blobs.put_block(ref, block, request.stream(), md5=md5)
            return Response(status_code=201)
        await self._check_etag(ref, request)
        if part == "blocklist":
            blocks = _blocks(await read_body(request, _MAX_BLOCK_LIST))
            blob = await self._blobs.put_block_list(ref, blocks, content_type, create=create)
        elif part is None and headers.get("x-ms-blob-type", "").lower() == "blockblob":
            if "x-ms-copy-source" in headers:
                raise _unsupported("Copying from a URL")
            content_type = (
                headers.get("x-ms-blob-content-type") or headers.get("content-type") or DEFAULT_TYPE
            )
            md5 = headers.get("content-md5") or headers.get("x-ms-blob-content-md5")
            blob = await self._blobs.put(
                ref, request.stream(), content_type, md5=md5, create=create
            )
        else:
            raise _unsupported("This operation, or a blob that is no block blob,")
        return Response(status_code=201, headers=_changed(blob))

    async def _get(self, ref: BlobRef, request: Request) -> Response:
        self._check(ref, request, blob_token.READ)
        part = request.query_params.get("comp")
        if part == "blocklist":
            return _block_list(*await self._blobs.block_list(ref))
        if part is not None:
            raise _unsupported(f"comp={part[:40]}")
        blob = await self._blobs.get(ref)
        headers = {**_described(blob), "accept-ranges": "bytes", "x-ms-blob-type": "BlockBlob"}
        if request.method == "HEAD":
            headers["content-length"] = str(blob.size)
            return Response(headers=headers, media_type=blob.content_type)
        start, length, status = 0, blob.size, 200
        wanted = request.headers.get("x-ms-range") or request.headers.get("range")
        if wanted and (found := _RANGE.fullmatch(wanted)):
            start = int(found[1])
            end = min(int(found[2]) if found[2] else blob.size, blob.size - 1)
            if start > end:
                raise InvalidArgumentError(
                    "The range specified is invalid for the current size of the resource.",
                    code="invalid-range",
                )
            length, status = end - start + 1, 206
            headers["content-range"] = f"bytes {start}-{end}/{blob.size}"
            headers.pop("content-md5", None)
        headers["content-length"] = str(length)
        return StreamingResponse(
            self._blobs.content(ref, start, length), status, headers, blob.content_type
        )

    async def _delete(self, ref: BlobRef, request: Request) -> Response:
        self._check(ref, request, blob_token.DELETE)
        await self._blobs.delete(ref)
        return Response(status_code=202)

    async def _list(self, ref: BlobRef, request: Request) -> Response:
        query = request.query_params
        self._blobs.check_token(query, Target(ref.hub, ref.container), blob_token.LIST)
        if query.get("comp") != "list" or query.get("restype") != "container":
            raise _unsupported("This operation on a container")
        size = query.get("maxresults", "")
        limit = min(int(size), MAX_LIST) if size.isdecimal() and 0 < len(size) < 9 else MAX_LIST
        prefix, after = query.get("prefix", ""), query.get("marker", "")
        found = await self._blobs.page(ref.hub, ref.container, prefix, after, limit + 1)
        marker = found[limit - 1].name if len(found) > limit else ""
        return _listing(ref.container, prefix, found[:limit], marker)

    # -- guards --------------------------------------------------------------------------------

    def _check(self, ref: BlobRef, request: Request, permissions: str) -> None:
        self._blobs.check_token(request.query_params, Target(*ref), permissions)

    async def _check_etag(self, ref: BlobRef, request: Request) -> None:
        wanted = request.headers.get("if-match")
        if wanted is None:
            return
        blob = await self._blobs.find(ref)
        if blob is None or wanted.strip('"') not in {"*", blob.etag}:
            raise PreconditionFailedError(
                "The condition specified using HTTP conditional header(s) is not met.",
                code="condition-not-met",
            )

    def _record(self, hub: Hub, request: Request, refused: UnauthorizedError) -> None:
        self._decisions.record(
            Decision(
                tracking_id=tracking_id(request),
                time=self._clock.now(),
                service=hub.host,
                operation="blob",
                subject=request.url.path[:256],
                outcome="refused",
                check=refused.code,
                facts={"reason": refused.message},
            )
        )

    def _on_error(self, request: Request, error: Exception) -> Response:
        row, text = _INTERNAL, "The server encountered an internal error."
        if isinstance(error, MusterError):
            row = BY_CODE.get(error.code) or next(
                (row for meaning, row in _BY_MEANING if isinstance(error, meaning)), _INTERNAL
            )
            text = error.message
        body = (
            '<?xml version="1.0" encoding="utf-8"?>'
            f"<Error><Code>{row.name}</Code><Message>{escape(text)}</Message></Error>"
        )
        response = Response(body, row.status, media_type="application/xml")
        response.headers["x-ms-error-code"] = row.name
        response.headers["x-ms-request-id"] = tracking_id(request)
        return response


def _blocks(body: bytes) -> list[str]:
    body = body.removeprefix(b"\xef\xbb\xbf").rstrip()
    begins = _LIST_BEGINS.match(body)
    entries = b"?"
    if begins is not None:
        rest, end = body[begins.end() :], b"" if begins[1] else _LIST_ENDS
        entries = rest.removesuffix(end) if rest.endswith(end) else b"?"
    # IDs are base64, so there is nothing to unescape; and nothing else may stand between them.
    if _BLOCK.sub(b"", entries):
        raise InvalidArgumentError("The block list is not valid.", code="invalid-block-list")
    return [each[2].decode() for each in _BLOCK.finditer(entries)]


def _block_list(committed: list[tuple[str, int]], waiting: list[tuple[str, int]]) -> Response:
    def listed(blocks: list[tuple[str, int]]) -> str:
        return "".join(
            f"<Block><Name>{name}</Name><Size>{size}</Size></Block>" for name, size in blocks
        )

    return _xml(
        f"<BlockList><CommittedBlocks>{listed(committed)}</CommittedBlocks>"
        f"<UncommittedBlocks>{listed(waiting)}</UncommittedBlocks></BlockList>"
    )


def _listing(container: str, prefix: str, blobs: list[Blob], marker: str) -> Response:
    entries = "".join(
        f"<Blob><Name>{escape(blob.name)}</Name><Properties>"
        f"<Last-Modified>{_http_time(blob.modified_at)}</Last-Modified><Etag>{blob.etag}</Etag>"
        f"<Content-Length>{blob.size}</Content-Length>"
        f"<Content-Type>{escape(blob.content_type)}</Content-Type>"
        "<BlobType>BlockBlob</BlobType></Properties></Blob>"
        for blob in blobs
    )
    return _xml(
        f'<EnumerationResults ContainerName="{container}"><Prefix>{escape(prefix)}</Prefix>'
        f"<Blobs>{entries}</Blobs><NextMarker>{escape(marker)}</NextMarker></EnumerationResults>"
    )


def _xml(text: str) -> Response:
    text = f'<?xml version="1.0" encoding="utf-8"?>{text}'
    return Response(text, media_type="application/xml")


def _described(blob: Blob) -> dict[str, str]:
    headers = {
        **_changed(blob),
        "x-ms-creation-time": _http_time(blob.created_at),
        # A page of a device must never be run as one of ours.
        "content-disposition": "attachment",
        "x-content-type-options": "nosniff",
    }
    if blob.md5 is not None:
        headers["content-md5"] = base64.b64encode(blob.md5).decode()
    return headers


def _changed(blob: Blob) -> dict[str, str]:
    return {"etag": f'"{blob.etag}"', "last-modified": _http_time(blob.modified_at)}


def _http_time(unix_s: float) -> str:
    return format_datetime(datetime.fromtimestamp(int(unix_s), UTC), usegmt=True)


def _unsupported(what: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{what} is not supported.", code="unsupported-blob-operation")
