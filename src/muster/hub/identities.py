"""Device identities of a hub: create, read, update, delete, count.

What belongs to one device is written in one piece: an edge device with its two system modules,
their twins and its scope; a deleted device with its modules, twins, sessions and messages.
Updates are optimistic: they apply to the etag that was read and start over when it has changed.
Sources: hub-service.md 1.1, 1.2; hub-device.md 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, final

from msgspec import UNSET

from muster.hub import credentials, device_rows, edge_devices, module_rows, twin_rows
from muster.hub.changes import IdentityChanged, IdentityEvent
from muster.hub.credentials import Credentials
from muster.hub.module_rows import Module
from muster.hub.registry import (
    ATTEMPTS,
    CERTIFICATE_WITHDRAWN,
    SQL,
    Device,
    GenerationIds,
    LostRaceError,
    device_not_found,
    etag_mismatch,
    removal,
)
from muster.ids import check_device_id
from muster.model import twin as twin_rules
from muster.model.identity import (
    MANAGED_BY_EDGE,
    SYSTEM_MODULES,
    DeviceIdentity,
    DeviceRequest,
    IdentityRef,
    RegistryStatistics,
    Status,
    check_status_reason,
    matches,
    new_etag,
    parse_status,
)
from muster.store.engine import Statement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.auth.keyring import Keyring
    from muster.clock import Clock
    from muster.hub.changes import Changes
    from muster.hub.connections import Connections
    from muster.hub.module_rows import ArrivingModule
    from muster.ids import Randomness
    from muster.model.twin import JsonObject, Twin
    from muster.store.engine import Engine, Row

MAX_LIST: Final = 1000
"""Devices in one answer of GET /devices (hub-service.md 1.1 row 1)."""


@final
class Identities:
    """The devices of all hubs. Modules are in `muster.hub.modules`.

    Args:
        engine: where they are kept.
        keyring: seals their keys.
        clock: for times and generation IDs.
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

    # -- reading -------------------------------------------------------------------------------

    async def get(self, hub: int, device_id: str) -> DeviceIdentity:
        """Return a device.

        Raises:
            NotFoundError: code `device-not-found`.
        """
        row = await self._row(hub, device_id)
        return self._shown(hub, row)

    async def page(self, hub: int, top: int, after: str = "") -> list[DeviceIdentity]:
        """Return up to `top` devices (1 to 1000) in the order of their IDs.

        Args:
            hub: the hub's number.
            top: how many; anything outside 1 to 1000 means 1000 (hub-service.md 1.1 row 1).
            after: only IDs behind this one.
        """
        limit = top if 1 <= top <= MAX_LIST else MAX_LIST
        rows = await self._engine.read(
            SQL["list_devices"], {"hub": hub, "after": after, "limit": limit}
        )
        return [self._shown(hub, row) for row in rows]

    async def in_scope(self, edge: Device, after: str, limit: int) -> list[DeviceIdentity]:
        """Return an edge device and the devices below it, in the order of their IDs.

        Args:
            edge: the edge device.
            after: only IDs behind this one.
            limit: how many at most.
        """
        ref = edge.ref
        rows = await self._engine.read(
            SQL["list_scope"],
            {
                "hub": ref.hub,
                "device_id": ref.device_id,
                "scope": edge.scope,
                "after": after,
                "limit": limit,
            },
        )
        return [self._shown(ref.hub, row) for row in rows]

    async def find(self, hub: int, device_id: str) -> Device | None:
        """Return a device as it is stored, or `None`."""
        rows = await self._engine.read(SQL["get_device"], {"hub": hub, "device_id": device_id})
        return device_rows.stored(self._keyring, hub, rows[0]) if rows else None

    async def statistics(self, hub: int) -> RegistryStatistics:
        """Count the devices."""
        rows = await self._engine.read(SQL["counts"], {"hub": hub})
        enabled, disabled = cast("tuple[int, int]", rows[0]) if rows else (0, 0)
        return RegistryStatistics(enabled + disabled, enabled, disabled)

    # -- writing -------------------------------------------------------------------------------

    async def create(
        self,
        hub: int,
        device_id: str,
        request: DeviceRequest,
        tags: JsonObject | None = None,
        desired: JsonObject | None = None,
        *,
        also: Sequence[Statement] = (),
    ) -> DeviceIdentity:
        """Create a device and its twin; an edge device with its system modules and scope.

        Args:
            hub: the hub's number.
            device_id: its ID.
            request: what it is to be.
            tags: initial tags of its twin.
            desired: initial desired properties of its twin.
            also: what is committed with it.

        Raises:
            AlreadyExistsError: code `device-exists`.
            InvalidArgumentError: a value is wrong; `code` says which.
        """
        device = self._new(IdentityRef(hub, device_id), request)
        twin = twin_rules.new(tags, desired, self._clock.now())
        statements = edge_devices.parent_checks(device)
        statements += device_rows.insertion(self._keyring, device, twin)
        if device.iot_edge:
            statements += self._system_modules(device.ref)
        await self._engine.write(*statements, *also)
        self._changes.publish(IdentityChanged(device.ref, IdentityEvent.CREATED, twin))
        return device.to_wire(self._connections.presence(device.ref, None, None, None, None))

    async def install(
        self,
        hub: int,
        device_id: str,
        request: DeviceRequest,
        twin: Twin,
        modules: Sequence[ArrivingModule],
    ) -> None:
        """Put a device that moves here in place, with its modules, in one piece.

        Whatever had its name here before is gone afterwards, connections included. System
        modules come and go with the IoT Edge capability, whatever it brings.

        Args:
            hub: the hub's number.
            device_id: its ID.
            request: what it is to be.
            twin: its own twin.
            modules: what it brings.

        Raises:
            InvalidArgumentError: a value is wrong; `code` says which.
        """
        device = self._new(IdentityRef(hub, device_id), request)
        names: dict[str, str | int] = {"hub": hub, "device_id": device_id}
        statements = [
            Statement(SQL["delete_device_if_present"], names),
            *removal(names),
            *device_rows.insertion(self._keyring, device, twin),
        ]
        brought = {module.module_id: module for module in modules}
        for module_id, module in brought.items():
            if device.iot_edge or module_id not in SYSTEM_MODULES:
                statements += self._module(
                    device.ref, module_id, module.managed_by, module.credentials, module.twin
                )
        if device.iot_edge:
            missing = [module_id for module_id in SYSTEM_MODULES if module_id not in brought]
            statements += self._system_modules(device.ref, missing)
        await self._engine.write(*statements)
        self._connections.announce_barred(
            device.ref, "the device was moved here again", deleted=True
        )
        self._changes.publish(IdentityChanged(device.ref, IdentityEvent.CREATED, twin))

    def _new(self, ref: IdentityRef, request: DeviceRequest) -> Device:
        check_device_id(ref.device_id)
        iot_edge = bool(request.capabilities and request.capabilities.iot_edge)
        device = Device(
            ref,
            self._generations.next(),
            new_etag(self._randomness),
            parse_status(request.status or None) is Status.ENABLED,
            check_status_reason(request.status_reason or None),
            # Only a change of status has a time; a fresh device has never changed.
            0.0,
            credentials.wanted(request.authentication, None, self._randomness),
            iot_edge,
            None,
        )
        device.parent_scope = edge_devices.wanted_parent(device, request)
        return device

    async def update(
        self, hub: int, device_id: str, request: DeviceRequest, if_match: str
    ) -> DeviceIdentity:
        """Change a device. What the request leaves out stays.

        A device that loses the IoT Edge capability loses its system modules and its scope; it
        must have no children then. A device that is disabled, or one of whose certificates is
        withdrawn, loses its connections at once.

        Raises:
            NotFoundError: code `device-not-found`.
            PreconditionFailedError: the etag is another; code `etag-mismatch`.
            InvalidArgumentError: a value is wrong; `code` says which.
            ConflictError: too many others change it; code `concurrent-update`.
        """
        for _ in range(ATTEMPTS):
            row = await self._row(hub, device_id)
            before = device_rows.stored(self._keyring, hub, row)
            if not matches(if_match, before.etag):
                raise etag_mismatch(device_id)
            after = self._changed(before, request)
            try:
                await self._write_update(before, after)
            except LostRaceError:
                continue
            if before.enabled and not after.enabled:
                self._connections.announce_barred(
                    after.ref, "the device was disabled", deleted=False
                )
            elif after.credentials.withdraws(before.credentials):
                # No token ends these connections.
                self._connections.announce_barred(after.ref, CERTIFICATE_WITHDRAWN, deleted=False)
            if after.parent_scope != before.parent_scope:
                self._connections.announce_parent_changed(after.ref)
            self._changes.publish(IdentityChanged(after.ref, IdentityEvent.UPDATED))
            return self._to_wire(after, row)
        raise LostRaceError("The device is being changed by others.", subject=device_id)

    async def delete(self, hub: int, device_id: str, if_match: str) -> None:
        """Delete a device with everything that belongs to it, and close its connections.

        Raises:
            NotFoundError: code `device-not-found`.
            PreconditionFailedError: the etag is another; code `etag-mismatch`.
            ConflictError: too many others change it; code `concurrent-update`.
        """
        for _ in range(ATTEMPTS):
            device = device_rows.stored(self._keyring, hub, await self._row(hub, device_id))
            if not matches(if_match, device.etag):
                raise etag_mismatch(device_id)
            twin = await twin_rows.read(self._engine, device.ref)
            names: dict[str, str | int] = {"hub": hub, "device_id": device_id}
            statements = [
                Statement(
                    SQL["delete_device"],
                    {**names, "expected": device.etag},
                    expect=1,
                    otherwise=LostRaceError("The device was changed by another."),
                ),
                *removal(names),
            ]
            if device.iot_edge:
                statements.append(edge_devices.orphan_children(device, new_etag(self._randomness)))
            try:
                await self._engine.write(*statements)
            except LostRaceError:
                continue
            self._connections.announce_barred(device.ref, "the device was deleted", deleted=True)
            self._changes.publish(IdentityChanged(device.ref, IdentityEvent.DELETED, twin))
            return
        raise LostRaceError("The device is being changed by others.", subject=device_id)

    # -- inside --------------------------------------------------------------------------------

    async def _row(self, hub: int, device_id: str) -> Row:
        rows = await self._engine.read(SQL["get_device"], {"hub": hub, "device_id": device_id})
        if not rows:
            raise device_not_found(device_id)
        return rows[0]

    def _shown(self, hub: int, row: Row) -> DeviceIdentity:
        return self._to_wire(device_rows.stored(self._keyring, hub, row), row)

    def _to_wire(self, device: Device, row: Row) -> DeviceIdentity:
        """Return what is shown of a device, with what its row says besides."""
        presence = self._connections.presence(device.ref, *device_rows.presence(row))
        return device.to_wire(presence, device_rows.messages(row))

    def _changed(self, before: Device, request: DeviceRequest) -> Device:
        enabled, reason, changed_at = (
            before.enabled,
            before.status_reason,
            before.status_updated_at,
        )
        if request.status is not UNSET:
            enabled = parse_status(request.status) is Status.ENABLED
            reason = None
            if enabled is not before.enabled:
                changed_at = self._clock.time()
        if request.status_reason is not UNSET:
            reason = check_status_reason(request.status_reason)
        iot_edge = before.iot_edge
        if request.capabilities is not None and request.capabilities.iot_edge is not None:
            iot_edge = request.capabilities.iot_edge
        after = Device(
            before.ref,
            before.generation_id,
            new_etag(self._randomness),
            enabled,
            reason,
            changed_at,
            credentials.wanted(request.authentication, before.credentials, self._randomness),
            iot_edge,
            before.parent_scope,
        )
        after.parent_scope = edge_devices.wanted_parent(after, request)
        return after

    async def _write_update(self, before: Device, after: Device) -> None:
        statements: list[Statement] = []
        if after.parent_scope != before.parent_scope or after.iot_edge != before.iot_edge:
            statements += edge_devices.parent_checks(after)
        statements.append(
            Statement(
                SQL["update_device"],
                {**device_rows.to_params(self._keyring, after), "expected": before.etag},
                expect=1,
                otherwise=LostRaceError("The device was changed by another."),
            )
        )
        ref = after.ref
        if after.iot_edge and not before.iot_edge:
            statements += self._system_modules(ref)
        if before.iot_edge and not after.iot_edge:
            await edge_devices.check_childless(self._engine, before)
            # One may have come since: a child of a device that is no edge device is no child.
            statements.append(edge_devices.orphan_children(before, new_etag(self._randomness)))
            for module_id in SYSTEM_MODULES:
                statements += module_rows.removal(IdentityRef(ref.hub, ref.device_id, module_id))
        await self._engine.write(*statements)
        if before.iot_edge and not after.iot_edge:
            for module_id in SYSTEM_MODULES:
                self._connections.announce_barred(
                    IdentityRef(ref.hub, ref.device_id, module_id),
                    "the device is no edge device any more",
                    deleted=True,
                )

    def _system_modules(
        self, device: IdentityRef, module_ids: Sequence[str] = SYSTEM_MODULES
    ) -> list[Statement]:
        """Return the steps that give an edge device its modules, keys and twins included."""
        statements: list[Statement] = []
        for module_id in module_ids:
            own = credentials.wanted(None, None, self._randomness)
            twin = twin_rules.new(None, None, self._clock.now())
            statements += self._module(device, module_id, MANAGED_BY_EDGE, own, twin)
        return statements

    def _module(
        self,
        device: IdentityRef,
        module_id: str,
        managed_by: str | None,
        own: Credentials,
        twin: Twin,
    ) -> list[Statement]:
        module = Module(
            IdentityRef(device.hub, device.device_id, module_id),
            self._generations.next(),
            new_etag(self._randomness),
            managed_by,
            own,
        )
        return module_rows.insertion(self._keyring, module, twin)
