"""A whole edge device, looked at from afar: metrics as a scraper reads them, direct methods."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from support.device import unique
from support.edge_daemon import EdgeDaemon, deploy, process

if TYPE_CHECKING:
    from support.instance import Instance

pytestmark = pytest.mark.timeout(240)


class Device:
    """A device with one module that runs."""

    def __init__(self, instance: Instance, daemon: EdgeDaemon) -> None:
        self.device_id = unique("edge")
        self.daemon = daemon
        self.hub = instance.hub()
        key, _ = instance.dps.enroll(
            self.device_id,
            capabilities={"iotEdge": True},
            iotHubs=[instance.place.hubs[0]],
            allocationPolicy="hashed",
        )
        env = f'\n[agent.env]\nmetrics__listener__host = "{daemon.address}"\n'
        daemon.configure(self.device_id, key, more=env)
        daemon.start()
        daemon.wait(lambda: daemon.status("edgeAgent") == "running", "an identity")
        script = "echo awake; exec sleep 3600"
        deploy(instance, self.device_id, {"sleeper": process("sh", "-c", script)})
        daemon.wait(lambda: daemon.status("sleeper") == "running", "the module")

    def metrics(self) -> str:
        url = f"http://{self.daemon.address}:9600/metrics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            return str(answer.read().decode())

    def values(self, name: str, label: str = "") -> list[float]:
        """Return what a scraper reads of one metric, with or without `edgeAgent_`."""
        starts = (f"{name}{{", f"edgeAgent_{name}{{")
        lines = [line for line in self.metrics().splitlines() if line.startswith(starts)]
        return [float(line.rpartition(" ")[2]) for line in lines if label in line]

    def call(self, name: str, payload: Any) -> tuple[int, Any]:
        answer = self.hub.must(
            "POST",
            f"/twins/{self.device_id}/modules/$edgeAgent/methods",
            {"methodName": name, "payload": payload, "responseTimeoutInSeconds": 60},
        )
        return answer["status"], answer["payload"]


@pytest.fixture
def device(shared_instance: Instance) -> Iterator[Device]:
    if shared_instance.place.why_not_official is not None:
        pytest.skip(shared_instance.place.why_not_official)
    with EdgeDaemon(shared_instance) as daemon:
        yield Device(shared_instance, daemon)


def test_what_its_modules_do(device: Device) -> None:
    device.daemon.wait(lambda: device.values("deployment_time_seconds_count") > [0.0], "its end")
    lines = [line for line in device.metrics().splitlines() if 'module_name="sleeper"' in line]
    assert any(line.startswith("edgeAgent_module_start_total{") for line in lines)
    assert all(f'edge_device="{device.device_id}"' in line for line in lines)
    for module in ("sleeper", "edgeAgent"):
        (used,) = device.values("used_memory_bytes", f'module_name="{module}"')
        assert used > 0
    (host,) = device.values("total_memory_bytes", 'module_name="host"')
    assert host > used
    for name in ("host_uptime_seconds", "iotedged_uptime_seconds", "module_prepare_update_total"):
        assert device.values(name), name
    (sleeps,) = device.values("created_pids_total", 'module_name="sleeper"')
    assert sleeps == 1
    # Of the processor there is a share from the second time on.
    assert device.values("used_cpu_percent_count", 'module_name="sleeper"')
    assert device.values("edgehub_offline_count_total") == [0.0]
    hub = [line for line in device.metrics().splitlines() if line.startswith("edgehub_")]
    assert any(line.startswith("edgehub_connected_clients{") for line in hub)
    assert all(f'edge_device="{device.device_id}"' in line for line in hub)


def test_what_its_modules_and_the_device_itself_have_written(device: Device) -> None:
    logs: dict[str, str] = {}

    def are_there() -> bool:
        payload = {"schemaVersion": "1.0", "items": {"id": "all", "filter": {"tail": 200}}}
        status, answer = device.call("GetModuleLogs", payload)
        assert status == 200, answer
        logs.update({each["id"]: each["payload"] for each in answer})
        return "awake" in logs["sleeper"]

    device.daemon.wait(are_there, "the module's words")
    assert set(logs) == {"edgeAgent", "edgeHub", "sleeper"}
    assert "provisioned" in logs["edgeAgent"]


def test_restarts(device: Device) -> None:
    for name in ("sleeper", "edgeHub"):
        assert device.call("RestartModule", {"schemaVersion": "1.0", "id": name}) == (200, None)
        device.daemon.wait(lambda name=name: device.daemon.status(name) == "running", name)


def test_a_restart_of_the_agent(device: Device) -> None:
    def started() -> str:
        twin = device.hub.must("GET", f"/twins/{device.device_id}/modules/$edgeAgent")
        reported = twin["properties"]["reported"]
        if reported["lastDesiredStatus"]["code"] != 200:
            return ""
        return str(reported["systemModules"]["edgeAgent"]["lastStartTimeUtc"])

    device.daemon.wait(started, "the deployment")
    before, hub = started(), device.daemon.log_text().count('"event": "listening"')
    call = {"schemaVersion": "1.0", "id": "edgeAgent"}
    assert device.call("RestartModule", call) == (200, None)
    device.daemon.wait(lambda: started() not in {"", before}, "another agent")
    assert device.call("ping", None) == (200, None)
    # Nobody else was touched.
    assert device.daemon.log_text().count('"event": "listening"') == hub
    assert '"step": "restart"' not in device.daemon.log_text()
