"""What our own CLI asks about message routing: routes, enrichments, endpoints, consumer groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

import msgspec
from starlette.responses import Response

from muster.errors import InvalidArgumentError
from muster.hub.consumer_groups import DEFAULT_GROUP
from muster.hub.hubs import Retention
from muster.language import routes as conditions
from muster.model.identity import IdentityRef, wire_time
from muster.model.routing import EVENTS, FALLBACK, Enrichment, Route, Settings, Source
from muster.net import routing as http
from muster.net.routing import decode_json, read_body
from muster.wire.mqtt import property_bag

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from muster.clock import Clock
    from muster.hub.consumer_groups import ConsumerGroup, ConsumerGroups
    from muster.hub.hubs import Hub, Hubs
    from muster.hub.routing import Routing
    from muster.hub.routing_endpoints import Endpoint
    from muster.hub.routing_table import Matched
    from muster.hub.sender_twins import SenderTwins
    from muster.hub.telemetry import Telemetry
    from muster.net.routing import RouteGroup

    _Operation = Callable[[Hub, Request], Awaitable[Response]]

_BODY_LIMIT: Final = 512 * 1024
_JSON: Final = "application/json; charset=utf-8"
_SYSTEM: Final = {"contentType": "application/json", "contentEncoding": "utf-8"}
_encode: Final = msgspec.json.Encoder().encode


class Question(msgspec.Struct, rename="camel"):
    """A message that routes are asked of without sending it.

    Attributes:
        source: of the message, as routes name it.
        body: any JSON.
        properties: its application properties.
        system_properties: by their names in conditions, without the `$`.
        device_id: whose twin `$twin` is, unless one is given.
        module_id: likewise.
        twin: instead of the stored one.
    """

    source: Source = Source.MESSAGES
    body: msgspec.Raw = msgspec.Raw(b"null")
    properties: dict[str, str | None] = {}
    system_properties: dict[str, str] = {}
    device_id: str = ""
    module_id: str = ""
    twin: dict[str, Any] | None = None


class RetentionBody(msgspec.Struct, rename="camel"):
    """Retention of a hub, both ways; `None` for the service's default."""

    max_age_s: float | None = None
    max_bytes: int | None = None


