"""When this device asks the provisioning service, and what it does while there is no answer.

edge.md 2.5 and 2.6 with what users.md asks for in pains 4 to 6 and 9: a device with a backup starts
without the service; one that is rejected asks again, gently, until somebody lets it in; pauses grow
and are random.
"""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Final, Protocol, final

import msgspec
import structlog

from muster.edge.identity import DeviceIdentity
from muster.edge.provisioning import backup
from muster.edge.provisioning.backup import Backup
from muster.edge.settings import (
    ManualProvisioning,
    Reprovisioning,
    SymmetricKeyAttestation,
    X509Attestation,
)
from muster.edge.upstream.backoff import REFUSED, UNREACHABLE, Backoff
from muster.edge.upstream.errors import RefusedError, UpstreamError
from muster.edge.upstream.registration import Assignment
from muster.net.tasks import spawn

if TYPE_CHECKING:
    from muster.edge.settings import DpsProvisioning
    from muster.edge.state import StateDirectory
    from muster.edge.upstream.arrival import Arrival
    from muster.ids import Randomness

FIRST_ANSWER_S: Final = 30.0
"""How long a device that has a backup waits for the service before it starts without it."""

_log = structlog.get_logger(__name__)


class Origin(enum.StrEnum):
    """Where an identity came from."""

    MANUAL = "manual"
    REGISTERED = "registered"
    BACKUP = "backup"


class Provisioned(msgspec.Struct, frozen=True, kw_only=True):
    """An identity.

    Attributes:
        identity: who the device is.
        origin: where that came from.
        substatus: see `Assignment`; `''` for a manual one.
        moved: modules of another identity, which the device had before, are to be removed (edge.md
            2.6); `Provisioner.settled` ends that. False where nobody knows of another one.
    """

    identity: DeviceIdentity
    origin: Origin
    substatus: str = ""
    moved: bool = False


class ProvisioningOwner(Protocol):
    """Who wants to be provisioned. Calls come from the event loop and must not block."""

    def provisioning_waits(self, reason: str, next_attempt_s: float) -> None:
        """Note that an attempt has failed, why, and in how many seconds the next one is made."""

    def provisioned(self, provisioned: Provisioned) -> None:
        """Take the answer of a registration in the background; mostly it is the same identity."""


class Registers(Protocol):
    """Registers this device: `upstream.registration.Registrar`."""

    async def register(self) -> Assignment:
        """See there."""


