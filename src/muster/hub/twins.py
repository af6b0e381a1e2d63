"""Device and module twins: read and changed by services and by the devices themselves.

A change is read, decided by the pure rules of `muster.model.twin`, and written on the condition
that nobody was faster. Within this process the changes of one twin stand in line, so that the
condition fails only against another node, and so that connected devices hear of changes in the
order of their versions. Sources: hub-service.md 1.1 rows 11-13, 1.4; hub-device.md 2.5, 6.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast, final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from muster.errors import ConflictError
from muster.hub import twin_rows
from muster.hub.changes import SectionChange, TwinChanged
from muster.hub.lines import Lines
from muster.hub.modules import module_not_found
from muster.hub.registry import ATTEMPTS, LostRaceError, device_not_found, etag_mismatch
from muster.hub.reports import Reports
from muster.hub.twin_rows import COLUMN_COUNT, SQL
from muster.model import twin as twin_rules
from muster.model.identity import (
    AuthenticationType,
    IdentityRef,
    Status,
    Thumbprints,
    device_scope,
    matches,
    wire_time,
)
from muster.store.engine import Statement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.clock import Clock
    from muster.hub.changes import Changes
    from muster.hub.connections import Connections
    from muster.hub.twin_catch_up import TwinCatchUp
    from muster.model.twin import JsonObject, Twin
    from muster.store.engine import Engine, Row

_IdentityColumns: TypeAlias = tuple[
    str | None, str, str, int, str | None, float, int, str, str | None
]
_PresenceColumns: TypeAlias = tuple[int | None, float | None, float | None, float | None]

_SHOWN_AT_ONCE: Final = 100
"""Twins decoded before others get their turn in the loop."""

_encode: Final = msgspec.json.Encoder().encode


class TwinProperties(Struct):
    """`properties` of a twin that a service sends. Reported ones are the device's and ignored."""

    desired: dict[str, Any] | UnsetType | None = UNSET


class TwinRequest(Struct):
    """The body of a twin PATCH or PUT. Tools send whole twins: all other members are ignored."""

    tags: dict[str, Any] | UnsetType | None = UNSET
    properties: TwinProperties | UnsetType | None = UNSET

    @property
    def desired(self) -> dict[str, Any] | None:
        """The desired properties, `None` when there are none."""
        if not isinstance(self.properties, TwinProperties):
            return None
        desired = self.properties.desired
        return None if desired is UNSET else desired


class ServiceTwin(Struct, rename="camel", kw_only=True):
    """A twin as the service API shows it. Members a module's twin does not have are UNSET."""

    device_id: str
    module_id: str | UnsetType = UNSET
    etag: str
    device_etag: str
    status: Status
    status_reason: str | UnsetType | None = UNSET
    status_update_time: str
    connection_state: str
    last_activity_time: str
    cloud_to_device_message_count: int
    authentication_type: str
    x509_thumbprint: Thumbprints
    model_id: str
    version: int
    tags: dict[str, Any]
    properties: dict[str, Any]
    capabilities: dict[str, bool] | UnsetType = UNSET
    device_scope: str | UnsetType = UNSET
    parent_scopes: list[str] | UnsetType = UNSET
    configurations: dict[str, Any] | UnsetType = UNSET


class DeviceView(NamedTuple):
    """A twin as its device sees it.

    Attributes:
        document: JSON.
        desired_version: of the desired properties in it.
    """

    document: bytes
    desired_version: int


