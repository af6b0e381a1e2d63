"""A hub's REST surface as its many callers write to it (hub-service.md 1, 2, 10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.device import unique
from support.secrets import new_key, raw_token, token
from support.service import Service, segment

if TYPE_CHECKING:
    from support.https import Reply
    from support.instance import Instance


@pytest.fixture
def hub(instance: Instance) -> Service:
    return instance.hub()


def is_error(reply: Reply, status: int, name: str | None = None) -> None:
    """Check shape A of hub-service.md 2.2."""
    assert reply.status == status, reply.body
    said = reply.json["Message"].removeprefix("ErrorCode:").partition(";")[0]
    assert reply.json["Message"].startswith(f"ErrorCode:{said};")
    assert reply.headers["iothub-errorcode"] == said
    assert reply.json["ExceptionMessage"].startswith("Tracking ID:")
    assert reply.headers["x-ms-request-id"]
    if name is not None:
        assert said == name


def test_the_exact_body_of_a_new_identity(hub: Service) -> None:
    device_id = unique("exact")
    keys = (new_key(), new_key())
    symmetric = {"primaryKey": keys[0], "secondaryKey": keys[1]}
    body = {
        "deviceId": device_id,
        "status": "enabled",
        "authentication": {"symmetricKey": symmetric, "type": "sas"},
        "capabilities": {"iotEdge": False},
    }
    created = hub.call("PUT", f"/devices/{device_id}", body)
    assert created.status == 200
    never = "0001-01-01T00:00:00Z"
    answer = created.json
    assert answer["generationId"]
    assert answer["etag"]
    assert '"' not in answer["etag"]
    assert answer["connectionState"] == "Disconnected"
    assert answer["connectionStateUpdatedTime"] == never
    assert answer["lastActivityTime"] == never
    assert answer["cloudToDeviceMessageCount"] == 0
    assert answer["parentScopes"] == []
    assert answer["capabilities"] == {"iotEdge": False}
    assert answer["authentication"]["symmetricKey"] == symmetric
    assert hub.must("GET", f"/devices/{device_id}") == answer


@pytest.mark.parametrize("keys", [{}, {"primaryKey": "", "secondaryKey": ""}, None], ids=repr)
def test_missing_keys_are_made(hub: Service, keys: dict[str, str] | None) -> None:
    device_id = unique("made")
    body = {"deviceId": device_id, "authentication": {"type": "sas", "symmetricKey": keys}}
    made = hub.must("PUT", f"/devices/{device_id}", body)["authentication"]["symmetricKey"]
    assert made["primaryKey"]
    assert made["secondaryKey"]


def test_a_device_with_nothing_said(hub: Service) -> None:
    device_id = unique("bare")
    answer = hub.must("PUT", f"/devices/{device_id}", {"deviceId": device_id})
    assert answer["status"] == "enabled"
    assert answer["authentication"]["type"] == "sas"


@pytest.mark.parametrize("if_match", ['"*"', "*", '"{}"', "{}", 'W/"{}"'])
def test_if_match_in_every_form(hub: Service, if_match: str) -> None:
    device_id = unique("match")
    path = f"/devices/{device_id}"
    body = hub.must("PUT", path, {"deviceId": device_id})
    updated = hub.call("PUT", path, body, if_match=if_match.format(body["etag"]))
    assert updated.status == 200
    assert updated.json["etag"] != body["etag"]
    is_error(hub.call("PUT", path, body, if_match=f'"{body["etag"]}"'), 412, "PreconditionFailed")
    etag = updated.json["etag"]
    assert hub.call("DELETE", path, if_match=if_match.format(etag)).status == 204


def test_names_of_refusals(hub: Service) -> None:
    device_id = unique("refuse")
    path = f"/devices/{device_id}"
    is_error(hub.call("GET", path), 404, "DeviceNotFound")
    is_error(hub.call("GET", f"/twins/{device_id}"), 404, "DeviceNotFound")
    is_error(hub.call("DELETE", path, if_match="*"), 404, "DeviceNotFound")
    is_error(hub.call("PUT", path, {"deviceId": device_id}, if_match="*"), 404, "DeviceNotFound")
    is_error(hub.call("GET", f"{path}/modules/m"), 404)
    hub.must("PUT", path, {"deviceId": device_id})
    is_error(hub.call("PUT", path, {"deviceId": device_id}), 409, "DeviceAlreadyExists")
    is_error(hub.call("GET", f"{path}/modules/m"), 404, "ModuleNotFound")
    is_error(hub.call("PUT", path, {"deviceId": "another"}, if_match="*"), 400)
    is_error(hub.call("PUT", f"/devices/{unique('bad')}", b"{"), 400)
    is_error(hub.call("PUT", f"/devices/{unique('bad')}", b"[" * 20000), 400)


def test_api_versions(hub: Service) -> None:
    for known in ("2021-04-12", "2024-03-31", "2020-05-31-preview", "2018-06-30"):
        assert hub.call("GET", "/devices?top=1", api_version=known).status == 200
    is_error(hub.call("GET", "/devices?top=1", api_version="soon"), 400, "InvalidProtocolVersion")


def test_ids_with_every_allowed_character(hub: Service) -> None:
    device_id = unique("id") + "-:.+%_#*?!(),=@$'"
    path = f"/devices/{segment(device_id)}"
    assert hub.must("PUT", path, {"deviceId": device_id})["deviceId"] == device_id
    assert hub.must("GET", path)["deviceId"] == device_id
    assert hub.must("GET", f"/twins/{segment(device_id)}")["deviceId"] == device_id
    assert hub.call("DELETE", path, if_match="*").status == 204


def test_device_ids_have_a_case(hub: Service) -> None:
    device_id = unique("Case")
    hub.must("PUT", f"/devices/{device_id}", {"deviceId": device_id})
    is_error(hub.call("GET", f"/devices/{device_id.lower()}"), 404, "DeviceNotFound")
    lower = hub.must("PUT", f"/devices/{device_id.lower()}", {"deviceId": device_id.lower()})
    assert lower["deviceId"] == device_id.lower()


def test_lists(hub: Service) -> None:
    for _ in range(3):
        hub.create_device(unique("list"))
    assert len(hub.must("GET", "/devices?top=2")) == 2
    # Node writes a slash; what is out of range means a thousand.
    assert len(hub.must("GET", "/devices/")) >= 3
    assert len(hub.must("GET", "/Devices?top=0")) >= 3
    assert len(hub.must("GET", "/devices?top=100000")) >= 3


def test_parents_and_children(hub: Service) -> None:
    edge_id, leaf_id = unique("edge"), unique("leaf")
    edge = hub.must(
        "PUT",
        f"/devices/{edge_id}",
        {"deviceId": edge_id, "capabilities": {"iotEdge": True}, "parentScopes": []},
    )
    scope = f"ms-azure-iot-edge://{edge_id}-{edge['generationId']}"
    assert edge["deviceScope"] == scope
    path = f"/devices/{leaf_id}"
    leaf = hub.must("PUT", path, {"deviceId": leaf_id, "deviceScope": scope})
    assert (leaf["deviceScope"], leaf["parentScopes"]) == (scope, [scope])
    alone = hub.must("PUT", path, leaf | {"deviceScope": "", "parentScopes": []}, if_match="*")
    assert not alone.get("deviceScope")
    assert alone["parentScopes"] == []


def test_the_twin_of_a_new_device(hub: Service) -> None:
    device_id = unique("twin")
    identity = hub.must("PUT", f"/devices/{device_id}", {"deviceId": device_id})
    twin = hub.must("GET", f"/twins/{device_id}")
    never = "0001-01-01T00:00:00Z"
    assert twin["etag"] == "AAAAAAAAAAE="
    assert twin["deviceEtag"]
    assert twin["status"] == "enabled"
    assert twin["statusUpdateTime"] == never
    assert twin["connectionState"] == "Disconnected"
    assert twin["lastActivityTime"] == never
    assert twin["cloudToDeviceMessageCount"] == 0
    assert twin["authenticationType"] == "sas"
    assert twin["x509Thumbprint"] == {"primaryThumbprint": None, "secondaryThumbprint": None}
    assert twin["modelId"] == ""
    assert twin["capabilities"] == {"iotEdge": False}
    assert twin.get("tags", {}) == {}
    for section in ("desired", "reported"):
        assert twin["properties"][section]["$version"] == 1
        assert "$lastUpdated" in twin["properties"][section]["$metadata"]
    assert identity["generationId"] not in str(twin)


def test_versions_count_as_documented(hub: Service) -> None:
    device_id = unique("count")
    hub.create_device(device_id)
    path = f"/twins/{device_id}"

    def numbers(twin: dict[str, Any]) -> tuple[int, int]:
        desired = twin["properties"]["desired"]["$version"]
        return desired, twin["properties"]["reported"]["$version"]

    first = hub.must("GET", path)
    tagged = hub.must("PATCH", path, {"tags": {"a": 1}})
    assert numbers(tagged) == numbers(first)
    assert tagged["version"] > first["version"]
    assert tagged["etag"] != first["etag"]
    desired = hub.must("PATCH", path, {"properties": {"desired": {"a": 1}}})
    assert numbers(desired) == (2, 1)
    assert desired["version"] > tagged["version"]
    metadata = desired["properties"]["desired"]["$metadata"]["a"]
    assert metadata["$lastUpdatedVersion"] == 2
    put = hub.must("PUT", path, {"properties": {"desired": {"b": 2}}}, if_match="*")
    assert numbers(put) == (3, 1)
    is_error(
        hub.call("PATCH", path, {"tags": {"b": 1}}, if_match=f'"{first["etag"]}"'),
        412,
        "PreconditionFailed",
    )


@pytest.mark.parametrize(
    "patch",
    [
        {"tags": {"a.b": 1}},
        {"tags": {"a b": 1}},
        {"tags": {"$a": 1}},
        {"tags": {"a": "x" * 4097}},
        {"tags": {f"k{n}": "x" * 4000 for n in range(3)}},
        {"properties": {"desired": {"n": 4503599627370496}}},
        {"properties": {"desired": {f"k{n}": "x" * 4000 for n in range(9)}}},
        {"properties": {"desired": 5}},
        {"tags": []},
    ],
    ids=range(9),
)
def test_twin_limits(hub: Service, patch: dict[str, Any]) -> None:
    device_id = unique("limit")
    hub.create_device(device_id)
    is_error(hub.call("PATCH", f"/twins/{device_id}", patch), 400)
    assert hub.must("GET", f"/twins/{device_id}")["etag"] == "AAAAAAAAAAE="


def test_bulk_results_have_their_own_shape(hub: Service) -> None:
    device_id = unique("bulk")
    rows = [{"id": device_id, "importMode": "create", "status": "enabled"}]
    assert hub.call("POST", "/devices", rows).json == {
        "isSuccessful": True,
        "errors": [],
        "warnings": [],
    }
    again = hub.call("POST", "/devices", rows)
    assert again.status == 400
    assert again.json["isSuccessful"] is False
    (error,) = again.json["errors"]
    assert error["deviceId"] == device_id
    assert error["errorCode"] == "DeviceAlreadyExists"
    many = [{"id": unique("many"), "importMode": "create"} for _ in range(101)]
    assert hub.call("POST", "/devices", many).status == 400
    assert hub.call("GET", f"/devices/{many[0]['id']}").status == 404


def test_tokens_of_service_clients(instance: Instance, subtests: pytest.Subtests) -> None:
    hub = instance.hub()
    host, key, name = hub.host_name, hub.key, hub.key_name
    other = instance.hub(instance.place.hubs[1])
    good = {
        "plain": raw_token(host, key, key_name=name),
        "with a port": token(f"{hub.host}:443", key, key_name=name),
        "in capitals": token(host.upper(), key, key_name=name),
        "a little late": token(host, key, ttl_s=-240, key_name=name),
    }
    bad = {
        "expired": token(host, key, ttl_s=-3600, key_name=name),
        "another hub's key": token(host, other.key, key_name=name),
        "another hub's name": token(other.host_name, key, key_name=name),
        "wrong key": token(host, new_key(), key_name=name),
        "unknown policy": token(host, key, key_name="nobody"),
        "Bearer": "Bearer nothing",
    }
    for case, authorization in (good | bad).items():
        with subtests.test(msg=case):
            reply = hub.call("GET", "/devices?top=1", authorization=authorization)
            if case in good:
                assert reply.status == 200, reply.body
            else:
                is_error(reply, 401)
    with subtests.test(msg="none"):
        is_error(hub.call("GET", "/devices?top=1", headers={"Authorization": ""}), 401)


def test_policies_bind(instance: Instance, subtests: pytest.Subtests) -> None:
    host = instance.place.hubs[0]
    device_id = unique("policy")
    instance.hub().create_device(device_id)
    calls: dict[str, tuple[str, str, Any]] = {
        "RegistryRead": ("GET", f"/devices/{device_id}", None),
        "RegistryWrite": ("PUT", f"/devices/{unique('new')}/modules/m", {}),
        "ServiceConnect": ("PATCH", f"/twins/{device_id}", {"tags": {"a": 1}}),
    }
    may = {
        "service": {"ServiceConnect"},
        "device": set(),
        "registryRead": {"RegistryRead"},
        "registryReadWrite": {"RegistryRead", "RegistryWrite"},
    }
    listed = instance.dps.must("GET", f"/admin/v1/policies/hubs/{host}")
    policies = {policy["name"]: policy["connectionString"] for policy in listed}
    for name, rights in may.items():
        caller = Service(instance.place, instance.ca_file, policies[name], "2021-04-12")
        for needed, call in calls.items():
            with subtests.test(msg=f"{needed} with {name}"):
                refused = caller.call(*call).status == 401
                assert refused == (needed not in rights)


READS: list[tuple[str, str, Any]] = [
    ("GET", "/statistics/devices", None),
    ("GET", "/statistics/service", None),
    ("GET", "/configurations", None),
    ("GET", "/configurations/none", None),
    ("POST", "/configurations/testQueries", {"targetCondition": "tags.a = 1"}),
    ("GET", "/jobs", None),
    ("GET", "/jobs/none", None),
    ("GET", "/jobs/v2/none", None),
    ("GET", "/jobs/v2/query", None),
]
WRITES: list[tuple[str, str, Any]] = [
    ("PUT", "/configurations/none", {}),
    ("DELETE", "/configurations/none", None),
    ("POST", "/devices/none/applyConfigurationContent", {}),
    ("POST", "/jobs/create", {}),
    ("DELETE", "/jobs/none", None),
    ("PUT", "/jobs/v2/none", {}),
    ("POST", "/jobs/v2/none/cancel", {}),
]


def test_either_right_will_do_where_the_contract_is_not_sure(
    instance: Instance, subtests: pytest.Subtests
) -> None:
    # hub-service.md 1.1, rows 16 to 31. Nothing here exists or is made: 401 or another error.
    listed = instance.dps.must("GET", f"/admin/v1/policies/hubs/{instance.place.hubs[0]}")
    policies = {policy["name"]: policy["connectionString"] for policy in listed}
    readers = {"service", "registryRead", "registryReadWrite"}
    for name in (*readers, "device"):
        caller = Service(instance.place, instance.ca_file, policies[name], "2021-04-12")
        for calls, may in ((READS, readers), (WRITES, readers - {"registryRead"})):
            for call in calls:
                with subtests.test(msg=f"{call[0]} {call[1]} with {name}"):
                    assert (caller.call(*call).status != 401) == (name in may)


def test_statistics(hub: Service) -> None:
    hub.create_device(unique("stat"), status="disabled")
    counts = hub.must("GET", "/statistics/devices")
    assert set(counts) == {"totalDeviceCount", "enabledDeviceCount", "disabledDeviceCount"}
    assert all(isinstance(value, int) for value in counts.values())
    assert counts["disabledDeviceCount"] >= 1
    assert isinstance(hub.must("GET", "/statistics/service")["connectedDeviceCount"], int)


def test_addresses_that_are_nothing(hub: Service) -> None:
    assert hub.call("GET", "/nothing/here").status == 404
    assert hub.call("PATCH", f"/devices/{unique('x')}", {}).status == 405
