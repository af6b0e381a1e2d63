"""The twins of those who send messages, kept in memory for routes that ask for them.

A twin is read once and then follows `Changes`, so that a condition over twins costs no read for
each message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, final

from muster.hub import twin_rows
from muster.hub.changes import IdentityChanged, IdentityEvent, TwinChanged
from muster.model import twin as twin_rules

if TYPE_CHECKING:
    from muster.hub.changes import Change, Changes
    from muster.model.identity import IdentityRef
    from muster.model.twin import JsonObject, Twin
    from muster.store.engine import Engine

MAX_DEVICES: Final = 20_000
"""Devices whose twins are kept; those that were read first make room."""

_Device: TypeAlias = tuple[int, str]


@final
class SenderTwins:
    """Twins by identity. What is said of a device holds for its modules, too.

    Args:
        engine: where they are stored.
        changes: tells of every write.
        limit: of how many devices they are kept.
    """

    __slots__ = ("_engine", "_known", "_limit", "_reading")

    def __init__(self, engine: Engine, changes: Changes, limit: int = MAX_DEVICES) -> None:
        self._engine = engine
        self._limit = limit
        self._known: dict[_Device, dict[str, JsonObject | None]] = {}
        self._reading: dict[_Device, set[object]] = {}
        """Reads under way; a change in between takes them out, and they are done again."""
        changes.subscribe(self._changed)

    def knows(self, ref: IdentityRef) -> bool:
        """Tell whether `get` can answer."""
        return ref.module_id in self._known.get(ref[:2], ())

    def get(self, ref: IdentityRef) -> JsonObject | None:
        """Return a twin that is known, as routes see it; `None` when there is none."""
        return self._known[ref[:2]][ref.module_id]

    async def load(self, ref: IdentityRef) -> JsonObject | None:
        """Read a twin and keep it.

        Raises:
            UnavailableError: the store cannot be read; code `store-unavailable`.
        """
        device, reading = ref[:2], object()
        while True:
            self._reading.setdefault(device, set()).add(reading)
            try:
                twin = await twin_rows.read(self._engine, ref)
            finally:
                current = self._end(device, reading)
            if current:
                break
        if device not in self._known and len(self._known) >= self._limit:
            del self._known[next(iter(self._known))]
        shown = None if twin is None else view(ref, twin)
        self._known.setdefault(device, {})[ref.module_id] = shown
        return shown

    def _end(self, device: _Device, reading: object) -> bool:
        """Take note of the end of a read; return whether nothing has changed since it began."""
        under_way = self._reading.get(device, set())
        if reading not in under_way:
            return False
        under_way.discard(reading)
        if not under_way:
            del self._reading[device]
        return True

    def _changed(self, change: Change) -> None:
        if not isinstance(change, TwinChanged | IdentityChanged):
            return
        ref = change.ref
        device = ref[:2]
        self._reading.pop(device, None)
        known = self._known.get(device)
        if known is None:
            return
        if isinstance(change, TwinChanged):
            self._follow(known, change)
        elif change.event is not IdentityEvent.UPDATED:
            # A device that comes or goes does so with its modules.
            if ref.module_id:
                known.pop(ref.module_id, None)
            else:
                del self._known[device]

    @staticmethod
    def _follow(known: dict[str, JsonObject | None], change: TwinChanged) -> None:
        ref, reported = change.ref, change.reported
        shown = known.get(ref.module_id)
        if change.twin is not None and ref.module_id in known:
            known[ref.module_id] = view(ref, change.twin)
        elif reported is not None and shown is not None and shown["version"] == change.version - 1:
            properties = {**shown["properties"], "reported": twin_rules.shown(reported.section)}
            known[ref.module_id] = {**shown, "version": change.version, "properties": properties}
        else:
            known.pop(ref.module_id, None)


def view(ref: IdentityRef, twin: Twin) -> JsonObject:
    """Return a twin as routes and events see it (hub-service.md 7)."""
    shown: JsonObject = {"deviceId": ref.device_id}
    if ref.module_id:
        shown["moduleId"] = ref.module_id
    return shown | {
        "etag": twin.etag,
        "version": twin.version,
        "tags": twin.tags,
        "properties": twin_rules.service_view(twin),
    }
