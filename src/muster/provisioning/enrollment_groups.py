"""Enrollment groups, kept in memory as well: any of them may have made a device's key.

A device never names its group (dps.md 0.2), so a first registration tries all of them. The decoded
keys are cached here and kept in step with every write of this instance.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from muster.auth import symmetric_keys
from muster.auth.keyring import Keyring
from muster.auth.symmetric_keys import SymmetricKeys
from muster.clock import Clock
from muster.ids import Randomness, registration_key
from muster.model.enrollment import EnrollmentGroup
from muster.model.paging import Page
from muster.provisioning.entries import Change, Entries, Stored
from muster.provisioning.paging import after, cut
from muster.store.engine import Engine
from muster.store.queries import load

_SQL = load("enrollment_groups")


class KnownGroup(msgspec.Struct, frozen=True):
    """A group and its decoded keys (primary, secondary)."""

    group: EnrollmentGroup
    keys: SymmetricKeys
    decoded: tuple[bytes, bytes]

    def __repr__(self) -> str:
        return f"KnownGroup({self.group.enrollment_group_id})"


class EnrollmentGroups(Entries[EnrollmentGroup]):
    """All enrollment groups. Deleting one keeps its registration records (dps.md 4.6)."""

    def __init__(
        self, engine: Engine, keyring: Keyring, clock: Clock, randomness: Randomness
    ) -> None:
        super().__init__(
            type_=EnrollmentGroup,
            what="enrollment group",
            id_field="enrollmentGroupId",
            sql=_SQL,
            engine=engine,
            keyring=keyring,
            clock=clock,
            randomness=randomness,
        )
        self._known: dict[str, KnownGroup] = {}

    async def open(self) -> None:
        """Load all groups; call once, before anything else."""
        for row in await self._engine.read(_SQL["all"], {}):
            key = str(row[0])
            self._know(key, self.stored(key, row[1:]))

    def known(self, group_id: str) -> KnownGroup | None:
        """Return a group from memory."""
        return self._known.get(registration_key(group_id))

    def all(self) -> list[KnownGroup]:
        """Return every group from memory."""
        return list(self._known.values())

    async def query(self, continuation: str | None, size: int) -> Page[Stored[EnrollmentGroup]]:
        """Return a page of groups.

        Raises:
            InvalidArgumentError: the continuation is not one of ours.
        """
        rows = await self.page(_SQL["page"], after(continuation), size)
        return cut(
            [str(row[0]) for row in rows],
            [self.stored(str(row[0]), row[1:3]) for row in rows],
            size,
        )

    async def apply(self, changes: Sequence[Change[EnrollmentGroup]]) -> None:
        """Write changes and follow them in memory."""
        await super().apply(changes)
        for change in changes:
            if change.after is None:
                self._known.pop(change.key, None)
            else:
                self._know(change.key, change.after)

    def _know(self, key: str, stored: Stored[EnrollmentGroup]) -> None:
        keys = stored.keys
        decoded = (symmetric_keys.decode(keys.primary), symmetric_keys.decode(keys.secondary))
        self._known[key] = KnownGroup(stored.entry, keys, decoded)
