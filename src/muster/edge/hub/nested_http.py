"""HTTPS of the edge hub for edge devices below this one (edge.md 6.3, 6.5).

To them this device stands in the hub's place: they ask it for their module identities, which the
hub makes, and for their scope, of which this edge hub knows what it was told last. Paths and bodies
are those of the official edge hub; statuses are the hub's, and 500 where the hub is out of reach,
which daemons take for that (edge.md 2.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, final

import msgspec
import structlog
from starlette.responses import Response

from muster.edge.hub import errors
from muster.edge.hub.authentication import Proof
from muster.edge.hub.members import local
from muster.edge.identity import HUB
from muster.edge.upstream.errors import UpstreamError
from muster.errors import (
    ForbiddenError,
    InvalidArgumentError,
    MethodNotAllowedError,
    MusterError,
    NotFoundError,
    UnavailableError,
)
from muster.net.routing import Route, RouteGroup, client_certificate, decode_json, read_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request

    from muster.edge.hub.authentication import Authenticator
    from muster.edge.hub.scope import Scope
    from muster.edge.upstream.http import Answer

_MAX_BODY: Final = 64 * 1024
_PAGE: Final = 10
_MAX_PAGE: Final = 1_000
_NO_CONTENT: Final = 204
_JSON: Final = "application/json; charset=utf-8"
_log = structlog.get_logger(__name__)


class ModuleRegistry(Protocol):
    """Asks the hub: `upstream.modules_on_behalf.ModulesOnBehalf`. All raise `UpstreamError`."""

    async def all(self, auth_chain: str) -> Answer:
        """Ask for all modules of a device."""

    async def get(self, auth_chain: str, module_id: str) -> Answer:
        """Ask for a module."""

    async def put(self, auth_chain: str, module: Mapping[str, Any], if_match: str | None) -> Answer:
        """Make or change a module."""

    async def delete(self, auth_chain: str, module_id: str) -> Answer:
        """Delete a module."""


class _Chained(msgspec.Struct, rename="camel"):
    """A call of an edge hub on behalf of the first device of a chain."""

    auth_chain: str


class _Put(_Chained, rename="camel"):
    module: dict[str, Any]


class _Get(_Chained, rename="camel"):
    target_module_id: str


class _Delete(_Chained, rename="camel"):
    module_id: str


class _ScopeRequest(_Chained, rename="camel"):
    page_size: int = _PAGE
    continuation_link: str | None = None


class _OneRequest(_Chained, rename="camel"):
    target_device_id: str
    target_module_id: str | None = None


@final
class NestedHead:
    """The operations; see `routes`.

    Args:
        device_id: of this device.
        authenticator: of clients.
        scope: who is below this device.
        registry: the hub's module identities.
    """

    def __init__(
        self,
        device_id: str,
        authenticator: Authenticator,
        scope: Scope,
        registry: ModuleRegistry,
    ) -> None:
        self._device_id = device_id
        self._authenticator = authenticator
        self._scope = scope
        self._registry = registry
        self._group = RouteGroup("edge devices below", _failed)

    def routes(self) -> list[Route]:
        """Return all operations."""
        modules, module = "/devices/{device}/modules", "/devices/{device}/modules/{module}"
        behalf = f"/devices/{{device}}/modules/{HUB}"
        table: tuple[tuple[str, str, Callable[[Request], Awaitable[Response]]], ...] = (
            ("GET", modules, self._list),
            ("GET", module, self._get),
            ("PUT", module, self._put),
            ("DELETE", module, self._delete),
            ("POST", f"{behalf}/getModulesOnTargetDevice", self._list_on_behalf),
            ("POST", f"{behalf}/getModuleOnBehalfOf", self._get_on_behalf),
            ("PUT", f"{behalf}/putModuleOnBehalfOf", self._put_on_behalf),
            ("POST", f"{behalf}/deleteModuleOnBehalfOf", self._delete_on_behalf),
            ("POST", f"{behalf}/devicesAndModulesInTargetDeviceScope", self._scope_page),
            ("POST", f"{behalf}/getDeviceAndModuleOnBehalfOf", self._one),
        )
        return [Route(method, path, handler, self._group) for method, path, handler in table]

    # -- modules, asked for by their device ----------------------------------------------------

    async def _list(self, request: Request) -> Response:
        if "api-version" not in request.query_params:
            # As the official edge hub says it, without a word.
            return Response(status_code=400, headers={"iothub-errorcode": "InvalidProtocolVersion"})
        return _passed(await self._registry.all(await self._chain_of_caller(request)))

    async def _get(self, request: Request) -> Response:
        chain = await self._chain_of_caller(request)
        return _passed(await self._registry.get(chain, request.path_params["module"]))

    async def _put(self, request: Request) -> Response:
        module: dict[str, Any] = decode_json(await read_body(request, _MAX_BODY), dict[str, Any])
        names = request.path_params["device"], request.path_params["module"]
        if (module.get("deviceId"), module.get("moduleId")) != names:
            raise InvalidArgumentError(
                "Device ID or module ID are not the same in path and body.", code="id-mismatch"
            )
        return await self._put_in(await self._chain_of_caller(request), module, request)

    async def _delete(self, request: Request) -> Response:
        chain = await self._chain_of_caller(request)
        return await self._deleted(chain, request.path_params["module"])

    # -- modules, asked for by the edge hub of a device above theirs ----------------------------

    async def _list_on_behalf(self, request: Request) -> Response:
        body: _Chained = decode_json(await read_body(request, _MAX_BODY), _Chained)
        return _passed(await self._registry.all(await self._chain_of_target(request, body)))

    async def _get_on_behalf(self, request: Request) -> Response:
        body: _Get = decode_json(await read_body(request, _MAX_BODY), _Get)
        chain = await self._chain_of_target(request, body)
        return _passed(await self._registry.get(chain, body.target_module_id))

    async def _put_on_behalf(self, request: Request) -> Response:
        body: _Put = decode_json(await read_body(request, _MAX_BODY), _Put)
        chain = await self._chain_of_target(request, body)
        return await self._put_in(chain, body.module, request)

    async def _delete_on_behalf(self, request: Request) -> Response:
        body: _Delete = decode_json(await read_body(request, _MAX_BODY), _Delete)
        return await self._deleted(await self._chain_of_target(request, body), body.module_id)

    async def _put_in(self, chain: str, module: dict[str, Any], request: Request) -> Response:
        answer = await self._registry.put(chain, module, request.headers.get("if-match"))
        self._scope.outdated(local(chain.partition(";")[0], str(module.get("moduleId"))))
        return _passed(answer)

    async def _deleted(self, chain: str, module_id: str) -> Response:
        answer = await self._registry.delete(chain, module_id)
        if answer.status == _NO_CONTENT:
            # Whoever has its key is no client of this edge hub any more.
            ref = local(chain.partition(";")[0], module_id)
            self._scope.outdated(ref)
            await self._scope.drop(ref)
        return _passed(answer)

    # -- scopes --------------------------------------------------------------------------------

    async def _scope_page(self, request: Request) -> Response:
        body: _ScopeRequest = decode_json(await read_body(request, _MAX_BODY), _ScopeRequest)
        target = (await self._chain_of_target(request, body)).partition(";")[0]
        if not body.continuation_link:
            await self._scope.renew(target)
        size = body.page_size if 0 < body.page_size <= _MAX_PAGE else _PAGE
        return _json(self._scope.page(target, size, body.continuation_link or ""))

    async def _one(self, request: Request) -> Response:
        body: _OneRequest = decode_json(await read_body(request, _MAX_BODY), _OneRequest)
        edge = (await self._chain_of_target(request, body)).partition(";")[0]
        ref = local(body.target_device_id, body.target_module_id or "")
        # It is asked for because what is known of it does not do.
        asked = await self._scope.ask(ref, edge)
        found = self._scope.find(ref)
        if found is None and not asked:
            raise UnavailableError(f"The hub did not say who '{ref.text}' is.")
        chain = self._scope.lineage(local(ref.device_id))
        if found is None or edge not in chain:
            raise NotFoundError(f"'{ref.text}' is not below '{edge}'.", code="not-in-scope")
        return _json(self._scope.one(ref))

    # -- who calls -----------------------------------------------------------------------------

    async def _chain_of_caller(self, request: Request) -> str:
        """Return the chain of the device of the path, which calls with its own proof."""
        device_id = request.path_params["device"]
        await self._authenticator.login(local(device_id), _proof(request))
        return self._chain(device_id, device_id)

    async def _chain_of_target(self, request: Request, body: _Chained) -> str:
        """Return the chain of the first device of the caller's chain.

        The caller is the `$edgeHub` of the device of the path, with its own proof.
        """
        actor = request.path_params["device"]
        target = body.auth_chain.partition(";")[0]
        if not target or "/" in target:
            raise InvalidArgumentError(
                "authChain does not begin with a device.", code="malformed-auth-chain"
            )
        await self._authenticator.login(local(actor, HUB), _proof(request))
        if not self._scope.lineage(local(target)):
            # The device above it may have heard of it first.
            await self._scope.ask(local(target), actor)
        return self._chain(target, actor)

    def _chain(self, target: str, actor: str) -> str:
        """Return the chain of a device, which leads over the actor; this one's own word counts."""
        chain = self._scope.auth_chain(local(target))
        names = self._scope.lineage(local(target))
        if chain is None or actor not in names or target == self._device_id:
            raise ForbiddenError(
                f"'{actor}' may not act for '{target}' here.", code="not-in-scope", subject=target
            )
        return chain


def _proof(request: Request) -> Proof:
    return Proof(request.headers.get("authorization"), client_certificate(request))


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type=_JSON)


def _passed(answer: Answer) -> Response:
    return Response(answer.body, status_code=answer.status, media_type=_JSON)


def _failed(_request: Request, error: Exception) -> Response:
    if isinstance(error, UpstreamError):
        status, message = 500, error.message
    elif isinstance(error, MethodNotAllowedError):
        status, message = 405, error.message
    elif isinstance(error, UnavailableError) or not isinstance(error, MusterError):
        status, message = 500, getattr(error, "message", "Internal error.")
    else:
        status, message = errors.status(error), error.message
    body = msgspec.json.encode({"errorMessage": message})
    return Response(body, status_code=status, media_type=_JSON)
