"""`IoTHubRegistryManager` of `azure-iot-hub`: identities, modules, twins, bulk, statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import QuerySpecification, Twin, TwinProperties
from azure.iot.hub.protocol.models import (
    AuthenticationMechanism,
    ExportImportDevice,
    SymmetricKey,
)
from msrest.exceptions import HttpOperationError

from support.device import hub_login, unique
from support.secrets import new_key, remember

if TYPE_CHECKING:
    from support.instance import Instance


@pytest.fixture
def manager(instance: Instance) -> IoTHubRegistryManager:
    return manager_of(instance, instance.place.hubs[0])


def manager_of(instance: Instance, host: str) -> IoTHubRegistryManager:
    return IoTHubRegistryManager.from_connection_string(instance.hub_connection_string(host))


def refused(call: Any, *args: Any, **options: Any) -> tuple[int, str]:
    """Call, which the hub must refuse, and return the status and the error's name."""
    with pytest.raises(HttpOperationError) as caught:
        call(*args, **options)
    response = caught.value.response
    message = response.json()["Message"]
    name = message.removeprefix("ErrorCode:").partition(";")[0]
    assert response.headers["iothub-errorcode"] == name
    assert "Tracking ID:" in response.json()["ExceptionMessage"]
    return response.status_code, name


def test_a_device_from_creation_to_deletion(manager: IoTHubRegistryManager) -> None:
    device_id = unique("reg")
    primary, secondary = new_key(), new_key()
    created = manager.create_device_with_sas(device_id, primary, secondary, "enabled")
    assert created.device_id == device_id
    assert created.status == "enabled"
    assert created.authentication.type == "sas"
    assert created.authentication.symmetric_key.primary_key == primary
    assert created.generation_id
    assert created.etag
    assert created.connection_state == "Disconnected"
    assert created.capabilities.iot_edge is False
    assert created.cloud_to_device_message_count == 0
    assert created.last_activity_time.year == 1

    assert refused(manager.create_device_with_sas, device_id, primary, secondary, "enabled") == (
        409,
        "DeviceAlreadyExists",
    )
    read = manager.get_device(device_id)
    assert read.etag == created.etag
    assert read.authentication.symmetric_key.secondary_key == secondary

    updated = manager.update_device_with_sas(
        device_id, read.etag, primary, secondary, "disabled", status_reason="lost"
    )
    assert updated.status == "disabled"
    assert updated.status_reason == "lost"
    assert updated.etag != read.etag
    assert updated.generation_id == created.generation_id
    assert updated.status_updated_time.year > 2000
    stale = refused(
        manager.update_device_with_sas, device_id, read.etag, primary, secondary, "enabled"
    )
    assert stale == (412, "PreconditionFailed")
    assert refused(manager.delete_device, device_id, read.etag) == (412, "PreconditionFailed")
    manager.delete_device(device_id)
    assert refused(manager.get_device, device_id) == (404, "DeviceNotFound")
    assert refused(manager.delete_device, device_id) == (404, "DeviceNotFound")


def test_keys_are_made_when_none_are_given(manager: IoTHubRegistryManager) -> None:
    made = manager.create_device_with_sas(unique("made"), None, None, "enabled")
    keys = made.authentication.symmetric_key
    assert remember(keys.primary_key) != remember(keys.secondary_key)


def test_an_edge_device_gets_its_modules_and_scope(manager: IoTHubRegistryManager) -> None:
    device_id = unique("edge")
    device = manager.create_device_with_sas(device_id, None, None, "enabled", iot_edge=True)
    assert device.capabilities.iot_edge is True
    assert device.device_scope == f"ms-azure-iot-edge://{device_id}-{device.generation_id}"
    assert device.parent_scopes == []
    modules = {module.module_id: module for module in manager.get_modules(device_id)}
    assert set(modules) == {"$edgeAgent", "$edgeHub"}
    for module_id in modules:
        twin = manager.get_module_twin(device_id, module_id)
        assert twin.module_id == module_id
        assert twin.properties.desired["$version"] == 1

    leaf_id = unique("leaf")
    leaf = manager.create_device_with_sas(
        leaf_id, None, None, "enabled", device_scope=device.device_scope
    )
    assert leaf.device_scope == device.device_scope
    assert leaf.parent_scopes == [device.device_scope]


