"""Module identities that an edge device asks for on behalf of one below it (edge.md 6.3, 6.5).

A device below another one calls that one as if it were the hub, and its `$edgeHub` passes the call
on to here with the chain of devices in between. The answers go back as they are, so they are those
of the direct calls (edge.md 2.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from msgspec import Struct
from starlette.responses import Response

from muster.hub.endpoints.service_access import (
    REGISTRY_READ,
    REGISTRY_WRITE,
    check_same,
    entity,
    json_response,
    read_json,
)
from muster.model.identity import EDGE_HUB, IdentityRef, ModuleRequest

if TYPE_CHECKING:
    from starlette.requests import Request

    from muster.hub.device_scopes import DeviceScopes
    from muster.hub.endpoints.service_access import ServiceAccess
    from muster.hub.hubs import Hub
    from muster.hub.modules import Modules
    from muster.net.routing import Route

_ANY: Final = "*"


class _ChainRequest(Struct, rename="camel"):
    """Is about the modules of the first device of a chain."""

    auth_chain: str


class _PutRequest(_ChainRequest):
    """Makes or changes a module."""

    module: ModuleRequest


class _GetRequest(_ChainRequest, rename="camel"):
    """Asks for a module."""

    target_module_id: str


class _DeleteRequest(_ChainRequest, rename="camel"):
    """Deletes a module."""

    module_id: str


@final
class ModulesOnBehalfHttpEndpoint:
    """The operations; see `routes`."""

    def __init__(self, access: ServiceAccess, scopes: DeviceScopes, modules: Modules) -> None:
        self._access = access
        self._scopes = scopes
        self._modules = modules

    def routes(self) -> list[Route]:
        """Return all operations."""
        table = (
            ("PUT", "putModuleOnBehalfOf", self._put, REGISTRY_WRITE),
            ("POST", "getModuleOnBehalfOf", self._get, REGISTRY_READ),
            ("POST", "getModulesOnTargetDevice", self._list, REGISTRY_READ),
            ("POST", "deleteModuleOnBehalfOf", self._delete, REGISTRY_WRITE),
        )
        base = f"/devices/{{id}}/modules/{EDGE_HUB}"
        return [
            self._access.route(method, f"{base}/{name}", operation, rights, own_module=EDGE_HUB)
            for method, name, operation, rights in table
        ]

    async def _put(self, hub: Hub, request: Request) -> Response:
        body: _PutRequest = await read_json(request, _PutRequest)
        ref = await self._ref(hub, request, body, body.module.module_id or "")
        check_same(body.module.device_id, ref.device_id, "deviceId")
        if_match = request.headers.get("if-match")
        if if_match is None:
            return entity(await self._modules.create(ref, body.module))
        return entity(await self._modules.update(ref, body.module, if_match))

    async def _get(self, hub: Hub, request: Request) -> Response:
        body: _GetRequest = await read_json(request, _GetRequest)
        ref = await self._ref(hub, request, body, body.target_module_id)
        return entity(await self._modules.get(ref))

    async def _list(self, hub: Hub, request: Request) -> Response:
        body: _ChainRequest = await read_json(request, _ChainRequest)
        ref = await self._ref(hub, request, body, "")
        return json_response(await self._modules.of_device(hub.id, ref.device_id))

    async def _delete(self, hub: Hub, request: Request) -> Response:
        body: _DeleteRequest = await read_json(request, _DeleteRequest)
        ref = await self._ref(hub, request, body, body.module_id)
        # The edge device in between does not pass on what the one below it knows of the etag.
        await self._modules.delete(ref, request.headers.get("if-match", _ANY))
        return Response(status_code=204)

    async def _ref(
        self, hub: Hub, request: Request, body: _ChainRequest, module_id: str
    ) -> IdentityRef:
        actor = request.path_params["id"]
        device_id = await self._scopes.target(hub.id, body.auth_chain, actor)
        return IdentityRef(hub.id, device_id, module_id)
