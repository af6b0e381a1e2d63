"""Device identities of a hub: create, read, update, delete, count.

What belongs to one device is written in one piece: an edge device with its two system modules,
their twins and its scope; a deleted device with its modules, twins, presence and sessions.
Updates are optimistic: they apply to the etag that was read and start over when it has changed.
Sources: hub-service.md 1.1, 1.2; hub-device.md 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

from msgspec import UNSET, Struct

from muster.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    PreconditionFailedError,
    UnauthorizedError,
)
from muster.hub import credentials, twin_rows
from muster.hub.credentials import Credentials
from muster.ids import check_device_id
from muster.model import twin as twin_rules
from muster.model.identity import (
    MANAGED_BY_EDGE,
    SYSTEM_MODULES,
    AuthenticationType,
    Capabilities,
    DeviceIdentity,
    DeviceRequest,
    IdentityRef,
    RegistryStatistics,
    Status,
    check_status_reason,
    device_scope,
    matches,
    new_etag,
    parse_device_scope,
    parse_status,
    wire_time,
)
from muster.store.engine import Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from muster.auth.keyring import Keyring
    from muster.auth.symmetric_keys import SymmetricKeys
    from muster.clock import Clock
    from muster.hub.connections import Connections, Presence
    from muster.ids import Randomness
    from muster.model.twin import JsonObject
    from muster.store.engine import Engine, Row

SQL: Final = load("identities")

MAX_LIST: Final = 1000
"""Devices in one answer of GET /devices (hub-service.md 1.1 row 1)."""
MAX_LAYERS: Final = 100
"""Edge devices above each other. Azure stops at 5; this only bounds the walk."""
ATTEMPTS: Final = 8
"""Times an update is tried against others that change the same identity."""

_TICKS_PER_S: Final = 10_000_000
_TICKS_AT_UNIX_EPOCH: Final = 621_355_968_000_000_000

_PresenceColumns: TypeAlias = tuple[int | None, float | None, float | None, float | None]
_DeviceColumns: TypeAlias = tuple[
    str, str, str, int, str | None, float, str, bytes | None, int, str | None
]


class LostRaceError(ConflictError):
    """Somebody changed the identity between reading and writing; read again."""

    default_code = "concurrent-update"


class Device(Struct):
    """A device as it is stored."""

    ref: IdentityRef
    generation_id: str
    etag: str
    enabled: bool
    status_reason: str | None
    status_updated_at: float
    credentials: Credentials
    iot_edge: bool
    parent_scope: str | None

    @property
    def scope(self) -> str | None:
        """The device scope: its own for an edge device, its parent's for a leaf."""
        if self.iot_edge:
            return device_scope(self.ref.device_id, self.generation_id)
        return self.parent_scope

    def to_wire(self, presence: Presence) -> DeviceIdentity:
        """Return what the service API shows."""
        return DeviceIdentity(
            device_id=self.ref.device_id,
            generation_id=self.generation_id,
            etag=self.etag,
            connection_state=presence.state,
            status=Status.ENABLED if self.enabled else Status.DISABLED,
            status_reason=self.status_reason,
            connection_state_updated_time=wire_time(presence.state_updated_at),
            status_updated_time=wire_time(self.status_updated_at),
            last_activity_time=wire_time(presence.last_activity_at),
            cloud_to_device_message_count=0,
            authentication=self.credentials.to_wire(),
            capabilities=Capabilities(self.iot_edge),
            device_scope=self.scope or UNSET,
            parent_scopes=[self.parent_scope] if self.parent_scope else [],
        )


class GenerationIds:
    """Makes generation IDs: decimal ticks, as real hubs', never the same twice on one node."""

    __slots__ = ("_clock", "_last")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = 0

    def next(self) -> str:
        """Return a fresh one."""
        ticks = int(self._clock.time() * _TICKS_PER_S) + _TICKS_AT_UNIX_EPOCH
        self._last = max(ticks, self._last + 1)
        return str(self._last)


