"""Queries over REST (hub-service.md 1.1 row 14, 1.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from msgspec import Struct

from muster.auth.access_policies import Right
from muster.hub.endpoints.service_access import json_response, read_json
from muster.model.paging import page_size

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from muster.hub.endpoints.service_access import ServiceAccess
    from muster.hub.hubs import Hub
    from muster.hub.queries import Queries
    from muster.net.routing import Route

# Twins are of the one right, identities of the other; a query may be for either.
_RIGHTS: Final = (Right.SERVICE_CONNECT, Right.REGISTRY_READ)


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
        return [self._access.route("POST", "/devices/query", self._run, _RIGHTS)]

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
