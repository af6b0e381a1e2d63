"""What our own CLI asks a hub beyond the official REST API: its policies and its telemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import msgspec
from starlette.responses import Response, StreamingResponse

from muster.auth import connection_string
from muster.auth.access_policies import AccessPolicy, Right, authorize
from muster.auth.connection_string import ConnectionString
from muster.errors import InvalidArgumentError, UnauthorizedError
from muster.hub import event_feed, events
from muster.hub.telemetry import partition_of
from muster.net.routing import Route, decode_json, read_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

    from muster.clock import Clock
    from muster.hub.hubs import Hub, Hubs
    from muster.hub.telemetry import LogReader, Telemetry
    from muster.net.routing import RouteGroup

_BODY_LIMIT: Final = 64 * 1024
_JSON: Final = "application/json; charset=utf-8"
_RECORDS: Final = "x-muster-records"
_NDJSON: Final = "application/x-ndjson; charset=utf-8"
_encode: Final = msgspec.json.Encoder().encode


class PolicyBody(msgspec.Struct, rename="camel", omit_defaults=True):
    """An access policy, both ways."""

    name: str = ""
    rights: list[str] = []
    primary_key: str | None = None
    secondary_key: str | None = None
    connection_string: str | None = None


@final
class HubAdminEndpoint:
    """Policies and events of the local hubs.

    Args:
        hubs: the hubs of this service.
        telemetry: their logs.
        clock: for expiry of tokens.
        authorize_admin: checks that a request carries the right `ServiceConfig` of the
            provisioning service, and raises `UnauthorizedError` otherwise.
        group: how all administrative routes report errors.
        port: of HTTPS, for connection strings; `None` where it is the usual one.
    """

    def __init__(
        self,
        *,
        hubs: Hubs,
        telemetry: Telemetry,
        clock: Clock,
        authorize_admin: Callable[[Request], None],
        group: RouteGroup,
        port: int | None = None,
    ) -> None:
        self._hubs = hubs
        self._telemetry = telemetry
        self._clock = clock
        self._authorize_admin = authorize_admin
        self._group = group
        self._port = port

    def routes(self) -> list[Route]:
        """Return all operations."""
        policies = "/admin/v1/policies/hubs/{host}"
        policy = f"{policies}/{{name}}"
        table = (
            ("GET", policies, self._list_policies),
            ("GET", policy, self._get_policy),
            ("PUT", policy, self._put_policy),
            ("DELETE", policy, self._delete_policy),
            ("GET", "/admin/v1/events", self._events),
        )
        return [Route(method, pattern, call, self._group) for method, pattern, call in table]

    # -- policies ------------------------------------------------------------------------------

    async def _list_policies(self, request: Request) -> Response:
        hub = self._administered(request)
        return _json([self._shown(hub, policy) for policy in hub.policies.values()])

    async def _get_policy(self, request: Request) -> Response:
        hub = self._administered(request)
        return _json(self._shown(hub, self._hubs.policy(hub, request.path_params["name"])))

    async def _put_policy(self, request: Request) -> Response:
        hub = self._administered(request)
        body: PolicyBody = decode_json(await read_body(request, _BODY_LIMIT), PolicyBody)
        policy = await self._hubs.save_policy(
            hub,
            request.path_params["name"],
            _rights(body.rights),
            body.primary_key,
            body.secondary_key,
        )
        return _json(self._shown(hub, policy))

    async def _delete_policy(self, request: Request) -> Response:
        hub = self._administered(request)
        await self._hubs.delete_policy(hub, request.path_params["name"])
        return Response(status_code=204)

    def _shown(self, hub: Hub, policy: AccessPolicy) -> PolicyBody:
        keys = policy.keys
        text = connection_string.format(
            ConnectionString(host=hub.host, port=self._port, key_name=policy.name, key=keys.primary)
        )
        rights = sorted(right.value for right in policy.rights)
        return PolicyBody(policy.name, rights, keys.primary, keys.secondary, text)

    def _administered(self, request: Request) -> Hub:
        self._authorize_admin(request)
        return self._hubs.get(request.path_params["host"])

    # -- events --------------------------------------------------------------------------------

    async def _events(self, request: Request) -> Response:
        query = request.query_params
        hub = self._named(request)
        log = self._telemetry.log(hub)
        device_id = query.get("deviceId", "")
        partitions = range(self._telemetry.partitions)
        chosen = [_partition(query["partition"], partitions)] if query.get("partition") else None
        if device_id:
            # All messages of a device are in one partition.
            chosen = [partition_of(device_id, len(partitions))]
        positions = event_feed.start(
            log, chosen or partitions, query.get("from", "") or event_feed.LATEST
        )
        until = None
        if query.get("to"):
            until = event_feed.start(log, positions, query["to"])
        follow = until is None and query.get("follow", "").lower() == "true"
        wanted = _Wanted(device_id, query.get("source", ""))
        lines = _lines(log, positions, until, follow=follow, wanted=wanted)
        headers = {}
        if not follow:
            # At most so many: not all of them may be wanted.
            headers[_RECORDS] = str(event_feed.count(log, positions, until))
        return StreamingResponse(lines, media_type=_NDJSON, headers=headers)

    def _named(self, request: Request) -> Hub:
        """Return the hub a request for events names, when the caller may read it.

        Either the hub's own ServiceConnect or the provisioning service's ServiceConfig will do.
        """
        name = request.query_params.get("hub", "")
        hub = self._hubs.find(name) if name else None
        if hub is None and not name and len(self._hubs.all()) == 1:
            (hub,) = self._hubs.all()
        try:
            if hub is not None:
                authorize(
                    request.headers.get("authorization"),
                    hosts=hub.names,
                    path=request.scope["path"],
                    policies=hub.policy,
                    needs=(Right.SERVICE_CONNECT,),
                    now=self._clock.time(),
                )
                return hub
        except UnauthorizedError:
            pass
        self._authorize_admin(request)
        if hub is None and not name:
            raise InvalidArgumentError(
                "There are several hubs; name one with hub=HOST.", code="hub-missing"
            )
        return hub or self._hubs.get(name)


class _Wanted(NamedTuple):
    """Which events somebody wants; empty for any."""

    device_id: str
    source: str

    def takes(self, event: events.Event) -> bool:
        return (not self.device_id or event.device_id == self.device_id) and (
            not self.source or event.source.lower() == self.source.lower()
        )


async def _lines(
    log: LogReader,
    positions: dict[int, int],
    until: dict[int, int] | None,
    *,
    follow: bool,
    wanted: _Wanted,
) -> AsyncIterator[bytes]:
    async for batch in event_feed.read(log, positions, follow=follow, until=until):
        lines = [
            _encode(event) + b"\n"
            for event in map(events.decode, batch)
            if event is not None and wanted.takes(event)
        ]
        if lines:
            yield b"".join(lines)
        elif not batch:
            yield b"\n"


def _json(value: Any) -> Response:
    return Response(_encode(value), media_type=_JSON)


def _rights(names: list[str]) -> frozenset[Right]:
    by_lower = {right.lower(): right for right in Right}
    try:
        return frozenset(by_lower[name.lower()] for name in names)
    except KeyError as unknown:
        raise InvalidArgumentError(
            f"There is no right called {unknown}.", code="invalid-policy"
        ) from None


def _partition(text: str, partitions: range) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9 and int(text) in partitions):
        raise InvalidArgumentError(
            f"partition must be a number from 0 to {len(partitions) - 1}.",
            code="invalid-position",
        )
    return int(text)
