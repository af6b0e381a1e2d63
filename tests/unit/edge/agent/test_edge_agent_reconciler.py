"""Passes over a runtime in memory: what is made, changed and taken away."""

from __future__ import annotations

from pathlib import Path

from muster.edge.agent.manifest import parse
from muster.edge.engine.base import Module, Status
from unit.edge.agent.agent_cases import desired, docker_module, process_module
from unit.edge.agent.agent_fakes import (
    until,
)
from unit.edge.agent.reconciled_device import Device


async def test_a_deployment_is_made_and_settles(device: Device) -> None:
    device.deploy(a=docker_module(), b=process_module())
    made = await device.settle()
    assert made.problems == ()
    assert device.docker.running() == {"a"}
    assert device.process.running() == {"b"}
    assert [one.wanted.name for one in made.modules] == ["a", "b"]
    assert device.docker.calls == ["prepare a", "create a", "start a"]
    assert set(device.identities.there) == {"a", "b"}
    assert device.workload.listening == {"a", "b"}


async def test_modules_get_their_environment(device: Device) -> None:
    device.deploy(a=docker_module(env={"MODE": {"value": "fast"}}))
    await device.settle()
    spec = device.docker.specs["a"]
    assert spec.env == {
        "MODE": "fast",
        "RuntimeLogLevel": "info",
        "IOTEDGE_AUTHSCHEME": "sasToken",
        "IOTEDGE_MODULEGENERATIONID": "g1",
        "IOTEDGE_IOTHUBHOSTNAME": "hub.example",
        "IOTEDGE_GATEWAYHOSTNAME": "gate",
        "IOTEDGE_DEVICEID": "dev-1",
        "IOTEDGE_MODULEID": "a",
        "IOTEDGE_APIVERSION": "2022-08-03",
    }
    assert spec.workload_socket == Path("/run/muster/a/workload.sock")
    assert spec.login is not None
    assert spec.login.username == "reader"


async def test_the_environment_of_the_agent_may_come_with_a_deployment(tmp_path: Path) -> None:
    device = Device(tmp_path, {"MaxRestartCount": "3", "UpstreamProtocol": "Mqtt"})
    document = desired(1, a=docker_module())
    document["systemModules"]["edgeAgent"]["env"] = {
        "MaxRestartCount": {"value": 2},
        "RuntimeLogLevel": {"value": "debug"},
        "DockerRegistryAuth__0__serverAddress": {"value": "registry.example"},
        "DockerRegistryAuth__0__username": {"value": "env"},
        "DockerRegistryAuth__0__password": {"value": "secret"},
    }
    document["runtime"]["settings"]["registryCredentials"] = {}
    device.reconciler.deploy(parse(document, {"docker"}, None))
    await device.settle()
    spec = device.docker.specs["a"]
    assert spec.env["UpstreamProtocol"] == "Mqtt"
    assert spec.env["RuntimeLogLevel"] == "debug"
    assert spec.login is not None
    assert spec.login.username == "env"
    assert device.reconciler.constants.restarts.most == 2
    device.deploy(2, a=docker_module())
    assert device.reconciler.constants.restarts.most == 3


async def test_another_pass_does_nothing(device: Device) -> None:
    device.deploy(a=docker_module())
    await device.settle()
    calls = list(device.docker.calls)
    for _ in range(3):
        device.clock.advance(5)
        await device.settle()
    assert device.docker.calls == calls


async def test_a_change_of_words_only_touches_nothing(device: Device) -> None:
    device.deploy(1, a=docker_module())
    await device.settle()
    calls = list(device.docker.calls)
    device.deploy(2, a=docker_module(restartPolicy="never", version="2", startupOrder=3))
    assert (await device.settle()).problems == ()
    assert device.docker.calls == calls


async def test_an_update_replaces_one_module(device: Device) -> None:
    device.deploy(1, a=docker_module(), b=docker_module())
    await device.settle()
    del device.docker.calls[:]
    device.deploy(2, a=docker_module("registry.example/a:2"), b=docker_module())
    await device.settle()
    assert device.docker.calls == ["prepare a", "stop a", "remove a", "create a", "start a"]
    assert device.docker.present["a"].settings["image"] == "registry.example/a:2"


async def test_what_is_no_longer_deployed_goes_with_its_identity(device: Device) -> None:
    device.identities.add("by-hand", "g", managed_by="")
    device.deploy(1, a=docker_module(), b=docker_module())
    await device.settle()
    await device.known.look_up()
    device.deploy(2, a=docker_module())
    await device.settle()
    await device.settle()
    assert device.docker.running() == {"a"}
    assert device.workload.listening == {"a"}
    assert set(device.identities.there) == {"a", "by-hand"}


async def test_an_identity_of_a_deployment_to_come_is_left_alone(device: Device) -> None:
    device.deploy(1, a=docker_module())
    await device.settle()
    # The hub makes it with the next deployment, which this device has not heard of yet.
    device.identities.add("next", "g")
    await device.known.look_up()
    for _ in range(3):
        await device.settle()
    assert set(device.identities.there) == {"a", "next"}


async def test_an_identity_that_cannot_be_deleted_is_tried_again(device: Device) -> None:
    device.deploy(1, a=docker_module())
    await device.settle()
    device.identities.away = True
    device.deploy(2)
    made = await device.settle()
    assert made.problems == ()
    await until(lambda: "remove a" in device.identities.calls)
    assert set(device.identities.there) == {"a"}
    device.identities.away = False
    device.reconciler.hub_in_reach()
    await device.settle()
    await until(lambda: not device.identities.there)


async def test_a_module_moves_to_another_runtime(device: Device) -> None:
    device.deploy(1, a=docker_module())
    await device.settle()
    device.deploy(2, a=process_module())
    await device.settle()
    assert device.docker.present == {}
    assert device.process.running() == {"a"}


async def test_strangers_of_a_former_agent_go(device: Device) -> None:
    device.docker.present["edgeHub"] = Module(name="edgeHub", status=Status.RUNNING)
    device.deploy(a=docker_module())
    await device.settle()
    assert device.docker.running() == {"a"}


async def test_nothing_is_touched_before_a_deployment_is_known(device: Device) -> None:
    device.docker.present["a"] = Module(name="a", status=Status.RUNNING)
    made = await device.settle()
    assert made.modules == ()
    assert device.docker.calls == []
