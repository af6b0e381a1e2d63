"""Passes over a runtime in memory: what fails, and when it is tried again."""

from __future__ import annotations

from pathlib import Path

import msgspec

from muster.edge.engine.base import EngineError, Status
from unit.edge.agent.agent_cases import docker_module, process_module
from unit.edge.agent.reconciled_device import Device

NO_IMAGE = EngineError("pull access denied for a, repository does not exist", 404)


async def test_an_image_that_does_not_exist_stops_nobody_else(device: Device) -> None:
    device.docker.failing["prepare a"] = NO_IMAGE
    device.deploy(a=docker_module(startupOrder=0), b=docker_module(startupOrder=1))
    made = await device.settle()
    assert device.docker.running() == {"b"}
    assert made.problems == (f"module a: {NO_IMAGE}",)


async def test_a_failed_update_leaves_the_old_module_running(device: Device) -> None:
    device.deploy(1, a=docker_module())
    await device.settle()
    device.docker.failing["prepare a"] = NO_IMAGE
    device.deploy(2, a=docker_module("registry.example/none:1"))
    made = await device.settle()
    assert made.settled
    assert len(made.problems) == 1
    assert device.docker.running() == {"a"}
    assert device.docker.present["a"].settings["image"] == "registry.example/a:1"


async def test_a_failure_is_tried_again_after_ever_longer_pauses(device: Device) -> None:
    device.docker.failing["prepare a"] = NO_IMAGE
    device.deploy(a=docker_module())
    await device.settle()
    for tries, pause_s in enumerate([20, 40, 80, 160, 320, 640], start=1):
        assert device.docker.calls == ["prepare a"] * tries
        device.clock.advance(pause_s - 1)
        await device.settle()
        assert device.docker.calls == ["prepare a"] * tries
        device.clock.advance(1)
        await device.settle()


async def test_a_failure_is_given_up_after_twenty_tries(device: Device) -> None:
    device.docker.failing["prepare a"] = NO_IMAGE
    device.deploy(a=docker_module())
    for _ in range(25):
        made = await device.settle()
        device.clock.advance(10 * 2**21)
    assert device.docker.calls == ["prepare a"] * 20
    assert made.problems == (f"module a: {NO_IMAGE}",)


async def test_another_deployment_makes_a_fresh_start(device: Device) -> None:
    device.docker.failing["prepare a"] = NO_IMAGE
    device.deploy(1, a=docker_module())
    await device.settle()
    device.docker.failing.clear()
    device.deploy(2, a=docker_module())
    assert (await device.settle()).problems == ()
    assert device.docker.running() == {"a"}


async def test_the_hub_in_reach_again_makes_a_fresh_start(device: Device) -> None:
    device.docker.failing["prepare a"] = NO_IMAGE
    device.deploy(a=docker_module())
    for _ in range(25):
        await device.settle()
        device.clock.advance(10 * 2**21)
    device.docker.failing.clear()
    device.reconciler.hub_in_reach()
    await device.settle()
    assert device.docker.running() == {"a"}


async def test_settings_that_a_runtime_cannot_take_are_named(device: Device) -> None:
    wrong = EngineError("command is not a list", 400)
    device.process.failing["fingerprint a"] = wrong
    device.process.failing["prepare a"] = wrong
    device.deploy(a=process_module(), b=process_module())
    made = await device.settle()
    assert device.process.running() == {"b"}
    assert made.problems == ("module a: command is not a list",)


async def test_settings_that_cannot_be_taken_leave_what_runs(device: Device) -> None:
    device.deploy(1, a=process_module("first"))
    await device.settle()
    calls = list(device.process.calls)
    device.process.failing["fingerprint a"] = EngineError("command is not a list", 400)
    device.deploy(2, a=process_module("second"))
    made = await device.settle()
    assert made.problems == ("module a: command is not a list",)
    assert device.process.calls == calls
    assert device.process.running() == {"a"}


async def test_a_mistake_of_ours_stops_nobody_else_and_is_no_hot_loop(device: Device) -> None:
    device.process.failing["fingerprint a"] = TypeError("of ours")
    device.process.failing["prepare a"] = TypeError("of ours")
    device.deploy(a=process_module(), b=process_module())
    made = await device.settle()
    assert device.process.running() == {"b"}
    assert made.problems == ("module a: internal error (TypeError); the device's log has more",)
    device.clock.advance(19)
    await device.settle()
    assert device.process.calls.count("prepare a") == 1


