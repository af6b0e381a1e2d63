"""Container modules under a real daemon: Docker Engine, registry, and the official SDK inside."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from support.device import unique
from support.docker import PASSWORD, USER, DockerHost, Registry
from support.edge_daemon import EdgeDaemon, deploy
from support.engines import docker_host, docker_session, registry
from support.events import events_of
from support.instance import Instance
from support.run import Run

__all__ = ["docker_host", "docker_session", "registry"]
pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.timeout(300)]

MOST_MEMORY = 60_000_000
SENDER = """\
import json, os, time
from azure.iot.device import IoTHubModuleClient, Message
client = IoTHubModuleClient.create_from_edge_environment()
client.connect()
client.send_message_to_output(Message(json.dumps({"from": os.environ["IOTEDGE_MODULEID"]})), "out")
print("sent", flush=True)
while True:
    time.sleep(60)
"""
# Speaks for another module over the socket that this one is given.
IMPOSTOR = """\
import http.client, os, socket, time
c = http.client.HTTPConnection("x")
c.sock = socket.socket(socket.AF_UNIX)
c.sock.connect(os.environ["IOTEDGE_WORKLOADURI"][len("unix://"):])
c.request("POST", "/modules/sender/genid/1/sign?api-version=2018-06-28", '{"data": ""}')
print("answer", c.getresponse().status, flush=True)
while True:
    time.sleep(60)
"""


@pytest.fixture
def daemon(
    shared_instance: Instance,
    docker_host: DockerHost,
) -> Iterator[EdgeDaemon]:
    if shared_instance.place.why_not_official is not None:
        pytest.skip(shared_instance.place.why_not_official)
    run = Run.current()
    number = run.next_number() % 250
    net = f"10.{50 + run.slot % 40}.{number}"
    network = (
        f'[moby_runtime.network]\nname = "edge-{number}"\n'
        f'ipam = {{ config = [ {{ subnet = "{net}.0/24", gateway = "{net}.1" }} ] }}\n'
    )
    with EdgeDaemon(
        shared_instance,
        docker_host.uri,
        address=f"{net}.1",
        hostname="gateway.muster.test",
        network=network,
    ) as made:
        yield made


def _module(image: str, script: str) -> dict[str, object]:
    return {
        "type": "docker",
        "status": "running",
        "restartPolicy": "always",
        "settings": {
            "image": image,
            "createOptions": json.dumps({"Cmd": ["python3", "-c", script]}),
        },
    }


def _up(daemon: EdgeDaemon, instance: Instance) -> str:
    """Bring a device up, and return its ID."""
    device_id = unique("edge")
    key, _ = instance.dps.enroll(
        device_id,
        capabilities={"iotEdge": True},
        iotHubs=[instance.place.hubs[0]],
        allocationPolicy="hashed",
    )
    daemon.configure(device_id, key)
    daemon.start()
    daemon.wait(lambda: daemon.status("edgeHub") == "running", "the identity")
    return device_id


def test_the_daemon_stays_small_beside_containers(
    daemon: EdgeDaemon,
    shared_instance: Instance,
    registry: Registry,
) -> None:
    """At most 60 MB of resident memory with two modules, which includes its whole start."""
    device_id = _up(daemon, shared_instance)
    image = registry.base
    deploy(
        shared_instance,
        device_id,
        {name: _module(image, "import time; time.sleep(3600)") for name in ("one", "two")},
        registries={"r": {"address": registry.address, "username": USER, "password": PASSWORD}},
    )

    def settled() -> bool:
        path = f"/twins/{device_id}/modules/$edgeAgent"
        reported = shared_instance.hub().must("GET", path)["properties"]["reported"]
        modules = reported.get("modules", {}).values()
        return [one["runtimeStatus"] for one in modules] == ["running", "running"]

    daemon.wait(settled, "two running modules")
    print(f"resident: {daemon.resident() / 1e6:.1f} MB")
    assert daemon.resident() <= MOST_MEMORY
    assert daemon.end(signal.SIGTERM) == 0


def test_containers_send_and_cannot_speak_for_each_other(
    daemon: EdgeDaemon,
    shared_instance: Instance,
    registry: Registry,
) -> None:
    device_id = _up(daemon, shared_instance)
    image = registry.base
    deploy(
        shared_instance,
        device_id,
        {"sender": _module(image, SENDER), "impostor": _module(image, IMPOSTOR)},
        registries={"r": {"address": registry.address, "username": USER, "password": PASSWORD}},
    )
    (event,) = events_of(shared_instance, device_id, 1)
    assert "sender" in json.dumps(event)
    daemon.wait(
        lambda: "answer 403" in daemon.iotedge("logs", "impostor").stdout, "the impostor's answer"
    )
    listed = daemon.iotedge("list").stdout
    assert image in listed
    assert PASSWORD not in daemon.log_text()
    # The daemon is killed, and containers and their sockets are there when it comes again.
    daemon.end(signal.SIGKILL)
    daemon.start()
    daemon.wait(lambda: daemon.status("sender") == "running", "the module")
    assert daemon.end(signal.SIGTERM) == 0
