"""The edge agent as it is on a device: real session, identities and process runtime."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from azure.iot.hub.protocol.models import ConfigurationContent

from muster.clock import SystemClock
from muster.edge.agent.agent import Agent, Surroundings
from muster.edge.engine.base import LogChunk, Module, Status
from muster.edge.engine.module_locks import ModuleLocks
from muster.edge.engine.process.engine import ProcessEngine
from muster.edge.identity import AGENT, DeviceIdentity
from muster.edge.provisioning.module_identities import RememberedModules
from muster.edge.settings import Settings
from muster.edge.state import StateDirectory
from muster.edge.upstream.hub import Hub
from muster.edge.upstream.hub_time import HubTime
from muster.edge.upstream.login import Gateway
from muster.ids import Randomness
from support.device import unique
from support.edge import gateway
from support.service import authentication, new_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from azure.iot.hub import IoTHubConfigurationManager

    from muster.edge.engine.base import Engine, LogRange
    from support.instance import Instance

PATIENCE_S = 60.0
COUNTING = "import itertools, time\nfor n in itertools.count():\n    print(n, flush=True)\n    "
"""A program that writes numbers; what it does between them is to be added."""


def program(script: str = COUNTING + "time.sleep(1)", **fields: Any) -> dict[str, Any]:
    """Return a process module of a deployment that runs a Python script."""
    settings = {"command": [sys.executable, "-c", script]}
    return {
        "type": "process",
        "status": "running",
        "restartPolicy": "always",
        "settings": settings,
        **fields,
    }


class Sockets:
    """Workload sockets that nobody listens on: no module here asks for anything."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def socket(self, name: str) -> Path:
        return self._directory / name / "workload.sock"

    async def open(self, name: str, module_id: str) -> None: ...

    async def close(self, name: str) -> None: ...


class OtherParts:
    """Edge hub, logs and bundles of the daemon, which these tests do without."""

    def module(self) -> Module:
        return Module(name="edgeHub", status=Status.RUNNING, description="running")

    async def use(self, env: Mapping[str, str]) -> None: ...

    async def restart(self) -> None: ...

    async def logs(self, name: str, wanted: LogRange) -> AsyncIterator[LogChunk]:
        yield LogChunk(1, f"{name}\n".encode())

    async def make(
        self, since: datetime | None, until: datetime | None, *, runtime_only: bool
    ) -> Path:
        raise OSError("no bundles here")


class EdgeDevice:
    """A device identity of an instance, and what runs on the device.

    Attributes:
        device_id: of it.
        engines: module runtimes; one of processes unless others are made.
        agent: while it runs.
        refusals: what the hub has said where it refused the device.
    """

    def __init__(
        self,
        instance: Instance,
        home: Path,
        tags: dict[str, Any] | None = None,
        make_engines: Callable[[], Sequence[Engine]] | None = None,
    ) -> None:
        self._make_engines = make_engines or (lambda: (ProcessEngine(home / "modules"),))
        self.instance = instance
        self.home = home
        self.device_id = unique("edge")
        self._key = new_key()
        hub = instance.hub()
        hub.must(
            "PUT",
            f"/devices/{self.device_id}",
            {
                "deviceId": self.device_id,
                "capabilities": {"iotEdge": True},
                "authentication": authentication(self._key, new_key()),
            },
        )
        if tags:
            hub.must("PATCH", f"/twins/{self.device_id}", {"tags": tags})
        self.engines: Sequence[Engine] = ()
        self.agent: Agent | None = None
        self.refusals: list[str] = []
        self._hub: Hub | None = None

    async def start(self, where: Gateway | None = None) -> None:
        """Start the agent; `where` leads it elsewhere than to the instance."""
        instance, clock, randomness = self.instance, SystemClock(), Randomness()
        device = DeviceIdentity(
            hub_host=instance.place.hubs[0],
            device_id=self.device_id,
            key=base64.b64decode(self._key),
        )
        settings = Settings(
            source=self.home / "config.toml",
            provisioning=None,
            hostname="gate",
            home=self.home,
            trust_bundle=instance.ca_file,
        )
        state = StateDirectory(self.home)
        self._hub = Hub(
            device,
            trust_bundle=instance.ca_file,
            parent_hostname=None,
            upstream_protocol=None,
            time=HubTime(clock),
            randomness=randomness,
            environment={},
            gateway=where or gateway(instance),
        )
        hub = self._hub
        identities = RememberedModules(
            device,
            hub.modules(),
            state=state,
            master_key=state.master_key(randomness),
            refused=self.refusals.append,
        )
        self.engines = self._make_engines()
        for engine in self.engines:
            await engine.start_up()
        own = await identities.ensure(AGENT)
        parts = OtherParts()
        self.agent = Agent(
            settings,
            device,
            Surroundings(
                engines=self.engines,
                locks=ModuleLocks(),
                identities=identities,
                workload=Sockets(self.home / "mnt"),
                hub=parts,
                own_logs=parts,
                bundles=parts,
                connect=lambda owner: hub.module_session(own, owner),
                restart=lambda: None,
                refused=self.refusals.append,
                clock=clock,
                randomness=randomness,
            ),
        )
        await self.agent.start()

    async def stop(self) -> None:
        """End the agent in good order; modules go on."""
        agent, self.agent = self.agent, None
        if agent is not None:
            await agent.close()
        if self._hub is not None:
            await self._hub.close()
        for engine in self.engines:
            await engine.close()

    async def end(self) -> None:
        """End it all, modules too."""
        await self.stop()
        for engine in self.engines:
            for module in await engine.modules():
                await engine.remove(module.name)
            await engine.close()

    @staticmethod
    def nowhere() -> Gateway:
        """Return where no hub is."""
        return Gateway(host="hub.invalid", https_port=9, mqtt_port=9, address="127.0.0.1")

    # What the hub and the device say.

    async def twin(self) -> dict[str, Any]:
        """Return the twin of `$edgeAgent` as services see it."""
        path = f"/twins/{self.device_id}/modules/$edgeAgent"
        return await asyncio.to_thread(self.instance.hub().must, "GET", path)  # type: ignore[no-any-return]

    async def running(self) -> set[str]:
        """Return the names of the modules that run."""
        return {
            module.name
            for engine in self.engines
            for module in await engine.modules()
            if module.status is Status.RUNNING
        }


