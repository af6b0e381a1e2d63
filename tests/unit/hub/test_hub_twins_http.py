"""The REST API for services: twins, and many identities at once (hub-service.md 1.3, 1.4)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from muster.model.identity import IdentityRef
from unit.hub.hub_parts import KEY, KEY2
from unit.hub.hub_rest import Rest

if TYPE_CHECKING:
    from unit.hub.hub_parts import Parts

NEVER = "0001-01-01T00:00:00Z"
KEYS = {"primaryKey": KEY, "secondaryKey": KEY2}
SAS = {"type": "sas", "symmetricKey": KEYS}


async def test_the_whole_body_of_a_twin(rest: Rest) -> None:
    device = await rest.must("PUT", "/devices/d1", {})
    reply = await rest.call("GET", "/twins/d1")
    assert reply.headers["etag"] == '"AAAAAAAAAAE="'
    empty = {"$metadata": {"$lastUpdated": NEVER}, "$version": 1}
    assert reply.json == {
        "deviceId": "d1",
        "etag": "AAAAAAAAAAE=",
        "deviceEtag": device["etag"],
        "status": "enabled",
        "statusReason": None,
        "statusUpdateTime": NEVER,
        "connectionState": "Disconnected",
        "lastActivityTime": NEVER,
        "cloudToDeviceMessageCount": 0,
        "authenticationType": "sas",
        "x509Thumbprint": {"primaryThumbprint": None, "secondaryThumbprint": None},
        "modelId": "",
        "version": 2,
        "tags": {},
        "properties": {"desired": empty, "reported": empty},
        "capabilities": {"iotEdge": False},
        "parentScopes": [],
    }


async def test_patches_and_puts(rest: Rest, parts: Parts) -> None:
    ref = await parts.device()
    await parts.twins.report(ref, {"r": 1})
    patch = {"tags": {"a": 1, "b": {"c": 2}}, "properties": {"desired": {"x": 1, "y": {"z": 2}}}}
    twin = await rest.must("PATCH", "/twins/d1", patch)
    assert twin["tags"] == {"a": 1, "b": {"c": 2}}
    assert twin["properties"]["desired"]["$version"] == 2
    # A tool sends the whole twin back; what is read-only is left alone.
    twin["tags"]["a"] = None
    same = await rest.must("PATCH", "/twins/d1", twin, if_match=f'"{twin["etag"]}"')
    assert same["tags"] == {"b": {"c": 2}}
    assert same["properties"]["reported"] == twin["properties"]["reported"]
    assert same["properties"]["desired"]["$version"] == 3
    put = await rest.must("PUT", "/twins/d1", {"properties": {"desired": {"n": [1]}}})
    assert put["tags"] == {}
    desired = put["properties"]["desired"]
    assert {k: v for k, v in desired.items() if k[0] != "$"} == {"n": [1]}
    assert put["properties"]["reported"]["r"] == 1
    assert await rest.must("GET", "/twins/d1") == put
    await parts.connections.tick()
    module = await parts.module()
    twin = await rest.must("PATCH", "/twins/d1/modules/m1", {"tags": {"t": 1}})
    assert (twin["deviceId"], twin["moduleId"], twin["tags"]) == ("d1", "m1", {"t": 1})
    assert "capabilities" not in twin
    assert (await parts.twins.get(module)).etag == twin["etag"]


async def test_numbers_and_texts_come_back_exactly(rest: Rest, parts: Parts) -> None:
    await parts.device()
    desired = {
        "i": 4503599627370495,
        "f": 0.1,
        "e": 1e-7,
        "s": 'ü\U0001f600"\\',
        "t": True,
        "l": [],
    }
    await rest.must("PATCH", "/twins/d1", {"properties": {"desired": desired}})
    view = json.loads((await parts.twins.device_view(IdentityRef(parts.hub.id, "d1"))).document)
    assert view["desired"] == desired | {"$version": 2}


async def test_bulk(rest: Rest) -> None:
    entries: list[dict[str, Any]] = [
        {"id": "b1", "importMode": "create", "authentication": SAS, "tags": {"t": 1}},
        {"id": "b2", "capabilities": {"iotEdge": True}, "properties": {"desired": {"x": 1}}},
        {"id": "b3", "importMode": "CreateOrUpdate", "status": "disabled"},
    ]
    assert await rest.must("POST", "/devices", entries) == {
        "isSuccessful": True,
        "errors": [],
        "warnings": [],
    }
    assert (await rest.must("GET", "/twins/b1"))["tags"] == {"t": 1}
    assert (await rest.must("GET", "/twins/b2"))["properties"]["desired"]["x"] == 1
    b3 = await rest.must("GET", "/devices/b3")
    assert b3["status"] == "disabled"
    b2 = await rest.must("GET", "/devices/b2")
    mixed = [
        {"id": "b1", "importMode": "create"},
        {"id": "b1", "moduleId": "m1", "importMode": "create"},
        {"id": "b2", "importMode": "updateIfMatchETag", "eTag": b2["etag"], "status": "disabled"},
        {"id": "b3", "importMode": "deleteIfMatchETag", "eTag": "bm8="},
        {"id": "b4", "importMode": "update"},
        {"id": "b5", "importMode": "conjure"},
        {"id": "b6", "importMode": "create"},
        {"id": "b6", "importMode": "create"},
        {"id": "b 7", "importMode": "create"},
    ]
    reply = await rest.call("POST", "/devices", mixed)
    assert reply.status == 400
    result = reply.json
    assert result["isSuccessful"] is False
    assert [(e["deviceId"], e["errorCode"], e["operation"]) for e in result["errors"]] == [
        ("b1", "DeviceAlreadyExists", "create"),
        ("b3", "PreconditionFailed", "deleteIfMatchETag"),
        ("b4", "DeviceNotFound", "update"),
        ("b5", "ArgumentInvalid", "conjure"),
        ("b6", "DeviceDefinedMultipleTimes", "create"),
        ("b6", "DeviceDefinedMultipleTimes", "create"),
        ("b 7", "ArgumentInvalid", "create"),
    ]
    assert result["errors"][0]["moduleId"] is None
    assert (await rest.must("GET", "/devices/b2"))["status"] == "disabled"
    twins = [
        {"id": "b1", "importMode": "updateTwin", "tags": {"u": 2}},
        {
            "id": "b2",
            "importMode": "updateTwinIfMatchETag",
            "twinETag": "AAAAAAAAAAE=",
            "properties": {"desired": {"x": None}},
        },
        {"id": "b3", "importMode": "delete"},
        {"id": "b1", "moduleId": "m1", "importMode": "delete"},
    ]
    await rest.must("POST", "/devices", twins)
    assert (await rest.must("GET", "/twins/b1"))["tags"] == {"t": 1, "u": 2}
    assert "x" not in (await rest.must("GET", "/twins/b2"))["properties"]["desired"]
    assert (await rest.call("GET", "/devices/b3")).status == 404
    assert (await rest.call("GET", "/devices/b1/modules/m1")).status == 404


async def test_bulk_bounds(rest: Rest) -> None:
    for entries in ([], [{"id": f"d{n}"} for n in range(101)], {}, [{"importMode": "create"}]):
        assert (await rest.call("POST", "/devices", entries)).error[0] == 400
    assert await rest.must("GET", "/devices") == []
