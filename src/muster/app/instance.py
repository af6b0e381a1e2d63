"""Builds one instance from its settings, and takes it down again.

Everything is built by plain calls, in the order of its dependencies; what was opened is closed in
the opposite order.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final, Self, final

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response

from muster import __version__
from muster.app.front_door import FrontDoors
from muster.app.hub_plane import HubPlane
from muster.app.listeners import Listeners
from muster.app.message_places import MessagePlaces
from muster.app.provisioning_plane import ProvisioningPlane
from muster.app.start_progress import StartProgress
from muster.auth import private_file
from muster.auth.access_policies import HUB_RIGHTS, AccessPolicy, Right
from muster.auth.certificate_authority import CertificateAuthority
from muster.auth.keyring import Keyring
from muster.clock import Clock, SystemClock
from muster.config import (
    DEFAULT_AMQP_PORT,
    DEFAULT_HTTPS_PORT,
    HubInfo,
    InstanceInfo,
    Ports,
    Settings,
)
from muster.decisions.log import DecisionLog
from muster.errors import UnavailableError
from muster.faults.admin_http import FaultsHttpEndpoint, Injection
from muster.hub.endpoints.admin_http import HubAdminEndpoint
from muster.hub.endpoints.routing_admin_http import RoutingAdminEndpoint
from muster.hub.endpoints.twin_catch_up_http import TwinCatchUpHttpEndpoint
from muster.hub.fault_control import InjectionOfHub
from muster.hub.hubs import Hub, Hubs
from muster.hub.routing_endpoints import Status
from muster.ids import Randomness
from muster.net import client_certificates
from muster.net.http import http_protocol_factory
from muster.net.routing import Route, RouteGroup, Router
from muster.net.tasks import spawn
from muster.net.tls import server_context
from muster.net.websocket import (
    AMQP_SUBPROTOCOL,
    MQTT_SUBPROTOCOL,
    STREAM_WEBSOCKET_PATH,
    WEBSOCKET_PATH,
    ProtocolWebSocket,
)
from muster.observe.metrics import CONTENT_TYPE, Metrics
from muster.provisioning.endpoints.access import Access
from muster.provisioning.endpoints.admin_http import AdminHttpEndpoint, policy_connection_string
from muster.provisioning.endpoints.device_http import DeviceHttpEndpoint
from muster.provisioning.endpoints.errors import ErrorResponses
from muster.provisioning.endpoints.service_http import ServiceHttpEndpoint
from muster.provisioning.hubs import HubLink
from muster.provisioning.settings import ServiceSettings
from muster.store.blob_files import BlobFiles
from muster.store.data_directory import DataDirectory
from muster.store.sqlite import SqliteEngine

_ANY_ADDRESS: Final = ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound
_log = structlog.get_logger(__name__)


@final
class Instance:
    """One running instance. Made by `start`.

    Attributes:
        info: how to reach it.
        notes: what its operator should know, for example that 443 could not be bound.
    """

    def __init__(self, settings: Settings, clock: Clock, randomness: Randomness) -> None:
        """Use `start`."""
        self._settings = settings
        self._clock = clock
        self._randomness = randomness
        self._open = AsyncExitStack()
        self._listeners = Listeners(settings.listen)
        self._certificates: CertificateAuthority | None = None
        self._ask_clients = False
        self._ready = False
        self._ports: Ports
        self._instance_file = DataDirectory.instance_file(settings.data_dir)
        self.metrics = Metrics()
        self.notes = self._listeners.notes
        self.info: InstanceInfo

    @classmethod
    async def start(
        cls, settings: Settings, clock: Clock | None = None, randomness: Randomness | None = None
    ) -> Self:
        """Start an instance; it serves when this returns.

        Raises:
            MusterError: it cannot start; the message says what to do.
        """
        instance = cls(settings, clock or SystemClock(), randomness or Randomness())
        try:
            async with StartProgress(instance._clock) as progress:
                await instance._start(progress.step)
        except BaseException:
            await instance.stop()
            raise
        return instance

    async def stop(self) -> None:
        """Stop accepting, let everything finish, release the data directory."""
        self._ready = False
        await self._open.aclose()

    async def _start(self, step: Callable[[str], None]) -> None:
        step("the data directory")
        settings, clock, randomness = self._settings, self._clock, self._randomness
        directory = self._open.enter_context(DataDirectory.open(settings.data_dir))
        keyring = Keyring.load_or_create(directory.master_key, randomness=randomness)
        self._certificates = CertificateAuthority.load_or_create(
            directory.ca, clock=clock, randomness=randomness
        )
        step("the database")
        engine = await SqliteEngine.open(directory.database)
        self._open.push_async_callback(engine.close)
        decisions = DecisionLog(engine, clock, self.metrics)
        self._open.push_async_callback(decisions.close)

        trust = ssl.create_default_context()
        trust.load_verify_locations(self._certificates.ca_file)
        places = MessagePlaces(directory, settings, clock, trust)
        hubs = HubPlane(
            engine=engine,
            keyring=keyring,
            clock=clock,
            randomness=randomness,
            decisions=decisions,
            metrics=self.metrics,
            blob_files=BlobFiles(directory.blobs, randomness),
            places=places,
            partitions=settings.partitions,
            aliases=self._aliases(),
        )
        self._open.push_async_callback(hubs.telemetry.close)
        self._open.push_async_callback(hubs.endpoint_consumers.close)
        self._measure(hubs)
        await hubs.open(step)
        self._open.callback(hubs.messaging.close)
        self._open.push_async_callback(hubs.twin_catch_up.write_down)
        self._open.push_async_callback(hubs.connections.close)
        provisioning = ProvisioningPlane(
            engine=engine,
            keyring=keyring,
            clock=clock,
            randomness=randomness,
            decisions=decisions,
            metrics=self.metrics,
            local=hubs.local,
            trust=trust,
        )
        step("provisioning")
        await provisioning.open()
        self._open.push_async_callback(provisioning.links.close)
        await self._make_hubs(hubs, provisioning)
        for name, upkeep in (
            ("connection upkeep", hubs.connections.run()),
            ("queue upkeep", hubs.messaging.run()),
            ("twin catch-up", hubs.twin_catch_up.run()),
            ("deployments", hubs.convergence.run()),
            ("jobs", hubs.scheduling.run()),
            ("blob upkeep", hubs.blobs.run()),
        ):
            self._open.callback(spawn(upkeep, name).cancel)
        step("listeners")
        self._try_client_certificates()
        self._open.push_async_callback(self._listeners.close)
        self._ports = await self._listen(hubs, provisioning)
        self._open.callback(self._instance_file.unlink, missing_ok=True)
        self._tell(hubs.hubs, provisioning.settings)
        self._ready = True

    def _measure(self, hubs: HubPlane) -> None:
        """Let metrics tell how messages get on."""
        self.metrics.gauge(
            "muster_unrouted_messages",
            "Messages since the start that no route took, by hub.",
            "hub",
            lambda: [(hub.host, hubs.telemetry.intake(hub).unrouted) for hub in hubs.hubs.all()],
        )
        endpoints: tuple[tuple[str, str, Callable[[Status], float]], ...] = (
            ("delivered_messages", "Messages delivered since the start", lambda of: of.delivered),
            ("waiting_records", "Records not looked at yet", lambda of: of.waiting),
            ("lost_records", "Records that retention took first", lambda of: of.lost),
            (
                "failing",
                "1 while the target takes nothing",
                lambda of: of.failing_since is not None,
            ),
        )
        for name, text, value in endpoints:

            def read(value: Callable[[Status], float] = value) -> list[tuple[str, float]]:
                return [
                    (f"{each.endpoint.host}/{each.endpoint.name}", value(each.status))
                    for each in hubs.endpoint_consumers.all()
                ]

            self.metrics.gauge(f"muster_endpoint_{name}", f"{text}, by endpoint.", "endpoint", read)

    async def _make_hubs(self, hubs: HubPlane, provisioning: ProvisioningPlane) -> None:
        """Create and link the local hubs that were asked for and do not exist yet.

        With nothing linked, what exists is linked: a first start may have been cut off here.
        """
        known = [hub.host for hub in hubs.hubs.all()]
        wanted = self._settings.hubs or (() if known else (self._settings.hostname,))
        new = [host for host in dict.fromkeys(map(str.lower, wanted)) if host not in known]
        for host in new:
            await hubs.local.create(host)
        for host in new if provisioning.links.all() else [*known, *new]:
            await provisioning.links.put(HubLink(host))

    async def _listen(self, hubs: HubPlane, provisioning: ProvisioningPlane) -> Ports:
        settings = self._settings
        doors = FrontDoors(provisioning, hubs, self._randomness)
        listeners = self._listeners
        listeners.context = self._context(hubs.hubs)
        mqtt = await listeners.bind(settings.mqtt_port, doors.mqtt("mqtt"))
        amqp = await listeners.bind(settings.amqp_port, doors.amqp("amqp"))
        plain = await listeners.bind_plain(settings.amqp_plain_port, doors.amqp("amqp-plain"))
        # The connection strings name the HTTPS port, so the routes are made when it is known.
        router = _Late()
        factory = http_protocol_factory(router, self._clock)
        https = await listeners.bind_https(settings.https_port, factory)
        router.app = self._router(hubs, provisioning, doors, https)
        self.metrics.gauge(
            "muster_connections",
            "Open connections, those in their handshake included, by port.",
            "port",
            listeners.connections,
        )
        return Ports(https=https, mqtt=mqtt, amqp=amqp, amqp_plain=plain)

    def _router(
        self,
        hubs: HubPlane,
        provisioning: ProvisioningPlane,
        doors: FrontDoors,
        https_port: int,
    ) -> Router:
        settings = self._settings
        amqp = doors.amqp("amqp-ws")
        errors = ErrorResponses(self._clock)
        service, devices, admin = (
            RouteGroup(name, errors) for name in ("dps-service", "dps-device", "admin")
        )
        access = Access(provisioning.settings, self._aliases(), provisioning.decisions, self._clock)

        async def create_local_hub(host: str) -> None:
            if host in {hub.host for hub in hubs.hubs.all()}:
                # Unlinked before; linking brings it back with all it has.
                return
            await hubs.local.create(host)
            self._listeners.use_context(self._context(hubs.hubs))
            self._tell(hubs.hubs, provisioning.settings)

        administration = AdminHttpEndpoint(
            settings=provisioning.settings,
            enrollments=provisioning.enrollments,
            revocations=provisioning.revocations,
            hubs=provisioning.links,
            decisions=provisioning.decisions,
            access=access,
            create_local_hub=create_local_hub,
            host_name=_host_name(settings.hostname, https_port),
            device_host=settings.hostname,
            group=admin,
        )
        endpoints = (
            DeviceHttpEndpoint(provisioning.registrations, devices),
            ServiceHttpEndpoint(
                enrollments=provisioning.enrollments,
                groups=provisioning.groups,
                registrations=provisioning.registrations,
                access=access,
                group=service,
            ),
            administration,
            *hubs.http,
            HubAdminEndpoint(
                hubs=hubs.hubs,
                telemetry=hubs.telemetry,
                clock=self._clock,
                authorize_admin=administration.authorize,
                group=admin,
                port=None if https_port == DEFAULT_HTTPS_PORT else https_port,
            ),
            RoutingAdminEndpoint(
                hubs=hubs.hubs,
                routing=hubs.routing,
                consumer_groups=hubs.consumer_groups,
                telemetry=hubs.telemetry,
                twins=hubs.sender_twins,
                default_retention=hubs.retention,
                clock=self._clock,
                authorize_admin=administration.authorize,
                group=admin,
            ),
            TwinCatchUpHttpEndpoint(
                hubs=hubs.hubs,
                twin_catch_up=hubs.twin_catch_up,
                authorize_admin=administration.authorize,
                group=admin,
            ),
        )
        health = [
            Route("GET", "/healthz", self._healthz, admin),
            Route("GET", "/readyz", self._readyz, admin),
            Route("GET", "/metrics", self._metrics, admin),
        ]
        return Router(
            [
                *(route for endpoint in endpoints for route in endpoint.routes()),
                *self._faults(hubs, provisioning, administration.authorize, admin),
                *health,
            ],
            service,
            self._randomness,
            {
                WEBSOCKET_PATH: ProtocolWebSocket(
                    {
                        MQTT_SUBPROTOCOL: doors.mqtt("mqtt-ws"),
                        AMQP_SUBPROTOCOL: amqp,
                    }
                ),
                STREAM_WEBSOCKET_PATH: ProtocolWebSocket({AMQP_SUBPROTOCOL: amqp}),
            },
        )

    def _faults(
        self,
        hubs: HubPlane,
        provisioning: ProvisioningPlane,
        authorize: Callable[[Request], None],
        group: RouteGroup,
    ) -> list[Route]:
        def of_hub(request: Request) -> Injection:
            authorize(request)
            return InjectionOfHub(hubs.faults, hubs.hubs.get(request.path_params["host"]))

        def of_provisioning(request: Request) -> Injection:
            authorize(request)
            return provisioning.faults

        return [
            route
            for place, injection in (
                ("/admin/v1/hubs/{host}", of_hub),
                ("/admin/v1/dps", of_provisioning),
            )
            for route in FaultsHttpEndpoint(
                place=place,
                injection=injection,
                switched=lambda: self._tell(hubs.hubs, provisioning.settings),
                group=group,
            ).routes()
        ]

    def _aliases(self) -> list[str]:
        """Return every name and address this instance is reached by, its hubs aside."""
        settings = self._settings
        names = [settings.hostname, "localhost", "127.0.0.1", "::1", socket.gethostname()]
        if settings.listen not in _ANY_ADDRESS:
            names.append(settings.listen)
        return list(dict.fromkeys(name.lower() for name in names))

    def _context(self, hubs: Hubs) -> ssl.SSLContext:
        if self._certificates is None:
            raise UnavailableError("The instance is not started")
        names = self._aliases() + [hub.host for hub in hubs.all()]
        certificate = self._certificates.issue_server(names)
        return server_context(
            certificate.chain_file,
            certificate.key_file,
            ["http/1.1"],
            ask_clients=self._ask_clients,
        )

    def _try_client_certificates(self) -> None:
        """Find out whether devices can come with certificates; those with keys can in any case."""
        reason = client_certificates.trouble()
        self._ask_clients = reason is None
        if reason is not None:
            _log.warning("client certificates are off", reason=reason)
            self.notes.append(
                "Devices and modules with client certificates (selfSigned) cannot connect: "
                f"{reason}. Those with keys can."
            )

    # What others may know.

    def _tell(self, hubs: Hubs, settings: ServiceSettings) -> None:
        """Write down how to reach this instance, for the CLI on the same machine."""
        hostname, ports = self._settings.hostname, self._ports
        ca_file = self._certificates.ca_file.resolve() if self._certificates else ""
        self.info = InstanceInfo(
            id_scope=settings.id_scope,
            dps_host=hostname,
            dps_connection_string=policy_connection_string(
                _host_name(hostname, ports.https), settings.owner
            ),
            hubs=[_hub_info(hub, ports) for hub in hubs.all()],
            ca_file=str(ca_file),
            console_url=None,
            ports=ports,
            version=__version__,
            pid=os.getpid(),
            address=_address(self._settings.listen, ports.https),
            dps_fault_injection=settings.fault_injection,
        )
        private_file.replace(self._instance_file, msgspec.json.encode(self.info), 0o600)

    async def _healthz(self, request: Request) -> Response:
        return Response(b'{"status":"ok"}', media_type="application/json")

    async def _readyz(self, request: Request) -> Response:
        if self._ready:
            return Response(b'{"status":"ready"}', media_type="application/json")
        return Response(b'{"status":"not ready"}', 503, media_type="application/json")

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.exposition(), headers={"content-type": CONTENT_TYPE})


@final
class _Late:
    """An ASGI application that is filled in once its port is known."""

    app: Router

    async def __call__(self, scope: object, receive: object, send: object) -> None:
        # The types of uvicorn and starlette name the same interface differently.
        await self.app(scope, receive, send)  # type: ignore[arg-type]


def _hub_info(hub: Hub, ports: Ports) -> HubInfo:
    owner = next(
        policy
        for policy in hub.policies.values()
        if all(policy.allows(right) for right in HUB_RIGHTS)
    )
    return HubInfo(
        hub.host,
        policy_connection_string(_host_name(hub.host, ports.https), owner),
        _stream_connection_string(hub, ports.amqp, owner),
        fault_injection=hub.faults is not None,
    )


def _stream_connection_string(hub: Hub, port: int, owner: AccessPolicy) -> str:
    """Return how the Event Hubs SDKs read a hub (hub-service.md 4.1), with few rights."""
    reader = hub.policy("service")
    if reader is None or not reader.allows(Right.SERVICE_CONNECT):
        reader = owner
    host = hub.host if port == DEFAULT_AMQP_PORT else f"{hub.host}:{port}"
    return (
        f"Endpoint=sb://{host}/;SharedAccessKeyName={reader.name};"
        f"SharedAccessKey={reader.keys.primary};EntityPath={hub.host}"
    )


def _address(listen: str, port: int) -> str:
    """Return where this machine reaches a port that is served on an address."""
    if listen in _ANY_ADDRESS:
        return f"127.0.0.1:{port}"
    return f"[{listen}]:{port}" if ":" in listen else f"{listen}:{port}"


def _host_name(host: str, port: int) -> str:
    return host if port == DEFAULT_HTTPS_PORT else f"{host}:{port}"
