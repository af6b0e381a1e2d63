"""Passes over a runtime in memory: modules that fall over, and boots."""

from __future__ import annotations

import asyncio

import pytest

from muster.edge.agent.performer import StepError
from muster.edge.engine.base import EngineError, Status
from unit.edge.agent.agent_cases import docker_module
from unit.edge.agent.reconciled_device import Device


async def test_a_module_that_keeps_falling_is_restarted_and_given_up(device: Device) -> None:
    device.deploy(a=docker_module(restartPolicy="always"))
    await device.settle()
    for count in range(1, 21):
        device.docker.fall("a", 1)
        (module,) = (await device.settle()).modules
        assert module.status == "backoff"
        assert device.docker.running() == set()
        device.clock.advance(301)
        (module,) = (await device.settle()).modules
        assert device.docker.running() == {"a"}
        assert module.restarts.count == count
    device.docker.fall("a", 1)
    device.clock.advance(100_000)
    made = await device.settle()
    assert made.modules[0].status == "failed"
    assert made.problems == ()
    assert device.docker.running() == set()


async def test_restarts_are_remembered_over_a_reboot(device: Device) -> None:
    device.deploy(a=docker_module(restartPolicy="always"))
    await device.settle()
    for _ in range(3):
        device.docker.fall("a", 1)
        device.clock.advance(301)
        await device.settle()
    device.docker.reboot()
    device.begin()
    await device.memory.load()
    device.deploy(a=docker_module(restartPolicy="always"))
    (module,) = (await device.settle()).modules
    assert module.restarts.count == 3
    assert module.status == "backoff"
    device.clock.advance(81)
    await device.settle()
    assert device.docker.running() == {"a"}


async def test_a_healthy_module_has_its_restarts_forgotten(device: Device) -> None:
    device.deploy(a=docker_module())
    await device.settle()
    device.docker.fall("a", 1)
    device.clock.advance(11)
    await device.settle()
    assert device.memory.restarts("a").count == 1
    device.clock.advance(601)
    await device.settle()
    assert device.memory.restarts("a").count == 0


@pytest.mark.parametrize("policy", ["on-failure", "on-unhealthy", "always"])
async def test_all_is_started_at_boot_with_everything_out_of_reach(
    device: Device, policy: str
) -> None:
    modules = {name: docker_module(restartPolicy=policy) for name in ("a", "b")}
    device.deploy(**modules)
    await device.settle()
    device.docker.reboot()
    device.begin()
    device.identities.away = True
    for name in ("a", "b"):
        device.docker.failing[f"prepare {name}"] = EngineError("registry: no such host", 500)
    device.clock.advance(-400 * 24 * 3600)
    device.deploy(**modules)
    await device.settle()
    assert device.docker.running() == {"a", "b"}
    await device.known.look_up()
    assert (await device.settle()).problems == ()
    assert not any(call.startswith(("stop", "remove")) for call in device.docker.calls)


async def test_a_dead_module_is_made_anew(device: Device) -> None:
    device.deploy(a=docker_module())
    await device.settle()
    device.docker.change("a", status=Status.DEAD)
    await device.settle()
    assert device.docker.running() == {"a"}


async def test_status_goes_down_and_up(device: Device) -> None:
    device.deploy(1, a=docker_module(restartPolicy="never"))
    await device.settle()
    device.deploy(2, a=docker_module(restartPolicy="never", status="stopped"))
    await device.settle()
    assert device.docker.running() == set()
    device.deploy(3, a=docker_module(restartPolicy="never"))
    await device.settle()
    assert device.docker.running() == {"a"}
    assert device.docker.calls.count("create a") == 1


async def test_a_restart_that_somebody_asked_for(device: Device) -> None:
    device.deploy(a=docker_module())
    await device.settle()
    await device.reconciler.restart("a")
    assert device.docker.calls[-2:] == ["stop a", "start a"]
    assert device.memory.restarts("a").count == 0
    with pytest.raises(LookupError):
        await device.reconciler.restart("b")
    device.docker.failing["start a"] = EngineError("port is already allocated")
    with pytest.raises(StepError, match="port is already allocated"):
        await device.reconciler.restart("a")


async def test_closing_breaks_off_and_leaves_modules(device: Device) -> None:
    device.docker.hanging.add("prepare b")
    device.deploy(a=docker_module(), b=docker_module())
    await device.go_on_until(lambda: device.docker.running() == {"a"})
    await device.reconciler.close()
    await asyncio.sleep(0)
    assert device.docker.running() == {"a"}
    assert not any(call.startswith("stop") for call in device.docker.calls)
