"""The agent against a hub in memory (see `agent_fakes` for why): deployments, reports, backup."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from muster.clock import ManualClock
from muster.edge.agent.agent import Agent, Surroundings
from muster.edge.agent.store import AgentStore
from muster.edge.engine.base import EngineError, Module, Status
from muster.edge.engine.module_locks import ModuleLocks
from muster.edge.identity import DeviceIdentity
from muster.edge.settings import AgentSettings, Settings
from muster.edge.upstream.base import HubError, Link, NoLinkError
from muster.ids import Randomness
from unit.edge.agent.agent_cases import JsonObject, desired, docker_module, process_module
from unit.edge.agent.agent_fakes import (
    MemoryBundles,
    MemoryEngine,
    MemoryHub,
    MemoryIdentities,
    MemoryLogs,
    MemorySession,
    MemoryWorkload,
    until,
)


class Device:
    """An agent with everything around it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.clock = ManualClock()
        self.docker = MemoryEngine(self.clock, "docker")
        self.process = MemoryEngine(self.clock, "process")
        self.identities = MemoryIdentities()
        self.hub = MemoryHub()
        self.refusals: list[str] = []
        self.agents: list[Agent] = []
        self.begin()

    def begin(self, device_id: str = "dev-1") -> None:
        """Make an agent, as after a start of the device."""
        self.agent = Agent(
            Settings(
                source=Path("config.toml"),
                provisioning=None,
                hostname="gate",
                home=self.home,
                agent=AgentSettings(env={"UpstreamProtocol": "MqttWs"}),
            ),
            DeviceIdentity(hub_host="hub.example:8443", device_id=device_id, key=b"k"),
            Surroundings(
                engines=(self.docker, self.process),
                locks=ModuleLocks(),
                identities=self.identities,
                workload=MemoryWorkload(),
                hub=self.hub,
                own_logs=MemoryLogs(),
                bundles=MemoryBundles(self.home),
                randomness=Randomness(),
                connect=self._connect,
                restart=lambda: None,
                refused=self.refusals.append,
                clock=self.clock,
            ),
        )
        self.agents.append(self.agent)

    def _connect(self, owner: Any) -> MemorySession:
        self.session = MemorySession(owner)
        return self.session

    def status(self) -> tuple[int | None, int | None]:
        """Return version and code that the hub has."""
        there = self.session.reported
        return there.get("lastDesiredVersion"), there.get("lastDesiredStatus", {}).get("code")

    async def reported(self, version: int, code: int) -> JsonObject:
        await until(lambda: self.status() == (version, code))
        return self.session.reported

    def description(self) -> str:
        return str(self.session.reported["lastDesiredStatus"]["description"])

    def push(self, patch: JsonObject) -> None:
        """Have the hub send a patch."""
        version = self.session.desired["$version"] + 1
        self.session.desired = {**self.session.desired, **patch, "$version": version}
        self.agent.desired_changed({**patch, "$version": version})


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Device]:
    one = Device(tmp_path)
    yield one
    for agent in one.agents:
        await agent.close()


# Deployments.


async def test_a_deployment_is_applied_and_reported(device: Device) -> None:
    device.session.desired = desired(3, a=docker_module(), b=process_module())
    await device.agent.start()
    assert device.session.opened
    device.session.connect()
    await device.reported(3, 200)
    assert device.docker.running() == {"a"}
    assert device.process.running() == {"b"}
    assert device.docker.specs["a"].env["UpstreamProtocol"] == "MqttWs"
    assert device.docker.specs["a"].env["IOTEDGE_IOTHUBHOSTNAME"] == "hub.example"
    assert device.hub.env == {"OptimizeForPerformance": "false"}


async def test_a_patch_is_applied(device: Device) -> None:
    device.session.desired = desired(1, a=docker_module())
    await device.agent.start()
    device.session.connect()
    await device.reported(1, 200)
    device.push({"modules": {"b": docker_module()}})
    device.session.desired["modules"]["a"] = docker_module()
    there = await device.reported(2, 200)
    assert set(there["modules"]) == {"a", "b"}
    assert device.session.reads == 1


async def test_a_patch_after_a_gap_has_the_whole_twin_read(device: Device) -> None:
    device.session.desired = desired(1, a=docker_module())
    await device.agent.start()
    device.session.connect()
    await device.reported(1, 200)
    device.session.desired = desired(3, c=docker_module())
    device.agent.desired_changed({"modules": {"c": docker_module()}, "$version": 3})
    await device.reported(3, 200)
    assert device.docker.running() == {"c"}
    assert device.session.reads == 2


