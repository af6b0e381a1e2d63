"""The bulk registry: up to a hundred changes of devices, modules and twins in one call.

Every entry succeeds or fails by itself; the result lists the failures (hub-service.md 1.3). The
entries run side by side, so that the store puts them into few commits.
"""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from typing import TYPE_CHECKING, Final, final

from muster.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    MusterError,
    NotFoundError,
)
from muster.hub.twins import TwinProperties, TwinRequest
from muster.ids import check_device_id
from muster.model.identity import (
    ANY,
    BulkEntry,
    DeviceRequest,
    IdentityRef,
    ModuleRequest,
    check_module_id,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from muster.hub.identities import Identities
    from muster.hub.modules import Modules
    from muster.hub.twins import Twins

MAX_ENTRIES: Final = 100


class ImportMode(enum.StrEnum):
    """What an entry asks for."""

    CREATE = "create"
    CREATE_OR_UPDATE = "createOrUpdate"
    CREATE_OR_UPDATE_IF_MATCH = "createOrUpdateIfMatchETag"
    UPDATE = "update"
    UPDATE_IF_MATCH = "updateIfMatchETag"
    DELETE = "delete"
    DELETE_IF_MATCH = "deleteIfMatchETag"
    UPDATE_TWIN = "updateTwin"
    UPDATE_TWIN_IF_MATCH = "updateTwinIfMatchETag"


_MODES: Final = {mode.lower(): mode for mode in ImportMode}
_WITH_ETAG: Final = frozenset(
    {
        ImportMode.CREATE_OR_UPDATE_IF_MATCH,
        ImportMode.UPDATE_IF_MATCH,
        ImportMode.DELETE_IF_MATCH,
    }
)


@final
class Failure:
    """One entry that failed.

    Attributes:
        entry: which.
        operation: its mode as it was sent.
        error: why.
    """

    __slots__ = ("entry", "error", "operation")

    def __init__(self, entry: BulkEntry, operation: str, error: MusterError) -> None:
        self.entry = entry
        self.operation = operation
        self.error = error


@final
class Bulk:
    """Runs bulk operations."""

    def __init__(self, identities: Identities, modules: Modules, twins: Twins) -> None:
        self._identities = identities
        self._modules = modules
        self._twins = twins

    async def run(self, hub: int, entries: list[BulkEntry]) -> list[Failure]:
        """Run the entries and return the failures in their order.

        Raises:
            InvalidArgumentError: none at all, or more than 100; codes `empty-bulk`,
                `too-many-devices`.
        """
        if not entries:
            raise InvalidArgumentError("The list of devices is empty.", code="empty-bulk")
        if len(entries) > MAX_ENTRIES:
            raise InvalidArgumentError(
                f"At most {MAX_ENTRIES} entries fit into one bulk operation, not {len(entries)}.",
                code="too-many-devices",
            )
        barred = named_twice((entry.id, entry.module_id) for entry in entries)
        results = await asyncio.gather(
            *(
                self._guarded(hub, entry, error)
                for entry, error in zip(entries, barred, strict=True)
            )
        )
        return [failure for failure in results if failure is not None]

    async def _guarded(
        self, hub: int, entry: BulkEntry, barred: MusterError | None
    ) -> Failure | None:
        operation = entry.import_mode or ImportMode.CREATE_OR_UPDATE
        try:
            if barred is not None:
                raise barred
            mode = _MODES.get(operation.lower())
            if mode is None:
                raise InvalidArgumentError(
                    f"importMode must be one of {', '.join(ImportMode)}.",
                    code="invalid-import-mode",
                )
            await self._apply(hub, entry, mode)
        except MusterError as error:
            return Failure(entry, operation, error)
        return None

    async def _apply(self, hub: int, entry: BulkEntry, mode: ImportMode) -> None:
        ref = IdentityRef(hub, check_device_id(entry.id), entry.module_id or "")
        if ref.module_id:
            check_module_id(ref.module_id)
        if mode in (ImportMode.UPDATE_TWIN, ImportMode.UPDATE_TWIN_IF_MATCH):
            etag = entry.twin_e_tag or entry.e_tag
            conditional = mode is ImportMode.UPDATE_TWIN_IF_MATCH
            await self._twins.change(ref, _twin_request(entry), etag if conditional else None)
            return
        if_match = _required_etag(entry) if mode in _WITH_ETAG else ANY
        if mode in (ImportMode.DELETE, ImportMode.DELETE_IF_MATCH):
            if ref.module_id:
                await self._modules.delete(ref, if_match)
            else:
                await self._identities.delete(hub, ref.device_id, if_match)
            return
        create, update = (
            self._module_steps(ref, entry) if ref.module_id else self._device_steps(ref, entry)
        )
        if mode is ImportMode.CREATE:
            await create()
        elif mode in (ImportMode.UPDATE, ImportMode.UPDATE_IF_MATCH):
            await update(if_match)
        else:
            await _create_or_update(create, update, if_match)

    def _device_steps(
        self, ref: IdentityRef, entry: BulkEntry
    ) -> tuple[Callable[[], Awaitable[object]], Callable[[str], Awaitable[object]]]:
        request = DeviceRequest(
            status=entry.status,
            status_reason=entry.status_reason,
            authentication=entry.authentication,
            capabilities=entry.capabilities,
            device_scope=entry.device_scope,
            parent_scopes=entry.parent_scopes,
        )
        desired = entry.properties.desired if entry.properties else None

        def create() -> Awaitable[object]:
            return self._identities.create(ref.hub, ref.device_id, request, entry.tags, desired)

        def update(if_match: str) -> Awaitable[object]:
            return self._identities.update(ref.hub, ref.device_id, request, if_match)

        return create, update

    def _module_steps(
        self, ref: IdentityRef, entry: BulkEntry
    ) -> tuple[Callable[[], Awaitable[object]], Callable[[str], Awaitable[object]]]:
        request = ModuleRequest(managed_by=entry.managed_by, authentication=entry.authentication)
        desired = entry.properties.desired if entry.properties else None

        def create() -> Awaitable[object]:
            return self._modules.create(ref, request, entry.tags, desired)

        def update(if_match: str) -> Awaitable[object]:
            return self._modules.update(ref, request, if_match)

        return create, update


async def _create_or_update(
    create: Callable[[], Awaitable[object]],
    update: Callable[[str], Awaitable[object]],
    if_match: str,
) -> None:
    try:
        await update(if_match)
    except NotFoundError:
        try:
            await create()
        except AlreadyExistsError:
            # Somebody else created it in between, so there is something to update now.
            await update(if_match)


def _twin_request(entry: BulkEntry) -> TwinRequest:
    desired = entry.properties.desired if entry.properties else None
    return TwinRequest(entry.tags, TwinProperties(desired))


def _required_etag(entry: BulkEntry) -> str:
    if not entry.e_tag:
        raise InvalidArgumentError(
            "The import mode compares etags, but the entry has no eTag.", code="if-match-missing"
        )
    return entry.e_tag


def named_twice(entries: Iterable[tuple[str, str | None]]) -> list[MusterError | None]:
    """Return for each entry, a device ID and perhaps a module ID, what bars it: being one of two.

    The service takes an identity only once in a call, and none of those that are named twice.
    """
    names = [(device_id, module_id or "") for device_id, module_id in entries]
    times = Counter(names)
    twice = InvalidArgumentError(
        "The identity is named more than once in this operation.", code="device-defined-twice"
    )
    return [twice if times[name] > 1 else None for name in names]
