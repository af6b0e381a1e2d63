"""The edge agent with containers and programs on one device: a real Docker Engine and registry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from azure.iot.hub import IoTHubConfigurationManager

from muster.edge.engine.docker import DockerEngine
from muster.edge.engine.process.engine import ProcessEngine
from muster.edge.settings import ContainerEngine
from support.docker import PASSWORD, USER
from support.edge_agent import (
    COUNTING,
    EdgeDevice,
    apply,
    came,
    program,
    reported,
    running,
)

if TYPE_CHECKING:
    from muster.edge.engine.base import Engine
    from support.docker import DockerHost, Registry
    from support.instance import Instance

pytestmark = pytest.mark.xdist_group("docker")


@pytest.fixture
async def device(
    instance: Instance, docker_host: DockerHost, tmp_path: Path
) -> AsyncIterator[EdgeDevice]:
    def engines() -> Sequence[Engine]:
        return (
            DockerEngine(ContainerEngine(uri=docker_host.uri)),
            ProcessEngine(tmp_path / "modules"),
        )

    one = await asyncio.to_thread(EdgeDevice, instance, tmp_path, None, engines)
    yield one
    await one.end()


@pytest.fixture
def manager(instance: Instance) -> IoTHubConfigurationManager:
    login = instance.hub_connection_string(instance.place.hubs[0])
    return IoTHubConfigurationManager.from_connection_string(login)


def container(image: str, **fields: Any) -> dict[str, Any]:
    """Return a container module of a deployment that counts."""
    script = COUNTING.replace("\n", "\\n").replace('"', '\\"') + "time.sleep(1)"
    options = f'{{"Cmd":["python3","-u","-c","{script}"]}}'
    return {
        "type": "docker",
        "status": "running",
        "restartPolicy": "always",
        "settings": {"image": image, "createOptions": options},
        **fields,
    }


def credentials(registry: Registry, password: str = PASSWORD) -> dict[str, Any]:
    return {"site": {"address": registry.address, "username": USER, "password": password}}


async def test_containers_and_programs_side_by_side(
    device: EdgeDevice, manager: IoTHubConfigurationManager, registry: Registry
) -> None:
    await device.start()
    image = registry.base
    modules = {
        "box": container(image),
        "none": container(f"{registry.address}/muster/nothing:1"),
        "local": program(),
    }
    await apply(manager, device, modules, credentials(registry))
    there = await reported(device, came(500, "box", "local"))
    assert there["lastDesiredStatus"]["description"].startswith("module none: ")
    box = there["modules"]["box"]
    assert box["settings"]["image"] == image
    assert box["settings"]["imageHash"].startswith("sha256:")
    assert "python3" in box["settings"]["createOptions"]
    assert box["exitCode"] == 0
    assert there["modules"]["local"]["type"] == "process"
    # The one that cannot be goes, and all is well; the others are not touched.
    del modules["none"]
    await apply(manager, device, modules, credentials(registry))
    after = await reported(device, came(200, "box", "local"))
    assert after["modules"]["box"] == box


async def test_an_image_is_pulled_with_the_credentials_of_the_deployment(
    device: EdgeDevice,
    manager: IoTHubConfigurationManager,
    registry: Registry,
    docker_host: DockerHost,
) -> None:
    await device.start()
    await asyncio.to_thread(docker_host.forget, registry.base)
    modules = {"box": container(registry.base)}
    await apply(manager, device, modules, credentials(registry, "not this"))
    there = await reported(device, came(500))
    assert "not this" not in there["lastDesiredStatus"]["description"]
    await apply(manager, device, modules, credentials(registry))
    await reported(device, came(200, "box"))


async def test_containers_start_without_hub_and_registry(
    device: EdgeDevice,
    manager: IoTHubConfigurationManager,
    registry: Registry,
    docker_host: DockerHost,
) -> None:
    await device.start()
    modules = {"box": container(registry.base), "local": program()}
    await apply(manager, device, modules, credentials(registry))
    await reported(device, came(200, "box", "local"))
    await device.stop()
    await asyncio.to_thread(docker_host.must, "POST", "/containers/box/kill")
    await asyncio.to_thread(registry.stop)
    try:
        await device.start(device.nowhere())
        await running(device, {"box", "local"})
        assert await device.running() == {"box", "local"}
    finally:
        await asyncio.to_thread(registry.start)


async def test_a_container_moves_to_a_program(
    device: EdgeDevice, manager: IoTHubConfigurationManager, registry: Registry
) -> None:
    await device.start()
    await apply(manager, device, {"thermo": container(registry.base)}, credentials(registry))
    await reported(device, came(200, "thermo"))
    await apply(manager, device, {"thermo": program()}, credentials(registry))
    there = await reported(
        device,
        lambda found: (
            came(200, "thermo")(found) and found["modules"]["thermo"]["type"] == "process"
        ),
    )
    assert there["modules"]["thermo"]["runtimeStatus"] == "running"
    docker, _ = device.engines
    assert await docker.modules() == []
