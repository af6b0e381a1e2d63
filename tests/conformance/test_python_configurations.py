"""`IoTHubConfigurationManager` of `azure-iot-hub`, and an agent of `azure-iot-device`."""

from __future__ import annotations

import queue
import time
from typing import TYPE_CHECKING, Any

import pytest
from azure.iot.device import IoTHubModuleClient
from azure.iot.hub import IoTHubConfigurationManager
from azure.iot.hub.protocol.models import (
    Configuration,
    ConfigurationContent,
    ConfigurationMetrics,
    ConfigurationQueriesTestInput,
)
from msrest.exceptions import HttpOperationError

from support.device import unique
from support.secrets import CLOCK

if TYPE_CHECKING:
    from support.instance import Instance

PATIENCE_S = 30.0
AGENT = {
    "schemaVersion": "1.1",
    "runtime": {"type": "docker", "settings": {"minDockerVersion": "v1.25"}},
    "systemModules": {
        "edgeAgent": {"type": "docker", "settings": {"image": "agent:1"}},
        "edgeHub": {"type": "docker", "settings": {"image": "hub:1"}},
    },
}


@pytest.fixture
def manager(instance: Instance) -> IoTHubConfigurationManager:
    login = instance.hub_connection_string(instance.place.hubs[0])
    return IoTHubConfigurationManager.from_connection_string(login)


def content(image: str) -> ConfigurationContent:
    modules = {"thermo": {"type": "docker", "settings": {"image": image}}}
    return ConfigurationContent(
        modules_content={
            "$edgeAgent": {"properties.desired": {**AGENT, "modules": modules}},
            "$edgeHub": {"properties.desired": {"schemaVersion": "1.1", "routes": {}}},
        }
    )


def deployment(name: str, image: str, condition: str, priority: int = 1) -> Configuration:
    return Configuration(
        id=name,
        schema_version="2.0",
        content=content(image),
        target_condition=condition,
        priority=priority,
        labels={"by": "test"},
        metrics=ConfigurationMetrics(
            queries={"mine": f"SELECT deviceId FROM devices WHERE {condition}"}
        ),
    )


def refused(call: Any, *args: Any) -> tuple[int, str]:
    with pytest.raises(HttpOperationError) as caught:
        call(*args)
    response = caught.value.response
    return response.status_code, response.headers["iothub-errorcode"]


def edge(instance: Instance, site: str) -> str:
    device_id = unique("edge")
    hub = instance.hub()
    hub.must("PUT", f"/devices/{device_id}", {"capabilities": {"iotEdge": True}})
    hub.must("PATCH", f"/twins/{device_id}", {"tags": {"site": site}})
    return device_id


def next_deployment(patches: queue.Queue[dict[str, Any]]) -> dict[str, Any]:
    """Return the next patch that names modules; the SDK makes one up when it connects."""
    while "modules" not in (patch := patches.get(timeout=PATIENCE_S)):
        pass
    return patch


def until(look: Any, wanted: Any) -> None:
    end = CLOCK.monotonic() + PATIENCE_S
    while (found := look()) != wanted:
        assert CLOCK.monotonic() < end, f"still {found}, not {wanted}"
        time.sleep(0.05)


def test_a_configuration_from_creation_to_deletion(manager: IoTHubConfigurationManager) -> None:
    name = unique("dep")
    wanted = deployment(name, "thermo:1", "tags.site = 'nowhere'")
    made = manager.create_configuration(wanted)
    assert (made.id, made.priority, made.labels) == (name, 1, {"by": "test"})
    assert made.content.modules_content == wanted.content.modules_content
    assert made.content.device_content is None
    assert set(made.system_metrics.results) == {
        "targetedCount",
        "appliedCount",
        "reportedSuccessfulCount",
        "reportedFailedCount",
    }
    assert made.metrics.queries == wanted.metrics.queries
    assert refused(manager.create_configuration, wanted) == (409, "ConfigurationAlreadyExists")
    read = manager.get_configuration(name)
    assert (read.etag, read.created_time_utc.year > 2000) == (made.etag, True)
    assert name in [each.id for each in manager.get_configurations()]
    read.priority = 7
    updated = manager.update_configuration(read, read.etag)
    assert (updated.priority, updated.etag != read.etag) == (7, True)
    stale = refused(manager.update_configuration, read, read.etag)
    assert stale == (412, "PreconditionFailed")
    updated.content = content("thermo:2")
    changed = refused(manager.update_configuration, updated, updated.etag)
    assert changed == (400, "CannotModifyImmutableConfigurationContent")
    manager.delete_configuration(name)
    assert refused(manager.get_configuration, name) == (404, "ConfigurationNotFound")