def test_a_module_from_creation_to_deletion(manager: IoTHubRegistryManager) -> None:
    device_id, module_id = unique("host"), "temp-sensor"
    assert refused(manager.create_module_with_sas, device_id, module_id, "", None, None) == (
        404,
        "DeviceNotFound",
    )
    manager.create_device_with_sas(device_id, None, None, "enabled")
    primary, secondary = new_key(), new_key()
    created = manager.create_module_with_sas(device_id, module_id, "iotEdge", primary, secondary)
    assert created.module_id == module_id
    assert created.device_id == device_id
    assert created.managed_by == "iotEdge"
    assert created.authentication.symmetric_key.primary_key == primary
    again = refused(
        manager.create_module_with_sas, device_id, module_id, "iotEdge", primary, secondary
    )
    assert again == (409, "ModuleAlreadyExistsOnDevice")

    updated = manager.update_module_with_sas(
        device_id, module_id, "iotEdge", created.etag, secondary, primary
    )
    assert updated.authentication.symmetric_key.primary_key == secondary
    assert manager.get_module(device_id, module_id).etag == updated.etag
    stale = refused(
        manager.update_module_with_sas,
        *(device_id, module_id, "iotEdge", created.etag, primary, secondary),
    )
    assert stale == (412, "PreconditionFailed")
    assert [module.module_id for module in manager.get_modules(device_id)] == [module_id]
    manager.delete_module(device_id, module_id)
    assert refused(manager.get_module, device_id, module_id) == (404, "ModuleNotFound")
    assert manager.get_modules(device_id) == []


def test_a_new_twin_and_its_changes(manager: IoTHubRegistryManager) -> None:
    device_id = unique("twin")
    manager.create_device_with_sas(device_id, None, None, "enabled")
    twin = manager.get_twin(device_id)
    assert twin.device_id == device_id
    assert twin.status == "enabled"
    assert twin.authentication_type == "sas"
    assert twin.tags in ({}, None)
    assert twin.properties.desired["$version"] == 1
    assert twin.properties.reported["$version"] == 1
    assert twin.version
    assert twin.etag

    patch = Twin(
        tags={"site": {"name": "north"}},
        properties=TwinProperties(desired={"rate": 5, "old": "x"}),
    )
    patched = manager.update_twin(device_id, patch, twin.etag)
    assert patched.tags == {"site": {"name": "north"}}
    assert patched.properties.desired["rate"] == 5
    assert patched.properties.desired["$version"] == 2
    assert "$lastUpdated" in patched.properties.desired["$metadata"]["rate"]
    assert patched.version > twin.version
    assert refused(manager.update_twin, device_id, patch, twin.etag) == (412, "PreconditionFailed")

    merged = manager.update_twin(
        device_id,
        Twin(tags={"site": {"floor": 2}}, properties=TwinProperties(desired={"old": None})),
    )
    assert merged.tags == {"site": {"name": "north", "floor": 2}}
    assert "old" not in merged.properties.desired
    assert merged.properties.desired["$version"] == 3

    replaced = manager.replace_twin(
        device_id, Twin(tags={"new": 1}, properties=TwinProperties(desired={"only": True}))
    )
    assert replaced.tags == {"new": 1}
    desired = {k: v for k, v in replaced.properties.desired.items() if not k.startswith("$")}
    assert desired == {"only": True}
    assert replaced.properties.desired["$version"] == 4
    assert refused(manager.get_twin, unique("nobody")) == (404, "DeviceNotFound")


def test_a_whole_twin_sent_back_changes_nothing_it_may_not(
    manager: IoTHubRegistryManager,
) -> None:
    # Generic updates of tools send everything they read (hub-service.md, trap 14).
    device_id = unique("whole")
    manager.create_device_with_sas(device_id, None, None, "enabled")
    twin = manager.get_twin(device_id)
    twin.tags = {"a": 1}
    written = manager.update_twin(device_id, twin)
    assert written.tags == {"a": 1}
    assert written.properties.reported["$version"] == 1
    assert not [name for name in written.properties.desired if not name.startswith("$")]


def test_a_module_twin_is_its_own(manager: IoTHubRegistryManager) -> None:
    device_id, module_id = unique("host"), "m1"
    manager.create_device_with_sas(device_id, None, None, "enabled")
    manager.create_module_with_sas(device_id, module_id, "", None, None)
    twin = manager.update_module_twin(
        device_id, module_id, Twin(properties=TwinProperties(desired={"speed": 1}))
    )
    assert twin.module_id == module_id
    assert manager.get_module_twin(device_id, module_id).properties.desired["speed"] == 1
    assert "speed" not in manager.get_twin(device_id).properties.desired
    replaced = manager.replace_module_twin(
        device_id, module_id, Twin(properties=TwinProperties(desired={"other": 2}))
    )
    assert "speed" not in replaced.properties.desired
    unknown = refused(manager.get_module_twin, device_id, "nobody")
    assert unknown == (404, "ModuleNotFound")


def imported(device_id: str, mode: str, **fields: Any) -> ExportImportDevice:
    keys = SymmetricKey(primary_key=new_key(), secondary_key=new_key())
    return ExportImportDevice(
        id=device_id,
        import_mode=mode,
        status="enabled",
        authentication=AuthenticationMechanism(type="sas", symmetric_key=keys),
        **fields,
    )


