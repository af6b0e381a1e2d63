"""Revoking one device at once, and undoing it.

A revoked device cannot register (its entry is disabled), cannot connect (its identity is disabled)
and is not connected any more (its sessions are dropped). A member of a group is barred by a
disabled individual enrollment with its registration ID, as an operator of the real service would do
it (dps.md 4.2). What was there before is kept, so that `restore` undoes exactly this.

Order: the entry is disabled first, in the device's turn, so that no registration can follow; then
whatever identity there is by then. Each step is written down before the next, and every step can be
done again: a revocation that broke off is completed by repeating it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, cast

import msgspec
import structlog

from muster.clock import Clock
from muster.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    PreconditionFailedError,
)
from muster.ids import registration_key
from muster.model.enrollment import (
    DISABLED,
    SYMMETRIC_KEY,
    AttestationMechanism,
    IndividualEnrollment,
)
from muster.model.registration import RegistrationRecord
from muster.provisioning.enrollments import Enrollments
from muster.provisioning.entries import Stored
from muster.provisioning.etags import ANY
from muster.provisioning.hubs import LinkedHubs
from muster.provisioning.registrations import Registrations
from muster.store.engine import Engine, Statement
from muster.store.queries import load

INDIVIDUAL: Final = "individual"
GROUP: Final = "group"

_ATTEMPTS: Final = 8
_SQL = load("revocations")
_encode = msgspec.json.Encoder().encode
_log = structlog.get_logger(__name__)


class Revocation(msgspec.Struct, rename="camel"):
    """One revoked device.

    Attributes:
        registration_id: of the device.
        entry: `individual` or `group`: what it registered through.
        revoked_at: when.
        reason: what the operator gave.
        provisioning_status: of the individual enrollment before.
        hub: where its identity is; `None` when it never registered.
        device_id: the identity.
        device_was_enabled: whether the identity was enabled before; `None` until that is known,
            and the identity is not touched before.
        device_disabled: whether the identity is disabled.
        sessions_dropped: how many live sessions it had.
    """

    registration_id: str
    entry: str
    revoked_at: datetime
    reason: str = ""
    provisioning_status: str | None = None
    hub: str | None = None
    device_id: str | None = None
    device_was_enabled: bool | None = None
    device_disabled: bool = False
    sessions_dropped: int = 0


_DECODER = msgspec.json.Decoder(Revocation)


class Revocations:
    """Revokes and restores."""

    def __init__(
        self,
        engine: Engine,
        enrollments: Enrollments,
        registrations: Registrations,
        hubs: LinkedHubs,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._enrollments = enrollments
        self._registrations = registrations
        self._hubs = hubs
        self._clock = clock

    async def all(self) -> list[Revocation]:
        """Return every revocation that is in force."""
        rows = await self._engine.read(_SQL["all"], {})
        return [_DECODER.decode(cast("bytes", row[0])) for row in rows]

    async def find(self, registration_id: str) -> Revocation | None:
        """Return a revocation that is in force, or `None`."""
        rows = await self._engine.read(_SQL["get"], {"key": registration_key(registration_id)})
        return _DECODER.decode(cast("bytes", rows[0][0])) if rows else None

    async def revoke(self, registration_id: str, reason: str) -> Revocation:
        """Revoke a device; again does no harm, and completes what broke off.

        Raises:
            NotFoundError: neither an enrollment nor a registration record has this ID.
            MusterError: its hub cannot be reached; the entry is disabled all the same.
        """
        known = await self._block(registration_id, reason)
        _log.warning("device revoked", registration_id=known.registration_id, reason=reason)
        # A hub elsewhere may be making the identity at this moment.
        await self._registrations.settled(registration_id)
        record = await self._registrations.records.find(registration_id)
        if record is not None and (record.assigned_hub, record.device_id) != (
            known.hub,
            known.device_id,
        ):
            known.hub, known.device_id = record.assigned_hub, record.device_id
            known.device_was_enabled = None
            known.device_disabled = False
        await self._disable_identity(known)
        return known

    async def restore(self, registration_id: str) -> Revocation:
        """Undo a revocation.

        An entry that somebody enabled meanwhile, and an identity that was disabled before, stay as
        they are.

        Raises:
            NotFoundError: the device is not revoked; code `revocation-not-found`.
            MusterError: its hub cannot be reached; the device stays revoked.
        """
        known = await self.find(registration_id)
        if known is None:
            raise NotFoundError(
                f"'{registration_id}' is not revoked",
                code="revocation-not-found",
                subject=registration_id,
            )
        hub = self._hubs.find(known.hub)
        if hub is not None and known.device_id and known.device_was_enabled:
            await hub.set_enabled(known.device_id, enabled=True, reason="")
            known.device_disabled = False
        async with self._registrations.turn(registration_id):
            for _ in range(_ATTEMPTS):
                present = await self._enrollments.find(registration_id)
                forget = Statement(_SQL["delete"], {"key": registration_key(registration_id)})
                try:
                    await self._engine.write(*self._unblocked(known, present), forget)
                except PreconditionFailedError:
                    continue
                _log.warning("device restored", registration_id=known.registration_id)
                return known
        raise _changing(registration_id)

    async def _block(self, registration_id: str, reason: str) -> Revocation:
        """Disable the entry and remember what was, in one write."""
        async with self._registrations.turn(registration_id):
            for _ in range(_ATTEMPTS):
                known = await self.find(registration_id)
                present = await self._enrollments.find(registration_id)
                if known is not None and present is not None and not present.entry.enabled:
                    return known
                record = await self._registrations.records.find(registration_id)
                known = self._planned(registration_id, reason, present, record, known)
                entry = (
                    msgspec.structs.replace(present.entry, provisioning_status=DISABLED)
                    if present is not None
                    else IndividualEnrollment(
                        registration_id=known.registration_id,
                        attestation=AttestationMechanism(SYMMETRIC_KEY),
                        provisioning_status=DISABLED,
                    )
                )
                change = self._enrollments.plan_put(entry, present, ANY if present else None)
                try:
                    await self._engine.write(change.statement, _remember(known, "put"))
                except (PreconditionFailedError, AlreadyExistsError):
                    continue
                return known
        raise _changing(registration_id)

    def _planned(
        self,
        registration_id: str,
        reason: str,
        present: Stored[IndividualEnrollment] | None,
        record: RegistrationRecord | None,
        known: Revocation | None,
    ) -> Revocation:
        """Return what is to be remembered when the entry is disabled now."""
        if present is None and record is None:
            raise NotFoundError(
                f"Nothing is known of '{registration_id}': no enrollment and no registration",
                code="registration-not-found",
                subject=registration_id,
            )
        planned = Revocation(
            registration_id=record.registration_id if record else registration_id,
            entry=INDIVIDUAL if present else GROUP,
            revoked_at=self._clock.now(),
            reason=reason,
            provisioning_status=present.entry.provisioning_status if present else None,
            hub=record.assigned_hub if record else None,
            device_id=record.device_id if record else None,
        )
        if known is not None and (known.hub, known.device_id) == (planned.hub, planned.device_id):
            # Somebody enabled the entry of a revoked device: the identity's past stays known.
            planned.device_was_enabled = known.device_was_enabled
        return planned

    def _unblocked(
        self, known: Revocation, present: Stored[IndividualEnrollment] | None
    ) -> list[Statement]:
        """Return what gives the entry its former state back."""
        if present is None or present.entry.enabled:
            return []
        if known.entry == GROUP:
            return [self._enrollments.plan_delete(known.registration_id, present, None).statement]
        entry = msgspec.structs.replace(
            present.entry, provisioning_status=known.provisioning_status
        )
        return [self._enrollments.plan_put(entry, present, ANY).statement]

    async def _disable_identity(self, known: Revocation) -> None:
        hub = self._hubs.find(known.hub)
        if hub is None or not known.device_id:
            return
        if known.device_was_enabled is None:
            known.device_was_enabled = await hub.is_enabled(known.device_id)
            await self._engine.write(_remember(known, "update"))
        if known.device_was_enabled is None:
            return
        if known.device_was_enabled:
            dropped = await hub.set_enabled(
                known.device_id, enabled=False, reason=f"revoked: {known.reason}"[:128]
            )
            known.sessions_dropped += dropped or 0
        known.device_disabled = True
        await self._engine.write(_remember(known, "update"))


def _remember(revocation: Revocation, name: str) -> Statement:
    # `update` leaves alone what was forgotten meanwhile, with the enrollment it was about.
    return Statement(
        _SQL[name],
        {"key": registration_key(revocation.registration_id), "document": _encode(revocation)},
    )


def _changing(registration_id: str) -> ConflictError:
    return ConflictError(
        "The enrollment is being changed by others all the time.",
        code="concurrent-update",
        subject=registration_id,
    )
