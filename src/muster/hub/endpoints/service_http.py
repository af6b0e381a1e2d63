"""The hub's REST API for services: registry, twins, statistics (hub-service.md 1.1).

Every handler turns one request into one call of the domain and its result into JSON. Who may call
is in the table of `HubServiceEndpoint.routes`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import msgspec
from starlette.responses import Response

from muster.auth import sas_token
from muster.auth.access_policies import Right, authorize
from muster.errors import InvalidArgumentError, UnauthorizedError
from muster.hub.authentication import RefusedError, explained
from muster.hub.endpoints import errors
from muster.hub.registry import require_if_match
from muster.hub.twins import TwinRequest
from muster.model.decision import Decision
from muster.model.identity import (
    BulkEntry,
    BulkError,
    BulkResult,
    DeviceRequest,
    IdentityRef,
    ModuleRequest,
)
from muster.net.routing import Route, RouteGroup, decode_json, read_body, tracking_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from muster.auth.sas_token import SasToken
    from muster.clock import Clock
    from muster.decisions.log import DecisionLog
    from muster.hub.authentication import Authenticator
    from muster.hub.bulk import Bulk, Failure
    from muster.hub.connections import Connections
    from muster.hub.hubs import Hub, Hubs
    from muster.hub.identities import Identities
    from muster.hub.modules import Modules
    from muster.hub.twins import Twins

BODY_LIMIT: Final = 256 * 1024
"""Bytes of an identity or a twin, read-only parts and formatting included."""
BULK_BODY_LIMIT: Final = 8 * 1024 * 1024
"""Bytes of a bulk operation: a hundred identities with full twins."""

_API_VERSION: Final = re.compile(r"20\d\d-\d\d-\d\d(-preview)?", re.IGNORECASE)
_JSON: Final = "application/json; charset=utf-8"
_encode: Final = msgspec.json.Encoder().encode

_REGISTRY_READ: Final = (Right.REGISTRY_READ,)
_REGISTRY_WRITE: Final = (Right.REGISTRY_WRITE,)
_SERVICE_CONNECT: Final = (Right.SERVICE_CONNECT,)
_Operation: TypeAlias = "Callable[[Hub, Request], Awaitable[Response]]"

# Services with either right exist that count connections (hub-service.md 1.1 row 17).
_STATISTICS: Final = (Right.SERVICE_CONNECT, Right.REGISTRY_READ)


@final
class HubServiceEndpoint:
    """The operations of one family of routes; see `routes`."""

    def __init__(
        self,
        *,
        hubs: Hubs,
        identities: Identities,
        modules: Modules,
        twins: Twins,
        bulk: Bulk,
        connections: Connections,
        authenticator: Authenticator,
        decisions: DecisionLog,
        clock: Clock,
    ) -> None:
        self._hubs = hubs
        self._identities = identities
        self._modules = modules
        self._twins = twins
        self._bulk = bulk
        self._connections = connections
        self._authenticator = authenticator
        self._decisions = decisions
        self._clock = clock
        self.group = RouteGroup("hub-service", self._on_error)

    def routes(self) -> list[Route]:
        """Return all operations."""
        read, write, twin = _REGISTRY_READ, _REGISTRY_WRITE, _SERVICE_CONNECT
        device, module = "/devices/{id}", "/devices/{id}/modules/{module}"
        twins, module_twins = "/twins/{id}", "/twins/{id}/modules/{module}"
        table: tuple[tuple[str, str, _Operation, tuple[Right, ...]], ...] = (
            ("GET", "/devices", self._list_devices, read),
            ("POST", "/devices", self._run_bulk, write),
            ("GET", device, self._get_device, read),
            ("PUT", device, self._put_device, write),
            ("DELETE", device, self._delete_device, write),
            ("GET", twins, self._get_twin, twin),
            ("PATCH", twins, self._patch_twin, twin),
            ("PUT", twins, self._put_twin, twin),
            ("GET", module_twins, self._get_twin, twin),
            ("PATCH", module_twins, self._patch_twin, twin),
            ("PUT", module_twins, self._put_twin, twin),
            ("GET", "/statistics/devices", self._registry_statistics, read),
            ("GET", "/statistics/service", self._service_statistics, _STATISTICS),
        )
        # What an edge device may do with its own key, too (hub-device.md 4).
        own: tuple[tuple[str, str, _Operation, tuple[Right, ...]], ...] = (
            ("GET", f"{device}/modules", self._list_modules, read),
            ("GET", module, self._get_module, read),
            ("PUT", module, self._put_module, write),
            ("DELETE", module, self._delete_module, write),
        )
        return [
            *(self._route(*row, own=False) for row in table),
            *(self._route(*row, own=True) for row in own),
        ]

    # -- devices -------------------------------------------------------------------------------

    async def _list_devices(self, hub: Hub, request: Request) -> Response:
        top = request.query_params.get("top", "")
        # Anything that is no sensible number means the most there is (hub-service.md 1.1 row 1).
        wanted = int(top) if top.isascii() and top.isdigit() and len(top) < 9 else 0
        return _json(await self._identities.page(hub.id, wanted))

    async def _get_device(self, hub: Hub, request: Request) -> Response:
        return _entity(await self._identities.get(hub.id, request.path_params["id"]))

    async def _put_device(self, hub: Hub, request: Request) -> Response:
        device_id = request.path_params["id"]
        body: DeviceRequest = await _body(request, DeviceRequest)
        _check_same(body.device_id, device_id, "deviceId")
        if_match = request.headers.get("if-match")
        if if_match is None:
            return _entity(await self._identities.create(hub.id, device_id, body))
        return _entity(await self._identities.update(hub.id, device_id, body, if_match))

    async def _delete_device(self, hub: Hub, request: Request) -> Response:
        if_match = require_if_match(request.headers.get("if-match"))
        await self._identities.delete(hub.id, request.path_params["id"], if_match)
        return Response(status_code=204)

    async def _run_bulk(self, hub: Hub, request: Request) -> Response:
        body = await read_body(request, BULK_BODY_LIMIT)
        entries: list[BulkEntry] = decode_json(body, list[BulkEntry])
        failures = await self._bulk.run(hub.id, entries)
        result = BulkResult(not failures, [_bulk_error(failure) for failure in failures], [])
        return _json(result, 200 if result.is_successful else 400)

    # -- modules -------------------------------------------------------------------------------

    async def _list_modules(self, hub: Hub, request: Request) -> Response:
        return _json(await self._modules.of_device(hub.id, request.path_params["id"]))

    async def _get_module(self, hub: Hub, request: Request) -> Response:
        return _entity(await self._modules.get(_ref(hub, request)))

    async def _put_module(self, hub: Hub, request: Request) -> Response:
        ref = _ref(hub, request)
        body: ModuleRequest = await _body(request, ModuleRequest)
        _check_same(body.device_id, ref.device_id, "deviceId")
        _check_same(body.module_id, ref.module_id, "moduleId")
        if_match = request.headers.get("if-match")
        if if_match is None:
            return _entity(await self._modules.create(ref, body))
        return _entity(await self._modules.update(ref, body, if_match))

    async def _delete_module(self, hub: Hub, request: Request) -> Response:
        if_match = require_if_match(request.headers.get("if-match"))
        await self._modules.delete(_ref(hub, request), if_match)
        return Response(status_code=204)

    # -- twins ---------------------------------------------------------------------------------

    async def _get_twin(self, hub: Hub, request: Request) -> Response:
        return _entity(await self._twins.get(_ref(hub, request)))

    async def _patch_twin(self, hub: Hub, request: Request) -> Response:
        return await self._change_twin(hub, request, replace=False)

    async def _put_twin(self, hub: Hub, request: Request) -> Response:
        return await self._change_twin(hub, request, replace=True)

    async def _change_twin(self, hub: Hub, request: Request, *, replace: bool) -> Response:
        body: TwinRequest = await _body(request, TwinRequest)
        if_match = request.headers.get("if-match")
        return _entity(
            await self._twins.change(_ref(hub, request), body, if_match, replace=replace)
        )

    # -- statistics ----------------------------------------------------------------------------

    async def _registry_statistics(self, hub: Hub, request: Request) -> Response:
        return _json(await self._identities.statistics(hub.id))

    async def _service_statistics(self, hub: Hub, request: Request) -> Response:
        return _json({"connectedDeviceCount": self._connections.connected_devices(hub.id)})

    # -- around every operation ----------------------------------------------------------------

    def _route(
        self,
        method: str,
        pattern: str,
        operation: _Operation,
        rights: tuple[Right, ...],
        *,
        own: bool,
    ) -> Route:
        async def handle(request: Request) -> Response:
            hub = self._hubs.for_request(request.headers.get("host"))
            await self._authorize(hub, request, rights, own=own)
            _check_api_version(request)
            response = await operation(hub, request)
            response.headers["x-ms-request-id"] = tracking_id(request)
            return response

        return Route(method, pattern, handle, self.group)

    async def _authorize(
        self, hub: Hub, request: Request, rights: tuple[Right, ...], *, own: bool
    ) -> None:
        header = request.headers.get("authorization")
        token: SasToken | None = None
        now = self._clock.time()
        try:
            token = sas_token.parse(header) if header else None
            if own and token is not None and token.key_name is None:
                ref = IdentityRef(hub.id, request.path_params["id"])
                await self._authenticator.login(hub, ref, header)
                return
            authorize(header, hosts=hub.names, policies=hub.policy, needs=rights, now=now)
        except RefusedError as refused:
            self._record(hub, request, refused)
            raise
        except UnauthorizedError as error:
            needs = " or ".join(rights)
            self._record(
                hub, request, explained(error, token, expected=hub.host, needs=needs, now=now)
            )
            raise

    def _record(self, hub: Hub, request: Request, refused: RefusedError) -> None:
        self._decisions.record(
            Decision(
                tracking_id=tracking_id(request),
                time=self._clock.now(),
                service=hub.host,
                operation="service",
                subject=request.url.path[:256],
                outcome="refused",
                check=refused.check,
                facts=refused.facts,
            )
        )

    def _on_error(self, request: Request, error: Exception) -> Response:
        return errors.service_response(error, tracking_id(request), self._clock.now())


def _json(value: Any, status: int = 200) -> Response:
    return Response(_encode(value), status, media_type=_JSON)


def _entity(value: Any) -> Response:
    response = _json(value)
    response.headers["etag"] = f'"{value.etag}"'
    return response


async def _body(request: Request, kind: type[Any]) -> Any:
    return decode_json(await read_body(request, BODY_LIMIT), kind)


def _ref(hub: Hub, request: Request) -> IdentityRef:
    parameters = request.path_params
    return IdentityRef(hub.id, parameters["id"], parameters.get("module", ""))


def _check_same(given: str | None, expected: str, what: str) -> None:
    if given is not None and given != expected:
        raise InvalidArgumentError(
            f"The {what} in the body is not the one in the path.", code="id-mismatch"
        )


def _check_api_version(request: Request) -> None:
    if not _API_VERSION.fullmatch(request.query_params.get("api-version", "")):
        raise InvalidArgumentError("BadRequest", code="api-version-missing")


def _bulk_error(failure: Failure) -> BulkError:
    return BulkError(
        failure.entry.id,
        errors.official(failure.error).name,
        errors.public_text(failure.error),
        failure.entry.module_id or None,
        failure.operation,
    )
