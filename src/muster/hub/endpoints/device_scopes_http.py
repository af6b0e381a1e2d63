"""What an edge hub asks about its scope, with the key of its own module (edge.md 6.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final
from urllib.parse import quote

from msgspec import Struct

from muster.hub.endpoints.service_access import REGISTRY_READ, json_response, read_json
from muster.model.identity import EDGE_HUB, IdentityRef

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from muster.hub.device_scopes import DeviceScopes
    from muster.hub.endpoints.service_access import ServiceAccess
    from muster.hub.hubs import Hub
    from muster.net.routing import Route

_BASE: Final = f"/devices/{{id}}/modules/{EDGE_HUB}"
_WHOLE: Final = "devicesAndModulesInDeviceScope"


class NestedScopeRequest(Struct, rename="camel"):
    """Asks for the scope of the first device of a chain."""

    page_size: int = 0
    continuation_link: str | None = None
    auth_chain: str | None = None


class OnBehalfRequest(Struct, rename="camel"):
    """Asks for one identity on behalf of the first device of a chain."""

    target_device_id: str
    target_module_id: str | None = None
    auth_chain: str | None = None


@final
class DeviceScopesHttpEndpoint:
    """The operations on device scopes; see `routes`."""

    def __init__(self, access: ServiceAccess, scopes: DeviceScopes) -> None:
        self._access = access
        self._scopes = scopes

    def routes(self) -> list[Route]:
        """Return all operations."""
        table = (
            ("GET", _WHOLE, self._page),
            ("GET", "deviceAndModuleInDeviceScope", self._one),
            ("POST", "devicesAndModulesInTargetDeviceScope", self._nested_page),
            ("POST", "getDeviceAndModuleOnBehalfOf", self._nested_one),
        )
        return [
            self._access.route(
                method, f"{_BASE}/{name}", operation, REGISTRY_READ, own_module=EDGE_HUB
            )
            for method, name, operation in table
        ]

    async def _page(self, hub: Hub, request: Request) -> Response:
        device_id, query = request.path_params["id"], request.query_params
        count = query.get("deviceCount", "")
        size = int(count) if count.isascii() and count.isdigit() and len(count) < 9 else 0
        scope = await self._scopes.page(hub.id, device_id, size, query.get("continuationToken", ""))
        if scope.continuation_link is not None:
            # Here the link is not a token but the very address to go on with.
            scope.continuation_link = (
                f"/devices/{quote(device_id, safe='')}/modules/{quote(EDGE_HUB, safe='')}/{_WHOLE}"
                f"?deviceCount={size}&continuationToken={quote(scope.continuation_link, safe='')}"
                f"&api-version={quote(query['api-version'], safe='')}"
            )
        return json_response(scope)

    async def _one(self, hub: Hub, request: Request) -> Response:
        query = request.query_params
        target = IdentityRef(
            hub.id, query.get("targetDeviceId", ""), query.get("targetModuleId", "")
        )
        return json_response(await self._scopes.one(hub.id, request.path_params["id"], target))

    async def _nested_page(self, hub: Hub, request: Request) -> Response:
        body: NestedScopeRequest = await read_json(request, NestedScopeRequest)
        actor = request.path_params["id"]
        first = await self._scopes.check_chain(hub.id, body.auth_chain or "", actor)
        scope = await self._scopes.page(hub.id, first, body.page_size, body.continuation_link or "")
        return json_response(scope)

    async def _nested_one(self, hub: Hub, request: Request) -> Response:
        body: OnBehalfRequest = await read_json(request, OnBehalfRequest)
        actor = request.path_params["id"]
        chain = body.auth_chain or ""
        names = chain.split(";")
        if names[0] == body.target_device_id and len(names) > 1:
            # The chain begins with the device asked for; its scope is that of the next one.
            chain = chain.partition(";")[2]
        first = await self._scopes.check_chain(hub.id, chain, actor)
        target = IdentityRef(hub.id, body.target_device_id, body.target_module_id or "")
        return json_response(await self._scopes.one(hub.id, first, target))