@final
class Identities:
    """The devices of all hubs. Modules are in `muster.hub.modules`.

    Args:
        engine: where they are kept.
        keyring: seals their keys.
        clock: for times and generation IDs.
        randomness: for keys and etags.
        connections: knows who is connected, and drops who may not be.
    """

    def __init__(
        self,
        engine: Engine,
        keyring: Keyring,
        clock: Clock,
        randomness: Randomness,
        connections: Connections,
    ) -> None:
        self._engine = engine
        self._keyring = keyring
        self._clock = clock
        self._randomness = randomness
        self._connections = connections
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

    async def find(self, hub: int, device_id: str) -> Device | None:
        """Return a device as it is stored, or `None`."""
        rows = await self._engine.read(SQL["get_device"], {"hub": hub, "device_id": device_id})
        return self._stored(hub, rows[0]) if rows else None

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
    ) -> DeviceIdentity:
        """Create a device and its twin; an edge device with its system modules and scope.

        Args:
            hub: the hub's number.
            device_id: its ID.
            request: what it is to be.
            tags: initial tags of its twin.
            desired: initial desired properties of its twin.

        Raises:
            AlreadyExistsError: code `device-exists`.
            InvalidArgumentError: a value is wrong; `code` says which.
        """
        check_device_id(device_id)
        ref = IdentityRef(hub, device_id)
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
        device.parent_scope = wanted_parent(device, request)
        twin = twin_rules.new(tags, desired, self._clock.now())
        statements = await self._parent_checks(device)
        statements += [
            Statement(
                SQL["insert_device"],
                self._params(device),
                expect=1,
                otherwise=AlreadyExistsError(
                    f"A device with ID '{device_id}' is already registered.",
                    code="device-exists",
                    subject=device_id,
                ),
            ),
            twin_rows.insert(ref, twin),
        ]
        if iot_edge:
            statements += self._system_modules(ref)
        await self._engine.write(*statements)
        return device.to_wire(self._connections.presence(ref, None, None, None, None))

    async def update(
        self, hub: int, device_id: str, request: DeviceRequest, if_match: str
    ) -> DeviceIdentity:
        """Change a device. What the request leaves out stays.

        A device that loses the IoT Edge capability loses its system modules and its scope; it
        must have no children then. A device that is disabled loses its connections at once.

        Raises:
            NotFoundError: code `device-not-found`.
            PreconditionFailedError: the etag is another; code `etag-mismatch`.
            InvalidArgumentError: a value is wrong; `code` says which.
            ConflictError: too many others change it; code `concurrent-update`.
        """
        for _ in range(ATTEMPTS):
            row = await self._row(hub, device_id)
            before = self._stored(hub, row)
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
            return after.to_wire(self._presence(after.ref, row))
        raise LostRaceError("The device is being changed by others.", subject=device_id)

    async def delete(self, hub: int, device_id: str, if_match: str) -> None:
        """Delete a device with everything that belongs to it, and close its connections.

        Raises:
            NotFoundError: code `device-not-found`.
            PreconditionFailedError: the etag is another; code `etag-mismatch`.
            ConflictError: too many others change it; code `concurrent-update`.
        """
        for _ in range(ATTEMPTS):
            device = self._stored(hub, await self._row(hub, device_id))
            if not matches(if_match, device.etag):
                raise etag_mismatch(device_id)
            names: dict[str, str | int] = {"hub": hub, "device_id": device_id}
            statements = [
                Statement(
                    SQL["delete_device"],
                    {**names, "expected": device.etag},
                    expect=1,
                    otherwise=LostRaceError("The device was changed by another."),
                ),
                Statement(SQL["delete_modules"], names),
                Statement(SQL["delete_twins"], names),
                Statement(SQL["delete_presences"], names),
                Statement(SQL["delete_sessions"], names),
            ]
            if device.iot_edge:
                statements.append(self._orphan_children(device))
            try:
                await self._engine.write(*statements)
            except LostRaceError:
                continue
            self._connections.announce_barred(device.ref, "the device was deleted", deleted=True)
            return
        raise LostRaceError("The device is being changed by others.", subject=device_id)

    # -- inside --------------------------------------------------------------------------------

    async def _row(self, hub: int, device_id: str) -> Row:
        rows = await self._engine.read(SQL["get_device"], {"hub": hub, "device_id": device_id})
        if not rows:
            raise device_not_found(device_id)
        return rows[0]

    def _stored(self, hub: int, row: Row) -> Device:
        (
            device_id,
            generation_id,
            etag,
            enabled,
            status_reason,
            status_updated_at,
            kind,
            sealed,
            iot_edge,
            parent_scope,
        ) = cast("_DeviceColumns", row[:10])
        ref = IdentityRef(hub, device_id)
        keys = credentials.unseal(self._keyring, ref, sealed)
        return Device(
            ref,
            generation_id,
            etag,
            bool(enabled),
            status_reason,
            status_updated_at,
            Credentials(AuthenticationType(kind), keys),
            bool(iot_edge),
            parent_scope,
        )

    def _shown(self, hub: int, row: Row) -> DeviceIdentity:
        device = self._stored(hub, row)
        return device.to_wire(self._presence(device.ref, row))

    def _presence(self, ref: IdentityRef, row: Row) -> Presence:
        return self._connections.presence(ref, *cast("_PresenceColumns", row[10:14]))

    def _params(self, device: Device) -> dict[str, str | bytes | int | float | None]:
        keys: SymmetricKeys | None = device.credentials.keys
        return {
            "hub": device.ref.hub,
            "device_id": device.ref.device_id,
            "generation_id": device.generation_id,
            "etag": device.etag,
            "enabled": int(device.enabled),
            "status_reason": device.status_reason,
            "status_updated_at": device.status_updated_at,
            "auth_type": device.credentials.kind.value,
            "keys": credentials.seal(self._keyring, device.ref, keys),
            "iot_edge": int(device.iot_edge),
            "parent_scope": device.parent_scope,
        }

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
        after.parent_scope = wanted_parent(after, request)
        return after

    async def _write_update(self, before: Device, after: Device) -> None:
        statements: list[Statement] = []
        if after.parent_scope != before.parent_scope or after.iot_edge != before.iot_edge:
            statements += await self._parent_checks(after)
        statements.append(
            Statement(
                SQL["update_device"],
                {**self._params(after), "expected": before.etag},
                expect=1,
                otherwise=LostRaceError("The device was changed by another."),
            )
        )
        ref = after.ref
        if after.iot_edge and not before.iot_edge:
            statements += self._system_modules(ref)
        if before.iot_edge and not after.iot_edge:
            await self._check_childless(before)
            # One may have come since: a child of a device that is no edge device is no child.
            statements.append(self._orphan_children(before))
            for module_id in SYSTEM_MODULES:
                statements += module_removal(IdentityRef(ref.hub, ref.device_id, module_id))
        await self._engine.write(*statements)
        if before.iot_edge and not after.iot_edge:
            for module_id in SYSTEM_MODULES:
                self._connections.announce_barred(
                    IdentityRef(ref.hub, ref.device_id, module_id),
                    "the device is no edge device any more",
                    deleted=True,
                )

    async def _parent_checks(self, device: Device) -> list[Statement]:
        """Return the steps that make a write fail when the parent is not what it should be."""
        if device.parent_scope is None:
            return []
        ref = device.ref
        parent_id, generation_id = parse_device_scope(device.parent_scope)
        wrong = InvalidArgumentError(
            f"The device scope '{device.parent_scope}' is not that of an edge device of this hub.",
            code="invalid-device-scope",
            subject=ref.device_id,
        )
        circular = InvalidArgumentError(
            f"The device '{ref.device_id}' cannot be below itself.",
            code="invalid-device-scope",
            subject=ref.device_id,
        )
        if parent_id == ref.device_id:
            raise circular
        above: str | None = device.parent_scope if device.iot_edge else None
        for _ in range(MAX_LAYERS):
            if above is None:
                break
            above_id, _generation = parse_device_scope(above)
            if above_id == ref.device_id:
                raise circular
            rows = await self._engine.read(
                SQL["parent_of"], {"hub": ref.hub, "device_id": above_id}
            )
            above = cast("str | None", rows[0][2]) if rows else None
        return [
            Statement(
                SQL["hold_scope"],
                {"hub": ref.hub, "device_id": parent_id, "generation_id": generation_id},
                expect=1,
                otherwise=wrong,
            )
        ]

    async def _check_childless(self, device: Device) -> None:
        rows = await self._engine.read(
            SQL["first_child"], {"hub": device.ref.hub, "scope": device.scope}
        )
        if rows:
            raise InvalidArgumentError(
                f"The device '{device.ref.device_id}' still has children, for example "
                f"'{cast('str', rows[0][0])}'; take them away before the IoT Edge capability.",
                code="invalid-operation",
                subject=device.ref.device_id,
            )

    def _orphan_children(self, device: Device) -> Statement:
        return Statement(
            SQL["orphan_children"],
            {
                "hub": device.ref.hub,
                "scope": device.scope,
                "etag": new_etag(self._randomness),
            },
        )

    def _system_modules(self, device: IdentityRef) -> list[Statement]:
        statements: list[Statement] = []
        twin = twin_rules.new(None, None, self._clock.now())
        for module_id in SYSTEM_MODULES:
            ref = IdentityRef(device.hub, device.device_id, module_id)
            own = credentials.wanted(None, None, self._randomness)
            statements += (
                Statement(
                    SQL["insert_module"],
                    {
                        "hub": ref.hub,
                        "device_id": ref.device_id,
                        "module_id": module_id,
                        "generation_id": self._generations.next(),
                        "etag": new_etag(self._randomness),
                        "managed_by": MANAGED_BY_EDGE,
                        "auth_type": own.kind.value,
                        "keys": credentials.seal(self._keyring, ref, own.keys),
                    },
                    expect=1,
                ),
                twin_rows.insert(ref, twin),
            )
        return statements


