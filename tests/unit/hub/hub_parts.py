"""A hub built from its real parts over a real database and a real log, without any network."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any, final

from muster.auth import sas_token, symmetric_keys
from muster.auth.keyring import Keyring
from muster.bus.inprocess import InProcessBus
from muster.clock import ManualClock
from muster.decisions.log import DecisionLog
from muster.errors import UnavailableError
from muster.hub import events
from muster.hub.authentication import Authenticator
from muster.hub.blobs import Blobs
from muster.hub.bulk import Bulk
from muster.hub.changes import Changes
from muster.hub.connections import Connections
from muster.hub.digital_twins import DigitalTwins
from muster.hub.endpoints.blobs_http import BlobsHttpEndpoint
from muster.hub.endpoints.device_access import DeviceAccess
from muster.hub.endpoints.device_http import DeviceHttpEndpoint
from muster.hub.endpoints.device_mqtt import HubMqttEndpoint
from muster.hub.endpoints.digital_twins_http import DigitalTwinsHttpEndpoint
from muster.hub.endpoints.errors import job_error
from muster.hub.endpoints.files_http import FilesHttpEndpoint
from muster.hub.endpoints.jobs_http import JobsHttpEndpoint
from muster.hub.endpoints.messages_http import MessagesHttpEndpoint
from muster.hub.endpoints.methods_http import MethodsHttpEndpoint
from muster.hub.endpoints.queries_http import QueriesHttpEndpoint
from muster.hub.endpoints.registry_http import RegistryHttpEndpoint
from muster.hub.endpoints.service_access import ServiceAccess
from muster.hub.endpoints.session_services import SessionServices
from muster.hub.endpoints.transfers_http import TransfersHttpEndpoint
from muster.hub.endpoints.twins_http import TwinsHttpEndpoint
from muster.hub.export_work import ExportWork
from muster.hub.fault_control import FaultInjection
from muster.hub.file_uploads import FileUploads
from muster.hub.hubs import Hubs
from muster.hub.identities import Identities
from muster.hub.import_work import ImportWork
from muster.hub.key_regeneration import KeyRegeneration
from muster.hub.messaging import Messaging
from muster.hub.method_calls import MethodCalls
from muster.hub.methods import Methods
from muster.hub.modules import Modules
from muster.hub.queries import Queries
from muster.hub.query_indexes import QueryIndexes
from muster.hub.routing import Routing
from muster.hub.routing_endpoints import EndpointConsumers
from muster.hub.scheduling import Scheduling
from muster.hub.sender_twins import SenderTwins
from muster.hub.source_events import SourceEvents
from muster.hub.subscriptions import Subscriptions
from muster.hub.telemetry import Telemetry
from muster.hub.transfers import Transfers
from muster.hub.twin_batches import TwinBatches
from muster.hub.twin_catch_up import TwinCatchUp
from muster.hub.twins import Twins
from muster.ids import Randomness
from muster.model import message as messages
from muster.model.identity import (
    Authentication,
    Capabilities,
    DeviceRequest,
    IdentityRef,
    ModuleRequest,
    SymmetricKey,
)
from muster.model.job import JobType
from muster.net.mqtt import Accepted, Refused
from muster.net.peer import CONNECTION_LOST
from muster.observe.metrics import Metrics
from muster.store.blob_files import BlobFiles
from muster.store.journal import Journal
from muster.store.sqlite import SqliteEngine
from muster.wire.mqtt import codec
from muster.wire.mqtt.packets import Connect, Publish, Will

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from muster.hub.hubs import Hub
    from muster.hub.telemetry import LogKind
    from muster.net.mqtt import MqttSession
    from muster.store.engine import Engine
    from muster.wire.mqtt.packets import Packet

HOST = "hub.example"
KEY = "cHJpbWFyeS1rZXktcHJpbWFyeS1rZXk="
KEY2 = "c2Vjb25kYXJ5LWtleS1zZWNvbmRhcnkta2V5"
MASTER = bytes(range(32))


@final
class Parts:
    """Everything of a hub."""

    def __init__(self, engine: Engine, directory: Path, clock: ManualClock) -> None:
        self.engine = engine
        self.clock = clock
        self.randomness = Randomness()
        self.bus = InProcessBus()
        keyring = self.keyring = Keyring(MASTER)
        self.hubs = Hubs(engine, keyring, clock, self.randomness)
        self.changes = Changes()
        self.connections = Connections(engine, self.bus, clock, self.changes)
        shared = (engine, keyring, clock, self.randomness)
        told = {"connections": self.connections, "changes": self.changes}
        self.identities = Identities(*shared, **told)
        self.modules = Modules(*shared, **told)
        self.twin_catch_up = TwinCatchUp(engine, self.hubs)
        self.twins = Twins(engine, clock, self.connections, self.changes, self.twin_catch_up)
        self.query_indexes = QueryIndexes(engine)
        self.queries = Queries(engine, self.twins, self.connections, self.query_indexes)
        self.method_calls = MethodCalls(self.connections, self.bus, self.randomness)
        self.methods = Methods(self.identities, self.modules, self.connections, self.bus)
        self.messaging = Messaging(engine, clock, self.randomness, self.bus)
        self.bulk = Bulk(self.identities, self.modules, self.twins)
        self.blobs = Blobs(
            engine, clock, keyring, BlobFiles(directory.parent / "blobs", self.randomness)
        )
        self.scheduling = Scheduling(
            engine,
            clock,
            queries=self.queries,
            twins=TwinBatches(engine, clock, self.connections, self.changes, self.twin_catch_up),
            methods=self.methods,
            error_names=job_error,
            more={
                JobType.EXPORT: ExportWork(
                    engine,
                    clock,
                    self.blobs,
                    identities=self.identities,
                    modules=self.modules,
                    twins=self.twins,
                ),
                JobType.IMPORT: ImportWork(engine, clock, self.blobs, self.bulk, job_error),
            },
        )
        self.keys = KeyRegeneration(self.identities, self.modules, self.randomness)
        self.subscriptions = Subscriptions(engine)
        self.authenticator = Authenticator(engine, keyring, clock)
        self.metrics = Metrics()
        self.decisions = DecisionLog(engine, clock, self.metrics)
        self.faults = FaultInjection(
            engine=engine,
            hubs=self.hubs,
            connections=self.connections,
            queries=self.queries,
            changes=self.changes,
            clock=clock,
            randomness=self.randomness,
            record=self.decisions.record,
            count=self.metrics.fault_injected,
        )

        async def open_log(hub: Hub, kind: LogKind) -> Journal:
            return await Journal.open(directory / kind / hub.host, partitions=4, clock=clock)

        self.telemetry = Telemetry(open_log, SenderTwins(engine, self.changes), clock)
        self.targets: defaultdict[str, Collector] = defaultdict(Collector)
        """What endpoints deliver to, by their names."""
        self.consumers = EndpointConsumers(
            engine, clock, self.randomness, lambda endpoint: self.targets[endpoint.name]
        )
        self.routing = Routing(engine, keyring, self.hubs, self.telemetry, self.consumers)
        self.source_events = SourceEvents(
            self.changes, self.hubs, self.telemetry, clock, self.randomness
        )
        self.services = SessionServices(
            connections=self.connections,
            subscriptions=self.subscriptions,
            telemetry=self.telemetry,
            twins=self.twins,
            twin_catch_up=self.twin_catch_up,
            cloud_to_device=self.messaging.cloud_to_device,
            decisions=self.decisions,
            clock=clock,
            randomness=self.randomness,
        )
        self.mqtt = HubMqttEndpoint(self.hubs, self.authenticator, self.services)
        self.uploads = FileUploads(
            engine, clock, self.randomness, self.blobs, self.messaging.file_notifier
        )
        self.device_access = DeviceAccess(
            self.hubs, self.authenticator, self.connections, self.decisions, clock
        )
        self.access = ServiceAccess(self.hubs, self.authenticator, self.decisions, clock)
        self.http = (
            RegistryHttpEndpoint(
                self.access,
                identities=self.identities,
                modules=self.modules,
                bulk=self.bulk,
                keys=self.keys,
                connections=self.connections,
            ),
            TwinsHttpEndpoint(self.access, self.twins),
            QueriesHttpEndpoint(self.access, self.queries),
            JobsHttpEndpoint(self.access, self.scheduling.jobs),
            TransfersHttpEndpoint(
                self.access, Transfers(self.scheduling.jobs, self.blobs, clock, self.randomness)
            ),
            MethodsHttpEndpoint(self.access, self.methods, clock),
            DigitalTwinsHttpEndpoint(self.access, DigitalTwins(self.twins), self.methods, clock),
            MessagesHttpEndpoint(self.access, self.messaging),
            DeviceHttpEndpoint(self.device_access, self.telemetry, self.messaging.cloud_to_device),
            FilesHttpEndpoint(self.device_access, self.access, self.uploads, self.blobs),
            BlobsHttpEndpoint(self.hubs, self.blobs, self.decisions, clock),
        )

    @property
    def hub(self) -> Hub:
        return self.hubs.get(HOST)

    async def open(self) -> None:
        await self.hubs.open()
        await self.faults.open()
        await self.twin_catch_up.open()
        await self.connections.open()
        self.method_calls.open()
        await self.messaging.open()
        await self.blobs.open()
        if not self.hubs.all():
            await self.hubs.create(HOST)
        for hub in self.hubs.all():
            await self.telemetry.open(hub)
        await self.routing.open()

    async def close(self) -> None:
        await self.connections.close()
        await self.consumers.close()
        self.messaging.close()
        await self.telemetry.close()
        await self.decisions.close()
        await self.engine.close()

    async def crash(self) -> None:
        """Release the files without a word to the database."""
        await self.telemetry.close()
        await self.engine.close()

    async def device(self, device_id: str = "d1", **fields: Any) -> IdentityRef:
        fields.setdefault("authentication", own_keys())
        if fields.pop("edge", False):
            fields["capabilities"] = Capabilities(True)
        await self.identities.create(self.hub.id, device_id, DeviceRequest(**fields))
        return IdentityRef(self.hub.id, device_id)

    async def module(self, device_id: str = "d1", module_id: str = "m1") -> IdentityRef:
        ref = IdentityRef(self.hub.id, device_id, module_id)
        await self.modules.create(ref, ModuleRequest(authentication=own_keys()))
        return ref

    def token(self, ref: IdentityRef, key: str = KEY, ttl_s: float = 3600, host: str = HOST) -> str:
        resource = f"{host}/devices/{ref.device_id}"
        if ref.module_id:
            resource += f"/modules/{ref.module_id}"
        expiry = int(self.clock.time() + ttl_s)
        return sas_token.sign(resource, symmetric_keys.decode(key), expiry)

    def connect_packet(self, ref: IdentityRef, **options: Any) -> Connect:
        password = options.get("password", self.token(ref, ttl_s=options.get("ttl_s", 3600)))
        username = f"{HOST}/{ref.text}/?api-version=2021-04-12"
        return Connect(
            options.get("client_id", ref.text),
            options.get("username", username),
            None if password is None else password.encode(),
            clean_session=options.get("clean", False),
            will=options.get("will"),
        )

    async def connect(self, ref: IdentityRef, **options: Any) -> Client:
        """Connect and insist on success."""
        peer = Peer(options.pop("certificate", None))
        answer = await self.mqtt.accept(self.connect_packet(ref, **options), peer)
        assert isinstance(answer, Accepted), f"refused with {answer.return_code}"
        return Client(peer, answer)

    async def refused(self, ref: IdentityRef, **options: Any) -> int:
        """Connect and insist on a refusal; return its code."""
        peer = Peer(options.pop("certificate", None))
        answer = await self.mqtt.accept(self.connect_packet(ref, **options), peer)
        assert isinstance(answer, Refused)
        return answer.return_code

    async def checks(self, subject: str) -> list[str]:
        return [decision.check for decision in await self.decisions.find(subject)]

    async def events(self) -> list[events.Event]:
        log = self.telemetry.log(self.hub)
        found = []
        for partition in range(4):
            earliest, _ = log.bounds(partition)
            for record in await log.read(partition, earliest, 1000, 1 << 24):
                event = events.decode(record)
                assert event is not None
                found.append(event)
        return found

    async def awaited_events(self, count: int) -> list[events.Event]:
        """Return what stands in the log once so many events do, which may take a moment."""
        async with asyncio.timeout(30):
            while len(found := await self.events()) < count:  # noqa: ASYNC110 - the log has no event to wait for
                await asyncio.sleep(0.005)
        return found

    async def routed(self) -> list[tuple[int, events.Event]]:
        """Return what stands in the log of the hub's own endpoints, each with its endpoint."""
        log = await self.telemetry.open_routed(self.hub)
        found = []
        for partition in range(4):
            earliest, _ = log.bounds(partition)
            for record in await log.read(partition, earliest, 1000, 1 << 24):
                for delivery in messages.decode(record.data).deliveries:
                    event = events.decode(record, delivery.endpoint)
                    assert event is not None
                    found.append((delivery.endpoint, event))
        return found