@final
class Twins:
    """The twins of all devices and modules.

    Args:
        engine: where they are kept.
        clock: for `$lastUpdated`.
        connections: knows who is connected, and tells them what changed.
        changes: is told of every write.
        catch_up: keeps what is removed, for clients that are away.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        connections: Connections,
        changes: Changes,
        catch_up: TwinCatchUp,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._connections = connections
        self._changes = changes
        self._catch_up = catch_up
        self._reports = Reports(engine, clock, changes)
        self._lines: Lines[IdentityRef] = Lines()

    # -- services ------------------------------------------------------------------------------

    async def get(self, ref: IdentityRef) -> ServiceTwin:
        """Return the service view of a twin.

        Raises:
            NotFoundError: codes `device-not-found`, `module-not-found`.
        """
        return self._shown(ref, await self._row(ref))

    async def at(self, hub: int, rows: list[int], *, modules: bool) -> list[ServiceTwin]:
        """Return the service views of the twins that stand in some rows of the table.

        Args:
            hub: whose they are.
            rows: numbers of rows; one that is gone is left out.
            modules: whether they are of modules or of devices.
        """
        query = SQL["module_twins" if modules else "device_twins"]
        params = {"rows": _encode(rows).decode()}
        twins: list[ServiceTwin] = []
        for row in await self._engine.read(query, params):
            device_id, module_id = cast("tuple[str, str]", row[:2])
            twins.append(self._shown(IdentityRef(hub, device_id, module_id), row[2:]))
            if len(twins) % _SHOWN_AT_ONCE == 0:
                await asyncio.sleep(0)
        return twins

    async def change(
        self,
        ref: IdentityRef,
        request: TwinRequest,
        if_match: str | None = None,
        *,
        replace: bool = False,
    ) -> ServiceTwin:
        """Apply a PATCH, or with `replace` a PUT, and tell the device if it is connected.

        A PUT replaces tags and desired properties wholesale: one that lacks them clears them.

        Args:
            ref: whose twin.
            request: the body.
            if_match: the header; `None` for none.
            replace: whether it is a PUT.

        Returns:
            The whole twin after the change.

        Raises:
            NotFoundError: codes `device-not-found`, `module-not-found`.
            PreconditionFailedError: the etag is another; code `etag-mismatch`.
            InvalidArgumentError: a limit is broken; `code` says which.
            ConflictError: too many others change it; code `concurrent-update`.
        """
        tags = request.tags if isinstance(request.tags, dict) else None
        desired = request.desired
        if replace:
            tags, desired = tags or {}, desired or {}
        async with self._lines.turn(ref):
            for _ in range(ATTEMPTS):
                row = await self._row(ref)
                before, revision = twin_rows.from_columns(row)
                if not matches(if_match, before.etag):
                    raise etag_mismatch(ref.text)
                after = twin_rules.update(
                    before, self._clock.now(), tags=tags, desired=desired, replace=replace
                )
                if after is before:
                    return self._shown(ref, row)
                removals: Sequence[Statement] = ()
                if desired is not None:
                    removed_from = before.desired.properties
                    removals = self._catch_up.removals(ref, removed_from, after.desired)
                try:
                    await self._write(ref, after, revision, removals)
                except LostRaceError:
                    continue
                if desired is not None:
                    self._tell(ref, desired, after.desired.version)
                change = None if desired is None else SectionChange(desired, after.desired)
                self._changes.publish(
                    TwinChanged(
                        ref,
                        after.version,
                        tags=tags,
                        desired=change,
                        replaced=replace,
                        twin=after,
                    )
                )
                return self._shown(ref, row, after)
        raise _contended(ref)

    # -- devices -------------------------------------------------------------------------------

    async def device_view(self, ref: IdentityRef) -> DeviceView:
        """Return what a device gets for a twin GET: no tags, no metadata.

        Raises:
            NotFoundError: codes `device-not-found`, `module-not-found`.
        """
        rows = await self._engine.read(SQL["get_documents"], twin_rows.key(ref))
        if not rows:
            raise _gone(ref)
        desired, desired_version, reported, reported_version = cast(
            "tuple[str, int, str, int]", rows[0]
        )
        # The stored texts are objects without `$version`: it is added without decoding them.
        document = (
            f'{{"desired":{_with_version(desired, desired_version)},'
            f'"reported":{_with_version(reported, reported_version)}}}'
        )
        return DeviceView(document.encode(), desired_version)

    async def report(
        self, ref: IdentityRef, patch: JsonObject, expected_version: int | None = None
    ) -> int:
        """Merge what a device reports.

        Args:
            ref: whose twin.
            patch: what the device sent.
            expected_version: the reported `$version` it must apply to, `None` for any.

        Returns:
            The new `$version` of the reported properties, which is durable by then.

        Raises:
            NotFoundError: codes `device-not-found`, `module-not-found`.
            PreconditionFailedError: the version is another; code `version-mismatch`.
            InvalidArgumentError: a limit is broken; `code` says which.
            ConflictError: too many others change it; code `concurrent-update`.
        """
        async with self._lines.turn(ref):
            return await self._reports.report(ref, patch, expected_version)

    async def set_model(self, ref: IdentityRef, model_id: str) -> None:
        """Remember the Plug and Play model a device announced at connect ('' for none)."""
        await self._engine.write(
            Statement(SQL["set_model"], {**twin_rows.key(ref), "model_id": model_id})
        )

    # -- moving house --------------------------------------------------------------------------

    async def of_device(self, hub: int, device_id: str) -> dict[str, Twin]:
        """Return the twins of a device and its modules, by module ID ('' for the device's own)."""
        rows = await self._engine.read(SQL["list"], {"hub": hub, "device_id": device_id})
        return {str(row[0]): twin_rows.from_columns(row[1:])[0] for row in rows}

    async def between(self, hub: int, first: str, last: str) -> dict[IdentityRef, Twin]:
        """Return the twins of devices whose IDs lie between two, and of their modules."""
        rows = await self._engine.read(SQL["between"], {"hub": hub, "first": first, "last": last})
        return {
            IdentityRef(hub, *cast("tuple[str, str]", row[:2])): twin_rows.from_columns(row[2:])[0]
            for row in rows
        }

    # -- inside --------------------------------------------------------------------------------

    async def _row(self, ref: IdentityRef) -> Row:
        query = SQL["get_module_twin" if ref.module_id else "get_device_twin"]
        rows = await self._engine.read(query, twin_rows.key(ref))
        if not rows:
            raise device_not_found(ref.device_id)
        if rows[0][0] is None:
            raise module_not_found(ref)
        return rows[0]

    async def _write(
        self, ref: IdentityRef, twin: Twin, revision: int, also: Sequence[Statement] = ()
    ) -> None:
        await self._engine.write(
            Statement(
                SQL["update"],
                {**twin_rows.to_params(ref, twin), "expected": revision},
                expect=1,
                otherwise=LostRaceError("The twin was changed by another."),
            ),
            *also,
        )

    def _tell(self, ref: IdentityRef, desired: JsonObject, version: int) -> None:
        body = _encode(twin_rules.desired_patch_for_device(desired, version))
        self._connections.announce_desired(ref, version, body)

    def _shown(self, ref: IdentityRef, row: Row, twin: Twin | None = None) -> ServiceTwin:
        if twin is None:
            twin, _ = twin_rows.from_columns(row)
        (
            model_id,
            etag,
            kind,
            enabled,
            status_reason,
            status_updated_at,
            iot_edge,
            generation_id,
            parent_scope,
        ) = cast("_IdentityColumns", row[COLUMN_COUNT : COLUMN_COUNT + 9])
        presence = self._connections.presence(
            ref, *cast("_PresenceColumns", row[COLUMN_COUNT + 9 : COLUMN_COUNT + 13])
        )
        configurations = str(row[COLUMN_COUNT + 13])
        primary, secondary = cast(
            "tuple[str | None, str | None]", row[COLUMN_COUNT + 15 : COLUMN_COUNT + 17]
        )
        shown = ServiceTwin(
            device_id=ref.device_id,
            etag=twin.etag,
            device_etag=etag,
            status=Status.ENABLED if enabled else Status.DISABLED,
            status_update_time=wire_time(status_updated_at),
            connection_state=presence.state,
            last_activity_time=wire_time(presence.last_activity_at),
            cloud_to_device_message_count=cast("int", row[COLUMN_COUNT + 14]),
            authentication_type=AuthenticationType(kind),
            x509_thumbprint=Thumbprints(primary, secondary),
            model_id=model_id or "",
            version=twin.version,
            tags=twin.tags,
            properties=twin_rules.service_view(twin),
        )
        if configurations != "{}":
            shown.configurations = msgspec.json.decode(configurations)
        if ref.module_id:
            shown.module_id = ref.module_id
            return shown
        shown.status_reason = status_reason
        shown.capabilities = {"iotEdge": bool(iot_edge)}
        shown.parent_scopes = [parent_scope] if parent_scope else []
        scope = device_scope(ref.device_id, generation_id) if iot_edge else parent_scope
        if scope:
            shown.device_scope = scope
        return shown


def _with_version(document: str, version: int) -> str:
    tail = f'"$version":{version}}}'
    return "{" + tail if document == "{}" else f"{document[:-1]},{tail}"


def _gone(ref: IdentityRef) -> Exception:
    return module_not_found(ref) if ref.module_id else device_not_found(ref.device_id)


def _contended(ref: IdentityRef) -> ConflictError:
    return LostRaceError("The twin is being changed by others.", subject=ref.text)
