"""Events that the hub itself tells: devices that come and go, connect, and change their twins.

Their bodies and properties are those of hub-service.md 7. They go where routes send them, and
nowhere without one. They are written after the change they tell of, so a crash in between takes
the last of them along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

import msgspec
import structlog

from muster.errors import MusterError
from muster.hub.changes import ConnectionChanged, IdentityChanged, IdentityEvent, TwinChanged
from muster.hub.sender_twins import view
from muster.hub.telemetry import partition_of
from muster.model import twin as twin_rules
from muster.model.identity import wire_time
from muster.model.message import Stamp, encode_head, encode_stamp
from muster.wire.mqtt import property_bag

if TYPE_CHECKING:
    import asyncio

    from muster.clock import Clock
    from muster.hub.changes import Change, Changes, SectionChange
    from muster.hub.hubs import Hub, Hubs
    from muster.hub.telemetry import Telemetry
    from muster.ids import Randomness
    from muster.model.identity import IdentityRef
    from muster.model.twin import JsonObject

CONNECTION_STATE: Final = "deviceConnectionStateEvents"
LIFECYCLE: Final = "deviceLifecycleEvents"
TWIN_CHANGES: Final = "twinChangeEvents"

_SCHEMAS: Final = {
    CONNECTION_STATE: "deviceConnectionStateNotification",
    LIFECYCLE: "deviceLifecycleNotification",
    TWIN_CHANGES: "twinChangeNotification",
}
_OPERATIONS: Final = {
    IdentityEvent.CREATED: "createDeviceIdentity",
    IdentityEvent.DELETED: "deleteDeviceIdentity",
}
_TICKS_S: Final = 10_000_000
_EPOCH_S: Final = 11_644_473_600
"""Seconds from 1601 to 1970."""

_encode: Final = msgspec.json.Encoder().encode
_log = structlog.get_logger(__name__)


@final
class SourceEvents:
    """Tells what changes in the hubs. Begins by itself.

    Args:
        changes: what changes.
        hubs: all hubs.
        telemetry: where messages come in.
        clock: for the time of events.
        randomness: for correlation IDs.
    """

    __slots__ = ("_clock", "_hubs", "_randomness", "_telemetry", "_ticks")

    def __init__(
        self,
        changes: Changes,
        hubs: Hubs,
        telemetry: Telemetry,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._hubs = hubs
        self._telemetry = telemetry
        self._clock = clock
        self._randomness = randomness
        self._ticks = 0
        changes.subscribe(self._changed)

    def _changed(self, change: Change) -> None:
        hub = self._hubs.by_id(change.ref.hub)
        match change:
            case ConnectionChanged(_, connected, at):
                if self._taken(hub, CONNECTION_STATE):
                    operation = "deviceConnected" if connected else "deviceDisconnected"
                    body = {"sequenceNumber": self._sequence_number(at)}
                    self._tell(hub, change.ref, CONNECTION_STATE, operation, body)
            case IdentityChanged(ref, event, twin):
                if twin is not None and event in _OPERATIONS and self._taken(hub, LIFECYCLE):
                    self._tell(hub, ref, LIFECYCLE, _OPERATIONS[event], _shown(view(ref, twin)))
            case TwinChanged():
                if self._taken(hub, TWIN_CHANGES):
                    self._tell_twin(hub, change)

    def _tell_twin(self, hub: Hub, change: TwinChanged) -> None:
        if not change.replaced:
            self._tell(hub, change.ref, TWIN_CHANGES, "updateTwin", updated(change))
        elif change.twin is not None:
            whole = _shown(view(change.ref, change.twin))
            self._tell(hub, change.ref, TWIN_CHANGES, "replaceTwin", whole)

    def _taken(self, hub: Hub, source: str) -> bool:
        return self._telemetry.intake(hub).takes(source)

    def _tell(
        self, hub: Hub, ref: IdentityRef, source: str, operation: str, body: JsonObject
    ) -> None:
        properties: list[tuple[str, str | None]] = [
            ("$.ct", "application/json"),
            ("$.ce", "utf-8"),
            ("$.cid", self._randomness.uuid()),
            ("$.uid", hub.name),
            ("hubName", hub.name),
            ("deviceId", ref.device_id),
            *([("moduleId", ref.module_id)] if ref.module_id else []),
            ("operationTimestamp", wire_time(self._clock.time())),
            ("iothub-message-schema", _SCHEMAS[source]),
            ("opType", operation),
        ]
        stamp = Stamp(ref.device_id, ref.module_id, "", None, source=source)
        head = encode_head(property_bag.encode(properties))
        record = encode_stamp(stamp) + head + _encode(body)
        partition = partition_of(ref.device_id, self._telemetry.partitions)
        try:
            future = self._telemetry.intake(hub).append(partition, [record])
        except MusterError as error:
            _log.warning("event not stored", subject=ref.text, source=source, reason=error.message)
            return
        future.add_done_callback(_look)

    def _sequence_number(self, at: float) -> str:
        """Return 64 hexadecimal digits that are above all before: a time, as Azure's are."""
        self._ticks = max(self._ticks + 1, int((at + _EPOCH_S) * _TICKS_S))
        return f"{self._ticks:032X}{0:032X}"


def updated(change: TwinChanged) -> JsonObject:
    """Return what an update of a twin changed, metadata of exactly that included."""
    body: JsonObject = {"version": change.version}
    if change.tags is not None:
        body["tags"] = twin_rules.without_service_members(change.tags)
    properties = {
        name: _written(section)
        for name, section in (("desired", change.desired), ("reported", change.reported))
        if section is not None
    }
    if properties:
        body["properties"] = properties
    return body


def _written(change: SectionChange) -> JsonObject:
    written = twin_rules.without_service_members(change.written)
    return {
        **written,
        "$metadata": _metadata(written, change.section.metadata),
        "$version": change.section.version,
    }


def _metadata(written: JsonObject, metadata: JsonObject) -> JsonObject:
    """Return the part of the metadata that is about what was written."""
    found: JsonObject = {name: value for name, value in metadata.items() if name.startswith("$")}
    pending: list[tuple[JsonObject, JsonObject, JsonObject]] = [(found, written, metadata)]
    while pending:
        target, values, marks = pending.pop()
        for name, value in values.items():
            mark = marks.get(name)
            if mark is None:
                # Deleted.
                continue
            if isinstance(value, dict):
                inner = {each: text for each, text in mark.items() if each.startswith("$")}
                target[name] = inner
                pending.append((inner, value, mark))
            else:
                target[name] = mark
    return found


def _shown(twin: dict[str, Any]) -> JsonObject:
    """Return a whole twin as events show it: tags only where there are any."""
    return twin if twin["tags"] else {name: twin[name] for name in twin if name != "tags"}


def _look(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        # Looked at, so that a failure is not reported as forgotten: the store logged it.
        future.exception()
