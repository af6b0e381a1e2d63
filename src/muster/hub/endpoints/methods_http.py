"""Direct methods over REST (hub-service.md 1.1 row 15, 1.7), for services and for edge modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import msgspec
from msgspec import Struct

from muster.errors import MusterError
from muster.hub.endpoints import errors
from muster.hub.endpoints.service_access import (
    SERVICE_CONNECT,
    identity_of,
    json_response,
    read_json,
)
from muster.model.method import DEFAULT_RESPONSE_TIMEOUT_S, NO_PAYLOAD, MethodCall
from muster.net.routing import tracking_id

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from muster.clock import Clock
    from muster.hub.endpoints.service_access import ServiceAccess
    from muster.hub.hubs import Hub
    from muster.hub.methods import Methods
    from muster.net.routing import Route


class _Body(Struct, rename="camel"):
    """`CloudToDeviceMethod`."""

    method_name: str
    payload: msgspec.Raw = msgspec.Raw(NO_PAYLOAD)
    response_timeout_in_seconds: int | None = None
    connect_timeout_in_seconds: int | None = None


@final
class MethodsHttpEndpoint:
    """The operation on methods; see `routes`."""

    def __init__(self, access: ServiceAccess, methods: Methods, clock: Clock) -> None:
        self._access = access
        self._methods = methods
        self._clock = clock

    def routes(self) -> list[Route]:
        """Return all operations."""
        return [
            self._access.route(
                "POST",
                f"{twin}/methods",
                self._invoke,
                SERVICE_CONNECT,
                modules=self._methods.check_caller,
            )
            for twin in ("/twins/{id}", "/twins/{id}/modules/{module}")
        ]

    async def _invoke(self, hub: Hub, request: Request) -> Response:
        try:
            body: _Body = await read_json(request, _Body)
            call = MethodCall(
                name=body.method_name,
                payload=bytes(body.payload),
                response_timeout_s=(
                    DEFAULT_RESPONSE_TIMEOUT_S
                    if body.response_timeout_in_seconds is None
                    else body.response_timeout_in_seconds
                ),
                connect_timeout_s=body.connect_timeout_in_seconds or 0,
            )
            return json_response(await self._methods.invoke(identity_of(hub, request), call))
        except MusterError as error:
            return errors.method_response(error, tracking_id(request), self._clock.now())
