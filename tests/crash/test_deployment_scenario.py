"""A fleet of simulated agents through the life of its deployments, a kill -9 in the middle of one.

By tag, layered, priority, rollback, a device that joins late, one that changes its tag; the counts
are asked of the service, what is deployed of every agent's twin.

`MUSTER_TEST_AGENTS` says how many; 10,000 are the measure, in the suite there are fewer.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from support.instance import MUSTER
from support.secrets import CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.instance import Instance

COUNT: Final = int(os.environ.get("MUSTER_TEST_AGENTS", "60"))
PATIENCE_S: Final = 60.0 + COUNT / 20
PAGE: Final = {"x-ms-max-item-count": "1000"}
AGENTS: Final = "SELECT * FROM devices.modules WHERE moduleId = '$edgeAgent'"
SITE: Final = "tags.site = 'a'"

pytestmark = pytest.mark.timeout(10 * PATIENCE_S)


@pytest.fixture
def instance(new_instance: Callable[..., Instance]) -> Instance:
    return new_instance()


@pytest.fixture
def fleet(instance: Instance) -> Iterator[list[str]]:
    """Return the IDs of edge devices whose agents are connected and stay so."""
    host = instance.place.hubs[0]
    instance.dps.enroll_group(
        "agents",
        capabilities={"iotEdge": True},
        allocationPolicy="static",
        iotHubs=[host],
        initialTwin={"tags": {"site": "a"}},
    )
    process = subprocess.Popen(
        [
            *(MUSTER, "fleet", "simulate", "--data-dir", instance.data_dir, "--group", "agents"),
            *("--count", str(COUNT), "--edge", "--rate", "0", "--report-every", "0"),
            *("--prefix", "agent-", "--json", "--every", "0.2"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    connected = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["states"].get("connected", 0) == COUNT:
                connected.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert connected.wait(PATIENCE_S), "the simulated agents do not connect"
        yield sorted(agents(instance))
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


def test_the_life_of_deployments(instance: Instance, fleet: list[str]) -> None:
    hub = instance.hub()
    assert len(fleet) == COUNT

    # By tag.
    deploy(instance, "v1", base("thermo:1"), SITE, 1)
    settled(instance, "v1", targeted=COUNT, applied=COUNT, succeeded=COUNT)
    assert images(instance, fleet) == {"thermo:1"}

    # Layered: ten devices get a module more.
    debugged = fleet[:10]
    layer = {"properties.desired.modules.debug": module("debug:1")}
    deploy(instance, "debug", {"$edgeAgent": layer}, f"{SITE} AND tags.debug = true", 5)
    for device_id in debugged:
        tag(instance, device_id, debug=True)
    settled(instance, "debug", targeted=10, applied=10, succeeded=10)
    assert images(instance, debugged, "debug") == {"debug:1"}
    assert images(instance, fleet[10:], "debug") == {None}
    settled(instance, "v1", targeted=COUNT, applied=COUNT, succeeded=COUNT)

    # A higher priority takes over, the layer stays on top.
    deploy(instance, "v2", base("thermo:2"), SITE, 2)
    settled(instance, "v2", targeted=COUNT, applied=COUNT, succeeded=COUNT)
    settled(instance, "v1", targeted=COUNT, applied=0, succeeded=0)
    assert images(instance, fleet) == {"thermo:2"}
    assert images(instance, debugged, "debug") == {"debug:1"}

    # Rolled back.
    hub.must("DELETE", "/configurations/v2", if_match="*")
    settled(instance, "v1", targeted=COUNT, applied=COUNT, succeeded=COUNT)
    assert images(instance, fleet) == {"thermo:1"}

    # One joins late, one changes its tag.
    hub.must("PUT", "/devices/late", {"capabilities": {"iotEdge": True}})
    tag(instance, "late", site="a")
    settled(instance, "v1", targeted=COUNT + 1, applied=COUNT + 1, succeeded=COUNT)
    tag(instance, "late", site="b")
    settled(instance, "v1", targeted=COUNT, applied=COUNT, succeeded=COUNT)

    # Killed in the middle of a rollout.
    deploy(instance, "v3", base("thermo:3"), SITE, 3)
    instance.kill9()
    instance.start()
    settled(instance, "v3", targeted=COUNT, applied=COUNT, succeeded=COUNT)
    assert images(instance, fleet) == {"thermo:3"}
    before = versions(instance, fleet)
    # What is so is not written again.
    hub.must("PATCH", f"/twins/{fleet[0]}", {"tags": {"note": "x"}})
    settled(instance, "v3", targeted=COUNT, applied=COUNT, succeeded=COUNT)
    assert versions(instance, fleet) == before


def base(image: str) -> dict[str, Any]:
    desired = {
        "schemaVersion": "1.1",
        "runtime": {"type": "docker", "settings": {}},
        "systemModules": {"edgeAgent": {"settings": {}}, "edgeHub": {"settings": {}}},
        "modules": {"thermo": module(image)},
    }
    return {"$edgeAgent": {"properties.desired": desired}}


def module(image: str) -> dict[str, Any]:
    return {"type": "docker", "settings": {"image": image}}


def deploy(
    instance: Instance, name: str, modules: dict[str, Any], condition: str, priority: int
) -> None:
    content = {"modulesContent": modules}
    body = {"id": name, "content": content, "targetCondition": condition, "priority": priority}
    instance.hub().must("PUT", f"/configurations/{name}", body)


def tag(instance: Instance, device_id: str, **tags: Any) -> None:
    instance.hub().must("PATCH", f"/twins/{device_id}", {"tags": tags})


def settled(instance: Instance, name: str, **wanted: int) -> None:
    """Wait until the counts of a deployment are these."""
    names = {
        "targeted": "targetedCount",
        "applied": "appliedCount",
        "succeeded": "reportedSuccessfulCount",
    }
    end = CLOCK.monotonic() + PATIENCE_S
    while True:
        found = instance.hub().must("GET", f"/configurations/{name}")["systemMetrics"]["results"]
        seen = {word: found[names[word]] for word in wanted}
        if seen == wanted:
            return
        assert CLOCK.monotonic() < end, f"{name}: {seen}, not {wanted}"
        time.sleep(0.1)


def agents(instance: Instance) -> dict[str, dict[str, Any]]:
    """Return the `$edgeAgent` twin of every device, by device ID."""
    found: dict[str, dict[str, Any]] = {}
    headers = dict(PAGE)
    while True:
        reply = instance.hub().call("POST", "/devices/query", {"query": AGENTS}, headers=headers)
        assert reply.status == 200, reply.body
        found |= {twin["deviceId"]: twin for twin in reply.json}
        continuation = reply.headers.get("x-ms-continuation")
        if not continuation:
            return found
        headers["x-ms-continuation"] = continuation


def versions(instance: Instance, devices: list[str]) -> dict[str, int]:
    found = agents(instance)
    return {device_id: found[device_id]["version"] for device_id in devices}


def images(instance: Instance, devices: list[str], name: str = "thermo") -> set[str | None]:
    """Return the images devices are to run for a module."""
    twins = agents(instance)
    found = set()
    for device_id in devices:
        modules = twins[device_id]["properties"]["desired"]["modules"]
        found.add(modules[name]["settings"]["image"] if name in modules else None)
    return found
