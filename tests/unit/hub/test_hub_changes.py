"""Changes: who acts on them hears of each, after its commit, and cannot disturb who made it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.hub.changes import (
    Change,
    Changes,
    ConnectionChanged,
    IdentityChanged,
    IdentityEvent,
    TwinChanged,
)
from muster.hub.twins import TwinProperties, TwinRequest
from muster.model.identity import ANY, DeviceRequest, IdentityRef, ModuleRequest

if TYPE_CHECKING:
    from unit.hub.hub_parts import Parts


async def test_every_kind_of_change_is_told(parts: Parts) -> None:
    told: list[Change] = []
    parts.changes.subscribe(told.append)
    ref = await parts.device("d1")
    module = await parts.module("d1", "m1")
    await parts.identities.update(ref.hub, "d1", DeviceRequest(status_reason="x"), ANY)
    await parts.modules.update(module, ModuleRequest(), ANY)
    patch = TwinRequest({"site": "a"}, TwinProperties({"x": 1}))
    await parts.twins.change(ref, patch)
    await parts.twins.change(ref, patch, replace=True)
    await parts.twins.report(module, {"r": 2})
    client = await parts.connect(ref)
    await client.disconnect()
    await parts.modules.delete(module, ANY)
    await parts.identities.delete(ref.hub, "d1", ANY)
    seen = [(change.ref.text, _what(change)) for change in told]
    assert seen == [
        ("d1", IdentityEvent.CREATED),
        ("d1/m1", IdentityEvent.CREATED),
        ("d1", IdentityEvent.UPDATED),
        ("d1/m1", IdentityEvent.UPDATED),
        ("d1", ({"site": "a"}, {"x": 1}, None, False, 3)),
        ("d1", ({"site": "a"}, {"x": 1}, None, True, 4)),
        ("d1/m1", (None, None, {"r": 2}, False, 3)),
        ("d1", True),
        ("d1", False),
        ("d1/m1", IdentityEvent.DELETED),
        ("d1", IdentityEvent.DELETED),
    ]


async def test_a_takeover_is_no_change_of_connection(parts: Parts) -> None:
    ref = await parts.device("d1")
    told: list[Change] = []
    parts.changes.subscribe(told.append)
    older = await parts.connect(ref)
    newer = await parts.connect(ref)
    await older.gone()
    assert [_what(change) for change in told] == [True]
    await newer.vanish()
    assert [_what(change) for change in told] == [True, False]


def test_a_failing_subscriber_disturbs_nobody() -> None:
    changes, told = Changes(), list[Change]()

    def fail(change: Change) -> None:
        raise RuntimeError(change.ref.text)

    changes.subscribe(fail)
    changes.subscribe(told.append)
    changes.publish(ConnectionChanged(IdentityRef(1, "d1"), True, 0.0))
    assert len(told) == 1


def _what(change: Change) -> object:
    if isinstance(change, IdentityChanged):
        return change.event
    if isinstance(change, TwinChanged):
        desired, reported = (part and part.written for part in (change.desired, change.reported))
        return change.tags, desired, reported, change.replaced, change.version
    return change.connected
