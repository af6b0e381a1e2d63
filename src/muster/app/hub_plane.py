"""The hubs of this process and all that belongs to them, built and connected."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from muster.bus.inprocess import InProcessBus
from muster.hub.authentication import Authenticator
from muster.hub.blobs import Blobs
from muster.hub.bulk import Bulk
from muster.hub.changes import Changes
from muster.hub.configuration_views import ConfigurationViews
from muster.hub.configurations import Configurations
from muster.hub.connections import Connections
from muster.hub.consumer_groups import ConsumerGroups
from muster.hub.convergence import Convergence
from muster.hub.deployer import Deployer
from muster.hub.deployment_explanations import DeploymentExplanations
from muster.hub.device_scopes import DeviceScopes
from muster.hub.digital_twins import DigitalTwins
from muster.hub.endpoints.amqp_cbs import CbsLinks
from muster.hub.endpoints.amqp_devicebound import DeviceboundLinks, InputLinks
from muster.hub.endpoints.amqp_devices import AmqpDevices
from muster.hub.endpoints.amqp_front import HubAmqpEndpoint
from muster.hub.endpoints.amqp_methods import MethodLinks
from muster.hub.endpoints.amqp_services import AmqpServices
from muster.hub.endpoints.amqp_telemetry import TelemetryLinks
from muster.hub.endpoints.amqp_twin import TwinLinks
from muster.hub.endpoints.blobs_http import BlobsHttpEndpoint
from muster.hub.endpoints.configurations_http import ConfigurationsHttpEndpoint
from muster.hub.endpoints.device_access import DeviceAccess
from muster.hub.endpoints.device_http import DeviceHttpEndpoint
from muster.hub.endpoints.device_mqtt import HubMqttEndpoint
from muster.hub.endpoints.device_scopes_http import DeviceScopesHttpEndpoint
from muster.hub.endpoints.digital_twins_http import DigitalTwinsHttpEndpoint
from muster.hub.endpoints.errors import job_error
from muster.hub.endpoints.events_amqp import ReaderLinks, RedirectLinks
from muster.hub.endpoints.events_management_amqp import ManagementLinks
from muster.hub.endpoints.files_http import FilesHttpEndpoint
from muster.hub.endpoints.jobs_http import JobsHttpEndpoint
from muster.hub.endpoints.messages_http import MessagesHttpEndpoint
from muster.hub.endpoints.methods_http import MethodsHttpEndpoint
from muster.hub.endpoints.modules_on_behalf_http import ModulesOnBehalfHttpEndpoint
from muster.hub.endpoints.queries_http import QueriesHttpEndpoint
from muster.hub.endpoints.registry_http import RegistryHttpEndpoint
from muster.hub.endpoints.service_access import ServiceAccess
from muster.hub.endpoints.service_amqp import DeviceboundSenders, ServiceBoundLinks
from muster.hub.endpoints.session_services import SessionServices
from muster.hub.endpoints.transfers_http import TransfersHttpEndpoint
from muster.hub.endpoints.twins_http import TwinsHttpEndpoint
from muster.hub.event_readers import EventReaders
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
from muster.hub.targets import Targets
from muster.hub.telemetry import Telemetry
from muster.hub.transfers import Transfers
from muster.hub.twin_batches import TwinBatches
from muster.hub.twin_catch_up import TwinCatchUp
from muster.hub.twins import Twins
from muster.local_hub import LocalHubs
from muster.model.job import JobType

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.app.message_places import MessagePlaces
    from muster.auth.keyring import Keyring
    from muster.clock import Clock
    from muster.decisions.log import DecisionLog
    from muster.ids import Randomness
    from muster.observe.metrics import Metrics
    from muster.store.blob_files import BlobFiles
    from muster.store.sqlite import SqliteEngine


@final
class HubPlane:
    """The hubs of this process and all that belongs to them."""

    def __init__(
        self,
        *,
        engine: SqliteEngine,
        keyring: Keyring,
        clock: Clock,
        randomness: Randomness,
        decisions: DecisionLog,
        metrics: Metrics,
        places: MessagePlaces,
        partitions: int,
        blob_files: BlobFiles,
        aliases: list[str],
    ) -> None:
        self.hubs = Hubs(engine, keyring, clock, randomness, aliases)
        changes = Changes()
        # Before all others that hear of changes: what they do may look at a twin.
        self.sender_twins = SenderTwins(engine, changes)
        self.retention = places.retention
        telemetry = self.telemetry = Telemetry(
            places.open_log, self.sender_twins, clock, partitions
        )
        self.endpoint_consumers = EndpointConsumers(engine, clock, randomness, places.target)
        self.routing = Routing(engine, keyring, self.hubs, telemetry, self.endpoint_consumers)
        self.consumer_groups = ConsumerGroups(engine, clock)
        SourceEvents(changes, self.hubs, telemetry, clock, randomness)
        bus = InProcessBus()
        self.connections = Connections(engine, bus, clock, changes)
        self._method_calls = MethodCalls(self.connections, bus, randomness)
        self.messaging = Messaging(engine, clock, randomness, bus)
        identities = Identities(
            engine, keyring, clock, randomness, connections=self.connections, changes=changes
        )
        modules = Modules(
            engine, keyring, clock, randomness, connections=self.connections, changes=changes
        )
        self.twin_catch_up = TwinCatchUp(engine, self.hubs)
        twins = Twins(engine, clock, self.connections, changes, self.twin_catch_up)
        methods = Methods(identities, modules, self.connections, bus)
        authenticator = Authenticator(engine, keyring, clock)
        self.local = LocalHubs(
            hubs=self.hubs,
            telemetry=telemetry,
            identities=identities,
            modules=modules,
            twins=twins,
            connections=self.connections,
            clock=clock,
            randomness=randomness,
        )
        self._query_indexes = QueryIndexes(engine)
        queries = Queries(engine, twins, self.connections, self._query_indexes)
        targets = Targets(engine, self.connections)
        self.faults = FaultInjection(
            engine=engine,
            hubs=self.hubs,
            connections=self.connections,
            queries=queries,
            changes=changes,
            clock=clock,
            randomness=randomness,
            record=decisions.record,
            count=metrics.fault_injected,
        )
        self.configurations = Configurations(engine, clock, targets)
        deployer = Deployer(
            engine,
            clock,
            randomness,
            configurations=self.configurations,
            targets=targets,
            connections=self.connections,
            changes=changes,
            catch_up=self.twin_catch_up,
        )
        self.convergence = Convergence(
            self.configurations, targets, deployer, self._query_indexes, changes
        )
        self.blobs = Blobs(engine, clock, keyring, blob_files)
        bulk = Bulk(identities, modules, twins)
        self.scheduling = Scheduling(
            engine,
            clock,
            queries=queries,
            twins=TwinBatches(engine, clock, self.connections, changes, self.twin_catch_up),
            methods=methods,
            error_names=job_error,
            more={
                JobType.EXPORT: ExportWork(
                    engine,
                    clock,
                    self.blobs,
                    identities=identities,
                    modules=modules,
                    twins=twins,
                ),
                JobType.IMPORT: ImportWork(engine, clock, self.blobs, bulk, job_error),
            },
        )
        uploads = FileUploads(engine, clock, randomness, self.blobs, self.messaging.file_notifier)
        devices = DeviceAccess(self.hubs, authenticator, self.connections, decisions, clock)
        access = ServiceAccess(self.hubs, authenticator, decisions, clock)
        keys = KeyRegeneration(identities, modules, randomness)
        scopes = DeviceScopes(engine, identities, modules)
        self.http = (
            RegistryHttpEndpoint(
                access,
                identities=identities,
                modules=modules,
                bulk=bulk,
                keys=keys,
                connections=self.connections,
            ),
            DeviceScopesHttpEndpoint(access, scopes),
            ModulesOnBehalfHttpEndpoint(access, scopes, modules),
            TwinsHttpEndpoint(access, twins),
            QueriesHttpEndpoint(access, queries),
            JobsHttpEndpoint(access, self.scheduling.jobs),
            TransfersHttpEndpoint(
                access, Transfers(self.scheduling.jobs, self.blobs, clock, randomness)
            ),
            MethodsHttpEndpoint(access, methods, clock),
            DigitalTwinsHttpEndpoint(access, DigitalTwins(twins), methods, clock),
            MessagesHttpEndpoint(access, self.messaging),
            DeviceHttpEndpoint(devices, telemetry, self.messaging.cloud_to_device),
            FilesHttpEndpoint(devices, access, uploads, self.blobs),
            BlobsHttpEndpoint(self.hubs, self.blobs, decisions, clock),
            ConfigurationsHttpEndpoint(
                access,
                configurations=self.configurations,
                views=ConfigurationViews(engine, queries, clock),
                targets=targets,
                deployer=deployer,
                explanations=DeploymentExplanations(self.configurations, targets, twins),
            ),
        )
        """What answers the hub's REST APIs; each has `routes()`."""
        sessions = SessionServices(
            connections=self.connections,
            subscriptions=Subscriptions(engine),
            telemetry=telemetry,
            twins=twins,
            twin_catch_up=self.twin_catch_up,
            cloud_to_device=self.messaging.cloud_to_device,
            decisions=decisions,
            clock=clock,
            randomness=randomness,
        )
        self.mqtt = HubMqttEndpoint(self.hubs, authenticator, sessions)
        amqp_devices = AmqpDevices(sessions)
        readers = EventReaders(telemetry, self.consumer_groups)
        self.amqp = HubAmqpEndpoint(
            AmqpServices(
                hubs=self.hubs,
                authenticator=authenticator,
                # The first that takes a link has it.
                links=(
                    CbsLinks(),
                    TelemetryLinks(amqp_devices),
                    DeviceboundLinks(amqp_devices),
                    InputLinks(amqp_devices),
                    MethodLinks(amqp_devices),
                    TwinLinks(amqp_devices),
                    ReaderLinks(self.hubs, readers, clock),
                    ManagementLinks(self.hubs, readers),
                    RedirectLinks(self.hubs),
                    DeviceboundSenders(self.messaging.cloud_to_device),
                    ServiceBoundLinks(self.messaging),
                ),
                decisions=decisions,
                clock=clock,
                randomness=randomness,
            )
        )

    async def open(self, step: Callable[[str], None]) -> None:
        """Load what is stored; the first run makes nothing, `Instance` decides which hubs.

        Args:
            step: told what is done from there on.
        """
        step("hubs")
        await self.hubs.open()
        await self.faults.open()
        await self.twin_catch_up.open()
        await self.connections.open()
        await self._query_indexes.open()
        self._method_calls.open()
        await self.messaging.open()
        step("files")
        await self.blobs.open()
        step("telemetry")
        await self.local.open()
        step("configurations and routes")
        await self.configurations.open()
        await self.consumer_groups.open()
        await self.routing.open()
