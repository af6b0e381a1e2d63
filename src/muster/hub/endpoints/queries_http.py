"""Queries over REST (hub-service.md 1.1 row 14, 1.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from msgspec import Struct

from muster.hub.endpoints.service_access import READ_OR_CONNECT, json_response, read_json
from muster.model.paging import page_size

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from muster.hub.endpoints.service_access import ServiceAccess
    from muster.hub.hubs import Hub
    from muster.hub.queries import Queries
    from muster.net.routing import Route


class _Body(Struct):
    """`QuerySpecification`."""

    query: str


@final
class QueriesHttpEndpoint:
    """The operation on queries; see `routes`."""

    def __init__(self, access: ServiceAccess, queries: Queries) -> None:
        self._access = access
        self._queries = queries

    def routes(self) -> list[Route]:
        """Return all operations."""
        return [self._access.route("POST", "/devices/query", self._run, READ_OR_CONNECT)]

    async def _run(self, hub: Hub, request: Request) -> Response:
        body: _Body = await read_json(request, _Body)
        results = await self._queries.run(
            hub.id,
            body.query,
            page_size(request.headers.get("x-ms-max-item-count")),
            request.headers.get("x-ms-continuation"),
        )
        response = json_response(results.rows)
        response.headers["x-ms-item-type"] = results.item_type
        if results.continuation is not None:
            # Clients take the mere presence of the header for another page.
            response.headers["x-ms-continuation"] = results.continuation
        return response
