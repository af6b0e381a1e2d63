"""The frame around every call of a device over HTTPS: which hub, who is it, what a failure says.

A device or module proves itself by its own key or certificate, or a back end speaks for it with a
policy that has the right DeviceConnect. A call counts as activity, but connects nobody
(hub-device.md 4, 6).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeAlias, final

from muster.faults.live import failure
from muster.hub.authentication import RefusedError
from muster.hub.endpoints import errors
from muster.hub.endpoints.service_access import check_api_version, identity_of
from muster.model.decision import Decision
from muster.model.fault import FaultKind, FaultTransport
from muster.net.routing import Route, RouteGroup, break_off, client_certificate, tracking_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from muster.clock import Clock
    from muster.decisions.log import DecisionLog
    from muster.hub.authentication import Authenticator, Login
    from muster.hub.connections import Connections
    from muster.hub.fault_injection import HubFaults
    from muster.hub.hubs import Hub, Hubs

Operation: TypeAlias = "Callable[[Hub, Login, Request], Awaitable[Response]]"
"""Answers a call of somebody who proved who it is."""

_FAULTS: Final = frozenset(FaultKind)


@final
class DeviceAccess:
    """Makes the routes of the HTTPS device API.

    Attributes:
        group: the family the routes belong to.
    """

    def __init__(
        self,
        hubs: Hubs,
        authenticator: Authenticator,
        connections: Connections,
        decisions: DecisionLog,
        clock: Clock,
    ) -> None:
        self._hubs = hubs
        self._authenticator = authenticator
        self._connections = connections
        self._decisions = decisions
        self._clock = clock
        self.group = RouteGroup("hub-device", self._on_error)

    def route(self, method: str, pattern: str, operation: Operation) -> Route:
        """Return the route of an operation.

        Args:
            method: the HTTP method.
            pattern: the path; `{id}` and, for a module, `{module}` in it say who calls.
            operation: what answers.
        """

        async def handle(request: Request) -> Response:
            hub = self._hubs.for_request(request.headers.get("host"))
            login = await self._login(hub, request)
            check_api_version(request)
            if hub.faults is None:
                response = await operation(hub, login, request)
            else:
                response = await _with_faults(hub.faults, hub, login, request, operation)
            self._connections.active(login.ref)
            response.headers["x-ms-request-id"] = tracking_id(request)
            return response

        return Route(method, pattern, handle, self.group)

    async def _login(self, hub: Hub, request: Request) -> Login:
        ref = identity_of(hub, request)
        try:
            header = request.headers.get("authorization")
            return await self._authenticator.login(hub, ref, header, client_certificate(request))
        except RefusedError as refused:
            self._decisions.record(
                Decision(
                    tracking_id=tracking_id(request),
                    time=self._clock.now(),
                    service=hub.host,
                    operation="device",
                    subject=ref.text[:256],
                    outcome="refused",
                    check=refused.check,
                    facts=refused.facts,
                )
            )
            raise

    def _on_error(self, request: Request, error: Exception) -> Response:
        return errors.service_response(error, tracking_id(request), self._clock.now())


async def _with_faults(
    faults: HubFaults, hub: Hub, login: Login, request: Request, operation: Operation
) -> Response:
    """Answer, or do what an injected fault does instead."""
    fault = faults.choose(login.ref, _FAULTS, FaultTransport.HTTPS)
    if fault is None:
        return await operation(hub, login, request)
    if fault.kind is FaultKind.RESET:
        await break_off(request)
    if fault.kind in (FaultKind.REFUSE, FaultKind.THROTTLE):
        raise failure(fault)
    response = await operation(hub, login, request)
    if fault.kind is FaultKind.DROP:
        await break_off(request)
    await asyncio.sleep(fault.delay_s)
    return response
