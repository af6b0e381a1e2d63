"""Device and module twins over REST (hub-service.md 1.1 rows 11-13)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from muster.hub.endpoints.service_access import SERVICE_CONNECT, entity, identity_of, read_json
from muster.hub.twins import TwinRequest

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from muster.hub.endpoints.service_access import ServiceAccess
    from muster.hub.hubs import Hub
    from muster.hub.twins import Twins
    from muster.net.routing import Route


@final
class TwinsHttpEndpoint:
    """The operations on twins; see `routes`."""

    def __init__(self, access: ServiceAccess, twins: Twins) -> None:
        self._access = access
        self._twins = twins

    def routes(self) -> list[Route]:
        """Return all operations."""
        return [
            self._access.route(method, pattern, operation, SERVICE_CONNECT)
            for pattern in ("/twins/{id}", "/twins/{id}/modules/{module}")
            for method, operation in (
                ("GET", self._get),
                ("PATCH", self._patch),
                ("PUT", self._put),
            )
        ]

    async def _get(self, hub: Hub, request: Request) -> Response:
        return entity(await self._twins.get(identity_of(hub, request)))

    async def _patch(self, hub: Hub, request: Request) -> Response:
        return await self._change(hub, request, replace=False)

    async def _put(self, hub: Hub, request: Request) -> Response:
        return await self._change(hub, request, replace=True)

    async def _change(self, hub: Hub, request: Request, *, replace: bool) -> Response:
        body: TwinRequest = await read_json(request, TwinRequest)
        if_match = request.headers.get("if-match")
        ref = identity_of(hub, request)
        return entity(await self._twins.change(ref, body, if_match, replace=replace))