@final
class RoutingAdminEndpoint:
    """Message routing of the local hubs; see `routes`.

    Args:
        hubs: the hubs of this service.
        routing: their routes.
        consumer_groups: of their built-in endpoints.
        telemetry: their logs.
        twins: of devices, for questions.
        default_retention: returns what is kept, in seconds and bytes, where a hub wants nothing
            else.
        clock: for `$enqueuedTime` of questions.
        authorize_admin: checks that a request carries the right `ServiceConfig` of the
            provisioning service, and raises `UnauthorizedError` otherwise.
        group: how all administrative routes report errors.
    """

    def __init__(
        self,
        *,
        hubs: Hubs,
        routing: Routing,
        consumer_groups: ConsumerGroups,
        telemetry: Telemetry,
        twins: SenderTwins,
        default_retention: Callable[[Retention], tuple[float, int]],
        clock: Clock,
        authorize_admin: Callable[[Request], None],
        group: RouteGroup,
    ) -> None:
        self._hubs = hubs
        self._routing = routing
        self._consumer_groups = consumer_groups
        self._telemetry = telemetry
        self._twins = twins
        self._retained = default_retention
        self._clock = clock
        self._authorize_admin = authorize_admin
        self._group = group

    def routes(self) -> list[http.Route]:
        """Return all operations."""
        base = "/admin/v1/routing/hubs/{host}"
        groups = "/admin/v1/consumer-groups/hubs/{host}"
        retention = "/admin/v1/retention/hubs/{host}"
        table: tuple[tuple[str, str, _Operation], ...] = (
            ("GET", f"{base}/routes", self._list_routes),
            ("GET", f"{base}/routes/{{name}}", self._get_route),
            ("PUT", f"{base}/routes/{{name}}", self._put_route),
            ("DELETE", f"{base}/routes/{{name}}", self._delete_route),
            ("POST", f"{base}/test", self._test),
            ("GET", f"{base}/enrichments", self._list_enrichments),
            ("GET", f"{base}/enrichments/{{key}}", self._get_enrichment),
            ("PUT", f"{base}/enrichments/{{key}}", self._put_enrichment),
            ("DELETE", f"{base}/enrichments/{{key}}", self._delete_enrichment),
            ("GET", f"{base}/endpoints", self._list_endpoints),
            ("GET", f"{base}/endpoints/{{name}}", self._get_endpoint),
            ("PUT", f"{base}/endpoints/{{name}}", self._put_endpoint),
            ("DELETE", f"{base}/endpoints/{{name}}", self._delete_endpoint),
            ("GET", groups, self._list_groups),
            ("PUT", f"{groups}/{{name}}", self._create_group),
            ("DELETE", f"{groups}/{{name}}", self._delete_group),
            ("GET", retention, self._get_retention),
            ("PUT", retention, self._put_retention),
        )
        return [
            http.Route(method, pattern, self._administered(call), self._group)
            for method, pattern, call in table
        ]

    def _administered(self, operation: _Operation) -> http.Handler:
        async def handle(request: Request) -> Response:
            self._authorize_admin(request)
            return await operation(self._hubs.get(request.path_params["host"]), request)

        return handle

    # -- routes --------------------------------------------------------------------------------

    async def _list_routes(self, hub: Hub, request: Request) -> Response:
        return _json([*self._routing.routes(hub), self._fallback(hub)])

    async def _get_route(self, hub: Hub, request: Request) -> Response:
        name = request.path_params["name"]
        if name == FALLBACK:
            return _json(self._fallback(hub))
        return _json(self._routing.route(hub, name))

    async def _put_route(self, hub: Hub, request: Request) -> Response:
        name = request.path_params["name"]
        route: Route = decode_json(await read_body(request, _BODY_LIMIT), Route)
        if name == FALLBACK:
            await self._routing.save_fallback(hub, enabled=route.is_enabled)
            return _json(self._fallback(hub))
        route = msgspec.structs.replace(route, name=name)
        return _json(await self._routing.save_route(hub, route))

    async def _delete_route(self, hub: Hub, request: Request) -> Response:
        name = request.path_params["name"]
        if name == FALLBACK:
            raise InvalidArgumentError(
                "The fallback route cannot be deleted, only disabled.", code="invalid-route"
            )
        await self._routing.delete_route(hub, name)
        return Response(status_code=204)

    def _fallback(self, hub: Hub) -> Route:
        return Route(name=FALLBACK, is_enabled=self._routing.fallback(hub))

    async def _test(self, hub: Hub, request: Request) -> Response:
        asked: Question = decode_json(await read_body(request, _BODY_LIMIT), Question)
        twin = asked.twin
        if twin is None and asked.device_id:
            twin = await self._twins.load(IdentityRef(hub.id, asked.device_id, asked.module_id))
        system = {
            **_SYSTEM,
            "enqueuedTime": wire_time(self._clock.time()),
            **({"connectionDeviceId": asked.device_id} if asked.device_id else {}),
            **({"connectionModuleId": asked.module_id} if asked.module_id else {}),
            **asked.system_properties,
        }
        message = conditions.Message(asked.properties, system, bytes(asked.body), twin)
        table = self._routing.table(hub)
        names = {endpoint.number: endpoint.name for endpoint in self._routing.endpoints(hub)}
        return _json(
            {
                "endpoints": [
                    {
                        "name": names.get(delivery.endpoint, EVENTS),
                        "enrichments": dict(property_bag.decode(delivery.enrichments)),
                    }
                    for delivery in table.decide(asked.source, message)
                ],
                "routes": [_told(each) for each in table.explain(asked.source, message)],
            }
        )

    # -- enrichments ---------------------------------------------------------------------------

    async def _list_enrichments(self, hub: Hub, request: Request) -> Response:
        return _json(self._routing.enrichments(hub))

    async def _get_enrichment(self, hub: Hub, request: Request) -> Response:
        return _json(self._routing.enrichment(hub, request.path_params["key"]))

    async def _put_enrichment(self, hub: Hub, request: Request) -> Response:
        enrichment: Enrichment = decode_json(await read_body(request, _BODY_LIMIT), Enrichment)
        enrichment = msgspec.structs.replace(enrichment, key=request.path_params["key"])
        return _json(await self._routing.save_enrichment(hub, enrichment))

    async def _delete_enrichment(self, hub: Hub, request: Request) -> Response:
        await self._routing.delete_enrichment(hub, request.path_params["key"])
        return Response(status_code=204)

    # -- endpoints -----------------------------------------------------------------------------

    async def _list_endpoints(self, hub: Hub, request: Request) -> Response:
        built_in = {"name": EVENTS, "kind": "built-in"}
        return _json([built_in, *map(self._shown, self._routing.endpoints(hub))])

    async def _get_endpoint(self, hub: Hub, request: Request) -> Response:
        return _json(self._shown(self._routing.endpoint(hub, request.path_params["name"])))

    async def _put_endpoint(self, hub: Hub, request: Request) -> Response:
        body: dict[str, Any] = decode_json(await read_body(request, _BODY_LIMIT), dict[str, Any])
        secret = body.pop("secret", None)
        try:
            settings: Settings = msgspec.convert(body, Settings)
        except msgspec.ValidationError as error:
            raise InvalidArgumentError(
                f"These are not the settings of an endpoint: {error}", code="invalid-endpoint"
            ) from None
        if not isinstance(secret, str | None):
            raise InvalidArgumentError("The secret is a text.", code="invalid-endpoint")
        endpoint = await self._routing.save_endpoint(
            hub, request.path_params["name"], settings, secret
        )
        return _json(self._shown(endpoint))

    async def _delete_endpoint(self, hub: Hub, request: Request) -> Response:
        await self._routing.delete_endpoint(hub, request.path_params["name"])
        return Response(status_code=204)

    def _shown(self, endpoint: Endpoint) -> dict[str, Any]:
        status = msgspec.to_builtins(self._routing.status(endpoint))
        failing_since = status.pop("failingSince")
        return {
            "name": endpoint.name,
            **msgspec.to_builtins(endpoint.settings),
            "hasSecret": endpoint.secret is not None,
            "status": {
                **status,
                "failingSince": None if failing_since is None else wire_time(failing_since),
            },
        }

    # -- consumer groups and retention ---------------------------------------------------------

    async def _list_groups(self, hub: Hub, request: Request) -> Response:
        return _json(list(map(_group, self._consumer_groups.all(hub))))

    async def _create_group(self, hub: Hub, request: Request) -> Response:
        return _json(_group(await self._consumer_groups.create(hub, request.path_params["name"])))

    async def _delete_group(self, hub: Hub, request: Request) -> Response:
        await self._consumer_groups.delete(hub, request.path_params["name"])
        return Response(status_code=204)

    async def _get_retention(self, hub: Hub, request: Request) -> Response:
        return _json(self._kept(hub))

    async def _put_retention(self, hub: Hub, request: Request) -> Response:
        body: RetentionBody = decode_json(await read_body(request, _BODY_LIMIT), RetentionBody)
        wanted = Retention(body.max_age_s, body.max_bytes)
        await self._hubs.save_retention(hub, wanted)
        self._telemetry.retain(hub, *self._retained(wanted))
        return _json(self._kept(hub))

    def _kept(self, hub: Hub) -> dict[str, Any]:
        age_s, size = self._retained(hub.retention)
        return {
            "maxAgeS": hub.retention.max_age_s,
            "maxBytes": hub.retention.max_bytes,
            "effective": {"maxAgeS": age_s, "maxBytes": size},
        }


def _told(matched: Matched) -> dict[str, Any]:
    return {
        "name": matched.route,
        "matches": matched.matches,
        "endpointNames": matched.endpoint_names,
        "reasons": [reason.sentence for reason in matched.reasons]
        or ([matched.sentence] if matched.sentence else []),
    }


def _group(group: ConsumerGroup) -> dict[str, Any]:
    return {
        "name": group.name,
        "createdTime": None if group.created_at is None else wire_time(group.created_at),
        "isDefault": group.name == DEFAULT_GROUP,
    }


def _json(value: Any) -> Response:
    return Response(_encode(value), media_type=_JSON)
