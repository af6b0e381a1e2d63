"""HTTPS of the edge hub: direct methods between modules, and WebSockets (edge.md 6.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import msgspec
import structlog
from starlette.responses import Response

from muster.edge.hub import errors
from muster.edge.hub.authentication import Proof
from muster.edge.hub.members import local
from muster.errors import InvalidArgumentError, MusterError, NotFoundError, UnauthorizedError
from muster.model.method import MAX_PAYLOAD, MethodRequest, MethodResult, check, is_json
from muster.net.routing import Route, RouteGroup, client_certificate, decode_json, read_body

if TYPE_CHECKING:
    from starlette.requests import Request

    from muster.edge.hub.heads import Services
    from muster.model.identity import IdentityRef

CALLER: Final = "x-ms-edge-moduleId"
"""Header that names the module that calls."""

_MAX_BODY: Final = MAX_PAYLOAD + 8 * 1024
_GATEWAY_TIMEOUT: Final = 504
_log = structlog.get_logger(__name__)


@final
class HttpHead:
    """The operations; see `routes`.

    Args:
        services: of the edge hub.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self.group = RouteGroup("edge hub", _failed)

    def routes(self) -> list[Route]:
        """Return all operations."""
        return [
            Route("POST", f"{twin}/methods", self._invoke, self.group)
            for twin in ("/twins/{device}", "/twins/{device}/modules/{module}")
        ]

    async def _invoke(self, request: Request) -> Response:
        await self._check_caller(request)
        target = local(request.path_params["device"], request.path_params.get("module", ""))
        body: MethodRequest = decode_json(await read_body(request, _MAX_BODY), MethodRequest)
        call = body.call()
        check(call)
        answer = await self._services.methods.invoke(
            target,
            call.name,
            call.payload,
            response_timeout_s=call.response_timeout_s,
            connect_timeout_s=call.connect_timeout_s,
        )
        payload = answer.payload or b"null"
        if not is_json(payload):
            raise InvalidArgumentError("The answer of the client is not JSON.")
        result = MethodResult(answer.status, msgspec.Raw(payload))
        return Response(msgspec.json.encode(result), media_type="application/json")

    async def _check_caller(self, request: Request) -> IdentityRef:
        """Return the module that calls: one of this very device, with its own proof."""
        device_id, _, module_id = request.headers.get(CALLER, "").partition("/")
        if not module_id or device_id != self._services.device_id:
            raise UnauthorizedError("Only modules of this device may call methods here.")
        caller = local(device_id, module_id)
        proof = Proof(request.headers.get("authorization"), client_certificate(request))
        await self._services.authenticator.login(caller, proof)
        return caller


def _failed(request: Request, error: Exception) -> Response:
    if not isinstance(error, MusterError):
        _log.error("request failed", path=request.url.path, exc_info=error)
        return _message(500, "Internal error.")
    status = errors.status(error)
    if error.code == "method-timed-out":
        status = _GATEWAY_TIMEOUT
    if isinstance(error, NotFoundError) and error.code == "path-not-found":
        return _message(404, "There is nothing here.")
    return _message(status, error.message)


def _message(status: int, text: str) -> Response:
    body = msgspec.json.encode({"message": text})
    return Response(body, status_code=status, media_type="application/json")
