"""8: how long a deployment takes to reach a fleet: connected agents, and a hundred thousand twins.

Per device, from the hub's own times: the desired properties of each `$edgeAgent` say when they were
written, its reported properties when the agent's answer arrived. Both are counted from the moment
before the deployment was sent.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.load.job import percentiles
from benchmarks.load.meter import cpu_s
from benchmarks.place import CLOCK, BenchmarkError, directory, pinned_client
from benchmarks.report import Row
from benchmarks.service import muster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.service import Caller, Muster

_FLEET: Final = Path(sys.executable).parent / "muster"
_PATIENCE_S: Final = 1_200.0
_AGENT: Final = "FROM devices.modules WHERE moduleId = '$edgeAgent'"
_WRITTEN: Final = "properties.desired.$metadata.$lastUpdated"
_ANSWERED: Final = "properties.reported.$metadata.lastDesiredVersion.$lastUpdated"


def convergence(*, quick: bool) -> list[Row]:
    """Measure deployments over connected agents, tags that change, and many twins."""
    connected, twins = (500, 2_000) if quick else (10_000, 100_000)
    with directory() as work:
        data = work / "data"
        with muster(data) as service, _agents(data, connected):
            rows = [*_deploy(service, connected), _change_tags(service, connected)]
    with directory() as work, muster(work / "data") as service:
        seed(service.hub(), twins)
        rows += _sweep(service, twins)
    return rows


@contextmanager
def _agents(data: Path, count: int) -> Iterator[None]:
    """Run simulated agents, all of them connected, until the block ends."""
    command = [
        *(_FLEET, "fleet", "simulate", "--data-dir", data, "--count", str(count), "--edge"),
        *("--create-group", "agents", "--tags", '{"site": "a"}', "--rate", "0"),
        *("--report-every", "0", "--json"),
    ]
    process = subprocess.Popen(
        pinned_client(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            seen = json.loads(line)
            if seen["states"].get("connected", 0) >= count:
                break
        else:
            assert process.stderr is not None
            raise BenchmarkError(f"the agents ended: {process.stderr.read()[-500:]}")
        yield
    finally:
        process.terminate()
        process.communicate(timeout=120)


def _deploy(service: Muster, count: int) -> list[Row]:
    hub = service.hub()
    used, began = cpu_s([service.process.pid])[0], CLOCK.time()
    _create(hub, "first", "tags.site = 'a'", "thermo:1", 1)
    _wait(hub, "first", "reportedSuccessfulCount", count)
    used = cpu_s([service.process.pid])[0] - used
    times = {name: _delays(hub, path, began) for name, path in _PATHS.items()}
    cost = f"{used / count * 1e6:,.0f} us of server CPU a device, agents' answers included"
    return [
        Row(
            what=f"deployment to {count:,} connected agents, {name}",
            subject="muster",
            value=percentiles(found)["p99"],
            unit="ms p99",
            ratio=percentiles(found)["p99"] / 2_000,
            goal="<= 1",
            details=percentiles(found),
            note=cost if name == "written" else "the goal is two seconds",
        )
        for name, found in times.items()
    ]


_PATHS: Final = {"written": _WRITTEN, "answered by the agent": _ANSWERED}


def _change_tags(service: Muster, count: int) -> Row:
    """Change one device's tag after the other; each moves to another deployment."""
    hub = service.hub()
    _create(hub, "second", "tags.site = 'b'", "thermo:2", 1)
    rows = hub.call("POST", "/devices/query", {"query": "SELECT TOP 200 deviceId FROM devices"})
    delays = []
    for device_id in [row["deviceId"] for row in rows]:
        began = CLOCK.time()
        hub.call("PATCH", f"/twins/{device_id}", {"tags": {"site": "b"}})
        path = f"/twins/{device_id}/modules/$edgeAgent"
        while True:
            twin = hub.call("GET", path)
            if twin["configurations"].get("second"):
                break
        written = twin["properties"]["desired"]["$metadata"]["$lastUpdated"]
        delays.append(_unix(written) - began)
    found = percentiles(delays)
    return Row(
        what=f"a changed tag among {count:,} connected agents, written",
        subject="muster",
        value=found["p99"],
        unit="ms p99",
        details=found,
        note=f"p50 {found['p50']:.1f} ms; {len(delays)} devices, one after the other",
    )


