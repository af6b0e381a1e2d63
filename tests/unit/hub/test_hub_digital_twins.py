"""Digital twins, their commands, and new keys over REST (hub-service.md 1.1 rows 6, 37-40)."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from muster.model.identity import Authentication, DeviceRequest, IdentityRef
from muster.wire.mqtt.device_filters import METHODS
from muster.wire.mqtt.packets import Publish, Subscribe
from unit.hub.hub_parts import HOST, KEY, KEY2
from unit.hub.hub_rest import Rest

if TYPE_CHECKING:
    from unit.hub.hub_parts import Client, Parts

D1 = IdentityRef(1, "d1")
MODEL = "dtmi:com:example:Thermostat;1"
TWIN = "/digitaltwins/d1"


async def announced(parts: Parts, model_id: str | None) -> Client:
    tail = f"&model-id={model_id}" if model_id is not None else ""
    username = f"{HOST}/d1/?api-version=2021-04-12{tail}"
    return await parts.connect(D1, username=username)


async def test_a_model_is_shown_until_a_connect_without_one(parts: Parts, rest: Rest) -> None:
    await parts.device()
    for model_id in (MODEL, "dtmi%3Acom%3Aexample%3AOther%3B2", None):
        await (await announced(parts, model_id)).disconnect()
        shown = {MODEL: MODEL, None: ""}.get(model_id, "dtmi:com:example:Other;2")
        assert (await rest.must("GET", "/twins/d1"))["modelId"] == shown
        assert (await rest.must("GET", TWIN))["$metadata"]["$model"] == shown


async def test_a_patch_becomes_desired_properties(parts: Parts, rest: Rest) -> None:
    await parts.device()
    client = await parts.connect(D1)
    client.send(Subscribe(1, [("$iothub/twin/PATCH/properties/desired/#", 1)]))
    await client.take()
    patch = [
        {"op": "add", "path": "/rate", "value": 5},
        {"op": "add", "path": "/thermostat1/target", "value": 21.5},
    ]
    reply = await rest.call("PATCH", TWIN, patch, policy="service")
    assert (reply.status, reply.body) == (202, b"")
    assert reply.headers["location"] == f"https://{HOST}{TWIN}"
    (packet,) = await client.take()
    assert isinstance(packet, Publish)
    assert json.loads(packet.payload) == {
        "rate": 5,
        "thermostat1": {"__t": "c", "target": 21.5},
        "$version": 2,
    }
    found = await rest.call("GET", TWIN)
    assert found.headers["etag"] == reply.headers["etag"]
    assert found.json["$dtId"] == "d1"
    assert found.json["$metadata"]["rate"]["desiredVersion"] == 2
    stale = await rest.call("PATCH", TWIN, patch, if_match='"AAAAAAAAAAE="')
    assert stale.error == (412, "PreconditionFailed")
    bad = await rest.call("PATCH", TWIN, [{"op": "copy", "path": "/a", "from": "/b"}])
    assert bad.error == (400, "InvalidDigitalTwinJsonPatch")
    assert (await rest.call("GET", "/digitaltwins/d2")).error == (404, "DeviceNotFound")
    assert (await rest.call("GET", TWIN, policy="registryRead")).status == 401


@pytest.mark.parametrize(
    ("path", "name"), [("commands/reboot", "reboot"), ("components/t1/commands/max", "t1*max")]
)
async def test_commands_are_methods(parts: Parts, rest: Rest, path: str, name: str) -> None:
    await parts.device()
    client = await parts.connect(D1)
    client.send(Subscribe(1, [(METHODS, 1)]))
    await client.take()
    query = "api-version=2021-04-12&connectTimeoutInSeconds=1&responseTimeoutInSeconds=9"
    for body, sent in ((b'{"since":"x"}', b'{"since":"x"}'), (b"", b"null")):
        call = rest.call("POST", f"{TWIN}/{path}", body, query=query)
        calling = asyncio.ensure_future(call)
        (packet,) = await client.take()
        assert isinstance(packet, Publish)
        topic, _, request_id = packet.topic.partition("?$rid=")
        assert topic == f"$iothub/methods/POST/{name}/"
        assert packet.payload == sent
        client.publish(f"$iothub/methods/res/404/?$rid={request_id}", b'{"t": 1.0}', None)
        reply = await calling
        assert (reply.status, reply.body) == (200, b'{"t": 1.0}')
        assert reply.headers["x-ms-command-statuscode"] == "404"


async def test_commands_that_fail(parts: Parts, rest: Rest) -> None:
    await parts.device()
    command = f"{TWIN}/commands/m"
    for path, query, expected in (
        (command, "", 404103),
        ("/digitaltwins/d2/commands/m", "", 404001),
        (command, "&responseTimeoutInSeconds=x", 400004),
        (command, "&connectTimeoutInSeconds=301", 400004),
    ):
        reply = await rest.call("POST", path, {}, query=f"api-version=2021-04-12{query}")
        assert json.loads(reply.json["Message"])["errorCode"] == expected
        assert reply.status == expected // 1000


# New keys.


async def keys_of(rest: Rest, path: str) -> tuple[str, str]:
    found: dict[str, Any] = (await rest.must("GET", path))["authentication"]["symmetricKey"]
    return found["primaryKey"], found["secondaryKey"]


async def regenerate(rest: Rest, policy_key: str, *identities: str) -> tuple[int, Any]:
    devices = []
    for identity in identities:
        device_id, _, module_id = identity.partition("/")
        devices.append({"id": device_id} | ({"moduleId": module_id} if module_id else {}))
    body = {"policyKey": policy_key, "devices": devices}
    reply = await rest.call("POST", "/devices/keys/regenerate", body, policy="registryReadWrite")
    return reply.status, reply.json


async def test_keys_are_regenerated(parts: Parts, rest: Rest) -> None:
    await parts.device()
    await parts.module()
    module = "/devices/d1/modules/m1"
    status, result = await regenerate(rest, "primaryKey", "d1", "d1/m1")
    assert status == 200
    assert result == {
        "rotatedKeys": [{"id": "d1", "moduleId": None}, {"id": "d1", "moduleId": "m1"}],
        "errors": [],
    }
    for path in ("/devices/d1", module):
        primary, secondary = await keys_of(rest, path)
        assert primary != KEY
        assert secondary == KEY2
    before = await keys_of(rest, "/devices/d1")
    assert (await regenerate(rest, "secondaryKey", "d1"))[0] == 200
    after = await keys_of(rest, "/devices/d1")
    assert (after[0], after[1] != before[1]) == (before[0], True)
    assert (await regenerate(rest, "both", "d1"))[0] == 200
    assert not set(after) & set(await keys_of(rest, "/devices/d1"))
    assert await keys_of(rest, module) == (primary, KEY2)


async def test_keys_that_cannot_be_regenerated(parts: Parts, rest: Rest) -> None:
    await parts.device()
    none = Authentication(None, None, "none")
    await parts.identities.create(1, "keyless", DeviceRequest(authentication=none))
    status, result = await regenerate(rest, "both", "d1", "d2", "d1/m9", "keyless")
    assert status == 207
    assert [entry["id"] for entry in result["rotatedKeys"]] == ["d1"]
    found = [(each["id"], each["moduleId"], each["errorCode"]) for each in result["errors"]]
    assert found == [
        ("d2", None, "DeviceNotFound"),
        ("d1", "m9", "ModuleNotFound"),
        ("keyless", None, "InvalidOperation"),
    ]
    shown = await rest.must("GET", "/devices/keyless")
    assert shown["authentication"]["type"] == "none"
    assert (await regenerate(rest, "both", "d2"))[0] == 400
    before = await keys_of(rest, "/devices/d1")
    status, result = await regenerate(rest, "both", "d1", "d1")
    assert (status, result["rotatedKeys"]) == (400, [])
    assert {each["errorCode"] for each in result["errors"]} == {"DeviceDefinedMultipleTimes"}
    assert await keys_of(rest, "/devices/d1") == before
    body = {"policyKey": "third", "devices": [{"id": "d1"}]}
    reply = await rest.call("POST", "/devices/keys/regenerate", body)
    assert reply.error == (400, "InvalidPolicyKey")
    for devices in ([], [{"id": "d1"}] * 101):
        body = {"policyKey": "both", "devices": devices}
        reply = await rest.call("POST", "/devices/keys/regenerate", body)
        assert reply.error == (400, "ArgumentInvalid")