# What tests do with one.


def content(
    modules: dict[str, Any], registries: dict[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Return `modulesContent` with these modules and credentials."""
    runtime = {"minDockerVersion": "v1.25", "registryCredentials": registries or {}}
    agent = {
        "schemaVersion": "1.1",
        "runtime": {"type": "docker", "settings": runtime},
        "systemModules": {
            "edgeAgent": {"type": "docker", "settings": {"image": "agent:1"}},
            "edgeHub": {"type": "docker", "status": "running", "settings": {"image": "hub:1"}},
        },
        "modules": modules,
    }
    hub = {
        "schemaVersion": "1.1",
        "routes": {},
        "storeAndForwardConfiguration": {"timeToLiveSecs": 7200},
    }
    return {
        "$edgeAgent": {"properties.desired": agent},
        "$edgeHub": {"properties.desired": hub},
    }


async def apply(
    manager: IoTHubConfigurationManager,
    device: EdgeDevice,
    modules: dict[str, Any],
    registries: dict[str, Any] | None = None,
) -> None:
    """Deploy to one device, by the official client."""
    wanted = ConfigurationContent(modules_content=content(modules, registries))
    await asyncio.to_thread(manager.apply_configuration_on_edge_device, device.device_id, wanted)


async def reported(device: EdgeDevice, is_it: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Return the reported properties of the agent when they are so, with what is desired."""
    found: dict[str, Any] = {}
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                twin = await device.twin()
                found = twin["properties"]["reported"]
                if is_it(found):
                    return {**found, "desired": twin["properties"]["desired"]}
                await asyncio.sleep(0.05)
    except TimeoutError:
        found.pop("$metadata", None)
        pytest.fail(f"the hub still has {json.dumps(found)}")


async def running(device: EdgeDevice, names: set[str]) -> None:
    """Wait until these modules run, and no others."""
    async with asyncio.timeout(PATIENCE_S):
        while await device.running() != names:  # noqa: ASYNC110 - processes tell nobody
            await asyncio.sleep(0.05)


def came(code: int, *modules: str) -> Callable[[dict[str, Any]], bool]:
    """Ask for a status and the names of running modules."""

    def is_it(found: dict[str, Any]) -> bool:
        running = {
            name
            for name, module in found.get("modules", {}).items()
            if module["runtimeStatus"] == "running"
        }
        return found.get("lastDesiredStatus", {}).get("code") == code and running == set(modules)

    return is_it
