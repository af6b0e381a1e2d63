"""Routes, enrichments and endpoints of the hubs: kept, checked, and put to work.

All of them are in memory, for the routes are asked of every message; the database has them for the
next start. Source: hub-service.md 7.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar, cast, final

import msgspec
from msgspec import Struct, structs

from muster.errors import ConflictError, InvalidArgumentError, NotFoundError
from muster.hub.routing_endpoints import SQL, Endpoint
from muster.hub.routing_table import RoutingTable
from muster.language import routes as conditions
from muster.model import routing as rules
from muster.model.message import BUILT_IN
from muster.model.routing import (
    EVENTS,
    MAX_ENDPOINTS,
    MAX_ENRICHMENTS,
    MAX_ROUTES,
    Enrichment,
    FileSettings,
    Route,
    Settings,
)
from muster.store.engine import Statement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.auth.keyring import Keyring
    from muster.hub.hubs import Hub, Hubs
    from muster.hub.routing_endpoints import EndpointConsumers, Status
    from muster.hub.telemetry import Telemetry
    from muster.store.engine import Engine

    _Kept = TypeVar("_Kept", Route, Enrichment)

_encode: Final = msgspec.json.Encoder().encode
_settings: Final = msgspec.json.Decoder(Settings).decode


class HubRouting(Struct):
    """What a hub has, each by its name."""

    routes: dict[str, Route] = {}
    enrichments: dict[str, Enrichment] = {}
    endpoints: dict[str, Endpoint] = {}
    fallback: bool = True


@final
class Routing:
    """Routing of all hubs.

    Args:
        engine: where it is kept.
        keyring: seals the secrets of endpoints.
        hubs: all hubs.
        telemetry: their logs, and where messages come in.
        consumers: the endpoints at work.
    """

    def __init__(
        self,
        engine: Engine,
        keyring: Keyring,
        hubs: Hubs,
        telemetry: Telemetry,
        consumers: EndpointConsumers,
    ) -> None:
        self._engine = engine
        self._keyring = keyring
        self._hubs = hubs
        self._telemetry = telemetry
        self._consumers = consumers
        self._by_hub: dict[int, HubRouting] = {}
        self._tables: dict[int, RoutingTable] = {}
        self._changing = asyncio.Lock()

    async def open(self) -> None:
        """Load everything and put it to work; call once, after the logs of the hubs are open."""
        for number, enabled in await self._engine.read(SQL["fallbacks"], {}):
            self._of(cast("int", number)).fallback = bool(enabled)
        for row in await self._engine.read(SQL["routes"], {}):
            hub, name, document = cast("tuple[int, str, str]", row)
            self._of(hub).routes[name] = structs.replace(
                msgspec.json.decode(document, type=Route), name=name
            )
        for row in await self._engine.read(SQL["enrichments"], {}):
            hub, key, document = cast("tuple[int, str, str]", row)
            self._of(hub).enrichments[key] = structs.replace(
                msgspec.json.decode(document, type=Enrichment), key=key
            )
        hosts = {hub.id: hub.host for hub in self._hubs.all()}
        for row in await self._engine.read(SQL["endpoints"], {}):
            number, hub, name, document, sealed = cast(
                "tuple[int, int, str, str, bytes | None]", row
            )
            secret = None if sealed is None else self._keyring.open(sealed, _context(hub, name))
            self._of(hub).endpoints[name] = Endpoint(
                number, hosts[hub], name, settings=_settings(document), secret=secret
            )
        for known in self._hubs.all():
            for endpoint in self.endpoints(known):
                await self._start(known, endpoint)
            await self._use(known)

    # -- routes --------------------------------------------------------------------------------

    def routes(self, hub: Hub) -> list[Route]:
        """Return the routes of a hub, the fallback route aside."""
        return list(self._of(hub.id).routes.values())

    def route(self, hub: Hub, name: str) -> Route:
        """Return a route.

        Raises:
            NotFoundError: code `route-not-found`.
        """
        return _found(self._of(hub.id).routes, name, "route")

    def fallback(self, hub: Hub) -> bool:
        """Tell whether messages of devices that no route takes go to the built-in endpoint."""
        return self._of(hub.id).fallback

    async def save_route(self, hub: Hub, route: Route) -> Route:
        """Create or replace a route; it holds for messages that come in from now on.

        Raises:
            InvalidArgumentError: codes `invalid-route`, `invalid-query` (the condition).
            NotFoundError: it names an endpoint that is not there; code `endpoint-not-found`.
        """
        rules.check_route(route)
        conditions.parse(route.condition)
        async with self._changing:
            kept = self._of(hub.id)
            self._check_endpoints(kept, route.endpoint_names)
            _check_room(kept.routes, route.name, MAX_ROUTES, "invalid-route", "routes")
            document = _document(structs.replace(route, name=""))
            await self._engine.write(
                Statement(
                    SQL["save_route"], {"hub": hub.id, "name": route.name, "document": document}
                )
            )
            kept.routes[route.name] = route
            await self._use(hub)
        return route

    async def delete_route(self, hub: Hub, name: str) -> None:
        """Delete a route.

        Raises:
            NotFoundError: code `route-not-found`.
        """
        async with self._changing:
            self.route(hub, name)
            await self._engine.write(Statement(SQL["delete_route"], {"hub": hub.id, "name": name}))
            self._of(hub.id).routes.pop(name)
            await self._use(hub)

    async def save_fallback(self, hub: Hub, *, enabled: bool) -> None:
        """Switch the fallback route on or off."""
        async with self._changing:
            await self._engine.write(
                Statement(SQL["save_fallback"], {"hub": hub.id, "enabled": int(enabled)}, expect=1)
            )
            self._of(hub.id).fallback = enabled
            await self._use(hub)

    def table(self, hub: Hub) -> RoutingTable:
        """Return the routes of a hub, ready to be asked."""
        found = self._tables.get(hub.id)
        if found is None:
            found = self._tables[hub.id] = self._compiled(hub)
        return found

    # -- enrichments ---------------------------------------------------------------------------

    def enrichments(self, hub: Hub) -> list[Enrichment]:
        """Return the enrichments of a hub."""
        return list(self._of(hub.id).enrichments.values())

    def enrichment(self, hub: Hub, key: str) -> Enrichment:
        """Return an enrichment.

        Raises:
            NotFoundError: code `enrichment-not-found`.
        """
        return _found(self._of(hub.id).enrichments, key, "enrichment")

    async def save_enrichment(self, hub: Hub, enrichment: Enrichment) -> Enrichment:
        """Create or replace an enrichment; it holds for messages that come in from now on.

        Raises:
            InvalidArgumentError: code `invalid-enrichment`.
            NotFoundError: it names an endpoint that is not there; code `endpoint-not-found`.
        """
        rules.check_enrichment(enrichment)
        async with self._changing:
            kept = self._of(hub.id)
            self._check_endpoints(kept, enrichment.endpoint_names)
            _check_room(
                kept.enrichments,
                enrichment.key,
                MAX_ENRICHMENTS,
                "invalid-enrichment",
                "enrichments",
            )
            document = _document(structs.replace(enrichment, key=""))
            await self._engine.write(
                Statement(
                    SQL["save_enrichment"],
                    {"hub": hub.id, "key": enrichment.key, "document": document},
                )
            )
            kept.enrichments[enrichment.key] = enrichment
            await self._use(hub)
        return enrichment

    async def delete_enrichment(self, hub: Hub, key: str) -> None:
        """Delete an enrichment.

        Raises:
            NotFoundError: code `enrichment-not-found`.
        """
        async with self._changing:
            self.enrichment(hub, key)
            await self._engine.write(
                Statement(SQL["delete_enrichment"], {"hub": hub.id, "key": key})
            )
            self._of(hub.id).enrichments.pop(key)
            await self._use(hub)

    # -- endpoints -----------------------------------------------------------------------------

    def endpoints(self, hub: Hub) -> list[Endpoint]:
        """Return the endpoints of a hub, the built-in one aside."""
        return list(self._of(hub.id).endpoints.values())

    def endpoint(self, hub: Hub, name: str) -> Endpoint:
        """Return an endpoint that is not built in.

        Raises:
            NotFoundError: code `endpoint-not-found`.
        """
        return _found(self._of(hub.id).endpoints, name, "endpoint")

    def status(self, endpoint: Endpoint) -> Status:
        """Tell how an endpoint does."""
        return self._consumers.status(endpoint)

    async def save_endpoint(
        self, hub: Hub, name: str, settings: Settings, secret: str | None
    ) -> Endpoint:
        """Create an endpoint or change its settings; its messages stay its own.

        Args:
            hub: whose.
            name: of the endpoint.
            settings: what it is.
            secret: of a webhook; `None` leaves what there is.

        Raises:
            InvalidArgumentError: code `invalid-endpoint`.
            ConflictError: another endpoint writes to that directory; code `directory-in-use`.
        """
        rules.check_endpoint(name, settings)
        async with self._changing:
            kept = self._of(hub.id)
            present = kept.endpoints.get(name)
            _check_room(kept.endpoints, name, MAX_ENDPOINTS, "invalid-endpoint", "endpoints")
            secret = _secret(settings, secret, present)
            _check_directory(kept.endpoints, name, settings)
            sealed = None if secret is None else self._keyring.seal(secret, _context(hub.id, name))
            await self._engine.write(
                Statement(
                    SQL["save_endpoint"],
                    {
                        "hub": hub.id,
                        "name": name,
                        "document": _encode(settings).decode(),
                        "secret": sealed,
                    },
                )
            )
            rows = await self._engine.read(SQL["number"], {"hub": hub.id, "name": name})
            endpoint = Endpoint(
                cast("int", rows[0][0]), hub.host, name, settings=settings, secret=secret
            )
            kept.endpoints[name] = endpoint
            await self._start(hub, endpoint, new=present is None)
        return endpoint

    async def delete_endpoint(self, hub: Hub, name: str) -> None:
        """Delete an endpoint; what it has not delivered yet is dropped.

        Raises:
            NotFoundError: code `endpoint-not-found`.
            ConflictError: a route or an enrichment names it; code `endpoint-in-use`.
        """
        async with self._changing:
            endpoint = self.endpoint(hub, name)
            kept = self._of(hub.id)
            users = [
                *(f"route {each.name}" for each in _naming(name, kept.routes.values())),
                *(f"enrichment {each.key}" for each in _naming(name, kept.enrichments.values())),
            ]
            if users:
                raise ConflictError(
                    f"The endpoint '{name}' is used by {', '.join(users)}", code="endpoint-in-use"
                )
            await self._engine.write(
                Statement(SQL["delete_endpoint"], {"number": endpoint.number}),
                Statement(SQL["delete_positions"], {"endpoint": endpoint.number}),
            )
            kept.endpoints.pop(name)
            await self._consumers.stop(endpoint)

    # -- inside --------------------------------------------------------------------------------

    def _of(self, hub: int) -> HubRouting:
        found = self._by_hub.get(hub)
        if found is None:
            found = self._by_hub[hub] = HubRouting()
        return found

    def _compiled(self, hub: Hub) -> RoutingTable:
        kept = self._of(hub.id)
        numbers = {name: endpoint.number for name, endpoint in kept.endpoints.items()}
        return RoutingTable(
            hub.name,
            kept.routes.values(),
            kept.enrichments.values(),
            {EVENTS: BUILT_IN, **numbers},
            fallback=kept.fallback,
        )

    async def _use(self, hub: Hub) -> None:
        """Let messages follow what is kept now."""
        table = self._tables[hub.id] = self._compiled(hub)
        routed = await self._telemetry.open_routed(hub) if table.custom else None
        self._telemetry.intake(hub).use(table, routed)

    async def _start(self, hub: Hub, endpoint: Endpoint, *, new: bool = False) -> None:
        log = await self._telemetry.open_routed(hub)
        await self._consumers.start(endpoint, log, self._telemetry.partitions, new=new)

    def _check_endpoints(self, kept: HubRouting, names: Iterable[str]) -> None:
        for name in names:
            if name != EVENTS:
                _found(kept.endpoints, name, "endpoint")


_Named = TypeVar("_Named", Route, Enrichment, Endpoint)


def _found(kept: dict[str, _Named], name: str, what: str) -> _Named:
    found = kept.get(name)
    if found is None:
        raise NotFoundError(f"The hub has no {what} '{name[:128]}'", code=f"{what}-not-found")
    return found


def _naming(name: str, kept: Iterable[_Kept]) -> list[_Kept]:
    return [each for each in kept if name in each.endpoint_names]


def _check_room(
    kept: dict[str, Route] | dict[str, Enrichment] | dict[str, Endpoint],
    name: str,
    most: int,
    code: str,
    what: str,
) -> None:
    if name not in kept and len(kept) >= most:
        raise InvalidArgumentError(f"A hub has at most {most} {what}", code=code)


def _secret(settings: Settings, secret: str | None, present: Endpoint | None) -> str | None:
    """Return the secret an endpoint is to have.

    Raises:
        InvalidArgumentError: it needs one, or cannot have one; code `invalid-endpoint`.
    """
    if isinstance(settings, FileSettings) or settings.auth == "none":
        if secret:
            raise InvalidArgumentError(
                "An endpoint without authentication has no secret", code="invalid-endpoint"
            )
        return None
    if not secret and present is not None:
        secret = present.secret
    if not secret:
        raise InvalidArgumentError(
            "A webhook with authentication needs a secret", code="invalid-endpoint"
        )
    if len(secret) > 4096 or not secret.isascii() or not secret.isprintable():
        raise InvalidArgumentError(
            "The secret is one line of at most 4096 printable ASCII characters",
            code="invalid-endpoint",
        )
    return secret


def _check_directory(kept: dict[str, Endpoint], name: str, settings: Settings) -> None:
    if not isinstance(settings, FileSettings):
        return
    for other in kept.values():
        if other.name == name or not isinstance(other.settings, FileSettings):
            continue
        if (other.settings.directory or other.name) == (settings.directory or name):
            raise ConflictError(
                f"The endpoint '{other.name}' writes to that directory", code="directory-in-use"
            )


def _document(kept: Route | Enrichment) -> str:
    return _encode(kept).decode()


def _context(hub: int, name: str) -> str:
    return f"routing-endpoint/{hub}/{name}"
