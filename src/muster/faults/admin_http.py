"""Fault injection for our own CLI: its switch and its faults, of a hub or of provisioning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, final

import msgspec
from starlette.responses import Response

from muster.faults.live import find
from muster.model.fault import Fault, FaultError, FaultKind
from muster.model.identity import wire_time
from muster.net.routing import Route, decode_json, read_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from muster.faults.live import LiveFault
    from muster.net.routing import RouteGroup

_BODY_LIMIT: Final = 1024 * 1024
_JSON: Final = "application/json; charset=utf-8"
_encode: Final = msgspec.json.Encoder().encode


class _Switch(msgspec.Struct):
    """Whether fault injection is on, both ways."""

    enabled: bool


class _Wanted(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A fault to create; times in seconds."""

    kind: FaultKind
    duration: float = 60.0
    device_ids: list[str] = []
    prefix: str = ""
    target_condition: str = ""
    probability: float = 1.0
    delay: float = 0.0
    error: FaultError | None = None


class Injection(Protocol):
    """Fault injection of one hub, or of provisioning."""

    @property
    def on(self) -> bool:
        """Whether faults may be injected."""

    async def switch(self, *, on: bool) -> None:
        """Switch it on, or off, which ends all faults."""

    async def create(self, wanted: Fault) -> LiveFault:
        """Let a fault begin.

        Raises:
            InvalidArgumentError: codes `invalid-fault`, `invalid-target-condition`.
            ConflictError: codes `fault-injection-off`, `too-many-faults`.
        """

    def all(self) -> list[LiveFault]:
        """Return the faults that last."""

    def delete(self, fault_id: str) -> None:
        """End a fault.

        Raises:
            NotFoundError: code `fault-not-found`.
            ConflictError: code `fault-injection-off`.
        """


@final
class FaultsHttpEndpoint:
    """The calls of `muster fault` about one kind of place.

    Args:
        place: path of the place, such as `/admin/v1/dps`.
        injection: finds the place of a request; raises for a request that may not.
        switched: told when fault injection was switched on or off.
        group: how all administrative routes report errors.
    """

    def __init__(
        self,
        *,
        place: str,
        injection: Callable[[Request], Injection],
        switched: Callable[[], None],
        group: RouteGroup,
    ) -> None:
        self._place = place
        self._injection = injection
        self._switched = switched
        self._group = group

    def routes(self) -> list[Route]:
        """Return all operations."""
        switch = f"{self._place}/fault-injection"
        collection = f"{self._place}/faults"
        fault = f"{collection}/{{id}}"
        table = (
            ("GET", switch, self._get_switch),
            ("PUT", switch, self._put_switch),
            ("GET", collection, self._list),
            ("POST", collection, self._create),
            ("GET", fault, self._get),
            ("DELETE", fault, self._delete),
        )
        return [Route(method, pattern, call, self._group) for method, pattern, call in table]

    async def _get_switch(self, request: Request) -> Response:
        return _json(_Switch(self._injection(request).on))

    async def _put_switch(self, request: Request) -> Response:
        injection = self._injection(request)
        body: _Switch = decode_json(await read_body(request, _BODY_LIMIT), _Switch)
        await injection.switch(on=body.enabled)
        self._switched()
        return _json(body)

    async def _list(self, request: Request) -> Response:
        return _json([_shown(live) for live in self._injection(request).all()])

    async def _create(self, request: Request) -> Response:
        injection = self._injection(request)
        wanted: _Wanted = decode_json(await read_body(request, _BODY_LIMIT), _Wanted)
        fault = Fault(
            id="",
            kind=wanted.kind,
            error=wanted.error,
            device_ids=frozenset(wanted.device_ids),
            prefix=wanted.prefix,
            target_condition=wanted.target_condition,
            probability=wanted.probability,
            delay_s=wanted.delay,
            created_at=0.0,
            expires_at=wanted.duration,
        )
        return _json(_shown(await injection.create(fault)))

    async def _get(self, request: Request) -> Response:
        return _json(_shown(find(self._injection(request).all(), request.path_params["id"])))

    async def _delete(self, request: Request) -> Response:
        self._injection(request).delete(request.path_params["id"])
        return Response(status_code=204)


def _shown(live: LiveFault) -> dict[str, Any]:
    fault = live.fault
    return {
        "id": fault.id,
        "kind": fault.kind,
        "error": fault.error,
        "deviceIds": sorted(fault.device_ids),
        "prefix": fault.prefix,
        "targetCondition": fault.target_condition,
        "devicesChosen": None if live.condition is None else len(live.chosen),
        "probability": fault.probability,
        "delay": fault.delay_s,
        "createdTime": wire_time(fault.created_at),
        "expiryTime": wire_time(fault.expires_at),
        "orderedBy": "device" if fault.ordered else "operator",
        "operation": fault.ordered or None,
        "injected": live.injected,
    }


def _json(value: Any) -> Response:
    return Response(_encode(value), media_type=_JSON)