async def test_no_deployment_is_417(device: Device) -> None:
    await device.agent.start()
    device.session.connect()
    there = await device.reported(1, 417)
    assert there["modules"] == {}
    assert device.description().startswith("This device has an empty configuration")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"schemaVersion": "2.0"}, 412),
        ({"modules": {"a": {"type": "docker", "status": "sleeping"}}}, 400),
        ({"systemModules": None}, 400),
    ],
)
async def test_a_bad_deployment_leaves_what_runs(
    device: Device, change: JsonObject, code: int
) -> None:
    device.session.desired = desired(1, a=docker_module())
    await device.agent.start()
    device.session.connect()
    await device.reported(1, 200)
    calls = list(device.docker.calls)
    device.push(change)
    there = await device.reported(2, code)
    assert set(there["modules"]) == {"a"}
    assert device.docker.calls == calls
    device.session.desired = desired(4, a=docker_module(), b=docker_module())
    device.agent.desired_changed({"$version": 4})
    await device.reported(4, 200)
    assert device.docker.running() == {"a", "b"}


async def test_what_fails_is_500_and_named(device: Device) -> None:
    device.docker.failing["prepare a"] = EngineError("manifest unknown", 404)
    device.session.desired = desired(1, a=docker_module(), b=docker_module())
    with structlog.testing.capture_logs() as events:
        await device.agent.start()
        device.session.connect()
        there = await device.reported(1, 500)
    assert device.description() == "module a: manifest unknown"
    said = [each for each in events if each["event"] == "the deployment is not all in force"]
    assert [(each["code"], each["description"]) for each in said] == [(500, device.description())]
    assert set(there["modules"]) == {"b"}
    assert device.docker.running() == {"b"}


async def test_an_edge_hub_that_cannot_run_is_500_and_named(device: Device) -> None:
    device.hub.problem = "port 8883 is taken"
    device.session.desired = desired(1, a=docker_module())
    await device.agent.start()
    device.session.connect()
    there = await device.reported(1, 500)
    assert device.description() == "module edgeHub: port 8883 is taken"
    assert there["systemModules"]["edgeHub"]["runtimeStatus"] == "failed"
    assert device.docker.running() == {"a"}


@pytest.mark.parametrize(
    "nonsense",
    [
        {"$version": "seven"},
        {"$version": 2, "schemaVersion": ["1.1"]},
        {"$version": 2, "modules": "none", "schemaVersion": "1.1", "runtime": 7},
    ],
)
async def test_nonsense_does_not_end_the_agent(device: Device, nonsense: JsonObject) -> None:
    device.session.desired = nonsense
    device.session.reported = {"modules": "x", "systemModules": [], "$version": "y"}
    await device.agent.start()
    device.session.connect()
    await until(lambda: device.status()[1] in {400, 417})
    device.agent.desired_changed({"$version": None, "modules": 3})
    device.session.desired = desired(3, a=docker_module())
    device.agent.desired_changed({"$version": 3})
    await device.reported(3, 200)


async def test_words_that_a_twin_does_not_take_are_made_so(device: Device) -> None:
    device.docker.failing["prepare a"] = EngineError("no \udcff such " + "x" * 9000)
    device.session.desired = desired(1, a=docker_module())
    await device.agent.start()
    device.session.connect()
    await device.reported(1, 500)
    assert device.description().startswith("module a: no ? such xx")
    assert len(device.description()) == 1000


async def test_what_the_agent_does_is_counted(device: Device) -> None:
    device.session.desired = desired(1, a=docker_module(version="1.0"))
    await device.agent.start()
    device.session.connect()
    await device.reported(1, 200)
    assert (await device.agent.method("Ping", None)) == (200, None)
    resources = dict.fromkeys(
        ("host_uptime", "process_uptime", "used_cpu", "used_ram", "total_ram"), 0
    )
    text = device.agent.metrics.exposition({**resources, "disks": []}, [], 0.0).decode()
    assert 'module_name="a",module_version="1.0"} 1.0' in text
    assert 'method_name="ping"} 1.0' in text
    (deployments,) = [line for line in text.splitlines() if "deployment_time_seconds_count" in line]
    assert deployments.endswith(" 1.0")


# Reports.


