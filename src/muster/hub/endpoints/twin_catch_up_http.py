"""The switch of `muster hub twin-catch-up`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import msgspec
from starlette.responses import Response

from muster.net.routing import Route, decode_json, read_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from muster.hub.hubs import Hub, Hubs
    from muster.hub.twin_catch_up import TwinCatchUp
    from muster.net.routing import RouteGroup

_PATH: Final = "/admin/v1/hubs/{host}/twin-catch-up"
_BODY_LIMIT: Final = 64 * 1024
_encode: Final = msgspec.json.Encoder().encode


class _Switch(msgspec.Struct):
    """Whether it is on, both ways."""

    enabled: bool


@final
class TwinCatchUpHttpEndpoint:
    """Whether a hub sends clients the desired properties they missed.

    Args:
        hubs: the hubs of this service.
        twin_catch_up: does it.
        authorize_admin: checks that a request carries the right `ServiceConfig` of the
            provisioning service, and raises `UnauthorizedError` otherwise.
        group: how all administrative routes report errors.
    """

    def __init__(
        self,
        *,
        hubs: Hubs,
        twin_catch_up: TwinCatchUp,
        authorize_admin: Callable[[Request], None],
        group: RouteGroup,
    ) -> None:
        self._hubs = hubs
        self._twin_catch_up = twin_catch_up
        self._authorize_admin = authorize_admin
        self._group = group

    def routes(self) -> list[Route]:
        """Return all operations."""
        return [
            Route("GET", _PATH, self._get, self._group),
            Route("PUT", _PATH, self._put, self._group),
        ]

    async def _get(self, request: Request) -> Response:
        return _shown(self._administered(request))

    async def _put(self, request: Request) -> Response:
        hub = self._administered(request)
        body: _Switch = decode_json(await read_body(request, _BODY_LIMIT), _Switch)
        await self._twin_catch_up.switch(hub, on=body.enabled)
        return _shown(hub)

    def _administered(self, request: Request) -> Hub:
        self._authorize_admin(request)
        return self._hubs.get(request.path_params["host"])


def _shown(hub: Hub) -> Response:
    content = _encode(_Switch(bool(hub.twin_catch_up)))
    return Response(content, media_type="application/json; charset=utf-8")
