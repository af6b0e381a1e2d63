"""Digital twins and their commands over REST (hub-service.md 1.1 rows 37-40)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final
from urllib.parse import quote

from starlette.responses import Response

from muster.errors import InvalidArgumentError, MusterError
from muster.hub.digital_twins import method_name
from muster.hub.endpoints import errors
from muster.hub.endpoints.service_access import (
    SERVICE_CONNECT,
    identity_of,
    json_response,
    read_json,
)
from muster.model.digital_twin import PatchOperation
from muster.model.method import DEFAULT_RESPONSE_TIMEOUT_S, MAX_PAYLOAD, NO_PAYLOAD, MethodCall
from muster.net.routing import read_body, tracking_id

if TYPE_CHECKING:
    from starlette.requests import Request

    from muster.clock import Clock
    from muster.hub.digital_twins import DigitalTwins
    from muster.hub.endpoints.service_access import ServiceAccess
    from muster.hub.hubs import Hub
    from muster.hub.methods import Methods
    from muster.net.routing import Route


@final
class DigitalTwinsHttpEndpoint:
    """The operations on digital twins; see `routes`."""

    def __init__(
        self, access: ServiceAccess, digital_twins: DigitalTwins, methods: Methods, clock: Clock
    ) -> None:
        self._access = access
        self._digital_twins = digital_twins
        self._methods = methods
        self._clock = clock

    def routes(self) -> list[Route]:
        """Return all operations."""
        twin = "/digitaltwins/{id}"
        return [
            self._access.route(method, pattern, operation, SERVICE_CONNECT)
            for method, pattern, operation in (
                ("GET", twin, self._get),
                ("PATCH", twin, self._patch),
                ("POST", f"{twin}/commands/{{command}}", self._invoke),
                ("POST", f"{twin}/components/{{component}}/commands/{{command}}", self._invoke),
            )
        ]

    async def _get(self, hub: Hub, request: Request) -> Response:
        found = await self._digital_twins.get(identity_of(hub, request))
        response = json_response(found.document)
        response.headers["etag"] = f'"{found.etag}"'
        return response

    async def _patch(self, hub: Hub, request: Request) -> Response:
        operations: list[PatchOperation] = await read_json(request, list[PatchOperation])
        ref = identity_of(hub, request)
        etag = await self._digital_twins.update(ref, operations, request.headers.get("if-match"))
        location = f"https://{hub.host}/digitaltwins/{quote(ref.device_id, safe='')}"
        return Response(status_code=202, headers={"etag": f'"{etag}"', "location": location})

    async def _invoke(self, hub: Hub, request: Request) -> Response:
        names = request.path_params
        try:
            call = MethodCall(
                name=method_name(names["command"], names.get("component")),
                payload=await read_body(request, MAX_PAYLOAD) or NO_PAYLOAD,
                response_timeout_s=_seconds(
                    request, "responseTimeoutInSeconds", DEFAULT_RESPONSE_TIMEOUT_S
                ),
                connect_timeout_s=_seconds(request, "connectTimeoutInSeconds", 0),
            )
            result = await self._methods.invoke(identity_of(hub, request), call)
        except MusterError as error:
            return errors.method_response(error, tracking_id(request), self._clock.now())
        response = json_response(result.payload)
        response.headers["x-ms-command-statuscode"] = str(result.status)
        return response


def _seconds(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise InvalidArgumentError(f"{name} must be a whole number.", code="invalid-timeout")
    return int(text)
