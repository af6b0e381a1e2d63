"""The REST API for services: edge devices, their families and modules (hub-service.md 1.1, 1.2)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from muster.auth import sas_token, symmetric_keys
from unit.hub.hub_parts import HOST, KEY, KEY2
from unit.hub.hub_rest import Rest, segment

if TYPE_CHECKING:
    from unit.hub.hub_parts import Parts

NEVER = "0001-01-01T00:00:00Z"
KEYS = {"primaryKey": KEY, "secondaryKey": KEY2}
SAS = {"type": "sas", "symmetricKey": KEYS}


async def test_an_edge_device_comes_whole(rest: Rest) -> None:
    edge = await rest.must("PUT", "/devices/e1", {"capabilities": {"iotEdge": True}})
    assert edge["deviceScope"] == f"ms-azure-iot-edge://e1-{edge['generationId']}"
    assert edge["parentScopes"] == []
    modules = await rest.must("GET", "/devices/e1/modules")
    assert [module["moduleId"] for module in modules] == ["$edgeAgent", "$edgeHub"]
    keys = {module["authentication"]["symmetricKey"]["primaryKey"] for module in modules}
    assert len(keys) == 2
    assert {module["managedBy"] for module in modules} == {"iotEdge"}
    for module_id in ("$edgeAgent", "$edgeHub"):
        path = f"e1/modules/{segment(module_id)}"
        twin = await rest.must("GET", f"/twins/{path}")
        assert twin["properties"]["desired"]["$version"] == 1
        reply = await rest.call("DELETE", f"/devices/{path}", if_match="*")
        assert reply.error == (401, "SystemModuleModifyUnauthorizedAccess")
        reply = await rest.call("PUT", f"/devices/{path}", {})
        assert reply.error == (409, "ModuleAlreadyExistsOnDevice")
        changed = await rest.must("PUT", f"/devices/{path}", {"authentication": SAS}, if_match="*")
        assert changed["authentication"]["symmetricKey"] == KEYS
        assert changed["managedBy"] == "iotEdge"


async def test_the_edge_capability_comes_and_goes(rest: Rest, parts: Parts) -> None:
    await rest.must("PUT", "/devices/e1", {})
    edge = await rest.must("PUT", "/devices/e1", {"capabilities": {"iotEdge": True}}, if_match="*")
    assert len(await rest.must("GET", "/devices/e1/modules")) == 2
    await parts.module("e1")
    leaf = await rest.must("PUT", "/devices/l1", {"deviceScope": edge["deviceScope"]})
    off = edge | {"capabilities": {"iotEdge": False}}
    reply = await rest.call("PUT", "/devices/e1", off, if_match="*")
    assert reply.error == (400, "InvalidOperation")
    await rest.must("PUT", "/devices/l1", leaf | {"deviceScope": ""}, if_match="*")
    plain = await rest.must("PUT", "/devices/e1", off, if_match="*")
    assert "deviceScope" not in plain
    assert [m["moduleId"] for m in await rest.must("GET", "/devices/e1/modules")] == ["m1"]
    assert (await rest.call("GET", "/twins/e1/modules/%24edgeHub")).status == 404


async def test_parents(rest: Rest) -> None:
    top = await rest.must("PUT", "/devices/top", {"capabilities": {"iotEdge": True}})
    scope = top["deviceScope"]
    middle = await rest.must(
        "PUT",
        "/devices/middle",
        {"capabilities": {"iotEdge": True}, "deviceScope": "ignored", "parentScopes": [scope]},
    )
    assert middle["parentScopes"] == [scope]
    assert middle["deviceScope"].startswith("ms-azure-iot-edge://middle-")
    leaf = await rest.must("PUT", "/devices/leaf", {"parentScopes": [scope]})
    assert (leaf["deviceScope"], leaf["parentScopes"]) == (scope, [scope])
    # Whatever is sent back as it came changes nothing.
    for name, before in (("leaf", leaf), ("middle", middle), ("top", top)):
        after = await rest.must("PUT", f"/devices/{name}", before, if_match="*")
        assert after["parentScopes"] == before["parentScopes"]
        assert after["deviceScope"] == before["deviceScope"]
    kept = await rest.must("PUT", "/devices/leaf", {"status": "enabled"}, if_match="*")
    assert kept["deviceScope"] == scope
    moved = leaf | {"deviceScope": middle["deviceScope"]}
    moved = await rest.must("PUT", "/devices/leaf", moved, if_match="*")
    assert moved["parentScopes"] == [middle["deviceScope"]]
    for device, parents in (("top", [middle["deviceScope"]]), ("top", [scope])):
        reply = await rest.call(
            "PUT", f"/devices/{device}", {"parentScopes": parents}, if_match="*"
        )
        assert reply.error == (400, "InvalidDeviceScope")
    # Nor by two who do half of it each, at the same moment.
    pair = [
        await rest.must("PUT", f"/devices/ring-{n}", {"capabilities": {"iotEdge": True}})
        for n in range(2)
    ]
    replies = await asyncio.gather(
        *(
            rest.call(
                "PUT",
                f"/devices/ring-{n}",
                {**pair[n], "parentScopes": [pair[1 - n]["deviceScope"]]},
                if_match="*",
            )
            for n in range(2)
        )
    )
    assert sorted(reply.status for reply in replies) == [200, 400]
    for wrong in ("x", "ms-azure-iot-edge://leaf-1", f"{scope}1"):
        reply = await rest.call("PUT", "/devices/l2", {"deviceScope": wrong})
        assert reply.error == (400, "InvalidDeviceScope")
    await rest.must("DELETE", "/devices/middle", if_match="*")
    orphan = await rest.must("GET", "/devices/leaf")
    assert "deviceScope" not in orphan
    assert orphan["parentScopes"] == []
    reply = await rest.call("PUT", "/devices/leaf", moved, if_match=f'"{moved["etag"]}"')
    assert reply.status == 412


async def test_the_whole_body_of_a_module(rest: Rest, parts: Parts) -> None:
    await parts.device()
    body = {"moduleId": "m1", "deviceId": "d1", "managedBy": "IotEdge", "authentication": SAS}
    made = await rest.must("PUT", "/devices/d1/modules/m1", body)
    assert await rest.must("GET", "/devices/d1/modules/m1") == made
    made.pop("generationId")
    made.pop("etag")
    assert made == {
        "moduleId": "m1",
        "managedBy": "IotEdge",
        "deviceId": "d1",
        "connectionState": "Disconnected",
        "connectionStateUpdatedTime": NEVER,
        "lastActivityTime": NEVER,
        "cloudToDeviceMessageCount": 0,
        "authentication": {
            "symmetricKey": KEYS,
            "x509Thumbprint": {"primaryThumbprint": None, "secondaryThumbprint": None},
            "type": "sas",
        },
    }
    await rest.must("DELETE", "/devices/d1/modules/m1", if_match='"*"')
    assert (await rest.call("GET", "/twins/d1/modules/m1")).status == 404


async def test_an_edge_daemon_keeps_its_modules_with_the_device_key(
    rest: Rest, parts: Parts
) -> None:
    # edge.md 2.2: lower-cased audience, no skn, first without and then with keys.
    ref = await parts.device("Edge-1")
    other = await parts.device("other")
    token = sas_token.sign(
        f"{HOST}/devices/edge-1", symmetric_keys.decode(KEY), int(parts.clock.time()) + 30
    )
    path = "/devices/Edge-1/modules/m1"
    query = "api-version=2017-11-08-preview"
    options: dict[str, Any] = {"authorization": token, "query": query}
    body: dict[str, Any] = {"moduleId": "m1", "deviceId": "Edge-1"}
    made = await rest.must("PUT", path, body | {"authentication": {"type": "none"}}, **options)
    assert made["generationId"]
    full = await rest.must("PUT", path, body | {"authentication": SAS}, if_match="*", **options)
    assert full["generationId"] == made["generationId"]
    assert len(await rest.must("GET", "/devices/Edge-1/modules", **options)) == 1
    await rest.must("DELETE", path, if_match="*", **options)
    for method, foreign in (
        ("GET", "/devices/other/modules"),
        ("GET", "/devices/Edge-1"),
        ("GET", "/twins/Edge-1"),
    ):
        assert (await rest.call(method, foreign, **options)).status == 401
    assert ref != other
