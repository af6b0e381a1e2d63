"""Registration records: read, query, delete (dps.md 3.4, 4.6). `registrations.py` writes them."""

from __future__ import annotations

from typing import Final, cast

import msgspec

from muster.errors import NotFoundError, PreconditionFailedError
from muster.ids import registration_key
from muster.model.paging import Page
from muster.model.registration import RegistrationRecord
from muster.provisioning import etags
from muster.provisioning.paging import after, cut
from muster.store.engine import Engine, Statement
from muster.store.queries import load

_SQL = load("registrations")
_DECODER: Final = msgspec.json.Decoder(RegistrationRecord)
_encode = msgspec.json.Encoder().encode


class Records:
    """What became of every device that proved itself. Records are made by registering only.

    Attributes:
        deletions: grows with every deletion.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.deletions = 0

    async def get(self, registration_id: str) -> RegistrationRecord:
        """Return a record.

        Raises:
            NotFoundError: code `registration-not-found`.
        """
        found = await self.find(registration_id)
        if found is None:
            raise record_not_found(registration_id)
        return found

    async def find(self, registration_id: str) -> RegistrationRecord | None:
        """Return a record, or `None`."""
        rows = await self._engine.read(_SQL["get"], {"key": registration_key(registration_id)})
        return _DECODER.decode(cast("bytes", rows[0][0])) if rows else None

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
        records = [_DECODER.decode(cast("bytes", row[1])) for row in rows]
        return cut([str(row[0]) for row in rows], records, size)

    async def put(self, record: RegistrationRecord) -> None:
        """Write the latest outcome of a registration ID."""
        await self._engine.write(self.putting(record))

    def putting(self, record: RegistrationRecord) -> Statement:
        """Return the step of `put`, for one who has more to write with it."""
        return Statement(
            _SQL["put"],
            {
                "key": registration_key(record.registration_id),
                "etag": record.etag,
                "group_key": registration_key(record.group_id) if record.group_id else None,
                "document": _encode(record),
            },
        )

    async def delete(self, registration_id: str, if_match: str | None) -> None:
        """Delete a record; the identity in the hub stays (dps.md 4.6).

        Raises:
            NotFoundError: code `registration-not-found`.
            PreconditionFailedError: the etag is another.
        """
        key = registration_key(registration_id)
        if if_match is None or etags.plain(if_match) == etags.ANY:
            await self._delete(
                Statement(
                    _SQL["delete"],
                    {"key": key},
                    expect=1,
                    otherwise=record_not_found(registration_id),
                )
            )
            return
        record = await self.get(registration_id)
        mismatch = PreconditionFailedError(
            "Precondition failed.", code="etag-mismatch", subject=registration_id
        )
        if not etags.matches(if_match, record.etag):
            raise mismatch
        await self._delete(
            Statement(
                _SQL["delete_etag"],
                {"key": key, "etag": record.etag},
                expect=1,
                otherwise=mismatch,
            )
        )

    async def _delete(self, statement: Statement) -> None:
        try:
            await self._engine.write(statement)
        finally:
            self.deletions += 1


def record_not_found(registration_id: str) -> NotFoundError:
    """Return the error for a registration ID without a record."""
    return NotFoundError(
        "Registration not found.", code="registration-not-found", subject=registration_id
    )
