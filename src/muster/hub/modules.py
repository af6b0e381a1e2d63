"""Module identities of a device: create, read, update, delete. Sources: hub-service.md 1.1, 1.2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

import msgspec
from msgspec import UNSET

from muster.errors import AlreadyExistsError, NotFoundError
from muster.hub import credentials, module_rows, twin_rows
from muster.hub.changes import IdentityChanged, IdentityEvent
from muster.hub.credentials import Credentials
from muster.hub.module_rows import Module
from muster.hub.registry import (
    ATTEMPTS,
    CERTIFICATE_WITHDRAWN,
    SQL,
    GenerationIds,
    LostRaceError,
    device_not_found,
    etag_mismatch,
    system_module_refused,
)
from muster.model import twin as twin_rules
from muster.model.identity import (
    SYSTEM_MODULES,
    AuthenticationType,
    IdentityRef,
    ModuleIdentity,
    ModuleRequest,
    Thumbprints,
    check_module_id,
    matches,
    new_etag,
)
from muster.store.engine import Statement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.auth.keyring import Keyring
    from muster.clock import Clock
    from muster.hub.changes import Changes
    from muster.hub.connections import Connections
    from muster.hub.presence import Presence
    from muster.ids import Randomness
    from muster.model.twin import JsonObject
    from muster.store.engine import Engine, Params, Row

_PresenceColumns: TypeAlias = tuple[int | None, float | None, float | None, float | None]
_ModuleColumns: TypeAlias = tuple[str, str, str, str, str | None, str, bytes | None]

_encode: Final = msgspec.json.Encoder().encode


@final
class Modules:
    """The modules of all devices.

    Args:
        engine: where they are kept.
        keyring: seals their keys.
        clock: for generation IDs.
        randomness: for keys and etags.
        connections: knows who is connected, and drops who may not be.
        changes: is told who came, changed and went.
    """

    def __init__(
        self,
        engine: Engine,
        keyring: Keyring,
        clock: Clock,
        randomness: Randomness,
        *,
        connections: Connections,
        changes: Changes,
    ) -> None:
        self._engine = engine
        self._keyring = keyring
        self._clock = clock
        self._randomness = randomness
        self._connections = connections
        self._changes = changes
        self._generations = GenerationIds(clock)

    async def of_device(self, hub: int, device_id: str) -> list[ModuleIdentity]:
        """Return all modules of a device.

        Raises:
            NotFoundError: there is no such device; code `device-not-found`.
        """
        names: dict[str, str | int] = {"hub": hub, "device_id": device_id}
        rows = await self._engine.read(SQL["list_modules"], names)
        if not rows and not await self._engine.read(SQL["parent_of"], names):
            raise device_not_found(device_id)
        return [self._shown(hub, row) for row in rows]

    async def of_devices(self, hub: int, device_ids: Sequence[str]) -> list[ModuleIdentity]:
        """Return all modules of some devices, in the order of both IDs."""
        params: Params = {"hub": hub, "device_ids": _encode(list(device_ids)).decode()}
        rows = await self._engine.read(SQL["list_modules_of"], params)
        shown = [self._shown(hub, row) for row in rows]
        return sorted(shown, key=lambda each: (each.device_id, each.module_id))

    async def get(self, ref: IdentityRef) -> ModuleIdentity:
        """Return a module.

        Raises:
            NotFoundError: codes `device-not-found`, `module-not-found`.
        """
        return self._shown(ref.hub, await self._row(ref))

    async def create(
        self,
        ref: IdentityRef,
        request: ModuleRequest,
        tags: JsonObject | None = None,
        desired: JsonObject | None = None,
    ) -> ModuleIdentity:
        """Create a module and its twin.

        Args:
            ref: which.
            request: what it is to be.
            tags: initial tags of its twin.
            desired: initial desired properties of its twin.

        Raises:
            NotFoundError: there is no such device; code `device-not-found`.
            AlreadyExistsError: code `module-exists`.
            UnauthorizedError: a system module of a device that is no edge device; code
                `system-module`.
            InvalidArgumentError: a value is wrong; `code` says which.
        """
        check_module_id(ref.module_id)
        if ref.module_id in SYSTEM_MODULES:
            await self._row(IdentityRef(ref.hub, ref.device_id, ref.module_id), system=True)
        module = Module(
            ref,
            self._generations.next(),
            new_etag(self._randomness),
            request.managed_by or None,
            credentials.wanted(request.authentication, None, self._randomness),
        )
        twin = twin_rules.new(tags, desired, self._clock.now())
        await self._engine.write(
            Statement(
                SQL["hold_device"],
                {"hub": ref.hub, "device_id": ref.device_id},
                expect=1,
                otherwise=device_not_found(ref.device_id),
            ),
            *module_rows.insertion(self._keyring, module, twin, _module_exists(ref)),
        )
        self._changes.publish(IdentityChanged(ref, IdentityEvent.CREATED, twin))
        return module.to_wire(self._connections.presence(ref, None, None, None, None))

    async def update(
        self, ref: IdentityRef, request: ModuleRequest, if_match: str
    ) -> ModuleIdentity:
        """Change a module. What the request leaves out stays.

        Raises:
            NotFoundError: codes `device-not-found`, `module-not-found`.
            PreconditionFailedError: the etag is another; code `etag-mismatch`.
            InvalidArgumentError: a value is wrong; `code` says which.
            ConflictError: too many others change it; code `concurrent-update`.
        """
        for _ in range(ATTEMPTS):
            row = await self._row(ref)
            before = self._stored(ref.hub, row)
            if not matches(if_match, before.etag):
                raise etag_mismatch(ref.text)
            after = Module(
                ref,
                before.generation_id,
                new_etag(self._randomness),
                before.managed_by if request.managed_by is UNSET else request.managed_by or None,
                credentials.wanted(request.authentication, before.credentials, self._randomness),
            )
            try:
                await self._engine.write(
                    Statement(
                        SQL["update_module"],
                        {**module_rows.to_params(self._keyring, after), "expected": before.etag},
                        expect=1,
                        otherwise=LostRaceError("The module was changed by another."),
                    )
                )
            except LostRaceError:
                continue
            if after.credentials.withdraws(before.credentials):
                self._connections.announce_barred(ref, CERTIFICATE_WITHDRAWN, deleted=False)
            self._changes.publish(IdentityChanged(ref, IdentityEvent.UPDATED))
            return after.to_wire(self._presence(ref, row), cast("int", row[11]))
        raise LostRaceError("The module is being changed by others.", subject=ref.text)

    async def delete(self, ref: IdentityRef, if_match: str) -> None:
        """Delete a module with all that belongs to it, and close its connection.

        Raises:
            NotFoundError: codes `device-not-found`, `module-not-found`.
            PreconditionFailedError: the etag is another; code `etag-mismatch`.
            UnauthorizedError: it is a system module; code `system-module`.
            ConflictError: too many others change it; code `concurrent-update`.
        """
        for _ in range(ATTEMPTS):
            module = self._stored(ref.hub, await self._row(ref))
            if ref.module_id in SYSTEM_MODULES:
                raise system_module_refused(ref.module_id)
            if not matches(if_match, module.etag):
                raise etag_mismatch(ref.text)
            twin = await twin_rows.read(self._engine, ref)
            try:
                await self._engine.write(
                    Statement(
                        SQL["delete_module"],
                        {**twin_rows.key(ref), "expected": module.etag},
                        expect=1,
                        otherwise=LostRaceError("The module was changed by another."),
                    ),
                    *module_rows.removal(ref),
                )
            except LostRaceError:
                continue
            self._connections.announce_barred(ref, "the module was deleted", deleted=True)
            self._changes.publish(IdentityChanged(ref, IdentityEvent.DELETED, twin))
            return
        raise LostRaceError("The module is being changed by others.", subject=ref.text)

    # -- inside --------------------------------------------------------------------------------

    async def _row(self, ref: IdentityRef, *, system: bool = False) -> Row:
        rows = await self._engine.read(SQL["get_module"], twin_rows.key(ref))
        if rows and system:
            raise _module_exists(ref)
        if rows:
            return rows[0]
        names: dict[str, str | int] = {"hub": ref.hub, "device_id": ref.device_id}
        if not await self._engine.read(SQL["parent_of"], names):
            raise device_not_found(ref.device_id)
        if system:
            raise system_module_refused(ref.module_id)
        raise module_not_found(ref)

    def _stored(self, hub: int, row: Row) -> Module:
        module_id, device_id, generation_id, etag, managed_by, kind, sealed = cast(
            "_ModuleColumns", row[:7]
        )
        ref = IdentityRef(hub, device_id, module_id)
        keys = credentials.unseal(self._keyring, ref, sealed)
        primary, secondary = cast("tuple[str | None, str | None]", row[12:14])
        own = Credentials(AuthenticationType(kind), keys, Thumbprints(primary, secondary))
        return Module(ref, generation_id, etag, managed_by, own)

    def _shown(self, hub: int, row: Row) -> ModuleIdentity:
        module = self._stored(hub, row)
        return module.to_wire(self._presence(module.ref, row), cast("int", row[11]))

    def _presence(self, ref: IdentityRef, row: Row) -> Presence:
        return self._connections.presence(ref, *cast("_PresenceColumns", row[7:11]))


def module_not_found(ref: IdentityRef) -> NotFoundError:
    """Return the error for a module that is not there."""
    return NotFoundError(
        f"The module '{ref.module_id}' is not registered on the device '{ref.device_id}'.",
        code="module-not-found",
        subject=ref.text,
    )


def _module_exists(ref: IdentityRef) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"A module with ID '{ref.module_id}' is already registered on the device "
        f"'{ref.device_id}'.",
        code="module-exists",
        subject=ref.text,
    )
