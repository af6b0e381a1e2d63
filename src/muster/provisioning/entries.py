"""What can be done with enrollments of either kind: individual ones and groups.

Rules of dps.md 3.2 and 3.3: a PUT without `If-Match` creates and never overwrites; keys are made
when absent and kept when left out of an update; reading hides them. `enrollments.py` and
`enrollment_groups.py` say what is particular to each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from muster.auth import symmetric_keys
from muster.auth.keyring import Keyring
from muster.auth.symmetric_keys import SymmetricKeys
from muster.clock import Clock
from muster.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    MusterError,
    NotFoundError,
    PreconditionFailedError,
)
from muster.ids import Randomness, check_device_id, check_registration_id, registration_key
from muster.model import enrollment as model
from muster.model.enrollment import Entry, IndividualEnrollment
from muster.provisioning import allocation, attestation, etags
from muster.provisioning.turns import Turns
from muster.store.engine import Engine, Query, Row, Statement
from muster.store.queries import Queries

E = TypeVar("E", bound=Entry)

MAX_BULK: Final = 10
"""Items of one official bulk call (dps.md 3.3)."""
MAX_IMPORT: Final = 1_000
"""Items of one administrative import."""

_STATIC: Final = "static"
_ATTEMPTS: Final = 8
"""Times a write is tried against others that change the same entry."""
_Plan = Callable[["Stored[E] | None"], "Change[E]"]


class Stored(msgspec.Struct, Generic[E]):
    """An entry as the database has it: the document without keys, and the keys."""

    entry: E
    keys: SymmetricKeys


class Change(msgspec.Struct, Generic[E]):
    """What a write does to one entry. `after` is `None` for a deletion."""

    key: str
    statement: Statement
    after: Stored[E] | None


class Entries(Generic[E]):
    """The entries of one kind.

    Args:
        type_: `IndividualEnrollment` or `EnrollmentGroup`.
        what: the kind in words, for messages.
        id_field: JSON name of the ID.
        sql: the statements of its table.
        engine: where it is kept.
        keyring: seals the keys.
        clock: for the time stamps.
        randomness: for keys and etags.

    Attributes:
        changes: grows with every write.
    """

    def __init__(
        self,
        *,
        type_: type[E],
        what: str,
        id_field: str,
        sql: Queries,
        engine: Engine,
        keyring: Keyring,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self.what = what
        self.id_field = id_field
        self._decoder = msgspec.json.Decoder(type_)
        self._encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
        # IDs keep the spelling they were made with (dps.md 2.3).
        self._id_name = next(
            field.name for field in msgspec.structs.fields(type_) if field.encode_name == id_field
        )
        self._sql = sql
        self._engine = engine
        self._keyring = keyring
        self._clock = clock
        self._randomness = randomness
        self._turns = Turns()
        self.changes = 0

    async def get(self, entry_id: str) -> Stored[E]:
        """Return an entry.

        Raises:
            NotFoundError: code `enrollment-not-found`.
        """
        found = await self.find(entry_id)
        if found is None:
            raise self.not_found(entry_id)
        return found

    async def find(self, entry_id: str) -> Stored[E] | None:
        """Return an entry, or `None`."""
        key = registration_key(entry_id)
        rows = await self._engine.read(self._sql["get"], {"key": key})
        return self.stored(key, rows[0]) if rows else None

    async def put(self, entry: E, if_match: str | None) -> Stored[E]:
        """Create an entry, or update it under a condition.

        Args:
            entry: what the caller wants; read-only fields are ignored.
            if_match: `None` creates; `*` or an etag updates.

        Raises:
            InvalidArgumentError: a field breaks a rule.
            AlreadyExistsError: create, and it exists; code `enrollment-exists`.
            NotFoundError: update, and it does not exist.
            PreconditionFailedError: update, and the etag is another.
        """
        change = await self._carry_out(
            entry.entry_id, lambda present: self.plan_put(entry, present, if_match)
        )
        return cast("Stored[E]", change.after)

    async def delete(self, entry_id: str, if_match: str | None) -> None:
        """Delete an entry; without a condition, whatever its etag.

        Raises:
            NotFoundError: it does not exist.
            PreconditionFailedError: the etag is another.
        """
        await self._carry_out(
            entry_id, lambda present: self.plan_delete(entry_id, present, if_match)
        )

    async def bulk(self, mode: str, entries: Sequence[E]) -> list[MusterError | None]:
        """Create, update or delete many; each succeeds or fails by itself.

        Args:
            mode: create, update, updateIfMatchETag, createOrUpdate or delete.
            entries: any number; callers set the limit.

        Returns:
            One result per entry, in order: `None`, or why not.

        Raises:
            InvalidArgumentError: unknown mode.
        """
        plan = self._mode(mode)
        present = await self._among([each.entry_id for each in entries])
        results: list[MusterError | None] = []
        changes: dict[str, Change[E]] = {}
        asked: dict[str, tuple[int, E]] = {}
        for index, entry in enumerate(entries):
            key = registration_key(entry.entry_id)
            try:
                if key in changes:
                    raise InvalidArgumentError(
                        f"{entry.entry_id} occurs twice in one call", code="duplicate-entry"
                    )
                changes[key] = plan(entry, present.get(key))
                asked[key] = index, entry
                results.append(None)
            except MusterError as error:
                results.append(error)
        if not changes:
            return results
        try:
            await self.apply(list(changes.values()))
        except (AlreadyExistsError, PreconditionFailedError):
            # Somebody changed one of them meanwhile, so nothing was written: one by one.
            for index, entry in asked.values():
                try:
                    await self._carry_out(entry.entry_id, partial(plan, entry))
                except MusterError as error:
                    results[index] = error
        return results

    async def apply(self, changes: Sequence[Change[E]]) -> None:
        """Write planned changes, all or none; subclasses keep their caches here."""
        await self._write(*(change.statement for change in changes))

    async def _write(self, *statements: Statement) -> None:
        try:
            await self._engine.write(*statements)
        finally:
            # Also when it failed, or seems to: a cancelled write may have happened.
            self.changes += 1

    async def page(self, query: Query, after: str, limit: int) -> list[Row]:
        """Read one page and one row more."""
        return await self._engine.read(query, {"after": after, "limit": limit + 1})

    def stored(self, key: str, row: Sequence[object]) -> Stored[E]:
        """Read an entry from its `keys` and `document` columns."""
        sealed, document = cast("tuple[bytes, bytes]", tuple(row[:2]))
        primary, _, secondary = self._keyring.open(sealed, self._context(key)).partition(" ")
        return Stored(self._decoder.decode(document), SymmetricKeys(primary, secondary))

    def not_found(self, entry_id: str) -> NotFoundError:
        """Return the error for an entry that does not exist."""
        return NotFoundError(
            f"{self.what[0].upper()}{self.what[1:]} not found.",
            code="enrollment-not-found",
            subject=entry_id,
        )

    def plan_put(self, entry: E, present: Stored[E] | None, if_match: str | None) -> Change[E]:
        """Decide what a PUT would write; raises as `put`."""
        check_registration_id(entry.entry_id, self.id_field)
        exists = AlreadyExistsError(
            f"{self.what[0].upper()}{self.what[1:]} already exists.",
            code="enrollment-exists",
            subject=entry.entry_id,
        )
        if present is None:
            if if_match is not None:
                raise self.not_found(entry.entry_id)
        elif if_match is None:
            raise exists
        elif not etags.matches(if_match, present.entry.etag or ""):
            raise _etag_mismatch(entry.entry_id)
        after = self._normal(entry, present)
        key = registration_key(entry.entry_id)
        params = {
            "key": key,
            "etag": after.entry.etag,
            # A space never occurs in base64.
            "keys": self._keyring.seal(
                f"{after.keys.primary} {after.keys.secondary}", self._context(key)
            ),
            "document": self._encode(after.entry),
        }
        if present is None:
            statement = Statement(self._sql["insert"], params, expect=1, otherwise=exists)
        else:
            statement = Statement(
                self._sql["update"],
                {**params, "old_etag": present.entry.etag},
                expect=1,
                otherwise=_etag_mismatch(entry.entry_id),
            )
        return Change(key, statement, after)

    def plan_delete(
        self, entry_id: str, present: Stored[E] | None, if_match: str | None
    ) -> Change[E]:
        """Decide what a DELETE would write; raises as `delete`."""
        if present is None:
            raise self.not_found(entry_id)
        if if_match is not None and not etags.matches(if_match, present.entry.etag or ""):
            raise _etag_mismatch(entry_id)
        key = registration_key(entry_id)
        statement = Statement(
            self._sql["delete"],
            {"key": key, "old_etag": present.entry.etag},
            expect=1,
            otherwise=_etag_mismatch(entry_id),
        )
        return Change(key, statement, None)

    async def _carry_out(self, entry_id: str, plan: _Plan[E]) -> Change[E]:
        """Read, decide and write; when somebody else was quicker, decide again on what is there.

        Only the plan says no for good: `*` and an unconditional deletion lose no race. Here one
        waits for the other; bulk calls and other processes do not, hence the attempts.
        """
        with self._turns.join(registration_key(entry_id)) as turn:
            for _ in range(_ATTEMPTS):
                async with turn.lock:
                    change = plan(await self.find(entry_id))
                    with contextlib.suppress(AlreadyExistsError, PreconditionFailedError):
                        await self.apply([change])
                        return change
        raise ConflictError(
            f"The {self.what} is being changed by others all the time.",
            code="concurrent-update",
            subject=entry_id,
        )

    async def _among(self, ids: Sequence[str]) -> dict[str, Stored[E]]:
        keys = self._encode([registration_key(each) for each in ids]).decode()
        rows = await self._engine.read(self._sql["among"], {"keys": keys})
        return {str(row[0]): self.stored(str(row[0]), row[1:]) for row in rows}

    def _mode(self, mode: str) -> Callable[[E, Stored[E] | None], Change[E]]:
        modes: dict[str, Callable[[E, Stored[E] | None], Change[E]]] = {
            "create": lambda entry, present: self.plan_put(entry, present, None),
            "update": lambda entry, present: self.plan_put(entry, present, etags.ANY),
            "updateifmatchetag": lambda entry, present: self.plan_put(
                entry, present, entry.etag or ""
            ),
            "createorupdate": lambda entry, present: self.plan_put(
                entry, present, None if present is None else etags.ANY
            ),
            "delete": lambda entry, present: self.plan_delete(entry.entry_id, present, None),
        }
        plan = modes.get(mode.lower())
        if plan is None:
            raise InvalidArgumentError(
                f"Unknown mode '{mode}': create, update, updateIfMatchETag or delete",
                code="invalid-bulk-mode",
            )
        return plan

    def _normal(self, entry: E, present: Stored[E] | None) -> Stored[E]:
        """Check an entry and fill in what the service decides."""
        attestation.check(entry.attestation)
        _check_choices(entry)
        now = self._clock.now()
        keys = self._keys(entry, present)
        hubs, policy = entry.iot_hubs, _known_policy(entry.allocation_policy)
        single = entry.iot_hub_host_name or None
        known = present is not None and present.entry.iot_hub_host_name == single
        if single and not (known and (hubs or policy)):
            # The single hub of the old API is the static policy of the new one (dps.md 3.2).
            hubs, policy = [single], _STATIC
        elif hubs != [single]:
            # An old client's echo of it, beside newer fields that say something else by now.
            single = None
        document = msgspec.structs.replace(
            entry,
            **({self._id_name: present.entry.entry_id} if present else {}),
            iot_hub_host_name=single,
            attestation=model.AttestationMechanism(entry.attestation.type),
            capabilities=entry.capabilities or model.Capabilities(),
            etag=self._randomness.etag(),
            provisioning_status=entry.provisioning_status or model.ENABLED,
            created_date_time_utc=present.entry.created_date_time_utc if present else now,
            last_updated_date_time_utc=now,
            allocation_policy=policy,
            iot_hubs=hubs,
        )
        return Stored(document, keys)

    def _keys(self, entry: E, present: Stored[E] | None) -> SymmetricKeys:
        given = entry.attestation.symmetric_key or model.SymmetricKeyAttestation()
        made = present.keys if present else symmetric_keys.generate(self._randomness)
        for key in (given.primary_key, given.secondary_key):
            if key:
                symmetric_keys.decode(key)
        return SymmetricKeys(
            given.primary_key or made.primary, given.secondary_key or made.secondary
        )

    def _context(self, key: str) -> str:
        return f"{self._sql.noun}:{key}"


def _etag_mismatch(entry_id: str) -> PreconditionFailedError:
    return PreconditionFailedError("Precondition failed.", code="etag-mismatch", subject=entry_id)


def _check_choices(entry: Entry) -> None:
    if entry.provisioning_status not in (None, model.ENABLED, model.DISABLED):
        raise InvalidArgumentError(
            f"provisioningStatus must be {model.ENABLED} or {model.DISABLED}",
            code="invalid-provisioning-status",
        )
    for host in (*(entry.iot_hubs or ()), entry.iot_hub_host_name or "hub"):
        if not host or len(host) > 253:
            raise InvalidArgumentError("iotHubs must be host names", code="invalid-host")
    if isinstance(entry, IndividualEnrollment) and entry.device_id:
        check_device_id(entry.device_id)


def _known_policy(name: str | None) -> str | None:
    """Return a policy's own spelling; clients send any case (dps.md 8)."""
    if name is None:
        return None
    found = allocation.find(name)
    if found is None:
        known = ", ".join(policy.name for policy in allocation.BUILT_IN)
        raise InvalidArgumentError(
            f"The allocation policy '{name[:64]}' is not supported yet; supported are: {known}",
            code="unsupported-allocation-policy",
        )
    return found.name
