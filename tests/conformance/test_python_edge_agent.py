"""The edge agent, managed by official back ends: deployments, reports, direct methods.

The agent, its session, its identities and its process modules are the real ones; see
`support.edge_agent` for what stands in for the rest of the daemon.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from azure.iot.hub import IoTHubConfigurationManager, IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod
from azure.iot.hub.protocol.models import Configuration, ConfigurationContent

from support.device import unique
from support.edge_agent import (
    COUNTING,
    PATIENCE_S,
    EdgeDevice,
    apply,
    came,
    content,
    program,
    reported,
    running,
)

if TYPE_CHECKING:
    from support.instance import Instance


@pytest.fixture
async def device(instance: Instance, tmp_path: Path) -> AsyncIterator[EdgeDevice]:
    one = await asyncio.to_thread(EdgeDevice, instance, tmp_path)
    yield one
    await one.end()


@pytest.fixture
def manager(instance: Instance) -> IoTHubConfigurationManager:
    return IoTHubConfigurationManager.from_connection_string(login(instance))


@pytest.fixture
def registry(instance: Instance) -> IoTHubRegistryManager:
    return IoTHubRegistryManager.from_connection_string(login(instance))


def login(instance: Instance) -> str:
    return instance.hub_connection_string(instance.place.hubs[0])


async def test_a_deployment_by_tags_is_applied_and_counted(
    instance: Instance, manager: IoTHubConfigurationManager, tmp_path: Path
) -> None:
    site, name = unique("site"), unique("dep")
    device = await asyncio.to_thread(EdgeDevice, instance, tmp_path, {"site": site})
    modules = content({"counter": program(), "other": program(startupOrder=1)})
    deployment = Configuration(
        id=name,
        schema_version="2.0",
        content=ConfigurationContent(modules_content=modules),
        target_condition=f"tags.site = '{site}'",
        priority=1,
    )
    try:
        await device.start()
        await reported(device, came(417))
        await asyncio.to_thread(manager.create_configuration, deployment)
        there = await reported(device, came(200, "counter", "other"))
        assert there["lastDesiredVersion"] == there["desired"]["$version"]
        assert there["modules"]["counter"]["lastStartTimeUtc"].endswith("Z")
        found = await asyncio.to_thread(manager.get_configuration, name)
        assert found.system_metrics.results == {
            "targetedCount": 1,
            "appliedCount": 1,
            "reportedSuccessfulCount": 1,
            "reportedFailedCount": 0,
        }
        # The hub has identities of the modules, with keys that this device made.
        path = f"/devices/{device.device_id}/modules/counter"
        identity = await asyncio.to_thread(instance.hub().must, "GET", path)
        assert identity["authentication"]["symmetricKey"]["primaryKey"]
    finally:
        await device.end()
        await asyncio.to_thread(manager.delete_configuration, name)


async def test_a_deployment_of_the_command_line(instance: Instance, tmp_path: Path) -> None:
    site, name = unique("site"), unique("dep")
    device = await asyncio.to_thread(EdgeDevice, instance, tmp_path, {"site": site})
    on_hub = ("--hub", instance.place.hubs[0])
    manifest = tmp_path / "deployment.json"
    manifest.write_text(json.dumps({"modulesContent": content({"a": program()})}))
    try:
        await device.start()
        await asyncio.to_thread(
            instance.cli,
            *("deployment", "create", name, "--content", f"@{manifest}"),
            *("--target-condition", f"tags.site = '{site}'", "--priority", "3", *on_hub),
        )
        await reported(device, came(200, "a"))
    finally:
        await device.end()
        await asyncio.to_thread(instance.run_cli, "deployment", "delete", name, *on_hub)


async def test_modules_are_added_changed_and_removed(
    device: EdgeDevice, manager: IoTHubConfigurationManager
) -> None:
    await device.start()
    await apply(manager, device, {"a": program(), "b": program()})
    first = await reported(device, came(200, "a", "b"))
    changed = program(env={"MODE": {"value": "fast"}})
    await apply(manager, device, {"a": program(), "b": changed, "c": program()})
    second = await reported(device, came(200, "a", "b", "c"))
    # What did not change has not been started again.
    started = "lastStartTimeUtc"
    assert second["modules"]["a"][started] == first["modules"]["a"][started]
    assert second["modules"]["b"][started] != first["modules"]["b"][started]
    assert second["modules"]["b"]["env"] == {"MODE": {"value": "fast"}}
    await apply(manager, device, {"c": program(status="stopped")})
    third = await reported(device, lambda found: set(found["modules"]) == {"c"})
    await reported(device, came(200))
    assert third["modules"].keys() == {"c"}
    assert await device.running() == set()
    path = f"/devices/{device.device_id}/modules"
    async with asyncio.timeout(PATIENCE_S):
        identities: set[str] = set()
        while identities != {"$edgeAgent", "$edgeHub", "c"}:
            found = await asyncio.to_thread(device.instance.hub().must, "GET", path)
            identities = {each["moduleId"] for each in found}


async def test_one_bad_module_holds_up_nobody(
    device: EdgeDevice, manager: IoTHubConfigurationManager
) -> None:
    await device.start()
    missing = {"type": "process", "status": "running", "settings": {"command": "/no/such/thing"}}
    await apply(manager, device, {"a": program(), "bad": missing})
    there = await reported(device, came(500, "a"))
    assert (
        "module bad: No such program: /no/such/thing" in (there["lastDesiredStatus"]["description"])
    )
    assert there["lastDesiredVersion"] == there["desired"]["$version"]


async def test_what_is_no_deployment_leaves_what_runs(
    device: EdgeDevice, manager: IoTHubConfigurationManager
) -> None:
    await device.start()
    await apply(manager, device, {"a": program()})
    before = await reported(device, came(200, "a"))
    hub = device.instance.hub()
    path = f"/twins/{device.device_id}/modules/$edgeAgent"
    patch = {"properties": {"desired": {"modules": {"b": {"type": "magic", "status": "running"}}}}}
    await asyncio.to_thread(hub.must, "PATCH", path, patch)
    after = await reported(device, came(400, "a"))
    assert "modules.b.type is 'magic'" in after["lastDesiredStatus"]["description"]
    assert after["modules"]["a"] == before["modules"]["a"]
    patch = {"properties": {"desired": {"schemaVersion": "3.0"}}}
    await asyncio.to_thread(hub.must, "PATCH", path, patch)
    await reported(device, came(412, "a"))


async def test_a_module_that_dies_comes_back(
    device: EdgeDevice, manager: IoTHubConfigurationManager
) -> None:
    await device.start()
    await apply(manager, device, {"a": program()})
    await reported(device, came(200, "a"))
    (engine,) = device.engines
    for process in await engine.processes("a"):
        os.kill(process, signal.SIGKILL)
    await reported(device, lambda found: found["modules"]["a"]["runtimeStatus"] == "backoff")
    there = await reported(device, came(200, "a"))
    assert there["modules"]["a"]["restartCount"] == 1


async def test_modules_start_without_the_hub(
    device: EdgeDevice, manager: IoTHubConfigurationManager
) -> None:
    await device.start()
    await apply(manager, device, {"a": program(), "b": program(restartPolicy="on-failure")})
    await reported(device, came(200, "a", "b"))
    await device.stop()
    await reported(device, lambda found: found["lastDesiredStatus"]["code"] == 406)
    assert await device.running() == {"a", "b"}
    # The device loses power: all processes go, and nothing is in reach when it comes back.
    (engine,) = device.engines
    for name in ("a", "b"):
        for process in await engine.processes(name):
            os.kill(process, signal.SIGKILL)
    await running(device, set())
    await device.start(device.nowhere())
    await running(device, {"a", "b"})
    await device.stop()
    await device.start()
    await reported(device, came(200, "a", "b"))


async def test_a_hub_that_is_killed_and_comes_back(own_instance: Instance, tmp_path: Path) -> None:
    device = await asyncio.to_thread(EdgeDevice, own_instance, tmp_path)
    manager = IoTHubConfigurationManager.from_connection_string(login(own_instance))
    try:
        await device.start()
        await apply(manager, device, {"a": program()})
        before = await reported(device, came(200, "a"))
        await asyncio.to_thread(own_instance.kill9)
        await running(device, {"a"})
        await asyncio.to_thread(own_instance.start)
        await apply(manager, device, {"a": program(), "b": program()})
        after = await reported(device, came(200, "a", "b"))
        assert after["modules"]["a"] == before["modules"]["a"]
    finally:
        await device.end()


async def test_direct_methods(
    device: EdgeDevice,
    manager: IoTHubConfigurationManager,
    registry: IoTHubRegistryManager,
) -> None:
    await device.start()
    script = COUNTING + "time.sleep(60)"
    await apply(manager, device, {"a": program(script)})
    await reported(device, came(200, "a"))

    async def call(name: str, **payload: Any) -> Any:
        method = CloudToDeviceMethod(
            method_name=name, payload=payload or None, response_timeout_in_seconds=30
        )
        return await asyncio.to_thread(
            registry.invoke_device_module_method, device.device_id, "$edgeAgent", method
        )

    pong = await call("ping")
    assert (pong.status, pong.payload) == (200, None)
    logs = await call("GetModuleLogs", schemaVersion="1.0", items=[{"id": "^a$"}])
    assert (logs.status, logs.payload) == (200, [{"id": "a", "payload": "0\n"}])
    wrong = await call("GetModuleLogs", schemaVersion="1.0", items=[{"id": "("}])
    assert wrong.status == 400
    restarted = await call("RestartModule", schemaVersion="1.0", id="a")
    assert (restarted.status, restarted.payload) == (200, None)
    lines: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        while lines != ["0", "0"]:
            items = {"id": "^a$", "filter": {"tail": 5}}
            logs = await call("GetModuleLogs", schemaVersion="1.0", items=items, contentType="json")
            lines = [line["text"] for line in json.loads(logs.payload[0]["payload"])]
    unknown = await call("Nonsense")
    assert unknown.status == 400
    assert unknown.payload["message"].startswith("Command 'Nonsense' not found.")
