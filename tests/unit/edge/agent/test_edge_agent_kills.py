"""The agent is killed before each act of a deployment, and all runs; or the device loses power, and
nothing does.
"""

from __future__ import annotations

import asyncio

import pytest

from unit.edge.agent.agent_cases import docker_module
from unit.edge.agent.agent_fakes import (
    PATIENCE_S,
)
from unit.edge.agent.reconciled_device import Device


async def killed_before(device: Device, number: int) -> bool:
    """Deploy, and have the agent die before an act; return whether there is such an act."""
    device.deploy(1, a=docker_module(), b=docker_module(startupOrder=0), s=docker_module())
    await device.settle()
    device.docker.dies_before = len(device.docker.calls) + number
    device.deploy(
        2,
        a=docker_module("registry.example/a:2"),
        c=docker_module(startupOrder=1),
        s=docker_module(status="stopped"),
    )
    died = True
    async with asyncio.timeout(PATIENCE_S):
        while died and len(device.docker.calls) < device.docker.dies_before:
            made = await device.run()
            died = not made.settled or bool(device.reconciler._doing)
            await asyncio.sleep(0)
    await device.reconciler.close()
    device.docker.dies_before = None
    return died


@pytest.mark.parametrize("power", ["stays", "fails"])
@pytest.mark.parametrize("number", range(14))
async def test_a_deployment_is_finished_after_a_kill(
    device: Device, number: int, power: str
) -> None:
    died = await killed_before(device, number)
    # Two acts on b, five on a, one on s, three on c: after the last there is nothing to die before.
    assert died == (number <= 11)
    if power == "fails":
        device.docker.reboot()
    device.begin()
    await device.memory.load()
    await device.known.look_up()
    device.deploy(
        2,
        a=docker_module("registry.example/a:2"),
        c=docker_module(startupOrder=1),
        s=docker_module(status="stopped"),
    )
    made = await device.settle()
    assert made.problems == ()
    assert device.docker.running() == {"a", "c"}
    assert set(device.docker.present) == {"a", "c", "s"}
    assert device.docker.present["a"].settings["image"] == "registry.example/a:2"
