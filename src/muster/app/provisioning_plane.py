"""The provisioning service and all that belongs to it, built and connected."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from muster.provisioning.authentication import Authentication
from muster.provisioning.endpoints.device_amqp import DeviceAmqpEndpoint
from muster.provisioning.endpoints.device_mqtt import DeviceMqttEndpoint
from muster.provisioning.enrollment_groups import EnrollmentGroups
from muster.provisioning.enrollments import Enrollments
from muster.provisioning.hubs import LinkedHub, LinkedHubs
from muster.provisioning.operations import OperationIds
from muster.provisioning.registration_faults import RegistrationFaults
from muster.provisioning.registrations import Registrations
from muster.provisioning.revocations import Revocations
from muster.provisioning.settings import ServiceSettings

if TYPE_CHECKING:
    import ssl

    from muster.auth.keyring import Keyring
    from muster.clock import Clock
    from muster.decisions.log import DecisionLog
    from muster.ids import Randomness
    from muster.local_hub import LocalHubs
    from muster.observe.metrics import Metrics
    from muster.store.sqlite import SqliteEngine


@final
class ProvisioningPlane:
    """The provisioning service and all that belongs to it."""

    def __init__(
        self,
        *,
        engine: SqliteEngine,
        keyring: Keyring,
        clock: Clock,
        randomness: Randomness,
        decisions: DecisionLog,
        metrics: Metrics,
        local: LocalHubs,
        trust: ssl.SSLContext,
    ) -> None:
        self.decisions = decisions
        self.settings = ServiceSettings(engine, keyring, randomness)
        self.enrollments = Enrollments(engine, keyring, clock, randomness)
        self.groups = EnrollmentGroups(engine, keyring, clock, randomness)

        def remote(connection_string: str) -> LinkedHub:
            # Its HTTP client takes a third of the start-up time; most instances have no such hub.
            from muster.provisioning.remote_hub import RemoteHub  # noqa: PLC0415 - see above

            return RemoteHub(connection_string, clock, trust)

        self.links = LinkedHubs(engine, keyring, local.get, remote)
        self.faults = RegistrationFaults(
            settings=self.settings,
            clock=clock,
            randomness=randomness,
            record=decisions.record,
            count=metrics.fault_injected,
        )
        self.registrations = Registrations(
            engine=engine,
            settings=self.settings,
            authentication=Authentication(self.settings, self.enrollments, self.groups, clock),
            enrollments=self.enrollments,
            groups=self.groups,
            hubs=self.links,
            decisions=decisions,
            operations=OperationIds(keyring, clock, randomness),
            faults=self.faults,
            clock=clock,
            randomness=randomness,
        )
        self.revocations = Revocations(
            engine, self.enrollments, self.registrations, self.links, clock
        )
        self.mqtt = DeviceMqttEndpoint(self.registrations, clock, randomness)
        self.amqp = DeviceAmqpEndpoint(self.registrations, clock, randomness)

    async def open(self) -> None:
        """Load what is stored."""
        await self.settings.open()
        await self.groups.open()
        await self.links.open()
