"""The edge hub, put together (edge.md 6).

Bounds, in bytes: queues on disk `Configuration.max_bytes` (the oldest of the least urgent are
dropped first) and in memory `queues.RECENT_BYTES`; of each client `mqtt_session.MAX_PENDING`
between the network and the disk, `MAX_WAITING_SIZE` of requests, and its write buffer
(`net.mqtt.MqttLimits`), beyond which it is disconnected; on the way up what the session allows
(`upstream.tuning.Tuning`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Self, final

import structlog
from msgspec import Struct

from muster.auth.sas_token import CLOCK_SKEW_S
from muster.edge.hub import desired
from muster.edge.hub.absence import Absence
from muster.edge.hub.amqp_head import AmqpHead
from muster.edge.hub.authentication import Authenticator
from muster.edge.hub.broker import Broker
from muster.edge.hub.clients import MAX_CLIENTS, Clients
from muster.edge.hub.database import FILE_NAME, PROFILE
from muster.edge.hub.heads import MqttSessions, Services
from muster.edge.hub.http_head import HttpHead
from muster.edge.hub.methods import Methods
from muster.edge.hub.metrics import HubMetrics
from muster.edge.hub.mqtt_head import MqttHead
from muster.edge.hub.nested_http import NestedHead
from muster.edge.hub.own_twin import OwnTwin
from muster.edge.hub.ports import Port, Ports
from muster.edge.hub.queues import Queues
from muster.edge.hub.scope import REFRESH_S, Scope
from muster.edge.hub.twins import Twins
from muster.edge.hub.upstreams import DRAIN_RATE, Upstreams
from muster.edge.identity import HUB
from muster.edge.upstream.errors import UpstreamError
from muster.edge.upstream.login import Login
from muster.errors import MusterError
from muster.net.amqp import AmqpLimits, amqp_protocol_factory
from muster.net.http import http_protocol_factory
from muster.net.mqtt import MqttLimits, mqtt_protocol_factory
from muster.net.routing import Router
from muster.net.tasks import spawn
from muster.net.websocket import (
    AMQP_SUBPROTOCOL,
    MQTT_SUBPROTOCOL,
    WEBSOCKET_PATH,
    ProtocolWebSocket,
)
from muster.store.sqlite import SqliteEngine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from muster.clock import Clock
    from muster.edge.hub.nested_http import ModuleRegistry
    from muster.edge.hub.ports import CertificateSource
    from muster.edge.hub.scope import ScopeSource
    from muster.edge.hub.upstreams import OpenSession
    from muster.edge.identity import DeviceIdentity, ModuleIdentity
    from muster.ids import Randomness
    from muster.model.identity import IdentityRef
    from muster.net.websocket import Carried
    from muster.store.engine import Engine

EXPIRE_S: Final = 60.0
"""How often messages over their time to live are looked for."""
_LIMITS: Final = MqttLimits(keep_alive_cap_s=900.0, write_buffer=2 * 1024 * 1024)
_AMQP_LIMITS: Final = AmqpLimits(write_buffer=2 * 1024 * 1024)
_log = structlog.get_logger(__name__)


class HubSettings(Struct, frozen=True, kw_only=True):
    """How the edge hub is set up.

    Attributes:
        hostname: of this device; modules and leaf devices connect to that.
        directory: of its state; it exists and is private.
        address: to listen on; empty for all addresses.
        mqtt_port: 0 for any free one, `None` for none; likewise the other.
        https_port: for HTTPS, and MQTT and AMQP over WebSockets.
        amqp_port: likewise.
        drain_rate: messages a second that go up of those that had to wait.
        max_clients: that are connected at a time.
    """

    hostname: str
    directory: Path
    address: str = ""
    mqtt_port: int | None = 8883
    https_port: int | None = 443
    amqp_port: int | None = 5671
    drain_rate: float = DRAIN_RATE
    max_clients: int = MAX_CLIENTS


@final
class EdgeHub:
    """The edge hub of one device. Make one with `open`; belongs to the running event loop.

    Attributes:
        metrics: what it counts.
    """

    def __init__(
        self,
        settings: HubSettings,
        engine: Engine,
        queues: Queues,
        *,
        device: DeviceIdentity,
        edge_hub: ModuleIdentity,
        open_session: OpenSession,
        scope: ScopeSource,
        registry: ModuleRegistry,
        certificates: CertificateSource,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        """Use `open`."""
        hosts = (device.hub_host.partition(":")[0], settings.hostname)
        self._settings = settings
        self._engine = engine
        self._clock = clock
        self._randomness = randomness
        self._open_session = open_session
        self._login = Login.of_module(device, edge_hub)
        self._device_id = device.device_id
        self._scope = Scope(device.device_id, engine, scope, clock, self._identity_changed)
        self._registry = registry
        self._clients = Clients(clock, settings.max_clients)
        self._methods = Methods(self._clients, randomness)
        self._queues = queues
        self._broker = Broker(queues, device.device_id, clock, randomness)
        self._twins = Twins(engine, self._clients, self._broker)
        self._upstreams = Upstreams(
            self._login,
            open_session,
            scope=self._scope,
            queues=queues,
            twins=self._twins,
            clients=self._clients,
            methods=self._methods,
            clock=clock,
            rate=settings.drain_rate,
        )
        self._own_twin = OwnTwin(self, self._clients, engine, device.device_id)
        self._services = Services(
            device_id=device.device_id,
            hosts=hosts,
            authenticator=Authenticator(self._scope, device.device_id, hosts, clock),
            clients=self._clients,
            broker=self._broker,
            queues=queues,
            twins=self._twins,
            methods=self._methods,
            sessions=MqttSessions(engine),
            clock=clock,
            randomness=randomness,
        )
        self._absence = Absence(clock)
        self.metrics = HubMetrics(self._services, self._absence, device.hub_host, randomness.uuid())
        self._ports = Ports(settings.address, certificates, clock)
        self._up = asyncio.Event()
        self._refreshed_at: float | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def open(
        cls,
        settings: HubSettings,
        *,
        device: DeviceIdentity,
        edge_hub: ModuleIdentity,
        open_session: OpenSession,
        scope: ScopeSource,
        registry: ModuleRegistry,
        certificates: CertificateSource,
        clock: Clock,
        randomness: Randomness,
    ) -> Self:
        """Find what was there the last time.

        Args:
            settings: see there.
            device: this device.
            edge_hub: the module `$edgeHub`.
            open_session: makes sessions with the hub: `upstream.hub.Hub.session`.
            scope: asks the hub who may connect here: `upstream.hub.Hub.scope`.
            registry: asks the hub for edge devices below: `upstream.hub.Hub.registry`.
            certificates: issues the server's certificate.
            clock: for time.
            randomness: for IDs.

        Raises:
            UnavailableError: the database cannot be opened or read.
        """
        engine = await SqliteEngine.open(settings.directory / FILE_NAME, PROFILE)
        try:
            queues = await Queues.open(
                engine, clock, max_bytes=desired.DEFAULT_MAX_BYTES, ttl_s=desired.DEFAULT_TTL_S
            )
            made = cls(
                settings,
                engine,
                queues,
                device=device,
                edge_hub=edge_hub,
                open_session=open_session,
                scope=scope,
                registry=registry,
                certificates=certificates,
                clock=clock,
                randomness=randomness,
            )
            await made._load()
        except BaseException:  # cancelled, too: the database has threads of its own
            await engine.close()
            raise
        return made

    @property
    def mqtt_port(self) -> int | None:
        """The port of MQTT, `None` while it is not open."""
        return self._ports.port("mqtt")

    @property
    def https_port(self) -> int | None:
        """The port of HTTPS, `None` while it is not open."""
        return self._ports.port("https")

    async def listening(self) -> None:
        """Return when all ports are open."""
        await self._ports.opened.wait()

    def start(self) -> None:
        """Serve clients, now, and the hub when it is in reach."""
        self._own_twin.open(self._open_session(self._login, self._own_twin))
        self._upstreams.start()
        self._tasks = [
            spawn(self._keep_scope(), "edge hub scope"),
            spawn(self._keep_house(), "edge hub housekeeping"),
        ]
        settings, ports = self._settings, []
        mqtt, http = MqttHead(self._services), HttpHead(self._services)
        nested = NestedHead(
            self._device_id, self._services.authenticator, self._scope, self._registry
        )
        amqp = AmqpHead(self._services)
        # As real hubs call themselves (hub-device.md 3.1).
        container = f"DeviceGateway_{self._randomness.token_bytes(16).hex()}"
        if settings.amqp_port is not None:
            factory = amqp_protocol_factory(amqp, container, limits=_AMQP_LIMITS)
            ports.append(Port("amqp", settings.amqp_port, factory))
        if settings.mqtt_port is not None:
            ports.append(Port("mqtt", settings.mqtt_port, mqtt_protocol_factory(mqtt, _LIMITS)))
        if settings.https_port is not None:
            carried: dict[str, Callable[[], Carried]] = {
                MQTT_SUBPROTOCOL: mqtt_protocol_factory(mqtt, _LIMITS, "mqtt-ws"),
                AMQP_SUBPROTOCOL: amqp_protocol_factory(
                    amqp, container, limits=_AMQP_LIMITS, transport="amqp-ws"
                ),
            }
            router = Router(
                [*http.routes(), *nested.routes()],
                http.group,
                self._randomness,
                {WEBSOCKET_PATH: ProtocolWebSocket(carried)},
            )
            ports.append(
                Port("https", settings.https_port, http_protocol_factory(router, self._clock))
            )
        self._ports.start(ports)

    async def stop(self) -> None:
        """End in good order; what waits stays on disk."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._ports.stop()
        await self._upstreams.stop()
        await self._own_twin.close()
        await self._queues.flush()
        await self._engine.close()

    def view(self) -> dict[str, Any]:
        """Return how it stands, for people and metrics."""
        dropped = self._queues.dropped
        return {
            "clients": [link.ref.text for link in self._clients.all()],
            "queues": [
                {**key._asdict(), "messages": count} for key, count in self._queues.waiting()
            ],
            "bytes": self._queues.size,
            "maxBytes": self._queues.max_bytes,
            "dropped": {
                "expired": dropped.expired,
                "full": dropped.full,
                "unrouted": self._broker.unrouted,
                "unsendable": dropped.refused,
            },
            "linkUp": self._up.is_set(),
        }

    # -- own_twin.Hub --------------------------------------------------------------------------

    def use(self, configuration: desired.Configuration) -> None:
        """Work so from now on."""
        self._broker.routes = configuration.routes
        self._queues.max_bytes = configuration.max_bytes
        self._queues.ttl_s = configuration.ttl_s

    async def refresh_scope(self, device_ids: list[str]) -> None:
        """Ask for these devices and their modules, or with none for the whole scope."""
        try:
            await self._scope.refresh()
        except (UpstreamError, MusterError) as error:
            _log.warning("scope not refreshed", devices=device_ids[:10], reason=str(error))

    def own_link_changed(self, *, up: bool) -> None:
        """Note whether the hub is in reach."""
        self._absence.changed(up=up)
        if up:
            self._up.set()
        else:
            self._up.clear()

    # -- within --------------------------------------------------------------------------------

    async def _load(self) -> None:
        await self._scope.load()
        await self._twins.load(self._scope.names())
        await self._own_twin.load()

    def _identity_changed(self, ref: IdentityRef) -> None:
        """End what was allowed before its keys, or whether it is there, changed."""
        self._clients.close(ref, "the identity was changed or deleted")
        for link in self._clients.all():
            if not ref.module_id and link.ref.device_id == ref.device_id:
                link.close("the device was changed or deleted")
            elif ref.module_id in {"", HUB} and ref.device_id in link.over:
                link.close("an edge device in between was changed or deleted")
        self._upstreams.reset(ref)
        if self._scope.find(ref) is None:
            spawn(self._twins.forget(ref), "twin of a deleted identity")

    async def _keep_scope(self) -> None:
        """Know who may connect: at the start, when the link has come, and from time to time."""
        while True:
            await self._up.wait()
            now = self._clock.monotonic()
            if self._refreshed_at is None or now - self._refreshed_at >= REFRESH_S:
                self._refreshed_at = now
                await self.refresh_scope([])
            await asyncio.sleep(EXPIRE_S)

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_S)
            self._clients.close_expired(CLOCK_SKEW_S)
            try:
                await self._queues.expire()
            except MusterError as error:
                _log.warning("queues not looked through", reason=error.message)
