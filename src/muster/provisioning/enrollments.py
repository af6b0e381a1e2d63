"""Individual enrollments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from muster.auth.keyring import Keyring
from muster.clock import Clock
from muster.ids import Randomness, registration_key
from muster.model.enrollment import IndividualEnrollment
from muster.model.paging import Page
from muster.model.registration import RegistrationRecord
from muster.provisioning.entries import Change, Entries, Stored
from muster.provisioning.paging import after, cut
from muster.store.engine import Engine, Statement
from muster.store.queries import load

_SQL = load("enrollments")
_REGISTRATIONS = load("registrations")
_REVOCATIONS = load("revocations")
_RECORD = msgspec.json.Decoder(RegistrationRecord)


class Enrolled(msgspec.Struct):
    """What is known of a registration ID: its own enrollment and its record, if any."""

    stored: Stored[IndividualEnrollment] | None
    record: RegistrationRecord | None


class Enrollments(Entries[IndividualEnrollment]):
    """All individual enrollments.

    Deleting one deletes its registration record and its revocation with it. The record of a device
    that registered through a group stays, like all of that group (dps.md 4.6).
    """

    def __init__(
        self, engine: Engine, keyring: Keyring, clock: Clock, randomness: Randomness
    ) -> None:
        super().__init__(
            type_=IndividualEnrollment,
            what="enrollment",
            id_field="registrationId",
            sql=_SQL,
            engine=engine,
            keyring=keyring,
            clock=clock,
            randomness=randomness,
        )

    async def for_registration(self, registration_id: str) -> Enrolled:
        """Return all that a registration needs to know, in one read."""
        key = registration_key(registration_id)
        ((sealed, document, record),) = await self._engine.read(
            _SQL["for_registration"], {"key": key}
        )
        return Enrolled(
            self.stored(key, (sealed, document)) if document is not None else None,
            _RECORD.decode(cast("bytes", record)) if record is not None else None,
        )

    async def neighbours(
        self, registration_id: str, count: int
    ) -> list[Stored[IndividualEnrollment]]:
        """Return up to `count` enrollments before an ID and as many after it, in two reads."""
        key, found = registration_key(registration_id), []
        for name in ("before", "behind"):
            rows = await self._engine.read(_SQL[name], {"key": key, "limit": count})
            found += [self.stored(str(row[0]), row[1:]) for row in rows]
        return found

    async def query(
        self, continuation: str | None, size: int
    ) -> Page[tuple[Stored[IndividualEnrollment], RegistrationRecord | None]]:
        """Return a page of enrollments with their registration records.

        Raises:
            InvalidArgumentError: the continuation is not one of ours.
        """
        rows = await self.page(_SQL["page"], after(continuation), size)
        return cut(
            [str(row[0]) for row in rows],
            [
                (
                    self.stored(str(row[0]), row[1:3]),
                    _RECORD.decode(cast("bytes", row[3])) if row[3] is not None else None,
                )
                for row in rows
            ],
            size,
        )

    async def apply(self, changes: Sequence[Change[IndividualEnrollment]]) -> None:
        """Write changes; what depends on a deleted enrollment goes with it."""
        gone = [{"key": change.key} for change in changes if change.after is None]
        more = [
            Statement(_REGISTRATIONS["delete_individual"], gone),
            Statement(_REVOCATIONS["delete"], gone),
        ]
        await self._write(*(change.statement for change in changes), *(more if gone else ()))
