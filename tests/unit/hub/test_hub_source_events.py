"""Events the hub tells of itself: exactly the bodies and properties of hub-service.md 7."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from muster.hub.twins import TwinProperties, TwinRequest
from muster.model.identity import ANY, DeviceRequest
from muster.model.routing import EVENTS, Route, Source
from unit.hub.hub_parts import HOST, body_of, until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from muster.hub.events import Event
    from unit.hub.hub_parts import Parts

GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NAME = HOST.partition(".")[0]
NEVER = {"$lastUpdated": "0001-01-01T00:00:00Z"}


async def told(
    parts: Parts, source: Source, make: Callable[[], Coroutine[Any, Any, Any]], count: int
) -> list[Event]:
    """Return the events of a source that something makes, the properties all have checked."""
    await parts.routing.save_route(
        parts.hub, Route(name="r", source=source.value, endpoint_names=(EVENTS,))
    )
    now = parts.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    await make()
    log = parts.telemetry.log(parts.hub)
    await until(lambda: sum(log.bounds(each)[1] for each in range(4)) >= count)
    found = sorted(await parts.events(), key=lambda event: event.offset)
    assert len(found) == count
    for event in found:
        system = dict(event.system_properties)
        assert GUID.fullmatch(str(system.pop("correlation-id")))
        wanted = {
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "user-id": NAME,
            "iothub-connection-device-id": event.device_id,
            "iothub-enqueuedtime": now,
            "iothub-message-source": event.source,
        }
        own = {
            "hubName": NAME,
            "deviceId": event.device_id,
            "operationTimestamp": now,
            "iothub-message-schema": event.properties["iothub-message-schema"],
            "opType": event.properties["opType"],
        }
        if event.module_id:
            wanted["iothub-connection-module-id"] = event.module_id
            own["moduleId"] = event.module_id
        assert system == wanted
        assert event.properties == own
    return found


def what(event: Event) -> tuple[str, str | None, str | None, str | None]:
    properties = event.properties
    return (
        event.source,
        properties["iothub-message-schema"],
        properties["opType"],
        properties.get("moduleId"),
    )


async def test_devices_and_modules_come_and_go(parts: Parts) -> None:
    async def make() -> None:
        tags = {"site": "a"}
        await parts.identities.create(
            parts.hub.id, "d1", DeviceRequest(), tags=tags, desired={"x": 1}
        )
        ref = await parts.module("d1", "m1")
        await parts.identities.update(ref.hub, "d1", DeviceRequest(status_reason="why"), ANY)
        await parts.modules.delete(ref, ANY)
        await parts.identities.delete(ref.hub, "d1", ANY)

    created, module, module_gone, gone = await told(parts, Source.LIFECYCLE, make, 4)
    schema = ("deviceLifecycleEvents", "deviceLifecycleNotification")
    assert what(created) == (*schema, "createDeviceIdentity", None)
    assert what(module) == (*schema, "createDeviceIdentity", "m1")
    assert what(module_gone) == (*schema, "deleteDeviceIdentity", "m1")
    assert what(gone) == (*schema, "deleteDeviceIdentity", None)
    empty = {"$metadata": NEVER, "$version": 1}
    assert body_of(module) == {
        "deviceId": "d1",
        "moduleId": "m1",
        "etag": "AAAAAAAAAAE=",
        "version": 2,
        "properties": {"desired": empty, "reported": empty},
    }
    assert body_of(module_gone) == body_of(module)
    now = parts.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    stamp = {"$lastUpdated": now, "$lastUpdatedVersion": 1}
    assert body_of(created) == {
        "deviceId": "d1",
        "etag": "AAAAAAAAAAE=",
        "version": 2,
        "tags": {"site": "a"},
        "properties": {
            "desired": {"x": 1, "$metadata": {**stamp, "x": stamp}, "$version": 1},
            "reported": empty,
        },
    }
    assert body_of(gone) == body_of(created)


async def test_twins_change(parts: Parts) -> None:
    ref = await parts.device("d1")
    await parts.twins.change(
        ref, TwinRequest({"site": "a"}, TwinProperties({"x": 1, "deep": {"a": 1, "b": 2}}))
    )

    async def make() -> None:
        patch = TwinProperties({"x": None, "deep": {"b": 3}})
        await parts.twins.change(ref, TwinRequest({"site": "b"}, patch))
        await parts.twins.report(ref, {"fw": "1", "list": [1, {"a": 2}]})
        await parts.twins.change(ref, TwinRequest({"new": 1}, TwinProperties({})), replace=True)

    patched, reported, replaced = await told(parts, Source.TWIN_CHANGES, make, 3)
    schema = ("twinChangeEvents", "twinChangeNotification")
    assert what(patched) == (*schema, "updateTwin", None)
    assert what(reported) == (*schema, "updateTwin", None)
    assert what(replaced) == (*schema, "replaceTwin", None)
    now = parts.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    stamp = {"$lastUpdated": now, "$lastUpdatedVersion": 3}
    assert body_of(patched) == {
        "version": 4,
        "tags": {"site": "b"},
        "properties": {
            "desired": {
                "x": None,
                "deep": {"b": 3},
                # Of what was written, and of nothing else.
                "$metadata": {**stamp, "deep": {**stamp, "b": stamp}},
                "$version": 3,
            }
        },
    }
    stamp = {"$lastUpdated": now}
    assert body_of(reported) == {
        "version": 5,
        "properties": {
            "reported": {
                "fw": "1",
                "list": [1, {"a": 2}],
                "$metadata": {**stamp, "fw": stamp, "list": stamp},
                "$version": 2,
            }
        },
    }
    whole = body_of(replaced)
    assert (whole["deviceId"], whole["version"], whole["tags"]) == ("d1", 6, {"new": 1})
    assert whole["etag"] == (await parts.twins.get(ref)).etag
    assert whole["properties"] == (await parts.twins.get(ref)).properties


async def test_devices_connect_and_disconnect(parts: Parts) -> None:
    ref = await parts.device("d1")
    module = await parts.module("d1", "m1")

    async def make() -> None:
        client = await parts.connect(ref)
        again = await parts.connect(ref)
        await client.gone()
        await again.disconnect()
        await parts.connect(module)

    found = await told(parts, Source.CONNECTION_STATE, make, 3)
    schema = ("deviceConnectionStateEvents", "deviceConnectionStateNotification")
    assert [what(event) for event in found] == [
        (*schema, "deviceConnected", None),
        (*schema, "deviceDisconnected", None),
        (*schema, "deviceConnected", "m1"),
    ]
    numbers = [body_of(event)["sequenceNumber"] for event in found]
    assert all(re.fullmatch(r"[0-9A-F]{64}", number) for number in numbers)
    assert numbers == sorted(set(numbers))
    assert all(list(body_of(event)) == ["sequenceNumber"] for event in found)


@pytest.mark.parametrize("source", [source for source in Source if source is not Source.MESSAGES])
async def test_nothing_is_told_without_a_route(parts: Parts, source: Source) -> None:
    others = [each for each in Source if each is not source]
    for each in others:
        await parts.routing.save_route(
            parts.hub, Route(name=each.value, source=each.value, endpoint_names=(EVENTS,))
        )
    ref = await parts.device("d1")
    await parts.twins.change(ref, TwinRequest({"a": 1}))
    await (await parts.connect(ref)).disconnect()
    log = parts.telemetry.log(parts.hub)
    await until(lambda: sum(log.bounds(each)[1] for each in range(4)) >= 2)
    seen = {event.source.lower() for event in await parts.events()}
    assert source.value.lower() not in seen
    assert seen == {each.value.lower() for each in others if each is not Source.MESSAGES}