def body_of(event: events.Event) -> Any:
    """Return the body of an event, JSON as its value."""
    return json.loads(bytes(event.body)) if event.body_encoding == "json" else event.body


async def build(directory: Path, clock: ManualClock) -> Parts:
    engine = await SqliteEngine.open(directory / "muster.db")
    parts = Parts(engine, directory / "telemetry", clock)
    await parts.open()
    return parts


def own_keys() -> Authentication:
    return Authentication(SymmetricKey(KEY, KEY2), None, "sas")


@final
class Collector:
    """A target that keeps what it gets; it refuses while `refuses` says why."""

    max_events = 100

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.refuses = ""
        self.offers = 0
        self.closed = False

    async def deliver(self, events: Sequence[bytes]) -> None:
        self.offers += 1
        if self.refuses:
            raise UnavailableError(self.refuses)
        self.events += map(json.loads, events)

    async def tend(self) -> None:
        return

    async def close(self) -> None:
        self.closed = True

    async def got(self, count: int) -> list[dict[str, Any]]:
        await until(lambda: len(self.events) >= count)
        return self.events


@final
class Peer:
    """The connection as a session sees it; remembers what was written."""

    transport = "mqtt"
    remote = "192.0.2.1:1234"
    last_received = 0.0
    buffered = 0

    def __init__(self, certificate: bytes | None = None) -> None:
        self.certificate = certificate
        self.closed = False
        self.was_reset = False
        self.reason = ""
        self.paused = False
        self.session: MqttSession | None = None
        self._decoder = codec.Decoder()
        self.packets: list[Packet] = []

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.packets += self._decoder.feed(data)

    def close(self, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        self.reason = reason
        # As on a real connection: the session hears of it later.
        asyncio.get_running_loop().call_soon(self.lost)

    def lost(self, *, graceful: bool = False) -> None:
        session, self.session = self.session, None
        if session is not None:
            session.closed(graceful=graceful, reason=self.reason or CONNECTION_LOST)

    def reset(self, reason: str) -> None:
        self.was_reset = True
        self.close(reason)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


@final
class Client:
    """A connected device."""

    def __init__(self, peer: Peer, answer: Accepted) -> None:
        self.peer = peer
        self.session = answer.session
        self.session_present = answer.session_present
        peer.session = answer.session
        answer.session.started()

    def send(self, *packets: Packet) -> None:
        self.session.received(list(packets))

    def publish(
        self, topic: str, payload: bytes = b"", packet_id: int | None = 1, **flags: Any
    ) -> None:
        self.send(Publish(topic, payload, 0 if packet_id is None else 1, packet_id, **flags))

    async def take(self, count: int = 1) -> list[Packet]:
        """Wait for packets and return them."""
        await until(lambda: len(self.peer.packets) >= count)
        taken, self.peer.packets[:count] = self.peer.packets[:count], []
        return taken

    async def disconnect(self) -> None:
        """Leave in good order."""
        self.peer.closed = True
        self.peer.reason = "closed by the client"
        self.peer.lost(graceful=True)
        await asyncio.sleep(0)

    async def vanish(self) -> None:
        self.peer.closed = True
        self.peer.reason = "connection lost"
        self.peer.lost()
        await asyncio.sleep(0)

    async def gone(self) -> str:
        """Wait until the service has closed the connection; return why."""
        await until(lambda: self.peer.closed and self.peer.session is None)
        return self.peer.reason


def will_of(topic: str, payload: bytes) -> Will:
    return Will(topic, payload)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.001)
