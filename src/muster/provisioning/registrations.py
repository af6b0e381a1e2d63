"""Registration: a device proves itself, gets a hub, and its identity there (dps.md 4).

Order of what must survive: first the identity in the hub, then the registration record, then the
answer. Both writes are idempotent, so a crash in between is healed by the device's next attempt;
for a new device of a hub in this process they are one.
Work for one registration ID is done one at a time; work for a hub in this process is finished
before the first answer, a remote hub may take longer and is then polled for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final

import msgspec
import structlog

from muster.clock import Clock
from muster.decisions.log import DecisionLog
from muster.errors import InvalidArgumentError, MusterError, ThrottledError
from muster.ids import Randomness, registration_key
from muster.model import registration as model
from muster.model.decision import Fact
from muster.model.registration import RegistrationRecord
from muster.net.tasks import spawn
from muster.provisioning.assignment import Assignment
from muster.provisioning.authentication import Authentication, Claim, Proof, RegisterRequest
from muster.provisioning.enrollment_groups import EnrollmentGroups
from muster.provisioning.enrollments import Enrollments
from muster.provisioning.hubs import LinkedHub, LinkedHubs
from muster.provisioning.operations import OperationIds, operation_not_found
from muster.provisioning.outcomes import Outcomes
from muster.provisioning.records import Records, record_not_found
from muster.provisioning.refusals import Refusals
from muster.provisioning.registration_faults import RegistrationFaults
from muster.provisioning.settings import ServiceSettings
from muster.provisioning.turns import Turn, Turns
from muster.store.engine import Engine

RETRY_AFTER_S: Final = 1
"""Asked of a device between its two steps. The outcome is there before the first poll; the C SDK
takes 1 to 300 and Node waits exactly this long (dps.md 9), so it is the smallest that works."""

NO_HUB: Final = 400208
HUB_REFUSED: Final = 400209

_PATIENCE_S: Final = 1.0
"""How long a remote hub is waited for before the answer is `assigning`."""
_MAX_WORKING: Final = 4_096
"""Devices that remote hubs may be working on; beyond, devices are asked to come again."""
_BUSY_RETRY_S: Final = 10

_encode = msgspec.json.Encoder().encode
_log = structlog.get_logger(__name__)


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


class Registrations:
    """Registers devices.

    Attributes:
        records: what became of them.
        refusals: where those who fail are turned away; endpoints report theirs, too.
    """

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
        faults: RegistrationFaults,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self.records = Records(engine)
        self.refusals = Refusals(decisions, enrollments, groups, clock)
        self._assignment = Assignment(hubs, settings)
        self._faults = faults
        self._authentication = authentication
        self._decisions = decisions
        self._operations = operations
        self._clock = clock
        self._randomness = randomness
        self._enrollments = enrollments
        self._groups = groups
        self._outcomes = Outcomes(clock)
        self._turns = Turns()
        self._working = 0

    async def register(self, request: RegisterRequest) -> Operation:
        """Register a device; the operation it returns can be polled.

        Raises:
            InvalidArgumentError: the registration ID breaks the rule.
            RefusalError: the device did not prove itself.
            ThrottledError: remote hubs are busy with too many devices already.
        """
        registration_id = request.claim.registration_id
        operation_id = self._operations.new(registration_id)
        changes = self._changes
        try:
            with self._turns.join(registration_key(registration_id)) as turn:
                seen = turn.changes
                proof = await self._authentication.prove(request.claim)
                await self._faults.meet(request)
                async with turn.lock:
                    if turn.changes != seen:
                        # Somebody else registered it, or revoked it, since this was read.
                        proof = await self._authentication.prove(request.claim)
                    if turn.work is not None:
                        # A hub still works on an earlier attempt: its outcome is this one's, too.
                        return Operation(turn.work[0], model.ASSIGNING)
                    record = await self._decide(request, proof, turn, operation_id)
                    turn.changes += 1
        except MusterError as error:
            await self.refusals.refuse(request, error)
            raise
        self.refusals.forgive(registration_id)
        if record is not None:
            self._outcomes.remember(request.claim, operation_id, record, changes)
        return Operation(operation_id, model.ASSIGNING)

    def just_finished(self, claim: Claim, operation_id: str) -> Operation | None:
        """Return an operation that a device with this claim began and that is finished.

        Known once, for seconds, and only while no operator changes anything or injects faults;
        otherwise `operation_status` finds out.
        """
        if self._faults.on:
            return None
        record = self._outcomes.take(claim, operation_id, self._changes)
        return None if record is None else Operation(operation_id, record.status, record)

    async def operation_status(self, request: RegisterRequest, operation_id: str) -> Operation:
        """Return how far an operation is.

        Raises:
            NotFoundError: it is not an operation of this registration, or was lost in a restart
                before it had an outcome; the device registers again.
            RefusalError: the device did not prove itself.
        """
        finished = self.just_finished(request.claim, operation_id)
        if finished is not None:
            return finished
        registration_id = request.claim.registration_id
        try:
            with self._turns.join(registration_key(registration_id)) as turn:
                seen = turn.changes
                proof = await self._authentication.prove(request.claim)
                await self._faults.meet(request)
                if turn.changes != seen:
                    proof = await self._authentication.prove(request.claim)
                began_at = self._operations.began_at(operation_id, registration_id)
                if turn.work is not None and turn.work[0] == operation_id:
                    return Operation(operation_id, model.ASSIGNING)
            record = proof.record
            if record is None or record.updated_at.timestamp() < began_at:
                raise operation_not_found(registration_id)
        except MusterError as error:
            await self.refusals.refuse(request, error)
            raise
        return Operation(operation_id, record.status, record)

    async def lookup(self, request: RegisterRequest) -> RegistrationRecord:
        """Return the device's own record.

        Raises:
            NotFoundError: it has never registered; code `registration-not-found`.
            RefusalError: the device did not prove itself.
        """
        try:
            record = (await self._authentication.prove(request.claim)).record
            await self._faults.meet(request)
            if record is None:
                raise record_not_found(request.claim.registration_id)
        except MusterError as error:
            await self.refusals.refuse(request, error)
            raise
        return record

    async def check(self, request: RegisterRequest) -> None:
        """Check that a device proves itself, for transports that let it in or not.

        Raises:
            InvalidArgumentError: the registration ID breaks the rule.
            RefusalError: the device did not prove itself.
        """
        try:
            await self._authentication.prove(request.claim)
        except MusterError as error:
            await self.refusals.refuse(request, error)
            raise

    @contextlib.asynccontextmanager
    async def turn(self, registration_id: str) -> AsyncIterator[None]:
        """Keep a device from registering while its entry is changed.

        What a remote hub is working on goes on; see `settled`.
        """
        with self._turns.join(registration_key(registration_id)) as turn:
            async with turn.lock:
                try:
                    yield
                finally:
                    turn.changes += 1

    async def settled(self, registration_id: str) -> None:
        """Wait until no hub works on a device any more."""
        turn = self._turns.find(registration_key(registration_id))
        if turn is not None and turn.work is not None:
            await asyncio.wait([turn.work[1]])

    # Within.

    @property
    def _changes(self) -> int:
        """Grows whenever an operator changes what an outcome depends on."""
        return self._enrollments.changes + self._groups.changes + self.records.deletions

    async def _decide(
        self, request: RegisterRequest, proof: Proof, turn: Turn, operation_id: str
    ) -> RegistrationRecord | None:
        """Give a device that proved itself its outcome, and write that down.

        Returns nothing when a remote hub works on it, or has.
        """
        if not proof.entry.enabled:
            check = "group-disabled" if proof.group_id else "enrollment-disabled"
            record = self._changed(request, proof, status=model.DISABLED)
            facts: dict[str, Fact] = {"entry": proof.entry_name, "group": proof.group_id}
            await self._finish(request, record, check, facts)
            return record
        choice = self._assignment.choose(request, proof)
        if choice.hub is None:
            record = self._changed(
                request,
                proof,
                status=model.FAILED,
                error_code=NO_HUB,
                error_message="No IoT hub is available for the device.",
            )
            await self._finish(request, record, "no-hub-available", choice.facts)
            return record
        work = self._assign(request, proof, choice.hub, choice.facts)
        if choice.hub.local:
            return await work
        await self._patiently(work, turn, operation_id)
        return None

    async def _assign(
        self, request: RegisterRequest, proof: Proof, hub: LinkedHub, facts: dict[str, Fact]
    ) -> RegistrationRecord:
        """Make the device's identity in its hub, moving it there when it has another one."""
        device = self._assignment.device(request, proof)
        facts = {**facts, "hub": hub.host, "key": f"the {proof.slot} key"}
        substatus = self._assignment.substatus(proof, hub)
        record = self._changed(
            request,
            proof,
            status=model.ASSIGNED,
            substatus=substatus,
            assigned_hub=hub.host,
            first_hub=(proof.record and proof.record.first_hub) or hub.host,
            device_id=device.device_id,
        )
        putting = self.records.putting(record)
        try:
            written = await self._assignment.settle(proof, hub, device, [putting])
        except MusterError as error:
            _log.warning(
                "hub refused a device",
                hub=hub.host,
                registration_id=request.claim.registration_id,
                reason=error.message,
            )
            # A hub's own error as the real service hands it on (dps.md 3.6).
            nested = {
                "Message": f"ErrorCode:{error.code};{error.message}",
                "ExceptionMessage": f"Tracking ID:{request.tracking_id}",
            }
            record = self._changed(
                request,
                proof,
                status=model.FAILED,
                error_code=HUB_REFUSED,
                error_message=_encode(nested).decode(),
            )
            ours = isinstance(error, InvalidArgumentError)
            check = "invalid-identity" if ours else "hub-refused"
            await self._finish(request, record, check, {**facts, "reason": error.message})
            return record
        facts["substatus"] = substatus
        await self._finish(request, record, "assigned", facts, written=written)
        return record

    async def _patiently(
        self, work: Coroutine[Any, Any, object], turn: Turn, operation_id: str
    ) -> None:
        """Let a remote hub work; when it takes longer than a moment, do not wait for it."""
        if self._working >= _MAX_WORKING:
            work.close()
            raise ThrottledError(
                "The hub is busy; try again later.", retry_after_s=_BUSY_RETRY_S, code="hub-busy"
            )

        async def carry_out() -> None:
            try:
                await work
            finally:
                turn.work = None
                turn.changes += 1
                self._turns.leave(turn)
                self._working -= 1

        self._working += 1
        self._turns.enter(turn.key)
        task = spawn(carry_out(), "assignment")
        turn.work = operation_id, task
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
            "assigned_hub": old.assigned_hub if old else None,
            "first_hub": old.first_hub if old else None,
            "device_id": old.device_id if old else None,
        }
        return RegistrationRecord(**(values | changes))

    async def _finish(
        self,
        request: RegisterRequest,
        record: RegistrationRecord,
        check: str,
        facts: dict[str, Fact],
        *,
        written: bool = False,
    ) -> None:
        """Write the record unless that is done, then take the decision down."""
        if not written:
            await self.records.put(record)
        self._decisions.record(request.decided(record.updated_at, record.status, check, facts))