async def test_the_report_is_that_of_the_official_agent(device: Device) -> None:
    module = docker_module(
        version="1.0", restartPolicy="always", startupOrder=4, env={"K": {"value": 1}}
    )
    device.session.desired = desired(1, a=module)
    await device.agent.start()
    device.session.connect()
    there = await device.reported(1, 200)
    assert set(there) == {
        *("$version", "schemaVersion", "version", "lastDesiredVersion", "lastDesiredStatus"),
        *("runtime", "systemModules", "modules"),
    }
    assert there["schemaVersion"] == "1.0"
    assert set(there["version"]) == {"version", "build", "commit"}
    assert there["lastDesiredStatus"] == {"code": 200, "description": ""}
    assert there["modules"]["a"] == {
        "type": "docker",
        "version": "1.0",
        "status": "running",
        "restartPolicy": "always",
        "imagePullPolicy": "on-create",
        "startupOrder": 4,
        "env": {"K": {"value": "1"}},
        "settings": {
            "image": "registry.example/a:1",
            "imageHash": "sha256:0",
            "createOptions": "{}",
        },
        "exitCode": 0,
        "statusDescription": "",
        "lastStartTimeUtc": "2023-11-14T22:13:20Z",
        "lastExitTimeUtc": "0001-01-01T00:00:00",
        "restartCount": 0,
        "lastRestartTimeUtc": "0001-01-01T00:00:00",
        "runtimeStatus": "running",
    }
    agent = there["systemModules"]["edgeAgent"]
    assert set(agent) == {
        *("type", "imagePullPolicy", "env", "settings", "exitCode", "statusDescription"),
        *("lastStartTimeUtc", "lastExitTimeUtc", "runtimeStatus"),
    }
    assert agent["settings"]["image"] == "mcr.example/agent:1.5"
    hub = there["systemModules"]["edgeHub"]
    assert hub["runtimeStatus"] == "running"
    assert hub["status"] == "running"
    assert hub["startupOrder"] == 0
    assert hub["env"] == {"OptimizeForPerformance": {"value": "false"}}
    assert json.loads(hub["settings"]["createOptions"]) == {"HostConfig": {"Privileged": False}}
    runtime = there["runtime"]
    assert runtime["type"] == "docker"
    assert set(runtime["platform"]) == {"os", "architecture", "version"}
    assert runtime["settings"]["registryCredentials"]["site"]["address"] == "registry.example"


async def test_long_create_options_are_reported_in_pieces(device: Device) -> None:
    text = json.dumps({"Labels": {"text": "x" * 1000}})
    module = docker_module()
    module["settings"] |= {"createOptions": text[:512], "createOptions01": text[512:]}
    device.session.desired = desired(1, a=module)
    await device.agent.start()
    device.session.connect()
    settings = (await device.reported(1, 200))["modules"]["a"]["settings"]
    assert len(settings["createOptions"]) == 512
    joined = settings["createOptions"] + settings["createOptions01"]
    assert json.loads(joined) == json.loads(text)


async def test_nothing_is_reported_before_the_hub_has_spoken(device: Device) -> None:
    AgentStore(device.home).save_deployment("hub.example:8443/dev-1", desired(1, a=docker_module()))
    device.session.link = Link.CONNECTED
    await device.agent.start()
    await until(lambda: device.docker.running() == {"a"})
    assert device.session.reports == []


async def test_only_differences_are_sent_and_what_is_gone_is_null(device: Device) -> None:
    device.session.reported = {"modules": {"old": {"type": "docker"}}, "junk": 1, "$version": 9}
    device.session.desired = desired(1, a=docker_module(), b=docker_module())
    await device.agent.start()
    device.session.connect()
    there = await device.reported(1, 200)
    assert set(there["modules"]) == {"a", "b"}
    assert "junk" not in there
    device.session.desired = desired(2, a=docker_module())
    device.agent.desired_changed({"modules": {"b": None}, "$version": 2})
    there = await device.reported(2, 200)
    assert set(there["modules"]) == {"a"}
    assert any(report.get("modules") == {"b": None} for report in device.session.reports)


async def test_a_lost_report_is_made_good(device: Device) -> None:
    device.session.desired = desired(1, a=docker_module())
    await device.agent.start()
    device.session.failing = [NoLinkError("lost")]
    device.session.connect()
    # What the hub has is not known after that, so it is read before anything is sent again.
    await device.reported(1, 200)
    assert device.session.reads == 2


async def test_a_link_that_flaps_does_not_have_the_twin_read_each_time(device: Device) -> None:
    device.session.desired = desired(1)
    await device.agent.start()
    for reads in (1, 2, 3):
        device.session.connect()
        await until(lambda reads=reads: device.session.reads == reads)
        device.session.disconnect()
    device.session.connect()
    # Reading from memory takes no time, so a few turns of the loop would be enough for it.
    for _ in range(100):
        await asyncio.sleep(0)
    assert device.session.reads == 3


async def test_a_hub_that_takes_no_more_hears_what_came_of_it(device: Device) -> None:
    device.session.desired = desired(1, a=docker_module())
    await device.agent.start()
    device.session.failing = [HubError("too large", 400)] * 30
    device.session.connect()
    await until(lambda: len(device.session.failing) < 30)
    device.session.failing = device.session.failing[:1]
    await device.reported(1, 200)