def seed(hub: Caller, count: int) -> None:
    """Make edge devices `twin-000000` and so on, each with the tag `site`."""
    names = [f"twin-{number:06}" for number in range(count)]
    for start in range(0, count, 100):
        some = [
            {
                "id": name,
                "importMode": "create",
                "tags": {"site": "a", "n": number % 50},
                "capabilities": {"iotEdge": True},
            }
            for number, name in enumerate(names[start : start + 100], start)
        ]
        hub.call("POST", "/devices", some)


def _sweep(service: Muster, count: int) -> list[Row]:
    hub, calls = service.hub(), list[float]()
    used, began = cpu_s([service.process.pid])[0], CLOCK.monotonic()
    _create(hub, "wide", "tags.site = 'a'", "thermo:1", 1)
    other = service.hub()
    while True:
        start = CLOCK.monotonic()
        other.call("GET", "/twins/twin-000000")
        calls.append(CLOCK.monotonic() - start)
        if len(calls) % 20 == 0 and _count(hub, "wide", "appliedCount") >= count:
            break
        if CLOCK.monotonic() - began > _PATIENCE_S:
            raise BenchmarkError("the deployment does not reach all twins")
    took = CLOCK.monotonic() - began
    used = cpu_s([service.process.pid])[0] - used
    seen = percentiles(calls)
    return [
        Row(
            what=f"deployment to {count:,} twins",
            subject="muster",
            value=took,
            unit="s",
            rate=count / took,
            note=f"{used / count * 1e6:,.0f} us of server CPU a device",
        ),
        Row(
            what="GET of a twin meanwhile",
            subject="muster",
            value=seen["p99"],
            unit="ms p99",
            details=seen,
            note=f"p50 {seen['p50']:.1f} ms, {len(calls):,} calls",
        ),
    ]


def _create(hub: Caller, name: str, condition: str, image: str, priority: int) -> None:
    agent = {
        "schemaVersion": "1.1",
        "runtime": {"type": "docker", "settings": {"minDockerVersion": "v1.25"}},
        "systemModules": {
            "edgeAgent": {"type": "docker", "settings": {"image": "agent:1"}},
            "edgeHub": {"type": "docker", "settings": {"image": "hub:1"}},
        },
        "modules": {"thermo": {"type": "docker", "settings": {"image": image}}},
    }
    routes = {"schemaVersion": "1.1", "routes": {"up": "FROM /* INTO $upstream"}}
    content = {
        "modulesContent": {
            "$edgeAgent": {"properties.desired": agent},
            "$edgeHub": {"properties.desired": routes},
        }
    }
    body = {"id": name, "content": content, "targetCondition": condition, "priority": priority}
    hub.call("PUT", f"/configurations/{name}", body)


def _count(hub: Caller, name: str, metric: str) -> int:
    found: int = hub.call("GET", f"/configurations/{name}")["systemMetrics"]["results"][metric]
    return found


def _wait(hub: Caller, name: str, metric: str, count: int) -> None:
    end = CLOCK.monotonic() + _PATIENCE_S
    while (found := _count(hub, name, metric)) < count:
        if CLOCK.monotonic() > end:
            raise BenchmarkError(f"{metric} of {name} stays at {found}")
        # Counting costs the service something; the times are in the twins.
        time.sleep(1)


def _delays(hub: Caller, path: str, began: float) -> list[float]:
    """Return the seconds from a moment to a time in the twin of each agent."""
    delays: list[float] = []
    token = ""
    while True:
        rows, headers = hub.exchange(
            *("POST", "/devices/query", {"query": f"SELECT {path} AS at {_AGENT}"}),
            x_ms_max_item_count="1000",
            x_ms_continuation=token,
        )
        delays += [_unix(row["at"]) - began for row in rows if "at" in row]
        token = headers.get("x-ms-continuation", "")
        if not token:
            return delays


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()