def wanted_parent(device: Device, request: DeviceRequest) -> str | None:
    """Return the scope of the parent a request asks for, and the present one if it does not.

    A leaf names its parent in `deviceScope` (empty: none) or `parentScopes`, an edge device in
    `parentScopes` only: its `deviceScope` is its own. Tools send back everything they read, so
    of two statements the one that differs from the present is the one that was meant.

    Raises:
        InvalidArgumentError: more than one parent; code `invalid-device-scope`.
    """
    present = device.parent_scope
    own = device_scope(device.ref.device_id, device.generation_id)
    by_scope = present
    if (
        not device.iot_edge
        and isinstance(request.device_scope, str)
        and request.device_scope != own
    ):
        by_scope = request.device_scope or None
    if by_scope != present:
        return by_scope
    if isinstance(request.parent_scopes, list):
        if len(request.parent_scopes) > 1:
            raise InvalidArgumentError(
                "A device has at most one parent.", code="invalid-device-scope"
            )
        named = request.parent_scopes[0] or None if request.parent_scopes else None
        # A leaf whose deviceScope names a parent may leave parentScopes empty.
        if named is None and not device.iot_edge and request.device_scope == present:
            return present
        return named
    return present


def module_removal(ref: IdentityRef) -> list[Statement]:
    """Return the steps that delete a module's twin, presence, session and, if still there, it."""
    names = twin_rows.key(ref)
    return [
        Statement(SQL["delete_module_if_present"], names),
        Statement(SQL["delete_module_twin"], names),
        Statement(SQL["delete_module_presence"], names),
        Statement(SQL["delete_module_session"], names),
    ]


def device_not_found(device_id: str) -> NotFoundError:
    """Return the error for a device that is not there."""
    return NotFoundError(
        f"The device '{device_id}' is not registered.",
        code="device-not-found",
        subject=device_id,
    )


def etag_mismatch(subject: str) -> PreconditionFailedError:
    """Return the error for an If-Match that does not match."""
    return PreconditionFailedError(
        "Precondition failed: Invalid ETag", code="etag-mismatch", subject=subject
    )


def require_if_match(if_match: str | None) -> str:
    """Return the If-Match header of a call that must have one (hub-service.md 1.1 row 4).

    Raises:
        InvalidArgumentError: it is missing; code `if-match-missing`.
    """
    if not if_match:
        raise InvalidArgumentError(
            "The If-Match header is required: an etag, or * for any.", code="if-match-missing"
        )
    return if_match


def system_module_refused(module_id: str) -> UnauthorizedError:
    """Return the error for making or deleting `$edgeAgent` or `$edgeHub` by hand."""
    return UnauthorizedError(
        f"The system module '{module_id}' comes and goes with the IoT Edge capability.",
        code="system-module",
        subject=module_id,
    )