async def test_a_runtime_out_of_reach_stops_no_other(device: Device) -> None:
    device.docker.away = EngineError("Cannot connect to the Docker daemon", 503)
    device.deploy(a=docker_module(), b=process_module())
    made = await device.settle()
    assert made.settled
    assert made.problems == ("runtime docker: Cannot connect to the Docker daemon",)
    assert device.process.running() == {"b"}
    assert device.docker.calls == []
    device.docker.away = None
    assert (await device.settle()).problems == ()
    assert device.docker.running() == {"a"}


async def test_a_runtime_that_is_not_there_stops_no_other(tmp_path: Path) -> None:
    device = Device(tmp_path, containers=False)
    device.deploy(a=docker_module(), b=process_module())
    made = await device.settle()
    assert made.settled
    assert made.problems == ("runtime docker: is not there; iotedge check says what is missing",)
    assert device.process.running() == {"b"}
    assert [one.wanted.name for one in made.modules] == ["b"]


async def test_without_the_hub_a_new_module_waits_for_its_identity(device: Device) -> None:
    device.identities.away = True
    device.deploy(a=docker_module())
    made = await device.settle()
    assert made.problems == ("module a: its identity needs the hub, which is out of reach",)
    device.identities.away = False
    device.reconciler.hub_in_reach()
    assert (await device.settle()).problems == ()
    assert device.docker.running() == {"a"}


async def test_an_identity_made_anew_makes_the_module_anew(device: Device) -> None:
    device.deploy(1, a=docker_module())
    await device.settle()
    del device.identities.there["a"]
    device.identities.add("a", "g7")
    await device.known.look_up()
    await device.settle()
    assert device.docker.specs["a"].env["IOTEDGE_MODULEGENERATIONID"] == "g7"


async def test_keys_that_the_hub_has_not_are_set_and_the_module_goes_on(device: Device) -> None:
    device.deploy(1, a=docker_module())
    await device.settle()
    acts, calls = list(device.docker.calls), len(device.identities.calls)
    mine = device.identities.there["a"]
    device.identities.cached["a"] = msgspec.structs.replace(mine, is_current=False)
    device.identities.away = True
    await device.known.look_up()
    device.identities.away = False
    await device.go_on_until(lambda: len(device.identities.calls) > calls)
    await device.settle()
    assert device.identities.calls[calls:] == ["ensure a"]
    assert device.docker.calls == acts


async def test_a_module_that_cannot_be_started_is_replaced_by_the_next_deployment(
    device: Device,
) -> None:
    device.deploy(a=process_module(command=["/tmp"]))
    device.process.failing["start a"] = EngineError('exec: "/tmp": permission denied', 500)
    await device.go_on_until(lambda: "start a" in device.process.calls)
    now = device.clock.now()
    device.process.change("a", status=Status.FAILED, exit_code=126, started_at=now, exited_at=now)
    device.deploy(2, a=process_module(command=["sleep", "1"]))
    await device.go_on_until(lambda: device.process.calls.count("create a") == 2)
    del device.process.failing["start a"]
    device.clock.advance(301)
    await device.settle()
    assert device.process.running() == {"a"}
    assert device.process.specs["a"].settings["command"] == ["sleep", "1"]


async def test_why_a_module_could_not_be_started_is_told_until_it_is(device: Device) -> None:
    wrong = "permission denied"
    device.deploy(a=process_module(restartPolicy="always"))
    device.process.failing["start a"] = EngineError(wrong, 500)
    await device.go_on_until(lambda: "start a" in device.process.calls)
    now = device.clock.now()
    device.process.change("a", status=Status.FAILED, exit_code=126, started_at=now, exited_at=now)
    # Its restart policy decides when it is started again, as before.
    for tries, pause_s in enumerate([11, 21, 41], start=1):
        assert (await device.settle()).problems == (f"module a: {wrong}",)
        assert device.process.calls.count("start a") == tries
        device.clock.advance(pause_s)
        await device.settle()
        now = device.clock.now()
        device.process.change("a", started_at=now, exited_at=now)
    del device.process.failing["start a"]
    device.clock.advance(301)
    assert (await device.settle()).problems == ()
    assert device.process.running() == {"a"}