def test_bulk_changes_of_the_registry(manager: IoTHubRegistryManager) -> None:
    ids = [unique("bulk") for _ in range(3)]
    done = manager.bulk_create_or_update_devices(
        [imported(each, "create", tags={"n": n}) for n, each in enumerate(ids)]
    )
    assert done.is_successful is True
    assert not done.errors
    assert manager.get_twin(ids[2]).tags == {"n": 2}

    mixed = manager.bulk_create_or_update_devices(
        [imported(ids[0], "create"), imported(new := unique("bulk"), "create")]
    )
    assert mixed.is_successful is False
    (error,) = mixed.errors
    assert error.device_id == ids[0]
    assert error.error_code == "DeviceAlreadyExists"
    assert manager.get_device(new).device_id == new

    change = imported(ids[1], "update")
    change.status = "disabled"
    assert manager.bulk_create_or_update_devices([change]).is_successful is True
    assert manager.get_device(ids[1]).status == "disabled"
    twin = imported(ids[1], "updateTwin", tags={"n": "changed"})
    assert manager.bulk_create_or_update_devices([twin]).is_successful is True
    assert manager.get_twin(ids[1]).tags == {"n": "changed"}
    gone = [imported(each, "delete") for each in [*ids, new]]
    assert manager.bulk_create_or_update_devices(gone).is_successful is True
    assert refused(manager.get_device, ids[0]) == (404, "DeviceNotFound")


def test_devices_are_listed_and_counted(instance: Instance, manager: IoTHubRegistryManager) -> None:
    device_id = unique("listed")
    before = manager.get_device_registry_statistics()
    manager.create_device_with_sas(device_id, None, None, "disabled")
    listed = manager.get_devices(1000)
    assert device_id in {device.device_id for device in listed}
    assert len(manager.get_devices(2)) == 2
    after = manager.get_device_registry_statistics()
    assert after.total_device_count == after.enabled_device_count + after.disabled_device_count
    # Other tests create and delete meanwhile, so only this much is certain.
    assert before.total_device_count >= 0
    assert after.disabled_device_count >= 1

    connected = unique("connected")
    primary, _ = instance.hub().create_device(connected)
    with hub_login(instance, connected, primary):
        assert manager.get_service_statistics().connected_device_count >= 1
        assert manager.get_device(connected).connection_state == "Connected"
        assert manager.get_twin(connected).connection_state == "Connected"


def test_hubs_know_only_their_own_devices(instance: Instance) -> None:
    first, second = (manager_of(instance, host) for host in instance.place.hubs)
    device_id = unique("apart")
    first.create_device_with_sas(device_id, None, None, "enabled")
    assert refused(second.get_device, device_id) == (404, "DeviceNotFound")
    second.create_device_with_sas(device_id, None, None, "enabled")
    first.delete_device(device_id)
    assert second.get_device(device_id).device_id == device_id


def test_a_wrong_key_is_unauthorized(instance: Instance) -> None:
    host = instance.place.hubs[0]
    stranger = IoTHubRegistryManager.from_connection_string(
        f"HostName={host};SharedAccessKeyName=iothubowner;SharedAccessKey={new_key()}"
    )
    status, _ = refused(stranger.get_device, "any")
    assert status == 401


@pytest.mark.parametrize(
    ("device_id", "status"), [("bad id", 400), ("x" * 129, 400), ("bad^id", 400)]
)
def test_ids_are_checked(manager: IoTHubRegistryManager, device_id: str, status: int) -> None:
    assert refused(manager.create_device_with_sas, device_id, None, None, "enabled")[0] == status


def test_queries(manager: IoTHubRegistryManager) -> None:
    site = unique("site")
    names = [unique("query") for _ in range(5)]
    for number, name in enumerate(names):
        manager.create_device_with_sas(name, new_key(), new_key(), "enabled", number == 0)
        manager.update_twin(name, Twin(tags={"site": site, "line": number}), "*")
    condition = f"FROM devices WHERE tags.site = '{site}'"

    whole = manager.query_iot_hub(QuerySpecification(query=f"SELECT * {condition}"), None, 2)
    found = list(whole.items)
    while whole.continuation_token:
        query = QuerySpecification(query=f"SELECT * {condition}")
        whole = manager.query_iot_hub(query, whole.continuation_token, 2)
        found += whole.items
    assert [twin.device_id for twin in found] == names
    assert found[0] == manager.get_twin(names[0])

    def rows(query: str) -> list[dict[str, Any]]:
        result = manager.query_iot_hub(QuerySpecification(query=query))
        assert result.continuation_token is None
        return [row.additional_properties for row in result.items]

    (counted,) = rows(f"SELECT COUNT() AS n, MAX(tags.line) AS most {condition}")
    assert counted == {"n": 5, "most": 4}
    agents = manager.query_iot_hub(
        QuerySpecification(
            query="select deviceId from devices.modules where moduleId = '$edgeAgent' and "
            f"deviceId = '{names[0]}'"
        )
    )
    assert [row.device_id for row in agents.items] == [names[0]]
    wrong = QuerySpecification(query="SELECT * FROM devices WHERE")
    assert refused(manager.query_iot_hub, wrong) == (400, "ArgumentInvalid")