@final
class Provisioner:
    """Comes by the identity of this device. Belongs to the running event loop.

    Args:
        provisioning: what the configuration says.
        mode: when a device that has an identity asks again.
        state: where the backup is.
        registrar: asks the service; `None` for a manual identity.
        arrival: before which a device that has a backup does not ask by itself; `None` where
            nothing is to be waited for.
        owner: told what happens.
        randomness: spreads attempts.
        unreachable: pauses while nobody answers.
        refused: pauses while the service says no.
        first_answer_s: see `FIRST_ANSWER_S`.

    Raises:
        InvalidArgumentError: see `backup.fingerprint`.
    """

    def __init__(
        self,
        provisioning: DpsProvisioning | ManualProvisioning,
        mode: Reprovisioning,
        state: StateDirectory,
        registrar: Registers | None,
        *,
        owner: ProvisioningOwner,
        randomness: Randomness,
        arrival: Arrival | None = None,
        unreachable: Backoff = UNREACHABLE,
        refused: Backoff = REFUSED,
        first_answer_s: float = FIRST_ANSWER_S,
    ) -> None:
        self._provisioning = provisioning
        self._mode = mode
        self._state = state
        self._registrar = registrar
        self._owner = owner
        self._arrival = arrival
        self._randomness = randomness
        self._unreachable = unreachable
        self._refused = refused
        self._first_answer_s = first_answer_s
        self._configuration = backup.fingerprint(provisioning)
        self._asking: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._refusals = 0

    async def start(self, *, reprovision: bool = False) -> Provisioned:
        """Return the identity to start with; wait for it as long as there is none.

        Args:
            reprovision: ask the service first, whatever the mode.
        """
        kept = backup.load(self._state)
        if isinstance(self._provisioning, ManualProvisioning):
            return await self._manual(self._provisioning)
        if kept is None or kept.configuration != self._configuration:
            return await self._insist()
        known = self._provisioned(kept, Origin.BACKUP)
        if not reprovision and self._mode is not Reprovisioning.ALWAYS_ON_STARTUP:
            return known
        if self._arrival is not None and not reprovision:
            await self._arrival.wait()
        try:
            async with asyncio.timeout(self._first_answer_s):
                return await self._register()
        except (UpstreamError, TimeoutError) as error:
            # A site may be out of reach for weeks: it runs as it did, and asks on.
            pause_s = self._pause_s(1, error)
            self._tell(error, pause_s)
            self._ask_on(pause_s, failures=1)
            return known

    def hub_refused(self, *, starting: bool = False) -> None:
        """Ask the service again, since the hub does not accept the identity.

        Args:
            starting: it happened while identities of modules were made, where also
                `OnErrorOnly` asks (edge.md 2.6).
        """
        if self._registrar is None or self._asking is not None:
            return
        if self._mode is Reprovisioning.ON_ERROR_ONLY and not starting:
            return
        # The first time soon, since the device may have been moved; but where the answer is the
        # same identity and the hub goes on to refuse it, ever more seldom.
        self._refusals += 1
        self._ask_on(self._refused.pause_s(self._refusals, self._chance()), failures=0)

    def hub_accepted(self) -> None:
        """Note that the hub accepts the identity."""
        self._refusals = 0

    async def reprovision(self) -> Provisioned:
        """Ask the service now.

        Returns:
            What it says; its owner is told, too.

        Raises:
            UpstreamError: it gives no identity; the device keeps the one that it has.
            ValueError: the identity was given by hand.
        """
        if self._registrar is None:
            raise ValueError("this device was provisioned by hand; there is nobody to ask")
        found = await self._register()
        await self.close()  # what was being asked for is answered
        self._owner.provisioned(found)
        return found

    async def settled(self) -> None:
        """Note that modules of an earlier identity are gone."""
        try:
            await asyncio.to_thread(backup.settle, self._state)
        except OSError as error:
            _log.error("the identity cannot be kept", reason=str(error))

    async def close(self) -> None:
        """Stop asking."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.wait([asking])

    # Within.

    async def _insist(self) -> Provisioned:
        failures = 0
        while True:
            try:
                return await self._register()
            except UpstreamError as error:
                failures += 1
                pause_s = self._pause_s(failures, error)
                self._tell(error, pause_s)
                await asyncio.sleep(pause_s)

    def _ask_on(self, pause_s: float, failures: int) -> None:
        if self._asking is None:
            self._asking = spawn(self._ask(pause_s, failures), "registration")

    async def _ask(self, pause_s: float, failures: int) -> None:
        """Ask until there is an answer, then tell."""
        while True:
            await asyncio.sleep(pause_s)
            try:
                found = await self._register()
            except UpstreamError as error:
                failures += 1
                pause_s = self._pause_s(failures, error)
                self._tell(error, pause_s)
            else:
                self._asking = None
                self._owner.provisioned(found)
                return

    async def _register(self) -> Provisioned:
        if self._registrar is None:
            raise AssertionError("a manual identity is not registered")
        async with self._turn:
            try:
                assignment = await self._registrar.register()
            except UpstreamError:
                raise
            except Exception as error:  # noqa: BLE001 - a device that stopped asking needs a visit
                _log.exception("registration failed")
                raise UpstreamError(f"the registration failed: {error}") from None
            return self._provisioned(await self._keep(assignment), Origin.REGISTERED)

    async def _manual(self, given: ManualProvisioning) -> Provisioned:
        assignment = Assignment(hub_host=given.hub_host, device_id=given.device_id)
        return self._provisioned(await self._keep(assignment), Origin.MANUAL)

    async def _keep(self, assignment: Assignment) -> Backup:
        try:
            return await asyncio.to_thread(
                backup.save, self._state, self._configuration, assignment
            )
        except OSError as error:
            # A full disk does not stop the device; it asks again when it starts next.
            _log.error("the identity cannot be kept", reason=str(error))
            return Backup(configuration=self._configuration, assignment=assignment)

    def _provisioned(self, kept: Backup, origin: Origin) -> Provisioned:
        given = self._provisioning
        proof = given if isinstance(given, ManualProvisioning) else given.attestation
        certificate = private_key = key = None
        if isinstance(proof, ManualProvisioning | X509Attestation):
            certificate, private_key = proof.certificate, proof.private_key
        if isinstance(proof, ManualProvisioning | SymmetricKeyAttestation):
            key = proof.key
        identity = DeviceIdentity(
            hub_host=kept.assignment.hub_host,
            device_id=kept.assignment.device_id,
            key=key,
            certificate=certificate,
            private_key=private_key,
        )
        return Provisioned(
            identity=identity,
            origin=origin,
            substatus=kept.assignment.substatus,
            moved=kept.replaces is not None,
        )

    def _pause_s(self, failures: int, error: Exception) -> float:
        asked_s = error.retry_after_s if isinstance(error, UpstreamError) else 0.0
        pauses = self._refused if isinstance(error, RefusedError) else self._unreachable
        return pauses.pause_s(failures, self._chance(), asked_s)

    def _chance(self) -> float:
        return int.from_bytes(self._randomness.token_bytes(4)) / 2**32

    def _tell(self, error: Exception, pause_s: float) -> None:
        reason = str(error) or "no answer in time"
        _log.warning("not provisioned", reason=reason, next_attempt_s=round(pause_s, 1))
        self._owner.provisioning_waits(reason, pause_s)
