"""Registration: a device proves itself, gets a hub, and its identity there (dps.md 4).

Order of what must survive: first the identity in the hub, then the registration record, then the
answer. Both writes are idempotent, so a crash in between is healed by the device's next attempt.
Work for one registration ID is done one at a time; work for a hub in this process is finished
before the first answer, a remote hub may take longer and is then polled for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import structlog

from muster.clock import Clock
from muster.decisions.log import DecisionLog
from muster.errors import (
    InvalidArgumentError,
    MusterError,
    NotFoundError,
    PreconditionFailedError,
)
from muster.ids import Randomness, registration_key
from muster.model import registration as model
from muster.model.decision import Decision, Fact
from muster.model.enrollment import IndividualEnrollment
from muster.model.pacing import Pace, Pacer
from muster.model.registration import RegistrationRecord
from muster.net.tasks import spawn
from muster.provisioning import allocation, etags
from muster.provisioning.authentication import Authentication, Claim, Proof, RefusalError
from muster.provisioning.diagnosis import diagnose
from muster.provisioning.enrollment_groups import EnrollmentGroups
from muster.provisioning.enrollments import Enrollments
from muster.provisioning.hubs import LinkedHub, LinkedHubs, ProvisionedDevice
from muster.provisioning.operations import OperationIds, operation_not_found
from muster.provisioning.paging import Page, after, cut
from muster.provisioning.settings import ServiceSettings
from muster.store.engine import Engine, Statement
from muster.store.queries import load

RETRY_AFTER_S: Final = 1
"""Asked of a device between its two steps. The outcome is there before the first poll; the C SDK
takes 1 to 300 and Node waits exactly this long (dps.md 9), so it is the smallest that works."""

NO_HUB: Final = 400208
HUB_REFUSED: Final = 400209

_PATIENCE_S: Final = 1.0
"""How long a remote hub is waited for before the answer is `assigning`."""
_LAST_STICKY_API: Final = "2018-04-01"
"""Up to here, devices without a policy stay on their hub (dps.md 4.4)."""
_MAX_DIAGNOSES: Final = 16
_REFUSAL_PACE: Final = Pace(rate=0.5, burst=5)
"""How often one registration ID is refused at once; beyond that the answer comes later."""
_REFUSAL_PATIENCE_S: Final = 15.0

_SQL = load("registrations")
_encode = msgspec.json.Encoder().encode
_DECODER = msgspec.json.Decoder(RegistrationRecord)
_log = structlog.get_logger(__name__)


class RegisterRequest(msgspec.Struct, frozen=True):
    """One attempt of a device.

    Attributes:
        claim: who it is and its evidence.
        tracking_id: under which the outcome is recorded, and which an error answer carries.
        payload: what it sent along, any JSON.
        api_version: as sent, may be empty.
        transport: `mqtt`, `mqtt-ws` or `https`.
        remote: the device's address.
    """

    claim: Claim
    tracking_id: str
    payload: Any = None
    api_version: str = ""
    transport: str = ""
    remote: str = ""


class Operation(msgspec.Struct):
    """The state of an operation.

    Attributes:
        operation_id: asks for it again.
        status: assigning, assigned, failed or disabled.
        record: the outcome; `None` while assigning.
    """

    operation_id: str
    status: str
    record: RegistrationRecord | None = None


class _Outcome(msgspec.Struct):
    record: RegistrationRecord
    check: str
    facts: dict[str, Fact]


class Registrations:
    """Registers devices and keeps their records."""

    def __init__(
        self,
        *,
        engine: Engine,
        settings: ServiceSettings,
        authentication: Authentication,
        enrollments: Enrollments,
        groups: EnrollmentGroups,
        hubs: LinkedHubs,
        decisions: DecisionLog,
        operations: OperationIds,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._authentication = authentication
        self._enrollments = enrollments
        self._groups = groups
        self._hubs = hubs
        self._decisions = decisions
        self._operations = operations
        self._clock = clock
        self._randomness = randomness
        self._working: dict[str, tuple[asyncio.Lock, int]] = {}
        self._running: dict[str, str] = {}
        self._diagnosing = 0
        self._refusals: Pacer[str] = Pacer(_REFUSAL_PACE, _REFUSAL_PATIENCE_S)

    # What devices ask.

    async def register(self, request: RegisterRequest) -> Operation:
        """Register a device; the operation it returns can be polled.

        Raises:
            InvalidArgumentError: the registration ID breaks the rule.
            RefusalError: the device did not prove itself.
        """
        registration_id = request.claim.registration_id
        operation_id = self._operations.new(registration_id)
        # Outside the turn: whoever fails to prove itself must not hold up the real device.
        proof = await self._proof(request)
        async with self._turn(registration_id) as waited:
            if waited:
                proof.record = await self.find(registration_id)
            hub = self._choose(request, proof)
            if isinstance(hub, _Outcome):
                await self._finish(request, hub)
            elif hub.local:
                await self._finish(request, await self._assign(request, proof, hub))
            else:
                await self._assign_patiently(request, proof, hub, operation_id)
        return Operation(operation_id, model.ASSIGNING)

    async def operation_status(self, request: RegisterRequest, operation_id: str) -> Operation:
        """Return how far an operation is.

        Raises:
            NotFoundError: it is not an operation of this registration, or was lost in a restart
                before it had an outcome; the device registers again.
            RefusalError: the device did not prove itself.
        """
        registration_id = request.claim.registration_id
        proof = await self._proof(request)
        began_at = self._operations.began_at(operation_id, registration_id)
        if operation_id in self._running:
            return Operation(operation_id, model.ASSIGNING)
        record = proof.record
        if record is None or record.updated_at.timestamp() < began_at:
            raise operation_not_found(registration_id)
        return Operation(operation_id, record.status, record)

    async def lookup(self, request: RegisterRequest) -> RegistrationRecord:
        """Return the device's own record.

        Raises:
            NotFoundError: it has never registered; code `registration-not-found`.
            RefusalError: the device did not prove itself.
        """
        record = (await self._proof(request)).record
        if record is None:
            raise _not_found(request.claim.registration_id)
        return record

    # What services ask.

    async def get(self, registration_id: str) -> RegistrationRecord:
        """Return a record.

        Raises:
            NotFoundError: code `registration-not-found`.
        """
        found = await self.find(registration_id)
        if found is None:
            raise _not_found(registration_id)
        return found

    async def find(self, registration_id: str) -> RegistrationRecord | None:
        """Return a record, or `None`."""
        rows = await self._engine.read(_SQL["get"], {"key": registration_key(registration_id)})
        return _DECODER.decode(rows[0][0]) if rows else None  # type: ignore[arg-type]

    async def query(
        self, group_id: str, continuation: str | None, size: int
    ) -> Page[RegistrationRecord]:
        """Return a page of a group's records, by registration ID.

        Raises:
            InvalidArgumentError: the continuation is not one of ours.
        """
        rows = await self._engine.read(
            _SQL["page_of_group"],
            {
                "group_key": registration_key(group_id),
                "after": after(continuation),
                "limit": size + 1,
            },
        )
        records = [_DECODER.decode(row[1]) for row in rows]  # type: ignore[arg-type]
        return cut([str(row[0]) for row in rows], records, size)

    async def delete(self, registration_id: str, if_match: str | None) -> None:
        """Delete a record; the identity in the hub stays (dps.md 4.6).

        Raises:
            NotFoundError: code `registration-not-found`.
            PreconditionFailedError: the etag is another.
        """
        record = await self.get(registration_id)
        mismatch = PreconditionFailedError(
            "Precondition failed.", code="etag-mismatch", subject=registration_id
        )
        if if_match is not None and not etags.matches(if_match, record.etag):
            raise mismatch
        conditional = if_match is not None and etags.plain(if_match) != etags.ANY
        await self._engine.write(
            Statement(
                _SQL["delete_etag" if conditional else "delete"],
                {"key": registration_key(registration_id)}
                | ({"etag": record.etag} if conditional else {}),
                expect=1,
                otherwise=mismatch if conditional else _not_found(registration_id),
            )
        )

    # Within.

    async def _proof(self, request: RegisterRequest) -> Proof:
        try:
            return await self._authentication.prove(request.claim)
        except RefusalError as refusal:
            await self._refused(request, refusal)
            raise
        except InvalidArgumentError as error:
            self._record(request, "refused", error.code, {"reason": error.message})
            raise

    async def _refused(self, request: RegisterRequest, refusal: RefusalError) -> None:
        """Record a refusal, with its cause when that takes finding out; slow down repetition."""
        claim = request.claim
        if refusal.check == "wrong-key" and self._diagnosing < _MAX_DIAGNOSES:
            self._diagnosing += 1
            spawn(self._diagnose(request), "diagnosis")
        else:
            self._record(request, "refused", refusal.check, refusal.facts)
        key = registration_key(claim.registration_id)
        wait_s = self._refusals.reserve(key, self._clock.monotonic())
        await asyncio.sleep(_REFUSAL_PATIENCE_S if wait_s is None else wait_s)

    async def _diagnose(self, request: RegisterRequest) -> None:
        try:
            cause = await diagnose(request.claim, self._enrollments, self._groups)
            self._record(request, "refused", cause.check, cause.facts)
        finally:
            self._diagnosing -= 1

    def _choose(self, request: RegisterRequest, proof: Proof) -> LinkedHub | _Outcome:
        """Return the device's hub, or the outcome when it gets none."""
        entry, record = proof.entry, proof.record
        if not entry.enabled:
            check = "group-disabled" if proof.group_id else "enrollment-disabled"
            outcome = self._changed(request, proof, status=model.DISABLED, substatus=None)
            return _Outcome(outcome, check, {"entry": proof.entry_name, "group": proof.group_id})
        current = self._hubs.find(record.assigned_hub) if record else None
        if current is not None and self._sticky(request, proof):
            return current
        name = entry.allocation_policy or self._settings.allocation_policy
        candidates = self._hubs.candidates(entry.iot_hubs)
        policy = allocation.find(name)
        hub: LinkedHub | None = None
        if policy is not None:
            with contextlib.suppress(NotFoundError):
                hub = self._hubs.find(policy.choose(request.claim.registration_id, candidates))
        if hub is not None:
            return hub
        return _Outcome(
            self._changed(
                request,
                proof,
                status=model.FAILED,
                substatus=None,
                error_code=NO_HUB,
                error_message="No IoT hub is available for the device.",
            ),
            "no-hub-available",
            {
                "policy": name,
                "entry": proof.entry_name,
                "candidates": ", ".join(entry.iot_hubs or ())
                or ", ".join(each.host for each in candidates)
                or "none",
            },
        )

    def _sticky(self, request: RegisterRequest, proof: Proof) -> bool:
        policy = proof.entry.reprovision_policy
        if policy is None:
            return "" < request.api_version <= _LAST_STICKY_API
        return not policy.update_hub_assignment

    async def _assign(self, request: RegisterRequest, proof: Proof, hub: LinkedHub) -> _Outcome:
        """Make the device's identity in its hub, moving it there when it has another one."""
        entry, record = proof.entry, proof.record
        wanted = isinstance(entry, IndividualEnrollment) and entry.device_id
        initial = entry.initial_twin
        device = ProvisionedDevice(
            device_id=(record and record.device_id) or wanted or request.claim.registration_id,
            keys=proof.keys,
            iot_edge=entry.iot_edge,
            tags=(initial and initial.tags) or {},
            desired=initial.desired if initial else {},
        )
        facts: dict[str, Fact] = {"hub": hub.host, "entry": proof.entry_name, "key": proof.slot}
        try:
            substatus = await self._settle(proof, hub, device)
        except MusterError as error:
            _log.warning(
                "hub refused a device",
                hub=hub.host,
                registration_id=request.claim.registration_id,
                reason=error.message,
            )
            nested = {
                "Message": f"ErrorCode:{error.code};{error.message}",
                "ExceptionMessage": f"Tracking ID:{request.tracking_id}",
            }
            failed = self._changed(
                request,
                proof,
                status=model.FAILED,
                substatus=None,
                error_code=HUB_REFUSED,
                error_message=_encode(nested).decode(),
            )
            return _Outcome(failed, "hub-refused", {**facts, "reason": error.message})
        assigned = self._changed(
            request,
            proof,
            status=model.ASSIGNED,
            substatus=substatus,
            assigned_hub=hub.host,
            first_hub=(record and record.first_hub) or hub.host,
            device_id=device.device_id,
        )
        facts |= {
            "substatus": substatus,
            "key": f"the {proof.slot} key",
            "policy": entry.allocation_policy or self._settings.allocation_policy,
        }
        return _Outcome(assigned, "assigned", facts)

    async def _settle(self, proof: Proof, hub: LinkedHub, device: ProvisionedDevice) -> str:
        """Bring the device into its hub and return the substatus (dps.md 4.4)."""
        record = proof.record
        old_host = record.assigned_hub if record else None
        if record is None or old_host is None or old_host.lower() == hub.host.lower():
            await hub.provision(device)
            return model.INITIAL_ASSIGNMENT
        old = self._hubs.find(old_host)
        policy = proof.entry.reprovision_policy
        migrate = policy is None or policy.migrate_device_data
        snapshot = await old.export(device.device_id) if old and migrate else None
        if snapshot is None:
            await hub.provision(device)
        else:
            await hub.restore(device, snapshot)
        if old is not None:
            await old.delete(device.device_id)
        if record.first_hub and record.first_hub.lower() == hub.host.lower():
            return model.REPROVISIONED_TO_INITIAL
        return model.DEVICE_DATA_MIGRATED if migrate else model.DEVICE_DATA_RESET

    async def _assign_patiently(
        self, request: RegisterRequest, proof: Proof, hub: LinkedHub, operation_id: str
    ) -> None:
        key = registration_key(request.claim.registration_id)
        if key in self._running.values():
            # The hub still works on an earlier attempt; its outcome will be this one's, too.
            self._running[operation_id] = key
            return

        async def work() -> None:
            try:
                await self._finish(request, await self._assign(request, proof, hub))
            finally:
                for done in [each for each, of in self._running.items() if of == key]:
                    del self._running[done]

        self._running[operation_id] = key
        task = spawn(work(), "assignment")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), _PATIENCE_S)

    def _changed(
        self, request: RegisterRequest, proof: Proof, **changes: Any
    ) -> RegistrationRecord:
        """Return the record as this attempt leaves it."""
        now = self._clock.now()
        old = proof.record
        values: dict[str, Any] = {
            "registration_id": old.registration_id if old else request.claim.registration_id,
            "created_at": old.created_at if old else now,
            "updated_at": now,
            "etag": self._randomness.etag(),
            "group_id": proof.group_id,
            "payload": request.payload,
            "assigned_hub": old.assigned_hub if old else None,
            "first_hub": old.first_hub if old else None,
            "device_id": old.device_id if old else None,
        }
        return RegistrationRecord(**(values | changes))

    async def _finish(self, request: RegisterRequest, outcome: _Outcome) -> None:
        """Write the record, then take the decision down."""
        record = outcome.record
        await self._engine.write(
            Statement(
                _SQL["put"],
                {
                    "key": registration_key(record.registration_id),
                    "etag": record.etag,
                    "group_key": registration_key(record.group_id) if record.group_id else None,
                    "document": _encode(record),
                },
            )
        )
        self._record(request, record.status, outcome.check, outcome.facts)

    def _record(
        self, request: RegisterRequest, outcome: str, check: str, facts: dict[str, Fact]
    ) -> None:
        self._decisions.record(
            Decision(
                tracking_id=request.tracking_id,
                time=self._clock.now(),
                service="dps",
                operation="register",
                subject=request.claim.registration_id[:128],
                outcome=outcome,
                check=check,
                facts={**facts, "transport": request.transport, "remote": request.remote},
            )
        )

    @contextlib.asynccontextmanager
    async def _turn(self, registration_id: str) -> AsyncIterator[bool]:
        """Work on one registration ID at a time; tells whether somebody else came before."""
        key = registration_key(registration_id)
        lock, waiting = self._working.get(key) or (asyncio.Lock(), 0)
        self._working[key] = (lock, waiting + 1)
        try:
            async with lock:
                yield waiting > 0
        finally:
            lock, waiting = self._working[key]
            if waiting == 1:
                del self._working[key]
            else:
                self._working[key] = (lock, waiting - 1)


def _not_found(registration_id: str) -> NotFoundError:
    return NotFoundError(
        "Registration not found.", code="registration-not-found", subject=registration_id
    )
