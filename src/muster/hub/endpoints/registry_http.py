"""Device and module identities over REST: CRUD, bulk, keys, statistics.

Source: hub-service.md 1.1 rows 1-10, 16-17.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from msgspec import Struct
from starlette.responses import Response

from muster.hub.endpoints import errors
from muster.hub.endpoints.service_access import (
    READ_OR_CONNECT,
    REGISTRY_READ,
    REGISTRY_WRITE,
    check_same,
    entity,
    identity_of,
    json_response,
    read_json,
)
from muster.hub.key_regeneration import KeyEntry, KeyRequest
from muster.hub.registry import require_if_match
from muster.model.identity import BulkEntry, BulkError, BulkResult, DeviceRequest, ModuleRequest

if TYPE_CHECKING:
    from starlette.requests import Request

    from muster.hub.bulk import Bulk, Failure
    from muster.hub.connections import Connections
    from muster.hub.endpoints.service_access import ServiceAccess
    from muster.hub.hubs import Hub
    from muster.hub.identities import Identities
    from muster.hub.key_regeneration import KeyRegeneration
    from muster.hub.modules import Modules
    from muster.net.routing import Route

BULK_BODY_LIMIT: Final = 8 * 1024 * 1024
"""Bytes of a bulk operation: a hundred identities with full twins."""


class _KeyError(Struct, rename="camel"):
    """Why the keys of one identity were not renewed."""

    id: str
    module_id: str | None
    error_code: str
    error_status: str


class _KeyResult(Struct, rename="camel"):
    """What a renewal of keys answers, success or not."""

    rotated_keys: list[KeyEntry]
    errors: list[_KeyError]


@final
class RegistryHttpEndpoint:
    """The operations on identities; see `routes`."""

    def __init__(
        self,
        access: ServiceAccess,
        *,
        identities: Identities,
        modules: Modules,
        bulk: Bulk,
        keys: KeyRegeneration,
        connections: Connections,
    ) -> None:
        self._access = access
        self._identities = identities
        self._modules = modules
        self._bulk = bulk
        self._keys = keys
        self._connections = connections

    def routes(self) -> list[Route]:
        """Return all operations."""
        route, read, write = self._access.route, REGISTRY_READ, REGISTRY_WRITE
        device, module = "/devices/{id}", "/devices/{id}/modules/{module}"
        return [
            route("GET", "/devices", self._list_devices, read),
            route("POST", "/devices", self._run_bulk, write),
            route("POST", "/devices/keys/regenerate", self._regenerate_keys, write),
            route("GET", device, self._get_device, read),
            route("PUT", device, self._put_device, write),
            route("DELETE", device, self._delete_device, write),
            route("GET", f"{device}/modules", self._list_modules, read, own=True),
            route("GET", module, self._get_module, read, own=True),
            route("PUT", module, self._put_module, write, own=True),
            route("DELETE", module, self._delete_module, write, own=True),
            route("GET", "/statistics/devices", self._registry_statistics, READ_OR_CONNECT),
            route("GET", "/statistics/service", self._service_statistics, READ_OR_CONNECT),
        ]

    # -- devices -------------------------------------------------------------------------------

    async def _list_devices(self, hub: Hub, request: Request) -> Response:
        top = request.query_params.get("top", "")
        # Anything that is no sensible number means the most there is (hub-service.md 1.1 row 1).
        wanted = int(top) if top.isascii() and top.isdigit() and len(top) < 9 else 0
        return json_response(await self._identities.page(hub.id, wanted))

    async def _get_device(self, hub: Hub, request: Request) -> Response:
        return entity(await self._identities.get(hub.id, request.path_params["id"]))

    async def _put_device(self, hub: Hub, request: Request) -> Response:
        device_id = request.path_params["id"]
        body: DeviceRequest = await read_json(request, DeviceRequest)
        check_same(body.device_id, device_id, "deviceId")
        if_match = request.headers.get("if-match")
        if if_match is None:
            return entity(await self._identities.create(hub.id, device_id, body))
        return entity(await self._identities.update(hub.id, device_id, body, if_match))

    async def _delete_device(self, hub: Hub, request: Request) -> Response:
        if_match = require_if_match(request.headers.get("if-match"))
        await self._identities.delete(hub.id, request.path_params["id"], if_match)
        return Response(status_code=204)

    async def _run_bulk(self, hub: Hub, request: Request) -> Response:
        entries: list[BulkEntry] = await read_json(request, list[BulkEntry], BULK_BODY_LIMIT)
        failures = await self._bulk.run(hub.id, entries)
        result = BulkResult(not failures, [_bulk_error(failure) for failure in failures], [])
        return json_response(result, 200 if result.is_successful else 400)

    async def _regenerate_keys(self, hub: Hub, request: Request) -> Response:
        body: KeyRequest = await read_json(request, KeyRequest)
        result = _KeyResult([], [])
        for entry, error in zip(body.devices, await self._keys.run(hub.id, body), strict=True):
            if error is None:
                result.rotated_keys.append(entry)
                continue
            name, text = errors.official(error).name, errors.public_text(error)
            result.errors.append(_KeyError(entry.id, entry.module_id, name, text))
        status = 207 if result.rotated_keys else 400
        return json_response(result, status if result.errors else 200)

    # -- modules -------------------------------------------------------------------------------

    async def _list_modules(self, hub: Hub, request: Request) -> Response:
        return json_response(await self._modules.of_device(hub.id, request.path_params["id"]))

    async def _get_module(self, hub: Hub, request: Request) -> Response:
        return entity(await self._modules.get(identity_of(hub, request)))

    async def _put_module(self, hub: Hub, request: Request) -> Response:
        ref = identity_of(hub, request)
        body: ModuleRequest = await read_json(request, ModuleRequest)
        check_same(body.device_id, ref.device_id, "deviceId")
        check_same(body.module_id, ref.module_id, "moduleId")
        if_match = request.headers.get("if-match")
        if if_match is None:
            return entity(await self._modules.create(ref, body))
        return entity(await self._modules.update(ref, body, if_match))

    async def _delete_module(self, hub: Hub, request: Request) -> Response:
        if_match = require_if_match(request.headers.get("if-match"))
        await self._modules.delete(identity_of(hub, request), if_match)
        return Response(status_code=204)

    # -- statistics ----------------------------------------------------------------------------

    async def _registry_statistics(self, hub: Hub, request: Request) -> Response:
        return json_response(await self._identities.statistics(hub.id))

    async def _service_statistics(self, hub: Hub, request: Request) -> Response:
        return json_response({"connectedDeviceCount": self._connections.connected_devices(hub.id)})


def _bulk_error(failure: Failure) -> BulkError:
    return BulkError(
        failure.entry.id,
        errors.official(failure.error).name,
        errors.public_text(failure.error),
        failure.entry.module_id or None,
        failure.operation,
    )
