"""The frame around every operation of the hub's REST API: which hub, who may, what a failure says.

Each noun has a file of its own (`registry_http`, `twins_http`, …) that lists its operations with
the rights they need and turns one request into one call of the domain; all of them make their
routes here. Sources: hub-service.md 1, 1.1 (permissions), 2.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, final

import msgspec
from starlette.responses import Response

from muster.auth import sas_token
from muster.auth.access_policies import Right, authorize
from muster.auth.audience import same_host
from muster.errors import InvalidArgumentError, UnauthorizedError
from muster.hub.authentication import RefusedError, explained
from muster.hub.endpoints import errors
from muster.model.decision import Decision
from muster.model.identity import IdentityRef
from muster.net.routing import (
    Route,
    RouteGroup,
    client_certificate,
    decode_json,
    read_body,
    tracking_id,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from muster.auth.sas_token import SasToken
    from muster.clock import Clock
    from muster.decisions.log import DecisionLog
    from muster.hub.authentication import Authenticator
    from muster.hub.hubs import Hub, Hubs

Operation: TypeAlias = "Callable[[Hub, Request], Awaitable[Response]]"
"""Answers a request that is allowed."""

ModuleCheck: TypeAlias = "Callable[[IdentityRef, IdentityRef], Awaitable[None]]"
"""Raises `RefusedError` when a module (the first) may not do something to what the path names."""

REGISTRY_READ: Final = (Right.REGISTRY_READ,)
REGISTRY_WRITE: Final = (Right.REGISTRY_WRITE,)
SERVICE_CONNECT: Final = (Right.SERVICE_CONNECT,)
READ_OR_CONNECT: Final = (Right.REGISTRY_READ, Right.SERVICE_CONNECT)
WRITE_OR_CONNECT: Final = (Right.REGISTRY_WRITE, Right.SERVICE_CONNECT)
"""For the operations whose right the contract is not sure of: either will do (hub-service.md 1.1,
rows 14 and 16 to 31)."""

BODY_LIMIT: Final = 256 * 1024
"""Bytes of an identity or a twin, read-only parts and formatting included."""

_CALLING_MODULE: Final = "x-ms-edge-moduleid"
_API_VERSION: Final = re.compile(r"20\d\d-\d\d-\d\d(-preview)?", re.IGNORECASE)
_HOST: Final = re.compile(r"[A-Za-z0-9.\-:\[\]]{1,255}")
_JSON: Final = "application/json; charset=utf-8"
_encode: Final = msgspec.json.Encoder().encode
_T = TypeVar("_T")


@final
class ServiceAccess:
    """Makes the routes of the hub's REST API.

    Attributes:
        group: the family the routes belong to.
    """

    def __init__(
        self, hubs: Hubs, authenticator: Authenticator, decisions: DecisionLog, clock: Clock
    ) -> None:
        self._hubs = hubs
        self._authenticator = authenticator
        self._decisions = decisions
        self._clock = clock
        self.group = RouteGroup("hub-service", self._on_error)

    def route(
        self,
        method: str,
        pattern: str,
        operation: Operation,
        rights: tuple[Right, ...],
        *,
        own: bool = False,
        own_module: str | None = None,
        modules: ModuleCheck | None = None,
    ) -> Route:
        """Return the route of an operation.

        Args:
            method: the HTTP method.
            pattern: the path; see `muster.net.routing.Route`.
            operation: what answers.
            rights: any one of them is enough.
            own: whether the device `{id}` of the path may do it with its own key or certificate,
                too (hub-device.md 4).
            own_module: the module of the device `{id}` that may do it with its own key or
                certificate, too (edge.md 6.4); `None` for none.
            modules: whether the module of the header `x-ms-edge-moduleId` may do it with its own
                key or certificate, too (hub-device.md 4); `None` for never.
        """

        async def handle(request: Request) -> Response:
            hub = self._hubs.for_request(request.headers.get("host"))
            own_ref = _own_ref(hub, request, own=own, module_id=own_module)
            await self._authorize(hub, request, rights, own=own_ref, modules=modules)
            check_api_version(request)
            response = await operation(hub, request)
            response.headers["x-ms-request-id"] = tracking_id(request)
            return response

        return Route(method, pattern, handle, self.group)

    async def _authorize(
        self,
        hub: Hub,
        request: Request,
        rights: tuple[Right, ...],
        *,
        own: IdentityRef | None,
        modules: ModuleCheck | None,
    ) -> None:
        header = request.headers.get("authorization")
        token: SasToken | None = None
        now = self._clock.now()
        try:
            token = sas_token.parse(header) if header else None
            certificate = None if header else client_certificate(request)
            # Whoever comes with a policy has neither.
            identity = certificate is not None or (token is not None and token.key_name is None)
            if own is not None and identity:
                await self._authenticator.login(hub, own, header, certificate)
                return
            caller = request.headers.get(_CALLING_MODULE)
            if modules is not None and identity and caller:
                device_id, _, module_id = caller.partition("/")
                ref = IdentityRef(hub.id, device_id, module_id)
                await self._authenticator.login(hub, ref, header, certificate)
                await modules(ref, identity_of(hub, request))
                return
            authorize(
                header,
                hosts=hub.names,
                path=request.scope["path"],
                policies=hub.policy,
                needs=rights,
                now=now.timestamp(),
            )
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


def _own_ref(hub: Hub, request: Request, *, own: bool, module_id: str | None) -> IdentityRef | None:
    """Return who besides a policy may do it with its own key."""
    if not own and module_id is None:
        return None
    return IdentityRef(hub.id, request.path_params["id"], module_id or "")


def json_response(value: Any, status: int = 200) -> Response:
    """Return a value as JSON."""
    return Response(_encode(value), status, media_type=_JSON)


def entity(value: Any) -> Response:
    """Return something that has an `etag` as JSON, the etag in its header."""
    response = json_response(value)
    response.headers["etag"] = f'"{value.etag}"'
    return response


async def read_json(request: Request, kind: type[_T] | Any, limit: int = BODY_LIMIT) -> _T:
    """Read and decode a body.

    Raises:
        TooLargeError: it has more than `limit` bytes.
        InvalidArgumentError: it is no JSON of that kind.
    """
    decoded: _T = decode_json(await read_body(request, limit), kind)
    return decoded


def identity_of(hub: Hub, request: Request) -> IdentityRef:
    """Return the device or module that `{id}` and `{module}` of the path name."""
    parameters = request.path_params
    return IdentityRef(hub.id, parameters["id"], parameters.get("module", ""))


def caller_host(hub: Hub, request: Request) -> str:
    """Return the name by which the caller reaches this service, good for its next call.

    Raises:
        InvalidArgumentError: the `Host` header names no host; code `invalid-host`.
    """
    host: str = request.headers.get("host", hub.host)
    if not _HOST.fullmatch(host):
        raise InvalidArgumentError("The Host header names no host.", code="invalid-host")
    return host


def told_host(hub: Hub, request: Request) -> str:
    """Return a name of the hub that others may be told, with the port the caller uses.

    The name is never the caller's choice: what others do with a URL must lead here. An only hub
    answers to every name.

    Raises:
        InvalidArgumentError: as `caller_host`.
    """
    host = caller_host(hub, request)
    if same_host(host, hub.names):
        return host
    _, colon, port = host.rpartition(":")
    return f"{hub.host}:{port}" if colon and port.isdigit() else hub.host


def check_same(given: str | None, expected: str, what: str) -> None:
    """Refuse a body that is about something else than its path.

    Raises:
        InvalidArgumentError: code `id-mismatch`.
    """
    if given is not None and given != expected:
        raise InvalidArgumentError(
            f"The {what} in the body is not the one in the path.", code="id-mismatch"
        )


def check_api_version(request: Request) -> None:
    """Refuse a call without a version that looks like one (hub-service.md 1).

    Raises:
        InvalidArgumentError: code `api-version-missing`.
    """
    if not _API_VERSION.fullmatch(request.query_params.get("api-version", "")):
        raise InvalidArgumentError("BadRequest", code="api-version-missing")
