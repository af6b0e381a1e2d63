"""Metrics of a whole edge device, as a scraper reads them."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING

import pytest

from support.device import unique
from support.edge_daemon import EdgeDaemon, deploy, process

if TYPE_CHECKING:
    from support.instance import Instance

pytestmark = pytest.mark.timeout(240)


def test_a_device_tells_what_its_modules_do(shared_instance: Instance) -> None:
    instance = shared_instance
    if instance.place.why_not_official is not None:
        pytest.skip(instance.place.why_not_official)
    device_id = unique("edge")
    hub = instance.place.hubs[0]
    key, _ = instance.dps.enroll(
        device_id,
        capabilities={"iotEdge": True},
        iotHubs=[hub],
        allocationPolicy="hashed",
    )
    with EdgeDaemon(instance) as daemon:
        env = f'\n[agent.env]\nmetrics__listener__host = "{daemon.address}"\n'
        daemon.configure(device_id, key, more=env)
        daemon.start()
        daemon.wait(lambda: daemon.status("edgeAgent") == "running", "an identity")
        deploy(instance, device_id, {"sleeper": process("sleep", "3600")})
        daemon.wait(lambda: daemon.status("sleeper") == "running", "the module")

        def text() -> str:
            url = f"http://{daemon.address}:9600/metrics"
            with urllib.request.urlopen(url, timeout=30) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                return str(answer.read().decode())

        daemon.wait(lambda: "edgeAgent_deployment_time_seconds_count" in text(), "a deployment")
        lines = [line for line in text().splitlines() if 'module_name="sleeper"' in line]
        assert any(line.startswith("edgeAgent_module_start_total{") for line in lines)
        assert all(f'edge_device="{device_id}"' in line for line in lines)
