"""Revoking one device at once, and undoing it.

A revoked device cannot register (its entry is disabled), cannot connect (its identity is disabled)
and is not connected any more (its sessions are dropped). A member of a group is barred by a
disabled individual enrollment with its registration ID, as an operator of the real service would do
it (dps.md 4.2). What was there before is kept, so that `restore` undoes exactly this.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from muster.clock import Clock
from muster.errors import ConflictError, NotFoundError
from muster.ids import registration_key
from muster.model.enrollment import (
    DISABLED,
    SYMMETRIC_KEY,
    AttestationMechanism,
    IndividualEnrollment,
)
from muster.provisioning.enrollments import Enrollments
from muster.provisioning.etags import ANY
from muster.provisioning.hubs import LinkedHubs
from muster.provisioning.registrations import Registrations
from muster.store.engine import Engine, Statement
from muster.store.queries import load

INDIVIDUAL: Final = "individual"
GROUP: Final = "group"

_SQL = load("revocations")
_encode = msgspec.json.Encoder().encode


class Revocation(msgspec.Struct, rename="camel", omit_defaults=True):
    """One revoked device.

    Attributes:
        registration_id: of the device.
        entry: `individual` or `group`: what it registered through.
        revoked_at: when.
        reason: what the operator gave.
        provisioning_status: of the individual enrollment before.
        hub: where its identity is; absent when it never registered.
        device_id: the identity.
        device_disabled: whether the identity was disabled by this.
        sessions_dropped: how many live sessions it had.
    """

    registration_id: str
    entry: str
    revoked_at: datetime
    reason: str = ""
    provisioning_status: str | None = None
    hub: str | None = None
    device_id: str | None = None
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
        return [_DECODER.decode(row[0]) for row in rows]  # type: ignore[arg-type]

    async def find(self, registration_id: str) -> Revocation | None:
        """Return a revocation that is in force, or `None`."""
        rows = await self._engine.read(_SQL["get"], {"key": registration_key(registration_id)})
        return _DECODER.decode(rows[0][0]) if rows else None  # type: ignore[arg-type]

    async def revoke(self, registration_id: str, reason: str) -> Revocation:
        """Revoke a device; again does no harm.

        Raises:
            NotFoundError: neither an enrollment nor a registration record has this ID.
            MusterError: its hub cannot be reached; the entry is disabled all the same.
        """
        known = await self.find(registration_id)
        if known is None:
            known = await self._block(registration_id, reason)
        if known.hub and known.device_id:
            hub = self._hubs.find(known.hub)
            if hub is not None:
                dropped = await hub.set_enabled(
                    known.device_id, enabled=False, reason=f"revoked: {reason}"[:128]
                )
                known.device_disabled = dropped is not None
                known.sessions_dropped = dropped or 0
        return known

    async def restore(self, registration_id: str) -> Revocation:
        """Undo a revocation.

        Raises:
            NotFoundError: the device is not revoked; code `revocation-not-found`.
        """
        known = await self.find(registration_id)
        if known is None:
            raise NotFoundError(
                f"'{registration_id}' is not revoked",
                code="revocation-not-found",
                subject=registration_id,
            )
        present = await self._enrollments.find(registration_id)
        statements = [Statement(_SQL["delete"], {"key": registration_key(registration_id)})]
        if present is not None and known.entry == GROUP:
            # Not through `Enrollments.apply`: the device's registration record stays.
            change = self._enrollments.plan_delete(registration_id, present, None)
            statements.append(change.statement)
        elif present is not None:
            entry = msgspec.structs.replace(
                present.entry, provisioning_status=known.provisioning_status
            )
            statements.append(self._enrollments.plan_put(entry, present, ANY).statement)
        if known.hub and known.device_id:
            hub = self._hubs.find(known.hub)
            if hub is not None:
                await hub.set_enabled(known.device_id, enabled=True, reason="")
        await self._engine.write(*statements)
        return known

    async def _block(self, registration_id: str, reason: str) -> Revocation:
        """Disable the entry and remember what was, in one write."""
        present = await self._enrollments.find(registration_id)
        record = await self._registrations.find(registration_id)
        if present is None and record is None:
            raise NotFoundError(
                f"Nothing is known of '{registration_id}': no enrollment and no registration",
                code="registration-not-found",
                subject=registration_id,
            )
        revocation = Revocation(
            registration_id=record.registration_id if record else registration_id,
            entry=INDIVIDUAL if present else GROUP,
            revoked_at=self._clock.now(),
            reason=reason,
            provisioning_status=present.entry.provisioning_status if present else None,
            hub=record.assigned_hub if record else None,
            device_id=record.device_id if record else None,
        )
        if present is not None:
            entry = msgspec.structs.replace(present.entry, provisioning_status=DISABLED)
        else:
            entry = IndividualEnrollment(
                registration_id=revocation.registration_id,
                attestation=AttestationMechanism(SYMMETRIC_KEY),
                provisioning_status=DISABLED,
            )
        change = self._enrollments.plan_put(entry, present, ANY if present else None)
        remember = Statement(
            _SQL["insert"],
            {"key": change.key, "document": _encode(revocation)},
            otherwise=ConflictError("The device is being revoked already", code="revoking"),
        )
        await self._engine.write(change.statement, remember)
        return revocation
