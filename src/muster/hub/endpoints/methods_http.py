"""Direct methods over REST (hub-service.md 1.1 row 15, 1.7), for services and for edge modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from muster.errors import MusterError
from muster.hub.endpoints import errors
from muster.hub.endpoints.service_access import (
    SERVICE_CONNECT,
    identity_of,
    json_response,
    read_json,
)
from muster.model.method import MethodRequest
from muster.net.routing import tracking_id

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from muster.clock import Clock
    from muster.hub.endpoints.service_access import ServiceAccess
    from muster.hub.hubs import Hub
    from muster.hub.methods import Methods
    from muster.net.routing import Route


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
            body: MethodRequest = await read_json(request, MethodRequest)
            result = await self._methods.invoke(identity_of(hub, request), body.call())
            return json_response(result)
        except MusterError as error:
            return errors.method_response(error, tracking_id(request), self._clock.now())
