"""The service clients of npm: `azure-iot-provisioning-service` and `azure-iothub`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.device import http_finish, http_register, registration_token, unique
from support.node import run_script, value_of
from support.secrets import derive, new_key

if TYPE_CHECKING:
    import pytest

    from support.instance import Instance


def statuses(errors: dict[str, Any], *names: str) -> list[int]:
    return [errors[name]["statusCode"] for name in names]


def test_every_operation_of_the_provisioning_service_client(
    instance: Instance, subtests: pytest.Subtests
) -> None:
    group_id, registration_id = unique("node-states"), unique("node-state")
    group_key, _ = instance.dps.enroll_group(group_id)
    signed = registration_token(instance, registration_id, derive(group_key, registration_id))
    first = http_register(instance, registration_id, signed)
    assert http_finish(instance, registration_id, signed, first).status == 200
    known = [unique("node-known") for _ in range(2)]
    for each in known:
        instance.dps.enroll(each)
    service = instance.dps
    context = {
        "connectionString": instance.dps_connection_string,
        "wrongConnectionString": (
            f"HostName={service.host};SharedAccessKeyName={service.key_name};"
            f"SharedAccessKey={new_key()}"
        ),
        "individual": unique("node:indi"),
        "group": unique("node.group"),
        "bulk": [unique("node-bulk") for _ in range(3)],
        "states": {"group": group_id, "registrationId": registration_id},
    }
    results = run_script(instance, "service.js", context)

    with subtests.test(msg="individual"):
        done = value_of(results, "individual")
        keys = done["created"]["attestation"]["symmetricKey"]
        assert keys["primaryKey"]
        assert done["read"]["deviceId"] == "node-device"
        assert done["read"]["initialTwin"]["properties"]["desired"] == {"d": [1, 2]}
        assert done["shown"]["symmetricKey"] == keys
        assert done["updated"]["provisioningStatus"] == "disabled"
        assert statuses(done, "conflict", "stale", "staleDelete", "gone") == [409, 412, 412, 404]
    with subtests.test(msg="group"):
        done = value_of(results, "group")
        assert done["read"]["enrollmentGroupId"] == context["group"]
        assert done["shown"] == done["created"]["attestation"]
        assert statuses(done, "conflict", "gone") == [409, 404]
    with subtests.test(msg="bulk"):
        done = value_of(results, "bulk")
        assert done["created"]["isSuccessful"] is True
        assert done["again"]["isSuccessful"] is False
        assert {error["registrationId"] for error in done["again"]["errors"]} == set(
            context["bulk"]
        )
        assert done["deleted"]["isSuccessful"] is True
    with subtests.test(msg="queries"):
        done = value_of(results, "queries")
        assert set(known) <= set(done["individuals"])
        assert group_id in done["groups"]
    with subtests.test(msg="registration states"):
        done = value_of(results, "states")
        assert [state["registrationId"] for state in done["listed"]["all"]] == [registration_id]
        assert done["listed"]["count"] == 1
        assert done["read"]["status"] == "assigned"
        assert statuses(done, "gone") == [404]
    with subtests.test(msg="unauthorized"):
        assert value_of(results, "unauthorized")["statusCode"] == 401


def test_the_registry_of_azure_iothub(instance: Instance, subtests: pytest.Subtests) -> None:
    host = instance.place.hubs[1]
    context = {
        "connectionString": instance.hub_connection_string(host),
        "wrongConnectionString": (
            f"HostName={host};SharedAccessKeyName=iothubowner;SharedAccessKey={new_key()}"
        ),
        "device": unique("node-device"),
        "edge": unique("node-edge"),
        "twin": unique("node-twin"),
        "bulk": [unique("node-bulk") for _ in range(3)],
        "queried": [unique("node-query") for _ in range(3)],
        "site": unique("site"),
    }
    results = run_script(instance, "registry.js", context)

    with subtests.test(msg="device"):
        done = value_of(results, "device")
        keys = done["created"]["authentication"]["symmetricKey"]
        assert keys["primaryKey"]
        assert keys["secondaryKey"]
        assert done["read"]["etag"] == done["created"]["etag"]
        assert done["updated"]["status"] == "disabled"
        assert context["device"] in done["listed"]
        assert done["conflict"]["name"] == "DeviceAlreadyExistsError"
        assert done["gone"]["name"] == "DeviceNotFoundError"
    with subtests.test(msg="modules"):
        done = value_of(results, "modules")
        assert done["device"]["deviceScope"].startswith("ms-azure-iot-edge://")
        assert set(done["all"]) == {"$edgeAgent", "$edgeHub", "m1"}
        assert done["added"]["managedBy"] == "iotEdge"
        assert done["updated"]["managedBy"] == "other"
        assert done["desired"]["a"] == 1
        assert statuses(done, "gone") == [404]
    with subtests.test(msg="twin"):
        done = value_of(results, "twin")
        assert done["first"]["desired"]["$version"] == 1
        assert done["second"]["tags"] == {"site": "north"}
        assert done["second"]["desired"]["rate"] == 5
        assert done["stale"]["name"] == "InvalidEtagError"
    with subtests.test(msg="bulk"):
        done = value_of(results, "bulk")
        assert done["added"]["isSuccessful"] is True
        assert done["updated"]["isSuccessful"] is True
        assert done["status"] == "disabled"
        assert done["removed"]["isSuccessful"] is True
    with subtests.test(msg="queries"):
        done = value_of(results, "queries")
        found = [[each, context["site"]] for each in context["queried"]]
        assert done["pages"] == [found[:2], found[2:]]
        assert (done["counted"], done["more"]) == ([{"n": 3}], False)
        assert done["wrong"]["name"] == "ArgumentError"
    with subtests.test(msg="statistics"):
        done = value_of(results, "statistics")
        assert done["totalDeviceCount"] == (
            done["enabledDeviceCount"] + done["disabledDeviceCount"]
        )
    with subtests.test(msg="unauthorized"):
        assert value_of(results, "unauthorized")["name"] == "UnauthorizedError"