async def test_at_the_end_the_hub_hears_that_nobody_knows(device: Device) -> None:
    device.session.desired = desired(1, a=docker_module())
    await device.agent.start()
    device.session.connect()
    await device.reported(1, 200)
    await device.agent.close()
    device.agents.clear()
    there = device.session.reported
    assert there["lastDesiredStatus"] == {"code": 406, "description": "Agent is not running"}
    assert there["modules"]["a"]["runtimeStatus"] == "unknown"
    assert there["systemModules"]["edgeHub"]["runtimeStatus"] == "unknown"
    assert there["lastDesiredVersion"] == 1
    assert device.docker.running() == {"a"}
    assert device.session.closed


async def test_a_device_that_is_refused_is_heard_of(device: Device) -> None:
    await device.agent.start()
    device.agent.link_changed(Link.REFUSED, "the hub does not know it")
    assert device.refusals == ["the hub does not know it"]


async def test_what_was_said_of_a_deployment_stays_till_there_is_news(device: Device) -> None:
    device.docker.hanging.add("prepare a")
    device.session.reported = {"lastDesiredVersion": 4, "$version": 2}
    device.session.desired = desired(5, a=docker_module())
    await device.agent.start()
    device.session.connect()
    await device.reported(4, 406)
    device.docker.hanging.clear()
    await device.reported(5, 200)


# The backup.


async def saved(device: Device) -> Path:
    """Have a deployment applied and kept; return its file."""
    device.session.desired = desired(5, a=docker_module(), b=process_module())
    await device.agent.start()
    device.session.connect()
    await device.reported(5, 200)
    file = device.home / "agent" / "deployment.json"
    await until(file.exists)
    await device.agent.close()
    device.agents.clear()
    device.docker.reboot()
    device.process.reboot()
    return file


async def test_modules_start_with_everything_out_of_reach(device: Device) -> None:
    file = await saved(device)
    assert file.stat().st_mode & 0o777 == 0o600
    device.identities.away = True
    for act in ("prepare a", "prepare b"):
        device.docker.failing[act] = device.process.failing[act] = EngineError("no registry")
    device.clock.advance(-10 * 365 * 24 * 3600)
    device.begin()
    await device.agent.start()
    await until(lambda: device.docker.running() | device.process.running() == {"a", "b"})
    assert device.session.reads == 0


async def test_the_hub_has_the_last_word(device: Device) -> None:
    await saved(device)
    device.begin()
    device.session.desired = desired(6, c=docker_module())
    await device.agent.start()
    device.session.connect()
    await device.reported(6, 200)
    assert device.docker.running() == {"c"}
    assert device.process.present == {}


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "exposed"])
async def test_a_damaged_file_touches_nothing_that_runs(device: Device, damage: str) -> None:
    file = await saved(device)
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        file.write_bytes(content.replace(b"registry.example/a:1", b"registry.example/z:1"))
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file.chmod(0o644)
    device.docker.change("a", status=Status.RUNNING)
    calls = list(device.docker.calls)
    device.begin()
    device.session.desired = desired(5, a=docker_module(), b=process_module())
    await device.agent.start()
    await until(lambda: device.agent._reporter.wanted is not None)
    assert device.docker.calls == calls
    device.session.connect()
    await device.reported(5, 200)
    assert device.docker.calls == calls
    assert device.process.running() == {"b"}


async def test_the_deployment_of_another_identity_is_not_ours(device: Device) -> None:
    await saved(device)
    device.docker.present["a"] = Module(name="a", status=Status.RUNNING)
    device.begin("dev-2")
    await device.agent.start()
    await until(lambda: device.agent._reporter.wanted is not None)
    assert device.docker.running() == {"a"}
    assert device.process.running() == set()


async def test_a_bad_deployment_is_not_kept(device: Device) -> None:
    await saved(device)
    device.begin()
    device.session.desired = {**desired(6), "schemaVersion": "7.0"}
    await device.agent.start()
    device.session.connect()
    await device.reported(6, 412)
    kept = AgentStore(device.home).load_deployment("hub.example:8443/dev-1")
    assert kept is not None
    assert kept["$version"] == 5


async def test_a_full_disk_stops_no_module(device: Device) -> None:
    (device.home / "agent").write_text("not a directory")
    device.session.desired = desired(1, a=docker_module(restartPolicy="always"))
    await device.agent.start()
    device.session.connect()
    await device.reported(1, 200)
    device.docker.fall("a", 1)
    device.clock.advance(11)
    device.agent._wake.set()
    await until(lambda: device.docker.running() == {"a"})
