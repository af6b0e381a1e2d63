"""Passes over a runtime in memory: what hangs, and who waits for whom."""

from __future__ import annotations

import asyncio
from pathlib import Path

from muster.edge.engine.base import EngineError
from muster.net.tasks import spawn
from unit.edge.agent.agent_cases import docker_module
from unit.edge.agent.reconciled_device import Device

NO_IMAGE = EngineError("pull access denied for a, repository does not exist", 404)


async def test_a_download_that_hangs_holds_up_nobody_in_its_group(device: Device) -> None:
    device.docker.hanging.add("prepare a")
    device.deploy(a=docker_module(), b=docker_module())
    made = await device.go_on_until(lambda: device.docker.running() == {"b"})
    assert not made.settled
    device.docker.fall("b", 1)
    device.clock.advance(11)
    await device.go_on_until(lambda: device.docker.running() == {"b"})
    device.docker.hanging.clear()
    await device.settle()
    assert device.docker.running() == {"a", "b"}


async def test_later_groups_wait_for_a_while_only(device: Device) -> None:
    device.docker.hanging.add("prepare a")
    device.deploy(a=docker_module(startupOrder=0), b=docker_module(startupOrder=1))
    await device.go_on_until(lambda: "prepare a" in device.docker.calls)
    device.clock.advance(59)
    await device.run()
    assert device.docker.calls == ["prepare a"]
    device.clock.advance(2)
    await device.go_on_until(lambda: device.docker.running() == {"b"})
    device.docker.hanging.clear()
    await device.settle()


async def test_groups_begin_one_after_the_other(device: Device) -> None:
    modules = {f"m{order}": docker_module(startupOrder=order) for order in (3, 1, 2, 0)}
    device.deploy(**modules)
    await device.settle()
    starts = [call for call in device.docker.calls if call.startswith("start")]
    assert starts == ["start m0", "start m1", "start m2", "start m3"]


async def test_room_is_made_before_anything_is_added(device: Device) -> None:
    device.deploy(1, a=docker_module(startupOrder=0), old=docker_module(startupOrder=9))
    await device.settle()
    del device.docker.calls[:]
    device.docker.hanging.add("stop old")
    device.deploy(2, a=docker_module(startupOrder=0), new=docker_module(startupOrder=0))
    await device.go_on_until(lambda: "stop old" in device.docker.calls)
    await device.run()
    assert device.docker.calls == ["stop old"]
    device.docker.hanging.clear()
    await device.settle()
    assert device.docker.running() == {"a", "new"}


async def test_another_deployment_breaks_off_a_download(device: Device) -> None:
    device.docker.hanging.add("prepare a")
    device.deploy(1, a=docker_module("registry.example/huge:1"))
    await device.go_on_until(lambda: "prepare a" in device.docker.calls)
    device.deploy(2, b=docker_module())
    await device.settle()
    assert device.docker.running() == {"b"}


async def test_an_unchanged_module_goes_on_with_its_download(device: Device) -> None:
    device.docker.hanging.add("prepare a")
    device.deploy(1, a=docker_module())
    await device.go_on_until(lambda: "prepare a" in device.docker.calls)
    device.deploy(2, a=docker_module(), b=docker_module())
    await device.go_on_until(lambda: device.docker.running() == {"b"})
    device.docker.hanging.clear()
    await device.settle()
    assert device.docker.calls.count("prepare a") == 1


async def test_all_is_fetched_first_where_that_is_wanted(tmp_path: Path) -> None:
    device = Device(tmp_path, {"ModuleUpdateMode": "WaitForAllPulls"})
    device.deploy(1, a=docker_module())
    await device.settle()
    del device.docker.calls[:]
    device.docker.failing["prepare b"] = NO_IMAGE
    device.deploy(2, a=docker_module("registry.example/a:2"), b=docker_module())
    await device.settle()
    assert sorted(device.docker.calls) == ["prepare a", "prepare b"]
    assert device.docker.present["a"].settings["image"] == "registry.example/a:1"
    device.docker.failing.clear()
    device.reconciler.hub_in_reach()
    await device.settle()
    assert device.docker.running() == {"a", "b"}
    assert device.docker.present["a"].settings["image"] == "registry.example/a:2"


async def test_a_module_that_somebody_restarts_is_left_alone(device: Device) -> None:
    device.deploy(a=docker_module(), b=docker_module())
    await device.settle()
    async with device.locks.hold("a"):
        device.docker.fall("a", 1)
        device.docker.fall("b", 1)
        device.clock.advance(60)
        await device.go_on_until(lambda: device.docker.running() == {"b"})
        assert device.reconciler._doing.keys() <= {"b"}
    await device.go_on_until(lambda: device.docker.running() == {"a", "b"})


async def test_a_step_waits_for_whoever_has_the_module(device: Device) -> None:
    device.docker.hanging.add("prepare a")
    device.deploy(a=docker_module(), b=docker_module())
    await device.go_on_until(lambda: "prepare a" in device.docker.calls)
    # While it is fetched, nobody has to wait.
    async with device.locks.hold("a"):
        device.docker.hanging.clear()
        await device.go_on_until(lambda: device.docker.running() == {"b"})
        assert "create a" not in device.docker.calls
    await device.go_on_until(lambda: device.docker.running() == {"a", "b"})


async def test_a_module_that_is_being_made_has_nobody_else(device: Device) -> None:
    device.docker.hanging.add("create a")
    device.deploy(a=docker_module())
    await device.go_on_until(lambda: "create a" in device.docker.calls)
    assert device.locks.taken() == {"a"}

    async def come_later() -> list[str]:
        async with device.locks.hold("a"):
            return list(device.docker.calls)

    later = spawn(come_later(), "a call of somebody's")
    await asyncio.sleep(0)
    device.docker.hanging.clear()
    assert await later == ["prepare a", "create a", "start a"]
    await device.settle()
    assert device.locks.taken() == set()
