"""Passes over a runtime in memory (see `agent_fakes` for why): order, failures, back-off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from muster.clock import ManualClock
from muster.edge.agent.identities import KnownIdentities
from muster.edge.agent.inventory import Inventory
from muster.edge.agent.making import DeviceFacts
from muster.edge.agent.manifest import parse
from muster.edge.agent.memory import Memory
from muster.edge.agent.metrics import AgentMetrics
from muster.edge.agent.performer import StepError
from muster.edge.agent.reconciler import Pass, Reconciler
from muster.edge.agent.store import AgentStore
from muster.edge.engine.base import EngineError, Module, Status
from muster.edge.engine.module_locks import ModuleLocks
from muster.net.tasks import spawn
from unit.edge.agent.agent_cases import JsonObject, desired, docker_module, process_module
from unit.edge.agent.agent_fakes import (
    PATIENCE_S,
    MemoryEngine,
    MemoryIdentities,
    MemoryWorkload,
    until,
)

NO_IMAGE = EngineError("pull access denied for a, repository does not exist", 404)


class Device:
    """A reconciler with everything around it."""

    def __init__(
        self, home: Path, agent_env: dict[str, str] | None = None, *, containers: bool = True
    ) -> None:
        self.clock = ManualClock()
        self.metrics = AgentMetrics("hub.example", "dev-1", "1", "0")
        self.docker = MemoryEngine(self.clock, "docker")
        self.process = MemoryEngine(self.clock, "process")
        self.identities = MemoryIdentities()
        self.workload = MemoryWorkload()
        self.locks = ModuleLocks()
        self.engines = [self.docker, self.process] if containers else [self.process]
        self.home = home
        self.agent_env = agent_env or {}
        self.begin()

    def begin(self) -> None:
        """Start the agent, as it is after the device started."""
        self.changes = 0
        self.known = KnownIdentities(self.identities)
        self.memory = Memory(AgentStore(self.home), self.clock)
        self.reconciler = Reconciler(
            Inventory(self.engines),
            self.known,
            self.workload,
            self.memory,
            facts=DeviceFacts(
                hub_host="hub.example",
                device_id="dev-1",
                hostname="gate",
                agent_env=self.agent_env,
            ),
            locks=self.locks,
            metrics=self.metrics,
            clock=self.clock,
            changed=self._changed,
        )

    def _changed(self) -> None:
        self.changes += 1

    def deploy(self, version: int = 1, **modules: JsonObject) -> None:
        self.reconciler.deploy(parse(desired(version, **modules), {"docker", "process"}, None))

    async def run(self) -> Pass:
        return await self.reconciler.run(may_disown=True)

    async def settle(self) -> Pass:
        """Make passes until nothing is being done."""
        while True:
            before = self.changes
            made = await self.run()
            if made.settled and not self.reconciler._doing:
                return made
            await until(lambda: self.changes > before)  # noqa: B023 - awaited in the loop

    async def go_on_until(self, condition: Callable[[], object]) -> Pass:
        """Make passes until something has come about, whatever is still being done."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                made = await self.run()
                if condition():
                    return made
                await asyncio.sleep(0.005)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


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


# What fails.


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


# What hangs.


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


# What falls over.


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


# The agent is killed before each act of a deployment, and all runs; or the device loses power, and
# nothing does.


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