def test_queries_are_tested(manager: IoTHubConfigurationManager) -> None:
    found = manager.test_configuration_queries(
        ConfigurationQueriesTestInput(
            target_condition="tags.a = 1",
            custom_metric_queries={"good": "SELECT * FROM devices", "bad": "SELECT"},
        )
    )
    assert found.target_condition_error is None
    assert list(found.custom_metric_query_errors) == ["bad"]
    wrong = manager.test_configuration_queries(
        ConfigurationQueriesTestInput(target_condition="tags.a =", custom_metric_queries={})
    )
    assert "position" in wrong.target_condition_error


def test_an_agent_gets_its_deployment_and_its_answer_is_counted(
    instance: Instance, manager: IoTHubConfigurationManager
) -> None:
    site, name = unique("site"), unique("dep")
    device_id = edge(instance, site)
    agent = instance.hub().must("GET", f"/devices/{device_id}/modules/$edgeAgent")
    key = agent["authentication"]["symmetricKey"]["primaryKey"]
    client = IoTHubModuleClient.create_from_connection_string(
        f"HostName={instance.place.hubs[0]};DeviceId={device_id};ModuleId=$edgeAgent;"
        f"SharedAccessKey={key}",
        server_verification_cert=instance.ca,
    )
    patches: queue.Queue[dict[str, Any]] = queue.Queue()
    try:
        client.on_twin_desired_properties_patch_received = patches.put
        assert client.get_twin()["desired"] == {"$version": 1}
        manager.create_configuration(deployment(name, "thermo:1", f"tags.site = '{site}'"))
        patch = next_deployment(patches)
        assert patch["modules"]["thermo"]["settings"]["image"] == "thermo:1"
        assert client.get_twin()["desired"]["$version"] == patch["$version"] == 2
        client.patch_twin_reported_properties(
            {"lastDesiredVersion": 2, "lastDesiredStatus": {"code": 200}}
        )
        results = {
            "targetedCount": 1,
            "appliedCount": 1,
            "reportedSuccessfulCount": 1,
            "reportedFailedCount": 0,
        }
        found = manager.get_configuration(name)
        assert found.system_metrics.results == results
        assert found.metrics.results == {"mine": 1}
        # The texts of the metrics find what they count, through the query endpoint.
        for metric, count in results.items():
            body = {"query": found.system_metrics.queries[metric]}
            rows = instance.hub().must("POST", "/devices/query", body)
            assert rows == [{"deviceId": device_id}] * count
        higher = unique("dep")
        manager.create_configuration(deployment(higher, "thermo:2", f"tags.site = '{site}'", 2))
        patch = next_deployment(patches)
        assert patch == {"modules": {"thermo": {"settings": {"image": "thermo:2"}}}, "$version": 3}
        twin = instance.hub().must("GET", f"/twins/{device_id}/modules/$edgeAgent")
        assert twin["configurations"] == {
            higher: {"status": "Applied"},
            name: {"status": "Targeted"},
        }
        manager.delete_configuration(higher)
        patch = next_deployment(patches)
        assert patch["modules"]["thermo"]["settings"] == {"image": "thermo:1"}
    finally:
        client.shutdown()
        manager.delete_configuration(name)


def test_modules_by_hand(instance: Instance, manager: IoTHubConfigurationManager) -> None:
    device_id = edge(instance, unique("site"))
    manager.apply_configuration_on_edge_device(device_id, content("thermo:5"))
    hub = instance.hub()
    modules = {each["moduleId"] for each in hub.must("GET", f"/devices/{device_id}/modules")}
    assert modules == {"$edgeAgent", "$edgeHub", "thermo"}
    twin = hub.must("GET", f"/twins/{device_id}/modules/$edgeAgent")
    thermo = twin["properties"]["desired"]["modules"]["thermo"]
    assert thermo["settings"]["image"] == "thermo:5"
    leaf = unique("leaf")
    instance.hub().create_device(leaf)
    apply = manager.apply_configuration_on_edge_device
    assert refused(apply, leaf, content("x")) == (400, "InvalidOperation")
    assert refused(apply, unique("nobody"), content("x")) == (404, "DeviceNotFound")


def test_a_configuration_of_devices(
    instance: Instance, manager: IoTHubConfigurationManager
) -> None:
    device_id, name = unique("dev"), unique("cfg")
    instance.hub().create_device(device_id)
    manager.create_configuration(
        Configuration(
            id=name,
            content=ConfigurationContent(device_content={"properties.desired.rate": 5}),
            target_condition=f"deviceId = '{device_id}'",
            priority=0,
        )
    )

    def rate() -> Any:
        twin = instance.hub().must("GET", f"/twins/{device_id}")
        return twin["properties"]["desired"].get("rate")

    until(rate, 5)
    manager.delete_configuration(name)
    until(rate, None)
