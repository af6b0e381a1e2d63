"""The REST API for services: devices, rights and errors (hub-service.md 1.1, 1.2, 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from muster.auth import sas_token, symmetric_keys
from muster.hub.endpoints import errors
from muster.model.identity import IdentityRef
from unit.hub.hub_parts import HOST, KEY, KEY2
from unit.hub.hub_rest import Rest, segment

if TYPE_CHECKING:
    from unit.hub.hub_parts import Parts

NEVER = "0001-01-01T00:00:00Z"
KEYS = {"primaryKey": KEY, "secondaryKey": KEY2}
SAS = {"type": "sas", "symmetricKey": KEYS}


async def test_the_whole_body_of_a_device(rest: Rest) -> None:
    body = {"deviceId": "d1", "status": "enabled", "authentication": SAS}
    reply = await rest.call("PUT", "/devices/d1", body)
    made = reply.json
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    assert reply.headers["x-ms-request-id"]
    assert made.pop("generationId").isdigit()
    assert reply.headers["etag"] == f'"{made.pop("etag")}"'
    assert made == {
        "deviceId": "d1",
        "connectionState": "Disconnected",
        "status": "enabled",
        "statusReason": None,
        "connectionStateUpdatedTime": NEVER,
        "statusUpdatedTime": NEVER,
        "lastActivityTime": NEVER,
        "cloudToDeviceMessageCount": 0,
        "authentication": {
            "symmetricKey": KEYS,
            "x509Thumbprint": {"primaryThumbprint": None, "secondaryThumbprint": None},
            "type": "sas",
        },
        "capabilities": {"iotEdge": False},
        "parentScopes": [],
    }
    assert await rest.must("GET", "/devices/d1") == reply.json
    assert await rest.must("GET", "/Devices/d1/") == reply.json


@pytest.mark.parametrize(
    "authentication",
    [
        None,
        {},
        {"type": "sas"},
        {"type": "sas", "symmetricKey": None},
        {"symmetricKey": {"primaryKey": "", "secondaryKey": ""}},
    ],
)
async def test_keys_are_made_when_missing(rest: Rest, authentication: Any) -> None:
    made = await rest.must("PUT", "/devices/d1", {"authentication": authentication})
    keys = made["authentication"]["symmetricKey"]
    assert len(symmetric_keys.decode(keys["primaryKey"])) == 64
    assert keys["primaryKey"] != keys["secondaryKey"]
    assert made["authentication"]["type"] == "sas"


async def test_updates_keep_what_they_do_not_name(rest: Rest, parts: Parts) -> None:
    await rest.must("PUT", "/devices/d1", {"authentication": SAS, "statusReason": "new"})
    parts.clock.advance(60)
    body = {"deviceId": "d1", "status": "disabled", "statusReason": "lost"}
    off = await rest.must("PUT", "/devices/d1", body, if_match='"*"')
    assert off["authentication"]["symmetricKey"] == KEYS
    assert (off["status"], off["statusReason"]) == ("disabled", "lost")
    assert off["statusUpdatedTime"] == parts.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    parts.clock.advance(60)
    same = await rest.must("PUT", "/devices/d1", {"authentication": SAS}, if_match="*")
    assert (same["status"], same["statusReason"]) == ("disabled", "lost")
    assert same["statusUpdatedTime"] == off["statusUpdatedTime"]
    assert same["generationId"] == off["generationId"]
    assert same["etag"] != off["etag"]
    none = await rest.must("PUT", "/devices/d1", {"authentication": {"type": "none"}}, if_match="*")
    assert none["authentication"]["symmetricKey"] == {"primaryKey": None, "secondaryKey": None}
    assert none["authentication"]["type"] == "none"


@pytest.mark.parametrize(
    ("method", "path", "body", "if_match", "status", "name"),
    [
        ("GET", "/devices/d9", None, None, 404, "DeviceNotFound"),
        ("PUT", "/devices/d1", {}, None, 409, "DeviceAlreadyExists"),
        ("PUT", "/devices/d9", {}, "*", 404, "DeviceNotFound"),
        ("PUT", "/devices/d1", {}, '"bm8="', 412, "PreconditionFailed"),
        ("PUT", "/devices/d1", {"deviceId": "d2"}, "*", 400, "ArgumentInvalid"),
        ("PUT", "/devices/d1", b"{", "*", 400, "IotHubFormatError"),
        ("PUT", "/devices/d1", {"status": 5}, "*", 400, "ArgumentInvalid"),
        ("PUT", "/devices/d1", {"status": "on"}, "*", 400, "ArgumentInvalid"),
        ("PUT", "/devices/d1", {"statusReason": "x" * 129}, "*", 400, "ArgumentInvalid"),
        ("PUT", "/devices/a%2Fb", {}, None, 400, "ArgumentInvalid"),
        ("PUT", "/devices/" + "x" * 129, {}, None, 400, "ArgumentInvalid"),
        (
            "PUT",
            "/devices/d2",
            {"authentication": {"type": "selfSigned"}},
            None,
            400,
            "ArgumentInvalid",
        ),
        (
            "PUT",
            "/devices/d2",
            {"authentication": {"symmetricKey": {"primaryKey": "c2hvcnQ="}}},
            None,
            400,
            "ArgumentInvalid",
        ),
        ("DELETE", "/devices/d1", None, None, 400, "ArgumentNull"),
        ("DELETE", "/devices/d1", None, '"bm8="', 412, "PreconditionFailed"),
        ("DELETE", "/devices/d9", None, "*", 404, "DeviceNotFound"),
        ("GET", "/devices/d9/modules", None, None, 404, "DeviceNotFound"),
        ("GET", "/devices/d9/modules/m", None, None, 404, "DeviceNotFound"),
        ("GET", "/devices/d1/modules/m", None, None, 404, "ModuleNotFound"),
        ("PUT", "/devices/d9/modules/m", {}, None, 404, "DeviceNotFound"),
        ("PUT", "/devices/d1/modules/m1", {}, None, 409, "ModuleAlreadyExistsOnDevice"),
        ("PUT", "/devices/d1/modules/m", {}, "*", 404, "ModuleNotFound"),
        ("PUT", "/devices/d1/modules/m1", {"moduleId": "m2"}, "*", 400, "ArgumentInvalid"),
        (
            "PUT",
            "/devices/d1/modules/$edgeAgent",
            {},
            None,
            401,
            "SystemModuleModifyUnauthorizedAccess",
        ),
        ("DELETE", "/devices/d1/modules/m1", None, '"bm8="', 412, "PreconditionFailed"),
        ("GET", "/twins/d9", None, None, 404, "DeviceNotFound"),
        ("GET", "/twins/d1/modules/m", None, None, 404, "ModuleNotFound"),
        ("PATCH", "/twins/d1", {"tags": {}}, '"AAAAAAAAAAk="', 412, "PreconditionFailed"),
        ("PATCH", "/twins/d1", {"tags": {"a b": 1}}, None, 400, "ArgumentInvalid"),
        ("PATCH", "/twins/d1", {"properties": []}, None, 400, "ArgumentInvalid"),
        ("PATCH", "/twins/d1", b"x" * 300_000, None, 413, "MessageTooLarge"),
        ("POST", "/devices/d1", {}, None, 405, "GenericMethodNotAllowed"),
        ("GET", "/devices/d1/x/y/z", None, None, 404, "GenericNotFound"),
    ],
)
async def test_refusals(  # noqa: PLR0917 - one row of the table
    rest: Rest,
    parts: Parts,
    method: str,
    path: str,
    body: Any,
    if_match: str | None,
    status: int,
    name: str,
) -> None:
    await parts.device()
    await parts.module()
    reply = await rest.call(method, path, body, if_match=if_match)
    assert reply.error == (status, name)


def test_numbers_names_and_statuses_agree() -> None:
    rows = [*errors.BY_CODE.values(), *(row for _, row in errors.BY_MEANING)]
    assert all(400 <= row.status < 600 for row in rows)
    by_number: dict[int, str] = {}
    for row in rows:
        assert by_number.setdefault(row.number, row.name) == row.name


async def test_api_version_is_mandatory(rest: Rest) -> None:
    for query in ("", "api-version=", "api-version=soon"):
        reply = await rest.call("GET", "/devices", query=query)
        assert reply.error == (400, "InvalidProtocolVersion")
        assert reply.json["Message"] == "ErrorCode:InvalidProtocolVersion;BadRequest"
    for version in ("2021-04-12", "2024-03-31", "2020-05-31-preview", "2017-11-08-Preview"):
        assert (await rest.call("GET", "/devices", query=f"api-version={version}")).status == 200


async def test_lists(rest: Rest, parts: Parts) -> None:
    for number in (3, 1, 2):
        await parts.device(f"d{number}")
    await parts.module("d1")
    listed = await rest.must("GET", "/devices/", query="api-version=2021-04-12&top=2")
    assert [device["deviceId"] for device in listed] == ["d1", "d2"]
    for top in ("0", "-1", "1001", "many", ""):
        query = f"api-version=2021-04-12&top={top}"
        assert len(await rest.must("GET", "/devices", query=query)) == 3


async def test_every_allowed_character(rest: Rest) -> None:
    device_id = "aZ9-:.+%_#*?!(),=@$';"
    await rest.must("PUT", f"/devices/{segment(device_id)}", {"deviceId": device_id})
    await rest.must("PUT", f"/devices/{segment(device_id)}/modules/{segment('$m%')}", {})
    (module,) = await rest.must("GET", f"/devices/{segment(device_id)}/modules")
    assert (module["deviceId"], module["moduleId"]) == (device_id, "$m%")
    await rest.must("DELETE", f"/devices/{segment(device_id)}", if_match="*")


async def test_a_deleted_device_leaves_nothing_behind(rest: Rest, parts: Parts) -> None:
    first = await rest.must("PUT", "/devices/d1", {"capabilities": {"iotEdge": True}})
    await parts.module()
    await rest.must("PATCH", "/twins/d1", {"tags": {"a": 1}})
    await rest.must("DELETE", "/devices/d1", if_match=f'"{first["etag"]}"')
    for path in ("/devices/d1", "/devices/d1/modules/m1", "/twins/d1", "/twins/d1/modules/m1"):
        assert (await rest.call("GET", path)).status == 404
    second = await rest.must("PUT", "/devices/d1", {})
    assert int(second["generationId"]) > int(first["generationId"])
    assert await rest.must("GET", "/devices/d1/modules") == []
    assert (await rest.must("GET", "/twins/d1"))["tags"] == {}


async def test_statistics(rest: Rest, parts: Parts) -> None:
    assert await rest.must("GET", "/statistics/devices") == {
        "totalDeviceCount": 0,
        "enabledDeviceCount": 0,
        "disabledDeviceCount": 0,
    }
    refs = [await parts.device(f"d{number}") for number in range(3)]
    await parts.device("d3", status="disabled")
    await rest.must("PUT", "/devices/d2", {"status": "disabled"}, if_match="*")
    await rest.must("DELETE", "/devices/d3", if_match="*")
    assert await rest.must("GET", "/statistics/devices") == {
        "totalDeviceCount": 3,
        "enabledDeviceCount": 2,
        "disabledDeviceCount": 1,
    }
    await parts.connect(refs[0])
    await parts.module("d1")
    await parts.connect(IdentityRef(parts.hub.id, "d1", "m1"))
    assert await rest.must("GET", "/statistics/service") == {"connectedDeviceCount": 1}


async def test_hubs_are_told_apart_by_host(rest: Rest, parts: Parts) -> None:
    await parts.device()
    # An only hub answers under every name, for tokens that are its own.
    assert (await rest.call("GET", "/devices/d1", host="127.0.0.1:8443")).status == 200
    assert (await rest.call("GET", "/devices/d1", host=f"{HOST.upper()}:443")).status == 200
    second = await parts.hubs.create("Second.Example")
    await parts.telemetry.open(second)
    assert (await rest.call("GET", "/devices/d1", host="127.0.0.1")).error == (
        401,
        "IotHubNotFound",
    )
    assert (await rest.call("GET", "/devices/d1")).status == 200
    assert (await rest.call("GET", "/devices/d1", host="second.example")).status == 401
    key = symmetric_keys.decode(second.policies["iothubowner"].keys.primary)
    token = sas_token.sign("second.example", key, int(parts.clock.time()) + 60, "iothubowner")
    options: dict[str, Any] = {"host": "second.example", "authorization": token}
    assert (await rest.call("GET", "/devices/d1", **options)).status == 404
    await rest.must("PUT", "/devices/d1", {}, **options)
    assert (await rest.must("GET", "/statistics/devices"))["totalDeviceCount"] == 1


async def test_a_service_comes_to_no_keys_by_an_export(rest: Rest) -> None:
    for policy in ("service", "registryRead"):
        reply = await rest.call("POST", "/admin/v1/identity-files", {}, policy=policy)
        assert reply.error == (401, "IotHubUnauthorizedAccess")


async def test_rights_and_their_explanation(rest: Rest, parts: Parts) -> None:
    await parts.device()
    calls = {
        "RegistryRead": ("GET", "/devices/d1", None),
        "RegistryWrite": ("PUT", "/devices/d1/modules/m", {}),
        "ServiceConnect": ("PATCH", "/twins/d1", {"tags": {}}),
    }
    may = {
        "service": {"ServiceConnect"},
        "device": set(),
        "registryRead": {"RegistryRead"},
        "registryReadWrite": {"RegistryRead", "RegistryWrite"},
    }
    for policy, rights in may.items():
        for needed, (method, path, body) in calls.items():
            reply = await rest.call(method, path, body, policy=policy)
            assert (reply.status == 401) == (needed not in rights), (policy, needed)
    reply = await rest.call("GET", "/devices/d1", policy="device")
    assert reply.error == (401, "IotHubUnauthorizedAccess")
    assert reply.json["Message"] == "ErrorCode:IotHubUnauthorizedAccess;Unauthorized"
    (decision,) = await parts.decisions.find(reply.headers["x-ms-request-id"])
    assert (decision.check, decision.subject) == ("missing-right", "/devices/d1")
    assert decision.facts["needs"] == "RegistryRead"
    expired = sas_token.sign(
        "elsewhere",
        symmetric_keys.decode(parts.hub.policies["service"].keys.primary),
        int(parts.clock.time()) + 60,
        "service",
    )
    await rest.call("GET", "/statistics/devices", authorization=expired)
    (decision,) = await parts.decisions.find("/statistics/devices")
    assert decision.check == "wrong-audience"
    assert (decision.facts["token_resource"], decision.facts["expected"]) == ("elsewhere", HOST)
    reply = await rest.call("GET", "/devices/d1", authorization="")
    assert reply.json["Message"].endswith(";Authorization header missing")
