"""The second half of `muster demo`: an edge device runs modules, also when its line is cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from muster.cli.demo_fleet import GATEWAY
from muster.cli.demo_link import Link
from muster.edge.engine.engine_api import ApiError, EngineApi

if TYPE_CHECKING:
    from muster.cli.demo_stage import Stage

_DEPLOYMENT: Final = "counting"
_PROCESS: Final = "counter"
_CONTAINER: Final = "boxed-counter"
_NEARBY: Final = "127.0.0.2"
"""Where the edge hub listens when no container has to reach it; the service has 127.0.0.1."""
_NETWORK: Final = "muster-demo"
_PATIENCE_S: Final = 120.0
_CUT_S: Final = 8.0


class Containers(msgspec.Struct, frozen=True, kw_only=True):
    """A Docker Engine for the demo.

    Attributes:
        engine: URI of its socket.
        image: with Python and the official SDK, already there.
    """

    engine: str
    image: str


class _Edge:
    """The edge device, as its owner handles it."""

    def __init__(self, stage: Stage, containers: Containers | None, address: str) -> None:
        self._stage = stage
        self.containers = containers
        self._address = address
        self._config = stage.directory / "config.toml"
        self._management = f"unix://{stage.directory}/mgmt.sock"
        self.modules = (_PROCESS,) if containers is None else (_PROCESS, _CONTAINER)

    def iotedge(self, *arguments: str, show: bool = True) -> str:
        if show:
            self._stage.show("iotedge", *arguments)
        printed = self._stage.run("iotedge", "-H", self._management, *arguments, show=False)
        if show:
            self._stage.console.print(printed.rstrip(), markup=False, soft_wrap=True)
        return printed

    def configure(self, info: dict[str, Any], key: str) -> None:
        shown = [
            *("config", "dps", "--id-scope", info["idScope"], "--registration-id", GATEWAY),
            *("--symmetric-key", "-", "--endpoint", f"https://{info['dpsHost']}"),
            *("--trust", info["caFile"]),
        ]
        self._stage.show("iotedge", *shown)
        self._stage.run(
            "iotedge",
            *(*shown, "--hostname", self._address, "-o", str(self._config)),
            show=False,
            said=f"{key}\n",
        )
        # What makes it a guest of this machine: a device of its own needs none of it.
        directory, text = self._stage.directory, self._config.read_text()
        self._config.write_text(
            f'homedir = "{directory}/edge"\n{text}\n'
            '[agent.env]\nUpstreamProtocol = "MqttWs"\n'
            f'[listen]\nmanagement_uri = "{self._management}"\n'
            f'workload_uri = "unix://{directory}/workload.sock"\n'
            f'[edge_hub]\naddress = "{self._address}"\n'
            + (
                ""
                if self.containers is None
                else f'[moby_runtime]\nuri = "{self.containers.engine}"\nnetwork = "{_NETWORK}"\n'
            )
        )

    def start(self, link: Link) -> None:
        self._stage.show("iotedged")
        alive = self._stage.start(
            *("iotedged", "-c", str(self._config)),
            environment={"https_proxy": link.url, "no_proxy": ""},
        )
        self._stage.wait(
            "The edge runtime does not come up",
            "iotedged",
            lambda: self._lists("edgeHub"),
            _PATIENCE_S,
            alive,
        )

    def _lists(self, *modules: str) -> bool:
        with contextlib.suppress(click.ClickException):
            lines = self.iotedge("list", show=False).splitlines()
            running = {line.split()[0] for line in lines if line.split()[1:2] == ["running"]}
            return running.issuperset(modules)
        return False

    def wait_for_modules(self) -> None:
        self._stage.wait(
            "The modules do not run",
            "iotedged",
            lambda: self._lists(*self.modules) and all(map(self.sent, self.modules)),
            _PATIENCE_S,
        )

    def sent(self, module: str) -> int:
        """Return the number that a module has sent last, by its log."""
        lines = self.iotedge("logs", module, "--tail", "1", show=False).split()
        return int(lines[-1]) if lines[-2:-1] == ["sent"] else 0


def show_edge(
    stage: Stage, info: dict[str, Any], key: str, containers: Containers | None, https_port: int
) -> None:
    """Show it.

    Args:
        stage: see there.
        info: what `muster info --json` says.
        key: of `GATEWAY`.
        containers: `None` to show a process module only.
        https_port: of the service.

    Raises:
        click.ClickException: something does not work.
    """
    with Link(https_port) as link, contextlib.ExitStack() as stack:
        address = _NEARBY
        if containers is not None:
            address = asyncio.run(_make_network(containers.engine))
            stack.callback(lambda: asyncio.run(_clean_up(containers.engine)))
        edge = _Edge(stage, containers, address)
        try:
            _show(stage, edge, link, info, key)
        finally:
            stage.stop_last("iotedged")


def _show(
    stage: Stage,
    edge: _Edge,
    link: Link,
    info: dict[str, Any],
    key: str,
) -> None:
    stage.say(f"{GATEWAY} gets the edge runtime: one command to configure it, one to run it")
    edge.configure(info, key)
    edge.start(link)
    edge.iotedge("list")

    stage.say("Modules for all edge devices of line 7, by their tags")
    manifest = stage.directory / "manifest.json"
    manifest.write_text(json.dumps(_manifest(edge.containers), indent=2))
    for name in edge.modules:
        stage.note(
            f"{name}: the official SDK in a {'process' if name == _PROCESS else 'container'}"
        )
    create = ["deployment", "create", _DEPLOYMENT, "--target", "tags.line = 7"]
    stage.show("muster", *create, "--content", "@manifest.json")
    stage.muster(*create, "--content", f"@{manifest}", show=False)
    edge.wait_for_modules()
    edge.iotedge("list")
    _wait_for_success(stage)

    stage.say("What the modules say arrives at the service, by way of the edge hub")
    stage.muster("events", "tail", "--device-id", GATEWAY, "--count", "4", "--timeout", "60")

    stage.say("The line to the device is cut; its modules go on")
    link.cut()
    at_cut = {name: edge.sent(name) for name in edge.modules}
    time.sleep(_CUT_S)
    edge.iotedge("list")
    at_end = {name: edge.sent(name) for name in edge.modules}
    for name in edge.modules:
        stage.note(f"{name} has sent {at_end[name] - at_cut[name]} messages meanwhile")

    stage.say("The line is back: everything that waited on the device's disk arrives, in order")
    link.restore()
    arrived = _until_arrived(stage, at_end)
    for name in edge.modules:
        numbers = arrived[name]
        lost = at_end[name] - len(set(range(1, at_end[name] + 1)) & set(numbers))
        again = sum(count - 1 for count in Counter(numbers).values())
        stage.note(f"{name}: 1 to {max(numbers)} have arrived, {lost} lost, {again} more than once")
        if lost:
            raise click.ClickException(f"Messages of {name} were lost")


def _wait_for_success(stage: Stage) -> None:
    """Wait for this device: the others of the fleet have no runtime, and stay as they are."""

    def succeeded() -> bool:
        shown = json.loads(stage.muster("deployment", "show", _DEPLOYMENT, "--json", show=False))
        results = shown["systemMetrics"]["results"]
        return int(results.get("reportedSuccessfulCount", 0)) >= 1

    stage.wait("The deployment does not succeed", "iotedged", succeeded, _PATIENCE_S)
    stage.muster("deployment", "list")


def _until_arrived(stage: Stage, wanted: dict[str, int]) -> dict[str, list[int]]:
    """Wait until the last number of each module is there; return all numbers of each."""
    arrived: dict[str, list[int]] = {}

    def complete() -> bool:
        arrived.clear()
        tail = ["events", "tail", "--device-id", GATEWAY, "--from", "earliest", "--no-follow"]
        for line in stage.muster(*tail, "--json", show=False).splitlines():
            event = json.loads(line)
            body = event.get("body")
            if isinstance(body, dict) and "number" in body:
                arrived.setdefault(str(event.get("moduleId")), []).append(int(body["number"]))
        return all(max(arrived.get(name, [0])) >= last for name, last in wanted.items())

    stage.wait("The messages do not arrive", "iotedged", complete, _PATIENCE_S)
    return arrived


def _manifest(containers: Containers | None) -> dict[str, Any]:
    program = Path(__file__).with_name("demo_sensor.py")
    modules: dict[str, Any] = {
        _PROCESS: {
            "type": "process",
            "status": "running",
            "restartPolicy": "always",
            "settings": {"command": [sys.executable, "-u", str(program)]},
        }
    }
    if containers is not None:
        options = {"Cmd": ["python3", "-u", "-c", program.read_text()]}
        text = json.dumps(options)
        # A string of a twin has 512 characters at most in deployments (edge.md 5.1).
        chunks = [text[at : at + 512] for at in range(0, len(text), 512)]
        names = ["createOptions", *(f"createOptions{number:02}" for number in range(1, 100))]
        modules[_CONTAINER] = {
            "type": "docker",
            "status": "running",
            "restartPolicy": "always",
            "imagePullPolicy": "never",
            "settings": {"image": containers.image, **dict(zip(names, chunks, strict=False))},
        }
    system = {
        name: {
            "type": "docker",
            "status": "running",
            "restartPolicy": "always",
            "settings": {"image": f"muster/{name}", "createOptions": "{}"},
        }
        for name in ("edgeAgent", "edgeHub")
    }
    return {
        "modulesContent": {
            "$edgeAgent": {
                "properties.desired": {
                    "schemaVersion": "1.1",
                    "runtime": {"type": "docker", "settings": {}},
                    "systemModules": system,
                    "modules": modules,
                }
            },
            "$edgeHub": {
                "properties.desired": {
                    "schemaVersion": "1.1",
                    "routes": {"up": "FROM /messages/* INTO $upstream"},
                    "storeAndForwardConfiguration": {"timeToLiveSecs": 7_200},
                }
            },
        }
    }


async def _make_network(engine: str) -> str:
    """Make the network of the modules; return this machine's address in it."""
    api = EngineApi(engine)
    await api.ask("POST", "/networks/create", body={"Name": _NETWORK, "Driver": "bridge"})
    shown = await api.ask("GET", f"/networks/{_NETWORK}")
    return str(shown["IPAM"]["Config"][0]["Gateway"])


async def _clean_up(engine: str) -> None:
    api = EngineApi(engine)
    with contextlib.suppress(ApiError):
        await api.ask("DELETE", f"/containers/{_CONTAINER}", {"force": "true"})
    await api.ask("DELETE", f"/networks/{_NETWORK}")
